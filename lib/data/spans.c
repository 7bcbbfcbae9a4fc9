/* spans.c: questions whose answer is a piece of a text (SQuAD).
 *
 * Question and context are tokenised as a pair once; a context that is too long becomes windows that overlap, each with
 * the question in front, so that an answer at the edge of one stands in the middle of another. As in Hugging Face's
 * example a window that does not hold the whole answer, and a question without one, has its first token ([CLS]) for an
 * answer. Where each token of a context begins and ends is kept: that is how an answer becomes text again.
 */
#include "data/data.h"

static const char *const QUESTIONS[] = {"question", "query"};
static const char *const CONTEXTS[] = {"context", "passage", "paragraph", "text"};
static const char *const ANSWERS[] = {"answers", "answer", "answer_text"};

/* ---- reading a row -------------------------------------------------------------------------------------------- */

static const char *known(const peft__json *row, const char *given, const char *const *names, size_t count) {
    if (given != NULL) return given;
    for (size_t i = 0; i < count; i++)
        if (json_object_get(row, names[i]) != NULL) return names[i];
    return names[0];
}

/* Byte of character number `index`; false when the text has fewer. */
static bool byte_of(const char *text, int64_t index, size_t *out_byte) {
    size_t at = 0;
    for (; index > 0 && text[at] != '\0'; index--) {
        at++;
        while (((uint8_t)text[at] & 0xc0) == 0x80) at++;
    }
    *out_byte = at;
    return index == 0;
}

static peft_status put_answer(peft__records *records, const char *text) {
    if (records->answer_count == records->answer_capacity) {
        const size_t capacity = records->answer_capacity == 0 ? 16 : 2 * (size_t)records->answer_capacity;
        const char **answers = peft__realloc(records->ctx->mem, records->answers, capacity * sizeof *answers);
        if (answers == NULL) return peft__fail_nomem(records->ctx, capacity * sizeof *answers, "a row's answers");
        records->answers = answers;
        records->answer_capacity = (uint32_t)capacity;
    }
    records->answers[records->answer_count++] = text;
    return PEFT_OK;
}

/* One right answer; of the first the place is what is learnt. `start` in characters, NULL or -1: where it is found. */
static peft_status take_answer(peft__records *records, const peft__json *text, const peft__json *start) {
    peft_context *ctx = records->ctx;
    if (!json_is_string(text) || strlen(json_string_value(text)) != json_string_length(text))
        return peft__fail(ctx, PEFT_E_FORMAT, "the text of an answer is text without NUL characters, found %s",
                          peft__json_kind(text));
    const char *answer = json_string_value(text), *context = records->second;
    const size_t length = strlen(answer);
    if (length == 0) return PEFT_OK; /* CSV: no answer */
    PEFT_TRY(put_answer(records, answer));
    if (records->answer_count > 1) return PEFT_OK;
    int64_t index = -1;
    if (json_is_string(start) && json_string_length(start) > 0 &&
        !peft__parse_i64(json_string_value(start), json_string_length(start), &index))
        return peft__fail(ctx, PEFT_E_FORMAT, "answer_start is a number of characters, found \"%.40s\"",
                          json_string_value(start));
    if (json_is_integer(start)) index = json_integer_value(start);
    size_t at = 0;
    if (index < 0) {
        const char *found = strstr(context, answer);
        if (found == NULL) return peft__fail(ctx, PEFT_E_FORMAT, "the answer \"%.60s\" is not in the context", answer);
        at = (size_t)(found - context);
    } else if (!byte_of(context, index, &at) || strncmp(context + at, answer, length) != 0) {
        return peft__fail(ctx, PEFT_E_FORMAT, "the answer \"%.60s\" does not stand at character %lld of the context",
                          answer, (long long)index);
    }
    records->answer_begin = at;
    records->answer_end = at + length;
    return PEFT_OK;
}

/* {"text": [...], "answer_start": [...]}, [{"text", "answer_start"}], or a text with "answer_start" beside it. */
static peft_status take_answers(peft__records *records, const peft__json *row, const peft__json *value) {
    if (json_is_object(value)) {
        const peft__json *texts = json_object_get(value, "text"), *starts = json_object_get(value, "answer_start");
        if (!json_is_array(texts)) return take_answer(records, texts, starts);
        for (size_t i = 0; i < json_array_size(texts); i++)
            PEFT_TRY(take_answer(records, json_array_get(texts, i), json_array_get(starts, i)));
        return PEFT_OK;
    }
    if (json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value); i++) {
            const peft__json *one = json_array_get(value, i);
            const bool object = json_is_object(one);
            PEFT_TRY(take_answer(records, object ? json_object_get(one, "text") : one,
                                 object ? json_object_get(one, "answer_start") : NULL));
        }
        return PEFT_OK;
    }
    return take_answer(records, value, json_object_get(row, "answer_start"));
}

peft_status peft__spans_read(peft__records *records, const peft__json *row) {
    const peft_dataset_options *o = records->options;
    records->answer_count = 0;
    records->answer_begin = records->answer_end = 0;
    const char *question = known(row, o->text_key, QUESTIONS, PEFT_COUNT(QUESTIONS)),
               *context = known(row, o->text_pair_key, CONTEXTS, PEFT_COUNT(CONTEXTS)),
               *label = known(row, o->label_key, ANSWERS, PEFT_COUNT(ANSWERS));
    PEFT_TRY(peft__records_field(records, row, question, true, &records->text));
    PEFT_TRY(peft__records_field(records, row, context, true, &records->second));
    records->length = strlen(records->text);
    records->second_length = strlen(records->second);
    if (strspn(records->text, " \t\r\n") == records->length)
        return peft__fail(records->ctx, PEFT_E_FORMAT, "\"%.60s\" is empty", question);
    if (strspn(records->second, " \t\r\n") == records->second_length)
        return peft__fail(records->ctx, PEFT_E_FORMAT, "\"%.60s\" is empty", context);
    const peft__json *value = json_object_get(row, label);
    if (o->unlabelled != 0) return PEFT_OK;
    if (value == NULL || json_is_null(value))
        return peft__fail(records->ctx, PEFT_E_FORMAT, "\"%.60s\" is missing, which rows of the form %s have", label,
                          peft__data_format_name(records->format));
    return take_answers(records, row, value);
}

/* ---- windows ---------------------------------------------------------------------------------------------------- */

/* Context and answers in memory that stays; rows of one paragraph share it. */
static peft_status keep_passage(peft__encoder *encoder, const peft__records *r, peft__store *store) {
    peft_context *ctx = encoder->ctx;
    peft__arena *arena = r->kept;
    const peft__passage *before = store->passage;
    peft__passage *passage = peft__arena_alloc(arena, sizeof *passage);
    if (passage == NULL) return peft__fail_nomem(ctx, sizeof *passage, "a context");
    const bool same = before != NULL && strcmp(before->context, r->second) == 0;
    passage->context = same ? before->context : peft__arena_strndup(arena, r->second, r->second_length);
    passage->answers = peft__arena_alloc(arena, ((size_t)r->answer_count + 1) * sizeof *passage->answers);
    if (passage->context == NULL || passage->answers == NULL)
        return peft__fail_nomem(ctx, r->second_length, "a context");
    for (uint32_t i = 0; i < r->answer_count; i++) {
        passage->answers[i] = peft__arena_strdup(arena, r->answers[i]);
        if (passage->answers[i] == NULL) return peft__fail_nomem(ctx, strlen(r->answers[i]), "an answer");
    }
    passage->answer_count = r->answer_count;
    store->passage = passage;
    return PEFT_OK;
}

/* Puts tokens [from, from + count) of the encoding; `context`: they have places in it. */
static void put(const peft__encoding *e, int64_t from, int64_t count, bool context, peft__store *store) {
    for (int64_t i = from; i < from + count; i++) {
        const int64_t at = store->count++;
        store->ids[at] = e->ids[i];
        store->labels[at] = PEFT_IGNORE_LABEL;
        if (store->typed) store->types[at] = e->types[i];
        store->begins[at] = context ? e->begin[i] : 0;
        store->ends[at] = context ? e->end[i] : 0;
    }
}

/* First and last row of the answer in a window whose context tokens are [from, from + size), which begin at row
 * `before`. */
static void label(const peft__encoding *e, const peft__records *r, int64_t from, int64_t size, int64_t before,
                  int32_t out[2]) {
    out[0] = out[1] = 0;
    const size_t begin = r->answer_begin, end = r->answer_end;
    if (end == 0 || e->begin[from] > begin || e->end[from + size - 1] < end) return;
    int64_t first = from, last = from + size - 1;
    while (first + 1 < from + size && e->begin[first + 1] <= begin) first++;
    while (last > from && e->end[last - 1] >= end) last--;
    if (last < first) last = first; /* an answer of blanks alone */
    out[0] = (int32_t)(before + first - from);
    out[1] = (int32_t)(before + last - from);
}

peft_status peft__encode_spans(peft__encoder *encoder, const peft__records *r, uint64_t line, peft__store *store) {
    peft_context *ctx = encoder->ctx;
    peft__encoding *e = &encoder->encoding;
    PEFT_TRY(peft__encode_pair(ctx, encoder->tokenizer, r->text, r->length, r->second, r->second_length,
                               PEFT_ENCODE_SPECIAL | PEFT_ENCODE_PARSE_SPECIAL, 0, PEFT_TRUNCATE_NONE, e));
    PEFT_TRY(peft__check_ids(encoder, e->ids, e->count));
    int64_t before = 0, behind = 0;
    while (before < e->count && (e->special[before] != 0 || e->source[before] == 0)) before++;
    while (behind < e->count - before && e->special[e->count - 1 - behind] != 0) behind++;
    const int64_t inner = e->count - before - behind, room = encoder->max_length - before - behind;
    if (inner == 0) {
        peft__skip_row(&encoder->reading, PEFT__SKIP_EMPTY, line);
        return PEFT_OK;
    }
    if (room < 1)
        return peft__fail(ctx, PEFT_E_FORMAT,
                          "the question takes %lld tokens of max_length %lld, with no room for the context",
                          (long long)(before + behind), (long long)encoder->max_length);
    if (e->count > encoder->reading.longest_uncut) encoder->reading.longest_uncut = e->count;
    const int64_t asked = encoder->options->stride, step = asked > 0 ? peft__min_i64(asked, room) : (room + 1) / 2;
    PEFT_TRY(keep_passage(encoder, r, store));
    encoder->reading.unanswered += encoder->options->unlabelled == 0 && r->answer_count == 0;
    for (int64_t at = 0; at < inner; at += step) {
        const int64_t size = peft__min_i64(room, inner - at), first = store->count;
        PEFT_TRY(peft__store_reserve(ctx, store, before + size + behind, 1));
        put(e, 0, before, false, store);
        put(e, before + at, size, true, store);
        put(e, before + inner, behind, false, store);
        const int64_t index = store->example_count;
        peft__store_put_example(store, first, (int32_t)(before + size + behind), 0);
        if (encoder->options->unlabelled == 0) label(e, r, before + at, size, before, store->spans + 2 * index);
        if (at + size >= inner) break;
    }
    return PEFT_OK;
}
