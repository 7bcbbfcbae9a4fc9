/* features.c: rows that are no tokens (image patches, sensor frames), as the batch brings them. */
#include "graph/op/tiles.h"

static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)phase;
    return pass == PEFT__FORWARD ? peft__row_tiles(node->out[0]->rows->count, node->out[0]->cols) : 0;
}

static void tile_run(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)pass;
    (void)phase;
    const peft__value *out = node->out[0];
    const peft_batch *batch = run->batch;
    const peft__range rows = peft__tile_rows(tile, out->rows->count, out->cols);
    const bool present = batch->features != NULL && batch->feature_cols == out->cols; /* the session has checked it */
    for (int64_t r = rows.first; r < rows.end; r++) {
        if (present && r < batch->rows)
            memcpy(peft__row(out, r), batch->features + r * batch->feature_cols, (size_t)out->cols * sizeof(float));
        else
            memset(peft__row(out, r), 0, (size_t)out->cols * sizeof(float));
    }
}

static const peft__op features_op = {.name = "features", .in_place = -1, .tiles = tiles, .tile = tile_run};

peft__value *peft__op_features(peft__graph *g, peft__rows *rows, int64_t cols) {
    if (rows == NULL || peft__graph_failed(g)) return NULL;
    peft__value *out = peft__value_new(g, rows, cols, "features");
    if (out == NULL) return NULL;
    return peft__node_add(g, &features_op, NULL, 0, &out, 1, NULL, 0) != NULL ? out : NULL;
}
