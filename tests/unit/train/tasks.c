/* Tasks from file to prediction: classes, several classes, numbers, tags and hidden words on toy models, with outputs
 * of the right shape, class weights and losses that are what the outputs say. */
#include "check.h"
#include "peft/peft.h"

typedef struct task_case {
    const char *model;
    int32_t task;
    uint32_t labels;
    int32_t format;
    const char *file, *text;
    const char *adapter;
} task_case;

static const char *data_path(const char *name) {
    static char path[1024];
    const char *root = getenv("PEFT_TEST_DATA");
    (void)snprintf(path, sizeof path, "%s/%s", root != NULL ? root : "tests/data", name);
    return path;
}

static const char CSV[] = "text,label\ngood and good,yes\nbad,no\ngood one,yes\nbad bad,no\nbad end,no\ngood,yes\n";
static const char SCORES[] = "text,score\ngood and good,1\nbad,-1\ngood one,1\nbad bad,-1\n";
static const char TAGS[] = "good B-X\nand O\n\nbad O\ngood B-X\nend O\n\n";
static const char LORA[] = "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 16, \"target_modules\": [\"q_proj\", "
                           "\"v_proj\"], \"modules_to_save\": [\"score\"]}";

static const task_case CASES[] = {
    {"models/llama-gqa", PEFT_TASK_SEQ_CLS, 2, PEFT_DATA_AUTO, "a.csv", CSV, LORA},
    {"models/llama-gqa", PEFT_TASK_SEQ_CLS, 1, PEFT_DATA_AUTO, "a.csv", SCORES, LORA},
    {"models/llama-gqa", PEFT_TASK_TOKEN_CLS, 2, PEFT_DATA_AUTO, "a.conll", TAGS, LORA},
};

typedef struct run {
    peft_context *ctx;
    peft_model *model;
    peft_adapter *adapter;
    peft_dataset *data;
    peft_session *session;
    peft_optimizer *optimizer;
} run;

static int start(run *r, const task_case *c, const peft_session_options *session) {
    peft_model_options how;
    peft_model_options_init(&how);
    how.task = c->task;
    how.num_labels = c->labels;
    CHECK_OK(r->ctx, peft_model_load(r->ctx, data_path(c->model), &how, &r->model));
    if (r->model == NULL) return 0;
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    options.format = c->format;
    options.batch_size = 8;
    options.shuffle = 0;
    peft_optimizer_options step;
    peft_optimizer_options_init(&step);
    step.lr = 0.02f;
    CHECK_OK(r->ctx, peft_adapter_create(r->ctx, r->model, c->adapter, 1, &r->adapter));
    CHECK_OK(r->ctx, peft_dataset_open_memory(r->ctx, r->model, c->text, strlen(c->text), c->file, &options, &r->data));
    if (r->adapter == NULL || r->data == NULL) return 0;
    CHECK_OK(r->ctx, peft_session_create(r->ctx, r->model, &r->adapter, 1, session, &r->session));
    CHECK_OK(r->ctx, peft_optimizer_create(r->ctx, r->adapter, &step, &r->optimizer));
    return r->session != NULL && r->optimizer != NULL;
}

static void stop(run *r) {
    peft_session_destroy(r->session);
    peft_optimizer_destroy(r->optimizer);
    peft_dataset_destroy(r->data);
    peft_adapter_destroy(r->adapter);
    peft_model_destroy(r->model);
    *r = (run){.ctx = r->ctx};
}

static double log_softmax(const float *logits, int64_t count, int32_t label) {
    double sum = 0.0;
    for (int64_t c = 0; c < count; c++) sum += exp((double)logits[c]);
    return (double)logits[label] - log(sum);
}

/* Mean loss of outputs, with class weights (may be NULL). */
static double loss_of(const peft_batch *batch, const float *logits, int64_t cols, const float *weights) {
    double sum = 0.0, count = 0.0;
    const int64_t rows = batch->labels != NULL ? batch->rows : batch->sequences;
    for (int64_t r = 0; r < rows; r++) {
        if (batch->sequence_targets != NULL) {
            const double off = (double)logits[r] - (double)batch->sequence_targets[r];
            sum += off * off;
            count += 1.0;
            continue;
        }
        const int32_t label = batch->labels != NULL ? batch->labels[r] : batch->sequence_labels[r];
        if (label == PEFT_IGNORE_LABEL) continue;
        const double weight = weights != NULL ? (double)weights[label] : 1.0;
        sum -= weight * log_softmax(logits + r * cols, cols, label);
        count += weight;
    }
    return sum / count;
}

static void learns(peft_context *ctx, const task_case *c) {
    run r = {.ctx = ctx};
    if (!start(&r, c, NULL)) {
        stop(&r);
        return;
    }
    peft_batch batch;
    CHECK_OK(ctx, peft_dataset_next(r.data, &batch));
    double first = 0.0, loss = 0.0, eval = 0.0;
    peft_step_stats stats = {.struct_size = sizeof stats};
    for (int step = 0; step < 60; step++) {
        CHECK_OK(ctx, peft_session_forward(r.session, &batch, &loss));
        if (step == 0) first = loss;
        CHECK_OK(ctx, peft_session_backward(r.session, 1.0f));
        CHECK_OK(ctx, peft_optimizer_step(r.optimizer, r.session, &stats));
    }
    if (!CHECK(loss < 0.3 * first)) fprintf(stderr, "    %s: %g to %g\n", c->file, first, loss);
    float logits[1024];
    int64_t rows = 0, cols = 0;
    CHECK_OK(ctx, peft_session_logits(r.session, &batch, PEFT_LOGITS_ALL, logits, 1024, &rows, &cols));
    CHECK(rows == (batch.labels != NULL ? batch.rows : batch.sequences) && cols == (int64_t)c->labels);
    CHECK_OK(ctx, peft_session_eval(r.session, &batch, &eval, NULL));
    CHECK_NEAR(loss_of(&batch, logits, cols, NULL), eval, 1e-4 * (1.0 + eval));
    if (cols > 1) {
        int32_t answers[512];
        peft_class_metrics got = {.struct_size = sizeof got};
        peft_argmax(logits, rows, cols, answers);
        CHECK_OK(ctx, peft_metric_classes(ctx, batch.labels != NULL ? batch.labels : batch.sequence_labels, answers,
                                          rows, (uint32_t)cols, &got, NULL, NULL));
        CHECK(got.accuracy > 0.8);
    }
    stop(&r);
}

static void weighted(peft_context *ctx) {
    const float weights[] = {0.25f, 3.0f};
    peft_session_options options;
    peft_session_options_init(&options);
    options.class_weights = weights;
    run r = {.ctx = ctx};
    peft_batch batch;
    if (start(&r, &CASES[0], &options)) {
        float logits[64];
        int64_t cols = 0;
        double eval = 0.0;
        CHECK_OK(ctx, peft_dataset_next(r.data, &batch));
        CHECK_OK(ctx, peft_session_logits(r.session, &batch, PEFT_LOGITS_ALL, logits, 64, NULL, &cols));
        CHECK_OK(ctx, peft_session_eval(r.session, &batch, &eval, NULL));
        CHECK_NEAR(loss_of(&batch, logits, cols, weights), eval, 1e-5 * (1.0 + eval));
    }
    stop(&r);
}

static void refused(peft_context *ctx) {
    peft_model *model = NULL;
    peft_dataset *data = NULL;
    CHECK_OK(ctx, peft_model_load(ctx, data_path("models/llama-gqa"), NULL, &model));
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    options.format = PEFT_DATA_CLASSIFICATION;
    CHECK_STATUS(ctx, peft_dataset_open_memory(ctx, model, CSV, strlen(CSV), "a.csv", &options, &data),
                 PEFT_E_UNSUPPORTED);
    options.format = PEFT_DATA_MASKED_LM;
    CHECK_STATUS(ctx, peft_dataset_open_memory(ctx, model, CSV, strlen(CSV), "a.csv", &options, &data),
                 PEFT_E_UNSUPPORTED);
    peft_model_destroy(model);
}

int main(void) {
    peft_context *ctx = NULL;
    if (peft_context_create(NULL, &ctx) < 0) return 1;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) learns(ctx, &CASES[i]);
    weighted(ctx);
    refused(ctx);
    peft_context_destroy(ctx);
    return check_summary();
}
