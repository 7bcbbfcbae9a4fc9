/* gguf_write.c: GGUF version 3. Header and records are made in memory, tensor data go to the file as they come. */
#include "format/emit.h"
#include "format/gguf_file.h"

enum { ALIGNMENT = 32 };

void peft__gguf_metadata_init(peft__gguf_metadata *metadata, peft__mem *mem) {
    peft__buffer_init(&metadata->bytes, mem);
    metadata->count = 0;
}

void peft__gguf_metadata_free(peft__gguf_metadata *metadata) {
    peft__buffer_free(&metadata->bytes);
}

static void put_u32(peft__buffer *out, uint32_t value) {
    peft__buffer_put(out, &value, sizeof value);
}
static void put_u64(peft__buffer *out, uint64_t value) {
    peft__buffer_put(out, &value, sizeof value);
}

static void put_text(peft__buffer *out, const char *text, size_t length) {
    put_u64(out, length);
    peft__buffer_put(out, text, length);
}

static void put_key(peft__gguf_metadata *metadata, const char *key, uint32_t type) {
    put_text(&metadata->bytes, key, strlen(key));
    put_u32(&metadata->bytes, type);
    metadata->count++;
}

static void put_scalar(peft__gguf_metadata *metadata, const char *key, uint32_t type, const void *value) {
    put_key(metadata, key, type);
    peft__buffer_put(&metadata->bytes, value, peft__gguf_type_size(type));
}

static void put_array(peft__gguf_metadata *metadata, const char *key, uint32_t type, size_t count) {
    put_key(metadata, key, GGUF_ARRAY);
    put_u32(&metadata->bytes, type);
    put_u64(&metadata->bytes, count);
}

void peft__gguf_put_u32(peft__gguf_metadata *metadata, const char *key, uint32_t value) {
    put_scalar(metadata, key, GGUF_U32, &value);
}

void peft__gguf_put_i32(peft__gguf_metadata *metadata, const char *key, int32_t value) {
    put_scalar(metadata, key, GGUF_I32, &value);
}

void peft__gguf_put_u64(peft__gguf_metadata *metadata, const char *key, uint64_t value) {
    put_scalar(metadata, key, GGUF_U64, &value);
}

void peft__gguf_put_f32(peft__gguf_metadata *metadata, const char *key, float value) {
    put_scalar(metadata, key, GGUF_F32, &value);
}

void peft__gguf_put_bool(peft__gguf_metadata *metadata, const char *key, bool value) {
    const uint8_t byte = value ? 1 : 0;
    put_scalar(metadata, key, GGUF_BOOL, &byte);
}

void peft__gguf_put_string(peft__gguf_metadata *metadata, const char *key, const char *value) {
    put_key(metadata, key, GGUF_STRING);
    put_text(&metadata->bytes, value, strlen(value));
}

void peft__gguf_put_strings(peft__gguf_metadata *metadata, const char *key, const peft__text *values, size_t count) {
    put_array(metadata, key, GGUF_STRING, count);
    for (size_t i = 0; i < count; i++) put_text(&metadata->bytes, values[i].data, values[i].length);
}

void peft__gguf_put_f32s(peft__gguf_metadata *metadata, const char *key, const float *values, size_t count) {
    put_array(metadata, key, GGUF_F32, count);
    if (count > 0) peft__buffer_put(&metadata->bytes, values, count * sizeof *values);
}

void peft__gguf_put_i32s(peft__gguf_metadata *metadata, const char *key, const int32_t *values, size_t count) {
    put_array(metadata, key, GGUF_I32, count);
    if (count > 0) peft__buffer_put(&metadata->bytes, values, count * sizeof *values);
}

bool peft__gguf_put_copy(peft__gguf_metadata *metadata, const peft__gguf *from, const char *key) {
    const gguf_value *value = peft__gguf_find(from, key);
    if (value == NULL) return false;
    peft__buffer_put(&metadata->bytes, value->start, value->stored);
    metadata->count++;
    return true;
}

/* ggml's number of a type; -1 where it has none. */
static int32_t ggml_type(peft_dtype dtype) {
    switch (dtype) {
    case PEFT_DTYPE_F32:
        return 0;
    case PEFT_DTYPE_F16:
        return 1;
    case PEFT_DTYPE_Q4_0:
        return 2;
    case PEFT_DTYPE_Q4_1:
        return 3;
    case PEFT_DTYPE_Q5_0:
        return 6;
    case PEFT_DTYPE_Q5_1:
        return 7;
    case PEFT_DTYPE_Q8_0:
        return 8;
    case PEFT_DTYPE_Q2_K:
        return 10;
    case PEFT_DTYPE_Q3_K:
        return 11;
    case PEFT_DTYPE_Q4_K:
        return 12;
    case PEFT_DTYPE_Q5_K:
        return 13;
    case PEFT_DTYPE_Q6_K:
        return 14;
    case PEFT_DTYPE_I8:
        return 24;
    case PEFT_DTYPE_I16:
        return 25;
    case PEFT_DTYPE_I32:
        return 26;
    case PEFT_DTYPE_I64:
        return 27;
    case PEFT_DTYPE_F64:
        return 28;
    case PEFT_DTYPE_BF16:
        return 30;
    default:
        return -1;
    }
}

static peft_status put_record(peft_context *ctx, peft__buffer *out, const peft__tensor_out *tensor, size_t *offset) {
    const int32_t type = ggml_type(tensor->dtype);
    const size_t length = strlen(tensor->name);
    size_t bytes = 0, end = 0;
    if (length == 0 || length > 63)
        return peft__fail(ctx, PEFT_E_ARG, "tensor %s: GGUF names have 1 to 63 bytes, this one has %zu", tensor->name,
                          length);
    if (type < 0)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "tensor %s: type %s has no place in a GGUF file", tensor->name,
                          peft_dtype_name(tensor->dtype));
    if (tensor->ndim > 4)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "tensor %s: GGUF holds at most 4 dimensions, this one has %u",
                          tensor->name, (unsigned)tensor->ndim);
    if (!peft__dtype_tensor_bytes(tensor->dtype, tensor->ndim, tensor->shape, &bytes) ||
        !peft__add_size(*offset, bytes, &end) || !peft__add_size(end, ALIGNMENT - 1, &end)) {
        char shape[96];
        return peft__fail(ctx, PEFT_E_ARG, "tensor %s: the shape %s cannot be stored as %s", tensor->name,
                          peft__shape_text(shape, sizeof shape, tensor->ndim, tensor->shape),
                          peft_dtype_name(tensor->dtype));
    }
    put_text(out, tensor->name, length);
    put_u32(out, tensor->ndim);
    for (uint32_t i = 0; i < tensor->ndim; i++) put_u64(out, (uint64_t)tensor->shape[tensor->ndim - 1 - i]);
    put_u32(out, (uint32_t)type);
    put_u64(out, *offset);
    *offset = end & ~(size_t)(ALIGNMENT - 1);
    return PEFT_OK;
}

static peft_status make_header(peft_context *ctx, peft__buffer *out, const peft__gguf_metadata *metadata,
                               const peft__tensor_out *tensors, size_t count) {
    peft__table names;
    peft__table_init(&names, ctx->mem);
    peft__buffer_put(out, "GGUF", 4);
    put_u32(out, 3);
    put_u64(out, count);
    put_u64(out, metadata->count);
    if (metadata->bytes.length > 0) peft__buffer_put(out, metadata->bytes.data, metadata->bytes.length);
    size_t offset = 0;
    peft_status status = PEFT_OK;
    for (size_t i = 0; i < count && status == PEFT_OK; i++) {
        uint64_t other = 0;
        const size_t length = strlen(tensors[i].name);
        status = put_record(ctx, out, &tensors[i], &offset);
        if (status != PEFT_OK) break;
        if (peft__table_get(&names, tensors[i].name, length, &other))
            status = peft__fail(ctx, PEFT_E_ARG, "tensor %s is given twice", tensors[i].name);
        else if (!peft__table_put(&names, tensors[i].name, length, i))
            status = peft__fail_nomem(ctx, length, "the names of tensors");
    }
    peft__table_free(&names);
    if (status == PEFT_OK && (out->failed || metadata->bytes.failed))
        status = peft__fail_nomem(ctx, out->length + metadata->bytes.length, "a GGUF header");
    return status;
}

static peft_status put_padding(peft__writer *writer) {
    static const uint8_t ZEROS[ALIGNMENT];
    const size_t over = (size_t)(peft__writer_offset(writer) % ALIGNMENT);
    return over == 0 ? PEFT_OK : peft__writer_put(writer, ZEROS, ALIGNMENT - over);
}

peft_status peft__gguf_write(peft_context *ctx, const char *path, const peft__gguf_metadata *metadata,
                             const peft__tensor_out *tensors, size_t count) {
    peft__buffer header;
    peft__writer *writer = NULL;
    peft__buffer_init(&header, ctx->mem);
    peft_status status = make_header(ctx, &header, metadata, tensors, count);
    if (status == PEFT_OK) status = peft__writer_open(ctx, path, &writer);
    if (status == PEFT_OK) status = peft__writer_put(writer, header.data, header.length);
    if (status == PEFT_OK) status = put_padding(writer);
    for (size_t i = 0; i < count && status == PEFT_OK; i++) {
        status = peft__emit_tensor(ctx, &tensors[i], writer);
        if (status == PEFT_OK) status = put_padding(writer);
    }
    peft__buffer_free(&header);
    if (status == PEFT_OK) return peft__writer_commit(writer);
    peft__writer_abort(writer);
    return status;
}
