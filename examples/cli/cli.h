/* cli.h: what the files of the `peft` program share.
 *
 * The program stands on the public interface alone: everything it does, another program can do. Results go to standard
 * output, progress and complaints to standard error. Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.
 */
#ifndef PEFT_CLI_H
#define PEFT_CLI_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "peft/peft.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

/* ---- args.c: the command line of one command ----------------------------------------------------------------- */

typedef struct args {
    int count;
    char **values;    /* what follows the command's name; taken ones become NULL */
    const char *help; /* printed for --help and after a mistake */
    bool failed;
} args;

bool args_flag(args *a, const char *name);                   /* --name */
const char *args_text(args *a, const char *name);            /* --name VALUE or --name=VALUE; NULL when absent */
bool args_number(args *a, const char *name, double *in_out); /* false after a complaint */
const char *args_next(args *a);                              /* the next word that is no option; NULL when none */
/* Complains about options that nobody took and words that nobody wants. */
bool args_done(args *a);
int args_usage(const args *a, const char *complaint); /* EXIT_USAGE */

/* ---- common.c: a run's context, messages, small things of the system --------------------------------------------- */

typedef struct cli {
    peft_context *context;
    bool quiet, json;
    bool line_open; /* a progress line stands on the terminal */
    char *failure;  /* malloc; where the last failure is kept instead of being told, once keep_failures is set */
    bool keep_failures;
} cli;

bool cli_start(cli *c, uint32_t threads, uint64_t memory_limit);
void cli_stop(cli *c);
/* Tells the context's last error, or keeps it; returns false. */
bool cli_fail(cli *c, const char *what);
void cli_say(cli *c, const char *format, ...)
    __attribute__((format(printf, 2, 3))); /* standard output, unless quiet or json */
void cli_note(cli *c, const char *format, ...) __attribute__((format(printf, 2, 3))); /* standard error, unless quiet */
void cli_clear_line(cli *c);
double now_seconds(void);
uint64_t peak_memory(void); /* bytes resident at most so far */
bool on_terminal(FILE *file);
bool file_exists(const char *path);
char *path_join(const char *folder, const char *name); /* malloc */
char *text_copy(const char *text);                     /* malloc */
char *read_file(const char *path, size_t *out_length); /* malloc, NUL-terminated; NULL when it cannot be read */
bool write_file(const char *path, const char *text);   /* to a new file that then takes the name */
const char *format_bytes(uint64_t bytes, char *buffer, size_t size);
const char *format_count(int64_t count, char *buffer, size_t size);
const char *format_time(double seconds, char *buffer, size_t size);

/* ---- json.c: writing objects, and finding values in objects that this program wrote ------------------------- */

typedef struct json_line {
    char *text;
    size_t length, capacity;
    bool failed;
} json_line;

void json_begin(json_line *j);
void json_text(json_line *j, const char *key, const char *value); /* NULL value: null */
void json_number(json_line *j, const char *key, double value);    /* not finite: null */
void json_count(json_line *j, const char *key, int64_t value);
void json_bool(json_line *j, const char *key, bool value);
void json_open(json_line *j, const char *key); /* an object inside, until the close */
void json_close(json_line *j);
void json_raw(json_line *j, const char *key, const char *value); /* JSON as it is */
const char *json_end(json_line *j); /* valid until the next begin; "" without memory */
void json_free(json_line *j);
bool json_find_number(const char *object, const char *key, double *out_value);
char *json_find_text(const char *object, const char *key); /* malloc; NULL when absent or null */

/* ---- run.c: the objects of a recipe ------------------------------------------------------------------------- */

typedef struct run {
    cli *c;
    peft_context *reader; /* the recipe lives in a context of its own, because it says how the other is made */
    peft_recipe *recipe;
    peft_model *model;
    peft_adapter *adapter;
    peft_dataset *train, *validation;
    peft_session *session;
    peft_optimizer *optimizer;
    peft_session_options session_options;
    char *output; /* folder */
    bool borrowed_model;
    const char *labels_from; /* folder of an adapter whose classes the model is loaded for, or NULL */
    float *class_weights;
} run;

enum { RUN_ADAPTER = 1, RUN_DATA = 2, RUN_VALIDATION = 4, RUN_SESSION = 8, RUN_OPTIMIZER = 16 };

/* Takes RECIPE and key=value words from the arguments and makes what `parts` says. The model is always loaded. */
int run_open(run *r, cli *c, args *a, uint32_t parts);
/* The same for the classes of an adapter that is there: its folder, "" for output.dir, NULL for none. */
int run_open_for(run *r, cli *c, args *a, uint32_t parts, const char *adapter);
bool run_open_session(run *r, peft_adapter *adapter, peft_session **out_session);
/* The same for a recipe that is open already (`r->c` and `r->recipe` are set, and `r->model` when it is another run's). */
bool run_open_parts(run *r, uint32_t parts);
void run_close(run *r);
/* Everything but recipe and context. */
void run_close_parts(run *r);
/* Values of a recipe whose keys this program knows. */
double run_number(const run *r, const char *key);
int64_t run_int(const run *r, const char *key);
bool run_flag(const run *r, const char *key);
const char *run_text(const run *r, const char *key);
void run_print_plan(run *r, uint64_t total_steps);
/* Mean loss over a data set's first `most` batches (0 = all) from its beginning; the position is put back. */
bool run_evaluate(run *r, peft_session *session, peft_dataset *data, int64_t most, double *out_loss, double *out_count);
/* The chat template that an adapter's folder asks for (malloc), or NULL. */
char *adapter_chat_template(const char *folder);

/* ---- task.c: labelled tasks --------------------------------------------------------------------------------- */

/* The recipe's model for the recipe's task: with as many outputs as the training data has classes where nothing else says how many. */
bool run_open_model(run *r);
/* train.class_weights into the session's options. */
bool run_class_weights(run *r);
/* What libpeft.json says of the classes of the training data. */
void run_put_classes(const run *r, json_line *j);
/* Goes through eval.max_batches of a data set. *out_evaluation stays as it is when interrupted. */
bool run_measure(run *r, peft_session *session, peft_dataset *data, peft_evaluation **out_evaluation);
double run_metric(const peft_evaluation *evaluation, const char *name); /* NAN: there is none of that name */
/* Is eval.metric one of this task? */
bool run_check_metric(const run *r, const peft_evaluation *evaluation);

/* ---- forgetting.c ------------------------------------------------------------------------------------------- */

/* Loss of the base's own task on the text that eval.forgetting names, with the run's adapter on (NULL: without). */
bool run_forgetting(run *r, peft_adapter *adapter, double *out_loss);

/* ---- text.c: prompts and continuations ---------------------------------------------------------------------- */

typedef struct writer_options {
    peft_generate_options generate;
    const char *chat_template; /* NULL: the model's own */
} writer_options;

/* Continues a text; pieces are printed to `out` as they come, unless it is NULL. *out_text (malloc) may be asked for.
 */
bool write_text(cli *c, peft_session *session, const peft_tokenizer *tokenizer, const char *prompt, bool parse_special,
                const writer_options *options, FILE *out, char **out_text);
/* The text of a conversation up to the assistant's next words (malloc); NULL after a complaint. */
char *render_chat(cli *c, const peft_tokenizer *tokenizer, const char *format, const peft_chat_message *messages,
                  size_t count);

/* ---- history.c: the log of a run and its curve -------------------------------------------------------------- */

typedef struct point {
    double step, loss;
} point;

typedef struct history {
    FILE *log;
    point *train, *validation;
    size_t train_count, train_capacity, validation_count, validation_capacity;
} history;

/* Opens the log; with `keep_steps` >= 0 what was logged up to that step stays (a run that goes on), else it is begun
 * anew. */
bool history_open(history *h, const char *path, double keep_steps);
void history_add(history *h, bool validation, double step, double loss);
void history_log(history *h, const char *line);
void history_close(history *h);
/* An SVG of both curves. */
bool history_plot(const history *h, const char *path, const char *title);

/* ---- progress.c --------------------------------------------------------------------------------------------- */

typedef struct progress {
    cli *c;
    bool terminal;
    uint64_t total, last_plain;
    double start, last_drawn, seconds_per_step, tokens_per_second;
} progress;

void progress_start(progress *p, cli *c, uint64_t total);
void progress_step(progress *p, uint64_t step, double loss, double validation_loss, double step_seconds, double tokens);

/* ---- interrupt.c -------------------------------------------------------------------------------------------- */

/* From now on the first Ctrl-C asks to stop, the second drops the pass that runs, the third ends the program. */
void interrupt_watch(peft_session *session);
void interrupt_ignore(void);
bool interrupted(void);

/* ---- verify.c: what is said about files that were read back -------------------------------------------------- */

/* Says how far logits are apart; false, after a complaint, when that is more than `allowed` times the largest (or 1). */
bool cli_report_difference(cli *c, const peft_difference *found, double allowed, const char *path);
/* An adapter's folder or GGUF file against the adapter in memory. */
bool cli_verify_adapter(cli *c, peft_adapter *adapter, const char *path);
/* What storing a model's weights in a type may cost its logits. */
double cli_rounding_of(int32_t dtype);

/* ---- commands ----------------------------------------------------------------------------------------------- */

int command_train(cli *c, args *a);
int command_eval(cli *c, args *a);
int command_predict(cli *c, args *a);
int command_generate(cli *c, args *a);
int command_inspect(cli *c, args *a);
int command_estimate(cli *c, args *a);
int command_merge(cli *c, args *a);
int command_export(cli *c, args *a);
int command_import(cli *c, args *a);
int command_combine(cli *c, args *a);
int command_compare(cli *c, args *a);
int command_preview(cli *c, args *a);
int command_rank(cli *c, args *a);
int command_recipe(cli *c, args *a);

#endif
