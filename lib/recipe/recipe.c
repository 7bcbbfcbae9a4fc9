/* recipe.c: the public face of recipes: opening, asking for values, filling the structs of other headers. */
#include "recipe/recipe_internal.h"

#include <math.h>

/* ---- life ------------------------------------------------------------------------------------------------------ */

void peft_recipe_destroy(peft_recipe *recipe) {
    if (recipe == NULL) return;
    peft_context *ctx = recipe->ctx;
    peft__recipe_free_items(recipe);
    for (size_t i = 0; i < recipe->slot_count; i++) json_decref(recipe->slots[i].value);
    peft__free(ctx->mem, recipe->slots);
    peft__free(ctx->mem, recipe->entries);
    for (size_t i = 0; i < PEFT_COUNT(recipe->trees); i++) json_decref(recipe->trees[i]);
    peft__buffer_free(&recipe->ignored);
    peft__buffer_free(&recipe->explain);
    peft__arena_free(&recipe->arena);
    peft__free(ctx->mem, recipe);
    peft__context_unref(ctx);
}

/* Everything that reading needed and that nobody asks for later. */
static void forget_reading(peft_recipe *recipe) {
    peft__free(recipe->ctx->mem, recipe->entries);
    recipe->entries = NULL;
    recipe->entry_count = recipe->entry_capacity = 0;
    for (size_t i = 0; i < PEFT_COUNT(recipe->trees); i++) {
        json_decref(recipe->trees[i]);
        recipe->trees[i] = NULL;
    }
}

static peft_status read_all(peft_recipe *recipe, const void *data, size_t size, bool is_file,
                            const char *const *overrides, uint32_t count) {
    peft__yaml_lines *lines = NULL;
    json_t *tree = NULL;
    if (is_file)
        PEFT_TRY(peft__yaml_load_file(recipe->ctx, recipe->name, 0, &tree, &lines));
    else
        PEFT_TRY(peft__yaml_load_memory(recipe->ctx, recipe->name, data, size, 0, &tree, &lines));
    recipe->trees[0] = tree;
    peft_status status = peft__recipe_read(recipe, tree, lines, overrides, count);
    peft__yaml_lines_free(lines);
    if (status >= 0) status = peft__recipe_finish(recipe);
    forget_reading(recipe);
    return status;
}

static peft_status open_recipe(peft_context *ctx, const void *data, size_t size, const char *name, bool is_file,
                               const char *const *overrides, uint32_t count, uint32_t flags, peft_recipe **out_recipe) {
    for (uint32_t i = 0; i < count; i++)
        if (overrides == NULL || overrides[i] == NULL) return peft__fail(ctx, PEFT_E_ARG, "override %u is missing", i);
    peft_recipe *recipe = peft__alloc_zero(ctx->mem, sizeof *recipe);
    if (recipe == NULL) return peft__fail_nomem(ctx, sizeof *recipe, "a recipe");
    recipe->ctx = peft__context_ref(ctx);
    recipe->flags = flags;
    peft__arena_init(&recipe->arena, ctx->mem);
    peft__buffer_init(&recipe->ignored, ctx->mem);
    peft__buffer_init(&recipe->explain, ctx->mem);
    recipe->name = peft__arena_strdup(&recipe->arena, name);
    const peft_status status = recipe->name == NULL ? peft__fail_nomem(ctx, strlen(name), "a recipe")
                                                    : read_all(recipe, data, size, is_file, overrides, count);
    if (status < 0) {
        peft_recipe_destroy(recipe);
        return status;
    }
    *out_recipe = recipe;
    return PEFT_OK;
}

peft_status peft_recipe_open(peft_context *context, const char *path, const char *const *overrides, uint32_t count,
                             uint32_t flags, peft_recipe **out_recipe) {
    if (context == NULL) return PEFT_E_ARG;
    if (path == NULL || out_recipe == NULL)
        return peft__fail(context, PEFT_E_ARG, "peft_recipe_open() takes a path and out_recipe");
    return open_recipe(context, NULL, 0, path, true, overrides, count, flags, out_recipe);
}

peft_status peft_recipe_open_memory(peft_context *context, const void *data, uint64_t size, const char *name,
                                    const char *const *overrides, uint32_t count, uint32_t flags,
                                    peft_recipe **out_recipe) {
    if (context == NULL) return PEFT_E_ARG;
    if ((data == NULL && size > 0) || out_recipe == NULL || size > SIZE_MAX)
        return peft__fail(context, PEFT_E_ARG, "peft_recipe_open_memory() takes data and out_recipe");
    return open_recipe(context, data, (size_t)size, name != NULL ? name : "recipe", false, overrides, count, flags,
                       out_recipe);
}

const char *peft_recipe_explain(const peft_recipe *recipe) {
    return recipe != NULL && recipe->explain.data != NULL ? recipe->explain.data : "";
}

uint64_t peft_recipe_hash(const peft_recipe *recipe) {
    return recipe != NULL ? recipe->hash : 0;
}
const char *peft_recipe_adapter_config(const peft_recipe *recipe) {
    return recipe != NULL ? recipe->adapter_config : NULL;
}

/* ---- values ----------------------------------------------------------------------------------------------------- */

static peft_status find_value(const peft_recipe *recipe, const char *key, bool needed, const json_t **out_value) {
    if (recipe == NULL) return PEFT_E_ARG;
    if (key == NULL) return peft__fail(recipe->ctx, PEFT_E_ARG, "a key's name is missing");
    *out_value = peft__recipe_value(recipe, key);
    if (*out_value != NULL) return PEFT_OK;
    const peft__recipe_key *known = peft__recipe_find_key(key);
    if ((known == NULL || strcmp(known->name, key) != 0) && strncmp(key, "adapter.", 8) != 0) {
        const char *closest = peft__recipe_closest(key);
        return peft__fail(recipe->ctx, PEFT_E_ARG, "recipes have no key \"%.80s\"%s%s", key,
                          closest != NULL ? "; the closest is " : "", closest != NULL ? closest : "");
    }
    return needed ? peft__fail(recipe->ctx, PEFT_E_STATE, "%s: %s is not set", recipe->name, key) : PEFT_OK;
}

static peft_status wrong_kind(const peft_recipe *recipe, const char *key, const char *wanted, const json_t *value) {
    return peft__fail(recipe->ctx, PEFT_E_ARG, "%s: %s is %s, not %s", recipe->name, key, peft__json_kind(value),
                      wanted);
}

peft_status peft_recipe_get_text(const peft_recipe *recipe, const char *key, const char **out_text) {
    const json_t *value = NULL;
    PEFT_TRY(find_value(recipe, key, false, &value));
    if (value != NULL && !json_is_string(value)) return wrong_kind(recipe, key, "text", value);
    if (out_text != NULL) *out_text = json_string_value(value);
    return PEFT_OK;
}

peft_status peft_recipe_get_int(const peft_recipe *recipe, const char *key, int64_t *out_value) {
    const json_t *value = NULL;
    PEFT_TRY(find_value(recipe, key, true, &value));
    if (!json_is_integer(value)) return wrong_kind(recipe, key, "a whole number", value);
    if (out_value != NULL) *out_value = json_integer_value(value);
    return PEFT_OK;
}

peft_status peft_recipe_get_number(const peft_recipe *recipe, const char *key, double *out_value) {
    const json_t *value = NULL;
    PEFT_TRY(find_value(recipe, key, true, &value));
    if (!json_is_number(value)) return wrong_kind(recipe, key, "a number", value);
    if (out_value != NULL) *out_value = json_number_value(value);
    return PEFT_OK;
}

peft_status peft_recipe_get_bool(const peft_recipe *recipe, const char *key, int32_t *out_value) {
    const json_t *value = NULL;
    PEFT_TRY(find_value(recipe, key, true, &value));
    if (!json_is_boolean(value)) return wrong_kind(recipe, key, "true or false", value);
    if (out_value != NULL) *out_value = json_is_true(value) ? 1 : 0;
    return PEFT_OK;
}

int32_t peft_recipe_is_given(const peft_recipe *recipe, const char *key) {
    const peft__recipe_slot *slot = recipe != NULL && key != NULL ? peft__recipe_slot_of(recipe, key) : NULL;
    return slot != NULL && slot->given_as != NULL ? 1 : 0;
}

/* ---- filling ------------------------------------------------------------------------------------------------ */

/* Values that finish.c has checked: the keys exist and have their kinds. */
static double number(const peft_recipe *recipe, const char *key) {
    return json_number_value(peft__recipe_value(recipe, key));
}
static int64_t whole(const peft_recipe *recipe, const char *key) {
    return json_integer_value(peft__recipe_value(recipe, key));
}
static uint32_t flag(const peft_recipe *recipe, const char *key) {
    return json_is_true(peft__recipe_value(recipe, key)) ? 1 : 0;
}
static const char *text(const peft_recipe *recipe, const char *key) {
    return json_string_value(peft__recipe_value(recipe, key));
}
static int32_t choice(const peft_recipe *recipe, const char *key) {
    return peft__recipe_choice(peft__recipe_find_key(key), text(recipe, key));
}

/* Brings the caller's struct into one that is known whole, and back. */
static peft_status take(const peft_recipe *recipe, void *own, size_t size, const void *given, const char *name) {
    if (recipe == NULL) return PEFT_E_ARG;
    if (given == NULL) return peft__fail(recipe->ctx, PEFT_E_ARG, "%s is missing", name);
    return peft__options_copy(recipe->ctx, own, size, given, size, name);
}

static void give(void *given, void *own, size_t size) {
    uint32_t declared;
    memcpy(&declared, given, sizeof declared);
    memcpy(own, &declared, sizeof declared);
    memcpy(given, own, size);
}

const char *peft_recipe_data_path(const peft_recipe *recipe, int32_t part) {
    if (recipe == NULL) return NULL;
    if (part != PEFT_PART_VALIDATION) return text(recipe, "data.train");
    const char *own = text(recipe, "data.validation");
    if (own != NULL) return own;
    return number(recipe, "data.validation_fraction") > 0.0 ? text(recipe, "data.train") : NULL;
}

peft_status peft_recipe_dataset_options(const peft_recipe *recipe, int32_t part, peft_dataset_options *options) {
    peft_dataset_options own;
    PEFT_TRY(take(recipe, &own, sizeof own, options, "peft_dataset_options"));
    const bool validation = part == PEFT_PART_VALIDATION, own_file = text(recipe, "data.validation") != NULL;
    own.format = choice(recipe, "data.format");
    own.max_length = whole(recipe, "data.max_length");
    own.stride = whole(recipe, "data.stride");
    own.batch_size = whole(recipe, "train.batch_size");
    own.packing = flag(recipe, "data.packing");
    own.train_on_prompt = flag(recipe, "data.train_on_prompt");
    own.eos = choice(recipe, "data.eos");
    own.shuffle = validation ? 0 : flag(recipe, "data.shuffle");
    own.seed = (uint64_t)whole(recipe, "train.seed");
    own.on_bad_row = choice(recipe, "data.on_bad_row");
    own.validation_fraction = own_file ? 0.0 : number(recipe, "data.validation_fraction");
    own.part = own.validation_fraction > 0.0 ? part : PEFT_PART_ALL;
    own.max_examples = whole(recipe, "data.max_examples");
    own.chat_template = text(recipe, "data.chat_template");
    own.text_key = text(recipe, "data.text_key");
    own.prompt_key = text(recipe, "data.prompt_key");
    own.completion_key = text(recipe, "data.completion_key");
    own.label_key = text(recipe, "data.label_key");
    own.text_pair_key = text(recipe, "data.text_pair_key");
    own.drop_last = validation ? 0 : flag(recipe, "data.drop_last");
    own.label_names = recipe->label_names;
    own.label_name_count = recipe->label_name_count;
    own.layout = recipe->layout;
    own.image_flip = validation ? 0.0f : (float)number(recipe, "data.image_flip");
    own.image_crop = validation ? 0 : flag(recipe, "data.image_crop");
    own.input_template = text(recipe, "data.input_template");
    own.choices_key = text(recipe, "data.choices_key");
    own.verbalizers = recipe->verbalizers;
    own.verbalizer_count = recipe->verbalizer_count;
    /* The losses of T-Few need wrong answers too, and so does judging; what others learn is the right answer. */
    own.right_only = part == PEFT_PART_TRAIN && strcmp(text(recipe, "train.loss"), "task") == 0;
    give(options, &own, sizeof own);
    return PEFT_OK;
}

peft_status peft_recipe_model_options(const peft_recipe *recipe, peft_model_options *options) {
    peft_model_options own;
    PEFT_TRY(take(recipe, &own, sizeof own, options, "peft_model_options"));
    const int64_t labels = whole(recipe, "model.num_labels");
    if (labels > UINT32_MAX)
        return peft__fail(recipe->ctx, PEFT_E_ARG, "%s: model.num_labels is too large", recipe->name);
    own.task = choice(recipe, "model.task");
    own.num_labels = (uint32_t)labels;
    own.problem_type = choice(recipe, "model.problem_type");
    own.label_names = recipe->label_names;
    own.label_name_count = recipe->label_name_count;
    /* What the rows are says what is learnt from them. */
    const int32_t format = choice(recipe, "data.format");
    if (own.problem_type == PEFT_PROBLEM_AUTO && format == PEFT_DATA_REGRESSION)
        own.problem_type = PEFT_PROBLEM_REGRESSION;
    if (own.problem_type == PEFT_PROBLEM_AUTO && format == PEFT_DATA_MULTI_LABEL)
        own.problem_type = PEFT_PROBLEM_MULTI_LABEL;
    if (own.problem_type == PEFT_PROBLEM_REGRESSION && own.num_labels == 0 && own.label_name_count == 0)
        own.num_labels = 1;
    give(options, &own, sizeof own);
    return PEFT_OK;
}

peft_status peft_recipe_class_weights(const peft_recipe *recipe, const peft_dataset *train, float *out_weights,
                                      uint32_t count, int32_t *out_given) {
    if (recipe == NULL) return PEFT_E_ARG;
    const json_t *value = peft__recipe_value(recipe, "train.class_weights");
    if (train == NULL || out_weights == NULL)
        return peft__fail(recipe->ctx, PEFT_E_ARG, "peft_recipe_class_weights() takes a data set and room for weights");
    if (out_given != NULL) *out_given = value != NULL ? 1 : 0;
    if (value == NULL) return PEFT_OK;
    if (json_is_string(value)) return peft_dataset_balanced_weights(train, out_weights, count);
    if (json_array_size(value) != count)
        return peft__fail(recipe->ctx, PEFT_E_ARG, "%s: train.class_weights has %zu numbers, the data has %u classes",
                          recipe->name, json_array_size(value), count);
    for (uint32_t i = 0; i < count; i++) out_weights[i] = (float)json_number_value(json_array_get(value, i));
    return PEFT_OK;
}

peft_status peft_recipe_optimizer_options(const peft_recipe *recipe, peft_optimizer_options *options) {
    peft_optimizer_options own;
    PEFT_TRY(take(recipe, &own, sizeof own, options, "peft_optimizer_options"));
    own.kind = choice(recipe, "train.optimizer");
    own.lr = (float)number(recipe, "train.lr");
    if (peft__recipe_value(recipe, "train.beta1") != NULL) own.beta1 = (float)number(recipe, "train.beta1");
    if (peft__recipe_value(recipe, "train.beta2") != NULL) own.beta2 = (float)number(recipe, "train.beta2");
    if (peft__recipe_value(recipe, "train.eps") != NULL) own.eps = (float)number(recipe, "train.eps");
    own.adafactor_scale_parameter = flag(recipe, "train.adafactor_scale_parameter");
    own.adafactor_clip_threshold = (float)number(recipe, "train.adafactor_clip_threshold");
    own.adafactor_decay_rate = (float)number(recipe, "train.adafactor_decay_rate");
    own.weight_decay = (float)number(recipe, "train.weight_decay");
    own.max_grad_norm = (float)number(recipe, "train.max_grad_norm");
    own.loraplus_lr_ratio = (float)number(recipe, "train.loraplus_lr_ratio");
    own.layer_lr_decay = (float)number(recipe, "train.layer_lr_decay");
    give(options, &own, sizeof own);
    return PEFT_OK;
}

peft_status peft_recipe_schedule(const peft_recipe *recipe, uint64_t total_steps, peft_schedule *schedule) {
    peft_schedule own;
    PEFT_TRY(take(recipe, &own, sizeof own, schedule, "peft_schedule"));
    own.kind = choice(recipe, "train.lr_scheduler");
    own.peak_lr = number(recipe, "train.lr");
    own.total_steps = total_steps;
    const double warmup = number(recipe, "train.warmup");
    own.warmup_steps = (uint64_t)(warmup < 1.0 ? ceil(warmup * (double)total_steps) : warmup);
    give(schedule, &own, sizeof own);
    return PEFT_OK;
}

peft_status peft_recipe_unfreezing(const peft_recipe *recipe, uint64_t total_steps, peft_unfreezing *unfreezing) {
    peft_unfreezing own;
    PEFT_TRY(take(recipe, &own, sizeof own, unfreezing, "peft_unfreezing"));
    const double steps = number(recipe, "train.unfreeze_steps");
    own.stage_steps = (uint64_t)(steps < 1.0 ? ceil(steps * (double)total_steps) : steps);
    own.first_layers = (int32_t)peft__min_i64(INT32_MAX, whole(recipe, "train.unfreeze_first"));
    own.stage_layers = (int32_t)peft__min_i64(INT32_MAX, whole(recipe, "train.unfreeze_layers"));
    give(unfreezing, &own, sizeof own);
    return PEFT_OK;
}

peft_status peft_recipe_session_options(const peft_recipe *recipe, peft_session_options *options) {
    peft_session_options own;
    PEFT_TRY(take(recipe, &own, sizeof own, options, "peft_session_options"));
    own.seed = (uint64_t)whole(recipe, "train.seed");
    own.label_smoothing = (float)number(recipe, "train.label_smoothing");
    own.similarity_scale = (float)number(recipe, "train.similarity_scale");
    own.loss = strcmp(text(recipe, "train.loss"), "tfew") == 0 ? PEFT_LOSS_TFEW : PEFT_LOSS_TASK;
    give(options, &own, sizeof own);
    return PEFT_OK;
}

uint64_t peft_recipe_total_steps(const peft_recipe *recipe, int64_t batches) {
    if (recipe == NULL) return 0;
    const int64_t limit = whole(recipe, "train.max_steps");
    if (limit > 0) return (uint64_t)limit;
    const int64_t an_epoch =
        peft__ceil_div(peft__max_i64(batches, 0), whole(recipe, "train.gradient_accumulation_steps"));
    const double steps = ceil(number(recipe, "train.epochs") * (double)an_epoch);
    return steps >= 1e15 ? UINT64_C(1000000000000000) : (uint64_t)steps;
}
