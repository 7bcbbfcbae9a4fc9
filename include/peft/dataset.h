/** \file peft/dataset.h
 *  Batches, and data sets that make them.
 *
 *  A batch is ragged: N rows of all sequences one after another, and where each sequence starts. There is no padding.
 *  peft_batch_from_padded() turns other people's padded rectangles into this form.
 */
#ifndef PEFT_DATASET_H
#define PEFT_DATASET_H

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
    const int32_t *position_ids;   /**< [N] optional: default 0, 1, ... in each sequence (RoBERTa: counted from its own start) */
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
} peft_batch;

PEFT_API void peft_batch_init_sized(peft_batch *batch, uint32_t size);
#define peft_batch_init(batch) peft_batch_init_sized((batch), (uint32_t)sizeof *(batch))

#ifdef __cplusplus
}
#endif
#endif
