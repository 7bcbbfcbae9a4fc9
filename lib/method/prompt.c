/* prompt.c: soft prompts: configuration, the table, and how it enters the rows of the input.
 *
 * Numbers that HF PEFT resolves from the model (token_dim, num_layers, ...) are written into the configuration here,
 * because its loader relies on them. The encoder exists as graph operations only: training runs them inside the model's
 * graph, saving in a graph of their own, so that the saved table is what was trained.
 */
#include "method/prompt.h"

#include <math.h>

static const char *const WHERE = "adapter_config.json";

enum { MOST_ROWS = 65536, MOST_WIDTH = 1 << 20 };

/* ---- configuration ---------------------------------------------------------------------------------------------- */

static peft_status set_number(peft_adapter *adapter, const char *key, int64_t value) {
    if (json_object_set_new(adapter->config, key, json_integer(value)) == 0) return PEFT_OK;
    return peft__fail_nomem(adapter->ctx, 64, "an adapter's configuration");
}

peft_status peft__prompt_number(peft_adapter *adapter, const char *key, int64_t most, int64_t fallback, int64_t *out) {
    const bool open = peft__json_value(adapter->config, key) == NULL;
    PEFT_TRY(peft__json_get_int(adapter->ctx, adapter->config, WHERE, key, 1, most, fallback, out));
    return open ? set_number(adapter, key, *out) : PEFT_OK;
}

const peft__module *peft__prompt_word_table(const peft_model *model) {
    const peft__module *first = NULL;
    for (uint32_t i = 0; i < peft__model_module_count(model); i++) {
        const peft__module *module = peft__model_module_at(model, i);
        if (module->kind != PEFT_MODULE_EMBEDDING) continue;
        if (module->in == peft__model_dims(model)->vocab_size) return module;
        if (first == NULL) first = module;
    }
    return first;
}

/* Width of a layer's keys. Models with grouped heads have it written into token_dim and num_attention_heads in place of
 * the model's own. */
static peft_status configure_layers(peft_adapter *adapter, peft__prompt *prompt) {
    peft_context *ctx = adapter->ctx;
    const peft__dims *dims = peft__model_dims(adapter->model);
    const int64_t heads = dims->num_key_value_heads, width = heads * dims->head_dim;
    int64_t given = 0;
    PEFT_TRY(peft__json_get_int(ctx, adapter->config, WHERE, "token_dim", 1, MOST_WIDTH, width, &given));
    if (given != width && given != dims->hidden_size)
        return peft__fail(ctx, PEFT_E_MISMATCH, "%s: token_dim is %lld, the model's keys have %lld columns", WHERE,
                          (long long)given, (long long)width);
    if (heads == dims->num_attention_heads && width != dims->hidden_size)
        peft__log(ctx, PEFT_LOG_WARNING,
                  "the model's keys have %lld columns and its rows %lld: HF PEFT cannot read such a prefix",
                  (long long)width, (long long)dims->hidden_size);
    prompt->token_dim = width;
    PEFT_TRY(set_number(adapter, "token_dim", width));
    PEFT_TRY(set_number(adapter, "num_attention_heads", heads));
    PEFT_TRY(peft__prompt_number(adapter, "num_layers", 65536, dims->num_hidden_layers, &prompt->layers));
    if (prompt->layers == dims->num_hidden_layers) return PEFT_OK;
    return peft__fail(ctx, PEFT_E_MISMATCH, "%s: num_layers is %lld, the model has %lld", WHERE,
                      (long long)prompt->layers, (long long)dims->num_hidden_layers);
}

static peft_status configure_input(peft_adapter *adapter, peft__prompt *prompt) {
    peft_context *ctx = adapter->ctx;
    const peft__dims *dims = peft__model_dims(adapter->model);
    const peft__module *table = peft__prompt_word_table(adapter->model);
    int64_t heads = 0;
    if (table == NULL)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s needs a model that reads tokens", adapter->method->peft_type);
    PEFT_TRY(peft__prompt_number(adapter, "token_dim", MOST_WIDTH, table->out, &prompt->token_dim));
    PEFT_TRY(peft__prompt_number(adapter, "num_layers", 65536, dims->num_hidden_layers, &prompt->layers));
    PEFT_TRY(peft__prompt_number(adapter, "num_attention_heads", 65536, dims->num_attention_heads, &heads));
    if (prompt->token_dim == table->out) return PEFT_OK;
    return peft__fail(ctx, PEFT_E_MISMATCH, "%s: token_dim is %lld, the model's embeddings have %lld columns", WHERE,
                      (long long)prompt->token_dim, (long long)table->out);
}

peft_status peft__prompt_configure(peft_adapter *adapter, peft__prompt *prompt, bool by_layer) {
    peft_context *ctx = adapter->ctx;
    const bool two_stacks = peft__model_task(adapter->model) == PEFT_TASK_SEQ_2_SEQ_LM;
    const int64_t positions = peft__model_dims(adapter->model)->max_position_embeddings;
    PEFT_TRY(peft__modules_to_save(adapter));
    PEFT_TRY(
        peft__json_need_int(ctx, adapter->config, WHERE, "num_virtual_tokens", 1, MOST_ROWS, &prompt->virtual_tokens));
    if (positions > 0 && prompt->virtual_tokens >= positions)
        return peft__fail(ctx, PEFT_E_ARG, "%s: %lld virtual tokens leave no room in a model with %lld positions",
                          WHERE, (long long)prompt->virtual_tokens, (long long)positions);
    PEFT_TRY(peft__prompt_number(adapter, "num_transformer_submodules", 2, two_stacks ? 2 : 1, &prompt->submodules));
    if (prompt->submodules == 2 && !two_stacks)
        return peft__fail(ctx, PEFT_E_ARG, "%s: num_transformer_submodules is 2, which is for encoder-decoder models",
                          WHERE);
    /* As in HF PEFT: keys and values go to the decoder, rows of the input to the encoder. */
    prompt->stack = by_layer && two_stacks ? PEFT__STACK_DECODER : PEFT__STACK_MAIN;
    return by_layer ? configure_layers(adapter, prompt) : configure_input(adapter, prompt);
}

peft_status peft__prompt_read_position(peft_adapter *adapter, peft__prompt *prompt) {
    const char *position = NULL;
    PEFT_TRY(peft__json_get_string(adapter->ctx, adapter->config, WHERE, "prompt_position", "front", &position));
    prompt->in_place = strcmp(position, "template") == 0;
    if (prompt->in_place || strcmp(position, "front") == 0) return PEFT_OK;
    return peft__fail(adapter->ctx, PEFT_E_ARG,
                      "%s: prompt_position: expected \"front\" or \"template\", found \"%.40s\"", WHERE, position);
}

/* ---- tensors ------------------------------------------------------------------------------------------------ */

peft_status peft__prompt_declare(peft_adapter *adapter, peft__prompt *prompt, int64_t rows, int64_t cols,
                                 peft__init init, float value) {
    const peft__declaration table = {.name = "prompt_encoder.embedding.weight",
                                     .key = prompt->encoded ? NULL : "prompt_embeddings",
                                     .ndim = 2,
                                     .shape = {rows, cols},
                                     .init = init,
                                     .init_value = value};
    return peft__adapter_declare(adapter, &table, &prompt->embedding);
}

peft_status peft__prompt_declare_linear(peft_adapter *adapter, const char *name, int64_t in, int64_t out, bool zero,
                                        uint32_t *out_weight) {
    const float range = zero ? 0.0f : 1.0f / sqrtf((float)in);
    const peft__init init = zero ? PEFT__INIT_ZERO : PEFT__INIT_UNIFORM;
    const char *weight_name = peft__adapter_text(adapter, "prompt_encoder.%s.weight", name);
    const char *bias_name = peft__adapter_text(adapter, "prompt_encoder.%s.bias", name);
    if (weight_name == NULL || bias_name == NULL) return PEFT_E_NOMEM;
    const peft__declaration weight = {
        .name = weight_name, .ndim = 2, .shape = {out, in}, .init = init, .init_value = range};
    const peft__declaration bias = {
        .name = bias_name, .flags = PEFT__PARAM_NO_DECAY, .ndim = 1, .shape = {out}, .init = init, .init_value = range};
    PEFT_TRY(peft__adapter_declare(adapter, &weight, out_weight));
    return peft__adapter_declare(adapter, &bias, NULL);
}

peft__value *peft__prompt_linear(peft_adapter *adapter, peft__graph *graph, uint32_t weight, peft__value *x) {
    const peft__param *param = &adapter->params[weight];
    const peft__weight w = {peft__matrix_f32(NULL, param->shape[0], param->shape[1]),
                            peft__value_param(graph, &adapter->params[weight])};
    const peft__vector bias = {NULL, peft__value_param(graph, &adapter->params[weight + 1])};
    return x == NULL || w.value == NULL || bias.value == NULL ? NULL : peft__op_linear(graph, x, w, bias, NULL);
}

peft__value *peft__prompt_table(peft_adapter *adapter, peft__build *b) {
    const peft__prompt *prompt = adapter->state;
    if (prompt->encoded) return prompt->encode(adapter, b->graph, b->purpose == PEFT__BUILD_LOSS);
    return peft__value_param(b->graph, &adapter->params[prompt->embedding]);
}

/* ---- rows before the tokens --------------------------------------------------------------------------------- */

/* With a cache: the rows go before the first chunk of a text, later chunks find them in the cache. */
typedef struct cached_rows {
    int64_t count;
    const int64_t *used; /* [sequences] rows in the cache */
    bool branches;       /* one number for all sequences */
} cached_rows;

static void measure_cached(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows,
                           int64_t *out_sequences) {
    (void)capacity;
    *out_sequences = rows->parent->max_sequences;
    *out_rows = rows->parent->max_rows + *out_sequences * ((const cached_rows *)rows->attr)->count;
}

static peft_status bind_cached(peft__rows *rows, peft_context *ctx, const peft_batch *batch) {
    (void)ctx;
    (void)batch;
    const peft__rows *parent = rows->parent;
    const cached_rows *attr = rows->attr;
    int64_t to = 0;
    rows->offsets[0] = 0;
    for (int64_t s = 0; s < parent->sequences; s++) {
        const int64_t inserted = attr->used[attr->branches ? 0 : s] == 0 ? attr->count : 0;
        for (int64_t i = -inserted; i < parent->offsets[s + 1] - parent->offsets[s]; i++, to++) {
            const int64_t from = parent->offsets[s] + i;
            rows->source[to] = i < 0 ? (int32_t) ~(i + inserted) : (int32_t)from;
            rows->ids[to] = i < 0 ? -1 : parent->ids[from];
            rows->positions[to] =
                (int32_t)(i < 0 ? parent->first_position + i + inserted : parent->positions[from] + attr->count);
            rows->types[to] = i < 0 ? 0 : parent->types[from];
            rows->labels[to] = i < 0 ? PEFT_IGNORE_LABEL : parent->labels[from];
        }
        rows->offsets[s + 1] = (int32_t)to;
    }
    rows->count = to;
    rows->sequences = parent->sequences;
    return PEFT_OK;
}

static peft__rows *insert_cached(peft_adapter *adapter, peft__build *b, peft__rows *parent, int64_t count) {
    cached_rows *attr = peft__arena_alloc(peft__graph_arena(b->graph), sizeof *attr);
    if (attr == NULL) return peft__graph_fail(b->graph, peft__fail_nomem(adapter->ctx, sizeof *attr, "a row space"));
    *attr = (cached_rows){count, b->caches[0].used, b->branches};
    return peft__rows_new(b->graph, "rows behind a prompt in the cache", parent, attr, measure_cached, bind_cached,
                          true);
}

peft__value *peft__prompt_input(void *self, peft__build *b, peft__stack stack, int64_t skip, peft__value *x) {
    peft_adapter *adapter = self;
    const peft__prompt *prompt = adapter->state;
    if (x == NULL || prompt->in_place || stack != prompt->stack) return x;
    peft__rows *rows = b->caches != NULL && skip == 0
                           ? insert_cached(adapter, b, x->rows, prompt->virtual_tokens)
                           : peft__rows_insert(b->graph, x->rows, skip, prompt->virtual_tokens);
    return peft__op_select_rows(b->graph, rows, x, peft__prompt_table(adapter, b));
}

int64_t peft__prompt_inserted(void *self, peft__stack stack) {
    const peft__prompt *prompt = ((const peft_adapter *)self)->state;
    return prompt->in_place || stack != prompt->stack ? 0 : prompt->virtual_tokens;
}

/* ---- rows in place of tokens -------------------------------------------------------------------------------- */

typedef struct slots {
    int64_t count;
} slots;

static void measure_slots(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows,
                          int64_t *out_sequences) {
    (void)capacity;
    *out_rows = rows->parent->max_rows;
    *out_sequences = rows->parent->max_sequences;
}

static peft_status bind_slots(peft__rows *rows, peft_context *ctx, const peft_batch *batch) {
    const peft__rows *parent = rows->parent;
    const int64_t count = ((const slots *)rows->attr)->count;
    if (batch->prompt_index == NULL)
        return peft__fail(
            ctx, PEFT_E_ARG,
            "the adapter's prompt stands inside a template, and the batch has no prompt_index that says where");
    if (parent->count != batch->rows)
        return peft__fail(
            ctx, PEFT_E_UNSUPPORTED,
            "a prompt inside a template needs the batch's own rows, another adapter has put some before them");
    rows->count = parent->count;
    rows->sequences = parent->sequences;
    memcpy(rows->offsets, parent->offsets, (size_t)(parent->sequences + 1) * sizeof *rows->offsets);
    for (int64_t r = 0; r < parent->count; r++) {
        const int32_t slot = batch->prompt_index[r];
        if (slot >= count)
            return peft__fail(ctx, PEFT_E_ARG, "prompt_index[%lld] is %d, the prompt has %lld rows", (long long)r, slot,
                              (long long)count);
        rows->source[r] = slot >= 0 ? ~slot : (int32_t)r;
        rows->ids[r] = slot >= 0 ? -1 : parent->ids[r];
        rows->positions[r] = parent->positions[r];
        rows->types[r] = parent->types[r];
        rows->labels[r] = parent->labels[r];
    }
    return PEFT_OK;
}

peft__value *peft__prompt_word_embedding(void *self, peft__build *b, peft__stack stack, peft__value *x) {
    peft_adapter *adapter = self;
    const peft__prompt *prompt = adapter->state;
    if (x == NULL || !prompt->in_place || stack != prompt->stack) return x;
    slots *attr = peft__arena_alloc(peft__graph_arena(b->graph), sizeof *attr);
    if (attr == NULL) return peft__graph_fail(b->graph, peft__fail_nomem(adapter->ctx, sizeof *attr, "a row space"));
    attr->count = prompt->virtual_tokens;
    peft__rows *rows = peft__rows_new(b->graph, "rows of a template", x->rows, attr, measure_slots, bind_slots, true);
    return peft__op_select_rows(b->graph, rows, x, peft__prompt_table(adapter, b));
}

/* ---- files -------------------------------------------------------------------------------------------------- */

/* The encoder's output, in `arena`. */
static peft_status fold(peft_adapter *adapter, peft__graph *graph, peft__arena *arena, int64_t shape[2],
                        float **out_table) {
    const peft__prompt *prompt = adapter->state;
    const peft_batch nothing = {.struct_size = (uint32_t)sizeof nothing};
    const peft__run_options options = {.deadline_us = UINT64_MAX};
    peft__value *value = prompt->encode(adapter, graph, false);
    peft__value_output(graph, value);
    PEFT_TRY(peft__graph_plan(graph, false));
    PEFT_TRY(peft__graph_allocate(graph));
    PEFT_TRY(peft__graph_bind(graph, &nothing));
    peft__cursor cursor = {0, 0, 0};
    PEFT_TRY(peft__graph_run(graph, &cursor, peft__graph_plan_info(graph)->forward_steps, &options));
    shape[0] = value->rows->count;
    shape[1] = value->cols;
    const size_t row = (size_t)value->cols * sizeof(float), bytes = (size_t)shape[0] * row;
    float *table = peft__arena_alloc(arena, bytes);
    if (table == NULL) return peft__fail_nomem(adapter->ctx, bytes, "a prompt");
    for (int64_t r = 0; r < shape[0]; r++) memcpy(table + r * shape[1], value->data + r * value->ld, row);
    *out_table = table;
    return PEFT_OK;
}

peft_status peft__prompt_export(const peft_adapter *adapter, peft__export *file) {
    const peft__prompt *prompt = adapter->state;
    if (!prompt->encoded) return PEFT_OK;
    const peft__capacity none = {0};
    peft__graph *graph = NULL;
    PEFT_TRY(peft__graph_create(adapter->ctx, &none, &graph));
    int64_t shape[2] = {0, 0};
    float *table = NULL;
    const peft_status status = fold(file->adapter, graph, file->arena, shape, &table);
    peft__graph_destroy(graph);
    return status < 0 ? status : peft__export_add(file, "prompt_embeddings", 2, shape, table);
}

peft_status peft__prompt_export_config(const peft_adapter *adapter, json_t *config) {
    const peft__prompt *prompt = adapter->state;
    if (!prompt->in_place || json_object_set_new(config, "prompt_position", json_string("template")) == 0)
        return PEFT_OK;
    return peft__fail_nomem(adapter->ctx, 64, "an adapter's configuration");
}
