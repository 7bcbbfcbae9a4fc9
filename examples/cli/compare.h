/* compare.h: what the files of `peft compare` share.
 *
 *   compare.c          the command: entries one after another, what becomes of them
 *   compare_run.c      one entry: training, memory, time
 *   compare_score.c    how good a session is on the validation data, with an interval
 *   compare_prompts.c  entries without training: written prompts and solved examples
 *   compare_table.c    the table on the terminal, CSV, JSON
 *   compare_html.c     the page
 *   compare_plot.c     its drawings
 */
#ifndef PEFT_CLI_COMPARE_H
#define PEFT_CLI_COMPARE_H

#include "cli.h"
#include "peft/evaluate.h"
#include "peft/prompts.h"

enum { CURVE_POINTS = 120 };

/* How good: one seed's, or the mean over seeds. */
typedef struct quality {
    char measure[32]; /* "accuracy", "loss", ... */
    bool more_is_better;
    int64_t examples;
    double value, low, high; /* low and high are NAN when nothing says how sure the value is */
    double milliseconds;     /* of an example */
    double tokens;           /* of an example, as the model reads it */
    double flops;            /* of an example, counted */
} quality;

/* One row of the table. Numbers that do not apply or are not known are NAN (counts: -1). */
typedef struct contender {
    int32_t kind; /* PEFT_COMPARE_* */
    const char *name;
    char *reason; /* malloc; why there is no result; NULL = there is one */
    char detail[160];
    int64_t seeds; /* that were run */
    quality q;
    double seed_low, seed_high; /* smallest and largest value of a seed */
    int64_t trained;
    double share;                    /* of the model's parameters */
    double bytes;                    /* of the saved adapter, or of the prompt's token ids */
    double memory, inference_memory; /* most bytes held at once */
    int64_t steps;
    double step_seconds; /* median over all steps of all seeds */
    double seconds;      /* of all steps of a seed, mean */
    double train_tokens; /* of a seed */
    double train_flops, train_flops_frozen, train_flops_counted;
    double infer_flops, infer_flops_uncached, infer_flops_counted;
    double forgetting_before, forgetting_after; /* eval.forgetting: loss of the base's own task, mean over seeds */
    point *curve; /* malloc; training loss, mean of CURVE_POINTS stretches of the first seed's run */
    size_t curve_count;
} contender;

typedef struct comparison {
    run *r; /* the common recipe, and the model that most entries share */
    contender *rows;
    size_t count, done;
    int64_t seeds, samples;
    double level;
    double seconds;   /* of everything */
    double base_loss; /* eval.forgetting without any adapter; NAN: not measured yet */
    const char *keep; /* folder for the adapters, or NULL */
    char title[512];
} comparison;

/* compare_run.c: fills a row. False when the user stopped it; a failure is a row with a reason. */
bool compare_entry(comparison *c, uint32_t index, contender *out);
double compare_tokens_of(const peft_batch *batch);
int32_t compare_architecture(const peft_model *model);

/* compare_score.c */
bool compare_score(const comparison *c, run *r, peft_session *session, quality *out);

/* compare_prompts.c */
bool compare_prompts(comparison *c, run *r, uint32_t index, const peft_compare_entry *entry, contender *out);

/* compare_table.c */
void compare_print(const comparison *c, FILE *out);
char *compare_csv(const comparison *c);                       /* malloc */
void compare_json(const comparison *c, const contender *row); /* a line on standard output */
const char *compare_value(const contender *row, double value, char *buffer, size_t size);
const char *compare_flops(double flops, char *buffer, size_t size);

/* compare_html.c, compare_plot.c */
char *compare_html(const comparison *c); /* malloc */
void compare_plot_intervals(const comparison *c, FILE *out);
void compare_plot_bars(const comparison *c, const char *title, double (*value_of)(const contender *row),
                       const char *(*format)(double value, char *buffer, size_t size), FILE *out);
void compare_plot_scatter(const comparison *c, const char *title, double (*value_of)(const contender *row),
                          const char *(*format)(double value, char *buffer, size_t size), FILE *out);
void compare_plot_curves(const comparison *c, FILE *out);
/* Text with what HTML means something by written out. */
void compare_escape(const char *text, FILE *out);

#endif
