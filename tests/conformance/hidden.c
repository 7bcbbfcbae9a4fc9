/* hidden.c: hidden states of the base model, block by block. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "measure.h"
#include "model/build.h"

static void compare(peft_context *ctx, const char *name, const peft__value *value, const int32_t *source,
                    const peft__tensors *expected, double tolerance, outcome *out) {
    int64_t count = 0;
    float *want = read_floats(ctx, expected, name, &count);
    if (want == NULL) return;
    double worst = 0.0;
    for (int64_t r = 0; r < value->rows->count; r++) {
        const int64_t to = (source != NULL ? source[r] : r) * value->cols;
        if (to + value->cols > count)
            worst = INFINITY;
        else
            worst = fmax(worst, difference(value->data + r * value->ld, want + to, value->cols));
    }
    if (source == NULL && value->rows->count * value->cols != count) worst = INFINITY;
    outcome_add(out, name, worst / fmax(1.0, largest(want, count)), tolerance);
    free(want);
}

static peft_status build(peft_context *ctx, peft_model *model, const peft_batch *batch, peft__graph **graph,
                         peft__build *b) {
    const peft__capacity capacity = {.rows = batch->rows,
                                     .sequences = batch->sequences,
                                     .decoder_rows = batch->decoder_rows,
                                     .decoder_sequences = batch->decoder_sequences,
                                     .labels = batch->rows + batch->decoder_rows};
    const peft__run_options run = {.deadline_us = UINT64_MAX};
    peft__cursor cursor = {0};
    PEFT_TRY(peft__graph_create(ctx, &capacity, graph));
    *b = (peft__build){.graph = *graph, .model = model, .purpose = PEFT__BUILD_HIDDEN};
    PEFT_TRY(peft__build_model(b));
    PEFT_TRY(peft__graph_plan(*graph, false));
    PEFT_TRY(peft__graph_allocate(*graph));
    PEFT_TRY(peft__graph_bind(*graph, batch));
    return peft__graph_run(*graph, &cursor, peft__graph_plan_info(*graph)->forward_steps, &run);
}

void check_hidden(peft_context *ctx, peft_model *model, const peft_batch *batch, const int32_t *source,
                  const peft__tensors *expected, double tolerance, outcome *out) {
    if (peft__tensors_find(expected, "hidden.0") == NULL || batch->input_ids == NULL) return;
    const peft__dims *dims = peft__model_dims(model);
    peft__graph *graph = NULL;
    peft__build b;
    char name[64];
    if (build(ctx, model, batch, &graph, &b) < 0) {
        outcome_fail(out, "hidden states: %s", peft_context_error(ctx));
        peft__graph_destroy(graph);
        return;
    }
    for (int64_t i = 0; b.hidden != NULL && i <= dims->num_hidden_layers; i++) {
        (void)snprintf(name, sizeof name, "hidden.%d", (int)i);
        compare(ctx, name, b.hidden[i], source, expected, tolerance, out);
    }
    for (int64_t i = 0; b.decoder_hidden != NULL && i <= dims->num_decoder_layers; i++) {
        (void)snprintf(name, sizeof name, "decoder_hidden.%d", (int)i);
        compare(ctx, name, b.decoder_hidden[i], NULL, expected, tolerance, out);
    }
    peft__graph_destroy(graph);
}
