/* generate.c: `peft generate`: continues a prompt, or talks. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "usage: peft generate MODEL [--adapter DIR] [--prompt TEXT] [options]\n"
    "\n"
    "Continues a text. Without --prompt it is a conversation: one line a turn, an empty line or Ctrl-D ends it.\n"
    "\n"
    "  --adapter DIR           with this adapter\n"
    "  --scale X               how strongly the adapter acts (1 = as trained)\n"
    "  --prompt TEXT           the text; \"-\" reads standard input\n"
    "  --chat                  the prompt is a user's message, put into the chat template\n"
    "  --system TEXT           what stands before a conversation\n"
    "  --template NAME         chat template (default: the one the adapter was trained with, else the model's)\n"
    "  --max-new-tokens N      default 128\n"
    "  --temperature X         0 = always the most likely token (default)\n"
    "  --top-k N, --top-p X, --repetition-penalty X, --seed N\n"
    "  --stop TEXT             ends where this text comes (up to four times)\n"
    "  --threads N\n";

enum { MOST_STOPS = 4, MOST_TURNS = 400 };

typedef struct talk {
    cli *c;
    const char *model_path, *folder, *prompt, *system;
    bool chat;
    double scale;
    uint32_t threads;
    writer_options options;
    const char *stops[MOST_STOPS];
    char *own_template;
    peft_model *model;
    peft_adapter *adapter;
    peft_session *session;
} talk;

static bool read_options(talk *t, args *a) {
    peft_generate_options *g = &t->options.generate;
    double most = 128, temperature = 0, top_k = 0, top_p = 1, penalty = 1, seed = 0, threads = 0;
    peft_generate_options_init(g);
    t->scale = 1.0;
    t->folder = args_text(a, "--adapter");
    t->prompt = args_text(a, "--prompt");
    t->system = args_text(a, "--system");
    t->options.chat_template = args_text(a, "--template");
    t->chat = args_flag(a, "--chat");
    const char *stop;
    while (g->stop_count < MOST_STOPS && (stop = args_text(a, "--stop")) != NULL) t->stops[g->stop_count++] = stop;
    g->stop = t->stops;
    (void)args_number(a, "--max-new-tokens", &most);
    (void)args_number(a, "--temperature", &temperature);
    (void)args_number(a, "--top-k", &top_k);
    (void)args_number(a, "--top-p", &top_p);
    (void)args_number(a, "--repetition-penalty", &penalty);
    (void)args_number(a, "--seed", &seed);
    (void)args_number(a, "--threads", &threads);
    (void)args_number(a, "--scale", &t->scale);
    t->model_path = args_next(a);
    if (!args_done(a)) return false;
    if (!(most >= 1 && most <= 1e6 && temperature >= 0 && top_k >= 0 && top_k <= 1e9 && top_p >= 0 && top_p <= 1 &&
          penalty > 0 && seed >= 0 && threads >= 0 && threads <= 1024)) {
        fprintf(stderr, "peft: an option is out of range\n\n%s", a->help);
        return false;
    }
    g->max_new_tokens = (uint32_t)most;
    g->temperature = (float)temperature;
    g->top_k = (uint32_t)top_k;
    g->top_p = (float)top_p;
    g->repetition_penalty = (float)penalty;
    g->seed = (uint64_t)seed;
    t->threads = (uint32_t)threads;
    return true;
}

static bool open_model(talk *t) {
    cli *c = t->c;
    peft_session_options options;
    peft_session_options_init(&options);
    options.inference = 1;
    if (peft_model_load(c->context, t->model_path, NULL, &t->model) < 0) return cli_fail(c, NULL);
    if (peft_model_tokenizer(t->model) == NULL) {
        fprintf(stderr, "peft: %s has no tokenizer\n", t->model_path);
        return false;
    }
    if (t->folder != NULL) {
        if (peft_adapter_load(c->context, t->model, t->folder, &t->adapter) < 0) return cli_fail(c, NULL);
        if (t->scale != 1.0 && peft_adapter_set_scale(t->adapter, (float)t->scale) < 0) return cli_fail(c, NULL);
        if (t->options.chat_template == NULL)
            t->options.chat_template = t->own_template = adapter_chat_template(t->folder);
    }
    return peft_session_create(c->context, t->model, &t->adapter, t->adapter != NULL ? 1 : 0, &options, &t->session) >=
               0 ||
           cli_fail(c, NULL);
}

static bool one_prompt(talk *t) {
    char *input = strcmp(t->prompt, "-") == 0 ? read_file("/dev/stdin", NULL) : text_copy(t->prompt), *rendered = NULL;
    const peft_tokenizer *tokenizer = peft_model_tokenizer(t->model);
    bool good = input != NULL;
    if (good && (t->chat || t->system != NULL)) {
        const peft_chat_message messages[2] = {{.role = "system", .content = t->system},
                                               {.role = "user", .content = input}};
        const size_t skip = t->system == NULL ? 1 : 0;
        rendered = render_chat(t->c, tokenizer, t->options.chat_template, messages + skip, 2 - skip);
        good = rendered != NULL;
    }
    good = good && write_text(t->c, t->session, tokenizer, rendered != NULL ? rendered : input, rendered != NULL,
                              &t->options, stdout, NULL);
    if (good) putchar('\n');
    free(rendered);
    free(input);
    return good;
}

static char *read_line(void) {
    char *line = NULL;
    size_t capacity = 0;
    const ssize_t length = getline(&line, &capacity, stdin);
    if (length <= 0) {
        free(line);
        return NULL;
    }
    if (line[length - 1] == '\n') line[length - 1] = '\0';
    return line;
}

static bool conversation(talk *t) {
    peft_chat_message *messages = calloc(MOST_TURNS + 1, sizeof *messages);
    size_t count = 0;
    bool good = messages != NULL;
    if (good && t->system != NULL)
        messages[count++] = (peft_chat_message){.role = "system", .content = text_copy(t->system)};
    while (good && count + 2 <= MOST_TURNS && !interrupted()) {
        if (on_terminal(stdin)) fputs("> ", stderr);
        char *line = read_line(), *answer = NULL;
        if (line == NULL || line[0] == '\0') {
            free(line);
            break;
        }
        messages[count++] = (peft_chat_message){.role = "user", .content = line};
        char *text = render_chat(t->c, peft_model_tokenizer(t->model), t->options.chat_template, messages, count);
        good = text != NULL &&
               write_text(t->c, t->session, peft_model_tokenizer(t->model), text, true, &t->options, stdout, &answer);
        free(text);
        putchar('\n');
        fflush(stdout);
        if (good) messages[count++] = (peft_chat_message){.role = "assistant", .content = answer};
    }
    for (size_t i = 0; i < count; i++) free((char *)(uintptr_t)messages[i].content);
    free(messages);
    return good;
}

int command_generate(cli *c, args *a) {
    a->help = HELP;
    if (args_flag(a, "--help")) {
        fputs(HELP, stdout);
        return EXIT_DONE;
    }
    talk t = {.c = c};
    if (!read_options(&t, a)) return EXIT_USAGE;
    if (t.model_path == NULL) return args_usage(a, "a model is needed");
    bool good = cli_start(c, t.threads, 0) && open_model(&t);
    if (good) {
        interrupt_watch(t.session);
        good = t.prompt != NULL ? one_prompt(&t) : conversation(&t);
        interrupt_ignore();
    }
    peft_session_destroy(t.session);
    peft_adapter_destroy(t.adapter);
    peft_model_destroy(t.model);
    cli_stop(c);
    free(t.own_template);
    return interrupted() ? EXIT_INTERRUPTED : good ? EXIT_DONE : EXIT_FAILED;
}
