/* evaluate_metrics.c: the measures of an evaluation, of all its examples or of a sample of them.
 *
 * A measure has a name and no number: names are what recipes, logs and other languages share. What is drawn in a
 * bootstrap are examples: the words of a sentence stay together.
 */
#include "data/evaluate.h"

#include <math.h>

/* ---- which there are ------------------------------------------------------------------------------------------- */

static const char *const OF_CLASS[] = {"accuracy",        "macro_f1",     "micro_f1", "weighted_f1",
                                       "macro_precision", "macro_recall", "matthews", NULL};
static const char *const OF_CLASSES[] = {"accuracy", "macro_f1", "micro_f1", "weighted_f1", NULL};
static const char *const OF_VALUES[] = {"pearson", "spearman", "mse", "mae", "r2", NULL};
static const char *const OF_TAGS[] = {"entity_f1", "entity_precision", "entity_recall", "accuracy", "macro_f1", NULL};
static const char *const OF_CHOICES[] = {"accuracy", NULL}; /* of rows with answers of their own */
static const char *const OF_SPANS[] = {"answer_f1", "exact_match", NULL};
static const char *const OF_NOTHING[] = {NULL};

static const char *const *names_of(const peft_evaluation *e) {
    switch (e->asks) {
    case PEFT__ASKS_CLASS:
        return OF_CLASS;
    case PEFT__ASKS_CHOICE:
        return e->classes > 0 ? OF_CLASS : OF_CHOICES;
    case PEFT__ASKS_CLASSES:
        return OF_CLASSES;
    case PEFT__ASKS_VALUES:
        return OF_VALUES;
    case PEFT__ASKS_TAGS:
        return OF_TAGS;
    case PEFT__ASKS_SPANS:
        return OF_SPANS;
    default:
        return OF_NOTHING;
    }
}

const char *peft_evaluation_metric_name(const peft_evaluation *e, uint32_t index) {
    if (e == NULL || !e->labelled) return NULL;
    const char *const *names = names_of(e);
    uint32_t count = 0;
    for (; names[count] != NULL; count++)
        if (count == index) return names[count];
    if (index == count) return "loss";
    return index == count + 1 && e->perplexity ? "perplexity" : NULL;
}

int32_t peft_metric_greater_is_better(const char *name) {
    static const char *const SMALLER[] = {"loss", "perplexity", "mse", "mae"};
    static const char *const LARGER[] = {"accuracy",        "macro_f1",     "micro_f1",  "weighted_f1",
                                         "macro_precision", "macro_recall", "matthews",  "pearson",
                                         "spearman",        "r2",           "entity_f1", "entity_precision",
                                         "entity_recall",   "exact_match",  "answer_f1"};
    for (size_t i = 0; name != NULL && i < PEFT_COUNT(SMALLER); i++)
        if (strcmp(name, SMALLER[i]) == 0) return 0;
    for (size_t i = 0; name != NULL && i < PEFT_COUNT(LARGER); i++)
        if (strcmp(name, LARGER[i]) == 0) return 1;
    return -1;
}

/* ---- one sample ------------------------------------------------------------------------------------------------- */

/* What a measure is computed from, gathered by the indices of a sample. */
typedef struct sample {
    const peft_evaluation *e;
    const char *name;
    int32_t *labels, *given;
    float *targets, *outputs;
    double *scores; /* [count, 5] TAGS: entities, predicted, correct, words, right ones */
} sample;

static double class_measure(const char *name, const peft_class_metrics *m) {
    if (strcmp(name, "accuracy") == 0) return m->accuracy;
    if (strcmp(name, "macro_f1") == 0) return m->macro_f1;
    if (strcmp(name, "micro_f1") == 0) return m->micro_f1;
    if (strcmp(name, "weighted_f1") == 0) return m->weighted_f1;
    if (strcmp(name, "macro_precision") == 0) return m->macro_precision;
    if (strcmp(name, "macro_recall") == 0) return m->macro_recall;
    return m->matthews;
}

static double value_measure(const char *name, const peft_value_metrics *m) {
    if (strcmp(name, "pearson") == 0) return m->pearson;
    if (strcmp(name, "spearman") == 0) return m->spearman;
    if (strcmp(name, "mse") == 0) return m->mse;
    return strcmp(name, "mae") == 0 ? m->mae : m->r2;
}

static double of_classes(const sample *s, int64_t count) {
    const peft_evaluation *e = s->e;
    peft_class_metrics m = {.struct_size = (uint32_t)sizeof m};
    if (peft_metric_classes(e->ctx, s->labels, s->given, count, e->classes, &m, NULL, NULL) < 0) return NAN;
    return class_measure(s->name, &m);
}

static double of_entities(const sample *s, const int64_t *indices, int64_t count) {
    double entities = 0.0, predicted = 0.0, correct = 0.0;
    for (int64_t i = 0; i < count; i++) {
        entities += s->scores[5 * indices[i]];
        predicted += s->scores[5 * indices[i] + 1];
        correct += s->scores[5 * indices[i] + 2];
    }
    const double precision = predicted > 0.0 ? correct / predicted : 0.0;
    const double recall = entities > 0.0 ? correct / entities : 0.0;
    if (strcmp(s->name, "entity_precision") == 0) return precision;
    if (strcmp(s->name, "entity_recall") == 0) return recall;
    return precision + recall > 0.0 ? 2.0 * precision * recall / (precision + recall) : 0.0;
}

static double of_tags(const sample *s, const int64_t *indices, int64_t count) {
    const peft_evaluation *e = s->e;
    if (strncmp(s->name, "entity_", 7) == 0) return of_entities(s, indices, count);
    if (strcmp(s->name, "accuracy") == 0) {
        double words = 0.0, right = 0.0;
        for (int64_t i = 0; i < count; i++) {
            words += s->scores[5 * indices[i] + 3];
            right += s->scores[5 * indices[i] + 4];
        }
        return words > 0.0 ? right / words : NAN;
    }
    int64_t elements = 0;
    for (int64_t i = 0; i < count; i++)
        for (int32_t at = e->offsets[indices[i]]; at < e->offsets[indices[i] + 1]; at++) {
            s->labels[elements] = e->labels[at];
            s->given[elements++] = e->given[at];
        }
    return of_classes(s, elements);
}

static double of_choices(const peft_evaluation *e, const int64_t *indices, int64_t count) {
    int64_t right = 0, known = 0;
    for (int64_t i = 0; i < count; i++) {
        if (e->labels[indices[i]] == PEFT_IGNORE_LABEL) continue;
        known++;
        right += e->labels[indices[i]] == e->given[indices[i]];
    }
    return known > 0 ? (double)right / (double)known : NAN;
}

static double measure(void *user, const int64_t *indices, int64_t count) {
    const sample *s = user;
    const peft_evaluation *e = s->e;
    const int64_t cols = e->classes;
    if (e->asks == PEFT__ASKS_TAGS) return of_tags(s, indices, count);
    if (e->asks == PEFT__ASKS_SPANS) {
        double sum = 0.0;
        for (int64_t i = 0; i < count; i++)
            sum += s->name[0] == 'e' ? e->spans[indices[i]].exact : e->spans[indices[i]].f1;
        return sum / (double)count;
    }
    if (e->asks == PEFT__ASKS_CHOICE && cols == 0) return of_choices(e, indices, count);
    if (e->asks == PEFT__ASKS_CLASS || e->asks == PEFT__ASKS_CHOICE) {
        for (int64_t i = 0; i < count; i++) {
            s->labels[i] = e->labels[indices[i]];
            s->given[i] = e->given[indices[i]];
        }
        return of_classes(s, count);
    }
    for (int64_t i = 0; i < count; i++) {
        memcpy(s->targets + i * cols, e->targets + indices[i] * cols, (size_t)cols * sizeof(float));
        memcpy(s->outputs + i * cols, e->outputs + indices[i] * cols, (size_t)cols * sizeof(float));
    }
    if (e->asks == PEFT__ASKS_VALUES) {
        peft_value_metrics m = {.struct_size = (uint32_t)sizeof m};
        return peft_metric_values(e->ctx, s->targets, s->outputs, count * cols, &m) < 0 ? NAN
                                                                                        : value_measure(s->name, &m);
    }
    peft_class_metrics m = {.struct_size = (uint32_t)sizeof m};
    const float threshold = logf(e->options.threshold / (1.0f - e->options.threshold));
    if (peft_metric_multi_label(e->ctx, s->targets, s->outputs, count, e->classes, threshold, &m) < 0) return NAN;
    return class_measure(s->name, &m);
}

/* ---- room ----------------------------------------------------------------------------------------------------------
 */

static peft_status count_entities(const peft_evaluation *e, double *scores) {
    for (int64_t i = 0; i < e->count; i++, scores += 5) {
        const int32_t first = e->offsets[i], offsets[2] = {0, e->offsets[i + 1] - first};
        peft_entity_metrics m = {.struct_size = (uint32_t)sizeof m};
        PEFT_TRY(
            peft_metric_entities(e->ctx, e->labels + first, e->given + first, offsets, 1, e->names, e->classes, &m));
        scores[0] = (double)m.entities;
        scores[1] = (double)m.predicted;
        scores[2] = (double)m.correct;
        for (int32_t at = first; at < first + offsets[1]; at++) {
            scores[3] += e->labels[at] != PEFT_IGNORE_LABEL;
            scores[4] += e->labels[at] == e->given[at];
        }
    }
    return PEFT_OK;
}

/* Elements of the largest sample: every example may be drawn again and again. */
static int64_t most_elements(const peft_evaluation *e) {
    if (e->asks != PEFT__ASKS_TAGS) return e->count;
    int64_t longest = 1;
    for (int64_t i = 0; i < e->count; i++) longest = peft__max_i64(longest, e->offsets[i + 1] - e->offsets[i]);
    return e->count * longest;
}

static peft_status make_sample(const peft_evaluation *e, sample *s) {
    if (e->asks == PEFT__ASKS_SPANS) return PEFT_OK; /* scored when it was made */
    peft__mem *mem = e->ctx->mem;
    const bool numbers = e->asks == PEFT__ASKS_CLASSES || e->asks == PEFT__ASKS_VALUES;
    const size_t elements = (size_t)most_elements(e), cols = e->classes;
    size_t bytes = 0;
    const bool counted = peft__mul_size(elements, (numbers ? cols : 1) * sizeof(float), &bytes);
    if (!counted) return peft__fail(e->ctx, PEFT_E_LIMIT, "an evaluation of %zu elements is too large", elements);
    bool good = true;
    if (numbers) {
        s->targets = peft__alloc(mem, bytes);
        s->outputs = peft__alloc(mem, bytes);
        good = s->targets != NULL && s->outputs != NULL;
    } else {
        s->labels = peft__alloc(mem, bytes);
        s->given = peft__alloc(mem, bytes);
        good = s->labels != NULL && s->given != NULL;
    }
    if (!good) return peft__fail_nomem(e->ctx, 2 * bytes, "a measure");
    if (e->asks != PEFT__ASKS_TAGS) return PEFT_OK;
    s->scores = peft__alloc_zero(mem, (size_t)e->count * 5 * sizeof *s->scores);
    if (s->scores == NULL) return peft__fail_nomem(e->ctx, (size_t)e->count * 5 * sizeof *s->scores, "a measure");
    return count_entities(e, s->scores);
}

static void free_sample(const peft_evaluation *e, const sample *s) {
    void *const blocks[] = {s->labels, s->given, s->targets, s->outputs, s->scores};
    for (size_t i = 0; i < PEFT_COUNT(blocks); i++) peft__free(e->ctx->mem, blocks[i]);
}

static peft_status unknown_metric(const peft_evaluation *e, const char *name) {
    char known[256] = "";
    size_t used = 0;
    const char *one;
    for (uint32_t i = 0; (one = peft_evaluation_metric_name(e, i)) != NULL; i++) {
        const size_t length = strlen(one);
        if (used + length + 3 > sizeof known) break;
        if (used > 0) {
            memcpy(known + used, ", ", 2);
            used += 2;
        }
        memcpy(known + used, one, length + 1);
        used += length;
    }
    return peft__fail(e->ctx, PEFT_E_ARG, "there is no measure \"%.60s\" of this task; there are: %s", name, known);
}

static peft_status give(const peft_evaluation *e, peft_interval *out, const peft_interval *found) {
    uint32_t size = 0;
    if (out != NULL) size = out->struct_size;
    if (size < sizeof size + sizeof(uint32_t))
        return peft__fail(e->ctx, PEFT_E_ARG, "peft_interval is missing or its struct_size is not set");
    memcpy(out, found, peft__min_size(size, sizeof *found));
    out->struct_size = size;
    return PEFT_OK;
}

peft_status peft_evaluation_metric(const peft_evaluation *e, const char *name, uint32_t samples, uint64_t seed,
                                   peft_interval *out_interval) {
    if (e == NULL) return PEFT_E_ARG;
    if (name == NULL) return peft__fail(e->ctx, PEFT_E_ARG, "a measure's name is missing");
    bool known = false;
    const char *one;
    for (uint32_t i = 0; (one = peft_evaluation_metric_name(e, i)) != NULL; i++)
        known = known || strcmp(one, name) == 0;
    if (!known) return unknown_metric(e, name);
    peft_interval found = {.struct_size = (uint32_t)sizeof found, .low = NAN, .high = NAN, .deviation = NAN};
    if (strcmp(name, "loss") == 0 || strcmp(name, "perplexity") == 0) {
        const double loss = e->targets_seen > 0.0 ? e->loss / e->targets_seen : NAN;
        found.value = name[0] == 'l' ? loss : exp(loss);
        return give(e, out_interval, &found);
    }
    if (e->count == 0) return peft__fail(e->ctx, PEFT_E_ARG, "no example was evaluated");
    sample s = {.e = e, .name = name};
    peft_status status = make_sample(e, &s);
    if (status >= 0 && samples > 1)
        status = peft_metric_bootstrap(e->ctx, measure, &s, e->count, samples, 0.95, seed, &found);
    if (status >= 0 && samples <= 1) {
        int64_t *all = peft__alloc(e->ctx->mem, (size_t)e->count * sizeof *all);
        if (all == NULL) status = peft__fail_nomem(e->ctx, (size_t)e->count * sizeof *all, "a measure");
        for (int64_t i = 0; all != NULL && i < e->count; i++) all[i] = i;
        if (all != NULL) found.value = measure(&s, all, e->count);
        peft__free(e->ctx->mem, all);
    }
    free_sample(e, &s);
    return status < 0 ? status : give(e, out_interval, &found);
}

peft_status peft_evaluation_confusion(const peft_evaluation *e, int64_t *out_confusion, int64_t capacity,
                                      uint32_t *out_classes) {
    if (e == NULL) return PEFT_E_ARG;
    if (!e->labelled || e->classes == 0 ||
        (e->asks != PEFT__ASKS_CLASS && e->asks != PEFT__ASKS_TAGS && e->asks != PEFT__ASKS_CHOICE))
        return peft__fail(e->ctx, PEFT_E_UNSUPPORTED,
                          "only labelled data with one class an element has a confusion matrix");
    const int64_t cells = (int64_t)e->classes * e->classes, count = e->asks == PEFT__ASKS_TAGS ? e->elements : e->count;
    if (out_classes != NULL) *out_classes = e->classes;
    if (out_confusion == NULL) return PEFT_OK;
    if (cells > capacity)
        return peft__fail(e->ctx, PEFT_E_LIMIT, "the confusion matrix has %lld cells, there is room for %lld",
                          (long long)cells, (long long)capacity);
    memset(out_confusion, 0, (size_t)cells * sizeof *out_confusion);
    for (int64_t i = 0; i < count; i++)
        if (e->labels[i] != PEFT_IGNORE_LABEL) out_confusion[(int64_t)e->labels[i] * e->classes + e->given[i]]++;
    return PEFT_OK;
}
