/* 09_few_shot.c: a few labelled examples, used in two ways: put in front of every question (in-context learning), or learnt by a LoRA adapter.
 *
 *   09_few_shot MODEL TRAIN.csv TEST.csv [SHOTS] [STEPS]
 *
 * MODEL is a causal language model; the files have columns text and label, negative or positive (examples/data/sentiment-train.csv and sentiment.csv). Shots cost
 * nothing to train and are read again and again; the adapter costs some steps once and leaves the question as short as it was.
 */
#include <peft/evaluate.h>
#include <peft/peft.h>
#include <peft/prompts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        if ((call) < 0) goto done;                                                                                     \
    } while (0)

static void report(const char *name, double accuracy, double low, double high, double trained, double asked) {
    printf("%-22s accuracy %.3f, 95 %% between %.3f and %.3f; %8.1e FLOPs to train, %8.1e a question\n", name, accuracy, low, high, trained, asked);
}

/* The prompt alone, and with solved examples before it. */
static peft_status in_context(peft_context *context, peft_model *model, const char *train, const char *test, long shots) {
    char text[4096], name[32];
    peft_prompts *prompts = NULL;
    peft_session *session = NULL;
    peft_prompt_result *result = NULL;
    peft_prompt_scores scores = {.struct_size = sizeof scores};
    peft_session_options options;
    peft_session_options_init(&options);
    options.inference = 1;
    snprintf(text, sizeof text,
             "data: {train: \"%s\", test: \"%s\"}\nverbalizers: {negative: negative, positive: positive}\n"
             "prompts:\n  - {name: shots, template: \"Review: {text}\\nSentiment:\", shots: %ld, seeds: [0]}\n",
             train, test, shots);
    peft_status status = peft_prompts_open_memory(context, text, strlen(text), "prompts", NULL, 0, &prompts);
    if (status >= 0) status = peft_session_create(context, model, NULL, 0, &options, &session);
    if (status >= 0) status = peft_prompts_run(prompts, session, 0, 0, NULL, &result);
    if (status >= 0) status = peft_prompt_result_get(result, &scores);
    snprintf(name, sizeof name, shots > 0 ? "%ld shots" : "the prompt alone", shots);
    if (status >= 0)
        report(name, scores.accuracy, scores.accuracy_low, scores.accuracy_high, 0.0, peft_session_flops(session) / (double)scores.count);
    peft_prompt_result_destroy(result);
    peft_session_destroy(session);
    peft_prompts_destroy(prompts);
    return status;
}

/* The same question and answers, the examples learnt. */
static peft_status learnt(peft_context *context, peft_model *model, const char *train, const char *test, long shots, uint64_t steps) {
    static const char *const labels[] = {"negative", "positive"}, *const answers[] = {" negative", " positive"};
    peft_dataset *lessons = NULL, *questions = NULL;
    peft_adapter *adapter = NULL;
    peft_optimizer *optimizer = NULL;
    peft_session *session = NULL;
    peft_evaluation *evaluation = NULL;
    peft_interval accuracy = {.struct_size = sizeof accuracy};
    peft_dataset_options wanted;
    peft_dataset_options_init(&wanted);
    wanted.format = PEFT_DATA_CHOICES;
    wanted.input_template = "Review: {text}\nSentiment:";
    wanted.verbalizers = answers;
    wanted.verbalizer_count = 2;
    wanted.label_names = labels;
    wanted.label_name_count = 2;
    wanted.batch_size = 4;
    wanted.right_only = 1;
    wanted.max_examples = shots;
    peft_status status = peft_dataset_open(context, model, train, &wanted, &lessons);
    wanted.right_only = 0;
    wanted.max_examples = 0;
    wanted.shuffle = 0;
    if (status >= 0) status = peft_dataset_open(context, model, test, &wanted, &questions);
    TRY(status);
    TRY(status = peft_adapter_create(context, model, "{\"peft_type\": \"LORA\", \"r\": 8, \"lora_alpha\": 16, \"target_modules\": [\"q_proj\", \"v_proj\"]}",
                                     42, &adapter));
    TRY(status = peft_optimizer_create(context, adapter, NULL, &optimizer));
    TRY(status = peft_session_create(context, model, &adapter, 1, NULL, &session));
    for (uint64_t step = 0; step < steps;) {
        peft_batch batch;
        status = peft_dataset_next(lessons, &batch);
        if (status == PEFT_END) continue;
        TRY(status);
        peft_optimizer_set_lr(optimizer, (float)(2e-3 * (1.0 - (double)step++ / (double)steps)));
        TRY(status = peft_session_forward(session, &batch, NULL));
        TRY(status = peft_session_backward(session, 1.0f));
        TRY(status = peft_optimizer_step(optimizer, session, NULL));
    }
    const double trained = peft_session_flops(session);
    TRY(status = peft_evaluate(session, questions, NULL, &evaluation));
    TRY(status = peft_evaluation_metric(evaluation, "accuracy", 1000, 0, &accuracy));
    report("LoRA", accuracy.value, accuracy.low, accuracy.high, trained,
           (peft_session_flops(session) - trained) / (double)peft_evaluation_size(evaluation));
done:
    peft_evaluation_destroy(evaluation);
    peft_session_destroy(session);
    peft_optimizer_destroy(optimizer);
    peft_adapter_destroy(adapter);
    peft_dataset_destroy(questions);
    peft_dataset_destroy(lessons);
    return status;
}

int main(int argc, char **argv) {
    if (argc < 4) return fprintf(stderr, "usage: %s MODEL TRAIN.csv TEST.csv [SHOTS] [STEPS]\n", argv[0]), 2;
    const long shots = argc > 4 ? strtol(argv[4], NULL, 10) : 16;
    const uint64_t steps = argc > 5 ? strtoull(argv[5], NULL, 10) : 20;
    peft_context *context = NULL;
    peft_model *model = NULL;
    if (shots < 1 || peft_context_create(NULL, &context) < 0) return 1;
    peft_status status = peft_model_load(context, argv[1], NULL, &model);
    if (status >= 0) status = in_context(context, model, argv[2], argv[3], 0);
    if (status >= 0) status = in_context(context, model, argv[2], argv[3], shots);
    if (status >= 0) status = learnt(context, model, argv[2], argv[3], shots, steps);
    if (status < 0) fprintf(stderr, "%s\n", peft_context_error(context));
    peft_model_destroy(model);
    peft_context_destroy(context);
    return status < 0 ? 1 : 0;
}
