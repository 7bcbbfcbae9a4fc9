/* decoder_gguf.c: what a decoder is called, and how its numbers are spelt, in GGUF files.
 *
 * The metadata becomes the config.json that Hugging Face would have, so that everything after this point knows one form
 * only, and a model read from GGUF can be written as a Hugging Face folder.
 */
#include "format/gguf.h"
#include "model/decoder.h"

#include <math.h>
#include <stdio.h>

enum { KEY_BYTES = 160 };

typedef struct reader {
    peft_context *ctx;
    const peft__gguf *gguf;
    json_t *config;
    const char *arch;
} reader;

static peft_status put(const reader *r, json_t *object, const char *key, json_t *value) {
    if (value == NULL || json_object_set_new(object, key, value) != 0)
        return peft__fail_nomem(r->ctx, 64, "the model's configuration");
    return PEFT_OK;
}

static const char *key_of(const reader *r, const char *key, char buffer[KEY_BYTES]) {
    (void)snprintf(buffer, KEY_BYTES, "%s.%s", r->arch, key);
    return buffer;
}

/* `fallback` < 0: the key must be there. Written to the config under `name`. */
static peft_status copy_int(const reader *r, const char *key, const char *name, int64_t fallback) {
    char full[KEY_BYTES];
    int64_t value = 0;
    key_of(r, key, full);
    if (fallback < 0 && !peft__gguf_has(r->gguf, full))
        PEFT_TRY(peft__gguf_need_int(r->gguf, full, 0, INT32_MAX, &value)); /* says what is missing */
    PEFT_TRY(peft__gguf_get_uniform_int(r->gguf, full, 0, INT32_MAX, fallback < 0 ? 0 : fallback, &value));
    return put(r, r->config, name, json_integer(value));
}

static peft_status copy_float(const reader *r, const char *key, const char *name, double fallback) {
    char full[KEY_BYTES];
    double value = 0;
    PEFT_TRY(peft__gguf_get_float(r->gguf, key_of(r, key, full), fallback, &value));
    return put(r, r->config, name, json_real(value));
}

/* A float32 as the shortest decimal that reads back as the same float: 1e-05, not 9.999999747378752e-06. */
static double tidy(double value) {
    for (int digits = 1; digits < 10; digits++) {
        char text[40];
        (void)snprintf(text, sizeof text, "%.*e", digits, value);
        for (char *c = text; *c != '\0'; c++)
            if (*c == ',') *c = '.'; /* a host's locale */
        double back = 0;
        if (peft__parse_f64(text, strlen(text), &back) && (float)back == (float)value) return back;
    }
    return value;
}

/* ---- rotary embedding ----------------------------------------------------------------------------------------------
 */

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
    return put(r, scaling, name, list);
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
    PEFT_TRY(peft__gguf_get_float(r->gguf, key_of(r, "rope.scaling.attn_factor", full), 1, &attention));
    PEFT_TRY(peft__gguf_get_int(r->gguf, key_of(r, "rope.scaling.original_context_length", full), 0, INT32_MAX, 0,
                                &original));
    PEFT_TRY(put(r, scaling, "rope_type", json_string("longrope")));
    PEFT_TRY(put_factors(r, scaling, "short_factor", shorter, half));
    PEFT_TRY(put_factors(r, scaling, "long_factor", longer, half));
    if (original > 0) PEFT_TRY(put(r, scaling, "original_max_position_embeddings", json_integer(original)));
    return put(r, scaling, "attention_factor", json_real(tidy(attention)));
}

static peft_status scaling_from_keys(const reader *r, json_t *scaling) {
    char full[KEY_BYTES];
    const char *type = NULL;
    double factor = 1, attention = 1;
    int64_t original = 0;
    PEFT_TRY(peft__gguf_get_string(r->gguf, key_of(r, "rope.scaling.type", full), "none", &type));
    PEFT_TRY(peft__gguf_get_float(r->gguf, key_of(r, "rope.scaling.factor", full), 1, &factor));
    PEFT_TRY(peft__gguf_get_float(r->gguf, key_of(r, "rope.scaling.attn_factor", full), 1, &attention));
    PEFT_TRY(peft__gguf_get_int(r->gguf, key_of(r, "rope.scaling.original_context_length", full), 0, INT32_MAX, 0,
                                &original));
    if (strcmp(type, "none") == 0 || strcmp(type, "longrope") == 0) return PEFT_OK;
    const bool yarn = strcmp(type, "yarn") == 0;
    if (!yarn && strcmp(type, "linear") != 0)
        return peft__fail(r->ctx, PEFT_E_UNSUPPORTED, "%s: rope.scaling.type \"%s\" is not built",
                          peft__tensors_name(peft__gguf_tensors(r->gguf)), type);
    if (!(factor > 0))
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: rope.scaling.factor is %g",
                          peft__tensors_name(peft__gguf_tensors(r->gguf)), factor);
    PEFT_TRY(put(r, scaling, "rope_type", json_string(type)));
    PEFT_TRY(put(r, scaling, "factor", json_real(tidy(factor))));
    if (!yarn) return PEFT_OK;
    if (original > 0) PEFT_TRY(put(r, scaling, "original_max_position_embeddings", json_integer(original)));
    const double scale = factor > 1 ? attention * (0.1 * log(factor) + 1) : attention;
    return put(r, scaling, "attention_factor", json_real(scale));
}

static peft_status copy_rope(const reader *r, int64_t head_dim) {
    char full[KEY_BYTES];
    double theta = 10000;
    int64_t rotated = 0;
    PEFT_TRY(peft__gguf_get_float(r->gguf, key_of(r, "rope.freq_base", full), 10000, &theta));
    PEFT_TRY(peft__gguf_get_int(r->gguf, key_of(r, "rope.dimension_count", full), 0, INT32_MAX, head_dim, &rotated));
    if (rotated <= 0 || rotated > head_dim)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: %s: expected 1 to %lld, found %lld",
                          peft__tensors_name(peft__gguf_tensors(r->gguf)), full, (long long)head_dim,
                          (long long)rotated);
    PEFT_TRY(put(r, r->config, "rope_theta", json_real(tidy(theta))));
    if (rotated != head_dim)
        PEFT_TRY(put(r, r->config, "partial_rotary_factor", json_real((double)rotated / (double)head_dim)));
    json_t *scaling = json_object();
    if (scaling == NULL) return peft__fail_nomem(r->ctx, 64, "the model's configuration");
    peft_status status = scaling_from_tensors(r, rotated / 2, scaling);
    if (status >= 0 && json_object_size(scaling) == 0) status = scaling_from_keys(r, scaling);
    if (status < 0 || json_object_size(scaling) == 0) {
        json_decref(scaling);
        return status;
    }
    return put(r, r->config, "rope_scaling", scaling);
}

/* ---- all keys -------------------------------------------------------------------------------------------------------
 */

static peft_status copy_token_ids(const reader *r) {
    static const char *const keys[][2] = {{"tokenizer.ggml.bos_token_id", "bos_token_id"},
                                          {"tokenizer.ggml.eos_token_id", "eos_token_id"},
                                          {"tokenizer.ggml.padding_token_id", "pad_token_id"}};
    for (size_t i = 0; i < PEFT_COUNT(keys); i++) {
        int64_t id = -1;
        PEFT_TRY(peft__gguf_get_int(r->gguf, keys[i][0], -1, UINT32_MAX, -1, &id));
        if (id >= 0 && id <= INT32_MAX) PEFT_TRY(put(r, r->config, keys[i][1], json_integer(id)));
    }
    return PEFT_OK;
}

static peft_status copy_vocabulary(const reader *r) {
    const peft__tensors *tensors = peft__gguf_tensors(r->gguf);
    const peft__tensor *words = NULL;
    PEFT_TRY(peft__tensors_need(r->ctx, tensors, "token_embd.weight", &words));
    if (words->ndim != 2)
        return peft__fail(r->ctx, PEFT_E_MISMATCH, "%s: token_embd.weight: expected 2 dimensions, found %u",
                          words->file, words->ndim);
    PEFT_TRY(put(r, r->config, "vocab_size", json_integer(words->shape[0])));
    return put(r, r->config, "tie_word_embeddings", json_boolean(peft__tensors_find(tensors, "output.weight") == NULL));
}

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
    PEFT_TRY(peft__gguf_get_int(r->gguf, key_of(r, "attention.key_length", full), 1, 65536, 0, &key));
    PEFT_TRY(peft__gguf_get_int(r->gguf, key_of(r, "attention.value_length", full), 1, 65536, key, &value));
    if (value != key)
        return peft__fail(r->ctx, PEFT_E_UNSUPPORTED, "%s: keys of %lld and values of %lld columns are not built", file,
                          (long long)key, (long long)value);
    if (key == 0 && hidden % heads != 0)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: the width %lld is not a multiple of %lld heads", file,
                          (long long)hidden, (long long)heads);
    *out = key != 0 ? key : hidden / heads;
    return put(r, r->config, "head_dim", json_integer(*out));
}

/* Gemma 2. Files without attention.scale mean the head size, but for the 27B model, known by its 46 layers, the width
 * over the heads. */
static peft_status copy_caps(const reader *r, int64_t head_dim) {
    char full[KEY_BYTES];
    double scale = 0, query = (double)head_dim;
    PEFT_TRY(copy_float(r, "attn_logit_softcapping", "attn_logit_softcapping", 50));
    PEFT_TRY(copy_float(r, "final_logit_softcapping", "final_logit_softcapping", 30));
    PEFT_TRY(peft__gguf_get_float(r->gguf, key_of(r, "attention.scale", full), 0, &scale));
    if (json_integer_value(json_object_get(r->config, "num_hidden_layers")) == 46)
        query = (double)json_integer_value(json_object_get(r->config, "hidden_size")) /
                (double)json_integer_value(json_object_get(r->config, "num_attention_heads"));
    if (scale > 0) query = tidy((double)(float)(1 / (scale * scale)));
    return put(r, r->config, "query_pre_attn_scalar", json_real(query));
}

peft_status peft__decoder_config_from_gguf(peft_context *ctx, const void *gguf, json_t *config,
                                           const peft__decoder_variant *variant) {
    const reader r = {ctx, gguf, config, variant->gguf_arch};
    int64_t head_dim = 0;
    PEFT_TRY(copy_int(&r, "embedding_length", "hidden_size", -1));
    PEFT_TRY(copy_int(&r, "feed_forward_length", "intermediate_size", -1));
    PEFT_TRY(copy_int(&r, "block_count", "num_hidden_layers", -1));
    PEFT_TRY(copy_int(&r, "attention.head_count", "num_attention_heads", -1));
    PEFT_TRY(copy_int(&r, "attention.head_count_kv", "num_key_value_heads",
                      json_integer_value(json_object_get(config, "num_attention_heads"))));
    PEFT_TRY(copy_int(&r, "context_length", "max_position_embeddings", variant->max_positions));
    PEFT_TRY(copy_float(&r, "attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-6));
    const double eps = json_real_value(json_object_get(config, "rms_norm_eps"));
    PEFT_TRY(put(&r, config, "rms_norm_eps", json_real(tidy(eps))));
    PEFT_TRY(copy_head_dim(&r, &head_dim));
    PEFT_TRY(copy_rope(&r, head_dim));
    PEFT_TRY(copy_vocabulary(&r));
    PEFT_TRY(copy_token_ids(&r));
    if ((variant->flags & PEFT__DECODER_POST_NORMS) != 0) PEFT_TRY(copy_caps(&r, head_dim));
    const uint32_t slides = PEFT__DECODER_WINDOW | PEFT__DECODER_POST_NORMS;
    if ((variant->flags & slides) != 0) PEFT_TRY(copy_int(&r, "attention.sliding_window", "sliding_window", 0));
    PEFT_TRY(put(&r, config, "hidden_act", json_string(variant->hidden_act)));
    if ((variant->flags & PEFT__DECODER_BIAS_KEYS) != 0) {
        const peft__tensors *tensors = peft__gguf_tensors(gguf);
        PEFT_TRY(
            put(&r, config, "attention_bias", json_boolean(peft__tensors_find(tensors, "blk.0.attn_q.bias") != NULL)));
        PEFT_TRY(put(&r, config, "mlp_bias", json_boolean(peft__tensors_find(tensors, "blk.0.ffn_down.bias") != NULL)));
    }
    char class_name[64];
    (void)snprintf(class_name, sizeof class_name, "%sForCausalLM", variant->class_prefix);
    json_t *classes = json_array();
    if (classes == NULL || json_array_append_new(classes, json_string(class_name)) != 0) {
        json_decref(classes);
        return peft__fail_nomem(ctx, 64, "the model's configuration");
    }
    return put(&r, config, "architectures", classes);
}

/* ---- names ----------------------------------------------------------------------------------------------- */

static const char *const layer_names[][2] = {
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

static const char *const outer_names[][2] = {
    {"embed_tokens.", "token_embd."}, {"norm.", "output_norm."}, {"lm_head.", "output."}};

/* The name after "model.layers.N.", or NULL; N in *out_layer. */
static const char *split_layer(const char *name, long long *out_layer) {
    static const char prefix[] = "layers.";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return NULL;
    const char *digits = name + sizeof prefix - 1, *dot = strchr(digits, '.');
    int64_t layer = 0;
    if (dot == NULL || !peft__parse_i64(digits, (size_t)(dot - digits), &layer)) return NULL;
    *out_layer = layer;
    return dot + 1;
}

char *peft__decoder_gguf_name(const peft_model *model, peft__arena *arena, const char *tensor) {
    const peft__decoder_config *c = peft__model_arch_config(model);
    if (strncmp(tensor, "model.", 6) == 0) tensor += 6;
    long long layer = 0;
    const char *rest = split_layer(tensor, &layer);
    if (rest == NULL) {
        for (size_t i = 0; i < PEFT_COUNT(outer_names); i++) {
            const size_t length = strlen(outer_names[i][0]);
            if (strncmp(tensor, outer_names[i][0], length) == 0)
                return peft__arena_strfmt(arena, "%s%s", outer_names[i][1], tensor + length);
        }
        return NULL;
    }
    static const char after_attention[] = "post_attention_layernorm.";
    if (strncmp(rest, after_attention, sizeof after_attention - 1) == 0) {
        /* Before Gemma 2 the norm of this name stood before the feed-forward layer. */
        const bool post = (c->variant->flags & PEFT__DECODER_POST_NORMS) != 0;
        return peft__arena_strfmt(arena, "blk.%lld.%s%s", layer, post ? "post_attention_norm." : "ffn_norm.",
                                  rest + sizeof after_attention - 1);
    }
    for (size_t i = 0; i < PEFT_COUNT(layer_names); i++) {
        const size_t length = strlen(layer_names[i][0]);
        if (strncmp(rest, layer_names[i][0], length) == 0)
            return peft__arena_strfmt(arena, "blk.%lld.%s%s", layer, layer_names[i][1], rest + length);
    }
    return NULL;
}
