/* combine_tasks.c: several tensors of one shape made into one, entry by entry.
 *
 * Yadav et al. 2023 (TIES) and Yu et al. 2024 (DARE) add up what several trainings changed after making the changes
 * sparse, because most entries are small and stand in each other's way. Three steps, each of which may be left out:
 * keep some entries of each tensor (the largest, or random ones made larger to keep the mean), elect a sign for each
 * entry, add up what has that sign and divide by how many did. As HF PEFT does it: the sign is elected on what was kept
 * before weights come in.
 *
 * On factors it works on A and B apart, with the roots of |w s| as weights and the sign in A: the product then has cross
 * terms B_i A_j. On changes it works on each s B A, and the result is cut to a rank by singular values.
 */
#include <math.h>

#include "method/combine.h"
#include "method/svd.h"

enum {
    EXACT = 512, /* columns or rows up to which singular values are taken exactly */
    ROUNDS = 16  /* beyond: of the random method */
};

/* The k-th largest of values [n], 1 <= k <= n; changes their order. */
static float kth_largest(float *values, int64_t n, int64_t k) {
    int64_t low = 0, high = n - 1;
    while (low < high) {
        const float pivot = values[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (values[i] > pivot) i++;
            while (values[j] < pivot) j--;
            if (i > j) break;
            const float swap = values[i];
            values[i++] = values[j];
            values[j--] = swap;
        }
        if (k - 1 <= j)
            high = j;
        else if (k - 1 >= i)
            low = i;
        else
            break;
    }
    return values[k - 1];
}

/* Zeroes all but the share `density` of largest magnitude; of equal ones the first are kept. */
static void keep_largest(float *values, int64_t n, double density, float *scratch) {
    const int64_t kept = (int64_t)(density * (double)n);
    if (kept >= n) return;
    if (kept < 1) {
        memset(values, 0, (size_t)n * sizeof *values);
        return;
    }
    for (int64_t i = 0; i < n; i++) scratch[i] = fabsf(values[i]);
    const float limit = kth_largest(scratch, n, kept);
    int64_t above = 0;
    for (int64_t i = 0; i < n; i++) above += fabsf(values[i]) > limit;
    int64_t equal = kept - above;
    for (int64_t i = 0; i < n; i++) {
        const float size = fabsf(values[i]);
        if (size > limit || (size == limit && equal-- > 0)) continue;
        values[i] = 0.0f;
    }
}

static void keep_random(float *values, int64_t n, double density, peft__rng *rng) {
    const float larger = (float)(1.0 / density);
    for (int64_t i = 0; i < n; i++) values[i] = (double)peft__rng_uniform(rng) < density ? values[i] * larger : 0.0f;
}

/* tasks [count, n] are used up; out [n]. */
static void merge(const peft__combining *c, float *tasks, const double *weights, uint32_t count, int64_t n,
                  peft__rng *rng, float *out) {
    const double density = (double)c->options.density;
    for (uint32_t t = 0; t < count; t++) {
        if (c->rule->keep == PEFT__KEEP_LARGEST) keep_largest(tasks + t * n, n, density, out);
        if (c->rule->keep == PEFT__KEEP_RANDOM && density < 1.0) keep_random(tasks + t * n, n, density, rng);
    }
    const bool frequency = c->options.majority == PEFT_MAJORITY_FREQUENCY;
    for (int64_t i = 0; i < n; i++) {
        double sum = 0.0, sign = 0.0;
        int64_t agree = 0;
        for (uint32_t t = 0; t < count; t++) {
            const float x = tasks[t * n + i];
            sign += frequency ? (double)((x > 0.0f) - (x < 0.0f)) : (double)x;
        }
        for (uint32_t t = 0; t < count; t++) {
            const float x = tasks[t * n + i];
            if (c->rule->elect && (sign >= 0.0 ? !(x > 0.0f) : !(x < 0.0f))) continue;
            sum += weights[t] * (double)x;
            agree++;
        }
        out[i] = (float)(c->rule->elect && agree > 1 ? sum / (double)agree : sum);
    }
}

/* What is random depends on the seed and the module's name only. */
static peft__rng rng_of(const peft__combining *c, const peft__module *module) {
    return peft__rng_make(c->options.seed, peft__hash64(module->name, strlen(module->name), 0));
}

static peft_status on_factors(const peft__combining *c, const peft__module *module, int64_t rank, float *out_a,
                              float *out_b) {
    const int64_t na = rank * module->in, nb = rank * module->out;
    const size_t bytes = (size_t)(na + nb) * c->count * sizeof(float) + 2 * c->count * sizeof(double);
    double *weights_a = peft__alloc(c->ctx->mem, bytes);
    if (weights_a == NULL) return peft__fail_nomem(c->ctx, bytes, "combining adapters");
    double *weights_b = weights_a + c->count;
    float *a = (float *)(weights_b + c->count), *b = a + na * c->count;
    uint32_t count = 0;
    for (uint32_t i = 0; i < c->count; i++) {
        const peft__lora_layer *layer = peft__combine_layer(c, i, module);
        if (layer == NULL) continue;
        const double factor = peft__combine_factor(c, i, layer);
        weights_b[count] = sqrt(fabs(factor));
        weights_a[count] = factor < 0.0 ? -weights_b[count] : weights_b[count];
        peft__lora_factors(c->adapters[i], layer, a + count * na, b + count * nb);
        count++;
    }
    peft__rng rng = rng_of(c, module);
    merge(c, a, weights_a, count, na, &rng, out_a);
    merge(c, b, weights_b, count, nb, &rng, out_b);
    peft__free(c->ctx->mem, weights_a);
    return PEFT_OK;
}

/* change [out, in] = s B A, with the layer's scale. */
static peft_status change_of(const peft__combining *c, uint32_t i, const peft__lora_layer *layer, float *change) {
    const peft__module *module = layer->module;
    const int64_t in = module->in, out = module->out, rank = peft__lora_rank(layer);
    const size_t bytes = (size_t)(rank * (in + out)) * sizeof(float);
    float *a = peft__alloc(c->ctx->mem, bytes);
    if (a == NULL) return peft__fail_nomem(c->ctx, bytes, "combining adapters");
    float *b = a + rank * in;
    peft__lora_factors(c->adapters[i], layer, a, b);
    memset(change, 0, (size_t)(in * out) * sizeof *change);
    for (int64_t o = 0; o < out; o++)
        for (int64_t r = 0; r < rank; r++) {
            const float factor = layer->scale * b[o * rank + r];
            for (int64_t k = 0; k < in; k++) change[o * in + k] += factor * a[r * in + k];
        }
    peft__free(c->ctx->mem, a);
    return PEFT_OK;
}

/* B' = U S and A' = V^T of sum [out, in]. */
static peft_status take_apart(const peft__combining *c, const peft__module *module, int64_t rank, const float *sum,
                              float *out_a, float *out_b) {
    const int64_t in = module->in, out = module->out, least = peft__min_i64(in, out), kept = peft__min_i64(rank, least);
    const size_t bytes = (size_t)(in * out + kept * (in + out + 1)) * sizeof(double);
    double *w = peft__alloc(c->ctx->mem, bytes);
    if (w == NULL) return peft__fail_nomem(c->ctx, bytes, "combining adapters");
    double *u = w + in * out, *vt = u + out * kept, *s = vt + kept * in;
    for (int64_t i = 0; i < in * out; i++) w[i] = (double)sum[i];
    const peft_status status = least <= EXACT
                                   ? peft__svd(c->ctx, w, out, in, kept, u, s, vt)
                                   : peft__svd_random(c->ctx, w, out, in, kept, ROUNDS, c->options.seed, u, s, vt);
    for (int64_t r = 0; status >= 0 && r < kept; r++) {
        for (int64_t k = 0; k < in; k++) out_a[r * in + k] = (float)vt[r * in + k];
        for (int64_t o = 0; o < out; o++) out_b[o * rank + r] = (float)(u[o * kept + r] * s[r]);
    }
    peft__free(c->ctx->mem, w);
    return status;
}

static peft_status on_changes(const peft__combining *c, const peft__module *module, int64_t rank, float *out_a,
                              float *out_b) {
    const int64_t n = module->in * module->out;
    const size_t weights_bytes = c->count * sizeof(double);
    size_t bytes = 0;
    if (!peft__mul_size((size_t)n * sizeof(float), (size_t)c->count + 1, &bytes) ||
        !peft__add_size(bytes, weights_bytes, &bytes))
        return peft__fail(c->ctx, PEFT_E_LIMIT, "%s is too large for its changes to be combined", module->name);
    double *weights = peft__alloc(c->ctx->mem, bytes);
    if (weights == NULL) return peft__fail_nomem(c->ctx, bytes, "combining adapters");
    float *sum = (float *)(weights + c->count), *tasks = sum + n;
    uint32_t count = 0;
    peft_status status = PEFT_OK;
    for (uint32_t i = 0; status >= 0 && i < c->count; i++) {
        const peft__lora_layer *layer = peft__combine_layer(c, i, module);
        if (layer == NULL) continue;
        weights[count] = (double)c->weights[i] * (double)c->adapters[i]->scale;
        status = change_of(c, i, layer, tasks + count++ * n);
    }
    peft__rng rng = rng_of(c, module);
    if (status >= 0) {
        merge(c, tasks, weights, count, n, &rng, sum);
        status = take_apart(c, module, rank, sum, out_a, out_b);
    }
    peft__free(c->ctx->mem, weights);
    return status;
}

peft_status peft__combine_tasks(const peft__combining *c, const peft__module *module, int64_t rank, float *out_a,
                                float *out_b) {
    return c->rule->on == PEFT__COMBINE_FACTORS ? on_factors(c, module, rank, out_a, out_b)
                                                : on_changes(c, module, rank, out_a, out_b);
}
