/* roofline_step.c: what share of the peak a whole training step reaches.
 *
 * Counted are the products that every implementation has to do: forward and input gradient of every frozen matrix (2 + 2
 * operations a weight and token), the head at every row, and causal attention (half of the square; its backward is 2.5 times
 * its forward). What the adapter adds is below 1 % and left out, and so is everything that is no product.
 */
#include "roofline.h"

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Floating-point operations of one step over one sequence of `length` tokens. */
static double step_flops(const peft_model *model, int64_t length) {
    const double n = (double)length;
    peft_model_info info = {.struct_size = sizeof info};
    if (peft_model_get_info(model, &info) != PEFT_OK) return 0.0;
    double weights = (double)info.vocab_size * (double)info.hidden_size; /* the head, tied or not */
    for (uint32_t i = 0; i < peft_model_module_count(model); i++) {
        peft_module_info module = {.struct_size = sizeof module};
        if (peft_model_module(model, i, &module) != PEFT_OK) return 0.0;
        const bool matrix = module.kind == PEFT_MODULE_LINEAR || module.kind == PEFT_MODULE_CONV1D;
        if (matrix && module.layer >= 0) weights += (double)module.in_features * (double)module.out_features;
    }
    const double width = (double)(info.num_attention_heads * info.head_dim);
    const double attention = 4.0 * n * n * width / 2.0 * (double)info.num_hidden_layers;
    return 4.0 * n * weights + 3.5 * attention;
}

int roofline_step(const roofline *r, const char *path, const char *config, int64_t length) {
    enum { STEPS = 9 };
    peft_model *model = NULL;
    peft_adapter *adapter = NULL;
    peft_optimizer *optimizer = NULL;
    peft_session *session = NULL;
    int32_t *ids = calloc((size_t)length + 2, sizeof *ids);
    double seconds[STEPS], loss = 0.0;
    int failed = 1;
    if (ids == NULL || peft_model_load(r->ctx, path, NULL, &model) != PEFT_OK) goto end;
    peft_model_info info = {.struct_size = sizeof info};
    if (peft_model_get_info(model, &info) != PEFT_OK) goto end;
    if (peft_adapter_create(r->ctx, model, config, 1, &adapter) != PEFT_OK) goto end;
    if (peft_optimizer_create(r->ctx, adapter, NULL, &optimizer) != PEFT_OK) goto end;
    if (peft_session_create(r->ctx, model, &adapter, 1, NULL, &session) != PEFT_OK) goto end;

    const int32_t offsets[] = {0, (int32_t)length};
    for (int64_t i = 0; i < length; i++) ids[i] = (int32_t)(i * 7919 % info.vocab_size);
    peft_batch batch;
    peft_batch_init(&batch);
    batch.rows = length;
    batch.sequences = 1;
    batch.offsets = offsets;
    batch.input_ids = batch.labels = ids;
    for (int i = -1; i < STEPS; i++) { /* the first one takes the memory */
        const double start = roofline_now_us(r);
        if (peft_session_forward(session, &batch, &loss) != PEFT_OK) goto end;
        if (peft_session_backward(session, 1.0f) != PEFT_OK) goto end;
        if (peft_optimizer_step(optimizer, session, NULL) != PEFT_OK) goto end;
        if (i >= 0) seconds[i] = 1e-6 * (roofline_now_us(r) - start);
        else printf("first step, with taking its memory: %.3f s\n", 1e-6 * (roofline_now_us(r) - start));
    }
    qsort(seconds, STEPS, sizeof *seconds, ascending);
    const double gflop = 1e-9 * step_flops(model, length), median = seconds[STEPS / 2];
    printf("step of 1 x %lld tokens: %.1f GFLOP, median %.3f s (%.3f to %.3f), %.0f GF/s, %.0f%% of the peak\n", (long long)length,
           gflop, median, seconds[0], seconds[STEPS - 1], gflop / median, 100.0 * gflop / median / r->peak);
    failed = 0;
end:
    if (failed) fprintf(stderr, "%s\n", peft_context_error(r->ctx));
    free(ids);
    peft_session_destroy(session);
    peft_optimizer_destroy(optimizer);
    peft_adapter_destroy(adapter);
    peft_model_destroy(model);
    return failed;
}
