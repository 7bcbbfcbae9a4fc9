/* pairs.c: texts that belong together, for embeddings: a text, the one that belongs to it, and any that do not; or two
 * texts and how alike they are.
 *
 * Each text is a sequence of its own, with the tokens of the tokenizer's template. An example keeps its texts one after
 * another, as parts; in a batch they are the sequences of a group, in the order in which they stand here.
 */
#include "data/data.h"

#include <math.h>

enum { MOST_TEXTS = 1024 };

static const char *const FIRST[][2] = {
    {"anchor", "positive"},     {"query", "positive"},       {"query", "document"},     {"question", "answer"},
    {"sentence1", "sentence2"}, {"text1", "text2"},          {"premise", "hypothesis"}, {"text", "text_pair"},
    {"question1", "question2"}, {"sentence_A", "sentence_B"}};
static const char *const NEGATIVES[] = {"negative",   "negatives",  "negative_1", "negative_2",
                                        "negative_3", "negative_4", "negative_5"};
static const char *const SCORES[] = {"score", "similarity", "similarity_score", "relatedness_score", "label"};

/* By the first row. */
static peft_status choose_fields(peft__records *records, const peft__json *row) {
    if (records->text_name != NULL) return PEFT_OK;
    const peft_dataset_options *o = records->options;
    const char *text = o->text_key, *pair = o->text_pair_key, *label = o->label_key;
    for (size_t i = 0; i < PEFT_COUNT(FIRST) && text == NULL; i++)
        if (json_object_get(row, FIRST[i][0]) != NULL && json_object_get(row, FIRST[i][1]) != NULL) {
            text = FIRST[i][0];
            if (pair == NULL) pair = FIRST[i][1];
        }
    if (text == NULL || pair == NULL)
        return peft__fail(records->ctx, PEFT_E_FORMAT,
                          "the first row has no two fields that are known to hold texts which belong together (anchor "
                          "and positive, sentence1 and sentence2, ...): name them with text_key and text_pair_key");
    for (size_t i = 0; i < PEFT_COUNT(SCORES) && label == NULL; i++)
        if (json_object_get(row, SCORES[i]) != NULL) label = SCORES[i];
    records->text_name = text;
    records->pair_name = pair;
    records->label_name = label;
    return PEFT_OK;
}

static peft_status put_text(peft__records *records, const peft__json *value, const char *name) {
    const char *text = json_string_value(value);
    if (text == NULL || strlen(text) != json_string_length(value))
        return peft__fail(records->ctx, PEFT_E_FORMAT, "\"%.60s\" is text without NUL characters, found %s", name,
                          value == NULL ? "nothing" : peft__json_kind(value));
    if (strspn(text, " \t\r\n") == strlen(text))
        return peft__fail(records->ctx, PEFT_E_FORMAT, "\"%.60s\" is empty", name);
    if (records->span_count >= MOST_TEXTS)
        return peft__fail(records->ctx, PEFT_E_FORMAT, "a row has at most %d texts", MOST_TEXTS);
    const size_t begin = records->buffer.length;
    (void)peft__buffer_puts(&records->buffer, text);
    if (records->buffer.failed) return peft__fail_nomem(records->ctx, records->buffer.capacity, "a row");
    return peft__records_put_span(records, begin, records->buffer.length);
}

static peft_status read_score(peft__records *records, const peft__json *value) {
    double score = NAN;
    if (json_is_number(value)) score = json_number_value(value);
    if (json_is_string(value) && !peft__parse_f64(json_string_value(value), json_string_length(value), &score))
        score = NAN;
    if (!isfinite((float)score))
        return peft__fail(records->ctx, PEFT_E_FORMAT, "\"%.60s\" is a number, found %s%.40s", records->label_name,
                          json_is_string(value) ? ""
                          : value == NULL       ? "nothing"
                                                : peft__json_kind(value),
                          json_is_string(value) ? json_string_value(value) : "");
    records->score = (float)score;
    return PEFT_OK;
}

peft_status peft__pairs_read(peft__records *records, const peft__json *row) {
    PEFT_TRY(choose_fields(records, row));
    peft__buffer_clear(&records->buffer);
    records->score = NAN;
    PEFT_TRY(put_text(records, json_object_get(row, records->text_name), records->text_name));
    PEFT_TRY(put_text(records, json_object_get(row, records->pair_name), records->pair_name));
    for (size_t i = 0; i < PEFT_COUNT(NEGATIVES); i++) {
        const peft__json *value = json_object_get(row, NEGATIVES[i]);
        if (value == NULL || json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0)) continue;
        if (!json_is_array(value)) PEFT_TRY(put_text(records, value, NEGATIVES[i]));
        for (size_t k = 0; k < json_array_size(value); k++)
            PEFT_TRY(put_text(records, json_array_get(value, k), NEGATIVES[i]));
    }
    records->text = records->buffer.data;
    records->length = records->buffer.length;
    if (records->label_name == NULL || records->options->unlabelled != 0) return PEFT_OK;
    return read_score(records, json_object_get(row, records->label_name));
}

peft_status peft__encode_pairs(peft__encoder *encoder, const peft__records *r, uint64_t line, peft__store *store) {
    peft_context *ctx = encoder->ctx;
    peft__encoding *e = &encoder->encoding;
    const uint32_t flags = PEFT_ENCODE_SPECIAL | PEFT_ENCODE_PARSE_SPECIAL;
    const int64_t first = store->count, texts = (int64_t)r->span_count;
    int64_t length = 0, cut = 0;
    PEFT_TRY(peft__store_reserve_parts(ctx, store, texts));
    for (int64_t i = 0; i < texts; i++) {
        const char *text = r->text + r->spans[i].begin;
        const size_t size = r->spans[i].end - r->spans[i].begin;
        PEFT_TRY(peft__encode_pair(ctx, encoder->tokenizer, text, size, NULL, 0, flags, 0, PEFT_TRUNCATE_NONE, e));
        const int64_t whole = e->count;
        encoder->reading.longest_uncut = peft__max_i64(encoder->reading.longest_uncut, whole);
        if (whole > encoder->max_length)
            PEFT_TRY(peft__encode_pair(ctx, encoder->tokenizer, text, size, NULL, 0, flags, encoder->max_length,
                                       PEFT_TRUNCATE_LONGEST_FIRST, e));
        PEFT_TRY(peft__check_ids(encoder, e->ids, e->count));
        cut += whole - e->count;
        if (e->count == 0) {
            peft__skip_row(&encoder->reading, PEFT__SKIP_EMPTY, line);
            return PEFT_OK;
        }
        PEFT_TRY(peft__store_reserve(ctx, store, length + e->count, 1));
        for (int64_t t = 0; t < e->count; t++) {
            store->ids[first + length + t] = e->ids[t];
            store->labels[first + length + t] = PEFT_IGNORE_LABEL;
            if (store->typed) store->types[first + length + t] = e->types[t];
        }
        length += e->count;
        store->parts[store->part_count + i] = (int32_t)length;
    }
    encoder->reading.cut += cut > 0;
    encoder->reading.cut_tokens += cut;
    const int64_t index = store->example_count;
    store->count += length;
    store->first_part[index] = store->part_count;
    store->part_count += texts;
    store->most_parts = peft__max_i64(store->most_parts, texts);
    peft__store_put_example(store, first, (int32_t)length, 0);
    store->classes[index] = 0; /* the first that follows is the right one */
    store->scores[index] = r->score;
    if (isfinite(r->score)) store->scored = true;
    return PEFT_OK;
}

/* The numbers of a batch's groups stand at their first texts. */
void peft__pairs_put_scores(peft_dataset *d, int32_t first, peft_batch *batch) {
    batch->sequence_labels = NULL;
    if (!d->store.scored) return;
    for (int64_t s = 0; s < batch->sequences; s++) d->batch_targets[s] = NAN;
    for (int64_t q = 0; q < batch->questions; q++)
        d->batch_targets[batch->choice_offsets[q]] = d->store.scores[d->order.order[first + q]];
    batch->sequence_targets = d->batch_targets;
    batch->target_cols = 1;
}
