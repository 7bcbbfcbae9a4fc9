/** \file peft/tensor_file.h
 *  Tensor files by themselves: safetensors files, folders of them and GGUF files, without a model.
 */
#ifndef PEFT_TENSOR_FILE_H
#define PEFT_TENSOR_FILE_H

#include "peft/context.h"
#include "peft/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct peft_tensor_file peft_tensor_file;

/** Opens a .safetensors file, a folder with model.safetensors (or its shards and index), or a .gguf file; which one is decided by its content. Nothing
 *  is copied: the tensors are views of the mapped file. Errors: PEFT_E_IO, PEFT_E_FORMAT, PEFT_E_UNSUPPORTED, PEFT_E_NOMEM. */
PEFT_API PEFT_NODISCARD peft_status peft_tensor_file_open(peft_context *context, const char *path, peft_tensor_file **out_file);
PEFT_API void peft_tensor_file_close(peft_tensor_file *file);

/** Tensors in the order of the file. `out_info->struct_size` must be set; the name and the bytes are owned by the file. Shapes of GGUF files are given
 *  outermost first, as torch prints them. */
PEFT_API uint32_t peft_tensor_file_count(const peft_tensor_file *file);
PEFT_API PEFT_NODISCARD peft_status peft_tensor_file_tensor(const peft_tensor_file *file, uint32_t index, peft_tensor_info *out_info);

/** Keys of a GGUF file, and the value of one that is a text; of a safetensors file the value of a key of __metadata__ (its keys cannot be listed).
 *  NULL when there is none. Owned by the file. */
PEFT_API uint32_t peft_tensor_file_key_count(const peft_tensor_file *file);
PEFT_API const char *peft_tensor_file_key(const peft_tensor_file *file, uint32_t index);
PEFT_API const char *peft_tensor_file_text(const peft_tensor_file *file, const char *key);

/** All elements of one tensor as float. `count` is the product of its shape. */
PEFT_API PEFT_NODISCARD peft_status peft_tensor_file_read(const peft_tensor_file *file, uint32_t index, float *out_values, int64_t count);

#ifdef __cplusplus
}
#endif
#endif
