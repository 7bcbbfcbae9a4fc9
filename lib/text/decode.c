/* decode.c: token ids back to text: the decoders of tokenizer.json.
 *
 * Each decoder takes a row of strings and makes another; what is left at the end is joined. A row is one buffer and
 * where each string ends in it.
 */
#include "text/pipeline.h"

typedef struct row {
    peft__buffer bytes;
    size_t *ends;
    size_t count, capacity;
    bool failed;
} row;

static void row_clear(row *r) {
    peft__buffer_clear(&r->bytes);
    r->count = 0;
}

static void row_free(row *r) {
    peft__free(r->bytes.mem, r->ends);
    peft__buffer_free(&r->bytes);
}

static void put(row *r, const char *data, size_t length) {
    r->failed |= !peft__buffer_put(&r->bytes, data, length);
}

static void close(row *r) {
    size_t *ends = peft__grow(r->bytes.mem, r->ends, &r->capacity, r->count + 1, sizeof *ends);
    if (ends == NULL) {
        r->failed = true;
        return;
    }
    r->ends = ends;
    ends[r->count++] = r->bytes.length;
}

static const char *item(const row *r, size_t i, size_t *length) {
    const size_t start = i == 0 ? 0 : r->ends[i - 1];
    *length = r->ends[i] - start;
    return r->bytes.data != NULL ? r->bytes.data + start : "";
}

static bool starts_with(const char *text, size_t length, const char *head, size_t head_length) {
    return length >= head_length && memcmp(text, head, head_length) == 0;
}

/* Tokens of the byte alphabet give their bytes, others themselves; then everything is one text. */
static void decode_byte_level(const row *in, row *out, peft__buffer *scratch) {
    peft__buffer_clear(scratch);
    for (size_t i = 0; i < in->count; i++) {
        size_t length;
        const char *token = item(in, i, &length);
        const size_t mark = scratch->length;
        bool mapped = true;
        for (size_t at = 0, bytes; mapped && at < length; at += bytes) {
            const int byte = peft__char_to_byte(peft__char_at(token + at, length - at, &bytes));
            const char c = (char)byte;
            mapped = byte >= 0;
            if (mapped) peft__buffer_put(scratch, &c, 1);
        }
        if (!mapped) {
            scratch->length = mark;
            peft__buffer_put(scratch, token, length);
        }
    }
    out->failed |= scratch->failed || !peft__put_lossy(&out->bytes, scratch->data, scratch->length);
    close(out);
}

/* Replaces every `from` by `to` in the last, still open string of the row. */
static void replace_open(row *r, size_t start, const char *from, const char *to) {
    const size_t n = strlen(from), m = strlen(to); /* m <= n */
    size_t out = start;
    for (size_t at = start; at < r->bytes.length;) {
        if (r->bytes.length - at >= n && memcmp(r->bytes.data + at, from, n) == 0) {
            memcpy(r->bytes.data + out, to, m);
            out += m;
            at += n;
        } else {
            r->bytes.data[out++] = r->bytes.data[at++];
        }
    }
    r->bytes.length = out;
}

static void cleanup(row *r, size_t start) {
    static const char *const rules[][2] = {{" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
                                           {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
                                           {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    if (r->failed || r->bytes.length == start) return;
    for (size_t i = 0; i < PEFT_COUNT(rules); i++) replace_open(r, start, rules[i][0], rules[i][1]);
}

static void decode_wordpiece(const peft__decoder *decoder, const row *in, row *out) {
    for (size_t i = 0; i < in->count; i++) {
        size_t length;
        const char *token = item(in, i, &length);
        const size_t start = out->bytes.length;
        if (i > 0) {
            if (starts_with(token, length, decoder->text, decoder->text_length)) {
                token += decoder->text_length;
                length -= decoder->text_length;
            } else {
                put(out, " ", 1);
            }
        }
        put(out, token, length);
        if (decoder->cleanup) cleanup(out, start);
        close(out);
    }
}

static void decode_metaspace(const peft__decoder *decoder, const row *in, row *out) {
    const size_t n = decoder->text_length;
    for (size_t i = 0; i < in->count; i++) {
        size_t length;
        const char *token = item(in, i, &length);
        for (size_t at = 0; at < length;) {
            if (n > 0 && starts_with(token + at, length - at, decoder->text, n)) {
                if (i > 0 || !decoder->prepends) put(out, " ", 1);
                at += n;
            } else {
                put(out, token + at++, 1);
            }
        }
        close(out);
    }
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

static int byte_token(const char *token, size_t length) {
    if (length != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>') return -1;
    const int high = hex_digit(token[3]), low = hex_digit(token[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static void flush_bytes(row *out, peft__buffer *run) {
    if (run->length == 0) return;
    if (peft__utf8_valid(run->data, run->length)) {
        put(out, run->data, run->length);
        close(out);
    } else {
        for (size_t i = 0; i < run->length; i++) {
            put(out, "\xEF\xBF\xBD", 3);
            close(out);
        }
    }
    peft__buffer_clear(run);
}

static void decode_byte_fallback(const row *in, row *out, peft__buffer *scratch) {
    peft__buffer_clear(scratch);
    for (size_t i = 0; i < in->count; i++) {
        size_t length;
        const char *token = item(in, i, &length);
        const int byte = byte_token(token, length);
        if (byte >= 0) {
            const char c = (char)byte;
            out->failed |= !peft__buffer_put(scratch, &c, 1);
            continue;
        }
        flush_bytes(out, scratch);
        put(out, token, length);
        close(out);
    }
    flush_bytes(out, scratch);
}

static void decode_strip(const peft__decoder *decoder, const row *in, row *out) {
    const size_t n = decoder->text_length;
    for (size_t i = 0; i < in->count; i++) {
        size_t length;
        const char *token = item(in, i, &length);
        for (size_t k = 0; n > 0 && k < decoder->start && starts_with(token, length, decoder->text, n); k++) {
            token += n;
            length -= n;
        }
        for (size_t k = 0;
             n > 0 && k < decoder->stop && length >= n && memcmp(token + length - n, decoder->text, n) == 0; k++)
            length -= n;
        put(out, token, length);
        close(out);
    }
}

static peft_status replace_all(peft__encoder *encoder, const peft__pattern *pattern, const char *text, size_t length,
                               const char *content, size_t content_length, row *out) {
    size_t done = 0, start = 0;
    while (start <= length) {
        bool found;
        size_t a, b, bytes;
        PEFT_TRY(peft__pattern_next(encoder, pattern, text, length, start, &found, &a, &b));
        if (!found) break;
        put(out, text + done, a - done);
        put(out, content, content_length);
        done = start = b;
        if (a == b) {
            if (a >= length) break;
            peft__char_at(text + a, length - a, &bytes);
            start = a + bytes;
        }
    }
    put(out, text + done, length - done);
    return PEFT_OK;
}

static peft_status decode_replace(peft__encoder *encoder, const peft__decoder *decoder, const row *in, row *out) {
    for (size_t i = 0; i < in->count; i++) {
        size_t length;
        const char *token = item(in, i, &length);
        PEFT_TRY(replace_all(encoder, &decoder->pattern, token, length, decoder->text, decoder->text_length, out));
        close(out);
    }
    return PEFT_OK;
}

/* The suffix ends a word: a space, but not after the last one. */
static peft_status decode_bpe(peft__encoder *encoder, const peft__decoder *decoder, const row *in, row *out) {
    const peft__pattern suffix = {.literal = decoder->text, .literal_length = decoder->text_length};
    for (size_t i = 0; i < in->count; i++) {
        size_t length;
        const char *token = item(in, i, &length);
        PEFT_TRY(replace_all(encoder, &suffix, token, length, " ", i + 1 == in->count ? 0 : 1, out));
        close(out);
    }
    return PEFT_OK;
}

static peft_status decode_ctc(peft__encoder *encoder, const peft__decoder *decoder, const row *in, row *out) {
    const peft__pattern pad = {.literal = decoder->text, .literal_length = decoder->text_length};
    for (size_t i = 0; i < in->count; i++) {
        size_t length, last_length;
        const char *token = item(in, i, &length);
        if (i > 0) {
            const char *last = item(in, i - 1, &last_length);
            if (length == last_length && memcmp(token, last, length) == 0) continue;
        }
        const size_t start = out->bytes.length;
        PEFT_TRY(replace_all(encoder, &pad, token, length, "", 0, out));
        if (decoder->cleanup) {
            cleanup(out, start);
            if (decoder->delimiter_length > 0 && !out->failed) replace_open(out, start, decoder->delimiter, " ");
        }
        if (out->bytes.length > start) close(out);
    }
    return PEFT_OK;
}

static peft_status run(peft__encoder *encoder, const peft__decoder *decoder, const row *in, row *out) {
    switch (decoder->kind) {
    case PEFT__DECODE_BYTE_LEVEL:
        decode_byte_level(in, out, &encoder->bytes);
        return PEFT_OK;
    case PEFT__DECODE_WORDPIECE:
        decode_wordpiece(decoder, in, out);
        return PEFT_OK;
    case PEFT__DECODE_METASPACE:
        decode_metaspace(decoder, in, out);
        return PEFT_OK;
    case PEFT__DECODE_BYTE_FALLBACK:
        decode_byte_fallback(in, out, &encoder->bytes);
        return PEFT_OK;
    case PEFT__DECODE_FUSE:
        put(out, in->bytes.data, in->bytes.length);
        close(out);
        return PEFT_OK;
    case PEFT__DECODE_STRIP:
        decode_strip(decoder, in, out);
        return PEFT_OK;
    case PEFT__DECODE_REPLACE:
        return decode_replace(encoder, decoder, in, out);
    case PEFT__DECODE_BPE:
        return decode_bpe(encoder, decoder, in, out);
    case PEFT__DECODE_CTC:
        return decode_ctc(encoder, decoder, in, out);
    }
    return PEFT_E_INTERNAL;
}

static peft_status decode_rows(peft__encoder *encoder, const int32_t *ids, int64_t count, bool skip_special, row *rows,
                               peft__buffer *out) {
    const peft_tokenizer *tokenizer = encoder->tokenizer;
    row *in = &rows[0], *next = &rows[1];
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= tokenizer->size || tokenizer->tokens[ids[i]].text == NULL)
            return peft__fail(encoder->ctx, PEFT_E_ARG,
                              "token id %d at place %lld: the tokenizer has %zu ids, and not this", ids[i],
                              (long long)i, tokenizer->size);
        const peft__token_text *token = &tokenizer->tokens[ids[i]];
        if (skip_special && token->special) continue;
        put(in, token->shown, token->shown_length);
        close(in);
    }
    for (size_t i = 0; i < tokenizer->decoder_count && !in->failed; i++) {
        row_clear(next);
        PEFT_TRY(run(encoder, &tokenizer->decoders[i], in, next));
        row *swap = in;
        in = next;
        next = swap;
    }
    bool ok = !rows[0].failed && !rows[1].failed;
    for (size_t i = 0; i < in->count && ok; i++) {
        size_t length;
        const char *text = item(in, i, &length);
        if (i > 0 && !tokenizer->has_decoder) ok = peft__buffer_put(out, " ", 1);
        ok = ok && peft__buffer_put(out, text, length);
    }
    ok = ok && peft__buffer_put(out, "", 0);
    return ok ? PEFT_OK : peft__fail_nomem(encoder->ctx, in->bytes.length, "decoded text");
}

peft_status peft__decode(peft_context *ctx, const peft_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                         bool skip_special, peft__buffer *out) {
    peft__encoder encoder = {.ctx = ctx, .tokenizer = tokenizer};
    row rows[2] = {{.failed = false}, {.failed = false}};
    peft__buffer_init(&rows[0].bytes, ctx->mem);
    peft__buffer_init(&rows[1].bytes, ctx->mem);
    peft__buffer_init(&encoder.bytes, ctx->mem);
    peft__buffer_clear(out);
    const peft_status status = decode_rows(&encoder, ids, count, skip_special, rows, out);
    row_free(&rows[0]);
    row_free(&rows[1]);
    peft__buffer_free(&encoder.bytes);
    peft__matcher_free(&encoder.matcher);
    return status;
}
