/* labelled.c: rows that carry their answer: a class, several classes, numbers, or a tag for each word.
 *
 * Texts get the tokens that the tokenizer's template puts around one text or a pair. Words with tags are joined by
 * blanks and tokenised as one text: byte positions then tell which word a token belongs to, whatever the tokenizer does
 * to blanks. The first token of a word carries its tag and the others -100, as Hugging Face's examples have it.
 */
#include "data/data.h"

#include <math.h>
#include <stdio.h>

bool peft__is_labelled(int32_t format) {
    return format >= PEFT_DATA_CLASSIFICATION && format <= PEFT_DATA_TOKEN_CLS;
}

peft__learns peft__learns_of(int32_t format) {
    switch (format) {
    case PEFT_DATA_CLASSIFICATION:
        return PEFT__LEARNS_CLASS;
    case PEFT_DATA_REGRESSION:
    case PEFT_DATA_MULTI_LABEL:
        return PEFT__LEARNS_TARGETS;
    case PEFT_DATA_QUESTION_ANS:
        return PEFT__LEARNS_SPAN;
    case PEFT_DATA_TOKEN_CLS:
        return PEFT__LEARNS_TOKENS;
    case PEFT_DATA_MASKED_LM:
        return PEFT__LEARNS_HIDDEN;
    case PEFT_DATA_CHOICES:
    case PEFT_DATA_PAIRS:
        return PEFT__LEARNS_CHOICE;
    default:
        return PEFT__LEARNS_NEXT;
    }
}

/* ---- which fields -------------------------------------------------------------------------------------------- */

static const char *const PAIRS[][2] = {
    {"text", "text_pair"},      {"text1", "text2"},       {"sentence1", "sentence2"}, {"premise", "hypothesis"},
    {"question1", "question2"}, {"question", "sentence"}, {"question", "passage"},    {"sentence", NULL},
    {"content", NULL},          {"review", NULL},         {"utterance", NULL},        {"query", NULL}};
static const char *const WORDS[] = {"tokens", "words"};
static const char *const CLASSES[] = {"label", "labels", "class", "category", "intent"};
static const char *const NUMBERS[] = {"score", "label", "labels", "target", "targets", "value", "rating"};
static const char *const TAGS[] = {"ner_tags", "tags", "labels", "pos_tags"};

static const char *first_field(const peft__json *row, const char *const *names, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (json_object_get(row, names[i]) != NULL) return names[i];
    return NULL;
}

static const char *usual_label(int32_t format, const peft__json *row) {
    if (format == PEFT_DATA_TOKEN_CLS) return first_field(row, TAGS, PEFT_COUNT(TAGS));
    if (format == PEFT_DATA_REGRESSION) return first_field(row, NUMBERS, PEFT_COUNT(NUMBERS));
    return first_field(row, CLASSES, PEFT_COUNT(CLASSES));
}

static void list_fields(const peft__json *row, char *out, size_t size) {
    size_t used = 0;
    const char *key;
    json_t *value;
    out[0] = '\0';
    json_object_foreach((json_t *)row, key, value) {
        const size_t length = strlen(key);
        if (used + length + 3 > size) break;
        if (used > 0) {
            memcpy(out + used, ", ", 2);
            used += 2;
        }
        memcpy(out + used, key, length + 1);
        used += length;
    }
}

/* Settles the names of the fields by the first row. */
static peft_status choose_fields(peft__records *records, const peft__json *row) {
    if (records->text_name != NULL) return PEFT_OK;
    const peft_dataset_options *o = records->options;
    const bool words = records->format == PEFT_DATA_TOKEN_CLS;
    const char *text = o->text_key, *pair = o->text_pair_key, *label = o->label_key;
    if (text == NULL && words) text = first_field(row, WORDS, PEFT_COUNT(WORDS));
    for (size_t i = 0; i < PEFT_COUNT(PAIRS) && text == NULL && !words; i++) {
        if (json_object_get(row, PAIRS[i][0]) == NULL) continue;
        /* The first of a pair alone is a text of its own, unless the second comes in a later line of this table. */
        const bool both = PAIRS[i][1] != NULL && json_object_get(row, PAIRS[i][1]) != NULL;
        bool later = false;
        for (size_t j = i + 1; j < PEFT_COUNT(PAIRS) && !both; j++)
            later = later || (strcmp(PAIRS[j][0], PAIRS[i][0]) == 0 && PAIRS[j][1] != NULL &&
                              json_object_get(row, PAIRS[j][1]) != NULL);
        if (later) continue;
        text = PAIRS[i][0];
        if (pair == NULL && both) pair = PAIRS[i][1];
    }
    if (label == NULL) label = usual_label(records->format, row);
    char fields[200];
    list_fields(row, fields, sizeof fields);
    if (text == NULL)
        return peft__fail(
            records->ctx, PEFT_E_FORMAT,
            "the first row has no field that is known to hold the %s (its fields: %s): name it with text_key",
            words ? "words" : "text", fields);
    if (label == NULL && o->unlabelled == 0)
        return peft__fail(records->ctx, PEFT_E_FORMAT,
                          "the first row has no field that is known to hold the label (its fields: %s): name it with "
                          "label_key, or say that the rows are "
                          "unlabelled",
                          fields);
    if (words && pair != NULL) return peft__fail(records->ctx, PEFT_E_ARG, "rows of words have no text_pair_key");
    records->text_name = text; /* the constants above or the options: they outlive the records */
    records->pair_name = pair;
    records->label_name = label;
    return PEFT_OK;
}

static const peft__json *label_of(const peft__records *records, const peft__json *row) {
    const peft__json *value = records->label_name != NULL ? json_object_get(row, records->label_name) : NULL;
    return json_is_null(value) ? NULL : value;
}

/* ---- several classes in one text: "a|b" ------------------------------------------------------------------------ */

static bool parts_end(char c) {
    return c == '|' || c == ';' || c == ',';
}

/* The next part of a list as CSV files have it, without blanks around; false at the end. */
static bool next_part(const char *text, size_t length, size_t *at, const char **out_part, size_t *out_length) {
    while (*at < length) {
        size_t begin = *at, end = begin;
        while (end < length && !parts_end(text[end])) end++;
        *at = end + 1;
        while (begin < end && text[begin] == ' ') begin++;
        while (end > begin && text[end - 1] == ' ') end--;
        if (begin == end) continue;
        *out_part = text + begin;
        *out_length = end - begin;
        return true;
    }
    return false;
}

peft_status peft__labelled_collect(peft__records *records, const peft__json *row) {
    PEFT_TRY(choose_fields(records, row));
    const peft__json *value = label_of(records, row);
    if (json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value); i++)
            PEFT_TRY(peft__labels_collect(records->ctx, records->labels, json_array_get(value, i)));
        return PEFT_OK;
    }
    if (records->format != PEFT_DATA_MULTI_LABEL || !json_is_string(value))
        return peft__labels_collect(records->ctx, records->labels, value);
    const char *text = json_string_value(value), *part;
    size_t at = 0, size;
    while (next_part(text, json_string_length(value), &at, &part, &size))
        PEFT_TRY(peft__labels_collect_text(records->ctx, records->labels, part, size));
    return PEFT_OK;
}

/* ---- one text or two ---------------------------------------------------------------------------------------- */

static bool only_blanks(const char *text) {
    while (*text == ' ' || *text == '\t' || *text == '\n' || *text == '\r') text++;
    return *text == '\0';
}

static peft_status read_texts(peft__records *records, const peft__json *row) {
    PEFT_TRY(peft__records_field(records, row, records->text_name, true, &records->text));
    if (only_blanks(records->text))
        return peft__fail(records->ctx, PEFT_E_FORMAT, "\"%.60s\" is empty", records->text_name);
    records->length = strlen(records->text);
    if (records->pair_name == NULL) return PEFT_OK;
    PEFT_TRY(peft__records_field(records, row, records->pair_name, true, &records->second));
    records->second_length = strlen(records->second);
    return PEFT_OK;
}

static peft_status missing_label(const peft__records *records) {
    return peft__fail(records->ctx, PEFT_E_FORMAT, "\"%.60s\" is missing, which rows of the form %s have",
                      records->label_name, peft__data_format_name(records->format));
}

static peft_status number_of(const peft__records *records, const peft__json *value, float *out) {
    double number = NAN;
    if (json_is_number(value)) number = json_number_value(value);
    if (json_is_boolean(value)) number = json_is_true(value) ? 1.0 : 0.0;
    if (json_is_string(value) && !peft__parse_f64(json_string_value(value), json_string_length(value), &number))
        return peft__fail(records->ctx, PEFT_E_FORMAT, "\"%.60s\" is a number, found \"%.40s\"", records->label_name,
                          json_string_value(value));
    if (!isfinite((float)number))
        return peft__fail(records->ctx, PEFT_E_FORMAT, "\"%.60s\" is a number, found %s", records->label_name,
                          peft__json_kind(value));
    *out = (float)number;
    return PEFT_OK;
}

static peft_status read_numbers(peft__records *records, const peft__json *value) {
    const int64_t found = json_is_array(value) ? (int64_t)json_array_size(value) : 1;
    if (found != records->target_cols)
        return peft__fail(records->ctx, PEFT_E_FORMAT, "\"%.60s\" has %lld numbers, found %lld", records->label_name,
                          (long long)records->target_cols, (long long)found);
    for (int64_t i = 0; i < found; i++)
        PEFT_TRY(
            number_of(records, json_is_array(value) ? json_array_get(value, (size_t)i) : value, &records->targets[i]));
    return PEFT_OK;
}

/* A list of names, a list of 0 and 1 (one for each class), or a text with names between bars. */
static peft_status read_classes(peft__records *records, const peft__json *value) {
    peft_context *ctx = records->ctx;
    int32_t found = 0;
    for (int64_t i = 0; i < records->target_cols; i++) records->targets[i] = 0.0f;
    if (json_is_string(value)) {
        const char *text = json_string_value(value), *part;
        size_t at = 0, size;
        while (next_part(text, json_string_length(value), &at, &part, &size)) {
            PEFT_TRY(peft__labels_find_text(ctx, records->labels, part, size, &found));
            records->targets[found] = 1.0f;
        }
        return PEFT_OK;
    }
    if (!json_is_array(value))
        return peft__fail(ctx, PEFT_E_FORMAT, "\"%.60s\" is a list of classes, found %s", records->label_name,
                          peft__json_kind(value));
    const size_t count = json_array_size(value);
    for (size_t i = 0; i < count; i++) {
        const peft__json *one = json_array_get(value, i);
        if (json_is_string(one)) {
            PEFT_TRY(peft__labels_find(ctx, records->labels, one, &found));
            records->targets[found] = 1.0f;
            continue;
        }
        const double number = json_is_boolean(one)  ? (json_is_true(one) ? 1.0 : 0.0)
                              : json_is_number(one) ? json_number_value(one)
                                                    : -1.0;
        if ((int64_t)count != records->target_cols || (number != 0.0 && number != 1.0))
            return peft__fail(ctx, PEFT_E_FORMAT,
                              "\"%.60s\" is a list of names, or of 0 and 1 for each of the %lld classes",
                              records->label_name, (long long)records->target_cols);
        records->targets[i] = (float)number;
    }
    return PEFT_OK;
}

/* ---- words with tags ---------------------------------------------------------------------------------------- */

static peft_status put_tag(peft__records *records, size_t index, int32_t tag, size_t word) {
    if (index >= records->tag_capacity) {
        const size_t capacity = peft__max_size(64, 2 * index);
        int32_t *tags = peft__realloc(records->ctx->mem, records->tags, capacity * sizeof *tags);
        if (tags != NULL) records->tags = tags;
        int32_t *words = peft__realloc(records->ctx->mem, records->word_of, capacity * sizeof *words);
        if (words != NULL) records->word_of = words;
        if (tags == NULL || words == NULL)
            return peft__fail_nomem(records->ctx, capacity * sizeof *tags, "a row's tags");
        records->tag_capacity = capacity;
    }
    records->tags[index] = tag;
    records->word_of[index] = (int32_t)peft__min_size(word, INT32_MAX);
    return PEFT_OK;
}

static peft_status read_words(peft__records *records, const peft__json *row) {
    peft_context *ctx = records->ctx;
    const peft__json *words = json_object_get(row, records->text_name), *tags = label_of(records, row);
    if (!json_is_array(words) || json_array_size(words) == 0)
        return peft__fail(ctx, PEFT_E_FORMAT, "\"%.60s\" is a list of words, found %s", records->text_name,
                          words == NULL          ? "nothing"
                          : json_is_array(words) ? "an empty one"
                                                 : peft__json_kind(words));
    if (tags == NULL && records->options->unlabelled == 0) return missing_label(records);
    if (tags != NULL && (!json_is_array(tags) || json_array_size(tags) != json_array_size(words)))
        return peft__fail(ctx, PEFT_E_FORMAT, "\"%.60s\" has %zu words, \"%.60s\" has %zu tags", records->text_name,
                          json_array_size(words), records->label_name, json_array_size(tags));
    peft__buffer_clear(&records->buffer);
    for (size_t i = 0; i < json_array_size(words); i++) {
        const peft__json *word = json_array_get(words, i);
        const size_t length = json_string_length(word);
        if (!json_is_string(word) || strlen(json_string_value(word)) != length)
            return peft__fail(ctx, PEFT_E_FORMAT, "word %zu is text without NUL characters, found %s", i + 1,
                              peft__json_kind(word));
        int32_t tag = PEFT_IGNORE_LABEL;
        const peft__json *value = tags != NULL ? json_array_get(tags, i) : NULL;
        /* -100 is how prepared files say that a word counts for nothing. */
        if (value != NULL && !(json_is_integer(value) && json_integer_value(value) == PEFT_IGNORE_LABEL)) {
            const peft_status status = peft__labels_find(ctx, records->labels, value, &tag);
            if (status < 0) return peft__fail_in(ctx, status, "word %zu", i + 1);
        }
        if (length == 0) continue;
        if (i > 0) (void)peft__buffer_puts(&records->buffer, " ");
        const size_t begin = records->buffer.length;
        (void)peft__buffer_put(&records->buffer, json_string_value(word), length);
        PEFT_TRY(put_tag(records, records->span_count, tag, i));
        PEFT_TRY(peft__records_put_span(records, begin, begin + length));
    }
    if (records->buffer.failed) return peft__fail_nomem(ctx, records->buffer.capacity, "a row");
    if (records->span_count == 0)
        return peft__fail(ctx, PEFT_E_FORMAT, "\"%.60s\" has only empty words", records->text_name);
    records->text = records->buffer.data;
    records->length = records->buffer.length;
    return PEFT_OK;
}

peft_status peft__labelled_read(peft__records *records, const peft__json *row) {
    PEFT_TRY(choose_fields(records, row));
    records->second = NULL;
    records->second_length = 0;
    records->label = PEFT_IGNORE_LABEL;
    records->add_special = true;
    if (records->format == PEFT_DATA_TOKEN_CLS) return read_words(records, row);
    PEFT_TRY(read_texts(records, row));
    const peft__json *value = label_of(records, row);
    if (value == NULL && records->options->unlabelled == 0) return missing_label(records);
    for (int64_t i = 0; i < records->target_cols; i++) records->targets[i] = NAN;
    if (value == NULL) return PEFT_OK;
    if (records->format == PEFT_DATA_CLASSIFICATION)
        return peft__labels_find(records->ctx, records->labels, value, &records->label);
    return records->format == PEFT_DATA_REGRESSION ? read_numbers(records, value) : read_classes(records, value);
}

/* ---- tokens ------------------------------------------------------------------------------------------------- */

/* The encoding, cut to max_length; counts what was cut. */
static peft_status encode(peft__encoder *encoder, const peft__records *r, int64_t *out_whole) {
    peft__encoding *encoding = &encoder->encoding;
    const uint32_t flags = PEFT_ENCODE_SPECIAL | PEFT_ENCODE_PARSE_SPECIAL;
    const int32_t asked = encoder->options->truncation;
    PEFT_TRY(peft__encode_pair(encoder->ctx, encoder->tokenizer, r->text, r->length, r->second, r->second_length, flags,
                               0, PEFT_TRUNCATE_NONE, encoding));
    *out_whole = encoding->count;
    peft__reading *reading = &encoder->reading;
    if (encoding->count > reading->longest_uncut) reading->longest_uncut = encoding->count;
    if (encoding->count > encoder->max_length) {
        PEFT_TRY(peft__encode_pair(encoder->ctx, encoder->tokenizer, r->text, r->length, r->second, r->second_length,
                                   flags, encoder->max_length,
                                   asked != PEFT_TRUNCATE_NONE ? asked : PEFT_TRUNCATE_LONGEST_FIRST, encoding));
        reading->cut++;
        reading->cut_tokens += *out_whole - encoding->count;
    }
    return peft__check_ids(encoder, encoding->ids, encoding->count);
}

/* Tags on the first token of each word. A word without a token, or cut away, has none. */
static void tag_tokens(const peft__encoding *encoding, const peft__records *r, int32_t *labels, int32_t *words,
                       int64_t *examples) {
    size_t word = 0, last = SIZE_MAX;
    for (int64_t i = 0; i < encoding->count; i++) {
        labels[i] = PEFT_IGNORE_LABEL;
        words[i] = -1;
        if (encoding->special[i] != 0 || encoding->end[i] == encoding->begin[i]) continue;
        /* By its last byte: the first may be the blank before the word. */
        while (word < r->span_count && r->spans[word].end < encoding->end[i]) word++;
        if (word >= r->span_count || encoding->end[i] <= r->spans[word].begin || word == last) continue;
        last = word;
        labels[i] = r->tags[word];
        words[i] = r->word_of[word];
        if (labels[i] != PEFT_IGNORE_LABEL) examples[labels[i]]++;
    }
}

peft_status peft__encode_labelled(peft__encoder *encoder, const peft__records *r, uint64_t line, peft__store *store) {
    const peft__encoding *encoding = &encoder->encoding;
    int64_t whole;
    PEFT_TRY(encode(encoder, r, &whole));
    int64_t text_tokens = 0;
    for (int64_t i = 0; i < encoding->count; i++) text_tokens += encoding->special[i] == 0;
    if (text_tokens == 0) {
        peft__skip_row(&encoder->reading, PEFT__SKIP_EMPTY, line);
        return PEFT_OK;
    }
    PEFT_TRY(peft__store_reserve(encoder->ctx, store, encoding->count, 1));
    const int64_t first = store->count, index = store->example_count;
    const size_t bytes = (size_t)encoding->count * sizeof(int32_t);
    memcpy(store->ids + first, encoding->ids, bytes);
    if (store->typed) memcpy(store->types + first, encoding->types, bytes);
    if (r->format == PEFT_DATA_TOKEN_CLS)
        tag_tokens(encoding, r, store->labels + first, store->words + first, r->labels->examples);
    else
        for (int64_t i = 0; i < encoding->count; i++) store->labels[first + i] = PEFT_IGNORE_LABEL;
    store->count += encoding->count;
    peft__store_put_example(store, first, (int32_t)encoding->count, 0);
    if (store->classes != NULL) {
        store->classes[index] = r->label;
        if (r->label != PEFT_IGNORE_LABEL) r->labels->examples[r->label]++;
    }
    for (int64_t c = 0; store->targets != NULL && c < store->target_cols; c++) {
        store->targets[index * store->target_cols + c] = r->targets[c];
        if (r->format == PEFT_DATA_MULTI_LABEL && r->targets[c] == 1.0f) r->labels->examples[c]++;
    }
    return PEFT_OK;
}
