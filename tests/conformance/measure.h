/* measure.h: what the conformance program compares with, and how errors are counted. */
#ifndef PEFT_TESTS_CONFORMANCE_MEASURE_H
#define PEFT_TESTS_CONFORMANCE_MEASURE_H

#include <stdbool.h>
#include <stddef.h>

#include "format/tensors.h"
#include "peft/peft.h"

/* One line of output: a case with its worst errors, or the reason why it was skipped. */
typedef struct outcome {
    char name[256];
    char text[4096]; /* "logits 1.2e-06 ..." */
    size_t length;
    int failures;
    bool skipped;
} outcome;

void outcome_add(outcome *out, const char *what, double error, double tolerance);
void outcome_fail(outcome *out, const char *format, ...) PEFT_PRINTF(2, 3);
void outcome_skip(outcome *out, const char *format, ...) PEFT_PRINTF(2, 3);

typedef struct tally {
    int passed, failed, skipped;
} tally;

/* Prints the line and counts it. */
void outcome_print(const outcome *out, tally *counts);

/* All elements as float; NULL when the tensor is absent. Released with free(). */
float *read_floats(peft_context *ctx, const peft__tensors *tensors, const char *name, int64_t *out_count);
int64_t *read_ints(peft_context *ctx, const peft__tensors *tensors, const char *name, int64_t *out_count);
double largest(const float *values, int64_t count);
/* Largest difference; infinity when a value is not finite. */
double difference(const float *a, const float *b, int64_t count);

/* <folder>/<name>; in a buffer that the caller gives. */
const char *join(char *buffer, size_t size, const char *folder, const char *name);

/* choices.c: answers to each example, [B, C, Tc] padded with 0, as sequences of a decoder. */
typedef struct choices {
    int64_t answers; /* B * C; 0: the case has none */
    int32_t *offsets, *ids, *labels, *source, *right;
} choices;
/* Adds them to a batch of the examples; false when memory or tensors are missing. */
bool choices_read(peft_context *ctx, const peft__tensors *file, choices *out, peft_batch *batch);
void choices_free(choices *c);
/* choice_scores of the case: -log p of each answer by its length. */
void check_choice_scores(peft_context *ctx, peft_session *session, const peft_batch *batch, const peft__tensors *expected, double tolerance,
                         outcome *out);

/* complete.c: the module tree's name of a trained tensor, without what HF PEFT puts around it. */
void plain_name(const char *name, char *out, size_t size);
/* A model folder `to`: that of `from` with the frozen tensors of a case, and those trained ones that lie beside them (the bias of a
 * layer whose weight is frozen). False after outcome_fail. */
bool complete_model(peft_context *ctx, const char *from, const peft__tensors *frozen, const peft__tensors *trained, const char *to,
                    outcome *out);
/* Removes what complete_model made. */
void complete_remove(const char *to);

/* hidden.c: hidden.<i> and decoder_hidden.<i> of the base model. `source`: where each row lies in the rectangle. */
void check_hidden(peft_context *ctx, peft_model *model, const peft_batch *batch, const int32_t *source, const peft__tensors *expected,
                  double tolerance, outcome *out);

/* trajectories.c: learning rates of a schedules.json; optimizers.json of a folder with its tensors. */
void run_schedules(const char *path, tally *counts);
void run_optimizers(peft_context *ctx, const char *folder, tally *counts);

void run_case(peft_context *ctx, const char *folder, const char *scratch, tally *counts);
void run_gguf(peft_context *ctx, const char *folder, const char *file, tally *counts);

#endif
