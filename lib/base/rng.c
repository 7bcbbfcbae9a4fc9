/* rng.c: counter-based random numbers, Philox 4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy
 * as 1, 2, 3", 2011), and a stable hash.
 *
 * Counter-based, because then a number depends on what it is for and not on what was drawn before: dropout masks are
 * made again in the backward pass instead of stored, any thread may draw any number, and a checkpoint holds a seed and
 * a counter. The key is the seed; the low half of the Philox counter is `counter`, the high half is `stream`.
 *
 * The hash is SipHash-1-3 keyed with the seed: keys of tables come from files made by strangers, and simpler hashes
 * can be made to collide on purpose.
 */
#include "base/base.h"

#include <math.h>

void peft__philox(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]) {
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xd2511f53u * c0;
        const uint64_t p1 = (uint64_t)0xcd9e8d57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

peft__rng peft__rng_make(uint64_t seed, uint64_t stream) {
    return (peft__rng){.seed = seed, .stream = stream, .counter = 0, .used = 4};
}

uint32_t peft__rng_u32(peft__rng *rng) {
    if (rng->used >= 4) {
        peft__philox(rng->seed, rng->stream, rng->counter, rng->block);
        rng->counter++;
        rng->used = 0;
    }
    return rng->block[rng->used++];
}

uint64_t peft__rng_below(peft__rng *rng, uint64_t bound) {
    if (bound == 0) return 0;
    /* The first 2^64 mod bound values are drawn again: what is left is a multiple of bound. */
    const uint64_t reject = (0u - bound) % bound;
    for (;;) {
        const uint64_t high = peft__rng_u32(rng);
        const uint64_t value = high << 32 | peft__rng_u32(rng);
        if (value >= reject) return value % bound;
    }
}

float peft__rng_uniform(peft__rng *rng) {
    return (float)(peft__rng_u32(rng) >> 8) * 0x1p-24f;
}

float peft__rng_normal(peft__rng *rng) {
    /* Always two draws, and in double: the tail reaches 6.6 deviations and the sequence has no hidden half. */
    const double radius = ((double)peft__rng_u32(rng) + 1.0) * 0x1p-32; /* (0, 1] */
    const double angle = (double)peft__rng_u32(rng) * (6.283185307179586476925 * 0x1p-32);
    return (float)(sqrt(-2.0 * log(radius)) * cos(angle));
}

static inline uint64_t rotate(uint64_t value, int bits) {
    return value << bits | value >> (64 - bits);
}

static inline void sip_round(uint64_t v[4]) {
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32) + v[3];
    v[2] += v[1];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

static inline uint64_t load_little(const uint8_t *bytes, size_t count) {
    uint64_t word = 0;
    for (size_t i = 0; i < count; i++) word |= (uint64_t)bytes[i] << (8 * i);
    return word;
}

uint64_t peft__hash64(const void *data, size_t size, uint64_t seed) {
    const uint8_t *bytes = data;
    const uint64_t key[2] = {seed, seed ^ 0x9e3779b97f4a7c15u};
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575u, key[1] ^ 0x646f72616e646f6du, key[0] ^ 0x6c7967656e657261u,
                     key[1] ^ 0x7465646279746573u};
    const size_t whole = size & ~(size_t)7;
    for (size_t i = 0; i < whole; i += 8) {
        const uint64_t word = load_little(bytes + i, 8);
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    const uint64_t tail = size > whole ? load_little(bytes + whole, size - whole) : 0;
    const uint64_t last = tail | (uint64_t)(size & 255u) << 56;
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++) sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}
