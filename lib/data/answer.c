/* answer.c: rows for encoder-decoder models: what is asked goes to the encoder, what is learnt to the decoder.
 *
 * The two are tokenised apart, each with what the tokenizer adds, because two stacks read them. An example is kept as
 * one piece, question then answer; its `context` is where the answer begins. Of a conversation the last turn is the
 * answer.
 */
#include "data/data.h"

static int64_t cut_question(peft__encoder *encoder) {
    const int64_t count = encoder->encoding.count;
    if (count <= encoder->max_length) return count;
    /* The token that ends a text stays. */
    encoder->encoding.ids[encoder->max_length - 1] = encoder->encoding.ids[count - 1];
    return encoder->max_length;
}

peft_status peft__encode_answer(peft__encoder *encoder, const peft__records *record, uint64_t line,
                                peft__store *store) {
    peft_context *ctx = encoder->ctx;
    peft__reading *reading = &encoder->reading;
    const uint32_t flags = PEFT_ENCODE_PARSE_SPECIAL | PEFT_ENCODE_SPECIAL;
    const int32_t eos = peft__special_id(encoder->tokenizer, PEFT_SPECIAL_EOS);
    const peft__span *span = record->span_count > 0 ? &record->spans[record->span_count - 1] : NULL;
    if (span == NULL || span->begin == 0 || span->end <= span->begin) {
        peft__skip_row(reading, span == NULL ? PEFT__SKIP_UNTRAINED : PEFT__SKIP_EMPTY, line);
        return PEFT_OK;
    }
    PEFT_TRY(peft__encode(ctx, encoder->tokenizer, record->text, span->begin, flags, &encoder->encoding));
    PEFT_TRY(peft__check_ids(encoder, encoder->encoding.ids, encoder->encoding.count));
    const int64_t asked = encoder->encoding.count, question = cut_question(encoder);
    PEFT_TRY(peft__store_reserve(ctx, store, question, 1));
    const int64_t first = store->count;
    int32_t *ids = store->ids + first, *labels = store->labels + first;
    for (int64_t i = 0; i < question; i++) {
        ids[i] = encoder->encoding.ids[i];
        labels[i] = PEFT_IGNORE_LABEL;
    }
    PEFT_TRY(peft__encode(ctx, encoder->tokenizer, record->text + span->begin, span->end - span->begin, flags,
                          &encoder->encoding));
    PEFT_TRY(peft__check_ids(encoder, encoder->encoding.ids, encoder->encoding.count));
    int64_t said = encoder->encoding.count;
    PEFT_TRY(peft__store_reserve(ctx, store, question + said + 1, 1)); /* ids may lie elsewhere now */
    ids = store->ids + first + question;
    labels = store->labels + first + question;
    for (int64_t i = 0; i < said; i++) ids[i] = labels[i] = encoder->encoding.ids[i];
    const bool ends = eos >= 0 && encoder->options->eos != PEFT_EOS_NEVER;
    if (ends && (said == 0 || ids[said - 1] != eos)) {
        ids[said] = labels[said] = eos;
        said++;
    }
    reading->no_eos = reading->no_eos || eos < 0;
    const int64_t answer = peft__min_i64(said, encoder->max_length);
    if (question == 0 || answer == 0) {
        peft__skip_row(reading, PEFT__SKIP_EMPTY, line);
        return PEFT_OK;
    }
    reading->longest_uncut = peft__max_i64(reading->longest_uncut, peft__max_i64(asked, said));
    reading->cut += question < asked || answer < said;
    reading->cut_tokens += asked - question + said - answer;
    if (ends) {
        reading->wanting_end++;
        reading->with_end += ids[answer - 1] == eos;
    }
    store->count += question + answer;
    peft__store_put_example(store, first, (int32_t)(question + answer), (int32_t)question);
    return PEFT_OK;
}
