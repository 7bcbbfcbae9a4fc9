/* YAML: what is read is a tree that can be written as JSON. */
#include "format/yaml.h"
#include "fuzz_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    peft_context *ctx = fuzz_begin();
    json_t *json = NULL;
    peft__yaml_lines *lines = NULL;
    if (peft__yaml_load_memory(ctx, "input", data, size, 0, &json, &lines) == PEFT_OK) {
        peft__buffer text;
        peft__buffer_init(&text, ctx->mem);
        if (peft__json_dump(ctx, json, 2, true, &text) != PEFT_OK) abort();
        peft__buffer_free(&text);
        (void)peft__yaml_line(lines, "a.b");
    }
    json_decref(json);
    peft__yaml_lines_free(lines);
    fuzz_end(ctx);
    return 0;
}
