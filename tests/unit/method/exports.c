/* exports.c: what is written is compared with what is in memory; models merged straight into files; the base that an
 * adapter remembers; adapters combined entry by entry. */
#include "support.h"

static char said[512]; /* the last line of the log */

static void keep_line(void *user, int32_t level, const char *line) {
    (void)user;
    if (level <= PEFT_LOG_WARNING) snprintf(said, sizeof said, "%s", line);
}

static peft_adapter *moved(peft_context *ctx, peft_model *model, const char *config, uint64_t seed) {
    peft_adapter *adapter = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, model, config, seed, &adapter));
    if (adapter == NULL) exit(check_summary());
    const int64_t count = peft_adapter_parameter_count(adapter);
    float *values = malloc((size_t)count * sizeof *values);
    CHECK_OK(ctx, peft_adapter_get_parameters(adapter, values, count));
    peft__rng rng = peft__rng_make(seed, 5);
    for (int64_t i = 0; i < count; i++) values[i] += 0.05f * peft__rng_normal(&rng);
    CHECK_OK(ctx, peft_adapter_set_parameters(adapter, values, count));
    free(values);
    return adapter;
}

static void remove_folder(const char *folder) {
    char command[700];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    CHECK(system(command) == 0);
}

static bool same_file(const char *a, const char *b) {
    char command[1500];
    snprintf(command, sizeof command, "cmp -s '%s' '%s'", a, b);
    return system(command) == 0;
}

/* ---- written and read back --------------------------------------------------------------------------------------- */

/* Every method's folder computes what the adapter in memory computes. */
static void check_folders(peft_context *ctx, const char *model_name, const char *const *configs, size_t count) {
    peft_model *model = load_model(ctx, model_name);
    char folder[512];
    scratch_folder(folder, sizeof folder);
    for (size_t i = 0; model != NULL && i < count; i++) {
        peft_adapter *adapter = moved(ctx, model, configs[i], i + 1);
        peft_difference found = {.struct_size = sizeof found}, changed = {.struct_size = sizeof changed};
        CHECK_OK(ctx, peft_adapter_save(adapter, folder));
        CHECK_OK(ctx, peft_adapter_verify(adapter, folder, &found));
        if (!CHECK(found.values > 0 && found.magnitude > 0.0 && found.largest <= 1e-4 * fmax(1.0, found.magnitude)))
            fprintf(stderr, "    %s: differs by %g\n", configs[i], found.largest);
        /* What is in the folder is not what is in memory any more: that shows. */
        int64_t size = peft_adapter_parameter_count(adapter);
        float *values = malloc((size_t)size * sizeof *values);
        CHECK_OK(ctx, peft_adapter_get_parameters(adapter, values, size));
        for (int64_t k = 0; k < size; k++) values[k] *= -1.5f;
        CHECK_OK(ctx, peft_adapter_set_parameters(adapter, values, size));
        CHECK_OK(ctx, peft_adapter_verify(adapter, folder, &changed));
        if (!CHECK(changed.largest > 10.0 * found.largest && changed.largest > 1e-5)) fprintf(stderr, "    %s\n", configs[i]);
        free(values);
        peft_adapter_destroy(adapter);
    }
    remove_folder(folder);
    peft_model_destroy(model);
}

static void check_gguf_adapter(peft_context *ctx, peft_model *model) {
    char folder[512], path[600];
    scratch_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/lora.gguf", folder);
    peft_adapter *adapter = moved(ctx, model, "{\"peft_type\": \"LORA\", \"use_rslora\": true, \"r\": 3, \"target_modules\": [\"q_proj\", \"k_proj\"]}", 1);
    CHECK_OK(ctx, peft_adapter_set_scale(adapter, 0.5f));
    peft_difference found = {.struct_size = sizeof found};
    CHECK_OK(ctx, peft_adapter_export_gguf(adapter, path));
    CHECK_OK(ctx, peft_adapter_verify(adapter, path, &found));
    CHECK(found.largest <= 1e-5 * found.magnitude);
    peft_adapter_destroy(adapter);
    static const char *const REFUSED[][2] = {
        {"{\"peft_type\": \"LORA\", \"use_dora\": true}", "DoRA"},
        {"{\"peft_type\": \"LORA\", \"lora_bias\": true}", "bias"},
        {"{\"peft_type\": \"LORA\", \"modules_to_save\": [\"lm_head\"]}", "modules_to_save"},
        {"{\"peft_type\": \"IA3\"}", "IA3"}};
    for (size_t i = 0; i < PEFT_COUNT(REFUSED); i++) {
        adapter = moved(ctx, model, REFUSED[i][0], 1);
        CHECK_STATUS(NULL, peft_adapter_export_gguf(adapter, path), PEFT_E_UNSUPPORTED);
        if (!CHECK(strstr(peft_context_error(ctx), REFUSED[i][1]) != NULL && strstr(peft_context_error(ctx), "merge") != NULL))
            fprintf(stderr, "    %s\n", peft_context_error(ctx));
        peft_adapter_destroy(adapter);
    }
    remove_folder(folder);
}

static void check_compare(peft_context *ctx, peft_model *model, peft_model *other) {
    peft_adapter *adapter = moved(ctx, model, "{\"peft_type\": \"LORA\"}", 1);
    peft_difference same = {.struct_size = sizeof same}, apart = {.struct_size = sizeof apart}, old = {0};
    CHECK_OK(ctx, peft_model_compare(ctx, model, &adapter, 1, model, &adapter, 1, &same));
    CHECK_OK(ctx, peft_model_compare(ctx, model, &adapter, 1, model, NULL, 0, &apart));
    CHECK(same.largest == 0.0 && apart.largest > 1e-3 && apart.magnitude == same.magnitude);
    CHECK_STATUS(NULL, peft_model_compare(ctx, model, NULL, 0, model, NULL, 0, &old), PEFT_E_ABI);
    CHECK_STATUS(NULL, peft_model_compare(ctx, model, NULL, 0, model, NULL, 0, NULL), PEFT_E_ARG);
    CHECK_STATUS(NULL, peft_model_compare(ctx, model, NULL, 0, other, NULL, 0, &apart), PEFT_E_MISMATCH);
    CHECK_STATUS(NULL, peft_adapter_verify(adapter, "/nowhere", &apart), PEFT_E_IO);
    peft_adapter_destroy(adapter);
}

/* ---- merged into files ------------------------------------------------------------------------------------------- */

static void check_saved_merged(peft_context *ctx, peft_model *model, const char *const *configs, bool gguf, double allowed) {
    char folder[512], one[600], two[600], a[700], b[700];
    scratch_folder(folder, sizeof folder);
    snprintf(one, sizeof one, "%s/%s", folder, gguf ? "one.gguf" : "one");
    snprintf(two, sizeof two, "%s/%s", folder, gguf ? "two.gguf" : "two");
    peft_adapter *adapters[2] = {moved(ctx, model, configs[0], 1), configs[1] != NULL ? moved(ctx, model, configs[1], 2) : NULL};
    const uint32_t count = configs[1] != NULL ? 2 : 1;
    peft_model *merged = NULL;
    CHECK_OK(ctx, peft_model_save_merged(ctx, model, adapters, count, one, PEFT_DTYPE_F32));
    CHECK_OK(ctx, peft_model_merge(ctx, model, adapters, count, &merged));
    if (merged != NULL)
        CHECK_OK(ctx, gguf ? peft_model_save_gguf(ctx, merged, two) : peft_model_save(ctx, merged, two, PEFT_DTYPE_F32));
    snprintf(a, sizeof a, "%s%s", one, gguf ? "" : "/model.safetensors");
    snprintf(b, sizeof b, "%s%s", two, gguf ? "" : "/model.safetensors");
    if (!CHECK(same_file(a, b))) fprintf(stderr, "    %s\n", configs[0]);
    peft_difference found = {.struct_size = sizeof found};
    CHECK_OK(ctx, peft_model_verify(ctx, model, adapters, count, one, &found));
    if (!CHECK(found.largest <= allowed * fmax(1.0, found.magnitude))) fprintf(stderr, "    %s: %g\n", configs[0], found.largest);
    peft_model_destroy(merged);
    for (uint32_t i = 0; i < count; i++) peft_adapter_destroy(adapters[i]);
    remove_folder(folder);
}

/* ---- the base that an adapter remembers -------------------------------------------------------------------------- */

static void check_base(peft_model *model, peft_model *wider) {
    peft_context_options options;
    peft_context_options_init(&options);
    options.log = keep_line;
    peft_context *ctx = NULL;
    CHECK(peft_context_create(&options, &ctx) == PEFT_OK);
    char folder[512], bias[600], gguf[600];
    scratch_folder(folder, sizeof folder);
    snprintf(bias, sizeof bias, "%s/other", folder);
    snprintf(gguf, sizeof gguf, "%s/lora.gguf", folder);
    static const char LORA[] = "{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"]}";
    peft_adapter *adapter = moved(ctx, model, LORA, 1), *again = NULL, *prompt = NULL, *full = NULL;
    CHECK_OK(ctx, peft_adapter_save(adapter, folder));
    CHECK_OK(ctx, peft_adapter_export_gguf(adapter, gguf));
    said[0] = '\0';
    CHECK_OK(ctx, peft_adapter_load(ctx, model, folder, &again));
    CHECK(said[0] == '\0');
    peft_adapter_destroy(again);
    again = NULL;
    /* The same shapes, other weights: a word, and it loads. */
    full = moved(ctx, model, "{\"peft_type\": \"FULL\", \"trainable\": [\"o_proj\"]}", 3);
    peft_model *trained = NULL;
    CHECK_OK(ctx, peft_model_merge(ctx, model, &full, 1, &trained));
    if (trained != NULL) {
        CHECK_OK(ctx, peft_adapter_load(ctx, trained, folder, &again));
        CHECK(strstr(said, "other weights") != NULL && again != NULL);
        peft_adapter_destroy(again);
        again = NULL;
        said[0] = '\0';
        CHECK_OK(ctx, peft_adapter_import_gguf(ctx, trained, gguf, &again));
        CHECK(strstr(said, "other weights") != NULL && again != NULL);
        peft_adapter_destroy(again);
        again = NULL;
    }
    /* Other shapes: an error, also where every tensor of the adapter would fit. */
    CHECK_STATUS(NULL, peft_adapter_load(ctx, wider, folder, &again), PEFT_E_MISMATCH);
    peft_model_info here = {.struct_size = sizeof here}, there = {.struct_size = sizeof there};
    CHECK_OK(ctx, peft_model_get_info(model, &here));
    CHECK_OK(ctx, peft_model_get_info(wider, &there));
    CHECK(here.hidden_size == there.hidden_size);
    prompt = moved(ctx, model, "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 3}", 1);
    CHECK_OK(ctx, peft_adapter_save(prompt, bias));
    CHECK_STATUS(NULL, peft_adapter_load(ctx, wider, bias, &again), PEFT_E_MISMATCH);
    if (!CHECK(strstr(peft_context_error(ctx), "other sizes") != NULL)) fprintf(stderr, "    %s\n", peft_context_error(ctx));
    CHECK(again == NULL);
    peft_adapter_destroy(adapter);
    peft_adapter_destroy(prompt);
    peft_adapter_destroy(full);
    peft_model_destroy(trained);
    remove_folder(folder);
    peft_context_destroy(ctx);
}

/* ---- combined entry by entry ------------------------------------------------------------------------------------- */

static peft_adapter *combined(peft_context *ctx, peft_model *model, peft_adapter *const *from, uint32_t count, const char *method,
                              float density, uint64_t seed) {
    static const float weights[3] = {0.5f, -0.75f, 1.0f};
    peft_combine_options options;
    peft_combine_options_init(&options);
    options.density = density;
    options.seed = seed;
    peft_adapter *out = NULL;
    CHECK_OK(ctx, peft_adapter_combine(ctx, model, from, weights, count, method, &options, &out));
    if (out == NULL) exit(check_summary());
    return out;
}

static double apart(peft_context *ctx, peft_model *model, peft_adapter *a, peft_adapter *b) {
    peft_difference found = {.struct_size = sizeof found};
    CHECK_OK(ctx, peft_model_compare(ctx, model, &a, 1, model, &b, 1, &found));
    return found.largest;
}

/* Share of zeros among the adapter's values. */
static double zeros(peft_context *ctx, peft_adapter *adapter) {
    const int64_t count = peft_adapter_parameter_count(adapter);
    float *values = malloc((size_t)count * sizeof *values);
    CHECK_OK(ctx, peft_adapter_get_parameters(adapter, values, count));
    int64_t zero = 0;
    for (int64_t i = 0; i < count; i++) zero += values[i] == 0.0f;
    free(values);
    return (double)zero / (double)count;
}

static void check_combined(peft_context *ctx, peft_model *model) {
    static const char LORA[] = "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 6, \"target_modules\": [\"q_proj\", \"down_proj\"]}";
    peft_adapter *from[3] = {moved(ctx, model, LORA, 1), moved(ctx, model, LORA, 2), moved(ctx, model, LORA, 3)};
    /* With everything kept, what differs is the election alone; without adapters in conflict nothing differs. */
    static const char *const ALL[] = {"ties", "dare_linear", "dare_ties", "magnitude_prune"};
    peft_adapter *linear = combined(ctx, model, from, 1, "linear", 1.0f, 0), *svd = combined(ctx, model, from, 3, "svd", 1.0f, 0);
    for (size_t i = 0; i < PEFT_COUNT(ALL); i++) {
        peft_adapter *one = combined(ctx, model, from, 1, ALL[i], 1.0f, 0);
        if (!CHECK(apart(ctx, model, linear, one) <= 1e-5)) fprintf(stderr, "    %s\n", ALL[i]);
        peft_adapter_destroy(one);
    }
    static const char *const CHANGES[] = {"dare_linear_svd", "magnitude_prune_svd"};
    for (size_t i = 0; i < PEFT_COUNT(CHANGES); i++) {
        peft_adapter *sum = combined(ctx, model, from, 3, CHANGES[i], 1.0f, 0);
        if (!CHECK(apart(ctx, model, svd, sum) <= 1e-4)) fprintf(stderr, "    %s\n", CHANGES[i]);
        peft_adapter_destroy(sum);
    }
    /* A quarter kept of each of one adapter's tensors is a quarter of what is there. */
    peft_adapter *pruned = combined(ctx, model, from, 1, "magnitude_prune", 0.25f, 0);
    CHECK_NEAR(zeros(ctx, pruned), 0.75, 0.01);
    peft_adapter *a = combined(ctx, model, from, 3, "dare_ties", 0.5f, 7), *b = combined(ctx, model, from, 3, "dare_ties", 0.5f, 7),
                 *c = combined(ctx, model, from, 3, "dare_ties", 0.5f, 8);
    CHECK(apart(ctx, model, a, b) == 0.0 && apart(ctx, model, a, c) > 1e-4);
    peft_adapter *d = combined(ctx, model, from, 3, "dare_ties_svd", 0.5f, 7), *e = combined(ctx, model, from, 3, "dare_ties_svd", 0.5f, 7);
    CHECK(apart(ctx, model, d, e) == 0.0);
    peft_combine_options options;
    peft_combine_options_init(&options);
    const float weight = 1.0f;
    peft_adapter *none = NULL;
    options.density = 0.0f;
    CHECK_STATUS(NULL, peft_adapter_combine(ctx, model, from, &weight, 1, "ties", &options, &none), PEFT_E_ARG);
    options.density = 0.5f, options.majority = 2;
    CHECK_STATUS(NULL, peft_adapter_combine(ctx, model, from, &weight, 1, "ties", &options, &none), PEFT_E_ARG);
    CHECK_STATUS(NULL, peft_adapter_combine(ctx, model, from, &weight, 1, "slerp", NULL, &none), PEFT_E_ARG);
    CHECK(strstr(peft_context_error(ctx), "magnitude_prune_svd") != NULL && none == NULL);
    peft_adapter *all[] = {from[0], from[1], from[2], linear, svd, pruned, a, b, c, d, e};
    for (size_t i = 0; i < PEFT_COUNT(all); i++) peft_adapter_destroy(all[i]);
}

int main(void) {
    peft_context *ctx = test_context();
    static const char *const DECODER[] = {
        "{\"peft_type\": \"LORA\", \"target_modules\": \"all-linear\"}",
        "{\"peft_type\": \"LORA\", \"use_dora\": true, \"modules_to_save\": [\"lm_head\"]}",
        "{\"peft_type\": \"LORA\", \"r\": 2, \"init_lora_weights\": \"pissa\"}",
        "{\"peft_type\": \"LORA\", \"target_modules\": [\"embed_tokens\", \"q_proj\"], \"bias\": \"all\"}",
        "{\"peft_type\": \"ADALORA\", \"init_r\": 3, \"total_step\": 9}",
        "{\"peft_type\": \"VERA\", \"r\": 4}",
        "{\"peft_type\": \"LOHA\", \"r\": 2}",
        "{\"peft_type\": \"LOKR\", \"r\": 2}",
        "{\"peft_type\": \"OFT\", \"oft_block_size\": 4}",
        "{\"peft_type\": \"IA3\"}",
        "{\"peft_type\": \"LN_TUNING\"}",
        "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 4}",
        "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 4}",
        "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 4, \"prefix_projection\": true, \"encoder_hidden_size\": 8}",
        "{\"peft_type\": \"P_TUNING\", \"num_virtual_tokens\": 4, \"encoder_hidden_size\": 8}",
        "{\"peft_type\": \"P_TUNING\", \"num_virtual_tokens\": 4, \"encoder_hidden_size\": 8, \"encoder_reparameterization_type\": \"LSTM\"}",
        "{\"peft_type\": \"BOTTLENECK\", \"reduction_factor\": 8}",
        "{\"peft_type\": \"FULL\", \"trainable\": [\"q_proj\"]}"};
    static const char *const ENCODER[] = {"{\"peft_type\": \"LORA\"}", "{\"peft_type\": \"FULL\"}"};
    static const char *const VISION[] = {"{\"peft_type\": \"LORA\", \"target_modules\": \"all-linear\"}", "{\"peft_type\": \"VPT\", \"num_virtual_tokens\": 3}"};
    check_folders(ctx, "llama-gqa", DECODER, PEFT_COUNT(DECODER));
    check_folders(ctx, "bert", ENCODER, PEFT_COUNT(ENCODER));
    check_folders(ctx, "t5-tiny", ENCODER, PEFT_COUNT(ENCODER));
    check_folders(ctx, "vit", VISION, PEFT_COUNT(VISION));
    peft_model *model = load_model(ctx, "llama-gqa"), *untied = load_model(ctx, "llama-mha-untied"), *quantised = NULL;
    char path[1024];
    CHECK_OK(ctx, peft_model_load(ctx, data_path(path, sizeof path, "models/%s", "llama-gqa.Q4_1.gguf"), NULL, &quantised));
    if (model != NULL && untied != NULL && quantised != NULL) {
        check_gguf_adapter(ctx, model);
        check_compare(ctx, model, untied);
        static const char *const MERGED[][2] = {
            {"{\"peft_type\": \"LORA\", \"target_modules\": \"all-linear\"}", "{\"peft_type\": \"IA3\"}"},
            {"{\"peft_type\": \"LORA\", \"target_modules\": [\"lm_head\", \"q_proj\"]}", NULL},
            {"{\"peft_type\": \"FULL\"}", "{\"peft_type\": \"LORA\", \"use_dora\": true}"},
            {"{\"peft_type\": \"LOKR\", \"r\": 2}", "{\"peft_type\": \"LN_TUNING\"}"}};
        for (size_t i = 0; i < PEFT_COUNT(MERGED); i++) check_saved_merged(ctx, model, MERGED[i], false, 1e-4);
        for (size_t i = 0; i < 2; i++) check_saved_merged(ctx, quantised, MERGED[i], true, 1.0);
        peft_model *wider = load_model(ctx, "mistral");
        if (wider != NULL) check_base(untied, wider);
        peft_model_destroy(wider);
        check_combined(ctx, model);
    }
    peft_model_destroy(model);
    peft_model_destroy(untied);
    peft_model_destroy(quantised);
    peft_context_destroy(ctx);
    return check_summary();
}
