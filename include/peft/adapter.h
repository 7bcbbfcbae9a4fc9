/** \file peft/adapter.h
 *  Adapters: what is trained. One adapter is one method applied to one model; full fine-tuning is one of the methods.
 */
#ifndef PEFT_ADAPTER_H
#define PEFT_ADAPTER_H

#include "peft/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct peft_adapter peft_adapter;

/** Makes a new adapter from the text of an HF PEFT adapter_config.json, for example
 *  {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}.
 *  Missing keys take HF's defaults; unknown keys are reported to the log; keys that mean something libpeft does not build are refused by
 *  name. Methods and their keys: docs/methods.md. Initial values are drawn from `seed`.
 *  Errors: PEFT_E_FORMAT (not JSON), PEFT_E_ARG (value out of range), PEFT_E_MISMATCH (no module matches: the text lists the closest),
 *  PEFT_E_UNSUPPORTED, PEFT_E_NOMEM. */
PEFT_API PEFT_NODISCARD peft_status peft_adapter_create(peft_context *context, peft_model *model, const char *config_json, uint64_t seed,
                                                        peft_adapter **out_adapter);

/** Loads an HF PEFT folder (adapter_config.json, adapter_model.safetensors). Strict: a tensor in the file that fits nothing, or a tensor of
 *  the adapter that the file lacks, is PEFT_E_MISMATCH with the closest names. A base with other weights than the one the adapter was trained on
 *  is a warning in the log when the adapter recorded it, a base whose layers or tables have other sizes is PEFT_E_MISMATCH. */
PEFT_API PEFT_NODISCARD peft_status peft_adapter_load(peft_context *context, peft_model *model, const char *folder, peft_adapter **out_adapter);

/** Writes adapter_config.json and adapter_model.safetensors (or, for methods that HF PEFT does not have, the files of docs/methods.md) into
 *  `folder`, which is made if need be. Atomic: on failure the old files are still there. */
PEFT_API PEFT_NODISCARD peft_status peft_adapter_save(const peft_adapter *adapter, const char *folder);

PEFT_API void peft_adapter_destroy(peft_adapter *adapter);

/** The configuration in effect as JSON, sorted keys, as it is written to adapter_config.json. Owned by the adapter. */
PEFT_API const char *peft_adapter_config(const peft_adapter *adapter);

/** What loading or creating found: modules adapted, tensors matched. Owned by the adapter. */
PEFT_API const char *peft_adapter_report(const peft_adapter *adapter);

/** Number of trained scalars, and of all that the file holds. */
PEFT_API int64_t peft_adapter_parameter_count(const peft_adapter *adapter);

/** The adapter's tensors, in a fixed order: name, shape, and its float values in info->data. */
PEFT_API uint32_t peft_adapter_tensor_count(const peft_adapter *adapter);
PEFT_API PEFT_NODISCARD peft_status peft_adapter_tensor(const peft_adapter *adapter, uint32_t index, peft_tensor_info *out_info);

/** Copies all trained values out of / into one flat array of peft_adapter_parameter_count() floats, in tensor order (federated averaging). */
PEFT_API PEFT_NODISCARD peft_status peft_adapter_get_parameters(const peft_adapter *adapter, float *out_values, int64_t count);
PEFT_API PEFT_NODISCARD peft_status peft_adapter_set_parameters(peft_adapter *adapter, const float *values, int64_t count);
/** Overwrites one tensor by name. */
PEFT_API PEFT_NODISCARD peft_status peft_adapter_set_tensor(peft_adapter *adapter, const char *name, const float *values, int64_t count);

/** A user's factor on the adapter's effect: 1 = as trained (default), 0 = off. Takes effect at the next forward pass. Methods that cannot be scaled
 *  return PEFT_E_UNSUPPORTED for values other than 1. */
PEFT_API PEFT_NODISCARD peft_status peft_adapter_set_scale(peft_adapter *adapter, float scale);

/** Gradual unfreezing: from the next forward pass on only the tensors of the `layers` top layers (of each stack) are trained, and with them what lies
 *  behind the layers (final norm, pooler, head) or belongs to no module of the model (prompts). All others rest: no gradient, no backward work
 *  below the lowest trained one, no update. 0: no layer; as many as the model has: all but what lies before them (embeddings); more, or -1 (the
 *  default): everything. For between optimizer steps; values, folders and parameter counts do not change. Which layers are trained at which
 *  step: peft_unfreezing_layers(). PEFT_E_ARG when nothing of the adapter would be trained. Howard and Ruder 2018, section 3.3. */
PEFT_API PEFT_NODISCARD peft_status peft_adapter_set_top_layers(peft_adapter *adapter, int32_t layers);
PEFT_API int32_t peft_adapter_top_layers(const peft_adapter *adapter);

/** How an entry's sign is elected where adapters disagree (TIES). */
enum {
    PEFT_MAJORITY_TOTAL = 0,    /**< of the sum (default) */
    PEFT_MAJORITY_FREQUENCY = 1 /**< of the number of adapters with it */
};

typedef struct peft_combine_options {
    uint32_t struct_size;
    uint32_t rank;    /**< "svd" and names that end in _svd: rank of the result; 0 = the largest of theirs (default) */
    float density;    /**< share of entries that "ties", "dare_*" and "magnitude_prune" keep, above 0 and up to 1; default 0.5 */
    int32_t majority; /**< PEFT_MAJORITY_*, for "ties" and "dare_ties" */
    uint64_t seed;    /**< of what "dare_*" drops; default 0 */
} peft_combine_options;

PEFT_API void peft_combine_options_init_sized(peft_combine_options *options, uint32_t size);
#define peft_combine_options_init(options) peft_combine_options_init_sized((options), (uint32_t)sizeof *(options))

/** A new LoRA adapter from `count` ones on the same base, each times its weight (and its own factor, peft_adapter_set_scale). `options` may be NULL.
 *  `method`: "cat" is exactly the weighted sum of their changes, with the sum of their ranks; "svd" cuts that sum back to a rank by its singular values.
 *  "linear" adds up the factors as HF PEFT does, which needs equal ranks and is not the sum of the changes; "ties" (Yadav et al. 2023), "dare_linear",
 *  "dare_ties" (Yu et al. 2024) and "magnitude_prune" make the factors sparse before. "ties_svd", "dare_linear_svd", "dare_ties_svd" and
 *  "magnitude_prune_svd" do so with the changes themselves, at a rank of their own. What DARE drops is libpeft's own random choice, the same everywhere.
 *  Errors: PEFT_E_ARG, PEFT_E_MISMATCH (another base; unequal ranks), PEFT_E_UNSUPPORTED for methods other than LoRA, DoRA, and adapters with biases or
 *  modules of their own. */
PEFT_API PEFT_NODISCARD peft_status peft_adapter_combine(peft_context *context, peft_model *model, peft_adapter *const *adapters, const float *weights,
                                                         uint32_t count, const char *method, const peft_combine_options *options,
                                                         peft_adapter **out_adapter);

/** Writes a LoRA adapter as a GGUF file for llama.cpp, in F32, reads it back and compares. rsLoRA and patterns are folded into alpha and B;
 *  what the format cannot hold (DoRA, biases, modules_to_save, other methods) is PEFT_E_UNSUPPORTED by name: merge it instead. */
PEFT_API PEFT_NODISCARD peft_status peft_adapter_export_gguf(const peft_adapter *adapter, const char *path);

/** Reads such a file: a LoRA adapter with the ranks and the alpha that it holds. */
PEFT_API PEFT_NODISCARD peft_status peft_adapter_import_gguf(peft_context *context, peft_model *model, const char *path, peft_adapter **out_adapter);

/** A new model whose weights are the base's with the adapters' changes added; the base is untouched (unmerging is going back to it).
 *  Changed matrices are held as float; all others stay shared with the base. PEFT_E_UNSUPPORTED for methods that cannot be merged. */
PEFT_API PEFT_NODISCARD peft_status peft_model_merge(peft_context *context, peft_model *model, peft_adapter *const *adapters, uint32_t count,
                                                     peft_model **out_model);

/** Writes a model as a Hugging Face folder (config.json, model.safetensors, tokenizer files when they came from a folder), tensor by tensor.
 *  `dtype` is PEFT_DTYPE_F32, _F16 or _BF16. */
PEFT_API PEFT_NODISCARD peft_status peft_model_save(peft_context *context, const peft_model *model, const char *folder, peft_dtype dtype);

/** Writes a model that was read from a GGUF file as a new GGUF file with the same keys and types: a merged one into the types of its base.
 *  What merging changed is encoded anew, tensor by tensor, the rest is copied. PEFT_E_UNSUPPORTED where a changed tensor has a type that
 *  cannot be encoded (the K types), and for models that came from a folder. */
PEFT_API PEFT_NODISCARD peft_status peft_model_save_gguf(peft_context *context, const peft_model *model, const char *path);

/** Merges adapters into a new file or folder without holding a merged model: one tensor at a time is widened, changed, converted and written, so the memory
 *  needed is a few times the largest changed matrix. A `path` that ends in ".gguf" gives a GGUF file of the base's types (peft_model_save_gguf; `dtype` is
 *  not read), any other a Hugging Face folder of type `dtype` (peft_model_save). Errors: those of peft_model_merge and of the two. */
PEFT_API PEFT_NODISCARD peft_status peft_model_save_merged(peft_context *context, peft_model *model, peft_adapter *const *adapters, uint32_t count,
                                                           const char *path, peft_dtype dtype);

/** How far apart two models are on a probe of 16 rows (token ids, or float rows for models that read those) that their sizes alone decide. */
typedef struct peft_difference {
    uint32_t struct_size;
    uint32_t reserved;
    int64_t values;   /**< outputs compared */
    double largest;   /**< largest |first - second| */
    double magnitude; /**< largest |first| */
} peft_difference;

/** Runs the probe through two models with their adapters and compares all logits (hidden states of models without a head). `out_difference->struct_size` must
 *  be set. Errors: PEFT_E_MISMATCH (outputs of different size), PEFT_E_NONFINITE, those of peft_session_create and peft_session_logits. */
PEFT_API PEFT_NODISCARD peft_status peft_model_compare(peft_context *context, peft_model *model, peft_adapter *const *adapters, uint32_t count,
                                                       peft_model *other, peft_adapter *const *other_adapters, uint32_t other_count,
                                                       peft_difference *out_difference);

/** Reads back what peft_adapter_save (a folder) or peft_adapter_export_gguf (a file) wrote and compares it with the adapter in memory, with
 *  peft_model_compare. Whether the difference is small enough is the caller's to say: folders give 0. */
PEFT_API PEFT_NODISCARD peft_status peft_adapter_verify(peft_adapter *adapter, const char *path, peft_difference *out_difference);

/** The same for a saved model: `model` with `adapters` (0 = the model alone) against the folder or GGUF file at `path`. What the types of that file
 *  round away is part of the difference. */
PEFT_API PEFT_NODISCARD peft_status peft_model_verify(peft_context *context, peft_model *model, peft_adapter *const *adapters, uint32_t count,
                                                      const char *path, peft_difference *out_difference);

#ifdef __cplusplus
}
#endif
#endif
