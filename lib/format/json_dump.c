/* json_dump.c: JSON text as Python's json module writes it.
 *
 * Jansson can dump, but not with Python's separators and numbers, and adapter_config.json is compared by people and
 * tools with what Hugging Face writes.
 */
#include <stdio.h>
#include <stdlib.h>

#include "format/json.h"

enum { MAX_DEPTH = 1000 }; /* of trees made in memory; parsed ones are far below */

typedef struct dump {
    peft_context *ctx;
    peft__buffer *out;
    uint32_t indent;
    bool sort_keys;
} dump;

static bool put_escape(peft__buffer *out, uint32_t unit) {
    return peft__buffer_printf(out, "\\u%04x", (unsigned)unit);
}

bool peft__json_put_string(peft__buffer *out, const char *text, size_t length, bool ascii) {
    peft__buffer_puts(out, "\"");
    size_t at = 0, clean = 0; /* text[clean..at) needs no escape and is not yet written */
    while (at < length) {
        uint32_t code = 0;
        size_t used = peft__utf8_decode(text + at, length - at, &code);
        const bool valid = used > 0;
        if (!valid) {
            used = 1;
            code = 0xfffd;
        }
        if (valid && code >= 0x20 && code != '"' && code != '\\' && (!ascii || code < 0x7f)) {
            at += used;
            continue;
        }
        peft__buffer_put(out, text + clean, at - clean);
        static const char SHORT[] = "\"\"\\\\\bb\ff\nn\rr\tt";
        const char *named = NULL;
        for (size_t i = 0; i + 1 < sizeof SHORT; i += 2)
            if (code == (uint8_t)SHORT[i]) named = SHORT + i + 1;
        if (named != NULL) {
            peft__buffer_put(out, "\\", 1);
            peft__buffer_put(out, named, 1);
        } else if (code < 0x20 || ascii) {
            if (code >= 0x10000) {
                put_escape(out, 0xd800 + ((code - 0x10000) >> 10));
                put_escape(out, 0xdc00 + ((code - 0x10000) & 0x3ff));
            } else {
                put_escape(out, code);
            }
        } else {
            peft__buffer_puts(out, "\xef\xbf\xbd");
        }
        at += used;
        clean = at;
    }
    peft__buffer_put(out, text + clean, length - clean);
    return peft__buffer_puts(out, "\"");
}

/* Fewest digits that read back, and the decimal exponent: value = 0.d1d2... * 10^(exponent + 1). */
static int shortest_digits(double value, char digits[20], int *out_exponent) {
    char text[40];
    int count = 0;
    for (int precision = 0; precision < 17; precision++) {
        const int length = snprintf(text, sizeof text, "%.*e", precision, value);
        if (length <= 0 || length >= (int)sizeof text) return 0;
        /* The decimal point is whatever the locale says, so it is the one byte group between the digits. */
        char clean[40];
        int used = 0;
        const char *e = strchr(text, 'e');
        if (e == NULL) return 0;
        count = 0;
        for (const char *p = text; p < e; p++)
            if (*p >= '0' && *p <= '9') digits[count++] = *p;
        clean[used++] = digits[0];
        clean[used++] = '.';
        for (int i = 1; i < count; i++) clean[used++] = digits[i];
        if (count == 1) clean[used++] = '0';
        used += snprintf(clean + used, sizeof clean - (size_t)used, "%s", e);
        int exponent = 0;
        for (const char *p = e + 2; *p != '\0'; p++) exponent = exponent * 10 + (*p - '0');
        *out_exponent = e[1] == '-' ? -exponent : exponent;
        double back = 0.0;
        if (peft__parse_f64(clean, (size_t)used, &back) && back == value) break;
    }
    while (count > 1 && digits[count - 1] == '0') count--;
    return count;
}

bool peft__json_put_double(peft__buffer *out, double value) {
    if (value != value) return peft__buffer_puts(out, "NaN");
    if (value < 0.0 || (value == 0.0 && 1.0 / value < 0.0)) {
        peft__buffer_puts(out, "-");
        value = -value;
    }
    if (value == 0.0) return peft__buffer_puts(out, "0.0");
    if (value > 1.7976931348623157e308) return peft__buffer_puts(out, "Infinity");
    char digits[20];
    int exponent = 0;
    const int count = shortest_digits(value, digits, &exponent);
    if (exponent < -4 || exponent >= 16) {
        peft__buffer_put(out, digits, 1);
        if (count > 1) peft__buffer_puts(out, ".");
        peft__buffer_put(out, digits + 1, (size_t)(count - 1));
        return peft__buffer_printf(out, "e%c%02d", exponent < 0 ? '-' : '+', exponent < 0 ? -exponent : exponent);
    }
    if (exponent < 0) {
        peft__buffer_puts(out, "0.");
        for (int i = -1; i > exponent; i--) peft__buffer_puts(out, "0");
        return peft__buffer_put(out, digits, (size_t)count);
    }
    for (int i = 0; i <= exponent; i++) peft__buffer_put(out, i < count ? digits + i : "0", 1);
    peft__buffer_puts(out, ".");
    return count > exponent + 1 ? peft__buffer_put(out, digits + exponent + 1, (size_t)(count - exponent - 1))
                                : peft__buffer_puts(out, "0");
}

static void new_line(const dump *d, uint32_t depth) {
    if (d->indent == 0) return;
    peft__buffer_puts(d->out, "\n");
    for (uint32_t i = 0; i < depth * d->indent; i++) peft__buffer_puts(d->out, " ");
}

static void separate(const dump *d, bool first, uint32_t depth) {
    if (!first) peft__buffer_puts(d->out, d->indent == 0 ? ", " : ",");
    new_line(d, depth);
}

static int compare_keys(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static peft_status dump_value(const dump *d, const json_t *value, uint32_t depth);

static peft_status dump_array(const dump *d, const json_t *array, uint32_t depth) {
    const size_t count = json_array_size(array);
    peft__buffer_puts(d->out, "[");
    for (size_t i = 0; i < count; i++) {
        separate(d, i == 0, depth + 1);
        PEFT_TRY(dump_value(d, json_array_get(array, i), depth + 1));
    }
    if (count > 0) new_line(d, depth);
    peft__buffer_puts(d->out, "]");
    return PEFT_OK;
}

static peft_status dump_object(const dump *d, const json_t *object, uint32_t depth) {
    const size_t count = json_object_size(object);
    const char **keys = peft__alloc(d->ctx->mem, count * sizeof *keys);
    if (keys == NULL) return peft__fail_nomem(d->ctx, count * sizeof *keys, "the keys of a JSON object");
    size_t found = 0;
    const char *key;
    json_t *member;
    json_object_foreach((json_t *)object, key, member) keys[found++] = key;
    /* Byte order of UTF-8 is the order of code points, which is Python's. */
    if (d->sort_keys && count > 0) qsort(keys, count, sizeof *keys, compare_keys);
    peft__buffer_puts(d->out, "{");
    peft_status status = PEFT_OK;
    for (size_t i = 0; i < count && status == PEFT_OK; i++) {
        separate(d, i == 0, depth + 1);
        peft__json_put_string(d->out, keys[i], strlen(keys[i]), true);
        peft__buffer_puts(d->out, ": ");
        status = dump_value(d, json_object_get(object, keys[i]), depth + 1);
    }
    peft__free(d->ctx->mem, keys);
    if (count > 0) new_line(d, depth);
    peft__buffer_puts(d->out, "}");
    return status;
}

static peft_status dump_value(const dump *d, const json_t *value, uint32_t depth) {
    if (depth > MAX_DEPTH) return peft__fail(d->ctx, PEFT_E_ARG, "a JSON tree is nested more than %d deep", MAX_DEPTH);
    if (value == NULL) return peft__fail(d->ctx, PEFT_E_INTERNAL, "a JSON tree has a hole");
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return dump_object(d, value, depth);
    case JSON_ARRAY:
        return dump_array(d, value, depth);
    case JSON_STRING:
        peft__json_put_string(d->out, json_string_value(value), json_string_length(value), true);
        break;
    case JSON_INTEGER:
        peft__buffer_printf(d->out, "%lld", (long long)json_integer_value(value));
        break;
    case JSON_REAL:
        peft__json_put_double(d->out, json_real_value(value));
        break;
    case JSON_TRUE:
        peft__buffer_puts(d->out, "true");
        break;
    case JSON_FALSE:
        peft__buffer_puts(d->out, "false");
        break;
    case JSON_NULL:
        peft__buffer_puts(d->out, "null");
        break;
    }
    return PEFT_OK;
}

peft_status peft__json_dump(peft_context *ctx, const peft__json *value, uint32_t indent, bool sort_keys,
                            peft__buffer *out) {
    const dump d = {.ctx = ctx, .out = out, .indent = indent, .sort_keys = sort_keys};
    PEFT_TRY(dump_value(&d, value, 0));
    return out->failed ? peft__fail_nomem(ctx, out->length, "a JSON text") : PEFT_OK;
}

peft_status peft__json_write_file(peft_context *ctx, const char *path, const peft__json *value, bool newline) {
    peft__buffer text;
    peft__buffer_init(&text, ctx->mem);
    peft_status status = peft__json_dump(ctx, value, 2, true, &text);
    if (status == PEFT_OK && newline && !peft__buffer_puts(&text, "\n"))
        status = peft__fail_nomem(ctx, text.length + 1, "a JSON text");
    if (status == PEFT_OK) status = peft__write_file(ctx, path, text.data, text.length);
    peft__buffer_free(&text);
    return status;
}
