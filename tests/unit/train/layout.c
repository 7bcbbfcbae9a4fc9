/* Texts laid out for WARP: where words, prompt rows, [MASK] and texts stand, what is cut, and that it trains. */
#include "check.h"
#include "data/data.h"
#include "peft/peft.h"

static const char *model_path(void) {
    static char path[1024];
    const char *root = getenv("PEFT_TEST_DATA");
    snprintf(path, sizeof path, "%s/tasks/bert-tiny", root != NULL ? root : "tests/data");
    return path;
}

static peft_status open_rows(peft_context *ctx, const peft_model *model, const char *layout, int64_t max_length,
                             const char *text, peft_dataset **out) {
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    options.format = PEFT_DATA_CLASSIFICATION;
    options.max_length = max_length;
    options.batch_size = 8;
    options.shuffle = 0;
    options.layout = layout;
    return peft_dataset_open_memory(ctx, model, text, strlen(text), "a.csv", &options, out);
}

static int32_t id_of(const peft_model *model, const char *token) {
    return peft__token_to_id(peft_model_tokenizer(model), token, strlen(token));
}

int main(void) {
    static const char TEMPLATE[] = "[\"cls\", 0, \"s1\", [1, \"is\"], \"mask\", \"if it\", \"s2\", 2, \"sep\"]";
    static const char ROWS[] = "text,text_pair,label\na b,c,yes\nis,of the,no\n";
    peft_context *ctx = NULL;
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = 1;
    CHECK_OK(NULL, peft_context_create(&options, &ctx));
    peft_model_options how;
    peft_model_options_init(&how);
    how.task = PEFT_TASK_MASKED_LM;
    peft_model *model = NULL;
    CHECK_OK(ctx, peft_model_load(ctx, model_path(), &how, &model));
    if (model == NULL) return check_summary();
    peft_dataset *data = NULL;
    peft_batch batch;
    peft_batch_init(&batch);
    CHECK_OK(ctx, open_rows(ctx, model, TEMPLATE, 48, ROWS, &data));
    if (data == NULL) return check_summary();
    CHECK_OK(ctx, peft_dataset_next(data, &batch));
    const int32_t mask = id_of(model, "[MASK]");
    const int32_t ids[] = {id_of(model, "[CLS]"), mask, id_of(model, "a"), id_of(model, "b"), mask, mask,
                           id_of(model, "if"), id_of(model, "it"), id_of(model, "c"), mask, id_of(model, "[SEP]")};
    const int32_t rows[] = {-1, 0, -1, -1, 1, -1, -1, -1, -1, 2, -1};
    CHECK(batch.sequences == 2 && batch.offsets[1] == 11 && memcmp(batch.input_ids, ids, sizeof ids) == 0);
    CHECK(batch.prompt_index != NULL && memcmp(batch.prompt_index, rows, sizeof rows) == 0);
    CHECK(batch.mask_positions != NULL && batch.mask_positions[0] == 5 && batch.mask_positions[1] == 4);
    CHECK(batch.sequence_labels[0] == 1 && batch.sequence_labels[1] == 0 && batch.labels == NULL);

    /* The adapter that the template is of learns from it. */
    char config[512];
    snprintf(config, sizeof config, "{\"peft_type\": \"WARP\", \"num_labels\": 2, \"template\": %s, \"label_words\": [\"a\", \"of\"]}",
             TEMPLATE);
    peft_adapter *adapter = NULL;
    peft_session *session = NULL;
    peft_optimizer *optimizer = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, model, config, 1, &adapter));
    CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, 1, NULL, &session));
    peft_optimizer_options rate;
    peft_optimizer_options_init(&rate);
    rate.lr = 0.05f;
    CHECK_OK(ctx, peft_optimizer_create(ctx, adapter, &rate, &optimizer));
    double first = 0.0, last = 0.0;
    for (int step = 0; step < 20; step++) {
        CHECK_OK(ctx, peft_session_forward(session, &batch, step == 0 ? &first : &last));
        CHECK_OK(ctx, peft_session_backward(session, 1.0f));
        CHECK_OK(ctx, peft_optimizer_step(optimizer, session, NULL));
    }
    CHECK(last < 0.5 * first);
    peft_evaluation *evaluation = NULL;
    peft_interval interval = {.struct_size = sizeof interval};
    CHECK_OK(ctx, peft_evaluate(session, data, NULL, &evaluation));
    CHECK_OK(ctx, peft_evaluation_metric(evaluation, "accuracy", 0, 0, &interval));
    CHECK(interval.value == 1.0);
    peft_evaluation_destroy(evaluation);
    peft_optimizer_destroy(optimizer);
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
    peft_dataset_destroy(data);

    /* Texts are cut, never the template; the longer one first. */
    CHECK_OK(ctx, open_rows(ctx, model, TEMPLATE, 10, "text,text_pair,label\na b c d,c,yes\n", &data));
    CHECK_OK(ctx, peft_dataset_next(data, &batch));
    CHECK(batch.rows == 10 && batch.input_ids[2] == id_of(model, "a") && batch.mask_positions[0] == 4);
    peft_dataset_destroy(data);
    CHECK_STATUS(ctx, open_rows(ctx, model, TEMPLATE, 7, "text,text_pair,label\na,c,yes\n", &data), PEFT_E_ARG);
    static const struct {
        const char *layout, *says;
    } BAD[] = {{"[\"cls\", \"s1\"]", "\"mask\" once"},
               {"[\"s1\", \"mask\", \"mask\"]", "found 2 and 1"},
               {"[\"mask\"]", "\"s1\""},
               {"[]", "a template is a list"},
               {"[\"s1\", \"mask\", true]", "template[2]"},
               {"[\"s1\", \"mask\", -1]", "template[2]"}};
    for (size_t i = 0; i < PEFT_COUNT(BAD); i++) {
        CHECK_STATUS(ctx, open_rows(ctx, model, BAD[i].layout, 48, ROWS, &data), PEFT_E_FORMAT);
        if (!CHECK(strstr(peft_context_error(ctx), BAD[i].says) != NULL))
            fprintf(stderr, "    %s\n", peft_context_error(ctx));
    }
    CHECK_STATUS(ctx, open_rows(ctx, model, TEMPLATE, 48, "text,label\na,yes\n", &data), PEFT_E_FORMAT);
    peft_model_destroy(model);
    peft_context_destroy(ctx);
    return check_summary();
}
