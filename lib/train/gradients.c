/* gradients.c: the host's access to outputs and gradients: losses of its own, averaging over machines. */
#include "train/train.h"

#include <math.h>

static peft_status check_host_loss(const peft_session *session, const char *call) {
    if (session->options.loss != PEFT_LOSS_HOST)
        return peft__fail(session->ctx, PEFT_E_STATE, "%s is for sessions made with PEFT_LOSS_HOST", call);
    return peft__session_need(session, session->phase == PEFT__FORWARD_DONE, call, "comes after a forward pass");
}

static const peft__value *output_of(const peft_session *session) {
    return session->plan->logits != NULL ? session->plan->logits : session->plan->decoder_logits;
}

peft_status peft_session_output(peft_session *session, const float **out_values, int64_t *out_rows, int64_t *out_cols) {
    if (session == NULL || out_values == NULL) return PEFT_E_ARG;
    PEFT_TRY(check_host_loss(session, "peft_session_output()"));
    const peft__value *out = output_of(session);
    *out_values = out->data;
    if (out_rows != NULL) *out_rows = out->rows->count;
    if (out_cols != NULL) *out_cols = out->cols;
    return PEFT_OK;
}

peft_status peft_session_output_grad(peft_session *session, float **out_grad) {
    if (session == NULL || out_grad == NULL) return PEFT_E_ARG;
    PEFT_TRY(check_host_loss(session, "peft_session_output_grad()"));
    if (session->plan->seed_grad == NULL)
        return peft__fail(session->ctx, PEFT_E_STATE, "the session has nothing to train");
    *out_grad = session->plan->seed_grad;
    return PEFT_OK;
}

/* The adapter's gradients and what they stand for, after a complete backward pass. */
static peft_status find(const peft_session *session, const peft_adapter *adapter, const char *call, int64_t count,
                        float ***out_grads, peft__accumulation **out_sums) {
    const int32_t which = adapter == NULL ? -1 : peft__session_find(session, adapter);
    if (which < 0) return peft__fail(session->ctx, PEFT_E_ARG, "%s: the adapter is not one of the session's", call);
    if (count != adapter->trained)
        return peft__fail(session->ctx, PEFT_E_ARG, "%s: the adapter has %lld trained values, found room for %lld",
                          call, (long long)adapter->trained, (long long)count);
    const bool ready = session->phase != PEFT__RUNNING && session->accumulated[which].pending;
    PEFT_TRY(peft__session_need(session, ready, call, "comes after a complete backward pass"));
    *out_grads = peft__session_grads(session, (uint32_t)which);
    *out_sums = &session->accumulated[which];
    return PEFT_OK;
}

peft_status peft_session_get_gradients(const peft_session *session, const peft_adapter *adapter, float *out_values,
                                       int64_t count) {
    if (session == NULL || out_values == NULL) return PEFT_E_ARG;
    float **grads;
    peft__accumulation *sums;
    PEFT_TRY(find(session, adapter, "peft_session_get_gradients()", count, &grads, &sums));
    for (uint32_t i = 0; i < adapter->count; i++) {
        const peft__param *param = &adapter->params[i];
        if (param->flags & PEFT__PARAM_FROZEN) continue;
        for (int64_t k = 0; k < param->elements; k++)
            *out_values++ = grads[i] == NULL ? 0.0f : (float)((double)grads[i][k] / sums->divisor);
    }
    return PEFT_OK;
}

peft_status peft_session_set_gradients(peft_session *session, const peft_adapter *adapter, const float *values,
                                       int64_t count) {
    if (session == NULL || values == NULL) return PEFT_E_ARG;
    float **grads;
    peft__accumulation *sums;
    PEFT_TRY(find(session, adapter, "peft_session_set_gradients()", count, &grads, &sums));
    for (uint32_t i = 0; i < adapter->count; i++) {
        const peft__param *param = &adapter->params[i];
        if (param->flags & PEFT__PARAM_FROZEN) continue;
        if (grads[i] != NULL) memcpy(grads[i], values, (size_t)param->elements * sizeof(float));
        values += param->elements;
    }
    sums->divisor = 1.0;
    return PEFT_OK;
}
