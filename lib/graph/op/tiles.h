/* tiles.h: how row-wise operations cut their work.
 *
 * A tile is a run of rows of about 16 thousand elements: small enough to slice time and share out, large enough that
 * handing it over costs nothing. Sums over rows are cut by columns instead, and each tile adds all rows in order, so
 * that no partial sums meet in an order that depends on threads.
 */
#ifndef PEFT_GRAPH_OP_TILES_H
#define PEFT_GRAPH_OP_TILES_H

#include "graph/op/weights.h"
#include "kernel/kernels.h"

enum { PEFT__TILE_ELEMENTS = 16384, PEFT__TILE_COLUMNS = 64 };

static inline int64_t peft__rows_per_tile(int64_t cols) {
    return cols >= PEFT__TILE_ELEMENTS ? 1 : PEFT__TILE_ELEMENTS / (cols > 0 ? cols : 1);
}

static inline uint32_t peft__row_tiles(int64_t rows, int64_t cols) {
    return (uint32_t)peft__ceil_div(rows, peft__rows_per_tile(cols));
}

static inline uint32_t peft__column_tiles(int64_t cols) {
    return (uint32_t)peft__ceil_div(cols, PEFT__TILE_COLUMNS);
}

/* Of operations on so few numbers that one tile does them. */
static inline uint32_t peft__one_tile(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)node;
    (void)pass;
    (void)phase;
    return 1;
}

typedef struct peft__range {
    int64_t first, end;
} peft__range;

static inline peft__range peft__tile_rows(uint32_t tile, int64_t rows, int64_t cols) {
    const int64_t step = peft__rows_per_tile(cols), first = (int64_t)tile * step;
    return (peft__range){first, peft__min_i64(first + step, rows)};
}

static inline peft__range peft__tile_columns(uint32_t tile, int64_t cols) {
    const int64_t first = (int64_t)tile * PEFT__TILE_COLUMNS;
    return (peft__range){first, peft__min_i64(first + PEFT__TILE_COLUMNS, cols)};
}

static inline bool peft__wants_grad(const peft__value *value) {
    return value != NULL && value->needs_grad;
}

static inline float *peft__row(const peft__value *value, int64_t row) {
    return value->data + row * value->ld;
}
static inline float *peft__grad_row(const peft__value *value, int64_t row) {
    return value->grad + row * value->ld;
}

/* What each row is looked up by, [rows]. */
static inline const int32_t *peft__lookup_indices(const peft__rows *rows, peft__lookup by) {
    return by == PEFT__LOOKUP_POSITIONS ? rows->positions : by == PEFT__LOOKUP_TYPES ? rows->types : rows->ids;
}

/* Floats of a frozen vector, in the graph's memory; NULL after a failure. */
const float *peft__frozen_vector(peft__graph *graph, const peft__tensor *tensor);

/* `value` is [*, cols] in `rows`: false, and said in the graph, when it is not. NULL rows or cols < 0: not looked at.
 */
bool peft__value_check(peft__graph *graph, const char *op, const char *what, const peft__value *value,
                       const peft__rows *rows, int64_t cols);

/* A node with outputs of the same shape as `like`; the usual tail of an operation. */
peft__value *peft__add_row_node(peft__graph *graph, const peft__op *op, peft__value *const *in, uint32_t in_count,
                                const peft__value *like, const void *attr, size_t attr_size);

#endif
