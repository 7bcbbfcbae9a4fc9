/* roofline_peak.c: what the machine's multiply-add units could do, in registers only, on every thread at once. */
#include "roofline.h"

#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

double roofline_now_us(const roofline *r) {
    if (!r->processor_time) return (double)peft__clock_us();
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

enum { PEAK_STEPS = 2000000 };

#if defined(__x86_64__)
#define HOLD(v) __asm__ volatile("" : "+v"(v))
__attribute__((target("avx512f"))) static double peak_avx512(void) {
    const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
    __m512 s0 = b, s1 = b, s2 = b, s3 = b, s4 = b, s5 = b, s6 = b, s7 = b, s8 = b, s9 = b, s10 = b, s11 = b;
    for (int i = 0; i < PEAK_STEPS; i++) {
#define STEP(s)                                                                                                        \
    s = _mm512_fmadd_ps(s, a, b);                                                                                      \
    HOLD(s)
        STEP(s0);
        STEP(s1);
        STEP(s2);
        STEP(s3);
        STEP(s4);
        STEP(s5);
        STEP(s6);
        STEP(s7);
        STEP(s8);
        STEP(s9);
        STEP(s10);
        STEP(s11);
#undef STEP
    }
    return 2.0 * 12.0 * 16.0 * PEAK_STEPS;
}
__attribute__((target("avx2,fma"))) static double peak_avx2(void) {
    const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
    __m256 s0 = b, s1 = b, s2 = b, s3 = b, s4 = b, s5 = b, s6 = b, s7 = b, s8 = b, s9 = b, s10 = b, s11 = b;
    for (int i = 0; i < PEAK_STEPS; i++) {
#define STEP(s)                                                                                                        \
    s = _mm256_fmadd_ps(s, a, b);                                                                                      \
    __asm__ volatile("" : "+x"(s))
        STEP(s0);
        STEP(s1);
        STEP(s2);
        STEP(s3);
        STEP(s4);
        STEP(s5);
        STEP(s6);
        STEP(s7);
        STEP(s8);
        STEP(s9);
        STEP(s10);
        STEP(s11);
#undef STEP
    }
    return 2.0 * 12.0 * 8.0 * PEAK_STEPS;
}
#endif

static double peak_generic(void) {
    typedef float vec __attribute__((vector_size(16)));
    const vec a = {0.999f, 0.999f, 0.999f, 0.999f}, b = {1e-3f, 1e-3f, 1e-3f, 1e-3f};
    vec s[8];
    for (int j = 0; j < 8; j++) s[j] = b;
    for (int i = 0; i < PEAK_STEPS; i++)
        for (int j = 0; j < 8; j++) s[j] = s[j] * a + b;
    volatile float sink = 0.0f;
    for (int j = 0; j < 8; j++) sink = sink + s[j][0];
    return 2.0 * 8.0 * 4.0 * PEAK_STEPS;
}

typedef struct peak_work {
    const roofline *r;
    double flops[64];
} peak_work;

static void peak_tile(void *argument, uint32_t tile, uint32_t lane) {
    (void)lane;
    peak_work *work = argument;
#if defined(__x86_64__)
    const int cpu = work->r->ctx->cpu;
    work->flops[tile] = cpu >= PEFT_CPU_AVX512 ? peak_avx512() : cpu >= PEFT_CPU_AVX2 ? peak_avx2() : peak_generic();
#else
    work->flops[tile] = peak_generic();
#endif
}

double roofline_peak(const roofline *r) {
    const uint32_t threads = r->threads < 64 ? r->threads : 64;
    peak_work work = {.r = r};
    double top = 0.0;
    for (int round = 0; round < 20; round++) {
        const double start = roofline_now_us(r);
        peft__pool_run(r->ctx->pool, threads, peak_tile, &work);
        const double rate = work.flops[0] * threads / 1e3 / (roofline_now_us(r) - start);
        if (rate > top) top = rate;
    }
    return top;
}
