/* aliases.c: the words of axolotl, LLaMA-Factory and torchtune for our keys.
 *
 * People copy an example recipe and change four lines; such a file should run here unchanged or say exactly why not. A
 * word that means something that is not built is refused with the reason. Words about GPUs, launchers and tracking
 * services are taken note of and listed in one warning.
 */
#include "recipe/recipe_internal.h"

#include <stdio.h>

peft_status peft__recipe_fail(peft_recipe *recipe, const peft__recipe_entry *entry, peft_status status,
                              const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return peft__fail(recipe->ctx, status, "%s: %s: %s", entry->where, entry->path, text);
}

static peft_status set_text(peft_recipe *recipe, const char *key, const char *text, const peft__recipe_entry *entry) {
    return peft__recipe_set(recipe, key, json_string(text), entry);
}

static peft_status need_text(peft_recipe *recipe, const peft__recipe_entry *entry, const json_t *value,
                             const char **out_text) {
    if (!json_is_string(value))
        return peft__recipe_fail(recipe, entry, PEFT_E_FORMAT, "expected text, found %s", peft__json_kind(value));
    *out_text = json_string_value(value);
    return PEFT_OK;
}

/* ---- conversions ------------------------------------------------------------------------------------------- */

/* `adapter: lora`, finetuning_type. */
static peft_status to_method(peft_recipe *recipe, const peft__recipe_alias *alias, const peft__recipe_entry *entry,
                             const json_t *value) {
    if (json_is_null(value)) return set_text(recipe, "adapter.method", "full", entry); /* axolotl: no adapter */
    const char *text = "";
    PEFT_TRY(need_text(recipe, entry, value, &text));
    /* The base keeps the type that its file has: that is what the q in qlora asks for. */
    return set_text(recipe, alias->key, strcmp(text, "qlora") == 0 ? "lora" : text, entry);
}

/* "all", "q_proj,v_proj" or a list. */
static peft_status to_targets(peft_recipe *recipe, const peft__recipe_alias *alias, const peft__recipe_entry *entry,
                              const json_t *value) {
    if (!json_is_string(value)) return peft__recipe_set(recipe, alias->key, json_deep_copy(value), entry);
    const char *text = json_string_value(value);
    if (strcmp(text, "all") == 0) return set_text(recipe, alias->key, "all-linear", entry);
    if (strchr(text, ',') == NULL) return peft__recipe_set(recipe, alias->key, json_deep_copy(value), entry);
    json_t *list = json_array();
    while (list != NULL && *text != '\0') {
        while (*text == ' ' || *text == ',') text++;
        size_t length = strcspn(text, ",");
        const char *next = text + length;
        while (length > 0 && text[length - 1] == ' ') length--;
        if (length > 0 && json_array_append_new(list, json_stringn(text, length)) != 0) {
            json_decref(list);
            list = NULL;
        }
        text = next;
    }
    return peft__recipe_set(recipe, alias->key, list, entry);
}

/* lora_target_linear: true */
static peft_status to_all_linear(peft_recipe *recipe, const peft__recipe_alias *alias, const peft__recipe_entry *entry,
                                 const json_t *value) {
    if (!json_is_true(value)) return PEFT_OK;
    const peft__recipe_slot *slot = peft__recipe_slot_of(recipe, alias->key);
    if (slot != NULL) return PEFT_OK; /* axolotl: the list wins; both are in its examples */
    return set_text(recipe, alias->key, "all-linear", entry);
}

/* A share of the rows; numbers of rows are not built. */
static peft_status to_fraction(peft_recipe *recipe, const peft__recipe_alias *alias, const peft__recipe_entry *entry,
                               const json_t *value) {
    if (json_is_number(value) && json_number_value(value) >= 1.0)
        return peft__recipe_fail(recipe, entry, PEFT_E_UNSUPPORTED,
                                 "a number of examples is not supported: give a share below 1, for example 0.05");
    return peft__recipe_set(recipe, alias->key, json_deep_copy(value), entry);
}

/* adamw_torch, paged_adamw_8bit, torch.optim.AdamW: by what the name holds. */
static peft_status to_named(peft_recipe *recipe, const peft__recipe_alias *alias, const peft__recipe_entry *entry,
                            const json_t *value) {
    static const char *const NAMES[][2] = {{"adamw", "adamw"},
                                           {"adafactor", "adafactor"},
                                           {"lion", "lion"},
                                           {"sgd", "sgd"},
                                           {"restarts", "cosine_with_restarts"},
                                           {"cosine", "cosine"},
                                           {"linear", "linear"},
                                           {"constant", "constant"},
                                           {"polynomial", "polynomial"},
                                           {"inverse_sqrt", "inverse_sqrt"}};
    const char *text = "";
    PEFT_TRY(need_text(recipe, entry, value, &text));
    char lower[128];
    size_t i = 0;
    for (; text[i] != '\0' && i + 1 < sizeof lower; i++)
        lower[i] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] - 'A' + 'a' : text[i]);
    lower[i] = '\0';
    const peft__recipe_key *key = peft__recipe_find_key(alias->key);
    for (size_t n = 0; n < PEFT_COUNT(NAMES); n++)
        if (strstr(lower, NAMES[n][0]) != NULL && peft__recipe_choice(key, NAMES[n][1]) >= 0)
            return set_text(recipe, alias->key, NAMES[n][1], entry);
    return peft__recipe_fail(recipe, entry, PEFT_E_UNSUPPORTED, "\"%.80s\" is not known; there are %s", text,
                             key->choices);
}

/* type: alpaca, chat_template, completion; torchtune.datasets.alpaca_cleaned_dataset */
static peft_status to_format(peft_recipe *recipe, const peft__recipe_alias *alias, const peft__recipe_entry *entry,
                             const json_t *value) {
    static const char *const NAMES[][2] = {{"alpaca", "alpaca"}, {"sharegpt", "sharegpt"}, {"chat_template", "auto"},
                                           {"chat", "auto"},     {"messages", "messages"}, {"completion", "auto"},
                                           {"text", "auto"},     {"instruct", "auto"}};
    const char *text = "";
    PEFT_TRY(need_text(recipe, entry, value, &text));
    for (size_t n = 0; n < PEFT_COUNT(NAMES); n++)
        if (strstr(text, NAMES[n][0]) != NULL) return set_text(recipe, alias->key, NAMES[n][1], entry);
    return peft__recipe_fail(recipe, entry, PEFT_E_UNSUPPORTED,
                             "\"%.80s\" is not known; known are alpaca, sharegpt, chat_template, completion", text);
}

static peft_status to_stage(peft_recipe *recipe, const peft__recipe_alias *alias, const peft__recipe_entry *entry,
                            const json_t *value) {
    const char *text = "";
    (void)alias;
    PEFT_TRY(need_text(recipe, entry, value, &text));
    if (strcmp(text, "sft") == 0 || strcmp(text, "pt") == 0) return PEFT_OK;
    return peft__recipe_fail(recipe, entry, PEFT_E_UNSUPPORTED, "\"%.40s\" is not built; sft and pt are", text);
}

static peft_status to_template(peft_recipe *recipe, const peft__recipe_alias *alias, const peft__recipe_entry *entry,
                               const json_t *value) {
    static const char *const NAMES[][2] = {{"qwen", "qwen2"}, {"phi", "phi3"}, {"phi_3", "phi3"}, {"gemma2", "gemma"}};
    if (!json_is_string(value)) return peft__recipe_set(recipe, alias->key, json_deep_copy(value), entry);
    const char *text = json_string_value(value);
    if (strcmp(text, "tokenizer_default") == 0 || strcmp(text, "default") == 0) return PEFT_OK; /* the model's own */
    for (size_t n = 0; n < PEFT_COUNT(NAMES); n++)
        if (strcmp(text, NAMES[n][0]) == 0) return set_text(recipe, alias->key, NAMES[n][1], entry);
    return set_text(recipe, alias->key, text, entry);
}

/* eval_strategy, save_strategy: alias->key is the group's key of steps; the one per epoch is beside it. */
static peft_status to_strategy(peft_recipe *recipe, const peft__recipe_alias *alias, const peft__recipe_entry *entry,
                               const json_t *value) {
    const bool saves = strcmp(alias->key, "output.save_steps") == 0;
    if (json_is_false(value) || (json_is_string(value) && strcmp(json_string_value(value), "no") == 0))
        return peft__recipe_set(recipe, alias->key, json_integer(0), entry);
    if (json_is_string(value) && strcmp(json_string_value(value), "steps") == 0) return PEFT_OK;
    if (json_is_string(value) && strcmp(json_string_value(value), "epoch") == 0)
        return peft__recipe_set(recipe, saves ? "output.save_per_epoch" : "eval.per_epoch", json_integer(1), entry);
    return peft__recipe_fail(recipe, entry, PEFT_E_FORMAT, "expected no, steps or epoch");
}

/* -1 means "not set" there. */
static peft_status to_count(peft_recipe *recipe, const peft__recipe_alias *alias, const peft__recipe_entry *entry,
                            const json_t *value) {
    if (json_is_null(value) || (json_is_number(value) && json_number_value(value) < 0.0)) return PEFT_OK;
    return peft__recipe_set(recipe, alias->key, json_deep_copy(value), entry);
}

static peft_status to_ratio(peft_recipe *recipe, const peft__recipe_alias *alias, const peft__recipe_entry *entry,
                            const json_t *value) {
    if (json_is_number(value) && json_number_value(value) >= 1.0)
        return peft__recipe_fail(recipe, entry, PEFT_E_FORMAT, "a share of all steps is below 1, found %g",
                                 json_number_value(value));
    return peft__recipe_set(recipe, alias->key, json_deep_copy(value), entry);
}

/* true: the checkpoint in the output folder. */
static peft_status to_resume(peft_recipe *recipe, const peft__recipe_alias *alias, const peft__recipe_entry *entry,
                             const json_t *value) {
    if (json_is_null(value) || json_is_false(value)) return PEFT_OK;
    if (json_is_true(value)) return set_text(recipe, alias->key, "auto", entry);
    return peft__recipe_set(recipe, alias->key, json_deep_copy(value), entry);
}

static peft_status refuse_unless_off(peft_recipe *recipe, const peft__recipe_alias *alias,
                                     const peft__recipe_entry *entry, const json_t *value) {
    const bool off = json_is_null(value) || json_is_false(value) ||
                     (json_is_number(value) && json_number_value(value) == 0.0) ||
                     (json_is_array(value) && json_array_size(value) == 0);
    return off ? PEFT_OK : peft__recipe_fail(recipe, entry, PEFT_E_UNSUPPORTED, "%s", alias->reason);
}

static peft_status check_roles(peft_recipe *recipe, const peft__recipe_alias *alias, const peft__recipe_entry *entry,
                               const json_t *value) {
    const json_t *first = json_array_get(value, 0);
    if (json_is_null(value)) return PEFT_OK;
    if (json_array_size(value) == 1 && json_is_string(first) &&
        (strcmp(json_string_value(first), "assistant") == 0 || strcmp(json_string_value(first), "gpt") == 0))
        return PEFT_OK;
    return peft__recipe_fail(recipe, entry, PEFT_E_UNSUPPORTED, "%s", alias->reason);
}

static peft_status check_train_on_eos(peft_recipe *recipe, const peft__recipe_alias *alias,
                                      const peft__recipe_entry *entry, const json_t *value) {
    if (json_is_null(value) || (json_is_string(value) && strcmp(json_string_value(value), "turn") == 0)) return PEFT_OK;
    return peft__recipe_fail(recipe, entry, PEFT_E_UNSUPPORTED, "%s", alias->reason);
}

/* A padding token changes nothing here; new or other special tokens would. */
static peft_status check_special_tokens(peft_recipe *recipe, const peft__recipe_alias *alias,
                                        const peft__recipe_entry *entry, const json_t *value) {
    const char *name;
    json_t *token;
    json_object_foreach((json_t *)value, name, token) {
        if (strcmp(name, "pad_token") != 0)
            return peft__recipe_fail(recipe, entry, PEFT_E_UNSUPPORTED, "%s: %s", name, alias->reason);
    }
    return PEFT_OK;
}

/* torchtune.models.llama3_2.lora_llama3_2_1b: the name says the method. */
static peft_status to_component_method(peft_recipe *recipe, const peft__recipe_alias *alias,
                                       const peft__recipe_entry *entry, const json_t *value) {
    const char *text = "";
    PEFT_TRY(need_text(recipe, entry, value, &text));
    return set_text(recipe, alias->key, strstr(text, "lora") != NULL ? "lora" : "full", entry);
}

/* ---- the tables ------------------------------------------------------------------------------------------------- */

const peft__recipe_alias peft__recipe_aliases[] = {
    /* model */
    {"model.path", "model", NULL, NULL},
    {"base_model", "model", NULL, NULL},
    {"model_name_or_path", "model", NULL, NULL},
    {"checkpointer.checkpoint_dir", "model", NULL, NULL},
    {"model._component_", "adapter.method", to_component_method, NULL},
    /* method */
    {"adapter", "adapter.method", to_method, NULL},
    {"finetuning_type", "adapter.method", to_method, NULL},
    {"method", "adapter.method", to_method, NULL},
    {"stage", NULL, to_stage, NULL},
    {"r", "adapter.r", NULL, NULL},
    {"lora_r", "adapter.r", NULL, NULL},
    {"lora_rank", "adapter.r", NULL, NULL},
    {"model.lora_rank", "adapter.r", NULL, NULL},
    {"adapter.rank", "adapter.r", NULL, NULL},
    {"lora_alpha", "adapter.lora_alpha", NULL, NULL},
    {"model.lora_alpha", "adapter.lora_alpha", NULL, NULL},
    {"adapter.alpha", "adapter.lora_alpha", NULL, NULL},
    {"lora_dropout", "adapter.lora_dropout", NULL, NULL},
    {"model.lora_dropout", "adapter.lora_dropout", NULL, NULL},
    {"adapter.dropout", "adapter.lora_dropout", NULL, NULL},
    {"target_modules", "adapter.target_modules", to_targets, NULL},
    {"lora_target_modules", "adapter.target_modules", to_targets, NULL},
    {"lora_target", "adapter.target_modules", to_targets, NULL},
    {"adapter.targets", "adapter.target_modules", to_targets, NULL},
    {"lora_target_linear", "adapter.target_modules", to_all_linear, NULL},
    {"model.lora_attn_modules", "_attn_modules", NULL, NULL},
    {"model.apply_lora_to_mlp", "_apply_to_mlp", NULL, NULL},
    {"model.apply_lora_to_output", "_apply_to_output", NULL, NULL},
    {"lora_modules_to_save", "adapter.modules_to_save", to_targets, NULL},
    {"additional_target", "adapter.modules_to_save", to_targets, NULL},
    {"lora_fan_in_fan_out", "adapter.fan_in_fan_out", NULL, NULL},
    {"peft_layers_to_transform", "adapter.layers_to_transform", NULL, NULL},
    {"peft_use_rslora", "adapter.use_rslora", NULL, NULL},
    {"use_rslora", "adapter.use_rslora", NULL, NULL},
    {"peft_use_dora", "adapter.use_dora", NULL, NULL},
    {"use_dora", "adapter.use_dora", NULL, NULL},
    {"model.use_dora", "adapter.use_dora", NULL, NULL},
    {"peft_init_lora_weights", "adapter.init_lora_weights", NULL, NULL},
    {"init_lora_weights", "adapter.init_lora_weights", NULL, NULL},
    {"pissa_init", "_pissa_init", NULL, NULL},
    {"pissa_iter", "_pissa_iter", NULL, NULL},
    {"pissa_convert", NULL, NULL, NULL}, /* every save is a plain LoRA already */
    {"lora_model_dir", NULL, refuse_unless_off,
     "going on from an adapter is not built; use output.resume for a checkpoint"},
    {"adapter_name_or_path", NULL, refuse_unless_off,
     "going on from an adapter is not built; use output.resume for a checkpoint"},
    {"model.quantize_base", NULL, refuse_unless_off,
     "the base is used as its file stores it; load a quantised GGUF file instead"},
    /* data */
    {"datasets.path", "data.train", NULL, NULL},
    {"datasets.type", "data.format", to_format, NULL},
    {"datasets.ds_type", NULL, NULL, NULL},
    {"datasets.split", NULL, NULL, NULL},
    {"datasets.field", "data.text_key", NULL, NULL},
    {"datasets.field_messages", "data.text_key", NULL, NULL},
    {"datasets.chat_template", "data.chat_template", to_template, NULL},
    {"datasets.roles_to_train", NULL, check_roles, "only assistant messages are learnt (or all, with train_on_prompt)"},
    {"datasets.train_on_eos", NULL, check_train_on_eos,
     "the end of every assistant turn is learnt (\"turn\"); see data.eos"},
    {"roles_to_train", NULL, check_roles, "only assistant messages are learnt (or all, with train_on_prompt)"},
    {"train_on_eos", NULL, check_train_on_eos, "the end of every assistant turn is learnt (\"turn\"); see data.eos"},
    {"dataset", "data.train", NULL, NULL},
    {"dataset_dir", "_dataset_dir", NULL, NULL},
    {"dataset.source", "data.train", NULL, NULL},
    {"dataset.data_files", "data.train", NULL, NULL},
    {"dataset._component_", "data.format", to_format, NULL},
    {"dataset.packed", "data.packing", NULL, NULL},
    {"dataset.train_on_input", "data.train_on_prompt", NULL, NULL},
    {"dataset.split", NULL, NULL, NULL},
    {"eval_dataset", "data.validation", NULL, NULL},
    {"train_on_inputs", "data.train_on_prompt", NULL, NULL},
    {"train_on_input", "data.train_on_prompt", NULL, NULL},
    {"mask_history", NULL, refuse_unless_off,
     "every assistant turn is learnt; mark single messages with \"train\": false instead"},
    {"template", "data.chat_template", to_template, NULL},
    {"chat_template", "data.chat_template", to_template, NULL},
    {"tokenizer.prompt_template", "data.chat_template", to_template, NULL},
    {"sequence_len", "data.max_length", NULL, NULL},
    {"cutoff_len", "data.max_length", NULL, NULL},
    {"tokenizer.max_seq_len", "data.max_length", to_count, NULL},
    {"sample_packing", "data.packing", NULL, NULL},
    {"neat_packing", "_neat_packing", NULL, NULL},
    {"max_samples", "data.max_examples", NULL, NULL},
    {"val_set_size", "data.validation_fraction", to_fraction, NULL},
    {"val_size", "data.validation_fraction", to_fraction, NULL},
    {"special_tokens", NULL, check_special_tokens, "other special tokens than the tokenizer's own are not supported"},
    /* training */
    {"micro_batch_size", "train.batch_size", NULL, NULL},
    {"per_device_train_batch_size", "train.batch_size", NULL, NULL},
    {"gradient_accumulation_steps", "train.gradient_accumulation_steps", NULL, NULL},
    {"train.gradient_accumulation", "train.gradient_accumulation_steps", NULL, NULL},
    {"num_epochs", "train.epochs", NULL, NULL},
    {"num_train_epochs", "train.epochs", NULL, NULL},
    {"max_steps", "train.max_steps", to_count, NULL},
    {"max_steps_per_epoch", "_max_steps_per_epoch", to_count, NULL},
    {"optimizer", "train.optimizer", to_named, NULL},
    {"optim", "train.optimizer", to_named, NULL},
    {"optimizer._component_", "train.optimizer", to_named, NULL},
    {"learning_rate", "train.lr", NULL, NULL},
    {"train.learning_rate", "train.lr", NULL, NULL},
    {"optimizer.lr", "train.lr", NULL, NULL},
    {"weight_decay", "train.weight_decay", NULL, NULL},
    {"optimizer.weight_decay", "train.weight_decay", NULL, NULL},
    {"max_grad_norm", "train.max_grad_norm", to_count, NULL},
    {"gradient_clipping", "train.max_grad_norm", to_count, NULL},
    {"clip_grad_norm", "train.max_grad_norm", to_count, NULL},
    {"adam_beta1", "train.beta1", NULL, NULL},
    {"adam_beta2", "train.beta2", NULL, NULL},
    {"adam_epsilon", "train.eps", NULL, NULL},
    {"optimizer.eps", "train.eps", NULL, NULL},
    {"lr_scheduler", "train.lr_scheduler", to_named, NULL},
    {"lr_scheduler_type", "train.lr_scheduler", to_named, NULL},
    {"train.schedule", "train.lr_scheduler", to_named, NULL},
    {"lr_scheduler._component_", "train.lr_scheduler", to_named, NULL},
    {"warmup_steps", "train.warmup", NULL, NULL},
    {"train.warmup_steps", "train.warmup", NULL, NULL},
    {"lr_scheduler.num_warmup_steps", "train.warmup", NULL, NULL},
    {"warmup_ratio", "train.warmup", to_ratio, NULL},
    {"train.warmup_ratio", "train.warmup", to_ratio, NULL},
    {"loraplus_lr_ratio", "train.loraplus_lr_ratio", to_count, NULL},
    {"label_smoothing_factor", "train.label_smoothing", NULL, NULL},
    {"loss_watchdog_threshold", "train.loss_watchdog_threshold", NULL, NULL},
    {"loss_watchdog_patience", "train.loss_watchdog_patience", NULL, NULL},
    {"seed", "train.seed", to_count, NULL}, /* torchtune: null = any */
    /* validation */
    {"evals_per_epoch", "eval.per_epoch", NULL, NULL},
    {"eval_steps", "eval.steps", to_count, NULL},
    {"run_val_every_n_steps", "eval.steps", to_count, NULL},
    {"eval_strategy", "eval.steps", to_strategy, NULL},
    {"evaluation_strategy", "eval.steps", to_strategy, NULL},
    {"early_stopping_patience", "eval.patience", to_count, NULL},
    /* output */
    {"output_dir", "output.dir", NULL, NULL},
    {"checkpointer.output_dir", "output.dir", NULL, NULL},
    {"overwrite_output_dir", "output.overwrite", NULL, NULL},
    {"save_steps", "output.save_steps", to_count, NULL},
    {"saves_per_epoch", "output.save_per_epoch", NULL, NULL},
    {"save_strategy", "output.save_steps", to_strategy, NULL},
    {"resume_from_checkpoint", "output.resume", to_resume, NULL},
    {"resume", "output.resume", to_resume, NULL},
    {"output.resume", "output.resume", to_resume, NULL},
    {"logging_steps", "output.log_steps", NULL, NULL},
    {"log_every_n_steps", "output.log_steps", NULL, NULL},
    {"plot_loss", "output.plot", NULL, NULL},
    /* our own: a comparison that is a list alone */
    {"compare", "compare.entries", NULL, NULL},
};
const size_t peft__recipe_alias_count = PEFT_COUNT(peft__recipe_aliases);

static const char *const IGNORED[] = {
    /* GPUs and how they are driven */
    "flash_attention", "flash_attn", "xformers_attention", "sdp_attention", "s2_attention", "eager_attention",
    "attn_implementation", "deepspeed", "fsdp", "fsdp_config", "ddp_timeout", "ddp", "local_rank", "bf16", "fp16",
    "float16", "bfloat16", "tf32", "pure_bf16", "load_in_8bit", "load_in_4bit", "quantization_bit",
    "quantization_method", "gptq", "bnb_config_kwargs", "device", "dtype", "device_map", "compile", "torch_compile",
    "liger_kernel", "enable_liger_kernel", "use_unsloth", "unsloth", "plugins", "gpu_memory_limit", "lora_on_cpu",
    "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "low_cpu_mem_usage", "tensor_parallel_size",
    "context_parallel_size",
    /* what the engine decides */
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "disable_gradient_checkpointing",
    "enable_activation_checkpointing", "enable_activation_offloading", "activation_offloading", "pad_to_sequence_len",
    "group_by_length", "optimizer.fused", "loss", "per_device_eval_batch_size", "eval_batch_size",
    "eval_sample_packing", "eval_table_size", "eval_max_new_tokens",
    /* launching, caching, tracking */
    "do_train", "do_eval", "do_predict", "overwrite_cache", "preprocessing_num_workers", "dataloader_num_workers",
    "dataset_prepared_path", "dataset_processes", "report_to", "wandb_project", "wandb_entity", "wandb_watch",
    "wandb_name", "wandb_log_model", "wandb_run_id", "use_wandb", "mlflow_tracking_uri", "comet_project_name",
    "metric_logger", "profiler", "log_peak_memory_stats", "log_level", "debug", "strict", "hub_model_id",
    "hub_strategy", "push_dataset_to_hub", "hf_use_auth_token", "run_name", "include_tokens_per_second",
    "save_only_model", "save_adapter_weights_only", "save_safetensors", "save_total_limit", "save_first_step",
    "auto_resume_from_checkpoints",
    /* found in the model's own files */
    "model_type", "tokenizer_type", "tokenizer_config", "tokenizer_use_fast", "trust_remote_code",
    "is_llama_derived_model", "use_fast_tokenizer", "tokenizer._component_", "tokenizer.path", "tokenizer.merges_file",
    "checkpointer._component_", "checkpointer.model_type", "checkpointer.checkpoint_files",
    "checkpointer.recipe_checkpoint", "checkpointer.adapter_checkpoint", "checkpointer.safe_serialization",
    "my_recipe"};

bool peft__recipe_is_ignored(const char *name) {
    for (size_t i = 0; i < PEFT_COUNT(IGNORED); i++)
        if (strcmp(IGNORED[i], name) == 0) return true;
    return false;
}

const peft__recipe_alias *peft__recipe_find_alias(const char *name) {
    for (size_t i = 0; i < peft__recipe_alias_count; i++)
        if (strcmp(peft__recipe_aliases[i].name, name) == 0) return &peft__recipe_aliases[i];
    return NULL;
}

static bool begins_group(const char *name, size_t length, const char *other) {
    return strncmp(other, name, length) == 0 && other[length] == '.';
}

bool peft__recipe_is_group(const char *name) {
    const size_t length = strlen(name);
    if (strcmp(name, "adapter") == 0) return true;
    for (size_t i = 0; i < peft__recipe_key_count; i++)
        if (begins_group(name, length, peft__recipe_keys[i].name)) return true;
    for (size_t i = 0; i < peft__recipe_alias_count; i++)
        if (begins_group(name, length, peft__recipe_aliases[i].name)) return true;
    for (size_t i = 0; i < PEFT_COUNT(IGNORED); i++)
        if (begins_group(name, length, IGNORED[i])) return true;
    return false;
}

const char *peft__recipe_closest(const char *name) {
    const char *names[256];
    size_t count = 0;
    for (size_t i = 0; i < peft__recipe_key_count && count < PEFT_COUNT(names); i++)
        names[count++] = peft__recipe_keys[i].name;
    for (size_t i = 0; i < peft__recipe_alias_count && count < PEFT_COUNT(names); i++)
        names[count++] = peft__recipe_aliases[i].name;
    const char *best = peft__closest(name, names, count);
    if (best != NULL) return best;
    /* A known word in the wrong group, or without one. */
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; i < peft__recipe_key_count; i++) {
        const char *own = strchr(peft__recipe_keys[i].name, '.');
        names[i] = own != NULL ? own + 1 : peft__recipe_keys[i].name;
    }
    best = peft__closest(dot != NULL ? dot + 1 : name, names, peft__recipe_key_count);
    for (size_t i = 0; best != NULL && i < peft__recipe_key_count; i++)
        if (names[i] == best) return peft__recipe_keys[i].name;
    return NULL;
}
