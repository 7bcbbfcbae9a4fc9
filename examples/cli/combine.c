/* combine.c: `peft combine`: one adapter out of several, and how far it is from all of them at once. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "usage: peft combine MODEL ADAPTER ADAPTER ... --output DIR [options]\n"
    "\n"
    "Writes one LoRA adapter that stands for the weighted sum of several, reads it back, and says how far its logits are\n"
    "from those of the model with all of them at once.\n"
    "\n"
    "  --weights X,Y,...   one a adapter; default 1\n"
    "  --method NAME       cat (default): exactly the sum, of the summed rank. svd: cut back to --rank. linear: as HF PEFT\n"
    "                      adds factors up, which needs equal ranks and is not the sum of the changes. ties,\n"
    "                      dare_linear, dare_ties, magnitude_prune: what is in conflict or small goes first, on the\n"
    "                      factors, or with _svd behind the name on the changes themselves\n"
    "  --rank N            for svd and names in _svd; default: the largest of theirs\n"
    "  --density X         share of entries that ties, dare and magnitude_prune keep; default 0.5\n"
    "  --majority NAME     ties: how a sign is elected, total (default) or frequency\n"
    "  --seed N            of what dare drops; default 0\n"
    "  --overwrite, --threads N\n";

enum { MOST_ADAPTERS = 16 };

typedef struct combining {
    cli *c;
    const char *model_path, *folders[MOST_ADAPTERS], *output, *method;
    float weights[MOST_ADAPTERS];
    uint32_t count;
    peft_combine_options options;
    peft_model *model;
    peft_adapter *adapters[MOST_ADAPTERS], *result;
} combining;

/* "0.5,0.25" */
static bool read_weights(combining *m, const char *text) {
    for (uint32_t i = 0; i < m->count; i++) m->weights[i] = 1.0f;
    if (text == NULL) return true;
    for (uint32_t i = 0; i < m->count; i++) {
        char *end = NULL;
        m->weights[i] = strtof(text, &end);
        if (end == text || *end != (i + 1 < m->count ? ',' : '\0')) return false;
        text = end + 1;
    }
    return true;
}

static bool compare(combining *m) {
    cli *c = m->c;
    for (uint32_t i = 0; i < m->count; i++)
        if (peft_adapter_set_scale(m->adapters[i], m->weights[i]) < 0) return cli_fail(c, NULL);
    peft_difference found = {.struct_size = sizeof found};
    if (peft_model_compare(c->context, m->model, m->adapters, m->count, m->model, &m->result, 1, &found) < 0)
        return cli_fail(c, "comparing");
    cli_say(c, "beside the %u adapters at once, with their weights: logits differ by %.3g at most (the largest is %.3g)\n",
            m->count, found.largest, found.magnitude);
    return true;
}

static bool work(combining *m) {
    cli *c = m->c;
    if (peft_model_load(c->context, m->model_path, NULL, &m->model) < 0) return cli_fail(c, NULL);
    for (uint32_t i = 0; i < m->count; i++)
        if (peft_adapter_load(c->context, m->model, m->folders[i], &m->adapters[i]) < 0) return cli_fail(c, NULL);
    if (peft_adapter_combine(c->context, m->model, m->adapters, m->weights, m->count, m->method, &m->options,
                             &m->result) < 0)
        return cli_fail(c, NULL);
    cli_say(c, "%s", peft_adapter_report(m->result));
    if (peft_adapter_save(m->result, m->output) < 0) return cli_fail(c, NULL);
    return cli_verify_adapter(c, m->result, m->output) && compare(m);
}

/* EXIT_DONE, or what a mistake costs. */
static int read_options(combining *m, args *a, double *out_threads, bool *out_overwrite) {
    double rank = 0, density = 0.5, seed = 0;
    m->method = "cat";
    m->c->quiet = args_flag(a, "--quiet");
    *out_overwrite = args_flag(a, "--overwrite");
    m->output = args_text(a, "--output");
    const char *method = args_text(a, "--method"), *weights = args_text(a, "--weights"),
               *majority = args_text(a, "--majority");
    if (method != NULL) m->method = method;
    (void)args_number(a, "--rank", &rank);
    (void)args_number(a, "--density", &density);
    (void)args_number(a, "--seed", &seed);
    (void)args_number(a, "--threads", out_threads);
    m->model_path = args_next(a);
    while (m->count < MOST_ADAPTERS && (m->folders[m->count] = args_next(a)) != NULL) m->count++;
    if (!args_done(a)) return EXIT_USAGE;
    if (m->model_path == NULL || m->count == 0 || m->output == NULL)
        return args_usage(a, "a model, adapters and --output are needed");
    if (!read_weights(m, weights)) return args_usage(a, "--weights has one number for each adapter, with commas");
    if (!(rank >= 0 && rank <= 65536 && density > 0 && density <= 1 && seed >= 0 && *out_threads >= 0 &&
          *out_threads <= 1024))
        return args_usage(a, "an option is out of range");
    if (majority != NULL && strcmp(majority, "total") != 0 && strcmp(majority, "frequency") != 0)
        return args_usage(a, "--majority is total or frequency");
    peft_combine_options_init(&m->options);
    m->options.rank = (uint32_t)rank;
    m->options.density = (float)density;
    m->options.seed = (uint64_t)seed;
    m->options.majority = majority != NULL && strcmp(majority, "frequency") == 0 ? PEFT_MAJORITY_FREQUENCY
                                                                                  : PEFT_MAJORITY_TOTAL;
    return EXIT_DONE;
}

int command_combine(cli *c, args *a) {
    a->help = HELP;
    if (args_flag(a, "--help")) {
        fputs(HELP, stdout);
        return EXIT_DONE;
    }
    combining m = {.c = c};
    double threads = 0;
    bool overwrite = false;
    const int mistake = read_options(&m, a, &threads, &overwrite);
    if (mistake != EXIT_DONE) return mistake;
    char *config = path_join(m.output, "adapter_config.json");
    const bool taken = config != NULL && file_exists(config) && !overwrite;
    free(config);
    if (taken) {
        fprintf(stderr, "peft: %s holds an adapter already: give --overwrite or another folder\n", m.output);
        return EXIT_FAILED;
    }
    const bool good = cli_start(c, (uint32_t)threads, 0) && work(&m);
    peft_adapter_destroy(m.result);
    for (uint32_t i = 0; i < m.count; i++) peft_adapter_destroy(m.adapters[i]);
    peft_model_destroy(m.model);
    cli_stop(c);
    return good ? EXIT_DONE : EXIT_FAILED;
}
