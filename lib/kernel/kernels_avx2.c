/* kernels_avx2.c: the kernels for this instruction set. */
#include "kernel/kernels.inc"
