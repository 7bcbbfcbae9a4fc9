/* norm.c: RMSNorm and LayerNorm over columns, or over each group of columns.
 *
 * Kept: mean and 1 / deviation of each group of each row. The output is cheap: computed again from the input, which the
 * backward pass reads anyway.
 */
#include "graph/op/tiles.h"

#include <inttypes.h>

enum { IN_X, IN_WEIGHT, IN_BIAS, IN_COUNT, OUT_Y = 0, OUT_STAT, OUT_COUNT };

typedef struct norm {
    peft__norm_kind kind;
    int64_t width, groups;      /* cols = width * groups */
    const float *weight, *bias; /* frozen ones; NULL where a value or absent */
    float eps, offset;
} norm;

static void reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    (void)node;
    *in_mask = 1u << IN_X | 1u << IN_WEIGHT;
    *out_mask = 1u << OUT_STAT;
}

static const float *weight_of(const peft__node *node) {
    return node->in[IN_WEIGHT] != NULL ? node->in[IN_WEIGHT]->data : ((const norm *)node->attr)->weight;
}
static const float *bias_of(const peft__node *node) {
    return node->in[IN_BIAS] != NULL ? node->in[IN_BIAS]->data : ((const norm *)node->attr)->bias;
}

/* Backward: tiles of dx by rows, then of the weight's gradient and of the bias's by columns. */
static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)phase;
    const norm *a = node->attr;
    const uint32_t rows = peft__row_tiles(node->in[IN_X]->rows->count, node->in[IN_X]->cols);
    if (pass == PEFT__FORWARD) return rows;
    return (peft__wants_grad(node->in[IN_X]) ? rows : 0) +
           (peft__wants_grad(node->in[IN_WEIGHT]) ? peft__column_tiles(a->width) : 0) +
           (peft__wants_grad(node->in[IN_BIAS]) ? peft__column_tiles(a->width) : 0);
}

static void forward_row(const peft__node *node, const peft__kernels *kernels, const float *weight, const float *bias,
                        int64_t r) {
    const norm *a = node->attr;
    const float *x = peft__row(node->in[IN_X], r);
    float *y = peft__row(node->out[OUT_Y], r), *stat = peft__row(node->out[OUT_STAT], r);
    for (int64_t g = 0; g < a->groups; g++, x += a->width, y += a->width, stat += 2) {
        if (a->kind == PEFT__LAYER_NORM) {
            kernels->layer_norm(a->width, x, weight, a->offset, bias, a->eps, y, stat);
        } else {
            stat[0] = 0.0f;
            stat[1] = kernels->rms_norm(a->width, x, weight, a->offset, a->eps, y);
            if (bias != NULL) kernels->accumulate(a->width, bias, y);
        }
    }
}

static void backward_row(const peft__node *node, const peft__kernels *kernels, const float *weight, int64_t r) {
    const norm *a = node->attr;
    const float *x = peft__row(node->in[IN_X], r), *dy = peft__grad_row(node->out[OUT_Y], r),
                *stat = peft__row(node->out[OUT_STAT], r);
    float *dx = peft__grad_row(node->in[IN_X], r);
    const bool accumulate = peft__accumulates(node, IN_X);
    for (int64_t g = 0; g < a->groups; g++, x += a->width, dy += a->width, dx += a->width, stat += 2) {
        if (a->kind == PEFT__LAYER_NORM)
            kernels->layer_norm_backward(a->width, x, weight, a->offset, stat, dy, dx, accumulate);
        else
            kernels->rms_norm_backward(a->width, x, weight, a->offset, stat[1], dy, dx, accumulate);
    }
}

/* Columns [c, end) of the gradient of the weight or the bias: all rows in order, group by group. */
static void vector_columns(const peft__node *node, const peft__kernels *kernels, uint32_t input, peft__range columns) {
    const norm *a = node->attr;
    const peft__value *x = node->in[IN_X], *y = node->out[OUT_Y], *stat = node->out[OUT_STAT];
    float *to = node->in[input]->grad + columns.first;
    const int64_t count = columns.end - columns.first;
    if (!peft__accumulates(node, input)) memset(to, 0, (size_t)count * sizeof(float));
    for (int64_t g = 0; g < a->groups; g++) {
        const int64_t at = g * a->width + columns.first;
        if (input == IN_WEIGHT)
            kernels->norm_weight_grad(x->rows->count, count, x->data + at, x->ld, y->grad + at, y->ld,
                                      stat->data + 2 * g, stat->ld, to);
        else
            kernels->column_sum(x->rows->count, count, y->grad + at, y->ld, NULL, 0, to, true);
    }
}

static void tile_run(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    const norm *a = node->attr;
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__value *x = node->in[IN_X];
    const float *weight = weight_of(node), *bias = bias_of(node);
    const uint32_t row_tiles =
        pass == PEFT__FORWARD || peft__wants_grad(x) ? peft__row_tiles(x->rows->count, x->cols) : 0;
    if (tile < row_tiles) {
        const peft__range rows = peft__tile_rows(tile, x->rows->count, x->cols);
        for (int64_t r = rows.first; r < rows.end; r++) {
            if (pass == PEFT__FORWARD)
                forward_row(node, kernels, weight, bias, r);
            else
                backward_row(node, kernels, weight, r);
        }
        return;
    }
    tile -= row_tiles;
    uint32_t input = IN_WEIGHT;
    if (!peft__wants_grad(node->in[IN_WEIGHT]) || tile >= peft__column_tiles(a->width)) {
        if (peft__wants_grad(node->in[IN_WEIGHT])) tile -= peft__column_tiles(a->width);
        input = IN_BIAS;
    }
    vector_columns(node, kernels, input, peft__tile_columns(tile, a->width));
}

static const peft__op norm_op = {
    .name = "norm", .cheap = true, .in_place = -1, .reads = reads, .tiles = tiles, .tile = tile_run};

static int64_t length_of(const peft__vector *vector) {
    if (vector->value != NULL) return vector->value->rows->max_rows * vector->value->cols;
    return vector->tensor != NULL ? peft__tensor_elements(vector->tensor) : 0;
}

peft__value *peft__op_norm(peft__graph *g, peft__norm_kind kind, peft__value *x, peft__vector weight, peft__vector bias,
                           float eps, float weight_offset) {
    if (x == NULL || peft__graph_failed(g)) return NULL;
    norm attr = {
        .kind = kind, .width = x->cols, .eps = eps, .offset = peft__vector_absent(&weight) ? 0.0f : weight_offset};
    if (!peft__vector_absent(&weight)) attr.width = length_of(&weight);
    if (attr.width <= 0 || x->cols % attr.width != 0)
        return peft__graph_fail(g,
                                peft__fail(peft__graph_context(g), PEFT_E_ARG,
                                           "norm: the weight has %" PRId64 " elements, the input %" PRId64 " columns",
                                           attr.width, x->cols));
    attr.groups = x->cols / attr.width;
    if (!peft__vector_check(g, "norm", &weight, attr.width) || !peft__vector_check(g, "norm", &bias, attr.width))
        return NULL;
    if (weight.value == NULL && weight.tensor != NULL && (attr.weight = peft__frozen_vector(g, weight.tensor)) == NULL)
        return NULL;
    if (bias.value == NULL && bias.tensor != NULL && (attr.bias = peft__frozen_vector(g, bias.tensor)) == NULL)
        return NULL;

    peft__value *out[OUT_COUNT] = {peft__value_new(g, x->rows, x->cols, "norm"),
                                   peft__value_new(g, x->rows, 2 * attr.groups, "norm statistics")};
    if (out[OUT_Y] == NULL || out[OUT_STAT] == NULL) return NULL;
    out[OUT_STAT]->flags |= PEFT__VALUE_STAT;
    peft__value *in[IN_COUNT] = {x, weight.value, bias.value};
    return peft__node_add(g, &norm_op, in, IN_COUNT, out, OUT_COUNT, &attr, sizeof attr) != NULL ? out[OUT_Y] : NULL;
}
