/* tensor.h: a tensor as it lies in a file, and the arithmetic of stored types.
 *
 * A stored tensor is read-only bytes with a type; nothing is copied or widened on loading. A matrix [rows, cols]
 * is `rows` runs of peft__dtype_row_bytes(dtype, cols) bytes. Files promise no alignment: readers use memcpy or
 * unaligned vector loads.
 */
#ifndef PEFT_FORMAT_TENSOR_H
#define PEFT_FORMAT_TENSOR_H

#include "base/base.h"
#include "peft/tensor.h"

typedef struct peft__tensor {
    const char *name; /* owned by the file object */
    peft_dtype dtype;
    uint32_t ndim;
    int64_t shape[PEFT_MAX_DIMS]; /* outermost first */
    const uint8_t *data;
    size_t bytes;
    const char *type_name; /* as the file spells it; says what a PEFT_DTYPE_OTHER is */
    const char *file;      /* for error texts */
} peft__tensor;

/* Elements per block and bytes per block; 1 element for plain types. Bytes 0 for PEFT_DTYPE_OTHER. */
int64_t peft__dtype_block(peft_dtype dtype);
size_t peft__dtype_block_bytes(peft_dtype dtype);
bool peft__dtype_is_float(peft_dtype dtype); /* readable by peft__dequantize: F32 F16 BF16 F64 and all Q types */
/* Bytes of a row of `cols` elements; false when cols is not a whole number of blocks or on overflow. */
bool peft__dtype_row_bytes(peft_dtype dtype, int64_t cols, size_t *out_bytes);
int64_t peft__tensor_elements(const peft__tensor *tensor);
/* Product of a shape; false when a dimension is negative, there are too many, or the product overflows. */
bool peft__shape_elements(uint32_t ndim, const int64_t *shape, int64_t *out_count);
/* Bytes of a whole tensor: rows of the last dimension. A tensor without dimensions has one element. */
bool peft__dtype_tensor_bytes(peft_dtype dtype, uint32_t ndim, const int64_t *shape, size_t *out_bytes);
/* "[2, 3]"; cut when there is no room. Returns `buffer`. */
const char *peft__shape_text(char *buffer, size_t size, uint32_t ndim, const int64_t *shape);

/* Reference conversions (plain C). `count` elements starting at a block boundary; the last block of a row may not be
 * cut: count is a multiple of the block size. Quantisers follow the reference quantiser of ggml bit for bit. */
void peft__dequantize(peft_dtype dtype, const void *blocks, int64_t count, float *out);
peft_status peft__quantize(peft_context *ctx, peft_dtype dtype, const float *values, int64_t count, void *out_blocks);

/* The checks that come before use: PEFT_E_UNSUPPORTED names tensor, file and type when it is not a float type. */
peft_status peft__tensor_check_float(peft_context *ctx, const peft__tensor *tensor);
/* PEFT_E_MISMATCH with both shapes unless the shape is this one. */
peft_status peft__tensor_check_shape(peft_context *ctx, const peft__tensor *tensor, uint32_t ndim,
                                     const int64_t *shape);
/* All elements as numbers, with the checks. Integer types widen (U8, BOOL too); floats are refused by the second. */
peft_status peft__tensor_read_f32(peft_context *ctx, const peft__tensor *tensor, float *out);
peft_status peft__tensor_read_i64(peft_context *ctx, const peft__tensor *tensor, int64_t *out);

/* What a writer is told of one tensor. `data` holds the bytes, or is NULL and `emit` puts exactly the bytes of the
 * shape into the writer, piece by piece, so that a model never lies in memory twice. */
typedef struct peft__tensor_out peft__tensor_out;
struct peft__tensor_out {
    const char *name;
    peft_dtype dtype;
    uint32_t ndim;
    int64_t shape[PEFT_MAX_DIMS];
    const void *data;
    peft_status (*emit)(void *user, const peft__tensor_out *tensor, peft__writer *writer);
    void *user;
};

#endif
