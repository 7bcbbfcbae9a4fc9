/* json.c: parsing. A prescan that understands strings but no grammar bounds what the parser will be asked to build;
 * grammar, UTF-8 and duplicate keys are Jansson's business.
 *
 * The scan also finds integers beyond 64 bits. Jansson refuses those, Python writes them (model_max_length), so
 * ".0" is put behind each in a copy of the text: the only case in which the text is copied.
 */
#include "format/json.h"

/* Values that one document may hold. An object costs Jansson about 250 bytes, so this bounds what a file of empty
 * objects can ask for; the largest tokenizer files hold about 10^6 values. */
enum { MAX_VALUES = 1 << 24, MAX_CONTAINERS = 1 << 22 };

typedef struct scan {
    const uint8_t *data;
    size_t size;
    const char *name;
    uint32_t max_depth;
    size_t first_line;
    size_t wide; /* integers of more than 64 bits */
} scan;

static bool is_digit(uint8_t c) {
    return c >= '0' && c <= '9';
}

static bool fits_int64(const uint8_t *digits, size_t count) {
    int64_t value = 0;
    for (size_t i = 0; i < count; i++)
        if (__builtin_mul_overflow(value, (int64_t)10, &value) ||
            __builtin_add_overflow(value, (int64_t)(digits[i] - '0'), &value))
            return false;
    return true;
}

/* End of the integer at `at` (a digit). *out_wide when it is one and does not fit. */
static size_t skip_digits(const scan *s, size_t at, bool *out_wide) {
    const size_t start = at;
    while (at < s->size && is_digit(s->data[at])) at++;
    const bool real = at < s->size && (s->data[at] == '.' || s->data[at] == 'e' || s->data[at] == 'E');
    *out_wide = !real && at - start > 18 && !fits_int64(s->data + start, at - start);
    return at;
}

/* Is the digit at `at` the first one of an integer (not of a fraction or an exponent)? */
static bool starts_integer(const scan *s, size_t at) {
    if (at == 0) return true;
    const uint8_t before = s->data[at - 1];
    if (before == '-') return at < 2 || (s->data[at - 2] != 'e' && s->data[at - 2] != 'E');
    return before != '.' && before != 'e' && before != 'E' && before != '+';
}

/* Index behind the string whose opening quote is at `at`. */
static size_t skip_string(const scan *s, size_t at) {
    for (at++; at < s->size && s->data[at] != '"'; at++)
        if (s->data[at] == '\\') at++;
    return peft__min_size(at + 1, s->size);
}

static peft_status prescan(peft_context *ctx, scan *s) {
    uint32_t depth = 0;
    size_t values = 0, containers = 0, line = s->first_line;
    for (size_t at = 0; at < s->size;) {
        const uint8_t c = s->data[at];
        if (c == '"') {
            at = skip_string(s, at);
            continue;
        }
        if (is_digit(c)) {
            bool wide = false;
            const bool integer = starts_integer(s, at);
            at = skip_digits(s, at, &wide);
            if (wide && integer) s->wide++;
            continue;
        }
        if (c == '\n') line++;
        if (c == '[' || c == '{') {
            if (++depth > s->max_depth)
                return peft__fail(ctx, PEFT_E_FORMAT, "%s:%zu: nested more than %u levels deep", s->name, line,
                                  (unsigned)s->max_depth);
            if (++containers > MAX_CONTAINERS)
                return peft__fail(ctx, PEFT_E_FORMAT, "%s: more than %d objects and arrays", s->name, MAX_CONTAINERS);
        }
        if ((c == ']' || c == '}') && depth > 0) depth--;
        if ((c == ',' || c == '[' || c == '{') && ++values > MAX_VALUES)
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: more than %d values", s->name, MAX_VALUES);
        at++;
    }
    return PEFT_OK;
}

/* A copy with ".0" behind every wide integer. */
static char *widen(peft__mem *mem, const scan *s, size_t *out_size) {
    char *copy = peft__alloc(mem, s->size + 2 * s->wide);
    if (copy == NULL) return NULL;
    size_t to = 0;
    for (size_t at = 0; at < s->size;) {
        size_t end = at + 1;
        bool wide = false;
        if (s->data[at] == '"') {
            end = skip_string(s, at);
        } else if (is_digit(s->data[at])) {
            const bool integer = starts_integer(s, at);
            end = skip_digits(s, at, &wide);
            wide = wide && integer;
        }
        memcpy(copy + to, s->data + at, end - at);
        to += end - at;
        if (wide) {
            copy[to++] = '.';
            copy[to++] = '0';
        }
        at = end;
    }
    *out_size = to;
    return copy;
}

/* Jansson quotes the file in its messages: keep them to one line of valid text. */
static void clean_text(char *text) {
    const bool valid = peft__utf8_valid(text, strlen(text));
    for (char *p = text; *p != '\0'; p++)
        if ((uint8_t)*p < 0x20 || *p == 0x7f || (!valid && (uint8_t)*p >= 0x80)) *p = '?';
}

static peft_status load(peft_context *ctx, const char *name, uint64_t line, const void *data, size_t size, size_t limit,
                        uint32_t depth, peft__json **out_json) {
    if (limit == 0) limit = PEFT__JSON_LIMIT;
    if (size > limit)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: %zu bytes of JSON, at most %zu are accepted", name, size, limit);
    scan s = {.data = data, .size = size, .name = name, .max_depth = depth, .first_line = (size_t)line};
    if (size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0) {
        s.data += 3;
        s.size -= 3;
    }
    PEFT_TRY(prescan(ctx, &s));
    char *copy = NULL;
    size_t copy_size = 0;
    if (s.wide > 0) {
        copy = widen(ctx->mem, &s, &copy_size);
        if (copy == NULL) return peft__fail_nomem(ctx, s.size + 2 * s.wide, "a copy of a JSON text");
    }
    json_error_t error;
    memset(&error, 0, sizeof error);
    json_t *json = json_loadb(copy != NULL ? copy : (const char *)s.data, copy != NULL ? copy_size : s.size,
                              JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    peft__free(ctx->mem, copy);
    if (json == NULL) {
        if (json_error_code(&error) == json_error_out_of_memory) return peft__fail_nomem(ctx, size, "a JSON tree");
        clean_text(error.text);
        return peft__fail(ctx, PEFT_E_FORMAT, "%s:%llu:%d: %s", name,
                          (unsigned long long)line - 1 + (unsigned long long)error.line, error.column, error.text);
    }
    *out_json = json;
    return PEFT_OK;
}

peft_status peft__json_load_depth(peft_context *ctx, const char *name, const void *data, size_t size, size_t limit,
                                  uint32_t depth, peft__json **out_json) {
    return load(ctx, name, 1, data, size, limit, depth, out_json);
}

peft_status peft__json_load_piece(peft_context *ctx, const char *name, uint64_t line, const void *data, size_t size,
                                  size_t limit, peft__json **out_json) {
    return load(ctx, name, line, data, size, limit, PEFT__JSON_DEPTH, out_json);
}

peft_status peft__json_load_memory(peft_context *ctx, const char *name, const void *data, size_t size, size_t limit,
                                   peft__json **out_json) {
    return load(ctx, name, 1, data, size, limit, PEFT__JSON_DEPTH, out_json);
}

peft_status peft__json_load_file(peft_context *ctx, const char *path, size_t limit, peft__json **out_json) {
    peft__source *source = NULL;
    PEFT_TRY(peft__source_open_path(ctx, path, &source));
    const peft_status status = peft__json_load_memory(ctx, path, source->data, source->size, limit, out_json);
    peft__source_unref(source);
    return status;
}
