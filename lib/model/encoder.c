/* encoder.c: the graph of every encoder variant, body and heads.
 *
 * Norms come after the sums, so a sub-layer ends in peft__build_post_norm_end(). Where the head reads some rows only,
 * the last layer's work after its attention is done for those alone: nothing later looks at the others.
 */
#include "model/encoder.h"

#include <math.h>
#include <stdio.h>

enum { NAME_BYTES = 160 };

typedef struct layer_names {
    char text[PEFT__ENCODER_PARTS][NAME_BYTES];
} layer_names;

static const char *body_name(const peft__encoder_variant *v, char buffer[NAME_BYTES], const char *name) {
    (void)snprintf(buffer, NAME_BYTES, "%s%s", v->prefix, name);
    return buffer;
}

static void name_layer(const peft__encoder_variant *v, int64_t group, layer_names *names) {
    char layer[NAME_BYTES / 2];
    (void)snprintf(layer, sizeof layer, v->layer, (int)group);
    for (int part = 0; part < PEFT__ENCODER_PARTS; part++)
        (void)snprintf(names->text[part], NAME_BYTES, "%s%s%s", v->prefix, layer, v->parts[part]);
}

int64_t peft__encoder_group(const peft__encoder_config *c, const peft__dims *d, int64_t layer) {
    return (c->variant->flags & PEFT__ENCODER_SHARED) == 0 ? layer : layer * c->groups / d->num_hidden_layers;
}

/* ---- body ------------------------------------------------------------------------------------------------ */

static peft__value *embeddings(peft__build *b, const peft__encoder_config *c, const peft__dims *d) {
    const peft__encoder_variant *v = c->variant;
    peft__graph *g = b->graph;
    char name[NAME_BYTES];
    peft__rows *rows = peft__build_rows(b, PEFT__STACK_MAIN);
    peft__value *x = peft__build_embedding(b, body_name(v, name, "embeddings.word_embeddings"), rows, PEFT__LOOKUP_IDS,
                                           1, d->pad_token_id);
    x = peft__build_word_embedding(b, PEFT__STACK_MAIN, x);
    x = peft__build_input(b, PEFT__STACK_MAIN, 0, x);
    if (x == NULL) return NULL;
    if (d->type_vocab_size > 0)
        x = peft__op_add(g, x,
                         peft__build_embedding(b, body_name(v, name, "embeddings.token_type_embeddings"), x->rows,
                                               PEFT__LOOKUP_TYPES, 1, -1));
    if (x == NULL) return NULL;
    /* Padding tokens have a position of their own where positions count from there; it is not trained either. */
    const int32_t padding = (v->flags & PEFT__ENCODER_PAD_POSITIONS) != 0 ? d->pad_token_id : -1;
    x = peft__op_add(g, x,
                     peft__build_embedding(b, body_name(v, name, "embeddings.position_embeddings"), x->rows,
                                           PEFT__LOOKUP_POSITIONS, 1, padding));
    x = peft__build_norm(b, body_name(v, name, "embeddings.LayerNorm"), PEFT__LAYER_NORM, x, d->norm_eps, 0);
    return c->projected ? peft__build_linear(b, body_name(v, name, v->projection), x, NULL) : x;
}

static peft__value *layer(peft__build *b, const peft__encoder_config *c, const peft__dims *d, int32_t index,
                          peft__value *x) {
    layer_names names;
    name_layer(c->variant, peft__encoder_group(c, d, index), &names);
    const char *const modules[3] = {names.text[PEFT__ENCODER_QUERY], names.text[PEFT__ENCODER_KEY],
                                    names.text[PEFT__ENCODER_VALUE]};
    peft__value *qkv[3] = {NULL, NULL, NULL};
    peft__build_linear_group(b, modules, 3, x, qkv);
    const peft__attention_config config = {.heads = d->num_attention_heads,
                                           .kv_heads = d->num_attention_heads,
                                           .head_dim = d->head_dim,
                                           .scale = 1.0f / sqrtf((float)d->head_dim)};
    peft__value *y = peft__build_attention(b, PEFT__STACK_MAIN, index, qkv[0], qkv[1], qkv[2], NULL, &config);
    if (index + 1 == d->num_hidden_layers && y != NULL) {
        peft__value *read = peft__build_readout_rows(b, y);
        if (read != y && read != NULL) x = peft__op_select_rows(b->graph, read->rows, x, NULL);
        y = read;
    }
    peft__sublayer_end end = {.stack = PEFT__STACK_MAIN,
                              .layer = index,
                              .which = PEFT__SUBLAYER_ATTENTION,
                              .linear = names.text[PEFT__ENCODER_ATTENTION_OUT],
                              .norm = names.text[PEFT__ENCODER_ATTENTION_NORM],
                              .eps = d->norm_eps};
    x = peft__build_post_norm_end(b, &end, y, x);
    peft__value *h = peft__build_linear(b, names.text[PEFT__ENCODER_UP], x, NULL);
    h = peft__op_activation(b->graph, c->activation, h);
    end.which = PEFT__SUBLAYER_FFN;
    end.linear = names.text[PEFT__ENCODER_DOWN];
    end.norm = names.text[PEFT__ENCODER_OUT_NORM];
    return peft__build_post_norm_end(b, &end, h, x);
}

peft__value *peft__encoder_build(peft__build *b) {
    const peft__encoder_config *c = peft__model_arch_config(b->model);
    const peft__dims *d = peft__model_dims(b->model);
    peft__value *x = embeddings(b, c, d);
    peft__build_hidden(b, 0, x);
    for (int32_t i = 0; i < d->num_hidden_layers && !peft__graph_failed(b->graph); i++) {
        x = peft__build_layer_input(b, PEFT__STACK_MAIN, i, 0, x);
        x = layer(b, c, d, i, x);
        peft__build_hidden(b, i + 1, x);
    }
    return x;
}

/* ---- heads ----------------------------------------------------------------------------------------------- */

peft__value *peft__encoder_lm_transform(peft__build *b, peft__value *hidden) {
    const peft__encoder_config *c = peft__model_arch_config(b->model);
    peft__value *h = peft__build_linear(b, c->variant->lm_dense, hidden, NULL);
    h = peft__op_activation(b->graph, c->lm_activation, h);
    return peft__build_norm(b, c->variant->lm_norm, PEFT__LAYER_NORM, h, peft__model_dims(b->model)->norm_eps, 0);
}

static void masked(peft__build *b, peft__value *x, const void *options) {
    const peft__encoder_variant *v = options;
    const peft__head_options head = {.lm_head = v->lm_head, .logit_scale = 1};
    peft__build_lm_head(b, peft__build_lm_transform(b, x), &head);
}

static void sequences(peft__build *b, peft__value *x, const void *options) {
    const peft__encoder_variant *v = options;
    x = peft__build_linear(b, v->first, x, NULL);
    peft__build_classes(b, v->classes, peft__op_activation(b->graph, v->first_activation, x), true);
}

static void tokens(peft__build *b, peft__value *x, const void *options) {
    (void)options;
    peft__build_classes(b, "classifier", x, false);
}

static void answers(peft__build *b, peft__value *x, const void *options) {
    (void)options;
    peft__build_spans(b, "qa_outputs", x);
}

static void choices(peft__build *b, peft__value *x, const void *options) {
    const peft__encoder_variant *v = options;
    x = peft__build_linear(b, v->choice, x, NULL);
    peft__build_choices(b, "classifier", peft__op_activation(b->graph, v->choice_activation, x));
}

static void features(peft__build *b, peft__value *x, const void *options) {
    (void)options;
    peft__build_features(b, x);
}

const peft__head peft__encoder_heads[] = {
    {PEFT_TASK_MASKED_LM, PEFT__READ_LABELLED, PEFT__READ_ALL, PEFT__READ_LAST, masked},
    {PEFT_TASK_SEQ_CLS, PEFT__READ_FIRST, PEFT__READ_FIRST, PEFT__READ_FIRST, sequences},
    {PEFT_TASK_TOKEN_CLS, PEFT__READ_LABELLED, PEFT__READ_ALL, PEFT__READ_LAST, tokens},
    {PEFT_TASK_QUESTION_ANS, PEFT__READ_ALL, PEFT__READ_ALL, PEFT__READ_ALL, answers},
    {PEFT_TASK_MULTIPLE_CHOICE, PEFT__READ_FIRST, PEFT__READ_FIRST, PEFT__READ_FIRST, choices},
    {PEFT_TASK_FEATURE_EXTRACTION, PEFT__READ_ALL, PEFT__READ_ALL, PEFT__READ_LAST, features},
    {0, PEFT__READ_ALL, PEFT__READ_ALL, PEFT__READ_ALL, NULL},
};

void peft__encoder_build_head(peft__build *b, peft__value *hidden) {
    const peft__encoder_config *c = peft__model_arch_config(b->model);
    peft__build_head(b, hidden, c->variant);
}
