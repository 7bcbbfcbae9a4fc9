/* fuzz_format.h: a context with a memory limit, so that a huge allocation is a finding of the reader's own checks and
 * not of the machine. Each input has its own context: a leak shows at its end. */
#ifndef PEFT_TESTS_FUZZ_FORMAT_H
#define PEFT_TESTS_FUZZ_FORMAT_H

#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline peft_context *fuzz_begin(void) {
    peft_context *ctx = NULL;
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = 1;
    options.memory_limit = (uint64_t)256 << 20;
    if (peft_context_create(&options, &ctx) != PEFT_OK) exit(1);
    return ctx;
}

static inline void fuzz_end(peft_context *ctx) {
    peft_context_destroy(ctx);
}

#endif
