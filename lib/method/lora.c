/* lora.c: LoRA (Hu et al. 2021), with rsLoRA's scale, DoRA, LoRA on embeddings, LoRA+ and LoRA-FA.
 *
 * A linear layer gets y + s B (A drop(x)), A [r, in], B [out, r], s = lora_alpha / r (rsLoRA: / sqrt(r)). B starts at
 * zero, so an untrained adapter changes nothing. B A is never formed while training; merging forms it row by row. DoRA
 * (Liu et al. 2024) also trains the length m of each row: out = b + (m / n) (y - b), n the row lengths of W + s B A,
 * taken as a constant in the backward pass. On an embedding, A [r, vocabulary] has a column for each token: out = E[id]
 * + s B A[:, id]; there A starts at zero.
 *
 * The user's factor (adapter->scale) multiplies s; for DoRA it blends between the layer without and with the adapter,
 * because a factor on s alone would leave the row lengths changed.
 */
#include <math.h>

#include "method/adapter.h"

extern const peft__default_targets peft__lora_targets[]; /* lora_targets.c */

static const char *const WHERE = "adapter_config.json";

typedef struct lora_layer {
    const peft__module *module;
    uint32_t a, b, bias, magnitude; /* params; UINT32_MAX = none */
    int64_t rank;
    float scale;        /* s */
    const char *path;   /* "base_model.model.<module>" */
    peft__param *table; /* embedding whose file holds another base table than the model: that table, frozen */
} lora_layer;

typedef struct lora {
    lora_layer *layers;
    uint32_t count;
    uint32_t *by_module; /* module index -> layer + 1 */
    float dropout;
    bool dora, rslora, save_tables;
    double plus_ratio;
    bool freeze_a;
    enum { BIAS_NONE, BIAS_ALL, BIAS_LORA_ONLY } bias;
    enum { INIT_TRUE, INIT_GAUSSIAN, INIT_FALSE } init;
    bool lora_bias;
} lora;

enum { NONE = -1, MOST_RANK = 65536 };

static const lora_layer *layer_of(const peft_adapter *adapter, const peft__module *module) {
    const lora *l = adapter->state;
    const uint32_t index = l->by_module[module->index];
    return index > 0 ? &l->layers[index - 1] : NULL;
}

/* ---- configuration ------------------------------------------------------------------------------------------- */

static peft_status read_init(peft_adapter *adapter, lora *l) {
    const json_t *init = json_object_get(adapter->config, "init_lora_weights");
    const char *text = json_is_string(init) ? json_string_value(init) : NULL;
    l->init = INIT_TRUE;
    if (json_is_true(init)) return PEFT_OK;
    if (json_is_false(init))
        l->init = INIT_FALSE;
    else if (text != NULL && strcmp(text, "gaussian") == 0)
        l->init = INIT_GAUSSIAN;
    /* A loaded adapter brings its values; only inits that also change the base would compute something else. */
    else if (text != NULL && adapter->loading && (strcmp(text, "orthogonal") == 0 || strcmp(text, "eva") == 0))
        l->init = INIT_TRUE;
    else if (text != NULL)
        return peft__fail(adapter->ctx, PEFT_E_UNSUPPORTED,
                          "%s: init_lora_weights \"%.60s\" is not built (true, false and \"gaussian\" are)", WHERE,
                          text);
    else
        return peft__fail(adapter->ctx, PEFT_E_FORMAT,
                          "%s: init_lora_weights: expected true, false or a name, found %s", WHERE,
                          peft__json_kind(init));
    return PEFT_OK;
}

static peft_status read_bias(peft_adapter *adapter, lora *l) {
    const char *bias = NULL;
    PEFT_TRY(peft__json_get_string(adapter->ctx, adapter->config, WHERE, "bias", "none", &bias));
    if (strcmp(bias, "none") == 0)
        l->bias = BIAS_NONE;
    else if (strcmp(bias, "all") == 0)
        l->bias = BIAS_ALL;
    else if (strcmp(bias, "lora_only") == 0)
        l->bias = BIAS_LORA_ONLY;
    else
        return peft__fail(adapter->ctx, PEFT_E_FORMAT, "%s: bias: expected none, all or lora_only, found \"%.60s\"",
                          WHERE, bias);
    return PEFT_OK;
}

static peft_status read_config(peft_adapter *adapter, lora *l) {
    peft_context *ctx = adapter->ctx;
    const json_t *config = adapter->config;
    double dropout = 0.0, ratio = 1.0;
    PEFT_TRY(peft__json_get_double(ctx, config, WHERE, "lora_dropout", 0.0, 0.999, 0.0, &dropout));
    PEFT_TRY(peft__json_get_bool(ctx, config, WHERE, "use_rslora", false, &l->rslora));
    PEFT_TRY(peft__json_get_bool(ctx, config, WHERE, "use_dora", false, &l->dora));
    PEFT_TRY(peft__json_get_bool(ctx, config, WHERE, "lora_bias", false, &l->lora_bias));
    PEFT_TRY(peft__json_get_double(ctx, config, WHERE, "loraplus_lr_ratio", 1e-6, 1e6, 1.0, &ratio));
    PEFT_TRY(peft__json_get_bool(ctx, config, WHERE, "use_lora_fa", false, &l->freeze_a));
    PEFT_TRY(read_bias(adapter, l));
    PEFT_TRY(read_init(adapter, l));
    l->dropout = (float)dropout;
    l->plus_ratio = ratio;
    if (l->lora_bias && l->dora)
        return peft__fail(ctx, PEFT_E_ARG, "%s: lora_bias and use_dora cannot be used together", WHERE);
    if (l->lora_bias && l->bias != BIAS_NONE)
        return peft__fail(ctx, PEFT_E_ARG, "%s: lora_bias needs bias \"none\", found another", WHERE);
    return PEFT_OK;
}

/* HF PEFT corrects fan_in_fan_out to what the layers are; so do we, and say so. */
static peft_status fix_fan(peft_adapter *adapter, const peft__targets *targets) {
    bool said = false, conv = false, linear = false;
    PEFT_TRY(peft__json_get_bool(adapter->ctx, adapter->config, WHERE, "fan_in_fan_out", false, &said));
    for (uint32_t i = 0; i < targets->count; i++) {
        conv = conv || targets->modules[i]->kind == PEFT_MODULE_CONV1D;
        linear = linear || targets->modules[i]->kind == PEFT_MODULE_LINEAR;
    }
    if (!conv && !linear) return PEFT_OK;
    if (said != conv && !(said && linear && conv))
        peft__log(adapter->ctx, said ? PEFT_LOG_WARNING : PEFT_LOG_INFO,
                  "%s: fan_in_fan_out is set to %s, as the layers are", WHERE, conv ? "true" : "false");
    return json_object_set_new(adapter->config, "fan_in_fan_out", json_boolean(conv)) == 0
               ? PEFT_OK
               : peft__fail_nomem(adapter->ctx, 64, "an adapter's configuration");
}

static peft_status layer_numbers(peft_adapter *adapter, const lora *l, lora_layer *layer) {
    peft_context *ctx = adapter->ctx;
    int64_t rank = 0;
    double alpha = 0.0, value = 0.0;
    PEFT_TRY(peft__json_get_int(ctx, adapter->config, WHERE, "r", 1, INT32_MAX, 8, &rank));
    PEFT_TRY(peft__json_get_double(ctx, adapter->config, WHERE, "lora_alpha", -1e9, 1e9, 8.0, &alpha));
    PEFT_TRY(peft__targets_pattern(adapter, "rank_pattern", layer->module->name, (double)rank, &value));
    if (!(value >= 1.0 && value <= MOST_RANK) || value != floor(value))
        return peft__fail(ctx, PEFT_E_ARG, "%s: the rank for %s is %g, expected a whole number from 1 to %d", WHERE,
                          layer->module->name, value, MOST_RANK);
    layer->rank = (int64_t)value;
    if (layer->rank > peft__min_i64(layer->module->in, layer->module->out))
        peft__log(ctx, PEFT_LOG_WARNING, "%s: rank %lld is more than the matrix of %s has", WHERE,
                  (long long)layer->rank, layer->module->name);
    PEFT_TRY(peft__targets_pattern(adapter, "alpha_pattern", layer->module->name, alpha, &alpha));
    layer->scale = (float)(alpha / (l->rslora ? sqrt((double)layer->rank) : (double)layer->rank));
    return PEFT_OK;
}

static peft_status declare_one(peft_adapter *adapter, const lora_layer *layer, const char *leaf, const char *key_leaf,
                               peft__declaration d, uint32_t *out) {
    d.name = peft__adapter_text(adapter, "%s.%s", layer->path, leaf);
    d.key = peft__adapter_text(adapter, "%s.%s", layer->path, key_leaf);
    if (d.name == NULL || d.key == NULL) return PEFT_E_NOMEM;
    return peft__adapter_declare(adapter, &d, out);
}

static float inverse_root(int64_t n) {
    return (float)(1.0 / sqrt((double)n));
}

/* Kaiming uniform with a = sqrt(5) is uniform in +-1/sqrt(fan_in). */
static peft_status declare_linear(peft_adapter *adapter, const lora *l, lora_layer *layer) {
    const int64_t in = layer->module->in, out = layer->module->out, r = layer->rank;
    peft__declaration a = {.ndim = 2, .shape = {r, in}, .init = PEFT__INIT_UNIFORM, .init_value = inverse_root(in)};
    if (l->init == INIT_GAUSSIAN) {
        a.init = PEFT__INIT_NORMAL;
        a.init_value = 1.0f / (float)r;
    }
    if (l->freeze_a) a.flags |= PEFT__PARAM_FROZEN;
    peft__declaration b = {.ndim = 2, .shape = {out, r}, .lr_scale = (float)l->plus_ratio};
    if (l->init == INIT_FALSE) {
        b.init = PEFT__INIT_UNIFORM;
        b.init_value = inverse_root(r);
    }
    PEFT_TRY(declare_one(adapter, layer, "lora_A.weight", "lora_A.weight", a, &layer->a));
    PEFT_TRY(declare_one(adapter, layer, "lora_B.weight", "lora_B.weight", b, &layer->b));
    if (l->lora_bias) {
        const peft__declaration bias = {.ndim = 1,
                                        .shape = {out},
                                        .flags = PEFT__PARAM_NO_DECAY,
                                        .lr_scale = (float)l->plus_ratio,
                                        .init = l->init == INIT_FALSE ? PEFT__INIT_UNIFORM : PEFT__INIT_ZERO,
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

static peft_status declare_embedding(peft_adapter *adapter, const lora *l, lora_layer *layer) {
    const int64_t tokens = layer->module->in, width = layer->module->out, r = layer->rank;
    if (l->dora)
        return peft__fail(adapter->ctx, PEFT_E_UNSUPPORTED, "%s: use_dora on the embedding %s is not built", WHERE,
                          layer->module->name);
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

static peft_status declare_layer(peft_adapter *adapter, const lora *l, const peft__module *module, lora_layer *layer) {
    *layer =
        (lora_layer){.module = module, .a = UINT32_MAX, .b = UINT32_MAX, .bias = UINT32_MAX, .magnitude = UINT32_MAX};
    layer->path = peft__adapter_text(adapter, "base_model.model.%s", module->name);
    if (layer->path == NULL) return PEFT_E_NOMEM;
    PEFT_TRY(layer_numbers(adapter, l, layer));
    return module->kind == PEFT_MODULE_EMBEDDING ? declare_embedding(adapter, l, layer)
                                                 : declare_linear(adapter, l, layer);
}

/* Trained biases of the base. In HF PEFT's wrapped model an adapted layer's own bias is X.base_layer.bias. */
static peft_status declare_biases(peft_adapter *adapter, const lora *l) {
    for (uint32_t i = 0; l->bias != BIAS_NONE && i < peft__model_module_count(adapter->model); i++) {
        const peft__module *module = peft__model_module_at(adapter->model, i);
        const bool adapted = layer_of(adapter, module) != NULL;
        if (!module->has_bias || module->is_new || module->kind == PEFT_MODULE_TABLE ||
            (!adapted && l->bias == BIAS_LORA_ONLY))
            continue;
        const char *base = peft__adapter_tensor_name(adapter, module, true);
        if (base == NULL) return peft__fail_nomem(adapter->ctx, 64, "an adapter's names");
        uint64_t index = 0;
        if (peft__table_get(&adapter->by_base, base, strlen(base), &index)) continue; /* modules_to_save has it */
        const char *name = adapted ? peft__adapter_text(adapter, "base_model.model.%s.base_layer.bias", module->name)
                                   : peft__adapter_text(adapter, "base_model.model.%s", base);
        if (name == NULL) return PEFT_E_NOMEM;
        PEFT_TRY(peft__adapter_declare_base(adapter, module, true, name, name, NULL));
    }
    return PEFT_OK;
}

/* HF PEFT saves the base table beside LoRA on it when target_modules names "embed_tokens" or "lm_head". */
static void find_saved_tables(peft_adapter *adapter, lora *l) {
    const json_t *targets = json_object_get(adapter->config, "target_modules");
    static const char *const NAMES[] = {"embed_tokens", "lm_head"};
    for (size_t k = 0; k < PEFT_COUNT(NAMES); k++) {
        for (size_t i = 0; i < json_array_size(targets); i++)
            if (strcmp(json_string_value(json_array_get(targets, i)), NAMES[k]) == 0) l->save_tables = true;
        for (uint32_t i = 0; json_is_string(targets) && i < l->count; i++)
            if (peft__module_suffix(l->layers[i].module->name, NAMES[k])) l->save_tables = true;
    }
}

static bool table_is_saved(const peft_adapter *adapter, const lora_layer *layer) {
    const lora *l = adapter->state;
    const peft__module *module = layer->module;
    return l->save_tables && (module->is_head || (module->kind == PEFT_MODULE_EMBEDDING &&
                                                  module->in == peft__model_dims(adapter->model)->vocab_size));
}

static peft_status configure(peft_adapter *adapter) {
    peft_context *ctx = adapter->ctx;
    lora *l = peft__arena_alloc(&adapter->arena, sizeof *l);
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
    PEFT_TRY(fix_fan(adapter, &targets));
    l->layers = peft__arena_alloc(&adapter->arena, targets.count * sizeof *l->layers);
    if (l->layers == NULL) return peft__fail_nomem(ctx, targets.count * sizeof *l->layers, "an adapter");
    for (uint32_t i = 0; i < targets.count; i++) {
        PEFT_TRY(declare_layer(adapter, l, targets.modules[i], &l->layers[i]));
        l->by_module[targets.modules[i]->index] = ++l->count;
    }
    PEFT_TRY(declare_biases(adapter, l));
    bool per_sequence = !l->dora && !l->lora_bias;
    for (uint32_t i = 0; i < adapter->count; i++) per_sequence = per_sequence && adapter->slots[i].base == NULL;
    for (uint32_t i = 0; i < l->count; i++)
        per_sequence = per_sequence && l->layers[i].module->kind != PEFT_MODULE_EMBEDDING;
    adapter->per_sequence = per_sequence;
    find_saved_tables(adapter, l);
    return PEFT_OK;
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

static peft_status read_weight(const peft_adapter *adapter, const peft__module *module, float **out_weight) {
    const size_t bytes = (size_t)(module->in * module->out) * sizeof(float);
    float *weight = peft__alloc(adapter->ctx->mem, bytes);
    char *name = peft__strfmt(adapter->ctx->mem, "%s.weight", module->name);
    peft_status status = weight != NULL && name != NULL
                             ? peft__model_read_tensor(adapter->ctx, adapter->model, name, weight)
                             : peft__fail_nomem(adapter->ctx, bytes, "a weight matrix");
    peft__free(adapter->ctx->mem, name);
    if (status < 0)
        peft__free(adapter->ctx->mem, weight);
    else
        *out_weight = weight;
    return status;
}

/* W [out, in] += factor * B A, one output at a time. */
static void add_by_rows(const lora_layer *layer, const float *a, const float *b, float factor, float *weight) {
    const int64_t in = layer->module->in, out = layer->module->out, r = layer->rank;
    for (int64_t o = 0; o < out; o++)
        for (int64_t j = 0; j < r; j++) {
            const float f = factor * b[o * r + j];
            float *to = weight + o * in;
            for (int64_t i = 0; i < in; i++) to[i] += f * a[j * in + i];
        }
}

/* W [in, out] += factor * (B A)^T, one input (token) at a time. */
static void add_by_columns(const lora_layer *layer, const float *a, const float *b, float factor, float *weight) {
    const int64_t in = layer->module->in, out = layer->module->out, r = layer->rank;
    for (int64_t i = 0; i < in; i++)
        for (int64_t j = 0; j < r; j++) {
            const float f = factor * a[j * in + i];
            float *to = weight + i * out;
            for (int64_t o = 0; o < out; o++) to[o] += f * b[o * r + j];
        }
}

static void add_delta(const peft_adapter *adapter, const lora_layer *layer, float factor, float *weight) {
    const float *a = adapter->params[layer->a].data, *b = adapter->params[layer->b].data;
    if (layer->module->kind == PEFT_MODULE_LINEAR)
        add_by_rows(layer, a, b, factor * layer->scale, weight);
    else
        add_by_columns(layer, a, b, factor * layer->scale, weight);
}

/* Length of W's row for output o, W [out, in] or [in, out] as the module says. */
static float row_length(const peft__module *module, const float *weight, int64_t o) {
    const bool by_rows = module->kind == PEFT_MODULE_LINEAR;
    const int64_t start = by_rows ? o * module->in : o, step = by_rows ? 1 : module->out;
    double sum = 0.0;
    for (int64_t i = 0; i < module->in; i++) {
        const double w = (double)weight[start + i * step];
        sum += w * w;
    }
    return (float)sqrt(sum);
}

static peft_status initialise(peft_adapter *adapter, uint64_t seed) {
    (void)seed;
    const lora *l = adapter->state;
    for (uint32_t i = 0; i < l->count; i++) {
        const lora_layer *layer = &l->layers[i];
        if (layer->magnitude == UINT32_MAX || adapter->slots[layer->magnitude].read) continue;
        float *weight = NULL;
        PEFT_TRY(read_weight(adapter, layer->module, &weight));
        add_delta(adapter, layer, 1.0f, weight);
        for (int64_t o = 0; o < layer->module->out; o++)
            adapter->params[layer->magnitude].data[o] = row_length(layer->module, weight, o);
        peft__free(adapter->ctx->mem, weight);
    }
    return PEFT_OK;
}

/* ---- files --------------------------------------------------------------------------------------------------------
 */

/* A table that differs from the model's (a vocabulary retrained before) takes its place. */
static peft_status take_table(peft_adapter *adapter, lora_layer *layer, const peft__tensor *tensor) {
    peft_context *ctx = adapter->ctx;
    uint32_t ndim = 0;
    int64_t shape[4];
    char *name = peft__adapter_text(adapter, "%s.weight", layer->module->name);
    if (name == NULL) return PEFT_E_NOMEM;
    if (!peft__model_tensor_shape(adapter->model, name, &ndim, shape))
        return peft__fail(ctx, PEFT_E_MISMATCH, "the model has no tensor %s", name);
    PEFT_TRY(peft__tensor_check_shape(ctx, tensor, ndim, shape));
    float *weight = NULL;
    PEFT_TRY(read_weight(adapter, layer->module, &weight));
    const size_t bytes = (size_t)(shape[0] * shape[1]) * sizeof(float);
    float *stored = peft__alloc(ctx->mem, bytes);
    peft_status status = stored != NULL ? peft__tensor_read_f32(ctx, tensor, stored)
                                        : peft__fail_nomem(ctx, bytes, "an embedding table");
    bool same = true;
    for (int64_t i = 0; status >= 0 && same && i < shape[0] * shape[1]; i++) same = stored[i] == weight[i];
    peft__free(ctx->mem, weight);
    if (status >= 0 && !same) {
        layer->table = peft__arena_alloc(&adapter->arena, sizeof *layer->table);
        if (layer->table == NULL) status = peft__fail_nomem(ctx, bytes, "an embedding table");
    }
    if (status < 0 || same) {
        peft__free(ctx->mem, stored);
        return status;
    }
    *layer->table = (peft__param){.name = name,
                                  .ndim = 2,
                                  .flags = PEFT__PARAM_FROZEN,
                                  .shape = {shape[0], shape[1]},
                                  .elements = shape[0] * shape[1],
                                  .data = stored,
                                  .lr_scale = 1.0f};
    peft__log(ctx, PEFT_LOG_WARNING, "%s: the adapter brings another table than the model has, and it is used",
              layer->module->name);
    return PEFT_OK;
}

static peft_status import(peft_adapter *adapter, const peft__tensor *tensor, const char *key) {
    const lora *l = adapter->state;
    const char *tail = ".base_layer.weight";
    const size_t length = strlen(key), tail_length = strlen(tail);
    if (length <= tail_length || strcmp(key + (length - tail_length), tail) != 0) return PEFT_END;
    for (uint32_t i = 0; i < l->count; i++)
        if (strlen(l->layers[i].path) == length - tail_length &&
            strncmp(l->layers[i].path, key, length - tail_length) == 0)
            return l->layers[i].table != NULL ? peft__fail(adapter->ctx, PEFT_E_FORMAT, "%s is there twice", key)
                                              : take_table(adapter, &l->layers[i], tensor);
    return PEFT_END;
}

static peft_status export_tables(const peft_adapter *adapter, peft__export *file) {
    const lora *l = adapter->state;
    for (uint32_t i = 0; i < l->count; i++) {
        const lora_layer *layer = &l->layers[i];
        const peft__module *module = layer->module;
        if (!table_is_saved(adapter, layer) && layer->table == NULL) continue;
        char *key = peft__arena_strfmt(file->arena, "%s.base_layer.weight", layer->path);
        char *base = peft__arena_strfmt(file->arena, "%s.weight", module->name);
        if (key == NULL || base == NULL) return peft__fail_nomem(adapter->ctx, 256, "an adapter's file");
        if (layer->table != NULL)
            PEFT_TRY(peft__export_add(file, key, 2, layer->table->shape, layer->table->data));
        else
            PEFT_TRY(peft__export_add_base(file, key, base));
    }
    return PEFT_OK;
}

static void destroy(peft_adapter *adapter) {
    const lora *l = adapter->state;
    for (uint32_t i = 0; l != NULL && i < l->count; i++)
        if (l->layers[i].table != NULL) peft__free(adapter->ctx->mem, l->layers[i].table->data);
}

/* ---- merging ------------------------------------------------------------------------------------------------------
 */

static uint32_t changes(const peft_adapter *adapter, const peft__module *module) {
    const lora_layer *layer = layer_of(adapter, module);
    if (layer == NULL) return 0;
    return PEFT__CHANGES_WEIGHT | (layer->bias != UINT32_MAX ? PEFT__CHANGES_BIAS : 0u);
}

static peft_status merge_dora(const peft_adapter *adapter, const lora_layer *layer, float *weight) {
    const peft__module *module = layer->module;
    const size_t bytes = (size_t)(module->in * module->out) * sizeof(float);
    float *changed = peft__alloc(adapter->ctx->mem, bytes);
    if (changed == NULL) return peft__fail_nomem(adapter->ctx, bytes, "a merged matrix");
    memcpy(changed, weight, bytes);
    add_delta(adapter, layer, 1.0f, changed);
    const bool by_rows = module->kind == PEFT_MODULE_LINEAR;
    const float *magnitude = adapter->params[layer->magnitude].data;
    for (int64_t o = 0; o < module->out; o++) {
        const float gain = magnitude[o] / row_length(module, changed, o);
        for (int64_t i = 0; i < module->in; i++) {
            const int64_t at = by_rows ? o * module->in + i : i * module->out + o;
            weight[at] += adapter->scale * (gain * changed[at] - weight[at]);
        }
    }
    peft__free(adapter->ctx->mem, changed);
    return PEFT_OK;
}

static peft_status merge(const peft_adapter *adapter, const peft__module *module, float *weight, float *bias) {
    const lora_layer *layer = layer_of(adapter, module);
    if (bias != NULL)
        for (int64_t o = 0; o < module->out; o++)
            bias[o] += adapter->scale * layer->scale * adapter->params[layer->bias].data[o];
    if (weight == NULL) return PEFT_OK;
    if (layer->magnitude != UINT32_MAX) return merge_dora(adapter, layer, weight);
    add_delta(adapter, layer, adapter->scale, weight);
    return PEFT_OK;
}

/* ---- the graph ------------------------------------------------------------------------------------------------------
 */

static peft__param *trained(void *self, const char *tensor) {
    peft_adapter *adapter = self;
    const lora *l = adapter->state;
    for (uint32_t i = 0; adapter->scale != 0.0f && i < l->count; i++) {
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
    const lora_layer *layer = module->tied_to != NULL ? layer_of(self, module->tied_to) : NULL;
    return layer != NULL && layer->table != NULL;
}

static bool touches(void *self, const peft__module *module) {
    const peft_adapter *adapter = self;
    return adapter->scale != 0.0f && layer_of(adapter, module) != NULL;
}

static bool is_additive(void *self, const peft__module *module) {
    const lora_layer *layer = layer_of(self, module);
    return layer == NULL || layer->magnitude == UINT32_MAX;
}

/* Which of the session's adapters this is: rows of a batch with adapter_ids use their own only. */
static int32_t slot_of(const peft_adapter *adapter, const peft__build *b) {
    for (uint32_t i = 0; i < b->adapter_count; i++)
        if (b->adapters[i].self == adapter) return (int32_t)i;
    return NONE;
}

static peft__value *apply_dora(peft_adapter *adapter, peft__build *b, const lora_layer *layer, peft__value *x,
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
        out = peft__op_rescale(g, peft__op_low_rank(g, xd, y, a, up, layer->scale, NONE), m, norms, bias);
    } else { /* dropout also reaches the (m/n - 1) W x term, but not the layer's own output */
        peft__value *wx = peft__op_linear(g, xd, weight, absent, NULL);
        peft__value *scaled =
            peft__op_rescale(g, peft__op_low_rank(g, xd, wx, a, up, layer->scale, NONE), m, norms, absent);
        out = peft__op_add(g, y, peft__op_add(g, scaled, peft__op_scale(g, wx, -1.0f)));
    }
    if (adapter->scale == 1.0f) return out;
    return peft__op_add(g, peft__op_scale(g, out, adapter->scale), peft__op_scale(g, y, 1.0f - adapter->scale));
}

static peft__value *after_linear(void *self, peft__build *b, const peft__module *module, peft__value *x,
                                 peft__value *y) {
    peft_adapter *adapter = self;
    const lora *l = adapter->state;
    const lora_layer *layer = layer_of(adapter, module);
    if (layer == NULL || adapter->scale == 0.0f) return y;
    peft__graph *g = b->graph;
    const uint64_t stream = peft__hash64(layer->path, strlen(layer->path), 1);
    peft__value *xd = peft__op_dropout(g, x, b->purpose == PEFT__BUILD_LOSS ? l->dropout : 0.0f, stream);
    if (layer->magnitude != UINT32_MAX) return apply_dora(adapter, b, layer, x, xd, y);
    const float scale = adapter->scale * layer->scale;
    peft__value *a = peft__value_param(g, &adapter->params[layer->a]);
    peft__value *up = peft__value_param(g, &adapter->params[layer->b]);
    y = peft__op_low_rank(g, xd, y, a, up, scale, slot_of(adapter, b));
    if (layer->bias != UINT32_MAX)
        y = peft__op_add_vector(g, y, peft__op_scale(g, peft__value_param(g, &adapter->params[layer->bias]), scale));
    return y;
}

static peft__value *after_embedding(void *self, peft__build *b, const peft__module *module, peft__rows *rows,
                                    peft__lookup by, float scale, int32_t padding_index, peft__value *y) {
    peft_adapter *adapter = self;
    const lora_layer *layer = layer_of(adapter, module);
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
    .flags = PEFT__METHOD_SCALABLE,
    .keys = KEYS,
    .hooks = &HOOKS,
    .configure = configure,
    .initialise = initialise,
    .import = import,
    .export = export_tables,
    .changes = changes,
    .merge = merge,
    .destroy = destroy,
};
