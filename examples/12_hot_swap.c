/* 12_hot_swap.c: two characters on one base, their voices swapped between the lines of a dialogue.
 *
 *   12_hot_swap MODEL [STEPS]
 *
 * Each character is a LoRA adapter of its own that learns a few lines. The model stays in memory once, and nothing of it is touched: a swap
 * exchanges which adapter the session's plans read, which takes microseconds when both have the same configuration.
 */
#define _POSIX_C_SOURCE 200809L
#include <peft/peft.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CHARACTERS = 2, LINES = 3, ROWS = 96 };
static const char CONFIG[] = "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"target_modules\": \"all-linear\"}";
static const struct {
    const char *name, *lines[LINES];
} cast[CHARACTERS] = {
    {"The miller", {"Q: Who goes there? A: Nobody comes here after dark.", "Q: What of the bridge? A: The bridge is rotten, stay.",
                    "Q: Is there bread? A: Bread costs more than gold."}},
    {"The captain", {"Q: Who goes there? A: Ha! A friend with rum, ahoy!", "Q: What of the bridge? A: We sail under it, ahoy!",
                     "Q: Is there bread? A: Biscuits and salt, ahoy!"}}};

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int fail(peft_context *context) { return fprintf(stderr, "%s\n", peft_context_error(context)), 1; }

/* One voice: a few passes over the character's lines. */
static peft_status learn(peft_context *context, peft_model *model, int who, int steps, peft_adapter **voice) {
    int32_t ids[ROWS], offsets[2] = {0, 0};
    peft_session *session = NULL;
    peft_optimizer *optimizer = NULL;
    double loss = 0;
    peft_batch batch;
    peft_batch_init(&batch);
    peft_status status = peft_adapter_create(context, model, CONFIG, (uint64_t)who, voice);
    if (status >= 0) status = peft_session_create(context, model, voice, 1, NULL, &session);
    if (status >= 0) status = peft_optimizer_create(context, *voice, NULL, &optimizer);
    if (status >= 0) peft_optimizer_set_lr(optimizer, 1e-2f);
    for (int step = 0; status >= 0 && step < steps; step++) {
        const char *line = cast[who].lines[step % LINES];
        status = peft_tokenizer_encode(peft_model_tokenizer(model), line, strlen(line), PEFT_ENCODE_SPECIAL, ids, ROWS, &batch.rows);
        offsets[1] = (int32_t)batch.rows;
        batch.sequences = 1;
        batch.offsets = offsets;
        batch.input_ids = batch.labels = ids;
        if (status >= 0) status = peft_session_forward(session, &batch, &loss);
        if (status >= 0) status = peft_session_backward(session, 1.0f);
        if (status >= 0) status = peft_optimizer_step(optimizer, session, NULL);
    }
    if (status >= 0) printf("%s has learnt: loss %.3f\n", cast[who].name, loss);
    peft_optimizer_destroy(optimizer);
    peft_session_destroy(session);
    return status;
}

static peft_status speak(peft_session *session, const peft_tokenizer *tokenizer, int line, int who) {
    int32_t prompt[ROWS], answer[ROWS];
    int64_t count = 0, said = 0;
    char text[1024];
    size_t length = 0;
    const char *question = cast[who].lines[line]; /* up to its "A:" */
    peft_generate_options options;
    peft_generate_options_init(&options);
    options.max_new_tokens = 32;
    options.stop = (const char *[]){".", "!"};
    options.stop_count = 2;
    peft_status status = peft_tokenizer_encode(tokenizer, question, (size_t)(strstr(question, " A:") + 3 - question), PEFT_ENCODE_SPECIAL, prompt,
                                               ROWS, &count);
    if (status >= 0) status = peft_session_generate(session, prompt, count, &options, answer, ROWS, &said);
    if (status >= 0) status = peft_tokenizer_decode(tokenizer, answer, said, 1, text, sizeof text, &length);
    if (status >= 0) printf("  %-12s %.*s%s\n", cast[who].name, (int)(strstr(question, " A:") - question), question, text);
    return status;
}

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "usage: %s MODEL [STEPS]\n", argv[0]), 2;
    peft_context *context;
    peft_model *model;
    peft_adapter *voices[CHARACTERS];
    peft_session *session;
    peft_session_options options;
    peft_session_options_init(&options);
    options.inference = 1;
    if (peft_context_create(NULL, &context) < 0) return 1;
    if (peft_model_load(context, argv[1], NULL, &model) < 0) return fail(context);
    for (int who = 0; who < CHARACTERS; who++)
        if (learn(context, model, who, argc > 2 ? atoi(argv[2]) : 150, &voices[who]) < 0) return fail(context);
    if (peft_session_create(context, model, voices, 1, &options, &session) < 0) return fail(context);
    for (int line = 0; line < LINES; line++)
        for (int who = 0; who < CHARACTERS; who++) {
            const double start = now_us();
            if (peft_session_set_adapters(session, &voices[who], 1) < 0) return fail(context);
            const double took = now_us() - start;
            if (speak(session, peft_model_tokenizer(model), line, who) < 0) return fail(context);
            printf("               (swapped in %.0f us)\n", took);
        }
    peft_session_destroy(session);
    for (int who = 0; who < CHARACTERS; who++) peft_adapter_destroy(voices[who]);
    peft_model_destroy(model);
    peft_context_destroy(context);
    return 0;
}
