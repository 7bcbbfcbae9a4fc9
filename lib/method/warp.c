/* warp.c: WARP (Hambardzumyan et al. 2021): trained words inside a template, read out at the template's [MASK].
 *
 * Trained rows take the place of word embeddings where the batch's prompt_index says, so they get positions, types and
 * the embedding norm like words. The hidden state at mask_positions goes through the frozen transform of the masked
 * language model; what that model would then do with its whole vocabulary is done with one trained row a class, the
 * verbalizer. Both may start from words, which is what makes few examples enough.
 *
 * HF PEFT has no such type. Keys:
 *   template             list that says how a text becomes an input: "cls", "s1", "s2", "mask", "sep", other words as
 *                        they are, numbers for rows of the prompt, [number, "word"] for a row that starts as that word.
 *                        Kept with the adapter for whoever builds batches; null when they know
 *   num_virtual_tokens   rows of the prompt; null = as many as the template has
 *   num_labels           classes; 1 = regression against sequence_targets; null = the model's
 *   prompt_init          a text: rows that the template does not name start as its tokens, over and over; null = normal
 *                        with mean and deviation of the model's embeddings
 *   label_words          one word a class for the verbalizer's start; null = as torch starts a linear layer
 *   prompt_dropout       while training
 * Tensors: prompt_embeddings [P, width], verbalizer.weight [classes, width], verbalizer.bias [classes].
 */
#include <math.h>

#include "method/prompt.h"

static const char *const WHERE = "adapter_config.json";

enum { MOST_LABELS = 65536, MOST_ROWS = 65536 };

typedef struct warp {
    peft__prompt prompt; /* first: see prompt.h */
    int64_t labels;
    float dropout;
    uint32_t verbalizer; /* param; the bias follows */
    const json_t *template, *label_words;
    const char *start;
} warp;

/* ---- configuration ----------------------------------------------------------------------------------------- */

static const json_t *row_of(const json_t *item, const char **out_word) {
    *out_word = NULL;
    if (!json_is_array(item)) return item;
    *out_word = json_string_value(json_array_get(item, 1));
    return json_array_get(item, 0);
}

/* Checks the template; *out_rows is how many rows of a prompt it has. */
static peft_status read_template(peft_adapter *adapter, warp *w, int64_t *out_rows) {
    peft_context *ctx = adapter->ctx;
    int masks = 0;
    *out_rows = 0;
    PEFT_TRY(peft__json_get_array(ctx, adapter->config, WHERE, "template", &w->template));
    for (size_t i = 0; i < json_array_size(w->template); i++) {
        const json_t *item = json_array_get(w->template, i);
        const char *word = NULL;
        const json_t *row = row_of(item, &word);
        if (json_is_string(item)) {
            masks += strcmp(json_string_value(item), "mask") == 0;
            continue;
        }
        if (!json_is_integer(row) || json_integer_value(row) < 0 || json_integer_value(row) >= MOST_ROWS ||
            (json_is_array(item) && (json_array_size(item) != 2 || word == NULL)))
            return peft__fail(ctx, PEFT_E_FORMAT,
                              "%s: template[%zu]: expected a word, the number of a row from 0, or [number, \"word\"]",
                              WHERE, i);
        *out_rows = peft__max_i64(*out_rows, json_integer_value(row) + 1);
    }
    if (w->template == NULL || masks == 1) return PEFT_OK;
    return peft__fail(ctx, PEFT_E_FORMAT, "%s: template: expected \"mask\" once, found it %d times", WHERE, masks);
}

static peft_status read_words(peft_adapter *adapter, warp *w) {
    peft_context *ctx = adapter->ctx;
    PEFT_TRY(peft__json_get_string(ctx, adapter->config, WHERE, "prompt_init", NULL, &w->start));
    PEFT_TRY(peft__json_get_array(ctx, adapter->config, WHERE, "label_words", &w->label_words));
    if (w->label_words != NULL && json_array_size(w->label_words) != (size_t)w->labels)
        return peft__fail(ctx, PEFT_E_ARG, "%s: label_words: expected %lld words, found %zu", WHERE,
                          (long long)w->labels, json_array_size(w->label_words));
    for (size_t i = 0; i < json_array_size(w->label_words); i++)
        if (json_string_length(json_array_get(w->label_words, i)) == 0)
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: label_words[%zu]: expected a word, found %s", WHERE, i,
                              peft__json_kind(json_array_get(w->label_words, i)));
    return PEFT_OK;
}

static peft_status declare(peft_adapter *adapter, warp *w) {
    const int64_t width = w->prompt.token_dim;
    const float range = 1.0f / sqrtf((float)width);
    const peft__init init = w->label_words != NULL ? PEFT__INIT_METHOD : PEFT__INIT_UNIFORM;
    const peft__declaration prompt = {.name = "prompt_embeddings",
                                      .key = "prompt_embeddings",
                                      .ndim = 2,
                                      .shape = {w->prompt.virtual_tokens, width},
                                      .init = PEFT__INIT_METHOD};
    const peft__declaration weight = {.name = "verbalizer.weight",
                                      .key = "verbalizer.weight",
                                      .ndim = 2,
                                      .shape = {w->labels, width},
                                      .init = init,
                                      .init_value = range};
    const peft__declaration bias = {.name = "verbalizer.bias",
                                    .key = "verbalizer.bias",
                                    .flags = PEFT__PARAM_NO_DECAY,
                                    .ndim = 1,
                                    .shape = {w->labels},
                                    .init = init,
                                    .init_value = range};
    PEFT_TRY(peft__adapter_declare(adapter, &prompt, &w->prompt.embedding));
    PEFT_TRY(peft__adapter_declare(adapter, &weight, &w->verbalizer));
    return peft__adapter_declare(adapter, &bias, NULL);
}

/* The prompt in a graph, where dropout stands before it. */
static peft__value *encode(peft_adapter *adapter, peft__graph *graph, bool training) {
    const warp *w = adapter->state;
    peft__value *table = peft__value_param(graph, &adapter->params[w->prompt.embedding]);
    return training && table != NULL ? peft__op_dropout(graph, table, w->dropout, peft__hash64("warp", 4, 0)) : table;
}

static peft_status configure(peft_adapter *adapter) {
    peft_context *ctx = adapter->ctx;
    warp *w = peft__arena_alloc(&adapter->arena, sizeof *w);
    if (w == NULL) return peft__fail_nomem(ctx, sizeof *w, "an adapter");
    adapter->state = w;
    int64_t rows = 0, given = 0;
    double dropout = 0.0;
    PEFT_TRY(read_template(adapter, w, &rows));
    PEFT_TRY(peft__prompt_number(adapter, "num_labels", MOST_LABELS, peft__model_dims(adapter->model)->num_labels,
                                 &w->labels));
    PEFT_TRY(peft__json_get_double(ctx, adapter->config, WHERE, "prompt_dropout", 0.0, 0.999, 0.0, &dropout));
    w->dropout = (float)dropout;
    if (rows > 0) PEFT_TRY(peft__prompt_number(adapter, "num_virtual_tokens", MOST_ROWS, rows, &given));
    PEFT_TRY(peft__prompt_configure(adapter, &w->prompt, false));
    w->prompt.in_place = true;
    w->prompt.encoded = w->dropout > 0.0f; /* the table goes through encode() */
    w->prompt.encode = encode;
    if (rows > w->prompt.virtual_tokens)
        return peft__fail(ctx, PEFT_E_ARG, "%s: the template has %lld rows of a prompt, num_virtual_tokens is %lld",
                          WHERE, (long long)rows, (long long)w->prompt.virtual_tokens);
    PEFT_TRY(read_words(adapter, w));
    return declare(adapter, w);
}

/* ---- starting values --------------------------------------------------------------------------------------- */

/* Rows drawn like the model's embeddings: mean and deviation of all their elements. */
static peft_status draw_rows(peft_adapter *adapter, const warp *w, uint64_t seed) {
    peft__param *param = &adapter->params[w->prompt.embedding];
    const peft__module *table = peft__prompt_word_table(adapter->model);
    const peft__matrix m = peft__module_matrix(table);
    float *row = peft__alloc(adapter->ctx->mem, (size_t)m.cols * sizeof *row);
    if (row == NULL) return peft__fail_nomem(adapter->ctx, (size_t)m.cols * sizeof *row, "a row of a table");
    double sum = 0.0, squares = 0.0;
    for (int64_t r = 0; r < m.rows; r++) {
        peft__dequantize(m.dtype, peft__matrix_row(&m, r), m.cols, row);
        for (int64_t i = 0; i < m.cols; i++) {
            sum += (double)row[i];
            squares += (double)row[i] * (double)row[i];
        }
    }
    peft__free(adapter->ctx->mem, row);
    const double count = (double)m.rows * (double)m.cols, mean = sum / count;
    const double deviation = sqrt(fmax(0.0, squares / count - mean * mean));
    peft__rng rng = peft__rng_make(seed, peft__hash64(param->name, strlen(param->name), 0));
    for (int64_t i = 0; i < param->elements; i++)
        param->data[i] = (float)(mean + deviation * (double)peft__rng_normal(&rng));
    return PEFT_OK;
}

static peft_status copy_token(peft_adapter *adapter, const char *word, float *to) {
    int32_t *ids = NULL;
    int64_t count = 0;
    PEFT_TRY(peft__prompt_tokens(adapter, word, false, &ids, &count));
    if (count > 1)
        peft__log(adapter->ctx, PEFT_LOG_WARNING, "\"%.60s\" has %lld tokens, the first is used", word, (long long)count);
    return peft__prompt_lookup(adapter, ids, 1, to);
}

static peft_status start_prompt(peft_adapter *adapter, const warp *w, uint64_t seed) {
    peft__param *param = &adapter->params[w->prompt.embedding];
    const int64_t width = w->prompt.token_dim;
    PEFT_TRY(draw_rows(adapter, w, seed));
    if (w->start != NULL) {
        int32_t *ids = NULL;
        int64_t count = 0;
        PEFT_TRY(peft__prompt_tokens(adapter, w->start, false, &ids, &count));
        for (int64_t r = 0; r < w->prompt.virtual_tokens; r++)
            PEFT_TRY(peft__prompt_lookup(adapter, &ids[r % count], 1, param->data + r * width));
    }
    for (size_t i = 0; i < json_array_size(w->template); i++) {
        const char *word = NULL;
        const json_t *row = row_of(json_array_get(w->template, i), &word);
        if (word == NULL) continue;
        PEFT_TRY(copy_token(adapter, word, param->data + json_integer_value(row) * width));
    }
    return PEFT_OK;
}

/* What the model's own output layer has for a token, beside the embedding that it shares. */
static peft_status output_bias(peft_adapter *adapter, int32_t id, float *out) {
    *out = 0.0f;
    for (uint32_t i = 0; i < peft__model_module_count(adapter->model); i++) {
        const peft__module *module = peft__model_module_at(adapter->model, i);
        if (!module->is_head || module->bias == NULL || id >= module->out ||
            module->out != peft__model_dims(adapter->model)->vocab_size)
            continue;
        const size_t bytes = (size_t)module->out * sizeof(float);
        float *values = peft__alloc(adapter->ctx->mem, bytes);
        if (values == NULL) return peft__fail_nomem(adapter->ctx, bytes, "a bias");
        peft__dequantize(module->bias->dtype, module->bias->data, module->out, values);
        *out = values[id];
        peft__free(adapter->ctx->mem, values);
    }
    return PEFT_OK;
}

static peft_status start_verbalizer(peft_adapter *adapter, const warp *w) {
    peft__param *weight = &adapter->params[w->verbalizer], *bias = weight + 1;
    for (int64_t c = 0; c < w->labels; c++) {
        int32_t *ids = NULL;
        int64_t count = 0;
        const char *word = json_string_value(json_array_get(w->label_words, (size_t)c));
        PEFT_TRY(peft__prompt_tokens(adapter, word, false, &ids, &count));
        if (count > 1)
            peft__log(adapter->ctx, PEFT_LOG_WARNING, "label word \"%.60s\" has %lld tokens, the first is used", word,
                      (long long)count);
        PEFT_TRY(peft__prompt_lookup(adapter, ids, 1, weight->data + c * w->prompt.token_dim));
        PEFT_TRY(output_bias(adapter, ids[0], &bias->data[c]));
    }
    return PEFT_OK;
}

static peft_status initialise(peft_adapter *adapter, uint64_t seed) {
    const warp *w = adapter->state;
    if (!adapter->slots[w->prompt.embedding].read) PEFT_TRY(start_prompt(adapter, w, seed));
    if (w->label_words != NULL && !adapter->slots[w->verbalizer].read) PEFT_TRY(start_verbalizer(adapter, w));
    return PEFT_OK;
}

/* ---- the graph --------------------------------------------------------------------------------------------- */

static void measure_masks(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows,
                          int64_t *out_sequences) {
    (void)capacity;
    *out_rows = *out_sequences = rows->parent->max_sequences;
}

static peft_status bind_masks(peft__rows *rows, peft_context *ctx, const peft_batch *batch) {
    const peft__rows *parent = rows->parent;
    if (batch->mask_positions == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "WARP reads the row of [MASK], and the batch has no mask_positions");
    if (parent->count != batch->rows || parent->sequences != batch->sequences)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "WARP needs the batch's own rows, another adapter has put some in");
    for (int64_t s = 0; s < parent->sequences; s++) {
        const int32_t from = parent->offsets[s] + batch->mask_positions[s]; /* checked with the batch */
        rows->source[s] = from;
        rows->ids[s] = parent->ids[from];
        rows->positions[s] = parent->positions[from];
        rows->types[s] = parent->types[from];
        rows->labels[s] = parent->labels[from];
        rows->offsets[s] = (int32_t)s;
    }
    rows->offsets[parent->sequences] = (int32_t)parent->sequences;
    rows->count = rows->sequences = parent->sequences;
    return PEFT_OK;
}

static peft__value *readout(void *self, peft__build *b, peft__value *hidden) {
    peft_adapter *adapter = self;
    const warp *w = adapter->state;
    peft__graph *g = b->graph;
    if (hidden == NULL) return NULL;
    peft__rows *rows = peft__rows_new(g, "rows of [MASK]", hidden->rows, NULL, measure_masks, bind_masks, true);
    peft__value *h = peft__build_lm_transform(b, peft__op_select_rows(g, rows, hidden, NULL));
    peft__param *weight = &adapter->params[w->verbalizer];
    const peft__weight matrix = {peft__matrix_f32(NULL, w->labels, w->prompt.token_dim), peft__value_param(g, weight)};
    const peft__vector bias = {NULL, peft__value_param(g, weight + 1)};
    if (h == NULL || matrix.value == NULL || bias.value == NULL) return NULL;
    b->logits = peft__op_linear(g, h, matrix, bias, NULL);
    peft__value_output(g, b->logits);
    if (b->purpose != PEFT__BUILD_LOSS) return NULL;
    const peft__cross_entropy_config config = {
        .by_sequence = true, .label_smoothing = b->label_smoothing, .class_weights = b->class_weights};
    b->loss = w->labels == 1 ? peft__op_target_loss(g, b->logits, PEFT__LOSS_MSE)
                             : peft__op_cross_entropy(g, b->logits, &config);
    return NULL;
}

static int64_t classes(void *self) {
    return ((const warp *)((const peft_adapter *)self)->state)->labels;
}

static bool touches(void *self, const peft__module *module) {
    (void)self;
    (void)module;
    return false;
}

static const peft__hooks HOOKS = {.trained = peft__adapter_trained,
                                  .touches = touches,
                                  .word_embedding = peft__prompt_word_embedding,
                                  .readout = readout,
                                  .classes = classes};

static const peft__config_key KEYS[] = {
    PEFT__PROMPT_KEYS,
    {"label_words", "null", PEFT__KEY_USED},
    {"num_labels", "null", PEFT__KEY_USED},
    {"prompt_dropout", "0.0", PEFT__KEY_USED},
    {"prompt_init", "null", PEFT__KEY_USED},
    {"template", "null", PEFT__KEY_USED},
    {NULL, NULL, PEFT__KEY_USED},
};

const peft__method peft__method_warp = {
    .peft_type = "WARP",
    .flags = PEFT__METHOD_NATIVE | PEFT__METHOD_FULL_NAMES,
    .keys = KEYS,
    .hooks = &HOOKS,
    .configure = configure,
    .initialise = initialise,
};
