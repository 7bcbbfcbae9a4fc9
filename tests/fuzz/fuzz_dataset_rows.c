/* Data sets: the first byte chooses form and options, the rest is the file. What opens has batches that fit together,
 * in two epochs. */
#include "data/data.h"
#include "fuzz_format.h"

static void check_batch(const peft_batch *batch, int64_t most) {
    if (batch->rows < 1 || batch->rows > most || batch->offsets[0] != 0 ||
        batch->offsets[batch->sequences] != batch->rows)
        abort();
    for (int64_t s = 0; s < batch->sequences; s++)
        if (batch->offsets[s + 1] <= batch->offsets[s]) abort();
    for (int64_t i = 0; i < batch->rows; i++)
        if (batch->input_ids[i] < 0 || (batch->labels[i] < 0 && batch->labels[i] != PEFT_IGNORE_LABEL)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const NAMES[] = {"f.jsonl", "f.json", "f.csv", "f.txt"};
    if (size == 0) return 0;
    peft_context *ctx = fuzz_begin();
    char path[1024];
    const char *root = getenv("PEFT_TEST_DATA");
    (void)snprintf(path, sizeof path, "%s/text/bbpe-smollm/tokenizer.json", root != NULL ? root : "tests/data");
    peft_tokenizer *tokenizer = NULL;
    if (peft_tokenizer_open(ctx, path, &tokenizer) < 0) {
        fprintf(stderr, "%s\n", peft_context_error(ctx));
        exit(1);
    }
    const uint8_t how = data[0];
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    options.max_length = 24;
    options.batch_size = 3;
    options.packing = (how & 4) != 0;
    options.on_bad_row = (how & 8) != 0 ? PEFT_BAD_ROW_SKIP : PEFT_BAD_ROW_ERROR;
    options.stride = (how & 16) != 0 ? 7 : 0;
    options.format = (how & 32) == 0 ? PEFT_DATA_AUTO : (how & 16) != 0 ? PEFT_DATA_CHOICES : how % 7;
    options.validation_fraction = (how & 64) != 0 ? 0.3 : 0.0;
    options.part = (how & 64) != 0 ? PEFT_PART_TRAIN : PEFT_PART_ALL;
    options.chat_template = (how & 128) != 0 ? "chatml" : "zephyr";
    const peft__data_base base = {.tokenizer = tokenizer, .vocab = 49152, .positions = 64};
    peft__source *source = NULL;
    peft_dataset *dataset = NULL;
    if (peft__source_open_memory(ctx, data + 1, size - 1, NAMES[how & 3], &source) < 0) exit(1);
    if (peft__dataset_open(ctx, &base, source, NAMES[how & 3], &options, &dataset) >= 0) {
        for (int epoch = 0; epoch < 2; epoch++) {
            peft_batch batch;
            int64_t examples = 0;
            while (peft_dataset_next(dataset, &batch) == PEFT_OK) {
                check_batch(&batch, batch.questions > 0 ? 24 * batch.sequences : 24 * 3);
                for (int64_t q = 0; q < batch.questions; q++)
                    if (batch.choice_offsets[q + 1] - batch.choice_offsets[q] < 2 || batch.sequence_labels[q] < 0) abort();
                examples += batch.questions > 0 ? batch.questions : batch.sequences;
            }
            if (examples != peft_dataset_size(dataset)) abort();
        }
        uint64_t length = 0;
        if (peft_dataset_preview(dataset, 0, NULL, 0, &length) < 0) abort();
    }
    peft_dataset_destroy(dataset);
    peft__source_unref(source);
    peft_tokenizer_close(tokenizer);
    fuzz_end(ctx);
    return 0;
}
