/* choices.c: cases with several answers to each example (T-Few). */
#include <math.h>
#include <stdlib.h>

#include "measure.h"

/* Answer `index` of the file into its place: the decoder reads it shifted right by one, padding stays in the rows and
 * has no label. */
static void add_answer(choices *c, const int64_t *ids, int64_t length, int64_t index, int64_t per_example) {
    c->offsets[index] = (int32_t)(index * length);
    c->source[index] = (int32_t)(index / per_example);
    for (int64_t t = 0; t < length; t++) {
        const int64_t at = index * length + t;
        c->ids[at] = t == 0 ? 0 : (int32_t)ids[at - 1];
        c->labels[at] = ids[at] == 0 ? PEFT_IGNORE_LABEL : (int32_t)ids[at];
    }
}

bool choices_read(peft_context *ctx, const peft__tensors *file, choices *out, peft_batch *batch) {
    const peft__tensor *tensor = peft__tensors_find(file, "choices");
    int64_t count = 0, examples = 0;
    int64_t *ids = read_ints(ctx, file, "choices", &count), *right = read_ints(ctx, file, "labels", &examples);
    bool done = ids != NULL && right != NULL && tensor->ndim == 3 && tensor->shape[0] == examples && count > 0;
    if (done) {
        const int64_t per_example = tensor->shape[1], length = tensor->shape[2], answers = examples * per_example;
        const size_t rows = (size_t)count * sizeof(int32_t), each = (size_t)(answers + 1) * sizeof(int32_t);
        *out = (choices){answers, malloc(each), malloc(rows), malloc(rows), malloc(each), malloc(each)};
        done = out->offsets != NULL && out->ids != NULL && out->labels != NULL && out->source != NULL &&
               out->right != NULL;
        for (int64_t i = 0; done && i < answers; i++) add_answer(out, ids, length, i, per_example);
        for (int64_t i = 0; done && i < examples; i++) out->right[i] = (int32_t)right[i];
        if (done) out->offsets[answers] = (int32_t)count;
        batch->decoder_rows = count;
        batch->decoder_sequences = answers;
        batch->decoder_offsets = out->offsets;
        batch->decoder_input_ids = out->ids;
        batch->decoder_labels = out->labels;
        batch->decoder_source = out->source;
        batch->sequence_labels = out->right;
    }
    free(ids);
    free(right);
    return done;
}

void choices_free(choices *c) {
    free(c->offsets);
    free(c->ids);
    free(c->labels);
    free(c->source);
    free(c->right);
}

void check_choice_scores(peft_context *ctx, peft_session *session, const peft_batch *batch,
                         const peft__tensors *expected, double tolerance, outcome *out) {
    int64_t count = 0, scored = 0;
    float *want = read_floats(ctx, expected, "choice_scores", &count);
    if (want == NULL) return;
    double *nll = malloc((size_t)count * sizeof *nll), worst = 0.0;
    int64_t *tokens = malloc((size_t)count * sizeof *tokens);
    if (nll == NULL || tokens == NULL || peft_session_score(session, batch, nll, tokens, count, &scored) < 0 ||
        scored != count)
        outcome_fail(out, "scoring the answers: %s", peft_context_error(ctx));
    else {
        for (int64_t i = 0; i < count; i++) worst = fmax(worst, fabs(nll[i] / (double)tokens[i] - (double)want[i]));
        outcome_add(out, "scores", worst / fmax(1.0, largest(want, count)), tolerance);
    }
    free(want);
    free(nll);
    free(tokens);
}
