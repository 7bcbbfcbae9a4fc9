/* encoder_config.c: from config.json, or a GGUF file's metadata, to the numbers and modules of an encoder. */
#include "format/json.h"
#include "model/encoder.h"
#include "model/gguf_config.h"

#include <stdio.h>

static const char *const where = "config.json";

enum {
    MOST_LAYERS = 4096,
    MOST_HEADS = 65536,
    MOST_WIDTH = 1 << 24,
    MOST_VOCABULARY = 1 << 27,
    MOST_POSITIONS = 1 << 30,
    MOST_TYPES = 1 << 20
};

/* ---- numbers --------------------------------------------------------------------------------------------- */

/* Keys that change what is computed, and are not built. */
static peft_status refuse_variations(peft_context *ctx, const json_t *config) {
    const char *positions = NULL;
    bool decoder = false;
    int64_t inner = 1;
    PEFT_TRY(peft__json_get_string(ctx, config, where, "position_embedding_type", "absolute", &positions));
    if (strcmp(positions, "absolute") != 0)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: position_embedding_type \"%s\" is not built", where, positions);
    PEFT_TRY(peft__json_get_bool(ctx, config, where, "is_decoder", false, &decoder));
    if (decoder)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: is_decoder: an encoder as decoder is not built", where);
    PEFT_TRY(peft__json_get_int(ctx, config, where, "inner_group_num", 1, MOST_LAYERS, 1, &inner));
    if (inner != 1) return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: inner_group_num other than 1 is not built", where);
    return PEFT_OK;
}

static peft_status read_activation(peft_context *ctx, const char *name, peft__activation *out) {
    if (peft__activation_parse(name, out)) return PEFT_OK;
    return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: the activation \"%s\" is not built", where, name);
}

static peft_status read_positions(peft_context *ctx, const json_t *config, const peft__encoder_variant *v,
                                  peft__dims *d) {
    int64_t pad = v->pad, positions = 0;
    PEFT_TRY(peft__json_get_int(ctx, config, where, "pad_token_id", -1, MOST_VOCABULARY, v->pad, &pad));
    PEFT_TRY(
        peft__json_get_int(ctx, config, where, "max_position_embeddings", 1, MOST_POSITIONS, v->positions, &positions));
    d->pad_token_id = pad < d->vocab_size ? (int32_t)pad : -1;
    d->first_position = (v->flags & PEFT__ENCODER_PAD_POSITIONS) != 0 ? pad + 1 : 0;
    d->max_position_embeddings = positions - d->first_position;
    if (d->max_position_embeddings < 1)
        return peft__fail(ctx, PEFT_E_FORMAT,
                          "%s: max_position_embeddings %lld leaves no position after pad_token_id %lld", where,
                          (long long)positions, (long long)pad);
    return PEFT_OK;
}

static peft_status read_dims(peft_context *ctx, const json_t *config, const peft__encoder_variant *v, peft__dims *d) {
    double eps = v->norm_eps;
    PEFT_TRY(peft__json_get_int(ctx, config, where, v->hidden_key, 1, MOST_WIDTH, v->hidden, &d->hidden_size));
    PEFT_TRY(peft__json_get_int(ctx, config, where, v->inner_key, 1, MOST_WIDTH, v->inner, &d->intermediate_size));
    PEFT_TRY(peft__json_get_int(ctx, config, where, v->layers_key, 1, MOST_LAYERS, v->layers, &d->num_hidden_layers));
    PEFT_TRY(peft__json_get_int(ctx, config, where, v->heads_key, 1, MOST_HEADS, v->heads, &d->num_attention_heads));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "vocab_size", 1, MOST_VOCABULARY, v->vocab, &d->vocab_size));
    if ((v->flags & PEFT__ENCODER_NO_TYPES) == 0)
        PEFT_TRY(
            peft__json_get_int(ctx, config, where, "type_vocab_size", 0, MOST_TYPES, v->types, &d->type_vocab_size));
    PEFT_TRY(peft__json_get_double(ctx, config, where, "layer_norm_eps", 0, 1, eps, &eps));
    PEFT_TRY(read_positions(ctx, config, v, d));
    d->norm_eps = (float)eps;
    d->num_key_value_heads = d->num_attention_heads;
    if (d->hidden_size % d->num_attention_heads != 0)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: %s %lld is not a multiple of %s %lld", where, v->hidden_key,
                          (long long)d->hidden_size, v->heads_key, (long long)d->num_attention_heads);
    d->head_dim = d->hidden_size / d->num_attention_heads;
    return PEFT_OK;
}

static peft_status read_config(peft_context *ctx, peft_model *model, const peft__encoder_variant *v,
                               peft__encoder_config *c) {
    const json_t *config = peft__model_config_json(model);
    peft__dims *d = peft__model_edit_dims(model);
    const char *act = NULL;
    PEFT_TRY(refuse_variations(ctx, config));
    PEFT_TRY(read_dims(ctx, config, v, d));
    PEFT_TRY(peft__json_get_string(ctx, config, where, v->act_key, v->act, &act));
    PEFT_TRY(read_activation(ctx, act, &c->activation));
    PEFT_TRY(read_activation(ctx, v->lm_act != NULL ? v->lm_act : act, &c->lm_activation));
    c->embedding_size = d->hidden_size;
    if ((v->flags & PEFT__ENCODER_EMBEDDING_SIZE) != 0)
        PEFT_TRY(peft__json_get_int(ctx, config, where, "embedding_size", 1, MOST_WIDTH, 128, &c->embedding_size));
    c->projected = c->embedding_size != d->hidden_size || (v->flags & PEFT__ENCODER_ALWAYS_PROJECTED) != 0;
    c->groups = d->num_hidden_layers;
    if ((v->flags & PEFT__ENCODER_SHARED) == 0) return PEFT_OK;
    return peft__json_get_int(ctx, config, where, "num_hidden_groups", 1, d->num_hidden_layers, 1, &c->groups);
}

/* ---- modules --------------------------------------------------------------------------------------------- */

typedef struct declaring {
    peft_context *ctx;
    peft_model *model;
    const peft__encoder_variant *v;
} declaring;

static peft_status declare(const declaring *w, int32_t kind, const char *name, int64_t in, int64_t out,
                           uint32_t flags) {
    const peft__module_spec spec = {.kind = kind, .layer = -1, .in = in, .out = out, .flags = flags};
    return peft__model_declare(w->ctx, w->model, &spec, "%s%s", w->v->prefix, name);
}

static peft_status declare_head(const declaring *w, int32_t kind, const char *name, int64_t in, int64_t out,
                                uint32_t flags) {
    const peft__module_spec spec = {
        .kind = kind, .layer = -1, .in = in, .out = out, .flags = flags | PEFT__MODULE_BIAS};
    return peft__model_declare(w->ctx, w->model, &spec, "%s", name);
}

/* `layer`: the last one that uses the group, since the top layers are what "layers" of a configuration means. */
static peft_status declare_layer(const declaring *w, int64_t group, int64_t layer) {
    const int64_t h = peft__model_dims(w->model)->hidden_size, m = peft__model_dims(w->model)->intermediate_size;
    char prefix[96];
    (void)snprintf(prefix, sizeof prefix, w->v->layer, (int)group);
    const struct {
        peft__encoder_part part;
        int32_t kind;
        int64_t in, out;
        uint32_t flags;
    } parts[] = {
        {PEFT__ENCODER_QUERY, PEFT_MODULE_LINEAR, h, h, 0},
        {PEFT__ENCODER_KEY, PEFT_MODULE_LINEAR, h, h, 0},
        {PEFT__ENCODER_VALUE, PEFT_MODULE_LINEAR, h, h, 0},
        {PEFT__ENCODER_ATTENTION_OUT, PEFT_MODULE_LINEAR, h, h, PEFT__MODULE_ENDS_ATTENTION},
        {PEFT__ENCODER_ATTENTION_NORM, PEFT_MODULE_NORM, h, h, 0},
        {PEFT__ENCODER_UP, PEFT_MODULE_LINEAR, h, m, 0},
        {PEFT__ENCODER_DOWN, PEFT_MODULE_LINEAR, m, h, PEFT__MODULE_ENDS_FFN},
        {PEFT__ENCODER_OUT_NORM, PEFT_MODULE_NORM, h, h, 0},
    };
    for (size_t i = 0; i < PEFT_COUNT(parts); i++) {
        const peft__module_spec spec = {.kind = parts[i].kind,
                                        .layer = (int32_t)layer,
                                        .in = parts[i].in,
                                        .out = parts[i].out,
                                        .flags = parts[i].flags | PEFT__MODULE_BIAS};
        PEFT_TRY(
            peft__model_declare(w->ctx, w->model, &spec, "%s%s%s", w->v->prefix, prefix, w->v->parts[parts[i].part]));
    }
    return PEFT_OK;
}

static peft_status declare_body(const declaring *w, const peft__encoder_config *c) {
    const peft__dims *d = peft__model_dims(w->model);
    const int64_t e = c->embedding_size;
    PEFT_TRY(declare(w, PEFT_MODULE_EMBEDDING, "embeddings.word_embeddings", d->vocab_size, e, 0));
    PEFT_TRY(declare(w, PEFT_MODULE_EMBEDDING, "embeddings.position_embeddings",
                     d->max_position_embeddings + d->first_position, e, 0));
    if (d->type_vocab_size > 0)
        PEFT_TRY(declare(w, PEFT_MODULE_EMBEDDING, "embeddings.token_type_embeddings", d->type_vocab_size, e, 0));
    PEFT_TRY(declare(w, PEFT_MODULE_NORM, "embeddings.LayerNorm", e, e, PEFT__MODULE_BIAS));
    if (c->projected) PEFT_TRY(declare(w, PEFT_MODULE_LINEAR, w->v->projection, e, d->hidden_size, PEFT__MODULE_BIAS));
    for (int64_t group = 0; group < c->groups; group++) {
        int64_t last = d->num_hidden_layers - 1;
        while (peft__encoder_group(c, d, last) > group) last--;
        PEFT_TRY(declare_layer(w, group, last));
    }
    return PEFT_OK;
}

static peft_status declare_lm(const declaring *w, const peft__encoder_config *c) {
    const peft__dims *d = peft__model_dims(w->model);
    const peft__encoder_variant *v = w->v;
    const int64_t e = c->embedding_size;
    bool tied = true;
    char words[64];
    (void)snprintf(words, sizeof words, "%sembeddings.word_embeddings", v->prefix);
    PEFT_TRY(peft__json_get_bool(w->ctx, peft__model_config_json(w->model), where, "tie_word_embeddings", true, &tied));
    PEFT_TRY(declare_head(w, PEFT_MODULE_LINEAR, v->lm_dense, d->hidden_size, e, 0));
    PEFT_TRY(declare_head(w, PEFT_MODULE_NORM, v->lm_norm, e, e, 0));
    const peft__module_spec decoder = {.kind = PEFT_MODULE_LINEAR,
                                       .layer = -1,
                                       .in = e,
                                       .out = d->vocab_size,
                                       .flags = PEFT__MODULE_BIAS | PEFT__MODULE_HEAD |
                                                (tied ? (uint32_t)PEFT__MODULE_TIED : 0u),
                                       .tied_to = words,
                                       .bias_name = v->lm_bias};
    return peft__model_declare(w->ctx, w->model, &decoder, "%s", v->lm_head);
}

static peft_status declare_heads(const declaring *w, const peft__encoder_config *c) {
    const peft__dims *d = peft__model_dims(w->model);
    const peft__encoder_variant *v = w->v;
    const int64_t h = d->hidden_size;
    const uint32_t fresh = PEFT__MODULE_HEAD | PEFT__MODULE_MAY_BE_NEW;
    const bool pooler = (v->flags & PEFT__ENCODER_POOLER) != 0;
    switch (peft__model_task(w->model)) {
    case PEFT_TASK_MASKED_LM:
        return declare_lm(w, c);
    case PEFT_TASK_SEQ_CLS:
        PEFT_TRY(declare_head(w, PEFT_MODULE_LINEAR, v->first, h, h, pooler ? PEFT__MODULE_MAY_BE_NEW : fresh));
        return declare_head(w, PEFT_MODULE_LINEAR, v->classes, h, d->num_labels, fresh);
    case PEFT_TASK_TOKEN_CLS:
        return declare_head(w, PEFT_MODULE_LINEAR, "classifier", h, d->num_labels, fresh);
    case PEFT_TASK_MULTIPLE_CHOICE:
        PEFT_TRY(declare_head(w, PEFT_MODULE_LINEAR, v->choice, h, h, pooler ? PEFT__MODULE_MAY_BE_NEW : fresh));
        return declare_head(w, PEFT_MODULE_LINEAR, "classifier", h, 1, fresh);
    case PEFT_TASK_QUESTION_ANS:
        return declare_head(w, PEFT_MODULE_LINEAR, "qa_outputs", h, 2, fresh);
    case PEFT_TASK_FEATURE_EXTRACTION: /* not read, but part of the model when it is written again */
        return pooler ? declare_head(w, PEFT_MODULE_LINEAR, v->first, h, h, PEFT__MODULE_OPTIONAL) : PEFT_OK;
    default:
        return peft__fail(w->ctx, PEFT_E_UNSUPPORTED,
                          "a %s model can be MASKED_LM, SEQ_CLS, TOKEN_CLS, QUESTION_ANS, MULTIPLE_CHOICE or "
                          "FEATURE_EXTRACTION; task %d is not built",
                          v->model_type, (int)peft__model_task(w->model));
    }
}

peft_status peft__encoder_configure(peft_context *ctx, peft_model *model, const peft__encoder_variant *variant) {
    peft__encoder_config *c = peft__arena_alloc(peft__model_arena(model), sizeof *c);
    if (c == NULL) return peft__fail_nomem(ctx, sizeof *c, "the model's configuration");
    c->variant = variant;
    PEFT_TRY(read_config(ctx, model, variant, c));
    peft__model_set_arch_config(model, c);
    const declaring w = {ctx, model, variant};
    PEFT_TRY(declare_body(&w, c));
    return declare_heads(&w, c);
}

/* ---- GGUF ------------------------------------------------------------------------------------------------ */

/* Rows of a table; `needed` or 0 where there is none. */
static peft_status copy_rows(const peft__gguf_reader *r, const char *tensor, const char *name, bool needed) {
    const peft__tensors *tensors = peft__gguf_tensors(r->gguf);
    const peft__tensor *table = peft__tensors_find(tensors, tensor);
    if (table == NULL && needed) PEFT_TRY(peft__tensors_need(r->ctx, tensors, tensor, &table));
    if (table != NULL && table->ndim != 2)
        return peft__fail(r->ctx, PEFT_E_MISMATCH, "%s: %s: expected 2 dimensions, found %u", table->file, tensor,
                          table->ndim);
    return peft__gguf_put(r, r->config, name, json_integer(table != NULL ? table->shape[0] : 0));
}

/* Files of RoBERTa say bert too: converters cut the rows up to the padding's off its position table, and what is left
 * is BERT. The MLM head and the pooler are not in such files. */
peft_status peft__encoder_config_from_gguf(peft_context *ctx, const void *gguf, json_t *config) {
    const peft__gguf_reader r = {ctx, gguf, config, "bert"};
    PEFT_TRY(peft__gguf_copy_int(&r, "embedding_length", "hidden_size", -1));
    PEFT_TRY(peft__gguf_copy_int(&r, "feed_forward_length", "intermediate_size", -1));
    PEFT_TRY(peft__gguf_copy_int(&r, "block_count", "num_hidden_layers", -1));
    PEFT_TRY(peft__gguf_copy_int(&r, "attention.head_count", "num_attention_heads", -1));
    PEFT_TRY(peft__gguf_copy_float(&r, "attention.layer_norm_epsilon", "layer_norm_eps", 1e-12));
    const double eps = json_real_value(json_object_get(config, "layer_norm_eps"));
    PEFT_TRY(peft__gguf_put(&r, config, "layer_norm_eps", json_real(peft__gguf_tidy(eps))));
    PEFT_TRY(peft__gguf_put(&r, config, "hidden_act", json_string("gelu")));
    PEFT_TRY(copy_rows(&r, "position_embd.weight", "max_position_embeddings", true));
    PEFT_TRY(copy_rows(&r, "token_types.weight", "type_vocab_size", false));
    PEFT_TRY(peft__gguf_copy_vocabulary(&r));
    PEFT_TRY(peft__gguf_copy_token_ids(&r));
    return peft__gguf_put_class(&r, "Bert", "Model");
}

char *peft__encoder_gguf_name(const peft_model *model, peft__arena *arena, const char *tensor) {
    static const peft__gguf_rename outer[] = {{"embeddings.word_embeddings.", "token_embd."},
                                              {"embeddings.position_embeddings.", "position_embd."},
                                              {"embeddings.token_type_embeddings.", "token_types."},
                                              {"embeddings.LayerNorm.", "token_embd_norm."}};
    static const peft__gguf_rename inner[] = {{"attention.self.query.", "attn_q."},
                                              {"attention.self.key.", "attn_k."},
                                              {"attention.self.value.", "attn_v."},
                                              {"attention.output.dense.", "attn_output."},
                                              {"attention.output.LayerNorm.", "attn_output_norm."},
                                              {"intermediate.dense.", "ffn_up."},
                                              {"output.dense.", "ffn_down."},
                                              {"output.LayerNorm.", "layer_output_norm."}};
    (void)model;
    if (strncmp(tensor, "bert.", 5) == 0) tensor += 5;
    long long layer = 0;
    const char *rest = peft__gguf_split_layer(tensor, "encoder.layer.", &layer);
    if (rest == NULL) return peft__gguf_renamed(arena, "", outer, PEFT_COUNT(outer), tensor);
    char front[48];
    (void)snprintf(front, sizeof front, "blk.%lld.", layer);
    return peft__gguf_renamed(arena, front, inner, PEFT_COUNT(inner), rest);
}
