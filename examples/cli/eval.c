/* eval.c: `peft eval`: how good the base and an adapter are on held-out data. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 1000 };

static const char HELP[] =
    "usage: peft eval RECIPE.yaml|ADAPTER [key=value ...] [--adapter DIR] [--base] [--quiet] [--json]\n"
    "\n"
    "How good the model alone and the adapter in output.dir are on the recipe's validation data (on its training data "
    "when "
    "there is none): loss and perplexity;\n"
    "for labelled data every measure of the task with an interval (bootstrap, 95 %), each class and the confusion "
    "matrix. "
    "The folder of an adapter that\n"
    "`peft train` made stands for its recipe.\n"
    "\n"
    "  --adapter DIR        another adapter\n"
    "  --base               the model alone\n"
    "  --on-bad-row skip    leaves malformed rows out and counts them\n"
    "\n"
    "Another file to judge by: data.validation=FILE\n";

static void print_json(const char *adapter, const peft_evaluation *evaluation) {
    json_line j = {.text = NULL};
    const char *name;
    json_begin(&j);
    json_text(&j, "event", "evaluation");
    json_text(&j, "adapter", adapter);
    json_count(&j, "examples", peft_evaluation_size(evaluation));
    json_number(&j, "tokens", peft_evaluation_targets(evaluation));
    for (uint32_t i = 0; (name = peft_evaluation_metric_name(evaluation, i)) != NULL; i++) {
        peft_interval found = {.struct_size = sizeof found};
        if (peft_evaluation_metric(evaluation, name, SAMPLES, 1, &found) < 0) continue;
        json_number(&j, name, found.value);
        if (!isfinite(found.low)) continue;
        char key[64];
        snprintf(key, sizeof key, "%s_low", name);
        json_number(&j, key, found.low);
        snprintf(key, sizeof key, "%s_high", name);
        json_number(&j, key, found.high);
    }
    uint32_t classes = 0;
    if (peft_evaluation_confusion(evaluation, NULL, 0, &classes) >= 0 && classes > 0) {
        const size_t cells = (size_t)classes * classes;
        int64_t *confusion = malloc(cells * sizeof *confusion);
        json_open(&j, "confusion");
        for (uint32_t c = 0; confusion != NULL && c < classes; c++) {
            if (c == 0 && peft_evaluation_confusion(evaluation, confusion, (int64_t)cells, NULL) < 0) break;
            json_open(&j, peft_evaluation_label_name(evaluation, c));
            for (uint32_t k = 0; k < classes; k++)
                if (confusion[(size_t)c * classes + k] > 0)
                    json_count(&j, peft_evaluation_label_name(evaluation, k), confusion[(size_t)c * classes + k]);
            json_close(&j);
        }
        json_close(&j);
        free(confusion);
    }
    puts(json_end(&j));
    json_free(&j);
}

static bool measure(run *r, peft_adapter *adapter, const char *name, peft_dataset *data) {
    peft_session *session = NULL;
    peft_evaluation *evaluation = NULL;
    bool good = run_open_session(r, adapter, &session);
    if (good) {
        interrupt_watch(session);
        good = run_measure(r, session, data, &evaluation);
        interrupt_ignore();
    }
    peft_session_destroy(session);
    if (evaluation == NULL) return good;
    const char *first = peft_evaluation_metric_name(evaluation, 0);
    if (r->c->json) {
        print_json(adapter != NULL ? name : NULL, evaluation);
    } else if (first != NULL && strcmp(first, "loss") == 0) {
        cli_say(r->c, "%-20s loss %.4f  perplexity %.3f  over %.0f tokens\n", name, run_metric(evaluation, "loss"),
                run_metric(evaluation, "perplexity"), peft_evaluation_targets(evaluation));
    } else {
        const char *report = peft_evaluation_report(evaluation, SAMPLES, 1);
        if (report != NULL) cli_say(r->c, "%s\n%s\n", name, report);
        good = report != NULL || cli_fail(r->c, NULL);
    }
    peft_evaluation_destroy(evaluation);
    return good;
}

/* A model whose output layer is new says nothing without an adapter, nor does one whose classes are the adapter's. */
static bool knows_task(const run *r, const peft_dataset *data) {
    peft_model_info model = {.struct_size = sizeof model};
    if (peft_model_get_info(r->model, &model) >= 0 && model.task == PEFT_TASK_MASKED_LM &&
        peft_dataset_label_count(data) > 0)
        return false;
    for (uint32_t i = 0; i < peft_model_module_count(r->model); i++) {
        peft_module_info info = {.struct_size = sizeof info};
        if (peft_model_module(r->model, i, &info) >= 0 && info.is_new) return false;
    }
    return true;
}

int command_eval(cli *c, args *a) {
    a->help = HELP;
    if (args_flag(a, "--help")) {
        fputs(HELP, stdout);
        return EXIT_DONE;
    }
    const char *folder = args_text(a, "--adapter");
    const bool base_only = args_flag(a, "--base");
    run r;
    int code = run_open_for(&r, c, a, RUN_DATA | RUN_VALIDATION, base_only ? NULL : folder != NULL ? folder : "");
    if (code == EXIT_DONE) {
        peft_dataset *data = r.validation != NULL ? r.validation : r.train;
        r.session_options.inference = 1;
        const char *from = folder != NULL ? folder : r.output;
        char *config = path_join(from, "adapter_config.json");
        const bool adapted = !base_only && (folder != NULL || (config != NULL && file_exists(config)));
        bool good = (adapted && !knows_task(&r, data)) || measure(&r, NULL, "the model alone", data);
        if (good && adapted) {
            good = peft_adapter_load(c->context, r.model, from, &r.adapter) >= 0 || cli_fail(c, NULL);
            good = good && measure(&r, r.adapter, from, data);
        }
        free(config);
        code = !good ? EXIT_FAILED : interrupted() ? EXIT_INTERRUPTED : EXIT_DONE;
    }
    run_close(&r);
    return code;
}
