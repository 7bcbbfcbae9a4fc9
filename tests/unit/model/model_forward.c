/* Hidden states, logits and loss of whole models against transformers.
 *
 * Arguments, for models that are not carried here: pairs of a model (folder or GGUF) and a safetensors file with
 * input_ids, attention_mask and any of labels, logits, loss, hidden.<i>. */
#include "check.h"
#include "format/safetensors.h"
#include "model/build.h"
#include "peft/peft.h"

static peft_context *ctx;

typedef struct example {
    peft__tensors *file;
    int64_t batch, length, rows;
    int32_t *ids, *positions, *labels, *offsets, *source; /* source: row of the padded rectangle */
} example;

static void read_example(example *e, const char *path) {
    const peft__tensor *ids, *mask, *labels;
    memset(e, 0, sizeof *e);
    if (peft__safetensors_open(ctx, path, &e->file) < 0) {
        fprintf(stderr, "%s\n", peft_context_error(ctx));
        exit(1);
    }
    ids = peft__tensors_find(e->file, "input_ids");
    mask = peft__tensors_find(e->file, "attention_mask");
    labels = peft__tensors_find(e->file, "labels");
    e->batch = ids->shape[0];
    e->length = ids->shape[1];
    const size_t total = (size_t)(e->batch * e->length);
    int64_t *id_values = malloc(total * 8), *mask_values = malloc(total * 8), *label_values = malloc(total * 8);
    e->ids = malloc(total * 4), e->positions = malloc(total * 4), e->labels = malloc(total * 4);
    e->source = malloc(total * 4), e->offsets = malloc((size_t)(e->batch + 1) * 4);
    CHECK_OK(ctx, peft__tensor_read_i64(ctx, ids, id_values));
    CHECK_OK(ctx, peft__tensor_read_i64(ctx, mask, mask_values));
    if (labels != NULL) CHECK_OK(ctx, peft__tensor_read_i64(ctx, labels, label_values));
    for (int64_t b = 0; b < e->batch; b++) {
        e->offsets[b] = (int32_t)e->rows;
        for (int64_t t = 0; t < e->length; t++) {
            const int64_t at = b * e->length + t;
            if (mask_values[at] == 0) continue;
            e->ids[e->rows] = (int32_t)id_values[at];
            e->positions[e->rows] = (int32_t)t; /* padding on the left counts, as in transformers */
            e->labels[e->rows] = labels != NULL ? (int32_t)label_values[at] : -100;
            e->source[e->rows++] = (int32_t)at;
        }
    }
    e->offsets[e->batch] = (int32_t)e->rows;
    free(id_values), free(mask_values), free(label_values);
}

static void free_example(example *e) {
    peft__tensors_unref(e->file);
    free(e->ids), free(e->positions), free(e->labels), free(e->offsets), free(e->source);
}

static peft_batch batch_of(const example *e) {
    peft_batch batch;
    peft_batch_init(&batch);
    batch.rows = e->rows;
    batch.sequences = e->batch;
    batch.offsets = e->offsets;
    batch.input_ids = e->ids;
    batch.position_ids = e->positions;
    batch.labels = e->labels;
    return batch;
}

/* Builds, plans and runs; the graph stays with its outputs. */
static peft__graph *run(peft__build *b, const peft_model *model, const example *e, peft__build_purpose purpose) {
    const peft__capacity capacity = {.rows = e->rows, .sequences = e->batch, .labels = e->rows};
    const peft_batch batch = batch_of(e);
    memset(b, 0, sizeof *b);
    b->model = model;
    b->purpose = purpose;
    CHECK_OK(ctx, peft__graph_create(ctx, &capacity, &b->graph));
    CHECK_OK(ctx, peft__build_model(b));
    CHECK_OK(ctx, peft__graph_plan(b->graph, false));
    CHECK_OK(ctx, peft__graph_allocate(b->graph));
    CHECK_OK(ctx, peft__graph_bind(b->graph, &batch));
    peft__cursor cursor = {0, 0, 0};
    const peft__run_options options = {.deadline_us = UINT64_MAX};
    CHECK_OK(ctx, peft__graph_run(b->graph, &cursor, peft__graph_plan_info(b->graph)->forward_steps, &options));
    return b->graph;
}

/* Rows of a value against rows of the padded reference; returns the worst difference over the largest reference. */
static double worst(const example *e, const char *name, const peft__value *value, bool last_only) {
    const peft__tensor *want = peft__tensors_find(e->file, name);
    if (want == NULL) return 0;
    const int64_t cols = want->shape[want->ndim - 1], total = peft__tensor_elements(want);
    float *values = malloc((size_t)total * sizeof *values);
    CHECK_OK(ctx, peft__tensor_read_f32(ctx, want, values));
    double largest = 1, difference = 0;
    for (int64_t i = 0; i < total; i++) largest = fmax(largest, fabs((double)values[i]));
    CHECK(value != NULL && value->cols == cols && value->rows->count == (last_only ? e->batch : e->rows));
    for (int64_t row = 0; value != NULL && row < value->rows->count; row++) {
        const int64_t source = e->source[last_only ? e->offsets[row + 1] - 1 : row];
        for (int64_t c = 0; c < cols; c++)
            difference =
                fmax(difference, fabs((double)value->data[row * value->ld + c] - (double)values[source * cols + c]));
    }
    free(values);
    return difference / largest;
}

static void check_model(const char *model_path, const char *expected_path) {
    peft_model *model = NULL;
    const peft_status status = peft_model_load(ctx, model_path, NULL, &model);
    if (!CHECK(status == PEFT_OK)) {
        fprintf(stderr, "    %s\n", peft_context_error(ctx));
        return;
    }
    example e;
    read_example(&e, expected_path);
    peft__build b;
    peft__graph *g = run(&b, model, &e, PEFT__BUILD_LOGITS);
    const double all = worst(&e, "logits", b.logits, false);
    CHECK(all <= 1e-4);
    peft__graph_destroy(g);

    g = run(&b, model, &e, PEFT__BUILD_LAST);
    const double last = worst(&e, "logits", b.logits, true);
    CHECK(last <= 1e-4);
    peft__graph_destroy(g);

    double hidden = 0;
    g = run(&b, model, &e, PEFT__BUILD_HIDDEN);
    for (int i = 0; i <= (int)peft__model_dims(model)->num_hidden_layers && b.hidden != NULL; i++) {
        char name[32];
        snprintf(name, sizeof name, "hidden.%d", i);
        hidden = fmax(hidden, worst(&e, name, b.hidden[i], false));
    }
    CHECK(hidden <= 1e-4);
    peft__graph_destroy(g);

    const peft__tensor *want = peft__tensors_find(e.file, "loss");
    double loss = 0;
    if (want != NULL) {
        float value = 0;
        CHECK_OK(ctx, peft__tensor_read_f32(ctx, want, &value));
        g = run(&b, model, &e, PEFT__BUILD_LOSS);
        CHECK(b.loss != NULL && b.loss->data != NULL);
        loss = fabs((double)b.loss->data[0] / (double)b.loss->data[1] - (double)value);
        CHECK(loss <= 2e-5);
        peft__graph_destroy(g);
    }
    printf("%s: logits %.1e, last %.1e, hidden %.1e, loss %.1e\n", model_path, all, last, hidden, loss);
    free_example(&e);
    peft_model_destroy(model);
}

int main(int argc, char **argv) {
    const char *data = getenv("PEFT_TEST_DATA");
    if (peft_context_create(NULL, &ctx) < 0) return 1;
    for (int i = 1; i + 1 < argc; i += 2) check_model(argv[i], argv[i + 1]);
    static const char *const carried[][2] = {{"llama-gqa", "llama-gqa"},
                                             {"qwen2", "qwen2"},
                                             {"llama-gqa.Q4_1.gguf", "llama-gqa.Q4_1"},
                                             {"qwen2.Q5_1.gguf", "qwen2.Q5_1"},
                                             {"tiny/llama-biases", "tiny/llama-biases"},
                                             {"tiny/llama-llama3", "tiny/llama-llama3"},
                                             {"tiny/llama-dynamic", "tiny/llama-dynamic"},
                                             {"tiny/qwen2-window", "tiny/qwen2-window"},
                                             {"tiny/qwen3-bias", "tiny/qwen3-bias"},
                                             {"tiny/smollm3", "tiny/smollm3"},
                                             {"tiny/gemma", "tiny/gemma"},
                                             {"tiny/gemma2", "tiny/gemma2"},
                                             {"tiny/phi3", "tiny/phi3"},
                                             {"tiny/llama-biases.gguf", "tiny/llama-biases"},
                                             {"tiny/llama-llama3.gguf", "tiny/llama-llama3"},
                                             {"tiny/qwen3-bias.gguf", "tiny/qwen3-bias"},
                                             {"tiny/gemma.gguf", "tiny/gemma"},
                                             {"tiny/gemma2.gguf", "tiny/gemma2"},
                                             {"tiny/phi3.gguf", "tiny/phi3"}};
    for (size_t i = 0; argc == 1 && data != NULL && i < sizeof carried / sizeof *carried; i++) {
        char model[512], expected[512];
        snprintf(model, sizeof model, "%s/models/%s", data, carried[i][0]);
        snprintf(expected, sizeof expected, "%s/models/%s.expected.safetensors", data, carried[i][1]);
        check_model(model, expected);
    }
    peft_context_destroy(ctx);
    if (argc == 1 && data == NULL) return 77;
    return check_summary();
}
