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

static void change_row(const peft_adapter *adapter, const void *record, int64_t o, float *row);

typedef struct loha {
    peft__layered layered;
    loha_layer *layers; /* layered.layers */
} loha;

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
    PEFT_TRY(peft__layers_make(adapter, &targets, &l->layered, sizeof *l->layers));
    l->layers = l->layered.layers;
    l->layered.row = change_row;
    for (uint32_t i = 0; i < targets.count; i++) PEFT_TRY(declare(adapter, targets.modules[i], &l->layers[i]));
    return PEFT_OK;
}

/* ---- the graph --------------------------------------------------------------------------------------------------- */

static peft__value *after_linear(void *self, peft__build *b, const peft__module *module, peft__value *x,
                                 peft__value *y) {
    peft_adapter *adapter = self;
    const loha_layer *layer = peft__layers_of(adapter, module);
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

static void change_row(const peft_adapter *adapter, const void *record, int64_t o, float *row) {
    const loha_layer *layer = record;
    const int64_t in = layer->module->in, r = layer->rank;
    const float *data[PARTS];
    for (uint32_t i = 0; i < PARTS; i++) data[i] = adapter->params[layer->params[i]].data;
    for (int64_t i = 0; i < in; i++) {
        float first = 0.0f, second = 0.0f;
        for (int64_t j = 0; j < r; j++) {
            first += data[A1][o * r + j] * data[B1][j * in + i];
            second += data[A2][o * r + j] * data[B2][j * in + i];
        }
        row[i] = layer->scale * first * second;
    }
}

static const peft__hooks HOOKS = {.trained = peft__adapter_trained,
                                  .touches = peft__layers_touches,
                                  .after_linear = after_linear,
                                  .linear_is_additive = peft__layers_additive};

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
    .changes = peft__layers_changes,
    .merge = peft__layers_merge,
};
