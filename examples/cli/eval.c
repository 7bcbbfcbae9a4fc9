/* eval.c: `peft eval`: loss on held-out data, of the base and of an adapter. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>

static const char HELP[] = "usage: peft eval RECIPE.yaml [key=value ...] [--adapter DIR] [--base] [--quiet] [--json]\n"
                           "\n"
                           "Mean loss and perplexity over the recipe's validation data (over its training data when "
                           "there is none), of the model alone and with the\n"
                           "adapter in output.dir.\n"
                           "\n"
                           "  --adapter DIR   another adapter\n"
                           "  --base          the model alone\n";

static bool measure(run *r, peft_adapter *adapter, const char *name, peft_dataset *data) {
    peft_session *session = NULL;
    double loss = NAN, count = 0.0;
    bool good = run_open_session(r, adapter, &session);
    if (good) {
        interrupt_watch(session);
        good = run_evaluate(r, session, data, run_int(r, "eval.max_batches"), &loss, &count);
        interrupt_ignore();
    }
    peft_session_destroy(session);
    if (!good || interrupted()) return good;
    cli_say(r->c, "%-20s loss %.4f  perplexity %.3f  over %.0f tokens\n", name, loss, exp(loss), count);
    if (r->c->json) {
        json_line j = {.text = NULL};
        json_begin(&j);
        json_text(&j, "event", "evaluation");
        json_text(&j, "adapter", adapter != NULL ? name : NULL);
        json_number(&j, "loss", loss);
        json_number(&j, "perplexity", exp(loss));
        json_number(&j, "tokens", count);
        puts(json_end(&j));
        json_free(&j);
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
    int code = run_open(&r, c, a, RUN_DATA | RUN_VALIDATION);
    if (code == EXIT_DONE) {
        peft_dataset *data = r.validation != NULL ? r.validation : r.train;
        r.session_options.inference = 1;
        const char *from = folder != NULL ? folder : r.output;
        char *config = path_join(from, "adapter_config.json");
        bool good = measure(&r, NULL, "the model alone", data);
        if (good && !base_only && (folder != NULL || (config != NULL && file_exists(config)))) {
            good = peft_adapter_load(c->context, r.model, from, &r.adapter) >= 0 || cli_fail(c, NULL);
            good = good && measure(&r, r.adapter, from, data);
        }
        free(config);
        code = !good ? EXIT_FAILED : interrupted() ? EXIT_INTERRUPTED : EXIT_DONE;
    }
    run_close(&r);
    return code;
}
