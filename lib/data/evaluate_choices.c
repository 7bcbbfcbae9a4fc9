/* evaluate_choices.c: rank classification over a batch of questions. What is measured is which answer the model finds
 * most likely, and the cross entropy over the answers, which all ways to train can be compared by. */
#include "data/evaluate.h"

#include <math.h>

static void take(peft_evaluation *e, const peft_dataset *dataset, int32_t index, int32_t given, double loss) {
    e->labels[e->count] = dataset->store.classes[index];
    e->given[e->count++] = given;
    if (isnan(loss)) return;
    e->loss += loss;
    e->targets_seen += 1.0;
}

peft_status peft__evaluation_rank(peft_evaluation *e, peft_session *session, const peft_dataset *dataset,
                                  const peft_batch *batch, const int32_t *examples) {
    peft__mem *mem = e->ctx->mem;
    const int64_t count = batch->questions > 0 ? batch->questions : batch->sequences;
    int32_t *given = peft__alloc(mem, (size_t)count * sizeof *given);
    double *losses = peft__alloc(mem, (size_t)count * sizeof *losses);
    peft_status status = given == NULL || losses == NULL
                             ? peft__fail_nomem(e->ctx, (size_t)count * sizeof *losses, "an evaluation")
                             : peft_session_rank(session, batch, 1.0f, given, losses, count, NULL);
    for (int64_t q = 0; q < count && status >= 0; q++) {
        status = peft__evaluation_next(e, dataset, examples[q]);
        if (status >= 0) take(e, dataset, examples[q], given[q], losses[q]);
    }
    peft__free(mem, given);
    peft__free(mem, losses);
    return status;
}

/* One score a sequence: the answer with the largest is given. */
peft_status peft__evaluation_pick(peft_evaluation *e, peft_session *session, const peft_dataset *dataset,
                                  const peft_batch *batch, const int32_t *examples) {
    const peft__value *scores = NULL;
    double loss = 0.0, count = 0.0;
    if (e->labelled) {
        PEFT_TRY(peft__session_eval(session, batch, &loss, &count, &scores));
        e->loss += loss * count;
        e->targets_seen += count;
    } else {
        PEFT_TRY(peft__session_logits(session, batch, PEFT_LOGITS_ALL, -1, &scores));
    }
    if (scores == NULL || scores->cols != 1 || scores->rows->count != batch->sequences)
        return peft__fail(e->ctx, PEFT_E_UNSUPPORTED, "multiple choice has one score a sequence");
    for (int64_t q = 0; q < batch->questions; q++) {
        PEFT_TRY(peft__evaluation_next(e, dataset, examples[q]));
        const int32_t first = batch->choice_offsets[q];
        int32_t best = first;
        for (int32_t s = first + 1; s < batch->choice_offsets[q + 1]; s++)
            if (scores->data[s * scores->ld] > scores->data[best * scores->ld]) best = s;
        take(e, dataset, examples[q], best - first, NAN);
    }
    return PEFT_OK;
}
