/* inspect.c: `peft inspect`: what is in a file or folder, whatever it is. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char HELP[] =
    "usage: peft inspect PATH [--modules] [--tensors] [--report] [--model BASE]\n"
    "\n"
    "PATH is a model (Hugging Face folder or .gguf), an adapter folder, a tokenizer.json or a .safetensors file.\n"
    "\n"
    "  --modules      every module that target_modules can name\n"
    "  --tensors      every stored tensor\n"
    "  --report       what loading matched, missed and left over\n"
    "  --model BASE   an adapter is loaded on this model, strictly\n";

static bool is_folder(const char *path) {
    struct stat about;
    return stat(path, &about) == 0 && S_ISDIR(about.st_mode);
}

static bool has(const char *folder, const char *name) {
    char *path = path_join(folder, name);
    const bool found = path != NULL && file_exists(path);
    free(path);
    return found;
}

static bool ends_with(const char *text, const char *end) {
    const size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

static void print_shape(const peft_tensor_info *info) {
    putchar('[');
    for (uint32_t d = 0; d < info->ndim; d++) printf("%s%lld", d > 0 ? ", " : "", (long long)info->shape[d]);
    putchar(']');
}

static bool tensors(cli *c, const char *path, bool all) {
    peft_tensor_file *file = NULL;
    if (peft_tensor_file_open(c->context, path, &file) < 0) return cli_fail(c, NULL);
    const uint32_t count = peft_tensor_file_count(file);
    uint64_t bytes[PEFT_DTYPE_OTHER + 1] = {0};
    uint32_t of_type[PEFT_DTYPE_OTHER + 1] = {0};
    for (uint32_t i = 0; i < count; i++) {
        peft_tensor_info info = {.struct_size = sizeof info};
        if (peft_tensor_file_tensor(file, i, &info) < 0) continue;
        const int32_t type = info.dtype >= 0 && info.dtype <= PEFT_DTYPE_OTHER ? info.dtype : PEFT_DTYPE_OTHER;
        bytes[type] += info.bytes;
        of_type[type]++;
        if (!all) continue;
        printf("%-60s %-5s ", info.name, peft_dtype_name(info.dtype));
        print_shape(&info);
        putchar('\n');
    }
    printf("%u tensors:", count);
    for (int32_t type = 0; type <= PEFT_DTYPE_OTHER; type++) {
        char text[32];
        if (of_type[type] > 0)
            printf(" %u %s (%s)", of_type[type], peft_dtype_name(type), format_bytes(bytes[type], text, sizeof text));
    }
    putchar('\n');
    for (uint32_t i = 0; i < peft_tensor_file_key_count(file); i++) {
        const char *key = peft_tensor_file_key(file, i), *text = peft_tensor_file_text(file, key);
        if (text != NULL && strncmp(key, "general.", 8) == 0) printf("%s: %.200s\n", key, text);
    }
    peft_tensor_file_close(file);
    return true;
}

static void tokenizer_words(const peft_tokenizer *tokenizer) {
    static const char *const NAMES[] = {"bos", "eos", "unk", "pad", "cls", "sep", "mask"};
    printf("%-11s%d ids", "tokenizer", peft_tokenizer_size(tokenizer));
    for (int32_t which = PEFT_SPECIAL_BOS; which <= PEFT_SPECIAL_MASK; which++) {
        const int32_t id = peft_tokenizer_special(tokenizer, which);
        if (id >= 0) printf(", %s %d %s", NAMES[which], id, peft_tokenizer_id_to_token(tokenizer, id, NULL));
    }
    putchar('\n');
    if (peft_tokenizer_chat_template(tokenizer) == NULL) {
        printf("%-11snone\n", "template");
        return;
    }
    const peft_chat_message message = {.role = "user", .content = "Hello"};
    char text[4096];
    size_t length = 0;
    const peft_status status =
        peft_chat_render(tokenizer, NULL, &message, 1, 1, text, sizeof text, &length, NULL, 0, NULL);
    if (status < 0) {
        printf("%-11sthe model carries one that is not recognised: name one with data.chat_template\n", "template");
        return;
    }
    printf("%-11s\"Hello\" becomes ", "template");
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '\n')
            fputs("\\n", stdout);
        else
            putchar(text[i]);
    }
    putchar('\n');
}

static bool tokenizer(cli *c, const char *path) {
    peft_tokenizer *words = NULL;
    if (peft_tokenizer_open(c->context, path, &words) < 0) return cli_fail(c, NULL);
    tokenizer_words(words);
    peft_tokenizer_close(words);
    return true;
}

static void modules(const peft_model *m) {
    static const char *const KINDS[] = {"?", "linear", "conv1d", "embedding", "norm", "table"};
    for (uint32_t i = 0; i < peft_model_module_count(m); i++) {
        peft_module_info info = {.struct_size = sizeof info};
        if (peft_model_module(m, i, &info) < 0) continue;
        printf("%-50s %-10s %6lld -> %-6lld %s%s\n", info.name,
               info.kind >= 0 && info.kind <= 5 ? KINDS[info.kind] : "?", (long long)info.in_features,
               (long long)info.out_features, peft_dtype_name(info.dtype), info.is_new ? " (new)" : "");
    }
}

static bool model(cli *c, const char *path, bool list_modules, bool list_tensors, bool report) {
    char a[64], b[64];
    peft_model *m = NULL;
    peft_model_info info = {.struct_size = sizeof info};
    if (peft_model_load(c->context, path, NULL, &m) < 0 || peft_model_get_info(m, &info) < 0) {
        cli_fail(c, NULL);
        peft_model_destroy(m);
        return false;
    }
    printf("%-11s%s (%s)\n", "model", info.name, info.model_type);
    printf("%-11s%s parameters, %s stored, hash %016llx\n", "size", format_count(info.parameters, a, sizeof a),
           format_bytes((uint64_t)info.bytes, b, sizeof b), (unsigned long long)info.hash);
    printf("%-11s%lld layers, width %lld, %lld heads (%lld for keys and values) of %lld, mlp %lld, vocabulary %lld, "
           "%lld positions\n",
           "shape", (long long)info.num_hidden_layers, (long long)info.hidden_size, (long long)info.num_attention_heads,
           (long long)info.num_key_value_heads, (long long)info.head_dim, (long long)info.intermediate_size,
           (long long)info.vocab_size, (long long)info.max_position_embeddings);
    if (peft_model_tokenizer(m) != NULL)
        tokenizer_words(peft_model_tokenizer(m));
    else
        printf("%-11snone\n", "tokenizer");
    bool good = tensors(c, path, list_tensors);
    if (list_modules) modules(m);
    if (report) fputs(peft_model_load_report(m), stdout);
    peft_model_destroy(m);
    return good;
}

static bool adapter(cli *c, const char *path, const char *base, bool list_tensors) {
    char *config_path = path_join(path, "adapter_config.json"), *notes_path = path_join(path, "libpeft.json");
    char *weights = path_join(path, "adapter_model.safetensors");
    char *config = config_path != NULL ? read_file(config_path, NULL) : NULL,
         *notes = notes_path != NULL ? read_file(notes_path, NULL) : NULL;
    bool good = config != NULL && weights != NULL;
    if (good) printf("adapter_config.json: %s\n", config);
    if (notes != NULL) printf("libpeft.json: %s\n", notes);
    if (good && file_exists(weights)) good = tensors(c, weights, list_tensors);
    if (good && base != NULL) {
        peft_model *m = NULL;
        peft_adapter *loaded = NULL;
        good = (peft_model_load(c->context, base, NULL, &m) >= 0 &&
                peft_adapter_load(c->context, m, path, &loaded) >= 0) ||
               cli_fail(c, NULL);
        if (good) printf("fits %s:\n%s", base, peft_adapter_report(loaded));
        peft_adapter_destroy(loaded);
        peft_model_destroy(m);
    }
    free(config_path);
    free(notes_path);
    free(weights);
    free(config);
    free(notes);
    return good;
}

int command_inspect(cli *c, args *a) {
    a->help = HELP;
    if (args_flag(a, "--help")) {
        fputs(HELP, stdout);
        return EXIT_DONE;
    }
    const bool list_modules = args_flag(a, "--modules"), list_tensors = args_flag(a, "--tensors"),
               report = args_flag(a, "--report");
    const char *base = args_text(a, "--model"), *path = args_next(a);
    if (!args_done(a)) return EXIT_USAGE;
    if (path == NULL) return args_usage(a, "a path is needed");
    if (!cli_start(c, 1, 0)) return EXIT_FAILED;
    bool good;
    if (!file_exists(path)) {
        fprintf(stderr, "peft: %s does not exist\n", path);
        good = false;
    } else if (is_folder(path) && has(path, "adapter_config.json")) {
        good = adapter(c, path, base, list_tensors);
    } else if (is_folder(path) && has(path, "config.json")) {
        good = model(c, path, list_modules, list_tensors, report);
    } else if (is_folder(path) && (has(path, "tokenizer.json") || has(path, "vocab.json") || has(path, "vocab.txt"))) {
        good = tokenizer(c, path);
    } else if (!is_folder(path) && ends_with(path, ".json")) {
        good = tokenizer(c, path);
    } else if (!is_folder(path) && ends_with(path, ".gguf")) {
        good = model(c, path, list_modules, list_tensors, report) || tensors(c, path, list_tensors);
    } else {
        good = tensors(c, path, true);
    }
    cli_stop(c);
    return good ? EXIT_DONE : EXIT_FAILED;
}
