/* number.c: numbers to and from text, the same under every locale.
 *
 * The C library's conversions follow the process's locale, which belongs to the host: under a German one strtod reads
 * "0.5" as 0. So reading is done here, and exactly: most numbers have at most 15 digits and a small exponent, for which
 * one division or multiplication of exact doubles is correctly rounded; all others are divided out as big integers.
 */
#include "base/base.h"

#include <math.h>
#include <stdio.h>

/* Digits that are looked at. 767 decide every double; a 1 behind them stands for all that follow. */
#define MOST_DIGITS 780

/* ---- big integers ---------------------------------------------------------------------------------------- */

/* Large enough for 10^(781 + 330), 3691 bits, and for aligning another number with it. */
#define BIG_WORDS 124

typedef struct big {
    uint32_t word[BIG_WORDS]; /* least first */
    int count;                /* words in use, the last of them not 0 */
} big;

static void big_multiply_add(big *number, uint32_t factor, uint32_t addend) {
    uint64_t carry = addend;
    for (int i = 0; i < number->count; i++) {
        carry += (uint64_t)number->word[i] * factor;
        number->word[i] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry != 0) number->word[number->count++] = (uint32_t)carry;
}

static void big_times_power_of_ten(big *number, int exponent) {
    for (; exponent >= 9; exponent -= 9) big_multiply_add(number, 1000000000u, 0);
    for (; exponent > 0; exponent--) big_multiply_add(number, 10u, 0);
}

static int big_bits(const big *number) {
    if (number->count == 0) return 0;
    return 32 * number->count - __builtin_clz(number->word[number->count - 1]);
}

static void big_shift_left(big *number, int bits) {
    const int words = bits / 32, rest = bits % 32;
    if (number->count == 0 || bits == 0) return;
    number->word[number->count] = 0;
    for (int i = number->count; i >= 0; i--) {
        const uint64_t pair = (uint64_t)number->word[i] << 32 | (i > 0 ? number->word[i - 1] : 0);
        number->word[i + words] = (uint32_t)(pair >> (32 - rest));
    }
    for (int i = 0; i < words; i++) number->word[i] = 0;
    number->count += words + 1;
    while (number->count > 0 && number->word[number->count - 1] == 0) number->count--;
}

static int big_compare(const big *a, const big *b) {
    if (a->count != b->count) return a->count < b->count ? -1 : 1;
    for (int i = a->count - 1; i >= 0; i--) {
        if (a->word[i] != b->word[i]) return a->word[i] < b->word[i] ? -1 : 1;
    }
    return 0;
}

/* a -= b, where a >= b */
static void big_subtract(big *a, const big *b) {
    uint32_t borrow = 0;
    for (int i = 0; i < a->count; i++) {
        const uint64_t taken = (uint64_t)(i < b->count ? b->word[i] : 0) + borrow;
        borrow = a->word[i] < taken;
        a->word[i] = (uint32_t)(a->word[i] - taken);
    }
    while (a->count > 0 && a->word[a->count - 1] == 0) a->count--;
}

/* ---- reading ----------------------------------------------------------------------------------------------- */

/* A number as written: digits without leading and trailing zeros, times 10^exponent. */
typedef struct decimal {
    uint8_t digit[MOST_DIGITS + 1];
    int count;
    int64_t exponent;
    bool negative;
} decimal;

static bool is_digit(char letter) {
    return letter >= '0' && letter <= '9';
}

static bool scan_decimal(const char *text, size_t length, decimal *number) {
    size_t at = 0;
    number->count = 0;
    number->exponent = 0;
    number->negative = length > 0 && text[0] == '-';
    if (length > 0 && (text[0] == '-' || text[0] == '+')) at++;

    bool point = false, any = false, more = false;
    for (; at < length && (is_digit(text[at]) || (text[at] == '.' && !point)); at++) {
        if (text[at] == '.') {
            point = true;
            continue;
        }
        const uint8_t digit = (uint8_t)(text[at] - '0');
        any = true;
        if (point) number->exponent--;
        if (number->count == 0 && digit == 0) continue;
        if (number->count < MOST_DIGITS) {
            number->digit[number->count++] = digit;
        } else {
            number->exponent++;
            more = more || digit != 0;
        }
    }
    if (!any) return false;
    if (at < length && (text[at] == 'e' || text[at] == 'E')) {
        at++;
        const bool down = at < length && text[at] == '-';
        if (at < length && (text[at] == '-' || text[at] == '+')) at++;
        if (at == length) return false;
        int64_t written = 0;
        for (; at < length && is_digit(text[at]); at++) {
            if (written < INT64_C(1000000000000000)) written = written * 10 + (text[at] - '0');
        }
        number->exponent += down ? -written : written;
    }
    if (at != length) return false;
    if (more) {
        number->digit[number->count++] = 1;
        number->exponent--;
    }
    while (number->count > 0 && number->digit[number->count - 1] == 0) {
        number->count--;
        number->exponent++;
    }
    return true;
}

/* mantissa * 2^exponent (plus something smaller than the last bit if `more`), rounded to nearest even. The top bit of
 * the mantissa is set. */
static double round_to_double(uint64_t mantissa, int exponent, bool more) {
    const int top = exponent + 63;
    int kept = 53;
    if (top < -1022) kept -= -1022 - top; /* subnormal: fewer bits */
    if (kept < 0) return 0.0;
    const int dropped = 64 - kept; /* 11 .. 64 */
    const uint64_t half = UINT64_C(1) << (dropped - 1);
    uint64_t value = dropped == 64 ? 0 : mantissa >> dropped;
    const uint64_t rest = dropped == 64 ? mantissa : mantissa & ((half << 1) - 1);
    if (rest > half || (rest == half && (more || (value & 1) != 0))) value++;
    return ldexp((double)value, exponent + dropped);
}

/* digits * 10^exponent by long division of two big integers. */
static double divide_out(const decimal *number) {
    big above = {.count = 0}, below = {.word = {1}, .count = 1};
    for (int i = 0; i < number->count; i++) big_multiply_add(&above, 10u, number->digit[i]);
    if (number->exponent >= 0)
        big_times_power_of_ten(&above, (int)number->exponent);
    else
        big_times_power_of_ten(&below, (int)-number->exponent);

    /* Align so that 1 <= above / below < 2; the quotient is then 2^exponent times that. */
    int exponent = big_bits(&above) - big_bits(&below);
    if (exponent > 0) big_shift_left(&below, exponent);
    if (exponent < 0) big_shift_left(&above, -exponent);
    if (big_compare(&above, &below) < 0) {
        big_shift_left(&above, 1);
        exponent--;
    }
    uint64_t quotient = 0;
    for (int bit = 0; bit < 64; bit++) {
        quotient <<= 1;
        if (big_compare(&above, &below) >= 0) {
            big_subtract(&above, &below);
            quotient |= 1;
        }
        big_shift_left(&above, 1);
    }
    return round_to_double(quotient, exponent - 63, above.count != 0);
}

bool peft__parse_f64(const char *text, size_t length, double *out) {
    static const double power_of_ten[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                          1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    decimal number;
    if (!scan_decimal(text, length, &number)) return false;
    double value = 0.0;
    const int64_t magnitude = number.count + number.exponent; /* value < 10^magnitude */
    if (number.count == 0 || magnitude < -330) {
        value = 0.0;
    } else if (magnitude > 310) {
        return false;
    } else if (number.count <= 15 && number.exponent >= -22 && number.exponent <= 22) {
        for (int i = 0; i < number.count; i++) value = value * 10.0 + number.digit[i];
        if (number.exponent < 0)
            value /= power_of_ten[-number.exponent];
        else
            value *= power_of_ten[number.exponent];
    } else {
        value = divide_out(&number);
        if (isinf(value)) return false;
    }
    *out = number.negative ? -value : value;
    return true;
}

bool peft__parse_i64(const char *text, size_t length, int64_t *out) {
    const bool negative = length > 0 && text[0] == '-';
    size_t at = length > 0 && (text[0] == '-' || text[0] == '+') ? 1 : 0;
    if (at == length) return false;
    int64_t value = 0; /* kept negative, where there is one number more */
    for (; at < length; at++) {
        if (!is_digit(text[at]) || __builtin_mul_overflow(value, INT64_C(10), &value) ||
            __builtin_sub_overflow(value, (int64_t)(text[at] - '0'), &value))
            return false;
    }
    if (!negative && value == INT64_MIN) return false;
    *out = negative ? value : -value;
    return true;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

/* Whatever stands between the digits, the locale put there for the decimal point; it may be several bytes. */
static void use_plain_point(char *text) {
    char *to = text;
    bool point = false;
    for (const char *from = text; *from != '\0'; from++) {
        if (is_digit(*from) || *from == '-' || *from == '+' || *from == 'e') {
            *to++ = *from;
        } else if (!point) {
            *to++ = '.';
            point = true;
        }
    }
    *to = '\0';
}

void peft__format_f64(char *buffer, size_t size, double value) {
    if (size == 0) return;
    if (!isfinite(value)) {
        (void)snprintf(buffer, size, "%s", isnan(value) ? "nan" : value < 0 ? "-inf" : "inf");
        return;
    }
    static const int digits[] = {9, 12, 15, 16, 17};
    for (size_t i = 0; i < PEFT_COUNT(digits); i++) {
        double again = 0.0;
        (void)snprintf(buffer, size, "%.*g", digits[i], value);
        use_plain_point(buffer);
        if (peft__parse_f64(buffer, strlen(buffer), &again) && again == value) return;
    }
}
