/* half.h: IEEE binary16 and bfloat16 to and from float, in portable C.
 *
 * Vector kernels have their own conversions; these are the reference and serve files and tails. */
#ifndef PEFT_BASE_HALF_H
#define PEFT_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float peft__f32_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t peft__f32_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float peft__bf16_to_f32(uint16_t half) { return peft__f32_from_bits((uint32_t)half << 16); }

/* Round to nearest even; a NaN stays a NaN. */
static inline uint16_t peft__f32_to_bf16(float value) {
    const uint32_t bits = peft__f32_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 64u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float peft__f16_to_f32(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = (half >> 10) & 31u;
    const uint32_t fraction = half & 0x3ffu;
    if (exponent == 31u) return peft__f32_from_bits(sign | 0x7f800000u | (fraction << 13));
    if (exponent != 0u) return peft__f32_from_bits(sign | ((exponent + 112u) << 23) | (fraction << 13));
    /* Zero and subnormal numbers: fraction * 2^-24, exact in float. */
    const float magnitude = (float)fraction * 0x1p-24f;
    return sign != 0u ? -magnitude : magnitude;
}

/* Round to nearest even, overflow to infinity. */
static inline uint16_t peft__f32_to_f16(float value) {
    const uint32_t bits = peft__f32_bits(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
    if (magnitude < 0x38800000u) {
        /* Below 2^-14: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits. */
        const float shifted = peft__f32_from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (peft__f32_bits(shifted) - 0x3f000000u));
    }
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

#endif
