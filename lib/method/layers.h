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

/* Module index -> index in targets + 1; in the adapter's arena. */
peft_status peft__layers_index(peft_adapter *adapter, const peft__targets *targets, uint32_t **out_by_module);

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

/* Writes row o of a change of W [out, in] to `row`. */
typedef void (*peft__layers_row)(const void *user, int64_t o, float *row);
/* weight += factor * change, weight [out, in], or [in, out] of a Conv1D. */
peft_status peft__layers_merge(peft_context *ctx, const peft__module *module, peft__layers_row row, const void *user,
                               float factor, float *weight);

/* A stored matrix [out, in] of rows by rows: y += x W^T. */
static inline bool peft__layers_conv(const peft__module *module) {
    return module->kind == PEFT_MODULE_CONV1D;
}

#endif
