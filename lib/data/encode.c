/* encode.c: tokens and labels from text.
 *
 * The whole text is tokenised once and what is learnt is found by byte positions: tokenising prompt and answer apart
 * would split words at the seam in ways that the model never sees. A token that reaches into a learnt span is learnt.
 * Labels are never taken back by id, so an end token is learnt even when the model pads with it.
 */
#include "data/data.h"

void peft__encoder_init(peft__encoder *encoder, peft_context *ctx, const peft_tokenizer *tokenizer,
                        const peft_dataset_options *options, int64_t max_length, int64_t vocab) {
    *encoder = (peft__encoder){
        .ctx = ctx, .tokenizer = tokenizer, .options = options, .max_length = max_length, .vocab = vocab};
    peft__encoding_init(&encoder->encoding, ctx->mem);
}

void peft__encoder_free(peft__encoder *encoder) {
    peft__encoding_free(&encoder->encoding);
}

void peft__skip_row(peft__reading *reading, int32_t why, uint64_t line) {
    if (reading->skipped[why]++ == 0) reading->skipped_line[why] = line;
}

peft_status peft__check_ids(const peft__encoder *encoder, const int32_t *ids, int64_t count) {
    if (encoder->vocab <= 0) return PEFT_OK;
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= encoder->vocab)
            return peft__fail(
                encoder->ctx, PEFT_E_MISMATCH,
                "the tokenizer gives id %d, but the model has %lld embedding rows: they do not belong together", ids[i],
                (long long)encoder->vocab);
    return PEFT_OK;
}

static bool blank(const char *text, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++)
        if (text[i] != ' ' && text[i] != '\n' && text[i] != '\r' && text[i] != '\t') return false;
    return true;
}

/* Is the end of the text learnt? (A conversation may end with the user's words.) */
static bool end_is_learnt(const peft__records *record) {
    if (record->span_count == 0) return false;
    return blank(record->text, record->spans[record->span_count - 1].end, record->length);
}

/* Writes labels of the encoding; returns whether its last learnt token is a special one. */
static bool label_tokens(const peft__encoder *encoder, const peft__records *record, int32_t *labels) {
    const peft__encoding *encoding = &encoder->encoding;
    const bool whole = record->span_count == 1 && record->spans[0].begin == 0 && record->spans[0].end == record->length;
    size_t span = 0;
    bool special_end = false;
    for (int64_t i = 0; i < encoding->count; i++) {
        labels[i] = PEFT_IGNORE_LABEL;
        if (encoding->special[i] != 0) {
            /* The tokenizer's own template: what comes before the text only where all is learnt, what follows with the
             * text's end. */
            const bool before = i == 0 || (labels[i - 1] == PEFT_IGNORE_LABEL && !whole && span == 0);
            if (whole || (!before && end_is_learnt(record))) labels[i] = encoding->ids[i];
        } else {
            while (span < record->span_count && record->spans[span].end <= encoding->begin[i]) span++;
            /* Tokens without bytes of their own (a prefix blank that the tokenizer adds) belong to nothing. */
            if (span < record->span_count && encoding->end[i] > record->spans[span].begin &&
                encoding->begin[i] < encoding->end[i])
                labels[i] = encoding->ids[i];
            else if (whole)
                labels[i] = encoding->ids[i];
        }
        if (labels[i] != PEFT_IGNORE_LABEL &&
            !(record->conversation && blank(record->text, encoding->begin[i], encoding->end[i]) &&
              encoding->special[i] == 0 && encoding->begin[i] < encoding->end[i]))
            special_end = peft__token_is_special(encoder->tokenizer, encoding->ids[i]);
    }
    return special_end;
}

/* Should an end token follow? */
static bool wants_eos(const peft__encoder *encoder, const peft__records *record, int32_t eos, bool special_end) {
    const peft__encoding *encoding = &encoder->encoding;
    if (eos < 0 || encoder->options->eos == PEFT_EOS_NEVER || !end_is_learnt(record)) return false;
    if (encoding->count > 0 && encoding->ids[encoding->count - 1] == eos) return false;
    if (encoder->options->eos == PEFT_EOS_ALWAYS) return true;
    return !(record->conversation && special_end);
}

static bool learns(const int32_t *labels, int64_t count) {
    for (int64_t i = 1; i < count; i++)
        if (labels[i] != PEFT_IGNORE_LABEL) return true;
    return false;
}

peft_status peft__encode_record(peft__encoder *encoder, const peft__records *record, uint64_t line,
                                peft__store *store) {
    if (store->embeds) return peft__encode_pairs(encoder, record, line, store);
    if (store->learns == PEFT__LEARNS_CHOICE) return peft__encode_choices(encoder, record, line, store);
    if (store->layout != NULL) return peft__encode_layout(encoder, record, line, store);
    if (peft__is_labelled(record->format)) return peft__encode_labelled(encoder, record, line, store);
    if (store->learns == PEFT__LEARNS_SPAN) return peft__encode_spans(encoder, record, line, store);
    if (store->learns == PEFT__LEARNS_ANSWER) return peft__encode_answer(encoder, record, line, store);
    if (record->format == PEFT_DATA_MASKED_LM)
        return peft__encode_masked(encoder, record->text, record->length, line, store);
    peft__reading *reading = &encoder->reading;
    peft__encoding *encoding = &encoder->encoding;
    const uint32_t flags = PEFT_ENCODE_PARSE_SPECIAL | (record->add_special ? (uint32_t)PEFT_ENCODE_SPECIAL : 0u);
    PEFT_TRY(peft__encode(encoder->ctx, encoder->tokenizer, record->text, record->length, flags, encoding));
    PEFT_TRY(peft__check_ids(encoder, encoding->ids, encoding->count));
    PEFT_TRY(peft__store_reserve(encoder->ctx, store, encoding->count + 1, 1));

    /* Built behind the store's end; becomes part of it by putting the example. */
    int32_t *ids = store->ids + store->count, *labels = store->labels + store->count;
    int64_t count = encoding->count;
    if (count > 0) memcpy(ids, encoding->ids, (size_t)count * sizeof *ids);
    const bool special_end = label_tokens(encoder, record, labels);
    const int32_t eos = peft__special_id(encoder->tokenizer, PEFT_SPECIAL_EOS),
                  bos = peft__special_id(encoder->tokenizer, PEFT_SPECIAL_BOS);
    if (wants_eos(encoder, record, eos, special_end)) {
        ids[count] = labels[count] = eos;
        count++;
    }
    if (eos < 0) reading->no_eos = true;
    if (count >= 2 && bos >= 0 && ids[0] == bos && ids[1] == bos && reading->double_bos++ == 0)
        reading->double_bos_line = line;

    const int64_t whole_count = count;
    const bool learnt_before_cut = learns(labels, count);
    if (count > reading->longest_uncut) reading->longest_uncut = count;
    if (count > encoder->max_length) count = encoder->max_length;
    if (!learns(labels, count)) {
        peft__skip_row(reading,
                       whole_count < 2     ? PEFT__SKIP_EMPTY
                       : learnt_before_cut ? PEFT__SKIP_CUT
                                           : PEFT__SKIP_UNTRAINED,
                       line);
        return PEFT_OK;
    }
    if (whole_count > count) {
        reading->cut++;
        reading->cut_tokens += whole_count - count;
    } else if (eos >= 0 && end_is_learnt(record)) {
        reading->wanting_end++;
        for (int64_t i = count - 1; i >= 1; i--) {
            if (labels[i] == PEFT_IGNORE_LABEL) continue;
            if (labels[i] == eos || (record->conversation && peft__token_is_special(encoder->tokenizer, labels[i]))) {
                reading->with_end++;
                break;
            }
        }
    }
    const int64_t first = store->count;
    store->count += count;
    peft__store_put_example(store, first, (int32_t)count, 0);
    return PEFT_OK;
}

peft_status peft__encode_windows(peft__encoder *encoder, const char *text, size_t length, bool is_end,
                                 peft__store *store) {
    peft__encoding *encoding = &encoder->encoding;
    PEFT_TRY(peft__encode(encoder->ctx, encoder->tokenizer, text, length, PEFT_ENCODE_PARSE_SPECIAL, encoding));
    PEFT_TRY(peft__check_ids(encoder, encoding->ids, encoding->count));
    const int32_t bos = peft__special_id(encoder->tokenizer, PEFT_SPECIAL_BOS),
                  eos = peft__special_id(encoder->tokenizer, PEFT_SPECIAL_EOS);
    const bool add_bos =
        bos >= 0 && peft__tokenizer_adds_bos(encoder->tokenizer) && (encoding->count == 0 || encoding->ids[0] != bos);
    const bool add_eos = eos >= 0 && encoder->options->eos == PEFT_EOS_ALWAYS && is_end;
    const int64_t total = encoding->count + (add_bos ? 1 : 0) + (add_eos ? 1 : 0);
    const int64_t window = encoder->max_length,
                  stride = encoder->options->stride > 0 ? encoder->options->stride : window;
    PEFT_TRY(peft__store_reserve(encoder->ctx, store, total, total / stride + 1));

    const int64_t base = store->count;
    if (add_bos) peft__store_put_tokens(store, &bos, &bos, 1);
    peft__store_put_tokens(store, encoding->ids, encoding->ids, encoding->count);
    if (add_eos) peft__store_put_tokens(store, &eos, &eos, 1);
    const int64_t most = encoder->options->max_examples;
    for (int64_t at = 0; at < total && (most <= 0 || store->example_count < most); at += stride) {
        const int64_t size = peft__min_i64(window, total - at);
        const int64_t context = at == 0 ? 0 : window - stride;
        if (size < 2 || size <= context) break; /* nothing new in it to learn */
        peft__store_put_example(store, base + at, (int32_t)size, (int32_t)context);
        encoder->reading.rows++;
    }
    return PEFT_OK;
}
