/* A whole model from a GGUF file: metadata to configuration, names, shapes, ties, tokenizer; then every weight is read.
 */
#include "model/model_internal.h"
#include "fuzz_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    peft_context *ctx = fuzz_begin();
    peft_model_options options;
    peft_model *model = NULL;
    peft_model_options_init(&options);
    options.validate = 1;
    if (peft_model_load_memory(ctx, data, size, &options, &model) >= 0) {
        for (uint32_t i = 0; i < peft__model_module_count(model); i++)
            (void)peft__module_matrix(peft__model_module_at(model, i));
        peft_model_destroy(model);
    }
    fuzz_end(ctx);
    return 0;
}
