/* verify.c: does what was written compute what was in memory?
 *
 * A file that is read back byte for byte may still mean something else to its reader: a scale that was folded twice,
 * rows in another order. So a probe of a few rows goes through the model in memory and through what is read back, and
 * all outputs are compared. The probe depends on the model's sizes alone, so anybody gets the same numbers.
 */
#include "train/train.h"

#include <math.h>

enum { PROBE = 16 };

typedef struct probe {
    float *features; /* [rows, feature_size] for models that read no tokens */
    int32_t ids[PROBE], offsets[2], mask[1];
    int32_t prompt[PROBE]; /* for prompts inside a template: their first row stands in the second token's place */
    peft_batch batch;
} probe;

/* What a model with its adapters makes of the probe: [rows, cols], to be freed by the caller. */
typedef struct outputs {
    float *values;
    int64_t rows, cols;
} outputs;

static peft_status make_probe(const peft_session *session, probe *p) {
    const peft__dims *dims = peft__model_dims(session->model);
    int64_t positions = 0;
    PEFT_TRY(peft__session_positions(session, &positions));
    const int64_t rows = positions > 0 && positions < PROBE && dims->feature_size == 0 ? positions : PROBE;
    for (int64_t i = 0; i < rows; i++)
        p->ids[i] = (int32_t)((i * 7919 + 13) % peft__max_i64(dims->vocab_size, 1));
    for (int64_t i = 0; i < rows; i++) p->prompt[i] = i == 1 ? 0 : -1;
    p->offsets[1] = (int32_t)rows;
    p->batch = (peft_batch){.struct_size = sizeof p->batch,
                            .rows = rows,
                            .sequences = 1,
                            .offsets = p->offsets,
                            .prompt_index = p->prompt,
                            .mask_positions = p->mask};
    if (dims->feature_size > 0) {
        const size_t count = (size_t)rows * (size_t)dims->feature_size;
        p->features = peft__alloc(session->ctx->mem, count * sizeof *p->features);
        if (p->features == NULL) return peft__fail_nomem(session->ctx, count * sizeof *p->features, "a probe");
        peft__rng rng = peft__rng_make(1, 0);
        for (size_t i = 0; i < count; i++) p->features[i] = peft__rng_normal(&rng);
        p->batch.features = p->features;
        p->batch.feature_cols = dims->feature_size;
    } else {
        p->batch.input_ids = p->ids;
    }
    if (dims->num_decoder_layers > 0 && peft__model_task(session->model) == PEFT_TASK_SEQ_2_SEQ_LM) {
        p->batch.decoder_rows = rows;
        p->batch.decoder_sequences = 1;
        p->batch.decoder_offsets = p->offsets;
        p->batch.decoder_input_ids = p->ids;
    }
    return PEFT_OK;
}

static peft_status run_probe(peft_session *session, probe *p, outputs *out) {
    PEFT_TRY(make_probe(session, p));
    PEFT_TRY(peft__session_take_batch(session, &session->side, &p->batch, false));
    PEFT_TRY(peft__plan_for_batch(session, PEFT__PLAN_LOGITS, &session->side.batch));
    peft__plan *plan = &session->plans[PEFT__PLAN_LOGITS];
    PEFT_TRY(peft__graph_bind(plan->graph, &session->side.batch));
    PEFT_TRY(peft__session_run_forward(session, plan));
    const peft__value *logits = plan->logits != NULL ? plan->logits : plan->decoder_logits;
    out->rows = logits->rows->count;
    out->cols = logits->cols;
    const size_t bytes = (size_t)(out->rows * out->cols) * sizeof(float);
    out->values = peft__alloc(session->ctx->mem, bytes);
    if (out->values == NULL) return peft__fail_nomem(session->ctx, bytes, "the logits of a probe");
    for (int64_t r = 0; r < out->rows; r++)
        memcpy(out->values + r * out->cols, logits->data + r * logits->ld, (size_t)out->cols * sizeof(float));
    return PEFT_OK;
}

static peft_status outputs_of(peft_context *ctx, peft_model *model, peft_adapter *const *adapters, uint32_t count,
                              outputs *out) {
    peft_session_options options;
    peft_session_options_init(&options);
    options.inference = 1;
    peft_session *session = NULL;
    PEFT_TRY(peft_session_create(ctx, model, adapters, count, &options, &session));
    probe p = {.features = NULL};
    const peft_status status = run_probe(session, &p, out);
    peft__free(ctx->mem, p.features);
    peft_session_destroy(session);
    return status;
}

static peft_status measure(peft_context *ctx, const outputs *a, const outputs *b, peft_difference *out) {
    if (a->rows != b->rows || a->cols != b->cols)
        return peft__fail(ctx, PEFT_E_MISMATCH, "one gives %lld x %lld logits for a probe, the other %lld x %lld",
                          (long long)a->rows, (long long)a->cols, (long long)b->rows, (long long)b->cols);
    peft_difference found = {.struct_size = out->struct_size, .values = a->rows * a->cols};
    for (int64_t i = 0; i < found.values; i++) {
        const double x = (double)a->values[i], y = (double)b->values[i], apart = fabs(x - y);
        if (isnan(x) || isnan(y)) return peft__fail(ctx, PEFT_E_NONFINITE, "a logit of the probe is not a number");
        if (apart > found.largest) found.largest = apart; /* NaN (inf - inf) counts as equal */
        if (fabs(x) > found.magnitude) found.magnitude = fabs(x);
    }
    memcpy(out, &found, peft__min_size(out->struct_size, sizeof found));
    return PEFT_OK;
}

peft_status peft_model_compare(peft_context *ctx, peft_model *model, peft_adapter *const *adapters, uint32_t count,
                               peft_model *other, peft_adapter *const *other_adapters, uint32_t other_count,
                               peft_difference *out_difference) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (model == NULL || other == NULL || out_difference == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "peft_model_compare() takes two models and out_difference");
    peft_difference known;
    PEFT_TRY(peft__options_copy(ctx, &known, sizeof known, out_difference, sizeof known.struct_size, "peft_difference"));
    outputs a = {0}, b = {0};
    peft_status status = outputs_of(ctx, model, adapters, count, &a);
    if (status >= 0) status = outputs_of(ctx, other, other_adapters, other_count, &b);
    if (status >= 0) status = measure(ctx, &a, &b, out_difference);
    peft__free(ctx->mem, a.values);
    peft__free(ctx->mem, b.values);
    return status;
}

static bool is_file(const char *path) {
    return peft__path_exists(path) && !peft__path_is_dir(path);
}

peft_status peft_adapter_verify(peft_adapter *adapter, const char *path, peft_difference *out_difference) {
    if (adapter == NULL) return PEFT_E_ARG;
    peft_context *ctx = adapter->ctx;
    if (path == NULL || out_difference == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "peft_adapter_verify() takes an adapter, a path and out_difference");
    peft_adapter *again = NULL;
    PEFT_TRY(is_file(path) ? peft_adapter_import_gguf(ctx, adapter->model, path, &again)
                           : peft_adapter_load(ctx, adapter->model, path, &again));
    /* The factor that a host set on the adapter is no part of its files. */
    peft_status status = adapter->scale != 1.0f ? peft_adapter_set_scale(again, adapter->scale) : PEFT_OK;
    if (status >= 0)
        status = peft_model_compare(ctx, adapter->model, &adapter, 1, adapter->model, &again, 1, out_difference);
    peft_adapter_destroy(again);
    return status;
}

peft_status peft_model_verify(peft_context *ctx, peft_model *model, peft_adapter *const *adapters, uint32_t count,
                              const char *path, peft_difference *out_difference) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (model == NULL || path == NULL || out_difference == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "peft_model_verify() takes a model, a path and out_difference");
    peft_model_options options;
    peft_model_options_init(&options);
    options.task = peft__model_task(model);
    peft_model *again = NULL;
    PEFT_TRY(peft_model_load(ctx, path, &options, &again));
    const peft_status status = peft_model_compare(ctx, model, adapters, count, again, NULL, 0, out_difference);
    peft_model_destroy(again);
    return status;
}
