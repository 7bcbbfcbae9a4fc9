/* json.c: JSON objects on one line, and finding values in such lines again. The reading half is for this program's own
 * files: flat objects; it is not a parser. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void put(json_line *j, const char *text, size_t length) {
    if (j->length + length + 1 > j->capacity) {
        const size_t capacity = (j->length + length + 1) * 2 + 256;
        char *more = realloc(j->text, capacity);
        if (more == NULL) {
            j->failed = true;
            return;
        }
        j->text = more;
        j->capacity = capacity;
    }
    memcpy(j->text + j->length, text, length);
    j->length += length;
    j->text[j->length] = '\0';
}

static void put_string(json_line *j, const char *text) {
    put(j, "\"", 1);
    for (const char *at = text; *at != '\0'; at++) {
        char escaped[8];
        if (*at == '"' || *at == '\\') {
            put(j, "\\", 1);
            put(j, at, 1);
        } else if ((unsigned char)*at < 0x20) {
            const int length = snprintf(escaped, sizeof escaped, "\\u%04x", (unsigned)(unsigned char)*at);
            put(j, escaped, (size_t)length);
        } else {
            put(j, at, 1);
        }
    }
    put(j, "\"", 1);
}

static void put_key(json_line *j, const char *key) {
    if (j->length > 1 && j->text[j->length - 1] != '{') put(j, ", ", 2);
    put_string(j, key);
    put(j, ": ", 2);
}

void json_begin(json_line *j) {
    j->length = 0;
    j->failed = false;
    put(j, "{", 1);
}

void json_text(json_line *j, const char *key, const char *value) {
    put_key(j, key);
    if (value == NULL)
        put(j, "null", 4);
    else
        put_string(j, value);
}

void json_number(json_line *j, const char *key, double value) {
    char text[40];
    put_key(j, key);
    const int length =
        isfinite(value) ? snprintf(text, sizeof text, "%.10g", value) : snprintf(text, sizeof text, "null");
    put(j, text, (size_t)length);
}

void json_count(json_line *j, const char *key, int64_t value) {
    char text[32];
    put_key(j, key);
    const int length = snprintf(text, sizeof text, "%lld", (long long)value);
    put(j, text, (size_t)length);
}

void json_bool(json_line *j, const char *key, bool value) {
    put_key(j, key);
    put(j, value ? "true" : "false", value ? 4 : 5);
}

void json_open(json_line *j, const char *key) {
    put_key(j, key);
    put(j, "{", 1);
}

void json_close(json_line *j) {
    put(j, "}", 1);
}

void json_raw(json_line *j, const char *key, const char *value) {
    put_key(j, key);
    put(j, value, strlen(value));
}

const char *json_end(json_line *j) {
    put(j, "}", 1);
    return j->failed || j->text == NULL ? "" : j->text;
}

void json_free(json_line *j) {
    free(j->text);
    *j = (json_line){.text = NULL};
}

/* Behind `"key": ` or NULL. */
static const char *find_value(const char *object, const char *key) {
    const size_t length = strlen(key);
    for (const char *at = object; (at = strchr(at, '"')) != NULL; at++) {
        if (strncmp(at + 1, key, length) != 0 || at[length + 1] != '"') continue;
        const char *value = at + length + 2;
        while (*value == ' ' || *value == '\n') value++;
        if (*value != ':') continue;
        value++;
        while (*value == ' ' || *value == '\n') value++;
        return value;
    }
    return NULL;
}

bool json_find_number(const char *object, const char *key, double *out_value) {
    const char *text = object != NULL ? find_value(object, key) : NULL;
    char *end = NULL;
    if (text == NULL) return false;
    const double value = strtod(text, &end);
    if (end == text) return false;
    *out_value = value;
    return true;
}

char *json_find_text(const char *object, const char *key) {
    const char *at = object != NULL ? find_value(object, key) : NULL;
    if (at == NULL || *at != '"') return NULL;
    char *text = malloc(strlen(at) + 1);
    size_t length = 0;
    if (text == NULL) return NULL;
    for (at++; *at != '\0' && *at != '"'; at++) {
        if (*at != '\\') {
            text[length++] = *at;
            continue;
        }
        at++;
        if (*at == 'u' && strlen(at) > 4) {
            char code[5] = {at[1], at[2], at[3], at[4], '\0'};
            text[length++] = (char)strtol(code, NULL, 16); /* control characters: all that the writer escapes so */
            at += 4;
        } else if (*at == 'n') {
            text[length++] = '\n';
        } else if (*at == '\0') {
            break;
        } else {
            text[length++] = *at;
        }
    }
    text[length] = '\0';
    return text;
}
