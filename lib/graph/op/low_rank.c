/* low_rank.c: y + scale * (x A^T) B^T, in place on y where that is free.
 *
 * U = x A^T [N, r] is kept for the backward pass: it is r numbers a row, and without it dB would need x. B is turned
 * once per pass (scaled, [r, out]) so that both products with it run along its rows. Backward, with g the gradient of
 * the result:
 *
 *   V = scale g B     dA = V^T x     dB = scale g^T U     dx += V A     dy = g itself
 *
 * Forward and the row part of backward are cut by rows, dA and dB by columns with all rows in order. Rows of sequences
 * that use another adapter pass through unchanged and add nothing.
 */
#include <inttypes.h>

#include "graph/op/slot.h"
#include "graph/ops.h"
#include "kernel/low_rank.h"

enum {
    IN_X = 0,
    IN_Y = 1,
    IN_A = 2,
    IN_B = 3,
    IN_COUNT = 4,
    OUT_Y = 0,
    OUT_U = 1,
    ROWS = 48,     /* of a tile */
    COLUMNS = 128, /* of a tile of dA or dB */
    TURN = 256     /* rows of B that a tile turns */
};

typedef struct low_rank {
    float scale;
    peft__slot_of of;
} low_rank;

static bool wants(const peft__value *value) {
    return value->needs_grad;
}
static int64_t rank_of(const peft__node *node) {
    return node->in[IN_B]->cols;
}
static int64_t out_of(const peft__node *node) {
    return node->in[IN_Y]->cols;
}

/* The next run of rows in [*begin, end) that use this adapter; false when there is none. Advances *begin behind it. */
static bool next_run(const peft__node *node, const peft_batch *batch, int64_t *begin, int64_t end, int64_t *r0,
                     int64_t *r1) {
    const low_rank *a = node->attr;
    return peft__next_run(&a->of, node->in[IN_X]->rows, batch, begin, end, r0, r1);
}

/* Shared scratch: scale * B turned [r, out], then V [N, r]. */
static size_t turned_floats(const peft__node *node) {
    return ((size_t)(rank_of(node) * out_of(node)) + 15) / 16 * 16;
}

static bool needs_v(const peft__node *node) {
    return wants(node->in[IN_X]) || wants(node->in[IN_A]);
}

static uint32_t phases(const peft__node *node, peft__pass pass) {
    (void)node;
    return pass == PEFT__FORWARD ? 2 : 3;
}

static int64_t da_tiles(const peft__node *node) {
    return wants(node->in[IN_A]) ? peft__ceil_div(node->in[IN_X]->cols, COLUMNS) : 0;
}
static int64_t db_tiles(const peft__node *node) {
    return wants(node->in[IN_B]) ? peft__ceil_div(out_of(node), COLUMNS) : 0;
}

static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    const bool rows_part = pass == PEFT__FORWARD || needs_v(node);
    if (phase == 0) return rows_part ? (uint32_t)peft__ceil_div(out_of(node), TURN) : 0;
    if (phase == 1) return rows_part ? (uint32_t)peft__ceil_div(node->in[IN_X]->rows->count, ROWS) : 0;
    return (uint32_t)(da_tiles(node) + db_tiles(node));
}

static void forward_rows(const peft__node *node, int64_t first, int64_t end, const peft__run *run) {
    const peft__low_rank *kernels = peft__low_rank_for(run->cpu);
    const peft__value *x = node->in[IN_X], *a = node->in[IN_A], *y = node->in[IN_Y], *out = node->out[OUT_Y],
                      *u = node->out[OUT_U];
    if (out->data != y->data)
        for (int64_t r = first; r < end; r++)
            memcpy(out->data + r * out->ld, y->data + r * y->ld, (size_t)y->cols * sizeof(float));
    for (int64_t begin = first, r0, r1; next_run(node, run->batch, &begin, end, &r0, &r1);) {
        kernels->reduce(x->data + r0 * x->ld, x->ld, r1 - r0, a->data, a->ld, rank_of(node), x->cols, 1.0f,
                        u->data + r0 * u->ld, u->ld);
        kernels->expand(u->data + r0 * u->ld, u->ld, r1 - r0, run->temp, out_of(node), rank_of(node), out->cols, true,
                        out->data + r0 * out->ld, out->ld);
    }
}

static void backward_rows(const peft__node *node, int64_t first, int64_t end, const peft__run *run) {
    const peft__low_rank *kernels = peft__low_rank_for(run->cpu);
    const peft__value *x = node->in[IN_X], *a = node->in[IN_A], *out = node->out[OUT_Y];
    const int64_t rank = rank_of(node);
    float *v = (float *)run->temp + turned_floats(node);
    int64_t done = first; /* rows of dx up to here are written */
    const bool dx = wants(x), keep = dx && peft__accumulates(node, IN_X);
    for (int64_t begin = first, r0, r1; next_run(node, run->batch, &begin, end, &r0, &r1);) {
        kernels->reduce(out->grad + r0 * out->ld, out->ld, r1 - r0, run->temp, out_of(node), rank, out->cols, 1.0f,
                        v + r0 * rank, rank);
        if (!dx) continue;
        for (; done < r0; done++)
            if (!keep) memset(x->grad + done * x->ld, 0, (size_t)x->cols * sizeof(float));
        kernels->expand(v + r0 * rank, rank, r1 - r0, a->data, a->ld, rank, x->cols, keep, x->grad + r0 * x->ld, x->ld);
        done = r1;
    }
    for (; dx && !keep && done < end; done++) memset(x->grad + done * x->ld, 0, (size_t)x->cols * sizeof(float));
}

/* Columns [first, first + count) of D = scale * left^T right, D an [rank, cols] view of `value`'s gradient. */
static void gather_columns(const peft__node *node, const peft__run *run, uint32_t input, const float *left, int64_t ldl,
                           const float *right, int64_t ldr, int64_t count, float scale, float *d, int64_t di,
                           int64_t dc) {
    const int64_t rank = rank_of(node);
    bool keep = peft__accumulates(node, input);
    for (int64_t begin = 0, r0, r1; next_run(node, run->batch, &begin, node->in[IN_X]->rows->count, &r0, &r1);
         keep = true)
        peft__low_rank_for(run->cpu)->gather(left + r0 * ldl, ldl, r1 - r0, right + r0 * ldr, ldr, rank, count, scale,
                                             keep, d, di, dc);
    for (int64_t i = 0; i < rank && !keep; i++)
        for (int64_t c = 0; c < count; c++) d[i * di + c * dc] = 0.0f;
}

static void tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t number, const peft__run *run) {
    const low_rank *attr = node->attr;
    const peft__value *x = node->in[IN_X], *a = node->in[IN_A], *b = node->in[IN_B], *out = node->out[OUT_Y],
                      *u = node->out[OUT_U];
    if (phase == 0) {
        const int64_t first = (int64_t)number * TURN, count = peft__min_i64(TURN, out->cols - first);
        peft__low_rank_turn(b->data + first * b->ld, b->ld, count, rank_of(node), attr->scale,
                            (float *)run->temp + first, out->cols);
        return;
    }
    if (phase == 1) {
        const int64_t first = (int64_t)number * ROWS, end = peft__min_i64(x->rows->count, first + ROWS);
        if (pass == PEFT__FORWARD)
            forward_rows(node, first, end, run);
        else
            backward_rows(node, first, end, run);
        return;
    }
    const int64_t of_a = da_tiles(node);
    if (number < of_a) {
        const int64_t first = (int64_t)number * COLUMNS;
        gather_columns(node, run, IN_A, (float *)run->temp + turned_floats(node), rank_of(node), x->data + first, x->ld,
                       peft__min_i64(COLUMNS, x->cols - first), 1.0f, a->grad + first, a->ld, 1);
    } else {
        const int64_t first = (number - of_a) * COLUMNS;
        gather_columns(node, run, IN_B, u->data, u->ld, out->grad + first, out->ld,
                       peft__min_i64(COLUMNS, out->cols - first), attr->scale, b->grad + first * b->ld, 1, b->ld);
    }
}

static void reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    *in_mask = (wants(node->in[IN_A]) ? 1u << IN_X : 0) | (wants(node->in[IN_X]) ? 1u << IN_A : 0) |
               (needs_v(node) ? 1u << IN_B : 0);
    *out_mask = wants(node->in[IN_B]) ? 1u << OUT_U : 0;
}

static size_t temp_bytes(const peft__node *node, peft__pass pass) {
    const size_t v = pass == PEFT__BACKWARD ? (size_t)(node->in[IN_X]->rows->max_rows * rank_of(node)) : 0;
    return (turned_floats(node) + v) * sizeof(float);
}

/* U and y; V, dA, dB and dx. As if every sequence used this adapter. */
static double products(const peft__node *node, peft__pass pass, const peft_batch *batch) {
    const double rows = (double)node->in[IN_X]->rows->count * (double)rank_of(node), in = (double)node->in[IN_X]->cols,
                 out = (double)out_of(node);
    (void)batch;
    if (pass == PEFT__FORWARD) return rows * (in + out);
    return rows * ((needs_v(node) ? out : 0.0) + (wants(node->in[IN_A]) ? in : 0.0) +
                   (wants(node->in[IN_B]) ? out : 0.0) + (wants(node->in[IN_X]) ? in : 0.0));
}

static const peft__op low_rank_op = {
    .name = "low_rank",
    .in_place = IN_Y,
    .alias_grad = 1u << IN_Y,
    .reads = reads,
    .phases = phases,
    .tiles = tiles,
    .tile = tile,
    .temp_bytes = temp_bytes,
    .products = products,
};

peft__value *peft__op_low_rank(peft__graph *g, peft__value *x, peft__value *y, peft__value *a, peft__value *b,
                               float scale, int32_t slot) {
    if (peft__graph_failed(g) || x == NULL || y == NULL || a == NULL || b == NULL) return NULL;
    if (x->rows != y->rows || a->cols != x->cols || b->cols != a->rows->max_rows || b->rows->max_rows != y->cols)
        return peft__graph_fail(
            g, peft__fail(peft__graph_context(g), PEFT_E_ARG,
                          "low_rank: x has %" PRId64 " and y %" PRId64 " columns, A is [%" PRId64 ", %" PRId64
                          "], B is [%" PRId64 ", %" PRId64 "]; expected A [r, x] and B [y, r]",
                          x->cols, y->cols, a->rows->max_rows, a->cols, b->rows->max_rows, b->cols));
    const low_rank attr = {scale, {slot, peft__rows_in_decoder(x->rows)}};
    peft__value *const in[IN_COUNT] = {x, y, a, b};
    peft__value *out[2] = {peft__value_new(g, y->rows, y->cols, "low_rank"),
                           peft__value_new(g, x->rows, b->cols, "low_rank u")};
    if (out[0] == NULL || out[1] == NULL) return NULL;
    out[1]->flags |= PEFT__VALUE_STAT;
    return peft__node_add(g, &low_rank_op, in, IN_COUNT, out, 2, &attr, sizeof attr) == NULL ? NULL : out[0];
}
