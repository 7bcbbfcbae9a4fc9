/* Several adapters: exchanged between passes, each for its own sequences of a batch, and trained together on one base. */
#include "check.h"
#include "peft/peft.h"

enum { ROWS = 20, SEQUENCES = 3, VOCAB = 288, MOST = 60000 };

static peft_context *ctx;
static peft_model *model;
static const int32_t offsets[SEQUENCES + 1] = {0, 9, 12, ROWS};
static int32_t ids[ROWS], labels[ROWS];
static peft_batch batch;

static const char LORA[] = "{\"peft_type\": \"LORA\", \"r\": 3, \"target_modules\": [\"q_proj\", \"down_proj\"], "
                           "\"init_lora_weights\": false}";
static const char LORA_WIDE[] = "{\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": 16, \"target_modules\": [\"q_proj\", "
                                "\"down_proj\"], \"init_lora_weights\": false}";
static const char IA3[] = "{\"peft_type\": \"IA3\", \"target_modules\": [\"k_proj\", \"v_proj\", \"down_proj\"], "
                          "\"feedforward_modules\": [\"down_proj\"], \"init_ia3_weights\": false}";

static void make_batch(void) {
    for (int i = 0; i < ROWS; i++) {
        ids[i] = 3 + (i * 37 + 11) % (VOCAB - 3);
        labels[i] = i % 5 == 0 ? PEFT_IGNORE_LABEL : ids[i];
    }
    peft_batch_init(&batch);
    batch.rows = ROWS;
    batch.sequences = SEQUENCES;
    batch.offsets = offsets;
    batch.input_ids = ids;
    batch.labels = labels;
}

/* With all values moved about, so that it does something. */
static peft_adapter *made(const char *config, uint64_t seed) {
    peft_adapter *adapter = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, model, config, seed, &adapter));
    if (adapter == NULL) exit(check_summary());
    static float values[MOST];
    const int64_t count = peft_adapter_parameter_count(adapter);
    CHECK(count < MOST);
    CHECK_OK(ctx, peft_adapter_get_parameters(adapter, values, count));
    uint32_t state = (uint32_t)seed * 2654435761u + 1u;
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] += 0.1f * ((float)(state >> 8) / 16777216.0f - 0.5f);
    }
    CHECK_OK(ctx, peft_adapter_set_parameters(adapter, values, count));
    return adapter;
}

static peft_session *session_of(peft_adapter *const *adapters, uint32_t count) {
    peft_session *session = NULL;
    CHECK_OK(ctx, peft_session_create(ctx, model, adapters, count, NULL, &session));
    if (session == NULL) exit(check_summary());
    return session;
}

static double worst(const float *a, const float *b, int64_t count) {
    double most = 0.0, top = 0.0;
    for (int64_t i = 0; i < count; i++) {
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
        top = fmax(top, fabs((double)b[i]));
    }
    return top > 0.0 ? most / top : most;
}

/* ---- exchanged --------------------------------------------------------------------------------------------------- */

typedef struct outcome {
    double loss;
    float logits[2 * ROWS * VOCAB], grads[2][MOST];
} outcome;
static outcome swapped, fresh;

static void go(peft_session *s, peft_adapter *const *adapters, uint32_t count, outcome *out) {
    memset(out, 0, sizeof *out);
    CHECK_OK(ctx, peft_session_forward(s, &batch, &out->loss));
    CHECK_OK(ctx, peft_session_backward(s, 1.0f));
    for (uint32_t i = 0; i < count; i++)
        CHECK_OK(ctx, peft_session_get_gradients(s, adapters[i], out->grads[i], peft_adapter_parameter_count(adapters[i])));
    CHECK_OK(ctx, peft_session_logits(s, &batch, PEFT_LOGITS_ALL, out->logits, 2 * ROWS * VOCAB, NULL, NULL));
    CHECK_OK(ctx, peft_session_zero_grad(s));
}

/* A session that goes from one set to another computes bit for bit what one made for the other computes. */
static void check_swap(peft_adapter *const *first, uint32_t first_count, peft_adapter *const *second, uint32_t second_count) {
    peft_session *s = session_of(first, first_count), *own = session_of(second, second_count);
    go(s, first, first_count, &swapped);
    CHECK_OK(ctx, peft_session_set_adapters(s, second, second_count));
    CHECK_STATUS(ctx, peft_session_backward(s, 1.0f), PEFT_E_STATE);
    go(own, second, second_count, &fresh);
    for (int round = 0; round < 2; round++) {
        go(s, second, second_count, &swapped);
        CHECK(swapped.loss == fresh.loss);
        CHECK(memcmp(swapped.logits, fresh.logits, sizeof fresh.logits) == 0);
        CHECK(memcmp(swapped.grads, fresh.grads, sizeof fresh.grads) == 0);
        CHECK_OK(ctx, peft_session_set_adapters(s, first, first_count));
        CHECK_OK(ctx, peft_session_eval(s, &batch, NULL, NULL));
        CHECK_OK(ctx, peft_session_set_adapters(s, second, second_count));
    }
    peft_session_destroy(s);
    peft_session_destroy(own);
}

static void check_swaps(void) {
    peft_adapter *a = made(LORA, 1), *b = made(LORA, 2), *wide = made(LORA_WIDE, 3), *c = made(IA3, 4), *d = made(IA3, 5);
    check_swap((peft_adapter *[]){a}, 1, (peft_adapter *[]){b}, 1);
    check_swap((peft_adapter *[]){a}, 1, (peft_adapter *[]){wide}, 1); /* the same tensors, another scale */
    check_swap((peft_adapter *[]){c}, 1, (peft_adapter *[]){d}, 1);
    check_swap((peft_adapter *[]){a}, 1, (peft_adapter *[]){c}, 1);
    check_swap((peft_adapter *[]){a, c}, 2, (peft_adapter *[]){b, d}, 2);
    check_swap((peft_adapter *[]){a, b}, 2, (peft_adapter *[]){b, a}, 2);
    check_swap((peft_adapter *[]){a, c}, 2, (peft_adapter *[]){d}, 1);
    static const char *const OTHERS[] = {
        "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 4}",
        "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 5}",
        "{\"peft_type\": \"BOTTLENECK\", \"reduction_factor\": 8}",
        "{\"peft_type\": \"LORA\", \"use_dora\": true, \"modules_to_save\": [\"lm_head\"], \"r\": 2}",
        "{\"peft_type\": \"FULL\", \"trainable\": [\"q_proj\"]}",
        "{\"peft_type\": \"VERA\", \"r\": 4}",
        "{\"peft_type\": \"LOHA\", \"r\": 2}"};
    for (size_t i = 0; i < sizeof OTHERS / sizeof OTHERS[0]; i++) {
        peft_adapter *x = made(OTHERS[i], 6), *y = made(OTHERS[i], 7);
        check_swap(&x, 1, &y, 1);
        if (i == 0) { /* a factor set between the two makes the plan stale */
            CHECK_OK(ctx, peft_adapter_set_scale(a, 0.5f));
            check_swap(&a, 1, &b, 1);
            check_swap(&b, 1, &a, 1);
            CHECK_OK(ctx, peft_adapter_set_scale(a, 1.0f));
        }
        peft_adapter_destroy(x);
        peft_adapter_destroy(y);
    }
    peft_adapter *all[] = {a, b, wide, c, d};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) peft_adapter_destroy(all[i]);
}

/* A swap loses nothing that an optimizer holds: each adapter trains on where it was. */
static void check_training_in_turns(void) {
    static float alone[MOST], turns[MOST];
    for (int apart = 0; apart < 2; apart++) {
        peft_adapter *pair[2] = {made(LORA, 1), made(LORA, 2)};
        peft_optimizer *optimizers[2] = {NULL, NULL};
        peft_session *s[2] = {session_of(&pair[0], 1), apart ? session_of(&pair[1], 1) : NULL};
        for (int i = 0; i < 2; i++) CHECK_OK(ctx, peft_optimizer_create(ctx, pair[i], NULL, &optimizers[i]));
        for (int step = 0; step < 6; step++) {
            const int i = step % 2;
            peft_session *one = s[apart ? i : 0];
            if (!apart) CHECK_OK(ctx, peft_session_set_adapters(one, &pair[i], 1));
            CHECK_OK(ctx, peft_session_forward(one, &batch, NULL));
            CHECK_OK(ctx, peft_session_backward(one, 1.0f));
            CHECK_OK(ctx, peft_optimizer_step(optimizers[i], one, NULL));
        }
        float *values = apart ? alone : turns;
        CHECK_OK(ctx, peft_adapter_get_parameters(pair[1], values, peft_adapter_parameter_count(pair[1])));
        for (int i = 0; i < 2; i++) {
            peft_optimizer_destroy(optimizers[i]);
            peft_session_destroy(s[i]);
            peft_adapter_destroy(pair[i]);
        }
    }
    CHECK(memcmp(alone, turns, sizeof alone) == 0);
}

/* ---- each its own sequences -------------------------------------------------------------------------------------- */

/* Sequence `s` of the batch as a batch of its own. */
static peft_batch alone(int s) {
    static const int32_t one[SEQUENCES][2] = {{0, 9}, {0, 3}, {0, 8}};
    peft_batch single = batch;
    single.rows = offsets[s + 1] - offsets[s];
    single.sequences = 1;
    single.offsets = one[s];
    single.input_ids = ids + offsets[s];
    single.labels = labels + offsets[s];
    single.adapter_ids = NULL;
    return single;
}

/* Adapters of one batch get, from one pass, the gradients that separate runs give them. */
static void check_together(const char *first_config, const char *second_config, const int32_t *chosen) {
    static float together[MOST], apart[MOST];
    peft_adapter *pair[2] = {made(first_config, 11), made(second_config, 12)};
    peft_session *both = session_of(pair, 2);
    double loss = 0.0, sum = 0.0;
    batch.adapter_ids = chosen;
    CHECK_OK(ctx, peft_session_forward(both, &batch, &loss));
    CHECK_OK(ctx, peft_session_backward(both, 1.0f));
    batch.adapter_ids = NULL;
    double all = 0.0;
    peft_session *base = session_of(NULL, 0);
    for (int s = 0; s < SEQUENCES; s++) {
        const peft_batch single = alone(s);
        double one = 0.0, targets = 0.0;
        CHECK_OK(ctx, peft_session_eval(base, &single, &one, &targets));
        all += targets;
        if (chosen[s] >= 0) continue;
        sum += one * targets;
    }
    for (int i = 0; i < 2; i++) {
        peft_session *s = session_of(&pair[i], 1);
        const int64_t count = peft_adapter_parameter_count(pair[i]);
        double own = 0.0;
        for (int q = 0; q < SEQUENCES; q++) {
            if (chosen[q] != i) continue;
            const peft_batch single = alone(q);
            double one = 0.0, targets = 0.0;
            CHECK_OK(ctx, peft_session_eval(s, &single, &one, &targets));
            CHECK_OK(ctx, peft_session_forward(s, &single, NULL));
            CHECK_OK(ctx, peft_session_backward(s, 1.0f));
            sum += one * targets;
            own += targets;
        }
        CHECK_OK(ctx, peft_session_get_gradients(both, pair[i], together, count));
        memset(apart, 0, sizeof apart);
        if (own > 0.0) CHECK_OK(ctx, peft_session_get_gradients(s, pair[i], apart, count));
        for (int64_t k = 0; k < count; k++) apart[k] *= (float)(own / all); /* means over its own targets, over all of the batch */
        const double difference = worst(together, apart, count);
        if (!CHECK(difference < 2e-5)) fprintf(stderr, "    %s: gradients differ by %g\n", i == 0 ? first_config : second_config, difference);
        peft_session_destroy(s);
    }
    CHECK_NEAR(loss, sum / all, 1e-6);
    peft_session_destroy(base);
    peft_session_destroy(both);
    peft_adapter_destroy(pair[0]);
    peft_adapter_destroy(pair[1]);
}

static void check_refused(void) {
    static const char *const WHOLE[] = {"{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 3}",
                                        "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 3}",
                                        "{\"peft_type\": \"LN_TUNING\"}"};
    static const int32_t chosen[SEQUENCES] = {0, 0, -1};
    for (size_t i = 0; i < sizeof WHOLE / sizeof WHOLE[0]; i++) {
        peft_adapter *adapter = made(WHOLE[i], 1);
        peft_session *s = session_of(&adapter, 1);
        batch.adapter_ids = chosen;
        CHECK_STATUS(ctx, peft_session_forward(s, &batch, NULL), PEFT_E_UNSUPPORTED);
        CHECK(strstr(peft_context_error(ctx), "some of them only") != NULL);
        batch.adapter_ids = NULL;
        peft_session_destroy(s);
        peft_adapter_destroy(adapter);
    }
}

/* (IA)3 vectors of two adapters multiply, whatever their order. */
static void check_product(void) {
    static float one[ROWS * VOCAB], other[ROWS * VOCAB];
    peft_adapter *pair[2] = {made(IA3, 1), made(IA3, 2)}, *product = made(IA3, 3);
    for (uint32_t t = 0; t < peft_adapter_tensor_count(product); t++) {
        peft_tensor_info a = {.struct_size = sizeof a}, b = {.struct_size = sizeof b}, p = {.struct_size = sizeof p};
        CHECK_OK(ctx, peft_adapter_tensor(pair[0], t, &a));
        CHECK_OK(ctx, peft_adapter_tensor(pair[1], t, &b));
        CHECK_OK(ctx, peft_adapter_tensor(product, t, &p));
        const int64_t count = p.shape[0] * p.shape[1];
        for (int64_t i = 0; i < count; i++) other[i] = ((const float *)a.data)[i] * ((const float *)b.data)[i];
        CHECK_OK(ctx, peft_adapter_set_tensor(product, p.name, other, count));
    }
    peft_session *both = session_of(pair, 2), *single = session_of(&product, 1);
    CHECK_OK(ctx, peft_session_logits(both, &batch, PEFT_LOGITS_ALL, one, ROWS * VOCAB, NULL, NULL));
    CHECK_OK(ctx, peft_session_logits(single, &batch, PEFT_LOGITS_ALL, other, ROWS * VOCAB, NULL, NULL));
    CHECK(worst(one, other, ROWS * VOCAB) < 1e-5);
    peft_session_destroy(both);
    peft_session_destroy(single);
    for (int i = 0; i < 2; i++) peft_adapter_destroy(pair[i]);
    peft_adapter_destroy(product);
}

int main(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s/models/llama-gqa", getenv("PEFT_TEST_DATA"));
    CHECK(peft_context_create(NULL, &ctx) == PEFT_OK);
    CHECK_OK(ctx, peft_model_load(ctx, path, NULL, &model));
    if (model == NULL) return check_summary();
    make_batch();
    check_swaps();
    check_training_in_turns();
    static const int32_t chosen[][SEQUENCES] = {{1, -1, 0}, {0, 1, 0}, {1, 1, 1}};
    for (size_t i = 0; i < sizeof chosen / sizeof chosen[0]; i++) {
        check_together(LORA, LORA_WIDE, chosen[i]);
        check_together(LORA, IA3, chosen[i]);
        check_together(IA3, IA3, chosen[i]);
        check_together("{\"peft_type\": \"ADALORA\", \"init_r\": 3, \"total_step\": 9, \"orth_reg_weight\": 0.0}", LORA, chosen[i]);
    }
    check_refused();
    check_product();
    peft_model_destroy(model);
    peft_context_destroy(ctx);
    return check_summary();
}
