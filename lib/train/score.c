/* score.c: how likely a language model finds texts: -log p of every label, summed over each sequence. */
#include "train/train.h"

/* Sequences of the stream that is scored, which may be fewer than those of the labelled rows' space has room for. */
static int64_t sequences_of(const peft_session *session, const peft_batch *batch) {
    return peft__model_task(session->model) == PEFT_TASK_SEQ_2_SEQ_LM ? batch->decoder_sequences : batch->sequences;
}

peft_status peft_session_score(peft_session *session, const peft_batch *batch, double *out_nll, int64_t *out_tokens,
                               int64_t capacity, int64_t *out_count) {
    if (session == NULL) return PEFT_E_ARG;
    peft_context *ctx = session->ctx;
    const int32_t task = peft__model_task(session->model);
    PEFT_TRY(peft__session_need(session, session->phase != PEFT__RUNNING, "peft_session_score()",
                                "does not come inside a pass"));
    if (task != PEFT_TASK_SEQ_2_SEQ_LM && task != PEFT_TASK_CAUSAL_LM && task != PEFT_TASK_MASKED_LM)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "texts are scored by language models");
    peft__session_start(session);
    PEFT_TRY(peft__session_take_batch(session, &session->side, batch, false));
    const peft_batch *own = &session->side.batch;
    const int64_t sequences = sequences_of(session, own);
    if (sequences > capacity)
        return peft__fail(ctx, PEFT_E_LIMIT, "the batch has %lld sequences to score, there is room for %lld",
                          (long long)sequences, (long long)capacity);
    PEFT_TRY(peft__plan_for_batch(session, PEFT__PLAN_SCORE, own));
    peft__plan *plan = &session->plans[PEFT__PLAN_SCORE];
    PEFT_TRY(peft__graph_bind(plan->graph, own));
    PEFT_TRY(peft__session_run_forward(session, plan));
    const peft__rows *rows = plan->nll->rows;
    for (int64_t s = 0; s < sequences; s++) {
        double sum = 0.0;
        int64_t tokens = 0;
        for (int32_t r = rows->offsets[s]; r < rows->offsets[s + 1]; r++) {
            if (rows->labels[r] == PEFT_IGNORE_LABEL) continue;
            sum += (double)plan->nll->data[r * plan->nll->ld];
            tokens++;
        }
        if (out_nll != NULL) out_nll[s] = sum;
        if (out_tokens != NULL) out_tokens[s] = tokens;
    }
    if (out_count != NULL) *out_count = sequences;
    return PEFT_OK;
}
