/* merge.c: a model with the adapters' changes added to its weights, in memory or straight into a file.
 *
 * Tensors that an adapter stands in for are replaced; matrices that a method changes are widened to float, changed by
 * each adapter in turn, and replaced. All others stay shared with the base, which is untouched: unmerging is using the
 * base again. Where a tied table changes on one side only, the other side gets a copy of its own, because the unmerged
 * model computes so.
 *
 * A merged model that is only to be written to a file holds no changed matrix at all: it knows which tensors change, and
 * each of them is made when it is written (peft__model_read_later).
 */
#include <math.h>

#include "method/adapter.h"

typedef struct merging {
    peft_context *ctx;
    const peft_model *base;
    peft_model *merged;
    peft_adapter *const *adapters;
    uint32_t count;
    bool later; /* tensors are announced only */
} merging;

static bool part_changes(const peft_adapter *adapter, const peft__module *module, bool bias) {
    if (adapter->scale == 0.0f) return false;
    return (adapter->method->changes(adapter, module) & (bias ? PEFT__CHANGES_BIAS : PEFT__CHANGES_WEIGHT)) != 0;
}

/* The param that stands for a module's tensor, by the rule of the builder: a tied module uses its own, else its
 * partner's where the method keeps the tie. */
static const peft__param *stand_in(const peft_adapter *adapter, const peft__module *module, const char *tensor,
                                   const char *partner) {
    const peft__hooks *hooks = adapter->method->hooks;
    if (hooks->trained == NULL) return NULL;
    const peft__param *param = hooks->trained((void *)adapter, tensor);
    if (param != NULL || partner == NULL) return param;
    return hooks->keeps_tie == NULL || hooks->keeps_tie((void *)adapter, module)
               ? hooks->trained((void *)adapter, partner)
               : NULL;
}

/* Does any adapter have something to say about this tensor? */
static bool is_changed(const merging *m, const peft__module *module, const char *tensor, const char *partner,
                       bool bias) {
    for (uint32_t i = 0; i < m->count; i++)
        if (part_changes(m->adapters[i], module, bias) || stand_in(m->adapters[i], module, tensor, partner) != NULL)
            return true;
    return false;
}

static peft_status start_values(const merging *m, const peft__module *module, const char *tensor, const char *partner,
                                int64_t elements, float *values) {
    const peft__param *param = NULL;
    for (uint32_t i = 0; i < m->count; i++) {
        const peft__param *found = stand_in(m->adapters[i], module, tensor, partner);
        if (found == NULL) continue;
        if (param != NULL)
            return peft__fail(m->ctx, PEFT_E_MISMATCH, "two of the adapters replace %s; a merged model can hold one",
                              tensor);
        param = found;
    }
    if (param == NULL) return peft__model_read_tensor(m->ctx, m->base, tensor, values);
    if (param->elements != elements)
        return peft__fail(m->ctx, PEFT_E_INTERNAL, "%s has another size in the adapter", tensor);
    memcpy(values, param->data, (size_t)elements * sizeof(float));
    return PEFT_OK;
}

static peft_status tensor_elements(const merging *m, const char *tensor, int64_t *out) {
    uint32_t ndim = 0;
    int64_t shape[4], elements = 1;
    if (!peft__model_tensor_shape(m->base, tensor, &ndim, shape))
        return peft__fail(m->ctx, PEFT_E_INTERNAL, "the model has no tensor %s", tensor);
    for (uint32_t i = 0; i < ndim; i++)
        if (__builtin_mul_overflow(elements, shape[i], &elements) || elements > INT64_MAX / 8)
            return peft__fail(m->ctx, PEFT_E_LIMIT, "%s is too large", tensor);
    *out = elements;
    return PEFT_OK;
}

static peft_status check_finite(const merging *m, const char *tensor, const float *values, int64_t elements) {
    for (int64_t i = 0; i < elements; i++)
        if (!isfinite(values[i]))
            return peft__fail(m->ctx, PEFT_E_NONFINITE, "%s: merging gives a value that is not finite at %lld", tensor,
                              (long long)i);
    return PEFT_OK;
}

static peft_status merge_values(const merging *m, const peft__module *module, const char *tensor, const char *partner,
                                bool bias, int64_t elements, float *values) {
    PEFT_TRY(start_values(m, module, tensor, partner, elements, values));
    for (uint32_t i = 0; i < m->count; i++) {
        const peft_adapter *adapter = m->adapters[i];
        if (!part_changes(adapter, module, bias)) continue;
        PEFT_TRY(adapter->method->merge(adapter, module, bias ? NULL : values, bias ? values : NULL));
    }
    return check_finite(m, tensor, values, elements);
}

static peft_status merge_tensor(const merging *m, const peft__module *module, const char *tensor, const char *partner,
                                bool bias) {
    if (m->later) return peft__model_replace(m->ctx, m->merged, tensor, NULL);
    int64_t elements = 0;
    PEFT_TRY(tensor_elements(m, tensor, &elements));
    float *values = peft__alloc(m->ctx->mem, (size_t)elements * sizeof(float));
    if (values == NULL) return peft__fail_nomem(m->ctx, (size_t)elements * sizeof(float), tensor);
    peft_status status = merge_values(m, module, tensor, partner, bias, elements, values);
    if (status >= 0) status = peft__model_replace(m->ctx, m->merged, tensor, values);
    peft__free(m->ctx->mem, values);
    return status;
}

/* The reader of a merged model whose tensors are made when they are written. */
static peft_status make_tensor(void *user, uint32_t index, bool bias, float *out) {
    const merging *m = user;
    const peft__module *module = peft__model_module_at(m->base, index);
    peft__arena names;
    peft__arena_init(&names, m->ctx->mem);
    const bool tied = module->tied_to != NULL && !bias;
    const char *tensor = peft__module_tensor_name(module, &names, bias);
    const char *partner = tied ? peft__module_tensor_name(module->tied_to, &names, false) : NULL;
    int64_t elements = 0;
    peft_status status = tensor != NULL && (!tied || partner != NULL) ? tensor_elements(m, tensor, &elements)
                                                                      : peft__fail_nomem(m->ctx, 256, "a merged model");
    if (status >= 0) status = merge_values(m, module, tensor, partner, bias, elements, out);
    peft__arena_free(&names);
    return status;
}

/* Both sides of a tie end up with the same values: the copy is not needed. */
static bool stays_tied(const merging *m, const peft__module *module, const char *weight, const char *partner) {
    for (uint32_t i = 0; i < m->count; i++) {
        const peft_adapter *adapter = m->adapters[i];
        if (part_changes(adapter, module, false) || part_changes(adapter, module->tied_to, false)) return false;
        if (stand_in(adapter, module, weight, partner) != stand_in(adapter, module->tied_to, partner, NULL))
            return false;
    }
    return true;
}

static peft_status merge_weight(const merging *m, const peft__module *module, peft__arena *names) {
    const bool table = module->kind == PEFT_MODULE_TABLE, tied = module->tied_to != NULL;
    const char *weight = table ? module->name : peft__arena_strfmt(names, "%s.weight", module->name);
    const char *partner = tied ? peft__arena_strfmt(names, "%s.weight", module->tied_to->name) : NULL;
    if (weight == NULL || (tied && partner == NULL)) return peft__fail_nomem(m->ctx, 256, "a merged model");
    const bool wanted = tied ? !stays_tied(m, module, weight, partner) : is_changed(m, module, weight, NULL, false);
    return wanted ? merge_tensor(m, module, weight, partner, false) : PEFT_OK;
}

static peft_status merge_bias(const merging *m, const peft__module *module, peft__arena *names) {
    if (module->kind == PEFT_MODULE_TABLE) return PEFT_OK;
    const char *bias = peft__module_tensor_name(module, names, true);
    if (bias == NULL) return peft__fail_nomem(m->ctx, 256, "a merged model");
    if (!is_changed(m, module, bias, NULL, true)) return PEFT_OK;
    if (module->has_bias) return merge_tensor(m, module, bias, NULL, true);
    return peft__fail(m->ctx, PEFT_E_UNSUPPORTED,
                      "%s has no bias in the base that an adapter's bias (lora_bias) could be merged into",
                      module->name);
}

static peft_status merge_module(const merging *m, const peft__module *module, peft__arena *names) {
    PEFT_TRY(merge_weight(m, module, names));
    return merge_bias(m, module, names);
}

static peft_status check_adapters(peft_context *ctx, const peft_model *model, peft_adapter *const *adapters,
                                  uint32_t count) {
    peft_model_info info = {.struct_size = sizeof info};
    PEFT_TRY(peft_model_get_info(model, &info));
    for (uint32_t i = 0; i < count; i++) {
        const peft_adapter *adapter = adapters[i];
        if (adapter == NULL) return peft__fail(ctx, PEFT_E_ARG, "adapter %u is NULL", i);
        if (adapter->model != model && adapter->base_hash != info.hash)
            return peft__fail(ctx, PEFT_E_MISMATCH, "adapter %u (%s) belongs to another model", i,
                              adapter->method->peft_type);
        if (adapter->method->changes == NULL)
            return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s does not change weights, so it cannot be merged into them",
                              adapter->method->peft_type);
    }
    return PEFT_OK;
}

static peft_status make_merged(merging *m) {
    PEFT_TRY(check_adapters(m->ctx, m->base, m->adapters, m->count));
    PEFT_TRY(peft__model_clone(m->ctx, m->base, &m->merged));
    peft__arena names;
    peft__arena_init(&names, m->ctx->mem);
    peft_status status = PEFT_OK;
    for (uint32_t i = 0; status >= 0 && i < peft__model_module_count(m->base); i++)
        status = merge_module(m, peft__model_module_at(m->base, i), &names);
    peft__arena_free(&names);
    if (status < 0) peft_model_destroy(m->merged);
    return status;
}

peft_status peft_model_merge(peft_context *ctx, peft_model *model, peft_adapter *const *adapters, uint32_t count,
                             peft_model **out_model) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (model == NULL || out_model == NULL || (adapters == NULL && count > 0))
        return peft__fail(ctx, PEFT_E_ARG, "peft_model_merge: an argument is NULL");
    merging m = {.ctx = ctx, .base = model, .adapters = adapters, .count = count};
    PEFT_TRY(make_merged(&m));
    peft__model_finish(m.merged);
    *out_model = m.merged;
    return PEFT_OK;
}

peft_status peft_model_save_merged(peft_context *ctx, peft_model *model, peft_adapter *const *adapters, uint32_t count,
                                   const char *path, peft_dtype dtype) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (model == NULL || path == NULL || (adapters == NULL && count > 0))
        return peft__fail(ctx, PEFT_E_ARG, "peft_model_save_merged: an argument is NULL");
    merging m = {.ctx = ctx, .base = model, .adapters = adapters, .count = count, .later = true};
    PEFT_TRY(make_merged(&m));
    peft__model_read_later(m.merged, make_tensor, &m);
    const size_t length = strlen(path);
    const bool gguf = length > 5 && strcmp(path + length - 5, ".gguf") == 0;
    const peft_status status =
        gguf ? peft_model_save_gguf(ctx, m.merged, path) : peft_model_save(ctx, m.merged, path, dtype);
    peft_model_destroy(m.merged);
    return status;
}
