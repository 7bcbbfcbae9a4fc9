/** \file peft/batch.h
 *  Batches: what one pass reads.
 *
 *  A batch is ragged: N rows of all sequences one after another, and where each sequence starts. There is no padding.
 *  peft_batch_from_padded() turns other people's padded rectangles into this form.
 */
#ifndef PEFT_BATCH_H
#define PEFT_BATCH_H

#include "peft/context.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { PEFT_IGNORE_LABEL = -100 };

/** One batch, borrowed by the call that takes it (peft_session_begin keeps reading it until the pass is complete).
 *  Pointers may be NULL where "optional" stands. N = rows, B = sequences. */
typedef struct peft_batch {
    uint32_t struct_size;
    uint32_t flags;                /**< 0 */
    int64_t rows;                  /**< N: rows of the main stream */
    int64_t sequences;             /**< B */
    const int32_t *offsets;        /**< [B+1] first row of each sequence; offsets[0] = 0, offsets[B] = N, strictly rising */
    const int32_t *input_ids;      /**< [N] token ids; NULL when `features` feed the model */
    const int32_t *position_ids;   /**< [N] optional: default 0, 1, ... in each sequence (RoBERTa: pad_token_id + 1, ...) */
    const int32_t *token_type_ids; /**< [N] optional: default 0 */
    const int32_t *labels;         /**< [N] optional: label of each token itself, unshifted as in Hugging Face; -100 = none */
    const float *features;         /**< [N, feature_cols] optional: rows that are no tokens (image patches, sensor frames) */
    int64_t feature_cols;
    const int32_t *sequence_labels;   /**< [B] optional: class of each sequence, -100 = none */
    const float *sequence_targets;    /**< [B, target_cols] optional: regression values or multi-label 0/1 */
    int64_t target_cols;
    const int32_t *mask_positions;    /**< [B] optional: row inside each sequence whose output is read (cloze tasks) */
    const int32_t *adapter_ids;       /**< [B] optional: which of the session's adapters a sequence uses; -1 = none; default: all */
    int64_t decoder_rows;             /**< second stream of encoder-decoder models */
    int64_t decoder_sequences;
    const int32_t *decoder_offsets;   /**< [decoder_sequences + 1] */
    const int32_t *decoder_input_ids; /**< [decoder_rows] */
    const int32_t *decoder_labels;    /**< [decoder_rows] optional: what each decoder row predicts, -100 = none */
    const int32_t *decoder_source;    /**< [decoder_sequences] optional: main sequence that each decoder sequence reads; default i -> i */
    const int32_t *prompt_index;      /**< [N] optional: row of the trainable prompt that replaces this row's embedding, -1 = none */
    const int32_t *image_grids;       /**< [B, 2] optional: rows and columns of the patches of each image; default: the model's own grid, else a square */
    const int32_t *start_positions;   /**< [B] optional: first row of the answer inside each sequence, -100 = none (question answering) */
    const int32_t *end_positions;     /**< [B] optional: last row of the answer */
    int64_t questions;                /**< sequences that are answers to choose among: how many questions they belong to; 0 = none. sequence_labels are then
                                           one a question: which of its answers is right, counted from 0 */
    const int32_t *choice_offsets;    /**< [questions + 1] with questions: first sequence of each question's answers. Encoder-decoder models need neither: their
                                           questions are the main sequences, and decoder_source says whose answer a decoder sequence is */
} peft_batch;

PEFT_API void peft_batch_init_sized(peft_batch *batch, uint32_t size);
#define peft_batch_init(batch) peft_batch_init_sized((batch), (uint32_t)sizeof *(batch))

/** Position ids that a padded rectangle implies. */
enum {
    PEFT_POSITIONS_COLUMN = 0, /**< 0 .. T-1 whatever the padding side, as Hugging Face models count them (default) */
    PEFT_POSITIONS_ROW = 1,    /**< 0, 1, ... over the tokens that the mask keeps */
    PEFT_POSITIONS_ROBERTA = 2 /**< pad_token_id + number of ids so far that are not pad_token_id */
};

/** Other people's padded batch: rectangles [batch, length], row after row. All id arrays have elements of `id_bytes`. */
typedef struct peft_padded {
    uint32_t struct_size;
    int32_t id_bytes;           /**< 8: int64_t (default), 4: int32_t */
    int64_t batch, length;      /**< B, T */
    const void *input_ids;      /**< [B, T] */
    const void *attention_mask; /**< [B, T] optional: 1 = token, 0 = padding; default all 1 */
    const void *labels;         /**< [B, T] optional: -100 = none; must be -100 where the mask is 0 */
    const void *token_type_ids; /**< [B, T] optional */
    const void *position_ids;   /**< [B, T] optional: overrides position_rule */
    int32_t position_rule;      /**< PEFT_POSITIONS_* */
    int32_t pad_token_id;       /**< for PEFT_POSITIONS_ROBERTA and decoder inputs; default 0 */
    const void *sequence_labels; /**< [B] optional: one class per sequence */
    int64_t decoder_length;     /**< encoder-decoder models: columns of decoder_labels; 0 = none */
    const void *decoder_labels; /**< [B, decoder_length]: targets; the decoder reads them shifted right by one */
    int32_t decoder_start_token_id; /**< first id that the decoder reads; default 0 */
    int32_t reserved;
    const void *start_positions; /**< [B] optional: column where each answer starts; beyond the row or on padding: no answer */
    const void *end_positions;   /**< [B] optional */
} peft_padded;

PEFT_API void peft_padded_init_sized(peft_padded *padded, uint32_t size);
#define peft_padded_init(padded) peft_padded_init_sized((padded), (uint32_t)sizeof *(padded))

/** Where peft_batch_from_padded() writes; owned by the caller and needed as long as the batch. batch * length elements (offsets: batch + 1,
 *  sequence_labels: batch, decoder arrays: batch * decoder_length) are always enough. An array that the input does not ask for may be NULL. */
typedef struct peft_batch_buffers {
    uint32_t struct_size;
    uint32_t reserved;
    int64_t rows;                 /**< room in the arrays of rows */
    int32_t *offsets;             /**< [B+1] */
    int32_t *input_ids;           /**< [rows] */
    int32_t *position_ids;        /**< [rows] */
    int32_t *token_type_ids;      /**< [rows] */
    int32_t *labels;              /**< [rows] */
    int32_t *source;              /**< [rows] optional: index into the rectangle of each row, to put results back */
    int32_t *sequence_labels;     /**< [B] */
    int64_t decoder_rows;         /**< room in the two arrays of decoder rows */
    int32_t *decoder_offsets;     /**< [B+1] */
    int32_t *decoder_input_ids;
    int32_t *decoder_labels;
    int32_t *start_positions;     /**< [B] */
    int32_t *end_positions;       /**< [B] */
} peft_batch_buffers;

/** Takes the padding out: fills the buffers and makes `out_batch` point to them. Ids that do not fit in 32 bits, a sequence without a single token and
 *  labels on padding are PEFT_E_ARG; too little room is PEFT_E_LIMIT. `out_batch` is written on success only. */
PEFT_API PEFT_NODISCARD peft_status peft_batch_from_padded(peft_context *context, const peft_padded *padded, const peft_batch_buffers *buffers,
                                                           peft_batch *out_batch);

#ifdef __cplusplus
}
#endif
#endif
