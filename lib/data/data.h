/* data.h: how a data set is kept and made, shared by the files of this folder.
 *
 * All tokens lie in one array and an example is a piece of it: windows of a long text may overlap without copies, and a
 * batch is a few memcpy. What is learnt is decided once, when a row is read, from byte positions in its text; nothing
 * later looks at ids to guess it, so an end token that happens to be the padding token stays learnt.
 *
 *   record.c   a row of a file -> text and the bytes of it that are learnt
 *   encode.c   text -> tokens and labels of one example
 *   answer.c   the same for encoder-decoder models
 *   labels.c   names of classes
 *   labelled.c rows with a class, several, or numbers; rows of words with tags
 *   spans.c    questions about a text, and squad.c their files
 *   layout.c   texts among the rows of WARP's prompt
 *   pairs.c    texts that belong together
 *   conll.c    columns of words and tags -> rows
 *   choices.c  questions with answers to choose among
 *   masked.c   text for masked language models, and which tokens an epoch hides
 *   template.c texts with the fields of a row put in (template.h)
 *   build.c    a file -> examples
 *   store.c    the arrays
 *   order.c    the order of an epoch, and packing
 *   report.c   what was read and skipped; preview of one example
 *   options.c  what a data set is asked for
 *   batches.c  examples as batches
 *   dataset.c  the public functions
 *   evaluate*.c  what a session answers, and how right that is (evaluate.h)
 *   image_*.c  pictures (image_data.h)
 */
#ifndef PEFT_DATA_DATA_H
#define PEFT_DATA_DATA_H

#include "data/image_data.h"
#include "format/json.h"
#include "format/text_rows.h"
#include "peft/dataset.h"
#include "text/chat.h"
#include "text/tokenizer.h"

/* ---- store.c ------------------------------------------------------------------------------------------- */

/* Tokens [first, first + length) of the store; labels of the first `context` of them do not count (they were learnt in
 * the window before). */
typedef struct peft__example {
    int64_t first;
    int32_t length;
    int32_t context;
    int64_t row; /* of the file, from 0 */
} peft__example;

/* What an example teaches. */
typedef enum {
    PEFT__LEARNS_NEXT = 0, /* labels of tokens that a causal model shifts: that of the first counts for nothing */
    PEFT__LEARNS_TOKENS,   /* labels of tokens themselves */
    PEFT__LEARNS_HIDDEN,   /* labels are what may be hidden; masked.c chooses */
    PEFT__LEARNS_CLASS,    /* a class for the whole */
    PEFT__LEARNS_TARGETS,  /* numbers for the whole */
    PEFT__LEARNS_ANSWER,   /* what a decoder says to what an encoder reads: the tokens behind the context */
    PEFT__LEARNS_SPAN,     /* first and last row of an answer */
    PEFT__LEARNS_CHOICE    /* one of several answers: an example has parts, see first_part */
} peft__learns;

/* What a question is asked about. */
typedef struct peft__passage {
    const char *context;
    const char **answers; /* the right ones, as text */
    uint32_t answer_count;
} peft__passage;

typedef struct peft__layout peft__layout; /* layout.c */

typedef struct peft__store {
    peft__mem *mem;
    peft__learns learns;
    bool typed;          /* has token types; set before anything is put */
    int64_t target_cols; /* likewise */
    int32_t *ids;        /* [count] */
    int32_t *labels;     /* [count] PEFT_IGNORE_LABEL where nothing is learnt */
    int32_t *types;      /* [count] where typed */
    bool worded;         /* has words; set before anything is put */
    int32_t *words;      /* [count] where worded: of which word of its row a token is the first, -1 = of none */
    int64_t count, capacity;
    peft__example *examples; /* [example_count] */
    int32_t *classes;        /* [example_count] with PEFT__LEARNS_CLASS and _CHOICE; PEFT_IGNORE_LABEL = none */
    float *targets;          /* [example_count * target_cols] with PEFT__LEARNS_TARGETS; NaN = none */
    const peft__layout *layout; /* of WARP, or NULL; set before anything is put */
    int32_t *prompts;        /* [count] with a layout: row of the prompt in a token's place, -1 = none */
    int32_t *masks;          /* [example_count] likewise: which token is [MASK] */
    int32_t *spans;          /* [example_count, 2] with PEFT__LEARNS_SPAN; PEFT_IGNORE_LABEL = not known */
    uint32_t *begins, *ends; /* [count] likewise: bytes of the context that a token covers; 0, 0 for other tokens */
    const peft__passage **passages; /* [example_count] likewise; windows of a question share one */
    const peft__passage *passage;   /* of the examples put next */
    const char **inputs;     /* [example_count] with keeps_rows: the row as JSON, owned by who puts it */
    bool keeps_rows;         /* set before anything is put */
    int64_t row;             /* that the examples put next come from */
    const char *input;       /* likewise */
    int64_t example_count, example_capacity;
    int32_t longest, shortest;
    /* PEFT__LEARNS_CHOICE: where the parts of each example end, counted from its first token; parts of example e are
     * from first_part[e] to that of the next. `apart`: the first part is the question and the others are answers (an
     * encoder-decoder model's); else every part is question and answer. */
    bool apart;
    bool embeds;   /* the parts are texts that belong together */
    float *scores; /* [example_count] with embeds: how alike the first two are; NaN = not known */
    bool scored;   /* some are known */
    bool pairs; /* question and answer are a pair of texts, for an encoder that gives each a score */
    int32_t *parts;
    int64_t *first_part; /* [example_capacity] */
    int64_t part_count, part_capacity, most_parts; /* most answers of an example */
} peft__store;

void peft__store_init(peft__store *store, peft__mem *mem);
void peft__store_free(peft__store *store);
/* Room for `tokens` more tokens and `examples` more examples, so that the puts that follow cannot fail. */
peft_status peft__store_reserve(peft_context *ctx, peft__store *store, int64_t tokens, int64_t examples);
peft_status peft__store_reserve_parts(peft_context *ctx, peft__store *store, int64_t parts);
void peft__store_put_tokens(peft__store *store, const int32_t *ids, const int32_t *labels, int64_t count);
/* With a class PEFT_IGNORE_LABEL or targets NaN, which whoever knows better overwrites. */
void peft__store_put_example(peft__store *store, int64_t first, int32_t length, int32_t context);
/* Labels that count. A causal model: all but those of the first token and of the context; a whole: 1 or 0. */
int64_t peft__store_learnt(const peft__store *store, const peft__example *example);

/* ---- order.c ------------------------------------------------------------------------------------------- */

/* Batch b of the epoch is examples order[first[b]] .. order[first[b + 1] - 1]. All arrays have room for every example,
 * so preparing an epoch takes no memory and cannot fail. */
typedef struct peft__order {
    peft__mem *mem;
    int64_t capacity; /* examples that the arrays take */
    int32_t *order;   /* [capacity] */
    int32_t *first;   /* [capacity + 1] */
    int32_t *scratch; /* [3 * capacity + 1] */
    uint64_t *keys;   /* [PEFT__PACK_CHUNK] */
    int64_t *room;    /* [2 * PEFT__PACK_CHUNK] tree of the room left in bins */
    int64_t batches;
} peft__order;

/* Packing looks at this many examples of the shuffled order at a time: enough to fill batches, and a new mixture every
 * epoch. */
enum { PEFT__PACK_CHUNK = 4096 };

void peft__order_init(peft__order *order, peft__mem *mem);
void peft__order_free(peft__order *order);
peft_status peft__order_reserve(peft_context *ctx, peft__order *order, int64_t examples, bool packing);
/* A pure function of the lengths, the options and the epoch. */
void peft__order_prepare(peft__order *order, const peft__store *store, const peft_dataset_options *options,
                         int64_t max_length, uint64_t epoch);

/* ---- labels.c ------------------------------------------------------------------------------------------ */

/* Classes and their names. Names come from the host or the model, or are collected from the file and then sorted, so
 * that parts of a split and files of one corpus agree. */
typedef struct peft__labels {
    peft__mem *mem;
    peft__arena arena;
    const char **names; /* [count]; classes from `named` on are called by their number */
    int64_t *examples;  /* [count] */
    peft__table by_name;
    uint32_t named, capacity, count;
    int64_t outputs; /* of the model; 0 = not known */
    int64_t largest; /* while collecting: largest number seen, -1 = none */
    bool given;      /* names are not collected */
    bool words;      /* while collecting: a name that is no number was seen */
} peft__labels;

void peft__labels_init(peft__labels *labels, peft__mem *mem);
void peft__labels_free(peft__labels *labels);
/* Names from the options, or from id2label of a model's config (may be NULL) unless they are LABEL_0, LABEL_1, ... */
peft_status peft__labels_begin(peft_context *ctx, peft__labels *labels, const peft_dataset_options *options,
                               const peft__json *config, int64_t outputs);
/* First reading: takes note of a label (a string or an integer; all else is left to the second reading to refuse). */
peft_status peft__labels_collect(peft_context *ctx, peft__labels *labels, const peft__json *value);
peft_status peft__labels_collect_text(peft_context *ctx, peft__labels *labels, const char *text, size_t length);
/* Before the second reading: sorts what was collected and settles the count. */
peft_status peft__labels_finish(peft_context *ctx, peft__labels *labels);
/* Second reading: the class of a name or a number; PEFT_E_FORMAT says what is known. */
peft_status peft__labels_find(peft_context *ctx, const peft__labels *labels, const peft__json *value,
                              int32_t *out_class);
peft_status peft__labels_find_text(peft_context *ctx, const peft__labels *labels, const char *text, size_t length,
                                   int32_t *out_class);

/* ---- record.c ------------------------------------------------------------------------------------------ */

/* Bytes [begin, end) of a record's text. */
typedef struct peft__span {
    size_t begin, end;
} peft__span;

typedef struct peft__choice_reader peft__choice_reader;

/* Reads rows one after another; everything in it is scratch that the next row overwrites. */
typedef struct peft__records {
    peft_context *ctx;
    const peft_tokenizer *tokenizer;
    const peft_dataset_options *options;
    int32_t format;       /* PEFT_DATA_*, not AUTO, once the first row was seen */
    peft__chat *chat;     /* made when the first conversation comes */
    bool chat_by_default; /* alpaca rows on a model without any template: the alpaca prompt itself */

    /* the present record */
    const char *text;
    size_t length;
    peft__span *spans; /* what is learnt, rising */
    size_t span_count, span_capacity;
    bool add_special; /* the tokenizer's own template (<s> ... </s>) goes around the text */
    bool conversation;

    peft__chat_text rendered;
    peft__buffer buffer;
    peft__arena arena; /* texts of the present row's messages */
    peft_chat_message *messages;
    bool *learnt; /* [message_count] */
    size_t message_count, message_capacity;

    /* labelled rows */
    peft__labels *labels;
    float score;       /* of a pair of texts; NaN = none */
    bool pairs;        /* as in peft__store */
    peft__arena *kept; /* of the data set: what outlives the row */
    const char *text_name, *pair_name, *label_name; /* fields, once the first row was seen; pair_name may be NULL */
    const char *second;                             /* NULL: one text */
    size_t second_length;
    int32_t label;  /* class of the row */
    float *targets; /* [target_cols] */
    int64_t target_cols;
    int32_t *tags;    /* [span_count] classes of the words at `spans` */
    int32_t *word_of; /* [span_count] which words of the row these are */

    /* questions: text is the question, second the context */
    const char **answers; /* [answer_count] */
    uint32_t answer_count, answer_capacity;
    size_t answer_begin, answer_end; /* bytes of the first answer in the context; end 0: there is none */
    size_t tag_capacity;

    peft__choice_reader *choices; /* made by the first row with answers */
} peft__records;

void peft__records_init(peft__records *records, peft_context *ctx, const peft_tokenizer *tokenizer,
                        const peft_dataset_options *options);
void peft__records_free(peft__records *records);
/* Format of a row by its keys. PEFT_E_FORMAT lists the keys when it is none. */
peft_status peft__records_detect(peft__records *records, const peft__json *row);
/* PEFT_E_FORMAT and PEFT_E_ARG are faults of the row; all else is a fault of the whole. */
peft_status peft__records_read(peft__records *records, const peft__json *row);
const char *peft__data_format_name(int32_t format);
/* Field of a row as text; NULL where it is absent or null and not needed. */
peft_status peft__records_field(peft__records *records, const peft__json *row, const char *key, bool needed,
                                const char **out_text);
peft_status peft__records_put_span(peft__records *records, size_t begin, size_t end);

/* ---- labelled.c ---------------------------------------------------------------------------------------- */

bool peft__is_labelled(int32_t format); /* CLASSIFICATION, REGRESSION, MULTI_LABEL or TOKEN_CLS */
/* What a data set of this format teaches. */
peft__learns peft__learns_of(int32_t format);
/* First reading of a row, for names of classes. */
peft_status peft__labelled_collect(peft__records *records, const peft__json *row);
peft_status peft__labelled_read(peft__records *records, const peft__json *row);

/* ---- choices.c ----------------------------------------------------------------------------------------- */

/* First reading, where rows have classes for which there are verbalizers; and what it must have found. */
peft_status peft__choices_collect(peft__records *records, const peft__json *row);
peft_status peft__choices_check_labels(const peft__records *records);
/* spans[0] is the question, the others are the answers; `label` is the right one. */
peft_status peft__choices_read(peft__records *records, const peft__json *row);
void peft__choices_free(peft__records *records);

/* ---- conll.c ------------------------------------------------------------------------------------------- */

/* Sentences of a file of columns as rows {"tokens": [...], "ner_tags": [...]}. */
typedef struct peft__conll {
    peft_context *ctx;
    const char *name, *data;
    size_t size, at;
    uint64_t line;                   /* of the line at `at` */
    uint64_t row_line;               /* on which the row handed out last began */
    int32_t word_column, tag_column; /* from 1; 0 = first, last */
    bool unlabelled;
} peft__conll;

peft_status peft__conll_open(peft_context *ctx, const peft__content *content, const peft_dataset_options *options,
                             peft__conll *out_conll);
/* The next sentence, or PEFT_END. A bad one is PEFT_E_FORMAT and has been passed when it returns. */
peft_status peft__conll_next(peft__conll *conll, peft__json **out_row);

/* ---- spans.c, squad.c ---------------------------------------------------------------------------------- */

peft_status peft__spans_read(peft__records *records, const peft__json *row);

/* Questions of a file in SQuAD's layout as rows {"question", "context", "answers", ...}. */
typedef struct peft__squad {
    peft_context *ctx;
    const char *name;
    peft__json *tree; /* owned */
    size_t article, paragraph, question;
    uint64_t row; /* handed out last, from 1 */
} peft__squad;

bool peft__squad_detect(const peft__content *content);
peft_status peft__squad_open(peft_context *ctx, const peft__content *content, peft__squad *out_squad);
void peft__squad_close(peft__squad *squad);
peft_status peft__squad_next(peft__squad *squad, peft__json **out_row);

/* ---- pairs.c ------------------------------------------------------------------------------------------- */

peft_status peft__pairs_read(peft__records *records, const peft__json *row);
/* What peft__choices_put_batch() leaves open: numbers in place of right answers. */
void peft__pairs_put_scores(peft_dataset *dataset, int32_t first, peft_batch *batch);

/* ---- layout.c ------------------------------------------------------------------------------------------ */

/* From the JSON text of a template; lives in the arena. */
peft_status peft__layout_make(peft_context *ctx, const peft_tokenizer *tokenizer, const char *text, peft__arena *arena,
                              const peft__layout **out_layout);

/* ---- encode.c ------------------------------------------------------------------------------------------ */

enum { PEFT__SKIP_NONE = 0, PEFT__SKIP_EMPTY, PEFT__SKIP_UNTRAINED, PEFT__SKIP_CUT, PEFT__SKIP_BAD, PEFT__SKIP_COUNT };

/* What happened while a file was read; becomes the report. */
typedef struct peft__reading {
    uint64_t rows;       /* of this part */
    uint64_t other_part; /* left to the other part of the split */
    uint64_t skipped[PEFT__SKIP_COUNT];
    uint64_t skipped_line[PEFT__SKIP_COUNT]; /* of the first one */
    char bad_reason[256];
    uint64_t unanswered; /* questions that have no answer in their text */
    uint64_t cut;       /* longer than max_length */
    int64_t cut_tokens; /* tokens lost by that */
    int64_t longest_uncut;
    uint64_t double_bos, double_bos_line;
    uint64_t with_end, wanting_end; /* examples whose learnt part holds the end token; examples that should */
    bool no_eos;
} peft__reading;

typedef struct peft__encoder {
    peft_context *ctx;
    const peft_tokenizer *tokenizer;
    const peft_dataset_options *options;
    int64_t max_length;
    int64_t vocab; /* of the model; 0 = not checked */
    peft__encoding encoding;
    peft__reading reading;
} peft__encoder;

void peft__encoder_init(peft__encoder *encoder, peft_context *ctx, const peft_tokenizer *tokenizer,
                        const peft_dataset_options *options, int64_t max_length, int64_t vocab);
void peft__encoder_free(peft__encoder *encoder);
/* One record becomes one example, or is counted among the skipped. */
peft_status peft__encode_record(peft__encoder *encoder, const peft__records *record, uint64_t line, peft__store *store);
/* labelled.c: the same for labelled rows. */
peft_status peft__encode_labelled(peft__encoder *encoder, const peft__records *record, uint64_t line,
                                  peft__store *store);
void peft__skip_row(peft__reading *reading, int32_t why, uint64_t line);
/* PEFT_E_MISMATCH for an id that the model has no row for. */
peft_status peft__check_ids(const peft__encoder *encoder, const int32_t *ids, int64_t count);
/* masked.c: one text becomes as many examples as it takes, each with the template's tokens around. */
peft_status peft__encode_masked(peft__encoder *encoder, const char *text, size_t length, uint64_t line,
                                peft__store *store);
/* spans.c: a question about a text becomes as many windows as the text takes. */
peft_status peft__encode_spans(peft__encoder *encoder, const peft__records *record, uint64_t line, peft__store *store);
/* layout.c: a row with a class, laid out as store->layout says. */
peft_status peft__encode_layout(peft__encoder *encoder, const peft__records *record, uint64_t line, peft__store *store);
/* pairs.c: texts that belong together. */
peft_status peft__encode_pairs(peft__encoder *encoder, const peft__records *record, uint64_t line, peft__store *store);
/* answer.c: question and answer, for an encoder and a decoder. */
peft_status peft__encode_answer(peft__encoder *encoder, const peft__records *record, uint64_t line, peft__store *store);
/* choices.c: a question and its answers. */
peft_status peft__encode_choices(peft__encoder *encoder, const peft__records *record, uint64_t line,
                                 peft__store *store);
/* A long text becomes windows. */
peft_status peft__encode_windows(peft__encoder *encoder, const char *text, size_t length, bool is_end,
                                 peft__store *store);

/* ---- masked.c ------------------------------------------------------------------------------------------ */

typedef struct peft__masking {
    float probability;
    int32_t mask_id;
    int32_t vocab; /* ids that a random token is drawn from */
} peft__masking;

/* Hides tokens of an example: `labels` holds ids of what may be hidden and keeps those that are. Of the chosen 80 %
 * become [MASK], 10 % a random token, 10 % stay. At least one is chosen. A pure function of seed, epoch and example. */
void peft__mask_example(const peft__masking *masking, uint64_t seed, uint64_t epoch, uint64_t example, int32_t *ids,
                        int32_t *labels, int64_t count);

/* ---- build.c ------------------------------------------------------------------------------------------- */

/* What a file is turned into, and the tokenizer that does it: a model, or in tests a tokenizer alone. */
typedef struct peft__data_base {
    const peft_tokenizer *tokenizer;
    int64_t vocab;            /* rows of the embedding; 0 = not checked */
    int64_t positions;        /* longest sequence; 0 = no limit */
    int64_t types;            /* token types; 0 or 1: the model has none */
    int64_t outputs;          /* classes or numbers that the model gives; 0 = not known */
    int32_t task;             /* PEFT_TASK_*, AUTO = not known */
    int32_t decoder_start;    /* what an encoder-decoder model's decoder reads first */
    const peft__json *config; /* of the model; may be NULL */
} peft__data_base;

/* Reads bytes (inflated here when they are gzip) into the data set's store and report. */
peft_status peft__dataset_read(peft_context *ctx, peft__source *source, const char *name, const peft__data_base *base,
                               peft_dataset *dataset);

/* Only the classes of a file, for a data set without a model. */
peft_status peft__dataset_read_labels(peft_context *ctx, peft__source *source, const char *name, peft_dataset *dataset);

/* Is row number `row` of the part that the options ask for? */
bool peft__in_part(const peft_dataset_options *options, uint64_t row);

/* ---- dataset.c ----------------------------------------------------------------------------------------- */

struct peft_dataset {
    peft_context *ctx;
    peft_tokenizer *tokenizer; /* may be NULL */
    int64_t vocab, positions;
    peft_dataset_options options; /* texts point into `texts` */
    peft__arena texts;
    int64_t max_length;
    int32_t task;
    peft__store store;
    peft__order order;
    peft__labels labels;
    peft__masking masking;
    uint64_t epoch, batch;                        /* the batch that comes next */
    bool prepared;                                /* order belongs to `epoch` */
    int32_t *rows_ids, *rows_labels, *rows_types; /* [rows_capacity] */
    int32_t *offsets;                             /* [offsets_capacity] */
    int32_t *batch_classes;                       /* [offsets_capacity] */
    float *batch_targets;                         /* [offsets_capacity * target_cols] */
    int32_t *batch_prompts;                       /* [rows_capacity] with a layout */
    int32_t *batch_masks;                         /* [offsets_capacity] likewise */
    int32_t *batch_spans;                         /* [2, offsets_capacity] first rows, then last ones */
    int32_t *answer_ids, *answer_labels;          /* [rows_capacity] with PEFT__LEARNS_ANSWER */
    int32_t *answer_offsets;                      /* [offsets_capacity] likewise */
    int32_t *answer_source;                       /* [offsets_capacity] with PEFT__LEARNS_CHOICE */
    int32_t decoder_start;
    int64_t rows_capacity, offsets_capacity;
    const char *chat_name; /* in texts, or NULL */
    peft__images *images;  /* NULL: tokens */
    int32_t *image_of;     /* [examples] picture of each example */
    peft__image_batch reader;
    float *features;       /* [rows_capacity, feature_cols] */
    int32_t *grids;        /* [offsets_capacity, 2] */
    int64_t feature_cols;
    peft__buffer report;
};

/* options.c: may data of this form be read for a model of this task? And a new data set's options and form. */
bool peft__data_serves(int32_t format, int32_t task);
peft_status peft__dataset_set_up(peft_dataset *dataset, const peft__data_base *base,
                                 const peft_dataset_options *options);

/* batches.c: room for the largest batch that the present examples can give; the order of the present epoch, whose arrays
 * were reserved when examples came in (it cannot fail). */
peft_status peft__data_grow(peft_context *ctx, int32_t **array, int64_t count);
peft_status peft__dataset_reserve(peft_dataset *dataset);
void peft__dataset_prepare(peft_dataset *dataset);

/* choices.c: examples order[first] .. order[first + count - 1] as a batch; cannot fail. */
void peft__choices_put_batch(peft_dataset *dataset, int32_t first, int32_t count, peft_batch *batch);

/* The public open functions without the model; `source` is borrowed. */
peft_status peft__dataset_open(peft_context *ctx, const peft__data_base *base, peft__source *source, const char *name,
                               const peft_dataset_options *options, peft_dataset **out_dataset);

/* ---- report.c ------------------------------------------------------------------------------------------ */

/* Writes dataset->report and logs its warnings. `unit` is "rows" or "windows". */
peft_status peft__dataset_write_report(peft_dataset *dataset, const char *name, const peft__reading *reading,
                                       int32_t format, bool chat_by_default);
peft_status peft__dataset_write_preview(peft_context *ctx, const peft_dataset *dataset, int64_t example,
                                        peft__buffer *out);

#endif
