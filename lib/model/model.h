/* model.h: a loaded model: named modules over stored tensors, and the table of architectures.
 *
 * Modules carry the names of the Hugging Face module tree, whatever the file calls them: target_modules, adapter files and
 * builders all speak these names. Loading maps each expected tensor to one in the files and reports what was matched, missing
 * and unexpected.
 */
#ifndef PEFT_MODEL_MODEL_H
#define PEFT_MODEL_MODEL_H

#include <jansson.h>

#include "kernel/matrix.h"
#include "peft/model.h"
#include "format/tensors.h"

struct peft__build;

/* A named part of the model that has weights. */
typedef struct peft__module {
    const char *name;   /* "model.layers.0.self_attn.q_proj" */
    int32_t kind;       /* PEFT_MODULE_* */
    int32_t layer;      /* -1 outside the layers */
    int64_t in, out;    /* embedding: in = rows of the table (vocabulary), out = width; norm: out = width */
    const peft__tensor *weight; /* NULL: is_new, an adapter must bring it; or tied (below) */
    const peft__tensor *bias;   /* NULL: has none (or is_new) */
    int32_t interleave; /* peft__matrix.interleave of the weight; biases are put in order when loading */
    float stored_offset; /* the stored weight is Hugging Face's plus this (norms of Gemma in GGUF files: 1) */
    bool transposed;    /* stored [in, out]: Conv1D in Hugging Face files */
    bool has_bias;
    bool is_head;       /* output layer: spared by "all-linear" */
    bool is_new;        /* not in the files: an adapter must bring it */
    const struct peft__module *tied_to; /* shares the weight of this module (lm_head and embed_tokens) */
    uint32_t index;
    uint32_t flags;     /* PEFT__MODULE_*: what was declared */
    const char *bias_name; /* full name of the bias where it is not "<name>.bias" (cls.predictions.bias), else NULL */
} peft__module;

/* What an architecture says of a module. */
enum {
    PEFT__MODULE_BIAS = 1u,          /* has a bias */
    PEFT__MODULE_BIAS_IF_STORED = 2u, /* has a bias when the files do */
    PEFT__MODULE_HEAD = 4u,          /* output layer */
    PEFT__MODULE_MAY_BE_NEW = 8u,    /* missing in the files: an adapter brings it */
    PEFT__MODULE_OPTIONAL = 16u,     /* missing in the files: the model does without it */
    PEFT__MODULE_INTERLEAVED = 32u,  /* query or key projection: GGUF files of some architectures store its rows interleaved */
    PEFT__MODULE_TIE_IF_MISSING = 64u, /* missing in the files: shares the weight of tied_to even if the config does not say so */
    PEFT__MODULE_TIED = 128u,        /* shares the weight of tied_to, unless the files hold another one */
    PEFT__MODULE_ENDS_ATTENTION = 256u, /* last linear layer of a self-attention sub-layer: where bottleneck adapters stand */
    PEFT__MODULE_ENDS_FFN = 512u,       /* the same of a feed-forward sub-layer */
    PEFT__MODULE_ENDS_CROSS = 1024u     /* the same of a cross-attention sub-layer */
};

typedef struct peft__module_spec {
    int32_t kind, layer;
    int64_t in, out;
    uint32_t flags;
    const char *tied_to;  /* name of the module whose weight is shared */
    int32_t interleave;   /* rows of a head, with PEFT__MODULE_INTERLEAVED */
    float stored_offset;  /* as in peft__module */
    const char *bias_name; /* as in peft__module; copied */
} peft__module_spec;

/* Numbers that every architecture shares; the rest is read from `config` by the architecture into `arch_config`. */
typedef struct peft__dims {
    int64_t hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, intermediate_size;
    int64_t vocab_size, max_position_embeddings, num_labels, type_vocab_size;
    int64_t num_decoder_layers;     /* of the second stack; 0: there is none */
    int32_t decoder_start_token_id; /* what its sequences begin with */
    int64_t feature_size; /* columns of the float rows it reads in place of tokens; 0: reads tokens (or does not say) */
    int64_t first_position; /* position id of a text's first token: 0, or pad_token_id + 1 (RoBERTa); max_position_embeddings does not count what is before */
    int32_t pad_token_id; /* -1 = none */
    float norm_eps;
} peft__dims;

typedef struct peft__arch {
    const char *model_type; /* config.json's model_type */
    const char *gguf_arch;  /* general.architecture, NULL when not read from GGUF */
    const char *base_prefix; /* "model.": what files saved from the bare body leave out; NULL = none */
    int32_t default_task;   /* PEFT_TASK_* when config.json's "architectures" does not say */
    /* Turns GGUF metadata into the config.json that Hugging Face would have (only when gguf_arch is set). */
    peft_status (*config_from_gguf)(peft_context *ctx, const void *gguf, json_t *out_config);
    /* Reads model->config: fills model->dims and model->arch_config, then declares every module with peft__model_declare(). */
    peft_status (*configure)(peft_context *ctx, peft_model *model);
    /* Last word on the configuration, once it is known which tensors the files hold. NULL: none. */
    peft_status (*resolved)(peft_context *ctx, peft_model *model);
    /* GGUF name of a Hugging Face tensor name, in `arena`; NULL result = no such tensor in GGUF files. */
    char *(*gguf_name)(const peft_model *model, peft__arena *arena, const char *tensor);
    /* Other name that Hugging Face files may use for a tensor, in `arena`; NULL function or result = none. */
    char *(*alias)(const peft_model *model, peft__arena *arena, const char *tensor);
    /* Appends the body of the model: from the batch to the last hidden states [rows, hidden_size]. */
    struct peft__value *(*build)(struct peft__build *b);
    /* Appends the head for the model's task and b->purpose (heads shared by architectures are in heads.c). */
    void (*build_head)(struct peft__build *b, struct peft__value *hidden);
    /* Which rows each task's head reads (build.h); ends with a row of task 0. NULL: all rows. */
    const struct peft__head *heads;
    /* What stands between the last hidden states and the output layer of a masked language model; NULL: nothing. */
    struct peft__value *(*lm_transform)(struct peft__build *b, struct peft__value *hidden);
} peft__arch;

/* Row of the table for a model_type (or GGUF architecture), NULL when unknown. ctx->extra_archs come first. */
const peft__arch *peft__arch_find(peft_context *ctx, const char *model_type, bool gguf);

/* For configure(): the module of this (printf-like) name; order of calls is the order of the module list. A TABLE is a bare tensor: its
 * tensor has the module's own name, others have "name.weight" and "name.bias". */
peft_status peft__model_declare(peft_context *ctx, peft_model *model, const peft__module_spec *spec, const char *name_format, ...) PEFT_PRINTF(4, 5);
peft__dims *peft__model_edit_dims(peft_model *model);
/* Memory that lives as long as the model, and where configure() leaves what build() needs. */
peft__arena *peft__model_arena(peft_model *model);
void peft__model_set_arch_config(peft_model *model, const void *arch_config);
bool peft__model_is_gguf(const peft_model *model);
/* A stored tensor by the file's own name (rope_freqs.weight), marked as used; NULL when there is none. */
const peft__tensor *peft__model_claim(peft_model *model, const char *file_name);

struct peft_model; /* model_internal.h of lib/model has the fields; these are what other folders use */
const peft__dims *peft__model_dims(const peft_model *model);
const json_t *peft__model_config_json(const peft_model *model);
const peft__arch *peft__model_arch(const peft_model *model);
int32_t peft__model_task(const peft_model *model);
const void *peft__model_arch_config(const peft_model *model);
/* Sequence classification as regression or with several labels: a batch has numbers (sequence_targets), not classes. */
bool peft__model_has_targets(const peft_model *model);
uint32_t peft__model_module_count(const peft_model *model);
const peft__module *peft__model_module_at(const peft_model *model, uint32_t index);
const peft__module *peft__model_find(const peft_model *model, const char *name); /* exact name; NULL */
/* The tensor behind "module.weight" / "module.bias" (tied ones too), NULL when there is none in the files. */
const peft__tensor *peft__model_tensor(const peft_model *model, const char *tensor_name);
/* Widens one module's logical weight [out, in] (embedding [in, out]) to float, Q/K rows in Hugging Face order, Conv1D as stored [in, out]. */
peft_status peft__model_read_tensor(peft_context *ctx, const peft_model *model, const char *tensor_name, float *out);
/* The stored tensor will hardly be read again, because another takes its place: its pages may leave memory. */
void peft__model_drop_tensor(const peft_model *model, const char *tensor_name);
/* Rows [first, first + count) of that, for tensors of which peft__model_has_rows() says that they can be read in parts: [count, cols]. */
bool peft__model_has_rows(const peft_model *model, const char *tensor_name, int64_t *out_rows, int64_t *out_cols);
peft_status peft__model_read_rows(peft_context *ctx, const peft_model *model, const char *tensor_name, int64_t first, int64_t count, float *out);
/* The same for a module at hand. The matrix as kernels read it: logical [out, in] for linear layers, [in, out] (one row a token) for
 * embeddings; `data` is NULL for a new module. */
peft__matrix peft__module_matrix(const peft__module *module);
/* Full name of a module's weight (or bare table) or bias, in `arena`; NULL without memory. */
const char *peft__module_tensor_name(const peft__module *module, peft__arena *arena, bool bias);
/* Shape of "X.weight" / "X.bias" / a table in Hugging Face's layout; false when the model has no such tensor. New modules have shapes too. */
bool peft__model_tensor_shape(const peft_model *model, const char *tensor_name, uint32_t *out_ndim, int64_t out_shape[4]);
/* The module of a tensor name and which part it is (0 weight or bare table, 1 bias); NULL when there is none. */
const peft__module *peft__model_split(const peft_model *model, const char *tensor_name, int *out_part);
/* The folder or file, or "memory"; the folder is where tokenizer files lie. */
const char *peft__model_path(const peft_model *model);
peft_model *peft__model_ref(peft_model *model);

/* Hash of the names and sizes of layers and tables: equal for models into which an adapter of one fits, whatever their types, head and weights. */
uint64_t peft__model_shapes(const peft_model *model);

/* For merging: a second model over the same bytes, in which single tensors are then replaced by floats in Hugging Face's layout (copied).
 * Replacing the weight of a tied module unties it. Finish computes hash and sizes anew; until then nobody else may see the model. */
peft_status peft__model_clone(peft_context *ctx, const peft_model *model, peft_model **out_model);
peft_status peft__model_replace(peft_context *ctx, peft_model *model, const char *tensor_name, const float *values);
/* Where values are made when they are asked for: a clone with such a reader may be written to a file, and nothing else. peft__model_replace with
 * values NULL then announces a tensor; peft__model_read_tensor asks the reader for it. */
typedef peft_status (*peft__model_reader)(void *user, uint32_t module, bool bias, float *out);
void peft__model_read_later(peft_model *clone, peft__model_reader reader, void *user);
/* Are the tensor's values made only when they are read? */
bool peft__tensor_is_later(const peft__tensor *tensor);
void peft__model_finish(peft_model *model);

#endif
