/* idx.h: the two binary formats of small image data sets, IDX (MNIST) and CIFAR.
 *
 * Both are views of bytes that the caller holds (peft__content of gzip.h inflates a .gz).
 */
#ifndef PEFT_FORMAT_IDX_H
#define PEFT_FORMAT_IDX_H

#include "base/base.h"
#include "peft/tensor.h"

typedef struct peft__idx {
    uint8_t type; /* 0x08 u8, 0x09 i8, 0x0B i16, 0x0C i32, 0x0D f32, 0x0E f64, big-endian */
    uint32_t ndim;
    int64_t shape[PEFT_MAX_DIMS];
    int64_t count; /* all elements */
    const uint8_t *data;
} peft__idx;

peft_status peft__idx_parse(peft_context *ctx, const char *name, const void *data, size_t size, peft__idx *out_idx);
double peft__idx_value(const peft__idx *idx, int64_t index); /* index < count */

typedef struct peft__cifar {
    int64_t count;
    uint32_t label_bytes; /* 1: CIFAR-10. 2: CIFAR-100, coarse label then fine label */
    const uint8_t *data;
} peft__cifar;

enum { PEFT__CIFAR_SIDE = 32, PEFT__CIFAR_PIXELS = 3 * 32 * 32 };

/* `label_bytes` 1 or 2. Labels are checked: below 10; below 20 and 100. */
peft_status peft__cifar_parse(peft_context *ctx, const char *name, const void *data, size_t size, uint32_t label_bytes,
                              peft__cifar *out_cifar);
/* Planes R, G, B of 32 x 32 bytes, row-major. `which` 0 = the first label, 1 = the fine label. */
const uint8_t *peft__cifar_pixels(const peft__cifar *cifar, int64_t index);
uint32_t peft__cifar_label(const peft__cifar *cifar, int64_t index, uint32_t which);

#endif
