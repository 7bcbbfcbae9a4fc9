/* context.c: the context, its options, and the texts of errors and log lines.
 *
 * The context is counted: the host holds it once, each object made with it holds it once, and it goes with the last of
 * them. That is what lets a garbage-collected host destroy things in any order.
 *
 * Error texts are made in a fixed buffer, because the error to be told may be that there is no memory.
 */
#include "base/base.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <zlib.h>

#include "peft_config.h"

#define LARGEST_OPTIONS 4096u
#define LOG_LINE 2048

#if defined(__clang__) || !defined(__GNUC__)
#define COMPILER __VERSION__
#else
#define COMPILER "gcc " __VERSION__
#endif

/* ---- texts ---------------------------------------------------------------------------------------------- */

static void set_error(peft_context *ctx, const char *text) {
    const size_t length = peft__min_size(strlen(text), sizeof ctx->error - 1);
    memmove(ctx->error, text, length);
    ctx->error[length] = '\0';
    peft__utf8_tidy(ctx->error);
}

peft_status peft__fail(peft_context *ctx, peft_status status, const char *format, ...) {
    if (ctx == NULL) return status;
    const int saved_errno = errno;
    char text[sizeof ctx->error]; /* the arguments may point into the present text */
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    set_error(ctx, length < 0 ? peft_status_text(status) : text);
    errno = saved_errno;
    return status;
}

peft_status peft__fail_in(peft_context *ctx, peft_status status, const char *format, ...) {
    if (ctx == NULL) return status;
    const int saved_errno = errno;
    char where[sizeof ctx->error], text[2 * sizeof ctx->error + 2];
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(where, sizeof where, format, arguments);
    va_end(arguments);
    if (length >= 0) {
        const char *present = ctx->error[0] != '\0' ? ctx->error : peft_status_text(status);
        (void)snprintf(text, sizeof text, "%s: %s", where, present);
        set_error(ctx, text);
    }
    errno = saved_errno;
    return status;
}

peft_status peft__fail_nomem(peft_context *ctx, size_t bytes, const char *what) {
    if (ctx == NULL) return PEFT_E_NOMEM;
    uint64_t held = 0, limit = 0;
    peft__mem_counters(ctx->mem, &held, NULL, NULL);
    if (peft__mem_over_limit(ctx->mem, &limit))
        return peft__fail(ctx, PEFT_E_LIMIT,
                          "%s takes %zu bytes, which would pass the memory limit: %llu of %llu bytes are in use", what,
                          bytes, (unsigned long long)held, (unsigned long long)limit);
    if (limit != 0)
        return peft__fail(
            ctx, PEFT_E_NOMEM,
            "%s takes %zu bytes, which the allocator did not give; %llu bytes are in use, the limit is %llu", what,
            bytes, (unsigned long long)held, (unsigned long long)limit);
    return peft__fail(ctx, PEFT_E_NOMEM,
                      "%s takes %zu bytes, which the allocator did not give; %llu bytes are in use, there is no limit",
                      what, bytes, (unsigned long long)held);
}

void peft__log(peft_context *ctx, int32_t level, const char *format, ...) {
    if (ctx == NULL || ctx->log == NULL || level > ctx->log_level) return;
    const int saved_errno = errno;
    char line[LOG_LINE];
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length >= 0) {
        peft__utf8_tidy(line);
        ctx->log(ctx->log_user, level, line);
    }
    errno = saved_errno;
}

/* ---- options --------------------------------------------------------------------------------------------- */

peft_status peft__options_copy(peft_context *ctx, void *to, size_t known, const void *from, size_t minimum,
                               const char *name) {
    if (from == NULL) return PEFT_OK;
    uint32_t size;
    memcpy(&size, from, sizeof size);
    if (size < minimum || size > LARGEST_OPTIONS)
        return peft__fail(ctx, PEFT_E_ABI,
                          "%s.struct_size is %zu or more, found %u: call %s_init() before setting fields", name,
                          minimum, size, name);
    for (size_t i = known; i < size; i++) {
        if (((const unsigned char *)from)[i] != 0)
            return peft__fail(ctx, PEFT_E_ABI, "%s sets a field at byte %zu that libpeft %s does not know", name, i,
                              PEFT_VERSION_STRING);
    }
    memcpy(to, from, peft__min_size(size, known));
    const uint32_t known_size = (uint32_t)known;
    memcpy(to, &known_size, sizeof known_size);
    return PEFT_OK;
}

void peft_context_options_init_sized(peft_context_options *options, uint32_t size) {
    if (options == NULL || size < sizeof options->struct_size) return;
    const peft_context_options defaults = {
        .struct_size = size, .log_level = PEFT_LOG_WARNING, .cpu_features = PEFT_CPU_BEST};
    memset(options, 0, size);
    memcpy(options, &defaults, peft__min_size(size, sizeof defaults));
}

static bool options_valid(const peft_context_options *options) {
    const peft_allocator *allocator = options->allocator;
    const peft_executor *executor = options->executor;
    if (allocator != NULL && (allocator->alloc == NULL || allocator->free == NULL)) return false;
    if (executor != NULL && (executor->parallel_for == NULL || executor->workers == 0 || executor->reserved != 0))
        return false;
    if (options->log_level < 0 || options->log_level > PEFT_LOG_DEBUG) return false;
    return options->cpu_features <= PEFT_CPU_AVX512 || options->cpu_features == PEFT_CPU_BEST;
}

/* ---- life ------------------------------------------------------------------------------------------------- */

peft_status peft_context_create_abi(const peft_context_options *options, uint32_t abi, peft_context **out_context) {
    if (abi != PEFT_ABI_VERSION) return PEFT_E_ABI;
    if (out_context == NULL) return PEFT_E_ARG;
    peft_context_options chosen;
    peft_context_options_init(&chosen);
    PEFT_TRY(peft__options_copy(NULL, &chosen, sizeof chosen, options, sizeof chosen, "peft_context_options"));
    if (!options_valid(&chosen)) return PEFT_E_ARG;

    peft__mem *mem = peft__mem_create(chosen.allocator, chosen.memory_limit);
    if (mem == NULL) return PEFT_E_NOMEM;
    peft_context *ctx = peft__alloc_zero(mem, sizeof *ctx);
    if (ctx == NULL) {
        const peft_status status = peft__mem_over_limit(mem, NULL) ? PEFT_E_LIMIT : PEFT_E_NOMEM;
        peft__mem_unref(mem);
        return status;
    }
    ctx->mem = mem;
    atomic_init(&ctx->references, 1);
    ctx->log = chosen.log;
    ctx->log_user = chosen.log_user;
    ctx->log_level = chosen.log_level;
    const uint32_t best = peft__cpu_detect();
    ctx->cpu = chosen.cpu_features < best ? chosen.cpu_features : best;
    ctx->has_executor = chosen.executor != NULL;
    const peft_status status = peft__pool_create(ctx, chosen.threads, chosen.executor, &ctx->pool);
    if (status < 0) {
        peft__context_unref(ctx);
        return status;
    }
    *out_context = ctx;
    return PEFT_OK;
}

peft_context *peft__context_ref(peft_context *ctx) {
    atomic_fetch_add_explicit(&ctx->references, 1, memory_order_relaxed);
    return ctx;
}

void peft__context_unref(peft_context *ctx) {
    if (ctx == NULL || atomic_fetch_sub_explicit(&ctx->references, 1, memory_order_acq_rel) != 1) return;
    peft__mem *mem = ctx->mem;
    peft__pool_destroy(ctx->pool);
    peft__free(mem, ctx);
    peft__mem_unref(mem);
}

void peft_context_destroy(peft_context *context) {
    if (context == NULL) return;
    /* What the host logs to may be gone before the last object is. */
    context->log = NULL;
    peft__context_unref(context);
}

/* ---- questions and settings ------------------------------------------------------------------------------- */

const char *peft_context_error(const peft_context *context) {
    return context == NULL ? "" : context->error;
}

void peft_context_memory(const peft_context *context, uint64_t *out_bytes, uint64_t *out_peak_bytes,
                         uint64_t *out_allocations) {
    if (out_bytes != NULL) *out_bytes = 0;
    if (out_peak_bytes != NULL) *out_peak_bytes = 0;
    if (out_allocations != NULL) *out_allocations = 0;
    if (context != NULL) peft__mem_counters(context->mem, out_bytes, out_peak_bytes, out_allocations);
}

void peft_context_reset_peak(peft_context *context) {
    if (context != NULL) peft__mem_reset_peak(context->mem);
}

peft_status peft_context_set_threads(peft_context *context, uint32_t threads) {
    if (context == NULL) return PEFT_E_ARG;
    if (context->has_executor)
        return peft__fail(context, PEFT_E_STATE,
                          "the context runs on the host's executor; its number of workers is fixed");
    peft__pool *pool;
    PEFT_TRY(peft__pool_create(context, threads, NULL, &pool));
    peft__pool_destroy(context->pool);
    context->pool = pool;
    return PEFT_OK;
}

uint32_t peft_context_threads(const peft_context *context) {
    return context == NULL ? 0 : peft__pool_lanes(context->pool);
}

uint32_t peft_version_number(void) {
    return PEFT_VERSION_MAJOR * 1000000u + PEFT_VERSION_MINOR * 1000u + PEFT_VERSION_PATCH;
}

const char *peft_version_string(void) {
    return PEFT_VERSION_STRING;
}

uint32_t peft_abi_version(void) {
    return PEFT_ABI_VERSION;
}

const char *peft_context_build_info(peft_context *context) {
    if (context == NULL) return "";
    static const char *const features[] = {"generic", "avx2", "avx512"};
    (void)snprintf(context->build_info, sizeof context->build_info,
                   "libpeft %s (abi %d); %s; jansson %s; zlib %s; png %s; jpeg %s; %s; cpu %s, using %s; "
                   "%u %s",
                   PEFT_VERSION_STRING, PEFT_ABI_VERSION, PEFT_BLIS_MICRO_KERNELS ? "micro-kernels of blis" : "own micro-kernels",
                   JANSSON_VERSION, ZLIB_VERSION, PEFT_HAVE_PNG ? "yes" : "no", PEFT_HAVE_JPEG ? "yes" : "no",
                   COMPILER, features[peft__cpu_detect()], features[context->cpu], peft__pool_lanes(context->pool),
                   context->has_executor ? "lanes of the host" : "threads");
    return context->build_info;
}
