/* compare.c: the entries of a comparison.
 *
 *   compare:
 *     - base
 *     - {method: lora, r: 4, lr: 1e-2}
 *     - {name: shots, icl: prompts.yaml, shots: 8}
 *
 * An entry is a recipe: the common keys with a few of its own over them. Every entry's recipe is made once when the
 * whole is opened, so that a typing mistake in the last entry is found before the first has trained for an hour.
 */
#include "recipe/recipe_internal.h"

static peft_status item_fail(peft_recipe *recipe, const char *where, const char *text, const char *found) {
    return peft__fail(recipe->ctx, PEFT_E_FORMAT, "%s: compare: %s%s", where, text, found);
}

/* ---- reading ---------------------------------------------------------------------------------------------- */

static bool is_method_key(const char *key) {
    static const char *const NAMES[] = {"adapter", "method", "adapter.method", "adapter.peft_type", "finetuning_type"};
    for (size_t i = 0; i < PEFT_COUNT(NAMES); i++)
        if (strcmp(key, NAMES[i]) == 0) return true;
    return false;
}

/* The method that the entry's keys name, or NULL. `adapter` may be a text, as axolotl has it, or a group. */
static const char *method_of(const json_t *changes) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)changes, key, value) {
        if (!is_method_key(key)) continue;
        if (json_is_string(value)) return json_string_value(value);
        const json_t *method = json_object_get(value, "method");
        if (method == NULL) method = json_object_get(value, "peft_type");
        if (json_is_string(method)) return json_string_value(method);
    }
    return NULL;
}

/* Takes a text out of the entry's keys. */
static peft_status take_text(peft_recipe *recipe, peft__recipe_item *item, const char *key, const char **out_text) {
    const json_t *value = json_object_get(item->changes, key);
    if (value == NULL) return PEFT_OK;
    if (!json_is_string(value) || json_string_length(value) == 0 ||
        strlen(json_string_value(value)) != json_string_length(value))
        return peft__fail(recipe->ctx, PEFT_E_FORMAT, "%s: compare: %s: expected text, found %s", item->where, key,
                          peft__json_kind(value));
    *out_text = peft__arena_strdup(&recipe->arena, json_string_value(value));
    if (*out_text == NULL) return peft__fail_nomem(recipe->ctx, 64, "a recipe");
    (void)json_object_del(item->changes, key);
    return PEFT_OK;
}

/* What the entry is, and a name for it when it has none. */
static peft_status classify(peft_recipe *recipe, peft__recipe_item *item) {
    const char *hard = NULL, *icl = NULL, *key;
    json_t *value;
    json_object_foreach(item->changes, key, value) {
        if (strcmp(key, "compare") == 0 || strncmp(key, "compare.", 8) == 0 || strcmp(key, "entries") == 0)
            return item_fail(recipe, item->where, "an entry has no comparison of its own", "");
    }
    PEFT_TRY(take_text(recipe, item, "name", &item->name));
    PEFT_TRY(take_text(recipe, item, "hard_prompt", &hard));
    PEFT_TRY(take_text(recipe, item, "icl", &icl));
    PEFT_TRY(take_text(recipe, item, "prompt", &item->prompt));
    const char *method = method_of(item->changes);
    const bool base = method != NULL && strcmp(method, "base") == 0;
    if (item->prompt != NULL && hard == NULL && icl == NULL)
        return item_fail(recipe, item->where, "prompt belongs to an entry with hard_prompt or icl", "");
    if ((hard != NULL) + (icl != NULL) + (method != NULL) > 1)
        return item_fail(recipe, item->where, "an entry has one of method, hard_prompt and icl", "");
    item->own_method = method != NULL;
    item->prompts = hard != NULL ? hard : icl;
    item->kind = hard != NULL  ? PEFT_COMPARE_HARD_PROMPT
                 : icl != NULL ? PEFT_COMPARE_ICL
                 : base        ? PEFT_COMPARE_BASE
                               : PEFT_COMPARE_TRAIN;
    if (base) {
        static const char *const KEYS[] = {"adapter", "method", "adapter.method", "adapter.peft_type",
                                           "finetuning_type"};
        for (size_t i = 0; i < PEFT_COUNT(KEYS); i++) (void)json_object_del(item->changes, KEYS[i]);
    }
    const json_t *shots = json_object_get(item->changes, "shots");
    if (shots != NULL) {
        if (item->kind != PEFT_COMPARE_ICL)
            return item_fail(recipe, item->where, "shots belong to an entry with icl", "");
        if (!json_is_integer(shots) || json_integer_value(shots) < 1 || json_integer_value(shots) > 100000)
            return item_fail(recipe, item->where, "shots is a whole number from 1 on", "");
        item->shots = json_integer_value(shots);
        (void)json_object_del(item->changes, "shots");
    }
    if (item->name != NULL) return PEFT_OK;
    const json_t *own = peft__recipe_value(recipe, "adapter.method");
    if (own == NULL) own = peft__recipe_value(recipe, "adapter.peft_type");
    const char *inherited = json_is_string(own) ? json_string_value(own) : "lora";
    item->name =
        hard != NULL ? "hard prompt"
        : icl != NULL
            ? (item->shots > 0 ? peft__arena_strfmt(&recipe->arena, "icl, %lld shots", (long long)item->shots) : "icl")
            : peft__arena_strdup(&recipe->arena, method != NULL ? method : inherited);
    return item->name != NULL ? PEFT_OK : peft__fail_nomem(recipe->ctx, 64, "a recipe");
}

static peft_status read_item(peft_recipe *recipe, const json_t *value, const char *where, peft__recipe_item *item) {
    *item = (peft__recipe_item){.where = where};
    if (json_is_string(value)) {
        item->changes = json_object();
        if (item->changes == NULL || json_object_set(item->changes, "method", (json_t *)value) != 0)
            return peft__fail_nomem(recipe->ctx, 64, "a recipe");
    } else if (json_is_object(value)) {
        item->changes = json_deep_copy(value);
        if (item->changes == NULL) return peft__fail_nomem(recipe->ctx, 64, "a recipe");
    } else {
        return item_fail(recipe, where, "an entry is the name of a method or a mapping, found ",
                         peft__json_kind(value));
    }
    return classify(recipe, item);
}

void peft__recipe_free_items(peft_recipe *recipe) {
    for (size_t i = 0; i < recipe->item_count; i++) json_decref(recipe->items[i].changes);
    recipe->item_count = 0;
}

/* ---- the recipe of an entry ----------------------------------------------------------------------------------- */

/* The common keys: what the file or the command line gave, by our names. */
static peft_status copy_slots(const peft_recipe *from, const peft__recipe_item *item, peft_recipe *to) {
    for (size_t i = 0; i < from->slot_count; i++) {
        const peft__recipe_slot *slot = &from->slots[i];
        if (slot->given_as == NULL || strncmp(slot->key, "compare.", 8) == 0) continue;
        if (item->own_method && strncmp(slot->key, "adapter.", 8) == 0) continue;
        const peft__recipe_entry entry = {.path = peft__arena_strdup(&to->arena, slot->given_as),
                                          .where = peft__arena_strdup(&to->arena, slot->where)};
        if (entry.path == NULL || entry.where == NULL) return peft__fail_nomem(to->ctx, 64, "a recipe");
        PEFT_TRY(peft__recipe_set(to, slot->key, json_deep_copy(slot->value), &entry));
    }
    return PEFT_OK;
}

static peft_status fill(const peft_recipe *from, const peft__recipe_item *item, const char *const *overrides,
                        size_t count, peft_recipe *to) {
    to->name = peft__arena_strdup(&to->arena, from->name);
    const char *where = peft__arena_strdup(&to->arena, item->where);
    to->trees[0] = json_deep_copy(item->changes);
    if (to->name == NULL || where == NULL || to->trees[0] == NULL) return peft__fail_nomem(to->ctx, 64, "a recipe");
    PEFT_TRY(copy_slots(from, item, to));
    PEFT_TRY(peft__recipe_read_changes(to, to->trees[0], where, overrides, count));
    return peft__recipe_finish(to);
}

static peft_status open_item(const peft_recipe *recipe, const peft__recipe_item *item, const char *const *overrides,
                             size_t count, peft_recipe **out_recipe) {
    peft_context *ctx = recipe->ctx;
    peft_recipe *made = peft__alloc_zero(ctx->mem, sizeof *made);
    if (made == NULL) return peft__fail_nomem(ctx, sizeof *made, "a recipe");
    made->ctx = peft__context_ref(ctx);
    made->flags = recipe->flags;
    peft__arena_init(&made->arena, ctx->mem);
    peft__buffer_init(&made->ignored, ctx->mem);
    peft__buffer_init(&made->explain, ctx->mem);
    const peft_status status = fill(recipe, item, overrides, count, made);
    if (status < 0) {
        peft_recipe_destroy(made);
        return status;
    }
    *out_recipe = made;
    return PEFT_OK;
}

peft_status peft__recipe_read_items(peft_recipe *recipe) {
    const json_t *list = peft__recipe_value(recipe, "compare.entries");
    if (list == NULL) return PEFT_OK;
    const size_t count = json_array_size(list);
    const peft__recipe_slot *slot = peft__recipe_slot_of(recipe, "compare.entries");
    if (count == 0) return item_fail(recipe, slot->where, "the list is empty", "");
    if (count > 1000) return item_fail(recipe, slot->where, "a comparison has at most 1000 entries", "");
    recipe->items = peft__arena_alloc(&recipe->arena, count * sizeof *recipe->items);
    if (recipe->items == NULL) return peft__fail_nomem(recipe->ctx, count * sizeof *recipe->items, "a recipe");
    for (size_t i = 0; i < count; i++) {
        const bool placed = count == recipe->item_place_count && strcmp(slot->where, "command line") != 0;
        peft__recipe_item *item = &recipe->items[recipe->item_count++];
        PEFT_TRY(read_item(recipe, json_array_get(list, i), placed ? recipe->item_places[i] : slot->where, item));
        for (size_t k = 0; k < i; k++)
            if (strcmp(recipe->items[k].name, item->name) == 0)
                return peft__fail(recipe->ctx, PEFT_E_FORMAT,
                                  "%s: compare: there is an entry \"%.60s\" already; give this one a name", item->where,
                                  item->name);
        peft_recipe *made = NULL;
        PEFT_TRY(open_item(recipe, item, NULL, 0, &made));
        peft_recipe_destroy(made);
    }
    return PEFT_OK;
}

/* ---- the public face --------------------------------------------------------------------------------------------- */

uint32_t peft_recipe_compare_count(const peft_recipe *recipe) {
    return recipe != NULL ? (uint32_t)recipe->item_count : 0;
}

static peft_status find_item(const peft_recipe *recipe, uint32_t index, const peft__recipe_item **out_item) {
    if (index >= recipe->item_count)
        return peft__fail(recipe->ctx, PEFT_E_ARG, "%s: entry %u of a comparison of %zu", recipe->name, index,
                          recipe->item_count);
    *out_item = &recipe->items[index];
    return PEFT_OK;
}

peft_status peft_recipe_compare_entry(const peft_recipe *recipe, uint32_t index, peft_compare_entry *out_entry) {
    if (recipe == NULL) return PEFT_E_ARG;
    if (out_entry == NULL || out_entry->struct_size < sizeof out_entry->struct_size)
        return peft__fail(recipe->ctx, PEFT_E_ARG, "peft_recipe_compare_entry() takes a struct with its struct_size");
    const peft__recipe_item *item = NULL;
    PEFT_TRY(find_item(recipe, index, &item));
    const peft_compare_entry made = {.struct_size = out_entry->struct_size,
                                     .kind = item->kind,
                                     .name = item->name,
                                     .prompts = item->prompts,
                                     .shots = item->shots,
                                     .prompt = item->prompt};
    memcpy(out_entry, &made, peft__min_size(out_entry->struct_size, sizeof made));
    return PEFT_OK;
}

peft_status peft_recipe_compare_open(const peft_recipe *recipe, uint32_t index, const char *const *overrides,
                                     uint32_t count, peft_recipe **out_recipe) {
    if (recipe == NULL) return PEFT_E_ARG;
    if (out_recipe == NULL) return peft__fail(recipe->ctx, PEFT_E_ARG, "out_recipe is missing");
    for (uint32_t i = 0; i < count; i++)
        if (overrides == NULL || overrides[i] == NULL)
            return peft__fail(recipe->ctx, PEFT_E_ARG, "override %u is missing", i);
    const peft__recipe_item *item = NULL;
    PEFT_TRY(find_item(recipe, index, &item));
    return open_item(recipe, item, overrides, count, out_recipe);
}
