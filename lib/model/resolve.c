/* resolve.c: from the tensors that an architecture expects to the tensors that the files hold.
 *
 * Published checkpoints spell one tensor in several ways: with or without the body's prefix, gamma and beta for weight
 * and bias, names of an older release, GGUF's own names. Each expected tensor is looked for under all of them. What is
 * left over in the file is reported; what is missing ends the load, with the closest names that are there, because a
 * weight that silently keeps its random start is the most expensive kind of typing error.
 */
#include "model/model_internal.h"

#include <math.h>
#include <stdio.h>

enum { NAME_BYTES = 320, MISSING_SHOWN = 3 };

/* Tensors of old checkpoints that are no weights. */
static bool is_buffer(const char *name) {
    static const char *const suffixes[] = {".attn.bias",
                                           ".attn.masked_bias",
                                           "position_ids",
                                           "rotary_emb.inv_freq",
                                           "num_batches_tracked",
                                           ".attention.bias",
                                           ".attention.masked_bias",
                                           "rope_freqs.weight",
                                           "rope_factors_long.weight",
                                           "rope_factors_short.weight"};
    const size_t length = strlen(name);
    for (size_t i = 0; i < PEFT_COUNT(suffixes); i++) {
        const size_t tail = strlen(suffixes[i]);
        if (length >= tail && strcmp(name + length - tail, suffixes[i]) == 0) return true;
    }
    return false;
}

const peft__tensor *peft__model_claim(peft_model *model, const char *file_name) {
    uint64_t index = 0;
    if (!peft__table_get(&model->file_index, file_name, strlen(file_name), &index)) return NULL;
    model->claimed[index] = 1;
    return peft__tensors_at(model->tensors, index);
}

/* One spelling and, when it ends in .weight or .bias, the one of Google's BERT. */
static const peft__tensor *claim_spellings(peft_model *model, const char *name) {
    const peft__tensor *tensor = peft__model_claim(model, name);
    if (tensor != NULL) return tensor;
    static const char *const endings[][2] = {{"LayerNorm.weight", "LayerNorm.gamma"},
                                             {"LayerNorm.bias", "LayerNorm.beta"}};
    const size_t length = strlen(name);
    for (size_t i = 0; i < PEFT_COUNT(endings); i++) {
        const size_t tail = strlen(endings[i][0]);
        if (length < tail || strcmp(name + length - tail, endings[i][0]) != 0) continue;
        char other[NAME_BYTES];
        if (snprintf(other, sizeof other, "%.*s%s", (int)(length - tail), name, endings[i][1]) < (int)sizeof other)
            return peft__model_claim(model, other);
    }
    return NULL;
}

/* With and without the body's prefix. */
static const peft__tensor *claim_prefixes(peft_model *model, const char *name) {
    const peft__tensor *tensor = claim_spellings(model, name);
    const char *base = model->arch->base_prefix;
    if (tensor != NULL || base == NULL) return tensor;
    if (strncmp(name, base, strlen(base)) == 0) return claim_spellings(model, name + strlen(base));
    char longer[NAME_BYTES];
    if (snprintf(longer, sizeof longer, "%s%s", base, name) >= (int)sizeof longer) return NULL;
    return claim_spellings(model, longer);
}

static const peft__tensor *claim_tensor(peft_model *model, peft__arena *scratch, const char *name) {
    if (model->is_gguf) {
        const char *stored = model->arch->gguf_name != NULL ? model->arch->gguf_name(model, scratch, name) : NULL;
        return stored != NULL ? peft__model_claim(model, stored) : NULL;
    }
    const peft__tensor *tensor = claim_prefixes(model, name);
    if (tensor != NULL || model->arch->alias == NULL) return tensor;
    const char *other = model->arch->alias(model, scratch, name);
    return other != NULL ? claim_prefixes(model, other) : NULL;
}

/* ---- one tensor ------------------------------------------------------------------------------------------ */

/* A float copy in the model's arena, under the same name. */
static peft_status copy_f32(peft_context *ctx, peft_model *model, const peft__tensor *from, peft__tensor **out) {
    const int64_t elements = peft__tensor_elements(from);
    peft__tensor *copy = peft__arena_alloc(&model->arena, sizeof *copy);
    float *values = peft__arena_alloc(&model->arena, (size_t)elements * sizeof *values);
    if (copy == NULL || values == NULL) return peft__fail_nomem(ctx, (size_t)elements * sizeof *values, from->name);
    PEFT_TRY(peft__tensor_read_f32(ctx, from, values));
    *copy = *from;
    copy->dtype = PEFT_DTYPE_F32;
    copy->data = (const uint8_t *)values;
    copy->bytes = (size_t)elements * sizeof *values;
    *out = copy;
    return PEFT_OK;
}

/* Checks type and shape; double precision, which no kernel reads, becomes float here. */
static peft_status adopt(peft_context *ctx, peft_model *model, const peft__tensor *stored, uint32_t ndim,
                         const int64_t *shape, const char *name, const peft__tensor **out) {
    PEFT_TRY(peft__tensor_check_float(ctx, stored));
    const peft_status status = peft__tensor_check_shape(ctx, stored, ndim, shape);
    if (status < 0) return peft__fail_in(ctx, status, "%s does not fit the model's configuration", name);
    if (stored->dtype == PEFT_DTYPE_F64) {
        peft__tensor *copy = NULL;
        PEFT_TRY(copy_f32(ctx, model, stored, &copy));
        stored = copy;
    }
    *out = stored;
    return PEFT_OK;
}

static void report_match(peft_model *model, const char *name, const peft__tensor *stored) {
    char shape[96];
    (void)peft__shape_text(shape, sizeof shape, stored->ndim, stored->shape);
    const bool renamed = strcmp(name, stored->name) != 0;
    model->counts.matched++;
    if (renamed) model->counts.renamed++;
    peft__report_line(model, renamed ? "matched %s %s %s (stored as %s)" : "matched %s %s %s", name,
                      peft_dtype_name(stored->dtype), shape, stored->name);
}

/* Shape of a module's weight as the file must hold it. Conv1D lies the other way round in GGUF files. */
static uint32_t stored_shape(const peft_model *model, const peft__module *module, const peft__tensor *stored,
                             int64_t shape[PEFT_MAX_DIMS]) {
    shape[0] = module->out;
    shape[1] = module->in;
    switch (module->kind) {
    case PEFT_MODULE_NORM:
        return 1;
    case PEFT_MODULE_CONV1D:
        if (model->is_gguf) return 2;
        break;
    case PEFT_MODULE_EMBEDDING:
        break;
    case PEFT_MODULE_TABLE: /* [1, rows, width] too */
        shape[0] = module->in;
        shape[1] = module->out;
        if (stored->ndim <= 2 || stored->ndim > PEFT_MAX_DIMS) return 2;
        for (uint32_t i = 0; i + 2 < stored->ndim; i++) shape[i] = 1;
        shape[stored->ndim - 2] = module->in;
        shape[stored->ndim - 1] = module->out;
        return stored->ndim;
    default: /* a convolution over patches is a linear layer over flattened patches: [out, channels, height, width] */
        if (stored->ndim > 2 && stored->ndim <= PEFT_MAX_DIMS) {
            int64_t inner = 1;
            for (uint32_t i = 1; i < stored->ndim; i++)
                if (__builtin_mul_overflow(inner, stored->shape[i], &inner)) inner = -1;
            if (inner == module->in) {
                memcpy(shape + 1, stored->shape + 1, (stored->ndim - 1) * sizeof *shape);
                return stored->ndim;
            }
        }
        return 2;
    }
    shape[0] = module->in;
    shape[1] = module->out;
    return 2;
}

/* ---- a module -------------------------------------------------------------------------------------------- */

/* Do two tensors hold the same numbers? Looks at rows spread over the whole. */
static bool looks_equal(const peft__tensor *a, const peft__tensor *b) {
    if (a->dtype != b->dtype || a->bytes != b->bytes) return false;
    enum { PIECES = 64, PIECE = 256 };
    const size_t step = peft__max_size(a->bytes / PIECES, 1);
    for (size_t at = 0; at < a->bytes; at += step)
        if (memcmp(a->data + at, b->data + at, peft__min_size(PIECE, a->bytes - at)) != 0) return false;
    return true;
}

typedef struct missing_list {
    const char **names;
    size_t count, capacity;
} missing_list;

static peft_status add_missing(peft_context *ctx, missing_list *missing, peft__arena *scratch, const char *name) {
    if (missing->count == missing->capacity) {
        const size_t wanted = missing->capacity == 0 ? 16 : missing->capacity * 2;
        const char **larger = peft__realloc(ctx->mem, missing->names, wanted * sizeof *larger);
        if (larger == NULL) return peft__fail_nomem(ctx, wanted * sizeof *larger, "the list of missing tensors");
        missing->names = larger;
        missing->capacity = wanted;
    }
    const char *copy = peft__arena_strdup(scratch, name);
    if (copy == NULL) return peft__fail_nomem(ctx, strlen(name), "the list of missing tensors");
    missing->names[missing->count++] = copy;
    return PEFT_OK;
}

static void make_new(peft_model *model, peft__module *module, const char *why) {
    module->is_new = true;
    module->tied_to = NULL;
    model->counts.is_new++;
    peft__report_line(model, "new %s [%lld, %lld]: %s; an adapter must bring it", module->name, (long long)module->out,
                      (long long)module->in, why);
}

/* Sets module->weight, or ties it, or leaves it new; false in *out_present when the module is to be left out. */
static peft_status resolve_weight(peft_context *ctx, peft_model *model, peft__module *module, peft__arena *scratch,
                                  missing_list *missing, bool *out_present) {
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof name, module->kind == PEFT_MODULE_TABLE ? "%s" : "%s.weight", module->name);
    const peft__tensor *stored = claim_tensor(model, scratch, name);
    if (scratch->failed) return peft__fail_nomem(ctx, sizeof name, "a tensor's name");
    *out_present = true;
    const peft__module *owner = module->tied_to;
    if (owner != NULL) {
        const bool says_so = (module->flags & PEFT__MODULE_TIED) != 0;
        const bool wanted = says_so || (stored == NULL && (module->flags & PEFT__MODULE_TIE_IF_MISSING) != 0);
        const bool tied = wanted && (stored == NULL || (owner->weight != NULL && looks_equal(stored, owner->weight)));
        if (tied) {
            model->counts.tied++;
            peft__report_line(model, "tied %s to %s.weight%s", name, owner->name,
                              stored != NULL ? " (the stored copy is the same)" : "");
        }
        /* What is written out later must read back as what is here. */
        if (tied != says_so && module->is_head &&
            json_object_set_new(model->config, "tie_word_embeddings", json_boolean(tied)) != 0)
            return peft__fail_nomem(ctx, 64, "the model's configuration");
        if (tied) return PEFT_OK;
    }
    module->tied_to = NULL;
    if (stored == NULL) {
        if ((module->flags & PEFT__MODULE_MAY_BE_NEW) != 0) {
            make_new(model, module, "not in the files");
        } else if ((module->flags & PEFT__MODULE_OPTIONAL) != 0) {
            *out_present = false;
        } else {
            return add_missing(ctx, missing, scratch, name);
        }
        return PEFT_OK;
    }
    int64_t shape[PEFT_MAX_DIMS];
    const uint32_t ndim = stored_shape(model, module, stored, shape);
    const bool resized = model->asked_labels != 0 || model->task == PEFT_TASK_MULTIPLE_CHOICE;
    if (module->is_head && resized && stored->ndim == 2 && stored->shape[0] != module->out) {
        make_new(model, module, "the stored head has another number of labels");
        return PEFT_OK;
    }
    PEFT_TRY(adopt(ctx, model, stored, ndim, shape, name, &module->weight));
    module->transposed = module->kind == PEFT_MODULE_CONV1D && !model->is_gguf;
    if ((module->flags & PEFT__MODULE_INTERLEAVED) == 0 || !model->is_gguf) module->interleave = 0;
    report_match(model, name, stored);
    return PEFT_OK;
}

/* The bias of an interleaved projection, its elements put in Hugging Face's order. */
static peft_status straighten_bias(peft_context *ctx, peft_model *model, peft__module *module) {
    peft__tensor *copy = NULL;
    PEFT_TRY(copy_f32(ctx, model, module->bias, &copy));
    const int64_t elements = module->out;
    float *values = peft__arena_alloc(&model->arena, (size_t)elements * sizeof *values);
    if (values == NULL) return peft__fail_nomem(ctx, (size_t)elements * sizeof *values, "a bias");
    const peft__matrix column = {.data = copy->data, .interleave = module->interleave, .stride = sizeof(float)};
    for (int64_t i = 0; i < elements; i++) memcpy(&values[i], peft__matrix_row(&column, i), sizeof *values);
    copy->data = (const uint8_t *)values;
    module->bias = copy;
    return PEFT_OK;
}

static peft_status resolve_bias(peft_context *ctx, peft_model *model, peft__module *module, peft__arena *scratch,
                                missing_list *missing) {
    if ((module->flags & (PEFT__MODULE_BIAS | PEFT__MODULE_BIAS_IF_STORED)) == 0 || module->is_new) return PEFT_OK;
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof name, "%s.bias", module->name);
    const peft__tensor *stored = claim_tensor(model, scratch, name);
    if (module->bias_name != NULL) { /* files may hold it under either name, or the same twice */
        (void)snprintf(name, sizeof name, "%s", module->bias_name);
        const peft__tensor *own = claim_tensor(model, scratch, name);
        if (own != NULL) stored = own;
    }
    if (scratch->failed) return peft__fail_nomem(ctx, sizeof name, "a tensor's name");
    if (stored == NULL) {
        if ((module->flags & PEFT__MODULE_BIAS) != 0) return add_missing(ctx, missing, scratch, name);
        return PEFT_OK;
    }
    PEFT_TRY(adopt(ctx, model, stored, 1, &module->out, name, &module->bias));
    module->has_bias = true;
    if (module->interleave != 0) PEFT_TRY(straighten_bias(ctx, model, module));
    report_match(model, name, stored);
    return PEFT_OK;
}

/* ---- what is missing, what is left over ------------------------------------------------------------------ */

static peft_status fail_missing(peft_context *ctx, const peft_model *model, const missing_list *missing,
                                size_t expected) {
    const size_t count = peft__tensors_count(model->tensors);
    const char **names = peft__alloc(ctx->mem, (count + 1) * sizeof *names);
    if (names == NULL) return peft__fail_nomem(ctx, (count + 1) * sizeof *names, "the names of the tensors");
    for (size_t i = 0; i < count; i++) names[i] = peft__tensors_at(model->tensors, i)->name;
    peft__buffer text;
    peft__buffer_init(&text, ctx->mem);
    for (size_t i = 0; i < missing->count && i < MISSING_SHOWN; i++) {
        const char *closest = peft__closest(missing->names[i], names, count);
        (void)peft__buffer_printf(&text, "%s%s", i == 0 ? "" : ", ", missing->names[i]);
        if (closest != NULL) (void)peft__buffer_printf(&text, " (closest in the file: %s)", closest);
    }
    if (missing->count > MISSING_SHOWN) (void)peft__buffer_puts(&text, ", ...");
    const peft_status status =
        peft__fail(ctx, PEFT_E_MISMATCH, "%s: %zu of the %zu tensors of a %s model are missing: %s",
                   peft__tensors_name(model->tensors), missing->count, expected, model->arch->model_type,
                   text.data != NULL ? text.data : "");
    peft__buffer_free(&text);
    peft__free(ctx->mem, names);
    return status;
}

static peft_status report_left_over(peft_context *ctx, peft_model *model, bool allowed) {
    const peft__tensor *first = NULL;
    for (size_t i = 0; i < peft__tensors_count(model->tensors); i++) {
        if (model->claimed[i]) continue;
        const peft__tensor *tensor = peft__tensors_at(model->tensors, i);
        if (is_buffer(tensor->name)) {
            model->counts.ignored++;
            continue;
        }
        char shape[96];
        (void)peft__shape_text(shape, sizeof shape, tensor->ndim, tensor->shape);
        model->counts.unexpected++;
        if (first == NULL) first = tensor;
        peft__report_line(model, "unexpected %s %s", tensor->name, shape);
    }
    if (first != NULL && !allowed)
        return peft__fail(ctx, PEFT_E_MISMATCH, "%s: %u tensors are not part of a %s model, the first is %s",
                          peft__tensors_name(model->tensors), model->counts.unexpected, model->arch->model_type,
                          first->name);
    return PEFT_OK;
}

/* ---- all ------------------------------------------------------------------------------------------------- */

static peft_status resolve_all(peft_context *ctx, peft_model *model, peft__arena *scratch, missing_list *missing) {
    size_t expected = 0, kept = 0;
    for (size_t i = 0; i < model->module_count; i++) {
        peft__module *module = model->modules[i];
        bool present = true;
        PEFT_TRY(resolve_weight(ctx, model, module, scratch, missing, &present));
        if (!present) continue;
        PEFT_TRY(resolve_bias(ctx, model, module, scratch, missing));
        if (module->tied_to == NULL && !module->is_new) expected += 1u + (module->has_bias ? 1u : 0u);
        model->modules[kept++] = module;
    }
    if (kept != model->module_count) { /* optional modules are not there: number the others anew */
        model->module_count = kept;
        peft__table_free(&model->by_name);
        peft__table_init(&model->by_name, model->mem);
        for (size_t i = 0; i < kept; i++) {
            model->modules[i]->index = (uint32_t)i;
            if (!peft__table_put(&model->by_name, model->modules[i]->name, strlen(model->modules[i]->name), i))
                return peft__fail_nomem(ctx, kept, "the list of modules");
        }
    }
    return missing->count == 0 ? PEFT_OK : fail_missing(ctx, model, missing, expected);
}

peft_status peft__model_resolve(peft_context *ctx, peft_model *model, const peft_model_options *options) {
    peft__arena scratch;
    peft__arena_init(&scratch, ctx->mem);
    missing_list missing = {0};
    peft_status status = resolve_all(ctx, model, &scratch, &missing);
    peft__free(ctx->mem, missing.names);
    peft__arena_free(&scratch);
    if (status >= 0) status = report_left_over(ctx, model, options->allow_unexpected != 0);
    return status;
}

/* ---- numbers --------------------------------------------------------------------------------------------- */

static peft_status validate_tensor(peft_context *ctx, const peft__tensor *tensor) {
    enum { CHUNK = 4096 }; /* a whole number of blocks of every type */
    float values[CHUNK];
    const int64_t elements = peft__tensor_elements(tensor);
    const size_t block = (size_t)peft__dtype_block(tensor->dtype), block_bytes = peft__dtype_block_bytes(tensor->dtype);
    for (int64_t at = 0; at < elements; at += CHUNK) {
        const int64_t count = peft__min_i64(CHUNK, elements - at);
        peft__dequantize(tensor->dtype, tensor->data + (size_t)at / block * block_bytes, count, values);
        for (int64_t i = 0; i < count; i++) {
            if (!isfinite(values[i]))
                return peft__fail(ctx, PEFT_E_NONFINITE, "%s: tensor %s: element %lld is %s", tensor->file,
                                  tensor->name, (long long)(at + i), isnan(values[i]) ? "not a number" : "infinite");
        }
    }
    return PEFT_OK;
}

peft_status peft__model_validate(peft_context *ctx, const peft_model *model) {
    for (size_t i = 0; i < model->module_count; i++) {
        const peft__module *module = model->modules[i];
        if (module->weight != NULL) PEFT_TRY(validate_tensor(ctx, module->weight));
        if (module->bias != NULL) PEFT_TRY(validate_tensor(ctx, module->bias));
    }
    return PEFT_OK;
}
