/* json_get.c: typed access to the members of an object, each failure a sentence with file and key. */
#include <stdio.h>

#include "format/json.h"

static const char *const KINDS[] = {
    [JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array", [JSON_STRING] = "a string", [JSON_INTEGER] = "a number",
    [JSON_REAL] = "a number",    [JSON_TRUE] = "true",      [JSON_FALSE] = "false",     [JSON_NULL] = "null"};

const char *peft__json_kind(const peft__json *value) {
    if (value == NULL) return "nothing";
    const size_t type = (size_t)json_typeof(value);
    return type < PEFT_COUNT(KINDS) ? KINDS[type] : "?";
}

const peft__json *peft__json_value(const peft__json *object, const char *key) {
    if (!json_is_object(object)) return NULL;
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

/* What was found, in at most `size` bytes. */
static const char *describe(const json_t *value, char *buffer, size_t size) {
    if (json_is_integer(value)) {
        snprintf(buffer, size, "%lld", (long long)json_integer_value(value));
    } else if (json_is_real(value)) {
        peft__format_f64(buffer, size, json_real_value(value));
    } else if (json_is_string(value) && json_string_length(value) < size - 3 &&
               strlen(json_string_value(value)) == json_string_length(value)) {
        snprintf(buffer, size, "\"%s\"", json_string_value(value));
    } else {
        snprintf(buffer, size, "%s", peft__json_kind(value));
    }
    return buffer;
}

static peft_status wrong(peft_context *ctx, const char *where, const char *key, const char *expected,
                         const json_t *value) {
    char text[80];
    return peft__fail(ctx, PEFT_E_FORMAT, "%s: %s: expected %s, found %s", where, key, expected,
                      describe(value, text, sizeof text));
}

/* *out_value NULL: absent or null, and that is allowed. */
static peft_status find(peft_context *ctx, const json_t *object, const char *where, const char *key, bool need,
                        const char *expected, const json_t **out_value) {
    if (!json_is_object(object))
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: expected an object, found %s", where, peft__json_kind(object));
    const json_t *value = peft__json_value(object, key);
    if (value == NULL && need)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: %s is missing (expected %s)", where, key, expected);
    *out_value = value;
    return PEFT_OK;
}

static peft_status take_string(peft_context *ctx, const json_t *object, const char *where, const char *key, bool need,
                               const char *fallback, const char **out) {
    const json_t *value = NULL;
    PEFT_TRY(find(ctx, object, where, key, need, "a string", &value));
    if (value != NULL && !json_is_string(value)) return wrong(ctx, where, key, "a string", value);
    if (value != NULL && strlen(json_string_value(value)) != json_string_length(value))
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: %s: the string holds a NUL byte", where, key);
    *out = value != NULL ? json_string_value(value) : fallback;
    return PEFT_OK;
}

peft_status peft__json_get_string(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                  const char *fallback, const char **out) {
    return take_string(ctx, object, where, key, false, fallback, out);
}

peft_status peft__json_need_string(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                   const char **out) {
    return take_string(ctx, object, where, key, true, NULL, out);
}

/* The integer that a value is, 3.0 included. Above 2^53 a real does not say which integer was meant. */
static bool as_integer(const json_t *value, int64_t *out) {
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return true;
    }
    if (!json_is_real(value)) return false;
    const double real = json_real_value(value);
    if (!(real >= -0x1p53 && real <= 0x1p53) || (double)(int64_t)real != real) return false;
    *out = (int64_t)real;
    return true;
}

static peft_status take_int(peft_context *ctx, const json_t *object, const char *where, const char *key, bool need,
                            int64_t min, int64_t max, int64_t fallback, int64_t *out) {
    char expected[80];
    if (min == INT64_MIN && max == INT64_MAX)
        snprintf(expected, sizeof expected, "an integer");
    else if (max == INT64_MAX)
        snprintf(expected, sizeof expected, "an integer of at least %lld", (long long)min);
    else
        snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)min, (long long)max);
    const json_t *value = NULL;
    PEFT_TRY(find(ctx, object, where, key, need, expected, &value));
    int64_t number = fallback;
    if (value != NULL && (!as_integer(value, &number) || number < min || number > max))
        return wrong(ctx, where, key, expected, value);
    *out = number;
    return PEFT_OK;
}

peft_status peft__json_get_int(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                               int64_t min, int64_t max, int64_t fallback, int64_t *out) {
    return take_int(ctx, object, where, key, false, min, max, fallback, out);
}

peft_status peft__json_need_int(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                int64_t min, int64_t max, int64_t *out) {
    return take_int(ctx, object, where, key, true, min, max, 0, out);
}

static peft_status take_double(peft_context *ctx, const json_t *object, const char *where, const char *key, bool need,
                               double min, double max, double fallback, double *out) {
    char low[32], high[32], expected[96];
    peft__format_f64(low, sizeof low, min);
    peft__format_f64(high, sizeof high, max);
    if (min < -1e300 && max > 1e300)
        snprintf(expected, sizeof expected, "a number");
    else if (max > 1e300)
        snprintf(expected, sizeof expected, "a number of at least %s", low);
    else
        snprintf(expected, sizeof expected, "a number from %s to %s", low, high);
    const json_t *value = NULL;
    PEFT_TRY(find(ctx, object, where, key, need, expected, &value));
    double number = fallback;
    if (value != NULL) {
        if (!json_is_number(value)) return wrong(ctx, where, key, expected, value);
        number = json_number_value(value);
        if (!(number >= min && number <= max)) return wrong(ctx, where, key, expected, value);
    }
    *out = number;
    return PEFT_OK;
}

peft_status peft__json_get_double(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                  double min, double max, double fallback, double *out) {
    return take_double(ctx, object, where, key, false, min, max, fallback, out);
}

peft_status peft__json_need_double(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                   double min, double max, double *out) {
    return take_double(ctx, object, where, key, true, min, max, 0.0, out);
}

static peft_status take_bool(peft_context *ctx, const json_t *object, const char *where, const char *key, bool need,
                             bool fallback, bool *out) {
    const json_t *value = NULL;
    PEFT_TRY(find(ctx, object, where, key, need, "true or false", &value));
    if (value != NULL && !json_is_boolean(value)) return wrong(ctx, where, key, "true or false", value);
    *out = value != NULL ? json_is_true(value) : fallback;
    return PEFT_OK;
}

peft_status peft__json_get_bool(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                bool fallback, bool *out) {
    return take_bool(ctx, object, where, key, false, fallback, out);
}

peft_status peft__json_need_bool(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                 bool *out) {
    return take_bool(ctx, object, where, key, true, false, out);
}

static peft_status take_container(peft_context *ctx, const json_t *object, const char *where, const char *key,
                                  bool need, json_type type, const peft__json **out) {
    const json_t *value = NULL;
    PEFT_TRY(find(ctx, object, where, key, need, KINDS[type], &value));
    if (value != NULL && json_typeof(value) != type) return wrong(ctx, where, key, KINDS[type], value);
    *out = value;
    return PEFT_OK;
}

peft_status peft__json_get_array(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                 const peft__json **out) {
    return take_container(ctx, object, where, key, false, JSON_ARRAY, out);
}

peft_status peft__json_need_array(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                  const peft__json **out) {
    return take_container(ctx, object, where, key, true, JSON_ARRAY, out);
}

peft_status peft__json_get_object(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                  const peft__json **out) {
    return take_container(ctx, object, where, key, false, JSON_OBJECT, out);
}

peft_status peft__json_need_object(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                   const peft__json **out) {
    return take_container(ctx, object, where, key, true, JSON_OBJECT, out);
}
