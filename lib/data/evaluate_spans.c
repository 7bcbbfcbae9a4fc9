/* evaluate_spans.c: from scores of first and last tokens to an answer.
 *
 * Each window of a question offers its best pairs of tokens: both in the context, in order, not too far apart, scored
 * by the sum of their logits. The windows of a question are put together by that score, as Hugging Face's example does;
 * what two overlapping windows both offer counts once. "No answer" has the score of the first token ([CLS]), the lowest
 * of all windows; it is given where questions without an answer were seen and no piece of the text scores higher.
 */
#include "data/evaluate.h"

#include <math.h>
#include <stdio.h>

enum { EDGES = 20, LEAST_KEPT = 20 };

static int64_t kept(const peft_evaluation *e) {
    return peft__max_i64(LEAST_KEPT, e->options.n_best);
}

/* ---- one window ------------------------------------------------------------------------------------------------- */

/* The rows of context with the highest scores of a column, falling. */
static int best_rows(const peft__value *logits, int64_t first, const uint32_t *ends, int32_t length, int column,
                     int32_t out[EDGES]) {
    int found = 0;
    for (int32_t t = 0; t < length; t++) {
        if (ends[t] == 0) continue;
        const float score = logits->data[(first + t) * logits->ld + column];
        if (found == EDGES && !(score > logits->data[(first + out[EDGES - 1]) * logits->ld + column])) continue;
        int at = found < EDGES ? found++ : EDGES - 1;
        for (; at > 0 && score > logits->data[(first + out[at - 1]) * logits->ld + column]; at--) out[at] = out[at - 1];
        out[at] = t;
    }
    return found;
}

/* Puts a piece among a question's best, once. */
static void offer(peft__span_answer *answer, int64_t most, const peft__span_offer *one) {
    for (int64_t i = 0; i < answer->count; i++) {
        if (answer->offers[i].begin != one->begin || answer->offers[i].end != one->end) continue;
        if (answer->offers[i].score >= one->score) return;
        for (int64_t k = i; k + 1 < answer->count; k++) answer->offers[k] = answer->offers[k + 1];
        answer->count--;
        break;
    }
    if (answer->count == most && !(one->score > answer->offers[most - 1].score)) return;
    int64_t at = answer->count < most ? answer->count++ : most - 1;
    for (; at > 0 && one->score > answer->offers[at - 1].score; at--) answer->offers[at] = answer->offers[at - 1];
    answer->offers[at] = *one;
}

void peft__evaluation_window(peft_evaluation *e, const peft_dataset *dataset, int32_t index, int64_t question,
                             const peft__value *logits, int64_t first) {
    const peft__store *store = &dataset->store;
    const peft__example *example = &store->examples[index];
    const uint32_t *begins = store->begins + example->first, *ends = store->ends + example->first;
    peft__span_answer *answer = &e->spans[question];
    int32_t starts[EDGES], stops[EDGES];
    const int start_count = best_rows(logits, first, ends, example->length, 0, starts),
              stop_count = best_rows(logits, first, ends, example->length, 1, stops);
    answer->none = fminf(answer->none, logits->data[first * logits->ld] + logits->data[first * logits->ld + 1]);
    for (int a = 0; a < start_count; a++)
        for (int b = 0; b < stop_count; b++) {
            if (stops[b] < starts[a] || stops[b] - starts[a] + 1 > e->options.max_answer_length) continue;
            const peft__span_offer one = {.score = logits->data[(first + starts[a]) * logits->ld] +
                                                   logits->data[(first + stops[b]) * logits->ld + 1],
                                          .begin = begins[starts[a]],
                                          .end = ends[stops[b]]};
            offer(answer, kept(e), &one);
        }
}

/* ---- questions ----------------------------------------------------------------------------------------------------
 */

peft_status peft__evaluation_question(peft_evaluation *e, const peft_dataset *dataset, int32_t index) {
    const peft__passage *passage = dataset->store.passages[index];
    peft__span_answer *answer = &e->spans[e->count];
    const char *before = e->count > 0 ? e->spans[e->count - 1].context : NULL;
    const bool same = before != NULL && strcmp(before, passage->context) == 0;
    *answer = (peft__span_answer){.none = INFINITY, .answer_count = passage->answer_count};
    answer->context = same ? before : peft__arena_strdup(&e->arena, passage->context);
    answer->answers = peft__arena_alloc(&e->arena, ((size_t)passage->answer_count + 1) * sizeof *answer->answers);
    answer->offers = peft__arena_alloc(&e->arena, (size_t)kept(e) * sizeof *answer->offers);
    bool good = answer->context != NULL && answer->answers != NULL && answer->offers != NULL;
    for (uint32_t i = 0; good && i < passage->answer_count; i++) {
        answer->answers[i] = peft__arena_strdup(&e->arena, passage->answers[i]);
        good = answer->answers[i] != NULL;
    }
    return good ? PEFT_OK : peft__fail_nomem(e->ctx, strlen(passage->context), "an evaluation");
}

/* The best piece, or -1 for no answer. */
static int64_t choose(const peft_evaluation *e, const peft__span_answer *answer) {
    if (answer->count == 0) return -1;
    return e->may_be_none && answer->none > answer->offers[0].score ? -1 : 0;
}

peft_status peft__evaluation_score_spans(peft_evaluation *e) {
    e->may_be_none = !e->labelled && e->options.no_answer != 0;
    for (int64_t i = 0; i < e->count && e->labelled; i++)
        e->may_be_none = e->may_be_none || e->spans[i].answer_count == 0;
    peft__buffer text;
    peft__buffer_init(&text, e->ctx->mem);
    peft_status status = PEFT_OK;
    for (int64_t i = 0; i < e->count && e->labelled && status >= 0; i++) {
        peft__span_answer *answer = &e->spans[i];
        const int64_t best = choose(e, answer);
        peft__buffer_clear(&text);
        (void)peft__buffer_puts(&text, "");
        if (best >= 0)
            (void)peft__buffer_put(&text, answer->context + answer->offers[best].begin,
                                   answer->offers[best].end - answer->offers[best].begin);
        status = text.failed ? peft__fail_nomem(e->ctx, text.capacity, "an answer")
                             : peft_metric_answer(e->ctx, text.data, answer->answers, answer->answer_count,
                                                  &answer->exact, &answer->f1);
    }
    peft__buffer_free(&text);
    return status;
}

/* ---- predictions ----------------------------------------------------------------------------------------------------
 */

static json_t *rounded(double value) {
    char text[32];
    double out = 0.0;
    (void)snprintf(text, sizeof text, "%.6g", value);
    return peft__parse_f64(text, strlen(text), &out) ? json_real(out) : json_null();
}

static json_t *piece(const peft__span_answer *answer, const peft__span_offer *one, double probability) {
    json_int_t characters = 0;
    for (uint32_t i = 0; i < one->begin; i++) characters += ((uint8_t)answer->context[i] & 0xc0) != 0x80;
    json_t *made = json_object();
    bool good =
        made != NULL &&
        json_object_set_new(made, "text", json_stringn(answer->context + one->begin, one->end - one->begin)) == 0;
    good = good && json_object_set_new(made, "start", json_integer(characters)) == 0 &&
           json_object_set_new(made, "score", rounded(probability)) == 0;
    if (good) return made;
    json_decref(made);
    return NULL;
}

bool peft__evaluation_put_span(const peft_evaluation *e, int64_t index, json_t *row) {
    const peft__span_answer *answer = &e->spans[index];
    const int64_t best = choose(e, answer);
    double top = e->may_be_none ? (double)answer->none : -INFINITY, sum = 0.0;
    if (answer->count > 0) top = fmax(top, (double)answer->offers[0].score);
    if (e->may_be_none) sum += exp((double)answer->none - top);
    for (int64_t i = 0; i < answer->count; i++) sum += exp((double)answer->offers[i].score - top);
    json_t *list = json_array();
    bool good = list != NULL;
    for (int64_t i = 0; good && i < answer->count && i < e->options.n_best; i++)
        good = json_array_append_new(
                   list, piece(answer, &answer->offers[i], exp((double)answer->offers[i].score - top) / sum)) == 0;
    const json_t *first = json_array_get(list, 0);
    if (good && best < 0) {
        good = json_object_set_new(row, "prediction", json_string("")) == 0 &&
               json_object_set_new(row, "score",
                                   rounded(e->may_be_none ? exp((double)answer->none - top) / sum : 0.0)) == 0;
    } else if (good) {
        good = json_object_set(row, "prediction", json_object_get(first, "text")) == 0 &&
               json_object_set(row, "score", json_object_get(first, "score")) == 0 &&
               json_object_set(row, "start", json_object_get(first, "start")) == 0;
    }
    good = good && json_object_set(row, "n_best", list) == 0;
    json_decref(list);
    return good;
}
