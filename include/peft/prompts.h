/** \file peft/prompts.h
 *  Hard prompts and in-context learning: what a model does without any training, as the baseline of everything that trains.
 *
 *  A prompt file (YAML, docs/prompts.md) names a model, labelled data and a list of prompts: a template over the fields of a row, words for each class
 *  (a verbalizer), a number of solved examples before the question (shots). Running a prompt classifies every row of the test data:
 *
 *  - Causal and encoder-decoder models rank the answers. Let a = a_1 .. a_T be the tokens of an answer behind the prompt x. Its score is
 *    s(a) = sum_t log p(a_t | x, a_<t), divided by nothing (PEFT_SCORE_SUM), by T (PEFT_SCORE_TOKEN: length-normalised, Brown et al. 2020, section 2.4;
 *    Liu et al. 2022, section 3.2) or by the answer's number of characters (PEFT_SCORE_CHARACTER). A class with several answers has the logarithm of the
 *    mean of exp(s). Tokens are those of prompt and answer read as one text, from the first token at which the texts of two answers, or of the prompt
 *    alone, differ: an answer may share its first token with the end of the prompt. An encoder-decoder model has x in its encoder, run once a row, and a
 *    with its end token in its decoder.
 *  - Masked language models fill {mask}: the score of a class is the logit of its word at the mask; of several words the mean (Schick and Schuetze 2021,
 *    section 3.1). A word must be one token.
 *  - A prompt with `reasoning` lets the model write (greedily) and takes the answer out of the text (Wei et al. 2022): by a regular expression, or what
 *    follows the last occurrence of a text such as "answer:".
 *
 *  The class with the highest score is predicted; of equals the first. With contextual calibration (Zhao et al. 2021, section 4) the scores are
 *  s_c - log q_c, where q is the mean of softmax(s) over inputs without content ("N/A", "", "[MASK]") put in place of the row's fields.
 *
 *  What all rows have in common, instruction and shots, is read once: its keys and values stay in a cache, and so do those of a row's own
 *  text while its answers are scored. Adapters that do not allow it (rows replaced in the middle of a text) are run without a cache; results agree to 1e-5.
 *
 *  Threads: an object is used by one thread at a time, like the context that it was made with.
 */
#ifndef PEFT_PROMPTS_H
#define PEFT_PROMPTS_H

#include "peft/metrics.h"
#include "peft/session.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct peft_prompts peft_prompts;
typedef struct peft_prompt_result peft_prompt_result;

/** How the answers of a row are compared. */
enum {
    PEFT_SCORE_TOKEN = 0,    /**< mean log p of a token (default) */
    PEFT_SCORE_SUM = 1,      /**< log p of the whole answer */
    PEFT_SCORE_CHARACTER = 2 /**< log p divided by the answer's number of characters (code points, without blanks before it) */
};

/** What a prompt has the model do. */
enum {
    PEFT_PROMPT_ANSWERS = 0,  /**< rank answers behind a prompt */
    PEFT_PROMPT_CLOZE = 1,    /**< words at {mask} */
    PEFT_PROMPT_REASONING = 2 /**< write, then take the answer out of the text */
};

/** Reads a prompt file. `overrides` are `count` texts "key=value" that win over it: "model=..", "data.test=..", "shots=4", "seeds=[0, 1]"; a key of a
 *  prompt stands for all prompts. Errors: PEFT_E_IO, PEFT_E_FORMAT (malformed, unknown key with the closest known one, wrong type, a template that
 *  gives the answer away), PEFT_E_ARG (out of range), PEFT_E_NOMEM. The model is not needed and not looked at. */
PEFT_API PEFT_NODISCARD peft_status peft_prompts_open(peft_context *context, const char *path, const char *const *overrides, uint32_t count,
                                                      peft_prompts **out_prompts);
/** The same from memory; `name` (may be NULL) is for error texts. */
PEFT_API PEFT_NODISCARD peft_status peft_prompts_open_memory(peft_context *context, const void *data, uint64_t size, const char *name,
                                                             const char *const *overrides, uint32_t count, peft_prompts **out_prompts);
PEFT_API void peft_prompts_destroy(peft_prompts *prompts);

/** A text of the file by its key: "model", "adapter", "data.train", "data.test"; NULL where it has none, PEFT_E_ARG for another key. Owned by the object. */
PEFT_API PEFT_NODISCARD peft_status peft_prompts_get_text(const peft_prompts *prompts, const char *key, const char **out_text);

/** Classes in the order of the file, and the name of one (NULL when there is no such class). Owned by the object. */
PEFT_API uint32_t peft_prompts_class_count(const peft_prompts *prompts);
PEFT_API const char *peft_prompts_class_name(const peft_prompts *prompts, uint32_t index);

typedef struct peft_prompt_info {
    uint32_t struct_size;
    int32_t kind;        /**< PEFT_PROMPT_* */
    const char *name;    /**< owned by the object */
    uint32_t shots;      /**< solved examples before the question */
    uint32_t seed_count; /**< choices of shots to run; 1 without shots */
    int32_t score;       /**< PEFT_SCORE_* */
    uint32_t calibrated; /**< 1: contextual calibration */
} peft_prompt_info;

PEFT_API uint32_t peft_prompts_count(const peft_prompts *prompts);
/** `out_info->struct_size` must be set. Errors: PEFT_E_ARG (no such prompt). */
PEFT_API PEFT_NODISCARD peft_status peft_prompts_get_info(const peft_prompts *prompts, uint32_t index, peft_prompt_info *out_info);

/** The text that the model reads for row `row` (from 0) of the test data, without any answer: to look at before a long run. `out_text` is released with
 *  peft_text_free(). A masked language model's mask stands there as its token. Errors: as for peft_prompts_run(). */
PEFT_API PEFT_NODISCARD peft_status peft_prompts_render(peft_prompts *prompts, const peft_model *model, uint32_t index, uint32_t seed_index, int64_t row,
                                                        char **out_text);

/** Options of a run. */
typedef struct peft_prompt_run_options {
    uint32_t struct_size;
    uint32_t no_cache;    /**< 1: read the whole text anew for every answer (to check the cache); default 0 */
    double level;         /**< of the intervals; default 0.95 */
    uint32_t samples;     /**< of the bootstrap for macro F1; default 1000, 0 = no interval (NaN) */
    uint32_t reserved;
    /** Called after each row with the rows done and all rows; non-zero ends the run with PEFT_E_CANCELLED. May be NULL. */
    int32_t (*on_row)(void *user, int64_t done, int64_t total);
    void *user;
} peft_prompt_run_options;

PEFT_API void peft_prompt_run_options_init_sized(peft_prompt_run_options *options, uint32_t size);
#define peft_prompt_run_options_init(options) peft_prompt_run_options_init_sized((options), (uint32_t)sizeof *(options))

/** Classifies every row of the test data with one prompt and one choice of shots (`seed_index` below seed_count), by the session's model and active
 *  adapters. The data files are read at the first run that needs them and kept. `options` may be NULL.
 *  Errors: PEFT_E_IO and PEFT_E_FORMAT (data: with file and line), PEFT_E_ARG (no such prompt, an answer without tokens, a word that is several tokens
 *  for {mask}, more shots than rows), PEFT_E_LIMIT (a text beyond the model's positions, with file and line), PEFT_E_STATE (in the middle of a pass),
 *  PEFT_E_NONFINITE (a score that is no number), PEFT_E_UNSUPPORTED (not a language model; {mask} on a model that is not a masked one), PEFT_E_CANCELLED. */
PEFT_API PEFT_NODISCARD peft_status peft_prompts_run(peft_prompts *prompts, peft_session *session, uint32_t index, uint32_t seed_index,
                                                     const peft_prompt_run_options *options, peft_prompt_result **out_result);
PEFT_API void peft_prompt_result_destroy(peft_prompt_result *result);

/** What a run found. Arrays belong to the result. */
typedef struct peft_prompt_scores {
    uint32_t struct_size;
    uint32_t classes;
    int64_t count;            /**< rows */
    double accuracy, accuracy_low, accuracy_high; /**< with Wilson's score interval (Wilson 1927) */
    double macro_f1, macro_f1_low, macro_f1_high; /**< with a bootstrap interval; as peft_metric_classes() */
    int64_t unread;           /**< PEFT_PROMPT_REASONING: rows whose text has no answer; they count as wrong */
    int64_t skipped;          /**< rows left out by data.on_bad_row: skip */
    uint64_t seed;            /**< that chose the shots */
    double ms_per_example;    /**< without what all rows have in common */
    double ms_common;         /**< milliseconds for that, once; with calibration also its inputs */
    int64_t common_tokens;    /**< tokens that all rows have in common and that were read once; 0 without a cache */
    double tokens_per_example; /**< tokens that the model was run on for a row: its own text and its answers, and what was written */
    double context_per_example; /**< tokens that a row's question has with everything before it, answers not counted */
    const int32_t *labels;      /**< [count] */
    const int32_t *predictions; /**< [count] -1: no answer found */
    const double *scores;       /**< [count, classes] scores as defined above, calibrated where asked for; NULL with reasoning */
    const uint64_t *lines;      /**< [count] line of the test file on which the row begins */
    const char *const *texts;   /**< [count] what the model wrote; NULL without reasoning */
} peft_prompt_scores;

/** `out_scores->struct_size` must be set. */
PEFT_API PEFT_NODISCARD peft_status peft_prompt_result_get(const peft_prompt_result *result, peft_prompt_scores *out_scores);

/** Wilson's score interval of `successes` among `count` at a level such as 0.95. Errors: PEFT_E_ARG (counts that are none, a level outside ]0, 1[). */
PEFT_API PEFT_NODISCARD peft_status peft_metric_wilson(peft_context *context, int64_t successes, int64_t count, double level, peft_interval *out_interval);

#ifdef __cplusplus
}
#endif
#endif
