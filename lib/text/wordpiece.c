/* wordpiece.c: greedy longest match (WordPiece), and whole words (WordLevel).
 *
 * Two tries, of word starts and of continuations, give the longest match in one walk, so that a word is read once.
 */
#include "text/pipeline.h"

static peft_status unknown(peft__encoder *encoder, size_t from, size_t to) {
    const peft__model_data *model = &encoder->tokenizer->model;
    if (model->unk_id < 0)
        return peft__fail(encoder->ctx, PEFT_E_FORMAT, "the tokenizer's unknown token \"%s\" is not in its vocabulary",
                          model->unk != NULL ? model->unk : "");
    return peft__emit(encoder, model->unk_id, from, to);
}

peft_status peft__wordpiece(peft__encoder *encoder, size_t from, size_t to) {
    const peft__model_data *model = &encoder->tokenizer->model;
    const char *data = encoder->now.data;
    if (to - from > model->max_chars && peft__char_count(data + from, to - from) > model->max_chars)
        return unknown(encoder, from, to);
    const int64_t mark = encoder->out->count;
    for (size_t at = from; at < to;) {
        int32_t id = -1;
        const size_t length = peft__trie_longest(at == from ? &model->words : &model->rests, data + at, to - at, &id);
        if (length == 0) { /* one bad part makes the whole word unknown */
            encoder->out->count = mark;
            return unknown(encoder, from, to);
        }
        PEFT_TRY(peft__emit(encoder, id, at, at + length));
        at += length;
    }
    return PEFT_OK;
}

peft_status peft__wordlevel(peft__encoder *encoder, size_t from, size_t to) {
    const int32_t id = peft__vocab_id(encoder->tokenizer, encoder->now.data + from, to - from);
    return id >= 0 ? peft__emit(encoder, id, from, to) : unknown(encoder, from, to);
}
