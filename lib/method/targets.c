/* targets.c: which modules a method adapts.
 *
 * The rules are HF PEFT's, to the letter where they show: a list matches whole dotted suffixes, a string is a regular
 * expression over the full name, "all-linear" takes every linear layer but the output layer, exclude_modules and
 * modules_to_save come first, layers_to_transform applies to suffix matches only. Where nothing matches we say what
 * there is, because a target list that misses is the most common mistake there is.
 */
#include <ctype.h>
#include <stdlib.h>

#include "method/adapter.h"

static const char *const WHERE = "adapter_config.json";

enum { CONDENSE_FROM = 20, MOST_SHOWN = 12 };

typedef struct matcher {
    const json_t *names;  /* a list of strings, or NULL */
    peft__pattern *regex; /* or NULL */
} matcher;

static void matcher_free(matcher *m) {
    peft__pattern_free(m->regex);
    m->regex = NULL;
}

static peft_status check_names(peft_context *ctx, const char *key, const json_t *value) {
    if (!json_is_array(value))
        return peft__fail(ctx, PEFT_E_FORMAT,
                          "%s: %s: expected a list of module names or a regular expression, found %s", WHERE, key,
                          peft__json_kind(value));
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        if (!json_is_string(item) || json_string_length(item) != strlen(json_string_value(item)) ||
            json_string_length(item) == 0)
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: %s[%zu]: expected a module name, found %s", WHERE, key, i,
                              peft__json_kind(item));
    }
    return PEFT_OK;
}

static peft_status matcher_make(peft_context *ctx, const json_t *config, const char *key, matcher *out) {
    const json_t *value = peft__json_value(config, key);
    const matcher none = {NULL, NULL};
    *out = none;
    if (value == NULL) return PEFT_OK;
    if (json_is_string(value)) {
        const char *text = NULL;
        PEFT_TRY(peft__json_need_string(ctx, config, WHERE, key, &text));
        return text[0] == 0 ? PEFT_OK : peft__pattern_compile(ctx, key, "", text, &out->regex);
    }
    PEFT_TRY(check_names(ctx, key, value));
    out->names = value;
    return PEFT_OK;
}

/* *out_exact: by its whole name. */
static peft_status matcher_match(peft_context *ctx, const matcher *m, const char *name, bool *out_match,
                                 bool *out_exact) {
    *out_match = *out_exact = false;
    if (name == NULL) return PEFT_OK;
    if (m->regex != NULL) return peft__pattern_match(ctx, m->regex, name, out_match);
    for (size_t i = 0; m->names != NULL && i < json_array_size(m->names); i++) {
        const char *wanted = json_string_value(json_array_get(m->names, i));
        if (strcmp(name, wanted) == 0) *out_exact = true;
        if (peft__module_suffix(name, wanted)) *out_match = true;
    }
    return PEFT_OK;
}

/* Does `run` occur in the dotted path as whole components? */
static bool has_components(const char *path, const char *run) {
    const size_t length = strlen(run);
    for (const char *at = path; (at = strstr(at, run)) != NULL; at++)
        if ((at == path || at[-1] == '.') && (at[length] == 0 || at[length] == '.')) return true;
    return false;
}

static bool is_saved(const json_t *config, const char *name) {
    const json_t *list = json_object_get(config, "modules_to_save");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *saved = json_string_value(json_array_get(list, i));
        if (saved != NULL && has_components(name, saved)) return true;
    }
    return false;
}

/* ---- layers_to_transform ---- */

/* The number after the component run `pattern` ("" = any component but the very first), or -1. */
static int64_t layer_number(const char *name, const char *pattern) {
    const size_t length = strlen(pattern);
    for (const char *at = name; at != NULL; at = strchr(at, '.'), at = at != NULL ? at + 1 : NULL) {
        const char *number = at;
        if (length > 0) {
            if (strncmp(at, pattern, length) != 0 || at[length] != '.') continue;
            number = at + length + 1;
        } else {
            const char *dot = strchr(name, '.');
            const char *second = dot != NULL ? strchr(dot + 1, '.') : NULL;
            if (second == NULL || at <= second) continue;
        }
        const char *end = number;
        while (isdigit((unsigned char)*end)) end++;
        int64_t value = 0;
        if (end > number && *end == '.' && peft__parse_i64(number, (size_t)(end - number), &value)) return value;
    }
    return -1;
}

static peft_status check_layer_keys(peft_adapter *adapter) {
    const json_t *layers = peft__json_value(adapter->config, "layers_to_transform");
    const json_t *pattern = peft__json_value(adapter->config, "layers_pattern");
    if (layers == NULL) {
        if (pattern != NULL && !(json_is_array(pattern) && json_array_size(pattern) == 0) &&
            !(json_is_string(pattern) && json_string_length(pattern) == 0))
            return peft__fail(adapter->ctx, PEFT_E_ARG, "%s: layers_pattern is given without layers_to_transform",
                              WHERE);
        return PEFT_OK;
    }
    if (json_is_string(json_object_get(adapter->config, "target_modules")))
        return peft__fail(adapter->ctx, PEFT_E_ARG,
                          "%s: layers_to_transform needs target_modules as a list, not as a regular expression", WHERE);
    const size_t count = json_is_array(layers) ? json_array_size(layers) : 1;
    const int64_t blocks = peft__model_dims(adapter->model)->num_hidden_layers;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_is_array(layers) ? json_array_get(layers, i) : layers;
        if (!json_is_integer(item) || json_integer_value(item) < 0)
            return peft__fail(adapter->ctx, PEFT_E_FORMAT, "%s: layers_to_transform: expected layer numbers, found %s",
                              WHERE, peft__json_kind(item));
        if (json_integer_value(item) >= blocks)
            peft__log(adapter->ctx, PEFT_LOG_WARNING,
                      "%s: layers_to_transform names layer %lld, the model has %lld layers", WHERE,
                      (long long)json_integer_value(item), (long long)blocks);
    }
    const size_t patterns = json_is_array(pattern) ? json_array_size(pattern) : pattern != NULL ? 1 : 0;
    for (size_t i = 0; i < patterns; i++) {
        const json_t *item = json_is_array(pattern) ? json_array_get(pattern, i) : pattern;
        if (!json_is_string(item))
            return peft__fail(adapter->ctx, PEFT_E_FORMAT, "%s: layers_pattern: expected names, found %s", WHERE,
                              peft__json_kind(item));
        for (const char *c = json_string_value(item); *c != 0; c++)
            if (!isalnum((unsigned char)*c) && *c != '_' && *c != '.')
                return peft__fail(adapter->ctx, PEFT_E_UNSUPPORTED,
                                  "%s: layers_pattern \"%.80s\": only plain names are built", WHERE,
                                  json_string_value(item));
    }
    return PEFT_OK;
}

static bool layer_wanted(const json_t *config, const char *name) {
    const json_t *layers = peft__json_value(config, "layers_to_transform");
    if (layers == NULL || (json_is_array(layers) && json_array_size(layers) == 0)) return true;
    const json_t *pattern = peft__json_value(config, "layers_pattern");
    int64_t number = -1;
    if (json_is_array(pattern) && json_array_size(pattern) > 0) {
        for (size_t i = 0; number < 0 && i < json_array_size(pattern); i++)
            number = layer_number(name, json_string_value(json_array_get(pattern, i)));
    } else {
        number = layer_number(name, json_is_string(pattern) ? json_string_value(pattern) : "");
    }
    if (number < 0) return false;
    if (json_is_integer(layers)) return json_integer_value(layers) == number;
    for (size_t i = 0; i < json_array_size(layers); i++)
        if (json_integer_value(json_array_get(layers, i)) == number) return true;
    return false;
}

/* ---- what the user meant where the file says null or "all-linear" ---- */

static int compare_texts(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool is_target(const char *const *targets, size_t count, const char *name) {
    return bsearch(&name, targets, count, sizeof *targets, compare_texts) != NULL;
}

static size_t component_count(const char *name) {
    size_t count = 1;
    for (; *name != 0; name++) count += *name == '.';
    return count;
}

static const char *last_components(const char *name, size_t count) {
    const char *at = name + strlen(name);
    for (; at > name; at--)
        if (at[-1] == '.' && --count == 0) break;
    return at;
}

/* The shortest suffix of `name` that no other module has. */
static const char *distinct_suffix(const peft_adapter *adapter, const char *const *targets, size_t count,
                                   const char *name) {
    const size_t parts = component_count(name);
    for (size_t keep = 1; keep <= parts; keep++) {
        const char *suffix = last_components(name, keep);
        bool other = false;
        for (uint32_t i = 0; !other && i < peft__model_module_count(adapter->model); i++) {
            const char *module = peft__model_module_at(adapter->model, i)->name;
            other = peft__module_suffix(module, suffix) && !is_target(targets, count, module);
        }
        if (!other) return suffix;
    }
    return name;
}

/* Long lists are saved as the suffixes that tell them from all other modules. */
static size_t condense(const peft_adapter *adapter, const char *const *targets, size_t count, const char **out) {
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        bool covered = false;
        for (size_t k = 0; !covered && k < kept; k++) covered = peft__module_suffix(targets[i], out[k]);
        if (!covered) out[kept++] = distinct_suffix(adapter, targets, count, targets[i]);
    }
    return kept;
}

static peft_status expand_all_linear(peft_adapter *adapter) {
    peft_context *ctx = adapter->ctx;
    const uint32_t modules = peft__model_module_count(adapter->model);
    const char **names = peft__arena_alloc(&adapter->arena, (modules + 1) * sizeof *names);
    const char **shorter = peft__arena_alloc(&adapter->arena, (modules + 1) * sizeof *names);
    if (names == NULL || shorter == NULL) return peft__fail_nomem(ctx, modules * sizeof *names, "target modules");
    size_t count = 0;
    for (uint32_t i = 0; i < modules; i++) {
        const peft__module *module = peft__model_module_at(adapter->model, i);
        if ((module->kind == PEFT_MODULE_LINEAR || module->kind == PEFT_MODULE_CONV1D) && !module->is_head)
            names[count++] = module->name;
    }
    if (count > 0) qsort(names, count, sizeof *names, compare_texts);
    if (count >= CONDENSE_FROM) {
        const size_t kept = condense(adapter, names, count, shorter);
        if (kept < count) {
            names = shorter;
            count = kept;
            qsort(names, count, sizeof *names, compare_texts);
        }
    }
    return peft__config_set_names(ctx, adapter->config, "target_modules", names, count);
}

static peft_status use_defaults(peft_adapter *adapter, const peft__default_targets *defaults) {
    const char *model_type = "";
    PEFT_TRY(peft__json_get_string(adapter->ctx, peft__model_config_json(adapter->model), "config.json", "model_type",
                                   "", &model_type));
    for (; defaults != NULL && defaults->model_type != NULL; defaults++) {
        if (strcmp(defaults->model_type, model_type) != 0) continue;
        size_t count = 0;
        while (count < PEFT_COUNT(defaults->names) && defaults->names[count] != NULL) count++;
        return peft__config_set_names(adapter->ctx, adapter->config, "target_modules", defaults->names, count);
    }
    return peft__fail(adapter->ctx, PEFT_E_ARG,
                      "%s: target_modules is not given and there is no default for model_type \"%.60s\"", WHERE,
                      model_type);
}

/* ---- nothing matched ---- */

static const char *last_part(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot != NULL ? dot + 1 : name;
}

/* Distinct last parts of the names of modules of the given kinds. */
static size_t distinct_parts(peft_adapter *adapter, uint32_t kinds, const char **out, size_t room) {
    size_t count = 0;
    for (uint32_t i = 0; i < peft__model_module_count(adapter->model) && count < room; i++) {
        const peft__module *module = peft__model_module_at(adapter->model, i);
        if ((kinds & PEFT__KIND(module->kind)) == 0) continue;
        const char *part = last_part(module->name);
        bool known = false;
        for (size_t k = 0; !known && k < count; k++) known = strcmp(out[k], part) == 0;
        if (!known) out[count++] = part;
    }
    return count;
}

static peft_status nothing_matched(peft_adapter *adapter, const json_t *targets, uint32_t kinds, uint32_t spared) {
    peft_context *ctx = adapter->ctx;
    const char *parts[64];
    const size_t count = distinct_parts(adapter, kinds, parts, PEFT_COUNT(parts));
    peft__buffer text;
    peft__buffer_init(&text, ctx->mem);
    const size_t wanted = json_is_array(targets) ? json_array_size(targets) : 1;
    for (size_t i = 0; i < wanted && i < 4; i++) {
        const char *name = json_string_value(json_is_array(targets) ? json_array_get(targets, i) : targets);
        const char *closest = json_is_array(targets) ? peft__closest(last_part(name), parts, count) : NULL;
        peft__buffer_printf(&text, "%s\"%.100s\"%s%s%s", i > 0 ? ", " : " ", name, closest != NULL ? " (closest: " : "",
                            closest != NULL ? closest : "", closest != NULL ? ")" : "");
    }
    if (wanted > 4) peft__buffer_printf(&text, " and %zu more", wanted - 4);
    peft__buffer_puts(&text, "; the model has");
    for (size_t i = 0; i < count && i < MOST_SHOWN; i++)
        peft__buffer_printf(&text, "%s %s", i > 0 ? "," : "", parts[i]);
    const peft_status status =
        spared > 0 ? peft__fail(ctx, PEFT_E_MISMATCH,
                                "%s: exclude_modules or modules_to_save take all %u modules that target_modules%s",
                                WHERE, spared, text.data != NULL ? text.data : "")
                   : peft__fail(ctx, PEFT_E_MISMATCH, "%s: no module matches target_modules%s", WHERE,
                                text.data != NULL ? text.data : "");
    peft__buffer_free(&text);
    return status;
}

/* Entries of the list that match nothing are worth a word: HF PEFT ignores them. */
static void warn_idle_names(peft_adapter *adapter, const json_t *targets) {
    for (size_t i = 0; json_is_array(targets) && i < json_array_size(targets); i++) {
        const char *name = json_string_value(json_array_get(targets, i));
        bool used = false;
        for (uint32_t k = 0; !used && k < peft__model_module_count(adapter->model); k++) {
            const char *module = peft__model_module_at(adapter->model, k)->name;
            const char *older = peft__older_name(adapter->model, &adapter->arena, module);
            used = peft__module_suffix(module, name) || (older != NULL && peft__module_suffix(older, name));
        }
        if (!used)
            peft__log(adapter->ctx, PEFT_LOG_WARNING, "%s: target_modules: \"%.100s\" matches no module", WHERE, name);
    }
}

static const char *kind_text(int32_t kind) {
    static const char *const TEXTS[] = {"?", "linear layer", "Conv1D layer", "embedding", "norm", "bare table"};
    return kind > 0 && (size_t)kind < PEFT_COUNT(TEXTS) ? TEXTS[kind] : TEXTS[0];
}

/* Does target_modules name this module? *out_spared: something takes it away again. */
static peft_status is_wanted(peft_adapter *adapter, const matcher *target, const matcher *exclude, const char *name,
                             bool *out_wanted, bool *out_spared) {
    peft_context *ctx = adapter->ctx;
    const char *older = peft__older_name(adapter->model, &adapter->arena, name);
    bool match = false, exact = false, match_older = false, exact_older = false;
    PEFT_TRY(matcher_match(ctx, target, name, &match, &exact));
    PEFT_TRY(matcher_match(ctx, target, older, &match_older, &exact_older));
    bool wanted = match || match_older;
    if (wanted && !exact && !exact_older && target->regex == NULL) wanted = layer_wanted(adapter->config, name);
    *out_wanted = *out_spared = false;
    if (!wanted) return PEFT_OK;
    PEFT_TRY(matcher_match(ctx, exclude, name, &match, &exact));
    PEFT_TRY(matcher_match(ctx, exclude, older, &match_older, &exact_older));
    *out_spared = match || match_older || is_saved(adapter->config, name);
    *out_wanted = !*out_spared;
    return PEFT_OK;
}

static peft_status collect(peft_adapter *adapter, uint32_t kinds, const matcher *target, const matcher *exclude,
                           peft__targets *out) {
    peft_context *ctx = adapter->ctx;
    const uint32_t modules = peft__model_module_count(adapter->model);
    const peft__module **found = peft__arena_alloc(&adapter->arena, (modules + 1) * sizeof *found);
    if (found == NULL) return peft__fail_nomem(ctx, modules * sizeof *found, "target modules");
    uint32_t count = 0, spared_count = 0;
    for (uint32_t i = 0; i < modules; i++) {
        const peft__module *module = peft__model_module_at(adapter->model, i);
        bool wanted = false, spared = false;
        PEFT_TRY(is_wanted(adapter, target, exclude, module->name, &wanted, &spared));
        spared_count += spared;
        if (!wanted) continue;
        if ((kinds & PEFT__KIND(module->kind)) == 0)
            return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: target_modules takes %s, a %s, which %s cannot adapt",
                              WHERE, module->name, kind_text(module->kind), adapter->method->peft_type);
        if (module->is_new)
            return peft__fail(
                ctx, PEFT_E_ARG,
                "%s: target_modules takes %s, which is new and has no weights to adapt; put it into modules_to_save",
                WHERE, module->name);
        found[count++] = module;
    }
    const json_t *targets = json_object_get(adapter->config, "target_modules");
    if (count == 0) return nothing_matched(adapter, targets, kinds, spared_count);
    if (!adapter->loading) warn_idle_names(adapter, targets);
    out->modules = found;
    out->count = count;
    adapter->modules += count;
    return PEFT_OK;
}

static bool is_all_linear(const json_t *value) {
    const char *text = json_is_string(value) ? json_string_value(value) : "";
    const char *word = "all-linear";
    while (*word != 0 && tolower((unsigned char)*text) == *word) text++, word++;
    return *word == 0 && *text == 0;
}

peft_status peft__targets_find(peft_adapter *adapter, uint32_t kinds, const peft__default_targets *defaults,
                               peft__targets *out_targets) {
    const json_t *value = peft__json_value(adapter->config, "target_modules");
    if (value == NULL)
        PEFT_TRY(use_defaults(adapter, defaults));
    else if (is_all_linear(value))
        PEFT_TRY(expand_all_linear(adapter));
    else if (!json_is_string(value))
        PEFT_TRY(check_names(adapter->ctx, "target_modules", value));
    PEFT_TRY(check_layer_keys(adapter));
    matcher target = {NULL, NULL}, exclude = {NULL, NULL};
    peft_status status = matcher_make(adapter->ctx, adapter->config, "target_modules", &target);
    if (status >= 0) status = matcher_make(adapter->ctx, adapter->config, "exclude_modules", &exclude);
    if (status >= 0) status = collect(adapter, kinds, &target, &exclude, out_targets);
    matcher_free(&target);
    matcher_free(&exclude);
    return status;
}

peft_status peft__targets_match(peft_adapter *adapter, const char *key, const char *module, bool *out_match) {
    matcher m = {NULL, NULL};
    PEFT_TRY(matcher_make(adapter->ctx, adapter->config, key, &m));
    bool exact = false, match = false, older_match = false;
    peft_status status = matcher_match(adapter->ctx, &m, module, &match, &exact);
    if (status >= 0)
        status = matcher_match(adapter->ctx, &m, peft__older_name(adapter->model, &adapter->arena, module),
                               &older_match, &exact);
    matcher_free(&m);
    *out_match = match || older_match;
    return status;
}

peft_status peft__targets_pattern(peft_adapter *adapter, const char *key, const char *module, double fallback,
                                  double *out_value) {
    peft_context *ctx = adapter->ctx;
    const json_t *patterns = peft__json_value(adapter->config, key);
    *out_value = fallback;
    if (patterns == NULL) return PEFT_OK;
    if (!json_is_object(patterns))
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: %s: expected an object of patterns, found %s", WHERE, key,
                          peft__json_kind(patterns));
    bool found = false;
    const char *pattern;
    json_t *value;
    json_object_foreach((json_t *)patterns, pattern, value) {
        if (!json_is_number(value))
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: %s: \"%.100s\": expected a number, found %s", WHERE, key,
                              pattern, peft__json_kind(value));
        peft__pattern *regex = NULL;
        bool match = false;
        PEFT_TRY(peft__pattern_compile(ctx, key, "(.*\\.)?", pattern, &regex));
        const peft_status status = peft__pattern_match(ctx, regex, module, &match);
        peft__pattern_free(regex);
        PEFT_TRY(status);
        if (!match) continue;
        if (!found) {
            *out_value = json_number_value(value);
            found = true;
        } else if (json_number_value(value) != *out_value) {
            peft__log(ctx, PEFT_LOG_WARNING,
                      "%s: %s: several patterns match %s; the first one counts, and HF PEFT sorts them on saving",
                      WHERE, key, module);
            break;
        }
    }
    return PEFT_OK;
}

bool peft__targets_hold(const peft__targets *targets, const peft__module *module) {
    for (uint32_t i = 0; i < targets->count; i++)
        if (targets->modules[i] == module) return true;
    return false;
}
