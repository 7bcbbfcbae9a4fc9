/* Questions with answers to choose among: what batches hold for both kinds of models, rank classification, T-Few's
 * losses on a causal model, and rows that are wrong. */
#include <math.h>

#include "check.h"
#include "peft/peft.h"

static const char rows[] =
    "{\"input\": \"the cat sat on the\", \"choices\": [\"mat\", \"moon and the stars\", \"hat\"], "
    "\"answer\": 1}\n"
    "{\"input\": \"two and two\", \"choices\": [\"four\", \"five\"], \"answer\": \"five\"}\n"
    "{\"input\": \"say it\", \"choices\": [\"no\", \"no\", \"3\", \"1\"], \"answer\": 3}\n";
static const char classes[] = "text,kind\n"
                              "\"a fine film, {really}\",good\n"
                              "dull,bad\n"
                              "so so,bad\n";
static const int32_t right[] = {1, 1, 3};

static peft_context *ctx;
static peft_model *t5, *llama;

static peft_model *load(const char *name) {
    char path[4096];
    peft_model *model = NULL;
    snprintf(path, sizeof path, "%s/models/%s", getenv("PEFT_TEST_DATA"), name);
    CHECK_OK(ctx, peft_model_load(ctx, path, NULL, &model));
    return model;
}

static peft_dataset_options options_of(uint32_t right_only) {
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    options.format = PEFT_DATA_CHOICES;
    options.batch_size = 2;
    options.shuffle = 0;
    options.right_only = right_only;
    return options;
}

static peft_dataset *open_text(const peft_model *model, const char *text, const char *name,
                               const peft_dataset_options *options) {
    peft_dataset *data = NULL;
    CHECK_OK(ctx, peft_dataset_open_memory(ctx, model, text, strlen(text), name, options, &data));
    return data;
}

static peft_session *session_of(peft_model *model, peft_adapter *adapter, int32_t loss) {
    peft_session_options options;
    peft_session *session = NULL;
    peft_session_options_init(&options);
    options.loss = loss;
    CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, adapter != NULL ? 1 : 0, &options, &session));
    return session;
}

/* The encoder's stream has each question once. */
static void test_encoder_decoder(void) {
    const peft_dataset_options options = options_of(0);
    peft_dataset *data = open_text(t5, rows, "rows.jsonl", &options);
    if (data == NULL) return;
    CHECK(peft_dataset_size(data) == 3 && strstr(peft_dataset_report(data), "choices, 3 rows") != NULL);
    static const int32_t answers[] = {3, 2, 4};
    int64_t question = 0;
    peft_batch batch;
    while (peft_dataset_next(data, &batch) == PEFT_OK) {
        int64_t answer = 0;
        CHECK(batch.questions == 0 && batch.labels == NULL);
        for (int64_t q = 0; q < batch.sequences; q++, question++) {
            CHECK(batch.sequence_labels[q] == right[question]);
            for (int32_t c = 0; c < answers[question]; c++, answer++) {
                const int32_t first = batch.decoder_offsets[answer], end = batch.decoder_offsets[answer + 1];
                CHECK(batch.decoder_source[answer] == q);
                CHECK(batch.decoder_input_ids[first] == 0 && batch.decoder_labels[end - 1] == 1);
                for (int32_t r = first + 1; r < end; r++)
                    CHECK(batch.decoder_input_ids[r] == batch.decoder_labels[r - 1]);
            }
        }
        CHECK(batch.decoder_sequences == answer);
    }
    CHECK(question == 3);
    peft_dataset_destroy(data);
}

/* The right answers alone are an ordinary batch of questions and answers. */
static void test_right_only(void) {
    for (int causal = 0; causal < 2; causal++) {
        peft_model *model = causal ? llama : t5;
        const peft_dataset_options options = options_of(1), every = options_of(0);
        peft_dataset *data = open_text(model, rows, "rows.jsonl", &options);
        peft_dataset *all = open_text(model, rows, "rows.jsonl", &every);
        peft_session *session = session_of(model, NULL, PEFT_LOSS_TASK);
        peft_batch batch;
        double nll[8], loss = 0.0, count = 0.0;
        int64_t tokens[8], scored = 0;
        CHECK_OK(ctx, peft_dataset_next(data, &batch));
        CHECK(batch.sequences == 2 && batch.sequence_labels == NULL && batch.questions == 0);
        CHECK(causal ? batch.decoder_sequences == 0 : batch.decoder_sequences == 2);
        CHECK_OK(ctx, peft_session_eval(session, &batch, &loss, &count));
        CHECK_OK(ctx, peft_dataset_next(all, &batch));
        CHECK_OK(ctx, peft_session_score(session, &batch, nll, tokens, 8, &scored));
        CHECK(scored == 5); /* answers 1 of 3, and 1 of 2 */
        CHECK(count == (double)(tokens[1] + tokens[4]));
        CHECK(fabs(loss - (nll[1] + nll[4]) / count) < 1e-5);
        peft_dataset_destroy(data);
        peft_dataset_destroy(all);
        peft_session_destroy(session);
    }
}

/* Rank by hand from scores; of equal answers the first. */
static void test_rank(void) {
    for (int causal = 0; causal < 2; causal++) {
        peft_model *model = causal ? llama : t5;
        peft_dataset_options options = options_of(0);
        options.batch_size = 3;
        peft_dataset *data = open_text(model, rows, "rows.jsonl", &options);
        peft_session *session = session_of(model, NULL, PEFT_LOSS_TASK);
        peft_batch batch;
        double nll[9], losses[3];
        int64_t tokens[9], count = 0;
        int32_t best[3], sums[3];
        CHECK_OK(ctx, peft_dataset_next(data, &batch));
        CHECK_OK(ctx, peft_session_score(session, &batch, nll, tokens, 9, NULL));
        CHECK_OK(ctx, peft_session_rank(session, &batch, 1.0f, best, losses, 3, &count));
        CHECK_OK(ctx, peft_session_rank(session, &batch, 0.0f, sums, NULL, 3, NULL));
        CHECK(count == 3);
        static const int first[] = {0, 3, 5, 9};
        for (int q = 0; q < 3; q++) {
            int mean = first[q], sum = first[q];
            double total = 0.0;
            for (int c = first[q]; c < first[q + 1]; c++) {
                total += exp(-nll[c] / (double)tokens[c]);
                if (nll[c] / (double)tokens[c] < nll[mean] / (double)tokens[mean]) mean = c;
                if (nll[c] < nll[sum]) sum = c;
            }
            CHECK(best[q] == mean - first[q] && sums[q] == sum - first[q]);
            const int answer = first[q] + right[q];
            CHECK(fabs(losses[q] - (nll[answer] / (double)tokens[answer] + log(total))) < 1e-9);
        }
        CHECK(nll[5] == nll[6]); /* the same words */
        CHECK_STATUS(ctx, peft_session_rank(session, &batch, 1.0f, best, NULL, 2, NULL), PEFT_E_LIMIT);
        CHECK_STATUS(ctx, peft_session_rank(session, &batch, NAN, best, NULL, 3, NULL), PEFT_E_ARG);
        batch.sequence_labels = NULL;
        CHECK_OK(ctx, peft_session_rank(session, &batch, 1.0f, sums, losses, 3, NULL));
        CHECK(memcmp(best, sums, sizeof best) == 0 && isnan(losses[0]));
        peft_dataset_destroy(data);
        peft_session_destroy(session);
    }
}

/* The losses on a causal model are those made by hand from -log p of each token of each answer. */
static void test_causal_losses(void) {
    static const char config[] =
        "{\"peft_type\": \"IA3\", \"target_modules\": [\"k_proj\", \"v_proj\", \"down_proj\"], "
        "\"feedforward_modules\": [\"down_proj\"], \"task_type\": \"CAUSAL_LM\"}";
    peft_dataset_options options = options_of(0);
    options.batch_size = 3;
    peft_dataset *data = open_text(llama, rows, "rows.jsonl", &options);
    peft_adapter *adapter = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, llama, config, 1, &adapter));
    peft_session *session = session_of(llama, adapter, PEFT_LOSS_TFEW);
    peft_batch batch;
    double losses[3], nll[9], loss = 0.0, count = 0.0, lm = 0.0, unlikely = 0.0, lm_tokens = 0.0, wrong = 0.0;
    int64_t tokens[9], longest = 0;
    CHECK_OK(ctx, peft_dataset_next(data, &batch));
    CHECK(batch.questions == 3 && batch.sequences == 9);
    CHECK_OK(ctx, peft_session_eval(session, &batch, &loss, &count));
    CHECK_OK(ctx, peft_session_rank(session, &batch, 1.0f, NULL, losses, 3, NULL));
    CHECK_OK(ctx, peft_session_score(session, &batch, nll, tokens, 9, NULL));
    for (int c = 0; c < 9; c++) longest = tokens[c] > longest ? tokens[c] : longest;
    for (int c = 0, q = 0; c < 9; c++) {
        while (c >= batch.choice_offsets[q + 1]) q++;
        if (c - batch.choice_offsets[q] == batch.sequence_labels[q]) {
            lm += nll[c];
            lm_tokens += (double)tokens[c];
            unlikely -= (double)longest * log(1.01);
            continue;
        }
        wrong += (double)tokens[c];
        unlikely -= (double)(longest - tokens[c]) * log(1.01);
        /* One token after another: all labels but one taken away. */
        for (int32_t r = batch.offsets[c] + 1; r < batch.offsets[c + 1]; r++) {
            if (batch.labels[r] == PEFT_IGNORE_LABEL) continue;
            int32_t labels[512];
            peft_batch one;
            double token = 0.0;
            const int32_t offsets[2] = {0, batch.offsets[c + 1] - batch.offsets[c]};
            for (int32_t i = 0; i < offsets[1]; i++) labels[i] = PEFT_IGNORE_LABEL;
            labels[r - batch.offsets[c]] = batch.labels[r];
            peft_batch_init(&one);
            one.rows = offsets[1];
            one.sequences = 1;
            one.offsets = offsets;
            one.input_ids = batch.input_ids + batch.offsets[c];
            one.labels = labels;
            CHECK_OK(ctx, peft_session_score(session, &one, &token, NULL, 1, NULL));
            unlikely -= log(1.0 - exp(-token) + 0.01);
        }
    }
    const double expected = lm / lm_tokens + unlikely / wrong + (losses[0] + losses[1] + losses[2]) / 3.0;
    CHECK(count == 3.0 && fabs(loss - expected) < 1e-4);
    /* A few steps learn it. */
    peft_optimizer_options rule;
    peft_optimizer *optimizer = NULL;
    peft_optimizer_options_init(&rule);
    rule.kind = PEFT_OPTIMIZER_ADAFACTOR;
    rule.adafactor_scale_parameter = 1;
    rule.lr = 0.05f;
    CHECK_OK(ctx, peft_optimizer_create(ctx, adapter, &rule, &optimizer));
    double last = loss;
    for (int step = 0; step < 8; step++) {
        CHECK_OK(ctx, peft_session_forward(session, &batch, &last));
        CHECK_OK(ctx, peft_session_backward(session, 1.0f));
        CHECK_OK(ctx, peft_optimizer_step(optimizer, session, NULL));
    }
    CHECK(last < loss);
    peft_optimizer_destroy(optimizer);
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
    peft_dataset_destroy(data);
}

/* Rows with a class and verbalizers. */
static void test_verbalizers(void) {
    static const char *const words[] = {"bad", "good"};
    peft_dataset_options options = options_of(0);
    options.label_key = "kind";
    options.input_template = "Review: {text}\nGood or bad?";
    options.verbalizers = words;
    options.verbalizer_count = 2;
    options.batch_size = 3;
    peft_dataset *data = open_text(t5, classes, "rows.csv", &options);
    peft_batch batch;
    CHECK_OK(ctx, peft_dataset_next(data, &batch));
    CHECK(batch.sequences == 3 && batch.decoder_sequences == 6);
    CHECK(batch.sequence_labels[0] == 1 && batch.sequence_labels[1] == 0 && batch.sequence_labels[2] == 0);
    CHECK(peft_dataset_label_count(data) == 2 && strcmp(peft_dataset_label_name(data, 1), "good") == 0);
    CHECK(peft_dataset_label_examples(data, 0) == 2);
    peft_dataset_destroy(data);
    /* A class that the file lacks would move the others. */
    CHECK_STATUS(ctx, peft_dataset_open_memory(ctx, t5, "text,kind\nx,good\n", 17, "rows.csv", &options, &data),
                 PEFT_E_FORMAT);
    CHECK(strstr(peft_context_error(ctx), "label_names") != NULL);
    options.label_names = words;
    options.label_name_count = 2;
    data = open_text(t5, "text,kind\nx,good\n", "rows.csv", &options);
    CHECK_OK(ctx, peft_dataset_next(data, &batch));
    CHECK(batch.sequence_labels[0] == 1);
    peft_dataset_destroy(data);
    /* Answers that the row brings in fields. */
    static const char *const fields[] = {"{choice1}", "{choice2}"};
    options = options_of(0);
    options.verbalizers = fields;
    options.verbalizer_count = 2;
    static const char copa[] =
        "{\"premise\": \"it rained\", \"choice1\": \"wet\", \"choice2\": \"dry as dust\", \"label\": 0}\n";
    options.input_template = "{premise}, so it is";
    data = open_text(llama, copa, "rows.jsonl", &options);
    CHECK_OK(ctx, peft_dataset_next(data, &batch));
    CHECK(batch.questions == 1 && batch.sequences == 2 && batch.sequence_labels[0] == 0);
    CHECK(batch.offsets[2] - batch.offsets[1] > batch.offsets[1]);
    peft_dataset_destroy(data);
    options.verbalizer_count = 0;
    options.verbalizers = NULL;
    data = open_text(llama, copa, "rows.jsonl", &options); /* found by the names of the fields */
    CHECK_OK(ctx, peft_dataset_next(data, &batch));
    CHECK(batch.sequences == 2);
    peft_dataset_destroy(data);
    options = options_of(0);
    data = open_text(t5, "input,choices,answer\nx,a|b c|d,b c\n", "rows.csv", &options);
    CHECK_OK(ctx, peft_dataset_next(data, &batch));
    CHECK(batch.decoder_sequences == 3 && batch.sequence_labels[0] == 1);
    peft_dataset_destroy(data);
}

/* A question that is too long loses its beginning, never the answer. */
static void test_cut(void) {
    static const char text[] = "{\"input\": \"one two three four five six seven eight nine ten eleven twelve\", "
                               "\"choices\": [\"yes\", \"no\"], \"answer\": 0}\n";
    for (int causal = 0; causal < 2; causal++) {
        peft_model *model = causal ? llama : t5;
        peft_dataset_options options = options_of(0);
        peft_batch whole, cut;
        peft_dataset *data = open_text(model, text, "rows.jsonl", &options);
        options.max_length = 12;
        peft_dataset *shorter = open_text(model, text, "rows.jsonl", &options);
        CHECK_OK(ctx, peft_dataset_next(data, &whole));
        CHECK_OK(ctx, peft_dataset_next(shorter, &cut));
        CHECK(strstr(peft_dataset_report(shorter), "cut: 1 examples") != NULL);
        const int32_t before = whole.offsets[1], after = cut.offsets[1];
        CHECK(before > 12 && after == 12);
        CHECK(memcmp(whole.input_ids + before - 10, cut.input_ids + after - 10, 10 * sizeof(int32_t)) == 0);
        if (causal)
            CHECK(memcmp(whole.labels + before - 10, cut.labels + after - 10, 10 * sizeof(int32_t)) == 0);
        peft_dataset_destroy(data);
        peft_dataset_destroy(shorter);
    }
}

static void test_bad_rows(void) {
    static const struct {
        const char *row, *says;
    } bad[] = {
        {"{\"input\": \"x\", \"choices\": [\"a\", \"b\"], \"answer\": 2}", "the row has 2 answers"},
        {"{\"input\": \"x\", \"choices\": [\"a\", \"b\"], \"answer\": -1}", "the row has 2 answers"},
        {"{\"input\": \"x\", \"choices\": [\"a\", \"b\"], \"answer\": \"c\"}", "its text"},
        {"{\"input\": \"x\", \"choices\": [\"a\", \"b\"], \"answer\": null}", "is missing"},
        {"{\"input\": \"x\", \"choices\": [\"a\", 3], \"answer\": 0}", "answer 2"},
        {"{\"input\": \"x\", \"choices\": [\"a\", \" \"], \"answer\": 0}", "answer 2 is empty"},
        {"{\"input\": \"x\", \"choices\": [\"a\"], \"answer\": 0}", "two answers or more"},
        {"{\"input\": \"x\", \"choices\": {}, \"answer\": 0}", "a list of texts"},
        {"{\"input\": \"x\", \"answer\": 0}", "no list of answers"},
        {"{\"input\": \" \", \"choices\": [\"a\", \"b\"], \"answer\": 0}", "the question is empty"},
        {"{\"choices\": [\"a\", \"b\"], \"answer\": 0}", "prompt_key"},
        {"{\"input\": \"x\", \"choices\": [\"a\", \"b\"]}", "label_key"},
    };
    const peft_dataset_options options = options_of(0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        peft_dataset *data = NULL;
        const peft_status status =
            peft_dataset_open_memory(ctx, t5, bad[i].row, strlen(bad[i].row), "rows.jsonl", &options, &data);
        CHECK_STATUS(ctx, status, PEFT_E_FORMAT);
        const char *error = peft_context_error(ctx);
        if (!CHECK(strstr(error, "rows.jsonl:1") != NULL && strstr(error, bad[i].says) != NULL))
            fprintf(stderr, "    %s\n", error);
    }
}

int main(void) {
    CHECK(peft_context_create(NULL, &ctx) == PEFT_OK);
    t5 = load("t5-v11");
    llama = load("llama-gqa");
    if (t5 == NULL || llama == NULL) return check_summary() + 1;
    test_encoder_decoder();
    test_right_only();
    test_rank();
    test_causal_losses();
    test_verbalizers();
    test_cut();
    test_bad_rows();
    peft_model_destroy(t5);
    peft_model_destroy(llama);
    peft_context_destroy(ctx);
    return check_summary();
}
