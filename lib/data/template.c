/* template.c: see template.h. A template is read once into pieces, each some literal text and the name after it. */
#include "data/template.h"

#include <stdio.h>

enum { MOST_PIECES = 4096, MOST_SHOWN = 64 };

typedef struct piece {
    const char *text; /* before the name */
    size_t length;
    const char *name; /* NULL in the last piece */
} piece;

struct peft__template {
    peft_context *ctx;
    peft__arena arena;
    const char *where;
    piece *pieces;
    uint32_t count;
    const char **names; /* [name_count], each once */
    uint32_t name_count;
};

/* ---- reading ------------------------------------------------------------------------------------------------- */

static peft_status bad(const peft__template *made, const char *text, size_t at, const char *what) {
    uint32_t line = 1;
    for (size_t i = 0; i < at; i++) line += text[i] == '\n';
    char shown[MOST_SHOWN];
    (void)snprintf(shown, sizeof shown, "%s", text + at);
    peft__utf8_tidy(shown);
    return peft__fail(made->ctx, PEFT_E_FORMAT, "%s: %s at \"%.32s\" (line %u of the text); a brace itself is {{ or }}",
                      made->where, what, shown, line);
}

static peft_status no_memory(const peft__template *made, size_t bytes) {
    return peft__fail_nomem(made->ctx, bytes, "a template");
}

/* The name that begins behind the brace at `at`; *out_end is the byte behind the closing brace. */
static peft_status read_name(peft__template *made, const char *text, size_t length, size_t at, const char **out_name,
                             size_t *out_end) {
    size_t end = at + 1;
    while (end < length && text[end] != '}' && text[end] != '{' && text[end] != '\n') end++;
    if (end >= length || text[end] != '}') return bad(made, text, at, "a { that no } closes");
    size_t first = at + 1, last = end;
    while (first < last && text[first] == ' ') first++;
    while (last > first && text[last - 1] == ' ') last--;
    if (first == last) return bad(made, text, at, "a name is missing");
    const char *name = peft__arena_strndup(&made->arena, text + first, last - first);
    if (name == NULL) return no_memory(made, last - first);
    for (uint32_t i = 0; i < made->name_count; i++)
        if (strcmp(made->names[i], name) == 0) name = made->names[i];
    if (made->name_count == 0 || peft__template_uses(made, name) == 0) made->names[made->name_count++] = name;
    *out_name = name;
    *out_end = end + 1;
    return PEFT_OK;
}

/* Pieces of the text: at most one more than it has opening braces. */
static peft_status read_pieces(peft__template *made, const char *text, size_t length) {
    uint32_t most = 1;
    for (size_t i = 0; i < length; i++) most += text[i] == '{';
    if (most > MOST_PIECES) return bad(made, text, 0, "too many names");
    char *literal = peft__arena_alloc(&made->arena, length + 1);
    made->pieces = peft__arena_alloc(&made->arena, most * sizeof *made->pieces);
    made->names = peft__arena_alloc(&made->arena, most * sizeof *made->names);
    if (literal == NULL || made->pieces == NULL || made->names == NULL) return no_memory(made, length);
    size_t used = 0, begin = 0, at = 0;
    while (at < length) {
        const char letter = text[at];
        const bool doubled = at + 1 < length && text[at + 1] == letter;
        if ((letter == '{' || letter == '}') && doubled) {
            literal[used++] = letter;
            at += 2;
        } else if (letter == '}') {
            return bad(made, text, at, "a } that no { opens");
        } else if (letter == '{') {
            piece *next = &made->pieces[made->count];
            PEFT_TRY(read_name(made, text, length, at, &next->name, &at));
            next->text = literal + begin;
            next->length = used - begin;
            begin = used;
            made->count++;
        } else {
            literal[used++] = letter;
            at++;
        }
    }
    made->pieces[made->count++] = (piece){.text = literal + begin, .length = used - begin};
    return PEFT_OK;
}

peft_status peft__template_create(peft_context *ctx, const char *where, const char *text, size_t length,
                                  peft__template **out_template) {
    if (!peft__utf8_valid(text, length)) return peft__fail(ctx, PEFT_E_FORMAT, "%s is not UTF-8", where);
    if (memchr(text, '\0', length) != NULL) return peft__fail(ctx, PEFT_E_FORMAT, "%s holds a NUL character", where);
    peft__template *made = peft__alloc_zero(ctx->mem, sizeof *made);
    if (made == NULL) return peft__fail_nomem(ctx, sizeof *made, "a template");
    made->ctx = ctx;
    peft__arena_init(&made->arena, ctx->mem);
    made->where = peft__arena_strdup(&made->arena, where);
    const char *copy = peft__arena_strndup(&made->arena, text, length);
    const peft_status status =
        made->where == NULL || copy == NULL ? no_memory(made, length) : read_pieces(made, copy, length);
    if (status < 0) {
        peft__template_destroy(made);
        return status;
    }
    *out_template = made;
    return PEFT_OK;
}

void peft__template_destroy(peft__template *made) {
    if (made == NULL) return;
    peft__arena_free(&made->arena);
    peft__free(made->ctx->mem, made);
}

uint32_t peft__template_uses(const peft__template *made, const char *name) {
    uint32_t uses = 0;
    for (uint32_t i = 0; i < made->count; i++)
        uses += made->pieces[i].name != NULL && strcmp(made->pieces[i].name, name) == 0;
    return uses;
}

const char *peft__template_name(const peft__template *made, uint32_t index) {
    return index < made->name_count ? made->names[index] : NULL;
}

const char *peft__template_where(const peft__template *made) {
    return made->where;
}

/* ---- rendering ------------------------------------------------------------------------------------------------ */

/* Says which row, where there is one. */
static peft_status fail_row(const peft__template *made, const char *file, uint64_t line, peft_status status) {
    if (file == NULL || status == PEFT_E_NOMEM || status == PEFT_E_LIMIT) return status;
    return line > 0 ? peft__fail_in(made->ctx, status, "%s:%llu", file, (unsigned long long)line)
                    : peft__fail_in(made->ctx, status, "%s", file);
}

static peft_status unknown_name(const peft__template *made, const char *name, const peft__json *row,
                                const peft__template_field *fields, size_t field_count) {
    const char *known[MOST_SHOWN], *key;
    char list[200] = "";
    size_t count = 0, used = 0;
    json_t *value;
    for (size_t i = 0; i < field_count && count < MOST_SHOWN; i++) known[count++] = fields[i].name;
    if (row != NULL) json_object_foreach((json_t *)row, key, value) if (count < MOST_SHOWN) known[count++] = key;
    for (size_t i = 0; i < count && used + strlen(known[i]) + 8 < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i > 0 ? ", " : "", known[i]);
    peft__utf8_tidy(list);
    const char *near = peft__closest(name, known, count);
    if (near != NULL)
        return peft__fail(made->ctx, PEFT_E_FORMAT, "%s has {%.60s}, which is no field here; did you mean {%.60s}?",
                          made->where, name, near);
    return peft__fail(made->ctx, PEFT_E_FORMAT, "%s has {%.60s}, which is no field here; the fields are %s",
                      made->where, name, list[0] != '\0' ? list : "none");
}

static peft_status put_value(const peft__template *made, const char *name, const peft__json *value, peft__buffer *out) {
    if (json_is_null(value)) return PEFT_OK;
    if (json_is_string(value)) {
        const size_t length = json_string_length(value);
        if (memchr(json_string_value(value), '\0', length) != NULL)
            return peft__fail(made->ctx, PEFT_E_FORMAT, "\"%.60s\" holds a NUL character", name);
        (void)peft__buffer_put(out, json_string_value(value), length);
    } else if (json_is_integer(value)) {
        (void)peft__buffer_printf(out, "%lld", (long long)json_integer_value(value));
    } else if (json_is_real(value)) {
        (void)peft__json_put_double(out, json_real_value(value));
    } else if (json_is_boolean(value)) {
        (void)peft__buffer_puts(out, json_is_true(value) ? "true" : "false");
    } else {
        return peft__fail(made->ctx, PEFT_E_FORMAT, "\"%.60s\" is text for a template, found %s", name,
                          peft__json_kind(value));
    }
    return PEFT_OK;
}

static peft_status put_name(const peft__template *made, const char *name, size_t start, const peft__json *row,
                            peft__template_field *fields, size_t field_count, peft__buffer *out) {
    for (size_t i = 0; i < field_count; i++) {
        if (strcmp(fields[i].name, name) != 0) continue;
        if (fields[i].at == SIZE_MAX) fields[i].at = out->length - start;
        (void)peft__buffer_put(out, fields[i].text, fields[i].length);
        return PEFT_OK;
    }
    const peft__json *value = row == NULL ? NULL : json_object_get(row, name);
    if (value == NULL) return unknown_name(made, name, row, fields, field_count);
    return put_value(made, name, value, out);
}

peft_status peft__template_render(const peft__template *made, const char *file, uint64_t line, const peft__json *row,
                                  peft__template_field *fields, size_t field_count, peft__buffer *out) {
    const size_t start = out->length;
    for (size_t i = 0; i < field_count; i++) fields[i].at = SIZE_MAX;
    for (uint32_t i = 0; i < made->count; i++) {
        const piece *next = &made->pieces[i];
        (void)peft__buffer_put(out, next->text, next->length);
        if (next->name == NULL) continue;
        const peft_status status = put_name(made, next->name, start, row, fields, field_count, out);
        if (status < 0) return fail_row(made, file, line, status);
    }
    return out->failed ? no_memory(made, out->length) : PEFT_OK;
}
