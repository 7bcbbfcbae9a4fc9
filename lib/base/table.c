/* table.c: a map from byte strings to numbers: vocabularies, tensor names, merges.
 *
 * Open addressing with linear probing at most 70 % full. Slots keep 32 bits of the hash, so that growing does not read
 * the keys again and a probe seldom compares one. Entries are never removed. Each table hashes with a seed of its own,
 * which no file can know.
 */
#include "base/base.h"

typedef struct peft__table_slot {
    const char *key; /* NULL = empty */
    uint64_t value;
    uint32_t hash;
    uint32_t length;
} peft__table_slot;

/* The slot that holds the key or the empty one where it belongs. The table has an empty slot. */
static peft__table_slot *find_slot(peft__table_slot *slots, size_t capacity, const char *key, size_t length,
                                   uint32_t hash) {
    for (size_t i = hash & (capacity - 1);; i = (i + 1) & (capacity - 1)) {
        peft__table_slot *slot = &slots[i];
        if (slot->key == NULL) return slot;
        if (slot->hash == hash && slot->length == length && memcmp(slot->key, key, length) == 0) return slot;
    }
}

static bool grow(peft__table *table) {
    const size_t capacity = table->capacity == 0 ? 16 : table->capacity * 2;
    size_t size;
    if (capacity > UINT32_MAX || !peft__mul_size(capacity, sizeof(peft__table_slot), &size)) return false;
    peft__table_slot *slots = peft__alloc_zero(table->mem, size);
    if (slots == NULL) return false;
    for (size_t i = 0; i < table->capacity; i++) {
        const peft__table_slot *old = &table->slots[i];
        if (old->key == NULL) continue;
        size_t at = old->hash & (capacity - 1);
        while (slots[at].key != NULL) at = (at + 1) & (capacity - 1);
        slots[at] = *old;
    }
    peft__free(table->mem, table->slots);
    table->slots = slots;
    table->capacity = capacity;
    return true;
}

void peft__table_init(peft__table *table, peft__mem *mem) {
    const uint64_t unknown[3] = {(uint64_t)(uintptr_t)table, (uint64_t)(uintptr_t)mem, peft__clock_us()};
    *table = (peft__table){.mem = mem, .seed = peft__hash64(unknown, sizeof unknown, 0)};
}

void peft__table_free(peft__table *table) {
    peft__free(table->mem, table->slots);
    *table = (peft__table){.mem = table->mem, .seed = table->seed};
}

bool peft__table_put(peft__table *table, const char *key, size_t length, uint64_t value) {
    if (length > UINT32_MAX) return false;
    if (key == NULL) key = "";
    if (table->count >= table->capacity / 10 * 7 && !grow(table)) return false;
    const uint32_t hash = (uint32_t)peft__hash64(key, length, table->seed);
    peft__table_slot *slot = find_slot(table->slots, table->capacity, key, length, hash);
    if (slot->key == NULL) table->count++;
    *slot = (peft__table_slot){.key = key, .value = value, .hash = hash, .length = (uint32_t)length};
    return true;
}

bool peft__table_get(const peft__table *table, const char *key, size_t length, uint64_t *out_value) {
    if (table->count == 0 || length > UINT32_MAX) return false;
    if (key == NULL) key = "";
    const uint32_t hash = (uint32_t)peft__hash64(key, length, table->seed);
    const peft__table_slot *slot = find_slot(table->slots, table->capacity, key, length, hash);
    if (slot->key == NULL) return false;
    if (out_value != NULL) *out_value = slot->value;
    return true;
}
