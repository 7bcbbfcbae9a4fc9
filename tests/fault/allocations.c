/* allocations.c: every allocation of a whole training run is made to fail, one after the other.
 *
 * The call that meets the failure says PEFT_E_NOMEM and has changed nothing; called again it works, and the run ends
 * with the same bits as the undisturbed one. Nothing is leaked.
 */
#include <unistd.h>

#include "world.h"

typedef struct meter {
    long count, fail_at, held_blocks;
    size_t held;
    bool failed;
} meter;

static void *meter_alloc(void *user, size_t size, size_t align) {
    meter *m = user;
    if (m->count++ == m->fail_at) {
        m->failed = true;
        return NULL;
    }
    void *memory = NULL;
    if (posix_memalign(&memory, align < sizeof(void *) ? sizeof(void *) : align, size > 0 ? size : 1) != 0) return NULL;
    m->held += size;
    m->held_blocks++;
    return memory;
}

static void meter_free(void *user, void *memory, size_t size) {
    meter *m = user;
    if (memory == NULL) return;
    m->held -= size;
    m->held_blocks--;
    free(memory);
}

/* Adapter parameters as they were before a call that failed. */
static float *parameters(const peft_adapter *adapter) {
    const int64_t count = peft_adapter_parameter_count(adapter);
    float *values = malloc((size_t)count * sizeof *values);
    CHECK(peft_adapter_get_parameters(adapter, values, count) == PEFT_OK);
    return values;
}

/* Calls once more after the one failure that was planned. */
#define RETRY(w, call)                                                                                                 \
    do {                                                                                                               \
        float *before_call = (w)->adapter != NULL ? parameters((w)->adapter) : NULL;                                   \
        peft_status status_of_call = (call);                                                                           \
        if (status_of_call == PEFT_E_NOMEM) {                                                                          \
            if (before_call != NULL) {                                                                                 \
                float *after_call = parameters((w)->adapter);                                                          \
                const size_t size = (size_t)peft_adapter_parameter_count((w)->adapter) * sizeof *after_call;           \
                CHECK(memcmp(before_call, after_call, size) == 0);                                                     \
                free(after_call);                                                                                      \
            }                                                                                                          \
            status_of_call = (call);                                                                                   \
        }                                                                                                              \
        free(before_call);                                                                                             \
        if (!CHECK(status_of_call == PEFT_OK))                                                                         \
            fprintf(stderr, "    allocation %ld: %s: %s\n", m->fail_at, peft_status_name(status_of_call),              \
                    (w)->ctx != NULL ? peft_context_error((w)->ctx) : "");                                             \
        if (status_of_call != PEFT_OK) goto end;                                                                       \
    } while (0)

/* The whole run; its last parameters in `out` (to be freed), NULL when it did not get there. */
static float *run(meter *m, const char *folder, size_t *out_bytes) {
    world w = {0};
    float *last = NULL;
    double loss = 0.0;
    char path[4096];
    world_batch(&w, 1);
    const peft_allocator allocator = {meter_alloc, meter_free, m};
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = 1;
    options.allocator = &allocator;
    const peft_model_options model_options = world_model_options();
    const peft_session_options session_options = world_session_options();
    RETRY(&w, peft_context_create(&options, &w.ctx));
    RETRY(&w, peft_model_load(w.ctx, world_model_path(), &model_options, &w.model));
    RETRY(&w, peft_adapter_create(w.ctx, w.model, world_config(), 7, &w.adapter));
    RETRY(&w, peft_optimizer_create(w.ctx, w.adapter, NULL, &w.optimizer));
    RETRY(&w, peft_session_create(w.ctx, w.model, &w.adapter, 1, &session_options, &w.session));
    for (int step = 0; step < 2; step++) {
        RETRY(&w, peft_session_forward(w.session, &w.batch, &loss));
        RETRY(&w, peft_session_backward(w.session, 1.0f));
        RETRY(&w, peft_optimizer_step(w.optimizer, w.session, NULL));
    }
    RETRY(&w, peft_session_eval(w.session, &w.batch, &loss, NULL));
    snprintf(path, sizeof path, "%s/adapter", folder);
    RETRY(&w, peft_adapter_save(w.adapter, path));
    snprintf(path, sizeof path, "%s/checkpoint", folder);
    RETRY(&w, peft_checkpoint_save(w.session, w.optimizer, path, "{}"));
    RETRY(&w, peft_checkpoint_load(w.session, w.optimizer, path, NULL));
    last = parameters(w.adapter);
    *out_bytes = (size_t)peft_adapter_parameter_count(w.adapter) * sizeof *last;
end:
    world_close(&w);
    if (!CHECK(m->held_blocks == 0 && m->held == 0))
        fprintf(stderr, "    allocation %ld: %ld blocks, %zu bytes are left\n", m->fail_at, m->held_blocks, m->held);
    return last;
}

static void remove_all(const char *folder) {
    static const char *const files[] = {"adapter/adapter_config.json",      "adapter/adapter_model.safetensors",
                                        "checkpoint/checkpoint.json",       "checkpoint/parameters.safetensors",
                                        "checkpoint/optimizer.safetensors", "checkpoint/host.json"};
    char path[4096];
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        (void)unlink(path);
    }
    static const char *const folders[] = {"adapter", "checkpoint"};
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, folders[i]);
        CHECK(rmdir(path) == 0); /* nothing else was left behind */
    }
    CHECK(rmdir(folder) == 0);
}

int main(void) {
    char folder[] = "/tmp/peft-allocations-XXXXXX";
    if (mkdtemp(folder) == NULL) return 1;
    meter calm = {.fail_at = -1};
    size_t bytes = 0;
    float *want = run(&calm, folder, &bytes);
    if (want == NULL) return check_summary();
    long failures = 0;
    for (long k = 0;; k++) {
        meter m = {.fail_at = k};
        float *got = run(&m, folder, &bytes);
        if (!m.failed) {
            free(got);
            break;
        }
        failures++;
        if (got != NULL && !CHECK(memcmp(got, want, bytes) == 0))
            fprintf(stderr, "    allocation %ld changed the result\n", k);
        free(got);
        if (check_failed > 20) break;
    }
    printf("%ld allocations, each failed once\n", failures);
    free(want);
    remove_all(folder);
    return check_summary();
}
