/* IDX and CIFAR: every value of a file that is accepted. */
#include "format/idx.h"
#include "fuzz_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    peft_context *ctx = fuzz_begin();
    peft__idx idx;
    peft__cifar cifar;
    double sum = 0.0;
    if (peft__idx_parse(ctx, "input", data, size, &idx) == PEFT_OK)
        for (int64_t i = 0; i < idx.count; i++) sum += peft__idx_value(&idx, i);
    for (uint32_t labels = 1; labels <= 2; labels++)
        if (peft__cifar_parse(ctx, "input", data, size, labels, &cifar) == PEFT_OK)
            for (int64_t i = 0; i < cifar.count; i++) sum += peft__cifar_pixels(&cifar, i)[PEFT__CIFAR_PIXELS - 1];
    fuzz_end(ctx);
    (void)sum;
    return 0;
}
