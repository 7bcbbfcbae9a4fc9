/* batch.c: batches as hosts have them, and the way from padded rectangles to rows.
 *
 * Padding exists only here. What Hugging Face computes at padded places is either masked away or not counted, so a
 * rectangle and its rows give the same numbers; where they would not (a label on padding) the rectangle is refused.
 */
#include "base/base.h"
#include "peft/dataset.h"

/* Element `index` of an id array of 4 or 8 bytes an element. */
static int64_t element(const void *array, int32_t bytes, int64_t index) {
    if (bytes == 4) {
        int32_t value;
        memcpy(&value, (const char *)array + (size_t)index * sizeof value, sizeof value);
        return value;
    }
    int64_t value;
    memcpy(&value, (const char *)array + (size_t)index * sizeof value, sizeof value);
    return value;
}

static peft_status check_padded(peft_context *ctx, const peft_padded *p, const peft_batch_buffers *b) {
    if (p->id_bytes != 4 && p->id_bytes != 8)
        return peft__fail(ctx, PEFT_E_ARG, "peft_padded.id_bytes is 4 or 8, found %d", p->id_bytes);
    if (p->batch < 1 || p->length < 1 || p->batch > INT32_MAX / p->length)
        return peft__fail(ctx, PEFT_E_ARG, "a padded batch has 1 to 2^31-1 places, found %lld x %lld",
                          (long long)p->batch, (long long)p->length);
    if (p->input_ids == NULL) return peft__fail(ctx, PEFT_E_ARG, "peft_padded.input_ids is missing");
    if (p->position_rule < PEFT_POSITIONS_COLUMN || p->position_rule > PEFT_POSITIONS_ROBERTA)
        return peft__fail(ctx, PEFT_E_ARG, "peft_padded.position_rule %d is not known", p->position_rule);
    if (p->decoder_length < 0 || (p->decoder_length > 0 && p->batch > INT32_MAX / p->decoder_length))
        return peft__fail(ctx, PEFT_E_ARG, "peft_padded.decoder_length %lld is out of range",
                          (long long)p->decoder_length);
    if ((p->decoder_length > 0) != (p->decoder_labels != NULL))
        return peft__fail(ctx, PEFT_E_ARG, "decoder_labels and decoder_length are given together");
    const char *missing = NULL;
    if (b->offsets == NULL) missing = "offsets";
    if (b->input_ids == NULL) missing = "input_ids";
    if (b->position_ids == NULL) missing = "position_ids";
    if (p->labels != NULL && b->labels == NULL) missing = "labels";
    if (p->token_type_ids != NULL && b->token_type_ids == NULL) missing = "token_type_ids";
    if (p->sequence_labels != NULL && b->sequence_labels == NULL) missing = "sequence_labels";
    if (p->start_positions != NULL && b->start_positions == NULL) missing = "start_positions";
    if (p->end_positions != NULL && b->end_positions == NULL) missing = "end_positions";
    if (p->decoder_length > 0 && b->decoder_offsets == NULL) missing = "decoder_offsets";
    if (p->decoder_length > 0 && b->decoder_input_ids == NULL) missing = "decoder_input_ids";
    if (p->decoder_length > 0 && b->decoder_labels == NULL) missing = "decoder_labels";
    if (missing != NULL) return peft__fail(ctx, PEFT_E_ARG, "peft_batch_buffers.%s is missing", missing);
    return PEFT_OK;
}

static peft_status check_range(peft_context *ctx, const peft_padded *p, const void *array, const char *name,
                               int64_t count) {
    if (array == NULL || p->id_bytes == 4) return PEFT_OK;
    for (int64_t i = 0; i < count; i++) {
        const int64_t value = element(array, 8, i);
        if (value < INT32_MIN || value > INT32_MAX)
            return peft__fail(ctx, PEFT_E_ARG, "%s[%lld] does not fit in 32 bits: %lld", name, (long long)i,
                              (long long)value);
    }
    return PEFT_OK;
}

static bool is_token(const peft_padded *p, int64_t index) {
    return p->attention_mask == NULL || element(p->attention_mask, p->id_bytes, index) != 0;
}

/* Everything that can be wrong, before anything is written. */
static peft_status check_contents(peft_context *ctx, const peft_padded *p, const peft_batch_buffers *b) {
    const int64_t places = p->batch * p->length;
    PEFT_TRY(check_range(ctx, p, p->input_ids, "input_ids", places));
    PEFT_TRY(check_range(ctx, p, p->labels, "labels", places));
    PEFT_TRY(check_range(ctx, p, p->token_type_ids, "token_type_ids", places));
    PEFT_TRY(check_range(ctx, p, p->position_ids, "position_ids", places));
    PEFT_TRY(check_range(ctx, p, p->sequence_labels, "sequence_labels", p->batch));
    PEFT_TRY(check_range(ctx, p, p->decoder_labels, "decoder_labels", p->batch * p->decoder_length));
    int64_t rows = 0;
    for (int64_t s = 0; s < p->batch; s++) {
        const int64_t before = rows;
        for (int64_t t = 0; t < p->length; t++) {
            const int64_t at = s * p->length + t;
            if (is_token(p, at)) {
                rows++;
            } else if (p->labels != NULL && element(p->labels, p->id_bytes, at) != PEFT_IGNORE_LABEL) {
                return peft__fail(ctx, PEFT_E_ARG,
                                  "sequence %lld has label %lld on padding at place %lld; padding has label -100",
                                  (long long)s, (long long)element(p->labels, p->id_bytes, at), (long long)t);
            }
        }
        if (rows == before)
            return peft__fail(ctx, PEFT_E_ARG, "sequence %lld of the padded batch is all padding", (long long)s);
    }
    if (rows > b->rows)
        return peft__fail(ctx, PEFT_E_LIMIT, "the padded batch has %lld tokens, the buffers have room for %lld rows",
                          (long long)rows, (long long)b->rows);
    if (p->batch * p->decoder_length > b->decoder_rows)
        return peft__fail(ctx, PEFT_E_LIMIT, "the batch has %lld decoder rows, the buffers have room for %lld",
                          (long long)(p->batch * p->decoder_length), (long long)b->decoder_rows);
    return PEFT_OK;
}

static int64_t fill_rows(const peft_padded *p, const peft_batch_buffers *b) {
    int64_t row = 0;
    b->offsets[0] = 0;
    for (int64_t s = 0; s < p->batch; s++) {
        int64_t tokens = 0, ids_so_far = 0;
        for (int64_t t = 0; t < p->length; t++) {
            const int64_t at = s * p->length + t;
            const int32_t id = (int32_t)element(p->input_ids, p->id_bytes, at);
            if (id != p->pad_token_id) ids_so_far++;
            if (!is_token(p, at)) continue;
            int64_t position = t;
            if (p->position_rule == PEFT_POSITIONS_ROW) position = tokens;
            if (p->position_rule == PEFT_POSITIONS_ROBERTA)
                position = p->pad_token_id + (id != p->pad_token_id ? ids_so_far : 0);
            if (p->position_ids != NULL) position = element(p->position_ids, p->id_bytes, at);
            b->input_ids[row] = id;
            b->position_ids[row] = (int32_t)position;
            if (p->labels != NULL) b->labels[row] = (int32_t)element(p->labels, p->id_bytes, at);
            if (p->token_type_ids != NULL)
                b->token_type_ids[row] = (int32_t)element(p->token_type_ids, p->id_bytes, at);
            if (b->source != NULL) b->source[row] = (int32_t)at;
            tokens++;
            row++;
        }
        b->offsets[s + 1] = (int32_t)row;
    }
    return row;
}

/* Columns of a rectangle as rows of its sequences; what is not on a token is no answer. */
static const int32_t *fill_positions(const peft_padded *p, const void *columns, int32_t *out) {
    if (columns == NULL) return NULL;
    for (int64_t s = 0; s < p->batch; s++) {
        const int64_t column = element(columns, p->id_bytes, s), first = s * p->length;
        out[s] = PEFT_IGNORE_LABEL;
        if (column < 0 || column >= p->length || !is_token(p, first + column)) continue;
        out[s] = 0;
        for (int64_t t = 0; t < column; t++) out[s] += is_token(p, first + t);
    }
    return out;
}

/* Decoder rows: nothing is cut away, because the reference decoders have no padding mask; what is -100 is not counted.
 */
static void fill_decoder(const peft_padded *p, const peft_batch_buffers *b) {
    for (int64_t s = 0; s < p->batch; s++) {
        b->decoder_offsets[s] = (int32_t)(s * p->decoder_length);
        int32_t reads = p->decoder_start_token_id;
        for (int64_t t = 0; t < p->decoder_length; t++) {
            const int64_t at = s * p->decoder_length + t;
            const int32_t label = (int32_t)element(p->decoder_labels, p->id_bytes, at);
            b->decoder_input_ids[at] = reads;
            b->decoder_labels[at] = label;
            reads = label == PEFT_IGNORE_LABEL ? p->pad_token_id : label;
        }
    }
    b->decoder_offsets[p->batch] = (int32_t)(p->batch * p->decoder_length);
}

void peft_batch_init_sized(peft_batch *batch, uint32_t size) {
    if (batch == NULL || size < sizeof batch->struct_size) return;
    memset(batch, 0, size);
    batch->struct_size = size;
}

void peft_padded_init_sized(peft_padded *padded, uint32_t size) {
    if (padded == NULL || size < sizeof padded->struct_size) return;
    const peft_padded defaults = {.struct_size = size, .id_bytes = 8};
    memset(padded, 0, size);
    memcpy(padded, &defaults, peft__min_size(size, sizeof defaults));
}

peft_status peft_batch_from_padded(peft_context *context, const peft_padded *padded, const peft_batch_buffers *buffers,
                                   peft_batch *out_batch) {
    if (padded == NULL || buffers == NULL || out_batch == NULL)
        return peft__fail(context, PEFT_E_ARG, "peft_batch_from_padded() takes padded, buffers and out_batch");
    peft_padded p = {0};
    peft_batch_buffers b = {0};
    PEFT_TRY(peft__options_copy(context, &p, sizeof p, padded, sizeof p, "peft_padded"));
    PEFT_TRY(peft__options_copy(context, &b, sizeof b, buffers, sizeof b, "peft_batch_buffers"));
    PEFT_TRY(check_padded(context, &p, &b));
    PEFT_TRY(check_contents(context, &p, &b));

    peft_batch batch = {.struct_size = (uint32_t)sizeof batch};
    batch.rows = fill_rows(&p, &b);
    batch.sequences = p.batch;
    batch.offsets = b.offsets;
    batch.input_ids = b.input_ids;
    batch.position_ids = b.position_ids;
    if (p.labels != NULL) batch.labels = b.labels;
    if (p.token_type_ids != NULL) batch.token_type_ids = b.token_type_ids;
    if (p.sequence_labels != NULL) {
        for (int64_t s = 0; s < p.batch; s++) b.sequence_labels[s] = (int32_t)element(p.sequence_labels, p.id_bytes, s);
        batch.sequence_labels = b.sequence_labels;
    }
    batch.start_positions = fill_positions(&p, p.start_positions, b.start_positions);
    batch.end_positions = fill_positions(&p, p.end_positions, b.end_positions);
    if (p.decoder_length > 0) {
        fill_decoder(&p, &b);
        batch.decoder_rows = p.batch * p.decoder_length;
        batch.decoder_sequences = p.batch;
        batch.decoder_offsets = b.decoder_offsets;
        batch.decoder_input_ids = b.decoder_input_ids;
        batch.decoder_labels = b.decoder_labels;
    }
    *out_batch = batch;
    return PEFT_OK;
}
