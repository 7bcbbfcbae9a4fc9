/* Greedy choice and drawing: cuts by hand, frequencies by the thousand. */
#include "check.h"
#include "train/sampler.h"

enum { VOCAB = 6, DRAWS = 20000 };
static const float logits[VOCAB] = {1.0f, 3.0f, 2.0f, 3.0f, -1.0f, 0.0f};

static void frequencies(const peft__sampling *sampling, double out[VOCAB]) {
    peft__candidate scratch[VOCAB];
    memset(out, 0, VOCAB * sizeof *out);
    for (uint64_t i = 0; i < DRAWS; i++) out[peft__sampler_choose(sampling, logits, VOCAB, i, scratch)] += 1.0 / DRAWS;
}

/* Probabilities of the tokens in `kept` (bits) after the cuts. */
static void check_cut(const char *name, peft__sampling sampling, unsigned kept) {
    double got[VOCAB], total = 0.0;
    frequencies(&sampling, got);
    for (int i = 0; i < VOCAB; i++)
        if (kept >> i & 1u) total += exp((double)logits[i] / (double)sampling.temperature);
    for (int i = 0; i < VOCAB; i++) {
        const double want = kept >> i & 1u ? exp((double)logits[i] / (double)sampling.temperature) / total : 0.0;
        if (!CHECK(want == 0.0 ? got[i] == 0.0 : fabs(got[i] - want) < 0.015))
            fprintf(stderr, "    %s: token %d: %g, expected %g\n", name, i, got[i], want);
    }
}

int main(void) {
    peft__candidate scratch[VOCAB];
    peft__sampling s = {.temperature = 0.0f, .top_p = 1.0f, .repetition_penalty = 1.0f, .seed = 5};
    CHECK(peft__sampler_choose(&s, logits, VOCAB, 0, scratch) == 1); /* the first of equals */
    s.temperature = 1.0f;
    check_cut("all", s, 0x3f);
    s.top_k = 1;
    CHECK(peft__sampler_choose(&s, logits, VOCAB, 9, scratch) == 1);
    s.top_k = 3;
    check_cut("top_k 3", s, 0x0e);
    s.top_k = 100;
    check_cut("top_k of all", s, 0x3f);
    s.top_k = 0;
    s.top_p = 0.5f; /* 0.40 + 0.40 reach it */
    check_cut("top_p 0.5", s, 0x0a);
    s.top_p = 1e-6f;
    check_cut("top_p 0", s, 0x02);
    s.top_p = 0.9f;
    check_cut("top_p 0.9", s, 0x0e);
    s.top_k = 3;
    s.top_p = 0.8f; /* 0.422 twice among three */
    check_cut("both", s, 0x0a);
    s.top_k = 0;
    s.top_p = 1.0f;
    s.temperature = 2.0f;
    check_cut("warm", s, 0x3f);

    /* The same draw gives the same token; another seed another sequence. */
    int same = 0;
    for (uint64_t i = 0; i < 100; i++) {
        peft__sampling other = s;
        other.seed = 6;
        const int32_t a = peft__sampler_choose(&s, logits, VOCAB, i, scratch);
        CHECK(a == peft__sampler_choose(&s, logits, VOCAB, i, scratch));
        same += a == peft__sampler_choose(&other, logits, VOCAB, i, scratch);
    }
    CHECK(same > 5 && same < 80);

    /* What is no number is never chosen. */
    const float bad[3] = {NAN, -INFINITY, 1.0f}, none[2] = {NAN, NAN};
    s.top_p = 0.5f;
    for (uint64_t i = 0; i < 50; i++) CHECK(peft__sampler_choose(&s, bad, 3, i, scratch) == 2);
    CHECK(peft__sampler_choose(&s, none, 2, 0, scratch) == -1);
    s.temperature = 0.0f;
    CHECK(peft__sampler_choose(&s, bad, 3, 0, scratch) == 2);
    CHECK(peft__sampler_choose(&s, none, 2, 0, scratch) == -1);

    /* Each token is penalised once, whatever its count; ids out of range are ignored. */
    float changed[VOCAB];
    uint8_t seen[1];
    memcpy(changed, logits, sizeof changed);
    const int32_t ids[] = {1, 1, 4, -1, 100, 1};
    peft__sampler_penalise(changed, VOCAB, ids, 6, 2.0f, seen);
    CHECK_NEAR(changed[1], 1.5, 1e-6);
    CHECK_NEAR(changed[4], -2.0, 1e-6);
    CHECK_NEAR(changed[3], 3.0, 1e-6);
    return check_summary();
}
