/* prompt.h: what soft prompts have in common.
 *
 * A soft prompt is a table of trained rows [virtual tokens, width] that the frozen model reads: as rows before the
 * tokens, as rows in place of some tokens, or as keys and values before each layer's own. The table is trained itself,
 * or a small network (the encoder) computes it from trained embeddings; then it is computed once when saving, and the
 * file holds the table alone. A loaded adapter therefore has a table and no encoder, and can be trained further as
 * such.
 *
 * adapter->state of such a method begins with a peft__prompt.
 */
#ifndef PEFT_METHOD_PROMPT_H
#define PEFT_METHOD_PROMPT_H

#include "method/adapter.h"

/* The keys of HF PEFT's PromptLearningConfig. */
#define PEFT__PROMPT_KEYS                                                                                              \
    {"modules_to_save", "null", PEFT__KEY_USED}, {"num_attention_heads", "null", PEFT__KEY_USED},                      \
        {"num_layers", "null", PEFT__KEY_USED}, {"num_transformer_submodules", "null", PEFT__KEY_USED},                \
        {"num_virtual_tokens", "null", PEFT__KEY_USED}, {                                                              \
        "token_dim", "null", PEFT__KEY_USED                                                                            \
    }
/* Ours: "front" or "template", for prompts that are rows of the input. */
#define PEFT__PROMPT_POSITION_KEY                                                                                      \
    { "prompt_position", "\"front\"", PEFT__KEY_RUNTIME }

typedef struct peft__prompt {
    int64_t virtual_tokens, submodules;
    int64_t token_dim; /* width of the embeddings; prefixes: of a layer's keys */
    int64_t layers;
    peft__stack stack;  /* which reads it */
    bool in_place;      /* rows are replaced where batch.prompt_index says, none are put in front */
    uint32_t embedding; /* param: the table, or what the encoder reads */
    bool encoded;       /* there is an encoder */
    /* The table [rows, width] as a value of the graph; called when `encoded`. */
    peft__value *(*encode)(peft_adapter *adapter, peft__graph *graph, bool training);
} peft__prompt;

/* ---- prompt.c ---- */

/* Reads the keys above, completes them from the model as HF PEFT does, and declares modules_to_save. `by_layer`:
 * token_dim is the width of a layer's keys and values, and num_attention_heads counts their heads. */
peft_status peft__prompt_configure(peft_adapter *adapter, peft__prompt *prompt, bool by_layer);
/* prompt_position. */
peft_status peft__prompt_read_position(peft_adapter *adapter, peft__prompt *prompt);
/* Number in config[key]; null becomes `fallback`, and the configuration says so from then on. */
peft_status peft__prompt_number(peft_adapter *adapter, const char *key, int64_t most, int64_t fallback, int64_t *out);
/* Declares "prompt_encoder.embedding.weight" [rows, cols]; it is `prompt_embeddings` of the file unless
 * prompt->encoded. */
peft_status peft__prompt_declare(peft_adapter *adapter, peft__prompt *prompt, int64_t rows, int64_t cols,
                                 peft__init init, float value);
/* Declares "prompt_encoder.<name>.weight" [out, in] and ".bias" [out], drawn from +-1/sqrt(in) as torch does, or zero.
 * The bias is the param after the weight. */
peft_status peft__prompt_declare_linear(peft_adapter *adapter, const char *name, int64_t in, int64_t out, bool zero,
                                        uint32_t *out_weight);
peft__value *peft__prompt_linear(peft_adapter *adapter, peft__graph *graph, uint32_t weight, peft__value *x);
/* The table in a graph. */
peft__value *peft__prompt_table(peft_adapter *adapter, peft__build *b);

/* Hooks of prompts that are rows of the input. */
peft__value *peft__prompt_input(void *self, peft__build *b, peft__stack stack, int64_t skip, peft__value *x);
peft__value *peft__prompt_word_embedding(void *self, peft__build *b, peft__stack stack, peft__value *x);
int64_t peft__prompt_inserted(void *self, peft__stack stack);

/* peft__method.export of every soft prompt: the encoder's table as `prompt_embeddings`. */
peft_status peft__prompt_export(const peft_adapter *adapter, peft__export *file);
/* peft__method.export_config: "template" is written, because the adapter would compute something else without. */
peft_status peft__prompt_export_config(const peft_adapter *adapter, json_t *config);

/* ---- prompt_probe.c: the frozen model, run on a text ---- */

/* Token ids of a text by the model's tokenizer, in adapter->arena. `special`: with what the tokenizer adds. PEFT_E_ARG
 * for a text without tokens. */
peft_status peft__prompt_tokens(peft_adapter *adapter, const char *text, bool special, int32_t **out_ids,
                                int64_t *out_count);
/* The table of word embeddings, NULL when the model reads no tokens (prompt.c). */
const peft__module *peft__prompt_word_table(const peft_model *model);
/* Word embeddings [count, token_dim] as the model reads them. */
peft_status peft__prompt_lookup(peft_adapter *adapter, const int32_t *ids, int64_t count, float *out);
/* Keys and values of every layer, as a prefix has them: [count, layers * 2 * token_dim]. */
peft_status peft__prompt_keys(peft_adapter *adapter, const int32_t *ids, int64_t count, float *out);

#endif
