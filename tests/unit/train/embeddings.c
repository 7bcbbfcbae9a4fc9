/* Embeddings against torch: means of hidden states, in-batch negatives, scored pairs; files of pairs. */
#include "check.h"
#include "data/data.h"
#include "peft/peft.h"
#include "task_path.h"

typedef struct world {
    peft_context *ctx;
    peft_model *model;
    peft__json *expected;
} world;

static double number(const world *w, const char *key, size_t index) {
    const peft__json *value = json_object_get(w->expected, key);
    return json_number_value(json_is_array(value) ? json_array_get(value, index) : value);
}

/* The groups as a file: the last two texts of a group are its negatives. */
static void write_rows(const world *w, bool scored, char *out, size_t size) {
    const peft__json *groups = json_object_get(w->expected, "groups");
    size_t used = 0;
    for (size_t g = 0; g < json_array_size(groups); g++) {
        const peft__json *texts = json_array_get(groups, g);
        used += (size_t)snprintf(out + used, size - used, "{\"%s\": \"%s\", \"%s\": \"%s\"", scored ? "sentence1" : "anchor",
                                 json_string_value(json_array_get(texts, 0)), scored ? "sentence2" : "positive",
                                 json_string_value(json_array_get(texts, 1)));
        if (scored) used += (size_t)snprintf(out + used, size - used, ", \"score\": %g", number(w, "scores", g));
        for (size_t t = 2; t < json_array_size(texts); t++)
            used += (size_t)snprintf(out + used, size - used, "%s\"%s\"%s", t == 2 ? ", \"negatives\": [" : ", ",
                                     json_string_value(json_array_get(texts, t)),
                                     t + 1 == json_array_size(texts) ? "]" : "");
        used += (size_t)snprintf(out + used, size - used, "}\n");
    }
}

static peft_status open_text(const world *w, const char *name, const char *text, uint32_t unlabelled,
                             peft_dataset **out) {
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    options.max_length = 40;
    options.batch_size = 8;
    options.shuffle = 0;
    options.unlabelled = unlabelled;
    return peft_dataset_open_memory(w->ctx, w->model, text, strlen(text), name, &options, out);
}

static void check_query(const world *w, peft_session *session, const peft_adapter *adapter, const char *key) {
    const int64_t count = peft_adapter_parameter_count(adapter);
    float *all = calloc((size_t)count, sizeof *all);
    CHECK_OK(w->ctx, peft_session_get_gradients(session, adapter, all, count));
    int64_t at = 0;
    for (uint32_t i = 0; i < peft_adapter_tensor_count(adapter); i++) {
        peft_tensor_info info = {.struct_size = sizeof info};
        CHECK_OK(w->ctx, peft_adapter_tensor(adapter, i, &info));
        if (strstr(info.name, "layer.0.attention.self.query.weight") != NULL) break;
        int64_t size = 1;
        for (uint32_t d = 0; d < info.ndim; d++) size *= info.shape[d];
        at += size;
    }
    for (int64_t i = 0; i < 64 && at + i < count; i++) CHECK_NEAR(all[at + i], number(w, key, (size_t)i), 1e-5);
    free(all);
}

static void learn(const world *w, const char *text, const char *key, bool scored) {
    peft_dataset *data = NULL;
    peft_adapter *adapter = NULL;
    peft_session *session = NULL;
    peft_batch batch;
    peft_batch_init(&batch);
    double loss = 0.0;
    char gradient[64];
    snprintf(gradient, sizeof gradient, "%s_query_grad", key);
    CHECK_OK(w->ctx, open_text(w, "a.jsonl", text, 0, &data));
    CHECK_OK(w->ctx, peft_dataset_next(data, &batch));
    CHECK(batch.questions == 3 && batch.sequences == 9 && (batch.sequence_targets != NULL) == scored &&
          batch.sequence_labels == NULL);
    CHECK_OK(w->ctx, peft_adapter_create(w->ctx, w->model, "{\"peft_type\": \"FULL\"}", 1, &adapter));
    CHECK_OK(w->ctx, peft_session_create(w->ctx, w->model, &adapter, 1, NULL, &session));
    if (session == NULL) exit(check_summary());
    CHECK_OK(w->ctx, peft_session_forward(session, &batch, &loss));
    CHECK_NEAR(loss, number(w, key, 0), 1e-5);
    CHECK_OK(w->ctx, peft_session_backward(session, 1.0f));
    check_query(w, session, adapter, gradient);
    CHECK_OK(w->ctx, peft_session_zero_grad(session));

    peft_evaluation *evaluation = NULL;
    peft_interval interval = {.struct_size = sizeof interval};
    CHECK_OK(w->ctx, peft_evaluate(session, data, NULL, &evaluation));
    CHECK(peft_evaluation_size(evaluation) == 3);
    CHECK_OK(w->ctx, peft_evaluation_metric(evaluation, "loss", 0, 0, &interval));
    CHECK_NEAR(interval.value, number(w, key, 0), 1e-5);
    CHECK_OK(w->ctx, peft_evaluation_metric(evaluation, scored ? "spearman" : "accuracy", 0, 0, &interval));
    double found = 0.0;
    for (size_t i = 0; i < 3; i++) found += json_is_true(json_array_get(json_object_get(w->expected, "found"), i)) / 3.0;
    if (!scored) CHECK_NEAR(interval.value, found, 1e-12);
    if (scored) CHECK(interval.value >= -1.0 && interval.value <= 1.0);
    peft_evaluation_destroy(evaluation);
    peft_dataset_destroy(data);

    /* A lone text of a group is refused. */
    int32_t offsets[3] = {0, 2, 4}, ids[4] = {2, 3, 2, 3}, groups[3] = {0, 1, 2};
    peft_batch bad;
    peft_batch_init(&bad);
    bad.rows = 4;
    bad.sequences = bad.questions = 2;
    bad.offsets = offsets;
    bad.input_ids = ids;
    bad.choice_offsets = groups;
    CHECK_STATUS(w->ctx, peft_session_eval(session, &bad, NULL, NULL), PEFT_E_ARG);
    bad.questions = 0;
    bad.choice_offsets = NULL;
    CHECK_STATUS(w->ctx, peft_session_eval(session, &bad, NULL, NULL), PEFT_E_ARG);
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
}

static void embed(const world *w, const char *text) {
    peft_dataset *data = NULL;
    peft_session *session = NULL;
    peft_batch batch;
    peft_batch_init(&batch);
    CHECK_OK(w->ctx, open_text(w, "a.jsonl", text, 0, &data));
    CHECK_OK(w->ctx, peft_dataset_next(data, &batch));
    const peft_session_options *none = NULL;
    CHECK_OK(w->ctx, peft_session_create(w->ctx, w->model, NULL, 0, none, &session));
    float all[9 * 32], unit[9 * 32];
    int64_t rows = 0, cols = 0;
    CHECK_OK(w->ctx, peft_session_embed(session, &batch, PEFT_POOL_MEAN, 0, all, 9 * 32, &rows, &cols));
    CHECK(rows == 9 && cols == 32);
    const peft__json *want = json_object_get(w->expected, "embeddings");
    for (size_t r = 0; r < 9; r++)
        for (size_t c = 0; c < 32; c++)
            CHECK_NEAR(all[r * 32 + c], json_number_value(json_array_get(json_array_get(want, r), c)), 1e-5);
    CHECK_OK(w->ctx, peft_session_embed(session, &batch, PEFT_POOL_MEAN, 1, unit, 9 * 32, NULL, NULL));
    double length = 0.0;
    for (int c = 0; c < 32; c++) length += (double)unit[c] * (double)unit[c];
    CHECK_NEAR(length, 1.0, 1e-6);
    CHECK_OK(w->ctx, peft_session_embed(session, &batch, PEFT_POOL_FIRST, 0, all, 9 * 32, NULL, NULL));
    CHECK_STATUS(w->ctx, peft_session_embed(session, &batch, PEFT_POOL_MEAN, 0, all, 9 * 32 - 1, NULL, NULL), PEFT_E_LIMIT);
    CHECK_STATUS(w->ctx, peft_session_embed(session, &batch, 3, 0, all, 9 * 32, NULL, NULL), PEFT_E_ARG);
    peft_dataset_destroy(data);

    /* Texts alone, from a file. */
    peft_evaluation *evaluation = NULL;
    CHECK_OK(w->ctx, open_text(w, "b.csv", "id,text\n7,is it by the sea\n8,return it\n", 1, &data));
    CHECK_OK(w->ctx, peft_evaluate(session, data, NULL, &evaluation));
    const char *line = peft_evaluation_prediction(evaluation, 0);
    peft__json *row = NULL;
    CHECK(line != NULL);
    CHECK_OK(w->ctx, peft__json_load_memory(w->ctx, "line", line, strlen(line), 0, &row));
    const peft__json *found = json_object_get(row, "embedding");
    CHECK(json_array_size(found) == 32 && strstr(line, "\"id\": \"7\"") != NULL);
    for (size_t c = 0; c < 32; c++) CHECK_NEAR(json_number_value(json_array_get(found, c)), unit[c], 1e-5);
    json_decref(row);
    peft_evaluation_destroy(evaluation);
    peft_dataset_destroy(data);
    peft_session_destroy(session);

    CHECK_STATUS(w->ctx, open_text(w, "c.csv", "anchor,positive\na,\n", 0, &data), PEFT_E_FORMAT);
    CHECK(strstr(peft_context_error(w->ctx), "c.csv:2: \"positive\" is empty") != NULL);
    CHECK_STATUS(w->ctx, open_text(w, "c.csv", "left,right\na,b\n", 0, &data), PEFT_E_FORMAT);
    CHECK_STATUS(w->ctx, open_text(w, "c.csv", "sentence1,sentence2,score\na,b,x\n", 0, &data), PEFT_E_FORMAT);
    CHECK(strstr(peft_context_error(w->ctx), "\"score\" is a number") != NULL);
}

int main(void) {
    world w = {0};
    peft_context_options context;
    peft_context_options_init(&context);
    context.threads = 1;
    CHECK_OK(NULL, peft_context_create(&context, &w.ctx));
    peft_model_options options;
    peft_model_options_init(&options);
    options.task = PEFT_TASK_FEATURE_EXTRACTION;
    CHECK_OK(w.ctx, peft_model_load(w.ctx, path_of("bert-tiny"), &options, &w.model));
    CHECK_OK(w.ctx, peft__json_load_file(w.ctx, path_of("pairs.json"), 0, &w.expected));
    if (w.model == NULL || w.expected == NULL) return check_summary();
    char text[4096];
    write_rows(&w, false, text, sizeof text);
    learn(&w, text, "ranking", false);
    embed(&w, text);
    write_rows(&w, true, text, sizeof text);
    learn(&w, text, "scored", true);
    json_decref(w.expected);
    peft_model_destroy(w.model);
    peft_context_destroy(w.ctx);
    return check_summary();
}
