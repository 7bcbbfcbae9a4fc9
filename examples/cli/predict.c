/* predict.c: `peft predict`: classes, tags, numbers, answers or words for rows without labels. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static const char HELP[] = "usage: peft predict RECIPE.yaml|ADAPTER [key=value ...] --input FILE [--output OUT.jsonl] "
                           "[--adapter DIR] [--quiet]\n"
                           "\n"
                           "Answers rows without labels with the adapter in output.dir, one line of JSON each: the "
                           "row's own fields, \"row\" (its "
                           "number, from 0) and \"prediction\": a class\n"
                           "with its probability and those of all classes, a list of classes, a number, a tag for each "
                           "word, an answer, or words "
                           "for each [MASK]. The folder of an adapter\n"
                           "that `peft train` made stands for its recipe.\n"
                           "\n"
                           "  --input FILE         .csv, .tsv, .jsonl, .json, each also .gz\n"
                           "  --output FILE        instead of standard output\n"
                           "  --adapter DIR        another adapter; without any the model answers alone\n"
                           "  --no-answer          questions may have no answer in their context: the empty text\n"
                           "  --on-bad-row skip    leaves malformed rows out and counts them\n";

static bool write_predictions(const run *r, peft_evaluation *evaluation, const char *output) {
    FILE *out = output != NULL ? fopen(output, "wb") : stdout;
    if (out == NULL) {
        fprintf(stderr, "peft: %s cannot be written\n", output);
        return false;
    }
    const int64_t count = peft_evaluation_size(evaluation);
    bool good = true;
    for (int64_t i = 0; good && i < count; i++) {
        const char *line = peft_evaluation_prediction(evaluation, i);
        good = line != NULL && fprintf(out, "%s\n", line) >= 0;
    }
    good = (output != NULL ? fclose(out) : fflush(out)) == 0 && good;
    if (!good) {
        fprintf(stderr, "peft: %s: not all predictions were written\n", output != NULL ? output : "standard output");
        return false;
    }
    if (output != NULL) cli_say(r->c, "%lld predictions in %s\n", (long long)count, output);
    return true;
}

static bool predict(run *r, const char *input, const char *output, bool no_answer) {
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    if (peft_recipe_dataset_options(r->recipe, PEFT_PART_VALIDATION, &options) < 0) return false;
    options.part = PEFT_PART_ALL;
    options.validation_fraction = 0.0;
    options.max_examples = 0;
    options.packing = 0;
    options.shuffle = 0;
    options.drop_last = 0;
    options.unlabelled = 1;
    if (peft_dataset_open(r->c->context, r->model, input, &options, &r->validation) < 0) return cli_fail(r->c, NULL);
    r->session_options.inference = 1;
    if (!run_open_session(r, r->adapter, &r->session)) return false;
    peft_evaluation *evaluation = NULL;
    interrupt_watch(r->session);
    peft_evaluate_options how;
    peft_evaluate_options_init(&how);
    how.no_answer = no_answer ? 1 : 0;
    const peft_status status = peft_evaluate(r->session, r->validation, &how, &evaluation);
    interrupt_ignore();
    if (status < 0) return interrupted() || cli_fail(r->c, NULL);
    const bool good = write_predictions(r, evaluation, output);
    peft_evaluation_destroy(evaluation);
    return good;
}

int command_predict(cli *c, args *a) {
    a->help = HELP;
    if (args_flag(a, "--help")) {
        fputs(HELP, stdout);
        return EXIT_DONE;
    }
    const char *folder = args_text(a, "--adapter"), *input = args_text(a, "--input"),
               *output = args_text(a, "--output");
    const bool no_answer = args_flag(a, "--no-answer");
    if (input == NULL && !a->failed) return args_usage(a, "--input is needed");
    run r;
    int code = run_open_for(&r, c, a, 0, folder != NULL ? folder : "");
    if (code == EXIT_DONE) {
        const char *from = folder != NULL ? folder : r.output;
        char *config = path_join(from, "adapter_config.json");
        bool good = true;
        if (folder != NULL || (config != NULL && file_exists(config)))
            good = peft_adapter_load(c->context, r.model, from, &r.adapter) >= 0 || cli_fail(c, NULL);
        free(config);
        good = good && predict(&r, input, output, no_answer);
        code = !good ? EXIT_FAILED : interrupted() ? EXIT_INTERRUPTED : EXIT_DONE;
    }
    run_close(&r);
    return code;
}
