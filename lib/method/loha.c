/* loha.c: LoHa (FedPara, Hyeon-Woo et al. 2021; LyCORIS): a change of high rank from few numbers.
 *
 * A linear layer gets y + s x ((A1 B1) o (A2 B2))^T, A [out, r], B [r, in], s = alpha / r: an elementwise product of
 * two matrices of rank r has rank up to r^2. The product has to be formed; it is one node of the graph (hadamard.c)
 * whose value lives only while its layer uses it. B2 starts at zero.
 */
#include "method/layers.h"

static const char *const WHERE = "adapter_config.json";

enum { A1, B1, A2, B2, PARTS };
static const char *const LEAVES[PARTS] = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"};

typedef struct loha_layer {
    const peft__module *module;
    uint32_t params[PARTS];
    int64_t rank;
    float scale;
    peft__weight_drop drop;
} loha_layer;

typedef struct loha {
    loha_layer *layers;
    uint32_t *by_module;
} loha;

static const loha_layer *layer_of(const peft_adapter *adapter, const peft__module *module) {
    const loha *l = adapter->state;
    const uint32_t index = l->by_module[module->index];
    return index > 0 ? &l->layers[index - 1] : NULL;
}

static peft_status declare(peft_adapter *adapter, const peft__module *module, loha_layer *layer) {
    double alpha = 0.0, rows = 0.0, whole = 0.0;
    bool init = true;
    layer->module = module;
    PEFT_TRY(peft__layers_numbers(adapter, module, "alpha", &layer->rank, &alpha));
    PEFT_TRY(peft__json_get_double(adapter->ctx, adapter->config, WHERE, "rank_dropout", 0.0, 0.999, 0.0, &rows));
    PEFT_TRY(peft__json_get_double(adapter->ctx, adapter->config, WHERE, "module_dropout", 0.0, 0.999, 0.0, &whole));
    PEFT_TRY(peft__json_get_bool(adapter->ctx, adapter->config, WHERE, "init_weights", true, &init));
    layer->scale = (float)(alpha / (double)layer->rank);
    layer->drop =
        (peft__weight_drop){(float)rows, (float)whole, true, peft__hash64(module->name, strlen(module->name), 2)};
    for (uint32_t i = 0; i < PARTS; i++) {
        const bool tall = i == A1 || i == A2;
        peft__declaration d = {.ndim = 2, .shape = {tall ? module->out : layer->rank, tall ? layer->rank : module->in}};
        if (i != B2 || !init) peft__layers_kaiming(&d);
        PEFT_TRY(peft__layers_declare(adapter, module, LEAVES[i], d, &layer->params[i]));
    }
    return PEFT_OK;
}

static peft_status configure(peft_adapter *adapter) {
    loha *l = peft__arena_alloc(&adapter->arena, sizeof *l);
    if (l == NULL) return peft__fail_nomem(adapter->ctx, sizeof *l, "an adapter");
    adapter->state = l;
    peft__targets targets = {NULL, 0};
    PEFT_TRY(peft__modules_to_save(adapter));
    PEFT_TRY(peft__targets_find(adapter, PEFT__KIND(PEFT_MODULE_LINEAR) | PEFT__KIND(PEFT_MODULE_CONV1D),
                                peft__lora_targets, &targets));
    PEFT_TRY(peft__layers_index(adapter, &targets, &l->by_module));
    l->layers = peft__arena_alloc(&adapter->arena, targets.count * sizeof *l->layers);
    if (l->layers == NULL) return peft__fail_nomem(adapter->ctx, targets.count * sizeof *l->layers, "an adapter");
    for (uint32_t i = 0; i < targets.count; i++) PEFT_TRY(declare(adapter, targets.modules[i], &l->layers[i]));
    return PEFT_OK;
}

/* ---- the graph --------------------------------------------------------------------------------------------------- */

static bool touches(void *self, const peft__module *module) {
    const peft_adapter *adapter = self;
    return adapter->scale != 0.0f && layer_of(adapter, module) != NULL;
}

static bool is_additive(void *self, const peft__module *module) {
    (void)self;
    (void)module;
    return true;
}

static peft__value *after_linear(void *self, peft__build *b, const peft__module *module, peft__value *x,
                                 peft__value *y) {
    peft_adapter *adapter = self;
    const loha_layer *layer = layer_of(adapter, module);
    if (layer == NULL || adapter->scale == 0.0f) return y;
    peft__graph *g = b->graph;
    peft__value *in[PARTS];
    for (uint32_t i = 0; i < PARTS; i++) in[i] = peft__value_param(g, &adapter->params[layer->params[i]]);
    const peft__vector absent = {NULL, NULL};
    const peft__weight change = {
        peft__matrix_f32(NULL, module->out, module->in),
        peft__op_hadamard(g, in[A1], in[B1], in[A2], in[B2], adapter->scale * layer->scale, &layer->drop)};
    return change.value != NULL ? peft__op_linear(g, x, change, absent, y) : NULL;
}

/* ---- merging ------------------------------------------------------------------------------------------------ */

typedef struct merge_user {
    const peft_adapter *adapter;
    const loha_layer *layer;
} merge_user;

static void change_row(const void *user, int64_t o, float *row) {
    const merge_user *m = user;
    const int64_t in = m->layer->module->in, r = m->layer->rank;
    const float *data[PARTS];
    for (uint32_t i = 0; i < PARTS; i++) data[i] = m->adapter->params[m->layer->params[i]].data;
    for (int64_t i = 0; i < in; i++) {
        float first = 0.0f, second = 0.0f;
        for (int64_t j = 0; j < r; j++) {
            first += data[A1][o * r + j] * data[B1][j * in + i];
            second += data[A2][o * r + j] * data[B2][j * in + i];
        }
        row[i] = m->layer->scale * first * second;
    }
}

static uint32_t changes(const peft_adapter *adapter, const peft__module *module) {
    return layer_of(adapter, module) != NULL ? PEFT__CHANGES_WEIGHT : 0u;
}

static peft_status merge(const peft_adapter *adapter, const peft__module *module, float *weight, float *bias) {
    (void)bias;
    const merge_user user = {adapter, layer_of(adapter, module)};
    if (weight == NULL) return PEFT_OK;
    return peft__layers_merge(adapter->ctx, module, change_row, &user, adapter->scale, weight);
}

static const peft__hooks HOOKS = {.trained = peft__adapter_trained,
                                  .touches = touches,
                                  .after_linear = after_linear,
                                  .linear_is_additive = is_additive};

static const peft__config_key KEYS[] = {
    {"alpha", "8", PEFT__KEY_USED},
    {"alpha_pattern", "{}", PEFT__KEY_USED},
    {"exclude_modules", "null", PEFT__KEY_USED},
    {"init_weights", "true", PEFT__KEY_USED},
    {"layers_pattern", "null", PEFT__KEY_USED},
    {"layers_to_transform", "null", PEFT__KEY_USED},
    {"module_dropout", "0.0", PEFT__KEY_USED},
    {"modules_to_save", "null", PEFT__KEY_USED},
    {"r", "8", PEFT__KEY_USED},
    {"rank_dropout", "0.0", PEFT__KEY_USED},
    {"rank_pattern", "{}", PEFT__KEY_USED},
    {"target_modules", "null", PEFT__KEY_USED},
    {"use_effective_conv2d", "false", PEFT__KEY_INERT}, /* convolutions only */
    {NULL, NULL, PEFT__KEY_USED},
};

const peft__method peft__method_loha = {
    .peft_type = "LOHA",
    .flags = PEFT__METHOD_SCALABLE,
    .keys = KEYS,
    .hooks = &HOOKS,
    .configure = configure,
    .changes = changes,
    .merge = merge,
};
