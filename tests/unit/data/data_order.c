/* The order of an epoch: shuffling, packing, splitting, windows, and going to any place. */
#include "data_test.h"

enum { EXAMPLES = 500, LONGEST = 32 };

/* A data set of made-up tokens: example i has (i * 7) % LONGEST + 1 tokens, all of them 1000 + i. */
static peft_dataset *made_up(peft_context *ctx, peft_dataset_options options) {
    peft_dataset *data = NULL;
    options.max_length = LONGEST;
    CHECK_OK(ctx, peft_dataset_create(ctx, NULL, &options, &data));
    for (int32_t i = 0; i < EXAMPLES; i++) {
        int32_t ids[LONGEST];
        const int64_t count = (i * 7) % LONGEST + 1;
        for (int64_t t = 0; t < count; t++) ids[t] = 1000 + i;
        CHECK_OK(ctx, peft_dataset_add(data, ids, NULL, count));
    }
    return data;
}

/* A number for the whole of the next epoch, and that every example comes once. */
static uint64_t epoch_hash(peft_context *ctx, peft_dataset *data, int64_t most_rows, int64_t *out_batches) {
    bool seen[EXAMPLES] = {false};
    uint64_t hash = 1;
    int64_t batches = 0, examples = 0;
    for (;;) {
        peft_batch batch;
        const peft_status status = peft_dataset_next(data, &batch);
        if (status == PEFT_END) break;
        CHECK_OK(ctx, status);
        if (status != PEFT_OK) break;
        batches++;
        CHECK(batch.rows <= most_rows && batch.offsets[0] == 0 && batch.offsets[batch.sequences] == batch.rows);
        for (int64_t s = 0; s < batch.sequences; s++) {
            const int32_t first = batch.offsets[s], end = batch.offsets[s + 1], example = batch.input_ids[first] - 1000;
            /* A sequence is one whole example: nothing of a neighbour in it. */
            if (!CHECK(example >= 0 && example < EXAMPLES) || !CHECK(end - first == (example * 7) % LONGEST + 1))
                return 0;
            for (int32_t t = first; t < end; t++)
                CHECK(batch.input_ids[t] == 1000 + example && batch.labels[t] == 1000 + example);
            CHECK(!seen[example]);
            seen[example] = true;
            examples++;
        }
        hash = peft__hash64(batch.input_ids, (size_t)batch.rows * sizeof(int32_t), hash);
    }
    CHECK(examples == EXAMPLES);
    *out_batches = batches;
    return hash;
}

static void orders(peft_context *ctx, uint32_t packing) {
    peft_dataset_options options = test_options();
    options.shuffle = 1;
    options.seed = 5;
    options.packing = packing;
    options.batch_size = 4;
    peft_dataset *a = made_up(ctx, options), *b = made_up(ctx, options);
    uint64_t hashes[3];
    int64_t batches[3], tokens;
    peft_dataset_tokens(a, &tokens, NULL, NULL);
    const int64_t promised = peft_dataset_batches(a);
    for (int i = 0; i < 3; i++) hashes[i] = epoch_hash(ctx, a, 4 * LONGEST, &batches[i]);
    CHECK(promised == batches[0]);
    CHECK(hashes[0] != hashes[1] && hashes[1] != hashes[2]);
    if (packing != 0) /* first-fit-decreasing leaves hardly any room */
        for (int i = 0; i < 3; i++) CHECK(batches[i] <= (tokens + 4 * LONGEST - 1) / (4 * LONGEST) + 1);
    else
        CHECK(batches[0] == EXAMPLES / 4);
    int64_t again;
    CHECK_OK(ctx, peft_dataset_seek(b, 2, 0));
    CHECK(epoch_hash(ctx, b, 4 * LONGEST, &again) == hashes[2]);
    CHECK_OK(ctx, peft_dataset_seek(b, 0, 0));
    CHECK(epoch_hash(ctx, b, 4 * LONGEST, &again) == hashes[0]);
    peft_dataset_destroy(b);
    options.seed = 6;
    b = made_up(ctx, options);
    CHECK(epoch_hash(ctx, b, 4 * LONGEST, &again) != hashes[0]);
    peft_dataset_destroy(b);

    /* Any place, bit for bit, without memory. */
    peft_batch batch;
    CHECK_OK(ctx, peft_dataset_seek(a, 1, 0));
    for (int i = 0; i < 7; i++) CHECK_OK(ctx, peft_dataset_next(a, &batch));
    uint64_t epoch, at;
    peft_dataset_position(a, &epoch, &at);
    CHECK(epoch == 1 && at == 7);
    CHECK_OK(ctx, peft_dataset_next(a, &batch));
    const uint64_t seventh = peft__hash64(batch.input_ids, (size_t)batch.rows * 4, 0);
    peft__mem_freeze(ctx->mem, true);
    for (int i = 0; i < 200; i++) (void)!peft_dataset_next(a, &batch);
    CHECK_OK(ctx, peft_dataset_seek(a, epoch, at));
    CHECK_OK(ctx, peft_dataset_next(a, &batch));
    peft__mem_freeze(ctx->mem, false);
    CHECK(peft__hash64(batch.input_ids, (size_t)batch.rows * 4, 0) == seventh);
    CHECK_STATUS(ctx, peft_dataset_seek(a, 9, 100000), PEFT_E_ARG);
    peft_dataset_position(a, &epoch, &at);
    CHECK(epoch == 1 && at == 8);
    const int32_t one = 3;
    CHECK_STATUS(ctx, peft_dataset_add(a, &one, NULL, 1), PEFT_E_STATE);
    peft_dataset_destroy(a);
}

static void splits(peft_context *ctx, const peft_tokenizer *tokenizer) {
    char rows[12000];
    size_t used = 0;
    for (int i = 0; i < 200; i++)
        used += (size_t)snprintf(rows + used, sizeof rows - used, "{\"text\": \"row number %d\"}\n", i);
    peft_dataset_options options = test_options();
    options.validation_fraction = 0.1;
    options.seed = 3;
    peft_dataset *train = NULL, *validation = NULL;
    options.part = PEFT_PART_TRAIN;
    CHECK_OK(ctx, test_open(ctx, tokenizer, rows, "rows.jsonl", &options, &train));
    options.part = PEFT_PART_VALIDATION;
    CHECK_OK(ctx, test_open(ctx, tokenizer, rows, "rows.jsonl", &options, &validation));
    CHECK(peft_dataset_size(validation) == 20 && peft_dataset_size(train) == 180);
    peft_dataset_destroy(validation);
    options.seed = 4;
    options.max_examples = 5;
    CHECK_OK(ctx, test_open(ctx, tokenizer, rows, "rows.jsonl", &options, &validation));
    CHECK(peft_dataset_size(validation) == 5);
    peft_dataset_destroy(validation);
    peft_dataset_destroy(train);
}

/* Windows cover a text once, without and with overlap; parts of a split do not share a token. */
static void windows(peft_context *ctx, const peft_tokenizer *tokenizer) {
    char text[8000];
    size_t used = 0;
    for (int i = 0; i < 300; i++) used += (size_t)snprintf(text + used, sizeof text - used, "line %d of the text\n", i);
    peft_dataset_options options = test_options();
    options.max_length = 50;
    peft_dataset *whole = NULL, *overlapping = NULL, *parts[2] = {NULL, NULL};
    CHECK_OK(ctx, test_open(ctx, tokenizer, text, "a.txt", &options, &whole));
    int64_t tokens, learnt, count, part_tokens[2];
    peft_dataset_tokens(whole, &tokens, &learnt, NULL);
    CHECK(learnt == tokens - peft_dataset_size(whole));
    CHECK_OK(ctx, peft_tokenizer_encode(tokenizer, text, used, 0, NULL, 0, &count));
    CHECK(tokens == count || tokens == count - 1);
    options.stride = 20;
    CHECK_OK(ctx, test_open(ctx, tokenizer, text, "a.txt", &options, &overlapping));
    int64_t other;
    peft_dataset_tokens(overlapping, NULL, &other, NULL);
    CHECK(other == count - 1); /* every token but the first is learnt exactly once */
    peft_batch batch;
    CHECK_OK(ctx, peft_dataset_next(overlapping, &batch));
    CHECK_OK(ctx, peft_dataset_next(overlapping, &batch));
    CHECK(batch.rows == 50 && batch.labels[29] == PEFT_IGNORE_LABEL && batch.labels[30] == batch.input_ids[30]);
    options.stride = 0;
    options.validation_fraction = 0.25;
    for (int i = 0; i < 2; i++) {
        options.part = i == 0 ? PEFT_PART_TRAIN : PEFT_PART_VALIDATION;
        CHECK_OK(ctx, test_open(ctx, tokenizer, text, "a.txt", &options, &parts[i]));
        peft_dataset_tokens(parts[i], &part_tokens[i], NULL, NULL);
    }
    CHECK(part_tokens[0] + part_tokens[1] >= count - 2 && part_tokens[0] + part_tokens[1] <= count);
    CHECK(part_tokens[1] > count / 5 && part_tokens[1] < count * 3 / 10);
    peft_dataset_destroy(whole);
    peft_dataset_destroy(overlapping);
    peft_dataset_destroy(parts[0]);
    peft_dataset_destroy(parts[1]);
}

static void wrong_options(peft_context *ctx, const peft_tokenizer *tokenizer) {
    peft_dataset *data = NULL;
    for (int i = 0; i < 9; i++) {
        peft_dataset_options options = test_options();
        switch (i) {
        case 0:
            options.max_length = 1;
            break;
        case 1:
            options.max_length = 4096;
            break; /* more than the model's positions */
        case 2:
            options.batch_size = 0;
            break;
        case 3:
            options.stride = 257;
            break;
        case 4:
            options.validation_fraction = 1.5;
            break;
        case 5:
            options.format = 99;
            break;
        case 6:
            options.batch_size = INT64_MAX;
            break;
        case 7:
            options.max_examples = -1;
            break;
        default:
            options.part = 7;
            break;
        }
        CHECK_STATUS(ctx, test_open(ctx, tokenizer, "some text here", "a.txt", &options, &data), PEFT_E_ARG);
    }
    peft_dataset_options options = test_options();
    options.drop_last = 1;
    options.batch_size = 3;
    CHECK_STATUS(ctx, test_open(ctx, tokenizer, "some text here", "a.txt", &options, &data), PEFT_E_ARG);
    options = test_options();
    CHECK_OK(ctx, peft_dataset_create(ctx, NULL, &options, &data));
    peft_batch batch;
    CHECK(peft_dataset_batches(data) == 0);
    CHECK_STATUS(ctx, peft_dataset_next(data, &batch), PEFT_E_STATE);
    const int32_t bad[2] = {1, -5};
    CHECK_STATUS(ctx, peft_dataset_add(data, bad, NULL, 2), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_dataset_add(data, bad, bad, 1000), PEFT_E_ARG);
    peft_dataset_destroy(data);
}

int main(void) {
    peft_context *ctx = test_context();
    peft_tokenizer *tokenizer = test_tokenizer(ctx);
    orders(ctx, 0);
    orders(ctx, 1);
    splits(ctx, tokenizer);
    windows(ctx, tokenizer);
    wrong_options(ctx, tokenizer);
    peft_tokenizer_close(tokenizer);
    peft_context_destroy(ctx);
    return check_summary();
}
