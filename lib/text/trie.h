/* trie.h: two maps that every tokenizer model is made of: pairs of numbers to a number, and byte strings to a number
 * found by walking a text forward.
 */
#ifndef PEFT_TEXT_TRIE_H
#define PEFT_TEXT_TRIE_H

#include "base/base.h"

/* Keys are any number but UINT64_MAX. */
typedef struct peft__pairs {
    peft__mem *mem;
    struct peft__pair {
        uint64_t key, value;
    } * slots;
    size_t count, capacity;
} peft__pairs;

bool peft__pairs_reserve(peft__pairs *pairs, size_t count);
bool peft__pairs_put(peft__pairs *pairs, uint64_t key, uint64_t value); /* replaces; false: no memory */

static inline uint64_t peft__pairs_hash(uint64_t key) {
    key = (key ^ (key >> 31)) * 0x9E3779B97F4A7C15u;
    return key ^ (key >> 29);
}

static inline bool peft__pairs_get(const peft__pairs *pairs, uint64_t key, uint64_t *out_value) {
    if (pairs->count == 0) return false;
    for (size_t i = (size_t)peft__pairs_hash(key) & (pairs->capacity - 1);; i = (i + 1) & (pairs->capacity - 1)) {
        if (pairs->slots[i].key == key) {
            *out_value = pairs->slots[i].value;
            return true;
        }
        if (pairs->slots[i].key == UINT64_MAX) return false;
    }
}

/* Nodes are numbered; an edge is the pair (node, byte). Node 0 is the root. */
typedef struct peft__trie {
    peft__pairs edges;
    int32_t *values; /* by node, -1: no string ends here */
    size_t nodes, capacity;
} peft__trie;

enum { PEFT__TRIE_STRING_LIMIT = 4096 }; /* longer strings make every step of a search slow: callers refuse them */

void peft__trie_init(peft__trie *trie, peft__mem *mem);
void peft__trie_free(peft__trie *trie);
bool peft__trie_put(peft__trie *trie, const char *text, size_t length,
                    int32_t value); /* value >= 0; false: no memory */

/* One step from *node along `byte`; false: nothing there. */
static inline bool peft__trie_step(const peft__trie *trie, uint32_t *node, unsigned char byte) {
    uint64_t next;
    if (!peft__pairs_get(&trie->edges, (uint64_t)*node << 8 | byte, &next)) return false;
    *node = (uint32_t)next;
    return true;
}
/* The longest string that text starts with: its length, 0 when there is none. */
size_t peft__trie_longest(const peft__trie *trie, const char *text, size_t length, int32_t *out_value);

#endif
