/* pass.c: forward and backward, whole or in slices, and what they leave behind.
 *
 * There is one way to run a pass: begin, then advance until done. Blocking calls advance without a limit. The phase is
 * the whole state of a step; a call that does not fit it says so and changes nothing.
 *
 * Gradients are sums over targets: a step divides once by the number of all targets, so micro-batches of different
 * length weigh as one large batch would. A method's penalty belongs to the mean loss and therefore enters with the
 * batch's target count as its factor.
 */
#include "train/train.h"

#include <math.h>

#include "kernel/kernels.h"

/* ---- what was accumulated ----------------------------------------------------------------------------------- */

float **peft__session_grads(const peft_session *session, uint32_t adapter) {
    const peft__plan *plan = &session->plans[PEFT__PLAN_TRAIN];
    if (plan->graph == NULL) return NULL;
    size_t first = 0;
    for (uint32_t a = 0; a < adapter; a++) first += session->adapters[a]->count;
    return plan->grads + first;
}

bool peft__session_pending(const peft_session *session) {
    for (uint32_t a = 0; a < session->count; a++)
        if (session->accumulated[a].pending) return true;
    return false;
}

static void rest(peft_session *session) {
    session->phase = peft__session_pending(session) ? PEFT__BACKWARD_DONE : PEFT__IDLE;
}

void peft__session_drop(peft_session *session, uint32_t adapter) {
    for (uint32_t a = 0; a < session->count; a++)
        if (a == adapter || adapter == UINT32_MAX)
            session->accumulated[a] = (peft__accumulation){.clean = session->accumulated[a].clean};
    rest(session);
}

void peft__session_forget_pass(peft_session *session) {
    session->plan = NULL;
    session->what = 0;
    if (session->phase == PEFT__FORWARD_DONE || session->phase == PEFT__RUNNING) rest(session);
}

void peft__session_start(peft_session *session) {
    if (session->phase == PEFT__IDLE) atomic_store_explicit(&session->cancel, false, memory_order_relaxed);
}

static void scale_grads(peft_session *session, uint32_t a, double factor) {
    const peft__kernels *kernels = peft__kernels_for(session->ctx->cpu);
    float **grads = peft__session_grads(session, a);
    for (uint32_t i = 0; i < session->adapters[a]->count; i++)
        if (grads[i] != NULL)
            kernels->scale(session->adapters[a]->params[i].elements, (float)factor, grads[i], grads[i], false);
}

/* ---- the parts of a pass ------------------------------------------------------------------------------------ */

static double penalty(const peft_session *session, double factor, bool with_grads) {
    double sum = 0.0;
    for (uint32_t a = 0; a < session->count; a++) {
        const peft__method *method = session->adapters[a]->method;
        if (method->penalty == NULL) continue;
        sum += method->penalty(session->adapters[a], with_grads ? peft__session_grads(session, a) : NULL, factor);
    }
    return sum;
}

/* Dropout goes on to other numbers. Passes of a step that is lost do not count: it can be made again with the same
 * bits. */
static void forward_counts(peft_session *session) {
    if (!peft__session_pending(session)) session->first_pass = session->passes;
    session->passes++;
    session->forward_done = true;
}

static peft_status finish_forward(peft_session *session) {
    const peft__plan *plan = session->plan;
    if (session->options.loss == PEFT_LOSS_HOST) {
        session->loss = session->targets = 0.0;
        const peft__value *out = plan->logits != NULL ? plan->logits : plan->decoder_logits;
        if (plan->seed_grad != NULL)
            for (int64_t r = 0; r < out->rows->count; r++)
                memset(plan->seed_grad + r * out->ld, 0, (size_t)out->cols * sizeof(float));
        forward_counts(session);
        return PEFT_OK;
    }
    session->targets = (double)plan->loss->data[1];
    if (!(session->targets > 0.0))
        return peft__fail(session->ctx, PEFT_E_ARG,
                          "no label of the batch is predicted by any row: a causal model needs labels after the first "
                          "token of a sequence");
    session->loss = (double)plan->loss->data[0] / session->targets + penalty(session, 1.0, false);
    forward_counts(session);
    return PEFT_OK;
}

/* Gradient memory as the backward part adds to it. Afterwards everything is to be multiplied by the weight, so what is
 * there is divided by it first. */
static void begin_backward(peft_session *session) {
    session->backward_begun = true;
    for (uint32_t a = 0; a < session->count; a++) {
        peft__accumulation *sums = &session->accumulated[a];
        if (sums->pending && sums->divisor != sums->count && sums->count > 0.0) {
            scale_grads(session, a, sums->count / sums->divisor); /* the host put mean gradients there */
            sums->divisor = sums->count;
        }
        if (sums->pending && session->weight != 1.0f) scale_grads(session, a, 1.0 / (double)session->weight);
        if (!sums->pending && !sums->clean) {
            float **grads = peft__session_grads(session, a);
            for (uint32_t i = 0; i < session->adapters[a]->count; i++)
                if (grads[i] != NULL)
                    memset(grads[i], 0, (size_t)session->adapters[a]->params[i].elements * sizeof(float));
        }
        sums->clean = false;
    }
}

static void finish_backward(peft_session *session) {
    const bool host = session->options.loss == PEFT_LOSS_HOST;
    const double weight = (double)session->weight;
    for (uint32_t a = 0; a < session->count; a++) {
        peft__accumulation *sums = &session->accumulated[a];
        if (weight != 1.0 && weight != 0.0) scale_grads(session, a, weight);
        sums->loss += session->loss * session->targets;
        sums->count += session->targets;
        sums->divisor = host ? 1.0 : sums->count;
        sums->pending = true;
    }
    if (weight != 0.0) (void)penalty(session, weight * (host ? 1.0 : session->targets), true);
    session->phase = PEFT__BACKWARD_DONE;
    session->plan = NULL;
}

/* A pass that ends early. Half a backward pass has mixed itself into the sums: they are lost with it. */
static peft_status fail_pass(peft_session *session, peft_status status) {
    const bool mixed = session->backward_begun;
    if (status == PEFT_E_CANCELLED) atomic_store_explicit(&session->cancel, false, memory_order_relaxed);
    session->phase = PEFT__RUNNING;
    if (mixed) {
        peft__session_drop(session, UINT32_MAX);
        session->passes = session->first_pass;
        session->phase = PEFT__RUNNING;
    }
    peft__session_forget_pass(session);
    return status;
}

static void report(const peft_session *session, peft_progress *out) {
    if (out == NULL || out->struct_size < sizeof out->struct_size) return;
    peft_progress progress = {
        .struct_size = out->struct_size, .longest_slice_us = session->longest_us, .loss = session->loss};
    if (session->plan != NULL) {
        const peft__plan_info *info = peft__graph_plan_info(session->plan->graph);
        const uint32_t first = session->what == PEFT_PASS_BACKWARD ? info->forward_steps : 0;
        progress.total = (session->what & PEFT_PASS_BACKWARD ? info->steps : info->forward_steps) - first;
        progress.done = session->cursor.step - first;
    }
    memcpy(out, &progress, peft__min_size(out->struct_size, sizeof progress));
}

static peft_status run_part(peft_session *session, uint32_t until, uint64_t deadline) {
    const peft__run_options run = {.seed = session->seed,
                                   .training = true,
                                   .deadline_us = deadline,
                                   .cancel = &session->cancel,
                                   .max_slice_us = &session->longest_us,
                                   .products = &session->products};
    return peft__graph_run(session->plan->graph, &session->cursor, until, &run);
}

/* ---- the calls ---------------------------------------------------------------------------------------------- */

static peft_status check_begin(peft_session *session, int32_t passes, float weight) {
    static const char call[] = "peft_session_begin()";
    peft_context *ctx = session->ctx;
    if (passes < PEFT_PASS_FORWARD || passes > PEFT_PASS_BOTH)
        return peft__fail(ctx, PEFT_E_ARG, "passes is 1, 2 or 3, found %d", passes);
    if (!isfinite(weight))
        return peft__fail(ctx, PEFT_E_ARG, "the weight of a backward pass is finite, found %g", (double)weight);
    PEFT_TRY(peft__session_need(session, session->phase != PEFT__RUNNING, call, "does not come inside a pass"));
    if (passes & PEFT_PASS_BACKWARD && !peft__session_trains(session))
        return peft__fail(ctx, PEFT_E_STATE, "a backward pass needs an adapter with something to train%s",
                          session->options.inference ? "; the session was made for inference" : "");
    if (passes == PEFT_PASS_BACKWARD)
        PEFT_TRY(peft__session_need(session, session->phase == PEFT__FORWARD_DONE, "a backward pass",
                                    "comes after a forward pass"));
    if (passes == PEFT_PASS_BOTH && session->options.loss == PEFT_LOSS_HOST)
        return peft__fail(ctx, PEFT_E_STATE,
                          "with the host's own loss the backward pass begins after the host wrote its gradient");
    return PEFT_OK;
}

peft_status peft_session_begin(peft_session *session, const peft_batch *batch, int32_t passes, float weight) {
    if (session == NULL) return PEFT_E_ARG;
    PEFT_TRY(check_begin(session, passes, weight));
    peft__session_start(session);
    if (passes & PEFT_PASS_FORWARD) {
        /* The copy of the last batch goes with the new one, and with it what its backward pass would read. */
        const peft__plan_kind kind = session->options.inference ? PEFT__PLAN_EVAL : PEFT__PLAN_TRAIN;
        PEFT_TRY(peft__session_take_batch(session, &session->batch, batch, session->options.loss != PEFT_LOSS_HOST));
        peft__session_forget_pass(session);
        PEFT_TRY(peft__plan_for_batch(session, kind, &session->batch.batch));
        PEFT_TRY(peft__graph_bind(session->plans[kind].graph, &session->batch.batch));
        session->plan = &session->plans[kind];
        session->cursor = (peft__cursor){0};
        session->forward_done = false;
        const uint64_t of[2] = {session->options.seed, session->passes};
        session->seed = peft__hash64(of, sizeof of, 0);
        session->loss = 0.0;
    }
    session->backward_begun = false;
    session->what = passes;
    session->weight = weight;
    session->longest_us = 0;
    session->phase = PEFT__RUNNING;
    return PEFT_OK;
}

peft_status peft_session_advance(peft_session *session, uint64_t budget_us, peft_progress *out_progress) {
    if (session == NULL) return PEFT_E_ARG;
    PEFT_TRY(peft__session_need(session, session->phase == PEFT__RUNNING, "peft_session_advance()",
                                "comes after peft_session_begin()"));
    const uint64_t now = budget_us == UINT64_MAX ? 0 : peft__clock_us();
    const uint64_t deadline = budget_us >= UINT64_MAX - now ? UINT64_MAX : now + budget_us;
    const peft__plan_info *info = peft__graph_plan_info(session->plan->graph);
    peft_status status = PEFT_OK;
    if (!session->forward_done) {
        status = run_part(session, info->forward_steps, deadline);
        if (status == PEFT_OK) status = finish_forward(session);
        if (status < 0) return fail_pass(session, status);
        if (status == PEFT_OK && session->what & PEFT_PASS_BACKWARD && deadline != UINT64_MAX &&
            peft__clock_us() >= deadline)
            status = PEFT_AGAIN;
    }
    if (status == PEFT_OK && session->what & PEFT_PASS_BACKWARD) {
        if (!session->backward_begun && session->weight != 0.0f) begin_backward(session);
        if (session->weight != 0.0f) status = run_part(session, info->steps, deadline);
        if (status < 0) return fail_pass(session, status);
    }
    report(session, out_progress);
    if (status != PEFT_OK) return status;
    if (session->what & PEFT_PASS_BACKWARD)
        finish_backward(session);
    else
        session->phase = PEFT__FORWARD_DONE;
    return PEFT_OK;
}

peft_status peft_session_forward(peft_session *session, const peft_batch *batch, double *out_loss) {
    PEFT_TRY(peft_session_begin(session, batch, PEFT_PASS_FORWARD, 1.0f));
    PEFT_TRY(peft_session_advance(session, UINT64_MAX, NULL));
    if (out_loss != NULL) *out_loss = session->loss;
    return PEFT_OK;
}

peft_status peft_session_backward(peft_session *session, float weight) {
    PEFT_TRY(peft_session_begin(session, NULL, PEFT_PASS_BACKWARD, weight));
    return peft_session_advance(session, UINT64_MAX, NULL);
}

void peft_session_cancel(peft_session *session) {
    if (session != NULL) atomic_store_explicit(&session->cancel, true, memory_order_relaxed);
}

peft_status peft_session_zero_grad(peft_session *session) {
    if (session == NULL) return PEFT_E_ARG;
    PEFT_TRY(peft__session_need(session, session->phase != PEFT__RUNNING, "peft_session_zero_grad()",
                                "does not come inside a pass"));
    peft__session_forget_pass(session);
    peft__session_drop(session, UINT32_MAX);
    return PEFT_OK;
}

/* ---- forward passes outside a step -------------------------------------------------------------------------- */

peft_status peft__session_run_forward(peft_session *session, peft__plan *plan) {
    peft__cursor cursor = {0};
    const peft__run_options run = {
        .deadline_us = UINT64_MAX, .cancel = &session->cancel, .products = &session->products};
    const peft_status status =
        peft__graph_run(plan->graph, &cursor, peft__graph_plan_info(plan->graph)->forward_steps, &run);
    if (status == PEFT_E_CANCELLED) atomic_store_explicit(&session->cancel, false, memory_order_relaxed);
    return status;
}

peft_status peft__session_eval(peft_session *session, const peft_batch *batch, double *out_loss, double *out_count,
                               const peft__value **out_logits) {
    PEFT_TRY(peft__session_need(session, session->phase != PEFT__RUNNING, "peft_session_eval()",
                                "does not come inside a pass"));
    if (session->options.loss == PEFT_LOSS_HOST)
        return peft__fail(session->ctx, PEFT_E_STATE,
                          "the session leaves the loss to the host: use peft_session_logits()");
    peft__session_start(session);
    PEFT_TRY(peft__session_take_batch(session, &session->side, batch, true));
    const peft_batch *own = &session->side.batch;
    /* The training plan serves, unless its memory waits for a backward pass. */
    const bool shared =
        session->phase != PEFT__FORWARD_DONE && peft__plan_fits(session, &session->plans[PEFT__PLAN_TRAIN], own);
    const peft__plan_kind kind = shared ? PEFT__PLAN_TRAIN : PEFT__PLAN_EVAL;
    PEFT_TRY(peft__plan_for_batch(session, kind, own));
    peft__plan *plan = &session->plans[kind];
    PEFT_TRY(peft__graph_bind(plan->graph, own));
    PEFT_TRY(peft__session_run_forward(session, plan));
    const double sum = (double)plan->loss->data[0], count = (double)plan->loss->data[1];
    if (!(count > 0.0)) return peft__fail(session->ctx, PEFT_E_ARG, "no label of the batch is predicted by any row");
    if (out_loss != NULL) *out_loss = sum / count;
    if (out_count != NULL) *out_count = count;
    if (out_logits != NULL) *out_logits = plan->logits;
    return PEFT_OK;
}

peft_status peft_session_eval(peft_session *session, const peft_batch *batch, double *out_loss, double *out_count) {
    if (session == NULL) return PEFT_E_ARG;
    return peft__session_eval(session, batch, out_loss, out_count, NULL);
}
