/* tensor_file.c: the public face of tensor files: one object over safetensors files, folders of them, and GGUF files.
 */
#include "format/gguf.h"
#include "format/safetensors.h"
#include "peft/tensor_file.h"

struct peft_tensor_file {
    peft_context *ctx;
    peft__tensors *tensors; /* held */
    peft__gguf *gguf;       /* NULL: not a GGUF file */
};

static peft_status open_file(peft_tensor_file *file, const char *path) {
    peft_context *ctx = file->ctx;
    if (peft__path_is_dir(path)) return peft__tensors_open_folder(ctx, path, &file->tensors);
    peft__source *source = NULL;
    PEFT_TRY(peft__source_open_path(ctx, path, &source));
    peft_status status;
    if (peft__gguf_detect(source->data, source->size)) {
        status = peft__gguf_open_source(ctx, source, &file->gguf);
        if (status >= 0) file->tensors = peft__tensors_ref(peft__gguf_tensors(file->gguf));
    } else {
        status = peft__safetensors_open_source(ctx, source, 0, &file->tensors);
    }
    peft__source_unref(source);
    return status;
}

peft_status peft_tensor_file_open(peft_context *context, const char *path, peft_tensor_file **out_file) {
    if (context == NULL) return PEFT_E_ARG;
    if (path == NULL || out_file == NULL)
        return peft__fail(context, PEFT_E_ARG, "peft_tensor_file_open() takes a path and out_file");
    peft_tensor_file *file = peft__alloc_zero(context->mem, sizeof *file);
    if (file == NULL) return peft__fail_nomem(context, sizeof *file, "a tensor file");
    file->ctx = peft__context_ref(context);
    const peft_status status = open_file(file, path);
    if (status < 0) {
        peft_tensor_file_close(file);
        return status;
    }
    *out_file = file;
    return PEFT_OK;
}

void peft_tensor_file_close(peft_tensor_file *file) {
    if (file == NULL) return;
    peft_context *ctx = file->ctx;
    peft__tensors_unref(file->tensors);
    peft__gguf_free(file->gguf);
    peft__free(ctx->mem, file);
    peft__context_unref(ctx);
}

uint32_t peft_tensor_file_count(const peft_tensor_file *file) {
    return file != NULL ? (uint32_t)peft__tensors_count(file->tensors) : 0;
}

static const peft__tensor *tensor_at(const peft_tensor_file *file, uint32_t index) {
    const peft__tensor *tensor = peft__tensors_at(file->tensors, index);
    if (tensor == NULL)
        (void)peft__fail(file->ctx, PEFT_E_ARG, "the file has %u tensors, found index %u", peft_tensor_file_count(file),
                         index);
    return tensor;
}

peft_status peft_tensor_file_tensor(const peft_tensor_file *file, uint32_t index, peft_tensor_info *out_info) {
    if (file == NULL) return PEFT_E_ARG;
    if (out_info == NULL || out_info->struct_size < sizeof *out_info)
        return peft__fail(file->ctx, PEFT_E_ABI, "peft_tensor_info.struct_size is %zu or more", sizeof *out_info);
    const peft__tensor *tensor = tensor_at(file, index);
    if (tensor == NULL) return PEFT_E_ARG;
    peft_tensor_info info = {.struct_size = out_info->struct_size,
                             .dtype = tensor->dtype,
                             .ndim = tensor->ndim,
                             .bytes = tensor->bytes,
                             .name = tensor->name,
                             .data = tensor->data};
    memcpy(info.shape, tensor->shape, sizeof info.shape);
    *out_info = info;
    return PEFT_OK;
}

uint32_t peft_tensor_file_key_count(const peft_tensor_file *file) {
    return file != NULL && file->gguf != NULL ? (uint32_t)peft__gguf_key_count(file->gguf) : 0;
}

const char *peft_tensor_file_key(const peft_tensor_file *file, uint32_t index) {
    return file != NULL && file->gguf != NULL ? peft__gguf_key_at(file->gguf, index) : NULL;
}

const char *peft_tensor_file_text(const peft_tensor_file *file, const char *key) {
    if (file == NULL || key == NULL) return NULL;
    if (file->gguf == NULL) return peft__tensors_metadata(file->tensors, key);
    const char *text = NULL;
    return peft__gguf_get_string(file->gguf, key, NULL, &text) >= 0 ? text : NULL;
}

peft_status peft_tensor_file_read(const peft_tensor_file *file, uint32_t index, float *out_values, int64_t count) {
    if (file == NULL) return PEFT_E_ARG;
    const peft__tensor *tensor = tensor_at(file, index);
    if (tensor == NULL) return PEFT_E_ARG;
    if (out_values == NULL || count != peft__tensor_elements(tensor))
        return peft__fail(file->ctx, PEFT_E_ARG, "%s has %lld elements, found room for %lld", tensor->name,
                          (long long)peft__tensor_elements(tensor), (long long)count);
    return peft__tensor_read_f32(file->ctx, tensor, out_values);
}
