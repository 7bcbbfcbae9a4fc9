/* Adapter configurations: whatever is accepted on a small model can be written, and what was written makes the same
 * adapter. */
#include "fuzz_format.h"
#include "peft/peft.h"

static void check_again(peft_context *ctx, peft_model *model, const peft_adapter *adapter) {
    peft_adapter *again = NULL;
    if (peft_adapter_create(ctx, model, peft_adapter_config(adapter), 1, &again) == PEFT_OK) {
        /* Sorting may change which of several patterns comes first. */
        const bool ordered = strstr(peft_adapter_config(adapter), "\"rank_pattern\": {\n") != NULL;
        if (!ordered && peft_adapter_parameter_count(again) != peft_adapter_parameter_count(adapter)) __builtin_trap();
        peft_adapter_destroy(again);
    } else {
        __builtin_trap();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *root = getenv("PEFT_TEST_DATA");
    char path[1024];
    snprintf(path, sizeof path, "%s/models/llama-gqa", root != NULL ? root : "tests/data");
    peft_context *ctx = fuzz_begin();
    peft_model *model = NULL;
    if (size < (1u << 16) && peft_model_load(ctx, path, NULL, &model) == PEFT_OK) {
        char *text = malloc(size + 1);
        memcpy(text, data, size);
        text[size] = 0;
        peft_adapter *adapter = NULL;
        if (peft_adapter_create(ctx, model, text, 1, &adapter) == PEFT_OK) {
            if (peft_adapter_parameter_count(adapter) < 0 || peft_adapter_config(adapter) == NULL) __builtin_trap();
            check_again(ctx, model, adapter);
        }
        peft_adapter_destroy(adapter);
        free(text);
    }
    peft_model_destroy(model);
    fuzz_end(ctx);
    return 0;
}
