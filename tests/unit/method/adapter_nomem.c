/* adapter_nomem.c: every allocation of making, saving, loading and merging adapters fails in turn. Each time:
 * PEFT_E_NOMEM, nothing leaks, and what was there before is unchanged. */
#include "support.h"

typedef struct failing {
    long left; /* allocations until one fails; negative = never */
    long live; /* blocks handed out */
    bool failed;
} failing;

static void *take(void *user, size_t size, size_t align) {
    failing *f = user;
    if (f->left == 0) {
        f->failed = true;
        return NULL;
    }
    if (f->left > 0) f->left--;
    void *memory = NULL;
    if (posix_memalign(&memory, align < sizeof(void *) ? sizeof(void *) : align, size) != 0) return NULL;
    f->live++;
    return memory;
}

static void give(void *user, void *memory, size_t size) {
    (void)size;
    failing *f = user;
    if (memory != NULL) f->live--;
    free(memory);
}

typedef struct fixture {
    peft_context *ctx;
    peft_model *model;
    failing memory;
    char folder[512], out[600];
} fixture;

static peft_status run(fixture *t, const char *config) {
    peft_adapter *adapter = NULL, *loaded = NULL;
    peft_model *merged = NULL;
    peft_status status = peft_adapter_create(t->ctx, t->model, config, 3, &adapter);
    if (status >= 0) status = peft_adapter_save(adapter, t->folder);
    char gguf[600];
    snprintf(gguf, sizeof gguf, "%s/adapter.gguf", t->folder);
    if (status >= 0 && strstr(config, "pissa") != NULL) {
        const float weights[] = {0.5f, 2.0f};
        peft_adapter *const two[] = {adapter, adapter};
        peft_adapter *combined = NULL;
        peft_combine_options three;
        peft_combine_options_init(&three);
        three.rank = 3;
        status = peft_adapter_export_gguf(adapter, gguf);
        if (status >= 0) status = peft_adapter_combine(t->ctx, t->model, two, weights, 2, "svd", &three, &combined);
        peft_adapter_destroy(combined);
        combined = NULL;
        if (status >= 0) status = peft_adapter_combine(t->ctx, t->model, two, weights, 2, "ties_svd", NULL, &combined);
        peft_adapter_destroy(combined);
    }
    if (status >= 0) status = peft_adapter_load(t->ctx, t->model, t->folder, &loaded);
    if (status >= 0) status = peft_model_merge(t->ctx, t->model, &loaded, 1, &merged);
    if (status >= 0) status = peft_model_save(t->ctx, merged, t->out, PEFT_DTYPE_F16);
    peft_model_destroy(merged);
    peft_adapter_destroy(loaded);
    peft_adapter_destroy(adapter);
    return status;
}

static void check(fixture *t, const char *config) {
    long tried = 0;
    for (;; tried++) {
        const long live = t->memory.live;
        t->memory.left = tried;
        t->memory.failed = false;
        const peft_status status = run(t, config);
        t->memory.left = -1;
        if (!CHECK(t->memory.live == live))
            fprintf(stderr, "    %ld blocks leak when allocation %ld fails\n", t->memory.live - live, tried);
        if (!t->memory.failed) {
            CHECK_STATUS(t->ctx, status, PEFT_OK);
            break;
        }
        if (!CHECK(status == PEFT_E_NOMEM))
            fprintf(stderr, "    allocation %ld: %s: %s\n", tried, peft_status_name(status),
                    peft_context_error(t->ctx));
        if (tried > 40) tried += tried / 40; /* early ones each, later ones in strides */
    }
    CHECK(tried > 50);
}

int main(void) {
    fixture t;
    memset(&t, 0, sizeof t);
    t.memory.left = -1;
    peft_context_options options;
    peft_context_options_init(&options);
    options.log_level = 0;
    options.threads = 1;
    const peft_allocator allocator = {take, give, &t.memory};
    options.allocator = &allocator;
    if (peft_context_create(&options, &t.ctx) != PEFT_OK) return 1;
    t.model = load_model(t.ctx, "llama-mha-untied");
    scratch_folder(t.folder, sizeof t.folder);
    snprintf(t.out, sizeof t.out, "%s/merged", t.folder);
    check(&t, "{\"peft_type\": \"LORA\", \"use_dora\": true, \"target_modules\": \".*_proj\", \"exclude_modules\": "
              "[\"up_proj\"], \"rank_pattern\": {\"q_proj\": 2}}");
    check(&t, "{\"peft_type\": \"LORA\", \"target_modules\": [\"embed_tokens\", \"lm_head\"], \"modules_to_save\": "
              "[\"norm\"]}");
    check(&t, "{\"peft_type\": \"FULL\", \"trainable\": \".*proj.*\"}");
    check(&t, "{\"peft_type\": \"LOHA\", \"r\": 2}");
    check(&t, "{\"peft_type\": \"LOKR\", \"r\": 1, \"decompose_both\": true}");
    check(&t, "{\"peft_type\": \"VERA\", \"r\": 4}");
    check(&t, "{\"peft_type\": \"OFT\", \"oft_block_size\": 8}");
    check(&t, "{\"peft_type\": \"ADALORA\", \"init_r\": 2, \"target_r\": 1, \"total_step\": 9}");
    check(&t, "{\"peft_type\": \"LORA\", \"r\": 2, \"init_lora_weights\": \"pissa\"}");
    peft_model_destroy(t.model);
    peft_context_destroy(t.ctx);
    CHECK(t.memory.live == 0);
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", t.folder);
    CHECK(system(command) == 0);
    return check_summary();
}
