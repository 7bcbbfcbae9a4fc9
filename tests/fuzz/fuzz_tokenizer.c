/* tokenizer.json, a NUL, and a text: what opens encodes any text, and decodes what it encoded. Without a NUL the input
 * is a chat template. */
#include "fuzz_format.h"
#include "peft/tokenizer.h"
#include "text/chat.h"
#include "text/tokenizer.h"

static void run_text(peft_context *ctx, const peft_tokenizer *t, const char *text, size_t length) {
    peft__encoding e;
    peft__buffer out;
    peft__encoding_init(&e, ctx->mem);
    peft__buffer_init(&out, ctx->mem);
    for (uint32_t flags = 0; flags < 4; flags++) {
        if (peft__encode(ctx, t, text, length, flags, &e) != PEFT_OK) continue;
        for (int64_t i = 0; i < e.count; i++)
            if (e.ids[i] < 0 || e.ids[i] >= peft__tokenizer_size(t) || e.begin[i] > e.end[i] || e.end[i] > length)
                abort();
        if (peft__decode(ctx, t, e.ids, e.count, flags & 1, &out) == PEFT_OK &&
            !peft__utf8_valid(out.data != NULL ? out.data : "", out.length))
            abort();
    }
    if (length > 2)
        (void)!peft__encode_pair(ctx, t, text, length / 2, text + length / 2, length - length / 2, 3, 7,
                                 (int32_t)(length % 4), &e);
    peft__encoding_free(&e);
    peft__buffer_free(&out);
}

static void run_chat(peft_context *ctx, const char *spec) {
    static const char json[] = "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}, \"unk_token\": \"a\"}}";
    const peft_chat_message messages[] = {
        {"system", "s"}, {"user", "u"}, {"assistant", " <think>x</think> a"}, {"user", ""}};
    peft_tokenizer *t = NULL;
    peft__chat *chat = NULL;
    if (peft__tokenizer_from_json(ctx, json, strlen(json), "json", &t) != PEFT_OK) return;
    if (peft__chat_create(ctx, t, spec, &chat) == PEFT_OK) {
        peft__chat_text text;
        peft__chat_text_init(&text, ctx->mem);
        for (size_t count = 0; count <= 4; count++) {
            if (peft__chat_render(ctx, chat, messages, count, count % 2 == 0, &text) != PEFT_OK) continue;
            for (size_t i = 0; i < text.span_count; i++)
                if (text.spans[i].begin > text.spans[i].end || text.spans[i].end > text.text.length) abort();
        }
        peft__chat_text_free(&text);
        peft__chat_destroy(chat);
    }
    peft__tokenizer_unref(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    peft_context *ctx = fuzz_begin();
    peft_tokenizer *t = NULL;
    const uint8_t *nul = size > 0 ? memchr(data, 0, size) : NULL;
    const size_t json = nul != NULL ? (size_t)(nul - data) : size;
    if (peft__tokenizer_from_json(ctx, data, json, "input", &t) == PEFT_OK) {
        const char *text = nul != NULL ? (const char *)nul + 1 : (const char *)data;
        run_text(ctx, t, text, nul != NULL ? size - json - 1 : size);
        peft__tokenizer_unref(t);
    } else if (nul == NULL) {
        char *spec = malloc(size + 1);
        if (spec == NULL) exit(1);
        if (size > 0) memcpy(spec, data, size);
        spec[size] = '\0';
        run_chat(ctx, spec);
        free(spec);
    }
    fuzz_end(ctx);
    return 0;
}
