/* kernels_generic.c: the kernels for this instruction set. */
#include "kernel/kernels.inc"
