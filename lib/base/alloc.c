/* alloc.c: the one place where memory comes from.
 *
 * Every block has 64 bytes in front that hold its size: hosts get their free() calls with the size, counters stay
 * exact, and callers need not carry sizes around. The record (peft__mem) is reference-counted apart from the context,
 * because objects may outlive the context they were made with.
 *
 * Counters are atomic, since worker threads may allocate. `bytes` counts what was taken from the allocator, headers
 * included, and is raised before the allocator is asked: at no time is more held than the limit says.
 */
#include "base/base.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define BLOCK_ALIGN ((size_t)64)
#define HUGE_PAGE ((size_t)2 << 20)
#define HUGE_BLOCK ((size_t)4 << 20)

struct peft__mem {
    peft_allocator allocator;
    uint64_t limit; /* 0 = none */
    atomic_int references;
    atomic_bool frozen;
    atomic_bool over_limit; /* of the last refusal: it was the limit */
    atomic_uint_least64_t bytes, peak, count;
};

/* In front of each block. `total` is what the allocator was asked for, `usable` what the caller may write. */
typedef struct block_header {
    size_t total;
    size_t usable;
} block_header;

_Static_assert(sizeof(block_header) <= BLOCK_ALIGN, "the header fits in front of an aligned block");

static block_header *header_of(void *memory) {
    return (block_header *)(void *)((char *)memory - BLOCK_ALIGN);
}

/* Blocks of many pages start on a huge page and ask for huge pages: matrices are walked with large strides, and the
 * misses of the translation buffer would cost more than the arithmetic. */
static void *default_alloc(void *user, size_t size, size_t align) {
    (void)user;
    void *memory = NULL;
    if (posix_memalign(&memory, size >= HUGE_BLOCK ? HUGE_PAGE : align, size) != 0) return NULL;
#ifdef MADV_HUGEPAGE
    if (size >= HUGE_BLOCK) (void)madvise(memory, size, MADV_HUGEPAGE);
#endif
    return memory;
}

static void default_free(void *user, void *memory, size_t size) {
    (void)user;
    (void)size;
    free(memory);
}

/* Adds `total` to the bytes held unless that would pass the limit. */
static bool reserve_bytes(peft__mem *mem, size_t total) {
    uint64_t held = atomic_load_explicit(&mem->bytes, memory_order_relaxed);
    do {
        if (total > UINT64_MAX - held) return false;
        if (mem->limit != 0 && held + total > mem->limit) {
            atomic_store_explicit(&mem->over_limit, true, memory_order_relaxed);
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&mem->bytes, &held, held + total, memory_order_relaxed,
                                                    memory_order_relaxed));
    uint64_t peak = atomic_load_explicit(&mem->peak, memory_order_relaxed);
    while (peak < held + total && !atomic_compare_exchange_weak_explicit(&mem->peak, &peak, held + total,
                                                                         memory_order_relaxed, memory_order_relaxed)) {
    }
    return true;
}

void *peft__alloc(peft__mem *mem, size_t size) {
    size_t total;
    atomic_store_explicit(&mem->over_limit, false, memory_order_relaxed);
    if (atomic_load_explicit(&mem->frozen, memory_order_relaxed)) return NULL;
    /* Half of the address space: no allocator has it, and pointers into more could not be subtracted. */
    if (!peft__add_size(size, BLOCK_ALIGN, &total) || total > PTRDIFF_MAX || !reserve_bytes(mem, total)) return NULL;

    const int saved_errno = errno;
    char *base = mem->allocator.alloc(mem->allocator.user, total, BLOCK_ALIGN);
    if (base != NULL && ((uintptr_t)base & (BLOCK_ALIGN - 1)) != 0) {
        /* The host's allocator ignores `align`; vector loads on such memory would crash later. */
        mem->allocator.free(mem->allocator.user, base, total);
        base = NULL;
    }
    errno = saved_errno;
    if (base == NULL) {
        atomic_fetch_sub_explicit(&mem->bytes, total, memory_order_relaxed);
        return NULL;
    }
    atomic_fetch_add_explicit(&mem->count, 1, memory_order_relaxed);
    *(block_header *)(void *)base = (block_header){.total = total, .usable = size};
    return base + BLOCK_ALIGN;
}

void *peft__alloc_zero(peft__mem *mem, size_t size) {
    void *memory = peft__alloc(mem, size);
    return memory == NULL ? NULL : memset(memory, 0, size);
}

void *peft__realloc(peft__mem *mem, void *memory, size_t size) {
    if (memory == NULL) return peft__alloc(mem, size);
    const size_t usable = header_of(memory)->usable;
    if (size <= usable && size >= usable / 2) return memory;
    void *moved = peft__alloc(mem, size);
    if (moved == NULL) return NULL;
    memcpy(moved, memory, peft__min_size(size, usable));
    peft__free(mem, memory);
    return moved;
}

void peft__free(peft__mem *mem, void *memory) {
    if (memory == NULL) return;
    block_header *header = header_of(memory);
    const size_t total = header->total;
    const int saved_errno = errno;
    mem->allocator.free(mem->allocator.user, header, total);
    errno = saved_errno;
    atomic_fetch_sub_explicit(&mem->bytes, total, memory_order_relaxed);
}

char *peft__strndup(peft__mem *mem, const char *text, size_t length) {
    size_t size;
    if (!peft__add_size(length, 1, &size)) return NULL;
    char *copy = peft__alloc(mem, size);
    if (copy == NULL) return NULL;
    if (length != 0) memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

char *peft__strdup(peft__mem *mem, const char *text) {
    return peft__strndup(mem, text, strlen(text));
}

char *peft__strfmt(peft__mem *mem, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    char *text = NULL;
    const int length = vsnprintf(NULL, 0, format, arguments);
    if (length >= 0) text = peft__alloc(mem, (size_t)length + 1);
    if (text != NULL) (void)vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    va_end(arguments);
    return text;
}

peft__mem *peft__mem_create(const peft_allocator *allocator, uint64_t limit) {
    const peft_allocator chosen =
        allocator != NULL ? *allocator : (peft_allocator){.alloc = default_alloc, .free = default_free, .user = NULL};
    peft__mem *mem = chosen.alloc(chosen.user, sizeof *mem, BLOCK_ALIGN);
    if (mem == NULL) return NULL;
    memset(mem, 0, sizeof *mem);
    mem->allocator = chosen;
    mem->limit = limit;
    atomic_init(&mem->references, 1);
    atomic_init(&mem->frozen, false);
    atomic_init(&mem->over_limit, false);
    atomic_init(&mem->bytes, 0);
    atomic_init(&mem->peak, 0);
    atomic_init(&mem->count, 0);
    return mem;
}

peft__mem *peft__mem_ref(peft__mem *mem) {
    atomic_fetch_add_explicit(&mem->references, 1, memory_order_relaxed);
    return mem;
}

void peft__mem_unref(peft__mem *mem) {
    if (mem == NULL || atomic_fetch_sub_explicit(&mem->references, 1, memory_order_acq_rel) != 1) return;
    const peft_allocator allocator = mem->allocator;
    allocator.free(allocator.user, mem, sizeof *mem);
}

void peft__mem_counters(const peft__mem *mem, uint64_t *out_bytes, uint64_t *out_peak, uint64_t *out_count) {
    if (out_bytes != NULL) *out_bytes = atomic_load_explicit(&mem->bytes, memory_order_relaxed);
    if (out_peak != NULL) *out_peak = atomic_load_explicit(&mem->peak, memory_order_relaxed);
    if (out_count != NULL) *out_count = atomic_load_explicit(&mem->count, memory_order_relaxed);
}

void peft__mem_reset_peak(peft__mem *mem) {
    atomic_store_explicit(&mem->peak, atomic_load_explicit(&mem->bytes, memory_order_relaxed), memory_order_relaxed);
}

bool peft__mem_over_limit(const peft__mem *mem, uint64_t *out_limit) {
    if (out_limit != NULL) *out_limit = mem->limit;
    return atomic_load_explicit(&mem->over_limit, memory_order_relaxed);
}

void peft__mem_freeze(peft__mem *mem, bool on) {
    atomic_store_explicit(&mem->frozen, on, memory_order_relaxed);
}
