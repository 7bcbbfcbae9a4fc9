/* main.c: the `peft` program: which command, and where its help is. */
#include "cli.h"

#include <string.h>

static const char HELP[] =
    "usage: peft COMMAND ...\n"
    "\n"
    "  train RECIPE.yaml [key=value ...]   trains an adapter\n"
    "  eval RECIPE.yaml [key=value ...]    loss and measures on held-out data, with and without the adapter\n"
    "  predict RECIPE.yaml --input FILE    classes, tags, answers, hidden words of rows without labels\n"
    "  generate MODEL                      continues a text, or talks\n"
    "  inspect PATH                        what a model, adapter, tokenizer or tensor file holds\n"
    "  estimate RECIPE.yaml                memory and time of a run, measured on a few steps\n"
    "  compare RECIPE.yaml [key=value ...] several methods side by side: quality, size, memory, time\n"
    "  preview RECIPE.yaml                 examples as the model sees them, learnt tokens marked\n"
    "  recipe RECIPE.yaml                  every value in effect and where it came from\n"
    "  rank PROMPTS.yaml [key=value ...]   hard prompts and few-shot prompts by accuracy, without training\n"
    "  merge MODEL ADAPTER --output DIR    a model with the adapter's changes in its weights\n"
    "  combine MODEL ADAPTER ...           one adapter out of several\n"
    "  export ADAPTER --model MODEL        an adapter for llama.cpp, or under today's names\n"
    "  import LORA.gguf --model MODEL      an adapter of llama.cpp as a folder\n"
    "\n"
    "  peft COMMAND --help says more; peft --version\n"
    "Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.\n";

static int version(void) {
    peft_context *context = NULL;
    if (peft_context_create(NULL, &context) < 0) return EXIT_FAILED;
    puts(peft_context_build_info(context));
    peft_context_destroy(context);
    return EXIT_DONE;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*run)(cli *c, args *a);
    } COMMANDS[] = {{"train", command_train},     {"eval", command_eval},         {"predict", command_predict},   {"generate", command_generate},
                    {"inspect", command_inspect}, {"estimate", command_estimate}, {"merge", command_merge},
                    {"preview", command_preview}, {"rank", command_rank}, {"recipe", command_recipe},     {"combine", command_combine},
                    {"compare", command_compare}, {"export", command_export},   {"import", command_import}};
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)) {
        fputs(HELP, stdout);
        return EXIT_DONE;
    }
    if (argc >= 2 && strcmp(argv[1], "--version") == 0) return version();
    cli c = {.context = NULL};
    args a = {.count = argc > 2 ? argc - 2 : 0, .values = argv + (argc > 2 ? 2 : argc), .help = HELP};
    for (size_t i = 0; argc >= 2 && i < sizeof COMMANDS / sizeof COMMANDS[0]; i++)
        if (strcmp(argv[1], COMMANDS[i].name) == 0) return COMMANDS[i].run(&c, &a);
    if (argc >= 2) fprintf(stderr, "peft: there is no command \"%s\"\n\n", argv[1]);
    fputs(HELP, stderr);
    return EXIT_USAGE;
}
