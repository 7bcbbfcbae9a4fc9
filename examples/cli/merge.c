/* merge.c: `peft merge`: an adapter's changes become part of the weights, and the written model is read back and
 * compared: a merge that computes something else must not look like success. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "usage: peft merge MODEL ADAPTER [ADAPTER ...] --output DIR [--dtype F32|F16|BF16] [--overwrite]\n"
    "\n"
    "Writes a Hugging Face folder whose weights hold the adapters' changes, reads it back and compares its logits with "
    "those of the model with\n"
    "its adapters.\n";

enum { MOST_ADAPTERS = 16, PROBE = 16 };

typedef struct merging {
    cli *c;
    const char *model_path, *folders[MOST_ADAPTERS], *output;
    peft_model *model, *merged, *again;
    peft_adapter *adapters[MOST_ADAPTERS];
    uint32_t count;
    peft_dtype dtype;
} merging;

/* Logits of a few fixed ids: [PROBE, vocabulary], malloc. */
static float *probe(merging *m, peft_model *model, bool with_adapters, int64_t *out_count) {
    peft_session *session = NULL;
    peft_session_options options;
    peft_session_options_init(&options);
    options.inference = 1;
    peft_model_info info = {.struct_size = sizeof info};
    if (peft_model_get_info(model, &info) < 0) return NULL;
    int32_t ids[PROBE], offsets[2] = {0, PROBE};
    for (int32_t i = 0; i < PROBE; i++)
        ids[i] = (int32_t)((i * 7919 + 13) % (info.vocab_size > 0 ? info.vocab_size : 1));
    peft_batch batch;
    peft_batch_init(&batch);
    batch.rows = PROBE;
    batch.sequences = 1;
    batch.offsets = offsets;
    batch.input_ids = ids;
    *out_count = PROBE * info.vocab_size;
    float *logits = malloc((size_t)*out_count * sizeof *logits);
    const bool good =
        logits != NULL &&
        peft_session_create(m->c->context, model, m->adapters, with_adapters ? m->count : 0, &options, &session) >= 0 &&
        peft_session_logits(session, &batch, PEFT_LOGITS_ALL, logits, *out_count, NULL, NULL) >= 0;
    peft_session_destroy(session);
    if (good) return logits;
    cli_fail(m->c, "comparing");
    free(logits);
    return NULL;
}

static bool verify(merging *m) {
    int64_t count = 0, other = 0;
    float *before = probe(m, m->model, true, &count), *after = NULL;
    if (before != NULL && peft_model_load(m->c->context, m->output, NULL, &m->again) < 0)
        cli_fail(m->c, "reading back");
    if (before != NULL && m->again != NULL) after = probe(m, m->again, false, &other);
    const bool good = after != NULL && count == other;
    double worst = 0.0, largest = 0.0;
    for (int64_t i = 0; good && i < count; i++) {
        worst = fmax(worst, fabs((double)before[i] - (double)after[i]));
        largest = fmax(largest, fabs((double)before[i]));
    }
    free(before);
    free(after);
    if (!good) return false;
    cli_say(m->c, "read back and compared: logits differ by %.3g at most (the largest is %.3g)\n", worst, largest);
    const double allowed = m->dtype == PEFT_DTYPE_F32 ? 1e-3 : m->dtype == PEFT_DTYPE_F16 ? 2e-2 : 1e-1;
    if (worst <= allowed * fmax(1.0, largest)) return true;
    fprintf(stderr, "peft: the merged model in %s does not compute what the model with its adapters does\n", m->output);
    return false;
}

static bool work(merging *m) {
    cli *c = m->c;
    if (peft_model_load(c->context, m->model_path, NULL, &m->model) < 0) return cli_fail(c, NULL);
    for (uint32_t i = 0; i < m->count; i++)
        if (peft_adapter_load(c->context, m->model, m->folders[i], &m->adapters[i]) < 0) return cli_fail(c, NULL);
    if (peft_model_merge(c->context, m->model, m->adapters, m->count, &m->merged) < 0) return cli_fail(c, NULL);
    if (peft_model_save(c->context, m->merged, m->output, m->dtype) < 0) return cli_fail(c, NULL);
    cli_say(c, "written to %s as %s\n", m->output, peft_dtype_name(m->dtype));
    return verify(m);
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
    m.model_path = args_next(a);
    while (m.count < MOST_ADAPTERS && (m.folders[m.count] = args_next(a)) != NULL) m.count++;
    if (!args_done(a)) return EXIT_USAGE;
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
    char *config = path_join(m.output, "config.json");
    const bool taken = config != NULL && file_exists(config) && !overwrite;
    free(config);
    if (taken) {
        fprintf(stderr, "peft: %s holds a model already: give --overwrite or another folder\n", m.output);
        return EXIT_FAILED;
    }
    const bool good = cli_start(c, 0, 0) && work(&m);
    peft_model_destroy(m.again);
    peft_model_destroy(m.merged);
    for (uint32_t i = 0; i < m.count; i++) peft_adapter_destroy(m.adapters[i]);
    peft_model_destroy(m.model);
    cli_stop(c);
    return good ? EXIT_DONE : EXIT_FAILED;
}
