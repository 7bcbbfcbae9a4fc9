/* build.c: from the bytes of a file to examples.
 *
 * Rows go to one part of a split by their number alone: of every 1/fraction rows in a row, one that the seed chooses is
 * for validation. The share is exact, neighbours (which are often alike) are spread over both parts, and nothing has to
 * know how many rows there are, so reading can stop early. A plain text is cut once instead, near its end: shuffling
 * its windows would let the model learn the text around the windows it is judged by.
 */
#include "data/data.h"

#include <math.h>

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
    if (format != PEFT_DATA_AUTO && format != PEFT_DATA_MASKED_LM) return format != PEFT_DATA_TEXT;
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
    if (!peft__utf8_valid(text, length))
        return peft__fail(encoder->ctx, PEFT_E_FORMAT, "%s: not valid UTF-8", content->name);
    const size_t split = text_split(text, length, options->validation_fraction);
    bool is_end = true;
    if (options->part == PEFT_PART_TRAIN) {
        is_end = split == length;
        length = split;
    } else if (options->part == PEFT_PART_VALIDATION) {
        text += split;
        length -= split;
    }
    const bool masked = options->format == PEFT_DATA_MASKED_LM;
    const int64_t before = store->example_count;
    const peft_status status = masked ? peft__encode_masked(encoder, text, length, 1, store)
                                      : peft__encode_windows(encoder, text, length, is_end, store);
    if (masked) encoder->reading.rows = (uint64_t)(store->example_count - before);
    return status < 0 ? peft__fail_in(encoder->ctx, status, "%s", content->name) : status;
}

/* ---- rows ------------------------------------------------------------------------------------------------------ */

/* Rows of a file, whichever way they are written. */
typedef struct row_source {
    const peft__content *content;
    peft__rows *rows; /* NULL: sentences in columns, or questions */
    peft__conll conll;
    peft__squad squad; /* where it has a tree */
} row_source;

static peft_status open_rows(peft__encoder *encoder, const peft__content *content, bool columns,
                             row_source *out_source) {
    row_source source = {.content = content};
    if (columns)
        PEFT_TRY(peft__conll_open(encoder->ctx, content, encoder->options, &source.conll));
    else if (encoder->options->format == PEFT_DATA_QUESTION_ANS && peft__squad_detect(content))
        PEFT_TRY(peft__squad_open(encoder->ctx, content, &source.squad));
    else
        PEFT_TRY(peft__rows_open_memory(encoder->ctx, content->name, content->data, content->size, NULL, &source.rows));
    *out_source = source;
    return PEFT_OK;
}

static peft_status next_row(row_source *source, peft__json **out_row) {
    if (source->squad.tree != NULL) return peft__squad_next(&source->squad, out_row);
    return source->rows != NULL ? peft__rows_next(source->rows, out_row) : peft__conll_next(&source->conll, out_row);
}

static uint64_t row_line(const row_source *source) {
    if (source->squad.tree != NULL) return source->squad.row;
    return source->rows != NULL ? peft__rows_line(source->rows) : source->conll.row_line;
}

bool peft__in_part(const peft_dataset_options *options, uint64_t row) {
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

/* A line that is no JSON keeps the reader where it is: go on behind its end. False when the file is not one of lines.
 */
static bool skip_line(row_source *source, uint64_t *out_line) {
    const peft__content *content = source->content;
    const uint8_t *data = content->data;
    if (source->squad.tree != NULL) {
        *out_line = source->squad.row;
        return true;
    }
    if (source->rows == NULL) { /* the reader is behind it already */
        *out_line = source->conll.row_line;
        return true;
    }
    size_t at = content->size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    while (at < content->size && (data[at] == ' ' || data[at] == '\n' || data[at] == '\r' || data[at] == '\t')) at++;
    if (at < content->size && data[at] == '[') return false;
    size_t length = strlen(content->name);
    if (ends_with(content->name, length, ".gz")) length -= 3;
    if (ends_with(content->name, length, ".csv") || ends_with(content->name, length, ".tsv")) return false;
    peft__rows_mark mark = peft__rows_tell(source->rows);
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
    peft__rows_seek(source->rows, &mark);
    return true;
}

/* The next row as a record, which reads the texts in *out_row; that is NULL when the row was skipped. PEFT_END at the
 * end. */
static peft_status next_record(row_source *source, peft__encoder *encoder, peft__records *records, uint64_t *number,
                               peft__json **out_row) {
    const bool skips = encoder->options->on_bad_row == PEFT_BAD_ROW_SKIP;
    peft__json *row = NULL;
    peft_status status = next_row(source, &row);
    if (status == PEFT_E_FORMAT && skips) {
        uint64_t line = 0;
        if (!skip_line(source, &line)) return status;
        note_bad_row(encoder, line);
        (*number)++;
        return PEFT_OK;
    }
    if (status != PEFT_OK) return status;
    const uint64_t line = row_line(source);
    if (!peft__in_part(encoder->options, (*number)++)) {
        encoder->reading.other_part++;
        json_decref(row);
        return PEFT_OK;
    }
    encoder->reading.rows++;
    status = peft__records_read(records, row);
    if (status < 0)
        status = peft__fail_in(encoder->ctx, status, "%s:%llu", source->content->name, (unsigned long long)line);
    if (status >= 0) {
        *out_row = row;
        return status;
    }
    json_decref(row);
    if (!skips || (status != PEFT_E_FORMAT && status != PEFT_E_ARG)) return status;
    note_bad_row(encoder, line);
    return PEFT_OK;
}

/* First reading, for names of classes: of all rows, so that both parts of a split number them alike. Faults are left to
 * the second. */
static peft_status collect_labels(peft__encoder *encoder, peft__records *records, row_source *source) {
    peft__labels *labels = records->labels;
    const int32_t format = records->format;
    const bool choices = format == PEFT_DATA_CHOICES && encoder->options->verbalizer_count > 0;
    const bool named = choices || format == PEFT_DATA_CLASSIFICATION || format == PEFT_DATA_MULTI_LABEL ||
                       format == PEFT_DATA_TOKEN_CLS;
    if (!named) return PEFT_OK;
    const bool skips = encoder->options->on_bad_row == PEFT_BAD_ROW_SKIP;
    peft_status status = labels->given ? PEFT_END : PEFT_OK;
    uint64_t line = 0;
    while (status == PEFT_OK) {
        peft__json *row = NULL;
        status = next_row(source, &row);
        if (status == PEFT_E_FORMAT) status = skips && skip_line(source, &line) ? PEFT_OK : PEFT_END;
        if (row == NULL) continue;
        status = choices ? peft__choices_collect(records, row) : peft__labelled_collect(records, row);
        if (status == PEFT_E_FORMAT && skips) status = PEFT_OK;
        if (status < 0)
            status = peft__fail_in(encoder->ctx, status, "%s:%llu", source->content->name,
                                   (unsigned long long)row_line(source));
        json_decref(row);
    }
    if (status < 0) return status;
    status = peft__labels_finish(encoder->ctx, labels);
    if (status >= 0 && choices) status = peft__choices_check_labels(records);
    return status < 0 ? peft__fail_in(encoder->ctx, status, "%s", source->content->name) : status;
}

/* Room for the numbers of one row; the store has as many for each example. */
static peft_status prepare_targets(peft_context *ctx, peft__records *records, peft__store *store) {
    if (store->learns != PEFT__LEARNS_TARGETS) return PEFT_OK;
    const peft__labels *labels = records->labels;
    store->target_cols = records->format == PEFT_DATA_MULTI_LABEL ? labels->count : peft__max_i64(labels->outputs, 1);
    if (store->target_cols < 1) return peft__fail(ctx, PEFT_E_FORMAT, "no row has a label");
    records->target_cols = store->target_cols;
    const size_t bytes = (size_t)store->target_cols * sizeof *records->targets;
    records->targets = peft__alloc(ctx->mem, bytes);
    return records->targets != NULL ? PEFT_OK : peft__fail_nomem(ctx, bytes, "the targets of a row");
}

/* The row as text, for whoever asks for predictions. */
static peft_status keep_row(peft__encoder *encoder, peft__records *records, const peft__json *row,
                            peft__store *store) {
    peft__buffer text;
    peft__buffer_init(&text, encoder->ctx->mem);
    peft_status status = peft__json_dump(encoder->ctx, row, 0, false, &text);
    if (status >= 0) {
        store->input = text.failed ? NULL : peft__arena_strndup(records->kept, text.data, text.length);
        if (store->input == NULL) status = peft__fail_nomem(encoder->ctx, text.length, "a row");
    }
    peft__buffer_free(&text);
    return status;
}

static peft_status read_records(peft__encoder *encoder, peft__records *records, row_source *source,
                                peft__store *store) {
    const int64_t most = encoder->options->max_examples;
    uint64_t number = 0;
    peft_status status = PEFT_OK;
    while (status == PEFT_OK && (most <= 0 || store->example_count < most)) {
        peft__json *row = NULL;
        status = next_record(source, encoder, records, &number, &row);
        if (row == NULL) continue;
        const uint64_t line = row_line(source);
        store->row = (int64_t)number - 1;
        status = store->keeps_rows ? keep_row(encoder, records, row, store) : PEFT_OK;
        if (status >= 0) status = peft__encode_record(encoder, records, line, store);
        json_decref(row);
        if (status == PEFT_E_FORMAT || status == PEFT_E_MISMATCH)
            status = peft__fail_in(encoder->ctx, status, "%s:%llu", source->content->name, (unsigned long long)line);
    }
    return status == PEFT_END ? PEFT_OK : status;
}

static peft_status read_rows(peft__encoder *encoder, peft__records *records, const peft__content *content,
                             peft__store *store) {
    const bool columns = encoder->options->format == PEFT_DATA_TOKEN_CLS && !is_rows(content->name, PEFT_DATA_AUTO);
    row_source source;
    PEFT_TRY(open_rows(encoder, content, columns, &source));
    if (columns) {
        records->text_name = "tokens";
        records->label_name = encoder->options->unlabelled != 0 ? NULL : "ner_tags";
    }
    peft_status status = collect_labels(encoder, records, &source);
    if (status >= 0) status = prepare_targets(encoder->ctx, records, store);
    if (columns)
        (void)peft__conll_open(encoder->ctx, content, encoder->options,
                               &source.conll); /* it opened before: cannot fail */
    else if (source.rows != NULL)
        peft__rows_seek(source.rows, NULL);
    if (status >= 0) status = read_records(encoder, records, &source, store);
    peft__rows_free(source.rows);
    peft__squad_close(&source.squad);
    return status;
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
    records.labels = &dataset->labels;
    records.kept = &dataset->texts;
    records.pairs = dataset->store.pairs;
    const bool rows = is_rows(name, dataset->options.format);
    peft_status status = rows ? read_rows(&encoder, &records, &content, &dataset->store)
                              : read_text(&encoder, &content, &dataset->store);
    if (status >= 0 && records.chat != NULL) {
        dataset->chat_name = peft__arena_strdup(&dataset->texts, peft__chat_name(records.chat));
        if (dataset->chat_name == NULL) status = peft__fail_nomem(ctx, 64, "a data set");
    }
    if (status >= 0)
        status = peft__dataset_write_report(dataset, name, &encoder.reading,
                                            rows || dataset->options.format == PEFT_DATA_MASKED_LM ? records.format
                                                                                                   : PEFT_DATA_TEXT,
                                            records.chat_by_default);
    peft__records_free(&records);
    peft__encoder_free(&encoder);
    peft__content_close(&content);
    return status;
}

peft_status peft__dataset_read_labels(peft_context *ctx, peft__source *source, const char *name,
                                      peft_dataset *dataset) {
    peft__content content;
    PEFT_TRY(peft__content_open_source(ctx, source, 0, &content));
    content.name = name;
    peft__encoder encoder;
    peft__records records;
    peft__encoder_init(&encoder, ctx, NULL, &dataset->options, dataset->max_length, 0);
    peft__records_init(&records, ctx, NULL, &dataset->options);
    records.labels = &dataset->labels;
    const bool columns = dataset->options.format == PEFT_DATA_TOKEN_CLS && !is_rows(name, PEFT_DATA_AUTO);
    row_source rows;
    peft_status status = open_rows(&encoder, &content, columns, &rows);
    if (status >= 0) {
        if (columns) {
            records.text_name = "tokens";
            records.label_name = "ner_tags";
        }
        status = collect_labels(&encoder, &records, &rows);
        peft__rows_free(rows.rows);
    }
    if (status >= 0 && dataset->labels.count == 0)
        status = peft__fail(ctx, PEFT_E_ARG, "%s: no row has a label", name);
    peft__records_free(&records);
    peft__encoder_free(&encoder);
    peft__content_close(&content);
    return status;
}
