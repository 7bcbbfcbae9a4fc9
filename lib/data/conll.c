/* conll.c: files of columns: a word and its tags a line, blank lines between sentences.
 *
 * The word is the first column and the tag the last unless the host says otherwise; lines that begin with -DOCSTART-
 * or, as in CoNLL-U, with "# " are no words. A sentence comes out as the row that a JSONL file would have, so that all
 * that follows is the same for both.
 */
#include "data/data.h"

static bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\r';
}

static peft_status column_of(peft_context *ctx, const char *text, const char *what, int32_t *out) {
    int64_t number = 0;
    if (text != NULL && (!peft__parse_i64(text, strlen(text), &number) || number < 1 || number > 1000))
        return peft__fail(ctx, PEFT_E_ARG, "%s of a CoNLL file is the number of a column, 1 to 1000, found \"%.40s\"",
                          what, text);
    *out = (int32_t)number;
    return PEFT_OK;
}

peft_status peft__conll_open(peft_context *ctx, const peft__content *content, const peft_dataset_options *options,
                             peft__conll *out_conll) {
    peft__conll conll = {.ctx = ctx,
                         .name = content->name,
                         .data = (const char *)content->data,
                         .size = content->size,
                         .line = 1,
                         .unlabelled = options->unlabelled != 0};
    PEFT_TRY(column_of(ctx, options->text_key, "text_key", &conll.word_column));
    PEFT_TRY(column_of(ctx, options->label_key, "label_key", &conll.tag_column));
    if (conll.size >= 3 && memcmp(conll.data, "\xef\xbb\xbf", 3) == 0) conll.at = 3;
    *out_conll = conll;
    return PEFT_OK;
}

typedef struct line {
    const char *text;
    size_t length; /* without blanks at the end; 0 between sentences */
} line;

static bool take_line(peft__conll *conll, line *out) {
    if (conll->at >= conll->size) return false;
    const char *text = conll->data + conll->at, *end = memchr(text, '\n', conll->size - conll->at);
    size_t length = end != NULL ? (size_t)(end - text) : conll->size - conll->at;
    conll->at += length + (end != NULL ? 1 : 0);
    conll->line++;
    while (length > 0 && is_blank(text[length - 1])) length--;
    *out = (line){text, length};
    return true;
}

static bool begins(const line *l, const char *with) {
    const size_t length = strlen(with);
    return l->length >= length && memcmp(l->text, with, length) == 0;
}

/* Column number `wanted` from 1, or the last one for 0; *out_columns counts them. */
static line column(const line *l, int32_t wanted, int32_t *out_columns) {
    line found = {NULL, 0};
    *out_columns = 0;
    for (size_t at = 0; at < l->length;) {
        while (at < l->length && is_blank(l->text[at])) at++;
        const size_t start = at;
        while (at < l->length && !is_blank(l->text[at])) at++;
        if (start == at) break;
        ++*out_columns;
        if (wanted == 0 || wanted == *out_columns) found = (line){l->text + start, at - start};
    }
    return found;
}

static peft_status put_word(peft__conll *conll, const line *l, json_t *words, json_t *tags) {
    if (!peft__utf8_valid(l->text, l->length) || memchr(l->text, '\0', l->length) != NULL)
        return peft__fail(conll->ctx, PEFT_E_FORMAT, "not valid UTF-8, or a NUL character");
    int32_t columns;
    const line word = column(l, conll->word_column != 0 ? conll->word_column : 1, &columns);
    const line tag = column(l, conll->tag_column, &columns);
    if (word.text == NULL)
        return peft__fail(conll->ctx, PEFT_E_FORMAT, "the word is in column %d, found %d columns", conll->word_column,
                          columns);
    if (!conll->unlabelled && (tag.text == NULL || tag.text == word.text)) {
        if (conll->tag_column > 0)
            return peft__fail(conll->ctx, PEFT_E_FORMAT, "the tag is in column %d, found %d columns", conll->tag_column,
                              columns);
        return peft__fail(conll->ctx, PEFT_E_FORMAT, "a line has a word and its tag, found one column");
    }
    bool failed = json_array_append_new(words, json_stringn_nocheck(word.text, word.length)) != 0;
    if (!conll->unlabelled)
        failed = json_array_append_new(tags, json_stringn_nocheck(tag.text, tag.length)) != 0 || failed;
    return failed ? peft__fail_nomem(conll->ctx, l->length, "a sentence") : PEFT_OK;
}

peft_status peft__conll_next(peft__conll *conll, peft__json **out_row) {
    json_t *row = json_object(), *words = json_array(), *tags = json_array();
    bool failed = json_object_set_new(row, "tokens", words) != 0;
    failed = json_object_set_new(row, "ner_tags", tags) != 0 || failed;
    if (failed) {
        json_decref(row);
        return peft__fail_nomem(conll->ctx, 64, "a sentence");
    }
    if (conll->unlabelled) (void)json_object_del(row, "ner_tags");
    peft_status status = PEFT_OK, bad = PEFT_OK;
    size_t count = 0;
    line l;
    while (status >= 0 && take_line(conll, &l)) {
        if (begins(&l, "-DOCSTART-") || begins(&l, "# ")) continue;
        if (l.length == 0 && count > 0) break;
        if (l.length == 0) continue;
        if (count++ == 0) conll->row_line = conll->line - 1;
        if (bad < 0) continue; /* to the end of the bad sentence */
        bad = put_word(conll, &l, words, tags);
        if (bad == PEFT_E_FORMAT)
            bad = peft__fail_in(conll->ctx, bad, "%s:%llu", conll->name, (unsigned long long)conll->line - 1);
        if (bad < 0 && bad != PEFT_E_FORMAT) status = bad;
    }
    if (status >= 0) status = bad;
    if (status >= 0 && count == 0) status = PEFT_END;
    if (status != PEFT_OK) {
        json_decref(row);
        return status;
    }
    *out_row = row;
    return PEFT_OK;
}
