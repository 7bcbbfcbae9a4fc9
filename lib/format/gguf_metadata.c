/* gguf_metadata.c: getters of GGUF metadata. Values are unaligned in the file, so every read is a memcpy. */
#include <math.h>
#include <stdio.h>

#include "format/gguf_file.h"

const gguf_value *peft__gguf_find(const peft__gguf *gguf, const char *key) {
    uint64_t index = 0;
    return peft__table_get(&gguf->keys, key, strlen(key), &index) ? &gguf->values[index] : NULL;
}

size_t peft__gguf_key_count(const peft__gguf *gguf) {
    return gguf->value_count;
}

const char *peft__gguf_key_at(const peft__gguf *gguf, size_t index) {
    return index < gguf->value_count ? gguf->values[index].key : NULL;
}

bool peft__gguf_has(const peft__gguf *gguf, const char *key) {
    return peft__gguf_find(gguf, key) != NULL;
}

/* Element i as an integer; false for other types and for what int64 cannot hold. */
static bool integer_at(const gguf_value *value, size_t i, int64_t *out) {
    const uint8_t *at = value->data + i * peft__gguf_type_size(value->type);
    uint64_t u64 = 0;
    uint32_t u32 = 0;
    uint16_t u16 = 0;
    switch (value->type) {
    case GGUF_U8:
        *out = at[0];
        return true;
    case GGUF_I8:
        *out = (int8_t)at[0];
        return true;
    case GGUF_U16:
        memcpy(&u16, at, 2);
        *out = u16;
        return true;
    case GGUF_I16:
        memcpy(&u16, at, 2);
        *out = (int16_t)u16;
        return true;
    case GGUF_U32:
        memcpy(&u32, at, 4);
        *out = u32;
        return true;
    case GGUF_I32:
        memcpy(&u32, at, 4);
        *out = (int32_t)u32;
        return true;
    case GGUF_U64:
        memcpy(&u64, at, 8);
        *out = (int64_t)u64;
        return u64 <= INT64_MAX;
    case GGUF_I64:
        memcpy(out, at, 8);
        return true;
    default:
        return false;
    }
}

static bool number_at(const gguf_value *value, size_t i, double *out) {
    const uint8_t *at = value->data + i * peft__gguf_type_size(value->type);
    int64_t integer = 0;
    float f32 = 0.0f;
    if (value->type == GGUF_F32) {
        memcpy(&f32, at, 4);
        *out = f32;
        return true;
    }
    if (value->type == GGUF_F64) {
        memcpy(out, at, 8);
        return true;
    }
    if (!integer_at(value, i, &integer)) return false;
    *out = (double)integer;
    return true;
}

static const char *describe(const gguf_value *value, char *buffer, size_t size) {
    int64_t integer = 0;
    if (value->is_array)
        snprintf(buffer, size, "an array of %zu %s", value->count, peft__gguf_type_name(value->type));
    else if (integer_at(value, 0, &integer))
        snprintf(buffer, size, "%lld", (long long)integer);
    else
        snprintf(buffer, size, "a value of type %s", peft__gguf_type_name(value->type));
    return buffer;
}

static peft_status wrong(const peft__gguf *gguf, const gguf_value *value, const char *expected) {
    char found[80];
    return peft__fail(gguf->ctx, PEFT_E_FORMAT, "%s: %s: expected %s, found %s", gguf->file, value->key, expected,
                      describe(value, found, sizeof found));
}

static peft_status missing(const peft__gguf *gguf, const char *key) {
    return peft__fail(gguf->ctx, PEFT_E_FORMAT, "%s: the key %s is missing", gguf->file, key);
}

static peft_status check_integer(const peft__gguf *gguf, const gguf_value *value, int64_t min, int64_t max,
                                 int64_t *out) {
    char expected[80];
    int64_t number = 0;
    if (integer_at(value, 0, &number) && number >= min && number <= max) {
        *out = number;
        return PEFT_OK;
    }
    snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)min, (long long)max);
    return wrong(gguf, value, expected);
}

peft_status peft__gguf_need_int(const peft__gguf *gguf, const char *key, int64_t min, int64_t max, int64_t *out) {
    const gguf_value *value = peft__gguf_find(gguf, key);
    if (value == NULL) return missing(gguf, key);
    if (value->is_array) return wrong(gguf, value, "an integer");
    return check_integer(gguf, value, min, max, out);
}

peft_status peft__gguf_get_int(const peft__gguf *gguf, const char *key, int64_t min, int64_t max, int64_t fallback,
                               int64_t *out) {
    if (peft__gguf_has(gguf, key)) return peft__gguf_need_int(gguf, key, min, max, out);
    *out = fallback;
    return PEFT_OK;
}

peft_status peft__gguf_get_uniform_int(const peft__gguf *gguf, const char *key, int64_t min, int64_t max,
                                       int64_t fallback, int64_t *out) {
    const gguf_value *value = peft__gguf_find(gguf, key);
    if (value == NULL || !value->is_array) return peft__gguf_get_int(gguf, key, min, max, fallback, out);
    int64_t first = 0, other = 0;
    if (value->count == 0 || !integer_at(value, 0, &first)) return wrong(gguf, value, "integers");
    for (size_t i = 1; i < value->count; i++)
        if (!integer_at(value, i, &other) || other != first)
            return peft__fail(gguf->ctx, PEFT_E_UNSUPPORTED,
                              "%s: %s differs from layer to layer, which is not supported", gguf->file, key);
    return check_integer(gguf, value, min, max, out);
}

peft_status peft__gguf_need_float(const peft__gguf *gguf, const char *key, double *out) {
    const gguf_value *value = peft__gguf_find(gguf, key);
    double number = 0.0;
    if (value == NULL) return missing(gguf, key);
    if (value->is_array || !number_at(value, 0, &number)) return wrong(gguf, value, "a number");
    if (!isfinite(number)) return peft__fail(gguf->ctx, PEFT_E_NONFINITE, "%s: %s is not finite", gguf->file, key);
    *out = number;
    return PEFT_OK;
}

peft_status peft__gguf_get_float(const peft__gguf *gguf, const char *key, double fallback, double *out) {
    if (peft__gguf_has(gguf, key)) return peft__gguf_need_float(gguf, key, out);
    *out = fallback;
    return PEFT_OK;
}

peft_status peft__gguf_get_bool(const peft__gguf *gguf, const char *key, bool fallback, bool *out) {
    const gguf_value *value = peft__gguf_find(gguf, key);
    if (value != NULL && (value->is_array || value->type != GGUF_BOOL || value->data[0] > 1))
        return wrong(gguf, value, "true or false");
    *out = value != NULL ? value->data[0] != 0 : fallback;
    return PEFT_OK;
}

static size_t text_length(const gguf_value *value) {
    uint64_t length = 0;
    memcpy(&length, value->data, sizeof length);
    return (size_t)length;
}

peft_status peft__gguf_need_string(const peft__gguf *gguf, const char *key, const char **out) {
    const gguf_value *value = peft__gguf_find(gguf, key);
    if (value == NULL) return missing(gguf, key);
    if (value->is_array || value->type != GGUF_STRING) return wrong(gguf, value, "a string");
    const size_t length = text_length(value);
    if (strlen(value->text) != length || !peft__utf8_valid(value->text, length))
        return peft__fail(gguf->ctx, PEFT_E_FORMAT, "%s: %s is not valid UTF-8 without NUL bytes", gguf->file, key);
    *out = value->text;
    return PEFT_OK;
}

peft_status peft__gguf_get_string(const peft__gguf *gguf, const char *key, const char *fallback, const char **out) {
    if (peft__gguf_has(gguf, key)) return peft__gguf_need_string(gguf, key, out);
    *out = fallback;
    return PEFT_OK;
}

/* The array of a key, with room made for `size` bytes an element on the first call. *out_value NULL: absent.
 * *out_fill: the caller has to fill value->made. */
static peft_status find_array(peft__gguf *gguf, const char *key, const char *expected, uint32_t type,
                              uint32_t other_type, size_t size, gguf_value **out_value, bool *out_fill) {
    gguf_value *value = (gguf_value *)peft__gguf_find(gguf, key);
    *out_value = NULL;
    if (value == NULL) return PEFT_OK;
    if (!value->is_array || (value->type != type && value->type != other_type)) return wrong(gguf, value, expected);
    *out_fill = value->made == NULL;
    if (value->made == NULL) {
        size_t bytes = 0;
        if (!peft__mul_size(value->count, size, &bytes)) return wrong(gguf, value, expected);
        value->made = peft__arena_alloc(&gguf->arena, bytes);
        if (value->made == NULL) return peft__fail_nomem(gguf->ctx, bytes, key);
    }
    *out_value = value;
    return PEFT_OK;
}

peft_status peft__gguf_get_strings(peft__gguf *gguf, const char *key, const peft__text **out, size_t *out_count) {
    gguf_value *value = NULL;
    bool fill = false;
    PEFT_TRY(find_array(gguf, key, "an array of strings", GGUF_STRING, GGUF_STRING, sizeof **out, &value, &fill));
    if (fill && value != NULL) {
        peft__text *texts = value->made;
        const uint8_t *at = value->data;
        for (size_t i = 0; i < value->count; i++) {
            uint64_t length = 0;
            memcpy(&length, at, sizeof length);
            texts[i] = (peft__text){(const char *)at + 8, (size_t)length};
            at += 8 + (size_t)length;
        }
    }
    *out = value != NULL ? value->made : NULL;
    *out_count = value != NULL ? value->count : 0;
    return PEFT_OK;
}

peft_status peft__gguf_get_f32s(peft__gguf *gguf, const char *key, const float **out, size_t *out_count) {
    gguf_value *value = NULL;
    bool fill = false;
    PEFT_TRY(find_array(gguf, key, "an array of f32", GGUF_F32, GGUF_F64, sizeof **out, &value, &fill));
    if (fill && value != NULL)
        for (size_t i = 0; i < value->count; i++) {
            double number = 0.0;
            (void)number_at(value, i, &number);
            ((float *)value->made)[i] = (float)number;
        }
    *out = value != NULL ? value->made : NULL;
    *out_count = value != NULL ? value->count : 0;
    return PEFT_OK;
}

peft_status peft__gguf_get_i32s(peft__gguf *gguf, const char *key, const int32_t **out, size_t *out_count) {
    gguf_value *value = NULL;
    bool fill = false;
    PEFT_TRY(find_array(gguf, key, "an array of i32", GGUF_I32, GGUF_U32, sizeof **out, &value, &fill));
    if (fill && value != NULL)
        for (size_t i = 0; i < value->count; i++) {
            int64_t number = 0;
            if (!integer_at(value, i, &number) || number > INT32_MAX) {
                value->made = NULL; /* the room stays in the arena */
                return wrong(gguf, value, "an array of i32");
            }
            ((int32_t *)value->made)[i] = (int32_t)number;
        }
    *out = value != NULL ? value->made : NULL;
    *out_count = value != NULL ? value->count : 0;
    return PEFT_OK;
}
