/* Labelled rows: classes by name and number, pairs, numbers, several classes, words with tags, columns, hidden tokens,
 * bad rows. */
#include "data_test.h"

static peft_tokenizer *open_tokenizer(peft_context *ctx, const char *name) {
    peft_tokenizer *tokenizer = NULL;
    CHECK_OK(ctx, peft_tokenizer_open(ctx, test_path(name), &tokenizer));
    if (tokenizer == NULL) exit(check_summary());
    return tokenizer;
}

static peft_dataset_options options_of(int32_t format) {
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    options.shuffle = 0;
    options.max_length = 64;
    options.batch_size = 100;
    options.format = format;
    return options;
}

/* With a model of `outputs` classes (0: not known), whose config is `config` (may be NULL). */
static peft_status open_with(peft_context *ctx, const peft_tokenizer *tokenizer, const char *text, const char *name,
                             const peft_dataset_options *options, int64_t outputs, const char *config,
                             peft_dataset **out_dataset) {
    peft__json *json = NULL;
    if (config != NULL) CHECK_OK(ctx, peft__json_load_memory(ctx, "config.json", config, strlen(config), 0, &json));
    const peft__data_base base = {
        .tokenizer = tokenizer, .positions = 512, .types = 2, .outputs = outputs, .config = json};
    const size_t size = strlen(text);
    char *copy = malloc(size > 0 ? size : 1);
    memcpy(copy, text, size);
    peft__source *source = NULL;
    peft_status status = peft__source_open_memory(ctx, copy, size, name, &source);
    if (status >= 0) status = peft__dataset_open(ctx, &base, source, name, options, out_dataset);
    peft__source_unref(source);
    free(copy);
    json_decref(json);
    return status;
}

static peft_dataset *must_open(peft_context *ctx, const peft_tokenizer *tokenizer, const char *text, const char *name,
                               const peft_dataset_options *options, int64_t outputs, const char *config,
                               peft_batch *out_batch) {
    peft_dataset *data = NULL;
    CHECK_OK(ctx, open_with(ctx, tokenizer, text, name, options, outputs, config, &data));
    if (data == NULL) exit(check_summary());
    CHECK_OK(ctx, peft_dataset_next(data, out_batch));
    return data;
}

static void names(peft_context *ctx, const peft_tokenizer *tokenizer) {
    static const char CSV[] = "text,label\none two,spam\nthree,ham\nfour,spam\n";
    static const char CONFIG[] = "{\"id2label\": {\"0\": \"spam\", \"1\": \"ham\"}}",
                      USUAL[] = "{\"id2label\": {\"0\": \"LABEL_0\", \"1\": \"LABEL_1\"}}";
    peft_dataset_options options = options_of(PEFT_DATA_CLASSIFICATION);
    peft_batch batch;
    /* Sorted: ham 0, spam 1. */
    peft_dataset *data = must_open(ctx, tokenizer, CSV, "a.csv", &options, 2, USUAL, &batch);
    CHECK(batch.sequences == 3 && batch.labels == NULL && batch.token_type_ids != NULL);
    CHECK(batch.sequence_labels[0] == 1 && batch.sequence_labels[1] == 0 && batch.sequence_labels[2] == 1);
    CHECK(peft_dataset_label_count(data) == 2 && peft_dataset_label_examples(data, 1) == 2 &&
          peft_dataset_label_name(data, 2) == NULL);
    CHECK_STR(peft_dataset_label_name(data, 0), "ham");
    CHECK(strstr(peft_dataset_report(data), "66.7 %") != NULL);
    const int32_t cls = peft_tokenizer_special(tokenizer, PEFT_SPECIAL_CLS),
                  sep = peft_tokenizer_special(tokenizer, PEFT_SPECIAL_SEP);
    CHECK(cls >= 0 && batch.input_ids[0] == cls && batch.input_ids[batch.rows - 1] == sep &&
          batch.input_ids[batch.offsets[1]] == cls);
    int64_t trained = 0;
    peft_dataset_tokens(data, NULL, &trained, NULL);
    CHECK(trained == 3);
    peft_dataset_destroy(data);
    /* The model's own names decide. */
    data = must_open(ctx, tokenizer, CSV, "a.csv", &options, 2, CONFIG, &batch);
    CHECK(batch.sequence_labels[0] == 0 && batch.sequence_labels[1] == 1);
    peft_dataset_destroy(data);
    /* The host's before them. */
    static const char *const GIVEN[] = {"ham", "other", "spam"};
    options.label_names = GIVEN;
    options.label_name_count = 3;
    data = must_open(ctx, tokenizer, CSV, "a.csv", &options, 4, NULL, &batch);
    CHECK(batch.sequence_labels[0] == 2 && peft_dataset_label_count(data) == 4);
    CHECK_STR(peft_dataset_label_name(data, 3), "3");
    peft_dataset_destroy(data);
    CHECK_STATUS(ctx, open_with(ctx, tokenizer, CSV, "a.csv", &options, 2, NULL, &data), PEFT_E_MISMATCH);
    /* Both parts of a split number the classes alike, whichever they hold. */
    options = options_of(PEFT_DATA_CLASSIFICATION);
    options.validation_fraction = 0.34;
    for (int32_t part = PEFT_PART_TRAIN; part <= PEFT_PART_VALIDATION; part++) {
        options.part = part;
        data = must_open(ctx, tokenizer, CSV, "a.csv", &options, 2, NULL, &batch);
        CHECK_STR(peft_dataset_label_name(data, 1), "spam");
        peft_dataset_destroy(data);
    }
    /* Numbers, as text, integers, booleans. */
    options = options_of(PEFT_DATA_CLASSIFICATION);
    data = must_open(ctx, tokenizer, "label\tsentence\n1\tx\n0\ty\n2\tz\n", "a.tsv", &options, 0, NULL, &batch);
    CHECK(batch.sequence_labels[0] == 1 && batch.sequence_labels[2] == 2 && peft_dataset_label_count(data) == 3);
    peft_dataset_destroy(data);
    data = must_open(ctx, tokenizer, "{\"text\": \"x\", \"label\": true}\n{\"text\": \"x\", \"label\": 0}", "a.jsonl",
                     &options, 2, NULL, &batch);
    CHECK(batch.sequence_labels[0] == 1 && batch.sequence_labels[1] == 0);
    peft_dataset_destroy(data);
    /* Without labels. */
    options.unlabelled = 1;
    data = must_open(ctx, tokenizer, "text\nx\ny\n", "a.csv", &options, 2, CONFIG, &batch);
    CHECK(batch.sequence_labels[0] == PEFT_IGNORE_LABEL && batch.sequences == 2);
    peft_dataset_destroy(data);
}

static void pairs(peft_context *ctx, const peft_tokenizer *tokenizer) {
    static const char ROWS[] =
        "{\"premise\": \"one two three four five six seven eight\", \"hypothesis\": \"a b\", \"label\": 1}";
    peft_dataset_options options = options_of(PEFT_DATA_CLASSIFICATION);
    peft_token tokens[128];
    int64_t count = 0;
    for (int round = 0; round < 2; round++) {
        options.max_length = round == 0 ? 64 : 9;
        CHECK_OK(ctx, peft_tokenizer_encode_pair(tokenizer, "one two three four five six seven eight", 39, "a b", 3,
                                                 PEFT_ENCODE_SPECIAL | PEFT_ENCODE_PARSE_SPECIAL, options.max_length,
                                                 PEFT_TRUNCATE_LONGEST_FIRST, tokens, 128, &count));
        peft_batch batch;
        peft_dataset *data = must_open(ctx, tokenizer, ROWS, "a.jsonl", &options, 2, NULL, &batch);
        CHECK(batch.rows == count);
        bool same = batch.rows == count, second = false;
        for (int64_t i = 0; same && i < count; i++) {
            same = batch.input_ids[i] == tokens[i].id && batch.token_type_ids[i] == tokens[i].type;
            second = second || batch.token_type_ids[i] == 1;
        }
        CHECK(same && second);
        CHECK((strstr(peft_dataset_report(data), "cut: 1") != NULL) == (round == 1));
        peft_dataset_destroy(data);
    }
}

static void targets(peft_context *ctx, const peft_tokenizer *tokenizer) {
    peft_dataset_options options = options_of(PEFT_DATA_REGRESSION);
    peft_batch batch;
    peft_dataset *data = must_open(ctx, tokenizer, "text,score\nx,1.5\ny,-2\n", "a.csv", &options, 1, NULL, &batch);
    CHECK(batch.target_cols == 1 && batch.sequence_targets[0] == 1.5f && batch.sequence_targets[1] == -2.0f &&
          batch.sequence_labels == NULL);
    peft_dataset_destroy(data);
    data = must_open(ctx, tokenizer, "{\"text\": \"x\", \"score\": [1, 2.5]}", "a.jsonl", &options, 2, NULL, &batch);
    CHECK(batch.target_cols == 2 && batch.sequence_targets[1] == 2.5f);
    peft_dataset_destroy(data);
    CHECK_STATUS(ctx, open_with(ctx, tokenizer, "{\"text\": \"x\", \"score\": 1}", "a.jsonl", &options, 2, NULL, &data),
                 PEFT_E_FORMAT);
    options.format = PEFT_DATA_MULTI_LABEL;
    data = must_open(ctx, tokenizer, "text,labels\nx,\"red, blue\"\ny,green|red\nz,\n", "a.csv", &options, 3, NULL,
                     &batch);
    static const float WANT[] = {1, 0, 1, 0, 1, 1, 0, 0, 0};
    CHECK(batch.target_cols == 3 && memcmp(batch.sequence_targets, WANT, sizeof WANT) == 0);
    CHECK(peft_dataset_label_examples(data, 2) == 2);
    peft_dataset_destroy(data);
    data = must_open(ctx, tokenizer, "{\"text\": \"x\", \"labels\": [0, 1, 1.0]}\n{\"text\": \"x\", \"labels\": []}",
                     "a.jsonl", &options, 3, NULL, &batch);
    CHECK(batch.sequence_targets[0] == 0.0f && batch.sequence_targets[2] == 1.0f && batch.sequence_targets[5] == 0.0f);
    peft_dataset_destroy(data);
}

/* Labels of the rows that have one, in order. */
static int64_t labelled_rows(const peft_batch *batch, int32_t *out, int64_t room) {
    int64_t count = 0;
    for (int64_t i = 0; i < batch->rows; i++)
        if (batch->labels[i] != PEFT_IGNORE_LABEL && count < room) out[count++] = batch->labels[i];
    return count;
}

static void words(peft_context *ctx, const peft_tokenizer *tokenizer, const char *expected_first) {
    static const char JSONL[] = "{\"tokens\": [\"unbelievable\", \"Paris\", \"is\", \"\", \"here\"], \"ner_tags\": "
                                "[\"O\", \"B-LOC\", \"O\", \"O\", \"O\"]}";
    static const char CONLL[] =
        "-DOCSTART- -X- O O\n\nunbelievable NN O\nParis NNP B-LOC\nis VB O\nhere RB O\n\n\nParis NNP B-LOC";
    peft_dataset_options options = options_of(PEFT_DATA_TOKEN_CLS);
    peft_batch batch;
    int32_t labels[32];
    peft_dataset *data = must_open(ctx, tokenizer, JSONL, "a.jsonl", &options, 2, NULL, &batch);
    CHECK(labelled_rows(&batch, labels, 32) == 4 && labels[0] == 1 && labels[1] == 0 && labels[2] == 1);
    CHECK(batch.labels[0] == PEFT_IGNORE_LABEL && batch.labels[1] == 1 &&
          batch.labels[batch.rows - 1] == PEFT_IGNORE_LABEL);
    CHECK(batch.sequence_labels == NULL && batch.rows > 6); /* "unbelievable" has several tokens, one label */
    size_t length;
    CHECK(expected_first == NULL ||
          strncmp(peft_tokenizer_id_to_token(tokenizer, batch.input_ids[1], &length), expected_first, 1) == 0);
    const int64_t rows = batch.rows;
    peft_dataset_destroy(data);
    data = must_open(ctx, tokenizer, CONLL, "train.conll", &options, 2, NULL, &batch);
    CHECK(batch.sequences == 2 && batch.offsets[1] == rows);
    CHECK(labelled_rows(&batch, labels, 32) == 5 && labels[1] == 0 && labels[4] == 0);
    CHECK_STR(peft_dataset_label_name(data, 0), "B-LOC");
    CHECK(peft_dataset_label_examples(data, 0) == 2);
    char text[4096];
    uint64_t size = 0;
    CHECK_OK(ctx, peft_dataset_preview(data, 0, text, sizeof text, &size));
    CHECK(strstr(text, "(B-LOC)") != NULL);
    peft_dataset_destroy(data);
    options.label_key = "2"; /* the other column */
    data = must_open(ctx, tokenizer, CONLL, "train.txt", &options, 0, NULL, &batch);
    CHECK(peft_dataset_label_count(data) == 4);
    peft_dataset_destroy(data);
    options.label_key = "9";
    CHECK_STATUS(ctx, open_with(ctx, tokenizer, CONLL, "train.conll", &options, 0, NULL, &data), PEFT_E_FORMAT);
    CHECK(strstr(peft_context_error(ctx), "train.conll:3") != NULL);
    options.label_key = NULL;
    options.unlabelled = 1;
    data = must_open(ctx, tokenizer, "Paris\nis\n\nhere\n", "w.conll", &options, 2, NULL, &batch);
    CHECK(batch.sequences == 2 && labelled_rows(&batch, labels, 32) == 0);
    peft_dataset_destroy(data);
}

static void masked(peft_context *ctx, const peft_tokenizer *tokenizer) {
    char text[4096] = "";
    for (int i = 0; i < 200; i++) strcat(text, i % 10 == 9 ? "return the string. " : "on ed ");
    peft_dataset_options options = options_of(PEFT_DATA_MASKED_LM);
    options.seed = 3;
    peft_batch batch;
    peft_dataset *data = must_open(ctx, tokenizer, text, "a.txt", &options, 0, NULL, &batch);
    const int32_t mask = peft_tokenizer_special(tokenizer, PEFT_SPECIAL_MASK),
                  cls = peft_tokenizer_special(tokenizer, PEFT_SPECIAL_CLS);
    int64_t hidden = 0, masks = 0, kept = 0, candidates = 0;
    int32_t *before = malloc((size_t)batch.rows * 2 * sizeof *before), *labels = before + batch.rows;
    const int64_t rows = batch.rows;
    memcpy(before, batch.input_ids, (size_t)rows * sizeof *before);
    memcpy(labels, batch.labels, (size_t)rows * sizeof *before);
    int64_t other = 0;
    for (uint64_t epoch = 0; epoch < 40; epoch++) {
        if (epoch > 0) {
            CHECK(peft_dataset_next(data, &batch) == PEFT_END);
            CHECK_OK(ctx, peft_dataset_next(data, &batch));
        }
        CHECK(batch.rows == rows);
        for (int64_t s = 0; s < batch.sequences; s++) {
            CHECK(batch.input_ids[batch.offsets[s]] == cls && batch.labels[batch.offsets[s]] == PEFT_IGNORE_LABEL);
            CHECK(batch.offsets[s + 1] - batch.offsets[s] <= 64);
        }
        for (int64_t i = 0; i < rows; i++) {
            candidates++;
            if (batch.labels[i] == PEFT_IGNORE_LABEL) continue;
            hidden++;
            masks += batch.input_ids[i] == mask;
            kept += batch.input_ids[i] == batch.labels[i];
        }
        if (epoch == 1) other = memcmp(labels, batch.labels, (size_t)rows * sizeof *labels);
    }
    CHECK(other != 0);
    CHECK_NEAR((double)hidden / (double)candidates, 0.15, 0.015);
    CHECK_NEAR((double)masks / (double)hidden, 0.8, 0.03);
    CHECK_NEAR((double)kept / (double)hidden, 0.1, 0.03);
    CHECK_OK(ctx, peft_dataset_seek(data, 0, 0));
    CHECK_OK(ctx, peft_dataset_next(data, &batch));
    CHECK(memcmp(before, batch.input_ids, (size_t)rows * sizeof *before) == 0 &&
          memcmp(labels, batch.labels, (size_t)rows * sizeof *labels) == 0);
    free(before);
    peft_dataset_destroy(data);
    /* Even one token is learnt in every epoch. */
    data = must_open(ctx, tokenizer, "{\"text\": \"x\"}", "a.jsonl", &options, 0, NULL, &batch);
    for (int epoch = 0; epoch < 20; epoch++) {
        CHECK(batch.rows == 3 && batch.labels[1] != PEFT_IGNORE_LABEL);
        CHECK(peft_dataset_next(data, &batch) == PEFT_END);
        CHECK_OK(ctx, peft_dataset_next(data, &batch));
    }
    peft_dataset_destroy(data);
}

static void bad_rows(peft_context *ctx, const peft_tokenizer *tokenizer) {
    static const struct {
        int32_t format;
        const char *name, *text, *says;
    } FILES[] = {
        {PEFT_DATA_CLASSIFICATION, "b.csv", "text,label\nx,0\ny,5\n", "b.csv:3: label 5 is out of range"},
        {PEFT_DATA_CLASSIFICATION, "b.csv", "text,label\nx,a\n ,b\n", "b.csv:3: \"text\" is empty"},
        {PEFT_DATA_CLASSIFICATION, "b.csv", "text,label\nx,a\ny,\"b\n", "b.csv:3"},
        {PEFT_DATA_CLASSIFICATION, "b.csv", "text,label\nx,a\ny\n", "b.csv:3"},
        {PEFT_DATA_CLASSIFICATION, "b.csv", "words,label\nx,a\n", "words, label"},
        {PEFT_DATA_CLASSIFICATION, "b.csv", "text,kind\nx,a\n", "label_key"},
        {PEFT_DATA_CLASSIFICATION, "b.jsonl", "{\"text\": \"x\", \"label\": 0}\n{\"text\": \"x\"}",
         "b.jsonl:2: \"label\" is missing"},
        {PEFT_DATA_CLASSIFICATION, "b.jsonl", "{\"text\": \"x\", \"label\": 0}\n{\"text\": \"x\", \"label\": [1]}",
         "b.jsonl:2: a label is"},
        {PEFT_DATA_CLASSIFICATION, "b.jsonl", "{\"text\": \"x\", \"label\": 0}\n{\"text\": \"\xff\", \"label\": 1}",
         "b.jsonl:2"},
        {PEFT_DATA_REGRESSION, "b.csv", "text,score\nx,1\ny,high\n", "b.csv:3: \"score\" is a number, found \"high\""},
        {PEFT_DATA_MULTI_LABEL, "b.jsonl", "{\"text\": \"x\", \"labels\": [0, 2]}", "b.jsonl:1"},
        {PEFT_DATA_TOKEN_CLS, "b.jsonl",
         "{\"tokens\": [\"x\"], \"ner_tags\": [0]}\n{\"tokens\": [\"x\"], \"ner_tags\": [0, 1]}", "b.jsonl:2"},
        {PEFT_DATA_TOKEN_CLS, "b.conll", "x O\n\ny\nz O\n\nx O\n", "b.conll:3: a line has a word and its tag"},
    };
    for (size_t i = 0; i < PEFT_COUNT(FILES); i++) {
        peft_dataset_options options = options_of(FILES[i].format);
        peft_dataset *data = NULL;
        const peft_status status = open_with(ctx, tokenizer, FILES[i].text, FILES[i].name, &options,
                                             FILES[i].format == PEFT_DATA_REGRESSION ? 1 : 2, NULL, &data);
        if (!CHECK(status == PEFT_E_FORMAT) || !CHECK(strstr(peft_context_error(ctx), FILES[i].says) != NULL))
            fprintf(stderr, "    case %zu: %s\n", i, peft_context_error(ctx));
        peft_dataset_destroy(data);
    }
    peft_dataset_options options = options_of(PEFT_DATA_CLASSIFICATION);
    options.on_bad_row = PEFT_BAD_ROW_SKIP;
    peft_batch batch;
    peft_dataset *data = must_open(ctx, tokenizer,
                                   "{\"label\": 1}\n{\"text\": \"x\", \"label\": 0}\nnot json\n{\"text\": \"x\", "
                                   "\"label\": 7}\n{\"text\": \"y\", \"label\": 1}\n",
                                   "s.jsonl", &options, 2, NULL, &batch);
    CHECK(batch.sequences == 2);
    CHECK(strstr(peft_dataset_report(data), "3 rows are malformed (first: line 1") != NULL);
    peft_dataset_destroy(data);
    options.format = PEFT_DATA_TOKEN_CLS;
    data = must_open(ctx, tokenizer, "x O\n\ny\nz O\n\nx O\n", "s.conll", &options, 2, NULL, &batch);
    CHECK(batch.sequences == 2);
    peft_dataset_destroy(data);
    options = options_of(PEFT_DATA_CLASSIFICATION);
    static const char *const GIVEN[] = {"billing", "shipping"};
    options.label_names = GIVEN;
    options.label_name_count = 2;
    CHECK_STATUS(ctx, open_with(ctx, tokenizer, "text,label\nx,biling\n", "n.csv", &options, 2, NULL, &data),
                 PEFT_E_FORMAT);
    CHECK(strstr(peft_context_error(ctx), "did you mean \"billing\"") != NULL);
    options = options_of(PEFT_DATA_CLASSIFICATION);
    CHECK_STATUS(ctx, open_with(ctx, tokenizer, "text,label\nx,a\ny,b\nz,c\n", "n.csv", &options, 2, NULL, &data),
                 PEFT_E_MISMATCH);
    CHECK(strstr(peft_context_error(ctx), "num_labels 3") != NULL);
}

int main(void) {
    peft_context *ctx = test_context();
    peft_tokenizer *wordpiece = open_tokenizer(ctx, "text/wordpiece-uncased/tokenizer.json");
    peft_tokenizer *roberta = open_tokenizer(ctx, "text/bbpe-roberta/tokenizer.json");
    names(ctx, wordpiece);
    pairs(ctx, wordpiece);
    targets(ctx, wordpiece);
    words(ctx, wordpiece, "u");
    words(ctx, roberta, NULL);
    masked(ctx, wordpiece);
    bad_rows(ctx, wordpiece);
    peft_tokenizer_close(wordpiece);
    peft_tokenizer_close(roberta);
    uint64_t bytes = 0;
    peft_context_memory(ctx, &bytes, NULL, NULL);
    peft_context_destroy(ctx);
    return check_summary();
}
