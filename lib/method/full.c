/* full.c: full fine-tuning, wholly or in part, and the linear probe: base tensors that are trained themselves.
 *
 * HF PEFT has no such type, so the keys are ours:
 *   trainable   null = every tensor; "head" = only the output layer (linear probe); a list of names that match a tensor
 * when they are a run of whole components of its name ("classifier", "layers.11", "q_proj.weight"); or a regular
 *               expression over the whole tensor name
 *   layers      only the top n layers, and what lies outside of the layers behind them (0: that alone); null = no limit
 *   embeddings  false leaves out embedding tables (and a head that shares one)
 * Tensors keep the names of the model's files, in memory and in adapter_model.safetensors. Modules that the files do
 * not have (a new head) are always trained. There is nothing to scale: the tensors take the place of the base's.
 */
#include "method/adapter.h"

static const char *const WHERE = "adapter_config.json";

typedef struct choice {
    const json_t *names;
    peft__pattern *regex;
    bool head;
    bool embeddings;
    int64_t layers; /* -1 = no limit */
} choice;

static bool has_components(const char *path, const char *run) {
    const size_t length = strlen(run);
    for (const char *at = path; (at = strstr(at, run)) != NULL; at++)
        if ((at == path || at[-1] == '.') && (at[length] == 0 || at[length] == '.')) return true;
    return false;
}

static peft_status read_choice(peft_adapter *adapter, choice *out) {
    peft_context *ctx = adapter->ctx;
    const json_t *trainable = peft__json_value(adapter->config, "trainable");
    PEFT_TRY(peft__json_get_bool(ctx, adapter->config, WHERE, "embeddings", true, &out->embeddings));
    PEFT_TRY(peft__json_get_int(ctx, adapter->config, WHERE, "layers", 0, INT32_MAX, -1, &out->layers));
    if (trainable == NULL) return PEFT_OK;
    if (json_is_string(trainable)) {
        const char *text = NULL;
        PEFT_TRY(peft__json_need_string(ctx, adapter->config, WHERE, "trainable", &text));
        out->head = strcmp(text, "head") == 0;
        return out->head ? PEFT_OK : peft__pattern_compile(ctx, "trainable", "", text, &out->regex);
    }
    if (!json_is_array(trainable))
        return peft__fail(ctx, PEFT_E_FORMAT,
                          "%s: trainable: expected a list of names, a regular expression, \"head\" or null, found %s",
                          WHERE, peft__json_kind(trainable));
    for (size_t i = 0; i < json_array_size(trainable); i++)
        if (!json_is_string(json_array_get(trainable, i)) || json_string_length(json_array_get(trainable, i)) == 0)
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: trainable[%zu]: expected a name, found %s", WHERE, i,
                              peft__json_kind(json_array_get(trainable, i)));
    out->names = trainable;
    return PEFT_OK;
}

/* The module that holds the weight, for a tied one. */
static const peft__module *owner(const peft__module *module) {
    while (module->tied_to != NULL) module = module->tied_to;
    return module;
}

static bool in_wanted_layers(const peft_adapter *adapter, const peft__module *module, const choice *c,
                             bool after_layers) {
    if (c->layers < 0 || module->is_new || module->is_head) return true;
    if (module->layer < 0) return after_layers;
    return module->layer >= peft__model_dims(adapter->model)->num_hidden_layers - c->layers;
}

/* What the model's files call a tensor: releases of transformers have moved modules about, files keep the older names. */
static const char *file_name(peft_adapter *adapter, const char *tensor) {
    const char *older = peft__older_name(adapter->model, &adapter->arena, tensor);
    return older != NULL ? older : tensor;
}

static peft_status is_named(const peft_adapter *adapter, const choice *c, const char *tensor, bool *out) {
    if (c->regex != NULL) return peft__pattern_match(adapter->ctx, c->regex, tensor, out);
    *out = c->names == NULL;
    for (size_t i = 0; i < json_array_size(c->names); i++)
        *out = *out || has_components(tensor, json_string_value(json_array_get(c->names, i)));
    return PEFT_OK;
}

static peft_status is_chosen(peft_adapter *adapter, const choice *c, const peft__module *module,
                             const char *tensor, bool is_bias, bool after_layers, bool *out) {
    *out = true;
    if (module->is_new) return PEFT_OK;
    *out = false;
    const bool table = owner(module)->kind == PEFT_MODULE_EMBEDDING || module->kind == PEFT_MODULE_TABLE;
    if (!c->embeddings && table && !is_bias) return PEFT_OK;
    if (!in_wanted_layers(adapter, module, c, after_layers)) return PEFT_OK;
    if (c->head) {
        *out = module->is_head;
        return PEFT_OK;
    }
    PEFT_TRY(is_named(adapter, c, tensor, out));
    return *out ? PEFT_OK : is_named(adapter, c, file_name(adapter, tensor), out);
}

/* A tied tensor is declared once, under the name that the files have, and stands for both modules. */
static peft_status declare(peft_adapter *adapter, const peft__module *module, bool bias) {
    const peft__module *holder = bias ? module : owner(module);
    const char *name = peft__adapter_tensor_name(adapter, holder, bias);
    if (name == NULL) return peft__fail_nomem(adapter->ctx, 64, "an adapter's names");
    uint64_t known = 0;
    uint32_t index = 0;
    if (peft__table_get(&adapter->by_base, name, strlen(name), &known)) return PEFT_OK;
    const char *shown = file_name(adapter, name);
    PEFT_TRY(peft__adapter_declare_base(adapter, holder, bias, shown, shown, &index));
    for (uint32_t i = 0; !bias && i < peft__model_module_count(adapter->model); i++) {
        const peft__module *other = peft__model_module_at(adapter->model, i);
        if (other == holder || owner(other) != holder) continue;
        const char *alias = peft__adapter_tensor_name(adapter, other, false);
        if (alias == NULL) return peft__fail_nomem(adapter->ctx, 64, "an adapter's names");
        PEFT_TRY(peft__adapter_alias(adapter, alias, index));
    }
    return PEFT_OK;
}

static peft_status declare_chosen(peft_adapter *adapter, const choice *c) {
    bool after_layers = false;
    for (uint32_t i = 0; i < peft__model_module_count(adapter->model); i++) {
        const peft__module *module = peft__model_module_at(adapter->model, i);
        after_layers = after_layers || module->layer >= 0;
        bool any = false;
        for (int part = 0; part < (module->has_bias && module->kind != PEFT_MODULE_TABLE ? 2 : 1); part++) {
            const char *tensor = peft__adapter_tensor_name(adapter, module, part == 1);
            bool chosen = false;
            if (tensor == NULL) return peft__fail_nomem(adapter->ctx, 64, "an adapter's names");
            PEFT_TRY(is_chosen(adapter, c, module, tensor, part == 1, after_layers, &chosen));
            if (chosen) PEFT_TRY(declare(adapter, module, part == 1));
            any = any || chosen;
        }
        adapter->modules += any;
    }
    if (adapter->count > 0) return PEFT_OK;
    return peft__fail(
        adapter->ctx, PEFT_E_MISMATCH,
        "%s: trainable, layers and embeddings leave nothing to train; the model's tensors are called like %s.weight",
        WHERE, peft__model_module_count(adapter->model) > 0 ? peft__model_module_at(adapter->model, 0)->name : "?");
}

static peft_status configure(peft_adapter *adapter) {
    choice c = {.layers = -1};
    peft_status status = read_choice(adapter, &c);
    if (status >= 0) status = declare_chosen(adapter, &c);
    peft__pattern_free(c.regex);
    return status;
}

static const peft__config_key KEYS[] = {
    {"embeddings", "true", PEFT__KEY_USED},
    {"layers", "null", PEFT__KEY_USED},
    {"trainable", "null", PEFT__KEY_USED},
    {NULL, NULL, PEFT__KEY_USED},
};

const peft__method peft__method_full = {
    .peft_type = "FULL",
    .flags = PEFT__METHOD_NATIVE | PEFT__METHOD_FULL_NAMES | PEFT__METHOD_EXCHANGEABLE,
    .keys = KEYS,
    .hooks = &peft__adapter_hooks_base_only,
    .configure = configure,
    .changes = peft__adapter_changes_nothing,
};
