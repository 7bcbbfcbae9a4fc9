/* world.h: a whole tiny training run, for tests that disturb it: model, task, method, AdamW, one batch of four sequences.
 *
 * Which one is said by two environment variables, so that one program serves every method on every kind of model:
 * PEFT_TEST_WORLD names a row of the table below (default "causal", a Llama model of two layers), PEFT_TEST_CONFIG is the
 * adapter's configuration (default: LoRA with dropout on every linear layer).
 */
#ifndef PEFT_TESTS_FAULT_WORLD_H
#define PEFT_TESTS_FAULT_WORLD_H

#include "check.h"
#include "peft/peft.h"
#include "train/train.h"

enum { WORLD_SEQUENCES = 4, WORLD_ROWS = 150, WORLD_COLS = 48, WORLD_PATCHES = 16, WORLD_CLASSES = 3 };

/* What a sequence of the batch carries. */
typedef enum world_form {
    WORLD_TOKENS,    /* a label at most rows */
    WORLD_SEQUENCE,  /* one class */
    WORLD_CLOZE,     /* rows of a trainable prompt, a row where the answer is read, one class */
    WORLD_PICTURE,   /* patches and one class */
    WORLD_QUESTION,  /* first and last row of an answer */
    WORLD_DECODER,   /* a second stream to predict */
    WORLD_CHOICES    /* two second streams, of which one is right */
} world_form;

typedef struct world_kind {
    const char *name, *model;
    int32_t task, loss;
    world_form form;
    int32_t vocabulary; /* ids below it are used */
    int32_t offsets[WORLD_SEQUENCES + 1];
} world_kind;

static const world_kind world_kinds[] = {
    {"causal", "llama-gqa", PEFT_TASK_AUTO, PEFT_LOSS_TASK, WORLD_TOKENS, 288, {0, 57, 64, 120, WORLD_ROWS}},
    {"seq_cls", "bert", PEFT_TASK_SEQ_CLS, PEFT_LOSS_TASK, WORLD_SEQUENCE, 224, {0, 9, 12, 33, 40}},
    {"token_cls", "roberta", PEFT_TASK_TOKEN_CLS, PEFT_LOSS_TASK, WORLD_TOKENS, 284, {0, 9, 12, 33, 40}},
    {"masked_lm", "bert", PEFT_TASK_MASKED_LM, PEFT_LOSS_TASK, WORLD_TOKENS, 224, {0, 9, 12, 33, 40}},
    {"question", "bert", PEFT_TASK_QUESTION_ANS, PEFT_LOSS_TASK, WORLD_QUESTION, 224, {0, 9, 12, 33, 40}},
    {"cloze", "bert", PEFT_TASK_MASKED_LM, PEFT_LOSS_TASK, WORLD_CLOZE, 224, {0, 9, 17, 33, 40}},
    {"image", "vit", PEFT_TASK_IMAGE_CLS, PEFT_LOSS_TASK, WORLD_PICTURE, 0, {0, 16, 32, 48, 64}},
    {"seq2seq", "t5-v11", PEFT_TASK_SEQ_2_SEQ_LM, PEFT_LOSS_TASK, WORLD_DECODER, 162, {0, 9, 12, 33, 40}},
    {"tfew", "t5-v11", PEFT_TASK_SEQ_2_SEQ_LM, PEFT_LOSS_TFEW, WORLD_CHOICES, 162, {0, 9, 12, 33, 40}},
};

static inline const world_kind *world_kind_used(void) {
    const char *given = getenv("PEFT_TEST_WORLD");
    for (size_t i = 0; given != NULL && i < sizeof world_kinds / sizeof world_kinds[0]; i++)
        if (strcmp(world_kinds[i].name, given) == 0) return &world_kinds[i];
    return world_kinds;
}

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
    int32_t offsets[WORLD_SEQUENCES + 1], ids[WORLD_ROWS], labels[WORLD_ROWS], prompt[WORLD_ROWS];
    int32_t classes[WORLD_SEQUENCES], first[WORLD_SEQUENCES], last[WORLD_SEQUENCES], grids[2 * WORLD_SEQUENCES];
    float patches[WORLD_SEQUENCES * WORLD_PATCHES * WORLD_COLS];
    int32_t decoder_offsets[2 * WORLD_SEQUENCES + 1], decoder_ids[64], decoder_labels[64], source[2 * WORLD_SEQUENCES];
} world;

static inline const char *world_model_path(void) {
    static char path[4096];
    const char *data = getenv("PEFT_TEST_DATA");
    snprintf(path, sizeof path, "%s/models/%s", data != NULL ? data : "tests/data", world_kind_used()->model);
    return path;
}

static inline peft_model_options world_model_options(void) {
    const world_kind *kind = world_kind_used();
    peft_model_options options;
    peft_model_options_init(&options);
    options.task = kind->task;
    if (kind->form == WORLD_SEQUENCE || kind->form == WORLD_PICTURE || kind->task == PEFT_TASK_TOKEN_CLS)
        options.num_labels = WORLD_CLASSES;
    return options;
}

static inline peft_session_options world_session_options(void) {
    peft_session_options options;
    peft_session_options_init(&options);
    options.loss = world_kind_used()->loss;
    return options;
}

/* Second streams: sequence i has 2 + i % 3 rows; with choices each main sequence has two of them. */
static inline void world_decoder(world *w, const world_kind *kind, uint32_t seed) {
    const int32_t each = kind->form == WORLD_CHOICES ? 2 : 1;
    int32_t at = 0;
    for (int32_t i = 0; i < each * WORLD_SEQUENCES; i++) {
        w->decoder_offsets[i] = at;
        w->source[i] = i / each;
        for (int32_t k = 0; k < 2 + i % 3; k++, at++) {
            w->decoder_labels[at] = 1 + (int32_t)((seed + 7u * (uint32_t)at) % (uint32_t)(kind->vocabulary - 1));
            w->decoder_ids[at] = k == 0 ? 0 : w->decoder_labels[at - 1];
        }
        w->decoder_offsets[i + 1] = at;
    }
    w->batch.decoder_rows = at;
    w->batch.decoder_sequences = each * WORLD_SEQUENCES;
    w->batch.decoder_offsets = w->decoder_offsets;
    w->batch.decoder_input_ids = w->decoder_ids;
    w->batch.decoder_labels = w->decoder_labels;
    w->batch.decoder_source = w->source;
}

/* Four sequences of different length; equal seeds give equal batches. */
static inline void world_batch(world *w, uint32_t seed) {
    const world_kind *kind = world_kind_used();
    memcpy(w->offsets, kind->offsets, sizeof w->offsets);
    const int32_t rows = w->offsets[WORLD_SEQUENCES];
    uint32_t state = seed * 2654435761u + 1;
    peft_batch_init(&w->batch);
    w->batch.rows = rows;
    w->batch.sequences = WORLD_SEQUENCES;
    w->batch.offsets = w->offsets;
    w->batch.input_ids = w->ids;
    for (int i = 0; i < rows && kind->vocabulary > 0; i++) {
        state = state * 1664525u + 1013904223u;
        w->ids[i] = (int32_t)(3 + (state >> 8) % (uint32_t)(kind->vocabulary - 3));
        w->labels[i] = kind->task == PEFT_TASK_TOKEN_CLS ? w->ids[i] % WORLD_CLASSES : w->ids[i];
        if ((state >> 29) == 0) w->labels[i] = PEFT_IGNORE_LABEL;
        w->prompt[i] = -1;
    }
    for (int i = 0; i < WORLD_SEQUENCES; i++) {
        w->classes[i] = (int32_t)(seed + (uint32_t)i) % (kind->form == WORLD_SEQUENCE || kind->form == WORLD_PICTURE ? WORLD_CLASSES : 2);
        w->first[i] = 1;
        w->last[i] = 2;
        w->grids[2 * i] = w->grids[2 * i + 1] = 4;
    }
    switch (kind->form) {
    case WORLD_TOKENS: w->batch.labels = w->labels; break;
    case WORLD_SEQUENCE: w->batch.sequence_labels = w->classes; break;
    case WORLD_QUESTION:
        w->batch.start_positions = w->first;
        w->batch.end_positions = w->last;
        break;
    case WORLD_CLOZE: /* [CLS] p0 p1 text p2 [MASK] ... */
        for (int i = 0; i < WORLD_SEQUENCES; i++) {
            for (int k = 0; k < 2; k++) w->prompt[w->offsets[i] + 1 + k] = k;
            w->prompt[w->offsets[i] + 4] = 2;
            w->last[i] = 5;
        }
        w->batch.prompt_index = w->prompt;
        w->batch.mask_positions = w->last;
        w->batch.sequence_labels = w->classes;
        break;
    case WORLD_PICTURE:
        for (size_t i = 0; i < sizeof w->patches / sizeof w->patches[0]; i++) {
            state = state * 1664525u + 1013904223u;
            w->patches[i] = (float)(state >> 8) * 0x1p-23f - 1.0f;
        }
        w->batch.input_ids = NULL;
        w->batch.features = w->patches;
        w->batch.feature_cols = WORLD_COLS;
        w->batch.image_grids = w->grids;
        w->batch.sequence_labels = w->classes;
        break;
    case WORLD_CHOICES: w->batch.sequence_labels = w->classes; /* fall through */
    case WORLD_DECODER: world_decoder(w, kind, seed); break;
    }
}

static inline bool world_open(world *w, const peft_context_options *options) {
    memset(w, 0, sizeof *w);
    world_batch(w, 1);
    if (!CHECK(peft_context_create(options, &w->ctx) == PEFT_OK)) return false;
    const peft_model_options model_options = world_model_options();
    const peft_session_options session_options = world_session_options();
    CHECK_OK(w->ctx, peft_model_load(w->ctx, world_model_path(), &model_options, &w->model));
    if (w->model == NULL) return false;
    CHECK_OK(w->ctx, peft_adapter_create(w->ctx, w->model, world_config(), 7, &w->adapter));
    if (w->adapter == NULL) return false;
    peft_optimizer_options adamw;
    peft_optimizer_options_init(&adamw);
    adamw.lr = 1e-2f;
    adamw.weight_decay = 0.01f;
    CHECK_OK(w->ctx, peft_optimizer_create(w->ctx, w->adapter, &adamw, &w->optimizer));
    CHECK_OK(w->ctx, peft_session_create(w->ctx, w->model, &w->adapter, 1, &session_options, &w->session));
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
