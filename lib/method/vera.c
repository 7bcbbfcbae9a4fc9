/* vera.c: VeRA (Kopiczko et al. 2023): two random matrices shared by all layers, two trained vectors a layer.
 *
 * A linear layer gets y + lb o (B (ld o (A drop(x)))), A [r, most in], B [most out, r] frozen and cut to the layer's
 * size from their first column and row on, ld [r] and lb [out] trained; lb starts at zero. The matrices come from
 * PyTorch's generator (torch_random.c) seeded with projection_prng_key, also for new adapters, so that a folder without
 * them (save_projection false) means the same here and in HF PEFT.
 */
#include <math.h>

#include "method/layers.h"
#include "method/torch_random.h"

static const char *const WHERE = "adapter_config.json";
static const char *const NAME_A = "base_model.vera_A", *const NAME_B = "base_model.vera_B";

typedef struct vera_layer {
    const peft__module *module;
    uint32_t d, b; /* params */
} vera_layer;

static void change_row(const peft_adapter *adapter, const void *record, int64_t o, float *row);

typedef struct vera {
    peft__layered layered;
    vera_layer *layers; /* layered.layers */
    uint32_t a, b;      /* params */
    int64_t rank, in, out;
    float dropout, d_initial;
    bool save, init;
    uint64_t key;
} vera;

/* ---- configuration ------------------------------------------------------------------------------------------ */

static peft_status read_config(peft_adapter *adapter, vera *v) {
    peft_context *ctx = adapter->ctx;
    double dropout = 0.0, d_initial = 0.0;
    int64_t key = 0;
    PEFT_TRY(peft__json_get_int(ctx, adapter->config, WHERE, "r", 1, 65536, 256, &v->rank));
    PEFT_TRY(peft__json_get_double(ctx, adapter->config, WHERE, "vera_dropout", 0.0, 0.999, 0.0, &dropout));
    PEFT_TRY(peft__json_get_double(ctx, adapter->config, WHERE, "d_initial", -1e6, 1e6, 0.1, &d_initial));
    PEFT_TRY(peft__json_get_int(ctx, adapter->config, WHERE, "projection_prng_key", INT64_MIN, INT64_MAX, 0, &key));
    PEFT_TRY(peft__json_get_bool(ctx, adapter->config, WHERE, "save_projection", true, &v->save));
    PEFT_TRY(peft__json_get_bool(ctx, adapter->config, WHERE, "init_weights", true, &v->init));
    v->dropout = (float)dropout;
    v->d_initial = (float)d_initial;
    v->key = (uint64_t)key;
    return PEFT_OK;
}

static peft_status declare_shared(peft_adapter *adapter, vera *v) {
    const peft__declaration a = {.name = NAME_A,
                                 .key = v->save ? NAME_A : NULL,
                                 .flags = PEFT__PARAM_FROZEN,
                                 .ndim = 2,
                                 .shape = {v->rank, v->in},
                                 .init = PEFT__INIT_METHOD};
    const peft__declaration b = {.name = NAME_B,
                                 .key = v->save ? NAME_B : NULL,
                                 .flags = PEFT__PARAM_FROZEN,
                                 .ndim = 2,
                                 .shape = {v->out, v->rank},
                                 .init = PEFT__INIT_METHOD};
    PEFT_TRY(peft__adapter_declare(adapter, &a, &v->a));
    return peft__adapter_declare(adapter, &b, &v->b);
}

static peft_status declare_layer(peft_adapter *adapter, const vera *v, const peft__module *module, vera_layer *layer) {
    layer->module = module;
    const peft__declaration d = {.ndim = 1,
                                 .shape = {v->rank},
                                 .init = v->init ? PEFT__INIT_CONSTANT : PEFT__INIT_NORMAL,
                                 .init_value = v->init ? v->d_initial : 1.0f};
    const peft__declaration b = {
        .ndim = 1, .shape = {module->out}, .init = v->init ? PEFT__INIT_ZERO : PEFT__INIT_CONSTANT, .init_value = 1.0f};
    PEFT_TRY(peft__layers_declare(adapter, module, "vera_lambda_b", b, &layer->b));
    return peft__layers_declare(adapter, module, "vera_lambda_d", d, &layer->d);
}

static peft_status configure(peft_adapter *adapter) {
    vera *v = peft__arena_alloc(&adapter->arena, sizeof *v);
    if (v == NULL) return peft__fail_nomem(adapter->ctx, sizeof *v, "an adapter");
    adapter->state = v;
    PEFT_TRY(read_config(adapter, v));
    peft__targets targets = {NULL, 0};
    PEFT_TRY(peft__modules_to_save(adapter));
    PEFT_TRY(peft__targets_find(adapter, PEFT__KIND(PEFT_MODULE_LINEAR) | PEFT__KIND(PEFT_MODULE_CONV1D),
                                peft__lora_targets, &targets));
    PEFT_TRY(peft__layers_fix_fan(adapter, &targets));
    PEFT_TRY(peft__layers_make(adapter, &targets, &v->layered, sizeof *v->layers));
    for (uint32_t i = 0; i < targets.count; i++) {
        v->in = peft__max_i64(v->in, targets.modules[i]->in);
        v->out = peft__max_i64(v->out, targets.modules[i]->out);
    }
    PEFT_TRY(declare_shared(adapter, v));
    v->layers = v->layered.layers;
    v->layered.row = change_row;
    for (uint32_t i = 0; i < targets.count; i++) PEFT_TRY(declare_layer(adapter, v, targets.modules[i], &v->layers[i]));
    return peft__layers_biases(adapter, v->layered.by_module, "vera_only");
}

/* ---- values ------------------------------------------------------------------------------------------------- */

/* Kaiming uniform for a fan in: bound sqrt(3) * sqrt(2) / sqrt(fan in), as Python computes it. */
static void kaiming(peft__torch_random *random, peft__param *param, bool keep) {
    const double deviation = sqrt(2.0) / sqrt((double)param->shape[1]);
    const float bound = (float)(sqrt(3.0) * deviation);
    float skipped = 0.0f;
    if (!keep) {
        peft__torch_uniform(random, -bound, bound, param->data, param->elements);
        return;
    }
    for (int64_t i = 0; i < param->elements; i++) peft__torch_uniform(random, -bound, bound, &skipped, 1);
}

static peft_status initialise(peft_adapter *adapter, uint64_t seed) {
    (void)seed;
    const vera *v = adapter->state;
    if (adapter->slots[v->a].read && adapter->slots[v->b].read) return PEFT_OK;
    peft__torch_random random;
    peft__torch_seed(&random, v->key);
    kaiming(&random, &adapter->params[v->a], adapter->slots[v->a].read);
    kaiming(&random, &adapter->params[v->b], adapter->slots[v->b].read);
    return PEFT_OK;
}

/* With save_projection false HF PEFT does not look at projections in the file; neither do we, but say so. */
static peft_status import(peft_adapter *adapter, const peft__tensor *tensor, const char *key) {
    (void)tensor;
    const vera *v = adapter->state;
    if (v->save || (strcmp(key, NAME_A) != 0 && strcmp(key, NAME_B) != 0)) return PEFT_END;
    peft__log(adapter->ctx, PEFT_LOG_WARNING,
              "%s is in the file, but save_projection is false: it is made from projection_prng_key instead", key);
    return PEFT_OK;
}

/* ---- the graph --------------------------------------------------------------------------------------------------- */

/* The first rows and columns of a shared matrix, as a weight [rows, cols]. */
static peft__weight cut(const peft__param *param, int64_t rows, int64_t cols) {
    peft__weight weight = {peft__matrix_f32(param->data, rows, cols), NULL};
    weight.matrix.stride = (size_t)param->shape[1] * sizeof(float);
    return weight;
}

static peft__value *after_linear(void *self, peft__build *b, const peft__module *module, peft__value *x,
                                 peft__value *y) {
    peft_adapter *adapter = self;
    const vera *v = adapter->state;
    const vera_layer *layer = peft__layers_of(adapter, module);
    if (layer == NULL || adapter->scale == 0.0f) return y;
    peft__graph *g = b->graph;
    const peft__vector absent = {NULL, NULL};
    const uint64_t stream = peft__hash64(module->name, strlen(module->name), 1);
    peft__value *xd = peft__op_dropout(g, x, b->purpose == PEFT__BUILD_LOSS ? v->dropout : 0.0f, stream);
    peft__value *u = peft__op_linear(g, xd, cut(&adapter->params[v->a], v->rank, module->in), absent, NULL);
    u = peft__op_mul_vector(g, u, peft__value_param_vector(g, &adapter->params[layer->d]));
    u = peft__op_linear(g, u, cut(&adapter->params[v->b], module->out, v->rank), absent, NULL);
    u = peft__op_mul_vector(g, u, peft__value_param_vector(g, &adapter->params[layer->b]));
    if (adapter->scale != 1.0f) u = peft__op_scale(g, u, adapter->scale);
    return peft__op_add(g, y, u);
}

/* ---- merging ------------------------------------------------------------------------------------------------ */

static void change_row(const peft_adapter *adapter, const void *record, int64_t o, float *row) {
    const vera_layer *layer = record;
    const vera *v = adapter->state;
    const peft__param *params = adapter->params;
    const float *a = params[v->a].data, *b = params[v->b].data + o * v->rank, *d = params[layer->d].data;
    memset(row, 0, (size_t)layer->module->in * sizeof *row);
    for (int64_t j = 0; j < v->rank; j++) {
        const float f = params[layer->b].data[o] * b[j] * d[j];
        for (int64_t i = 0; i < layer->module->in; i++) row[i] += f * a[j * v->in + i];
    }
}

static const peft__hooks HOOKS = {.trained = peft__adapter_trained,
                                  .touches = peft__layers_touches,
                                  .after_linear = after_linear,
                                  .linear_is_additive = peft__layers_additive};

static const peft__config_key KEYS[] = {
    {"bias", "\"none\"", PEFT__KEY_USED},
    {"d_initial", "0.1", PEFT__KEY_USED},
    {"fan_in_fan_out", "false", PEFT__KEY_USED},
    {"init_weights", "true", PEFT__KEY_USED},
    {"layers_pattern", "null", PEFT__KEY_USED},
    {"layers_to_transform", "null", PEFT__KEY_USED},
    {"modules_to_save", "null", PEFT__KEY_USED},
    {"projection_prng_key", "0", PEFT__KEY_USED},
    {"r", "256", PEFT__KEY_USED},
    {"save_projection", "true", PEFT__KEY_USED},
    {"target_modules", "null", PEFT__KEY_USED},
    {"vera_dropout", "0.0", PEFT__KEY_USED},
    {NULL, NULL, PEFT__KEY_USED},
};

const peft__method peft__method_vera = {
    .peft_type = "VERA",
    .flags = PEFT__METHOD_SCALABLE,
    .keys = KEYS,
    .hooks = &HOOKS,
    .configure = configure,
    .initialise = initialise,
    .import = import,
    .changes = peft__layers_changes,
    .merge = peft__layers_merge,
};
