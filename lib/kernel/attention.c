/* attention.c: what is the same for every instruction set. */
#include "kernel/attention.h"

size_t peft__attention_scratch(int64_t head_dim, bool backward) {
    const size_t queries = PEFT__ATTENTION_QUERIES, keys = PEFT__ATTENTION_KEYS;
    const size_t dim = (size_t)head_dim, padded = (dim + 15) / 16 * 16;
    const size_t edges = 4 * (queries + keys) + 4 * queries; /* bias windows and statistics */
    if (!backward) return (2 * dim + keys) * queries + edges;
    return (3 * dim + 2 * keys + 2 * padded) * queries + 2 * padded * PEFT__ATTENTION_CHUNK + edges;
}

void peft__attention_visible(const peft__attention_tile *tile, const peft__attention_keys *keys, int64_t position,
                             int64_t queries, int64_t *out_first, int64_t *out_end) {
    const int64_t last = position + queries - 1;
    int64_t first = 0, end = keys->count;
    if (keys->masked) {
        if (tile->causal) end = peft__min_i64(end, last + 1 - keys->position);
        if (tile->window > 0) first = peft__max_i64(first, position - tile->window + 1 - keys->position);
        if (tile->near > 0) {
            first = peft__max_i64(first, position - tile->near - keys->position);
            end = peft__min_i64(end, last + tile->near + 1 - keys->position);
        }
    }
    *out_first = first < end ? first : 0;
    *out_end = first < end ? end : 0;
}
