/* text_rows.h: data files that are rows: JSONL, JSON arrays, CSV, TSV, plain text.
 *
 * One row is one JSON object. Rows are read one at a time from the mapped file, and a position can be kept and gone
 * back to, so that a data set can be shuffled without holding it parsed.
 */
#ifndef PEFT_FORMAT_TEXT_ROWS_H
#define PEFT_FORMAT_TEXT_ROWS_H

#include "format/gzip.h"
#include "format/json.h"

typedef enum peft__rows_format {
    PEFT__ROWS_AUTO = 0, /* by the file name (.gz taken off): .jsonl .ndjson .json .csv .tsv, else lines of text */
    PEFT__ROWS_JSONL,
    PEFT__ROWS_JSON, /* one array of objects */
    PEFT__ROWS_CSV,
    PEFT__ROWS_TEXT,      /* {"text": line} for every line that is not empty */
    PEFT__ROWS_TEXT_WHOLE /* one row {"text": the whole file} */
} peft__rows_format;

typedef struct peft__rows_options {
    peft__rows_format format;
    char delimiter;   /* CSV; 0 = ',' and for .tsv a tab */
    bool no_header;   /* CSV: fields are called "column1", "column2", ... */
    bool strict;      /* CSV: a quote inside an unquoted field is an error */
    size_t limit;     /* bytes after inflating, 0 = 4 GiB */
    size_t row_limit; /* bytes of one row, 0 = 64 MiB */
} peft__rows_options;

typedef struct peft__rows peft__rows;

/* A place in the file from which reading may go on. */
typedef struct peft__rows_mark {
    size_t offset;
    uint64_t line, row;
} peft__rows_mark;

/* `options` NULL = all defaults. */
peft_status peft__rows_open(peft_context *ctx, const char *path, const peft__rows_options *options,
                            peft__rows **out_rows);
peft_status peft__rows_open_source(peft_context *ctx, peft__source *source, const peft__rows_options *options,
                                   peft__rows **out_rows);
/* The bytes are borrowed. */
peft_status peft__rows_open_memory(peft_context *ctx, const char *name, const void *data, size_t size,
                                   const peft__rows_options *options, peft__rows **out_rows);
void peft__rows_free(peft__rows *rows);

/* The next row (release with json_decref), or PEFT_END with *out_row untouched. After an error the reader stays
 * where it was. */
peft_status peft__rows_next(peft__rows *rows, peft__json **out_row);
/* Line on which the row handed out last began, from 1. */
uint64_t peft__rows_line(const peft__rows *rows);
peft__rows_mark peft__rows_tell(const peft__rows *rows);             /* of the row that comes next */
void peft__rows_seek(peft__rows *rows, const peft__rows_mark *mark); /* NULL = the first row */
const char *peft__rows_name(const peft__rows *rows);

#endif
