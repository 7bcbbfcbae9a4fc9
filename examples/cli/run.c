/* run.c: the objects that a recipe asks for, made in the order in which they need each other, and what is said about
 * them. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void on_log(void *user, int32_t level, const char *line) {
    (void)level;
    cli_note(user, "warning: %s\n", line);
}

double run_number(const run *r, const char *key) {
    double value = 0.0;
    (void)!peft_recipe_get_number(r->recipe, key, &value);
    return value;
}

int64_t run_int(const run *r, const char *key) {
    int64_t value = 0;
    (void)!peft_recipe_get_int(r->recipe, key, &value);
    return value;
}

bool run_flag(const run *r, const char *key) {
    int32_t value = 0;
    (void)!peft_recipe_get_bool(r->recipe, key, &value);
    return value != 0;
}

const char *run_text(const run *r, const char *key) {
    const char *value = NULL;
    (void)!peft_recipe_get_text(r->recipe, key, &value);
    return value;
}

static char *text_join(const char *front, const char *back) {
    char *text = malloc(strlen(front) + strlen(back) + 1);
    if (text == NULL) return NULL;
    memcpy(text, front, strlen(front));
    memcpy(text + strlen(front), back, strlen(back) + 1);
    return text;
}

/* The recipe itself; complaints about it are its own. */
static int open_recipe(run *r, args *a) {
    const char *path = args_next(a), *word;
    const char **overrides = calloc((size_t)a->count + 3, sizeof *overrides);
    uint32_t count = 0;
    const uint32_t flags = args_flag(a, "--lenient") ? PEFT_RECIPE_LENIENT : PEFT_RECIPE_STRICT;
    const char *bad_rows = args_text(a, "--on-bad-row");
    /* The folder of an adapter holds its recipe. */
    char *inside = path != NULL ? path_join(path, "recipe.yaml") : NULL, *output = NULL, *skips = NULL;
    if (inside != NULL && file_exists(inside) && overrides != NULL) {
        output = text_join("output.dir=", path);
        path = inside;
        if (output != NULL) overrides[count++] = output;
    }
    if (bad_rows != NULL && overrides != NULL && (skips = text_join("data.on_bad_row=", bad_rows)) != NULL)
        overrides[count++] = skips;
    while (overrides != NULL && (word = args_next(a)) != NULL) overrides[count++] = word;
    int code = EXIT_FAILED;
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = 1;
    options.log = on_log;
    options.log_user = r->c;
    if (!args_done(a)) {
        code = EXIT_USAGE;
    } else if (path == NULL) {
        code = args_usage(a, "a recipe is needed");
    } else if (overrides == NULL || peft_context_create(&options, &r->reader) < 0) {
        fprintf(stderr, "peft: out of memory\n");
    } else if (peft_recipe_open(r->reader, path, overrides, count, flags, &r->recipe) < 0) {
        fprintf(stderr, "peft: %s\n", peft_context_error(r->reader));
    } else {
        code = EXIT_DONE;
    }
    free(overrides);
    free(inside);
    free(output);
    free(skips);
    return code;
}

static bool open_data(run *r, int32_t part, peft_dataset **out_data) {
    const char *path = peft_recipe_data_path(r->recipe, part);
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    if (path == NULL) {
        fprintf(stderr, "peft: the recipe names no data: set data.train\n");
        return false;
    }
    if (peft_recipe_dataset_options(r->recipe, part, &options) < 0) {
        fprintf(stderr, "peft: %s\n", peft_context_error(r->reader));
        return false;
    }
    return peft_dataset_open(r->c->context, r->model, path, &options, out_data) >= 0 || cli_fail(r->c, NULL);
}

/* A share of few rows may be none: worth a warning, not the end. */
static bool open_validation(run *r) {
    if (peft_recipe_data_path(r->recipe, PEFT_PART_VALIDATION) == NULL) return true;
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    if (peft_recipe_dataset_options(r->recipe, PEFT_PART_VALIDATION, &options) < 0) return false;
    const peft_status status = peft_dataset_open(
        r->c->context, r->model, peft_recipe_data_path(r->recipe, PEFT_PART_VALIDATION), &options, &r->validation);
    if (status == PEFT_E_ARG && options.part == PEFT_PART_VALIDATION) {
        cli_note(r->c, "warning: no validation: %s\n", peft_context_error(r->c->context));
        return true;
    }
    return status >= 0 || cli_fail(r->c, NULL);
}

/* Rows of the largest batch: known beforehand, so that memory is known beforehand. */
static int64_t largest_batch(const run *r) {
    int64_t longest = 0, other = 0;
    const int64_t batch = run_int(r, "train.batch_size");
    peft_dataset_tokens(r->train, NULL, NULL, &longest);
    if (r->validation != NULL) peft_dataset_tokens(r->validation, NULL, NULL, &other);
    if (other > longest) longest = other;
    if (run_flag(r, "data.packing")) {
        int64_t limit = run_int(r, "data.max_length");
        peft_model_info info = {.struct_size = sizeof info};
        if (limit == 0 && peft_model_get_info(r->model, &info) >= 0)
            limit = info.max_position_embeddings > 0 && info.max_position_embeddings < 1024
                        ? info.max_position_embeddings
                        : 1024;
        if (limit > longest) longest = limit;
    }
    return longest * batch;
}

bool run_open_session(run *r, peft_adapter *adapter, peft_session **out_session) {
    return peft_session_create(r->c->context, r->model, &adapter, adapter != NULL ? 1 : 0, &r->session_options,
                               out_session) >= 0 ||
           cli_fail(r->c, NULL);
}

bool run_open_parts(run *r, uint32_t parts) {
    cli *c = r->c;
    if (run_text(r, "model") == NULL) {
        fprintf(stderr, "peft: the recipe names no model: set model to a folder or a .gguf file\n");
        return false;
    }
    if (r->model == NULL && !run_open_model(r)) return false;
    if ((parts & RUN_ADAPTER) != 0 && peft_adapter_create(c->context, r->model, peft_recipe_adapter_config(r->recipe),
                                                          (uint64_t)run_int(r, "train.seed"), &r->adapter) < 0)
        return cli_fail(c, NULL);
    if ((parts & RUN_DATA) != 0 && !open_data(r, PEFT_PART_TRAIN, &r->train)) return false;
    if ((parts & RUN_VALIDATION) != 0 && !open_validation(r)) return false;
    peft_session_options_init(&r->session_options);
    if (peft_recipe_session_options(r->recipe, &r->session_options) < 0) return false;
    if (r->train != NULL) r->session_options.max_rows = largest_batch(r);
    if (r->train != NULL && !run_class_weights(r)) return false;
    if ((parts & RUN_SESSION) != 0 && !run_open_session(r, r->adapter, &r->session)) return false;
    if ((parts & RUN_OPTIMIZER) != 0) {
        peft_optimizer_options options;
        peft_optimizer_options_init(&options);
        if (peft_recipe_optimizer_options(r->recipe, &options) < 0) return false;
        if (peft_optimizer_create(c->context, r->adapter, &options, &r->optimizer) < 0) return cli_fail(c, NULL);
    }
    return true;
}

int run_open_for(run *r, cli *c, args *a, uint32_t parts, const char *adapter) {
    *r = (run){.c = c, .labels_from = adapter};
    c->json = args_flag(a, "--json") || c->json;
    c->quiet = args_flag(a, "--quiet") || c->quiet;
    const int code = open_recipe(r, a);
    if (code != EXIT_DONE) return code;
    if (!cli_start(c, (uint32_t)run_int(r, "train.threads"), (uint64_t)run_int(r, "train.memory_limit_mb") * 1000000u))
        return EXIT_FAILED;
    r->output = text_copy(run_text(r, "output.dir"));
    if (adapter != NULL && adapter[0] == '\0') r->labels_from = r->output;
    return r->output != NULL && run_open_parts(r, parts) ? EXIT_DONE : EXIT_FAILED;
}

int run_open(run *r, cli *c, args *a, uint32_t parts) {
    return run_open_for(r, c, a, parts, NULL);
}

void run_close_parts(run *r) {
    interrupt_ignore();
    peft_optimizer_destroy(r->optimizer);
    peft_session_destroy(r->session);
    peft_dataset_destroy(r->train);
    peft_dataset_destroy(r->validation);
    peft_adapter_destroy(r->adapter);
    if (!r->borrowed_model) peft_model_destroy(r->model);
    r->optimizer = NULL;
    r->session = NULL;
    r->train = r->validation = NULL;
    r->adapter = NULL;
    r->model = NULL;
    free(r->class_weights);
    r->class_weights = NULL;
}

void run_close(run *r) {
    run_close_parts(r);
    peft_recipe_destroy(r->recipe);
    peft_context_destroy(r->reader);
    cli_stop(r->c);
    free(r->output);
}

/* ---- what will happen --------------------------------------------------------------------------------------- */

static void say_data(run *r) {
    for (int part = 0; part < 2; part++) {
        const peft_dataset *data = part == 0 ? r->train : r->validation;
        const char *text = data != NULL ? peft_dataset_report(data) : "";
        for (int line = 0; *text != '\0'; line++) {
            const size_t length = strcspn(text, "\n");
            if (strncmp(text, "warning: ", 9) != 0)
                cli_say(r->c, "%-11s%.*s\n", line > 0 ? "" : part == 0 ? "data" : "validation", (int)length, text);
            text += length + (text[length] == '\n');
        }
    }
}

void run_print_plan(run *r, uint64_t total_steps) {
    char a[64], b[64], d[64], e[64];
    peft_model_info info = {.struct_size = sizeof info};
    if (peft_model_get_info(r->model, &info) >= 0)
        cli_say(r->c, "%-11s%s (%s): %s parameters, %s stored, %lld layers of width %lld\n", "model", info.name,
                info.model_type, format_count(info.parameters, a, sizeof a),
                format_bytes((uint64_t)info.bytes, b, sizeof b), (long long)info.num_hidden_layers,
                (long long)info.hidden_size);
    if (r->adapter != NULL && info.parameters > 0) {
        char *type = json_find_text(peft_adapter_config(r->adapter), "peft_type");
        cli_say(r->c, "%-11s%s: %s trained parameters (%.3g %%)\n", "method", type != NULL ? type : "?",
                format_count(peft_adapter_parameter_count(r->adapter), a, sizeof a),
                100.0 * (double)peft_adapter_parameter_count(r->adapter) / (double)info.parameters);
        free(type);
    }
    say_data(r);
    if (total_steps > 0)
        cli_say(r->c, "%-11s%llu steps, batches of %lld, %lld to a step, learning rate %g, %s, %u threads\n", "run",
                (unsigned long long)total_steps, (long long)run_int(r, "train.batch_size"),
                (long long)run_int(r, "train.gradient_accumulation_steps"), run_number(r, "train.lr"),
                run_text(r, "train.lr_scheduler"), peft_context_threads(r->c->context));
    peft_memory_info memory = {.struct_size = sizeof memory};
    if (r->adapter != NULL && r->train != NULL &&
        peft_session_memory(r->c->context, r->model, &r->adapter, 1, &r->session_options, &memory) >= 0)
        cli_say(r->c, "%-11s%s activations + %s gradients + %s optimizer + %s weights (mapped)\n", "memory",
                format_bytes(memory.activations, a, sizeof a), format_bytes(memory.gradients, b, sizeof b),
                format_bytes(memory.optimizer, d, sizeof d), format_bytes(memory.weights, e, sizeof e));
}

/* ---- evaluation ------------------------------------------------------------------------------------------------ */

bool run_evaluate(run *r, peft_session *session, peft_dataset *data, int64_t most, double *out_loss,
                  double *out_count) {
    uint64_t epoch, batch;
    peft_dataset_position(data, &epoch, &batch);
    double sum = 0.0, count = 0.0;
    if (peft_dataset_seek(data, 0, 0) < 0) return cli_fail(r->c, NULL);
    for (int64_t i = 0; (most <= 0 || i < most) && !interrupted(); i++) {
        peft_batch rows;
        peft_batch_init(&rows);
        double loss = 0.0, targets = 0.0;
        peft_status status = peft_dataset_next(data, &rows);
        if (status == PEFT_END) break;
        if (status >= 0) status = peft_session_eval(session, &rows, &loss, &targets);
        if (status == PEFT_E_CANCELLED) break;
        if (status < 0) return cli_fail(r->c, NULL);
        sum += loss * targets;
        count += targets;
    }
    *out_loss = count > 0.0 ? sum / count : NAN;
    if (out_count != NULL) *out_count = count;
    return peft_dataset_seek(data, epoch, batch) >= 0 || cli_fail(r->c, NULL);
}

char *adapter_chat_template(const char *folder) {
    char *path = path_join(folder, "libpeft.json");
    char *text = path != NULL ? read_file(path, NULL) : NULL;
    char *name = text != NULL ? json_find_text(text, "chat_template") : NULL;
    free(text);
    free(path);
    return name;
}
