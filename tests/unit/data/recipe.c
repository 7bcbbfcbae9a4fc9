/* Recipes: our keys, those of other tools, references, overrides, and what is said about mistakes. */
#include "check.h"
#include "peft/recipe.h"
#include "data_test.h"

static peft_status read_recipe(peft_context *ctx, const char *text, const char *const *overrides, uint32_t count,
                               peft_recipe **out_recipe) {
    return peft_recipe_open_memory(ctx, text, strlen(text), "r.yaml", overrides, count, 0, out_recipe);
}

static double number(const peft_recipe *recipe, const char *key) {
    double value = -1.0;
    CHECK(peft_recipe_get_number(recipe, key, &value) >= 0);
    return value;
}

static const char *text(const peft_recipe *recipe, const char *key) {
    const char *value = NULL;
    CHECK(peft_recipe_get_text(recipe, key, &value) >= 0);
    return value != NULL ? value : "(none)";
}

static int32_t flag(const peft_recipe *recipe, const char *key) {
    int32_t value = -1;
    CHECK(peft_recipe_get_bool(recipe, key, &value) >= 0);
    return value;
}

static bool config_has(const peft_recipe *recipe, const char *part) {
    const bool found = strstr(peft_recipe_adapter_config(recipe), part) != NULL;
    if (!found) fprintf(stderr, "    %s not in %s\n", part, peft_recipe_adapter_config(recipe));
    return found;
}

static void own_keys(peft_context *ctx) {
    static const char RECIPE[] = "model: m.gguf\nadapter:\n  r: 4\n  rank_pattern: {a.b: 2}\n  use_rslora: "
                                 "true\ndata:\n  train: ${output.dir}/d.jsonl\n"
                                 "  packing: true\n  chat_template: {user: {prefix: \"U\"}}\ntrain:\n  lr: 1e-4\n  "
                                 "warmup: 10\noutput:\n  dir: out\n";
    static const char *const OVERRIDES[] = {"lr=3e-4", "adapter.target_modules=[q_proj, v_proj]", "train.epochs=2.5",
                                            "output.dir=other"};
    peft_recipe *recipe = NULL;
    CHECK_OK(ctx, read_recipe(ctx, RECIPE, OVERRIDES, 4, &recipe));
    if (recipe == NULL) return;
    CHECK_STR(text(recipe, "model"), "m.gguf");
    CHECK_STR(text(recipe, "data.train"), "other/d.jsonl");
    CHECK_NEAR(number(recipe, "train.lr"), 3e-4, 1e-12);
    CHECK_NEAR(number(recipe, "train.weight_decay"), 0.0, 0.0);
    CHECK(strstr(text(recipe, "data.chat_template"), "\"prefix\": \"U\"") != NULL);
    CHECK(config_has(recipe, "\"peft_type\": \"LORA\"") && config_has(recipe, "\"r\": 4") &&
          config_has(recipe, "\"lora_alpha\": 8"));
    CHECK(config_has(recipe, "\"a.b\": 2") && config_has(recipe, "\"q_proj\"") &&
          config_has(recipe, "\"use_rslora\": true"));
    CHECK(strstr(peft_recipe_explain(recipe), "train.lr: 0.0003  # command line (lr)") != NULL);
    CHECK(strstr(peft_recipe_explain(recipe), "adapter.r: 4  # r.yaml:3") != NULL);
    CHECK(strstr(peft_recipe_explain(recipe), "train.seed: 42  # default") != NULL);
    CHECK(peft_recipe_is_given(recipe, "train.lr") == 1 && peft_recipe_is_given(recipe, "train.seed") == 0);
    CHECK(peft_recipe_total_steps(recipe, 10) == 25);
    peft_dataset_options data;
    peft_dataset_options_init(&data);
    CHECK_OK(ctx, peft_recipe_dataset_options(recipe, PEFT_PART_TRAIN, &data));
    CHECK(data.packing == 1 && data.batch_size == 1 && data.seed == 42 && data.part == PEFT_PART_ALL);
    CHECK(peft_recipe_data_path(recipe, PEFT_PART_VALIDATION) == NULL);
    peft_schedule schedule;
    peft_schedule_init(&schedule);
    CHECK_OK(ctx, peft_recipe_schedule(recipe, 100, &schedule));
    CHECK(schedule.warmup_steps == 10 && schedule.kind == PEFT_SCHEDULE_COSINE && schedule.total_steps == 100);
    peft_optimizer_options optimizer;
    peft_optimizer_options_init(&optimizer);
    CHECK_OK(ctx, peft_recipe_optimizer_options(recipe, &optimizer));
    CHECK_NEAR((double)optimizer.lr, 3e-4, 1e-9);
    CHECK(optimizer.beta1 == -1.0f);
    int64_t value;
    CHECK_STATUS(ctx, peft_recipe_get_int(recipe, "train.nothing", &value), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_recipe_get_int(recipe, "train.lr", &value), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_recipe_get_number(recipe, "train.beta1", &(double){0}), PEFT_E_STATE);
    peft_recipe_destroy(recipe);
}

static void axolotl(peft_context *ctx) {
    static const char RECIPE[] =
        "base_model: HuggingFaceTB/SmolLM2\nload_in_8bit: false\nadapter: qlora\ndatasets:\n  - path: data.jsonl\n    "
        "type: alpaca\n"
        "val_set_size: 0.1\noutput_dir: ./outputs/lora\nsequence_len: 2048\nsample_packing: true\nlora_r: "
        "32\nlora_alpha: 16\nlora_dropout: 0.05\n"
        "lora_target_modules:\n  - q_proj\n  - v_proj\nwandb_project:\ngradient_accumulation_steps: "
        "4\nmicro_batch_size: 2\nnum_epochs: 3\n"
        "optimizer: adamw_bnb_8bit\nlr_scheduler: cosine\nlearning_rate: 0.0002\nbf16: auto\ntf32: "
        "false\ngradient_checkpointing: true\n"
        "resume_from_checkpoint:\nlogging_steps: 1\nflash_attention: true\nloss_watchdog_threshold: "
        "5.0\nloss_watchdog_patience: 3\n"
        "warmup_steps: 10\nevals_per_epoch: 4\nsaves_per_epoch: 1\nweight_decay: 0.0\nspecial_tokens:\n  pad_token: "
        "\"<|end_of_text|>\"\n";
    peft_recipe *recipe = NULL;
    CHECK_OK(ctx, read_recipe(ctx, RECIPE, NULL, 0, &recipe));
    if (recipe == NULL) return;
    CHECK_STR(text(recipe, "model"), "HuggingFaceTB/SmolLM2");
    CHECK_STR(text(recipe, "data.train"), "data.jsonl");
    CHECK_STR(text(recipe, "data.format"), "alpaca");
    CHECK_STR(text(recipe, "train.optimizer"), "adamw");
    CHECK_NEAR(number(recipe, "eval.per_epoch"), 4.0, 0.0);
    CHECK_NEAR(number(recipe, "data.validation_fraction"), 0.1, 0.0);
    CHECK(config_has(recipe, "\"r\": 32") && config_has(recipe, "\"lora_alpha\": 16") &&
          config_has(recipe, "\"LORA\""));
    CHECK(strstr(peft_recipe_explain(recipe), "# ignored: load_in_8bit, ") != NULL);
    CHECK(strstr(peft_recipe_explain(recipe), "(datasets.path)") != NULL);
    peft_recipe_destroy(recipe);
}

static void llama_factory(peft_context *ctx) {
    static const char RECIPE[] = "### model\nmodel_name_or_path: models/smol\ntrust_remote_code: true\n\n### "
                                 "method\nstage: sft\ndo_train: true\nfinetuning_type: lora\n"
                                 "lora_rank: 8\nlora_target: all\n\n### dataset\ndataset: identity.json\ndataset_dir: "
                                 "data\ntemplate: llama3\ncutoff_len: 2048\nmax_samples: 1000\n"
                                 "overwrite_cache: true\npreprocessing_num_workers: 16\n\noutput_dir: "
                                 "saves/x\nlogging_steps: 10\nsave_steps: 500\nplot_loss: true\n"
                                 "overwrite_output_dir: true\nsave_only_model: false\nreport_to: "
                                 "none\n\nper_device_train_batch_size: 1\ngradient_accumulation_steps: 8\n"
                                 "learning_rate: 1.0e-4\nnum_train_epochs: 3.0\nlr_scheduler_type: "
                                 "cosine\nwarmup_ratio: 0.1\nbf16: true\nddp_timeout: 180000000\n"
                                 "resume_from_checkpoint: null\nval_size: 0.1\nper_device_eval_batch_size: "
                                 "1\neval_strategy: steps\neval_steps: 500\n";
    peft_recipe *recipe = NULL;
    CHECK_OK(ctx, read_recipe(ctx, RECIPE, NULL, 0, &recipe));
    if (recipe == NULL) return;
    CHECK_STR(text(recipe, "data.train"), "data/identity.json");
    CHECK_STR(text(recipe, "data.chat_template"), "llama3");
    CHECK(config_has(recipe, "\"target_modules\": \"all-linear\"") && config_has(recipe, "\"lora_alpha\": 16"));
    CHECK_NEAR(number(recipe, "train.warmup"), 0.1, 0.0);
    CHECK_NEAR(number(recipe, "eval.steps"), 500.0, 0.0);
    CHECK(flag(recipe, "output.overwrite") == 1);
    peft_schedule schedule;
    peft_schedule_init(&schedule);
    CHECK_OK(ctx, peft_recipe_schedule(recipe, 35, &schedule));
    CHECK(schedule.warmup_steps == 4); /* rounded up, as transformers does */
    peft_recipe_destroy(recipe);
}

static void torchtune(peft_context *ctx) {
    static const char RECIPE[] =
        "output_dir: /tmp/torchtune\nmodel:\n  _component_: torchtune.models.llama3_2.lora_llama3_2_1b\n  "
        "lora_attn_modules: ['q_proj', 'v_proj', 'output_proj']\n"
        "  apply_lora_to_mlp: True\n  lora_rank: 64\n  lora_alpha: 128\n  lora_dropout: 0.0\ntokenizer:\n  "
        "_component_: torchtune.models.llama3.llama3_tokenizer\n"
        "  path: /tmp/tokenizer.model\n  max_seq_len: null\ncheckpointer:\n  _component_: "
        "torchtune.training.FullModelHFCheckpointer\n"
        "  checkpoint_dir: /tmp/Llama-3.2-1B\n  checkpoint_files: [model.safetensors]\n  output_dir: ${output_dir}\n  "
        "model_type: LLAMA3_2\n"
        "resume_from_checkpoint: False\ndataset:\n  _component_: torchtune.datasets.alpaca_cleaned_dataset\n  packed: "
        "False\n  source: a.jsonl\nseed: null\nshuffle: True\n"
        "batch_size: 4\noptimizer:\n  _component_: torch.optim.AdamW\n  fused: True\n  weight_decay: 0.01\n  lr: "
        "3e-4\nlr_scheduler:\n"
        "  _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup\n  num_warmup_steps: "
        "100\nloss:\n  _component_: torchtune.modules.loss.X\n"
        "epochs: 1\nmax_steps_per_epoch: null\ngradient_accumulation_steps: 8\nclip_grad_norm: null\ncompile: "
        "False\nmetric_logger:\n  _component_: a.B\n"
        "  log_dir: ${output_dir}/logs\nlog_every_n_steps: 1\ndevice: cuda\ndtype: "
        "bf16\nenable_activation_checkpointing: False\n";
    peft_recipe *recipe = NULL;
    CHECK_OK(ctx, read_recipe(ctx, RECIPE, NULL, 0, &recipe)); /* output_dir is there twice, with one value */
    if (recipe == NULL) return;
    CHECK_STR(text(recipe, "model"), "/tmp/Llama-3.2-1B");
    CHECK_STR(text(recipe, "output.dir"), "/tmp/torchtune");
    CHECK_STR(text(recipe, "data.format"), "alpaca");
    CHECK_STR(text(recipe, "train.lr_scheduler"), "cosine");
    CHECK_NEAR(number(recipe, "train.lr"), 3e-4, 1e-12);
    CHECK_NEAR(number(recipe, "train.warmup"), 100.0, 0.0);
    CHECK(config_has(recipe, "\"o_proj\"") && config_has(recipe, "\"down_proj\"") && config_has(recipe, "\"r\": 64"));
    peft_recipe_destroy(recipe);
}

static void mistakes(peft_context *ctx) {
    static const struct {
        const char *text, *override, *said;
        peft_status status;
    } CASES[] = {
        {"model: a\nlora_rnk: 3\n", NULL, "r.yaml:2: unknown key \"lora_rnk\"; did you mean \"lora_r", PEFT_E_FORMAT},
        {"train:\n  learning_rat: 3\n", NULL,
         "r.yaml:2: unknown key \"train.learning_rat\"; did you mean \"train.learning_rate\"?", PEFT_E_FORMAT},
        {"train:\n  lr: fast\n", NULL, "r.yaml:2: train.lr: expected a number, found a string", PEFT_E_FORMAT},
        {"train:\n  lr: -1\n", NULL, "expected 0 to", PEFT_E_ARG},
        {"train:\n  batch_size: 1.5\n", NULL, "whole number", PEFT_E_FORMAT},
        {"train:\n  lr: 1\nlearning_rate: 2\n", NULL,
         "r.yaml:3: learning_rate: train.lr was given before, as train.lr (r.yaml:2)", PEFT_E_FORMAT},
        {"data:\n  eos: sometimes\n", NULL, "auto|never|always", PEFT_E_FORMAT},
        {"data:\n  packing: 1\n", NULL, "expected true or false", PEFT_E_FORMAT},
        {"stage: dpo\n", NULL, "\"dpo\" is not built", PEFT_E_UNSUPPORTED},
        {"pissa_init: yes please\n", NULL, "expected true or false", PEFT_E_FORMAT},
        {"pissa_init: true\npissa_iter: -2\n", NULL, "rounds", PEFT_E_FORMAT},
        {"val_set_size: 100\n", NULL, "a share below 1", PEFT_E_UNSUPPORTED},
        {"warmup_ratio: 10\n", NULL, "below 1", PEFT_E_FORMAT},
        {"datasets: [{path: a}, {path: b}]\n", NULL, "exactly one", PEFT_E_UNSUPPORTED},
        {"special_tokens: {bos_token: x}\n", NULL, "bos_token", PEFT_E_UNSUPPORTED},
        {"model: ${nothing}\n", NULL, "${nothing} is not a key", PEFT_E_FORMAT},
        {"model: ${model}\n", NULL, "refers to itself", PEFT_E_FORMAT},
        {"model: ${output.dir}\noutput: {dir: \"${model}\"}\n", NULL, "refers to itself", PEFT_E_FORMAT},
        {"model: \"${unclosed\"\n", NULL, "without", PEFT_E_FORMAT},
        {"- a\n- b\n", NULL, "mapping", PEFT_E_FORMAT},
        {"model: &a x\n", NULL, "r.yaml", PEFT_E_UNSUPPORTED},
        {"model: x\n", "no-equals-sign", "key=value", PEFT_E_ARG},
        {"model: x\n", "lrr=3", "command line: unknown key \"lrr\"", PEFT_E_FORMAT},
        {"adapter: {method: [1]}\n", NULL, "adapter.method", PEFT_E_FORMAT},
        {"max_steps_per_epoch: 5\nepochs: 3\n", NULL, "one epoch", PEFT_E_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        peft_recipe *recipe = NULL;
        const peft_status status =
            read_recipe(ctx, CASES[i].text, &CASES[i].override, CASES[i].override != NULL ? 1 : 0, &recipe);
        if (!CHECK(status == CASES[i].status) || !CHECK(strstr(peft_context_error(ctx), CASES[i].said) != NULL))
            fprintf(stderr, "    %s: %s\n", CASES[i].text, peft_context_error(ctx));
        peft_recipe_destroy(recipe);
    }
    peft_recipe *recipe = NULL;
    CHECK_OK(ctx, peft_recipe_open_memory(ctx, "what: 1\n", 8, NULL, NULL, 0, PEFT_RECIPE_LENIENT, &recipe));
    peft_recipe_destroy(recipe);
}

static void methods_and_hash(peft_context *ctx) {
    peft_recipe *a = NULL, *b = NULL, *c = NULL, *d = NULL;
    CHECK_OK(ctx, read_recipe(ctx, "adapter: {method: full}\n", NULL, 0, &a));
    CHECK(config_has(a, "\"peft_type\": \"FULL\""));
    CHECK_NEAR(number(a, "train.lr"), 2e-5, 1e-12);
    CHECK_OK(ctx, read_recipe(ctx, "adapter: {method: prompt-tuning, num_virtual_tokens: 20}\n", NULL, 0, &b));
    CHECK(config_has(b, "\"peft_type\": \"PROMPT_TUNING\"") && config_has(b, "\"num_virtual_tokens\": 20") &&
          strstr(peft_recipe_adapter_config(b), "lora") == NULL);
    CHECK_OK(ctx, read_recipe(ctx, "adapter: {method: full}\noutput: {dir: x}\ntrain: {max_grad_norm: 1, threads: 3}\n",
                              NULL, 0, &c));
    CHECK_OK(ctx, read_recipe(ctx, "adapter: {method: full}\ntrain: {seed: 43}\n", NULL, 0, &d));
    CHECK(peft_recipe_hash(a) == peft_recipe_hash(c) && peft_recipe_hash(a) != peft_recipe_hash(d) &&
          peft_recipe_hash(a) != peft_recipe_hash(b));
    peft_recipe_destroy(a);
    peft_recipe_destroy(b);
    peft_recipe_destroy(c);
    peft_recipe_destroy(d);
}

int main(void) {
    peft_context *ctx = test_context();
    own_keys(ctx);
    axolotl(ctx);
    llama_factory(ctx);
    torchtune(ctx);
    mistakes(ctx);
    methods_and_hash(ctx);
    peft_context_destroy(ctx);
    return check_summary();
}
