/* product_ops.c: operations around dense products: linear layers, low rank updates, column norms, fused output layer
 * and loss. */
#include "gradient.h"

#include "base/half.h"

static const int64_t few[] = {3, 1, 2, 0}, many[] = {40, 1, 17, 0};

/* A weight: trained, or stored in some type with its widened numbers in `floats`. */
typedef struct matrix_case {
    int64_t rows, cols;
    bool trained, transposed;
    int32_t interleave;
    peft_dtype dtype;
    peft__weight weight;
    int32_t input;       /* of the case, when trained */
    const float *floats; /* as stored: [rows, cols], or [cols, rows] */
} matrix_case;

static void make_matrix(gc *c, matrix_case *m) {
    const int64_t stored_rows = m->transposed ? m->cols : m->rows, stored_cols = m->transposed ? m->rows : m->cols;
    m->weight = (peft__weight){
        .matrix = {.rows = m->rows, .cols = m->cols, .transposed = m->transposed, .interleave = m->interleave}};
    if (m->trained) {
        m->input = (int32_t)c->in_count;
        m->weight.value = gc_leaf_new(c, stored_rows, stored_cols, 0.5f);
        return;
    }
    size_t stride = 0;
    CHECK(peft__dtype_row_bytes(m->dtype, stored_cols, &stride));
    float *floats = gc_alloc(c, (size_t)(stored_rows * stored_cols) * sizeof *floats);
    uint8_t *bytes = gc_alloc(c, stride * (size_t)stored_rows);
    for (int64_t i = 0; i < stored_rows * stored_cols; i++) floats[i] = 0.5f * gc_random(c);
    CHECK(peft__quantize(c->ctx, m->dtype, floats, stored_rows * stored_cols, bytes) == PEFT_OK);
    peft__dequantize(m->dtype, bytes, stored_rows * stored_cols, floats);
    m->floats = floats;
    m->weight.matrix.data = bytes;
    m->weight.matrix.dtype = m->dtype;
    m->weight.matrix.stride = stride;
}

/* Logical element [row, col]. */
static double element(const gc *c, const matrix_case *m, int64_t row, int64_t col) {
    if (m->interleave != 0 && !m->trained) {
        const int64_t half = m->interleave / 2, head = row / m->interleave, at = row % m->interleave;
        row = head * m->interleave + 2 * (at % half) + at / half;
    }
    const int64_t index = m->transposed ? col * m->rows + row : row * m->cols + col;
    return m->trained ? c->in[m->input].exact[index] : (double)m->floats[index];
}

/* ---- linear ---------------------------------------------------------------------------------------------------- */

typedef struct linear_case {
    uint32_t count;
    int64_t in;
    matrix_case m[4];
    int32_t bias[4]; /* input of the case, -1 = none */
    int32_t residual;
} linear_case;

static void linear_reference(gc *c, void *user) {
    const linear_case *l = user;
    for (uint32_t i = 0; i < l->count; i++) {
        const int64_t outs = l->m[i].rows;
        for (int64_t r = 0; r < c->batch.rows; r++)
            for (int64_t o = 0; o < outs; o++) {
                double sum = l->bias[i] >= 0 ? c->in[l->bias[i]].exact[o] : 0.0;
                if (l->residual >= 0) sum += c->in[l->residual].exact[r * outs + o];
                for (int64_t k = 0; k < l->in; k++) sum += c->in[0].exact[r * l->in + k] * element(c, &l->m[i], o, k);
                c->out[i].want[r * outs + o] = sum;
            }
    }
}

static void check_linear(const gc_style *style, const char *name, const int64_t *lengths, linear_case l, bool bias,
                         bool residual) {
    gc c;
    gc_begin(&c, name, style, lengths, NULL);
    peft__value *x = gc_input_new(&c, GC_STREAM, l.in, 1.0f), *added = NULL, *out[4] = {0};
    peft__weight weights[4];
    peft__vector biases[4] = {0};
    l.residual = -1;
    for (uint32_t i = 0; i < l.count; i++) {
        l.m[i].cols = l.in;
        make_matrix(&c, &l.m[i]);
        weights[i] = l.m[i].weight;
        l.bias[i] = bias && i != 1 ? (int32_t)c.in_count : -1;
        if (l.bias[i] >= 0) biases[i].value = gc_leaf_new(&c, 1, l.m[i].rows, 1.0f);
    }
    if (residual) {
        l.residual = (int32_t)c.in_count;
        added = gc_input_new(&c, GC_STREAM, l.m[0].rows, 1.0f);
    }
    peft__op_linear_group(c.graph, x, weights, biases, l.count, added, out);
    for (uint32_t i = 0; i < l.count; i++) gc_output_new(&c, out[i]);
    gc_end(&c, linear_reference, &l);
}

static void check_linears(const gc_style *style, const int64_t *lengths) {
    const matrix_case trained = {.rows = 33, .trained = true},
                      turned = {.rows = 21, .trained = true, .transposed = true};
    check_linear(style, "linear, trained", lengths, (linear_case){.count = 1, .in = 37, .m = {trained}}, true, true);
    check_linear(style, "linear, trained, transposed", lengths, (linear_case){.count = 1, .in = 19, .m = {turned}},
                 true, false);
    check_linear(style, "linear, three trained", lengths,
                 (linear_case){.count = 3, .in = 8, .m = {trained, turned, trained}}, true, false);
    const peft_dtype types[] = {PEFT_DTYPE_F32, PEFT_DTYPE_F16, PEFT_DTYPE_BF16, PEFT_DTYPE_Q8_0, PEFT_DTYPE_Q4_1};
    for (size_t i = 0; i < PEFT_COUNT(types); i++) {
        const matrix_case stored = {.rows = 40, .dtype = types[i]},
                          mixed = {.rows = 20, .dtype = types[i], .interleave = 10};
        check_linear(style, "linear, stored", lengths, (linear_case){.count = 2, .in = 64, .m = {stored, mixed}}, true,
                     false);
        if (i < 3)
            check_linear(
                style, "linear, stored by columns", lengths,
                (linear_case){.count = 1, .in = 64, .m = {{.rows = 40, .dtype = types[i], .transposed = true}}}, false,
                true);
    }
}

/* ---- low rank, and DoRA's rescaling of it ------------------------------------------------------------------- */

typedef struct rank_case {
    int64_t in, out, rank;
    bool slots;
} rank_case;

/* in: x, y, a, b */
static void rank_reference(gc *c, void *user) {
    const rank_case *k = user;
    for (int64_t s = 0; s < c->batch.sequences; s++)
        for (int64_t r = c->offsets[s]; r < c->offsets[s + 1]; r++)
            for (int64_t o = 0; o < k->out; o++) {
                double sum = c->in[1].exact[r * k->out + o];
                for (int64_t j = 0; j < k->rank && !(k->slots && c->batch.adapter_ids[s] != 1); j++) {
                    double u = 0.0;
                    for (int64_t i = 0; i < k->in; i++)
                        u += c->in[0].exact[r * k->in + i] * c->in[2].exact[j * k->in + i];
                    sum += 1.7f * u * c->in[3].exact[o * k->rank + j];
                }
                c->out[0].want[r * k->out + o] = sum;
            }
}

static void check_rank(const gc_style *style, const int64_t *lengths, rank_case k) {
    static const int32_t ids[] = {1, 0, 1};
    gc c;
    gc_begin(&c, k.slots ? "low rank, one slot" : "low rank", style, lengths, NULL);
    if (k.slots) c.batch.adapter_ids = ids;
    peft__value *x = gc_input_new(&c, GC_STREAM, k.in, 1.0f), *y = gc_input_new(&c, GC_STREAM, k.out, 1.0f);
    peft__value *a = gc_leaf_new(&c, k.rank, k.in, 0.5f), *b = gc_leaf_new(&c, k.out, k.rank, 0.5f);
    gc_output_new(&c, peft__op_low_rank(c.graph, x, y, a, b, 1.7f, k.slots ? 1 : -1));
    gc_end(&c, rank_reference, &k);
}

typedef struct rescale_case {
    matrix_case m;
    double norms[64]; /* at the first call: constant from then on, as the method says */
    bool ready, bias;
} rescale_case;

/* in: y, a, b, magnitude (, bias) */
static void rescale_reference(gc *c, void *user) {
    rescale_case *k = user;
    const int64_t out = k->m.rows;
    for (int64_t o = 0; o < out && !k->ready; o++) {
        double sum = 0.0;
        for (int64_t i = 0; i < k->m.cols; i++) {
            double w = element(c, &k->m, o, i);
            for (int64_t j = 0; j < 3; j++) w += 1.5 * c->in[2].exact[o * 3 + j] * c->in[1].exact[j * k->m.cols + i];
            sum += w * w;
        }
        k->norms[o] = sqrt(sum);
    }
    k->ready = true;
    for (int64_t r = 0; r < c->batch.rows; r++)
        for (int64_t o = 0; o < out; o++) {
            const double b = k->bias ? c->in[4].exact[o] : 0.0;
            c->out[0].want[r * out + o] = b + c->in[3].exact[o] / k->norms[o] * (c->in[0].exact[r * out + o] - b);
        }
}

static void check_rescale(const gc_style *style, bool bias, bool transposed) {
    gc c;
    gc_begin(&c, "rescale", style, many, NULL);
    rescale_case k = {
        .m = {.rows = 29, .cols = 32, .dtype = transposed ? PEFT_DTYPE_F16 : PEFT_DTYPE_Q8_0, .transposed = transposed},
        .bias = bias};
    peft__value *y = gc_input_new(&c, GC_STREAM, k.m.rows, 1.0f);
    peft__value *a = gc_leaf_new(&c, 3, k.m.cols, 0.5f);
    gc_freeze_last(&c);
    peft__value *b = gc_leaf_new(&c, k.m.rows, 3, 0.5f);
    gc_freeze_last(&c);
    peft__value *magnitude = gc_leaf_new(&c, 1, k.m.rows, 1.0f);
    peft__vector added = {0};
    if (bias) added.value = gc_leaf_new(&c, 1, k.m.rows, 1.0f);
    make_matrix(&c, &k.m);
    gc_output_new(
        &c, peft__op_rescale(c.graph, y, magnitude, peft__op_weight_norms(c.graph, k.m.weight, a, b, 1.5f), added));
    gc_end(&c, rescale_reference, &k);
}

/* ---- output layer and loss in one --------------------------------------------------------------------------- */

typedef struct head_case {
    matrix_case m;
    peft__head_config config;
    bool bias, none; /* none: no row has a label */
    bool by_row;     /* a loss a row, not their sum */
    double *logits;  /* [rows], the reference's */
} head_case;

static void head_reference(gc *c, void *user) {
    const head_case *h = user;
    const int64_t vocabulary = h->m.rows, bias = h->m.trained ? 2 : 1;
    double *z = h->logits, loss = 0.0, count = 0.0;
    for (int64_t r = 0; r < c->batch.rows; r++) {
        const int32_t label = c->batch.labels[r];
        if (label == -100) continue;
        double top = -INFINITY, sum = 0.0, smooth = 0.0;
        for (int64_t v = 0; v < vocabulary; v++) {
            z[v] = h->bias ? c->in[bias].exact[v] : 0.0;
            for (int64_t k = 0; k < h->m.cols; k++) z[v] += c->in[0].exact[r * h->m.cols + k] * element(c, &h->m, v, k);
            z[v] *= (double)h->config.logit_scale;
            if (h->config.soft_cap != 0.0f) z[v] = (double)h->config.soft_cap * tanh(z[v] / (double)h->config.soft_cap);
            top = fmax(top, z[v]);
        }
        for (int64_t v = 0; v < vocabulary; v++) sum += exp(z[v] - top);
        const double lse = top + log(sum), s = (double)h->config.label_smoothing;
        for (int64_t v = 0; v < vocabulary; v++) smooth += lse - z[v];
        const double one = (1.0 - s) * (lse - z[label]) + s / (double)vocabulary * smooth;
        if (h->by_row) c->out[0].want[r] = one;
        loss += one;
        count += 1.0;
    }
    if (h->by_row) return;
    c->out[0].want[0] = loss;
    c->out[0].want[1] = count;
}

static void check_head(const gc_style *style, const char *name, head_case h) {
    gc c;
    gc_begin(&c, name, style, many, NULL);
    h.logits = gc_alloc(&c, (size_t)h.m.rows * sizeof *h.logits);
    int32_t *labels = gc_alloc(&c, (size_t)c.batch.rows * sizeof *labels);
    for (int64_t r = 0; r < c.batch.rows; r++) labels[r] = h.none || r % 4 == 1 ? -100 : (int32_t)(r * 11 % h.m.rows);
    c.batch.labels = labels;
    peft__value *x = gc_input_new(&c, GC_STREAM, h.m.cols, 1.0f);
    make_matrix(&c, &h.m);
    peft__vector bias = {0};
    if (h.bias) bias.value = gc_leaf_new(&c, 1, h.m.rows, 1.0f);
    if (h.by_row)
        gc_output_new(&c, peft__op_head_nll(c.graph, x, h.m.weight, bias, &h.config));
    else
        gc_loss(&c, peft__op_head_loss(c.graph, x, h.m.weight, bias, &h.config));
    gc_end(&c, head_reference, &h);
}

static void check_heads(const gc_style *style) {
    const peft__head_config plain = {.logit_scale = 1.0f}, capped = {.logit_scale = 0.5f, .soft_cap = 2.0f},
                            smooth = {.logit_scale = 1.0f, .label_smoothing = 0.1f};
    check_head(style, "head, trained",
               (head_case){.m = {.rows = 131, .cols = 24, .trained = true}, .config = plain, .bias = true});
    check_head(style, "head, stored",
               (head_case){.m = {.rows = 90, .cols = 32, .dtype = PEFT_DTYPE_Q8_0}, .config = plain});
    check_head(style, "head, capped",
               (head_case){.m = {.rows = 90, .cols = 32, .dtype = PEFT_DTYPE_F16}, .config = capped});
    check_head(style, "head, capped, trained",
               (head_case){.m = {.rows = 50, .cols = 32, .trained = true}, .config = capped, .bias = true});
    check_head(style, "head, smoothed",
               (head_case){.m = {.rows = 77, .cols = 16, .trained = true}, .config = smooth, .bias = true});
    check_head(style, "head, no labels",
               (head_case){.m = {.rows = 77, .cols = 16, .trained = true}, .config = plain, .none = true});
    check_head(style, "head by row, trained",
               (head_case){.m = {.rows = 131, .cols = 24, .trained = true}, .config = capped, .bias = true, .by_row = true});
    check_head(style, "head by row, stored",
               (head_case){.m = {.rows = 90, .cols = 32, .dtype = PEFT_DTYPE_Q8_0}, .config = plain, .by_row = true});
}

int main(void) {
    gc_style style;
    for (uint32_t s = 0; gc_next_style(&s, &style);) {
        check_linears(&style, few);
        check_linears(&style, many);
        check_rank(&style, few, (rank_case){.in = 24, .out = 37, .rank = 4});
        check_rank(&style, many, (rank_case){.in = 130, .out = 150, .rank = 8});
        check_rank(&style, many, (rank_case){.in = 17, .out = 9, .rank = 1, .slots = true});
        for (int i = 0; i < 4; i++) check_rescale(&style, i & 1, i & 2);
        check_heads(&style);
    }
    return gc_summary();
}
