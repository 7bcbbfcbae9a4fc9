/* prompt_tuning.c: Prompt Tuning (Lester et al. 2021): trained rows before the input's embeddings, nothing else.
 *
 * The starting values matter more than anything: rows drawn from N(0, 1), HF PEFT's default, are far longer than real
 * embeddings. Lester et al. sample the 5000 most frequent tokens without replacement and, for classification, start
 * with the words of the classes; prompt_tuning_init_vocab, _labels and _range are that recipe. They say how a prompt
 * begins and are not saved.
 */
#include "method/prompt.h"

static const char *const WHERE = "adapter_config.json";

enum { MOST_LABELS = 4096 };

typedef enum { START_RANDOM, START_VOCAB, START_TEXT } start;

typedef struct prompt_tuning {
    peft__prompt prompt;
    start start;
    const char *text;
    const json_t *labels; /* texts, or NULL */
    int64_t vocab;        /* sample from the first so many ids, each at most once; 0: from all, as HF PEFT does */
    double range;         /* RANDOM: uniform in +-range; 0: normal */
} prompt_tuning;

/* ---- configuration ------------------------------------------------------------------------------------------ */

static peft_status read_labels(peft_adapter *adapter, prompt_tuning *p) {
    peft_context *ctx = adapter->ctx;
    PEFT_TRY(peft__json_get_array(ctx, adapter->config, WHERE, "prompt_tuning_init_labels", &p->labels));
    if (json_array_size(p->labels) > MOST_LABELS)
        return peft__fail(ctx, PEFT_E_LIMIT, "%s: prompt_tuning_init_labels: up to %d texts, found %zu", WHERE,
                          MOST_LABELS, json_array_size(p->labels));
    for (size_t i = 0; i < json_array_size(p->labels); i++) {
        const json_t *label = json_array_get(p->labels, i);
        if (!json_is_string(label) || json_string_length(label) != strlen(json_string_value(label)))
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: prompt_tuning_init_labels[%zu]: expected a text, found %s",
                              WHERE, i, peft__json_kind(label));
    }
    return PEFT_OK;
}

/* The file names a tokenizer, because HF PEFT does not read one without. */
static peft_status name_tokenizer(peft_adapter *adapter) {
    json_t *config = adapter->config;
    if (peft__json_value(config, "tokenizer_name_or_path") != NULL) return PEFT_OK;
    const json_t *base = peft__json_value(config, "base_model_name_or_path");
    json_t *name = base != NULL ? json_deep_copy(base) : json_string("base model");
    if (json_object_set_new(config, "tokenizer_name_or_path", name) == 0) return PEFT_OK;
    return peft__fail_nomem(adapter->ctx, 64, "an adapter's configuration");
}

static peft_status read_start(peft_adapter *adapter, prompt_tuning *p) {
    peft_context *ctx = adapter->ctx;
    const json_t *config = adapter->config;
    const char *kind = NULL;
    PEFT_TRY(peft__json_get_string(ctx, config, WHERE, "prompt_tuning_init", "RANDOM", &kind));
    PEFT_TRY(peft__json_get_string(ctx, config, WHERE, "prompt_tuning_init_text", NULL, &p->text));
    PEFT_TRY(peft__json_get_int(ctx, config, WHERE, "prompt_tuning_init_vocab", 1, INT32_MAX, 0, &p->vocab));
    PEFT_TRY(peft__json_get_double(ctx, config, WHERE, "prompt_tuning_init_range", 0.0, 1e6, 0.0, &p->range));
    PEFT_TRY(read_labels(adapter, p));
    if (strcmp(kind, "SAMPLE_VOCAB") == 0)
        p->start = START_VOCAB;
    else if (strcmp(kind, "TEXT") == 0)
        p->start = START_TEXT;
    else if (strcmp(kind, "RANDOM") != 0)
        return peft__fail(ctx, PEFT_E_ARG,
                          "%s: prompt_tuning_init: expected RANDOM, SAMPLE_VOCAB or TEXT, found \"%.40s\"", WHERE,
                          kind);
    if (p->start != START_TEXT) return PEFT_OK;
    if (p->text == NULL && !adapter->loading)
        return peft__fail(ctx, PEFT_E_ARG, "%s: prompt_tuning_init TEXT needs prompt_tuning_init_text", WHERE);
    if (peft__json_value(config, "tokenizer_kwargs") != NULL && !adapter->loading)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                          "%s: tokenizer_kwargs are another library's; the model's own tokenizer reads the text",
                          WHERE);
    return name_tokenizer(adapter);
}

static peft_status configure(peft_adapter *adapter) {
    prompt_tuning *p = peft__arena_alloc(&adapter->arena, sizeof *p);
    if (p == NULL) return peft__fail_nomem(adapter->ctx, sizeof *p, "an adapter");
    adapter->state = p;
    PEFT_TRY(peft__prompt_configure(adapter, &p->prompt, false));
    PEFT_TRY(peft__prompt_read_position(adapter, &p->prompt));
    PEFT_TRY(read_start(adapter, p));
    const bool drawn = p->start == START_RANDOM && json_array_size(p->labels) == 0;
    const peft__init init = !drawn ? PEFT__INIT_METHOD : p->range > 0.0 ? PEFT__INIT_UNIFORM : PEFT__INIT_NORMAL;
    return peft__prompt_declare(adapter, &p->prompt, p->prompt.virtual_tokens * p->prompt.submodules,
                                p->prompt.token_dim, init, p->range > 0.0 ? (float)p->range : 1.0f);
}

/* ---- starting values ---------------------------------------------------------------------------------------- */

/* Rows [first, rows) of the table as averages of token embeddings. */
typedef struct pieces {
    int32_t *ids;  /* [count] */
    int64_t *rows; /* [count] the row that each is part of */
    int64_t count, capacity;
} pieces;

static peft_status add_pieces(peft_context *ctx, pieces *p, const int32_t *ids, int64_t count, int64_t row) {
    if (p->count + count > p->capacity) {
        const int64_t capacity = 2 * p->capacity + count;
        int32_t *more_ids = peft__realloc(ctx->mem, p->ids, (size_t)capacity * sizeof *more_ids);
        if (more_ids != NULL) p->ids = more_ids;
        int64_t *more_rows =
            more_ids == NULL ? NULL : peft__realloc(ctx->mem, p->rows, (size_t)capacity * sizeof *more_rows);
        if (more_rows == NULL) return peft__fail_nomem(ctx, (size_t)capacity * sizeof *more_rows, "a prompt");
        p->rows = more_rows;
        p->capacity = capacity;
    }
    for (int64_t i = 0; i < count; i++) {
        p->ids[p->count] = ids[i];
        p->rows[p->count++] = row;
    }
    return PEFT_OK;
}

static bool holds(const pieces *p, int64_t from, int32_t id) {
    for (int64_t i = from; i < p->count; i++)
        if (p->ids[i] == id) return true;
    return false;
}

static peft_status sample(peft_adapter *adapter, const prompt_tuning *p, uint64_t seed, int64_t first, int64_t rows,
                          pieces *out) {
    peft_context *ctx = adapter->ctx;
    const int64_t vocab = peft__model_dims(adapter->model)->vocab_size,
                  most = p->vocab > 0 ? peft__min_i64(p->vocab, vocab) : vocab;
    const int64_t from = out->count;
    if (p->vocab > 0 && rows - first > most)
        return peft__fail(ctx, PEFT_E_ARG, "%s: %lld different tokens are wanted from the first %lld", WHERE,
                          (long long)(rows - first), (long long)most);
    peft__rng rng = peft__rng_make(seed, peft__hash64("prompt_tuning_init", 18, 0));
    for (int64_t row = first; row < rows;) {
        const int32_t id = (int32_t)peft__rng_below(&rng, (uint64_t)most);
        if (p->vocab > 0 && holds(out, from, id)) continue;
        PEFT_TRY(add_pieces(ctx, out, &id, 1, row++));
    }
    return PEFT_OK;
}

static peft_status gather(peft_adapter *adapter, const prompt_tuning *p, uint64_t seed, int64_t rows, pieces *out,
                          int64_t *out_filled) {
    peft_context *ctx = adapter->ctx;
    int64_t row = 0;
    for (size_t i = 0; i < json_array_size(p->labels) && row < rows; i++) {
        int32_t *ids = NULL;
        int64_t count = 0;
        PEFT_TRY(peft__prompt_tokens(adapter, json_string_value(json_array_get(p->labels, i)), false, &ids, &count));
        PEFT_TRY(add_pieces(ctx, out, ids, count, row++));
    }
    if (p->start == START_TEXT) {
        int32_t *ids = NULL;
        int64_t count = 0;
        PEFT_TRY(peft__prompt_tokens(adapter, p->text, true, &ids, &count));
        for (int64_t i = 0; row < rows; i++) PEFT_TRY(add_pieces(ctx, out, &ids[i % count], 1, row++));
    }
    if (p->start == START_VOCAB) {
        PEFT_TRY(sample(adapter, p, seed, row, rows, out));
        row = rows;
    }
    *out_filled = row;
    return PEFT_OK;
}

static void average(const pieces *p, const float *embeddings, int64_t width, float *table) {
    for (int64_t i = 0, end; i < p->count; i = end) {
        float *to = table + p->rows[i] * width;
        for (end = i; end < p->count && p->rows[end] == p->rows[i]; end++) continue;
        for (int64_t j = 0; j < width; j++) {
            double sum = 0.0;
            for (int64_t k = i; k < end; k++) sum += (double)embeddings[k * width + j];
            to[j] = (float)(sum / (double)(end - i));
        }
    }
}

static peft_status fill(peft_adapter *adapter, const prompt_tuning *p, uint64_t seed, pieces *found) {
    peft_context *ctx = adapter->ctx;
    peft__param *table = &adapter->params[p->prompt.embedding];
    const int64_t rows = table->shape[0], width = table->shape[1];
    int64_t filled = 0;
    PEFT_TRY(gather(adapter, p, seed, rows, found, &filled));
    const size_t bytes = (size_t)(found->count * width) * sizeof(float);
    float *embeddings = peft__alloc(ctx->mem, bytes);
    if (embeddings == NULL) return peft__fail_nomem(ctx, bytes, "a prompt");
    const peft_status status = peft__prompt_lookup(adapter, found->ids, found->count, embeddings);
    if (status >= 0) average(found, embeddings, width, table->data);
    peft__free(ctx->mem, embeddings);
    PEFT_TRY(status);
    peft__rng rng = peft__rng_make(seed, peft__hash64(table->name, strlen(table->name), 0));
    for (float *at = table->data + filled * width; at < table->data + rows * width; at++)
        *at = p->range > 0.0 ? (float)p->range * (2.0f * peft__rng_uniform(&rng) - 1.0f) : peft__rng_normal(&rng);
    return PEFT_OK;
}

static peft_status initialise(peft_adapter *adapter, uint64_t seed) {
    const prompt_tuning *p = adapter->state;
    const peft__slot *slot = &adapter->slots[p->prompt.embedding];
    if (slot->read || slot->init != PEFT__INIT_METHOD) return PEFT_OK;
    pieces found = {NULL, NULL, 0, 0};
    const peft_status status = fill(adapter, p, seed, &found);
    peft__free(adapter->ctx->mem, found.ids);
    peft__free(adapter->ctx->mem, found.rows);
    return status;
}

/* ---- the method --------------------------------------------------------------------------------------------- */

static const peft__hooks HOOKS = {
    .trained = peft__adapter_trained,
    .word_embedding = peft__prompt_word_embedding,
    .input = peft__prompt_input,
    .inserted_length = peft__prompt_inserted,
};

static const peft__config_key KEYS[] = {
    PEFT__PROMPT_KEYS,
    PEFT__PROMPT_POSITION_KEY,
    {"prompt_tuning_init", "\"RANDOM\"", PEFT__KEY_USED},
    {"prompt_tuning_init_labels", "null", PEFT__KEY_RUNTIME},
    {"prompt_tuning_init_range", "null", PEFT__KEY_RUNTIME},
    {"prompt_tuning_init_text", "null", PEFT__KEY_USED},
    {"prompt_tuning_init_vocab", "null", PEFT__KEY_RUNTIME},
    {"tokenizer_kwargs", "null", PEFT__KEY_USED},
    {"tokenizer_name_or_path", "null", PEFT__KEY_USED},
    {NULL, NULL, PEFT__KEY_USED},
};

const peft__method peft__method_prompt_tuning = {
    .peft_type = "PROMPT_TUNING",
    .flags = PEFT__METHOD_PROMPT | PEFT__METHOD_EXCHANGEABLE,
    .keys = KEYS,
    .hooks = &HOOKS,
    .configure = configure,
    .initialise = initialise,
    .export_config = peft__prompt_export_config,
};
