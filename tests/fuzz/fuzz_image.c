/* Pictures: PNG, JPEG, PPM and PGM, and resizing what comes out. */
#include "data/image_data.h"
#include "fuzz_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    peft_context *ctx = fuzz_begin();
    peft__image image, small;
    if (peft__image_decode(ctx, "input", data, size, &image) == PEFT_OK) {
        const double part[4] = {0.0, 0.0, (double)(image.width + 1) / 2.0, (double)(image.height + 1) / 2.0};
        if (image.width * image.height < 1 << 20 &&
            peft__image_resize(ctx, &image, size % 2 == 0 ? PEFT__RESAMPLE_BICUBIC : PEFT__RESAMPLE_NEAREST, part, 7, 5, &small) == PEFT_OK)
            peft__image_free(ctx, &small);
        peft__image_free(ctx, &image);
    }
    fuzz_end(ctx);
    return 0;
}
