/* Measures against scikit-learn, SciPy, seqeval and SQuAD's rules (tests/data/tasks/make_metrics.py); wrong input;
 * bootstrap. */
#include "check.h"
#include "format/json.h"
#include "peft/metrics.h"

static double number(const json_t *object, const char *key) {
    return json_number_value(json_object_get(object, key));
}

static int32_t *ints(const json_t *list) {
    int32_t *values = malloc((json_array_size(list) + 1) * sizeof *values);
    for (size_t i = 0; i < json_array_size(list); i++) values[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return values;
}

static float *floats(const json_t *list) {
    float *values = malloc((json_array_size(list) + 1) * sizeof *values);
    for (size_t i = 0; i < json_array_size(list); i++) values[i] = (float)json_number_value(json_array_get(list, i));
    return values;
}

static void classes(peft_context *ctx, const json_t *cases) {
    CHECK(json_array_size(cases) >= 5);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i), *matrix = json_object_get(one, "confusion");
        const uint32_t count = (uint32_t)number(one, "classes");
        int32_t *labels = ints(json_object_get(one, "labels")),
                *predictions = ints(json_object_get(one, "predictions"));
        peft_class_metrics got = {.struct_size = sizeof got};
        int64_t confusion[64];
        double f1[8];
        CHECK_OK(ctx,
                 peft_metric_classes(ctx, labels, predictions, (int64_t)json_array_size(json_object_get(one, "labels")),
                                     count, &got, confusion, f1));
        CHECK(got.count == (int64_t)number(one, "count"));
        CHECK_NEAR(got.accuracy, number(one, "accuracy"), 1e-12);
        CHECK_NEAR(got.macro_precision, number(one, "macro_precision"), 1e-12);
        CHECK_NEAR(got.macro_recall, number(one, "macro_recall"), 1e-12);
        CHECK_NEAR(got.macro_f1, number(one, "macro_f1"), 1e-12);
        CHECK_NEAR(got.micro_f1, number(one, "micro_f1"), 1e-12);
        CHECK_NEAR(got.weighted_f1, number(one, "weighted_f1"), 1e-12);
        CHECK_NEAR(got.matthews, number(one, "matthews"), 1e-12);
        for (uint32_t c = 0; c < count * count; c++)
            CHECK(confusion[c] == json_integer_value(json_array_get(matrix, c)));
        for (uint32_t c = 0; c < count; c++)
            CHECK_NEAR(f1[c], json_number_value(json_array_get(json_object_get(one, "f1"), c)), 1e-12);
        free(labels);
        free(predictions);
    }
}

static void multi_label(peft_context *ctx, const json_t *cases) {
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i);
        const uint32_t count = (uint32_t)number(one, "classes");
        float *targets = floats(json_object_get(one, "targets")), *logits = floats(json_object_get(one, "logits"));
        peft_class_metrics got = {.struct_size = sizeof got};
        const int64_t examples = (int64_t)json_array_size(json_object_get(one, "targets")) / count;
        CHECK_OK(ctx, peft_metric_multi_label(ctx, targets, logits, examples, count, 0.0f, &got));
        CHECK_NEAR(got.accuracy, number(one, "accuracy"), 1e-12);
        CHECK_NEAR(got.macro_f1, number(one, "macro_f1"), 1e-12);
        CHECK_NEAR(got.micro_f1, number(one, "micro_f1"), 1e-12);
        CHECK_NEAR(got.weighted_f1, number(one, "weighted_f1"), 1e-12);
        free(targets);
        free(logits);
    }
}

static void values(peft_context *ctx, const json_t *cases) {
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i);
        float *targets = floats(json_object_get(one, "targets")),
              *predictions = floats(json_object_get(one, "predictions"));
        peft_value_metrics got = {.struct_size = sizeof got};
        CHECK_OK(ctx, peft_metric_values(ctx, targets, predictions,
                                         (int64_t)json_array_size(json_object_get(one, "targets")), &got));
        CHECK_NEAR(got.pearson, number(one, "pearson"), 1e-9);
        CHECK_NEAR(got.spearman, number(one, "spearman"), 1e-9);
        CHECK_NEAR(got.mse, number(one, "mse"), 1e-9);
        CHECK_NEAR(got.mae, number(one, "mae"), 1e-9);
        CHECK_NEAR(got.r2, number(one, "r2"), 1e-9);
        free(targets);
        free(predictions);
    }
}

static void entities(peft_context *ctx, const json_t *cases) {
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i), *gold = json_object_get(one, "labels"),
                     *guess = json_object_get(one, "predictions");
        const json_t *list = json_object_get(one, "names");
        const char *names[16] = {0};
        for (size_t c = 0; c < json_array_size(list); c++) names[c] = json_string_value(json_array_get(list, c));
        const size_t sequences = json_array_size(gold);
        /* Every tag is followed by a row that does not count, as second parts of words are. */
        int32_t labels[2048], predictions[2048], offsets[64] = {0};
        int32_t rows = 0;
        for (size_t s = 0; s < sequences; s++) {
            for (size_t t = 0; t < json_array_size(json_array_get(gold, s)); t++) {
                labels[rows] = (int32_t)json_integer_value(json_array_get(json_array_get(gold, s), t));
                predictions[rows++] = (int32_t)json_integer_value(json_array_get(json_array_get(guess, s), t));
                labels[rows] = PEFT_IGNORE_LABEL;
                predictions[rows++] = 0;
            }
            offsets[s + 1] = rows;
        }
        peft_entity_metrics got = {.struct_size = sizeof got};
        CHECK_OK(ctx, peft_metric_entities(ctx, labels, predictions, offsets, (int64_t)sequences, names,
                                           (uint32_t)json_array_size(list), &got));
        CHECK_NEAR(got.precision, number(one, "precision"), 1e-12);
        CHECK_NEAR(got.recall, number(one, "recall"), 1e-12);
        CHECK_NEAR(got.f1, number(one, "f1"), 1e-12);
        CHECK(got.entities > 0 && got.correct <= got.entities && got.accuracy > 0.0);
    }
}

static void answers(peft_context *ctx, const json_t *cases) {
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i), *list = json_object_get(one, "answers");
        const char *right[8] = {0};
        for (size_t a = 0; a < json_array_size(list); a++) right[a] = json_string_value(json_array_get(list, a));
        double exact = -1.0, f1 = -1.0;
        CHECK_OK(ctx, peft_metric_answer(ctx, json_string_value(json_object_get(one, "prediction")), right,
                                         (uint32_t)json_array_size(list), &exact, &f1));
        if (!CHECK(exact == number(one, "exact"))) fprintf(stderr, "    case %zu\n", i);
        CHECK_NEAR(f1, number(one, "f1"), 1e-12);
    }
}

static void wrong_input(peft_context *ctx) {
    const int32_t labels[] = {0, 2, -100}, none[] = {-100, -100, -100};
    const float numbers[] = {1.0f, NAN};
    const char *names[] = {"O", NULL};
    const int32_t offsets[] = {0, 3}, falling[] = {3, 0};
    peft_class_metrics classes = {.struct_size = sizeof classes};
    peft_value_metrics value = {.struct_size = sizeof value};
    peft_entity_metrics entity = {.struct_size = sizeof entity};
    double exact, f1;
    CHECK_STATUS(ctx, peft_metric_classes(ctx, labels, labels, 3, 2, &classes, NULL, NULL), PEFT_E_ARG);
    CHECK(strstr(peft_context_error(ctx), "element 1") != NULL);
    CHECK_STATUS(ctx, peft_metric_classes(ctx, none, labels, 3, 2, &classes, NULL, NULL), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_metric_classes(ctx, labels, labels, 0, 3, &classes, NULL, NULL), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_metric_classes(ctx, labels, labels, 3, 3, NULL, NULL, NULL), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_metric_values(ctx, numbers, numbers, 2, &value), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_metric_values(ctx, numbers, numbers, 1, &value), PEFT_OK);
    CHECK(isnan(value.pearson) && value.mse == 0.0);
    CHECK_STATUS(ctx, peft_metric_entities(ctx, labels, labels, offsets, 1, names, 2, &entity), PEFT_E_ARG);
    names[1] = "B-X";
    CHECK_STATUS(ctx, peft_metric_entities(ctx, labels, labels, offsets, 1, names, 2, &entity), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_metric_entities(ctx, labels, labels, falling, 1, names, 2, &entity), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_metric_answer(ctx, "\xff", NULL, 0, &exact, &f1), PEFT_E_FORMAT);
    CHECK_STATUS(ctx, peft_metric_answer(ctx, "x", NULL, 1, &exact, &f1), PEFT_E_ARG);
}

typedef struct right_or_wrong {
    const uint8_t *right;
} right_or_wrong;

static double share(void *user, const int64_t *indices, int64_t count) {
    const right_or_wrong *answers = user;
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++) sum += answers->right[indices[i]];
    return sum / (double)count;
}

static void bootstrap(peft_context *ctx) {
    uint8_t right[400];
    for (int i = 0; i < 400; i++) right[i] = i % 4 != 0;
    right_or_wrong answers = {right};
    peft_interval a = {.struct_size = sizeof a}, b = a, c = a;
    CHECK_OK(ctx, peft_metric_bootstrap(ctx, share, &answers, 400, 2000, 0.95, 5, &a));
    CHECK_OK(ctx, peft_metric_bootstrap(ctx, share, &answers, 400, 2000, 0.95, 5, &b));
    CHECK_OK(ctx, peft_metric_bootstrap(ctx, share, &answers, 400, 2000, 0.95, 6, &c));
    CHECK(a.value == 0.75 && a.low == b.low && a.high == b.high && a.deviation == b.deviation);
    CHECK(a.deviation != c.deviation);
    /* A share of 0.75 of 400: deviation sqrt(0.75 * 0.25 / 400) = 0.02165, the interval 1.96 of them to each side. */
    CHECK_NEAR(a.deviation, 0.02165, 0.001);
    CHECK_NEAR(a.low, 0.75 - 1.96 * 0.02165, 0.006);
    CHECK_NEAR(a.high, 0.75 + 1.96 * 0.02165, 0.006);
    CHECK_STATUS(ctx, peft_metric_bootstrap(ctx, share, &answers, 0, 2000, 0.95, 5, &a), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_metric_bootstrap(ctx, share, &answers, 10, 2000, 1.0, 5, &a), PEFT_E_ARG);
    const float logits[] = {0.0f, 2.0f, 2.0f, -1.0f, -3.0f, -2.0f};
    int32_t best[2];
    peft_argmax(logits, 2, 3, best);
    CHECK(best[0] == 1 && best[1] == 0);
}

int main(void) {
    peft_context *ctx = NULL;
    if (peft_context_create(NULL, &ctx) < 0) return 1;
    char path[1024];
    const char *root = getenv("PEFT_TEST_DATA");
    (void)snprintf(path, sizeof path, "%s/tasks/metrics.json", root != NULL ? root : "tests/data");
    peft__json *cases = NULL;
    CHECK_OK(ctx, peft__json_load_file(ctx, path, 0, &cases));
    if (cases == NULL) return check_summary();
    classes(ctx, json_object_get(cases, "classes"));
    multi_label(ctx, json_object_get(cases, "multi_label"));
    values(ctx, json_object_get(cases, "values"));
    entities(ctx, json_object_get(cases, "entities"));
    answers(ctx, json_object_get(cases, "answers"));
    wrong_input(ctx);
    bootstrap(ctx);
    json_decref(cases);
    peft_context_destroy(ctx);
    return check_summary();
}
