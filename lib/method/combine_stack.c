/* combine_stack.c: the weighted sum of several LoRA changes, as it is or cut back to a rank.
 *
 * cat      A' = rows of w s A one above the other, B' = columns of B: exactly the sum of w s B A, of the summed rank.
 * svd      that sum cut back to a rank by its singular values: B' = U S, A' = V^T. The sum is never formed: with
 *          B = Q_B T_B and A = T_A Q_A it is enough to take the [R, R] core T_B T_A apart.
 */
#include "method/combine.h"
#include "method/svd.h"

/* All factors of a module: rows of A, rows of B transposed; A has weight and scale in it. [R, in], [R, out]. */
static peft_status stack(const peft__combining *c, const peft__module *module, double *a, double *bt) {
    const int64_t in = module->in, out = module->out;
    int64_t at = 0;
    for (uint32_t i = 0; i < c->count; i++) {
        const peft__lora_layer *layer = peft__combine_layer(c, i, module);
        if (layer == NULL) continue;
        const int64_t rank = peft__lora_rank(layer);
        const size_t bytes = (size_t)(rank * (in + out)) * sizeof(float);
        float *one = peft__alloc(c->ctx->mem, bytes);
        if (one == NULL) return peft__fail_nomem(c->ctx, bytes, "combining adapters");
        peft__lora_factors(c->adapters[i], layer, one, one + rank * in);
        const double factor = peft__combine_factor(c, i, layer);
        for (int64_t j = 0; j < rank; j++, at++) {
            for (int64_t k = 0; k < in; k++) a[at * in + k] = factor * (double)one[j * in + k];
            for (int64_t o = 0; o < out; o++) bt[at * out + o] = (double)one[rank * in + o * rank + j];
        }
        peft__free(c->ctx->mem, one);
    }
    return PEFT_OK;
}

/* t [rows, rows] = x q^T for x, q [rows, n]. */
static void project(const double *x, const double *q, int64_t rows, int64_t n, double *t) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < rows; j++) {
            double sum = 0.0;
            for (int64_t k = 0; k < n; k++) sum += x[i * n + k] * q[j * n + k];
            t[i * rows + j] = sum;
        }
}

/* B' = U S and A' = V^T of the sum, cut to `rank`. `core` has room for 5 R^2 + R. */
static peft_status cut(const peft__combining *c, const peft__module *module, int64_t all, int64_t rank, const double *a,
                       const double *bt, double *core, float *out_a, float *out_b) {
    const int64_t in = module->in, out = module->out, size = all * all;
    double *ta = core, *tb = ta + size, *product = tb + size, *u = product + size, *vt = u + size, *s = vt + size;
    const size_t bytes = (size_t)(all * (in + out)) * sizeof(double);
    double *qa = peft__alloc(c->ctx->mem, bytes);
    if (qa == NULL) return peft__fail_nomem(c->ctx, bytes, "combining adapters");
    double *qb = qa + all * in;
    memcpy(qa, a, (size_t)(all * in) * sizeof *qa);
    memcpy(qb, bt, (size_t)(all * out) * sizeof *qb);
    peft__orthonormal_rows(qa, all, in);
    peft__orthonormal_rows(qb, all, out);
    project(a, qa, all, in, ta);   /* A = TA QA */
    project(bt, qb, all, out, tb); /* B^T = TB QB, so B A = QB^T (TB^T TA) QA */
    for (int64_t i = 0; i < all; i++)
        for (int64_t j = 0; j < all; j++) {
            double sum = 0.0;
            for (int64_t k = 0; k < all; k++) sum += tb[k * all + i] * ta[k * all + j];
            product[i * all + j] = sum;
        }
    const peft_status status = peft__svd(c->ctx, product, all, all, all, u, s, vt);
    const int64_t kept = peft__min_i64(rank, all);
    for (int64_t r = 0; status >= 0 && r < kept; r++) {
        for (int64_t i = 0; i < in; i++) {
            double sum = 0.0;
            for (int64_t k = 0; k < all; k++) sum += vt[r * all + k] * qa[k * in + i];
            out_a[r * in + i] = (float)sum;
        }
        for (int64_t o = 0; o < out; o++) {
            double sum = 0.0;
            for (int64_t k = 0; k < all; k++) sum += u[k * all + r] * qb[k * out + o];
            out_b[o * rank + r] = (float)(s[r] * sum);
        }
    }
    peft__free(c->ctx->mem, qa);
    return status;
}

static void put_stacked(const peft__module *module, int64_t rank, const double *a, const double *bt, float *out_a,
                        float *out_b) {
    for (int64_t i = 0; i < rank * module->in; i++) out_a[i] = (float)a[i];
    for (int64_t j = 0; j < rank; j++)
        for (int64_t o = 0; o < module->out; o++) out_b[o * rank + j] = (float)bt[j * module->out + o];
}

peft_status peft__combine_stacked(const peft__combining *c, const peft__module *module, int64_t rank, float *out_a,
                                  float *out_b) {
    const int64_t all = peft__combine_ranks(c, module);
    const size_t bytes = (size_t)(all * (module->in + module->out) + 5 * all * all + all) * sizeof(double);
    double *a = peft__alloc(c->ctx->mem, bytes);
    if (a == NULL) return peft__fail_nomem(c->ctx, bytes, "combining adapters");
    double *bt = a + all * module->in, *core = bt + all * module->out;
    peft_status status = stack(c, module, a, bt);
    if (status >= 0 && c->rule->on == PEFT__COMBINE_CUT)
        status = cut(c, module, all, rank, a, bt, core, out_a, out_b);
    else if (status >= 0)
        put_stacked(module, all, a, bt, out_a, out_b);
    peft__free(c->ctx->mem, a);
    return status;
}
