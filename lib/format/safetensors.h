/* safetensors.h: reading and writing safetensors files and sharded checkpoints.
 *
 * The reader applies every rule of the reference implementation (no holes, no overlaps, exact size) plus those that
 * its host language gives it for free (duplicate names, NUL bytes). The writer's bytes equal those of the reference.
 */
#ifndef PEFT_FORMAT_SAFETENSORS_H
#define PEFT_FORMAT_SAFETENSORS_H

#include "format/tensors.h"

enum {
    PEFT__SAFETENSORS_LENIENT_TRAILING = 1u /* bytes after the last tensor are accepted (seen in published files) */
};

/* Adds the tensors and metadata of one file to a collection. `source` is referenced, not consumed. On failure the
 * collection may hold some of them and is only good for unref. */
peft_status peft__safetensors_read(peft__tensors *tensors, peft__source *source, uint32_t flags);
/* One file. */
peft_status peft__safetensors_open(peft_context *ctx, const char *path, peft__tensors **out_tensors);
peft_status peft__safetensors_open_source(peft_context *ctx, peft__source *source, uint32_t flags,
                                          peft__tensors **out_tensors);
/* For fuzzing and for bytes in memory; the bytes are borrowed and must outlive the collection. */
peft_status peft__safetensors_open_memory(peft_context *ctx, const char *name, const void *data, size_t size,
                                          peft__tensors **out_tensors);
/* A model folder: model.safetensors, else model.safetensors.index.json with its shards, else the only *.safetensors.
 * Folders that have only pytorch_model.bin get an error that says what to do. */
peft_status peft__tensors_open_folder(peft_context *ctx, const char *folder, peft__tensors **out_tensors);
/* The shards named by an index file; they lie beside it. */
peft_status peft__safetensors_open_index(peft_context *ctx, const char *index_path, peft__tensors **out_tensors);

/* Writes all tensors, in the reference writer's order whatever the order given, atomically. `metadata` holds
 * metadata_count pairs key, value and may be NULL; "format": "pt" is always added. */
peft_status peft__safetensors_write(peft_context *ctx, const char *path, const peft__tensor_out *tensors, size_t count,
                                    const char *const *metadata, size_t metadata_count);

#endif
