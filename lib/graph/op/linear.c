/* linear.c: y_i = x W_i^T + b_i (+ residual), for all matrices that read the same x.
 *
 * Forward     phase 0 packs x into token panels, once for all matrices; phase 1 has a tile for every block of rows
 * times block of output columns, which packs (and widens) its own piece of W and sweeps the panels. Up to
 * PEFT__GEMV_ROWS rows are not worth packing: one phase of tiles over outputs. Backward    phase 0 packs the gradients
 * of all y_i; phase 1 has independent tiles for dx = sum_i dy_i W_i, for dW_i = dy_i^T x of trained matrices, and for
 * db_i. dx is summed over i inside one tile, in order.
 *
 * Frozen weights need no x in the backward pass. The residual's gradient is that of y itself.
 */
#include "graph/op/weights.h"
#include "kernel/gemm.h"
#include "kernel/gemv.h"

enum {
    GROUP_MAX = 4,
    IN_X = 0,
    IN_RESIDUAL = 1,
    IN_WEIGHT = 2,           /* + i */
    IN_BIAS = 2 + GROUP_MAX, /* + i */
    IN_COUNT = 2 + 2 * GROUP_MAX,
    ROW_BLOCK = 768, /* rows of a tile at most: bounds its time; a multiple of PEFT__GEMM_TOKEN_CHUNK */
    FEATURE_BLOCK_MAX = 128,
    GEMV_BLOCK = 64,
    DW_TOKENS = 192,
    DW_FEATURES = 128, /* a tile of dW */
    BIAS_BLOCK = 128
};

typedef struct linear {
    uint32_t count;
    peft__weight weights[GROUP_MAX];
    peft__vector biases[GROUP_MAX];
    int64_t in;
} linear;

static const linear *attr_of(const peft__node *node) {
    return node->attr;
}
static int64_t rows_of(const peft__node *node) {
    return node->in[IN_X]->rows->count;
}

/* ---- how work is cut: by shapes only ---------------------------------------------------------------------- */

static int64_t row_block(int64_t rows) {
    const int64_t blocks = peft__max_i64(1, peft__ceil_div(rows, ROW_BLOCK));
    return peft__max_i64(1, peft__ceil_div(peft__ceil_div(rows, blocks), PEFT__GEMM_TOKEN_CHUNK)) *
           PEFT__GEMM_TOKEN_CHUNK;
}

/* Columns of a tile: some 16 million multiplications, so that tiles are worth a hand-over and short enough to slice
 * time. */
static int64_t feature_block(int64_t rows, int64_t depth) {
    const int64_t wanted = 16000000 / peft__max_i64(1, peft__min_i64(rows, ROW_BLOCK) * depth);
    return peft__min_i64(FEATURE_BLOCK_MAX, peft__max_i64(32, wanted / 32 * 32));
}

static bool is_gemv(const peft__node *node) {
    return rows_of(node) <= PEFT__GEMV_ROWS;
}

static int64_t forward_block(const peft__node *node) {
    return is_gemv(node) ? GEMV_BLOCK : feature_block(rows_of(node), attr_of(node)->in);
}

static int64_t outs_of(const linear *a) {
    int64_t sum = 0;
    for (uint32_t i = 0; i < a->count; i++) sum += a->weights[i].matrix.rows;
    return sum;
}

static int64_t forward_blocks(const peft__node *node) {
    const linear *a = attr_of(node);
    int64_t blocks = 0;
    for (uint32_t i = 0; i < a->count; i++) blocks += peft__ceil_div(a->weights[i].matrix.rows, forward_block(node));
    return blocks;
}

static bool wants(const peft__value *value) {
    return value != NULL && value->needs_grad;
}

/* dW is computed as C[tokens, features]; a transposed matrix swaps the two. */
static void dw_shape(const peft__weight *weight, int64_t *tokens, int64_t *features) {
    *tokens = weight->matrix.transposed ? weight->matrix.cols : weight->matrix.rows;
    *features = weight->matrix.transposed ? weight->matrix.rows : weight->matrix.cols;
}

static int64_t dx_tiles(const peft__node *node) {
    if (!wants(node->in[IN_X])) return 0;
    const int64_t rows = rows_of(node);
    return peft__ceil_div(rows, row_block(rows)) *
           peft__ceil_div(attr_of(node)->in, feature_block(rows, outs_of(attr_of(node))));
}

static int64_t dw_tiles(const peft__node *node, uint32_t i) {
    if (!wants(node->in[IN_WEIGHT + i])) return 0;
    int64_t tokens, features;
    dw_shape(&attr_of(node)->weights[i], &tokens, &features);
    return peft__ceil_div(tokens, DW_TOKENS) * peft__ceil_div(features, DW_FEATURES);
}

static int64_t db_tiles(const peft__node *node, uint32_t i) {
    return wants(node->in[IN_BIAS + i]) ? peft__ceil_div(attr_of(node)->weights[i].matrix.rows, BIAS_BLOCK) : 0;
}

static uint32_t phases(const peft__node *node, peft__pass pass) {
    if (pass == PEFT__FORWARD) return is_gemv(node) ? 1 : 2;
    return 2;
}

static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    const linear *a = attr_of(node);
    const int64_t rows = rows_of(node), chunks = peft__ceil_div(rows, PEFT__GEMM_TOKEN_CHUNK);
    if (pass == PEFT__FORWARD) {
        if (is_gemv(node)) return rows > 0 ? (uint32_t)forward_blocks(node) : 0;
        return (uint32_t)(phase == 0 ? chunks : forward_blocks(node) * peft__ceil_div(rows, row_block(rows)));
    }
    if (phase == 0) return wants(node->in[IN_X]) ? (uint32_t)(chunks * a->count) : 0;
    int64_t sum = dx_tiles(node);
    for (uint32_t i = 0; i < a->count; i++) sum += dw_tiles(node, i) + db_tiles(node, i);
    return (uint32_t)sum;
}

/* ---- forward ------------------------------------------------------------------------------------------------ */

/* C starts as bias + residual; false when there is neither and the product may overwrite. */
static bool start_rows(const peft__node *node, const float *bias, int64_t columns, int64_t r0, int64_t r1, float *y,
                       int64_t ldy, int64_t first) {
    const peft__value *residual = node->in[IN_RESIDUAL];
    if (residual == NULL && bias == NULL) return false;
    for (int64_t r = r0; r < r1; r++, y += ldy) {
        if (residual == NULL) {
            memcpy(y, bias, (size_t)columns * sizeof(float));
            continue;
        }
        const float *from = residual->data + r * residual->ld + first;
        if (bias != NULL)
            for (int64_t j = 0; j < columns; j++) y[j] = from[j] + bias[j];
        else if (from != y)
            memcpy(y, from, (size_t)columns * sizeof(float));
    }
    return true;
}

/* Which matrix and which block of its columns a running number means. */
static uint32_t find_block(const linear *a, int64_t block, int64_t *index) {
    uint32_t i = 0;
    for (; i + 1 < a->count; i++) {
        const int64_t blocks = peft__ceil_div(a->weights[i].matrix.rows, block);
        if (*index < blocks) break;
        *index -= blocks;
    }
    return i;
}

static void gemv_tile(const peft__node *node, uint32_t tile, const peft__run *run) {
    const linear *a = attr_of(node);
    int64_t index = tile;
    const uint32_t i = find_block(a, GEMV_BLOCK, &index);
    const peft__matrix w = peft__weight_matrix(&a->weights[i]);
    const int64_t first = index * GEMV_BLOCK, columns = peft__min_i64(GEMV_BLOCK, w.rows - first), rows = rows_of(node);
    float product[PEFT__GEMV_ROWS * GEMV_BLOCK], bias[GEMV_BLOCK];
    peft__gemv(run->cpu, &w, first, first + columns, node->in[IN_X]->data, node->in[IN_X]->ld, rows, product,
               GEMV_BLOCK);
    peft__vector_read(run->cpu, &a->biases[i], first, columns, bias);
    for (int64_t r = 0; r < rows; r++) {
        float *y = node->out[i]->data + r * node->out[i]->ld + first;
        const peft__value *residual = node->in[IN_RESIDUAL];
        for (int64_t j = 0; j < columns; j++)
            y[j] = product[r * GEMV_BLOCK + j] + bias[j] +
                   (residual != NULL ? residual->data[r * residual->ld + first + j] : 0.0f);
    }
}

static void forward_tile(const peft__node *node, uint32_t tile, const peft__run *run) {
    const linear *a = attr_of(node);
    const int64_t rows = rows_of(node), block = forward_block(node), blocks = forward_blocks(node);
    const int64_t height = row_block(rows), r0 = tile / blocks * height, r1 = peft__min_i64(rows, r0 + height);
    int64_t index = tile % blocks;
    const uint32_t i = find_block(a, block, &index);
    const peft__matrix w = peft__weight_matrix(&a->weights[i]);
    const int64_t first = index * block, columns = peft__min_i64(block, w.rows - first);
    const peft__gemm gemm = peft__gemm_for(run->cpu, rows);

    float *panels = run->lane, *scratch = panels + peft__gemm_feature_floats(FEATURE_BLOCK_MAX, PEFT__GEMM_DEPTH);
    float *bias = NULL;
    if (!peft__vector_absent(&a->biases[i])) {
        bias = scratch + peft__gemm_pack_scratch();
        peft__vector_read(run->cpu, &a->biases[i], first, columns, bias);
    }
    const int64_t ldy = node->out[i]->ld;
    const float *x = (const float *)run->temp + r0 * a->in;
    float *y = node->out[i]->data + r0 * ldy + first;
    for (int64_t k0 = 0, depth; k0 < a->in; k0 += depth) {
        depth = peft__gemm_depth(a->in, k0);
        peft__gemm_pack_features(&gemm, &w, first, columns, k0, depth, scratch, panels);
        for (int64_t r = r0; r < r1; r += gemm.tokens) {
            const int64_t here = peft__min_i64(gemm.tokens, r1 - r);
            float *to = y + (r - r0) * ldy;
            const bool keep = k0 > 0 || start_rows(node, bias, columns, r, r + here, to, ldy, first);
            peft__gemm_sweep(&gemm, panels, columns, x + (r - r0) * a->in + k0 * gemm.tokens, 0, here, depth,
                             keep ? 1.0f : 0.0f, to, ldy);
        }
    }
}

/* ---- backward ------------------------------------------------------------------------------------------------- */

/* Where the packed gradient of y_i begins in the shared scratch. */
static size_t dy_offset(const linear *a, uint32_t i, int64_t rows) {
    size_t offset = 0;
    for (uint32_t j = 0; j < i; j++) offset += peft__gemm_token_floats(rows, a->weights[j].matrix.rows);
    return offset;
}

static void dx_tile(const peft__node *node, int64_t tile, const peft__run *run) {
    const linear *a = attr_of(node);
    const int64_t rows = rows_of(node), block = feature_block(rows, outs_of(a)), blocks = peft__ceil_div(a->in, block);
    const int64_t height = row_block(rows), r0 = tile / blocks * height, r1 = peft__min_i64(rows, r0 + height);
    const int64_t first = tile % blocks * block, columns = peft__min_i64(block, a->in - first);
    const peft__gemm gemm = peft__gemm_for(run->cpu, rows);
    const peft__value *x = node->in[IN_X];
    float *panels = run->lane, *scratch = panels + peft__gemm_feature_floats(FEATURE_BLOCK_MAX, PEFT__GEMM_DEPTH);
    float *to = x->grad + r0 * x->ld + first;
    bool keep = peft__accumulates(node, IN_X);
    for (uint32_t i = 0; i < a->count; i++) {
        if (node->out[i]->grad == NULL) continue;
        const peft__matrix w = peft__weight_matrix(&a->weights[i]);
        const float *dy = (const float *)run->temp + dy_offset(a, i, rows) + r0 * w.rows;
        for (int64_t k0 = 0, depth; k0 < w.rows; k0 += depth) {
            depth = peft__gemm_depth(w.rows, k0);
            peft__gemm_pack_features_t(&gemm, &w, first, columns, k0, depth, scratch, panels);
            peft__gemm_sweep(&gemm, panels, columns, dy + k0 * gemm.tokens, w.rows * gemm.tokens, r1 - r0, depth,
                             keep ? 1.0f : 0.0f, to, x->ld);
            keep = true;
        }
    }
    if (!keep)
        for (int64_t r = r0; r < r1; r++) memset(x->grad + r * x->ld + first, 0, (size_t)columns * sizeof(float));
}

static void clear_block(float *to, int64_t ld, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r++) memset(to + r * ld, 0, (size_t)columns * sizeof(float));
}

static void dw_tile(const peft__node *node, uint32_t i, int64_t tile, const peft__run *run) {
    const linear *a = attr_of(node);
    const peft__weight *weight = &a->weights[i];
    const peft__value *x = node->in[IN_X], *y = node->out[i], *value = node->in[IN_WEIGHT + i];
    int64_t tokens, features;
    dw_shape(weight, &tokens, &features);
    const int64_t blocks = peft__ceil_div(features, DW_FEATURES), rows = rows_of(node);
    const int64_t t0 = tile / blocks * DW_TOKENS, f0 = tile % blocks * DW_FEATURES;
    const int64_t height = peft__min_i64(DW_TOKENS, tokens - t0), columns = peft__min_i64(DW_FEATURES, features - f0);
    float *to = value->grad + t0 * value->ld + f0;
    bool keep = peft__accumulates(node, IN_WEIGHT + i);
    if (y->grad == NULL || rows == 0) {
        if (!keep) clear_block(to, value->ld, height, columns);
        return;
    }
    const peft__gemm gemm = peft__gemm_for(run->cpu, tokens);
    const float *token_data = weight->matrix.transposed ? x->data : y->grad,
                *feature_data = weight->matrix.transposed ? y->grad : x->data;
    const int64_t token_ld = weight->matrix.transposed ? x->ld : y->ld,
                  feature_ld = weight->matrix.transposed ? y->ld : x->ld;
    peft__matrix source = peft__matrix_f32(feature_data, rows, features);
    source.stride = (size_t)feature_ld * sizeof(float);
    float *panels = run->lane, *scratch = panels + peft__gemm_feature_floats(DW_FEATURES, PEFT__GEMM_DEPTH);
    float *packed = scratch + peft__gemm_pack_scratch();
    for (int64_t k0 = 0, depth; k0 < rows; k0 += depth) {
        depth = peft__gemm_depth(rows, k0);
        peft__gemm_pack_features_t(&gemm, &source, f0, columns, k0, depth, scratch, panels);
        peft__gemm_pack_tokens_t(&gemm, token_data + k0 * token_ld + t0, token_ld, height, depth, packed);
        peft__gemm_sweep(&gemm, panels, columns, packed, depth * gemm.tokens, height, depth, keep ? 1.0f : 0.0f, to,
                         value->ld);
        keep = true;
    }
}

static void db_tile(const peft__node *node, uint32_t i, int64_t tile) {
    const peft__value *y = node->out[i], *value = node->in[IN_BIAS + i];
    const int64_t first = tile * BIAS_BLOCK, columns = peft__min_i64(BIAS_BLOCK, value->cols - first);
    float sum[BIAS_BLOCK] = {0};
    if (y->grad != NULL)
        for (int64_t r = 0; r < y->rows->count; r++)
            for (int64_t j = 0; j < columns; j++) sum[j] += y->grad[r * y->ld + first + j];
    const bool keep = peft__accumulates(node, IN_BIAS + i);
    for (int64_t j = 0; j < columns; j++) value->grad[first + j] = (keep ? value->grad[first + j] : 0.0f) + sum[j];
}

static void backward_tile(const peft__node *node, uint32_t phase, uint32_t tile, const peft__run *run) {
    const linear *a = attr_of(node);
    const int64_t rows = rows_of(node);
    if (phase == 0) {
        const uint32_t i = tile % a->count;
        const int64_t first = (int64_t)(tile / a->count) * PEFT__GEMM_TOKEN_CHUNK, k = a->weights[i].matrix.rows;
        const peft__value *y = node->out[i];
        const peft__gemm gemm = peft__gemm_for(run->cpu, rows);
        if (y->grad == NULL) return;
        peft__gemm_pack_tokens(&gemm, y->grad + first * y->ld, y->ld,
                               peft__min_i64(PEFT__GEMM_TOKEN_CHUNK, rows - first), k,
                               (float *)run->temp + dy_offset(a, i, rows) + first * k);
        return;
    }
    int64_t index = tile;
    if (index < dx_tiles(node)) {
        dx_tile(node, index, run);
        return;
    }
    index -= dx_tiles(node);
    for (uint32_t i = 0; i < a->count; i++) {
        if (index < dw_tiles(node, i)) {
            dw_tile(node, i, index, run);
            return;
        }
        index -= dw_tiles(node, i);
        if (index < db_tiles(node, i)) {
            db_tile(node, i, index);
            return;
        }
        index -= db_tiles(node, i);
    }
}

static void tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t number, const peft__run *run) {
    if (pass == PEFT__BACKWARD) {
        backward_tile(node, phase, number, run);
    } else if (is_gemv(node)) {
        gemv_tile(node, number, run);
    } else if (phase == 0) {
        const peft__value *x = node->in[IN_X];
        const int64_t rows = rows_of(node), first = (int64_t)number * PEFT__GEMM_TOKEN_CHUNK;
        const peft__gemm gemm = peft__gemm_for(run->cpu, rows);
        peft__gemm_pack_tokens(&gemm, x->data + first * x->ld, x->ld,
                               peft__min_i64(PEFT__GEMM_TOKEN_CHUNK, rows - first), x->cols,
                               (float *)run->temp + first * x->cols);
    } else {
        forward_tile(node, number, run);
    }
}

/* ---- planning ---------------------------------------------------------------------------------------------------- */

static void reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    *in_mask = *out_mask = 0;
    for (uint32_t i = 0; i < attr_of(node)->count; i++) {
        if (wants(node->in[IN_WEIGHT + i])) *in_mask |= 1u << IN_X;
        if (node->in[IN_WEIGHT + i] != NULL && wants(node->in[IN_X])) *in_mask |= 1u << (IN_WEIGHT + i);
    }
}

static size_t temp_bytes(const peft__node *node, peft__pass pass) {
    const linear *a = attr_of(node);
    const int64_t rows = node->in[IN_X]->rows->max_rows;
    if (pass == PEFT__FORWARD) return peft__gemm_token_floats(rows, a->in) * sizeof(float);
    return wants(node->in[IN_X]) ? dy_offset(a, a->count, rows) * sizeof(float) : 0;
}

static size_t lane_bytes(const peft__node *node, peft__pass pass) {
    size_t floats =
        peft__gemm_feature_floats(FEATURE_BLOCK_MAX, PEFT__GEMM_DEPTH) + peft__gemm_pack_scratch() + FEATURE_BLOCK_MAX;
    if (pass == PEFT__BACKWARD)
        for (uint32_t i = 0; i < attr_of(node)->count; i++)
            if (wants(node->in[IN_WEIGHT + i]))
                floats = peft__max_size(floats, peft__gemm_feature_floats(DW_FEATURES, PEFT__GEMM_DEPTH) +
                                                    peft__gemm_pack_scratch() +
                                                    peft__gemm_token_floats(DW_TOKENS, PEFT__GEMM_DEPTH));
    return floats * sizeof(float);
}

/* y; dx and, of trained matrices, dW. */
static double products(const peft__node *node, peft__pass pass, const peft_batch *batch) {
    const linear *a = attr_of(node);
    const double rows = (double)rows_of(node) * (double)a->in;
    (void)batch;
    if (pass == PEFT__FORWARD) return rows * (double)outs_of(a);
    double sum = wants(node->in[IN_X]) ? (double)outs_of(a) : 0.0;
    for (uint32_t i = 0; i < a->count; i++)
        if (wants(node->in[IN_WEIGHT + i])) sum += (double)a->weights[i].matrix.rows;
    return rows * sum;
}

static const peft__op linear_op = {
    .name = "linear",
    .in_place = -1,
    .reads = reads,
    .phases = phases,
    .tiles = tiles,
    .tile = tile,
    .temp_bytes = temp_bytes,
    .lane_bytes = lane_bytes,
    .products = products,
};

static const peft__op linear_residual_op = {
    .name = "linear",
    .in_place = IN_RESIDUAL,
    .alias_grad = 1u << IN_RESIDUAL,
    .reads = reads,
    .phases = phases,
    .tiles = tiles,
    .tile = tile,
    .temp_bytes = temp_bytes,
    .lane_bytes = lane_bytes,
    .products = products,
};

static const peft__value *root(const peft__value *value) {
    while (value->base != NULL) value = value->base;
    return value;
}

void peft__op_linear_group(peft__graph *g, peft__value *x, const peft__weight *weights, const peft__vector *biases,
                           uint32_t count, peft__value *residual, peft__value **out) {
    for (uint32_t i = 0; i < count; i++) out[i] = NULL;
    if (peft__graph_failed(g)) return;
    if (x == NULL || count == 0 || count > GROUP_MAX || (residual != NULL && count != 1)) {
        peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_ARG,
                                       "linear: expected an input and 1 to %d matrices, found %u", GROUP_MAX, count));
        return;
    }
    /* y = x W^T + x (or another view of the same rows): the two roles would share storage and gradient. */
    if (residual != NULL && root(residual) == root(x)) {
        peft__op_linear_group(g, x, weights, biases, 1, NULL, out);
        out[0] = peft__op_add(g, out[0], residual);
        return;
    }
    linear attr = {.count = count, .in = x->cols};
    peft__value *in[IN_COUNT] = {x, residual}, *outputs[GROUP_MAX];
    for (uint32_t i = 0; i < count; i++) {
        attr.weights[i] = weights[i];
        if (biases != NULL) attr.biases[i] = biases[i];
        if (!peft__weight_check(g, "linear", &attr.weights[i], weights[i].matrix.rows, x->cols) ||
            !peft__vector_check(g, "linear", &attr.biases[i], weights[i].matrix.rows))
            return;
        in[IN_WEIGHT + i] = attr.weights[i].value;
        in[IN_BIAS + i] = attr.biases[i].value;
        outputs[i] = peft__value_new(g, x->rows, weights[i].matrix.rows, "linear");
        if (outputs[i] == NULL) return;
    }
    if (residual != NULL && (residual->rows != x->rows || residual->cols != outputs[0]->cols)) {
        peft__graph_fail(g,
                         peft__fail(peft__graph_context(g), PEFT_E_ARG, "linear: residual and output differ in shape"));
        return;
    }
    if (peft__node_add(g, residual != NULL ? &linear_residual_op : &linear_op, in, IN_COUNT, outputs, count, &attr,
                       sizeof attr) == NULL)
        return;
    for (uint32_t i = 0; i < count; i++) out[i] = outputs[i];
}

peft__value *peft__op_linear(peft__graph *g, peft__value *x, peft__weight weight, peft__vector bias,
                             peft__value *residual) {
    peft__value *out = NULL;
    peft__op_linear_group(g, x, &weight, &bias, 1, residual, &out);
    return out;
}
