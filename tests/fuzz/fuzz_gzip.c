/* gzip: never more than the limit. */
#include "format/gzip.h"
#include "fuzz_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const size_t limit = 1 << 20;
    peft_context *ctx = fuzz_begin();
    peft__buffer out;
    peft__buffer_init(&out, ctx->mem);
    (void)peft__gzip_inflate(ctx, "input", data, size, limit, &out);
    if (out.length > limit) abort();
    peft__buffer_free(&out);
    fuzz_end(ctx);
    return 0;
}
