/* dataset.c: the public face of data sets: options, opening, batches, position.
 *
 * A batch is copied into buffers that are as large as the largest batch can be and are taken when the data set is
 * opened: the loop that asks for batches takes no memory. Where the data set stands is (epoch, batch) and nothing else.
 */
#include "data/data.h"

#include <math.h>

#include "model/model.h"

enum { DEFAULT_LENGTH = 1024 };

void peft_dataset_options_init_sized(peft_dataset_options *options, uint32_t size) {
    if (options == NULL || size < sizeof options->struct_size) return;
    const peft_dataset_options defaults = {.struct_size = size, .batch_size = 1, .shuffle = 1};
    memset(options, 0, size);
    memcpy(options, &defaults, peft__min_size(size, sizeof defaults));
}

/* ---- options ---------------------------------------------------------------------------------------------------- */

static peft_status check_options(peft_context *ctx, const peft_dataset_options *o, int64_t max_length,
                                 int64_t positions) {
    if (o->format < PEFT_DATA_AUTO || o->format > PEFT_DATA_PAIRS)
        return peft__fail(ctx, PEFT_E_ARG, "peft_dataset_options.format is 0 to %d, found %d", PEFT_DATA_PAIRS,
                          o->format);
    if (max_length < 2 || max_length > INT32_MAX)
        return peft__fail(ctx, PEFT_E_ARG, "max_length is at least 2 (one token to read and one to learn), found %lld",
                          (long long)max_length);
    if (positions > 0 && max_length > positions)
        return peft__fail(ctx, PEFT_E_ARG, "max_length %lld is more than the model's max_position_embeddings (%lld)",
                          (long long)max_length, (long long)positions);
    if (o->stride < 0 || o->stride > max_length)
        return peft__fail(ctx, PEFT_E_ARG, "stride is 0 to max_length (%lld), found %lld", (long long)max_length,
                          (long long)o->stride);
    if (o->batch_size < 1 || o->batch_size > INT32_MAX / max_length)
        return peft__fail(ctx, PEFT_E_ARG, "batch_size is 1 to %lld at max_length %lld, found %lld",
                          (long long)(INT32_MAX / max_length), (long long)max_length, (long long)o->batch_size);
    if (o->eos < PEFT_EOS_AUTO || o->eos > PEFT_EOS_ALWAYS)
        return peft__fail(ctx, PEFT_E_ARG, "eos is 0, 1 or 2, found %d", o->eos);
    if (o->on_bad_row < PEFT_BAD_ROW_ERROR || o->on_bad_row > PEFT_BAD_ROW_SKIP)
        return peft__fail(ctx, PEFT_E_ARG, "on_bad_row is 0 or 1, found %d", o->on_bad_row);
    if (o->part < PEFT_PART_ALL || o->part > PEFT_PART_VALIDATION)
        return peft__fail(ctx, PEFT_E_ARG, "part is 0, 1 or 2, found %d", o->part);
    if (!(o->validation_fraction >= 0.0 && o->validation_fraction <= 1.0))
        return peft__fail(ctx, PEFT_E_ARG, "validation_fraction is 0 to 1, found %g", o->validation_fraction);
    if (o->truncation < PEFT_TRUNCATE_NONE || o->truncation > PEFT_TRUNCATE_ONLY_SECOND)
        return peft__fail(ctx, PEFT_E_ARG, "truncation is 0 to 3, found %d", o->truncation);
    if (!(o->mask_probability >= 0.0f && o->mask_probability <= 1.0f))
        return peft__fail(ctx, PEFT_E_ARG, "mask_probability is 0 to 1, found %g", (double)o->mask_probability);
    if (o->max_examples < 0)
        return peft__fail(ctx, PEFT_E_ARG, "max_examples is 0 (all) or more, found %lld", (long long)o->max_examples);
    return PEFT_OK;
}

static peft_status keep_text(peft_dataset *dataset, const char **text) {
    if (*text == NULL || (*text)[0] == '\0') {
        *text = NULL;
        return PEFT_OK;
    }
    *text = peft__arena_strdup(&dataset->texts, *text);
    return *text != NULL ? PEFT_OK : peft__fail_nomem(dataset->ctx, 64, "the options of a data set");
}

static peft_status keep_verbalizers(peft_dataset *dataset) {
    peft_dataset_options *own = &dataset->options;
    const uint32_t count = own->verbalizer_count;
    if (count == 0) return PEFT_OK;
    if (own->format != PEFT_DATA_CHOICES)
        return peft__fail(dataset->ctx, PEFT_E_ARG, "verbalizers are for data of the form choices, found %s",
                          peft__data_format_name(own->format));
    if (own->verbalizers == NULL || count < 2 || count > 1024)
        return peft__fail(dataset->ctx, PEFT_E_ARG, "verbalizers are 2 to 1024 texts, found %u", count);
    const char **kept = peft__arena_alloc(&dataset->texts, count * sizeof *kept);
    if (kept == NULL) return peft__fail_nomem(dataset->ctx, count * sizeof *kept, "verbalizers");
    for (uint32_t i = 0; i < count; i++) {
        kept[i] = own->verbalizers[i] != NULL ? peft__arena_strdup(&dataset->texts, own->verbalizers[i]) : NULL;
        if (own->verbalizers[i] == NULL)
            return peft__fail(dataset->ctx, PEFT_E_ARG, "verbalizers[%u] is missing", i);
        if (kept[i] == NULL) return peft__fail_nomem(dataset->ctx, 64, "verbalizers");
    }
    own->verbalizers = kept;
    return PEFT_OK;
}

/* What rows mean when the host does not say: what the model's task asks for. */
static int32_t format_for(const peft__data_base *base) {
    const char *problem = json_string_value(json_object_get(base->config, "problem_type"));
    switch (base->task) {
    case PEFT_TASK_SEQ_CLS:
        if (problem == NULL) return base->outputs == 1 ? PEFT_DATA_REGRESSION : PEFT_DATA_CLASSIFICATION;
        if (strcmp(problem, "regression") == 0) return PEFT_DATA_REGRESSION;
        return strcmp(problem, "multi_label_classification") == 0 ? PEFT_DATA_MULTI_LABEL : PEFT_DATA_CLASSIFICATION;
    case PEFT_TASK_TOKEN_CLS:
        return PEFT_DATA_TOKEN_CLS;
    case PEFT_TASK_QUESTION_ANS:
        return PEFT_DATA_QUESTION_ANS;
    case PEFT_TASK_MULTIPLE_CHOICE:
        return PEFT_DATA_CHOICES;
    case PEFT_TASK_FEATURE_EXTRACTION:
        return PEFT_DATA_PAIRS;
    case PEFT_TASK_MASKED_LM:
        return PEFT_DATA_MASKED_LM;
    case PEFT_TASK_IMAGE_CLS:
        return PEFT_DATA_IMAGES;
    default:
        return PEFT_DATA_AUTO;
    }
}

/* Does a session of the task compute something from such rows? */
static bool serves(int32_t format, int32_t task) {
    switch (task) {
    case PEFT_TASK_AUTO:
        return format != PEFT_DATA_IMAGES; /* no model */
    case PEFT_TASK_CAUSAL_LM:
        return format <= PEFT_DATA_MESSAGES || format == PEFT_DATA_CHOICES;
    case PEFT_TASK_SEQ_2_SEQ_LM:
        return format == PEFT_DATA_AUTO || format == PEFT_DATA_PROMPT_COMPLETION || format == PEFT_DATA_ALPACA ||
               format == PEFT_DATA_MESSAGES || format == PEFT_DATA_CHOICES;
    case PEFT_TASK_SEQ_CLS:
        return format >= PEFT_DATA_CLASSIFICATION && format <= PEFT_DATA_MULTI_LABEL;
    case PEFT_TASK_TOKEN_CLS:
        return format == PEFT_DATA_TOKEN_CLS;
    case PEFT_TASK_QUESTION_ANS:
        return format == PEFT_DATA_QUESTION_ANS;
    case PEFT_TASK_MULTIPLE_CHOICE:
        return format == PEFT_DATA_CHOICES;
    case PEFT_TASK_MASKED_LM:
        return format == PEFT_DATA_MASKED_LM || format == PEFT_DATA_CLASSIFICATION; /* cloze methods read classes */
    case PEFT_TASK_FEATURE_EXTRACTION:
        return format == PEFT_DATA_CLASSIFICATION || format == PEFT_DATA_REGRESSION ||
               format == PEFT_DATA_MULTI_LABEL || format == PEFT_DATA_PAIRS;
    case PEFT_TASK_IMAGE_CLS:
        return format == PEFT_DATA_IMAGES;
    default:
        return false;
    }
}

static peft_status set_up_format(peft_dataset *dataset, const peft__data_base *base) {
    peft_context *ctx = dataset->ctx;
    peft_dataset_options *own = &dataset->options;
    if (own->format == PEFT_DATA_AUTO) own->format = format_for(base);
    /* Texts alone get embeddings. */
    if (own->format == PEFT_DATA_PAIRS && base->task == PEFT_TASK_FEATURE_EXTRACTION && own->unlabelled != 0)
        own->format = PEFT_DATA_CLASSIFICATION;
    if (!serves(own->format, base->task))
        return peft__fail(
            ctx, PEFT_E_UNSUPPORTED,
            "data of the form %s is not what the model's task (%d) learns from: load the model for another task",
            peft__data_format_name(own->format), base->task);
    dataset->store.learns = own->format == PEFT_DATA_IMAGES ? PEFT__LEARNS_CLASS : peft__learns_of(own->format);
    dataset->store.apart = base->task == PEFT_TASK_SEQ_2_SEQ_LM;
    dataset->store.embeds = own->format == PEFT_DATA_PAIRS;
    if (base->task == PEFT_TASK_MULTIPLE_CHOICE || dataset->store.embeds)
        own->right_only = 0; /* these learn from the others too */
    dataset->store.pairs = base->task == PEFT_TASK_MULTIPLE_CHOICE;
    if (dataset->store.apart && own->format != PEFT_DATA_CHOICES) dataset->store.learns = PEFT__LEARNS_ANSWER;
    dataset->store.typed =
        base->types > 1 && (peft__is_labelled(own->format) || own->format == PEFT_DATA_QUESTION_ANS ||
                            dataset->store.pairs || dataset->store.embeds);
    dataset->store.worded = own->format == PEFT_DATA_TOKEN_CLS;
    dataset->store.keeps_rows = own->unlabelled != 0 && own->format != PEFT_DATA_IMAGES;
    if (own->format == PEFT_DATA_MASKED_LM) {
        const int32_t mask = base->tokenizer != NULL ? peft__special_id(base->tokenizer, PEFT_SPECIAL_MASK) : -1;
        if (mask < 0)
            return peft__fail(ctx, PEFT_E_MISMATCH, "masked language modelling needs a tokenizer with a mask token");
        const int64_t known = peft__tokenizer_size(base->tokenizer);
        dataset->masking =
            (peft__masking){.probability = own->mask_probability > 0.0f ? own->mask_probability : 0.15f,
                            .mask_id = mask,
                            .vocab = (int32_t)(base->vocab > 0 ? peft__min_i64(base->vocab, known) : known)};
    }
    const bool classes = peft__is_labelled(own->format) || own->format == PEFT_DATA_IMAGES ||
                         (own->format == PEFT_DATA_CHOICES && own->verbalizer_count > 0);
    if (!classes) return PEFT_OK;
    /* Classes of a cloze task or of the host's own loss are not outputs of the model. */
    const bool head = base->task == PEFT_TASK_SEQ_CLS || base->task == PEFT_TASK_TOKEN_CLS ||
                      base->task == PEFT_TASK_IMAGE_CLS || base->task == PEFT_TASK_AUTO;
    /* But where the host named them for the model, that is their order. */
    const char *name = json_string_value(json_object_get(json_object_get(base->config, "id2label"), "0"));
    const bool cloze = base->task == PEFT_TASK_MASKED_LM && name != NULL && strcmp(name, "LABEL_0") != 0;
    return peft__labels_begin(ctx, &dataset->labels, own, head || cloze ? base->config : NULL,
                              head || cloze ? base->outputs : 0);
}

static peft_status set_up(peft_dataset *dataset, const peft__data_base *base, const peft_dataset_options *options) {
    peft_context *ctx = dataset->ctx;
    peft_dataset_options *own = &dataset->options;
    peft_dataset_options_init(own);
    PEFT_TRY(peft__options_copy(ctx, own, sizeof *own, options, offsetof(peft_dataset_options, label_key),
                                "peft_dataset_options"));
    dataset->task = base->task;
    dataset->decoder_start = base->decoder_start;
    dataset->vocab = base->vocab;
    dataset->positions = base->positions;
    dataset->max_length = own->max_length;
    if (own->max_length == 0)
        dataset->max_length = base->positions > 0 ? peft__min_i64(DEFAULT_LENGTH, base->positions) : DEFAULT_LENGTH;
    PEFT_TRY(check_options(ctx, own, dataset->max_length, base->positions));
    PEFT_TRY(keep_text(dataset, &own->chat_template));
    PEFT_TRY(keep_text(dataset, &own->text_key));
    PEFT_TRY(keep_text(dataset, &own->prompt_key));
    PEFT_TRY(keep_text(dataset, &own->completion_key));
    PEFT_TRY(keep_text(dataset, &own->label_key));
    PEFT_TRY(keep_text(dataset, &own->text_pair_key));
    PEFT_TRY(keep_text(dataset, &own->input_template));
    PEFT_TRY(keep_text(dataset, &own->choices_key));
    PEFT_TRY(keep_text(dataset, &own->layout));
    PEFT_TRY(keep_verbalizers(dataset));
    PEFT_TRY(set_up_format(dataset, base));
    if (own->layout != NULL) {
        if (own->format != PEFT_DATA_CLASSIFICATION)
            return peft__fail(ctx, PEFT_E_UNSUPPORTED, "WARP's layout is for rows of the form classification, found %s",
                              peft__data_format_name(own->format));
        if (base->tokenizer != NULL) /* else only classes are read */
            PEFT_TRY(peft__layout_make(ctx, base->tokenizer, own->layout, &dataset->texts, &dataset->store.layout));
    }
    own->label_names = NULL; /* copied into the labels */
    own->label_name_count = 0;
    if (base->tokenizer != NULL) dataset->tokenizer = peft__tokenizer_ref((peft_tokenizer *)base->tokenizer);
    return PEFT_OK;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static peft_status make(peft_context *ctx, const peft__data_base *base, const peft_dataset_options *options,
                        peft_dataset **out_dataset) {
    peft_dataset *dataset = peft__alloc_zero(ctx->mem, sizeof *dataset);
    if (dataset == NULL) return peft__fail_nomem(ctx, sizeof *dataset, "a data set");
    dataset->ctx = peft__context_ref(ctx);
    peft__arena_init(&dataset->texts, ctx->mem);
    peft__store_init(&dataset->store, ctx->mem);
    peft__order_init(&dataset->order, ctx->mem);
    peft__labels_init(&dataset->labels, ctx->mem);
    peft__buffer_init(&dataset->report, ctx->mem);
    const peft_status status = set_up(dataset, base, options);
    if (status < 0) {
        peft_dataset_destroy(dataset);
        return status;
    }
    *out_dataset = dataset;
    return PEFT_OK;
}

void peft_dataset_destroy(peft_dataset *dataset) {
    if (dataset == NULL) return;
    peft_context *ctx = dataset->ctx;
    peft__tokenizer_unref(dataset->tokenizer);
    peft__store_free(&dataset->store);
    peft__order_free(&dataset->order);
    peft__buffer_free(&dataset->report);
    peft__arena_free(&dataset->texts);
    peft__free(ctx->mem, dataset->rows_ids);
    peft__free(ctx->mem, dataset->rows_labels);
    peft__free(ctx->mem, dataset->rows_types);
    peft__free(ctx->mem, dataset->offsets);
    peft__free(ctx->mem, dataset->batch_classes);
    peft__free(ctx->mem, dataset->batch_targets);
    peft__free(ctx->mem, dataset->batch_spans);
    peft__free(ctx->mem, dataset->batch_prompts);
    peft__free(ctx->mem, dataset->batch_masks);
    peft__free(ctx->mem, dataset->answer_ids);
    peft__free(ctx->mem, dataset->answer_labels);
    peft__free(ctx->mem, dataset->answer_offsets);
    peft__free(ctx->mem, dataset->answer_source);
    peft__free(ctx->mem, dataset->image_of);
    peft__free(ctx->mem, dataset->features);
    peft__free(ctx->mem, dataset->grids);
    peft__image_batch_free(ctx, &dataset->reader);
    peft__images_free(dataset->images);
    peft__labels_free(&dataset->labels);
    peft__free(ctx->mem, dataset);
    peft__context_unref(ctx);
}

static peft_status grow_targets(peft_context *ctx, float **array, int64_t count) {
    const size_t bytes = (size_t)count * sizeof **array;
    float *grown = peft__realloc(ctx->mem, *array, bytes);
    if (grown == NULL) return peft__fail_nomem(ctx, bytes, "a batch");
    *array = grown;
    return PEFT_OK;
}

static peft_status grow_rows(peft_context *ctx, int32_t **array, int64_t count) {
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
    PEFT_TRY(grow_rows(ctx, &dataset->offsets, sequences + 1));
    PEFT_TRY(grow_rows(ctx, &dataset->batch_classes, sequences));
    PEFT_TRY(grow_rows(ctx, &dataset->grids, 2 * sequences));
    PEFT_TRY(peft__image_batch_reserve(ctx, &dataset->reader, sequences));
    dataset->rows_capacity = rows;
    dataset->offsets_capacity = sequences + 1;
    return PEFT_OK;
}

/* Buffers for the largest batch that the present examples can give. */
static peft_status reserve_batch(peft_dataset *dataset) {
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
        PEFT_TRY(grow_rows(dataset->ctx, &dataset->rows_ids, rows));
        PEFT_TRY(grow_rows(dataset->ctx, &dataset->rows_labels, rows));
        if (store->typed) PEFT_TRY(grow_rows(dataset->ctx, &dataset->rows_types, rows));
        if (store->layout != NULL) PEFT_TRY(grow_rows(dataset->ctx, &dataset->batch_prompts, rows));
        if (store->learns == PEFT__LEARNS_ANSWER || (store->learns == PEFT__LEARNS_CHOICE && store->apart)) {
            PEFT_TRY(grow_rows(dataset->ctx, &dataset->answer_ids, rows));
            PEFT_TRY(grow_rows(dataset->ctx, &dataset->answer_labels, rows));
        }
        dataset->rows_capacity = rows;
    }
    if (sequences + 1 > dataset->offsets_capacity) {
        PEFT_TRY(grow_rows(dataset->ctx, &dataset->offsets, sequences + 1));
        if (store->learns == PEFT__LEARNS_CLASS || choices)
            PEFT_TRY(grow_rows(dataset->ctx, &dataset->batch_classes, sequences));
        if (choices) PEFT_TRY(grow_rows(dataset->ctx, &dataset->answer_source, sequences + 1));
        if (store->learns == PEFT__LEARNS_ANSWER || choices)
            PEFT_TRY(grow_rows(dataset->ctx, &dataset->answer_offsets, sequences + 1));
        if (store->layout != NULL) PEFT_TRY(grow_rows(dataset->ctx, &dataset->batch_masks, sequences));
        if (store->learns == PEFT__LEARNS_SPAN)
            PEFT_TRY(grow_rows(dataset->ctx, &dataset->batch_spans, 2 * (sequences + 1)));
        if (store->embeds) PEFT_TRY(grow_targets(dataset->ctx, &dataset->batch_targets, sequences));
        if (store->learns == PEFT__LEARNS_TARGETS)
            PEFT_TRY(grow_targets(dataset->ctx, &dataset->batch_targets, sequences * store->target_cols));
        dataset->offsets_capacity = sequences + 1;
    }
    return PEFT_OK;
}

/* The order of the present epoch. The arrays were reserved when examples came in: this cannot fail. */
static void prepare(peft_dataset *dataset) {
    if (dataset->prepared || dataset->store.example_count == 0) return;
    peft__order_prepare(&dataset->order, &dataset->store, &dataset->options, dataset->max_length, dataset->epoch);
    dataset->prepared = true;
}

peft_status peft__dataset_open(peft_context *ctx, const peft__data_base *base, peft__source *source, const char *name,
                               const peft_dataset_options *options, peft_dataset **out_dataset) {
    if (base->tokenizer == NULL)
        return peft__fail(ctx, PEFT_E_MISMATCH, "%s: the model has no tokenizer: put its tokenizer.json beside it",
                          name);
    peft_dataset *dataset = NULL;
    PEFT_TRY(make(ctx, base, options, &dataset));
    peft_status status = peft__dataset_read(ctx, source, name, base, dataset);
    if (status >= 0)
        status = peft__order_reserve(ctx, &dataset->order, dataset->store.example_count, dataset->options.packing != 0);
    if (status >= 0) status = reserve_batch(dataset);
    if (status >= 0) {
        prepare(dataset);
        if (dataset->order.batches == 0)
            status = peft__fail(ctx, PEFT_E_ARG, "%s: drop_last leaves no batch: %lld examples, batch_size %lld", name,
                                (long long)dataset->store.example_count, (long long)dataset->options.batch_size);
    }
    if (status < 0) {
        peft_dataset_destroy(dataset);
        return status;
    }
    *out_dataset = dataset;
    return PEFT_OK;
}

/* ---- pictures ---------------------------------------------------------------------------------------------------- */

static peft_status collect_classes(peft_dataset *dataset) {
    peft__labels *labels = &dataset->labels;
    for (int64_t i = 0; !labels->given && i < peft__images_count(dataset->images); i++) {
        const char *label = peft__images_label(dataset->images, i);
        if (label != NULL) PEFT_TRY(peft__labels_collect_text(dataset->ctx, labels, label, strlen(label)));
    }
    return peft__labels_finish(dataset->ctx, labels);
}

/* Examples of this part, and their classes. */
static peft_status take_pictures(peft_dataset *dataset, const char *name) {
    peft_context *ctx = dataset->ctx;
    const peft__images *images = dataset->images;
    peft__labels *labels = &dataset->labels;
    const int64_t count = peft__images_count(images), most = dataset->options.max_examples;
    int32_t grid[2];
    const int64_t patches = peft__images_patches(images, &dataset->feature_cols, grid);
    peft__reading reading = {0};
    PEFT_TRY(collect_classes(dataset));
    PEFT_TRY(peft__store_reserve(ctx, &dataset->store, 0, count));
    PEFT_TRY(grow_rows(ctx, &dataset->image_of, count));
    for (int64_t i = 0; i < count && (most == 0 || dataset->store.example_count < most); i++) {
        if (!peft__in_part(&dataset->options, (uint64_t)i)) {
            reading.other_part++;
            continue;
        }
        const char *label = peft__images_label(images, i);
        int32_t class = PEFT_IGNORE_LABEL;
        if (label != NULL) {
            PEFT_TRY(peft__labels_find_text(ctx, labels, label, strlen(label), &class));
            labels->examples[class]++;
        }
        reading.rows++;
        dataset->image_of[dataset->store.example_count] = (int32_t)i;
        peft__store_put_example(&dataset->store, 0, (int32_t)patches, 0);
        dataset->store.classes[dataset->store.example_count - 1] = class;
    }
    if (dataset->store.example_count == 0) return peft__fail(ctx, PEFT_E_ARG, "%s: no picture is left", name);
    return peft__dataset_write_report(dataset, name, &reading, PEFT_DATA_IMAGES, false);
}

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

static peft_status open_pictures(peft_context *ctx, const peft_model *model, const peft__data_base *base,
                                 const char *path, const peft_dataset_options *options, peft_dataset **out_dataset) {
    peft_dataset *dataset = NULL;
    PEFT_TRY(make(ctx, base, options, &dataset));
    dataset->options.packing = 0; /* all of one size: nothing to pack */
    peft_status status = peft__images_open(ctx, model, path, &dataset->options, &dataset->images);
    if (status >= 0) status = take_pictures(dataset, path);
    if (status >= 0) status = peft__order_reserve(ctx, &dataset->order, dataset->store.example_count, false);
    if (status >= 0) status = reserve_batch(dataset);
    if (status < 0) {
        peft_dataset_destroy(dataset);
        return status;
    }
    prepare(dataset);
    *out_dataset = dataset;
    return PEFT_OK;
}

static peft_status base_of(peft_context *ctx, const peft_model *model, const char *name, peft__data_base *out_base) {
    const peft__dims *dims = peft__model_dims(model);
    const int32_t task = peft__model_task(model);
    if (name != NULL && !serves(PEFT_DATA_AUTO, task) && !serves(PEFT_DATA_CLASSIFICATION, task) &&
        !serves(PEFT_DATA_TOKEN_CLS, task) && !serves(PEFT_DATA_IMAGES, task) &&
        !serves(PEFT_DATA_QUESTION_ANS, task) && !serves(PEFT_DATA_CHOICES, task))
        return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                          "%s: files are not read for a model of this task; make batches by hand", name);
    *out_base = (peft__data_base){.tokenizer = peft_model_tokenizer(model),
                                  .vocab = dims->vocab_size,
                                  .positions = dims->max_position_embeddings,
                                  .types = dims->type_vocab_size,
                                  .outputs = dims->num_labels,
                                  .task = task,
                                  .decoder_start = dims->decoder_start_token_id,
                                  .config = peft__model_config_json(model)};
    return PEFT_OK;
}

peft_status peft_dataset_open(peft_context *context, const peft_model *model, const char *path,
                              const peft_dataset_options *options, peft_dataset **out_dataset) {
    if (context == NULL) return PEFT_E_ARG;
    if (model == NULL || path == NULL || out_dataset == NULL)
        return peft__fail(context, PEFT_E_ARG, "peft_dataset_open() takes a model, a path and out_dataset");
    peft__data_base base;
    PEFT_TRY(base_of(context, model, path, &base));
    if (base.task == PEFT_TASK_IMAGE_CLS) return open_pictures(context, model, &base, path, options, out_dataset);
    peft__source *source = NULL;
    PEFT_TRY(peft__source_open_path(context, path, &source));
    const peft_status status = peft__dataset_open(context, &base, source, path, options, out_dataset);
    peft__source_unref(source);
    return status;
}

peft_status peft_dataset_open_memory(peft_context *context, const peft_model *model, const void *data, uint64_t size,
                                     const char *name, const peft_dataset_options *options,
                                     peft_dataset **out_dataset) {
    if (context == NULL) return PEFT_E_ARG;
    if (model == NULL || (data == NULL && size > 0) || out_dataset == NULL)
        return peft__fail(context, PEFT_E_ARG, "peft_dataset_open_memory() takes a model, data and out_dataset");
    if (size > SIZE_MAX)
        return peft__fail(context, PEFT_E_LIMIT, "%llu bytes do not fit in memory", (unsigned long long)size);
    if (name == NULL) name = "memory";
    peft__data_base base;
    PEFT_TRY(base_of(context, model, name, &base));
    if (base.task == PEFT_TASK_IMAGE_CLS)
        return peft__fail(context, PEFT_E_UNSUPPORTED,
                          "%s: pictures are opened by path, or prepared one by one (peft/image.h)", name);
    peft__source *source = NULL;
    PEFT_TRY(peft__source_open_memory(context, data, (size_t)size, name, &source));
    const peft_status status = peft__dataset_open(context, &base, source, name, options, out_dataset);
    peft__source_unref(source);
    return status;
}

peft_status peft_dataset_open_labels(peft_context *context, const char *path, const peft_dataset_options *options,
                                     peft_dataset **out_dataset) {
    if (context == NULL) return PEFT_E_ARG;
    if (path == NULL || options == NULL || out_dataset == NULL)
        return peft__fail(context, PEFT_E_ARG, "peft_dataset_open_labels() takes a path, options and out_dataset");
    if (options->format != PEFT_DATA_CLASSIFICATION && options->format != PEFT_DATA_MULTI_LABEL &&
        options->format != PEFT_DATA_TOKEN_CLS && options->format != PEFT_DATA_IMAGES)
        return peft__fail(context, PEFT_E_ARG, "%s: data of the form %s has no classes", path,
                          peft__data_format_name(options->format));
    const bool pictures = options->format == PEFT_DATA_IMAGES;
    const peft__data_base base = {.task = pictures ? PEFT_TASK_IMAGE_CLS : PEFT_TASK_AUTO};
    peft_dataset *dataset = NULL;
    PEFT_TRY(make(context, &base, options, &dataset));
    peft__source *source = NULL;
    peft_status status = pictures ? peft__images_open(context, NULL, path, &dataset->options, &dataset->images)
                                  : peft__source_open_path(context, path, &source);
    if (status >= 0)
        status = pictures ? collect_classes(dataset) : peft__dataset_read_labels(context, source, path, dataset);
    peft__source_unref(source);
    if (status < 0) {
        peft_dataset_destroy(dataset);
        return status;
    }
    *out_dataset = dataset;
    return PEFT_OK;
}

peft_status peft_dataset_create(peft_context *context, const peft_model *model, const peft_dataset_options *options,
                                peft_dataset **out_dataset) {
    if (context == NULL) return PEFT_E_ARG;
    if (out_dataset == NULL) return peft__fail(context, PEFT_E_ARG, "peft_dataset_create() takes out_dataset");
    peft__data_base base = {.tokenizer = NULL};
    if (model != NULL) PEFT_TRY(base_of(context, model, NULL, &base));
    return make(context, &base, options, out_dataset);
}

peft_status peft_dataset_add(peft_dataset *dataset, const int32_t *input_ids, const int32_t *labels, int64_t count) {
    if (dataset == NULL) return PEFT_E_ARG;
    peft_context *ctx = dataset->ctx;
    if (input_ids == NULL || count < 1 || count > dataset->max_length)
        return peft__fail(ctx, PEFT_E_ARG, "an example has 1 to max_length (%lld) tokens, found %lld",
                          (long long)dataset->max_length, (long long)count);
    if (dataset->batch > 0)
        return peft__fail(ctx, PEFT_E_STATE, "examples are added at the start of an epoch; batch %llu was reached",
                          (unsigned long long)dataset->batch);
    if (dataset->store.learns != PEFT__LEARNS_NEXT && dataset->store.learns != PEFT__LEARNS_TOKENS)
        return peft__fail(
            ctx, PEFT_E_UNSUPPORTED,
            "peft_dataset_add() takes tokens with labels of their own; data of the form %s comes from a file",
            peft__data_format_name(dataset->options.format));
    const int64_t vocab = dataset->vocab > 0 ? dataset->vocab : INT32_MAX;
    const int64_t classes =
        dataset->store.learns == PEFT__LEARNS_TOKENS && dataset->labels.outputs > 0 ? dataset->labels.outputs : vocab;
    for (int64_t i = 0; i < count; i++) {
        if (input_ids[i] < 0 || input_ids[i] >= vocab)
            return peft__fail(ctx, PEFT_E_ARG, "input_ids[%lld] is %d, but ids are 0 to %lld", (long long)i,
                              input_ids[i], (long long)vocab - 1);
        if (labels != NULL && labels[i] != PEFT_IGNORE_LABEL && (labels[i] < 0 || labels[i] >= classes))
            return peft__fail(ctx, PEFT_E_ARG, "labels[%lld] is %d, but labels are -100 or 0 to %lld", (long long)i,
                              labels[i], (long long)classes - 1);
    }
    if (labels == NULL && dataset->store.learns == PEFT__LEARNS_TOKENS)
        return peft__fail(ctx, PEFT_E_ARG, "tokens to be classified come with labels");
    const int64_t examples = dataset->store.example_count + 1;
    PEFT_TRY(peft__store_reserve(ctx, &dataset->store, count, 1));
    PEFT_TRY(peft__order_reserve(ctx, &dataset->order, examples, dataset->options.packing != 0));
    const int64_t first = dataset->store.count;
    if (dataset->store.typed) memset(dataset->store.types + first, 0, (size_t)count * sizeof(int32_t));
    for (int64_t i = 0; dataset->store.worded && i < count; i++) dataset->store.words[first + i] = -1;
    dataset->store.row = examples - 1;
    peft__store_put_tokens(&dataset->store, input_ids, labels != NULL ? labels : input_ids, count);
    peft__store_put_example(&dataset->store, first, (int32_t)count, 0);
    dataset->prepared = false;
    return PEFT_OK;
}

/* ---- classes ------------------------------------------------------------------------------------------------ */

uint32_t peft_dataset_label_count(const peft_dataset *dataset) {
    return dataset != NULL && dataset->store.learns != PEFT__LEARNS_NEXT ? dataset->labels.count : 0;
}

const char *peft_dataset_label_name(const peft_dataset *dataset, uint32_t label) {
    if (label >= peft_dataset_label_count(dataset)) return NULL;
    return dataset->labels.names[label];
}

int64_t peft_dataset_label_examples(const peft_dataset *dataset, uint32_t label) {
    return label < peft_dataset_label_count(dataset) ? dataset->labels.examples[label] : 0;
}

int32_t peft_dataset_labels_named(const peft_dataset *dataset) {
    return dataset != NULL && dataset->labels.named > 0 ? 1 : 0;
}

peft_status peft_dataset_balanced_weights(const peft_dataset *dataset, float *out_weights, uint32_t count) {
    if (dataset == NULL) return PEFT_E_ARG;
    if (out_weights == NULL || count == 0 || count != peft_dataset_label_count(dataset))
        return peft__fail(dataset->ctx, PEFT_E_ARG, "the data set has %u classes, found room for %u weights",
                          peft_dataset_label_count(dataset), count);
    int64_t total = 0, occur = 0;
    for (uint32_t i = 0; i < count; i++) {
        total += dataset->labels.examples[i];
        occur += dataset->labels.examples[i] > 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        const int64_t examples = dataset->labels.examples[i];
        out_weights[i] = examples > 0 ? (float)((double)total / (double)(occur * examples)) : 1.0f;
    }
    return PEFT_OK;
}

/* ---- what there is ------------------------------------------------------------------------------------------ */

int64_t peft_dataset_size(const peft_dataset *dataset) {
    return dataset != NULL ? dataset->store.example_count : 0;
}

int64_t peft_dataset_batches(const peft_dataset *dataset) {
    if (dataset == NULL) return 0;
    prepare((peft_dataset *)dataset); /* a cache: takes no memory and changes nothing that can be seen */
    return dataset->order.batches;
}

void peft_dataset_tokens(const peft_dataset *dataset, int64_t *out_tokens, int64_t *out_trained, int64_t *out_longest) {
    int64_t tokens = 0, trained = 0;
    for (int64_t i = 0; dataset != NULL && i < dataset->store.example_count; i++) {
        tokens += dataset->store.examples[i].length;
        trained += peft__store_learnt(&dataset->store, &dataset->store.examples[i]);
    }
    if (out_tokens != NULL) *out_tokens = tokens;
    if (out_trained != NULL) *out_trained = trained;
    if (out_longest != NULL) *out_longest = dataset != NULL ? dataset->store.longest : 0;
}

const char *peft_dataset_chat_template(const peft_dataset *dataset) {
    return dataset != NULL ? dataset->chat_name : NULL;
}

const char *peft_dataset_report(const peft_dataset *dataset) {
    return dataset != NULL && dataset->report.data != NULL ? dataset->report.data : "";
}

peft_status peft_dataset_preview(const peft_dataset *dataset, int64_t example, char *out_text, uint64_t capacity,
                                 uint64_t *out_length) {
    if (dataset == NULL) return PEFT_E_ARG;
    if (dataset->images != NULL) return peft__fail(dataset->ctx, PEFT_E_UNSUPPORTED, "pictures have no tokens to show");
    peft__buffer text;
    peft__buffer_init(&text, dataset->ctx->mem);
    peft_status status = peft__dataset_write_preview(dataset->ctx, dataset, example, &text);
    if (status >= 0) {
        if (out_length != NULL) *out_length = text.length;
        if (out_text != NULL && capacity > text.length)
            memcpy(out_text, text.data, text.length + 1);
        else if (out_text != NULL || capacity > 0)
            status = peft__fail(dataset->ctx, PEFT_E_LIMIT, "the preview takes %zu bytes, found room for %llu",
                                text.length + 1, (unsigned long long)capacity);
    }
    peft__buffer_free(&text);
    return status;
}

/* ---- batches ------------------------------------------------------------------------------------------------ */

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
    PEFT_TRY(reserve_batch(dataset)); /* takes nothing unless examples were added */
    prepare(dataset);
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
    prepare(dataset);
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
