/* prompt_probe.c: what the frozen model makes of a text, as starting values for soft prompts.
 *
 * Both questions are put to the model's own graph, so that embedding scales, rotations, grouped heads and norms need no
 * second implementation. The word embeddings are the value that architectures hand to the word_embedding hook; building
 * with a hook that marks it as the output leaves everything behind it out of the plan. Keys and values are what a pass
 * with a cache leaves there: keys are rotated to the positions that the text would have, as a prefix needs them.
 */
#include "method/prompt.h"
#include "text/tokenizer.h"

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

peft_status peft__prompt_tokens(peft_adapter *adapter, const char *text, bool special, int32_t **out_ids,
                                int64_t *out_count) {
    peft_context *ctx = adapter->ctx;
    const peft_tokenizer *tokenizer = peft_model_tokenizer(adapter->model);
    if (tokenizer == NULL)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                          "the model came without a tokenizer: \"%.60s\" cannot be a prompt's beginning", text);
    peft__encoding encoding;
    peft__encoding_init(&encoding, ctx->mem);
    const uint32_t flags = PEFT_ENCODE_PARSE_SPECIAL | (special ? PEFT_ENCODE_SPECIAL : PEFT_ENCODE_PLAIN);
    peft_status status = peft__encode(ctx, tokenizer, text, strlen(text), flags, &encoding);
    if (status >= 0 && encoding.count == 0) status = peft__fail(ctx, PEFT_E_ARG, "\"%.60s\" has no tokens", text);
    const int64_t vocab = peft__model_dims(adapter->model)->vocab_size;
    for (int64_t i = 0; status >= 0 && i < encoding.count; i++)
        if (encoding.ids[i] < 0 || encoding.ids[i] >= vocab)
            status = peft__fail(ctx, PEFT_E_MISMATCH, "the tokenizer gives id %d, the model has %lld", encoding.ids[i],
                                (long long)vocab);
    if (status >= 0) {
        const size_t bytes = (size_t)encoding.count * sizeof **out_ids;
        int32_t *ids = peft__arena_alloc(&adapter->arena, bytes);
        if (ids == NULL)
            status = peft__fail_nomem(ctx, bytes, "token ids");
        else
            memcpy(ids, encoding.ids, bytes);
        *out_ids = ids;
        *out_count = encoding.count;
    }
    peft__encoding_free(&encoding);
    return status;
}

/* ---- a pass over one sequence of ids ------------------------------------------------------------------------ */

typedef struct probe {
    peft_adapter *adapter;
    const int32_t *ids;
    int64_t count;
    peft__value *embeddings; /* what the word_embedding hook saw */
} probe;

static peft__value *see_embeddings(void *self, peft__build *b, peft__stack stack, peft__value *x) {
    probe *p = self;
    if (stack == PEFT__STACK_MAIN && x != NULL) {
        p->embeddings = x;
        peft__value_output(b->graph, x);
    }
    return x;
}

static const peft__hooks SEE = {.word_embedding = see_embeddings};

static peft_status run(const probe *p, peft__graph *graph) {
    const int32_t offsets[2] = {0, (int32_t)p->count}, one[2] = {0, 1}, start[1] = {0};
    const peft_batch batch = {.struct_size = (uint32_t)sizeof batch,
                              .rows = p->count,
                              .sequences = 1,
                              .offsets = offsets,
                              .input_ids = p->ids,
                              .decoder_rows = 1,
                              .decoder_sequences = 1,
                              .decoder_offsets = one,
                              .decoder_input_ids = start};
    const peft__run_options options = {.deadline_us = UINT64_MAX};
    peft__cursor cursor = {0, 0, 0};
    PEFT_TRY(peft__graph_plan(graph, false));
    PEFT_TRY(peft__graph_allocate(graph));
    PEFT_TRY(peft__graph_bind(graph, &batch));
    return peft__graph_run(graph, &cursor, peft__graph_plan_info(graph)->forward_steps, &options);
}

static peft_status new_graph(const probe *p, peft__graph **out_graph) {
    const peft__capacity capacity = {
        .rows = p->count, .sequences = 1, .decoder_rows = 1, .decoder_sequences = 1, .labels = p->count};
    return peft__graph_create(p->adapter->ctx, &capacity, out_graph);
}

/* ---- word embeddings ---------------------------------------------------------------------------------------- */

static peft_status lookup(probe *p, peft__graph *graph, float *out) {
    peft_adapter *adapter = p->adapter;
    const peft__hooked hooked = {&SEE, p};
    peft__build build = {.graph = graph,
                         .model = adapter->model,
                         .adapters = &hooked,
                         .adapter_count = 1,
                         .purpose = PEFT__BUILD_LOGITS};
    (void)peft__model_arch(adapter->model)->build(&build);
    PEFT_TRY(peft__graph_status(graph));
    const int64_t width = ((const peft__prompt *)adapter->state)->token_dim;
    if (p->embeddings == NULL || p->embeddings->cols != width)
        return peft__fail(adapter->ctx, PEFT_E_UNSUPPORTED,
                          "the model does not show its word embeddings of %lld columns", (long long)width);
    PEFT_TRY(run(p, graph));
    for (int64_t r = 0; r < p->count; r++)
        memcpy(out + r * width, p->embeddings->data + r * p->embeddings->ld, (size_t)width * sizeof *out);
    return PEFT_OK;
}

peft_status peft__prompt_lookup(peft_adapter *adapter, const int32_t *ids, int64_t count, float *out) {
    probe p = {adapter, ids, count, NULL};
    peft__graph *graph = NULL;
    PEFT_TRY(new_graph(&p, &graph));
    const peft_status status = lookup(&p, graph, out);
    peft__graph_destroy(graph);
    return status;
}

/* ---- keys and values ---------------------------------------------------------------------------------------- */

static peft_status fill_caches(probe *p, peft__graph *graph, const peft__kv_cache *caches) {
    peft__build build = {.graph = graph, .model = p->adapter->model, .purpose = PEFT__BUILD_HIDDEN, .caches = caches};
    PEFT_TRY(peft__build_model(&build));
    return run(p, graph);
}

peft_status peft__prompt_keys(peft_adapter *adapter, const int32_t *ids, int64_t count, float *out) {
    peft_context *ctx = adapter->ctx;
    const peft__prompt *prompt = adapter->state;
    const int64_t layers = prompt->layers, width = prompt->token_dim;
    if (prompt->stack != PEFT__STACK_MAIN)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                          "a prefix of an encoder-decoder model cannot start from a text: its decoder has read none");
    const size_t floats = (size_t)(2 * layers * count * width);
    float *block = peft__alloc(ctx->mem, floats * sizeof *block);
    peft__kv_cache *caches = peft__alloc_zero(ctx->mem, (size_t)layers * sizeof *caches);
    int64_t used = 0;
    probe p = {adapter, ids, count, NULL};
    peft__graph *graph = NULL;
    peft_status status = block == NULL || caches == NULL
                             ? peft__fail_nomem(ctx, floats * sizeof *block, "the keys and values of a text")
                             : PEFT_OK;
    for (int64_t l = 0; status >= 0 && l < layers; l++)
        caches[l] = (peft__kv_cache){block + 2 * l * count * width, block + (2 * l + 1) * count * width, count, &used};
    if (status >= 0) status = new_graph(&p, &graph);
    if (status >= 0) status = fill_caches(&p, graph, caches);
    for (int64_t part = 0; status >= 0 && part < 2 * layers; part++)
        for (int64_t r = 0; r < count; r++)
            memcpy(out + (r * 2 * layers + part) * width, block + (part * count + r) * width,
                   (size_t)width * sizeof *out);
    peft__graph_destroy(graph);
    peft__free(ctx->mem, block);
    peft__free(ctx->mem, caches);
    return status;
}
