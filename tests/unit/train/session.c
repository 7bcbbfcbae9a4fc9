/* Sessions from outside: phases, accumulation, weights, losses of the host's own, batches that must be refused. */
#include "check.h"
#include "peft/peft.h"

enum { ROWS = 20, SEQUENCES = 3, VOCAB = 288, MOST = 40000 };

static peft_context *ctx;
static peft_model *model;
static int32_t offsets[SEQUENCES + 1] = {0, 9, 12, ROWS}, ids[ROWS], labels[ROWS];
static peft_batch batch;

static void make_batch(void) {
    for (int i = 0; i < ROWS; i++) {
        ids[i] = 3 + (i * 37 + 11) % (VOCAB - 3);
        labels[i] = i % 5 == 0 ? PEFT_IGNORE_LABEL : ids[i];
    }
    offsets[1] = 9, offsets[2] = 12, offsets[3] = ROWS;
    peft_batch_init(&batch);
    batch.rows = ROWS;
    batch.sequences = SEQUENCES;
    batch.offsets = offsets;
    batch.input_ids = ids;
    batch.labels = labels;
}

static peft_adapter *lora(uint64_t seed) {
    peft_adapter *adapter = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, model,
                                      "{\"peft_type\": \"LORA\", \"r\": 3, \"target_modules\": [\"q_proj\", "
                                      "\"down_proj\"], \"init_lora_weights\": false}",
                                      seed, &adapter));
    return adapter;
}

static peft_session *session_of(peft_adapter *adapter, int32_t loss) {
    peft_session_options options;
    peft_session_options_init(&options);
    options.loss = loss;
    peft_session *session = NULL;
    CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, adapter != NULL ? 1 : 0, &options, &session));
    if (session == NULL) exit(check_summary());
    return session;
}

static double worst(const float *a, const float *b, int64_t count, float factor) {
    double most = 0.0, top = 0.0;
    for (int64_t i = 0; i < count; i++) {
        most = fmax(most, fabs((double)a[i] - (double)factor * (double)b[i]));
        top = fmax(top, fabs((double)b[i]));
    }
    return most / top;
}

static float whole[MOST], part[MOST];

static void run_pass(peft_session *s, float weight) {
    CHECK_OK(ctx, peft_session_forward(s, &batch, NULL));
    CHECK_OK(ctx, peft_session_backward(s, weight));
}

static void check_accumulation(peft_adapter *adapter) {
    peft_session *s = session_of(adapter, PEFT_LOSS_TASK);
    const int64_t count = peft_adapter_parameter_count(adapter);
    CHECK(count > 0 && count < MOST);
    double loss = 0.0, loss_a = 0.0, loss_b = 0.0, count_a = 0.0, count_b = 0.0;
    make_batch();
    CHECK_OK(ctx, peft_session_forward(s, &batch, &loss));
    CHECK_OK(ctx, peft_session_backward(s, 1.0f));
    CHECK_OK(ctx, peft_session_get_gradients(s, adapter, whole, count));

    /* The same sequences in two batches of different size, the second growing the plan. */
    CHECK_OK(ctx, peft_session_zero_grad(s));
    peft_session_destroy(s);
    s = session_of(adapter, PEFT_LOSS_TASK);
    int32_t second[] = {0, 3, 11};
    batch.sequences = 1;
    batch.rows = 9;
    CHECK_OK(ctx, peft_session_eval(s, &batch, &loss_a, &count_a));
    run_pass(s, 1.0f);
    batch.sequences = 2;
    batch.rows = 11;
    batch.offsets = second;
    batch.input_ids = ids + 9;
    batch.labels = labels + 9;
    CHECK_OK(ctx, peft_session_eval(s, &batch, &loss_b, &count_b));
    run_pass(s, 1.0f);
    CHECK_OK(ctx, peft_session_get_gradients(s, adapter, part, count));
    CHECK(worst(part, whole, count, 1.0f) < 1e-5);
    CHECK_NEAR((loss_a * count_a + loss_b * count_b) / (count_a + count_b), loss, 1e-5);

    /* Weights: 2 g + 0.5 g + 0 g = 2.5 g over three times the targets. */
    make_batch();
    CHECK_OK(ctx, peft_session_zero_grad(s));
    run_pass(s, 2.0f);
    run_pass(s, 0.5f);
    run_pass(s, 0.0f);
    CHECK_OK(ctx, peft_session_get_gradients(s, adapter, part, count));
    CHECK(worst(part, whole, count, 2.5f / 3.0f) < 1e-5);
    run_pass(s, -2.5f);
    CHECK_OK(ctx, peft_session_get_gradients(s, adapter, part, count));
    CHECK(worst(part, whole, count, 0.0f) < 1e-5);

    /* A growing plan keeps what was accumulated. */
    CHECK_OK(ctx, peft_session_zero_grad(s));
    run_pass(s, 1.0f);
    static int32_t long_ids[400], long_offsets[11];
    for (int i = 0; i < 400; i++) long_ids[i] = 5 + i % 200;
    for (int i = 0; i < 11; i++) long_offsets[i] = 40 * i;
    peft_batch large = batch;
    large.rows = 400;
    large.sequences = 10;
    large.offsets = long_offsets;
    large.input_ids = large.labels = long_ids;
    CHECK_OK(ctx, peft_session_forward(s, &large, NULL));
    CHECK_OK(ctx, peft_session_get_gradients(s, adapter, part, count));
    CHECK(worst(part, whole, count, 1.0f) < 1e-6);

    /* Averaged elsewhere and put back; then one more batch on top. */
    for (int64_t i = 0; i < count; i++) part[i] = 3.0f * whole[i];
    CHECK_OK(ctx, peft_session_set_gradients(s, adapter, part, count));
    CHECK_OK(ctx, peft_session_get_gradients(s, adapter, part, count));
    CHECK(worst(part, whole, count, 3.0f) < 1e-7);
    run_pass(s, 1.0f);
    CHECK_OK(ctx, peft_session_get_gradients(s, adapter, part, count));
    CHECK(worst(part, whole, count, 2.0f) < 1e-5); /* (3 n + 1 n) / 2 n */
    CHECK_STATUS(ctx, peft_session_set_gradients(s, adapter, part, count - 1), PEFT_E_ARG);
    peft_session_destroy(s);
}

static void check_phases(peft_adapter *adapter) {
    peft_session *s = session_of(adapter, PEFT_LOSS_TASK);
    peft_optimizer *opt = NULL;
    peft_progress progress = {.struct_size = sizeof progress};
    double loss = 0.0, again = 0.0;
    make_batch();
    CHECK_OK(ctx, peft_optimizer_create(ctx, adapter, NULL, &opt));
    CHECK_STATUS(ctx, peft_session_backward(s, 1.0f), PEFT_E_STATE);
    CHECK_STATUS(ctx, peft_session_advance(s, 0, NULL), PEFT_E_STATE);
    CHECK_STATUS(ctx, peft_optimizer_step(opt, s, NULL), PEFT_E_STATE);
    CHECK_STATUS(ctx, peft_session_get_gradients(s, adapter, part, peft_adapter_parameter_count(adapter)),
                 PEFT_E_STATE);

    CHECK_OK(ctx, peft_session_begin(s, &batch, PEFT_PASS_BOTH, 1.0f));
    CHECK_STATUS(ctx, peft_session_advance(s, 0, &progress), PEFT_AGAIN);
    CHECK(progress.done < progress.total);
    CHECK_STATUS(ctx, peft_session_begin(s, &batch, PEFT_PASS_BOTH, 1.0f), PEFT_E_STATE);
    CHECK_STATUS(ctx, peft_session_forward(s, &batch, NULL), PEFT_E_STATE);
    CHECK_STATUS(ctx, peft_session_eval(s, &batch, NULL, NULL), PEFT_E_STATE);
    CHECK_STATUS(ctx, peft_session_zero_grad(s), PEFT_E_STATE);
    CHECK_STATUS(ctx, peft_session_set_adapters(s, NULL, 0), PEFT_E_STATE);
    CHECK_STATUS(ctx, peft_optimizer_step(opt, s, NULL), PEFT_E_STATE);
    CHECK_STATUS(ctx, peft_checkpoint_save(s, opt, "/tmp/never", NULL), PEFT_E_STATE);
    CHECK_OK(ctx, peft_session_advance(s, UINT64_MAX, &progress));
    CHECK(progress.done == progress.total && progress.loss > 0.0);
    CHECK_STATUS(ctx, peft_checkpoint_save(s, opt, "/tmp/never", NULL), PEFT_E_STATE);

    /* Looking at other batches between forward and backward disturbs neither. */
    CHECK_OK(ctx, peft_session_zero_grad(s));
    CHECK_OK(ctx, peft_session_forward(s, &batch, &loss));
    peft_batch other = batch;
    other.sequences = 1;
    other.rows = 9;
    CHECK_OK(ctx, peft_session_eval(s, &other, &again, NULL));
    CHECK(again != loss);
    static float logits[ROWS * VOCAB];
    int64_t rows = 0, cols = 0;
    CHECK_OK(ctx, peft_session_logits(s, &other, PEFT_LOGITS_LAST, logits, VOCAB, &rows, &cols));
    CHECK(rows == 1 && cols == VOCAB);
    CHECK_STATUS(ctx, peft_session_logits(s, &other, PEFT_LOGITS_ALL, logits, 9 * VOCAB - 1, &rows, &cols),
                 PEFT_E_LIMIT);
    CHECK_OK(ctx, peft_session_backward(s, 1.0f));
    CHECK_OK(ctx, peft_session_get_gradients(s, adapter, part, peft_adapter_parameter_count(adapter)));
    CHECK(worst(part, whole, peft_adapter_parameter_count(adapter), 1.0f) < 1e-6);
    CHECK_STATUS(ctx, peft_session_backward(s, 1.0f), PEFT_E_STATE);
    CHECK_OK(ctx, peft_session_eval(s, &batch, &again, NULL));
    CHECK_NEAR(again, loss, 1e-6);
    CHECK_OK(ctx, peft_session_zero_grad(s));

    /* No adapter, or inference: a loss, but nothing to train. */
    CHECK_OK(ctx, peft_session_set_adapters(s, NULL, 0));
    CHECK_OK(ctx, peft_session_forward(s, &batch, &loss));
    CHECK_STATUS(ctx, peft_session_backward(s, 1.0f), PEFT_E_STATE);
    CHECK_STATUS(ctx, peft_optimizer_step(opt, s, NULL), PEFT_E_ARG);
    peft_session_destroy(s);
    peft_optimizer_destroy(opt);
}

/* The host's own loss: cross entropy worked out here gives the gradients that the session's own gives. */
static void check_host_loss(peft_adapter *adapter) {
    peft_session *s = session_of(adapter, PEFT_LOSS_HOST);
    const float *logits = NULL;
    float *grad = NULL;
    int64_t rows = 0, cols = 0;
    make_batch();
    CHECK_STATUS(ctx, peft_session_output(s, &logits, &rows, &cols), PEFT_E_STATE);
    CHECK_OK(ctx, peft_session_forward(s, &batch, NULL));
    CHECK_OK(ctx, peft_session_output(s, &logits, &rows, &cols));
    CHECK_OK(ctx, peft_session_output_grad(s, &grad));
    CHECK(rows == ROWS && cols == VOCAB && grad != NULL);
    if (grad == NULL) return;
    int targets = 0;
    for (int q = 0; q < SEQUENCES; q++)
        for (int r = offsets[q]; r + 1 < offsets[q + 1]; r++) targets += labels[r + 1] != PEFT_IGNORE_LABEL;
    for (int q = 0; q < SEQUENCES; q++) {
        for (int r = offsets[q]; r + 1 < offsets[q + 1]; r++) {
            if (labels[r + 1] == PEFT_IGNORE_LABEL) continue;
            double total = 0.0;
            for (int c = 0; c < VOCAB; c++) total += exp((double)logits[r * VOCAB + c]);
            for (int c = 0; c < VOCAB; c++)
                grad[r * VOCAB + c] =
                    (float)((exp((double)logits[r * VOCAB + c]) / total - (c == labels[r + 1])) / targets);
        }
    }
    CHECK_OK(ctx, peft_session_backward(s, 1.0f));
    CHECK_OK(ctx, peft_session_get_gradients(s, adapter, part, peft_adapter_parameter_count(adapter)));
    CHECK(worst(part, whole, peft_adapter_parameter_count(adapter), 1.0f) < 1e-5);
    CHECK_STATUS(ctx, peft_session_eval(s, &batch, NULL, NULL), PEFT_E_STATE);
    peft_session_destroy(s);
}

/* Two adapters at once, each with its optimizer: one step each, in any order. */
static void check_two_adapters(peft_adapter *first) {
    peft_adapter *both[2] = {first, lora(99)};
    peft_session *s = NULL;
    peft_optimizer *opt[2] = {NULL, NULL};
    double before = 0.0, after = 0.0;
    make_batch();
    CHECK_OK(ctx, peft_session_create(ctx, model, both, 2, NULL, &s));
    for (int i = 0; i < 2; i++) CHECK_OK(ctx, peft_optimizer_create(ctx, both[i], NULL, &opt[i]));
    CHECK_OK(ctx, peft_session_forward(s, &batch, &before));
    CHECK_OK(ctx, peft_session_backward(s, 1.0f));
    CHECK_OK(ctx, peft_optimizer_step(opt[1], s, NULL));
    CHECK_STATUS(ctx, peft_optimizer_step(opt[1], s, NULL), PEFT_E_STATE);
    CHECK_OK(ctx, peft_optimizer_step(opt[0], s, NULL));
    CHECK_OK(ctx, peft_session_eval(s, &batch, &after, NULL));
    CHECK(after < before);
    /* In any order. */
    peft_adapter_destroy(both[1]);
    peft_optimizer_destroy(opt[1]);
    CHECK_OK(ctx, peft_session_eval(s, &batch, &before, NULL));
    CHECK_NEAR(after, before, 0.0);
    peft_session_destroy(s);
    peft_optimizer_destroy(opt[0]);
    CHECK_STATUS(ctx, peft_session_create(ctx, model, (peft_adapter *[]){first, first}, 2, NULL, &s), PEFT_E_ARG);
}

static void refuse(peft_session *s, const peft_batch *bad, peft_status want, const char *word) {
    CHECK_STATUS(ctx, peft_session_forward(s, bad, NULL), want);
    if (!CHECK(strstr(peft_context_error(ctx), word) != NULL))
        fprintf(stderr, "    \"%s\" does not say \"%s\"\n", peft_context_error(ctx), word);
}

static void check_refusals(peft_adapter *adapter) {
    peft_session *s = session_of(adapter, PEFT_LOSS_TASK);
    make_batch();
    peft_batch bad = batch;
    bad.struct_size = 0;
    refuse(s, &bad, PEFT_E_ABI, "struct_size");
    refuse(s, NULL, PEFT_E_ARG, "batch");
    bad = batch, bad.input_ids = NULL;
    refuse(s, &bad, PEFT_E_ARG, "input_ids");
    bad = batch, bad.labels = NULL;
    refuse(s, &bad, PEFT_E_ARG, "label");
    ids[4] = VOCAB;
    refuse(s, &batch, PEFT_E_ARG, "input_ids[4]");
    ids[4] = -1;
    refuse(s, &batch, PEFT_E_ARG, "input_ids[4]");
    ids[4] = 5, labels[7] = VOCAB + 3;
    refuse(s, &batch, PEFT_E_ARG, "labels[7]");
    labels[7] = -1;
    refuse(s, &batch, PEFT_E_ARG, "labels[7]");
    labels[7] = 1, offsets[1] = 12;
    refuse(s, &batch, PEFT_E_ARG, "offsets");
    offsets[1] = 9, offsets[3] = ROWS - 1;
    refuse(s, &batch, PEFT_E_ARG, "offsets");
    make_batch();
    for (int i = 0; i < ROWS; i++) labels[i] = PEFT_IGNORE_LABEL;
    refuse(s, &batch, PEFT_E_ARG, "label");
    labels[0] = 5; /* the first token of a sequence is predicted by nobody */
    refuse(s, &batch, PEFT_E_ARG, "label");
    make_batch();
    static int32_t many[100], whole_length[2] = {0, 65};
    bad = batch, bad.rows = 65, bad.sequences = 1, bad.offsets = whole_length, bad.input_ids = bad.labels = many;
    refuse(s, &bad, PEFT_E_LIMIT, "positions");
    bad = batch, bad.flags = 1;
    refuse(s, &bad, PEFT_E_ARG, "flags");
    double loss = 0.0;
    CHECK_OK(ctx, peft_session_forward(s, &batch, &loss));
    CHECK(loss > 0.0);
    CHECK_STATUS(ctx, peft_session_backward(s, NAN), PEFT_E_ARG);
    CHECK_OK(ctx, peft_session_backward(s, 1.0f));
    peft_session_destroy(s);
}

/* Sequences of one batch under different adapters: each gets the logits that it gets alone. */
static void check_adapter_ids(peft_adapter *first) {
    enum { CLASSES = VOCAB };
    static float mixed[ROWS * CLASSES], alone[ROWS * CLASSES];
    peft_adapter *second = lora(77), *pair[2] = {first, second}, *dora = NULL;
    peft_session *both = NULL, *single[3] = {session_of(first, PEFT_LOSS_TASK), session_of(second, PEFT_LOSS_TASK), session_of(NULL, PEFT_LOSS_TASK)};
    CHECK_OK(ctx, peft_session_create(ctx, model, pair, 2, NULL, &both));
    static const int32_t chosen[SEQUENCES] = {1, -1, 0};
    static const int which[SEQUENCES] = {1, 2, 0};
    make_batch();
    batch.adapter_ids = chosen;
    int64_t rows = 0, cols = 0;
    CHECK_OK(ctx, peft_session_logits(both, &batch, PEFT_LOGITS_ALL, mixed, ROWS * CLASSES, &rows, &cols));
    CHECK(rows == ROWS && cols == CLASSES);
    batch.adapter_ids = NULL;
    for (int s = 0; s < SEQUENCES; s++) {
        CHECK_OK(ctx, peft_session_logits(single[which[s]], &batch, PEFT_LOGITS_ALL, alone, ROWS * CLASSES, NULL, NULL));
        const int64_t at = (int64_t)offsets[s] * CLASSES, count = (int64_t)(offsets[s + 1] - offsets[s]) * CLASSES;
        CHECK(worst(mixed + at, alone + at, count, 1.0f) < 1e-6);
    }
    CHECK_OK(ctx, peft_adapter_create(ctx, model, "{\"peft_type\": \"LORA\", \"use_dora\": true, \"target_modules\": [\"q_proj\"]}", 1, &dora));
    peft_session *whole_batch = session_of(dora, PEFT_LOSS_TASK);
    batch.adapter_ids = chosen;
    CHECK_STATUS(ctx, peft_session_forward(whole_batch, &batch, NULL), PEFT_E_UNSUPPORTED);
    batch.adapter_ids = NULL;
    peft_session_destroy(whole_batch);
    peft_adapter_destroy(dora);
    for (int i = 0; i < 3; i++) peft_session_destroy(single[i]);
    peft_session_destroy(both);
    peft_adapter_destroy(second);
}

int main(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s/models/llama-gqa", getenv("PEFT_TEST_DATA"));
    CHECK(peft_context_create(NULL, &ctx) == PEFT_OK);
    CHECK_OK(ctx, peft_model_load(ctx, path, NULL, &model));
    if (model == NULL) return check_summary();
    peft_adapter *adapter = lora(1);
    if (adapter == NULL) return check_summary();
    check_accumulation(adapter);
    check_phases(adapter);
    check_host_loss(adapter);
    check_two_adapters(adapter);
    check_refusals(adapter);
    check_adapter_ids(adapter);
    peft_adapter_destroy(adapter);
    peft_model_destroy(model);
    uint64_t held = 0;
    peft_context_memory(ctx, &held, NULL, NULL);
    CHECK(held < 65536); /* the context's own */
    peft_context_destroy(ctx);
    return check_summary();
}
