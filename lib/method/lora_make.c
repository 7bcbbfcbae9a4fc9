/* lora_make.c: plain LoRA adapters made of parts, for combining adapters and for reading them from other formats.
 *
 * The configuration names every layer in full, with rank_pattern and alpha_pattern where a layer's numbers differ from
 * the largest ones, so that it means the same to HF PEFT.
 */
#include "method/adapter_make.h"
#include "method/lora.h"

static bool set_number(json_t *object, const char *key, double value, bool whole) {
    const bool integral = whole || value == (double)(json_int_t)value;
    return json_object_set_new(object, key, integral ? json_integer((json_int_t)value) : json_real(value)) == 0;
}

static bool fill_config(json_t *config, const peft__lora_part *parts, uint32_t count, const char *base_name) {
    uint32_t widest = 0;
    for (uint32_t i = 0; i < count; i++)
        if (parts[i].rank > parts[widest].rank) widest = i;
    json_t *names = json_array(), *ranks = json_object(), *alphas = json_object();
    bool good = names != NULL && ranks != NULL && alphas != NULL;
    for (uint32_t i = 0; good && i < count; i++) {
        const char *name = parts[i].module->name;
        good = json_array_append_new(names, json_string(name)) == 0;
        if (parts[i].rank != parts[widest].rank) good = good && set_number(ranks, name, (double)parts[i].rank, true);
        if (parts[i].alpha != parts[widest].alpha) good = good && set_number(alphas, name, parts[i].alpha, false);
    }
    good = good && json_object_set_new(config, "peft_type", json_string("LORA")) == 0;
    good = good && json_object_set(config, "target_modules", names) == 0;
    good = good && json_object_set(config, "rank_pattern", ranks) == 0;
    good = good && json_object_set(config, "alpha_pattern", alphas) == 0;
    good = good && set_number(config, "r", (double)parts[widest].rank, true);
    good = good && set_number(config, "lora_alpha", parts[widest].alpha, false);
    if (base_name != NULL)
        good = good && json_object_set_new(config, "base_model_name_or_path", json_string(base_name)) == 0;
    json_decref(names);
    json_decref(ranks);
    json_decref(alphas);
    return good;
}

peft_status peft__lora_make(peft_context *ctx, peft_model *model, const char *where, const peft__lora_part *parts,
                            uint32_t count, const char *base_name, peft_adapter **out_adapter) {
    if (count == 0) return peft__fail(ctx, PEFT_E_MISMATCH, "%s: there is no layer to adapt", where);
    json_t *config = json_object();
    const peft_status status = config != NULL && fill_config(config, parts, count, base_name)
                                   ? peft__adapter_make(ctx, model, where, config, false, out_adapter)
                                   : peft__fail_nomem(ctx, 256, "an adapter's configuration");
    json_decref(config);
    return status;
}

peft_status peft__lora_check_plain(const peft_adapter *adapter, const char *doing) {
    peft_context *ctx = adapter->ctx;
    static const char *const OFFER = "merge it into the base instead (peft_model_merge, peft_model_save)";
    if (!peft__is_lora(adapter))
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: %s is not LoRA; %s", doing, adapter->method->peft_type, OFFER);
    const peft__lora *l = adapter->state;
    if (l->dora)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s cannot hold the lengths of DoRA (use_dora); %s", doing, OFFER);
    if (l->lora_bias)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s cannot hold the biases of lora_bias; %s", doing, OFFER);
    for (uint32_t i = 0; i < adapter->count; i++)
        if (adapter->slots[i].base != NULL)
            return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                              "%s cannot hold %s, which stands for a tensor of the base (bias, modules_to_save); %s",
                              doing, adapter->params[i].name, OFFER);
    for (uint32_t i = 0; i < l->count; i++)
        if (l->layers[i].table != NULL)
            return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s cannot hold the table that the adapter brings for %s; %s",
                              doing, l->layers[i].module->name, OFFER);
    return PEFT_OK;
}
