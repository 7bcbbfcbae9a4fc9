/* Rows: the first byte chooses format and options. Reading ends, and going back gives the first row again. */
#include "format/text_rows.h"
#include "fuzz_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    peft_context *ctx = fuzz_begin();
    const peft__rows_options options = {.format = (peft__rows_format)(data[0] % 6),
                                        .delimiter = (data[0] & 64) != 0 ? '\t' : 0,
                                        .no_header = (data[0] & 32) != 0,
                                        .strict = (data[0] & 128) != 0,
                                        .limit = 1 << 20,
                                        .row_limit = 1 << 16};
    peft__rows *rows = NULL;
    if (peft__rows_open_memory(ctx, "input.csv", data + 1, size - 1, &options, &rows) == PEFT_OK) {
        json_t *row = NULL, *first = NULL;
        size_t count = 0;
        while (peft__rows_next(rows, &row) == PEFT_OK) {
            if (count++ == 0)
                first = row;
            else
                json_decref(row);
            row = NULL;
            if (count > size) abort(); /* a row takes at least a byte */
        }
        peft__rows_seek(rows, NULL);
        if (first != NULL && (peft__rows_next(rows, &row) != PEFT_OK || !json_equal(first, row))) abort();
        json_decref(first);
        json_decref(row);
    }
    peft__rows_free(rows);
    fuzz_end(ctx);
    return 0;
}
