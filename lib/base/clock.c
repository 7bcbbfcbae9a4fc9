/* clock.c: time for budgets and rates. Monotonic, so that a change of the wall clock never ends a budget early. */
#include "base/base.h"

#include <time.h>

uint64_t peft__clock_us(void) {
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0) return 0;
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}
