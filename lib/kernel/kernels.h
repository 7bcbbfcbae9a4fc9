/* kernels.h: the row-wise kernels, attention and the optimizer updates, as one table per instruction set.
 *
 * All work on floats that lie one behind the other; operations call them row by row, so that column views (rows apart
 * by more than their length) need nothing special. `accumulate` adds to the output instead of overwriting it. Inputs
 * and outputs may be the same array but must not overlap otherwise. Sums have a fixed order for a given table.
 */
#ifndef PEFT_KERNEL_KERNELS_H
#define PEFT_KERNEL_KERNELS_H

#include "kernel/attention.h"
#include "kernel/kernel.h"

/* Functions of one variable; the numbering follows no other list. */
typedef enum {
    PEFT__FN_RELU,
    PEFT__FN_GELU, /* x P(X < x) */
    PEFT__FN_GELU_TANH,
    PEFT__FN_SILU,
    PEFT__FN_TANH,
    PEFT__FN_QUICK_GELU, /* x sigmoid(1.702 x) */
    PEFT__FN_IDENTITY,
    PEFT__FN_SIGMOID
} peft__fn;

/* What an optimizer does to one element; peft__kernels.update. */
typedef enum { PEFT__UPDATE_ADAM, PEFT__UPDATE_ADAMW, PEFT__UPDATE_SGD, PEFT__UPDATE_LION } peft__update_rule;
typedef struct peft__update {
    peft__update_rule rule;
    bool nesterov;
    bool first; /* SGD: the momentum buffer is still empty and takes the gradient as it is */
    double lr, weight_decay;
    double beta1, beta2; /* SGD: beta1 is the momentum, beta2 the dampening */
    double eps;
    double correction1, correction2; /* 1 - beta^step of Adam's two averages */
    double grad_scale;               /* every gradient is multiplied by this first: 1 / count, clipping */
} peft__update;

struct peft__kernels {
    uint32_t cpu;

    /* -- elementwise */
    void (*add)(int64_t n, const float *a, const float *b, float *out);
    void (*accumulate)(int64_t n, const float *x, float *out);
    void (*scale)(int64_t n, float factor, const float *x, float *out, bool accumulate);
    void (*mul)(int64_t n, const float *a, const float *b, float *out, bool accumulate);
    void (*soft_cap)(int64_t n, float cap, const float *x, float *out);
    void (*soft_cap_backward)(int64_t n, float cap, const float *out, const float *dout, float *dx, bool accumulate);
    void (*exp)(int64_t n, const float *x, float *out);
    /* out[c] = sum over rows r of x[r * ldx + c] (* y[r * ldy + c] when y is not NULL). */
    void (*column_sum)(int64_t rows, int64_t cols, const float *x, int64_t ldx, const float *y, int64_t ldy, float *out,
                       bool accumulate);
    double (*dot)(int64_t n, const float *a, const float *b); /* sums of 64 in float, those in double */

    /* -- activations */
    void (*activate)(peft__fn fn, int64_t n, const float *x, float *out);
    void (*activate_backward)(peft__fn fn, int64_t n, const float *x, const float *dout, float *dx, bool accumulate);
    void (*gated)(peft__fn fn, int64_t n, const float *gate, const float *up, float *out); /* fn(gate) * up */
    /* dgate or dup may be NULL. */
    void (*gated_backward)(peft__fn fn, int64_t n, const float *gate, const float *up, const float *dout, float *dgate,
                           bool accumulate_gate, float *dup, bool accumulate_up);

    /* -- norms of one row; weight [n] (NULL: ones) + offset; bias may be NULL */
    float (*rms_norm)(int64_t n, const float *x, const float *weight, float offset, float eps,
                      float *out); /* 1 / rms */
    void (*rms_norm_backward)(int64_t n, const float *x, const float *weight, float offset, float scale,
                              const float *dout, float *dx, bool accumulate);
    /* out_stat: mean and 1 / deviation. */
    void (*layer_norm)(int64_t n, const float *x, const float *weight, float offset, const float *bias, float eps,
                       float *out, float out_stat[2]);
    void (*layer_norm_backward)(int64_t n, const float *x, const float *weight, float offset, const float stat[2],
                                const float *dout, float *dx, bool accumulate);
    /* out[c] += sum over rows of dout (x - mean) scale; stat holds 2 floats (mean, scale) a row, `lds` apart. */
    void (*norm_weight_grad)(int64_t rows, int64_t cols, const float *x, int64_t ldx, const float *dout, int64_t ldd,
                             const float *stat, int64_t lds, float *out);

    /* -- rotary embedding of one row: angles = cos [half] then sin [half]; turn = 1 forward, -1 backward */
    void (*rope)(int64_t heads, int64_t head_dim, int64_t half, const float *angles, float turn, const float *x,
                 float *out, bool accumulate);

    /* -- softmax rows */
    float (*log_sum_exp)(int64_t n, const float *x);
    /* out[j] = factor * exp(x[j] - lse) */
    void (*softmax)(int64_t n, const float *x, float lse, float factor, float *out, bool accumulate);

    /* -- dropout of elements [first, first + n) of the mask (seed, stream): out = x * factor where the number is >=
     * threshold, else 0 */
    void (*dropout)(int64_t n, const float *x, uint64_t seed, uint64_t stream, uint64_t first, uint32_t threshold,
                    float factor, float *out, bool accumulate);

    /* -- attention.h */
    void (*attention_forward)(const peft__attention_tile *tile);
    void (*attention_backward)(const peft__attention_tile *tile);

    /* -- optimizers; m and v may be NULL where the rule does not use them */
    void (*update)(const peft__update *update, int64_t n, float *param, const float *grad, float *m, float *v);
};

#endif
