/* kernel.h: how kernels are chosen.
 *
 * Every kernel is a template (*.inc) compiled once in portable C and, on x86-64, once with AVX2 and once with AVX-512.
 * peft__kernels_for(cpu) returns a constant table of function pointers; nothing is decided at load time and nothing is
 * global. The variants of one kernel may differ in the last bits from one another, but one variant always gives the
 * same bits for the same input: reductions have a fixed order.
 */
#ifndef PEFT_KERNEL_KERNEL_H
#define PEFT_KERNEL_KERNEL_H

#include "base/base.h"

typedef struct peft__kernels peft__kernels; /* kernels.h */

/* cpu: PEFT_CPU_GENERIC, PEFT_CPU_AVX2 or PEFT_CPU_AVX512. */
const peft__kernels *peft__kernels_for(uint32_t cpu);

#endif
