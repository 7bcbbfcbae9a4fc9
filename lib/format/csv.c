/* csv.c: CSV and TSV by RFC 4180, line ends CRLF or LF.
 *
 * A record is read into an array of strings first; the header names its members afterwards. Lines that are empty are
 * skipped, everything else must have as many fields as the header: a shifted column is worse than an error. */
#include <stdio.h>

#include "format/rows.h"

enum { MAX_COLUMNS = 4096 };

/* Reading one record. */
typedef struct record {
    const peft__rows *rows;
    const char *data;
    size_t size, at, start;
    uint64_t first_line, line; /* where the record began, where `at` is */
    peft__buffer field;
    json_t *fields;
} record;

static peft_status fail_at(const record *r, uint64_t line, const char *what) {
    return peft__fail(r->rows->ctx, PEFT_E_FORMAT, "%s:%llu: %s", r->rows->content.name, (unsigned long long)line,
                      what);
}

static bool line_ends(const record *r) {
    if (r->at >= r->size || r->data[r->at] == '\n') return true;
    return r->data[r->at] == '\r' && (r->at + 1 == r->size || r->data[r->at + 1] == '\n');
}

static void skip_line_end(record *r) {
    if (r->at < r->size && r->data[r->at] == '\r') r->at++;
    if (r->at < r->size && r->data[r->at] == '\n') {
        r->at++;
        r->line++;
    }
}

static peft_status put_field(record *r, const char *text, size_t length) {
    if (!peft__utf8_valid(text, length)) return fail_at(r, r->first_line, "not valid UTF-8");
    if (json_array_size(r->fields) >= MAX_COLUMNS) return fail_at(r, r->first_line, "more than 4096 fields");
    return json_array_append_new(r->fields, json_stringn(text, length)) == 0
               ? PEFT_OK
               : peft__fail_nomem(r->rows->ctx, length, "a row");
}

static peft_status take_quoted(record *r) {
    const uint64_t opened = r->line;
    peft__buffer_clear(&r->field);
    for (r->at++;;) {
        const char *quote = r->at < r->size ? memchr(r->data + r->at, '"', r->size - r->at) : NULL;
        const size_t end = quote != NULL ? (size_t)(quote - r->data) : r->size;
        if (end - r->start > r->rows->row_limit)
            return fail_at(r, opened, "a row longer than is accepted, or a quote that is never closed");
        if (quote == NULL) return fail_at(r, opened, "a quote is opened here and never closed");
        for (size_t i = r->at; i < end; i++)
            if (r->data[i] == '\n') r->line++;
        if (!peft__buffer_put(&r->field, r->data + r->at, end - r->at))
            return peft__fail_nomem(r->rows->ctx, end - r->at, "a row");
        r->at = end + 1;
        if (r->at >= r->size || r->data[r->at] != '"') break;
        if (!peft__buffer_puts(&r->field, "\"")) return peft__fail_nomem(r->rows->ctx, 1, "a row");
        r->at++;
    }
    if (!line_ends(r) && r->data[r->at] != r->rows->delimiter)
        return fail_at(r, r->line, "text behind the closing quote of a field");
    return put_field(r, r->field.data != NULL ? r->field.data : "", r->field.length);
}

static peft_status take_plain(record *r) {
    const size_t start = r->at;
    for (; !line_ends(r) && r->data[r->at] != r->rows->delimiter; r->at++)
        if (r->data[r->at] == '"' && r->rows->strict)
            return fail_at(r, r->line, "a quote inside a field without quotes");
    if (r->at - r->start > r->rows->row_limit) return fail_at(r, r->first_line, "a row longer than is accepted");
    return put_field(r, r->data + start, r->at - start);
}

static peft_status take_fields(record *r) {
    for (;;) {
        PEFT_TRY(r->at < r->size && r->data[r->at] == '"' ? take_quoted(r) : take_plain(r));
        if (line_ends(r)) break;
        r->at++; /* the delimiter */
    }
    skip_line_end(r);
    return PEFT_OK;
}

/* The fields of the next record that is not an empty line; *mark moves behind it, *out_line is where it began. */
static peft_status take_record(const peft__rows *rows, peft__rows_mark *mark, json_t **out_fields, uint64_t *out_line) {
    record r = {.rows = rows,
                .data = (const char *)rows->content.data,
                .size = rows->content.size,
                .at = mark->offset,
                .line = mark->line};
    while (r.at < r.size && line_ends(&r)) skip_line_end(&r);
    if (r.at >= r.size) return PEFT_END;
    r.start = r.at;
    r.first_line = r.line;
    r.fields = json_array();
    if (r.fields == NULL) return peft__fail_nomem(rows->ctx, 64, "a row");
    peft__buffer_init(&r.field, rows->ctx->mem);
    const peft_status status = take_fields(&r);
    peft__buffer_free(&r.field);
    if (status != PEFT_OK) {
        json_decref(r.fields);
        return status;
    }
    mark->offset = r.at;
    mark->line = r.line;
    *out_fields = r.fields;
    *out_line = r.first_line;
    return PEFT_OK;
}

static peft_status check_names(peft__rows *rows, uint64_t line) {
    const char *file = rows->content.name;
    json_t *seen = json_object();
    peft_status status = seen != NULL ? PEFT_OK : peft__fail_nomem(rows->ctx, 64, "the names of columns");
    for (size_t i = 0; i < json_array_size(rows->columns) && status == PEFT_OK; i++) {
        const json_t *name = json_array_get(rows->columns, i);
        const char *text = json_string_value(name);
        if (text[0] == '\0' || strlen(text) != json_string_length(name))
            status = peft__fail(rows->ctx, PEFT_E_FORMAT, "%s:%llu: column %zu has no name", file,
                                (unsigned long long)line, i + 1);
        else if (json_object_get(seen, text) != NULL)
            status = peft__fail(rows->ctx, PEFT_E_FORMAT, "%s:%llu: two columns are called %s", file,
                                (unsigned long long)line, text);
        else if (json_object_set_new(seen, text, json_true()) != 0)
            status = peft__fail_nomem(rows->ctx, 64, "the names of columns");
    }
    json_decref(seen);
    return status;
}

peft_status peft__csv_open(peft__rows *rows, bool no_header) {
    peft__rows_mark mark = rows->first;
    uint64_t line = 0;
    const peft_status status = take_record(rows, &mark, &rows->columns, &line);
    if (status == PEFT_END) return PEFT_OK; /* an empty file has no rows */
    PEFT_TRY(status);
    if (!no_header) {
        rows->first = mark;
        return check_names(rows, line);
    }
    for (size_t i = 0; i < json_array_size(rows->columns); i++) {
        char name[32];
        snprintf(name, sizeof name, "column%zu", i + 1);
        if (json_array_set_new(rows->columns, i, json_string(name)) != 0)
            return peft__fail_nomem(rows->ctx, sizeof name, "the names of columns");
    }
    return PEFT_OK;
}

peft_status peft__csv_next(peft__rows *rows, peft__rows_mark *mark, json_t **out_row) {
    json_t *fields = NULL;
    uint64_t line = 0;
    const peft_status status = take_record(rows, mark, &fields, &line);
    if (status != PEFT_OK) return status;
    const size_t found = json_array_size(fields), expected = json_array_size(rows->columns);
    if (found != expected) {
        json_decref(fields);
        return peft__fail(rows->ctx, PEFT_E_FORMAT, "%s:%llu: row %llu has %zu fields, expected %zu",
                          rows->content.name, (unsigned long long)line, (unsigned long long)mark->row + 1, found,
                          expected);
    }
    json_t *row = json_object();
    bool failed = row == NULL;
    for (size_t i = 0; i < found && !failed; i++)
        failed =
            json_object_set(row, json_string_value(json_array_get(rows->columns, i)), json_array_get(fields, i)) != 0;
    json_decref(fields);
    if (failed) {
        json_decref(row);
        return peft__fail_nomem(rows->ctx, 64, "a row");
    }
    rows->line = line;
    *out_row = row;
    return PEFT_OK;
}
