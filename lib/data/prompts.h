/* prompts.h: how a prompt file is kept, and how its prompts become texts and scores.
 *
 *   prompts.c         the public functions: opening, asking, running
 *   prompts_file.c    the file: keys, defaults, complaints
 *   prompts_rows.c    labelled rows, and which of them are shots
 *   prompts_text.c    what the model reads
 *   prompts_answers.c scores of answers: causal and encoder-decoder models
 *   prompts_cloze.c   scores of words at a mask
 *   prompts_write.c   answers out of what a model writes
 *   prompts_result.c  what a run found
 */
#ifndef PEFT_DATA_PROMPTS_H
#define PEFT_DATA_PROMPTS_H

#include "data/template.h"
#include "format/yaml.h"
#include "peft/prompts.h"
#include "text/chat.h"
#include "text/regex.h"
#include "text/tokenizer.h"

/* ---- the file ---------------------------------------------------------------------------------------------------- */

/* One text that stands for a class. */
typedef struct peft__answer {
    const char *text;
    uint32_t label;
} peft__answer;

typedef struct peft__prompt_text {
    const char *name, *where; /* where: "prompts.yaml:12: prompt \"plain\"" */
    int32_t kind;             /* PEFT_PROMPT_* */
    peft__template *question;
    peft__template *shot;        /* NULL: the question with its answer */
    peft__template *instruction; /* NULL: none */
    const char *separator, *joiner;
    bool chat;
    const char *chat_template; /* NULL: the model's own */
    peft__answer *answers;     /* [answer_count] those of a class one after another; a class's first stands in shots */
    uint32_t answer_count;
    const char *choices; /* first answers of all classes, "a, b, c": {choices} */
    uint32_t shots;
    uint64_t *seeds;
    uint32_t seed_count;
    bool balanced;
    int32_t score;
    bool calibrated;
    const char **content_free;
    uint32_t content_free_count;
    /* reasoning */
    uint32_t max_new_tokens;
    const char **stop;
    uint32_t stop_count;
    const char *after; /* the answer follows the last of these; NULL: pattern, or the whole text */
    peft__regex pattern;
} peft__prompt_text;

/* A labelled row. */
typedef struct peft__prompt_row {
    peft__json *row;
    uint64_t line;
    int32_t label;
} peft__prompt_row;

typedef struct peft__prompt_rows {
    const char *path;
    peft__prompt_row *rows;
    int64_t count, capacity, skipped;
    bool read;
} peft__prompt_rows;

struct peft_prompts {
    peft_context *ctx;
    peft__arena arena; /* all texts */
    const char *name;
    pcre2_general_context *regex_memory;
    const char *model, *adapter;
    const char **labels;
    uint32_t label_count;
    const char *text_key, *text_pair_key, *label_key;
    int64_t max_examples;
    bool skip_bad_rows;
    double test_fraction;
    uint64_t split_seed;
    peft__prompt_rows train, test;
    peft__prompt_text *prompts;
    uint32_t prompt_count;
};

peft_status peft__prompts_read(peft_prompts *prompts, const peft__json *tree, const peft__yaml_lines *lines,
                               const char *const *overrides, uint32_t count);
void peft__prompt_free(peft_prompts *prompts, peft__prompt_text *prompt);

/* ---- rows -------------------------------------------------------------------------------------------------------- */

/* Reads the test data, and the training data where the prompt has shots. */
peft_status peft__prompt_rows_need(peft_prompts *prompts, const peft__prompt_text *prompt);
void peft__prompt_rows_free(peft_prompts *prompts);
/* The rows [shots] of the training data that a seed chooses, in their order. A prefix of what more shots would be. */
peft_status peft__prompt_choose(peft_prompts *prompts, const peft__prompt_text *prompt, uint64_t seed, int64_t *out);

/* ---- texts ------------------------------------------------------------------------------------------------------- */

/* Texts of one prompt with its shots on one model. */
typedef struct peft__prompt_writer {
    peft_prompts *prompts;
    const peft__prompt_text *prompt;
    const peft_tokenizer *tokenizer;
    const char *mask; /* the token, NULL without one */
    peft__chat *chat;
    peft__chat_text rendered;
    peft_chat_message *messages; /* [2 * shots + 2] */
    peft__arena arena;           /* instruction and shots */
    const char *before;          /* without chat: what stands before every question */
    size_t before_length;
    size_t message_count; /* with chat: before the question */
    peft__buffer question, text;
    size_t common;  /* bytes of `text` that all questions have in common, at most */
    size_t mask_at; /* byte of `text` at which the mask stands */
} peft__prompt_writer;

peft_status peft__prompt_writer_begin(peft__prompt_writer *writer, peft_prompts *prompts,
                                      const peft__prompt_text *prompt, const peft_tokenizer *tokenizer, uint64_t seed);
void peft__prompt_writer_end(peft__prompt_writer *writer);
/* The text for a row into writer->text; `content_free` not NULL: that in place of every field of the row. */
peft_status peft__prompt_write(peft__prompt_writer *writer, const peft__prompt_row *row, const char *content_free);
/* PEFT_ENCODE_* flags for its texts. */
uint32_t peft__prompt_flags(const peft__prompt_writer *writer);
/* Appends an answer to a text, with a blank between where neither brings one. */
void peft__prompt_put_answer(const peft__prompt_writer *writer, const char *answer, peft__buffer *out);

/* ---- scores ------------------------------------------------------------------------------------------------------ */

typedef struct peft__prompt_run {
    peft_context *ctx;
    peft_session *session;
    const peft__prompt_text *prompt;
    peft__prompt_writer writer;
    uint32_t classes;
    int64_t positions; /* of the model, 0 = no limit */
    int64_t vocab;
    bool cached;
    peft__encoding whole, answer;
    int32_t *ids; /* what the cache has, then what is put there */
    int64_t count, capacity;
    int64_t common; /* tokens that were read once */
    int32_t *tail;  /* tokens of all answers */
    int64_t tail_capacity;
    int32_t *offsets;         /* [answers + 1] into tail */
    double *nll;              /* [answers] */
    double *scores;           /* [classes] of the present row */
    double *free;             /* [classes] log q of contextual calibration; all 0 without */
    int32_t *word_ids;        /* cloze: [answers]; -1 = not looked up */
    double rows_run, context; /* tokens so far */
    uint64_t common_us;
} peft__prompt_run;

/* Each gives run->scores for the text in the writer. */
peft_status peft__prompt_score_causal(peft__prompt_run *run);
peft_status peft__prompt_score_seq2seq(peft__prompt_run *run);
peft_status peft__prompt_score_cloze(peft__prompt_run *run);
/* What the model writes, and the class that it means; -1: none. */
peft_status peft__prompt_score_written(peft__prompt_run *run, peft__buffer *out_text, int32_t *out_class);
/* The class that a text means. */
int32_t peft__prompt_class_of(const peft_prompts *prompts, const peft__prompt_text *prompt, const char *text,
                              size_t length);
/* Scores of classes from -log p, numbers of tokens and texts of the answers. */
void peft__prompt_class_scores(peft__prompt_run *run, const double *nll, const int64_t *tokens);
/* Of the first `count` tokens of run->whole those that lie before the question; never all. */
int64_t peft__prompt_common(const peft__prompt_run *run, int64_t count);
peft_status peft__prompt_room(peft__prompt_run *run, int64_t count, bool tail);

/* ---- results ----------------------------------------------------------------------------------------------------- */

struct peft_prompt_result {
    peft_context *ctx;
    peft_prompt_scores scores;
    peft__arena arena;
};

/* Accuracy, F1 and their intervals from labels and predictions. */
peft_status peft__prompt_result_measure(peft_prompt_result *result, double level, uint32_t samples);

#endif
