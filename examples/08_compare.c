/* 08_compare.c: three methods on one base, one after another: what each learns, stores and costs.
 *
 *   08_compare MODEL TEXT [STEPS]
 *
 * The base is loaded once and never changes; each method gets a fresh adapter, the same batches in the same order, and is measured on the same tenth of
 * the text. `peft compare` does this from a recipe, with intervals and drawings.
 */
#define _POSIX_C_SOURCE 199309L
#include <math.h>
#include <peft/peft.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        if ((call) < 0) goto done;                                                                                     \
    } while (0)

typedef struct candidate {
    const char *name, *config;
    double lr;
} candidate;

static const candidate CANDIDATES[] = {
    {"LoRA", "{\"peft_type\": \"LORA\", \"r\": 8, \"lora_alpha\": 16, \"target_modules\": \"all-linear\"}", 1e-2},
    {"(IA)3", "{\"peft_type\": \"IA3\"}", 5e-2},
    {"prompt tuning", "{\"peft_type\": \"PROMPT_TUNING\", \"task_type\": \"CAUSAL_LM\", \"num_virtual_tokens\": 16}", 1e-1},
};

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Mean loss of a token over a data set's epoch. */
static peft_status evaluate(peft_session *session, peft_dataset *data, double *out_loss) {
    double sum = 0.0, count = 0.0;
    peft_status status = peft_dataset_seek(data, 0, 0);
    for (peft_batch batch; status >= 0 && (status = peft_dataset_next(data, &batch)) == PEFT_OK;) {
        double loss, targets;
        status = peft_session_eval(session, &batch, &loss, &targets);
        if (status < 0) break;
        sum += loss * targets;
        count += targets;
    }
    *out_loss = sum / count;
    return status == PEFT_END ? PEFT_OK : status;
}

static peft_status try_one(peft_context *context, peft_model *model, const candidate *c, peft_dataset *train, peft_dataset *held_out, uint64_t steps) {
    peft_adapter *adapter = NULL;
    peft_optimizer *optimizer = NULL;
    peft_session *session = NULL;
    peft_status status = PEFT_E_ARG;
    double before, after, took = 0.0;
    uint64_t memory = 0;
    peft_context_reset_peak(context);
    TRY(status = peft_adapter_create(context, model, c->config, 42, &adapter));
    TRY(status = peft_optimizer_create(context, adapter, NULL, &optimizer));
    TRY(status = peft_session_create(context, model, &adapter, 1, NULL, &session));
    TRY(status = evaluate(session, held_out, &before));
    TRY(status = peft_dataset_seek(train, 0, 0)); /* everybody sees the same batches */
    const double flops = peft_session_flops(session);
    for (uint64_t step = 0; step < steps;) {
        peft_batch batch;
        const double start = seconds();
        status = peft_dataset_next(train, &batch);
        if (status == PEFT_END) continue; /* the next epoch begins */
        TRY(status);
        peft_optimizer_set_lr(optimizer, (float)(c->lr * (1.0 - (double)step / (double)steps)));
        TRY(status = peft_session_forward(session, &batch, NULL));
        TRY(status = peft_session_backward(session, 1.0f));
        TRY(status = peft_optimizer_step(optimizer, session, NULL));
        took += seconds() - start;
        step++;
    }
    const double spent = peft_session_flops(session) - flops;
    peft_context_memory(context, NULL, &memory, NULL);
    TRY(status = evaluate(session, held_out, &after));
    printf("%-14s %10lld  %8.4f -> %.4f  %8.2f ms  %8.1e  %8.1f MB\n", c->name, (long long)peft_adapter_parameter_count(adapter), before, after,
           1e3 * took / (double)steps, spent / (double)steps, (double)memory / 1e6);
done:
    peft_session_destroy(session);
    peft_optimizer_destroy(optimizer);
    peft_adapter_destroy(adapter);
    return status;
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: %s MODEL TEXT [STEPS]\n", argv[0]), 2;
    const uint64_t steps = argc > 3 ? strtoull(argv[3], NULL, 10) : 60;
    peft_context *context = NULL;
    peft_model *model = NULL;
    peft_dataset *train = NULL, *held_out = NULL;
    int result = 1;
    if (steps == 0 || peft_context_create(NULL, &context) < 0) return 1;
    peft_dataset_options wanted;
    peft_dataset_options_init(&wanted);
    wanted.max_length = 64; /* short windows leave a prompt its positions */
    wanted.batch_size = 4;
    wanted.part = PEFT_PART_TRAIN;
    wanted.validation_fraction = 0.1;
    TRY(peft_model_load(context, argv[1], NULL, &model));
    TRY(peft_dataset_open(context, model, argv[2], &wanted, &train));
    wanted.part = PEFT_PART_VALIDATION;
    TRY(peft_dataset_open(context, model, argv[2], &wanted, &held_out));
    printf("%-14s %10s  %18s  %11s  %8s  %11s\n", "", "trained", "held-out loss", "a step", "FLOPs", "memory");
    for (size_t i = 0; i < sizeof CANDIDATES / sizeof CANDIDATES[0]; i++) TRY(try_one(context, model, &CANDIDATES[i], train, held_out, steps));
    result = 0;
done:
    if (result != 0) fprintf(stderr, "%s\n", peft_context_error(context));
    peft_dataset_destroy(train);
    peft_dataset_destroy(held_out);
    peft_model_destroy(model);
    peft_context_destroy(context);
    return result;
}
