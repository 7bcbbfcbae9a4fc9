/* arch_table.h: the rows of the table of architectures, each defined in the file of its architecture. */
#ifndef PEFT_MODEL_ARCH_TABLE_H
#define PEFT_MODEL_ARCH_TABLE_H

#include "model/model.h"

extern const peft__arch peft__arch_llama, peft__arch_mistral, peft__arch_qwen2, peft__arch_qwen3, peft__arch_smollm3;
extern const peft__arch peft__arch_gemma, peft__arch_gemma2, peft__arch_phi3, peft__arch_gpt2;
extern const peft__arch peft__arch_bert, peft__arch_roberta, peft__arch_xlm_roberta, peft__arch_camembert, peft__arch_distilbert;
extern const peft__arch peft__arch_electra, peft__arch_albert;
extern const peft__arch peft__arch_vit, peft__arch_deit;
extern const peft__arch peft__arch_t5, peft__arch_t5_encoder, peft__arch_mt5;

#endif
