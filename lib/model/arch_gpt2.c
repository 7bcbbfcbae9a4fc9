/* arch_gpt2.c: GPT-2: learned positions, LayerNorm before each sub-layer, one Conv1D for query, key and value, and a
 * head that is the embedding.
 *
 * Conv1D weights lie as [in, out] in Hugging Face folders and the other way round in GGUF files; modules keep Hugging
 * Face's layout, kernels read what is there.
 */
#include "format/json.h"
#include "model/arch_table.h"
#include "model/build.h"
#include "model/gguf_config.h"

#include <math.h>
#include <stdio.h>

static const char *const where = "config.json";

enum { NAME_BYTES = 96, MOST_LAYERS = 4096, MOST_HEADS = 65536, MOST_WIDTH = 1 << 24, MOST_COUNT = 1 << 27 };

typedef struct gpt2_config {
    peft__activation activation;
    float scale;         /* of attention scores */
    bool scale_by_layer; /* divided by layer + 1 as well */
} gpt2_config;

/* ---- configuration --------------------------------------------------------------------------------------- */

static peft_status read_dims(peft_context *ctx, const json_t *config, peft__dims *d) {
    int64_t pad = -1, context = 1024;
    double eps = 1e-5;
    PEFT_TRY(peft__json_get_int(ctx, config, where, "n_embd", 1, MOST_WIDTH, 768, &d->hidden_size));
    PEFT_TRY(
        peft__json_get_int(ctx, config, where, "n_inner", 1, MOST_WIDTH, 4 * d->hidden_size, &d->intermediate_size));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "n_layer", 1, MOST_LAYERS, 12, &d->num_hidden_layers));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "n_head", 1, MOST_HEADS, 12, &d->num_attention_heads));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "vocab_size", 1, MOST_COUNT, 50257, &d->vocab_size));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "n_ctx", 1, MOST_COUNT, context, &context));
    PEFT_TRY(
        peft__json_get_int(ctx, config, where, "n_positions", 1, MOST_COUNT, context, &d->max_position_embeddings));
    PEFT_TRY(peft__json_get_double(ctx, config, where, "layer_norm_epsilon", 0, 1, eps, &eps));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "pad_token_id", -1, MOST_COUNT, -1, &pad));
    d->norm_eps = (float)eps;
    d->pad_token_id = pad < d->vocab_size ? (int32_t)pad : -1;
    d->num_key_value_heads = d->num_attention_heads;
    if (d->hidden_size % d->num_attention_heads != 0)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: n_embd %lld is not a multiple of n_head %lld", where,
                          (long long)d->hidden_size, (long long)d->num_attention_heads);
    d->head_dim = d->hidden_size / d->num_attention_heads;
    return PEFT_OK;
}

static peft_status read_config(peft_context *ctx, peft_model *model, gpt2_config *c) {
    const json_t *config = peft__model_config_json(model);
    peft__dims *d = peft__model_edit_dims(model);
    const char *activation = NULL;
    bool scale = true, cross = false;
    PEFT_TRY(read_dims(ctx, config, d));
    PEFT_TRY(peft__json_get_string(ctx, config, where, "activation_function", "gelu_new", &activation));
    if (!peft__activation_parse(activation, &c->activation))
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: activation_function \"%s\" is not built", where, activation);
    PEFT_TRY(peft__json_get_bool(ctx, config, where, "scale_attn_weights", true, &scale));
    PEFT_TRY(peft__json_get_bool(ctx, config, where, "scale_attn_by_inverse_layer_idx", false, &c->scale_by_layer));
    PEFT_TRY(peft__json_get_bool(ctx, config, where, "add_cross_attention", false, &cross));
    if (cross) return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: GPT-2 with cross attention is not built", where);
    c->scale = scale ? 1.0f / sqrtf((float)d->head_dim) : 1.0f;
    return PEFT_OK;
}

/* ---- modules --------------------------------------------------------------------------------------------- */

static peft_status declare_layer(peft_context *ctx, peft_model *model, int64_t layer) {
    const int64_t h = peft__model_dims(model)->hidden_size, m = peft__model_dims(model)->intermediate_size;
    const struct {
        const char *name;
        int32_t kind;
        int64_t in, out;
        uint32_t flags;
    } parts[] = {{"ln_1", PEFT_MODULE_NORM, h, h, 0},
                 {"attn.c_attn", PEFT_MODULE_CONV1D, h, 3 * h, 0},
                 {"attn.c_proj", PEFT_MODULE_CONV1D, h, h, PEFT__MODULE_ENDS_ATTENTION},
                 {"ln_2", PEFT_MODULE_NORM, h, h, 0},
                 {"mlp.c_fc", PEFT_MODULE_CONV1D, h, m, 0},
                 {"mlp.c_proj", PEFT_MODULE_CONV1D, m, h, PEFT__MODULE_ENDS_FFN}};
    for (size_t i = 0; i < PEFT_COUNT(parts); i++) {
        const peft__module_spec spec = {.kind = parts[i].kind,
                                        .layer = (int32_t)layer,
                                        .in = parts[i].in,
                                        .out = parts[i].out,
                                        .flags = PEFT__MODULE_BIAS | parts[i].flags};
        PEFT_TRY(peft__model_declare(ctx, model, &spec, "transformer.h.%lld.%s", (long long)layer, parts[i].name));
    }
    return PEFT_OK;
}

static peft_status declare_head(peft_context *ctx, peft_model *model) {
    const peft__dims *d = peft__model_dims(model);
    peft__module_spec spec = {.kind = PEFT_MODULE_LINEAR,
                              .layer = -1,
                              .in = d->hidden_size,
                              .out = d->num_labels,
                              .flags = PEFT__MODULE_HEAD};
    bool tied = true;
    switch (peft__model_task(model)) {
    case PEFT_TASK_CAUSAL_LM:
        PEFT_TRY(peft__json_get_bool(ctx, peft__model_config_json(model), where, "tie_word_embeddings", true, &tied));
        spec.out = d->vocab_size;
        spec.tied_to = "transformer.wte";
        if (tied) spec.flags |= PEFT__MODULE_TIED;
        return peft__model_declare(ctx, model, &spec, "lm_head");
    case PEFT_TASK_SEQ_CLS:
        spec.flags |= PEFT__MODULE_MAY_BE_NEW;
        return peft__model_declare(ctx, model, &spec, "score");
    case PEFT_TASK_TOKEN_CLS:
        spec.flags |= PEFT__MODULE_MAY_BE_NEW | PEFT__MODULE_BIAS;
        return peft__model_declare(ctx, model, &spec, "classifier");
    case PEFT_TASK_FEATURE_EXTRACTION:
        return PEFT_OK;
    default:
        return peft__fail(
            ctx, PEFT_E_UNSUPPORTED,
            "a gpt2 model can be CAUSAL_LM, SEQ_CLS, TOKEN_CLS or FEATURE_EXTRACTION; task %d is not built",
            (int)peft__model_task(model));
    }
}

static peft_status configure(peft_context *ctx, peft_model *model) {
    gpt2_config *c = peft__arena_alloc(peft__model_arena(model), sizeof *c);
    if (c == NULL) return peft__fail_nomem(ctx, sizeof *c, "the model's configuration");
    PEFT_TRY(read_config(ctx, model, c));
    peft__model_set_arch_config(model, c);
    const peft__dims *d = peft__model_dims(model);
    const peft__module_spec words = {
        .kind = PEFT_MODULE_EMBEDDING, .layer = -1, .in = d->vocab_size, .out = d->hidden_size};
    const peft__module_spec positions = {
        .kind = PEFT_MODULE_EMBEDDING, .layer = -1, .in = d->max_position_embeddings, .out = d->hidden_size};
    const peft__module_spec norm = {
        .kind = PEFT_MODULE_NORM, .layer = -1, .in = d->hidden_size, .out = d->hidden_size, .flags = PEFT__MODULE_BIAS};
    PEFT_TRY(peft__model_declare(ctx, model, &words, "transformer.wte"));
    PEFT_TRY(peft__model_declare(ctx, model, &positions, "transformer.wpe"));
    for (int64_t layer = 0; layer < d->num_hidden_layers; layer++) PEFT_TRY(declare_layer(ctx, model, layer));
    PEFT_TRY(peft__model_declare(ctx, model, &norm, "transformer.ln_f"));
    return declare_head(ctx, model);
}

/* ---- graph ----------------------------------------------------------------------------------------------- */

static const char *layer_name(char buffer[NAME_BYTES], int32_t layer, const char *name) {
    (void)snprintf(buffer, NAME_BYTES, "transformer.h.%d.%s", (int)layer, name);
    return buffer;
}

static peft__value *layer_norm(peft__build *b, int32_t layer, const char *name, peft__value *x) {
    char full[NAME_BYTES];
    const float eps = peft__model_dims(b->model)->norm_eps;
    return peft__build_norm(b, layer_name(full, layer, name), PEFT__LAYER_NORM, x, eps, 0);
}

static peft__value *self_attention(peft__build *b, int32_t layer, peft__value *x) {
    const gpt2_config *c = peft__model_arch_config(b->model);
    const peft__dims *d = peft__model_dims(b->model);
    const int64_t h = d->hidden_size;
    char name[NAME_BYTES];
    peft__value *h_in = layer_norm(b, layer, "ln_1", x);
    peft__value *qkv = peft__build_linear(b, layer_name(name, layer, "attn.c_attn"), h_in, NULL);
    peft__value *q = peft__value_columns(b->graph, qkv, 0, h);
    peft__value *k = peft__value_columns(b->graph, qkv, h, h);
    peft__value *v = peft__value_columns(b->graph, qkv, 2 * h, h);
    const peft__attention_config config = {.heads = d->num_attention_heads,
                                           .kv_heads = d->num_attention_heads,
                                           .head_dim = d->head_dim,
                                           .scale = c->scale_by_layer ? c->scale / (float)(layer + 1) : c->scale,
                                           .causal = true};
    peft__value *y = peft__build_attention(b, PEFT__STACK_MAIN, layer, q, k, v, NULL, &config);
    return peft__build_sublayer_end(b, PEFT__STACK_MAIN, layer, PEFT__SUBLAYER_ATTENTION,
                                    layer_name(name, layer, "attn.c_proj"), y, x);
}

static peft__value *feed_forward(peft__build *b, int32_t layer, peft__value *x) {
    const gpt2_config *c = peft__model_arch_config(b->model);
    char name[NAME_BYTES];
    peft__value *h = layer_norm(b, layer, "ln_2", x);
    h = peft__build_linear(b, layer_name(name, layer, "mlp.c_fc"), h, NULL);
    h = peft__op_activation(b->graph, c->activation, h);
    return peft__build_sublayer_end(b, PEFT__STACK_MAIN, layer, PEFT__SUBLAYER_FFN,
                                    layer_name(name, layer, "mlp.c_proj"), h, x);
}

static peft__value *build(peft__build *b) {
    const peft__dims *d = peft__model_dims(b->model);
    peft__rows *rows = peft__build_rows(b, PEFT__STACK_MAIN);
    peft__value *x = peft__build_embedding(b, "transformer.wte", rows, PEFT__LOOKUP_IDS, 1, -1);
    x = peft__build_word_embedding(b, PEFT__STACK_MAIN, x);
    x = peft__build_input(b, PEFT__STACK_MAIN, 0, x);
    if (x == NULL) return NULL;
    x = peft__op_add(b->graph, x, peft__build_embedding(b, "transformer.wpe", x->rows, PEFT__LOOKUP_POSITIONS, 1, -1));
    peft__build_hidden(b, 0, x);
    for (int32_t layer = 0; layer < d->num_hidden_layers && !peft__graph_failed(b->graph); layer++) {
        x = peft__build_layer_input(b, PEFT__STACK_MAIN, layer, 0, x);
        x = feed_forward(b, layer, self_attention(b, layer, x));
        if (layer + 1 < d->num_hidden_layers) peft__build_hidden(b, layer + 1, x);
    }
    x = peft__build_readout_rows(b, x);
    x = peft__build_norm(b, "transformer.ln_f", PEFT__LAYER_NORM, x, d->norm_eps, 0);
    peft__build_hidden(b, d->num_hidden_layers, x); /* as in transformers: the last one is normed */
    return x;
}

static void build_head(peft__build *b, peft__value *hidden) {
    const bool tokens = peft__model_task(b->model) == PEFT_TASK_TOKEN_CLS;
    const peft__head_options options = {
        .lm_head = "lm_head", .score = tokens ? "classifier" : "score", .logit_scale = 1};
    peft__build_head(b, hidden, &options);
}

/* ---- GGUF ------------------------------------------------------------------------------------------------ */

static peft_status config_from_gguf(peft_context *ctx, const void *gguf, json_t *config) {
    const peft__gguf_reader r = {ctx, gguf, config, "gpt2"};
    PEFT_TRY(peft__gguf_copy_int(&r, "embedding_length", "n_embd", -1));
    PEFT_TRY(peft__gguf_copy_int(&r, "feed_forward_length", "n_inner", -1));
    PEFT_TRY(peft__gguf_copy_int(&r, "block_count", "n_layer", -1));
    PEFT_TRY(peft__gguf_copy_int(&r, "attention.head_count", "n_head", -1));
    PEFT_TRY(peft__gguf_copy_int(&r, "context_length", "n_positions", -1));
    PEFT_TRY(peft__gguf_copy_float(&r, "attention.layer_norm_epsilon", "layer_norm_epsilon", 1e-5));
    const double eps = json_real_value(json_object_get(config, "layer_norm_epsilon"));
    PEFT_TRY(peft__gguf_put(&r, config, "layer_norm_epsilon", json_real(peft__gguf_tidy(eps))));
    PEFT_TRY(peft__gguf_put(&r, config, "activation_function", json_string("gelu_new")));
    PEFT_TRY(peft__gguf_copy_vocabulary(&r));
    PEFT_TRY(peft__gguf_copy_token_ids(&r));
    return peft__gguf_put_class(&r, "GPT2", "LMHeadModel");
}

static char *gguf_name(const peft_model *model, peft__arena *arena, const char *tensor) {
    static const peft__gguf_rename outer[] = {
        {"wte.", "token_embd."}, {"wpe.", "position_embd."}, {"ln_f.", "output_norm."}, {"lm_head.", "output."}};
    static const peft__gguf_rename inner[] = {{"ln_1.", "attn_norm."},          {"ln_2.", "ffn_norm."},
                                              {"attn.c_attn.", "attn_qkv."},    {"mlp.c_fc.", "ffn_up."},
                                              {"attn.c_proj.", "attn_output."}, {"mlp.c_proj.", "ffn_down."}};
    (void)model;
    if (strncmp(tensor, "transformer.", 12) == 0) tensor += 12;
    long long layer = 0;
    const char *rest = peft__gguf_split_layer(tensor, "h.", &layer);
    if (rest == NULL) return peft__gguf_renamed(arena, "", outer, PEFT_COUNT(outer), tensor);
    char front[48];
    (void)snprintf(front, sizeof front, "blk.%lld.", layer);
    return peft__gguf_renamed(arena, front, inner, PEFT_COUNT(inner), rest);
}

const peft__arch peft__arch_gpt2 = {.model_type = "gpt2",
                                    .gguf_arch = "gpt2",
                                    .base_prefix = "transformer.",
                                    .default_task = PEFT_TASK_CAUSAL_LM,
                                    .config_from_gguf = config_from_gguf,
                                    .configure = configure,
                                    .gguf_name = gguf_name,
                                    .build = build,
                                    .build_head = build_head,
                                    .heads = peft__decoder_heads};
