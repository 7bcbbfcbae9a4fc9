/* JSON: whatever parses can be written, and what was written parses again. */
#include "format/json.h"
#include "fuzz_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    peft_context *ctx = fuzz_begin();
    json_t *json = NULL, *again = NULL;
    if (peft__json_load_memory(ctx, "input", data, size, 0, &json) == PEFT_OK) {
        peft__buffer text;
        peft__buffer_init(&text, ctx->mem);
        if (peft__json_dump(ctx, json, size % 3, size % 2 == 0, &text) != PEFT_OK ||
            peft__json_load_memory(ctx, "output", text.data, text.length, 0, &again) != PEFT_OK ||
            !json_equal(json, again)) {
            fprintf(stderr, "written JSON differs: %s\n", peft_context_error(ctx));
            abort();
        }
        peft__buffer_free(&text);
    }
    json_decref(json);
    json_decref(again);
    fuzz_end(ctx);
    return 0;
}
