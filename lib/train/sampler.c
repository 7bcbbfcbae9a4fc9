/* sampler.c: greedy choice, and drawing with temperature, top-k and top-p.
 *
 * The order of the cuts is that of transformers: temperature, then the k likeliest, then the smallest set of the
 * likeliest whose probabilities (renewed after top-k) reach p. Candidates stand in a heap, so that only as many are put
 * in order as the cuts look at, and a vocabulary of 150 000 costs one pass. The random number is a function of (seed,
 * draw): a text can be made again from the seed, whatever else was drawn.
 */
#include "train/sampler.h"

#include <math.h>

#define STREAM_SAMPLER UINT64_C(0x73616d706c657221) /* "sampler!" */

static bool before(peft__candidate a, peft__candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void sift_down(peft__candidate *heap, int64_t count, int64_t at) {
    const peft__candidate item = heap[at];
    for (int64_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], item)) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = item;
}

/* Takes the best off the heap and keeps it behind the end: the taken ones stand at the array's end, best last. */
static peft__candidate pop(peft__candidate *heap, int64_t *count) {
    const peft__candidate best = heap[0];
    heap[0] = heap[--*count];
    heap[*count] = best;
    if (*count > 0) sift_down(heap, *count, 0);
    return best;
}

static int32_t greedy(const float *logits, int64_t vocab) {
    int64_t best = -1;
    for (int64_t i = 0; i < vocab; i++)
        if (!isnan(logits[i]) && (best < 0 || logits[i] > logits[best])) best = i;
    return (int32_t)best;
}

static double weight_of(peft__candidate candidate, float top, float temperature) {
    if (candidate.logit == top) return 1.0; /* also for infinities */
    return exp(((double)candidate.logit - (double)top) / (double)temperature);
}

/* Uniform in [0, 1) with 53 bits. */
static double draw_number(uint64_t seed, uint64_t draw) {
    uint32_t block[4];
    peft__philox(seed, STREAM_SAMPLER, draw, block);
    const uint64_t bits = ((uint64_t)block[0] << 32 | block[1]) >> 11;
    return (double)bits * 0x1.0p-53;
}

void peft__sampler_penalise(float *logits, int64_t vocab, const int32_t *ids, int64_t count, float penalty,
                            uint8_t *seen) {
    memset(seen, 0, (size_t)(vocab + 7) / 8);
    for (int64_t i = 0; i < count; i++) {
        const int32_t id = ids[i];
        if (id < 0 || id >= vocab || (seen[id / 8] >> (id % 8)) & 1) continue;
        seen[id / 8] = (uint8_t)(seen[id / 8] | 1u << (id % 8));
        logits[id] = logits[id] < 0.0f ? logits[id] * penalty : logits[id] / penalty;
    }
}

int32_t peft__sampler_choose(const peft__sampling *sampling, const float *logits, int64_t vocab, uint64_t draw,
                             peft__candidate *scratch) {
    if (!(sampling->temperature > 0.0f) || sampling->top_k == 1) return greedy(logits, vocab);
    int64_t count = 0;
    for (int64_t i = 0; i < vocab; i++)
        if (!isnan(logits[i])) scratch[count++] = (peft__candidate){logits[i], (int32_t)i};
    if (count == 0) return -1;
    const int64_t keep = sampling->top_k > 0 ? peft__min_i64(sampling->top_k, count) : count;
    const bool all = keep == count && !(sampling->top_p < 1.0f);

    /* [first, end) are the candidates left, best last when they were put in order. */
    int64_t first = 0;
    const int64_t end = count;
    float top = scratch[0].logit;
    if (all) {
        for (int64_t i = 1; i < count; i++)
            if (scratch[i].logit > top) top = scratch[i].logit;
    } else {
        for (int64_t i = count / 2 - 1; i >= 0; i--) sift_down(scratch, count, i);
        top = scratch[0].logit;
        double total = 0.0;
        if (keep == count) {
            for (int64_t i = 0; i < count; i++) total += weight_of(scratch[i], top, sampling->temperature);
        } else {
            while (end - count < keep) total += weight_of(pop(scratch, &count), top, sampling->temperature);
        }
        first = count;
        if (sampling->top_p < 1.0f) {
            double reached = 0.0;
            const double wanted = total * (double)sampling->top_p;
            if (keep < end) { /* already in order: keep a tail of it */
                first = end;
                do {
                    reached += weight_of(scratch[--first], top, sampling->temperature);
                } while (reached < wanted && first > count);
            } else {
                do {
                    reached += weight_of(pop(scratch, &count), top, sampling->temperature);
                } while (reached < wanted && count > 0);
                first = count;
            }
        }
    }
    double total = 0.0;
    for (int64_t i = end - 1; i >= first; i--) total += weight_of(scratch[i], top, sampling->temperature);
    double left = draw_number(sampling->seed, draw) * total;
    for (int64_t i = end - 1; i >= first; i--) {
        left -= weight_of(scratch[i], top, sampling->temperature);
        if (left < 0.0) return scratch[i].id;
    }
    return scratch[end - 1].id;
}
