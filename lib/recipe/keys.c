/* keys.c: the keys of our own recipes, in the groups in which they are written and explained.
 *
 * Names are those of Hugging Face where it has one. What belongs to a method is not listed: everything under `adapter:`
 * is passed to the method, which knows its own keys.
 */
#include "recipe/recipe_internal.h"

#define TEXT(name, fallback, outside)                                                                                  \
    { name, PEFT__RECIPE_TEXT, fallback, 0.0, 0.0, NULL, outside }
#define INT(name, fallback, min, outside)                                                                              \
    { name, PEFT__RECIPE_INT, fallback, min, 9007199254740992.0, NULL, outside }
#define NUMBER(name, fallback, min, max, outside)                                                                      \
    { name, PEFT__RECIPE_NUMBER, fallback, min, max, NULL, outside }
#define BOOL(name, fallback, outside)                                                                                  \
    { name, PEFT__RECIPE_BOOL, fallback, 0.0, 0.0, NULL, outside }
#define CHOICE(name, fallback, choices, outside)                                                                       \
    { name, PEFT__RECIPE_CHOICE, fallback, 0.0, 0.0, choices, outside }
#define NAMES(name) { name, PEFT__RECIPE_NAMES, NULL, 0.0, 0.0, NULL, false }
#define WEIGHTS(name) { name, PEFT__RECIPE_WEIGHTS, NULL, 0.0, 0.0, NULL, false }
#define LIST(name, outside)                                                                                            \
    { name, PEFT__RECIPE_LIST, NULL, 0.0, 0.0, NULL, outside }
#define ANY 1e300

const peft__recipe_key peft__recipe_keys[] = {
    TEXT("model", NULL, true),
    /* in the order of PEFT_TASK_* and PEFT_PROBLEM_* */
    CHOICE("model.task", "auto",
           "auto|causal_lm|seq_2_seq_lm|seq_cls|token_cls|question_ans|masked_lm|feature_extraction|image_cls|"
           "multiple_choice",
           false),
    INT("model.num_labels", "0", 0.0, false),
    CHOICE("model.problem_type", "auto",
           "auto|single_label_classification|multi_label_classification|regression", false),
    TEXT("data.train", NULL, true),
    TEXT("data.validation", NULL, true),
    NUMBER("data.validation_fraction", "0", 0.0, 0.9, false),
    CHOICE("data.format", "auto",
           "auto|text|text_rows|prompt_completion|alpaca|sharegpt|messages|classification|regression|multi_label|token_cls|"
           "masked_lm|images|choices|question_ans|pairs",
           false),
    TEXT("data.chat_template", NULL, false),
    INT("data.max_length", "0", 0.0, false),
    INT("data.stride", "0", 0.0, false),
    BOOL("data.packing", "false", false),
    BOOL("data.train_on_prompt", "false", false),
    CHOICE("data.eos", "auto", "auto|never|always", false),
    BOOL("data.shuffle", "true", false),
    CHOICE("data.on_bad_row", "error", "error|skip", false),
    INT("data.max_examples", "0", 0.0, false),
    BOOL("data.drop_last", "false", false),
    TEXT("data.text_key", NULL, false),
    TEXT("data.prompt_key", NULL, false),
    TEXT("data.completion_key", NULL, false),
    TEXT("data.label_key", NULL, false),
    TEXT("data.text_pair_key", NULL, false),
    NAMES("data.label_names"),
    NUMBER("data.image_flip", "0", 0.0, 1.0, false),
    BOOL("data.image_crop", "false", false),
    TEXT("data.input_template", NULL, false),
    TEXT("data.choices_key", NULL, false),
    NAMES("data.verbalizers"),
    NUMBER("train.epochs", "1", 0.0, 1e9, false),
    INT("train.max_steps", "0", 0.0, false),
    INT("train.batch_size", "1", 1.0, false),
    INT("train.gradient_accumulation_steps", "1", 1.0, false),
    CHOICE("train.loss", "task", "task|tfew", false),
    CHOICE("train.optimizer", "adamw", "adamw|sgd|adafactor|lion", false),
    NUMBER("train.lr", "0.0002", 0.0, 1e6, false),
    CHOICE("train.lr_scheduler", "cosine", "constant|linear|cosine|polynomial|inverse_sqrt|cosine_with_restarts",
           false),
    NUMBER("train.warmup", "0.03", 0.0, 1e15, false),
    NUMBER("train.weight_decay", "0", 0.0, 1e6, false),
    NUMBER("train.max_grad_norm", "1", 0.0, 1e30, false),
    NUMBER("train.beta1", NULL, 0.0, 1.0, false),
    NUMBER("train.beta2", NULL, 0.0, 1.0, false),
    NUMBER("train.eps", NULL, 0.0, 1.0, false),
    BOOL("train.adafactor_scale_parameter", "false", false),
    NUMBER("train.adafactor_clip_threshold", "1", 0.0, 1e30, false),
    NUMBER("train.adafactor_decay_rate", "-0.8", -10.0, 0.0, false),
    NUMBER("train.loraplus_lr_ratio", "1", 0.0, 1e6, false),
    NUMBER("train.layer_lr_decay", "1", 1e-6, 1.0, false),
    NUMBER("train.unfreeze_steps", "0", 0.0, 1e15, false),
    INT("train.unfreeze_first", "0", 0.0, false),
    INT("train.unfreeze_layers", "1", 1.0, false),
    NUMBER("train.label_smoothing", "0", 0.0, 0.99, false),
    WEIGHTS("train.class_weights"),
    NUMBER("train.similarity_scale", "20", 1e-6, 1e6, false),
    INT("train.seed", "42", 0.0, false),
    NUMBER("train.loss_watchdog_threshold", "0", 0.0, ANY, true),
    INT("train.loss_watchdog_patience", "3", 1.0, true),
    INT("train.threads", "0", 0.0, true),
    INT("train.memory_limit_mb", "0", 0.0, true),
    NUMBER("eval.steps", "0.1", 0.0, 1e15, true),
    NUMBER("eval.per_epoch", "0", 0.0, 1e6, true),
    INT("eval.max_batches", "0", 0.0, true),
    CHOICE("eval.metric", "loss",
           "loss|accuracy|macro_f1|micro_f1|weighted_f1|matthews|pearson|spearman|mse|mae|r2|entity_f1|exact_match|"
           "answer_f1",
           true),
    TEXT("eval.forgetting", NULL, true),
    BOOL("eval.early_stopping", "true", true),
    INT("eval.patience", "3", 1.0, true),
    TEXT("output.dir", "peft-out", true),
    BOOL("output.overwrite", "false", true),
    NUMBER("output.save_steps", "0.25", 0.0, 1e15, true),
    NUMBER("output.save_per_epoch", "0", 0.0, 1e6, true),
    TEXT("output.resume", NULL, true),
    BOOL("output.log", "true", true),
    INT("output.log_steps", "1", 1.0, true),
    BOOL("output.plot", "true", true),
    TEXT("sample.prompt", NULL, true),
    BOOL("sample.chat", "false", true),
    INT("sample.max_new_tokens", "60", 1.0, true),
    NUMBER("sample.temperature", "0", 0.0, 1e6, true),
    INT("sample.top_k", "0", 0.0, true),
    NUMBER("sample.top_p", "1", 0.0, 1.0, true),
    NUMBER("sample.repetition_penalty", "1", 0.01, 100.0, true),
    INT("sample.seed", "0", 0.0, true),
    LIST("compare.entries", true),
    INT("compare.seeds", "1", 1.0, true),
    INT("compare.samples", "1000", 10.0, true),
    NUMBER("compare.level", "0.95", 0.5, 0.9999, true),
};
const size_t peft__recipe_key_count = PEFT_COUNT(peft__recipe_keys);

const peft__recipe_key *peft__recipe_find_key(const char *name) {
    const peft__recipe_key *found = NULL;
    for (size_t i = 0; i < peft__recipe_key_count; i++) {
        const char *own = peft__recipe_keys[i].name, *dot = strchr(own, '.');
        if (strcmp(own, name) == 0) return &peft__recipe_keys[i];
        if (dot != NULL && strcmp(dot + 1, name) == 0) {
            if (found != NULL) return NULL; /* "steps" and the like would be a guess */
            found = &peft__recipe_keys[i];
        }
    }
    return found;
}

int32_t peft__recipe_choice(const peft__recipe_key *key, const char *text) {
    const size_t length = strlen(text);
    int32_t number = 0;
    for (const char *at = key->choices; at != NULL; number++) {
        const char *end = strchr(at, '|');
        const size_t size = end != NULL ? (size_t)(end - at) : strlen(at);
        if (size == length && memcmp(at, text, length) == 0) return number;
        at = end != NULL ? end + 1 : NULL;
    }
    return -1;
}
