/* gguf_read.c: opening a GGUF file: one pass over the header with a reader that cannot leave the file.
 *
 * Every count is compared with the bytes that are left before anything is multiplied or allocated. Data must be
 * contiguous, as the reference demands; so no two tensors share bytes, and each lies inside the file. */
#include <stdio.h>

#include "format/gguf_file.h"

enum { MAX_KEY = 65535, MAX_TENSOR_NAME = 63, MAX_GGML_DIMS = 4, MIN_ALIGNMENT = 8, MAX_ALIGNMENT = 1 << 20 };
/* The least that a pair and a tensor record take. */
enum { MIN_PAIR = 8 + 1 + 4 + 1, MIN_RECORD = 8 + 1 + 4 + 4 + 8 };

typedef struct ggml_type_row {
    uint32_t id;
    const char *name;
    uint32_t block, bytes;
    peft_dtype dtype;
} ggml_type_row;

static const ggml_type_row GGML_TYPES[] = {
    {0, "F32", 1, 4, PEFT_DTYPE_F32},
    {1, "F16", 1, 2, PEFT_DTYPE_F16},
    {2, "Q4_0", 32, 18, PEFT_DTYPE_Q4_0},
    {3, "Q4_1", 32, 20, PEFT_DTYPE_Q4_1},
    {6, "Q5_0", 32, 22, PEFT_DTYPE_Q5_0},
    {7, "Q5_1", 32, 24, PEFT_DTYPE_Q5_1},
    {8, "Q8_0", 32, 34, PEFT_DTYPE_Q8_0},
    {9, "Q8_1", 32, 36, PEFT_DTYPE_OTHER},
    {10, "Q2_K", 256, 84, PEFT_DTYPE_Q2_K},
    {11, "Q3_K", 256, 110, PEFT_DTYPE_Q3_K},
    {12, "Q4_K", 256, 144, PEFT_DTYPE_Q4_K},
    {13, "Q5_K", 256, 176, PEFT_DTYPE_Q5_K},
    {14, "Q6_K", 256, 210, PEFT_DTYPE_Q6_K},
    {15, "Q8_K", 256, 292, PEFT_DTYPE_OTHER},
    {16, "IQ2_XXS", 256, 66, PEFT_DTYPE_OTHER},
    {17, "IQ2_XS", 256, 74, PEFT_DTYPE_OTHER},
    {18, "IQ3_XXS", 256, 98, PEFT_DTYPE_OTHER},
    {19, "IQ1_S", 256, 50, PEFT_DTYPE_OTHER},
    {20, "IQ4_NL", 32, 18, PEFT_DTYPE_OTHER},
    {21, "IQ3_S", 256, 110, PEFT_DTYPE_OTHER},
    {22, "IQ2_S", 256, 82, PEFT_DTYPE_OTHER},
    {23, "IQ4_XS", 256, 136, PEFT_DTYPE_OTHER},
    {24, "I8", 1, 1, PEFT_DTYPE_I8},
    {25, "I16", 1, 2, PEFT_DTYPE_I16},
    {26, "I32", 1, 4, PEFT_DTYPE_I32},
    {27, "I64", 1, 8, PEFT_DTYPE_I64},
    {28, "F64", 1, 8, PEFT_DTYPE_F64},
    {29, "IQ1_M", 256, 56, PEFT_DTYPE_OTHER},
    {30, "BF16", 1, 2, PEFT_DTYPE_BF16},
    {34, "TQ1_0", 256, 54, PEFT_DTYPE_OTHER},
    {35, "TQ2_0", 256, 66, PEFT_DTYPE_OTHER},
    {39, "MXFP4", 32, 17, PEFT_DTYPE_OTHER},
    {40, "NVFP4", 64, 36, PEFT_DTYPE_OTHER},
    {41, "Q1_0", 128, 18, PEFT_DTYPE_OTHER},
};

typedef struct reader {
    peft__gguf *gguf;
    peft_context *ctx;
    const char *file;
    const uint8_t *base;
    size_t size, at;
} reader;

/* A tensor as the header describes it, before its data are placed. */
typedef struct record {
    char name[MAX_TENSOR_NAME + 1];
    uint32_t ndim;
    int64_t ne[MAX_GGML_DIMS];
    const ggml_type_row *type;
    uint64_t offset;
    size_t bytes;
} record;

static size_t left(const reader *r) {
    return r->size - r->at;
}

static peft_status truncated(const reader *r, const char *what) {
    return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: the file ends at byte %zu inside %s (at %zu)", r->file, r->size, what,
                      r->at);
}

static peft_status take_u32(reader *r, const char *what, uint32_t *out) {
    if (left(r) < sizeof *out) return truncated(r, what);
    memcpy(out, r->base + r->at, sizeof *out);
    r->at += sizeof *out;
    return PEFT_OK;
}

static peft_status take_u64(reader *r, const char *what, uint64_t *out) {
    if (left(r) < sizeof *out) return truncated(r, what);
    memcpy(out, r->base + r->at, sizeof *out);
    r->at += sizeof *out;
    return PEFT_OK;
}

static peft_status take_string(reader *r, const char *what, peft__text *out) {
    uint64_t length = 0;
    PEFT_TRY(take_u64(r, what, &length));
    if (length > left(r))
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: %s says it has %llu bytes, %zu are left (at %zu)", r->file, what,
                          (unsigned long long)length, left(r), r->at);
    *out = (peft__text){(const char *)r->base + r->at, (size_t)length};
    r->at += (size_t)length;
    return PEFT_OK;
}

size_t peft__gguf_type_size(uint32_t type) {
    static const uint8_t SIZES[GGUF_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < GGUF_TYPES ? SIZES[type] : 0;
}

const char *peft__gguf_type_name(uint32_t type) {
    static const char *const NAMES[GGUF_TYPES] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                  "bool", "string", "array", "u64", "i64", "f64"};
    return type < GGUF_TYPES ? NAMES[type] : "of an unknown type";
}

static peft_status take_elements(reader *r, gguf_value *value) {
    value->data = r->base + r->at;
    if (value->type == GGUF_STRING) {
        if (value->count > left(r) / 8) return truncated(r, value->key);
        peft__text text = {NULL, 0};
        for (size_t i = 0; i < value->count; i++) PEFT_TRY(take_string(r, value->key, &text));
        if (value->is_array) return PEFT_OK;
        value->text = peft__arena_strndup(&r->gguf->arena, text.data, text.length);
        return value->text != NULL ? PEFT_OK : peft__fail_nomem(r->ctx, text.length, "the metadata of a file");
    }
    const size_t size = peft__gguf_type_size(value->type);
    if (size == 0)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: %s: type %u is not a type of GGUF%s", r->file, value->key,
                          (unsigned)value->type,
                          value->type == GGUF_ARRAY ? " elements (arrays of arrays are not read)" : "");
    if (value->count > left(r) / size)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: %s: %zu elements of %zu bytes, %zu bytes are left", r->file,
                          value->key, value->count, size, left(r));
    r->at += value->count * size;
    return PEFT_OK;
}

static peft_status take_pair(reader *r, gguf_value *value) {
    peft__text key = {NULL, 0};
    value->start = r->base + r->at;
    const size_t start = r->at;
    PEFT_TRY(take_string(r, "a key", &key));
    if (key.length == 0 || key.length > MAX_KEY || memchr(key.data, 0, key.length) != NULL ||
        !peft__utf8_valid(key.data, key.length))
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: the key at byte %zu is not a text of 1 to %d bytes", r->file,
                          start, MAX_KEY);
    value->key = peft__arena_strndup(&r->gguf->arena, key.data, key.length);
    if (value->key == NULL) return peft__fail_nomem(r->ctx, key.length, "the metadata of a file");
    PEFT_TRY(take_u32(r, value->key, &value->type));
    value->count = 1;
    if (value->type == GGUF_ARRAY) {
        uint64_t count = 0;
        PEFT_TRY(take_u32(r, value->key, &value->type));
        PEFT_TRY(take_u64(r, value->key, &count));
        value->is_array = true;
        if (count > left(r)) return truncated(r, value->key);
        value->count = (size_t)count;
    }
    PEFT_TRY(take_elements(r, value));
    value->stored = r->at - start;
    return PEFT_OK;
}

static peft_status take_pairs(reader *r, uint64_t count) {
    peft__gguf *gguf = r->gguf;
    if (count > left(r) / MIN_PAIR)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: %llu keys do not fit into %zu bytes", r->file,
                          (unsigned long long)count, left(r));
    gguf->values = peft__arena_alloc(&gguf->arena, (size_t)count * sizeof *gguf->values);
    if (gguf->values == NULL)
        return peft__fail_nomem(r->ctx, (size_t)count * sizeof *gguf->values, "the metadata of a file");
    for (uint64_t i = 0; i < count; i++) {
        gguf_value *value = &gguf->values[i];
        uint64_t other = 0;
        PEFT_TRY(take_pair(r, value));
        if (peft__table_get(&gguf->keys, value->key, strlen(value->key), &other))
            return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: the key %s is there twice", r->file, value->key);
        if (!peft__table_put(&gguf->keys, value->key, strlen(value->key), i))
            return peft__fail_nomem(r->ctx, sizeof *value, "the metadata of a file");
        gguf->value_count++;
    }
    return PEFT_OK;
}

static peft_status take_type(reader *r, const char *name, const ggml_type_row **out) {
    uint32_t id = 0;
    PEFT_TRY(take_u32(r, "the type of a tensor", &id));
    for (size_t i = 0; i < PEFT_COUNT(GGML_TYPES); i++)
        if (GGML_TYPES[i].id == id) {
            *out = &GGML_TYPES[i];
            return PEFT_OK;
        }
    if (id == 42) /* Q2_0 */
        return peft__fail(r->ctx, PEFT_E_UNSUPPORTED, "%s: tensor %s has ggml type %u, which is too new to be read",
                          r->file, name, (unsigned)id);
    return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: tensor %s: %u is not a ggml type", r->file, name, (unsigned)id);
}

static peft_status take_record(reader *r, record *out) {
    peft__text name = {NULL, 0};
    PEFT_TRY(take_string(r, "the name of a tensor", &name));
    if (name.length == 0 || name.length > MAX_TENSOR_NAME || memchr(name.data, 0, name.length) != NULL ||
        !peft__utf8_valid(name.data, name.length))
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: a tensor name of %zu bytes that is not a text of 1 to %d bytes",
                          r->file, name.length, MAX_TENSOR_NAME);
    memcpy(out->name, name.data, name.length);
    out->name[name.length] = '\0';
    PEFT_TRY(take_u32(r, out->name, &out->ndim));
    if (out->ndim > MAX_GGML_DIMS)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: tensor %s: %u dimensions, at most %d are possible", r->file,
                          out->name, (unsigned)out->ndim, MAX_GGML_DIMS);
    for (uint32_t i = 0; i < out->ndim; i++) {
        uint64_t ne = 0;
        PEFT_TRY(take_u64(r, out->name, &ne));
        if (ne > INT64_MAX)
            return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: tensor %s: a dimension is negative", r->file, out->name);
        out->ne[i] = (int64_t)ne;
    }
    PEFT_TRY(take_type(r, out->name, &out->type));
    PEFT_TRY(take_u64(r, out->name, &out->offset));
    int64_t elements = 0;
    if (!peft__shape_elements(out->ndim, out->ne, &elements))
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: tensor %s: the number of elements overflows", r->file, out->name);
    const int64_t first = out->ndim > 0 ? out->ne[0] : 1;
    if (first % out->type->block != 0)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: tensor %s: rows of %lld elements are not whole blocks of %u (%s)",
                          r->file, out->name, (long long)first, (unsigned)out->type->block, out->type->name);
    if (!peft__mul_size((size_t)(elements / out->type->block), out->type->bytes, &out->bytes))
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: tensor %s: its size overflows", r->file, out->name);
    return PEFT_OK;
}

static bool pad_to(size_t value, size_t alignment, size_t *out) {
    size_t sum = 0;
    if (!peft__add_size(value, alignment - 1, &sum)) return false;
    *out = sum & ~(alignment - 1);
    return true;
}

static peft_status place(reader *r, const record *rec, size_t data_start, size_t alignment, size_t *running) {
    if (rec->offset != *running)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: tensor %s: data offset %llu, expected %zu", r->file, rec->name,
                          (unsigned long long)rec->offset, *running);
    size_t begin = 0, end = 0;
    if (!peft__add_size(data_start, *running, &begin) || !peft__add_size(begin, rec->bytes, &end) || end > r->size)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: tensor %s: %zu bytes at %zu, but the file has only %zu", r->file,
                          rec->name, rec->bytes, begin, r->size);
    size_t next = 0;
    if (!peft__add_size(*running, rec->bytes, &next) || !pad_to(next, alignment, running))
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: tensor %s: its size overflows", r->file, rec->name);
    peft__tensor tensor = {.name = rec->name,
                           .dtype = rec->type->dtype,
                           .ndim = rec->ndim,
                           .data = r->base + begin,
                           .bytes = rec->bytes,
                           .type_name = rec->type->name,
                           .file = r->file};
    for (uint32_t i = 0; i < rec->ndim; i++) tensor.shape[i] = rec->ne[rec->ndim - 1 - i];
    return peft__tensors_add(r->gguf->tensors, &tensor);
}

static peft_status take_tensors(reader *r, uint64_t count, size_t alignment) {
    if (count > left(r) / MIN_RECORD)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: %llu tensors do not fit into %zu bytes", r->file,
                          (unsigned long long)count, left(r));
    const size_t size = (size_t)count * sizeof(record);
    record *records = peft__alloc_zero(r->ctx->mem, size);
    if (records == NULL) return peft__fail_nomem(r->ctx, size, "the records of tensors");
    peft_status status = PEFT_OK;
    for (uint64_t i = 0; i < count && status == PEFT_OK; i++) status = take_record(r, &records[i]);
    size_t data_start = 0, running = 0;
    if (status == PEFT_OK && !pad_to(r->at, alignment, &data_start)) status = truncated(r, "the padding");
    for (uint64_t i = 0; i < count && status == PEFT_OK; i++)
        status = place(r, &records[i], data_start, alignment, &running);
    peft__free(r->ctx->mem, records);
    return status;
}

static peft_status check_split(const peft__gguf *gguf) {
    int64_t count = 0, number = 0;
    PEFT_TRY(peft__gguf_get_int(gguf, "split.count", 0, 65535, 0, &count));
    PEFT_TRY(peft__gguf_get_int(gguf, "split.no", 0, 65535, 0, &number));
    if (count <= 1) return PEFT_OK;
    return peft__fail(gguf->ctx, PEFT_E_UNSUPPORTED,
                      "%s: part %lld of a model split into %lld files; join them with llama-gguf-split --merge",
                      gguf->file, (long long)number + 1, (long long)count);
}

static peft_status find_alignment(const peft__gguf *gguf, size_t *out) {
    int64_t alignment = 32;
    PEFT_TRY(peft__gguf_get_int(gguf, "general.alignment", MIN_ALIGNMENT, MAX_ALIGNMENT, 32, &alignment));
    if ((alignment & (alignment - 1)) != 0)
        return peft__fail(gguf->ctx, PEFT_E_FORMAT, "%s: general.alignment: expected a power of two, found %lld",
                          gguf->file, (long long)alignment);
    *out = (size_t)alignment;
    return PEFT_OK;
}

static peft_status read_file(reader *r) {
    uint32_t version = 0;
    uint64_t tensors = 0, pairs = 0;
    size_t alignment = 0;
    if (!peft__gguf_detect(r->base, r->size)) return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: not a GGUF file", r->file);
    r->at = 4;
    PEFT_TRY(take_u32(r, "the version", &version));
    if ((version & 0xffffu) == 0)
        return peft__fail(r->ctx, PEFT_E_UNSUPPORTED, "%s: a GGUF file in big-endian byte order", r->file);
    if (version != 2 && version != 3)
        return peft__fail(r->ctx, PEFT_E_UNSUPPORTED, "%s: GGUF version %u; versions 2 and 3 are read", r->file,
                          (unsigned)version);
    PEFT_TRY(take_u64(r, "the number of tensors", &tensors));
    PEFT_TRY(take_u64(r, "the number of keys", &pairs));
    PEFT_TRY(take_pairs(r, pairs));
    PEFT_TRY(check_split(r->gguf));
    PEFT_TRY(find_alignment(r->gguf, &alignment));
    return take_tensors(r, tensors, alignment);
}

bool peft__gguf_detect(const void *data, size_t size) {
    return size >= 4 && memcmp(data, "GGUF", 4) == 0;
}

peft_status peft__gguf_open_source(peft_context *ctx, peft__source *source, peft__gguf **out_gguf) {
    peft__gguf *gguf = peft__alloc_zero(ctx->mem, sizeof *gguf);
    if (gguf == NULL) return peft__fail_nomem(ctx, sizeof *gguf, "a GGUF file");
    gguf->ctx = peft__context_ref(ctx);
    peft__arena_init(&gguf->arena, ctx->mem);
    peft__table_init(&gguf->keys, ctx->mem);
    reader r = {.gguf = gguf, .ctx = ctx, .base = source->data, .size = source->size};
    peft_status status = peft__tensors_create(ctx, source->name != NULL ? source->name : "memory", &gguf->tensors);
    if (status == PEFT_OK) status = peft__tensors_add_source(gguf->tensors, source, &r.file);
    gguf->file = r.file;
    if (status == PEFT_OK) status = read_file(&r);
    if (status != PEFT_OK) {
        peft__gguf_free(gguf);
        return status;
    }
    *out_gguf = gguf;
    return PEFT_OK;
}

peft_status peft__gguf_open(peft_context *ctx, const char *path, peft__gguf **out_gguf) {
    peft__source *source = NULL;
    PEFT_TRY(peft__source_open_path(ctx, path, &source));
    const peft_status status = peft__gguf_open_source(ctx, source, out_gguf);
    peft__source_unref(source);
    return status;
}

peft_status peft__gguf_open_memory(peft_context *ctx, const char *name, const void *data, size_t size,
                                   peft__gguf **out_gguf) {
    peft__source *source = NULL;
    PEFT_TRY(peft__source_open_memory(ctx, data, size, name, &source));
    const peft_status status = peft__gguf_open_source(ctx, source, out_gguf);
    peft__source_unref(source);
    return status;
}

void peft__gguf_free(peft__gguf *gguf) {
    if (gguf == NULL) return;
    peft_context *ctx = gguf->ctx;
    peft__tensors_unref(gguf->tensors);
    peft__table_free(&gguf->keys);
    peft__arena_free(&gguf->arena);
    peft__free(ctx->mem, gguf);
    peft__context_unref(ctx);
}

peft__tensors *peft__gguf_tensors(const peft__gguf *gguf) {
    return gguf->tensors;
}
