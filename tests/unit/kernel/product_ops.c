/* The operations made of products (linear, low_rank, weight_norms, rescale, head_loss) against double precision written
 * out, for every instruction set, with trained and frozen parts, views, residuals, slots; and the same bits for any
 * number of threads. */
#include "base/base.h"
#include "base/half.h"
#include "check.h"
#include "graph/ops.h"

static peft_context *ctx;
static peft__rng rng;

static int64_t below(int64_t bound) {
    return (int64_t)peft__rng_below(&rng, (uint64_t)bound);
}
static bool coin(void) {
    return below(2) != 0;
}
static float number(void) {
    return peft__rng_uniform(&rng) * 2.0f - 1.0f;
}

/* Everything made for one graph. */
static peft__arena arena;
static peft__param *params[16];
static int param_count;

static float *numbers(int64_t count) {
    float *x = peft__arena_alloc(&arena, (size_t)(count + 1) * sizeof(float));
    for (int64_t i = 0; i < count; i++) x[i] = number();
    return x;
}

static peft__value *param(peft__graph *g, int64_t rows, int64_t cols) {
    peft__param *p = peft__arena_alloc(&arena, sizeof *p);
    *p = (peft__param){.name = "p",
                       .ndim = 2,
                       .shape = {rows, cols},
                       .elements = rows * cols,
                       .lr_scale = 1.0f,
                       .data = numbers(rows * cols)};
    params[param_count++] = p;
    return peft__value_param(g, p);
}

static float *gradient_of(const peft__graph *g, const peft__value *value) {
    for (uint32_t i = 0; i < peft__graph_param_count(g); i++) {
        float *grad = NULL;
        if (peft__graph_param(g, i, &grad) == value->param) return grad;
    }
    return NULL;
}

/* A loss sum(y * coefficients), which also shows y. */
typedef struct probe {
    const float *coefficients;
    float *seen;
} probe;

static uint32_t one(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)node, (void)pass, (void)phase;
    return 1;
}

static void probe_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase, (void)tile, (void)run;
    const probe *p = node->attr;
    const peft__value *y = node->in[0];
    for (int64_t r = 0; r < y->rows->count; r++)
        for (int64_t c = 0; c < y->cols; c++) {
            if (pass == PEFT__FORWARD) {
                p->seen[r * y->cols + c] = y->data[r * y->ld + c];
            } else {
                float *to = &y->grad[r * y->ld + c];
                *to = (peft__accumulates(node, 0) ? *to : 0.0f) + p->coefficients[r * y->cols + c];
            }
        }
    node->out[0]->data[0] = 0.0f;
}

static const peft__op probe_op = {.name = "probe", .is_loss = true, .in_place = -1, .tiles = one, .tile = probe_tile};

static probe look(peft__graph *g, peft__value *y) {
    probe p = {NULL, NULL};
    if (y == NULL) return p;
    p.coefficients = numbers(y->rows->max_rows * y->cols);
    p.seen = peft__arena_alloc(&arena, (size_t)(y->rows->max_rows * y->cols) * sizeof(float));
    peft__value *out = peft__value_new(g, peft__rows_fixed(g, 1), 1, "probe");
    if (out != NULL) out->flags |= PEFT__VALUE_STAT;
    peft__node_add(g, &probe_op, &y, 1, &out, 1, &p, sizeof p);
    return p;
}

static peft__graph *start(int64_t rows, int64_t sequences) {
    peft__graph *g = NULL;
    const peft__capacity capacity = {.rows = rows, .sequences = sequences, .labels = rows};
    CHECK_OK(ctx, peft__graph_create(ctx, &capacity, &g));
    peft__arena_free(&arena);
    param_count = 0;
    return g;
}

/* Forward and backward `times` times (gradients add up); false when the graph was not made. */
static bool run(peft__graph *g, const peft_batch *batch, int times) {
    if (!CHECK(!peft__graph_failed(g))) {
        fprintf(stderr, "    %s\n", peft_context_error(ctx));
        return false;
    }
    if (!CHECK(peft__graph_plan(g, true) == PEFT_OK && peft__graph_allocate(g) == PEFT_OK &&
               peft__graph_bind(g, batch) == PEFT_OK)) {
        fprintf(stderr, "    %s\n", peft_context_error(ctx));
        return false;
    }
    peft__graph_zero_grad(g);
    const peft__run_options options = {.training = true, .deadline_us = UINT64_MAX};
    for (int i = 0; i < times; i++) {
        peft__cursor cursor = {0};
        CHECK_OK(ctx, peft__graph_run(g, &cursor, peft__graph_plan_info(g)->steps, &options));
    }
    return true;
}

static peft_batch batch_of(int64_t rows, int64_t sequences, const int32_t *offsets, const int32_t *ids,
                           const int32_t *labels) {
    peft_batch batch;
    peft_batch_init(&batch);
    batch.rows = rows;
    batch.sequences = sequences;
    batch.offsets = offsets;
    batch.input_ids = ids;
    batch.labels = labels;
    return batch;
}

static bool near(const char *what, const float *got, const double *want, int64_t count, double scale) {
    for (int64_t i = 0; i < count; i++)
        if (!(fabs((double)got[i] - want[i]) <= scale * (1.0 + fabs(want[i])))) {
            check_report(0, __FILE__, __LINE__, what);
            fprintf(stderr, "    element %d of %d: got %g, want %g (cpu %u)\n", (int)i, (int)count, (double)got[i],
                    want[i], ctx->cpu);
            return false;
        }
    return check_report(1, __FILE__, __LINE__, what);
}

static double *doubles(int64_t count) {
    return peft__arena_alloc(&arena, (size_t)(count + 1) * sizeof(double));
}

static const int32_t two_rows[] = {0, 1};
static const int32_t an_id[] = {0};

/* ---- linear ------------------------------------------------------------------------------------------------- */

/* A weight of some kind with its logical numbers [out, in]. */
static peft__weight make_weight(peft__graph *g, int64_t out, int64_t in, int kind, float **logical) {
    peft__weight w = {.matrix = {.rows = out, .cols = in, .transposed = kind & 1}};
    float *stored = NULL;
    if (kind & 2) {
        w.value = w.matrix.transposed ? param(g, in, out) : param(g, out, in);
        stored = w.value->param->data;
    } else {
        stored = numbers(out * in);
        const peft_dtype dtype = kind & 4 ? PEFT_DTYPE_BF16 : PEFT_DTYPE_F32;
        const int64_t cols = w.matrix.transposed ? out : in;
        size_t bytes = 0;
        CHECK(peft__dtype_row_bytes(dtype, out * in, &bytes));
        uint8_t *data = peft__arena_alloc(&arena, bytes);
        CHECK_OK(ctx, peft__quantize(ctx, dtype, stored, out * in, data));
        peft__dequantize(dtype, data, out * in, stored);
        CHECK(peft__dtype_row_bytes(dtype, cols, &w.matrix.stride));
        w.matrix.data = data;
        w.matrix.dtype = dtype;
    }
    *logical = stored;
    if (w.matrix.transposed) {
        *logical = peft__arena_alloc(&arena, (size_t)(out * in) * sizeof(float));
        for (int64_t o = 0; o < out; o++)
            for (int64_t i = 0; i < in; i++) (*logical)[o * in + i] = stored[i * out + o];
    }
    return w;
}

static void linear(int64_t rows, int64_t most) {
    peft__graph *g = start(1, 1);
    const int64_t in = 1 + below(most), wide = in + below(9), column = below(wide - in + 1);
    const uint32_t count = (uint32_t)(1 + below(3));
    const bool residual_on = count == 1 && coin();
    peft__value *whole = param(g, rows, wide),
                *x = column == 0 && wide == in ? whole : peft__value_columns(g, whole, column, in);
    peft__weight weights[3];
    peft__vector biases[3] = {{NULL, NULL}};
    float *w[3], *b[3] = {NULL};
    peft__value *y[3] = {NULL}, *residual = NULL;
    probe seen[3];
    for (uint32_t i = 0; i < count; i++) {
        const int64_t out = 1 + below(most);
        weights[i] = make_weight(g, out, in, (int)below(8), &w[i]);
        const int64_t kind = below(3);
        if (kind == 1) {
            biases[i].value = param(g, 1, out);
            b[i] = biases[i].value->param->data;
        } else if (kind == 2) {
            peft__tensor *tensor = peft__arena_alloc(&arena, sizeof *tensor);
            uint16_t *half = peft__arena_alloc(&arena, (size_t)out * 2 + 16);
            b[i] = numbers(out);
            for (int64_t j = 0; j < out; j++) {
                half[j] = peft__f32_to_f16(b[i][j]);
                b[i][j] = peft__f16_to_f32(half[j]);
            }
            *tensor = (peft__tensor){.name = "b",
                                     .dtype = PEFT_DTYPE_F16,
                                     .ndim = 1,
                                     .shape = {out},
                                     .data = (uint8_t *)half,
                                     .bytes = (size_t)out * 2};
            biases[i].tensor = tensor;
        }
    }
    /* A residual that may be overwritten: the output of an operation. */
    if (residual_on) residual = peft__op_scale(g, param(g, rows, weights[0].matrix.rows), 2.0f);
    const peft__param *before = residual_on ? params[param_count - 1] : NULL;
    peft__op_linear_group(g, x, weights, biases, count, residual, y);
    for (uint32_t i = 0; i < count; i++) seen[i] = look(g, y[i]);
    const peft_batch batch = batch_of(1, 1, two_rows, an_id, NULL);
    if (run(g, &batch, 2)) {
        const float *xs = whole->param->data;
        double *dx = doubles(rows * wide);
        for (uint32_t i = 0; i < count; i++) {
            const int64_t out = weights[i].matrix.rows;
            double *want = doubles(rows * out), *dw = doubles(out * in), *db = doubles(out);
            for (int64_t r = 0; r < rows; r++)
                for (int64_t o = 0; o < out; o++) {
                    const double coefficient = 2.0 * (double)seen[i].coefficients[r * out + o]; /* two passes */
                    double sum = b[i] != NULL ? (double)b[i][o] : 0.0;
                    if (residual_on) sum += 2.0 * (double)before->data[r * out + o];
                    for (int64_t k = 0; k < in; k++) {
                        sum += (double)xs[r * wide + column + k] * (double)w[i][o * in + k];
                        dx[r * wide + column + k] += coefficient * (double)w[i][o * in + k];
                        dw[weights[i].matrix.transposed ? k * out + o : o * in + k] +=
                            coefficient * (double)xs[r * wide + column + k];
                    }
                    want[r * out + o] = sum;
                    db[o] += coefficient;
                }
            near("linear y", seen[i].seen, want, rows * out, 2e-5);
            if (weights[i].value != NULL) near("linear dW", gradient_of(g, weights[i].value), dw, out * in, 3e-5);
            if (biases[i].value != NULL) near("linear db", gradient_of(g, biases[i].value), db, out, 2e-5);
        }
        near("linear dx", gradient_of(g, whole), dx, rows * wide, 4e-5);
        if (residual_on) {
            double *dr = doubles(before->elements);
            for (int64_t j = 0; j < before->elements; j++) dr[j] = 4.0 * (double)seen[0].coefficients[j];
            for (uint32_t i = 0; i < peft__graph_param_count(g); i++) {
                float *grad = NULL;
                if (peft__graph_param(g, i, &grad) == before)
                    near("linear dresidual", grad, dr, before->elements, 1e-6);
            }
        }
    }
    peft__graph_destroy(g);
}

/* ---- low rank ----------------------------------------------------------------------------------------------- */

/* Rows [0, n) through an embedding, so that they belong to sequences. */
static peft__value *token_rows(peft__graph *g, peft__rows *rows, int64_t n, int64_t cols, peft__value **table) {
    *table = param(g, n, cols);
    return peft__op_embedding(g, rows, (peft__weight){.matrix = {.rows = n, .cols = cols}, .value = *table},
                              PEFT__LOOKUP_IDS, 1.0f, -1);
}

static void low_rank(int64_t n) {
    const int64_t sequences = 1 + below(peft__min_i64(n, 5)), in = 1 + below(150), out = 1 + below(150),
                  rank = 1 + below(20);
    int32_t offsets[6] = {0}, ids[256], adapters[6];
    for (int64_t s = 1; s <= sequences; s++) offsets[s] = (int32_t)(n * s / sequences);
    for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)i;
    for (int64_t s = 0; s < sequences; s++) adapters[s] = (int32_t)below(3) - 1;
    const int32_t slot = (int32_t)below(3) - 1;
    peft__graph *g = start(n, sequences);
    peft__rows *rows = peft__rows_stream(g, false);
    peft__value *xt, *yt, *a = param(g, rank, in), *b = param(g, out, rank);
    peft__value *x = token_rows(g, rows, n, in, &xt), *y = token_rows(g, rows, n, out, &yt);
    const probe seen = look(g, peft__op_low_rank(g, x, y, a, b, 0.5f, slot));
    peft_batch batch = batch_of(n, sequences, offsets, ids, NULL);
    if (coin()) batch.adapter_ids = adapters;
    if (run(g, &batch, 1)) {
        double *want = doubles(n * out), *dx = doubles(n * in), *da = doubles(rank * in), *db = doubles(out * rank),
               *dy = doubles(n * out);
        for (int64_t s = 0, r = 0; s < sequences; s++)
            for (; r < offsets[s + 1]; r++) {
                const bool on = batch.adapter_ids == NULL || slot < 0 || adapters[s] == slot;
                double u[20] = {0}, v[20] = {0};
                for (int64_t o = 0; o < out; o++) {
                    want[r * out + o] = (double)yt->param->data[r * out + o];
                    dy[r * out + o] = (double)seen.coefficients[r * out + o];
                }
                for (int64_t i = 0; i < rank && on; i++) {
                    for (int64_t k = 0; k < in; k++)
                        u[i] += (double)xt->param->data[r * in + k] * (double)a->param->data[i * in + k];
                    for (int64_t o = 0; o < out; o++) {
                        v[i] += 0.5 * dy[r * out + o] * (double)b->param->data[o * rank + i];
                        want[r * out + o] += 0.5 * u[i] * (double)b->param->data[o * rank + i];
                        db[o * rank + i] += 0.5 * u[i] * dy[r * out + o];
                    }
                    for (int64_t k = 0; k < in; k++) {
                        dx[r * in + k] += v[i] * (double)a->param->data[i * in + k];
                        da[i * in + k] += v[i] * (double)xt->param->data[r * in + k];
                    }
                }
            }
        near("low_rank y", seen.seen, want, n * out, 2e-5);
        near("low_rank dx", gradient_of(g, xt), dx, n * in, 3e-5);
        near("low_rank dy", gradient_of(g, yt), dy, n * out, 1e-6);
        near("low_rank dA", gradient_of(g, a), da, rank * in, 5e-5);
        near("low_rank dB", gradient_of(g, b), db, out * rank, 5e-5);
    }
    peft__graph_destroy(g);
}

/* ---- DoRA --------------------------------------------------------------------------------------------------- */

static void rescaled(int64_t n) {
    peft__graph *g = start(1, 1);
    const int64_t in = 1 + below(120), out = 1 + below(200), rank = 1 + below(9);
    float *w;
    peft__weight weight = make_weight(g, out, in, (int)(below(2) + 4 * below(2)), &w);
    peft__value *a = param(g, rank, in), *b = param(g, out, rank), *y = param(g, n, out), *m = param(g, 1, out);
    peft__vector bias = {NULL, coin() ? param(g, 1, out) : NULL};
    peft__value *norms = peft__op_weight_norms(g, weight, a, b, 0.5f);
    const probe seen = look(g, peft__op_rescale(g, peft__op_scale(g, y, 1.0f), m, norms, bias));
    const peft_batch batch = batch_of(1, 1, two_rows, an_id, NULL);
    if (run(g, &batch, 1)) {
        double *want = doubles(n * out), *dy = doubles(n * out), *dm = doubles(out), *db = doubles(out);
        for (int64_t o = 0; o < out; o++) {
            double square = 0.0;
            for (int64_t k = 0; k < in; k++) {
                double element = (double)w[o * in + k];
                for (int64_t i = 0; i < rank; i++)
                    element += 0.5 * (double)b->param->data[o * rank + i] * (double)a->param->data[i * in + k];
                square += element * element;
            }
            const double norm = sqrt(square), scale = (double)m->param->data[o] / norm,
                         shift = bias.value != NULL ? (double)bias.value->param->data[o] : 0.0;
            for (int64_t r = 0; r < n; r++) {
                const double from = (double)y->param->data[r * out + o], c = (double)seen.coefficients[r * out + o];
                want[r * out + o] = shift + scale * (from - shift);
                dy[r * out + o] = scale * c;
                dm[o] += c * (from - shift) / norm;
                db[o] += c * (1.0 - scale);
            }
        }
        near("rescale y", seen.seen, want, n * out, 1e-5);
        near("rescale dy", gradient_of(g, y), dy, n * out, 1e-5);
        near("rescale dm", gradient_of(g, m), dm, out, 2e-5);
        if (bias.value != NULL) near("rescale db", gradient_of(g, bias.value), db, out, 2e-5);
    }
    peft__graph_destroy(g);
}

/* ---- output layer and loss ---------------------------------------------------------------------------------- */

static void head(int64_t n, int64_t vocabulary, int64_t d, int kind) {
    int32_t *ids = malloc((size_t)n * 4), *labels = malloc((size_t)n * 4), offsets[2] = {0, (int32_t)n};
    for (int64_t i = 0; i < n; i++) {
        ids[i] = (int32_t)i;
        labels[i] = below(4) == 0 ? -100 : (int32_t)below(vocabulary);
        if (kind == 7) labels[i] = -100; /* nothing to learn in this batch */
    }
    peft__graph *g = start(n, 1);
    peft__rows *rows = peft__rows_stream(g, false);
    peft__value *xt, *x = token_rows(g, rows, n, d, &xt);
    if (coin()) x = peft__op_select_rows(g, peft__rows_labelled(g, rows), x, NULL);
    float *w;
    peft__weight weight = make_weight(g, vocabulary, d, (kind & 1) * 2 + (kind & 2) * 2, &w);
    peft__vector bias = {NULL, coin() ? param(g, 1, vocabulary) : NULL};
    const peft__head_config config = {coin() ? 1.0f : 0.75f, coin() ? 0.0f : 5.0f, coin() ? 0.0f : 0.1f};
    peft__value *loss = peft__op_head_loss(g, x, weight, bias, &config);
    peft__value_output(g, loss);
    const peft_batch batch = batch_of(n, 1, offsets, ids, labels);
    if (run(g, &batch, 2)) {
        double *dx = doubles(n * d), *dw = doubles(vocabulary * d), *db = doubles(vocabulary), *f = doubles(vocabulary),
               total = 0.0;
        int64_t counted = 0;
        for (int64_t r = 0; r < n; r++) {
            if (labels[r] == -100) continue;
            counted++;
            double top = -INFINITY, sum = 0.0, even = 0.0;
            for (int64_t v = 0; v < vocabulary; v++) {
                double z = bias.value != NULL ? (double)bias.value->param->data[v] : 0.0;
                for (int64_t k = 0; k < d; k++) z += (double)xt->param->data[r * d + k] * (double)w[v * d + k];
                z *= (double)config.logit_scale;
                f[v] = config.soft_cap != 0.0f ? (double)config.soft_cap * tanh(z / (double)config.soft_cap) : z;
                top = fmax(top, f[v]);
                even += f[v] / (double)vocabulary;
            }
            for (int64_t v = 0; v < vocabulary; v++) sum += exp(f[v] - top);
            const double lse = top + log(sum), smoothing = (double)config.label_smoothing;
            total += (1.0 - smoothing) * (lse - f[labels[r]]) + smoothing * (lse - even);
            for (int64_t v = 0; v < vocabulary; v++) {
                double c = exp(f[v] - lse) - smoothing / (double)vocabulary - (v == labels[r] ? 1.0 - smoothing : 0.0);
                const double t = config.soft_cap != 0.0f ? f[v] / (double)config.soft_cap : 0.0;
                c *= 2.0 * (double)config.logit_scale * (1.0 - t * t);
                db[v] += c;
                for (int64_t k = 0; k < d; k++) {
                    dx[r * d + k] += c * (double)w[v * d + k];
                    dw[v * d + k] += c * (double)xt->param->data[r * d + k];
                }
            }
        }
        CHECK_NEAR((double)loss->data[0], total, 1e-5 * (1.0 + total));
        CHECK((int64_t)loss->data[1] == counted);
        near("head dx", gradient_of(g, xt), dx, n * d, 2e-5);
        if (weight.value != NULL) near("head dW", gradient_of(g, weight.value), dw, vocabulary * d, 3e-5);
        if (bias.value != NULL) near("head db", gradient_of(g, bias.value), db, vocabulary, 2e-5);
    }
    peft__graph_destroy(g);
    free(ids), free(labels);
}

/* ---- threads ------------------------------------------------------------------------------------------------ */

/* A small network; a hash of loss and gradients. */
static uint64_t network(uint32_t threads) {
    CHECK_OK(ctx, peft_context_set_threads(ctx, threads));
    rng = peft__rng_make(99, 5);
    enum { N = 70, D = 64, V = 900 };
    int32_t ids[N], labels[N], offsets[] = {0, 30, N};
    for (int i = 0; i < N; i++) {
        ids[i] = i;
        labels[i] = i % 3 == 0 ? -100 : (i * 31) % V;
    }
    peft__graph *g = start(N, 2);
    peft__rows *rows = peft__rows_stream(g, true);
    peft__value *table, *x = token_rows(g, rows, N, D, &table);
    float *w;
    peft__value *y = peft__op_linear(g, x, make_weight(g, 200, D, 2, &w), (peft__vector){NULL, param(g, 1, 200)}, NULL);
    y = peft__op_low_rank(g, x, y, param(g, 8, D), param(g, 200, 8), 2.0f, -1);
    y = peft__op_linear(g, y, make_weight(g, D, 200, 5, &w), (peft__vector){NULL, NULL}, x);
    const peft__head_config config = {1.0f, 0.0f, 0.0f};
    peft__value *loss = peft__op_head_loss(g, y, make_weight(g, V, D, 2, &w), (peft__vector){NULL, NULL}, &config);
    peft__value_output(g, loss);
    const peft_batch batch = batch_of(N, 2, offsets, ids, labels);
    uint64_t hash = 0;
    if (run(g, &batch, 1)) {
        hash = peft__hash64(loss->data, 2 * sizeof(float), 1);
        for (uint32_t i = 0; i < peft__graph_param_count(g); i++) {
            float *grad = NULL;
            const peft__param *p = peft__graph_param(g, i, &grad);
            hash = peft__hash64(grad, (size_t)p->elements * sizeof(float), hash);
        }
    }
    peft__graph_destroy(g);
    return hash;
}

int main(void) {
    CHECK_OK(NULL, peft_context_create(NULL, &ctx));
    peft__arena_init(&arena, ctx->mem);
    rng = peft__rng_make(11, 3);
    const uint32_t best = ctx->cpu;
    for (uint32_t cpu = PEFT_CPU_GENERIC; cpu <= best; cpu++) {
        ctx->cpu = cpu;
        for (int round = 0; round < 60; round++) linear(1 + below(round % 2 ? 6 : 90), 150);
        linear(1100, 40);
        linear(70, 900);
        for (int round = 0; round < 40; round++) low_rank(1 + below(round % 2 ? 6 : 120));
        for (int round = 0; round < 20; round++) rescaled(1 + below(70));
        for (int kind = 0; kind < 8; kind++) {
            head(1 + below(20), 2 + below(40), 1 + below(30), kind);
            head(1 + below(90), 380 + below(500), 1 + below(70), kind);
        }
        head(600, 1000, 8, 0); /* more chunks than one */
        head(600, 1000, 8, 1);
        head(20, 7000, 100, 0); /* more segments than one */
        const uint64_t want = network(1);
        CHECK(network(2) == want);
        CHECK(network(5) == want);
        rng = peft__rng_make(12 + cpu, 3);
    }
    peft__arena_free(&arena);
    peft_context_destroy(ctx);
    return check_summary();
}
