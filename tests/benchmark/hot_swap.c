/* hot_swap: how long it takes to put another adapter on a model that stays where it is.
 *
 *   hot_swap MODEL [swaps]      401 swaps; medians, in microseconds of elapsed and of processor time
 *
 * Two LoRA adapters (r 8 on q_proj and v_proj; r 8 on every linear layer) of each kind are exchanged in a session that
 * has generated before. `swap` is peft_session_set_adapters() alone; `first` is what the first pass after it takes beyond
 * a pass without a swap, which is where a plan that was dropped is made again. The pass is one token long, so that
 * little else is in it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "peft/peft.h"

static peft_context *ctx;

static void must(peft_status status, const char *what) {
    if (status >= 0) return;
    fprintf(stderr, "hot_swap: %s: %s\n", what, peft_context_error(ctx));
    exit(1);
}

static double now_us(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, ascending);
    return values[count / 2];
}

enum { KINDS = 4, MOST = 100000 };
typedef struct samples {
    double wall[MOST], cpu[MOST];
} samples;
static samples swap, after, plain;

static void pass(peft_session *session, float *logits, int64_t capacity, samples *out, int at) {
    const int32_t id = 1, offsets[2] = {0, 1};
    peft_batch batch;
    peft_batch_init(&batch);
    batch.rows = batch.sequences = 1;
    batch.offsets = offsets;
    batch.input_ids = &id;
    const double wall = now_us(CLOCK_MONOTONIC), cpu = now_us(CLOCK_PROCESS_CPUTIME_ID);
    must(peft_session_logits(session, &batch, PEFT_LOGITS_LAST, logits, capacity, NULL, NULL), "a pass");
    out->cpu[at] = now_us(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    out->wall[at] = now_us(CLOCK_MONOTONIC) - wall;
}

static void measure(peft_model *model, const char *name, peft_adapter *const *first, peft_adapter *const *second,
                    uint32_t count, int swaps) {
    peft_session_options options;
    peft_session_options_init(&options);
    options.inference = 1;
    peft_session *session = NULL;
    must(peft_session_create(ctx, model, first, count, &options, &session), "a session");
    peft_model_info info = {.struct_size = sizeof info};
    must(peft_model_get_info(model, &info), "a model");
    float *logits = malloc((size_t)info.vocab_size * sizeof *logits);
    if (logits == NULL) exit(1);
    pass(session, logits, info.vocab_size, &plain, 0);
    for (int i = 0; i < swaps; i++) {
        const double wall = now_us(CLOCK_MONOTONIC), cpu = now_us(CLOCK_PROCESS_CPUTIME_ID);
        must(peft_session_set_adapters(session, i % 2 == 0 ? second : first, count), "a swap");
        swap.cpu[i] = now_us(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        swap.wall[i] = now_us(CLOCK_MONOTONIC) - wall;
        pass(session, logits, info.vocab_size, &after, i);
        pass(session, logits, info.vocab_size, &plain, i);
    }
    const double alone = median(plain.wall, swaps), alone_cpu = median(plain.cpu, swaps);
    printf("%-34s %9.1f %9.1f %11.1f %11.1f %11.1f\n", name, median(swap.wall, swaps), median(swap.cpu, swaps),
           median(after.wall, swaps) - alone, median(after.cpu, swaps) - alone_cpu, alone);
    free(logits);
    peft_session_destroy(session);
}

int main(int argc, char **argv) {
    const int swaps = argc > 2 ? atoi(argv[2]) : 401;
    if (argc < 2 || swaps < 1 || swaps > MOST) {
        fputs("usage: hot_swap MODEL [swaps]\n", stderr);
        return 2;
    }
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = 1;
    if (peft_context_create(&options, &ctx) < 0) return 1;
    peft_model *model = NULL;
    must(peft_model_load(ctx, argv[1], NULL, &model), "a model");
    static const char *const CONFIGS[KINDS] = {
        "{\"peft_type\": \"LORA\", \"r\": 8, \"init_lora_weights\": false, \"target_modules\": [\"q_proj\", \"v_proj\"]}",
        "{\"peft_type\": \"LORA\", \"r\": 8, \"init_lora_weights\": false, \"target_modules\": \"all-linear\"}",
        ("{\"peft_type\": \"IA3\", \"target_modules\": [\"k_proj\", \"v_proj\", \"down_proj\"], "
         "\"feedforward_modules\": [\"down_proj\"]}"),
        "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 20}"};
    peft_adapter *adapters[KINDS][2] = {{NULL}};
    for (int i = 0; i < KINDS; i++)
        for (uint64_t k = 0; k < 2; k++)
            must(peft_adapter_create(ctx, model, CONFIGS[i], k, &adapters[i][k]), "an adapter");
    printf("microseconds, medians of %d      swap wall       cpu  first wall         cpu        pass\n", swaps);
    measure(model, "LoRA r 8, q and v", &adapters[0][0], &adapters[0][1], 1, swaps);
    measure(model, "LoRA r 8, all linear", &adapters[1][0], &adapters[1][1], 1, swaps);
    measure(model, "(IA)3", &adapters[2][0], &adapters[2][1], 1, swaps);
    measure(model, "prefix of 20", &adapters[3][0], &adapters[3][1], 1, swaps);
    measure(model, "LoRA q and v <-> LoRA all linear", &adapters[0][0], &adapters[1][0], 1, swaps);
    measure(model, "LoRA q and v <-> (IA)3", &adapters[0][0], &adapters[2][0], 1, swaps);
    peft_adapter *const two[] = {adapters[0][0], adapters[1][0]}, *const other[] = {adapters[0][1], adapters[1][1]};
    measure(model, "two LoRA <-> two others", two, other, 2, swaps);
    for (int i = 0; i < KINDS; i++)
        for (int k = 0; k < 2; k++) peft_adapter_destroy(adapters[i][k]);
    peft_model_destroy(model);
    peft_context_destroy(ctx);
    return 0;
}
