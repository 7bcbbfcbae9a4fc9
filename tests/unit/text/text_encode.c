/* The contract around encoding: flags, truncation, limits, malformed text, long words, side files. */
#include "text_test.h"

static void check_flags(peft_context *ctx) {
    peft_tokenizer *t = open_fixture(ctx, "bbpe-smollm");
    const char text[] = "<|im_start|>user";
    int32_t ids[64];
    int64_t count = 0;
    CHECK_OK(ctx, peft_tokenizer_encode(t, text, strlen(text), PEFT_ENCODE_PARSE_SPECIAL, ids, 64, &count));
    CHECK(count > 1 && ids[0] == peft_tokenizer_token_to_id(t, "<|im_start|>", 12));
    CHECK_OK(ctx, peft_tokenizer_encode(t, text, strlen(text), PEFT_ENCODE_PLAIN, ids, 64, &count));
    for (int64_t i = 0; i < count; i++) CHECK(!peft__token_is_special(t, ids[i]));
    CHECK_STATUS(ctx, peft_tokenizer_encode(t, text, strlen(text), 64, ids, 64, &count), PEFT_E_ARG);
    /* too small: nothing written, the need reported */
    ids[0] = -7;
    CHECK_STATUS(ctx, peft_tokenizer_encode(t, text, strlen(text), 0, ids, 2, &count), PEFT_E_LIMIT);
    CHECK(count > 2 && ids[0] == -7);
    CHECK_OK(ctx, peft_tokenizer_encode(t, text, strlen(text), 0, NULL, 0, &count));
    /* decoding */
    const int32_t turn[] = {peft_tokenizer_token_to_id(t, "<|im_end|>", 10), peft_tokenizer_token_to_id(t, "a", 1)};
    char out[32];
    size_t length = 0;
    CHECK_OK(ctx, peft_tokenizer_decode(t, turn, 2, 1, out, sizeof out, &length));
    CHECK_STR(out, "a");
    CHECK_OK(ctx, peft_tokenizer_decode(t, turn, 2, 0, out, sizeof out, &length));
    CHECK_STR(out, "<|im_end|>a");
    CHECK_STATUS(ctx, peft_tokenizer_decode(t, turn, 2, 0, out, 11, &length), PEFT_E_LIMIT);
    CHECK(length == 11);
    for (int32_t bad = -1; bad < 3; bad += 2) {
        const int32_t id = bad < 0 ? -1 : peft_tokenizer_size(t);
        CHECK_STATUS(ctx, peft_tokenizer_decode(t, &id, 1, 0, out, sizeof out, &length), PEFT_E_ARG);
    }
    /* half a character */
    const int32_t half = peft_tokenizer_token_to_id(t, "\xC3\x83", 2); /* byte 0xC3 */
    CHECK_OK(ctx, peft_tokenizer_decode(t, &half, 1, 0, out, sizeof out, &length));
    CHECK_STR(out, "\xEF\xBF\xBD");
    CHECK(peft_tokenizer_id_to_token(t, -1, NULL) == NULL && peft_tokenizer_id_to_token(t, 1 << 20, NULL) == NULL);
    CHECK(peft_tokenizer_token_to_id(t, "no such token", 13) == -1);
    peft_tokenizer_close(t);
}

static void check_malformed(peft_context *ctx) {
    static const struct {
        const char *text;
        size_t length, at;
    } cases[] = {{"ab\xFF", 3, 2},
                 {"\xC0\x80", 2, 0},
                 {"x\xED\xA0\x80", 4, 1},
                 {"\xF4\x90\x80\x80", 4, 0},
                 {"abc\xE4\xBD", 5, 3}};
    peft_tokenizer *t = open_fixture(ctx, "wordpiece-uncased");
    for (size_t i = 0; i < PEFT_COUNT(cases); i++) {
        int64_t count;
        char want[32];
        CHECK_STATUS(ctx, peft_tokenizer_encode(t, cases[i].text, cases[i].length, 0, NULL, 0, &count), PEFT_E_FORMAT);
        snprintf(want, sizeof want, "byte %zu", cases[i].at);
        CHECK(strstr(peft_context_error(ctx), want) != NULL);
    }
    peft_tokenizer_close(t);
}

static int64_t pair_count(peft_context *ctx, peft_tokenizer *t, const char *a, const char *b, int64_t most,
                          int32_t truncation, int64_t *first, int64_t *second) {
    peft_token tokens[64];
    int64_t count = -1;
    if (peft_tokenizer_encode_pair(t, a, strlen(a), b, b != NULL ? strlen(b) : 0, PEFT_ENCODE_SPECIAL, most, truncation,
                                   tokens, 64, &count) != PEFT_OK)
        return -1;
    *first = *second = 0;
    for (int64_t i = 0; i < count; i++) {
        *first += !tokens[i].special && tokens[i].source == 0;
        *second += !tokens[i].special && tokens[i].source == 1;
    }
    (void)ctx;
    return count;
}

static void check_truncation(peft_context *ctx) {
    peft_tokenizer *t = open_fixture(ctx, "wordpiece-uncased");
    int64_t a, b;
    const char *six = "a b c d e f", *two = "a b";
    CHECK(pair_count(ctx, t, six, two, 0, PEFT_TRUNCATE_NONE, &a, &b) == 11 && a == 6 && b == 2);
    CHECK(pair_count(ctx, t, six, two, 10, PEFT_TRUNCATE_NONE, &a, &b) == -1);
    CHECK(pair_count(ctx, t, six, two, 8, PEFT_TRUNCATE_LONGEST_FIRST, &a, &b) == 8 && a == 3 && b == 2);
    CHECK(pair_count(ctx, t, two, six, 8, PEFT_TRUNCATE_LONGEST_FIRST, &a, &b) == 8 && a == 2 && b == 3);
    CHECK(pair_count(ctx, t, six, six, 10, PEFT_TRUNCATE_LONGEST_FIRST, &a, &b) == 10 && a + b == 7 && a - b <= 1 &&
          b - a <= 1);
    CHECK(pair_count(ctx, t, six, two, 8, PEFT_TRUNCATE_ONLY_FIRST, &a, &b) == 8 && a == 3 && b == 2);
    CHECK(pair_count(ctx, t, two, six, 8, PEFT_TRUNCATE_ONLY_SECOND, &a, &b) == 8 && a == 2 && b == 3);
    CHECK(pair_count(ctx, t, two, six, 6, PEFT_TRUNCATE_ONLY_FIRST, &a, &b) == -1);
    CHECK(pair_count(ctx, t, six, NULL, 5, PEFT_TRUNCATE_LONGEST_FIRST, &a, &b) == 5 && a == 3);
    CHECK(pair_count(ctx, t, six, NULL, 2, PEFT_TRUNCATE_LONGEST_FIRST, &a, &b) == 2 && a == 0);
    CHECK(pair_count(ctx, t, six, NULL, 1, PEFT_TRUNCATE_LONGEST_FIRST, &a, &b) == -1);
    peft_tokenizer_close(t);
}

/* A megabyte without a space, and one of nothing but marks, must end. */
static void check_long(peft_context *ctx) {
    const size_t size = 1 << 20;
    char *text = malloc(size);
    if (text == NULL) exit(1);
    for (size_t n = 0; n < PEFT_COUNT(fixture_names); n++) {
        peft_tokenizer *t = open_fixture(ctx, fixture_names[n]);
        int64_t count = 0;
        for (int kind = 0; kind < 3; kind++) {
            for (size_t i = 0; i < size; i++)
                text[i] = kind == 0    ? (char)('a' + (i * 7919 >> 5) % 26)
                          : kind == 1  ? ' '
                          : i % 2 == 0 ? '\xCC'
                          : i % 4 == 1 ? '\x81'
                                       : '\xA3';
            CHECK_OK(ctx, peft_tokenizer_encode(t, text, kind == 0 ? size : size / 8, 0, NULL, 0, &count));
            CHECK(count >= 0);
        }
        peft_tokenizer_close(t);
    }
    free(text);
}

static void write_text(const char *folder, const char *name, const char *text) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fputs(text, file) < 0 || fclose(file) != 0) exit(1);
}

static void remove_all(const char *folder) {
    static const char *const names[] = {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json",
        "merges.txt",     "chat_template.jinja"};
    char path[4096];
    for (size_t i = 0; i < PEFT_COUNT(names); i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

static void make_folder(char *folder, size_t size) {
    const char *root = getenv("TMPDIR");
    snprintf(folder, size, "%s/peft-text-%ld", root != NULL ? root : "/tmp", (long)getpid());
    mkdir(folder, 0700);
}

static void check_folders(peft_context *ctx) {
    char folder[256];
    peft_tokenizer *t = NULL;
    make_folder(folder, sizeof folder);
    CHECK_STATUS(ctx, peft_tokenizer_open(ctx, folder, &t), PEFT_E_IO);
    CHECK(strstr(peft_context_error(ctx), "vocab.txt") != NULL);
    /* tokenizer.json with its side files */
    json_t *json = load_json("bbpe-smollm", "tokenizer.json");
    char *text = json_dumps(json, 0);
    write_text(folder, "tokenizer.json", text);
    write_text(folder, "tokenizer_config.json",
               "{\"bos_token\": \"<|im_start|>\", \"eos_token\": {\"content\": \"<|im_end|>\"}, \"pad_token\": null,"
               " \"model_max_length\": 1000000000000000019884624838656,"
               " \"chat_template\": [{\"name\": \"rag\", \"template\": \"x\"}, {\"name\": \"default\", \"template\": "
               "\"T\"}]}");
    CHECK_OK(ctx, peft_tokenizer_open(ctx, folder, &t));
    CHECK(peft_tokenizer_special(t, PEFT_SPECIAL_BOS) == 1 && peft_tokenizer_special(t, PEFT_SPECIAL_EOS) == 2);
    CHECK(peft_tokenizer_special(t, PEFT_SPECIAL_PAD) == -1 && peft_tokenizer_special(t, 99) == -1);
    CHECK_STR(peft_tokenizer_chat_template(t), "T");
    CHECK(!peft__tokenizer_adds_bos(t) && !peft__tokenizer_adds_eos(t));
    peft_tokenizer_close(t);
    write_text(folder, "chat_template.jinja", "J");
    CHECK_OK(ctx, peft_tokenizer_open(ctx, folder, &t));
    CHECK_STR(peft_tokenizer_chat_template(t), "J");
    CHECK(bad_ids(ctx, t, "bbpe-smollm", "ids", PEFT_ENCODE_PARSE_SPECIAL) == 0);
    peft_tokenizer_close(t);
    free(text);
    json_decref(json);
    remove_all(folder);
    /* GPT-2 in parts */
    make_folder(folder, sizeof folder);
    json = load_json("bbpe-gpt2", "tokenizer.json");
    json_t *model = json_object_get(json, "model");
    text = json_dumps(json_object_get(model, "vocab"), 0);
    write_text(folder, "vocab.json", text);
    free(text);
    char path[512];
    snprintf(path, sizeof path, "%s/merges.txt", folder);
    FILE *file = fopen(path, "wb");
    if (file == NULL) exit(1);
    fprintf(file, "#version: 0.2\n");
    size_t i;
    json_t *merge;
    json_array_foreach(json_object_get(model, "merges"), i, merge) fprintf(
        file, "%s %s\n", json_string_value(json_array_get(merge, 0)), json_string_value(json_array_get(merge, 1)));
    fclose(file);
    write_text(folder, "special_tokens_map.json", "{\"eos_token\": \"<|endoftext|>\"}");
    CHECK_OK(ctx, peft_tokenizer_open(ctx, folder, &t));
    CHECK(bad_ids(ctx, t, "bbpe-gpt2", "ids", PEFT_ENCODE_PARSE_SPECIAL) == 0);
    CHECK(peft_tokenizer_special(t, PEFT_SPECIAL_EOS) == 0);
    peft_tokenizer_close(t);
    json_decref(json);
    remove_all(folder);
    /* BERT in parts */
    make_folder(folder, sizeof folder);
    json = load_json("wordpiece-uncased", "tokenizer.json");
    json_t *vocab = json_object_get(json_object_get(json, "model"), "vocab"), *id;
    const char *token;
    const char **lines = calloc(json_object_size(vocab), sizeof *lines);
    if (lines == NULL) exit(1);
    json_object_foreach(vocab, token, id) lines[json_integer_value(id)] = token;
    snprintf(path, sizeof path, "%s/vocab.txt", folder);
    file = fopen(path, "wb");
    if (file == NULL) exit(1);
    for (i = 0; i < json_object_size(vocab); i++) fprintf(file, "%s\n", lines[i]);
    fclose(file);
    free(lines);
    CHECK_OK(ctx, peft_tokenizer_open(ctx, folder, &t));
    CHECK(bad_ids(ctx, t, "wordpiece-uncased", "ids", PEFT_ENCODE_PARSE_SPECIAL) == 0);
    CHECK(bad_ids(ctx, t, "wordpiece-uncased", "with_special", PEFT_ENCODE_PARSE_SPECIAL | PEFT_ENCODE_SPECIAL) == 0);
    peft_tokenizer_close(t);
    json_decref(json);
    remove_all(folder);
}

/* Added tokens and their flags, on a tokenizer of whole words. */
static void check_added(peft_context *ctx) {
    static const char json[] =
        "{\"added_tokens\": ["
        "{\"id\": 3, \"content\": \"<m>\", \"lstrip\": true, \"normalized\": false, \"special\": true},"
        "{\"id\": 4, \"content\": \"<r>\", \"rstrip\": true, \"normalized\": false, \"special\": false},"
        "{\"id\": 5, \"content\": \"one\", \"single_word\": true, \"normalized\": false, \"special\": false},"
        "{\"id\": 6, \"content\": \"Day\", \"normalized\": true, \"special\": false},"
        "{\"id\": 7, \"content\": \"<mm>\", \"normalized\": false, \"special\": true}],"
        "\"normalizer\": {\"type\": \"Lowercase\"}, \"pre_tokenizer\": {\"type\": \"Whitespace\"},"
        "\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"[U]\": 0, \"a\": 1, \"b\": 2}, \"unk_token\": \"[U]\"}}";
    static const struct {
        const char *text;
        int32_t ids[8];
        int64_t count;
    } cases[] = {{"a <m> b", {1, 3, 2}, 3},  {"a <r> b", {1, 4, 2}, 3}, {"a one b", {1, 5, 2}, 3},
                 {"a zone b", {1, 0, 2}, 3}, {"a DAY b", {1, 6, 2}, 3}, {"<m><m> a", {3, 3, 1}, 3},
                 {"A\tB c", {1, 2, 0}, 3},   {"<mm>", {7}, 1},          {"ones one", {0, 5}, 2}};
    peft_tokenizer *t = NULL;
    CHECK_OK(ctx, peft_tokenizer_open_memory(ctx, json, strlen(json), &t));
    for (size_t i = 0; i < PEFT_COUNT(cases); i++) {
        peft__encoding e;
        peft__encoding_init(&e, ctx->mem);
        CHECK_OK(ctx, peft__encode(ctx, t, cases[i].text, strlen(cases[i].text), PEFT_ENCODE_PARSE_SPECIAL, &e));
        if (!CHECK(e.count == cases[i].count && memcmp(e.ids, cases[i].ids, (size_t)e.count * sizeof *e.ids) == 0))
            fprintf(stderr, "    \"%s\": %lld ids, first %d\n", cases[i].text, (long long)e.count,
                    e.count ? e.ids[0] : -1);
        if (i == 0) CHECK(e.begin[1] == 1 && e.end[1] == 5); /* the space belongs to the token */
        if (i == 1) CHECK(e.begin[1] == 2 && e.end[1] == 6);
        peft__encoding_free(&e);
    }
    peft_tokenizer_close(t);
}

int main(void) {
    peft_context *ctx = test_context();
    check_flags(ctx);
    check_malformed(ctx);
    check_truncation(ctx);
    check_added(ctx);
    check_folders(ctx);
    check_long(ctx);
    peft_context_destroy(ctx);
    return check_summary();
}
