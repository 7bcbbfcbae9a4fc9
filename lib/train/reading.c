/* reading.c: a text read piece by piece into a cache of keys and values, and what may follow it.
 *
 * One graph serves prompt and continuation: it reads a chunk of rows, appends their keys and values to the cache and
 * gives the logits of the last row. A learnt prompt that stands before the text goes in with the first chunk and stays
 * in the cache. What was read can be forgotten from any row on, so that texts with a common beginning read it once.
 * Several continuations of what was read are scored in one pass: each is a sequence that sees the cache and itself, and
 * leaves nothing there.
 */
#include "train/train.h"

#include <math.h>

enum { CHUNK = 128, FOLLOW_ROWS = 256 };

/* Adapters that put rows elsewhere than before the text would do so in every chunk. */
bool peft__reading_possible(const peft_session *session) {
    for (uint32_t a = 0; a < session->count; a++) {
        const peft__hooks *hooks = session->hooked[a].hooks;
        if (hooks->layer_input != NULL || hooks->readout != NULL) return false;
        const bool in_front =
            hooks->inserted_length != NULL && hooks->inserted_length(session->hooked[a].self, PEFT__STACK_MAIN) > 0;
        if ((hooks->input != NULL || hooks->word_embedding != NULL) && !in_front) return false;
    }
    return true;
}

/* Rows that adapters put before the text. */
static int64_t rows_in_front(const peft_session *session) {
    int64_t rows = 0;
    for (uint32_t a = 0; a < session->count; a++) {
        const peft__hooks *hooks = session->hooked[a].hooks;
        if (hooks->inserted_length != NULL) rows += hooks->inserted_length(session->hooked[a].self, PEFT__STACK_MAIN);
    }
    return rows;
}

void peft__generation_free(peft_session *session) {
    peft__generation *g = &session->generation;
    peft__free(session->ctx->mem, g->block);
    peft__free(session->ctx->mem, g->caches);
    *g = (peft__generation){0};
}

/* Room for keys and values of `wanted` rows in every layer. Plans have the cache's place in them. */
static peft_status make_cache(peft_session *session, int64_t wanted) {
    peft__generation *g = &session->generation;
    const peft__dims *dims = peft__model_dims(session->model);
    if (wanted <= g->rows) return PEFT_OK;
    peft__plan_free(session, &session->plans[PEFT__PLAN_GENERATE]);
    peft__plan_free(session, &session->plans[PEFT__PLAN_FOLLOW]);
    peft__generation_free(session);
    const int64_t rows = peft__ceil_div(wanted, 64) * 64, layers = dims->num_hidden_layers;
    size_t row, bytes;
    if (!peft__mul_size((size_t)(dims->num_key_value_heads * dims->head_dim), sizeof(float), &row) ||
        !peft__mul_size(row, (size_t)rows, &row) || !peft__mul_size(row, (size_t)layers * 2, &bytes))
        return peft__fail(session->ctx, PEFT_E_LIMIT, "the cache for %lld rows is too large", (long long)rows);
    g->block = peft__alloc(session->ctx->mem, bytes);
    g->caches = peft__alloc_zero(session->ctx->mem, (size_t)layers * sizeof *g->caches);
    if (g->block == NULL || g->caches == NULL) {
        peft__generation_free(session);
        return peft__fail_nomem(session->ctx, bytes, "the cache of keys and values");
    }
    for (int64_t l = 0; l < layers; l++)
        g->caches[l] = (peft__kv_cache){.keys = g->block + (size_t)(2 * l) * (row / sizeof(float)),
                                        .values = g->block + (size_t)(2 * l + 1) * (row / sizeof(float)),
                                        .max_rows = rows,
                                        .used = &g->used};
    g->layers = (uint32_t)layers;
    g->rows = rows;
    return PEFT_OK;
}

peft_status peft__reading_begin(peft_session *session, int64_t rows, int64_t first) {
    PEFT_TRY(make_cache(session, rows + rows_in_front(session)));
    session->generation.used = 0;
    const int64_t chunk = peft__min_i64(CHUNK, peft__ceil_div(first, 32) * 32);
    const peft__plan *plan = &session->plans[PEFT__PLAN_GENERATE];
    const peft_batch largest = {.rows = peft__max_i64(chunk, plan->capacity.rows), .sequences = 1};
    if (peft__plan_fits(session, plan, &largest)) return PEFT_OK;
    const peft__capacity capacity = {.rows = largest.rows, .sequences = 1, .labels = largest.rows};
    return peft__plan_make(session, PEFT__PLAN_GENERATE, &capacity);
}

int64_t peft__reading_rows(const peft_session *session) {
    return peft__max_i64(0, session->generation.used - rows_in_front(session));
}

int64_t peft__reading_room(const peft_session *session) {
    return peft__max_i64(0, session->generation.rows - rows_in_front(session));
}

void peft__reading_keep(peft_session *session, int64_t rows) {
    if (rows <= 0)
        session->generation.used = 0;
    else if (rows < peft__reading_rows(session))
        session->generation.used = rows + rows_in_front(session);
}

/* Positions of rows [first, first + count) of a text. */
static void count_on(int64_t first, int64_t count, int32_t *out) {
    for (int64_t i = 0; i < count; i++) out[i] = (int32_t)(first + i);
}

peft_status peft__reading_put(peft_session *session, const int32_t *ids, int64_t count, const float **out_logits) {
    peft__plan *plan = &session->plans[PEFT__PLAN_GENERATE];
    int32_t positions[CHUNK];
    while (count > 0) {
        const int64_t rows = peft__min_i64(peft__min_i64(plan->capacity.rows, CHUNK), count);
        const int64_t first = peft__reading_rows(session);
        const int32_t offsets[2] = {0, (int32_t)rows};
        count_on(first, rows, positions);
        const peft_batch batch = {.struct_size = (uint32_t)sizeof batch,
                                  .rows = rows,
                                  .sequences = 1,
                                  .offsets = offsets,
                                  .input_ids = ids,
                                  .position_ids = positions};
        PEFT_TRY(peft__graph_bind(plan->graph, &batch));
        PEFT_TRY(peft__session_run_forward(session, plan));
        session->generation.used = rows_in_front(session) + first + rows;
        ids += rows;
        count -= rows;
    }
    if (out_logits != NULL) *out_logits = plan->logits->data;
    return PEFT_OK;
}

/* ---- what may follow ------------------------------------------------------------------------------------------ */

/* Sequences [from, to) in one pass. All rows but the last of a sequence go through the model: what follows the last is
 * not asked. */
static peft_status score_group(peft_session *session, const int32_t *ids, const int32_t *offsets, int64_t from,
                               int64_t to, int32_t *scratch, double *nll) {
    int32_t *own = scratch, *input = own + FOLLOW_ROWS + 1, *labels = input + FOLLOW_ROWS,
            *positions = labels + FOLLOW_ROWS, *which = positions + FOLLOW_ROWS;
    const int64_t before = peft__reading_rows(session);
    int32_t rows = 0, sequences = 0;
    own[0] = 0;
    for (int64_t s = from; s < to; s++) {
        const int32_t first = offsets[s], length = offsets[s + 1] - first - 1;
        if (length <= 0) continue;
        count_on(before, length, positions + rows);
        memcpy(input + rows, ids + first, (size_t)length * sizeof *ids);
        memcpy(labels + rows, ids + first + 1, (size_t)length * sizeof *ids);
        rows += length;
        which[sequences++] = (int32_t)s;
        own[sequences] = rows;
    }
    if (rows == 0) return PEFT_OK;
    const peft_batch batch = {.struct_size = (uint32_t)sizeof batch,
                              .rows = rows,
                              .sequences = sequences,
                              .offsets = own,
                              .input_ids = input,
                              .position_ids = positions,
                              .labels = labels};
    peft__plan *plan = &session->plans[PEFT__PLAN_FOLLOW];
    if (!peft__plan_fits(session, plan, &batch)) {
        peft__capacity capacity = plan->capacity;
        capacity.rows = peft__max_i64(capacity.rows, peft__min_i64(FOLLOW_ROWS, peft__ceil_div(rows, 16) * 16));
        capacity.sequences = peft__max_i64(capacity.sequences, peft__ceil_div(sequences, 4) * 4);
        capacity.labels = capacity.rows;
        PEFT_TRY(peft__plan_make(session, PEFT__PLAN_FOLLOW, &capacity));
    }
    PEFT_TRY(peft__graph_bind(plan->graph, &batch));
    PEFT_TRY(peft__session_run_forward(session, plan));
    const peft__value *found = plan->nll;
    for (int32_t s = 0; s < sequences; s++)
        for (int32_t r = found->rows->offsets[s]; r < found->rows->offsets[s + 1]; r++)
            nll[which[s]] += (double)found->data[r * found->ld];
    return PEFT_OK;
}

/* log sum exp of a row, in double: the same for all first tokens. */
static double log_total(const float *logits, int64_t count) {
    double top = -INFINITY, sum = 0.0;
    for (int64_t i = 0; i < count; i++) top = fmax(top, (double)logits[i]);
    for (int64_t i = 0; i < count; i++) sum += exp((double)logits[i] - top);
    return top + log(sum);
}

peft_status peft__reading_follow(peft_session *session, const float *logits, const int32_t *ids, const int32_t *offsets,
                                 int64_t sequences, double *out_nll) {
    const double total = log_total(logits, peft__model_dims(session->model)->vocab_size);
    int32_t *scratch = peft__alloc(session->ctx->mem, (size_t)(5 * FOLLOW_ROWS + 1) * sizeof *scratch);
    if (scratch == NULL)
        return peft__fail_nomem(session->ctx, (size_t)(5 * FOLLOW_ROWS + 1) * sizeof *scratch, "answers");
    peft_status status = PEFT_OK;
    for (int64_t s = 0; s < sequences; s++) {
        out_nll[s] = total - (double)logits[ids[offsets[s]]];
        if (offsets[s + 1] - offsets[s] - 1 > FOLLOW_ROWS)
            status = peft__fail(session->ctx, PEFT_E_LIMIT, "an answer of %d tokens, at most %d are scored",
                                offsets[s + 1] - offsets[s], FOLLOW_ROWS + 1);
    }
    for (int64_t from = 0, to; from < sequences && status >= 0; from = to) {
        int64_t rows = 0;
        for (to = from; to < sequences; to++) {
            const int64_t length = offsets[to + 1] - offsets[to] - 1;
            if (rows + length > FOLLOW_ROWS) break;
            rows += length;
        }
        status = score_group(session, ids, offsets, from, to, scratch, out_nll);
    }
    peft__free(session->ctx->mem, scratch);
    return status;
}
