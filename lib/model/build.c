/* build.c: where architectures and methods meet.
 *
 * Each function below adds what the architecture asks for and lets the active adapters take part. No adapter means no
 * extra node: the frozen model is built as if methods did not exist. Two shortcuts need a method's word that it keeps
 * out: layers that read the same x become one product, and a residual is added by the product itself.
 */
#include "model/build.h"

#include <stdio.h>

enum { NAME_BYTES = 320, GROUP = 4 };

static const peft__module *need_module(peft__build *b, const char *name) {
    if (peft__graph_failed(b->graph)) return NULL;
    const peft__module *module = peft__model_find(b->model, name);
    if (module == NULL)
        peft__graph_fail(
            b->graph, peft__fail(peft__graph_context(b->graph), PEFT_E_INTERNAL, "the model has no module %s", name));
    return module;
}

/* Does this adapter do anything at the module? */
static bool touches(const peft__hooked *adapter, const peft__module *module) {
    const peft__hooks *h = adapter->hooks;
    if (h->before_linear == NULL && h->after_linear == NULL && h->after_embedding == NULL) return false;
    return h->touches == NULL || h->touches(adapter->self, module);
}

static bool touched(const peft__build *b, const peft__module *module) {
    for (uint32_t i = 0; i < b->adapter_count; i++)
        if (touches(&b->adapters[i], module)) return true;
    return false;
}

/* ---- weights --------------------------------------------------------------------------------------------- */

/* The param that an adapter trains in place of a base tensor; at most one adapter may. */
static peft__value *trained_value(peft__build *b, const char *tensor, int64_t rows, const peft__hooked **out_owner) {
    peft__param *found = NULL;
    for (uint32_t i = 0; i < b->adapter_count; i++) {
        const peft__hooked *adapter = &b->adapters[i];
        peft__param *param = adapter->hooks->trained != NULL ? adapter->hooks->trained(adapter->self, tensor) : NULL;
        if (param == NULL) continue;
        if (found != NULL)
            return peft__graph_fail(b->graph,
                                    peft__fail(peft__graph_context(b->graph), PEFT_E_MISMATCH,
                                               "two active adapters train the same tensor of the base, %s", tensor));
        found = param;
        if (out_owner != NULL) *out_owner = adapter;
    }
    if (found == NULL) return NULL;
    return rows > 0 ? peft__value_param_rows(b->graph, found, rows) : peft__value_param(b->graph, found);
}

static const char *tensor_name(char buffer[NAME_BYTES], const peft__module *module, const char *part) {
    if (module->bias_name != NULL && strcmp(part, "bias") == 0) return module->bias_name;
    (void)snprintf(buffer, NAME_BYTES, module->kind == PEFT_MODULE_TABLE ? "%s" : "%s.%s", module->name, part);
    return buffer;
}

/* A tied module uses the value trained for itself, else the one trained for the module it shares with. */
static peft__value *trained_weight(peft__build *b, const peft__module *module) {
    char name[NAME_BYTES];
    /* Bare tables are stored as [1, rows, width] too. */
    const int64_t rows = module->kind == PEFT_MODULE_TABLE ? module->in : 0;
    peft__value *value = trained_value(b, tensor_name(name, module, "weight"), rows, NULL);
    if (value != NULL || module->tied_to == NULL || peft__graph_failed(b->graph)) return value;
    const peft__hooked *owner = NULL;
    value = trained_value(b, tensor_name(name, module->tied_to, "weight"), 0, &owner);
    if (value != NULL && owner->hooks->keeps_tie != NULL && !owner->hooks->keeps_tie(owner->self, module)) return NULL;
    return value;
}

static peft__weight weight_of(peft__build *b, const peft__module *module) {
    peft__weight weight = {0};
    if (module == NULL) return weight;
    weight.matrix = peft__module_matrix(module);
    weight.value = trained_weight(b, module);
    if (weight.value != NULL) { /* Hugging Face's layout: Conv1D lies as [in, out] */
        const peft__matrix as_trained = {.dtype = PEFT_DTYPE_F32,
                                         .rows = weight.matrix.rows,
                                         .cols = weight.matrix.cols,
                                         .transposed = module->kind == PEFT_MODULE_CONV1D};
        weight.matrix = as_trained;
    } else if (weight.matrix.data == NULL && !peft__graph_failed(b->graph)) {
        peft__graph_fail(b->graph, peft__fail(peft__graph_context(b->graph), PEFT_E_STATE,
                                              "module %s is new: the files have no weight for it and no active adapter "
                                              "brings one (modules_to_save)",
                                              module->name));
    }
    return weight;
}

peft__weight peft__build_weight(peft__build *b, const char *module) {
    return weight_of(b, need_module(b, module));
}

peft__vector peft__build_vector(peft__build *b, const char *tensor) {
    peft__vector vector = {0};
    if (peft__graph_failed(b->graph)) return vector;
    vector.value = trained_value(b, tensor, 0, NULL);
    if (vector.value == NULL) vector.tensor = peft__model_tensor(b->model, tensor);
    return vector;
}

static peft__vector bias_of(peft__build *b, const peft__module *module) {
    char name[NAME_BYTES];
    if (module != NULL) return peft__build_vector(b, tensor_name(name, module, "bias"));
    const peft__vector none = {0};
    return none;
}

/* ---- linear layers --------------------------------------------------------------------------------------- */

static peft__value *before_linear(peft__build *b, const peft__module *module, peft__value *x) {
    for (uint32_t i = 0; i < b->adapter_count && !peft__graph_failed(b->graph); i++) {
        const peft__hooked *adapter = &b->adapters[i];
        if (adapter->hooks->before_linear != NULL && touches(adapter, module))
            x = adapter->hooks->before_linear(adapter->self, b, module, x);
    }
    return x;
}

static peft__value *after_linear(peft__build *b, const peft__module *module, peft__value *x, peft__value *y) {
    for (uint32_t i = 0; i < b->adapter_count && !peft__graph_failed(b->graph); i++) {
        const peft__hooked *adapter = &b->adapters[i];
        if (adapter->hooks->after_linear != NULL && touches(adapter, module))
            y = adapter->hooks->after_linear(adapter->self, b, module, x, y);
    }
    return y;
}

/* May y hold the residual before the methods see it? */
static bool all_additive(const peft__build *b, const peft__module *module) {
    for (uint32_t i = 0; i < b->adapter_count; i++) {
        const peft__hooked *adapter = &b->adapters[i];
        if (adapter->hooks->after_linear == NULL || !touches(adapter, module)) continue;
        if (adapter->hooks->linear_is_additive == NULL || !adapter->hooks->linear_is_additive(adapter->self, module))
            return false;
    }
    return true;
}

peft__value *peft__build_linear(peft__build *b, const char *name, peft__value *x, peft__value *residual) {
    const peft__module *module = need_module(b, name);
    if (module == NULL || x == NULL) return NULL;
    const bool fused = residual != NULL && all_additive(b, module);
    x = before_linear(b, module, x);
    peft__value *y = peft__op_linear(b->graph, x, weight_of(b, module), bias_of(b, module), fused ? residual : NULL);
    y = after_linear(b, module, x, y);
    return residual != NULL && !fused ? peft__op_add(b->graph, y, residual) : y;
}

void peft__build_linear_group(peft__build *b, const char *const *names, uint32_t count, peft__value *x,
                              peft__value **out) {
    const peft__module *modules[GROUP] = {NULL};
    peft__value *inputs[GROUP] = {NULL};
    bool done[GROUP] = {false};
    for (uint32_t i = 0; i < count; i++) out[i] = NULL;
    if (count > GROUP || x == NULL) return;
    for (uint32_t i = 0; i < count; i++) {
        modules[i] = need_module(b, names[i]);
        if (modules[i] == NULL) return;
        inputs[i] = before_linear(b, modules[i], x);
    }
    for (uint32_t first = 0; first < count; first++) {
        if (done[first]) continue;
        peft__weight weights[GROUP];
        peft__vector biases[GROUP];
        peft__value *results[GROUP] = {NULL};
        uint32_t members[GROUP], size = 0;
        for (uint32_t i = first; i < count; i++) {
            if (done[i] || inputs[i] != inputs[first]) continue;
            done[i] = true;
            weights[size] = weight_of(b, modules[i]);
            biases[size] = bias_of(b, modules[i]);
            members[size++] = i;
        }
        peft__op_linear_group(b->graph, inputs[first], weights, biases, size, NULL, results);
        for (uint32_t i = 0; i < size; i++) out[members[i]] = results[i];
    }
    for (uint32_t i = 0; i < count; i++) out[i] = after_linear(b, modules[i], inputs[i], out[i]);
}

/* ---- norms and embeddings -------------------------------------------------------------------------------- */

peft__value *peft__build_norm(peft__build *b, const char *name, peft__norm_kind kind, peft__value *x, float eps,
                              float weight_offset) {
    const peft__module *module = need_module(b, name);
    if (module == NULL || x == NULL) return NULL;
    char tensor[NAME_BYTES];
    const peft__vector weight = peft__build_vector(b, tensor_name(tensor, module, "weight"));
    if (weight.value == NULL) weight_offset -= module->stored_offset;
    return peft__op_norm(b->graph, kind, x, weight, bias_of(b, module), eps, weight_offset);
}

peft__value *peft__build_embedding(peft__build *b, const char *name, peft__rows *rows, peft__lookup by, float scale,
                                   int32_t padding_index) {
    const peft__module *module = need_module(b, name);
    if (module == NULL || rows == NULL) return NULL;
    peft__value *y = peft__op_embedding(b->graph, rows, weight_of(b, module), by, scale, padding_index);
    for (uint32_t i = 0; i < b->adapter_count && !peft__graph_failed(b->graph); i++) {
        const peft__hooked *adapter = &b->adapters[i];
        if (adapter->hooks->after_embedding != NULL && touches(adapter, module))
            y = adapter->hooks->after_embedding(adapter->self, b, module, rows, by, scale, padding_index, y);
    }
    return y;
}

/* ---- the stream of rows ---------------------------------------------------------------------------------- */

peft__value *peft__build_word_embedding(peft__build *b, peft__stack stack, peft__value *x) {
    for (uint32_t i = 0; i < b->adapter_count && !peft__graph_failed(b->graph); i++)
        if (b->adapters[i].hooks->word_embedding != NULL)
            x = b->adapters[i].hooks->word_embedding(b->adapters[i].self, b, stack, x);
    return x;
}

peft__value *peft__build_input(peft__build *b, peft__stack stack, int64_t skip, peft__value *x) {
    for (uint32_t i = 0; i < b->adapter_count && !peft__graph_failed(b->graph); i++)
        if (b->adapters[i].hooks->input != NULL)
            x = b->adapters[i].hooks->input(b->adapters[i].self, b, stack, skip, x);
    return x;
}

peft__value *peft__build_layer_input(peft__build *b, peft__stack stack, int32_t layer, int64_t skip, peft__value *x) {
    for (uint32_t i = 0; i < b->adapter_count && !peft__graph_failed(b->graph); i++)
        if (b->adapters[i].hooks->layer_input != NULL)
            x = b->adapters[i].hooks->layer_input(b->adapters[i].self, b, stack, layer, skip, x);
    return x;
}

peft__value *peft__build_layer_rows(peft__build *b, peft__stack stack, int32_t layer, int64_t skip, peft__value *x) {
    for (uint32_t i = 0; i < b->adapter_count && x != NULL && !peft__graph_failed(b->graph); i++) {
        const peft__hooked *adapter = &b->adapters[i];
        if (adapter->hooks->layer_rows == NULL) continue;
        peft__rows *rows = adapter->hooks->layer_rows(adapter->self, b, stack, layer, skip, x->rows);
        if (rows != x->rows) x = peft__op_select_rows(b->graph, rows, x, NULL);
    }
    return x;
}

int64_t peft__build_prefix_length(peft__build *b, peft__stack stack) {
    int64_t length = 0;
    for (uint32_t i = 0; i < b->adapter_count; i++)
        if (b->adapters[i].hooks->prefix_length != NULL)
            length += b->adapters[i].hooks->prefix_length(b->adapters[i].self, stack);
    return length;
}

/* Rows of the stream, counted as the model counts: moved up by what stands in front of every sequence's keys, and, when
 * the batch does not say, from the model's own first position. There (RoBERTa) padding tokens, which a text may hold,
 * all have the position before the first and do not count. */
typedef struct count_attr {
    int64_t prefix, first;
    int32_t pad;
} count_attr;

static void measure_counted(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows,
                            int64_t *out_sequences) {
    (void)capacity;
    *out_rows = rows->parent->max_rows;
    *out_sequences = rows->parent->max_sequences;
}

static peft_status bind_counted(peft__rows *rows, peft_context *ctx, const peft_batch *batch) {
    const peft__rows *parent = rows->parent;
    const count_attr *attr = rows->attr;
    const size_t bytes = (size_t)parent->count * sizeof(int32_t);
    const bool count = attr->first > 0 && batch->position_ids == NULL;
    rows->count = parent->count;
    rows->sequences = parent->sequences;
    memcpy(rows->offsets, parent->offsets, (size_t)(parent->sequences + 1) * sizeof(int32_t));
    if (bytes == 0) return PEFT_OK;
    memcpy(rows->ids, parent->ids, bytes);
    memcpy(rows->types, parent->types, bytes);
    memcpy(rows->labels, parent->labels, bytes);
    for (int64_t s = 0; s < parent->sequences; s++) {
        int64_t next = attr->first;
        for (int32_t r = parent->offsets[s]; r < parent->offsets[s + 1]; r++) {
            int64_t position = parent->positions[r];
            if (count) position = parent->ids[r] == attr->pad ? attr->first - 1 - attr->prefix : next++;
            if (position > INT32_MAX - attr->prefix)
                return peft__fail(ctx, PEFT_E_ARG, "position %lld plus a prefix of %lld is too large",
                                  (long long)position, (long long)attr->prefix);
            rows->positions[r] = (int32_t)(position + attr->prefix);
        }
    }
    return PEFT_OK;
}

peft__rows *peft__build_rows(peft__build *b, peft__stack stack) {
    peft__graph *g = b->graph;
    const peft__dims *dims = peft__model_dims(b->model);
    peft__rows *rows = stack == PEFT__STACK_DECODER
                           ? peft__rows_decoder(g)
                           : peft__rows_stream(g, peft__model_task(b->model) == PEFT_TASK_CAUSAL_LM && b->caches == NULL);
    const int64_t prefix = peft__build_prefix_length(b, stack);
    if ((prefix == 0 && dims->first_position == 0) || rows == NULL) return rows;
    count_attr *attr = peft__arena_alloc(peft__graph_arena(g), sizeof *attr);
    if (attr == NULL) return peft__graph_fail(g, peft__fail_nomem(peft__graph_context(g), sizeof *attr, "a row space"));
    *attr = (count_attr){prefix, dims->first_position, dims->pad_token_id};
    rows = peft__rows_new(g, "counted rows", rows, attr, measure_counted, bind_counted, false);
    if (rows != NULL) rows->first_position = (int32_t)dims->first_position;
    return rows;
}

/* ---- attention and sub-layers ---------------------------------------------------------------------------- */

peft__value *peft__build_attention(peft__build *b, peft__stack stack, int32_t layer, peft__value *q, peft__value *k,
                                   peft__value *v, peft__value *bias, const peft__attention_config *config) {
    peft__attention_config own = *config;
    peft__prefix prefix = {NULL, NULL};
    if (!config->cross) {
        if (b->caches != NULL) own.cache = &b->caches[layer];
        own.branches = b->branches;
        for (uint32_t i = 0; i < b->adapter_count && !peft__graph_failed(b->graph); i++) {
            const peft__hooked *adapter = &b->adapters[i];
            if (adapter->hooks->prefix == NULL) continue;
            peft__prefix one = {NULL, NULL};
            adapter->hooks->prefix(adapter->self, b, stack, layer, config->kv_heads, config->head_dim, &one);
            if (one.k == NULL) continue;
            if (prefix.k != NULL)
                return peft__graph_fail(
                    b->graph, peft__fail(peft__graph_context(b->graph), PEFT_E_UNSUPPORTED,
                                         "two active adapters put keys and values before layer %d's own", (int)layer));
            prefix = one;
        }
    }
    /* An architecture that leaves out queries whose results nobody reads. */
    if (q != NULL && k != NULL && q->rows != k->rows) own.cross = true;
    return peft__op_attention(b->graph, q, k, v, prefix.k, prefix.v, bias, &own);
}

peft__value *peft__build_cross_attention(peft__build *b, int32_t layer, peft__value *q, const char *k, const char *v,
                                         peft__value *encoded, const peft__attention_config *config) {
    peft__attention_config own = *config;
    own.cross = true;
    if (b->part == PEFT__PART_DECODER) {
        own.cache = &b->cross_caches[layer];
        return peft__op_attention(b->graph, q, NULL, NULL, NULL, NULL, NULL, &own);
    }
    const char *const names[2] = {k, v};
    peft__value *kv[2] = {NULL, NULL};
    peft__build_linear_group(b, names, 2, encoded, kv);
    return peft__op_attention(b->graph, q, kv[0], kv[1], NULL, NULL, NULL, &own);
}

void peft__build_cross_keys(peft__build *b, int32_t layer, const char *k, const char *v, peft__value *encoded) {
    const int64_t layers = peft__model_dims(b->model)->num_decoder_layers;
    const size_t bytes = (size_t)layers * 2 * sizeof(peft__value *);
    if (b->cross == NULL) b->cross = peft__arena_alloc(peft__graph_arena(b->graph), bytes);
    if (b->cross == NULL) {
        peft__graph_fail(b->graph, peft__fail_nomem(peft__graph_context(b->graph), bytes, "a graph"));
        return;
    }
    const char *const names[2] = {k, v};
    peft__build_linear_group(b, names, 2, encoded, &b->cross[2 * layer]);
    for (int part = 0; part < 2; part++)
        if (b->cross[2 * layer + part] != NULL) peft__value_output(b->graph, b->cross[2 * layer + part]);
}

bool peft__build_has_sublayer_hook(const peft__build *b) {
    for (uint32_t i = 0; i < b->adapter_count; i++)
        if (b->adapters[i].hooks->sublayer_output != NULL) return true;
    return false;
}

peft__value *peft__build_sublayer_output(peft__build *b, const peft__sublayer_end *end, peft__value *x,
                                         peft__value *residual) {
    for (uint32_t i = 0; i < b->adapter_count && !peft__graph_failed(b->graph); i++)
        if (b->adapters[i].hooks->sublayer_output != NULL)
            x = b->adapters[i].hooks->sublayer_output(b->adapters[i].self, b, end, x, residual);
    return x;
}

/* linear, hooks, + residual */
static peft__value *end_with_sum(peft__build *b, const peft__sublayer_end *end, peft__value *x, peft__value *residual) {
    if (!peft__build_has_sublayer_hook(b)) return peft__build_linear(b, end->linear, x, residual);
    x = peft__build_linear(b, end->linear, x, NULL);
    x = peft__build_sublayer_output(b, end, x, residual);
    return x == NULL ? NULL : peft__op_add(b->graph, x, residual);
}

peft__value *peft__build_sublayer_end(peft__build *b, peft__stack stack, int32_t layer, peft__sublayer which,
                                      const char *module, peft__value *x, peft__value *residual) {
    const peft__sublayer_end end = {.stack = stack, .layer = layer, .which = which, .linear = module};
    return end_with_sum(b, &end, x, residual);
}

peft__value *peft__build_post_norm_end(peft__build *b, const peft__sublayer_end *end, peft__value *x,
                                       peft__value *residual) {
    peft__value *sum = end_with_sum(b, end, x, residual);
    for (uint32_t i = 0; i < b->adapter_count && sum != NULL && !peft__graph_failed(b->graph); i++)
        if (b->adapters[i].hooks->before_post_norm != NULL)
            sum = b->adapters[i].hooks->before_post_norm(b->adapters[i].self, b, end, sum);
    return peft__build_norm(b, end->norm, PEFT__LAYER_NORM, sum, end->eps, 0);
}

static void keep_hidden(peft__build *b, peft__value ***list, int64_t layers, int64_t index, peft__value *x) {
    if (b->purpose != PEFT__BUILD_HIDDEN || x == NULL) return;
    const size_t bytes = (size_t)(layers + 1) * sizeof **list;
    if (*list == NULL) *list = peft__arena_alloc(peft__graph_arena(b->graph), bytes);
    if (*list == NULL || index > layers) {
        peft__graph_fail(b->graph, peft__fail_nomem(peft__graph_context(b->graph), bytes, "the list of hidden states"));
        return;
    }
    (*list)[index] = x;
    peft__value_output(b->graph, x);
}

void peft__build_hidden(peft__build *b, int64_t index, peft__value *x) {
    keep_hidden(b, &b->hidden, peft__model_dims(b->model)->num_hidden_layers, index, x);
}

void peft__build_decoder_hidden(peft__build *b, int64_t index, peft__value *x) {
    keep_hidden(b, &b->decoder_hidden, peft__model_dims(b->model)->num_decoder_layers, index, x);
}

peft__value *peft__build_lm_transform(peft__build *b, peft__value *hidden) {
    const peft__arch *arch = peft__model_arch(b->model);
    return arch->lm_transform != NULL && hidden != NULL ? arch->lm_transform(b, hidden) : hidden;
}

/* ---- all ------------------------------------------------------------------------------------------------- */

bool peft__build_touches(const peft__build *b, const char *module) {
    const peft__module *found = peft__model_find(b->model, module);
    return found != NULL && touched(b, found);
}

peft_status peft__build_model(peft__build *b) {
    const peft__arch *arch = peft__model_arch(b->model);
    b->loss = b->logits = b->decoder_logits = b->nll = NULL;
    b->hidden = b->decoder_hidden = b->cross = NULL;
    b->rows_picked = false;
    peft__value *hidden = arch->build(b);
    if (hidden != NULL && b->purpose != PEFT__BUILD_HIDDEN) arch->build_head(b, hidden);
    return peft__graph_status(b->graph);
}
