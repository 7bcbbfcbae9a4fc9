/* rows.c: row spaces, and binding a batch to them.
 *
 * A space knows how large it can get (measure) and how to fill itself from the batch and its parent (bind). Spaces are
 * bound in the order in which they were made, so a parent is always ready. Nothing here looks at model or method: what a
 * soft prompt does to positions and labels is said once, in bind_insert.
 */
#include "graph/graph_internal.h"

typedef struct stream_attr {
    bool shift_labels;
} stream_attr;

typedef struct fixed_attr {
    int64_t count;
} fixed_attr;

typedef struct pick_attr {
    int64_t which;
} pick_attr;

typedef struct insert_attr {
    int64_t skip, count;
    bool parent_shifts; /* the parent is a stream whose labels moved up by one */
} insert_attr;

peft__rows *peft__rows_new(peft__graph *graph, const char *name, peft__rows *parent, void *attr,
                           void (*measure)(const peft__rows *, const peft__capacity *, int64_t *, int64_t *),
                           peft_status (*bind)(peft__rows *, peft_context *, const peft_batch *), bool carries_source) {
    if (graph->status < 0) return NULL;
    if (!peft__graph_grow(graph, (void **)&graph->rows, &graph->row_capacity, graph->row_count, sizeof *graph->rows)) return NULL;
    peft__rows *rows = peft__arena_alloc(&graph->arena, sizeof *rows);
    if (rows == NULL) return peft__graph_fail(graph, peft__fail_nomem(graph->ctx, sizeof *rows, "a row space"));
    rows->name = name;
    rows->parent = parent;
    if (parent != NULL) rows->first_position = parent->first_position;
    rows->attr = attr;
    rows->measure = measure;
    rows->bind = bind;
    rows->carries_source = carries_source;
    measure(rows, &graph->capacity, &rows->max_rows, &rows->max_sequences);
    graph->rows[graph->row_count++] = rows;
    return rows;
}

static void *new_attr(peft__graph *graph, const void *attr, size_t size) {
    if (graph->status < 0) return NULL;
    void *copy = peft__arena_alloc(&graph->arena, size);
    if (copy == NULL) return peft__graph_fail(graph, peft__fail_nomem(graph->ctx, size, "a row space"));
    memcpy(copy, attr, size);
    return copy;
}

/* ---- fixed ------------------------------------------------------------------------------------------------- */

static void measure_fixed(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows, int64_t *out_sequences) {
    (void)capacity;
    *out_rows = ((const fixed_attr *)rows->attr)->count;
    *out_sequences = 1;
}

static peft_status bind_fixed(peft__rows *rows, peft_context *ctx, const peft_batch *batch) {
    (void)ctx;
    (void)batch;
    rows->count = rows->max_rows;
    rows->sequences = 1;
    return PEFT_OK;
}

peft__rows *peft__rows_fixed(peft__graph *graph, int64_t count) {
    if (graph->status < 0) return NULL;
    for (size_t i = 0; i < graph->row_count; i++)
        if (graph->rows[i]->bind == bind_fixed && graph->rows[i]->max_rows == count) return graph->rows[i];
    const fixed_attr attr = {count};
    void *copy = new_attr(graph, &attr, sizeof attr);
    peft__rows *rows = copy == NULL ? NULL : peft__rows_new(graph, "fixed", NULL, copy, measure_fixed, bind_fixed, false);
    if (rows != NULL) {
        rows->fixed = true;
        rows->count = count;
        rows->sequences = 1;
    }
    return rows;
}

/* ---- the batch's streams ------------------------------------------------------------------------------------- */

static void measure_stream(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows, int64_t *out_sequences) {
    (void)rows;
    *out_rows = capacity->rows;
    *out_sequences = capacity->sequences;
}

static void measure_decoder(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows, int64_t *out_sequences) {
    (void)rows;
    *out_rows = capacity->decoder_rows;
    *out_sequences = capacity->decoder_sequences;
}

static peft_status check_fits(const peft__rows *rows, peft_context *ctx, int64_t count, int64_t sequences) {
    if (count > rows->max_rows || sequences > rows->max_sequences) {
        return peft__fail(ctx, PEFT_E_LIMIT, "the batch has %lld rows in %lld sequences in space \"%s\", the plan has room for %lld in %lld",
                          (long long)count, (long long)sequences, rows->name, (long long)rows->max_rows, (long long)rows->max_sequences);
    }
    return PEFT_OK;
}

static void fill_stream(peft__rows *rows, const int32_t *offsets, const int32_t *ids, const int32_t *positions, const int32_t *types,
                        const int32_t *labels, bool shift) {
    memcpy(rows->offsets, offsets, (size_t)(rows->sequences + 1) * sizeof *offsets);
    for (int64_t s = 0; s < rows->sequences; s++) {
        for (int32_t r = offsets[s]; r < offsets[s + 1]; r++) {
            rows->ids[r] = ids != NULL ? ids[r] : -1;
            rows->positions[r] = positions != NULL ? positions[r] : r - offsets[s];
            rows->types[r] = types != NULL ? types[r] : 0;
            if (labels == NULL) {
                rows->labels[r] = PEFT_IGNORE_LABEL;
            } else if (!shift) {
                rows->labels[r] = labels[r];
            } else {
                rows->labels[r] = r + 1 < offsets[s + 1] ? labels[r + 1] : PEFT_IGNORE_LABEL;
            }
        }
    }
}

static peft_status bind_stream(peft__rows *rows, peft_context *ctx, const peft_batch *batch) {
    PEFT_TRY(check_fits(rows, ctx, batch->rows, batch->sequences));
    rows->count = batch->rows;
    rows->sequences = batch->sequences;
    fill_stream(rows, batch->offsets, batch->input_ids, batch->position_ids, batch->token_type_ids, batch->labels,
                ((const stream_attr *)rows->attr)->shift_labels);
    return PEFT_OK;
}

static peft_status bind_decoder(peft__rows *rows, peft_context *ctx, const peft_batch *batch) {
    if (batch->decoder_offsets == NULL || batch->decoder_input_ids == NULL) {
        return peft__fail(ctx, PEFT_E_ARG, "the model has a decoder, but the batch has no decoder_input_ids");
    }
    PEFT_TRY(check_fits(rows, ctx, batch->decoder_rows, batch->decoder_sequences));
    rows->count = batch->decoder_rows;
    rows->sequences = batch->decoder_sequences;
    fill_stream(rows, batch->decoder_offsets, batch->decoder_input_ids, NULL, NULL, batch->decoder_labels, false);
    return PEFT_OK;
}

peft__rows *peft__rows_stream(peft__graph *graph, bool shift_labels) {
    const stream_attr attr = {shift_labels};
    void *copy = new_attr(graph, &attr, sizeof attr);
    return copy == NULL ? NULL : peft__rows_new(graph, "rows", NULL, copy, measure_stream, bind_stream, false);
}

bool peft__rows_in_decoder(const peft__rows *rows) {
    while (rows->parent != NULL)
        rows = rows->parent;
    return rows->bind == bind_decoder;
}

peft__rows *peft__rows_decoder(peft__graph *graph) {
    return peft__rows_new(graph, "decoder rows", NULL, NULL, measure_decoder, bind_decoder, false);
}

/* ---- chosen rows ---------------------------------------------------------------------------------------------- */

static void take_row(peft__rows *rows, int64_t to, const peft__rows *parent, int32_t from) {
    rows->source[to] = from;
    rows->ids[to] = parent->ids[from];
    rows->positions[to] = parent->positions[from];
    rows->types[to] = parent->types[from];
    rows->labels[to] = parent->labels[from];
}

static void measure_labelled(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows, int64_t *out_sequences) {
    *out_rows = peft__min_i64(rows->parent->max_rows, capacity->labels > 0 ? capacity->labels : rows->parent->max_rows);
    *out_sequences = rows->parent->max_sequences;
}

static peft_status bind_labelled(peft__rows *rows, peft_context *ctx, const peft_batch *batch) {
    (void)batch;
    const peft__rows *parent = rows->parent;
    int64_t wanted = 0;
    for (int64_t r = 0; r < parent->count; r++) wanted += parent->labels[r] != PEFT_IGNORE_LABEL;
    PEFT_TRY(check_fits(rows, ctx, wanted, parent->sequences));
    int64_t count = 0;
    rows->offsets[0] = 0;
    for (int64_t s = 0; s < parent->sequences; s++) {
        for (int32_t r = parent->offsets[s]; r < parent->offsets[s + 1]; r++)
            if (parent->labels[r] != PEFT_IGNORE_LABEL) take_row(rows, count++, parent, r);
        rows->offsets[s + 1] = (int32_t)count;
    }
    rows->count = count;
    rows->sequences = parent->sequences;
    return PEFT_OK;
}

peft__rows *peft__rows_labelled(peft__graph *graph, peft__rows *parent) {
    if (parent == NULL) return NULL;
    return peft__rows_new(graph, "labelled rows", parent, NULL, measure_labelled, bind_labelled, true);
}

static void measure_pick(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows, int64_t *out_sequences) {
    (void)capacity;
    *out_rows = *out_sequences = rows->parent->max_sequences;
}

static peft_status bind_pick(peft__rows *rows, peft_context *ctx, const peft_batch *batch) {
    (void)batch;
    const peft__rows *parent = rows->parent;
    const int64_t which = ((const pick_attr *)rows->attr)->which;
    for (int64_t s = 0; s < parent->sequences; s++) {
        const int64_t length = parent->offsets[s + 1] - parent->offsets[s];
        const int64_t row = which < 0 ? length + which : which;
        if (row < 0 || row >= length) {
            return peft__fail(ctx, PEFT_E_ARG, "sequence %lld has %lld rows, row %lld is wanted", (long long)s, (long long)length, (long long)which);
        }
        take_row(rows, s, parent, (int32_t)(parent->offsets[s] + row));
        rows->offsets[s] = (int32_t)s;
    }
    rows->offsets[parent->sequences] = (int32_t)parent->sequences;
    rows->count = rows->sequences = parent->sequences;
    return PEFT_OK;
}

peft__rows *peft__rows_pick(peft__graph *graph, peft__rows *parent, int64_t which) {
    if (parent == NULL) return NULL;
    const pick_attr attr = {which};
    void *copy = new_attr(graph, &attr, sizeof attr);
    return copy == NULL ? NULL : peft__rows_new(graph, "picked rows", parent, copy, measure_pick, bind_pick, true);
}

/* ---- inserted and replaced rows --------------------------------------------------------------------------------- */

static void measure_insert(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows, int64_t *out_sequences) {
    (void)capacity;
    const insert_attr *attr = rows->attr;
    *out_rows = rows->parent->max_rows + rows->parent->max_sequences * attr->count;
    *out_sequences = rows->parent->max_sequences;
}

static void put_row(peft__rows *rows, int64_t to, int64_t table_row, int64_t position) {
    rows->source[to] = (int32_t)~table_row;
    rows->ids[to] = -1;
    rows->positions[to] = (int32_t)position;
    rows->types[to] = 0;
    rows->labels[to] = PEFT_IGNORE_LABEL;
}

static peft_status bind_insert(peft__rows *rows, peft_context *ctx, const peft_batch *batch) {
    const peft__rows *parent = rows->parent;
    const insert_attr *attr = rows->attr;
    PEFT_TRY(check_fits(rows, ctx, parent->count + parent->sequences * attr->count, parent->sequences));
    int64_t to = 0;
    rows->offsets[0] = 0;
    for (int64_t s = 0; s < parent->sequences; s++) {
        const int32_t first = parent->offsets[s], end = parent->offsets[s + 1];
        if (end - first < attr->skip) {
            return peft__fail(ctx, PEFT_E_ARG, "sequence %lld has %d rows, rows go in after the first %lld", (long long)s, end - first, (long long)attr->skip);
        }
        for (int32_t r = first; r < first + attr->skip; r++) take_row(rows, to++, parent, r);
        for (int64_t p = 0; p < attr->count; p++) put_row(rows, to++, p, parent->first_position + attr->skip + p);
        /* The last inserted row is the one that predicts the first token. */
        if (attr->parent_shifts && attr->skip == 0 && attr->count > 0 && batch->labels != NULL && end > first)
            rows->labels[to - 1] = batch->labels[batch->offsets[s]];
        for (int32_t r = first + (int32_t)attr->skip; r < end; r++) {
            take_row(rows, to, parent, r);
            rows->positions[to] += (int32_t)attr->count;
            to++;
        }
        rows->offsets[s + 1] = (int32_t)to;
    }
    rows->count = to;
    rows->sequences = parent->sequences;
    return PEFT_OK;
}

peft__rows *peft__rows_insert(peft__graph *graph, peft__rows *parent, int64_t skip, int64_t count) {
    if (parent == NULL) return NULL;
    const insert_attr attr = {skip, count, parent->bind == bind_stream && ((const stream_attr *)parent->attr)->shift_labels};
    void *copy = new_attr(graph, &attr, sizeof attr);
    return copy == NULL ? NULL : peft__rows_new(graph, "rows with inserted ones", parent, copy, measure_insert, bind_insert, true);
}

static void measure_same(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows, int64_t *out_sequences) {
    (void)capacity;
    *out_rows = rows->parent->max_rows;
    *out_sequences = rows->parent->max_sequences;
}

static peft_status bind_replace(peft__rows *rows, peft_context *ctx, const peft_batch *batch) {
    (void)batch;
    const peft__rows *parent = rows->parent;
    const insert_attr *attr = rows->attr;
    for (int64_t s = 0; s < parent->sequences; s++) {
        const int32_t first = parent->offsets[s], end = parent->offsets[s + 1];
        if (end - first < attr->skip + attr->count) {
            return peft__fail(ctx, PEFT_E_ARG, "sequence %lld has %d rows, rows %lld to %lld of it are to be replaced", (long long)s, end - first,
                              (long long)attr->skip, (long long)(attr->skip + attr->count));
        }
        for (int32_t r = first; r < end; r++) {
            take_row(rows, r, parent, r);
            const int64_t p = r - first - attr->skip;
            if (p >= 0 && p < attr->count) put_row(rows, r, p, parent->positions[r]);
        }
        rows->offsets[s] = first;
    }
    rows->offsets[parent->sequences] = (int32_t)parent->count;
    rows->count = parent->count;
    rows->sequences = parent->sequences;
    return PEFT_OK;
}

peft__rows *peft__rows_replace(peft__graph *graph, peft__rows *parent, int64_t skip, int64_t count) {
    if (parent == NULL) return NULL;
    const insert_attr attr = {skip, count, false};
    void *copy = new_attr(graph, &attr, sizeof attr);
    return copy == NULL ? NULL : peft__rows_new(graph, "rows with replaced ones", parent, copy, measure_same, bind_replace, true);
}

/* What was put in just before and is taken out again leaves as much room as there was; else sequences may be fewer than
 * there is room for, and all rows may be of one. */
static void measure_drop(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows, int64_t *out_sequences) {
    (void)capacity;
    const peft__rows *parent = rows->parent;
    const bool undone = parent->bind == bind_insert && ((const insert_attr *)parent->attr)->count == ((const insert_attr *)rows->attr)->count;
    *out_rows = undone ? parent->parent->max_rows : parent->max_rows;
    *out_sequences = parent->max_sequences;
}

static peft_status bind_drop(peft__rows *rows, peft_context *ctx, const peft_batch *batch) {
    (void)batch;
    const peft__rows *parent = rows->parent;
    const insert_attr *attr = rows->attr;
    int64_t to = 0;
    rows->offsets[0] = 0;
    for (int64_t s = 0; s < parent->sequences; s++) {
        const int32_t first = parent->offsets[s], end = parent->offsets[s + 1];
        if (end - first < attr->skip + attr->count) {
            return peft__fail(ctx, PEFT_E_ARG, "sequence %lld has %d rows, rows %lld to %lld of it are to be left out", (long long)s, end - first,
                              (long long)attr->skip, (long long)(attr->skip + attr->count));
        }
        for (int32_t r = first; r < end; r++) {
            const int64_t place = r - first - attr->skip;
            if (place >= 0 && place < attr->count) continue;
            take_row(rows, to, parent, r);
            if (place >= 0) rows->positions[to] -= (int32_t)attr->count;
            to++;
        }
        rows->offsets[s + 1] = (int32_t)to;
    }
    rows->count = to;
    rows->sequences = parent->sequences;
    return PEFT_OK;
}

peft__rows *peft__rows_drop(peft__graph *graph, peft__rows *parent, int64_t skip, int64_t count) {
    if (parent == NULL) return NULL;
    const insert_attr attr = {skip, count, false};
    void *copy = new_attr(graph, &attr, sizeof attr);
    return copy == NULL ? NULL : peft__rows_new(graph, "rows without some", parent, copy, measure_drop, bind_drop, true);
}

/* ---- binding ------------------------------------------------------------------------------------------------------- */

peft_status peft__graph_bind(peft__graph *graph, const peft_batch *batch) {
    graph->batch = NULL;
    for (size_t i = 0; i < graph->row_count; i++) PEFT_TRY(graph->rows[i]->bind(graph->rows[i], graph->ctx, batch));
    graph->batch = batch;
    return PEFT_OK;
}
