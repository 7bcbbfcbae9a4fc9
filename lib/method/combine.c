/* combine.c: one LoRA adapter out of several, weighted: which ways there are, and the adapter that comes out.
 *
 * "cat" and "svd" are the sum of the changes, exactly or as near as a rank allows (combine_stack.c). The others work on
 * entries (combine_tasks.c). Weights are times the adapters' own factors (peft_adapter_set_scale). The scale of the
 * result is 1 everywhere.
 */
#include <math.h>
#include <stdio.h>

#include "method/adapter_make.h"
#include "method/combine.h"

static const char *const WHERE = "peft_adapter_combine";
enum { MOST_RANK = 65536 };

static const peft__combine_rule RULES[] = {
    {"cat", PEFT__COMBINE_CAT, PEFT__KEEP_ALL, false},
    {"svd", PEFT__COMBINE_CUT, PEFT__KEEP_ALL, false},
    {"linear", PEFT__COMBINE_FACTORS, PEFT__KEEP_ALL, false},
    {"ties", PEFT__COMBINE_FACTORS, PEFT__KEEP_LARGEST, true},
    {"dare_linear", PEFT__COMBINE_FACTORS, PEFT__KEEP_RANDOM, false},
    {"dare_ties", PEFT__COMBINE_FACTORS, PEFT__KEEP_RANDOM, true},
    {"magnitude_prune", PEFT__COMBINE_FACTORS, PEFT__KEEP_LARGEST, false},
    {"ties_svd", PEFT__COMBINE_CHANGES, PEFT__KEEP_LARGEST, true},
    {"dare_linear_svd", PEFT__COMBINE_CHANGES, PEFT__KEEP_RANDOM, false},
    {"dare_ties_svd", PEFT__COMBINE_CHANGES, PEFT__KEEP_RANDOM, true},
    {"magnitude_prune_svd", PEFT__COMBINE_CHANGES, PEFT__KEEP_LARGEST, false},
};

/* Models of equal weights have equal names. */
const peft__lora_layer *peft__combine_layer(const peft__combining *c, uint32_t i, const peft__module *module) {
    const peft__module *own = peft__model_find(c->adapters[i]->model, module->name);
    return own != NULL ? peft__lora_layer_of(c->adapters[i], own) : NULL;
}

double peft__combine_factor(const peft__combining *c, uint32_t i, const peft__lora_layer *layer) {
    return (double)c->weights[i] * (double)c->adapters[i]->scale * (double)layer->scale;
}

int64_t peft__combine_ranks(const peft__combining *c, const peft__module *module) {
    int64_t sum = 0;
    for (uint32_t i = 0; i < c->count; i++) {
        const peft__lora_layer *layer = peft__combine_layer(c, i, module);
        sum += layer != NULL ? peft__lora_rank(layer) : 0;
    }
    return sum;
}

static peft_status check(const peft__combining *c) {
    peft_model_info info = {.struct_size = sizeof info};
    PEFT_TRY(peft_model_get_info(c->model, &info));
    for (uint32_t i = 0; i < c->count; i++) {
        const peft_adapter *adapter = c->adapters[i];
        if (adapter == NULL) return peft__fail(c->ctx, PEFT_E_ARG, "%s: adapter %u is NULL", WHERE, i);
        if (!isfinite(c->weights[i])) return peft__fail(c->ctx, PEFT_E_ARG, "%s: weight %u is not finite", WHERE, i);
        if (adapter->model != c->model && adapter->base_hash != info.hash)
            return peft__fail(c->ctx, PEFT_E_MISMATCH, "%s: adapter %u belongs to another model", WHERE, i);
        PEFT_TRY(peft__lora_check_plain(adapter, "combining"));
    }
    return PEFT_OK;
}

/* Rank that the result has at a module; 0: no adapter has a layer there. */
static peft_status rank_at(const peft__combining *c, const peft__module *module, int64_t *out_rank) {
    const int64_t sum = peft__combine_ranks(c, module);
    int64_t most = 0;
    for (uint32_t i = 0; i < c->count; i++) {
        const peft__lora_layer *layer = peft__combine_layer(c, i, module);
        if (layer == NULL) continue;
        const int64_t rank = peft__lora_rank(layer);
        if (c->rule->on == PEFT__COMBINE_FACTORS && most != 0 && rank != most)
            return peft__fail(c->ctx, PEFT_E_MISMATCH,
                              "%s: \"%s\" needs equal ranks, but %s has %lld and %lld; \"cat\", \"svd\" and the methods "
                              "that end in _svd take any",
                              WHERE, c->rule->name, module->name, (long long)most, (long long)rank);
        most = peft__max_i64(most, rank);
    }
    if (sum > MOST_RANK)
        return peft__fail(c->ctx, PEFT_E_LIMIT, "%s: the ranks at %s sum up to %lld, more than %d", WHERE, module->name,
                          (long long)sum, MOST_RANK);
    const bool cuts = c->rule->on == PEFT__COMBINE_CUT || c->rule->on == PEFT__COMBINE_CHANGES;
    *out_rank = c->rule->on == PEFT__COMBINE_CAT        ? sum
                : cuts && sum > 0 && c->options.rank > 0 ? (int64_t)c->options.rank
                                                         : most;
    return PEFT_OK;
}

static peft_status fill_layer(const peft__combining *c, peft_adapter *result, const peft__module *module) {
    const peft__lora_layer *to = peft__lora_layer_of(result, module);
    float *a = result->params[to->a].data, *b = result->params[to->b].data;
    const bool stacked = c->rule->on == PEFT__COMBINE_CAT || c->rule->on == PEFT__COMBINE_CUT;
    return stacked ? peft__combine_stacked(c, module, to->rank, a, b) : peft__combine_tasks(c, module, to->rank, a, b);
}

static peft_status combine(const peft__combining *c, peft_adapter **out_adapter) {
    const uint32_t modules = peft__model_module_count(c->model);
    peft__lora_part *parts = peft__alloc(c->ctx->mem, (modules + 1) * sizeof *parts);
    if (parts == NULL) return peft__fail_nomem(c->ctx, modules * sizeof *parts, "combining adapters");
    uint32_t count = 0;
    peft_status status = PEFT_OK;
    for (uint32_t i = 0; status >= 0 && i < modules; i++) {
        peft__lora_part *part = &parts[count];
        part->module = peft__model_module_at(c->model, i);
        status = rank_at(c, part->module, &part->rank);
        part->alpha = (double)part->rank;
        count += status >= 0 && part->rank > 0;
    }
    peft_adapter *result = NULL;
    if (status >= 0) status = peft__lora_make(c->ctx, c->model, WHERE, parts, count, NULL, &result);
    for (uint32_t i = 0; status >= 0 && i < count; i++) status = fill_layer(c, result, parts[i].module);
    if (status >= 0) status = peft__adapter_finish(result);
    peft__free(c->ctx->mem, parts);
    if (status < 0)
        peft_adapter_destroy(result);
    else
        *out_adapter = result;
    return status;
}

static peft_status find_rule(peft_context *ctx, const char *method, const peft__combine_rule **out_rule) {
    char names[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < PEFT_COUNT(RULES); i++) {
        if (strcmp(method, RULES[i].name) == 0) {
            *out_rule = &RULES[i];
            return PEFT_OK;
        }
        const int length =
            snprintf(names + used, sizeof names - used, "%s\"%s\"", i > 0 ? ", " : "", RULES[i].name);
        if (length > 0 && used + (size_t)length < sizeof names) used += (size_t)length;
    }
    return peft__fail(ctx, PEFT_E_ARG, "%s: method \"%.40s\", expected one of %s", WHERE, method, names);
}

void peft_combine_options_init_sized(peft_combine_options *options, uint32_t size) {
    if (options == NULL || size < sizeof options->struct_size) return;
    const peft_combine_options defaults = {.struct_size = size, .density = 0.5f};
    memset(options, 0, size);
    memcpy(options, &defaults, peft__min_size(size, sizeof defaults));
}

peft_status peft_adapter_combine(peft_context *ctx, peft_model *model, peft_adapter *const *adapters,
                                 const float *weights, uint32_t count, const char *method,
                                 const peft_combine_options *options, peft_adapter **out_adapter) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (model == NULL || adapters == NULL || weights == NULL || count == 0 || method == NULL || out_adapter == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "%s: an argument is NULL, or there is no adapter", WHERE);
    peft__combining c = {.ctx = ctx, .model = model, .adapters = adapters, .weights = weights, .count = count};
    peft_combine_options_init(&c.options);
    PEFT_TRY(peft__options_copy(ctx, &c.options, sizeof c.options, options, sizeof c.options, "peft_combine_options"));
    PEFT_TRY(find_rule(ctx, method, &c.rule));
    const peft_combine_options *o = &c.options;
    if (o->rank > MOST_RANK)
        return peft__fail(ctx, PEFT_E_ARG, "%s: rank %u, expected at most %d", WHERE, o->rank, MOST_RANK);
    if (!(o->density > 0.0f && o->density <= 1.0f))
        return peft__fail(ctx, PEFT_E_ARG, "%s: density %g, expected more than 0 and at most 1", WHERE,
                          (double)o->density);
    if (o->majority != PEFT_MAJORITY_TOTAL && o->majority != PEFT_MAJORITY_FREQUENCY)
        return peft__fail(ctx, PEFT_E_ARG, "%s: majority %d is not known", WHERE, o->majority);
    PEFT_TRY(check(&c));
    return combine(&c, out_adapter);
}
