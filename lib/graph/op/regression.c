/* regression.c: losses against real numbers that come with the batch: squared error, and binary cross entropy with
 * logits.
 *
 * Outputs are small ([sequences, targets]), so one tile does it all, in double. */
#include "graph/op/tiles.h"

#include <math.h>

typedef struct regression {
    peft__target_loss kind;
} regression;

static void reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    (void)node;
    *in_mask = 1u;
    *out_mask = 0;
}

/* Targets of a row; NULL where the batch has none of this width (the session refuses such batches before). */
static const float *targets_of(const peft__value *outputs, const peft_batch *batch, int64_t row) {
    if (batch->sequence_targets == NULL || batch->target_cols != outputs->cols || row >= batch->sequences) return NULL;
    return batch->sequence_targets + row * batch->target_cols;
}

static double loss_of(peft__target_loss kind, double x, double t, double *slope) {
    if (kind == PEFT__LOSS_MSE) {
        *slope = 2.0 * (x - t);
        return (x - t) * (x - t);
    }
    *slope = 1.0 / (1.0 + exp(-x)) - t;
    return fmax(x, 0.0) - x * t + log1p(exp(-fabs(x)));
}

static void tile_run(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    (void)tile;
    const peft__target_loss kind = ((const regression *)node->attr)->kind;
    const peft__value *x = node->in[0];
    double sum = 0.0, count = 0.0;
    for (int64_t r = 0; r < x->rows->count; r++) {
        const float *targets = targets_of(x, run->batch, r);
        for (int64_t c = 0; c < x->cols; c++) {
            double slope = 0.0;
            if (targets != NULL) {
                sum += loss_of(kind, (double)peft__row(x, r)[c], (double)targets[c], &slope);
                count += 1.0;
            }
            if (pass == PEFT__BACKWARD) {
                float *to = peft__grad_row(x, r) + c;
                *to = (peft__accumulates(node, 0) ? *to : 0.0f) + (float)slope;
            }
        }
    }
    if (pass == PEFT__BACKWARD) return;
    node->out[0]->data[0] = (float)sum;
    node->out[0]->data[1] = (float)count;
}

static const peft__op regression_op = {
    .name = "target_loss", .is_loss = true, .in_place = -1, .reads = reads, .tiles = peft__one_tile, .tile = tile_run};

peft__value *peft__op_target_loss(peft__graph *g, peft__value *outputs, peft__target_loss kind) {
    if (outputs == NULL || peft__graph_failed(g)) return NULL;
    const regression attr = {kind};
    peft__value *out = peft__value_new(g, peft__rows_fixed(g, 1), 2, "loss");
    if (out == NULL) return NULL;
    out->flags |= PEFT__VALUE_STAT;
    return peft__node_add(g, &regression_op, &outputs, 1, &out, 1, &attr, sizeof attr) != NULL ? out : NULL;
}
