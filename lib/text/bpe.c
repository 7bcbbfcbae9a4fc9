/* bpe.c: byte-pair encoding of one word.
 *
 * Symbols are a linked list over the word; possible merges wait in a heap ordered by rank and then by place, so that a
 * word of n bytes takes O(n log n), be it a megabyte long. A merge taken from the heap counts only if its two symbols
 * still are what they were when it was put in.
 */
#include "text/pipeline.h"

static bool before(peft__merge a, peft__merge b) {
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static bool heap_put(peft__encoder *encoder, peft__merge merge) {
    peft__merge *heap =
        peft__grow(encoder->ctx->mem, encoder->heap, &encoder->heap_capacity, encoder->heap_count + 1, sizeof *heap);
    if (heap == NULL) return false;
    encoder->heap = heap;
    size_t at = encoder->heap_count++;
    for (; at > 0 && before(merge, heap[(at - 1) / 2]); at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    heap[at] = merge;
    return true;
}

static peft__merge heap_take(peft__encoder *encoder) {
    peft__merge *heap = encoder->heap;
    const peft__merge top = heap[0], last = heap[--encoder->heap_count];
    const size_t count = encoder->heap_count;
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count) break;
        if (child + 1 < count && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], last)) break;
        heap[at] = heap[child];
        at = child;
    }
    if (count > 0) heap[at] = last;
    return top;
}

static bool find_merge(const peft__model_data *model, int32_t left, int32_t right, uint64_t *out) {
    return peft__pairs_get(&model->merges, (uint64_t)(uint32_t)left << 32 | (uint32_t)right, out);
}

/* Puts the merge of the symbol at `at` with its neighbour into the heap, where there is one. */
static bool consider(peft__encoder *encoder, int32_t at) {
    const peft__symbol *symbols = encoder->symbols;
    uint64_t found;
    if (at < 0 || symbols[at].after < 0) return true;
    if (!find_merge(&encoder->tokenizer->model, symbols[at].id, symbols[symbols[at].after].id, &found)) return true;
    return heap_put(encoder, (peft__merge){(uint32_t)(found >> 32), (uint32_t)at, (int32_t)(uint32_t)found});
}

static peft_status nomem(peft__encoder *encoder, size_t length) {
    return peft__fail_nomem(encoder->ctx, length, "encoding a word");
}

static bool put_symbol(peft__encoder *encoder, size_t *count, int32_t id, size_t from, size_t to) {
    peft__symbol *symbols =
        peft__grow(encoder->ctx->mem, encoder->symbols, &encoder->symbol_capacity, *count + 1, sizeof *symbols);
    if (symbols == NULL) return false;
    encoder->symbols = symbols;
    const int32_t at = (int32_t)(*count)++;
    symbols[at] = (peft__symbol){id, (uint32_t)from, (uint32_t)to, at - 1, -1};
    if (at > 0) symbols[at - 1].after = at;
    return true;
}

/* The id of one character of the word, -1 when the vocabulary does not have it. With affixes the text looked up is
 * left in encoder->bytes. */
static peft_status char_id(peft__encoder *encoder, uint32_t c, size_t at, size_t bytes, bool first, bool last,
                           int32_t *out) {
    const peft__model_data *model = &encoder->tokenizer->model;
    const char *text = encoder->now.data + at;
    const bool prefix = model->has_prefix && !first, suffix = model->has_suffix && last;
    if (!prefix && !suffix) {
        *out = c < 512 ? model->low_ids[c] : peft__vocab_id(encoder->tokenizer, text, bytes);
        return PEFT_OK;
    }
    peft__buffer_clear(&encoder->bytes);
    if (prefix) peft__buffer_put(&encoder->bytes, model->prefix, model->prefix_length);
    peft__buffer_put(&encoder->bytes, text, bytes);
    if (suffix) peft__buffer_put(&encoder->bytes, model->suffix, model->suffix_length);
    if (encoder->bytes.failed) return nomem(encoder, bytes);
    *out = peft__vocab_id(encoder->tokenizer, encoder->bytes.data, encoder->bytes.length);
    return PEFT_OK;
}

/* Characters to symbols. A character without an id becomes its bytes where all of them have one, else the unknown
 * token; neighbouring unknown ones are one token where the model fuses them. */
static peft_status read_symbols(peft__encoder *encoder, size_t from, size_t to, size_t *out_count) {
    const peft__model_data *model = &encoder->tokenizer->model;
    const char *data = encoder->now.data;
    size_t count = 0, unk_from = 0, unk_to = 0;
    bool unk = false;
    for (size_t at = from; at < to;) {
        size_t bytes;
        const uint32_t c = peft__char_at(data + at, to - at, &bytes);
        const bool first = at == from, last = at + bytes == to;
        int32_t id = -1;
        PEFT_TRY(char_id(encoder, c, at, bytes, first, last, &id));
        if (id >= 0) {
            if (unk && !put_symbol(encoder, &count, model->unk_id, unk_from, unk_to)) return nomem(encoder, to - from);
            unk = false;
            if (!put_symbol(encoder, &count, id, at, at + bytes)) return nomem(encoder, to - from);
            at += bytes;
            continue;
        }
        if (model->byte_fallback) {
            const bool affixed = (model->has_prefix && !first) || (model->has_suffix && last);
            const char *text = affixed ? encoder->bytes.data : data + at;
            const size_t length = affixed ? encoder->bytes.length : bytes;
            bool all = true;
            for (size_t i = 0; i < length; i++) all = all && model->byte_ids[(unsigned char)text[i]] >= 0;
            if (all) {
                for (size_t i = 0; i < length; i++) {
                    const size_t origin = at + peft__min_size(i, bytes - 1);
                    if (!put_symbol(encoder, &count, model->byte_ids[(unsigned char)text[i]], origin, origin + 1))
                        return nomem(encoder, to - from);
                }
                at += bytes;
                continue;
            }
        }
        if (model->unk != NULL) {
            if (model->unk_id < 0)
                return peft__fail(encoder->ctx, PEFT_E_FORMAT,
                                  "the tokenizer's unknown token \"%s\" is not in its vocabulary", model->unk);
            if (unk && model->fuse_unk) {
                unk_to = at + bytes;
            } else {
                if (unk && !put_symbol(encoder, &count, model->unk_id, unk_from, unk_to))
                    return nomem(encoder, to - from);
                unk = true;
                unk_from = at;
                unk_to = at + bytes;
            }
        }
        at += bytes;
    }
    if (unk && !put_symbol(encoder, &count, model->unk_id, unk_from, unk_to)) return nomem(encoder, to - from);
    *out_count = count;
    return PEFT_OK;
}

static peft_status merge_symbols(peft__encoder *encoder, size_t count) {
    encoder->heap_count = 0;
    for (size_t i = 0; i < count; i++)
        if (!consider(encoder, (int32_t)i)) return nomem(encoder, count);
    peft__symbol *symbols = encoder->symbols;
    while (encoder->heap_count > 0) {
        const peft__merge top = heap_take(encoder);
        peft__symbol *left = &symbols[top.at];
        uint64_t found;
        if (left->id < 0 || left->after < 0) continue;
        peft__symbol *right = &symbols[left->after];
        if (!find_merge(&encoder->tokenizer->model, left->id, right->id, &found) || (int32_t)(uint32_t)found != top.id)
            continue;
        left->id = top.id;
        left->to = right->to;
        left->after = right->after;
        right->id = -1;
        if (left->after >= 0) symbols[left->after].before = (int32_t)top.at;
        if (!consider(encoder, left->before) || !consider(encoder, (int32_t)top.at)) return nomem(encoder, count);
    }
    return PEFT_OK;
}

static peft__word_entry *cache_slot(peft__encoder *encoder, const char *word, size_t length) {
    if (encoder->words == NULL || length > sizeof encoder->words->word) return NULL;
    return &encoder->words[peft__hash64(word, length, 0) & (PEFT__WORD_CACHE - 1)];
}

peft_status peft__bpe(peft__encoder *encoder, size_t from, size_t to) {
    const char *word = encoder->now.data + from;
    const size_t length = to - from;
    if (encoder->tokenizer->model.ignore_merges) {
        const int32_t id = peft__vocab_id(encoder->tokenizer, word, length);
        if (id >= 0) return peft__emit(encoder, id, from, to);
    }
    peft__word_entry *entry = cache_slot(encoder, word, length);
    if (entry != NULL && entry->length == length && memcmp(entry->word, word, length) == 0) {
        size_t start = from;
        for (size_t i = 0; i < entry->count; i++) {
            PEFT_TRY(peft__emit(encoder, entry->ids[i], start, from + entry->ends[i]));
            start = from + entry->ends[i];
        }
        return PEFT_OK;
    }
    if (length > INT32_MAX / 2)
        return peft__fail(encoder->ctx, PEFT_E_LIMIT, "a word of %zu bytes is too long", length);
    size_t count = 0, tokens = 0;
    PEFT_TRY(read_symbols(encoder, from, to, &count));
    PEFT_TRY(merge_symbols(encoder, count));
    size_t end = from; /* the cache holds tokens that cover the word without gaps, which dropped characters break */
    bool cacheable = entry != NULL;
    for (size_t i = 0; i < count; i++) {
        const peft__symbol *symbol = &encoder->symbols[i];
        if (symbol->id < 0) continue;
        PEFT_TRY(peft__emit(encoder, symbol->id, symbol->from, symbol->to));
        if (symbol->from != end || tokens == 8) cacheable = false;
        end = symbol->to;
        if (cacheable) {
            if (tokens == 0) entry->length = 0;
            entry->ids[tokens] = symbol->id;
            entry->ends[tokens] = (uint8_t)(end - from);
        }
        tokens++;
    }
    if (cacheable && end == to && tokens > 0) {
        memcpy(entry->word, word, length);
        entry->count = (uint8_t)tokens;
        entry->length = (uint8_t)length;
    }
    return PEFT_OK;
}
