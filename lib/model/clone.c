/* clone.c: a second model over the same bytes with some tensors replaced: what merging an adapter makes.
 *
 * Modules are copied, stored tensors are shared through the collection that both models hold. Replaced tensors are
 * floats in the clone's own arena, in Hugging Face's order, so nothing interleaved, transposed or offset is left in
 * them. A clone that is only to be written to a file may have them made one at a time when they are read.
 */
#include "model/model_internal.h"

#include <stdio.h>

static peft_status copy_modules(peft_context *ctx, const peft_model *from, peft_model *to) {
    to->modules = peft__alloc(to->mem, (from->module_count + 1) * sizeof *to->modules);
    if (to->modules == NULL)
        return peft__fail_nomem(ctx, from->module_count * sizeof *to->modules, "the list of modules");
    to->module_capacity = from->module_count + 1;
    for (size_t i = 0; i < from->module_count; i++) {
        peft__module *module = peft__arena_alloc(&to->arena, sizeof *module);
        if (module == NULL) return peft__fail_nomem(ctx, sizeof *module, "a module");
        *module = *from->modules[i];
        module->name = peft__arena_strdup(&to->arena, module->name);
        if (module->name == NULL || !peft__table_put(&to->by_name, module->name, strlen(module->name), i))
            return peft__fail_nomem(ctx, sizeof *module, "a module");
        if (module->tied_to != NULL) module->tied_to = to->modules[module->tied_to->index];
        if (module->bias_name != NULL) {
            module->bias_name = peft__arena_strdup(&to->arena, module->bias_name);
            if (module->bias_name == NULL) return peft__fail_nomem(ctx, sizeof *module, "a module");
        }
        to->modules[to->module_count++] = module;
    }
    return PEFT_OK;
}

/* Copied biases and straightened ones lie in the old model's arena: take them along. */
static peft_status adopt_memory(peft_context *ctx, peft_model *to, const peft__tensor **tensor) {
    const peft__tensor *from = *tensor;
    if (from == NULL || peft__tensors_find(to->tensors, from->name) == from) return PEFT_OK;
    peft__tensor *copy = peft__arena_alloc(&to->arena, sizeof *copy);
    uint8_t *data = peft__arena_alloc(&to->arena, from->bytes);
    if (copy == NULL || data == NULL) return peft__fail_nomem(ctx, from->bytes, from->name);
    memcpy(data, from->data, from->bytes);
    *copy = *from;
    copy->data = data;
    copy->name = peft__arena_strdup(&to->arena, from->name);
    if (copy->name == NULL) return peft__fail_nomem(ctx, from->bytes, from->name);
    *tensor = copy;
    return PEFT_OK;
}

static peft_status copy_fields(peft_context *ctx, const peft_model *from, peft_model *to) {
    to->arch = from->arch;
    to->task = from->task;
    to->problem = from->problem;
    to->asked_labels = from->asked_labels;
    to->is_gguf = from->is_gguf;
    to->is_folder = from->is_folder;
    to->tensors = peft__tensors_ref(from->tensors);
    if (from->tokenizer != NULL) to->tokenizer = peft__tokenizer_ref(from->tokenizer);
    to->config = json_deep_copy(from->config);
    to->path = peft__arena_strdup(&to->arena, from->path);
    to->name = peft__arena_strdup(&to->arena, from->name);
    to->report_text = peft__arena_strdup(&to->arena, from->report_text);
    if (to->config == NULL || to->path == NULL || to->name == NULL || to->report_text == NULL)
        return peft__fail_nomem(ctx, sizeof *to, "a model");
    /* The architecture reads its numbers again: they must live as long as the clone. It declares the same modules,
     * which are then exchanged for copies of what loading made of them. */
    const size_t files = peft__tensors_count(to->tensors);
    to->claimed = peft__alloc_zero(to->mem, files + 1);
    if (to->claimed == NULL) return peft__fail_nomem(ctx, files, "the list of tensors");
    for (size_t i = 0; i < files; i++) {
        const char *name = peft__tensors_at(to->tensors, i)->name;
        if (!peft__table_put(&to->file_index, name, strlen(name), i))
            return peft__fail_nomem(ctx, files, "the list of tensors");
    }
    to->dims = from->dims;
    PEFT_TRY(to->arch->configure(ctx, to));
    peft__free(to->mem, to->modules);
    to->modules = NULL;
    to->module_count = to->module_capacity = 0;
    peft__table_free(&to->by_name);
    peft__table_init(&to->by_name, to->mem);
    PEFT_TRY(copy_modules(ctx, from, to));
    for (size_t i = 0; i < to->module_count; i++) {
        PEFT_TRY(adopt_memory(ctx, to, &to->modules[i]->weight));
        PEFT_TRY(adopt_memory(ctx, to, &to->modules[i]->bias));
    }
    return peft__model_print_config(ctx, to);
}

peft_status peft__model_clone(peft_context *ctx, const peft_model *model, peft_model **out_model) {
    peft_model *clone = NULL;
    PEFT_TRY(peft__model_new(ctx, &clone));
    const peft_status status = copy_fields(ctx, model, clone);
    if (status < 0) {
        peft__model_unref(clone);
        return status;
    }
    peft__model_finish(clone);
    *out_model = clone;
    return PEFT_OK;
}

peft_status peft__model_replace(peft_context *ctx, peft_model *model, const char *tensor_name, const float *values) {
    int part = 0;
    const peft__module *found = peft__model_split(model, tensor_name, &part);
    uint32_t ndim = 0;
    int64_t shape[4] = {0};
    if (found == NULL || !peft__model_tensor_shape(model, tensor_name, &ndim, shape))
        return peft__fail(ctx, PEFT_E_MISMATCH, "the model has no tensor %s", tensor_name);
    peft__module *module = model->modules[found->index];
    peft__tensor *tensor = peft__arena_alloc(&model->arena, sizeof *tensor);
    if (tensor == NULL) return peft__fail_nomem(ctx, sizeof *tensor, tensor_name);
    tensor->dtype = PEFT_DTYPE_F32;
    tensor->ndim = ndim;
    memcpy(tensor->shape, shape, ndim * sizeof *shape);
    if (!peft__dtype_tensor_bytes(PEFT_DTYPE_F32, ndim, tensor->shape, &tensor->bytes))
        return peft__fail(ctx, PEFT_E_FORMAT, "%s is too large", tensor_name);
    tensor->name = peft__arena_strdup(&model->arena, tensor_name);
    float *data = values != NULL ? peft__arena_alloc(&model->arena, tensor->bytes) : NULL;
    if (tensor->name == NULL || (values != NULL && data == NULL))
        return peft__fail_nomem(ctx, tensor->bytes, tensor_name);
    if (values != NULL) memcpy(data, values, tensor->bytes);
    tensor->data = (const uint8_t *)data;
    tensor->type_name = "F32";
    tensor->file = "memory";
    if (part == 1) {
        module->bias = tensor;
        return PEFT_OK;
    }
    if (module->tied_to != NULL) {
        module->tied_to = NULL;
        if (module->is_head) {
            if (json_object_set_new(model->config, "tie_word_embeddings", json_false()) != 0)
                return peft__fail_nomem(ctx, 64, "the model's configuration");
            PEFT_TRY(peft__model_print_config(ctx, model));
        }
    }
    module->weight = tensor;
    module->is_new = false;
    module->interleave = 0;
    module->stored_offset = 0;
    module->transposed = module->kind == PEFT_MODULE_CONV1D; /* Hugging Face's order is [in, out] */
    return PEFT_OK;
}

void peft__model_read_later(peft_model *clone, peft__model_reader reader, void *user) {
    clone->later = reader;
    clone->later_user = user;
}

bool peft__tensor_is_later(const peft__tensor *tensor) {
    return tensor->data == NULL;
}
