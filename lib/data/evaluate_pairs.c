/* evaluate_pairs.c: embeddings: how alike two texts are against the number that they were given, or whether a text
 * finds the one that belongs to it among those of its batch; and embeddings themselves. */
#include "data/evaluate.h"

#include <math.h>

static const float *row_of(const peft__value *x, int64_t row) {
    return x->data + row * x->ld;
}

static double cosine(const peft__value *x, int64_t a, int64_t b) {
    double ab = 0.0, aa = 0.0, bb = 0.0;
    for (int64_t c = 0; c < x->cols; c++) {
        const double u = (double)row_of(x, a)[c], v = (double)row_of(x, b)[c];
        ab += u * v;
        aa += u * u;
        bb += v * v;
    }
    return ab / fmax(sqrt(aa * bb), 1e-24);
}

/* Does the first text of a group find its second among all that are not first? */
static bool finds(const peft__value *x, const peft_batch *batch, int64_t group) {
    const int64_t first = batch->choice_offsets[group];
    const double own = cosine(x, first, first + 1);
    for (int64_t g = 0; g < batch->questions; g++)
        for (int64_t s = batch->choice_offsets[g] + 1; s < batch->choice_offsets[g + 1]; s++)
            if (s != first + 1 && cosine(x, first, s) > own) return false;
    return true;
}

peft_status peft__evaluation_compare(peft_evaluation *e, peft_session *session, const peft_dataset *dataset,
                                     const peft_batch *batch, const int32_t *examples) {
    const peft__value *embeddings = NULL;
    double loss = 0.0, count = 0.0;
    PEFT_TRY(peft__session_eval(session, batch, &loss, &count, &embeddings));
    if (embeddings == NULL || embeddings->rows->count != batch->sequences)
        return peft__fail(e->ctx, PEFT_E_UNSUPPORTED, "the model gives no embeddings");
    e->loss += loss * count;
    e->targets_seen += count;
    for (int64_t g = 0; g < batch->questions; g++) {
        PEFT_TRY(peft__evaluation_next(e, dataset, examples[g]));
        const int64_t first = batch->choice_offsets[g];
        if (e->asks == PEFT__ASKS_VALUES) {
            e->outputs[e->count] = (float)cosine(embeddings, first, first + 1);
            e->targets[e->count] = dataset->store.scores[examples[g]];
        } else {
            e->labels[e->count] = 0;
            e->given[e->count] = finds(embeddings, batch, g) ? 0 : 1;
        }
        e->count++;
    }
    return PEFT_OK;
}

/* Mean of the rows of each text, with length 1. */
peft_status peft__evaluation_embed(peft_evaluation *e, peft_session *session, const peft_dataset *dataset,
                                   const peft_batch *batch, const int32_t *examples) {
    const int64_t cols = peft__model_dims(session->model)->hidden_size;
    if (e->count == 0) e->classes = (uint32_t)cols;
    float *all = peft__alloc(e->ctx->mem, (size_t)(batch->sequences * cols) * sizeof *all);
    if (all == NULL) return peft__fail_nomem(e->ctx, (size_t)(batch->sequences * cols) * sizeof *all, "embeddings");
    peft_status status =
        peft_session_embed(session, batch, PEFT_POOL_MEAN, 1, all, batch->sequences * cols, NULL, NULL);
    for (int64_t s = 0; s < batch->sequences && status >= 0; s++) {
        status = peft__evaluation_next(e, dataset, examples[s]);
        if (status < 0) break;
        memcpy(e->outputs + e->count++ * cols, all + s * cols, (size_t)cols * sizeof *all);
    }
    peft__free(e->ctx->mem, all);
    return status;
}
