/* rank.c: `peft rank`: hard prompts and few-shot prompts in the order of how well they classify labelled rows. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "usage: peft rank PROMPTS.yaml [key=value ...] [options]\n"
    "\n"
    "Classifies the labelled rows of data.test with every prompt of the file, without any training, and prints the "
    "prompts in the order of their\n"
    "accuracy (docs/prompts.md). Prompts with several seeds are run once with each: mean and standard deviation are "
    "shown.\n"
    "\n"
    "  key=value            another value for a key of the file, for all prompts: model=DIR, data.test=FILE, shots=4, "
    "\"seeds=[0, 1, 2]\"\n"
    "  --model PATH         another model than the file's; --adapter DIR: with an adapter on it\n"
    "  --only NAME          this prompt alone\n"
    "  --show ROW           prints what the model reads for this row of the test data (from 0) and ends\n"
    "  --csv FILE           one line for every prompt and seed\n"
    "  --predictions FILE   one line of JSON for every row: prompt, seed, line, label, prediction, scores\n"
    "  --no-cache           reads instruction and shots anew for every answer (slow; the same result)\n"
    "  --json, --quiet      the result as one object; nothing but the result\n"
    "  --threads N          workers; default: all CPUs\n";

typedef struct ranked {
    peft_prompt_info info;
    uint32_t index;
    peft_prompt_result **results;
    peft_prompt_scores *scores; /* [info.seed_count] */
    double accuracy, spread, f1, ms, tokens;
} ranked;

typedef struct ranking {
    cli *c;
    peft_prompts *prompts;
    peft_model *model;
    peft_adapter *adapter;
    peft_session *session;
    ranked *entries;
    uint32_t count;
    const char *only;
    bool no_cache, terminal;
    double drawn;
    uint32_t runs, run, classes;
} ranking;

/* ---- running ---------------------------------------------------------------------------------------------------- */

static int32_t on_row(void *user, int64_t done, int64_t total) {
    ranking *r = user;
    const double now = now_seconds();
    if (!r->c->quiet && r->terminal && (now - r->drawn > 0.2 || done == total)) {
        r->drawn = now;
        fprintf(stderr, "\r\033[Krun %u of %u: row %lld of %lld", r->run, r->runs, (long long)done, (long long)total);
        fflush(stderr);
        r->c->line_open = true;
    }
    return interrupted() ? 1 : 0;
}

static void summarise(ranked *e) {
    const double n = e->info.seed_count;
    for (uint32_t s = 0; s < e->info.seed_count; s++) {
        e->accuracy += e->scores[s].accuracy / n;
        e->f1 += e->scores[s].macro_f1 / n;
        e->ms += e->scores[s].ms_per_example / n;
        e->tokens += e->scores[s].tokens_per_example / n;
    }
    for (uint32_t s = 0; s < e->info.seed_count && n > 1; s++)
        e->spread += (e->scores[s].accuracy - e->accuracy) * (e->scores[s].accuracy - e->accuracy) / (n - 1);
    e->spread = sqrt(e->spread);
}

static bool run_entry(ranking *r, ranked *e) {
    peft_prompt_run_options options;
    peft_prompt_run_options_init(&options);
    options.no_cache = r->no_cache;
    options.on_row = on_row;
    options.user = r;
    e->results = calloc(e->info.seed_count, sizeof *e->results);
    e->scores = calloc(e->info.seed_count, sizeof *e->scores);
    if (e->results == NULL || e->scores == NULL) return cli_fail(r->c, "out of memory");
    for (uint32_t s = 0; s < e->info.seed_count; s++) {
        r->run++;
        if (peft_prompts_run(r->prompts, r->session, e->index, s, &options, &e->results[s]) < 0)
            return !interrupted() && cli_fail(r->c, NULL);
        e->scores[s].struct_size = sizeof *e->scores;
        if (peft_prompt_result_get(e->results[s], &e->scores[s]) < 0) return cli_fail(r->c, NULL);
    }
    summarise(e);
    return true;
}

/* Better ones first; of equals the one that the file has first. */
static int by_accuracy(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->accuracy != y->accuracy) return x->accuracy > y->accuracy ? -1 : 1;
    if (x->f1 != y->f1) return x->f1 > y->f1 ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

/* ---- telling ---------------------------------------------------------------------------------------------------- */

static void print_table(const ranking *r) {
    size_t width = 6;
    for (uint32_t i = 0; i < r->count; i++) {
        const size_t length = strlen(r->entries[i].info.name);
        if (length > width) width = length < 40 ? length : 40;
    }
    printf("     %-*s  shots  %-23s  macro F1  ms/example  tokens/example\n", (int)width, "prompt", "accuracy");
    for (uint32_t i = 0; i < r->count; i++) {
        const ranked *e = &r->entries[i];
        char accuracy[64];
        if (e->info.seed_count > 1)
            snprintf(accuracy, sizeof accuracy, "%.4f +- %.4f (%u)", e->accuracy, e->spread, e->info.seed_count);
        else
            snprintf(accuracy, sizeof accuracy, "%.4f [%.4f, %.4f]", e->accuracy, e->scores[0].accuracy_low,
                     e->scores[0].accuracy_high);
        printf("%3u  %-*.*s  %5u  %-23s  %8.4f  %10.2f  %14.1f%s\n", i + 1, (int)width, (int)width, e->info.name,
               e->info.shots, accuracy, e->f1, e->ms, e->tokens, e->info.calibrated ? "  calibrated" : "");
        if (e->scores[0].unread > 0)
            printf("     %-*s  %lld of %lld texts had no answer\n", (int)width, "", (long long)e->scores[0].unread,
                   (long long)e->scores[0].count);
    }
}

static void put_run(json_line *j, const ranked *e, uint32_t s) {
    const peft_prompt_scores *scores = &e->scores[s];
    json_count(j, "seed", (int64_t)scores->seed);
    json_count(j, "examples", scores->count);
    json_number(j, "accuracy", scores->accuracy);
    json_number(j, "accuracy_low", scores->accuracy_low);
    json_number(j, "accuracy_high", scores->accuracy_high);
    json_number(j, "macro_f1", scores->macro_f1);
    json_number(j, "macro_f1_low", scores->macro_f1_low);
    json_number(j, "macro_f1_high", scores->macro_f1_high);
    json_number(j, "ms_per_example", scores->ms_per_example);
    json_number(j, "ms_common", scores->ms_common);
    json_count(j, "common_tokens", scores->common_tokens);
    json_number(j, "tokens_per_example", scores->tokens_per_example);
    json_number(j, "context_per_example", scores->context_per_example);
    json_count(j, "unread", scores->unread);
    json_count(j, "skipped", scores->skipped);
}

static const char *kind_name(int32_t kind) {
    static const char *const NAMES[] = {"answers", "cloze", "reasoning"};
    return kind >= 0 && kind <= 2 ? NAMES[kind] : "?";
}

static bool print_json(const ranking *r, const char *model) {
    printf("{\"model\": ");
    json_line j = {.text = NULL};
    json_begin(&j);
    json_text(&j, "name", model);
    printf("%s, \"prompts\": [", json_end(&j));
    bool good = true;
    for (uint32_t i = 0; i < r->count; i++) {
        const ranked *e = &r->entries[i];
        json_begin(&j);
        json_count(&j, "rank", i + 1);
        json_text(&j, "name", e->info.name);
        json_text(&j, "kind", kind_name(e->info.kind));
        json_count(&j, "shots", e->info.shots);
        json_bool(&j, "calibrated", e->info.calibrated != 0);
        json_number(&j, "accuracy", e->accuracy);
        json_number(&j, "accuracy_deviation", e->spread);
        json_number(&j, "macro_f1", e->f1);
        json_number(&j, "ms_per_example", e->ms);
        json_number(&j, "tokens_per_example", e->tokens);
        const char *text = json_end(&j);
        good = good && text[0] != '\0';
        /* the object goes on with its runs */
        printf("%s%.*s, \"runs\": [", i > 0 ? ", " : "", (int)strlen(text) - 1, text);
        for (uint32_t s = 0; s < e->info.seed_count; s++) {
            json_begin(&j);
            put_run(&j, e, s);
            printf("%s%s", s > 0 ? ", " : "", json_end(&j));
        }
        printf("]}");
    }
    printf("]}\n");
    json_free(&j);
    return good;
}

static void put_csv_text(FILE *out, const char *text) {
    fputc('"', out);
    for (; *text != '\0'; text++) {
        if (*text == '"') fputc('"', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

static bool write_csv(const ranking *r, const char *path) {
    FILE *out = fopen(path, "wb");
    if (out == NULL) {
        fprintf(stderr, "peft: %s cannot be written\n", path);
        return false;
    }
    fputs("rank,prompt,kind,shots,seed,calibrated,examples,accuracy,accuracy_low,accuracy_high,macro_f1,macro_f1_low,"
          "macro_f1_high,ms_per_example,"
          "ms_common,common_tokens,tokens_per_example,context_per_example,unread,skipped\n",
          out);
    for (uint32_t i = 0; i < r->count; i++) {
        const ranked *e = &r->entries[i];
        for (uint32_t s = 0; s < e->info.seed_count; s++) {
            const peft_prompt_scores *x = &e->scores[s];
            fprintf(out, "%u,", i + 1);
            put_csv_text(out, e->info.name);
            fprintf(out, ",%s,%u,%llu,%u,%lld,%.6f,%.6f,%.6f,%.6f,", kind_name(e->info.kind), e->info.shots,
                    (unsigned long long)x->seed, e->info.calibrated, (long long)x->count, x->accuracy, x->accuracy_low,
                    x->accuracy_high, x->macro_f1);
            fprintf(out, "%.6f,%.6f,%.3f,%.3f,%lld,%.2f,%.2f,%lld,%lld\n", x->macro_f1_low, x->macro_f1_high,
                    x->ms_per_example, x->ms_common, (long long)x->common_tokens, x->tokens_per_example,
                    x->context_per_example, (long long)x->unread, (long long)x->skipped);
        }
    }
    const bool good = ferror(out) == 0;
    if (fclose(out) == 0 && good) return true;
    fprintf(stderr, "peft: %s: not all was written\n", path);
    return false;
}

static void put_prediction(const ranking *r, const ranked *e, uint32_t s, int64_t i, json_line *j, FILE *out) {
    const peft_prompt_scores *x = &e->scores[s];
    json_begin(j);
    json_text(j, "prompt", e->info.name);
    json_count(j, "seed", (int64_t)x->seed);
    json_count(j, "line", (int64_t)x->lines[i]);
    json_text(j, "label", peft_prompts_class_name(r->prompts, (uint32_t)x->labels[i]));
    json_text(j, "prediction",
              x->predictions[i] < 0 ? NULL : peft_prompts_class_name(r->prompts, (uint32_t)x->predictions[i]));
    if (x->texts != NULL) json_text(j, "text", x->texts[i]);
    if (x->scores != NULL) {
        json_open(j, "scores");
        for (uint32_t c = 0; c < x->classes; c++)
            json_number(j, peft_prompts_class_name(r->prompts, c), x->scores[i * x->classes + c]);
        json_close(j);
    }
    fprintf(out, "%s\n", json_end(j));
}

static bool write_predictions(const ranking *r, const char *path) {
    FILE *out = fopen(path, "wb");
    if (out == NULL) {
        fprintf(stderr, "peft: %s cannot be written\n", path);
        return false;
    }
    json_line j = {.text = NULL};
    for (uint32_t k = 0; k < r->count; k++)
        for (uint32_t s = 0; s < r->entries[k].info.seed_count; s++)
            for (int64_t i = 0; i < r->entries[k].scores[s].count; i++)
                put_prediction(r, &r->entries[k], s, i, &j, out);
    json_free(&j);
    const bool good = ferror(out) == 0;
    if (fclose(out) == 0 && good) return true;
    fprintf(stderr, "peft: %s: not all predictions were written\n", path);
    return false;
}

/* ---- the command --------------------------------------------------------------------------------------------------
 */

static bool choose_entries(ranking *r) {
    const uint32_t all = peft_prompts_count(r->prompts);
    r->entries = calloc(all, sizeof *r->entries);
    if (r->entries == NULL) return cli_fail(r->c, "out of memory");
    for (uint32_t i = 0; i < all; i++) {
        ranked *e = &r->entries[r->count];
        e->info.struct_size = sizeof e->info;
        if (peft_prompts_get_info(r->prompts, i, &e->info) < 0) return cli_fail(r->c, NULL);
        if (r->only != NULL && strcmp(r->only, e->info.name) != 0) continue;
        e->index = i;
        r->runs += e->info.seed_count;
        r->count++;
    }
    if (r->count > 0) return true;
    fprintf(stderr, "peft: there is no prompt \"%s\"\n", r->only);
    return false;
}

static bool show(const ranking *r, int64_t row) {
    for (uint32_t i = 0; i < r->count; i++) {
        char *text = NULL;
        if (peft_prompts_render(r->prompts, r->model, r->entries[i].index, 0, row, &text) < 0)
            return cli_fail(r->c, NULL);
        printf("%s--- %s ---\n%s\n", i > 0 ? "\n" : "", r->entries[i].info.name, text);
        peft_text_free(r->c->context, text);
    }
    return true;
}

static bool open_all(ranking *r, const char *model, const char *adapter) {
    const char *model_path = model, *adapter_path = adapter;
    if ((model == NULL && peft_prompts_get_text(r->prompts, "model", &model_path) < 0) ||
        (adapter == NULL && peft_prompts_get_text(r->prompts, "adapter", &adapter_path) < 0))
        return cli_fail(r->c, NULL);
    if (model_path == NULL) {
        fprintf(stderr, "peft: the file names no model; give one with model=PATH\n");
        return false;
    }
    if (peft_model_load(r->c->context, model_path, NULL, &r->model) < 0) return cli_fail(r->c, NULL);
    if (adapter_path != NULL && peft_adapter_load(r->c->context, r->model, adapter_path, &r->adapter) < 0)
        return cli_fail(r->c, NULL);
    peft_session_options options;
    peft_session_options_init(&options);
    options.inference = 1;
    return peft_session_create(r->c->context, r->model, &r->adapter, r->adapter != NULL ? 1 : 0, &options,
                               &r->session) >= 0 ||
           cli_fail(r->c, NULL);
}

static bool run_all(ranking *r) {
    interrupt_watch(r->session);
    bool good = true;
    for (uint32_t i = 0; i < r->count && good; i++) good = run_entry(r, &r->entries[i]);
    interrupt_ignore();
    cli_clear_line(r->c);
    if (good) qsort(r->entries, r->count, sizeof *r->entries, by_accuracy);
    return good;
}

static void close_all(ranking *r) {
    for (uint32_t i = 0; i < r->count; i++) {
        for (uint32_t s = 0; r->entries[i].results != NULL && s < r->entries[i].info.seed_count; s++)
            peft_prompt_result_destroy(r->entries[i].results[s]);
        free(r->entries[i].results);
        free(r->entries[i].scores);
    }
    free(r->entries);
    peft_session_destroy(r->session);
    peft_adapter_destroy(r->adapter);
    peft_model_destroy(r->model);
    peft_prompts_destroy(r->prompts);
}

int command_rank(cli *c, args *a) {
    a->help = HELP;
    if (args_flag(a, "--help")) {
        fputs(HELP, stdout);
        return EXIT_DONE;
    }
    ranking r = {.c = c, .terminal = on_terminal(stderr)};
    double threads = 0.0, row = -1.0;
    const char *model = args_text(a, "--model"), *adapter = args_text(a, "--adapter"), *csv = args_text(a, "--csv"),
               *predictions = args_text(a, "--predictions");
    r.only = args_text(a, "--only");
    r.no_cache = args_flag(a, "--no-cache");
    c->json = args_flag(a, "--json");
    c->quiet = args_flag(a, "--quiet");
    if (!args_number(a, "--threads", &threads) || !args_number(a, "--show", &row)) return args_usage(a, NULL);
    const char *path = args_next(a);
    const char **overrides = calloc((size_t)a->count + 1, sizeof *overrides);
    uint32_t count = 0;
    for (const char *word; overrides != NULL && (word = args_next(a)) != NULL;) overrides[count++] = word;
    int code = EXIT_USAGE;
    if (!args_done(a)) {
        /* told */
    } else if (path == NULL) {
        (void)args_usage(a, "a file of prompts is needed");
    } else if (threads < 0.0 || threads > 1024.0 || (row >= 0.0 && row != floor(row))) {
        (void)args_usage(a, "--threads is 0 to 1024, --show a whole number");
    } else if (cli_start(c, (uint32_t)threads, 0)) {
        bool good = overrides != NULL &&
                    (peft_prompts_open(c->context, path, overrides, count, &r.prompts) >= 0 || cli_fail(c, NULL)) &&
                    choose_entries(&r) && open_all(&r, model, adapter);
        if (good && row >= 0.0) {
            good = show(&r, (int64_t)row);
        } else if (good && (good = run_all(&r))) {
            const char *name = model;
            if (name == NULL && peft_prompts_get_text(r.prompts, "model", &name) < 0) name = "";
            if (c->json)
                good = print_json(&r, name);
            else
                print_table(&r);
            good = (csv == NULL || write_csv(&r, csv)) && (predictions == NULL || write_predictions(&r, predictions)) &&
                   good;
        }
        code = interrupted() ? EXIT_INTERRUPTED : good ? EXIT_DONE : EXIT_FAILED;
        close_all(&r);
        cli_stop(c);
    } else {
        code = EXIT_FAILED;
    }
    free(overrides);
    return code;
}
