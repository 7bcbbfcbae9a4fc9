/* task.c: what labelled tasks need beyond a recipe: a model with as many outputs as there are classes, the classes'
 * names with the adapter, and measures instead of a bare loss. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_NAMES = 65536 };

/* ---- classes -------------------------------------------------------------------------------------------------- */

static void free_names(char **names, uint32_t count) {
    for (uint32_t i = 0; names != NULL && i < count; i++) free(names[i]);
    free(names);
}

/* Names of classes that were saved with an adapter; 0 where there are none. */
static uint32_t saved_names(const char *notes, char ***out_names) {
    char **names = calloc(MOST_NAMES, sizeof *names);
    uint32_t count = 0;
    char key[32];
    const char *labels = notes != NULL ? strstr(notes, "\"id2label\": {") : NULL;
    while (names != NULL && labels != NULL && count < MOST_NAMES) {
        snprintf(key, sizeof key, "%u", count);
        if ((names[count] = json_find_text(labels, key)) == NULL) break;
        count++;
    }
    if (count == 0) free(names);
    *out_names = count > 0 ? names : NULL;
    return count;
}

/* Does the model lack the output layer of its task, so that its size is free? */
static bool has_new_head(const peft_model *model) {
    for (uint32_t i = 0; i < peft_model_module_count(model); i++) {
        peft_module_info info = {.struct_size = sizeof info};
        if (peft_model_module(model, i, &info) >= 0 && info.is_new) return true;
    }
    return false;
}

/* What form the rows have when the recipe leaves it to the task; AUTO: one without classes. */
static int32_t form_of(const run *r, int32_t task, int32_t problem) {
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    if (peft_recipe_dataset_options(r->recipe, PEFT_PART_TRAIN, &options) < 0) return PEFT_DATA_AUTO;
    if (options.format != PEFT_DATA_AUTO) return options.format;
    if (task == PEFT_TASK_TOKEN_CLS) return PEFT_DATA_TOKEN_CLS;
    if (task == PEFT_TASK_IMAGE_CLS) return PEFT_DATA_IMAGES;
    if (task != PEFT_TASK_SEQ_CLS || problem == PEFT_PROBLEM_REGRESSION) return PEFT_DATA_AUTO;
    return problem == PEFT_PROBLEM_MULTI_LABEL ? PEFT_DATA_MULTI_LABEL : PEFT_DATA_CLASSIFICATION;
}

static bool load(run *r, const peft_model_options *options) {
    return peft_model_load(r->c->context, run_text(r, "model"), options, &r->model) >= 0 || cli_fail(r->c, NULL);
}

/* The model once more, with an output for each class of the training data. */
static bool load_for_data(run *r, peft_model_options *options, int32_t form) {
    peft_dataset_options rows;
    peft_dataset_options_init(&rows);
    if (peft_recipe_dataset_options(r->recipe, PEFT_PART_TRAIN, &rows) < 0) return false;
    rows.format = form;
    peft_dataset *labels = NULL;
    if (peft_dataset_open_labels(r->c->context, peft_recipe_data_path(r->recipe, PEFT_PART_TRAIN), &rows, &labels) < 0)
        return cli_fail(r->c, NULL);
    const uint32_t count = peft_dataset_label_count(labels);
    const char **names = calloc(count, sizeof *names);
    for (uint32_t i = 0; names != NULL && i < count; i++) names[i] = peft_dataset_label_name(labels, i);
    if (peft_dataset_labels_named(labels)) {
        options->label_names = names;
        options->label_name_count = count;
    } else {
        options->num_labels = count;
    }
    peft_model_destroy(r->model);
    r->model = NULL;
    const bool good = names != NULL && load(r, options);
    free(names);
    peft_dataset_destroy(labels);
    return good;
}

bool run_open_model(run *r) {
    peft_model_options options;
    peft_model_options_init(&options);
    if (peft_recipe_model_options(r->recipe, &options) < 0) {
        fprintf(stderr, "peft: %s\n", peft_context_error(r->reader));
        return false;
    }
    char *path = r->labels_from != NULL ? path_join(r->labels_from, "libpeft.json") : NULL;
    char *notes = path != NULL ? read_file(path, NULL) : NULL, **names = NULL;
    double saved_count = 0.0;
    uint32_t count = 0;
    if (options.label_name_count == 0 && options.num_labels == 0) {
        count = saved_names(notes, &names);
        if (count > 0) {
            options.label_names = (const char *const *)names;
            options.label_name_count = count;
        } else if (json_find_number(notes, "num_labels", &saved_count) && saved_count >= 1.0) {
            options.num_labels = (uint32_t)saved_count;
        }
    }
    free(notes);
    free(path);
    bool good = load(r, &options);
    const bool open = options.label_name_count == 0 && options.num_labels == 0;
    peft_model_info info = {.struct_size = sizeof info};
    if (good && open && peft_model_get_info(r->model, &info) >= 0) {
        const int32_t form = form_of(r, info.task, options.problem_type);
        const bool cloze = info.task == PEFT_TASK_MASKED_LM && form == PEFT_DATA_CLASSIFICATION;
        const bool sorts =
            info.task == PEFT_TASK_SEQ_CLS || info.task == PEFT_TASK_TOKEN_CLS || info.task == PEFT_TASK_IMAGE_CLS;
        const bool head = sorts && has_new_head(r->model);
        const bool classes = form == PEFT_DATA_CLASSIFICATION || form == PEFT_DATA_MULTI_LABEL ||
                             form == PEFT_DATA_TOKEN_CLS || form == PEFT_DATA_IMAGES;
        if (classes && (head || cloze) && peft_recipe_data_path(r->recipe, PEFT_PART_TRAIN) != NULL)
            good = load_for_data(r, &options, form);
    }
    free_names(names, count);
    return good;
}

bool run_class_weights(run *r) {
    const uint32_t count = peft_dataset_label_count(r->train);
    if (!peft_recipe_is_given(r->recipe, "train.class_weights")) return true;
    if (count == 0) {
        fprintf(stderr, "peft: train.class_weights: the training data has no classes\n");
        return false;
    }
    r->class_weights = calloc(count, sizeof *r->class_weights);
    if (r->class_weights == NULL || peft_recipe_class_weights(r->recipe, r->train, r->class_weights, count, NULL) < 0) {
        fprintf(stderr, "peft: %s\n", r->class_weights == NULL ? "out of memory" : peft_context_error(r->reader));
        return false;
    }
    r->session_options.class_weights = r->class_weights;
    return true;
}

void run_put_classes(const run *r, json_line *j) {
    peft_model_info info = {.struct_size = sizeof info};
    const uint32_t count = peft_dataset_label_count(r->train);
    if (count == 0 || peft_model_get_info(r->model, &info) < 0) return;
    json_count(j, "num_labels", count);
    if (!peft_dataset_labels_named(r->train)) return;
    char key[32];
    json_open(j, "id2label");
    for (uint32_t i = 0; i < count; i++) {
        snprintf(key, sizeof key, "%u", i);
        json_text(j, key, peft_dataset_label_name(r->train, i));
    }
    json_close(j);
    json_open(j, "label2id");
    for (uint32_t i = 0; i < count; i++) json_count(j, peft_dataset_label_name(r->train, i), i);
    json_close(j);
}

/* ---- measures ---------------------------------------------------------------------------------------------------- */

bool run_measure(run *r, peft_session *session, peft_dataset *data, peft_evaluation **out_evaluation) {
    peft_evaluate_options options;
    peft_evaluate_options_init(&options);
    options.max_batches = run_int(r, "eval.max_batches");
    const peft_status status = peft_evaluate(session, data, &options, out_evaluation);
    return status >= 0 || (status == PEFT_E_CANCELLED && interrupted()) || cli_fail(r->c, NULL);
}

double run_metric(const peft_evaluation *evaluation, const char *name) {
    peft_interval found = {.struct_size = sizeof found};
    return peft_evaluation_metric(evaluation, name, 0, 0, &found) >= 0 ? found.value : NAN;
}

bool run_check_metric(const run *r, const peft_evaluation *evaluation) {
    peft_interval found = {.struct_size = sizeof found};
    return peft_evaluation_metric(evaluation, run_text(r, "eval.metric"), 0, 0, &found) >= 0 ||
           cli_fail(r->c, "eval.metric");
}
