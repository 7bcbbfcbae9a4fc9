/* 01_train.c: fine-tune a LoRA adapter, driving every step.
 *
 *   01_train MODEL DATA OUTPUT-FOLDER [STEPS]
 *
 * MODEL is a Hugging Face folder or a .gguf file, DATA a .txt or .jsonl file. OUTPUT-FOLDER is what HF PEFT loads.
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

int main(int argc, char **argv) {
    if (argc < 4) return fprintf(stderr, "usage: %s MODEL DATA OUTPUT-FOLDER [STEPS]\n", argv[0]), 2;
    const uint64_t steps = argc > 4 ? strtoull(argv[4], NULL, 10) : 30;
    peft_context *context = NULL;
    peft_model *model = NULL;
    peft_adapter *adapter = NULL;
    peft_dataset *data = NULL;
    peft_optimizer *optimizer = NULL;
    peft_session *session = NULL;
    int result = 1;
    if (peft_context_create(NULL, &context) < 0) return 1;
    TRY(peft_model_load(context, argv[1], NULL, &model));
    TRY(peft_adapter_create(context, model, "{\"peft_type\": \"LORA\", \"r\": 8, \"lora_alpha\": 16, \"target_modules\": [\"q_proj\", \"v_proj\"]}", 42,
                            &adapter));
    printf("%s", peft_adapter_report(adapter));

    peft_dataset_options wanted;
    peft_dataset_options_init(&wanted);
    peft_model_info about = {.struct_size = sizeof about};
    TRY(peft_model_get_info(model, &about));
    wanted.max_length = about.max_position_embeddings < 128 ? about.max_position_embeddings : 128;
    TRY(peft_dataset_open(context, model, argv[2], &wanted, &data));
    printf("%s", peft_dataset_report(data));

    TRY(peft_optimizer_create(context, adapter, NULL, &optimizer));
    TRY(peft_session_create(context, model, &adapter, 1, NULL, &session));

    peft_schedule schedule;
    peft_schedule_init(&schedule);
    schedule.kind = PEFT_SCHEDULE_COSINE;
    schedule.peak_lr = 1e-3;
    schedule.warmup_steps = steps / 10;
    schedule.total_steps = steps;

    for (uint64_t step = 0; step < steps;) {
        peft_batch batch;
        const peft_status status = peft_dataset_next(data, &batch);
        if (status == PEFT_END) continue; /* the next epoch begins */
        TRY(status);
        double loss;
        peft_step_stats stats = {.struct_size = sizeof stats};
        TRY(peft_session_forward(session, &batch, &loss));
        TRY(peft_session_backward(session, 1.0f));
        peft_optimizer_set_lr(optimizer, (float)peft_schedule_lr(&schedule, step));
        TRY(peft_optimizer_step(optimizer, session, &stats));
        printf("step %llu: loss %.4f, gradient norm %.3f\n", (unsigned long long)++step, loss, stats.grad_norm);
    }
    TRY(peft_adapter_save(adapter, argv[3]));
    printf("saved to %s\n", argv[3]);
    result = 0;
done:
    peft_session_destroy(session);
    peft_optimizer_destroy(optimizer);
    peft_dataset_destroy(data);
    peft_adapter_destroy(adapter);
    peft_model_destroy(model);
    peft_context_destroy(context);
    return result;
}
