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

/* sequence_labels are one each. */
static int64_t question_count(const peft_batch *b) {
    return b->questions > 0 ? b->questions : b->sequences;
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

/* Answers to questions: every question has some, one after another. */
static peft_status check_questions(peft_context *ctx, const peft_batch *b) {
    if (b->questions == 0 && b->choice_offsets == NULL) return PEFT_OK;
    if (b->questions < 1 || b->questions > b->sequences || b->choice_offsets == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "questions and choice_offsets are given together, found %lld questions%s",
                          (long long)b->questions, b->choice_offsets == NULL ? " and no choice_offsets" : "");
    if (b->decoder_sequences > 0)
        return peft__fail(ctx, PEFT_E_ARG, "choice_offsets are for models without an encoder: decoder_source says "
                                           "which question a decoder sequence answers");
    const int32_t *first = b->choice_offsets;
    for (int64_t q = 0; q < b->questions; q++)
        if (first[q + 1] <= first[q] || first[q + 1] > b->sequences || first[0] != 0)
            return peft__fail(ctx, PEFT_E_ARG,
                              "choice_offsets rise strictly from 0 to %lld sequences, found %d and %d at question %lld",
                              (long long)b->sequences, first[q], first[q + 1], (long long)q);
    if (first[b->questions] != b->sequences)
        return peft__fail(ctx, PEFT_E_ARG, "choice_offsets[%lld] is the number of sequences, %lld, found %d",
                          (long long)b->questions, (long long)b->sequences, first[b->questions]);
    return PEFT_OK;
}

/* Does a sequence have a label that is learnt? A stream that is shifted learns from the second on. */
static bool any_label(const int32_t *labels, int32_t first, int32_t end) {
    for (int32_t r = first; r < end; r++)
        if (labels[r] != PEFT_IGNORE_LABEL) return true;
    return false;
}

/* Several answers a question: each has a label on some row, and the right one is among a question's. */
peft_status peft__batch_check_choices(peft_context *ctx, const peft_batch *b, bool need_right) {
    const bool decoder = b->decoder_sequences > 0;
    const int32_t *labels = decoder ? b->decoder_labels : b->labels;
    const int32_t *offsets = decoder ? b->decoder_offsets : b->offsets;
    const int64_t answers = decoder ? b->decoder_sequences : b->sequences, questions = question_count(b);
    if (!decoder && b->questions == 0)
        return peft__fail(ctx, PEFT_E_ARG, "answers to choose among need peft_batch.choice_offsets");
    if (need_right && b->sequence_labels == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "the losses of T-Few read which answer is right from sequence_labels");
    if (labels == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "peft_batch.%s is missing", decoder ? "decoder_labels" : "labels");
    for (int64_t c = 0; c < answers; c++)
        if (!any_label(labels, offsets[c] + (decoder ? 0 : 1), offsets[c + 1]))
            return peft__fail(ctx, PEFT_E_ARG, "answer %lld has no label: all its %s are -100", (long long)c,
                              decoder ? "decoder_labels" : "labels after the first");
    for (int64_t q = 0; q < questions && b->sequence_labels != NULL; q++) {
        int64_t own = decoder ? 0 : b->choice_offsets[q + 1] - b->choice_offsets[q];
        for (int64_t c = 0; decoder && c < answers; c++)
            own += (b->decoder_source != NULL ? b->decoder_source[c] : c) == q;
        if (b->sequence_labels[q] != PEFT_IGNORE_LABEL && (b->sequence_labels[q] < 0 || b->sequence_labels[q] >= own))
            return peft__fail(ctx, PEFT_E_ARG, "sequence_labels[%lld] is %d, the question has %lld answers",
                              (long long)q, b->sequence_labels[q], (long long)own);
    }
    return PEFT_OK;
}

/* Multiple choice: the right answer is among those of its question. */
static peft_status check_right(peft_context *ctx, const peft_batch *b) {
    if (b->questions == 0 || b->sequence_labels == NULL)
        return peft__fail(
            ctx, PEFT_E_ARG,
            "multiple choice needs peft_batch.choice_offsets, and which answer is right in sequence_labels");
    for (int64_t q = 0; q < b->questions; q++) {
        const int32_t right = b->sequence_labels[q], own = b->choice_offsets[q + 1] - b->choice_offsets[q];
        if (right != PEFT_IGNORE_LABEL && (right < 0 || right >= own))
            return peft__fail(ctx, PEFT_E_ARG, "sequence_labels[%lld] is %d, the question has %d answers", (long long)q,
                              right, own);
    }
    return PEFT_OK;
}

/* Texts that belong together: every group has two or more. */
static peft_status check_groups(peft_context *ctx, const peft_batch *b) {
    if (b->questions == 0)
        return peft__fail(
            ctx, PEFT_E_ARG,
            "embeddings learn from groups of texts: the batch needs choice_offsets, or use PEFT_LOSS_HOST");
    for (int64_t q = 0; q < b->questions; q++)
        if (b->choice_offsets[q + 1] - b->choice_offsets[q] < 2)
            return peft__fail(ctx, PEFT_E_ARG, "group %lld has one text, needed are the one that belongs to it too",
                              (long long)q);
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
        return peft__fail(ctx, PEFT_E_ARG,
                          "the model reads rows of %lld floats (peft_batch.features), the batch has %lld",
                          (long long)limits->features, (long long)(b->features != NULL ? b->feature_cols : 0));
    if (limits->features == 0 && limits->vocab > 0 && b->input_ids == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "the model reads token ids and the batch has no input_ids");
    if (b->sequence_targets != NULL && (b->target_cols < 1 || b->target_cols > LARGEST_COLS))
        return peft__fail(ctx, PEFT_E_ARG, "target_cols is 1 to 2^24, found %lld", (long long)b->target_cols);
    const bool features = limits->task == PEFT_TASK_FEATURE_EXTRACTION; /* has no outputs of its own */
    if (limits->labels > 0 && !features && b->sequence_targets != NULL && b->target_cols != limits->labels)
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
    PEFT_TRY(check_questions(ctx, b));
    /* Numbers of answers are checked with the answers. */
    const bool numbers = limits->choices || b->questions > 0 || limits->task == PEFT_TASK_SEQ_2_SEQ_LM;
    PEFT_TRY(check_range(ctx, "sequence_labels", b->sequence_labels, question_count(b), 0,
                         numbers ? peft__max_i64(b->decoder_sequences + b->sequences, 1) : limits->labels, true,
                         &counted));
    PEFT_TRY(
        check_range(ctx, "start_positions", b->start_positions, b->sequences, 0, limits->positions, true, &counted));
    PEFT_TRY(check_range(ctx, "end_positions", b->end_positions, b->sequences, 0, limits->positions, true, &counted));
    PEFT_TRY(check_decoder(ctx, b, limits, &counted));
    if (limits->choices && limits->need_labels) PEFT_TRY(peft__batch_check_choices(ctx, b, true));
    if (limits->task == PEFT_TASK_MULTIPLE_CHOICE && limits->need_labels) PEFT_TRY(check_right(ctx, b));
    if (limits->need_labels && limits->targets && b->sequence_targets == NULL)
        return peft__fail(ctx, PEFT_E_ARG,
                          "the model's problem_type is regression or several labels: the batch needs sequence_targets");
    if (features && limits->need_labels) return check_groups(ctx, b);
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
        FIELD(sequence_labels, question_count(b)),
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
        FIELD(choice_offsets, b->questions + 1),
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
    return reserve(ctx, store, 5 * row + 7 * sequence + 2 * decoder_row + 2 * decoder_sequence);
}

void peft__batch_store_free(peft__batch_store *store) {
    peft__free(store->mem, store->block);
    *store = (peft__batch_store){.mem = store->mem};
}
