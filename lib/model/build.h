/* build.h: how an architecture becomes a graph, and where methods take part.
 *
 * An architecture's file calls the functions below with the Hugging Face names of its modules; it knows nothing of
 * methods. Each function asks the active adapters' hooks. A method implements the hooks it needs and knows nothing of
 * architectures: it sees module names, shapes and values. So a new method is one file, and a new architecture is one file.
 *
 * Order where several adapters hook the same place: the order in which the session lists them.
 */
#ifndef PEFT_MODEL_BUILD_H
#define PEFT_MODEL_BUILD_H

#include "graph/ops.h"
#include "model/model.h"

typedef struct peft__build peft__build;

/* Which stack of an encoder-decoder model; everything else is PEFT__STACK_MAIN. */
typedef enum { PEFT__STACK_MAIN = 0, PEFT__STACK_DECODER = 1 } peft__stack;
typedef enum { PEFT__SUBLAYER_ATTENTION = 0, PEFT__SUBLAYER_CROSS = 1, PEFT__SUBLAYER_FFN = 2 } peft__sublayer;

/* How a sub-layer ends: linear layer, + residual, and in post-norm models a norm. */
typedef struct peft__sublayer_end {
    peft__stack stack;
    int32_t layer; /* as counted from the input; layers that share modules (ALBERT) differ in this only */
    peft__sublayer which;
    const char *linear; /* its module has PEFT__MODULE_ENDS_* */
    const char *norm;   /* the LayerNorm over the sum; NULL in pre-norm models */
    float eps;          /* of that norm */
} peft__sublayer_end;

typedef struct peft__prefix {
    peft__value *k, *v; /* [P, kv_heads * head_dim] */
} peft__prefix;

/* The hook points. `self` is the adapter. Any may be NULL. Each returns its input when the method has nothing to do there. */
typedef struct peft__hooks {
    /* The param that stands for a base tensor ("model.norm.weight") which this adapter trains, or NULL. */
    peft__param *(*trained)(void *self, const char *tensor);
    /* Asked when a module shares its weight with another one that this adapter trains (lm_head and embed_tokens): false leaves the module with
     * the stored weight, as modules_to_save does in PEFT. Missing = true: both use the trained one. */
    bool (*keeps_tie)(void *self, const peft__module *module);
    /* False when none of the three hooks below has anything to do at this module. Missing = they may. Saying so keeps the fused paths
     * open: an untouched output layer is never formed as [rows, vocabulary] logits, and an untouched layer takes the residual along. */
    bool (*touches)(void *self, const peft__module *module);
    /* x [N, in] on its way into a named linear layer. */
    peft__value *(*before_linear)(void *self, peft__build *b, const peft__module *module, peft__value *x);
    /* y [N, out] = x W^T + bias as the layer gave it; x is what went into it. */
    peft__value *(*after_linear)(void *self, peft__build *b, const peft__module *module, peft__value *x, peft__value *y);
    /* True when after_linear only adds to y: then y may already hold the residual. Missing = false. Asked only where touches() says yes. */
    bool (*linear_is_additive)(void *self, const peft__module *module);
    /* y [N, d] = looked-up rows, times `scale`; padding_index as in peft__op_embedding. */
    peft__value *(*after_embedding)(void *self, peft__build *b, const peft__module *module, peft__rows *rows, peft__lookup by, float scale,
                                    int32_t padding_index, peft__value *y);
    /* Word embeddings before anything else is added to them (WARP, P-Tuning v1: rows replaced in place). */
    peft__value *(*word_embedding)(void *self, peft__build *b, peft__stack stack, peft__value *x);
    /* The rows that enter the first layer; may return rows of a longer space (peft__rows_insert): positions go with the space.
     * `skip` = 1 where a class token stands first (vision), else 0. Called before position embeddings are added for token models
     * (as HF does with inputs_embeds), after them for vision models. */
    peft__value *(*input)(void *self, peft__build *b, peft__stack stack, int64_t skip, peft__value *x);
    /* The rows that enter layer `layer` (VPT deep replaces some). */
    peft__value *(*layer_input)(void *self, peft__build *b, peft__stack stack, int32_t layer, int64_t skip, peft__value *x);
    /* Of the rows that enter layer `layer`, those whose output anything reads later: `rows` itself (missing: always), or a space derived from it
     * with sources (peft__rows_drop). What a layer does beyond keys and values is then done for these alone; VPT deep has the others replaced. */
    peft__rows *(*layer_rows)(void *self, peft__build *b, peft__stack stack, int32_t layer, int64_t skip, peft__rows *rows);
    /* Keys and values before a layer's own; cols = kv_heads * head_dim. Self-attention only. Leaves *prefix alone when it has none.
     * Real tokens' positions are shifted by prefix_length(). */
    void (*prefix)(void *self, peft__build *b, peft__stack stack, int32_t layer, int64_t kv_heads, int64_t head_dim, peft__prefix *prefix);
    int64_t (*prefix_length)(void *self, peft__stack stack);
    /* Rows that input() puts before every sequence: with the prefix, what a text's positions are moved up by. Missing = 0. Where b->caches
     * is set, input() puts them before the first rows of a text only, when the cache is empty. */
    int64_t (*inserted_length)(void *self, peft__stack stack);
    /* Output x of a sub-layer's last linear layer, before residual and post-norm; residual = the sub-layer's input. */
    peft__value *(*sublayer_output)(void *self, peft__build *b, const peft__sublayer_end *end, peft__value *x, peft__value *residual);
    /* Post-norm models: sum = x + residual on its way into the norm end->norm, which the method may apply itself too. */
    peft__value *(*before_post_norm)(void *self, peft__build *b, const peft__sublayer_end *end, peft__value *sum);
    /* The last hidden states at all rows, before the task's head; may return NULL to say that the method made its own logits and set
     * b->logits (and b->loss when the purpose is the loss). */
    peft__value *(*readout)(void *self, peft__build *b, peft__value *hidden);
    /* Classes of the logits that readout makes, which is what a batch's class labels are checked against; missing or 0: the model's. */
    int64_t (*classes)(void *self);
} peft__hooks;

typedef struct peft__hooked {
    const peft__hooks *hooks;
    void *self;
} peft__hooked;

typedef enum {
    PEFT__BUILD_LOSS,     /* loss of the task (training and evaluation) */
    PEFT__BUILD_LOGITS,   /* logits at all rows, as an output */
    PEFT__BUILD_LAST,     /* logits at the last row of each sequence, as an output */
    PEFT__BUILD_HIDDEN,   /* hidden states after each block, as outputs (tests, feature extraction) */
    PEFT__BUILD_SCORE,    /* language models: -log p of each label, as an output */
    PEFT__BUILD_MARKED    /* logits at the rows that have a label, as an output */
} peft__build_purpose;

/* Generation runs the stacks of an encoder-decoder model apart: the encoder once, the decoder once a token. */
typedef enum {
    PEFT__PART_WHOLE = 0,
    PEFT__PART_ENCODER, /* the encoder, and from it the keys and values of every cross attention */
    PEFT__PART_DECODER  /* the decoder alone; these are in cross_caches */
} peft__build_part;

struct peft__build {
    peft__graph *graph;
    const peft_model *model;
    const peft__hooked *adapters;
    uint32_t adapter_count;
    peft__build_purpose purpose;
    const peft__kv_cache *caches; /* one per layer, or NULL. Labels are then what each row itself predicts: the next token may come in a later batch */
    bool branches;                /* with caches: sequences go on from what these hold and leave nothing there */
    float label_smoothing;
    float similarity_scale; /* of cosines in the loss of embeddings */
    const float *class_weights;
    peft__build_part part;
    const peft__kv_cache *cross_caches; /* one per decoder layer, for PEFT__PART_DECODER */
    bool choice_loss; /* PEFT__BUILD_LOSS: the losses over several answers an example, in place of the task's */
    /* results */
    peft__value *loss;   /* [1, 2] stat (sum, count) for PEFT__BUILD_LOSS */
    peft__value *logits; /* [rows, classes] when the purpose asks for them, or when the host supplies the loss */
    peft__value **hidden; /* [layers + 1] in the graph's arena for PEFT__BUILD_HIDDEN */
    peft__value *decoder_logits;
    peft__value **decoder_hidden; /* likewise, of an encoder-decoder model's second stack */
    peft__value *nll;             /* [rows with labels, 1] for PEFT__BUILD_SCORE */
    peft__value **cross;          /* [2 * decoder layers] keys and values of each cross attention, for PEFT__PART_ENCODER */
    /* the builder's own: rows that peft__build_readout_rows() has already picked out for the head */
    bool rows_picked;
};

/* Builds the whole model: the architecture, then head and loss for the purpose. */
peft_status peft__build_model(peft__build *b);

/* For architectures. Names without ".weight". All return NULL after a failure (the graph remembers it). */

/* The row space that feeds a stack: the batch's stream, with labels shifted when the task predicts the next token and positions
 * moved up by the prefix that an adapter puts before keys and values. */
peft__rows *peft__build_rows(peft__build *b, peft__stack stack);
peft__weight peft__build_weight(peft__build *b, const char *module);
peft__vector peft__build_vector(peft__build *b, const char *tensor); /* absent when the model has no such tensor */
peft__value *peft__build_linear(peft__build *b, const char *module, peft__value *x, peft__value *residual);
/* The linear layer that ends a sub-layer: linear, the sub-layer hooks, then + residual (which is fused into the product when no method
 * stands in between). */
peft__value *peft__build_sublayer_end(peft__build *b, peft__stack stack, int32_t layer, peft__sublayer which, const char *module, peft__value *x,
                                      peft__value *residual);
/* The same for post-norm models: linear, hooks, + residual, hooks, norm. */
peft__value *peft__build_post_norm_end(peft__build *b, const peft__sublayer_end *end, peft__value *x, peft__value *residual);
/* Layers that read the same x: one node when no method changes x for one of them. count <= 4. */
void peft__build_linear_group(peft__build *b, const char *const *modules, uint32_t count, peft__value *x, peft__value **out);
peft__value *peft__build_norm(peft__build *b, const char *module, peft__norm_kind kind, peft__value *x, float eps, float weight_offset);
peft__value *peft__build_embedding(peft__build *b, const char *module, peft__rows *rows, peft__lookup by, float scale, int32_t padding_index);
peft__value *peft__build_word_embedding(peft__build *b, peft__stack stack, peft__value *x);
peft__value *peft__build_input(peft__build *b, peft__stack stack, int64_t skip, peft__value *x);
peft__value *peft__build_layer_input(peft__build *b, peft__stack stack, int32_t layer, int64_t skip, peft__value *x);
/* The rows of a layer's input whose output is read later (all of x, mostly); attention takes the queries of these rows alone. Layers of
 * architectures that do not ask compute everything, and a method must then bring the rows back itself. */
peft__value *peft__build_layer_rows(peft__build *b, peft__stack stack, int32_t layer, int64_t skip, peft__value *x);
peft__value *peft__build_attention(peft__build *b, peft__stack stack, int32_t layer, peft__value *q, peft__value *k, peft__value *v, peft__value *bias,
                                   const peft__attention_config *config);
/* Attention to an encoder's rows with the layers called k and v; `encoded` is NULL in PEFT__PART_DECODER. */
peft__value *peft__build_cross_attention(peft__build *b, int32_t layer, peft__value *q, const char *k, const char *v, peft__value *encoded,
                                         const peft__attention_config *config);
/* PEFT__PART_ENCODER: what that attention will read, kept as outputs. */
void peft__build_cross_keys(peft__build *b, int32_t layer, const char *k, const char *v, peft__value *encoded);
/* True when a method stands between a sub-layer's output and its residual. */
bool peft__build_has_sublayer_hook(const peft__build *b);
int64_t peft__build_prefix_length(peft__build *b, peft__stack stack);
peft__value *peft__build_sublayer_output(peft__build *b, const peft__sublayer_end *end, peft__value *x, peft__value *residual);
/* What a masked language model's output layer reads: the head's transform of hidden states (x itself where there is none). */
peft__value *peft__build_lm_transform(peft__build *b, peft__value *hidden);
/* Does an active adapter change what goes into or comes out of this layer? */
bool peft__build_touches(const peft__build *b, const char *module);
/* Hidden states after block index - 1 (0: the embeddings), kept as an output when the purpose is PEFT__BUILD_HIDDEN. */
void peft__build_hidden(peft__build *b, int64_t index, peft__value *x);
void peft__build_decoder_hidden(peft__build *b, int64_t index, peft__value *x);
/* Only the rows that the head will read (those with labels, or the last of each sequence), where that is known and no method wants all:
 * architectures call it before their last norm, which then works on fewer rows. */
peft__value *peft__build_readout_rows(peft__build *b, peft__value *x);

/* heads.c: from hidden states to logits or loss. A head is a row of the architecture's table: for its task, which rows it reads
 * and how. `options` is what the architecture gives to peft__build_head(). */
typedef enum { PEFT__READ_ALL, PEFT__READ_LABELLED, PEFT__READ_LAST, PEFT__READ_FIRST } peft__rows_read;

typedef struct peft__head {
    int32_t task; /* PEFT_TASK_*; 0 ends a table */
    peft__rows_read for_loss, for_logits, for_last;
    void (*build)(peft__build *b, peft__value *x, const void *options);
} peft__head;

/* Read-out hooks, then the head of the model's task. */
void peft__build_head(peft__build *b, peft__value *hidden, const void *options);
/* Parts of heads: logits by a named layer and the loss that goes with them. */
void peft__build_classes(peft__build *b, const char *module, peft__value *x, bool by_sequence);
void peft__build_spans(peft__build *b, const char *module, peft__value *x);
void peft__build_choices(peft__build *b, const char *module, peft__value *x);
void peft__build_features(peft__build *b, peft__value *x);

/* Language models and the heads of decoders. `soft_cap` 0 = none, `logit_scale` multiplies before it. */
typedef struct peft__head_options {
    const char *lm_head, *score; /* score: sequence and token classification */
    float soft_cap, logit_scale;
} peft__head_options;
void peft__build_lm_head(peft__build *b, peft__value *x, const peft__head_options *options);
extern const peft__head peft__decoder_heads[];

#endif
