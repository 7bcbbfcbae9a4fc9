/* model_save_gguf.c: a model that was read from a GGUF file, and perhaps merged since, as a new GGUF file.
 *
 * Keys and tensors keep their order, names and types. What merging did not touch is copied byte for byte; what it did
 * is brought back into the file's form (order of query and key rows, offsets of norms, Conv1D turned) and encoded in
 * the type it had, one tensor at a time. An output layer that merging has parted from the embedding table is added, in
 * the table's type. The new file is opened again and compared.
 */
#include "format/gguf.h"
#include "method/adapter.h"

typedef struct source {
    struct saving *saving;
    const peft__module *module; /* of the base */
    bool bias;
} source;

typedef struct saving {
    peft_context *ctx;
    const peft_model *model;
    peft_model *base; /* the file again, as it was read: what its form was */
    peft__gguf *gguf;
    peft__arena arena;
    peft__table names; /* GGUF name -> 2 * module index + bias */
    peft__tensor_out *tensors;
    size_t count;
} saving;

static bool in_memory(const peft__tensor *tensor) {
    return tensor != NULL && strcmp(tensor->file, "memory") == 0;
}

static const peft__tensor *changed(const saving *s, uint32_t module, bool bias) {
    const peft__module *m = peft__model_module_at(s->model, module);
    const peft__tensor *tensor = bias ? m->bias : m->weight;
    return in_memory(tensor) ? tensor : NULL;
}

static const char *tensor_name(saving *s, const peft__module *module, bool bias) {
    return peft__module_tensor_name(module, &s->arena, bias);
}

/* The tensor's values as the file has them. `from` is used up when it does not come back as *out. */
static void to_file_form(const source *from, int64_t rows, int64_t cols, const float *values, float *out) {
    const peft__module *m = from->module;
    const bool conv = m->kind == PEFT_MODULE_CONV1D && !from->bias;
    const int64_t head = m->interleave, half = head / 2;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t at = head > 0 ? r % head : 0;
        const int64_t to = head > 0 ? r - at + 2 * (at % half) + at / half : r;
        for (int64_t c = 0; c < cols; c++)
            out[to * cols + c] = values[conv ? c * rows + r : r * cols + c] + (from->bias ? 0.0f : m->stored_offset);
    }
}

static peft_status encode(const source *from, const peft__tensor_out *tensor, float *values, uint8_t *bytes) {
    saving *s = from->saving;
    const char *name = tensor_name(s, from->module, from->bias);
    int64_t elements = 0;
    if (name == NULL || !peft__shape_elements(tensor->ndim, tensor->shape, &elements))
        return peft__fail_nomem(s->ctx, 64, tensor->name);
    const int64_t cols = tensor->ndim == 2 ? tensor->shape[1] : 1, rows = elements / cols;
    PEFT_TRY(peft__model_read_tensor(s->ctx, s->model, name, values));
    to_file_form(from, rows, cols, values, values + elements);
    const peft_status status = peft__quantize(s->ctx, tensor->dtype, values + elements, elements, bytes);
    return status < 0 ? peft__fail_in(s->ctx, status, "%s", tensor->name) : PEFT_OK;
}

static peft_status emit(void *user, const peft__tensor_out *tensor, peft__writer *writer) {
    const source *from = user;
    peft__mem *mem = from->saving->ctx->mem;
    int64_t elements = 0;
    size_t bytes = 0;
    if (!peft__shape_elements(tensor->ndim, tensor->shape, &elements) ||
        !peft__dtype_tensor_bytes(tensor->dtype, tensor->ndim, tensor->shape, &bytes))
        return peft__fail(from->saving->ctx, PEFT_E_INTERNAL, "%s has no size", tensor->name);
    float *values = peft__alloc(mem, 2 * (size_t)elements * sizeof *values);
    uint8_t *encoded = peft__alloc(mem, bytes);
    peft_status status = values != NULL && encoded != NULL
                             ? encode(from, tensor, values, encoded)
                             : peft__fail_nomem(from->saving->ctx, bytes, "a tensor to be saved");
    if (status >= 0) status = peft__writer_put(writer, encoded, bytes);
    peft__free(mem, values);
    peft__free(mem, encoded);
    return status;
}

/* A tensor of the file as it is; its pages are let go, so that no more than one tensor of the base is ever resident. */
static peft_status emit_stored(void *user, const peft__tensor_out *tensor, peft__writer *writer) {
    const saving *s = user;
    const peft__tensors *files = peft__gguf_tensors(s->gguf);
    const peft__tensor *stored = peft__tensors_find(files, tensor->name);
    if (stored == NULL) return peft__fail(s->ctx, PEFT_E_INTERNAL, "%s is not in the file", tensor->name);
    const peft_status status = peft__writer_put(writer, stored->data, stored->bytes);
    peft__tensors_drop(files, stored);
    return status;
}

static peft_status add_changed(saving *s, uint32_t module, bool bias, peft__tensor_out *out) {
    source *from = peft__arena_alloc(&s->arena, sizeof *from);
    if (from == NULL) return peft__fail_nomem(s->ctx, sizeof *from, "a model's file");
    *from = (source){s, peft__model_module_at(s->base, module), bias};
    out->emit = emit;
    out->user = from;
    return PEFT_OK;
}

static peft_status list_names(saving *s) {
    const peft__arch *arch = peft__model_arch(s->base);
    for (uint32_t i = 0; i < peft__model_module_count(s->base); i++)
        for (int bias = 0; bias < 2; bias++) {
            const peft__module *module = peft__model_module_at(s->base, i);
            if (bias == 1 && !module->has_bias) continue;
            const char *tensor = tensor_name(s, module, bias == 1);
            const char *name = tensor != NULL ? arch->gguf_name(s->base, &s->arena, tensor) : NULL;
            const bool listed =
                name == NULL || peft__table_put(&s->names, name, strlen(name), 2 * (uint64_t)i + (uint64_t)bias);
            if (s->arena.failed || !listed)
                return peft__fail_nomem(s->ctx, 256, "a model's file");
        }
    return PEFT_OK;
}

static peft_status list_tensors(saving *s) {
    const peft__tensors *files = peft__gguf_tensors(s->gguf);
    const size_t stored = peft__tensors_count(files), modules = peft__model_module_count(s->base);
    s->tensors = peft__arena_alloc(&s->arena, (stored + modules + 1) * sizeof *s->tensors);
    if (s->tensors == NULL) return peft__fail_nomem(s->ctx, stored * sizeof *s->tensors, "a model's file");
    for (size_t i = 0; i < stored; i++) {
        const peft__tensor *tensor = peft__tensors_at(files, i);
        peft__tensor_out *out = &s->tensors[s->count++];
        *out = (peft__tensor_out){
            .name = tensor->name, .dtype = tensor->dtype, .ndim = tensor->ndim, .emit = emit_stored, .user = s};
        memcpy(out->shape, tensor->shape, sizeof out->shape);
        uint64_t which = 0;
        if (tensor->dtype == PEFT_DTYPE_OTHER)
            return peft__fail(s->ctx, PEFT_E_UNSUPPORTED, "%s: tensor %s has type %s, which cannot be written",
                              tensor->file, tensor->name, tensor->type_name);
        if (peft__table_get(&s->names, tensor->name, strlen(tensor->name), &which) &&
            changed(s, (uint32_t)(which / 2), which % 2 == 1) != NULL)
            PEFT_TRY(add_changed(s, (uint32_t)(which / 2), which % 2 == 1, out));
    }
    for (uint32_t i = 0; i < modules; i++) {
        const peft__module *module = peft__model_module_at(s->base, i);
        if (changed(s, i, false) == NULL) continue;
        const char *tensor = tensor_name(s, module, false);
        const char *name = tensor != NULL ? peft__model_arch(s->base)->gguf_name(s->base, &s->arena, tensor) : NULL;
        if (s->arena.failed) return peft__fail_nomem(s->ctx, 256, "a model's file");
        if (name != NULL && peft__tensors_find(files, name) != NULL) continue;
        if (name == NULL || module->tied_to == NULL || module->tied_to->weight == NULL)
            return peft__fail(s->ctx, PEFT_E_UNSUPPORTED, "%s has no place in a GGUF file", module->name);
        peft__tensor_out *out = &s->tensors[s->count++];
        *out = (peft__tensor_out){.name = name, .dtype = module->tied_to->weight->dtype, .ndim = 2};
        memcpy(out->shape, module->tied_to->weight->shape, sizeof out->shape);
        PEFT_TRY(add_changed(s, i, false, out));
    }
    return PEFT_OK;
}

/* A tensor that was read back is the one that was written; copied ones byte for byte. */
static bool same_tensor(const saving *s, const peft__tensors *read, const peft__tensor_out *written) {
    const peft__tensor *tensor = peft__tensors_find(read, written->name);
    if (tensor == NULL || tensor->dtype != written->dtype || tensor->ndim != written->ndim ||
        memcmp(tensor->shape, written->shape, tensor->ndim * sizeof *tensor->shape) != 0)
        return false;
    if (written->emit != emit_stored) return true;
    const peft__tensors *files = peft__gguf_tensors(s->gguf);
    const peft__tensor *stored = peft__tensors_find(files, written->name);
    const bool same = stored != NULL && stored->bytes == tensor->bytes &&
                      memcmp(tensor->data, stored->data, tensor->bytes) == 0;
    if (stored != NULL) peft__tensors_drop(files, stored);
    peft__tensors_drop(read, tensor);
    return same;
}

static peft_status compare(const saving *s, const char *path) {
    peft__gguf *gguf = NULL;
    PEFT_TRY(peft__gguf_open(s->ctx, path, &gguf));
    const peft__tensors *read = peft__gguf_tensors(gguf);
    bool same = peft__tensors_count(read) == s->count && peft__gguf_key_count(gguf) >= peft__gguf_key_count(s->gguf);
    for (size_t i = 0; same && i < s->count; i++) same = same_tensor(s, read, &s->tensors[i]);
    peft__gguf_free(gguf);
    return same ? PEFT_OK : peft__fail(s->ctx, PEFT_E_INTERNAL, "%s reads back with other tensors", path);
}

static peft_status save(saving *s, const char *path) {
    PEFT_TRY(list_names(s));
    PEFT_TRY(list_tensors(s));
    peft__gguf_metadata metadata;
    peft__gguf_metadata_init(&metadata, s->ctx->mem);
    for (size_t i = 0; i < peft__gguf_key_count(s->gguf); i++) {
        const char *key = peft__gguf_key_at(s->gguf, i);
        if (strcmp(key, "general.alignment") != 0) (void)peft__gguf_put_copy(&metadata, s->gguf, key);
    }
    const peft_status status = peft__gguf_write(s->ctx, path, &metadata, s->tensors, s->count);
    peft__gguf_metadata_free(&metadata);
    return status < 0 ? status : compare(s, path);
}

peft_status peft_model_save_gguf(peft_context *ctx, const peft_model *model, const char *path) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (model == NULL || path == NULL) return peft__fail(ctx, PEFT_E_ARG, "peft_model_save_gguf: an argument is NULL");
    const char *origin = peft__model_path(model);
    if (!peft__model_is_gguf(model) || origin == NULL)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                          "only models read from a GGUF file are written as one; write a Hugging Face folder "
                          "(peft_model_save) and convert that");
    if (strcmp(origin, path) == 0)
        return peft__fail(ctx, PEFT_E_ARG, "%s is the file that the model is being read from", path);
    saving s = {.ctx = ctx, .model = model};
    peft__arena_init(&s.arena, ctx->mem);
    peft__table_init(&s.names, ctx->mem);
    peft_model_options options;
    peft_model_options_init(&options);
    options.task = peft__model_task(model);
    peft_status status = peft_model_load(ctx, origin, &options, &s.base);
    if (status >= 0) status = peft__gguf_open(ctx, origin, &s.gguf);
    if (status >= 0 && peft__model_module_count(s.base) != peft__model_module_count(model))
        status = peft__fail(ctx, PEFT_E_MISMATCH, "%s is not the file any more that the model was read from", origin);
    if (status >= 0) status = save(&s, path);
    peft__gguf_free(s.gguf);
    peft_model_destroy(s.base);
    peft__table_free(&s.names);
    peft__arena_free(&s.arena);
    return status;
}
