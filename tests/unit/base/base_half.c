/* Half floats: every one of the 65536 values there and back, and rounding between neighbours. */
#include "base/base.h"
#include "base/half.h"
#include "check.h"

/* The value of a half, computed another way. */
static double f16_value(uint32_t half) {
    const int exponent = (int)(half >> 10 & 31u);
    const double fraction = half & 0x3ffu;
    const double value = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024.0 + fraction, exponent - 25);
    return (half & 0x8000u) != 0 ? -value : value;
}

static void test_f16(void) {
    int wrong = 0;
    for (uint32_t half = 0; half < 65536; half++) {
        const float value = peft__f16_to_f32((uint16_t)half);
        const bool special = (half >> 10 & 31u) == 31u;
        if (special && (half & 0x3ffu) != 0) {
            const uint16_t back = peft__f32_to_f16(value);
            wrong += !isnan(value) || (back & 0x7c00u) != 0x7c00u || (back & 0x3ffu) == 0;
        } else if (special) {
            wrong += !isinf(value) || (value < 0) != (half >= 0x8000u) || peft__f32_to_f16(value) != half;
        } else {
            wrong += (double)value != f16_value(half) || peft__f32_to_f16(value) != half;
            wrong += signbit(value) != 0 && half < 0x8000u;
        }
    }
    CHECK(wrong == 0);

    /* Between each two neighbours: a little below the middle, the middle (even wins), a little above. */
    for (uint32_t half = 0; half < 0x7bff; half++) {
        const float low = peft__f16_to_f32((uint16_t)half), high = peft__f16_to_f32((uint16_t)(half + 1));
        const float middle = low + (high - low) * 0.5f;
        const uint32_t even = (half & 1u) == 0 ? half : half + 1;
        wrong += peft__f32_to_f16(middle) != even || peft__f32_to_f16(-middle) != (even | 0x8000u);
        wrong += peft__f32_to_f16(nextafterf(middle, 0)) != half;
        wrong += peft__f32_to_f16(nextafterf(middle, 1e30f)) != half + 1;
    }
    CHECK(wrong == 0);
    CHECK(peft__f32_to_f16(65519.9f) == 0x7bff && peft__f32_to_f16(65520.0f) == 0x7c00);
    CHECK(peft__f32_to_f16(1e30f) == 0x7c00 && peft__f32_to_f16(-1e30f) == 0xfc00);
    CHECK(peft__f32_to_f16(1e-30f) == 0 && peft__f32_to_f16(-1e-30f) == 0x8000);
}

static void test_bf16(void) {
    int wrong = 0;
    for (uint32_t half = 0; half < 65536; half++) {
        const float value = peft__bf16_to_f32((uint16_t)half);
        if (isnan(value))
            wrong += !isnan(peft__bf16_to_f32(peft__f32_to_bf16(value)));
        else
            wrong += peft__f32_to_bf16(value) != half;
    }
    CHECK(wrong == 0);
    for (uint32_t half = 0; half < 0x7f7f; half++) {
        const uint32_t bits = half << 16;
        const uint32_t even = (half & 1u) == 0 ? half : half + 1;
        wrong += peft__f32_to_bf16(peft__f32_from_bits(bits | 0x8000u)) != even;
        wrong += peft__f32_to_bf16(peft__f32_from_bits(bits | 0x7fffu)) != half;
        wrong += peft__f32_to_bf16(peft__f32_from_bits(bits | 0x8001u)) != half + 1;
    }
    CHECK(wrong == 0);
    CHECK(peft__f32_to_bf16(3.4e38f) == 0x7f80);                                          /* rounds up to infinity */
    CHECK(isnan(peft__bf16_to_f32(peft__f32_to_bf16(peft__f32_from_bits(0x7f800001u))))); /* a NaN in low bits only */
}

int main(void) {
    test_f16();
    test_bf16();
    return check_summary();
}
