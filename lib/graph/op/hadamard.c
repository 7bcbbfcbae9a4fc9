/* hadamard.c: a weight matrix that is the elementwise product of two low-rank ones (LoHa).
 *
 *   W = f ((A1 B1) o (A2 B2)),  A [out, r], B [r, in], f a factor for each row
 *
 * Both products are made a few rows at a time and never kept: the node is cheap, so that W itself lives only while a
 * layer uses it. Backward, with G the gradient of W, T1 = f G o (A2 B2) and T2 = f G o (A1 B1):
 *
 *   dA1 = T1 B1^T    dB1 = A1^T T1    dA2 = T2 B2^T    dB2 = A2^T T2
 *
 * The A's are cut by rows of W, the B's by columns with all rows in order.
 */
#include <inttypes.h>

#include "graph/op/computed.h"
#include "graph/op/tiles.h"
#include "kernel/low_rank.h"

enum { IN_A1 = 0, IN_B1 = 1, IN_A2 = 2, IN_B2 = 3, IN_COUNT = 4, ROWS = 32, COLUMNS = 64 };

typedef struct hadamard {
    float scale;
    peft__weight_drop drop;
} hadamard;

static int64_t out_of(const peft__node *node) {
    return node->out[0]->rows->max_rows;
}
static int64_t rank_of(const peft__node *node) {
    return node->in[IN_A1]->cols;
}

static uint32_t phases(const peft__node *node, peft__pass pass) {
    (void)node;
    return pass == PEFT__FORWARD ? 2 : 3;
}

static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)pass;
    if (phase == 0) return 1;
    return (uint32_t)(phase == 1 ? peft__ceil_div(out_of(node), ROWS) : peft__ceil_div(node->out[0]->cols, COLUMNS));
}

/* Columns [c0, c0 + cols) of rows [first, first + rows) of A B. */
static void product(const peft__low_rank *kernels, const peft__value *a, const peft__value *b, int64_t first,
                    int64_t rows, int64_t c0, int64_t cols, float *to, int64_t ld) {
    kernels->expand(a->data + first * a->ld, a->ld, rows, b->data + c0, b->ld, a->cols, cols, false, to, ld);
}

/* to = f G o P, in place on P. */
static void weigh(const peft__node *node, const float *factors, int64_t first, int64_t rows, int64_t c0, int64_t cols,
                  float *p, int64_t ld) {
    const peft__value *w = node->out[0];
    for (int64_t r = 0; r < rows; r++) {
        const float *g = w->grad + (first + r) * w->ld + c0, f = factors[first + r];
        float *to = p + r * ld;
        for (int64_t c = 0; c < cols; c++) to[c] *= f * g[c];
    }
}

static void forward_rows(const peft__node *node, int64_t first, const peft__run *run) {
    const peft__low_rank *kernels = peft__low_rank_for(run->cpu);
    const peft__value *w = node->out[0];
    const int64_t rows = peft__min_i64(ROWS, out_of(node) - first), cols = w->cols;
    const float *factors = run->temp;
    float *other = run->lane;
    product(kernels, node->in[IN_A1], node->in[IN_B1], first, rows, 0, cols, w->data + first * w->ld, w->ld);
    product(kernels, node->in[IN_A2], node->in[IN_B2], first, rows, 0, cols, other, cols);
    for (int64_t r = 0; r < rows; r++) {
        const float *from = other + r * cols, f = factors[first + r];
        float *to = w->data + (first + r) * w->ld;
        for (int64_t c = 0; c < cols; c++) to[c] *= f * from[c];
    }
}

/* dA of one of the two: rows of T B^T, where T is made from the other two. */
static void rows_of_a(const peft__node *node, uint32_t a, uint32_t b, uint32_t a_other, uint32_t b_other, int64_t first,
                      const peft__run *run) {
    const peft__value *to = node->in[a], *with = node->in[b];
    if (!peft__wants_grad(to)) return;
    const peft__low_rank *kernels = peft__low_rank_for(run->cpu);
    const int64_t rows = peft__min_i64(ROWS, out_of(node) - first), cols = node->out[0]->cols, rank = to->cols;
    float *t = run->lane, *u = t + ROWS * cols;
    product(kernels, node->in[a_other], node->in[b_other], first, rows, 0, cols, t, cols);
    weigh(node, run->temp, first, rows, 0, cols, t, cols);
    kernels->reduce(t, cols, rows, with->data, with->ld, rank, cols, 1.0f, u, rank);
    for (int64_t r = 0; r < rows; r++) {
        float *grad = peft__grad_row(to, first + r);
        for (int64_t j = 0; j < rank; j++) grad[j] = (peft__accumulates(node, a) ? grad[j] : 0.0f) + u[r * rank + j];
    }
}

static void columns_of_b(const peft__node *node, uint32_t a, uint32_t b, uint32_t a_other, uint32_t b_other, int64_t c0,
                         const peft__run *run) {
    const peft__value *to = node->in[b], *with = node->in[a];
    if (!peft__wants_grad(to)) return;
    const peft__low_rank *kernels = peft__low_rank_for(run->cpu);
    const int64_t cols = peft__min_i64(COLUMNS, node->out[0]->cols - c0);
    bool keep = peft__accumulates(node, b);
    float *t = run->lane;
    for (int64_t first = 0; first < out_of(node); first += ROWS, keep = true) {
        const int64_t rows = peft__min_i64(ROWS, out_of(node) - first);
        product(kernels, node->in[a_other], node->in[b_other], first, rows, c0, cols, t, cols);
        weigh(node, run->temp, first, rows, c0, cols, t, cols);
        kernels->gather(with->data + first * with->ld, with->ld, rows, t, cols, with->cols, cols, 1.0f, keep,
                        to->grad + c0, to->ld, 1);
    }
}

static void tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t number, const peft__run *run) {
    const hadamard *attr = node->attr;
    if (phase == 0) {
        peft__row_factors(&attr->drop, attr->scale, out_of(node), run, run->temp);
    } else if (pass == PEFT__FORWARD) {
        forward_rows(node, (int64_t)number * ROWS, run);
    } else if (phase == 1) {
        rows_of_a(node, IN_A1, IN_B1, IN_A2, IN_B2, (int64_t)number * ROWS, run);
        rows_of_a(node, IN_A2, IN_B2, IN_A1, IN_B1, (int64_t)number * ROWS, run);
    } else {
        columns_of_b(node, IN_A1, IN_B1, IN_A2, IN_B2, (int64_t)number * COLUMNS, run);
        columns_of_b(node, IN_A2, IN_B2, IN_A1, IN_B1, (int64_t)number * COLUMNS, run);
    }
}

static void reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    (void)node;
    *in_mask = (1u << IN_COUNT) - 1u;
    *out_mask = 0;
}

static size_t temp_bytes(const peft__node *node, peft__pass pass) {
    (void)pass;
    return (size_t)out_of(node) * sizeof(float);
}

static size_t lane_bytes(const peft__node *node, peft__pass pass) {
    (void)pass;
    return (size_t)(ROWS * (peft__max_i64(node->out[0]->cols, COLUMNS) + rank_of(node))) * sizeof(float);
}

/* A1 B1 and A2 B2; both again, and the gradients of the four. */
static double products(const peft__node *node, peft__pass pass, const peft_batch *batch) {
    const double one = (double)out_of(node) * (double)rank_of(node) * (double)node->out[0]->cols;
    (void)batch;
    return one * (pass == PEFT__FORWARD ? 2.0 : 6.0);
}

static const peft__op hadamard_op = {.name = "hadamard",
                                     .cheap = true,
                                     .in_place = -1,
                                     .reads = reads,
                                     .phases = phases,
                                     .tiles = tiles,
                                     .tile = tile,
                                     .temp_bytes = temp_bytes,
                                     .lane_bytes = lane_bytes,
                                     .products = products};

peft__value *peft__op_hadamard(peft__graph *g, peft__value *a1, peft__value *b1, peft__value *a2, peft__value *b2,
                               float scale, const peft__weight_drop *drop) {
    if (peft__graph_failed(g) || a1 == NULL || b1 == NULL || a2 == NULL || b2 == NULL) return NULL;
    const int64_t out = a1->rows->max_rows, rank = a1->cols, in = b1->cols;
    if (!a1->rows->fixed || b1->rows->max_rows != rank || a2->rows->max_rows != out || a2->cols != rank ||
        b2->rows->max_rows != rank || b2->cols != in)
        return peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_ARG,
                                              "hadamard: expected two pairs [%" PRId64 ", %" PRId64 "] and [%" PRId64
                                              ", %" PRId64 "], found others",
                                              out, rank, rank, in));
    const hadamard attr = {scale, *drop};
    peft__value *const inputs[IN_COUNT] = {a1, b1, a2, b2};
    peft__value *w = peft__value_new(g, a1->rows, in, "hadamard");
    if (w == NULL) return NULL;
    return peft__node_add(g, &hadamard_op, inputs, IN_COUNT, &w, 1, &attr, sizeof attr) == NULL ? NULL : w;
}
