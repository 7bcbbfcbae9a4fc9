/* choices.c: questions with answers to choose among, one of which is right.
 *
 * The answers are a list in the row, or texts that every row has (verbalizers, which may name fields of the row); the
 * question is a field or a template over fields. Either way a row becomes one text, question and answers one after
 * another, with the bytes of each answer. For an encoder-decoder model the question is kept once and the answers behind
 * it; for a causal model question and answer are tokenised together, once an answer, because words may grow together at
 * the seam. What is too long loses the beginning of the question: the answer, and what asks for it, stay.
 */
#include "data/data.h"
#include "data/template.h"

#include <stdio.h>

enum { MOST_ANSWERS = 1024 };

static const char *const QUESTIONS[] = {"input", "question", "prompt", "text", "context", "ctx", "query", "sentence"};
static const char *const LISTS[] = {"choices", "options", "answer_choices", "candidates", "endings"};
static const char *const COLUMNS[] = {"choice", "option", "ending", "answer"};
static const char *const RIGHTS[] = {"answer", "label", "target", "correct", "gold", "class"};

struct peft__choice_reader {
    peft__template *question;     /* NULL: one field */
    peft__template **verbalizers; /* [options->verbalizer_count] */
    const char *field, *list, *right;
    const char *start; /* of pairs: how every answer begins (SWAG's sent2), or NULL */
    peft__buffer joined; /* a causal model's question and answer */
};

void peft__choices_free(peft__records *records) {
    peft__choice_reader *reader = records->choices;
    if (reader == NULL) return;
    peft__template_destroy(reader->question);
    for (uint32_t i = 0; reader->verbalizers != NULL && i < records->options->verbalizer_count; i++)
        peft__template_destroy(reader->verbalizers[i]);
    peft__free(records->ctx->mem, reader->verbalizers);
    peft__buffer_free(&reader->joined);
    peft__free(records->ctx->mem, reader);
    records->choices = NULL;
}

/* ---- which fields -------------------------------------------------------------------------------------------- */

static const char *first_of(const peft__json *row, const char *const *names, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (json_object_get(row, names[i]) != NULL) return names[i];
    return NULL;
}

static peft_status make_templates(peft__records *records, peft__choice_reader *reader) {
    peft_context *ctx = records->ctx;
    const peft_dataset_options *o = records->options;
    if (o->input_template != NULL)
        PEFT_TRY(peft__template_create(ctx, "input_template", o->input_template, strlen(o->input_template),
                                       &reader->question));
    if (o->verbalizer_count == 0) return PEFT_OK;
    reader->verbalizers = peft__alloc_zero(ctx->mem, o->verbalizer_count * sizeof *reader->verbalizers);
    if (reader->verbalizers == NULL) return peft__fail_nomem(ctx, o->verbalizer_count * sizeof(void *), "verbalizers");
    for (uint32_t i = 0; i < o->verbalizer_count; i++) {
        char where[40];
        (void)snprintf(where, sizeof where, "verbalizer %u", i + 1);
        PEFT_TRY(peft__template_create(ctx, where, o->verbalizers[i], strlen(o->verbalizers[i]),
                                       &reader->verbalizers[i]));
    }
    return PEFT_OK;
}

/* By the first row. */
static peft_status open_reader(peft__records *records, const peft__json *row) {
    if (records->choices != NULL) return PEFT_OK;
    const peft_dataset_options *o = records->options;
    peft__choice_reader *reader = peft__alloc_zero(records->ctx->mem, sizeof *reader);
    if (reader == NULL) return peft__fail_nomem(records->ctx, sizeof *reader, "a data set");
    peft__buffer_init(&reader->joined, records->ctx->mem);
    records->choices = reader; /* freed with the records, also when the rest fails */
    reader->field = o->prompt_key != NULL ? o->prompt_key : o->text_key;
    if (records->pairs && reader->field == NULL && json_object_get(row, "sent1") != NULL) {
        reader->field = "sent1";
        if (json_object_get(row, "sent2") != NULL) reader->start = "sent2";
    }
    if (reader->field == NULL) reader->field = first_of(row, QUESTIONS, PEFT_COUNT(QUESTIONS));
    reader->list = o->choices_key != NULL ? o->choices_key : first_of(row, LISTS, PEFT_COUNT(LISTS));
    reader->right = o->label_key != NULL ? o->label_key : first_of(row, RIGHTS, PEFT_COUNT(RIGHTS));
    peft_status status = make_templates(records, reader);
    if (status >= 0 && reader->question == NULL && reader->field == NULL)
        status = peft__fail(records->ctx, PEFT_E_FORMAT,
                            "the first row has no field that is known to hold the question: name it with prompt_key, "
                            "or write a template");
    if (status >= 0 && reader->right == NULL && o->unlabelled == 0)
        status = peft__fail(records->ctx, PEFT_E_FORMAT,
                            "the first row has no field that is known to say which answer is right: name it with "
                            "label_key, or say that the rows are unlabelled");
    if (status < 0) peft__choices_free(records);
    return status;
}

static const peft__json *right_of(const peft__records *records, const peft__json *row) {
    const char *name = records->choices->right;
    const peft__json *value = name != NULL ? json_object_get(row, name) : NULL;
    return json_is_null(value) ? NULL : value;
}

peft_status peft__choices_collect(peft__records *records, const peft__json *row) {
    PEFT_TRY(open_reader(records, row));
    return peft__labels_collect(records->ctx, records->labels, right_of(records, row));
}

/* Names that the file happens to lack would move the others: then they must be given. */
peft_status peft__choices_check_labels(const peft__records *records) {
    const peft__labels *labels = records->labels;
    const uint32_t answers = records->options->verbalizer_count;
    if (labels->named == 0 ? labels->count <= answers : labels->named == answers) return PEFT_OK;
    return peft__fail(records->ctx, PEFT_E_FORMAT,
                      "the labels are of %u classes, there are %u verbalizers: name the classes in the order of the "
                      "verbalizers with label_names",
                      labels->named == 0 ? labels->count : labels->named, answers);
}

/* ---- one row -------------------------------------------------------------------------------------------------- */

static bool blank(const char *text, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (text[i] != ' ' && text[i] != '\t' && text[i] != '\n' && text[i] != '\r') return false;
    return true;
}

/* What was added to the buffer since `begin` is an answer. */
static peft_status end_answer(peft__records *records, size_t begin) {
    const peft__buffer *text = &records->buffer;
    if (text->failed) return peft__fail_nomem(records->ctx, text->capacity, "a row");
    if (records->span_count >= MOST_ANSWERS)
        return peft__fail(records->ctx, PEFT_E_FORMAT, "a question has at most %d answers", MOST_ANSWERS);
    if (text->length == begin || blank(text->data + begin, text->length - begin))
        return peft__fail(records->ctx, PEFT_E_FORMAT, "answer %zu is empty", records->span_count);
    return peft__records_put_span(records, begin, text->length);
}

static peft_status put_answer(peft__records *records, const peft__json *value, const char *name) {
    const char *text = json_string_value(value);
    if (text == NULL || strlen(text) != json_string_length(value))
        return peft__fail(records->ctx, PEFT_E_FORMAT, "answer %zu of \"%.60s\" is text without NUL, found %s",
                          records->span_count, name, peft__json_kind(value));
    const size_t begin = records->buffer.length;
    (void)peft__buffer_puts(&records->buffer, text);
    return end_answer(records, begin);
}

/* choice1, choice2, ...; some count from 0. */
static peft_status put_columns(peft__records *records, const peft__json *row) {
    for (size_t n = 0; n < PEFT_COUNT(COLUMNS) && records->span_count == 1; n++)
        for (int i = 0; i < MOST_ANSWERS; i++) {
            char name[32];
            (void)snprintf(name, sizeof name, "%s%d", COLUMNS[n], i);
            const peft__json *value = json_object_get(row, name);
            if (value != NULL) PEFT_TRY(put_answer(records, value, name));
            if (value == NULL && i > 0) break;
        }
    if (records->span_count > 1) return PEFT_OK;
    return peft__fail(records->ctx, PEFT_E_FORMAT,
                      "the row has no list of answers: \"choices\", or \"choice1\", \"choice2\", ..., or name it with "
                      "choices_key, or give verbalizers");
}

static peft_status put_bars(peft__records *records, const char *text, const char *name) {
    for (;;) {
        const char *end = strchr(text, '|');
        const size_t length = end != NULL ? (size_t)(end - text) : strlen(text), begin = records->buffer.length;
        (void)peft__buffer_put(&records->buffer, text, length);
        const peft_status status = end_answer(records, begin);
        if (status < 0) return peft__fail_in(records->ctx, status, "\"%.60s\"", name);
        if (end == NULL) return PEFT_OK;
        text = end + 1;
    }
}

static peft_status put_answers(peft__records *records, const peft__json *row) {
    const peft__choice_reader *reader = records->choices;
    for (uint32_t i = 0; i < records->options->verbalizer_count; i++) {
        const size_t begin = records->buffer.length;
        PEFT_TRY(peft__template_render(reader->verbalizers[i], NULL, 0, row, NULL, 0, &records->buffer));
        PEFT_TRY(end_answer(records, begin));
    }
    if (records->options->verbalizer_count > 0) return PEFT_OK;
    const peft__json *list = reader->list != NULL ? json_object_get(row, reader->list) : NULL;
    if (list == NULL && records->options->choices_key == NULL) return put_columns(records, row);
    if (json_is_string(list)) return put_bars(records, json_string_value(list), reader->list);
    if (!json_is_array(list))
        return peft__fail(records->ctx, PEFT_E_FORMAT, "\"%.60s\" is a list of texts, found %s", reader->list,
                          list == NULL ? "nothing" : peft__json_kind(list));
    for (size_t i = 0; i < json_array_size(list); i++)
        PEFT_TRY(put_answer(records, json_array_get(list, i), reader->list));
    return PEFT_OK;
}

/* Which answer is right: its class, its number from 0, or its text. */
static peft_status find_right(peft__records *records, const peft__json *value) {
    peft_context *ctx = records->ctx;
    const char *name = records->choices->right, *text = json_string_value(value);
    if (records->options->verbalizer_count > 0) {
        PEFT_TRY(peft__labels_find(ctx, records->labels, value, &records->label));
        return PEFT_OK;
    }
    const size_t first = 1, count = records->span_count - first;
    int64_t number = -1;
    for (size_t i = 0; text != NULL && i < count; i++) {
        const peft__span *span = &records->spans[first + i];
        if (span->end - span->begin != json_string_length(value) ||
            memcmp(records->buffer.data + span->begin, text, span->end - span->begin) != 0)
            continue;
        records->label = (int32_t)i;
        return PEFT_OK;
    }
    const bool counted = json_is_integer(value);
    if (counted) number = json_integer_value(value);
    if (!counted && (text == NULL || !peft__parse_i64(text, json_string_length(value), &number)))
        return peft__fail(ctx, PEFT_E_FORMAT, "\"%.60s\" is the number of an answer from 0, or its text, found %s%.60s",
                          name, text != NULL ? "" : peft__json_kind(value), text != NULL ? text : "");
    if (number < 0 || number >= (int64_t)count)
        return peft__fail(ctx, PEFT_E_FORMAT, "\"%.60s\" is %lld, the row has %zu answers, counted from 0", name,
                          (long long)number, count);
    records->label = (int32_t)number;
    return PEFT_OK;
}

/* spans[0] is the question, the others are the answers. */
peft_status peft__choices_read(peft__records *records, const peft__json *row) {
    peft_context *ctx = records->ctx;
    PEFT_TRY(open_reader(records, row));
    const peft__choice_reader *reader = records->choices;
    peft__buffer_clear(&records->buffer);
    records->label = PEFT_IGNORE_LABEL;
    records->add_special = true;
    if (reader->question != NULL) {
        PEFT_TRY(peft__template_render(reader->question, NULL, 0, row, NULL, 0, &records->buffer));
    } else {
        const char *text;
        PEFT_TRY(peft__records_field(records, row, reader->field, true, &text));
        (void)peft__buffer_puts(&records->buffer, text);
    }
    if (records->buffer.failed) return peft__fail_nomem(ctx, records->buffer.capacity, "a row");
    if (records->buffer.length == 0 || blank(records->buffer.data, records->buffer.length))
        return peft__fail(ctx, PEFT_E_FORMAT, "the question is empty");
    PEFT_TRY(peft__records_put_span(records, 0, records->buffer.length));
    PEFT_TRY(put_answers(records, row));
    if (records->span_count < 3)
        return peft__fail(ctx, PEFT_E_FORMAT, "a question has two answers or more, found %zu", records->span_count - 1);
    records->text = records->buffer.data;
    records->length = records->buffer.length;
    records->second = NULL;
    if (reader->start != NULL) PEFT_TRY(peft__records_field(records, row, reader->start, false, &records->second));
    const peft__json *right = right_of(records, row);
    if (right != NULL) return find_right(records, right);
    if (records->options->unlabelled != 0) return PEFT_OK;
    return peft__fail(ctx, PEFT_E_FORMAT, "\"%.60s\" is missing, which says which answer is right", reader->right);
}

/* ---- tokens ---------------------------------------------------------------------------------------------------- */

static const uint32_t FLAGS = PEFT_ENCODE_PARSE_SPECIAL | PEFT_ENCODE_SPECIAL;

/* A piece being built at the store's end; nothing of it counts before the example is put. */
typedef struct piece {
    peft__encoder *encoder;
    peft__store *store;
    int64_t first;  /* of the example's tokens */
    int64_t length; /* so far */
    int64_t cut;
} piece;

/* `count` more ids, of which those from `learnt` on are learnt. */
static peft_status put_tokens(piece *p, const int32_t *ids, int64_t count, int64_t learnt) {
    PEFT_TRY(peft__store_reserve(p->encoder->ctx, p->store, p->length + count, 1));
    for (int64_t i = 0; i < count; i++) {
        p->store->ids[p->first + p->length + i] = ids[i];
        p->store->labels[p->first + p->length + i] = i < learnt ? PEFT_IGNORE_LABEL : ids[i];
    }
    p->length += count;
    return PEFT_OK;
}

static peft_status encode_text(peft__encoder *encoder, const char *text, size_t length) {
    PEFT_TRY(peft__encode(encoder->ctx, encoder->tokenizer, text, length, FLAGS, &encoder->encoding));
    return peft__check_ids(encoder, encoder->encoding.ids, encoder->encoding.count);
}

static int32_t end_token(const peft__encoder *encoder) {
    if (encoder->options->eos == PEFT_EOS_NEVER) return -1;
    return peft__special_id(encoder->tokenizer, PEFT_SPECIAL_EOS);
}

static void note_length(peft__encoder *encoder, int64_t whole) {
    encoder->reading.longest_uncut = peft__max_i64(encoder->reading.longest_uncut, whole);
}

/* For an encoder: the end of the text stays, with the token that ends it. */
static peft_status put_question(piece *p, const peft__records *r, bool *out_empty) {
    peft__encoder *e = p->encoder;
    PEFT_TRY(encode_text(e, r->text, r->spans[0].end));
    const int64_t count = e->encoding.count, over = peft__max_i64(count - e->max_length, 0);
    *out_empty = count == 0;
    p->cut += over;
    note_length(e, count);
    return put_tokens(p, e->encoding.ids + over, count - over, count - over);
}

static peft_status put_decoder_answer(piece *p, const peft__records *r, const peft__span *span, bool *out_empty) {
    peft__encoder *e = p->encoder;
    const int32_t eos = end_token(e);
    PEFT_TRY(encode_text(e, r->text + span->begin, span->end - span->begin));
    const int64_t count = e->encoding.count, kept = peft__min_i64(count, e->max_length);
    const bool ends = eos >= 0 && kept < e->max_length && (count == 0 || e->encoding.ids[count - 1] != eos);
    *out_empty = kept == 0;
    p->cut += count - kept;
    PEFT_TRY(put_tokens(p, e->encoding.ids, kept, 0));
    return ends ? put_tokens(p, &eos, 1, 0) : PEFT_OK;
}

/* Question and answer as one text for a causal model. */
static peft_status put_whole(piece *p, const peft__records *r, const peft__span *span, bool *out_empty) {
    peft__encoder *e = p->encoder;
    const peft__encoding *encoding = &e->encoding;
    peft__buffer *joined = &r->choices->joined;
    const size_t question = r->spans[0].end;
    const int32_t eos = end_token(e);
    peft__buffer_clear(joined);
    (void)peft__buffer_put(joined, r->text, question);
    (void)peft__buffer_put(joined, r->text + span->begin, span->end - span->begin);
    if (joined->failed) return peft__fail_nomem(e->ctx, joined->capacity, "a row");
    PEFT_TRY(encode_text(e, joined->data, joined->length));
    int64_t lead = 0, learnt = 0, count = encoding->count;
    while (lead < count && encoding->special[lead] != 0) lead++;
    while (learnt < count && (encoding->special[learnt] != 0 || encoding->end[learnt] <= question)) learnt++;
    const bool ends = eos >= 0 && (count == 0 || encoding->ids[count - 1] != eos);
    const int64_t whole = count + (ends ? 1 : 0), over = peft__max_i64(whole - e->max_length, 0);
    note_length(e, whole);
    /* Something must stand before the answer, or nothing predicts its first token. */
    *out_empty = learnt == 0 || learnt == count || over > learnt - lead - (lead == 0 ? 1 : 0);
    if (*out_empty) return PEFT_OK;
    p->cut += over;
    PEFT_TRY(put_tokens(p, encoding->ids, lead, lead));
    PEFT_TRY(put_tokens(p, encoding->ids + lead + over, count - lead - over, learnt - lead - over));
    return ends ? put_tokens(p, &eos, 1, 0) : PEFT_OK;
}

/* Question and answer as a pair of texts. */
static peft_status put_pair(piece *p, const peft__records *r, const peft__span *span, bool *out_empty) {
    peft__encoder *e = p->encoder;
    const peft__encoding *encoding = &e->encoding;
    peft__buffer *answer = &r->choices->joined;
    peft__buffer_clear(answer);
    if (r->second != NULL && r->second[0] != '\0') (void)peft__buffer_printf(answer, "%s ", r->second);
    (void)peft__buffer_put(answer, r->text + span->begin, span->end - span->begin);
    if (answer->failed) return peft__fail_nomem(e->ctx, answer->capacity, "a row");
    PEFT_TRY(peft__encode_pair(e->ctx, e->tokenizer, r->text, r->spans[0].end, answer->data, answer->length, FLAGS, 0,
                               PEFT_TRUNCATE_NONE, &e->encoding));
    const int64_t whole = encoding->count;
    note_length(e, whole);
    if (whole > e->max_length)
        PEFT_TRY(peft__encode_pair(e->ctx, e->tokenizer, r->text, r->spans[0].end, answer->data, answer->length, FLAGS,
                                   e->max_length, PEFT_TRUNCATE_LONGEST_FIRST, &e->encoding));
    PEFT_TRY(peft__check_ids(e, encoding->ids, encoding->count));
    p->cut += whole - encoding->count;
    *out_empty = encoding->count == 0;
    const int64_t first = p->first + p->length;
    PEFT_TRY(put_tokens(p, encoding->ids, encoding->count, encoding->count));
    if (p->store->typed && encoding->count > 0)
        memcpy(p->store->types + first, encoding->types, (size_t)encoding->count * sizeof(int32_t));
    return PEFT_OK;
}

peft_status peft__encode_choices(peft__encoder *encoder, const peft__records *r, uint64_t line, peft__store *store) {
    piece p = {.encoder = encoder, .store = store, .first = store->count};
    const size_t answers = r->span_count - 1;
    const bool apart = store->apart;
    bool empty = false;
    PEFT_TRY(peft__store_reserve(encoder->ctx, store, 0, 1));
    PEFT_TRY(peft__store_reserve_parts(encoder->ctx, store, (int64_t)answers + 1));
    int32_t *ends = store->parts + store->part_count;
    if (encoder->options->right_only != 0 && r->label == PEFT_IGNORE_LABEL) {
        peft__skip_row(&encoder->reading, PEFT__SKIP_UNTRAINED, line);
        return PEFT_OK;
    }
    if (apart) {
        PEFT_TRY(put_question(&p, r, &empty));
        *ends++ = (int32_t)p.length;
    }
    const int64_t question = p.length;
    for (size_t i = 0; i < answers && !empty; i++) {
        const peft__span *span = &r->spans[i + 1];
        PEFT_TRY(apart          ? put_decoder_answer(&p, r, span, &empty)
                 : store->pairs ? put_pair(&p, r, span, &empty)
                                : put_whole(&p, r, span, &empty));
        if (p.length > INT32_MAX / 4)
            return peft__fail(encoder->ctx, PEFT_E_LIMIT, "a question and its answers have more than %d tokens",
                              INT32_MAX / 4);
        *ends++ = (int32_t)p.length;
    }
    if (empty) {
        peft__skip_row(&encoder->reading, apart ? PEFT__SKIP_EMPTY : PEFT__SKIP_CUT, line);
        return PEFT_OK;
    }
    encoder->reading.cut += p.cut > 0;
    encoder->reading.cut_tokens += p.cut;
    const int64_t index = store->example_count;
    store->count += p.length;
    store->first_part[index] = store->part_count;
    store->part_count += (int64_t)answers + (apart ? 1 : 0);
    store->most_parts = peft__max_i64(store->most_parts, (int64_t)answers);
    peft__store_put_example(store, p.first, (int32_t)p.length, (int32_t)question);
    store->classes[index] = r->label;
    if (encoder->options->verbalizer_count > 0 && r->label != PEFT_IGNORE_LABEL) r->labels->examples[r->label]++;
    return PEFT_OK;
}

/* ---- batches ---------------------------------------------------------------------------------------------------- */

/* Answer number `index` of an example: where it begins in the example's tokens, and where it ends. */
static void answer_of(const peft__store *store, int64_t example, int64_t index, int32_t *out_begin, int32_t *out_end) {
    const int32_t *ends = store->parts + store->first_part[example] + (store->apart ? 1 : 0);
    *out_begin = index > 0 ? ends[index - 1] : store->examples[example].context;
    *out_end = ends[index];
}

static int64_t answers_of(const peft__store *store, int64_t example) {
    const int64_t end = example + 1 < store->example_count ? store->first_part[example + 1] : store->part_count;
    return end - store->first_part[example] - (store->apart ? 1 : 0);
}

typedef struct counts {
    int64_t rows, answers;
} counts;

/* The answers of one example go behind those before it: to the decoder's stream, or as sequences of their own. */
static void put_example(peft_dataset *d, int64_t index, int32_t question, counts *n) {
    const peft__store *store = &d->store;
    const bool all = d->options.right_only == 0;
    const int64_t first = all ? 0 : store->classes[index], end = all ? answers_of(store, index) : first + 1;
    const int32_t *ids = store->ids + store->examples[index].first,
                  *labels = store->labels + store->examples[index].first;
    int32_t *offsets = store->apart ? d->answer_offsets : d->offsets;
    for (int64_t a = first; a < end; a++) {
        int32_t begin, stop;
        answer_of(store, index, a, &begin, &stop);
        offsets[n->answers] = (int32_t)n->rows;
        if (store->apart) d->answer_source[n->answers] = question;
        n->answers++;
        for (int32_t t = begin; t < stop; t++, n->rows++) {
            if (store->apart) {
                d->answer_ids[n->rows] = t == begin ? d->decoder_start : ids[t - 1];
                d->answer_labels[n->rows] = labels[t];
            } else {
                d->rows_ids[n->rows] = ids[t];
                d->rows_labels[n->rows] = labels[t];
                if (store->typed) d->rows_types[n->rows] = store->types[store->examples[index].first + t];
            }
        }
    }
    offsets[n->answers] = (int32_t)n->rows;
}

void peft__choices_put_batch(peft_dataset *d, int32_t first, int32_t count, peft_batch *batch) {
    const peft__store *store = &d->store;
    const bool all = d->options.right_only == 0;
    counts n = {0};
    int64_t asked = 0;
    for (int32_t i = 0; i < count; i++) {
        const int64_t index = d->order.order[first + i];
        const peft__example *example = &store->examples[index];
        if (store->apart) {
            d->offsets[i] = (int32_t)asked;
            memcpy(d->rows_ids + asked, store->ids + example->first, (size_t)example->context * sizeof(int32_t));
            asked += example->context;
        } else if (all) {
            d->answer_offsets[i] = (int32_t)n.answers;
        }
        d->batch_classes[i] = store->classes[index];
        put_example(d, index, i, &n);
    }
    *batch = (peft_batch){
        .struct_size = (uint32_t)sizeof *batch, .offsets = d->offsets, .input_ids = d->rows_ids};
    if (store->apart) {
        d->offsets[count] = (int32_t)asked;
        batch->rows = asked;
        batch->sequences = count;
        batch->decoder_rows = n.rows;
        batch->decoder_sequences = n.answers;
        batch->decoder_offsets = d->answer_offsets;
        batch->decoder_input_ids = d->answer_ids;
        batch->decoder_labels = d->answer_labels;
        batch->decoder_source = d->answer_source;
    } else {
        batch->rows = n.rows;
        batch->sequences = n.answers;
        batch->labels = store->pairs || store->embeds ? NULL : d->rows_labels;
        if (store->typed) batch->token_type_ids = d->rows_types;
        if (all) {
            d->answer_offsets[count] = (int32_t)n.answers;
            batch->questions = count;
            batch->choice_offsets = d->answer_offsets;
        }
    }
    if (all) batch->sequence_labels = d->batch_classes;
}
