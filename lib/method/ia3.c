/* ia3.c: (IA)^3 (Liu et al. 2022, section 3.3): one vector per adapted layer that scales activations.
 *
 * An ordinary target gets y l, l [out], after the layer's bias; a feed-forward target gets its input scaled, x l, l [in]. Both
 * start at one. On disk l is [out, 1] or [1, in], which is how HF PEFT tells them apart. Several adapters on one layer
 * multiply. Merging scales rows (and the bias) or columns of W; no product of matrices is involved anywhere.
 */
#include "method/adapter.h"

static const char *const WHERE = "adapter_config.json";

typedef struct ia3 {
    peft__targets targets;
    uint32_t *by_module; /* module index -> param + 1 */
    bool *feedforward;   /* of each target */
} ia3;

/* What HF PEFT adapts when target_modules is null, by model_type, and which of these are feed-forward layers. */
static const peft__default_targets TARGETS[] = {
    {"t5", {"k", "v", "wo"}},
    {"mt5", {"k", "v", "wi_1"}},
    {"gpt2", {"c_attn", "mlp.c_proj"}},
    {"bloom", {"query_key_value", "mlp.dense_4h_to_h"}},
    {"roberta", {"key", "value", "output.dense"}},
    {"opt", {"q_proj", "k_proj", "fc2"}},
    {"gptj", {"q_proj", "v_proj", "fc_out"}},
    {"gpt_neox", {"query_key_value", "dense_4h_to_h"}},
    {"gpt_neo", {"q_proj", "v_proj", "c_proj"}},
    {"bart", {"q_proj", "v_proj", "fc2"}},
    {"gpt_bigcode", {"c_attn", "mlp.c_proj"}},
    {"llama", {"k_proj", "v_proj", "down_proj"}},
    {"llama4", {"q_proj", "v_proj", "down_proj"}},
    {"mistral", {"k_proj", "v_proj", "down_proj"}},
    {"mixtral", {"k_proj", "v_proj", "w2"}},
    {"bert", {"key", "value", "output.dense"}},
    {"deberta-v2", {"key_proj", "value_proj", "output.dense"}},
    {"deberta", {"in_proj", "output.dense"}},
    {"RefinedWebModel", {"query_key_value", "dense_4h_to_h"}},
    {"RefinedWeb", {"query_key_value", "dense_4h_to_h"}},
    {"falcon", {"query_key_value", "dense_4h_to_h"}},
    {"phi", {"q_proj", "v_proj", "fc2"}},
    {"gemma", {"q_proj", "v_proj", "down_proj"}},
    {"gemma2", {"q_proj", "v_proj", "down_proj"}},
    {"gemma3_text", {"q_proj", "v_proj", "down_proj"}},
    {"qwen2", {"q_proj", "v_proj", "down_proj"}},
    {"qwen3", {"q_proj", "v_proj", "down_proj"}},
    {NULL, {NULL}},
};

/* The default feed-forward modules are these names where they are targets. */
static const char *const FEEDFORWARD[] = {"wo",    "mlp.c_proj", "mlp.dense_4h_to_h", "output.dense", "fc2", "fc_out", "dense_4h_to_h",
                                          "w2",    "down_proj"};

static bool ends_with(const char *text, const char *suffix) {
    const size_t length = strlen(text), size = strlen(suffix);
    return size <= length && strcmp(text + (length - size), suffix) == 0;
}

static bool is_name_of_target(const json_t *targets, const char *name) {
    for (size_t i = 0; i < json_array_size(targets); i++)
        if (strcmp(json_string_value(json_array_get(targets, i)), name) == 0) return true;
    return false;
}

/* feedforward_modules null becomes the default names that are targets, as HF PEFT writes it. */
static peft_status fill_feedforward(peft_adapter *adapter) {
    if (peft__json_value(adapter->config, "feedforward_modules") != NULL) return PEFT_OK;
    const json_t *targets = json_object_get(adapter->config, "target_modules");
    const char *names[PEFT_COUNT(FEEDFORWARD)];
    size_t count = 0;
    for (size_t i = 0; i < PEFT_COUNT(FEEDFORWARD); i++)
        if (is_name_of_target(targets, FEEDFORWARD[i])) names[count++] = FEEDFORWARD[i];
    return peft__config_set_names(adapter->ctx, adapter->config, "feedforward_modules", names, count);
}

/* A list is compared by plain suffix, without a dot, as HF PEFT does; a string is a regular expression. */
static peft_status is_feedforward(peft_adapter *adapter, const peft__module *module, bool *out) {
    const json_t *list = json_object_get(adapter->config, "feedforward_modules");
    if (!json_is_array(list)) return peft__targets_match(adapter, "feedforward_modules", module->name, out);
    *out = false;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (name == NULL)
            return peft__fail(adapter->ctx, PEFT_E_FORMAT, "%s: feedforward_modules[%zu]: expected a module name, found %s", WHERE, i,
                              peft__json_kind(json_array_get(list, i)));
        *out = *out || ends_with(module->name, name);
    }
    return PEFT_OK;
}

static peft_status check_subset(peft_adapter *adapter) {
    const json_t *targets = json_object_get(adapter->config, "target_modules"), *list = json_object_get(adapter->config, "feedforward_modules");
    for (size_t i = 0; json_is_array(targets) && i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (name != NULL && !is_name_of_target(targets, name))
            return peft__fail(adapter->ctx, PEFT_E_ARG, "%s: feedforward_modules: \"%.80s\" is not one of target_modules", WHERE, name);
    }
    return PEFT_OK;
}

static peft_status declare(peft_adapter *adapter, ia3 *state, uint32_t index, bool ones) {
    const peft__module *module = state->targets.modules[index];
    const bool ff = state->feedforward[index];
    const char *name = peft__adapter_text(adapter, "base_model.model.%s.ia3_l", module->name);
    if (name == NULL) return PEFT_E_NOMEM;
    const peft__declaration d = {.name = name,
                                 .key = name,
                                 .ndim = 2,
                                 .shape = {ff ? 1 : module->out, ff ? module->in : 1},
                                 .init = ones ? PEFT__INIT_CONSTANT : PEFT__INIT_NORMAL,
                                 .init_value = 1.0f};
    uint32_t param = 0;
    PEFT_TRY(peft__adapter_declare(adapter, &d, &param));
    state->by_module[module->index] = param + 1;
    return PEFT_OK;
}

static peft_status configure(peft_adapter *adapter) {
    peft_context *ctx = adapter->ctx;
    ia3 *state = peft__arena_alloc(&adapter->arena, sizeof *state);
    if (state == NULL) return peft__fail_nomem(ctx, sizeof *state, "an adapter");
    adapter->state = state;
    bool ones = true, conv = false;
    PEFT_TRY(peft__json_get_bool(ctx, adapter->config, WHERE, "init_ia3_weights", true, &ones));
    PEFT_TRY(peft__modules_to_save(adapter));
    PEFT_TRY(peft__targets_find(adapter, PEFT__KIND(PEFT_MODULE_LINEAR) | PEFT__KIND(PEFT_MODULE_CONV1D), TARGETS, &state->targets));
    PEFT_TRY(fill_feedforward(adapter));
    PEFT_TRY(check_subset(adapter));
    const uint32_t modules = peft__model_module_count(adapter->model);
    state->by_module = peft__arena_alloc(&adapter->arena, (modules + 1) * sizeof *state->by_module);
    state->feedforward = peft__arena_alloc(&adapter->arena, (state->targets.count + 1) * sizeof *state->feedforward);
    if (state->by_module == NULL || state->feedforward == NULL) return peft__fail_nomem(ctx, modules * sizeof *state->by_module, "an adapter");
    for (uint32_t i = 0; i < state->targets.count; i++) {
        conv = conv || state->targets.modules[i]->kind == PEFT_MODULE_CONV1D;
        PEFT_TRY(is_feedforward(adapter, state->targets.modules[i], &state->feedforward[i]));
        PEFT_TRY(declare(adapter, state, i, ones));
    }
    adapter->per_sequence = peft__adapter_spares_base(adapter);
    return json_object_set_new(adapter->config, "fan_in_fan_out", json_boolean(conv)) == 0 ? PEFT_OK
                                                                                             : peft__fail_nomem(ctx, 64, "an adapter's configuration");
}

/* ---- the graph ------------------------------------------------------------------------------------------------ */

/* The param that scales a module, and which side; NULL when it is no target. */
static peft__param *param_of(const peft_adapter *adapter, const peft__module *module, bool *out_input) {
    const ia3 *state = adapter->state;
    const uint32_t index = state->by_module[module->index];
    if (index == 0) return NULL;
    peft__param *param = &adapter->params[index - 1];
    *out_input = false;
    for (uint32_t i = 0; i < state->targets.count; i++)
        if (state->targets.modules[i] == module) *out_input = state->feedforward[i];
    return param;
}

static bool touches(void *self, const peft__module *module) {
    const peft_adapter *adapter = self;
    return ((const ia3 *)adapter->state)->by_module[module->index] != 0 && adapter->scale != 0.0f;
}

static peft__value *scale_side(peft_adapter *adapter, peft__build *b, const peft__module *module, peft__value *value, bool input) {
    bool at_input = false;
    peft__param *param = param_of(adapter, module, &at_input);
    if (param == NULL || at_input != input || adapter->scale == 0.0f) return value;
    return peft__op_mul_vector_of(b->graph, value, peft__value_param_vector(b->graph, param),
                                  peft__adapter_slot(adapter, b));
}

static peft__value *before_linear(void *self, peft__build *b, const peft__module *module, peft__value *x) {
    return scale_side(self, b, module, x, true);
}

static peft__value *after_linear(void *self, peft__build *b, const peft__module *module, peft__value *x, peft__value *y) {
    (void)x;
    return scale_side(self, b, module, y, false);
}

static bool is_additive(void *self, const peft__module *module) {
    bool input = false;
    /* What scales the input leaves the output to the residual. */
    return param_of(self, module, &input) == NULL || input;
}

/* ---- merging ----------------------------------------------------------------------------------------------------- */

static uint32_t changes(const peft_adapter *adapter, const peft__module *module) {
    bool input = false;
    if (param_of(adapter, module, &input) == NULL) return 0;
    return PEFT__CHANGES_WEIGHT | (!input && module->has_bias ? PEFT__CHANGES_BIAS : 0u);
}

static peft_status merge(const peft_adapter *adapter, const peft__module *module, float *weight, float *bias) {
    bool input = false;
    const float *l = param_of(adapter, module, &input)->data;
    /* Stored [out, in], or [in, out] for Conv1D: is the scaled side the rows? */
    const bool conv = module->kind == PEFT_MODULE_CONV1D, by_rows = conv == input;
    const int64_t rows = conv ? module->in : module->out, cols = conv ? module->out : module->in;
    for (int64_t r = 0; weight != NULL && r < rows; r++)
        for (int64_t c = 0; c < cols; c++) weight[r * cols + c] *= l[by_rows ? r : c];
    for (int64_t o = 0; bias != NULL && !input && o < module->out; o++) bias[o] *= l[o];
    return PEFT_OK;
}

static const peft__hooks HOOKS = {.trained = peft__adapter_trained,
                                  .touches = touches,
                                  .before_linear = before_linear,
                                  .after_linear = after_linear,
                                  .linear_is_additive = is_additive};

static const peft__config_key KEYS[] = {
    {"exclude_modules", "null", PEFT__KEY_USED},  {"fan_in_fan_out", "false", PEFT__KEY_USED},
    {"feedforward_modules", "null", PEFT__KEY_USED}, {"init_ia3_weights", "true", PEFT__KEY_USED},
    {"modules_to_save", "null", PEFT__KEY_USED},  {"target_modules", "null", PEFT__KEY_USED},
    {NULL, NULL, PEFT__KEY_USED},
};

const peft__method peft__method_ia3 = {
    .peft_type = "IA3",
    .flags = PEFT__METHOD_EXCHANGEABLE,
    .keys = KEYS,
    .hooks = &HOOKS,
    .configure = configure,
    .changes = changes,
    .merge = merge,
};
