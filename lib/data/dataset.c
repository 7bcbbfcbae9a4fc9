/* dataset.c: the public face of data sets: opening, adding, asking. Options are in options.c, batches in batches.c. */
#include "data/data.h"

#include "model/model.h"

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
    const peft_status status = peft__dataset_set_up(dataset, base, options);
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
    if (status >= 0) status = peft__dataset_reserve(dataset);
    if (status >= 0) {
        peft__dataset_prepare(dataset);
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
    PEFT_TRY(peft__data_grow(ctx, &dataset->image_of, count));
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

static peft_status open_pictures(peft_context *ctx, const peft_model *model, const peft__data_base *base,
                                 const char *path, const peft_dataset_options *options, peft_dataset **out_dataset) {
    peft_dataset *dataset = NULL;
    PEFT_TRY(make(ctx, base, options, &dataset));
    dataset->options.packing = 0; /* all of one size: nothing to pack */
    peft_status status = peft__images_open(ctx, model, path, &dataset->options, &dataset->images);
    if (status >= 0) status = take_pictures(dataset, path);
    if (status >= 0) status = peft__order_reserve(ctx, &dataset->order, dataset->store.example_count, false);
    if (status >= 0) status = peft__dataset_reserve(dataset);
    if (status < 0) {
        peft_dataset_destroy(dataset);
        return status;
    }
    peft__dataset_prepare(dataset);
    *out_dataset = dataset;
    return PEFT_OK;
}

static peft_status base_of(peft_context *ctx, const peft_model *model, const char *name, peft__data_base *out_base) {
    const peft__dims *dims = peft__model_dims(model);
    const int32_t task = peft__model_task(model);
    if (name != NULL && !peft__data_serves(PEFT_DATA_AUTO, task) &&
        !peft__data_serves(PEFT_DATA_CLASSIFICATION, task) && !peft__data_serves(PEFT_DATA_TOKEN_CLS, task) &&
        !peft__data_serves(PEFT_DATA_IMAGES, task) && !peft__data_serves(PEFT_DATA_QUESTION_ANS, task) &&
        !peft__data_serves(PEFT_DATA_CHOICES, task))
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
    peft__dataset_prepare((peft_dataset *)dataset); /* a cache: takes no memory and changes nothing that can be seen */
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
