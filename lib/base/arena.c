/* arena.c: many small things that are released together, such as the strings of a parsed header.
 *
 * Blocks grow from 4 KiB to 256 KiB, so that a small arena is cheap and a large one makes few allocations. A thing
 * larger than a block gets a block of its own, put behind the current one so that the rest of that is not lost.
 */
#include "base/base.h"

#include <stdio.h>

#define ITEM_ALIGN ((size_t)16)
#define FIRST_BLOCK ((size_t)4 << 10)
#define LARGEST_BLOCK ((size_t)256 << 10)

typedef struct peft__arena_block {
    struct peft__arena_block *next;
    size_t used, capacity; /* of the bytes after this header */
    size_t padding;
} peft__arena_block;

_Static_assert(sizeof(peft__arena_block) % 16 == 0, "items after the header stay aligned");

static peft__arena_block *block_create(peft__mem *mem, size_t capacity) {
    size_t total;
    if (!peft__add_size(capacity, sizeof(peft__arena_block), &total)) return NULL;
    peft__arena_block *block = peft__alloc(mem, total);
    if (block != NULL) *block = (peft__arena_block){.capacity = capacity};
    return block;
}

void peft__arena_init(peft__arena *arena, peft__mem *mem) {
    *arena = (peft__arena){.mem = mem, .blocks = NULL};
}

void *peft__arena_alloc(peft__arena *arena, size_t size) {
    size_t need;
    if (!peft__add_size(peft__max_size(size, 1), ITEM_ALIGN - 1, &need)) {
        arena->failed = true;
        return NULL;
    }
    need &= ~(ITEM_ALIGN - 1);

    peft__arena_block *block = arena->blocks;
    if (block == NULL || block->capacity - block->used < need) {
        const size_t grown = block == NULL ? FIRST_BLOCK : peft__min_size(block->capacity * 2, LARGEST_BLOCK);
        const bool alone = block != NULL && need > grown / 2;
        peft__arena_block *fresh = block_create(arena->mem, alone ? need : peft__max_size(grown, need));
        if (fresh == NULL) {
            arena->failed = true;
            return NULL;
        }
        if (alone) {
            fresh->next = block->next;
            block->next = fresh;
        } else {
            fresh->next = block;
            arena->blocks = fresh;
        }
        block = fresh;
    }
    char *item = (char *)(block + 1) + block->used;
    block->used += need;
    return memset(item, 0, need);
}

char *peft__arena_strndup(peft__arena *arena, const char *text, size_t length) {
    size_t size;
    if (!peft__add_size(length, 1, &size)) return NULL;
    char *copy = peft__arena_alloc(arena, size);
    if (copy != NULL && length != 0) memcpy(copy, text, length);
    return copy;
}

char *peft__arena_strdup(peft__arena *arena, const char *text) {
    return peft__arena_strndup(arena, text, strlen(text));
}

char *peft__arena_strfmt(peft__arena *arena, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    char *text = NULL;
    const int length = vsnprintf(NULL, 0, format, arguments);
    if (length >= 0) text = peft__arena_alloc(arena, (size_t)length + 1);
    if (text != NULL) (void)vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    va_end(arguments);
    return text;
}

void peft__arena_free(peft__arena *arena) {
    peft__arena_block *block = arena->blocks;
    while (block != NULL) {
        peft__arena_block *next = block->next;
        peft__free(arena->mem, block);
        block = next;
    }
    arena->blocks = NULL;
    arena->failed = false;
}
