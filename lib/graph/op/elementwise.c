/* elementwise.c: sums, constants, broadcast vectors, soft cap.
 *
 * The gradient of a sum is the gradient of its terms: the planner shares the buffer (alias_grad) and nothing is
 * computed. A broadcast vector's gradient is a sum over rows, cut by columns.
 */
#include "graph/op/slot.h"
#include "graph/op/tiles.h"

typedef struct constant {
    float value;
} constant;

static float constant_of(const peft__node *node) {
    return ((const constant *)node->attr)->value;
}

/* Backward tiles: first those of x by rows, then those of a vector (in[1]) by columns. */
static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)phase;
    const peft__value *out = node->out[0];
    const uint32_t rows = peft__row_tiles(out->rows->count, out->cols);
    if (pass == PEFT__FORWARD) return rows;
    uint32_t sum = peft__wants_grad(node->in[0]) && (node->op->alias_grad & 1u) == 0 ? rows : 0;
    if (node->in_count > 1 && peft__wants_grad(node->in[1]) && (node->op->alias_grad & 2u) == 0)
        sum += peft__column_tiles(out->cols);
    return sum;
}

/* The tile's rows, or in *columns the columns of the vector and false. */
static bool is_row_tile(const peft__node *node, peft__pass pass, uint32_t tile, peft__range *range) {
    const peft__value *out = node->out[0];
    const uint32_t rows = peft__row_tiles(out->rows->count, out->cols);
    const bool has_rows = pass == PEFT__FORWARD || (peft__wants_grad(node->in[0]) && (node->op->alias_grad & 1u) == 0);
    if (has_rows && tile < rows) {
        *range = peft__tile_rows(tile, out->rows->count, out->cols);
        return true;
    }
    *range = peft__tile_columns(has_rows ? tile - rows : tile, out->cols);
    return false;
}

/* ---- a + b ------------------------------------------------------------------------------------------------- */

static void add_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    if (pass != PEFT__FORWARD) return;
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__range rows = peft__tile_rows(tile, node->out[0]->rows->count, node->out[0]->cols);
    for (int64_t r = rows.first; r < rows.end; r++)
        kernels->add(node->out[0]->cols, peft__row(node->in[0], r), peft__row(node->in[1], r),
                     peft__row(node->out[0], r));
}

static const peft__op add_op = {.name = "add", .in_place = 0, .alias_grad = 3u, .tiles = tiles, .tile = add_tile};

peft__value *peft__op_add(peft__graph *g, peft__value *a, peft__value *b) {
    if (a == NULL || b == NULL || peft__graph_failed(g)) return NULL;
    if (!peft__value_check(g, "add", "second term", b, a->rows, a->cols)) return NULL;
    return peft__add_row_node(g, &add_op, (peft__value *[]){a, b}, 2, a, NULL, 0);
}

/* ---- x * factor ---------------------------------------------------------------------------------------------- */

static void scale_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__value *x = node->in[0], *out = node->out[0];
    const float factor = constant_of(node);
    const peft__range rows = peft__tile_rows(tile, out->rows->count, out->cols);
    for (int64_t r = rows.first; r < rows.end; r++) {
        if (pass == PEFT__FORWARD)
            kernels->scale(out->cols, factor, peft__row(x, r), peft__row(out, r), false);
        else
            kernels->scale(out->cols, factor, peft__grad_row(out, r), peft__grad_row(x, r), peft__accumulates(node, 0));
    }
}

static const peft__op scale_op = {.name = "scale", .in_place = 0, .tiles = tiles, .tile = scale_tile};

peft__value *peft__op_scale(peft__graph *g, peft__value *x, float factor) {
    if (x == NULL || peft__graph_failed(g)) return NULL;
    const constant attr = {factor};
    return peft__add_row_node(g, &scale_op, &x, 1, x, &attr, sizeof attr);
}

/* ---- x + vector, x * vector ------------------------------------------------------------------------------------ */

static void add_vector_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile,
                            const peft__run *run) {
    (void)phase;
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__value *x = node->in[0], *vector = node->in[1], *out = node->out[0];
    peft__range range;
    if (is_row_tile(node, pass, tile, &range)) {
        for (int64_t r = range.first; r < range.end; r++)
            kernels->add(out->cols, peft__row(x, r), vector->data, peft__row(out, r));
        return;
    }
    kernels->column_sum(out->rows->count, range.end - range.first, out->grad + range.first, out->ld, NULL, 0,
                        vector->grad + range.first, peft__accumulates(node, 1));
}

static const peft__op add_vector_op = {
    .name = "add_vector", .in_place = 0, .alias_grad = 1u, .tiles = tiles, .tile = add_vector_tile};

static void mul_vector_reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    *in_mask = (peft__wants_grad(node->in[1]) ? 1u : 0u) | (peft__wants_grad(node->in[0]) ? 2u : 0u);
    *out_mask = 0;
}

/* Rows [first, end) of one pass; rows of sequences that use another adapter pass through unchanged. */
static void mul_vector_rows(const peft__node *node, peft__pass pass, int64_t first, int64_t end, const peft__run *run) {
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__value *x = node->in[0], *vector = node->in[1], *out = node->out[0];
    const bool forward = pass == PEFT__FORWARD, add = !forward && peft__accumulates(node, 0);
    int64_t done = first;
    for (int64_t begin = first, r0, r1; done < end;) {
        if (!peft__next_run(node->attr, out->rows, run->batch, &begin, end, &r0, &r1)) r0 = r1 = end;
        for (; done < r0; done++)
            kernels->scale(out->cols, 1.0f, forward ? peft__row(x, done) : peft__grad_row(out, done),
                           forward ? peft__row(out, done) : peft__grad_row(x, done), add);
        for (; done < r1; done++)
            kernels->mul(out->cols, forward ? peft__row(x, done) : peft__grad_row(out, done), vector->data,
                         forward ? peft__row(out, done) : peft__grad_row(x, done), add);
    }
}

static void mul_vector_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile,
                            const peft__run *run) {
    (void)phase;
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__value *x = node->in[0], *vector = node->in[1], *out = node->out[0];
    peft__range range;
    if (is_row_tile(node, pass, tile, &range)) {
        mul_vector_rows(node, pass, range.first, range.end, run);
        return;
    }
    const int64_t count = range.end - range.first;
    bool add = peft__accumulates(node, 1);
    for (int64_t begin = 0, r0, r1;
         peft__next_run(node->attr, out->rows, run->batch, &begin, out->rows->count, &r0, &r1); add = true)
        kernels->column_sum(r1 - r0, count, out->grad + r0 * out->ld + range.first, out->ld,
                            x->data + r0 * x->ld + range.first, x->ld, vector->grad + range.first, add);
    if (!add) memset(vector->grad + range.first, 0, (size_t)count * sizeof(float));
}

static const peft__op mul_vector_op = {.name = "mul_vector",
                                       .cheap = true,
                                       .in_place = -1,
                                       .reads = mul_vector_reads,
                                       .tiles = tiles,
                                       .tile = mul_vector_tile};

static peft__value *vector_node(peft__graph *g, const peft__op *op, peft__value *x, peft__value *vector, int32_t slot) {
    if (x == NULL || vector == NULL || peft__graph_failed(g)) return NULL;
    if (!peft__value_check(g, op->name, "vector", vector, NULL, x->cols)) return NULL;
    const peft__slot_of attr = {slot, peft__rows_in_decoder(x->rows)};
    return peft__add_row_node(g, op, (peft__value *[]){x, vector}, 2, x, &attr, sizeof attr);
}

peft__value *peft__op_add_vector(peft__graph *g, peft__value *x, peft__value *vector) {
    return vector_node(g, &add_vector_op, x, vector, -1);
}
peft__value *peft__op_mul_vector(peft__graph *g, peft__value *x, peft__value *vector) {
    return vector_node(g, &mul_vector_op, x, vector, -1);
}

peft__value *peft__op_mul_vector_of(peft__graph *g, peft__value *x, peft__value *vector, int32_t slot) {
    return vector_node(g, &mul_vector_op, x, vector, slot);
}

/* ---- c tanh(x / c) ------------------------------------------------------------------------------------------ */

static void soft_cap_reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    (void)node;
    *in_mask = 0;
    *out_mask = 1;
}

static void soft_cap_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile,
                          const peft__run *run) {
    (void)phase;
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__value *x = node->in[0], *out = node->out[0];
    const peft__range rows = peft__tile_rows(tile, out->rows->count, out->cols);
    for (int64_t r = rows.first; r < rows.end; r++) {
        if (pass == PEFT__FORWARD)
            kernels->soft_cap(out->cols, constant_of(node), peft__row(x, r), peft__row(out, r));
        else
            kernels->soft_cap_backward(out->cols, constant_of(node), peft__row(out, r), peft__grad_row(out, r),
                                       peft__grad_row(x, r), peft__accumulates(node, 0));
    }
}

static const peft__op soft_cap_op = {
    .name = "soft_cap", .in_place = 0, .reads = soft_cap_reads, .tiles = tiles, .tile = soft_cap_tile};

peft__value *peft__op_soft_cap(peft__graph *g, peft__value *x, float cap) {
    if (x == NULL || peft__graph_failed(g)) return NULL;
    if (!(cap > 0.0f))
        return peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_ARG,
                                              "soft_cap: the cap is %g, expected above 0", (double)cap));
    const constant attr = {cap};
    return peft__add_row_node(g, &soft_cap_op, &x, 1, x, &attr, sizeof attr);
}
