/* Questions about a text against transformers: windows, places of answers, loss, gradients of the head, and the answers
 * taken from the logits; SQuAD's own layout; bad rows. */
#include "check.h"
#include "data/data.h"
#include "method/adapter.h"
#include "peft/peft.h"
#include "task_path.h"

typedef struct world {
    peft_context *ctx;
    peft_model *model;
    peft__json *expected;
} world;

static double number(const peft__json *object, const char *key) {
    return json_number_value(json_object_get(object, key));
}

static peft_dataset_options options_of(const world *w) {
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    options.max_length = (int64_t)number(w->expected, "max_length");
    options.stride = (int64_t)number(w->expected, "step");
    options.batch_size = 100;
    options.shuffle = 0;
    return options;
}

static void floats(const peft__json *list, float *out) {
    for (size_t i = 0; i < json_array_size(list); i++) out[i] = (float)json_number_value(json_array_get(list, i));
}

static void windows(const world *w, const peft_batch *batch) {
    const peft__json *list = json_object_get(w->expected, "windows");
    CHECK(batch->sequences == (int64_t)json_array_size(list));
    for (int64_t s = 0; s < batch->sequences; s++) {
        const peft__json *one = json_array_get(list, (size_t)s), *ids = json_object_get(one, "ids"),
                         *types = json_object_get(one, "types");
        const int32_t first = batch->offsets[s], length = batch->offsets[s + 1] - first;
        CHECK(length == (int32_t)json_array_size(ids));
        bool same = length == (int32_t)json_array_size(ids);
        for (int32_t t = 0; same && t < length; t++)
            same = json_integer_value(json_array_get(ids, (size_t)t)) == batch->input_ids[first + t] &&
                   json_integer_value(json_array_get(types, (size_t)t)) == batch->token_type_ids[first + t];
        CHECK(same);
        CHECK(batch->start_positions[s] == (int32_t)number(one, "start"));
        CHECK(batch->end_positions[s] == (int32_t)number(one, "end"));
    }
}

static void set(const world *w, peft_adapter *adapter, const char *suffix, const char *key, float *scratch) {
    peft_tensor_info info = {.struct_size = sizeof info};
    for (uint32_t i = 0; i < peft_adapter_tensor_count(adapter); i++) {
        CHECK_OK(w->ctx, peft_adapter_tensor(adapter, i, &info));
        if (strstr(info.name, suffix) == NULL) continue;
        const peft__json *values = json_object_get(w->expected, key);
        floats(values, scratch);
        CHECK_OK(w->ctx, peft_adapter_set_tensor(adapter, info.name, scratch, (int64_t)json_array_size(values)));
        return;
    }
    CHECK(false); /* the adapter has no such tensor */
}

static peft_adapter *make_adapter(const world *w) {
    peft_adapter *adapter = NULL;
    float scratch[64];
    CHECK_OK(w->ctx, peft_adapter_create(w->ctx, w->model, "{\"peft_type\": \"FULL\", \"task_type\": \"QUESTION_ANS\"}", 1,
                                         &adapter));
    if (adapter == NULL) exit(check_summary());
    set(w, adapter, "qa_outputs.weight", "weight", scratch);
    set(w, adapter, "qa_outputs.bias", "bias", scratch);
    return adapter;
}

/* Gradients of the head and the size of one deep inside, divided by what the loss counts. */
static void gradients(const world *w, peft_session *session, peft_adapter *adapter) {
    const int64_t count = peft_adapter_parameter_count(adapter);
    float *all = calloc((size_t)count, sizeof *all);
    CHECK_OK(w->ctx, peft_session_get_gradients(session, adapter, all, count));
    int64_t at = 0;
    int found = 0;
    for (uint32_t i = 0; i < peft_adapter_tensor_count(adapter); i++) {
        peft_tensor_info info = {.struct_size = sizeof info};
        CHECK_OK(w->ctx, peft_adapter_tensor(adapter, i, &info));
        int64_t size = 1;
        for (uint32_t d = 0; d < info.ndim; d++) size *= info.shape[d];
        const char *key = strstr(info.name, "qa_outputs.weight") != NULL ? "weight_grad"
                          : strstr(info.name, "qa_outputs.bias") != NULL ? "bias_grad"
                                                                         : NULL;
        for (int64_t k = 0; key != NULL && k < size; k++)
            CHECK_NEAR(all[at + k], json_number_value(json_array_get(json_object_get(w->expected, key), (size_t)k)),
                       2e-5);
        found += key != NULL;
        if (strstr(info.name, "layer.0.attention.self.query.weight") != NULL) {
            double squares = 0.0;
            for (int64_t k = 0; k < size; k++) squares += (double)all[at + k] * (double)all[at + k];
            CHECK_NEAR(sqrt(squares), number(w->expected, "query_grad_norm"), 2e-5);
            found++;
        }
        at += size;
    }
    CHECK(found == 3 && at == count);
    free(all);
}

static void answers(const world *w, peft_session *session, peft_dataset *data) {
    peft_evaluation *evaluation = NULL;
    CHECK_OK(w->ctx, peft_evaluate(session, data, NULL, &evaluation));
    if (evaluation == NULL) return;
    const peft__json *list = json_object_get(w->expected, "answers");
    CHECK(peft_evaluation_size(evaluation) == (int64_t)json_array_size(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *line = peft_evaluation_prediction(evaluation, (int64_t)i);
        peft__json *row = NULL;
        CHECK(line != NULL);
        if (line == NULL) break;
        CHECK_OK(w->ctx, peft__json_load_memory(w->ctx, "line", line, strlen(line), 0, &row));
        const peft__json *want = json_array_get(list, i);
        CHECK_STR(json_string_value(json_object_get(row, "prediction")),
                  json_string_value(json_object_get(want, "text")));
        const char *text = json_string_value(json_object_get(want, "text"));
        CHECK(text[0] == '\0' || number(row, "start") == number(want, "start"));
        CHECK(number(row, "row") == (double)i);
        json_decref(row);
    }
    peft_interval interval = {.struct_size = sizeof interval};
    CHECK_OK(w->ctx, peft_evaluation_metric(evaluation, "loss", 0, 0, &interval));
    CHECK_NEAR(interval.value, number(w->expected, "loss"), 2e-5);
    CHECK_OK(w->ctx, peft_evaluation_metric(evaluation, "answer_f1", 200, 1, &interval));
    CHECK(interval.value > 0.0 && interval.value < 0.5 && interval.low <= interval.value);
    CHECK_OK(w->ctx, peft_evaluation_metric(evaluation, "exact_match", 0, 0, &interval));
    CHECK(interval.value == 0.0);
    CHECK_STATUS(w->ctx, peft_evaluation_metric(evaluation, "accuracy", 0, 0, &interval), PEFT_E_ARG);
    CHECK(strstr(peft_evaluation_report(evaluation, 0, 0), "exact_match") != NULL);
    peft_evaluation_destroy(evaluation);
}

static void against_transformers(const world *w) {
    peft_dataset_options options = options_of(w);
    peft_dataset *data = NULL;
    CHECK_OK(w->ctx, peft_dataset_open(w->ctx, w->model, path_of("answers.jsonl"), &options, &data));
    if (data == NULL) exit(check_summary());
    CHECK(strstr(peft_dataset_report(data), "1 questions have no answer") != NULL);
    peft_batch batch;
    peft_batch_init(&batch);
    CHECK_OK(w->ctx, peft_dataset_next(data, &batch));
    windows(w, &batch);
    peft_adapter *adapter = make_adapter(w);
    peft_session *session = NULL;
    CHECK_OK(w->ctx, peft_session_create(w->ctx, w->model, &adapter, 1, NULL, &session));
    double loss = 0.0;
    CHECK_OK(w->ctx, peft_session_forward(session, &batch, &loss));
    CHECK_NEAR(loss, number(w->expected, "loss"), 2e-5);
    CHECK_OK(w->ctx, peft_session_backward(session, 1.0f));
    gradients(w, session, adapter);
    CHECK_OK(w->ctx, peft_session_zero_grad(session));
    answers(w, session, data);
    peft_dataset_destroy(data);

    /* Small batches in a shuffled order: windows of a question come apart. */
    options.batch_size = 2;
    options.shuffle = 1;
    CHECK_OK(w->ctx, peft_dataset_open(w->ctx, w->model, path_of("answers.jsonl"), &options, &data));
    peft_evaluation *evaluation = NULL;
    CHECK_OK(w->ctx, peft_evaluate(session, data, NULL, &evaluation));
    CHECK(peft_evaluation_size(evaluation) == (int64_t)json_array_size(json_object_get(w->expected, "answers")));
    peft_evaluation_destroy(evaluation);
    peft_dataset_destroy(data);

    /* Without labels: rows are kept. */
    options.shuffle = 0;
    options.unlabelled = 1;
    CHECK_OK(w->ctx, peft_dataset_open(w->ctx, w->model, path_of("answers.jsonl"), &options, &data));
    CHECK_OK(w->ctx, peft_evaluate(session, data, NULL, &evaluation));
    const char *line = peft_evaluation_prediction(evaluation, 2);
    CHECK(line != NULL && strstr(line, "\"id\": \"q2\"") != NULL && strstr(line, "n_best") != NULL);
    CHECK(peft_evaluation_metric_name(evaluation, 0) == NULL);
    CHECK(line != NULL && strstr(line, "\"prediction\": \"\"") == NULL);
    peft_evaluation_destroy(evaluation);
    peft_evaluate_options how;
    peft_evaluate_options_init(&how);
    how.no_answer = 1;
    CHECK_OK(w->ctx, peft_evaluate(session, data, &how, &evaluation));
    CHECK(peft_evaluation_size(evaluation) == (int64_t)json_array_size(json_object_get(w->expected, "answers")));
    peft_evaluation_destroy(evaluation);
    peft_dataset_destroy(data);
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

static peft_status open_text(const world *w, const char *name, const char *text, int32_t on_bad_row,
                             peft_dataset **out) {
    peft_dataset_options options = options_of(w);
    options.on_bad_row = on_bad_row;
    return peft_dataset_open_memory(w->ctx, w->model, text, strlen(text), name, &options, out);
}

static void layouts(const world *w) {
    static const char SQUAD[] =
        "{\"version\": \"2.0\", \"data\": [{\"title\": \"t\", \"paragraphs\": [{\"context\": \"\\u00e9 is it\", \"qas\": "
        "[{\"question\": \"is it ?\", \"id\": \"1\", \"answers\": [{\"text\": \"it\", \"answer_start\": 5}]}, "
        "{\"question\": \"is ?\", \"id\": \"2\", \"is_impossible\": true, \"answers\": []}]}, {\"context\": \"of it\", "
        "\"qas\": []}, {\"context\": \"by it\", \"qas\": [{\"question\": \"by ?\", \"answers\": [{\"text\": \"by\", "
        "\"answer_start\": 0}]}]}]}]}";
    peft_dataset *data = NULL;
    peft_batch batch;
    peft_batch_init(&batch);
    CHECK_OK(w->ctx, open_text(w, "train-v2.0.json", SQUAD, 0, &data));
    CHECK_OK(w->ctx, peft_dataset_next(data, &batch));
    CHECK(batch.sequences == 3 && batch.start_positions[0] == 7 && batch.start_positions[1] == 0 &&
          batch.end_positions[1] == 0 && batch.start_positions[2] == 4);
    peft_dataset_destroy(data);
    /* CSV; the place is looked for. */
    CHECK_OK(w->ctx, open_text(w, "a.csv", "question,context,answer\nby ?,of it by it,by it\nis ?,of it,\n", 0, &data));
    CHECK_OK(w->ctx, peft_dataset_next(data, &batch));
    CHECK(batch.sequences == 2 && batch.start_positions[0] == 6 && batch.end_positions[0] == 7 &&
          batch.start_positions[1] == 0);
    peft_dataset_destroy(data);
    static const struct {
        const char *text, *says;
    } BAD[] = {
        {"question,context,answer\nby ?,of it,other\n", "a.csv:2: the answer \"other\" is not in the context"},
        {"question,context,answer,answer_start\nby ?,of it,it,1\n", "does not stand at character 1"},
        {"question,answer\nby ?,it\n", "\"context\" is missing"},
        {"question,context\nby ?,it\n", "\"answers\" is missing"},
        {"question,context,answer\n ,of it,it\n", "\"question\" is empty"},
        {"question,context,answer\nby ?,,it\n", "\"context\" is empty"},
        {"question,context,answer,answer_start\nby ?,of it,it,x\n", "a number of characters"},
        {"question,context,answer\n\"a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a\",it,it\n",
         "with no room for the context"}};
    for (size_t i = 0; i < PEFT_COUNT(BAD); i++) {
        CHECK_STATUS(w->ctx, open_text(w, "a.csv", BAD[i].text, 0, &data), PEFT_E_FORMAT);
        if (!CHECK(strstr(peft_context_error(w->ctx), BAD[i].says) != NULL))
            fprintf(stderr, "    %s\n", peft_context_error(w->ctx));
    }
    CHECK_OK(w->ctx, open_text(w, "a.csv", "question,context,answer\nby ?,of it,other\nby ?,of it,it\n",
                               PEFT_BAD_ROW_SKIP, &data));
    CHECK(peft_dataset_size(data) == 1);
    peft_dataset_destroy(data);
}

int main(void) {
    world w = {0};
    peft_context_options context;
    peft_context_options_init(&context);
    context.threads = 1;
    CHECK_OK(NULL, peft_context_create(&context, &w.ctx));
    peft_model_options options;
    peft_model_options_init(&options);
    options.task = PEFT_TASK_QUESTION_ANS;
    CHECK_OK(w.ctx, peft_model_load(w.ctx, path_of("bert-tiny"), &options, &w.model));
    CHECK_OK(w.ctx, peft__json_load_file(w.ctx, path_of("answers.json"), 0, &w.expected));
    if (w.model == NULL || w.expected == NULL) return check_summary();
    against_transformers(&w);
    layouts(&w);
    json_decref(w.expected);
    peft_model_destroy(w.model);
    peft_context_destroy(w.ctx);
    return check_summary();
}
