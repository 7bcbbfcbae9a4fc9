/* torch_random.c: MT19937 (Matsumoto and Nishimura 1998) and how PyTorch makes floats of it (torch_random.h).
 *
 * A float takes the lower 24 bits of one 32-bit number, divided by 2^24, times the width of the range: in that order,
 * in single precision.
 */
#include "method/torch_random.h"

enum { MIDDLE = 397 };

void peft__torch_seed(peft__torch_random *random, uint64_t seed) {
    random->state[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < PEFT__TORCH_STATE; i++) {
        const uint32_t before = random->state[i - 1];
        random->state[i] = 1812433253u * (before ^ (before >> 30)) + i;
    }
    random->at = PEFT__TORCH_STATE;
}

static void refill(peft__torch_random *random) {
    uint32_t *s = random->state;
    for (uint32_t i = 0; i < PEFT__TORCH_STATE; i++) {
        const uint32_t joined = (s[i] & 0x80000000u) | (s[(i + 1) % PEFT__TORCH_STATE] & 0x7fffffffu);
        s[i] = s[(i + MIDDLE) % PEFT__TORCH_STATE] ^ (joined >> 1) ^ ((joined & 1u) != 0 ? 0x9908b0dfu : 0u);
    }
    random->at = 0;
}

static uint32_t next(peft__torch_random *random) {
    if (random->at == PEFT__TORCH_STATE) refill(random);
    uint32_t y = random->state[random->at++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

void peft__torch_uniform(peft__torch_random *random, float from, float to, float *out, int64_t count) {
    const float width = to - from;
    for (int64_t i = 0; i < count; i++) {
        const float unit = (float)(next(random) & 0xffffffu) * (1.0f / 16777216.0f);
        const float wide = unit * width;
        out[i] = wide + from;
    }
}
