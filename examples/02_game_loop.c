/* 02_game_loop.c: learning inside a frame loop that can spare two milliseconds a frame.
 *
 *   02_game_loop MODEL [FRAMES]
 *
 * A character learns lines while the game runs. Each frame works for a budget and goes on where the last one stopped; nothing runs between
 * calls. The worst overrun of a budget is one piece of work, which is measured and printed.
 */
#define _POSIX_C_SOURCE 200809L
#include <peft/peft.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const lines[] = {
    "The miller: beware the bridge after dark.",
    "The miller: the wheel never turns backwards.",
    "The miller: leave a loaf by the door.",
};

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int fail(peft_context *context) { return fprintf(stderr, "%s\n", peft_context_error(context)), 1; }

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "usage: %s MODEL [FRAMES]\n", argv[0]), 2;
    const int frames = argc > 2 ? atoi(argv[2]) : 600;
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = 1; /* the game keeps its other cores */
    peft_context *context;
    if (peft_context_create(&options, &context) < 0) return 1;
    peft_model *model;
    peft_adapter *adapter;
    peft_optimizer *optimizer;
    peft_session *session;
    peft_session_options session_options;
    peft_session_options_init(&session_options);
    session_options.max_rows = 96; /* all memory is taken here, none in the loop */
    session_options.max_sequences = 1;
    if (peft_model_load(context, argv[1], NULL, &model) < 0 ||
        peft_adapter_create(context, model, "{\"peft_type\": \"LORA\", \"r\": 4, \"target_modules\": \"all-linear\"}", 1, &adapter) < 0 ||
        peft_optimizer_create(context, adapter, NULL, &optimizer) < 0 ||
        peft_session_create(context, model, &adapter, 1, &session_options, &session) < 0)
        return fail(context);
    peft_optimizer_set_lr(optimizer, 2e-3f);

    int32_t ids[96], offsets[2] = {0, 0};
    peft_batch batch;
    peft_batch_init(&batch);
    peft_progress progress = {.struct_size = sizeof progress};
    int steps = 0, running = 0;
    double longest = 0;
    for (int frame = 0; frame < frames; frame++) {
        const double start = now_ms();
        /* ... the game updates and draws here ... */
        if (!running) {
            int64_t count = 0;
            const char *line = lines[steps % 3];
            if (peft_tokenizer_encode(peft_model_tokenizer(model), line, strlen(line), PEFT_ENCODE_SPECIAL, ids, 96, &count) < 0) return fail(context);
            offsets[1] = (int32_t)count;
            batch.rows = count;
            batch.sequences = 1;
            batch.offsets = offsets;
            batch.input_ids = batch.labels = ids;
            if (peft_session_begin(session, &batch, PEFT_PASS_BOTH, 1.0f) < 0) return fail(context);
            running = 1;
        }
        const peft_status status = peft_session_advance(session, 2000, &progress);
        if (status < 0) return fail(context);
        if (status == PEFT_OK) {
            if (peft_optimizer_step(optimizer, session, NULL) < 0) return fail(context);
            printf("frame %d: step %d done, loss %.3f\n", frame, ++steps, progress.loss);
            running = 0;
        }
        const double spent = now_ms() - start;
        if (spent > longest) longest = spent;
    }
    printf("%d steps in %d frames; longest frame %.2f ms, longest piece of work %.2f ms\n", steps, frames, longest,
           (double)progress.longest_slice_us / 1e3);
    peft_session_destroy(session);
    peft_optimizer_destroy(optimizer);
    peft_adapter_destroy(adapter);
    peft_model_destroy(model);
    peft_context_destroy(context);
    return steps > 0 ? 0 : 1;
}
