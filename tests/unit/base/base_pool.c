/* The pool: every tile once, lanes apart, the host's executor, fork, signals. */
#include "base/base.h"
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREAD_SANITIZER 1
#endif
#if __has_feature(address_sanitizer)
#define ADDRESS_SANITIZER 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define ADDRESS_SANITIZER 1
#endif
#if defined(__SANITIZE_THREAD__)
#define THREAD_SANITIZER 1
#endif

enum { MOST_TILES = 5000, MOST_LANES = 64 };

typedef struct work {
    int done[MOST_TILES];           /* plain on purpose: a tile done twice at once is a race that TSan sees */
    int64_t scratch[MOST_LANES][8]; /* plain: lanes must be apart */
    uint32_t lanes;
    atomic_int wrong_lane, wrong_mask;
    bool blocked_wanted;
    pthread_t caller;
} work;

static void tile(void *argument, uint32_t index, uint32_t lane) {
    work *job = argument;
    job->done[index]++;
    if (lane >= job->lanes)
        atomic_fetch_add(&job->wrong_lane, 1);
    else
        job->scratch[lane][0] += index + 1;
    if (job->blocked_wanted && !pthread_equal(job->caller, pthread_self())) {
        sigset_t mask;
        pthread_sigmask(SIG_BLOCK, NULL, &mask);
        if (!sigismember(&mask, SIGINT) || !sigismember(&mask, SIGUSR1) || sigismember(&mask, SIGSEGV))
            atomic_fetch_add(&job->wrong_mask, 1);
    }
    errno = EINTR;
}

/* True when tiles 0 .. tiles-1 ran once each and the lanes' scratch adds up. */
static bool run_once(peft__pool *pool, uint32_t tiles) {
    static work job;
    memset(&job, 0, sizeof job);
    job.lanes = peft__pool_lanes(pool);
    job.caller = pthread_self();
    job.blocked_wanted = true;
    errno = 0;
    peft__pool_run(pool, tiles, tile, &job);
    bool good = errno == 0 && atomic_load(&job.wrong_lane) == 0 && atomic_load(&job.wrong_mask) == 0;
    for (uint32_t i = 0; i < MOST_TILES; i++) good = good && job.done[i] == (i < tiles ? 1 : 0);
    int64_t sum = 0;
    for (int i = 0; i < MOST_LANES; i++) sum += job.scratch[i][0];
    return good && sum == (int64_t)tiles * (tiles + 1) / 2;
}

static void test_sizes(void) {
    static const uint32_t threads[] = {1, 2, 3, 7, 16};
    static const uint32_t tiles[] = {0, 1, 2, 3, 5, 64, MOST_TILES};
    for (size_t i = 0; i < PEFT_COUNT(threads); i++) {
        peft_context_options options;
        peft_context_options_init(&options);
        options.threads = threads[i];
        peft_context *ctx = NULL;
        CHECK_OK(ctx, peft_context_create(&options, &ctx));
        CHECK(peft__pool_lanes(ctx->pool) == threads[i]);
        for (size_t k = 0; k < PEFT_COUNT(tiles); k++) CHECK(run_once(ctx->pool, tiles[k]));
        int bad = 0;
        for (int round = 0; round < 300; round++) bad += !run_once(ctx->pool, (uint32_t)round % 9 + 2);
        /* Long enough to fall asleep between runs. */
        for (int round = 0; round < 20; round++) {
            usleep(300);
            bad += !run_once(ctx->pool, (uint32_t)round % 5 + 2);
        }
        CHECK(bad == 0);
        peft_context_destroy(ctx);
    }
}

static void test_rebuild(void) {
    peft_context *ctx = NULL;
    CHECK_OK(ctx, peft_context_create(NULL, &ctx));
    for (uint32_t threads = 1; threads < 6; threads++) {
        CHECK_OK(ctx, peft_context_set_threads(ctx, threads));
        CHECK(run_once(ctx->pool, 100));
    }
    peft_context_destroy(ctx);
}

static void test_mask_kept(void) {
    sigset_t set, before, after;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_SETMASK, &set, &before);
    peft_context *ctx = NULL;
    CHECK_OK(ctx, peft_context_create(NULL, &ctx));
    CHECK_OK(ctx, peft_context_set_threads(ctx, 4));
    CHECK(run_once(ctx->pool, 50));
    pthread_sigmask(SIG_SETMASK, &before, &after);
    CHECK(sigismember(&after, SIGUSR2) == 1 && sigismember(&after, SIGINT) == 0 && sigismember(&after, SIGTERM) == 0);
    peft_context_destroy(ctx);
}

/* ---- the host's executor -------------------------------------------------------------------------------- */

typedef struct host_task {
    peft_task_fn fn;
    void *argument;
    uint32_t index;
} host_task;

static void *host_thread(void *argument) {
    host_task *task = argument;
    task->fn(task->argument, task->index);
    return NULL;
}

static uint32_t largest_count;

static void threaded_for(void *user, uint32_t count, peft_task_fn fn, void *argument) {
    (void)user;
    pthread_t threads[16];
    host_task tasks[16];
    if (count > largest_count) largest_count = count;
    for (uint32_t i = 0; i < count; i++) {
        tasks[i] = (host_task){fn, argument, count - 1 - i};
        if (pthread_create(&threads[i], NULL, host_thread, &tasks[i]) != 0) abort();
    }
    for (uint32_t i = 0; i < count; i++) pthread_join(threads[i], NULL);
}

static void lazy_for(void *user, uint32_t count, peft_task_fn fn, void *argument) {
    (void)user;
    (void)count;
    (void)fn;
    (void)argument;
}

static void serial_for(void *user, uint32_t count, peft_task_fn fn, void *argument) {
    (void)user;
    for (uint32_t i = count; i-- > 0;) fn(argument, i);
}

static bool run_hosted(const peft_executor *executor, uint32_t tiles) {
    static work job;
    memset(&job, 0, sizeof job);
    peft_context_options options;
    peft_context_options_init(&options);
    options.executor = executor;
    peft_context *ctx = NULL;
    if (peft_context_create(&options, &ctx) != PEFT_OK) return false;
    job.lanes = peft__pool_lanes(ctx->pool);
    peft__pool_run(ctx->pool, tiles, tile, &job);
    bool good = atomic_load(&job.wrong_lane) == 0 && job.lanes == executor->workers;
    for (uint32_t i = 0; i < MOST_TILES; i++) good = good && job.done[i] == (i < tiles ? 1 : 0);
    peft_context_destroy(ctx);
    return good;
}

static void test_executor(void) {
    const peft_executor threaded = {.parallel_for = threaded_for, .workers = 4};
    CHECK(run_hosted(&threaded, 1000) && largest_count == 4);
    largest_count = 0;
    CHECK(run_hosted(&threaded, 2) && largest_count == 2);
    CHECK(run_hosted(&threaded, 1) && run_hosted(&threaded, 0));
    const peft_executor serial = {.parallel_for = serial_for, .workers = 3};
    CHECK(run_hosted(&serial, 1000));
    const peft_executor lazy = {.parallel_for = lazy_for, .workers = 3};
    CHECK(run_hosted(&lazy, 10));
}

/* ---- fork, threads that cannot be made, cost of sleeping -------------------------------------------------- */

static void test_fork(void) {
#if !defined(THREAD_SANITIZER) /* it cannot follow threads made after a fork */
    peft_context *ctx = NULL;
    CHECK_OK(ctx, peft_context_create(NULL, &ctx));
    CHECK_OK(ctx, peft_context_set_threads(ctx, 4));
    CHECK(run_once(ctx->pool, 500)); /* workers of the parent exist */
    for (int round = 0; round < 20; round++) {
        (void)run_once(ctx->pool, 3); /* some are awake, some asleep at the fork */
        const pid_t child = fork();
        if (child == 0) {
            alarm(20);
            bool good = true;
            for (int i = 0; i < 20; i++) good = good && run_once(ctx->pool, 200);
            if (round % 2 == 0) peft_context_destroy(ctx);
            _exit(good ? 0 : 1);
        }
        int status = -1;
        CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    /* A child that only lets go of the context. */
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        peft_context_destroy(ctx);
        _exit(0);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(run_once(ctx->pool, 500));
    peft_context_destroy(ctx);
#endif
}

static void test_no_threads(void) {
#if !defined(THREAD_SANITIZER)
    /* In a child, because limits stay. Root is not bound by RLIMIT_NPROC: the address space is limited as well. */
    const pid_t child = fork();
    if (child == 0) {
        peft_context *ctx = NULL;
        peft_context_options options;
        peft_context_options_init(&options);
        options.threads = 64;
        if (peft_context_create(&options, &ctx) != PEFT_OK) _exit(2);
        const struct rlimit none = {0, 0};
        setrlimit(RLIMIT_NPROC, &none);
#if !defined(ADDRESS_SANITIZER)
        const struct rlimit small = {64 << 20, 64 << 20};
        setrlimit(RLIMIT_AS, &small);
#endif
        alarm(20);
        _exit(run_once(ctx->pool, 500) && run_once(ctx->pool, 500) ? 0 : 1);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
#endif
}

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void test_idle(void) {
    peft_context *ctx = NULL;
    CHECK_OK(ctx, peft_context_create(NULL, &ctx));
    CHECK_OK(ctx, peft_context_set_threads(ctx, 2));
    CHECK(run_once(ctx->pool, 100));
    usleep(2000);
    const double before = cpu_seconds();
    usleep(200000);
    CHECK(cpu_seconds() - before < 0.05);
    peft_context_destroy(ctx);
}

int main(void) {
    test_sizes();
    test_rebuild();
    test_mask_kept();
    test_executor();
    test_fork();
    test_no_threads();
    test_idle();
    return check_summary();
}
