/* 06_classify.c: learn to sort support tickets: a CSV in, a metric and an adapter out.
 *
 *   06_classify MODEL TICKETS.csv OUTPUT-FOLDER [CLASSES] [EPOCHS]
 *
 * MODEL is a Hugging Face folder of an encoder (BERT, RoBERTa, DistilBERT, ...). TICKETS.csv has the columns "text" and "label"; labels are names
 * or numbers. One row in five is kept for judging. CLASSES is how many there are (default 2).
 */
#include <peft/peft.h>
#include <stdio.h>
#include <stdlib.h>

#define TRY(call)                                                                                                 \
    do {                                                                                                          \
        if ((call) < 0) {                                                                                         \
            fprintf(stderr, "%s\n", peft_context_error(context));                                                 \
            goto done;                                                                                            \
        }                                                                                                         \
    } while (0)

/* What was asked and answered, example by example. */
typedef struct answers {
    int32_t *right, *given;
    int64_t count;
} answers;

static peft_status answer_all(peft_session *session, peft_dataset *data, uint32_t classes, answers *out) {
    float *logits = malloc(64 * classes * sizeof *logits);
    peft_status status = logits != NULL ? peft_dataset_seek(data, 0, 0) : PEFT_E_NOMEM;
    out->count = 0;
    while (status >= 0) {
        peft_batch batch;
        status = peft_dataset_next(data, &batch);
        if (status != PEFT_OK) break;
        status = peft_session_logits(session, &batch, PEFT_LOGITS_ALL, logits, 64 * (int64_t)classes, NULL, NULL);
        if (status < 0) break;
        peft_argmax(logits, batch.sequences, classes, out->given + out->count);
        for (int64_t s = 0; s < batch.sequences; s++) out->right[out->count + s] = batch.sequence_labels[s];
        out->count += batch.sequences;
    }
    free(logits);
    return status == PEFT_END ? PEFT_OK : status;
}

/* The share of right answers of a sample: what the bootstrap draws again and again. */
static double accuracy(void *user, const int64_t *indices, int64_t count) {
    const answers *a = user;
    double right = 0.0;
    for (int64_t i = 0; i < count; i++) right += a->right[indices[i]] == a->given[indices[i]];
    return right / (double)count;
}

int main(int argc, char **argv) {
    if (argc < 4) return fprintf(stderr, "usage: %s MODEL TICKETS.csv OUTPUT-FOLDER [CLASSES] [EPOCHS]\n", argv[0]), 2;
    const uint32_t classes = argc > 4 ? (uint32_t)strtoul(argv[4], NULL, 10) : 2;
    const uint64_t epochs = argc > 5 ? strtoull(argv[5], NULL, 10) : 3;
    peft_context *context = NULL;
    peft_model *model = NULL;
    peft_adapter *adapter = NULL;
    peft_dataset *train = NULL, *test = NULL;
    peft_optimizer *optimizer = NULL;
    peft_session *session = NULL;
    answers found = {0};
    int64_t *confusion = NULL;
    int result = 1;
    if (peft_context_create(NULL, &context) < 0) return 1;

    /* The model gets a new output layer; the adapter trains it beside its own matrices and saves it with them. */
    peft_model_options how;
    peft_model_options_init(&how);
    how.task = PEFT_TASK_SEQ_CLS;
    how.num_labels = classes;
    TRY(peft_model_load(context, argv[1], &how, &model));
    TRY(peft_adapter_create(context, model,
                            "{\"peft_type\": \"LORA\", \"task_type\": \"SEQ_CLS\", \"r\": 8, \"lora_alpha\": 16, \"target_modules\": [\"query\", \"value\"]}",
                            42, &adapter));

    peft_dataset_options rows;
    peft_dataset_options_init(&rows);
    rows.format = PEFT_DATA_CLASSIFICATION;
    rows.batch_size = 16;
    rows.validation_fraction = 0.2;
    rows.part = PEFT_PART_TRAIN;
    TRY(peft_dataset_open(context, model, argv[2], &rows, &train));
    rows.part = PEFT_PART_VALIDATION;
    rows.batch_size = 64;
    rows.shuffle = 0;
    TRY(peft_dataset_open(context, model, argv[2], &rows, &test));
    printf("%s", peft_dataset_report(train)); /* how many examples each class has */

    /* Rare classes count as much as frequent ones. */
    float *weights = calloc(classes, sizeof *weights);
    if (weights == NULL) goto done;
    for (uint32_t c = 0; c < classes; c++) {
        const int64_t examples = peft_dataset_label_examples(train, c);
        weights[c] = examples > 0 ? (float)peft_dataset_size(train) / (float)((int64_t)classes * examples) : 1.0f;
    }
    peft_session_options step_options;
    peft_session_options_init(&step_options);
    step_options.class_weights = weights;
    const peft_status made = peft_session_create(context, model, &adapter, 1, &step_options, &session);
    free(weights);
    TRY(made);
    TRY(peft_optimizer_create(context, adapter, NULL, &optimizer));
    peft_schedule schedule;
    peft_schedule_init(&schedule);
    schedule.kind = PEFT_SCHEDULE_LINEAR;
    schedule.peak_lr = 2e-3;
    schedule.total_steps = epochs * (uint64_t)peft_dataset_batches(train);
    schedule.warmup_steps = schedule.total_steps / 10;

    uint64_t step = 0;
    for (uint64_t epoch = 0; epoch < epochs; epoch++) {
        peft_batch batch;
        peft_status status;
        double loss = 0.0, sum = 0.0;
        while ((status = peft_dataset_next(train, &batch)) == PEFT_OK) {
            peft_step_stats stats = {.struct_size = sizeof stats};
            TRY(peft_session_forward(session, &batch, &loss));
            TRY(peft_session_backward(session, 1.0f));
            peft_optimizer_set_lr(optimizer, (float)peft_schedule_lr(&schedule, step++));
            TRY(peft_optimizer_step(optimizer, session, &stats));
            sum += loss;
        }
        TRY(status);
        printf("epoch %llu: loss %.4f\n", (unsigned long long)epoch + 1, sum / (double)peft_dataset_batches(train));
    }

    const size_t size = (size_t)peft_dataset_size(test);
    found.right = malloc(size * sizeof *found.right);
    found.given = malloc(size * sizeof *found.given);
    confusion = malloc((size_t)classes * classes * sizeof *confusion);
    if (found.right == NULL || found.given == NULL || confusion == NULL) goto done;
    TRY(answer_all(session, test, classes, &found));
    peft_class_metrics scores = {.struct_size = sizeof scores};
    peft_interval interval = {.struct_size = sizeof interval};
    TRY(peft_metric_classes(context, found.right, found.given, found.count, classes, &scores, confusion, NULL));
    TRY(peft_metric_bootstrap(context, accuracy, &found, found.count, 1000, 0.95, 1, &interval));
    printf("accuracy %.3f (95 %% of samples: %.3f to %.3f), macro F1 %.3f, Matthews %.3f on %lld rows\n", scores.accuracy, interval.low, interval.high,
           scores.macro_f1, scores.matthews, (long long)scores.count);
    for (uint32_t a = 0; a < classes; a++)
        for (uint32_t b = 0; b < classes; b++)
            if (a != b && confusion[a * classes + b] > 0)
                printf("%lld of class \"%s\" were taken for \"%s\"\n", (long long)confusion[a * classes + b], peft_dataset_label_name(test, a),
                       peft_dataset_label_name(test, b));
    TRY(peft_adapter_save(adapter, argv[3]));
    printf("saved to %s\n", argv[3]);
    result = 0;
done:
    free(found.right);
    free(found.given);
    free(confusion);
    peft_session_destroy(session);
    peft_optimizer_destroy(optimizer);
    peft_dataset_destroy(train);
    peft_dataset_destroy(test);
    peft_adapter_destroy(adapter);
    peft_model_destroy(model);
    peft_context_destroy(context);
    return result;
}
