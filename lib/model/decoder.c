/* decoder.c: the graph of every decoder variant. Names and order are those of transformers' modules; methods come in
 * through the build functions alone. */
#include "model/decoder.h"

#include <stdio.h>

enum { NAME_BYTES = 128 };

typedef struct layer_state {
    peft__build *b;
    const peft__decoder_config *c;
    const peft__dims *d;
    int32_t layer;
    peft__value *angles; /* [rows, 2 * half] of the row space that the layers work on */
} layer_state;

static const char *layer_name(char buffer[NAME_BYTES], int32_t layer, const char *name) {
    (void)snprintf(buffer, NAME_BYTES, "model.layers.%d.%s", (int)layer, name);
    return buffer;
}

static peft__value *layer_norm(const layer_state *s, const char *name, peft__value *x) {
    char full[NAME_BYTES];
    return peft__build_norm(s->b, layer_name(full, s->layer, name), PEFT__RMS_NORM, x, s->d->norm_eps,
                            s->c->norm_offset);
}

/* q, k, v of the normalised input. */
static void projections(const layer_state *s, peft__value *x, peft__value *out[3]) {
    char names[3][NAME_BYTES];
    if ((s->c->variant->flags & PEFT__DECODER_FUSED) != 0) {
        const int64_t q = s->d->num_attention_heads * s->d->head_dim, kv = s->d->num_key_value_heads * s->d->head_dim;
        peft__value *all = peft__build_linear(s->b, layer_name(names[0], s->layer, "self_attn.qkv_proj"), x, NULL);
        out[0] = peft__value_columns(s->b->graph, all, 0, q);
        out[1] = peft__value_columns(s->b->graph, all, q, kv);
        out[2] = peft__value_columns(s->b->graph, all, q + kv, kv);
        return;
    }
    const char *const modules[3] = {layer_name(names[0], s->layer, "self_attn.q_proj"),
                                    layer_name(names[1], s->layer, "self_attn.k_proj"),
                                    layer_name(names[2], s->layer, "self_attn.v_proj")};
    peft__build_linear_group(s->b, modules, 3, x, out);
}

/* Adds a sub-layer's last linear layer to the residual; Gemma 2 puts a norm in between. */
static peft__value *end_sublayer(const layer_state *s, peft__sublayer which, const char *module, const char *post_norm,
                                 peft__value *x, peft__value *residual) {
    char full[NAME_BYTES];
    layer_name(full, s->layer, module);
    if ((s->c->variant->flags & PEFT__DECODER_POST_NORMS) == 0)
        return peft__build_sublayer_end(s->b, PEFT__STACK_MAIN, s->layer, which, full, x, residual);
    const peft__sublayer_end end = {.stack = PEFT__STACK_MAIN, .layer = s->layer, .which = which, .linear = full};
    x = peft__build_linear(s->b, full, x, NULL);
    x = peft__build_sublayer_output(s->b, &end, x, residual);
    return peft__op_add(s->b->graph, layer_norm(s, post_norm, x), residual);
}

static peft__value *self_attention(layer_state *s, peft__value *x) {
    const peft__dims *d = s->d;
    peft__graph *g = s->b->graph;
    peft__value *qkv[3] = {NULL, NULL, NULL};
    projections(s, layer_norm(s, "input_layernorm", x), qkv);
    if ((s->c->variant->flags & PEFT__DECODER_QK_NORM) != 0) {
        qkv[0] = layer_norm(s, "self_attn.q_norm", qkv[0]);
        qkv[1] = layer_norm(s, "self_attn.k_norm", qkv[1]);
    }
    if (!s->c->no_rope[s->layer] && !peft__graph_failed(g)) {
        /* A method may have led the rows into another space (rows replaced at this layer). */
        if (s->angles == NULL || s->angles->rows != qkv[0]->rows)
            s->angles = peft__op_rope_angles(g, qkv[0]->rows, &s->c->rope);
        qkv[0] = peft__op_rope(g, qkv[0], s->angles, d->num_attention_heads, d->head_dim);
        qkv[1] = peft__op_rope(g, qkv[1], s->angles, d->num_key_value_heads, d->head_dim);
    }
    const peft__attention_config config = {.heads = d->num_attention_heads,
                                           .kv_heads = d->num_key_value_heads,
                                           .head_dim = d->head_dim,
                                           .scale = s->c->attention_scale,
                                           .soft_cap = s->c->attention_cap,
                                           .causal = true,
                                           .window = s->c->windows[s->layer]};
    peft__value *y = peft__build_attention(s->b, PEFT__STACK_MAIN, s->layer, qkv[0], qkv[1], qkv[2], NULL, &config);
    return end_sublayer(s, PEFT__SUBLAYER_ATTENTION, "self_attn.o_proj", "post_attention_layernorm", y, x);
}

static peft__value *feed_forward(const layer_state *s, peft__value *x) {
    const bool post_norms = (s->c->variant->flags & PEFT__DECODER_POST_NORMS) != 0;
    peft__value *h = layer_norm(s, post_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm", x);
    peft__value *gate_up[2] = {NULL, NULL};
    char names[2][NAME_BYTES];
    if ((s->c->variant->flags & PEFT__DECODER_FUSED) != 0) {
        const int64_t m = s->d->intermediate_size;
        peft__value *both = peft__build_linear(s->b, layer_name(names[0], s->layer, "mlp.gate_up_proj"), h, NULL);
        gate_up[0] = peft__value_columns(s->b->graph, both, 0, m);
        gate_up[1] = peft__value_columns(s->b->graph, both, m, m);
    } else {
        const char *const modules[2] = {layer_name(names[0], s->layer, "mlp.gate_proj"),
                                        layer_name(names[1], s->layer, "mlp.up_proj")};
        peft__build_linear_group(s->b, modules, 2, h, gate_up);
    }
    h = peft__op_gated(s->b->graph, s->c->activation, gate_up[0], gate_up[1]);
    return end_sublayer(s, PEFT__SUBLAYER_FFN, "mlp.down_proj", "post_feedforward_layernorm", h, x);
}

peft__value *peft__decoder_build(peft__build *b) {
    layer_state s = {.b = b, .c = peft__model_arch_config(b->model), .d = peft__model_dims(b->model)};
    peft__rows *rows = peft__build_rows(b, PEFT__STACK_MAIN);
    peft__value *x =
        peft__build_embedding(b, "model.embed_tokens", rows, PEFT__LOOKUP_IDS, s.c->embedding_scale, s.d->pad_token_id);
    x = peft__build_word_embedding(b, PEFT__STACK_MAIN, x);
    x = peft__build_input(b, PEFT__STACK_MAIN, 0, x);
    peft__build_hidden(b, 0, x);
    for (int64_t layer = 0; layer < s.d->num_hidden_layers && !peft__graph_failed(b->graph); layer++) {
        s.layer = (int32_t)layer;
        x = peft__build_layer_input(b, PEFT__STACK_MAIN, s.layer, 0, x);
        x = feed_forward(&s, self_attention(&s, x));
        if (layer + 1 < s.d->num_hidden_layers) peft__build_hidden(b, layer + 1, x);
    }
    x = peft__build_readout_rows(b, x);
    x = peft__build_norm(b, "model.norm", PEFT__RMS_NORM, x, s.d->norm_eps, s.c->norm_offset);
    peft__build_hidden(b, s.d->num_hidden_layers, x); /* as in transformers: the last one is normed */
    return x;
}

void peft__decoder_build_head(peft__build *b, peft__value *hidden) {
    const peft__decoder_config *c = peft__model_arch_config(b->model);
    const peft__head_options options = {
        .lm_head = "lm_head", .score = "score", .soft_cap = c->logit_cap, .logit_scale = 1};
    peft__build_head(b, hidden, &options);
}
