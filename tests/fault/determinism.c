/* determinism.c: the same run with 1, 2 and 4 threads, on the host's threads, and in slices: the same bits. */
#include "world.h"

enum { STEPS = 3 };

typedef struct result {
    double losses[STEPS];
    snapshot end;
} result;

static void backwards(void *user, uint32_t count, peft_task_fn fn, void *argument) {
    (void)user;
    for (uint32_t i = count; i-- > 0;) fn(argument, i);
}

static result run(uint32_t threads, const peft_executor *executor, uint64_t budget_us) {
    result r = {0};
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = threads;
    options.executor = executor;
    world w;
    if (!world_open(&w, &options)) exit(check_summary());
    for (int i = 0; i < STEPS; i++) {
        world_batch(&w, (uint32_t)i + 1);
        if (budget_us == UINT64_MAX) {
            r.losses[i] = world_step(&w, NULL);
            continue;
        }
        peft_progress progress = {.struct_size = sizeof progress};
        CHECK_OK(w.ctx, peft_session_begin(w.session, &w.batch, PEFT_PASS_BOTH, 1.0f));
        peft_status status;
        do {
            status = peft_session_advance(w.session, budget_us, &progress);
        } while (status == PEFT_AGAIN);
        CHECK_OK(w.ctx, status);
        CHECK(progress.done == progress.total && progress.total > 0);
        r.losses[i] = progress.loss;
        CHECK_OK(w.ctx, peft_optimizer_step(w.optimizer, w.session, NULL));
    }
    r.end = world_snapshot(&w);
    world_close(&w);
    return r;
}

static void compare(const char *name, const result *want, result got) {
    const bool same = memcmp(want->losses, got.losses, sizeof got.losses) == 0 && snapshot_equal(&want->end, &got.end);
    if (!CHECK(same))
        fprintf(stderr, "    %s: losses %.17g %.17g, other bits\n", name, want->losses[STEPS - 1],
                got.losses[STEPS - 1]);
    free(got.end.bytes);
}

int main(void) {
    const peft_executor executor = {.parallel_for = backwards, .workers = 3};
    result want = run(1, NULL, UINT64_MAX);
    printf("losses %.6f %.6f %.6f\n", want.losses[0], want.losses[1], want.losses[2]);
    compare("2 threads", &want, run(2, NULL, UINT64_MAX));
    compare("4 threads", &want, run(4, NULL, UINT64_MAX));
    compare("the host's threads", &want, run(0, &executor, UINT64_MAX));
    compare("slices of one piece", &want, run(1, NULL, 0));
    compare("slices of one piece, 4 threads", &want, run(4, NULL, 0));
    compare("slices of 200 us, 2 threads", &want, run(2, NULL, 200));
    free(want.end.bytes);
    return check_summary();
}
