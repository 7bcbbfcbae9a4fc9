/* Arena, buffer and table. */
#include "base/base.h"
#include "check.h"

static void test_arena(peft__mem *mem) {
    peft__arena arena;
    peft__arena_init(&arena, mem);
    char *texts[2000];
    int wrong = 0;
    for (int i = 0; i < 2000; i++) {
        texts[i] = peft__arena_strfmt(&arena, "model.layers.%d.self_attn.q_proj.weight", i);
        if (((uintptr_t)texts[i] & 15) != 0) wrong++;
        if (i % 100 == 0) {
            /* Larger than any block, then exactly cleared. */
            unsigned char *large = peft__arena_alloc(&arena, 300000);
            for (int k = 0; k < 300000; k += 997) wrong += large[k] != 0;
            memset(large, 0xff, 300000);
        }
    }
    for (int i = 0; i < 2000; i++) {
        char want[64];
        snprintf(want, sizeof want, "model.layers.%d.self_attn.q_proj.weight", i);
        wrong += strcmp(want, texts[i]) != 0;
    }
    CHECK(wrong == 0);
    CHECK_STR(peft__arena_strdup(&arena, "abc"), "abc");
    CHECK_STR(peft__arena_strndup(&arena, "abcdef", 2), "ab");
    CHECK(peft__arena_alloc(&arena, 0) != NULL && peft__arena_alloc(&arena, SIZE_MAX) == NULL);
    CHECK(peft__arena_alloc(&arena, SIZE_MAX - 40) == NULL);
    peft__arena_free(&arena);
    CHECK_STR(peft__arena_strdup(&arena, "again"), "again");
    peft__arena_free(&arena);
    peft__mem_freeze(mem, true);
    CHECK(peft__arena_alloc(&arena, 1) == NULL && peft__arena_strdup(&arena, "x") == NULL);
    peft__mem_freeze(mem, false);
}

static void test_buffer(peft__mem *mem) {
    peft__buffer buffer;
    peft__buffer_init(&buffer, mem);
    for (int i = 0; i < 1000; i++) {
        CHECK(peft__buffer_printf(&buffer, "%04d", i));
        peft__buffer_puts(&buffer, ";");
    }
    CHECK(buffer.length == 5000 && buffer.data[5000] == '\0' && memcmp(buffer.data + 4995, "0999;", 5) == 0);
    peft__buffer_clear(&buffer);
    CHECK(buffer.length == 0 && buffer.data[0] == '\0');
    CHECK(peft__buffer_put(&buffer, "a\0b", 3) && buffer.length == 3 && buffer.data[2] == 'b');
    CHECK(peft__buffer_put(&buffer, NULL, 0) && buffer.length == 3);
    CHECK(!peft__buffer_put(&buffer, "x", SIZE_MAX - 1) && buffer.failed && buffer.length == 3);
    peft__buffer_free(&buffer);
    CHECK(buffer.data == NULL && !buffer.failed);
    peft__mem_freeze(mem, true);
    CHECK(!peft__buffer_puts(&buffer, "x") && buffer.failed);
    CHECK(!peft__buffer_printf(&buffer, "%d", 1));
    peft__mem_freeze(mem, false);
    peft__buffer_free(&buffer);
}

static void test_table(peft__mem *mem) {
    peft__table table;
    peft__table_init(&table, mem);
    uint64_t value = 0;
    CHECK(!peft__table_get(&table, "a", 1, &value));
    enum { COUNT = 20000 };
    char(*keys)[16] = peft__alloc(mem, COUNT * sizeof *keys);
    int wrong = 0;
    for (int i = 0; i < COUNT; i++) {
        const int length = snprintf(keys[i], sizeof keys[i], "token%d", i);
        wrong += !peft__table_put(&table, keys[i], (size_t)length, (uint64_t)i * 3);
    }
    for (int i = 0; i < COUNT; i++) {
        char key[16];
        const int length = snprintf(key, sizeof key, "token%d", i);
        wrong += !peft__table_get(&table, key, (size_t)length, &value) || value != (uint64_t)i * 3;
        wrong += peft__table_get(&table, key, (size_t)length - 1, &value) && i < 10;
    }
    CHECK(wrong == 0 && table.count == COUNT);
    CHECK(peft__table_put(&table, "token7", 6, 99) && table.count == COUNT);
    CHECK(peft__table_get(&table, "token7", 6, &value) && value == 99);
    CHECK(peft__table_put(&table, "\0", 1, 5) && peft__table_put(&table, "", 0, 6) && table.count == COUNT + 2);
    CHECK(peft__table_get(&table, "\0", 1, &value) && value == 5);
    CHECK(peft__table_get(&table, NULL, 0, &value) && value == 6);
    CHECK(peft__table_get(&table, "", 0, NULL));
    peft__table_free(&table);
    CHECK(!peft__table_get(&table, "token7", 6, &value));
    peft__mem_freeze(mem, true);
    CHECK(!peft__table_put(&table, "a", 1, 1));
    peft__mem_freeze(mem, false);
    CHECK(peft__table_put(&table, "a", 1, 1) && peft__table_get(&table, "a", 1, &value) && value == 1);
    peft__table_free(&table);
    peft__free(mem, keys);
}

int main(void) {
    peft__mem *mem = peft__mem_create(NULL, 0);
    test_arena(mem);
    test_buffer(mem);
    test_table(mem);
    uint64_t bytes = 1;
    peft__mem_counters(mem, &bytes, NULL, NULL);
    CHECK(bytes == 0);
    peft__mem_unref(mem);
    return check_summary();
}
