/* preview.c: `peft preview` and `peft recipe`: a look before training. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static const char PREVIEW_HELP[] =
    "usage: peft preview RECIPE.yaml [key=value ...] [--count N] [--tokens] [--validation]\n"
    "\n"
    "The first examples as the model will see them. What is learnt is green on a terminal and stands between [[ and ]] "
    "elsewhere.\n"
    "\n"
    "  --count N      so many examples (default 3)\n"
    "  --tokens       a line a token: number, id, \"+\" learnt or \".\" only read, text\n"
    "  --validation   of the validation data\n";

static const char RECIPE_HELP[] = "usage: peft recipe RECIPE.yaml [key=value ...] [--explain] [--adapter-config]\n"
                                  "\n"
                                  "Every value in effect and where it came from.\n"
                                  "\n"
                                  "  --adapter-config   the adapter's configuration as JSON instead\n";

/* A line "   12   4521 + text" of the library's preview. */
static bool parse_line(const char *line, size_t length, bool *out_learnt, const char **out_text, size_t *out_length) {
    size_t at = 0;
    for (int number = 0; number < 2; number++) {
        while (at < length && line[at] == ' ') at++;
        const size_t start = at;
        while (at < length && line[at] >= '0' && line[at] <= '9') at++;
        if (at == start) return false;
    }
    if (at + 3 > length || line[at] != ' ') return false;
    *out_learnt = line[at + 1] == '+';
    *out_text = line + at + 3;
    *out_length = length - at - 3;
    return true;
}

/* The tokens one after another; written line ends become line ends again. */
static void print_inline(const char *text, bool colour) {
    bool on = false;
    const char *first = strchr(text, '\n');
    printf("%.*s\n", (int)(first - text), text);
    for (const char *line = first + 1; *line != '\0';) {
        const size_t length = strcspn(line, "\n");
        bool learnt = false;
        const char *piece = NULL;
        size_t size = 0;
        if (parse_line(line, length, &learnt, &piece, &size)) {
            if (learnt != on) fputs(colour ? (learnt ? "\033[32m" : "\033[0m") : learnt ? "[[" : "]]", stdout);
            on = learnt;
            for (size_t i = 0; i < size; i++) {
                if (piece[i] == '\\' && i + 1 < size && piece[i + 1] == 'n') {
                    putchar('\n');
                    i++;
                } else {
                    putchar(piece[i]);
                }
            }
        }
        line += length + (line[length] == '\n');
    }
    if (on) fputs(colour ? "\033[0m" : "]]", stdout);
    fputs("\n\n", stdout);
}

static bool print_example(cli *c, const peft_dataset *data, int64_t example, bool tokens) {
    uint64_t length = 0;
    if (peft_dataset_preview(data, example, NULL, 0, &length) < 0) return cli_fail(c, NULL);
    char *text = malloc((size_t)length + 1);
    if (text == NULL || peft_dataset_preview(data, example, text, length + 1, &length) < 0) {
        free(text);
        return cli_fail(c, NULL);
    }
    if (tokens)
        printf("%s\n", text);
    else
        print_inline(text, on_terminal(stdout));
    free(text);
    return true;
}

int command_preview(cli *c, args *a) {
    a->help = PREVIEW_HELP;
    if (args_flag(a, "--help")) {
        fputs(PREVIEW_HELP, stdout);
        return EXIT_DONE;
    }
    double count = 3;
    const bool tokens = args_flag(a, "--tokens"), validation = args_flag(a, "--validation");
    if (!args_number(a, "--count", &count)) return EXIT_USAGE;
    run r;
    int code = run_open(&r, c, a, RUN_DATA | (validation ? RUN_VALIDATION : 0));
    if (code == EXIT_DONE) {
        const peft_dataset *data = validation && r.validation != NULL ? r.validation : r.train;
        printf("%s\n", peft_dataset_report(data));
        for (int64_t i = 0; i < peft_dataset_size(data) && (double)i < count && code == EXIT_DONE; i++)
            if (!print_example(c, data, i, tokens)) code = EXIT_FAILED;
    }
    run_close(&r);
    return code;
}

int command_recipe(cli *c, args *a) {
    a->help = RECIPE_HELP;
    if (args_flag(a, "--help")) {
        fputs(RECIPE_HELP, stdout);
        return EXIT_DONE;
    }
    (void)args_flag(a, "--explain");
    const bool config = args_flag(a, "--adapter-config");
    const uint32_t flags = args_flag(a, "--lenient") ? PEFT_RECIPE_LENIENT : PEFT_RECIPE_STRICT;
    const char *path = args_next(a), *word, *overrides[256];
    uint32_t count = 0;
    while (count < 256 && (word = args_next(a)) != NULL) overrides[count++] = word;
    if (!args_done(a)) return EXIT_USAGE;
    if (path == NULL) return args_usage(a, "a recipe is needed");
    peft_recipe *recipe = NULL;
    if (!cli_start(c, 1, 0)) return EXIT_FAILED;
    const bool good = peft_recipe_open(c->context, path, overrides, count, flags, &recipe) >= 0 || cli_fail(c, NULL);
    if (good)
        printf("%s%s", config ? peft_recipe_adapter_config(recipe) : peft_recipe_explain(recipe), config ? "\n" : "");
    peft_recipe_destroy(recipe);
    cli_stop(c);
    return good ? EXIT_DONE : EXIT_FAILED;
}
