/* svd.h: singular values of matrices of a few thousand rows, in double: for initial values and for joining adapters. */
#ifndef PEFT_METHOD_SVD_H
#define PEFT_METHOD_SVD_H

#include "base/base.h"

/* The `rank` largest singular values of a [m, n] with their vectors: a ~ u diag(s) vt, u [m, rank], vt [rank, n], s not
 * rising. rank <= min(m, n). Work grows with min(m, n)^3. PEFT_E_NONFINITE when a holds what is no number. */
peft_status peft__svd(peft_context *ctx, const double *a, int64_t m, int64_t n, int64_t rank, double *u, double *s,
                      double *vt);
/* The same approximately, from random directions sharpened `rounds` times (Halko et al. 2011): work grows with rank. */
peft_status peft__svd_random(peft_context *ctx, const double *a, int64_t m, int64_t n, int64_t rank, int64_t rounds,
                             uint64_t seed, double *u, double *s, double *vt);
/* Makes the rows of q [rows, n] orthonormal, one after another; a row that depends on earlier ones becomes zero. */
void peft__orthonormal_rows(double *q, int64_t rows, int64_t n);

#endif
