/* The allocator record: alignment, counters, limit, host allocators, the freeze of tests. */
#include "base/base.h"
#include "check.h"

#include <errno.h>

typedef struct host_heap {
    int64_t blocks;
    int64_t bytes;
    int64_t fail_after; /* allocations that succeed; negative = all */
    int wrong_size;
    int crooked; /* ignores the alignment */
} host_heap;

/* Keeps the size behind the block's back, to see that free gets it right. */
static void *host_alloc(void *user, size_t size, size_t align) {
    host_heap *heap = user;
    if (heap->fail_after == 0) return NULL;
    if (heap->fail_after > 0) heap->fail_after--;
    char *base = aligned_alloc(align, (size + 2 * align - 1) / align * align + align);
    if (base == NULL) return NULL;
    memcpy(base, &size, sizeof size);
    heap->blocks++;
    heap->bytes += (int64_t)size;
    errno = ERANGE; /* a host may do that; callers must not see it */
    return base + align + (heap->crooked ? 8 : 0);
}

static void host_free(void *user, void *memory, size_t size) {
    host_heap *heap = user;
    char *base = (char *)memory - 64 - (heap->crooked ? 8 : 0);
    size_t asked;
    memcpy(&asked, base, sizeof asked);
    if (asked != size) heap->wrong_size++;
    heap->blocks--;
    heap->bytes -= (int64_t)size;
    free(base);
}

static void test_default(void) {
    peft__mem *mem = peft__mem_create(NULL, 0);
    static const size_t sizes[] = {0, 1, 63, 64, 65, 4095, 100000, (size_t)3 << 20, (size_t)5 << 20};
    uint64_t bytes = 0, peak = 0, count = 0;
    for (size_t i = 0; i < PEFT_COUNT(sizes); i++) {
        unsigned char *memory = peft__alloc(mem, sizes[i]);
        CHECK(memory != NULL && ((uintptr_t)memory & 63) == 0);
        memset(memory, 0xa5, sizes[i]);
        peft__mem_counters(mem, &bytes, NULL, &count);
        CHECK(bytes >= sizes[i] && bytes <= sizes[i] + 64 && count == i + 1);
        peft__free(mem, memory);
    }
    peft__mem_counters(mem, &bytes, &peak, &count);
    CHECK(bytes == 0 && peak >= (uint64_t)5 << 20);
    CHECK(peft__alloc(mem, SIZE_MAX) == NULL && peft__alloc(mem, SIZE_MAX - 64) == NULL);
    CHECK(!peft__mem_over_limit(mem, NULL));

    unsigned char *zero = peft__alloc_zero(mem, 1000);
    int sum = 0;
    for (int i = 0; i < 1000; i++) sum += zero[i];
    CHECK(sum == 0);
    for (int i = 0; i < 1000; i++) zero[i] = (unsigned char)i;
    unsigned char *grown = peft__realloc(mem, zero, 100000);
    for (int i = 0; i < 1000; i++) sum += grown[i] != (unsigned char)i;
    unsigned char *shrunk = peft__realloc(mem, grown, 10);
    for (int i = 0; i < 10; i++) sum += shrunk[i] != (unsigned char)i;
    CHECK(sum == 0);
    peft__free(mem, shrunk);
    void *fresh = peft__realloc(mem, NULL, 5);
    CHECK(fresh != NULL);
    peft__free(mem, fresh);
    peft__free(mem, NULL);

    char *text = peft__strfmt(mem, "%s-%d", "layer", 12);
    char *copy = peft__strdup(mem, text);
    char *part = peft__strndup(mem, text, 5);
    CHECK_STR(text, "layer-12");
    CHECK_STR(copy, "layer-12");
    CHECK_STR(part, "layer");
    peft__free(mem, text);
    peft__free(mem, copy);
    peft__free(mem, part);
    peft__mem_counters(mem, &bytes, NULL, NULL);
    CHECK(bytes == 0);
    peft__mem_unref(mem);
}

static void test_limit(void) {
    peft__mem *mem = peft__mem_create(NULL, 10000);
    uint64_t limit = 0, bytes = 0, peak = 0;
    void *first = peft__alloc(mem, 6000);
    CHECK(first != NULL);
    CHECK(peft__alloc(mem, 6000) == NULL && peft__mem_over_limit(mem, &limit) && limit == 10000);
    CHECK(peft__realloc(mem, first, 8000) == NULL); /* old and new at once do not fit */
    memset(first, 1, 6000);
    void *second = peft__alloc(mem, 3000);
    CHECK(second != NULL && !peft__mem_over_limit(mem, NULL));
    peft__mem_counters(mem, &bytes, &peak, NULL);
    CHECK(bytes <= 10000 && peak <= 10000);
    peft__free(mem, first);
    peft__free(mem, second);
    peft__mem_unref(mem);
}

static void test_host(void) {
    host_heap heap = {.fail_after = -1};
    const peft_allocator allocator = {.alloc = host_alloc, .free = host_free, .user = &heap};
    peft__mem *mem = peft__mem_create(&allocator, 0);
    errno = 0;
    void *memory = peft__alloc(mem, 1234);
    CHECK(memory != NULL && errno == 0);
    memory = peft__realloc(mem, memory, 12345);
    peft__mem *other = peft__mem_ref(mem);
    peft__mem_unref(mem);
    peft__free(other, memory); /* the record lives on */

    heap.fail_after = 0;
    CHECK(peft__alloc(other, 10) == NULL && !peft__mem_over_limit(other, NULL));
    CHECK(peft__alloc_zero(other, 10) == NULL && peft__strdup(other, "x") == NULL);
    CHECK(peft__strfmt(other, "%d", 1) == NULL);
    heap.fail_after = -1;

    heap.crooked = 1;
    CHECK(peft__alloc(other, 10) == NULL);
    heap.crooked = 0;

    uint64_t bytes = 1;
    peft__mem_counters(other, &bytes, NULL, NULL);
    CHECK(bytes == 0);
    peft__mem_unref(other);
    CHECK(heap.blocks == 0 && heap.bytes == 0 && heap.wrong_size == 0);

    heap.fail_after = 0;
    CHECK(peft__mem_create(&allocator, 0) == NULL);
}

static void test_freeze(void) {
    peft__mem *mem = peft__mem_create(NULL, 0);
    void *memory = peft__alloc(mem, 10);
    peft__mem_freeze(mem, true);
    CHECK(peft__alloc(mem, 1) == NULL && peft__realloc(mem, memory, 1000) == NULL);
    peft__free(mem, memory);
    peft__mem_freeze(mem, false);
    memory = peft__alloc(mem, 1);
    CHECK(memory != NULL);
    peft__free(mem, memory);
    peft__mem_unref(mem);
}

int main(void) {
    test_default();
    test_limit();
    test_host();
    test_freeze();
    return check_summary();
}
