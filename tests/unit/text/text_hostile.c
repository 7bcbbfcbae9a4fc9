/* Files from strangers: a status and a sentence, never a crash or a hang; and memory that runs out at every allocation
 * in turn. */
#include "text_test.h"

static const char *const hostile[] = {
    "",
    "[]",
    "null",
    "{\"model\": null}",
    "{\"model\": {}}",
    "{\"version\": \"2.0\", \"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}}",
    "{\"model\": {\"type\": \"Magic\", \"vocab\": {}}}",
    "{\"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}}",
    "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": -1}, \"merges\": []}}",
    "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 99999999999}, \"merges\": []}}",
    "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": \"b\"}, \"merges\": []}}",
    "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a\"]}}",
    "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}}",
    "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]}}",
    "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [[\"a\", 1]]}}",
    "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"dropout\": 0.5}}",
    "{\"model\": {\"type\": \"Unigram\", \"vocab\": [], \"unk_id\": 0}}",
    "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 0]], \"unk_id\": 1}}",
    "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\"]], \"unk_id\": 0}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"added_tokens\": [{\"id\": 4194304, \"content\": "
    "\"x\"}]}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"added_tokens\": [1]}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"normalizer\": {\"type\": \"Magic\"}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"normalizer\": {\"type\": \"Precompiled\", "
    "\"precompiled_charsmap\": \"AAAA\"}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"normalizer\": {\"type\": \"Precompiled\", "
    "\"precompiled_charsmap\": \"/////w==\"}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"normalizer\": {\"type\": \"Precompiled\", "
    "\"precompiled_charsmap\": \"!\"}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"pre_tokenizer\": {\"type\": \"Split\", "
    "\"pattern\": {\"Regex\": \"(\"}, \"behavior\": \"Isolated\"}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"pre_tokenizer\": {\"type\": \"Split\", "
    "\"pattern\": {\"Regex\": \"[a&&b]\"}, \"behavior\": \"Isolated\"}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"pre_tokenizer\": {\"type\": \"Split\", "
    "\"pattern\": {\"Regex\": \"a\"}, \"behavior\": \"Sideways\"}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"pre_tokenizer\": {\"type\": \"Split\", "
    "\"pattern\": {}, \"behavior\": \"Isolated\"}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"pre_tokenizer\": {\"type\": \"FixedLength\", "
    "\"length\": 0}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"post_processor\": {\"type\": \"BertProcessing\", "
    "\"sep\": [\"x\", 7], \"cls\": [\"y\", 0]}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"post_processor\": {\"type\": "
    "\"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"x\"}}], \"pair\": []}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"post_processor\": {\"type\": "
    "\"TemplateProcessing\", \"single\": [], \"pair\": []}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"decoder\": {\"type\": \"Magic\"}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"decoder\": {\"type\": \"Strip\", \"content\": \" "
    "\", \"start\": -1}}",
};

/* Tokenizers that open, with texts that must give a status and no more. */
static const char *const odd[] = {
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}}",
    "{\"model\": {\"type\": \"WordPiece\", \"vocab\": {\"a\": 0}, \"unk_token\": \"b\"}}",
    "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"unk_token\": \"b\"}}",
    "{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\", 0]]}}",
    "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"aa\": 1}, \"merges\": [[\"a\", \"a\"]], "
    "\"continuing_subword_prefix\": \"##\", \"end_of_word_suffix\": \"</w>\"}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}, \"unk_token\": \"a\"}, \"normalizer\": {\"type\": "
    "\"Replace\", \"pattern\": {\"Regex\": \"x*\"}, \"content\": \"yy\"}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}, \"unk_token\": \"a\"}, \"pre_tokenizer\": {\"type\": "
    "\"Split\", \"pattern\": {\"Regex\": \"(a|b|ab)*\\\\Ka\"}, \"behavior\": \"Isolated\"}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}, \"unk_token\": \"a\"}, \"pre_tokenizer\": {\"type\": "
    "\"Split\", \"pattern\": {\"Regex\": \"(?=a)\"}, \"behavior\": \"MergedWithNext\"}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}, \"unk_token\": \"a\"}, \"pre_tokenizer\": {\"type\": "
    "\"Split\", \"pattern\": {\"Regex\": \"(a+)+$\"}, \"behavior\": \"Isolated\"}}",
    "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}, \"unk_token\": \"a\"}, \"normalizer\": {\"type\": "
    "\"Precompiled\", \"precompiled_charsmap\": \"CAAAAAAAAIAAAACA\"}}",
};

static void exercise(peft_context *ctx, const peft_tokenizer *t) {
    static const char *const texts[] = {"", "a", "ab aa\n\xC3\xA9 <s> </s>", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
                                        "\xF0\x9F\x91\xA9\xE2\x80\x8D"};
    for (size_t i = 0; i < PEFT_COUNT(texts); i++) {
        int64_t count = 0;
        peft_token tokens[64];
        int32_t ids[64];
        char text[256];
        size_t length = 0;
        peft_status status = peft_tokenizer_encode_pair(t, texts[i], strlen(texts[i]), i % 2 ? "b" : NULL, i % 2, 3, 0,
                                                        PEFT_TRUNCATE_NONE, tokens, 64, &count);
        if (status != PEFT_OK) {
            CHECK(peft_context_error(ctx)[0] != '\0');
            continue;
        }
        for (int64_t k = 0; k < count; k++) ids[k] = tokens[k].id;
        status = peft_tokenizer_decode(t, ids, count, 0, text, sizeof text, &length);
        CHECK(status == PEFT_OK || status == PEFT_E_LIMIT || status == PEFT_E_ARG);
    }
}

static void check_hostile(peft_context *ctx) {
    for (size_t i = 0; i < PEFT_COUNT(hostile); i++) {
        peft_tokenizer *t = NULL;
        const peft_status status = peft_tokenizer_open_memory(ctx, hostile[i], strlen(hostile[i]), &t);
        if (!CHECK(status < 0 && t == NULL && peft_context_error(ctx)[0] != '\0'))
            fprintf(stderr, "    %s\n", hostile[i]);
        peft_tokenizer_close(t);
    }
    for (size_t i = 0; i < PEFT_COUNT(odd); i++) {
        peft_tokenizer *t = NULL;
        CHECK_OK(ctx, peft_tokenizer_open_memory(ctx, odd[i], strlen(odd[i]), &t));
        if (t != NULL) exercise(ctx, t);
        peft_tokenizer_close(t);
    }
    /* a chain of stages deeper than any file needs */
    char *deep = malloc(1 << 16);
    if (deep == NULL) exit(1);
    strcpy(deep, "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}, \"normalizer\": ");
    for (int i = 0; i < 500; i++) strcat(deep, "{\"type\": \"Sequence\", \"normalizers\": [");
    peft_tokenizer *t = NULL;
    CHECK(peft_tokenizer_open_memory(ctx, deep, strlen(deep), &t) < 0);
    free(deep);
}

/* Bytes of good files changed at random: any status, no crash. */
static void check_mutations(peft_context *ctx) {
    peft__rng rng = peft__rng_make(1, 2);
    for (size_t n = 0; n < PEFT_COUNT(fixture_names); n++) {
        char path[4096];
        peft__source *source = NULL;
        CHECK_OK(ctx, peft__source_open_path(ctx, data_path(path, sizeof path, fixture_names[n], "tokenizer.json"),
                                             &source));
        if (source == NULL) continue;
        char *copy = malloc(source->size);
        if (copy == NULL) exit(1);
        for (int round = 0; round < 30; round++) {
            size_t size = source->size;
            memcpy(copy, source->data, size);
            const uint64_t changes = 1 + peft__rng_below(&rng, 4);
            for (uint64_t k = 0; k < changes; k++) {
                static const char bytes[] = "0123456789\"{}[],:ax-";
                copy[peft__rng_below(&rng, size)] = bytes[peft__rng_below(&rng, sizeof bytes - 1)];
            }
            if (round % 10 == 9) size = (size_t)peft__rng_below(&rng, size);
            peft_tokenizer *t = NULL;
            if (peft_tokenizer_open_memory(ctx, copy, size, &t) == PEFT_OK)
                exercise(ctx, t);
            else
                CHECK(t == NULL);
            peft_tokenizer_close(t);
        }
        free(copy);
        peft__source_unref(source);
    }
}

typedef struct failing {
    uint64_t left; /* allocations until one fails */
    uint64_t live;
} failing;

static void *failing_alloc(void *user, size_t size, size_t align) {
    failing *f = user;
    void *memory = NULL;
    if (f->left == 0 || posix_memalign(&memory, align < sizeof(void *) ? sizeof(void *) : align, size ? size : 1) != 0)
        return NULL;
    f->left--;
    f->live++;
    return memory;
}

static void failing_free(void *user, void *memory, size_t size) {
    failing *f = user;
    (void)size;
    if (memory != NULL) f->live--;
    free(memory);
}

static peft_status use(peft_context *ctx, const char *path) {
    peft_tokenizer *t = NULL;
    int64_t count;
    size_t length;
    char text[512];
    const peft_chat_message messages[] = {{"system", "s"}, {"user", "u"}, {"assistant", "a"}};
    PEFT_TRY(peft_tokenizer_open(ctx, path, &t));
    peft_status status = peft_tokenizer_encode_pair(t, "Hello  12 \xC3\xA9<s>", 15, "x y", 3, 3, 0, 0, NULL, 0, &count);
    const int32_t ids[] = {5, 6, 7, 8};
    if (status == PEFT_OK) status = peft_tokenizer_decode(t, ids, 4, 0, text, sizeof text, &length);
    if (status == PEFT_OK)
        status = peft_chat_render(t, "llama2", messages, 3, 1, text, sizeof text, &length, NULL, 0, NULL);
    peft_tokenizer_close(t);
    return status;
}

static void check_memory(void) {
    static const char *const names[] = {"bbpe-qwen2", "unigram-t5", "wordpiece-uncased", "bpe-llama2"};
    for (size_t n = 0; n < PEFT_COUNT(names); n++) {
        char path[4096];
        data_path(path, sizeof path, names[n], "tokenizer.json");
        bool done = false;
        for (uint64_t allowed = 0; !done && allowed < 5000; allowed++) {
            failing f = {.left = UINT64_MAX};
            const peft_allocator allocator = {failing_alloc, failing_free, &f};
            peft_context_options options;
            peft_context *ctx = NULL;
            peft_context_options_init(&options);
            options.allocator = &allocator;
            options.threads = 1;
            if (peft_context_create(&options, &ctx) != PEFT_OK) exit(1);
            f.left = allowed;
            const peft_status status = use(ctx, path);
            if (!CHECK(status == PEFT_OK || status == PEFT_E_NOMEM))
                fprintf(stderr, "    %s, %llu allocations: %s %s\n", names[n], (unsigned long long)allowed,
                        peft_status_name(status), peft_context_error(ctx));
            done = status == PEFT_OK;
            peft_context_destroy(ctx);
            CHECK(f.live == 0);
        }
        CHECK(done);
    }
}

int main(void) {
    peft_context *ctx = test_context();
    check_hostile(ctx);
    check_mutations(ctx);
    peft_context_destroy(ctx);
    check_memory();
    return check_summary();
}
