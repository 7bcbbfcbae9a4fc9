/* Every line of every fixture: ids, template, decoding, pairs, and what must hold of offsets. */
#include "text_test.h"

typedef struct setup {
    peft_context *ctx;
    peft_tokenizer *tokenizer;
    const char *name;
} setup;

static void check_row(void *user, const json_t *row, int line) {
    setup *s = user;
    const json_t *text = json_object_get(row, "text"), *ids = json_object_get(row, "ids");
    const json_t *decoded = json_object_get(row, "decoded");
    const char *bytes = json_string_value(text);
    const size_t length = json_string_length(text);
    peft__encoding e;
    peft__encoding_init(&e, s->ctx->mem);
    CHECK_OK(s->ctx, peft__encode(s->ctx, s->tokenizer, bytes, length, PEFT_ENCODE_PARSE_SPECIAL, &e));
    if (!CHECK(same_ids(e.ids, e.count, ids))) fprintf(stderr, "    %s line %d\n", s->name, line);
    uint32_t last = 0;
    for (int64_t i = 0; i < e.count; i++) { /* ranges lie in the text, in order, on character boundaries */
        CHECK(e.begin[i] <= e.end[i] && e.end[i] <= length && e.begin[i] >= last && e.special[i] == 0);
        CHECK(e.begin[i] == length || ((unsigned char)bytes[e.begin[i]] & 0xC0) != 0x80);
        CHECK(e.end[i] == length || ((unsigned char)bytes[e.end[i]] & 0xC0) != 0x80);
        last = e.begin[i];
    }
    peft__buffer out;
    peft__buffer_init(&out, s->ctx->mem);
    CHECK_OK(s->ctx, peft__decode(s->ctx, s->tokenizer, e.ids, e.count, false, &out));
    if (!CHECK(out.length == json_string_length(decoded) &&
               (out.length == 0 || memcmp(out.data, json_string_value(decoded), out.length) == 0)))
        fprintf(stderr, "    %s line %d: decoded \"%s\"\n", s->name, line, out.data);
    peft__buffer_free(&out);
    CHECK_OK(s->ctx,
             peft__encode(s->ctx, s->tokenizer, bytes, length, PEFT_ENCODE_PARSE_SPECIAL | PEFT_ENCODE_SPECIAL, &e));
    if (!CHECK(same_ids(e.ids, e.count, json_object_get(row, "with_special"))))
        fprintf(stderr, "    %s line %d\n", s->name, line);
    int64_t added = 0;
    for (int64_t i = 0; i < e.count; i++) added += e.special[i];
    CHECK(added == peft__tokenizer_added(s->tokenizer, false));
    peft__encoding_free(&e);
}

static void check_pair(void *user, const json_t *row, int line) {
    setup *s = user;
    const json_t *text = json_object_get(row, "text"), *pair = json_object_get(row, "pair");
    peft__encoding e;
    peft__encoding_init(&e, s->ctx->mem);
    CHECK_OK(s->ctx, peft__encode_pair(s->ctx, s->tokenizer, json_string_value(text), json_string_length(text),
                                       json_string_value(pair), json_string_length(pair),
                                       PEFT_ENCODE_SPECIAL | PEFT_ENCODE_PARSE_SPECIAL, 0, PEFT_TRUNCATE_NONE, &e));
    if (!CHECK(same_ids(e.ids, e.count, json_object_get(row, "ids"))) ||
        !CHECK(same_ids(e.types, e.count, json_object_get(row, "type_ids"))))
        fprintf(stderr, "    %s pair %d\n", s->name, line);
    peft__encoding_free(&e);
}

/* What is written with byte-level BPE comes back, whatever it is. */
static void check_round_trip(setup *s) {
    static const char *const texts[] = {"", " ", "a\r\n\tb",
                                        "na\xC3\xAFve \xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x92\xBB!",
                                        "\xE4\xBD\xA0\xE5\xA5\xBD  12"};
    for (size_t i = 0; i < PEFT_COUNT(texts); i++) {
        peft__encoding e;
        peft__buffer out;
        peft__encoding_init(&e, s->ctx->mem);
        peft__buffer_init(&out, s->ctx->mem);
        CHECK_OK(s->ctx, peft__encode(s->ctx, s->tokenizer, texts[i], strlen(texts[i]), 0, &e));
        CHECK_OK(s->ctx, peft__decode(s->ctx, s->tokenizer, e.ids, e.count, false, &out));
        CHECK(out.length == strlen(texts[i]) && memcmp(out.data != NULL ? out.data : "", texts[i], out.length) == 0);
        peft__encoding_free(&e);
        peft__buffer_free(&out);
    }
}

int main(void) {
    peft_context *ctx = test_context();
    for (size_t i = 0; i < PEFT_COUNT(fixture_names); i++) {
        setup s = {ctx, open_fixture(ctx, fixture_names[i]), fixture_names[i]};
        CHECK(each_row(s.name, "ids.jsonl", check_row, &s) > 0);
        each_row(s.name, "pairs.jsonl", check_pair, &s);
        if (strncmp(s.name, "bbpe", 4) == 0) check_round_trip(&s);
        for (int32_t id = 0; id < peft__tokenizer_size(s.tokenizer); id++) {
            size_t length;
            const char *token = peft__id_to_token(s.tokenizer, id, &length);
            if (token != NULL) CHECK(peft__token_to_id(s.tokenizer, token, length) == id);
        }
        peft_tokenizer_close(s.tokenizer);
    }
    peft_context_destroy(ctx);
    return check_summary();
}
