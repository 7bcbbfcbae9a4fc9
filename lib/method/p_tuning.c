/* p_tuning.c: P-Tuning (Liu et al. 2021, "GPT Understands, Too"): prompt rows that a small network computes from
 * trained embeddings.
 *
 * The encoder ties the rows to each other, which makes them easier to train; only its output matters afterwards.
 *   MLP    linear, ReLU, linear, ReLU, linear
 *   LSTM   bidirectional layers over the rows, then linear, ReLU, linear, as in the paper
 * HF PEFT puts the rows before the text. The paper puts them anywhere in a template with ordinary words (anchors) and a
 * mask between them: that is prompt_position "template", where batch.prompt_index says which row replaces which token's
 * embedding.
 */
#include "method/prompt.h"

#include <math.h>

static const char *const WHERE = "adapter_config.json";

enum { MOST_LAYERS = 8, DIRECTIONS = 2, MOST_HIDDEN = 1 << 16 };

typedef struct p_tuning {
    peft__prompt prompt;
    int64_t hidden, lstm_layers;            /* 0 layers: MLP */
    float dropout;                          /* between LSTM layers */
    uint32_t lstm[MOST_LAYERS][DIRECTIONS]; /* weight_ih; weight_hh, bias_ih, bias_hh follow it */
    uint32_t head[3];
    uint32_t head_count;
} p_tuning;

/* ---- tensors ------------------------------------------------------------------------------------------------ */

static peft_status declare_lstm(peft_adapter *adapter, p_tuning *p, int64_t layer, int direction) {
    const int64_t in = layer == 0 ? p->prompt.token_dim : DIRECTIONS * p->hidden, gates = 4 * p->hidden;
    const float range = 1.0f / sqrtf((float)p->hidden);
    static const char *const parts[] = {"weight_ih", "weight_hh", "bias_ih", "bias_hh"};
    for (int part = 0; part < 4; part++) {
        char *name = peft__adapter_text(adapter, "prompt_encoder.lstm_head.%s_l%d%s", parts[part], (int)layer,
                                        direction == 1 ? "_reverse" : "");
        if (name == NULL) return PEFT_E_NOMEM;
        const bool is_bias = part >= 2;
        const peft__declaration tensor = {.name = name,
                                          .flags = is_bias ? PEFT__PARAM_NO_DECAY : 0u,
                                          .ndim = is_bias ? 1 : 2,
                                          .shape = {gates, is_bias     ? 0
                                                           : part == 0 ? in
                                                                       : p->hidden},
                                          .init = PEFT__INIT_UNIFORM,
                                          .init_value = range};
        PEFT_TRY(peft__adapter_declare(adapter, &tensor, part == 0 ? &p->lstm[layer][direction] : NULL));
    }
    return PEFT_OK;
}

static peft_status declare_encoder(peft_adapter *adapter, p_tuning *p) {
    static const char *const names[] = {"mlp_head.0", "mlp_head.2", "mlp_head.4"};
    const int64_t d = p->prompt.token_dim, h = p->hidden;
    const int64_t mlp[4] = {d, h, h, d}, after_lstm[3] = {DIRECTIONS * h, DIRECTIONS * h, d};
    const int64_t *widths = p->lstm_layers > 0 ? after_lstm : mlp;
    for (int64_t layer = 0; layer < p->lstm_layers; layer++)
        for (int direction = 0; direction < DIRECTIONS; direction++)
            PEFT_TRY(declare_lstm(adapter, p, layer, direction));
    p->head_count = p->lstm_layers > 0 ? 2 : 3;
    for (uint32_t i = 0; i < p->head_count; i++)
        PEFT_TRY(peft__prompt_declare_linear(adapter, names[i], widths[i], widths[i + 1], false, &p->head[i]));
    return PEFT_OK;
}

/* ---- the encoder as operations ------------------------------------------------------------------------------ */

/* x W_ih^T + b_ih + b_hh */
static peft__value *gates_of_input(peft_adapter *adapter, peft__graph *g, uint32_t first, peft__value *x) {
    peft__param *weight = &adapter->params[first];
    const peft__weight w = {peft__matrix_f32(NULL, weight->shape[0], weight->shape[1]), peft__value_param(g, weight)};
    const peft__vector bias = {NULL, peft__value_param(g, weight + 2)};
    peft__value *other = peft__value_param(g, weight + 3);
    if (x == NULL || w.value == NULL || bias.value == NULL || other == NULL) return NULL;
    return peft__op_add_vector(g, peft__op_linear(g, x, w, bias, NULL), other);
}

static peft__value *encode(peft_adapter *adapter, peft__graph *g, bool training) {
    const p_tuning *p = adapter->state;
    peft__value *x = peft__value_param(g, &adapter->params[p->prompt.embedding]);
    for (int64_t layer = 0; layer < p->lstm_layers; layer++) {
        const uint32_t *first = p->lstm[layer];
        if (layer > 0 && training) x = peft__op_dropout(g, x, p->dropout, peft__hash64("p_tuning", 8, (uint64_t)layer));
        peft__value *pre[DIRECTIONS], *weights[DIRECTIONS];
        for (int d = 0; d < DIRECTIONS; d++) {
            pre[d] = gates_of_input(adapter, g, first[d], x);
            weights[d] = peft__value_param(g, &adapter->params[first[d] + 1]);
        }
        x = pre[1] == NULL || weights[1] == NULL ? NULL : peft__op_lstm(g, pre[0], weights[0], pre[1], weights[1]);
    }
    for (uint32_t i = 0; i < p->head_count; i++) {
        x = peft__prompt_linear(adapter, g, p->head[i], x);
        if (i + 1 < p->head_count) x = peft__op_activation(g, PEFT__ACT_RELU, x);
    }
    return x;
}

/* ---- configuration ------------------------------------------------------------------------------------------ */

static peft_status read_encoder(peft_adapter *adapter, p_tuning *p) {
    peft_context *ctx = adapter->ctx;
    const char *kind = NULL;
    int64_t layers = 0;
    double dropout = 0.0;
    PEFT_TRY(peft__json_get_string(ctx, adapter->config, WHERE, "encoder_reparameterization_type", "MLP", &kind));
    PEFT_TRY(peft__prompt_number(adapter, "encoder_hidden_size", MOST_HIDDEN, p->prompt.token_dim, &p->hidden));
    PEFT_TRY(peft__json_get_int(ctx, adapter->config, WHERE, "encoder_num_layers", 1, MOST_LAYERS, 2, &layers));
    PEFT_TRY(peft__json_get_double(ctx, adapter->config, WHERE, "encoder_dropout", 0.0, 0.999, 0.0, &dropout));
    p->dropout = (float)dropout;
    if (strcmp(kind, "LSTM") == 0)
        p->lstm_layers = layers;
    else if (strcmp(kind, "MLP") != 0)
        return peft__fail(ctx, PEFT_E_ARG, "%s: encoder_reparameterization_type: expected MLP or LSTM, found \"%.40s\"",
                          WHERE, kind);
    else if (layers != 2)
        peft__log(ctx, PEFT_LOG_WARNING,
                  "%s: encoder_num_layers has no meaning for an MLP, which always has three linear layers", WHERE);
    return PEFT_OK;
}

static peft_status configure(peft_adapter *adapter) {
    p_tuning *p = peft__arena_alloc(&adapter->arena, sizeof *p);
    if (p == NULL) return peft__fail_nomem(adapter->ctx, sizeof *p, "an adapter");
    adapter->state = p;
    PEFT_TRY(peft__prompt_configure(adapter, &p->prompt, false));
    PEFT_TRY(peft__prompt_read_position(adapter, &p->prompt));
    PEFT_TRY(read_encoder(adapter, p));
    p->prompt.encoded = !adapter->loading;
    p->prompt.encode = encode;
    PEFT_TRY(peft__prompt_declare(adapter, &p->prompt, p->prompt.virtual_tokens * p->prompt.submodules,
                                  p->prompt.token_dim, PEFT__INIT_NORMAL, 1.0f));
    return p->prompt.encoded ? declare_encoder(adapter, p) : PEFT_OK;
}

static const peft__hooks HOOKS = {
    .trained = peft__adapter_trained,
    .word_embedding = peft__prompt_word_embedding,
    .input = peft__prompt_input,
    .inserted_length = peft__prompt_inserted,
};

static const peft__config_key KEYS[] = {
    {"encoder_dropout", "0.0", PEFT__KEY_USED},
    {"encoder_hidden_size", "null", PEFT__KEY_USED},
    {"encoder_num_layers", "2", PEFT__KEY_USED},
    {"encoder_reparameterization_type", "\"MLP\"", PEFT__KEY_USED},
    PEFT__PROMPT_KEYS,
    PEFT__PROMPT_POSITION_KEY,
    {NULL, NULL, PEFT__KEY_USED},
};

const peft__method peft__method_p_tuning = {
    .peft_type = "P_TUNING",
    .flags = PEFT__METHOD_PROMPT,
    .keys = KEYS,
    .hooks = &HOOKS,
    .configure = configure,
    .export = peft__prompt_export,
    .export_config = peft__prompt_export_config,
};
