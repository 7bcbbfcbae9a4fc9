/* adapter.c: an adapter's tensors, from their declarations, and the public functions on them. */
#include <stdarg.h>
#include <stdio.h>
#include <math.h>

#include "method/adapter_make.h"

enum { MOST_PARAMS = 1 << 20, ALIGN_FLOATS = 16 };
#define CONFIG_LIMIT ((size_t)16 << 20)

/* ---- declarations ---------------------------------------------------------------------------------------- */

char *peft__adapter_text(peft_adapter *adapter, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    const int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = length >= 0 ? peft__arena_alloc(&adapter->arena, (size_t)length + 1) : NULL;
    if (text != NULL)
        vsnprintf(text, (size_t)length + 1, format, again);
    else
        (void)peft__fail_nomem(adapter->ctx, 64, "an adapter's names");
    va_end(again);
    return text;
}

peft_status peft__adapter_note(peft_adapter *adapter, const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    line[0] = 0;
    if (format != NULL) (void)vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    peft__utf8_tidy(line);
    const size_t length = strlen(line);
    if (length > 0 && format[strlen(format) - 1] == '\n') line[length - 1] = '\n';
    return peft__buffer_puts(&adapter->notes, line)
               ? PEFT_OK
               : peft__fail_nomem(adapter->ctx, sizeof line, "an adapter's report");
}

const char *peft__adapter_tensor_name(peft_adapter *adapter, const peft__module *module, bool bias) {
    return peft__module_tensor_name(module, &adapter->arena, bias);
}

static peft_status grow(peft_adapter *adapter) {
    peft__mem *mem = adapter->ctx->mem;
    const uint32_t capacity = adapter->capacity == 0 ? 64 : 2 * adapter->capacity;
    peft__param *params = peft__realloc(mem, adapter->params, capacity * sizeof *params);
    if (params == NULL) return peft__fail_nomem(adapter->ctx, capacity * sizeof *params, "an adapter's tensors");
    adapter->params = params;
    peft__slot *slots = peft__realloc(mem, adapter->slots, capacity * sizeof *slots);
    if (slots == NULL) return peft__fail_nomem(adapter->ctx, capacity * sizeof *slots, "an adapter's tensors");
    adapter->slots = slots;
    adapter->capacity = capacity;
    return PEFT_OK;
}

/* Copies a text into the arena; NULL stays NULL. */
static peft_status keep(peft_adapter *adapter, const char *text, const char **out) {
    *out = text != NULL ? peft__arena_strdup(&adapter->arena, text) : NULL;
    return text == NULL || *out != NULL ? PEFT_OK : peft__fail_nomem(adapter->ctx, strlen(text), "an adapter's names");
}

static peft_status put_index(peft_adapter *adapter, peft__table *table, const char *name, uint32_t index) {
    return peft__table_put(table, name, strlen(name), index) ? PEFT_OK
                                                             : peft__fail_nomem(adapter->ctx, 64, "an adapter's names");
}

peft_status peft__adapter_alias(peft_adapter *adapter, const char *base, uint32_t index) {
    const char *kept = NULL;
    PEFT_TRY(keep(adapter, base, &kept));
    return put_index(adapter, &adapter->by_base, kept, index);
}

peft_status peft__adapter_declare(peft_adapter *adapter, const peft__declaration *declaration, uint32_t *out_index) {
    peft_context *ctx = adapter->ctx;
    uint64_t other = 0;
    if (adapter->fixed)
        return peft__fail(ctx, PEFT_E_INTERNAL, "%s is declared after the adapter was made", declaration->name);
    if (peft__table_get(&adapter->by_name, declaration->name, strlen(declaration->name), &other))
        return peft__fail(ctx, PEFT_E_MISMATCH, "two tensors of the adapter are called %.200s", declaration->name);
    if (declaration->base != NULL &&
        peft__table_get(&adapter->by_base, declaration->base, strlen(declaration->base), &other))
        return peft__fail(ctx, PEFT_E_MISMATCH, "%.200s would be trained twice", declaration->base);
    if (adapter->count >= MOST_PARAMS)
        return peft__fail(ctx, PEFT_E_LIMIT, "the adapter has more than %d tensors", MOST_PARAMS);
    if (adapter->count == adapter->capacity) PEFT_TRY(grow(adapter));
    peft__param param = {.ndim = declaration->ndim,
                         .flags = declaration->flags,
                         .elements = 1,
                         .lr_scale = declaration->lr_scale == 0.0f ? 1.0f : declaration->lr_scale};
    for (uint32_t i = 0; i < declaration->ndim; i++) {
        param.shape[i] = declaration->shape[i];
        if (param.shape[i] < 1 || __builtin_mul_overflow(param.elements, param.shape[i], &param.elements) ||
            param.elements > INT64_MAX / 64)
            return peft__fail(ctx, PEFT_E_LIMIT, "%.200s has a size of %lld in dimension %u", declaration->name,
                              (long long)param.shape[i], i);
    }
    peft__slot slot = {.init = declaration->init, .init_value = declaration->init_value};
    PEFT_TRY(keep(adapter, declaration->name, &param.name));
    PEFT_TRY(keep(adapter, declaration->key, &slot.key));
    PEFT_TRY(keep(adapter, declaration->base, &slot.base));
    PEFT_TRY(put_index(adapter, &adapter->by_name, param.name, adapter->count));
    if (slot.base != NULL) PEFT_TRY(put_index(adapter, &adapter->by_base, slot.base, adapter->count));
    adapter->params[adapter->count] = param;
    adapter->slots[adapter->count] = slot;
    if (out_index != NULL) *out_index = adapter->count;
    adapter->count++;
    return PEFT_OK;
}

peft_status peft__adapter_declare_base(peft_adapter *adapter, const peft__module *module, bool bias, const char *name,
                                       const char *key, uint32_t *out_index) {
    const char *base = peft__adapter_tensor_name(adapter, module, bias);
    if (base == NULL) return peft__fail_nomem(adapter->ctx, strlen(module->name), "an adapter's names");
    peft__declaration d = {.name = name, .key = key, .base = base, .init = PEFT__INIT_BASE};
    if (!peft__model_tensor_shape(adapter->model, base, &d.ndim, d.shape))
        return peft__fail(adapter->ctx, PEFT_E_MISMATCH, "the model has no tensor %.200s", base);
    if (bias || module->kind == PEFT_MODULE_NORM) d.flags = PEFT__PARAM_NO_DECAY;
    return peft__adapter_declare(adapter, &d, out_index);
}

bool peft__adapter_spares_base(const peft_adapter *adapter) {
    for (uint32_t i = 0; i < adapter->count; i++)
        if (adapter->slots[i].base != NULL) return false;
    return true;
}

peft__param *peft__adapter_trained(void *self, const char *tensor) {
    peft_adapter *adapter = self;
    uint64_t index = 0;
    if (!peft__table_get(&adapter->by_base, tensor, strlen(tensor), &index)) return NULL;
    if (adapter->scale == 0.0f && peft__model_tensor(adapter->model, tensor) != NULL) return NULL;
    return &adapter->params[index];
}

static bool touches_nothing(void *self, const peft__module *module) {
    (void)self;
    (void)module;
    return false;
}

const peft__hooks peft__adapter_hooks_base_only = {.trained = peft__adapter_trained, .touches = touches_nothing};

uint32_t peft__adapter_changes_nothing(const peft_adapter *adapter, const peft__module *module) {
    (void)adapter;
    (void)module;
    return 0;
}

/* ---- values -------------------------------------------------------------------------------------------------- */

static int64_t padded(int64_t elements) {
    return (elements + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS;
}

static peft_status allocate(peft_adapter *adapter) {
    peft_context *ctx = adapter->ctx;
    int64_t total = 0;
    for (uint32_t i = 0; i < adapter->count; i++)
        if (__builtin_add_overflow(total, padded(adapter->params[i].elements), &total) || total > INT64_MAX / 8)
            return peft__fail(ctx, PEFT_E_LIMIT, "the adapter's tensors are too large together");
    const size_t bytes = (size_t)total * sizeof(float);
    adapter->block = peft__alloc_zero(ctx->mem, bytes);
    if (adapter->block == NULL) return peft__fail_nomem(ctx, bytes, "an adapter's tensors");
    float *at = adapter->block;
    for (uint32_t i = 0; i < adapter->count; i++) {
        peft__param *param = &adapter->params[i];
        param->data = at;
        at += padded(param->elements);
        if ((param->flags & PEFT__PARAM_FROZEN) == 0) adapter->trained += param->elements;
    }
    adapter->fixed = true;
    return PEFT_OK;
}

static double initializer_range(const peft_adapter *adapter) {
    const json_t *value = peft__json_value(peft__model_config_json(adapter->model), "initializer_range");
    const double range = json_is_number(value) ? json_number_value(value) : 0.02;
    return range >= 0.0 && range < 10.0 ? range : 0.02;
}

static void fill(peft__param *param, peft__init init, float value, uint64_t seed) {
    peft__rng rng = peft__rng_make(seed, peft__hash64(param->name, strlen(param->name), 0));
    for (int64_t i = 0; i < param->elements; i++) {
        switch (init) {
        case PEFT__INIT_UNIFORM:
            param->data[i] = value * (2.0f * peft__rng_uniform(&rng) - 1.0f);
            break;
        case PEFT__INIT_NORMAL:
            param->data[i] = value * peft__rng_normal(&rng);
            break;
        case PEFT__INIT_CONSTANT:
            param->data[i] = value;
            break;
        default:
            param->data[i] = 0.0f;
            break;
        }
    }
}

static peft_status fill_base(peft_adapter *adapter, uint32_t index, uint64_t seed) {
    const char *base = adapter->slots[index].base;
    peft__param *param = &adapter->params[index];
    if (peft__model_tensor(adapter->model, base) != NULL) {
        PEFT_TRY(peft__model_read_tensor(adapter->ctx, adapter->model, base, param->data));
        peft__model_drop_tensor(adapter->model, base);
        return PEFT_OK;
    }
    int part = 0;
    const peft__module *module = peft__model_split(adapter->model, base, &part);
    if (part == 1)
        fill(param, PEFT__INIT_ZERO, 0.0f, seed);
    else if (module != NULL && module->kind == PEFT_MODULE_NORM)
        fill(param, PEFT__INIT_CONSTANT, 1.0f, seed);
    else
        fill(param, PEFT__INIT_NORMAL, (float)initializer_range(adapter), seed);
    return PEFT_OK;
}

peft_status peft__adapter_initialise(peft_adapter *adapter, uint64_t seed) {
    for (uint32_t i = 0; i < adapter->count; i++) {
        const peft__slot *slot = &adapter->slots[i];
        if (slot->read || slot->init == PEFT__INIT_METHOD) continue;
        if (slot->init == PEFT__INIT_BASE)
            PEFT_TRY(fill_base(adapter, i, seed));
        else
            fill(&adapter->params[i], slot->init, slot->init_value, seed);
    }
    return adapter->method->initialise != NULL ? adapter->method->initialise(adapter, seed) : PEFT_OK;
}

/* ---- making ---------------------------------------------------------------------------------------------------- */

static const char *task_name(int32_t task) {
    static const char *const NAMES[] = {
        [PEFT_TASK_CAUSAL_LM] = "CAUSAL_LM",       [PEFT_TASK_SEQ_2_SEQ_LM] = "SEQ_2_SEQ_LM",
        [PEFT_TASK_SEQ_CLS] = "SEQ_CLS",           [PEFT_TASK_TOKEN_CLS] = "TOKEN_CLS",
        [PEFT_TASK_QUESTION_ANS] = "QUESTION_ANS", [PEFT_TASK_FEATURE_EXTRACTION] = "FEATURE_EXTRACTION"};
    return task > 0 && (size_t)task < PEFT_COUNT(NAMES) ? NAMES[task] : NULL;
}

/* task_type and base_model_name_or_path where the host left them open. */
static peft_status complete_config(peft_adapter *adapter) {
    peft_context *ctx = adapter->ctx;
    const char *task = task_name(peft__model_task(adapter->model));
    const char *said = NULL;
    PEFT_TRY(peft__json_get_string(ctx, adapter->config, "adapter_config.json", "task_type", NULL, &said));
    if (said != NULL && task != NULL && strcmp(said, task) != 0)
        peft__log(ctx, PEFT_LOG_WARNING, "the adapter is for task %.40s, the model was loaded for %s", said, task);
    if (adapter->loading) return PEFT_OK;
    bool good = true;
    if (said == NULL && task != NULL) good = json_object_set_new(adapter->config, "task_type", json_string(task)) == 0;
    if (json_is_null(json_object_get(adapter->config, "base_model_name_or_path"))) {
        peft_model_info info = {.struct_size = sizeof info};
        PEFT_TRY(peft_model_get_info(adapter->model, &info));
        if (info.name != NULL && peft__utf8_valid(info.name, strlen(info.name)))
            good = good && json_object_set_new(adapter->config, "base_model_name_or_path", json_string(info.name)) == 0;
    }
    return good ? PEFT_OK : peft__fail_nomem(ctx, 64, "an adapter's configuration");
}

static peft_status setup(peft_adapter *adapter) {
    peft_context *ctx = adapter->ctx;
    peft_model_info info = {.struct_size = sizeof info};
    PEFT_TRY(peft_model_get_info(adapter->model, &info));
    adapter->base_hash = info.hash;
    PEFT_TRY(complete_config(adapter));
    PEFT_TRY(adapter->method->configure(adapter));
    if (adapter->count == 0)
        return peft__fail(ctx, PEFT_E_MISMATCH, "%s has nothing to train in this model", adapter->method->peft_type);
    return allocate(adapter);
}

peft_status peft__adapter_make(peft_context *ctx, peft_model *model, const char *where, json_t *given, bool loading,
                               peft_adapter **out_adapter) {
    const peft__method *method = NULL;
    json_t *config = NULL;
    PEFT_TRY(peft__config_read(ctx, where, given, &method, &config));
    peft_adapter *adapter = peft__alloc_zero(ctx->mem, sizeof *adapter);
    if (adapter == NULL) {
        json_decref(config);
        return peft__fail_nomem(ctx, sizeof *adapter, "an adapter");
    }
    adapter->ctx = peft__context_ref(ctx);
    atomic_init(&adapter->references, 1);
    adapter->model = peft__model_ref(model);
    adapter->method = method;
    adapter->config = config;
    adapter->loading = loading;
    adapter->scale = 1.0f;
    adapter->top_layers = -1;
    peft__arena_init(&adapter->arena, ctx->mem);
    peft__table_init(&adapter->by_name, ctx->mem);
    peft__table_init(&adapter->by_base, ctx->mem);
    peft__buffer_init(&adapter->notes, ctx->mem);
    const peft_status status = setup(adapter);
    if (status < 0) {
        peft_adapter_destroy(adapter);
        return status;
    }
    *out_adapter = adapter;
    return PEFT_OK;
}

static peft_status describe(peft_adapter *adapter) {
    uint32_t trained = 0;
    for (uint32_t i = 0; i < adapter->count; i++) trained += (adapter->params[i].flags & PEFT__PARAM_FROZEN) == 0;
    if (adapter->modules > 0) PEFT_TRY(peft__adapter_note(adapter, "%u modules adapted\n", adapter->modules));
    PEFT_TRY(peft__adapter_note(adapter, "%u tensors trained, %lld scalars\n", trained, (long long)adapter->trained));
    if (trained < adapter->count)
        PEFT_TRY(peft__adapter_note(adapter, "%u tensors frozen\n", adapter->count - trained));
    return PEFT_OK;
}

peft_status peft__adapter_finish(peft_adapter *adapter) {
    peft_context *ctx = adapter->ctx;
    PEFT_TRY(describe(adapter));
    adapter->report = peft__strdup(ctx->mem, adapter->notes.data != NULL ? adapter->notes.data : "");
    peft__buffer text;
    peft__buffer_init(&text, ctx->mem);
    const peft_status status = peft__config_write(ctx, adapter, &text);
    if (status >= 0) adapter->config_text = peft__strdup(ctx->mem, text.data);
    peft__buffer_free(&text);
    PEFT_TRY(status);
    if (adapter->report == NULL || adapter->config_text == NULL)
        return peft__fail_nomem(ctx, 1024, "an adapter's report");
    return PEFT_OK;
}

/* ---- public ---------------------------------------------------------------------------------------------------- */

peft_status peft_adapter_create(peft_context *ctx, peft_model *model, const char *config_json, uint64_t seed,
                                peft_adapter **out_adapter) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (model == NULL || config_json == NULL || out_adapter == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "peft_adapter_create: an argument is NULL");
    json_t *given = NULL;
    PEFT_TRY(
        peft__json_load_memory(ctx, "adapter configuration", config_json, strlen(config_json), CONFIG_LIMIT, &given));
    peft_adapter *adapter = NULL;
    peft_status status = peft__adapter_make(ctx, model, "adapter configuration", given, false, &adapter);
    json_decref(given);
    PEFT_TRY(status);
    status = peft__adapter_initialise(adapter, seed);
    if (status >= 0) status = peft__adapter_finish(adapter);
    if (status < 0) {
        peft_adapter_destroy(adapter);
        return status;
    }
    *out_adapter = adapter;
    return PEFT_OK;
}

peft_adapter *peft__adapter_ref(peft_adapter *adapter) {
    atomic_fetch_add_explicit(&adapter->references, 1, memory_order_relaxed);
    return adapter;
}

void peft_adapter_destroy(peft_adapter *adapter) {
    peft__adapter_unref(adapter);
}

void peft__adapter_unref(peft_adapter *adapter) {
    if (adapter == NULL || atomic_fetch_sub_explicit(&adapter->references, 1, memory_order_acq_rel) != 1) return;
    peft_context *ctx = adapter->ctx;
    if (adapter->method->destroy != NULL) adapter->method->destroy(adapter);
    json_decref(adapter->config);
    peft__table_free(&adapter->by_name);
    peft__table_free(&adapter->by_base);
    peft__buffer_free(&adapter->notes);
    peft__arena_free(&adapter->arena);
    peft__free(ctx->mem, adapter->params);
    peft__free(ctx->mem, adapter->slots);
    peft__free(ctx->mem, adapter->block);
    peft__free(ctx->mem, adapter->config_text);
    peft__free(ctx->mem, adapter->report);
    peft_model_destroy(adapter->model);
    peft__free(ctx->mem, adapter);
    peft__context_unref(ctx);
}

const char *peft_adapter_config(const peft_adapter *adapter) {
    return adapter != NULL ? adapter->config_text : NULL;
}
const char *peft_adapter_report(const peft_adapter *adapter) {
    return adapter != NULL ? adapter->report : NULL;
}
int64_t peft_adapter_parameter_count(const peft_adapter *adapter) {
    return adapter != NULL ? adapter->trained : 0;
}
uint32_t peft_adapter_tensor_count(const peft_adapter *adapter) {
    return adapter != NULL ? adapter->count : 0;
}

peft_status peft_adapter_tensor(const peft_adapter *adapter, uint32_t index, peft_tensor_info *out_info) {
    if (adapter == NULL) return PEFT_E_ARG;
    if (out_info == NULL || out_info->struct_size < sizeof(uint32_t))
        return peft__fail(adapter->ctx, PEFT_E_ARG, "peft_adapter_tensor: struct_size is not set");
    if (index >= adapter->count)
        return peft__fail(adapter->ctx, PEFT_E_ARG, "tensor %u of an adapter with %u", index, adapter->count);
    const peft__param *param = &adapter->params[index];
    peft_tensor_info info = {.struct_size = out_info->struct_size,
                             .dtype = PEFT_DTYPE_F32,
                             .ndim = param->ndim,
                             .trainable = (param->flags & PEFT__PARAM_FROZEN) == 0,
                             .bytes = (uint64_t)param->elements * sizeof(float),
                             .name = param->name,
                             .data = param->data};
    for (uint32_t i = 0; i < param->ndim; i++) info.shape[i] = param->shape[i];
    memcpy(out_info, &info, peft__min_size(out_info->struct_size, sizeof info));
    return PEFT_OK;
}

static peft_status check_count(const peft_adapter *adapter, const char *what, const void *values, int64_t count,
                               int64_t wanted) {
    if (values == NULL) return peft__fail(adapter->ctx, PEFT_E_ARG, "%s: no values are given", what);
    if (count != wanted)
        return peft__fail(adapter->ctx, PEFT_E_MISMATCH, "%s: expected %lld values, found %lld", what,
                          (long long)wanted, (long long)count);
    return PEFT_OK;
}

static peft_status check_finite(const peft_adapter *adapter, const char *what, const float *values, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return peft__fail(adapter->ctx, PEFT_E_NONFINITE, "%s: value %lld is not finite", what, (long long)i);
    return PEFT_OK;
}

peft_status peft_adapter_get_parameters(const peft_adapter *adapter, float *out_values, int64_t count) {
    if (adapter == NULL) return PEFT_E_ARG;
    PEFT_TRY(check_count(adapter, "peft_adapter_get_parameters", out_values, count, adapter->trained));
    for (uint32_t i = 0; i < adapter->count; i++) {
        const peft__param *param = &adapter->params[i];
        if ((param->flags & PEFT__PARAM_FROZEN) != 0) continue;
        memcpy(out_values, param->data, (size_t)param->elements * sizeof(float));
        out_values += param->elements;
    }
    return PEFT_OK;
}

peft_status peft_adapter_set_parameters(peft_adapter *adapter, const float *values, int64_t count) {
    if (adapter == NULL) return PEFT_E_ARG;
    PEFT_TRY(check_count(adapter, "peft_adapter_set_parameters", values, count, adapter->trained));
    PEFT_TRY(check_finite(adapter, "peft_adapter_set_parameters", values, count));
    for (uint32_t i = 0; i < adapter->count; i++) {
        peft__param *param = &adapter->params[i];
        if ((param->flags & PEFT__PARAM_FROZEN) != 0) continue;
        memcpy(param->data, values, (size_t)param->elements * sizeof(float));
        values += param->elements;
    }
    return PEFT_OK;
}

peft_status peft_adapter_set_tensor(peft_adapter *adapter, const char *name, const float *values, int64_t count) {
    if (adapter == NULL) return PEFT_E_ARG;
    uint64_t index = 0;
    if (name == NULL) return peft__fail(adapter->ctx, PEFT_E_ARG, "peft_adapter_set_tensor: no name is given");
    if (!peft__table_get(&adapter->by_name, name, strlen(name), &index))
        return peft__fail(adapter->ctx, PEFT_E_MISMATCH, "the adapter has no tensor %.200s; its first one is %s", name,
                          adapter->params[0].name);
    peft__param *param = &adapter->params[index];
    PEFT_TRY(check_count(adapter, name, values, count, param->elements));
    PEFT_TRY(check_finite(adapter, name, values, count));
    memcpy(param->data, values, (size_t)param->elements * sizeof(float));
    return PEFT_OK;
}

peft_status peft_adapter_set_scale(peft_adapter *adapter, float scale) {
    if (adapter == NULL) return PEFT_E_ARG;
    if (!isfinite(scale)) return peft__fail(adapter->ctx, PEFT_E_ARG, "an adapter's scale must be finite");
    if (scale != 1.0f && (adapter->method->flags & PEFT__METHOD_SCALABLE) == 0)
        return peft__fail(adapter->ctx, PEFT_E_UNSUPPORTED, "%s has no effect that can be scaled",
                          adapter->method->peft_type);
    if (scale != adapter->scale) adapter->layout++;
    adapter->scale = scale;
    return PEFT_OK;
}
