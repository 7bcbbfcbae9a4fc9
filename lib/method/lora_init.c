/* lora_init.c: starting values of LoRA that are more than random numbers: DoRA's lengths, PiSSA, orthogonal factors.
 *
 * pissa        W = U S V^T, its r largest values: A = sqrt(S / s) V^T, B = U sqrt(S / s), so that s B A is the
 * principal part of W; the same in A0 and B0. Exactly, or from random directions ("pissa_niter_<rounds>"). orthogonal
 * the rows of an orthonormal Q [r, r] are dealt to two halves: A = (R1 Q_odd)^T / 10, B = R2 Q_even / 10 with random R1
 * [in, r/2], R2 [out, r/2]. So B A = 0 at the start, while both factors learn from the first step.
 */
#include <math.h>

#include "method/lora.h"
#include "method/svd.h"

/* ---- DoRA --------------------------------------------------------------------------------------------------- */

static peft_status start_lengths(peft_adapter *adapter, const peft__lora_layer *layer) {
    float *weight = NULL;
    PEFT_TRY(peft__lora_read_weight(adapter, layer->module, &weight));
    peft__lora_add_delta(adapter, layer, 1.0f, weight);
    for (int64_t o = 0; o < layer->module->out; o++)
        adapter->params[layer->magnitude].data[o] = peft__lora_row_length(layer->module, weight, o);
    peft__free(adapter->ctx->mem, weight);
    return PEFT_OK;
}

/* ---- PiSSA -------------------------------------------------------------------------------------------------- */

/* Factors from u [out, r], s [r], vt [r, in]; each value goes half to either side. */
static void set_factors(peft_adapter *adapter, const peft__lora_layer *layer, const double *u, const double *s,
                        const double *vt) {
    const int64_t in = layer->module->in, out = layer->module->out, r = layer->rank;
    float *a = adapter->params[layer->a0].data, *b = adapter->params[layer->b0].data;
    for (int64_t j = 0; j < r; j++) {
        const double root = sqrt(s[j] / fabs((double)layer->scale)), sign = layer->scale < 0.0f ? -1.0 : 1.0;
        for (int64_t i = 0; i < in; i++) a[j * in + i] = (float)(root * vt[j * in + i]);
        for (int64_t o = 0; o < out; o++) b[o * r + j] = (float)(sign * root * u[o * r + j]);
    }
    if (!adapter->slots[layer->a].read) memcpy(adapter->params[layer->a].data, a, (size_t)(r * in) * sizeof *a);
    if (!adapter->slots[layer->b].read) memcpy(adapter->params[layer->b].data, b, (size_t)(out * r) * sizeof *b);
}

static peft_status split_weight(peft_adapter *adapter, const peft__lora_layer *layer, const float *weight,
                                uint64_t seed) {
    const peft__lora *l = adapter->state;
    peft_context *ctx = adapter->ctx;
    const int64_t in = layer->module->in, out = layer->module->out, r = layer->rank;
    const size_t bytes = (size_t)(in * out + r * (in + out + 1)) * sizeof(double);
    double *w = peft__alloc(ctx->mem, bytes);
    if (w == NULL) return peft__fail_nomem(ctx, bytes, "PiSSA");
    double *u = w + in * out, *s = u + out * r, *vt = s + r;
    const bool conv = peft__layers_conv(layer->module);
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++) w[o * in + i] = (double)weight[conv ? i * out + o : o * in + i];
    const peft_status status = l->pissa_rounds < 0
                                   ? peft__svd(ctx, w, out, in, r, u, s, vt)
                                   : peft__svd_random(ctx, w, out, in, r, l->pissa_rounds, seed, u, s, vt);
    if (status >= 0) set_factors(adapter, layer, u, s, vt);
    peft__free(ctx->mem, w);
    return status;
}

static peft_status start_pissa(peft_adapter *adapter, const peft__lora_layer *layer, uint64_t seed) {
    if (layer->scale == 0.0f)
        return peft__fail(adapter->ctx, PEFT_E_ARG, "%s: PiSSA needs a scale that is not 0", layer->module->name);
    float *weight = NULL;
    PEFT_TRY(peft__lora_read_weight(adapter, layer->module, &weight));
    const peft_status status = split_weight(adapter, layer, weight, seed);
    peft__free(adapter->ctx->mem, weight);
    return status;
}

/* ---- orthogonal --------------------------------------------------------------------------------------------- */

/* data[o * row + j * step] = sum_k normal[o, k] q[2 k + odd][j] / 10 */
static void deal(peft__rng *rng, const double *q, int64_t r, int64_t odd, int64_t count, float *data, int64_t row,
                 int64_t step) {
    for (int64_t o = 0; o < count; o++) {
        for (int64_t j = 0; j < r; j++) data[o * row + j * step] = 0.0f;
        for (int64_t k = 0; k < r / 2; k++) {
            const double f = 0.1 * (double)peft__rng_normal(rng);
            for (int64_t j = 0; j < r; j++) data[o * row + j * step] += (float)(f * q[(2 * k + odd) * r + j]);
        }
    }
}

static peft_status start_orthogonal(peft_adapter *adapter, const peft__lora_layer *layer, uint64_t seed) {
    peft_context *ctx = adapter->ctx;
    const int64_t r = layer->rank;
    if (adapter->slots[layer->a].read) return PEFT_OK;
    if (r % 2 != 0)
        return peft__fail(ctx, PEFT_E_ARG, "init_lora_weights \"orthogonal\" needs an even rank, found %lld for %s",
                          (long long)r, layer->module->name);
    double *q = peft__alloc(ctx->mem, (size_t)(r * r) * sizeof *q);
    if (q == NULL) return peft__fail_nomem(ctx, (size_t)(r * r) * sizeof *q, "orthogonal values");
    peft__rng rng = peft__rng_make(seed, peft__hash64(layer->path, strlen(layer->path), 3));
    for (int64_t i = 0; i < r * r; i++) q[i] = (double)peft__rng_normal(&rng);
    peft__orthonormal_rows(q, r, r);
    deal(&rng, q, r, 0, layer->module->in, adapter->params[layer->a].data, 1, layer->module->in);
    deal(&rng, q, r, 1, layer->module->out, adapter->params[layer->b].data, r, 1);
    peft__free(ctx->mem, q);
    return PEFT_OK;
}

peft_status peft__lora_initialise(peft_adapter *adapter, uint64_t seed) {
    const peft__lora *l = adapter->state;
    for (uint32_t i = 0; i < l->count; i++) {
        const peft__lora_layer *layer = &l->layers[i];
        if (l->init == PEFT__LORA_PISSA) PEFT_TRY(start_pissa(adapter, layer, seed));
        if (l->init == PEFT__LORA_ORTHOGONAL) PEFT_TRY(start_orthogonal(adapter, layer, seed));
        if (layer->magnitude != PEFT__LORA_NONE && !adapter->slots[layer->magnitude].read)
            PEFT_TRY(start_lengths(adapter, layer));
    }
    return PEFT_OK;
}
