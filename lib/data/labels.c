/* labels.c: classes and their names.
 *
 * Files name classes ("spam", "B-PER") or number them. Names that the host gives or that the model carries decide;
 * otherwise all names of the file are collected in a first reading and sorted, because the order in which a file
 * happens to show them would differ between the training file and the test file.
 */
#include "data/data.h"

#include <stdio.h>

enum { MOST_CLASSES = 65536 };

void peft__labels_init(peft__labels *labels, peft__mem *mem) {
    *labels = (peft__labels){.mem = mem, .largest = -1};
    peft__arena_init(&labels->arena, mem);
    peft__table_init(&labels->by_name, mem);
}

void peft__labels_free(peft__labels *labels) {
    peft__free(labels->mem, labels->names);
    peft__free(labels->mem, labels->examples);
    peft__table_free(&labels->by_name);
    peft__arena_free(&labels->arena);
    peft__labels_init(labels, labels->mem);
}

static peft_status add_name(peft_context *ctx, peft__labels *labels, const char *text, size_t length) {
    uint64_t known;
    if (peft__table_get(&labels->by_name, text, length, &known)) return PEFT_OK;
    if (labels->named >= MOST_CLASSES)
        return peft__fail(ctx, PEFT_E_LIMIT, "more than %d classes: is the label's field the right one?", MOST_CLASSES);
    if (labels->named == labels->capacity) {
        const uint32_t capacity = labels->capacity == 0 ? 16 : 2 * labels->capacity;
        const char **names = peft__realloc(labels->mem, labels->names, capacity * sizeof *names);
        if (names == NULL) return peft__fail_nomem(ctx, capacity * sizeof *names, "names of classes");
        labels->names = names;
        labels->capacity = capacity;
    }
    const char *name = peft__arena_strndup(&labels->arena, text, length);
    if (name == NULL || !peft__table_put(&labels->by_name, name, length, labels->named))
        return peft__fail_nomem(ctx, length, "names of classes");
    labels->names[labels->named++] = name;
    return PEFT_OK;
}

/* ---- before the file --------------------------------------------------------------------------------------- */

/* Hugging Face's LABEL_0, LABEL_1, ... say nothing. */
static bool is_placeholder(const char *name, int64_t index) {
    char usual[32];
    (void)snprintf(usual, sizeof usual, "LABEL_%lld", (long long)index);
    return strcmp(name, usual) == 0;
}

static peft_status names_of_config(peft_context *ctx, peft__labels *labels, const peft__json *config) {
    const peft__json *names = json_object_get(config, "id2label");
    if (!json_is_object(names) || labels->outputs <= 0 || (int64_t)json_object_size(names) != labels->outputs)
        return PEFT_OK;
    bool placeholders = true;
    for (int64_t i = 0; i < labels->outputs; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "%lld", (long long)i);
        const char *name = json_string_value(json_object_get(names, key));
        if (name == NULL) return PEFT_OK; /* not 0 .. n-1: no names */
        placeholders = placeholders && is_placeholder(name, i);
    }
    if (placeholders) return PEFT_OK;
    for (int64_t i = 0; i < labels->outputs; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "%lld", (long long)i);
        const char *name = json_string_value(json_object_get(names, key));
        PEFT_TRY(add_name(ctx, labels, name, strlen(name)));
    }
    labels->given = labels->named == labels->outputs;
    return labels->given ? PEFT_OK
                         : peft__fail(ctx, PEFT_E_FORMAT, "config.json: id2label: two classes have the same name");
}

peft_status peft__labels_begin(peft_context *ctx, peft__labels *labels, const peft_dataset_options *options,
                               const peft__json *config, int64_t outputs) {
    labels->outputs = outputs;
    if (options->label_name_count == 0) return names_of_config(ctx, labels, config);
    if (options->label_names == NULL || options->label_name_count > MOST_CLASSES)
        return peft__fail(ctx, PEFT_E_ARG, "label_names has label_name_count (at most %d) names, found %u",
                          MOST_CLASSES, options->label_name_count);
    if (outputs > 0 && options->label_name_count > outputs)
        return peft__fail(ctx, PEFT_E_MISMATCH,
                          "label_names has %u classes, the model has %lld outputs: load it with num_labels %u",
                          options->label_name_count, (long long)outputs, options->label_name_count);
    for (uint32_t i = 0; i < options->label_name_count; i++) {
        if (options->label_names[i] == NULL) return peft__fail(ctx, PEFT_E_ARG, "label_names[%u] is missing", i);
        PEFT_TRY(add_name(ctx, labels, options->label_names[i], strlen(options->label_names[i])));
        if (labels->named != i + 1)
            return peft__fail(ctx, PEFT_E_ARG, "label_names has \"%.60s\" twice", options->label_names[i]);
    }
    labels->given = true;
    return PEFT_OK;
}

/* ---- first reading ------------------------------------------------------------------------------------------ */

peft_status peft__labels_collect_text(peft_context *ctx, peft__labels *labels, const char *text, size_t length) {
    int64_t number;
    /* Numbers are counted, and kept as names too: they are that if other labels turn out to be words. */
    if (peft__parse_i64(text, length, &number))
        labels->largest = peft__max_i64(labels->largest, number);
    else
        labels->words = true;
    return add_name(ctx, labels, text, length);
}

peft_status peft__labels_collect(peft_context *ctx, peft__labels *labels, const peft__json *value) {
    if (json_is_string(value))
        return peft__labels_collect_text(ctx, labels, json_string_value(value), json_string_length(value));
    if (json_is_integer(value)) labels->largest = peft__max_i64(labels->largest, json_integer_value(value));
    return PEFT_OK;
}

static void sort_names(const char **names, uint32_t count) {
    /* Few and read once: shell sort. */
    for (uint32_t gap = count / 2; gap > 0; gap /= 2)
        for (uint32_t i = gap; i < count; i++) {
            const char *name = names[i];
            uint32_t at = i;
            for (; at >= gap && strcmp(names[at - gap], name) > 0; at -= gap) names[at] = names[at - gap];
            names[at] = name;
        }
}

static void drop_names(peft__labels *labels) {
    peft__table_free(&labels->by_name);
    peft__table_init(&labels->by_name, labels->mem);
    labels->named = 0;
}

/* Classes without a name are called by their number. */
static peft_status name_the_rest(peft_context *ctx, peft__labels *labels) {
    const size_t bytes = (size_t)labels->count * sizeof *labels->names;
    const char **names =
        peft__realloc(labels->mem, labels->names, peft__max_size(bytes, labels->capacity * sizeof *names));
    if (names == NULL) return peft__fail_nomem(ctx, bytes, "names of classes");
    labels->names = names;
    for (uint32_t i = labels->named; i < labels->count; i++)
        if ((names[i] = peft__arena_strfmt(&labels->arena, "%u", i)) == NULL)
            return peft__fail_nomem(ctx, bytes, "names of classes");
    return PEFT_OK;
}

static peft_status sort_collected(peft_context *ctx, peft__labels *labels) {
    if (!labels->words) { /* numbers only: they need no names */
        drop_names(labels);
        return PEFT_OK;
    }
    sort_names(labels->names, labels->named);
    peft__table_free(&labels->by_name);
    peft__table_init(&labels->by_name, labels->mem);
    for (uint32_t i = 0; i < labels->named; i++)
        if (!peft__table_put(&labels->by_name, labels->names[i], strlen(labels->names[i]), i))
            return peft__fail_nomem(ctx, labels->named, "names of classes");
    if (labels->outputs <= 0 || labels->named <= labels->outputs) return PEFT_OK;
    return peft__fail(
        ctx, PEFT_E_MISMATCH,
        "the file has %u classes (%.60s, %.60s%s), the model has %lld outputs: load it with num_labels %u",
        labels->named, labels->names[0], labels->names[1], labels->named > 2 ? ", ..." : "", (long long)labels->outputs,
        labels->named);
}

peft_status peft__labels_finish(peft_context *ctx, peft__labels *labels) {
    if (!labels->given) PEFT_TRY(sort_collected(ctx, labels));
    labels->given = true;
    int64_t count = labels->outputs;
    if (count <= 0) count = labels->named > 0 ? labels->named : labels->largest + 1;
    if (count > MOST_CLASSES)
        return peft__fail(ctx, PEFT_E_LIMIT,
                          "the labels go up to %lld, more than %d classes: is the label's field the right one?",
                          (long long)count - 1, MOST_CLASSES);
    labels->count = (uint32_t)count;
    PEFT_TRY(name_the_rest(ctx, labels));
    labels->examples = peft__alloc_zero(labels->mem, (size_t)count * sizeof *labels->examples);
    return labels->examples != NULL
               ? PEFT_OK
               : peft__fail_nomem(ctx, (size_t)count * sizeof *labels->examples, "names of classes");
}

/* ---- second reading -------------------------------------------------------------------------------------------- */

static peft_status check_number(peft_context *ctx, const peft__labels *labels, int64_t number, int32_t *out_class) {
    if (number < 0 || number >= labels->count)
        return peft__fail(
            ctx, PEFT_E_FORMAT,
            "label %lld is out of range: there are %u classes, 0 to %lld; other numbers can be named with label_names",
            (long long)number, labels->count, (long long)labels->count - 1);
    *out_class = (int32_t)number;
    return PEFT_OK;
}

peft_status peft__labels_find_text(peft_context *ctx, const peft__labels *labels, const char *text, size_t length,
                                   int32_t *out_class) {
    uint64_t found;
    int64_t number;
    if (labels->named > 0 && peft__table_get(&labels->by_name, text, length, &found)) {
        *out_class = (int32_t)found;
        return PEFT_OK;
    }
    if (peft__parse_i64(text, length, &number)) return check_number(ctx, labels, number, out_class);
    if (length == 0) return peft__fail(ctx, PEFT_E_FORMAT, "the label is empty");
    char shown[61];
    const size_t kept = peft__min_size(length, sizeof shown - 1);
    memcpy(shown, text, kept);
    shown[kept] = '\0';
    peft__utf8_tidy(shown);
    const char *near = peft__closest(shown, labels->names, labels->named);
    if (near != NULL)
        return peft__fail(ctx, PEFT_E_FORMAT, "unknown label \"%s\"; did you mean \"%.60s\"? %u classes are known",
                          shown, near, labels->named);
    if (labels->named == 0)
        return peft__fail(ctx, PEFT_E_FORMAT, "unknown label \"%s\"; the classes are numbers, 0 to %lld", shown,
                          (long long)labels->count - 1);
    return peft__fail(ctx, PEFT_E_FORMAT, "unknown label \"%s\"; the %u classes are %.40s%s%.40s%s", shown,
                      labels->named, labels->names[0], labels->named > 1 ? ", " : "",
                      labels->named > 1 ? labels->names[1] : "", labels->named > 2 ? ", ..." : "");
}

peft_status peft__labels_find(peft_context *ctx, const peft__labels *labels, const peft__json *value,
                              int32_t *out_class) {
    if (json_is_string(value))
        return peft__labels_find_text(ctx, labels, json_string_value(value), json_string_length(value), out_class);
    if (json_is_boolean(value)) return check_number(ctx, labels, json_is_true(value) ? 1 : 0, out_class);
    if (json_is_integer(value)) return check_number(ctx, labels, json_integer_value(value), out_class);
    const double real = json_is_real(value) ? json_real_value(value) : 0.5;
    if (real >= 0.0 && real < MOST_CLASSES && (double)(int64_t)real == real)
        return check_number(ctx, labels, (int64_t)real, out_class);
    return peft__fail(ctx, PEFT_E_FORMAT, "a label is the name or the number of a class, found %s",
                      peft__json_kind(value));
}
