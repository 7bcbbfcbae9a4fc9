/* load.c: a model from a folder, a file, memory or the host's read function; and how long it lives.
 *
 * Weights are not copied: modules point into the mapped files, which the model holds through the collection of tensors.
 * A model has no context of its own: it keeps the allocator's record, so that any context may use it and it may be
 * destroyed last.
 */
#include "model/model_internal.h"

#include <stdio.h>

/* ---- life ------------------------------------------------------------------------------------------------ */

peft_status peft__model_new(peft_context *ctx, peft_model **out_model) {
    peft_model *model = peft__alloc_zero(ctx->mem, sizeof *model);
    if (model == NULL) return peft__fail_nomem(ctx, sizeof *model, "a model");
    model->mem = peft__mem_ref(ctx->mem);
    atomic_init(&model->references, 1);
    peft__arena_init(&model->arena, model->mem);
    peft__table_init(&model->by_name, model->mem);
    peft__table_init(&model->file_index, model->mem);
    peft__buffer_init(&model->report, model->mem);
    *out_model = model;
    return PEFT_OK;
}

peft_model *peft__model_ref(peft_model *model) {
    atomic_fetch_add_explicit(&model->references, 1, memory_order_relaxed);
    return model;
}

void peft__model_unref(peft_model *model) {
    if (model == NULL || atomic_fetch_sub_explicit(&model->references, 1, memory_order_acq_rel) != 1) return;
    peft__mem *mem = model->mem;
    peft__tokenizer_unref(model->tokenizer);
    peft__tensors_unref(model->tensors);
    json_decref(model->config);
    peft__table_free(&model->by_name);
    peft__table_free(&model->file_index);
    peft__buffer_free(&model->report);
    peft__free(mem, model->modules);
    peft__free(mem, model->claimed);
    peft__arena_free(&model->arena);
    peft__free(mem, model);
    peft__mem_unref(mem);
}

/* ---- after the weights are found ------------------------------------------------------------------------- */

static uint64_t hash_tensor(const char *module, char part, const peft__tensor *tensor, uint64_t hash) {
    hash = peft__hash64(module, strlen(module), hash);
    hash = peft__hash64(&part, 1, hash);
    hash = peft__hash64(&tensor->dtype, sizeof tensor->dtype, hash);
    hash = peft__hash64(tensor->shape, tensor->ndim * sizeof *tensor->shape, hash);
    enum { PIECES = 8, PIECE = 64 };
    const size_t step = peft__max_size(tensor->bytes / PIECES, PIECE);
    for (size_t at = 0; at < tensor->bytes; at += step)
        hash = peft__hash64(tensor->data + at, peft__min_size(PIECE, tensor->bytes - at), hash);
    return hash;
}

void peft__model_finish(peft_model *model) {
    model->parameters = model->bytes = 0;
    uint64_t hash = 0;
    for (size_t i = 0; i < model->module_count; i++) {
        const peft__module *module = model->modules[i];
        const peft__tensor *const parts[] = {module->weight, module->bias};
        for (size_t part = 0; part < PEFT_COUNT(parts); part++) {
            if (parts[part] == NULL) continue;
            model->parameters += peft__tensor_elements(parts[part]);
            model->bytes += (int64_t)parts[part]->bytes;
            hash = hash_tensor(module->name, part == 0 ? 'w' : 'b', parts[part], hash);
        }
    }
    model->hash = hash;
}

peft_status peft__model_print_config(peft_context *ctx, peft_model *model) {
    peft__buffer text;
    peft__buffer_init(&text, ctx->mem);
    peft_status status = peft__json_dump(ctx, model->config, 2, true, &text);
    if (status >= 0) {
        model->config_text = peft__arena_strndup(&model->arena, text.data, text.length);
        if (model->config_text == NULL) status = peft__fail_nomem(ctx, text.length, "the model's configuration");
    }
    peft__buffer_free(&text);
    return status;
}

/* Everything that folder and GGUF have in common; config and tensors are set. */
static peft_status fill(peft_context *ctx, peft_model *model, const peft_model_options *options) {
    const size_t count = peft__tensors_count(model->tensors);
    model->claimed = peft__alloc_zero(model->mem, count + 1);
    if (model->claimed == NULL) return peft__fail_nomem(ctx, count, "the list of tensors");
    for (size_t i = 0; i < count; i++) {
        const char *name = peft__tensors_at(model->tensors, i)->name;
        if (!peft__table_put(&model->file_index, name, strlen(name), i))
            return peft__fail_nomem(ctx, count, "the list of tensors");
    }
    PEFT_TRY(peft__config_begin(ctx, model, options));
    PEFT_TRY(model->arch->configure(ctx, model));
    PEFT_TRY(peft__model_resolve(ctx, model, options));
    if (model->arch->resolved != NULL) PEFT_TRY(model->arch->resolved(ctx, model));
    if (options->validate != 0) PEFT_TRY(peft__model_validate(ctx, model));
    if (model->name == NULL) {
        const char *name = NULL;
        PEFT_TRY(peft__json_get_string(ctx, model->config, "config.json", "_name_or_path", NULL, &name));
        model->name = name != NULL && name[0] != '\0' ? peft__arena_strdup(&model->arena, name) : model->path;
        if (model->name == NULL) return peft__fail_nomem(ctx, strlen(name), "the model's name");
    }
    peft__model_finish(model);
    PEFT_TRY(peft__model_print_config(ctx, model));
    if (model->tokenizer != NULL && peft__tokenizer_size(model->tokenizer) > model->dims.vocab_size)
        peft__log(ctx, PEFT_LOG_WARNING, "%s: the tokenizer has %d tokens, the model's embedding %lld rows",
                  model->path, (int)peft__tokenizer_size(model->tokenizer), (long long)model->dims.vocab_size);
    PEFT_TRY(peft__report_finish(ctx, model));
    peft__table_free(&model->file_index);
    peft__table_init(&model->file_index, model->mem);
    return PEFT_OK;
}

/* A tokenizer that is not built leaves the model usable by token ids: reported, not fatal. */
static peft_status accept_tokenizer(peft_context *ctx, peft_model *model, peft_status status) {
    if (status != PEFT_E_UNSUPPORTED) return status;
    peft__report_line(model, "no tokenizer: %s", ctx->error);
    peft__log(ctx, PEFT_LOG_WARNING, "%s: no tokenizer: %s", model->path, ctx->error);
    return PEFT_OK;
}

/* ---- sources --------------------------------------------------------------------------------------------- */

static peft_status fill_from_folder(peft_context *ctx, peft_model *model, const peft_model_options *options) {
    static const char *const tokenizer_files[] = {"tokenizer.json", "vocab.json", "vocab.txt"};
    const char *folder = model->path;
    char *config = peft__path_join(ctx->mem, folder, "config.json");
    if (config == NULL) return peft__fail_nomem(ctx, strlen(folder), "a path");
    json_t *json = NULL;
    const peft_status status = peft__json_load_file(ctx, config, (size_t)16 << 20, &json);
    peft__free(ctx->mem, config);
    if (status < 0) return status;
    model->config = json;
    if (!json_is_object(json))
        return peft__fail(ctx, PEFT_E_FORMAT, "%s/config.json: expected an object, found %s", folder,
                          peft__json_kind(json));
    model->is_folder = true;
    PEFT_TRY(peft__tensors_open_folder(ctx, folder, &model->tensors));
    for (size_t i = 0; i < PEFT_COUNT(tokenizer_files); i++) {
        char *path = peft__path_join(ctx->mem, folder, tokenizer_files[i]);
        if (path == NULL) return peft__fail_nomem(ctx, strlen(folder), "a path");
        const bool there = peft__path_exists(path);
        peft__free(ctx->mem, path);
        if (!there) continue;
        PEFT_TRY(accept_tokenizer(ctx, model, peft__tokenizer_from_folder(ctx, folder, &model->tokenizer)));
        break;
    }
    return fill(ctx, model, options);
}

static peft_status fill_from_gguf(peft_context *ctx, peft_model *model, peft__gguf *gguf,
                                  const peft_model_options *options) {
    const char *type = NULL, *arch_name = NULL, *name = NULL;
    PEFT_TRY(peft__gguf_get_string(gguf, "general.type", "model", &type));
    if (strcmp(type, "model") != 0)
        return peft__fail(ctx, PEFT_E_MISMATCH, "%s: general.type is \"%s\": this file is no model", model->path, type);
    PEFT_TRY(peft__gguf_need_string(gguf, "general.architecture", &arch_name));
    const peft__arch *arch = peft__arch_find(ctx, arch_name, true);
    if (arch == NULL || arch->config_from_gguf == NULL)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                          "%s: general.architecture \"%s\" is not one that libpeft builds from GGUF files", model->path,
                          arch_name);
    PEFT_TRY(peft__gguf_get_string(gguf, "general.name", NULL, &name));
    if (name != NULL && name[0] != '\0') {
        model->name = peft__arena_strdup(&model->arena, name);
        if (model->name == NULL) return peft__fail_nomem(ctx, strlen(name), "the model's name");
    }
    model->is_gguf = true;
    model->tensors = peft__tensors_ref(peft__gguf_tensors(gguf));
    model->config = json_object();
    if (model->config == NULL) return peft__fail_nomem(ctx, 64, "the model's configuration");
    PEFT_TRY(arch->config_from_gguf(ctx, gguf, model->config));
    if (json_object_get(model->config, "model_type") == NULL &&
        json_object_set_new(model->config, "model_type", json_string(arch->model_type)) != 0)
        return peft__fail_nomem(ctx, 64, "the model's configuration");
    if (peft__gguf_has(gguf, "tokenizer.ggml.model"))
        PEFT_TRY(accept_tokenizer(ctx, model, peft__tokenizer_from_gguf(ctx, gguf, &model->tokenizer)));
    return fill(ctx, model, options);
}

/* Takes over the reference to `source`. */
static peft_status load_source(peft_context *ctx, peft__source *source, const peft_model_options *options,
                               peft_model **out_model) {
    peft_model *model = NULL;
    peft__gguf *gguf = NULL;
    peft_status status = PEFT_OK;
    if (!peft__gguf_detect(source->data, source->size))
        status =
            peft__fail(ctx, PEFT_E_FORMAT,
                       "%s: expected a GGUF file or a Hugging Face folder (config.json, *.safetensors), found a file "
                       "without GGUF's magic number",
                       source->name);
    if (status >= 0) status = peft__gguf_open_source(ctx, source, &gguf);
    if (status >= 0) status = peft__model_new(ctx, &model);
    if (status >= 0) {
        model->path = peft__arena_strdup(&model->arena, source->name);
        status = model->path == NULL ? peft__fail_nomem(ctx, strlen(source->name), "a path")
                                     : fill_from_gguf(ctx, model, gguf, options);
    }
    peft__gguf_free(gguf);
    peft__source_unref(source);
    if (status < 0) {
        peft__model_unref(model);
        return status;
    }
    *out_model = model;
    return PEFT_OK;
}

/* ---- public ---------------------------------------------------------------------------------------------- */

void peft_model_options_init_sized(peft_model_options *options, uint32_t size) {
    if (options == NULL || size < sizeof options->struct_size) return;
    const peft_model_options defaults = {.struct_size = size, .allow_unexpected = 1};
    memset(options, 0, size);
    memcpy(options, &defaults, peft__min_size(size, sizeof defaults));
}

static peft_status take_options(peft_context *ctx, const peft_model_options *options, peft_model_options *out) {
    peft_model_options_init(out);
    PEFT_TRY(peft__options_copy(ctx, out, sizeof *out, options, offsetof(peft_model_options, label_names),
                                "peft_model_options"));
    if (out->task < PEFT_TASK_AUTO || out->task > PEFT_TASK_MULTIPLE_CHOICE)
        return peft__fail(ctx, PEFT_E_ARG, "task is one of PEFT_TASK_*, found %d", (int)out->task);
    return PEFT_OK;
}

peft_status peft_model_load(peft_context *ctx, const char *path, const peft_model_options *options,
                            peft_model **out_model) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (path == NULL || out_model == NULL) return peft__fail(ctx, PEFT_E_ARG, "path and out_model may not be NULL");
    peft_model_options chosen;
    PEFT_TRY(take_options(ctx, options, &chosen));
    if (!peft__path_is_dir(path)) {
        peft__source *source = NULL;
        PEFT_TRY(peft__source_open_path(ctx, path, &source));
        return load_source(ctx, source, &chosen, out_model);
    }
    peft_model *model = NULL;
    PEFT_TRY(peft__model_new(ctx, &model));
    model->path = peft__arena_strdup(&model->arena, path);
    const peft_status status =
        model->path == NULL ? peft__fail_nomem(ctx, strlen(path), "a path") : fill_from_folder(ctx, model, &chosen);
    if (status < 0) {
        peft__model_unref(model);
        return status;
    }
    *out_model = model;
    return PEFT_OK;
}

peft_status peft_model_load_memory(peft_context *ctx, const void *data, uint64_t size,
                                   const peft_model_options *options, peft_model **out_model) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (data == NULL || out_model == NULL || size > SIZE_MAX)
        return peft__fail(ctx, PEFT_E_ARG, "data and out_model may not be NULL");
    peft_model_options chosen;
    PEFT_TRY(take_options(ctx, options, &chosen));
    peft__source *source = NULL;
    PEFT_TRY(peft__source_open_memory(ctx, data, (size_t)size, "memory", &source));
    return load_source(ctx, source, &chosen, out_model);
}

peft_status peft_model_load_reader(peft_context *ctx, const peft_reader *reader, const peft_model_options *options,
                                   peft_model **out_model) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (reader == NULL || reader->read == NULL || out_model == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "reader, its read function and out_model may not be NULL");
    peft_model_options chosen;
    PEFT_TRY(take_options(ctx, options, &chosen));
    peft__source *source = NULL;
    PEFT_TRY(peft__source_open_reader(ctx, reader, "memory", &source));
    return load_source(ctx, source, &chosen, out_model);
}

void peft_model_destroy(peft_model *model) {
    peft__model_unref(model);
}

peft_status peft_model_get_info(const peft_model *model, peft_model_info *out_info) {
    if (model == NULL || out_info == NULL) return PEFT_E_ARG;
    if (out_info->struct_size < sizeof(uint32_t)) return PEFT_E_ABI;
    const peft__dims *d = &model->dims;
    const peft_model_info info = {.struct_size = out_info->struct_size,
                                  .task = model->task,
                                  .model_type = model->arch->model_type,
                                  .name = model->name,
                                  .parameters = model->parameters,
                                  .bytes = model->bytes,
                                  .hidden_size = d->hidden_size,
                                  .num_hidden_layers = d->num_hidden_layers,
                                  .num_attention_heads = d->num_attention_heads,
                                  .num_key_value_heads = d->num_key_value_heads,
                                  .head_dim = d->head_dim,
                                  .intermediate_size = d->intermediate_size,
                                  .vocab_size = d->vocab_size,
                                  .max_position_embeddings = d->max_position_embeddings,
                                  .num_labels = d->num_labels,
                                  .hash = model->hash};
    memcpy(out_info, &info, peft__min_size(out_info->struct_size, sizeof info));
    return PEFT_OK;
}

const char *peft_model_load_report(const peft_model *model) {
    return model == NULL ? "" : model->report_text;
}
const char *peft_model_config(const peft_model *model) {
    return model == NULL ? "" : model->config_text;
}
const peft_tokenizer *peft_model_tokenizer(const peft_model *model) {
    return model == NULL ? NULL : model->tokenizer;
}
