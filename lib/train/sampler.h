/* sampler.h: from a row of logits to the next token. */
#ifndef PEFT_TRAIN_SAMPLER_H
#define PEFT_TRAIN_SAMPLER_H

#include "base/base.h"

/* How to choose; the fields of peft_generate_options. */
typedef struct peft__sampling {
    float temperature;        /* 0 = the largest logit */
    float top_p;              /* 1 = off */
    float repetition_penalty; /* 1 = off */
    uint32_t top_k;           /* 0 = off */
    uint64_t seed;
} peft__sampling;

/* A token that may be chosen; the sampler's scratch is `vocab` of them. */
typedef struct peft__candidate {
    float logit;
    int32_t id;
} peft__candidate;

/* Divides (positive) or multiplies (negative) the logits of tokens seen so far, each token once, as transformers does.
 * `seen` is a scratch of (vocab + 7) / 8 bytes. */
void peft__sampler_penalise(float *logits, int64_t vocab, const int32_t *ids, int64_t count, float penalty,
                            uint8_t *seen);

/* The token for draw number `draw`: a pure function of its arguments. Equal logits go to the smaller id. Logits that
 * are not numbers are never chosen; -1 when there is none left. */
int32_t peft__sampler_choose(const peft__sampling *sampling, const float *logits, int64_t vocab, uint64_t draw,
                             peft__candidate *scratch);

#endif
