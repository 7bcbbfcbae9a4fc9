/* computed.c: factors of the rows of a computed weight matrix (computed.h). */
#include "graph/op/computed.h"

static bool falls(const peft__run *run, uint64_t stream, float probability) {
    peft__rng rng = peft__rng_make(run->seed, stream);
    return probability > 0.0f && peft__rng_uniform(&rng) < probability;
}

void peft__row_factors(const peft__weight_drop *drop, float scale, int64_t rows, const peft__run *run, float *factors) {
    const bool all = run->training && falls(run, drop->stream, drop->whole);
    int64_t kept = 0;
    for (int64_t o = 0; o < rows; o++) {
        const bool gone = all || (run->training && falls(run, drop->stream + 1 + (uint64_t)o, drop->rows));
        factors[o] = gone ? 0.0f : scale;
        kept += !gone;
    }
    if (!drop->rescale || kept == 0 || kept == rows) return;
    const float grown = scale * (float)rows / (float)kept;
    for (int64_t o = 0; o < rows; o++)
        if (factors[o] != 0.0f) factors[o] = grown;
}
