/* deltas.c: LoHa, LoKr, VeRA, OFT, AdaLoRA, PiSSA: neutral at the start, merged as they run, the same after a folder;
 * ranks that fall on schedule; LoRA adapters combined, and as GGUF files. */
#include "method/layers.h"
#include "method/svd.h"
#include "method/torch_random.h"
#include "peft/optimizer.h"
#include "peft/session.h"
#include "support.h"

enum { SEQUENCES = 2, LENGTH = 6 };
static const int32_t IDS[SEQUENCES * LENGTH] = {1, 7, 30, 12, 99, 4, 1, 45, 2, 9, 60, 11};

typedef struct sample {
    const char *config;
    double start; /* largest change of logits that an untrained adapter may make */
} sample;

static const sample SAMPLES[] = {
    {"{\"peft_type\": \"LOHA\", \"r\": 3, \"alpha\": 5, \"target_modules\": [\"q_proj\", \"down_proj\"]}", 0.0},
    {"{\"peft_type\": \"LOHA\", \"r\": 2, \"target_modules\": \"all-linear\", \"rank_pattern\": {\"o_proj\": 4}}", 0.0},
    {"{\"peft_type\": \"LOKR\", \"r\": 2, \"target_modules\": [\"q_proj\", \"up_proj\"]}", 0.0},
    {"{\"peft_type\": \"LOKR\", \"r\": 64, \"target_modules\": [\"v_proj\"]}", 0.0},
    {"{\"peft_type\": \"LOKR\", \"r\": 1, \"decompose_both\": true, \"init_weights\": \"lycoris\", "
     "\"decompose_factor\": 8, "
     "\"target_modules\": [\"q_proj\", \"down_proj\"]}",
     0.0},
    {"{\"peft_type\": \"VERA\", \"r\": 8, \"target_modules\": [\"q_proj\", \"v_proj\", \"down_proj\"]}", 0.0},
    {"{\"peft_type\": \"VERA\", \"r\": 4, \"save_projection\": false, \"projection_prng_key\": 11}", 0.0},
    {"{\"peft_type\": \"OFT\", \"oft_block_size\": 8, \"target_modules\": [\"q_proj\", \"down_proj\"]}", 1e-5},
    {"{\"peft_type\": \"OFT\", \"oft_block_size\": 0, \"r\": 4, \"use_cayley_neumann\": false}", 1e-5},
    {"{\"peft_type\": \"OFT\", \"oft_block_size\": 4, \"block_share\": true, \"num_cayley_neumann_terms\": 2}", 1e-5},
    {"{\"peft_type\": \"OFT\", \"oft_block_size\": 16, \"coft\": true, \"eps\": 0.05}", 1e-5},
    {"{\"peft_type\": \"ADALORA\", \"init_r\": 4, \"target_r\": 2, \"total_step\": 10}", 0.0},
    {"{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 6, \"init_lora_weights\": \"pissa\", \"target_modules\": "
     "[\"q_proj\", \"down_proj\"], \"rank_pattern\": {\"1.self_attn.q_proj\": 2}}",
     1e-4},
    {"{\"peft_type\": \"LORA\", \"r\": 4, \"use_rslora\": true, \"init_lora_weights\": \"pissa_niter_4\"}", 1e-4},
    {"{\"peft_type\": \"LORA\", \"r\": 6, \"init_lora_weights\": \"orthogonal\"}", 1e-4},
};

static peft_adapter *created(peft_context *ctx, peft_model *model, const char *config, uint64_t seed, float amount) {
    peft_adapter *adapter = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, model, config, seed, &adapter));
    if (adapter == NULL) return NULL;
    const int64_t count = peft_adapter_parameter_count(adapter);
    float *values = malloc((size_t)count * sizeof *values);
    CHECK_OK(ctx, peft_adapter_get_parameters(adapter, values, count));
    peft__rng rng = peft__rng_make(seed, 5);
    for (int64_t i = 0; i < count; i++) values[i] += amount * peft__rng_normal(&rng);
    CHECK_OK(ctx, peft_adapter_set_parameters(adapter, values, count));
    free(values);
    return adapter;
}

static int64_t elements_of(peft_context *ctx, const peft_model *model) {
    peft_model_info info = {.struct_size = sizeof info};
    CHECK_OK(ctx, peft_model_get_info(model, &info));
    return SEQUENCES * LENGTH * info.vocab_size;
}

static double distance(peft_context *ctx, peft_model *a, peft_adapter *on_a, peft_model *b, peft_adapter *on_b) {
    float *x = logits_of(ctx, a, on_a != NULL ? &on_a : NULL, on_a != NULL, IDS, SEQUENCES, LENGTH);
    float *y = logits_of(ctx, b, on_b != NULL ? &on_b : NULL, on_b != NULL, IDS, SEQUENCES, LENGTH);
    const double worst = x != NULL && y != NULL ? largest_difference(x, y, elements_of(ctx, a)) : HUGE_VAL;
    free(x);
    free(y);
    return worst;
}

static void remove_folder(const char *folder) {
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    CHECK(system(command) == 0);
}

static void check_merged(peft_context *ctx, peft_model *model, peft_adapter *adapter, const char *what) {
    peft_model *merged = NULL;
    CHECK_OK(ctx, peft_model_merge(ctx, model, &adapter, 1, &merged));
    if (merged == NULL) return;
    const double change = distance(ctx, model, adapter, model, NULL),
                 worst = distance(ctx, model, adapter, merged, NULL);
    if (!CHECK(worst <= 1e-4 * fmax(1.0, change)) || !CHECK(change > 1e-3))
        fprintf(stderr, "    %s: merged differs by %g, change %g\n", what, worst, change);
    peft_model_destroy(merged);
}

static void check_sample(peft_context *ctx, peft_model *model, const sample *s) {
    peft_adapter *fresh = created(ctx, model, s->config, 2, 0.0f), *adapter = created(ctx, model, s->config, 2, 0.05f),
                 *again = NULL;
    if (fresh == NULL || adapter == NULL) {
        fprintf(stderr, "    %s\n", s->config);
        return;
    }
    const double start = distance(ctx, model, fresh, model, NULL);
    if (!CHECK(start <= s->start)) fprintf(stderr, "    %s: changes logits by %g at the start\n", s->config, start);
    check_merged(ctx, model, adapter, s->config);
    const peft_status scaled = peft_adapter_set_scale(adapter, 0.4f);
    if (scaled == PEFT_OK) {
        check_merged(ctx, model, adapter, s->config);
        CHECK_OK(ctx, peft_adapter_set_scale(adapter, 0.0f));
        CHECK(distance(ctx, model, adapter, model, NULL) == 0.0);
        CHECK_OK(ctx, peft_adapter_set_scale(adapter, 1.0f));
    } else {
        CHECK(scaled == PEFT_E_UNSUPPORTED && strstr(s->config, "OFT") != NULL);
    }
    char folder[512];
    scratch_folder(folder, sizeof folder);
    CHECK_OK(ctx, peft_adapter_save(adapter, folder));
    CHECK_OK(ctx, peft_adapter_load(ctx, model, folder, &again));
    if (again != NULL) {
        const double worst = distance(ctx, model, adapter, model, again);
        if (!CHECK(worst <= 2e-5)) fprintf(stderr, "    %s: loaded differs by %g\n", s->config, worst);
    }
    remove_folder(folder);
    peft_adapter_destroy(again);
    peft_adapter_destroy(fresh);
    peft_adapter_destroy(adapter);
}

/* ---- training with dropout and with falling ranks ---------------------------------------------------------------- */

/* Loss after `steps` steps; HUGE_VAL when something fails. */
static double train(peft_context *ctx, peft_model *model, peft_adapter *adapter, int steps) {
    int32_t offsets[SEQUENCES + 1], labels[SEQUENCES * LENGTH];
    for (int i = 0; i <= SEQUENCES; i++) offsets[i] = i * LENGTH;
    memcpy(labels, IDS, sizeof labels);
    peft_batch batch;
    peft_batch_init(&batch);
    batch.rows = SEQUENCES * LENGTH;
    batch.sequences = SEQUENCES;
    batch.offsets = offsets;
    batch.input_ids = IDS;
    batch.labels = labels;
    peft_session *session = NULL;
    peft_optimizer *optimizer = NULL;
    peft_optimizer_options options;
    peft_optimizer_options_init(&options);
    options.lr = 0.01f;
    double loss = HUGE_VAL;
    CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, 1, NULL, &session));
    CHECK_OK(ctx, peft_optimizer_create(ctx, adapter, &options, &optimizer));
    for (int i = 0; session != NULL && optimizer != NULL && i < steps; i++) {
        CHECK_OK(ctx, peft_session_forward(session, &batch, &loss));
        CHECK_OK(ctx, peft_session_backward(session, 1.0f));
        CHECK_OK(ctx, peft_optimizer_step(optimizer, session, NULL));
    }
    peft_optimizer_destroy(optimizer);
    peft_session_destroy(session);
    return loss;
}

static void check_dropout(peft_context *ctx, peft_model *model) {
    static const char *const configs[] = {
        "{\"peft_type\": \"LOHA\", \"rank_dropout\": 0.5, \"module_dropout\": 0.3}",
        "{\"peft_type\": \"LOKR\", \"rank_dropout\": 0.5, \"rank_dropout_scale\": true}",
        "{\"peft_type\": \"VERA\", \"r\": 8, \"vera_dropout\": 0.2}",
        "{\"peft_type\": \"OFT\", \"oft_block_size\": 4, \"module_dropout\": 0.5}",
        "{\"peft_type\": \"ADALORA\", \"total_step\": 50, \"lora_dropout\": 0.2}"};
    for (size_t i = 0; i < PEFT_COUNT(configs); i++) {
        double loss[2];
        for (int run = 0; run < 2; run++) {
            peft_adapter *adapter = created(ctx, model, configs[i], 4, 0.05f);
            loss[run] = adapter != NULL ? train(ctx, model, adapter, 3) : HUGE_VAL;
            peft_adapter_destroy(adapter);
        }
        CHECK(isfinite(loss[0]) && loss[0] == loss[1]); /* what is dropped follows from the seed */
    }
}

static int64_t ranks_left(const peft_adapter *adapter, json_t **out_pattern) {
    json_t *config = json_loads(peft_adapter_config(adapter), 0, NULL);
    *out_pattern = json_incref(json_object_get(config, "rank_pattern"));
    json_decref(config);
    int64_t kept = 0;
    const char *name;
    json_t *list;
    json_object_foreach(*out_pattern, name, list) for (size_t i = 0; i < json_array_size(list); i++) kept +=
        json_is_true(json_array_get(list, i));
    return kept;
}

static void check_budget(peft_context *ctx, peft_model *model) {
    char folder[512];
    scratch_folder(folder, sizeof folder);
    peft_adapter *again = NULL,
                 *adapter = created(ctx, model,
                                    "{\"peft_type\": \"ADALORA\", \"init_r\": 5, \"target_r\": 1, \"tinit\": 1, "
                                    "\"tfinal\": 2, \"total_step\": 8, \"target_modules\": [\"q_proj\", \"v_proj\"]}",
                                    4, 0.05f);
    if (adapter == NULL) return;
    CHECK(isfinite(train(ctx, model, adapter, 9)));
    CHECK_OK(ctx, peft_adapter_save(adapter, folder));
    CHECK_OK(ctx, peft_adapter_load(ctx, model, folder, &again));
    if (again != NULL) {
        json_t *pattern = NULL;
        CHECK(ranks_left(again, &pattern) == 4); /* one for each of four matrices, wherever they matter */
        CHECK(json_object_size(pattern) == 4);
        json_decref(pattern);
        CHECK(distance(ctx, model, adapter, model, again) <= 2e-5);
        check_merged(ctx, model, again, "pruned AdaLoRA");
        CHECK(isfinite(train(ctx, model, again, 2))); /* trains on with these ranks */
    }
    remove_folder(folder);
    peft_adapter_destroy(again);
    peft_adapter_destroy(adapter);
}

/* ---- combining --------------------------------------------------------------------------------------------------- */

static const char *const TWO[] = {
    "{\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": 6, \"target_modules\": [\"q_proj\", \"v_proj\", "
    "\"embed_tokens\"]}",
    "{\"peft_type\": \"LORA\", \"r\": 2, \"use_rslora\": true, \"target_modules\": [\"q_proj\", \"down_proj\"]}"};

static void check_combined(peft_context *ctx, peft_model *model) {
    peft_adapter *two[2] = {created(ctx, model, TWO[0], 1, 0.05f), created(ctx, model, TWO[1], 2, 0.05f)};
    peft_adapter *cat = NULL, *svd = NULL, *low = NULL, *linear = NULL, *alone = NULL;
    const float weights[] = {0.7f, -1.2f};
    peft_combine_options five, single;
    peft_combine_options_init(&five);
    peft_combine_options_init(&single);
    five.rank = 5;
    single.rank = 1;
    CHECK_OK(ctx, peft_adapter_combine(ctx, model, two, weights, 2, "cat", NULL, &cat));
    CHECK_OK(ctx, peft_adapter_combine(ctx, model, two, weights, 2, "svd", &five, &svd));
    CHECK_OK(ctx, peft_adapter_combine(ctx, model, two, weights, 2, "svd", &single, &low));
    CHECK_STATUS(NULL, peft_adapter_combine(ctx, model, two, weights, 2, "linear", NULL, &linear), PEFT_E_MISMATCH);
    CHECK(strstr(peft_context_error(ctx), "q_proj") != NULL);
    CHECK_STATUS(NULL, peft_adapter_combine(ctx, model, two, weights, 2, "tis", NULL, &linear), PEFT_E_ARG);
    CHECK_STATUS(NULL, peft_adapter_combine(ctx, model, two, weights, 0, "cat", NULL, &linear), PEFT_E_ARG);
    const float one = 1.0f;
    CHECK_OK(ctx, peft_adapter_combine(ctx, model, two, &one, 1, "linear", NULL, &alone));
    if (cat != NULL && svd != NULL && low != NULL && alone != NULL) {
        CHECK(distance(ctx, model, two[0], model, alone) <= 2e-5);
        CHECK_OK(ctx, peft_adapter_set_scale(two[0], weights[0]));
        CHECK_OK(ctx, peft_adapter_set_scale(two[1], weights[1]));
        float *both = logits_of(ctx, model, two, 2, IDS, SEQUENCES, LENGTH),
              *sum = logits_of(ctx, model, &cat, 1, IDS, SEQUENCES, LENGTH);
        CHECK(both != NULL && sum != NULL && largest_difference(both, sum, elements_of(ctx, model)) <= 3e-5);
        free(both);
        free(sum);
        CHECK(distance(ctx, model, cat, model, svd) <= 3e-5); /* rank 5 holds all of it */
        CHECK(distance(ctx, model, cat, model, low) > 1e-3);
        check_merged(ctx, model, cat, "combined");
    }
    peft_adapter *dora = created(ctx, model, "{\"peft_type\": \"LORA\", \"use_dora\": true}", 1, 0.0f);
    CHECK_STATUS(NULL, peft_adapter_combine(ctx, model, &dora, weights, 1, "cat", NULL, &linear), PEFT_E_UNSUPPORTED);
    CHECK(strstr(peft_context_error(ctx), "DoRA") != NULL && linear == NULL);
    peft_adapter *all[] = {two[0], two[1], cat, svd, low, alone, dora};
    for (size_t i = 0; i < PEFT_COUNT(all); i++) peft_adapter_destroy(all[i]);
}

/* ---- GGUF -------------------------------------------------------------------------------------------------------- */

static void check_gguf(peft_context *ctx, peft_model *model, peft_model *other) {
    char folder[512], path[600];
    scratch_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/adapter.gguf", folder);
    static const char *const configs[] = {
        "{\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": 6, \"target_modules\": \"all-linear\"}",
        "{\"peft_type\": \"LORA\", \"r\": 4, \"use_rslora\": true, \"target_modules\": [\"q_proj\", \"k_proj\", "
        "\"embed_tokens\"]}",
        "{\"peft_type\": \"LORA\", \"r\": 4, \"target_modules\": [\"q_proj\", \"v_proj\"], \"rank_pattern\": "
        "{\"v_proj\": 2}, "
        "\"alpha_pattern\": {\"0.self_attn.v_proj\": 3}}",
        "{\"peft_type\": \"LORA\", \"r\": 2, \"init_lora_weights\": \"pissa\"}"};
    for (size_t i = 0; i < PEFT_COUNT(configs); i++) {
        peft_adapter *adapter = created(ctx, model, configs[i], 3, 0.05f), *read = NULL;
        CHECK_OK(ctx, peft_adapter_export_gguf(adapter, path));
        CHECK_OK(ctx, peft_adapter_import_gguf(ctx, model, path, &read));
        if (read != NULL) CHECK(distance(ctx, model, adapter, model, read) <= 2e-5);
        peft_adapter_destroy(read);
        read = NULL;
        CHECK_STATUS(NULL, peft_adapter_import_gguf(ctx, other, path, &read), PEFT_E_MISMATCH);
        peft_adapter_destroy(adapter);
    }
    static const char *const refused[][2] = {
        {"{\"peft_type\": \"LORA\", \"use_dora\": true}", "DoRA"},
        {"{\"peft_type\": \"LORA\", \"modules_to_save\": [\"lm_head\"]}", "merge"},
        {"{\"peft_type\": \"LORA\", \"lora_bias\": true}", "lora_bias"},
        {"{\"peft_type\": \"LORA\", \"target_modules\": [\"lm_head\"]}", "lm_head"},
        {"{\"peft_type\": \"LOHA\"}", "LOHA"}};
    for (size_t i = 0; i < PEFT_COUNT(refused); i++) {
        peft_adapter *adapter = created(ctx, model, refused[i][0], 3, 0.0f);
        CHECK_STATUS(NULL, peft_adapter_export_gguf(adapter, path), PEFT_E_UNSUPPORTED);
        CHECK(strstr(peft_context_error(ctx), refused[i][1]) != NULL);
        peft_adapter_destroy(adapter);
    }
    remove_folder(folder);
}

/* Every matrix of `b` is that of `a` but for what a type with 15 steps between the ends of a block rounds away. */
static void check_rounded(peft_context *ctx, const peft_model *a, const peft_model *b) {
    for (uint32_t i = 0; i < peft__model_module_count(a); i++) {
        const peft__module *module = peft__model_module_at(a, i);
        char name[256];
        snprintf(name, sizeof name, "%s.weight", module->name);
        const int64_t count = module->in * module->out;
        if (module->kind != PEFT_MODULE_LINEAR) continue;
        float *x = malloc((size_t)count * sizeof *x), *y = malloc((size_t)count * sizeof *y);
        CHECK_OK(ctx, peft__model_read_tensor(ctx, a, name, x));
        CHECK_OK(ctx, peft__model_read_tensor(ctx, b, name, y));
        double most = 0.0;
        for (int64_t k = 0; k < count; k++) most = fmax(most, fabs((double)x[k]));
        CHECK(largest_difference(x, y, count) <= 0.07 * most);
        free(x);
        free(y);
    }
}

/* A merged model as a file of its base's types: what was merged loses what the type rounds away, all else stays. */
static void check_save_gguf(peft_context *ctx, const char *name, const char *config, double tolerance) {
    char folder[512], from[1024], path[600];
    scratch_folder(folder, sizeof folder);
    snprintf(path, sizeof path, "%s/merged.gguf", folder);
    peft_model *model = NULL, *merged = NULL, *again = NULL;
    CHECK_OK(ctx, peft_model_load(ctx, data_path(from, sizeof from, "%s", name), NULL, &model));
    peft_adapter *adapter = model != NULL ? created(ctx, model, config, 3, 0.02f) : NULL;
    if (adapter != NULL) {
        CHECK_OK(ctx, peft_model_merge(ctx, model, &adapter, 1, &merged));
        CHECK_OK(ctx, peft_model_save_gguf(ctx, merged, path));
        CHECK_OK(ctx, peft_model_load(ctx, path, NULL, &again));
    }
    if (again != NULL) {
        check_rounded(ctx, merged, again);
        const double worst = distance(ctx, merged, NULL, again, NULL),
                     change = distance(ctx, model, NULL, merged, NULL);
        if (!CHECK(worst <= tolerance * fmax(1.0, change)) || !CHECK(change > 1e-3))
            fprintf(stderr, "    %s: saved differs by %g, change %g\n", name, worst, change);
    }
    CHECK_STATUS(NULL, model != NULL ? peft_model_save_gguf(ctx, model, from) : PEFT_E_ARG, PEFT_E_ARG);
    remove_folder(folder);
    peft_adapter_destroy(adapter);
    peft_model_destroy(again);
    peft_model_destroy(merged);
    peft_model_destroy(model);
}

/* ---- pieces ------------------------------------------------------------------------------------------------------ */

/* torch.empty(2000).uniform_(-0.25, 0.75, generator=torch.Generator().manual_seed(7)) */
static void check_torch(void) {
    static const struct {
        int at;
        float value;
    } want[] = {{0, 0x1.23c2bcp-2f},   {1, -0x1.a36780p-5f},  {2, 0x1.a30864p-2f},   {623, -0x1.5db950p-3f},
                {624, 0x1.d4e2b8p-3f}, {625, 0x1.754bb8p-1f}, {1999, 0x1.0a0f0cp-2f}};
    float values[2000];
    peft__torch_random random;
    peft__torch_seed(&random, 7);
    peft__torch_uniform(&random, -0.25f, 0.75f, values, 2000);
    for (size_t i = 0; i < PEFT_COUNT(want); i++) CHECK(values[want[i].at] == want[i].value);
}

static void check_svd(peft_context *ctx, int64_t m, int64_t n, int64_t rank, int64_t kept, bool random) {
    double *a = calloc((size_t)(m * n), sizeof *a), *u = calloc((size_t)(m * kept), sizeof *u),
           *s = calloc((size_t)kept, sizeof *s), *vt = calloc((size_t)(kept * n), sizeof *vt);
    peft__rng rng = peft__rng_make(9, 9);
    for (int64_t r = 0; r < rank; r++) {
        double *x = calloc((size_t)(m + n), sizeof *x);
        for (int64_t i = 0; i < m + n; i++) x[i] = (double)peft__rng_normal(&rng);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) a[i * n + j] += x[i] * x[m + j] / (double)(r + 1);
        free(x);
    }
    if (random)
        CHECK_OK(ctx, peft__svd_random(ctx, a, m, n, kept, 6, 3, u, s, vt));
    else
        CHECK_OK(ctx, peft__svd(ctx, a, m, n, kept, u, s, vt));
    double worst = 0.0, skew = 0.0;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0.0;
            for (int64_t r = 0; r < kept; r++) sum += u[i * kept + r] * s[r] * vt[r * n + j];
            worst = fmax(worst, fabs(sum - a[i * n + j]));
        }
    for (int64_t r = 0; r < kept; r++) {
        CHECK(r == 0 || s[r] <= s[r - 1]);
        for (int64_t q = 0; q <= r; q++) {
            double sum = 0.0;
            for (int64_t j = 0; j < n; j++) sum += vt[r * n + j] * vt[q * n + j];
            if (s[r] > 0.0) skew = fmax(skew, fabs(sum - (r == q ? 1.0 : 0.0)));
        }
    }
    if (kept >= rank) CHECK(worst <= 1e-6 * fmax(1.0, s[0]));
    CHECK(skew <= 1e-6);
    free(a);
    free(u);
    free(s);
    free(vt);
}

static void check_refusals(peft_context *ctx, peft_model *model) {
    static const char *const bad[][2] = {
        {"{\"peft_type\": \"ADALORA\"}", "total_step"},
        {"{\"peft_type\": \"ADALORA\", \"total_step\": 5, \"tinit\": 3, \"tfinal\": 2}", "tfinal"},
        {"{\"peft_type\": \"OFT\", \"r\": 2}", "oft_block_size"},
        {"{\"peft_type\": \"OFT\", \"oft_block_size\": 1}", "one column"},
        {"{\"peft_type\": \"LOKR\", \"init_weights\": \"other\"}", "lycoris"},
        {"{\"peft_type\": \"LORA\", \"init_lora_weights\": \"orthogonal\", \"r\": 3}", "even"},
        {"{\"peft_type\": \"LORA\", \"init_lora_weights\": \"pissa_niter_\"}", "pissa"},
        {"{\"peft_type\": \"LORA\", \"init_lora_weights\": \"pissa\", \"use_dora\": true}", "use_dora"},
        {"{\"peft_type\": \"VERA\", \"bias\": \"some\"}", "vera_only"}};
    for (size_t i = 0; i < PEFT_COUNT(bad); i++) {
        peft_adapter *adapter = NULL;
        CHECK(peft_adapter_create(ctx, model, bad[i][0], 1, &adapter) < 0 && adapter == NULL);
        if (!CHECK(strstr(peft_context_error(ctx), bad[i][1]) != NULL))
            fprintf(stderr, "    %s: %s\n", bad[i][0], peft_context_error(ctx));
    }
}

int main(void) {
    peft_context *ctx = test_context();
    check_torch();
    check_svd(ctx, 12, 7, 5, 7, false);
    check_svd(ctx, 7, 30, 7, 7, false);
    check_svd(ctx, 40, 40, 40, 6, false);
    check_svd(ctx, 1, 5, 1, 1, false);
    check_svd(ctx, 5, 1, 1, 1, false);
    check_svd(ctx, 30, 20, 4, 4, true);
    check_svd(ctx, 20, 30, 3, 5, true);
    peft_model *model = load_model(ctx, "llama-gqa"), *other = load_model(ctx, "qwen2");
    if (model != NULL && other != NULL) {
        for (size_t i = 0; i < PEFT_COUNT(SAMPLES); i++) check_sample(ctx, model, &SAMPLES[i]);
        for (size_t i = 0; i < PEFT_COUNT(SAMPLES); i++) check_sample(ctx, other, &SAMPLES[i]);
        check_dropout(ctx, model);
        check_budget(ctx, model);
        check_combined(ctx, model);
        check_gguf(ctx, model, other);
        check_refusals(ctx, model);
        static const char *const all = "{\"peft_type\": \"LORA\", \"r\": 2, \"target_modules\": \"all-linear\"}";
        check_save_gguf(ctx, "interchange/llama-gqa.F32.gguf", all, 1e-6);
        check_save_gguf(ctx, "interchange/gpt2.F32.gguf", all, 1e-6);
        check_save_gguf(ctx, "interchange/llama-gqa.F32.gguf",
                        "{\"peft_type\": \"LORA\", \"target_modules\": [\"lm_head\"]}", 1e-6);
        check_save_gguf(ctx, "models/tiny/gemma.gguf", "{\"peft_type\": \"LN_TUNING\", \"target_modules\": [\"norm\"]}",
                        1e-5);
        check_save_gguf(ctx, "models/tiny/llama-biases.gguf",
                        "{\"peft_type\": \"LORA\", \"bias\": \"all\", \"target_modules\": [\"k_proj\"]}", 1e-5);
        check_save_gguf(ctx, "models/llama-gqa.Q4_1.gguf", all, 3.0);
        CHECK_STATUS(NULL, peft_model_save_gguf(ctx, model, "/tmp/none.gguf"), PEFT_E_UNSUPPORTED);
    }
    peft_model_destroy(model);
    peft_model_destroy(other);
    peft_context_destroy(ctx);
    return check_summary();
}
