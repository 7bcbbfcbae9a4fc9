/* evaluate_words.c: which words fit the hidden tokens of a text. */
#include "data/evaluate.h"

#include <math.h>
#include <stdio.h>

/* The `count` likeliest ids of a row of logits, falling. */
static int64_t best_ids(const float *logits, int64_t cols, int64_t count, int32_t *out) {
    int64_t found = 0;
    for (int64_t c = 0; c < cols; c++) {
        if (found == count && !(logits[c] > logits[out[found - 1]])) continue;
        int64_t at = found < count ? found++ : count - 1;
        for (; at > 0 && logits[c] > logits[out[at - 1]]; at--) out[at] = out[at - 1];
        out[at] = (int32_t)c;
    }
    return found;
}

static double log_sum(const float *logits, int64_t cols) {
    double top = -INFINITY, sum = 0.0;
    for (int64_t c = 0; c < cols; c++) top = fmax(top, (double)logits[c]);
    for (int64_t c = 0; c < cols; c++) sum += exp((double)logits[c] - top);
    return top + log(sum);
}

/* {"word": ..., "score": ...} for each of the likeliest tokens; *out_best is the first. */
static peft_status put_place(peft_evaluation *e, const peft_tokenizer *tokenizer, const float *logits, int64_t cols,
                             int32_t *ids, int32_t *out_best) {
    const int64_t found = best_ids(logits, cols, peft__min_i64(cols, e->options.n_best), ids);
    const double whole = log_sum(logits, cols);
    peft__buffer word;
    peft__buffer_init(&word, e->ctx->mem);
    peft_status status = PEFT_OK;
    (void)peft__buffer_puts(&e->text, "[");
    for (int64_t i = 0; i < found && status >= 0; i++) {
        peft__buffer_clear(&word);
        status = peft__decode(e->ctx, tokenizer, &ids[i], 1, false, &word);
        char score[32];
        (void)snprintf(score, sizeof score, "%.6g", exp((double)logits[ids[i]] - whole));
        (void)peft__buffer_puts(&e->text, i > 0 ? ", {\"word\": " : "{\"word\": ");
        (void)peft__json_put_string(&e->text, word.data != NULL ? word.data : "", word.length, true);
        (void)peft__buffer_printf(&e->text, ", \"score\": %s}", score);
    }
    (void)peft__buffer_puts(&e->text, "]");
    peft__buffer_free(&word);
    *out_best = ids[0];
    return status;
}

static peft_status put_filled(peft_evaluation *e, const peft_tokenizer *tokenizer, const int32_t *ids, int64_t count) {
    peft__buffer text;
    peft__buffer_init(&text, e->ctx->mem);
    const peft_status status = peft__decode(e->ctx, tokenizer, ids, count, true, &text);
    (void)peft__buffer_puts(&e->text, ", \"text\": ");
    (void)peft__json_put_string(&e->text, text.data != NULL ? text.data : "", text.length, true);
    peft__buffer_free(&text);
    return status;
}

static peft_status fill(peft_evaluation *e, const peft_dataset *dataset, int32_t index, const peft__value *logits,
                        int64_t first, int32_t *filled, int32_t *best) {
    const peft__store *store = &dataset->store;
    const peft__example *example = &store->examples[index];
    const int32_t mask = dataset->masking.mask_id;
    memcpy(filled, store->ids + example->first, (size_t)example->length * sizeof *filled);
    peft__buffer_clear(&e->text);
    (void)peft__buffer_puts(&e->text, "{\"prediction\": [");
    int64_t places = 0;
    for (int32_t t = 0; t < example->length; t++) {
        if (filled[t] != mask) continue;
        if (places++ > 0) (void)peft__buffer_puts(&e->text, ", ");
        PEFT_TRY(
            put_place(e, dataset->tokenizer, logits->data + (first + t) * logits->ld, logits->cols, best, &filled[t]));
    }
    (void)peft__buffer_puts(&e->text, "]");
    PEFT_TRY(put_filled(e, dataset->tokenizer, filled, example->length));
    (void)peft__buffer_puts(&e->text, "}");
    if (e->text.failed) return peft__fail_nomem(e->ctx, e->text.capacity, "a prediction");
    e->answers[e->count] = peft__arena_strndup(&e->arena, e->text.data, e->text.length);
    return e->answers[e->count] != NULL ? PEFT_OK : peft__fail_nomem(e->ctx, e->text.length, "a prediction");
}

peft_status peft__evaluation_fill(peft_evaluation *e, const peft_dataset *dataset, int32_t index,
                                  const peft__value *logits, int64_t first) {
    const size_t room = (size_t)dataset->store.examples[index].length + e->options.n_best;
    int32_t *ids = peft__alloc(e->ctx->mem, room * sizeof *ids);
    if (ids == NULL) return peft__fail_nomem(e->ctx, room * sizeof *ids, "a prediction");
    const peft_status status = fill(e, dataset, index, logits, first, ids, ids + dataset->store.examples[index].length);
    peft__free(e->ctx->mem, ids);
    return status;
}
