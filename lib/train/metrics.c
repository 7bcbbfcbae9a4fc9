/* metrics.c: measures of classes and numbers, and how far to trust them.
 *
 * Sums are in double and in the order of the elements, so that a measure is the same wherever it is computed. What a
 * measure is where nothing defines it follows scikit-learn (zero) and SciPy (NaN): numbers are there to be compared
 * with other people's.
 */
#include "peft/metrics.h"

#include <math.h>

#include "base/base.h"

void peft_argmax(const float *values, int64_t rows, int64_t cols, int32_t *out) {
    for (int64_t r = 0; values != NULL && out != NULL && r < rows; r++) {
        int64_t best = 0;
        for (int64_t c = 1; c < cols; c++)
            if (values[r * cols + c] > values[r * cols + best]) best = c;
        out[r] = (int32_t)best;
    }
}

static double ratio(double part, double whole) {
    return whole > 0.0 ? part / whole : 0.0;
}

/* Writes as much of a result as the caller's struct has room for. */
static peft_status give(peft_context *ctx, void *to, const void *from, size_t known, const char *name) {
    uint32_t size = 0;
    if (to != NULL) memcpy(&size, to, sizeof size);
    if (size < sizeof size + sizeof(uint32_t))
        return peft__fail(ctx, PEFT_E_ARG, "%s is missing or its struct_size is not set", name);
    memcpy(to, from, peft__min_size(size, known));
    memcpy(to, &size, sizeof size);
    return PEFT_OK;
}

/* ---- classes -------------------------------------------------------------------------------------------------- */

enum { MOST_CLASSES = 65536 };

/* How often a class was found, missed and claimed in vain. */
typedef struct tally {
    int64_t right, missed, vain;
} tally;

static double f1_of(const tally *t) {
    return ratio(2.0 * (double)t->right, (double)(2 * t->right + t->missed + t->vain));
}

static void averages(const tally *tallies, uint32_t classes, peft_class_metrics *out) {
    double present = 0.0, labelled = 0.0;
    tally all = {0, 0, 0};
    for (uint32_t c = 0; c < classes; c++) {
        const tally *t = &tallies[c];
        all.right += t->right;
        all.missed += t->missed;
        all.vain += t->vain;
        if (t->right + t->missed + t->vain == 0) continue;
        present += 1.0;
        labelled += (double)(t->right + t->missed);
        out->macro_precision += ratio((double)t->right, (double)(t->right + t->vain));
        out->macro_recall += ratio((double)t->right, (double)(t->right + t->missed));
        out->macro_f1 += f1_of(t);
        out->weighted_f1 += f1_of(t) * (double)(t->right + t->missed);
    }
    out->macro_precision = ratio(out->macro_precision, present);
    out->macro_recall = ratio(out->macro_recall, present);
    out->macro_f1 = ratio(out->macro_f1, present);
    out->weighted_f1 = ratio(out->weighted_f1, labelled);
    out->micro_f1 = f1_of(&all);
}

/* (c s - sum p_k t_k) / sqrt((s^2 - sum p_k^2) (s^2 - sum t_k^2)), with t_k and p_k how often class k is label and
 * prediction. */
static double matthews(const tally *tallies, uint32_t classes, double count) {
    double right = 0.0, both = 0.0, predicted = 0.0, labelled = 0.0;
    for (uint32_t c = 0; c < classes; c++) {
        const double p = (double)(tallies[c].right + tallies[c].vain),
                     t = (double)(tallies[c].right + tallies[c].missed);
        right += (double)tallies[c].right;
        both += p * t;
        predicted += p * p;
        labelled += t * t;
    }
    const double under = (count * count - predicted) * (count * count - labelled);
    return under > 0.0 ? (right * count - both) / sqrt(under) : 0.0;
}

static peft_status check_classes(peft_context *ctx, const void *labels, const void *predictions, int64_t count,
                                 uint32_t classes) {
    if (labels == NULL || predictions == NULL || count < 1)
        return peft__fail(ctx, PEFT_E_ARG, "a metric needs labels and predictions of at least one element");
    if (classes < 1 || classes > MOST_CLASSES)
        return peft__fail(ctx, PEFT_E_ARG, "classes is 1 to %d, found %u", MOST_CLASSES, classes);
    return PEFT_OK;
}

peft_status peft_metric_classes(peft_context *ctx, const int32_t *labels, const int32_t *predictions, int64_t count,
                                uint32_t classes, peft_class_metrics *out_metrics, int64_t *confusion, double *f1) {
    if (ctx == NULL) return PEFT_E_ARG;
    PEFT_TRY(check_classes(ctx, labels, predictions, count, classes));
    int64_t counted = 0, right = 0;
    for (int64_t i = 0; i < count; i++) {
        if (labels[i] == PEFT_IGNORE_LABEL) continue;
        counted++;
        if (labels[i] < 0 || labels[i] >= (int32_t)classes || predictions[i] < 0 || predictions[i] >= (int32_t)classes)
            return peft__fail(ctx, PEFT_E_ARG, "element %lld has label %d and prediction %d, but there are %u classes",
                              (long long)i, labels[i], predictions[i], classes);
    }
    if (counted == 0) return peft__fail(ctx, PEFT_E_ARG, "no element has a label: all %lld are -100", (long long)count);
    tally *tallies = peft__alloc_zero(ctx->mem, classes * sizeof *tallies);
    if (tallies == NULL) return peft__fail_nomem(ctx, classes * sizeof *tallies, "a metric");
    if (confusion != NULL) memset(confusion, 0, (size_t)classes * classes * sizeof *confusion);
    for (int64_t i = 0; i < count; i++) {
        if (labels[i] == PEFT_IGNORE_LABEL) continue;
        if (confusion != NULL) confusion[(size_t)labels[i] * classes + (size_t)predictions[i]]++;
        if (labels[i] == predictions[i]) {
            tallies[labels[i]].right++;
            right++;
        } else {
            tallies[labels[i]].missed++;
            tallies[predictions[i]].vain++;
        }
    }
    peft_class_metrics found = {.struct_size = (uint32_t)sizeof found, .count = counted};
    averages(tallies, classes, &found);
    found.accuracy = (double)right / (double)counted;
    found.matthews = matthews(tallies, classes, (double)counted);
    for (uint32_t c = 0; f1 != NULL && c < classes; c++) f1[c] = f1_of(&tallies[c]);
    peft__free(ctx->mem, tallies);
    return give(ctx, out_metrics, &found, sizeof found, "peft_class_metrics");
}

peft_status peft_metric_multi_label(peft_context *ctx, const float *targets, const float *logits, int64_t count,
                                    uint32_t classes, float threshold, peft_class_metrics *out_metrics) {
    if (ctx == NULL) return PEFT_E_ARG;
    PEFT_TRY(check_classes(ctx, targets, logits, count, classes));
    tally *tallies = peft__alloc_zero(ctx->mem, classes * sizeof *tallies);
    if (tallies == NULL) return peft__fail_nomem(ctx, classes * sizeof *tallies, "a metric");
    int64_t right = 0;
    for (int64_t i = 0; i < count; i++) {
        bool all = true;
        for (uint32_t c = 0; c < classes; c++) {
            const bool has = targets[i * classes + c] > 0.5f, says = logits[i * classes + c] > threshold;
            tallies[c].right += has && says;
            tallies[c].missed += has && !says;
            tallies[c].vain += !has && says;
            all = all && has == says;
        }
        right += all;
    }
    peft_class_metrics found = {.struct_size = (uint32_t)sizeof found,
                                .count = count,
                                .accuracy = (double)right / (double)count,
                                .matthews = NAN};
    averages(tallies, classes, &found);
    /* Means over all classes: in a matrix of 0 and 1 every class is there. */
    double macro_precision = 0.0, macro_recall = 0.0, macro_f1 = 0.0;
    for (uint32_t c = 0; c < classes; c++) {
        const tally *t = &tallies[c];
        macro_precision += ratio((double)t->right, (double)(t->right + t->vain)) / classes;
        macro_recall += ratio((double)t->right, (double)(t->right + t->missed)) / classes;
        macro_f1 += f1_of(t) / classes;
    }
    found.macro_precision = macro_precision;
    found.macro_recall = macro_recall;
    found.macro_f1 = macro_f1;
    peft__free(ctx->mem, tallies);
    return give(ctx, out_metrics, &found, sizeof found, "peft_class_metrics");
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

typedef struct ranked {
    double value;
    int64_t index;
} ranked;

static void sift_down(ranked *items, int64_t from, int64_t count) {
    for (;;) {
        int64_t child = 2 * from + 1;
        if (child >= count) return;
        if (child + 1 < count && items[child + 1].value > items[child].value) child++;
        if (items[from].value >= items[child].value) return;
        const ranked item = items[from];
        items[from] = items[child];
        items[child] = item;
        from = child;
    }
}

/* Heapsort, rising: in place, and no worst case. */
static void sort(ranked *items, int64_t count) {
    for (int64_t i = count / 2; i-- > 0;) sift_down(items, i, count);
    for (int64_t end = count; end-- > 1;) {
        const ranked item = items[0];
        items[0] = items[end];
        items[end] = item;
        sift_down(items, 0, end);
    }
}

/* Ranks from 1; equal values share the mean of theirs. */
static void rank(const float *values, int64_t count, ranked *items, double *out) {
    for (int64_t i = 0; i < count; i++) items[i] = (ranked){(double)values[i], i};
    sort(items, count);
    for (int64_t i = 0; i < count;) {
        int64_t end = i + 1;
        while (end < count && !(items[end].value > items[i].value)) end++;
        for (int64_t j = i; j < end; j++) out[items[j].index] = 0.5 * (double)(i + 1 + end);
        i = end;
    }
}

static double correlation(const double *a, const double *b, int64_t count) {
    double mean_a = 0.0, mean_b = 0.0, ab = 0.0, aa = 0.0, bb = 0.0;
    for (int64_t i = 0; i < count; i++) {
        mean_a += a[i] / (double)count;
        mean_b += b[i] / (double)count;
    }
    for (int64_t i = 0; i < count; i++) {
        ab += (a[i] - mean_a) * (b[i] - mean_b);
        aa += (a[i] - mean_a) * (a[i] - mean_a);
        bb += (b[i] - mean_b) * (b[i] - mean_b);
    }
    if (!(aa > 0.0) || !(bb > 0.0)) return NAN;
    return fmin(1.0, fmax(-1.0, ab / (sqrt(aa) * sqrt(bb))));
}

static void errors(const float *targets, const float *predictions, int64_t count, peft_value_metrics *out) {
    double mean = 0.0, squares = 0.0, absolutes = 0.0, spread = 0.0;
    for (int64_t i = 0; i < count; i++) mean += (double)targets[i] / (double)count;
    for (int64_t i = 0; i < count; i++) {
        const double error = (double)predictions[i] - (double)targets[i], from_mean = (double)targets[i] - mean;
        squares += error * error;
        absolutes += fabs(error);
        spread += from_mean * from_mean;
    }
    out->mse = squares / (double)count;
    out->mae = absolutes / (double)count;
    out->r2 = spread > 0.0 ? 1.0 - squares / spread : squares > 0.0 ? 0.0 : 1.0;
}

peft_status peft_metric_values(peft_context *ctx, const float *targets, const float *predictions, int64_t count,
                               peft_value_metrics *out_metrics) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (targets == NULL || predictions == NULL || count < 1)
        return peft__fail(ctx, PEFT_E_ARG, "a metric needs targets and predictions of at least one element");
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(targets[i]) || !isfinite(predictions[i]))
            return peft__fail(ctx, PEFT_E_ARG, "element %lld is not finite: target %g, prediction %g", (long long)i,
                              (double)targets[i], (double)predictions[i]);
    size_t bytes;
    if (!peft__mul_size((size_t)count, sizeof(ranked) + 2 * sizeof(double), &bytes))
        return peft__fail(ctx, PEFT_E_LIMIT, "%lld elements are too many", (long long)count);
    ranked *items = peft__alloc(ctx->mem, bytes);
    if (items == NULL) return peft__fail_nomem(ctx, bytes, "a metric");
    double *a = (double *)(items + count), *b = a + count;
    peft_value_metrics found = {.struct_size = (uint32_t)sizeof found, .count = count};
    errors(targets, predictions, count, &found);
    for (int64_t i = 0; i < count; i++) {
        a[i] = (double)targets[i];
        b[i] = (double)predictions[i];
    }
    found.pearson = correlation(a, b, count);
    rank(targets, count, items, a);
    rank(predictions, count, items, b);
    found.spearman = correlation(a, b, count);
    peft__free(ctx->mem, items);
    return give(ctx, out_metrics, &found, sizeof found, "peft_value_metrics");
}

/* ---- bootstrap ----------------------------------------------------------------------------------------------------
 */

static double percentile(const ranked *items, int64_t count, double share) {
    const double at = share * (double)(count - 1);
    const int64_t below = (int64_t)floor(at), above = peft__min_i64(below + 1, count - 1);
    return items[below].value + (at - (double)below) * (items[above].value - items[below].value);
}

static int64_t draw_samples(peft_measure_fn measure, void *user, int64_t count, uint32_t samples, uint64_t seed,
                            int64_t *indices, ranked *items) {
    int64_t defined = 0;
    for (uint32_t s = 0; s < samples; s++) {
        peft__rng rng = peft__rng_make(seed, peft__hash64(&s, sizeof s, UINT64_C(0x626f6f74)));
        for (int64_t i = 0; i < count; i++) indices[i] = (int64_t)peft__rng_below(&rng, (uint64_t)count);
        const double value = measure(user, indices, count);
        if (!isnan(value)) items[defined++] = (ranked){value, (int64_t)s};
    }
    return defined;
}

peft_status peft_metric_bootstrap(peft_context *ctx, peft_measure_fn measure, void *user, int64_t count,
                                  uint32_t samples, double level, uint64_t seed, peft_interval *out_interval) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (measure == NULL || count < 1 || samples < 2 || samples > 10000000 || !(level > 0.0 && level < 1.0))
        return peft__fail(
            ctx, PEFT_E_ARG,
            "a bootstrap takes a measure, at least one example, 2 to 10000000 samples and a level between 0 and 1");
    size_t bytes;
    if (!peft__mul_size((size_t)count, sizeof(int64_t), &bytes) ||
        !peft__add_size(bytes, samples * sizeof(ranked), &bytes))
        return peft__fail(ctx, PEFT_E_LIMIT, "%lld examples are too many", (long long)count);
    ranked *items = peft__alloc(ctx->mem, bytes);
    if (items == NULL) return peft__fail_nomem(ctx, bytes, "a bootstrap");
    int64_t *indices = (int64_t *)(items + samples);
    peft_interval found = {.struct_size = (uint32_t)sizeof found};
    for (int64_t i = 0; i < count; i++) indices[i] = i;
    found.value = measure(user, indices, count);
    const int64_t defined = draw_samples(measure, user, count, samples, seed, indices, items);
    found.low = found.high = found.deviation = NAN;
    if (defined > 1) {
        sort(items, defined);
        found.low = percentile(items, defined, 0.5 * (1.0 - level));
        found.high = percentile(items, defined, 0.5 * (1.0 + level));
        double mean = 0.0, squares = 0.0;
        for (int64_t i = 0; i < defined; i++) mean += items[i].value / (double)defined;
        for (int64_t i = 0; i < defined; i++) squares += (items[i].value - mean) * (items[i].value - mean);
        found.deviation = sqrt(squares / (double)(defined - 1));
    }
    peft__free(ctx->mem, items);
    return give(ctx, out_interval, &found, sizeof found, "peft_interval");
}
