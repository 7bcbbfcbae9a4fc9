/* decoder_row.h: one row of the table of architectures for one variant of the decoder. */
#ifndef PEFT_MODEL_DECODER_ROW_H
#define PEFT_MODEL_DECODER_ROW_H

#include "model/decoder.h"

/* configure() and config_from_gguf() of one variant, and its row. */
#define PEFT__DECODER_ROW(id, model_type_text, gguf_text)                                                              \
    static peft_status configure_##id(peft_context *ctx, peft_model *model) {                                          \
        return peft__decoder_configure(ctx, model, &id);                                                               \
    }                                                                                                                  \
    static peft_status config_##id(peft_context *ctx, const void *gguf, json_t *config) {                              \
        return peft__decoder_config_from_gguf(ctx, gguf, config, &id);                                                 \
    }                                                                                                                  \
    const peft__arch peft__arch_##id = {.model_type = model_type_text,                                                 \
                                        .gguf_arch = gguf_text,                                                        \
                                        .base_prefix = "model.",                                                       \
                                        .default_task = PEFT_TASK_CAUSAL_LM,                                           \
                                        .config_from_gguf = config_##id,                                               \
                                        .configure = configure_##id,                                                   \
                                        .gguf_name = peft__decoder_gguf_name,                                          \
                                        .build = peft__decoder_build,                                                  \
                                        .build_head = peft__decoder_build_head,                                        \
                                        .heads = peft__decoder_heads}

#endif
