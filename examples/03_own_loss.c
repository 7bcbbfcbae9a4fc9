/* 03_own_loss.c: the host computes the loss.
 *
 *   03_own_loss MODEL [STEPS]
 *
 * The session gives logits and takes their gradient; what lies between belongs to the program. Here: make one token more likely than another
 * at the end of a sentence (a margin loss, which no data set expresses).
 */
#include <peft/peft.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(peft_context *context) { return fprintf(stderr, "%s\n", peft_context_error(context)), 1; }

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "usage: %s MODEL [STEPS]\n", argv[0]), 2;
    const int steps = argc > 2 ? atoi(argv[2]) : 10;
    peft_context *context;
    if (peft_context_create(NULL, &context) < 0) return 1;
    peft_model *model;
    peft_adapter *adapter;
    peft_optimizer *optimizer;
    peft_session *session;
    peft_session_options options;
    peft_session_options_init(&options);
    options.loss = PEFT_LOSS_HOST;
    if (peft_model_load(context, argv[1], NULL, &model) < 0 ||
        peft_adapter_create(context, model, "{\"peft_type\": \"LORA\", \"r\": 4, \"target_modules\": \"all-linear\"}", 1, &adapter) < 0 ||
        peft_optimizer_create(context, adapter, NULL, &optimizer) < 0 || peft_session_create(context, model, &adapter, 1, &options, &session) < 0)
        return fail(context);
    peft_optimizer_set_lr(optimizer, 1e-3f);

    const char *text = "The weather today is";
    int32_t ids[64], offsets[2] = {0, 0};
    int64_t count;
    if (peft_tokenizer_encode(peft_model_tokenizer(model), text, strlen(text), PEFT_ENCODE_SPECIAL, ids, 64, &count) < 0) return fail(context);
    offsets[1] = (int32_t)count;
    peft_batch batch;
    peft_batch_init(&batch);
    batch.rows = count;
    batch.sequences = 1;
    batch.offsets = offsets;
    batch.input_ids = ids;

    const int32_t liked = ids[0], disliked = ids[count - 1]; /* any two tokens do */
    float margin = 0;
    for (int step = 0; step < steps; step++) {
        const float *logits;
        float *gradient;
        int64_t rows, cols;
        if (peft_session_forward(session, &batch, NULL) < 0 || peft_session_output(session, &logits, &rows, &cols) < 0 ||
            peft_session_output_grad(session, &gradient) < 0)
            return fail(context);
        /* loss = max(0, 5 - (logit[liked] - logit[disliked])) at the last row */
        const int64_t last = (rows - 1) * cols;
        margin = logits[last + liked] - logits[last + disliked];
        memset(gradient, 0, (size_t)(rows * cols) * sizeof *gradient);
        if (margin < 5.0f) {
            gradient[last + liked] = -1.0f;
            gradient[last + disliked] = 1.0f;
        }
        printf("step %d: margin %.3f\n", step, (double)margin);
        if (peft_session_backward(session, 1.0f) < 0 || peft_optimizer_step(optimizer, session, NULL) < 0) return fail(context);
    }
    peft_session_destroy(session);
    peft_optimizer_destroy(optimizer);
    peft_adapter_destroy(adapter);
    peft_model_destroy(model);
    peft_context_destroy(context);
    return 0;
}
