/* What is learnt: token by token against jinja2 and tokenizers, the end token, truncation, rows that are left out. */
#include "data_test.h"

static int32_t *ints(const json_t *list) {
    int32_t *values = malloc((json_array_size(list) + 1) * sizeof *values);
    for (size_t i = 0; i < json_array_size(list); i++) values[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return values;
}

static void expected_rows(peft_context *ctx, const peft_tokenizer *tokenizer) {
    peft__json *cases = NULL;
    CHECK_OK(ctx, peft__json_load_file(ctx, test_path("data/chat_expected.json"), 0, &cases));
    CHECK(json_array_size(cases) >= 8);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i);
        char *row = json_dumps(json_object_get(one, "row"), JSON_COMPACT);
        const int64_t count = (int64_t)json_array_size(json_object_get(one, "ids"));
        int32_t *ids = ints(json_object_get(one, "ids")), *labels = ints(json_object_get(one, "labels"));
        peft_dataset *data = NULL;
        const peft_dataset_options options = test_options();
        CHECK_OK(ctx, test_open(ctx, tokenizer, row, "row.jsonl", &options, &data));
        peft_batch batch;
        CHECK_OK(ctx, peft_dataset_next(data, &batch));
        CHECK(batch.rows == count && batch.sequences == 1);
        for (int64_t t = 0; t < count && t < batch.rows; t++) {
            if (!CHECK(batch.input_ids[t] == ids[t]) || !CHECK(batch.labels[t] == labels[t])) {
                fprintf(stderr, "    case %zu token %lld: %d/%d, want %d/%d\n", i, (long long)t, batch.input_ids[t],
                        batch.labels[t], ids[t], labels[t]);
                break;
            }
        }
        CHECK(peft_dataset_next(data, &batch) == PEFT_END);
        peft_dataset_destroy(data);
        free(ids);
        free(labels);
        free(row);
    }
    json_decref(cases);
}

/* The labels of the only example. */
static peft_dataset *open_one(peft_context *ctx, const peft_tokenizer *tokenizer, const char *text,
                              const peft_dataset_options *options, peft_batch *out_batch) {
    peft_dataset *data = NULL;
    CHECK_OK(ctx, test_open(ctx, tokenizer, text, "row.jsonl", options, &data));
    if (data == NULL) exit(check_summary());
    CHECK_OK(ctx, peft_dataset_next(data, out_batch));
    return data;
}

static void end_tokens(peft_context *ctx, const peft_tokenizer *tokenizer) {
    static const char ROW[] = "{\"prompt\": \"a b\", \"completion\": \" c d\"}",
                      TEXT[] = "{\"text\": \"words and words\"}";
    const int32_t eos = peft_tokenizer_special(tokenizer, PEFT_SPECIAL_EOS);
    CHECK(eos >= 0);
    peft_dataset_options options = test_options();
    peft_batch batch;
    peft_dataset *data = open_one(ctx, tokenizer, ROW, &options, &batch);
    CHECK(batch.input_ids[batch.rows - 1] == eos && batch.labels[batch.rows - 1] == eos);
    CHECK(batch.labels[0] == PEFT_IGNORE_LABEL);
    peft_dataset_destroy(data);
    options.eos = PEFT_EOS_NEVER;
    data = open_one(ctx, tokenizer, ROW, &options, &batch);
    CHECK(batch.input_ids[batch.rows - 1] != eos);
    CHECK(strstr(peft_dataset_report(data), "will not learn to stop") != NULL);
    peft_dataset_destroy(data);
    options = test_options();
    options.train_on_prompt = 1;
    data = open_one(ctx, tokenizer, ROW, &options, &batch);
    for (int64_t i = 0; i < batch.rows; i++) CHECK(batch.labels[i] == batch.input_ids[i]);
    peft_dataset_destroy(data);
    options = test_options();
    data = open_one(ctx, tokenizer, TEXT, &options, &batch);
    for (int64_t i = 0; i < batch.rows; i++) CHECK(batch.labels[i] == batch.input_ids[i]);
    CHECK(batch.labels[batch.rows - 1] == eos);
    peft_dataset_destroy(data);
    /* A format without an end-of-turn mark gets the end token of the tokenizer. */
    options.chat_template = "{\"user\": {\"prefix\": \"U:\", \"suffix\": \"\\n\"}, \"assistant\": {\"prefix\": \"A:\", "
                            "\"suffix\": \"\\n\"}}";
    data = open_one(
        ctx, tokenizer,
        "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"assistant\", \"content\": \"y\"}]}",
        &options, &batch);
    CHECK(batch.input_ids[batch.rows - 1] == eos && batch.labels[batch.rows - 1] == eos);
    CHECK_STR(peft_dataset_chat_template(data), "custom");
    peft_dataset_destroy(data);
    /* A conversation that ends with the user's words has no end to learn. */
    options = test_options();
    data = open_one(
        ctx, tokenizer,
        "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"assistant\", \"content\": \"y\"},"
        "{\"role\": \"user\", \"content\": \"z\"}]}",
        &options, &batch);
    CHECK(batch.labels[batch.rows - 1] == PEFT_IGNORE_LABEL);
    peft_dataset_destroy(data);
}

/* The end token stays learnt wherever it stands: nothing is masked by id, even if a model pads with it. */
static void end_token_inside(peft_context *ctx, const peft_tokenizer *tokenizer) {
    const peft_dataset_options options = test_options();
    peft_batch batch;
    peft_dataset *data =
        open_one(ctx, tokenizer, "{\"prompt\": \"p\", \"completion\": \" one<|im_end|> two<|im_end|> three\"}",
                 &options, &batch);
    const int32_t end = peft_tokenizer_token_to_id(tokenizer, "<|im_end|>", 10);
    int found = 0;
    for (int64_t i = 0; i < batch.rows; i++)
        if (batch.input_ids[i] == end) {
            found++;
            CHECK(batch.labels[i] == end);
        }
    CHECK(found >= 2);
    peft_dataset_destroy(data);
}

static void cutting(peft_context *ctx, const peft_tokenizer *tokenizer) {
    static const char ROWS[] =
        "{\"prompt\": \"a long prompt that takes all of the room that there is in an example of eight tokens\", "
        "\"completion\": \" x\"}\n"
        "{\"prompt\": \"p\", \"completion\": \" a long answer that is cut somewhere in the middle of it\"}\n"
        "{\"prompt\": \"p\", \"completion\": \" z\"}\n";
    peft_dataset_options options = test_options();
    options.max_length = 8;
    options.batch_size = 4;
    peft_dataset *data = NULL;
    CHECK_OK(ctx, test_open(ctx, tokenizer, ROWS, "rows.jsonl", &options, &data));
    CHECK(peft_dataset_size(data) == 2);
    CHECK(strstr(peft_dataset_report(data), "1 rows have nothing left to learn after being cut") != NULL);
    CHECK(strstr(peft_dataset_report(data), "first: line 1") != NULL);
    CHECK(strstr(peft_dataset_report(data), "cut: 1 examples") != NULL);
    int64_t tokens, trained, longest;
    peft_dataset_tokens(data, &tokens, &trained, &longest);
    CHECK(longest == 8 && trained > 0 && trained < tokens);
    peft_dataset_destroy(data);
    data = NULL;
    CHECK_STATUS(ctx,
                 test_open(ctx, tokenizer,
                           "{\"prompt\": \"a long prompt with many many words in it\", \"completion\": \" x\"}",
                           "r.jsonl", &options, &data),
                 PEFT_E_ARG);
    CHECK(strstr(peft_context_error(ctx), "no example is left") != NULL);
}

static void bad_rows(peft_context *ctx, const peft_tokenizer *tokenizer) {
    static const char ROWS[] = "{\"text\": \"one two three\"}\n\n{\"text\": 7}\n{\"text\": \"broken\n{\"other\": "
                               "1}\n{\"text\": \"four five six\"}\n[1]\n";
    peft_dataset_options options = test_options();
    peft_dataset *data = NULL;
    CHECK_STATUS(ctx, test_open(ctx, tokenizer, ROWS, "rows.jsonl", &options, &data), PEFT_E_FORMAT);
    CHECK(strstr(peft_context_error(ctx), "rows.jsonl:3") != NULL);
    options.on_bad_row = PEFT_BAD_ROW_SKIP;
    CHECK_OK(ctx, test_open(ctx, tokenizer, ROWS, "rows.jsonl", &options, &data));
    CHECK(peft_dataset_size(data) == 2);
    CHECK(strstr(peft_dataset_report(data), "4 rows are malformed (first: line 3") != NULL);
    peft_dataset_destroy(data);
    data = NULL;
    static const char *const WRONG[][2] = {
        {"{\"foo\": 1}", "not those of a known form"},
        {"{\"messages\": []}", "an empty one"},
        {"{\"messages\": [{\"role\": \"tool\", \"content\": \"x\"}]}", "\"tool\""},
        {"{\"messages\": [{\"role\": \"user\"}]}", "\"content\" is missing"},
        {"{\"messages\": [7]}", "message 1 is an object"},
        {"{\"text\": \"a\\u0000b\"}", "NUL"},
        {"{\"instruction\": \"a\", \"output\": \"b\", \"history\": [[1, 2]]}", "pairs"},
        {"[", "expected"},
        {"", "no example is left"},
    };
    for (size_t i = 0; i < PEFT_COUNT(WRONG); i++) {
        options = test_options();
        const peft_status status = test_open(ctx, tokenizer, WRONG[i][0], "w.jsonl", &options, &data);
        if (!CHECK(status == PEFT_E_FORMAT || status == PEFT_E_ARG) ||
            !CHECK(strstr(peft_context_error(ctx), WRONG[i][1]) != NULL))
            fprintf(stderr, "    %s: %s\n", WRONG[i][0], peft_context_error(ctx));
    }
    options = test_options();
    options.chat_template = "{{ something }} nobody knows";
    CHECK_STATUS(ctx,
                 test_open(ctx, tokenizer, "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}", "w.jsonl",
                           &options, &data),
                 PEFT_E_UNSUPPORTED);
}

static void forms(peft_context *ctx, const peft_tokenizer *tokenizer) {
    static const char *const FILES[][3] = {
        {"a.csv", "text,label\n\"one, two\",1\nthree four five,2\n", "text_rows"},
        {"a.tsv", "prompt\tcompletion\nwhat is\t it\n", "prompt_completion"},
        {"a.json",
         "[{\"instruction\": \"x\", \"output\": \"y\"}, {\"instruction\": \"x\", \"input\": null, \"output\": \"y\"}]",
         "alpaca"},
        {"a.txt", "plain words\nin lines\n", "text,"},
        {"a.jsonl",
         "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"x\"}]}, {\"role\": "
         "\"assistant\", \"content\": \"y\"}]}",
         "messages"},
        {"a.jsonl",
         "{\"prompt\": [{\"role\": \"user\", \"content\": \"x\"}], \"completion\": [{\"role\": \"assistant\", "
         "\"content\": \"y\"}]}",
         "prompt_completion with chat template chatml"},
    };
    for (size_t i = 0; i < PEFT_COUNT(FILES); i++) {
        const peft_dataset_options options = test_options();
        peft_dataset *data = NULL;
        CHECK_OK(ctx, test_open(ctx, tokenizer, FILES[i][1], FILES[i][0], &options, &data));
        if (!CHECK(strstr(peft_dataset_report(data), FILES[i][2]) != NULL))
            fprintf(stderr, "    %s", peft_dataset_report(data));
        peft_dataset_destroy(data);
    }
    peft_dataset_options options = test_options();
    options.text_key = "body";
    peft_dataset *data = NULL;
    CHECK_OK(ctx, test_open(ctx, tokenizer, "{\"body\": \"one two three\"}", "k.jsonl", &options, &data));
    CHECK(peft_dataset_size(data) == 1);
    char text[64];
    uint64_t length = 0;
    CHECK_STATUS(ctx, peft_dataset_preview(data, 0, text, 4, &length), PEFT_E_LIMIT);
    CHECK(length > 4);
    char *all = malloc((size_t)length + 1);
    CHECK_OK(ctx, peft_dataset_preview(data, 0, all, length + 1, &length));
    CHECK(strlen(all) == length && strstr(all, " + ") != NULL && strstr(all, " . ") != NULL);
    free(all);
    CHECK_STATUS(ctx, peft_dataset_preview(data, 5, NULL, 0, &length), PEFT_E_ARG);
    peft_dataset_destroy(data);
}

int main(void) {
    peft_context *ctx = test_context();
    peft_tokenizer *tokenizer = test_tokenizer(ctx);
    expected_rows(ctx, tokenizer);
    end_tokens(ctx, tokenizer);
    end_token_inside(ctx, tokenizer);
    cutting(ctx, tokenizer);
    bad_rows(ctx, tokenizer);
    forms(ctx, tokenizer);
    peft_tokenizer_close(tokenizer);
    uint64_t bytes = 0;
    peft_context_memory(ctx, &bytes, NULL, NULL);
    peft_context_destroy(ctx);
    return check_summary();
}
