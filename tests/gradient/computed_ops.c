/* computed_ops.c: weight matrices computed from a few parameters (LoHa, LoKr) and rotations of blocks (OFT). */
#include "gradient.h"

static const int64_t lengths[] = {5, 1, 43, 2, 0};
static const peft__weight_drop nothing;

/* ---- hadamard ----------------------------------------------------------------------------------------------- */

typedef struct hadamard_case {
    int64_t out, in, rank;
    uint32_t frozen; /* bit i: input i */
} hadamard_case;

static void hadamard_reference(gc *c, void *user) {
    const hadamard_case *h = user;
    for (int64_t o = 0; o < h->out; o++)
        for (int64_t i = 0; i < h->in; i++) {
            double sum[2] = {0.0, 0.0};
            for (int k = 0; k < 2; k++)
                for (int64_t j = 0; j < h->rank; j++)
                    sum[k] += c->in[2 * k].exact[o * h->rank + j] * c->in[2 * k + 1].exact[j * h->in + i];
            c->out[0].want[o * h->in + i] = 0.75 * sum[0] * sum[1];
        }
}

static void check_hadamard(const gc_style *style, hadamard_case h) {
    gc c;
    gc_begin(&c, "hadamard", style, lengths, NULL);
    peft__value *in[4];
    for (uint32_t i = 0; i < 4; i++) {
        in[i] = gc_leaf_new(&c, i % 2 == 0 ? h.out : h.rank, i % 2 == 0 ? h.rank : h.in, 1.0f);
        if ((h.frozen >> i) & 1u) gc_freeze_last(&c);
    }
    gc_output_new(&c, peft__op_hadamard(c.graph, in[0], in[1], in[2], in[3], 0.75f, &nothing));
    gc_end(&c, hadamard_reference, &h);
}

/* ---- kronecker ---------------------------------------------------------------------------------------------- */

typedef struct kronecker_case {
    int64_t a, c, b, d;
    uint32_t frozen;
} kronecker_case;

static void kronecker_reference(gc *c, void *user) {
    const kronecker_case *k = user;
    const int64_t out = k->a * k->b, in = k->c * k->d;
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++)
            c->out[0].want[o * in + i] =
                -1.5 * c->in[0].exact[o / k->b * k->c + i / k->d] * c->in[1].exact[o % k->b * k->d + i % k->d];
}

static void check_kronecker(const gc_style *style, kronecker_case k) {
    gc c;
    gc_begin(&c, "kronecker", style, lengths, NULL);
    peft__value *w1 = gc_input_new(&c, k.a, k.c, 1.0f);
    if (k.frozen & 1u) gc_freeze_last(&c);
    peft__value *w2 = gc_input_new(&c, k.b, k.d, 1.0f);
    if (k.frozen & 2u) gc_freeze_last(&c);
    gc_output_new(&c, peft__op_kronecker(c.graph, w1, w2, -1.5f, &nothing));
    gc_end(&c, kronecker_reference, &k);
}

/* ---- cayley and rotate -------------------------------------------------------------------------------------- */

typedef struct cayley_case {
    int64_t blocks, block, powers;
    bool exact;
    double radius;
} cayley_case;

enum { MOST = 9 };

static void times(int64_t n, double a[MOST][MOST], double b[MOST][MOST], double c[MOST][MOST]) {
    double sum[MOST][MOST] = {{0.0}};
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            for (int64_t k = 0; k < n; k++) sum[i][j] += a[i][k] * b[k][j];
    memcpy(c, sum, sizeof sum);
}

/* (I + Q)^-1 as the series of powers of -Q, for the small Q of these cases. */
static void inverse(int64_t n, double q[MOST][MOST], double m[MOST][MOST]) {
    double power[MOST][MOST] = {{0.0}}, minus[MOST][MOST] = {{0.0}};
    for (int64_t i = 0; i < n; i++) power[i][i] = m[i][i] = 1.0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) minus[i][j] = -q[i][j];
    for (int step = 0; step < 200; step++) {
        times(n, power, minus, power);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) m[i][j] += power[i][j];
    }
}

static void cayley_reference(gc *c, void *user) {
    const cayley_case *t = user;
    const int64_t n = t->block;
    for (int64_t blk = 0; blk < t->blocks; blk++) {
        double q[MOST][MOST] = {{0.0}}, r[MOST][MOST] = {{0.0}}, power[MOST][MOST] = {{0.0}};
        const double *upper = c->in[0].exact + blk * n * (n - 1) / 2;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = i + 1; j < n; j++) {
                q[i][j] = *upper++;
                q[j][i] = -q[i][j];
            }
        if (t->exact) {
            double m[MOST][MOST] = {{0.0}};
            inverse(n, q, m);
            for (int64_t i = 0; i < n; i++)
                for (int64_t j = 0; j < n; j++) q[i][j] = (i == j ? 1.0 : 0.0) - q[i][j];
            times(n, q, m, r);
        } else {
            for (int64_t i = 0; i < n; i++) power[i][i] = r[i][i] = 1.0;
            for (int64_t p = 1; p <= t->powers; p++) {
                times(n, power, q, power);
                const double factor = p == t->powers && t->powers > 1 ? 1.0 : 2.0;
                for (int64_t i = 0; i < n; i++)
                    for (int64_t j = 0; j < n; j++) r[i][j] += factor * power[i][j];
            }
        }
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) c->out[0].want[(blk * n + i) * n + j] = r[i][j];
    }
}

static void check_cayley(const gc_style *style, cayley_case t) {
    gc c;
    gc_begin(&c, t.exact ? "cayley, exact" : "cayley, series", style, lengths, NULL);
    peft__value *upper = gc_input_new(&c, t.blocks, t.block * (t.block - 1) / 2, 0.1f);
    gc_output_new(&c, peft__op_cayley(c.graph, upper, t.block, t.exact, t.powers, 0.0f));
    gc_end(&c, cayley_reference, &t);
}

typedef struct rotate_case {
    int64_t blocks, block;
    bool shared;
    uint32_t frozen;
} rotate_case;

static void rotate_reference(gc *c, void *user) {
    const rotate_case *t = user;
    const int64_t n = t->block, cols = n * t->blocks;
    for (int64_t r = 0; r < c->batch.rows; r++)
        for (int64_t o = 0; o < cols; o++) {
            const int64_t blk = o / n;
            double sum = 0.0;
            for (int64_t k = 0; k < n; k++)
                sum += c->in[0].exact[r * cols + blk * n + k] *
                       c->in[1].exact[((t->shared ? 0 : blk) * n + k) * n + o % n];
            c->out[0].want[r * cols + o] = sum;
        }
}

static void check_rotate(const gc_style *style, rotate_case t) {
    gc c;
    gc_begin(&c, t.shared ? "rotate, one matrix" : "rotate", style, lengths, NULL);
    peft__value *x = gc_input_new(&c, GC_STREAM, t.blocks * t.block, 1.0f);
    if (t.frozen & 1u) gc_freeze_last(&c);
    peft__value *r = gc_input_new(&c, (t.shared ? 1 : t.blocks) * t.block, t.block, 1.0f);
    if (t.frozen & 2u) gc_freeze_last(&c);
    gc_output_new(&c, peft__op_rotate(c.graph, x, r, 0.0f, 1));
    gc_end(&c, rotate_reference, &t);
}

int main(void) {
    gc_style style;
    for (uint32_t s = 0; gc_next_style(&s, &style);) {
        check_hadamard(&style, (hadamard_case){5, 7, 2, 0});
        check_hadamard(&style, (hadamard_case){67, 70, 3, 0});
        check_hadamard(&style, (hadamard_case){33, 9, 4, 6});
        check_kronecker(&style, (kronecker_case){2, 3, 4, 5, 0});
        check_kronecker(&style, (kronecker_case){1, 1, 9, 3, 0});
        check_kronecker(&style, (kronecker_case){4, 6, 3, 17, 2});
        for (int64_t powers = 0; powers < 6; powers++) check_cayley(&style, (cayley_case){2, 4, powers, false, 0.0});
        check_cayley(&style, (cayley_case){3, 9, 4, false, 0.0});
        check_cayley(&style, (cayley_case){3, 5, 0, true, 0.0});
        check_cayley(&style, (cayley_case){1, 2, 0, true, 0.0});
        check_rotate(&style, (rotate_case){3, 4, false, 0});
        check_rotate(&style, (rotate_case){3, 5, true, 0});
        check_rotate(&style, (rotate_case){2, 33, false, 1});
        check_rotate(&style, (rotate_case){2, 33, false, 2});
    }
    return gc_summary();
}
