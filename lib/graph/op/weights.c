/* weights.c: checks of weights and vectors when a node is built. */
#include "graph/op/weights.h"

#include <inttypes.h>

bool peft__weight_check(peft__graph *graph, const char *name, const peft__weight *weight, int64_t out, int64_t in) {
    peft_context *ctx = peft__graph_context(graph);
    const peft__matrix *m = &weight->matrix;
    if (m->rows != out || m->cols != in || out <= 0 || in <= 0) {
        peft__graph_fail(graph,
                         peft__fail(ctx, PEFT_E_ARG,
                                    "%s: weight is [%" PRId64 ", %" PRId64 "], expected [%" PRId64 ", %" PRId64 "]",
                                    name, m->rows, m->cols, out, in));
        return false;
    }
    if (weight->value != NULL) {
        const int64_t rows = m->transposed ? in : out, cols = m->transposed ? out : in;
        if (weight->value->rows->max_rows == rows && weight->value->cols == cols) return true;
        peft__graph_fail(graph, peft__fail(ctx, PEFT_E_ARG,
                                           "%s: weight value is [%" PRId64 ", %" PRId64 "], expected [%" PRId64
                                           ", %" PRId64 "]",
                                           name, weight->value->rows->max_rows, weight->value->cols, rows, cols));
        return false;
    }
    if (m->data == NULL || !peft__dtype_is_float(m->dtype)) {
        peft__graph_fail(graph, peft__fail(ctx, PEFT_E_ARG, "%s: weight of type %s cannot be multiplied", name,
                                           peft_dtype_name(m->dtype)));
        return false;
    }
    return true;
}

bool peft__vector_check(peft__graph *graph, const char *name, const peft__vector *vector, int64_t length) {
    if (peft__vector_absent(vector)) return true;
    const int64_t found = vector->value != NULL ? vector->value->rows->max_rows * vector->value->cols
                                                : peft__tensor_elements(vector->tensor);
    if (found != length) {
        peft__graph_fail(graph,
                         peft__fail(peft__graph_context(graph), PEFT_E_ARG,
                                    "%s: vector has %" PRId64 " elements, expected %" PRId64, name, found, length));
        return false;
    }
    if (vector->value == NULL && !peft__dtype_is_float(vector->tensor->dtype)) {
        peft__graph_fail(graph,
                         peft__fail(peft__graph_context(graph), PEFT_E_ARG, "%s: vector of type %s cannot be used",
                                    name, peft_dtype_name(vector->tensor->dtype)));
        return false;
    }
    return true;
}
