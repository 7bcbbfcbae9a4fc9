/* batches.c: examples in the order of an epoch as batches, and where a data set stands.
 *
 * A batch is copied into buffers that are as large as the largest batch can be and are taken when the data set is
 * opened: the loop that asks for batches takes no memory. Where the data set stands is (epoch, batch) and nothing else.
 */
#include "data/data.h"

/* ---- room ------------------------------------------------------------------------------------------------------- */

static peft_status grow_targets(peft_context *ctx, float **array, int64_t count) {
    const size_t bytes = (size_t)count * sizeof **array;
    float *grown = peft__realloc(ctx->mem, *array, bytes);
    if (grown == NULL) return peft__fail_nomem(ctx, bytes, "a batch");
    *array = grown;
    return PEFT_OK;
}

peft_status peft__data_grow(peft_context *ctx, int32_t **array, int64_t count) {
    const size_t bytes = (size_t)count * sizeof **array;
    int32_t *grown = peft__realloc(ctx->mem, *array, bytes);
    if (grown == NULL) return peft__fail_nomem(ctx, bytes, "a batch");
    *array = grown;
    return PEFT_OK;
}

/* The same of pictures, all of one size. */
static peft_status reserve_pictures(peft_dataset *dataset, int64_t rows, int64_t sequences) {
    peft_context *ctx = dataset->ctx;
    if (rows <= dataset->rows_capacity && sequences + 1 <= dataset->offsets_capacity) return PEFT_OK;
    if (rows > INT64_MAX / 64 / dataset->feature_cols)
        return peft__fail(ctx, PEFT_E_LIMIT, "a batch of %lld patches is too large", (long long)rows);
    PEFT_TRY(grow_targets(ctx, &dataset->features, rows * dataset->feature_cols));
    PEFT_TRY(peft__data_grow(ctx, &dataset->offsets, sequences + 1));
    PEFT_TRY(peft__data_grow(ctx, &dataset->batch_classes, sequences));
    PEFT_TRY(peft__data_grow(ctx, &dataset->grids, 2 * sequences));
    PEFT_TRY(peft__image_batch_reserve(ctx, &dataset->reader, sequences));
    dataset->rows_capacity = rows;
    dataset->offsets_capacity = sequences + 1;
    return PEFT_OK;
}

/* Buffers for the largest batch that the present examples can give. */
peft_status peft__dataset_reserve(peft_dataset *dataset) {
    const peft__store *store = &dataset->store;
    const int64_t batch = dataset->options.batch_size, packed = batch * dataset->max_length;
    const bool packing = dataset->options.packing != 0;
    const bool choices = store->learns == PEFT__LEARNS_CHOICE;
    int64_t sequences =
        peft__min_i64(packing ? packed / peft__max_i64(store->shortest, 1) : batch, store->example_count);
    int64_t rows = packing ? peft__max_i64(packed, store->longest) : sequences * store->longest;
    int64_t tokens = 0;
    for (int64_t i = 0; i < store->example_count && tokens < rows; i++) tokens += store->examples[i].length;
    rows = peft__max_i64(peft__min_i64(rows, tokens), 1);
    if (dataset->images != NULL) return reserve_pictures(dataset, rows, sequences);
    if (choices && sequences > INT32_MAX / peft__max_i64(store->most_parts, 1))
        return peft__fail(dataset->ctx, PEFT_E_LIMIT, "a batch of %lld questions with up to %lld answers is too large",
                          (long long)sequences, (long long)store->most_parts);
    if (choices) sequences *= peft__max_i64(store->most_parts, 1);
    if (rows > dataset->rows_capacity) {
        PEFT_TRY(peft__data_grow(dataset->ctx, &dataset->rows_ids, rows));
        PEFT_TRY(peft__data_grow(dataset->ctx, &dataset->rows_labels, rows));
        if (store->typed) PEFT_TRY(peft__data_grow(dataset->ctx, &dataset->rows_types, rows));
        if (store->layout != NULL) PEFT_TRY(peft__data_grow(dataset->ctx, &dataset->batch_prompts, rows));
        if (store->learns == PEFT__LEARNS_ANSWER || (store->learns == PEFT__LEARNS_CHOICE && store->apart)) {
            PEFT_TRY(peft__data_grow(dataset->ctx, &dataset->answer_ids, rows));
            PEFT_TRY(peft__data_grow(dataset->ctx, &dataset->answer_labels, rows));
        }
        dataset->rows_capacity = rows;
    }
    if (sequences + 1 > dataset->offsets_capacity) {
        PEFT_TRY(peft__data_grow(dataset->ctx, &dataset->offsets, sequences + 1));
        if (store->learns == PEFT__LEARNS_CLASS || choices)
            PEFT_TRY(peft__data_grow(dataset->ctx, &dataset->batch_classes, sequences));
        if (choices) PEFT_TRY(peft__data_grow(dataset->ctx, &dataset->answer_source, sequences + 1));
        if (store->learns == PEFT__LEARNS_ANSWER || choices)
            PEFT_TRY(peft__data_grow(dataset->ctx, &dataset->answer_offsets, sequences + 1));
        if (store->layout != NULL) PEFT_TRY(peft__data_grow(dataset->ctx, &dataset->batch_masks, sequences));
        if (store->learns == PEFT__LEARNS_SPAN)
            PEFT_TRY(peft__data_grow(dataset->ctx, &dataset->batch_spans, 2 * (sequences + 1)));
        if (store->embeds) PEFT_TRY(grow_targets(dataset->ctx, &dataset->batch_targets, sequences));
        if (store->learns == PEFT__LEARNS_TARGETS)
            PEFT_TRY(grow_targets(dataset->ctx, &dataset->batch_targets, sequences * store->target_cols));
        dataset->offsets_capacity = sequences + 1;
    }
    return PEFT_OK;
}

/* The order of the present epoch. The arrays were reserved when examples came in: this cannot fail. */
void peft__dataset_prepare(peft_dataset *dataset) {
    if (dataset->prepared || dataset->store.example_count == 0) return;
    peft__order_prepare(&dataset->order, &dataset->store, &dataset->options, dataset->max_length, dataset->epoch);
    dataset->prepared = true;
}

/* ---- batches ------------------------------------------------------------------------------------------------ */

/* Pictures first .. end - 1 of the epoch's order as a batch. */
static peft_status put_pictures(peft_dataset *dataset, int32_t first, int32_t end, peft_batch *batch) {
    const peft_dataset_options *o = &dataset->options;
    peft_image_augment augment;
    peft_image_augment_init(&augment);
    augment.flip = o->image_flip;
    augment.random_resized_crop = o->image_crop;
    const bool changed = o->image_flip > 0.0f || o->image_crop != 0;
    int64_t rows = 0;
    for (int32_t i = 0; i < end - first; i++) {
        const int32_t example = dataset->order.order[first + i];
        const uint64_t stream[] = {dataset->epoch, (uint64_t)example};
        dataset->reader.tasks[i] = (peft__image_task){.picture = dataset->image_of[example],
                                                      .seed = peft__hash64(stream, sizeof stream, o->seed),
                                                      .out = dataset->features + rows * dataset->feature_cols};
        dataset->offsets[i] = (int32_t)rows;
        rows += peft__images_patches(dataset->images, NULL, dataset->grids + 2 * i);
    }
    dataset->offsets[end - first] = (int32_t)rows;
    PEFT_TRY(peft__image_batch_read(dataset->ctx, &dataset->reader, dataset->images, changed ? &augment : NULL,
                                    end - first));
    *batch = (peft_batch){.struct_size = (uint32_t)sizeof *batch,
                          .rows = rows,
                          .sequences = end - first,
                          .offsets = dataset->offsets,
                          .features = dataset->features,
                          .feature_cols = dataset->feature_cols,
                          .image_grids = dataset->grids};
    return PEFT_OK;
}

/* Copies example number `index` to row `at` of the batch. */
static void put_example(peft_dataset *dataset, int32_t index, int64_t at) {
    const peft__example *example = &dataset->store.examples[index];
    const size_t bytes = (size_t)example->length * sizeof(int32_t);
    memcpy(dataset->rows_ids + at, dataset->store.ids + example->first, bytes);
    memcpy(dataset->rows_labels + at, dataset->store.labels + example->first, bytes);
    for (int32_t i = 0; i < example->context; i++) dataset->rows_labels[at + i] = PEFT_IGNORE_LABEL;
    if (dataset->store.typed) memcpy(dataset->rows_types + at, dataset->store.types + example->first, bytes);
    if (dataset->store.layout != NULL)
        memcpy(dataset->batch_prompts + at, dataset->store.prompts + example->first, bytes);
    if (dataset->store.learns == PEFT__LEARNS_HIDDEN && dataset->options.unlabelled == 0)
        peft__mask_example(&dataset->masking, dataset->options.seed, dataset->epoch, (uint64_t)index,
                           dataset->rows_ids + at, dataset->rows_labels + at, example->length);
}

/* What belongs to whole examples, and which of the arrays of labels the batch shows. */
static void put_wholes(peft_dataset *dataset, int32_t first, int64_t sequences, peft_batch *batch) {
    const peft__store *store = &dataset->store;
    if (store->typed) batch->token_type_ids = dataset->rows_types;
    if (store->learns == PEFT__LEARNS_SPAN) {
        int32_t *ends = dataset->batch_spans + dataset->offsets_capacity;
        for (int64_t i = 0; i < sequences; i++) {
            const int64_t index = dataset->order.order[first + i];
            dataset->batch_spans[i] = store->spans[2 * index];
            ends[i] = store->spans[2 * index + 1];
        }
        batch->start_positions = dataset->batch_spans;
        batch->end_positions = ends;
        return;
    }
    if (store->learns != PEFT__LEARNS_CLASS && store->learns != PEFT__LEARNS_TARGETS) {
        batch->labels = dataset->rows_labels;
        return;
    }
    const int64_t cols = store->target_cols;
    if (store->layout != NULL) {
        batch->prompt_index = dataset->batch_prompts;
        batch->mask_positions = dataset->batch_masks;
    }
    for (int64_t i = 0; i < sequences; i++) {
        const int64_t index = dataset->order.order[first + i];
        if (store->layout != NULL) dataset->batch_masks[i] = store->masks[index];
        if (store->learns == PEFT__LEARNS_CLASS)
            dataset->batch_classes[i] = store->classes[index];
        else
            memcpy(dataset->batch_targets + i * cols, store->targets + index * cols, (size_t)cols * sizeof(float));
    }
    if (store->learns == PEFT__LEARNS_CLASS) {
        batch->sequence_labels = dataset->batch_classes;
    } else if (dataset->options.unlabelled == 0) {
        batch->sequence_targets = dataset->batch_targets;
        batch->target_cols = cols;
    }
}

/* A batch of two streams: questions, and answers shifted right by one. */
static void put_answers(peft_dataset *dataset, int32_t first, int32_t sequences, peft_batch *batch) {
    const peft__store *store = &dataset->store;
    int64_t rows = 0, said = 0;
    for (int32_t i = 0; i < sequences; i++) {
        const peft__example *example = &store->examples[dataset->order.order[first + i]];
        const int32_t *ids = store->ids + example->first, question = example->context;
        dataset->offsets[i] = (int32_t)rows;
        dataset->answer_offsets[i] = (int32_t)said;
        memcpy(dataset->rows_ids + rows, ids, (size_t)question * sizeof *ids);
        for (int32_t t = question; t < example->length; t++) {
            dataset->answer_ids[said] = t == question ? dataset->decoder_start : ids[t - 1];
            dataset->answer_labels[said++] = store->labels[example->first + t];
        }
        rows += question;
    }
    dataset->offsets[sequences] = (int32_t)rows;
    dataset->answer_offsets[sequences] = (int32_t)said;
    *batch = (peft_batch){.struct_size = (uint32_t)sizeof *batch,
                          .rows = rows,
                          .sequences = sequences,
                          .offsets = dataset->offsets,
                          .input_ids = dataset->rows_ids,
                          .decoder_rows = said,
                          .decoder_sequences = sequences,
                          .decoder_offsets = dataset->answer_offsets,
                          .decoder_input_ids = dataset->answer_ids,
                          .decoder_labels = dataset->answer_labels};
}

peft_status peft_dataset_next(peft_dataset *dataset, peft_batch *out_batch) {
    if (dataset == NULL) return PEFT_E_ARG;
    if (out_batch == NULL) return peft__fail(dataset->ctx, PEFT_E_ARG, "peft_dataset_next() takes out_batch");
    if (dataset->store.example_count == 0)
        return peft__fail(dataset->ctx, PEFT_E_STATE, "the data set has no examples: add some first");
    PEFT_TRY(peft__dataset_reserve(dataset)); /* takes nothing unless examples were added */
    peft__dataset_prepare(dataset);
    if (dataset->batch >= (uint64_t)dataset->order.batches) {
        dataset->epoch++;
        dataset->batch = 0;
        dataset->prepared = false;
        return PEFT_END;
    }
    const int32_t first = dataset->order.first[dataset->batch], end = dataset->order.first[dataset->batch + 1];
    if (dataset->store.learns == PEFT__LEARNS_CHOICE) {
        peft__choices_put_batch(dataset, first, end - first, out_batch);
        if (dataset->store.embeds) peft__pairs_put_scores(dataset, first, out_batch);
        dataset->batch++;
        return PEFT_OK;
    }
    if (dataset->store.learns == PEFT__LEARNS_ANSWER) {
        put_answers(dataset, first, end - first, out_batch);
        dataset->batch++;
        return PEFT_OK;
    }
    if (dataset->images != NULL) {
        PEFT_TRY(put_pictures(dataset, first, end, out_batch));
        put_wholes(dataset, first, end - first, out_batch);
        dataset->batch++;
        return PEFT_OK;
    }
    int64_t rows = 0;
    for (int32_t i = first; i < end; i++) {
        dataset->offsets[i - first] = (int32_t)rows;
        put_example(dataset, dataset->order.order[i], rows);
        rows += dataset->store.examples[dataset->order.order[i]].length;
    }
    dataset->offsets[end - first] = (int32_t)rows;
    dataset->batch++;
    *out_batch = (peft_batch){.struct_size = (uint32_t)sizeof *out_batch,
                              .rows = rows,
                              .sequences = end - first,
                              .offsets = dataset->offsets,
                              .input_ids = dataset->rows_ids};
    put_wholes(dataset, first, end - first, out_batch);
    return PEFT_OK;
}

void peft_dataset_position(const peft_dataset *dataset, uint64_t *out_epoch, uint64_t *out_batch) {
    if (out_epoch != NULL) *out_epoch = dataset != NULL ? dataset->epoch : 0;
    if (out_batch != NULL) *out_batch = dataset != NULL ? dataset->batch : 0;
}

peft_status peft_dataset_seek(peft_dataset *dataset, uint64_t epoch, uint64_t batch) {
    if (dataset == NULL) return PEFT_E_ARG;
    const uint64_t before = dataset->epoch;
    if (epoch != dataset->epoch) dataset->prepared = false;
    dataset->epoch = epoch;
    peft__dataset_prepare(dataset);
    const int64_t batches = dataset->order.batches;
    if (batch > (uint64_t)batches) {
        dataset->epoch = before;
        dataset->prepared = dataset->prepared && epoch == before;
        return peft__fail(dataset->ctx, PEFT_E_ARG, "epoch %llu has %lld batches, found %llu",
                          (unsigned long long)epoch, (long long)batches, (unsigned long long)batch);
    }
    dataset->batch = batch;
    return PEFT_OK;
}
