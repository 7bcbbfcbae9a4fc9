/* kernels_avx512.c: the kernels for this instruction set. */
#include "kernel/kernels.inc"
