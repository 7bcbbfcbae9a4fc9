/** \file peft/dataset.h
 *  Data sets: files of text, conversations or labelled rows, tokenised, masked, shuffled and cut into batches.
 */
#ifndef PEFT_DATASET_H
#define PEFT_DATASET_H

#include "peft/batch.h"
#include "peft/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct peft_dataset peft_dataset;

/** What a file's rows mean. */
enum {
    PEFT_DATA_AUTO = 0,              /**< by the file's ending and the keys of its first row */
    PEFT_DATA_TEXT = 1,              /**< plain text, one long document cut into windows of max_length tokens */
    PEFT_DATA_TEXT_ROWS = 2,         /**< {"text": ...}: every row is a document */
    PEFT_DATA_PROMPT_COMPLETION = 3, /**< {"prompt": ..., "completion": ...}: strings or lists of messages */
    PEFT_DATA_ALPACA = 4,            /**< {"instruction", "input", "output"} (and "system", "history") */
    PEFT_DATA_SHAREGPT = 5,          /**< {"conversations": [{"from", "value"}]} */
    PEFT_DATA_MESSAGES = 6,          /**< {"messages": [{"role", "content"}]} */
    PEFT_DATA_CLASSIFICATION = 7,    /**< {"text", "label"} or {"text", "text_pair", "label"}: one class, by name or number */
    PEFT_DATA_REGRESSION = 8,        /**< the same with a number, or a list of as many numbers as the model has outputs */
    PEFT_DATA_MULTI_LABEL = 9,       /**< the same with any number of classes: a list of names, or of 0 and 1; in CSV "a|b" */
    PEFT_DATA_TOKEN_CLS = 10,        /**< {"tokens": [words], "ner_tags": [names or numbers]}, or CoNLL columns (.conll, .bio, .iob, .iob2, .txt) */
    PEFT_DATA_MASKED_LM = 11,        /**< text as PEFT_DATA_TEXT or _TEXT_ROWS; tokens are hidden and learnt, others in every epoch */
    PEFT_DATA_IMAGES = 12,           /**< pictures with a class, for vision models: a folder of class folders, a table of paths and labels (csv, jsonl), IDX (MNIST) or CIFAR files */
    PEFT_DATA_CHOICES = 13,          /**< {"input", "choices": [texts], "answer"}: a question with answers to choose among; or rows with a class and `verbalizers` (docs/tasks.md) */
    PEFT_DATA_QUESTION_ANS = 14,     /**< {"question", "context", "answers": {"text": [...], "answer_start": [...]}}, the answer a piece of the context; SQuAD's files; in CSV "answer" and "answer_start" (characters, or where the answer is found first) */
    PEFT_DATA_PAIRS = 15             /**< texts that belong together, for embeddings: {"anchor", "positive"} and "negative" or "negatives"; or {"sentence1", "sentence2", "score"} */
};

enum { PEFT_EOS_AUTO = 0, PEFT_EOS_NEVER = 1, PEFT_EOS_ALWAYS = 2 };
enum { PEFT_BAD_ROW_ERROR = 0, PEFT_BAD_ROW_SKIP = 1 };
enum { PEFT_PART_ALL = 0, PEFT_PART_TRAIN = 1, PEFT_PART_VALIDATION = 2 };

typedef struct peft_dataset_options {
    uint32_t struct_size;
    int32_t format;           /**< PEFT_DATA_*; default AUTO */
    int64_t max_length;       /**< tokens of one example; longer ones are cut at the end; 0 = the smaller of 1024 and the model's positions (default) */
    int64_t stride;           /**< PEFT_DATA_TEXT: tokens from one window to the next; 0 = max_length (default). Where windows overlap, a token is learnt in the first only. PEFT_DATA_QUESTION_ANS: tokens of the context from one window to the next; 0 = half of what a window holds */
    int64_t batch_size;       /**< examples of one batch; default 1 */
    uint32_t packing;         /**< 1: fill each batch up to batch_size * max_length rows with whole examples, which do not see one another; default 0 */
    uint32_t train_on_prompt; /**< 1: the prompt is learnt too; default 0 */
    int32_t eos;              /**< PEFT_EOS_*: end-of-sequence token after each document or answer; AUTO: where the template does not end the turn itself */
    uint32_t shuffle;         /**< 1: a new order every epoch, a pure function of seed and epoch; default 1 */
    uint64_t seed;
    int32_t on_bad_row;       /**< PEFT_BAD_ROW_*; default ERROR */
    int32_t part;             /**< PEFT_PART_*; default ALL */
    double validation_fraction; /**< share that PEFT_PART_VALIDATION gets, chosen by seed (plain text: the last part of the file); default 0 */
    int64_t max_examples;     /**< of this part; 0 = all */
    const char *chat_template; /**< preset name or the JSON form of docs/recipes.md; NULL = what the model's files carry */
    const char *text_key, *prompt_key, *completion_key; /**< names of the fields, NULL = the usual ones */
    uint32_t drop_last;       /**< 1: no smaller last batch; default 0 */
    uint32_t reserved[7];
    const char *label_key, *text_pair_key; /**< names of the fields, NULL = the usual ones; CoNLL: numbers of the columns of tag (text_key: word), from 1 */
    const char *const *label_names; /**< [label_name_count] classes in order, for files without the model's id2label; NULL = see docs/tasks.md */
    uint32_t label_name_count;
    uint32_t unlabelled;      /**< 1: rows need no label and are kept (data to predict, peft/evaluate.h); default 0 */
    int32_t truncation;       /**< labelled pairs: PEFT_TRUNCATE_*, 0 = longest first (default) */
    float mask_probability;   /**< PEFT_DATA_MASKED_LM: share of tokens that are learnt; 0 = 0.15 (default) */
    float image_flip;         /**< pictures: chance that left and right are exchanged; default 0 */
    uint32_t image_crop;      /**< pictures: 1: a random piece fills the picture, anew in every epoch (peft_image_augment); default 0 */
    const char *input_template; /**< PEFT_DATA_CHOICES: the question as a text with the row's fields in braces, "{text}\nGood or bad?"; NULL = one field
                                     (prompt_key, else input, question, prompt, text, context, ctx, query, sentence) */
    const char *choices_key;    /**< field of the list of answers; NULL = choices, options, answer_choices, candidates, endings, or choice1, choice2, ... */
    const char *const *verbalizers; /**< [verbalizer_count] answers of every row in place of a list, each a template too: for rows with a class they are in the
                                         order of the classes (label_names, else as docs/tasks.md says). Copied */
    uint32_t verbalizer_count;
    uint32_t right_only;        /**< PEFT_DATA_CHOICES: 1: batches have the right answers only, as examples of what to say; default 0 */
    const char *layout;         /**< PEFT_DATA_CLASSIFICATION for WARP: how a text becomes an input, the adapter's "template" as JSON text: ["cls", 0, "s1", 1, "mask",
                                     "sep"]; batches then have prompt_index and mask_positions; NULL = the tokenizer's own (default) */
} peft_dataset_options;

PEFT_API void peft_dataset_options_init_sized(peft_dataset_options *options, uint32_t size);
#define peft_dataset_options_init(options) peft_dataset_options_init_sized((options), (uint32_t)sizeof *(options))

/** Reads and tokenises a file (.txt, .jsonl, .json, .csv, .tsv, each also .gz) with the model's tokenizer.
 *  Errors name file and line: PEFT_E_IO, PEFT_E_FORMAT, PEFT_E_ARG (no example left), PEFT_E_UNSUPPORTED (chat data without a known template). */
PEFT_API PEFT_NODISCARD peft_status peft_dataset_open(peft_context *context, const peft_model *model, const char *path,
                                                      const peft_dataset_options *options, peft_dataset **out_dataset);
/** The same from memory; `name` is for error texts and its ending decides the format when AUTO. */
PEFT_API PEFT_NODISCARD peft_status peft_dataset_open_memory(peft_context *context, const peft_model *model, const void *data, uint64_t size,
                                                             const char *name, const peft_dataset_options *options, peft_dataset **out_dataset);
/** An empty data set that the host fills with its own tokens. `model` may be NULL. */
PEFT_API PEFT_NODISCARD peft_status peft_dataset_create(peft_context *context, const peft_model *model, const peft_dataset_options *options,
                                                        peft_dataset **out_dataset);
/** Appends one example; `labels` NULL = all tokens are learnt. Copied. */
PEFT_API PEFT_NODISCARD peft_status peft_dataset_add(peft_dataset *dataset, const int32_t *input_ids, const int32_t *labels, int64_t count);
PEFT_API void peft_dataset_destroy(peft_dataset *dataset);

/** Classes of labelled data, and their names ("0", "1", ... where there are none). The order is the model's id2label, else label_names, else sorted. Owned
 *  by the data set; NULL beyond the last. 0 for data without classes. */
PEFT_API uint32_t peft_dataset_label_count(const peft_dataset *dataset);
PEFT_API const char *peft_dataset_label_name(const peft_dataset *dataset, uint32_t label);
/** Examples of a class (token data: labelled words), for class weights. */
PEFT_API int64_t peft_dataset_label_examples(const peft_dataset *dataset, uint32_t label);
/** Weights for peft_session_options.class_weights under which rare classes count as much as frequent ones, as scikit-learn's "balanced":
 *  examples / (classes that occur * examples of the class), 1 for a class without examples. PEFT_E_ARG unless `count` is the number of classes. */
PEFT_API PEFT_NODISCARD peft_status peft_dataset_balanced_weights(const peft_dataset *dataset, float *out_weights, uint32_t count);

/** A data set of classes alone, read without a model, to load one with as many outputs (peft_model_options.label_names): the label functions above
 *  work on it, and it has no examples. options->format is PEFT_DATA_CLASSIFICATION, _MULTI_LABEL, _TOKEN_CLS or _IMAGES. */
PEFT_API PEFT_NODISCARD peft_status peft_dataset_open_labels(peft_context *context, const char *path, const peft_dataset_options *options,
                                                             peft_dataset **out_dataset);
/** Whether its classes have names of their own (1) or are only numbered (0). */
PEFT_API int32_t peft_dataset_labels_named(const peft_dataset *dataset);

/** Examples, and batches of one epoch (with packing: of the present epoch). */
PEFT_API int64_t peft_dataset_size(const peft_dataset *dataset);
PEFT_API int64_t peft_dataset_batches(const peft_dataset *dataset);
/** All tokens, and those that are learnt. Any pointer may be NULL. */
PEFT_API void peft_dataset_tokens(const peft_dataset *dataset, int64_t *out_tokens, int64_t *out_trained, int64_t *out_longest);

/** The next batch, owned by the data set and valid until the next call; PEFT_END after the last of an epoch (the call after that begins the next one). */
PEFT_API PEFT_NODISCARD peft_status peft_dataset_next(peft_dataset *dataset, peft_batch *out_batch);

/** Where the data set stands, for checkpoints. */
PEFT_API void peft_dataset_position(const peft_dataset *dataset, uint64_t *out_epoch, uint64_t *out_batch);
PEFT_API PEFT_NODISCARD peft_status peft_dataset_seek(peft_dataset *dataset, uint64_t epoch, uint64_t batch);

/** Name of the chat template that conversations were rendered with ("custom" for an own one), or NULL when there was none. Owned by the data set. */
PEFT_API const char *peft_dataset_chat_template(const peft_dataset *dataset);

/** What was read, skipped (with reasons), cut, and warnings such as an answer without an end token. Owned by the data set. */
PEFT_API const char *peft_dataset_report(const peft_dataset *dataset);

/** One example token by token, a line each: number, id, "+" when it is learnt or "." when it is only read, text. Writes at most `capacity` bytes with a NUL; *out_length gets the whole
 *  length. PEFT_E_LIMIT when it does not fit. */
PEFT_API PEFT_NODISCARD peft_status peft_dataset_preview(const peft_dataset *dataset, int64_t example, char *out_text, uint64_t capacity, uint64_t *out_length);

#ifdef __cplusplus
}
#endif
#endif
