/* pool.c: worker threads of our own, or the host's parallel_for.
 *
 * A run is a function and a number of tiles; tiles are handed out through a counter, so that a slow core takes fewer.
 * The caller works too (lane 0) and workers join a run that they are in time for: a worker that is still asleep when
 * the last tile is done is not waited for. That makes short runs cheap.
 *
 * One atomic word, the gate, is the whole protocol:
 *
 *     bits 0-15 workers inside | bit 16 open | bit 17 stop | bits 32-63 generation (number of the run)
 *
 * The caller writes the job while the gate is closed and nobody is inside, then opens it under a new generation. A
 * worker enters by adding one to an open gate, which fails when the run has changed or ended meanwhile. The caller
 * closes the gate when no tile is left and waits until nobody is inside. Workers look at the gate for some 50
 * microseconds after a run (the next operation of a step follows at once) and sleep on a condition variable after that.
 *
 * Threads are started by the first run that needs them and belong to the process that started them: in a child made by
 * fork() they do not exist, so the first run there starts over.
 */
#include "base/base.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#define GATE_INSIDE UINT64_C(0xffff)
#define GATE_OPEN (UINT64_C(1) << 16)
#define GATE_STOP (UINT64_C(1) << 17)
#define SPIN_US 50u
#define MOST_THREADS 1024u

typedef struct pool_worker {
    peft__pool *pool;
    pthread_t thread;
    uint32_t lane;
} pool_worker;

struct peft__pool {
    peft__mem *mem;
    peft_executor executor; /* parallel_for == NULL: own workers */
    uint32_t lanes;
    uint32_t started; /* workers that exist, at most lanes - 1 */
    bool spin;        /* there is a CPU for each lane */
    pid_t owner;      /* process that the workers belong to; 0 = none were started */

    /* The job; written only while the gate is closed and nobody is inside. */
    peft__tile_fn fn;
    void *argument;
    uint32_t tiles;

    _Alignas(64) atomic_uint_least64_t gate;
    _Alignas(64) atomic_uint_least64_t next; /* tile; 64 bits, so that running past the end cannot wrap */
    _Alignas(64) pthread_mutex_t mutex;
    pthread_cond_t wake; /* the gate has changed */
    pthread_cond_t left; /* the last worker left a closed gate */
    uint32_t sleepers;   /* on `wake`; under the mutex */

    pool_worker workers[];
};

static uint32_t generation_of(uint64_t gate) {
    return (uint32_t)(gate >> 32);
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void draw_tiles(peft__pool *pool, uint32_t lane) {
    const uint32_t tiles = pool->tiles;
    for (;;) {
        const uint64_t tile = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (tile >= tiles) return;
        pool->fn(pool->argument, (uint32_t)tile, lane);
    }
}

/* ---- workers ------------------------------------------------------------------------------------------ */

static bool gate_moved(uint64_t gate, uint32_t seen) {
    return generation_of(gate) != seen || (gate & GATE_STOP) != 0;
}

/* Waits for another generation than `seen` or for stop. */
static uint64_t wait_for_run(peft__pool *pool, uint32_t seen) {
    uint64_t gate = atomic_load_explicit(&pool->gate, memory_order_acquire);
    if (pool->spin) {
        const uint64_t start = peft__clock_us();
        while (!gate_moved(gate, seen) && peft__clock_us() - start < SPIN_US) {
            for (int i = 0; i < 16; i++) relax();
            gate = atomic_load_explicit(&pool->gate, memory_order_acquire);
        }
    }
    if (gate_moved(gate, seen)) return gate;

    pthread_mutex_lock(&pool->mutex);
    pool->sleepers++;
    while (!gate_moved(gate = atomic_load_explicit(&pool->gate, memory_order_acquire), seen))
        pthread_cond_wait(&pool->wake, &pool->mutex);
    pool->sleepers--;
    pthread_mutex_unlock(&pool->mutex);
    return gate;
}

/* Takes part in run `generation` unless it is over. */
static void join_run(peft__pool *pool, uint64_t gate, uint32_t lane) {
    const uint32_t generation = generation_of(gate);
    for (;;) {
        if ((gate & GATE_OPEN) == 0 || generation_of(gate) != generation) return;
        if (atomic_compare_exchange_weak_explicit(&pool->gate, &gate, gate + 1, memory_order_acquire,
                                                  memory_order_acquire))
            break;
    }
    draw_tiles(pool, lane);
    gate = atomic_fetch_sub_explicit(&pool->gate, 1, memory_order_acq_rel) - 1;
    if ((gate & (GATE_OPEN | GATE_INSIDE)) == 0) {
        /* Under the mutex: the caller may be between its last look at the gate and falling asleep. */
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_signal(&pool->left);
        pthread_mutex_unlock(&pool->mutex);
    }
}

static void *worker_main(void *argument) {
    pool_worker *worker = argument;
    peft__pool *pool = worker->pool;
    uint32_t seen = 0; /* the gate starts at generation 0 with each set of workers */
    for (;;) {
        const uint64_t gate = wait_for_run(pool, seen);
        if ((gate & GATE_STOP) != 0) return NULL;
        seen = generation_of(gate);
        join_run(pool, gate, worker->lane);
    }
}

/* ---- starting and stopping ----------------------------------------------------------------------------- */

/* Signals are the host's business and stay on its threads, except those that a thread raises by its own fault: blocking
 * these would kill the process without the host's crash handler being asked. */
static void worker_signals(sigset_t *set) {
    sigfillset(set);
    static const int own_faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
    for (size_t i = 0; i < PEFT_COUNT(own_faults); i++) sigdelset(set, own_faults[i]);
}

static void init_sync(peft__pool *pool) {
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->left, NULL);
    pool->sleepers = 0;
    atomic_init(&pool->gate, 0);
    atomic_init(&pool->next, 0);
}

/* After a fork, mutex and condition variables may be in any state: they are made anew, not destroyed. */
static void start_workers(peft__pool *pool, pid_t process) {
    if (pool->owner != 0) init_sync(pool);
    pool->owner = process;
    pool->started = 0;
    sigset_t blocked, before;
    worker_signals(&blocked);
    /* A thread inherits the mask of its maker; the caller has its own back before anything else happens. */
    if (pthread_sigmask(SIG_BLOCK, &blocked, &before) != 0) return;
    for (uint32_t i = 0; i + 1 < pool->lanes; i++) {
        pool_worker *worker = &pool->workers[pool->started];
        *worker = (pool_worker){.pool = pool, .lane = pool->started + 1};
        if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0) break;
        pool->started++;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

peft_status peft__pool_create(peft_context *ctx, uint32_t threads, const peft_executor *executor,
                              peft__pool **out_pool) {
    const uint32_t lanes = executor != NULL ? executor->workers : threads != 0 ? threads : peft__cpu_count();
    if (lanes == 0 || lanes > MOST_THREADS)
        return peft__fail(ctx, PEFT_E_ARG, "the number of workers is 1 to %u, found %u", MOST_THREADS, lanes);
    const size_t workers = executor != NULL ? 0 : lanes - 1;
    const size_t size = sizeof(peft__pool) + workers * sizeof(pool_worker);
    peft__pool *pool = peft__alloc_zero(ctx->mem, size);
    if (pool == NULL) return peft__fail_nomem(ctx, size, "the worker pool");
    pool->mem = ctx->mem;
    pool->lanes = lanes;
    pool->spin = lanes <= peft__cpu_count();
    if (executor != NULL) pool->executor = *executor;
    init_sync(pool);
    *out_pool = pool;
    return PEFT_OK;
}

void peft__pool_destroy(peft__pool *pool) {
    if (pool == NULL) return;
    const int saved_errno = errno;
    if (pool->owner == 0 || pool->owner == getpid()) {
        atomic_fetch_or_explicit(&pool->gate, GATE_STOP, memory_order_release);
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
        for (uint32_t i = 0; i < pool->started; i++) (void)pthread_join(pool->workers[i].thread, NULL);
        pthread_mutex_destroy(&pool->mutex);
        pthread_cond_destroy(&pool->wake);
        pthread_cond_destroy(&pool->left);
    }
    peft__free(pool->mem, pool);
    errno = saved_errno;
}

/* ---- running ------------------------------------------------------------------------------------------- */

uint32_t peft__pool_lanes(const peft__pool *pool) {
    return pool->lanes;
}

static void executor_task(void *argument, uint32_t index) {
    draw_tiles(argument, index);
}

static void run_on_executor(peft__pool *pool) {
    const uint32_t count = pool->tiles < pool->lanes ? pool->tiles : pool->lanes;
    pool->executor.parallel_for(pool->executor.user, count, executor_task, pool);
    draw_tiles(pool, 0); /* nothing, unless the host left out an index */
}

static void run_on_workers(peft__pool *pool) {
    const uint32_t generation = generation_of(atomic_load_explicit(&pool->gate, memory_order_relaxed)) + 1;
    atomic_store_explicit(&pool->gate, (uint64_t)generation << 32 | GATE_OPEN, memory_order_release);
    pthread_mutex_lock(&pool->mutex);
    if (pool->sleepers <= pool->tiles - 1) {
        if (pool->sleepers != 0) pthread_cond_broadcast(&pool->wake);
    } else {
        for (uint32_t i = 0; i + 1 < pool->tiles; i++) pthread_cond_signal(&pool->wake);
    }
    pthread_mutex_unlock(&pool->mutex);

    draw_tiles(pool, 0);

    uint64_t gate = atomic_fetch_and_explicit(&pool->gate, ~GATE_OPEN, memory_order_acq_rel);
    if (pool->spin && (gate & GATE_INSIDE) != 0) {
        const uint64_t start = peft__clock_us();
        while ((gate & GATE_INSIDE) != 0 && peft__clock_us() - start < SPIN_US) {
            for (int i = 0; i < 16; i++) relax();
            gate = atomic_load_explicit(&pool->gate, memory_order_acquire);
        }
    }
    if ((gate & GATE_INSIDE) == 0) return;
    pthread_mutex_lock(&pool->mutex);
    while ((atomic_load_explicit(&pool->gate, memory_order_acquire) & GATE_INSIDE) != 0)
        pthread_cond_wait(&pool->left, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

void peft__pool_run(peft__pool *pool, uint32_t tiles, peft__tile_fn fn, void *argument) {
    if (tiles == 0) return;
    const int saved_errno = errno;
    const bool own_workers = pool->executor.parallel_for == NULL;
    if (tiles > 1 && pool->lanes > 1 && own_workers) {
        const pid_t process = getpid();
        if (pool->owner != process) start_workers(pool, process);
    }
    if (tiles == 1 || pool->lanes == 1 || (own_workers && pool->started == 0)) {
        for (uint32_t tile = 0; tile < tiles; tile++) fn(argument, tile, 0);
    } else {
        pool->fn = fn;
        pool->argument = argument;
        pool->tiles = tiles;
        atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
        if (own_workers)
            run_on_workers(pool);
        else
            run_on_executor(pool);
    }
    errno = saved_errno;
}
