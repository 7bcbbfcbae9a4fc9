/* heads.c: from hidden states to logits or loss. A head is a row of its architecture's table: for its task it says
 * which rows it reads and how. Here are the parts that heads are made of, and the table of decoders.
 *
 * The loss of a language model is computed by one operation that never forms [rows, vocabulary]; that is possible as
 * long as no method changes what the output layer gives, else the logits are made and the plain cross entropy follows.
 */
#include "model/build.h"
#include "model/model_internal.h"

static void no_loss(peft__build *b) {
    peft_context *ctx = peft__graph_context(b->graph);
    const int32_t task = peft__model_task(b->model);
    peft__graph_fail(b->graph,
                     peft__fail(ctx, PEFT_E_UNSUPPORTED,
                                "task %s has no loss of its own: load the model for another task or use PEFT_LOSS_HOST",
                                peft__task_name(task)));
}

static void put_logits(peft__build *b, peft__value *logits) {
    b->logits = logits;
    peft__value_output(b->graph, logits);
}

/* ---- language models ------------------------------------------------------------------------------------- */

/* Losses made of -log p of each label. */
static void take_nll(peft__build *b, peft__value *nll) {
    if (b->purpose == PEFT__BUILD_LOSS) {
        b->loss = peft__op_choice_loss(b->graph, nll);
    } else {
        b->nll = nll;
        peft__value_output(b->graph, nll);
    }
}

void peft__build_lm_head(peft__build *b, peft__value *x, const peft__head_options *o) {
    peft__graph *g = b->graph;
    const bool by_token = b->purpose == PEFT__BUILD_SCORE || (b->purpose == PEFT__BUILD_LOSS && b->choice_loss);
    if ((b->purpose == PEFT__BUILD_LOSS || by_token) && !peft__build_touches(b, o->lm_head)) {
        const peft__head_config config = {.logit_scale = o->logit_scale,
                                          .soft_cap = o->soft_cap,
                                          .label_smoothing = by_token ? 0 : b->label_smoothing};
        const peft__module *module = peft__model_find(b->model, o->lm_head);
        const char *bias = module == NULL ? NULL : peft__module_tensor_name(module, peft__graph_arena(g), true);
        const peft__weight weight = peft__build_weight(b, o->lm_head);
        if (bias == NULL) {
            peft__graph_fail(g, peft__fail_nomem(peft__graph_context(g), 64, "a graph"));
            return;
        }
        if (by_token)
            take_nll(b, peft__op_head_nll(g, x, weight, peft__build_vector(b, bias), &config));
        else
            b->loss = peft__op_head_loss(g, x, weight, peft__build_vector(b, bias), &config);
        return;
    }
    peft__value *logits = peft__build_linear(b, o->lm_head, x, NULL);
    if (o->logit_scale != 1) logits = peft__op_scale(g, logits, o->logit_scale);
    if (o->soft_cap != 0) logits = peft__op_soft_cap(g, logits, o->soft_cap);
    if (by_token) {
        take_nll(b, peft__op_token_nll(g, logits));
        return;
    }
    if (b->purpose != PEFT__BUILD_LOSS) {
        put_logits(b, logits);
        return;
    }
    const peft__cross_entropy_config config = {.label_smoothing = b->label_smoothing};
    b->loss = peft__op_cross_entropy(g, logits, &config);
}

/* ---- classifiers ----------------------------------------------------------------------------------------- */

void peft__build_classes(peft__build *b, const char *module, peft__value *x, bool by_sequence) {
    peft__value *logits = peft__build_linear(b, module, x, NULL);
    put_logits(b, logits);
    if (b->purpose != PEFT__BUILD_LOSS) return;
    const peft__cross_entropy_config config = {
        .by_sequence = by_sequence, .label_smoothing = b->label_smoothing, .class_weights = b->class_weights};
    const peft__problem problem = by_sequence ? b->model->problem : PEFT__PROBLEM_SINGLE_LABEL;
    if (problem == PEFT__PROBLEM_SINGLE_LABEL)
        b->loss = peft__op_cross_entropy(b->graph, logits, &config);
    else
        b->loss = peft__op_target_loss(b->graph, logits,
                                       problem == PEFT__PROBLEM_REGRESSION ? PEFT__LOSS_MSE : PEFT__LOSS_BCE);
}

void peft__build_spans(peft__build *b, const char *module, peft__value *x) {
    peft__value *logits = peft__build_linear(b, module, x, NULL);
    put_logits(b, logits);
    if (b->purpose == PEFT__BUILD_LOSS) b->loss = peft__op_span_loss(b->graph, logits);
}

void peft__build_choices(peft__build *b, const char *module, peft__value *x) {
    peft__value *scores = peft__build_linear(b, module, x, NULL);
    put_logits(b, scores);
    if (b->purpose == PEFT__BUILD_LOSS) b->loss = peft__op_group_loss(b->graph, scores, b->label_smoothing);
}

/* The text's own rows: the last of each sequence, as many as the batch has; what a method put before them is no part
 * of the text. */
static void measure_texts(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows,
                          int64_t *out_sequences) {
    (void)rows;
    *out_rows = capacity->rows;
    *out_sequences = capacity->sequences;
}

static peft_status bind_texts(peft__rows *rows, peft_context *ctx, const peft_batch *batch) {
    const peft__rows *parent = rows->parent;
    memcpy(rows->offsets, batch->offsets, (size_t)(batch->sequences + 1) * sizeof *rows->offsets);
    for (int64_t s = 0; s < batch->sequences; s++) {
        const int32_t count = batch->offsets[s + 1] - batch->offsets[s], first = parent->offsets[s + 1] - count;
        if (first < parent->offsets[s])
            return peft__fail(ctx, PEFT_E_INTERNAL, "text %lld has lost rows on its way", (long long)s);
        for (int32_t i = 0; i < count; i++) {
            const int32_t to = batch->offsets[s] + i;
            rows->source[to] = first + i;
            rows->positions[to] = parent->positions[first + i];
            rows->ids[to] = parent->ids[first + i];
            rows->types[to] = parent->types[first + i];
            rows->labels[to] = PEFT_IGNORE_LABEL;
        }
    }
    rows->count = batch->rows;
    rows->sequences = batch->sequences;
    return PEFT_OK;
}

static bool inserts_rows(const peft__build *b) {
    for (uint32_t i = 0; i < b->adapter_count; i++)
        if (b->adapters[i].hooks->input != NULL) return true;
    return false;
}

/* Mean of the hidden states of each text, and what embeddings learn from texts that belong together. */
static void embed(peft__build *b, peft__value *x) {
    peft__graph *g = b->graph;
    if (inserts_rows(b))
        x = peft__op_select_rows(g, peft__rows_new(g, "texts", x->rows, NULL, measure_texts, bind_texts, true), x,
                                 NULL);
    if (x == NULL) return;
    x = peft__op_mean_rows(g, peft__rows_pick(g, x->rows, 0), x);
    if (x == NULL) return;
    put_logits(b, x);
    b->loss = peft__op_contrast_loss(g, x, b->similarity_scale);
}

void peft__build_features(peft__build *b, peft__value *x) {
    const peft__dims *d = peft__model_dims(b->model);
    if (b->purpose != PEFT__BUILD_LOSS)
        put_logits(b, x);
    else if (d->vocab_size > 0 && d->feature_size == 0)
        embed(b, x);
    else
        no_loss(b);
}

/* ---- decoders -------------------------------------------------------------------------------------------- */

static void causal(peft__build *b, peft__value *x, const void *options) {
    peft__build_lm_head(b, x, options);
}

static void sequences(peft__build *b, peft__value *x, const void *options) {
    peft__build_classes(b, ((const peft__head_options *)options)->score, x, true);
}

static void tokens(peft__build *b, peft__value *x, const void *options) {
    peft__build_classes(b, ((const peft__head_options *)options)->score, x, false);
}

static void features(peft__build *b, peft__value *x, const void *options) {
    (void)options;
    peft__build_features(b, x);
}

/* The last row of a sequence has seen all of it. */
const peft__head peft__decoder_heads[] = {
    {PEFT_TASK_CAUSAL_LM, PEFT__READ_LABELLED, PEFT__READ_ALL, PEFT__READ_LAST, causal},
    {PEFT_TASK_SEQ_CLS, PEFT__READ_LAST, PEFT__READ_LAST, PEFT__READ_LAST, sequences},
    {PEFT_TASK_TOKEN_CLS, PEFT__READ_LABELLED, PEFT__READ_ALL, PEFT__READ_LAST, tokens},
    {PEFT_TASK_FEATURE_EXTRACTION, PEFT__READ_ALL, PEFT__READ_ALL, PEFT__READ_LAST, features},
    {0, PEFT__READ_ALL, PEFT__READ_ALL, PEFT__READ_ALL, NULL},
};

/* ---- which rows ------------------------------------------------------------------------------------------ */

static const peft__head *find_head(const peft__build *b) {
    for (const peft__head *h = peft__model_arch(b->model)->heads; h != NULL && h->task != 0; h++)
        if (h->task == peft__model_task(b->model)) return h;
    return NULL;
}

static peft__value *pick_rows(peft__build *b, peft__value *x) {
    const peft__head *h = find_head(b);
    if (h == NULL || x == NULL || b->rows_picked || b->purpose == PEFT__BUILD_HIDDEN) return x;
    const bool by_label =
        b->purpose == PEFT__BUILD_LOSS || b->purpose == PEFT__BUILD_SCORE || b->purpose == PEFT__BUILD_MARKED;
    const peft__rows_read read = by_label ? h->for_loss : b->purpose == PEFT__BUILD_LAST ? h->for_last : h->for_logits;
    b->rows_picked = true;
    if (read == PEFT__READ_ALL) return x;
    peft__rows *rows = read == PEFT__READ_LABELLED
                           ? peft__rows_labelled(b->graph, x->rows)
                           : peft__rows_pick(b->graph, x->rows, read == PEFT__READ_LAST ? -1 : 0);
    return peft__op_select_rows(b->graph, rows, x, NULL);
}

static bool has_readout(const peft__build *b) {
    for (uint32_t i = 0; i < b->adapter_count; i++)
        if (b->adapters[i].hooks->readout != NULL) return true;
    return false;
}

peft__value *peft__build_readout_rows(peft__build *b, peft__value *x) {
    return has_readout(b) ? x : pick_rows(b, x);
}

void peft__build_head(peft__build *b, peft__value *hidden, const void *options) {
    const peft__head *h = find_head(b);
    for (uint32_t i = 0; i < b->adapter_count && hidden != NULL && !peft__graph_failed(b->graph); i++)
        if (b->adapters[i].hooks->readout != NULL)
            hidden = b->adapters[i].hooks->readout(b->adapters[i].self, b, hidden);
    if (hidden == NULL || peft__graph_failed(b->graph)) return; /* the method made its own */
    if (h == NULL)
        no_loss(b);
    else
        h->build(b, pick_rows(b, hidden), options);
}
