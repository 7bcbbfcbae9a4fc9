/* prompts_result.c: what a run found: accuracy, F1, and how sure both are. */
#include "data/prompts.h"

#include <math.h>

/* ---- Wilson's interval --------------------------------------------------------------------------------------------
 */

/* The number that a standard normal variable stays below with probability p: bisection on erfc, to the last digits. */
static double normal_quantile(double p) {
    double low = -40.0, high = 40.0;
    for (int i = 0; i < 200 && high - low > 0.0; i++) {
        const double middle = 0.5 * (low + high);
        if (middle == low || middle == high) break;
        if (0.5 * erfc(-middle / sqrt(2.0)) < p)
            low = middle;
        else
            high = middle;
    }
    return 0.5 * (low + high);
}

peft_status peft_metric_wilson(peft_context *context, int64_t successes, int64_t count, double level,
                               peft_interval *out_interval) {
    if (context == NULL || out_interval == NULL || out_interval->struct_size < sizeof out_interval->struct_size)
        return peft__fail(context, PEFT_E_ARG, "peft_metric_wilson() takes a context and out_interval with its size");
    if (count < 1 || successes < 0 || successes > count)
        return peft__fail(context, PEFT_E_ARG, "%lld successes among %lld", (long long)successes, (long long)count);
    if (!(level > 0.0 && level < 1.0))
        return peft__fail(context, PEFT_E_ARG, "the level is above 0 and below 1, found %g", level);
    const double n = (double)count, p = (double)successes / n, z = normal_quantile(0.5 + 0.5 * level), z2 = z * z;
    const double centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    const double half = z / (1.0 + z2 / n) * sqrt(p * (1.0 - p) / n + z2 / (4.0 * n * n));
    const peft_interval interval = {.struct_size = out_interval->struct_size,
                                    .value = p,
                                    .low = successes == 0 ? 0.0 : fmax(0.0, centre - half),
                                    .high = successes == count ? 1.0 : fmin(1.0, centre + half),
                                    .deviation = sqrt(p * (1.0 - p) / n)};
    memcpy(out_interval, &interval, peft__min_size(out_interval->struct_size, sizeof interval));
    return PEFT_OK;
}

/* ---- measures -------------------------------------------------------------------------------------------------------
 */

typedef struct sample {
    peft_context *ctx;
    const int32_t *labels, *predictions;
    uint32_t classes;
    int32_t *picked; /* [2 * count] */
    int64_t count;
} sample;

static double macro_f1(void *user, const int64_t *indices, int64_t count) {
    const sample *s = user;
    for (int64_t i = 0; i < count; i++) {
        s->picked[i] = s->labels[indices[i]];
        s->picked[s->count + i] = s->predictions[indices[i]];
    }
    peft_class_metrics metrics = {.struct_size = (uint32_t)sizeof metrics};
    const peft_status status =
        peft_metric_classes(s->ctx, s->picked, s->picked + s->count, count, s->classes, &metrics, NULL, NULL);
    return status < 0 ? NAN : metrics.macro_f1;
}

/* A row without an answer is predicted to be of a class that no row has: its F1 is 0, and it is not among the classes
 * that the mean is over unless it occurs, as in scikit-learn. */
static peft_status measure_f1(peft_prompt_result *result, const int32_t *predictions, int32_t *scratch, double level,
                              uint32_t samples) {
    peft_prompt_scores *s = &result->scores;
    for (int64_t i = 0; i < s->count; i++) scratch[i] = predictions[i] < 0 ? (int32_t)s->classes : predictions[i];
    sample all = {result->ctx, s->labels, scratch, s->classes + 1, scratch + s->count, s->count};
    peft_interval interval = {.struct_size = (uint32_t)sizeof interval};
    s->macro_f1_low = s->macro_f1_high = NAN;
    peft_class_metrics metrics = {.struct_size = (uint32_t)sizeof metrics};
    PEFT_TRY(peft_metric_classes(result->ctx, s->labels, scratch, s->count, all.classes, &metrics, NULL, NULL));
    s->macro_f1 = metrics.macro_f1;
    if (samples == 0) return PEFT_OK;
    PEFT_TRY(peft_metric_bootstrap(result->ctx, macro_f1, &all, s->count, samples, level, 0, &interval));
    s->macro_f1_low = interval.low;
    s->macro_f1_high = interval.high;
    return PEFT_OK;
}

peft_status peft__prompt_result_measure(peft_prompt_result *result, double level, uint32_t samples) {
    peft_prompt_scores *s = &result->scores;
    int64_t right = 0;
    for (int64_t i = 0; i < s->count; i++) {
        right += s->predictions[i] == s->labels[i];
        s->unread += s->predictions[i] < 0;
    }
    peft_interval interval = {.struct_size = (uint32_t)sizeof interval};
    PEFT_TRY(peft_metric_wilson(result->ctx, right, s->count, level, &interval));
    s->accuracy = interval.value;
    s->accuracy_low = interval.low;
    s->accuracy_high = interval.high;
    const size_t bytes = 3 * (size_t)s->count * sizeof(int32_t);
    int32_t *scratch = peft__alloc(result->ctx->mem, bytes);
    if (scratch == NULL) return peft__fail_nomem(result->ctx, bytes, "measures");
    const peft_status status = measure_f1(result, s->predictions, scratch, level, samples);
    peft__free(result->ctx->mem, scratch);
    return status;
}

/* ---- the object
 * ------------------------------------------------------------------------------------------------------- */

peft_status peft_prompt_result_get(const peft_prompt_result *result, peft_prompt_scores *out_scores) {
    if (result == NULL || out_scores == NULL || out_scores->struct_size < sizeof out_scores->struct_size)
        return PEFT_E_ARG;
    peft_prompt_scores scores = result->scores;
    scores.struct_size = out_scores->struct_size;
    memcpy(out_scores, &scores, peft__min_size(out_scores->struct_size, sizeof scores));
    return PEFT_OK;
}

void peft_prompt_result_destroy(peft_prompt_result *result) {
    if (result == NULL) return;
    peft_context *ctx = result->ctx;
    peft__arena_free(&result->arena);
    peft__free(ctx->mem, result);
    peft__context_unref(ctx);
}
