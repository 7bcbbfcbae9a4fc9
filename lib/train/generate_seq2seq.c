/* generate_seq2seq.c: an encoder-decoder model, one token at a time.
 *
 * The encoder runs once. What the decoder wants of it are the keys and values of each layer's cross attention: they go
 * into a cache of their own, and the decoder's graph reads them there. A second cache has the keys and values of the
 * rows that each beam has written. Both lie in the session and stay for the next text.
 */
#include "train/train.h"

void peft__decoding_free(peft_session *session) {
    peft__decoding *d = &session->decoding;
    peft__mem *mem = session->ctx->mem;
    peft__free(mem, d->source_block);
    peft__free(mem, d->block);
    peft__free(mem, d->cross);
    peft__free(mem, d->used);
    peft__free(mem, d->scratch);
    *d = (peft__decoding){0};
}

static bool floats_of(const peft__decoding *d, int64_t rows, int64_t sequences, size_t *out_floats, size_t *out_bytes) {
    return peft__mul_size((size_t)rows, (size_t)d->width, out_floats) &&
           peft__mul_size(*out_floats, (size_t)sequences, out_floats) &&
           peft__mul_size(*out_floats, (size_t)(2 * d->layers) * sizeof(float), out_bytes);
}

static void point(peft__kv_cache *caches, int64_t layers, float *block, size_t floats, int64_t rows, int64_t *used) {
    for (int64_t l = 0; l < layers; l++)
        caches[l] = (peft__kv_cache){.keys = block + (size_t)(2 * l) * floats,
                                     .values = block + (size_t)(2 * l + 1) * floats,
                                     .max_rows = rows,
                                     .used = used};
}

/* The decoder's plan has the caches' places in it: it is made anew when they move. */
static peft_status make_caches(peft_session *session, int64_t source_rows, int64_t rows, int64_t beams) {
    peft__decoding *d = &session->decoding;
    const peft__dims *dims = peft__model_dims(session->model);
    if (source_rows <= d->source_rows && rows <= d->rows && beams == d->beams) return PEFT_OK;
    source_rows = peft__max_i64(source_rows, d->source_rows);
    rows = beams == d->beams ? peft__max_i64(rows, d->rows) : rows;
    peft__plan_free(session, &session->plans[PEFT__PLAN_DECODE]);
    peft__decoding_free(session);
    peft__decoding fresh = {.layers = dims->num_decoder_layers,
                            .width = dims->num_key_value_heads * dims->head_dim,
                            .source_rows = source_rows,
                            .rows = rows,
                            .beams = beams};
    size_t source, own, source_bytes, own_bytes;
    if (!floats_of(&fresh, source_rows, 1, &source, &source_bytes) || !floats_of(&fresh, rows, beams, &own, &own_bytes))
        return peft__fail(session->ctx, PEFT_E_LIMIT, "the caches of %lld beams of %lld rows are too large",
                          (long long)beams, (long long)rows);
    peft__mem *mem = session->ctx->mem;
    *d = fresh;
    d->source_block = peft__alloc(mem, source_bytes);
    d->block = peft__alloc(mem, own_bytes);
    d->cross = peft__alloc_zero(mem, (size_t)(2 * d->layers) * sizeof *d->cross);
    d->used = peft__alloc_zero(mem, (size_t)beams * sizeof *d->used);
    d->scratch = peft__alloc(mem, own * sizeof(float));
    if (d->source_block == NULL || d->block == NULL || d->cross == NULL || d->used == NULL || d->scratch == NULL) {
        peft__decoding_free(session);
        return peft__fail_nomem(session->ctx, source_bytes + own_bytes, "the caches of keys and values");
    }
    d->self = d->cross + d->layers;
    point(d->cross, d->layers, d->source_block, source, source_rows, &d->source_used);
    point(d->self, d->layers, d->block, own, rows, d->used);
    return PEFT_OK;
}

static peft_status encode(peft_session *session, const int32_t *ids, int64_t count) {
    const int32_t offsets[2] = {0, (int32_t)count};
    const peft_batch batch = {
        .struct_size = (uint32_t)sizeof batch, .rows = count, .sequences = 1, .offsets = offsets, .input_ids = ids};
    peft__plan *plan = &session->plans[PEFT__PLAN_ENCODE];
    if (!peft__plan_fits(session, plan, &batch)) {
        const peft__capacity capacity = {.rows = peft__ceil_div(count, 32) * 32, .sequences = 1};
        PEFT_TRY(peft__plan_make(session, PEFT__PLAN_ENCODE, &capacity));
    }
    PEFT_TRY(peft__graph_bind(plan->graph, &batch));
    return peft__session_run_forward(session, plan);
}

static void keep_source(peft_session *session) {
    peft__decoding *d = &session->decoding;
    const peft__plan *plan = &session->plans[PEFT__PLAN_ENCODE];
    for (int64_t i = 0; i < 2 * d->layers; i++) {
        const peft__value *from = plan->cross[i];
        float *to = i % 2 == 0 ? d->cross[i / 2].keys : d->cross[i / 2].values;
        for (int64_t r = 0; r < from->rows->count; r++)
            memcpy(to + r * d->width, from->data + r * from->ld, (size_t)d->width * sizeof(float));
    }
    d->source_used = plan->cross[0]->rows->count;
}

peft_status peft__decoding_begin(peft_session *session, const int32_t *ids, int64_t count, int64_t rows,
                                 int64_t beams) {
    PEFT_TRY(encode(session, ids, count));
    const peft__plan *encoder = &session->plans[PEFT__PLAN_ENCODE];
    PEFT_TRY(make_caches(session, encoder->cross[0]->rows->max_rows, peft__ceil_div(rows, 64) * 64, beams));
    keep_source(session);
    memset(session->decoding.used, 0, (size_t)beams * sizeof *session->decoding.used);
    const peft_batch batch = {.decoder_rows = beams, .decoder_sequences = beams};
    if (peft__plan_fits(session, &session->plans[PEFT__PLAN_DECODE], &batch)) return PEFT_OK;
    const peft__capacity capacity = {
        .rows = 1, .sequences = 1, .decoder_rows = beams, .decoder_sequences = beams, .labels = beams};
    return peft__plan_make(session, PEFT__PLAN_DECODE, &capacity);
}

peft_status peft__decoding_step(peft_session *session, const int32_t *ids, const peft__value **out_logits) {
    enum { MOST = PEFT__MOST_BEAMS };
    int32_t offsets[MOST + 1], source[MOST] = {0};
    peft__decoding *d = &session->decoding;
    peft__plan *plan = &session->plans[PEFT__PLAN_DECODE];
    for (int64_t i = 0; i <= d->beams; i++) offsets[i] = (int32_t)i;
    const peft_batch batch = {.struct_size = (uint32_t)sizeof batch,
                              .decoder_rows = d->beams,
                              .decoder_sequences = d->beams,
                              .decoder_offsets = offsets,
                              .decoder_input_ids = ids,
                              .decoder_source = source};
    PEFT_TRY(peft__graph_bind(plan->graph, &batch));
    PEFT_TRY(peft__session_run_forward(session, plan));
    for (int64_t i = 0; i < d->beams; i++) d->used[i]++;
    *out_logits = plan->logits;
    return PEFT_OK;
}

static void reorder(const peft__decoding *d, float *rows, int64_t max_rows, const int32_t *parents) {
    const size_t beam = (size_t)(max_rows * d->width), bytes = (size_t)(d->used[0] * d->width) * sizeof(float);
    for (int64_t i = 0; i < d->beams; i++)
        if (parents[i] != i) memcpy(d->scratch + (size_t)i * beam, rows + (size_t)parents[i] * beam, bytes);
    for (int64_t i = 0; i < d->beams; i++)
        if (parents[i] != i) memcpy(rows + (size_t)i * beam, d->scratch + (size_t)i * beam, bytes);
}

void peft__decoding_reorder(peft_session *session, const int32_t *parents) {
    const peft__decoding *d = &session->decoding;
    for (int64_t l = 0; l < d->layers; l++) {
        reorder(d, d->self[l].keys, d->rows, parents);
        reorder(d, d->self[l].values, d->rows, parents);
    }
}
