/* modules.c: the list of modules, and everything that is asked of it by name. */
#include "model/model_internal.h"

#include <stdio.h>

#define NAME_BYTES 256

peft_status peft__model_declare(peft_context *ctx, peft_model *model, const peft__module_spec *spec,
                                const char *name_format, ...) {
    char name[NAME_BYTES];
    va_list arguments;
    va_start(arguments, name_format);
    const int length = vsnprintf(name, sizeof name, name_format, arguments);
    va_end(arguments);
    if (length <= 0 || (size_t)length >= sizeof name)
        return peft__fail(ctx, PEFT_E_INTERNAL, "a module name of %d bytes", length);
    const char *start = name;
    /* The bare body, saved and trained without a head, has no name for itself in front. */
    if (model->task == PEFT_TASK_FEATURE_EXTRACTION && model->arch->base_prefix != NULL) {
        const size_t prefix = strlen(model->arch->base_prefix);
        if (strncmp(name, model->arch->base_prefix, prefix) == 0) start = name + prefix;
    }
    if (spec->in <= 0 || spec->out <= 0)
        return peft__fail(ctx, PEFT_E_FORMAT, "module %s would have the shape [%lld, %lld]", start,
                          (long long)spec->out, (long long)spec->in);
    uint64_t present = 0;
    if (peft__table_get(&model->by_name, start, strlen(start), &present))
        return peft__fail(ctx, PEFT_E_INTERNAL, "module %s is declared twice", start);

    if (model->module_count == model->module_capacity) {
        const size_t wanted = model->module_capacity == 0 ? 64 : model->module_capacity * 2;
        peft__module **larger = peft__realloc(model->mem, model->modules, wanted * sizeof *larger);
        if (larger == NULL) return peft__fail_nomem(ctx, wanted * sizeof *larger, "the list of modules");
        model->modules = larger;
        model->module_capacity = wanted;
    }
    peft__module *module = peft__arena_alloc(&model->arena, sizeof *module);
    const char *copy = peft__arena_strdup(&model->arena, start);
    if (module == NULL || copy == NULL) return peft__fail_nomem(ctx, sizeof *module, "a module");
    module->name = copy;
    module->kind = spec->kind;
    module->layer = spec->layer;
    module->in = spec->in;
    module->out = spec->out;
    module->flags = spec->flags;
    module->is_head = (spec->flags & PEFT__MODULE_HEAD) != 0;
    module->has_bias = (spec->flags & PEFT__MODULE_BIAS) != 0;
    module->interleave = spec->interleave;
    module->stored_offset = spec->stored_offset;
    if (spec->bias_name != NULL) {
        module->bias_name = peft__arena_strdup(&model->arena, spec->bias_name);
        if (module->bias_name == NULL) return peft__fail_nomem(ctx, strlen(spec->bias_name), "a module");
    }
    module->index = (uint32_t)model->module_count;
    if (spec->tied_to != NULL) {
        module->tied_to = peft__model_find(model, spec->tied_to);
        if (module->tied_to == NULL)
            return peft__fail(ctx, PEFT_E_INTERNAL, "module %s is tied to %s, which is not declared", copy,
                              spec->tied_to);
    }
    if (!peft__table_put(&model->by_name, copy, strlen(copy), model->module_count))
        return peft__fail_nomem(ctx, sizeof *module, "the list of modules");
    model->modules[model->module_count++] = module;
    return PEFT_OK;
}

/* ---- asked by other folders ------------------------------------------------------------------------------ */

const peft__dims *peft__model_dims(const peft_model *model) {
    return &model->dims;
}
peft__dims *peft__model_edit_dims(peft_model *model) {
    return &model->dims;
}
const json_t *peft__model_config_json(const peft_model *model) {
    return model->config;
}
const peft__arch *peft__model_arch(const peft_model *model) {
    return model->arch;
}
int32_t peft__model_task(const peft_model *model) {
    return model->task;
}
const void *peft__model_arch_config(const peft_model *model) {
    return model->arch_config;
}
bool peft__model_has_targets(const peft_model *model) {
    return model->task == PEFT_TASK_SEQ_CLS && model->problem != PEFT__PROBLEM_SINGLE_LABEL;
}
void peft__model_set_arch_config(peft_model *model, const void *arch_config) {
    model->arch_config = arch_config;
}
peft__arena *peft__model_arena(peft_model *model) {
    return &model->arena;
}
bool peft__model_is_gguf(const peft_model *model) {
    return model->is_gguf;
}
const char *peft__model_path(const peft_model *model) {
    return model->path;
}
uint32_t peft__model_module_count(const peft_model *model) {
    return (uint32_t)model->module_count;
}

const peft__module *peft__model_module_at(const peft_model *model, uint32_t index) {
    return index < model->module_count ? model->modules[index] : NULL;
}

const peft__module *peft__model_find(const peft_model *model, const char *name) {
    uint64_t index = 0;
    if (peft__table_get(&model->by_name, name, strlen(name), &index)) return model->modules[index];
    /* Architectures use the names of the model with a head; see peft__model_declare. */
    if (model->task != PEFT_TASK_FEATURE_EXTRACTION || model->arch->base_prefix == NULL) return NULL;
    const size_t prefix = strlen(model->arch->base_prefix);
    if (strncmp(name, model->arch->base_prefix, prefix) != 0) return NULL;
    return peft__table_get(&model->by_name, name + prefix, strlen(name) - prefix, &index) ? model->modules[index]
                                                                                          : NULL;
}

const peft__module *peft__model_split(const peft_model *model, const char *tensor_name, int *out_part) {
    static const char *const parts[] = {".weight", ".bias"};
    const size_t length = strlen(tensor_name);
    for (int part = 0; part < 2; part++) {
        const size_t suffix = strlen(parts[part]);
        char name[NAME_BYTES];
        if (length <= suffix || length - suffix >= sizeof name) continue;
        if (strcmp(tensor_name + length - suffix, parts[part]) != 0) continue;
        memcpy(name, tensor_name, length - suffix);
        name[length - suffix] = '\0';
        const peft__module *module = peft__model_find(model, name);
        if (module == NULL || module->kind == PEFT_MODULE_TABLE) continue;
        if (part == 1 && !module->has_bias) return NULL;
        *out_part = part;
        return module;
    }
    const peft__module *table = peft__model_find(model, tensor_name);
    if (table != NULL && table->kind == PEFT_MODULE_TABLE) {
        *out_part = 0;
        return table;
    }
    for (size_t i = 0; i < model->module_count; i++) {
        const peft__module *module = model->modules[i];
        if (module->bias_name == NULL || !module->has_bias || strcmp(module->bias_name, tensor_name) != 0) continue;
        *out_part = 1;
        return module;
    }
    return NULL;
}

const char *peft__module_tensor_name(const peft__module *module, peft__arena *arena, bool bias) {
    if (module->kind == PEFT_MODULE_TABLE) return module->name;
    if (bias && module->bias_name != NULL) return module->bias_name;
    return peft__arena_strfmt(arena, "%s.%s", module->name, bias ? "bias" : "weight");
}

const peft__tensor *peft__model_tensor(const peft_model *model, const char *tensor_name) {
    int part = 0;
    const peft__module *module = peft__model_split(model, tensor_name, &part);
    if (module == NULL) return NULL;
    if (part == 1) return module->bias;
    return module->tied_to != NULL ? module->tied_to->weight : module->weight;
}

bool peft__model_tensor_shape(const peft_model *model, const char *tensor_name, uint32_t *out_ndim,
                              int64_t out_shape[4]) {
    int part = 0;
    const peft__module *module = peft__model_split(model, tensor_name, &part);
    if (module == NULL) return false;
    *out_ndim = 2;
    out_shape[0] = module->out;
    out_shape[1] = module->in;
    if (part == 1 || module->kind == PEFT_MODULE_NORM) {
        *out_ndim = 1;
    } else if (module->kind == PEFT_MODULE_TABLE && module->weight != NULL && module->weight->ndim <= 4) {
        *out_ndim = module->weight->ndim;
        memcpy(out_shape, module->weight->shape, *out_ndim * sizeof *out_shape);
    } else if (module->kind == PEFT_MODULE_LINEAR && module->weight != NULL && module->weight->ndim > 2 &&
               module->weight->ndim <= 4) { /* a convolution over patches: as stored */
        *out_ndim = module->weight->ndim;
        memcpy(out_shape, module->weight->shape, *out_ndim * sizeof *out_shape);
    } else if (module->kind != PEFT_MODULE_LINEAR) { /* embedding [rows, width], Conv1D [in, out] */
        out_shape[0] = module->in;
        out_shape[1] = module->out;
    }
    return true;
}

peft__matrix peft__module_matrix(const peft__module *module) {
    const peft__module *owner = module->tied_to != NULL ? module->tied_to : module;
    const bool table = module->kind == PEFT_MODULE_EMBEDDING || module->kind == PEFT_MODULE_TABLE;
    peft__matrix matrix = {.dtype = PEFT_DTYPE_F32,
                           .rows = table ? module->in : module->out,
                           .cols = table ? module->out : module->in,
                           .interleave = owner->interleave,
                           .transposed = owner->transposed};
    if (module->kind == PEFT_MODULE_NORM) matrix.rows = 1, matrix.cols = module->out;
    if (owner->weight != NULL) {
        matrix.data = owner->weight->data;
        matrix.dtype = owner->weight->dtype;
    }
    (void)peft__dtype_row_bytes(matrix.dtype, matrix.transposed ? matrix.rows : matrix.cols, &matrix.stride);
    return matrix;
}

peft_status peft__model_read_tensor(peft_context *ctx, const peft_model *model, const char *tensor_name, float *out) {
    int part = 0;
    const peft__module *module = peft__model_split(model, tensor_name, &part);
    const peft__tensor *tensor = module == NULL ? NULL : peft__model_tensor(model, tensor_name);
    if (tensor == NULL) return peft__fail(ctx, PEFT_E_MISMATCH, "the model has no stored tensor %s", tensor_name);
    if (peft__tensor_is_later(tensor)) {
        if (model->later == NULL) return peft__fail(ctx, PEFT_E_INTERNAL, "%s has no values", tensor_name);
        return model->later(model->later_user, module->index, part == 1, out);
    }
    PEFT_TRY(peft__tensor_check_float(ctx, tensor));
    const int64_t elements = peft__tensor_elements(tensor);
    const peft__matrix m = peft__module_matrix(module);
    const bool conv = module->kind == PEFT_MODULE_CONV1D;
    if (part == 1 || (m.interleave == 0 && conv == m.transposed)) {
        peft__dequantize(tensor->dtype, tensor->data, elements, out);
    } else if (!conv) {
        for (int64_t row = 0; row < m.rows; row++)
            peft__dequantize(m.dtype, peft__matrix_row(&m, row), m.cols, out + row * m.cols);
    } else { /* stored [out, in], wanted [in, out] */
        float *line = peft__alloc(ctx->mem, (size_t)m.cols * sizeof *line);
        if (line == NULL) return peft__fail_nomem(ctx, (size_t)m.cols * sizeof *line, "a row of a weight");
        for (int64_t row = 0; row < m.rows; row++) {
            peft__dequantize(m.dtype, peft__matrix_row(&m, row), m.cols, line);
            for (int64_t col = 0; col < m.cols; col++) out[col * m.rows + row] = line[col];
        }
        peft__free(ctx->mem, line);
    }
    if (part == 0 && module->stored_offset != 0)
        for (int64_t i = 0; i < elements; i++) out[i] -= module->stored_offset;
    return PEFT_OK;
}

void peft__model_drop_tensor(const peft_model *model, const char *tensor_name) {
    const peft__tensor *tensor = peft__model_tensor(model, tensor_name);
    if (tensor != NULL && !peft__tensor_is_later(tensor) && model->tensors != NULL)
        peft__tensors_drop(model->tensors, tensor);
}

uint64_t peft__model_shapes(const peft_model *model) {
    uint64_t hash = 0;
    for (size_t i = 0; i < model->module_count; i++) {
        const peft__module *module = model->modules[i];
        if (module->layer < 0 && module->kind != PEFT_MODULE_EMBEDDING) continue;
        const int64_t sizes[] = {module->in, module->out};
        hash = peft__hash64(module->name, strlen(module->name), hash);
        hash = peft__hash64(sizes, sizeof sizes, hash);
    }
    return hash;
}

bool peft__model_has_rows(const peft_model *model, const char *tensor_name, int64_t *out_rows, int64_t *out_cols) {
    int part = 0;
    const peft__module *module = peft__model_split(model, tensor_name, &part);
    const peft__tensor *tensor = module == NULL ? NULL : peft__model_tensor(model, tensor_name);
    if (tensor == NULL || peft__tensor_is_later(tensor) || part == 1 || module->kind == PEFT_MODULE_CONV1D) return false;
    if (module->kind == PEFT_MODULE_TABLE || tensor->ndim != 2) return false;
    const peft__matrix m = peft__module_matrix(module);
    *out_rows = m.rows;
    *out_cols = m.cols;
    return !m.transposed;
}

peft_status peft__model_read_rows(peft_context *ctx, const peft_model *model, const char *tensor_name, int64_t first,
                                  int64_t count, float *out) {
    int64_t rows = 0, cols = 0;
    int part = 0;
    if (!peft__model_has_rows(model, tensor_name, &rows, &cols) || first < 0 || count < 0 || first > rows - count)
        return peft__fail(ctx, PEFT_E_INTERNAL, "%s has no rows %lld to %lld", tensor_name, (long long)first,
                          (long long)(first + count));
    const peft__module *module = peft__model_split(model, tensor_name, &part);
    PEFT_TRY(peft__tensor_check_float(ctx, peft__model_tensor(model, tensor_name)));
    const peft__matrix m = peft__module_matrix(module);
    for (int64_t row = 0; row < count; row++)
        peft__dequantize(m.dtype, peft__matrix_row(&m, first + row), cols, out + row * cols);
    for (int64_t i = 0; module->stored_offset != 0.0f && i < count * cols; i++) out[i] -= module->stored_offset;
    return PEFT_OK;
}

/* ---- public ---------------------------------------------------------------------------------------------- */

uint32_t peft_model_module_count(const peft_model *model) {
    return model == NULL ? 0 : (uint32_t)model->module_count;
}

peft_status peft_model_module(const peft_model *model, uint32_t index, peft_module_info *out_info) {
    if (model == NULL || out_info == NULL || index >= model->module_count) return PEFT_E_ARG;
    if (out_info->struct_size < sizeof(uint32_t)) return PEFT_E_ABI;
    const peft__module *module = model->modules[index];
    const peft__module *owner = module->tied_to != NULL ? module->tied_to : module;
    const peft_module_info info = {.struct_size = out_info->struct_size,
                                   .kind = module->kind,
                                   .name = module->name,
                                   .in_features = module->in,
                                   .out_features = module->out,
                                   .dtype = owner->weight != NULL ? owner->weight->dtype : PEFT_DTYPE_F32,
                                   .layer = module->layer,
                                   .has_bias = module->has_bias,
                                   .is_new = module->is_new};
    memcpy(out_info, &info, peft__min_size(out_info->struct_size, sizeof info));
    return PEFT_OK;
}
