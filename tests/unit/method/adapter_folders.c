/* adapter_folders.c: adapters made by HF PEFT, read, compared, written and read again; the same adapters made anew from
 * their configuration; their logits alone and merged. The cases are made by tests/data/method/make.py. */
#include <dirent.h>

#include "support.h"

static const char *const CASES[] = {
    "lora-qv-llama",        "lora-all-linear-llama", "lora-bias-only-qwen2", "lora-dora-llama",
    "lora-embedding-llama", "lora-layers-qwen3",     "lora-mistral",         "lora-modules-to-save-llama",
    "lora-patterns-llama",  "lora-regex-qwen3",      "lora-rs-qwen2"};

typedef struct test_case {
    peft_context *ctx;
    const char *name;
    char folder[1024];
    peft__json *json;
    peft_model *model;
    peft__tensors *expected;
} test_case;

static char *read_text(peft_context *ctx, const char *path) {
    peft__source *source = NULL;
    if (peft__source_open_path(ctx, path, &source) != PEFT_OK) return NULL;
    char *text = malloc(source->size + 1);
    memcpy(text, source->data, source->size);
    text[source->size] = 0;
    peft__source_unref(source);
    return text;
}

/* Names are those of case.json, values those of trainable_init. */
static void check_names(test_case *c, const peft_adapter *adapter) {
    const json_t *names = json_object_get(c->json, "trainable");
    CHECK(peft_adapter_tensor_count(adapter) == json_array_size(names));
    CHECK(peft_adapter_parameter_count(adapter) == json_integer_value(json_object_get(c->json, "trainable_count")));
    for (size_t i = 0; i < json_array_size(names); i++) {
        const char *name = json_string_value(json_array_get(names, i));
        bool found = false;
        for (uint32_t k = 0; k < peft_adapter_tensor_count(adapter) && !found; k++) {
            peft_tensor_info info = {.struct_size = sizeof info};
            CHECK_OK(c->ctx, peft_adapter_tensor(adapter, k, &info));
            found = strcmp(info.name, name) == 0;
        }
        if (!CHECK(found)) fprintf(stderr, "    %s: no tensor %s\n", c->name, name);
    }
}

static void check_values(test_case *c, const peft_adapter *adapter) {
    char path[1100];
    snprintf(path, sizeof path, "%s/trainable_init.safetensors", c->folder);
    peft__tensors *tensors = NULL;
    CHECK_OK(c->ctx, peft__safetensors_open(c->ctx, path, &tensors));
    for (uint32_t k = 0; tensors != NULL && k < peft_adapter_tensor_count(adapter); k++) {
        peft_tensor_info info = {.struct_size = sizeof info};
        CHECK_OK(c->ctx, peft_adapter_tensor(adapter, k, &info));
        const peft__tensor *tensor = peft__tensors_find(tensors, info.name);
        if (!CHECK(tensor != NULL)) continue;
        CHECK(tensor->bytes == info.bytes && memcmp(tensor->data, info.data, info.bytes) == 0);
    }
    peft__tensors_unref(tensors);
}

/* Every tensor of one file is in the other with the same bytes. */
static void check_same_file(test_case *c, const char *left, const char *right) {
    peft__tensors *a = NULL, *b = NULL;
    CHECK_OK(c->ctx, peft__safetensors_open(c->ctx, left, &a));
    CHECK_OK(c->ctx, peft__safetensors_open(c->ctx, right, &b));
    if (a != NULL && b != NULL) {
        CHECK(peft__tensors_count(a) == peft__tensors_count(b));
        for (size_t i = 0; i < peft__tensors_count(a); i++) {
            const peft__tensor *x = peft__tensors_at(a, i), *y = peft__tensors_find(b, x->name);
            if (!CHECK(y != NULL)) {
                fprintf(stderr, "    %s: %s is missing\n", c->name, x->name);
                continue;
            }
            CHECK(x->dtype == y->dtype && x->ndim == y->ndim &&
                  memcmp(x->shape, y->shape, x->ndim * sizeof *x->shape) == 0);
            CHECK(x->bytes == y->bytes && memcmp(x->data, y->data, x->bytes) == 0);
        }
    }
    peft__tensors_unref(a);
    peft__tensors_unref(b);
}

static void check_saved(test_case *c, const peft_adapter *adapter) {
    char folder[512], path[1100], original[1100];
    scratch_folder(folder, sizeof folder);
    CHECK_OK(c->ctx, peft_adapter_save(adapter, folder));
    CHECK_OK(c->ctx, peft_adapter_save(adapter, folder)); /* over itself */
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
    snprintf(original, sizeof original, "%s/adapter_init/adapter_model.safetensors", c->folder);
    check_same_file(c, original, path);
    snprintf(path, sizeof path, "%s/adapter_config.json", folder);
    snprintf(original, sizeof original, "%s/adapter_init/adapter_config.json", c->folder);
    char *mine = read_text(c->ctx, path), *theirs = read_text(c->ctx, original);
    if (CHECK(mine != NULL && theirs != NULL)) CHECK_STR(mine, theirs);
    if (mine != NULL) CHECK_STR(peft_adapter_config(adapter), mine);
    peft_adapter *again = NULL;
    CHECK_OK(c->ctx, peft_adapter_load(c->ctx, c->model, folder, &again));
    if (again != NULL) check_values(c, again);
    peft_adapter_destroy(again);
    int left = 0; /* two files and nothing temporary */
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) left += entry->d_name[0] != '.';
    if (dir != NULL) closedir(dir);
    CHECK(left == 2);
    unlink(path);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
    unlink(path);
    rmdir(folder);
    free(mine);
    free(theirs);
}

/* The same adapter from its configuration alone. */
static void check_created(test_case *c, const char *config) {
    peft_adapter *adapter = NULL, *twin = NULL, *other = NULL;
    CHECK_OK(c->ctx, peft_adapter_create(c->ctx, c->model, config, 7, &adapter));
    CHECK_OK(c->ctx, peft_adapter_create(c->ctx, c->model, config, 7, &twin));
    CHECK_OK(c->ctx, peft_adapter_create(c->ctx, c->model, config, 8, &other));
    if (adapter != NULL && twin != NULL && other != NULL) {
        check_names(c, adapter);
        const int64_t count = peft_adapter_parameter_count(adapter);
        float *a = malloc((size_t)count * sizeof *a), *b = malloc((size_t)count * sizeof *b);
        CHECK_OK(c->ctx, peft_adapter_get_parameters(adapter, a, count));
        CHECK_OK(c->ctx, peft_adapter_get_parameters(twin, b, count));
        CHECK(memcmp(a, b, (size_t)count * sizeof *a) == 0);
        CHECK_OK(c->ctx, peft_adapter_get_parameters(other, b, count));
        CHECK(memcmp(a, b, (size_t)count * sizeof *a) != 0);
        CHECK_OK(c->ctx, peft_adapter_set_parameters(other, a, count));
        CHECK_OK(c->ctx, peft_adapter_get_parameters(other, b, count));
        CHECK(memcmp(a, b, (size_t)count * sizeof *a) == 0);
        CHECK_STATUS(NULL, peft_adapter_set_parameters(other, a, count - 1), PEFT_E_MISMATCH);
        a[0] = NAN;
        CHECK_STATUS(NULL, peft_adapter_set_parameters(other, a, count), PEFT_E_NONFINITE);
        free(a);
        free(b);
    }
    peft_adapter_destroy(adapter);
    peft_adapter_destroy(twin);
    peft_adapter_destroy(other);
}

/* ---- logits ---- */

static int32_t *read_ids(test_case *c, int64_t *out_sequences, int64_t *out_length) {
    const peft__tensor *ids = peft__tensors_find(c->expected, "input_ids");
    if (!CHECK(ids != NULL && ids->ndim == 2)) return NULL;
    *out_sequences = ids->shape[0];
    *out_length = ids->shape[1];
    int64_t *wide = malloc((size_t)(ids->shape[0] * ids->shape[1]) * sizeof *wide);
    int32_t *out = malloc((size_t)(ids->shape[0] * ids->shape[1]) * sizeof *out);
    CHECK_OK(c->ctx, peft__tensor_read_i64(c->ctx, ids, wide));
    for (int64_t i = 0; i < ids->shape[0] * ids->shape[1]; i++) out[i] = (int32_t)wide[i];
    free(wide);
    return out;
}

/* Positions that the mask leaves out may hold anything; a left-padded row sees its padding here, so only rows without
 * are compared. */
static void compare(test_case *c, const char *what, const float *got, int64_t sequences, int64_t length,
                    const char *key) {
    const peft__tensor *want = peft__tensors_find(c->expected, key),
                       *mask = peft__tensors_find(c->expected, "attention_mask");
    if (want == NULL || got == NULL || mask == NULL) return;
    const int64_t cols = want->shape[want->ndim - 1], total = sequences * length;
    float *values = malloc((size_t)(total * cols) * sizeof *values);
    int64_t *seen = malloc((size_t)total * sizeof *seen);
    CHECK_OK(c->ctx, peft__tensor_read_f32(c->ctx, want, values));
    CHECK_OK(c->ctx, peft__tensor_read_i64(c->ctx, mask, seen));
    double largest = 1.0, worst = 0.0;
    for (int64_t i = 0; i < total * cols; i++) largest = fmax(largest, fabs((double)values[i]));
    for (int64_t s = 0; s < sequences; s++) {
        if (seen[s * length] == 0) continue;
        for (int64_t t = 0; t < length && seen[s * length + t] != 0; t++)
            worst =
                fmax(worst, largest_difference(got + (s * length + t) * cols, values + (s * length + t) * cols, cols));
    }
    const double tolerance =
        json_number_value(json_object_get(json_object_get(c->json, "tolerance"), "logits")) * largest;
    if (!CHECK(worst <= tolerance))
        fprintf(stderr, "    %s: %s differ by %g, tolerance %g\n", c->name, what, worst, tolerance);
    free(values);
    free(seen);
}

static void check_logits(test_case *c, peft_adapter *adapter) {
    int64_t sequences = 0, length = 0;
    int32_t *ids = read_ids(c, &sequences, &length);
    if (ids == NULL) return;
    peft_model *merged = NULL;
    peft_model_info info = {.struct_size = sizeof info};
    CHECK_OK(c->ctx, peft_model_get_info(c->model, &info));
    const int64_t count = sequences * length * info.vocab_size;
    float *base = logits_of(c->ctx, c->model, NULL, 0, ids, sequences, length);
    float *adapted = logits_of(c->ctx, c->model, &adapter, 1, ids, sequences, length);
    compare(c, "adapted logits", adapted, sequences, length, "logits");
    CHECK_OK(c->ctx, peft_model_merge(c->ctx, c->model, &adapter, 1, &merged));
    float *after = merged != NULL ? logits_of(c->ctx, merged, NULL, 0, ids, sequences, length) : NULL;
    compare(c, "merged logits", after, sequences, length, "merged_logits");
    if (base != NULL && adapted != NULL && after != NULL) {
        CHECK(largest_difference(base, adapted, count) > 1e-5);
        CHECK(largest_difference(after, adapted, count) < 2e-4);
    }
    CHECK_OK(c->ctx, peft_adapter_set_scale(adapter, 0.0f));
    float *off = logits_of(c->ctx, c->model, &adapter, 1, ids, sequences, length);
    if (base != NULL && off != NULL) CHECK(memcmp(base, off, (size_t)count * sizeof *off) == 0);
    CHECK_OK(c->ctx, peft_adapter_set_scale(adapter, 0.5f));
    float *half = logits_of(c->ctx, c->model, &adapter, 1, ids, sequences, length);
    peft_model *half_merged = NULL;
    CHECK_OK(c->ctx, peft_model_merge(c->ctx, c->model, &adapter, 1, &half_merged));
    float *half_after = half_merged != NULL ? logits_of(c->ctx, half_merged, NULL, 0, ids, sequences, length) : NULL;
    if (half != NULL && half_after != NULL) CHECK(largest_difference(half, half_after, count) < 2e-4);
    CHECK_OK(c->ctx, peft_adapter_set_scale(adapter, 1.0f));
    float *unmerged = logits_of(c->ctx, c->model, NULL, 0, ids, sequences, length);
    if (base != NULL && unmerged != NULL) CHECK(memcmp(base, unmerged, (size_t)count * sizeof *base) == 0);
    free(base), free(adapted), free(after), free(off), free(half), free(half_after), free(unmerged), free(ids);
    peft_model_destroy(merged);
    peft_model_destroy(half_merged);
}

static void run_case(test_case *c) {
    char path[1100];
    data_path(c->folder, sizeof c->folder, "method/%s", c->name);
    snprintf(path, sizeof path, "%s/case.json", c->folder);
    CHECK_OK(c->ctx, peft__json_load_file(c->ctx, path, 0, &c->json));
    snprintf(path, sizeof path, "%s/expected.safetensors", c->folder);
    CHECK_OK(c->ctx, peft__safetensors_open(c->ctx, path, &c->expected));
    c->model = load_model(c->ctx, json_string_value(json_object_get(c->json, "model")));
    peft_adapter *adapter = NULL;
    snprintf(path, sizeof path, "%s/adapter_init", c->folder);
    if (c->model != NULL) CHECK_OK(c->ctx, peft_adapter_load(c->ctx, c->model, path, &adapter));
    if (adapter != NULL) {
        check_names(c, adapter);
        check_values(c, adapter);
        check_saved(c, adapter);
        check_created(c, peft_adapter_config(adapter));
        check_logits(c, adapter);
    }
    peft_adapter_destroy(adapter);
    peft_model_destroy(c->model);
    peft__tensors_unref(c->expected);
    json_decref(c->json);
}

int main(void) {
    peft_context *ctx = test_context();
    for (size_t i = 0; i < PEFT_COUNT(CASES); i++) {
        test_case c = {.ctx = ctx, .name = CASES[i]};
        run_case(&c);
    }
    peft_context_destroy(ctx);
    return check_summary();
}
