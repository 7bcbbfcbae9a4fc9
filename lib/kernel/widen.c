/* widen.c: stored numbers to floats: choice of the variant, and what does not begin or end with a block. */
#include "kernel/widen.h"

enum { BLOCK_MAX = 256 };

static void whole_blocks(uint32_t cpu, peft_dtype dtype, const uint8_t *blocks, int64_t count, float *out) {
#if defined(__x86_64__)
    if (cpu >= PEFT_CPU_AVX512 ? peft__widen_avx512(dtype, blocks, count, out)
                               : cpu >= PEFT_CPU_AVX2 && peft__widen_avx2(dtype, blocks, count, out))
        return;
#endif
    (void)cpu;
    peft__dequantize(dtype, blocks, count, out);
}

void peft__widen(uint32_t cpu, peft_dtype dtype, const uint8_t *row, int64_t first, int64_t count, float *out) {
    if (dtype == PEFT_DTYPE_F32) {
        memcpy(out, row + (size_t)first * sizeof(float), (size_t)count * sizeof(float));
        return;
    }
    const int64_t block = peft__dtype_block(dtype);
    const size_t bytes = peft__dtype_block_bytes(dtype);
    float part[BLOCK_MAX];
    const int64_t into = first % block;
    row += (size_t)(first / block) * bytes;
    if (into != 0 && count > 0) {
        const int64_t here = peft__min_i64(block - into, count);
        whole_blocks(cpu, dtype, row, block, part);
        memcpy(out, part + into, (size_t)here * sizeof(float));
        row += bytes, out += here, count -= here;
    }
    const int64_t whole = count / block * block;
    if (whole > 0) whole_blocks(cpu, dtype, row, whole, out);
    if (count > whole) {
        whole_blocks(cpu, dtype, row + (size_t)(whole / block) * bytes, block, part);
        memcpy(out + whole, part, (size_t)(count - whole) * sizeof(float));
    }
}
