/* gemm_avx512.c: kernels of the dense and low-rank products for this instruction set. */
#include "kernel/gemm_micro.inc"
#include "kernel/gemv.inc"
#include "kernel/low_rank.inc"
#include "kernel/softmax_loss.inc"
#include "kernel/widen.inc"
