/* ViT and DeiT against transformers: logits, losses, gradients of every parameter, other resolutions, features; VPT deep against the
 * same computed without its shortcuts; bottleneck adapters (tests/data/models/make_vision.py). */
#include <unistd.h>

#include "check.h"
#include "format/safetensors.h"
#define peft__step planned_step /* method.h has another */
#include "graph/graph_internal.h"
#undef peft__step
#include "method/adapter.h"
#include "model/build.h"
#include "peft/peft.h"

enum { PATH = 600 };

static peft_context *ctx;
static const char *data;

#define CHECK_ERROR(call, want, text)                                                                \
    do {                                                                                             \
        CHECK_STATUS(ctx, call, want);                                                               \
        if (!CHECK(strstr(peft_context_error(ctx), text) != NULL)) fprintf(stderr, "    %s\n", peft_context_error(ctx)); \
    } while (0)


typedef struct pictures {
    peft_batch batch;
    float *features;
    int32_t offsets[16], labels[16], grids[32];
} pictures;

static float *floats_of(const peft__tensors *file, const char *name, int64_t *count) {
    const peft__tensor *tensor = peft__tensors_find(file, name);
    if (!CHECK(tensor != NULL)) exit(1);
    *count = peft__tensor_elements(tensor);
    float *values = malloc((size_t)(*count + 1) * sizeof *values);
    CHECK_OK(ctx, peft__tensor_read_f32(ctx, tensor, values));
    return values;
}

static void read_pictures(const peft_model *model, const peft__tensors *file, const char *name, pictures *p) {
    peft_image_info info = {.struct_size = sizeof info};
    const peft__tensor *tensor = peft__tensors_find(file, name);
    int64_t count = 0;
    CHECK_OK(ctx, peft_model_image_info(ctx, model, &info));
    memset(p, 0, sizeof *p);
    float *pixels = floats_of(file, name, &count);
    CHECK(info.channels == tensor->shape[1] && info.patch_height == 4 && info.image_width == 12);
    const int64_t images = tensor->shape[0], patches = peft_image_patch_count(&info, tensor->shape[2], tensor->shape[3], p->grids);
    const int64_t cols = info.channels * 16, room = images * patches * cols;
    p->features = malloc((size_t)room * sizeof *p->features);
    CHECK_STATUS(ctx, peft_image_patches(ctx, &info, pixels, images, tensor->shape[2], tensor->shape[3], p->features, room - 1), PEFT_E_LIMIT);
    CHECK_STATUS(ctx, peft_image_patches(ctx, &info, pixels, images, 3, 12, p->features, room), PEFT_E_ARG);
    CHECK_OK(ctx, peft_image_patches(ctx, &info, pixels, images, tensor->shape[2], tensor->shape[3], p->features, room));
    free(pixels);
    peft_batch_init(&p->batch);
    for (int64_t i = 0; i <= images; i++) p->offsets[i] = (int32_t)(i * patches);
    for (int64_t i = 1; i < images; i++) memcpy(p->grids + 2 * i, p->grids, 2 * sizeof *p->grids);
    p->batch.rows = images * patches;
    p->batch.sequences = images;
    p->batch.offsets = p->offsets;
    p->batch.features = p->features;
    p->batch.feature_cols = cols;
    p->batch.image_grids = p->grids;
    const peft__tensor *labels = peft__tensors_find(file, "labels");
    if (labels == NULL) return;
    int64_t values[16];
    CHECK_OK(ctx, peft__tensor_read_i64(ctx, labels, values));
    for (int64_t i = 0; i < images; i++) p->labels[i] = (int32_t)values[i % labels->shape[0]];
    p->batch.sequence_labels = p->labels;
}

/* Largest difference over the largest expected number. */
static double error_of(const float *got, const float *want, int64_t count) {
    double largest = 1e-2, worst = 0; /* the gradient of a key bias is zero but for rounding */
    for (int64_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)want[i]));
        worst = fmax(worst, fabs((double)got[i] - (double)want[i]));
    }
    return worst / largest;
}

static void check_logits(peft_session *session, const pictures *p, int32_t which, const peft__tensors *file, const char *name) {
    int64_t count = 0, rows = 0, cols = 0;
    float *want = floats_of(file, name, &count), *got = malloc((size_t)count * sizeof *got);
    CHECK_OK(ctx, peft_session_logits(session, &p->batch, which, got, count, &rows, &cols));
    CHECK(rows * cols == count);
    const double error = error_of(got, want, count);
    if (!CHECK(error <= 2e-5)) fprintf(stderr, "    %s: %g\n", name, error);
    free(want);
    free(got);
}

/* Every gradient of the adapter against prefix + its name. */
static void check_gradients(peft_session *session, peft_adapter *adapter, const pictures *p, const peft__tensors *file, const char *prefix) {
    const int64_t total = peft_adapter_parameter_count(adapter);
    float *flat = malloc((size_t)total * sizeof *flat);
    double loss = 0;
    CHECK_OK(ctx, peft_session_forward(session, &p->batch, &loss));
    CHECK_OK(ctx, peft_session_backward(session, 1.0f));
    CHECK_OK(ctx, peft_session_get_gradients(session, adapter, flat, total));
    int64_t at = 0;
    for (uint32_t i = 0; i < peft_adapter_tensor_count(adapter); i++) {
        peft_tensor_info info = {.struct_size = sizeof info};
        CHECK_OK(ctx, peft_adapter_tensor(adapter, i, &info));
        char name[256];
        int64_t count = 0;
        (void)snprintf(name, sizeof name, "%s%s", prefix, info.name);
        if (peft__tensors_find(file, name) != NULL) {
            float *want = floats_of(file, name, &count);
            const double error = error_of(flat + at, want, count);
            if (!CHECK(count * (int64_t)sizeof(float) == (int64_t)info.bytes && error <= 2e-4)) fprintf(stderr, "    %s: %g\n", name, error);
            free(want);
        } else {
            CHECK(strncmp(info.name, "classifier", 10) == 0);
        }
        at += (int64_t)(info.bytes / sizeof(float));
    }
    CHECK_OK(ctx, peft_session_zero_grad(session));
    free(flat);
}

static peft_model *load(const char *name, char *expected, peft__tensors **out_file) {
    char folder[PATH];
    peft_model *model = NULL;
    (void)snprintf(folder, sizeof folder, "%s/models/vision/%s", data, name);
    (void)snprintf(expected, PATH, "%s/models/vision/%s.expected.safetensors", data, name);
    CHECK_OK(ctx, peft_model_load(ctx, folder, NULL, &model));
    CHECK_OK(ctx, peft__safetensors_open(ctx, expected, out_file));
    return model;
}

static void check_classifier(const char *name, bool gradients) {
    char path[PATH];
    peft__tensors *file = NULL;
    peft_model *model = load(name, path, &file);
    peft_session *session = NULL;
    pictures p;
    if (model == NULL || file == NULL) return;
    CHECK(strstr(peft_model_load_report(model), "unexpected ") == NULL || strstr(peft_model_load_report(model), " 0 unexpected") != NULL);
    read_pictures(model, file, "pixel_values", &p);
    CHECK_OK(ctx, peft_session_create(ctx, model, NULL, 0, NULL, &session));
    check_logits(session, &p, PEFT_LOGITS_ALL, file, "logits");
    p.batch.image_grids = NULL; /* the model's own grid */
    check_logits(session, &p, PEFT_LOGITS_LAST, file, "logits");
    if (gradients) {
        peft_adapter *full = NULL;
        peft_session *training = NULL;
        CHECK_OK(ctx, peft_adapter_create(ctx, model, "{\"peft_type\":\"FULL\"}", 0, &full));
        CHECK_OK(ctx, peft_session_create(ctx, model, &full, 1, NULL, &training));
        check_gradients(training, full, &p, file, "grad.");
        peft_session_destroy(training);
        peft_adapter_destroy(full);
    }
    free(p.features);
    if (peft__tensors_find(file, "large.logits") != NULL) {
        read_pictures(model, file, "large.pixel_values", &p);
        check_logits(session, &p, PEFT_LOGITS_ALL, file, "large.logits");
        float logits[16];
        int64_t rows, cols;
        p.batch.image_grids = NULL; /* 20 patches: no square */
        CHECK_ERROR(peft_session_logits(session, &p.batch, PEFT_LOGITS_ALL, logits, 16, &rows, &cols), PEFT_E_ARG, "image_grids");
        p.grids[0] = 3;
        p.batch.image_grids = p.grids;
        CHECK_ERROR(peft_session_logits(session, &p.batch, PEFT_LOGITS_ALL, logits, 16, &rows, &cols), PEFT_E_ARG, "image_grids");
        p.batch.feature_cols = 47;
        CHECK_ERROR(peft_session_logits(session, &p.batch, PEFT_LOGITS_ALL, logits, 16, &rows, &cols), PEFT_E_ARG, "48 floats");
        free(p.features);
    }
    peft_session_destroy(session);
    peft_model_destroy(model);
    peft__tensors_unref(file);
}

static void check_features(void) {
    char path[PATH];
    peft__tensors *file = NULL;
    peft_model *model = load("vit-pooler", path, &file);
    peft_session *session = NULL;
    pictures p;
    if (model == NULL || file == NULL) return;
    read_pictures(model, file, "pixel_values", &p);
    CHECK_OK(ctx, peft_session_create(ctx, model, NULL, 0, NULL, &session));
    check_logits(session, &p, PEFT_LOGITS_ALL, file, "last_hidden_state");
    check_logits(session, &p, PEFT_LOGITS_LAST, file, "pooler_output");
    free(p.features);
    peft_session_destroy(session);
    peft_model_destroy(model);
    peft__tensors_unref(file);
}

static void check_bottleneck(const char *kind, const char *config) {
    char path[PATH], prefix[64], name[256];
    peft__tensors *file = NULL;
    peft_model *model = load("vit", path, &file);
    peft_adapter *adapter = NULL;
    peft_session *session = NULL;
    pictures p;
    if (model == NULL || file == NULL) return;
    read_pictures(model, file, "pixel_values", &p);
    CHECK_OK(ctx, peft_adapter_create(ctx, model, config, 0, &adapter));
    for (uint32_t i = 0; i < peft_adapter_tensor_count(adapter); i++) {
        peft_tensor_info info = {.struct_size = sizeof info};
        int64_t count = 0;
        CHECK_OK(ctx, peft_adapter_tensor(adapter, i, &info));
        if (strncmp(info.name, "classifier", 10) == 0) continue;
        (void)snprintf(name, sizeof name, "bottleneck.%s.init.%s", kind, info.name);
        float *values = floats_of(file, name, &count);
        CHECK_OK(ctx, peft_adapter_set_tensor(adapter, info.name, values, count));
        free(values);
    }
    CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, 1, NULL, &session));
    (void)snprintf(prefix, sizeof prefix, "bottleneck.%s.grad.", kind);
    (void)snprintf(name, sizeof name, "bottleneck.%s.logits", kind);
    check_logits(session, &p, PEFT_LOGITS_ALL, file, name);
    check_gradients(session, adapter, &p, file, prefix);
    free(p.features);
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
    peft_model_destroy(model);
    peft__tensors_unref(file);
}

/* Rows that frozen layers from `in` to `out` floats work on, over all such layers. */
static int64_t rows_of_products(const peft__graph *graph, int64_t in, int64_t out) {
    int64_t rows = 0;
    for (size_t i = 0; i < graph->node_count; i++) {
        const peft__node *node = graph->nodes[i];
        if (strcmp(node->op->name, "linear") != 0 || node->in[0]->cols != in) continue;
        for (uint32_t k = 0; k < node->out_count; k++)
            if (node->out[k]->cols == out) rows += node->out[k]->rows->count;
    }
    return rows;
}

/* With the purpose of hidden states nothing is left out: the last layer's class token must be what the short way reads. */
static void check_deep(void) {
    char path[PATH];
    peft__tensors *file = NULL;
    peft_model *model = load("vit", path, &file);
    peft_adapter *adapter = NULL;
    pictures p;
    if (model == NULL || file == NULL) return;
    read_pictures(model, file, "pixel_values", &p);
    CHECK_OK(ctx, peft_adapter_create(ctx, model, "{\"peft_type\":\"VPT\",\"num_virtual_tokens\":3,\"deep\":true,\"project_dim\":5}", 9, &adapter));
    const peft__hooked hooked = peft__adapter_hooked(adapter);
    peft__value *ends[2] = {NULL, NULL};
    peft__graph *graphs[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) {
        const peft__capacity capacity = {.rows = p.batch.rows, .sequences = p.batch.sequences, .labels = p.batch.rows};
        peft__build b = {.model = model, .adapters = &hooked, .adapter_count = 1, .purpose = i == 0 ? PEFT__BUILD_HIDDEN : PEFT__BUILD_LOGITS};
        CHECK_OK(ctx, peft__graph_create(ctx, &capacity, &graphs[i]));
        b.graph = graphs[i];
        CHECK_OK(ctx, peft__build_model(&b));
        if (i == 0) { /* norm and head on every row of the last layer */
            peft__value *x = peft__build_norm(&b, "vit.layernorm", PEFT__LAYER_NORM, b.hidden[2], 1e-12f, 0.0f);
            ends[0] = peft__build_linear(&b, "classifier", x, NULL);
            peft__value_output(graphs[0], ends[0]);
        } else {
            ends[1] = b.logits;
        }
        CHECK_OK(ctx, peft__graph_plan(graphs[i], false));
        CHECK_OK(ctx, peft__graph_allocate(graphs[i]));
        CHECK_OK(ctx, peft__graph_bind(graphs[i], &p.batch));
        peft__cursor cursor = {0, 0, 0};
        const peft__run_options options = {.deadline_us = UINT64_MAX};
        CHECK_OK(ctx, peft__graph_run(graphs[i], &cursor, peft__graph_plan_info(graphs[i])->forward_steps, &options));
    }
    const int64_t rows = ends[0]->rows->count / p.batch.sequences;
    CHECK(rows == 9 + 1 + 3 && ends[1]->rows->count == p.batch.sequences);
    /* What the short way computes: keys and values of every row; the rest without prompts, and in the last layer for the class token alone. */
    const int64_t images = p.batch.sequences, all = (9 + 1 + 3) * images, kept = (9 + 1) * images;
    CHECK(rows_of_products(graphs[1], 16, 16) == (kept + 2 * all + kept) + (images + 2 * all + images)); /* q, k, v, o of two layers */
    CHECK(rows_of_products(graphs[1], 16, 24) == kept + images);
    CHECK(rows_of_products(graphs[0], 16, 24) == 2 * all); /* all hidden states were asked for */
    for (int64_t s = 0; s < p.batch.sequences; s++)
        CHECK(error_of(ends[1]->data + s * ends[1]->ld, ends[0]->data + s * rows * ends[0]->ld, ends[0]->cols) <= 1e-5);
    peft__graph_destroy(graphs[0]);
    peft__graph_destroy(graphs[1]);

    /* Trained, saved, and loaded again, it gives the same loss. */
    peft_session *session = NULL;
    peft_optimizer *optimizer = NULL;
    double first = 0, loss = 0, again = -1;
    CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, 1, NULL, &session));
    CHECK_OK(ctx, peft_optimizer_create(ctx, adapter, NULL, &optimizer));
    peft_optimizer_set_lr(optimizer, 0.02f);
    for (int i = 0; i < 10; i++) {
        CHECK_OK(ctx, peft_session_forward(session, &p.batch, i == 0 ? &first : &loss));
        CHECK_OK(ctx, peft_session_backward(session, 1.0f));
        CHECK_OK(ctx, peft_optimizer_step(optimizer, session, NULL));
    }
    CHECK(loss < first);
    CHECK_OK(ctx, peft_session_eval(session, &p.batch, &loss, NULL));
    char folder[] = "/tmp/peft_vision_XXXXXX", file_name[PATH];
    CHECK(mkdtemp(folder) != NULL);
    CHECK_OK(ctx, peft_adapter_save(adapter, folder));
    peft_optimizer_destroy(optimizer);
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
    adapter = NULL;
    CHECK_OK(ctx, peft_adapter_load(ctx, model, folder, &adapter));
    CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, 1, NULL, &session));
    CHECK_OK(ctx, peft_session_eval(session, &p.batch, &again, NULL));
    CHECK(again == loss);
    static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors"};
    for (size_t i = 0; i < PEFT_COUNT(files); i++) {
        (void)snprintf(file_name, sizeof file_name, "%s/%s", folder, files[i]);
        CHECK(remove(file_name) == 0);
    }
    CHECK(rmdir(folder) == 0);
    free(p.features);
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
    peft_model_destroy(model);
    peft__tensors_unref(file);
}

/* ---- a small network as the head --------------------------------------------------------------------------- */

static double loss_of(peft_session *session, const pictures *p) {
    double loss = -1;
    CHECK_OK(ctx, peft_session_eval(session, &p->batch, &loss, NULL));
    return loss;
}

/* One layer is the linear probe; gradients of more agree with differences; nothing below is worked on backwards. */
static void check_mlp_head(void) {
    char path[PATH];
    peft__tensors *file = NULL;
    peft_model *model = load("vit", path, &file);
    pictures p;
    if (model == NULL || file == NULL) return;
    read_pictures(model, file, "pixel_values", &p);
    static const char *const configs[] = {"{\"peft_type\":\"FULL\",\"trainable\":\"head\"}", "{\"peft_type\":\"MLP_HEAD\",\"num_layers\":1}",
                                          "{\"peft_type\":\"MLP_HEAD\"}", "{\"peft_type\":\"MLP_HEAD\",\"hidden_size\":5}",
                                          "{\"peft_type\":\"FULL\",\"layers\":1}"};
    static const int64_t counts[] = {16 * 3 + 3, 16 * 3 + 3, 2 * (16 * 16 + 16) + 51, 16 * 5 + 5 + 5 * 16 + 16 + 51, 0};
    double probe = 0;
    for (size_t i = 0; i < PEFT_COUNT(configs); i++) {
        peft_adapter *adapter = NULL;
        peft_session *session = NULL;
        CHECK_OK(ctx, peft_adapter_create(ctx, model, configs[i], 5, &adapter));
        const int64_t count = peft_adapter_parameter_count(adapter);
        CHECK(counts[i] == 0 || count == counts[i]);
        CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, 1, NULL, &session));
        const double loss = loss_of(session, &p);
        if (i == 0) probe = loss;
        if (i == 1) CHECK(loss == probe);
        CHECK_OK(ctx, peft_session_forward(session, &p.batch, NULL));
        CHECK_OK(ctx, peft_session_backward(session, 1.0f));
        float *gradients = malloc((size_t)count * sizeof *gradients), *values = malloc((size_t)count * sizeof *values);
        CHECK_OK(ctx, peft_session_get_gradients(session, adapter, gradients, count));
        CHECK_OK(ctx, peft_adapter_get_parameters(adapter, values, count));
        for (int64_t k = 0; k < count; k += 7) {
            const float kept = values[k], step = 5e-4f;
            values[k] = kept + step;
            CHECK_OK(ctx, peft_adapter_set_parameters(adapter, values, count));
            const double above = loss_of(session, &p);
            values[k] = kept - step;
            CHECK_OK(ctx, peft_adapter_set_parameters(adapter, values, count));
            const double slope = (above - loss_of(session, &p)) / (2.0 * (double)step);
            values[k] = kept;
            if (!CHECK(fabs(slope - (double)gradients[k]) < 2e-3 + 2e-2 * fabs(slope)))
                fprintf(stderr, "    %s, number %d: %g, by differences %g\n", configs[i], (int)k, (double)gradients[k], slope);
        }
        free(gradients);
        free(values);
        peft_session_destroy(session);
        peft_adapter_destroy(adapter);
    }
    free(p.features);
    peft_adapter *adapter = NULL;
    CHECK_ERROR(peft_adapter_create(ctx, model, "{\"peft_type\":\"MLP_HEAD\",\"num_layers\":0}", 5, &adapter), PEFT_E_FORMAT, "num_layers");
    peft_model_destroy(model);
    peft__tensors_unref(file);
    model = load("deit-teacher", path, &file);
    CHECK_ERROR(peft_adapter_create(ctx, model, "{\"peft_type\":\"MLP_HEAD\"}", 5, &adapter), PEFT_E_UNSUPPORTED, "found 2 output layers");
    peft_model_destroy(model);
    peft__tensors_unref(file);
}

int main(void) {
    data = getenv("PEFT_TEST_DATA");
    if (data == NULL) return 77;
    if (peft_context_create(NULL, &ctx) < 0) return 1;
    check_classifier("vit", true);
    check_classifier("deit", true);
    check_classifier("deit-teacher", false);
    check_classifier("vit-mean", false);
    check_features();
    check_bottleneck("double_seq_bn", "{\"peft_type\":\"BOTTLENECK\",\"kind\":\"double_seq_bn\",\"bottleneck_size\":3}");
    check_bottleneck("seq_bn", "{\"peft_type\":\"BOTTLENECK\",\"reduction_factor\":5}");
    check_bottleneck("par_bn", "{\"peft_type\":\"BOTTLENECK\",\"kind\":\"par_bn\",\"bottleneck_size\":3}");
    check_deep();
    check_mlp_head();
    peft_context_destroy(ctx);
    return check_summary();
}
