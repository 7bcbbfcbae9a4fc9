/* attention.h: softmax(scale q k^T + bias, masked) v for one head of one sequence, without ever forming the score
 * matrix.
 *
 * Work is cut into blocks of 64 queries and 64 keys. Inside a block everything is laid out with queries along
 * the vector: scores S^T [keys][64], output O^T [head_dim][64]. So keys and values are read as they lie, one number at
 * a time broadcast to all queries; the maximum and the sum of the softmax run down the columns and need no reduction
 * across a vector; and all seven products of the forward and backward pass are one small kernel.
 *
 * Only the log-sum-exp of each query is kept for the backward pass, which makes the scores again. A query that sees no
 * key gives zeros; its log-sum-exp is +infinity, so that its probabilities come out as zero in the backward pass too.
 */
#ifndef PEFT_KERNEL_ATTENTION_H
#define PEFT_KERNEL_ATTENTION_H

#include "base/base.h"

enum {
    PEFT__ATTENTION_QUERIES = 64, /* block of queries */
    PEFT__ATTENTION_KEYS = 64,    /* block of keys */
    PEFT__ATTENTION_CHUNK = 512,  /* most keys of a backward call */
    PEFT__ATTENTION_RUNS = 3      /* runs of keys that a query sees: learned prefix, cache, own */
};

/* A run of keys that lie one behind the other: a learned prefix, or the sequence's own. */
typedef struct peft__attention_keys {
    const float *k, *v;
    int64_t ldk, ldv;
    int64_t count;
    int64_t position; /* of the first key; a prefix of P keys stands at -P */
    bool masked;      /* causal and window masks apply */
    float *dk, *dv;   /* backward: added to; NULL when not wanted */
    int64_t lddk, lddv;
} peft__attention_keys;

typedef struct peft__attention_tile {
    int64_t head_dim;
    float scale, soft_cap;
    bool causal;
    int64_t window, near; /* 0 = none; near: |key - query| <= near */

    int64_t queries;  /* forward: at most PEFT__ATTENTION_QUERIES */
    int64_t position; /* of the first query */
    const float *q;
    int64_t ldq;
    float *out; /* backward reads it */
    int64_t ldo;
    float *lse; /* one per query, `ldl` apart */
    int64_t ldl;
    /* count 0 = absent. Backward: only the first two, together at most PEFT__ATTENTION_CHUNK */
    peft__attention_keys keys[PEFT__ATTENTION_RUNS];

    const float *bias; /* [2 span - 1], added at key position - query position + span - 1; NULL = none */
    int64_t span;

    /* Backward: dout [queries, head_dim]. dq is written whole, or added to. */
    const float *dout;
    int64_t lddo;
    float *dq;
    int64_t lddq;
    bool accumulate_dq;
    float *dbias; /* [2 span - 1], added to */

    float *scratch; /* peft__attention_scratch() floats, aligned to 64 bytes */
} peft__attention_tile;

/* Floats. */
size_t peft__attention_scratch(int64_t head_dim, bool backward);

/* Keys of a run that some query of [position, position + queries) sees: [*out_first, *out_end); none:
 * [0, 0). */
void peft__attention_visible(const peft__attention_tile *tile, const peft__attention_keys *keys, int64_t position,
                             int64_t queries, int64_t *out_first, int64_t *out_end);

#endif
