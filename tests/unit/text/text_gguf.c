/* The same tokenizers out of GGUF files, made here from the fixtures in the way that converters make them. */
#include "text_test.h"

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, BYTE = 6 };

typedef struct vocab {
    peft__text *tokens;
    int32_t *types;
    float *scores;
    size_t count;
    json_t *json, *model;
    char *storage[1024];
    size_t stored;
} vocab;

static void load_vocab(vocab *v, const char *folder) {
    *v = (vocab){.json = load_json(folder, "tokenizer.json")};
    v->model = json_object_get(v->json, "model");
    json_t *list = json_object_get(v->model, "vocab"), *added = json_object_get(v->json, "added_tokens"), *value;
    const char *token;
    size_t i;
    v->count = 0;
    json_object_foreach(list, token, value) v->count++;
    if (json_is_array(list)) v->count = json_array_size(list);
    json_array_foreach(added, i, value) {
        const size_t id = (size_t)json_integer_value(json_object_get(value, "id"));
        if (id + 1 > v->count) v->count = id + 1;
    }
    v->tokens = calloc(v->count, sizeof *v->tokens);
    v->types = calloc(v->count, sizeof *v->types);
    v->scores = calloc(v->count, sizeof *v->scores);
    if (v->tokens == NULL || v->types == NULL || v->scores == NULL) exit(1);
    for (i = 0; i < v->count; i++) v->types[i] = NORMAL;
    json_object_foreach(list, token, value) v->tokens[json_integer_value(value)] = (peft__text){token, strlen(token)};
    if (json_is_array(list)) json_array_foreach(list, i, value) {
            const json_t *text = json_array_get(value, 0);
            v->tokens[i] = (peft__text){json_string_value(text), json_string_length(text)};
            v->scores[i] = (float)json_number_value(json_array_get(value, 1));
        }
    json_array_foreach(added, i, value) {
        const size_t id = (size_t)json_integer_value(json_object_get(value, "id"));
        const char *text = json_string_value(json_object_get(value, "content"));
        v->tokens[id] = (peft__text){text, strlen(text)};
        v->types[id] = CONTROL;
    }
}

static void free_vocab(vocab *v) {
    for (size_t i = 0; i < v->stored; i++) free(v->storage[i]);
    free(v->tokens);
    free(v->types);
    free(v->scores);
    json_decref(v->json);
}

static const char *keep(vocab *v, char *text) {
    if (text == NULL || v->stored == PEFT_COUNT(v->storage)) exit(1);
    return v->storage[v->stored++] = text;
}

static void put_vocab(peft__gguf_metadata *m, const vocab *v, const char *model) {
    peft__gguf_put_string(m, "general.architecture", "llama");
    peft__gguf_put_string(m, "tokenizer.ggml.model", model);
    peft__gguf_put_strings(m, "tokenizer.ggml.tokens", v->tokens, v->count);
    peft__gguf_put_i32s(m, "tokenizer.ggml.token_type", v->types, v->count);
}

/* Writes, opens, reads; returns NULL where the tokenizer is refused (the status is checked). */
static peft_tokenizer *through_file(peft_context *ctx, peft__gguf_metadata *m, peft_status want) {
    char path[256];
    const char *root = getenv("TMPDIR");
    peft_tokenizer *t = NULL;
    snprintf(path, sizeof path, "%s/peft-text-%ld.gguf", root != NULL ? root : "/tmp", (long)getpid());
    CHECK_OK(ctx, peft__gguf_write(ctx, path, m, NULL, 0));
    peft__gguf_metadata_free(m);
    CHECK_STATUS(ctx, peft_tokenizer_open(ctx, path, &t), want);
    unlink(path);
    return t;
}

static void put_merges(peft__gguf_metadata *m, vocab *v) {
    json_t *merges = json_object_get(v->model, "merges"), *merge;
    const size_t count = json_array_size(merges);
    peft__text *list = calloc(count + 1, sizeof *list);
    size_t i;
    if (list == NULL) exit(1);
    json_array_foreach(merges, i, merge) {
        const char *a = json_string_value(json_array_get(merge, 0)), *b = json_string_value(json_array_get(merge, 1));
        char *text = malloc(strlen(a) + strlen(b) + 2);
        if (text == NULL) exit(1);
        sprintf(text, "%s %s", a, b);
        list[i] = (peft__text){keep(v, text), strlen(text)};
    }
    peft__gguf_put_strings(m, "tokenizer.ggml.merges", list, count);
    free(list);
}

static void check_bpe(peft_context *ctx, const char *folder, const char *pre) {
    vocab v;
    peft__gguf_metadata m;
    load_vocab(&v, folder);
    peft__gguf_metadata_init(&m, ctx->mem);
    put_vocab(&m, &v, "gpt2");
    put_merges(&m, &v);
    peft__gguf_put_string(&m, "tokenizer.ggml.pre", pre);
    peft__gguf_put_u32(&m, "tokenizer.ggml.bos_token_id", 0);
    peft__gguf_put_u32(&m, "tokenizer.ggml.eos_token_id", 2);
    peft__gguf_put_string(&m, "tokenizer.chat_template", "{{ x }}");
    peft_tokenizer *t = through_file(ctx, &m, PEFT_OK);
    if (t != NULL) {
        if (!CHECK(bad_ids(ctx, t, folder, "ids", PEFT_ENCODE_PARSE_SPECIAL) == 0)) fprintf(stderr, "    %s\n", folder);
        if (strcmp(pre, "llama-bpe") == 0)
            CHECK(peft__tokenizer_adds_bos(t) && bad_ids(ctx, t, folder, "with_special", 3) == 0);
        CHECK_STR(peft_tokenizer_chat_template(t), "{{ x }}");
        CHECK(peft_tokenizer_special(t, PEFT_SPECIAL_EOS) == 2);
    }
    peft_tokenizer_close(t);
    free_vocab(&v);
}

/* SentencePiece gives the n-th merge the score -n. */
static void check_spm(peft_context *ctx) {
    vocab v;
    peft__gguf_metadata m;
    load_vocab(&v, "bpe-llama2");
    json_t *list = json_object_get(v.model, "vocab"), *merge;
    size_t i;
    json_array_foreach(json_object_get(v.model, "merges"), i, merge) {
        char joined[256];
        snprintf(joined, sizeof joined, "%s%s", json_string_value(json_array_get(merge, 0)),
                 json_string_value(json_array_get(merge, 1)));
        v.scores[json_integer_value(json_object_get(list, joined))] = -(float)i - 1.0f;
    }
    for (i = 0; i < v.count; i++)
        if (v.tokens[i].length == 6 && memcmp(v.tokens[i].data, "<0x", 3) == 0) v.types[i] = BYTE;
    v.types[0] = UNKNOWN;
    peft__gguf_metadata_init(&m, ctx->mem);
    put_vocab(&m, &v, "llama");
    peft__gguf_put_f32s(&m, "tokenizer.ggml.scores", v.scores, v.count);
    peft_tokenizer *t = through_file(ctx, &m, PEFT_OK);
    if (t != NULL) {
        CHECK(bad_ids(ctx, t, "bpe-llama2", "ids", PEFT_ENCODE_PARSE_SPECIAL) == 0);
        CHECK(bad_ids(ctx, t, "bpe-llama2", "with_special", 3) == 0);
        CHECK(peft_tokenizer_special(t, PEFT_SPECIAL_UNK) == 0 && peft__tokenizer_adds_bos(t));
    }
    peft_tokenizer_close(t);
    free_vocab(&v);
}

static void check_bert(peft_context *ctx) {
    vocab v;
    peft__gguf_metadata m;
    load_vocab(&v, "wordpiece-uncased");
    for (size_t i = 0; i < v.count; i++) {
        const peft__text token = v.tokens[i];
        if (v.types[i] == CONTROL) continue;
        if (token.length > 2 && memcmp(token.data, "##", 2) == 0) {
            v.tokens[i] = (peft__text){token.data + 2, token.length - 2};
        } else {
            char *text = malloc(token.length + 4);
            if (text == NULL) exit(1);
            memcpy(text, "\xE2\x96\x81", 3);
            memcpy(text + 3, token.data, token.length);
            v.tokens[i] = (peft__text){text, token.length + 3};
            keep(&v, text);
        }
    }
    peft__gguf_metadata_init(&m, ctx->mem);
    put_vocab(&m, &v, "bert");
    peft__gguf_put_u32(&m, "tokenizer.ggml.padding_token_id", 0);
    peft__gguf_put_u32(&m, "tokenizer.ggml.unknown_token_id", 1);
    peft__gguf_put_u32(&m, "tokenizer.ggml.bos_token_id", 2);
    peft__gguf_put_u32(&m, "tokenizer.ggml.seperator_token_id", 3);
    peft__gguf_put_u32(&m, "tokenizer.ggml.mask_token_id", 4);
    peft_tokenizer *t = through_file(ctx, &m, PEFT_OK);
    if (t != NULL) {
        CHECK(bad_ids(ctx, t, "wordpiece-uncased", "ids", PEFT_ENCODE_PARSE_SPECIAL) == 0);
        CHECK(bad_ids(ctx, t, "wordpiece-uncased", "with_special", 3) == 0);
        CHECK(peft_tokenizer_special(t, PEFT_SPECIAL_CLS) == 2);
    }
    peft_tokenizer_close(t);
    free_vocab(&v);
}

/* Without the charsmap, so only texts that it leaves alone; "ids" of plain ASCII are compared. */
static void check_t5(peft_context *ctx) {
    vocab v;
    peft__gguf_metadata m;
    load_vocab(&v, "unigram-t5-900");
    peft__gguf_metadata_init(&m, ctx->mem);
    put_vocab(&m, &v, "t5");
    peft__gguf_put_f32s(&m, "tokenizer.ggml.scores", v.scores, v.count);
    peft__gguf_put_bool(&m, "tokenizer.ggml.remove_extra_whitespaces", true);
    peft_tokenizer *t = through_file(ctx, &m, PEFT_OK), *other = open_fixture(ctx, "unigram-t5-900");
    static const char *const texts[] = {"Hello world", "a", "The year 2024 had 366 days.",
                                        "  x</s>y  y <extra_id_0> z  "};
    for (size_t i = 0; t != NULL && i < PEFT_COUNT(texts); i++) {
        int32_t a[64], b[64];
        int64_t n = 0, k = 0;
        CHECK_OK(ctx, peft_tokenizer_encode(t, texts[i], strlen(texts[i]), 3, a, 64, &n));
        CHECK_OK(ctx, peft_tokenizer_encode(other, texts[i], strlen(texts[i]), 3, b, 64, &k));
        CHECK(n == k && memcmp(a, b, (size_t)n * sizeof *a) == 0);
    }
    CHECK(t == NULL || peft__tokenizer_adds_eos(t));
    peft_tokenizer_close(t);
    peft_tokenizer_close(other);
    free_vocab(&v);
}

static void check_refused(peft_context *ctx) {
    static const struct {
        const char *model, *pre;
        uint32_t bos;
        int drop; /* leave out: 1 merges, 2 part of the types */
        peft_status want;
    } cases[] = {{"gpt2", "no-such-model", 0, 0, PEFT_E_UNSUPPORTED},
                 {"rwkv", "smollm", 0, 0, PEFT_E_UNSUPPORTED},
                 {"gpt2", "smollm", 100000, 0, PEFT_E_FORMAT},
                 {"gpt2", "smollm", 0, 1, PEFT_E_FORMAT},
                 {"gpt2", "smollm", 0, 2, PEFT_E_FORMAT},
                 {"llama", "default", 0, 0, PEFT_E_FORMAT},
                 {"t5", "default", 0, 0, PEFT_E_FORMAT}};
    for (size_t i = 0; i < PEFT_COUNT(cases); i++) {
        vocab v;
        peft__gguf_metadata m;
        load_vocab(&v, "bbpe-smollm");
        peft__gguf_metadata_init(&m, ctx->mem);
        peft__gguf_put_string(&m, "general.architecture", "llama");
        peft__gguf_put_string(&m, "tokenizer.ggml.model", cases[i].model);
        peft__gguf_put_string(&m, "tokenizer.ggml.pre", cases[i].pre);
        peft__gguf_put_strings(&m, "tokenizer.ggml.tokens", v.tokens, v.count);
        peft__gguf_put_i32s(&m, "tokenizer.ggml.token_type", v.types, cases[i].drop == 2 ? v.count / 2 : v.count);
        if (cases[i].drop != 1) put_merges(&m, &v);
        peft__gguf_put_u32(&m, "tokenizer.ggml.bos_token_id", cases[i].bos);
        CHECK(through_file(ctx, &m, cases[i].want) == NULL);
        free_vocab(&v);
    }
}

int main(void) {
    peft_context *ctx = test_context();
    check_bpe(ctx, "bbpe-gpt2", "gpt-2");
    check_bpe(ctx, "bbpe-smollm", "smollm");
    check_bpe(ctx, "bbpe-llama3", "llama-bpe");
    check_bpe(ctx, "bbpe-qwen2", "qwen2");
    check_spm(ctx);
    check_bert(ctx);
    check_t5(ctx);
    check_refused(ctx);
    peft_context_destroy(ctx);
    return check_summary();
}
