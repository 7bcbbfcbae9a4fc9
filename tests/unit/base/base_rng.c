/* Random numbers: the published vectors of Philox 4x32-10, uniformity, the hash. */
#include "base/base.h"
#include "check.h"

static void test_vectors(void) {
    /* Known answers of the Random123 distribution. */
    static const struct {
        uint64_t seed, stream, counter;
        uint32_t want[4];
    } known[] = {
        {0, 0, 0, {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}},
        {0x299f31d0a4093822u,
         0x0370734413198a2eu,
         0x85a308d3243f6a88u,
         {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}},
    };
    for (size_t i = 0; i < PEFT_COUNT(known); i++) {
        uint32_t got[4];
        peft__philox(known[i].seed, known[i].stream, known[i].counter, got);
        CHECK(memcmp(got, known[i].want, sizeof got) == 0);
    }
}

static void test_sequence(void) {
    peft__rng rng = peft__rng_make(42, 7);
    uint32_t blocks[2][4];
    peft__philox(42, 7, 0, blocks[0]);
    peft__philox(42, 7, 1, blocks[1]);
    for (int i = 0; i < 8; i++) CHECK(peft__rng_u32(&rng) == blocks[i / 4][i % 4]);
}

static void test_distributions(void) {
    peft__rng rng = peft__rng_make(1, 2);
    double sum = 0, squares = 0, cubes = 0, fourths = 0, lowest = 1, highest = 0;
    enum { DRAWS = 200000 };
    for (int i = 0; i < DRAWS; i++) {
        const double value = peft__rng_uniform(&rng);
        sum += value;
        lowest = fmin(lowest, value);
        highest = fmax(highest, value);
    }
    CHECK_NEAR(sum / DRAWS, 0.5, 0.003);
    CHECK(lowest >= 0 && lowest < 0.001 && highest < 1 && highest > 0.999);
    sum = 0;
    for (int i = 0; i < DRAWS; i++) {
        const double value = peft__rng_normal(&rng);
        sum += value;
        squares += value * value;
        cubes += value * value * value;
        fourths += value * value * value * value;
    }
    CHECK_NEAR(sum / DRAWS, 0, 0.01);
    CHECK_NEAR(squares / DRAWS, 1, 0.02);
    CHECK_NEAR(cubes / DRAWS, 0, 0.05);
    CHECK_NEAR(fourths / DRAWS, 3, 0.15);

    int counts[7] = {0};
    for (int i = 0; i < 70000; i++) {
        const uint64_t value = peft__rng_below(&rng, 7);
        if (value < 7) counts[value]++;
    }
    for (int i = 0; i < 7; i++) CHECK_NEAR(counts[i], 10000, 500);
    int above = 0;
    const uint64_t wide = (UINT64_C(1) << 63) + 1; /* nearly every second draw is rejected */
    for (int i = 0; i < 1000; i++) above += peft__rng_below(&rng, wide) >= wide;
    CHECK(above == 0 && peft__rng_below(&rng, 1) == 0 && peft__rng_below(&rng, 0) == 0);
}

static void test_hash(void) {
    /* SipHash-1-3 with key (seed, seed ^ 0x9e3779b97f4a7c15), from an independent implementation. */
    CHECK(peft__hash64("", 0, 0) == UINT64_C(0x61d1b8495b88d5e1));
    CHECK(peft__hash64("model.layers.0.self_attn.q_proj.weight", 38, 0) == UINT64_C(0x0fa876113280761e));
    CHECK(peft__hash64("abcdefgh", 8, 12345) == UINT64_C(0x1503fb19450f00f0));
    CHECK(peft__hash64("a", 1, 0) != peft__hash64("a", 1, 1));
    CHECK(peft__hash64("a\0", 2, 0) != peft__hash64("a", 1, 0));
}

int main(void) {
    test_vectors();
    test_sequence();
    test_distributions();
    test_hash();
    return check_summary();
}
