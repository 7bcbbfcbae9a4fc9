/* emit.c: see emit.h. Shared by the writers, which all write a table of sizes before the bytes that must fill them. */
#include "format/emit.h"

peft_status peft__emit_tensor(peft_context *ctx, const peft__tensor_out *tensor, peft__writer *writer) {
    size_t bytes = 0;
    if (!peft__dtype_tensor_bytes(tensor->dtype, tensor->ndim, tensor->shape, &bytes))
        return peft__fail(ctx, PEFT_E_ARG, "tensor %s: the shape is not valid", tensor->name);
    if (tensor->data != NULL) return peft__writer_put(writer, tensor->data, bytes);
    if (tensor->emit == NULL) {
        if (bytes == 0) return PEFT_OK;
        return peft__fail(ctx, PEFT_E_ARG, "tensor %s has neither data nor a function that writes them", tensor->name);
    }
    const uint64_t start = peft__writer_offset(writer);
    PEFT_TRY(tensor->emit(tensor->user, tensor, writer));
    const uint64_t written = peft__writer_offset(writer) - start;
    if (written != bytes)
        return peft__fail(ctx, PEFT_E_INTERNAL, "tensor %s: %llu bytes were written, its shape has %zu", tensor->name,
                          (unsigned long long)written, bytes);
    return PEFT_OK;
}
