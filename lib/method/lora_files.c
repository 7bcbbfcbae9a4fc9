/* lora_files.c: what of a LoRA folder is not just its tensors: embedding tables beside LoRA, and PiSSA as plain LoRA.
 *
 * A PiSSA adapter is right only on a base that lost its principal part. Here the base stays as it is, and so does every
 * reader of the folder: it holds A' = [A; A0] and B' = [B, -B0] of twice the rank, whose product is B A - B0 A0.
 */
#include <math.h>

#include "method/lora.h"

/* ---- embedding tables -------------------------------------------------------------------------------------------- */

/* HF PEFT saves the base table beside LoRA on it when target_modules names "embed_tokens" or "lm_head". */
void peft__lora_find_tables(peft_adapter *adapter, peft__lora *l) {
    const json_t *targets = json_object_get(adapter->config, "target_modules");
    static const char *const NAMES[] = {"embed_tokens", "lm_head"};
    for (size_t k = 0; k < PEFT_COUNT(NAMES); k++) {
        for (size_t i = 0; i < json_array_size(targets); i++)
            if (strcmp(json_string_value(json_array_get(targets, i)), NAMES[k]) == 0) l->save_tables = true;
        for (uint32_t i = 0; json_is_string(targets) && i < l->count; i++)
            if (peft__module_suffix(l->layers[i].module->name, NAMES[k])) l->save_tables = true;
    }
}

static bool table_is_saved(const peft_adapter *adapter, const peft__lora_layer *layer) {
    const peft__lora *l = adapter->state;
    const peft__module *module = layer->module;
    return l->save_tables && (module->is_head || (module->kind == PEFT_MODULE_EMBEDDING &&
                                                  module->in == peft__model_dims(adapter->model)->vocab_size));
}

/* A table that differs from the model's (a vocabulary retrained before) takes its place. */
static peft_status take_table(peft_adapter *adapter, peft__lora_layer *layer, const peft__tensor *tensor) {
    peft_context *ctx = adapter->ctx;
    uint32_t ndim = 0;
    int64_t shape[4];
    char *name = peft__adapter_text(adapter, "%s.weight", layer->module->name);
    if (name == NULL) return PEFT_E_NOMEM;
    if (!peft__model_tensor_shape(adapter->model, name, &ndim, shape))
        return peft__fail(ctx, PEFT_E_MISMATCH, "the model has no tensor %s", name);
    PEFT_TRY(peft__tensor_check_shape(ctx, tensor, ndim, shape));
    float *weight = NULL;
    PEFT_TRY(peft__lora_read_weight(adapter, layer->module, &weight));
    const size_t bytes = (size_t)(shape[0] * shape[1]) * sizeof(float);
    float *stored = peft__alloc(ctx->mem, bytes);
    peft_status status = stored != NULL ? peft__tensor_read_f32(ctx, tensor, stored)
                                        : peft__fail_nomem(ctx, bytes, "an embedding table");
    bool same = true;
    for (int64_t i = 0; status >= 0 && same && i < shape[0] * shape[1]; i++) same = stored[i] == weight[i];
    peft__free(ctx->mem, weight);
    if (status >= 0 && !same) {
        layer->table = peft__arena_alloc(&adapter->arena, sizeof *layer->table);
        if (layer->table == NULL) status = peft__fail_nomem(ctx, bytes, "an embedding table");
        adapter->singular = true;
    }
    if (status < 0 || same) {
        peft__free(ctx->mem, stored);
        return status;
    }
    *layer->table = (peft__param){.name = name,
                                  .ndim = 2,
                                  .flags = PEFT__PARAM_FROZEN,
                                  .shape = {shape[0], shape[1]},
                                  .elements = shape[0] * shape[1],
                                  .data = stored,
                                  .lr_scale = 1.0f};
    peft__log(ctx, PEFT_LOG_WARNING, "%s: the adapter brings another table than the model has, and it is used",
              layer->module->name);
    return PEFT_OK;
}

peft_status peft__lora_import(peft_adapter *adapter, const peft__tensor *tensor, const char *key) {
    const peft__lora *l = adapter->state;
    const char *tail = ".base_layer.weight";
    const size_t length = strlen(key), tail_length = strlen(tail);
    if (length <= tail_length || strcmp(key + (length - tail_length), tail) != 0) return PEFT_END;
    for (uint32_t i = 0; i < l->count; i++)
        if (strlen(l->layers[i].path) == length - tail_length &&
            strncmp(l->layers[i].path, key, length - tail_length) == 0)
            return l->layers[i].table != NULL ? peft__fail(adapter->ctx, PEFT_E_FORMAT, "%s is there twice", key)
                                              : take_table(adapter, &l->layers[i], tensor);
    return PEFT_END;
}

static peft_status export_tables(const peft_adapter *adapter, peft__export *file) {
    const peft__lora *l = adapter->state;
    for (uint32_t i = 0; i < l->count; i++) {
        const peft__lora_layer *layer = &l->layers[i];
        const peft__module *module = layer->module;
        if (!table_is_saved(adapter, layer) && layer->table == NULL) continue;
        char *key = peft__arena_strfmt(file->arena, "%s.base_layer.weight", layer->path);
        char *base = peft__arena_strfmt(file->arena, "%s.weight", module->name);
        if (key == NULL || base == NULL) return peft__fail_nomem(adapter->ctx, 256, "an adapter's file");
        if (layer->table != NULL)
            PEFT_TRY(peft__export_add(file, key, 2, layer->table->shape, layer->table->data));
        else
            PEFT_TRY(peft__export_add_base(file, key, base));
    }
    return PEFT_OK;
}

/* ---- PiSSA as plain LoRA ------------------------------------------------------------------------------------ */

static peft_status export_doubled(const peft_adapter *adapter, const peft__lora_layer *layer, peft__export *file) {
    const int64_t in = layer->module->in, out = layer->module->out, rank = peft__lora_rank(layer);
    const size_t bytes = (size_t)(rank * (in + out)) * sizeof(float);
    float *a = peft__arena_alloc(file->arena, bytes);
    if (a == NULL) return peft__fail_nomem(adapter->ctx, bytes, "an adapter's file");
    float *b = a + rank * in;
    peft__lora_factors(adapter, layer, a, b);
    PEFT_TRY(peft__export_replace(file, layer->a, 2, (const int64_t[]){rank, in}, a));
    return peft__export_replace(file, layer->b, 2, (const int64_t[]){out, rank}, b);
}

peft_status peft__lora_export(const peft_adapter *adapter, peft__export *file) {
    const peft__lora *l = adapter->state;
    for (uint32_t i = 0; i < l->count; i++)
        if (l->layers[i].a0 != PEFT__LORA_NONE) PEFT_TRY(export_doubled(adapter, &l->layers[i], file));
    return export_tables(adapter, file);
}

/* Multiplies a number, or the numbers of a pattern. */
static bool grow(json_t *config, const char *key, double factor, bool whole) {
    json_t *value = json_object_get(config, key), *one;
    if (json_is_number(value)) {
        const double grown = json_number_value(value) * factor;
        return json_object_set_new(config, key, whole ? json_integer((json_int_t)grown) : json_real(grown)) == 0;
    }
    const char *name;
    void *next;
    bool good = true;
    json_object_foreach_safe(value, next, name, one) {
        const double grown = json_number_value(one) * factor;
        good =
            good && json_object_set_new(value, name, whole ? json_integer((json_int_t)grown) : json_real(grown)) == 0;
    }
    return good;
}

peft_status peft__lora_export_config(const peft_adapter *adapter, json_t *config) {
    const peft__lora *l = adapter->state;
    if (l->init != PEFT__LORA_PISSA) return PEFT_OK;
    /* s stays: alpha / r, or alpha / sqrt(r). */
    const double alpha = l->rslora ? sqrt(2.0) : 2.0;
    const bool good =
        grow(config, "r", 2.0, true) && grow(config, "rank_pattern", 2.0, true) &&
        grow(config, "lora_alpha", alpha, !l->rslora && json_is_integer(json_object_get(config, "lora_alpha"))) &&
        grow(config, "alpha_pattern", alpha, false) &&
        json_object_set_new(config, "init_lora_weights", json_true()) == 0;
    return good ? PEFT_OK : peft__fail_nomem(adapter->ctx, 64, "an adapter's configuration");
}

void peft__lora_destroy(peft_adapter *adapter) {
    const peft__lora *l = adapter->state;
    for (uint32_t i = 0; l != NULL && i < l->count; i++)
        if (l->layers[i].table != NULL) peft__free(adapter->ctx->mem, l->layers[i].table->data);
}
