/* depth.c: how far below the output a tensor of the adapter stands, and which tensors rest.
 *
 * Two things of transfer learning need it: learning rates that fall towards the input (ULMFiT's discriminative
 * fine-tuning), and gradual unfreezing, where the top layers are trained first. Depth 0 is what lies behind the layers
 * (final norm, pooler, head) and what belongs to no module of the model (prompts, matrices that all layers share); 1 is
 * the top layer; one more than there are layers is what lies before them (embeddings, patches). Each stack of an
 * encoder-decoder model counts from its own top. An embedding that the output layer shares is an embedding.
 *
 * A resting tensor is an ordinary value of the graph that wants no gradient: planning then drops the backward work by
 * itself, down to the lowest tensor that is trained.
 */
#include <stdio.h>

#include "method/adapter.h"

static int32_t height_of(const peft_adapter *adapter, const peft__module *module) {
    const peft__dims *dims = peft__model_dims(adapter->model);
    const bool decoder = dims->num_decoder_layers > 0 && strncmp(module->name, "decoder.", 8) == 0;
    return (int32_t)(decoder ? dims->num_decoder_layers : dims->num_hidden_layers);
}

static int32_t tallest(const peft_adapter *adapter) {
    const peft__dims *dims = peft__model_dims(adapter->model);
    return (int32_t)peft__max_i64(dims->num_hidden_layers, dims->num_decoder_layers);
}

/* Modules are declared in the order in which they compute: what comes before the first layer is before all layers. */
static bool before_layers(const peft_adapter *adapter, const peft__module *module) {
    for (uint32_t i = 0; i < module->index; i++)
        if (peft__model_module_at(adapter->model, i)->layer >= 0) return false;
    return true;
}

static int32_t module_depth(const peft_adapter *adapter, const peft__module *module) {
    if (module->layer >= 0) return (int32_t)peft__max_i64(1, height_of(adapter, module) - module->layer);
    if (module->is_head || module->is_new || !before_layers(adapter, module)) return 0;
    return tallest(adapter) + 1;
}

/* Is `run` the first components of `name`? */
static bool begins(const char *name, const char *run, size_t length) {
    return strncmp(name, run, length) == 0 && name[length] == '.';
}

/* Length of "bert.encoder.layer.3" in the name of a module of layer 3; 0 where the number is not in it. */
static size_t layer_run(const peft__module *module) {
    char number[16];
    const int digits = snprintf(number, sizeof number, "%d", (int)module->layer);
    for (const char *at = module->name; at != NULL; at = strchr(at, '.')) {
        at += *at == '.';
        if (strncmp(at, number, (size_t)digits) == 0 && (at[digits] == '.' || at[digits] == 0))
            return (size_t)(at - module->name) + (size_t)digits;
    }
    return 0;
}

int32_t peft__adapter_depth(const peft_adapter *adapter, uint32_t index) {
    const char *base = adapter->slots[index].base;
    if (base != NULL) {
        int part = 0;
        const peft__module *module = peft__model_split(adapter->model, base, &part);
        return module != NULL ? module_depth(adapter, module) : 0;
    }
    const char *name = adapter->params[index].name;
    static const char *const wrappers[] = {"base_model.model.", "base_model."};
    for (size_t i = 0; i < PEFT_COUNT(wrappers); i++) {
        if (strncmp(name, wrappers[i], strlen(wrappers[i])) != 0) continue;
        name += strlen(wrappers[i]);
        break;
    }
    int32_t layer = 0;
    for (uint32_t i = 0; i < peft__model_module_count(adapter->model); i++) {
        const peft__module *module = peft__model_module_at(adapter->model, i);
        if (begins(name, module->name, strlen(module->name))) return module_depth(adapter, module);
        const size_t run = module->layer >= 0 ? layer_run(module) : 0; /* tensors of whole sub-layers */
        if (run > 0 && begins(name, module->name, run)) layer = module_depth(adapter, module);
    }
    return layer;
}

peft_status peft_adapter_set_top_layers(peft_adapter *adapter, int32_t layers) {
    if (adapter == NULL) return PEFT_E_ARG;
    if (layers < -1)
        return peft__fail(adapter->ctx, PEFT_E_ARG, "peft_adapter_set_top_layers: expected -1 or more, found %d",
                          layers);
    if (layers == adapter->top_layers) return PEFT_OK;
    int64_t trained = 0;
    for (uint32_t i = 0; i < adapter->count; i++)
        if (!(adapter->params[i].flags & PEFT__PARAM_FROZEN) &&
            (layers < 0 || peft__adapter_depth(adapter, i) <= layers))
            trained += adapter->params[i].elements;
    if (trained == 0)
        return peft__fail(adapter->ctx, PEFT_E_ARG,
                          "peft_adapter_set_top_layers: the top %d layers leave nothing of the adapter to train",
                          layers);
    for (uint32_t i = 0; i < adapter->count; i++) {
        peft__param *param = &adapter->params[i];
        const bool rests = layers >= 0 && peft__adapter_depth(adapter, i) > layers;
        param->flags = rests ? param->flags | PEFT__PARAM_RESTING : param->flags & ~(uint32_t)PEFT__PARAM_RESTING;
    }
    adapter->top_layers = layers;
    adapter->layout++;
    return PEFT_OK;
}

int32_t peft_adapter_top_layers(const peft_adapter *adapter) {
    return adapter != NULL ? adapter->top_layers : -1;
}
