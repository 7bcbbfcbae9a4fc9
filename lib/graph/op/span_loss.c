/* span_loss.c: cross entropy of an answer's first and last row within its sequence.
 *
 * Column 0 scores every row as the start, column 1 as the end. Rows that a method put before a text are scored like any
 * other, as padding is not there; the batch's positions count the text's own rows. As in transformers an answer that is
 * not in the text (-100, or beyond it) does not count. Two numbers a row: one tile does it all, in double.
 */
#include "graph/op/tiles.h"

#include <math.h>

enum { COLUMNS = 2 };

static void reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    (void)node;
    *in_mask = 1u;
    *out_mask = 0;
}

/* Row of the logits that the batch names for a sequence, -1 = none. */
static int64_t target_of(const peft__rows *rows, const peft_batch *batch, int64_t sequence, int column) {
    const int32_t *positions = column == 0 ? batch->start_positions : batch->end_positions;
    if (positions == NULL || sequence >= batch->sequences) return -1;
    const int64_t text = batch->offsets[sequence + 1] - batch->offsets[sequence];
    const int64_t position = positions[sequence], end = rows->offsets[sequence + 1];
    if (position < 0 || position >= text || text > end - rows->offsets[sequence]) return -1;
    return end - text + position;
}

static double log_sum_exp(const peft__value *x, int64_t first, int64_t end, int column) {
    double top = -INFINITY, sum = 0.0;
    for (int64_t r = first; r < end; r++) top = fmax(top, (double)peft__row(x, r)[column]);
    for (int64_t r = first; r < end; r++) sum += exp((double)peft__row(x, r)[column] - top);
    return top + log(sum);
}

static void backward_rows(const peft__node *node, int64_t first, int64_t end, int column, int64_t target, double lse) {
    const peft__value *x = node->in[0];
    const bool accumulate = peft__accumulates(node, 0);
    for (int64_t r = first; r < end; r++) {
        double slope = 0.0;
        if (target >= 0) slope = 0.5 * (exp((double)peft__row(x, r)[column] - lse) - (r == target ? 1.0 : 0.0));
        float *to = peft__grad_row(x, r) + column;
        *to = (accumulate ? *to : 0.0f) + (float)slope;
    }
}

static void tile_run(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    (void)tile;
    const peft__value *x = node->in[0];
    const peft__rows *rows = x->rows;
    double sum = 0.0, count = 0.0;
    for (int64_t s = 0; s < rows->sequences; s++) {
        const int64_t first = rows->offsets[s], end = rows->offsets[s + 1];
        for (int column = 0; column < COLUMNS; column++) {
            const int64_t target = target_of(rows, run->batch, s, column);
            const double lse = target < 0 ? 0.0 : log_sum_exp(x, first, end, column);
            if (pass == PEFT__BACKWARD)
                backward_rows(node, first, end, column, target, lse);
            else if (target >= 0)
                sum += 0.5 * (lse - (double)peft__row(x, target)[column]), count += 0.5;
        }
    }
    if (pass == PEFT__BACKWARD) return;
    node->out[0]->data[0] = (float)sum;
    node->out[0]->data[1] = (float)count;
}

static const peft__op span_loss_op = {
    .name = "span_loss", .is_loss = true, .in_place = -1, .reads = reads, .tiles = peft__one_tile, .tile = tile_run};

peft__value *peft__op_span_loss(peft__graph *g, peft__value *logits) {
    if (logits == NULL || peft__graph_failed(g)) return NULL;
    if (logits->cols != COLUMNS)
        return peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_INTERNAL,
                                              "answers have 2 scores a row, not %lld", (long long)logits->cols));
    peft__value *out = peft__value_new(g, peft__rows_fixed(g, 1), 2, "loss");
    if (out == NULL) return NULL;
    out->flags |= PEFT__VALUE_STAT;
    return peft__node_add(g, &span_loss_op, &logits, 1, &out, 1, NULL, 0) != NULL ? out : NULL;
}
