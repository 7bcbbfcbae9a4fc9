/** \file peft/evaluate.h
 *  Evaluation: what a session answers to every example of a data set, how right that is, and the answers themselves.
 *
 *  Threads: an evaluation belongs to the context of its session.
 */
#ifndef PEFT_EVALUATE_H
#define PEFT_EVALUATE_H

#include "peft/metrics.h"
#include "peft/session.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct peft_evaluation peft_evaluation;

typedef struct peft_evaluate_options {
    uint32_t struct_size;
    uint32_t n_best;           /**< answers or words for a hidden token that a prediction lists; default 5 */
    int64_t max_batches;       /**< 0 = all (default) */
    int64_t max_answer_length; /**< question answering: tokens of an answer; default 30 */
    float threshold;           /**< several classes: a class is given where its probability is above this; default 0.5 */
    uint32_t no_answer;        /**< question answering on data without labels: 1: "no answer" may be given, where nothing scores higher; labelled data decides itself;
                                    default 0 */
} peft_evaluate_options;

PEFT_API void peft_evaluate_options_init_sized(peft_evaluate_options *options, uint32_t size);
#define peft_evaluate_options_init(options) peft_evaluate_options_init_sized((options), (uint32_t)sizeof *(options))

/** Goes through the first `max_batches` batches of a data set's first epoch, without dropout, and puts its position back. Labelled data gives measures; data
 *  opened as `unlabelled` gives predictions alone. `options` may be NULL.
 *  Errors: those of peft_session_eval() and peft_session_logits(), PEFT_E_CANCELLED, PEFT_E_UNSUPPORTED (nothing to predict). */
PEFT_API PEFT_NODISCARD peft_status peft_evaluate(peft_session *session, peft_dataset *dataset, const peft_evaluate_options *options,
                                                  peft_evaluation **out_evaluation);
PEFT_API void peft_evaluation_destroy(peft_evaluation *evaluation);

/** Examples that were answered (sentences, pairs, questions). */
PEFT_API int64_t peft_evaluation_size(const peft_evaluation *evaluation);
/** What the loss is a mean of: tokens, words or examples (times their class weights). */
PEFT_API double peft_evaluation_targets(const peft_evaluation *evaluation);

/** Names of the measures that there are, the most telling first: accuracy, macro_f1, micro_f1, weighted_f1, macro_precision, macro_recall, matthews (one class);
 *  accuracy (every class right), macro_f1, micro_f1, weighted_f1 (several); pearson, spearman, mse, mae, r2 (numbers); entity_f1,
 *  entity_precision, entity_recall, accuracy, macro_f1 (tags); exact_match, answer_f1 (answers); and everywhere loss and, of language models, perplexity. NULL
 *  beyond the last. */
PEFT_API const char *peft_evaluation_metric_name(const peft_evaluation *evaluation, uint32_t index);
/** One measure. With `samples` > 1 low, high and deviation are of the bootstrap (95 %, peft_metric_bootstrap) over examples; else, and for the losses, they are NaN.
 *  PEFT_E_ARG for a measure that there is not: the text lists those that there are. */
PEFT_API PEFT_NODISCARD peft_status peft_evaluation_metric(const peft_evaluation *evaluation, const char *name, uint32_t samples, uint64_t seed,
                                                           peft_interval *out_interval);
/** 1 when larger values of a measure are better, 0 when smaller ones are (loss, perplexity, mse, mae), -1 when no measure has that name. */
PEFT_API int32_t peft_metric_greater_is_better(const char *name);

/** Classes and their confusion: [classes, classes], label by prediction (tags: over words). PEFT_E_LIMIT where `capacity` is too little,
 *  PEFT_E_UNSUPPORTED where there is no single class an element. Any pointer may be NULL. */
PEFT_API PEFT_NODISCARD peft_status peft_evaluation_confusion(const peft_evaluation *evaluation, int64_t *out_confusion, int64_t capacity, uint32_t *out_classes);
PEFT_API const char *peft_evaluation_label_name(const peft_evaluation *evaluation, uint32_t label);

/** All measures as a table, the F1 of each class and the confusion matrix (up to 20 classes), with bootstrap intervals where `samples` > 1. Owned by the
 *  evaluation, valid until the next call; NULL without memory. */
PEFT_API const char *peft_evaluation_report(peft_evaluation *evaluation, uint32_t samples, uint64_t seed);

/** Prediction number `index` as one line of JSON: the fields of its row (of `unlabelled` data), "row" (from 0) and "prediction": a class with "score" (its probability) and
 *  "scores"; a list of classes with "scores"; a number or a list of them; a tag for each word with "scores"; an answer with "score", "start" (characters
 *  before it) and "n_best"; for a hidden token the words that fit and "text", the text filled with the first. Owned by the evaluation, valid until the
 *  next call; NULL beyond the last or without memory. */
PEFT_API const char *peft_evaluation_prediction(peft_evaluation *evaluation, int64_t index);

#ifdef __cplusplus
}
#endif
#endif
