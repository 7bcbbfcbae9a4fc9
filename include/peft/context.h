/** \file peft/context.h
 *  The context: memory, threads, log and the text of the last error. Nothing in libpeft is global;
 *  everything hangs on a context.
 *
 *  Threads: calls on one context and on all objects made with it come from one thread at a time.
 *  Different contexts are independent. peft_session_cancel() is the one call allowed from any thread.
 *
 *  Ownership: every object made with a context keeps what it needs alive; objects and context may be
 *  destroyed in any order.
 */
#ifndef PEFT_CONTEXT_H
#define PEFT_CONTEXT_H

#include <stddef.h>
#include <stdint.h>

#include "peft/status.h"
#include "peft/version.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct peft_context peft_context;

/** Memory for everything that libpeft keeps. Both functions may be called from worker threads at the
 *  same time. `align` is a power of two, at most 4096. `size` given to free is the size asked for. */
typedef struct peft_allocator {
    void *(*alloc)(void *user, size_t size, size_t align);
    void (*free)(void *user, void *memory, size_t size);
    void *user;
} peft_allocator;

/** A source of bytes that only the host can read: an entry of a package, a pak file, a network store.
 *  `read` puts up to `size` bytes from `offset` into `buffer` and returns how many; 0 or less is a failure. It is
 *  called on the thread that makes the libpeft call, never after that call has returned, and asks for nothing
 *  beyond the `size` of the struct, which is the length of the whole. */
typedef struct peft_reader {
    int64_t (*read)(void *user, uint64_t offset, void *buffer, uint64_t size);
    uint64_t size;
    void *user;
} peft_reader;

enum {
    PEFT_LOG_ERROR = 1,
    PEFT_LOG_WARNING = 2,
    PEFT_LOG_INFO = 3,
    PEFT_LOG_DEBUG = 4
};

/** One line of log, UTF-8 without line end; called on the thread that made the call. It must not call
 *  back into the same context. */
typedef void (*peft_log_fn)(void *user, int32_t level, const char *line);

/** One piece of work: `index` counts from 0. */
typedef void (*peft_task_fn)(void *argument, uint32_t index);

/** The host's own threads. `parallel_for` calls fn(argument, i) once for each i in 0 .. count-1, in any
 *  order, on any threads, and returns when all have returned. `workers` is the largest count that will
 *  be asked for. Results do not depend on it. */
typedef struct peft_executor {
    void (*parallel_for)(void *user, uint32_t count, peft_task_fn fn, void *argument);
    void *user;
    uint32_t workers;
    uint32_t reserved;
} peft_executor;

/** Instruction sets that the arithmetic may use (peft_context_options.cpu_features). */
enum {
    PEFT_CPU_GENERIC = 0, /**< portable C only */
    PEFT_CPU_AVX2 = 1,    /**< at most AVX2 + FMA */
    PEFT_CPU_AVX512 = 2,  /**< at most AVX-512 F/DQ/BW/VL */
    PEFT_CPU_BEST = 255   /**< the best this CPU and operating system have (default) */
};

typedef struct peft_context_options {
    uint32_t struct_size;          /**< set by peft_context_options_init() */
    uint32_t threads;              /**< workers and the caller, 1 to 1024; 0 (default) = CPUs of this process */
    uint64_t memory_limit;         /**< bytes that may be held at once, 0 = no limit (default) */
    const peft_allocator *allocator; /**< NULL = aligned malloc (default); copied */
    const peft_executor *executor;   /**< NULL = own worker threads (default); copied */
    peft_log_fn log;               /**< NULL = silent (default) */
    void *log_user;
    int32_t log_level;             /**< lines above this level are not made; default PEFT_LOG_WARNING */
    uint32_t cpu_features;         /**< PEFT_CPU_*; default PEFT_CPU_BEST */
} peft_context_options;

/** Fills in the defaults. Use the macro; `size` is sizeof *options as the caller was compiled. */
PEFT_API void peft_context_options_init_sized(peft_context_options *options, uint32_t size);
#define peft_context_options_init(options) peft_context_options_init_sized((options), (uint32_t)sizeof *(options))

/** Makes a context. `options` may be NULL for the defaults. `*out_context` is set on success only.
 *  Errors: PEFT_E_ABI, PEFT_E_ARG, PEFT_E_NOMEM, PEFT_E_LIMIT. Threads: safe. */
PEFT_API PEFT_NODISCARD peft_status peft_context_create_abi(const peft_context_options *options, uint32_t abi,
                                                            peft_context **out_context);
#define peft_context_create(options, out_context) peft_context_create_abi((options), PEFT_ABI_VERSION, (out_context))

/** Releases the caller's hold. Objects made with the context stay valid, and so must allocator and executor as
 *  long as these live; the log is silent from here on. NULL is allowed. */
PEFT_API void peft_context_destroy(peft_context *context);

/** Text of the last failed call on this context: what was expected, what was found and where; "" if
 *  there was none. UTF-8, owned by the context, valid until the next failing call. */
PEFT_API const char *peft_context_error(const peft_context *context);

/** Bytes held at present, the largest that figure has been, and the number of allocations made so far. Any pointer
 *  may be NULL. */
PEFT_API void peft_context_memory(const peft_context *context, uint64_t *out_bytes, uint64_t *out_peak_bytes,
                                  uint64_t *out_allocations);

/** Begins anew with the largest figure: from now on it is that of what comes, so that several runs of one program can be told apart. */
PEFT_API void peft_context_reset_peak(peft_context *context);

/** Sets the number of own worker threads from the next call on; 0 = number of CPUs. PEFT_E_STATE with a
 *  host executor. */
PEFT_API PEFT_NODISCARD peft_status peft_context_set_threads(peft_context *context, uint32_t threads);

/** Workers in use, the caller's thread included. */
PEFT_API uint32_t peft_context_threads(const peft_context *context);

/** Version of the library that is loaded: major * 1000000 + minor * 1000 + patch, and as text. */
PEFT_API uint32_t peft_version_number(void);
PEFT_API const char *peft_version_string(void);
PEFT_API uint32_t peft_abi_version(void);

/** What this library was built with and runs on, for bug reports, for example
 *  "libpeft 0.1.0; blis 0.9.0 micro-kernels; jansson 2.14; ...". Owned by the context. */
PEFT_API const char *peft_context_build_info(peft_context *context);

#ifdef __cplusplus
}
#endif
#endif
