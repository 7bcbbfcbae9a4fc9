/* graph.c: building: spaces, values and nodes are appended and never change afterwards.
 *
 * Everything lives in the graph's arena, so building needs no cleanup of its own: destroying the graph is the
 * cleanup. A failure is recorded once; from then on every call returns NULL, so that builders read like the model
 * they describe.
 */
#include "graph/graph_internal.h"

bool peft__graph_grow(peft__graph *graph, void **array, size_t *capacity, size_t count, size_t item) {
    if (count < *capacity) return true;
    const size_t wanted = *capacity == 0 ? 64 : *capacity * 2;
    void *grown = peft__realloc(graph->ctx->mem, *array, wanted * item);
    if (grown == NULL) {
        (void)peft__graph_fail(graph, peft__fail_nomem(graph->ctx, wanted * item, "the graph's lists"));
        return false;
    }
    *array = grown;
    *capacity = wanted;
    return true;
}

static void *graph_alloc(peft__graph *graph, size_t size) {
    if (graph->status < 0) return NULL;
    void *memory = peft__arena_alloc(&graph->arena, size);
    if (memory == NULL) (void)peft__graph_fail(graph, peft__fail_nomem(graph->ctx, size, "the graph"));
    return memory;
}

void *peft__graph_fail(peft__graph *graph, peft_status status) {
    if (graph->status >= 0) graph->status = status;
    return NULL;
}

bool peft__graph_failed(const peft__graph *graph) { return graph->status < 0; }

peft_status peft__graph_status(const peft__graph *graph) { return graph->status; }

peft_context *peft__graph_context(const peft__graph *graph) { return graph->ctx; }

peft__arena *peft__graph_arena(peft__graph *graph) { return &graph->arena; }

/* ---- values ---------------------------------------------------------------------------------------------- */

static peft__value *append_value(peft__graph *graph, const char *name) {
    if (graph->status < 0) return NULL;
    if (!peft__graph_grow(graph, (void **)&graph->values, &graph->value_capacity, graph->value_count, sizeof *graph->values)) return NULL;
    peft__value *value = graph_alloc(graph, sizeof *value);
    if (value == NULL) return NULL;
    value->name = peft__arena_strdup(&graph->arena, name);
    if (value->name == NULL) return peft__graph_fail(graph, peft__fail_nomem(graph->ctx, strlen(name) + 1, "a value's name"));
    value->index = (uint32_t)graph->value_count;
    graph->values[graph->value_count++] = value;
    return value;
}

peft__value *peft__value_new(peft__graph *graph, peft__rows *rows, int64_t cols, const char *name) {
    if (graph->status < 0 || rows == NULL) return NULL;
    if (cols <= 0) {
        return peft__graph_fail(graph, peft__fail(graph->ctx, PEFT_E_INTERNAL, "value %s would have %lld columns", name, (long long)cols));
    }
    peft__value *value = append_value(graph, name);
    if (value == NULL) return NULL;
    value->rows = rows;
    value->cols = cols;
    value->ld = cols;
    return value;
}

peft__value *peft__value_columns(peft__graph *graph, peft__value *value, int64_t column, int64_t cols) {
    if (graph->status < 0 || value == NULL) return NULL;
    if (column < 0 || cols <= 0 || column + cols > value->cols) {
        return peft__graph_fail(graph, peft__fail(graph->ctx, PEFT_E_INTERNAL, "columns %lld..%lld of %s, which has %lld", (long long)column,
                                                  (long long)(column + cols), value->name, (long long)value->cols));
    }
    peft__value *view = append_value(graph, value->name);
    if (view == NULL) return NULL;
    view->rows = value->rows;
    view->cols = cols;
    view->ld = value->ld;
    view->base = peft__root(value);
    view->column = value->column + column;
    view->flags = value->flags & PEFT__VALUE_STAT;
    return view;
}

static peft__value *param_as(peft__graph *graph, peft__param *param, int64_t rows) {
    if (graph->status < 0) return NULL;
    const char *const address = (const char *)&param;
    uint64_t at = 0;
    if (peft__table_get(&graph->param_index, address, sizeof param, &at)) return graph->params[at].value;
    const int64_t cols = rows > 0 ? param->elements / rows : 0;
    if (!peft__graph_grow(graph, (void **)&graph->params, &graph->param_capacity, graph->param_count, sizeof *graph->params)) return NULL;
    peft__value *value = peft__value_new(graph, peft__rows_fixed(graph, rows), cols, param->name);
    if (value == NULL) return NULL;
    value->param = param;
    value->data = param->data;
    const peft__param **key = graph_alloc(graph, sizeof(const peft__param *));
    if (key == NULL) return NULL;
    *key = param;
    if (!peft__table_put(&graph->param_index, (const char *)key, sizeof *key, graph->param_count))
        return peft__graph_fail(graph, peft__fail_nomem(graph->ctx, sizeof *key, "the graph's lists"));
    graph->params[graph->param_count].param = param;
    graph->params[graph->param_count].value = value;
    graph->params[graph->param_count].grad_offset = 0;
    graph->param_count++;
    return value;
}

peft__value *peft__value_param(peft__graph *graph, peft__param *param) {
    return param_as(graph, param, param->ndim > 1 ? param->shape[0] : 1);
}

peft__value *peft__value_param_vector(peft__graph *graph, peft__param *param) { return param_as(graph, param, 1); }

peft__value *peft__value_param_rows(peft__graph *graph, peft__param *param, int64_t rows) { return param_as(graph, param, rows); }

void peft__value_output(peft__graph *graph, peft__value *value) {
    if (graph->status < 0 || value == NULL) return;
    peft__root(value)->flags |= PEFT__VALUE_OUTPUT;
    value->flags |= PEFT__VALUE_OUTPUT;
}

void peft__graph_seed_grad(peft__graph *graph, peft__value *value) {
    if (graph->status < 0 || value == NULL) return;
    if (!peft__graph_grow(graph, (void **)&graph->seeds, &graph->seed_capacity, graph->seed_count, sizeof *graph->seeds)) return;
    graph->seeds[graph->seed_count++] = value;
}

/* ---- nodes ----------------------------------------------------------------------------------------------- */

peft__node *peft__node_add(peft__graph *graph, const peft__op *op, peft__value *const *in, uint32_t in_count, peft__value *const *out,
                           uint32_t out_count, const void *attr, size_t attr_size) {
    if (graph->status < 0) return NULL;
    if (in_count > PEFT__NODE_IN || out_count > PEFT__NODE_OUT || out_count == 0) {
        return peft__graph_fail(graph, peft__fail(graph->ctx, PEFT_E_INTERNAL, "%s with %u inputs and %u outputs", op->name, in_count, out_count));
    }
    if (!peft__graph_grow(graph, (void **)&graph->nodes, &graph->node_capacity, graph->node_count, sizeof *graph->nodes)) return NULL;
    peft__node *node = graph_alloc(graph, sizeof *node);
    if (node == NULL) return NULL;
    node->op = op;
    if (attr_size > 0) {
        node->attr = graph_alloc(graph, attr_size);
        if (node->attr == NULL) return NULL;
        if (attr != NULL) memcpy(node->attr, attr, attr_size);
    }
    node->in_count = in_count;
    node->out_count = out_count;
    for (uint32_t i = 0; i < in_count; i++) node->in[i] = in[i];
    for (uint32_t i = 0; i < out_count; i++) {
        if (out[i] == NULL || out[i]->producer != NULL || out[i]->base != NULL) {
            return peft__graph_fail(graph, peft__fail(graph->ctx, PEFT_E_INTERNAL, "output %u of %s is not a new value", i, op->name));
        }
        node->out[i] = out[i];
        out[i]->producer = node;
        if (op->is_loss) out[i]->flags |= PEFT__VALUE_STAT | PEFT__VALUE_OUTPUT;
    }
    node->index = (uint32_t)graph->node_count;
    graph->nodes[graph->node_count++] = node;
    return node;
}

/* ---- life ------------------------------------------------------------------------------------------------- */

peft_status peft__graph_create(peft_context *ctx, const peft__capacity *capacity, peft__graph **out_graph) {
    peft__graph *graph = peft__alloc_zero(ctx->mem, sizeof *graph);
    if (graph == NULL) return peft__fail_nomem(ctx, sizeof *graph, "a graph");
    graph->ctx = peft__context_ref(ctx);
    graph->capacity = *capacity;
    peft__arena_init(&graph->arena, ctx->mem);
    peft__table_init(&graph->param_index, ctx->mem);
    *out_graph = graph;
    return PEFT_OK;
}

void peft__graph_destroy(peft__graph *graph) {
    if (graph == NULL) return;
    peft_context *ctx = graph->ctx;
    peft__mem *mem = ctx->mem;
    peft__free(mem, graph->memory);
    peft__free(mem, graph->lane_memory);
    peft__free(mem, graph->gradients);
    peft__free(mem, graph->index);
    peft__free(mem, graph->rows);
    peft__free(mem, graph->values);
    peft__free(mem, graph->nodes);
    peft__table_free(&graph->param_index);
    peft__free(mem, graph->params);
    peft__free(mem, graph->seeds);
    peft__free(mem, graph->plans);
    peft__free(mem, graph->storages);
    peft__free(mem, graph->steps);
    peft__arena_free(&graph->arena);
    peft__free(mem, graph);
    peft__context_unref(ctx);
}

uint32_t peft__graph_param_count(const peft__graph *graph) { return (uint32_t)graph->param_count; }

peft__param *peft__graph_param(const peft__graph *graph, uint32_t index, float **out_grad) {
    const peft__graph_param_slot *slot = &graph->params[index];
    if (out_grad != NULL) *out_grad = slot->value->grad;
    return slot->param;
}

void peft__graph_exchange_param(peft__graph *graph, uint32_t index, peft__param *param) {
    peft__graph_param_slot *slot = &graph->params[index];
    slot->param = slot->value->param = param;
    slot->value->data = param->data;
}
