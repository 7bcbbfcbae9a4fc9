/* safetensors_write.c: files with the bytes of the reference writer.
 *
 * It sorts by type, widest first, then by name: that keeps every tensor aligned to its element without padding. */
#include <stdio.h>
#include <stdlib.h>

#include "format/emit.h"
#include "format/json.h"
#include "format/safetensors.h"

/* Position in the reference's list of types; larger comes first in a file. -1: not a type of safetensors. */
static int type_order(peft_dtype dtype) {
    static const int8_t ORDER[] = {
        [PEFT_DTYPE_BOOL] = 1, [PEFT_DTYPE_U8] = 2,  [PEFT_DTYPE_I8] = 3,  [PEFT_DTYPE_I16] = 4, [PEFT_DTYPE_F16] = 5,
        [PEFT_DTYPE_BF16] = 6, [PEFT_DTYPE_I32] = 7, [PEFT_DTYPE_F32] = 8, [PEFT_DTYPE_F64] = 9, [PEFT_DTYPE_I64] = 10,
    };
    return dtype >= 0 && dtype < (peft_dtype)PEFT_COUNT(ORDER) ? ORDER[dtype] - 1 : -1;
}

static int compare_tensors(const void *a, const void *b) {
    const peft__tensor_out *x = *(const peft__tensor_out *const *)a, *y = *(const peft__tensor_out *const *)b;
    const int by_type = type_order(y->dtype) - type_order(x->dtype);
    return by_type != 0 ? by_type : strcmp(x->name, y->name);
}

typedef struct metadata_pair {
    const char *key, *value;
} metadata_pair;

static int compare_pairs(const void *a, const void *b) {
    return strcmp(((const metadata_pair *)a)->key, ((const metadata_pair *)b)->key);
}

static peft_status put_metadata(peft_context *ctx, peft__buffer *out, const char *const *metadata, size_t count) {
    metadata_pair *pairs = peft__alloc(ctx->mem, (count + 1) * sizeof *pairs);
    if (pairs == NULL) return peft__fail_nomem(ctx, (count + 1) * sizeof *pairs, "the metadata of a file");
    size_t used = 0;
    bool has_format = false;
    for (size_t i = 0; i < count; i++) {
        pairs[used++] = (metadata_pair){metadata[2 * i], metadata[2 * i + 1]};
        if (strcmp(metadata[2 * i], "format") == 0) has_format = true;
    }
    if (!has_format) pairs[used++] = (metadata_pair){"format", "pt"};
    qsort(pairs, used, sizeof *pairs, compare_pairs);
    peft__buffer_puts(out, "{\"__metadata__\":{");
    for (size_t i = 0; i < used; i++) {
        if (i > 0) peft__buffer_puts(out, ",");
        peft__json_put_string(out, pairs[i].key, strlen(pairs[i].key), false);
        peft__buffer_puts(out, ":");
        peft__json_put_string(out, pairs[i].value, strlen(pairs[i].value), false);
    }
    peft__buffer_puts(out, "}");
    peft__free(ctx->mem, pairs);
    return PEFT_OK;
}

static peft_status put_entry(peft_context *ctx, peft__buffer *out, const peft__tensor_out *tensor, size_t *offset) {
    size_t bytes = 0, end = 0;
    if (type_order(tensor->dtype) < 0)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "tensor %s: type %s has no place in a safetensors file",
                          tensor->name, peft_dtype_name(tensor->dtype));
    if (!peft__utf8_valid(tensor->name, strlen(tensor->name)) || strcmp(tensor->name, "__metadata__") == 0)
        return peft__fail(ctx, PEFT_E_ARG, "tensor %s: not a name for a tensor", tensor->name);
    if (!peft__dtype_tensor_bytes(tensor->dtype, tensor->ndim, tensor->shape, &bytes) ||
        !peft__add_size(*offset, bytes, &end))
        return peft__fail(ctx, PEFT_E_ARG, "tensor %s: the shape is not valid", tensor->name);
    peft__buffer_puts(out, ",");
    peft__json_put_string(out, tensor->name, strlen(tensor->name), false);
    peft__buffer_printf(out, ":{\"dtype\":\"%s\",\"shape\":[", peft_dtype_name(tensor->dtype));
    for (uint32_t i = 0; i < tensor->ndim; i++)
        peft__buffer_printf(out, "%s%lld", i > 0 ? "," : "", (long long)tensor->shape[i]);
    peft__buffer_printf(out, "],\"data_offsets\":[%zu,%zu]}", *offset, end);
    *offset = end;
    return PEFT_OK;
}

/* The sort is by type first, so equal names need not be neighbours. */
static peft_status check_names(peft_context *ctx, const peft__tensor_out *tensors, size_t count) {
    peft__table names;
    peft__table_init(&names, ctx->mem);
    peft_status status = PEFT_OK;
    for (size_t i = 0; i < count && status == PEFT_OK; i++) {
        const size_t length = strlen(tensors[i].name);
        uint64_t other = 0;
        if (peft__table_get(&names, tensors[i].name, length, &other))
            status = peft__fail(ctx, PEFT_E_ARG, "tensor %s is given twice", tensors[i].name);
        else if (!peft__table_put(&names, tensors[i].name, length, i))
            status = peft__fail_nomem(ctx, length, "the names of tensors");
    }
    peft__table_free(&names);
    return status;
}

/* Length, JSON and padding, ready to be written. */
static peft_status make_header(peft_context *ctx, peft__buffer *out, const peft__tensor_out *const *sorted,
                               size_t count, const char *const *metadata, size_t metadata_count) {
    size_t offset = 0;
    peft__buffer_put(out, "\0\0\0\0\0\0\0\0", 8);
    PEFT_TRY(put_metadata(ctx, out, metadata, metadata_count));
    for (size_t i = 0; i < count; i++) PEFT_TRY(put_entry(ctx, out, sorted[i], &offset));
    peft__buffer_puts(out, "}");
    while (!out->failed && out->length % 8 != 0) peft__buffer_puts(out, " ");
    if (out->failed) return peft__fail_nomem(ctx, out->length, "a safetensors header");
    const uint64_t length = out->length - 8;
    memcpy(out->data, &length, sizeof length);
    return PEFT_OK;
}

static peft_status write_sorted(peft_context *ctx, const char *path, const peft__tensor_out *const *sorted,
                                size_t count, const peft__buffer *header) {
    peft__writer *writer = NULL;
    PEFT_TRY(peft__writer_open(ctx, path, &writer));
    peft_status status = peft__writer_put(writer, header->data, header->length);
    for (size_t i = 0; i < count && status == PEFT_OK; i++) status = peft__emit_tensor(ctx, sorted[i], writer);
    if (status == PEFT_OK) return peft__writer_commit(writer);
    peft__writer_abort(writer);
    return status;
}

peft_status peft__safetensors_write(peft_context *ctx, const char *path, const peft__tensor_out *tensors, size_t count,
                                    const char *const *metadata, size_t metadata_count) {
    PEFT_TRY(check_names(ctx, tensors, count));
    const peft__tensor_out **sorted = peft__alloc(ctx->mem, count * sizeof *sorted);
    if (sorted == NULL) return peft__fail_nomem(ctx, count * sizeof *sorted, "the list of tensors");
    for (size_t i = 0; i < count; i++) sorted[i] = &tensors[i];
    if (count > 0) qsort(sorted, count, sizeof *sorted, compare_tensors);
    peft__buffer header;
    peft__buffer_init(&header, ctx->mem);
    peft_status status = make_header(ctx, &header, sorted, count, metadata, metadata_count);
    if (status == PEFT_OK) status = write_sorted(ctx, path, sorted, count, &header);
    peft__buffer_free(&header);
    peft__free(ctx->mem, sorted);
    return status;
}
