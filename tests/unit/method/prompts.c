/* prompts.c: soft prompts: how they begin, what of them is saved, where their rows go, what a prefix costs, what is
 * refused. */
#include "support.h"

enum { VOCAB = 288, ROWS = 24, SEQUENCES = 3 };

typedef struct fixture {
    peft_context *ctx;
    peft_model *model;
    peft_batch batch;
    int32_t offsets[SEQUENCES + 1], ids[ROWS], labels[ROWS];
} fixture;

static void fill_batch(fixture *t) {
    static const int32_t offsets[SEQUENCES + 1] = {0, 9, 13, ROWS};
    memcpy(t->offsets, offsets, sizeof offsets);
    for (int i = 0; i < ROWS; i++) t->ids[i] = t->labels[i] = 3 + i * 37 % (VOCAB - 3);
    peft_batch_init(&t->batch);
    t->batch.rows = ROWS;
    t->batch.sequences = SEQUENCES;
    t->batch.offsets = t->offsets;
    t->batch.input_ids = t->ids;
    t->batch.labels = t->labels;
}

static peft_adapter *make(fixture *t, const char *config, uint64_t seed) {
    peft_adapter *adapter = NULL;
    CHECK_OK(t->ctx, peft_adapter_create(t->ctx, t->model, config, seed, &adapter));
    return adapter;
}

static double loss_of(fixture *t, peft_adapter *adapter, const peft_batch *batch) {
    peft_session *session = NULL;
    double loss = NAN;
    CHECK_OK(t->ctx, peft_session_create(t->ctx, t->model, &adapter, adapter != NULL ? 1 : 0, NULL, &session));
    if (session != NULL) CHECK_OK(t->ctx, peft_session_eval(session, batch, &loss, NULL));
    peft_session_destroy(session);
    return loss;
}

static const float *tensor(const peft_adapter *adapter, const char *name, int64_t *out_cols) {
    for (uint32_t i = 0; i < adapter->count; i++)
        if (strcmp(adapter->params[i].name, name) == 0) {
            *out_cols = adapter->params[i].shape[1];
            return adapter->params[i].data;
        }
    CHECK(false);
    return NULL;
}

/* ---- gradients, training, saving ------------------------------------------------------------------------------- */

/* The gradient along itself and random directions against differences of the loss. */
static void check_gradient(fixture *t, peft_session *session, peft_adapter *adapter) {
    const int64_t count = peft_adapter_parameter_count(adapter);
    float *start = malloc((size_t)count * sizeof *start), *grad = malloc((size_t)count * sizeof *grad);
    float *at = malloc((size_t)count * sizeof *at), *way = malloc((size_t)count * sizeof *way);
    CHECK_OK(t->ctx, peft_adapter_get_parameters(adapter, start, count));
    CHECK_OK(t->ctx, peft_session_forward(session, &t->batch, NULL));
    CHECK_OK(t->ctx, peft_session_backward(session, 1.0f));
    CHECK_OK(t->ctx, peft_session_get_gradients(session, adapter, grad, count));
    CHECK_OK(t->ctx, peft_session_zero_grad(session));
    double square = 0.0;
    for (int64_t i = 0; i < count; i++) square += (double)grad[i] * (double)grad[i];
    CHECK(square > 0.0 && isfinite(square));
    peft__rng rng = peft__rng_make(5, 5);
    for (int direction = 0; direction < 3; direction++) {
        double slope = 0.0, length = 0.0, side[2] = {0.0, 0.0};
        for (int64_t i = 0; i < count; i++) {
            const float tilt = direction == 0 ? 0.0f : 0.7f * peft__rng_normal(&rng) / sqrtf((float)count);
            way[i] = (float)((double)grad[i] / sqrt(square)) + tilt;
            slope += (double)way[i] * (double)grad[i];
            length += (double)way[i] * (double)way[i];
        }
        const double step = 1e-2 / sqrt(length);
        for (int s = 0; s < 2; s++) {
            for (int64_t i = 0; i < count; i++) at[i] = start[i] + (float)((s == 0 ? step : -step) * (double)way[i]);
            CHECK_OK(t->ctx, peft_adapter_set_parameters(adapter, at, count));
            CHECK_OK(t->ctx, peft_session_eval(session, &t->batch, &side[s], NULL));
        }
        CHECK_NEAR((side[0] - side[1]) / (2 * step), slope, 0.02 * fabs(slope) + 2e-4);
    }
    CHECK_OK(t->ctx, peft_adapter_set_parameters(adapter, start, count));
    free(start), free(grad), free(at), free(way);
}

static double train(fixture *t, peft_session *session, peft_adapter *adapter) {
    peft_optimizer *optimizer = NULL;
    peft_optimizer_options options;
    peft_optimizer_options_init(&options);
    options.lr = 1e-2f;
    CHECK_OK(t->ctx, peft_optimizer_create(t->ctx, adapter, &options, &optimizer));
    double loss = 0.0;
    for (int i = 0; i < 8; i++) {
        CHECK_OK(t->ctx, peft_session_forward(session, &t->batch, &loss));
        CHECK_OK(t->ctx, peft_session_backward(session, 1.0f));
        CHECK_OK(t->ctx, peft_optimizer_step(optimizer, session, NULL));
    }
    CHECK_OK(t->ctx, peft_session_eval(session, &t->batch, &loss, NULL));
    peft_optimizer_destroy(optimizer);
    return loss;
}

static void check_whole(fixture *t, const char *config) {
    peft_adapter *adapter = make(t, config, 3), *loaded = NULL;
    peft_session *session = NULL;
    char folder[512], command[600];
    scratch_folder(folder, sizeof folder);
    if (adapter == NULL) return;
    CHECK_OK(t->ctx, peft_session_create(t->ctx, t->model, &adapter, 1, NULL, &session));
    check_gradient(t, session, adapter);
    const double before = loss_of(t, adapter, &t->batch), after = train(t, session, adapter);
    CHECK(after < before);
    CHECK_OK(t->ctx, peft_adapter_save(adapter, folder));
    CHECK_OK(t->ctx, peft_adapter_load(t->ctx, t->model, folder, &loaded));
    if (loaded != NULL) { /* a table, whatever computed it, and it trains further */
        CHECK(loaded->count == 1 && strcmp(loaded->params[0].name, "prompt_encoder.embedding.weight") == 0);
        CHECK_NEAR(loss_of(t, loaded, &t->batch), after, 1e-5);
        peft_session_destroy(session);
        CHECK_OK(t->ctx, peft_session_create(t->ctx, t->model, &loaded, 1, NULL, &session));
        CHECK(train(t, session, loaded) < after);
    }
    peft_session_destroy(session);
    peft_adapter_destroy(loaded);
    peft_adapter_destroy(adapter);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    CHECK(system(command) == 0);
}

/* ---- beginnings --------------------------------------------------------------------------------------------- */

static void check_beginnings(fixture *t) {
    float *table = malloc((size_t)VOCAB * 64 * sizeof *table);
    int64_t cols = 0;
    CHECK_OK(t->ctx, peft__model_read_tensor(t->ctx, t->model, "model.embed_tokens.weight", table));
    /* The first rows: averages of the labels' pieces; the rest: different ones of the first 20 ids. */
    peft_adapter *a =
        make(t,
             "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 8, \"prompt_tuning_init\": \"SAMPLE_VOCAB\", "
             "\"prompt_tuning_init_labels\": [\"ab\", \"c\"], \"prompt_tuning_init_vocab\": 20}",
             1);
    const peft_tokenizer *tokenizer = peft_model_tokenizer(t->model);
    int32_t ids[16];
    int64_t count = 0;
    CHECK_OK(t->ctx, peft_tokenizer_encode(tokenizer, "ab", 2, PEFT_ENCODE_PLAIN, ids, 16, &count));
    if (a != NULL) {
        const float *rows = tensor(a, "prompt_encoder.embedding.weight", &cols);
        CHECK(cols == 64 && count > 0);
        for (int64_t j = 0; j < 64; j++) {
            double mean = 0.0;
            for (int64_t k = 0; k < count; k++) mean += (double)table[ids[k] * 64 + j] / (double)count;
            CHECK_NEAR((double)rows[j], mean, 1e-6);
        }
        int found[8] = {0};
        for (int r = 2; r < 8; r++)
            for (int id = 0; id < 20; id++)
                if (memcmp(rows + r * 64, table + id * 64, 64 * sizeof *rows) == 0) found[r] = id + 1;
        for (int r = 2; r < 8; r++)
            for (int q = 2; q <= r; q++) CHECK(found[r] > 0 && (q == r || found[r] != found[q]));
        CHECK(strstr(peft_adapter_config(a), "init_labels") == NULL &&
              strstr(peft_adapter_config(a), "init_vocab") == NULL);
    }
    peft_adapter_destroy(a);
    a = make(t, "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 50, \"prompt_tuning_init_range\": 0.5}", 1);
    float most = 0.0f;
    for (int64_t i = 0; a != NULL && i < 50 * 64; i++) most = fmaxf(most, fabsf(a->params[0].data[i]));
    CHECK(most > 0.49f && most <= 0.5f);
    peft_adapter_destroy(a);
    free(table);
}

/* A prefix that begins with a text is the text. */
static void check_prefix_of_text(fixture *t, const char *more) {
    const char *text = "a b";
    int32_t ids[64];
    int64_t count = 0;
    CHECK_OK(t->ctx, peft_tokenizer_encode(peft_model_tokenizer(t->model), text, strlen(text), PEFT_ENCODE_SPECIAL, ids,
                                           32, &count));
    char config[256];
    snprintf(config, sizeof config,
             "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": %d, \"prefix_init_text\": \"%s\"%s}",
             (int)count, text, more);
    peft_adapter *a = make(t, config, 2);
    if (a == NULL) return;
    for (int i = 0; i < 9; i++) ids[count + i] = t->ids[i];
    float *got = logits_of(t->ctx, t->model, &a, 1, t->ids, 1, 9),
          *want = logits_of(t->ctx, t->model, NULL, 0, ids, 1, count + 9);
    if (got != NULL && want != NULL) CHECK(largest_difference(got, want + count * VOCAB, 9 * VOCAB) < 5e-5);
    free(got), free(want);
    peft_adapter_destroy(a);
}

/* ---- places ------------------------------------------------------------------------------------------------- */

/* A template that begins with the prompt's slots is a prompt in front; and slots may be anywhere, more than once. */
static void check_template(fixture *t) {
    enum { P = 3, LONG = ROWS + SEQUENCES * P };
    const char *front = "{\"peft_type\": \"P_TUNING\", \"num_virtual_tokens\": 3}";
    const char *place = "{\"peft_type\": \"P_TUNING\", \"num_virtual_tokens\": 3, \"prompt_position\": \"template\"}";
    peft_adapter *a = make(t, front, 4), *b = make(t, place, 4);
    int32_t offsets[SEQUENCES + 1] = {0}, ids[LONG], labels[LONG], slots[LONG];
    int32_t at = 0;
    for (int s = 0; s < SEQUENCES; s++) {
        for (int p = 0; p < P; p++, at++) ids[at] = 5, labels[at] = PEFT_IGNORE_LABEL, slots[at] = p;
        for (int32_t r = t->offsets[s]; r < t->offsets[s + 1]; r++, at++)
            ids[at] = t->ids[r], labels[at] = t->labels[r], slots[at] = -1;
        offsets[s + 1] = at;
    }
    peft_batch batch = t->batch;
    batch.rows = LONG;
    batch.offsets = offsets;
    batch.input_ids = ids;
    batch.labels = labels;
    batch.prompt_index = slots;
    if (a != NULL && b != NULL) {
        CHECK_NEAR(loss_of(t, a, &t->batch), loss_of(t, b, &batch), 1e-5);
        CHECK(strstr(peft_adapter_config(a), "prompt_position") == NULL &&
              strstr(peft_adapter_config(b), "\"template\"") != NULL);
        const double first = loss_of(t, b, &batch);
        slots[6] = 1;
        CHECK(fabs(loss_of(t, b, &batch) - first) > 1e-6);
        peft_session *session = NULL;
        double loss = 0.0;
        CHECK_OK(t->ctx, peft_session_create(t->ctx, t->model, &b, 1, NULL, &session));
        slots[6] = P;
        CHECK(peft_session_eval(session, &batch, &loss, NULL) == PEFT_E_ARG);
        CHECK(strstr(peft_context_error(t->ctx), "prompt_index[6]") != NULL);
        batch.prompt_index = NULL;
        CHECK(peft_session_eval(session, &batch, &loss, NULL) == PEFT_E_ARG);
        peft_session_destroy(session);
    }
    peft_adapter_destroy(a);
    peft_adapter_destroy(b);
}

static int count(const char *text, const char *words) {
    int found = 0;
    for (const char *at = text; at != NULL && (at = strstr(at, words)) != NULL; at++) found++;
    return found;
}

/* Nothing below layer 0's attention output takes part in the backward pass of a prefix. */
static void check_work(fixture *t) {
    peft_adapter *a = make(t, "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 3}", 4);
    const peft__capacity capacity = {.rows = ROWS, .sequences = SEQUENCES, .labels = ROWS};
    peft__graph *graph = NULL;
    if (a == NULL || !CHECK(peft__graph_create(t->ctx, &capacity, &graph) == PEFT_OK)) return;
    const peft__hooked hooked = peft__adapter_hooked(a);
    peft__build build;
    memset(&build, 0, sizeof build);
    build.graph = graph;
    build.model = t->model;
    build.adapters = &hooked;
    build.adapter_count = 1;
    CHECK_OK(t->ctx, peft__build_model(&build));
    CHECK_OK(t->ctx, peft__graph_plan(graph, true));
    peft__buffer text;
    peft__buffer_init(&text, t->ctx->mem);
    CHECK(peft__graph_describe(graph, &text));
    const int layers = (int)peft__model_dims(t->model)->num_hidden_layers;
    const int forward = count(text.data, "forward  linear "), backward = count(text.data, "backward linear ");
    if (!CHECK(forward == 4 * layers && backward == 4 * layers - 1))
        fprintf(stderr, "    %d and %d linear layers in\n%s", forward, backward, text.data);
    peft__buffer_free(&text);
    peft__graph_destroy(graph);
    peft_adapter_destroy(a);
}

/* ---- refusals ----------------------------------------------------------------------------------------------- */

static void refuse(fixture *t, const char *config, peft_status status, const char *words) {
    peft_adapter *adapter = NULL;
    CHECK_STATUS(t->ctx, peft_adapter_create(t->ctx, t->model, config, 1, &adapter), status);
    if (!CHECK(strstr(peft_context_error(t->ctx), words) != NULL))
        fprintf(stderr, "    %s\n", peft_context_error(t->ctx));
    peft_adapter_destroy(adapter);
}

static void check_refusals(fixture *t) {
    refuse(t, "{\"peft_type\": \"PROMPT_TUNING\"}", PEFT_E_FORMAT, "num_virtual_tokens");
    refuse(t, "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 64}", PEFT_E_ARG, "64 positions");
    refuse(t, "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 4, \"token_dim\": 32}", PEFT_E_MISMATCH,
           "64 columns");
    refuse(t, "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 4, \"num_transformer_submodules\": 2}",
           PEFT_E_ARG, "encoder-decoder");
    refuse(t, "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 4, \"prompt_tuning_init\": \"TEXT\"}",
           PEFT_E_ARG, "init_text");
    refuse(t, "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 4, \"prompt_tuning_init\": \"text\"}",
           PEFT_E_ARG, "SAMPLE_VOCAB");
    refuse(t,
           "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 4, \"prompt_tuning_init\": \"SAMPLE_VOCAB\", "
           "\"prompt_tuning_init_vocab\": 3}",
           PEFT_E_ARG, "first 3");
    refuse(t, "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 4, \"num_layers\": 5}", PEFT_E_MISMATCH,
           "num_layers");
    refuse(t, "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 4, \"token_dim\": 48}", PEFT_E_MISMATCH,
           "32 columns");
    refuse(t, "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 4, \"init_weights\": \"one\"}", PEFT_E_ARG,
           "init_weights");
    refuse(t,
           "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 4, \"prefix_projection\": true, "
           "\"encoder_hidden_size\": 3, "
           "\"prefix_init_text\": \"a\"}",
           PEFT_E_UNSUPPORTED, "encoder_hidden_size");
    refuse(t, "{\"peft_type\": \"P_TUNING\", \"num_virtual_tokens\": 4, \"encoder_reparameterization_type\": \"GRU\"}",
           PEFT_E_ARG, "LSTM");
    refuse(t, "{\"peft_type\": \"P_TUNING\", \"num_virtual_tokens\": 4, \"prompt_position\": \"end\"}", PEFT_E_ARG,
           "template");
    /* A text that fits alone does not fit behind a prompt. */
    peft_adapter *a = make(t, "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 54}", 1);
    peft_session *session = NULL;
    double loss = 0.0;
    if (a == NULL) return;
    CHECK_OK(t->ctx, peft_session_create(t->ctx, t->model, &a, 1, NULL, &session));
    CHECK(peft_session_eval(session, &t->batch, &loss, NULL) == PEFT_E_LIMIT);
    CHECK(peft_adapter_set_scale(a, 0.5f) == PEFT_E_UNSUPPORTED);
    peft_model *merged = NULL;
    CHECK(peft_model_merge(t->ctx, t->model, &a, 1, &merged) == PEFT_E_UNSUPPORTED);
    peft_session_destroy(session);
    peft_adapter_destroy(a);
}

int main(void) {
    fixture t;
    memset(&t, 0, sizeof t);
    t.ctx = test_context();
    t.model = load_model(t.ctx, "llama-gqa");
    if (t.model == NULL) return check_summary();
    fill_batch(&t);
    check_whole(
        &t, "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 4, \"prompt_tuning_init\": \"SAMPLE_VOCAB\"}");
    check_whole(&t, "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 5}");
    check_whole(&t, "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 3, \"prefix_projection\": true}");
    check_whole(&t, "{\"peft_type\": \"P_TUNING\", \"num_virtual_tokens\": 5}");
    check_whole(
        &t, "{\"peft_type\": \"P_TUNING\", \"num_virtual_tokens\": 5, \"encoder_reparameterization_type\": \"LSTM\", "
            "\"encoder_hidden_size\": 20, \"encoder_num_layers\": 2}");
    check_beginnings(&t);
    check_prefix_of_text(&t, "");
    check_prefix_of_text(&t, ", \"prefix_projection\": true");
    check_template(&t);
    check_work(&t);
    check_refusals(&t);
    peft_model_destroy(t.model);
    peft_context_destroy(t.ctx);
    return check_summary();
}
