/* decoder_gguf.c: what a decoder is called, and how its numbers are spelt, in GGUF files.
 *
 * The metadata becomes the config.json that Hugging Face would have, so that everything after this point knows one form
 * only, and a model read from GGUF can be written as a Hugging Face folder.
 */
#include "model/decoder.h"
#include "model/gguf_config.h"

#include <math.h>
#include <stdio.h>

enum { KEY_BYTES = PEFT__GGUF_KEY_BYTES };

typedef peft__gguf_reader reader;

/* ---- rotary embedding ------------------------------------------------------------------------------------- */

static peft_status put_factors(const reader *r, json_t *scaling, const char *name, const peft__tensor *tensor,
                               int64_t half) {
    if (tensor->ndim != 1 || tensor->shape[0] != half)
        return peft__fail(r->ctx, PEFT_E_MISMATCH, "%s: tensor %s: expected %lld elements", tensor->file, tensor->name,
                          (long long)half);
    PEFT_TRY(peft__tensor_check_float(r->ctx, tensor));
    float *values = peft__alloc(r->ctx->mem, (size_t)half * sizeof *values);
    json_t *list = json_array();
    peft_status status = values == NULL || list == NULL
                             ? peft__fail_nomem(r->ctx, (size_t)half * sizeof *values, "the rotary frequencies")
                             : peft__tensor_read_f32(r->ctx, tensor, values);
    for (int64_t i = 0; status >= 0 && i < half; i++) {
        if (!isfinite(values[i]))
            status = peft__fail(r->ctx, PEFT_E_NONFINITE, "%s: tensor %s: element %lld is not finite", tensor->file,
                                tensor->name, (long long)i);
        else if (json_array_append_new(list, json_real((double)values[i])) != 0)
            status = peft__fail_nomem(r->ctx, 64, "the rotary frequencies");
    }
    peft__free(r->ctx->mem, values);
    if (status < 0) {
        json_decref(list);
        return status;
    }
    return peft__gguf_put(r, scaling, name, list);
}

/* Divisors of the inverse frequencies, which converters bake into tensors (Llama 3, Phi-3). transformers calls the same
 * thing longrope; with one list for both lengths and a factor of 1 it is exactly these divisors. */
static peft_status scaling_from_tensors(const reader *r, int64_t half, json_t *scaling) {
    const peft__tensors *tensors = peft__gguf_tensors(r->gguf);
    const peft__tensor *both = peft__tensors_find(tensors, "rope_freqs.weight");
    const peft__tensor *longer = both != NULL ? both : peft__tensors_find(tensors, "rope_factors_long.weight");
    const peft__tensor *shorter = both != NULL ? both : peft__tensors_find(tensors, "rope_factors_short.weight");
    if (longer == NULL || shorter == NULL) return PEFT_OK;
    char full[KEY_BYTES];
    double attention = 1;
    int64_t original = 0;
    PEFT_TRY(peft__gguf_get_float(r->gguf, peft__gguf_key(r, "rope.scaling.attn_factor", full), 1, &attention));
    PEFT_TRY(peft__gguf_get_int(r->gguf, peft__gguf_key(r, "rope.scaling.original_context_length", full), 0, INT32_MAX,
                                0, &original));
    PEFT_TRY(peft__gguf_put(r, scaling, "rope_type", json_string("longrope")));
    PEFT_TRY(put_factors(r, scaling, "short_factor", shorter, half));
    PEFT_TRY(put_factors(r, scaling, "long_factor", longer, half));
    if (original > 0) PEFT_TRY(peft__gguf_put(r, scaling, "original_max_position_embeddings", json_integer(original)));
    return peft__gguf_put(r, scaling, "attention_factor", json_real(peft__gguf_tidy(attention)));
}

static peft_status scaling_from_keys(const reader *r, json_t *scaling) {
    char full[KEY_BYTES];
    const char *type = NULL;
    double factor = 1, attention = 1;
    int64_t original = 0;
    PEFT_TRY(peft__gguf_get_string(r->gguf, peft__gguf_key(r, "rope.scaling.type", full), "none", &type));
    PEFT_TRY(peft__gguf_get_float(r->gguf, peft__gguf_key(r, "rope.scaling.factor", full), 1, &factor));
    PEFT_TRY(peft__gguf_get_float(r->gguf, peft__gguf_key(r, "rope.scaling.attn_factor", full), 1, &attention));
    PEFT_TRY(peft__gguf_get_int(r->gguf, peft__gguf_key(r, "rope.scaling.original_context_length", full), 0, INT32_MAX,
                                0, &original));
    if (strcmp(type, "none") == 0 || strcmp(type, "longrope") == 0) return PEFT_OK;
    const bool yarn = strcmp(type, "yarn") == 0;
    if (!yarn && strcmp(type, "linear") != 0)
        return peft__fail(r->ctx, PEFT_E_UNSUPPORTED, "%s: rope.scaling.type \"%s\" is not built",
                          peft__tensors_name(peft__gguf_tensors(r->gguf)), type);
    if (!(factor > 0))
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: rope.scaling.factor is %g",
                          peft__tensors_name(peft__gguf_tensors(r->gguf)), factor);
    PEFT_TRY(peft__gguf_put(r, scaling, "rope_type", json_string(type)));
    PEFT_TRY(peft__gguf_put(r, scaling, "factor", json_real(peft__gguf_tidy(factor))));
    if (!yarn) return PEFT_OK;
    if (original > 0) PEFT_TRY(peft__gguf_put(r, scaling, "original_max_position_embeddings", json_integer(original)));
    const double scale = factor > 1 ? attention * (0.1 * log(factor) + 1) : attention;
    return peft__gguf_put(r, scaling, "attention_factor", json_real(scale));
}

static peft_status copy_rope(const reader *r, int64_t head_dim) {
    char full[KEY_BYTES];
    double theta = 10000;
    int64_t rotated = 0;
    PEFT_TRY(peft__gguf_get_float(r->gguf, peft__gguf_key(r, "rope.freq_base", full), 10000, &theta));
    PEFT_TRY(
        peft__gguf_get_int(r->gguf, peft__gguf_key(r, "rope.dimension_count", full), 0, INT32_MAX, head_dim, &rotated));
    if (rotated <= 0 || rotated > head_dim)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: %s: expected 1 to %lld, found %lld",
                          peft__tensors_name(peft__gguf_tensors(r->gguf)), full, (long long)head_dim,
                          (long long)rotated);
    PEFT_TRY(peft__gguf_put(r, r->config, "rope_theta", json_real(peft__gguf_tidy(theta))));
    if (rotated != head_dim)
        PEFT_TRY(peft__gguf_put(r, r->config, "partial_rotary_factor", json_real((double)rotated / (double)head_dim)));
    json_t *scaling = json_object();
    if (scaling == NULL) return peft__fail_nomem(r->ctx, 64, "the model's configuration");
    peft_status status = scaling_from_tensors(r, rotated / 2, scaling);
    if (status >= 0 && json_object_size(scaling) == 0) status = scaling_from_keys(r, scaling);
    if (status < 0 || json_object_size(scaling) == 0) {
        json_decref(scaling);
        return status;
    }
    return peft__gguf_put(r, r->config, "rope_scaling", scaling);
}

/* ---- all keys --------------------------------------------------------------------------------------------- */

/* Head size: from the key, else the width over the heads. */
static peft_status copy_head_dim(const reader *r, int64_t *out) {
    char full[KEY_BYTES];
    int64_t key = 0, value = 0;
    const int64_t hidden = json_integer_value(json_object_get(r->config, "hidden_size"));
    const int64_t heads = json_integer_value(json_object_get(r->config, "num_attention_heads"));
    const char *file = peft__tensors_name(peft__gguf_tensors(r->gguf));
    if (heads <= 0 || hidden <= 0)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: %lld heads for a width of %lld", file, (long long)heads,
                          (long long)hidden);
    PEFT_TRY(peft__gguf_get_int(r->gguf, peft__gguf_key(r, "attention.key_length", full), 1, 65536, 0, &key));
    PEFT_TRY(peft__gguf_get_int(r->gguf, peft__gguf_key(r, "attention.value_length", full), 1, 65536, key, &value));
    if (value != key)
        return peft__fail(r->ctx, PEFT_E_UNSUPPORTED, "%s: keys of %lld and values of %lld columns are not built", file,
                          (long long)key, (long long)value);
    if (key == 0 && hidden % heads != 0)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: the width %lld is not a multiple of %lld heads", file,
                          (long long)hidden, (long long)heads);
    *out = key != 0 ? key : hidden / heads;
    return peft__gguf_put(r, r->config, "head_dim", json_integer(*out));
}

/* Gemma 2. Files without attention.scale mean the head size, but for the 27B model, known by its 46 layers, the width
 * over the heads. */
static peft_status copy_caps(const reader *r, int64_t head_dim) {
    char full[KEY_BYTES];
    double scale = 0, query = (double)head_dim;
    PEFT_TRY(peft__gguf_copy_float(r, "attn_logit_softcapping", "attn_logit_softcapping", 50));
    PEFT_TRY(peft__gguf_copy_float(r, "final_logit_softcapping", "final_logit_softcapping", 30));
    PEFT_TRY(peft__gguf_get_float(r->gguf, peft__gguf_key(r, "attention.scale", full), 0, &scale));
    if (json_integer_value(json_object_get(r->config, "num_hidden_layers")) == 46)
        query = (double)json_integer_value(json_object_get(r->config, "hidden_size")) /
                (double)json_integer_value(json_object_get(r->config, "num_attention_heads"));
    if (scale > 0) query = peft__gguf_tidy((double)(float)(1 / (scale * scale)));
    return peft__gguf_put(r, r->config, "query_pre_attn_scalar", json_real(query));
}

peft_status peft__decoder_config_from_gguf(peft_context *ctx, const void *gguf, json_t *config,
                                           const peft__decoder_variant *variant) {
    const reader r = {ctx, gguf, config, variant->gguf_arch};
    int64_t head_dim = 0;
    PEFT_TRY(peft__gguf_copy_int(&r, "embedding_length", "hidden_size", -1));
    PEFT_TRY(peft__gguf_copy_int(&r, "feed_forward_length", "intermediate_size", -1));
    PEFT_TRY(peft__gguf_copy_int(&r, "block_count", "num_hidden_layers", -1));
    PEFT_TRY(peft__gguf_copy_int(&r, "attention.head_count", "num_attention_heads", -1));
    PEFT_TRY(peft__gguf_copy_int(&r, "attention.head_count_kv", "num_key_value_heads",
                                 json_integer_value(json_object_get(config, "num_attention_heads"))));
    PEFT_TRY(peft__gguf_copy_int(&r, "context_length", "max_position_embeddings", variant->max_positions));
    PEFT_TRY(peft__gguf_copy_float(&r, "attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-6));
    const double eps = json_real_value(json_object_get(config, "rms_norm_eps"));
    PEFT_TRY(peft__gguf_put(&r, config, "rms_norm_eps", json_real(peft__gguf_tidy(eps))));
    PEFT_TRY(copy_head_dim(&r, &head_dim));
    PEFT_TRY(copy_rope(&r, head_dim));
    PEFT_TRY(peft__gguf_copy_vocabulary(&r));
    PEFT_TRY(peft__gguf_copy_token_ids(&r));
    if ((variant->flags & PEFT__DECODER_POST_NORMS) != 0) PEFT_TRY(copy_caps(&r, head_dim));
    const uint32_t slides = PEFT__DECODER_WINDOW | PEFT__DECODER_POST_NORMS;
    if ((variant->flags & slides) != 0)
        PEFT_TRY(peft__gguf_copy_int(&r, "attention.sliding_window", "sliding_window", 0));
    PEFT_TRY(peft__gguf_put(&r, config, "hidden_act", json_string(variant->hidden_act)));
    if ((variant->flags & PEFT__DECODER_BIAS_KEYS) != 0) {
        const peft__tensors *tensors = peft__gguf_tensors(gguf);
        PEFT_TRY(peft__gguf_put(&r, config, "attention_bias",
                                json_boolean(peft__tensors_find(tensors, "blk.0.attn_q.bias") != NULL)));
        PEFT_TRY(peft__gguf_put(&r, config, "mlp_bias",
                                json_boolean(peft__tensors_find(tensors, "blk.0.ffn_down.bias") != NULL)));
    }
    return peft__gguf_put_class(&r, variant->class_prefix, "ForCausalLM");
}

/* ---- names ----------------------------------------------------------------------------------------------- */

static const peft__gguf_rename layer_names[] = {
    {"self_attn.q_proj.", "attn_q."},
    {"self_attn.k_proj.", "attn_k."},
    {"self_attn.v_proj.", "attn_v."},
    {"self_attn.o_proj.", "attn_output."},
    {"self_attn.qkv_proj.", "attn_qkv."},
    {"self_attn.q_norm.", "attn_q_norm."},
    {"self_attn.k_norm.", "attn_k_norm."},
    {"mlp.gate_proj.", "ffn_gate."},
    {"mlp.up_proj.", "ffn_up."},
    {"mlp.gate_up_proj.", "ffn_up."},
    {"mlp.down_proj.", "ffn_down."},
    {"input_layernorm.", "attn_norm."},
    {"pre_feedforward_layernorm.", "ffn_norm."},
    {"post_feedforward_layernorm.", "post_ffw_norm."},
};

static const peft__gguf_rename outer_names[] = {
    {"embed_tokens.", "token_embd."}, {"norm.", "output_norm."}, {"lm_head.", "output."}};

char *peft__decoder_gguf_name(const peft_model *model, peft__arena *arena, const char *tensor) {
    const peft__decoder_config *c = peft__model_arch_config(model);
    if (strncmp(tensor, "model.", 6) == 0) tensor += 6;
    long long layer = 0;
    const char *rest = peft__gguf_split_layer(tensor, "layers.", &layer);
    if (rest == NULL) return peft__gguf_renamed(arena, "", outer_names, PEFT_COUNT(outer_names), tensor);
    static const char after_attention[] = "post_attention_layernorm.";
    if (strncmp(rest, after_attention, sizeof after_attention - 1) == 0) {
        /* Before Gemma 2 the norm of this name stood before the feed-forward layer. */
        const bool post = (c->variant->flags & PEFT__DECODER_POST_NORMS) != 0;
        return peft__arena_strfmt(arena, "blk.%lld.%s%s", layer, post ? "post_attention_norm." : "ffn_norm.",
                                  rest + sizeof after_attention - 1);
    }
    char front[48];
    (void)snprintf(front, sizeof front, "blk.%lld.", layer);
    return peft__gguf_renamed(arena, front, layer_names, PEFT_COUNT(layer_names), rest);
}
