/* roofline.h: the parts of the roofline program share a context, a clock and the measured peak. */
#ifndef PEFT_BENCHMARK_ROOFLINE_H
#define PEFT_BENCHMARK_ROOFLINE_H

#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"
#include "peft/peft.h"

typedef struct roofline {
    peft_context *ctx;
    uint32_t threads;
    bool processor_time; /* of the fastest run on one thread, for a machine that has other work to do */
    double peak;         /* GF/s of all threads together */
} roofline;

double roofline_now_us(const roofline *r); /* elapsed time, or processor time */
double roofline_peak(const roofline *r);   /* GF/s */

/* Rates of single products, shape by shape. */
void roofline_products(const roofline *r);

/* A training step of a causal model with an adapter; 0, or 1 after a message. */
int roofline_step(const roofline *r, const char *model, const char *config, int64_t length);

#endif
