/* batch_store.c: a session's own copy of the batch it works on.
 *
 * Batches are checked here once, completely, before anything happens: operations index tables with these numbers and
 * check nothing. They are copied, because a backward pass reads targets long after the call that brought them returned;
 * the copy is small beside what one layer computes.
 */
#include "train/train.h"

#define LARGEST_COLS (INT64_C(1) << 24)

static peft_status check_offsets(peft_context *ctx, const char *name, const int32_t *offsets, int64_t sequences,
                                 int64_t rows, int64_t longest) {
    if (rows < 1 || rows > INT32_MAX || sequences < 1 || sequences > rows)
        return peft__fail(ctx, PEFT_E_ARG,
                          "a batch has at least one row a sequence, found %lld rows and %lld sequences in %s",
                          (long long)rows, (long long)sequences, name);
    if (offsets == NULL) return peft__fail(ctx, PEFT_E_ARG, "peft_batch.%s is missing", name);
    if (offsets[0] != 0) return peft__fail(ctx, PEFT_E_ARG, "%s[0] is 0, found %d", name, offsets[0]);
    for (int64_t s = 0; s < sequences; s++) {
        if (offsets[s + 1] <= offsets[s] || offsets[s + 1] > rows)
            return peft__fail(ctx, PEFT_E_ARG, "%s rise strictly up to %lld rows, found %d after %d at sequence %lld",
                              name, (long long)rows, offsets[s + 1], offsets[s], (long long)s);
        if (longest > 0 && offsets[s + 1] - offsets[s] > longest)
            return peft__fail(ctx, PEFT_E_LIMIT,
                              "sequence %lld has %d tokens, more than the %lld that the model has positions for",
                              (long long)s, offsets[s + 1] - offsets[s], (long long)longest);
    }
    if (offsets[sequences] != rows)
        return peft__fail(ctx, PEFT_E_ARG, "%s[%lld] is the number of rows, %lld, found %d", name, (long long)sequences,
                          (long long)rows, offsets[sequences]);
    return PEFT_OK;
}

/* Every element in [low, high), or PEFT_IGNORE_LABEL where `ignore`; high 0: no upper end. Counts what is not ignored.
 */
static peft_status check_range(peft_context *ctx, const char *name, const int32_t *values, int64_t count, int64_t low,
                               int64_t high, bool ignore, int64_t *counted) {
    if (values == NULL) return PEFT_OK;
    for (int64_t i = 0; i < count; i++) {
        const int64_t value = values[i];
        if (ignore && value == PEFT_IGNORE_LABEL) continue;
        if (value < low || (high > 0 && value >= high)) {
            if (high > 0)
                return peft__fail(ctx, PEFT_E_ARG, "%s[%lld] is %lld, expected %lld to %lld%s", name, (long long)i,
                                  (long long)value, (long long)low, (long long)(high - 1), ignore ? " or -100" : "");
            return peft__fail(ctx, PEFT_E_ARG, "%s[%lld] is %lld, expected %lld or more%s", name, (long long)i,
                              (long long)value, (long long)low, ignore ? ", or -100" : "");
        }
        if (counted != NULL) ++*counted;
    }
    return PEFT_OK;
}

static peft_status check_decoder(peft_context *ctx, const peft_batch *b, const peft__batch_limits *limits,
                                 int64_t *counted) {
    if (b->decoder_rows == 0 && b->decoder_sequences == 0) return PEFT_OK;
    PEFT_TRY(check_offsets(ctx, "decoder_offsets", b->decoder_offsets, b->decoder_sequences, b->decoder_rows, 0));
    if (b->decoder_input_ids == NULL) return peft__fail(ctx, PEFT_E_ARG, "peft_batch.decoder_input_ids is missing");
    PEFT_TRY(
        check_range(ctx, "decoder_input_ids", b->decoder_input_ids, b->decoder_rows, 0, limits->vocab, false, NULL));
    PEFT_TRY(check_range(ctx, "decoder_labels", b->decoder_labels, b->decoder_rows, 0, limits->vocab, true, counted));
    PEFT_TRY(check_range(ctx, "decoder_source", b->decoder_source, b->decoder_sequences, 0, b->sequences, false, NULL));
    if (b->decoder_source == NULL && b->decoder_sequences > b->sequences)
        return peft__fail(ctx, PEFT_E_ARG, "%lld decoder sequences read %lld main sequences: decoder_source is needed",
                          (long long)b->decoder_sequences, (long long)b->sequences);
    return PEFT_OK;
}

/* Several answers an example: each has a label on some row, and the right one is among an example's. */
static peft_status check_choices(peft_context *ctx, const peft_batch *b) {
    if (b->sequence_labels == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "the losses of T-Few read which answer is right from sequence_labels");
    if (b->decoder_labels == NULL) return peft__fail(ctx, PEFT_E_ARG, "peft_batch.decoder_labels is missing");
    for (int64_t c = 0; c < b->decoder_sequences; c++) {
        bool any = false;
        for (int32_t r = b->decoder_offsets[c]; r < b->decoder_offsets[c + 1]; r++)
            any = any || b->decoder_labels[r] != PEFT_IGNORE_LABEL;
        if (!any)
            return peft__fail(ctx, PEFT_E_ARG, "answer %lld has no label: all its decoder_labels are -100",
                              (long long)c);
    }
    for (int64_t e = 0; e < b->sequences; e++) {
        int64_t answers = 0;
        for (int64_t c = 0; c < b->decoder_sequences; c++)
            answers += (b->decoder_source != NULL ? b->decoder_source[c] : c) == e;
        if (b->sequence_labels[e] != PEFT_IGNORE_LABEL && b->sequence_labels[e] >= answers)
            return peft__fail(ctx, PEFT_E_ARG, "sequence_labels[%lld] is %d, the example has %lld answers",
                              (long long)e, b->sequence_labels[e], (long long)answers);
    }
    return PEFT_OK;
}

peft_status peft__batch_check(peft_context *ctx, const peft_batch *b, const peft__batch_limits *limits) {
    if (b->flags != 0) return peft__fail(ctx, PEFT_E_ARG, "peft_batch.flags is 0, found %u", b->flags);
    PEFT_TRY(check_offsets(ctx, "offsets", b->offsets, b->sequences, b->rows, limits->positions));
    if (b->input_ids == NULL && b->features == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "the batch has neither input_ids nor features");
    if (b->features != NULL && (b->feature_cols < 1 || b->feature_cols > LARGEST_COLS))
        return peft__fail(ctx, PEFT_E_ARG, "feature_cols is 1 to 2^24, found %lld", (long long)b->feature_cols);
    if (limits->features > 0 && (b->features == NULL || b->feature_cols != limits->features))
        return peft__fail(ctx, PEFT_E_ARG, "the model reads rows of %lld floats (peft_batch.features), the batch has %lld",
                          (long long)limits->features, (long long)(b->features != NULL ? b->feature_cols : 0));
    if (limits->features == 0 && limits->vocab > 0 && b->input_ids == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "the model reads token ids and the batch has no input_ids");
    if (b->sequence_targets != NULL && (b->target_cols < 1 || b->target_cols > LARGEST_COLS))
        return peft__fail(ctx, PEFT_E_ARG, "target_cols is 1 to 2^24, found %lld", (long long)b->target_cols);
    if (limits->labels > 0 && b->sequence_targets != NULL && b->target_cols != limits->labels)
        return peft__fail(ctx, PEFT_E_ARG, "the model has %lld outputs a sequence, target_cols is %lld",
                          (long long)limits->labels, (long long)b->target_cols);
    PEFT_TRY(check_range(ctx, "input_ids", b->input_ids, b->rows, 0, limits->vocab, false, NULL));
    PEFT_TRY(check_range(ctx, "position_ids", b->position_ids, b->rows, 0,
                         limits->positions > 0 ? limits->positions + limits->first_position : 0, false, NULL));
    PEFT_TRY(check_range(ctx, "token_type_ids", b->token_type_ids, b->rows, 0, limits->types, false, NULL));
    PEFT_TRY(check_range(ctx, "prompt_index", b->prompt_index, b->rows, -1, 0, false, NULL));
    PEFT_TRY(check_range(ctx, "adapter_ids", b->adapter_ids, b->sequences, -1, peft__max_i64(limits->adapters, 1),
                         false, NULL));
    for (int64_t s = 0; b->mask_positions != NULL && s < b->sequences; s++) {
        const int32_t length = b->offsets[s + 1] - b->offsets[s];
        if (b->mask_positions[s] < 0 || b->mask_positions[s] >= length)
            return peft__fail(ctx, PEFT_E_ARG, "mask_positions[%lld] is %d in a sequence of %d rows", (long long)s,
                              b->mask_positions[s], length);
    }
    const bool classes = limits->task == PEFT_TASK_TOKEN_CLS || limits->task == PEFT_TASK_QUESTION_ANS;
    int64_t counted = 0;
    PEFT_TRY(
        check_range(ctx, "labels", b->labels, b->rows, 0, classes ? limits->labels : limits->vocab, true, &counted));
    PEFT_TRY(check_range(ctx, "sequence_labels", b->sequence_labels, b->sequences, 0,
                         limits->choices ? peft__max_i64(b->decoder_sequences, 1) : limits->labels, true, &counted));
    PEFT_TRY(check_range(ctx, "start_positions", b->start_positions, b->sequences, 0, limits->positions, true, &counted));
    PEFT_TRY(check_range(ctx, "end_positions", b->end_positions, b->sequences, 0, limits->positions, true, &counted));
    PEFT_TRY(check_decoder(ctx, b, limits, &counted));
    if (limits->choices && limits->need_labels) PEFT_TRY(check_choices(ctx, b));
    if (limits->need_labels && limits->targets && b->sequence_targets == NULL)
        return peft__fail(ctx, PEFT_E_ARG,
                          "the model's problem_type is regression or several labels: the batch needs sequence_targets");
    if (limits->need_labels && counted == 0 && b->sequence_targets == NULL)
        return peft__fail(ctx, PEFT_E_ARG,
                          "the batch has no label: every label is missing or -100, so there is no loss");
    return PEFT_OK;
}

/* ---- copying ---------------------------------------------------------------------------------------------- */

/* The arrays of a batch: where the pointer stands, and elements for each of rows, sequences and so on. Adds up the
 * places. */
typedef struct copy_plan {
    const void *from;
    size_t pointer, bytes;
} copy_plan;

enum { COPIES = 24 };
#define FIELD(name, elements)                                                                                          \
    { b->name, offsetof(peft_batch, name), (size_t)(elements) * sizeof *b->name }

static size_t list_arrays(const peft_batch *b, copy_plan plans[COPIES]) {
    const copy_plan all[] = {
        FIELD(offsets, b->sequences + 1),
        FIELD(input_ids, b->rows),
        FIELD(position_ids, b->rows),
        FIELD(token_type_ids, b->rows),
        FIELD(labels, b->rows),
        FIELD(features, b->rows * b->feature_cols),
        FIELD(sequence_labels, b->sequences),
        FIELD(sequence_targets, b->sequences * b->target_cols),
        FIELD(mask_positions, b->sequences),
        FIELD(adapter_ids, b->sequences),
        FIELD(decoder_offsets, b->decoder_sequences + 1),
        FIELD(decoder_input_ids, b->decoder_rows),
        FIELD(decoder_labels, b->decoder_rows),
        FIELD(decoder_source, b->decoder_sequences),
        FIELD(prompt_index, b->rows),
        FIELD(start_positions, b->sequences),
        FIELD(end_positions, b->sequences),
        FIELD(image_grids, 2 * b->sequences),
    };
    size_t count = 0;
    for (size_t i = 0; i < PEFT_COUNT(all); i++)
        if (all[i].from != NULL) plans[count++] = all[i];
    return count;
}

static size_t rounded(size_t bytes) {
    return (bytes + 63) & ~(size_t)63;
}

/* A larger block; the batch that is there moves with it. */
static peft_status reserve(peft_context *ctx, peft__batch_store *store, size_t size) {
    if (size <= store->size) return PEFT_OK;
    uint8_t *block = peft__alloc(store->mem, size);
    if (block == NULL) return peft__fail_nomem(ctx, size, "the copy of a batch");
    copy_plan plans[COPIES];
    const size_t count = list_arrays(&store->batch, plans);
    if (store->block != NULL) memcpy(block, store->block, store->size);
    for (size_t i = 0; i < count; i++) {
        const void *to = block + ((const uint8_t *)plans[i].from - store->block);
        memcpy((char *)&store->batch + plans[i].pointer, &to, sizeof to);
    }
    peft__free(store->mem, store->block);
    store->block = block;
    store->size = size;
    return PEFT_OK;
}

peft_status peft__batch_store_put(peft_context *ctx, peft__batch_store *store, const peft_batch *batch) {
    copy_plan plans[COPIES];
    const size_t count = list_arrays(batch, plans);
    size_t size = 0;
    for (size_t i = 0; i < count; i++) size += rounded(plans[i].bytes);
    PEFT_TRY(reserve(ctx, store, size));
    store->batch = *batch; /* its arrays lie elsewhere: a batch is never copied onto itself */
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        const void *to = memcpy(store->block + at, plans[i].from, plans[i].bytes);
        memcpy((char *)&store->batch + plans[i].pointer, &to, sizeof to);
        at += rounded(plans[i].bytes);
    }
    return PEFT_OK;
}

peft_status peft__batch_store_reserve(peft_context *ctx, peft__batch_store *store, const peft__capacity *capacity) {
    const size_t row = rounded((size_t)capacity->rows * sizeof(int32_t));
    const size_t sequence = rounded((size_t)(capacity->sequences + 1) * sizeof(int32_t));
    const size_t decoder_row = rounded((size_t)capacity->decoder_rows * sizeof(int32_t));
    const size_t decoder_sequence = rounded((size_t)(capacity->decoder_sequences + 1) * sizeof(int32_t));
    return reserve(ctx, store, 5 * row + 6 * sequence + 2 * decoder_row + 2 * decoder_sequence);
}

void peft__batch_store_free(peft__batch_store *store) {
    peft__free(store->mem, store->block);
    *store = (peft__batch_store){.mem = store->mem};
}
