/* rank.c: rank classification: of the answers to a question a language model finds one the most likely.
 *
 * Long answers have more to be wrong in, so sums of -log p are divided by the number of tokens (to a power that the
 * caller chooses); that is also what T-Few's third loss trains. Answers that are exactly as likely are decided by their
 * order, so that a result is the same wherever it is computed.
 */
#include "train/train.h"

#include <math.h>

/* Best of answers first .. end - 1 of a question, and the cross entropy of `right` among them. `of` lists the answers.
 */
static int32_t choose(const double *quotients, const int64_t *of, int64_t count, int32_t right, double *out_loss) {
    int32_t best = 0;
    for (int64_t c = 1; c < count; c++)
        if (quotients[of[c]] < quotients[of[best]]) best = (int32_t)c;
    double sum = 0.0;
    for (int64_t c = 0; c < count; c++) sum += exp(quotients[of[best]] - quotients[of[c]]);
    *out_loss = right >= 0 && right < count ? quotients[of[right]] - quotients[of[best]] + log(sum) : NAN;
    return best;
}

/* The answers of a question, in their order. */
static int64_t answers_of(const peft_batch *batch, int64_t question, int64_t *of) {
    int64_t count = 0;
    if (batch->questions > 0)
        for (int32_t c = batch->choice_offsets[question]; c < batch->choice_offsets[question + 1]; c++) of[count++] = c;
    else
        for (int64_t c = 0; c < batch->decoder_sequences; c++)
            if ((batch->decoder_source != NULL ? batch->decoder_source[c] : c) == question) of[count++] = c;
    return count;
}

/* Two numbers an answer: what it is ranked by, and its place in the list of a question. */
static peft_status rank_all(peft_session *session, const peft_batch *batch, double length_penalty, int64_t answers,
                            double *quotients, int64_t *tokens, int32_t *out_choices, double *out_losses) {
    PEFT_TRY(peft_session_score(session, batch, quotients, tokens, answers, NULL));
    const peft_batch *own = &session->side.batch;
    const int64_t questions = own->questions > 0 ? own->questions : own->sequences;
    for (int64_t c = 0; c < answers; c++) quotients[c] /= pow((double)tokens[c], length_penalty);
    for (int64_t q = 0; q < questions; q++) {
        const int64_t count = answers_of(own, q, tokens); /* lengths are not needed any more */
        if (count == 0) return peft__fail(session->ctx, PEFT_E_ARG, "question %lld has no answer", (long long)q);
        double loss = NAN;
        const int32_t right = own->sequence_labels != NULL ? own->sequence_labels[q] : PEFT_IGNORE_LABEL;
        const int32_t best = choose(quotients, tokens, count, right, &loss);
        if (out_choices != NULL) out_choices[q] = best;
        if (out_losses != NULL) out_losses[q] = loss;
    }
    return PEFT_OK;
}

peft_status peft_session_rank(peft_session *session, const peft_batch *batch, float length_penalty,
                              int32_t *out_choices, double *out_losses, int64_t capacity, int64_t *out_count) {
    if (session == NULL) return PEFT_E_ARG;
    peft_context *ctx = session->ctx;
    if (!isfinite(length_penalty))
        return peft__fail(ctx, PEFT_E_ARG, "length_penalty is finite, found %g", (double)length_penalty);
    PEFT_TRY(peft__session_need(session, session->phase != PEFT__RUNNING, "peft_session_rank()",
                                "does not come inside a pass"));
    PEFT_TRY(peft__session_take_batch(session, &session->side, batch, false));
    const peft_batch *own = &session->side.batch;
    PEFT_TRY(peft__batch_check_choices(ctx, own, false));
    const int64_t questions = own->questions > 0 ? own->questions : own->sequences;
    const int64_t answers = own->decoder_sequences > 0 ? own->decoder_sequences : own->sequences;
    if (questions > capacity)
        return peft__fail(ctx, PEFT_E_LIMIT, "the batch has %lld questions, there is room for %lld",
                          (long long)questions, (long long)capacity);
    double *quotients = peft__alloc(ctx->mem, (size_t)answers * sizeof *quotients);
    int64_t *tokens = peft__alloc(ctx->mem, (size_t)answers * sizeof *tokens);
    const peft_status status = quotients == NULL || tokens == NULL
                                   ? peft__fail_nomem(ctx, (size_t)answers * sizeof *quotients, "a ranking")
                                   : rank_all(session, batch, (double)length_penalty, answers, quotients, tokens,
                                              out_choices, out_losses);
    peft__free(ctx->mem, quotients);
    peft__free(ctx->mem, tokens);
    if (status >= 0 && out_count != NULL) *out_count = questions;
    return status;
}
