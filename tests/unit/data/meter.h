/* meter.h: an allocator that fails from a chosen allocation on and counts the blocks that are held. */
#ifndef PEFT_TESTS_METER_H
#define PEFT_TESTS_METER_H

#include <stdlib.h>

typedef struct meter {
    long left; /* allocations until all fail; negative = never */
    long live; /* blocks held */
} meter;

static inline void *meter_alloc(void *user, size_t size, size_t align) {
    meter *m = user;
    if (m->left == 0) return NULL;
    if (m->left > 0) m->left--;
    m->live++;
    return aligned_alloc(align, (size + align - 1) / align * align);
}

static inline void meter_free(void *user, void *memory, size_t size) {
    meter *m = user;
    (void)size;
    if (memory != NULL) m->live--;
    free(memory);
}

#endif
