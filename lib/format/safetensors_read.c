/* safetensors_read.c: one safetensors file. The order of the checks: header length, JSON with its limits, every entry
 * by itself, then all entries sorted by offset, which proves that the data are covered exactly once. */
#include <stdlib.h>

#include "format/json.h"
#include "format/safetensors.h"

enum { MAX_HEADER = 100000000, MAX_NAME = 4096, MAX_TENSORS = 1000000, HEADER_DEPTH = 8 };

typedef struct type_row {
    const char *name;
    uint32_t bits;
    peft_dtype dtype;
} type_row;

static const type_row TYPES[] = {
    {"F32", 32, PEFT_DTYPE_F32},          {"F16", 16, PEFT_DTYPE_F16},      {"BF16", 16, PEFT_DTYPE_BF16},
    {"F64", 64, PEFT_DTYPE_F64},          {"I64", 64, PEFT_DTYPE_I64},      {"I32", 32, PEFT_DTYPE_I32},
    {"I16", 16, PEFT_DTYPE_I16},          {"I8", 8, PEFT_DTYPE_I8},         {"U8", 8, PEFT_DTYPE_U8},
    {"BOOL", 8, PEFT_DTYPE_BOOL},         {"F8_E4M3", 8, PEFT_DTYPE_OTHER}, {"F8_E5M2", 8, PEFT_DTYPE_OTHER},
    {"F8_E8M0", 8, PEFT_DTYPE_OTHER},     {"U16", 16, PEFT_DTYPE_OTHER},    {"U32", 32, PEFT_DTYPE_OTHER},
    {"U64", 64, PEFT_DTYPE_OTHER},        {"C64", 64, PEFT_DTYPE_OTHER},    {"F4", 4, PEFT_DTYPE_OTHER},
    {"F6_E2M3", 6, PEFT_DTYPE_OTHER},     {"F6_E3M2", 6, PEFT_DTYPE_OTHER}, {"F8_E4M3FNUZ", 8, PEFT_DTYPE_OTHER},
    {"F8_E5M2FNUZ", 8, PEFT_DTYPE_OTHER},
};

/* One entry of the header while its offsets are checked. */
typedef struct entry {
    peft__tensor tensor;
    size_t begin, end;
} entry;

typedef struct reader {
    peft__tensors *tensors;
    peft_context *ctx;
    const char *file;
    const uint8_t *data; /* the data buffer, behind the header */
    size_t size;
    entry *entries;
    size_t count;
    uint32_t flags;
} reader;

static peft_status bad(const reader *r, const char *name, const char *what) {
    return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: tensor %s: %s", r->file, name, what);
}

static bool as_size(const json_t *value, size_t *out) {
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *out = (size_t)json_integer_value(value);
    return true;
}

static peft_status read_shape(const reader *r, const char *name, const json_t *shape, peft__tensor *tensor) {
    const size_t ndim = json_array_size(shape);
    if (!json_is_array(shape)) return bad(r, name, "\"shape\" is missing or not an array");
    if (ndim > PEFT_MAX_DIMS)
        return peft__fail(r->ctx, PEFT_E_UNSUPPORTED, "%s: tensor %s: %zu dimensions, at most %d are supported",
                          r->file, name, ndim, PEFT_MAX_DIMS);
    for (size_t i = 0; i < ndim; i++) {
        size_t dim = 0;
        if (!as_size(json_array_get(shape, i), &dim)) return bad(r, name, "\"shape\" holds something else than counts");
        tensor->shape[i] = (int64_t)dim;
    }
    tensor->ndim = (uint32_t)ndim;
    return PEFT_OK;
}

/* The size that type and shape promise; an unknown type promises nothing. */
static peft_status check_size(const reader *r, const type_row *type, const entry *e) {
    int64_t count = 0;
    size_t bits = 0;
    if (!peft__shape_elements(e->tensor.ndim, e->tensor.shape, &count))
        return bad(r, e->tensor.name, "the product of \"shape\" overflows");
    if (type == NULL) return PEFT_OK;
    if (!peft__mul_size((size_t)count, type->bits, &bits))
        return bad(r, e->tensor.name, "the product of \"shape\" overflows");
    if (bits % 8 != 0) return bad(r, e->tensor.name, "the elements do not fill whole bytes");
    if (e->end - e->begin != bits / 8) {
        char shape[96];
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: tensor %s: %s %s takes %zu bytes, \"data_offsets\" give %zu",
                          r->file, e->tensor.name, type->name,
                          peft__shape_text(shape, sizeof shape, e->tensor.ndim, e->tensor.shape), bits / 8,
                          e->end - e->begin);
    }
    return PEFT_OK;
}

static peft_status read_entry(const reader *r, const char *name, const json_t *value, entry *e) {
    if (strlen(name) > MAX_NAME)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: a tensor name of %zu bytes", r->file, strlen(name));
    if (!json_is_object(value)) return bad(r, name, "the entry is not an object");
    const json_t *dtype = json_object_get(value, "dtype"), *offsets = json_object_get(value, "data_offsets");
    memset(e, 0, sizeof *e);
    e->tensor.name = name;
    e->tensor.file = r->file;
    e->tensor.dtype = PEFT_DTYPE_OTHER;
    if (!json_is_string(dtype) || strlen(json_string_value(dtype)) != json_string_length(dtype))
        return bad(r, name, "\"dtype\" is missing or not a string");
    e->tensor.type_name = json_string_value(dtype);
    PEFT_TRY(read_shape(r, name, json_object_get(value, "shape"), &e->tensor));
    if (json_array_size(offsets) != 2 || !as_size(json_array_get(offsets, 0), &e->begin) ||
        !as_size(json_array_get(offsets, 1), &e->end))
        return bad(r, name, "\"data_offsets\" is missing or not two counts");
    if (e->end < e->begin) return bad(r, name, "\"data_offsets\" end before they begin");
    if (e->end > r->size)
        return peft__fail(r->ctx, PEFT_E_FORMAT,
                          "%s: tensor %s: \"data_offsets\" end at %zu, but there are %zu bytes of data", r->file, name,
                          e->end, r->size);
    const type_row *type = NULL;
    for (size_t i = 0; i < PEFT_COUNT(TYPES) && type == NULL; i++)
        if (strcmp(json_string_value(dtype), TYPES[i].name) == 0) type = &TYPES[i];
    if (type != NULL) e->tensor.dtype = type->dtype;
    e->tensor.data = r->data + e->begin;
    e->tensor.bytes = e->end - e->begin;
    return check_size(r, type, e);
}

static peft_status read_metadata(const reader *r, const json_t *metadata) {
    if (!json_is_object(metadata))
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: __metadata__ is not an object", r->file);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)metadata, key, value) {
        (void)value;
        const char *text = NULL;
        PEFT_TRY(peft__json_need_string(r->ctx, metadata, r->file, key, &text));
        PEFT_TRY(peft__tensors_add_metadata(r->tensors, key, text));
    }
    return PEFT_OK;
}

static int compare_offsets(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->tensor.name, y->tensor.name);
}

/* No holes, no overlaps, nothing behind the last. */
static peft_status check_cover(const reader *r) {
    size_t at = 0;
    for (size_t i = 0; i < r->count; i++) {
        const entry *e = &r->entries[i];
        if (e->begin != at)
            return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: tensor %s: data begin at %zu, expected %zu (%s)", r->file,
                              e->tensor.name, e->begin, at, e->begin > at ? "a hole" : "an overlap");
        at = e->end;
    }
    if (at != r->size && (r->flags & PEFT__SAFETENSORS_LENIENT_TRAILING) == 0)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: the tensors end at byte %zu of %zu bytes of data", r->file, at,
                          r->size);
    return PEFT_OK;
}

static peft_status read_header(reader *r, const json_t *header) {
    const size_t members = json_object_size(header);
    if (members > MAX_TENSORS + 1)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: more than %d tensors", r->file, MAX_TENSORS);
    r->entries = peft__alloc(r->ctx->mem, members * sizeof *r->entries);
    if (r->entries == NULL)
        return peft__fail_nomem(r->ctx, members * sizeof *r->entries, "the entries of a safetensors header");
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)header, name, value) {
        if (strcmp(name, "__metadata__") == 0) {
            PEFT_TRY(read_metadata(r, value));
            continue;
        }
        PEFT_TRY(read_entry(r, name, value, &r->entries[r->count]));
        r->count++;
    }
    if (r->count > 0) qsort(r->entries, r->count, sizeof *r->entries, compare_offsets);
    PEFT_TRY(check_cover(r));
    for (size_t i = 0; i < r->count; i++) PEFT_TRY(peft__tensors_add(r->tensors, &r->entries[i].tensor));
    return PEFT_OK;
}

peft_status peft__safetensors_read(peft__tensors *tensors, peft__source *source, uint32_t flags) {
    peft_context *ctx = source->ctx;
    reader r = {.tensors = tensors, .ctx = ctx, .flags = flags};
    PEFT_TRY(peft__tensors_add_source(tensors, source, &r.file));
    if (source->size < 8)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: %zu bytes are too few for a safetensors file", r.file, source->size);
    uint64_t length = 0;
    memcpy(&length, source->data, sizeof length);
    if (length > MAX_HEADER || length > source->size - 8)
        return peft__fail(ctx, PEFT_E_FORMAT,
                          "%s: the header says it has %llu bytes; the file has %zu after its first 8%s", r.file,
                          (unsigned long long)length, source->size - 8,
                          length > MAX_HEADER ? " and at most 100000000 are accepted" : "");
    r.data = source->data + 8 + length;
    r.size = source->size - 8 - (size_t)length;
    json_t *header = NULL;
    PEFT_TRY(peft__json_load_depth(ctx, r.file, source->data + 8, (size_t)length, MAX_HEADER, HEADER_DEPTH, &header));
    peft_status status = PEFT_OK;
    if (json_is_object(header))
        status = read_header(&r, header);
    else
        status = peft__fail(ctx, PEFT_E_FORMAT, "%s: the header is not a JSON object", r.file);
    peft__free(ctx->mem, r.entries);
    json_decref(header);
    return status;
}

peft_status peft__safetensors_open_source(peft_context *ctx, peft__source *source, uint32_t flags,
                                          peft__tensors **out_tensors) {
    peft__tensors *tensors = NULL;
    PEFT_TRY(peft__tensors_create(ctx, source->name != NULL ? source->name : "memory", &tensors));
    const peft_status status = peft__safetensors_read(tensors, source, flags);
    if (status != PEFT_OK) {
        peft__tensors_unref(tensors);
        return status;
    }
    *out_tensors = tensors;
    return PEFT_OK;
}

peft_status peft__safetensors_open(peft_context *ctx, const char *path, peft__tensors **out_tensors) {
    peft__source *source = NULL;
    PEFT_TRY(peft__source_open_path(ctx, path, &source));
    const peft_status status = peft__safetensors_open_source(ctx, source, 0, out_tensors);
    peft__source_unref(source);
    return status;
}

peft_status peft__safetensors_open_memory(peft_context *ctx, const char *name, const void *data, size_t size,
                                          peft__tensors **out_tensors) {
    peft__source *source = NULL;
    PEFT_TRY(peft__source_open_memory(ctx, data, size, name, &source));
    const peft_status status = peft__safetensors_open_source(ctx, source, 0, out_tensors);
    peft__source_unref(source);
    return status;
}
