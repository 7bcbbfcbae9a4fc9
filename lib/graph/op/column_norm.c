/* column_norm.c: the two operations of DoRA: norms of the adapted weight's rows, and the output rescaled by magnitude /
 * norm.
 *
 * norms     n_j = || W_j + scale * B_j A ||: rows of W are widened a few at a time and the update is added to them,
 * which costs what one row of tokens per unit of rank would. Constant in the backward pass, as the method says. rescale
 * out = b + (m / n) (y - b): the bias is not scaled. Backward: dy = (m / n) g, dm = sum_rows g (y - b) / n and, for a
 *           trained bias, db = sum_rows g (1 - m / n).
 */
#include <inttypes.h>
#include <math.h>

#include "graph/op/weights.h"
#include "kernel/low_rank.h"

/* ---- norms ------------------------------------------------------------------------------------------------------ */

enum { NORM_W = 0, NORM_A = 1, NORM_B = 2, NORM_COUNT = 3, NORM_ROWS = 8, NORM_TILE = 64 };

typedef struct norms {
    peft__weight weight;
    float scale;
} norms;

static uint32_t norms_tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)phase;
    const norms *attr = node->attr;
    return pass == PEFT__FORWARD ? (uint32_t)peft__ceil_div(attr->weight.matrix.rows, NORM_TILE) : 0;
}

/* Rows [first, first + count) of W as floats, `ld` apart. */
static void read_rows(uint32_t cpu, const peft__matrix *m, int64_t first, int64_t count, float *out, int64_t ld) {
    if (!m->transposed) {
        for (int64_t i = 0; i < count; i++)
            peft__widen(cpu, m->dtype, peft__matrix_row(m, first + i), 0, m->cols, out + i * ld);
        return;
    }
    float part[NORM_ROWS];
    for (int64_t k = 0; k < m->cols; k++) {
        peft__widen(cpu, m->dtype, peft__matrix_row(m, k), first, count, part);
        for (int64_t i = 0; i < count; i++) out[i * ld + k] = part[i];
    }
}

static void norms_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t number, const peft__run *run) {
    (void)pass;
    (void)phase;
    const norms *attr = node->attr;
    const peft__value *a = node->in[NORM_A], *b = node->in[NORM_B];
    const peft__matrix w = peft__weight_matrix(&attr->weight);
    const peft__low_rank *kernels = peft__low_rank_for(run->cpu);
    float *rows = run->lane, *scaled = rows + NORM_ROWS * w.cols;
    const int64_t end = peft__min_i64(w.rows, ((int64_t)number + 1) * NORM_TILE);
    for (int64_t first = (int64_t)number * NORM_TILE; first < end; first += NORM_ROWS) {
        const int64_t count = peft__min_i64(NORM_ROWS, end - first);
        read_rows(run->cpu, &w, first, count, rows, w.cols);
        if (a != NULL) {
            const int64_t rank = b->cols;
            for (int64_t i = 0; i < count; i++)
                for (int64_t j = 0; j < rank; j++)
                    scaled[i * rank + j] = attr->scale * b->data[(first + i) * b->ld + j];
            kernels->expand(scaled, rank, count, a->data, a->ld, rank, w.cols, true, rows, w.cols);
        }
        for (int64_t i = 0; i < count; i++) {
            float square;
            kernels->reduce(rows + i * w.cols, w.cols, 1, rows + i * w.cols, w.cols, 1, w.cols, 1.0f, &square, 1);
            node->out[0]->data[first + i] = sqrtf(square);
        }
    }
}

static size_t norms_lane(const peft__node *node, peft__pass pass) {
    const norms *attr = node->attr;
    if (pass != PEFT__FORWARD) return 0;
    const int64_t rank = node->in[NORM_B] != NULL ? node->in[NORM_B]->cols : 0;
    return (size_t)(NORM_ROWS * (attr->weight.matrix.cols + rank)) * sizeof(float);
}

static const peft__op norms_op = {
    .name = "weight_norms", .in_place = -1, .tiles = norms_tiles, .tile = norms_tile, .lane_bytes = norms_lane};

peft__value *peft__op_weight_norms(peft__graph *g, peft__weight weight, peft__value *a, peft__value *b, float scale) {
    if (peft__graph_failed(g)) return NULL;
    if (!peft__weight_check(g, "weight_norms", &weight, weight.matrix.rows, weight.matrix.cols)) return NULL;
    if ((a == NULL) != (b == NULL) || (a != NULL && (a->cols != weight.matrix.cols || a->rows->max_rows != b->cols ||
                                                     b->rows->max_rows != weight.matrix.rows)))
        return peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_ARG,
                                              "weight_norms: A and B do not fit a weight [%" PRId64 ", %" PRId64
                                              "]: expected [r, in] and [out, r]",
                                              weight.matrix.rows, weight.matrix.cols));
    const norms attr = {weight, scale};
    peft__value *const in[NORM_COUNT] = {weight.value, a, b};
    peft__value *out = peft__value_new(g, peft__rows_fixed(g, 1), weight.matrix.rows, "weight norms");
    if (out == NULL) return NULL;
    out->flags |= PEFT__VALUE_STAT;
    return peft__node_add(g, &norms_op, in, NORM_COUNT, &out, 1, &attr, sizeof attr) == NULL ? NULL : out;
}

/* ---- rescale ------------------------------------------------------------------------------------------------ */

enum { SCALE_Y = 0, SCALE_M = 1, SCALE_N = 2, SCALE_BIAS = 3, SCALE_COUNT = 4, SCALE_ROWS = 32, SCALE_COLUMNS = 128 };

static bool wants(const peft__value *value) {
    return value != NULL && value->needs_grad;
}

static int64_t row_tiles(const peft__node *node, peft__pass pass) {
    if (pass == PEFT__BACKWARD && !wants(node->in[SCALE_Y])) return 0;
    return peft__ceil_div(node->in[SCALE_Y]->rows->count, SCALE_ROWS);
}

static uint32_t rescale_tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)phase;
    const bool sums = pass == PEFT__BACKWARD && (wants(node->in[SCALE_M]) || wants(node->in[SCALE_BIAS]));
    return (uint32_t)(row_tiles(node, pass) + (sums ? peft__ceil_div(node->in[SCALE_Y]->cols, SCALE_COLUMNS) : 0));
}

static void scale_rows(const peft__node *node, peft__pass pass, int64_t first, const peft__run *run) {
    const peft__value *y = node->in[SCALE_Y], *out = node->out[0];
    const float *m = node->in[SCALE_M]->data, *n = node->in[SCALE_N]->data;
    const int64_t end = peft__min_i64(y->rows->count, first + SCALE_ROWS);
    const bool keep = pass == PEFT__BACKWARD && peft__accumulates(node, SCALE_Y);
    for (int64_t c0 = 0; c0 < y->cols; c0 += SCALE_COLUMNS) {
        const int64_t columns = peft__min_i64(SCALE_COLUMNS, y->cols - c0);
        float factor[SCALE_COLUMNS], bias[SCALE_COLUMNS];
        for (int64_t c = 0; c < columns; c++) factor[c] = m[c0 + c] / n[c0 + c];
        peft__vector_read(run->cpu, node->attr, c0, columns, bias);
        for (int64_t r = first; r < end; r++) {
            if (pass == PEFT__FORWARD) {
                const float *from = y->data + r * y->ld + c0;
                float *to = out->data + r * out->ld + c0;
                for (int64_t c = 0; c < columns; c++) to[c] = bias[c] + factor[c] * (from[c] - bias[c]);
            } else {
                const float *from = out->grad + r * out->ld + c0;
                float *to = y->grad + r * y->ld + c0;
                if (keep)
                    for (int64_t c = 0; c < columns; c++) to[c] += factor[c] * from[c];
                else
                    for (int64_t c = 0; c < columns; c++) to[c] = factor[c] * from[c];
            }
        }
    }
}

static void sum_columns(const peft__node *node, int64_t first, const peft__run *run) {
    const peft__value *y = node->in[SCALE_Y], *m = node->in[SCALE_M], *b = node->in[SCALE_BIAS], *out = node->out[0];
    const float *n = node->in[SCALE_N]->data + first;
    const int64_t columns = peft__min_i64(SCALE_COLUMNS, y->cols - first);
    float bias[SCALE_COLUMNS], of_m[SCALE_COLUMNS] = {0}, of_b[SCALE_COLUMNS] = {0};
    peft__vector_read(run->cpu, node->attr, first, columns, bias);
    for (int64_t r = 0; r < y->rows->count; r++) {
        const float *g = out->grad + r * out->ld + first;
        if (wants(m)) {
            const float *from = y->data + r * y->ld + first;
            for (int64_t c = 0; c < columns; c++) of_m[c] += g[c] * (from[c] - bias[c]);
        }
        if (wants(b))
            for (int64_t c = 0; c < columns; c++) of_b[c] += g[c];
    }
    if (wants(m))
        for (int64_t c = 0; c < columns; c++)
            m->grad[first + c] = (peft__accumulates(node, SCALE_M) ? m->grad[first + c] : 0.0f) + of_m[c] / n[c];
    if (wants(b))
        for (int64_t c = 0; c < columns; c++)
            b->grad[first + c] = (peft__accumulates(node, SCALE_BIAS) ? b->grad[first + c] : 0.0f) +
                                 of_b[c] * (1.0f - m->data[first + c] / n[c]);
}

static void rescale_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t number,
                         const peft__run *run) {
    (void)phase;
    const int64_t rows = row_tiles(node, pass);
    if (number < rows)
        scale_rows(node, pass, (int64_t)number * SCALE_ROWS, run);
    else
        sum_columns(node, (number - rows) * SCALE_COLUMNS, run);
}

static void rescale_reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    *in_mask = 1u << SCALE_M | 1u << SCALE_N;
    if (wants(node->in[SCALE_M])) *in_mask |= 1u << SCALE_Y | (node->in[SCALE_BIAS] != NULL ? 1u << SCALE_BIAS : 0);
    *out_mask = 0;
}

static const peft__op rescale_op = {
    .name = "rescale", .in_place = SCALE_Y, .reads = rescale_reads, .tiles = rescale_tiles, .tile = rescale_tile};

peft__value *peft__op_rescale(peft__graph *g, peft__value *y, peft__value *magnitude, peft__value *norms_value,
                              peft__vector bias) {
    if (peft__graph_failed(g) || y == NULL || magnitude == NULL || norms_value == NULL) return NULL;
    if (magnitude->cols != y->cols || norms_value->cols != y->cols)
        return peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_ARG,
                                              "rescale: magnitude has %" PRId64 " and norms have %" PRId64
                                              " elements, expected %" PRId64,
                                              magnitude->cols, norms_value->cols, y->cols));
    if (!peft__vector_check(g, "rescale", &bias, y->cols)) return NULL;
    peft__value *const in[SCALE_COUNT] = {y, magnitude, norms_value, bias.value};
    peft__value *out = peft__value_new(g, y->rows, y->cols, "rescale");
    return out == NULL || peft__node_add(g, &rescale_op, in, SCALE_COUNT, &out, 1, &bias, sizeof bias) == NULL ? NULL
                                                                                                               : out;
}
