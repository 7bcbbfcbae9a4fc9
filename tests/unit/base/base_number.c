/* Numbers as text: grammar, exact rounding (against the C library's strtod), locales. */
#include "base/base.h"
#include "check.h"

#include <locale.h>

static bool reads(const char *text, double want) {
    double got = 12345;
    const bool good = peft__parse_f64(text, strlen(text), &got) && got == want && signbit(got) == signbit(want);
    if (!good) fprintf(stderr, "    %.60s: got %.17g, want %.17g\n", text, got, want);
    return good;
}

static bool refused(const char *text, size_t length) {
    double got = 12345;
    return !peft__parse_f64(text, length, &got) && got == 12345;
}

static void test_grammar(void) {
    CHECK(reads("1e-4", 1e-4) && reads("2.0e-4", 2e-4) && reads(".5", 0.5) && reads("5.", 5) && reads("+3", 3));
    CHECK(reads("-7", -7) && reads("0", 0) && reads("-0.0", -0.0) && reads("007", 7) && reads("1E+05", 1e5));
    CHECK(reads("0e999999999999999999999999", 0) && reads("0.000", 0) && reads("1e-99999999999999999999", 0));
    CHECK(reads("-1e-400", -0.0));
    static const char *const bad[] = {"",     "+",     "-",      ".",   "e5", "1e",   "1e+",    "inf",
                                      "nan",  "-inf",  "0x10",   "1 ",  " 1", "1,5",  "1.2.3",  "--1",
                                      "1e5.", "1e400", "-1e309", "1_0", "1f", "1e 5", "1.8e308"};
    for (size_t i = 0; i < PEFT_COUNT(bad); i++) {
        if (!CHECK(refused(bad[i], strlen(bad[i])))) fprintf(stderr, "    %s\n", bad[i]);
    }
    CHECK(refused("1\0"
                  "2",
                  3));
    double value = 0;
    CHECK(peft__parse_f64("12345", 2, &value) && value == 12); /* not past the length */
}

static void test_rounding(void) {
    CHECK(reads("1.7976931348623157e308", 0x1.fffffffffffffp+1023));
    CHECK(reads("1.7976931348623158e308", 0x1.fffffffffffffp+1023) && refused("1.7976931348623159e308", 22));
    CHECK(reads("4.9406564584124654e-324", 0x1p-1074) && reads("2.4703282292062328e-324", 0x1p-1074));
    CHECK(reads("2.4703282292062327e-324", 0));
    CHECK(reads("2.2250738585072014e-308", 0x1p-1022) && reads("2.2250738585072011e-308", 0x0.fffffffffffffp-1022));
    CHECK(reads("9007199254740993", 9007199254740992.0));
    CHECK(reads("9007199254740993.000000000000000000000000000000000001", 9007199254740994.0));
    CHECK(reads("1.00000000000000011102230246251565404236316680908203125", 1.0));
    CHECK(reads("1.00000000000000011102230246251565404236316680908203124", 1.0));
    CHECK(reads("1.00000000000000011102230246251565404236316680908203126", 0x1.0000000000001p0));

    /* A thousand digits, the deciding one last; and as many zeros on either side of the point. */
    char text[3000] = "1.00000000000000011102230246251565404236316680908203125";
    const size_t length = strlen(text);
    memset(text + length, '0', 1500);
    CHECK(reads(text, 1.0));
    text[length + 1499] = '1';
    CHECK(reads(text, 0x1.0000000000001p0));
    text[0] = '.';
    memset(text + 1, '0', 2000);
    snprintf(text + 2001, 100, "125e2003");
    CHECK(reads(text, 125));
    memset(text, '0', 2000);
    text[0] = '1';
    snprintf(text + 2000, 100, "e-1999");
    CHECK(reads(text, 1));

    peft__rng rng = peft__rng_make(3, 4);
    int wrong = 0;
    for (int i = 0; i < 100000; i++) {
        const uint64_t bits = (uint64_t)peft__rng_u32(&rng) << 32 | peft__rng_u32(&rng);
        double value, got = 0;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value)) continue;
        char number[64];
        snprintf(number, sizeof number, "%.*g", (int)(peft__rng_u32(&rng) % 25 + 1), value);
        const double want = strtod(number, NULL);
        if (isinf(want)) continue;
        wrong += !peft__parse_f64(number, strlen(number), &got) || memcmp(&got, &want, sizeof got) != 0;
        snprintf(number, sizeof number, "%u.%ue%d", peft__rng_u32(&rng), peft__rng_u32(&rng),
                 (int)peft__rng_below(&rng, 650) - 340);
        const double other = strtod(number, NULL);
        if (isinf(other)) continue;
        wrong += !peft__parse_f64(number, strlen(number), &got) || got != other;
    }
    CHECK(wrong == 0);
}

static void test_format(void) {
    char text[32];
    static const struct {
        double value;
        const char *want;
    } known[] = {{0, "0"},
                 {-0.0, "-0"},
                 {1, "1"},
                 {0.1, "0.1"},
                 {1e-4, "0.0001"},
                 {2e-5, "2e-05"},
                 {1.5e300, "1.5e+300"},
                 {-2.5, "-2.5"},
                 {0.1 + 0.2, "0.30000000000000004"},
                 {1.0 / 3, "0.3333333333333333"},
                 {123456789, "123456789"},
                 {HUGE_VAL, "inf"},
                 {-HUGE_VAL, "-inf"}};
    for (size_t i = 0; i < PEFT_COUNT(known); i++) {
        peft__format_f64(text, sizeof text, known[i].value);
        CHECK_STR(text, known[i].want);
    }
    peft__format_f64(text, sizeof text, (double)NAN);
    CHECK_STR(text, "nan");
    peft__rng rng = peft__rng_make(5, 6);
    int wrong = 0;
    for (int i = 0; i < 20000; i++) {
        const uint64_t bits = (uint64_t)peft__rng_u32(&rng) << 32 | peft__rng_u32(&rng);
        double value, got = 0;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value)) continue;
        peft__format_f64(text, sizeof text, value);
        wrong += strlen(text) > 24 || !peft__parse_f64(text, strlen(text), &got) || got != value;
    }
    CHECK(wrong == 0);
}

static void test_locale(void) {
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8",  "de_DE",
                                        "fr_FR.UTF-8", "ps_AF.UTF-8", "ru_RU.UTF-8"};
    int found = 0;
    for (size_t i = 0; i < PEFT_COUNT(names); i++) {
        if (setlocale(LC_ALL, names[i]) == NULL) continue;
        found++;
        char text[32];
        peft__format_f64(text, sizeof text, -1.25e-7);
        CHECK_STR(text, "-1.25e-07");
        CHECK(reads("0.5", 0.5) && refused("0,5", 3));
    }
    setlocale(LC_ALL, "C");
    if (found == 0) fprintf(stderr, "note: no locale with another decimal point is installed\n");
}

static void test_integers(void) {
    int64_t value = 7;
    CHECK(peft__parse_i64("9223372036854775807", 19, &value) && value == INT64_MAX);
    CHECK(peft__parse_i64("-9223372036854775808", 20, &value) && value == INT64_MIN);
    value = 7;
    CHECK(!peft__parse_i64("9223372036854775808", 19, &value) && !peft__parse_i64("-9223372036854775809", 20, &value));
    CHECK(!peft__parse_i64("", 0, &value) && !peft__parse_i64("-", 1, &value) && !peft__parse_i64("1.0", 3, &value));
    CHECK(!peft__parse_i64(" 1", 2, &value) && !peft__parse_i64("99999999999999999999", 20, &value) && value == 7);
    CHECK(peft__parse_i64("+12", 3, &value) && value == 12 && peft__parse_i64("-0", 2, &value) && value == 0);
}

int main(void) {
    test_grammar();
    test_rounding();
    test_format();
    test_integers();
    test_locale();
    return check_summary();
}
