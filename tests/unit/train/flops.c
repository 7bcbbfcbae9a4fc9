/* Operations that a session counts, against sums over the model's modules. The model is small enough to write the
 * formula out: every linear layer's product over all rows, attention over pairs that see each other, the output layer
 * at rows with a label. */
#include <stdbool.h>

#include "check.h"
#include "peft/cost.h"
#include "peft/session.h"

enum { ROWS = 11, FIRST = 4 }; /* two sequences: of 4 and of 7 tokens */

typedef struct sums {
    double linear, attention, head; /* FLOPs of a forward pass */
} sums;

static sums expected(const peft_model *model) {
    peft_model_info info = {.struct_size = sizeof info};
    CHECK(peft_model_get_info(model, &info) == PEFT_OK);
    sums s = {0};
    for (uint32_t i = 0; i < peft_model_module_count(model); i++) {
        peft_module_info m = {.struct_size = sizeof m};
        CHECK(peft_model_module(model, i, &m) == PEFT_OK);
        if (m.kind == PEFT_MODULE_LINEAR && m.layer >= 0)
            s.linear += 2.0 * ROWS * (double)m.in_features * (double)m.out_features;
    }
    const double pairs = FIRST * (FIRST + 1) / 2.0 + (ROWS - FIRST) * (ROWS - FIRST + 1) / 2.0;
    s.attention = 4.0 * pairs * (double)(info.num_hidden_layers * info.num_attention_heads * info.head_dim);
    s.head =
        2.0 * (ROWS - 2) * (double)info.vocab_size * (double)info.hidden_size; /* no sequence predicts beyond its end */
    return s;
}

static double spent(peft_context *ctx, peft_model *model, const char *config, const peft_batch *batch,
                    double *out_backward) {
    peft_adapter *adapter = NULL;
    peft_session *session = NULL;
    if (config != NULL) CHECK_OK(ctx, peft_adapter_create(ctx, model, config, 1, &adapter));
    CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, adapter != NULL, NULL, &session));
    CHECK(peft_session_flops(session) == 0.0);
    if (config == NULL) {
        CHECK_OK(ctx, peft_session_eval(session, batch, NULL, NULL));
    } else {
        CHECK_OK(ctx, peft_session_forward(session, batch, NULL));
    }
    const double forward = peft_session_flops(session);
    if (config != NULL) CHECK_OK(ctx, peft_session_backward(session, 1.0f));
    if (out_backward != NULL) *out_backward = peft_session_flops(session) - forward;
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
    return forward;
}

/* Nothing is trained below layer 0's attention: its input needs no gradient, and so its query, key and value layers
 * have no backward pass, nor has its attention to find the gradient of the queries, one of its five products. */
static void check_prefix(peft_context *ctx, peft_model *model, const peft_batch *batch, const sums *s) {
    enum { PREFIX = 5 };
    double below = 0.0, backward = 0.0;
    peft_model_info info = {.struct_size = sizeof info};
    CHECK(peft_model_get_info(model, &info) == PEFT_OK);
    for (uint32_t i = 0; i < peft_model_module_count(model); i++) {
        peft_module_info m = {.struct_size = sizeof m};
        CHECK(peft_model_module(model, i, &m) == PEFT_OK);
        const bool reads_input =
            strstr(m.name, "q_proj") != NULL || strstr(m.name, "k_proj") != NULL || strstr(m.name, "v_proj") != NULL;
        if (m.layer == 0 && reads_input) below += 2.0 * ROWS * (double)m.in_features * (double)m.out_features;
    }
    const double attention =
        s->attention +
        4.0 * PREFIX * ROWS * (double)(info.num_hidden_layers * info.num_attention_heads * info.head_dim);
    const double forward =
        spent(ctx, model, "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 5}", batch, &backward);
    CHECK_NEAR(forward, s->linear + attention + 2.0 * s->head, 0.5);
    CHECK(below > 0.0);
    const double queries = 0.5 * attention / (double)info.num_hidden_layers;
    CHECK_NEAR(backward, s->linear - below + 2.5 * attention - queries, 0.5);
}

int main(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s/models/llama-gqa", getenv("PEFT_TEST_DATA"));
    peft_context *ctx = NULL;
    peft_model *model = NULL;
    CHECK(peft_context_create(NULL, &ctx) == PEFT_OK);
    CHECK_OK(ctx, peft_model_load(ctx, path, NULL, &model));
    if (model == NULL) return check_summary();
    static const int32_t offsets[] = {0, FIRST, ROWS}, ids[ROWS] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};
    peft_batch batch;
    peft_batch_init(&batch);
    batch.rows = ROWS;
    batch.sequences = 2;
    batch.offsets = offsets;
    batch.input_ids = batch.labels = ids;
    const sums s = expected(model);

    const double bare = spent(ctx, model, NULL, &batch, NULL);
    CHECK_NEAR(bare, s.linear + s.attention + s.head, 0.5);

    /* Everything trained: two products more of each weight, five halves of attention's; the output layer's logits are
     * made again. */
    double backward = 0.0;
    const double full = spent(ctx, model, "{\"peft_type\": \"FULL\"}", &batch, &backward);
    CHECK_NEAR(full, bare, 0.5);
    CHECK_NEAR(backward, 2.0 * s.linear + 2.5 * s.attention + 3.0 * s.head, 0.5);

    /* LoRA adds its two factors, and spares the weights' gradients; its head's gradient is made while the logits are
     * there. */
    const double lora = spent(ctx, model, "{\"peft_type\": \"LORA\", \"r\": 2, \"target_modules\": [\"down_proj\"]}",
                              &batch, &backward);
    double factors = 0.0;
    for (uint32_t i = 0; i < peft_model_module_count(model); i++) {
        peft_module_info m = {.struct_size = sizeof m};
        CHECK(peft_model_module(model, i, &m) == PEFT_OK);
        if (strstr(m.name, "down_proj") != NULL) factors += 2.0 * ROWS * 2.0 * (double)(m.in_features + m.out_features);
    }
    CHECK_NEAR(lora, bare + s.head + factors, 0.5);
    CHECK(backward < s.linear + 2.5 * s.attention + 2.0 * factors);
    CHECK(backward > 0.5 * s.linear);
    CHECK(peft_session_flops(NULL) == 0.0);
    check_prefix(ctx, model, &batch, &s);

    peft_model_destroy(model);
    peft_context_destroy(ctx);
    return check_summary();
}
