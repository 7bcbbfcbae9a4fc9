/* matrix.h: a weight matrix as kernels see it: stored bytes of some type, read tile by tile.
 *
 * Logically every matrix is W [rows, cols] = [out features, in features], y = x W^T. Three facts about how files
 * store it are kept here, so that nothing has to be copied or rearranged on loading:
 *   - the element type (quantised types are blocks along a stored row);
 *   - `transposed`: the file holds [cols, rows] (GPT-2's Conv1D); plain types only;
 *   - `interleave`: rows of each head of this many rows are stored as (0, h/2, 1, h/2+1, ...): GGUF files of the
 *     llama architecture store the query and key projections like that. Row r is then found by peft__matrix_row().
 */
#ifndef PEFT_KERNEL_MATRIX_H
#define PEFT_KERNEL_MATRIX_H

#include "format/tensor.h"

typedef struct peft__matrix {
    const uint8_t *data;
    peft_dtype dtype;
    int32_t interleave; /* 0 = rows in order */
    int64_t rows, cols; /* logical [out, in] */
    size_t stride;      /* bytes from one stored row to the next */
    bool transposed;
} peft__matrix;

/* Where logical row r (0 <= r < rows) of a matrix that is not transposed begins. */
static inline const uint8_t *peft__matrix_row(const peft__matrix *m, int64_t r) {
    if (m->interleave != 0) {
        const int64_t half = m->interleave / 2, head = r / m->interleave, in_head = r % m->interleave;
        r = head * m->interleave + 2 * (in_head % half) + in_head / half;
    }
    return m->data + (size_t)r * m->stride;
}

/* A float matrix [rows, cols] in memory. */
static inline peft__matrix peft__matrix_f32(const float *data, int64_t rows, int64_t cols) {
    const peft__matrix m = {(const uint8_t *)data, PEFT_DTYPE_F32, 0, rows, cols, (size_t)cols * sizeof(float), false};
    return m;
}

#endif
