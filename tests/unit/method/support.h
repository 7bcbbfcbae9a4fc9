/* support.h: models, adapters and logits for the tests of lib/method. */
#ifndef PEFT_TESTS_METHOD_SUPPORT_H
#define PEFT_TESTS_METHOD_SUPPORT_H

#include <unistd.h>

#include "check.h"
#include "format/json.h"
#include "format/safetensors.h"
#include "method/adapter.h"
#include "peft/peft.h"

static inline const char *data_path(char *buffer, size_t size, const char *format, const char *name) {
    const char *root = getenv("PEFT_TEST_DATA");
    char tail[512];
    snprintf(tail, sizeof tail, format, name);
    snprintf(buffer, size, "%s/%s", root != NULL ? root : "tests/data", tail);
    return buffer;
}

/* A model of tests/data: its own folder of this test, or the one shared with other tests. */
static inline peft_model *load_model(peft_context *ctx, const char *name) {
    char path[1024];
    data_path(path, sizeof path, "method/models/%s", name);
    if (access(path, R_OK) != 0) data_path(path, sizeof path, "models/%s", name);
    peft_model *model = NULL;
    CHECK_OK(ctx, peft_model_load(ctx, path, NULL, &model));
    return model;
}

/* Logits [rows, vocabulary] of whole rows of ids (every sequence of `length`), to be freed. */
static inline float *logits_of(peft_context *ctx, peft_model *model, peft_adapter *const *adapters, uint32_t count,
                               const int32_t *ids, int64_t sequences, int64_t length) {
    const int64_t rows = sequences * length;
    int32_t offsets[64];
    for (int64_t i = 0; i <= sequences; i++) offsets[i] = (int32_t)(i * length);
    peft_batch batch;
    memset(&batch, 0, sizeof batch);
    batch.struct_size = sizeof batch;
    batch.rows = rows;
    batch.sequences = sequences;
    batch.offsets = offsets;
    batch.input_ids = ids;
    const peft__capacity capacity = {.rows = rows, .sequences = sequences, .labels = rows};
    peft__hooked hooked[4];
    for (uint32_t i = 0; i < count; i++) hooked[i] = peft__adapter_hooked(adapters[i]);
    peft__graph *graph = NULL;
    float *out = NULL;
    if (!CHECK(peft__graph_create(ctx, &capacity, &graph) == PEFT_OK)) return NULL;
    peft__build build;
    memset(&build, 0, sizeof build);
    build.graph = graph;
    build.model = model;
    build.adapters = hooked;
    build.adapter_count = count;
    build.purpose = PEFT__BUILD_LOGITS;
    peft_status status = peft__build_model(&build);
    if (status >= 0) status = peft__graph_plan(graph, false);
    if (status >= 0) status = peft__graph_allocate(graph);
    if (status >= 0) status = peft__graph_bind(graph, &batch);
    peft__cursor cursor = {0, 0, 0};
    const peft__run_options options = {.deadline_us = UINT64_MAX};
    if (status >= 0) status = peft__graph_run(graph, &cursor, peft__graph_plan_info(graph)->forward_steps, &options);
    CHECK_STATUS(ctx, status, PEFT_OK);
    if (status == PEFT_OK && CHECK(build.logits != NULL)) {
        const int64_t cols = build.logits->cols;
        out = malloc((size_t)(rows * cols) * sizeof *out);
        for (int64_t r = 0; r < rows; r++)
            memcpy(out + r * cols, build.logits->data + r * build.logits->ld, (size_t)cols * sizeof *out);
    }
    peft__graph_destroy(graph);
    return out;
}

static inline double largest_difference(const float *a, const float *b, int64_t count) {
    double worst = 0.0;
    for (int64_t i = 0; i < count; i++) {
        const double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = d;
    }
    return worst;
}

/* A new folder under $TMPDIR or /tmp. */
static inline const char *scratch_folder(char *buffer, size_t size) {
    const char *root = getenv("TMPDIR");
    snprintf(buffer, size, "%s/peft-method-XXXXXX", root != NULL ? root : "/tmp");
    return mkdtemp(buffer);
}

static inline peft_context *test_context(void) {
    peft_context_options options;
    peft_context_options_init(&options);
    options.log_level = 0;
    peft_context *ctx = NULL;
    if (peft_context_create(&options, &ctx) != PEFT_OK) exit(1);
    return ctx;
}

#endif
