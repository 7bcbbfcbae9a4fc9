/* gemm_blis.h: BLIS's micro-kernels in the form of peft__gemm. */
#ifndef PEFT_KERNEL_GEMM_BLIS_H
#define PEFT_KERNEL_GEMM_BLIS_H

#include "kernel/gemm.h"

/* False where this build has no micro-kernel of BLIS for the CPU. `few`: the narrow one is wanted. */
bool peft__gemm_blis(uint32_t cpu, bool few, peft__gemm *out);

#endif
