/* GGUF: every key through every getter, every tensor over its whole length. */
#include "format/gguf.h"
#include "fuzz_format.h"

static void read_keys(peft__gguf *gguf) {
    for (size_t i = 0; i < peft__gguf_key_count(gguf); i++) {
        const char *key = peft__gguf_key_at(gguf, i), *text = NULL;
        int64_t integer = 0;
        double number = 0.0;
        bool flag = false;
        const peft__text *texts = NULL;
        const float *floats = NULL;
        const int32_t *integers = NULL;
        size_t count = 0;
        (void)peft__gguf_get_uniform_int(gguf, key, INT64_MIN, INT64_MAX, 0, &integer);
        (void)peft__gguf_need_float(gguf, key, &number);
        (void)peft__gguf_get_bool(gguf, key, false, &flag);
        (void)peft__gguf_need_string(gguf, key, &text);
        (void)peft__gguf_get_f32s(gguf, key, &floats, &count);
        (void)peft__gguf_get_i32s(gguf, key, &integers, &count);
        if (peft__gguf_get_strings(gguf, key, &texts, &count) != PEFT_OK) continue;
        for (size_t t = 0; t < count; t++) (void)peft__utf8_valid(texts[t].data, texts[t].length);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    peft_context *ctx = fuzz_begin();
    peft__gguf *gguf = NULL;
    if (peft__gguf_open_memory(ctx, "input", data, size, &gguf) == PEFT_OK) {
        read_keys(gguf);
        const peft__tensors *tensors = peft__gguf_tensors(gguf);
        for (size_t i = 0; i < peft__tensors_count(tensors); i++) {
            const peft__tensor *tensor = peft__tensors_at(tensors, i);
            const int64_t count = peft__tensor_elements(tensor);
            float *values = peft__alloc(ctx->mem, (size_t)(count < 1 << 20 ? count : 0) * sizeof *values);
            if (values != NULL && count < 1 << 20) (void)peft__tensor_read_f32(ctx, tensor, values);
            peft__free(ctx->mem, values);
        }
    }
    peft__gguf_free(gguf);
    fuzz_end(ctx);
    return 0;
}
