/* tensors.h: an ordered collection of stored tensors, whatever it was read from.
 *
 * One safetensors file, the shards of a checkpoint folder and a GGUF file all end up in this one shape, so that
 * whoever loads a model does not care. The collection holds its sources: the bytes of a tensor stay mapped as long
 * as someone holds a reference.
 */
#ifndef PEFT_FORMAT_TENSORS_H
#define PEFT_FORMAT_TENSORS_H

#include "format/tensor.h"

typedef struct peft__tensors peft__tensors;

/* ---- reading ---- */

size_t peft__tensors_count(const peft__tensors *tensors);
/* In file order (safetensors: by data offset; shards one after another, sorted by file name). NULL out of range. */
const peft__tensor *peft__tensors_at(const peft__tensors *tensors, size_t index);
const peft__tensor *peft__tensors_find(const peft__tensors *tensors, const char *name); /* NULL when there is none */
/* As find, but the absence is PEFT_E_MISMATCH with the closest name. */
peft_status peft__tensors_need(peft_context *ctx, const peft__tensors *tensors, const char *name,
                               const peft__tensor **out_tensor);
/* Value of `key` in safetensors `__metadata__` (first shard that has it); NULL when absent. */
const char *peft__tensors_metadata(const peft__tensors *tensors, const char *key);
/* File or folder, for error texts. */
const char *peft__tensors_name(const peft__tensors *tensors);
/* Tells the system that the mapped pages of this tensor are not needed at present. */
void peft__tensors_drop(const peft__tensors *tensors, const peft__tensor *tensor);

peft__tensors *peft__tensors_ref(peft__tensors *tensors);
void peft__tensors_unref(peft__tensors *tensors); /* NULL is allowed */

/* ---- for readers that fill one ---- */

peft_status peft__tensors_create(peft_context *ctx, const char *name, peft__tensors **out_tensors);
/* Takes a reference on the source (NULL is allowed) and returns, through out_file, the text for peft__tensor.file. */
peft_status peft__tensors_add_source(peft__tensors *tensors, peft__source *source, const char **out_file);
/* Copies the record, its name and type name; file must come from add_source.
 * PEFT_E_FORMAT when the name is there already. */
peft_status peft__tensors_add(peft__tensors *tensors, const peft__tensor *tensor);
peft_status peft__tensors_add_metadata(peft__tensors *tensors, const char *key,
                                       const char *value); /* first one stays */

#endif
