/* token_nll.c: -log p(label) of each row of logits that exist: [M, 1], 0 at rows without a label. For losses that weigh
 * tokens in ways of their own; where the logits need not exist peft__op_head_nll does the same. */
#include "graph/op/tiles.h"

enum { OUT_NLL, OUT_LSE, OUT_COUNT };

static void reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    (void)node;
    *in_mask = 1u;
    *out_mask = 1u << OUT_LSE;
}

static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)pass;
    (void)phase;
    return peft__row_tiles(node->in[0]->rows->count, node->in[0]->cols);
}

static void forward_row(const peft__node *node, const peft__kernels *kernels, int32_t label, int64_t row) {
    const peft__value *logits = node->in[0];
    float *nll = peft__row(node->out[OUT_NLL], row), *lse = peft__row(node->out[OUT_LSE], row);
    *nll = *lse = 0.0f;
    if (label < 0 || label >= logits->cols) return;
    *lse = kernels->log_sum_exp(logits->cols, peft__row(logits, row));
    *nll = *lse - peft__row(logits, row)[label];
}

static void backward_row(const peft__node *node, const peft__kernels *kernels, int32_t label, int64_t row) {
    const peft__value *logits = node->in[0];
    float *dz = peft__grad_row(logits, row);
    const float factor = *peft__grad_row(node->out[OUT_NLL], row);
    const bool accumulate = peft__accumulates(node, 0), counts = label >= 0 && label < logits->cols;
    if (!counts && !accumulate) memset(dz, 0, (size_t)logits->cols * sizeof(float));
    if (!counts) return;
    kernels->softmax(logits->cols, peft__row(logits, row), *peft__row(node->out[OUT_LSE], row), factor, dz, accumulate);
    dz[label] -= factor;
}

static void tile_run(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__rows *rows = node->in[0]->rows;
    const peft__range range = peft__tile_rows(tile, rows->count, node->in[0]->cols);
    for (int64_t r = range.first; r < range.end; r++) {
        if (pass == PEFT__FORWARD)
            forward_row(node, kernels, rows->labels[r], r);
        else
            backward_row(node, kernels, rows->labels[r], r);
    }
}

static const peft__op token_nll_op = {
    .name = "token nll", .in_place = -1, .reads = reads, .tiles = tiles, .tile = tile_run};

peft__value *peft__op_token_nll(peft__graph *g, peft__value *logits) {
    if (logits == NULL || peft__graph_failed(g)) return NULL;
    peft__value *out[OUT_COUNT] = {peft__value_new(g, logits->rows, 1, "losses of rows"),
                                   peft__value_new(g, logits->rows, 1, "log-sum-exp")};
    if (out[OUT_NLL] == NULL || out[OUT_LSE] == NULL) return NULL;
    out[OUT_LSE]->flags |= PEFT__VALUE_STAT;
    return peft__node_add(g, &token_nll_op, &logits, 1, out, OUT_COUNT, NULL, 0) != NULL ? out[OUT_NLL] : NULL;
}
