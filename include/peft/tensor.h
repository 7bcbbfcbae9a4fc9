/** \file peft/tensor.h
 *  Element types and views of tensors.
 */
#ifndef PEFT_TENSOR_H
#define PEFT_TENSOR_H

#include <stdint.h>

#include "peft/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Element types as they are stored in files. Compute is always PEFT_DTYPE_F32. Values are frozen. */
typedef int32_t peft_dtype;
enum {
    PEFT_DTYPE_F32 = 0,
    PEFT_DTYPE_F16 = 1,
    PEFT_DTYPE_BF16 = 2,
    PEFT_DTYPE_Q8_0 = 3, /**< blocks of 32 along a row, see docs/formats.md */
    PEFT_DTYPE_Q4_0 = 4,
    PEFT_DTYPE_Q4_1 = 5,
    PEFT_DTYPE_Q5_0 = 6,
    PEFT_DTYPE_Q5_1 = 7,
    PEFT_DTYPE_Q2_K = 8, /**< blocks of 256 along a row */
    PEFT_DTYPE_Q3_K = 9,
    PEFT_DTYPE_Q4_K = 10,
    PEFT_DTYPE_Q5_K = 11,
    PEFT_DTYPE_Q6_K = 12,
    PEFT_DTYPE_F64 = 13,
    PEFT_DTYPE_I64 = 14,
    PEFT_DTYPE_I32 = 15,
    PEFT_DTYPE_I16 = 16,
    PEFT_DTYPE_I8 = 17,
    PEFT_DTYPE_U8 = 18,
    PEFT_DTYPE_BOOL = 19,
    PEFT_DTYPE_OTHER = 20 /**< known width, not readable as numbers here */
};

/** Name as in safetensors or GGUF files, for example "F32" or "Q4_1"; "?" for an unknown value. */
PEFT_API const char *peft_dtype_name(peft_dtype dtype);

enum { PEFT_MAX_DIMS = 8 };

/** What is known of one tensor. `name` and the view are borrowed from the object that was asked. */
typedef struct peft_tensor_info {
    uint32_t struct_size;
    int32_t dtype;
    uint32_t ndim;
    uint32_t trainable;
    int64_t shape[PEFT_MAX_DIMS]; /**< outermost first, as torch prints it */
    uint64_t bytes;
    const char *name;
    const void *data; /**< stored bytes, read-only; NULL where there are none */
} peft_tensor_info;

#ifdef __cplusplus
}
#endif
#endif
