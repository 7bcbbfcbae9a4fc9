/* Evaluation: the measures of a session's answers against those of plain arrays, predictions, refusals, and no leak
 * when memory fails anywhere. */
#include "check.h"
#include "data/data.h"
#include "peft/peft.h"
#include "task_path.h"

static const char *const CLASSES[] = {"account", "billing", "shipping"};

static peft_context *make_context(const peft_allocator *allocator) {
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = 1;
    options.allocator = allocator;
    options.log_level = PEFT_LOG_ERROR;
    peft_context *ctx = NULL;
    return peft_context_create(&options, &ctx) >= 0 ? ctx : NULL;
}

static peft_status load(peft_context *ctx, int32_t task, int32_t problem, const char *const *names, uint32_t count,
                        peft_model **out) {
    peft_model_options options;
    peft_model_options_init(&options);
    options.task = task;
    options.problem_type = problem;
    options.label_names = names;
    options.label_name_count = count;
    return peft_model_load(ctx, path_of("bert-tiny"), &options, out);
}

static peft_status open_file(peft_context *ctx, const peft_model *model, const char *name, uint32_t unlabelled,
                             int64_t batch, peft_dataset **out) {
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    options.max_length = 48;
    options.batch_size = batch;
    options.unlabelled = unlabelled;
    options.shuffle = 0;
    return peft_dataset_open(ctx, model, path_of(name), &options, out);
}

static peft_status make_session(peft_context *ctx, peft_model *model, peft_adapter **out_adapter,
                                peft_session **out_session) {
    PEFT_TRY(peft_adapter_create(ctx, model, "{\"peft_type\": \"LORA\", \"r\": 2, \"target_modules\": [\"query\"]}", 7,
                                 out_adapter));
    return peft_session_create(ctx, model, out_adapter, 1, NULL, out_session);
}

static double metric(peft_context *ctx, const peft_evaluation *e, const char *name) {
    peft_interval found = {.struct_size = sizeof found};
    CHECK_OK(ctx, peft_evaluation_metric(e, name, 0, 0, &found));
    return found.value;
}

static void one_class(peft_context *ctx) {
    peft_model *model = NULL;
    peft_dataset *data = NULL;
    peft_adapter *adapter = NULL;
    peft_session *session = NULL;
    CHECK_OK(ctx, load(ctx, PEFT_TASK_SEQ_CLS, 0, CLASSES, 3, &model));
    CHECK(strstr(peft_model_config(model), "\"shipping\": 2") != NULL);
    CHECK_OK(ctx, open_file(ctx, model, "tickets.csv", 0, 7, &data));
    CHECK_OK(ctx, make_session(ctx, model, &adapter, &session));
    peft_evaluation *e = NULL;
    CHECK_OK(ctx, peft_evaluate(session, data, NULL, &e));
    if (e == NULL) exit(check_summary());

    /* By hand. */
    int32_t right[64], given[64];
    int64_t count = 0, confusion[9], want[9];
    double loss = 0.0, counted = 0.0;
    CHECK_OK(ctx, peft_dataset_seek(data, 0, 0));
    peft_batch batch;
    peft_batch_init(&batch);
    while (peft_dataset_next(data, &batch) == PEFT_OK) {
        float logits[8 * 3];
        double one = 0.0, targets = 0.0;
        CHECK_OK(ctx, peft_session_logits(session, &batch, PEFT_LOGITS_ALL, logits, 24, NULL, NULL));
        CHECK_OK(ctx, peft_session_eval(session, &batch, &one, &targets));
        peft_argmax(logits, batch.sequences, 3, given + count);
        memcpy(right + count, batch.sequence_labels, (size_t)batch.sequences * sizeof *right);
        count += batch.sequences;
        loss += one * targets;
        counted += targets;
    }
    peft_class_metrics m = {.struct_size = sizeof m};
    CHECK_OK(ctx, peft_metric_classes(ctx, right, given, count, 3, &m, want, NULL));
    CHECK(peft_evaluation_size(e) == count && count == 60 && peft_evaluation_targets(e) == counted);
    CHECK(metric(ctx, e, "accuracy") == m.accuracy && metric(ctx, e, "macro_f1") == m.macro_f1 &&
          metric(ctx, e, "matthews") == m.matthews && metric(ctx, e, "weighted_f1") == m.weighted_f1);
    CHECK_NEAR(metric(ctx, e, "loss"), loss / counted, 1e-12);
    uint32_t classes = 0;
    CHECK_OK(ctx, peft_evaluation_confusion(e, confusion, 9, &classes));
    CHECK(classes == 3 && memcmp(confusion, want, sizeof want) == 0);
    CHECK_STATUS(ctx, peft_evaluation_confusion(e, confusion, 8, NULL), PEFT_E_LIMIT);
    CHECK_STR(peft_evaluation_label_name(e, 2), "shipping");
    peft_interval interval = {.struct_size = sizeof interval}, again = interval;
    CHECK_OK(ctx, peft_evaluation_metric(e, "accuracy", 300, 5, &interval));
    CHECK_OK(ctx, peft_evaluation_metric(e, "accuracy", 300, 5, &again));
    CHECK(interval.low <= interval.value && interval.value <= interval.high && interval.low == again.low);
    CHECK_STATUS(ctx, peft_evaluation_metric(e, "entity_f1", 0, 0, &interval), PEFT_E_ARG);
    const char *report = peft_evaluation_report(e, 50, 1);
    CHECK(report != NULL && strstr(report, "label by prediction") != NULL && strstr(report, "(95 %:") != NULL);
    peft_evaluation_destroy(e);

    /* The data stands where it stood, and a part of it can be judged. */
    uint64_t epoch = 9, at = 9;
    CHECK_OK(ctx, peft_dataset_seek(data, 0, 3));
    peft_evaluate_options options;
    peft_evaluate_options_init(&options);
    options.max_batches = 2;
    CHECK_OK(ctx, peft_evaluate(session, data, &options, &e));
    peft_dataset_position(data, &epoch, &at);
    CHECK(peft_evaluation_size(e) == 14 && epoch == 0 && at == 3);
    peft_evaluation_destroy(e);
    options.n_best = 0;
    CHECK_STATUS(ctx, peft_evaluate(session, data, &options, &e), PEFT_E_ARG);
    float weights[3];
    CHECK_OK(ctx, peft_dataset_balanced_weights(data, weights, 3));
    double sum = 0.0;
    for (uint32_t c = 0; c < 3; c++) sum += (double)weights[c] * (double)peft_dataset_label_examples(data, c);
    CHECK_NEAR(sum, 60.0, 1e-4);
    CHECK_STATUS(ctx, peft_dataset_balanced_weights(data, weights, 2), PEFT_E_ARG);
    peft_dataset_destroy(data);

    CHECK_OK(ctx, open_file(ctx, model, "tickets.csv", 1, 7, &data));
    CHECK_OK(ctx, peft_evaluate(session, data, NULL, &e));
    CHECK(peft_evaluation_metric_name(e, 0) == NULL);
    for (int64_t i = 0; i < count; i += 13) {
        const char *line = peft_evaluation_prediction(e, i);
        char prediction[64];
        snprintf(prediction, sizeof prediction, "\"prediction\": \"%s\"", CLASSES[given[i]]);
        CHECK(line != NULL && strstr(line, prediction) != NULL && strstr(line, "\"text\": ") != NULL);
    }
    CHECK(peft_evaluation_prediction(e, count) == NULL);
    peft_evaluation_destroy(e);
    peft_dataset_destroy(data);
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
    peft_model_destroy(model);
}

static void labels(peft_context *ctx) {
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    peft_dataset *found = NULL;
    CHECK_STATUS(ctx, peft_dataset_open_labels(ctx, path_of("tickets.csv"), &options, &found), PEFT_E_ARG);
    options.format = PEFT_DATA_CLASSIFICATION;
    CHECK_OK(ctx, peft_dataset_open_labels(ctx, path_of("tickets.csv"), &options, &found));
    CHECK(peft_dataset_label_count(found) == 3 && peft_dataset_labels_named(found) == 1 &&
          peft_dataset_size(found) == 0);
    CHECK_STR(peft_dataset_label_name(found, 1), "billing");
    peft_dataset_destroy(found);
    options.format = PEFT_DATA_TOKEN_CLS;
    CHECK_OK(ctx, peft_dataset_open_labels(ctx, path_of("train.conll"), &options, &found));
    CHECK(peft_dataset_label_count(found) == 4);
    peft_dataset_destroy(found);
    CHECK_STATUS(ctx, peft_dataset_open_labels(ctx, path_of("none.csv"), &options, &found), PEFT_E_IO);
    static const char *const TWICE[] = {"a", "a"};
    peft_model *model = NULL;
    CHECK_STATUS(ctx, load(ctx, PEFT_TASK_SEQ_CLS, 0, TWICE, 2, &model), PEFT_E_ARG);
    CHECK_STATUS(ctx, load(ctx, PEFT_TASK_SEQ_CLS, 9, NULL, 0, &model), PEFT_E_ARG);
    CHECK(peft_metric_greater_is_better("macro_f1") == 1 && peft_metric_greater_is_better("mse") == 0 &&
          peft_metric_greater_is_better("beauty") == -1 && peft_metric_greater_is_better(NULL) == -1);
}

static void tags(peft_context *ctx) {
    static const char *const NAMES[] = {"B-LOC", "B-PER", "I-LOC", "O"};
    peft_model *model = NULL;
    peft_dataset *data = NULL, *rows = NULL;
    peft_adapter *adapter = NULL;
    peft_session *session = NULL;
    CHECK_OK(ctx, load(ctx, PEFT_TASK_TOKEN_CLS, 0, NAMES, 4, &model));
    CHECK_OK(ctx, open_file(ctx, model, "test.conll", 0, 6, &data));
    CHECK_OK(ctx, open_file(ctx, model, "test.conll", 1, 6, &rows));
    CHECK_OK(ctx, make_session(ctx, model, &adapter, &session));
    peft_evaluation *judged = NULL, *told = NULL;
    CHECK_OK(ctx, peft_evaluate(session, data, NULL, &judged));
    CHECK_OK(ctx, peft_evaluate(session, rows, NULL, &told));
    CHECK_STR(peft_evaluation_metric_name(judged, 0), "entity_f1");
    const double accuracy = metric(ctx, judged, "accuracy"), f1 = metric(ctx, judged, "entity_f1");
    CHECK(accuracy >= 0.0 && accuracy <= 1.0 && f1 >= 0.0 && f1 <= 1.0);
    /* The tags that are told are those that were judged. */
    for (int64_t i = 0; i < peft_evaluation_size(told); i++) {
        peft__json *one = NULL, *other = NULL;
        const char *line = peft_evaluation_prediction(told, i);
        CHECK(line != NULL);
        if (line == NULL) break;
        CHECK_OK(ctx, peft__json_load_memory(ctx, "line", line, strlen(line), 0, &one));
        line = peft_evaluation_prediction(judged, i);
        CHECK_OK(ctx, peft__json_load_memory(ctx, "line", line, strlen(line), 0, &other));
        CHECK(json_array_size(json_object_get(one, "tokens")) == json_array_size(json_object_get(one, "prediction")));
        CHECK(json_equal(json_object_get(one, "prediction"), json_object_get(other, "prediction")));
        json_decref(one);
        json_decref(other);
    }
    peft_evaluation_destroy(judged);
    peft_evaluation_destroy(told);
    peft_dataset_destroy(data);
    peft_dataset_destroy(rows);
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
    peft_model_destroy(model);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

typedef struct budget {
    int64_t left, live;
} budget;

static void *take(void *user, size_t size, size_t alignment) {
    budget *b = user;
    void *memory = NULL;
    if (b->left-- <= 0 || posix_memalign(&memory, alignment, size > 0 ? size : 1) != 0) return NULL;
    b->live++;
    return memory;
}

static void release(void *user, void *memory, size_t size) {
    (void)size;
    ((budget *)user)->live -= memory != NULL;
    free(memory);
}

/* Everything once, with memory that ends after `left` pieces: true when it was enough. */
static bool with_memory(budget *b, const char *file, const char *rows, int32_t task, uint32_t unlabelled) {
    const peft_allocator allocator = {.user = b, .alloc = take, .free = release};
    peft_context *ctx = make_context(&allocator);
    if (ctx == NULL) return false;
    peft_model *model = NULL;
    peft_dataset *data = NULL;
    peft_adapter *adapter = NULL;
    peft_session *session = NULL;
    peft_evaluation *e = NULL;
    const bool named = task == PEFT_TASK_SEQ_CLS;
    peft_status status = load(ctx, task, 0, named ? CLASSES : NULL, named ? 3 : 0, &model);
    if (status >= 0 && rows == NULL) status = open_file(ctx, model, file, unlabelled, 60, &data);
    if (status >= 0 && rows != NULL) {
        peft_dataset_options options;
        peft_dataset_options_init(&options);
        options.max_length = 48;
        options.batch_size = 2;
        status = peft_dataset_open_memory(ctx, model, rows, strlen(rows), file, &options, &data);
    }
    if (status >= 0) status = make_session(ctx, model, &adapter, &session);
    if (status >= 0) status = peft_evaluate(session, data, NULL, &e);
    bool good = status >= 0;
    good = good && (unlabelled != 0 || peft_evaluation_report(e, 2, 1) != NULL) &&
           peft_evaluation_prediction(e, 0) != NULL;
    CHECK(status >= 0 || status == PEFT_E_NOMEM);
    peft_evaluation_destroy(e);
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
    peft_dataset_destroy(data);
    peft_model_destroy(model);
    peft_context_destroy(ctx);
    return good;
}

static void failing_memory(const char *file, const char *rows, int32_t task, uint32_t unlabelled) {
    budget b = {.left = INT64_MAX};
    CHECK(with_memory(&b, file, rows, task, unlabelled) && b.live == 0);
    const int64_t all = INT64_MAX - b.left;
    for (int64_t n = 0; n < all; n += 1 + all / 200) {
        b = (budget){.left = n};
        (void)with_memory(&b, file, rows, task, unlabelled);
        if (!CHECK(b.live == 0)) return;
    }
}

int main(void) {
    peft_context *ctx = make_context(NULL);
    if (ctx == NULL) return 1;
    one_class(ctx);
    labels(ctx);
    tags(ctx);
    peft_context_destroy(ctx);
    failing_memory("tickets.csv", NULL, PEFT_TASK_SEQ_CLS, 0);
    failing_memory("tickets.csv", NULL, PEFT_TASK_SEQ_CLS, 1);
    failing_memory("answers.jsonl", NULL, PEFT_TASK_QUESTION_ANS, 0);
    failing_memory("a.csv", "question,choice1,choice2,answer\nis it,a b,c,0\nby it,of,the,1\n",
                   PEFT_TASK_MULTIPLE_CHOICE, 0);
    failing_memory("b.csv", "sentence1,sentence2,score\nis it,it is,1\nby it,of,0.5\na,b,0\n",
                   PEFT_TASK_FEATURE_EXTRACTION, 0);
    failing_memory("c.json",
                   "{\"data\": [{\"paragraphs\": [{\"context\": \"it is by it\", \"qas\": [{\"question\": \"by ?\", "
                   "\"answers\": [{\"text\": \"by it\", \"answer_start\": 6}]}]}]}]}",
                   PEFT_TASK_QUESTION_ANS, 0);
    return check_summary();
}
