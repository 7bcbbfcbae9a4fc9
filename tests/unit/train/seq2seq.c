/* Encoder-decoder models: generation token by token against whole passes and against transformers, scores of texts,
 * GGUF files, and what T-Few's losses ask of a batch. */
#include <math.h>

#include "check.h"
#include "peft/peft.h"

enum { VOCAB = 48, MOST = 12, NEW = 10 };

static peft_context *ctx;

static const struct {
    int count;
    int32_t ids[11];
} prompts[] = {
    {6, {14, 4, 39, 35, 30, 22}}, {3, {40, 11, 19}}, {11, {29, 2, 13, 5, 21, 8, 35, 13, 46, 28, 38}}, {1, {36}},
    {5, {7, 29, 20, 18, 32}},
};

/* What transformers generates from tests/data/models/t5-tiny (make_t5.py). */
static const struct {
    int prompt, beams;
    float length_penalty, repetition_penalty;
    int count;
    int32_t ids[NEW];
} known[] = {
    {0, 1, 1.0f, 1.0f, 1, {45}},
    {0, 3, 1.0f, 1.0f, 9, {45, 21, 17, 6, 36, 43, 16, 30, 21}},
    {0, 4, 0.0f, 1.0f, 1, {45}},
    {0, 4, 2.5f, 1.0f, 9, {45, 21, 17, 6, 36, 43, 16, 30, 21}},
    {0, 2, 1.0f, 1.4f, 1, {45}},
    {1, 1, 1.0f, 1.0f, 5, {41, 41, 7, 41, 25}},
    {1, 3, 1.0f, 1.0f, 4, {41, 17, 41, 25}},
    {1, 4, 0.0f, 1.0f, 2, {41, 25}},
    {1, 4, 2.5f, 1.0f, 9, {41, 17, 41, 41, 41, 41, 41, 41, 25}},
    {1, 2, 1.0f, 1.4f, 10, {41, 25, 21, 41, 41, 41, 41, 41, 41, 41}},
    {2, 1, 1.0f, 1.0f, 4, {37, 43, 13, 36}},
    {2, 3, 1.0f, 1.0f, 10, {37, 43, 37, 3, 37, 37, 37, 37, 37, 37}},
    {2, 4, 0.0f, 1.0f, 1, {37}},
    {2, 4, 2.5f, 1.0f, 10, {37, 12, 37, 3, 37, 37, 37, 37, 37, 37}},
    {2, 2, 1.0f, 1.4f, 4, {37, 43, 13, 36}},
    {3, 1, 1.0f, 1.0f, 1, {45}},
    {3, 3, 1.0f, 1.0f, 10, {40, 36, 36, 25, 36, 21, 36, 21, 36, 21}},
    {3, 4, 0.0f, 1.0f, 1, {45}},
    {3, 4, 2.5f, 1.0f, 10, {45, 21, 41, 36, 30, 21, 30, 30, 30, 30}},
    {3, 2, 1.0f, 1.4f, 6, {45, 21, 41, 36, 30, 43}},
    {4, 1, 1.0f, 1.0f, 9, {32, 36, 32, 45, 21, 17, 12, 40, 21}},
    {4, 3, 1.0f, 1.0f, 10, {24, 6, 6, 32, 44, 24, 44, 24, 44, 24}},
    {4, 4, 0.0f, 1.0f, 4, {45, 16, 12, 43}},
    {4, 4, 2.5f, 1.0f, 10, {24, 6, 6, 32, 44, 24, 44, 24, 44, 24}},
    {4, 2, 1.0f, 1.4f, 4, {45, 16, 12, 43}},
};

static peft_model *load(const char *name) {
    char path[4096];
    peft_model *model = NULL;
    snprintf(path, sizeof path, "%s/models/%s", getenv("PEFT_TEST_DATA"), name);
    CHECK_OK(ctx, peft_model_load(ctx, path, NULL, &model));
    return model;
}

static peft_session *session_of(peft_model *model, peft_adapter *adapter, int32_t loss) {
    peft_session *session = NULL;
    peft_session_options options;
    peft_session_options_init(&options);
    options.loss = loss;
    CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, adapter != NULL, &options, &session));
    return session;
}

static void check_known(const char *name) {
    peft_model *model = load(name);
    peft_session *s = session_of(model, NULL, PEFT_LOSS_TASK);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        int32_t out[NEW];
        int64_t count = -1;
        peft_generate_options o;
        peft_generate_options_init(&o);
        o.max_new_tokens = NEW;
        o.num_beams = (uint32_t)known[i].beams;
        o.length_penalty = known[i].length_penalty;
        o.repetition_penalty = known[i].repetition_penalty;
        CHECK_OK(ctx, peft_session_generate(s, prompts[known[i].prompt].ids, prompts[known[i].prompt].count, &o, out,
                                            NEW, &count));
        CHECK(count == known[i].count && memcmp(out, known[i].ids, (size_t)known[i].count * sizeof *out) == 0);
    }
    peft_session_destroy(s);
    peft_model_destroy(model);
}

/* ---- against whole passes ---- */

static const int32_t one_offset[2] = {0, 6};

static void naive(peft_session *s, const int32_t *prompt, int32_t *out) {
    int32_t ids[NEW + 1] = {0}, decoder_offsets[2] = {0, 0};
    float logits[VOCAB];
    for (int i = 0; i < NEW; i++) {
        peft_batch batch;
        peft_batch_init(&batch);
        batch.rows = one_offset[1];
        batch.sequences = batch.decoder_sequences = 1;
        batch.offsets = one_offset;
        batch.input_ids = prompt;
        batch.decoder_rows = decoder_offsets[1] = i + 1;
        batch.decoder_offsets = decoder_offsets;
        batch.decoder_input_ids = ids;
        CHECK_OK(ctx, peft_session_logits(s, &batch, PEFT_LOGITS_LAST, logits, VOCAB, NULL, NULL));
        int best = 0;
        for (int c = 1; c < VOCAB; c++)
            if (logits[c] > logits[best]) best = c;
        out[i] = ids[i + 1] = best;
    }
}

static void check_adapter(peft_model *model, const char *config) {
    peft_adapter *adapter = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, model, config, 7, &adapter));
    peft_session *s = session_of(model, adapter, PEFT_LOSS_TASK);
    int32_t want[NEW], got[NEW];
    int64_t count = 0;
    peft_generate_options o;
    peft_generate_options_init(&o);
    o.max_new_tokens = NEW;
    o.ignore_eos = 1;
    naive(s, prompts[0].ids, want);
    CHECK_OK(ctx, peft_session_generate(s, prompts[0].ids, prompts[0].count, &o, got, NEW, &count));
    CHECK(count == NEW && memcmp(got, want, sizeof want) == 0);
    o.num_beams = 3; /* goes through, and a second time to the same */
    int64_t again = 0;
    CHECK_OK(ctx, peft_session_generate(s, prompts[2].ids, prompts[2].count, &o, want, NEW, &count));
    CHECK_OK(ctx, peft_session_generate(s, prompts[2].ids, prompts[2].count, &o, got, NEW, &again));
    CHECK(count == again && memcmp(got, want, (size_t)count * sizeof *want) == 0);
    peft_session_destroy(s);
    peft_adapter_destroy(adapter);
}

static void check_refusals(peft_model *model) {
    peft_session *s = session_of(model, NULL, PEFT_LOSS_TASK);
    int32_t out[NEW];
    int64_t count = 0;
    peft_generate_options o;
    peft_generate_options_init(&o);
    o.num_beams = 0;
    CHECK_STATUS(ctx, peft_session_generate(s, prompts[0].ids, 3, &o, out, NEW, &count), PEFT_E_ARG);
    o.num_beams = 100000;
    CHECK_STATUS(ctx, peft_session_generate(s, prompts[0].ids, 3, &o, out, NEW, &count), PEFT_E_ARG);
    o.num_beams = 2;
    o.temperature = 1.0f;
    CHECK_STATUS(ctx, peft_session_generate(s, prompts[0].ids, 3, &o, out, NEW, &count), PEFT_E_UNSUPPORTED);
    o.temperature = 0.0f;
    o.length_penalty = NAN;
    CHECK_STATUS(ctx, peft_session_generate(s, prompts[0].ids, 3, &o, out, NEW, &count), PEFT_E_ARG);
    o.length_penalty = 1.0f;
    CHECK_OK(ctx, peft_session_generate(s, prompts[0].ids, 3, &o, out, 0, &count));
    CHECK(count == 0);
    peft_session_destroy(s);
    peft_model *causal = load("llama-gqa");
    s = session_of(causal, NULL, PEFT_LOSS_TASK);
    CHECK_STATUS(ctx, peft_session_generate(s, prompts[0].ids, 3, &o, out, NEW, &count), PEFT_E_UNSUPPORTED);
    peft_session_destroy(s);
    peft_session_options options;
    peft_session_options_init(&options);
    options.loss = PEFT_LOSS_TFEW;
    CHECK_OK(ctx, peft_session_create(ctx, causal, NULL, 0, &options, &s));
    static const int32_t two[] = {0, 3, 6}, ids[] = {5, 6, 7, 5, 6, 8}, answer[] = {-100, -100, 7, -100, -100, 8};
    static const int32_t first[] = {0, 2}, beyond[] = {0, 3}, last[] = {1, 0}, third[] = {2, 0};
    peft_batch batch;
    double loss = 0.0, examples = 0.0;
    peft_batch_init(&batch);
    batch.rows = 6;
    batch.sequences = 2;
    batch.offsets = two;
    batch.input_ids = ids;
    batch.labels = answer;
    batch.sequence_labels = last;
    CHECK_STATUS(ctx, peft_session_eval(s, &batch, &loss, &examples), PEFT_E_ARG); /* whose answers? */
    batch.questions = 1;
    CHECK_STATUS(ctx, peft_session_eval(s, &batch, &loss, &examples), PEFT_E_ARG);
    batch.choice_offsets = beyond;
    CHECK_STATUS(ctx, peft_session_eval(s, &batch, &loss, &examples), PEFT_E_ARG);
    batch.choice_offsets = first;
    CHECK_OK(ctx, peft_session_eval(s, &batch, &loss, &examples));
    CHECK(examples == 1.0 && loss > 0.0);
    batch.sequence_labels = third;
    CHECK_STATUS(ctx, peft_session_eval(s, &batch, &loss, &examples), PEFT_E_ARG);
    batch.labels = ids;
    batch.sequence_labels = last;
    CHECK_OK(ctx, peft_session_eval(s, &batch, &loss, &examples));
    peft_session_destroy(s);
    options.label_smoothing = 0.1f;
    CHECK_STATUS(ctx, peft_session_create(ctx, model, NULL, 0, &options, &s), PEFT_E_ARG);
    peft_model_destroy(causal);
}

/* ---- scores and choices ---- */

/* Two examples with three and two answers. */
static const int32_t offsets[] = {0, 4, 9}, input_ids[] = {14, 4, 39, 35, 7, 29, 20, 18, 32};
static const int32_t decoder_offsets[] = {0, 2, 5, 6, 8, 11}, decoder_ids[] = {0, 5, 0, 9, 3, 0, 0, 4, 0, 8, 8};
static const int32_t source[] = {0, 1, 0, 1, 0}, right[] = {2, 0};

static peft_batch answers(int32_t *labels) {
    peft_batch batch;
    peft_batch_init(&batch);
    for (int i = 0; i < 11; i++) labels[i] = i == 3 ? -100 : 2 + 4 * i;
    batch.rows = 9;
    batch.sequences = 2;
    batch.offsets = offsets;
    batch.input_ids = input_ids;
    batch.decoder_rows = 11;
    batch.decoder_sequences = 5;
    batch.decoder_offsets = decoder_offsets;
    batch.decoder_input_ids = decoder_ids;
    batch.decoder_labels = labels;
    batch.decoder_source = source;
    return batch;
}

static double nll_of(const float *row, int32_t label) {
    double sum = 0.0;
    for (int c = 0; c < VOCAB; c++) sum += exp((double)row[c]);
    return log(sum) - (double)row[label];
}

static void check_scores(peft_model *model) {
    int32_t labels[11];
    peft_batch batch = answers(labels);
    peft_session *s = session_of(model, NULL, PEFT_LOSS_TASK);
    static float logits[11 * VOCAB];
    double nll[5], loss = 0.0, counted = 0.0, sum = 0.0;
    int64_t tokens[5], count = 0, all = 0;
    CHECK_OK(ctx, peft_session_logits(s, &batch, PEFT_LOGITS_ALL, logits, 11 * VOCAB, NULL, NULL));
    CHECK_OK(ctx, peft_session_score(s, &batch, nll, tokens, 5, &count));
    CHECK_OK(ctx, peft_session_eval(s, &batch, &loss, &counted));
    CHECK(count == 5);
    for (int c = 0; c < 5; c++) {
        double want = 0.0;
        for (int r = decoder_offsets[c]; r < decoder_offsets[c + 1]; r++)
            if (labels[r] != -100) want += nll_of(logits + r * VOCAB, labels[r]);
        CHECK(fabs(nll[c] - want) < 1e-4);
        sum += nll[c];
        all += tokens[c];
    }
    CHECK(all == 10 && counted == 10.0 && fabs(sum / 10.0 - loss) < 1e-5);
    CHECK_OK(ctx, peft_session_score(s, &batch, NULL, NULL, 5, NULL));
    CHECK_STATUS(ctx, peft_session_score(s, &batch, nll, tokens, 4, &count), PEFT_E_LIMIT);
    peft_session_destroy(s);
}

static void check_causal_scores(void) {
    peft_model *model = load("llama-gqa");
    peft_session *s = session_of(model, NULL, PEFT_LOSS_TASK);
    static const int32_t labels[] = {-100, -100, 39, 35, -100, -100, 20, 18, 32};
    peft_batch batch;
    peft_batch_init(&batch);
    batch.rows = 9;
    batch.sequences = 2;
    batch.offsets = offsets;
    batch.input_ids = input_ids;
    batch.labels = labels;
    double nll[2], loss = 0.0;
    int64_t tokens[2], count = 0;
    CHECK_OK(ctx, peft_session_score(s, &batch, nll, tokens, 2, &count));
    CHECK_OK(ctx, peft_session_eval(s, &batch, &loss, NULL));
    CHECK(count == 2 && tokens[0] == 2 && tokens[1] == 3 && fabs((nll[0] + nll[1]) / 5.0 - loss) < 1e-5);
    peft_session_destroy(s);
    peft_model_destroy(model);
}

static void check_choices(peft_model *model) {
    int32_t labels[11], bad[2] = {3, 0};
    peft_batch batch = answers(labels);
    peft_adapter *adapter = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, model, "{\"peft_type\": \"IA3\"}", 1, &adapter));
    peft_session *s = session_of(model, adapter, PEFT_LOSS_TFEW);
    double loss = 0.0, count = 0.0;
    CHECK_STATUS(ctx, peft_session_forward(s, &batch, &loss), PEFT_E_ARG);
    batch.sequence_labels = bad;
    CHECK_STATUS(ctx, peft_session_forward(s, &batch, &loss), PEFT_E_ARG);
    CHECK(strstr(peft_context_error(ctx), "3 answers") != NULL);
    batch.sequence_labels = right;
    labels[5] = -100;
    CHECK_STATUS(ctx, peft_session_forward(s, &batch, &loss), PEFT_E_ARG);
    CHECK(strstr(peft_context_error(ctx), "answer 2") != NULL);
    labels[5] = 22;
    CHECK_OK(ctx, peft_session_forward(s, &batch, &loss));
    CHECK_OK(ctx, peft_session_backward(s, 1.0f));
    CHECK_OK(ctx, peft_session_eval(s, &batch, NULL, &count));
    CHECK(count == 2.0 && loss > 0.0);
    peft_optimizer_options options;
    peft_optimizer_options_init(&options);
    options.lr = 0.05f;
    peft_optimizer *optimizer = NULL;
    CHECK_OK(ctx, peft_optimizer_create(ctx, adapter, &options, &optimizer));
    double later = 0.0;
    for (int i = 0; i < 20; i++) {
        CHECK_OK(ctx, peft_optimizer_step(optimizer, s, NULL));
        CHECK_OK(ctx, peft_session_forward(s, &batch, &later));
        CHECK_OK(ctx, peft_session_backward(s, 1.0f));
    }
    CHECK(later < 0.7 * loss);
    peft_optimizer_destroy(optimizer);
    peft_session_destroy(s);
    peft_adapter_destroy(adapter);
}

int main(void) {
    CHECK(peft_context_create(NULL, &ctx) == PEFT_OK);
    check_known("t5-tiny");
    check_known("t5-tiny.F32.gguf");
    peft_model *model = load("t5-tiny");
    check_adapter(model, "{\"peft_type\": \"LORA\", \"init_lora_weights\": false}");
    check_adapter(model, "{\"peft_type\": \"IA3\", \"init_ia3_weights\": false}");
    check_adapter(model, "{\"peft_type\": \"LN_TUNING\"}");
    check_adapter(model, "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 5}");
    check_adapter(model, "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 3}");
    check_adapter(model, "{\"peft_type\": \"P_TUNING\", \"num_virtual_tokens\": 2, \"encoder_hidden_size\": 8}");
    check_refusals(model);
    check_scores(model);
    check_causal_scores();
    check_choices(model);
    peft_model_destroy(model);
    peft_context_destroy(ctx);
    return check_summary();
}
