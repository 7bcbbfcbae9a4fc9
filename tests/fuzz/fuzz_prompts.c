/* Prompt files: any text. What opens can say what it has. */
#include "fuzz_format.h"
#include "peft/prompts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    peft_context *ctx = fuzz_begin();
    peft_prompts *prompts = NULL;
    const char *const overrides[] = {"data.max_examples=3", "shots=0"};
    if (peft_prompts_open_memory(ctx, data, size, "fuzz", overrides, (uint32_t)(size % 3), &prompts) >= 0) {
        for (uint32_t i = 0; i < peft_prompts_count(prompts); i++) {
            peft_prompt_info info = {.struct_size = (uint32_t)sizeof info};
            if (peft_prompts_get_info(prompts, i, &info) < 0 || info.name == NULL || info.seed_count == 0) abort();
        }
        const char *path = NULL;
        if (peft_prompts_get_text(prompts, "data.test", &path) < 0 || path == NULL) abort();
        if (peft_prompts_class_count(prompts) < 2 || peft_prompts_class_name(prompts, 1) == NULL) abort();
    }
    peft_prompts_destroy(prompts);
    fuzz_end(ctx);
    return 0;
}
