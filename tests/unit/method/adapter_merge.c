/* adapter_merge.c: merged models: several adapters at once, tied tables, full fine-tuning, biases, saving as a folder
 * and reading back. */
#include "support.h"

enum { SEQUENCES = 2, LENGTH = 6 };
static const int32_t IDS[SEQUENCES * LENGTH] = {1, 7, 30, 12, 99, 4, 1, 45, 2, 9, 60, 11};

/* A model with all values of an adapter moved about, so that it does something. */
static peft_adapter *made(peft_context *ctx, peft_model *model, const char *config, uint64_t seed) {
    peft_adapter *adapter = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, model, config, seed, &adapter));
    if (adapter == NULL) return NULL;
    const int64_t count = peft_adapter_parameter_count(adapter);
    float *values = malloc((size_t)count * sizeof *values);
    CHECK_OK(ctx, peft_adapter_get_parameters(adapter, values, count));
    peft__rng rng = peft__rng_make(seed, 5);
    for (int64_t i = 0; i < count; i++) values[i] += 0.05f * peft__rng_normal(&rng);
    CHECK_OK(ctx, peft_adapter_set_parameters(adapter, values, count));
    free(values);
    return adapter;
}

static int64_t vocabulary(peft_context *ctx, const peft_model *model) {
    peft_model_info info = {.struct_size = sizeof info};
    CHECK_OK(ctx, peft_model_get_info(model, &info));
    return info.vocab_size;
}

static void check_saved(peft_context *ctx, peft_model *merged, const float *logits, peft_dtype dtype,
                        double tolerance) {
    char folder[512], command[600];
    scratch_folder(folder, sizeof folder);
    CHECK_OK(ctx, peft_model_save(ctx, merged, folder, dtype));
    peft_model *again = NULL;
    CHECK_OK(ctx, peft_model_load(ctx, folder, NULL, &again));
    if (again != NULL) {
        CHECK(peft__model_module_count(again) == peft__model_module_count(merged));
        float *after = logits_of(ctx, again, NULL, 0, IDS, SEQUENCES, LENGTH);
        if (after != NULL) {
            const double worst = largest_difference(after, logits, SEQUENCES * LENGTH * vocabulary(ctx, again));
            if (!CHECK(worst <= tolerance)) fprintf(stderr, "    saved as %s: %g\n", peft_dtype_name(dtype), worst);
        }
        free(after);
    }
    peft_model_destroy(again);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    CHECK(system(command) == 0);
}

/* Adapters in the graph and adapters in the weights give the same logits. */
static void check_pair(peft_context *ctx, peft_model *model, const char *first, const char *second) {
    peft_adapter *adapters[2] = {made(ctx, model, first, 1), second != NULL ? made(ctx, model, second, 2) : NULL};
    const uint32_t count = second != NULL ? 2 : 1;
    peft_model *merged = NULL;
    float *live = logits_of(ctx, model, adapters, count, IDS, SEQUENCES, LENGTH);
    float *base = logits_of(ctx, model, NULL, 0, IDS, SEQUENCES, LENGTH);
    CHECK_OK(ctx, peft_model_merge(ctx, model, adapters, count, &merged));
    float *after = merged != NULL ? logits_of(ctx, merged, NULL, 0, IDS, SEQUENCES, LENGTH) : NULL;
    const int64_t elements = SEQUENCES * LENGTH * vocabulary(ctx, model);
    if (live != NULL && after != NULL && base != NULL) {
        const double worst = largest_difference(live, after, elements),
                     change = largest_difference(live, base, elements);
        if (!CHECK(worst <= 1e-4 * fmax(1.0, change)))
            fprintf(stderr, "    %s: merged differs by %g (change %g)\n", first, worst, change);
        CHECK(change > 1e-4);
        check_saved(ctx, merged, after, PEFT_DTYPE_F32, 0.0);
        check_saved(ctx, merged, after, PEFT_DTYPE_BF16, 1.0);
        float *unmerged = logits_of(ctx, model, NULL, 0, IDS, SEQUENCES, LENGTH);
        if (unmerged != NULL) CHECK(memcmp(unmerged, base, (size_t)elements * sizeof *base) == 0);
        free(unmerged);
    }
    free(live), free(base), free(after);
    peft_model_destroy(merged);
    peft_adapter_destroy(adapters[0]);
    peft_adapter_destroy(adapters[1]);
}

/* The folder of an adapter of our own kind, out and in. */
static void check_full_folder(peft_context *ctx, peft_model *model) {
    char folder[512], command[600];
    scratch_folder(folder, sizeof folder);
    peft_adapter *adapter = made(ctx, model, "{\"peft_type\": \"FULL\", \"layers\": 1, \"embeddings\": false}", 3),
                 *again = NULL;
    if (adapter == NULL) return;
    CHECK_OK(ctx, peft_adapter_save(adapter, folder));
    CHECK_OK(ctx, peft_adapter_load(ctx, model, folder, &again));
    if (again != NULL) {
        CHECK_STR(peft_adapter_config(again), peft_adapter_config(adapter));
        CHECK(again->count == adapter->count);
        for (uint32_t i = 0; i < adapter->count; i++)
            CHECK(strcmp(adapter->params[i].name, again->params[i].name) == 0 &&
                  memcmp(adapter->params[i].data, again->params[i].data,
                         (size_t)adapter->params[i].elements * sizeof(float)) == 0);
    }
    peft_adapter_destroy(again);
    peft_adapter_destroy(adapter);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    CHECK(system(command) == 0);
}

static void check_refusals(peft_context *ctx, peft_model *model, peft_model *other) {
    peft_adapter *lora = made(ctx, model, "{\"peft_type\": \"LORA\", \"lora_bias\": true}", 1);
    peft_adapter *full[2] = {made(ctx, model, "{\"peft_type\": \"FULL\"}", 1),
                             made(ctx, model, "{\"peft_type\": \"FULL\"}", 2)};
    peft_model *merged = NULL;
    CHECK_STATUS(NULL, peft_model_merge(ctx, model, &lora, 1, &merged), PEFT_E_UNSUPPORTED);
    CHECK(strstr(peft_context_error(ctx), "bias") != NULL);
    CHECK_STATUS(NULL, peft_model_merge(ctx, model, full, 2, &merged), PEFT_E_MISMATCH);
    CHECK_STATUS(NULL, peft_model_merge(ctx, other, full, 1, &merged), PEFT_E_MISMATCH);
    CHECK_STATUS(NULL, peft_model_merge(ctx, model, NULL, 1, &merged), PEFT_E_ARG);
    CHECK_STATUS(NULL, peft_model_save(ctx, model, "/tmp", PEFT_DTYPE_Q4_1), PEFT_E_ARG);
    CHECK_STATUS(NULL, peft_model_save(ctx, model, "/proc/nowhere", PEFT_DTYPE_F32), PEFT_E_IO);
    CHECK(merged == NULL);
    peft_adapter_destroy(lora);
    peft_adapter_destroy(full[0]);
    peft_adapter_destroy(full[1]);
}

int main(void) {
    peft_context *ctx = test_context();
    peft_model *tied = load_model(ctx, "llama-gqa"), *untied = load_model(ctx, "llama-mha-untied"),
               *biased = load_model(ctx, "qwen2");
    if (tied != NULL && untied != NULL && biased != NULL) {
        check_pair(ctx, tied, "{\"peft_type\": \"LORA\", \"target_modules\": \"all-linear\"}", NULL);
        check_pair(ctx, tied, "{\"peft_type\": \"LORA\", \"target_modules\": [\"embed_tokens\"]}", NULL);
        check_pair(ctx, tied, "{\"peft_type\": \"LORA\", \"target_modules\": [\"lm_head\", \"q_proj\"]}", NULL);
        check_pair(ctx, tied, "{\"peft_type\": \"LORA\", \"modules_to_save\": [\"embed_tokens\"]}", NULL);
        check_pair(ctx, tied, "{\"peft_type\": \"LORA\", \"modules_to_save\": [\"lm_head\"]}", NULL);
        check_pair(ctx, tied, "{\"peft_type\": \"FULL\"}", NULL);
        check_pair(ctx, tied, "{\"peft_type\": \"FULL\", \"trainable\": \"head\"}", NULL);
        check_pair(ctx, tied, "{\"peft_type\": \"LORA\", \"use_rslora\": true}",
                   "{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\", \"down_proj\"], \"r\": 2}");
        check_pair(ctx, tied, "{\"peft_type\": \"FULL\"}",
                   "{\"peft_type\": \"LORA\", \"target_modules\": \"all-linear\"}");
        check_pair(ctx, untied, "{\"peft_type\": \"LORA\", \"use_dora\": true, \"target_modules\": \"all-linear\"}",
                   NULL);
        check_pair(ctx, untied, "{\"peft_type\": \"LORA\", \"target_modules\": [\"embed_tokens\", \"lm_head\"]}", NULL);
        check_pair(ctx, biased, "{\"peft_type\": \"LORA\", \"bias\": \"all\"}", NULL);
        check_pair(ctx, biased, "{\"peft_type\": \"LORA\", \"lora_bias\": true}", NULL);
        check_pair(ctx, biased, "{\"peft_type\": \"LORA\", \"use_dora\": true, \"bias\": \"lora_only\"}", NULL);
        char path[1024];
        peft_model *quantised = NULL; /* query and key rows lie in another order in this file */
        CHECK_OK(ctx, peft_model_load(ctx, data_path(path, sizeof path, "models/%s", "llama-gqa.Q4_1.gguf"), NULL,
                                      &quantised));
        if (quantised != NULL) {
            check_pair(ctx, quantised,
                       "{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\", \"k_proj\", \"down_proj\"]}", NULL);
            check_pair(ctx, quantised,
                       "{\"peft_type\": \"LORA\", \"use_dora\": true, \"target_modules\": [\"q_proj\"]}", NULL);
            check_pair(ctx, quantised, "{\"peft_type\": \"FULL\", \"trainable\": [\"q_proj\", \"embed_tokens\"]}",
                       NULL);
        }
        peft_model_destroy(quantised);
        check_full_folder(ctx, tied);
        check_refusals(ctx, tied, untied);
    }
    peft_model_destroy(tied);
    peft_model_destroy(untied);
    peft_model_destroy(biased);
    peft_context_destroy(ctx);
    return check_summary();
}
