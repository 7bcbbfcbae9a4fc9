/* slot.h: rows of the sequences that use one adapter of several (batch.adapter_ids).
 *
 * What a method does to rows it does to runs of them: between two calls of peft__next_run lie rows of sequences that use
 * another adapter, or none.
 */
#ifndef PEFT_GRAPH_OP_SLOT_H
#define PEFT_GRAPH_OP_SLOT_H

#include "graph/graph.h"

typedef struct peft__slot_of {
    int32_t slot; /* which of the session's adapters; -1: its rows are all */
    bool decoder; /* rows of the second stream use what the sequence they read uses */
} peft__slot_of;

/* The next run of rows in [*begin, end) that use this adapter; false when there is none. Advances *begin behind it. */
static inline bool peft__next_run(const peft__slot_of *a, const peft__rows *rows, const peft_batch *batch,
                                  int64_t *begin, int64_t end, int64_t *r0, int64_t *r1) {
    if (*begin >= end) return false;
    if (a->slot < 0 || batch->adapter_ids == NULL) {
        *r0 = *begin;
        *r1 = *begin = end;
        return true;
    }
    *r0 = *r1 = -1;
    for (int64_t s = 0; s < rows->sequences; s++) {
        const int64_t first = peft__max_i64(*begin, rows->offsets[s]), last = peft__min_i64(end, rows->offsets[s + 1]);
        if (first >= last) continue;
        const int64_t source = a->decoder && batch->decoder_source != NULL ? batch->decoder_source[s] : s;
        if (batch->adapter_ids[source] == a->slot) {
            if (*r0 < 0) *r0 = first;
            *r1 = last;
        } else if (*r0 >= 0) {
            break;
        }
    }
    if (*r0 < 0) return false;
    *begin = *r1;
    return true;
}

#endif
