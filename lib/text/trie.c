/* trie.c: open addressing over 64-bit keys, and a trie whose edges are such keys.
 *
 * A trie of hashed edges costs 16 to 32 bytes a node whatever the alphabet, is built in one pass over the strings in
 * any order, and needs no care with hostile vocabularies beyond a limit on their length.
 */
#include "text/trie.h"

bool peft__pairs_reserve(peft__pairs *pairs, size_t count) {
    size_t capacity = pairs->capacity == 0 ? 16 : pairs->capacity, size;
    while (capacity / 10 * 7 < count) {
        if (capacity > SIZE_MAX / 4) return false;
        capacity *= 2;
    }
    if (capacity == pairs->capacity) return true;
    if (!peft__mul_size(capacity, sizeof *pairs->slots, &size)) return false;
    struct peft__pair *slots = peft__alloc(pairs->mem, size);
    if (slots == NULL) return false;
    memset(slots, 0xFF, size);
    for (size_t i = 0; i < pairs->capacity; i++) {
        if (pairs->slots[i].key == UINT64_MAX) continue;
        size_t at = (size_t)peft__pairs_hash(pairs->slots[i].key) & (capacity - 1);
        while (slots[at].key != UINT64_MAX) at = (at + 1) & (capacity - 1);
        slots[at] = pairs->slots[i];
    }
    peft__free(pairs->mem, pairs->slots);
    pairs->slots = slots;
    pairs->capacity = capacity;
    return true;
}

bool peft__pairs_put(peft__pairs *pairs, uint64_t key, uint64_t value) {
    if (!peft__pairs_reserve(pairs, pairs->count + 1)) return false;
    size_t at = (size_t)peft__pairs_hash(key) & (pairs->capacity - 1);
    while (pairs->slots[at].key != UINT64_MAX && pairs->slots[at].key != key) at = (at + 1) & (pairs->capacity - 1);
    pairs->count += pairs->slots[at].key == UINT64_MAX;
    pairs->slots[at] = (struct peft__pair){key, value};
    return true;
}

void peft__trie_init(peft__trie *trie, peft__mem *mem) {
    *trie = (peft__trie){.edges = {.mem = mem}};
}

void peft__trie_free(peft__trie *trie) {
    peft__mem *mem = trie->edges.mem;
    peft__free(mem, trie->edges.slots);
    peft__free(mem, trie->values);
    peft__trie_init(trie, mem);
}

static bool new_node(peft__trie *trie, uint32_t *out) {
    if (trie->nodes == trie->capacity) {
        const size_t capacity = trie->capacity == 0 ? 256 : trie->capacity * 2;
        if (capacity > INT32_MAX) return false;
        int32_t *values = peft__realloc(trie->edges.mem, trie->values, capacity * sizeof *values);
        if (values == NULL) return false;
        trie->values = values;
        trie->capacity = capacity;
    }
    trie->values[trie->nodes] = -1;
    *out = (uint32_t)trie->nodes++;
    return true;
}

bool peft__trie_put(peft__trie *trie, const char *text, size_t length, int32_t value) {
    uint32_t node = 0;
    if (trie->nodes == 0 && !new_node(trie, &node)) return false;
    for (size_t i = 0; i < length; i++) {
        const uint64_t key = (uint64_t)node << 8 | (unsigned char)text[i];
        uint64_t next;
        if (!peft__pairs_get(&trie->edges, key, &next)) {
            uint32_t made;
            if (!new_node(trie, &made) || !peft__pairs_put(&trie->edges, key, made)) return false;
            next = made;
        }
        node = (uint32_t)next;
    }
    trie->values[node] = value;
    return true;
}

size_t peft__trie_longest(const peft__trie *trie, const char *text, size_t length, int32_t *out_value) {
    size_t best = 0;
    uint32_t node = 0;
    for (size_t i = 0; i < length && peft__trie_step(trie, &node, (unsigned char)text[i]); i++)
        if (trie->values[node] >= 0) {
            best = i + 1;
            *out_value = trie->values[node];
        }
    return best;
}
