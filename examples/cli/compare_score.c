/* compare_score.c: how good a session is on the data that is held out.
 *
 * Language models are scored text by text, so that the loss has an interval too: a text has the sum of its -log p and
 * its number of tokens, and the bootstrap draws texts. Questions with answers to choose among count as right or wrong.
 * Everything else is the library's evaluation, by its most telling measure or the one that eval.metric names.
 */
#include "compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What an example adds to the sums above and below the line: -log p over tokens, or right over one. */
typedef struct sums {
    double *part, *whole;
    int64_t count, capacity;
} sums;

static double *room(sums *s, int64_t more, double **out_whole) {
    if (s->count + more > s->capacity) {
        const int64_t capacity = (s->count + more) * 2;
        double *part = realloc(s->part, (size_t)capacity * sizeof *part);
        if (part != NULL) s->part = part;
        double *whole = realloc(s->whole, (size_t)capacity * sizeof *whole);
        if (whole != NULL) s->whole = whole;
        if (part == NULL || whole == NULL) return NULL;
        s->capacity = capacity;
    }
    *out_whole = s->whole + s->count;
    return s->part + s->count;
}

static double ratio(void *user, const int64_t *indices, int64_t count) {
    const sums *s = user;
    double part = 0.0, whole = 0.0;
    for (int64_t i = 0; i < count; i++) {
        part += s->part[indices[i]];
        whole += s->whole[indices[i]];
    }
    return whole > 0.0 ? part / whole : NAN;
}

static bool has_choices(const peft_batch *batch) {
    return batch->questions > 0 || (batch->decoder_source != NULL && batch->sequence_labels != NULL);
}

/* Texts of a batch: the sum of -log p and the number of labels of each. */
static peft_status add_texts(peft_session *session, const peft_batch *batch, sums *s) {
    const int64_t most = batch->decoder_sequences > batch->sequences ? batch->decoder_sequences : batch->sequences;
    double *whole, *part = room(s, most, &whole);
    int64_t *tokens = malloc((size_t)most * sizeof *tokens), count = 0;
    peft_status status = part != NULL && tokens != NULL ? PEFT_OK : PEFT_E_NOMEM;
    if (status >= 0) status = peft_session_score(session, batch, part, tokens, most, &count);
    for (int64_t i = 0; status >= 0 && i < count; i++) whole[i] = (double)tokens[i];
    if (status >= 0) s->count += count;
    free(tokens);
    return status;
}

/* Questions of a batch: 1 for each that is answered rightly. */
static peft_status add_choices(peft_session *session, const peft_batch *batch, sums *s) {
    const int64_t most = batch->questions > 0 ? batch->questions : batch->sequences;
    double *whole, *part = room(s, most, &whole);
    int32_t *chosen = malloc((size_t)most * sizeof *chosen);
    int64_t count = 0;
    peft_status status = part != NULL && chosen != NULL ? PEFT_OK : PEFT_E_NOMEM;
    if (status >= 0) status = peft_session_rank(session, batch, 1.0f, chosen, NULL, most, &count);
    for (int64_t i = 0; status >= 0 && i < count; i++) {
        part[i] = chosen[i] == batch->sequence_labels[i] ? 1.0 : 0.0;
        whole[i] = 1.0;
    }
    if (status >= 0) s->count += count;
    free(chosen);
    return status;
}

/* One pass over the data; `most` batches, 0 = all. */
static bool pass_over(run *r, peft_session *session, peft_dataset *data, int64_t most, sums *s, double *out_tokens) {
    double tokens = 0.0;
    if (peft_dataset_seek(data, 0, 0) < 0) return cli_fail(r->c, NULL);
    for (int64_t i = 0; (most <= 0 || i < most) && !interrupted(); i++) {
        peft_batch batch;
        peft_batch_init(&batch);
        peft_status status = peft_dataset_next(data, &batch);
        if (status == PEFT_END) break;
        if (status >= 0) status = has_choices(&batch) ? add_choices(session, &batch, s) : add_texts(session, &batch, s);
        if (status == PEFT_E_CANCELLED) break;
        if (status == PEFT_E_NOMEM) return cli_fail(r->c, "out of memory");
        if (status < 0) return cli_fail(r->c, NULL);
        tokens += compare_tokens_of(&batch);
    }
    *out_tokens = tokens;
    return true;
}

static bool score_texts(const comparison *c, run *r, peft_session *session, peft_dataset *data, bool choices,
                        quality *out) {
    sums s = {.part = NULL};
    double tokens = 0.0;
    const int64_t most = run_int(r, "eval.max_batches");
    bool good = pass_over(r, session, data, 1, &s, &tokens); /* takes its memory here, not on the clock */
    s.count = 0;
    const double before = peft_session_flops(session), start = now_seconds();
    good = good && pass_over(r, session, data, most, &s, &tokens);
    const double seconds = now_seconds() - start, flops = peft_session_flops(session) - before;
    peft_interval interval = {.struct_size = sizeof interval};
    if (good && !interrupted())
        good = peft_metric_bootstrap(r->c->context, ratio, &s, s.count, (uint32_t)c->samples, c->level, 0, &interval) >=
                   0 ||
               cli_fail(r->c, NULL);
    const double count = (double)(s.count > 0 ? s.count : 1);
    *out = (quality){.more_is_better = choices,
                     .examples = s.count,
                     .value = interval.value,
                     .low = interval.low,
                     .high = interval.high,
                     .milliseconds = 1000.0 * seconds / count,
                     .tokens = tokens / count,
                     .flops = flops / count};
    snprintf(out->measure, sizeof out->measure, "%s", choices ? "accuracy" : "loss");
    free(s.part);
    free(s.whole);
    return good;
}

/* Tokens of an example, by counting a pass that computes nothing. */
static bool count_tokens(run *r, peft_dataset *data, int64_t most, int64_t examples, double *out_tokens) {
    double tokens = 0.0;
    if (peft_dataset_seek(data, 0, 0) < 0) return cli_fail(r->c, NULL);
    for (int64_t i = 0; most <= 0 || i < most; i++) {
        peft_batch batch;
        peft_batch_init(&batch);
        const peft_status status = peft_dataset_next(data, &batch);
        if (status == PEFT_END) break;
        if (status < 0) return cli_fail(r->c, NULL);
        tokens += compare_tokens_of(&batch);
    }
    *out_tokens = examples > 0 ? tokens / (double)examples : NAN;
    return true;
}

static bool score_task(const comparison *c, run *r, peft_session *session, peft_dataset *data, quality *out) {
    peft_evaluate_options options;
    peft_evaluate_options_init(&options);
    options.max_batches = 1;
    peft_evaluation *evaluation = NULL;
    if (peft_evaluate(session, data, &options, &evaluation) < 0) return cli_fail(r->c, NULL);
    peft_evaluation_destroy(evaluation);
    options.max_batches = run_int(r, "eval.max_batches");
    const double before = peft_session_flops(session), start = now_seconds();
    if (peft_evaluate(session, data, &options, &evaluation) < 0) return cli_fail(r->c, NULL);
    const double seconds = now_seconds() - start, flops = peft_session_flops(session) - before;
    const char *measure = peft_evaluation_metric_name(evaluation, 0);
    if (peft_recipe_is_given(r->recipe, "eval.metric")) measure = run_text(r, "eval.metric");
    peft_interval interval = {.struct_size = sizeof interval};
    bool good =
        peft_evaluation_metric(evaluation, measure, (uint32_t)c->samples, 0, &interval) >= 0 || cli_fail(r->c, NULL);
    const int64_t examples = peft_evaluation_size(evaluation);
    *out = (quality){.more_is_better = peft_metric_greater_is_better(measure) == 1,
                     .examples = examples,
                     .value = interval.value,
                     .low = interval.low,
                     .high = interval.high,
                     .milliseconds = examples > 0 ? 1000.0 * seconds / (double)examples : NAN,
                     .flops = examples > 0 ? flops / (double)examples : NAN};
    snprintf(out->measure, sizeof out->measure, "%s", measure);
    peft_evaluation_destroy(evaluation);
    return good && count_tokens(r, data, options.max_batches, examples, &out->tokens);
}

bool compare_score(const comparison *c, run *r, peft_session *session, quality *out) {
    peft_dataset *data = r->validation != NULL ? r->validation : r->train;
    uint64_t epoch, at;
    peft_dataset_position(data, &epoch, &at);
    peft_model_info info = {.struct_size = sizeof info};
    peft_batch first;
    peft_batch_init(&first);
    if (peft_model_get_info(r->model, &info) < 0 || peft_dataset_seek(data, 0, 0) < 0 ||
        peft_dataset_next(data, &first) < 0)
        return cli_fail(r->c, NULL);
    const bool choices = has_choices(&first);
    const bool texts = info.task == PEFT_TASK_CAUSAL_LM || info.task == PEFT_TASK_SEQ_2_SEQ_LM;
    const bool good = choices || (texts && !peft_recipe_is_given(r->recipe, "eval.metric"))
                          ? score_texts(c, r, session, data, choices, out)
                          : score_task(c, r, session, data, out);
    return (peft_dataset_seek(data, epoch, at) >= 0 || cli_fail(r->c, NULL)) && good;
}
