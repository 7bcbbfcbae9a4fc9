/* beam_search.c: the most likely texts of an encoder-decoder model, by beam search as transformers defines it.
 *
 * Of all continuations of all beams the best are looked at, enough of them that some go on even if the best ones end.
 * Those that end compete for a place among the finished by their mean log probability, the length raised to
 * length_penalty; the best that do not end are the next beams. It is over when not even the best beam, at its present
 * length, could beat the worst of the finished.
 */
#include "train/sampler.h"
#include "train/train.h"

#include <float.h>
#include <math.h>

static const float never = -1e9f;

typedef struct candidate {
    float score; /* sum of log probabilities */
    int32_t beam, id;
    bool ends;
} candidate;

typedef struct finished {
    float score; /* mean, by the length penalty */
    int64_t length;
    bool full;
} finished;

typedef struct search {
    const peft__beams *options;
    int64_t vocab, step; /* step: tokens that every beam has */
    int64_t wide;        /* candidates looked at */
    float *scores;       /* [beams] of the running beams */
    int32_t *ids, *next; /* [beams][most + 1] start and tokens of the running beams, and of those that follow */
    finished *done;      /* [beams], best first */
    int32_t *done_ids;   /* [beams][most] */
    candidate *best;     /* [wide] */
    float *row;          /* [vocab] */
    uint8_t *seen;
    int32_t *last, *parents; /* [beams] */
} search;

static bool is_end(const peft__beams *o, int32_t id) {
    for (uint32_t i = 0; i < o->end_count; i++)
        if (o->ends[i] == id) return true;
    return false;
}

/* Sorted, best first; of equals the earlier beam and the smaller id. */
static void offer(search *s, int64_t *count, candidate c) {
    if (*count == s->wide && !(c.score > s->best[*count - 1].score)) return;
    int64_t at = *count < s->wide ? (*count)++ : s->wide - 1;
    for (; at > 0 && c.score > s->best[at - 1].score; at--) s->best[at] = s->best[at - 1];
    s->best[at] = c;
}

static peft_status find_candidates(search *s, peft_context *ctx, const peft__value *logits, int64_t *out_count) {
    const peft__beams *o = s->options;
    int64_t count = 0;
    for (int64_t b = 0; b < o->beams; b++) {
        const float *row = logits->data + b * logits->ld;
        double top = -INFINITY, sum = 0.0;
        for (int64_t v = 0; v < s->vocab; v++) top = fmax(top, (double)row[v]);
        for (int64_t v = 0; v < s->vocab; v++) sum += exp((double)row[v] - top);
        const double lse = top + log(sum);
        if (!isfinite(lse))
            return peft__fail(ctx, PEFT_E_NONFINITE, "no logit of token %lld is a number", (long long)s->step);
        for (int64_t v = 0; v < s->vocab; v++) s->row[v] = (float)((double)row[v] - lse);
        if (o->repetition_penalty != 1.0f)
            peft__sampler_penalise(s->row, s->vocab, s->ids + b * (o->most + 1), s->step + 1, o->repetition_penalty,
                                   s->seen);
        for (int64_t v = 0; v < s->vocab; v++)
            offer(s, &count, (candidate){s->row[v] + s->scores[b], (int32_t)b, (int32_t)v, false});
    }
    for (int64_t i = 0; i < count; i++) s->best[i].ends = is_end(o, s->best[i].id) || s->step + 1 >= o->most;
    *out_count = count;
    return PEFT_OK;
}

/* A text that ended takes its place among the finished. */
static void finish(search *s, const candidate *c) {
    const peft__beams *o = s->options;
    const float score = (float)((double)c->score / pow((double)(s->step + 1), (double)o->length_penalty));
    int64_t at = o->beams;
    while (at > 0 && (!s->done[at - 1].full || score > s->done[at - 1].score)) at--;
    if (at == o->beams) return;
    for (int64_t i = o->beams - 1; i > at; i--) {
        s->done[i] = s->done[i - 1];
        memcpy(s->done_ids + i * o->most, s->done_ids + (i - 1) * o->most, (size_t)o->most * sizeof *s->done_ids);
    }
    const bool keeps_last = !is_end(o, c->id);
    int32_t *ids = s->done_ids + at * o->most;
    memcpy(ids, s->ids + c->beam * (o->most + 1) + 1, (size_t)s->step * sizeof *ids);
    if (keeps_last) ids[s->step] = c->id;
    s->done[at] = (finished){score, s->step + (keeps_last ? 1 : 0), true};
}

/* False when no candidate goes on. */
static bool go_on(search *s, int64_t count) {
    const peft__beams *o = s->options;
    const int64_t row = o->most + 1;
    int64_t beams = 0;
    for (int64_t i = 0; i < count && beams < o->beams; i++) {
        const candidate *c = &s->best[i];
        if (c->ends) continue;
        memcpy(s->next + beams * row, s->ids + c->beam * row, (size_t)(s->step + 1) * sizeof *s->ids);
        s->next[beams * row + s->step + 1] = s->last[beams] = c->id;
        s->parents[beams] = c->beam;
        s->scores[beams++] = c->score;
    }
    if (beams == 0) return false;
    /* Fewer candidates than beams, in a tiny vocabulary: the others are out of the race. */
    for (; beams < o->beams; beams++) {
        memcpy(s->next + beams * row, s->next, (size_t)row * sizeof *s->ids);
        s->last[beams] = s->last[0];
        s->parents[beams] = s->parents[0];
        s->scores[beams] = never;
    }
    int32_t *old = s->ids;
    s->ids = s->next;
    s->next = old;
    s->step++;
    return true;
}

static bool can_improve(const search *s) {
    const finished *worst = &s->done[s->options->beams - 1];
    if (!worst->full) return true;
    return (double)s->scores[0] / pow((double)s->step, (double)s->options->length_penalty) > (double)worst->score;
}

static peft_status run(search *s, peft_session *session) {
    const peft__beams *o = s->options;
    for (int64_t b = 0; b < o->beams; b++) {
        s->ids[b * (o->most + 1)] = s->last[b] = o->start;
        s->scores[b] = b == 0 ? 0.0f : never; /* all beams are the same yet */
    }
    for (;;) {
        const peft__value *logits = NULL;
        int64_t count = 0;
        PEFT_TRY(peft__decoding_step(session, s->last, &logits));
        PEFT_TRY(find_candidates(s, session->ctx, logits, &count));
        for (int64_t i = 0; i < count && i < o->beams; i++)
            if (s->best[i].ends && s->best[i].score > never / 2) finish(s, &s->best[i]);
        if (!go_on(s, count) || !can_improve(s)) return PEFT_OK;
        peft__decoding_reorder(session, s->parents);
    }
}

peft_status peft__beam_search(peft_session *session, const peft__beams *options, int32_t *out_ids, int64_t *out_count) {
    search s = {.options = options, .vocab = peft__model_dims(session->model)->vocab_size};
    const size_t beams = (size_t)options->beams, most = (size_t)options->most, vocab = (size_t)s.vocab;
    const size_t wide = (options->end_count > 1 ? options->end_count + 1u : 2u) * beams;
    s.wide = (int64_t)wide;
    /* One block: floats and ids, all of 4 bytes, behind the structures; bytes last. */
    const size_t structures = beams * sizeof *s.done + wide * sizeof *s.best;
    const size_t words = beams + 2 * beams * (most + 1) + beams * most + vocab + 2 * beams;
    const size_t bytes = structures + words * sizeof(float) + (vocab + 7) / 8;
    uint8_t *block = peft__alloc_zero(session->ctx->mem, bytes);
    if (block == NULL) return peft__fail_nomem(session->ctx, bytes, "a beam search");
    s.done = (finished *)(void *)block;
    s.best = (candidate *)(void *)(s.done + beams);
    s.scores = (float *)(void *)(s.best + wide);
    s.row = s.scores + beams;
    s.ids = (int32_t *)(void *)(s.row + vocab);
    s.next = s.ids + beams * (most + 1);
    s.done_ids = s.next + beams * (most + 1);
    s.last = s.done_ids + beams * most;
    s.parents = s.last + beams;
    s.seen = (uint8_t *)(void *)(s.parents + beams);
    const peft_status status = most > 0 ? run(&s, session) : PEFT_OK;
    *out_count = s.done[0].full ? s.done[0].length : 0;
    memcpy(out_ids, s.done_ids, (size_t)*out_count * sizeof *out_ids);
    peft__free(session->ctx->mem, block);
    return status;
}
