/* Encoders and GPT-2 against transformers and PEFT: for every task logits, loss and the gradient of every parameter,
 * LoRA on them, hidden states, and the same from GGUF files and old spellings (tests/data/models/make_encoders.py). */
#include "check.h"
#include "format/safetensors.h"
#include "model/build.h"
#include "peft/peft.h"

enum { PATH = 600 };

static peft_context *ctx;

typedef struct example {
    peft__tensors *file;
    int64_t batch, length;
    peft_batch all; /* labels of no task */
    peft_batch_buffers buffers;
    int32_t *words, *tags, *classes, *starts, *ends;
    float *targets;
} example;

static float *floats_of(const peft__tensors *file, const char *name, int64_t *count) {
    const peft__tensor *tensor = peft__tensors_find(file, name);
    if (tensor == NULL) return NULL;
    *count = peft__tensor_elements(tensor);
    float *values = malloc((size_t)(*count + 1) * sizeof *values);
    CHECK_OK(ctx, peft__tensor_read_f32(ctx, tensor, values));
    return values;
}

static int64_t *ints_of(const peft__tensors *file, const char *name) {
    const peft__tensor *tensor = peft__tensors_find(file, name);
    if (tensor == NULL) return NULL;
    int64_t *values = malloc((size_t)peft__tensor_elements(tensor) * sizeof *values);
    CHECK_OK(ctx, peft__tensor_read_i64(ctx, tensor, values));
    return values;
}

static int32_t *room(int64_t count) {
    return calloc((size_t)count + 1, sizeof(int32_t));
}

static void read_example(example *e, const char *path) {
    memset(e, 0, sizeof *e);
    if (peft__safetensors_open(ctx, path, &e->file) < 0) {
        fprintf(stderr, "%s\n", peft_context_error(ctx));
        exit(1);
    }
    const peft__tensor *ids = peft__tensors_find(e->file, "input_ids"),
                       *classes = peft__tensors_find(e->file, "classes");
    e->batch = ids->shape[0];
    e->length = ids->shape[1];
    const int64_t places = e->batch * e->length;
    int64_t *input = ints_of(e->file, "input_ids"), *mask = ints_of(e->file, "attention_mask"),
            *types = ints_of(e->file, "token_type_ids");
    int64_t *words = ints_of(e->file, "words"), *tags = ints_of(e->file, "tags"), *starts = ints_of(e->file, "starts"),
            *ends = ints_of(e->file, "ends");
    peft_batch_buffers *b = &e->buffers;
    *b = (peft_batch_buffers){.struct_size = sizeof *b, .rows = places};
    int32_t **arrays[] = {&b->offsets, &b->input_ids,       &b->position_ids,  &b->token_type_ids, &b->labels,
                          &b->source,  &b->start_positions, &b->end_positions, &e->words,          &e->tags};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) *arrays[i] = room(places);
    peft_padded padded;
    peft_padded_init(&padded);
    padded.batch = e->batch;
    padded.length = e->length;
    padded.input_ids = input;
    padded.attention_mask = mask;
    padded.token_type_ids = types;
    padded.labels = words;
    padded.start_positions = starts;
    padded.end_positions = ends;
    CHECK_OK(ctx, peft_batch_from_padded(ctx, &padded, b, &e->all));
    e->all.position_ids = NULL; /* counted by the model: RoBERTa's own start */
    for (int64_t r = 0; r < e->all.rows; r++) {
        e->words[r] = b->labels[r];
        e->tags[r] = (int32_t)tags[b->source[r]];
    }
    e->all.labels = NULL;
    e->all.start_positions = e->all.end_positions = NULL;
    if (classes->ndim == 1) {
        int64_t *values = ints_of(e->file, "classes");
        e->classes = room(e->batch);
        for (int64_t s = 0; s < e->batch; s++) e->classes[s] = (int32_t)values[s];
        free(values);
    } else {
        int64_t count = 0;
        e->targets = floats_of(e->file, "classes", &count);
    }
    free(input), free(mask), free(types), free(words), free(tags), free(starts), free(ends);
}

static void free_example(example *e) {
    peft_batch_buffers *b = &e->buffers;
    int32_t *arrays[] = {b->offsets,         b->input_ids,     b->position_ids, b->token_type_ids, b->labels, b->source,
                         b->start_positions, b->end_positions, e->words,        e->tags,           e->classes};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
    free(e->targets);
    peft__tensors_unref(e->file);
}

static peft_batch batch_for(const example *e, int32_t task) {
    peft_batch batch = e->all;
    if (task == PEFT_TASK_MASKED_LM || task == PEFT_TASK_CAUSAL_LM) batch.labels = e->words;
    if (task == PEFT_TASK_TOKEN_CLS) batch.labels = e->tags;
    if (task == PEFT_TASK_SEQ_CLS) {
        batch.sequence_labels = e->classes;
        batch.sequence_targets = e->targets;
        batch.target_cols = e->targets != NULL ? 3 : 0;
    }
    if (task == PEFT_TASK_QUESTION_ANS) {
        batch.start_positions = e->buffers.start_positions;
        batch.end_positions = e->buffers.end_positions;
    }
    return batch;
}

/* Worst difference over the largest expected number; rows of the rectangle, or one a sequence. */
static double worst_rows(const example *e, const char *name, const float *got, int64_t ld, int64_t rows, int64_t cols) {
    int64_t count = 0;
    float *want = floats_of(e->file, name, &count);
    if (!CHECK(want != NULL) || !CHECK(cols > 0)) return INFINITY;
    const bool by_row = count == e->batch * e->length * cols;
    CHECK(by_row ? rows == e->all.rows : rows == e->batch && count == rows * cols);
    double largest = 1, difference = 0;
    for (int64_t r = 0; r < rows; r++) {
        const float *line = want + (by_row ? e->buffers.source[r] : r) * cols;
        for (int64_t c = 0; c < cols; c++) {
            largest = fmax(largest, fabs((double)line[c]));
            difference = fmax(difference, fabs((double)got[r * ld + c] - (double)line[c]));
        }
    }
    free(want);
    return difference / largest;
}

/* Gradients of what is expected under "<prefix><name>"; returns the worst, relative to the largest of all. */
static double worst_gradient(const example *e, const char *prefix, peft_session *session, peft_adapter *adapter) {
    const int64_t total = peft_adapter_parameter_count(adapter);
    float *flat = malloc((size_t)total * sizeof *flat);
    CHECK_OK(ctx, peft_session_get_gradients(session, adapter, flat, total));
    double worst = 0, largest = 0;
    int found = 0, wanted = 0;
    for (size_t i = 0; i < peft__tensors_count(e->file); i++)
        wanted += strncmp(peft__tensors_at(e->file, i)->name, prefix, strlen(prefix)) == 0;
    int64_t at = 0;
    for (uint32_t i = 0; i < peft_adapter_tensor_count(adapter); i++) {
        peft_tensor_info info = {.struct_size = sizeof info};
        if (peft_adapter_tensor(adapter, i, &info) < 0 || !info.trainable) continue;
        char name[512];
        int64_t count = 0;
        snprintf(name, sizeof name, "%s%s", prefix, info.name);
        float *want = floats_of(e->file, name, &count);
        if (want == NULL) printf("    %s is not expected\n", name);
        for (int64_t k = 0; want != NULL && k < count; k++) {
            largest = fmax(largest, fabs((double)want[k]));
            worst = fmax(worst, fabs((double)want[k] - (double)flat[at + k]));
        }
        found += want != NULL && count == (int64_t)(info.bytes / sizeof(float));
        free(want);
        at += (int64_t)(info.bytes / sizeof(float));
    }
    CHECK(found == wanted && wanted > 0);
    free(flat);
    return worst / fmax(largest, 1e-9);
}

static double step(const example *e, peft_session *session, const peft_batch *batch, const char *name) {
    int64_t count = 0;
    double loss = 0;
    float *want = floats_of(e->file, name, &count);
    CHECK_OK(ctx, peft_session_forward(session, batch, &loss));
    CHECK_OK(ctx, peft_session_backward(session, 1.0f));
    const double error = want == NULL ? INFINITY : fabs(loss - (double)want[0]);
    free(want);
    return error;
}

static void check_task(const example *e, const char *path, int32_t task, const char *tag) {
    char name[64];
    peft_model_options options;
    peft_model_options_init(&options);
    options.task = task;
    peft_model *model = NULL;
    peft_adapter *adapter = NULL;
    peft_session *session = NULL;
    CHECK_OK(ctx, peft_model_load(ctx, path, &options, &model));
    if (model == NULL) return;
    CHECK_OK(ctx, peft_adapter_create(ctx, model, "{\"peft_type\": \"FULL\"}", 0, &adapter));
    CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, 1, NULL, &session));
    const peft_batch batch = batch_for(e, task);
    float logits[4096];
    int64_t rows = 0, cols = 0;
    CHECK_OK(ctx, peft_session_logits(session, &batch, PEFT_LOGITS_ALL, logits, 4096, &rows, &cols));
    snprintf(name, sizeof name, "%s.logits", tag);
    const double l = worst_rows(e, name, logits, cols, rows, cols);
    snprintf(name, sizeof name, "%s.loss", tag);
    peft_batch without = batch; /* neither classes nor numbers, or classes for a regression */
    without.sequence_targets = NULL;
    if (task == PEFT_TASK_SEQ_CLS && e->targets != NULL) {
        without.sequence_labels = room(e->batch);
        CHECK(peft_session_forward(session, &without, NULL) == PEFT_E_ARG);
        CHECK(strstr(peft_context_error(ctx), "sequence_targets") != NULL);
        free((int32_t *)(uintptr_t)without.sequence_labels);
    }
    const double loss = step(e, session, &batch, name);
    snprintf(name, sizeof name, "%s.grad.", tag);
    const double grad = worst_gradient(e, name, session, adapter);
    CHECK(l <= 1e-5 && loss <= 1e-5 && grad <= 1e-4);
    printf("%s %s: logits %.1e, loss %.1e, gradients %.1e\n", strrchr(path, '/') + 1, tag, l, loss, grad);
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
    peft_model_destroy(model);
}

/* LoRA with the weights that PEFT had; the head is trained with it. */
static void check_lora(const example *e, const char *path, const char *targets) {
    static const char prefix[] = "lora.init.";
    peft_model_options options;
    peft_model_options_init(&options);
    options.task = PEFT_TASK_SEQ_CLS;
    peft_model *model = NULL;
    peft_adapter *adapter = NULL;
    peft_session *session = NULL;
    char config[256];
    snprintf(config, sizeof config,
             "{\"peft_type\": \"LORA\", \"task_type\": \"SEQ_CLS\", \"r\": 2, \"target_modules\": [%s]}", targets);
    CHECK_OK(ctx, peft_model_load(ctx, path, &options, &model));
    CHECK_OK(ctx, peft_adapter_create(ctx, model, config, 0, &adapter));
    for (size_t i = 0; adapter != NULL && i < peft__tensors_count(e->file); i++) {
        const char *name = peft__tensors_at(e->file, i)->name;
        int64_t count = 0;
        if (strncmp(name, prefix, sizeof prefix - 1) != 0) continue;
        float *values = floats_of(e->file, name, &count);
        CHECK_OK(ctx, peft_adapter_set_tensor(adapter, name + sizeof prefix - 1, values, count));
        free(values);
    }
    CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, 1, NULL, &session));
    const peft_batch batch = batch_for(e, PEFT_TASK_SEQ_CLS);
    if (session != NULL) {
        const double loss = step(e, session, &batch, "lora.loss");
        const double grad = worst_gradient(e, "lora.grad.", session, adapter);
        CHECK(loss <= 1e-5 && grad <= 1e-4);
        printf("%s LoRA: loss %.1e, gradients %.1e\n", strrchr(path, '/') + 1, loss, grad);
    }
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
    peft_model_destroy(model);
}

static void check_hidden(const example *e, const char *path) {
    peft_model_options options;
    peft_model_options_init(&options);
    options.task = PEFT_TASK_FEATURE_EXTRACTION;
    peft_model *model = NULL;
    CHECK_OK(ctx, peft_model_load(ctx, path, &options, &model));
    if (model == NULL) return;
    const peft__capacity capacity = {.rows = e->all.rows, .sequences = e->batch};
    peft__build b = {.model = model, .purpose = PEFT__BUILD_HIDDEN};
    CHECK_OK(ctx, peft__graph_create(ctx, &capacity, &b.graph));
    CHECK_OK(ctx, peft__build_model(&b));
    CHECK_OK(ctx, peft__graph_plan(b.graph, false));
    CHECK_OK(ctx, peft__graph_allocate(b.graph));
    CHECK_OK(ctx, peft__graph_bind(b.graph, &e->all));
    peft__cursor cursor = {0, 0, 0};
    const peft__run_options run = {.deadline_us = UINT64_MAX};
    CHECK_OK(ctx, peft__graph_run(b.graph, &cursor, peft__graph_plan_info(b.graph)->forward_steps, &run));
    double worst = 0;
    for (int i = 0; i <= (int)peft__model_dims(model)->num_hidden_layers && b.hidden != NULL; i++) {
        char name[32];
        snprintf(name, sizeof name, "hidden.%d", i);
        const peft__value *h = b.hidden[i];
        worst = fmax(worst, worst_rows(e, name, h->data, h->ld, h->rows->count, h->cols));
    }
    CHECK(b.hidden != NULL && worst <= 1e-5);
    printf("%s: hidden states %.1e\n", strrchr(path, '/') + 1, worst);
    peft__graph_destroy(b.graph);
    peft_model_destroy(model);
}

/* A head that is not in the files is new, an encoder that is a file for generation is refused, and so is a task without
 * a head. */
static void check_refusals(const char *data) {
    char path[PATH];
    peft_model_options options;
    peft_model_options_init(&options);
    peft_model *model = NULL;
    snprintf(path, sizeof path, "%s/models/encoders/bert.gguf", data);
    options.task = PEFT_TASK_MASKED_LM;
    CHECK(peft_model_load(ctx, path, &options, &model) == PEFT_E_MISMATCH && model == NULL);
    CHECK(strstr(peft_context_error(ctx), "cls.predictions") != NULL);
    options.task = PEFT_TASK_CAUSAL_LM;
    CHECK(peft_model_load(ctx, path, &options, &model) == PEFT_E_UNSUPPORTED && model == NULL);
    options.task = PEFT_TASK_SEQ_CLS;
    options.num_labels = 5;
    CHECK_OK(ctx, peft_model_load(ctx, path, &options, &model));
    uint32_t fresh = 0;
    for (uint32_t i = 0; i < peft_model_module_count(model); i++) {
        peft_module_info info = {.struct_size = sizeof info};
        CHECK_OK(ctx, peft_model_module(model, i, &info));
        fresh += info.is_new != 0;
    }
    CHECK(fresh == 2); /* pooler and classifier */
    peft_model_destroy(model);
}

int main(void) {
    const char *data = getenv("PEFT_TEST_DATA");
    if (data == NULL) return 77;
    if (peft_context_create(NULL, &ctx) < 0) return 1;
    static const struct {
        const char *name, *targets;
        bool gguf, old;
    } models[] = {{"bert", "\"query\", \"output.dense\"", true, true},
                  {"roberta", "\"query\", \"output.dense\"", true, false},
                  {"distilbert", "\"q_lin\", \"v_lin\"", false, false},
                  {"electra", "\"query\", \"output.dense\"", false, false},
                  {"albert", "\"query\", \"ffn\"", false, false},
                  {"gpt2", "\"c_attn\", \"mlp.c_proj\"", true, false},
                  {"gpt2-scaled", "\"c_attn\", \"mlp.c_proj\"", false, false}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char path[PATH], expected[PATH + 32];
        example e;
        snprintf(path, sizeof path, "%s/models/encoders/%s", data, models[i].name);
        snprintf(expected, sizeof expected, "%s.expected.safetensors", path);
        read_example(&e, expected);
        const bool decoder = strncmp(models[i].name, "gpt2", 4) == 0;
        if (decoder) {
            check_task(&e, path, PEFT_TASK_CAUSAL_LM, "CAUSAL_LM");
        } else {
            check_task(&e, path, PEFT_TASK_MASKED_LM, "MASKED_LM");
            check_task(&e, path, PEFT_TASK_QUESTION_ANS, "QUESTION_ANS");
        }
        check_task(&e, path, PEFT_TASK_SEQ_CLS, "SEQ_CLS");
        check_task(&e, path, PEFT_TASK_TOKEN_CLS, "TOKEN_CLS");
        check_lora(&e, path, models[i].targets);
        check_hidden(&e, path);
        snprintf(path, sizeof path, "%s/models/encoders/%s.gguf", data, models[i].name);
        if (models[i].gguf) check_hidden(&e, path);
        snprintf(path, sizeof path, "%s/models/encoders/%s-old", data, models[i].name);
        if (models[i].old) check_hidden(&e, path);
        if (models[i].old) check_lora(&e, path, models[i].targets);
        free_example(&e);
    }
    check_refusals(data);
    peft_context_destroy(ctx);
    return check_summary();
}
