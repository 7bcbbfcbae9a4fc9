/* lokr.c: LoKr (LyCORIS, Yeh et al. 2023): a change that is a Kronecker product.
 *
 * A linear layer gets y + s x kron(w1, w2)^T, s = alpha / r. out = a b and in = c d are split into near-square factors
 * (or as decompose_factor asks); w1 [a, c] is held whole unless decompose_both, w2 [b, d] whole only when r is at least
 * half of max(b, d), else as w2_a [b, r] w2_b [r, d]. The scale holds even where nothing of rank r is left, as in HF
 * PEFT. w1 (or w1_a) starts at zero; "lycoris" has w2 (or w2_b) at zero instead. The product lives only while its layer
 * uses it (kronecker.c).
 */
#include "method/layers.h"

static const char *const WHERE = "adapter_config.json";

#define NO_PARAM UINT32_MAX

/* One of the two factors: whole, or the product of two. */
typedef struct factor {
    int64_t rows, cols;
    uint32_t whole, left, right; /* params */
} factor;

typedef struct lokr_layer {
    const peft__module *module;
    factor w1, w2;
    int64_t rank;
    float scale;
    peft__weight_drop drop;
} lokr_layer;

static void change_row(const peft_adapter *adapter, const void *record, int64_t o, float *row);

typedef struct lokr {
    peft__layered layered;
    lokr_layer *layers; /* layered.layers */
    bool decompose_both;
    int64_t decompose_factor;
    enum { INIT_TRUE, INIT_LYCORIS, INIT_FALSE } init;
    peft__weight_drop drop;
} lokr;

/* ---- configuration ------------------------------------------------------------------------------------------ */

static peft_status read_config(peft_adapter *adapter, lokr *l) {
    peft_context *ctx = adapter->ctx;
    double rows = 0.0, whole = 0.0;
    PEFT_TRY(peft__json_get_double(ctx, adapter->config, WHERE, "rank_dropout", 0.0, 0.999, 0.0, &rows));
    PEFT_TRY(peft__json_get_double(ctx, adapter->config, WHERE, "module_dropout", 0.0, 0.999, 0.0, &whole));
    PEFT_TRY(peft__json_get_bool(ctx, adapter->config, WHERE, "rank_dropout_scale", false, &l->drop.rescale));
    PEFT_TRY(peft__json_get_bool(ctx, adapter->config, WHERE, "decompose_both", false, &l->decompose_both));
    PEFT_TRY(
        peft__json_get_int(ctx, adapter->config, WHERE, "decompose_factor", -1, INT32_MAX, -1, &l->decompose_factor));
    l->drop.rows = (float)rows;
    l->drop.whole = (float)whole;
    const json_t *init = json_object_get(adapter->config, "init_weights");
    const char *name = json_string_value(init);
    if (name != NULL && strcmp(name, "lycoris") == 0)
        l->init = INIT_LYCORIS;
    else if (json_is_boolean(init))
        l->init = json_is_true(init) ? INIT_TRUE : INIT_FALSE;
    else
        return peft__fail(ctx, PEFT_E_ARG, "%s: init_weights: expected true, false or \"lycoris\", found %s", WHERE,
                          peft__json_kind(init));
    return PEFT_OK;
}

/* dimension = *small * *large with *small <= *large, except that a wanted divisor is taken as it is, in that order.
 * Otherwise the pair whose sum is smallest, its first number at most `wanted` (-1: any). */
static void factorize(int64_t dimension, int64_t wanted, int64_t *first, int64_t *second) {
    if (wanted > 0 && dimension % wanted == 0) {
        *first = wanted;
        *second = dimension / wanted;
        return;
    }
    int64_t m = 1;
    for (int64_t k = 2; k * k <= dimension && (wanted == -1 || k <= wanted); k++)
        if (dimension % k == 0) m = k;
    *first = m;
    *second = dimension / m;
}

static peft_status declare_factor(peft_adapter *adapter, const lokr_layer *layer, bool first, bool whole, bool zero,
                                  factor *f) {
    const peft__module *module = layer->module;
    f->whole = f->left = f->right = NO_PARAM;
    peft__declaration d = {.ndim = 2, .shape = {f->rows, f->cols}};
    if (whole) {
        if (!zero) peft__layers_kaiming(&d);
        return peft__layers_declare(adapter, module, first ? "lokr_w1" : "lokr_w2", d, &f->whole);
    }
    peft__declaration left = {.ndim = 2, .shape = {f->rows, layer->rank}},
                      right = {.ndim = 2, .shape = {layer->rank, f->cols}};
    /* Of w1 the left half starts at zero, of w2 ("lycoris") the right one. */
    if (!(zero && first)) peft__layers_kaiming(&left);
    if (!(zero && !first)) peft__layers_kaiming(&right);
    PEFT_TRY(peft__layers_declare(adapter, module, first ? "lokr_w1_a" : "lokr_w2_a", left, &f->left));
    return peft__layers_declare(adapter, module, first ? "lokr_w1_b" : "lokr_w2_b", right, &f->right);
}

static peft_status declare(peft_adapter *adapter, const lokr *l, const peft__module *module, lokr_layer *layer) {
    double alpha = 0.0;
    layer->module = module;
    PEFT_TRY(peft__layers_numbers(adapter, module, "alpha", &layer->rank, &alpha));
    layer->scale = (float)(alpha / (double)layer->rank);
    layer->drop = l->drop;
    layer->drop.stream = peft__hash64(module->name, strlen(module->name), 2);
    factorize(module->out, l->decompose_factor, &layer->w1.rows, &layer->w2.rows);
    factorize(module->in, l->decompose_factor, &layer->w1.cols, &layer->w2.cols);
    const bool whole1 = !l->decompose_both || 2 * layer->rank >= peft__max_i64(layer->w1.rows, layer->w1.cols);
    const bool whole2 = 2 * layer->rank >= peft__max_i64(layer->w2.rows, layer->w2.cols);
    PEFT_TRY(declare_factor(adapter, layer, true, whole1, l->init == INIT_TRUE, &layer->w1));
    return declare_factor(adapter, layer, false, whole2, l->init == INIT_LYCORIS, &layer->w2);
}

static peft_status configure(peft_adapter *adapter) {
    lokr *l = peft__arena_alloc(&adapter->arena, sizeof *l);
    if (l == NULL) return peft__fail_nomem(adapter->ctx, sizeof *l, "an adapter");
    adapter->state = l;
    PEFT_TRY(read_config(adapter, l));
    peft__targets targets = {NULL, 0};
    PEFT_TRY(peft__modules_to_save(adapter));
    PEFT_TRY(peft__targets_find(adapter, PEFT__KIND(PEFT_MODULE_LINEAR) | PEFT__KIND(PEFT_MODULE_CONV1D),
                                peft__lora_targets, &targets));
    PEFT_TRY(peft__layers_make(adapter, &targets, &l->layered, sizeof *l->layers));
    l->layers = l->layered.layers;
    l->layered.row = change_row;
    for (uint32_t i = 0; i < targets.count; i++) PEFT_TRY(declare(adapter, l, targets.modules[i], &l->layers[i]));
    return PEFT_OK;
}

/* ---- the graph --------------------------------------------------------------------------------------------------- */

static peft__value *factor_value(peft__graph *g, peft_adapter *adapter, const lokr_layer *layer, const factor *f) {
    if (f->whole != NO_PARAM) return peft__value_param(g, &adapter->params[f->whole]);
    peft__value *left = peft__value_param(g, &adapter->params[f->left]);
    peft__weight right = {peft__matrix_f32(NULL, f->cols, layer->rank),
                          peft__value_param(g, &adapter->params[f->right])};
    right.matrix.transposed = true;
    const peft__vector absent = {NULL, NULL};
    return left != NULL && right.value != NULL ? peft__op_linear(g, left, right, absent, NULL) : NULL;
}

static peft__value *after_linear(void *self, peft__build *b, const peft__module *module, peft__value *x,
                                 peft__value *y) {
    peft_adapter *adapter = self;
    const lokr_layer *layer = peft__layers_of(adapter, module);
    if (layer == NULL || adapter->scale == 0.0f) return y;
    peft__graph *g = b->graph;
    peft__value *w1 = factor_value(g, adapter, layer, &layer->w1), *w2 = factor_value(g, adapter, layer, &layer->w2);
    const peft__weight change = {peft__matrix_f32(NULL, module->out, module->in),
                                 peft__op_kronecker(g, w1, w2, adapter->scale * layer->scale, &layer->drop)};
    const peft__vector absent = {NULL, NULL};
    return change.value != NULL ? peft__op_linear(g, x, change, absent, y) : NULL;
}

/* ---- merging ------------------------------------------------------------------------------------------------ */

static float element(const peft_adapter *adapter, const lokr_layer *layer, const factor *f, int64_t row, int64_t col) {
    const peft__param *params = adapter->params;
    if (f->whole != NO_PARAM) return params[f->whole].data[row * f->cols + col];
    float sum = 0.0f;
    for (int64_t j = 0; j < layer->rank; j++)
        sum += params[f->left].data[row * layer->rank + j] * params[f->right].data[j * f->cols + col];
    return sum;
}

static void change_row(const peft_adapter *adapter, const void *record, int64_t o, float *row) {
    const lokr_layer *layer = record;
    const factor *w1 = &layer->w1, *w2 = &layer->w2;
    const int64_t i = o / w2->rows, k = o % w2->rows;
    for (int64_t l = 0; l < w2->cols; l++) row[l] = layer->scale * element(adapter, layer, w2, k, l);
    /* The block of column 0 last: the others are made from it. */
    for (int64_t j = w1->cols - 1; j >= 0; j--) {
        const float f = element(adapter, layer, w1, i, j);
        for (int64_t l = 0; l < w2->cols; l++) row[j * w2->cols + l] = f * row[l];
    }
}

static const peft__hooks HOOKS = {.trained = peft__adapter_trained,
                                  .touches = peft__layers_touches,
                                  .after_linear = after_linear,
                                  .linear_is_additive = peft__layers_additive};

static const peft__config_key KEYS[] = {
    {"alpha", "8", PEFT__KEY_USED},
    {"alpha_pattern", "{}", PEFT__KEY_USED},
    {"decompose_both", "false", PEFT__KEY_USED},
    {"decompose_factor", "-1", PEFT__KEY_USED},
    {"exclude_modules", "null", PEFT__KEY_USED},
    {"init_weights", "true", PEFT__KEY_USED},
    {"layers_pattern", "null", PEFT__KEY_USED},
    {"layers_to_transform", "null", PEFT__KEY_USED},
    {"module_dropout", "0.0", PEFT__KEY_USED},
    {"modules_to_save", "null", PEFT__KEY_USED},
    {"r", "8", PEFT__KEY_USED},
    {"rank_dropout", "0.0", PEFT__KEY_USED},
    {"rank_dropout_scale", "false", PEFT__KEY_USED},
    {"rank_pattern", "{}", PEFT__KEY_USED},
    {"target_modules", "null", PEFT__KEY_USED},
    {"use_effective_conv2d", "false", PEFT__KEY_INERT}, /* convolutions only */
    {NULL, NULL, PEFT__KEY_USED},
};

const peft__method peft__method_lokr = {
    .peft_type = "LOKR",
    .flags = PEFT__METHOD_SCALABLE,
    .keys = KEYS,
    .hooks = &HOOKS,
    .configure = configure,
    .changes = peft__layers_changes,
    .merge = peft__layers_merge,
};
