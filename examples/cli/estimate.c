/* estimate.c: `peft estimate`: what a run will take, before it is begun: memory from the plan, time from a few measured
 * steps. Nothing is written. */
#include "cli.h"

#include <math.h>

static const char HELP[] = "usage: peft estimate RECIPE.yaml [key=value ...] [--json]\n"
                           "\n"
                           "Parameters, memory and, from three measured steps, the time of the run that the recipe "
                           "describes. Writes nothing.\n";

enum { MEASURED = 2 };

static bool one_step(run *r) {
    const int64_t parts = run_int(r, "train.gradient_accumulation_steps");
    for (int64_t i = 0; i < parts; i++) {
        peft_batch batch;
        peft_batch_init(&batch);
        peft_status status = peft_dataset_next(r->train, &batch);
        if (status == PEFT_END) status = peft_dataset_next(r->train, &batch);
        if (status >= 0) status = peft_session_forward(r->session, &batch, NULL);
        if (status >= 0) status = peft_session_backward(r->session, 1.0f);
        if (status < 0) return cli_fail(r->c, NULL);
    }
    return peft_optimizer_step(r->optimizer, r->session, NULL) >= 0 || cli_fail(r->c, NULL);
}

static bool measure(run *r, double *out_seconds) {
    *out_seconds = HUGE_VAL;
    for (int i = 0; i <= MEASURED && !interrupted(); i++) {
        const double start = now_seconds();
        if (!one_step(r)) return false;
        if (i > 0) *out_seconds = fmin(*out_seconds, now_seconds() - start);
    }
    return true;
}

static void answer(run *r, uint64_t total, double seconds) {
    char a[32], b[32];
    const double evaluation = r->validation != NULL ? seconds / 3.0 * (double)peft_dataset_batches(r->validation) : 0.0;
    const double steps = run_number(r, "eval.steps"), every = steps >= 1.0 ? steps : steps * (double)total;
    const double evaluations =
        r->validation != NULL ? 1.0 + (every > 0.0 ? (double)total / fmax(1.0, every) : 1.0) : 0.0;
    const double all = (double)total * seconds + evaluations * evaluation;
    cli_say(r->c, "%-11s%.3f s a step, %s for %llu steps", "time", seconds,
            format_time((double)total * seconds, a, sizeof a), (unsigned long long)total);
    if (evaluations > 0.0)
        cli_say(r->c, " and about %s for %.0f evaluations", format_time(evaluations * evaluation, b, sizeof b),
                evaluations);
    cli_say(r->c, "\n%-11s%s so far\n", "resident", format_bytes(peak_memory(), a, sizeof a));
    if (!r->c->json) return;
    peft_memory_info memory = {.struct_size = sizeof memory};
    if (peft_session_memory(r->c->context, r->model, &r->adapter, 1, &r->session_options, &memory) < 0) return;
    json_line j = {.text = NULL};
    json_begin(&j);
    json_text(&j, "event", "estimate");
    json_count(&j, "trained_parameters", peft_adapter_parameter_count(r->adapter));
    json_count(&j, "steps", (int64_t)total);
    json_number(&j, "seconds_per_step", seconds);
    json_number(&j, "seconds", all);
    json_count(&j, "activation_bytes", (int64_t)memory.activations);
    json_count(&j, "gradient_bytes", (int64_t)memory.gradients);
    json_count(&j, "optimizer_bytes", (int64_t)memory.optimizer);
    json_count(&j, "weight_bytes", (int64_t)memory.weights);
    json_count(&j, "resident_bytes", (int64_t)peak_memory());
    puts(json_end(&j));
    json_free(&j);
}

int command_estimate(cli *c, args *a) {
    a->help = HELP;
    if (args_flag(a, "--help")) {
        fputs(HELP, stdout);
        return EXIT_DONE;
    }
    run r;
    int code = run_open(&r, c, a, RUN_ADAPTER | RUN_DATA | RUN_VALIDATION | RUN_OPTIMIZER);
    if (code == EXIT_DONE) {
        const uint64_t total = peft_recipe_total_steps(r.recipe, peft_dataset_batches(r.train));
        double seconds;
        run_print_plan(&r, total);
        bool good = run_open_session(&r, r.adapter, &r.session);
        if (good) interrupt_watch(r.session);
        good = good && measure(&r, &seconds);
        if (good && !interrupted()) answer(&r, total, seconds);
        code = interrupted() ? EXIT_INTERRUPTED : good ? EXIT_DONE : EXIT_FAILED;
    }
    run_close(&r);
    return code;
}
