/* encoder.h: the family of encoders that grew out of BERT, as one builder driven by a table.
 *
 * Bidirectional attention and a plain feed-forward layer, each followed by a norm over its sum with the input; learned
 * positions; heads that read the first row or every row. The members differ in what they call things, in the width of
 * their embeddings, in whether layers share weights, and in how positions are counted: a variant states it, config.json
 * gives the numbers.
 */
#ifndef PEFT_MODEL_ENCODER_H
#define PEFT_MODEL_ENCODER_H

#include "graph/ops.h"
#include "model/build.h"
#include "model/model.h"

enum {
    PEFT__ENCODER_PAD_POSITIONS = 1u,    /* positions count from pad_token_id + 1 (RoBERTa) */
    PEFT__ENCODER_EMBEDDING_SIZE = 2u,   /* embeddings have a width of their own, embedding_size */
    PEFT__ENCODER_ALWAYS_PROJECTED = 4u, /* and are projected even when that is the model's (ALBERT) */
    PEFT__ENCODER_SHARED = 8u,           /* layers are num_hidden_groups sets of weights used again and again */
    PEFT__ENCODER_NO_TYPES = 16u,        /* no token types */
    PEFT__ENCODER_POOLER = 32u           /* `first` is the body's pooler, trained with it, not part of the new head */
};

/* Names of a layer's parts. */
typedef enum {
    PEFT__ENCODER_QUERY,
    PEFT__ENCODER_KEY,
    PEFT__ENCODER_VALUE,
    PEFT__ENCODER_ATTENTION_OUT,
    PEFT__ENCODER_ATTENTION_NORM,
    PEFT__ENCODER_UP,
    PEFT__ENCODER_DOWN,
    PEFT__ENCODER_OUT_NORM,
    PEFT__ENCODER_PARTS
} peft__encoder_part;

typedef struct peft__encoder_variant {
    const char *model_type;
    const char *prefix; /* "bert." */
    uint32_t flags;
    /* Keys of config.json, and what the configuration class of transformers assumes where a key is missing. */
    const char *hidden_key, *inner_key, *layers_key, *heads_key, *act_key;
    int64_t hidden, inner, layers, heads, vocab, positions, types, pad;
    const char *act;
    double norm_eps;
    /* Names without the prefix. */
    const char *projection; /* embeddings to hidden states */
    const char *layer;      /* "encoder.layer.%d."; with SHARED the group's */
    const char *parts[PEFT__ENCODER_PARTS];
    /* Sequence classification: first row -> `first` -> activation -> `classes`. Full names. */
    const char *first, *classes;
    peft__activation first_activation;
    /* Multiple choice: first row -> `choice` -> activation -> "classifier". Full name. */
    const char *choice;
    peft__activation choice_activation;
    /* Masked language model: `lm_dense`, activation, `lm_norm`, output layer. Full names. */
    const char *lm_dense, *lm_norm, *lm_head, *lm_bias;
    const char *lm_act; /* NULL: the layers' */
} peft__encoder_variant;

typedef struct peft__encoder_config {
    const peft__encoder_variant *variant;
    peft__activation activation, lm_activation;
    int64_t embedding_size, groups;
    bool projected;
} peft__encoder_config;

/* Group whose weights a layer uses; the layer itself where nothing is shared. */
int64_t peft__encoder_group(const peft__encoder_config *c, const peft__dims *d, int64_t layer);

/* encoder_config.c */
peft_status peft__encoder_configure(peft_context *ctx, peft_model *model, const peft__encoder_variant *variant);
peft_status peft__encoder_config_from_gguf(peft_context *ctx, const void *gguf, json_t *config);
char *peft__encoder_gguf_name(const peft_model *model, peft__arena *arena, const char *tensor);
/* encoder.c */
peft__value *peft__encoder_build(peft__build *b);
void peft__encoder_build_head(peft__build *b, peft__value *hidden);
peft__value *peft__encoder_lm_transform(peft__build *b, peft__value *hidden);
extern const peft__head peft__encoder_heads[];

#endif
