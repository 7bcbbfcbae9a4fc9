/* kronecker.c: a weight matrix that is the Kronecker product of two small ones (LoKr).
 *
 *   W[i b + k, j d + l] = f w1[i, j] w2[k, l],  w1 [a, c], w2 [b, d], f a factor for each row of W
 *
 * The node is cheap, so that W lives only while a layer uses it. Backward: each element of w1 sums a block of the
 * gradient, each of w2 the same place of all blocks; a tile makes one row of either.
 */
#include <inttypes.h>

#include "graph/op/computed.h"
#include "graph/op/tiles.h"

enum { IN_W1 = 0, IN_W2 = 1, IN_COUNT = 2 };

typedef struct kronecker {
    float scale;
    peft__weight_drop drop;
} kronecker;

static int64_t rows_of(const peft__value *value) {
    return value->rows->max_rows;
}

static uint32_t phases(const peft__node *node, peft__pass pass) {
    (void)node;
    (void)pass;
    return 2;
}

static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    if (phase == 0) return 1;
    const int64_t a = rows_of(node->in[IN_W1]), b = rows_of(node->in[IN_W2]);
    if (pass == PEFT__FORWARD) return (uint32_t)a;
    return (uint32_t)((peft__wants_grad(node->in[IN_W1]) ? a : 0) + (peft__wants_grad(node->in[IN_W2]) ? b : 0));
}

/* Rows i b .. (i + 1) b of W. */
static void forward_rows(const peft__node *node, int64_t i, const float *factors) {
    const peft__value *w1 = node->in[IN_W1], *w2 = node->in[IN_W2], *w = node->out[0];
    const int64_t b = rows_of(w2), d = w2->cols;
    for (int64_t k = 0; k < b; k++)
        for (int64_t j = 0; j < w1->cols; j++) {
            const float f = factors[i * b + k] * w1->data[i * w1->ld + j], *from = peft__row(w2, k);
            float *to = peft__row(w, i * b + k) + j * d;
            for (int64_t l = 0; l < d; l++) to[l] = f * from[l];
        }
}

static void row_of_w1(const peft__node *node, int64_t i, const float *factors) {
    const peft__value *w1 = node->in[IN_W1], *w2 = node->in[IN_W2], *w = node->out[0];
    const int64_t b = rows_of(w2), d = w2->cols;
    float *grad = peft__grad_row(w1, i);
    for (int64_t j = 0; j < w1->cols; j++) {
        double sum = 0.0;
        for (int64_t k = 0; k < b; k++) {
            const float *g = peft__grad_row(w, i * b + k) + j * d, *with = peft__row(w2, k);
            float dot = 0.0f;
            for (int64_t l = 0; l < d; l++) dot += g[l] * with[l];
            sum += (double)(factors[i * b + k] * dot);
        }
        grad[j] = (peft__accumulates(node, IN_W1) ? grad[j] : 0.0f) + (float)sum;
    }
}

static void row_of_w2(const peft__node *node, int64_t k, const float *factors) {
    const peft__value *w1 = node->in[IN_W1], *w2 = node->in[IN_W2], *w = node->out[0];
    const int64_t b = rows_of(w2), d = w2->cols;
    float *grad = peft__grad_row(w2, k);
    if (!peft__accumulates(node, IN_W2)) memset(grad, 0, (size_t)d * sizeof *grad);
    for (int64_t i = 0; i < rows_of(w1); i++)
        for (int64_t j = 0; j < w1->cols; j++) {
            const float f = factors[i * b + k] * w1->data[i * w1->ld + j];
            const float *g = peft__grad_row(w, i * b + k) + j * d;
            for (int64_t l = 0; l < d; l++) grad[l] += f * g[l];
        }
}

static void tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t number, const peft__run *run) {
    const kronecker *attr = node->attr;
    const int64_t a = peft__wants_grad(node->in[IN_W1]) ? rows_of(node->in[IN_W1]) : 0;
    if (phase == 0)
        peft__row_factors(&attr->drop, attr->scale, rows_of(node->out[0]), run, run->temp);
    else if (pass == PEFT__FORWARD)
        forward_rows(node, number, run->temp);
    else if (number < a)
        row_of_w1(node, number, run->temp);
    else
        row_of_w2(node, number - a, run->temp);
}

static void reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    (void)node;
    *in_mask = (1u << IN_COUNT) - 1u;
    *out_mask = 0;
}

static size_t temp_bytes(const peft__node *node, peft__pass pass) {
    (void)pass;
    return (size_t)rows_of(node->out[0]) * sizeof(float);
}

static const peft__op kronecker_op = {.name = "kronecker",
                                      .cheap = true,
                                      .in_place = -1,
                                      .reads = reads,
                                      .phases = phases,
                                      .tiles = tiles,
                                      .tile = tile,
                                      .temp_bytes = temp_bytes};

peft__value *peft__op_kronecker(peft__graph *g, peft__value *w1, peft__value *w2, float scale,
                                const peft__weight_drop *drop) {
    if (peft__graph_failed(g) || w1 == NULL || w2 == NULL) return NULL;
    int64_t out = 0, in = 0;
    if (!w1->rows->fixed || !w2->rows->fixed || __builtin_mul_overflow(rows_of(w1), rows_of(w2), &out) ||
        __builtin_mul_overflow(w1->cols, w2->cols, &in) || out > INT32_MAX || in > INT32_MAX)
        return peft__graph_fail(
            g, peft__fail(peft__graph_context(g), PEFT_E_ARG, "kronecker: expected two matrices whose product is one"));
    const kronecker attr = {scale, *drop};
    peft__value *const inputs[IN_COUNT] = {w1, w2};
    peft__value *w = peft__value_new(g, peft__rows_fixed(g, out), in, "kronecker");
    if (w == NULL) return NULL;
    return peft__node_add(g, &kronecker_op, inputs, IN_COUNT, &w, 1, &attr, sizeof attr) == NULL ? NULL : w;
}
