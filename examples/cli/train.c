/* train.c: `peft train`. The loop is the host's: this file is what any program around the library would write. */
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char HELP[] = "usage: peft train RECIPE.yaml [key=value ...] [--quiet] [--json] [--lenient]\n"
                           "\n"
                           "Trains an adapter as the recipe says and writes it to output.dir, with a log (log.jsonl), "
                           "a loss curve (loss.svg) and checkpoints.\n"
                           "\n"
                           "  key=value   overrides a key of the recipe: train.lr=1e-4, r=16, output.dir=other\n"
                           "  --quiet     nothing but errors\n"
                           "  --json      events as JSON lines on standard output\n"
                           "  --lenient   unknown keys are warnings\n"
                           "\n"
                           "Ctrl-C ends the step, leaves a checkpoint and exits with 130; go on with "
                           "output.resume=auto. With validation data, training stops when\n"
                           "eval.metric (the loss, unless said otherwise) has not become better eval.patience times in "
                           "a row (eval.early_stopping=false turns that off)\nand the best adapter is kept.\n"
                           "Keys: docs/recipes.md\n";

/* Where a run stands, beyond what the library's checkpoint holds. */
typedef struct state {
    uint64_t step, total;
    uint64_t epoch, batch;           /* of the data at the start of the next step */
    double validation, before;       /* losses; NAN = not known */
    double score, best, score_before; /* eval.metric of the last, the best, the first evaluation; likewise */
    double best_loss;
    int64_t bad_evaluations, skipped, watchdog;
    double tokens, seconds;
} state;

typedef struct trainer {
    run *r;
    state s;
    history h;
    progress p;
    json_line line;
    char *checkpoint, *best;
    const char *metric; /* that decides which adapter is the best */
    uint64_t eval_every, save_every;
    peft_schedule schedule;
    peft_unfreezing unfreezing;
    bool stop_early;
} trainer;

static void event(trainer *t, const char *line) {
    if (t->r->c->json) {
        puts(line);
        fflush(stdout);
    }
}

/* ---- checkpoints --------------------------------------------------------------------------------------------- */

static bool save_checkpoint(trainer *t) {
    char hash[32];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)peft_recipe_hash(t->r->recipe));
    json_line *j = &t->line;
    json_begin(j);
    json_count(j, "step", (int64_t)t->s.step);
    json_count(j, "total_steps", (int64_t)t->s.total);
    json_count(j, "epoch", (int64_t)t->s.epoch);
    json_count(j, "batch", (int64_t)t->s.batch);
    json_text(j, "recipe", hash);
    json_number(j, "loss_before", t->s.before);
    json_number(j, "validation", t->s.validation);
    json_number(j, "score", t->s.score);
    json_number(j, "score_before", t->s.score_before);
    json_number(j, "best", t->s.best);
    json_number(j, "best_loss", t->s.best_loss);
    json_count(j, "bad_evaluations", t->s.bad_evaluations);
    json_number(j, "tokens", t->s.tokens);
    json_number(j, "seconds", t->s.seconds);
    return peft_checkpoint_save(t->r->session, t->r->optimizer, t->checkpoint, json_end(j)) >= 0 ||
           cli_fail(t->r->c, "checkpoint");
}

static double found_number(const char *text, const char *key, double otherwise) {
    double value;
    return json_find_number(text, key, &value) ? value : otherwise;
}

static bool check_state(trainer *t, const char *text, const char *folder) {
    char hash[32];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)peft_recipe_hash(t->r->recipe));
    char *made_with = json_find_text(text, "recipe");
    const bool same = made_with != NULL && strcmp(made_with, hash) == 0;
    free(made_with);
    if (!same)
        fprintf(stderr, "peft: %s was made with another recipe: a run goes on only with the keys that it began with\n",
                folder);
    if (same && found_number(text, "total_steps", 0.0) != (double)t->s.total) {
        fprintf(stderr, "peft: %s was made for %.0f steps, this run has %llu: the data changed\n", folder,
                found_number(text, "total_steps", 0.0), (unsigned long long)t->s.total);
        return false;
    }
    return same;
}

/* output.resume: "auto" takes the checkpoint in the output folder if there is one. */
static bool resume(trainer *t) {
    const char *from = run_text(t->r, "output.resume");
    if (from == NULL || from[0] == '\0') return true;
    if (strcmp(from, "auto") == 0 || strcmp(from, "true") == 0) from = t->checkpoint;
    if (from == t->checkpoint && !file_exists(from)) return true;
    char *text = NULL;
    if (peft_checkpoint_load(t->r->session, t->r->optimizer, from, &text) < 0) return cli_fail(t->r->c, from);
    const bool good = check_state(t, text, from);
    if (good) {
        t->s.step = (uint64_t)found_number(text, "step", 0.0);
        t->s.epoch = (uint64_t)found_number(text, "epoch", 0.0);
        t->s.batch = (uint64_t)found_number(text, "batch", 0.0);
        t->s.before = found_number(text, "loss_before", NAN);
        t->s.validation = found_number(text, "validation", NAN);
        t->s.score = found_number(text, "score", NAN);
        t->s.score_before = found_number(text, "score_before", NAN);
        t->s.best = found_number(text, "best", NAN);
        t->s.best_loss = found_number(text, "best_loss", NAN);
        t->s.bad_evaluations = (int64_t)found_number(text, "bad_evaluations", 0.0);
        t->s.tokens = found_number(text, "tokens", 0.0);
        t->s.seconds = found_number(text, "seconds", 0.0);
        cli_say(t->r->c, "%-11sfrom step %llu of %s\n", "going on", (unsigned long long)t->s.step, from);
    }
    peft_text_free(t->r->c->context, text);
    return good && (peft_dataset_seek(t->r->train, t->s.epoch, t->s.batch) >= 0 || cli_fail(t->r->c, NULL));
}

/* ---- evaluation and samples -------------------------------------------------------------------------------------- */

/* Is a value of eval.metric better than another? Anything is better than what is not known. */
static bool is_better(const trainer *t, double score, double than) {
    if (isnan(than)) return true;
    return peft_metric_greater_is_better(t->metric) == 1 ? score > than : score < than;
}

/* The measures of an evaluation: on the screen where there are others than the loss, in the log all. */
static void report_measures(trainer *t, const peft_evaluation *evaluation) {
    char text[256];
    size_t used = 0;
    const char *name;
    json_begin(&t->line);
    json_text(&t->line, "event", "validation");
    json_count(&t->line, "step", (int64_t)t->s.step);
    json_number(&t->line, "validation_loss", t->s.validation);
    for (uint32_t i = 0; (name = peft_evaluation_metric_name(evaluation, i)) != NULL; i++) {
        if (strcmp(name, "loss") == 0) break;
        const double value = run_metric(evaluation, name);
        json_number(&t->line, name, value);
        if ((i < 2 || strcmp(name, t->metric) == 0) && used < sizeof text)
            used += (size_t)snprintf(text + used, sizeof text - used, "  %s %.4f", name, value);
    }
    const char *line = json_end(&t->line);
    history_log(&t->h, line);
    event(t, line);
    if (used == 0 || t->s.step == 0) return;
    cli_clear_line(t->r->c);
    cli_say(t->r->c, "%-11sstep %llu: held-out loss %.4f%s\n", "", (unsigned long long)t->s.step, t->s.validation,
            text);
}

static bool evaluate(trainer *t, bool is_first) {
    peft_evaluation *evaluation = NULL;
    if (!run_measure(t->r, t->r->session, t->r->validation, &evaluation)) return false;
    if (evaluation == NULL) return true; /* interrupted */
    const bool known = run_check_metric(t->r, evaluation);
    if (known) {
        t->s.validation = run_metric(evaluation, "loss");
        t->s.score = run_metric(evaluation, t->metric);
        history_add(&t->h, true, (double)t->s.step, t->s.validation);
        report_measures(t, evaluation);
    }
    peft_evaluation_destroy(evaluation);
    if (!known) return false;
    if (is_first) {
        t->s.before = t->s.validation;
        t->s.score_before = t->s.score;
        return true;
    }
    if (!is_better(t, t->s.score, t->s.best)) {
        t->s.bad_evaluations++;
        return true;
    }
    t->s.best = t->s.score;
    t->s.best_loss = t->s.validation;
    t->s.bad_evaluations = 0;
    return !t->stop_early || peft_adapter_save(t->r->adapter, t->best) >= 0 || cli_fail(t->r->c, t->best);
}

static bool sample(trainer *t, const char *when) {
    const run *r = t->r;
    const char *prompt = run_text(r, "sample.prompt");
    if (prompt == NULL || prompt[0] == '\0' || r->c->quiet) return true;
    const peft_tokenizer *tokenizer = peft_model_tokenizer(r->model);
    writer_options options = {.chat_template = peft_dataset_chat_template(r->train)};
    if (run_text(r, "data.chat_template") != NULL) options.chat_template = run_text(r, "data.chat_template");
    peft_generate_options_init(&options.generate);
    options.generate.max_new_tokens = (uint32_t)run_int(r, "sample.max_new_tokens");
    options.generate.temperature = (float)run_number(r, "sample.temperature");
    options.generate.top_k = (uint32_t)run_int(r, "sample.top_k");
    options.generate.top_p = (float)run_number(r, "sample.top_p");
    options.generate.repetition_penalty = (float)run_number(r, "sample.repetition_penalty");
    options.generate.seed = (uint64_t)run_int(r, "sample.seed");
    const bool chat = run_flag(r, "sample.chat");
    char *rendered = NULL, *text = NULL;
    if (chat) {
        const peft_chat_message message = {.role = "user", .content = prompt};
        rendered = render_chat(r->c, tokenizer, options.chat_template, &message, 1);
        if (rendered == NULL) return false;
    }
    cli_say(r->c, "\n--- %s training: %s", when, prompt);
    if (chat) cli_say(r->c, "\n");
    const bool good = write_text(r->c, r->session, tokenizer, chat ? rendered : prompt, chat, &options,
                                 r->c->json ? NULL : stdout, &text);
    cli_say(r->c, "\n---\n\n");
    if (good) {
        json_begin(&t->line);
        json_text(&t->line, "event", "sample");
        json_count(&t->line, "step", (int64_t)t->s.step);
        json_text(&t->line, "prompt", prompt);
        json_text(&t->line, "text", text);
        const char *line = json_end(&t->line);
        history_log(&t->h, line);
        event(t, line);
    }
    free(rendered);
    free(text);
    return good;
}

/* ---- the loop ----------------------------------------------------------------------------------------------- */

/* Number of steps between events: a share of all steps below 1, a count from 1 on, or so many an epoch. */
static uint64_t interval(const run *r, const char *steps_key, const char *epoch_key, uint64_t total,
                         uint64_t per_epoch) {
    const double times = run_number(r, epoch_key), steps = run_number(r, steps_key);
    if (times > 0.0) return (uint64_t)fmax(1.0, floor((double)per_epoch / times));
    if (steps <= 0.0) return 0;
    return (uint64_t)fmax(1.0, steps < 1.0 ? ceil(steps * (double)total) : steps);
}

static peft_status next_batch(peft_dataset *data, peft_batch *batch) {
    peft_status status = peft_dataset_next(data, batch);
    if (status == PEFT_END) status = peft_dataset_next(data, batch);
    return status;
}

/* One optimizer step. PEFT_E_CANCELLED leaves everything as it was before. */
static peft_status one_step(trainer *t, peft_step_stats *out_stats, double *out_tokens) {
    const run *r = t->r;
    const int64_t parts = run_int(r, "train.gradient_accumulation_steps");
    *out_tokens = 0.0;
    peft_optimizer_set_lr(r->optimizer, (float)peft_schedule_lr(&t->schedule, t->s.step));
    if (peft_adapter_set_top_layers(r->adapter, peft_unfreezing_layers(&t->unfreezing, t->s.step)) < 0)
        return PEFT_E_ARG;
    const int64_t batches = peft_dataset_batches(r->train);
    for (int64_t i = 0; i < parts; i++) {
        peft_batch batch;
        peft_batch_init(&batch);
        peft_status status = next_batch(r->train, &batch);
        if (status >= 0) status = peft_session_forward(r->session, &batch, NULL);
        if (status >= 0) status = peft_session_backward(r->session, 1.0f);
        if (status < 0) {
            (void)!peft_session_zero_grad(r->session);
            return status;
        }
        *out_tokens += (double)batch.rows;
        uint64_t epoch, at;
        peft_dataset_position(r->train, &epoch, &at);
        if (at >= (uint64_t)batches) break; /* the last step of an epoch takes what is left */
    }
    return peft_optimizer_step(r->optimizer, r->session, out_stats);
}

static void log_step(trainer *t, const peft_step_stats *stats, double tokens, double seconds) {
    uint64_t epoch, batch;
    peft_dataset_position(t->r->train, &epoch, &batch);
    json_line *j = &t->line;
    json_begin(j);
    json_text(j, "event", "step");
    json_count(j, "step", (int64_t)t->s.step);
    json_number(j, "epoch", (double)epoch + (double)batch / fmax(1.0, (double)peft_dataset_batches(t->r->train)));
    json_number(j, "loss", stats->loss);
    json_number(j, "lr", (double)peft_optimizer_lr(t->r->optimizer));
    json_number(j, "grad_norm", stats->grad_norm);
    json_number(j, "tokens", t->s.tokens);
    json_number(j, "tokens_per_second", seconds > 0.0 ? tokens / seconds : 0.0);
    json_number(j, "seconds", t->s.seconds);
    json_count(j, "memory", (int64_t)peak_memory());
    const char *line = json_end(j);
    history_log(&t->h, line);
    event(t, line);
}

/* Ends a run whose loss has left the ground. */
static bool watchdog(trainer *t, double loss) {
    const double threshold = run_number(t->r, "train.loss_watchdog_threshold");
    if (threshold <= 0.0 || loss <= threshold) {
        t->s.watchdog = 0;
        return true;
    }
    if (++t->s.watchdog < run_int(t->r, "train.loss_watchdog_patience")) return true;
    cli_clear_line(t->r->c);
    fprintf(stderr, "peft: the loss was above %g for %lld steps: a smaller train.lr may help\n", threshold,
            (long long)t->s.watchdog);
    return false;
}

static bool after_step(trainer *t, const peft_step_stats *stats, double tokens, double seconds) {
    t->s.step++;
    t->s.tokens += tokens;
    t->s.seconds += seconds;
    peft_dataset_position(t->r->train, &t->s.epoch, &t->s.batch);
    history_add(&t->h, false, (double)t->s.step, stats->loss);
    if (t->s.step % (uint64_t)run_int(t->r, "output.log_steps") == 0 || t->s.step == t->s.total)
        log_step(t, stats, tokens, seconds);
    progress_step(&t->p, t->s.step, stats->loss, t->s.validation, seconds, tokens);
    if (!watchdog(t, stats->loss)) return false;
    if (t->r->validation != NULL && t->eval_every > 0 && (t->s.step % t->eval_every == 0 || t->s.step == t->s.total) &&
        !evaluate(t, false))
        return false;
    if (t->save_every > 0 && t->s.step % t->save_every == 0 && t->s.step < t->s.total && !save_checkpoint(t))
        return false;
    return true;
}

static bool loop(trainer *t) {
    const int64_t patience = run_int(t->r, "eval.patience");
    while (t->s.step < t->s.total && !interrupted()) {
        peft_step_stats stats = {.struct_size = sizeof stats};
        double tokens;
        const double start = now_seconds();
        const peft_status status = one_step(t, &stats, &tokens);
        if (status == PEFT_E_CANCELLED && interrupted()) break;
        if (status == PEFT_E_NONFINITE) {
            cli_note(t->r->c, "warning: step %llu is left out: %s\n", (unsigned long long)t->s.step + 1,
                     peft_context_error(t->r->c->context));
            if (++t->s.skipped >= 10) return cli_fail(t->r->c, "ten steps in a row had values that are not finite");
            t->s.step++;
            continue;
        }
        if (status < 0) return cli_fail(t->r->c, NULL);
        t->s.skipped = 0;
        if (!after_step(t, &stats, tokens, now_seconds() - start)) return false;
        if (t->stop_early && t->s.bad_evaluations >= patience) {
            cli_say(t->r->c, "stopped at step %llu: %s has not become better for %lld evaluations\n",
                    (unsigned long long)t->s.step,
                    strcmp(t->metric, "loss") == 0 ? "the validation loss" : t->metric, (long long)patience);
            break;
        }
    }
    return true;
}

/* ---- before and after --------------------------------------------------------------------------------------- */

static bool make_folder(const char *path) {
    char *copy = text_copy(path);
    bool good = copy != NULL;
    for (char *at = copy; good && *at != '\0'; at++) {
        if (*at != '/' || at == copy) continue;
        *at = '\0';
        good = mkdir(copy, 0777) == 0 || errno == EEXIST;
        *at = '/';
    }
    good = good && (mkdir(copy, 0777) == 0 || errno == EEXIST);
    free(copy);
    if (!good) fprintf(stderr, "peft: %s: %s\n", path, strerror(errno));
    return good;
}

static bool check_output(const run *r) {
    char *config = path_join(r->output, "adapter_config.json");
    const bool taken = config != NULL && file_exists(config) && !run_flag(r, "output.overwrite") &&
                       run_text(r, "output.resume") == NULL;
    if (taken)
        fprintf(
            stderr,
            "peft: %s holds an adapter already: give output.overwrite=true, output.resume=auto or another output.dir\n",
            r->output);
    const bool good = config != NULL && !taken;
    free(config);
    return good && make_folder(r->output);
}

/* What an adapter needs to be used as it was trained. */
static bool save_notes(trainer *t) {
    const run *r = t->r;
    char hash[32], recipe[32];
    peft_model_info info = {.struct_size = sizeof info};
    if (peft_model_get_info(r->model, &info) < 0) return cli_fail(r->c, NULL);
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)info.hash);
    snprintf(recipe, sizeof recipe, "%016llx", (unsigned long long)peft_recipe_hash(r->recipe));
    json_line *j = &t->line;
    json_begin(j);
    const char *own = run_text(r, "data.chat_template");
    json_text(j, "chat_template", own != NULL ? own : peft_dataset_chat_template(r->train));
    json_text(j, "eos", run_text(r, "data.eos"));
    json_bool(j, "train_on_prompt", run_flag(r, "data.train_on_prompt"));
    json_text(j, "base_model", run_text(r, "model"));
    json_text(j, "base_hash", hash);
    json_text(j, "recipe_hash", recipe);
    json_count(j, "steps", (int64_t)t->s.step);
    json_number(j, "validation_loss", t->s.validation);
    if (strcmp(t->metric, "loss") != 0) json_number(j, t->metric, t->s.score);
    json_text(j, "library", peft_version_string());
    run_put_classes(r, j);
    char *path = path_join(r->output, "libpeft.json"), *recipe_path = path_join(r->output, "recipe.yaml");
    const bool good = path != NULL && recipe_path != NULL && write_file(path, json_end(j)) &&
                      write_file(recipe_path, peft_recipe_explain(r->recipe));
    free(path);
    free(recipe_path);
    return good;
}

static bool take_best(trainer *t) {
    if (!t->stop_early || isnan(t->s.best) || !is_better(t, t->s.best, t->s.score)) return true;
    run *r = t->r;
    peft_adapter *best = NULL;
    if (peft_adapter_load(r->c->context, r->model, t->best, &best) < 0) return cli_fail(r->c, t->best);
    const int64_t count = peft_adapter_parameter_count(r->adapter);
    float *values = malloc((size_t)count * sizeof *values);
    const bool good = values != NULL && peft_adapter_get_parameters(best, values, count) >= 0 &&
                      peft_adapter_set_parameters(r->adapter, values, count) >= 0;
    free(values);
    peft_adapter_destroy(best);
    if (!good) return cli_fail(r->c, "the best adapter");
    cli_say(r->c, "keeping the adapter of the best evaluation (%s %.4f, last %.4f)\n",
            strcmp(t->metric, "loss") == 0 ? "validation loss" : t->metric, t->s.best, t->s.score);
    t->s.validation = t->s.best_loss;
    t->s.score = t->s.best;
    return true;
}

/* What the base lost of its own task, for whoever asked. */
static bool say_forgetting(trainer *t, double *out_before, double *out_after) {
    run *r = t->r;
    *out_before = *out_after = NAN;
    if (run_text(r, "eval.forgetting") == NULL || interrupted()) return true;
    if (!run_forgetting(r, NULL, out_before) || !run_forgetting(r, r->adapter, out_after)) return false;
    cli_say(r->c, "the base's own task on %s: loss %.4f without the adapter, %.4f with it\n",
            run_text(r, "eval.forgetting"), *out_before, *out_after);
    return true;
}

static bool finish(trainer *t) {
    run *r = t->r;
    cli_clear_line(r->c);
    if (r->validation != NULL && (t->eval_every == 0 || !isfinite(t->s.validation)) && !evaluate(t, false))
        return false;
    if (!take_best(t)) return false;
    if (peft_adapter_save(r->adapter, r->output) < 0) return cli_fail(r->c, NULL);
    if (!cli_verify_adapter(r->c, r->adapter, r->output)) return false;
    if (!save_notes(t) || !sample(t, "after")) return false;
    char took[32], memory[32];
    if (strcmp(t->metric, "loss") != 0 && isfinite(t->s.score_before) && isfinite(t->s.score))
        cli_say(r->c, "held-out %s %.4f before training, %.4f after (loss %.4f -> %.4f)\n", t->metric,
                t->s.score_before, t->s.score, t->s.before, t->s.validation);
    else if (isfinite(t->s.before) && isfinite(t->s.validation) && peft_dataset_label_count(r->train) > 0)
        cli_say(r->c, "held-out loss %.4f before training, %.4f after\n", t->s.before, t->s.validation);
    else if (isfinite(t->s.before) && isfinite(t->s.validation))
        cli_say(r->c, "held-out loss %.4f before training, %.4f after (perplexity %.2f -> %.2f)\n", t->s.before,
                t->s.validation, exp(t->s.before), exp(t->s.validation));
    double own_before, own_after;
    if (!say_forgetting(t, &own_before, &own_after)) return false;
    cli_say(r->c, "%llu steps in %s, %.0f tokens/s, peak memory %s; the adapter is in %s\n",
            (unsigned long long)t->s.step, format_time(t->s.seconds, took, sizeof took),
            t->s.seconds > 0.0 ? t->s.tokens / t->s.seconds : 0.0, format_bytes(peak_memory(), memory, sizeof memory),
            r->output);
    json_begin(&t->line);
    json_text(&t->line, "event", "done");
    json_count(&t->line, "step", (int64_t)t->s.step);
    json_number(&t->line, "held_out_before", t->s.before);
    json_number(&t->line, "held_out_after", t->s.validation);
    if (strcmp(t->metric, "loss") != 0) {
        json_text(&t->line, "metric", t->metric);
        json_number(&t->line, "metric_before", t->s.score_before);
        json_number(&t->line, "metric_after", t->s.score);
    }
    json_number(&t->line, "own_task_loss_before", own_before);
    json_number(&t->line, "own_task_loss_after", own_after);
    json_number(&t->line, "seconds", t->s.seconds);
    json_number(&t->line, "tokens", t->s.tokens);
    json_count(&t->line, "memory", (int64_t)peak_memory());
    json_text(&t->line, "adapter", r->output);
    const char *line = json_end(&t->line);
    history_log(&t->h, line);
    event(t, line);
    return true;
}

static bool plot(const trainer *t) {
    if (!run_flag(t->r, "output.plot")) return true;
    char *path = path_join(t->r->output, "loss.svg");
    const bool good = path != NULL && history_plot(&t->h, path, run_text(t->r, "model"));
    free(path);
    return good;
}

static bool prepare(trainer *t) {
    run *r = t->r;
    const int64_t batches = peft_dataset_batches(r->train), parts = run_int(r, "train.gradient_accumulation_steps");
    t->s = (state){.total = peft_recipe_total_steps(r->recipe, batches), .before = NAN, .validation = NAN, .score = NAN, .score_before = NAN, .best = NAN,
                  .best_loss = NAN};
    t->metric = run_text(r, "eval.metric");
    if (t->s.total == 0) {
        fprintf(stderr, "peft: nothing to do: train.epochs and train.max_steps are 0\n");
        return false;
    }
    const uint64_t per_epoch = (uint64_t)((batches + parts - 1) / parts);
    t->eval_every = interval(r, "eval.steps", "eval.per_epoch", t->s.total, per_epoch);
    t->save_every = interval(r, "output.save_steps", "output.save_per_epoch", t->s.total, per_epoch);
    t->stop_early = r->validation != NULL && run_flag(r, "eval.early_stopping");
    peft_schedule_init(&t->schedule);
    peft_unfreezing_init(&t->unfreezing);
    t->checkpoint = path_join(r->output, "checkpoint");
    t->best = path_join(r->output, "best");
    if (t->checkpoint == NULL || t->best == NULL || peft_recipe_schedule(r->recipe, t->s.total, &t->schedule) < 0 ||
        peft_recipe_unfreezing(r->recipe, t->s.total, &t->unfreezing) < 0)
        return false;
    run_print_plan(r, t->s.total);
    if (!run_open_session(r, r->adapter, &r->session) || !resume(t)) return false;
    char *log = run_flag(r, "output.log") ? path_join(r->output, "log.jsonl") : NULL;
    const bool good = log == NULL || history_open(&t->h, log, t->s.step > 0 ? (double)t->s.step : -1.0);
    free(log);
    return good;
}

static int work(trainer *t) {
    run *r = t->r;
    if (!check_output(r) || !prepare(t)) return EXIT_FAILED;
    interrupt_watch(r->session);
    if (t->s.step == 0) {
        if (r->validation != NULL) {
            if (!evaluate(t, true)) return EXIT_FAILED;
            if (!interrupted()) cli_say(r->c, "%-11s%.4f held-out loss before training\n", "", t->s.before);
        }
        if (!interrupted() && !sample(t, "before")) return EXIT_FAILED;
    }
    progress_start(&t->p, r->c, t->s.total);
    const bool good = loop(t);
    cli_clear_line(r->c);
    const bool plotted = plot(t);
    if (!good) return EXIT_FAILED;
    if (interrupted()) {
        if (!save_checkpoint(t)) return EXIT_FAILED;
        cli_note(r->c, "interrupted after step %llu; the checkpoint is in %s; go on with output.resume=auto\n",
                 (unsigned long long)t->s.step, t->checkpoint);
        return EXIT_INTERRUPTED;
    }
    if (!save_checkpoint(t) || !finish(t) || !plotted || !plot(t)) return EXIT_FAILED;
    return interrupted() ? EXIT_INTERRUPTED : EXIT_DONE;
}

int command_train(cli *c, args *a) {
    a->help = HELP;
    if (args_flag(a, "--help")) {
        fputs(HELP, stdout);
        return EXIT_DONE;
    }
    run r;
    trainer t = {.r = &r};
    int code = run_open(&r, c, a, RUN_ADAPTER | RUN_DATA | RUN_VALIDATION | RUN_OPTIMIZER);
    if (code == EXIT_DONE) code = work(&t);
    history_close(&t.h);
    json_free(&t.line);
    free(t.checkpoint);
    free(t.best);
    run_close(&r);
    return code;
}
