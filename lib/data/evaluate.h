/* evaluate.h: what an evaluation keeps, shared by evaluate*.c.
 *
 * An evaluation outlives its session and data set: names and rows that it shows are copies of its own.
 */
#ifndef PEFT_DATA_EVALUATE_H
#define PEFT_DATA_EVALUATE_H

#include "data/data.h"
#include "peft/evaluate.h"
#include "train/train.h"

/* What was asked of each example. */
typedef enum {
    PEFT__ASKS_NOTHING, /* only the loss: language models */
    PEFT__ASKS_CLASS,
    PEFT__ASKS_CLASSES,
    PEFT__ASKS_VALUES,
    PEFT__ASKS_TAGS,
    PEFT__ASKS_WORDS, /* for hidden tokens */
    PEFT__ASKS_SPANS, /* answers to questions about a text */
    PEFT__ASKS_EMBEDDING,
    PEFT__ASKS_CHOICE /* which of its answers; `classes` is 0 where rows bring answers of their own */
} peft__asks;

/* A piece of a context. */
typedef struct peft__span_offer {
    float score;
    uint32_t begin, end;
} peft__span_offer;

/* What is known of one question. */
typedef struct peft__span_answer {
    const char *context;
    const char **answers; /* the right ones */
    uint32_t answer_count;
    peft__span_offer *offers; /* [count] the best, falling */
    int64_t count;
    float none; /* score of "no answer" */
    double exact, f1;
} peft__span_answer;

struct peft_evaluation {
    peft_context *ctx;
    peft_evaluate_options options;
    peft__asks asks;
    bool labelled, perplexity;
    peft__arena arena; /* names and inputs */
    uint32_t classes;  /* also columns of targets */
    const char **names;
    int64_t count, capacity;
    int64_t *rows;       /* [count] */
    const char **inputs; /* [count] JSON, or NULL */
    int32_t *labels;     /* CLASS, CHOICE: [count]; TAGS: [elements] PEFT_IGNORE_LABEL = none */
    int32_t *given;      /* likewise: the answers */
    float *outputs; /* CLASS: probabilities, CLASSES: logits, VALUES: numbers, each [count, classes]; TAGS: probability
                       of the answer [elements] */
    float *targets; /* CLASSES and VALUES: [count, classes] */
    int32_t *words; /* TAGS: [elements] which word of its row */
    int32_t *offsets; /* TAGS, WORDS: [count + 1] into the elements */
    int64_t elements, element_capacity;
    const char **answers;     /* ready-made JSON of predictions: [count] WORDS */
    peft__span_answer *spans; /* SPANS: [count] */
    int32_t *question_of;     /* SPANS: [rows_known] example that a row of the file became, -1 = none yet */
    int64_t rows_known;
    bool may_be_none; /* questions without an answer were seen */
    double loss, targets_seen;
    peft__buffer text; /* of the report or prediction handed out last */
};

/* evaluate.c: room for one more example of `elements` elements. */
peft_status peft__evaluation_reserve(peft_evaluation *e, int64_t elements);

/* evaluate_words.c: what fits the hidden tokens of example number `index`; logits of all its rows begin at `first`. */
peft_status peft__evaluation_fill(peft_evaluation *e, const peft_dataset *dataset, int32_t index,
                                  const peft__value *logits, int64_t first);

/* evaluate.c: notes example number `index` of the data set; peft_evaluation.count goes up when its answer is known. */
peft_status peft__evaluation_next(peft_evaluation *e, const peft_dataset *dataset, int32_t index);

/* evaluate_choices.c: a batch of questions with answers to choose among. */
peft_status peft__evaluation_rank(peft_evaluation *e, peft_session *session, const peft_dataset *dataset,
                                  const peft_batch *batch, const int32_t *examples);

peft_status peft__evaluation_pick(peft_evaluation *e, peft_session *session, const peft_dataset *dataset,
                                  const peft_batch *batch, const int32_t *examples);

/* evaluate_pairs.c: a batch of texts that belong together; a batch of texts of which embeddings are wanted. */
peft_status peft__evaluation_compare(peft_evaluation *e, peft_session *session, const peft_dataset *dataset,
                                     const peft_batch *batch, const int32_t *examples);
peft_status peft__evaluation_embed(peft_evaluation *e, peft_session *session, const peft_dataset *dataset,
                                   const peft_batch *batch, const int32_t *examples);

/* evaluate_spans.c: the next question, which example number `index` is a window of; one window of it; and, at the end,
 * how right the answers are. */
peft_status peft__evaluation_question(peft_evaluation *e, const peft_dataset *dataset, int32_t index);
void peft__evaluation_window(peft_evaluation *e, const peft_dataset *dataset, int32_t index, int64_t question,
                             const peft__value *logits, int64_t first);
peft_status peft__evaluation_score_spans(peft_evaluation *e);
bool peft__evaluation_put_span(const peft_evaluation *e, int64_t index, json_t *row);

#endif
