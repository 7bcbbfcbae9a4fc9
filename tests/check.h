/* check.h: the whole test framework. A test program calls CHECK and friends and ends with `return check_summary();`.
 *
 * Every check counts; the last line is "N passed, N failed". Exit status 0 passed, 1 failed, 77 skipped (Meson's
 * convention). A failed check prints where and goes on, so that one run shows everything.
 */
#ifndef PEFT_TESTS_CHECK_H
#define PEFT_TESTS_CHECK_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check_passed, check_failed;

static inline int check_report(int ok, const char *file, int line, const char *text) {
    if (ok) {
        check_passed++;
    } else {
        check_failed++;
        fprintf(stderr, "%s:%d: failed: %s\n", file, line, text);
    }
    return ok;
}

#define CHECK(condition) check_report((condition) ? 1 : 0, __FILE__, __LINE__, #condition)

/* A status: prints the context's error text where it is not the one wanted. */
#define CHECK_STATUS(ctx, call, want)                                                                            \
    do {                                                                                                         \
        const peft_status check_got = (call);                                                                    \
        if (!check_report(check_got == (want), __FILE__, __LINE__, #call " == " #want))                          \
            fprintf(stderr, "    got %s: %s\n", peft_status_name(check_got), (ctx) ? peft_context_error(ctx) : ""); \
    } while (0)
#define CHECK_OK(ctx, call) CHECK_STATUS(ctx, call, PEFT_OK)

#define CHECK_STR(got, want)                                                                                     \
    do {                                                                                                         \
        const char *check_a = (got), *check_b = (want);                                                          \
        if (!check_report(check_a != NULL && strcmp(check_a, check_b) == 0, __FILE__, __LINE__, #got " is " #want)) \
            fprintf(stderr, "    got \"%s\"\n    want \"%s\"\n", check_a ? check_a : "(null)", check_b);         \
    } while (0)

#define CHECK_NEAR(got, want, tolerance)                                                                         \
    do {                                                                                                         \
        const double check_a = (got), check_b = (want);                                                          \
        if (!check_report(fabs(check_a - check_b) <= (tolerance), __FILE__, __LINE__, #got " is near " #want))   \
            fprintf(stderr, "    got %.9g, want %.9g\n", check_a, check_b);                                      \
    } while (0)

static inline int check_summary(void) {
    printf("%d passed, %d failed\n", check_passed, check_failed);
    return check_failed == 0 ? 0 : 1;
}

#endif
