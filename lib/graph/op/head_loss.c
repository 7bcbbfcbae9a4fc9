/* head_loss.c: output layer and cross entropy in one, at rows that have a label.
 *
 * Rows with labels are taken in chunks, so that the logits of one chunk (at most LOGIT_BYTES) are all that ever exists.
 * A chunk goes through five phases:
 *
 *   GATHER    its rows of x, packed
 *   LOGITS    tiles over blocks of the vocabulary
 *   SOFTMAX   loss, and the gradient in place of the logits, as token panels (kernel/softmax_loss.h)
 *   PRODUCTS  dx = G W: tiles over segments of the vocabulary times columns of x, each a partial sum of its own;
 *             dW = G^T x for a trained head
 *   FINISH    adds the partial sums in order, adds up the loss
 *
 * With a frozen head the gradient is found while the logits are there, in the forward pass, and kept in a second output
 * (row k = k-th row with a label): one product less, and the backward pass is a copy. A trained head must not touch its
 * gradient before the host asks for the backward pass, so there the chunks are gone through again. The loss is summed
 * in double, in the order of rows.
 *
 * peft__op_head_nll is the same without the sum: each row gives its own loss, and takes a gradient of its own, by which
 * its row of the logits' gradient is multiplied.
 */
#include "graph/op/weights.h"
#include "kernel/gemm.h"
#include "kernel/softmax_loss.h"

enum {
    IN_X = 0,
    IN_WEIGHT = 1,
    IN_BIAS = 2,
    IN_COUNT = 3,
    OUT_LOSS = 0,
    OUT_GRAD = 1,
    GATHER,
    LOGITS,
    SOFTMAX,
    PRODUCTS,
    FINISH,
    CHUNK_PHASES = 5,
    BLOCK = PEFT__GEMM_DEPTH, /* columns of a block of logits: as deep as one piece of the product that reads them */
    PACK_COLUMNS = 128,       /* columns of a packed piece of W */
    SEGMENT = 16 * BLOCK,     /* vocabulary of a partial sum of dx */
    SEGMENTS_MAX = 16,
    DX_COLUMNS = 96,
    DW_ROWS = 192,
    CHUNK_ROWS = 256,
    CHUNK_ROWS_MIN = 24,
    LOGIT_BYTES = 64 << 20
};

typedef struct head_loss {
    peft__weight weight;
    peft__vector bias;
    peft__head_config config;
    bool by_row; /* out[0] is [rows, 1], one loss a row, and no end of the graph */
} head_loss;

static bool wants(const peft__value *value) {
    return value != NULL && value->needs_grad;
}
static bool is_by_row(const peft__node *node) {
    return ((const head_loss *)node->attr)->by_row;
}
static bool is_trained(const peft__node *node) {
    return wants(node->in[IN_WEIGHT]) || wants(node->in[IN_BIAS]);
}

/* ---- shapes ------------------------------------------------------------------------------------------------- */

/* What is done in one pass over the chunks. */
typedef struct shape {
    int64_t labelled, chunks, height; /* rows of a chunk; the last may have fewer */
    int64_t padded;                   /* height rounded up to panels of any kernel */
    int64_t columns, cols;            /* vocabulary, width of x */
    int64_t blocks, segments, segment;
    bool gradient, dx, dweight, dbias;
    peft__gemm gemm;
    /* Parts of the shared scratch, in floats. */
    size_t index, labels, losses, packed, gathered, logits, partial, end;
} shape;

static int64_t labelled_before(const peft__rows *rows, int64_t end) {
    int64_t count = 0;
    for (int64_t r = 0; r < end && rows->labels != NULL; r++) count += rows->labels[r] != PEFT_IGNORE_LABEL;
    return count;
}

static size_t aligned(size_t floats) {
    return (floats + 15) / 16 * 16;
}

static int64_t most_rows(int64_t columns) {
    const int64_t fit = LOGIT_BYTES / (4 * peft__max_i64(1, columns));
    return peft__max_i64(CHUNK_ROWS_MIN, peft__min_i64(CHUNK_ROWS, fit));
}

static shape shape_of(const peft__node *node, peft__pass pass, int64_t labelled, uint32_t cpu) {
    const head_loss *a = node->attr;
    shape s = {.labelled = labelled, .columns = a->weight.matrix.rows, .cols = a->weight.matrix.cols};
    s.chunks = peft__ceil_div(labelled, most_rows(s.columns));
    s.height = peft__ceil_div(labelled, peft__max_i64(1, s.chunks));
    s.padded = s.height + PEFT__GEMM_MAX_TOKENS;
    s.blocks = peft__ceil_div(s.columns, BLOCK);
    s.segments = peft__min_i64(SEGMENTS_MAX, peft__ceil_div(s.columns, SEGMENT));
    s.segment = peft__ceil_div(s.blocks, s.segments); /* in blocks */
    s.segments = peft__ceil_div(s.blocks, s.segment);
    s.gradient = pass == PEFT__BACKWARD || (wants(node->in[IN_X]) && !is_trained(node));
    s.dx = s.gradient && wants(node->in[IN_X]);
    s.dweight = pass == PEFT__BACKWARD && wants(node->in[IN_WEIGHT]);
    s.dbias = pass == PEFT__BACKWARD && wants(node->in[IN_BIAS]);
    s.gemm = peft__gemm_for(cpu, s.height);

    size_t at = 16; /* the running sum of the loss */
    s.index = at, at += aligned((size_t)s.height);
    s.labels = at, at += aligned((size_t)s.height);
    s.losses = at, at += aligned((size_t)(2 * s.height));
    s.packed = at, at += aligned(peft__gemm_token_floats(s.height, s.cols));
    s.gathered = at, at += s.dweight ? aligned((size_t)(s.height * s.cols)) : 0;
    s.logits = at, at += aligned((size_t)(s.blocks * BLOCK * s.padded));
    s.partial = at, at += s.dx ? (size_t)s.segments * aligned((size_t)(s.height * s.cols)) : 0;
    s.end = at;
    return s;
}

static shape bound_shape(const peft__node *node, peft__pass pass, uint32_t cpu) {
    const peft__rows *rows = node->in[IN_X]->rows;
    return shape_of(node, pass, labelled_before(rows, rows->count), cpu);
}

/* Rows of chunk `chunk`. */
static int64_t chunk_rows(const shape *s, int64_t chunk) {
    return peft__min_i64(s->height, s->labelled - chunk * s->height);
}
static float *partial_of(const shape *s, float *temp, int64_t segment) {
    return temp + s->partial + (size_t)segment * aligned((size_t)(s->height * s->cols));
}
static int64_t block_columns(const shape *s, int64_t block) {
    return peft__min_i64(BLOCK, s->columns - block * BLOCK);
}
static float *block_logits(const shape *s, float *temp, int64_t block) {
    return temp + s->logits + (size_t)(block * BLOCK * s->padded);
}

/* ---- phases ---------------------------------------------------------------------------------------------------- */

static void gather(const peft__node *node, const shape *s, int64_t chunk, int64_t tile, float *temp) {
    const peft__value *x = node->in[IN_X];
    const int64_t first = tile * PEFT__GEMM_TOKEN_CHUNK,
                  count = peft__min_i64(PEFT__GEMM_TOKEN_CHUNK, chunk_rows(s, chunk) - first);
    int32_t *index = (int32_t *)(void *)(temp + s->index), *labels = (int32_t *)(void *)(temp + s->labels);
    int64_t skip = chunk * s->height + first, found = 0;
    const float *rows[PEFT__GEMM_TOKEN_CHUNK];
    for (int64_t r = 0; found < count; r++) {
        if (x->rows->labels[r] == PEFT_IGNORE_LABEL || skip-- > 0) continue;
        index[first + found] = (int32_t)r;
        labels[first + found] = x->rows->labels[r];
        rows[found] = x->data + r * x->ld;
        if (s->dweight)
            memcpy(temp + s->gathered + (first + found) * s->cols, rows[found], (size_t)s->cols * sizeof(float));
        found++;
    }
    for (int64_t i = 0; i < count; i += s->gemm.tokens)
        peft__gemm_turn_rows(rows + i, peft__min_i64(s->gemm.tokens, count - i), s->gemm.tokens, s->cols,
                             temp + s->packed + (first + i) * s->cols);
}

static void logits(const peft__node *node, const shape *s, int64_t chunk, int64_t block, const peft__run *run) {
    const head_loss *a = node->attr;
    const peft__matrix w = peft__weight_matrix(&a->weight);
    const int64_t ld = block_columns(s, block), rows = chunk_rows(s, chunk), tall = s->gemm.tokens;
    float *temp = run->temp, *panels = run->lane,
          *scratch = panels + peft__gemm_feature_floats(PACK_COLUMNS, PEFT__GEMM_DEPTH);
    float *out = block_logits(s, temp, block);
    const bool has_bias = !peft__vector_absent(&a->bias);
    if (has_bias) {
        peft__vector_read(run->cpu, &a->bias, block * BLOCK, ld, out);
        for (int64_t r = 1; r < rows; r++) memcpy(out + r * ld, out, (size_t)ld * sizeof(float));
    }
    for (int64_t first = 0; first < ld; first += PACK_COLUMNS) {
        const int64_t columns = peft__min_i64(PACK_COLUMNS, ld - first);
        for (int64_t k0 = 0, depth; k0 < s->cols; k0 += depth) {
            depth = peft__gemm_depth(s->cols, k0);
            peft__gemm_pack_features(&s->gemm, &w, block * BLOCK + first, columns, k0, depth, scratch, panels);
            peft__gemm_sweep(&s->gemm, panels, columns, temp + s->packed + k0 * tall, s->cols * tall, rows, depth,
                             k0 > 0 || has_bias ? 1.0f : 0.0f, out + first, ld);
        }
    }
}

static void softmax(const peft__node *node, const shape *s, int64_t chunk, int64_t panel, const peft__run *run) {
    const head_loss *a = node->attr;
    float *temp = run->temp;
    const int64_t tall = s->gemm.tokens, first = panel * tall;
    peft__softmax_loss job = {
        .block = BLOCK,
        .block_stride = BLOCK * s->padded,
        .columns = s->columns,
        .rows = peft__min_i64(tall, chunk_rows(s, chunk) - first),
        .panel = tall,
        .labels = (int32_t *)(void *)(temp + s->labels) + first,
        .logit_scale = a->config.logit_scale,
        .soft_cap = a->config.soft_cap,
        .label_smoothing = a->config.label_smoothing,
        .gradient = s->gradient,
        .scratch = run->lane,
        .losses = (double *)(void *)(temp + s->losses) + first,
        .first = first,
    };
    job.logits = block_logits(s, temp, 0);
    peft__softmax_loss_panel(run->cpu, &job);
}

/* Rows of the logits' gradient times what arrives at the rows' losses. It lies as [column][row of the panel]. */
static void weigh(const peft__node *node, const shape *s, int64_t chunk, int64_t panel, float *temp) {
    const peft__value *out = node->out[OUT_LOSS];
    const int32_t *index = (const int32_t *)(const void *)(temp + s->index);
    const int64_t tall = s->gemm.tokens, first = panel * tall;
    for (int64_t block = 0; block < s->blocks; block++) {
        const int64_t columns = block_columns(s, block);
        float *rows = block_logits(s, temp, block) + first * columns;
        for (int64_t r = 0; r < tall && first + r < chunk_rows(s, chunk); r++) {
            const float factor = out->grad[index[first + r] * out->ld];
            for (int64_t c = 0; c < columns; c++) rows[c * tall + r] *= factor;
        }
    }
}

/* The partial sum of dx over one segment of the vocabulary, some columns of x. */
static void dx_segment(const peft__node *node, const shape *s, int64_t chunk, int64_t tile, const peft__run *run) {
    const head_loss *a = node->attr;
    const peft__matrix w = peft__weight_matrix(&a->weight);
    const int64_t across = peft__ceil_div(s->cols, DX_COLUMNS), segment = tile / across,
                  first = tile % across * DX_COLUMNS;
    const int64_t columns = peft__min_i64(DX_COLUMNS, s->cols - first), rows = chunk_rows(s, chunk),
                  tall = s->gemm.tokens;
    float *temp = run->temp, *panels = run->lane,
          *scratch = panels + peft__gemm_feature_floats(PACK_COLUMNS, PEFT__GEMM_DEPTH);
    float *to = partial_of(s, temp, segment) + first;
    const int64_t begin = segment * s->segment, end = peft__min_i64(s->blocks, begin + s->segment);
    for (int64_t block = begin; block < end; block++) {
        const int64_t depth = block_columns(s, block);
        peft__gemm_pack_features_t(&s->gemm, &w, first, columns, block * BLOCK, depth, scratch, panels);
        peft__gemm_sweep(&s->gemm, panels, columns, block_logits(s, temp, block), depth * tall, rows, depth,
                         block > begin ? 1.0f : 0.0f, to, s->cols);
    }
}

/* Rows of dW (and elements of db) from one chunk. The gradient lies as [column][row of the panel]. */
static void dw_rows(const peft__node *node, const shape *s, int64_t chunk, int64_t tile, const peft__run *run) {
    const int64_t block = tile / (BLOCK / DW_ROWS), inside = tile % (BLOCK / DW_ROWS) * DW_ROWS,
                  depth_of_block = block_columns(s, block);
    const int64_t first = block * BLOCK + inside, count = peft__min_i64(DW_ROWS, depth_of_block - inside);
    const int64_t rows = chunk_rows(s, chunk), tall = s->gemm.tokens;
    float *temp = run->temp;
    const float *gradient = block_logits(s, temp, block) + inside * tall;
    if (count <= 0) return;
    if (s->dbias) {
        float *db = node->in[IN_BIAS]->grad + first;
        const bool keep = chunk > 0 || peft__accumulates(node, IN_BIAS);
        for (int64_t v = 0; v < count; v++) {
            double sum = 0.0;
            for (int64_t r = 0; r < rows; r++)
                sum += (double)gradient[r / tall * tall * depth_of_block + v * tall + r % tall];
            db[v] = (keep ? db[v] : 0.0f) + (float)sum;
        }
    }
    if (!s->dweight) return;
    const peft__value *weight = node->in[IN_WEIGHT];
    const peft__gemm gemm = peft__gemm_for(run->cpu, DW_ROWS);
    const peft__matrix x = peft__matrix_f32(temp + s->gathered, rows, s->cols);
    float *panels = run->lane, *scratch = panels + peft__gemm_feature_floats(PACK_COLUMNS, PEFT__GEMM_DEPTH);
    float *packed = scratch + peft__gemm_pack_scratch();
    /* Token panels [row][vocabulary] out of pieces [vocabulary][rows of a panel]. */
    for (int64_t v = 0; v < count; v += gemm.tokens)
        for (int64_t r = 0; r < rows; r += tall)
            peft__gemm_turn(gradient + r * depth_of_block + v * tall, tall, peft__min_i64(gemm.tokens, count - v),
                            gemm.tokens, peft__min_i64(tall, rows - r), packed + v * rows + r * gemm.tokens);
    const bool keep = chunk > 0 || peft__accumulates(node, IN_WEIGHT);
    for (int64_t c = 0; c < s->cols; c += PACK_COLUMNS) {
        const int64_t columns = peft__min_i64(PACK_COLUMNS, s->cols - c);
        peft__gemm_pack_features_t(&gemm, &x, c, columns, 0, rows, scratch, panels);
        peft__gemm_sweep(&gemm, panels, columns, packed, rows * gemm.tokens, count, rows, keep ? 1.0f : 0.0f,
                         weight->grad + first * weight->ld + c, weight->ld);
    }
}

static void finish(const peft__node *node, const shape *s, peft__pass pass, int64_t chunk, int64_t tile, float *temp) {
    const int64_t rows = chunk_rows(s, chunk);
    if (tile == 0) {
        if (pass == PEFT__BACKWARD) return;
        if (is_by_row(node)) {
            const double *each = (const double *)(const void *)(temp + s->losses);
            const int32_t *row = (const int32_t *)(const void *)(temp + s->index);
            const peft__value *out = node->out[OUT_LOSS];
            for (int64_t r = 0; r < rows; r++) out->data[row[r] * out->ld] = (float)each[r];
            return;
        }
        double total = 0.0;
        memcpy(&total, temp, sizeof total);
        const double *losses = (const double *)(const void *)(temp + s->losses);
        for (int64_t r = 0; r < rows; r++) total += losses[r];
        memcpy(temp, &total, sizeof total);
        node->out[OUT_LOSS]->data[0] = (float)total;
        return;
    }
    const int64_t first = (tile - 1) * PEFT__GEMM_TOKEN_CHUNK,
                  end = peft__min_i64(rows, first + PEFT__GEMM_TOKEN_CHUNK);
    const int32_t *index = (const int32_t *)(const void *)(temp + s->index);
    for (int64_t r = first; r < end; r++) {
        float *sum = partial_of(s, temp, 0) + r * s->cols;
        for (int64_t j = 1; j < s->segments; j++) {
            const float *more = partial_of(s, temp, j) + r * s->cols;
            for (int64_t c = 0; c < s->cols; c++) sum[c] += more[c];
        }
        if (pass == PEFT__FORWARD) {
            const peft__value *kept = node->out[OUT_GRAD];
            memcpy(kept->data + (chunk * s->height + r) * kept->ld, sum, (size_t)s->cols * sizeof(float));
        } else {
            float *to = node->in[IN_X]->grad + index[r] * node->in[IN_X]->ld;
            for (int64_t c = 0; c < s->cols; c++) to[c] += sum[c];
        }
    }
}

/* Before the chunks: gradients that chunks add to, and results where there is no chunk. */
static void prepare(const peft__node *node, const shape *s, peft__pass pass, float *temp) {
    if (pass == PEFT__FORWARD) {
        const double zero = 0.0;
        memcpy(temp, &zero, sizeof zero);
        if (is_by_row(node)) {
            const peft__value *out = node->out[OUT_LOSS];
            for (int64_t r = 0; r < out->rows->count; r++) out->data[r * out->ld] = 0.0f;
            return;
        }
        node->out[OUT_LOSS]->data[0] = 0.0f;
        node->out[OUT_LOSS]->data[1] = (float)s->labelled;
        return;
    }
    const peft__value *x = node->in[IN_X], *weight = node->in[IN_WEIGHT], *bias = node->in[IN_BIAS];
    if (wants(x) && !peft__accumulates(node, IN_X))
        for (int64_t r = 0; r < x->rows->count; r++) memset(x->grad + r * x->ld, 0, (size_t)x->cols * sizeof(float));
    if (s->chunks > 0) return;
    if (wants(weight) && !peft__accumulates(node, IN_WEIGHT))
        for (int64_t r = 0; r < weight->rows->count; r++)
            memset(weight->grad + r * weight->ld, 0, (size_t)weight->cols * sizeof(float));
    if (wants(bias) && !peft__accumulates(node, IN_BIAS)) memset(bias->grad, 0, (size_t)bias->cols * sizeof(float));
}

/* Frozen head: the gradient is there already. */
static void copy_rows(const peft__node *node, int64_t tile) {
    const peft__value *x = node->in[IN_X], *kept = node->out[OUT_GRAD];
    const int64_t first = tile * PEFT__GEMM_TOKEN_CHUNK,
                  end = peft__min_i64(x->rows->count, first + PEFT__GEMM_TOKEN_CHUNK);
    int64_t from = labelled_before(x->rows, first);
    for (int64_t r = first; r < end; r++) {
        float *to = x->grad + r * x->ld;
        const bool has_label = x->rows->labels[r] != PEFT_IGNORE_LABEL;
        const float *row = kept->data + from * kept->ld;
        const float factor = is_by_row(node) ? node->out[OUT_LOSS]->grad[r * node->out[OUT_LOSS]->ld] : 1.0f;
        if (has_label) from++;
        if (!peft__accumulates(node, IN_X)) memset(to, 0, (size_t)x->cols * sizeof(float));
        for (int64_t c = 0; has_label && c < x->cols; c++) to[c] += factor * row[c];
    }
}

/* ---- the operation ------------------------------------------------------------------------------------------ */

static bool is_copy(const peft__node *node, peft__pass pass) {
    return pass == PEFT__BACKWARD && !is_trained(node);
}

static uint32_t phases(const peft__node *node, peft__pass pass) {
    if (is_copy(node, pass)) return 1;
    return (uint32_t)(1 + CHUNK_PHASES * bound_shape(node, pass, PEFT_CPU_GENERIC).chunks);
}

/* Tiles must not depend on the kernel: panels are counted at their smallest. */
static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    if (is_copy(node, pass)) return (uint32_t)peft__ceil_div(node->in[IN_X]->rows->count, PEFT__GEMM_TOKEN_CHUNK);
    if (phase == 0) return 1;
    const shape s = bound_shape(node, pass, PEFT_CPU_GENERIC);
    const int64_t rows = chunk_rows(&s, (phase - 1) / CHUNK_PHASES),
                  groups = peft__ceil_div(rows, PEFT__GEMM_TOKEN_CHUNK);
    switch (GATHER + (phase - 1) % CHUNK_PHASES) {
    case GATHER:
        return (uint32_t)groups;
    case LOGITS:
        return (uint32_t)s.blocks;
    case SOFTMAX:
        return (uint32_t)peft__ceil_div(rows, PEFT__GEMM_MAX_TOKENS);
    case PRODUCTS:
        return (uint32_t)((s.dx ? s.segments * peft__ceil_div(s.cols, DX_COLUMNS) : 0) +
                          (s.dweight || s.dbias ? s.blocks * (BLOCK / DW_ROWS) : 0));
    default:
        return (uint32_t)(1 + (s.dx ? groups : 0));
    }
}

static void tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t number, const peft__run *run) {
    if (is_copy(node, pass)) {
        copy_rows(node, number);
        return;
    }
    const shape s = bound_shape(node, pass, run->cpu);
    if (phase == 0) {
        prepare(node, &s, pass, run->temp);
        return;
    }
    const int64_t chunk = (phase - 1) / CHUNK_PHASES;
    switch (GATHER + (phase - 1) % CHUNK_PHASES) {
    case GATHER:
        gather(node, &s, chunk, number, run->temp);
        break;
    case LOGITS:
        logits(node, &s, chunk, number, run);
        break;
    case SOFTMAX:
        for (int64_t r = (int64_t)number * PEFT__GEMM_MAX_TOKENS;
             r < peft__min_i64(chunk_rows(&s, chunk), ((int64_t)number + 1) * PEFT__GEMM_MAX_TOKENS);
             r += s.gemm.tokens) {
            softmax(node, &s, chunk, r / s.gemm.tokens, run);
            if (pass == PEFT__BACKWARD && is_by_row(node)) weigh(node, &s, chunk, r / s.gemm.tokens, run->temp);
        }
        break;
    case PRODUCTS: {
        const int64_t dx = s.dx ? s.segments * peft__ceil_div(s.cols, DX_COLUMNS) : 0;
        if (number < dx)
            dx_segment(node, &s, chunk, number, run);
        else
            dw_rows(node, &s, chunk, number - dx, run);
        break;
    }
    default:
        finish(node, &s, pass, chunk, number, run->temp);
        break;
    }
}

static void reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    *in_mask = *out_mask = 0;
    if (!is_trained(node)) {
        *out_mask = 1u << OUT_GRAD;
        return;
    }
    *in_mask = 1u << IN_X;
    if (node->in[IN_WEIGHT] != NULL) *in_mask |= 1u << IN_WEIGHT;
    if (node->in[IN_BIAS] != NULL) *in_mask |= 1u << IN_BIAS;
}

/* The most over all numbers of labelled rows up to the plan's: chunks are tallest with one chunk or just full. */
static size_t temp_bytes(const peft__node *node, peft__pass pass) {
    if (is_copy(node, pass)) return 0;
    const int64_t most = most_rows(((const head_loss *)node->attr)->weight.matrix.rows);
    return shape_of(node, pass, peft__min_i64(node->in[IN_X]->rows->max_rows, most), PEFT_CPU_GENERIC).end *
           sizeof(float);
}

static size_t lane_bytes(const peft__node *node, peft__pass pass) {
    if (is_copy(node, pass)) return 0;
    size_t floats = peft__gemm_feature_floats(PACK_COLUMNS, PEFT__GEMM_DEPTH) + peft__gemm_pack_scratch();
    if (pass == PEFT__BACKWARD) floats += peft__gemm_token_floats(DW_ROWS, CHUNK_ROWS);
    return peft__max_size(floats, (size_t)PEFT__GEMM_MAX_TOKENS * BLOCK) * sizeof(float);
}

/* Logits, and with a frozen head dx in the same pass; with a trained one logits again, dx and dW in the backward pass. */
static double products(const peft__node *node, peft__pass pass, const peft_batch *batch) {
    const head_loss *a = node->attr;
    const peft__rows *rows = node->in[IN_X]->rows;
    const bool dx = wants(node->in[IN_X]), trained = is_trained(node);
    (void)batch;
    const double one =
        (double)labelled_before(rows, rows->count) * (double)a->weight.matrix.rows * (double)a->weight.matrix.cols;
    if (pass == PEFT__FORWARD) return one * (dx && !trained ? 2.0 : 1.0);
    return trained ? one * (1.0 + (dx ? 1.0 : 0.0) + (wants(node->in[IN_WEIGHT]) ? 1.0 : 0.0)) : 0.0;
}

static const peft__op head_loss_op = {
    .name = "head_loss",
    .is_loss = true,
    .in_place = -1,
    .reads = reads,
    .phases = phases,
    .tiles = tiles,
    .tile = tile,
    .temp_bytes = temp_bytes,
    .lane_bytes = lane_bytes,
    .products = products,
};

static const peft__op head_nll_op = {
    .name = "head_nll",
    .in_place = -1,
    .reads = reads,
    .phases = phases,
    .tiles = tiles,
    .tile = tile,
    .temp_bytes = temp_bytes,
    .lane_bytes = lane_bytes,
    .products = products,
};

static peft__value *add(peft__graph *g, peft__value *x, peft__weight head, peft__vector bias,
                        const peft__head_config *config, bool by_row) {
    if (peft__graph_failed(g) || x == NULL) return NULL;
    if (!peft__weight_check(g, "head_loss", &head, head.matrix.rows, x->cols) ||
        !peft__vector_check(g, "head_loss", &bias, head.matrix.rows))
        return NULL;
    if (head.value != NULL && head.matrix.transposed)
        return peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_UNSUPPORTED,
                                              "head_loss: a trained output layer must be stored as [vocabulary, "
                                              "hidden], found [hidden, vocabulary]"));
    head_loss attr = {head, bias, *config, by_row};
    if (attr.config.logit_scale == 0.0f) attr.config.logit_scale = 1.0f; /* not set */
    peft__value *const in[IN_COUNT] = {x, head.value, bias.value};
    peft__value *out[2] = {by_row ? peft__value_new(g, x->rows, 1, "losses of rows")
                                  : peft__value_new(g, peft__rows_fixed(g, 1), 2, "loss"),
                           peft__value_new(g, x->rows, x->cols, "loss gradient")};
    if (out[0] == NULL || out[1] == NULL) return NULL;
    if (!by_row) out[0]->flags |= PEFT__VALUE_STAT;
    out[1]->flags |= PEFT__VALUE_STAT;
    const peft__op *op = by_row ? &head_nll_op : &head_loss_op;
    return peft__node_add(g, op, in, IN_COUNT, out, 2, &attr, sizeof attr) == NULL ? NULL : out[0];
}

peft__value *peft__op_head_loss(peft__graph *g, peft__value *x, peft__weight head, peft__vector bias,
                                const peft__head_config *config) {
    return add(g, x, head, bias, config, false);
}

peft__value *peft__op_head_nll(peft__graph *g, peft__value *x, peft__weight head, peft__vector bias,
                               const peft__head_config *config) {
    return add(g, x, head, bias, config, true);
}
