/* layers.c: keys, names and merging that methods on linear layers share (layers.h). */
#include <math.h>

#include "method/layers.h"

static const char *const WHERE = "adapter_config.json";

enum { MOST_RANK = 65536 };

/* As HF PEFT: each layer sets it to what it is itself, so the last one decides what is saved. */
peft_status peft__layers_fix_fan(peft_adapter *adapter, const peft__targets *targets) {
    bool said = false, conv = false, fits = false;
    PEFT_TRY(peft__json_get_bool(adapter->ctx, adapter->config, WHERE, "fan_in_fan_out", false, &said));
    uint32_t layers = 0;
    for (uint32_t i = 0; i < targets->count; i++) {
        const int32_t kind = (int32_t)targets->modules[i]->kind;
        if (kind != PEFT_MODULE_CONV1D && kind != PEFT_MODULE_LINEAR) continue;
        conv = kind == PEFT_MODULE_CONV1D;
        fits = fits || said == conv;
        layers++;
    }
    if (layers == 0) return PEFT_OK;
    if (!fits)
        peft__log(adapter->ctx, said ? PEFT_LOG_WARNING : PEFT_LOG_INFO,
                  "%s: fan_in_fan_out is set to %s, as the layers are", WHERE, conv ? "true" : "false");
    return json_object_set_new(adapter->config, "fan_in_fan_out", json_boolean(conv)) == 0
               ? PEFT_OK
               : peft__fail_nomem(adapter->ctx, 64, "an adapter's configuration");
}

peft_status peft__layers_make(peft_adapter *adapter, const peft__targets *targets, peft__layered *out_layered,
                              size_t layer_bytes) {
    const uint32_t modules = peft__model_module_count(adapter->model);
    uint32_t *by_module = peft__arena_alloc(&adapter->arena, (modules + 1) * sizeof *by_module);
    void *layers = peft__arena_alloc(&adapter->arena, targets->count * layer_bytes);
    if (by_module == NULL || layers == NULL)
        return peft__fail_nomem(adapter->ctx, targets->count * layer_bytes + modules * sizeof *by_module, "an adapter");
    for (uint32_t i = 0; i < targets->count; i++) by_module[targets->modules[i]->index] = i + 1;
    out_layered->by_module = by_module;
    out_layered->layers = layers;
    out_layered->layer_bytes = layer_bytes;
    return PEFT_OK;
}

const void *peft__layers_of(const peft_adapter *adapter, const peft__module *module) {
    const peft__layered *l = adapter->state;
    const uint32_t number = l->by_module[module->index];
    return number > 0 ? (const char *)l->layers + (number - 1) * l->layer_bytes : NULL;
}

bool peft__layers_touches(void *self, const peft__module *module) {
    const peft_adapter *adapter = self;
    return adapter->scale != 0.0f && peft__layers_of(adapter, module) != NULL;
}

bool peft__layers_additive(void *self, const peft__module *module) {
    (void)self;
    (void)module;
    return true;
}

uint32_t peft__layers_changes(const peft_adapter *adapter, const peft__module *module) {
    return peft__layers_of(adapter, module) != NULL ? PEFT__CHANGES_WEIGHT : 0u;
}

peft_status peft__layers_numbers(peft_adapter *adapter, const peft__module *module, const char *alpha_key,
                                 int64_t *out_rank, double *out_alpha) {
    peft_context *ctx = adapter->ctx;
    int64_t rank = 0;
    double alpha = 0.0, value = 0.0;
    PEFT_TRY(peft__json_get_int(ctx, adapter->config, WHERE, "r", 1, INT32_MAX, 8, &rank));
    PEFT_TRY(peft__json_get_double(ctx, adapter->config, WHERE, alpha_key, -1e9, 1e9, 8.0, &alpha));
    PEFT_TRY(peft__targets_pattern(adapter, "rank_pattern", module->name, (double)rank, &value));
    if (!(value >= 1.0 && value <= MOST_RANK) || value != floor(value))
        return peft__fail(ctx, PEFT_E_ARG, "%s: the rank for %s is %g, expected a whole number from 1 to %d", WHERE,
                          module->name, value, MOST_RANK);
    *out_rank = (int64_t)value;
    return peft__targets_pattern(adapter, "alpha_pattern", module->name, alpha, out_alpha);
}

/* In HF PEFT's wrapped model an adapted layer's own bias is X.base_layer.bias. */
static peft_status declare_bias(peft_adapter *adapter, const peft__module *module, bool adapted) {
    const char *base = peft__adapter_tensor_name(adapter, module, true);
    if (base == NULL) return peft__fail_nomem(adapter->ctx, 64, "an adapter's names");
    uint64_t index = 0;
    if (peft__table_get(&adapter->by_base, base, strlen(base), &index)) return PEFT_OK; /* modules_to_save has it */
    const char *name = adapted ? peft__adapter_text(adapter, "base_model.model.%s.base_layer.bias", module->name)
                               : peft__adapter_text(adapter, "base_model.model.%s", base);
    return name == NULL ? PEFT_E_NOMEM : peft__adapter_declare_base(adapter, module, true, name, name, NULL);
}

peft_status peft__layers_biases(peft_adapter *adapter, const uint32_t *by_module, const char *only) {
    const char *said = NULL;
    PEFT_TRY(peft__json_get_string(adapter->ctx, adapter->config, WHERE, "bias", "none", &said));
    const bool all = strcmp(said, "all") == 0;
    if (!all && strcmp(said, only) != 0)
        return strcmp(said, "none") == 0
                   ? PEFT_OK
                   : peft__fail(adapter->ctx, PEFT_E_FORMAT, "%s: bias: expected none, all or %s, found \"%.60s\"",
                                WHERE, only, said);
    for (uint32_t i = 0; i < peft__model_module_count(adapter->model); i++) {
        const peft__module *module = peft__model_module_at(adapter->model, i);
        const bool adapted = by_module[module->index] != 0;
        if (!module->has_bias || module->is_new || module->kind == PEFT_MODULE_TABLE || (!adapted && !all)) continue;
        PEFT_TRY(declare_bias(adapter, module, adapted));
    }
    return PEFT_OK;
}

peft_status peft__layers_declare(peft_adapter *adapter, const peft__module *module, const char *leaf,
                                 peft__declaration declaration, uint32_t *out_index) {
    declaration.name = peft__adapter_text(adapter, "base_model.model.%s.%s", module->name, leaf);
    if (declaration.name == NULL) return PEFT_E_NOMEM;
    declaration.key = declaration.name;
    return peft__adapter_declare(adapter, &declaration, out_index);
}

void peft__layers_kaiming(peft__declaration *declaration) {
    declaration->init = PEFT__INIT_UNIFORM;
    declaration->init_value = (float)(1.0 / sqrt((double)declaration->shape[1]));
}

/* weight += scale * change; weight is [out, in], of a Conv1D [in, out]. */
peft_status peft__layers_merge(const peft_adapter *adapter, const peft__module *module, float *weight, float *bias) {
    (void)bias;
    const peft__layered *l = adapter->state;
    const void *layer = peft__layers_of(adapter, module);
    if (weight == NULL || layer == NULL) return PEFT_OK;
    const int64_t in = module->in, out = module->out;
    float *buffer = peft__alloc(adapter->ctx->mem, (size_t)in * sizeof *buffer);
    if (buffer == NULL) return peft__fail_nomem(adapter->ctx, (size_t)in * sizeof *buffer, "a merged matrix");
    for (int64_t o = 0; o < out; o++) {
        l->row(adapter, layer, o, buffer);
        float *to = weight + (peft__layers_conv(module) ? o : o * in);
        const int64_t step = peft__layers_conv(module) ? out : 1;
        for (int64_t i = 0; i < in; i++) to[i * step] += adapter->scale * buffer[i];
    }
    peft__free(adapter->ctx->mem, buffer);
    return PEFT_OK;
}
