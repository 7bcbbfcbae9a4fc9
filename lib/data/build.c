/* build.c: from the bytes of a file to examples.
 *
 * Rows go to one part of a split by their number alone: of every 1/fraction rows in a row, one that the seed chooses is for validation.
 * The share is exact, neighbours (which are often alike) are spread over both parts, and nothing has to know how many rows there are, so
 * reading can stop early. A plain text is cut once instead, near its end: shuffling its windows would let the model learn
 * the text around the windows it is judged by.
 */
#include "data/data.h"

#include <math.h>

#include "format/text_rows.h"

/* ---- plain text --------------------------------------------------------------------------------------------- */

static bool ends_with(const char *name, size_t length, const char *suffix) {
    const size_t tail = strlen(suffix);
    if (length < tail) return false;
    for (size_t i = 0; i < tail; i++) {
        const char letter = name[length - tail + i];
        if ((letter >= 'A' && letter <= 'Z' ? (char)(letter - 'A' + 'a') : letter) != suffix[i]) return false;
    }
    return true;
}

/* Do the file's ending, .gz taken off, and its form call for rows? */
static bool is_rows(const char *name, int32_t format) {
    if (format != PEFT_DATA_AUTO) return format != PEFT_DATA_TEXT;
    static const char *const ENDINGS[] = {".jsonl", ".ndjson", ".json", ".csv", ".tsv"};
    size_t length = strlen(name);
    if (ends_with(name, length, ".gz")) length -= 3;
    for (size_t i = 0; i < PEFT_COUNT(ENDINGS); i++)
        if (ends_with(name, length, ENDINGS[i])) return true;
    return false;
}

/* Where the validation part of a text begins: behind a line end if one is near, never inside a character. */
static size_t text_split(const char *text, size_t length, double fraction) {
    size_t at = (size_t)llround((double)length * (1.0 - fraction));
    if (at >= length) return length;
    const size_t near_end = peft__min_size(length, at + 4096);
    for (size_t i = at; i < near_end; i++)
        if (text[i] == '\n') return i + 1;
    while (at > 0 && ((uint8_t)text[at] & 0xc0) == 0x80) at--;
    return at;
}

static peft_status read_text(peft__encoder *encoder, const peft__content *content, peft__store *store) {
    const peft_dataset_options *options = encoder->options;
    const char *text = (const char *)content->data;
    size_t length = content->size;
    if (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
        length -= 3;
    }
    if (!peft__utf8_valid(text, length)) return peft__fail(encoder->ctx, PEFT_E_FORMAT, "%s: not valid UTF-8", content->name);
    const size_t split = text_split(text, length, options->validation_fraction);
    bool is_end = true;
    if (options->part == PEFT_PART_TRAIN) {
        is_end = split == length;
        length = split;
    } else if (options->part == PEFT_PART_VALIDATION) {
        text += split;
        length -= split;
    }
    const peft_status status = peft__encode_windows(encoder, text, length, is_end, store);
    return status < 0 ? peft__fail_in(encoder->ctx, status, "%s", content->name) : status;
}

/* ---- rows ------------------------------------------------------------------------------------------------------ */

/* Is row number `row` of the part that the options ask for? */
static bool in_part(const peft_dataset_options *options, uint64_t row) {
    if (options->part == PEFT_PART_ALL) return true;
    const double fraction = options->validation_fraction;
    bool validation = fraction >= 1.0;
    if (fraction > 0.0 && fraction < 1.0) {
        /* Block b holds the rows r with floor(r * fraction) = b. */
        const double block = floor((double)row * fraction);
        uint64_t first = (uint64_t)ceil(block / fraction), end = (uint64_t)ceil((block + 1.0) / fraction);
        if (first > row) first = row;
        if (end <= row) end = row + 1;
        const uint64_t stream[1] = {(uint64_t)block};
        peft__rng rng = peft__rng_make(options->seed, peft__hash64(stream, sizeof stream, UINT64_C(0x73706c6974)));
        validation = first + peft__rng_below(&rng, end - first) == row;
    }
    return validation == (options->part == PEFT_PART_VALIDATION);
}

static void note_bad_row(peft__encoder *encoder, uint64_t line) {
    peft__reading *reading = &encoder->reading;
    if (reading->skipped[PEFT__SKIP_BAD]++ != 0) return;
    reading->skipped_line[PEFT__SKIP_BAD] = line;
    const char *text = encoder->ctx->error;
    const size_t length = peft__min_size(strlen(text), sizeof reading->bad_reason - 1);
    memcpy(reading->bad_reason, text, length);
    reading->bad_reason[length] = '\0';
    peft__utf8_tidy(reading->bad_reason);
}

/* A line that is no JSON keeps the reader where it is: go on behind its end. False when the file is not one of lines. */
static bool skip_line(peft__rows *rows, const peft__content *content, uint64_t *out_line) {
    const uint8_t *data = content->data;
    size_t at = content->size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    while (at < content->size && (data[at] == ' ' || data[at] == '\n' || data[at] == '\r' || data[at] == '\t')) at++;
    if (at < content->size && data[at] == '[') return false;
    size_t length = strlen(content->name);
    if (ends_with(content->name, length, ".gz")) length -= 3;
    if (ends_with(content->name, length, ".csv") || ends_with(content->name, length, ".tsv")) return false;
    peft__rows_mark mark = peft__rows_tell(rows);
    /* Blank lines come before the bad one. */
    while (mark.offset < content->size) {
        const uint8_t *start = data + mark.offset, *end = memchr(start, '\n', content->size - mark.offset);
        const size_t size = end != NULL ? (size_t)(end - start) : content->size - mark.offset;
        bool blank = true;
        for (size_t i = 0; i < size; i++)
            if (start[i] != ' ' && start[i] != '\t' && start[i] != '\r') blank = false;
        *out_line = mark.line;
        mark.offset += size + (end != NULL ? 1 : 0);
        mark.line += end != NULL ? 1 : 0;
        if (!blank) break;
    }
    mark.row++;
    peft__rows_seek(rows, &mark);
    return true;
}

/* The next row as a record, which reads the texts in *out_row; that is NULL when the row was skipped. PEFT_END at the end. */
static peft_status next_record(peft__rows *rows, const peft__content *content, peft__encoder *encoder, peft__records *records,
                               uint64_t *number, peft__json **out_row) {
    const bool skips = encoder->options->on_bad_row == PEFT_BAD_ROW_SKIP;
    peft__json *row = NULL;
    peft_status status = peft__rows_next(rows, &row);
    if (status == PEFT_E_FORMAT && skips) {
        uint64_t line = 0;
        if (!skip_line(rows, content, &line)) return status;
        note_bad_row(encoder, line);
        (*number)++;
        return PEFT_OK;
    }
    if (status != PEFT_OK) return status;
    const uint64_t line = peft__rows_line(rows);
    if (!in_part(encoder->options, (*number)++)) {
        encoder->reading.other_part++;
        json_decref(row);
        return PEFT_OK;
    }
    encoder->reading.rows++;
    status = peft__records_read(records, row);
    if (status < 0) status = peft__fail_in(encoder->ctx, status, "%s:%llu", content->name, (unsigned long long)line);
    if (status >= 0) {
        *out_row = row;
        return status;
    }
    json_decref(row);
    if (!skips || (status != PEFT_E_FORMAT && status != PEFT_E_ARG)) return status;
    note_bad_row(encoder, line);
    return PEFT_OK;
}

static peft_status read_rows(peft__encoder *encoder, peft__records *records, const peft__content *content, peft__store *store) {
    peft__rows *rows = NULL;
    PEFT_TRY(peft__rows_open_memory(encoder->ctx, content->name, content->data, content->size, NULL, &rows));
    const int64_t most = encoder->options->max_examples;
    uint64_t number = 0;
    peft_status status = PEFT_OK;
    while (status == PEFT_OK && (most <= 0 || store->example_count < most)) {
        peft__json *row = NULL;
        status = next_record(rows, content, encoder, records, &number, &row);
        if (row == NULL) continue;
        const uint64_t line = peft__rows_line(rows);
        status = peft__encode_record(encoder, records, line, store);
        json_decref(row);
        if (status == PEFT_E_FORMAT || status == PEFT_E_MISMATCH)
            status = peft__fail_in(encoder->ctx, status, "%s:%llu", content->name, (unsigned long long)line);
    }
    peft__rows_free(rows);
    return status == PEFT_END ? PEFT_OK : status;
}

peft_status peft__dataset_read(peft_context *ctx, peft__source *source, const char *name, const peft__data_base *base,
                               peft_dataset *dataset) {
    peft__content content;
    PEFT_TRY(peft__content_open_source(ctx, source, 0, &content));
    content.name = name;
    peft__encoder encoder;
    peft__records records;
    peft__encoder_init(&encoder, ctx, base->tokenizer, &dataset->options, dataset->max_length, base->vocab);
    peft__records_init(&records, ctx, base->tokenizer, &dataset->options);
    const bool rows = is_rows(name, dataset->options.format);
    peft_status status = rows ? read_rows(&encoder, &records, &content, &dataset->store) : read_text(&encoder, &content, &dataset->store);
    if (status >= 0 && records.chat != NULL) {
        dataset->chat_name = peft__arena_strdup(&dataset->texts, peft__chat_name(records.chat));
        if (dataset->chat_name == NULL) status = peft__fail_nomem(ctx, 64, "a data set");
    }
    if (status >= 0)
        status = peft__dataset_write_report(dataset, name, &encoder.reading, rows ? records.format : PEFT_DATA_TEXT, records.chat_by_default);
    peft__records_free(&records);
    peft__encoder_free(&encoder);
    peft__content_close(&content);
    return status;
}
