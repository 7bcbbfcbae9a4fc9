/* pieces.c: text with the origin of every byte, cut into pieces. */
#include "text/pipeline.h"

void *peft__grow(peft__mem *mem, void *memory, size_t *capacity, size_t count, size_t size) {
    if (count <= *capacity) return memory;
    const size_t want = peft__max_size(count, *capacity + *capacity / 2 + 16);
    size_t bytes;
    if (!peft__mul_size(want, size, &bytes)) return NULL;
    void *grown = peft__realloc(mem, memory, bytes);
    if (grown != NULL) *capacity = want;
    return grown;
}

void peft__pieces_init(peft__pieces *pieces, peft__mem *mem) {
    *pieces = (peft__pieces){.mem = mem};
}

void peft__pieces_free(peft__pieces *pieces) {
    peft__free(pieces->mem, pieces->data);
    peft__free(pieces->mem, pieces->begin);
    peft__free(pieces->mem, pieces->end);
    peft__free(pieces->mem, pieces->pieces);
    peft__pieces_init(pieces, pieces->mem);
}

void peft__pieces_clear(peft__pieces *pieces) {
    pieces->length = pieces->count = pieces->open = 0;
    pieces->failed = false;
}

/* Room for `more` bytes. The run stays below 4 GiB: origins are 32 bits wide. */
static bool room(peft__pieces *pieces, size_t more) {
    if (pieces->failed) return false;
    if (pieces->capacity - pieces->length >= more) return true;
    size_t want = peft__max_size(pieces->length + more, pieces->length + pieces->length / 2 + 64);
    pieces->failed = true;
    if (want > UINT32_MAX / 2) return false;
    char *data = peft__realloc(pieces->mem, pieces->data, want);
    if (data == NULL) return false;
    pieces->data = data;
    uint32_t *begin = peft__realloc(pieces->mem, pieces->begin, want * sizeof *begin);
    if (begin == NULL) return false;
    pieces->begin = begin;
    uint32_t *end = peft__realloc(pieces->mem, pieces->end, want * sizeof *end);
    if (end == NULL) return false;
    pieces->end = end;
    pieces->capacity = want;
    pieces->failed = false;
    return true;
}

void peft__pieces_put(peft__pieces *pieces, const char *data, size_t length, uint32_t begin, uint32_t end) {
    if (!room(pieces, length)) return;
    for (size_t i = 0; i < length; i++) {
        pieces->data[pieces->length + i] = data[i];
        pieces->begin[pieces->length + i] = begin;
        pieces->end[pieces->length + i] = end;
    }
    pieces->length += length;
}

void peft__pieces_copy(peft__pieces *pieces, const peft__pieces *other, size_t from, size_t to) {
    if (from == to || !room(pieces, to - from)) return;
    memcpy(pieces->data + pieces->length, other->data + from, to - from);
    memcpy(pieces->begin + pieces->length, other->begin + from, (to - from) * sizeof *pieces->begin);
    memcpy(pieces->end + pieces->length, other->end + from, (to - from) * sizeof *pieces->end);
    pieces->length += to - from;
}

void peft__pieces_add(peft__pieces *pieces, size_t from, size_t to, int32_t token) {
    if (from == to || pieces->failed) return;
    peft__piece *grown =
        peft__grow(pieces->mem, pieces->pieces, &pieces->piece_capacity, pieces->count + 1, sizeof *pieces->pieces);
    if (grown == NULL) {
        pieces->failed = true;
        return;
    }
    pieces->pieces = grown;
    pieces->pieces[pieces->count++] = (peft__piece){(uint32_t)from, (uint32_t)to, token};
}

void peft__pieces_close(peft__pieces *pieces, int32_t token) {
    peft__pieces_add(pieces, pieces->open, pieces->length, token);
    pieces->open = pieces->length;
}

peft_status peft__pieces_check(peft__encoder *encoder) {
    if (encoder->next.failed) return peft__fail_nomem(encoder->ctx, encoder->next.length, "cutting a text");
    const peft__pieces spare = encoder->now;
    encoder->now = encoder->next;
    encoder->next = spare;
    return PEFT_OK;
}

peft_status peft__pieces_adopt(peft__encoder *encoder) {
    peft__pieces *now = &encoder->now, *next = &encoder->next;
    if (next->failed) return peft__fail_nomem(encoder->ctx, next->count * sizeof(peft__piece), "cutting a text");
    peft__piece *const pieces = now->pieces;
    const size_t capacity = now->piece_capacity;
    now->pieces = next->pieces;
    now->count = next->count;
    now->piece_capacity = next->piece_capacity;
    next->pieces = pieces;
    next->piece_capacity = capacity;
    next->count = 0;
    return PEFT_OK;
}

peft_status peft__pattern_next(peft__encoder *encoder, const peft__pattern *pattern, const char *text, size_t length,
                               size_t start, bool *out_found, size_t *out_from, size_t *out_to) {
    if (pattern->is_regex)
        return peft__regex_next(encoder->ctx, &pattern->regex, &encoder->matcher, text, length, start, out_found,
                                out_from, out_to);
    *out_found = false;
    if (pattern->literal_length == 0 || start >= length) return PEFT_OK;
    const char *at = memmem(text + start, length - start, pattern->literal, pattern->literal_length);
    if (at == NULL) return PEFT_OK;
    *out_found = true;
    *out_from = (size_t)(at - text);
    *out_to = *out_from + pattern->literal_length;
    return PEFT_OK;
}
