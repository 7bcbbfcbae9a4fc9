/* oft.c: OFT (Qiu et al. 2023; Liu et al. 2023 for the Cayley-Neumann form): the layer's input is turned, not added to.
 *
 * x is cut into blocks of b columns, and each block, as a row, is multiplied by an orthogonal R made from a trained
 * skew symmetric Q (rotation.c); then the layer runs, its bias untouched. Angles between the layer's inputs, and so
 * what it knows, are kept. Q starts at zero, R at I. The default series turns the other way than the exact form, as in
 * HF PEFT: use_cayley_neumann belongs to the file. Merging turns the rows of W [out, in]: W R^T.
 *
 * With `coft`, Q is drawn back to a ball of radius eps / sqrt(blocks) before use, and before and after each step: what
 * was set from outside may lie beyond it.
 */
#include <math.h>

#include "method/layers.h"

static const char *const WHERE = "adapter_config.json";

typedef struct oft_layer {
    const peft__module *module;
    uint32_t param;
    int64_t block, blocks, matrices;
} oft_layer;

typedef struct oft {
    peft__layered layered;
    oft_layer *layers; /* layered.layers */
    uint32_t count;
    int64_t r, block, powers;
    bool share, coft, exact, init;
    double eps;
    float dropout;
} oft;

/* ---- configuration ------------------------------------------------------------------------------------------ */

static peft_status read_config(peft_adapter *adapter, oft *o) {
    peft_context *ctx = adapter->ctx;
    const json_t *config = adapter->config;
    double dropout = 0.0;
    int64_t terms = 0;
    bool series = true;
    PEFT_TRY(peft__json_get_int(ctx, config, WHERE, "r", 0, INT32_MAX, 0, &o->r));
    PEFT_TRY(peft__json_get_int(ctx, config, WHERE, "oft_block_size", 0, INT32_MAX, 32, &o->block));
    PEFT_TRY(peft__json_get_int(ctx, config, WHERE, "num_cayley_neumann_terms", 0, 64, 5, &terms));
    PEFT_TRY(peft__json_get_bool(ctx, config, WHERE, "use_cayley_neumann", true, &series));
    PEFT_TRY(peft__json_get_bool(ctx, config, WHERE, "block_share", false, &o->share));
    PEFT_TRY(peft__json_get_bool(ctx, config, WHERE, "coft", false, &o->coft));
    PEFT_TRY(peft__json_get_bool(ctx, config, WHERE, "init_weights", true, &o->init));
    PEFT_TRY(peft__json_get_double(ctx, config, WHERE, "eps", 0.0, 1e6, 6e-5, &o->eps));
    PEFT_TRY(peft__json_get_double(ctx, config, WHERE, "module_dropout", 0.0, 1.0, 0.0, &dropout));
    if ((o->r == 0) == (o->block == 0))
        return peft__fail(
            ctx, PEFT_E_ARG,
            "%s: r is %lld and oft_block_size %lld: one of them must be 0, the other follows from the layer", WHERE,
            (long long)o->r, (long long)o->block);
    o->exact = !series;
    o->dropout = (float)dropout;
    /* One term is I, two are I + 2 Q; from three on the last power is at least the third. */
    o->powers = terms <= 1 ? 0 : terms == 2 ? 1 : peft__max_i64(3, terms - 1);
    return PEFT_OK;
}

/* The divisor of `in` nearest to the wanted number; the smaller one when two are as near. */
static int64_t nearest_divisor(int64_t in, int64_t wanted) {
    if (wanted >= in) return in;
    int64_t above = wanted, below = wanted;
    while (in % above != 0) above++;
    while (in % below != 0) below--;
    return wanted - below <= above - wanted ? below : above;
}

static peft_status declare(peft_adapter *adapter, const oft *o, const peft__module *module, oft_layer *layer) {
    const int64_t wanted = o->r != 0 ? o->r : o->block, found = nearest_divisor(module->in, wanted);
    if (found != wanted)
        peft__log(adapter->ctx, PEFT_LOG_WARNING, "%s: %s %lld does not divide the %lld inputs of %s: %lld is used",
                  WHERE, o->r != 0 ? "r" : "oft_block_size", (long long)wanted, (long long)module->in, module->name,
                  (long long)found);
    layer->module = module;
    layer->blocks = o->r != 0 ? found : module->in / found;
    layer->block = module->in / layer->blocks;
    layer->matrices = o->share ? 1 : layer->blocks;
    if (layer->block < 2)
        return peft__fail(adapter->ctx, PEFT_E_ARG, "%s: blocks of %s would have one column, which cannot be turned",
                          WHERE, module->name);
    const peft__declaration d = {.ndim = 2,
                                 .shape = {layer->matrices, layer->block * (layer->block - 1) / 2},
                                 .init = o->init ? PEFT__INIT_ZERO : PEFT__INIT_NORMAL,
                                 .init_value = 0.1f};
    return peft__layers_declare(adapter, module, "oft_R.weight", d, &layer->param);
}

static peft_status configure(peft_adapter *adapter) {
    oft *o = peft__arena_alloc(&adapter->arena, sizeof *o);
    if (o == NULL) return peft__fail_nomem(adapter->ctx, sizeof *o, "an adapter");
    adapter->state = o;
    PEFT_TRY(read_config(adapter, o));
    peft__targets targets = {NULL, 0};
    PEFT_TRY(peft__modules_to_save(adapter));
    PEFT_TRY(peft__targets_find(adapter, PEFT__KIND(PEFT_MODULE_LINEAR) | PEFT__KIND(PEFT_MODULE_CONV1D),
                                peft__lora_targets, &targets));
    PEFT_TRY(peft__layers_fix_fan(adapter, &targets));
    PEFT_TRY(peft__layers_make(adapter, &targets, &o->layered, sizeof *o->layers));
    o->layers = o->layered.layers;
    for (uint32_t i = 0; i < targets.count; i++) {
        PEFT_TRY(declare(adapter, o, targets.modules[i], &o->layers[i]));
        o->count++;
    }
    return peft__layers_biases(adapter, o->layered.by_module, "oft_only");
}

/* ---- coft --------------------------------------------------------------------------------------------------- */

static float radius_of(const oft *o, const oft_layer *layer) {
    return o->coft ? (float)(o->eps / sqrt((double)layer->matrices)) : 0.0f;
}

static void draw_back(peft_adapter *adapter) {
    const oft *o = adapter->state;
    for (uint32_t i = 0; o->coft && i < o->count; i++) {
        const peft__param *param = &adapter->params[o->layers[i].param];
        const int64_t cols = param->shape[1];
        for (int64_t m = 0; m < param->shape[0]; m++) {
            float *upper = param->data + m * cols;
            double squares = 0.0;
            for (int64_t k = 0; k < cols; k++) squares += 2.0 * (double)upper[k] * (double)upper[k];
            const double length = sqrt(squares), radius = (double)radius_of(o, &o->layers[i]);
            for (int64_t k = 0; length > radius && k < cols; k++)
                upper[k] = (float)((double)upper[k] * radius / length);
        }
    }
}

static peft_status after_step(peft_adapter *adapter, const peft__step *step) {
    (void)step;
    draw_back(adapter);
    return PEFT_OK;
}

/* ---- the graph --------------------------------------------------------------------------------------------------- */

static peft__value *before_linear(void *self, peft__build *b, const peft__module *module, peft__value *x) {
    peft_adapter *adapter = self;
    const oft *o = adapter->state;
    const oft_layer *layer = peft__layers_of(adapter, module);
    if (layer == NULL || adapter->scale == 0.0f) return x;
    peft__graph *g = b->graph;
    peft__value *upper = peft__value_param(g, &adapter->params[layer->param]);
    peft__value *r = peft__op_cayley(g, upper, layer->block, o->exact, o->powers, radius_of(o, layer));
    const uint64_t stream = peft__hash64(module->name, strlen(module->name), 2);
    return r != NULL ? peft__op_rotate(g, x, r, b->purpose == PEFT__BUILD_LOSS ? o->dropout : 0.0f, stream) : NULL;
}

/* ---- merging ------------------------------------------------------------------------------------------------ */

/* The matrices R of a layer, computed by the graph's own operation: what is merged is what ran. */
static peft_status matrices_of(const peft_adapter *adapter, const oft_layer *layer, float *out) {
    const oft *o = adapter->state;
    peft__graph *g = NULL;
    const peft__capacity capacity = {.rows = 1, .sequences = 1};
    PEFT_TRY(peft__graph_create(adapter->ctx, &capacity, &g));
    peft__value *upper = peft__value_param(g, &adapter->params[layer->param]);
    peft__value *r = peft__op_cayley(g, upper, layer->block, o->exact, o->powers, radius_of(o, layer));
    if (r != NULL) peft__value_output(g, r);
    peft_status status = peft__graph_plan(g, false);
    if (status >= 0) status = peft__graph_allocate(g);
    const peft_batch nothing = {.struct_size = sizeof nothing};
    if (status >= 0) status = peft__graph_bind(g, &nothing);
    peft__cursor cursor = {0, 0, 0};
    const peft__run_options options = {.deadline_us = UINT64_MAX};
    if (status >= 0) status = peft__graph_run(g, &cursor, peft__graph_plan_info(g)->forward_steps, &options);
    for (int64_t i = 0; status >= 0 && i < layer->matrices * layer->block; i++)
        memcpy(out + i * layer->block, r->data + i * r->ld, (size_t)layer->block * sizeof *out);
    peft__graph_destroy(g);
    return status;
}

/* One row of W (one column of a Conv1D's) times R^T, block by block. `step`: floats from one input to the next. */
static void turn(const oft_layer *layer, const float *matrices, float *row, int64_t step, float *buffer) {
    const int64_t b = layer->block;
    for (int64_t i = 0; i < layer->blocks; i++) {
        const float *r = matrices + (layer->matrices == 1 ? 0 : i) * b * b;
        float *at = row + i * b * step;
        for (int64_t k = 0; k < b; k++) buffer[k] = at[k * step];
        for (int64_t k = 0; k < b; k++) {
            double sum = 0.0;
            for (int64_t c = 0; c < b; c++) sum += (double)r[k * b + c] * (double)buffer[c];
            at[k * step] = (float)sum;
        }
    }
}

static peft_status merge(const peft_adapter *adapter, const peft__module *module, float *weight, float *bias) {
    (void)bias;
    const oft_layer *layer = peft__layers_of(adapter, module);
    if (weight == NULL) return PEFT_OK;
    const size_t bytes = (size_t)(layer->block * (layer->matrices * layer->block + 1)) * sizeof(float);
    float *matrices = peft__alloc(adapter->ctx->mem, bytes);
    if (matrices == NULL) return peft__fail_nomem(adapter->ctx, bytes, "a merged matrix");
    const peft_status status = matrices_of(adapter, layer, matrices);
    const bool conv = peft__layers_conv(module);
    for (int64_t o = 0; status >= 0 && o < module->out; o++)
        turn(layer, matrices, weight + (conv ? o : o * module->in), conv ? module->out : 1,
             matrices + layer->matrices * layer->block * layer->block);
    peft__free(adapter->ctx->mem, matrices);
    return status;
}

static const peft__hooks HOOKS = {.trained = peft__adapter_trained,
                                  .touches = peft__layers_touches,
                                  .before_linear = before_linear,
                                  .linear_is_additive = peft__layers_additive};

static const peft__config_key KEYS[] = {
    {"bias", "\"none\"", PEFT__KEY_USED},
    {"block_share", "false", PEFT__KEY_USED},
    {"coft", "false", PEFT__KEY_USED},
    {"eps", "6e-05", PEFT__KEY_USED},
    {"exclude_modules", "null", PEFT__KEY_USED},
    {"fan_in_fan_out", "false", PEFT__KEY_USED},
    {"init_weights", "true", PEFT__KEY_USED},
    {"layers_pattern", "null", PEFT__KEY_USED},
    {"layers_to_transform", "null", PEFT__KEY_USED},
    {"module_dropout", "0.0", PEFT__KEY_USED},
    {"modules_to_save", "null", PEFT__KEY_USED},
    {"num_cayley_neumann_terms", "5", PEFT__KEY_USED},
    {"oft_block_size", "32", PEFT__KEY_USED},
    {"r", "0", PEFT__KEY_USED},
    {"target_modules", "null", PEFT__KEY_USED},
    {"use_cayley_neumann", "true", PEFT__KEY_USED},
    {NULL, NULL, PEFT__KEY_USED},
};

const peft__method peft__method_oft = {
    .peft_type = "OFT",
    .keys = KEYS,
    .hooks = &HOOKS,
    .configure = configure,
    .changes = peft__layers_changes,
    .merge = merge,
    .before_step = draw_back,
    .after_step = after_step,
};
