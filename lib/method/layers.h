/* layers.h: what methods that change linear layers share: which layers, their numbers, biases, and merging by rows.
 *
 * LoRA and its relatives differ in their formula for a layer; keys such as r, alpha, rank_pattern, bias and
 * fan_in_fan_out, and the names "base_model.model.<module>.<leaf>", are the same everywhere.
 */
#ifndef PEFT_METHOD_LAYERS_H
#define PEFT_METHOD_LAYERS_H

#include "method/adapter.h"

extern const peft__default_targets peft__lora_targets[]; /* lora_targets.c */

/* Sets config["fan_in_fan_out"] to what the layers are, as HF PEFT does, with a word in the log. */
peft_status peft__layers_fix_fan(peft_adapter *adapter, const peft__targets *targets);

/* The state of a method that changes chosen layers begins with this. */
typedef struct peft__layered {
    uint32_t *by_module; /* module index -> number of the layer + 1 */
    void *layers;        /* records of the method's own type */
    size_t layer_bytes;
    /* Row o of the change of W [out, in]; NULL where merging is no addition. */
    void (*row)(const peft_adapter *adapter, const void *layer, int64_t o, float *row);
} peft__layered;

/* Room for a record of `layer_bytes` for each target, cleared, in the adapter's arena. */
peft_status peft__layers_make(peft_adapter *adapter, const peft__targets *targets, peft__layered *out_layered,
                              size_t layer_bytes);

/* The record of a module, NULL when the method leaves it alone. */
const void *peft__layers_of(const peft_adapter *adapter, const peft__module *module);

/* Hooks and functions of the method's table that follow from the above. `additive`: it only adds after the layer. */
bool peft__layers_touches(void *self, const peft__module *module);
bool peft__layers_additive(void *self, const peft__module *module);
uint32_t peft__layers_changes(const peft_adapter *adapter, const peft__module *module);
peft_status peft__layers_merge(const peft_adapter *adapter, const peft__module *module, float *weight, float *bias);

/* The rank and alpha of a module: config["r"], config[alpha_key] and their patterns. */
peft_status peft__layers_numbers(peft_adapter *adapter, const peft__module *module, const char *alpha_key,
                                 int64_t *out_rank, double *out_alpha);

/* Trained biases of the base: config["bias"] is "none", "all", or `only` for those of adapted layers. */
peft_status peft__layers_biases(peft_adapter *adapter, const uint32_t *by_module, const char *only);

/* Declares "base_model.model.<module>.<leaf>", the same in the file as in memory; `declaration` without names. */
peft_status peft__layers_declare(peft_adapter *adapter, const peft__module *module, const char *leaf,
                                 peft__declaration declaration, uint32_t *out_index);

/* Uniform in +-1/sqrt(fan in) of a matrix [*, fan_in]: torch's Kaiming uniform with a = sqrt(5). */
void peft__layers_kaiming(peft__declaration *declaration);

/* A stored matrix [out, in] of rows by rows: y += x W^T. */
static inline bool peft__layers_conv(const peft__module *module) {
    return module->kind == PEFT_MODULE_CONV1D;
}

#endif
