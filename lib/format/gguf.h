/* gguf.h: reading GGUF version 2 and 3, writing version 3.
 *
 * Writers disagree on the integer type of counts, so the getters take any integer type and check the range. Text is
 * handed out with a length: token texts may hold any bytes.
 */
#ifndef PEFT_FORMAT_GGUF_H
#define PEFT_FORMAT_GGUF_H

#include "format/tensors.h"

typedef struct peft__gguf peft__gguf;

typedef struct peft__text {
    const char *data; /* not NUL-terminated, points into the file */
    size_t length;
} peft__text;

/* `source` is referenced. Split files are refused by name. */
peft_status peft__gguf_open_source(peft_context *ctx, peft__source *source, peft__gguf **out_gguf);
peft_status peft__gguf_open(peft_context *ctx, const char *path, peft__gguf **out_gguf);
/* The bytes are borrowed and must outlive the object. */
peft_status peft__gguf_open_memory(peft_context *ctx, const char *name, const void *data, size_t size,
                                   peft__gguf **out_gguf);
void peft__gguf_free(peft__gguf *gguf);                /* NULL is allowed; strings and arrays handed out end here */
bool peft__gguf_detect(const void *data, size_t size); /* does it begin with the magic? */

/* Borrowed; take a reference to keep it longer than the gguf object. Shapes are in torch order (outermost first). */
peft__tensors *peft__gguf_tensors(const peft__gguf *gguf);

/* ---- metadata ----
 * get: `fallback` when the key is absent. need: absence is PEFT_E_FORMAT. A wrong type or a value outside min..max is
 * PEFT_E_FORMAT with file, key, and what was found. */

size_t peft__gguf_key_count(const peft__gguf *gguf);
const char *peft__gguf_key_at(const peft__gguf *gguf, size_t index); /* NULL out of range */
bool peft__gguf_has(const peft__gguf *gguf, const char *key);
peft_status peft__gguf_get_int(const peft__gguf *gguf, const char *key, int64_t min, int64_t max, int64_t fallback,
                               int64_t *out);
peft_status peft__gguf_need_int(const peft__gguf *gguf, const char *key, int64_t min, int64_t max, int64_t *out);
/* As get_int, but an array whose elements are all the same also counts (per-layer head counts). */
peft_status peft__gguf_get_uniform_int(const peft__gguf *gguf, const char *key, int64_t min, int64_t max,
                                       int64_t fallback, int64_t *out);
/* Any number type; must be finite. */
peft_status peft__gguf_get_float(const peft__gguf *gguf, const char *key, double fallback, double *out);
peft_status peft__gguf_need_float(const peft__gguf *gguf, const char *key, double *out);
peft_status peft__gguf_get_bool(const peft__gguf *gguf, const char *key, bool fallback, bool *out);
/* NUL-terminated, owned by the gguf object; valid UTF-8 without NUL bytes is checked. */
peft_status peft__gguf_get_string(const peft__gguf *gguf, const char *key, const char *fallback, const char **out);
peft_status peft__gguf_need_string(const peft__gguf *gguf, const char *key, const char **out);
/* Arrays, made on the first call and owned by the gguf object. Absent: *out NULL, *out_count 0 and PEFT_OK. */
peft_status peft__gguf_get_strings(peft__gguf *gguf, const char *key, const peft__text **out, size_t *out_count);
peft_status peft__gguf_get_f32s(peft__gguf *gguf, const char *key, const float **out, size_t *out_count);
peft_status peft__gguf_get_i32s(peft__gguf *gguf, const char *key, const int32_t **out, size_t *out_count);

/* ---- writing ---- */

/* Key-value pairs in their stored form, in the order put. Running out of memory shows when writing. */
typedef struct peft__gguf_metadata {
    peft__buffer bytes;
    uint64_t count;
} peft__gguf_metadata;

void peft__gguf_metadata_init(peft__gguf_metadata *metadata, peft__mem *mem);
void peft__gguf_metadata_free(peft__gguf_metadata *metadata);
void peft__gguf_put_u32(peft__gguf_metadata *metadata, const char *key, uint32_t value);
void peft__gguf_put_i32(peft__gguf_metadata *metadata, const char *key, int32_t value);
void peft__gguf_put_u64(peft__gguf_metadata *metadata, const char *key, uint64_t value);
void peft__gguf_put_f32(peft__gguf_metadata *metadata, const char *key, float value);
void peft__gguf_put_bool(peft__gguf_metadata *metadata, const char *key, bool value);
void peft__gguf_put_string(peft__gguf_metadata *metadata, const char *key, const char *value);
void peft__gguf_put_strings(peft__gguf_metadata *metadata, const char *key, const peft__text *values, size_t count);
void peft__gguf_put_f32s(peft__gguf_metadata *metadata, const char *key, const float *values, size_t count);
void peft__gguf_put_i32s(peft__gguf_metadata *metadata, const char *key, const int32_t *values, size_t count);
/* Copies one pair of a file as it is; false when it is not there. */
bool peft__gguf_put_copy(peft__gguf_metadata *metadata, const peft__gguf *from, const char *key);

/* Writes version 3 with alignment 32, tensors in the order given, atomically. Shapes are in torch order. */
peft_status peft__gguf_write(peft_context *ctx, const char *path, const peft__gguf_metadata *metadata,
                             const peft__tensor_out *tensors, size_t count);

#endif
