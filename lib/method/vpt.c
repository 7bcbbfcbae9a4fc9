/* vpt.c: Visual Prompt Tuning (Jia et al. 2022), shallow and deep: trained rows between the class token and the patches.
 *
 * Shallow prompts enter once, behind the positions, and go through all layers. Deep ones are thrown away after every
 * layer and replaced by that layer's own; so nothing but keys and values of their rows is ever read, and nothing else
 * is computed where the architecture lets us say so (layer_rows): their queries, their share of the output projection
 * and the feed-forward part. In place of overwriting rows, rows are then put in again.
 *
 * HF PEFT has no such type. Keys:
 *   num_virtual_tokens    prompts P
 *   deep                  true: a set of prompts for each layer
 *   prompt_dropout        on the prompts (after the projection), while training
 *   project_dim           prompts have this width and one linear layer, shared by all layers, brings them to the model's;
 *                         null = no projection
 *   modules_to_save       beside the head, which is always trained
 * Tensors: prompt_embeddings [1, P, width], deep_prompt_embeddings [layers - 1, P, width], prompt_proj.weight and .bias,
 * and the head under its own name ("classifier.weight").
 */
#include "method/adapter.h"

#include <math.h>

static const char *const WHERE = "adapter_config.json";

enum { MOST_PROMPTS = 65536, MOST_WIDTH = 1 << 20 };

typedef struct vpt {
    int64_t prompts, width, layers;
    bool deep, projected;
    float dropout;
    uint32_t shallow, deeper, projection; /* params; the projection's bias follows its weight */
    peft__rows *inserted; /* while a graph is built: the rows that have this adapter's prompts in them */
} vpt;

/* ---- configuration ----------------------------------------------------------------------------------------- */

/* The range of Xavier's uniform start for a patch embedding: sqrt(6 / (inputs of a patch + width)). */
static float start_range(const peft_adapter *adapter, int64_t width) {
    return sqrtf(6.0f / (float)(peft__model_dims(adapter->model)->feature_size + width));
}

static peft_status declare_projection(peft_adapter *adapter, vpt *v, int64_t hidden) {
    /* Kaiming's normal start over outputs. */
    const peft__declaration weight = {.name = "prompt_proj.weight",
                                      .key = "prompt_proj.weight",
                                      .ndim = 2,
                                      .shape = {hidden, v->width},
                                      .init = PEFT__INIT_NORMAL,
                                      .init_value = sqrtf(2.0f / (float)hidden)};
    const peft__declaration bias = {.name = "prompt_proj.bias",
                                    .key = "prompt_proj.bias",
                                    .flags = PEFT__PARAM_NO_DECAY,
                                    .ndim = 1,
                                    .shape = {hidden},
                                    .init = PEFT__INIT_UNIFORM,
                                    .init_value = 1.0f / sqrtf((float)v->width)};
    PEFT_TRY(peft__adapter_declare(adapter, &weight, &v->projection));
    return peft__adapter_declare(adapter, &bias, NULL);
}

static peft_status declare_prompts(peft_adapter *adapter, vpt *v) {
    const float range = start_range(adapter, v->width);
    peft__declaration d = {.name = "prompt_embeddings",
                           .key = "prompt_embeddings",
                           .ndim = 3,
                           .shape = {1, v->prompts, v->width},
                           .init = PEFT__INIT_UNIFORM,
                           .init_value = range};
    PEFT_TRY(peft__adapter_declare(adapter, &d, &v->shallow));
    if (!v->deep || v->layers < 2) return PEFT_OK;
    d.name = d.key = "deep_prompt_embeddings";
    d.shape[0] = v->layers - 1;
    return peft__adapter_declare(adapter, &d, &v->deeper);
}

static peft_status configure(peft_adapter *adapter) {
    peft_context *ctx = adapter->ctx;
    const peft__dims *dims = peft__model_dims(adapter->model);
    vpt *v = peft__arena_alloc(&adapter->arena, sizeof *v);
    if (v == NULL) return peft__fail_nomem(ctx, sizeof *v, "an adapter");
    adapter->state = v;
    if (dims->feature_size == 0)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "VPT needs a model that reads images; for %s there is PROMPT_TUNING",
                          peft__model_arch(adapter->model)->model_type);
    double dropout = 0.0;
    int64_t project = 0;
    PEFT_TRY(peft__json_need_int(ctx, adapter->config, WHERE, "num_virtual_tokens", 1, MOST_PROMPTS, &v->prompts));
    PEFT_TRY(peft__json_get_bool(ctx, adapter->config, WHERE, "deep", false, &v->deep));
    PEFT_TRY(peft__json_get_double(ctx, adapter->config, WHERE, "prompt_dropout", 0.0, 0.999, 0.0, &dropout));
    PEFT_TRY(peft__json_get_int(ctx, adapter->config, WHERE, "project_dim", 1, MOST_WIDTH, 0, &project));
    v->dropout = (float)dropout;
    v->projected = project > 0;
    v->width = project > 0 ? project : dims->hidden_size;
    v->layers = dims->num_hidden_layers;
    PEFT_TRY(peft__modules_to_save(adapter));
    PEFT_TRY(declare_prompts(adapter, v));
    return v->projected ? declare_projection(adapter, v, dims->hidden_size) : PEFT_OK;
}

/* ---- the graph ----------------------------------------------------------------------------------------------- */

typedef struct slice {
    int64_t first, count;
} slice;

static void measure_slice(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows,
                          int64_t *out_sequences) {
    (void)capacity;
    *out_rows = ((const slice *)rows->attr)->count;
    *out_sequences = 1;
}

static peft_status bind_slice(peft__rows *rows, peft_context *ctx, const peft_batch *batch) {
    (void)ctx;
    (void)batch;
    const slice *s = rows->attr;
    for (int64_t i = 0; i < s->count; i++) {
        rows->source[i] = (int32_t)(s->first + i);
        rows->positions[i] = (int32_t)i;
        rows->ids[i] = -1;
        rows->types[i] = 0;
        rows->labels[i] = PEFT_IGNORE_LABEL;
    }
    rows->offsets[0] = 0;
    rows->offsets[1] = (int32_t)s->count;
    rows->count = s->count;
    rows->sequences = 1;
    return PEFT_OK;
}

/* Rows [first, first + count) of a value of a fixed space. */
static peft__value *take_slice(peft__build *b, peft__value *all, int64_t first, int64_t count) {
    slice *attr = all == NULL ? NULL : peft__arena_alloc(peft__graph_arena(b->graph), sizeof *attr);
    if (all == NULL) return NULL;
    if (attr == NULL)
        return peft__graph_fail(b->graph,
                                peft__fail_nomem(peft__graph_context(b->graph), sizeof *attr, "a row space"));
    *attr = (slice){first, count};
    peft__rows *rows = peft__rows_new(b->graph, "prompts of a layer", all->rows, attr, measure_slice, bind_slice, true);
    return peft__op_select_rows(b->graph, rows, all, NULL);
}

/* The prompts [P, hidden] that enter a layer; layer 0 has those of prompt_embeddings. */
static peft__value *prompts_of(peft_adapter *adapter, peft__build *b, int32_t layer) {
    const vpt *v = adapter->state;
    peft__graph *g = b->graph;
    peft__value *x = NULL;
    if (layer == 0) {
        x = peft__value_param_rows(g, &adapter->params[v->shallow], v->prompts);
    } else {
        x = peft__value_param_rows(g, &adapter->params[v->deeper], (v->layers - 1) * v->prompts);
        if (v->layers > 2) x = take_slice(b, x, (layer - 1) * v->prompts, v->prompts);
    }
    if (v->projected && x != NULL) {
        peft__param *weight = &adapter->params[v->projection], *bias = weight + 1;
        const peft__weight w = {peft__matrix_f32(NULL, weight->shape[0], weight->shape[1]), peft__value_param(g, weight)};
        const peft__vector c = {NULL, peft__value_param(g, bias)};
        x = w.value != NULL && c.value != NULL ? peft__op_linear(g, x, w, c, NULL) : NULL;
    }
    if (v->dropout == 0.0f || b->purpose != PEFT__BUILD_LOSS || x == NULL) return x;
    return peft__op_dropout(g, x, v->dropout, peft__hash64("vpt", 3, (uint64_t)layer));
}

static peft__value *input(void *self, peft__build *b, peft__stack stack, int64_t skip, peft__value *x) {
    peft_adapter *adapter = self;
    vpt *v = adapter->state;
    v->inserted = NULL;
    if (x == NULL || stack != PEFT__STACK_MAIN || adapter->scale == 0.0f) return x;
    peft__rows *rows = peft__rows_insert(b->graph, x->rows, skip, v->prompts);
    v->inserted = rows;
    return peft__op_select_rows(b->graph, rows, x, prompts_of(adapter, b, 0));
}

/* Layer after layer: the prompts of the layer before are still there, or left out already. */
static peft__value *layer_input(void *self, peft__build *b, peft__stack stack, int32_t layer, int64_t skip,
                                peft__value *x) {
    peft_adapter *adapter = self;
    vpt *v = adapter->state;
    if (x == NULL || !v->deep || layer == 0 || stack != PEFT__STACK_MAIN || adapter->scale == 0.0f) return x;
    const bool there = x->rows == v->inserted;
    peft__rows *rows = there ? peft__rows_replace(b->graph, x->rows, skip, v->prompts)
                             : peft__rows_insert(b->graph, x->rows, skip, v->prompts);
    v->inserted = rows;
    return peft__op_select_rows(b->graph, rows, x, prompts_of(adapter, b, layer));
}

static peft__rows *layer_rows(void *self, peft__build *b, peft__stack stack, int32_t layer, int64_t skip,
                              peft__rows *rows) {
    const peft_adapter *adapter = self;
    const vpt *v = adapter->state;
    const bool replaced = v->deep && layer + 1 < v->layers && stack == PEFT__STACK_MAIN && rows == v->inserted;
    return replaced && b->purpose != PEFT__BUILD_HIDDEN ? peft__rows_drop(b->graph, rows, skip, v->prompts) : rows;
}

static int64_t inserted_length(void *self, peft__stack stack) {
    const vpt *v = ((const peft_adapter *)self)->state;
    return stack == PEFT__STACK_MAIN ? v->prompts : 0;
}

static bool touches(void *self, const peft__module *module) {
    (void)self;
    (void)module;
    return false;
}

static const peft__hooks HOOKS = {.trained = peft__adapter_trained,
                                  .touches = touches,
                                  .input = input,
                                  .layer_input = layer_input,
                                  .layer_rows = layer_rows,
                                  .inserted_length = inserted_length};

static const peft__config_key KEYS[] = {
    {"deep", "false", PEFT__KEY_USED},           {"modules_to_save", "null", PEFT__KEY_USED},
    {"num_virtual_tokens", "null", PEFT__KEY_USED}, {"project_dim", "null", PEFT__KEY_USED},
    {"prompt_dropout", "0.0", PEFT__KEY_USED},   {NULL, NULL, PEFT__KEY_USED},
};

const peft__method peft__method_vpt = {
    .peft_type = "VPT",
    .flags = PEFT__METHOD_NATIVE | PEFT__METHOD_FULL_NAMES,
    .keys = KEYS,
    .hooks = &HOOKS,
    .configure = configure,
};
