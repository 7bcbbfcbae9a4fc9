/* arch_table.c: which architectures there are. */
#include "model/arch_table.h"

static const peft__arch *const table[] = {
    &peft__arch_llama,   &peft__arch_mistral, &peft__arch_qwen2,  &peft__arch_qwen3,
    &peft__arch_smollm3, &peft__arch_gemma,   &peft__arch_gemma2, &peft__arch_phi3,    &peft__arch_gpt2,
    &peft__arch_bert,    &peft__arch_roberta, &peft__arch_xlm_roberta, &peft__arch_camembert,
    &peft__arch_distilbert, &peft__arch_electra, &peft__arch_albert,
    &peft__arch_t5,      &peft__arch_mt5,     &peft__arch_t5_encoder,
    &peft__arch_vit,     &peft__arch_deit,
};

static const peft__arch *find(const peft__arch *const *rows, size_t count, const char *name, bool gguf) {
    for (size_t i = 0; i < count; i++) {
        const char *own = gguf ? rows[i]->gguf_arch : rows[i]->model_type;
        if (own != NULL && strcmp(own, name) == 0) return rows[i];
    }
    return NULL;
}

const peft__arch *peft__arch_find(peft_context *ctx, const char *model_type, bool gguf) {
    const peft__arch *row = find(ctx->extra_archs, ctx->extra_arch_count, model_type, gguf);
    return row != NULL ? row : find(table, PEFT_COUNT(table), model_type, gguf);
}
