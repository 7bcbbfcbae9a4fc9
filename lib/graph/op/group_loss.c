/* group_loss.c: cross entropy over the answers to each question: multiple choice.
 *
 * Every sequence has one score; the batch's choice_offsets say which sequences answer a question, and sequence_labels
 * which of them is right, counted from 0. A question whose label is -100 does not count. With label smoothing e, of n
 * answers: loss = (1 - e) (lse - z_right) + e / n sum_a (lse - z_a). One number a sequence: one tile does it all, in
 * double.
 */
#include "graph/op/tiles.h"

#include <math.h>

typedef struct group_loss {
    float smoothing;
} group_loss;

static void reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    (void)node;
    *in_mask = 1u;
    *out_mask = 0;
}

static double score(const peft__value *x, int64_t sequence) {
    return (double)peft__row(x, sequence)[0];
}

static double log_sum_exp(const peft__value *x, int64_t first, int64_t end) {
    double top = -INFINITY, sum = 0.0;
    for (int64_t s = first; s < end; s++) top = fmax(top, score(x, s));
    for (int64_t s = first; s < end; s++) sum += exp(score(x, s) - top);
    return top + log(sum);
}

static int32_t right_of(const peft_batch *batch, int64_t question) {
    return batch->sequence_labels != NULL ? batch->sequence_labels[question] : PEFT_IGNORE_LABEL;
}

static void forward(const peft__node *node, const peft_batch *batch) {
    const peft__value *x = node->in[0];
    const double e = (double)((const group_loss *)node->attr)->smoothing;
    double sum = 0.0, count = 0.0;
    for (int64_t q = 0; q < batch->questions; q++) {
        const int32_t right = right_of(batch, q);
        if (right < 0) continue;
        const int64_t first = batch->choice_offsets[q], end = batch->choice_offsets[q + 1];
        const double lse = log_sum_exp(x, first, end);
        double all = 0.0;
        for (int64_t s = first; s < end; s++) all += lse - score(x, s);
        sum += (1.0 - e) * (lse - score(x, first + right)) + e / (double)(end - first) * all;
        count += 1.0;
    }
    node->out[0]->data[0] = (float)sum;
    node->out[0]->data[1] = (float)count;
}

static void put_slope(const peft__node *node, int64_t sequence, double slope) {
    float *to = peft__grad_row(node->in[0], sequence);
    *to = (peft__accumulates(node, 0) ? *to : 0.0f) + (float)slope;
}

static void backward(const peft__node *node, const peft_batch *batch) {
    const peft__value *x = node->in[0];
    const double e = (double)((const group_loss *)node->attr)->smoothing;
    if (batch->questions == 0)
        for (int64_t s = 0; s < x->rows->count; s++) put_slope(node, s, 0.0);
    for (int64_t q = 0; q < batch->questions; q++) {
        const int32_t right = right_of(batch, q);
        const int64_t first = batch->choice_offsets[q], end = batch->choice_offsets[q + 1];
        const double lse = right >= 0 ? log_sum_exp(x, first, end) : 0.0;
        for (int64_t s = first; s < end; s++) {
            const double wanted = (s == first + right ? 1.0 - e : 0.0) + e / (double)(end - first);
            put_slope(node, s, right >= 0 ? exp(score(x, s) - lse) - wanted : 0.0);
        }
    }
}

static void tile_run(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    (void)tile;
    if (pass == PEFT__FORWARD)
        forward(node, run->batch);
    else
        backward(node, run->batch);
}

static const peft__op group_loss_op = {
    .name = "group_loss", .is_loss = true, .in_place = -1, .reads = reads, .tiles = peft__one_tile, .tile = tile_run};

peft__value *peft__op_group_loss(peft__graph *g, peft__value *scores, float label_smoothing) {
    if (scores == NULL || peft__graph_failed(g)) return NULL;
    if (!peft__value_check(g, "group_loss", "scores of sequences", scores, NULL, 1)) return NULL;
    const group_loss attr = {label_smoothing};
    peft__value *out = peft__value_new(g, peft__rows_fixed(g, 1), 2, "loss");
    if (out == NULL) return NULL;
    out->flags |= PEFT__VALUE_STAT;
    return peft__node_add(g, &group_loss_op, &scores, 1, &out, 1, &attr, sizeof attr) != NULL ? out : NULL;
}
