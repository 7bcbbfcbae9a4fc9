/* plan.c: a session's graphs: when they are made, how large, and what of them a step needs.
 *
 * A graph is planned for a capacity. Where the host gave maxima these are it, and memory is taken once; otherwise
 * capacity is that of the first batch and grows with the largest one seen, in steps of an eighth, so that batches of slightly
 * different length do not plan again and again. Accumulated gradients move to the new graph when that happens between the batches of one
 * step.
 */
#include "train/train.h"

/* Sum over adapters of what makes a built graph stale; only equality matters and counters only rise. */
static uint64_t session_layout(const peft_session *session) {
    uint64_t layout = 0;
    for (uint32_t i = 0; i < session->count; i++) layout += session->adapters[i]->layout;
    return layout;
}

bool peft__session_trains(const peft_session *session) {
    if (session->options.inference) return false;
    for (uint32_t i = 0; i < session->count; i++)
        if (session->adapters[i]->trained > 0) return true;
    return false;
}

/* ---- capacity ---------------------------------------------------------------------------------------------------- */

/* Room for `need` when `have` is too little. The first batch gets what it needs: pictures and packed texts never need more. After that
 * some more than needed, in steps that get larger with the size. */
static int64_t grown(int64_t need, int64_t have, int64_t step) {
    if (need <= have) return have;
    while (have > 0 && step < need / 8) step *= 2;
    return peft__ceil_div(need, step) * step;
}

static peft_status choose(peft_context *ctx, const char *name, int64_t need, int64_t have, int64_t maximum,
                          int64_t step, int64_t *out) {
    if (maximum > 0) {
        if (need > maximum)
            return peft__fail(ctx, PEFT_E_LIMIT, "the batch has %lld %s, the session was made for %lld",
                              (long long)need, name, (long long)maximum);
        *out = maximum;
        return PEFT_OK;
    }
    *out = grown(need, have, step);
    return PEFT_OK;
}

peft_status peft__plan_capacity(const peft_session *session, const peft_batch *batch, const peft__capacity *present,
                                peft__capacity *out) {
    const peft_session_options *o = &session->options;
    peft_context *ctx = session->ctx;
    peft__capacity c = {0};
    PEFT_TRY(choose(ctx, "rows", batch->rows, present->rows, o->max_rows, 32, &c.rows));
    PEFT_TRY(choose(ctx, "sequences", batch->sequences, present->sequences, o->max_sequences, 4, &c.sequences));
    PEFT_TRY(choose(ctx, "decoder rows", batch->decoder_rows, present->decoder_rows, o->max_decoder_rows, 32,
                    &c.decoder_rows));
    PEFT_TRY(choose(ctx, "decoder sequences", batch->decoder_sequences, present->decoder_sequences,
                    o->max_decoder_sequences, 4, &c.decoder_sequences));
    int64_t labels = 0;
    for (int64_t i = 0; batch->labels != NULL && i < batch->rows; i++) labels += batch->labels[i] != PEFT_IGNORE_LABEL;
    for (int64_t i = 0; batch->decoder_labels != NULL && i < batch->decoder_rows; i++)
        labels += batch->decoder_labels[i] != PEFT_IGNORE_LABEL;
    PEFT_TRY(choose(ctx, "labels", labels, peft__max_i64(c.rows + c.sequences, c.decoder_rows), o->max_labels, 32,
                    &c.labels));
    *out = c;
    return PEFT_OK;
}

bool peft__plan_fits(const peft_session *session, const peft__plan *plan, const peft_batch *batch) {
    if (plan->graph == NULL || plan->layout != session_layout(session)) return false;
    const peft__capacity *c = &plan->capacity;
    return batch->rows <= c->rows && batch->sequences <= c->sequences && batch->decoder_rows <= c->decoder_rows &&
           batch->decoder_sequences <= c->decoder_sequences;
}

/* ---- building ----------------------------------------------------------------------------------------------- */

static peft__build_purpose purpose_of(const peft_session *session, peft__plan_kind kind) {
    switch (kind) {
    case PEFT__PLAN_TRAIN:
    case PEFT__PLAN_EVAL:
        return session->options.loss == PEFT_LOSS_HOST ? PEFT__BUILD_LOGITS : PEFT__BUILD_LOSS;
    case PEFT__PLAN_LOGITS:
        return PEFT__BUILD_LOGITS;
    case PEFT__PLAN_SCORE:
    case PEFT__PLAN_FOLLOW:
        return PEFT__BUILD_SCORE;
    case PEFT__PLAN_MARKED:
        return PEFT__BUILD_MARKED;
    default:
        return PEFT__BUILD_LAST;
    }
}

/* The output that the plan is for. */
static peft__value *output_of(const peft__build *build) {
    if (build->part == PEFT__PART_ENCODER) return build->cross != NULL ? build->cross[0] : NULL;
    if (build->purpose == PEFT__BUILD_LOSS) return build->loss;
    if (build->purpose == PEFT__BUILD_SCORE) return build->nll;
    return build->logits != NULL ? build->logits : build->decoder_logits;
}

void peft__plan_free(peft_session *session, peft__plan *plan) {
    peft__graph_destroy(plan->graph);
    peft__free(session->ctx->mem, plan->grads);
    *plan = (peft__plan){0};
}

peft_status peft__plan_build(peft_session *session, peft__plan_kind kind, const peft__capacity *capacity,
                             peft__plan *out_plan) {
    peft__plan plan = {.capacity = *capacity, .layout = session_layout(session)};
    PEFT_TRY(peft__graph_create(session->ctx, capacity, &plan.graph));
    peft__build build = {.graph = plan.graph,
                         .model = session->model,
                         .adapters = session->hooked,
                         .adapter_count = session->count,
                         .purpose = purpose_of(session, kind),
                         .caches = kind == PEFT__PLAN_GENERATE || kind == PEFT__PLAN_FOLLOW ? session->generation.caches
                                   : kind == PEFT__PLAN_DECODE                              ? session->decoding.self
                                                                                            : NULL,
                         .branches = kind == PEFT__PLAN_FOLLOW,
                         .part = kind == PEFT__PLAN_ENCODE   ? PEFT__PART_ENCODER
                                 : kind == PEFT__PLAN_DECODE ? PEFT__PART_DECODER
                                                             : PEFT__PART_WHOLE,
                         .cross_caches = session->decoding.cross,
                         .choice_loss = session->options.loss == PEFT_LOSS_TFEW,
                         .label_smoothing = session->options.label_smoothing,
                         .similarity_scale = session->options.similarity_scale,
                         .class_weights = session->class_weights};
    peft_status status = peft__build_model(&build);
    const bool backward = kind == PEFT__PLAN_TRAIN && peft__session_trains(session);
    if (status >= 0) {
        plan.loss = build.loss;
        plan.logits = build.logits;
        plan.decoder_logits = build.decoder_logits;
        plan.nll = build.nll;
        plan.cross = build.cross;
        peft__value *kept = output_of(&build);
        if (kept == NULL)
            status = peft__fail(session->ctx, PEFT_E_UNSUPPORTED, "the model and its task have no such output");
        if (kept != NULL) peft__value_output(plan.graph, kept);
        if (kept != NULL && backward && session->options.loss == PEFT_LOSS_HOST)
            peft__graph_seed_grad(plan.graph, kept);
    }
    if (status >= 0) status = peft__graph_plan(plan.graph, backward);
    if (status < 0) {
        peft__plan_free(session, &plan);
        return status;
    }
    *out_plan = plan;
    return PEFT_OK;
}

/* Where the gradient of each adapter's params is; also the place for the host's own gradient. */
static peft_status find_grads(peft_session *session, peft__plan *plan) {
    plan->grads = peft__alloc_zero(session->ctx->mem, (size_t)session->params * sizeof *plan->grads);
    if (plan->grads == NULL)
        return peft__fail_nomem(session->ctx, (size_t)session->params * sizeof *plan->grads, "gradient pointers");
    const uint32_t count = peft__graph_param_count(plan->graph);
    for (uint32_t i = 0; i < count; i++) {
        float *grad = NULL;
        const peft__param *param = peft__graph_param(plan->graph, i, &grad);
        size_t first = 0;
        for (uint32_t a = 0; a < session->count; a++) {
            const peft_adapter *adapter = session->adapters[a];
            if (param >= adapter->params && param < adapter->params + adapter->count &&
                !(param->flags & PEFT__PARAM_FROZEN))
                plan->grads[first + (size_t)(param - adapter->params)] = grad;
            first += adapter->count;
        }
    }
    const peft__value *seed = plan->logits != NULL ? plan->logits : plan->decoder_logits;
    if (session->options.loss == PEFT_LOSS_HOST && seed != NULL) plan->seed_grad = seed->grad;
    return PEFT_OK;
}

/* Gradients accumulated so far go on in another graph of the same adapters. */
static void move_grads(const peft_session *session, const peft__plan *from, peft__plan *to) {
    size_t first = 0;
    for (uint32_t a = 0; a < session->count; a++) {
        const peft_adapter *adapter = session->adapters[a];
        for (uint32_t i = 0; i < adapter->count; i++)
            if (from->grads[first + i] != NULL && to->grads[first + i] != NULL)
                memcpy(to->grads[first + i], from->grads[first + i],
                       (size_t)adapter->params[i].elements * sizeof(float));
        first += adapter->count;
    }
}

peft_status peft__plan_make(peft_session *session, peft__plan_kind kind, const peft__capacity *capacity) {
    peft__plan *present = &session->plans[kind];
    const bool keep = kind == PEFT__PLAN_TRAIN && present->graph != NULL && peft__session_pending(session);
    if (session->plan == present) peft__session_forget_pass(session);
    /* A plan that holds nothing worth keeping goes first: the old and the new block are never both there. */
    if (!keep) peft__plan_free(session, present);

    peft__plan plan;
    PEFT_TRY(peft__plan_build(session, kind, capacity, &plan));
    peft_status status = peft__graph_allocate(plan.graph);
    if (status >= 0) status = find_grads(session, &plan);
    if (status >= 0) status = peft__batch_store_reserve(session->ctx, &session->batch, capacity);
    if (status < 0) {
        peft__plan_free(session, &plan);
        return status;
    }
    if (keep) {
        move_grads(session, present, &plan);
        peft__plan_free(session, present);
    } else if (kind == PEFT__PLAN_TRAIN) {
        for (uint32_t a = 0; a < session->count; a++) session->accumulated[a].clean = true;
    }
    *present = plan;
    return PEFT_OK;
}

peft_status peft__plan_for_batch(peft_session *session, peft__plan_kind kind, const peft_batch *batch) {
    peft__capacity capacity;
    PEFT_TRY(peft__plan_capacity(session, batch, &session->plans[kind].capacity, &capacity));
    if (peft__plan_fits(session, &session->plans[kind], batch)) return PEFT_OK;
    return peft__plan_make(session, kind, &capacity);
}

/* ---- other adapters ------------------------------------------------------------------------------------------- */

static void exchange(const peft_session *session, peft__graph *graph, peft_adapter *const *adapters) {
    for (uint32_t i = 0; i < peft__graph_param_count(graph); i++) {
        const peft__param *param = peft__graph_param(graph, i, NULL);
        for (uint32_t a = 0; a < session->count; a++) {
            const peft_adapter *old = session->adapters[a];
            if (param < old->params || param >= old->params + old->count) continue;
            peft__graph_exchange_param(graph, i, &adapters[a]->params[param - old->params]);
            break;
        }
    }
}

void peft__plan_exchange(peft_session *session, peft_adapter *const *adapters) {
    const uint64_t present = session_layout(session);
    uint64_t layout = 0;
    for (uint32_t a = 0; a < session->count; a++) layout += adapters[a]->layout;
    for (int kind = 0; kind < PEFT__PLAN_COUNT; kind++) {
        peft__plan *plan = &session->plans[kind];
        if (plan->graph == NULL) continue;
        if (plan->layout != present) {
            peft__plan_free(session, plan);
            continue;
        }
        exchange(session, plan->graph, adapters);
        plan->layout = layout;
    }
}
