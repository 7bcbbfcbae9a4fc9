/** \file peft/session.h
 *  Sessions: one model, its adapters, and the memory to run them. The host drives every step.
 *
 *  Phases. zero_grad -> (forward -> backward)* -> optimizer step. A call that does not fit the phase is PEFT_E_STATE and changes nothing:
 *
 *  | phase    | after                       | allowed                                             |
 *  |----------|-----------------------------|-----------------------------------------------------|
 *  | IDLE     | create, zero_grad, step     | begin / forward / eval / logits / generate          |
 *  | RUNNING  | begin, advance -> AGAIN     | advance, cancel (drops the pass)                    |
 *  | FORWARD  | forward complete            | backward, logits and gradient access; begin anew    |
 *  | BACKWARD | backward complete           | optimizer step, begin (accumulate), gradients       |
 *
 *  eval, logits and generate are allowed in every phase but RUNNING and leave it as it is. A backward pass that is cancelled or fails takes all
 *  gradients accumulated so far with it (IDLE); a forward pass takes only itself. A wish to cancel that comes in phase IDLE is forgotten.
 *  Nothing of libpeft runs between calls.
 */
#ifndef PEFT_SESSION_H
#define PEFT_SESSION_H

#include "peft/dataset.h"
#include "peft/optimizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Which loss the session computes. */
enum {
    PEFT_LOSS_TASK = 0, /**< the one that belongs to the model's task (default) */
    PEFT_LOSS_HOST = 1, /**< none: the host reads logits and writes their gradient (peft_session_output / _output_grad) */
    PEFT_LOSS_TFEW = 2  /**< T-Few's three losses over several answers a question. Encoder-decoder models: decoder_source says whose answer a decoder
                             sequence is. Causal models: choice_offsets say it, labels are on the answers. sequence_labels: which of its answers is right,
                             counted from 0 in their order. Counts questions */
};

typedef struct peft_session_options {
    uint32_t struct_size;
    int32_t loss;           /**< PEFT_LOSS_* */
    int64_t max_rows;       /**< rows of one batch to plan for; 0 = grow when a batch needs it (default) */
    int64_t max_sequences;  /**< likewise */
    int64_t max_labels;     /**< rows with labels to plan for; 0 = max_rows */
    int64_t max_decoder_rows, max_decoder_sequences; /**< encoder-decoder models */
    uint64_t seed;          /**< of dropout; default 0 */
    float label_smoothing;  /**< default 0 */
    uint32_t inference;     /**< 1: no gradients ever, less memory; default 0 */
    const float *class_weights; /**< [num_labels] for classification, NULL = all 1; copied */
    float similarity_scale; /**< feature extraction: what cosines are multiplied with in the loss of pairs; default 20 */
    uint32_t reserved[3];
} peft_session_options;

PEFT_API void peft_session_options_init_sized(peft_session_options *options, uint32_t size);
#define peft_session_options_init(options) peft_session_options_init_sized((options), (uint32_t)sizeof *(options))

/** A session over a model and `count` adapters (0 = the bare model), all active. `options` may be NULL. Memory is taken at once when max_rows is given,
 *  at the first batch otherwise (sessions for inference: at the first call
 *  of each kind). Errors: PEFT_E_MISMATCH (adapter of another model), PEFT_E_LIMIT, PEFT_E_NOMEM. */
PEFT_API PEFT_NODISCARD peft_status peft_session_create(peft_context *context, peft_model *model, peft_adapter *const *adapters, uint32_t count,
                                                        const peft_session_options *options, peft_session **out_session);
PEFT_API void peft_session_destroy(peft_session *session);

/** What a session would take for batches of that size, before anything is taken. */
typedef struct peft_memory_info {
    uint32_t struct_size;
    uint32_t steps;              /**< operations of one forward and backward pass */
    uint64_t activations;        /**< planned block */
    uint64_t activations_lower_bound;
    uint64_t gradients;
    uint64_t optimizer;          /**< AdamW's two moments */
    uint64_t weights;            /**< stored weights (mapped, shared) */
    uint64_t total;
} peft_memory_info;
PEFT_API PEFT_NODISCARD peft_status peft_session_memory(peft_context *context, peft_model *model, peft_adapter *const *adapters, uint32_t count,
                                                        const peft_session_options *options, peft_memory_info *out_info);

/** Replaces the set of active adapters; all must belong to the session's model. Rebuilds the plan when the set's shape changes. */
PEFT_API PEFT_NODISCARD peft_status peft_session_set_adapters(peft_session *session, peft_adapter *const *adapters, uint32_t count);

/** Floating-point operations of the matrix products that the session has done since it was made, a multiply-add as two: weights, low-rank factors, rotations,
 *  output layer, attention (pairs that see each other), forward, backward and what is computed again. Element-wise work, norms, softmax and the weights that
 *  some methods compute from parameters are not counted. Counted from the plan, step by step as each is complete; the difference of two calls is the cost of what came
 *  between. peft/cost.h has the model of the literature, which needs only a number of parameters. */
PEFT_API double peft_session_flops(const peft_session *session);

/** Drops accumulated gradients. */
PEFT_API PEFT_NODISCARD peft_status peft_session_zero_grad(peft_session *session);

/** Forward pass in training mode (dropout on). `out_loss` (may be NULL) gets the mean loss over counted targets. */
PEFT_API PEFT_NODISCARD peft_status peft_session_forward(peft_session *session, const peft_batch *batch, double *out_loss);

/** Backward pass of the last forward; gradients of the summed loss times `weight` are added to what was accumulated. */
PEFT_API PEFT_NODISCARD peft_status peft_session_backward(peft_session *session, float weight);

/** Forward pass without dropout or gradients. `out_count` (may be NULL) gets the number of counted targets. */
PEFT_API PEFT_NODISCARD peft_status peft_session_eval(peft_session *session, const peft_batch *batch, double *out_loss, double *out_count);

enum { PEFT_PASS_FORWARD = 1, PEFT_PASS_BACKWARD = 2, PEFT_PASS_BOTH = 3 };

/** Starts a pass that peft_session_advance() does in slices. `batch` must stay as it is until the pass is complete. */
PEFT_API PEFT_NODISCARD peft_status peft_session_begin(peft_session *session, const peft_batch *batch, int32_t passes, float weight);

typedef struct peft_progress {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t done, total;     /**< operations */
    uint64_t longest_slice_us; /**< longest uninterruptible piece so far: the worst overrun of a budget */
    double loss;              /**< once the forward part is complete */
} peft_progress;

/** Works for about `budget_us` microseconds (UINT64_MAX: to the end); PEFT_AGAIN while there is more. At least one piece is done in every call.
 *  Results are bit-equal however the work is sliced. */
PEFT_API PEFT_NODISCARD peft_status peft_session_advance(peft_session *session, uint64_t budget_us, peft_progress *out_progress);

/** Asks the running call to return PEFT_E_CANCELLED soon; a pass in progress between calls is dropped at the next advance. Parameters and optimizer
 *  state are never half-written. Threads: any, also from a signal handler, while the session lives. */
PEFT_API void peft_session_cancel(peft_session *session);

/** Logits without loss: for causal models at every row, or only at the last row of each sequence; [rows, vocab] floats written to `out_logits`,
 *  which has room for `capacity` floats. `out_rows` and `out_cols` say what was written (may be NULL). */
enum { PEFT_LOGITS_ALL = 0, PEFT_LOGITS_LAST = 1 };
PEFT_API PEFT_NODISCARD peft_status peft_session_logits(peft_session *session, const peft_batch *batch, int32_t which, float *out_logits, int64_t capacity,
                                                        int64_t *out_rows, int64_t *out_cols);

/** Embeddings of texts: for every sequence of the batch one row [sequences, hidden_size], from the last hidden states of a model that was loaded for
 *  PEFT_TASK_FEATURE_EXTRACTION: their mean over the text's tokens, or the first or last token's. */
enum { PEFT_POOL_MEAN = 0, PEFT_POOL_FIRST = 1, PEFT_POOL_LAST = 2 };
/** `normalize` 1: each row has length 1, so that products are cosines. Writes to `out_embeddings`, which has room for `capacity` floats; `out_rows` and
 *  `out_cols` may be NULL. PEFT_E_UNSUPPORTED for other tasks, PEFT_E_LIMIT for too little room. */
PEFT_API PEFT_NODISCARD peft_status peft_session_embed(peft_session *session, const peft_batch *batch, int32_t pooling, int32_t normalize,
                                                       float *out_embeddings, int64_t capacity, int64_t *out_rows, int64_t *out_cols);

/** How likely a language model finds each text: for every sequence of the batch (decoder sequence of an encoder-decoder model) the sum of -log p over the
 *  tokens that have a label, in `out_nll`, and how many those are, in `out_tokens` (either may be NULL; room for `capacity` sequences). Ranking the answers
 *  to a question by out_nll / out_tokens is how T-Few classifies; for causal models an answer's sequence is question and answer, with labels on the answer. */
PEFT_API PEFT_NODISCARD peft_status peft_session_score(peft_session *session, const peft_batch *batch, double *out_nll, int64_t *out_tokens,
                                                       int64_t capacity, int64_t *out_count);

/** Rank classification: which of its answers the model finds most likely for each question of the batch (PEFT_LOSS_TFEW says how a batch has questions and
 *  answers; it need not be the session's loss), that is which has the smallest sum of -log p divided by its number of tokens to the power
 *  `length_penalty` (1 as in T-Few; 0 = the sum itself); of equals the first. The encoder reads a question once, however many answers there are.
 *  `out_choices` and `out_losses` (either may be NULL) have room for `capacity` questions: the answer's number, and the cross entropy over the question's
 *  answers with those quotients as -logits (NaN where sequence_labels does not say which is right). Source: Liu et al. 2022, section 3.2. */
PEFT_API PEFT_NODISCARD peft_status peft_session_rank(peft_session *session, const peft_batch *batch, float length_penalty, int32_t *out_choices,
                                                      double *out_losses, int64_t capacity, int64_t *out_count);

/** The outputs of the last forward pass of a PEFT_LOSS_HOST session: a view of [rows, cols] floats, valid until the next call; and the place where
 *  the host writes the gradient of its loss before backward. */
PEFT_API PEFT_NODISCARD peft_status peft_session_output(peft_session *session, const float **out_values, int64_t *out_rows, int64_t *out_cols);
PEFT_API PEFT_NODISCARD peft_status peft_session_output_grad(peft_session *session, float **out_grad);

/** Gradients accumulated for an adapter as one flat array in the adapter's tensor order, divided by the number of counted targets; and back. */
PEFT_API PEFT_NODISCARD peft_status peft_session_get_gradients(const peft_session *session, const peft_adapter *adapter, float *out_values, int64_t count);
PEFT_API PEFT_NODISCARD peft_status peft_session_set_gradients(peft_session *session, const peft_adapter *adapter, const float *values, int64_t count);

typedef struct peft_generate_options {
    uint32_t struct_size;
    uint32_t max_new_tokens;   /**< default 128 */
    float temperature;         /**< 0 = greedy (default) */
    uint32_t top_k;            /**< 0 = off */
    float top_p;               /**< 1 = off */
    float repetition_penalty;  /**< 1 = off */
    uint64_t seed;
    const char *const *stop;   /**< strings that end generation; they are not part of the text */
    uint32_t stop_count;
    uint32_t ignore_eos;
    /** Called with each piece of complete UTF-8 text; non-zero ends generation. */
    int32_t (*on_text)(void *user, const char *text, uint32_t length);
    void *user;
    uint32_t num_beams;        /**< encoder-decoder models: beam search with so many beams; default 1. Text comes as one piece at the end */
    float length_penalty;      /**< of beams: the sum of log probabilities is divided by length to this power; default 1 */
} peft_generate_options;

PEFT_API void peft_generate_options_init_sized(peft_generate_options *options, uint32_t size);
#define peft_generate_options_init(options) peft_generate_options_init_sized((options), (uint32_t)sizeof *(options))

/** Continues `prompt_ids` with the session's model and adapters. Writes at most `capacity` ids; `out_count` gets how many,
 *  also when cancelled. The token that ends a text (eos_token_id of config.json, generation_config.json and the tokenizer) is not written.
 *  Encoder-decoder models read the prompt with their encoder and write what the decoder says to it.
 *  Errors: PEFT_E_LIMIT (prompt plus new tokens beyond the model's positions), PEFT_E_CANCELLED, PEFT_E_UNSUPPORTED (neither causal nor
 *  encoder-decoder model; beams on a causal one). */
PEFT_API PEFT_NODISCARD peft_status peft_session_generate(peft_session *session, const int32_t *prompt_ids, int64_t prompt_count,
                                                          const peft_generate_options *options, int32_t *out_ids, int64_t capacity, int64_t *out_count);

/** Checkpoint: adapter, optimizer state, counters and the host's own text (`state_json`, may be NULL: data position, recipe hash ...) in one folder,
 *  written to a new folder and renamed: the old checkpoint stays until the new one is complete. Going on from it gives the same bits as not having stopped. */
PEFT_API PEFT_NODISCARD peft_status peft_checkpoint_save(peft_session *session, peft_optimizer *optimizer, const char *folder, const char *state_json);
/** Restores into objects made with the same configuration. `out_state_json` (may be NULL) gets a copy to be released with peft_text_free(). */
PEFT_API PEFT_NODISCARD peft_status peft_checkpoint_load(peft_session *session, peft_optimizer *optimizer, const char *folder, char **out_state_json);
PEFT_API void peft_text_free(peft_context *context, char *text);

#ifdef __cplusplus
}
#endif
#endif
