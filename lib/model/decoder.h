/* decoder.h: the family of causal decoders that grew out of Llama, as one builder driven by a table.
 *
 * Pre-norm blocks of rotary self-attention (keys and values shared by groups of heads) and a gated feed-forward layer. What
 * distinguishes the members is a handful of choices, which a variant states; its numbers come from config.json. A new
 * member is one variant and one row of the table of architectures.
 */
#ifndef PEFT_MODEL_DECODER_H
#define PEFT_MODEL_DECODER_H

#include "graph/ops.h"
#include "model/build.h"
#include "model/model.h"

enum {
    PEFT__DECODER_QKV_BIAS = 1u,          /* q, k and v have biases, o has none (Qwen2) */
    PEFT__DECODER_BIAS_KEYS = 2u,         /* attention_bias (q, k, v, o) and mlp_bias decide */
    PEFT__DECODER_QK_NORM = 4u,           /* RMSNorm over each head of q and k before rotation (Qwen3) */
    PEFT__DECODER_WINDOW = 8u,            /* sliding_window holds for every layer (Mistral, Phi-3) */
    PEFT__DECODER_WINDOW_LAYERS = 16u,    /* use_sliding_window, max_window_layers, layer_types (Qwen) */
    PEFT__DECODER_SOME_NO_ROPE = 32u,     /* no_rope_layers, no_rope_layer_interval (SmolLM3) */
    PEFT__DECODER_GGUF_INTERLEAVED = 64u, /* GGUF files hold q and k rows interleaved */
    PEFT__DECODER_NORM_OFFSET = 128u,     /* norms multiply by 1 + weight; GGUF files hold the sum (Gemma) */
    PEFT__DECODER_EMBED_SCALE = 256u,     /* embeddings times sqrt(hidden_size) (Gemma) */
    PEFT__DECODER_POST_NORMS = 512u,      /* a norm after each sub-layer too, every other layer slides (Gemma 2) */
    PEFT__DECODER_FUSED = 1024u,          /* one qkv_proj and one gate_up_proj (Phi-3) */
};

typedef struct peft__decoder_variant {
    const char *class_prefix;    /* "Llama" of "LlamaForCausalLM" */
    const char *gguf_arch;       /* prefix of GGUF keys */
    uint32_t flags;
    /* What the configuration class of transformers assumes where a key is missing. */
    double rope_theta;
    int64_t max_positions;
    int64_t head_dim;            /* 0 = hidden_size / num_attention_heads */
    int64_t num_key_value_heads; /* 0 = num_attention_heads */
    int64_t sliding_window;      /* 0 = none */
    const char *hidden_act;
    bool tie_word_embeddings;
} peft__decoder_variant;

typedef struct peft__decoder_config {
    const peft__decoder_variant *variant;
    peft__activation activation;
    float attention_scale, attention_cap, logit_cap, embedding_scale, norm_offset;
    peft__rope_config rope;
    const int64_t *windows; /* [layers] 0 = all earlier keys */
    const bool *no_rope;    /* [layers] */
} peft__decoder_config;

/* decoder_config.c */
peft_status peft__decoder_configure(peft_context *ctx, peft_model *model, const peft__decoder_variant *variant);
/* decoder_gguf.c */
peft_status peft__decoder_config_from_gguf(peft_context *ctx, const void *gguf, json_t *config,
                                           const peft__decoder_variant *variant);
char *peft__decoder_gguf_name(const peft_model *model, peft__arena *arena, const char *tensor);
/* decoder.c: body and head of every variant */
peft__value *peft__decoder_build(peft__build *b);
void peft__decoder_build_head(peft__build *b, peft__value *hidden);

#endif
