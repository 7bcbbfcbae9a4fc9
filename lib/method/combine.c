/* combine.c: one LoRA adapter out of several, weighted.
 *
 * cat      A' = rows of w s A one above the other, B' = columns of B: exactly the sum of w s B A, of the summed rank.
 * svd      that sum cut back to a rank by its singular values: B' = U S, A' = V^T. The sum is never formed: with
 *          B = Q_B T_B and A = T_A Q_A it is enough to take the [R, R] core T_B T_A apart.
 * linear   A' = sum of sign sqrt(|w s|) A, B' = sum of sqrt(|w s|) B, as HF PEFT does it: the product also has the
 * cross terms B_i A_j, so it is not the sum of the changes. Ranks must be equal.
 *
 * Weights are times the adapters' own factors (peft_adapter_set_scale). The scale of the result is 1 everywhere.
 */
#include <math.h>

#include "method/adapter_make.h"
#include "method/lora.h"
#include "method/svd.h"

typedef enum { COMBINE_LINEAR, COMBINE_CAT, COMBINE_SVD } combine_kind;

typedef struct combining {
    peft_context *ctx;
    peft_model *model;
    peft_adapter *const *adapters;
    const float *weights;
    uint32_t count;
    combine_kind kind;
    int64_t rank; /* svd */
} combining;

static const char *const WHERE = "peft_adapter_combine";

/* The layer of adapter `i` for a module of the model, or NULL. Models of equal weights have equal names. */
static const peft__lora_layer *layer_in(const combining *c, uint32_t i, const peft__module *module) {
    const peft__module *own = peft__model_find(c->adapters[i]->model, module->name);
    return own != NULL ? peft__lora_layer_of(c->adapters[i], own) : NULL;
}

static peft_status check(const combining *c) {
    peft_model_info info = {.struct_size = sizeof info};
    PEFT_TRY(peft_model_get_info(c->model, &info));
    for (uint32_t i = 0; i < c->count; i++) {
        const peft_adapter *adapter = c->adapters[i];
        if (adapter == NULL) return peft__fail(c->ctx, PEFT_E_ARG, "%s: adapter %u is NULL", WHERE, i);
        if (!isfinite(c->weights[i])) return peft__fail(c->ctx, PEFT_E_ARG, "%s: weight %u is not finite", WHERE, i);
        if (adapter->model != c->model && adapter->base_hash != info.hash)
            return peft__fail(c->ctx, PEFT_E_MISMATCH, "%s: adapter %u belongs to another model", WHERE, i);
        PEFT_TRY(peft__lora_check_plain(adapter, "combining"));
    }
    return PEFT_OK;
}

/* Rank that the result has at a module; 0: no adapter has a layer there. */
static peft_status rank_at(const combining *c, const peft__module *module, int64_t *out_rank) {
    int64_t sum = 0, most = 0;
    for (uint32_t i = 0; i < c->count; i++) {
        const peft__lora_layer *layer = layer_in(c, i, module);
        if (layer == NULL) continue;
        const int64_t rank = peft__lora_rank(layer);
        if (c->kind == COMBINE_LINEAR && most != 0 && rank != most)
            return peft__fail(
                c->ctx, PEFT_E_MISMATCH,
                "%s: \"linear\" needs equal ranks, but %s has %lld and %lld; \"cat\" and \"svd\" take any", WHERE,
                module->name, (long long)most, (long long)rank);
        most = peft__max_i64(most, rank);
        sum += rank;
    }
    if (sum > 65536)
        return peft__fail(c->ctx, PEFT_E_LIMIT, "%s: the ranks at %s sum up to %lld, more than 65536", WHERE,
                          module->name, (long long)sum);
    *out_rank = c->kind == COMBINE_CAT ? sum : c->kind == COMBINE_SVD && sum > 0 && c->rank > 0 ? c->rank : most;
    return PEFT_OK;
}

/* All factors of a module: rows of A, rows of B transposed; A has weight and scale in it. [R, in], [R, out]. */
static peft_status stack(const combining *c, const peft__module *module, double *a, double *bt) {
    const int64_t in = module->in, out = module->out;
    int64_t at = 0;
    for (uint32_t i = 0; i < c->count; i++) {
        const peft__lora_layer *layer = layer_in(c, i, module);
        if (layer == NULL) continue;
        const int64_t rank = peft__lora_rank(layer);
        const size_t bytes = (size_t)(rank * (in + out)) * sizeof(float);
        float *one = peft__alloc(c->ctx->mem, bytes);
        if (one == NULL) return peft__fail_nomem(c->ctx, bytes, "combining adapters");
        peft__lora_factors(c->adapters[i], layer, one, one + rank * in);
        const double factor = (double)c->weights[i] * (double)c->adapters[i]->scale * (double)layer->scale;
        for (int64_t j = 0; j < rank; j++, at++) {
            for (int64_t k = 0; k < in; k++) a[at * in + k] = factor * (double)one[j * in + k];
            for (int64_t o = 0; o < out; o++) bt[at * out + o] = (double)one[rank * in + o * rank + j];
        }
        peft__free(c->ctx->mem, one);
    }
    return PEFT_OK;
}

/* t [rows, rows] = x q^T for x, q [rows, n]. */
static void project(const double *x, const double *q, int64_t rows, int64_t n, double *t) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < rows; j++) {
            double sum = 0.0;
            for (int64_t k = 0; k < n; k++) sum += x[i * n + k] * q[j * n + k];
            t[i * rows + j] = sum;
        }
}

/* B' = U S and A' = V^T of the sum, cut to `rank`. `core` has room for 5 R^2 + R. */
static peft_status cut(const combining *c, const peft__module *module, int64_t all, int64_t rank, const double *a,
                       const double *bt, double *core, float *out_a, float *out_b) {
    const int64_t in = module->in, out = module->out, size = all * all;
    double *ta = core, *tb = ta + size, *product = tb + size, *u = product + size, *vt = u + size, *s = vt + size;
    const size_t bytes = (size_t)(all * (in + out)) * sizeof(double);
    double *qa = peft__alloc(c->ctx->mem, bytes);
    if (qa == NULL) return peft__fail_nomem(c->ctx, bytes, "combining adapters");
    double *qb = qa + all * in;
    memcpy(qa, a, (size_t)(all * in) * sizeof *qa);
    memcpy(qb, bt, (size_t)(all * out) * sizeof *qb);
    peft__orthonormal_rows(qa, all, in);
    peft__orthonormal_rows(qb, all, out);
    project(a, qa, all, in, ta);   /* A = TA QA */
    project(bt, qb, all, out, tb); /* B^T = TB QB, so B A = QB^T (TB^T TA) QA */
    for (int64_t i = 0; i < all; i++)
        for (int64_t j = 0; j < all; j++) {
            double sum = 0.0;
            for (int64_t k = 0; k < all; k++) sum += tb[k * all + i] * ta[k * all + j];
            product[i * all + j] = sum;
        }
    const peft_status status = peft__svd(c->ctx, product, all, all, all, u, s, vt);
    const int64_t kept = peft__min_i64(rank, all);
    for (int64_t r = 0; status >= 0 && r < kept; r++) {
        for (int64_t i = 0; i < in; i++) {
            double sum = 0.0;
            for (int64_t k = 0; k < all; k++) sum += vt[r * all + k] * qa[k * in + i];
            out_a[r * in + i] = (float)sum;
        }
        for (int64_t o = 0; o < out; o++) {
            double sum = 0.0;
            for (int64_t k = 0; k < all; k++) sum += u[k * all + r] * qb[k * out + o];
            out_b[o * rank + r] = (float)(s[r] * sum);
        }
    }
    peft__free(c->ctx->mem, qa);
    return status;
}

static void put_stacked(const peft__module *module, int64_t rank, const double *a, const double *bt, float *out_a,
                        float *out_b) {
    for (int64_t i = 0; i < rank * module->in; i++) out_a[i] = (float)a[i];
    for (int64_t j = 0; j < rank; j++)
        for (int64_t o = 0; o < module->out; o++) out_b[o * rank + j] = (float)bt[j * module->out + o];
}

static void put_linear(const combining *c, const peft__module *module, int64_t rank, const double *a, const double *bt,
                       float *out_a, float *out_b) {
    const int64_t in = module->in, out = module->out;
    int64_t at = 0;
    for (uint32_t i = 0; i < c->count; i++) {
        const peft__lora_layer *layer = layer_in(c, i, module);
        if (layer == NULL) continue;
        const double factor = (double)c->weights[i] * (double)c->adapters[i]->scale * (double)layer->scale;
        const double root = sqrt(fabs(factor)), back = factor != 0.0 ? root / factor : 0.0; /* a has factor in it */
        for (int64_t j = 0; j < rank; j++, at++) {
            for (int64_t k = 0; k < in; k++) out_a[j * in + k] += (float)(fabs(back) * a[at * in + k]);
            for (int64_t o = 0; o < out; o++) out_b[o * rank + j] += (float)(root * bt[at * out + o]);
        }
    }
}

static peft_status fill_layer(const combining *c, peft_adapter *result, const peft__module *module) {
    const peft__lora_layer *to = peft__lora_layer_of(result, module);
    int64_t all = 0;
    for (uint32_t i = 0; i < c->count; i++) {
        const peft__lora_layer *layer = layer_in(c, i, module);
        all += layer != NULL ? peft__lora_rank(layer) : 0;
    }
    const size_t bytes = (size_t)(all * (module->in + module->out) + 5 * all * all + all) * sizeof(double);
    double *a = peft__alloc(c->ctx->mem, bytes);
    if (a == NULL) return peft__fail_nomem(c->ctx, bytes, "combining adapters");
    double *bt = a + all * module->in, *core = bt + all * module->out;
    float *out_a = result->params[to->a].data, *out_b = result->params[to->b].data;
    peft_status status = stack(c, module, a, bt);
    if (status >= 0 && c->kind == COMBINE_SVD)
        status = cut(c, module, all, to->rank, a, bt, core, out_a, out_b);
    else if (status >= 0 && c->kind == COMBINE_CAT)
        put_stacked(module, all, a, bt, out_a, out_b);
    else if (status >= 0)
        put_linear(c, module, to->rank, a, bt, out_a, out_b);
    peft__free(c->ctx->mem, a);
    return status;
}

static peft_status combine(const combining *c, peft_adapter **out_adapter) {
    const uint32_t modules = peft__model_module_count(c->model);
    peft__lora_part *parts = peft__alloc(c->ctx->mem, (modules + 1) * sizeof *parts);
    if (parts == NULL) return peft__fail_nomem(c->ctx, modules * sizeof *parts, "combining adapters");
    uint32_t count = 0;
    peft_status status = PEFT_OK;
    for (uint32_t i = 0; status >= 0 && i < modules; i++) {
        peft__lora_part *part = &parts[count];
        part->module = peft__model_module_at(c->model, i);
        status = rank_at(c, part->module, &part->rank);
        part->alpha = (double)part->rank;
        count += status >= 0 && part->rank > 0;
    }
    peft_adapter *result = NULL;
    if (status >= 0) status = peft__lora_make(c->ctx, c->model, WHERE, parts, count, NULL, &result);
    for (uint32_t i = 0; status >= 0 && i < count; i++) status = fill_layer(c, result, parts[i].module);
    if (status >= 0) status = peft__adapter_finish(result);
    peft__free(c->ctx->mem, parts);
    if (status < 0)
        peft_adapter_destroy(result);
    else
        *out_adapter = result;
    return status;
}

peft_status peft_adapter_combine(peft_context *ctx, peft_model *model, peft_adapter *const *adapters,
                                 const float *weights, uint32_t count, const char *method, uint32_t rank,
                                 peft_adapter **out_adapter) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (model == NULL || adapters == NULL || weights == NULL || count == 0 || method == NULL || out_adapter == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "%s: an argument is NULL, or there is no adapter", WHERE);
    combining c = {ctx, model, adapters, weights, count, COMBINE_CAT, rank};
    if (strcmp(method, "linear") == 0)
        c.kind = COMBINE_LINEAR;
    else if (strcmp(method, "svd") == 0)
        c.kind = COMBINE_SVD;
    else if (strcmp(method, "cat") != 0)
        return peft__fail(ctx, PEFT_E_ARG, "%s: method \"%.40s\", expected \"linear\", \"cat\" or \"svd\"", WHERE,
                          method);
    if (rank > 65536) return peft__fail(ctx, PEFT_E_ARG, "%s: rank %u, expected at most 65536", WHERE, rank);
    PEFT_TRY(check(&c));
    return combine(&c, out_adapter);
}
