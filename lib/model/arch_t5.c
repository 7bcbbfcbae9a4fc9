/* arch_t5.c: T5 (1.0 and 1.1, Flan) and mT5: an encoder on the batch's main stream and a decoder on its second.
 *
 * No positions are added anywhere: each stack has a table of relative position biases, held by its first block and used
 * by all. Norms are RMSNorm, scores are not scaled, and there are no biases in linear layers. 1.0 has one ReLU layer
 * in and the embedding as its head, before which hidden states are scaled down; 1.1 has a gated layer and a head of its
 * own. Whether outputs are scaled was once said by tie_word_embeddings, later by scale_decoder_outputs; both are read,
 * and a head that the files hold is used whatever the configuration says.
 */
#include "format/json.h"
#include "model/arch_table.h"
#include "model/build.h"
#include "model/gguf_config.h"
#include "model/model_internal.h"

#include <math.h>
#include <stdio.h>

static const char *const where = "config.json";

enum {
    NAME_BYTES = 96,
    MOST_LAYERS = 4096,
    MOST_HEADS = 65536,
    MOST_WIDTH = 1 << 24,
    MOST_VOCABULARY = 1 << 27,
    MOST_BUCKETS = 65536,
    MOST_DISTANCE = 1 << 20
};

typedef enum { SCALE_NO, SCALE_YES, SCALE_IF_TIED } scale_rule;

typedef struct t5_config {
    peft__activation activation;
    bool gated;
    int64_t buckets, max_distance;
    scale_rule scale; /* of the decoder's output */
} t5_config;

static const char *const stacks[2] = {"encoder", "decoder"};

/* ---- configuration --------------------------------------------------------------------------------------- */

static peft_status read_dims(peft_context *ctx, const json_t *config, peft__dims *d) {
    int64_t pad = 0, start = 0;
    double eps = 1e-6;
    PEFT_TRY(peft__json_get_int(ctx, config, where, "d_model", 1, MOST_WIDTH, 512, &d->hidden_size));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "d_ff", 1, MOST_WIDTH, 2048, &d->intermediate_size));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "d_kv", 1, MOST_HEADS, 64, &d->head_dim));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "num_heads", 1, MOST_HEADS, 8, &d->num_attention_heads));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "num_layers", 1, MOST_LAYERS, 6, &d->num_hidden_layers));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "num_decoder_layers", 1, MOST_LAYERS, d->num_hidden_layers,
                                &d->num_decoder_layers));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "vocab_size", 1, MOST_VOCABULARY, 32128, &d->vocab_size));
    PEFT_TRY(peft__json_get_double(ctx, config, where, "layer_norm_epsilon", 0, 1, eps, &eps));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "pad_token_id", -1, MOST_VOCABULARY, 0, &pad));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "decoder_start_token_id", 0, d->vocab_size - 1,
                                peft__max_i64(0, peft__min_i64(pad, d->vocab_size - 1)), &start));
    d->norm_eps = (float)eps;
    d->pad_token_id = pad < d->vocab_size ? (int32_t)pad : -1;
    d->decoder_start_token_id = (int32_t)start;
    d->num_key_value_heads = d->num_attention_heads;
    d->max_position_embeddings = 0; /* any length */
    return PEFT_OK;
}

/* "relu", "gated-gelu", "gated-silu": a gated gelu means the one by tanh. */
static peft_status read_feed_forward(peft_context *ctx, const json_t *config, t5_config *c) {
    static const char gated[] = "gated-";
    const char *text = NULL;
    PEFT_TRY(peft__json_get_string(ctx, config, where, "feed_forward_proj", "relu", &text));
    c->gated = strncmp(text, gated, sizeof gated - 1) == 0;
    const char *name = c->gated ? text + sizeof gated - 1 : text;
    if (c->gated && strcmp(name, "gelu") == 0) name = "gelu_new";
    if (peft__activation_parse(name, &c->activation)) return PEFT_OK;
    return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: feed_forward_proj \"%.40s\" is not built", where, text);
}

static peft_status read_config(peft_context *ctx, peft_model *model, bool scales_when_tied, t5_config *c) {
    const json_t *config = peft__model_config_json(model);
    bool tied = true, scale = false;
    PEFT_TRY(read_dims(ctx, config, peft__model_edit_dims(model)));
    PEFT_TRY(read_feed_forward(ctx, config, c));
    PEFT_TRY(
        peft__json_get_int(ctx, config, where, "relative_attention_num_buckets", 4, MOST_BUCKETS, 32, &c->buckets));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "relative_attention_max_distance", 1, MOST_DISTANCE, 128,
                                &c->max_distance));
    if (c->max_distance <= c->buckets / 2)
        return peft__fail(ctx, PEFT_E_FORMAT,
                          "%s: relative_attention_max_distance %lld is not more than half of %lld buckets", where,
                          (long long)c->max_distance, (long long)c->buckets);
    PEFT_TRY(peft__json_get_bool(ctx, config, where, "tie_word_embeddings", scales_when_tied, &tied));
    c->scale = tied && scales_when_tied ? SCALE_IF_TIED : SCALE_NO;
    if (peft__json_value(config, "scale_decoder_outputs") == NULL) return PEFT_OK;
    PEFT_TRY(peft__json_get_bool(ctx, config, where, "scale_decoder_outputs", false, &scale));
    c->scale = scale ? SCALE_YES : SCALE_NO;
    return PEFT_OK;
}

/* ---- modules --------------------------------------------------------------------------------------------- */

typedef struct part {
    const char *name;
    int32_t kind;
    int64_t in, out;
    uint32_t flags;
} part;

static peft_status declare_parts(peft_context *ctx, peft_model *model, const char *stack, int64_t block, int sublayer,
                                 const part *parts, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const peft__module_spec spec = {.kind = parts[i].kind,
                                        .layer = (int32_t)block,
                                        .in = parts[i].in,
                                        .out = parts[i].out,
                                        .flags = parts[i].flags};
        PEFT_TRY(peft__model_declare(ctx, model, &spec, "%s.block.%lld.layer.%d.%s", stack, (long long)block, sublayer,
                                     parts[i].name));
    }
    return PEFT_OK;
}

static peft_status declare_block(peft_context *ctx, peft_model *model, const t5_config *c, peft__stack stack,
                                 int64_t block) {
    const peft__dims *d = peft__model_dims(model);
    const int64_t h = d->hidden_size, m = d->intermediate_size, inner = d->num_attention_heads * d->head_dim;
    const char *name = stacks[stack];
    int sublayer = 0;
    const part self[] = {
        {"SelfAttention.q", PEFT_MODULE_LINEAR, h, inner, 0},
        {"SelfAttention.k", PEFT_MODULE_LINEAR, h, inner, 0},
        {"SelfAttention.v", PEFT_MODULE_LINEAR, h, inner, 0},
        {"SelfAttention.o", PEFT_MODULE_LINEAR, inner, h, PEFT__MODULE_ENDS_ATTENTION},
        {"layer_norm", PEFT_MODULE_NORM, h, h, 0},
        {"SelfAttention.relative_attention_bias", PEFT_MODULE_EMBEDDING, c->buckets, d->num_attention_heads, 0},
    };
    PEFT_TRY(declare_parts(ctx, model, name, block, sublayer++, self, block == 0 ? 6 : 5));
    if (stack == PEFT__STACK_DECODER) {
        const part cross[] = {
            {"EncDecAttention.q", PEFT_MODULE_LINEAR, h, inner, 0},
            {"EncDecAttention.k", PEFT_MODULE_LINEAR, h, inner, 0},
            {"EncDecAttention.v", PEFT_MODULE_LINEAR, h, inner, 0},
            {"EncDecAttention.o", PEFT_MODULE_LINEAR, inner, h, PEFT__MODULE_ENDS_CROSS},
            {"layer_norm", PEFT_MODULE_NORM, h, h, 0},
        };
        PEFT_TRY(declare_parts(ctx, model, name, block, sublayer++, cross, PEFT_COUNT(cross)));
    }
    const part gated[] = {
        {"DenseReluDense.wi_0", PEFT_MODULE_LINEAR, h, m, 0},
        {"DenseReluDense.wi_1", PEFT_MODULE_LINEAR, h, m, 0},
    };
    const part plain = {"DenseReluDense.wi", PEFT_MODULE_LINEAR, h, m, 0};
    const part end[] = {
        {"DenseReluDense.wo", PEFT_MODULE_LINEAR, m, h, PEFT__MODULE_ENDS_FFN},
        {"layer_norm", PEFT_MODULE_NORM, h, h, 0},
    };
    PEFT_TRY(declare_parts(ctx, model, name, block, sublayer, c->gated ? gated : &plain, c->gated ? 2 : 1));
    return declare_parts(ctx, model, name, block, sublayer, end, PEFT_COUNT(end));
}

static peft_status declare_stack(peft_context *ctx, peft_model *model, const t5_config *c, peft__stack stack) {
    const peft__dims *d = peft__model_dims(model);
    const int64_t blocks = stack == PEFT__STACK_DECODER ? d->num_decoder_layers : d->num_hidden_layers;
    const peft__module_spec words = {.kind = PEFT_MODULE_EMBEDDING,
                                     .layer = -1,
                                     .in = d->vocab_size,
                                     .out = d->hidden_size,
                                     .flags = PEFT__MODULE_TIED,
                                     .tied_to = "shared"};
    const peft__module_spec norm = {.kind = PEFT_MODULE_NORM, .layer = -1, .in = d->hidden_size, .out = d->hidden_size};
    PEFT_TRY(peft__model_declare(ctx, model, &words, "%s.embed_tokens", stacks[stack]));
    for (int64_t block = 0; block < blocks; block++) PEFT_TRY(declare_block(ctx, model, c, stack, block));
    return peft__model_declare(ctx, model, &norm, "%s.final_layer_norm", stacks[stack]);
}

static peft_status declare_head(peft_context *ctx, peft_model *model, bool tied) {
    const peft__dims *d = peft__model_dims(model);
    const peft__module_spec head = {.kind = PEFT_MODULE_LINEAR,
                                    .layer = -1,
                                    .in = d->hidden_size,
                                    .out = d->vocab_size,
                                    .flags =
                                        PEFT__MODULE_HEAD | (tied ? PEFT__MODULE_TIED : PEFT__MODULE_TIE_IF_MISSING),
                                    .tied_to = "shared"};
    return peft__model_declare(ctx, model, &head, "lm_head");
}

static peft_status configure_as(peft_context *ctx, peft_model *model, bool scales_when_tied) {
    t5_config *c = peft__arena_alloc(peft__model_arena(model), sizeof *c);
    if (c == NULL) return peft__fail_nomem(ctx, sizeof *c, "the model's configuration");
    PEFT_TRY(read_config(ctx, model, scales_when_tied, c));
    peft__model_set_arch_config(model, c);
    const int32_t task = peft__model_task(model);
    if (task != PEFT_TASK_SEQ_2_SEQ_LM && task != PEFT_TASK_FEATURE_EXTRACTION)
        return peft__fail(
            ctx, PEFT_E_UNSUPPORTED,
            "a %s model can be SEQ_2_SEQ_LM or FEATURE_EXTRACTION (the encoder alone); task %s is not built",
            peft__model_arch(model)->model_type, peft__task_name(task));
    const peft__dims *d = peft__model_dims(model);
    const peft__module_spec words = {
        .kind = PEFT_MODULE_EMBEDDING, .layer = -1, .in = d->vocab_size, .out = d->hidden_size};
    PEFT_TRY(peft__model_declare(ctx, model, &words, "shared"));
    PEFT_TRY(declare_stack(ctx, model, c, PEFT__STACK_MAIN));
    if (task == PEFT_TASK_FEATURE_EXTRACTION) return PEFT_OK;
    PEFT_TRY(declare_stack(ctx, model, c, PEFT__STACK_DECODER));
    bool tied = true;
    PEFT_TRY(peft__json_get_bool(ctx, peft__model_config_json(model), where, "tie_word_embeddings", scales_when_tied,
                                 &tied));
    return declare_head(ctx, model, tied);
}

static peft_status configure_t5(peft_context *ctx, peft_model *model) {
    return configure_as(ctx, model, true);
}
static peft_status configure_mt5(peft_context *ctx, peft_model *model) {
    return configure_as(ctx, model, false);
}

/* Settles the scale once, because merging may untie the head later; and says so to whoever reads the configuration. */
static peft_status resolved(peft_context *ctx, peft_model *model) {
    const peft__module *head = peft__model_find(model, "lm_head");
    t5_config *c = peft__arena_alloc(peft__model_arena(model), sizeof *c);
    if (c == NULL) return peft__fail_nomem(ctx, sizeof *c, "the model's configuration");
    if (head == NULL) return PEFT_OK;
    *c = *(const t5_config *)peft__model_arch_config(model);
    if (c->scale == SCALE_IF_TIED) c->scale = head->tied_to != NULL ? SCALE_YES : SCALE_NO;
    peft__model_set_arch_config(model, c);
    if (json_object_set_new(model->config, "scale_decoder_outputs", json_boolean(c->scale == SCALE_YES)) == 0)
        return PEFT_OK;
    return peft__fail_nomem(ctx, 64, "the model's configuration");
}

/* Files of some converters hold the embedding under the name of a stack only. */
static char *alias(const peft_model *model, peft__arena *arena, const char *tensor) {
    (void)model;
    return strcmp(tensor, "shared.weight") == 0 ? peft__arena_strdup(arena, "encoder.embed_tokens.weight") : NULL;
}

/* ---- graph ----------------------------------------------------------------------------------------------- */

typedef struct stack_state {
    peft__build *b;
    const t5_config *c;
    const peft__dims *d;
    peft__stack stack;
    int32_t block;
    int sublayer;
    peft__value *bias;    /* relative positions */
    peft__value *encoded; /* what the decoder reads */
} stack_state;

static const char *name_of(const stack_state *s, char buffer[NAME_BYTES], const char *name) {
    (void)snprintf(buffer, NAME_BYTES, "%s.block.%d.layer.%d.%s", stacks[s->stack], (int)s->block, s->sublayer, name);
    return buffer;
}

static peft__value *normed(const stack_state *s, peft__value *x) {
    char name[NAME_BYTES];
    return peft__build_norm(s->b, name_of(s, name, "layer_norm"), PEFT__RMS_NORM, x, s->d->norm_eps, 0);
}

static peft__value *end_sublayer(stack_state *s, peft__sublayer which, const char *module, peft__value *y,
                                 peft__value *x) {
    char name[NAME_BYTES];
    y = peft__build_sublayer_end(s->b, s->stack, s->block, which, name_of(s, name, module), y, x);
    s->sublayer++;
    return y;
}

static peft__attention_config attention_config(const stack_state *s, bool causal) {
    return (peft__attention_config){.heads = s->d->num_attention_heads,
                                    .kv_heads = s->d->num_attention_heads,
                                    .head_dim = s->d->head_dim,
                                    .scale = 1,
                                    .causal = causal};
}

static peft__value *self_attention(stack_state *s, peft__value *x) {
    char names[3][NAME_BYTES];
    const char *const modules[3] = {name_of(s, names[0], "SelfAttention.q"), name_of(s, names[1], "SelfAttention.k"),
                                    name_of(s, names[2], "SelfAttention.v")};
    peft__value *qkv[3] = {NULL, NULL, NULL};
    peft__build_linear_group(s->b, modules, 3, normed(s, x), qkv);
    const peft__attention_config config = attention_config(s, s->stack == PEFT__STACK_DECODER);
    peft__value *y = peft__build_attention(s->b, s->stack, s->block, qkv[0], qkv[1], qkv[2], s->bias, &config);
    return end_sublayer(s, PEFT__SUBLAYER_ATTENTION, "SelfAttention.o", y, x);
}

static peft__value *cross_attention(stack_state *s, peft__value *x) {
    char q_name[NAME_BYTES], k[NAME_BYTES], v[NAME_BYTES];
    peft__value *q = peft__build_linear(s->b, name_of(s, q_name, "EncDecAttention.q"), normed(s, x), NULL);
    const peft__attention_config config = attention_config(s, false);
    peft__value *y = peft__build_cross_attention(s->b, s->block, q, name_of(s, k, "EncDecAttention.k"),
                                                 name_of(s, v, "EncDecAttention.v"), s->encoded, &config);
    return end_sublayer(s, PEFT__SUBLAYER_CROSS, "EncDecAttention.o", y, x);
}

static peft__value *feed_forward(stack_state *s, peft__value *x) {
    char names[2][NAME_BYTES];
    peft__value *y = normed(s, x);
    if (s->c->gated) {
        const char *const modules[2] = {name_of(s, names[0], "DenseReluDense.wi_0"),
                                        name_of(s, names[1], "DenseReluDense.wi_1")};
        peft__value *gate_up[2] = {NULL, NULL};
        peft__build_linear_group(s->b, modules, 2, y, gate_up);
        y = peft__op_gated(s->b->graph, s->c->activation, gate_up[0], gate_up[1]);
    } else {
        y = peft__build_linear(s->b, name_of(s, names[0], "DenseReluDense.wi"), y, NULL);
        y = peft__op_activation(s->b->graph, s->c->activation, y);
    }
    return end_sublayer(s, PEFT__SUBLAYER_FFN, "DenseReluDense.wo", y, x);
}

static peft__value *relative_bias(stack_state *s) {
    char name[NAME_BYTES];
    s->block = s->sublayer = 0;
    name_of(s, name, "SelfAttention.relative_attention_bias");
    if (peft__build_touches(s->b, name))
        return peft__graph_fail(s->b->graph, peft__fail(peft__graph_context(s->b->graph), PEFT_E_UNSUPPORTED,
                                                        "%s cannot be adapted, only trained as it is", name));
    return peft__op_relative_bias(s->b->graph, peft__build_weight(s->b, name), s->c->max_distance,
                                  s->stack == PEFT__STACK_MAIN);
}

static void keep_hidden(const stack_state *s, int64_t index, peft__value *x) {
    if (s->stack == PEFT__STACK_DECODER)
        peft__build_decoder_hidden(s->b, index, x);
    else
        peft__build_hidden(s->b, index, x);
}

/* A whole stack, up to its last norm. */
static peft__value *build_stack(peft__build *b, peft__stack stack, peft__value *encoded) {
    stack_state s = {.b = b,
                     .c = peft__model_arch_config(b->model),
                     .d = peft__model_dims(b->model),
                     .stack = stack,
                     .encoded = encoded};
    char name[NAME_BYTES];
    const int64_t blocks = stack == PEFT__STACK_DECODER ? s.d->num_decoder_layers : s.d->num_hidden_layers;
    (void)snprintf(name, sizeof name, "%s.embed_tokens", stacks[stack]);
    peft__value *x = peft__build_embedding(b, name, peft__build_rows(b, stack), PEFT__LOOKUP_IDS, 1, -1);
    x = peft__build_word_embedding(b, stack, x);
    x = peft__build_input(b, stack, 0, x);
    keep_hidden(&s, 0, x);
    s.bias = relative_bias(&s);
    for (int64_t block = 0; block < blocks && !peft__graph_failed(b->graph); block++) {
        s.block = (int32_t)block;
        s.sublayer = 0;
        x = peft__build_layer_input(b, stack, s.block, 0, x);
        x = self_attention(&s, x);
        if (stack == PEFT__STACK_DECODER) x = cross_attention(&s, x);
        x = feed_forward(&s, x);
        if (block + 1 < blocks) keep_hidden(&s, block + 1, x);
    }
    if (stack == PEFT__STACK_DECODER || peft__model_task(b->model) == PEFT_TASK_FEATURE_EXTRACTION)
        x = peft__build_readout_rows(b, x);
    (void)snprintf(name, sizeof name, "%s.final_layer_norm", stacks[stack]);
    x = peft__build_norm(b, name, PEFT__RMS_NORM, x, s.d->norm_eps, 0);
    keep_hidden(&s, blocks, x);
    return x;
}

/* The encoder alone, for the decoder that will read it. */
static void build_cross_keys(peft__build *b, peft__value *encoded) {
    stack_state s = {.b = b, .stack = PEFT__STACK_DECODER, .sublayer = 1};
    char k[NAME_BYTES], v[NAME_BYTES];
    for (; s.block < peft__model_dims(b->model)->num_decoder_layers && !peft__graph_failed(b->graph); s.block++)
        peft__build_cross_keys(b, s.block, name_of(&s, k, "EncDecAttention.k"), name_of(&s, v, "EncDecAttention.v"),
                               encoded);
}

static peft__value *build(peft__build *b) {
    peft__value *encoded = b->part == PEFT__PART_DECODER ? NULL : build_stack(b, PEFT__STACK_MAIN, NULL);
    if (peft__model_task(b->model) == PEFT_TASK_FEATURE_EXTRACTION) return encoded;
    if (b->part != PEFT__PART_ENCODER) return build_stack(b, PEFT__STACK_DECODER, encoded);
    build_cross_keys(b, encoded);
    return NULL;
}

static void language_model(peft__build *b, peft__value *x, const void *options) {
    peft__build_lm_head(b, x, options);
}

static void features(peft__build *b, peft__value *x, const void *options) {
    (void)options;
    peft__build_features(b, x);
}

static const peft__head heads[] = {
    {PEFT_TASK_SEQ_2_SEQ_LM, PEFT__READ_LABELLED, PEFT__READ_ALL, PEFT__READ_LAST, language_model},
    {PEFT_TASK_FEATURE_EXTRACTION, PEFT__READ_ALL, PEFT__READ_ALL, PEFT__READ_LAST, features},
    {0, PEFT__READ_ALL, PEFT__READ_ALL, PEFT__READ_ALL, NULL},
};

static void build_head(peft__build *b, peft__value *hidden) {
    const t5_config *c = peft__model_arch_config(b->model);
    const float width = (float)peft__model_dims(b->model)->hidden_size;
    const peft__head_options options = {.lm_head = "lm_head",
                                        .logit_scale = c->scale == SCALE_YES ? 1 / sqrtf(width) : 1};
    peft__build_head(b, hidden, &options);
}

/* ---- GGUF ------------------------------------------------------------------------------------------------ */

static peft_status config_from_gguf_as(peft_context *ctx, const void *gguf, json_t *config, const char *arch) {
    const peft__gguf_reader r = {ctx, gguf, config, arch};
    const peft__tensors *tensors = peft__gguf_tensors(gguf);
    const bool gated = peft__tensors_find(tensors, "enc.blk.0.ffn_gate.weight") != NULL;
    PEFT_TRY(peft__gguf_copy_int(&r, "embedding_length", "d_model", -1));
    PEFT_TRY(peft__gguf_copy_int(&r, "feed_forward_length", "d_ff", -1));
    PEFT_TRY(peft__gguf_copy_int(&r, "block_count", "num_layers", -1));
    PEFT_TRY(peft__gguf_copy_int(&r, "decoder_block_count", "num_decoder_layers",
                                 json_integer_value(json_object_get(config, "num_layers"))));
    PEFT_TRY(peft__gguf_copy_int(&r, "attention.head_count", "num_heads", -1));
    const int64_t width = json_integer_value(json_object_get(config, "d_model")),
                  number = json_integer_value(json_object_get(config, "num_heads"));
    PEFT_TRY(peft__gguf_copy_int(&r, "attention.key_length", "d_kv", number > 0 ? width / number : 0));
    PEFT_TRY(peft__gguf_copy_int(&r, "attention.relative_buckets_count", "relative_attention_num_buckets", 32));
    PEFT_TRY(peft__gguf_copy_int(&r, "decoder_start_token_id", "decoder_start_token_id", 0));
    PEFT_TRY(peft__gguf_copy_float(&r, "attention.layer_norm_rms_epsilon", "layer_norm_epsilon", 1e-6));
    const double eps = json_real_value(json_object_get(config, "layer_norm_epsilon"));
    PEFT_TRY(peft__gguf_put(&r, config, "layer_norm_epsilon", json_real(peft__gguf_tidy(eps))));
    PEFT_TRY(peft__gguf_put(&r, config, "relative_attention_max_distance", json_integer(128)));
    PEFT_TRY(peft__gguf_put(&r, config, "feed_forward_proj", json_string(gated ? "gated-gelu" : "relu")));
    PEFT_TRY(peft__gguf_put(&r, config, "is_encoder_decoder", json_true()));
    PEFT_TRY(peft__gguf_copy_vocabulary(&r));
    PEFT_TRY(peft__gguf_copy_token_ids(&r));
    return peft__gguf_put_class(&r, "T5", strcmp(arch, "t5") == 0 ? "ForConditionalGeneration" : "EncoderModel");
}

static peft_status config_from_gguf(peft_context *ctx, const void *gguf, json_t *config) {
    return config_from_gguf_as(ctx, gguf, config, "t5");
}
static peft_status encoder_config_from_gguf(peft_context *ctx, const void *gguf, json_t *config) {
    return config_from_gguf_as(ctx, gguf, config, "t5encoder");
}

static char *gguf_name(const peft_model *model, peft__arena *arena, const char *tensor) {
    static const peft__gguf_rename outer[] = {{"shared.", "token_embd."},
                                              {"lm_head.", "output."},
                                              {"encoder.final_layer_norm.", "enc.output_norm."},
                                              {"decoder.final_layer_norm.", "dec.output_norm."}};
    static const peft__gguf_rename self[] = {{"SelfAttention.q.", "attn_q."},
                                             {"SelfAttention.k.", "attn_k."},
                                             {"SelfAttention.v.", "attn_v."},
                                             {"SelfAttention.o.", "attn_o."},
                                             {"SelfAttention.relative_attention_bias.", "attn_rel_b."},
                                             {"layer_norm.", "attn_norm."}};
    static const peft__gguf_rename cross[] = {{"EncDecAttention.q.", "cross_attn_q."},
                                              {"EncDecAttention.k.", "cross_attn_k."},
                                              {"EncDecAttention.v.", "cross_attn_v."},
                                              {"EncDecAttention.o.", "cross_attn_o."},
                                              {"layer_norm.", "cross_attn_norm."}};
    static const peft__gguf_rename ffn[] = {{"DenseReluDense.wi_0.", "ffn_gate."},
                                            {"DenseReluDense.wi_1.", "ffn_up."},
                                            {"DenseReluDense.wi.", "ffn_up."},
                                            {"DenseReluDense.wo.", "ffn_down."},
                                            {"layer_norm.", "ffn_norm."}};
    (void)model;
    char front[48];
    for (int stack = 0; stack < 2; stack++) {
        long long block = 0;
        const char *rest = peft__gguf_split_layer(tensor, stack == 0 ? "encoder.block." : "decoder.block.", &block);
        if (rest == NULL || strncmp(rest, "layer.", 6) != 0 || rest[6] < '0' || rest[6] > '2' || rest[7] != '.')
            continue;
        const int sublayer = rest[6] - '0';
        (void)snprintf(front, sizeof front, "%s.blk.%lld.", stack == 0 ? "enc" : "dec", block);
        if (sublayer == 0) return peft__gguf_renamed(arena, front, self, PEFT_COUNT(self), rest + 8);
        if (sublayer == 1 && stack == 1) return peft__gguf_renamed(arena, front, cross, PEFT_COUNT(cross), rest + 8);
        return peft__gguf_renamed(arena, front, ffn, PEFT_COUNT(ffn), rest + 8);
    }
    return peft__gguf_renamed(arena, "", outer, PEFT_COUNT(outer), tensor);
}

#define T5_ROW(type, gguf, from_gguf, configure_row)                                                                   \
    {                                                                                                                  \
        .model_type = type, .gguf_arch = gguf, .default_task = PEFT_TASK_SEQ_2_SEQ_LM, .config_from_gguf = from_gguf,  \
        .configure = configure_row, .resolved = resolved, .gguf_name = gguf_name, .alias = alias, .build = build,      \
        .build_head = build_head, .heads = heads                                                                       \
    }

const peft__arch peft__arch_t5 = T5_ROW("t5", "t5", config_from_gguf, configure_t5);
const peft__arch peft__arch_mt5 = T5_ROW("mt5", NULL, NULL, configure_mt5);
/* GGUF files of the encoder alone; what they become is a "t5". */
const peft__arch peft__arch_t5_encoder = T5_ROW("t5", "t5encoder", encoder_config_from_gguf, configure_t5);
