/* Generation: the cache gives what reading everything again gives; stop texts, characters and limits. */
#include "check.h"
#include "peft/peft.h"
#include "train/text_stream.h"

enum { VOCAB = 288, PROMPT = 9, NEW = 40 };

static peft_context *ctx;

/* ---- text that arrives in pieces ---- */

static char heard[4096];

static int32_t hear(void *user, const char *text, uint32_t length) {
    (void)user;
    strncat(heard, text, length);
    return strstr(heard, "ENOUGH") != NULL;
}

static void check_stream(const char *const *pieces, const char *const *stop, uint32_t stop_count, const char *want,
                         bool want_end) {
    peft__text_stream stream;
    peft__text_stream_init(&stream, ctx, NULL, 0);
    stream.stop = stop;
    stream.stop_count = stop_count;
    stream.emit = hear;
    heard[0] = '\0';
    for (size_t i = 0; pieces[i] != NULL; i++)
        CHECK_OK(ctx, peft__text_stream_text(&stream, pieces[i], strlen(pieces[i]), pieces[i + 1] == NULL));
    CHECK_STR(heard, want);
    CHECK(stream.ended == want_end);
    peft__text_stream_free(&stream);
}

static void check_streams(void) {
    const char *const stop[] = {"</end>", "\nUser:", ""};
    check_stream((const char *[]){"one ", "two", NULL}, NULL, 0, "one two", false);
    check_stream((const char *[]){"one <", "/e", "nd> two", NULL}, stop, 3, "one ", true);
    check_stream((const char *[]){"one <", "/e", "d> two", NULL}, stop, 3, "one </ed> two", false);
    check_stream((const char *[]){"a\nUs", "er", NULL}, stop, 3, "a\nUser", false);
    check_stream((const char *[]){"a\n\nUser:</end>", "er", NULL}, stop, 3, "a\n", true);
    check_stream((const char *[]){"<<<", "</end>", NULL}, stop, 3, "<<<", true);
    check_stream((const char *[]){"ENOUGH", " more", NULL}, NULL, 0, "ENOUGH", true);
}

/* ---- tokens ---- */

static void naive(peft_session *s, const int32_t *prompt, int32_t *out) {
    static float logits[VOCAB];
    int32_t ids[PROMPT + NEW], offsets[2] = {0, 0};
    memcpy(ids, prompt, PROMPT * sizeof *ids);
    for (int i = 0; i < NEW; i++) {
        offsets[1] = PROMPT + i;
        peft_batch batch;
        peft_batch_init(&batch);
        batch.rows = PROMPT + i;
        batch.sequences = 1;
        batch.offsets = offsets;
        batch.input_ids = ids;
        CHECK_OK(ctx, peft_session_logits(s, &batch, PEFT_LOGITS_LAST, logits, VOCAB, NULL, NULL));
        int best = 0;
        for (int c = 1; c < VOCAB; c++)
            if (logits[c] > logits[best]) best = c;
        out[i] = ids[PROMPT + i] = best;
    }
}

static int32_t stop_after_three(void *user, const char *text, uint32_t length) {
    (void)text;
    (void)length;
    return ++*(int *)user == 3;
}

static void check_model(const char *name) {
    char path[4096];
    peft_model *model = NULL;
    peft_adapter *adapter = NULL;
    peft_session *s = NULL;
    snprintf(path, sizeof path, "%s/models/%s", getenv("PEFT_TEST_DATA"), name);
    CHECK_OK(ctx, peft_model_load(ctx, path, NULL, &model));
    if (model == NULL) return;
    CHECK_OK(ctx, peft_adapter_create(
                      ctx, model,
                      "{\"peft_type\": \"LORA\", \"target_modules\": \"all-linear\", \"init_lora_weights\": false}", 3,
                      &adapter));
    CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, 1, NULL, &s));
    if (s == NULL) return;
    const int32_t prompt[PROMPT] = {5, 80, 81, 200, 3, 100, 120, 9, 17};
    int32_t want[NEW], got[NEW], again[NEW];
    int64_t count = 0;
    peft_generate_options o;
    peft_generate_options_init(&o);
    o.max_new_tokens = NEW;
    o.ignore_eos = 1;
    naive(s, prompt, want);
    CHECK_OK(ctx, peft_session_generate(s, prompt, PROMPT, &o, got, NEW, &count));
    CHECK(count == NEW && memcmp(got, want, sizeof want) == 0);
    CHECK_OK(ctx, peft_session_generate(s, prompt, PROMPT, &o, got, 7, &count));
    CHECK(count == 7 && memcmp(got, want, 7 * sizeof *want) == 0);

    /* Drawing: the seed is all. */
    o.temperature = 1.0f;
    o.top_k = 50;
    o.top_p = 0.95f;
    o.repetition_penalty = 1.1f;
    o.seed = 12;
    CHECK_OK(ctx, peft_session_generate(s, prompt, PROMPT, &o, got, NEW, NULL));
    CHECK_OK(ctx, peft_session_generate(s, prompt, PROMPT, &o, again, NEW, NULL));
    CHECK(memcmp(got, again, sizeof got) == 0 && memcmp(got, want, sizeof want) != 0);
    o.seed = 13;
    CHECK_OK(ctx, peft_session_generate(s, prompt, PROMPT, &o, again, NEW, NULL));
    CHECK(memcmp(got, again, sizeof got) != 0);

    /* Text as it comes; the host ends it. */
    int pieces = 0;
    o.on_text = stop_after_three;
    o.user = &pieces;
    CHECK_OK(ctx, peft_session_generate(s, prompt, PROMPT, &o, got, NEW, &count));
    CHECK(pieces == 3 && count >= 3 && count < NEW);

    peft_generate_options_init(&o);
    CHECK_STATUS(ctx, peft_session_generate(s, prompt, PROMPT, &o, NULL, 0, NULL),
                 PEFT_E_LIMIT); /* 128 new ones, 64 positions */
    o.max_new_tokens = 4;
    const int32_t bad[1] = {VOCAB + 100};
    CHECK_STATUS(ctx, peft_session_generate(s, bad, 1, &o, got, NEW, &count), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_session_generate(s, prompt, 0, &o, got, NEW, &count), PEFT_E_ARG);
    o.top_p = 0.0f;
    CHECK_STATUS(ctx, peft_session_generate(s, prompt, PROMPT, &o, got, NEW, &count), PEFT_E_ARG);
    peft_session_destroy(s);
    peft_adapter_destroy(adapter);
    peft_model_destroy(model);
}

int main(void) {
    CHECK(peft_context_create(NULL, &ctx) == PEFT_OK);
    check_streams();
    check_model("llama-gqa");
    check_model("llama-gqa.Q4_1.gguf");
    peft_context_destroy(ctx);
    return check_summary();
}
