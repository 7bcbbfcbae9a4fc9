/** \file peft/metrics.h
 *  Measures of predictions: plain functions over arrays, in the conventions of scikit-learn, SciPy, seqeval and SQuAD.
 *
 *  Elements whose label is PEFT_IGNORE_LABEL do not count. The context is for memory and error texts only. Where a measure is not defined (no
 *  example, no deviation) it is 0, as scikit-learn's zero_division = 0 has it; correlations are NaN then, as SciPy's are.
 */
#ifndef PEFT_METRICS_H
#define PEFT_METRICS_H

#include "peft/batch.h"

#ifdef __cplusplus
extern "C" {
#endif

/** The index of the largest value of each row; the first of equals. `out` has room for `rows`. */
PEFT_API void peft_argmax(const float *values, int64_t rows, int64_t cols, int32_t *out);

typedef struct peft_class_metrics {
    uint32_t struct_size;
    uint32_t reserved;
    int64_t count;       /**< elements that counted */
    double accuracy;
    double macro_precision, macro_recall, macro_f1; /**< means over the classes that occur among labels or predictions */
    double micro_f1;     /**< equal to accuracy where every element has one class */
    double weighted_f1;  /**< mean weighted by how often a class is the label */
    double matthews;     /**< Matthews' correlation, also for more than two classes */
} peft_class_metrics;

/** One class an element. `confusion` (may be NULL): [classes, classes], label by prediction; `f1` (may be NULL): [classes].
 *  Errors: PEFT_E_ARG (a class out of range, nothing to count), PEFT_E_NOMEM. */
PEFT_API PEFT_NODISCARD peft_status peft_metric_classes(peft_context *context, const int32_t *labels, const int32_t *predictions, int64_t count,
                                                        uint32_t classes, peft_class_metrics *out_metrics, int64_t *confusion, double *f1);

/** Any number of classes an element: `targets` [count, classes] of 0 and 1, `logits` [count, classes]; a class is predicted where its logit
 *  is above `threshold` (0 = probability one half). accuracy is the share of elements with every class right; matthews is not computed (NaN). */
PEFT_API PEFT_NODISCARD peft_status peft_metric_multi_label(peft_context *context, const float *targets, const float *logits, int64_t count,
                                                            uint32_t classes, float threshold, peft_class_metrics *out_metrics);

typedef struct peft_value_metrics {
    uint32_t struct_size;
    uint32_t reserved;
    int64_t count;
    double mse, mae, r2;
    double pearson;
    double spearman; /**< Pearson's of the ranks, equal values sharing the mean of theirs */
} peft_value_metrics;

/** Numbers against numbers. Errors: PEFT_E_ARG (no element, or one that is not finite), PEFT_E_NOMEM. */
PEFT_API PEFT_NODISCARD peft_status peft_metric_values(peft_context *context, const float *targets, const float *predictions, int64_t count,
                                                       peft_value_metrics *out_metrics);

typedef struct peft_entity_metrics {
    uint32_t struct_size;
    uint32_t reserved;
    int64_t entities, predicted, correct; /**< in the labels, in the predictions, in both: same type, same first and last word */
    double precision, recall, f1;         /**< over all entities (micro average) */
    double accuracy;                      /**< of single tags */
} peft_entity_metrics;

/** Entities of tag sequences: "B-PER", "I-PER", "O" (also "E-", "S-"; IOB1 and IOB2), read as conlleval and seqeval's default mode do. Sequence s is the
 *  elements offsets[s] .. offsets[s + 1] - 1; ignored labels are taken out before entities are looked for. `names` has `classes` tags.
 *  Errors: PEFT_E_ARG (a class out of range), PEFT_E_NOMEM. */
PEFT_API PEFT_NODISCARD peft_status peft_metric_entities(peft_context *context, const int32_t *labels, const int32_t *predictions,
                                                         const int32_t *offsets, int64_t sequences, const char *const *names, uint32_t classes,
                                                         peft_entity_metrics *out_metrics);

/** Answers as SQuAD counts them: lower case, without punctuation, articles and doubled blanks; the best of the right answers counts. `out_exact` gets 0 or 1,
 *  `out_f1` the F1 of words. An empty list of right answers means that there is none: right is the empty text. Texts are UTF-8 with a NUL. */
PEFT_API PEFT_NODISCARD peft_status peft_metric_answer(peft_context *context, const char *prediction, const char *const *answers, uint32_t answer_count,
                                                       double *out_exact, double *out_f1);

/** A measure of a sample: indices [count] of examples, some several times. Called from the calling thread only. */
typedef double (*peft_measure_fn)(void *user, const int64_t *indices, int64_t count);

typedef struct peft_interval {
    uint32_t struct_size;
    uint32_t reserved;
    double value;     /**< of all examples once */
    double low, high; /**< percentiles of the samples */
    double deviation; /**< of the samples */
} peft_interval;

/** Bootstrap: the measure of `samples` samples of `count` examples drawn with repetition by `seed`; `level` 0.95 gives the 2.5th and 97.5th percentile
 *  (linear between neighbours, as numpy.percentile). Samples for which the measure is NaN are left out. */
PEFT_API PEFT_NODISCARD peft_status peft_metric_bootstrap(peft_context *context, peft_measure_fn measure, void *user, int64_t count, uint32_t samples,
                                                          double level, uint64_t seed, peft_interval *out_interval);

#ifdef __cplusplus
}
#endif
#endif
