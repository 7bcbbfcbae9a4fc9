/* yaml.c: libyaml's events into a JSON tree, with a stack of its own so that depth is bounded and nothing recurses.
 *
 * libyaml counts lines from 0; everything handed out counts from 1. */
#include "format/yaml.h"

#include <stdio.h>
#include <yaml.h>

enum { MAX_DEPTH = 32, MAX_NODES = 200000, MAX_PATH = 1024 };
#define DEFAULT_LIMIT ((size_t)1 << 20)

struct peft__yaml_lines {
    peft_context *ctx;
    peft__arena arena;
    peft__table table;
};

/* An open collection. */
typedef struct level {
    json_t *value; /* object or array; owned by its parent, or the root */
    char *key;     /* of an object: the key whose value comes next, in the builder's arena; NULL = a key comes next */
    size_t path;   /* length of the path of this collection */
} level;

typedef struct builder {
    peft_context *ctx;
    const char *name;
    peft__arena arena;
    json_t *root;
    level levels[MAX_DEPTH];
    uint32_t depth;
    size_t nodes;
    char path[MAX_PATH];
    peft__yaml_lines *lines;
} builder;

static peft_status fail_at(const builder *b, const yaml_mark_t *mark, const char *what) {
    return peft__fail(b->ctx, PEFT_E_FORMAT, "%s:%zu:%zu: %s", b->name, mark->line + 1, mark->column + 1, what);
}

static peft_status refuse_at(const builder *b, const yaml_mark_t *mark, const char *what) {
    return peft__fail(b->ctx, PEFT_E_UNSUPPORTED, "%s:%zu:%zu: %s", b->name, mark->line + 1, mark->column + 1, what);
}

/* [-+]?digits: does the whole text read as an integer of the core schema (decimal only)? */
static bool looks_integer(const char *text, size_t length) {
    size_t at = length > 0 && (text[0] == '-' || text[0] == '+') ? 1 : 0;
    if (at == length) return false;
    for (; at < length; at++)
        if (text[at] < '0' || text[at] > '9') return false;
    return true;
}

/* [-+]? ( digits [. digits*] | . digits+ ) ( [eE] [-+]? digits )? */
static bool looks_float(const char *text, size_t length) {
    size_t at = length > 0 && (text[0] == '-' || text[0] == '+') ? 1 : 0, digits = 0;
    for (; at < length && text[at] >= '0' && text[at] <= '9'; at++) digits++;
    if (at < length && text[at] == '.')
        for (at++; at < length && text[at] >= '0' && text[at] <= '9'; at++) digits++;
    if (digits == 0) return false;
    if (at == length) return true;
    if (text[at] != 'e' && text[at] != 'E') return false;
    at++;
    if (at < length && (text[at] == '-' || text[at] == '+')) at++;
    if (at == length) return false;
    for (; at < length; at++)
        if (text[at] < '0' || text[at] > '9') return false;
    return true;
}

static bool equals(const char *text, size_t length, const char *word) {
    return strlen(word) == length && memcmp(text, word, length) == 0;
}

peft__json *peft__yaml_scalar(const char *text, size_t length) {
    if (length == 0 || equals(text, length, "null") || equals(text, length, "~") || equals(text, length, "Null") ||
        equals(text, length, "NULL"))
        return json_null();
    if (equals(text, length, "true")) return json_true();
    if (equals(text, length, "false")) return json_false();
    int64_t integer = 0;
    double real = 0.0;
    const char *digits = text[0] == '+' ? text + 1 : text;
    const size_t count = text[0] == '+' ? length - 1 : length;
    if (looks_integer(text, length) && peft__parse_i64(digits, count, &integer)) return json_integer(integer);
    if (looks_float(text, length)) {
        /* "1." and ".5" are numbers of YAML, but not of every parser of numbers: give it both sides of the point. */
        char clean[80];
        size_t used = 0;
        if (count + 4 > sizeof clean) return json_stringn(text, length);
        for (size_t i = 0; i < count; i++) {
            const bool point = digits[i] == '.';
            if (point && (i == 0 || digits[i - 1] == '-')) clean[used++] = '0';
            clean[used++] = digits[i];
            if (point && (i + 1 == count || digits[i + 1] < '0' || digits[i + 1] > '9')) clean[used++] = '0';
        }
        if (peft__parse_f64(clean, used, &real) && real - real == 0.0) return json_real(real);
    }
    return json_stringn(text, length);
}

/* Extends the path by what comes next in the innermost collection; notes its line unless that is 0. */
static peft_status note_line(builder *b, size_t *out_path, size_t line) {
    size_t length = 0;
    *out_path = 0;
    if (b->depth == 0) return PEFT_OK;
    const level *top = &b->levels[b->depth - 1];
    length = top->path;
    int put = 0;
    if (json_is_array(top->value))
        put = snprintf(b->path + length, MAX_PATH - length, "[%zu]", json_array_size(top->value));
    else
        put = snprintf(b->path + length, MAX_PATH - length, "%s%s", length > 0 ? "." : "", top->key);
    if (put < 0 || (size_t)put >= MAX_PATH - length) {
        *out_path = length; /* too long to be remembered; only lines for error texts are lost */
        return PEFT_OK;
    }
    length += (size_t)put;
    *out_path = length;
    if (b->lines == NULL || line == 0) return PEFT_OK;
    const char *copy = peft__arena_strndup(&b->lines->arena, b->path, length);
    if (copy == NULL || !peft__table_put(&b->lines->table, copy, length, line))
        return peft__fail_nomem(b->ctx, length, "the lines of a YAML file");
    return PEFT_OK;
}

/* Takes over `value` (NULL = out of memory). */
static peft_status attach(builder *b, json_t *value, const yaml_mark_t *mark) {
    if (value == NULL) return peft__fail_nomem(b->ctx, 64, "a YAML tree");
    if (++b->nodes > MAX_NODES) {
        json_decref(value);
        return fail_at(b, mark, "more values than are accepted");
    }
    if (b->depth == 0) {
        b->root = value;
        return PEFT_OK;
    }
    level *top = &b->levels[b->depth - 1];
    int result = 0;
    if (json_is_array(top->value)) {
        result = json_array_append_new(top->value, value);
    } else {
        result = json_object_set_new(top->value, top->key, value);
        top->key = NULL;
    }
    return result == 0 ? PEFT_OK : peft__fail_nomem(b->ctx, 64, "a YAML tree");
}

static bool wants_key(const builder *b) {
    return b->depth > 0 && json_is_object(b->levels[b->depth - 1].value) && b->levels[b->depth - 1].key == NULL;
}

static peft_status take_key(builder *b, const yaml_event_t *event) {
    level *top = &b->levels[b->depth - 1];
    const char *text = (const char *)event->data.scalar.value;
    const size_t length = event->data.scalar.length;
    if (length == 0) return fail_at(b, &event->start_mark, "an empty key");
    if (strlen(text) != length) return fail_at(b, &event->start_mark, "a key with a NUL byte");
    if (equals(text, length, "<<") && event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
        return refuse_at(b, &event->start_mark, "merge keys (<<) are not supported: write the values out");
    if (json_object_get(top->value, text) != NULL)
        return peft__fail(b->ctx, PEFT_E_FORMAT, "%s:%zu:%zu: the key %s is there twice", b->name,
                          event->start_mark.line + 1, event->start_mark.column + 1, text);
    top->key = peft__arena_strndup(&b->arena, text, length);
    if (top->key == NULL) return peft__fail_nomem(b->ctx, length, "a YAML tree");
    size_t path = 0;
    return note_line(b, &path, event->start_mark.line + 1);
}

static peft_status take_scalar(builder *b, const yaml_event_t *event) {
    if (event->data.scalar.anchor != NULL) return refuse_at(b, &event->start_mark, "anchors (&name) are not supported");
    if (event->data.scalar.tag != NULL) return refuse_at(b, &event->start_mark, "tags (!name) are not supported");
    if (wants_key(b)) return take_key(b, event);
    const char *text = (const char *)event->data.scalar.value;
    const size_t length = event->data.scalar.length;
    if (!peft__utf8_valid(text, length)) return fail_at(b, &event->start_mark, "not valid UTF-8");
    if (b->depth > 0 && json_is_array(b->levels[b->depth - 1].value)) {
        size_t path = 0;
        PEFT_TRY(note_line(b, &path, event->start_mark.line + 1));
    }
    json_t *value = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? peft__yaml_scalar(text, length)
                                                                        : json_stringn(text, length);
    return attach(b, value, &event->start_mark);
}

static peft_status open_collection(builder *b, json_t *value, const yaml_event_t *event, const void *anchor,
                                   const void *tag) {
    peft_status status = PEFT_OK;
    size_t path = 0;
    if (anchor != NULL)
        status = refuse_at(b, &event->start_mark, "anchors (&name) are not supported");
    else if (tag != NULL)
        status = refuse_at(b, &event->start_mark, "tags (!name) are not supported");
    else if (wants_key(b))
        status = refuse_at(b, &event->start_mark, "keys must be text");
    else if (b->depth >= MAX_DEPTH)
        status = fail_at(b, &event->start_mark, "nested more than 32 levels deep");
    else /* the line of a member is that of its key, which is noted already */
        status = note_line(
            b, &path, b->depth > 0 && json_is_array(b->levels[b->depth - 1].value) ? event->start_mark.line + 1 : 0);
    if (status != PEFT_OK) {
        json_decref(value);
        return status;
    }
    PEFT_TRY(attach(b, value, &event->start_mark));
    b->levels[b->depth++] = (level){.value = value, .path = path};
    return PEFT_OK;
}

static peft_status take_event(builder *b, const yaml_event_t *event, uint32_t *documents) {
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (++*documents > 1)
            return refuse_at(b, &event->start_mark, "more than one document in a file is not supported");
        return PEFT_OK;
    case YAML_ALIAS_EVENT:
        return refuse_at(b, &event->start_mark, "aliases (*name) are not supported");
    case YAML_SCALAR_EVENT:
        return take_scalar(b, event);
    case YAML_SEQUENCE_START_EVENT:
        return open_collection(b, json_array(), event, event->data.sequence_start.anchor,
                               event->data.sequence_start.tag);
    case YAML_MAPPING_START_EVENT:
        return open_collection(b, json_object(), event, event->data.mapping_start.anchor,
                               event->data.mapping_start.tag);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        b->depth--;
        return PEFT_OK;
    default:
        return PEFT_OK;
    }
}

static peft_status parse_failed(const builder *b, const yaml_parser_t *parser) {
    if (parser->error == YAML_MEMORY_ERROR) return peft__fail_nomem(b->ctx, 64, "a YAML tree");
    const char *what = parser->problem != NULL ? parser->problem : "not valid YAML";
    if (parser->error == YAML_READER_ERROR)
        return peft__fail(b->ctx, PEFT_E_FORMAT, "%s: byte %zu: %s", b->name, parser->problem_offset, what);
    return peft__fail(b->ctx, PEFT_E_FORMAT, "%s:%zu:%zu: %s%s%s", b->name, parser->problem_mark.line + 1,
                      parser->problem_mark.column + 1, what, parser->context != NULL ? " " : "",
                      parser->context != NULL ? parser->context : "");
}

static peft_status build(builder *b, const void *data, size_t size) {
    yaml_parser_t parser;
    if (yaml_parser_initialize(&parser) == 0) return peft__fail_nomem(b->ctx, sizeof parser, "a YAML parser");
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, data, size);
    peft_status status = PEFT_OK;
    uint32_t documents = 0;
    bool end = false;
    while (!end && status == PEFT_OK) {
        yaml_event_t event;
        if (yaml_parser_parse(&parser, &event) == 0) {
            status = parse_failed(b, &parser);
            break;
        }
        end = event.type == YAML_STREAM_END_EVENT;
        status = take_event(b, &event, &documents);
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    return status;
}

static peft_status make_lines(peft_context *ctx, peft__yaml_lines **out_lines) {
    peft__yaml_lines *lines = peft__alloc_zero(ctx->mem, sizeof *lines);
    if (lines == NULL) return peft__fail_nomem(ctx, sizeof *lines, "the lines of a YAML file");
    lines->ctx = peft__context_ref(ctx);
    peft__arena_init(&lines->arena, ctx->mem);
    peft__table_init(&lines->table, ctx->mem);
    *out_lines = lines;
    return PEFT_OK;
}

peft_status peft__yaml_load_memory(peft_context *ctx, const char *name, const void *data, size_t size, size_t limit,
                                   peft__json **out_json, peft__yaml_lines **out_lines) {
    if (limit == 0) limit = DEFAULT_LIMIT;
    if (size > limit)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: %zu bytes of YAML, at most %zu are accepted", name, size, limit);
    builder *b = peft__alloc_zero(ctx->mem, sizeof *b);
    if (b == NULL) return peft__fail_nomem(ctx, sizeof *b, "a YAML tree");
    b->ctx = ctx;
    b->name = name;
    peft__arena_init(&b->arena, ctx->mem);
    peft_status status = out_lines != NULL ? make_lines(ctx, &b->lines) : PEFT_OK;
    if (status == PEFT_OK) status = build(b, data, size);
    if (status == PEFT_OK && (b->root == NULL || json_is_null(b->root))) {
        b->root = json_object();
        if (b->root == NULL) status = peft__fail_nomem(ctx, 64, "a YAML tree");
    }
    if (status == PEFT_OK) {
        *out_json = b->root;
        if (out_lines != NULL) *out_lines = b->lines;
    } else {
        json_decref(b->root);
        peft__yaml_lines_free(b->lines);
    }
    peft__arena_free(&b->arena);
    peft__free(ctx->mem, b);
    return status;
}

peft_status peft__yaml_load_file(peft_context *ctx, const char *path, size_t limit, peft__json **out_json,
                                 peft__yaml_lines **out_lines) {
    peft__source *source = NULL;
    PEFT_TRY(peft__source_open_path(ctx, path, &source));
    const peft_status status =
        peft__yaml_load_memory(ctx, path, source->data, source->size, limit, out_json, out_lines);
    peft__source_unref(source);
    return status;
}

uint32_t peft__yaml_line(const peft__yaml_lines *lines, const char *path) {
    uint64_t line = 0;
    return lines != NULL && peft__table_get(&lines->table, path, strlen(path), &line) ? (uint32_t)line : 0;
}

void peft__yaml_lines_free(peft__yaml_lines *lines) {
    if (lines == NULL) return;
    peft_context *ctx = lines->ctx;
    peft__table_free(&lines->table);
    peft__arena_free(&lines->arena);
    peft__free(ctx->mem, lines);
    peft__context_unref(ctx);
}
