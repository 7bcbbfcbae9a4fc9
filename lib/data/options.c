/* options.c: what a data set is asked for: defaults, checks, and the form of the data where the model's task decides
 * it.
 *
 * Texts of the options are copied into the data set, so that the host may forget its own.
 */
#include "data/data.h"

#include "model/model.h"

enum { DEFAULT_LENGTH = 1024 };

void peft_dataset_options_init_sized(peft_dataset_options *options, uint32_t size) {
    if (options == NULL || size < sizeof options->struct_size) return;
    const peft_dataset_options defaults = {.struct_size = size, .batch_size = 1, .shuffle = 1};
    memset(options, 0, size);
    memcpy(options, &defaults, peft__min_size(size, sizeof defaults));
}

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
        if (own->verbalizers[i] == NULL) return peft__fail(dataset->ctx, PEFT_E_ARG, "verbalizers[%u] is missing", i);
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
bool peft__data_serves(int32_t format, int32_t task) {
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
    if (!peft__data_serves(own->format, base->task))
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

peft_status peft__dataset_set_up(peft_dataset *dataset, const peft__data_base *base,
                                 const peft_dataset_options *options) {
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
