/* mlp_head.c: a small network as the output layer of a frozen base: the paper of VPT calls it MLP-k.
 *
 * Linear layers with ReLU between stand in front of the model's own output layer, which is trained with them; it counts
 * as one of the k, so k = 1 is the linear probe. They read what the output layer read: one row an image or a sentence.
 * Nothing below them is trained, so nothing below them has a backward pass or keeps an activation.
 *
 * HF PEFT has no such type. Keys:
 *   num_layers        linear layers, the output layer included
 *   hidden_size       width between them (what the output layer reads keeps its own); null = the model's
 *   modules_to_save   beside the head, which is always trained
 * Tensors: mlp_head.0.weight, mlp_head.0.bias, mlp_head.1..., and the head under its own name. Weights start normal
 * with deviation sqrt(2 / outputs), as VPT's code does, biases at zero.
 */
#include "method/adapter.h"

#include <math.h>

static const char *const WHERE = "adapter_config.json";

enum { MOST_LAYERS = 16, MOST_WIDTH = 1 << 16 };

typedef struct mlp_head {
    const peft__module *head;
    uint32_t weights[MOST_LAYERS]; /* params; each one's bias follows it */
    uint32_t count;                /* layers in front of the head */
} mlp_head;

/* ---- configuration ----------------------------------------------------------------------------------------- */

static peft_status find_head(peft_adapter *adapter, mlp_head *m) {
    const int32_t task = peft__model_task(adapter->model);
    uint32_t heads = 0;
    for (uint32_t i = 0; i < peft__model_module_count(adapter->model); i++) {
        const peft__module *module = peft__model_module_at(adapter->model, i);
        if (!module->is_head) continue;
        m->head = module;
        heads++;
    }
    const bool classes = task == PEFT_TASK_IMAGE_CLS || task == PEFT_TASK_SEQ_CLS || task == PEFT_TASK_TOKEN_CLS;
    if (classes && heads == 1 && m->head->kind == PEFT_MODULE_LINEAR && m->head->tied_to == NULL) return PEFT_OK;
    return peft__fail(adapter->ctx, PEFT_E_UNSUPPORTED,
                      "MLP_HEAD needs a model with a classification task and one output layer, found %u output layers",
                      heads);
}

static peft_status declare_linear(peft_adapter *adapter, mlp_head *m, int64_t in, int64_t out) {
    const char *weight_name = peft__adapter_text(adapter, "mlp_head.%u.weight", m->count);
    const char *bias_name = peft__adapter_text(adapter, "mlp_head.%u.bias", m->count);
    if (weight_name == NULL || bias_name == NULL) return PEFT_E_NOMEM;
    const peft__declaration weight = {.name = weight_name,
                                      .key = weight_name,
                                      .ndim = 2,
                                      .shape = {out, in},
                                      .init = PEFT__INIT_NORMAL,
                                      .init_value = sqrtf(2.0f / (float)out)};
    const peft__declaration bias = {.name = bias_name,
                                    .key = bias_name,
                                    .flags = PEFT__PARAM_NO_DECAY,
                                    .ndim = 1,
                                    .shape = {out},
                                    .init = PEFT__INIT_ZERO};
    PEFT_TRY(peft__adapter_declare(adapter, &weight, &m->weights[m->count]));
    PEFT_TRY(peft__adapter_declare(adapter, &bias, NULL));
    m->count++;
    return PEFT_OK;
}

/* The model's own output layer, unless modules_to_save has it already. */
static peft_status declare_head(peft_adapter *adapter, const mlp_head *m) {
    for (int part = 0; part < (m->head->has_bias ? 2 : 1); part++) {
        const char *name = peft__adapter_tensor_name(adapter, m->head, part == 1);
        uint64_t known = 0;
        if (name == NULL) return peft__fail_nomem(adapter->ctx, 64, "an adapter's names");
        if (peft__table_get(&adapter->by_base, name, strlen(name), &known)) continue;
        PEFT_TRY(peft__adapter_declare_base(adapter, m->head, part == 1, name, name, NULL));
    }
    return PEFT_OK;
}

static peft_status configure(peft_adapter *adapter) {
    peft_context *ctx = adapter->ctx;
    mlp_head *m = peft__arena_alloc(&adapter->arena, sizeof *m);
    if (m == NULL) return peft__fail_nomem(ctx, sizeof *m, "an adapter");
    adapter->state = m;
    int64_t layers = 0, width = 0;
    PEFT_TRY(find_head(adapter, m));
    PEFT_TRY(peft__json_get_int(ctx, adapter->config, WHERE, "num_layers", 1, MOST_LAYERS, 3, &layers));
    PEFT_TRY(peft__json_get_int(ctx, adapter->config, WHERE, "hidden_size", 1, MOST_WIDTH, m->head->in, &width));
    PEFT_TRY(peft__modules_to_save(adapter));
    /* The output layer keeps its shape: the last one in front of it has its width. */
    for (int64_t i = 1; i < layers; i++)
        PEFT_TRY(declare_linear(adapter, m, i == 1 ? m->head->in : width, i + 1 == layers ? m->head->in : width));
    return declare_head(adapter, m);
}

/* ---- the graph ----------------------------------------------------------------------------------------------- */

static bool touches(void *self, const peft__module *module) {
    const peft_adapter *adapter = self;
    return module == ((const mlp_head *)adapter->state)->head;
}

static peft__value *before_linear(void *self, peft__build *b, const peft__module *module, peft__value *x) {
    peft_adapter *adapter = self;
    const mlp_head *m = adapter->state;
    (void)module;
    for (uint32_t i = 0; i < m->count && x != NULL; i++) {
        peft__param *weight = &adapter->params[m->weights[i]], *bias = weight + 1;
        const peft__weight w = {peft__matrix_f32(NULL, weight->shape[0], weight->shape[1]),
                                peft__value_param(b->graph, weight)};
        const peft__vector c = {NULL, peft__value_param(b->graph, bias)};
        if (w.value == NULL || c.value == NULL) return NULL;
        x = peft__op_activation(b->graph, PEFT__ACT_RELU, peft__op_linear(b->graph, x, w, c, NULL));
    }
    return x;
}

static const peft__hooks HOOKS = {.trained = peft__adapter_trained, .touches = touches, .before_linear = before_linear};

static const peft__config_key KEYS[] = {
    {"hidden_size", "null", PEFT__KEY_USED},
    {"modules_to_save", "null", PEFT__KEY_USED},
    {"num_layers", "3", PEFT__KEY_USED},
    {NULL, NULL, PEFT__KEY_USED},
};

const peft__method peft__method_mlp_head = {
    .peft_type = "MLP_HEAD",
    .flags = PEFT__METHOD_NATIVE | PEFT__METHOD_FULL_NAMES,
    .keys = KEYS,
    .hooks = &HOOKS,
    .configure = configure,
};
