/* logits.c: outputs of the model without any loss. */
#include "train/train.h"

#include <math.h>

static peft_status check_capacity(const peft_session *session, const peft__value *out, int64_t capacity) {
    const int64_t rows = out->rows->count;
    if (capacity / out->cols >= rows) return PEFT_OK;
    return peft__fail(session->ctx, PEFT_E_LIMIT, "the logits are %lld x %lld floats, there is room for %lld",
                      (long long)rows, (long long)out->cols, (long long)capacity);
}

peft_status peft__session_logits(peft_session *session, const peft_batch *batch, int32_t which, int64_t capacity,
                                 const peft__value **out_logits) {
    PEFT_TRY(peft__session_need(session, session->phase != PEFT__RUNNING, "peft_session_logits()",
                                "does not come inside a pass"));
    peft__session_start(session);
    PEFT_TRY(peft__session_take_batch(session, &session->side, batch, false));
    const peft__plan_kind kind = which == PEFT_LOGITS_ALL ? PEFT__PLAN_LOGITS : PEFT__PLAN_LAST;
    PEFT_TRY(peft__plan_for_batch(session, kind, &session->side.batch));
    peft__plan *plan = &session->plans[kind];
    PEFT_TRY(peft__graph_bind(plan->graph, &session->side.batch));
    const peft__value *out = plan->logits != NULL ? plan->logits : plan->decoder_logits;
    if (capacity >= 0) PEFT_TRY(check_capacity(session, out, capacity));
    PEFT_TRY(peft__session_run_forward(session, plan));
    *out_logits = out;
    return PEFT_OK;
}

peft_status peft__session_marked(peft_session *session, const peft_batch *batch, const peft__value **out_logits) {
    PEFT_TRY(peft__session_need(session, session->phase != PEFT__RUNNING, "reading logits",
                                "does not come inside a pass"));
    peft__session_start(session);
    PEFT_TRY(peft__session_take_batch(session, &session->side, batch, false));
    PEFT_TRY(peft__plan_for_batch(session, PEFT__PLAN_MARKED, &session->side.batch));
    peft__plan *plan = &session->plans[PEFT__PLAN_MARKED];
    PEFT_TRY(peft__graph_bind(plan->graph, &session->side.batch));
    PEFT_TRY(peft__session_run_forward(session, plan));
    *out_logits = plan->logits;
    return PEFT_OK;
}

peft_status peft_session_logits(peft_session *session, const peft_batch *batch, int32_t which, float *out_logits,
                                int64_t capacity, int64_t *out_rows, int64_t *out_cols) {
    if (session == NULL) return PEFT_E_ARG;
    if (out_logits == NULL || capacity < 0 || (which != PEFT_LOGITS_ALL && which != PEFT_LOGITS_LAST))
        return peft__fail(session->ctx, PEFT_E_ARG,
                          "peft_session_logits() takes PEFT_LOGITS_ALL or _LAST and room for the logits");
    const peft__value *out = NULL;
    PEFT_TRY(peft__session_logits(session, batch, which, capacity, &out));
    for (int64_t r = 0; r < out->rows->count; r++)
        memcpy(out_logits + r * out->cols, out->data + r * out->ld, (size_t)out->cols * sizeof(float));
    if (out_rows != NULL) *out_rows = out->rows->count;
    if (out_cols != NULL) *out_cols = out->cols;
    return PEFT_OK;
}

/* One sequence's rows [first, end) as one. */
static void pool(const peft__value *hidden, int64_t first, int64_t end, int32_t pooling, bool normalize, float *out) {
    if (pooling == PEFT_POOL_FIRST) end = first + 1;
    if (pooling == PEFT_POOL_LAST) first = end - 1;
    double squares = 0.0;
    for (int64_t c = 0; c < hidden->cols; c++) {
        double sum = 0.0;
        for (int64_t r = first; r < end; r++) sum += (double)hidden->data[r * hidden->ld + c];
        out[c] = (float)(sum / (double)(end - first));
        squares += (double)out[c] * (double)out[c];
    }
    const double scale = normalize ? 1.0 / fmax(sqrt(squares), 1e-12) : 1.0;
    for (int64_t c = 0; normalize && c < hidden->cols; c++) out[c] = (float)((double)out[c] * scale);
}

peft_status peft_session_embed(peft_session *session, const peft_batch *batch, int32_t pooling, int32_t normalize,
                               float *out_embeddings, int64_t capacity, int64_t *out_rows, int64_t *out_cols) {
    if (session == NULL) return PEFT_E_ARG;
    if (out_embeddings == NULL || capacity < 0 || pooling < PEFT_POOL_MEAN || pooling > PEFT_POOL_LAST)
        return peft__fail(session->ctx, PEFT_E_ARG,
                          "peft_session_embed() takes PEFT_POOL_MEAN, _FIRST or _LAST and room for the embeddings");
    if (peft__model_task(session->model) != PEFT_TASK_FEATURE_EXTRACTION)
        return peft__fail(session->ctx, PEFT_E_UNSUPPORTED,
                          "embeddings are of models that were loaded for PEFT_TASK_FEATURE_EXTRACTION");
    const peft__value *hidden = NULL;
    PEFT_TRY(peft__session_logits(session, batch, PEFT_LOGITS_ALL, -1, &hidden));
    const int64_t sequences = batch->sequences;
    if (capacity / hidden->cols < sequences)
        return peft__fail(session->ctx, PEFT_E_LIMIT, "the embeddings are %lld x %lld floats, there is room for %lld",
                          (long long)sequences, (long long)hidden->cols, (long long)capacity);
    for (int64_t s = 0; s < sequences; s++) { /* what a method put before a text is no part of it */
        const int64_t end = hidden->rows->offsets[s + 1], text = batch->offsets[s + 1] - batch->offsets[s];
        pool(hidden, end - text, end, pooling, normalize != 0, out_embeddings + s * hidden->cols);
    }
    if (out_rows != NULL) *out_rows = sequences;
    if (out_cols != NULL) *out_cols = hidden->cols;
    return PEFT_OK;
}
