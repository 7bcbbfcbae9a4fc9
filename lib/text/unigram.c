/* unigram.c: the most probable cut of a word into pieces (Viterbi).
 *
 * One pass over the character positions; from each, a walk in the trie gives every piece that starts there. The first
 * of equally good cuts stays. A character that no piece covers alone counts as unknown at a fixed penalty below the
 * worst piece, and neighbouring unknown characters are one token.
 */
#include "text/pipeline.h"

static const double UNKNOWN_PENALTY = 10.0;

static void reach(peft__step *step, double score, uint32_t from, int32_t id) {
    if (step->id == -1 || score > step->score) *step = (peft__step){score, from, id};
}

static peft_status unknown(peft__encoder *encoder, size_t from, size_t to) {
    const peft__model_data *model = &encoder->tokenizer->model;
    const char *data = encoder->now.data;
    const int32_t id = peft__vocab_id(encoder->tokenizer, data + from, to - from);
    if (id >= 0) return peft__emit(encoder, id, from, to);
    if (model->byte_fallback) {
        bool all = true;
        for (size_t i = from; i < to; i++) all = all && model->byte_ids[(unsigned char)data[i]] >= 0;
        if (all) {
            for (size_t i = from; i < to; i++)
                PEFT_TRY(peft__emit(encoder, model->byte_ids[(unsigned char)data[i]], i, i + 1));
            return PEFT_OK;
        }
    }
    if (model->unk_id < 0)
        return peft__fail(
            encoder->ctx, PEFT_E_FORMAT,
            "the text has a character that is not in the tokenizer's vocabulary, which has no unknown token");
    return peft__emit(encoder, model->unk_id, from, to);
}

peft_status peft__unigram(peft__encoder *encoder, size_t from, size_t to) {
    const peft__model_data *model = &encoder->tokenizer->model;
    const char *word = encoder->now.data + from;
    const size_t length = to - from;
    peft__step *steps =
        peft__grow(encoder->ctx->mem, encoder->steps, &encoder->step_capacity, length + 1, sizeof *steps);
    if (steps == NULL) return peft__fail_nomem(encoder->ctx, length * sizeof *steps, "encoding a word");
    encoder->steps = steps;
    for (size_t i = 0; i <= length; i++) steps[i] = (peft__step){0.0, 0, -1};
    const double penalty = model->min_score - UNKNOWN_PENALTY;
    for (size_t at = 0; at < length;) {
        size_t bytes;
        peft__char_at(word + at, length - at, &bytes);
        const double here = steps[at].score;
        bool single = false;
        uint32_t node = 0;
        for (size_t i = at; i < length && peft__trie_step(&model->words, &node, (unsigned char)word[i]); i++) {
            const int32_t id = model->words.values[node];
            if (id < 0) continue;
            reach(&steps[i + 1], here + model->scores[id], (uint32_t)at, id);
            single = single || i + 1 - at == bytes;
        }
        if (!single) reach(&steps[at + bytes], here + penalty, (uint32_t)at, -2);
        at += bytes;
    }
    /* Walk back, turning each step's `from` into the way forward. */
    size_t at = length;
    uint32_t next = (uint32_t)length;
    while (at > 0) {
        const uint32_t start = steps[at].from;
        steps[at].from = next;
        next = (uint32_t)at;
        at = start;
    }
    steps[0].from = next;
    for (at = 0; at < length;) {
        size_t end = steps[at].from;
        const int32_t id = steps[end].id;
        if (id != -2 && id != model->unk_id) {
            PEFT_TRY(peft__emit(encoder, id, from + at, from + end));
        } else {
            while (end < length) { /* unknown neighbours are one */
                const size_t after = steps[end].from;
                if (steps[after].id != -2 && steps[after].id != model->unk_id) break;
                end = after;
            }
            PEFT_TRY(unknown(encoder, from + at, from + end));
        }
        at = end;
    }
    return PEFT_OK;
}
