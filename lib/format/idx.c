/* idx.c: IDX and CIFAR files. Sizes are exact in both formats, so a file that is longer or shorter is refused. */
#include "format/idx.h"

static uint32_t big32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | (uint32_t)at[3];
}

static size_t element_size(uint8_t type) {
    switch (type) {
    case 0x08:
    case 0x09:
        return 1;
    case 0x0b:
        return 2;
    case 0x0c:
    case 0x0d:
        return 4;
    case 0x0e:
        return 8;
    default:
        return 0;
    }
}

peft_status peft__idx_parse(peft_context *ctx, const char *name, const void *data, size_t size, peft__idx *out_idx) {
    const uint8_t *bytes = data;
    if (size < 4 || bytes[0] != 0 || bytes[1] != 0 || element_size(bytes[2]) == 0)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: not an IDX file", name);
    peft__idx idx = {.type = bytes[2], .ndim = bytes[3], .count = 1};
    if (idx.ndim == 0 || idx.ndim > PEFT_MAX_DIMS)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: %u dimensions, expected 1 to %d", name, (unsigned)idx.ndim,
                          PEFT_MAX_DIMS);
    const size_t header = 4 + 4 * (size_t)idx.ndim;
    if (size < header) return peft__fail(ctx, PEFT_E_FORMAT, "%s: the file ends inside its header", name);
    for (uint32_t i = 0; i < idx.ndim; i++) {
        idx.shape[i] = big32(bytes + 4 + 4 * i);
        if (__builtin_mul_overflow(idx.count, idx.shape[i], &idx.count))
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: the number of elements overflows", name);
    }
    size_t needed = 0;
    if (!peft__mul_size((size_t)idx.count, element_size(idx.type), &needed) || needed != size - header)
        return peft__fail(ctx, PEFT_E_FORMAT,
                          "%s: %lld elements of %zu bytes are expected, there are %zu bytes of data", name,
                          (long long)idx.count, element_size(idx.type), size - header);
    idx.data = bytes + header;
    *out_idx = idx;
    return PEFT_OK;
}

double peft__idx_value(const peft__idx *idx, int64_t index) {
    const uint8_t *at = idx->data + (size_t)index * element_size(idx->type);
    uint32_t bits = 0;
    uint64_t wide = 0;
    float f32 = 0.0f;
    double f64 = 0.0;
    switch (idx->type) {
    case 0x08:
        return at[0];
    case 0x09:
        return (int8_t)at[0];
    case 0x0b:
        return (int16_t)(uint16_t)(at[0] << 8 | at[1]);
    case 0x0c:
        return (int32_t)big32(at);
    case 0x0d:
        bits = big32(at);
        memcpy(&f32, &bits, sizeof f32);
        return f32;
    default:
        wide = (uint64_t)big32(at) << 32 | big32(at + 4);
        memcpy(&f64, &wide, sizeof f64);
        return f64;
    }
}

static size_t record_size(const peft__cifar *cifar) {
    return cifar->label_bytes + (size_t)PEFT__CIFAR_PIXELS;
}

peft_status peft__cifar_parse(peft_context *ctx, const char *name, const void *data, size_t size, uint32_t label_bytes,
                              peft__cifar *out_cifar) {
    static const uint32_t CLASSES[3][2] = {{0, 0}, {10, 0}, {20, 100}};
    if (label_bytes != 1 && label_bytes != 2)
        return peft__fail(ctx, PEFT_E_ARG, "a CIFAR record has 1 or 2 labels, not %u", (unsigned)label_bytes);
    peft__cifar cifar = {.label_bytes = label_bytes, .data = data};
    if (size == 0 || size % record_size(&cifar) != 0)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: %zu bytes are not whole records of %zu bytes (CIFAR-%s)", name, size,
                          record_size(&cifar), label_bytes == 1 ? "10" : "100");
    cifar.count = (int64_t)(size / record_size(&cifar));
    for (int64_t i = 0; i < cifar.count; i++)
        for (uint32_t which = 0; which < label_bytes; which++)
            if (peft__cifar_label(&cifar, i, which) >= CLASSES[label_bytes][which])
                return peft__fail(ctx, PEFT_E_FORMAT, "%s: image %lld has label %u, expected less than %u", name,
                                  (long long)i, (unsigned)peft__cifar_label(&cifar, i, which),
                                  (unsigned)CLASSES[label_bytes][which]);
    *out_cifar = cifar;
    return PEFT_OK;
}

const uint8_t *peft__cifar_pixels(const peft__cifar *cifar, int64_t index) {
    return cifar->data + (size_t)index * record_size(cifar) + cifar->label_bytes;
}

uint32_t peft__cifar_label(const peft__cifar *cifar, int64_t index, uint32_t which) {
    return cifar->data[(size_t)index * record_size(cifar) + which];
}
