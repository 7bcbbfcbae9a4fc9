/* model_save.c: a model as a Hugging Face folder, one tensor at a time.
 *
 * Names are Hugging Face's whatever the model was read from. Tied weights are written once, under the name that other
 * readers expect. Nothing of the size of the model is ever held in memory: each tensor is widened, converted and put
 * out in turn, matrices as they are stored a few rows at a time.
 */
#include <stdio.h>

#include "base/half.h"
#include "format/safetensors.h"
#include "method/adapter.h"

typedef struct saved_tensor {
    peft_context *ctx;
    const peft_model *model;
    const char *name;
} saved_tensor;

enum {
    CHUNK = 4096,
    PART = 1 << 18 /* floats of a matrix that are widened at a time */
};

static const char *const EXTRA_FILES[] = {"tokenizer.json",
                                          "tokenizer_config.json",
                                          "special_tokens_map.json",
                                          "added_tokens.json",
                                          "vocab.json",
                                          "merges.txt",
                                          "vocab.txt",
                                          "tokenizer.model",
                                          "spiece.model",
                                          "chat_template.jinja",
                                          "chat_template.json",
                                          "generation_config.json",
                                          "preprocessor_config.json"};

static uint16_t narrow(peft_dtype dtype, float value) {
    return dtype == PEFT_DTYPE_F16 ? peft__f32_to_f16(value) : peft__f32_to_bf16(value);
}

static peft_status put_values(peft_dtype dtype, const float *values, int64_t count, peft__writer *writer) {
    if (dtype == PEFT_DTYPE_F32) return peft__writer_put(writer, values, (size_t)count * sizeof *values);
    uint16_t chunk[CHUNK];
    for (int64_t at = 0; at < count; at += CHUNK) {
        const int64_t some = peft__min_i64(CHUNK, count - at);
        for (int64_t i = 0; i < some; i++) chunk[i] = narrow(dtype, values[at + i]);
        PEFT_TRY(peft__writer_put(writer, chunk, (size_t)some * sizeof *chunk));
    }
    return PEFT_OK;
}

static peft_status emit_rows(const saved_tensor *saved, int64_t rows, int64_t cols, peft_dtype dtype,
                             peft__writer *writer) {
    const int64_t part = peft__max_i64(1, PART / cols);
    float *values = peft__alloc(saved->ctx->mem, (size_t)(part * cols) * sizeof *values);
    if (values == NULL) return peft__fail_nomem(saved->ctx, (size_t)(part * cols) * sizeof *values, saved->name);
    peft_status status = PEFT_OK;
    for (int64_t first = 0; status >= 0 && first < rows; first += part) {
        const int64_t some = peft__min_i64(part, rows - first);
        status = peft__model_read_rows(saved->ctx, saved->model, saved->name, first, some, values);
        if (status >= 0) status = put_values(dtype, values, some * cols, writer);
    }
    peft__free(saved->ctx->mem, values);
    return status;
}

static peft_status emit(void *user, const peft__tensor_out *tensor, peft__writer *writer) {
    const saved_tensor *saved = user;
    int64_t elements = 1, rows = 0, cols = 0;
    if (peft__model_has_rows(saved->model, saved->name, &rows, &cols))
        return emit_rows(saved, rows, cols, tensor->dtype, writer);
    for (uint32_t i = 0; i < tensor->ndim; i++) elements *= tensor->shape[i];
    float *values = peft__alloc(saved->ctx->mem, (size_t)elements * sizeof *values);
    if (values == NULL) return peft__fail_nomem(saved->ctx, (size_t)elements * sizeof *values, saved->name);
    peft_status status = peft__model_read_tensor(saved->ctx, saved->model, saved->name, values);
    if (status >= 0) status = put_values(tensor->dtype, values, elements, writer);
    peft__free(saved->ctx->mem, values);
    return status;
}

static peft_status add_tensor(peft_context *ctx, const peft_model *model, peft__arena *arena, const char *name,
                              peft_dtype dtype, peft__tensor_out *out) {
    saved_tensor *saved = peft__arena_alloc(arena, sizeof *saved);
    if (saved == NULL) return peft__fail_nomem(ctx, sizeof *saved, "the tensors of a model");
    *saved = (saved_tensor){ctx, model, name};
    memset(out, 0, sizeof *out);
    /* Files keep the names that modules had before transformers moved them about. */
    const char *older = peft__older_name(model, arena, name);
    out->name = older != NULL ? older : name;
    out->dtype = dtype;
    out->emit = emit;
    out->user = saved;
    int64_t shape[4];
    if (!peft__model_tensor_shape(model, name, &out->ndim, shape))
        return peft__fail(ctx, PEFT_E_INTERNAL, "the model has no tensor %s", name);
    for (uint32_t i = 0; i < out->ndim; i++) out->shape[i] = shape[i];
    return PEFT_OK;
}

static peft_status list_tensors(peft_context *ctx, const peft_model *model, peft__arena *arena, peft_dtype dtype,
                                peft__tensor_out **out_tensors, size_t *out_count) {
    const uint32_t modules = peft__model_module_count(model);
    peft__tensor_out *tensors = peft__arena_alloc(arena, (2 * (size_t)modules + 1) * sizeof *tensors);
    if (tensors == NULL) return peft__fail_nomem(ctx, modules * sizeof *tensors, "the tensors of a model");
    size_t count = 0;
    for (uint32_t i = 0; i < modules; i++) {
        const peft__module *module = peft__model_module_at(model, i);
        if (module->is_new) {
            peft__log(ctx, PEFT_LOG_WARNING,
                      "%s has no weights and is not saved; merge the adapter that brings them first", module->name);
            continue;
        }
        const bool table = module->kind == PEFT_MODULE_TABLE;
        const char *weight = peft__module_tensor_name(module, arena, false);
        const char *bias = peft__module_tensor_name(module, arena, true);
        if (weight == NULL || bias == NULL) return peft__fail_nomem(ctx, 256, "the tensors of a model");
        if (module->tied_to == NULL && module->weight != NULL)
            PEFT_TRY(add_tensor(ctx, model, arena, weight, dtype, &tensors[count++]));
        if (!table && module->has_bias && module->bias != NULL)
            PEFT_TRY(add_tensor(ctx, model, arena, bias, dtype, &tensors[count++]));
    }
    *out_tensors = tensors;
    *out_count = count;
    return PEFT_OK;
}

/* ---- config.json ---- */

/* "LlamaForCausalLM" becomes "LlamaForSequenceClassification" where the model now has that head. */
static peft_status set_architecture(peft_context *ctx, const peft_model *model, peft__arena *arena, json_t *config) {
    static const char *const HEADS[] = {[PEFT_TASK_SEQ_CLS] = "ForSequenceClassification",
                                        [PEFT_TASK_TOKEN_CLS] = "ForTokenClassification",
                                        [PEFT_TASK_QUESTION_ANS] = "ForQuestionAnswering",
                                        [PEFT_TASK_MASKED_LM] = "ForMaskedLM",
                                        [PEFT_TASK_FEATURE_EXTRACTION] = "Model",
                                        [PEFT_TASK_IMAGE_CLS] = "ForImageClassification",
                                        [PEFT_TASK_MULTIPLE_CHOICE] = "ForMultipleChoice"};
    const int32_t task = peft__model_task(model);
    const char *head = task > 0 && (size_t)task < PEFT_COUNT(HEADS) ? HEADS[task] : NULL;
    const bool two_stacks = peft__model_arch(model)->default_task == PEFT_TASK_SEQ_2_SEQ_LM;
    if (task == PEFT_TASK_FEATURE_EXTRACTION && two_stacks) head = "EncoderModel";
    json_t *list = json_object_get(config, "architectures");
    const char *old = json_string_value(json_array_get(list, 0));
    if (head == NULL || old == NULL) return PEFT_OK;
    static const char *const ENDS[] = {"For", "LMHead", "DoubleHeads", "EncoderModel", "Model"};
    const char *end = old + strlen(old);
    for (size_t i = 0; i < PEFT_COUNT(ENDS); i++) {
        const char *at = strstr(old, ENDS[i]);
        if (at != NULL && at < end) end = at;
    }
    const char *name = peft__arena_strfmt(arena, "%.*s%s", (int)(end - old), old, head);
    if (name == NULL || json_array_set_new(list, 0, json_string(name)) != 0)
        return peft__fail_nomem(ctx, 64, "config.json");
    return PEFT_OK;
}

/* The number of labels is how many names there are: a head of another size gets names of its own. */
static peft_status set_labels(peft_context *ctx, const peft_model *model, peft__arena *arena, json_t *config) {
    const int32_t task = peft__model_task(model);
    const json_t *names = json_object_get(config, "id2label"), *count = json_object_get(config, "num_labels");
    const int64_t labels = peft__model_dims(model)->num_labels;
    if (task != PEFT_TASK_SEQ_CLS && task != PEFT_TASK_TOKEN_CLS && task != PEFT_TASK_IMAGE_CLS) return PEFT_OK;
    int64_t stored = json_is_integer(count) ? json_integer_value(count) : 2;
    if (json_object_size(names) > 0) stored = (int64_t)json_object_size(names);
    if (stored == labels) return PEFT_OK;
    json_t *to_name = json_object(), *to_id = json_object();
    bool made = to_name != NULL && to_id != NULL;
    for (int64_t i = 0; made && i < labels; i++) {
        const char *id = peft__arena_strfmt(arena, "%lld", (long long)i);
        const char *name = peft__arena_strfmt(arena, "LABEL_%lld", (long long)i);
        made = id != NULL && name != NULL && json_object_set_new(to_name, id, json_string(name)) == 0 &&
               json_object_set_new(to_id, name, json_integer((json_int_t)i)) == 0;
    }
    made = made && json_object_set(config, "id2label", to_name) == 0 && json_object_set(config, "label2id", to_id) == 0;
    json_decref(to_name);
    json_decref(to_id);
    if (!made) return peft__fail_nomem(ctx, 64, "config.json");
    (void)json_object_del(config, "num_labels");
    return PEFT_OK;
}

static peft_status edit_config(peft_context *ctx, const peft_model *model, peft__arena *arena, peft_dtype dtype,
                               json_t *config) {
    const char *name = dtype == PEFT_DTYPE_F16 ? "float16" : dtype == PEFT_DTYPE_BF16 ? "bfloat16" : "float32";
    const char *key = json_object_get(config, "torch_dtype") != NULL ? "torch_dtype" : "dtype";
    if (json_object_set_new(config, key, json_string(name)) != 0) return peft__fail_nomem(ctx, 64, "config.json");
    json_object_del(config, "quantization_config");
    PEFT_TRY(set_labels(ctx, model, arena, config));
    return set_architecture(ctx, model, arena, config);
}

static peft_status write_config(peft_context *ctx, const peft_model *model, peft__arena *arena, const char *folder,
                                peft_dtype dtype) {
    char *path = peft__path_join(ctx->mem, folder, "config.json");
    json_t *config = json_deep_copy(peft__model_config_json(model));
    peft_status status = path != NULL && config != NULL ? edit_config(ctx, model, arena, dtype, config)
                                                        : peft__fail_nomem(ctx, 256, "config.json");
    if (status >= 0) status = peft__json_write_file(ctx, path, config, true);
    json_decref(config);
    peft__free(ctx->mem, path);
    return status;
}

/* ---- tokenizer files ---- */

static peft_status copy_file(peft_context *ctx, const char *from, const char *to) {
    peft__source *source = NULL;
    PEFT_TRY(peft__source_open_path(ctx, from, &source));
    const peft_status status = peft__write_file(ctx, to, source->data, source->size);
    peft__source_unref(source);
    return status;
}

static peft_status copy_extras(peft_context *ctx, const peft_model *model, const char *folder) {
    const char *origin = peft__model_path(model);
    if (origin == NULL || !peft__path_is_dir(origin)) {
        peft__log(ctx, PEFT_LOG_WARNING, "the model was not read from a folder: no tokenizer files are copied to %s",
                  folder);
        return PEFT_OK;
    }
    peft_status status = PEFT_OK;
    for (size_t i = 0; status >= 0 && i < PEFT_COUNT(EXTRA_FILES); i++) {
        char *from = peft__path_join(ctx->mem, origin, EXTRA_FILES[i]),
             *to = peft__path_join(ctx->mem, folder, EXTRA_FILES[i]);
        if (from == NULL || to == NULL)
            status = peft__fail_nomem(ctx, 256, "a path");
        else if (peft__path_exists(from))
            status = copy_file(ctx, from, to);
        peft__free(ctx->mem, from);
        peft__free(ctx->mem, to);
    }
    return status;
}

static peft_status save(peft_context *ctx, const peft_model *model, peft__arena *arena, const char *folder,
                        peft_dtype dtype) {
    peft__tensor_out *tensors = NULL;
    size_t count = 0;
    PEFT_TRY(list_tensors(ctx, model, arena, dtype, &tensors, &count));
    PEFT_TRY(peft__make_dirs(ctx, folder));
    PEFT_TRY(copy_extras(ctx, model, folder));
    char *path = peft__path_join(ctx->mem, folder, "model.safetensors");
    if (path == NULL) return peft__fail_nomem(ctx, strlen(folder), "a path");
    const peft_status status = peft__safetensors_write(ctx, path, tensors, count, NULL, 0);
    peft__free(ctx->mem, path);
    return status >= 0 ? write_config(ctx, model, arena, folder, dtype) : status;
}

peft_status peft_model_save(peft_context *ctx, const peft_model *model, const char *folder, peft_dtype dtype) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (model == NULL || folder == NULL) return peft__fail(ctx, PEFT_E_ARG, "peft_model_save: an argument is NULL");
    if (dtype != PEFT_DTYPE_F32 && dtype != PEFT_DTYPE_F16 && dtype != PEFT_DTYPE_BF16)
        return peft__fail(ctx, PEFT_E_ARG, "peft_model_save: type %s, expected F32, F16 or BF16",
                          peft_dtype_name(dtype));
    const char *origin = peft__model_path(model);
    if (origin != NULL && strcmp(origin, folder) == 0)
        return peft__fail(ctx, PEFT_E_ARG, "%s is the folder that the model is being read from", folder);
    peft__arena arena;
    peft__arena_init(&arena, ctx->mem);
    const peft_status status = save(ctx, model, &arena, folder, dtype);
    peft__arena_free(&arena);
    return status;
}
