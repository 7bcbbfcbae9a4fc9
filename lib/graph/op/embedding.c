/* embedding.c: rows of a table, looked up by token id, position or token type.
 *
 * A frozen table is widened row by row as it is read. The gradient of a trained one is scattered by tiles over columns
 * that each walk all rows in order: ids repeat, and so the sums have one order whatever the threads.
 */
#include "graph/op/tiles.h"

typedef struct embedding {
    peft__weight table;
    peft__rows *rows;
    peft__lookup by;
    float scale;
    int32_t padding_index;
} embedding;

static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)phase;
    const peft__value *out = node->out[0];
    return pass == PEFT__FORWARD ? peft__row_tiles(out->rows->count, out->cols) : peft__column_tiles(out->cols);
}

static void forward(const peft__node *node, uint32_t tile, const peft__run *run) {
    const embedding *a = node->attr;
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__value *out = node->out[0];
    const int32_t *index = peft__lookup_indices(a->rows, a->by);
    const peft__matrix table = peft__weight_matrix(&a->table);
    const peft__range rows = peft__tile_rows(tile, out->rows->count, out->cols);
    for (int64_t r = rows.first; r < rows.end; r++) {
        float *to = peft__row(out, r);
        /* Ids beyond the table were refused with the batch. */
        if (index[r] < 0 || index[r] >= table.rows)
            memset(to, 0, (size_t)out->cols * sizeof(float));
        else
            peft__widen(run->cpu, table.dtype, peft__matrix_row(&table, index[r]), 0, out->cols, to);
        if (a->scale != 1.0f) kernels->scale(out->cols, a->scale, to, to, false);
    }
}

static void backward(const peft__node *node, uint32_t tile, const peft__run *run) {
    const embedding *a = node->attr;
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__value *out = node->out[0], *table = node->in[0];
    const int32_t *index = peft__lookup_indices(a->rows, a->by);
    const peft__range columns = peft__tile_columns(tile, out->cols);
    const int64_t count = columns.end - columns.first;
    if (!peft__accumulates(node, 0))
        for (int64_t r = 0; r < table->rows->count; r++)
            memset(peft__grad_row(table, r) + columns.first, 0, (size_t)count * sizeof(float));
    for (int64_t r = 0; r < out->rows->count; r++) {
        if (index[r] < 0 || index[r] >= table->rows->count || index[r] == a->padding_index) continue;
        kernels->scale(count, a->scale, peft__grad_row(out, r) + columns.first,
                       peft__grad_row(table, index[r]) + columns.first, true);
    }
}

static void tile_run(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    if (pass == PEFT__FORWARD)
        forward(node, tile, run);
    else
        backward(node, tile, run);
}

static const peft__op embedding_op = {.name = "embedding", .in_place = -1, .tiles = tiles, .tile = tile_run};

peft__value *peft__op_embedding(peft__graph *g, peft__rows *rows, peft__weight table, peft__lookup by, float scale,
                                int32_t padding_index) {
    if (rows == NULL || peft__graph_failed(g)) return NULL;
    if (!peft__weight_check(g, "embedding", &table, table.matrix.rows, table.matrix.cols)) return NULL;
    if (table.matrix.transposed)
        return peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_UNSUPPORTED,
                                              "embedding: a table stored by columns cannot be looked up"));
    const embedding attr = {table, rows, by, scale, padding_index};
    peft__value *out = peft__value_new(g, rows, table.matrix.cols, "embedding");
    if (out == NULL) return NULL;
    return peft__node_add(g, &embedding_op, &table.value, 1, &out, 1, &attr, sizeof attr) != NULL ? out : NULL;
}
