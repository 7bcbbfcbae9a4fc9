/* text_test.h: what the tests of this folder share. */
#ifndef PEFT_TESTS_TEXT_TEST_H
#define PEFT_TESTS_TEXT_TEST_H

#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "check.h"
#include "format/gguf.h"
#include "text/chat.h"
#include "text/tokenizer.h"

static const char *const fixture_names[] = {"bbpe-gpt2",         "bbpe-llama3",          "bbpe-qwen2", "bbpe-roberta",
                                            "bbpe-smollm",       "bpe-llama2",           "unigram-t5", "unigram-t5-900",
                                            "wordpiece-uncased", "wordpiece-uncased-900"};

static inline peft_context *test_context(void) {
    peft_context *ctx = NULL;
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = 1;
    if (peft_context_create(&options, &ctx) != PEFT_OK) exit(1);
    return ctx;
}

/* Path of tests/data/text/<folder>/<file>, in `path`. */
static inline const char *data_path(char *path, size_t size, const char *folder, const char *file) {
    const char *root = getenv("PEFT_TEST_DATA");
    snprintf(path, size, "%s/text/%s/%s", root != NULL ? root : ".", folder, file);
    return path;
}

static inline json_t *load_json(const char *folder, const char *file) {
    char path[4096];
    json_error_t error;
    json_t *json = json_load_file(data_path(path, sizeof path, folder, file), 0, &error);
    if (json == NULL) {
        fprintf(stderr, "%s: %s\n", path, error.text);
        exit(1);
    }
    return json;
}

static inline peft_tokenizer *open_fixture(peft_context *ctx, const char *folder) {
    char path[4096];
    peft_tokenizer *tokenizer = NULL;
    CHECK_OK(ctx, peft_tokenizer_open(ctx, data_path(path, sizeof path, folder, "tokenizer.json"), &tokenizer));
    if (tokenizer == NULL) exit(1);
    return tokenizer;
}

/* Calls `each` for every line of a .jsonl file; returns the number of lines. */
typedef void (*row_fn)(void *user, const json_t *row, int line);

static inline int each_row(const char *folder, const char *file, row_fn each, void *user) {
    char path[4096], *line = NULL;
    size_t room = 0;
    int count = 0;
    FILE *in = fopen(data_path(path, sizeof path, folder, file), "rb");
    if (in == NULL) return 0;
    while (getline(&line, &room, in) > 0) {
        json_t *row = json_loads(line, JSON_ALLOW_NUL, NULL);
        CHECK(row != NULL);
        each(user, row, ++count);
        json_decref(row);
    }
    free(line);
    fclose(in);
    return count;
}

static inline bool same_ids(const int32_t *ids, int64_t count, const json_t *want) {
    if ((size_t)count != json_array_size(want)) return false;
    for (int64_t i = 0; i < count; i++)
        if (json_integer_value(json_array_get(want, (size_t)i)) != ids[i]) return false;
    return true;
}

/* Runs a tokenizer over the ids.jsonl of a fixture and counts lines that differ. */
typedef struct id_run {
    peft_context *ctx;
    const peft_tokenizer *tokenizer;
    uint32_t flags;
    const char *key; /* "ids" or "with_special" */
    int bad;
} id_run;

static inline void run_ids_row(void *user, const json_t *row, int line) {
    id_run *run = user;
    const json_t *text = json_object_get(row, "text");
    peft__encoding e;
    peft__encoding_init(&e, run->ctx->mem);
    const peft_status status =
        peft__encode(run->ctx, run->tokenizer, json_string_value(text), json_string_length(text), run->flags, &e);
    if (status != PEFT_OK || !same_ids(e.ids, e.count, json_object_get(row, run->key))) {
        if (run->bad++ < 3) {
            fprintf(stderr, "    line %d: %s: \"%.80s\":", line,
                    status == PEFT_OK ? "ids differ" : peft_context_error(run->ctx), json_string_value(text));
            for (int64_t i = 0; i < e.count && i < 30; i++) fprintf(stderr, " %d", e.ids[i]);
            fprintf(stderr, "\n");
        }
    }
    peft__encoding_free(&e);
}

static inline int bad_ids(peft_context *ctx, const peft_tokenizer *tokenizer, const char *folder, const char *key,
                          uint32_t flags) {
    id_run run = {ctx, tokenizer, flags, key, 0};
    return each_row(folder, "ids.jsonl", run_ids_row, &run) > 0 ? run.bad : -1;
}

#endif
