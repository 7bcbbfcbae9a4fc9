/* IDX and CIFAR: values of every type, and sizes that lie. */
#include "format/idx.h"
#include "format_test.h"

static void test_idx(peft_context *ctx) {
    static const struct {
        uint8_t type;
        size_t bytes;
        uint8_t value[8];
        double want;
    } TYPES[] = {
        {0x08, 1, {200}, 200},
        {0x09, 1, {200}, -56},
        {0x0b, 2, {0xff, 0xfe}, -2},
        {0x0c, 4, {0xff, 0xff, 0xff, 0xfd}, -3},
        {0x0d, 4, {0x3f, 0xc0, 0, 0}, 1.5},
        {0x0e, 8, {0x40, 0x04, 0, 0, 0, 0, 0, 0}, 2.5},
    };
    for (size_t i = 0; i < PEFT_COUNT(TYPES); i++) {
        uint8_t file[64] = {0, 0, TYPES[i].type, 2, 0, 0, 0, 1, 0, 0, 0, 2};
        const size_t size = 12 + 2 * TYPES[i].bytes;
        memcpy(file + 12 + TYPES[i].bytes, TYPES[i].value, TYPES[i].bytes);
        peft__idx idx;
        CHECK_OK(ctx, peft__idx_parse(ctx, "t", file, size, &idx));
        CHECK(idx.ndim == 2 && idx.shape[0] == 1 && idx.shape[1] == 2 && idx.count == 2);
        CHECK(peft__idx_value(&idx, 0) == 0.0 && peft__idx_value(&idx, 1) == TYPES[i].want);
        for (size_t cut = 0; cut <= size + 1; cut++) {
            uint8_t *copy = test_exact(file, cut);
            CHECK((peft__idx_parse(ctx, "t", copy, cut, &idx) == PEFT_OK) == (cut == size));
            free(copy);
        }
    }
    const uint8_t huge[] = {0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
    peft__idx idx;
    CHECK_ERROR(ctx, peft__idx_parse(ctx, "t", huge, sizeof huge, &idx), PEFT_E_FORMAT, "overflows");
    const uint8_t none[] = {0, 0, 8, 0}, many[4 + 4 * 9] = {0, 0, 8, 9}, type[] = {0, 0, 10, 1, 0, 0, 0, 0};
    CHECK_STATUS(ctx, peft__idx_parse(ctx, "t", none, sizeof none, &idx), PEFT_E_FORMAT);
    CHECK_STATUS(ctx, peft__idx_parse(ctx, "t", many, sizeof many, &idx), PEFT_E_FORMAT);
    CHECK_STATUS(ctx, peft__idx_parse(ctx, "t", type, sizeof type, &idx), PEFT_E_FORMAT);
}

static void test_cifar(peft_context *ctx) {
    peft__cifar cifar;
    uint8_t *file = calloc(2, 3074);
    file[0] = 3;
    file[3073] = 9;
    file[3074] = 77;
    CHECK_OK(ctx, peft__cifar_parse(ctx, "t", file, 2 * 3073, 1, &cifar));
    CHECK(cifar.count == 2 && peft__cifar_label(&cifar, 0, 0) == 3 && peft__cifar_label(&cifar, 1, 0) == 9);
    CHECK(peft__cifar_pixels(&cifar, 1)[0] == 77);
    file[3073] = 10;
    CHECK_ERROR(ctx, peft__cifar_parse(ctx, "t", file, 2 * 3073, 1, &cifar), PEFT_E_FORMAT, "image 1 has label 10");
    memset(file, 0, 2 * 3074);
    file[3074] = 19;
    file[3075] = 99;
    CHECK_OK(ctx, peft__cifar_parse(ctx, "t", file, 2 * 3074, 2, &cifar));
    CHECK(peft__cifar_label(&cifar, 1, 0) == 19 && peft__cifar_label(&cifar, 1, 1) == 99);
    CHECK_STATUS(ctx, peft__cifar_parse(ctx, "t", file, 3073, 2, &cifar), PEFT_E_FORMAT);
    CHECK_STATUS(ctx, peft__cifar_parse(ctx, "t", file, 0, 1, &cifar), PEFT_E_FORMAT);
    CHECK_STATUS(ctx, peft__cifar_parse(ctx, "t", file, 3073, 3, &cifar), PEFT_E_ARG);
    free(file);
}

int main(void) {
    peft_context *ctx = test_context();
    test_idx(ctx);
    test_cifar(ctx);
    test_context_end(ctx);
    return check_summary();
}
