/* text_stream.c: what can be given out of a text that is still being written.
 *
 * Two things are held back: bytes of a character whose end has not come, and text that may turn out to be the beginning
 * of a stop text. A token's text depends on its neighbours (leading blanks), so the newest tokens are always decoded
 * together with a few before them, and what is new is the difference.
 */
#include "train/text_stream.h"

enum {
    CONTEXT = 5, /* tokens before the newest that are decoded with them */
    PATIENCE = 8 /* tokens to wait for the end of a character; none has more than 4 bytes */
};

static bool ends_incomplete(const peft__buffer *text) {
    return text->length >= 3 && memcmp(text->data + text->length - 3, "\xef\xbf\xbd", 3) == 0;
}

/* Where the first of the stop texts begins, or `length`. */
static size_t find_stop(const peft__text_stream *stream, const char *text, size_t length) {
    for (size_t at = 0; at < length; at++) {
        for (uint32_t i = 0; i < stream->stop_count; i++) {
            const size_t need = strlen(stream->stop[i]);
            if (need > 0 && need <= length - at && memcmp(text + at, stream->stop[i], need) == 0) return at;
        }
    }
    return length;
}

/* Length of the longest end of the text that is the beginning of a stop text. */
static size_t possible_stop(const peft__text_stream *stream, const char *text, size_t length) {
    size_t longest = 0;
    for (uint32_t i = 0; i < stream->stop_count; i++) {
        const size_t need = strlen(stream->stop[i]);
        for (size_t n = peft__min_size(need, length + 1); n-- > longest + 1;)
            if (memcmp(text + length - n, stream->stop[i], n) == 0) longest = n;
    }
    return longest;
}

static void give(peft__text_stream *stream, const char *text, size_t length) {
    if (length == 0 || stream->emit == NULL) return;
    if (stream->emit(stream->user, text, (uint32_t)length) != 0) stream->ended = true;
}

void peft__text_stream_init(peft__text_stream *stream, peft_context *ctx, const peft_tokenizer *tokenizer,
                            int64_t prompt_count) {
    *stream = (peft__text_stream){.ctx = ctx, .tokenizer = tokenizer, .read = prompt_count};
    stream->context = peft__max_i64(0, prompt_count - CONTEXT);
    peft__buffer_init(&stream->before, ctx->mem);
    peft__buffer_init(&stream->all, ctx->mem);
    peft__buffer_init(&stream->held, ctx->mem);
}

void peft__text_stream_free(peft__text_stream *stream) {
    peft__buffer_free(&stream->before);
    peft__buffer_free(&stream->all);
    peft__buffer_free(&stream->held);
}

peft_status peft__text_stream_text(peft__text_stream *stream, const char *text, size_t length, bool last) {
    if (stream->ended) return PEFT_OK;
    if (!peft__buffer_put(&stream->held, text, length)) return peft__fail_nomem(stream->ctx, length, "generated text");
    const char *held = stream->held.data;
    const size_t total = stream->held.length, stop = find_stop(stream, held, total);
    if (stop < total) {
        give(stream, held, stop);
        stream->ended = true;
        return PEFT_OK;
    }
    const size_t keep = last ? 0 : possible_stop(stream, held, total);
    give(stream, held, total - keep);
    if (keep > 0) memmove(stream->held.data, stream->held.data + total - keep, keep);
    stream->held.length = keep;
    if (stream->held.data != NULL) stream->held.data[keep] = '\0';
    return PEFT_OK;
}

peft_status peft__text_stream_put(peft__text_stream *stream, const int32_t *ids, int64_t count, bool last) {
    if (stream->ended) return PEFT_OK;
    if (count > stream->read) {
        const int32_t *from = ids + stream->context;
        PEFT_TRY(
            peft__decode(stream->ctx, stream->tokenizer, from, stream->read - stream->context, true, &stream->before));
        PEFT_TRY(peft__decode(stream->ctx, stream->tokenizer, from, count - stream->context, true, &stream->all));
        if (!last && ends_incomplete(&stream->all) && count - stream->read < PATIENCE) return PEFT_OK;
        size_t same = 0;
        while (same < stream->before.length && same < stream->all.length &&
               stream->before.data[same] == stream->all.data[same])
            same++;
        stream->context = peft__max_i64(stream->read, count - CONTEXT);
        stream->read = count;
        if (same < stream->all.length)
            return peft__text_stream_text(stream, stream->all.data + same, stream->all.length - same, last);
    }
    return last ? peft__text_stream_text(stream, "", 0, true) : PEFT_OK;
}
