/* safetensors: every tensor of a file that opens is readable over its whole length. */
#include "format/safetensors.h"
#include "fuzz_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    peft_context *ctx = fuzz_begin();
    peft__tensors *tensors = NULL;
    if (peft__safetensors_open_memory(ctx, "input", data, size, &tensors) == PEFT_OK) {
        for (size_t i = 0; i < peft__tensors_count(tensors); i++) {
            const peft__tensor *tensor = peft__tensors_at(tensors, i);
            const int64_t count = peft__tensor_elements(tensor);
            float *values = peft__alloc(ctx->mem, (size_t)(count < 1 << 20 ? count : 0) * sizeof *values);
            if (values != NULL && count < 1 << 20) (void)peft__tensor_read_f32(ctx, tensor, values);
            peft__free(ctx->mem, values);
        }
        (void)peft__tensors_metadata(tensors, "format");
    }
    peft__tensors_unref(tensors);
    fuzz_end(ctx);
    return 0;
}
