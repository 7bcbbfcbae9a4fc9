/* heads.c: from hidden states to logits or loss. A head is a row of the table below: for its task it says which rows it
 * reads and how. Architectures give the names of their modules.
 *
 * The loss of a language model is computed by one operation that never forms [rows, vocabulary]; that is possible as
 * long as no method changes what the output layer gives, else the logits are made and the plain cross entropy follows.
 */
#include "model/build.h"
#include "model/model_internal.h"

#include <stdio.h>

typedef enum { READ_ALL, READ_LABELLED, READ_LAST } rows_read;

typedef struct head {
    int32_t task;
    rows_read for_loss, for_logits, for_last;
    void (*build)(peft__build *b, peft__value *x, const peft__head_options *options);
} head;

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

static void build_causal(peft__build *b, peft__value *x, const peft__head_options *o) {
    peft__graph *g = b->graph;
    if (b->purpose == PEFT__BUILD_LOSS && !peft__build_touches(b, o->lm_head)) {
        const peft__head_config config = {
            .logit_scale = o->logit_scale, .soft_cap = o->soft_cap, .label_smoothing = b->label_smoothing};
        const peft__module *module = peft__model_find(b->model, o->lm_head);
        char bias[160];
        (void)snprintf(bias, sizeof bias, "%s.bias", module != NULL ? module->name : o->lm_head);
        b->loss = peft__op_head_loss(g, x, peft__build_weight(b, o->lm_head), peft__build_vector(b, bias), &config);
        return;
    }
    peft__value *logits = peft__build_linear(b, o->lm_head, x, NULL);
    if (o->logit_scale != 1) logits = peft__op_scale(g, logits, o->logit_scale);
    if (o->soft_cap != 0) logits = peft__op_soft_cap(g, logits, o->soft_cap);
    if (b->purpose != PEFT__BUILD_LOSS) {
        put_logits(b, logits);
        return;
    }
    const peft__cross_entropy_config config = {.label_smoothing = b->label_smoothing};
    b->loss = peft__op_cross_entropy(g, logits, &config);
}

/* ---- classifiers ----------------------------------------------------------------------------------------- */

static void build_classifier(peft__build *b, peft__value *x, const peft__head_options *o, bool by_sequence) {
    peft__value *logits = peft__build_linear(b, o->score, x, NULL);
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

static void build_sequences(peft__build *b, peft__value *x, const peft__head_options *o) {
    build_classifier(b, x, o, true);
}

static void build_tokens(peft__build *b, peft__value *x, const peft__head_options *o) {
    build_classifier(b, x, o, false);
}

static void build_features(peft__build *b, peft__value *x, const peft__head_options *o) {
    (void)o;
    if (b->purpose == PEFT__BUILD_LOSS)
        no_loss(b);
    else
        put_logits(b, x);
}

/* Decoders: the last row of a sequence has seen all of it. */
static const head decoder_heads[] = {
    {PEFT_TASK_CAUSAL_LM, READ_LABELLED, READ_ALL, READ_LAST, build_causal},
    {PEFT_TASK_SEQ_CLS, READ_LAST, READ_LAST, READ_LAST, build_sequences},
    {PEFT_TASK_TOKEN_CLS, READ_LABELLED, READ_ALL, READ_LAST, build_tokens},
    {PEFT_TASK_FEATURE_EXTRACTION, READ_ALL, READ_ALL, READ_LAST, build_features},
};

static const head *find_head(const peft__build *b) {
    for (size_t i = 0; i < PEFT_COUNT(decoder_heads); i++)
        if (decoder_heads[i].task == peft__model_task(b->model)) return &decoder_heads[i];
    return NULL;
}

/* ---- which rows ------------------------------------------------------------------------------------------ */

static peft__value *pick_rows(peft__build *b, peft__value *x) {
    const head *h = find_head(b);
    if (h == NULL || x == NULL || b->rows_picked || b->purpose == PEFT__BUILD_HIDDEN) return x;
    const rows_read read = b->purpose == PEFT__BUILD_LOSS   ? h->for_loss
                           : b->purpose == PEFT__BUILD_LAST ? h->for_last
                                                            : h->for_logits;
    b->rows_picked = true;
    if (read == READ_ALL) return x;
    peft__rows *rows =
        read == READ_LAST ? peft__rows_pick(b->graph, x->rows, -1) : peft__rows_labelled(b->graph, x->rows);
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

void peft__build_decoder_head(peft__build *b, peft__value *hidden, const peft__head_options *options) {
    const head *h = find_head(b);
    for (uint32_t i = 0; i < b->adapter_count && hidden != NULL && !peft__graph_failed(b->graph); i++)
        if (b->adapters[i].hooks->readout != NULL)
            hidden = b->adapters[i].hooks->readout(b->adapters[i].self, b, hidden);
    if (hidden == NULL || peft__graph_failed(b->graph)) return; /* the method made its own */
    if (h == NULL)
        no_loss(b);
    else
        h->build(b, pick_rows(b, hidden), options);
}
