/* data_test.h: opening data sets from text, with a tokenizer alone. */
#ifndef PEFT_TESTS_DATA_TEST_H
#define PEFT_TESTS_DATA_TEST_H

#include "check.h"
#include "data/data.h"

static inline peft_context *test_context(void) {
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = 1;
    peft_context *ctx = NULL;
    if (peft_context_create(&options, &ctx) < 0) exit(1);
    return ctx;
}

static inline const char *test_path(const char *name) {
    static char path[1024];
    const char *root = getenv("PEFT_TEST_DATA");
    snprintf(path, sizeof path, "%s/%s", root != NULL ? root : "tests/data", name);
    return path;
}

static inline peft_tokenizer *test_tokenizer(peft_context *ctx) {
    peft_tokenizer *tokenizer = NULL;
    CHECK_OK(ctx, peft_tokenizer_open(ctx, test_path("text/bbpe-smollm/tokenizer.json"), &tokenizer));
    if (tokenizer == NULL) exit(check_summary());
    return tokenizer;
}

static inline peft_dataset_options test_options(void) {
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    options.shuffle = 0;
    options.max_length = 256;
    options.chat_template = "chatml";
    return options;
}

static inline peft_status test_open(peft_context *ctx, const peft_tokenizer *tokenizer, const char *text,
                                    const char *name, const peft_dataset_options *options, peft_dataset **out_dataset) {
    const peft__data_base base = {.tokenizer = tokenizer, .vocab = 0, .positions = 2048};
    /* A block of exactly this size, so that reading past its end is seen. */
    const size_t size = strlen(text);
    char *copy = malloc(size > 0 ? size : 1);
    memcpy(copy, text, size);
    peft__source *source = NULL;
    peft_status status = peft__source_open_memory(ctx, copy, size, name, &source);
    if (status >= 0) status = peft__dataset_open(ctx, &base, source, name, options, out_dataset);
    peft__source_unref(source);
    free(copy);
    return status;
}

#endif
