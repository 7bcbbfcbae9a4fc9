/* widen.h: stored numbers to floats, for feeding products.
 *
 * The reference is peft__dequantize(); these give the same floats bit for bit, faster, and from any column on.
 */
#ifndef PEFT_KERNEL_WIDEN_H
#define PEFT_KERNEL_WIDEN_H

#include "kernel/matrix.h"

/* Elements [first, first + count) of a stored row. */
void peft__widen(uint32_t cpu, peft_dtype dtype, const uint8_t *row, int64_t first, int64_t count, float *out);

/* ---- variants (widen.inc): whole blocks; false where there is none for the type */
bool peft__widen_avx2(peft_dtype dtype, const uint8_t *blocks, int64_t count, float *out);
bool peft__widen_avx512(peft_dtype dtype, const uint8_t *blocks, int64_t count, float *out);

#endif
