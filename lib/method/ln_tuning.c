/* ln_tuning.c: norm tuning: trained copies of the model's LayerNorms or RMSNorms, and nothing else.
 *
 * HF PEFT's LN_TUNING wraps each target in a trained copy; on disk X.ln_tuning_layers.weight (and .bias). The copies
 * stand for base tensors, so the graph, merging and saving follow from their declarations.
 */
#include "method/adapter.h"

/* What HF PEFT adapts when target_modules is null, by model_type. */
static const peft__default_targets TARGETS[] = {
    {"llama", {"input_layernorm", "post_attention_layernorm", "norm"}},
    {"bloom", {"input_layernorm", "post_attention_layernorm", "ln_f"}},
    {"t5", {"layer_norm", "final_layer_norm"}},
    {"mt5", {"layer_norm", "final_layer_norm"}},
    {"bart", {"self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"}},
    {"gpt2", {"ln_1", "ln_2", "ln_f"}},
    {"blip-2", {"layernorm", "LayerNorm", "final_layer_norm", "self_attn_layer_norm"}},
    {"gptj", {"ln_1", "ln_f"}},
    {"falcon", {"input_layernorm", "post_attention_layernorm", "ln_f"}},
    {"mistral", {"input_layernorm", "post_attention_layernorm", "norm"}},
    {"phi", {"input_layernorm", "final_layernorm"}},
    {"gemma", {"input_layernorm", "post_attention_layernorm", "norm"}},
    {"gemma2", {"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm", "norm"}},
    {"gemma3_text", {"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm", "norm"}},
    {"qwen2", {"post_attention_layernorm"}},
    {"qwen3", {"post_attention_layernorm"}},
    {NULL, {NULL}},
};

static peft_status declare(peft_adapter *adapter, const peft__module *module, bool bias) {
    const char *name = peft__adapter_text(adapter, "base_model.model.%s.ln_tuning_layers.%s", module->name, bias ? "bias" : "weight");
    return name == NULL ? PEFT_E_NOMEM : peft__adapter_declare_base(adapter, module, bias, name, name, NULL);
}

static peft_status configure(peft_adapter *adapter) {
    peft__targets targets = {NULL, 0};
    PEFT_TRY(peft__modules_to_save(adapter));
    PEFT_TRY(peft__targets_find(adapter, PEFT__KIND(PEFT_MODULE_NORM), TARGETS, &targets));
    for (uint32_t i = 0; i < targets.count; i++) {
        PEFT_TRY(declare(adapter, targets.modules[i], false));
        if (targets.modules[i]->has_bias) PEFT_TRY(declare(adapter, targets.modules[i], true));
    }
    return PEFT_OK;
}

static const peft__config_key KEYS[] = {
    {"exclude_modules", "null", PEFT__KEY_USED},
    {"modules_to_save", "null", PEFT__KEY_USED},
    {"target_modules", "null", PEFT__KEY_USED},
    {NULL, NULL, PEFT__KEY_USED},
};

const peft__method peft__method_ln_tuning = {
    .peft_type = "LN_TUNING",
    .flags = PEFT__METHOD_EXCHANGEABLE,
    .keys = KEYS,
    .hooks = &peft__adapter_hooks_base_only,
    .configure = configure,
    .changes = peft__adapter_changes_nothing,
};
