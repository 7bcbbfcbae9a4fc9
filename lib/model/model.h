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
#include "format/tensor.h"

struct peft__build;

/* A named part of the model that has weights. */
typedef struct peft__module {
    const char *name;   /* "model.layers.0.self_attn.q_proj" */
    int32_t kind;       /* PEFT_MODULE_* */
    int32_t layer;      /* -1 outside the layers */
    int64_t in, out;    /* embedding: in = rows of the table (vocabulary), out = width; norm: out = width */
    const peft__tensor *weight; /* NULL: is_new, an adapter must bring it; or tied (below) */
    const peft__tensor *bias;   /* NULL: has none (or is_new) */
    int32_t interleave; /* peft__matrix.interleave of the weight (and of the bias's elements) */
    bool transposed;    /* Conv1D: stored [in, out] */
    bool has_bias;
    bool is_head;       /* output layer: spared by "all-linear" */
    const struct peft__module *tied_to; /* shares the weight of this module (lm_head and embed_tokens) */
    uint32_t index;
} peft__module;

/* Numbers that every architecture shares; the rest is read from `config` by the architecture into `arch_config`. */
typedef struct peft__dims {
    int64_t hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, intermediate_size;
    int64_t vocab_size, max_position_embeddings, num_labels, type_vocab_size;
    int32_t pad_token_id; /* -1 = none */
    float norm_eps;
} peft__dims;

typedef struct peft__arch {
    const char *model_type; /* config.json's model_type */
    const char *gguf_arch;  /* general.architecture, NULL when not read from GGUF */
    /* Turns GGUF metadata into the config.json that Hugging Face would have (only when gguf_arch is set). */
    peft_status (*config_from_gguf)(peft_context *ctx, const void *gguf, json_t *out_config);
    /* Reads model->config: fills model->dims and model->arch_config, then declares every module with peft__model_declare(). */
    peft_status (*configure)(peft_context *ctx, peft_model *model);
    /* GGUF name of a Hugging Face tensor name, in `arena`; NULL result = no such tensor in GGUF files. */
    char *(*gguf_name)(const peft_model *model, peft__arena *arena, const char *tensor);
    /* Appends the body of the model: from the batch to the last hidden states [rows, hidden_size]. */
    struct peft__value *(*build)(struct peft__build *b);
    /* Appends the head for the model's task and b->purpose (heads shared by architectures are in heads.c). */
    void (*build_head)(struct peft__build *b, struct peft__value *hidden);
} peft__arch;

/* Row of the table for a model_type (or GGUF architecture), NULL when unknown. ctx->extra_archs come first. */
const peft__arch *peft__arch_find(peft_context *ctx, const char *model_type, bool gguf);

struct peft_model; /* model_internal.h of lib/model has the fields; these are what other folders use */
const peft__dims *peft__model_dims(const peft_model *model);
const json_t *peft__model_config_json(const peft_model *model);
const peft__arch *peft__model_arch(const peft_model *model);
int32_t peft__model_task(const peft_model *model);
const void *peft__model_arch_config(const peft_model *model);
uint32_t peft__model_module_count(const peft_model *model);
const peft__module *peft__model_module_at(const peft_model *model, uint32_t index);
const peft__module *peft__model_find(const peft_model *model, const char *name); /* exact name; NULL */
/* The tensor behind "module.weight" / "module.bias" (tied ones too), NULL when there is none in the files. */
const peft__tensor *peft__model_tensor(const peft_model *model, const char *tensor_name);
/* Widens one module's logical weight [out, in] (embedding [in, out]) to float, Q/K rows in Hugging Face order, Conv1D as stored [in, out]. */
peft_status peft__model_read_tensor(peft_context *ctx, const peft_model *model, const char *tensor_name, float *out);
peft_model *peft__model_ref(peft_model *model);

#endif
