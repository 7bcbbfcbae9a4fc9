/* rows.c: moving rows between spaces, and means over sequences.
 *
 * select_rows copies by the space's `source`. Several rows may come from one parent row, so its gradient is summed by
 * tiles over columns that walk all rows in order.
 */
#include "graph/op/tiles.h"

enum { IN_X, IN_TABLE, IN_COUNT };

/* ---- select_rows -------------------------------------------------------------------------------------------- */

static uint32_t select_tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)phase;
    const peft__value *out = node->out[0];
    if (pass == PEFT__FORWARD) return peft__row_tiles(out->rows->count, out->cols);
    uint32_t wanted = 0;
    for (uint32_t i = 0; i < IN_COUNT; i++) wanted += peft__wants_grad(node->in[i]);
    return wanted * peft__column_tiles(out->cols);
}

static void select_forward(const peft__node *node, uint32_t tile) {
    const peft__value *x = node->in[IN_X], *table = node->in[IN_TABLE], *out = node->out[0];
    const peft__range rows = peft__tile_rows(tile, out->rows->count, out->cols);
    for (int64_t r = rows.first; r < rows.end; r++) {
        const int32_t source = out->rows->source[r];
        const peft__value *from = source >= 0 ? x : table;
        const int64_t row = source >= 0 ? source : ~source;
        if (from != NULL && row < from->rows->count)
            memcpy(peft__row(out, r), peft__row(from, row), (size_t)out->cols * sizeof(float));
        else
            memset(peft__row(out, r), 0, (size_t)out->cols * sizeof(float));
    }
}

static void select_backward(const peft__node *node, uint32_t tile, const peft__run *run) {
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__value *out = node->out[0];
    uint32_t input = IN_X;
    if (!peft__wants_grad(node->in[IN_X]) || tile >= peft__column_tiles(out->cols)) {
        if (peft__wants_grad(node->in[IN_X])) tile -= peft__column_tiles(out->cols);
        input = IN_TABLE;
    }
    const peft__value *to = node->in[input];
    const peft__range columns = peft__tile_columns(tile, out->cols);
    const int64_t count = columns.end - columns.first;
    if (!peft__accumulates(node, input))
        for (int64_t r = 0; r < to->rows->count; r++)
            memset(peft__grad_row(to, r) + columns.first, 0, (size_t)count * sizeof(float));
    for (int64_t r = 0; r < out->rows->count; r++) {
        const int32_t source = out->rows->source[r];
        if ((source >= 0) != (input == IN_X)) continue;
        const int64_t row = source >= 0 ? source : ~source;
        if (row < to->rows->count)
            kernels->accumulate(count, peft__grad_row(out, r) + columns.first, peft__grad_row(to, row) + columns.first);
    }
}

static void select_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    if (pass == PEFT__FORWARD)
        select_forward(node, tile);
    else
        select_backward(node, tile, run);
}

static const peft__op select_op = {.name = "select_rows", .in_place = -1, .tiles = select_tiles, .tile = select_tile};

peft__value *peft__op_select_rows(peft__graph *g, peft__rows *rows, peft__value *x, peft__value *table) {
    if (rows == NULL || (x == NULL && table == NULL) || peft__graph_failed(g)) return NULL;
    const int64_t cols = x != NULL ? x->cols : table->cols;
    if (!rows->carries_source)
        return peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_ARG,
                                              "select_rows: row space \"%s\" has no sources", rows->name));
    if (x != NULL && !peft__value_check(g, "select_rows", "input", x, rows->parent, cols)) return NULL;
    if (table != NULL && !peft__value_check(g, "select_rows", "table", table, NULL, cols)) return NULL;
    peft__value *out = peft__value_new(g, rows, cols, "select_rows");
    if (out == NULL) return NULL;
    return peft__node_add(g, &select_op, (peft__value *[]){x, table}, IN_COUNT, &out, 1, NULL, 0) != NULL ? out : NULL;
}

/* ---- mean_rows -------------------------------------------------------------------------------------------------- */

static uint32_t mean_tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)phase;
    const peft__value *x = node->in[0];
    return pass == PEFT__FORWARD ? peft__column_tiles(x->cols) : peft__row_tiles(x->rows->count, x->cols);
}

static void mean_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__value *x = node->in[0], *out = node->out[0];
    const int32_t *offsets = x->rows->offsets;
    if (pass == PEFT__FORWARD) {
        const peft__range columns = peft__tile_columns(tile, x->cols);
        const int64_t count = columns.end - columns.first;
        for (int64_t s = 0; s < out->rows->count && s < x->rows->sequences; s++) {
            const int64_t length = offsets[s + 1] - offsets[s];
            float *to = peft__row(out, s) + columns.first;
            kernels->column_sum(length, count, peft__row(x, offsets[s]) + columns.first, x->ld, NULL, 0, to, false);
            if (length > 0) kernels->scale(count, 1.0f / (float)length, to, to, false);
        }
        return;
    }
    const peft__range rows = peft__tile_rows(tile, x->rows->count, x->cols);
    int64_t s = 0;
    for (int64_t r = rows.first; r < rows.end; r++) {
        while (s + 1 < x->rows->sequences && offsets[s + 1] <= r) s++;
        kernels->scale(x->cols, 1.0f / (float)(offsets[s + 1] - offsets[s]), peft__grad_row(out, s),
                       peft__grad_row(x, r), peft__accumulates(node, 0));
    }
}

static const peft__op mean_op = {.name = "mean_rows", .in_place = -1, .tiles = mean_tiles, .tile = mean_tile};

peft__value *peft__op_mean_rows(peft__graph *g, peft__rows *rows, peft__value *x) {
    if (rows == NULL || x == NULL || peft__graph_failed(g)) return NULL;
    if (rows->max_rows != x->rows->max_sequences)
        return peft__graph_fail(g,
                                peft__fail(peft__graph_context(g), PEFT_E_ARG,
                                           "mean_rows: row space \"%s\" does not have one row per sequence of \"%s\"",
                                           rows->name, x->rows->name));
    peft__value *out = peft__value_new(g, rows, x->cols, "mean_rows");
    if (out == NULL) return NULL;
    return peft__node_add(g, &mean_op, &x, 1, &out, 1, NULL, 0) != NULL ? out : NULL;
}
