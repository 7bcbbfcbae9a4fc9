/* text_rows.c: rows of JSONL, JSON arrays and plain text, and the one interface over all of them and CSV.
 *
 * A JSON array is cut into its elements by counting brackets outside of strings; each element is then parsed alone,
 * so that neither memory nor the damage of an error grows with the file. */
#include <stdio.h>

#include "format/rows.h"

#define DEFAULT_ROW_LIMIT ((size_t)64 << 20)

static bool is_space(uint8_t c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static peft_status fail_at(const peft__rows *rows, uint64_t line, const char *what) {
    return peft__fail(rows->ctx, PEFT_E_FORMAT, "%s:%llu: %s", rows->content.name, (unsigned long long)line, what);
}

static peft_status check_row_size(const peft__rows *rows, uint64_t line, size_t size) {
    if (size <= rows->row_limit) return PEFT_OK;
    return peft__fail(rows->ctx, PEFT_E_LIMIT, "%s:%llu: a row of %zu bytes, at most %zu are accepted",
                      rows->content.name, (unsigned long long)line, size, rows->row_limit);
}

/* The next line that holds something but space, without its line end; false at the end. */
static bool take_line(const peft__rows *rows, peft__rows_mark *mark, const uint8_t **out_text, size_t *out_size,
                      uint64_t *out_line) {
    const uint8_t *data = rows->content.data;
    const size_t size = rows->content.size;
    while (mark->offset < size) {
        const uint8_t *start = data + mark->offset;
        const uint8_t *end = memchr(start, '\n', size - mark->offset);
        const size_t next = end != NULL ? (size_t)(end - data) + 1 : size;
        size_t length = (end != NULL ? (size_t)(end - start) : size - mark->offset);
        const uint64_t line = mark->line;
        mark->offset = next;
        if (end != NULL) mark->line++;
        if (length > 0 && start[length - 1] == '\r') length--;
        size_t blank = 0;
        while (blank < length && is_space(start[blank])) blank++;
        if (blank == length) continue;
        *out_text = start;
        *out_size = length;
        *out_line = line;
        return true;
    }
    return false;
}

static peft_status parse_object(peft__rows *rows, uint64_t line, const uint8_t *text, size_t size, json_t **out_row) {
    json_t *row = NULL;
    PEFT_TRY(check_row_size(rows, line, size));
    PEFT_TRY(peft__json_load_piece(rows->ctx, rows->content.name, line, text, size, rows->row_limit, &row));
    if (!json_is_object(row)) {
        const peft_status status = peft__fail(rows->ctx, PEFT_E_FORMAT, "%s:%llu: expected an object, found %s",
                                              rows->content.name, (unsigned long long)line, peft__json_kind(row));
        json_decref(row);
        return status;
    }
    *out_row = row;
    return PEFT_OK;
}

static peft_status jsonl_next(peft__rows *rows, peft__rows_mark *mark, json_t **out_row) {
    const uint8_t *text = NULL;
    size_t size = 0;
    uint64_t line = 0;
    if (!take_line(rows, mark, &text, &size, &line)) return PEFT_END;
    PEFT_TRY(parse_object(rows, line, text, size, out_row));
    rows->line = line;
    return PEFT_OK;
}

static peft_status make_text_row(peft__rows *rows, uint64_t line, const uint8_t *text, size_t size, json_t **out_row) {
    if (!peft__utf8_valid((const char *)text, size)) return fail_at(rows, line, "not valid UTF-8");
    json_t *row = json_object();
    if (row == NULL || json_object_set_new(row, "text", json_stringn_nocheck((const char *)text, size)) != 0) {
        json_decref(row);
        return peft__fail_nomem(rows->ctx, size, "a row");
    }
    rows->line = line;
    *out_row = row;
    return PEFT_OK;
}

static peft_status text_next(peft__rows *rows, peft__rows_mark *mark, json_t **out_row) {
    const uint8_t *text = NULL;
    size_t size = 0;
    uint64_t line = 0;
    if (!take_line(rows, mark, &text, &size, &line)) return PEFT_END;
    PEFT_TRY(check_row_size(rows, line, size));
    return make_text_row(rows, line, text, size, out_row);
}

static peft_status whole_next(peft__rows *rows, peft__rows_mark *mark, json_t **out_row) {
    const size_t size = rows->content.size;
    if (mark->offset >= size) return PEFT_END;
    const uint8_t *text = rows->content.data + mark->offset;
    uint64_t line = mark->line;
    size_t at = mark->offset;
    if (!peft__utf8_valid((const char *)text, size - at)) {
        const uint8_t *end = NULL; /* name the line of the fault, not line 1 */
        while ((end = memchr(rows->content.data + at, '\n', size - at)) != NULL) {
            const size_t next = (size_t)(end - rows->content.data) + 1;
            if (!peft__utf8_valid((const char *)rows->content.data + at, next - at)) break;
            at = next;
            line++;
        }
        return fail_at(rows, line, "not valid UTF-8");
    }
    PEFT_TRY(make_text_row(rows, line, text, size - mark->offset, out_row));
    mark->offset = size;
    return PEFT_OK;
}

static void skip_space(const peft__rows *rows, peft__rows_mark *mark) {
    while (mark->offset < rows->content.size && is_space(rows->content.data[mark->offset]))
        if (rows->content.data[mark->offset++] == '\n') mark->line++;
}

/* Moves behind the value at the mark: brackets are balanced again, or at the next comma or bracket. */
static peft_status skip_value(const peft__rows *rows, peft__rows_mark *mark) {
    const uint8_t *data = rows->content.data;
    const size_t size = rows->content.size, start = mark->offset;
    const uint64_t line = mark->line;
    size_t depth = 0;
    bool quoted = false;
    for (; mark->offset < size; mark->offset++) {
        const uint8_t c = data[mark->offset];
        if (c == '\n') mark->line++;
        if (quoted) {
            if (c == '\\' && mark->offset + 1 < size) mark->offset++;
            quoted = c != '"';
            continue;
        }
        if (c == '"') quoted = true;
        if (depth == 0 && (c == ',' || c == ']' || c == '}')) return PEFT_OK;
        if (c == '[' || c == '{') depth++;
        if ((c == ']' || c == '}') && --depth == 0) {
            mark->offset++;
            return PEFT_OK;
        }
        if (mark->offset - start >= rows->row_limit) return check_row_size(rows, line, mark->offset - start + 1);
    }
    return fail_at(rows, line, "the file ends inside this row");
}

static peft_status array_next(peft__rows *rows, peft__rows_mark *mark, json_t **out_row) {
    const uint8_t *data = rows->content.data;
    const size_t size = rows->content.size;
    skip_space(rows, mark);
    if (mark->offset >= size) return PEFT_END; /* an empty file: arrays end at their bracket */
    if (data[mark->offset] != ']') {
        if (mark->row > 0) {
            if (data[mark->offset] != ',') return fail_at(rows, mark->line, "expected a comma or ] after a row");
            mark->offset++;
            skip_space(rows, mark);
        }
        const uint64_t line = mark->line;
        const size_t start = mark->offset;
        PEFT_TRY(skip_value(rows, mark));
        if (mark->offset == start) return fail_at(rows, line, "expected an object");
        PEFT_TRY(parse_object(rows, line, data + start, mark->offset - start, out_row));
        rows->line = line;
        /* The row after the last one is the end: see now that the array is closed. */
        peft__rows_mark after = *mark;
        skip_space(rows, &after);
        if (after.offset < size) return PEFT_OK;
        json_decref(*out_row);
        *out_row = NULL;
        return fail_at(rows, after.line, "the file ends inside the array");
    }
    mark->offset++;
    skip_space(rows, mark);
    if (mark->offset < size) return fail_at(rows, mark->line, "text behind the end of the array");
    return PEFT_END;
}

/* Puts the first row behind the opening bracket. A file of lines called .json is what it is. */
static peft_status array_open(peft__rows *rows) {
    peft__rows_mark mark = rows->first;
    skip_space(rows, &mark);
    if (mark.offset >= rows->content.size) return PEFT_OK;
    if (rows->content.data[mark.offset] == '{') {
        rows->format = PEFT__ROWS_JSONL;
        return PEFT_OK;
    }
    if (rows->content.data[mark.offset] != '[')
        return fail_at(rows, mark.line, "expected an array of objects, or one object a line");
    mark.offset++;
    rows->first = mark;
    skip_space(rows, &mark);
    return mark.offset < rows->content.size ? PEFT_OK : fail_at(rows, mark.line, "the file ends inside the array");
}

static bool has_suffix(const char *name, size_t length, const char *suffix) {
    const size_t tail = strlen(suffix);
    if (length < tail) return false;
    for (size_t i = 0; i < tail; i++) {
        const char c = name[length - tail + i];
        if ((c >= 'A' && c <= 'Z' ? (char)(c + 32) : c) != suffix[i]) return false;
    }
    return true;
}

/* By the name, .gz taken off. */
static peft__rows_format format_of(const char *name, char *delimiter) {
    size_t length = strlen(name);
    if (has_suffix(name, length, ".gz")) length -= 3;
    if (has_suffix(name, length, ".tsv") && *delimiter == 0) *delimiter = '\t';
    if (has_suffix(name, length, ".tsv") || has_suffix(name, length, ".csv")) return PEFT__ROWS_CSV;
    if (has_suffix(name, length, ".jsonl") || has_suffix(name, length, ".ndjson")) return PEFT__ROWS_JSONL;
    if (has_suffix(name, length, ".json")) return PEFT__ROWS_JSON;
    return PEFT__ROWS_TEXT;
}

static peft_status begin(peft__rows *rows, const peft__rows_options *options) {
    rows->delimiter = options->delimiter;
    rows->strict = options->strict;
    rows->row_limit = options->row_limit != 0 ? options->row_limit : DEFAULT_ROW_LIMIT;
    const peft__rows_format by_name = format_of(rows->content.name, &rows->delimiter);
    rows->format = options->format == PEFT__ROWS_AUTO ? by_name : options->format;
    if (rows->delimiter == 0) rows->delimiter = ',';
    if (rows->delimiter == '"' || rows->delimiter == '\n' || rows->delimiter == '\r')
        return peft__fail(rows->ctx, PEFT_E_ARG, "%s: the delimiter cannot be a quote or a line end",
                          rows->content.name);
    rows->first = (peft__rows_mark){.offset = 0, .line = 1, .row = 0};
    if (rows->content.size >= 3 && memcmp(rows->content.data, "\xef\xbb\xbf", 3) == 0) rows->first.offset = 3;
    peft_status status = PEFT_OK;
    if (rows->format == PEFT__ROWS_CSV) status = peft__csv_open(rows, options->no_header);
    if (rows->format == PEFT__ROWS_JSON) status = array_open(rows);
    rows->next = rows->first;
    return status;
}

peft_status peft__rows_open_source(peft_context *ctx, peft__source *source, const peft__rows_options *options,
                                   peft__rows **out_rows) {
    static const peft__rows_options DEFAULTS = {.format = PEFT__ROWS_AUTO};
    if (options == NULL) options = &DEFAULTS;
    peft__rows *rows = peft__alloc_zero(ctx->mem, sizeof *rows);
    if (rows == NULL) return peft__fail_nomem(ctx, sizeof *rows, "a reader of rows");
    rows->ctx = peft__context_ref(ctx);
    peft_status status = peft__content_open_source(ctx, source, options->limit, &rows->content);
    if (status == PEFT_OK && options->limit != 0 && rows->content.size > options->limit)
        status = peft__fail(ctx, PEFT_E_LIMIT, "%s: %zu bytes, at most %zu are accepted", rows->content.name,
                            rows->content.size, options->limit);
    if (status == PEFT_OK) status = begin(rows, options);
    if (status != PEFT_OK) {
        peft__rows_free(rows);
        return status;
    }
    *out_rows = rows;
    return PEFT_OK;
}

peft_status peft__rows_open(peft_context *ctx, const char *path, const peft__rows_options *options,
                            peft__rows **out_rows) {
    peft__source *source = NULL;
    PEFT_TRY(peft__source_open_path(ctx, path, &source));
    const peft_status status = peft__rows_open_source(ctx, source, options, out_rows);
    peft__source_unref(source);
    return status;
}

peft_status peft__rows_open_memory(peft_context *ctx, const char *name, const void *data, size_t size,
                                   const peft__rows_options *options, peft__rows **out_rows) {
    peft__source *source = NULL;
    PEFT_TRY(peft__source_open_memory(ctx, data, size, name, &source));
    const peft_status status = peft__rows_open_source(ctx, source, options, out_rows);
    peft__source_unref(source);
    return status;
}

void peft__rows_free(peft__rows *rows) {
    if (rows == NULL) return;
    peft_context *ctx = rows->ctx;
    json_decref(rows->columns);
    peft__content_close(&rows->content);
    peft__free(ctx->mem, rows);
    peft__context_unref(ctx);
}

peft_status peft__rows_next(peft__rows *rows, peft__json **out_row) {
    peft__rows_mark mark = rows->next;
    json_t *row = NULL;
    peft_status status = PEFT_END;
    switch (rows->format) {
    case PEFT__ROWS_JSONL:
        status = jsonl_next(rows, &mark, &row);
        break;
    case PEFT__ROWS_JSON:
        status = array_next(rows, &mark, &row);
        break;
    case PEFT__ROWS_CSV:
        status = peft__csv_next(rows, &mark, &row);
        break;
    case PEFT__ROWS_TEXT_WHOLE:
        status = whole_next(rows, &mark, &row);
        break;
    case PEFT__ROWS_TEXT:
    case PEFT__ROWS_AUTO:
        status = text_next(rows, &mark, &row);
        break;
    }
    if (status != PEFT_OK) return status;
    mark.row++;
    rows->next = mark;
    *out_row = row;
    return PEFT_OK;
}

uint64_t peft__rows_line(const peft__rows *rows) {
    return rows->line;
}
peft__rows_mark peft__rows_tell(const peft__rows *rows) {
    return rows->next;
}
const char *peft__rows_name(const peft__rows *rows) {
    return rows->content.name;
}

void peft__rows_seek(peft__rows *rows, const peft__rows_mark *mark) {
    rows->next = mark != NULL && mark->offset <= rows->content.size ? *mark : rows->first;
}
