/* lora.c: LoRA (Hu et al. 2021), with rsLoRA's scale, DoRA, LoRA on embeddings, LoRA+ and LoRA-FA.
 *
 * A linear layer gets y + s B (A drop(x)), A [r, in], B [out, r], s = lora_alpha / r (rsLoRA: / sqrt(r)). B starts at
 * zero, so an untrained adapter changes nothing. B A is never formed while training; merging forms it row by row. DoRA
 * (Liu et al. 2024) also trains the length m of each row: out = b + (m / n) (y - b), n the row lengths of W + s B A,
 * taken as a constant in the backward pass. On an embedding, A [r, vocabulary] has a column for each token: out = E[id]
 * + s B A[:, id]; there A starts at zero.
 *
 * PiSSA (Meng et al. 2024) starts A and B at the principal part of s W and takes that part off the base: y + s (B A -
 * B0 A0) x, with the start A0, B0 kept beside the base, which stays as it is.
 *
 * The user's factor (adapter->scale) multiplies s; for DoRA it blends between the layer without and with the adapter,
 * because a factor on s alone would leave the row lengths changed.
 */
#include <math.h>

#include "method/lora.h"

static const char *const WHERE = "adapter_config.json";

enum { ALL_ROWS = -1 };

const peft__lora_layer *peft__lora_layer_of(const peft_adapter *adapter, const peft__module *module) {
    const peft__lora *l = adapter->state;
    const uint32_t index = l->by_module[module->index];
    return index > 0 ? &l->layers[index - 1] : NULL;
}

/* ---- configuration ------------------------------------------------------------------------------------------- */

/* "pissa" or "pissa_niter_<rounds>"; false when it is neither. */
static bool is_pissa(const char *text, int64_t *out_rounds) {
    static const char front[] = "pissa_niter_";
    *out_rounds = -1;
    if (strcmp(text, "pissa") == 0) return true;
    if (strncmp(text, front, sizeof front - 1) != 0) return false;
    const char *digits = text + sizeof front - 1;
    const size_t length = strlen(digits);
    if (length == 0 || length > 3) return false;
    *out_rounds = 0;
    for (size_t i = 0; i < length; i++) {
        if (digits[i] < '0' || digits[i] > '9') return false;
        *out_rounds = *out_rounds * 10 + (digits[i] - '0');
    }
    return true;
}

static peft_status read_init(peft_adapter *adapter, peft__lora *l) {
    peft_context *ctx = adapter->ctx;
    const json_t *init = json_object_get(adapter->config, "init_lora_weights");
    const char *text = json_is_string(init) ? json_string_value(init) : NULL;
    l->init = json_is_false(init) ? PEFT__LORA_FALSE : PEFT__LORA_TRUE;
    if (json_is_boolean(init)) return PEFT_OK;
    if (text == NULL)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: init_lora_weights: expected true, false or a name, found %s", WHERE,
                          peft__json_kind(init));
    if (strcmp(text, "gaussian") == 0)
        l->init = PEFT__LORA_GAUSSIAN;
    else if (strcmp(text, "orthogonal") == 0)
        l->init = PEFT__LORA_ORTHOGONAL;
    else if (is_pissa(text, &l->pissa_rounds))
        l->init = PEFT__LORA_PISSA;
    else if (!adapter->loading || strcmp(text, "eva") != 0) /* a loaded adapter brings EVA's values */
        return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                          "%s: init_lora_weights \"%.60s\" is not built (true, false, \"gaussian\", \"orthogonal\", "
                          "\"pissa\" and \"pissa_niter_<rounds>\" are)",
                          WHERE, text);
    if (l->init == PEFT__LORA_PISSA && l->pissa_rounds >= 0 && adapter->loading)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                          "%s: an adapter with init_lora_weights \"%.60s\" is right only on a base changed by random "
                          "numbers that nobody kept; in HF PEFT save it with path_initial_model_for_weight_conversion",
                          WHERE, text);
    return PEFT_OK;
}

static peft_status read_config(peft_adapter *adapter, peft__lora *l) {
    peft_context *ctx = adapter->ctx;
    const json_t *config = adapter->config;
    double dropout = 0.0, ratio = 1.0;
    PEFT_TRY(peft__json_get_double(ctx, config, WHERE, "lora_dropout", 0.0, 0.999, 0.0, &dropout));
    PEFT_TRY(peft__json_get_bool(ctx, config, WHERE, "use_rslora", false, &l->rslora));
    PEFT_TRY(peft__json_get_bool(ctx, config, WHERE, "use_dora", false, &l->dora));
    PEFT_TRY(peft__json_get_bool(ctx, config, WHERE, "lora_bias", false, &l->lora_bias));
    PEFT_TRY(peft__json_get_double(ctx, config, WHERE, "loraplus_lr_ratio", 1e-6, 1e6, 1.0, &ratio));
    PEFT_TRY(peft__json_get_bool(ctx, config, WHERE, "use_lora_fa", false, &l->freeze_a));
    PEFT_TRY(read_init(adapter, l));
    l->dropout = (float)dropout;
    l->plus_ratio = ratio;
    if (l->lora_bias && l->dora)
        return peft__fail(ctx, PEFT_E_ARG, "%s: lora_bias and use_dora cannot be used together", WHERE);
    const char *bias = json_string_value(json_object_get(config, "bias"));
    if (l->lora_bias && bias != NULL && strcmp(bias, "none") != 0)
        return peft__fail(ctx, PEFT_E_ARG, "%s: lora_bias needs bias \"none\", found another", WHERE);
    if (l->dora && l->init == PEFT__LORA_PISSA)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: use_dora with init_lora_weights \"pissa\" is not built", WHERE);
    return PEFT_OK;
}

static peft_status layer_numbers(peft_adapter *adapter, const peft__lora *l, peft__lora_layer *layer) {
    double alpha = 0.0;
    PEFT_TRY(peft__layers_numbers(adapter, layer->module, "lora_alpha", &layer->rank, &alpha));
    if (layer->rank > peft__min_i64(layer->module->in, layer->module->out))
        peft__log(adapter->ctx, PEFT_LOG_WARNING, "%s: rank %lld is more than the matrix of %s has", WHERE,
                  (long long)layer->rank, layer->module->name);
    layer->scale = (float)(alpha / (l->rslora ? sqrt((double)layer->rank) : (double)layer->rank));
    return PEFT_OK;
}

static peft_status declare_one(peft_adapter *adapter, const peft__lora_layer *layer, const char *leaf,
                               const char *key_leaf, peft__declaration d, uint32_t *out) {
    d.name = peft__adapter_text(adapter, "%s.%s", layer->path, leaf);
    d.key = peft__adapter_text(adapter, "%s.%s", layer->path, key_leaf);
    if (d.name == NULL || d.key == NULL) return PEFT_E_NOMEM;
    return peft__adapter_declare(adapter, &d, out);
}

static float inverse_root(int64_t n) {
    return (float)(1.0 / sqrt((double)n));
}

/* PiSSA's start, frozen, and not in the file. */
static peft_status declare_start(peft_adapter *adapter, peft__lora_layer *layer, peft__declaration a,
                                 peft__declaration b) {
    if (layer->rank > peft__min_i64(layer->module->in, layer->module->out))
        return peft__fail(adapter->ctx, PEFT_E_ARG, "%s: PiSSA of rank %lld is more than the matrix of %s has", WHERE,
                          (long long)layer->rank, layer->module->name);
    a.name = peft__adapter_text(adapter, "%s.lora_A.start", layer->path);
    b.name = peft__adapter_text(adapter, "%s.lora_B.start", layer->path);
    if (a.name == NULL || b.name == NULL) return PEFT_E_NOMEM;
    a.flags = b.flags = PEFT__PARAM_FROZEN;
    PEFT_TRY(peft__adapter_declare(adapter, &a, &layer->a0));
    return peft__adapter_declare(adapter, &b, &layer->b0);
}

/* Kaiming uniform with a = sqrt(5) is uniform in +-1/sqrt(fan_in). */
static peft_status declare_linear(peft_adapter *adapter, const peft__lora *l, peft__lora_layer *layer) {
    const int64_t in = layer->module->in, out = layer->module->out, r = layer->rank;
    peft__declaration a = {.ndim = 2, .shape = {r, in}, .init = PEFT__INIT_UNIFORM, .init_value = inverse_root(in)};
    if (l->init == PEFT__LORA_GAUSSIAN) {
        a.init = PEFT__INIT_NORMAL;
        a.init_value = 1.0f / (float)r;
    }
    if (l->init == PEFT__LORA_ORTHOGONAL || l->init == PEFT__LORA_PISSA) a.init = PEFT__INIT_METHOD;
    if (l->freeze_a) a.flags |= PEFT__PARAM_FROZEN;
    peft__declaration b = {.ndim = 2, .shape = {out, r}, .lr_scale = (float)l->plus_ratio};
    if (l->init == PEFT__LORA_FALSE) {
        b.init = PEFT__INIT_UNIFORM;
        b.init_value = inverse_root(r);
    }
    if (a.init == PEFT__INIT_METHOD) b.init = PEFT__INIT_METHOD;
    PEFT_TRY(declare_one(adapter, layer, "lora_A.weight", "lora_A.weight", a, &layer->a));
    PEFT_TRY(declare_one(adapter, layer, "lora_B.weight", "lora_B.weight", b, &layer->b));
    if (l->init == PEFT__LORA_PISSA) PEFT_TRY(declare_start(adapter, layer, a, b));
    if (l->lora_bias) {
        const peft__declaration bias = {.ndim = 1,
                                        .shape = {out},
                                        .flags = PEFT__PARAM_NO_DECAY,
                                        .lr_scale = (float)l->plus_ratio,
                                        .init = l->init == PEFT__LORA_FALSE ? PEFT__INIT_UNIFORM : PEFT__INIT_ZERO,
                                        .init_value = inverse_root(r)};
        PEFT_TRY(declare_one(adapter, layer, "lora_B.bias", "lora_B.bias", bias, &layer->bias));
    }
    if (l->dora) {
        const peft__declaration m = {.ndim = 1, .shape = {out}, .init = PEFT__INIT_METHOD};
        PEFT_TRY(
            declare_one(adapter, layer, "lora_magnitude_vector.weight", "lora_magnitude_vector", m, &layer->magnitude));
    }
    return PEFT_OK;
}

static peft_status declare_embedding(peft_adapter *adapter, const peft__lora *l, peft__lora_layer *layer) {
    const int64_t tokens = layer->module->in, width = layer->module->out, r = layer->rank;
    if (l->dora)
        return peft__fail(adapter->ctx, PEFT_E_UNSUPPORTED, "%s: use_dora on the embedding %s is not built", WHERE,
                          layer->module->name);
    if (l->init == PEFT__LORA_PISSA || l->init == PEFT__LORA_ORTHOGONAL)
        return peft__fail(adapter->ctx, PEFT_E_UNSUPPORTED,
                          "%s: this init_lora_weights on the embedding %s is not built", WHERE, layer->module->name);
    if (l->lora_bias)
        return peft__fail(adapter->ctx, PEFT_E_ARG, "%s: lora_bias cannot be used on the embedding %s", WHERE,
                          layer->module->name);
    const peft__declaration a = {.ndim = 2, .shape = {r, tokens}, .flags = l->freeze_a ? PEFT__PARAM_FROZEN : 0u};
    const peft__declaration b = {.ndim = 2,
                                 .shape = {width, r},
                                 .init = PEFT__INIT_NORMAL,
                                 .init_value = 1.0f,
                                 .lr_scale = (float)l->plus_ratio};
    PEFT_TRY(declare_one(adapter, layer, "lora_embedding_A", "lora_embedding_A", a, &layer->a));
    return declare_one(adapter, layer, "lora_embedding_B", "lora_embedding_B", b, &layer->b);
}

static peft_status declare_layer(peft_adapter *adapter, const peft__lora *l, const peft__module *module,
                                 peft__lora_layer *layer) {
    *layer = (peft__lora_layer){.module = module,
                                .a = PEFT__LORA_NONE,
                                .b = PEFT__LORA_NONE,
                                .bias = PEFT__LORA_NONE,
                                .magnitude = PEFT__LORA_NONE,
                                .a0 = PEFT__LORA_NONE,
                                .b0 = PEFT__LORA_NONE};
    layer->path = peft__adapter_text(adapter, "base_model.model.%s", module->name);
    if (layer->path == NULL) return PEFT_E_NOMEM;
    PEFT_TRY(layer_numbers(adapter, l, layer));
    return module->kind == PEFT_MODULE_EMBEDDING ? declare_embedding(adapter, l, layer)
                                                 : declare_linear(adapter, l, layer);
}

static peft_status configure(peft_adapter *adapter) {
    peft_context *ctx = adapter->ctx;
    peft__lora *l = peft__arena_alloc(&adapter->arena, sizeof *l);
    if (l == NULL) return peft__fail_nomem(ctx, sizeof *l, "an adapter");
    l->by_module =
        peft__arena_alloc(&adapter->arena, (peft__model_module_count(adapter->model) + 1) * sizeof *l->by_module);
    if (l->by_module == NULL) return peft__fail_nomem(ctx, 64, "an adapter");
    adapter->state = l;
    PEFT_TRY(read_config(adapter, l));
    peft__targets targets = {NULL, 0};
    PEFT_TRY(peft__modules_to_save(adapter));
    PEFT_TRY(peft__targets_find(
        adapter, PEFT__KIND(PEFT_MODULE_LINEAR) | PEFT__KIND(PEFT_MODULE_CONV1D) | PEFT__KIND(PEFT_MODULE_EMBEDDING),
        peft__lora_targets, &targets));
    PEFT_TRY(peft__layers_fix_fan(adapter, &targets));
    l->layers = peft__arena_alloc(&adapter->arena, targets.count * sizeof *l->layers);
    if (l->layers == NULL) return peft__fail_nomem(ctx, targets.count * sizeof *l->layers, "an adapter");
    for (uint32_t i = 0; i < targets.count; i++) {
        PEFT_TRY(declare_layer(adapter, l, targets.modules[i], &l->layers[i]));
        l->by_module[targets.modules[i]->index] = ++l->count;
    }
    PEFT_TRY(peft__layers_biases(adapter, l->by_module, "lora_only"));
    bool per_sequence = !l->dora && !l->lora_bias && peft__adapter_spares_base(adapter);
    for (uint32_t i = 0; i < l->count; i++)
        per_sequence = per_sequence && l->layers[i].module->kind != PEFT_MODULE_EMBEDDING;
    adapter->per_sequence = per_sequence;
    peft__lora_find_tables(adapter, l);
    return PEFT_OK;
}

/* ---- the graph ---------------------------------------------------------------------------------------------- */

static peft__param *trained(void *self, const char *tensor) {
    peft_adapter *adapter = self;
    const peft__lora *l = adapter->state;
    for (uint32_t i = 0; adapter->singular && adapter->scale != 0.0f && i < l->count; i++) {
        if (l->layers[i].table == NULL) continue;
        int part = 0;
        const peft__module *module = peft__model_split(adapter->model, tensor, &part);
        if (module == l->layers[i].module && part == 0) return l->layers[i].table;
    }
    return peft__adapter_trained(self, tensor);
}

/* modules_to_save copies one module: a head tied to it keeps the base's table. A table that came with the file is the
 * base's. */
static bool keeps_tie(void *self, const peft__module *module) {
    const peft__lora_layer *layer = module->tied_to != NULL ? peft__lora_layer_of(self, module->tied_to) : NULL;
    return layer != NULL && layer->table != NULL;
}

static bool touches(void *self, const peft__module *module) {
    const peft_adapter *adapter = self;
    return adapter->scale != 0.0f && peft__lora_layer_of(adapter, module) != NULL;
}

static bool is_additive(void *self, const peft__module *module) {
    const peft__lora_layer *layer = peft__lora_layer_of(self, module);
    return layer == NULL || layer->magnitude == PEFT__LORA_NONE;
}

static peft__value *apply_dora(peft_adapter *adapter, peft__build *b, const peft__lora_layer *layer, peft__value *x,
                               peft__value *xd, peft__value *y) {
    peft__graph *g = b->graph;
    peft__value *a = peft__value_param(g, &adapter->params[layer->a]);
    peft__value *up = peft__value_param(g, &adapter->params[layer->b]);
    peft__value *m = peft__value_param(g, &adapter->params[layer->magnitude]);
    const peft__weight weight = peft__build_weight(b, layer->module->name);
    const char *bias_name = peft__module_tensor_name(layer->module, peft__graph_arena(g), true);
    if (bias_name == NULL) return peft__graph_fail(g, peft__fail_nomem(adapter->ctx, 64, "a graph"));
    const peft__vector bias = peft__build_vector(b, bias_name), absent = {NULL, NULL};
    peft__value *norms = peft__op_weight_norms(g, weight, a, up, layer->scale);
    peft__value *out = NULL;
    if (xd == x) {
        out = peft__op_rescale(g, peft__op_low_rank(g, xd, y, a, up, layer->scale, ALL_ROWS), m, norms, bias);
    } else { /* dropout also reaches the (m/n - 1) W x term, but not the layer's own output */
        peft__value *wx = peft__op_linear(g, xd, weight, absent, NULL);
        peft__value *scaled =
            peft__op_rescale(g, peft__op_low_rank(g, xd, wx, a, up, layer->scale, ALL_ROWS), m, norms, absent);
        out = peft__op_add(g, y, peft__op_add(g, scaled, peft__op_scale(g, wx, -1.0f)));
    }
    if (adapter->scale == 1.0f) return out;
    return peft__op_add(g, peft__op_scale(g, out, adapter->scale), peft__op_scale(g, y, 1.0f - adapter->scale));
}

static peft__value *after_linear(void *self, peft__build *b, const peft__module *module, peft__value *x,
                                 peft__value *y) {
    peft_adapter *adapter = self;
    const peft__lora *l = adapter->state;
    const peft__lora_layer *layer = peft__lora_layer_of(adapter, module);
    if (layer == NULL || adapter->scale == 0.0f) return y;
    peft__graph *g = b->graph;
    const uint64_t stream = peft__hash64(layer->path, strlen(layer->path), 1);
    peft__value *xd = peft__op_dropout(g, x, b->purpose == PEFT__BUILD_LOSS ? l->dropout : 0.0f, stream);
    if (layer->magnitude != PEFT__LORA_NONE) return apply_dora(adapter, b, layer, x, xd, y);
    const float scale = adapter->scale * layer->scale;
    peft__value *a = peft__value_param(g, &adapter->params[layer->a]);
    peft__value *up = peft__value_param(g, &adapter->params[layer->b]);
    y = peft__op_low_rank(g, xd, y, a, up, scale, peft__adapter_slot(adapter, b));
    if (layer->a0 != PEFT__LORA_NONE)
        y = peft__op_low_rank(g, xd, y, peft__value_param(g, &adapter->params[layer->a0]),
                              peft__value_param(g, &adapter->params[layer->b0]), -scale, peft__adapter_slot(adapter, b));
    if (layer->bias != PEFT__LORA_NONE)
        y = peft__op_add_vector(g, y, peft__op_scale(g, peft__value_param(g, &adapter->params[layer->bias]), scale));
    return y;
}

static peft__value *after_embedding(void *self, peft__build *b, const peft__module *module, peft__rows *rows,
                                    peft__lookup by, float scale, int32_t padding_index, peft__value *y) {
    peft_adapter *adapter = self;
    const peft__lora_layer *layer = peft__lora_layer_of(adapter, module);
    if (layer == NULL || adapter->scale == 0.0f) return y;
    peft__graph *g = b->graph;
    peft__value *a = peft__value_param(g, &adapter->params[layer->a]);
    peft__value *up = peft__value_param(g, &adapter->params[layer->b]);
    peft__value *u = peft__op_columns(g, rows, a, by, adapter->scale * layer->scale * scale, padding_index);
    const peft__weight weight = {peft__matrix_f32(NULL, module->out, layer->rank), up};
    const peft__vector absent = {NULL, NULL};
    return peft__op_linear(g, u, weight, absent, y);
}

static const peft__hooks HOOKS = {
    .trained = trained,
    .keeps_tie = keeps_tie,
    .touches = touches,
    .after_linear = after_linear,
    .linear_is_additive = is_additive,
    .after_embedding = after_embedding,
};

static const peft__config_key KEYS[] = {
    {"alora_invocation_tokens", "null", PEFT__KEY_REFUSED},
    {"alpha_pattern", "{}", PEFT__KEY_USED},
    {"arrow_config", "null", PEFT__KEY_REFUSED},
    {"bias", "\"none\"", PEFT__KEY_USED},
    {"corda_config", "null", PEFT__KEY_REFUSED},
    {"enable_lora", "null", PEFT__KEY_FOREIGN}, /* parts of a fused matrix, in files of 2023 */
    {"ensure_weight_tying", "false", PEFT__KEY_REFUSED},
    {"eva_config", "null", PEFT__KEY_INERT}, /* says how the values were found */
    {"exclude_modules", "null", PEFT__KEY_USED},
    {"fan_in_fan_out", "false", PEFT__KEY_USED},
    {"init_lora_weights", "true", PEFT__KEY_USED},
    {"kasa_config", "null", PEFT__KEY_REFUSED},
    {"layer_replication", "null", PEFT__KEY_REFUSED},
    {"layers_pattern", "null", PEFT__KEY_USED},
    {"layers_to_transform", "null", PEFT__KEY_USED},
    {"loftq_config", "{}", PEFT__KEY_REFUSED},
    {"lora_alpha", "8", PEFT__KEY_USED},
    {"lora_bias", "false", PEFT__KEY_USED},
    {"lora_dropout", "0.0", PEFT__KEY_USED},
    {"lora_ga_config", "null", PEFT__KEY_REFUSED},
    {"loraplus_lr_ratio", "1.0", PEFT__KEY_RUNTIME},
    {"megatron_config", "null", PEFT__KEY_REFUSED},
    {"megatron_core", "\"megatron.core\"", PEFT__KEY_INERT},
    {"modules_to_save", "null", PEFT__KEY_USED},
    {"monteclora_config", "null", PEFT__KEY_REFUSED},
    {"qalora_group_size", "16", PEFT__KEY_INERT},
    {"r", "8", PEFT__KEY_USED},
    {"rank_pattern", "{}", PEFT__KEY_USED},
    {"target_modules", "null", PEFT__KEY_USED},
    {"target_parameters", "null", PEFT__KEY_REFUSED},
    {"trainable_token_indices", "null", PEFT__KEY_REFUSED},
    {"use_bdlora", "null", PEFT__KEY_REFUSED},
    {"use_dora", "false", PEFT__KEY_USED},
    {"use_lora_fa", "false", PEFT__KEY_RUNTIME},
    {"use_qalora", "false", PEFT__KEY_REFUSED},
    {"use_rslora", "false", PEFT__KEY_USED},
    {"velora_config", "null", PEFT__KEY_REFUSED},
    {NULL, NULL, PEFT__KEY_USED},
};

const peft__method peft__method_lora = {
    .peft_type = "LORA",
    .flags = PEFT__METHOD_SCALABLE | PEFT__METHOD_EXCHANGEABLE,
    .keys = KEYS,
    .hooks = &HOOKS,
    .configure = configure,
    .initialise = peft__lora_initialise,
    .import = peft__lora_import,
    .export = peft__lora_export,
    .export_config = peft__lora_export_config,
    .changes = peft__lora_changes,
    .merge = peft__lora_merge,
    .destroy = peft__lora_destroy,
};
