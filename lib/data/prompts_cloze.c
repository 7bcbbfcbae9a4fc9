/* prompts_cloze.c: words at a mask, for masked language models.
 *
 * Only the masked row goes through the output layer. A word is the token that it would be at that place: where a blank
 * stands before the mask, the token that has the blank in it, for tokenizers that have such tokens.
 */
#include "data/prompts.h"
#include "train/train.h"

/* The one token of a text, or -1. */
static peft_status one_token(peft__prompt_run *run, const char *text, int32_t *out) {
    PEFT_TRY(peft__encode(run->ctx, run->writer.tokenizer, text, strlen(text), 0, &run->answer));
    *out = run->answer.count == 1 ? run->answer.ids[0] : -1;
    return PEFT_OK;
}

static peft_status find_word(peft__prompt_run *run, const char *word, bool blank_before, int32_t *out) {
    char spaced[256];
    const size_t length = strlen(word);
    word += strspn(word, " ");
    *out = -1;
    if (blank_before && length + 2 < sizeof spaced) {
        spaced[0] = ' ';
        memcpy(spaced + 1, word, strlen(word) + 1);
        PEFT_TRY(one_token(run, spaced, out));
    }
    if (*out < 0) PEFT_TRY(one_token(run, word, out));
    const int32_t unknown = peft__special_id(run->writer.tokenizer, PEFT_SPECIAL_UNK);
    if (*out >= 0 && *out != unknown && *out < run->vocab) return PEFT_OK;
    if (*out >= 0)
        return peft__fail(run->ctx, PEFT_E_ARG, "%s: the word \"%.60s\" is not in the model's vocabulary",
                          run->prompt->where, word);
    peft__buffer pieces;
    peft__buffer_init(&pieces, run->ctx->mem);
    for (int64_t i = 0; i < run->answer.count; i++) {
        const char *token = peft__id_to_token(run->writer.tokenizer, run->answer.ids[i], NULL);
        (void)peft__buffer_printf(&pieces, "%s%s", i > 0 ? " + " : "", token != NULL ? token : "?");
    }
    const peft_status status = peft__fail(
        run->ctx, PEFT_E_ARG, "%s: the word \"%.60s\" is %lld tokens (%.120s), and {mask} takes a word of one token",
        run->prompt->where, word, (long long)run->answer.count, pieces.data != NULL ? pieces.data : "none");
    peft__buffer_free(&pieces);
    return status;
}

/* The row of the mask that the template put there: a text may have others. */
static int64_t find_mask(const peft__prompt_run *run) {
    const int32_t mask = peft__special_id(run->writer.tokenizer, PEFT_SPECIAL_MASK);
    for (int64_t i = 0; i < run->whole.count; i++)
        if (run->whole.ids[i] == mask && !run->whole.special[i] && run->whole.begin[i] <= run->writer.mask_at &&
            run->whole.end[i] > run->writer.mask_at)
            return i;
    return -1;
}

/* Of several words the mean of their logits. */
static void class_scores(peft__prompt_run *run, const float *logits) {
    const peft__prompt_text *prompt = run->prompt;
    for (uint32_t a = 0; a < prompt->answer_count;) {
        const uint32_t label = prompt->answers[a].label, first = a;
        double sum = 0.0;
        for (; a < prompt->answer_count && prompt->answers[a].label == label; a++)
            sum += (double)logits[run->word_ids[a]];
        run->scores[label] = sum / (double)(a - first) - run->free[label];
    }
}

peft_status peft__prompt_score_cloze(peft__prompt_run *run) {
    const peft__prompt_writer *w = &run->writer;
    peft_context *ctx = run->ctx;
    const bool blank = w->mask_at > 0 && w->text.data[w->mask_at - 1] == ' ';
    for (uint32_t a = 0; a < run->prompt->answer_count; a++)
        if (run->word_ids[a] < 0) PEFT_TRY(find_word(run, run->prompt->answers[a].text, blank, &run->word_ids[a]));
    PEFT_TRY(peft__encode(ctx, w->tokenizer, w->text.data, w->text.length, peft__prompt_flags(w), &run->whole));
    const int64_t count = run->whole.count, at = find_mask(run);
    if (at < 0)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: the tokenizer does not read \"%s\" as its mask token",
                          run->prompt->where, w->mask);
    if (run->positions > 0 && count > run->positions)
        return peft__fail(ctx, PEFT_E_LIMIT,
                          "%s takes %lld tokens, the model has %lld positions: use fewer shots or shorter texts",
                          run->prompt->where, (long long)count, (long long)run->positions);
    PEFT_TRY(peft__prompt_room(run, count, true));
    for (int64_t i = 0; i < count; i++) run->tail[i] = i == at ? run->whole.ids[i] : PEFT_IGNORE_LABEL;
    const int32_t offsets[2] = {0, (int32_t)count};
    peft_batch batch;
    peft_batch_init(&batch);
    batch.rows = count;
    batch.sequences = 1;
    batch.offsets = offsets;
    batch.input_ids = run->whole.ids;
    batch.labels = run->tail;
    const peft__value *logits = NULL;
    PEFT_TRY(peft__session_marked(run->session, &batch, &logits));
    if (logits == NULL || logits->cols != run->vocab || logits->rows->count != 1)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                          "%s: an active adapter has an output of its own in place of the model's words",
                          run->prompt->where);
    run->context += (double)count;
    run->rows_run += (double)count;
    class_scores(run, logits->data);
    return PEFT_OK;
}
