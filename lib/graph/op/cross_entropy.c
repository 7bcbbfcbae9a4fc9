/* cross_entropy.c: cross entropy on logits that exist (classifiers, cloze heads, small vocabularies).
 *
 * Phase 0 takes the log-sum-exp of each row, kept for the backward pass; phase 1 adds the rows up in order, in double.
 * A row whose label is -100 does not count. With label smoothing e and class weights w, as PyTorch: loss = (1 - e) w_y
 * (lse - z_y) + e / C sum_c w_c (lse - z_c),   count = sum of w_y
 */
#include "graph/op/tiles.h"

#include <math.h>

enum { OUT_LOSS, OUT_LSE, OUT_COUNT };

typedef struct cross_entropy {
    bool by_sequence;
    float smoothing;
    const float *weights; /* [C] or NULL */
    float weight_sum;     /* sum of weights, C without */
} cross_entropy;

static const cross_entropy *attr_of(const peft__node *node) {
    return node->attr;
}

static int32_t label_of(const peft__node *node, const peft_batch *batch, int64_t row) {
    const peft__rows *rows = node->in[0]->rows;
    if (!attr_of(node)->by_sequence) return rows->labels[row];
    return batch->sequence_labels != NULL && row < batch->sequences ? batch->sequence_labels[row] : PEFT_IGNORE_LABEL;
}

static float weight_of(const cross_entropy *a, int64_t c) {
    return a->weights != NULL ? a->weights[c] : 1.0f;
}

static void reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    (void)node;
    *in_mask = 1u;
    *out_mask = 1u << OUT_LSE;
}

static uint32_t phases(const peft__node *node, peft__pass pass) {
    (void)node;
    return pass == PEFT__FORWARD ? 2 : 1;
}

static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    if (pass == PEFT__FORWARD && phase == 1) return 1;
    return peft__row_tiles(node->in[0]->rows->count, node->in[0]->cols);
}

/* The loss of a row; NaN for a label beyond the classes (the session refuses those before). */
static double row_loss(const peft__node *node, int32_t label, int64_t row) {
    const cross_entropy *a = attr_of(node);
    const peft__value *logits = node->in[0];
    const float *z = peft__row(logits, row);
    if (label < 0 || label >= logits->cols) return NAN;
    const double lse = (double)peft__row(node->out[OUT_LSE], row)[0];
    double loss = (1.0 - (double)a->smoothing) * (double)weight_of(a, label) * (lse - (double)z[label]);
    if (a->smoothing != 0.0f) {
        double sum = 0.0;
        for (int64_t c = 0; c < logits->cols; c++) sum += (double)weight_of(a, c) * (lse - (double)z[c]);
        loss += (double)a->smoothing / (double)logits->cols * sum;
    }
    return loss;
}

static void sum_rows(const peft__node *node, const peft_batch *batch) {
    const cross_entropy *a = attr_of(node);
    double sum = 0.0, count = 0.0;
    for (int64_t r = 0; r < node->in[0]->rows->count; r++) {
        const int32_t label = label_of(node, batch, r);
        if (label == PEFT_IGNORE_LABEL) continue;
        sum += row_loss(node, label, r);
        count += label >= 0 && label < node->in[0]->cols ? (double)weight_of(a, label) : 1.0;
    }
    node->out[OUT_LOSS]->data[0] = (float)sum;
    node->out[OUT_LOSS]->data[1] = (float)count;
}

static void backward_row(const peft__node *node, const peft__kernels *kernels, int32_t label, int64_t row) {
    const cross_entropy *a = attr_of(node);
    const peft__value *logits = node->in[0];
    const int64_t classes = logits->cols;
    float *dz = peft__grad_row(logits, row);
    const bool accumulate = peft__accumulates(node, 0);
    if (label < 0 || label >= classes) {
        if (!accumulate) memset(dz, 0, (size_t)classes * sizeof(float));
        return;
    }
    const float on = (1.0f - a->smoothing) * weight_of(a, label), share = a->smoothing / (float)classes;
    kernels->softmax(classes, peft__row(logits, row), peft__row(node->out[OUT_LSE], row)[0], on + share * a->weight_sum,
                     dz, accumulate);
    dz[label] -= on;
    if (share == 0.0f) return;
    for (int64_t c = 0; c < classes; c++) dz[c] -= share * weight_of(a, c);
}

static void tile_run(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    if (pass == PEFT__FORWARD && phase == 1) {
        sum_rows(node, run->batch);
        return;
    }
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__value *logits = node->in[0];
    const peft__range rows = peft__tile_rows(tile, logits->rows->count, logits->cols);
    for (int64_t r = rows.first; r < rows.end; r++) {
        if (pass == PEFT__FORWARD)
            peft__row(node->out[OUT_LSE], r)[0] = kernels->log_sum_exp(logits->cols, peft__row(logits, r));
        else
            backward_row(node, kernels, label_of(node, run->batch, r), r);
    }
}

static const peft__op cross_entropy_op = {.name = "cross_entropy",
                                          .is_loss = true,
                                          .in_place = -1,
                                          .reads = reads,
                                          .phases = phases,
                                          .tiles = tiles,
                                          .tile = tile_run};

peft__value *peft__op_cross_entropy(peft__graph *g, peft__value *logits, const peft__cross_entropy_config *config) {
    if (logits == NULL || peft__graph_failed(g)) return NULL;
    cross_entropy attr = {
        .by_sequence = config->by_sequence, .smoothing = config->label_smoothing, .weight_sum = (float)logits->cols};
    if (config->class_weights != NULL) {
        float *weights = peft__arena_alloc(peft__graph_arena(g), (size_t)logits->cols * sizeof(float));
        if (weights == NULL)
            return peft__graph_fail(
                g, peft__fail_nomem(peft__graph_context(g), (size_t)logits->cols * sizeof(float), "class weights"));
        double sum = 0.0;
        for (int64_t c = 0; c < logits->cols; c++) sum += (double)(weights[c] = config->class_weights[c]);
        attr.weights = weights;
        attr.weight_sum = (float)sum;
    }
    peft__value *out[OUT_COUNT] = {peft__value_new(g, peft__rows_fixed(g, 1), 2, "loss"),
                                   peft__value_new(g, logits->rows, 1, "log-sum-exp")};
    if (out[OUT_LOSS] == NULL || out[OUT_LSE] == NULL) return NULL;
    out[OUT_LOSS]->flags |= PEFT__VALUE_STAT;
    out[OUT_LSE]->flags |= PEFT__VALUE_STAT;
    return peft__node_add(g, &cross_entropy_op, &logits, 1, out, OUT_COUNT, &attr, sizeof attr) != NULL ? out[OUT_LOSS]
                                                                                                        : NULL;
}
