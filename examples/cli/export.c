/* export.c: `peft export` and `peft import`: adapters to and from llama.cpp's files. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static const char EXPORT_HELP[] =
    "usage: peft export ADAPTER --model BASE --gguf OUT.gguf [--overwrite] [--threads N]\n"
    "       peft export ADAPTER --model BASE --folder DIR [--overwrite]\n"
    "\n"
    "Writes a LoRA adapter as a GGUF file for llama.cpp (llama-cli --lora OUT.gguf), or an adapter of any method as a\n"
    "Hugging Face PEFT folder of today's names. What was written is read back and its logits are compared with those of\n"
    "the adapter in memory. Adapters that a GGUF file cannot hold (DoRA, biases, other methods) are refused: merge them\n"
    "into the model with `peft merge`.\n";

static const char IMPORT_HELP[] = "usage: peft import LORA.gguf --model BASE --output DIR [--overwrite] [--threads N]\n"
                                  "\n"
                                  "Reads a LoRA adapter of llama.cpp and writes it as a Hugging Face PEFT folder.\n";

typedef struct exchange {
    cli *c;
    const char *from, *model_path, *gguf, *folder;
    peft_model *model;
    peft_adapter *adapter;
} exchange;

static bool free_to_write(const char *path, const char *file, bool overwrite) {
    char *target = file != NULL ? path_join(path, file) : text_copy(path);
    const bool taken = target == NULL || (file_exists(target) && !overwrite);
    if (taken) fprintf(stderr, "peft: %s is there already: give --overwrite or another name\n", path);
    free(target);
    return !taken;
}

static bool export_work(exchange *e) {
    cli *c = e->c;
    if (peft_model_load(c->context, e->model_path, NULL, &e->model) < 0) return cli_fail(c, NULL);
    if (peft_adapter_load(c->context, e->model, e->from, &e->adapter) < 0) return cli_fail(c, NULL);
    const peft_status status =
        e->gguf != NULL ? peft_adapter_export_gguf(e->adapter, e->gguf) : peft_adapter_save(e->adapter, e->folder);
    if (status == PEFT_E_UNSUPPORTED && e->gguf != NULL) {
        (void)cli_fail(c, NULL);
        fprintf(stderr, "      try: peft merge %s %s --output merged%s\n", e->model_path, e->from,
                strstr(e->model_path, ".gguf") != NULL ? ".gguf" : "");
        return false;
    }
    if (status < 0) return cli_fail(c, NULL);
    return cli_verify_adapter(c, e->adapter, e->gguf != NULL ? e->gguf : e->folder);
}

static bool import_work(exchange *e) {
    cli *c = e->c;
    if (peft_model_load(c->context, e->model_path, NULL, &e->model) < 0) return cli_fail(c, NULL);
    if (peft_adapter_import_gguf(c->context, e->model, e->from, &e->adapter) < 0) return cli_fail(c, NULL);
    cli_say(c, "%s", peft_adapter_report(e->adapter));
    if (peft_adapter_save(e->adapter, e->folder) < 0) return cli_fail(c, NULL);
    return cli_verify_adapter(c, e->adapter, e->folder);
}

static int run_exchange(exchange *e, double threads, bool (*work)(exchange *)) {
    const bool good = cli_start(e->c, (uint32_t)threads, 0) && work(e);
    peft_adapter_destroy(e->adapter);
    peft_model_destroy(e->model);
    cli_stop(e->c);
    return good ? EXIT_DONE : EXIT_FAILED;
}

/* What both verbs share. `output` is the option that names the folder, `need` what is said when something is missing. */
static int command_exchange(cli *c, args *a, const char *help, const char *output, const char *need,
                            bool (*work)(exchange *)) {
    a->help = help;
    if (args_flag(a, "--help")) {
        fputs(help, stdout);
        return EXIT_DONE;
    }
    exchange e = {.c = c};
    double threads = 0;
    c->quiet = args_flag(a, "--quiet");
    const bool overwrite = args_flag(a, "--overwrite"), exports = work == export_work;
    e.model_path = args_text(a, "--model");
    if (exports) e.gguf = args_text(a, "--gguf");
    e.folder = args_text(a, output);
    (void)args_number(a, "--threads", &threads);
    e.from = args_next(a);
    if (!args_done(a)) return EXIT_USAGE;
    if (!(threads >= 0 && threads <= 1024)) return args_usage(a, "--threads is 0 to 1024");
    if (e.from == NULL || e.model_path == NULL || (e.gguf == NULL) == (e.folder == NULL)) return args_usage(a, need);
    if (!free_to_write(e.gguf != NULL ? e.gguf : e.folder, e.gguf != NULL ? NULL : "adapter_config.json", overwrite))
        return EXIT_FAILED;
    return run_exchange(&e, threads, work);
}

int command_export(cli *c, args *a) {
    return command_exchange(c, a, EXPORT_HELP, "--folder", "an adapter, --model and one of --gguf and --folder are needed",
                            export_work);
}

int command_import(cli *c, args *a) {
    return command_exchange(c, a, IMPORT_HELP, "--output", "a GGUF file, --model and --output are needed", import_work);
}
