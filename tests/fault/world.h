/* world.h: a whole tiny training run, for tests that disturb it: a Llama model of two layers, AdamW, and the method of the
 * environment variable PEFT_TEST_CONFIG, else LoRA with dropout on every linear layer. */
#ifndef PEFT_TESTS_FAULT_WORLD_H
#define PEFT_TESTS_FAULT_WORLD_H

#include "check.h"
#include "peft/peft.h"
#include "train/train.h"

enum { WORLD_SEQUENCES = 4, WORLD_ROWS = 150, WORLD_VOCAB = 288 };

static inline const char *world_config(void) {
    const char *given = getenv("PEFT_TEST_CONFIG");
    return given != NULL ? given
                         : "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"lora_dropout\": 0.1, "
                           "\"target_modules\": \"all-linear\"}";
}

typedef struct world {
    peft_context *ctx;
    peft_model *model;
    peft_adapter *adapter;
    peft_optimizer *optimizer;
    peft_session *session;
    peft_batch batch;
    int32_t offsets[WORLD_SEQUENCES + 1], ids[WORLD_ROWS], labels[WORLD_ROWS];
} world;

static inline const char *world_model_path(void) {
    static char path[4096];
    const char *data = getenv("PEFT_TEST_DATA");
    snprintf(path, sizeof path, "%s/models/llama-gqa", data != NULL ? data : "tests/data");
    return path;
}

/* Four sequences of different length, the same in every run. */
static inline void world_batch(world *w, uint32_t seed) {
    static const int32_t offsets[WORLD_SEQUENCES + 1] = {0, 57, 64, 120, WORLD_ROWS};
    memcpy(w->offsets, offsets, sizeof offsets);
    uint32_t state = seed * 2654435761u + 1;
    for (int i = 0; i < WORLD_ROWS; i++) {
        state = state * 1664525u + 1013904223u;
        w->ids[i] = (int32_t)(3 + (state >> 8) % (WORLD_VOCAB - 3));
        w->labels[i] = (state >> 29) == 0 ? PEFT_IGNORE_LABEL : w->ids[i];
    }
    peft_batch_init(&w->batch);
    w->batch.rows = WORLD_ROWS;
    w->batch.sequences = WORLD_SEQUENCES;
    w->batch.offsets = w->offsets;
    w->batch.input_ids = w->ids;
    w->batch.labels = w->labels;
}

static inline bool world_open(world *w, const peft_context_options *options) {
    memset(w, 0, sizeof *w);
    world_batch(w, 1);
    if (!CHECK(peft_context_create(options, &w->ctx) == PEFT_OK)) return false;
    CHECK_OK(w->ctx, peft_model_load(w->ctx, world_model_path(), NULL, &w->model));
    if (w->model == NULL) return false;
    CHECK_OK(w->ctx, peft_adapter_create(w->ctx, w->model, world_config(), 7, &w->adapter));
    if (w->adapter == NULL) return false;
    peft_optimizer_options adamw;
    peft_optimizer_options_init(&adamw);
    adamw.lr = 1e-2f;
    adamw.weight_decay = 0.01f;
    CHECK_OK(w->ctx, peft_optimizer_create(w->ctx, w->adapter, &adamw, &w->optimizer));
    CHECK_OK(w->ctx, peft_session_create(w->ctx, w->model, &w->adapter, 1, NULL, &w->session));
    return w->optimizer != NULL && w->session != NULL;
}

static inline void world_close(world *w) {
    peft_session_destroy(w->session);
    peft_optimizer_destroy(w->optimizer);
    peft_adapter_destroy(w->adapter);
    peft_model_destroy(w->model);
    peft_context_destroy(w->ctx);
}

static inline double world_step(world *w, peft_status *out_status) {
    double loss = 0.0;
    peft_status status = peft_session_forward(w->session, &w->batch, &loss);
    if (status == PEFT_OK) status = peft_session_backward(w->session, 1.0f);
    if (status == PEFT_OK) status = peft_optimizer_step(w->optimizer, w->session, NULL);
    if (out_status != NULL)
        *out_status = status;
    else
        CHECK_OK(w->ctx, status);
    return loss;
}

/* Parameters and optimizer state, to be compared bit by bit. */
typedef struct snapshot {
    size_t size;
    unsigned char *bytes;
} snapshot;

static inline snapshot world_snapshot(const world *w) {
    size_t size = sizeof w->optimizer->steps + (size_t)w->optimizer->block_count * sizeof(float);
    for (uint32_t i = 0; i < w->adapter->count; i++) size += (size_t)w->adapter->params[i].elements * sizeof(float);
    snapshot s = {size, malloc(size)};
    size_t at = 0;
    for (uint32_t i = 0; i < w->adapter->count; i++) {
        const size_t bytes = (size_t)w->adapter->params[i].elements * sizeof(float);
        memcpy(s.bytes + at, w->adapter->params[i].data, bytes);
        at += bytes;
    }
    memcpy(s.bytes + at, w->optimizer->block, (size_t)w->optimizer->block_count * sizeof(float));
    memcpy(s.bytes + size - sizeof w->optimizer->steps, &w->optimizer->steps, sizeof w->optimizer->steps);
    return s;
}

static inline bool snapshot_equal(const snapshot *a, const snapshot *b) {
    return a->size == b->size && memcmp(a->bytes, b->bytes, a->size) == 0;
}

/* Is the world as it was? */
static inline bool world_is(const world *w, const snapshot *s) {
    snapshot now = world_snapshot(w);
    const bool equal = snapshot_equal(&now, s);
    free(now.bytes);
    return equal;
}

#endif
