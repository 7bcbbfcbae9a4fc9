/* weights.h: weights and vectors of a node, whether they lie in a file or in the graph. */
#ifndef PEFT_GRAPH_OP_WEIGHTS_H
#define PEFT_GRAPH_OP_WEIGHTS_H

#include "graph/ops.h"
#include "kernel/widen.h"

/* The matrix as kernels see it: the stored bytes, or the value's present floats. */
static inline peft__matrix peft__weight_matrix(const peft__weight *weight) {
    peft__matrix m = weight->matrix;
    if (weight->value != NULL) {
        m.data = (const uint8_t *)weight->value->data;
        m.dtype = PEFT_DTYPE_F32;
        m.interleave = 0;
        m.stride = (size_t)weight->value->ld * sizeof(float);
    }
    return m;
}

static inline bool peft__vector_absent(const peft__vector *vector) {
    return vector->tensor == NULL && vector->value == NULL;
}

/* Elements [first, first + count) as floats; zeros when the vector is absent. */
static inline void peft__vector_read(uint32_t cpu, const peft__vector *vector, int64_t first, int64_t count,
                                     float *out) {
    if (vector->value != NULL)
        memcpy(out, vector->value->data + first, (size_t)count * sizeof(float));
    else if (vector->tensor != NULL)
        peft__widen(cpu, vector->tensor->dtype, vector->tensor->data, first, count, out);
    else
        memset(out, 0, (size_t)count * sizeof(float));
}

/* Says in the graph why a weight or vector does not fit; true when it does. `name` is the operation. */
bool peft__weight_check(peft__graph *graph, const char *name, const peft__weight *weight, int64_t out, int64_t in);
bool peft__vector_check(peft__graph *graph, const char *name, const peft__vector *vector, int64_t length);

#endif
