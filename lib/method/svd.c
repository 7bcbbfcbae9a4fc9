/* svd.c: singular values by way of the Gram matrix of the shorter side (svd.h).
 *
 * The Gram matrix is brought to tridiagonal form by reflections and diagonalised by QR steps with implicit shifts; its
 * eigenvectors are one set of singular vectors, the other follows by a product. Squaring costs accuracy only for values
 * below 1e-8 of the largest; what is kept here goes into float matrices, so those are set to zero with their vectors.
 */
#include <math.h>

#include "method/svd.h"

#define SMALLEST 1e-8 /* of the largest singular value */
enum { OVERSAMPLE = 8, MOST_TURNS = 64 };

/* ---- eigenvectors of a symmetric matrix --------------------------------------------------------------------- */

/* One reflection I - beta v v^T that clears column k of a below its subdiagonal; v gets the n - k - 1 numbers. */
static double reflection(const double *a, int64_t n, int64_t k, double *v, double *out_subdiagonal) {
    double squares = 0.0;
    for (int64_t i = k + 1; i < n; i++) {
        v[i] = a[i * n + k];
        squares += v[i] * v[i];
    }
    const double first = v[k + 1], rest = squares - first * first;
    if (rest <= 0.0) {
        *out_subdiagonal = first;
        return 0.0;
    }
    const double length = first > 0.0 ? -sqrt(squares) : sqrt(squares);
    v[k + 1] = first - length;
    *out_subdiagonal = length;
    return 2.0 / (rest + v[k + 1] * v[k + 1]);
}

/* a = q^T T q with T tridiagonal (d, e); rows of q. a is used up; v and p are scratch [n]. */
static void tridiagonal(double *a, int64_t n, double *q, double *d, double *e, double *v, double *p) {
    memset(q, 0, (size_t)(n * n) * sizeof *q);
    for (int64_t i = 0; i < n; i++) q[i * n + i] = 1.0;
    for (int64_t k = 0; k + 1 < n; k++) {
        const double beta = reflection(a, n, k, v, &e[k]);
        if (beta == 0.0) continue;
        double along = 0.0;
        for (int64_t i = k + 1; i < n; i++) {
            double sum = 0.0;
            for (int64_t j = k + 1; j < n; j++) sum += a[i * n + j] * v[j];
            p[i] = beta * sum;
            along += p[i] * v[i];
        }
        for (int64_t i = k + 1; i < n; i++) p[i] -= 0.5 * beta * along * v[i];
        for (int64_t i = k + 1; i < n; i++)
            for (int64_t j = k + 1; j < n; j++) a[i * n + j] -= v[i] * p[j] + p[i] * v[j];
        memset(p, 0, (size_t)n * sizeof *p);
        for (int64_t i = k + 1; i < n; i++)
            for (int64_t j = 0; j < n; j++) p[j] += v[i] * q[i * n + j];
        for (int64_t i = k + 1; i < n; i++)
            for (int64_t j = 0; j < n; j++) q[i * n + j] -= beta * v[i] * p[j];
    }
    for (int64_t i = 0; i < n; i++) d[i] = a[i * n + i];
}

static void turn_rows(double *x, double *y, int64_t n, double c, double s) {
    for (int64_t i = 0; i < n; i++) {
        const double a = x[i], b = y[i];
        x[i] = c * a + s * b;
        y[i] = c * b - s * a;
    }
}

/* One QR step with Wilkinson's shift on rows low .. high. */
static void qr_step(double *d, double *e, double *q, int64_t n, int64_t low, int64_t high) {
    const double half = (d[high - 1] - d[high]) / 2.0, b = e[high - 1];
    const double root = sqrt(half * half + b * b), below = half + (half < 0.0 ? -root : root);
    double x = d[low] - (d[high] - (below != 0.0 ? b * b / below : 0.0)), z = e[low];
    for (int64_t k = low; k < high; k++) {
        const double r = sqrt(x * x + z * z), c = r > 0.0 ? x / r : 1.0, s = r > 0.0 ? z / r : 0.0;
        const double here = d[k], next = d[k + 1], off = e[k];
        if (k > low) e[k - 1] = r;
        d[k] = c * c * here + 2.0 * c * s * off + s * s * next;
        d[k + 1] = s * s * here - 2.0 * c * s * off + c * c * next;
        e[k] = c * s * (next - here) + (c * c - s * s) * off;
        if (k + 1 < high) {
            x = e[k];
            z = s * e[k + 1];
            e[k + 1] *= c;
        }
        turn_rows(q + k * n, q + (k + 1) * n, n, c, s);
    }
}

/* False when it does not come to an end. */
static bool diagonal(double *d, double *e, double *q, int64_t n) {
    int64_t turns = 0;
    for (int64_t high = n - 1; high > 0;) {
        int64_t low = high;
        while (low > 0 && fabs(e[low - 1]) > 1e-16 * (fabs(d[low - 1]) + fabs(d[low]))) low--;
        if (low == high) {
            high--;
            continue;
        }
        if (turns++ > MOST_TURNS * n) return false;
        qr_step(d, e, q, n, low, high);
    }
    return true;
}

/* ---- singular values ---------------------------------------------------------------------------------------- */

/* g [k, k] = a a^T (short side: rows) or a^T a. */
static void gram(const double *a, int64_t m, int64_t n, bool rows, double *g) {
    const int64_t k = rows ? m : n;
    memset(g, 0, (size_t)(k * k) * sizeof *g);
    if (rows) {
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j <= i; j++) {
                double sum = 0.0;
                for (int64_t c = 0; c < n; c++) sum += a[i * n + c] * a[j * n + c];
                g[i * k + j] = g[j * k + i] = sum;
            }
        return;
    }
    for (int64_t r = 0; r < m; r++)
        for (int64_t i = 0; i < n; i++) {
            const double f = a[r * n + i];
            for (int64_t j = 0; j < n; j++) g[i * k + j] += f * a[r * n + j];
        }
}

/* u = a v^T / s for a vector v of the right side, or v = u^T a / s. */
static void other_side(const double *a, int64_t m, int64_t n, bool rows, int64_t rank, const double *s, double *u,
                       double *vt) {
    for (int64_t r = 0; r < rank; r++) {
        const double by = s[r] > 0.0 ? 1.0 / s[r] : 0.0;
        if (rows) memset(vt + r * n, 0, (size_t)n * sizeof *vt);
        for (int64_t i = 0; i < m; i++) {
            if (rows) {
                const double f = by * u[i * rank + r];
                for (int64_t j = 0; j < n; j++) vt[r * n + j] += f * a[i * n + j];
            } else {
                double sum = 0.0;
                for (int64_t j = 0; j < n; j++) sum += a[i * n + j] * vt[r * n + j];
                u[i * rank + r] = by * sum;
            }
        }
    }
}

/* The `rank` largest of d, each with its row of q, to s and to u or vt. Uses d up. */
static void pick(double *d, const double *q, int64_t k, bool rows, int64_t rank, double *u, double *s, double *vt) {
    double largest = 0.0;
    for (int64_t r = 0; r < rank; r++) {
        int64_t best = 0;
        for (int64_t i = 1; i < k; i++)
            if (d[i] > d[best]) best = i;
        s[r] = d[best] > 0.0 ? sqrt(d[best]) : 0.0;
        if (r == 0) largest = s[0];
        if (s[r] <= SMALLEST * largest) s[r] = 0.0;
        for (int64_t i = 0; i < k; i++) {
            const double value = s[r] > 0.0 ? q[best * k + i] : 0.0;
            if (rows)
                u[i * rank + r] = value;
            else
                vt[r * k + i] = value;
        }
        d[best] = -HUGE_VAL;
    }
}

peft_status peft__svd(peft_context *ctx, const double *a, int64_t m, int64_t n, int64_t rank, double *u, double *s,
                      double *vt) {
    for (int64_t i = 0; i < m * n; i++)
        if (!isfinite(a[i]))
            return peft__fail(ctx, PEFT_E_NONFINITE, "a matrix whose singular values are wanted is not finite");
    const bool rows = m < n;
    const int64_t k = rows ? m : n;
    const size_t bytes = (size_t)(2 * k * k + 4 * k) * sizeof(double);
    double *g = peft__alloc(ctx->mem, bytes);
    if (g == NULL) return peft__fail_nomem(ctx, bytes, "singular values");
    double *q = g + k * k, *d = q + k * k, *e = d + k, *v = e + k, *p = v + k;
    gram(a, m, n, rows, g);
    tridiagonal(g, k, q, d, e, v, p);
    const bool done = diagonal(d, e, q, k);
    if (done) {
        pick(d, q, k, rows, rank, u, s, vt);
        other_side(a, m, n, rows, rank, s, u, vt);
    }
    peft__free(ctx->mem, g);
    return done ? PEFT_OK
                : peft__fail(ctx, PEFT_E_NONFINITE, "the singular values of a [%lld, %lld] matrix are not to be found",
                             (long long)m, (long long)n);
}

/* ---- random directions -------------------------------------------------------------------------------------- */

void peft__orthonormal_rows(double *q, int64_t rows, int64_t n) {
    for (int64_t i = 0; i < rows; i++) {
        double *row = q + i * n, before = 0.0, after = 0.0;
        for (int64_t c = 0; c < n; c++) before += row[c] * row[c];
        for (int pass = 0; pass < 2; pass++) /* once more: what rounding left */
            for (int64_t j = 0; j < i; j++) {
                double dot = 0.0;
                for (int64_t c = 0; c < n; c++) dot += row[c] * q[j * n + c];
                for (int64_t c = 0; c < n; c++) row[c] -= dot * q[j * n + c];
            }
        for (int64_t c = 0; c < n; c++) after += row[c] * row[c];
        const double by = after > 1e-24 * before && after > 0.0 ? 1.0 / sqrt(after) : 0.0;
        for (int64_t c = 0; c < n; c++) row[c] *= by;
    }
}

/* to [k, m] = from [k, n] a^T, or to [k, n] = from [k, m] a. */
static void through(const double *a, int64_t m, int64_t n, bool turned, const double *from, int64_t k, double *to) {
    memset(to, 0, (size_t)(k * (turned ? m : n)) * sizeof *to);
    for (int64_t r = 0; r < k; r++)
        for (int64_t i = 0; i < m; i++) {
            if (turned) {
                double sum = 0.0;
                for (int64_t j = 0; j < n; j++) sum += from[r * n + j] * a[i * n + j];
                to[r * m + i] = sum;
            } else {
                const double f = from[r * m + i];
                for (int64_t j = 0; j < n; j++) to[r * n + j] += f * a[i * n + j];
            }
        }
}

peft_status peft__svd_random(peft_context *ctx, const double *a, int64_t m, int64_t n, int64_t rank, int64_t rounds,
                             uint64_t seed, double *u, double *s, double *vt) {
    const int64_t k = peft__min_i64(rank + OVERSAMPLE, peft__min_i64(m, n));
    const size_t bytes = (size_t)(k * (m + 2 * n + k) + k) * sizeof(double);
    double *left = peft__alloc(ctx->mem, bytes);
    if (left == NULL) return peft__fail_nomem(ctx, bytes, "singular values");
    double *right = left + k * m, *small_vt = right + k * n, *small_u = small_vt + k * n, *small_s = small_u + k * k;
    peft__rng rng = peft__rng_make(seed, 0);
    for (int64_t i = 0; i < k * n; i++) right[i] = (double)peft__rng_normal(&rng);
    for (int64_t round = 0; round <= rounds; round++) {
        through(a, m, n, true, right, k, left);
        peft__orthonormal_rows(left, k, m);
        through(a, m, n, false, left, k, right);
        if (round < rounds) peft__orthonormal_rows(right, k, n);
    }
    /* right = Q^T a, [k, n]: its singular vectors are those of a, the left ones seen through Q. */
    const peft_status status = peft__svd(ctx, right, k, n, peft__min_i64(rank, k), small_u, small_s, small_vt);
    if (status >= 0) {
        memcpy(s, small_s, (size_t)rank * sizeof *s);
        memcpy(vt, small_vt, (size_t)(rank * n) * sizeof *vt);
        for (int64_t i = 0; i < m; i++)
            for (int64_t r = 0; r < rank; r++) {
                double sum = 0.0;
                for (int64_t j = 0; j < k; j++) sum += left[j * m + i] * small_u[j * rank + r];
                u[i * rank + r] = sum;
            }
    }
    peft__free(ctx->mem, left);
    return status;
}
