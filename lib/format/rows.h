/* rows.h: the state of a row reader, shared by text_rows.c and csv.c. */
#ifndef PEFT_FORMAT_ROWS_H
#define PEFT_FORMAT_ROWS_H

#include "format/text_rows.h"

struct peft__rows {
    peft_context *ctx;
    peft__content content;
    peft__rows_format format; /* never AUTO */
    char delimiter;
    bool strict;
    size_t row_limit;
    peft__rows_mark first, next;
    uint64_t line;   /* of the row handed out last */
    json_t *columns; /* CSV: array of names */
};

/* Reads what comes at rows->next; on success moves *mark behind it. PEFT_END at the end of the file. */
peft_status peft__csv_next(peft__rows *rows, peft__rows_mark *mark, json_t **out_row);
/* Reads the names of the columns, or makes them up, and moves rows->first behind them. */
peft_status peft__csv_open(peft__rows *rows, bool no_header);

#endif
