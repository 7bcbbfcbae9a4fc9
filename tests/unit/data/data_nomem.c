/* Every allocation of opening a data set and of reading a recipe fails in turn: a status, no leak, and the next try
 * works. */
#include "data_test.h"
#include "meter.h"
#include "peft/recipe.h"

static peft_status open_data(peft_context *ctx, const peft_tokenizer *tokenizer) {
    static const char ROWS[] = "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", "
                               "\"content\": [{\"type\": \"text\", \"text\": "
                               "\"x\"}]}, {\"role\": \"assistant\", \"content\": \"some words\"}]}\nbroken\n";
    peft_dataset_options options = test_options();
    options.packing = 1;
    options.on_bad_row = PEFT_BAD_ROW_SKIP;
    peft_dataset *data = NULL;
    peft_status status = test_open(ctx, tokenizer, ROWS, "rows.jsonl", &options, &data);
    uint64_t length = 0;
    peft_batch batch;
    if (status >= 0) status = peft_dataset_next(data, &batch);
    if (status >= 0) status = peft_dataset_preview(data, 0, NULL, 0, &length);
    peft_dataset_destroy(data);
    return status;
}

static peft_status open_labelled(peft_context *ctx, const peft_tokenizer *tokenizer) {
    static const char *const FILES[][2] = {
        {"a.csv", "text,text_pair,label\nsome words,other words,yes\nmore,words,no\n"},
        {"a.jsonl", "{\"text\": \"some words\", \"labels\": [\"a\", \"b\"]}\n{\"text\": \"x\", \"labels\": []}\n"},
        {"a.conll", "some O\nwords B-X\n\nmore\n\nwords O\n"},
        {"a.jsonl", "{\"text\": \"some words\", \"label\": \"b\"}\n{\"text\": \"x\", \"label\": \"a\"}\n"},
        {"b.jsonl", "{\"input\": \"x\", \"choices\": [\"some\", \"other words\"], \"answer\": 1}\n"}};
    static const int32_t FORMATS[] = {PEFT_DATA_CLASSIFICATION, PEFT_DATA_MULTI_LABEL, PEFT_DATA_TOKEN_CLS,
                                      PEFT_DATA_CHOICES, PEFT_DATA_CHOICES};
    static const char *const words[] = {"no {text}", "yes"};
    peft_status status = PEFT_OK;
    for (size_t i = 0; i < PEFT_COUNT(FILES) && status >= 0; i++) {
        peft_dataset_options options = test_options();
        options.format = FORMATS[i];
        if (i == 3) {
            options.input_template = "{text}?";
            options.verbalizers = words;
            options.verbalizer_count = 2;
        }
        options.on_bad_row = PEFT_BAD_ROW_SKIP;
        peft_dataset *data = NULL;
        peft_batch batch;
        status = test_open(ctx, tokenizer, FILES[i][1], FILES[i][0], &options, &data);
        if (status >= 0) status = peft_dataset_next(data, &batch);
        peft_dataset_destroy(data);
    }
    return status;
}

static peft_status open_recipe(peft_context *ctx, const peft_tokenizer *tokenizer) {
    static const char RECIPE[] =
        "base_model: a\nlora_r: 8\nlora_target: q_proj,v_proj\noutput_dir: o\ndata:\n  train: ${output_dir}/x\n"
        "  chat_template: {user: {prefix: a}}\nflash_attention: true\n"
        "compare:\n  - base\n  - {r: 2}\n  - {adapter: {method: ia3}, lr: 1}\n  - {icl: p.yaml, shots: 3}\n";
    const char *const overrides[] = {"lr=1e-3", "adapter.modules_to_save=[a, b]"};
    peft_recipe *recipe = NULL;
    peft_recipe *entry = NULL;
    peft_status status = peft_recipe_open_memory(ctx, RECIPE, strlen(RECIPE), "r.yaml", overrides, 2, 0, &recipe);
    if (status >= 0) status = peft_recipe_compare_open(recipe, 2, overrides, 1, &entry);
    (void)tokenizer;
    peft_recipe_destroy(entry);
    peft_recipe_destroy(recipe);
    return status;
}

static void fail_each(peft_status (*try_it)(peft_context *, const peft_tokenizer *)) {
    meter m = {.left = -1};
    const peft_allocator allocator = {meter_alloc, meter_free, &m};
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = 1;
    options.allocator = &allocator;
    peft_context *ctx = NULL;
    if (peft_context_create(&options, &ctx) < 0) exit(1);
    peft_tokenizer *tokenizer = test_tokenizer(ctx);
    const long before = m.live;
    long n = 0;
    peft_status status = PEFT_E_NOMEM;
    for (; status < 0 && n < 20000; n++) {
        m.left = n;
        status = try_it(ctx, tokenizer);
        m.left = -1;
        if (!CHECK(status >= 0 || status == PEFT_E_NOMEM) || !CHECK(m.live == before)) {
            fprintf(stderr, "    allocation %ld: %s: %s\n", n, peft_status_name(status), peft_context_error(ctx));
            break;
        }
    }
    CHECK(status >= 0 && n > 10);
    peft_tokenizer_close(tokenizer);
    peft_context_destroy(ctx);
    CHECK(m.live == 0);
}

int main(void) {
    fail_each(open_data);
    fail_each(open_labelled);
    fail_each(open_recipe);
    return check_summary();
}
