/* config.json: any text to a status, or to the list of modules that it implies. */
#include "model/model_internal.h"
#include "fuzz_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    peft_context *ctx = fuzz_begin();
    peft_model_options options;
    peft_model *model = NULL;
    peft_model_options_init(&options);
    if (peft__model_new(ctx, &model) >= 0) {
        if (peft__json_load_memory(ctx, "config.json", data, size, (size_t)1 << 20, &model->config) >= 0 &&
            peft__config_begin(ctx, model, &options) >= 0 && model->arch->configure(ctx, model) >= 0)
            (void)peft__model_print_config(ctx, model);
        peft_model_destroy(model);
    }
    fuzz_end(ctx);
    return 0;
}
