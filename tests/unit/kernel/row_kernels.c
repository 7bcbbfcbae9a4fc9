/* row_kernels.c: the row kernels of every instruction set against plain double arithmetic, at every length that
 * matters. */
#include "base/base.h"
#include "check.h"
#include "kernel/kernels.h"

enum { ROOM = 160 };

static double ulps(float got, double want) {
    int exponent;
    if (want == 0.0) return fabs((double)got) * 0x1p149;
    (void)frexp(want, &exponent);
    return fabs((double)got - want) / ldexp(1.0, exponent - 24);
}

typedef struct sweep {
    double worst, at;
} sweep;

static void note(sweep *s, double error, double x) {
    if (error > s->worst || error != error) {
        s->worst = error;
        s->at = x;
    }
}

static void check_exp(const peft__kernels *k) {
    sweep s = {0};
    float x[64], y[64];
    for (double from = -86.4; from < 88.7; from += 0.013) {
        for (int i = 0; i < 64; i++) x[i] = (float)(from + 0.013 * i / 64.0);
        k->exp(64, x, y);
        for (int i = 0; i < 64; i++) note(&s, ulps(y[i], exp((double)x[i])), (double)x[i]);
    }
    if (!CHECK(s.worst < 2.0)) fprintf(stderr, "    exp: %g ulp at %g (cpu %u)\n", s.worst, s.at, k->cpu);
    const float edges[] = {-INFINITY, -1e30f, -200.0f, -87.5f, 0.0f, -0.0f, 89.0f, 1e30f, INFINITY, NAN};
    float out[PEFT_COUNT(edges)];
    k->exp((int64_t)PEFT_COUNT(edges), edges, out);
    CHECK(out[0] == 0.0f && out[1] == 0.0f && out[2] == 0.0f && out[3] == 0.0f && out[4] == 1.0f && out[5] == 1.0f);
    CHECK(out[6] == INFINITY && out[7] == INFINITY && out[8] == INFINITY && out[9] != out[9]);
}

static double exact(peft__fn fn, double x) {
    switch (fn) {
    case PEFT__FN_RELU:
        return x > 0.0 ? x : 0.0;
    case PEFT__FN_GELU:
        return 0.5 * x * erfc(-x / sqrt(2.0));
    case PEFT__FN_GELU_TANH:
        return x / (1.0 + exp(-2.0 * sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case PEFT__FN_SILU:
        return x / (1.0 + exp(-x));
    case PEFT__FN_TANH:
        return tanh(x);
    case PEFT__FN_QUICK_GELU:
        return x / (1.0 + exp(-1.702 * x));
    case PEFT__FN_SIGMOID:
        return 1.0 / (1.0 + exp(-x));
    case PEFT__FN_IDENTITY:
        break;
    }
    return x;
}

/* Largest error relative to max(|f|, |x| 1e-7): what a sum of such numbers can notice. */
static void check_activations(const peft__kernels *k) {
    for (int fn = PEFT__FN_RELU; fn <= PEFT__FN_SIGMOID; fn++) {
        sweep s = {0}, d = {0};
        float x[64], y[64], ones[64], dx[64];
        for (int i = 0; i < 64; i++) ones[i] = 1.0f;
        for (double from = -30.0; from < 30.0; from += 0.011) {
            for (int i = 0; i < 64; i++) x[i] = (float)(from + 0.011 * (i + 0.37) / 64.0);
            k->activate((peft__fn)fn, 64, x, y);
            k->activate_backward((peft__fn)fn, 64, x, ones, dx, false);
            for (int i = 0; i < 64; i++) {
                const double h = 1e-5, at = (double)x[i], want = exact((peft__fn)fn, at);
                note(&s, fabs((double)y[i] - want) / fmax(fabs(want), fmax(fabs(at), 1.0) * 1e-3), at);
                if (fn != PEFT__FN_RELU || fabs(at) > 2.0 * h)
                    note(&d,
                         fabs((double)dx[i] - (exact((peft__fn)fn, at + h) - exact((peft__fn)fn, at - h)) / (2.0 * h)),
                         at);
            }
        }
        if (!CHECK(s.worst < 2e-6))
            fprintf(stderr, "    function %d off by %g at %g (cpu %u)\n", fn, s.worst, s.at, k->cpu);
        if (!CHECK(d.worst < 2e-6))
            fprintf(stderr, "    slope of function %d off by %g at %g (cpu %u)\n", fn, d.worst, d.at, k->cpu);
        const float edges[] = {-INFINITY, INFINITY, NAN, -1e30f, 1e30f, 0.0f};
        float out[PEFT_COUNT(edges)];
        k->activate((peft__fn)fn, (int64_t)PEFT_COUNT(edges), edges, out);
        CHECK(out[2] != out[2] && fabsf(out[5] - (fn == PEFT__FN_SIGMOID ? 0.5f : 0.0f)) == 0.0f);
    }
}

/* Nothing outside of [0, n) is written, whatever n. */
static bool untouched(const float *buffer, int64_t n) {
    for (int64_t i = n; i < ROOM; i++)
        if (buffer[i] != 99.0f) return false;
    return true;
}

static void fill(float *buffer, float from) {
    for (int i = 0; i < ROOM; i++) buffer[i] = from == 99.0f ? 99.0f : from + 0.01f * (float)(i * 37 % 101);
}

static void check_lengths(const peft__kernels *k) {
    float a[ROOM], b[ROOM], out[ROOM], second[ROOM], stat[2];
    for (int64_t n = 1; n < ROOM - 20; n++) {
        fill(a, -0.4f);
        fill(b, 0.1f);
        fill(out, 99.0f);
        k->add(n, a, b, out);
        CHECK(untouched(out, n) && out[n - 1] == a[n - 1] + b[n - 1]);
        k->mul(n, a, b, out, true);
        CHECK(untouched(out, n));
        k->soft_cap(n, 2.0f, a, out);
        CHECK(untouched(out, n) && fabs((double)out[n - 1] - 2.0 * tanh((double)a[n - 1] / 2.0)) < 1e-6);

        double sum = 0.0, square = 0.0, mean = 0.0, product = 0.0, top = -1e30, total = 0.0;
        for (int64_t i = 0; i < n; i++) {
            sum += (double)a[i];
            product += (double)a[i] * (double)b[i];
            top = fmax(top, (double)a[i]);
        }
        mean = sum / (double)n;
        for (int64_t i = 0; i < n; i++) {
            square += ((double)a[i] - mean) * ((double)a[i] - mean);
            total += exp((double)a[i] - top);
        }
        CHECK_NEAR(k->dot(n, a, b), product, 1e-6 * (double)n);
        CHECK_NEAR((double)k->log_sum_exp(n, a), top + log(total), 1e-6);
        fill(out, 99.0f);
        k->layer_norm(n, a, b, 0.0f, NULL, 1e-3f, out, stat);
        CHECK_NEAR((double)stat[0], mean, 1e-6);
        CHECK_NEAR((double)stat[1], 1.0 / sqrt(square / (double)n + 1e-3), 1e-4);
        CHECK(untouched(out, n));
        (void)k->rms_norm(n, a, NULL, 0.0f, 1e-3f, out);
        CHECK(untouched(out, n));
        k->layer_norm_backward(n, a, b, 1.0f, stat, b, out, true);
        CHECK(untouched(out, n));
        k->softmax(n, a, 0.5f, 2.0f, out, false);
        CHECK(untouched(out, n) && fabs((double)out[n - 1] - 2.0 * exp((double)a[n - 1] - 0.5)) < 1e-6);
        fill(second, 99.0f);
        k->gated_backward(PEFT__FN_SILU, n, a, b, b, out, false, second, false);
        CHECK(untouched(out, n) && untouched(second, n));
        k->column_sum(1, n, a, n, b, n, out, false);
        CHECK(untouched(out, n) && fabsf(out[n - 1] - a[n - 1] * b[n - 1]) < 1e-7f);
    }
    const float high[] = {1.0f, INFINITY, 2.0f}, low[] = {-INFINITY, -INFINITY}, bad[] = {1.0f, NAN, 2.0f};
    CHECK(k->log_sum_exp(3, high) == INFINITY && k->log_sum_exp(2, low) == -INFINITY);
    const float lse = k->log_sum_exp(3, bad);
    CHECK(lse != lse);
}

/* The mask is the same numbers that anybody gets from peft__philox, from any element on. */
static void check_dropout(const peft__kernels *k) {
    float x[ROOM], out[ROOM];
    const uint64_t seed = 0x123456789abcdefu, stream = 0xfedcba9876543210u, firsts[] = {0, 1, 7, 1023, 0x3ffffffffu};
    const uint32_t threshold = 0x60000000u;
    for (size_t f = 0; f < PEFT_COUNT(firsts); f++) {
        for (int64_t n = 1; n < ROOM; n += 13) {
            fill(x, 0.5f);
            fill(out, 99.0f);
            k->dropout(n, x, seed, stream, firsts[f], threshold, 1.6f, out, false);
            bool same = untouched(out, n);
            for (int64_t i = 0; i < n; i++) {
                uint32_t words[4];
                peft__philox(seed, stream, (firsts[f] + (uint64_t)i) / 4, words);
                same = same && out[i] == (words[(firsts[f] + (uint64_t)i) % 4] >= threshold ? x[i] * 1.6f : 0.0f);
            }
            CHECK(same);
        }
    }
}

int main(void) {
    for (uint32_t cpu = PEFT_CPU_GENERIC; cpu <= peft__cpu_detect(); cpu++) {
        const peft__kernels *k = peft__kernels_for(cpu);
        CHECK(k->cpu == cpu);
        check_exp(k);
        check_activations(k);
        check_lengths(k);
        check_dropout(k);
    }
    return check_summary();
}
