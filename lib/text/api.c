/* api.c: the public functions of peft/tokenizer.h. */
#include "format/gguf.h"
#include "text/chat.h"
#include "text/pipeline.h"

static peft_status open_file(peft_context *ctx, const char *path, peft_tokenizer **out_tokenizer) {
    peft__source *source;
    PEFT_TRY(peft__source_open_path(ctx, path, &source));
    peft_status status;
    if (peft__gguf_detect(source->data, source->size)) {
        peft__gguf *gguf;
        status = peft__gguf_open_source(ctx, source, &gguf);
        if (status == PEFT_OK) {
            status = peft__tokenizer_from_gguf(ctx, gguf, out_tokenizer);
            peft__gguf_free(gguf);
        }
    } else {
        status = peft__tokenizer_from_json(ctx, source->data, source->size, path, out_tokenizer);
    }
    peft__source_unref(source);
    return status;
}

peft_status peft_tokenizer_open(peft_context *context, const char *path, peft_tokenizer **out_tokenizer) {
    if (context == NULL) return PEFT_E_ARG;
    if (path == NULL || out_tokenizer == NULL) return peft__fail(context, PEFT_E_ARG, "path or out_tokenizer is NULL");
    if (peft__path_is_dir(path)) return peft__tokenizer_from_folder(context, path, out_tokenizer);
    return open_file(context, path, out_tokenizer);
}

peft_status peft_tokenizer_open_memory(peft_context *context, const void *data, size_t size,
                                       peft_tokenizer **out_tokenizer) {
    if (context == NULL) return PEFT_E_ARG;
    if (data == NULL || out_tokenizer == NULL) return peft__fail(context, PEFT_E_ARG, "data or out_tokenizer is NULL");
    return peft__tokenizer_from_json(context, data, size, "memory", out_tokenizer);
}

void peft_tokenizer_close(peft_tokenizer *tokenizer) {
    peft__tokenizer_unref(tokenizer);
}

int32_t peft_tokenizer_size(const peft_tokenizer *tokenizer) {
    return tokenizer == NULL ? 0 : peft__tokenizer_size(tokenizer);
}

int32_t peft_tokenizer_special(const peft_tokenizer *tokenizer, int32_t which) {
    return tokenizer == NULL ? -1 : peft__special_id(tokenizer, which);
}

int32_t peft_tokenizer_token_to_id(const peft_tokenizer *tokenizer, const char *token, size_t length) {
    return tokenizer == NULL || token == NULL ? -1 : peft__token_to_id(tokenizer, token, length);
}

const char *peft_tokenizer_id_to_token(const peft_tokenizer *tokenizer, int32_t id, size_t *out_length) {
    return tokenizer == NULL ? NULL : peft__id_to_token(tokenizer, id, out_length);
}

const char *peft_tokenizer_chat_template(const peft_tokenizer *tokenizer) {
    return tokenizer == NULL ? NULL : peft__tokenizer_chat_template(tokenizer);
}

/* Sets *out_count; is there room for it? A NULL buffer of capacity 0 only asks. */
static peft_status check_room(peft_context *ctx, const void *buffer, uint64_t capacity, uint64_t need,
                              const char *what) {
    if (need <= capacity || (buffer == NULL && capacity == 0)) return PEFT_OK;
    return peft__fail(ctx, PEFT_E_LIMIT, "%llu %s are needed, the buffer holds %llu", (unsigned long long)need, what,
                      (unsigned long long)capacity);
}

peft_status peft_tokenizer_encode(const peft_tokenizer *tokenizer, const char *text, size_t length, uint32_t flags,
                                  int32_t *ids, int64_t capacity, int64_t *out_count) {
    if (tokenizer == NULL) return PEFT_E_ARG;
    peft_context *ctx = tokenizer->ctx;
    if (out_count == NULL || capacity < 0 || (ids == NULL && capacity > 0))
        return peft__fail(ctx, PEFT_E_ARG, "out_count is NULL or the buffer does not fit its capacity");
    peft__encoding encoding;
    peft__encoding_init(&encoding, ctx->mem);
    peft_status status = peft__encode(ctx, tokenizer, text, length, flags, &encoding);
    if (status == PEFT_OK) {
        *out_count = encoding.count;
        status = check_room(ctx, ids, (uint64_t)capacity, (uint64_t)encoding.count, "ids");
        if (status == PEFT_OK && ids != NULL && encoding.count > 0)
            memcpy(ids, encoding.ids, (size_t)encoding.count * sizeof *ids);
    }
    peft__encoding_free(&encoding);
    return status;
}

peft_status peft_tokenizer_encode_pair(const peft_tokenizer *tokenizer, const char *first, size_t first_length,
                                       const char *second, size_t second_length, uint32_t flags, int64_t max_length,
                                       int32_t truncation, peft_token *tokens, int64_t capacity, int64_t *out_count) {
    if (tokenizer == NULL) return PEFT_E_ARG;
    peft_context *ctx = tokenizer->ctx;
    if (out_count == NULL || capacity < 0 || (tokens == NULL && capacity > 0))
        return peft__fail(ctx, PEFT_E_ARG, "out_count is NULL or the buffer does not fit its capacity");
    peft__encoding e;
    peft__encoding_init(&e, ctx->mem);
    peft_status status = peft__encode_pair(ctx, tokenizer, first, first_length, second, second_length, flags,
                                           max_length, truncation, &e);
    if (status == PEFT_OK) {
        *out_count = e.count;
        status = check_room(ctx, tokens, (uint64_t)capacity, (uint64_t)e.count, "tokens");
        for (int64_t i = 0; status == PEFT_OK && tokens != NULL && i < e.count; i++)
            tokens[i] = (peft_token){e.ids[i], e.types[i], e.begin[i], e.end[i], e.special[i], e.source[i]};
    }
    peft__encoding_free(&e);
    return status;
}

peft_status peft_tokenizer_decode(const peft_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                                  int32_t skip_special, char *text, size_t capacity, size_t *out_length) {
    if (tokenizer == NULL) return PEFT_E_ARG;
    peft_context *ctx = tokenizer->ctx;
    if (out_length == NULL || count < 0 || (ids == NULL && count > 0) || (text == NULL && capacity > 0))
        return peft__fail(ctx, PEFT_E_ARG, "ids or out_length is NULL, or the buffer does not fit its capacity");
    peft__buffer out;
    peft__buffer_init(&out, ctx->mem);
    peft_status status = peft__decode(ctx, tokenizer, ids, count, skip_special != 0, &out);
    if (status == PEFT_OK) {
        *out_length = out.length;
        status = check_room(ctx, text, capacity, out.length + 1, "bytes");
        if (status == PEFT_OK && text != NULL) {
            if (out.length > 0) memcpy(text, out.data, out.length);
            text[out.length] = '\0';
        }
    }
    peft__buffer_free(&out);
    return status;
}

peft_status peft_chat_render(const peft_tokenizer *tokenizer, const char *format, const peft_chat_message *messages,
                             size_t count, int32_t add_generation_prompt, char *text, size_t capacity,
                             size_t *out_length, peft_chat_span *spans, size_t span_capacity, size_t *out_span_count) {
    if (tokenizer == NULL) return PEFT_E_ARG;
    peft_context *ctx = tokenizer->ctx;
    if (out_length == NULL || (messages == NULL && count > 0) || (text == NULL && capacity > 0) ||
        (spans == NULL && span_capacity > 0))
        return peft__fail(ctx, PEFT_E_ARG, "messages or out_length is NULL, or a buffer does not fit its capacity");
    peft__chat *chat = NULL;
    PEFT_TRY(peft__chat_create(ctx, tokenizer, format, &chat));
    peft__chat_text out;
    peft__chat_text_init(&out, ctx->mem);
    peft_status status = peft__chat_render(ctx, chat, messages, count, add_generation_prompt != 0, &out);
    if (status == PEFT_OK) {
        *out_length = out.text.length;
        if (out_span_count != NULL) *out_span_count = out.span_count;
        status = check_room(ctx, text, capacity, out.text.length + 1, "bytes");
        if (status == PEFT_OK) status = check_room(ctx, spans, span_capacity, out.span_count, "spans");
        if (status == PEFT_OK && text != NULL) {
            if (out.text.length > 0) memcpy(text, out.text.data, out.text.length);
            text[out.text.length] = '\0';
        }
        for (size_t i = 0; status == PEFT_OK && spans != NULL && i < out.span_count; i++)
            spans[i] = (peft_chat_span){out.spans[i].begin, out.spans[i].end, out.spans[i].message};
    }
    peft__chat_text_free(&out);
    peft__chat_destroy(chat);
    return status;
}
