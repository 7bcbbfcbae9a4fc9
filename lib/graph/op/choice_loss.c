/* choice_loss.c: the losses of T-Few (Liu et al. 2022, section 3.2) over several answers an example, of which one is
 * right. An answer is a sequence of the decoder, or of a causal model (question and answer, with labels on the answer).
 *
 *   language model    mean of -log p over the tokens of right answers
 *   unlikelihood      sum of -log(1 - p + 0.01) over all places / number of tokens of wrong answers, where places of
 *                     right answers and places that an answer has not, up to the longest of the batch, have p = 0
 *   length-normalised cross entropy over an example's answers with -(sum of -log p) / length as logits, mean over
 *                     examples
 *
 * (Places with p = 0 each add -log 1.01, a constant; it is there because published numbers have it.) All is made of the
 * numbers -log p of labelled rows, and small: one tile, in double, in the order of rows. The sum that is given is the
 * loss times the number of examples, so that batches weigh as their examples do.
 */
#include "graph/op/tiles.h"

#include <math.h>

enum { OUT_LOSS, OUT_SCORES, OUT_COUNT }; /* scores [answers, 1], kept for the backward pass */

static const double margin = 0.01;

static void reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    (void)node;
    *in_mask = 1u;
    *out_mask = 1u << OUT_SCORES;
}

static int64_t answer_count(const peft_batch *batch) {
    return batch->questions > 0 ? batch->sequences : batch->decoder_sequences;
}

static int64_t example_count(const peft_batch *batch) {
    return batch->questions > 0 ? batch->questions : batch->sequences;
}

static int64_t example_of(const peft_batch *batch, int64_t answer) {
    if (batch->questions > 0) {
        int64_t low = 0, high = batch->questions; /* the last question that begins at or before the answer */
        while (high - low > 1) {
            const int64_t middle = low + (high - low) / 2;
            if (batch->choice_offsets[middle] <= answer)
                low = middle;
            else
                high = middle;
        }
        return low;
    }
    return batch->decoder_source != NULL ? batch->decoder_source[answer] : answer;
}

/* Which answer of the batch is the right one of an example; -1: the example does not count. */
static int64_t right_answer(const peft_batch *batch, int64_t example) {
    int64_t left = batch->sequence_labels != NULL ? batch->sequence_labels[example] : PEFT_IGNORE_LABEL;
    for (int64_t c = 0; left >= 0 && c < answer_count(batch); c++)
        if (example_of(batch, c) == example && left-- == 0) return c;
    return -1;
}

static int64_t tokens_of(const peft__rows *rows, int64_t answer) {
    int64_t count = 0;
    for (int32_t r = rows->offsets[answer]; r < rows->offsets[answer + 1]; r++)
        count += rows->labels[r] != PEFT_IGNORE_LABEL;
    return count;
}

/* What the losses of a batch are divided by. */
typedef struct totals {
    int64_t examples, right_tokens, wrong_tokens, places;
} totals;

static totals count(const peft__rows *rows, const peft_batch *batch) {
    totals t = {0};
    int64_t longest = 0, answers = 0;
    for (int64_t e = 0; e < example_count(batch); e++) t.examples += right_answer(batch, e) >= 0;
    for (int64_t c = 0; c < rows->sequences; c++) {
        const int64_t right = right_answer(batch, example_of(batch, c));
        const int64_t places =
            batch->questions > 0 ? tokens_of(rows, c) : batch->decoder_offsets[c + 1] - batch->decoder_offsets[c];
        longest = peft__max_i64(longest, places);
        answers += right >= 0;
        if (right == c)
            t.right_tokens += tokens_of(rows, c);
        else if (right >= 0)
            t.wrong_tokens += tokens_of(rows, c);
    }
    t.places = answers * longest;
    return t;
}

/* Shift of the log-sum-exp over the scores of an example's answers. */
static double score_sum(const peft__node *node, const peft_batch *batch, int64_t example) {
    double top = -INFINITY, sum = 0.0;
    const float *scores = node->out[OUT_SCORES]->data;
    for (int64_t c = 0; c < answer_count(batch); c++)
        if (example_of(batch, c) == example) top = fmax(top, (double)scores[c]);
    for (int64_t c = 0; c < answer_count(batch); c++)
        if (example_of(batch, c) == example) sum += exp((double)scores[c] - top);
    return top + log(sum);
}

static void forward(const peft__node *node, const peft_batch *batch) {
    const peft__value *nll = node->in[0];
    const peft__rows *rows = nll->rows;
    float *scores = node->out[OUT_SCORES]->data;
    const totals t = count(rows, batch);
    double right_sum = 0.0, unlikely = 0.0, choice = 0.0;
    int64_t seen = 0;
    for (int64_t c = 0; c < rows->sequences; c++) {
        const int64_t right = right_answer(batch, example_of(batch, c)), tokens = tokens_of(rows, c);
        double sum = 0.0;
        for (int32_t r = rows->offsets[c]; r < rows->offsets[c + 1]; r++) {
            if (rows->labels[r] == PEFT_IGNORE_LABEL) continue;
            const double one = (double)*peft__row(nll, r);
            sum += one;
            if (right < 0 || right == c) continue;
            unlikely -= log(1.0 - exp(-one) + margin);
            seen++;
        }
        scores[c] = tokens > 0 ? (float)(-sum / (double)tokens) : 0.0f;
        if (right == c) right_sum += sum;
    }
    if (t.wrong_tokens > 0) unlikely -= (double)(t.places - seen) * log(1.0 - exp(-100.0) + margin);
    for (int64_t e = 0; e < example_count(batch); e++) {
        const int64_t right = right_answer(batch, e);
        if (right >= 0) choice += score_sum(node, batch, e) - (double)scores[right];
    }
    const double examples = (double)t.examples;
    double loss = choice;
    if (t.right_tokens > 0) loss += examples * right_sum / (double)t.right_tokens;
    if (t.wrong_tokens > 0) loss += examples * unlikely / (double)t.wrong_tokens;
    node->out[OUT_LOSS]->data[0] = (float)loss;
    node->out[OUT_LOSS]->data[1] = (float)t.examples;
}

static void backward(const peft__node *node, const peft_batch *batch) {
    const peft__value *nll = node->in[0];
    const peft__rows *rows = nll->rows;
    const float *scores = node->out[OUT_SCORES]->data;
    const totals t = count(rows, batch);
    for (int64_t c = 0; c < rows->sequences; c++) {
        const int64_t example = example_of(batch, c), right = right_answer(batch, example);
        const double share = right >= 0 ? exp((double)scores[c] - score_sum(node, batch, example)) : 0.0;
        const double even = ((right == c ? 1.0 : 0.0) - share) / (double)peft__max_i64(1, tokens_of(rows, c));
        for (int32_t r = rows->offsets[c]; r < rows->offsets[c + 1]; r++) {
            double d = 0.0;
            if (right >= 0 && rows->labels[r] != PEFT_IGNORE_LABEL) {
                const double p = exp(-(double)*peft__row(nll, r));
                d = right == c ? (double)t.examples / (double)t.right_tokens
                               : -(double)t.examples / (double)t.wrong_tokens * p / (1.0 - p + margin);
                d += even;
            }
            float *to = peft__grad_row(nll, r);
            *to = (peft__accumulates(node, 0) ? *to : 0.0f) + (float)d;
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

static const peft__op choice_loss_op = {
    .name = "choice loss", .is_loss = true, .in_place = -1, .reads = reads, .tiles = peft__one_tile, .tile = tile_run};

peft__value *peft__op_choice_loss(peft__graph *g, peft__value *nll) {
    if (nll == NULL || peft__graph_failed(g)) return NULL;
    if (!peft__value_check(g, "choice loss", "losses of rows", nll, NULL, 1)) return NULL;
    peft__rows *answers = peft__rows_pick(g, nll->rows, 0);
    peft__value *out[OUT_COUNT] = {peft__value_new(g, peft__rows_fixed(g, 1), 2, "loss"),
                                   answers == NULL ? NULL : peft__value_new(g, answers, 1, "scores of answers")};
    if (out[OUT_LOSS] == NULL || out[OUT_SCORES] == NULL) return NULL;
    out[OUT_LOSS]->flags |= PEFT__VALUE_STAT;
    out[OUT_SCORES]->flags |= PEFT__VALUE_STAT;
    return peft__node_add(g, &choice_loss_op, &nll, 1, out, OUT_COUNT, NULL, 0) != NULL ? out[OUT_LOSS] : NULL;
}
