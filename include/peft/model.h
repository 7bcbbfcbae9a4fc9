/** \file peft/model.h
 *  Pretrained models: read-only weights, their names, the tokenizer that came with them.
 *
 *  A model is immutable once loaded. Weights stay in the file's own type and, when loaded from a path, are mapped: they cost
 *  no private memory and are shared between contexts and processes.
 *
 *  Threads: the getters are safe from any thread; functions that take a context follow its rule.
 */
#ifndef PEFT_MODEL_H
#define PEFT_MODEL_H

#include "peft/context.h"
#include "peft/tensor.h"
#include "peft/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct peft_model peft_model;

/** What a model is to do; the values of task_type in adapter_config.json. */
enum {
    PEFT_TASK_AUTO = 0,      /**< as config.json's "architectures" says; GGUF files: causal LM */
    PEFT_TASK_CAUSAL_LM = 1,
    PEFT_TASK_SEQ_2_SEQ_LM = 2,
    PEFT_TASK_SEQ_CLS = 3,   /**< also regression and multi-label, see problem_type */
    PEFT_TASK_TOKEN_CLS = 4,
    PEFT_TASK_QUESTION_ANS = 5,
    PEFT_TASK_MASKED_LM = 6,
    PEFT_TASK_FEATURE_EXTRACTION = 7,
    PEFT_TASK_IMAGE_CLS = 8,
    PEFT_TASK_MULTIPLE_CHOICE = 9 /**< one score a sequence; the sequences are the answers to questions (peft_batch.choice_offsets) */
};

typedef struct peft_model_options {
    uint32_t struct_size;
    int32_t task;           /**< PEFT_TASK_*; default PEFT_TASK_AUTO */
    uint32_t num_labels;    /**< classes of a new head; 0 = as config.json says (default) */
    uint32_t validate;      /**< 1: read every weight once and refuse NaN and infinity; default 0 */
    uint32_t allow_unexpected; /**< 1: tensors that the architecture does not know are only reported; default 1 */
    int32_t problem_type;   /**< PEFT_PROBLEM_*: what PEFT_TASK_SEQ_CLS learns; default AUTO */
    const char *const *label_names; /**< [label_name_count] names of the classes: they become id2label and label2id of the configuration, and num_labels
                                         follows them unless it is given; copied; NULL = as config.json says (default) */
    uint32_t label_name_count;
    uint32_t reserved;
} peft_model_options;

/** What a sequence classifier learns; config.json's problem_type. */
enum {
    PEFT_PROBLEM_AUTO = 0, /**< as config.json says; else regression for one output, single label for more */
    PEFT_PROBLEM_SINGLE_LABEL = 1,
    PEFT_PROBLEM_MULTI_LABEL = 2,
    PEFT_PROBLEM_REGRESSION = 3
};

PEFT_API void peft_model_options_init_sized(peft_model_options *options, uint32_t size);
#define peft_model_options_init(options) peft_model_options_init_sized((options), (uint32_t)sizeof *(options))

/** Loads a Hugging Face folder (config.json, *.safetensors, tokenizer.json) or a .gguf file. `options` may be NULL.
 *  Errors: PEFT_E_IO, PEFT_E_FORMAT (malformed file), PEFT_E_UNSUPPORTED (architecture or type that is not built),
 *  PEFT_E_MISMATCH (missing tensors, wrong shapes: the text names them), PEFT_E_NOMEM, PEFT_E_LIMIT. */
PEFT_API PEFT_NODISCARD peft_status peft_model_load(peft_context *context, const char *path, const peft_model_options *options,
                                                    peft_model **out_model);

/** The same from a GGUF file in memory, which must stay there while the model lives. */
PEFT_API PEFT_NODISCARD peft_status peft_model_load_memory(peft_context *context, const void *data, uint64_t size,
                                                           const peft_model_options *options, peft_model **out_model);

/** The same through the host's read function (assets in a package); the file is read into memory once. */
PEFT_API PEFT_NODISCARD peft_status peft_model_load_reader(peft_context *context, const peft_reader *reader,
                                                           const peft_model_options *options, peft_model **out_model);

PEFT_API void peft_model_destroy(peft_model *model);

typedef struct peft_model_info {
    uint32_t struct_size;
    int32_t task;
    const char *model_type;    /**< as config.json spells it: "llama", "qwen2", ... */
    const char *name;          /**< general.name, _name_or_path or the path */
    int64_t parameters;        /**< elements of all weights, tied ones once */
    int64_t bytes;             /**< stored size of the weights */
    int64_t hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, intermediate_size;
    int64_t vocab_size, max_position_embeddings, num_labels;
    uint64_t hash;             /**< of all tensors' names, shapes, types and bytes sampled evenly: pairs an adapter with its base */
} peft_model_info;

/** `out_info->struct_size` must be set. Strings are owned by the model. */
PEFT_API PEFT_NODISCARD peft_status peft_model_get_info(const peft_model *model, peft_model_info *out_info);

/** One named module of the model, as target_modules sees it. */
typedef struct peft_module_info {
    uint32_t struct_size;
    int32_t kind;              /**< PEFT_MODULE_* */
    const char *name;          /**< for example "model.layers.0.self_attn.q_proj" */
    int64_t in_features, out_features;
    int32_t dtype;             /**< of the stored weight */
    int32_t layer;             /**< -1 outside the layers */
    uint32_t has_bias;
    uint32_t is_new;           /**< 1: not in the files (a new head): an adapter must bring it */
} peft_module_info;

enum { PEFT_MODULE_LINEAR = 1, PEFT_MODULE_CONV1D = 2, PEFT_MODULE_EMBEDDING = 3, PEFT_MODULE_NORM = 4, PEFT_MODULE_TABLE = 5 };

PEFT_API uint32_t peft_model_module_count(const peft_model *model);
PEFT_API PEFT_NODISCARD peft_status peft_model_module(const peft_model *model, uint32_t index, peft_module_info *out_info);

/** What loading found: tensors matched, missing, unexpected, renamed; one line each. Owned by the model. */
PEFT_API const char *peft_model_load_report(const peft_model *model);

/** The base configuration as JSON in Hugging Face's spelling (derived from the metadata for GGUF). Owned by the model. */
PEFT_API const char *peft_model_config(const peft_model *model);

/** The tokenizer that came with the model, or NULL. Owned by the model. */
PEFT_API const peft_tokenizer *peft_model_tokenizer(const peft_model *model);

#ifdef __cplusplus
}
#endif
#endif
