/* adapter_io.c: adapter folders as HF PEFT writes them, in and out.
 *
 * Loading is strict on purpose. An adapter whose names do not match loads "successfully" elsewhere and does nothing;
 * here every tensor of the file must find its place and every place its tensor. Names are compared as they are first,
 * then by the canonical form of names.c, so that files of other transformers releases still load.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "format/safetensors.h"
#include "method/adapter_make.h"

#define CONFIG_LIMIT ((size_t)16 << 20)
static const char *const CONFIG_FILE = "adapter_config.json";
static const char *const TENSOR_FILE = "adapter_model.safetensors";

enum { MOST_NAMED = 4 };

/* ---- loading ---------------------------------------------------------------------------------------------- */

typedef struct places {
    peft__table exact, canonical; /* file key -> param index */
    peft__arena arena;
} places;

static void places_free(places *p) {
    peft__table_free(&p->exact);
    peft__table_free(&p->canonical);
    peft__arena_free(&p->arena);
}

static peft_status places_fill(peft_adapter *adapter, places *p) {
    peft_context *ctx = adapter->ctx;
    for (uint32_t i = 0; i < adapter->count; i++) {
        const char *key = adapter->slots[i].key;
        if (key == NULL) continue;
        const char *canonical = peft__canonical_key(adapter->model, &p->arena, key);
        if (canonical == NULL || !peft__table_put(&p->exact, key, strlen(key), i))
            return peft__fail_nomem(ctx, 256, "an adapter's names");
        uint64_t other = 0; /* two tensors of one canonical name: neither may be found by it */
        const bool twice = peft__table_get(&p->canonical, canonical, strlen(canonical), &other);
        if (!peft__table_put(&p->canonical, canonical, strlen(canonical), twice ? UINT64_MAX : i))
            return peft__fail_nomem(ctx, 256, "an adapter's names");
    }
    return PEFT_OK;
}

static peft_status read_into(peft_adapter *adapter, const peft__tensor *tensor, uint32_t index) {
    peft_context *ctx = adapter->ctx;
    peft__param *param = &adapter->params[index];
    if (adapter->slots[index].read)
        return peft__fail(ctx, PEFT_E_MISMATCH, "%.200s: two tensors of the file are meant for %s", tensor->name,
                          param->name);
    PEFT_TRY(peft__tensor_check_float(ctx, tensor));
    const peft_status shape = peft__tensor_check_shape(ctx, tensor, param->ndim, param->shape);
    if (shape < 0) return peft__fail_in(ctx, shape, "the adapter does not fit its configuration or this model");
    PEFT_TRY(peft__tensor_read_f32(ctx, tensor, param->data));
    for (int64_t i = 0; i < param->elements; i++)
        if (!isfinite(param->data[i]))
            return peft__fail(ctx, PEFT_E_NONFINITE, "%s: %.200s: element %lld is not finite", tensor->file,
                              tensor->name, (long long)i);
    adapter->slots[index].read = true;
    return PEFT_OK;
}

/* *out_taken false: nobody wants this tensor. */
static peft_status place(peft_adapter *adapter, places *p, const peft__tensor *tensor, uint32_t *out_renamed,
                         bool *out_taken) {
    uint64_t index = 0;
    *out_taken = true;
    if (peft__table_get(&p->exact, tensor->name, strlen(tensor->name), &index))
        return read_into(adapter, tensor, (uint32_t)index);
    const char *canonical = peft__canonical_key(adapter->model, &p->arena, tensor->name);
    if (canonical == NULL) return peft__fail_nomem(adapter->ctx, strlen(tensor->name), "an adapter's names");
    if (peft__table_get(&p->canonical, canonical, strlen(canonical), &index) && index != UINT64_MAX) {
        *out_renamed += 1;
        return read_into(adapter, tensor, (uint32_t)index);
    }
    if (adapter->method->import != NULL) {
        const peft_status status = adapter->method->import(adapter, tensor, tensor->name);
        if (status != PEFT_END) return status;
    }
    *out_taken = false;
    return PEFT_OK;
}

static const char *closest_key(const peft_adapter *adapter, peft__arena *arena, const char *name) {
    const char **keys = peft__arena_alloc(arena, (adapter->count + 1) * sizeof *keys);
    size_t count = 0;
    for (uint32_t i = 0; keys != NULL && i < adapter->count; i++)
        if (adapter->slots[i].key != NULL) keys[count++] = adapter->slots[i].key;
    return keys != NULL ? peft__closest(name, keys, count) : NULL;
}

static peft_status complain(peft_adapter *adapter, const peft__tensors *tensors, places *p,
                            const char *const *unmatched, size_t unmatched_count) {
    peft_context *ctx = adapter->ctx;
    size_t missing = 0;
    peft__buffer text;
    peft__buffer_init(&text, ctx->mem);
    for (uint32_t i = 0; i < adapter->count; i++) {
        if (adapter->slots[i].key == NULL || adapter->slots[i].read) continue;
        if (missing++ < MOST_NAMED)
            peft__buffer_printf(&text, "%s%.160s", missing > 1 ? ", " : "; missing: ", adapter->slots[i].key);
    }
    if (missing == 0 && unmatched_count == 0) {
        peft__buffer_free(&text);
        return PEFT_OK;
    }
    for (size_t i = 0; i < unmatched_count && i < MOST_NAMED; i++) {
        const char *closest = closest_key(adapter, &p->arena, unmatched[i]);
        peft__buffer_printf(&text, "%s%.160s%s%.160s%s", i > 0 ? ", " : "; fits nothing: ", unmatched[i],
                            closest != NULL ? " (closest: " : "", closest != NULL ? closest : "",
                            closest != NULL ? ")" : "");
    }
    const peft_status status = peft__fail(
        ctx, PEFT_E_MISMATCH, "%s: %zu tensors fit nothing in the model and %zu of the adapter's tensors are missing%s",
        peft__tensors_name(tensors), unmatched_count, missing, text.data != NULL ? text.data : "");
    peft__buffer_free(&text);
    return status;
}

static void hash_text(char text[24], uint64_t hash) {
    snprintf(text, 24, "%016" PRIx64, hash);
}

void peft__adapter_base_texts(const peft_adapter *adapter, char hash[24], char shapes[24]) {
    hash_text(hash, adapter->base_hash);
    hash_text(shapes, peft__model_shapes(adapter->model));
}

peft_status peft__adapter_check_base(const peft_adapter *adapter, const char *where, const char *hash, const char *shapes) {
    char own_hash[24], own_shapes[24];
    peft__adapter_base_texts(adapter, own_hash, own_shapes);
    if (shapes != NULL && strcmp(shapes, own_shapes) != 0)
        return peft__fail(adapter->ctx, PEFT_E_MISMATCH,
                          "%s: the adapter was trained on a base with layers or tables of other sizes than this one has "
                          "(%.20s, here %s)",
                          where, shapes, own_shapes);
    if (hash != NULL && strcmp(hash, own_hash) != 0)
        peft__log(adapter->ctx, PEFT_LOG_WARNING,
                  "%s: the adapter was trained on a base with other weights, or other types, than this one (%.20s, here %s)",
                  where, hash, own_hash);
    return PEFT_OK;
}

/* With bias "all", HF PEFT saves biases under modules_to_save three times: as the module's, and under the two names that
 * they have in memory (with the adapter's name where the module has parts); the untrained original is never read. */
static peft_status is_second_copy(const peft_adapter *adapter, const peft__tensors *tensors, peft__arena *arena,
                                  const char *name, bool *out) {
    static const char original[] = ".original_module.", saved[] = ".modules_to_save.";
    *out = strstr(name, original) != NULL;
    const char *at = strstr(name, saved);
    for (int i = 0; at != NULL && !*out && i < 2; i++) {
        const char *rest = at + sizeof saved - 1;
        if (i == 1) rest = strchr(rest, '.') != NULL ? strchr(rest, '.') + 1 : rest;
        const char *first = peft__arena_strfmt(arena, "%.*s.%s", (int)(at - name), name, rest);
        if (first == NULL) return peft__fail_nomem(adapter->ctx, strlen(name), "an adapter's names");
        *out = peft__tensors_find(tensors, first) != NULL;
    }
    return PEFT_OK;
}

static peft_status read_all(peft_adapter *adapter, const peft__tensors *tensors, places *p) {
    peft_context *ctx = adapter->ctx;
    PEFT_TRY(places_fill(adapter, p));
    const size_t count = peft__tensors_count(tensors);
    const char **unmatched = peft__arena_alloc(&p->arena, (count + 1) * sizeof *unmatched);
    if (unmatched == NULL) return peft__fail_nomem(ctx, count * sizeof *unmatched, "an adapter's names");
    size_t unmatched_count = 0;
    uint32_t renamed = 0;
    for (size_t i = 0; i < count; i++) {
        const peft__tensor *tensor = peft__tensors_at(tensors, i);
        bool taken = false, again = false;
        PEFT_TRY(is_second_copy(adapter, tensors, &p->arena, tensor->name, &again));
        if (again) continue;
        PEFT_TRY(place(adapter, p, tensor, &renamed, &taken));
        if (!taken) unmatched[unmatched_count++] = tensor->name;
    }
    PEFT_TRY(complain(adapter, tensors, p, unmatched, unmatched_count));
    PEFT_TRY(peft__adapter_check_base(adapter, peft__tensors_name(tensors), peft__tensors_metadata(tensors, PEFT__BASE_HASH),
                                      peft__tensors_metadata(tensors, PEFT__BASE_SHAPES)));
    PEFT_TRY(peft__adapter_note(adapter, "%zu tensors read\n", count));
    return renamed > 0 ? peft__adapter_note(
                             adapter, "%u tensors matched under the names of another transformers release\n", renamed)
                       : PEFT_OK;
}

static peft_status read_tensors(peft_adapter *adapter, const peft__tensors *tensors) {
    places p;
    peft__table_init(&p.exact, adapter->ctx->mem);
    peft__table_init(&p.canonical, adapter->ctx->mem);
    peft__arena_init(&p.arena, adapter->ctx->mem);
    peft_status status = read_all(adapter, tensors, &p);
    places_free(&p);
    if (status >= 0) status = peft__adapter_initialise(adapter, 0);
    if (status >= 0 && adapter->method->loaded != NULL) status = adapter->method->loaded(adapter);
    return status >= 0 ? peft__adapter_finish(adapter) : status;
}

static peft_status open_tensors(peft_context *ctx, const char *folder, peft__tensors **out_tensors) {
    char *path = peft__path_join(ctx->mem, folder, TENSOR_FILE);
    char *pickle = peft__path_join(ctx->mem, folder, "adapter_model.bin");
    peft_status status = PEFT_OK;
    if (path == NULL || pickle == NULL)
        status = peft__fail_nomem(ctx, strlen(folder), "a path");
    else if (!peft__path_exists(path) && peft__path_exists(pickle))
        status = peft__fail(ctx, PEFT_E_UNSUPPORTED,
                            "%s: only adapter_model.bin is there, a pickle, which is a program and is not run; load "
                            "and save the adapter once with "
                            "HF PEFT (safe_serialization=True) to get %s",
                            folder, TENSOR_FILE);
    else
        status = peft__safetensors_open(ctx, path, out_tensors);
    peft__free(ctx->mem, path);
    peft__free(ctx->mem, pickle);
    return status;
}

static peft_status load_config(peft_context *ctx, const char *folder, json_t **out_config) {
    char *path = peft__path_join(ctx->mem, folder, CONFIG_FILE);
    if (path == NULL) return peft__fail_nomem(ctx, strlen(folder), "a path");
    peft_status status = PEFT_OK;
    if (!peft__path_is_dir(folder))
        status = peft__fail(ctx, PEFT_E_IO, "%s is no folder; an adapter is a folder with %s", folder, CONFIG_FILE);
    else if (!peft__path_exists(path))
        status = peft__fail(ctx, PEFT_E_IO, "%s has no %s: it is no adapter", folder, CONFIG_FILE);
    else
        status = peft__json_load_file(ctx, path, CONFIG_LIMIT, out_config);
    peft__free(ctx->mem, path);
    return status;
}

peft_status peft_adapter_load(peft_context *ctx, peft_model *model, const char *folder, peft_adapter **out_adapter) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (model == NULL || folder == NULL || out_adapter == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "peft_adapter_load: an argument is NULL");
    json_t *config = NULL;
    PEFT_TRY(load_config(ctx, folder, &config));
    peft_adapter *adapter = NULL;
    peft__tensors *tensors = NULL;
    peft_status status = open_tensors(ctx, folder, &tensors);
    if (status >= 0) status = peft__adapter_make(ctx, model, folder, config, true, &adapter);
    json_decref(config);
    if (status >= 0) status = read_tensors(adapter, tensors);
    peft__tensors_unref(tensors);
    if (status < 0) {
        peft_adapter_destroy(adapter);
        return status;
    }
    *out_adapter = adapter;
    return PEFT_OK;
}

/* ---- saving ------------------------------------------------------------------------------------------------- */

static peft_status next(peft__export *file, peft__tensor_out **out) {
    peft_context *ctx = file->adapter->ctx;
    if (file->count == file->capacity) {
        const size_t capacity = file->capacity == 0 ? 64 : 2 * file->capacity;
        peft__tensor_out *tensors = peft__realloc(ctx->mem, file->tensors, capacity * sizeof *tensors);
        if (tensors == NULL) return peft__fail_nomem(ctx, capacity * sizeof *tensors, "an adapter's file");
        file->tensors = tensors;
        file->capacity = capacity;
    }
    *out = &file->tensors[file->count++];
    memset(*out, 0, sizeof **out);
    return PEFT_OK;
}

peft_status peft__export_add(peft__export *file, const char *key, uint32_t ndim, const int64_t *shape,
                             const float *data) {
    const char *name = peft__arena_strdup(file->arena, key);
    if (name == NULL) return peft__fail_nomem(file->adapter->ctx, strlen(key), "an adapter's file");
    peft__tensor_out *tensor = NULL;
    PEFT_TRY(next(file, &tensor));
    tensor->name = name;
    tensor->dtype = PEFT_DTYPE_F32;
    tensor->ndim = ndim;
    for (uint32_t i = 0; i < ndim; i++) tensor->shape[i] = shape[i];
    tensor->data = data;
    return PEFT_OK;
}

peft_status peft__export_replace(peft__export *file, uint32_t index, uint32_t ndim, const int64_t *shape,
                                 const float *data) {
    for (size_t i = 0; i < file->count; i++) {
        peft__tensor_out *tensor = &file->tensors[i];
        if (tensor->data != file->adapter->params[index].data) continue;
        tensor->ndim = ndim;
        for (uint32_t k = 0; k < ndim; k++) tensor->shape[k] = shape[k];
        tensor->data = data;
        return PEFT_OK;
    }
    return peft__fail(file->adapter->ctx, PEFT_E_INTERNAL, "%s is not in the adapter's file",
                      file->adapter->params[index].name);
}

typedef struct base_source {
    peft_context *ctx;
    const peft_model *model;
    const char *tensor;
} base_source;

static peft_status emit_base(void *user, const peft__tensor_out *tensor, peft__writer *writer) {
    const base_source *source = user;
    size_t bytes = 0;
    if (!peft__dtype_tensor_bytes(PEFT_DTYPE_F32, tensor->ndim, tensor->shape, &bytes))
        return peft__fail(source->ctx, PEFT_E_INTERNAL, "%s has no size", tensor->name);
    float *values = peft__alloc(source->ctx->mem, bytes);
    if (values == NULL) return peft__fail_nomem(source->ctx, bytes, "a tensor to be saved");
    peft_status status = peft__model_read_tensor(source->ctx, source->model, source->tensor, values);
    if (status >= 0) status = peft__writer_put(writer, values, bytes);
    peft__free(source->ctx->mem, values);
    return status;
}

peft_status peft__export_add_base(peft__export *file, const char *key, const char *base_tensor) {
    peft_adapter *adapter = file->adapter;
    uint32_t ndim = 0;
    int64_t shape[4];
    if (!peft__model_tensor_shape(adapter->model, base_tensor, &ndim, shape))
        return peft__fail(adapter->ctx, PEFT_E_INTERNAL, "the model has no tensor %s", base_tensor);
    base_source *source = peft__arena_alloc(file->arena, sizeof *source);
    char *tensor = peft__arena_strdup(file->arena, base_tensor);
    if (source == NULL || tensor == NULL) return peft__fail_nomem(adapter->ctx, sizeof *source, "an adapter's file");
    *source = (base_source){adapter->ctx, adapter->model, tensor};
    PEFT_TRY(peft__export_add(file, key, ndim, shape, NULL));
    file->tensors[file->count - 1].emit = emit_base;
    file->tensors[file->count - 1].user = source;
    return PEFT_OK;
}

/* What is_second_copy() skips. For a head that the base does not have, the original is as good as the copy. */
static peft_status add_second_copies(const peft__param *param, const char *base, peft__export *file) {
    static const char saved[] = ".modules_to_save.";
    const char *at = strstr(param->name, saved);
    if (base == NULL || at == NULL || strcmp(strrchr(param->name, '.'), ".bias") != 0) return PEFT_OK;
    const char *rest = at + sizeof saved - 1, *part = strchr(rest, '.') != NULL ? "default." : "";
    const int before = (int)(at - param->name);
    const char *copy = peft__arena_strfmt(file->arena, "%.*s%s%s%s", before, param->name, saved, part, rest);
    const char *name = peft__arena_strfmt(file->arena, "%.*s.original_module.%s", before, param->name, rest);
    if (copy == NULL || name == NULL) return peft__fail_nomem(file->adapter->ctx, 256, "an adapter's file");
    PEFT_TRY(peft__export_add(file, copy, param->ndim, param->shape, param->data));
    int which = 0;
    const peft__module *module = peft__model_split(file->adapter->model, base, &which);
    return module != NULL && !module->is_new ? peft__export_add_base(file, name, base)
                                             : peft__export_add(file, name, param->ndim, param->shape, param->data);
}

static peft_status gather(const peft_adapter *adapter, peft__export *file) {
    const char *bias = json_string_value(json_object_get(adapter->config, "bias"));
    const bool all = bias != NULL && strcmp(bias, "all") == 0;
    for (uint32_t i = 0; i < adapter->count; i++) {
        const peft__param *param = &adapter->params[i];
        if (adapter->slots[i].key == NULL) continue;
        PEFT_TRY(peft__export_add(file, adapter->slots[i].key, param->ndim, param->shape, param->data));
        if (all) PEFT_TRY(add_second_copies(param, adapter->slots[i].base, file));
    }
    return adapter->method->export != NULL ? adapter->method->export(adapter, file) : PEFT_OK;
}

/* The configuration is on disk under a temporary name before the tensors are put in place, so that only two renames lie
 * between the old adapter and the new one. */
static peft_status write_files(const peft_adapter *adapter, const peft__export *file, const char *config_path,
                               const char *tensor_path) {
    peft_context *ctx = adapter->ctx;
    char hash[24], shapes[24];
    peft__adapter_base_texts(adapter, hash, shapes);
    const char *metadata[] = {PEFT__BASE_HASH, hash, PEFT__BASE_SHAPES, shapes};
    peft__buffer text;
    peft__buffer_init(&text, ctx->mem);
    peft__writer *writer = NULL;
    peft_status status = peft__config_write(ctx, adapter, &text);
    if (status >= 0) status = peft__writer_open(ctx, config_path, &writer);
    if (status >= 0) status = peft__writer_put(writer, text.data, text.length);
    if (status >= 0) status = peft__safetensors_write(ctx, tensor_path, file->tensors, file->count, metadata, 2);
    if (status >= 0) {
        status = peft__writer_commit(writer);
        writer = NULL;
    }
    peft__writer_abort(writer);
    peft__buffer_free(&text);
    return status;
}

peft_status peft_adapter_save(const peft_adapter *adapter, const char *folder) {
    if (adapter == NULL) return PEFT_E_ARG;
    peft_context *ctx = adapter->ctx;
    if (folder == NULL) return peft__fail(ctx, PEFT_E_ARG, "peft_adapter_save: no folder is given");
    PEFT_TRY(peft__make_dirs(ctx, folder));
    peft__arena arena;
    peft__arena_init(&arena, ctx->mem);
    peft__export file = {.adapter = (peft_adapter *)adapter, .arena = &arena};
    char *config_path = peft__path_join(ctx->mem, folder, CONFIG_FILE),
         *tensor_path = peft__path_join(ctx->mem, folder, TENSOR_FILE);
    peft_status status =
        config_path != NULL && tensor_path != NULL ? PEFT_OK : peft__fail_nomem(ctx, strlen(folder), "a path");
    if (status >= 0) status = gather(adapter, &file);
    if (status >= 0) status = write_files(adapter, &file, config_path, tensor_path);
    peft__free(ctx->mem, config_path);
    peft__free(ctx->mem, tensor_path);
    peft__free(ctx->mem, file.tensors);
    peft__arena_free(&arena);
    return status;
}
