/* softmax_loss.h: cross entropy and its gradient, for a panel of rows whose logits lie in blocks of columns.
 *
 * The logits of a chunk of rows are stored block by block: block j holds columns [j * width, ...) of all rows, row
 * after row, so that a panel of rows (as many as a token panel of the dense product) is one short run of memory per
 * block. There the gradient can replace the logits already turned into a token panel [column][row], which is what the
 * product with the head's weight reads next: no second matrix of logits, no extra pass to pack it.
 */
#ifndef PEFT_KERNEL_SOFTMAX_LOSS_H
#define PEFT_KERNEL_SOFTMAX_LOSS_H

#include "kernel/gemm.h"

typedef struct peft__softmax_loss {
    float *logits;        /* row 0 of block 0 */
    int64_t block;        /* columns of a block; the last may have fewer, and then shorter rows */
    int64_t block_stride; /* floats from one block to the next */
    int64_t columns;
    int64_t first, rows; /* the panel: at most `panel` rows, `first` a multiple of it */
    int64_t panel;       /* rows of a token panel, at most PEFT__GEMM_MAX_TOKENS */
    const int32_t *labels;
    float logit_scale, soft_cap, label_smoothing;
    bool gradient;  /* leave the gradient of the summed loss to the raw logits, as token panels */
    float *scratch; /* panel * block floats */
    double *losses; /* [rows] out */
} peft__softmax_loss;

void peft__softmax_loss_panel(uint32_t cpu, const peft__softmax_loss *job);

void peft__softmax_loss_generic(const peft__softmax_loss *job);
void peft__softmax_loss_avx2(const peft__softmax_loss *job);
void peft__softmax_loss_avx512(const peft__softmax_loss *job);

#endif
