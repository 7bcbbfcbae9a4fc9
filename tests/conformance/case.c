/* case.c: one fixture case: a model, an adapter, a batch, and the numbers that training them must give. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "format/json.h"
#include "format/safetensors.h"
#include "method/adapter.h"
#include "measure.h"

enum { PATH = 4096, MOST_STEPS = 1000 };

typedef struct fixture {
    peft_context *ctx;
    const char *folder, *scratch;
    outcome out;
    json_t *config; /* case.json */
    peft__tensors *batch_file, *expected, *init, *final;
    peft_model *model;
    peft_adapter *adapter;
    peft_adapter *folded; /* as loaded, when its file holds less than what is trained (the output of a prompt encoder) */
    peft_session *session;
    /* the batch */
    peft_batch batch;
    peft_batch_buffers buffers;
    float *features; /* patches of images */
    int32_t *grids, *prompt_index, *mask_positions;
    choices choices;
    bool by_sequence; /* one row of logits a sequence */
    int64_t B, T;
    double tolerance_logits, tolerance_loss, tolerance_grad, tolerance_final, tolerance_norm, tolerance_final_logits;
} fixture;

/* ---- small helpers -------------------------------------------------------------------------------------------------- */

/* True when the call went well; otherwise the case is over: skipped when something is not built, failed otherwise. */
static bool good(fixture *f, peft_status status, const char *what) {
    if (status >= 0) return true;
    if (status == PEFT_E_UNSUPPORTED) outcome_skip(&f->out, "%s", peft_context_error(f->ctx));
    else outcome_fail(&f->out, "%s: %s: %s", what, peft_status_name(status), peft_context_error(f->ctx));
    return false;
}

static peft__tensors *open_tensors(fixture *f, const char *name) {
    char path[PATH];
    peft__tensors *tensors = NULL;
    if (!peft__path_exists(join(path, sizeof path, f->folder, name))) return NULL;
    (void)good(f, peft__safetensors_open(f->ctx, path, &tensors), name);
    return tensors;
}

static const char *text_of(const fixture *f, const char *key) {
    const char *text = json_string_value(json_object_get(f->config, key));
    return text != NULL ? text : "";
}

static double number_of(const json_t *object, const char *key, double fallback) {
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : fallback;
}

/* ---- model, adapter, batch ------------------------------------------------------------------------------------------- */

static int32_t task_of(const char *name) {
    static const struct {
        const char *name;
        int32_t task;
    } tasks[] = {{"causal_lm", PEFT_TASK_CAUSAL_LM}, {"masked_lm", PEFT_TASK_MASKED_LM}, {"seq_cls", PEFT_TASK_SEQ_CLS},
                 {"token_cls", PEFT_TASK_TOKEN_CLS}, {"image_cls", PEFT_TASK_IMAGE_CLS}, {"seq2seq_lm", PEFT_TASK_SEQ_2_SEQ_LM}};
    for (size_t i = 0; i < PEFT_COUNT(tasks); i++)
        if (strcmp(tasks[i].name, name) == 0) return tasks[i].task;
    return PEFT_TASK_AUTO;
}

/* The model's folder, or the GGUF file that it holds instead. */
static void model_path(const fixture *f, char *path, size_t size) {
    char folder[PATH / 2], file[PATH];
    (void)snprintf(folder, sizeof folder, "%s/../../models/%s", f->folder, text_of(f, "model"));
    (void)snprintf(path, size, "%s", folder);
    if (peft__path_exists(join(file, sizeof file, folder, "config.json"))) return;
    peft__arena arena;
    peft__arena_init(&arena, f->ctx->mem);
    char **names;
    size_t count = 0;
    if (peft__list_dir(f->ctx, folder, &arena, &names, &count) < 0) count = 0;
    for (size_t i = 0; i < count; i++) {
        const size_t length = strlen(names[i]);
        if (length > 5 && strcmp(names[i] + length - 5, ".gguf") == 0) join(path, size, folder, names[i]);
    }
    peft__arena_free(&arena);
}

static bool load_model(fixture *f) {
    char path[PATH], extra[PATH];
    model_path(f, path, sizeof path);
    peft__tensors *frozen = open_tensors(f, "frozen_extra.safetensors");
    const bool complete = frozen == NULL || complete_model(f->ctx, path, frozen, f->init, join(extra, sizeof extra, f->scratch, "model"), &f->out);
    peft__tensors_unref(frozen);
    if (!complete || f->out.failures > 0) return false;
    if (frozen != NULL) (void)snprintf(path, sizeof path, "%s", extra);
    peft_model_options options;
    peft_model_options_init(&options);
    options.task = task_of(text_of(f, "task"));
    options.num_labels = (uint32_t)number_of(f->config, "num_labels", 0.0);
    return good(f, peft_model_load(f->ctx, path, &options, &f->model), "loading the model");
}

/* Values of trainable_*.safetensors into the adapter's tensors. */
static bool set_tensors(fixture *f, const peft__tensors *tensors) {
    for (size_t i = 0; tensors != NULL && i < peft__tensors_count(tensors); i++) {
        const char *name = peft__tensors_at(tensors, i)->name;
        if (strcmp(name, "_empty") == 0) continue;
        int64_t count = 0;
        float *values = read_floats(f->ctx, tensors, name, &count);
        const bool done = values != NULL && good(f, peft_adapter_set_tensor(f->adapter, name, values, count), "setting the tensors");
        free(values);
        if (!done) return false;
    }
    return true;
}

/* Methods that HF PEFT has no configuration for: ours, with the names of the case. */
static json_t *native_config(const fixture *f) {
    const char *method = text_of(f, "method");
    static const char *const partial[] = {"linear_probe", "partial", "bitfit"};
    if (strcmp(method, "full") == 0) return json_pack("{s:s}", "peft_type", "FULL");
    for (size_t i = 0; i < PEFT_COUNT(partial); i++)
        if (strcmp(method, partial[i]) == 0) return json_pack("{s:s, s:O}", "peft_type", "FULL", "trainable", json_object_get(f->config, "trainable"));
    const json_t *options = json_object_get(f->config, "options");
    if (strncmp(method, "vpt_", 4) == 0)
        return json_pack("{s:s, s:O, s:b}", "peft_type", "VPT", "num_virtual_tokens", json_object_get(options, "num_prompts"), "deep",
                         strcmp(method, "vpt_deep") == 0);
    if (strncmp(method, "bottleneck_", 11) == 0)
        return json_pack("{s:s, s:O, s:O, s:O}", "peft_type", "BOTTLENECK", "kind", json_object_get(options, "kind"), "bottleneck_size",
                         json_object_get(options, "bottleneck"), "non_linearity", json_object_get(options, "activation"));
    if (strcmp(method, "warp") == 0) {
        const peft__tensor *verbalizer = peft__tensors_find(f->init, "verbalizer.weight");
        return json_pack("{s:s, s:O, s:I}", "peft_type", "WARP", "template", json_object_get(options, "template"), "num_labels",
                         (json_int_t)(verbalizer != NULL ? verbalizer->shape[0] : 0));
    }
    char upper[64] = {0};
    for (size_t i = 0; method[i] != '\0' && i + 1 < sizeof upper; i++) upper[i] = (char)toupper((unsigned char)method[i]);
    json_t *config = json_deep_copy(json_object_get(f->config, "options"));
    if (config != NULL) json_object_set_new(config, "peft_type", json_string(upper));
    return config;
}

static bool has_tensor(const peft_adapter *adapter, const char *name) {
    for (uint32_t i = 0; i < peft_adapter_tensor_count(adapter); i++) {
        peft_tensor_info info = {.struct_size = sizeof info};
        if (peft_adapter_tensor(adapter, i, &info) == PEFT_OK && strcmp(info.name, name) == 0) return true;
    }
    return false;
}

/* Is everything that the case trains a tensor of the loaded adapter? */
static bool is_whole(const fixture *f) {
    const json_t *names = json_object_get(f->config, "trainable");
    for (size_t i = 0; i < json_array_size(names); i++)
        if (!has_tensor(f->adapter, json_string_value(json_array_get(names, i)))) return false;
    return true;
}

static bool load_adapter(fixture *f, const char *folder, json_t **out_config) {
    char path[PATH], file[PATH];
    if (!good(f, peft_adapter_load(f->ctx, f->model, join(path, sizeof path, f->folder, folder), &f->adapter), "loading the adapter")) return false;
    if (is_whole(f)) return set_tensors(f, f->init);
    f->folded = f->adapter;
    f->adapter = NULL;
    *out_config = json_load_file(join(file, sizeof file, path, "adapter_config.json"), 0, NULL);
    return true;
}

static bool make_adapter(fixture *f) {
    const char *folder = text_of(f, "adapter");
    json_t *config = NULL;
    if (folder[0] != '\0' && !load_adapter(f, folder, &config)) return false;
    if (f->adapter != NULL) return true;
    if (config == NULL) config = native_config(f);
    char *text = config == NULL ? NULL : json_dumps(config, 0);
    const bool made = text != NULL && good(f, peft_adapter_create(f->ctx, f->model, text, 0, &f->adapter), "making the adapter");
    free(text);
    json_decref(config);
    return made && set_tensors(f, f->init);
}

/* pixel_values [B, C, H, W] as rows of patches. */
static bool make_images(fixture *f, const peft__tensor *pixels) {
    peft_image_info info = {.struct_size = sizeof info};
    int32_t grid[2] = {0, 0};
    int64_t count = 0, labels = 0;
    if (pixels->ndim != 4 || !good(f, peft_model_image_info(f->ctx, f->model, &info), "the size of images")) {
        if (!f->out.skipped && f->out.failures == 0) outcome_fail(&f->out, "pixel_values is not [B, C, H, W]");
        return false;
    }
    f->by_sequence = true;
    f->B = pixels->shape[0];
    f->T = peft_image_patch_count(&info, pixels->shape[2], pixels->shape[3], grid);
    float *values = read_floats(f->ctx, f->batch_file, "pixel_values", &count);
    int64_t *classes = read_ints(f->ctx, f->batch_file, "labels", &labels);
    const int64_t cols = (int64_t)info.channels * info.patch_height * info.patch_width, rows = f->B * f->T;
    f->features = malloc((size_t)(rows * cols + 1) * sizeof *f->features);
    f->grids = malloc((size_t)(2 * f->B + 2) * sizeof *f->grids);
    f->buffers.offsets = malloc(((size_t)f->B + 1) * sizeof(int32_t));
    f->buffers.sequence_labels = malloc(((size_t)f->B + 1) * sizeof(int32_t));
    const bool made = values != NULL && classes != NULL && labels == f->B && pixels->shape[1] == info.channels &&
                      good(f, peft_image_patches(f->ctx, &info, values, f->B, pixels->shape[2], pixels->shape[3], f->features, rows * cols), "the patches of the images");
    peft_batch_init(&f->batch);
    for (int64_t i = 0; made && i <= f->B; i++) {
        f->buffers.offsets[i] = (int32_t)(i * f->T);
        f->buffers.sequence_labels[i] = i < f->B ? (int32_t)classes[i] : 0;
        f->grids[2 * i] = grid[0];
        f->grids[2 * i + 1] = grid[1];
    }
    free(values);
    free(classes);
    if (!made && !f->out.skipped && f->out.failures == 0) outcome_fail(&f->out, "pixel_values and labels do not fit the model");
    f->batch.rows = rows;
    f->batch.sequences = f->B;
    f->batch.offsets = f->buffers.offsets;
    f->batch.features = f->features;
    f->batch.feature_cols = cols;
    f->batch.sequence_labels = f->buffers.sequence_labels;
    f->batch.image_grids = f->grids;
    return made;
}

/* Rows of a prompt inside a template, and the place of [MASK]: from columns of the rectangle to rows of the batch. */
static void place_prompt(fixture *f, const int64_t *prompt_index, const int64_t *mask_position) {
    if (prompt_index == NULL || mask_position == NULL) return;
    f->prompt_index = malloc((size_t)f->batch.rows * sizeof *f->prompt_index);
    f->mask_positions = calloc((size_t)f->B, sizeof *f->mask_positions);
    for (int64_t s = 0; s < f->B; s++) {
        for (int32_t r = f->batch.offsets[s]; r < f->batch.offsets[s + 1]; r++) {
            const int32_t place = f->buffers.source[r];
            f->prompt_index[r] = (int32_t)prompt_index[place];
            if (place % f->T == mask_position[s]) f->mask_positions[s] = r - f->batch.offsets[s];
        }
    }
    f->batch.prompt_index = f->prompt_index;
    f->batch.mask_positions = f->mask_positions;
}

static bool make_batch(fixture *f) {
    const peft__tensor *pixels = peft__tensors_find(f->batch_file, "pixel_values");
    if (pixels != NULL) return make_images(f, pixels);
    static const char *const known[] = {"input_ids", "attention_mask", "labels", "token_type_ids", "prompt_index", "mask_position",
                                        "choices"};
    for (size_t i = 0; i < peft__tensors_count(f->batch_file); i++) {
        const char *name = peft__tensors_at(f->batch_file, i)->name;
        bool is_known = false;
        for (size_t k = 0; k < PEFT_COUNT(known); k++) is_known = is_known || strcmp(name, known[k]) == 0;
        if (!is_known) {
            outcome_skip(&f->out, "batches with %s are not built", name);
            return false;
        }
    }
    const peft__tensor *ids = peft__tensors_find(f->batch_file, "input_ids");
    const peft__tensor *labels = peft__tensors_find(f->batch_file, "labels");
    if (ids == NULL || ids->ndim != 2) {
        outcome_fail(&f->out, "batch.safetensors has no input_ids [B, T]");
        return false;
    }
    f->B = ids->shape[0];
    f->T = ids->shape[1];
    const int32_t task = task_of(text_of(f, "task"));
    int64_t count;
    int64_t *arrays[PEFT_COUNT(known)];
    for (size_t k = 0; k < PEFT_COUNT(known); k++) arrays[k] = read_ints(f->ctx, f->batch_file, known[k], &count);
    peft_padded padded;
    peft_padded_init(&padded);
    padded.batch = f->B;
    padded.length = f->T;
    padded.input_ids = arrays[0];
    padded.attention_mask = arrays[1];
    padded.token_type_ids = arrays[3];
    const json_t *pad = NULL;
    json_t *config = json_loads(peft_model_config(f->model), 0, NULL);
    pad = json_object_get(config, "pad_token_id");
    padded.pad_token_id = json_is_integer(pad) ? (int32_t)json_integer_value(pad) : 0;
    const char *type = json_string_value(json_object_get(config, "model_type"));
    static const char *const counting[] = {"roberta", "xlm-roberta", "camembert"};
    for (size_t i = 0; type != NULL && i < PEFT_COUNT(counting); i++)
        if (strcmp(type, counting[i]) == 0) padded.position_rule = PEFT_POSITIONS_ROBERTA;
    f->by_sequence = task == PEFT_TASK_SEQ_CLS || arrays[5] != NULL;
    if (f->by_sequence) padded.sequence_labels = arrays[2];
    else if (task != PEFT_TASK_SEQ_2_SEQ_LM) padded.labels = arrays[2];
    else if (arrays[6] == NULL) {
        padded.decoder_labels = arrays[2];
        padded.decoder_length = labels != NULL && labels->ndim == 2 ? labels->shape[1] : 0;
    }
    json_decref(config);

    const size_t places = (size_t)(f->B * f->T), decoder = (size_t)(f->B * padded.decoder_length);
    peft_batch_buffers *b = &f->buffers;
    *b = (peft_batch_buffers){.struct_size = sizeof *b, .rows = (int64_t)places, .decoder_rows = (int64_t)decoder};
    b->offsets = malloc(((size_t)f->B + 1) * sizeof(int32_t));
    b->sequence_labels = malloc(((size_t)f->B + 1) * sizeof(int32_t));
    b->decoder_offsets = malloc(((size_t)f->B + 1) * sizeof(int32_t));
    int32_t **rows[] = {&b->input_ids, &b->position_ids, &b->token_type_ids, &b->labels, &b->source};
    for (size_t i = 0; i < PEFT_COUNT(rows); i++) *rows[i] = malloc(places * sizeof(int32_t));
    b->decoder_input_ids = malloc((decoder + 1) * sizeof(int32_t));
    b->decoder_labels = malloc((decoder + 1) * sizeof(int32_t));
    bool made = good(f, peft_batch_from_padded(f->ctx, &padded, b, &f->batch), "taking the padding out");
    if (made) place_prompt(f, arrays[4], arrays[5]);
    if (made && arrays[6] != NULL && !choices_read(f->ctx, f->batch_file, &f->choices, &f->batch)) {
        outcome_fail(&f->out, "the choices cannot be read");
        made = false;
    }
    for (size_t k = 0; k < PEFT_COUNT(arrays); k++) free(arrays[k]);
    return made;
}

static void free_batch(fixture *f) {
    peft_batch_buffers *b = &f->buffers;
    int32_t *all[] = {b->offsets,         b->input_ids,       b->position_ids,      b->token_type_ids, b->labels, b->source,
                      b->sequence_labels, b->decoder_offsets, b->decoder_input_ids, b->decoder_labels};
    for (size_t i = 0; i < PEFT_COUNT(all); i++) free(all[i]);
    free(f->features);
    free(f->grids);
    free(f->prompt_index);
    free(f->mask_positions);
    choices_free(&f->choices);
}

/* ---- comparisons ------------------------------------------------------------------------------------------------------- */

/* Row of the expected rectangle [.., T + extra, C] that row `row` of our logits is to equal. `extra` virtual rows come first. */
static int64_t expected_row(const fixture *f, int64_t row, int64_t extra) {
    const int32_t *offsets = f->batch.offsets;
    for (int64_t s = 0; s < f->B; s++) {
        const int64_t length = offsets[s + 1] - offsets[s] + extra;
        if (row >= length) {
            row -= length;
            continue;
        }
        if (row < extra) return s * (f->T + extra) + row;
        const int64_t place = f->buffers.source[offsets[s] + row - extra];
        return s * (f->T + extra) + extra + place % f->T;
    }
    return -1;
}

/* Error of a session's logits against a tensor of expected.safetensors, relative to max(1, largest). */
static bool check_logits(fixture *f, peft_session *session, const char *name, double tolerance) {
    const bool head = strcmp(name, "logits_head") == 0;
    const peft__tensor *tensor = peft__tensors_find(f->expected, name);
    if (tensor == NULL) return true;
    int64_t count = 0, rows = 0, cols = 0;
    float *want = read_floats(f->ctx, f->expected, name, &count);
    const int64_t classes = tensor->shape[tensor->ndim - 1], available = classes > 0 ? count / classes : 0;
    const bool by_row = f->batch.decoder_rows == 0 && !f->by_sequence;
    const int64_t room = (f->B * (f->T + 256) + f->batch.decoder_rows) * classes;
    float *got = malloc((size_t)room * sizeof *got);
    bool done = want != NULL && got != NULL && good(f, peft_session_logits(session, &f->batch, PEFT_LOGITS_ALL, got, room, &rows, &cols), name);
    if (done && cols != classes) {
        outcome_fail(&f->out, "%s has %lld columns, expected %lld", name, (long long)cols, (long long)classes);
        done = false;
    }
    if (done) {
        const int64_t extra = by_row ? (rows - f->batch.rows) / f->B : 0;
        const double scale = fmax(1.0, largest(want, count));
        double worst = 0.0;
        int64_t compared = 0;
        for (int64_t r = 0; r < rows; r++) {
            const int64_t to = by_row ? expected_row(f, r, extra) : r;
            if (to < 0 || to >= available) continue;
            worst = fmax(worst, difference(got + r * cols, want + to * cols, cols));
            compared++;
        }
        if (compared == 0 || (!head && by_row && available != f->B * (f->T + extra)) || (!by_row && !head && available != rows))
            outcome_fail(&f->out, "%s has %lld rows, found %lld", name, (long long)available, (long long)rows);
        else outcome_add(&f->out, name, worst / scale, tolerance);
    }
    free(want);
    free(got);
    return done;
}

static bool make_session(fixture *f, peft_model *model, peft_adapter *adapter, peft_session **out) {
    peft_session_options options;
    peft_session_options_init(&options);
    if (f->choices.answers > 0) options.loss = PEFT_LOSS_TFEW;
    return good(f, peft_session_create(f->ctx, model, &adapter, adapter != NULL ? 1 : 0, &options, out), "making a session");
}

/* A new head belongs to the bare model of the reference; here an adapter brings it. NULL when the model has no new head. */
static bool make_head(fixture *f, peft_adapter **out) {
    bool is_new = false;
    for (uint32_t i = 0; i < peft_model_module_count(f->model); i++) {
        peft_module_info info = {.struct_size = sizeof info};
        if (peft_model_module(f->model, i, &info) == PEFT_OK && info.is_new) is_new = true;
    }
    if (!is_new) return true;
    if (!good(f, peft_adapter_create(f->ctx, f->model, "{\"peft_type\": \"FULL\", \"trainable\": \"head\"}", 0, out), "making the head")) return false;
    for (size_t i = 0; f->init != NULL && i < peft__tensors_count(f->init); i++) {
        const char *name = peft__tensors_at(f->init, i)->name;
        char plain[512];
        int64_t count = 0;
        plain_name(name, plain, sizeof plain);
        float *values = read_floats(f->ctx, f->init, name, &count);
        if (values != NULL) (void)!peft_adapter_set_tensor(*out, plain, values, count); /* others are the method's own */
        free(values);
    }
    return true;
}

static bool check_other_model(fixture *f, peft_model *model, const char *name) {
    peft_session *session = NULL;
    peft_adapter *head = NULL;
    const bool done = (model != f->model || make_head(f, &head)) && make_session(f, model, head, &session) &&
                      check_logits(f, session, name, f->tolerance_logits);
    peft_session_destroy(session);
    peft_adapter_destroy(head);
    return done;
}

/* Base and merged model. */
static bool check_bare_models(fixture *f) {
    if (peft__tensors_find(f->expected, "base_logits") != NULL && !check_other_model(f, f->model, "base_logits")) return false;
    if (peft__tensors_find(f->expected, "merged_logits") == NULL) return true;
    peft_model *merged = NULL;
    const bool done = good(f, peft_model_merge(f->ctx, f->model, &f->adapter, 1, &merged), "merging") && check_other_model(f, merged, "merged_logits");
    peft_model_destroy(merged);
    return done;
}

/* Gradients of the first backward pass: per tensor, relative to max(its largest, 1e-3 of the largest of all). */
static bool check_gradients(fixture *f) {
    const int64_t total = peft_adapter_parameter_count(f->adapter);
    float *flat = malloc((size_t)total * sizeof *flat);
    if (flat == NULL || !good(f, peft_session_get_gradients(f->session, f->adapter, flat, total), "reading gradients")) {
        free(flat);
        return false;
    }
    double G = 0.0, worst = 0.0;
    char worst_name[256] = "";
    int compared = 0;
    for (size_t i = 0; i < peft__tensors_count(f->expected); i++) {
        const char *name = peft__tensors_at(f->expected, i)->name;
        int64_t count = 0;
        if (strncmp(name, "grad.", 5) != 0) continue;
        float *want = read_floats(f->ctx, f->expected, name, &count);
        G = fmax(G, want == NULL ? 0.0 : largest(want, count));
        free(want);
        compared++;
    }
    int64_t at = 0;
    for (uint32_t i = 0; i < peft_adapter_tensor_count(f->adapter); i++) {
        peft_tensor_info info = {.struct_size = sizeof info};
        if (peft_adapter_tensor(f->adapter, i, &info) < 0 || !info.trainable) continue;
        const int64_t elements = (int64_t)(info.bytes / sizeof(float));
        char name[512];
        (void)snprintf(name, sizeof name, "grad.%s", info.name);
        int64_t count = 0;
        float *want = read_floats(f->ctx, f->expected, name, &count);
        if (want != NULL && count == elements) {
            const double error = difference(flat + at, want, count) / fmax(largest(want, count), 1e-3 * G);
            if (error > worst) (void)snprintf(worst_name, sizeof worst_name, "%s", info.name);
            worst = fmax(worst, error);
            compared--;
        }
        free(want);
        at += elements;
    }
    free(flat);
    if (compared != 0) outcome_fail(&f->out, "%d expected gradients have no counterpart", compared);
    outcome_add(&f->out, "grad", worst, f->tolerance_grad);
    if (worst > f->tolerance_grad) outcome_fail(&f->out, "worst gradient: %s", worst_name);
    return true;
}

static bool make_optimizer(fixture *f, peft_optimizer **out) {
    const json_t *o = json_object_get(f->config, "optimizer");
    const char *name = json_string_value(json_object_get(o, "name"));
    peft_optimizer_options options;
    peft_optimizer_options_init(&options);
    if (name != NULL && strcmp(name, "sgd") == 0) options.kind = PEFT_OPTIMIZER_SGD;
    if (name != NULL && strcmp(name, "adafactor") == 0) options.kind = PEFT_OPTIMIZER_ADAFACTOR;
    options.lr = (float)number_of(o, "lr", 1e-3);
    if (options.kind == PEFT_OPTIMIZER_ADAMW) {
        options.beta1 = (float)number_of(o, "beta1", 0.9);
        options.beta2 = (float)number_of(o, "beta2", 0.999);
    }
    if (options.kind == PEFT_OPTIMIZER_SGD) {
        options.beta1 = (float)number_of(o, "momentum", 0.0);
        options.dampening = (float)number_of(o, "dampening", 0.0);
        options.nesterov = json_is_true(json_object_get(o, "nesterov"));
    }
    options.adafactor_scale_parameter = json_is_true(json_object_get(o, "scale_parameter"));
    options.eps = (float)number_of(o, "eps", 1e-8);
    options.weight_decay = (float)number_of(o, "weight_decay", 0.0);
    options.max_grad_norm = (float)number_of(o, "max_grad_norm", 0.0);
    options.decay_all = 1;
    return good(f, peft_optimizer_create(f->ctx, f->adapter, &options, out), "making the optimizer");
}

static bool train(fixture *f, peft_optimizer *optimizer) {
    const int64_t steps = (int64_t)number_of(f->config, "steps", 0.0);
    int64_t loss_count = 0, norm_count = 0;
    float *losses = read_floats(f->ctx, f->expected, "losses", &loss_count);
    float *norms = read_floats(f->ctx, f->expected, "grad_norm", &norm_count);
    double worst_loss = 0.0, worst_norm = 0.0;
    bool done = true;
    for (int64_t i = 0; done && i < steps && i < MOST_STEPS; i++) {
        double loss = 0.0;
        peft_step_stats stats = {.struct_size = sizeof stats};
        done = good(f, peft_session_forward(f->session, &f->batch, &loss), "forward") && good(f, peft_session_backward(f->session, 1.0f), "backward");
        if (done && i == 0) done = check_gradients(f);
        if (done) done = good(f, peft_optimizer_step(optimizer, f->session, &stats), "the step");
        if (!done) break;
        if (i < loss_count) worst_loss = fmax(worst_loss, fabs(loss - (double)losses[i]));
        if (i < norm_count) worst_norm = fmax(worst_norm, fabs(stats.grad_norm / (double)norms[i] - 1.0));
    }
    if (done && losses != NULL) outcome_add(&f->out, "loss", worst_loss, f->tolerance_loss);
    if (done && norms != NULL) outcome_add(&f->out, "norm", worst_norm, f->tolerance_norm);
    free(losses);
    free(norms);
    return done;
}

/* What the method adds to every loss (AdaLoRA: how far its matrices are from orthogonal). */
static double penalty_of(const peft_adapter *adapter) {
    return adapter != NULL && adapter->method->penalty != NULL ? adapter->method->penalty(adapter, NULL, 1.0) : 0.0;
}

/* An evaluation has no penalty in it; the reference's final loss has that of the adapter as trained. */
static bool check_final_loss(fixture *f, peft_session *session, const char *label) {
    int64_t count = 0;
    float *want = read_floats(f->ctx, f->expected, "final_loss", &count);
    double loss = 0.0;
    const bool done = want == NULL || good(f, peft_session_eval(session, &f->batch, &loss, NULL), "the final loss");
    if (done && want != NULL) outcome_add(&f->out, label, fabs(loss + penalty_of(f->adapter) - (double)want[0]), f->tolerance_loss);
    free(want);
    return done;
}

static void check_weights(fixture *f) {
    double worst = 0.0;
    int missing = 0;
    for (size_t i = 0; f->final != NULL && i < peft__tensors_count(f->final); i++) {
        const peft__tensor *tensor = peft__tensors_at(f->final, i);
        int64_t count = 0;
        float *want = read_floats(f->ctx, f->final, tensor->name, &count);
        bool found = strcmp(tensor->name, "_empty") == 0;
        for (uint32_t k = 0; !found && k < peft_adapter_tensor_count(f->adapter); k++) {
            peft_tensor_info info = {.struct_size = sizeof info};
            if (peft_adapter_tensor(f->adapter, k, &info) < 0 || strcmp(info.name, tensor->name) != 0) continue;
            found = want != NULL && info.bytes == (uint64_t)count * sizeof(float);
            if (found) worst = fmax(worst, difference(info.data, want, count));
        }
        missing += !found;
        free(want);
    }
    if (missing > 0) outcome_fail(&f->out, "%d trained tensors have no counterpart", missing);
    if (f->final != NULL) outcome_add(&f->out, "final", worst, f->tolerance_final);
}

/* ---- adapter files ----------------------------------------------------------------------------------------------------- */

static bool contains(const json_t *list, const json_t *value) {
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_equal(json_array_get(list, i), value)) return true;
    return false;
}

/* Lists of names are sets (HF PEFT lists modules_to_save twice after a reload); numbers compare as numbers. */
static bool same_value(const json_t *a, const json_t *b) {
    if (json_is_number(a) && json_is_number(b)) return json_number_value(a) == json_number_value(b);
    if (!json_is_array(a) || !json_is_array(b)) return json_equal(a, b);
    for (size_t i = 0; i < json_array_size(a); i++)
        if (!contains(b, json_array_get(a, i))) return false;
    for (size_t i = 0; i < json_array_size(b); i++)
        if (!contains(a, json_array_get(b, i))) return false;
    return true;
}

static void check_saved_config(fixture *f, const char *original, const char *saved) {
    static const char *const free_keys[] = {"peft_version", "base_model_name_or_path"};
    char a[PATH], b[PATH];
    json_t *want = json_load_file(join(a, sizeof a, original, "adapter_config.json"), 0, NULL);
    json_t *got = json_load_file(join(b, sizeof b, saved, "adapter_config.json"), 0, NULL);
    const char *key;
    json_t *value;
    json_object_foreach(want, key, value) {
        bool is_free = false;
        for (size_t i = 0; i < PEFT_COUNT(free_keys); i++) is_free = is_free || strcmp(key, free_keys[i]) == 0;
        if (is_free || same_value(value, json_object_get(got, key))) continue;
        char *text = json_dumps(json_object_get(got, key), JSON_ENCODE_ANY);
        outcome_fail(&f->out, "adapter_config.json: %s became %s", key, text != NULL ? text : "absent");
        free(text);
    }
    json_decref(want);
    json_decref(got);
}

/* Loading and saving gives the same tensors and keys. */
static void check_round_trip(fixture *f, const char *original) {
    peft_adapter *adapter = NULL;
    peft__tensors *want = NULL, *got = NULL;
    char saved[PATH], path[PATH];
    join(saved, sizeof saved, f->scratch, "adapter");
    double worst = 0.0;
    if (good(f, peft_adapter_load(f->ctx, f->model, original, &adapter), "loading the adapter") &&
        good(f, peft_adapter_save(adapter, saved), "saving the adapter") &&
        good(f, peft__safetensors_open(f->ctx, join(path, sizeof path, original, "adapter_model.safetensors"), &want), "the adapter file") &&
        good(f, peft__safetensors_open(f->ctx, join(path, sizeof path, saved, "adapter_model.safetensors"), &got), "the saved adapter")) {
        if (peft__tensors_count(want) != peft__tensors_count(got))
            outcome_fail(&f->out, "the saved adapter has %zu tensors, expected %zu", peft__tensors_count(got), peft__tensors_count(want));
        for (size_t i = 0; i < peft__tensors_count(want); i++) {
            const peft__tensor *tensor = peft__tensors_at(want, i), *other = peft__tensors_find(got, tensor->name);
            int64_t count = 0, other_count = 0;
            float *a = read_floats(f->ctx, want, tensor->name, &count), *b = read_floats(f->ctx, got, tensor->name, &other_count);
            if (a == NULL || b == NULL || other->ndim != tensor->ndim || memcmp(other->shape, tensor->shape, tensor->ndim * sizeof *tensor->shape) != 0)
                outcome_fail(&f->out, "the saved adapter has no %s of that shape", tensor->name);
            else worst = fmax(worst, difference(b, a, count));
            free(a);
            free(b);
        }
        outcome_add(&f->out, "saved", worst, 1e-6);
        check_saved_config(f, original, saved);
    }
    peft__tensors_unref(want);
    peft__tensors_unref(got);
    peft_adapter_destroy(adapter);
}

/* The adapter trained here, saved, is the one that the reference trained and saved. */
static void check_written(fixture *f, const char *folder) {
    peft__tensors *want = NULL, *got = NULL;
    char saved[PATH], path[PATH];
    join(saved, sizeof saved, f->scratch, "adapter");
    double worst = 0.0;
    if (good(f, peft_adapter_save(f->adapter, saved), "saving the adapter") &&
        good(f, peft__safetensors_open(f->ctx, join(path, sizeof path, folder, "adapter_model.safetensors"), &want), "the adapter file") &&
        good(f, peft__safetensors_open(f->ctx, join(path, sizeof path, saved, "adapter_model.safetensors"), &got), "the saved adapter")) {
        for (size_t i = 0; i < peft__tensors_count(want); i++) {
            const peft__tensor *tensor = peft__tensors_at(want, i);
            if (strstr(tensor->name, ".original_module.") != NULL) continue; /* as it was before training: nobody reads it */
            int64_t count = 0, other_count = 0;
            float *a = read_floats(f->ctx, want, tensor->name, &count), *b = read_floats(f->ctx, got, tensor->name, &other_count);
            if (a == NULL || b == NULL || count != other_count) outcome_fail(&f->out, "the trained adapter has no %s of that size", tensor->name);
            else worst = fmax(worst, difference(b, a, count) / fmax(1.0, largest(a, count)));
            free(a);
            free(b);
        }
        outcome_add(&f->out, "written", worst, f->tolerance_final);
    }
    peft__tensors_unref(want);
    peft__tensors_unref(got);
}

/* Before training: the encoder's output in the file does what the encoder does. */
static bool check_folded(fixture *f) {
    peft_session *session = NULL;
    const bool done = f->folded == NULL || (make_session(f, f->model, f->folded, &session) && check_logits(f, session, "logits", f->tolerance_logits));
    peft_session_destroy(session);
    return done;
}

/* The adapter that the reference trained gives the reference's final loss here. */
static void check_trained_there(fixture *f, const char *folder) {
    peft_adapter *adapter = NULL;
    peft_session *session = NULL;
    if (good(f, peft_adapter_load(f->ctx, f->model, folder, &adapter), "loading the trained adapter") && make_session(f, f->model, adapter, &session) &&
        check_final_loss(f, session, "loaded"))
        (void)check_logits(f, session, "final_logits", f->tolerance_final_logits);
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
}

/* ---- the case ------------------------------------------------------------------------------------------------------------ */

static void read_tolerances(fixture *f) {
    const json_t *t = json_object_get(f->config, "tolerance");
    f->tolerance_logits = number_of(t, "logits", 1e-4);
    f->tolerance_loss = number_of(t, "loss", 2e-5);
    f->tolerance_grad = number_of(t, "grad", 1e-4);
    f->tolerance_final = number_of(t, "final", 2e-5);
    f->tolerance_norm = number_of(t, "grad_norm", 1e-4);
    f->tolerance_final_logits = number_of(t, "final_logits", f->tolerance_logits);
}

static void run(fixture *f) {
    char path[PATH];
    f->config = json_load_file(join(path, sizeof path, f->folder, "case.json"), 0, NULL);
    if (f->config == NULL) {
        outcome_fail(&f->out, "case.json cannot be read");
        return;
    }
    read_tolerances(f);
    f->batch_file = open_tensors(f, "batch.safetensors");
    f->expected = open_tensors(f, "expected.safetensors");
    f->init = open_tensors(f, "trainable_init.safetensors");
    f->final = open_tensors(f, "trainable_final.safetensors");
    if (f->out.failures > 0) return;
    if (f->batch_file == NULL || f->expected == NULL) {
        outcome_fail(&f->out, "batch.safetensors or expected.safetensors is missing");
        return;
    }
    if (!load_model(f) || !make_adapter(f) || !make_batch(f) || !check_bare_models(f) || !make_session(f, f->model, f->adapter, &f->session)) return;
    if (!check_logits(f, f->session, "logits", f->tolerance_logits) || !check_logits(f, f->session, "logits_head", f->tolerance_logits)) return;
    if (!check_folded(f)) return;
    check_hidden(f->ctx, f->model, &f->batch, f->buffers.source, f->expected, f->tolerance_logits, &f->out);
    check_choice_scores(f->ctx, f->session, &f->batch, f->expected, f->tolerance_logits, &f->out);
    peft_optimizer *optimizer = NULL;
    if (make_optimizer(f, &optimizer) && train(f, optimizer) && check_final_loss(f, f->session, "end")) {
        check_weights(f);
        (void)check_logits(f, f->session, "final_logits", f->tolerance_final_logits);
    }
    peft_optimizer_destroy(optimizer);
    if (f->out.skipped) return;
    const char *adapter = text_of(f, "adapter");
    if (adapter[0] != '\0' && peft__path_is_dir(join(path, sizeof path, f->folder, adapter))) check_round_trip(f, path);
    if (adapter[0] != '\0' && peft__path_is_dir(join(path, sizeof path, f->folder, "adapter_final"))) {
        check_written(f, path);
        check_trained_there(f, path);
    }
}

void run_case(peft_context *ctx, const char *folder, const char *scratch, tally *counts) {
    fixture f = {.ctx = ctx, .folder = folder, .scratch = scratch};
    const char *slash = strrchr(folder, '/');
    (void)snprintf(f.out.name, sizeof f.out.name, "%s", slash != NULL && slash[1] != '\0' ? slash + 1 : folder);
    run(&f);
    outcome_print(&f.out, counts);
    free_batch(&f);
    peft_session_destroy(f.session);
    peft_adapter_destroy(f.adapter);
    peft_adapter_destroy(f.folded);
    peft_model_destroy(f.model);
    peft__tensors_unref(f.batch_file);
    peft__tensors_unref(f.expected);
    peft__tensors_unref(f.init);
    peft__tensors_unref(f.final);
    json_decref(f.config);
}
