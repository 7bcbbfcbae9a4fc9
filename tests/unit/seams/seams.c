/* seams.c: a method is one file, an architecture is one file.
 *
 * This program adds a toy method for each hook point and a toy architecture that is neither causal nor fed by tokens, through
 * the same tables that lib/ uses (the context's extra rows) and without touching a file of lib/. For each it checks the gradient
 * along random directions against differences of the loss, and trains a little. If a change here ever needs an edit under lib/ to
 * work, the seam is in the wrong place.
 */
#include <unistd.h>

#include "check.h"
#include "format/safetensors.h"
#include "method/adapter.h"
#include "model/build.h"
#include "peft/peft.h"

/* ---- toy methods: all declare one tensor per place and do one thing at one hook ------------------------------- */

enum { LENGTH = 3, BOTTLENECK = 4 };

typedef struct toy_state {
    uint32_t first;  /* params [first, ...) in the order of declaration */
    peft__targets targets;
} toy_state;

static const peft__config_key no_keys[] = {{NULL, NULL, PEFT__KEY_USED}};
static const peft__config_key target_keys[] = {
    {"target_modules", "null", PEFT__KEY_USED}, {"exclude_modules", "null", PEFT__KEY_USED}, {"layers_to_transform", "null", PEFT__KEY_USED},
    {"layers_pattern", "null", PEFT__KEY_USED}, {"modules_to_save", "null", PEFT__KEY_USED}, {NULL, NULL, PEFT__KEY_USED}};

static peft_status declare(peft_adapter *adapter, const char *name, int64_t rows, int64_t cols, peft__init init, float value) {
    const peft__declaration d = {.name = name, .key = name, .ndim = 2, .shape = {rows, cols}, .init = init, .init_value = value};
    return peft__adapter_declare(adapter, &d, NULL);
}

static peft__value *param(peft_adapter *adapter, peft__build *b, uint32_t index) { return peft__value_param(b->graph, &adapter->params[index]); }

/* rows added to the input */
static peft_status prompt_configure(peft_adapter *a) { return declare(a, "toy.prompt", LENGTH, peft__model_dims(a->model)->hidden_size, PEFT__INIT_NORMAL, 0.5f); }
static peft__value *prompt_input(void *self, peft__build *b, peft__stack stack, int64_t skip, peft__value *x) {
    (void)stack;
    if (x == NULL) return NULL;
    return peft__op_select_rows(b->graph, peft__rows_insert(b->graph, x->rows, skip, LENGTH), x, param(self, b, 0));
}
static const peft__hooks prompt_hooks = {.input = prompt_input};

/* keys and values before a layer's own */
static peft_status prefix_configure(peft_adapter *a) {
    const peft__dims *dims = peft__model_dims(a->model);
    for (int64_t l = 0; l < dims->num_hidden_layers; l++) {
        PEFT_TRY(declare(a, peft__adapter_text(a, "toy.k.%lld", (long long)l), LENGTH, dims->num_key_value_heads * dims->head_dim, PEFT__INIT_NORMAL, 0.5f));
        PEFT_TRY(declare(a, peft__adapter_text(a, "toy.v.%lld", (long long)l), LENGTH, dims->num_key_value_heads * dims->head_dim, PEFT__INIT_NORMAL, 0.5f));
    }
    return PEFT_OK;
}
static void prefix_prefix(void *self, peft__build *b, peft__stack stack, int32_t layer, int64_t kv_heads, int64_t head_dim, peft__prefix *prefix) {
    (void)stack, (void)kv_heads, (void)head_dim;
    prefix->k = param(self, b, (uint32_t)(2 * layer));
    prefix->v = param(self, b, (uint32_t)(2 * layer + 1));
}
static int64_t prefix_length(void *self, peft__stack stack) {
    (void)self, (void)stack;
    return LENGTH;
}
static const peft__hooks prefix_hooks = {.prefix = prefix_prefix, .prefix_length = prefix_length};

/* an activation scaled */
static peft_status scale_configure(peft_adapter *a) {
    toy_state *state = peft__arena_alloc(&a->arena, sizeof *state);
    if (state == NULL) return PEFT_E_NOMEM;
    a->state = state;
    PEFT_TRY(peft__targets_find(a, PEFT__KIND(PEFT_MODULE_LINEAR), NULL, &state->targets));
    for (uint32_t i = 0; i < state->targets.count; i++)
        PEFT_TRY(declare(a, peft__adapter_text(a, "toy.scale.%s", state->targets.modules[i]->name), 1, state->targets.modules[i]->out, PEFT__INIT_CONSTANT, 1.0f));
    return PEFT_OK;
}
static peft__value *scale_after(void *self, peft__build *b, const peft__module *module, peft__value *x, peft__value *y) {
    (void)x;
    peft_adapter *a = self;
    const toy_state *state = a->state;
    for (uint32_t i = 0; i < state->targets.count; i++)
        if (state->targets.modules[i] == module) return peft__op_mul_vector(b->graph, y, param(a, b, i));
    return y;
}
static const peft__hooks scale_hooks = {.after_linear = scale_after};

/* rows replaced at each layer's input */
static peft_status deep_configure(peft_adapter *a) {
    const peft__dims *dims = peft__model_dims(a->model);
    for (int64_t l = 0; l < dims->num_hidden_layers; l++)
        PEFT_TRY(declare(a, peft__adapter_text(a, "toy.deep.%lld", (long long)l), 2, dims->hidden_size, PEFT__INIT_NORMAL, 0.5f));
    return PEFT_OK;
}
static peft__value *deep_layer_input(void *self, peft__build *b, peft__stack stack, int32_t layer, int64_t skip, peft__value *x) {
    (void)stack;
    if (x == NULL) return NULL;
    return peft__op_select_rows(b->graph, peft__rows_replace(b->graph, x->rows, skip, 2), x, param(self, b, (uint32_t)layer));
}
static const peft__hooks deep_hooks = {.layer_input = deep_layer_input};

/* a module after a sub-layer */
static peft_status after_configure(peft_adapter *a) {
    const peft__dims *dims = peft__model_dims(a->model);
    for (int64_t l = 0; l < dims->num_hidden_layers; l++) {
        PEFT_TRY(declare(a, peft__adapter_text(a, "toy.down.%lld", (long long)l), BOTTLENECK, dims->hidden_size, PEFT__INIT_NORMAL, 0.2f));
        PEFT_TRY(declare(a, peft__adapter_text(a, "toy.up.%lld", (long long)l), dims->hidden_size, BOTTLENECK, PEFT__INIT_NORMAL, 0.2f));
    }
    return PEFT_OK;
}
static peft__value *after_sublayer(void *self, peft__build *b, const peft__sublayer_end *end, peft__value *x, peft__value *residual) {
    (void)residual;
    peft_adapter *a = self;
    const int32_t layer = end->layer;
    if (end->which != PEFT__SUBLAYER_FFN || x == NULL) return x;
    const peft__vector none = {NULL, NULL};
    peft__value *down = param(a, b, (uint32_t)(2 * layer)), *up = param(a, b, (uint32_t)(2 * layer + 1));
    if (down == NULL || up == NULL) return NULL;
    peft__weight w_down = {.matrix = peft__matrix_f32(NULL, BOTTLENECK, x->cols), .value = down};
    peft__weight w_up = {.matrix = peft__matrix_f32(NULL, x->cols, BOTTLENECK), .value = up};
    peft__value *h = peft__op_activation(b->graph, PEFT__ACT_GELU, peft__op_linear(b->graph, x, w_down, none, NULL));
    return peft__op_add(b->graph, x, peft__op_linear(b->graph, h, w_up, none, NULL));
}
static const peft__hooks after_hooks = {.sublayer_output = after_sublayer};

/* a read-out at one position: five classes at each sequence's last row, against the batch's sequence labels */
static peft_status readout_configure(peft_adapter *a) { return declare(a, "toy.classes", 5, peft__model_dims(a->model)->hidden_size, PEFT__INIT_NORMAL, 0.1f); }
static peft__value *readout(void *self, peft__build *b, peft__value *hidden) {
    const peft__vector none = {NULL, NULL};
    if (hidden == NULL) return NULL;
    peft__value *last = peft__op_select_rows(b->graph, peft__rows_pick(b->graph, hidden->rows, -1), hidden, NULL);
    if (last == NULL) return NULL;
    const peft__weight w = {.matrix = peft__matrix_f32(NULL, 5, hidden->cols), .value = param(self, b, 0)};
    b->logits = peft__op_linear(b->graph, last, w, none, NULL);
    const peft__cross_entropy_config config = {.by_sequence = true};
    b->loss = peft__op_cross_entropy(b->graph, b->logits, &config);
    return NULL;
}
static int64_t readout_classes(void *self) {
    (void)self;
    return 5;
}
static const peft__hooks readout_hooks = {.readout = readout, .classes = readout_classes};

static const peft__method prompt_method = {.peft_type = "TOY_PROMPT", .flags = PEFT__METHOD_NATIVE, .keys = no_keys, .hooks = &prompt_hooks, .configure = prompt_configure};
static const peft__method prefix_method = {.peft_type = "TOY_PREFIX", .flags = PEFT__METHOD_NATIVE, .keys = no_keys, .hooks = &prefix_hooks, .configure = prefix_configure};
static const peft__method scale_method = {.peft_type = "TOY_SCALE", .flags = PEFT__METHOD_NATIVE, .keys = target_keys, .hooks = &scale_hooks, .configure = scale_configure};
static const peft__method deep_method = {.peft_type = "TOY_DEEP", .flags = PEFT__METHOD_NATIVE, .keys = no_keys, .hooks = &deep_hooks, .configure = deep_configure};
static const peft__method after_method = {.peft_type = "TOY_AFTER", .flags = PEFT__METHOD_NATIVE, .keys = no_keys, .hooks = &after_hooks, .configure = after_configure};
static const peft__method readout_method = {.peft_type = "TOY_READOUT", .flags = PEFT__METHOD_NATIVE, .keys = no_keys, .hooks = &readout_hooks, .configure = readout_configure};
static const peft__method *const toy_methods[] = {&prompt_method, &prefix_method, &scale_method, &deep_method, &after_method, &readout_method};

/* ---- a toy architecture: float rows in, one bidirectional attention layer, class out ---------------------------- */

static peft_status toy_configure(peft_context *ctx, peft_model *model) {
    const json_t *config = peft__model_config_json(model);
    const int64_t d = json_integer_value(json_object_get(config, "hidden_size")), f = json_integer_value(json_object_get(config, "frame_size"));
    peft__dims *dims = peft__model_edit_dims(model);
    dims->hidden_size = d;
    dims->intermediate_size = f;
    dims->num_hidden_layers = 1;
    dims->num_attention_heads = dims->num_key_value_heads = 2;
    dims->head_dim = d / 2;
    dims->max_position_embeddings = 64;
    const peft__module_spec enter = {.kind = PEFT_MODULE_LINEAR, .layer = -1, .in = f, .out = d}, inner = {.kind = PEFT_MODULE_LINEAR, .layer = 0, .in = d, .out = d};
    PEFT_TRY(peft__model_declare(ctx, model, &enter, "body.enter"));
    PEFT_TRY(peft__model_declare(ctx, model, &inner, "body.q"));
    PEFT_TRY(peft__model_declare(ctx, model, &inner, "body.k"));
    PEFT_TRY(peft__model_declare(ctx, model, &inner, "body.v"));
    PEFT_TRY(peft__model_declare(ctx, model, &inner, "body.o"));
    const peft__module_spec norm = {.kind = PEFT_MODULE_NORM, .layer = -1, .in = d, .out = d, .flags = PEFT__MODULE_BIAS};
    PEFT_TRY(peft__model_declare(ctx, model, &norm, "body.norm"));
    const peft__module_spec head = {.kind = PEFT_MODULE_LINEAR, .layer = -1, .in = d, .out = dims->num_labels, .flags = PEFT__MODULE_HEAD | PEFT__MODULE_BIAS};
    return peft__model_declare(ctx, model, &head, "head");
}

static peft__value *toy_build(peft__build *b) {
    const peft__dims *dims = peft__model_dims(b->model);
    peft__rows *rows = peft__rows_stream(b->graph, false);
    peft__value *x = peft__op_features(b->graph, rows, dims->intermediate_size);
    x = peft__build_linear(b, "body.enter", x, NULL);
    x = peft__build_input(b, PEFT__STACK_MAIN, 0, x);
    x = peft__build_layer_input(b, PEFT__STACK_MAIN, 0, 0, x);
    static const char *const qkv[] = {"body.q", "body.k", "body.v"};
    peft__value *out[3];
    peft__build_linear_group(b, qkv, 3, x, out);
    const peft__attention_config config = {.heads = 2, .kv_heads = 2, .head_dim = dims->head_dim, .scale = 1.0f / sqrtf((float)dims->head_dim)};
    peft__value *mixed = peft__build_attention(b, PEFT__STACK_MAIN, 0, out[0], out[1], out[2], NULL, &config);
    x = peft__build_sublayer_end(b, PEFT__STACK_MAIN, 0, PEFT__SUBLAYER_FFN, "body.o", mixed, x);
    return peft__build_norm(b, "body.norm", PEFT__LAYER_NORM, x, 1e-5f, 0.0f);
}

static void toy_head(peft__build *b, peft__value *hidden) {
    if (hidden == NULL) return;
    peft__value *mean = peft__op_mean_rows(b->graph, peft__rows_pick(b->graph, hidden->rows, 0), hidden);
    b->logits = peft__build_linear(b, "head", mean, NULL);
    if (b->purpose == PEFT__BUILD_LOSS) {
        const peft__cross_entropy_config config = {.by_sequence = true};
        b->loss = peft__op_cross_entropy(b->graph, b->logits, &config);
    } else {
        peft__value_output(b->graph, b->logits);
    }
}

static const peft__arch toy_arch = {.model_type = "toy_frames", .default_task = PEFT_TASK_SEQ_CLS, .configure = toy_configure, .build = toy_build, .build_head = toy_head};
static const peft__arch *const toy_archs[] = {&toy_arch};

/* ---- checking and training --------------------------------------------------------------------------------------- */

static double eval(peft_context *ctx, peft_session *session, const peft_batch *batch) {
    double loss = NAN;
    CHECK_OK(ctx, peft_session_eval(session, batch, &loss, NULL));
    return loss;
}

static void check_gradient(peft_context *ctx, peft_session *session, peft_adapter *adapter, const peft_batch *batch) {
    const int64_t count = peft_adapter_parameter_count(adapter);
    float *start = malloc((size_t)count * sizeof *start), *moved = malloc((size_t)count * sizeof *moved), *grad = malloc((size_t)count * sizeof *grad);
    double loss = 0;
    CHECK_OK(ctx, peft_adapter_get_parameters(adapter, start, count));
    CHECK_OK(ctx, peft_session_zero_grad(session));
    CHECK_OK(ctx, peft_session_forward(session, batch, &loss));
    CHECK_OK(ctx, peft_session_backward(session, 1.0f));
    CHECK_OK(ctx, peft_session_get_gradients(session, adapter, grad, count));
    CHECK_OK(ctx, peft_session_zero_grad(session));
    double square = 0;
    for (int64_t i = 0; i < count; i++) square += (double)grad[i] * (double)grad[i];
    CHECK(square > 0 && isfinite(square));
    peft__rng rng = peft__rng_make(5, 5);
    for (int direction = 0; direction < 4; direction++) {
        /* The gradient's own direction, then random ones tilted towards it, so that the difference stands out from rounding. */
        double slope = 0, length = 0;
        for (int64_t i = 0; i < count; i++) {
            moved[i] = (float)((double)grad[i] / sqrt(square)) + (direction == 0 ? 0.0f : 0.7f * peft__rng_normal(&rng) / sqrtf((float)count));
            slope += (double)moved[i] * (double)grad[i];
            length += (double)moved[i] * (double)moved[i];
        }
        const double step = 2e-2 / sqrt(length);
        float *at = malloc((size_t)count * sizeof *at);
        double side[2];
        for (int s = 0; s < 2; s++) {
            for (int64_t i = 0; i < count; i++) at[i] = start[i] + (float)((s == 0 ? step : -step) * (double)moved[i]);
            CHECK_OK(ctx, peft_adapter_set_parameters(adapter, at, count));
            side[s] = eval(ctx, session, batch);
        }
        free(at);
        CHECK_NEAR((side[0] - side[1]) / (2 * step), slope, 0.02 * fabs(slope) + 2e-4);
    }
    CHECK_OK(ctx, peft_adapter_set_parameters(adapter, start, count));
    free(start), free(moved), free(grad);
}

static void check_method(peft_context *ctx, peft_model *model, const char *config, const peft_batch *batch) {
    peft_adapter *adapter = NULL;
    peft_session *session = NULL;
    peft_optimizer *optimizer = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, model, config, 3, &adapter));
    if (adapter == NULL) return;
    CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, 1, NULL, &session));
    if (session != NULL) {
        check_gradient(ctx, session, adapter, batch);
        peft_optimizer_options options;
        peft_optimizer_options_init(&options);
        options.lr = 0.02f;
        CHECK_OK(ctx, peft_optimizer_create(ctx, adapter, &options, &optimizer));
        const double before = eval(ctx, session, batch);
        for (int step = 0; step < 20; step++) {
            CHECK_OK(ctx, peft_session_forward(session, batch, NULL));
            CHECK_OK(ctx, peft_session_backward(session, 1.0f));
            CHECK_OK(ctx, peft_optimizer_step(optimizer, session, NULL));
        }
        const double after = eval(ctx, session, batch);
        fprintf(stderr, "%s: loss %.4f -> %.4f\n", config, before, after);
        CHECK(after < before - 0.01);
    }
    peft_optimizer_destroy(optimizer);
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
}

static void write_toy_model(peft_context *ctx, const char *folder) {
    enum { D = 8, F = 6, LABELS = 3 };
    char path[600];
    static const char config[] = "{\"model_type\": \"toy_frames\", \"architectures\": [\"ToyForSequenceClassification\"], \"hidden_size\": 8, \"frame_size\": 6, "
                                 "\"num_labels\": 3}";
    snprintf(path, sizeof path, "%s/config.json", folder);
    CHECK_OK(ctx, peft__write_file(ctx, path, config, sizeof config - 1));
    static const struct { const char *name; int64_t rows, cols; } tensors[] = {
        {"body.enter.weight", D, F}, {"body.q.weight", D, D}, {"body.k.weight", D, D}, {"body.v.weight", D, D}, {"body.o.weight", D, D},
        {"body.norm.weight", D, 0}, {"body.norm.bias", D, 0}, {"head.weight", LABELS, D}, {"head.bias", LABELS, 0}};
    peft__tensor_out out[PEFT_COUNT(tensors)];
    memset(out, 0, sizeof out);
    static float values[PEFT_COUNT(tensors)][D * D];
    peft__rng rng = peft__rng_make(1, 1);
    for (size_t t = 0; t < PEFT_COUNT(tensors); t++) {
        const int64_t n = tensors[t].rows * (tensors[t].cols ? tensors[t].cols : 1);
        for (int64_t i = 0; i < n; i++) values[t][i] = strcmp(tensors[t].name, "body.norm.weight") == 0 ? 1.0f : 0.4f * peft__rng_normal(&rng);
        out[t].name = tensors[t].name;
        out[t].dtype = PEFT_DTYPE_F32;
        out[t].ndim = tensors[t].cols ? 2 : 1;
        out[t].shape[0] = tensors[t].rows;
        out[t].shape[1] = tensors[t].cols;
        out[t].data = values[t];
    }
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    CHECK_OK(ctx, peft__safetensors_write(ctx, path, out, PEFT_COUNT(tensors), NULL, 0));
}

int main(void) {
    const char *data = getenv("PEFT_TEST_DATA");
    if (data == NULL) return 77;
    peft_context *ctx;
    CHECK_OK(NULL, peft_context_create(NULL, &ctx));
    ctx->extra_methods = toy_methods;
    ctx->extra_method_count = PEFT_COUNT(toy_methods);
    ctx->extra_archs = toy_archs;
    ctx->extra_arch_count = PEFT_COUNT(toy_archs);

    /* Token model: two sequences, unequal lengths. */
    char path[600];
    snprintf(path, sizeof path, "%s/models/llama-gqa", data);
    peft_model *llama = NULL;
    CHECK_OK(ctx, peft_model_load(ctx, path, NULL, &llama));
    static const int32_t offsets[] = {0, 7, 11}, ids[] = {5, 9, 40, 7, 33, 21, 100, 12, 200, 31, 8}, classes[] = {4, 1};
    peft_batch batch;
    peft_batch_init(&batch);
    batch.rows = 11;
    batch.sequences = 2;
    batch.offsets = offsets;
    batch.input_ids = batch.labels = ids;
    if (llama != NULL) {
        check_method(ctx, llama, "{\"peft_type\": \"TOY_PROMPT\"}", &batch);
        check_method(ctx, llama, "{\"peft_type\": \"TOY_PREFIX\"}", &batch);
        check_method(ctx, llama, "{\"peft_type\": \"TOY_SCALE\", \"target_modules\": [\"v_proj\", \"down_proj\"]}", &batch);
        check_method(ctx, llama, "{\"peft_type\": \"TOY_DEEP\"}", &batch);
        check_method(ctx, llama, "{\"peft_type\": \"TOY_AFTER\"}", &batch);
        batch.sequence_labels = classes;
        check_method(ctx, llama, "{\"peft_type\": \"TOY_READOUT\"}", &batch);
    }

    /* Frames in, classes out. */
    char folder[] = "/tmp/peft-seams-XXXXXX";
    CHECK(mkdtemp(folder) != NULL);
    write_toy_model(ctx, folder);
    peft_model *toy = NULL;
    CHECK_OK(ctx, peft_model_load(ctx, folder, NULL, &toy));
    float frames[11 * 6];
    peft__rng rng = peft__rng_make(9, 9);
    for (int i = 0; i < 11 * 6; i++) frames[i] = peft__rng_normal(&rng);
    static const int32_t toy_classes[] = {2, 0};
    peft_batch frame_batch;
    peft_batch_init(&frame_batch);
    frame_batch.rows = 11;
    frame_batch.sequences = 2;
    frame_batch.offsets = offsets;
    frame_batch.features = frames;
    frame_batch.feature_cols = 6;
    frame_batch.sequence_labels = toy_classes;
    if (toy != NULL) {
        check_method(ctx, toy, "{\"peft_type\": \"LORA\", \"r\": 2, \"init_lora_weights\": false, \"target_modules\": [\"q\", \"v\"], \"task_type\": null}", &frame_batch);
        check_method(ctx, toy, "{\"peft_type\": \"FULL\"}", &frame_batch);
        check_method(ctx, toy, "{\"peft_type\": \"TOY_PROMPT\"}", &frame_batch);
        check_method(ctx, toy, "{\"peft_type\": \"TOY_PREFIX\"}", &frame_batch);
        check_method(ctx, toy, "{\"peft_type\": \"TOY_DEEP\"}", &frame_batch);
        check_method(ctx, toy, "{\"peft_type\": \"TOY_AFTER\"}", &frame_batch);
    }
    snprintf(path, sizeof path, "%s/config.json", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    unlink(path);
    rmdir(folder);
    peft_model_destroy(toy);
    peft_model_destroy(llama);
    peft_context_destroy(ctx);
    return check_summary();
}
