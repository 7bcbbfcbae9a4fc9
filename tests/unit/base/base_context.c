/* Context: options, life, texts, log, CPU features. */
#include "base/base.h"
#include "check.h"

#include <errno.h>

typedef struct captured {
    int lines;
    int32_t level;
    char text[4096];
} captured;

static void capture(void *user, int32_t level, const char *line) {
    captured *log = user;
    log->lines++;
    log->level = level;
    snprintf(log->text, sizeof log->text, "%s", line);
    errno = EIO;
}

/* Options of a later release: the known part and a field behind it. */
typedef struct later_options {
    peft_context_options known;
    uint64_t added;
} later_options;

static void parallel_for(void *user, uint32_t count, peft_task_fn fn, void *argument) {
    (void)user;
    for (uint32_t i = 0; i < count; i++) fn(argument, i);
}

static void *no_alloc(void *user, size_t size, size_t align) {
    (void)user;
    (void)size;
    (void)align;
    return NULL;
}

static void test_options(void) {
    peft_context *ctx = NULL;
    CHECK(peft_context_create_abi(NULL, PEFT_ABI_VERSION + 1, &ctx) == PEFT_E_ABI && ctx == NULL);
    CHECK(peft_context_create(NULL, NULL) == PEFT_E_ARG);

    peft_context_options options;
    memset(&options, 0, sizeof options);
    CHECK(peft_context_create(&options, &ctx) == PEFT_E_ABI && ctx == NULL);
    options.struct_size = 8;
    CHECK(peft_context_create(&options, &ctx) == PEFT_E_ABI);
    options.struct_size = 0x40000000;
    CHECK(peft_context_create(&options, &ctx) == PEFT_E_ABI);

    memset(&options, 0x55, sizeof options);
    peft_context_options_init(&options);
    CHECK(options.struct_size == sizeof options && options.threads == 0 && options.log_level == PEFT_LOG_WARNING);
    CHECK(options.cpu_features == PEFT_CPU_BEST && options.allocator == NULL && options.memory_limit == 0);

    options.log_level = 5;
    CHECK(peft_context_create(&options, &ctx) == PEFT_E_ARG);
    options.log_level = -1;
    CHECK(peft_context_create(&options, &ctx) == PEFT_E_ARG);
    peft_context_options_init(&options);
    options.cpu_features = 7;
    CHECK(peft_context_create(&options, &ctx) == PEFT_E_ARG);
    peft_context_options_init(&options);
    options.threads = 100000;
    CHECK(peft_context_create(&options, &ctx) == PEFT_E_ARG);
    peft_context_options_init(&options);
    peft_executor executor = {.parallel_for = parallel_for, .workers = 0};
    options.executor = &executor;
    CHECK(peft_context_create(&options, &ctx) == PEFT_E_ARG);
    executor.workers = 2;
    executor.reserved = 1;
    CHECK(peft_context_create(&options, &ctx) == PEFT_E_ARG);
    peft_context_options_init(&options);
    peft_allocator allocator = {.alloc = no_alloc, .free = NULL};
    options.allocator = &allocator;
    CHECK(peft_context_create(&options, &ctx) == PEFT_E_ARG);
    peft_context_options_init(&options);
    options.memory_limit = 100;
    CHECK(peft_context_create(&options, &ctx) == PEFT_E_LIMIT);
    CHECK(ctx == NULL);

    later_options later;
    peft_context_options_init_sized(&later.known, sizeof later);
    CHECK(later.known.struct_size == sizeof later && later.added == 0);
    CHECK_OK(ctx, peft_context_create(&later.known, &ctx));
    peft_context_destroy(ctx);
    ctx = NULL;
    later.added = 1;
    CHECK(peft_context_create(&later.known, &ctx) == PEFT_E_ABI && ctx == NULL);

    /* An older caller's smaller struct is not written behind its end. */
    unsigned char *small = malloc(sizeof options);
    memset(small, 0x77, sizeof options);
    peft_context_options_init_sized((peft_context_options *)(void *)small, 8);
    CHECK(small[0] == 8 && small[7] == 0 && small[8] == 0x77);
    free(small);
    peft_context_options_init_sized(NULL, 8);
}

typedef struct thing_options {
    uint32_t struct_size;
    uint32_t rank;
    double rate;
} thing_options;

static void test_options_copy(peft_context *ctx) {
    thing_options known = {.struct_size = sizeof known, .rank = 8, .rate = 0.5};
    CHECK_OK(ctx, peft__options_copy(ctx, &known, sizeof known, NULL, 8, "thing_options"));
    CHECK(known.rank == 8);
    const thing_options old = {.struct_size = 8, .rank = 4, .rate = 9};
    CHECK_OK(ctx, peft__options_copy(ctx, &known, sizeof known, &old, 8, "thing_options"));
    CHECK(known.rank == 4 && known.rate == 0.5 && known.struct_size == sizeof known);
    const thing_options tiny = {.struct_size = 4};
    CHECK_STATUS(ctx, peft__options_copy(ctx, &known, sizeof known, &tiny, 8, "thing_options"), PEFT_E_ABI);
    CHECK_STR(peft_context_error(ctx),
              "thing_options.struct_size is 8 or more, found 4: call thing_options_init() before setting fields");
    const uint32_t newer[6] = {24, 2, 0, 0, 0, 1};
    CHECK_STATUS(ctx, peft__options_copy(ctx, &known, sizeof known, newer, 8, "thing_options"), PEFT_E_ABI);
    CHECK(known.rank == 4);
    CHECK(strstr(peft_context_error(ctx), "byte 20") != NULL);
}

static void test_texts(peft_context *ctx) {
    CHECK_STR(peft_context_error(NULL), "");
    CHECK(peft__fail(NULL, PEFT_E_IO, "x") == PEFT_E_IO && peft__fail_in(NULL, PEFT_E_IO, "x") == PEFT_E_IO);
    errno = EDOM;
    CHECK(peft__fail(ctx, PEFT_E_FORMAT, "offset %d: expected %s", 12, "a number") == PEFT_E_FORMAT && errno == EDOM);
    CHECK_STR(peft_context_error(ctx), "offset 12: expected a number");
    CHECK(peft__fail_in(ctx, PEFT_E_IO, "%s", "config.json") == PEFT_E_IO);
    CHECK_STR(peft_context_error(ctx), "config.json: offset 12: expected a number");
    peft__fail(ctx, PEFT_E_IO, "again: %s", ctx->error); /* from itself */
    CHECK_STR(peft_context_error(ctx), "again: config.json: offset 12: expected a number");
    peft__fail(ctx, PEFT_E_IO, "%s", "two\nlines \x01 \xff\xc3\xa4");
    CHECK_STR(peft_context_error(ctx), "two lines ? ?\xc3\xa4");

    /* Cut on a character boundary, at every phase of a 3-byte character. */
    for (int shift = 0; shift < 3; shift++) {
        char text[3000] = "abc";
        for (int i = 0; i < 900; i++) memcpy(text + shift + 3 * i, "\xe2\x82\xac", 4);
        peft__fail(ctx, PEFT_E_IO, "%s", text);
        const size_t length = strlen(peft_context_error(ctx));
        CHECK(length > 1020 && length <= 1023 && peft__utf8_valid(peft_context_error(ctx), length));
        peft__fail_in(ctx, PEFT_E_IO, "%s", text);
        CHECK(peft__utf8_valid(peft_context_error(ctx), strlen(peft_context_error(ctx))));
    }
    CHECK(peft__fail_nomem(ctx, 123456, "the plan") == PEFT_E_NOMEM);
    CHECK(strstr(peft_context_error(ctx), "the plan takes 123456 bytes") != NULL);
}

static void test_log(void) {
    captured log = {0};
    peft_context_options options;
    peft_context_options_init(&options);
    options.log = capture;
    options.log_user = &log;
    options.log_level = PEFT_LOG_INFO;
    peft_context *ctx = NULL;
    CHECK_OK(ctx, peft_context_create(&options, &ctx));
    errno = 0;
    peft__log(ctx, PEFT_LOG_DEBUG, "hidden");
    CHECK(log.lines == 0);
    peft__log(ctx, PEFT_LOG_INFO, "loaded %d tensors\n", 272);
    CHECK(log.lines == 1 && log.level == PEFT_LOG_INFO && errno == 0);
    CHECK_STR(log.text, "loaded 272 tensors ");
    peft__log(ctx, PEFT_LOG_ERROR, "%3000s", "x");
    CHECK(log.lines == 2 && strlen(log.text) == 2047);
    peft__log(NULL, PEFT_LOG_ERROR, "nobody");
    /* An object outlives the host's hold; the log does not. */
    peft__context_ref(ctx);
    peft_context_destroy(ctx);
    peft__log(ctx, PEFT_LOG_ERROR, "late");
    CHECK(log.lines == 2);
    peft__context_unref(ctx);
}

static void test_limit(void) {
    peft_context_options options;
    peft_context_options_init(&options);
    options.memory_limit = 100000;
    options.threads = 2;
    peft_context *ctx = NULL;
    CHECK_OK(ctx, peft_context_create(&options, &ctx));
    CHECK(peft__alloc(ctx->mem, 200000) == NULL);
    CHECK(peft__fail_nomem(ctx, 200000, "the arena") == PEFT_E_LIMIT);
    CHECK(strstr(peft_context_error(ctx), "of 100000 bytes") != NULL);
    uint64_t bytes = 0, peak = 0, count = 0;
    peft_context_memory(ctx, &bytes, &peak, &count);
    CHECK(bytes > 0 && bytes <= 100000 && peak >= bytes && count >= 2);
    peft_context_memory(ctx, NULL, NULL, NULL);
    void *large = peft__alloc(ctx->mem, 20000);
    peft__free(ctx->mem, large);
    peft_context_memory(ctx, &bytes, &peak, NULL);
    CHECK(large != NULL && peak >= bytes + 20000);
    peft_context_reset_peak(ctx);
    peft_context_memory(ctx, &bytes, &peak, NULL);
    CHECK(peak == bytes);
    peft_context_reset_peak(NULL);
    peft_context_destroy(ctx);
    peft_context_memory(NULL, &bytes, NULL, NULL);
    CHECK(bytes == 0);
}

static void test_threads(peft_context *ctx) {
    CHECK(peft_context_threads(ctx) == peft__cpu_count());
    CHECK_OK(ctx, peft_context_set_threads(ctx, 3));
    CHECK(peft_context_threads(ctx) == 3);
    CHECK_STATUS(ctx, peft_context_set_threads(ctx, 5000), PEFT_E_ARG);
    CHECK(peft_context_threads(ctx) == 3);
    peft__mem_freeze(ctx->mem, true);
    CHECK_STATUS(ctx, peft_context_set_threads(ctx, 2), PEFT_E_NOMEM);
    peft__mem_freeze(ctx->mem, false);
    CHECK(peft_context_threads(ctx) == 3);
    CHECK_OK(ctx, peft_context_set_threads(ctx, 0));
    CHECK(peft_context_threads(ctx) == peft__cpu_count());
    CHECK(peft_context_set_threads(NULL, 2) == PEFT_E_ARG && peft_context_threads(NULL) == 0);

    peft_context_options options;
    peft_context_options_init(&options);
    const peft_executor executor = {.parallel_for = parallel_for, .workers = 5};
    options.executor = &executor;
    peft_context *hosted = NULL;
    CHECK_OK(hosted, peft_context_create(&options, &hosted));
    CHECK(peft_context_threads(hosted) == 5);
    CHECK_STATUS(hosted, peft_context_set_threads(hosted, 2), PEFT_E_STATE);
    peft_context_destroy(hosted);
}

int main(void) {
    test_options();
    peft_context *ctx = NULL;
    CHECK_OK(ctx, peft_context_create(NULL, &ctx));
    CHECK_STR(peft_context_error(ctx), "");
    test_options_copy(ctx);
    test_texts(ctx);
    test_threads(ctx);
    CHECK(peft_version_number() == 1000 * PEFT_VERSION_MINOR + 1000000 * PEFT_VERSION_MAJOR + PEFT_VERSION_PATCH);
    CHECK_STR(peft_version_string(), PEFT_VERSION_STRING);
    CHECK(peft_abi_version() == PEFT_ABI_VERSION);
    CHECK(strstr(peft_context_build_info(ctx), "libpeft " PEFT_VERSION_STRING) != NULL);
    CHECK(strstr(peft_context_build_info(ctx), "jansson") != NULL);
    CHECK_STR(peft_context_build_info(NULL), "");
    peft_context_destroy(ctx);
    peft_context_destroy(NULL);
    test_log();
    test_limit();

    /* The levels are the compiler's idea of them, and a cap is kept. */
    const uint32_t best = peft__cpu_detect();
#if defined(__x86_64__)
    __builtin_cpu_init();
    CHECK((best >= PEFT_CPU_AVX2) == (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")));
    CHECK((best >= PEFT_CPU_AVX512) == (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")));
#endif
    for (uint32_t level = PEFT_CPU_GENERIC; level <= PEFT_CPU_AVX512; level++) {
        peft_context_options options;
        peft_context_options_init(&options);
        options.cpu_features = level;
        CHECK_OK(ctx, peft_context_create(&options, &ctx));
        CHECK(ctx->cpu == (level < best ? level : best));
        peft_context_destroy(ctx);
    }

    CHECK_STR(peft_status_name(PEFT_OK), "PEFT_OK");
    CHECK_STR(peft_status_name(PEFT_E_INTERNAL), "PEFT_E_INTERNAL");
    CHECK_STR(peft_status_name(-99), "PEFT_?");
    CHECK_STR(peft_status_text(PEFT_E_IO), "reading or writing failed");
    CHECK(peft_status_text(77) != NULL && strcmp(peft_status_text(77), peft_status_text(-77)) != 0);

    const uint64_t before = peft__clock_us();
    CHECK(before > 0 && peft__clock_us() >= before);
    return check_summary();
}
