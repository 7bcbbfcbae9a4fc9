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
