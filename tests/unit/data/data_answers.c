/* Data for encoder-decoder models: questions for the encoder, answers for the decoder. */
#include "check.h"
#include "peft/peft.h"

static const char rows[] = "{\"prompt\": \"what is the time\", \"completion\": \"noon\"}\n"
                           "{\"prompt\": \"\", \"completion\": \"nothing was asked\"}\n"
                           "{\"prompt\": \"say a long word for me please, as long as you can\", \"completion\": "
                           "\"antidisestablishmentarianism\"}\n"
                           "{\"prompt\": \"hello\", \"completion\": \"hi there\"}\n";

int main(void) {
    peft_context *ctx = NULL;
    peft_model *model = NULL;
    peft_dataset *data = NULL;
    peft_session *session = NULL;
    char path[4096];
    CHECK(peft_context_create(NULL, &ctx) == PEFT_OK);
    snprintf(path, sizeof path, "%s/models/t5-v11", getenv("PEFT_TEST_DATA"));
    CHECK_OK(ctx, peft_model_load(ctx, path, NULL, &model));
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    options.batch_size = 2;
    options.shuffle = 0;
    options.max_length = 12;
    CHECK_OK(ctx, peft_dataset_open_memory(ctx, model, rows, sizeof rows - 1, "rows.jsonl", &options, &data));
    CHECK_OK(ctx, peft_session_create(ctx, model, NULL, 0, NULL, &session));
    if (data == NULL || session == NULL) return check_summary() + 1;
    CHECK(peft_dataset_size(data) == 3 && strstr(peft_dataset_report(data), "3 examples") != NULL);
    int64_t tokens = 0, trained = 0, sequences = 0, learnt = 0, all = 0;
    peft_dataset_tokens(data, &tokens, &trained, NULL);
    peft_batch batch;
    peft_status status;
    while ((status = peft_dataset_next(data, &batch)) == PEFT_OK) {
        CHECK(batch.decoder_sequences == batch.sequences && batch.labels == NULL);
        for (int64_t s = 0; s < batch.sequences; s++) {
            const int32_t first = batch.decoder_offsets[s], end = batch.decoder_offsets[s + 1];
            const int32_t question = batch.offsets[s + 1] - batch.offsets[s];
            CHECK(question > 1 && question <= 12 && end - first > 1 && end - first <= 12);
            CHECK(batch.input_ids[batch.offsets[s + 1] - 1] == 1); /* the end token stays, cut or not */
            CHECK(batch.decoder_input_ids[first] == 0);
            for (int32_t r = first + 1; r < end; r++) CHECK(batch.decoder_input_ids[r] == batch.decoder_labels[r - 1]);
            if (end - first < 12) CHECK(batch.decoder_labels[end - 1] == 1);
        }
        double loss = 0.0, count = 0.0;
        CHECK_OK(ctx, peft_session_eval(session, &batch, &loss, &count));
        CHECK(count == (double)batch.decoder_rows && loss > 0.0);
        sequences += batch.sequences;
        learnt += batch.decoder_rows;
        all += batch.rows + batch.decoder_rows;
    }
    CHECK(status == PEFT_END && sequences == 3 && learnt == trained && all == tokens);
    static const int32_t ids[] = {3, 4};
    CHECK_STATUS(ctx, peft_dataset_add(data, ids, NULL, 2), PEFT_E_UNSUPPORTED);
    peft_dataset_destroy(data);
    options.format = PEFT_DATA_CLASSIFICATION;
    CHECK_STATUS(ctx, peft_dataset_open_memory(ctx, model, rows, sizeof rows - 1, "rows.jsonl", &options, &data),
                 PEFT_E_UNSUPPORTED);
    peft_session_destroy(session);
    peft_model_destroy(model);
    peft_context_destroy(ctx);
    return check_summary();
}
