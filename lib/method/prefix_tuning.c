/* prefix_tuning.c: Prefix-Tuning (Li and Liang 2021) and P-Tuning v2 (the same on encoders): trained keys and values
 * before each layer's own.
 *
 * The table is [virtual tokens, 2 * layers * width]: column ((2 l + kv) * heads + h) * head_dim + i, kv 0 the key and 1
 * the value, width and heads those of the model's keys. Keys stand behind the rotation, so they are taken as they are;
 * the text's own positions begin after the prefix. With prefix_projection the table comes from embeddings [virtual
 * tokens, width] through linear, tanh, linear. On encoder-decoder models the decoder's self-attention alone reads it,
 * and as HF PEFT lays the table out twice and deals it in fours, layer l has parts 4 l and 4 l + 1, counted modulo 2 *
 * layers.
 *
 * prefix_init_text starts from the keys and values that the frozen model computes for a real text, repeated or cut to
 * the length of the prefix. With a projection the second linear layer is then solved for, so that it gives these
 * exactly (the paper trains it until it does).
 */
#include "method/prompt.h"

#include <math.h>

static const char *const WHERE = "adapter_config.json";

enum { MOST_HIDDEN = 1 << 16 };

typedef struct prefix_tuning {
    peft__prompt prompt;
    uint32_t inner, outer; /* transform.0 and transform.2 */
    int64_t hidden;
    float dropout;
    const char *text;
    /* The table of the build that runs: made at the first layer, asked for by the others. */
    const peft__graph *graph;
    peft__value *table;
} prefix_tuning;

/* ---- configuration ------------------------------------------------------------------------------------------ */

static peft_status declare(peft_adapter *adapter, prefix_tuning *p, bool zero) {
    peft__prompt *prompt = &p->prompt;
    const int64_t width = prompt->token_dim, all = 2 * prompt->layers * width;
    if (!prompt->encoded)
        return peft__prompt_declare(adapter, prompt, prompt->virtual_tokens, all,
                                    zero ? PEFT__INIT_ZERO : PEFT__INIT_NORMAL, 1.0f);
    PEFT_TRY(peft__prompt_declare(adapter, prompt, prompt->virtual_tokens, width, PEFT__INIT_NORMAL, 1.0f));
    PEFT_TRY(peft__prompt_declare_linear(adapter, "transform.0", width, p->hidden, false, &p->inner));
    return peft__prompt_declare_linear(adapter, "transform.2", p->hidden, all, zero, &p->outer);
}

static peft__value *encode(peft_adapter *adapter, peft__graph *g, bool training) {
    (void)training;
    const prefix_tuning *p = adapter->state;
    peft__value *x =
        peft__prompt_linear(adapter, g, p->inner, peft__value_param(g, &adapter->params[p->prompt.embedding]));
    return peft__prompt_linear(adapter, g, p->outer, peft__op_activation(g, PEFT__ACT_TANH, x));
}

static peft_status configure(peft_adapter *adapter) {
    peft_context *ctx = adapter->ctx;
    prefix_tuning *p = peft__arena_alloc(&adapter->arena, sizeof *p);
    if (p == NULL) return peft__fail_nomem(ctx, sizeof *p, "an adapter");
    adapter->state = p;
    const char *weights = NULL;
    bool projection = false;
    double dropout = 0.0;
    PEFT_TRY(peft__prompt_configure(adapter, &p->prompt, true));
    PEFT_TRY(peft__json_get_bool(ctx, adapter->config, WHERE, "prefix_projection", false, &projection));
    PEFT_TRY(peft__json_get_string(ctx, adapter->config, WHERE, "init_weights", NULL, &weights));
    PEFT_TRY(peft__json_get_string(ctx, adapter->config, WHERE, "prefix_init_text", NULL, &p->text));
    PEFT_TRY(peft__json_get_double(ctx, adapter->config, WHERE, "prefix_dropout", 0.0, 0.999, 0.0, &dropout));
    PEFT_TRY(peft__prompt_number(adapter, "encoder_hidden_size", MOST_HIDDEN, p->prompt.token_dim, &p->hidden));
    if (weights != NULL && strcmp(weights, "zero") != 0)
        return peft__fail(ctx, PEFT_E_ARG, "%s: init_weights: expected \"zero\" or null, found \"%.40s\"", WHERE,
                          weights);
    if (weights != NULL && p->text != NULL)
        return peft__fail(ctx, PEFT_E_ARG, "%s: init_weights and prefix_init_text say different things", WHERE);
    if (p->text != NULL && projection && p->hidden < p->prompt.virtual_tokens)
        return peft__fail(
            ctx, PEFT_E_UNSUPPORTED,
            "%s: prefix_init_text with %lld virtual tokens needs an encoder_hidden_size of at least that, found %lld",
            WHERE, (long long)p->prompt.virtual_tokens, (long long)p->hidden);
    p->dropout = (float)dropout;
    p->prompt.encoded = projection && !adapter->loading;
    p->prompt.encode = encode;
    return declare(adapter, p, weights != NULL);
}

/* ---- starting from a text ----------------------------------------------------------------------------------- */

/* Solves G A = B in place for G [n, n], positive definite, and B [n, m] (becomes A), by Cholesky. */
static bool solve(double *g, int64_t n, double *b, int64_t m) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = g[i * n + j];
            for (int64_t k = 0; k < j; k++) sum -= g[i * n + k] * g[j * n + k];
            if (i == j && !(sum > 1e-12)) return false;
            g[i * n + j] = i == j ? sqrt(sum) : sum / g[j * n + j];
        }
    for (int64_t i = 0; i < n; i++) {
        for (int64_t k = 0; k < i; k++)
            for (int64_t c = 0; c < m; c++) b[i * m + c] -= g[i * n + k] * b[k * m + c];
        for (int64_t c = 0; c < m; c++) b[i * m + c] /= g[i * n + i];
    }
    for (int64_t i = n; i-- > 0;) {
        for (int64_t k = i + 1; k < n; k++)
            for (int64_t c = 0; c < m; c++) b[i * m + c] -= g[k * n + i] * b[k * m + c];
        for (int64_t c = 0; c < m; c++) b[i * m + c] /= g[i * n + i];
    }
    return true;
}

/* Memory of fit(): h [n, hidden] the inner layer's output, g [n, n], b [n, cols]. */
typedef struct fitting {
    double *h, *g, *b;
} fitting;

/* The smallest W of transform.2 with tanh(transform.0(embedding)) W^T + bias = target, bias as drawn. */
static bool fit(peft_adapter *adapter, const prefix_tuning *p, const float *target, const fitting *f) {
    const peft__param *table = &adapter->params[p->prompt.embedding], *inner = &adapter->params[p->inner],
                      *outer = &adapter->params[p->outer];
    const int64_t n = table->shape[0], width = table->shape[1], hidden = p->hidden, cols = outer->shape[0];
    for (int64_t r = 0; r < n; r++)
        for (int64_t k = 0; k < hidden; k++) {
            double sum = (double)inner[1].data[k];
            for (int64_t j = 0; j < width; j++)
                sum += (double)table->data[r * width + j] * (double)inner->data[k * width + j];
            f->h[r * hidden + k] = tanh(sum);
        }
    for (int64_t r = 0; r < n; r++)
        for (int64_t q = 0; q < n; q++) {
            double sum = 0.0;
            for (int64_t k = 0; k < hidden; k++) sum += f->h[r * hidden + k] * f->h[q * hidden + k];
            f->g[r * n + q] = sum;
        }
    for (int64_t i = 0; i < n * cols; i++) f->b[i] = (double)target[i] - (double)outer[1].data[i % cols];
    if (!solve(f->g, n, f->b, cols)) return false;
    for (int64_t c = 0; c < cols; c++)
        for (int64_t k = 0; k < hidden; k++) {
            double sum = 0.0;
            for (int64_t r = 0; r < n; r++) sum += f->h[r * hidden + k] * f->b[r * cols + c];
            outer->data[c * hidden + k] = (float)sum;
        }
    return true;
}

static peft_status fit_to(peft_adapter *adapter, const prefix_tuning *p, const float *target) {
    peft_context *ctx = adapter->ctx;
    const size_t n = (size_t)p->prompt.virtual_tokens, cols = (size_t)adapter->params[p->outer].shape[0];
    const size_t doubles = n * ((size_t)p->hidden + n + cols);
    double *block = peft__alloc(ctx->mem, doubles * sizeof *block);
    if (block == NULL) return peft__fail_nomem(ctx, doubles * sizeof *block, "fitting a prefix");
    const fitting f = {block, block + n * (size_t)p->hidden, block + n * ((size_t)p->hidden + n)};
    const bool solved = fit(adapter, p, target, &f);
    peft__free(ctx->mem, block);
    return solved ? PEFT_OK
                  : peft__fail(ctx, PEFT_E_NONFINITE,
                               "the projection cannot be fitted to the text: its inner rows are not independent");
}

static peft_status initialise(peft_adapter *adapter, uint64_t seed) {
    (void)seed;
    peft_context *ctx = adapter->ctx;
    const prefix_tuning *p = adapter->state;
    const int64_t rows = p->prompt.virtual_tokens, cols = 2 * p->prompt.layers * p->prompt.token_dim;
    if (p->text == NULL || adapter->loading) return PEFT_OK;
    int32_t *found = NULL;
    int64_t count = 0;
    PEFT_TRY(peft__prompt_tokens(adapter, p->text, true, &found, &count));
    int32_t *ids = peft__arena_alloc(&adapter->arena, (size_t)rows * sizeof *ids);
    float *table = peft__alloc(ctx->mem, (size_t)(rows * cols) * sizeof *table);
    peft_status status = ids == NULL || table == NULL
                             ? peft__fail_nomem(ctx, (size_t)(rows * cols) * sizeof *table, "a prefix")
                             : PEFT_OK;
    for (int64_t i = 0; status >= 0 && i < rows; i++) ids[i] = found[i % count];
    if (status >= 0) status = peft__prompt_keys(adapter, ids, rows, table);
    if (status >= 0 && p->prompt.encoded)
        status = fit_to(adapter, p, table);
    else if (status >= 0)
        memcpy(adapter->params[p->prompt.embedding].data, table, (size_t)(rows * cols) * sizeof *table);
    peft__free(ctx->mem, table);
    return status;
}

/* ---- the graph ---------------------------------------------------------------------------------------------- */

/* Asked when a stack's rows are made, before its first layer: what an earlier build left is forgotten. */
static int64_t prefix_length(void *self, peft__stack stack) {
    prefix_tuning *p = ((peft_adapter *)self)->state;
    p->graph = NULL;
    return stack == p->prompt.stack ? p->prompt.virtual_tokens : 0;
}

static peft__value *table_of(peft_adapter *adapter, peft__build *b, int32_t layer) {
    prefix_tuning *p = adapter->state;
    if (p->graph != b->graph || layer == 0) {
        p->graph = b->graph;
        p->table = peft__prompt_table(adapter, b);
        if (b->purpose == PEFT__BUILD_LOSS)
            p->table = peft__op_dropout(b->graph, p->table, p->dropout, peft__hash64("prefix_tuning", 13, 0));
    }
    return p->table;
}

static void prefix(void *self, peft__build *b, peft__stack stack, int32_t layer, int64_t kv_heads, int64_t head_dim,
                   peft__prefix *out) {
    peft_adapter *adapter = self;
    const peft__prompt *prompt = adapter->state;
    const int64_t width = prompt->token_dim, parts = 2 * prompt->layers;
    if (stack != prompt->stack || layer >= prompt->layers || peft__graph_failed(b->graph)) return;
    if (kv_heads * head_dim != width) {
        peft__graph_fail(b->graph, peft__fail(adapter->ctx, PEFT_E_UNSUPPORTED,
                                              "layer %d has keys of %lld columns, the prefix has %lld", (int)layer,
                                              (long long)(kv_heads * head_dim), (long long)width));
        return;
    }
    const int64_t first = prompt->submodules == 2 ? 4 * layer : 2 * layer;
    peft__value *table = table_of(adapter, b, layer);
    out->k = peft__value_columns(b->graph, table, first % parts * width, width);
    out->v = peft__value_columns(b->graph, table, (first + 1) % parts * width, width);
}

static const peft__hooks HOOKS = {.trained = peft__adapter_trained, .prefix = prefix, .prefix_length = prefix_length};

static const peft__config_key KEYS[] = {
    {"encoder_hidden_size", "null", PEFT__KEY_USED},
    {"init_weights", "null", PEFT__KEY_USED},
    {"prefix_dropout", "0.0", PEFT__KEY_RUNTIME},
    {"prefix_init_text", "null", PEFT__KEY_RUNTIME},
    {"prefix_projection", "false", PEFT__KEY_USED},
    PEFT__PROMPT_KEYS,
    {NULL, NULL, PEFT__KEY_USED},
};

const peft__method peft__method_prefix_tuning = {
    .peft_type = "PREFIX_TUNING",
    .flags = PEFT__METHOD_PROMPT | PEFT__METHOD_EXCHANGEABLE,
    .keys = KEYS,
    .hooks = &HOOKS,
    .configure = configure,
    .initialise = initialise,
    .export = peft__prompt_export,
};
