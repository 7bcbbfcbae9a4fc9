/* rotation.c: rotations of blocks of columns (OFT): matrices from skew-symmetric ones, and rows times those matrices.
 *
 * cayley    Each row of a value [blocks, b (b - 1) / 2] is the upper triangle of Q = -Q^T, and gives R [b, b]:
 *             exact      R = (I - Q)(I + Q)^-1 = 2 (I + Q)^-1 - I
 *             series     R = I + 2 Q + 2 Q^2 + ... + Q^m, which approaches (I + Q)(I - Q)^-1: the other sense of
 * turning, as the reference has it. By Horner's rule H_m = I, H_i = c_i I + Q H_(i+1), R = H_0. Backward with G: exact
 * dQ = -2 M^T G M^T, M = (I + Q)^-1; series dQ = sum_i D_i H_(i+1)^T, D_0 = G, D_(i+1) = Q^T D_i. In double: blocks are
 * small and errors would add up over powers. rotate    y[:, block] = x[:, block] R_block; one R for each block, or one
 * for all.
 */
#include <inttypes.h>
#include <math.h>

#include "graph/op/tiles.h"
#include "kernel/low_rank.h"

/* ---- small matrices --------------------------------------------------------------------------------------------- */

/* c = a b, or a^T b; all [n, n]. */
static void times(int64_t n, const double *a, bool turned, const double *b, double *c) {
    for (int64_t i = 0; i < n; i++) {
        double *to = c + i * n;
        memset(to, 0, (size_t)n * sizeof *to);
        for (int64_t k = 0; k < n; k++) {
            const double f = turned ? a[k * n + i] : a[i * n + k], *from = b + k * n;
            for (int64_t j = 0; j < n; j++) to[j] += f * from[j];
        }
    }
}

/* c += a b^T */
static void add_times_turned(int64_t n, const double *a, const double *b, double *c) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0.0;
            for (int64_t k = 0; k < n; k++) sum += a[i * n + k] * b[j * n + k];
            c[i * n + j] += sum;
        }
}

static void swap_rows(int64_t n, double *m, int64_t a, int64_t b) {
    for (int64_t j = 0; a != b && j < n; j++) {
        const double kept = m[a * n + j];
        m[a * n + j] = m[b * n + j];
        m[b * n + j] = kept;
    }
}

/* inverse = m^-1; m is used up. I + Q has no eigenvalue below 1 in magnitude, so there is always a pivot. */
static void invert(int64_t n, double *m, double *inverse) {
    memset(inverse, 0, (size_t)(n * n) * sizeof *inverse);
    for (int64_t i = 0; i < n; i++) inverse[i * n + i] = 1.0;
    for (int64_t col = 0; col < n; col++) {
        int64_t pivot = col;
        for (int64_t i = col + 1; i < n; i++)
            if (fabs(m[i * n + col]) > fabs(m[pivot * n + col])) pivot = i;
        swap_rows(n, m, pivot, col);
        swap_rows(n, inverse, pivot, col);
        const double by = 1.0 / m[col * n + col];
        for (int64_t j = 0; j < n; j++) {
            m[col * n + j] *= by;
            inverse[col * n + j] *= by;
        }
        for (int64_t i = 0; i < n; i++) {
            const double f = i != col ? m[i * n + col] : 0.0;
            if (f == 0.0) continue;
            for (int64_t j = 0; j < n; j++) {
                m[i * n + j] -= f * m[col * n + j];
                inverse[i * n + j] -= f * inverse[col * n + j];
            }
        }
    }
}

/* ---- cayley ------------------------------------------------------------------------------------------------------ */

typedef struct cayley {
    int64_t block, powers; /* powers: m of the series; 0 with exact = false: R = I */
    bool exact;
    float radius; /* 0 = none; else Q is drawn back to this length first, which the backward pass does not see */
} cayley;

/* c_i of the series: 1, 2, 2, ..., 1; two powers are cut off after 2 Q. */
static double coefficient(const cayley *a, int64_t i) {
    if (i == 0) return 1.0;
    return i < a->powers || a->powers == 1 ? 2.0 : 1.0;
}

static uint32_t cayley_tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)phase;
    return pass == PEFT__FORWARD || peft__wants_grad(node->in[0]) ? (uint32_t)node->in[0]->rows->max_rows : 0;
}

static void read_skew(const cayley *a, const float *upper, double *q) {
    const int64_t n = a->block;
    double squares = 0.0;
    for (int64_t i = 0; i < n * (n - 1) / 2; i++) squares += 2.0 * (double)upper[i] * (double)upper[i];
    const double length = sqrt(squares), radius = (double)a->radius;
    const double f = radius > 0.0 && length > radius ? radius / length : 1.0;
    for (int64_t i = 0; i < n; i++) {
        q[i * n + i] = 0.0;
        for (int64_t j = i + 1; j < n; j++, upper++) {
            q[i * n + j] = f * (double)*upper;
            q[j * n + i] = -q[i * n + j];
        }
    }
}

/* h[i] for i = 0 .. powers, each [n, n]. */
static void series(const cayley *a, const double *q, double *h) {
    const int64_t n = a->block, size = n * n;
    for (int64_t i = a->powers; i >= 0; i--) {
        double *here = h + i * size;
        if (i == a->powers)
            memset(here, 0, (size_t)size * sizeof *here);
        else
            times(n, q, false, here + size, here);
        for (int64_t k = 0; k < n; k++) here[k * n + k] += coefficient(a, i);
    }
}

static void inverse_of(const cayley *a, double *q, double *m) {
    for (int64_t k = 0; k < a->block; k++) q[k * a->block + k] += 1.0;
    invert(a->block, q, m);
}

static void cayley_forward(const peft__node *node, int64_t block, double *lane) {
    const cayley *a = node->attr;
    const peft__value *out = node->out[0];
    const int64_t n = a->block, size = n * n;
    double *q = lane, *h = q + size;
    read_skew(a, peft__row(node->in[0], block), q);
    if (a->exact)
        inverse_of(a, q, h);
    else
        series(a, q, h);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            const double r = h[i * n + j];
            peft__row(out, block * n + i)[j] = (float)(a->exact ? 2.0 * r - (i == j ? 1.0 : 0.0) : r);
        }
}

static void cayley_backward(const peft__node *node, int64_t block, double *lane) {
    const cayley *a = node->attr;
    const peft__value *out = node->out[0], *in = node->in[0];
    const int64_t n = a->block, size = n * n;
    double *q = lane, *g = q + size, *dq = g + size, *next = dq + size, *h = next + size;
    read_skew(a, peft__row(in, block), q);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) g[i * n + j] = (double)peft__grad_row(out, block * n + i)[j];
    memset(dq, 0, (size_t)size * sizeof *dq);
    if (a->exact) {
        inverse_of(a, q, h);
        times(n, h, true, g, next);
        add_times_turned(n, next, h, dq);
        for (int64_t i = 0; i < size; i++) dq[i] *= -2.0;
    } else {
        series(a, q, h);
        for (int64_t i = 0; i < a->powers; i++) {
            add_times_turned(n, g, h + (i + 1) * size, dq);
            times(n, q, true, g, next);
            double *kept = g;
            g = next;
            next = kept;
        }
    }
    float *grad = peft__grad_row(in, block);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i + 1; j < n; j++, grad++)
            *grad = (peft__accumulates(node, 0) ? *grad : 0.0f) + (float)(dq[i * n + j] - dq[j * n + i]);
}

static void cayley_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    if (pass == PEFT__FORWARD)
        cayley_forward(node, tile, run->lane);
    else
        cayley_backward(node, tile, run->lane);
}

static void cayley_reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    (void)node;
    *in_mask = 1;
    *out_mask = 0;
}

static size_t cayley_lane(const peft__node *node, peft__pass pass) {
    (void)pass;
    const cayley *a = node->attr;
    return (size_t)(a->block * a->block * (a->powers + 6)) * sizeof(double);
}

static const peft__op cayley_op = {.name = "cayley",
                                   .in_place = -1,
                                   .reads = cayley_reads,
                                   .tiles = cayley_tiles,
                                   .tile = cayley_tile,
                                   .lane_bytes = cayley_lane};

peft__value *peft__op_cayley(peft__graph *g, peft__value *upper, int64_t block, bool exact, int64_t powers,
                             float radius) {
    if (peft__graph_failed(g) || upper == NULL) return NULL;
    if (!upper->rows->fixed || block < 2 || block > 65536 || upper->cols != block * (block - 1) / 2 || powers < 0 ||
        powers > 64)
        return peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_ARG,
                                              "cayley: %" PRId64
                                              " columns are not the upper triangle of a block of %" PRId64,
                                              upper->cols, block));
    const cayley attr = {block, exact ? 0 : powers, exact, radius};
    peft__value *out = peft__value_new(g, peft__rows_fixed(g, upper->rows->max_rows * block), block, "cayley");
    if (out == NULL) return NULL;
    return peft__node_add(g, &cayley_op, &upper, 1, &out, 1, &attr, sizeof attr) == NULL ? NULL : out;
}

/* ---- rotate ------------------------------------------------------------------------------------------------- */

enum { IN_X = 0, IN_R = 1, ROWS = 48 };

typedef struct rotate {
    int64_t block, blocks, matrices; /* blocks of x; matrices: blocks, or 1 for all */
    float dropout;                   /* this share of the blocks is left alone in training */
    uint64_t stream;
} rotate;

static int64_t rotate_rows(const peft__node *node, peft__pass pass) {
    if (pass == PEFT__BACKWARD && !peft__wants_grad(node->in[IN_X])) return 0;
    return peft__ceil_div(node->in[IN_X]->rows->count, ROWS);
}

static uint32_t rotate_phases(const peft__node *node, peft__pass pass) {
    (void)node;
    (void)pass;
    return 2;
}

static uint32_t rotate_tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    const rotate *a = node->attr;
    if (phase == 0) return 1;
    const int64_t matrices = pass == PEFT__BACKWARD && peft__wants_grad(node->in[IN_R]) ? a->matrices : 0;
    return (uint32_t)(rotate_rows(node, pass) + matrices);
}

/* left[i] = 1 where block i is not turned in this pass: the floor(share * blocks) blocks with the smallest numbers. */
static void choose(const rotate *a, const peft__run *run, uint8_t *left) {
    memset(left, 0, (size_t)a->blocks);
    const int64_t count = run->training && a->matrices > 1 ? (int64_t)((double)a->dropout * (double)a->blocks) : 0;
    peft__rng rng = peft__rng_make(run->seed, a->stream);
    for (int64_t i = 0; i < count; i++) {
        int64_t at = (int64_t)peft__rng_below(&rng, (uint64_t)a->blocks);
        while (left[at]) at = (at + 1) % a->blocks;
        left[at] = 1;
    }
}

static const float *matrix_of(const peft__node *node, int64_t block) {
    const rotate *a = node->attr;
    const peft__value *r = node->in[IN_R];
    return r->data + (a->matrices == 1 ? 0 : block) * a->block * r->ld;
}

static void copy_block(int64_t rows, int64_t cols, const float *from, int64_t ld_from, bool add, float *to,
                       int64_t ld) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) to[r * ld + c] = (add ? to[r * ld + c] : 0.0f) + from[r * ld_from + c];
}

static void turn_rows(const peft__node *node, peft__pass pass, int64_t first, const peft__run *run) {
    const rotate *a = node->attr;
    const peft__low_rank *kernels = peft__low_rank_for(run->cpu);
    const peft__value *x = node->in[IN_X], *y = node->out[0];
    const int64_t rows = peft__min_i64(ROWS, x->rows->count - first), b = a->block, ld_r = node->in[IN_R]->ld;
    const uint8_t *left = run->temp;
    for (int64_t i = 0; i < a->blocks; i++) {
        const int64_t at = i * b;
        if (pass == PEFT__FORWARD) {
            float *to = y->data + first * y->ld + at;
            const float *from = x->data + first * x->ld + at;
            if (left[i])
                copy_block(rows, b, from, x->ld, false, to, y->ld);
            else
                kernels->expand(from, x->ld, rows, matrix_of(node, i), ld_r, b, b, false, to, y->ld);
        } else {
            float *u = run->lane;
            const float *from = y->grad + first * y->ld + at;
            if (!left[i]) kernels->reduce(from, y->ld, rows, matrix_of(node, i), ld_r, b, b, 1.0f, u, b);
            copy_block(rows, b, left[i] ? from : u, left[i] ? y->ld : b, peft__accumulates(node, IN_X),
                       x->grad + first * x->ld + at, x->ld);
        }
    }
}

static void sum_matrix(const peft__node *node, int64_t matrix, const peft__run *run) {
    const rotate *a = node->attr;
    const peft__low_rank *kernels = peft__low_rank_for(run->cpu);
    const peft__value *x = node->in[IN_X], *y = node->out[0], *r = node->in[IN_R];
    const int64_t b = a->block, end = a->matrices == 1 ? a->blocks : matrix + 1;
    const uint8_t *left = run->temp;
    float *to = r->grad + matrix * b * r->ld;
    bool keep = peft__accumulates(node, IN_R);
    for (int64_t i = matrix; i < end; i++) {
        if (left[i]) continue;
        kernels->gather(x->data + i * b, x->ld, x->rows->count, y->grad + i * b, y->ld, b, b, 1.0f, keep, to, r->ld, 1);
        keep = true;
    }
    for (int64_t k = 0; !keep && k < b; k++) memset(to + k * r->ld, 0, (size_t)b * sizeof *to);
}

static void rotate_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t number,
                        const peft__run *run) {
    const int64_t rows = rotate_rows(node, pass);
    if (phase == 0)
        choose(node->attr, run, run->temp);
    else if (number < rows)
        turn_rows(node, pass, (int64_t)number * ROWS, run);
    else
        sum_matrix(node, number - rows, run);
}

static void rotate_reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    *in_mask =
        (peft__wants_grad(node->in[IN_R]) ? 1u << IN_X : 0u) | (peft__wants_grad(node->in[IN_X]) ? 1u << IN_R : 0u);
    *out_mask = 0;
}

static size_t rotate_temp(const peft__node *node, peft__pass pass) {
    (void)pass;
    return (size_t)((const rotate *)node->attr)->blocks;
}

static size_t rotate_lane(const peft__node *node, peft__pass pass) {
    return pass == PEFT__FORWARD ? 0 : (size_t)(ROWS * ((const rotate *)node->attr)->block) * sizeof(float);
}

static double rotate_products(const peft__node *node, peft__pass pass, const peft_batch *batch) {
    const double one = (double)node->in[IN_X]->rows->count * (double)node->in[IN_X]->cols *
                       (double)((const rotate *)node->attr)->block;
    (void)batch;
    if (pass == PEFT__FORWARD) return one;
    return one * ((peft__wants_grad(node->in[IN_X]) ? 1.0 : 0.0) + (peft__wants_grad(node->in[IN_R]) ? 1.0 : 0.0));
}

static const peft__op rotate_op = {.name = "rotate",
                                   .in_place = -1,
                                   .reads = rotate_reads,
                                   .phases = rotate_phases,
                                   .tiles = rotate_tiles,
                                   .tile = rotate_tile,
                                   .temp_bytes = rotate_temp,
                                   .lane_bytes = rotate_lane,
                                   .products = rotate_products};

peft__value *peft__op_rotate(peft__graph *g, peft__value *x, peft__value *matrices, float dropout, uint64_t stream) {
    if (peft__graph_failed(g) || x == NULL || matrices == NULL) return NULL;
    const int64_t block = matrices->cols, count = matrices->rows->max_rows / block;
    if (!matrices->rows->fixed || matrices->rows->max_rows % block != 0 || x->cols % block != 0 ||
        (count != 1 && count != x->cols / block))
        return peft__graph_fail(g,
                                peft__fail(peft__graph_context(g), PEFT_E_ARG,
                                           "rotate: %" PRId64 " matrices of %" PRId64 " do not fit %" PRId64 " columns",
                                           count, block, x->cols));
    const rotate attr = {block, x->cols / block, count, dropout, stream};
    return peft__add_row_node(g, &rotate_op, (peft__value *[]){x, matrices}, 2, x, &attr, sizeof attr);
}
