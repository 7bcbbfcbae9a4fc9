/* json.h: JSON through Jansson, made safe for files from strangers.
 *
 * Jansson is a good parser of good files. This layer adds what it leaves to the caller: size, depth and count of
 * values are checked before it runs, duplicate keys are errors, and every complaint names file, line and column or
 * the key. Values are plain json_t: use Jansson's own functions to walk them (objects keep the order of the file).
 *
 * Integers of more than 64 bits (model_max_length in tokenizer_config.json is 10^30) come out as reals.
 * Strings may hold NUL bytes (JSON_ALLOW_NUL): the getters below refuse those, json_string_length tells.
 */
#ifndef PEFT_FORMAT_JSON_H
#define PEFT_FORMAT_JSON_H

#include <jansson.h>

#include "base/base.h"

typedef json_t peft__json;

enum { PEFT__JSON_DEPTH = 64 };
#define PEFT__JSON_LIMIT ((size_t)256 << 20) /* bytes, where the caller gives no limit */

/* `limit` in bytes, 0 = PEFT__JSON_LIMIT. The result is released with json_decref. `name` is for error texts. */
peft_status peft__json_load_file(peft_context *ctx, const char *path, size_t limit, peft__json **out_json);
peft_status peft__json_load_memory(peft_context *ctx, const char *name, const void *data, size_t size, size_t limit,
                                   peft__json **out_json);
/* With an own limit on depth (safetensors headers). */
peft_status peft__json_load_depth(peft_context *ctx, const char *name, const void *data, size_t size, size_t limit,
                                  uint32_t depth, peft__json **out_json);

/* As memory, for a piece of a file: `line` is the line on which it begins, from 1. */
peft_status peft__json_load_piece(peft_context *ctx, const char *name, uint64_t line, const void *data, size_t size,
                                  size_t limit, peft__json **out_json);

/* ---- typed getters ----
 * `where` says what `object` is, for example "config.json" or "config.json: rope_scaling"; errors read
 * "where: key: expected ..., found ...". get: absent or null gives the fallback. need: absent or null is an error. */

peft_status peft__json_get_string(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                  const char *fallback, const char **out); /* owned by the object */
peft_status peft__json_need_string(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                   const char **out);
/* 3.0 counts as the integer 3. */
peft_status peft__json_get_int(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                               int64_t min, int64_t max, int64_t fallback, int64_t *out);
peft_status peft__json_need_int(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                int64_t min, int64_t max, int64_t *out);
/* Integers count as numbers. */
peft_status peft__json_get_double(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                  double min, double max, double fallback, double *out);
peft_status peft__json_need_double(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                   double min, double max, double *out);
peft_status peft__json_get_bool(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                bool fallback, bool *out);
peft_status peft__json_need_bool(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                 bool *out);
/* Borrowed; get leaves NULL in *out when absent. */
peft_status peft__json_get_array(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                 const peft__json **out);
peft_status peft__json_need_array(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                  const peft__json **out);
peft_status peft__json_get_object(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                  const peft__json **out);
peft_status peft__json_need_object(peft_context *ctx, const peft__json *object, const char *where, const char *key,
                                   const peft__json **out);
/* The value of a key, or NULL when it is absent or null. */
const peft__json *peft__json_value(const peft__json *object, const char *key);
/* "an object", "a string", ... for error texts. */
const char *peft__json_kind(const peft__json *value);

/* ---- writing ----
 * The text that Python's json.dumps gives with indent=2 and sort_keys=True: ASCII only, numbers as repr writes them,
 * no line end after the last brace. `indent` 0 puts all on one line with ", " and ": " between. */
peft_status peft__json_dump(peft_context *ctx, const peft__json *value, uint32_t indent, bool sort_keys,
                            peft__buffer *out);
/* A JSON string with its quotes; bytes that are not UTF-8 become U+FFFD. `ascii` escapes everything above U+007E. */
bool peft__json_put_string(peft__buffer *out, const char *text, size_t length, bool ascii);
/* Shortest decimal that reads back as the same double, in the form of Python's repr: 1e-05, 0.1, 2.0. */
bool peft__json_put_double(peft__buffer *out, double value);
/* Dumps indented and sorted, adds a line end when asked, and writes the file atomically. */
peft_status peft__json_write_file(peft_context *ctx, const char *path, const peft__json *value, bool newline);

#endif
