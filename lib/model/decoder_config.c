/* decoder_config.c: from config.json to the numbers and modules of a decoder.
 *
 * Configurations are hostile until checked: every number has a range, so that no product of two of them overflows and
 * none that is divided by is zero. Missing and null both mean the default of the class in transformers.
 */
#include "format/json.h"
#include "model/decoder.h"
#include "model/rope.h"

#include <math.h>

static const char *const where = "config.json";

enum {
    MOST_LAYERS = 4096,
    MOST_HEADS = 65536,
    MOST_WIDTH = 1 << 24,
    MOST_VOCABULARY = 1 << 27,
    MOST_POSITIONS = 1 << 30
};

static peft_status read_dims(peft_context *ctx, const json_t *config, const peft__decoder_variant *variant,
                             peft__dims *d) {
    int64_t pad = -1;
    double eps = 1e-6;
    PEFT_TRY(peft__json_need_int(ctx, config, where, "hidden_size", 1, MOST_WIDTH, &d->hidden_size));
    PEFT_TRY(peft__json_need_int(ctx, config, where, "intermediate_size", 1, MOST_WIDTH, &d->intermediate_size));
    PEFT_TRY(peft__json_need_int(ctx, config, where, "num_hidden_layers", 1, MOST_LAYERS, &d->num_hidden_layers));
    PEFT_TRY(peft__json_need_int(ctx, config, where, "num_attention_heads", 1, MOST_HEADS, &d->num_attention_heads));
    PEFT_TRY(peft__json_need_int(ctx, config, where, "vocab_size", 1, MOST_VOCABULARY, &d->vocab_size));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "max_position_embeddings", 1, MOST_POSITIONS,
                                variant->max_positions, &d->max_position_embeddings));
    PEFT_TRY(peft__json_get_double(ctx, config, where, "rms_norm_eps", 0, 1, eps, &eps));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "pad_token_id", -1, MOST_VOCABULARY, -1, &pad));
    d->norm_eps = (float)eps;
    d->pad_token_id = pad < d->vocab_size ? (int32_t)pad : -1;

    /* null means "as many as heads", a missing key the default of the class */
    const bool absent = json_object_get(config, "num_key_value_heads") == NULL && variant->num_key_value_heads != 0;
    PEFT_TRY(peft__json_get_int(ctx, config, where, "num_key_value_heads", 1, MOST_HEADS,
                                absent ? variant->num_key_value_heads : d->num_attention_heads,
                                &d->num_key_value_heads));
    if (d->num_attention_heads % d->num_key_value_heads != 0)
        return peft__fail(ctx, PEFT_E_FORMAT,
                          "%s: num_attention_heads %lld is not a multiple of num_key_value_heads %lld", where,
                          (long long)d->num_attention_heads, (long long)d->num_key_value_heads);
    PEFT_TRY(peft__json_get_int(ctx, config, where, "head_dim", 1, MOST_HEADS, variant->head_dim, &d->head_dim));
    if (d->head_dim == 0) {
        if (d->hidden_size % d->num_attention_heads != 0)
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: hidden_size %lld is not a multiple of num_attention_heads %lld",
                              where, (long long)d->hidden_size, (long long)d->num_attention_heads);
        d->head_dim = d->hidden_size / d->num_attention_heads;
    }
    return PEFT_OK;
}

/* ---- which layers slide, which do not rotate ------------------------------------------------------------- */

static peft_status read_layer_types(peft_context *ctx, const json_t *config, const peft__dims *d, int64_t window,
                                    int64_t *windows, bool *out_given) {
    const peft__json *types = NULL;
    PEFT_TRY(peft__json_get_array(ctx, config, where, "layer_types", &types));
    *out_given = types != NULL;
    if (types == NULL) return PEFT_OK;
    if (json_array_size(types) != (size_t)d->num_hidden_layers)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: layer_types: expected %lld entries, found %zu", where,
                          (long long)d->num_hidden_layers, json_array_size(types));
    for (int64_t layer = 0; layer < d->num_hidden_layers; layer++) {
        const json_t *item = json_array_get(types, (size_t)layer);
        const char *type = json_is_string(item) ? json_string_value(item) : "";
        if (strcmp(type, "sliding_attention") == 0) {
            if (window == 0)
                return peft__fail(ctx, PEFT_E_FORMAT,
                                  "%s: layer_types[%lld] is sliding_attention without a sliding_window", where,
                                  (long long)layer);
            windows[layer] = window;
        } else if (strcmp(type, "full_attention") != 0) {
            return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: layer_types[%lld]: \"%s\" is not built", where,
                              (long long)layer, type);
        }
    }
    return PEFT_OK;
}

static peft_status read_windows(peft_context *ctx, const json_t *config, const peft__decoder_variant *variant,
                                const peft__dims *d, const bool *no_rope, int64_t *windows) {
    const uint32_t rules = PEFT__DECODER_WINDOW | PEFT__DECODER_WINDOW_LAYERS | PEFT__DECODER_POST_NORMS;
    if ((variant->flags & rules) == 0) return PEFT_OK;
    const bool absent = json_object_get(config, "sliding_window") == NULL;
    int64_t window = 0, full_layers = 28;
    PEFT_TRY(peft__json_get_int(ctx, config, where, "sliding_window", 0, MOST_POSITIONS,
                                absent ? variant->sliding_window : 0, &window));
    bool by_type = false, use = false;
    if ((variant->flags & PEFT__DECODER_WINDOW) != 0) {
        for (int64_t layer = 0; layer < d->num_hidden_layers; layer++) windows[layer] = window;
        return PEFT_OK;
    }
    if ((variant->flags & PEFT__DECODER_POST_NORMS) != 0) {
        PEFT_TRY(read_layer_types(ctx, config, d, window, windows, &by_type));
        for (int64_t layer = 0; !by_type && layer < d->num_hidden_layers; layer += 2) windows[layer] = window;
        return PEFT_OK;
    }
    PEFT_TRY(peft__json_get_bool(ctx, config, where, "use_sliding_window", false, &use));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "max_window_layers", 0, MOST_LAYERS, 28, &full_layers));
    if (!use) window = 0;
    PEFT_TRY(read_layer_types(ctx, config, d, window, windows, &by_type));
    if (by_type || window == 0) return PEFT_OK;
    const bool some_no_rope = (variant->flags & PEFT__DECODER_SOME_NO_ROPE) != 0;
    for (int64_t layer = 0; layer < d->num_hidden_layers; layer++)
        if (some_no_rope ? no_rope[layer] : layer >= full_layers) windows[layer] = window;
    return PEFT_OK;
}

static peft_status read_no_rope(peft_context *ctx, const json_t *config, const peft__decoder_variant *variant,
                                const peft__dims *d, bool *no_rope) {
    if ((variant->flags & PEFT__DECODER_SOME_NO_ROPE) == 0) return PEFT_OK;
    const peft__json *list = NULL;
    int64_t interval = 4;
    PEFT_TRY(peft__json_get_array(ctx, config, where, "no_rope_layers", &list));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "no_rope_layer_interval", 1, MOST_LAYERS, 4, &interval));
    if (list != NULL && json_array_size(list) < (size_t)d->num_hidden_layers)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: no_rope_layers: expected %lld entries, found %zu", where,
                          (long long)d->num_hidden_layers, json_array_size(list));
    for (int64_t layer = 0; layer < d->num_hidden_layers; layer++) {
        if (list == NULL) {
            no_rope[layer] = (layer + 1) % interval == 0;
            continue;
        }
        const json_t *item = json_array_get(list, (size_t)layer);
        if (!json_is_integer(item) && !json_is_boolean(item))
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: no_rope_layers[%lld]: expected 0 or 1", where, (long long)layer);
        no_rope[layer] = json_is_boolean(item) ? !json_is_true(item) : json_integer_value(item) == 0;
    }
    return PEFT_OK;
}

/* ---- the rest of the numbers ----------------------------------------------------------------------------- */

static peft_status read_activation(peft_context *ctx, const json_t *config, const peft__decoder_variant *variant,
                                   peft__decoder_config *c) {
    const char *name = NULL;
    PEFT_TRY(peft__json_get_string(ctx, config, where, "hidden_act", variant->hidden_act, &name));
    if ((variant->flags & PEFT__DECODER_EMBED_SCALE) != 0) {
        /* Gemma: early files say gelu in hidden_act and mean its tanh form; hidden_activation is right when it is
         * there. */
        if (strcmp(name, "gelu") == 0) name = variant->hidden_act;
        PEFT_TRY(peft__json_get_string(ctx, config, where, "hidden_activation", name, &name));
    }
    if (!peft__activation_parse(name, &c->activation))
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: hidden_act \"%s\" is not built", where, name);
    return PEFT_OK;
}

static peft_status read_scales(peft_context *ctx, const json_t *config, const peft__decoder_variant *variant,
                               const peft__dims *d, peft__decoder_config *c) {
    double query = (double)d->head_dim, cap = 0, logit_cap = 0;
    if ((variant->flags & PEFT__DECODER_POST_NORMS) != 0) {
        PEFT_TRY(peft__json_get_double(ctx, config, where, "query_pre_attn_scalar", 1e-6, 1e9, 256, &query));
        PEFT_TRY(peft__json_get_double(ctx, config, where, "attn_logit_softcapping", 0, 1e9, 0, &cap));
        PEFT_TRY(peft__json_get_double(ctx, config, where, "final_logit_softcapping", 0, 1e9, 0, &logit_cap));
    }
    c->attention_scale = (float)(1 / sqrt(query));
    c->attention_cap = (float)cap;
    c->logit_cap = (float)logit_cap;
    c->embedding_scale = (variant->flags & PEFT__DECODER_EMBED_SCALE) != 0 ? (float)sqrt((double)d->hidden_size) : 1;
    c->norm_offset = (variant->flags & PEFT__DECODER_NORM_OFFSET) != 0 ? 1.0f : 0.0f;
    return PEFT_OK;
}

static peft_status read_config(peft_context *ctx, peft_model *model, const peft__decoder_variant *variant,
                               peft__decoder_config *c) {
    const json_t *config = peft__model_config_json(model);
    peft__dims *d = peft__model_edit_dims(model);
    PEFT_TRY(read_dims(ctx, config, variant, d));
    const size_t layers = (size_t)d->num_hidden_layers;
    int64_t *windows = peft__arena_alloc(peft__model_arena(model), layers * sizeof *windows);
    bool *no_rope = peft__arena_alloc(peft__model_arena(model), layers * sizeof *no_rope);
    if (windows == NULL || no_rope == NULL)
        return peft__fail_nomem(ctx, layers * sizeof *windows, "the layers' settings");
    PEFT_TRY(read_no_rope(ctx, config, variant, d, no_rope));
    PEFT_TRY(read_windows(ctx, config, variant, d, no_rope, windows));
    PEFT_TRY(read_activation(ctx, config, variant, c));
    PEFT_TRY(read_scales(ctx, config, variant, d, c));
    const peft__rope_defaults rope = {.head_dim = d->head_dim,
                                      .max_positions = d->max_position_embeddings,
                                      .theta = variant->rope_theta,
                                      .partial_factor = 1};
    PEFT_TRY(peft__rope_read(ctx, config, &rope, peft__model_arena(model), &c->rope));
    if (c->rope.dynamic_factor > 1.0f) { /* made to go beyond what max_position_embeddings says */
        const double longest = (double)c->rope.dynamic_factor * (double)d->max_position_embeddings;
        d->max_position_embeddings = (int64_t)fmin(longest, (double)MOST_POSITIONS);
    }
    c->windows = windows;
    c->no_rope = no_rope;
    return PEFT_OK;
}

/* ---- modules --------------------------------------------------------------------------------------------- */

typedef struct bias_flags {
    uint32_t qkv, o, mlp;
} bias_flags;

static peft_status read_biases(peft_context *ctx, const peft_model *model, const peft__decoder_variant *variant,
                               bias_flags *out) {
    if ((variant->flags & PEFT__DECODER_QKV_BIAS) != 0) out->qkv = PEFT__MODULE_BIAS;
    if ((variant->flags & PEFT__DECODER_BIAS_KEYS) == 0) return PEFT_OK;
    if (peft__model_is_gguf(model)) { /* no key says so: the tensors do */
        out->qkv = out->o = out->mlp = PEFT__MODULE_BIAS_IF_STORED;
        return PEFT_OK;
    }
    bool attention = false, mlp = false;
    const json_t *config = peft__model_config_json(model);
    PEFT_TRY(peft__json_get_bool(ctx, config, where, "attention_bias", false, &attention));
    PEFT_TRY(peft__json_get_bool(ctx, config, where, "mlp_bias", false, &mlp));
    if (attention) out->qkv = out->o = PEFT__MODULE_BIAS;
    if (mlp) out->mlp = PEFT__MODULE_BIAS;
    return PEFT_OK;
}

static peft_status declare_linear(peft_context *ctx, peft_model *model, int64_t layer, const char *name, int64_t in,
                                  int64_t out, uint32_t flags) {
    const peft__module_spec spec = {.kind = PEFT_MODULE_LINEAR,
                                    .layer = (int32_t)layer,
                                    .in = in,
                                    .out = out,
                                    .flags = flags,
                                    .interleave = (int32_t)peft__model_dims(model)->head_dim};
    return peft__model_declare(ctx, model, &spec, "model.layers.%lld.%s", (long long)layer, name);
}

static peft_status declare_norm(peft_context *ctx, peft_model *model, const peft__decoder_variant *variant,
                                int64_t layer, const char *name, int64_t width) {
    const bool offset = (variant->flags & PEFT__DECODER_NORM_OFFSET) != 0 && peft__model_is_gguf(model);
    const peft__module_spec spec = {.kind = PEFT_MODULE_NORM,
                                    .layer = (int32_t)layer,
                                    .in = width,
                                    .out = width,
                                    .stored_offset = offset ? 1.0f : 0.0f};
    if (layer < 0) return peft__model_declare(ctx, model, &spec, "%s", name);
    return peft__model_declare(ctx, model, &spec, "model.layers.%lld.%s", (long long)layer, name);
}

static peft_status declare_layer(peft_context *ctx, peft_model *model, const peft__decoder_variant *variant,
                                 const bias_flags *bias, int64_t layer) {
    const peft__dims *d = peft__model_dims(model);
    const int64_t h = d->hidden_size, m = d->intermediate_size;
    const int64_t q = d->num_attention_heads * d->head_dim, kv = d->num_key_value_heads * d->head_dim;
    const uint32_t flags = variant->flags;
    const uint32_t mixed = (flags & PEFT__DECODER_GGUF_INTERLEAVED) != 0 ? PEFT__MODULE_INTERLEAVED : 0;
    if ((flags & PEFT__DECODER_FUSED) != 0) {
        PEFT_TRY(declare_linear(ctx, model, layer, "self_attn.o_proj", q, h, PEFT__MODULE_ENDS_ATTENTION));
        PEFT_TRY(declare_linear(ctx, model, layer, "self_attn.qkv_proj", h, q + 2 * kv, 0));
        PEFT_TRY(declare_linear(ctx, model, layer, "mlp.gate_up_proj", h, 2 * m, 0));
    } else {
        PEFT_TRY(declare_linear(ctx, model, layer, "self_attn.q_proj", h, q, bias->qkv | mixed));
        PEFT_TRY(declare_linear(ctx, model, layer, "self_attn.k_proj", h, kv, bias->qkv | mixed));
        PEFT_TRY(declare_linear(ctx, model, layer, "self_attn.v_proj", h, kv, bias->qkv));
        PEFT_TRY(declare_linear(ctx, model, layer, "self_attn.o_proj", q, h, bias->o | PEFT__MODULE_ENDS_ATTENTION));
    }
    if ((flags & PEFT__DECODER_QK_NORM) != 0) {
        PEFT_TRY(declare_norm(ctx, model, variant, layer, "self_attn.q_norm", d->head_dim));
        PEFT_TRY(declare_norm(ctx, model, variant, layer, "self_attn.k_norm", d->head_dim));
    }
    if ((flags & PEFT__DECODER_FUSED) == 0) {
        PEFT_TRY(declare_linear(ctx, model, layer, "mlp.gate_proj", h, m, bias->mlp));
        PEFT_TRY(declare_linear(ctx, model, layer, "mlp.up_proj", h, m, bias->mlp));
    }
    PEFT_TRY(declare_linear(ctx, model, layer, "mlp.down_proj", m, h, bias->mlp | PEFT__MODULE_ENDS_FFN));
    PEFT_TRY(declare_norm(ctx, model, variant, layer, "input_layernorm", h));
    PEFT_TRY(declare_norm(ctx, model, variant, layer, "post_attention_layernorm", h));
    if ((flags & PEFT__DECODER_POST_NORMS) != 0) {
        PEFT_TRY(declare_norm(ctx, model, variant, layer, "pre_feedforward_layernorm", h));
        PEFT_TRY(declare_norm(ctx, model, variant, layer, "post_feedforward_layernorm", h));
    }
    return PEFT_OK;
}

static peft_status declare_head(peft_context *ctx, peft_model *model, const peft__decoder_variant *variant) {
    const peft__dims *d = peft__model_dims(model);
    const json_t *config = peft__model_config_json(model);
    peft__module_spec spec = {
        .kind = PEFT_MODULE_LINEAR, .layer = -1, .in = d->hidden_size, .flags = PEFT__MODULE_HEAD};
    bool tied = variant->tie_word_embeddings;
    switch (peft__model_task(model)) {
    case PEFT_TASK_CAUSAL_LM:
        PEFT_TRY(peft__json_get_bool(ctx, config, where, "tie_word_embeddings", tied, &tied));
        spec.out = d->vocab_size;
        spec.tied_to = "model.embed_tokens";
        if (tied)
            spec.flags |= PEFT__MODULE_TIED;
        else if (peft__json_value(config, "tie_word_embeddings") == NULL)
            spec.flags |= PEFT__MODULE_TIE_IF_MISSING; /* written when tied was what the base class assumed */
        return peft__model_declare(ctx, model, &spec, "lm_head");
    case PEFT_TASK_SEQ_CLS:
    case PEFT_TASK_TOKEN_CLS:
        spec.out = d->num_labels;
        spec.flags |= PEFT__MODULE_MAY_BE_NEW;
        if (peft__model_task(model) == PEFT_TASK_TOKEN_CLS) spec.flags |= PEFT__MODULE_BIAS;
        return peft__model_declare(ctx, model, &spec, "score");
    case PEFT_TASK_FEATURE_EXTRACTION:
        return PEFT_OK;
    default:
        return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                          "a %s model can be CAUSAL_LM, SEQ_CLS, TOKEN_CLS or FEATURE_EXTRACTION; task %d is not built",
                          peft__model_arch(model)->model_type, (int)peft__model_task(model));
    }
}

peft_status peft__decoder_configure(peft_context *ctx, peft_model *model, const peft__decoder_variant *variant) {
    peft__decoder_config *c = peft__arena_alloc(peft__model_arena(model), sizeof *c);
    if (c == NULL) return peft__fail_nomem(ctx, sizeof *c, "the model's configuration");
    c->variant = variant;
    PEFT_TRY(read_config(ctx, model, variant, c));
    peft__model_set_arch_config(model, c);

    const peft__dims *d = peft__model_dims(model);
    const peft__module_spec words = {
        .kind = PEFT_MODULE_EMBEDDING, .layer = -1, .in = d->vocab_size, .out = d->hidden_size};
    bias_flags bias = {0};
    PEFT_TRY(read_biases(ctx, model, variant, &bias));
    PEFT_TRY(peft__model_declare(ctx, model, &words, "model.embed_tokens"));
    for (int64_t layer = 0; layer < d->num_hidden_layers; layer++)
        PEFT_TRY(declare_layer(ctx, model, variant, &bias, layer));
    PEFT_TRY(declare_norm(ctx, model, variant, -1, "model.norm", d->hidden_size));
    return declare_head(ctx, model, variant);
}
