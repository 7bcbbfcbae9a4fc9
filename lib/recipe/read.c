/* read.c: a recipe file and the overrides of a command line become slots.
 *
 * The file is flattened into paths ("optimizer.lr") in the order in which they are written, so that every complaint can
 * name the line. A value may refer to others by `${path}`, by the name in the file or by ours. A key that is not known
 * is an error with the closest known name: a recipe with a typing mistake that trains anyway wastes a night.
 */
#include "recipe/recipe_internal.h"

#include <stdio.h>

enum { MOST_ENTRIES = 4096, DEEPEST_REFERENCE = 16, LONGEST_TEXT = 1 << 20 };

/* ---- slots ------------------------------------------------------------------------------------------------- */

const peft__recipe_slot *peft__recipe_slot_of(const peft_recipe *recipe, const char *key) {
    for (size_t i = 0; i < recipe->slot_count; i++)
        if (strcmp(recipe->slots[i].key, key) == 0) return &recipe->slots[i];
    return NULL;
}

static peft_status put_slot(peft_recipe *recipe, const char *key, json_t *value, const char *given_as,
                            const char *where) {
    if (recipe->slot_count == recipe->slot_capacity) {
        const size_t capacity = recipe->slot_capacity == 0 ? 32 : 2 * recipe->slot_capacity;
        peft__recipe_slot *slots = peft__realloc(recipe->ctx->mem, recipe->slots, capacity * sizeof *slots);
        if (slots == NULL) return peft__fail_nomem(recipe->ctx, capacity * sizeof *slots, "a recipe");
        recipe->slots = slots;
        recipe->slot_capacity = capacity;
    }
    char *name = peft__arena_strdup(&recipe->arena, key);
    if (name == NULL) return peft__fail_nomem(recipe->ctx, strlen(key), "a recipe");
    recipe->slots[recipe->slot_count++] =
        (peft__recipe_slot){.key = name, .value = value, .given_as = given_as, .where = where};
    return PEFT_OK;
}

peft_status peft__recipe_set(peft_recipe *recipe, const char *key, json_t *value, const peft__recipe_entry *entry) {
    if (value == NULL) return peft__fail_nomem(recipe->ctx, 64, "a recipe");
    const bool defaulted = entry == NULL;
    peft__recipe_slot *slot = (peft__recipe_slot *)peft__recipe_slot_of(recipe, key);
    if (slot == NULL) {
        const peft_status status =
            put_slot(recipe, key, value, defaulted ? NULL : entry->path, defaulted ? "default" : entry->where);
        if (status < 0) json_decref(value);
        return status;
    }
    if (!defaulted && !entry->from_override && slot->given_as != NULL && strcmp(key, "adapter.method") != 0) {
        const bool same = json_equal(slot->value, value); /* torchtune names its output folder in two places */
        json_decref(value);
        if (same) return PEFT_OK;
        return peft__recipe_fail(recipe, entry, PEFT_E_FORMAT, "%s was given before, as %s (%s)", key, slot->given_as,
                                 slot->where);
    }
    json_decref(slot->value);
    slot->value = value;
    slot->given_as = defaulted ? NULL : entry->path;
    slot->where = defaulted ? "default" : entry->where;
    return PEFT_OK;
}

/* ---- flattening ---------------------------------------------------------------------------------------------- */

static peft_status put_entry(peft_recipe *recipe, const char *path, json_t *value, const char *where,
                             bool from_override) {
    if (recipe->entry_count >= MOST_ENTRIES)
        return peft__fail(recipe->ctx, PEFT_E_LIMIT, "%s: a recipe has at most %d keys", recipe->name, MOST_ENTRIES);
    if (recipe->entry_count == recipe->entry_capacity) {
        const size_t capacity = recipe->entry_capacity == 0 ? 64 : 2 * recipe->entry_capacity;
        peft__recipe_entry *entries = peft__realloc(recipe->ctx->mem, recipe->entries, capacity * sizeof *entries);
        if (entries == NULL) return peft__fail_nomem(recipe->ctx, capacity * sizeof *entries, "a recipe");
        recipe->entries = entries;
        recipe->entry_capacity = capacity;
    }
    recipe->entries[recipe->entry_count++] =
        (peft__recipe_entry){.path = path, .value = value, .where = where, .from_override = from_override};
    return PEFT_OK;
}

/* "recipe.yaml:12" for a path in the file. */
static const char *place(peft_recipe *recipe, const peft__yaml_lines *lines, const char *written) {
    const uint32_t line = lines != NULL ? peft__yaml_line(lines, written) : 0;
    return line == 0 ? recipe->name : peft__arena_strfmt(&recipe->arena, "%s:%u", recipe->name, line);
}

/* Keys whose value is kept whole, mappings included. */
static bool is_leaf(const char *path) {
    return strncmp(path, "adapter.", 8) == 0 || strcmp(path, "data.chat_template") == 0 ||
           strcmp(path, "chat_template") == 0 || strcmp(path, "special_tokens") == 0 || peft__recipe_is_ignored(path);
}

static peft_status flatten(peft_recipe *recipe, json_t *object, const char *prefix, const char *written,
                           const peft__yaml_lines *lines) {
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        const char *path = prefix[0] == '\0' ? peft__arena_strdup(&recipe->arena, key)
                                             : peft__arena_strfmt(&recipe->arena, "%s.%s", prefix, key);
        const char *in_file = written[0] == '\0' ? path : peft__arena_strfmt(&recipe->arena, "%s.%s", written, key);
        if (path == NULL || in_file == NULL) return peft__fail_nomem(recipe->ctx, 64, "a recipe");
        const char *where = place(recipe, lines, in_file);
        if (where == NULL) return peft__fail_nomem(recipe->ctx, 64, "a recipe");
        if (json_is_object(value) && !is_leaf(path) && peft__recipe_is_group(path)) {
            PEFT_TRY(flatten(recipe, value, path, in_file, lines));
        } else if (strcmp(path, "datasets") == 0 && json_is_array(value)) {
            if (json_array_size(value) != 1 || !json_is_object(json_array_get(value, 0)))
                return peft__fail(recipe->ctx, PEFT_E_UNSUPPORTED,
                                  "%s: datasets: exactly one data set is supported, as {path: ..., type: ...}", where);
            PEFT_TRY(flatten(recipe, json_array_get(value, 0), "datasets", "datasets[0]", lines));
        } else {
            PEFT_TRY(put_entry(recipe, path, value, where, false));
        }
    }
    return PEFT_OK;
}

static peft_status read_override(peft_recipe *recipe, const char *text) {
    const char *equals = strchr(text, '=');
    if (equals == NULL || equals == text)
        return peft__fail(recipe->ctx, PEFT_E_ARG, "an override is key=value, found \"%.100s\"", text);
    const char *path = peft__arena_strndup(&recipe->arena, text, (size_t)(equals - text));
    if (path == NULL) return peft__fail_nomem(recipe->ctx, 64, "a recipe");
    const char *written = equals + 1;
    json_t *value = NULL;
    if (written[0] == '[' || written[0] == '{') {
        char *document = peft__arena_strfmt(&recipe->arena, "value: %s", written);
        if (document == NULL) return peft__fail_nomem(recipe->ctx, strlen(written), "a recipe");
        json_t *tree = NULL;
        PEFT_TRY(peft__yaml_load_memory(recipe->ctx, path, document, strlen(document), LONGEST_TEXT, &tree, NULL));
        value = json_incref(json_object_get(tree, "value"));
        json_decref(tree);
    } else {
        value = peft__yaml_scalar(written, strlen(written));
    }
    if (value == NULL) return peft__fail(recipe->ctx, PEFT_E_FORMAT, "%s: the value cannot be read", text);
    if (json_array_append_new(recipe->trees[1], value) != 0) return peft__fail_nomem(recipe->ctx, 64, "a recipe");
    return put_entry(recipe, path, value, "command line", true);
}

/* ---- references ------------------------------------------------------------------------------------------------ */

static const char *own_name(const char *path) {
    const peft__recipe_alias *alias = peft__recipe_find_alias(path);
    if (alias != NULL && alias->key != NULL) return alias->key;
    const peft__recipe_key *key = peft__recipe_find_key(path);
    return key != NULL ? key->name : path;
}

static const peft__recipe_entry *find_entry(const peft_recipe *recipe, const char *name) {
    for (size_t i = recipe->entry_count; i-- > 0;)
        if (strcmp(recipe->entries[i].path, name) == 0) {
            /* An override by another name of the same thing wins. */
            for (size_t j = recipe->entry_count; j-- > i + 1;)
                if (recipe->entries[j].from_override && strcmp(own_name(recipe->entries[j].path), own_name(name)) == 0)
                    return &recipe->entries[j];
            return &recipe->entries[i];
        }
    for (size_t i = recipe->entry_count; i-- > 0;)
        if (strcmp(own_name(recipe->entries[i].path), own_name(name)) == 0) return &recipe->entries[i];
    return NULL;
}

static peft_status expand(peft_recipe *recipe, const peft__recipe_entry *entry, const json_t *value, int depth,
                          json_t **out_value);

static peft_status put_reference(peft_recipe *recipe, const peft__recipe_entry *entry, const char *name, int depth,
                                 peft__buffer *out) {
    const peft__recipe_entry *other = find_entry(recipe, name);
    if (other == NULL)
        return peft__recipe_fail(recipe, entry, PEFT_E_FORMAT, "${%.100s} is not a key of this recipe", name);
    if (depth >= DEEPEST_REFERENCE || other == entry)
        return peft__recipe_fail(recipe, entry, PEFT_E_FORMAT,
                                 "${%.100s} refers to itself, or through more than %d others", name, DEEPEST_REFERENCE);
    json_t *value = NULL;
    PEFT_TRY(expand(recipe, other, other->value, depth + 1, &value));
    peft_status status = PEFT_OK;
    if (json_is_string(value))
        (void)peft__buffer_puts(out, json_string_value(value));
    else if (json_is_number(value) || json_is_boolean(value))
        status = peft__json_dump(recipe->ctx, value, 0, false, out);
    else
        status = peft__recipe_fail(recipe, entry, PEFT_E_FORMAT, "${%.100s} is %s, which cannot be put into text", name,
                                   peft__json_kind(value));
    json_decref(value);
    if (status >= 0 && out->length > LONGEST_TEXT)
        status = peft__recipe_fail(recipe, entry, PEFT_E_LIMIT, "references make a text of more than %d bytes",
                                   LONGEST_TEXT);
    return status;
}

static peft_status expand_text(peft_recipe *recipe, const peft__recipe_entry *entry, const char *text, int depth,
                               peft__buffer *out) {
    (void)peft__buffer_puts(out, "");
    while (*text != '\0') {
        const char *start = strstr(text, "${");
        if (start == NULL) {
            (void)peft__buffer_puts(out, text);
            break;
        }
        const char *end = strchr(start, '}');
        if (end == NULL) return peft__recipe_fail(recipe, entry, PEFT_E_FORMAT, "\"${\" without \"}\"");
        (void)peft__buffer_put(out, text, (size_t)(start - text));
        char *name = peft__arena_strndup(&recipe->arena, start + 2, (size_t)(end - start) - 2);
        if (name == NULL) return peft__fail_nomem(recipe->ctx, 64, "a recipe");
        PEFT_TRY(put_reference(recipe, entry, name, depth, out));
        text = end + 1;
    }
    return out->failed ? peft__fail_nomem(recipe->ctx, out->capacity, "a recipe") : PEFT_OK;
}

/* A value with its references replaced; new reference. A text that is one reference alone becomes the value it names.
 */
static peft_status expand(peft_recipe *recipe, const peft__recipe_entry *entry, const json_t *value, int depth,
                          json_t **out_value) {
    const char *text = json_string_value(value);
    const bool yes = text != NULL && (strcmp(text, "True") == 0 || strcmp(text, "TRUE") == 0);
    if (yes ||
        (text != NULL && (strcmp(text, "False") == 0 || strcmp(text, "FALSE") == 0))) { /* torchtune writes them so */
        *out_value = json_boolean(yes);
        return PEFT_OK;
    }
    if (text == NULL || strstr(text, "${") == NULL || strncmp(entry->path, "data.chat_template", 18) == 0) {
        *out_value = json_deep_copy(value);
        return *out_value != NULL ? PEFT_OK : peft__fail_nomem(recipe->ctx, 64, "a recipe");
    }
    peft__buffer buffer;
    peft__buffer_init(&buffer, recipe->ctx->mem);
    peft_status status = expand_text(recipe, entry, text, depth, &buffer);
    if (status >= 0) {
        const bool alone = strncmp(text, "${", 2) == 0 && strchr(text, '}') == text + strlen(text) - 1;
        *out_value = alone ? peft__yaml_scalar(buffer.data, buffer.length) : json_stringn(buffer.data, buffer.length);
        if (*out_value == NULL) status = peft__fail_nomem(recipe->ctx, buffer.length, "a recipe");
    }
    peft__buffer_free(&buffer);
    return status;
}

/* ---- setting ----------------------------------------------------------------------------------------------------- */

static peft_status unknown_key(peft_recipe *recipe, const peft__recipe_entry *entry) {
    if ((recipe->flags & PEFT_RECIPE_LENIENT) != 0) {
        peft__log(recipe->ctx, PEFT_LOG_WARNING, "%s: unknown key \"%.100s\" is ignored", entry->where, entry->path);
        return PEFT_OK;
    }
    const char *closest = peft__recipe_closest(entry->path);
    return peft__fail(recipe->ctx, PEFT_E_FORMAT, "%s: unknown key \"%.100s\"%s%s%s", entry->where, entry->path,
                      closest != NULL ? "; did you mean \"" : "", closest != NULL ? closest : "",
                      closest != NULL ? "\"?" : "");
}

/* "key=" on the command line: as if the file did not have it. */
static bool take_back(peft_recipe *recipe, const peft__recipe_entry *entry, const json_t *value) {
    if (!entry->from_override || !json_is_null(value) || strncmp(entry->path, "adapter.", 8) == 0) return false;
    const char *name = own_name(entry->path);
    for (size_t i = 0; i < recipe->slot_count; i++) {
        if (strcmp(recipe->slots[i].key, name) != 0) continue;
        json_decref(recipe->slots[i].value);
        memmove(&recipe->slots[i], &recipe->slots[i + 1], (recipe->slot_count - i - 1) * sizeof *recipe->slots);
        recipe->slot_count--;
        return true;
    }
    return false;
}

static peft_status set_entry(peft_recipe *recipe, const peft__recipe_entry *entry, json_t *value) {
    if (take_back(recipe, entry, value)) return PEFT_OK;
    if (peft__recipe_is_ignored(entry->path)) {
        if (recipe->ignored.length > 0) (void)peft__buffer_puts(&recipe->ignored, ", ");
        (void)peft__buffer_puts(&recipe->ignored, entry->path);
        return recipe->ignored.failed ? peft__fail_nomem(recipe->ctx, 64, "a recipe") : PEFT_OK;
    }
    const peft__recipe_alias *alias = peft__recipe_find_alias(entry->path);
    if (alias != NULL) {
        if (alias->convert != NULL) return alias->convert(recipe, alias, entry, value);
        if (alias->key == NULL || json_is_null(value)) return PEFT_OK;
        return peft__recipe_set(recipe, alias->key, json_incref(value), entry);
    }
    if (strncmp(entry->path, "adapter.", 8) == 0 && entry->path[8] != '\0')
        return peft__recipe_set(recipe, entry->path, json_incref(value), entry);
    const peft__recipe_key *key = peft__recipe_find_key(entry->path);
    if (key == NULL) return unknown_key(recipe, entry);
    if (json_is_null(value)) return PEFT_OK; /* as if it were not written */
    return peft__recipe_set(recipe, key->name, json_incref(value), entry);
}

/* Where the entries of a comparison stand, which is a list: flatten() keeps it whole. */
static peft_status place_items(peft_recipe *recipe, const json_t *tree, const peft__yaml_lines *lines) {
    const json_t *group = json_object_get(tree, "compare"), *dotted = json_object_get(tree, "compare.entries");
    const char *path = dotted != NULL ? "compare.entries" : json_is_array(group) ? "compare" : "compare.entries";
    const json_t *list = dotted != NULL ? dotted : json_is_array(group) ? group : json_object_get(group, "entries");
    const size_t count = json_array_size(list);
    if (count == 0) return PEFT_OK;
    recipe->item_places = peft__arena_alloc(&recipe->arena, count * sizeof *recipe->item_places);
    if (recipe->item_places == NULL) return peft__fail_nomem(recipe->ctx, count * sizeof(char *), "a recipe");
    for (size_t i = 0; i < count; i++) {
        const char *written = peft__arena_strfmt(&recipe->arena, "%s[%zu]", path, i);
        recipe->item_places[i] = written != NULL ? place(recipe, lines, written) : NULL;
        if (recipe->item_places[i] == NULL) return peft__fail_nomem(recipe->ctx, 64, "a recipe");
    }
    recipe->item_place_count = count;
    return PEFT_OK;
}

/* Entries become slots. */
static peft_status set_all(peft_recipe *recipe) {
    for (size_t i = 0; i < recipe->entry_count; i++) {
        const peft__recipe_entry *entry = &recipe->entries[i];
        json_t *value = NULL;
        PEFT_TRY(expand(recipe, entry, entry->value, 0, &value));
        const peft_status status = set_entry(recipe, entry, value);
        json_decref(value);
        PEFT_TRY(status);
    }
    return PEFT_OK;
}

peft_status peft__recipe_read_changes(peft_recipe *recipe, json_t *changes, const char *where,
                                      const char *const *overrides, size_t count) {
    PEFT_TRY(flatten(recipe, changes, "", "", NULL));
    for (size_t i = 0; i < recipe->entry_count; i++) {
        recipe->entries[i].where = where;
        recipe->entries[i].from_override = true;
    }
    recipe->trees[1] = json_array();
    if (recipe->trees[1] == NULL) return peft__fail_nomem(recipe->ctx, 64, "a recipe");
    for (size_t i = 0; i < count; i++) PEFT_TRY(read_override(recipe, overrides[i]));
    return set_all(recipe);
}

peft_status peft__recipe_read(peft_recipe *recipe, json_t *tree, const peft__yaml_lines *lines,
                              const char *const *overrides, size_t count) {
    if (!json_is_object(tree))
        return peft__fail(recipe->ctx, PEFT_E_FORMAT, "%s: a recipe is a mapping of keys to values, found %s",
                          recipe->name, peft__json_kind(tree));
    PEFT_TRY(place_items(recipe, tree, lines));
    PEFT_TRY(flatten(recipe, tree, "", "", lines));
    recipe->trees[1] = json_array();
    if (recipe->trees[1] == NULL) return peft__fail_nomem(recipe->ctx, 64, "a recipe");
    for (size_t i = 0; i < count; i++) PEFT_TRY(read_override(recipe, overrides[i]));
    PEFT_TRY(set_all(recipe));
    if (recipe->ignored.length > 0)
        peft__log(recipe->ctx, PEFT_LOG_WARNING, "%s: these keys mean nothing here and are ignored: %s", recipe->name,
                  recipe->ignored.data);
    return PEFT_OK;
}
