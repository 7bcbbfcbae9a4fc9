/* finish.c: from slots to a recipe that can be used: defaults, types, limits, values that depend on others.
 *
 * The defaults of a recipe are what people who write none expect: all linear layers, lora_alpha twice the rank, a
 * cosine with warm-up. peft_adapter_create() alone keeps HF PEFT's defaults, because there a configuration means what
 * it means in PEFT.
 */
#include "recipe/recipe_internal.h"

#include <stdio.h>

const json_t *peft__recipe_value(const peft_recipe *recipe, const char *key) {
    const peft__recipe_slot *slot = peft__recipe_slot_of(recipe, key);
    return slot != NULL ? slot->value : NULL;
}

/* ---- values that several keys make -------------------------------------------------------------------------- */

static peft__recipe_entry entry_of(const peft__recipe_slot *slot) {
    return (peft__recipe_entry){
        .path = slot->given_as, .where = slot->where, .value = slot->value, .from_override = true};
}

/* LLaMA-Factory's dataset_dir: a folder before a file's name. */
static peft_status join_dataset_dir(peft_recipe *recipe) {
    const peft__recipe_slot *folder = peft__recipe_slot_of(recipe, "_dataset_dir"),
                            *data = peft__recipe_slot_of(recipe, "data.train");
    if (folder == NULL || data == NULL || data->given_as == NULL || strcmp(data->given_as, "dataset") != 0)
        return PEFT_OK;
    if (!json_is_string(folder->value) || !json_is_string(data->value)) return PEFT_OK;
    char *path =
        peft__arena_strfmt(&recipe->arena, "%s/%s", json_string_value(folder->value), json_string_value(data->value));
    if (path == NULL) return peft__fail_nomem(recipe->ctx, 64, "a recipe");
    const peft__recipe_entry entry = entry_of(data);
    return peft__recipe_set(recipe, "data.train", json_string(path), &entry);
}

static bool is_on(const peft_recipe *recipe, const char *key) {
    return json_is_true(peft__recipe_value(recipe, key));
}

/* torchtune names attention projections and has switches for the rest. */
static peft_status join_torchtune_targets(peft_recipe *recipe) {
    const peft__recipe_slot *attention = peft__recipe_slot_of(recipe, "_attn_modules");
    if (attention == NULL) return PEFT_OK;
    const peft__recipe_entry entry = entry_of(attention);
    if (!json_is_array(attention->value))
        return peft__recipe_fail(recipe, &entry, PEFT_E_FORMAT, "expected a list of names");
    json_t *list = json_array();
    bool good = list != NULL;
    for (size_t i = 0; good && i < json_array_size(attention->value); i++) {
        const char *name = json_string_value(json_array_get(attention->value, i));
        good = name != NULL &&
               json_array_append_new(list, json_string(strcmp(name, "output_proj") == 0 ? "o_proj" : name)) == 0;
    }
    static const char *const MLP[] = {"gate_proj", "up_proj", "down_proj"};
    for (size_t i = 0; good && is_on(recipe, "_apply_to_mlp") && i < PEFT_COUNT(MLP); i++)
        good = json_array_append_new(list, json_string(MLP[i])) == 0;
    if (good && is_on(recipe, "_apply_to_output")) good = json_array_append_new(list, json_string("lm_head")) == 0;
    if (!good) {
        json_decref(list);
        return peft__recipe_fail(recipe, &entry, PEFT_E_FORMAT, "expected a list of names");
    }
    return peft__recipe_set(recipe, "adapter.target_modules", list, &entry);
}

static peft_status join_epoch_steps(peft_recipe *recipe) {
    const peft__recipe_slot *steps = peft__recipe_slot_of(recipe, "_max_steps_per_epoch");
    if (steps == NULL) return PEFT_OK;
    const peft__recipe_entry entry = entry_of(steps);
    const json_t *epochs = peft__recipe_value(recipe, "train.epochs");
    if (epochs != NULL && json_is_number(epochs) && json_number_value(epochs) != 1.0)
        return peft__recipe_fail(recipe, &entry, PEFT_E_UNSUPPORTED,
                                 "is supported for a run of one epoch; use max_steps");
    return peft__recipe_set(recipe, "train.max_steps", json_deep_copy(steps->value), &entry);
}

/* LLaMA-Factory's pissa_init, and pissa_iter: rounds of the random decomposition, -1 for the exact one. */
static peft_status join_pissa(peft_recipe *recipe) {
    const peft__recipe_slot *init = peft__recipe_slot_of(recipe, "_pissa_init"),
                            *iter = peft__recipe_slot_of(recipe, "_pissa_iter");
    if (init == NULL) return PEFT_OK;
    const peft__recipe_entry entry = entry_of(init);
    if (!json_is_boolean(init->value))
        return peft__recipe_fail(recipe, &entry, PEFT_E_FORMAT, "expected true or false, found %s",
                                 peft__json_kind(init->value));
    if (!json_is_true(init->value)) return PEFT_OK;
    json_int_t rounds = 16;
    if (iter != NULL) {
        const peft__recipe_entry rounds_entry = entry_of(iter);
        rounds = json_integer_value(iter->value);
        if (!json_is_integer(iter->value) || rounds < -1 || rounds > 1000)
            return peft__recipe_fail(recipe, &rounds_entry, PEFT_E_FORMAT,
                                     "expected a number of rounds up to 1000, or -1 for an exact decomposition");
    }
    const char *text = rounds < 0 ? "pissa" : peft__arena_strfmt(&recipe->arena, "pissa_niter_%lld", (long long)rounds);
    if (text == NULL) return peft__fail_nomem(recipe->ctx, 64, "a recipe");
    return peft__recipe_set(recipe, "adapter.init_lora_weights", json_string(text), &entry);
}

static peft_status join(peft_recipe *recipe) {
    PEFT_TRY(join_dataset_dir(recipe));
    PEFT_TRY(join_torchtune_targets(recipe));
    PEFT_TRY(join_pissa(recipe));
    PEFT_TRY(join_epoch_steps(recipe));
    if (is_on(recipe, "_neat_packing") && peft__recipe_value(recipe, "data.packing") == NULL) {
        const peft__recipe_entry entry = entry_of(peft__recipe_slot_of(recipe, "_neat_packing"));
        PEFT_TRY(peft__recipe_set(recipe, "data.packing", json_true(), &entry));
    }
    size_t kept = 0;
    for (size_t i = 0; i < recipe->slot_count; i++) {
        if (recipe->slots[i].key[0] == '_')
            json_decref(recipe->slots[i].value);
        else
            recipe->slots[kept++] = recipe->slots[i];
    }
    recipe->slot_count = kept;
    return PEFT_OK;
}

/* ---- types ------------------------------------------------------------------------------------------------------ */

/* Fills the recipe's label_names or verbalizers. */
static peft_status check_names(peft_recipe *recipe, const peft__recipe_entry *entry, const json_t *value,
                               const char ***out_names, uint32_t *out_count) {
    const size_t count = json_array_size(value);
    if (count == 0 || count > UINT16_MAX)
        return peft__recipe_fail(recipe, entry, PEFT_E_FORMAT, "expected a list of names, found %s",
                                 peft__json_kind(value));
    const char **names = peft__arena_alloc(&recipe->arena, count * sizeof *names);
    if (names == NULL) return peft__fail_nomem(recipe->ctx, count * sizeof *names, "a recipe");
    for (size_t i = 0; i < count; i++) {
        const json_t *one = json_array_get(value, i);
        const char *name = json_string_value(one);
        if (name != NULL && strlen(name) == json_string_length(one))
            name = peft__arena_strdup(&recipe->arena, name);
        else if (json_is_integer(one))
            name = peft__arena_strfmt(&recipe->arena, "%lld", (long long)json_integer_value(one));
        else if (json_is_boolean(one)) /* yes and no, as YAML reads them */
            name = json_is_true(one) ? "true" : "false";
        else
            return peft__recipe_fail(recipe, entry, PEFT_E_FORMAT, "name %zu is text, found %s", i + 1,
                                     peft__json_kind(one));
        if (name == NULL) return peft__fail_nomem(recipe->ctx, 64, "a recipe");
        names[i] = name;
    }
    *out_names = names;
    *out_count = (uint32_t)count;
    return PEFT_OK;
}

static peft_status check_weights(peft_recipe *recipe, const peft__recipe_entry *entry, const json_t *value) {
    if (json_is_string(value) && strcmp(json_string_value(value), "balanced") == 0) return PEFT_OK;
    bool good = json_array_size(value) > 0;
    for (size_t i = 0; good && i < json_array_size(value); i++) {
        const json_t *one = json_array_get(value, i);
        good = json_is_number(one) && json_number_value(one) >= 0.0 && json_number_value(one) < 1e30;
    }
    if (good) return PEFT_OK;
    return peft__recipe_fail(recipe, entry, PEFT_E_FORMAT,
                             "expected balanced, or a list of one number a class (0 or more), found %s",
                             json_is_string(value) ? json_string_value(value) : peft__json_kind(value));
}

static peft_status check_slot(peft_recipe *recipe, const peft__recipe_key *key, peft__recipe_slot *slot) {
    const peft__recipe_entry entry = {.path = slot->given_as != NULL ? slot->given_as : key->name,
                                      .where = slot->where};
    json_t *value = slot->value;
    const char *found = peft__json_kind(value);
    switch (key->kind) {
    case PEFT__RECIPE_TEXT:
        if (json_is_string(value)) {
            if (strlen(json_string_value(value)) != json_string_length(value))
                return peft__recipe_fail(recipe, &entry, PEFT_E_FORMAT, "the text holds a NUL character");
            return PEFT_OK;
        }
        if (json_is_object(value) || json_is_number(value)) { /* an own chat template; a folder called 7 */
            peft__buffer text;
            peft__buffer_init(&text, recipe->ctx->mem);
            peft_status status = peft__json_dump(recipe->ctx, value, 0, false, &text);
            json_t *made = status >= 0 && !text.failed ? json_stringn(text.data, text.length) : NULL;
            peft__buffer_free(&text);
            if (status >= 0 && made == NULL) status = peft__fail_nomem(recipe->ctx, 64, "a recipe");
            if (made == NULL) return status;
            json_decref(value);
            slot->value = made;
            return PEFT_OK;
        }
        return peft__recipe_fail(recipe, &entry, PEFT_E_FORMAT, "expected text, found %s", found);
    case PEFT__RECIPE_BOOL:
        if (json_is_boolean(value)) return PEFT_OK;
        return peft__recipe_fail(recipe, &entry, PEFT_E_FORMAT, "expected true or false, found %s", found);
    case PEFT__RECIPE_CHOICE:
        if (json_is_string(value) && peft__recipe_choice(key, json_string_value(value)) >= 0) return PEFT_OK;
        return peft__recipe_fail(recipe, &entry, PEFT_E_FORMAT, "expected one of %s, found %s%.60s", key->choices,
                                 json_is_string(value) ? "" : found,
                                 json_is_string(value) ? json_string_value(value) : "");
    case PEFT__RECIPE_NAMES:
        if (strcmp(key->name, "data.verbalizers") == 0)
            return check_names(recipe, &entry, value, &recipe->verbalizers, &recipe->verbalizer_count);
        return check_names(recipe, &entry, value, &recipe->label_names, &recipe->label_name_count);
    case PEFT__RECIPE_WEIGHTS:
        return check_weights(recipe, &entry, value);
    case PEFT__RECIPE_LIST:
        if (json_is_array(value)) return PEFT_OK;
        return peft__recipe_fail(recipe, &entry, PEFT_E_FORMAT, "expected a list, found %s", found);
    default:
        break;
    }
    if (!json_is_number(value))
        return peft__recipe_fail(recipe, &entry, PEFT_E_FORMAT, "expected a number, found %s", found);
    const double number = json_number_value(value);
    if (!(number >= key->min && number <= key->max))
        return peft__recipe_fail(recipe, &entry, PEFT_E_ARG, "expected %g to %g, found %g", key->min, key->max, number);
    if (key->kind == PEFT__RECIPE_INT && !json_is_integer(value)) {
        const int64_t whole = (int64_t)number;
        if ((double)whole != number)
            return peft__recipe_fail(recipe, &entry, PEFT_E_FORMAT, "expected a whole number, found %g", number);
        json_t *made = json_integer(whole);
        if (made == NULL) return peft__fail_nomem(recipe->ctx, 64, "a recipe");
        json_decref(value);
        slot->value = made;
    }
    return PEFT_OK;
}

static peft_status check_all(peft_recipe *recipe) {
    for (size_t i = 0; i < peft__recipe_key_count; i++) {
        const peft__recipe_key *key = &peft__recipe_keys[i];
        peft__recipe_slot *slot = (peft__recipe_slot *)peft__recipe_slot_of(recipe, key->name);
        if (slot != NULL) {
            PEFT_TRY(check_slot(recipe, key, slot));
        } else if (key->fallback != NULL) {
            PEFT_TRY(
                peft__recipe_set(recipe, key->name, peft__yaml_scalar(key->fallback, strlen(key->fallback)), NULL));
        }
    }
    return PEFT_OK;
}

/* ---- the adapter -------------------------------------------------------------------------------------------- */

static peft_status adapter_default(peft_recipe *recipe, const char *key, json_t *value) {
    if (peft__recipe_slot_of(recipe, key) != NULL) {
        json_decref(value);
        return PEFT_OK;
    }
    return peft__recipe_set(recipe, key, value, NULL);
}

/* "lora", "dora", "prompt_tuning", "full": the value of peft_type. */
static peft_status method_name(peft_recipe *recipe, char *out, size_t size, bool *out_lora) {
    const json_t *value = peft__recipe_value(recipe, "adapter.peft_type");
    if (value == NULL) value = peft__recipe_value(recipe, "adapter.method");
    const char *text = value != NULL ? json_string_value(value) : "lora";
    if (text == NULL || text[0] == '\0' || strlen(text) >= size)
        return peft__fail(recipe->ctx, PEFT_E_FORMAT,
                          "%s: adapter.method is the name of a method, for example lora or full", recipe->name);
    size_t i = 0;
    for (; text[i] != '\0'; i++) {
        const char letter = text[i];
        out[i] = (char)(letter >= 'a' && letter <= 'z'   ? letter - 'a' + 'A'
                        : letter == '-' || letter == ' ' ? '_'
                                                         : letter);
    }
    out[i] = '\0';
    if (strcmp(out, "DORA") == 0) PEFT_TRY(adapter_default(recipe, "adapter.use_dora", json_true()));
    if (strcmp(out, "RSLORA") == 0) PEFT_TRY(adapter_default(recipe, "adapter.use_rslora", json_true()));
    *out_lora = strcmp(out, "LORA") == 0 || strcmp(out, "DORA") == 0 || strcmp(out, "RSLORA") == 0;
    if (*out_lora) memcpy(out, "LORA", 5);
    return PEFT_OK;
}

/* HF PEFT's task_type; null, which the model's own task then fills, where it has no word. */
static json_t *task_type(const peft_recipe *recipe) {
    static const char *const FOREIGN[] = {"auto", "masked_lm", "image_cls", "multiple_choice"};
    const char *task = json_string_value(peft__recipe_value(recipe, "model.task"));
    for (size_t i = 0; i < PEFT_COUNT(FOREIGN); i++)
        if (strcmp(task, FOREIGN[i]) == 0) return json_null();
    char upper[32];
    size_t i = 0;
    for (; task[i] != '\0' && i + 1 < sizeof upper; i++)
        upper[i] = (char)(task[i] >= 'a' && task[i] <= 'z' ? task[i] - 'a' + 'A' : task[i]);
    upper[i] = '\0';
    return json_string(upper);
}

static peft_status make_adapter(peft_recipe *recipe) {
    char type[64];
    bool lora = false;
    PEFT_TRY(method_name(recipe, type, sizeof type, &lora));
    const peft__recipe_slot *rate = peft__recipe_slot_of(recipe, "train.lr");
    if (strcmp(type, "FULL") == 0 && rate->given_as == NULL) /* what suits a few new numbers destroys pretrained ones */
        PEFT_TRY(peft__recipe_set(recipe, "train.lr", json_real(2e-5), NULL));
    if (lora) {
        PEFT_TRY(adapter_default(recipe, "adapter.r", json_integer(8)));
        PEFT_TRY(adapter_default(recipe, "adapter.target_modules", json_string("all-linear")));
        const json_t *rank = peft__recipe_value(recipe, "adapter.r");
        if (json_is_integer(rank) && json_integer_value(rank) < INT32_MAX && json_integer_value(rank) > 0)
            PEFT_TRY(adapter_default(recipe, "adapter.lora_alpha", json_integer(2 * json_integer_value(rank))));
    }
    json_t *config = json_object();
    bool good = config != NULL && json_object_set_new(config, "peft_type", json_string(type)) == 0 &&
                json_object_set_new(config, "task_type", task_type(recipe)) == 0;
    for (size_t i = 0; good && i < recipe->slot_count; i++) {
        const char *key = recipe->slots[i].key;
        if (strncmp(key, "adapter.", 8) != 0 || strcmp(key, "adapter.method") == 0 ||
            strcmp(key, "adapter.peft_type") == 0)
            continue;
        good = json_object_set(config, key + 8, recipe->slots[i].value) == 0;
    }
    peft__buffer text;
    peft__buffer_init(&text, recipe->ctx->mem);
    const json_t *layout = strcmp(type, "WARP") == 0 ? json_object_get(config, "template") : NULL;
    if (json_is_array(layout)) { /* texts are laid out as the adapter wants them */
        const peft_status dumped = peft__json_dump(recipe->ctx, layout, 0, false, &text);
        recipe->layout = dumped >= 0 ? peft__arena_strndup(&recipe->arena, text.data, text.length) : NULL;
        good = good && recipe->layout != NULL;
        peft__buffer_clear(&text);
    }
    peft_status status =
        good ? peft__json_dump(recipe->ctx, config, 2, true, &text) : peft__fail_nomem(recipe->ctx, 64, "a recipe");
    if (status >= 0) {
        recipe->adapter_config = peft__arena_strndup(&recipe->arena, text.data, text.length);
        if (recipe->adapter_config == NULL) status = peft__fail_nomem(recipe->ctx, text.length, "a recipe");
    }
    peft__buffer_free(&text);
    json_decref(config);
    return status;
}

/* ---- explanation and hash ----------------------------------------------------------------------------------- */

static peft_status explain_slot(peft_recipe *recipe, const peft__recipe_slot *slot) {
    peft__buffer *out = &recipe->explain;
    (void)peft__buffer_printf(out, "%s: ", slot->key);
    PEFT_TRY(peft__json_dump(recipe->ctx, slot->value, 0, true, out));
    const bool other_name = slot->given_as != NULL && strcmp(slot->given_as, slot->key) != 0;
    (void)peft__buffer_printf(out, "  # %s%s%s%s\n", slot->where, other_name ? " (" : "",
                              other_name ? slot->given_as : "", other_name ? ")" : "");
    return PEFT_OK;
}

static peft_status explain(peft_recipe *recipe) {
    const peft__recipe_slot *model = peft__recipe_slot_of(recipe, "model");
    if (model != NULL) PEFT_TRY(explain_slot(recipe, model));
    for (size_t i = 0; i < recipe->slot_count; i++)
        if (strncmp(recipe->slots[i].key, "adapter.", 8) == 0) PEFT_TRY(explain_slot(recipe, &recipe->slots[i]));
    for (size_t i = 1; i < peft__recipe_key_count; i++) {
        const peft__recipe_slot *slot = peft__recipe_slot_of(recipe, peft__recipe_keys[i].name);
        if (slot != NULL) PEFT_TRY(explain_slot(recipe, slot));
    }
    if (recipe->ignored.length > 0)
        (void)peft__buffer_printf(&recipe->explain, "# ignored: %s\n", recipe->ignored.data);
    return recipe->explain.failed ? peft__fail_nomem(recipe->ctx, recipe->explain.capacity, "a recipe") : PEFT_OK;
}

static peft_status make_hash(peft_recipe *recipe) {
    peft__buffer text;
    peft__buffer_init(&text, recipe->ctx->mem);
    (void)peft__buffer_puts(&text, recipe->adapter_config);
    peft_status status = PEFT_OK;
    for (size_t i = 0; i < peft__recipe_key_count && status >= 0; i++) {
        const json_t *value = peft__recipe_value(recipe, peft__recipe_keys[i].name);
        if (peft__recipe_keys[i].outside || value == NULL) continue;
        (void)peft__buffer_printf(&text, "\n%s ", peft__recipe_keys[i].name);
        if (json_is_number(value))
            (void)peft__json_put_double(&text, json_number_value(value)); /* 1 and 1.0 are the same */
        else
            status = peft__json_dump(recipe->ctx, value, 0, true, &text);
    }
    if (status >= 0 && text.failed) status = peft__fail_nomem(recipe->ctx, text.capacity, "a recipe");
    if (status >= 0) recipe->hash = peft__hash64(text.data, text.length, UINT64_C(0x726563697065));
    peft__buffer_free(&text);
    return status;
}

peft_status peft__recipe_finish(peft_recipe *recipe) {
    PEFT_TRY(join(recipe));
    PEFT_TRY(check_all(recipe));
    PEFT_TRY(make_adapter(recipe));
    PEFT_TRY(explain(recipe));
    PEFT_TRY(make_hash(recipe));
    return peft__recipe_read_items(recipe);
}
