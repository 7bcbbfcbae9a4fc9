/* evaluate_text.c: an evaluation in words: a report for people, and each prediction as a line of JSON. */
#include "data/evaluate.h"

#include <math.h>
#include <stdio.h>

enum { MOST_SHOWN = 20, NAME_WIDTH = 20 };

/* ---- report ---------------------------------------------------------------------------------------------------------
 */

static peft_status put_measures(peft_evaluation *e, uint32_t samples, uint64_t seed) {
    const char *name;
    for (uint32_t i = 0; (name = peft_evaluation_metric_name(e, i)) != NULL; i++) {
        peft_interval found = {.struct_size = (uint32_t)sizeof found};
        PEFT_TRY(peft_evaluation_metric(e, name, samples, seed, &found));
        (void)peft__buffer_printf(&e->text, "%-*s %8.4f", NAME_WIDTH, name, found.value);
        if (!isnan(found.low)) (void)peft__buffer_printf(&e->text, "  (95 %%: %.4f to %.4f)", found.low, found.high);
        (void)peft__buffer_puts(&e->text, "\n");
    }
    return PEFT_OK;
}

static void put_confusion(peft_evaluation *e, const int64_t *cells) {
    const uint32_t n = e->classes;
    int width = 6;
    for (uint32_t i = 0; i < n * n; i++) {
        char number[32];
        width = (int)peft__max_i64(width, snprintf(number, sizeof number, "%lld", (long long)cells[i]) + 1);
    }
    (void)peft__buffer_printf(&e->text, "label by prediction\n%-*s", NAME_WIDTH, "");
    for (uint32_t c = 0; c < n; c++) (void)peft__buffer_printf(&e->text, "%*u", width, c);
    (void)peft__buffer_puts(&e->text, "\n");
    for (uint32_t r = 0; r < n; r++) {
        (void)peft__buffer_printf(&e->text, "%3u %-*.40s", r, NAME_WIDTH - 4, e->names[r]);
        for (uint32_t c = 0; c < n; c++)
            (void)peft__buffer_printf(&e->text, "%*lld", width, (long long)cells[(size_t)r * n + c]);
        (void)peft__buffer_puts(&e->text, "\n");
    }
}

static void put_classes(peft_evaluation *e, const int64_t *cells) {
    const uint32_t n = e->classes;
    (void)peft__buffer_printf(&e->text, "%-*s %8s %8s %8s %8s\n", NAME_WIDTH, "class", "examples", "recall", "precis.",
                              "F1");
    for (uint32_t c = 0; c < n && c < 200; c++) {
        int64_t is = 0, said = 0;
        for (uint32_t k = 0; k < n; k++) {
            is += cells[(size_t)c * n + k];
            said += cells[(size_t)k * n + c];
        }
        const double right = (double)cells[(size_t)c * n + c], both = (double)(is + said);
        (void)peft__buffer_printf(&e->text, "%-*.40s %8lld %8.4f %8.4f %8.4f\n", NAME_WIDTH, e->names[c], (long long)is,
                                  is > 0 ? right / (double)is : 0.0, said > 0 ? right / (double)said : 0.0,
                                  both > 0.0 ? 2.0 * right / both : 0.0);
    }
}

static peft_status put_table(peft_evaluation *e) {
    if (e->classes == 0 || (e->asks != PEFT__ASKS_CLASS && e->asks != PEFT__ASKS_TAGS && e->asks != PEFT__ASKS_CHOICE))
        return PEFT_OK;
    const int64_t count = (int64_t)e->classes * e->classes;
    int64_t *cells = peft__alloc(e->ctx->mem, (size_t)count * sizeof *cells);
    if (cells == NULL) return peft__fail_nomem(e->ctx, (size_t)count * sizeof *cells, "a confusion matrix");
    const peft_status status = peft_evaluation_confusion(e, cells, count, NULL);
    if (status >= 0) put_classes(e, cells);
    if (status >= 0 && e->classes <= MOST_SHOWN) put_confusion(e, cells);
    peft__free(e->ctx->mem, cells);
    return status;
}

const char *peft_evaluation_report(peft_evaluation *e, uint32_t samples, uint64_t seed) {
    if (e == NULL) return NULL;
    peft__buffer_clear(&e->text);
    (void)peft__buffer_printf(&e->text, "%-*s %8lld\n", NAME_WIDTH, "examples", (long long)e->count);
    if (e->labelled && (put_measures(e, samples, seed) < 0 || put_table(e) < 0)) return NULL;
    return e->text.failed ? NULL : e->text.data;
}

/* ---- predictions ----------------------------------------------------------------------------------------------------
 */

/* Numbers as floats print: 0.9873, not 0.98730003833770752. */
static json_t *number(float value) {
    char text[32];
    double rounded = 0.0;
    (void)snprintf(text, sizeof text, "%.6g", (double)value);
    if (!isfinite(value) || !peft__parse_f64(text, strlen(text), &rounded)) return json_null();
    return json_real(rounded);
}

static float probability(float logit) {
    return (float)(1.0 / (1.0 + exp(-(double)logit)));
}

static bool put(json_t *object, const char *key, json_t *value) {
    return value != NULL && json_object_set_new(object, key, value) == 0;
}

static bool put_scores(const peft_evaluation *e, json_t *row, const float *values, bool logits) {
    json_t *scores = json_object();
    bool good = put(row, "scores", scores);
    for (uint32_t c = 0; good && c < e->classes; c++)
        good = put(scores, e->names[c], number(logits ? probability(values[c]) : values[c]));
    return good;
}

static bool put_whole(const peft_evaluation *e, int64_t index, json_t *row) {
    const float *values = e->outputs + index * (int64_t)e->classes;
    if (e->asks == PEFT__ASKS_CLASS) {
        const int32_t given = e->given[index];
        return put(row, "prediction", json_string(e->names[given])) && put(row, "score", number(values[given])) &&
               put_scores(e, row, values, false);
    }
    if (e->asks == PEFT__ASKS_VALUES && e->classes == 1) return put(row, "prediction", number(values[0]));
    json_t *list = json_array();
    bool good = put(row, "prediction", list);
    for (uint32_t c = 0; good && c < e->classes; c++) {
        if (e->asks == PEFT__ASKS_VALUES)
            good = json_array_append_new(list, number(values[c])) == 0;
        else if (probability(values[c]) > e->options.threshold)
            good = json_array_append_new(list, json_string(e->names[c])) == 0;
    }
    return good && (e->asks == PEFT__ASKS_VALUES || put_scores(e, row, values, true));
}

/* A tag for each word of the row; words that were cut away, or have no token, have none. */
static bool put_tags(const peft_evaluation *e, int64_t index, json_t *row) {
    json_t *tags = json_array(), *scores = json_array();
    bool good = put(row, "prediction", tags);
    good = put(row, "scores", scores) && good;
    for (int32_t at = e->offsets[index]; good && at < e->offsets[index + 1]; at++) {
        while (good && json_array_size(tags) < (size_t)e->words[at])
            good = json_array_append_new(tags, json_null()) == 0 && json_array_append_new(scores, json_null()) == 0;
        good = good && json_array_append_new(tags, json_string(e->names[e->given[at]])) == 0 &&
               json_array_append_new(scores, number(e->outputs[at])) == 0;
    }
    return good;
}

static bool put_embedding(const peft_evaluation *e, int64_t index, json_t *row) {
    json_t *list = json_array();
    bool good = put(row, "embedding", list);
    for (uint32_t c = 0; good && c < e->classes; c++)
        good = json_array_append_new(list, number(e->outputs[index * (int64_t)e->classes + c])) == 0;
    return good;
}

static bool put_ready(const peft_evaluation *e, int64_t index, json_t *row) {
    peft__json *answer = NULL;
    const char *text = e->answers[index];
    if (peft__json_load_memory(e->ctx, "an answer", text, strlen(text), 0, &answer) < 0) return false;
    const bool good = json_object_update(row, answer) == 0;
    json_decref(answer);
    return good;
}

static bool put_prediction(const peft_evaluation *e, int64_t index, json_t *row) {
    switch (e->asks) {
    case PEFT__ASKS_TAGS:
        return put_tags(e, index, row);
    case PEFT__ASKS_WORDS:
        return put_ready(e, index, row);
    case PEFT__ASKS_EMBEDDING:
        return put_embedding(e, index, row);
    case PEFT__ASKS_SPANS:
        return peft__evaluation_put_span(e, index, row);
    case PEFT__ASKS_CHOICE:
        return put(row, "prediction",
                   e->classes > 0 ? json_string(e->names[e->given[index]]) : json_integer(e->given[index]));
    default:
        return put_whole(e, index, row);
    }
}

const char *peft_evaluation_prediction(peft_evaluation *e, int64_t index) {
    if (e == NULL || index < 0 || index >= e->count || e->asks == PEFT__ASKS_NOTHING) return NULL;
    peft__json *row = NULL;
    const char *input = e->inputs[index];
    if (input != NULL && peft__json_load_memory(e->ctx, "a row", input, strlen(input), 0, &row) < 0) return NULL;
    if (row == NULL) row = json_object();
    bool good = put(row, "row", json_integer((json_int_t)e->rows[index])) && put_prediction(e, index, row);
    peft__buffer_clear(&e->text);
    good = good && peft__json_dump(e->ctx, row, 0, false, &e->text) >= 0 && !e->text.failed;
    json_decref(row);
    return good ? e->text.data : NULL;
}
