/* evaluate.c: a session goes through a data set, and what it answers is taken down.
 *
 * Labelled data takes one forward pass a batch: the loss and the logits that it was made of. Everything that measures
 * need is kept example by example, so that a bootstrap can draw examples and nothing is computed twice.
 */
#include "data/evaluate.h"

#include <math.h>

void peft_evaluate_options_init_sized(peft_evaluate_options *options, uint32_t size) {
    if (options == NULL || size < sizeof options->struct_size) return;
    const peft_evaluate_options defaults = {
        .struct_size = size, .n_best = 5, .max_answer_length = 30, .threshold = 0.5f};
    memset(options, 0, size);
    memcpy(options, &defaults, peft__min_size(size, sizeof defaults));
}

void peft_evaluation_destroy(peft_evaluation *e) {
    if (e == NULL) return;
    peft_context *ctx = e->ctx;
    void *const blocks[] = {e->names,   e->rows,  e->inputs,  e->labels,  e->given, e->outputs,
                            e->targets, e->words, e->offsets, e->answers, e->spans, e->question_of};
    for (size_t i = 0; i < PEFT_COUNT(blocks); i++) peft__free(ctx->mem, blocks[i]);
    peft__buffer_free(&e->text);
    peft__arena_free(&e->arena);
    peft__free(ctx->mem, e);
    peft__context_unref(ctx);
}

int64_t peft_evaluation_size(const peft_evaluation *e) {
    return e != NULL ? e->count : 0;
}

double peft_evaluation_targets(const peft_evaluation *e) {
    return e != NULL ? e->targets_seen : 0.0;
}

const char *peft_evaluation_label_name(const peft_evaluation *e, uint32_t label) {
    return e != NULL && e->names != NULL && label < e->classes ? e->names[label] : NULL;
}

/* ---- room ------------------------------------------------------------------------------------------------------- */

static peft_status grow(peft_context *ctx, void *array, int64_t count, size_t size) {
    void *present, *grown;
    size_t bytes;
    memcpy(&present, array, sizeof present);
    if (!peft__mul_size((size_t)count, size, &bytes))
        return peft__fail(ctx, PEFT_E_LIMIT, "an evaluation of %lld examples is too large", (long long)count);
    grown = peft__realloc(ctx->mem, present, bytes);
    if (grown == NULL) return peft__fail_nomem(ctx, bytes, "an evaluation");
    memcpy(array, &grown, sizeof grown);
    return PEFT_OK;
}

/* Arrays that have one entry an example. */
static peft_status grow_examples(peft_evaluation *e, int64_t capacity) {
    peft_context *ctx = e->ctx;
    PEFT_TRY(grow(ctx, &e->rows, capacity, sizeof *e->rows));
    PEFT_TRY(grow(ctx, &e->inputs, capacity, sizeof *e->inputs));
    if (e->asks == PEFT__ASKS_CLASS || e->asks == PEFT__ASKS_CHOICE) {
        PEFT_TRY(grow(ctx, &e->labels, capacity, sizeof *e->labels));
        PEFT_TRY(grow(ctx, &e->given, capacity, sizeof *e->given));
    }
    if (e->asks == PEFT__ASKS_CLASS || e->asks == PEFT__ASKS_CLASSES || e->asks == PEFT__ASKS_VALUES ||
        e->asks == PEFT__ASKS_EMBEDDING)
        PEFT_TRY(grow(ctx, &e->outputs, capacity, (size_t)e->classes * sizeof *e->outputs));
    if (e->asks == PEFT__ASKS_CLASSES || e->asks == PEFT__ASKS_VALUES)
        PEFT_TRY(grow(ctx, &e->targets, capacity, (size_t)e->classes * sizeof *e->targets));
    if (e->asks == PEFT__ASKS_TAGS) PEFT_TRY(grow(ctx, &e->offsets, capacity + 1, sizeof *e->offsets));
    if (e->asks == PEFT__ASKS_SPANS) PEFT_TRY(grow(ctx, &e->spans, capacity, sizeof *e->spans));
    if (e->asks == PEFT__ASKS_WORDS) PEFT_TRY(grow(ctx, &e->answers, capacity, sizeof *e->answers));
    return PEFT_OK;
}

peft_status peft__evaluation_reserve(peft_evaluation *e, int64_t elements) {
    if (e->count == e->capacity) {
        const int64_t capacity = peft__max_i64(64, e->capacity + e->capacity / 2);
        PEFT_TRY(grow_examples(e, capacity));
        e->capacity = capacity;
    }
    if (e->asks != PEFT__ASKS_TAGS || e->elements + elements <= e->element_capacity) return PEFT_OK;
    const int64_t capacity = peft__max_i64(e->elements + elements, e->element_capacity + e->element_capacity / 2);
    if (capacity > INT32_MAX) return peft__fail(e->ctx, PEFT_E_LIMIT, "an evaluation takes at most 2^31-1 words");
    PEFT_TRY(grow(e->ctx, &e->labels, capacity, sizeof *e->labels));
    PEFT_TRY(grow(e->ctx, &e->given, capacity, sizeof *e->given));
    PEFT_TRY(grow(e->ctx, &e->words, capacity, sizeof *e->words));
    PEFT_TRY(grow(e->ctx, &e->outputs, capacity, sizeof *e->outputs));
    e->element_capacity = capacity;
    return PEFT_OK;
}

/* ---- answers ------------------------------------------------------------------------------------------------------
 */

/* Probabilities of one row of logits. */
static void softmax(const float *logits, int64_t cols, float *out) {
    float top = logits[0];
    double sum = 0.0;
    for (int64_t c = 1; c < cols; c++) top = fmaxf(top, logits[c]);
    for (int64_t c = 0; c < cols; c++) sum += exp((double)(logits[c] - top));
    for (int64_t c = 0; c < cols; c++) out[c] = (float)(exp((double)(logits[c] - top)) / sum);
}

static peft_status check_columns(const peft_evaluation *e, const peft__value *logits) {
    if (logits->cols == (int64_t)e->classes) return PEFT_OK;
    return peft__fail(e->ctx, PEFT_E_MISMATCH, "the model has %lld outputs, the data %u classes",
                      (long long)logits->cols, e->classes);
}

/* A row of logits for a whole example. */
static void take_whole(peft_evaluation *e, const peft_dataset *dataset, int32_t index, const float *logits) {
    const peft__store *store = &dataset->store;
    const int64_t cols = e->classes;
    float *out = e->outputs + e->count * cols;
    if (e->asks == PEFT__ASKS_CLASS) {
        e->labels[e->count] = store->classes != NULL ? store->classes[index] : PEFT_IGNORE_LABEL;
        peft_argmax(logits, 1, cols, &e->given[e->count]);
        softmax(logits, cols, out);
        return;
    }
    memcpy(out, logits, (size_t)cols * sizeof *out);
    for (int64_t c = 0; c < cols; c++)
        e->targets[e->count * cols + c] =
            store->targets != NULL && store->target_cols == cols ? store->targets[(int64_t)index * cols + c] : NAN;
}

/* The answer to the word that begins at token `token` of example `index`, from its row of logits. */
static void take_tag(peft_evaluation *e, const peft_dataset *dataset, int32_t index, int64_t token,
                     const float *logits) {
    const peft__store *store = &dataset->store;
    const int64_t at = store->examples[index].first + token;
    int32_t given;
    peft_argmax(logits, 1, e->classes, &given);
    double sum = 0.0;
    for (uint32_t c = 0; c < e->classes; c++) sum += exp((double)(logits[c] - logits[given]));
    e->labels[e->elements] = store->labels[at];
    e->given[e->elements] = given;
    e->words[e->elements] = store->words[at];
    e->outputs[e->elements++] = (float)(1.0 / sum);
}

/* Notes the example; `source` gives its input as text. */
peft_status peft__evaluation_next(peft_evaluation *e, const peft_dataset *dataset, int32_t index) {
    const peft__store *store = &dataset->store;
    PEFT_TRY(peft__evaluation_reserve(e, store->examples[index].length));
    e->rows[e->count] = store->examples[index].row;
    e->inputs[e->count] = NULL;
    if (store->inputs == NULL || store->inputs[index] == NULL) return PEFT_OK;
    e->inputs[e->count] = peft__arena_strdup(&e->arena, store->inputs[index]);
    return e->inputs[e->count] != NULL ? PEFT_OK
                                       : peft__fail_nomem(e->ctx, strlen(store->inputs[index]), "an evaluation");
}

static const float *row_of(const peft__value *logits, int64_t row) {
    return logits->data + row * logits->ld;
}

/* One row of logits for each labelled token, in the order of the rows: how a loss is computed. */
static peft_status take_labelled(peft_evaluation *e, const peft_dataset *dataset, const peft_batch *batch,
                                 const int32_t *examples, const peft__value *logits) {
    int64_t row = 0;
    for (int64_t s = 0; s < batch->sequences; s++) {
        PEFT_TRY(peft__evaluation_next(e, dataset, examples[s]));
        e->offsets[e->count++] = (int32_t)e->elements;
        const int32_t first = batch->offsets[s];
        for (int32_t r = first; r < batch->offsets[s + 1]; r++)
            if (batch->labels[r] != PEFT_IGNORE_LABEL)
                take_tag(e, dataset, examples[s], r - first, row_of(logits, row++));
        e->offsets[e->count] = (int32_t)e->elements;
    }
    return PEFT_OK;
}

/* Logits of all rows. What a method put before a text comes first in its sequence. */
static peft_status take_all(peft_evaluation *e, const peft_dataset *dataset, const peft_batch *batch,
                            const int32_t *examples, const peft__value *logits) {
    for (int64_t s = 0; s < batch->sequences; s++) {
        const int64_t length = batch->offsets[s + 1] - batch->offsets[s], first = logits->rows->offsets[s + 1] - length;
        PEFT_TRY(peft__evaluation_next(e, dataset, examples[s]));
        if (e->asks == PEFT__ASKS_WORDS) {
            PEFT_TRY(peft__evaluation_fill(e, dataset, examples[s], logits, first));
            e->count++;
            continue;
        }
        e->offsets[e->count++] = (int32_t)e->elements;
        const int32_t *words = dataset->store.words + dataset->store.examples[examples[s]].first;
        for (int64_t t = 0; t < length; t++)
            if (words[t] >= 0) take_tag(e, dataset, examples[s], t, row_of(logits, first + t));
        e->offsets[e->count] = (int32_t)e->elements;
    }
    return PEFT_OK;
}

/* Windows of questions, in any order. */
static peft_status take_windows(peft_evaluation *e, const peft_dataset *dataset, const peft_batch *batch,
                                const int32_t *examples, const peft__value *logits) {
    for (int64_t s = 0; s < batch->sequences; s++) {
        const int64_t length = batch->offsets[s + 1] - batch->offsets[s],
                      row = dataset->store.examples[examples[s]].row;
        if (row >= e->rows_known) {
            const int64_t known = peft__max_i64(row + 1, e->rows_known + e->rows_known / 2);
            PEFT_TRY(grow(e->ctx, &e->question_of, known, sizeof *e->question_of));
            for (int64_t i = e->rows_known; i < known; i++) e->question_of[i] = -1;
            e->rows_known = known;
        }
        if (e->question_of[row] < 0) {
            PEFT_TRY(peft__evaluation_next(e, dataset, examples[s]));
            PEFT_TRY(peft__evaluation_question(e, dataset, examples[s]));
            e->question_of[row] = (int32_t)e->count++;
        }
        peft__evaluation_window(e, dataset, examples[s], e->question_of[row], logits,
                                logits->rows->offsets[s + 1] - length);
    }
    return PEFT_OK;
}

static bool has_labels(const peft_evaluation *e, const peft_batch *batch) {
    if (e->asks != PEFT__ASKS_TAGS) return true;
    for (int64_t r = 0; r < batch->rows; r++)
        if (batch->labels[r] != PEFT_IGNORE_LABEL) return true;
    return false;
}

static peft_status answer(peft_evaluation *e, peft_session *session, const peft_dataset *dataset,
                          const peft_batch *batch, const int32_t *examples) {
    const peft__value *logits = NULL;
    double loss = 0.0, count = 0.0;
    if (e->asks == PEFT__ASKS_EMBEDDING) return peft__evaluation_embed(e, session, dataset, batch, examples);
    if (dataset->store.embeds) return peft__evaluation_compare(e, session, dataset, batch, examples);
    if (e->asks == PEFT__ASKS_CHOICE && dataset->store.pairs)
        return peft__evaluation_pick(e, session, dataset, batch, examples);
    if (e->asks == PEFT__ASKS_CHOICE) return peft__evaluation_rank(e, session, dataset, batch, examples);
    if (!e->labelled) {
        PEFT_TRY(peft__session_logits(session, batch, PEFT_LOGITS_ALL, -1, &logits));
    } else if (has_labels(e, batch)) {
        PEFT_TRY(peft__session_eval(session, batch, &loss, &count, &logits));
        e->loss += loss * count;
        e->targets_seen += count;
    } else {
        return PEFT_OK;
    }
    if (e->asks == PEFT__ASKS_NOTHING) {
        for (int64_t s = 0; s < batch->sequences; s++) {
            PEFT_TRY(peft__evaluation_next(e, dataset, examples[s]));
            e->count++;
        }
        return PEFT_OK;
    }
    if (logits == NULL) return peft__fail(e->ctx, PEFT_E_UNSUPPORTED, "this task gives no logits beside its loss");
    if (e->asks == PEFT__ASKS_SPANS) return take_windows(e, dataset, batch, examples, logits);
    if (e->asks != PEFT__ASKS_WORDS) PEFT_TRY(check_columns(e, logits));
    if (e->asks == PEFT__ASKS_TAGS && e->labelled) return take_labelled(e, dataset, batch, examples, logits);
    if (e->asks == PEFT__ASKS_TAGS || e->asks == PEFT__ASKS_WORDS) return take_all(e, dataset, batch, examples, logits);
    if (logits->rows->count != batch->sequences)
        return peft__fail(e->ctx, PEFT_E_INTERNAL, "%lld rows of logits for %lld sequences",
                          (long long)logits->rows->count, (long long)batch->sequences);
    for (int64_t s = 0; s < batch->sequences; s++) {
        PEFT_TRY(peft__evaluation_next(e, dataset, examples[s]));
        take_whole(e, dataset, examples[s], row_of(logits, s));
        e->count++;
    }
    return PEFT_OK;
}

/* ---- going through ------------------------------------------------------------------------------------------------
 */

static peft_status choose(peft_evaluation *e, const peft_dataset *dataset) {
    const peft__store *store = &dataset->store;
    e->labelled = dataset->options.unlabelled == 0;
    e->classes = dataset->labels.count;
    if (dataset->task == PEFT_TASK_FEATURE_EXTRACTION && !e->labelled) {
        e->asks = PEFT__ASKS_EMBEDDING;
        return PEFT_OK;
    }
    switch (store->learns) {
    case PEFT__LEARNS_CLASS:
        e->asks = PEFT__ASKS_CLASS;
        break;
    case PEFT__LEARNS_TARGETS:
        e->asks = dataset->options.format == PEFT_DATA_MULTI_LABEL ? PEFT__ASKS_CLASSES : PEFT__ASKS_VALUES;
        e->classes = (uint32_t)store->target_cols;
        break;
    case PEFT__LEARNS_TOKENS:
        e->asks = PEFT__ASKS_TAGS;
        break;
    case PEFT__LEARNS_CHOICE:
        e->asks = store->scored ? PEFT__ASKS_VALUES : PEFT__ASKS_CHOICE;
        if (store->scored) e->classes = 1;
        if (store->embeds) return PEFT_OK;
        if (e->classes == 0) return PEFT_OK;
        break;
    case PEFT__LEARNS_SPAN:
        e->asks = PEFT__ASKS_SPANS;
        return PEFT_OK;
    case PEFT__LEARNS_HIDDEN:
        e->asks = e->labelled ? PEFT__ASKS_NOTHING : PEFT__ASKS_WORDS;
        e->perplexity = true;
        break;
    default:
        e->asks = PEFT__ASKS_NOTHING;
        e->perplexity = true;
        break;
    }
    if (e->asks == PEFT__ASKS_NOTHING && !e->labelled)
        return peft__fail(e->ctx, PEFT_E_UNSUPPORTED,
                          "a language model predicts by generating: peft_session_generate()");
    if (e->asks == PEFT__ASKS_NOTHING || e->asks == PEFT__ASKS_WORDS || e->asks == PEFT__ASKS_VALUES) return PEFT_OK;
    if (e->classes == 0 || dataset->labels.names == NULL)
        return peft__fail(e->ctx, PEFT_E_ARG, "the data set has no classes");
    PEFT_TRY(grow(e->ctx, &e->names, e->classes, sizeof *e->names));
    for (uint32_t i = 0; i < e->classes; i++) {
        e->names[i] = peft__arena_strdup(&e->arena, dataset->labels.names[i]);
        if (e->names[i] == NULL) return peft__fail_nomem(e->ctx, 64, "an evaluation");
    }
    return PEFT_OK;
}

static peft_status go_through(peft_evaluation *e, peft_session *session, peft_dataset *dataset) {
    PEFT_TRY(peft_dataset_seek(dataset, 0, 0));
    for (int64_t i = 0; e->options.max_batches <= 0 || i < e->options.max_batches; i++) {
        peft_batch batch;
        peft_batch_init(&batch);
        const peft_status status = peft_dataset_next(dataset, &batch);
        if (status == PEFT_END) break;
        if (status < 0) return status;
        const int32_t *examples = dataset->order.order + dataset->order.first[dataset->batch - 1];
        PEFT_TRY(answer(e, session, dataset, &batch, examples));
    }
    return e->asks == PEFT__ASKS_SPANS ? peft__evaluation_score_spans(e) : PEFT_OK;
}

peft_status peft_evaluate(peft_session *session, peft_dataset *dataset, const peft_evaluate_options *options,
                          peft_evaluation **out_evaluation) {
    if (session == NULL) return PEFT_E_ARG;
    peft_context *ctx = session->ctx;
    if (dataset == NULL || out_evaluation == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "peft_evaluate() takes a session, a data set and out_evaluation");
    peft_evaluate_options chosen;
    peft_evaluate_options_init(&chosen);
    PEFT_TRY(peft__options_copy(ctx, &chosen, sizeof chosen, options, sizeof chosen, "peft_evaluate_options"));
    if (chosen.n_best < 1 || chosen.n_best > 1000 || chosen.max_answer_length < 1 ||
        !(chosen.threshold > 0.0f && chosen.threshold < 1.0f))
        return peft__fail(ctx, PEFT_E_ARG,
                          "peft_evaluate_options: n_best is 1 to 1000, max_answer_length at least 1, threshold between "
                          "0 and 1");
    peft_evaluation *e = peft__alloc_zero(ctx->mem, sizeof *e);
    if (e == NULL) return peft__fail_nomem(ctx, sizeof *e, "an evaluation");
    e->ctx = peft__context_ref(ctx);
    e->options = chosen;
    peft__arena_init(&e->arena, ctx->mem);
    peft__buffer_init(&e->text, ctx->mem);
    uint64_t epoch, batch;
    peft_dataset_position(dataset, &epoch, &batch);
    peft_status status = choose(e, dataset);
    /* Right answers alone are for learning: judging takes them all. */
    const uint32_t right_only = dataset->options.right_only;
    dataset->options.right_only = 0;
    if (status >= 0) status = go_through(e, session, dataset);
    dataset->options.right_only = right_only;
    const peft_status back = peft_dataset_seek(dataset, epoch, batch);
    if (status >= 0) status = back;
    if (status < 0) {
        peft_evaluation_destroy(e);
        return status;
    }
    *out_evaluation = e;
    return PEFT_OK;
}
