/** \file peft/recipe.h
 *  Recipes: a training run as a file of keys and values. Optional: everything that a recipe sets can be set through the other headers.
 *
 *  The file is YAML: our own keys in groups (docs/recipes.md), or the keys of axolotl, LLaMA-Factory and torchtune. Unknown keys are errors that name
 *  file, line and the closest known key. Keys are given to the functions below by our own names, for example "train.lr".
 */
#ifndef PEFT_RECIPE_H
#define PEFT_RECIPE_H

#include "peft/dataset.h"
#include "peft/optimizer.h"
#include "peft/session.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct peft_recipe peft_recipe;

/** Flags of opening; combine with |. */
enum {
    PEFT_RECIPE_STRICT = 0,
    PEFT_RECIPE_LENIENT = 1 /**< unknown keys are warnings in the log */
};

/** Reads a file. `overrides` are `count` texts "key=value", which win over the file; values are YAML scalars or flow collections ("adapter.r=16",
 *  "lr=1e-4", "target_modules=[q_proj, v_proj]"). Errors: PEFT_E_IO, PEFT_E_FORMAT (malformed, unknown key, wrong type), PEFT_E_ARG (out of range),
 *  PEFT_E_UNSUPPORTED (a key that means something which is not built), PEFT_E_NOMEM. */
PEFT_API PEFT_NODISCARD peft_status peft_recipe_open(peft_context *context, const char *path, const char *const *overrides, uint32_t count,
                                                     uint32_t flags, peft_recipe **out_recipe);
/** The same from memory; `name` (may be NULL) is for error texts. */
PEFT_API PEFT_NODISCARD peft_status peft_recipe_open_memory(peft_context *context, const void *data, uint64_t size, const char *name,
                                                            const char *const *overrides, uint32_t count, uint32_t flags,
                                                            peft_recipe **out_recipe);
PEFT_API void peft_recipe_destroy(peft_recipe *recipe);

/** Every value in effect with where it came from, one line each: "train.lr: 0.0001  # run.yaml:12 (learning_rate)". The text is itself a recipe when
 *  the dots are read as groups. Owned by the recipe. */
PEFT_API const char *peft_recipe_explain(const peft_recipe *recipe);

/** Of all values that change what is learnt: a checkpoint goes on only under the recipe that it was made with. */
PEFT_API uint64_t peft_recipe_hash(const peft_recipe *recipe);

/** One value by our name. A key without value and default gives NULL (texts) or PEFT_E_STATE; an unknown one PEFT_E_ARG. Integers count as
 *  numbers. Texts are owned by the recipe; choices are texts; a mapping is given as JSON. */
PEFT_API PEFT_NODISCARD peft_status peft_recipe_get_text(const peft_recipe *recipe, const char *key, const char **out_text);
PEFT_API PEFT_NODISCARD peft_status peft_recipe_get_int(const peft_recipe *recipe, const char *key, int64_t *out_value);
PEFT_API PEFT_NODISCARD peft_status peft_recipe_get_number(const peft_recipe *recipe, const char *key, double *out_value);
PEFT_API PEFT_NODISCARD peft_status peft_recipe_get_bool(const peft_recipe *recipe, const char *key, int32_t *out_value);
/** 1 when the recipe or an override gave the key, 0 when it has its default. */
PEFT_API int32_t peft_recipe_is_given(const peft_recipe *recipe, const char *key);

/** The adapter's configuration for peft_adapter_create(): everything under "adapter". Without `method` it is LoRA; a recipe's own defaults for
 *  LoRA are target_modules "all-linear" and lora_alpha 2 * r. Owned by the recipe. */
PEFT_API const char *peft_recipe_adapter_config(const peft_recipe *recipe);

/** Path of the data for a part (PEFT_PART_*), or NULL when there is none: PEFT_PART_VALIDATION needs data.validation or data.validation_fraction. */
PEFT_API const char *peft_recipe_data_path(const peft_recipe *recipe, int32_t part);

/** The recipe's values in other structs, which must have been initialised. Texts are owned by the recipe. */
PEFT_API PEFT_NODISCARD peft_status peft_recipe_model_options(const peft_recipe *recipe, peft_model_options *options);
PEFT_API PEFT_NODISCARD peft_status peft_recipe_dataset_options(const peft_recipe *recipe, int32_t part, peft_dataset_options *options);
PEFT_API PEFT_NODISCARD peft_status peft_recipe_optimizer_options(const peft_recipe *recipe, peft_optimizer_options *options);
/** `total_steps` is what peft_recipe_total_steps() gives. */
PEFT_API PEFT_NODISCARD peft_status peft_recipe_schedule(const peft_recipe *recipe, uint64_t total_steps, peft_schedule *schedule);
/** train.unfreeze_*; off where the recipe has no train.unfreeze_steps. */
PEFT_API PEFT_NODISCARD peft_status peft_recipe_unfreezing(const peft_recipe *recipe, uint64_t total_steps, peft_unfreezing *unfreezing);
PEFT_API PEFT_NODISCARD peft_status peft_recipe_session_options(const peft_recipe *recipe, peft_session_options *options);
/** train.class_weights for `count` classes (peft_dataset_label_count): the list, or by peft_dataset_balanced_weights(). `out_given` (may be NULL) gets 0
 *  when the recipe asks for none; nothing is written then. */
PEFT_API PEFT_NODISCARD peft_status peft_recipe_class_weights(const peft_recipe *recipe, const peft_dataset *train, float *out_weights, uint32_t count,
                                                              int32_t *out_given);
/** Optimizer steps of the run, for `batches` batches an epoch: train.epochs of them, or train.max_steps. */
PEFT_API uint64_t peft_recipe_total_steps(const peft_recipe *recipe, int64_t batches);

/** What an entry of a comparison is. */
enum {
    PEFT_COMPARE_TRAIN = 0,       /**< an adapter, trained */
    PEFT_COMPARE_BASE = 1,        /**< the model alone */
    PEFT_COMPARE_HARD_PROMPT = 2, /**< the best written prompt of a file */
    PEFT_COMPARE_ICL = 3          /**< in-context learning: solved examples in front of each question */
};

typedef struct peft_compare_entry {
    uint32_t struct_size;
    int32_t kind;        /**< PEFT_COMPARE_* */
    const char *name;    /**< unique in its recipe; owned by the recipe */
    const char *prompts; /**< path of the prompts file; NULL for entries that have none */
    int64_t shots;       /**< of PEFT_COMPARE_ICL; 0 = as the prompts file says */
    const char *prompt;  /**< name of the prompt in that file; NULL: the best of it (hard prompts), the first (PEFT_COMPARE_ICL) */
} peft_compare_entry;

/** Entries of the group `compare` (docs/compare.md); 0 when there is none. */
PEFT_API uint32_t peft_recipe_compare_count(const peft_recipe *recipe);
/** `out_entry->struct_size` must be set. PEFT_E_ARG beyond the last. */
PEFT_API PEFT_NODISCARD peft_status peft_recipe_compare_entry(const peft_recipe *recipe, uint32_t index, peft_compare_entry *out_entry);
/** The recipe of one entry: the common keys with the entry's own over them, and over those the `overrides` ("train.seed=43"). An entry that names
 *  a method begins with an empty `adapter` group, others take the recipe's. Entries were checked when the recipe was opened. The new recipe is
 *  independent of this one. */
PEFT_API PEFT_NODISCARD peft_status peft_recipe_compare_open(const peft_recipe *recipe, uint32_t index, const char *const *overrides, uint32_t count,
                                                             peft_recipe **out_recipe);

#ifdef __cplusplus
}
#endif
#endif
