/* lora_merge.c: LoRA's change of a weight matrix: added to it, or as two factors (lora.h). */
#include <math.h>

#include "method/lora.h"

peft_status peft__lora_read_weight(const peft_adapter *adapter, const peft__module *module, float **out_weight) {
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
static void add_by_rows(const peft__lora_layer *layer, const float *a, const float *b, float factor, float *weight) {
    const int64_t in = layer->module->in, out = layer->module->out, r = layer->rank;
    for (int64_t o = 0; o < out; o++)
        for (int64_t j = 0; j < r; j++) {
            const float f = factor * b[o * r + j];
            float *to = weight + o * in;
            for (int64_t i = 0; i < in; i++) to[i] += f * a[j * in + i];
        }
}

/* W [in, out] += factor * (B A)^T, one input (token) at a time. */
static void add_by_columns(const peft__lora_layer *layer, const float *a, const float *b, float factor, float *weight) {
    const int64_t in = layer->module->in, out = layer->module->out, r = layer->rank;
    for (int64_t i = 0; i < in; i++)
        for (int64_t j = 0; j < r; j++) {
            const float f = factor * a[j * in + i];
            float *to = weight + i * out;
            for (int64_t o = 0; o < out; o++) to[o] += f * b[o * r + j];
        }
}

static void add_product(const peft_adapter *adapter, const peft__lora_layer *layer, uint32_t a, uint32_t b,
                        float factor, float *weight) {
    if (layer->module->kind == PEFT_MODULE_LINEAR)
        add_by_rows(layer, adapter->params[a].data, adapter->params[b].data, factor, weight);
    else
        add_by_columns(layer, adapter->params[a].data, adapter->params[b].data, factor, weight);
}

void peft__lora_add_delta(const peft_adapter *adapter, const peft__lora_layer *layer, float factor, float *weight) {
    add_product(adapter, layer, layer->a, layer->b, factor * layer->scale, weight);
    if (layer->a0 != PEFT__LORA_NONE) add_product(adapter, layer, layer->a0, layer->b0, -factor * layer->scale, weight);
}

int64_t peft__lora_rank(const peft__lora_layer *layer) {
    return layer->a0 != PEFT__LORA_NONE ? 2 * layer->rank : layer->rank;
}

void peft__lora_factors(const peft_adapter *adapter, const peft__lora_layer *layer, float *a, float *b) {
    const int64_t in = layer->module->in, out = layer->module->out, r = layer->rank, all = peft__lora_rank(layer);
    const uint32_t as[] = {layer->a, layer->a0}, bs[] = {layer->b, layer->b0};
    for (int64_t part = 0; part * r < all; part++) {
        memcpy(a + part * r * in, adapter->params[as[part]].data, (size_t)(r * in) * sizeof *a);
        const float *from = adapter->params[bs[part]].data;
        for (int64_t o = 0; o < out; o++)
            for (int64_t j = 0; j < r; j++) b[o * all + part * r + j] = part == 0 ? from[o * r + j] : -from[o * r + j];
    }
}

/* Length of W's row for output o, W [out, in] or [in, out] as the module says. */
float peft__lora_row_length(const peft__module *module, const float *weight, int64_t o) {
    const bool by_rows = module->kind == PEFT_MODULE_LINEAR;
    const int64_t start = by_rows ? o * module->in : o, step = by_rows ? 1 : module->out;
    double sum = 0.0;
    for (int64_t i = 0; i < module->in; i++) {
        const double w = (double)weight[start + i * step];
        sum += w * w;
    }
    return (float)sqrt(sum);
}

/* ---- merging ------------------------------------------------------------------------------------------------ */

uint32_t peft__lora_changes(const peft_adapter *adapter, const peft__module *module) {
    const peft__lora_layer *layer = peft__lora_layer_of(adapter, module);
    if (layer == NULL) return 0;
    return PEFT__CHANGES_WEIGHT | (layer->bias != PEFT__LORA_NONE ? PEFT__CHANGES_BIAS : 0u);
}

static peft_status merge_dora(const peft_adapter *adapter, const peft__lora_layer *layer, float *weight) {
    const peft__module *module = layer->module;
    const size_t bytes = (size_t)(module->in * module->out) * sizeof(float);
    float *changed = peft__alloc(adapter->ctx->mem, bytes);
    if (changed == NULL) return peft__fail_nomem(adapter->ctx, bytes, "a merged matrix");
    memcpy(changed, weight, bytes);
    peft__lora_add_delta(adapter, layer, 1.0f, changed);
    const bool by_rows = module->kind == PEFT_MODULE_LINEAR;
    const float *magnitude = adapter->params[layer->magnitude].data;
    for (int64_t o = 0; o < module->out; o++) {
        const float gain = magnitude[o] / peft__lora_row_length(module, changed, o);
        for (int64_t i = 0; i < module->in; i++) {
            const int64_t at = by_rows ? o * module->in + i : i * module->out + o;
            weight[at] += adapter->scale * (gain * changed[at] - weight[at]);
        }
    }
    peft__free(adapter->ctx->mem, changed);
    return PEFT_OK;
}

peft_status peft__lora_merge(const peft_adapter *adapter, const peft__module *module, float *weight, float *bias) {
    const peft__lora_layer *layer = peft__lora_layer_of(adapter, module);
    if (bias != NULL)
        for (int64_t o = 0; o < module->out; o++)
            bias[o] += adapter->scale * layer->scale * adapter->params[layer->bias].data[o];
    if (weight == NULL) return PEFT_OK;
    if (layer->magnitude != PEFT__LORA_NONE) return merge_dora(adapter, layer, weight);
    peft__lora_add_delta(adapter, layer, adapter->scale, weight);
    return PEFT_OK;
}
