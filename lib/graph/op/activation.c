/* activation.c: activation functions, alone and as gates. Outputs are cheap: they are computed again for the backward
 * pass rather than kept, from inputs that the derivative needs anyway.
 */
#include "graph/op/tiles.h"

typedef struct activation {
    peft__fn fn;
} activation;

static const struct {
    const char *name;
    peft__activation activation;
} names[] = {
    {"relu", PEFT__ACT_RELU},
    {"gelu", PEFT__ACT_GELU},
    {"gelu_python", PEFT__ACT_GELU},
    {"gelu_new", PEFT__ACT_GELU_TANH},
    {"gelu_fast", PEFT__ACT_GELU_TANH},
    {"gelu_pytorch_tanh", PEFT__ACT_GELU_TANH},
    {"gelu_accurate", PEFT__ACT_GELU_TANH},
    {"silu", PEFT__ACT_SILU},
    {"swish", PEFT__ACT_SILU},
    {"tanh", PEFT__ACT_TANH},
    {"quick_gelu", PEFT__ACT_QUICK_GELU},
    {"linear", PEFT__ACT_IDENTITY},
    {"sigmoid", PEFT__ACT_SIGMOID},
};

bool peft__activation_parse(const char *hf_name, peft__activation *out) {
    for (size_t i = 0; hf_name != NULL && i < PEFT_COUNT(names); i++) {
        if (strcmp(names[i].name, hf_name) != 0) continue;
        *out = names[i].activation;
        return true;
    }
    return false;
}

static peft__fn function_of(peft__activation kind) {
    switch (kind) {
    case PEFT__ACT_RELU:
        return PEFT__FN_RELU;
    case PEFT__ACT_GELU:
        return PEFT__FN_GELU;
    case PEFT__ACT_GELU_TANH:
        return PEFT__FN_GELU_TANH;
    case PEFT__ACT_SILU:
        return PEFT__FN_SILU;
    case PEFT__ACT_TANH:
        return PEFT__FN_TANH;
    case PEFT__ACT_QUICK_GELU:
        return PEFT__FN_QUICK_GELU;
    case PEFT__ACT_SIGMOID:
        return PEFT__FN_SIGMOID;
    case PEFT__ACT_IDENTITY:
        break;
    }
    return PEFT__FN_IDENTITY;
}

static void reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    *in_mask = (1u << node->in_count) - 1u;
    *out_mask = 0;
}

static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)pass;
    (void)phase;
    return peft__row_tiles(node->out[0]->rows->count, node->out[0]->cols);
}

static void activation_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile,
                            const peft__run *run) {
    (void)phase;
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__fn fn = ((const activation *)node->attr)->fn;
    const peft__value *x = node->in[0], *out = node->out[0];
    const peft__range rows = peft__tile_rows(tile, out->rows->count, out->cols);
    for (int64_t r = rows.first; r < rows.end; r++) {
        if (pass == PEFT__FORWARD)
            kernels->activate(fn, out->cols, peft__row(x, r), peft__row(out, r));
        else
            kernels->activate_backward(fn, out->cols, peft__row(x, r), peft__grad_row(out, r), peft__grad_row(x, r),
                                       peft__accumulates(node, 0));
    }
}

static void gated_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__fn fn = ((const activation *)node->attr)->fn;
    const peft__value *gate = node->in[0], *up = node->in[1], *out = node->out[0];
    const peft__range rows = peft__tile_rows(tile, out->rows->count, out->cols);
    for (int64_t r = rows.first; r < rows.end; r++) {
        if (pass == PEFT__FORWARD) {
            kernels->gated(fn, out->cols, peft__row(gate, r), peft__row(up, r), peft__row(out, r));
            continue;
        }
        kernels->gated_backward(fn, out->cols, peft__row(gate, r), peft__row(up, r), peft__grad_row(out, r),
                                gate->needs_grad ? peft__grad_row(gate, r) : NULL, peft__accumulates(node, 0),
                                up->needs_grad ? peft__grad_row(up, r) : NULL, peft__accumulates(node, 1));
    }
}

static const peft__op activation_op = {
    .name = "activation", .cheap = true, .in_place = -1, .reads = reads, .tiles = tiles, .tile = activation_tile};
static const peft__op gated_op = {
    .name = "gated", .cheap = true, .in_place = -1, .reads = reads, .tiles = tiles, .tile = gated_tile};

peft__value *peft__op_activation(peft__graph *g, peft__activation kind, peft__value *x) {
    if (x == NULL || peft__graph_failed(g)) return NULL;
    if (kind == PEFT__ACT_IDENTITY) return x;
    const activation attr = {function_of(kind)};
    return peft__add_row_node(g, &activation_op, &x, 1, x, &attr, sizeof attr);
}

peft__value *peft__op_gated(peft__graph *g, peft__activation kind, peft__value *gate, peft__value *up) {
    if (gate == NULL || up == NULL || peft__graph_failed(g)) return NULL;
    if (!peft__value_check(g, "gated", "up", up, gate->rows, gate->cols)) return NULL;
    const activation attr = {function_of(kind)};
    return peft__add_row_node(g, &gated_op, (peft__value *[]){gate, up}, 2, gate, &attr, sizeof attr);
}
