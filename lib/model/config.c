/* config.c: what config.json says before any architecture reads it: which architecture, which task, how many labels. */
#include "model/model_internal.h"

#include <stdio.h>

enum { MOST_LABELS = 1 << 20 };

static const struct {
    int32_t task;
    const char *name;
} tasks[] = {
    {PEFT_TASK_CAUSAL_LM, "CAUSAL_LM"},
    {PEFT_TASK_SEQ_2_SEQ_LM, "SEQ_2_SEQ_LM"},
    {PEFT_TASK_SEQ_CLS, "SEQ_CLS"},
    {PEFT_TASK_TOKEN_CLS, "TOKEN_CLS"},
    {PEFT_TASK_QUESTION_ANS, "QUESTION_ANS"},
    {PEFT_TASK_MASKED_LM, "MASKED_LM"},
    {PEFT_TASK_FEATURE_EXTRACTION, "FEATURE_EXTRACTION"},
    {PEFT_TASK_IMAGE_CLS, "IMAGE_CLS"},
    {PEFT_TASK_MULTIPLE_CHOICE, "MULTIPLE_CHOICE"},
};

/* Endings of class names in "architectures". */
static const struct {
    const char *suffix;
    int32_t task;
} classes[] = {
    {"ForCausalLM", PEFT_TASK_CAUSAL_LM},
    {"LMHeadModel", PEFT_TASK_CAUSAL_LM},
    {"ForSequenceClassification", PEFT_TASK_SEQ_CLS},
    {"ForTokenClassification", PEFT_TASK_TOKEN_CLS},
    {"ForQuestionAnswering", PEFT_TASK_QUESTION_ANS},
    {"ForMultipleChoice", PEFT_TASK_MULTIPLE_CHOICE},
    {"ForMaskedLM", PEFT_TASK_MASKED_LM},
    {"ElectraForPreTraining", PEFT_TASK_FEATURE_EXTRACTION}, /* a discriminator */
    {"ForPreTraining", PEFT_TASK_MASKED_LM},
    {"ForConditionalGeneration", PEFT_TASK_SEQ_2_SEQ_LM},
    {"ForImageClassification", PEFT_TASK_IMAGE_CLS},
    {"Model", PEFT_TASK_FEATURE_EXTRACTION},
};

const char *peft__task_name(int32_t task) {
    for (size_t i = 0; i < PEFT_COUNT(tasks); i++)
        if (tasks[i].task == task) return tasks[i].name;
    return "?";
}

static bool ends_with(const char *text, const char *suffix) {
    const size_t length = strlen(text), tail = strlen(suffix);
    return length >= tail && strcmp(text + length - tail, suffix) == 0;
}

static int32_t task_of_class(const char *class_name) {
    for (size_t i = 0; i < PEFT_COUNT(classes); i++)
        if (ends_with(class_name, classes[i].suffix)) return classes[i].task;
    return PEFT_TASK_AUTO;
}

/* The label count that "id2label" or "num_labels" gives; Hugging Face's default is 2. */
static peft_status read_labels(peft_context *ctx, const json_t *config, int64_t *out) {
    const peft__json *names = NULL;
    PEFT_TRY(peft__json_get_object(ctx, config, "config.json", "id2label", &names));
    int64_t count = names != NULL ? (int64_t)json_object_size(names) : 0;
    if (count == 0) PEFT_TRY(peft__json_get_int(ctx, config, "config.json", "num_labels", 1, MOST_LABELS, 2, &count));
    *out = count;
    return PEFT_OK;
}

/* The host's names of classes become the configuration's, as if the files had them. */
static peft_status put_names(peft_context *ctx, peft_model *model, const peft_model_options *options) {
    if (options->label_name_count == 0) return PEFT_OK;
    if (options->label_names == NULL || options->label_name_count > MOST_LABELS)
        return peft__fail(ctx, PEFT_E_ARG, "label_names has label_name_count (at most %d) names, found %u", MOST_LABELS,
                          options->label_name_count);
    if (options->num_labels != 0 && options->num_labels != options->label_name_count)
        return peft__fail(ctx, PEFT_E_ARG, "num_labels is %u, but label_names has %u names", options->num_labels,
                          options->label_name_count);
    json_t *names = json_object(), *numbers = json_object();
    bool made = json_object_set_new(model->config, "id2label", names) == 0;
    made = json_object_set_new(model->config, "label2id", numbers) == 0 && made;
    for (uint32_t i = 0; made && i < options->label_name_count; i++) {
        const char *name = options->label_names[i];
        char key[16];
        (void)snprintf(key, sizeof key, "%u", i);
        if (name == NULL || !peft__utf8_valid(name, strlen(name)))
            return peft__fail(ctx, PEFT_E_ARG, "label_names[%u] is missing or not valid UTF-8", i);
        if (json_object_get(numbers, name) != NULL)
            return peft__fail(ctx, PEFT_E_ARG, "label_names has \"%.60s\" twice", name);
        made = json_object_set_new(names, key, json_string(name)) == 0 &&
               json_object_set_new(numbers, name, json_integer((json_int_t)i)) == 0;
    }
    (void)json_object_del(model->config, "num_labels");
    model->asked_labels = options->label_name_count;
    return made ? PEFT_OK : peft__fail_nomem(ctx, 64, "names of classes");
}

static peft_status put_problem(peft_context *ctx, peft_model *model, int32_t problem) {
    static const char *const NAMES[] = {[PEFT_PROBLEM_SINGLE_LABEL] = "single_label_classification",
                                        [PEFT_PROBLEM_MULTI_LABEL] = "multi_label_classification",
                                        [PEFT_PROBLEM_REGRESSION] = "regression"};
    if (problem == PEFT_PROBLEM_AUTO) return PEFT_OK;
    if (problem < 0 || problem >= (int32_t)PEFT_COUNT(NAMES))
        return peft__fail(ctx, PEFT_E_ARG, "problem_type is one of PEFT_PROBLEM_*, found %d", problem);
    return json_object_set_new(model->config, "problem_type", json_string(NAMES[problem])) == 0
               ? PEFT_OK
               : peft__fail_nomem(ctx, 64, "the model's configuration");
}

static peft_status read_problem(peft_context *ctx, const json_t *config, int64_t labels, peft__problem *out) {
    const char *text = NULL;
    PEFT_TRY(peft__json_get_string(ctx, config, "config.json", "problem_type", NULL, &text));
    if (text == NULL)
        *out = labels == 1 ? PEFT__PROBLEM_REGRESSION : PEFT__PROBLEM_SINGLE_LABEL;
    else if (strcmp(text, "regression") == 0)
        *out = PEFT__PROBLEM_REGRESSION;
    else if (strcmp(text, "single_label_classification") == 0)
        *out = PEFT__PROBLEM_SINGLE_LABEL;
    else if (strcmp(text, "multi_label_classification") == 0)
        *out = PEFT__PROBLEM_MULTI_LABEL;
    else
        return peft__fail(ctx, PEFT_E_FORMAT,
                          "config.json: problem_type: expected regression, single_label_classification or "
                          "multi_label_classification, found \"%s\"",
                          text);
    return PEFT_OK;
}

peft_status peft__config_begin(peft_context *ctx, peft_model *model, const peft_model_options *options) {
    const json_t *config = model->config;
    const char *type = NULL;
    PEFT_TRY(peft__json_need_string(ctx, config, "config.json", "model_type", &type));
    model->arch = peft__arch_find(ctx, type, false);
    if (model->arch == NULL)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "config.json: model_type \"%s\" is not one that libpeft builds",
                          type);
    const peft__json *quantization = NULL;
    PEFT_TRY(peft__json_get_object(ctx, config, "config.json", "quantization_config", &quantization));
    if (quantization != NULL) {
        const char *method = NULL;
        PEFT_TRY(peft__json_get_string(ctx, quantization, "config.json: quantization_config", "quant_method", "unknown",
                                       &method));
        return peft__fail(
            ctx, PEFT_E_UNSUPPORTED,
            "config.json: quantization_config: weights quantised by \"%s\" are not read; use the original "
            "model or a GGUF file",
            method);
    }

    model->task = options->task;
    const peft__json *names = NULL;
    PEFT_TRY(peft__json_get_array(ctx, config, "config.json", "architectures", &names));
    const json_t *first = names != NULL ? json_array_get(names, 0) : NULL;
    if (model->task == PEFT_TASK_AUTO && json_is_string(first)) model->task = task_of_class(json_string_value(first));
    if (model->task == PEFT_TASK_AUTO) model->task = model->arch->default_task;

    model->asked_labels = options->num_labels;
    if (options->num_labels > MOST_LABELS)
        return peft__fail(ctx, PEFT_E_ARG, "num_labels is at most %d, found %u", MOST_LABELS, options->num_labels);
    PEFT_TRY(put_names(ctx, model, options));
    PEFT_TRY(put_problem(ctx, model, options->problem_type));
    PEFT_TRY(read_labels(ctx, config, &model->dims.num_labels));
    if (options->num_labels != 0) model->dims.num_labels = options->num_labels;
    return read_problem(ctx, config, model->dims.num_labels, &model->problem);
}
