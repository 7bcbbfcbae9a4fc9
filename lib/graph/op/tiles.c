/* tiles.c: what row-wise operations share when a node is built. */
#include "graph/op/tiles.h"

#include <inttypes.h>

const float *peft__frozen_vector(peft__graph *graph, const peft__tensor *tensor) {
    const int64_t count = peft__tensor_elements(tensor);
    float *floats = peft__arena_alloc(peft__graph_arena(graph), (size_t)count * sizeof(float));
    if (floats == NULL) {
        peft__graph_fail(graph, peft__fail_nomem(peft__graph_context(graph), (size_t)count * sizeof(float),
                                                 "a vector of the model"));
        return NULL;
    }
    peft__dequantize(tensor->dtype, tensor->data, count, floats);
    return floats;
}

bool peft__value_check(peft__graph *graph, const char *op, const char *what, const peft__value *value,
                       const peft__rows *rows, int64_t cols) {
    peft_context *ctx = peft__graph_context(graph);
    if (cols >= 0 && value->cols != cols) {
        peft__graph_fail(graph, peft__fail(ctx, PEFT_E_ARG, "%s: %s has %" PRId64 " columns, expected %" PRId64, op,
                                           what, value->cols, cols));
        return false;
    }
    if (rows != NULL && value->rows != rows) {
        peft__graph_fail(graph, peft__fail(ctx, PEFT_E_ARG, "%s: %s is in row space \"%s\", expected \"%s\"", op, what,
                                           value->rows->name, rows->name));
        return false;
    }
    return true;
}

peft__value *peft__add_row_node(peft__graph *graph, const peft__op *op, peft__value *const *in, uint32_t in_count,
                                const peft__value *like, const void *attr, size_t attr_size) {
    peft__value *out = peft__value_new(graph, like->rows, like->cols, op->name);
    if (out == NULL) return NULL;
    return peft__node_add(graph, op, in, in_count, &out, 1, attr, attr_size) != NULL ? out : NULL;
}
