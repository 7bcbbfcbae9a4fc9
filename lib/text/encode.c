/* encode.c: the pipeline run over a text, and the template around its result. */
#include "text/pipeline.h"

enum { TEXT_LIMIT = 1 << 30, CACHE_FROM = 4096 };

/* ---- the result ------------------------------------------------------------------------------------------- */

void peft__encoding_init(peft__encoding *encoding, peft__mem *mem) {
    *encoding = (peft__encoding){.mem = mem};
}

void peft__encoding_free(peft__encoding *encoding) {
    peft__free(encoding->mem, encoding->ids);
    peft__free(encoding->mem, encoding->types);
    peft__free(encoding->mem, encoding->begin);
    peft__free(encoding->mem, encoding->end);
    peft__free(encoding->mem, encoding->special);
    peft__free(encoding->mem, encoding->source);
    peft__encoding_init(encoding, encoding->mem);
}

static bool resize(peft__mem *mem, void *array, size_t size, int64_t count) {
    void *old, *grown;
    memcpy(&old, array, sizeof old);
    grown = peft__realloc(mem, old, (size_t)count * size);
    if (grown != NULL) memcpy(array, &grown, sizeof grown);
    return grown != NULL;
}

static bool reserve(peft__encoding *encoding, int64_t more) {
    const int64_t need = encoding->count + more;
    if (need <= encoding->capacity) return true;
    const int64_t want = peft__max_i64(need, encoding->capacity + encoding->capacity / 2 + 32);
    if (!resize(encoding->mem, &encoding->ids, sizeof *encoding->ids, want) ||
        !resize(encoding->mem, &encoding->types, sizeof *encoding->types, want) ||
        !resize(encoding->mem, &encoding->begin, sizeof *encoding->begin, want) ||
        !resize(encoding->mem, &encoding->end, sizeof *encoding->end, want) ||
        !resize(encoding->mem, &encoding->special, 1, want) || !resize(encoding->mem, &encoding->source, 1, want))
        return false;
    encoding->capacity = want;
    return true;
}

/* Room for it was made before. */
static void put(peft__encoding *encoding, int32_t id, int32_t type, uint32_t begin, uint32_t end, bool special,
                uint8_t source) {
    const int64_t at = encoding->count++;
    encoding->ids[at] = id;
    encoding->types[at] = type;
    encoding->begin[at] = begin;
    encoding->end[at] = end;
    encoding->special[at] = special;
    encoding->source[at] = source;
}

peft_status peft__emit(peft__encoder *encoder, int32_t id, size_t from, size_t to) {
    if (!reserve(encoder->out, 1))
        return peft__fail_nomem(encoder->ctx, (size_t)encoder->out->count * sizeof(int32_t), "token ids");
    put(encoder->out, id, 0, encoder->now.begin[from], encoder->now.end[to - 1], false, 0);
    return PEFT_OK;
}

/* ---- one text ------------------------------------------------------------------------------------------------ */

static void encoder_free(peft__encoder *encoder) {
    peft__mem *mem = encoder->ctx->mem;
    peft__pieces_free(&encoder->now);
    peft__pieces_free(&encoder->next);
    peft__matcher_free(&encoder->matcher);
    peft__chars_free(&encoder->chars);
    peft__buffer_free(&encoder->bytes);
    peft__free(mem, encoder->symbols);
    peft__free(mem, encoder->heap);
    peft__free(mem, encoder->steps);
    peft__free(mem, encoder->words);
}

static peft_status check_text(peft_context *ctx, const char *text, size_t length) {
    if (length > TEXT_LIMIT)
        return peft__fail(ctx, PEFT_E_LIMIT, "a text of %zu bytes is longer than %d", length, (int)TEXT_LIMIT);
    if (length > 0 && text == NULL) return peft__fail(ctx, PEFT_E_ARG, "the text is NULL");
    if (length == 0 || peft__utf8_valid(text, length)) return PEFT_OK;
    size_t at = 0, bytes;
    uint32_t c;
    while (at < length && (bytes = peft__utf8_decode(text + at, length - at, &c)) > 0) at += bytes;
    return peft__fail(ctx, PEFT_E_FORMAT, "the text is not valid UTF-8 at byte %zu", at);
}

static void take_text(peft__pieces *pieces, const char *text, size_t length) {
    for (size_t at = 0; at < length;) {
        size_t bytes;
        peft__char_at(text + at, length - at, &bytes);
        peft__pieces_put(pieces, text + at, bytes, (uint32_t)at, (uint32_t)(at + bytes));
        at += bytes;
    }
    peft__pieces_close(pieces, -1);
}

static peft_status run_model(peft__encoder *encoder, const peft__piece *piece) {
    switch (encoder->tokenizer->model.kind) {
    case PEFT__MODEL_BPE:
        return peft__bpe(encoder, piece->from, piece->to);
    case PEFT__MODEL_WORDPIECE:
        return peft__wordpiece(encoder, piece->from, piece->to);
    case PEFT__MODEL_UNIGRAM:
        return peft__unigram(encoder, piece->from, piece->to);
    case PEFT__MODEL_WORDLEVEL:
        return peft__wordlevel(encoder, piece->from, piece->to);
    }
    return PEFT_E_INTERNAL;
}

static peft_status run_stages(peft__encoder *encoder, bool parse_special) {
    const peft_tokenizer *tokenizer = encoder->tokenizer;
    PEFT_TRY(peft__cut_added(encoder, &tokenizer->added_plain, parse_special));
    for (size_t i = 0; i < tokenizer->normalizer_count; i++)
        PEFT_TRY(peft__normalize(encoder, &tokenizer->normalizers[i]));
    PEFT_TRY(peft__cut_added(encoder, &tokenizer->added_normalized, parse_special));
    for (size_t i = 0; i < tokenizer->splitter_count; i++) PEFT_TRY(peft__split(encoder, &tokenizer->splitters[i]));
    for (size_t i = 0; i < encoder->now.count; i++) {
        const peft__piece piece = encoder->now.pieces[i];
        if (piece.token >= 0)
            PEFT_TRY(peft__emit(encoder, piece.token, piece.from, piece.to));
        else
            PEFT_TRY(run_model(encoder, &piece));
    }
    return PEFT_OK;
}

/* Spaces that a byte-level token begins or ends with are not part of its range, where the file asks for that. A space
 * that was put before the text is in no range to begin with. */
static void trim_offsets(const peft_tokenizer *tokenizer, const char *text, peft__encoding *out) {
    for (int64_t i = 0; i < out->count; i++) {
        const peft__token_text *token = &tokenizer->tokens[out->ids[i]];
        if (token->length >= 2 && memcmp(token->text, "\xC4\xA0", 2) == 0)
            while (out->begin[i] < out->end[i] && text[out->begin[i]] == ' ') out->begin[i]++;
        if (token->length >= 2 && memcmp(token->text + token->length - 2, "\xC4\xA0", 2) == 0)
            while (out->begin[i] < out->end[i] && text[out->end[i] - 1] == ' ') out->end[i]--;
    }
}

/* Ids of one text without the template. */
static peft_status encode_text(peft_context *ctx, const peft_tokenizer *tokenizer, const char *text, size_t length,
                               uint32_t flags, peft__encoding *out) {
    out->count = 0;
    PEFT_TRY(check_text(ctx, text, length));
    if (length == 0) return PEFT_OK;
    peft__encoder encoder = {.ctx = ctx, .tokenizer = tokenizer, .out = out};
    peft__pieces_init(&encoder.now, ctx->mem);
    peft__pieces_init(&encoder.next, ctx->mem);
    peft__buffer_init(&encoder.bytes, ctx->mem);
    encoder.chars.mem = ctx->mem;
    take_text(&encoder.now, text, length);
    peft_status status = encoder.now.failed ? peft__fail_nomem(ctx, length, "a text") : PEFT_OK;
    if (status == PEFT_OK && length >= CACHE_FROM && tokenizer->model.kind == PEFT__MODEL_BPE)
        encoder.words = peft__alloc_zero(ctx->mem, PEFT__WORD_CACHE * sizeof *encoder.words);
    if (status == PEFT_OK) status = run_stages(&encoder, (flags & PEFT_ENCODE_PARSE_SPECIAL) != 0);
    if (status == PEFT_OK && tokenizer->trim_offsets) trim_offsets(tokenizer, text, out);
    encoder_free(&encoder);
    return status;
}

/* ---- template and truncation ------------------------------------------------------------------------------------ */

static int64_t template_tokens(const peft__template *template) {
    int64_t count = 0;
    for (size_t i = 0; i < template->count; i++) count += template->items[i].id >= 0;
    return count;
}

int64_t peft__tokenizer_added(const peft_tokenizer *tokenizer, bool pair) {
    return template_tokens(pair ? &tokenizer->pair : &tokenizer->single);
}

static peft_status put_side(peft_context *ctx, const peft__encoding *side, int32_t type, uint8_t source,
                            peft__encoding *out) {
    if (!reserve(out, side->count)) return peft__fail_nomem(ctx, (size_t)side->count * sizeof(int32_t), "token ids");
    for (int64_t i = 0; i < side->count; i++) put(out, side->ids[i], type, side->begin[i], side->end[i], false, source);
    return PEFT_OK;
}

static peft_status assemble(peft_context *ctx, const peft__template *template, bool special,
                            const peft__encoding *first, const peft__encoding *second, peft__encoding *out) {
    out->count = 0;
    for (size_t i = 0; i < template->count; i++) {
        const peft__template_item item = template->items[i];
        if (item.id == -1) {
            PEFT_TRY(put_side(ctx, first, item.type, 0, out));
        } else if (item.id == -2) {
            PEFT_TRY(put_side(ctx, second, item.type, 1, out));
        } else if (special) {
            if (!reserve(out, 1)) return peft__fail_nomem(ctx, sizeof(int32_t), "token ids");
            put(out, item.id, item.type, 0, 0, true, 0);
        }
    }
    return PEFT_OK;
}

/* Cuts the two (second may be empty) to `room` tokens together. */
static peft_status truncate_pair(peft_context *ctx, int32_t truncation, int64_t room, peft__encoding *first,
                                 peft__encoding *second) {
    const int64_t total = first->count + second->count, over = total - room;
    if (over <= 0) return PEFT_OK;
    switch (truncation) {
    case PEFT_TRUNCATE_LONGEST_FIRST: { /* the shorter one keeps all it can, else both get half */
        const bool swap = first->count > second->count;
        peft__encoding *less = swap ? second : first, *more = swap ? first : second;
        int64_t n1 = less->count, n2 = n1 > room ? n1 : peft__max_i64(n1, room - n1);
        if (n1 + n2 > room) {
            n1 = room / 2;
            n2 = n1 + room % 2;
        }
        less->count = peft__min_i64(less->count, n1);
        more->count = peft__min_i64(more->count, n2);
        return PEFT_OK;
    }
    case PEFT_TRUNCATE_ONLY_FIRST:
    case PEFT_TRUNCATE_ONLY_SECOND: {
        peft__encoding *side = truncation == PEFT_TRUNCATE_ONLY_FIRST ? first : second;
        if (side->count <= over && !(side->count == over && total == over))
            return peft__fail(ctx, PEFT_E_LIMIT, "the %s text has %lld tokens, of which %lld would have to go",
                              side == first ? "first" : "second", (long long)side->count, (long long)over);
        side->count -= over;
        return PEFT_OK;
    }
    default:
        return peft__fail(ctx, PEFT_E_LIMIT, "the text has %lld tokens and only %lld fit; name a truncation",
                          (long long)total, (long long)room);
    }
}

peft_status peft__encode_pair(peft_context *ctx, const peft_tokenizer *tokenizer, const char *first,
                              size_t first_length, const char *second, size_t second_length, uint32_t flags,
                              int64_t max_length, int32_t truncation, peft__encoding *out) {
    const bool special = (flags & PEFT_ENCODE_SPECIAL) != 0;
    const peft__template *template = second != NULL ? &tokenizer->pair : &tokenizer->single;
    if (flags & ~(uint32_t)(PEFT_ENCODE_SPECIAL | PEFT_ENCODE_PARSE_SPECIAL))
        return peft__fail(ctx, PEFT_E_ARG, "unknown encoding flags 0x%x", flags);
    if (max_length < 0 || truncation < PEFT_TRUNCATE_NONE || truncation > PEFT_TRUNCATE_ONLY_SECOND)
        return peft__fail(ctx, PEFT_E_ARG, "max_length %lld or truncation %d is not valid", (long long)max_length,
                          truncation);
    const int64_t added = special ? template_tokens(template) : 0;
    if (max_length > 0 && added > max_length)
        return peft__fail(ctx, PEFT_E_LIMIT, "max_length %lld has no room for the %lld tokens of the template",
                          (long long)max_length, (long long)added);
    peft__encoding sides[2];
    peft__encoding_init(&sides[0], ctx->mem);
    peft__encoding_init(&sides[1], ctx->mem);
    peft_status status = encode_text(ctx, tokenizer, first, first_length, flags, &sides[0]);
    if (status == PEFT_OK && second != NULL)
        status = encode_text(ctx, tokenizer, second, second_length, flags, &sides[1]);
    if (status == PEFT_OK && max_length > 0)
        status = truncate_pair(ctx, truncation, max_length - added, &sides[0], &sides[1]);
    if (status == PEFT_OK) status = assemble(ctx, template, special, &sides[0], &sides[1], out);
    peft__encoding_free(&sides[0]);
    peft__encoding_free(&sides[1]);
    return status;
}

peft_status peft__encode(peft_context *ctx, const peft_tokenizer *tokenizer, const char *text, size_t length,
                         uint32_t flags, peft__encoding *out) {
    const peft__template *template = &tokenizer->single;
    const bool bare = template->count == 1 && template->items[0].id == -1 && template->items[0].type == 0;
    if ((flags & ~(uint32_t)PEFT_ENCODE_PARSE_SPECIAL) == 0 && bare)
        return encode_text(ctx, tokenizer, text, length, flags, out);
    return peft__encode_pair(ctx, tokenizer, text, length, NULL, 0, flags, 0, PEFT_TRUNCATE_NONE, out);
}
