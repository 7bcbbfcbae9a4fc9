/* contrast_loss.c: what embeddings of texts learn from texts that belong together.
 *
 * Sequences come in groups (the batch's choice_offsets): a text, the one that belongs to it, and any number that do
 * not. With in-batch negatives (sentence-transformers' MultipleNegativesRankingLoss) every first text chooses among all
 * the texts of the batch that are not first ones: cross entropy of `scale` times the cosines, the second of its own
 * group being right. Where the batch has numbers (sequence_targets of a group's first text) the loss is the squared
 * difference of the cosine of its first two texts and that number, and a group without a number (NaN) does not count.
 *
 * A batch has few sequences: one tile does it all, sums in double, in the order of the sequences.
 */
#include "graph/op/tiles.h"

#include <math.h>

/* Stats [sequences, 2]: 1 / length of each embedding, log-sum-exp of a first text's scores. */
enum { OUT_LOSS, OUT_STATS, OUT_COUNT };

typedef struct contrast {
    float scale;
} contrast;

static void reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    (void)node;
    *in_mask = 1u;
    *out_mask = 1u << OUT_STATS;
}

static double dot(const peft__value *x, int64_t a, int64_t b) {
    const float *u = peft__row(x, a), *v = peft__row(x, b);
    double sum = 0.0;
    for (int64_t c = 0; c < x->cols; c++) sum += (double)u[c] * (double)v[c];
    return sum;
}

static double inverse(const peft__node *node, int64_t sequence) {
    return (double)peft__row(node->out[OUT_STATS], sequence)[0];
}

static double cosine(const peft__node *node, int64_t a, int64_t b) {
    return dot(node->in[0], a, b) * inverse(node, a) * inverse(node, b);
}

static bool is_first(const peft_batch *batch, int64_t group, int64_t sequence) {
    return batch->choice_offsets[group] == sequence;
}

/* The number of a group; NaN: none. */
static double target_of(const peft_batch *batch, int64_t group) {
    return (double)batch->sequence_targets[(int64_t)batch->choice_offsets[group] * batch->target_cols];
}

/* Log-sum-exp of the scores of a first text against all texts that are not first. */
static double score_sum(const peft__node *node, const peft_batch *batch, int64_t first) {
    const double scale = (double)((const contrast *)node->attr)->scale;
    double top = -INFINITY, sum = 0.0;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t g = 0; g < batch->questions; g++)
            for (int64_t s = batch->choice_offsets[g] + 1; s < batch->choice_offsets[g + 1]; s++) {
                const double score = scale * cosine(node, first, s);
                if (pass == 0)
                    top = fmax(top, score);
                else
                    sum += exp(score - top);
            }
    return top + log(sum);
}

static void forward(const peft__node *node, const peft_batch *batch) {
    const peft__value *x = node->in[0];
    const double scale = (double)((const contrast *)node->attr)->scale;
    double sum = 0.0, count = 0.0;
    for (int64_t s = 0; s < x->rows->count; s++) {
        float *stats = peft__row(node->out[OUT_STATS], s);
        stats[0] = (float)(1.0 / fmax(sqrt(dot(x, s, s)), 1e-12));
        stats[1] = 0.0f;
    }
    for (int64_t g = 0; g < batch->questions; g++) {
        const int64_t first = batch->choice_offsets[g];
        if (batch->sequence_targets != NULL) {
            const double target = target_of(batch, g), off = cosine(node, first, first + 1) - target;
            if (isnan(target)) continue;
            sum += off * off;
        } else {
            const double lse = score_sum(node, batch, first);
            peft__row(node->out[OUT_STATS], first)[1] = (float)lse;
            sum += lse - scale * cosine(node, first, first + 1);
        }
        count += 1.0;
    }
    node->out[OUT_LOSS]->data[0] = (float)sum;
    node->out[OUT_LOSS]->data[1] = (float)count;
}

/* Adds slope * d cos(a, b) to the gradients of both. */
static void add_slope(const peft__node *node, int64_t a, int64_t b, double slope) {
    const peft__value *x = node->in[0];
    const double ia = inverse(node, a), ib = inverse(node, b), same = cosine(node, a, b);
    const float *u = peft__row(x, a), *v = peft__row(x, b);
    float *du = peft__grad_row(x, a), *dv = peft__grad_row(x, b);
    for (int64_t c = 0; c < x->cols; c++) {
        const double un = (double)u[c] * ia, vn = (double)v[c] * ib;
        du[c] += (float)(slope * ia * (vn - same * un));
        dv[c] += (float)(slope * ib * (un - same * vn));
    }
}

static void backward(const peft__node *node, const peft_batch *batch) {
    const peft__value *x = node->in[0];
    const double scale = (double)((const contrast *)node->attr)->scale;
    if (!peft__accumulates(node, 0))
        for (int64_t s = 0; s < x->rows->count; s++) memset(peft__grad_row(x, s), 0, (size_t)x->cols * sizeof(float));
    for (int64_t g = 0; g < batch->questions; g++) {
        const int64_t first = batch->choice_offsets[g];
        if (batch->sequence_targets != NULL) {
            const double target = target_of(batch, g);
            if (!isnan(target)) add_slope(node, first, first + 1, 2.0 * (cosine(node, first, first + 1) - target));
            continue;
        }
        const double lse = (double)peft__row(node->out[OUT_STATS], first)[1];
        for (int64_t k = 0; k < batch->questions; k++)
            for (int64_t s = batch->choice_offsets[k]; s < batch->choice_offsets[k + 1]; s++) {
                if (is_first(batch, k, s)) continue;
                const double share = exp(scale * cosine(node, first, s) - lse);
                add_slope(node, first, s, scale * (share - (s == first + 1 ? 1.0 : 0.0)));
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

static const peft__op contrast_loss_op = {
    .name = "contrast_loss", .is_loss = true, .in_place = -1, .reads = reads, .tiles = peft__one_tile, .tile = tile_run};

peft__value *peft__op_contrast_loss(peft__graph *g, peft__value *embeddings, float scale) {
    if (embeddings == NULL || peft__graph_failed(g)) return NULL;
    const contrast attr = {scale};
    peft__value *out[OUT_COUNT] = {peft__value_new(g, peft__rows_fixed(g, 1), 2, "loss"),
                                   peft__value_new(g, embeddings->rows, 2, "lengths and sums")};
    if (out[OUT_LOSS] == NULL || out[OUT_STATS] == NULL) return NULL;
    out[OUT_LOSS]->flags |= PEFT__VALUE_STAT;
    out[OUT_STATS]->flags |= PEFT__VALUE_STAT;
    return peft__node_add(g, &contrast_loss_op, &embeddings, 1, out, OUT_COUNT, &attr, sizeof attr) != NULL
               ? out[OUT_LOSS]
               : NULL;
}
