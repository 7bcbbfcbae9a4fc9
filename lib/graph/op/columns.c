/* columns.c: columns of a trained matrix, looked up by token id, position or token type: LoRA on an embedding, whose A
 * is [rank, vocabulary] with one column a token.
 *
 * The gradient is scattered by tiles over rows of the matrix that each walk all tokens in order: ids repeat, and so the
 * sums have one order whatever the threads.
 */
#include "graph/op/tiles.h"

typedef struct columns {
    peft__rows *rows;
    peft__lookup by;
    float scale;
    int32_t padding_index;
} columns;

static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)phase;
    const peft__value *out = node->out[0];
    return pass == PEFT__FORWARD ? peft__row_tiles(out->rows->count, out->cols) : (uint32_t)node->in[0]->rows->count;
}

static void forward(const peft__node *node, uint32_t tile) {
    const columns *a = node->attr;
    const peft__value *out = node->out[0], *matrix = node->in[0];
    const int32_t *index = peft__lookup_indices(a->rows, a->by);
    const peft__range rows = peft__tile_rows(tile, out->rows->count, out->cols);
    for (int64_t r = rows.first; r < rows.end; r++) {
        float *to = peft__row(out, r);
        const bool known = index[r] >= 0 && index[r] < matrix->cols;
        for (int64_t j = 0; j < out->cols; j++) to[j] = known ? a->scale * peft__row(matrix, j)[index[r]] : 0.0f;
    }
}

static void backward(const peft__node *node, uint32_t tile) {
    const columns *a = node->attr;
    const peft__value *out = node->out[0], *matrix = node->in[0];
    const int32_t *index = peft__lookup_indices(a->rows, a->by);
    const int64_t j = (int64_t)tile;
    float *grad = peft__grad_row(matrix, j);
    if (!peft__accumulates(node, 0)) memset(grad, 0, (size_t)matrix->cols * sizeof(float));
    for (int64_t r = 0; r < out->rows->count; r++) {
        if (index[r] < 0 || index[r] >= matrix->cols || index[r] == a->padding_index) continue;
        grad[index[r]] += a->scale * peft__grad_row(out, r)[j];
    }
}

static void tile_run(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    (void)run;
    if (pass == PEFT__FORWARD)
        forward(node, tile);
    else
        backward(node, tile);
}

static const peft__op columns_op = {.name = "columns", .in_place = -1, .tiles = tiles, .tile = tile_run};

peft__value *peft__op_columns(peft__graph *g, peft__rows *rows, peft__value *matrix, peft__lookup by, float scale,
                              int32_t padding_index) {
    if (rows == NULL || matrix == NULL || peft__graph_failed(g)) return NULL;
    const columns attr = {rows, by, scale, padding_index};
    peft__value *out = peft__value_new(g, rows, matrix->rows->max_rows, "columns");
    if (out == NULL) return NULL;
    return peft__node_add(g, &columns_op, &matrix, 1, &out, 1, &attr, sizeof attr) != NULL ? out : NULL;
}
