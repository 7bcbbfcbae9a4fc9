/* merge.c: `peft merge`: an adapter's changes become part of the weights, and the written model is read back and
 * compared: a merge that computes something else must not look like success. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "usage: peft merge MODEL ADAPTER [ADAPTER ...] --output DIR [--dtype F32|F16|BF16] [--overwrite] [--threads N]\n"
    "       peft merge MODEL.gguf ADAPTER [ADAPTER ...] --output OUT.gguf [--overwrite] [--threads N]\n"
    "\n"
    "Writes a Hugging Face folder, or a GGUF file of the base's types, whose weights hold the adapters' changes. It is\n"
    "made one tensor at a time, then read back, and its logits are compared with those of the model with its adapters.\n";

enum { MOST_ADAPTERS = 16 };

typedef struct merging {
    cli *c;
    const char *model_path, *folders[MOST_ADAPTERS], *output;
    peft_model *model;
    peft_adapter *adapters[MOST_ADAPTERS];
    uint32_t count;
    peft_dtype dtype;
    bool gguf; /* the output is a file */
} merging;

/* The coarsest type that the weights are stored in: a GGUF file of these types rounds what was changed. */
static double rounding(const merging *m) {
    if (!m->gguf) return cli_rounding_of(m->dtype);
    double most = 0.0;
    for (uint32_t i = 0; i < peft_model_module_count(m->model); i++) {
        peft_module_info info = {.struct_size = sizeof info};
        if (peft_model_module(m->model, i, &info) < 0) continue;
        const double one = cli_rounding_of(info.dtype);
        if (one > most) most = one;
    }
    return most;
}

static bool work(merging *m) {
    cli *c = m->c;
    if (peft_model_load(c->context, m->model_path, NULL, &m->model) < 0) return cli_fail(c, NULL);
    for (uint32_t i = 0; i < m->count; i++)
        if (peft_adapter_load(c->context, m->model, m->folders[i], &m->adapters[i]) < 0) return cli_fail(c, NULL);
    if (peft_model_save_merged(c->context, m->model, m->adapters, m->count, m->output, m->dtype) < 0)
        return cli_fail(c, NULL);
    cli_say(c, "written to %s as %s\n", m->output, m->gguf ? "GGUF of the base's types" : peft_dtype_name(m->dtype));
    peft_difference found = {.struct_size = sizeof found};
    if (peft_model_verify(c->context, m->model, m->adapters, m->count, m->output, &found) < 0)
        return cli_fail(c, "reading back");
    return cli_report_difference(c, &found, rounding(m), m->output);
}

int command_merge(cli *c, args *a) {
    a->help = HELP;
    if (args_flag(a, "--help")) {
        fputs(HELP, stdout);
        return EXIT_DONE;
    }
    merging m = {.c = c, .dtype = PEFT_DTYPE_F32};
    c->quiet = args_flag(a, "--quiet");
    m.output = args_text(a, "--output");
    const bool overwrite = args_flag(a, "--overwrite");
    const char *dtype = args_text(a, "--dtype");
    double threads = 0;
    (void)args_number(a, "--threads", &threads);
    m.model_path = args_next(a);
    while (m.count < MOST_ADAPTERS && (m.folders[m.count] = args_next(a)) != NULL) m.count++;
    if (!args_done(a)) return EXIT_USAGE;
    if (!(threads >= 0 && threads <= 1024)) return args_usage(a, "--threads is 0 to 1024");
    if (m.model_path == NULL || m.count == 0 || m.output == NULL)
        return args_usage(a, "a model, an adapter and --output are needed");
    if (dtype != NULL) {
        static const peft_dtype TYPES[] = {PEFT_DTYPE_F32, PEFT_DTYPE_F16, PEFT_DTYPE_BF16};
        bool known = false;
        for (size_t i = 0; i < sizeof TYPES / sizeof TYPES[0]; i++)
            if (strcmp(dtype, peft_dtype_name(TYPES[i])) == 0) {
                m.dtype = TYPES[i];
                known = true;
            }
        if (!known) return args_usage(a, "--dtype is F32, F16 or BF16");
    }
    const size_t length = strlen(m.output);
    m.gguf = length > 5 && strcmp(m.output + length - 5, ".gguf") == 0;
    if (m.gguf && dtype != NULL) return args_usage(a, "a GGUF file has its base's types: --dtype is for folders");
    char *config = m.gguf ? text_copy(m.output) : path_join(m.output, "config.json");
    const bool taken = config != NULL && file_exists(config) && !overwrite;
    free(config);
    if (taken) {
        fprintf(stderr, "peft: %s holds a model already: give --overwrite or another name\n", m.output);
        return EXIT_FAILED;
    }
    const bool good = cli_start(c, (uint32_t)threads, 0) && work(&m);
    for (uint32_t i = 0; i < m.count; i++) peft_adapter_destroy(m.adapters[i]);
    peft_model_destroy(m.model);
    cli_stop(c);
    return good ? EXIT_DONE : EXIT_FAILED;
}
