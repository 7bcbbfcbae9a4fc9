/* cancel.c: a step is cancelled at every piece of work in turn. Parameters and optimizer state stay as they were, and
 * the next step gives the same bits as if nothing had happened: also the same dropout. */
#include "world.h"

/* ---- between slices ---- */

/* Works `pieces` pieces of a step; true when it was complete before that. */
static bool work(world *w, long pieces) {
    CHECK_OK(w->ctx, peft_session_begin(w->session, &w->batch, PEFT_PASS_BOTH, 1.0f));
    for (long i = 0; i < pieces; i++) {
        const peft_status status = peft_session_advance(w->session, 0, NULL);
        if (status == PEFT_OK) return true;
        if (!CHECK(status == PEFT_AGAIN)) return true;
    }
    return false;
}

static void cancel_slices(void) {
    world w, calm;
    if (!world_open(&calm, NULL)) return;
    world_step(&calm, NULL);
    world_step(&calm, NULL);
    snapshot want = world_snapshot(&calm);
    world_close(&calm);
    if (!world_open(&w, NULL)) return;
    world_step(&w, NULL);
    snapshot before = world_snapshot(&w);
    long pieces = 0;
    for (;; pieces++) {
        if (work(&w, pieces)) break;
        peft_session_cancel(w.session);
        CHECK_STATUS(w.ctx, peft_session_advance(w.session, 0, NULL), PEFT_E_CANCELLED);
        CHECK_STATUS(w.ctx, peft_optimizer_step(w.optimizer, w.session, NULL), PEFT_E_STATE);
        CHECK_STATUS(w.ctx, peft_session_backward(w.session, 1.0f), PEFT_E_STATE);
        if (!CHECK(world_is(&w, &before)) || check_failed > 20) break;
    }
    printf("cancelled at %ld pieces\n", pieces);
    /* The loop ended with a complete backward pass. */
    CHECK_OK(w.ctx, peft_optimizer_step(w.optimizer, w.session, NULL));
    CHECK(world_is(&w, &want));
    free(before.bytes);
    free(want.bytes);
    world_close(&w);
}

/* ---- inside blocking calls: the host's own threads cancel ---- */

typedef struct host {
    peft_session *session;
    long calls, cancel_at;
} host;

static void parallel_for(void *user, uint32_t count, peft_task_fn fn, void *argument) {
    host *h = user;
    if (h->calls++ == h->cancel_at) peft_session_cancel(h->session);
    for (uint32_t i = count; i-- > 0;) fn(argument, i);
}

static void cancel_inside(void) {
    host h = {.cancel_at = -1};
    const peft_executor executor = {.parallel_for = parallel_for, .user = &h, .workers = 2};
    peft_context_options options;
    peft_context_options_init(&options);
    options.executor = &executor;
    world w;
    if (!world_open(&w, &options)) return;
    h.session = w.session;
    world_step(&w, NULL);
    snapshot before = world_snapshot(&w);
    long cancelled = 0, whole = 0;
    for (long k = 0;; k++) {
        h.calls = 0;
        h.cancel_at = k;
        peft_status status;
        world_step(&w, &status);
        if (status == PEFT_E_CANCELLED) {
            cancelled++;
            CHECK(world_is(&w, &before));
            CHECK_OK(w.ctx, peft_session_zero_grad(w.session));
            h.cancel_at = -1;
            continue;
        }
        CHECK_OK(w.ctx, status);
        /* The wish came too late for the passes: then the update is whole. */
        if (h.calls <= k) break;
        whole++;
        free(before.bytes);
        before = world_snapshot(&w);
        if (whole > 50) break;
    }
    printf("cancelled inside %ld calls, %ld came too late\n", cancelled, whole);
    CHECK(cancelled > 4); /* small models have few pieces */
    free(before.bytes);
    world_close(&w);
}

int main(void) {
    cancel_slices();
    cancel_inside();
    return check_summary();
}
