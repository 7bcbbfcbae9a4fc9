/* Multiple choice against transformers on five encoders: scores, loss, gradients; questions with answers from files. */
#include "check.h"
#include "data/data.h"
#include "peft/peft.h"

static const char *path_of(const char *name) {
    static char paths[4][1024];
    static int next;
    const char *root = getenv("PEFT_TEST_DATA");
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", root != NULL ? root : "tests/data", name);
    return path;
}

enum { ROOM = 4096 };

static int64_t floats(const peft__json *object, const char *key, float *out) {
    const peft__json *list = json_object_get(object, key);
    for (size_t i = 0; i < json_array_size(list); i++) out[i] = (float)json_number_value(json_array_get(list, i));
    return (int64_t)json_array_size(list);
}

static int64_t integers(const peft__json *object, const char *key, int32_t *out) {
    const peft__json *list = json_object_get(object, key);
    for (size_t i = 0; i < json_array_size(list); i++) out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return (int64_t)json_array_size(list);
}

static peft_model *load(peft_context *ctx, const char *name) {
    peft_model_options options;
    peft_model_options_init(&options);
    options.task = PEFT_TASK_MULTIPLE_CHOICE;
    peft_model *model = NULL;
    CHECK_OK(ctx, peft_model_load(ctx, path_of(name), &options, &model));
    if (model == NULL) exit(check_summary());
    return model;
}

/* Index in the flat array of parameters, -1 = not found. */
static int64_t find(peft_context *ctx, const peft_adapter *adapter, const char *name, peft_tensor_info *info) {
    int64_t at = 0;
    for (uint32_t i = 0; i < peft_adapter_tensor_count(adapter); i++) {
        CHECK_OK(ctx, peft_adapter_tensor(adapter, i, info));
        const char *found = strstr(info->name, name);
        if (found != NULL && (found == info->name || found[-1] == '.')) return at;
        int64_t size = 1;
        for (uint32_t d = 0; d < info->ndim; d++) size *= info->shape[d];
        at += size;
    }
    return -1;
}

static void set(peft_context *ctx, peft_adapter *adapter, const char *module, const char *part, const peft__json *one,
                const char *key) {
    static float values[ROOM];
    char name[256];
    snprintf(name, sizeof name, "%s.%s", module, part);
    peft_tensor_info info = {.struct_size = sizeof info};
    if (!CHECK(find(ctx, adapter, name, &info) >= 0)) return;
    const int64_t count = floats(one, key, values);
    CHECK_OK(ctx, peft_adapter_set_tensor(adapter, info.name, values, count));
}

static void check_gradient(peft_context *ctx, const peft_adapter *adapter, const float *all, const char *module,
                           const char *part, const peft__json *one, const char *key) {
    static float want[ROOM];
    char name[256];
    snprintf(name, sizeof name, "%s.%s", module, part);
    peft_tensor_info info = {.struct_size = sizeof info};
    const int64_t at = find(ctx, adapter, name, &info), count = floats(one, key, want);
    for (int64_t i = 0; at >= 0 && i < count; i++) CHECK_NEAR(all[at + i], want[i], 1e-5);
}

static void against_transformers(peft_context *ctx, const peft__json *one) {
    const char *first = json_string_value(json_object_get(one, "first"));
    peft_model *model = load(ctx, json_string_value(json_object_get(one, "model")));
    peft_adapter *adapter = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, model, "{\"peft_type\": \"FULL\"}", 1, &adapter));
    if (adapter == NULL) exit(check_summary());
    set(ctx, adapter, first, "weight", one, "first_weight");
    set(ctx, adapter, first, "bias", one, "first_bias");
    set(ctx, adapter, "classifier", "weight", one, "weight");
    set(ctx, adapter, "classifier", "bias", one, "bias");

    int32_t ids[256], offsets[32] = {0}, counts[8], right[8], choices[8] = {0};
    peft_batch batch;
    peft_batch_init(&batch);
    const peft__json *texts = json_object_get(one, "ids");
    for (size_t s = 0; s < json_array_size(texts); s++) {
        const peft__json *text = json_array_get(texts, s);
        for (size_t t = 0; t < json_array_size(text); t++)
            ids[batch.rows++] = (int32_t)json_integer_value(json_array_get(text, t));
        offsets[s + 1] = (int32_t)batch.rows;
    }
    batch.sequences = (int64_t)json_array_size(texts);
    batch.questions = integers(one, "choices", counts);
    for (int64_t q = 0; q < batch.questions; q++) choices[q + 1] = choices[q] + counts[q];
    (void)integers(one, "right", right);
    batch.offsets = offsets;
    batch.input_ids = ids;
    batch.choice_offsets = choices;
    batch.sequence_labels = right;

    peft_session *session = NULL;
    CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, 1, NULL, &session));
    float scores[32], want[32];
    int64_t rows = 0, cols = 0;
    CHECK_OK(ctx, peft_session_logits(session, &batch, PEFT_LOGITS_ALL, scores, 32, &rows, &cols));
    CHECK(rows == floats(one, "scores", want) && cols == 1);
    for (int64_t i = 0; i < rows; i++) CHECK_NEAR(scores[i], want[i], 2e-5);
    double loss = 0.0;
    CHECK_OK(ctx, peft_session_forward(session, &batch, &loss));
    CHECK_NEAR(loss, json_number_value(json_object_get(one, "loss")), 1e-5);
    CHECK_OK(ctx, peft_session_backward(session, 1.0f));
    const int64_t count = peft_adapter_parameter_count(adapter);
    float *all = calloc((size_t)count, sizeof *all);
    CHECK_OK(ctx, peft_session_get_gradients(session, adapter, all, count));
    check_gradient(ctx, adapter, all, "classifier", "weight", one, "weight_grad");
    check_gradient(ctx, adapter, all, first, "bias", one, "first_bias_grad");
    free(all);
    CHECK_OK(ctx, peft_session_zero_grad(session));

    right[1] = 2; /* the second question has two answers */
    CHECK_STATUS(ctx, peft_session_eval(session, &batch, NULL, NULL), PEFT_E_ARG);
    CHECK(strstr(peft_context_error(ctx), "the question has 2 answers") != NULL);
    right[1] = -100;
    double counted = 0.0;
    CHECK_OK(ctx, peft_session_eval(session, &batch, &loss, &counted));
    CHECK(counted == 2.0);
    batch.questions = 0;
    batch.choice_offsets = NULL;
    CHECK_STATUS(ctx, peft_session_eval(session, &batch, NULL, NULL), PEFT_E_ARG);
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
    peft_model_destroy(model);
}

static peft_status open_text(peft_context *ctx, const peft_model *model, const char *name, const char *text,
                             uint32_t unlabelled, peft_dataset **out) {
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    options.max_length = 24;
    options.batch_size = 8;
    options.shuffle = 0;
    options.unlabelled = unlabelled;
    return peft_dataset_open_memory(ctx, model, text, strlen(text), name, &options, out);
}

static void files(peft_context *ctx) {
    static const char ROWS[] = "{\"question\": \"is it\", \"choices\": [\"a b\", \"c\", \"of the re\"], \"answer\": 1}\n"
                               "{\"question\": \"by it\", \"choices\": [\"of\", \"by\"], \"answer\": \"by\"}\n";
    static const char SWAG[] = "sent1,sent2,ending0,ending1,ending2,ending3,label\n"
                               "is it,of the,a,b,c,d,2\nby it,if,a,b,c,d,0\n";
    peft_model *model = load(ctx, "tasks/bert-tiny");
    peft_dataset *data = NULL;
    peft_batch batch;
    peft_batch_init(&batch);
    CHECK_OK(ctx, open_text(ctx, model, "a.jsonl", ROWS, 0, &data));
    CHECK_OK(ctx, peft_dataset_next(data, &batch));
    CHECK(batch.questions == 2 && batch.sequences == 5 && batch.choice_offsets[1] == 3 && batch.labels == NULL &&
          batch.sequence_labels[0] == 1 && batch.sequence_labels[1] == 1);
    /* [CLS] is it [SEP] a b [SEP], with types. */
    peft__encoding pair;
    peft__encoding_init(&pair, ctx->mem);
    CHECK_OK(ctx, peft__encode_pair(ctx, peft_model_tokenizer(model), "is it", 5, "a b", 3, PEFT_ENCODE_SPECIAL, 0,
                                    PEFT_TRUNCATE_NONE, &pair));
    CHECK(batch.offsets[1] == pair.count &&
          memcmp(batch.input_ids, pair.ids, (size_t)pair.count * sizeof *pair.ids) == 0 &&
          memcmp(batch.token_type_ids, pair.types, (size_t)pair.count * sizeof *pair.types) == 0);

    peft_adapter *adapter = NULL;
    peft_session *session = NULL;
    peft_optimizer *optimizer = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, model, "{\"peft_type\": \"LORA\", \"r\": 4, \"target_modules\": \"all-linear\"}", 3,
                                      &adapter));
    CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, 1, NULL, &session));
    peft_optimizer_options options;
    peft_optimizer_options_init(&options);
    options.lr = 0.02f;
    CHECK_OK(ctx, peft_optimizer_create(ctx, adapter, &options, &optimizer));
    for (int step = 0; step < 30; step++) {
        CHECK_OK(ctx, peft_session_forward(session, &batch, NULL));
        CHECK_OK(ctx, peft_session_backward(session, 1.0f));
        CHECK_OK(ctx, peft_optimizer_step(optimizer, session, NULL));
    }
    peft_evaluation *evaluation = NULL;
    peft_interval interval = {.struct_size = sizeof interval};
    CHECK_OK(ctx, peft_evaluate(session, data, NULL, &evaluation));
    CHECK_OK(ctx, peft_evaluation_metric(evaluation, "accuracy", 0, 0, &interval));
    CHECK(interval.value == 1.0);
    CHECK_OK(ctx, peft_evaluation_metric(evaluation, "loss", 0, 0, &interval));
    CHECK(interval.value < 0.3);
    peft_evaluation_destroy(evaluation);
    peft_dataset_destroy(data);

    CHECK_OK(ctx, open_text(ctx, model, "a.jsonl", ROWS, 1, &data));
    CHECK_OK(ctx, peft_evaluate(session, data, NULL, &evaluation));
    const char *line = peft_evaluation_prediction(evaluation, 1);
    CHECK(line != NULL && strstr(line, "\"prediction\": 1") != NULL && strstr(line, "\"row\": 1") != NULL);
    peft_evaluation_destroy(evaluation);
    peft_dataset_destroy(data);
    peft_optimizer_destroy(optimizer);
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);

    /* SWAG: every ending begins with the second sentence. */
    CHECK_OK(ctx, open_text(ctx, model, "swag.csv", SWAG, 0, &data));
    CHECK_OK(ctx, peft_dataset_next(data, &batch));
    CHECK(batch.questions == 2 && batch.sequences == 8 && batch.sequence_labels[0] == 2);
    CHECK_OK(ctx, peft__encode_pair(ctx, peft_model_tokenizer(model), "is it", 5, "of the b", 8, PEFT_ENCODE_SPECIAL, 0,
                                    PEFT_TRUNCATE_NONE, &pair));
    CHECK(batch.offsets[2] - batch.offsets[1] == pair.count &&
          memcmp(batch.input_ids + batch.offsets[1], pair.ids, (size_t)pair.count * sizeof *pair.ids) == 0);
    peft__encoding_free(&pair);
    peft_dataset_destroy(data);
    CHECK_STATUS(ctx, open_text(ctx, model, "swag.csv", "sent1,sent2,ending0,ending1,label\nis it,of,a,b,2\n", 0, &data),
                 PEFT_E_FORMAT);
    CHECK(strstr(peft_context_error(ctx), "swag.csv:2") != NULL);
    peft_model_destroy(model);
}

int main(void) {
    peft_context *ctx = NULL;
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = 1;
    CHECK_OK(NULL, peft_context_create(&options, &ctx));
    peft__json *cases = NULL;
    CHECK_OK(ctx, peft__json_load_file(ctx, path_of("tasks/choices.json"), 0, &cases));
    CHECK(json_array_size(cases) == 5);
    for (size_t i = 0; i < json_array_size(cases); i++) against_transformers(ctx, json_array_get(cases, i));
    files(ctx);
    json_decref(cases);
    peft_context_destroy(ctx);
    return check_summary();
}
