/* adapter_faults.c: configurations that must be refused, and how; folders of strangers; saves that are killed; target
 * rules. */
#include <signal.h>
#include <sys/wait.h>

#include "support.h"

static void refuse(peft_context *ctx, peft_model *model, const char *config, peft_status want, const char *word) {
    peft_adapter *adapter = NULL;
    CHECK_STATUS(ctx, peft_adapter_create(ctx, model, config, 0, &adapter), want);
    if (!CHECK(strstr(peft_context_error(ctx), word) != NULL))
        fprintf(stderr, "    \"%s\" does not say \"%s\"\n", peft_context_error(ctx), word);
    CHECK(adapter == NULL);
    peft_adapter_destroy(adapter);
}

static void check_refusals(peft_context *ctx, peft_model *model) {
    refuse(ctx, model, "", PEFT_E_FORMAT, "");
    refuse(ctx, model, "[]", PEFT_E_FORMAT, "object");
    refuse(ctx, model, "{}", PEFT_E_FORMAT, "peft_type");
    refuse(ctx, model, "{\"peft_type\": \"LORE\"}", PEFT_E_UNSUPPORTED, "LORA");
    refuse(ctx, model, "{\"peft_type\": 3}", PEFT_E_FORMAT, "peft_type");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"r\": 0}", PEFT_E_FORMAT, "r");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"r\": -4}", PEFT_E_FORMAT, "r");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"r\": 1000000}", PEFT_E_ARG, "rank");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"r\": \"8\"}", PEFT_E_FORMAT, "r");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"lora_dropout\": 1.5}", PEFT_E_FORMAT, "lora_dropout");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"bias\": \"some\"}", PEFT_E_FORMAT, "bias");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"init_lora_weights\": \"olora\"}", PEFT_E_UNSUPPORTED, "olora");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"rank_pattern\": {\"q_proj\": 2.5}}", PEFT_E_ARG, "q_proj");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"rank_pattern\": {\"q_proj\": \"x\"}}", PEFT_E_FORMAT,
           "rank_pattern");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"rank_pattern\": {\"q_proj(\": 2}}", PEFT_E_FORMAT, "rank_pattern");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"target_modules\": [\"q_prj\"]}", PEFT_E_MISMATCH, "q_proj");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"target_modules\": []}", PEFT_E_MISMATCH, "target_modules");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"target_modules\": [3]}", PEFT_E_FORMAT, "target_modules");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"target_modules\": \"(\"}", PEFT_E_FORMAT, "target_modules");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"target_modules\": \"q_proj\"}", PEFT_E_MISMATCH,
           "q_proj"); /* a string is a whole-name expression */
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"target_modules\": \"((.+)+)+\\\\W\\\\W\"}", PEFT_E_LIMIT,
           "too much work");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"target_modules\": [\"input_layernorm\"]}", PEFT_E_UNSUPPORTED,
           "norm");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"exclude_modules\": [\"q_proj\"]}",
           PEFT_E_MISMATCH, "exclude_modules");
    refuse(ctx, model,
           "{\"peft_type\": \"LORA\", \"target_modules\": [\"lm_head\"], \"modules_to_save\": [\"lm_head\"]}",
           PEFT_E_MISMATCH, "modules_to_save");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"modules_to_save\": [\"lm_hed\"]}", PEFT_E_MISMATCH, "lm_head");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"target_modules\": \".*q_proj\", \"layers_to_transform\": [0]}",
           PEFT_E_ARG, "layers_to_transform");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"layers_pattern\": \"layers\"}", PEFT_E_ARG, "layers_pattern");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"layers_to_transform\": [99]}", PEFT_E_MISMATCH, "target_modules");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"use_dora\": true, \"target_modules\": [\"embed_tokens\"]}",
           PEFT_E_UNSUPPORTED, "use_dora");
    refuse(ctx, model, "{\"peft_type\": \"LORA\", \"lora_bias\": true, \"use_dora\": true}", PEFT_E_ARG, "lora_bias");
    refuse(ctx, model, "{\"peft_type\": \"FULL\", \"trainable\": [\"nothing.like.this\"]}", PEFT_E_MISMATCH,
           "trainable");
    refuse(ctx, model, "{\"peft_type\": \"FULL\", \"trainable\": 3}", PEFT_E_FORMAT, "trainable");
    static const char *const KEYS[][2] = {{"use_qalora", "true"},
                                          {"layer_replication", "[[0, 1]]"},
                                          {"trainable_token_indices", "[1]"},
                                          {"target_parameters", "[\"x\"]"},
                                          {"megatron_config", "{\"a\": 1}"},
                                          {"alora_invocation_tokens", "[1]"},
                                          {"corda_config", "{\"a\": 1}"},
                                          {"lora_ga_config", "{\"a\": 1}"},
                                          {"arrow_config", "{\"a\": 1}"},
                                          {"kasa_config", "{\"a\": 1}"},
                                          {"use_bdlora", "{\"a\": 1}"},
                                          {"velora_config", "{\"a\": 1}"},
                                          {"loftq_config", "{\"loftq_bits\": 4}"},
                                          {"monteclora_config", "{\"a\": 1}"},
                                          {"ensure_weight_tying", "true"},
                                          {"enable_lora", "[true, false, true]"}};
    for (size_t i = 0; i < PEFT_COUNT(KEYS); i++) {
        char config[256];
        snprintf(config, sizeof config, "{\"peft_type\": \"LORA\", \"%s\": %s}", KEYS[i][0], KEYS[i][1]);
        refuse(ctx, model, config, PEFT_E_UNSUPPORTED, KEYS[i][0]);
        snprintf(config, sizeof config, "{\"peft_type\": \"LORA\", \"%s\": null}", KEYS[i][0]); /* off is not refused */
        peft_adapter *adapter = NULL;
        CHECK_OK(ctx, peft_adapter_create(ctx, model, config, 0, &adapter));
        peft_adapter_destroy(adapter);
    }
}

/* How many tensors a configuration makes, and whether one is there. */
static void expect(peft_context *ctx, peft_model *model, const char *config, uint32_t count, const char *name) {
    peft_adapter *adapter = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, model, config, 0, &adapter));
    if (adapter == NULL) return;
    if (!CHECK(peft_adapter_tensor_count(adapter) == count))
        fprintf(stderr, "    %s: %u tensors\n", config, peft_adapter_tensor_count(adapter));
    bool found = false;
    for (uint32_t i = 0; i < peft_adapter_tensor_count(adapter); i++) {
        peft_tensor_info info = {.struct_size = sizeof info};
        CHECK_OK(ctx, peft_adapter_tensor(adapter, i, &info));
        found = found || strcmp(info.name, name) == 0;
    }
    if (!CHECK(found)) fprintf(stderr, "    %s: no %s\n", config, name);
    peft_adapter_destroy(adapter);
}

static void check_rules(peft_context *ctx, peft_model *model) {
    expect(ctx, model, "{\"peft_type\": \"LORA\"}", 8,
           "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight");
    expect(ctx, model, "{\"peft_type\": \"LORA\", \"unknown_key\": 1, \"target_modules\": [\"q_proj\"]}", 4,
           "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
    expect(ctx, model, "{\"peft_type\": \"LORA\", \"target_modules\": \"All-Linear\"}", 28,
           "base_model.model.model.layers.0.mlp.gate_proj.lora_A.weight");
    expect(ctx, model,
           "{\"peft_type\": \"LORA\", \"target_modules\": \"all-linear\", \"exclude_modules\": [\"mlp.up_proj\"]}", 24,
           "base_model.model.model.layers.0.mlp.gate_proj.lora_A.weight");
    expect(ctx, model,
           "{\"peft_type\": \"LORA\", \"target_modules\": \"all-linear\", \"exclude_modules\": \".*layers\\\\.0.*\"}",
           14, "base_model.model.model.layers.1.mlp.gate_proj.lora_A.weight");
    expect(ctx, model, "{\"peft_type\": \"LORA\", \"target_modules\": [\"model.layers.1.self_attn.q_proj\"]}", 2,
           "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight");
    expect(ctx, model, "{\"peft_type\": \"LORA\", \"target_modules\": \".*\\\\.\\\\d+\\\\.self_attn\\\\.(k|o)_proj\"}",
           8, "base_model.model.model.layers.1.self_attn.o_proj.lora_A.weight");
    expect(ctx, model, "{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"layers_to_transform\": 1}", 2,
           "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight");
    expect(ctx, model,
           "{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\", \"norm\"], \"modules_to_save\": [\"norm\"], "
           "\"exclude_modules\": [\"norm\"]}",
           9, "base_model.model.model.layers.0.input_layernorm.modules_to_save.weight");
    expect(ctx, model, "{\"peft_type\": \"LORA\", \"lora_bias\": true, \"target_modules\": [\"q_proj\"]}", 6,
           "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias");
    expect(ctx, model, "{\"peft_type\": \"FULL\"}", 20, "model.embed_tokens.weight");
    expect(ctx, model, "{\"peft_type\": \"FULL\", \"embeddings\": false}", 19, "model.norm.weight");
    expect(ctx, model, "{\"peft_type\": \"FULL\", \"layers\": 1, \"embeddings\": false}", 10,
           "model.layers.1.mlp.up_proj.weight");
    expect(ctx, model, "{\"peft_type\": \"FULL\", \"trainable\": \"head\"}", 1, "model.embed_tokens.weight");
    expect(ctx, model, "{\"peft_type\": \"FULL\", \"trainable\": [\"layers.0\", \"norm.weight\"]}", 10,
           "model.norm.weight");
    expect(ctx, model, "{\"peft_type\": \"FULL\", \"trainable\": \".*_proj\\\\.weight\"}", 14,
           "model.layers.0.self_attn.q_proj.weight");
}

/* ---- folders ---- */

typedef struct files {
    char folder[512], config[600], tensors[600];
} files;

static void files_make(files *f) {
    scratch_folder(f->folder, sizeof f->folder);
    snprintf(f->config, sizeof f->config, "%s/adapter_config.json", f->folder);
    snprintf(f->tensors, sizeof f->tensors, "%s/adapter_model.safetensors", f->folder);
}

static void files_drop(const files *f) {
    char path[600];
    snprintf(path, sizeof path, "%s/adapter_model.bin", f->folder);
    unlink(path);
    unlink(f->config);
    unlink(f->tensors);
    rmdir(f->folder);
}

static void write_bytes(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!CHECK(file != NULL)) return;
    fwrite(data, 1, size, file);
    fclose(file);
}

static void write_text(const char *path, const char *text) {
    write_bytes(path, text, strlen(text));
}

static void refuse_load(peft_context *ctx, peft_model *model, const files *f, peft_status want, const char *word) {
    peft_adapter *adapter = NULL;
    CHECK_STATUS(ctx, peft_adapter_load(ctx, model, f->folder, &adapter), want);
    if (!CHECK(strstr(peft_context_error(ctx), word) != NULL))
        fprintf(stderr, "    \"%s\" does not say \"%s\"\n", peft_context_error(ctx), word);
    peft_adapter_destroy(adapter);
}

static void check_folders(peft_context *ctx, peft_model *model, peft_model *other) {
    files f;
    files_make(&f);
    refuse_load(ctx, model, &f, PEFT_E_IO, "adapter_config.json");
    const char *four = "{\"peft_type\": \"LORA\", \"r\": 4}";
    peft_adapter *adapter = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, model, four, 0, &adapter));
    CHECK_OK(ctx, peft_adapter_save(adapter, f.folder));
    write_text(f.config, "{\"peft_type\": \"LORA\", \"r\": 8}");
    refuse_load(ctx, model, &f, PEFT_E_MISMATCH, "lora_A"); /* wrong rank */
    write_text(f.config, "{\"peft_type\": \"LORA\", \"r\": 4, \"target_modules\": [\"k_proj\"]}");
    refuse_load(ctx, model, &f, PEFT_E_MISMATCH, "fits nothing");
    write_text(f.config, "{\"peft_type\": \"LORA\", \"r\": 4, \"target_modules\": [\"q_proj\"]}");
    refuse_load(ctx, model, &f, PEFT_E_MISMATCH, "v_proj"); /* too many tensors */
    write_text(f.config, "{\"peft_type\": \"LORA\", \"r\": 4, \"target_modules\": [\"nope\"]}");
    refuse_load(ctx, model, &f, PEFT_E_MISMATCH, "nope");
    write_text(f.config, "{\"peft_type\": \"LORA\", \"r\"");
    refuse_load(ctx, model, &f, PEFT_E_FORMAT, "adapter_config.json");
    CHECK_OK(ctx, peft_adapter_save(adapter, f.folder));
    refuse_load(ctx, other, &f, PEFT_E_MISMATCH, "shape"); /* another model */
    struct {
        char *data;
        long size;
    } whole = {NULL, 0};
    FILE *file = fopen(f.tensors, "rb");
    fseek(file, 0, SEEK_END);
    whole.size = ftell(file);
    whole.data = malloc((size_t)whole.size);
    rewind(file);
    CHECK(fread(whole.data, 1, (size_t)whole.size, file) == (size_t)whole.size);
    fclose(file);
    unlink(f.tensors); /* the mapped old one is gone; a new file takes its name */
    for (long cut = 0; cut < whole.size; cut += 1 + whole.size / 37) {
        write_bytes(f.tensors, whole.data, (size_t)cut);
        peft_adapter *none = NULL;
        CHECK(peft_adapter_load(ctx, model, f.folder, &none) < 0);
        CHECK(none == NULL);
    }
    const float not_finite = NAN;
    memcpy(whole.data + whole.size - 4, &not_finite, 4);
    write_bytes(f.tensors, whole.data, (size_t)whole.size);
    refuse_load(ctx, model, &f, PEFT_E_NONFINITE, "not finite");
    unlink(f.tensors);
    char pickle[600];
    snprintf(pickle, sizeof pickle, "%s/adapter_model.bin", f.folder);
    write_bytes(pickle, "x", 1);
    refuse_load(ctx, model, &f, PEFT_E_UNSUPPORTED, "pickle");
    free(whole.data);
    peft_adapter_destroy(adapter);
    files_drop(&f);
}

/* A process that dies while saving over an adapter: what is there afterwards is one whole adapter. */
static void check_killed(peft_context *ctx, peft_model *model) {
    files f;
    files_make(&f);
    peft_adapter *old = NULL, *new = NULL;
    const char *config =
        "{\"peft_type\": \"LORA\", \"init_lora_weights\": false, \"target_modules\": \"all-linear\", \"r\": 16}";
    CHECK_OK(ctx, peft_adapter_create(ctx, model, config, 1, &old));
    CHECK_OK(ctx, peft_adapter_create(ctx, model, config, 2, &new));
    const int64_t count = peft_adapter_parameter_count(old);
    float *a = malloc((size_t)count * sizeof *a), *b = malloc((size_t)count * sizeof *b),
          *c = malloc((size_t)count * sizeof *c);
    CHECK_OK(ctx, peft_adapter_get_parameters(old, a, count));
    CHECK_OK(ctx, peft_adapter_get_parameters(new, b, count));
    int killed = 0;
    for (useconds_t wait = 0; wait < 4000; wait += 200) {
        CHECK_OK(ctx, peft_adapter_save(old, f.folder));
        const pid_t child = fork();
        if (child == 0) {
            for (;;)
                if (peft_adapter_save(new, f.folder) != PEFT_OK) _exit(1);
        }
        usleep(wait);
        kill(child, SIGKILL);
        int status = 0;
        waitpid(child, &status, 0);
        killed += WIFSIGNALED(status);
        peft_adapter *left = NULL;
        CHECK_OK(ctx, peft_adapter_load(ctx, model, f.folder, &left));
        if (left == NULL) continue;
        CHECK_OK(ctx, peft_adapter_get_parameters(left, c, count));
        CHECK(memcmp(a, c, (size_t)count * sizeof *c) == 0 || memcmp(b, c, (size_t)count * sizeof *c) == 0);
        peft_adapter_destroy(left);
    }
    CHECK(killed > 0);
    free(a), free(b), free(c);
    peft_adapter_destroy(old);
    peft_adapter_destroy(new);
    char command[700];
    snprintf(command, sizeof command, "rm -rf '%s'", f.folder); /* with temporary files that the dead left */
    CHECK(system(command) == 0);
}

/* ---- files of other releases, other bases ---- */

static void rename_key(const char *key, char *out, size_t size) {
    const char *tail = strstr(key, "layers."), *leaf = strstr(key, ".lora_A.weight");
    if (leaf != NULL)
        snprintf(out, size, "base_model.model.language_model.%.*s.lora_A.default.weight", (int)(leaf - tail), tail);
    else
        snprintf(out, size, "%s", tail); /* no prefix at all */
}

static void check_other_names(peft_context *ctx, peft_model *model) {
    files f;
    files_make(&f);
    peft_adapter *adapter = NULL, *again = NULL;
    CHECK_OK(ctx,
             peft_adapter_create(ctx, model, "{\"peft_type\": \"LORA\", \"init_lora_weights\": false}", 0, &adapter));
    CHECK_OK(ctx, peft_adapter_save(adapter, f.folder));
    peft__tensor_out out[16];
    char names[16][200];
    memset(out, 0, sizeof out);
    for (uint32_t i = 0; i < adapter->count; i++) {
        rename_key(adapter->slots[i].key, names[i], sizeof names[i]);
        out[i].name = names[i];
        out[i].ndim = adapter->params[i].ndim;
        memcpy(out[i].shape, adapter->params[i].shape, 2 * sizeof *out[i].shape);
        out[i].data = adapter->params[i].data;
    }
    CHECK_OK(ctx, peft__safetensors_write(ctx, f.tensors, out, adapter->count, NULL, 0));
    CHECK_OK(ctx, peft_adapter_load(ctx, model, f.folder, &again));
    if (again != NULL) {
        CHECK(strstr(peft_adapter_report(again), "8 tensors matched under the names of another") != NULL);
        for (uint32_t i = 0; i < adapter->count; i++)
            CHECK(memcmp(adapter->params[i].data, again->params[i].data,
                         (size_t)adapter->params[i].elements * sizeof(float)) == 0);
    }
    peft_adapter_destroy(again);
    snprintf(names[1], sizeof names[1],
             "layers.0.self_attn.q_proj.lora_A.weight"); /* the same tensor under two names */
    memcpy(out[1].shape, out[0].shape, sizeof out[0].shape);
    out[1].data = out[0].data;
    CHECK_OK(ctx, peft__safetensors_write(ctx, f.tensors, out, adapter->count, NULL, 0));
    refuse_load(ctx, model, &f, PEFT_E_MISMATCH, "two tensors");
    peft_adapter_destroy(adapter);
    files_drop(&f);
}

static void keep_log(void *user, int32_t level, const char *line) {
    char *text = user;
    if (level <= PEFT_LOG_WARNING && strlen(text) + strlen(line) < 4000) strcat(text, line);
}

static void check_other_base(void) {
    char log[4096] = "";
    peft_context_options options;
    peft_context_options_init(&options);
    options.log = keep_log;
    options.log_user = log;
    peft_context *ctx = NULL;
    CHECK_OK(NULL, peft_context_create(&options, &ctx));
    peft_model *model = load_model(ctx, "llama-gqa"), *merged = NULL;
    files f;
    files_make(&f);
    peft_adapter *adapter = NULL, *same = NULL, *other = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, model,
                                      "{\"peft_type\": \"LORA\", \"init_lora_weights\": false, \"lora_alfa\": 3}", 0,
                                      &adapter));
    CHECK(strstr(log, "lora_alfa") != NULL && strstr(log, "\"lora_alpha\"") != NULL);
    log[0] = 0;
    CHECK_OK(ctx, peft_adapter_save(adapter, f.folder));
    CHECK_OK(ctx, peft_adapter_load(ctx, model, f.folder, &same));
    if (!CHECK(log[0] == 0)) fprintf(stderr, "    %s\n", log);
    CHECK_OK(ctx, peft_model_merge(ctx, model, &adapter, 1, &merged)); /* equal shapes, other weights */
    CHECK_OK(ctx, peft_adapter_load(ctx, merged, f.folder, &other));
    CHECK(strstr(log, "other weights") != NULL);
    peft_adapter_destroy(adapter);
    peft_adapter_destroy(same);
    peft_adapter_destroy(other);
    peft_model_destroy(merged);
    peft_model_destroy(model);
    peft_context_destroy(ctx);
    files_drop(&f);
}

/* A model with a head that its files do not have. */
static void check_heads(peft_context *ctx) {
    char path[1024];
    peft_model_options options;
    peft_model_options_init(&options);
    options.task = PEFT_TASK_SEQ_CLS;
    options.num_labels = 3;
    peft_model *model = NULL;
    CHECK_OK(ctx, peft_model_load(ctx, data_path(path, sizeof path, "models/%s", "llama-gqa"), &options, &model));
    if (model == NULL) return;
    expect(ctx, model, "{\"peft_type\": \"FULL\", \"trainable\": \"head\"}", 1, "score.weight");
    expect(ctx, model, "{\"peft_type\": \"FULL\"}", 21, "score.weight");
    expect(ctx, model, "{\"peft_type\": \"FULL\", \"trainable\": [\"norm\"]}", 2, "score.weight");
    files f;
    files_make(&f);
    peft_adapter *adapter = NULL, *again = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, model, "{\"peft_type\": \"LORA\", \"target_modules\": \"all-linear\"}", 5,
                                      &adapter));
    if (adapter != NULL) {
        CHECK(adapter->count == 29);
        CHECK_STR(adapter->params[0].name, "base_model.model.score.modules_to_save.weight");
        CHECK_STR(adapter->slots[0].key, "base_model.model.score.weight");
        double sum = 0.0;
        for (int64_t i = 0; i < adapter->params[0].elements; i++)
            sum += (double)adapter->params[0].data[i] * (double)adapter->params[0].data[i];
        CHECK_NEAR(sqrt(sum / (double)adapter->params[0].elements), 0.02, 0.004);
        CHECK(strstr(peft_adapter_config(adapter), "\"SEQ_CLS\"") != NULL);
        CHECK_OK(ctx, peft_adapter_save(adapter, f.folder));
        CHECK_OK(ctx, peft_adapter_load(ctx, model, f.folder, &again));
        if (again != NULL) {
            CHECK(memcmp(again->params[0].data, adapter->params[0].data,
                         (size_t)adapter->params[0].elements * sizeof(float)) == 0);
            CHECK_STR(peft_adapter_config(again), peft_adapter_config(adapter)); /* heads are not listed twice */
        }
    }
    peft_adapter_destroy(again);
    peft_adapter_destroy(adapter);
    peft_model_destroy(model);
    files_drop(&f);
}

static void check_small(peft_context *ctx, peft_model *model) {
    peft_adapter *lora = NULL, *full = NULL;
    CHECK_OK(ctx, peft_adapter_create(ctx, model,
                                      "{\"peft_type\": \"LORA\", \"loraplus_lr_ratio\": 16, \"use_lora_fa\": true}", 0,
                                      &lora));
    CHECK_OK(ctx,
             peft_adapter_create(ctx, model, "{\"peft_type\": \"FULL\", \"trainable\": [\"model.norm\"]}", 0, &full));
    if (lora == NULL || full == NULL) return;
    CHECK(strstr(peft_adapter_config(lora), "loraplus") == NULL &&
          strstr(peft_adapter_config(lora), "use_lora_fa") == NULL);
    CHECK(lora->params[1].lr_scale == 16.0f && lora->params[0].lr_scale == 1.0f);
    CHECK((lora->params[0].flags & PEFT__PARAM_FROZEN) != 0 && (lora->params[1].flags & PEFT__PARAM_FROZEN) == 0);
    CHECK(strstr(peft_adapter_report(lora), "4 modules adapted") != NULL);
    CHECK_STATUS(NULL, peft_adapter_set_scale(full, 0.5f), PEFT_E_UNSUPPORTED);
    CHECK_OK(ctx, peft_adapter_set_scale(full, 1.0f));
    CHECK_STATUS(NULL, peft_adapter_set_scale(lora, INFINITY), PEFT_E_ARG);
    CHECK_STATUS(NULL, peft_adapter_set_tensor(lora, "nothing", NULL, 0), PEFT_E_MISMATCH);
    float values[64];
    for (int i = 0; i < 64; i++) values[i] = (float)i;
    CHECK_OK(ctx, peft_adapter_set_tensor(full, "model.norm.weight", values, 64));
    CHECK(full->params[0].data[63] == 63.0f);
    CHECK(((uintptr_t)full->params[0].data & 63) == 0 && ((uintptr_t)lora->params[1].data & 63) == 0);
    peft_tensor_info info = {.struct_size = sizeof info};
    CHECK_STATUS(NULL, peft_adapter_tensor(full, 1, &info), PEFT_E_ARG);
    peft_adapter_destroy(lora);
    peft_adapter_destroy(full);
}

int main(void) {
    peft_context *ctx = test_context();
    peft_model *model = load_model(ctx, "llama-gqa"), *other = load_model(ctx, "qwen3");
    if (model != NULL && other != NULL) {
        check_refusals(ctx, model);
        check_rules(ctx, model);
        check_folders(ctx, model, other);
        check_killed(ctx, model);
        check_other_names(ctx, model);
        check_other_base();
        check_heads(ctx);
        check_small(ctx, model);
    }
    peft_model_destroy(model);
    peft_model_destroy(other);
    peft_context_destroy(ctx);
    return check_summary();
}
