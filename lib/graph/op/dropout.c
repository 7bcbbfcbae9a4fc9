/* dropout.c: inverted dropout. The mask is a pure function of (seed of the pass, stream of the node, element), so
 * nothing is kept for the backward pass and any tile makes its own part. Outside of training it passes everything
 * through.
 */
#include "graph/op/tiles.h"

typedef struct dropout {
    uint64_t stream;
    uint32_t threshold; /* elements whose number is below it are dropped */
    float factor;       /* of the others: 1 / (1 - p) */
} dropout;

static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)pass;
    (void)phase;
    return peft__row_tiles(node->out[0]->rows->count, node->out[0]->cols);
}

static void tile_run(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const dropout *a = node->attr;
    const peft__value *x = node->in[0], *out = node->out[0];
    const int64_t cols = out->cols;
    const bool accumulate = pass == PEFT__BACKWARD && peft__accumulates(node, 0);
    const peft__range rows = peft__tile_rows(tile, out->rows->count, cols);
    for (int64_t r = rows.first; r < rows.end; r++) {
        const float *from = pass == PEFT__FORWARD ? peft__row(x, r) : peft__grad_row(out, r);
        float *to = pass == PEFT__FORWARD ? peft__row(out, r) : peft__grad_row(x, r);
        if (run->training)
            kernels->dropout(cols, from, run->seed, a->stream, (uint64_t)(r * cols), a->threshold, a->factor, to,
                             accumulate);
        else
            kernels->scale(cols, 1.0f, from, to, accumulate);
    }
}

static const peft__op dropout_op = {.name = "dropout", .cheap = true, .in_place = -1, .tiles = tiles, .tile = tile_run};

peft__value *peft__op_dropout(peft__graph *g, peft__value *x, float p, uint64_t stream) {
    if (x == NULL || peft__graph_failed(g)) return NULL;
    if (p == 0.0f) return x;
    if (!(p > 0.0f && p < 1.0f))
        return peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_ARG,
                                              "dropout: p is %g, expected at least 0 and below 1", (double)p));
    const dropout attr = {stream, (uint32_t)((double)p * 4294967296.0), (float)(1.0 / (1.0 - (double)p))};
    return peft__add_row_node(g, &dropout_op, &x, 1, x, &attr, sizeof attr);
}
