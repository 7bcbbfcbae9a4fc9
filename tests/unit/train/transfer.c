/* Transfer learning: learning rates that fall towards the input and layers that are trained one after the other,
 * against torch's parameter groups; resumed in the middle to the bit; and what rests costs nothing. */
#include "check.h"
#include "format/safetensors.h"
#include "train/train.h"

#include <unistd.h>

enum { ROWS = 40, SEQUENCES = 4 };

static peft_context *ctx;
static peft__tensors *file;

static const char *data_path(const char *name) {
    static char path[1024];
    const char *root = getenv("PEFT_TEST_DATA");
    (void)snprintf(path, sizeof path, "%s/%s", root != NULL ? root : "tests/data", name);
    return path;
}

typedef struct run {
    peft_model *model;
    peft_adapter *adapter;
    peft_optimizer *optimizer;
    peft_session *session;
    peft_batch batch;
    int32_t ids[ROWS], classes[SEQUENCES];
} run;

static const int32_t OFFSETS[SEQUENCES + 1] = {0, 9, 12, 33, 40};
static const char FULL[] = "{\"peft_type\": \"FULL\"}";
static const char LORA[] = "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"target_modules\": [\"query\", "
                           "\"output.dense\"], \"modules_to_save\": [\"pooler\"]}";

static void read_ids(const char *name, int32_t *out, size_t count) {
    const peft__tensor *tensor = peft__tensors_find(file, name);
    if (CHECK(tensor != NULL && tensor->bytes == count * sizeof *out)) memcpy(out, tensor->data, count * sizeof *out);
}

/* Values that the file has under "<prefix><name>", to be freed. */
static float *given(const char *prefix, const char *name, int64_t *out_count) {
    char key[512];
    (void)snprintf(key, sizeof key, "%s%s", prefix, name);
    const peft__tensor *tensor = peft__tensors_find(file, key);
    if (tensor == NULL) return NULL;
    *out_count = peft__tensor_elements(tensor);
    float *values = malloc((size_t)*out_count * sizeof *values);
    CHECK_OK(ctx, peft__tensor_read_f32(ctx, tensor, values));
    return values;
}

static bool open_run(run *r, const char *config, const char *start, float decay) {
    memset(r, 0, sizeof *r);
    peft_model_options how;
    peft_model_options_init(&how);
    how.task = PEFT_TASK_SEQ_CLS;
    how.num_labels = 3;
    peft_optimizer_options o;
    peft_optimizer_options_init(&o);
    o.lr = 4e-3f;
    o.eps = 1e-4f;
    o.weight_decay = 0.1f;
    o.max_grad_norm = 0.0f;
    o.layer_lr_decay = decay;
    CHECK_OK(ctx, peft_model_load(ctx, data_path("models/bert"), &how, &r->model));
    if (r->model == NULL) return false;
    CHECK_OK(ctx, peft_adapter_create(ctx, r->model, config, 1, &r->adapter));
    if (r->adapter == NULL) return false;
    for (uint32_t i = 0; i < r->adapter->count; i++) {
        int64_t count = 0;
        const peft__param *param = &r->adapter->params[i];
        float *values = given(start, param->name, &count);
        if (values == NULL) continue;
        CHECK_OK(ctx, peft_adapter_set_tensor(r->adapter, param->name, values, count));
        free(values);
    }
    CHECK_OK(ctx, peft_optimizer_create(ctx, r->adapter, &o, &r->optimizer));
    CHECK_OK(ctx, peft_session_create(ctx, r->model, &r->adapter, 1, NULL, &r->session));
    read_ids("ids", r->ids, ROWS);
    read_ids("classes", r->classes, SEQUENCES);
    peft_batch_init(&r->batch);
    r->batch.rows = ROWS;
    r->batch.sequences = SEQUENCES;
    r->batch.offsets = OFFSETS;
    r->batch.input_ids = r->ids;
    r->batch.sequence_labels = r->classes;
    return r->optimizer != NULL && r->session != NULL;
}

static void close_run(run *r) {
    peft_session_destroy(r->session);
    peft_optimizer_destroy(r->optimizer);
    peft_adapter_destroy(r->adapter);
    peft_model_destroy(r->model);
}

static void step(run *r, int32_t layers, double want_loss) {
    double loss = 0.0;
    CHECK_OK(ctx, peft_adapter_set_top_layers(r->adapter, layers));
    CHECK_OK(ctx, peft_session_forward(r->session, &r->batch, &loss));
    CHECK_OK(ctx, peft_session_backward(r->session, 1.0f));
    CHECK_OK(ctx, peft_optimizer_step(r->optimizer, r->session, NULL));
    CHECK_NEAR(loss, want_loss, 2e-5);
}

static void check_final(const run *r, const char *prefix) {
    int compared = 0;
    for (uint32_t i = 0; i < r->adapter->count; i++) {
        int64_t count = 0;
        float *want = given(prefix, r->adapter->params[i].name, &count);
        if (!CHECK(want != NULL)) {
            fprintf(stderr, "    %s%s is not in the file\n", prefix, r->adapter->params[i].name);
            continue;
        }
        double worst = 0.0, top = 0.0;
        for (int64_t k = 0; k < count; k++) {
            worst = fmax(worst, fabs((double)r->adapter->params[i].data[k] - (double)want[k]));
            top = fmax(top, fabs((double)want[k]));
        }
        if (!CHECK(worst <= 2e-5 * fmax(top, 0.1)))
            fprintf(stderr, "    %s: %g of %g\n", r->adapter->params[i].name, worst, top);
        free(want);
        compared++;
    }
    CHECK(compared >= 16);
}

/* As in make_transfer.py. */
static int32_t everything(int at) {
    (void)at;
    return -1;
}
static int32_t two_steps_a_stage(int at) {
    peft_unfreezing plan;
    peft_unfreezing_init(&plan);
    plan.stage_steps = 2;
    return peft_unfreezing_layers(&plan, (uint64_t)at);
}
static int32_t probe_first(int at) {
    return at > 2 ? -1 : at / 2;
}

static void check_torch(const char *config, const char *name, float decay, int steps, int32_t (*layers)(int)) {
    char key[64], start[64];
    int64_t count = 0;
    run r;
    (void)snprintf(key, sizeof key, "%s.final.", name);
    (void)snprintf(start, sizeof start, "%s.start.", name);
    if (config == FULL) (void)snprintf(start, sizeof start, "start.");
    float *losses = given(name, ".losses", &count);
    if (!CHECK(losses != NULL && count == steps)) return;
    if (open_run(&r, config, start, decay)) {
        for (int i = 0; i < steps; i++) step(&r, layers(i), (double)losses[i]);
        check_final(&r, key);
    }
    close_run(&r);
    free(losses);
}

/* Stopped while layers rest and gone on with, in a session that knew nothing of it. */
static void check_resume(void) {
    char folder[] = "/tmp/peft-transfer-XXXXXX", inside[64];
    if (!CHECK(mkdtemp(folder) != NULL)) return;
    (void)snprintf(inside, sizeof inside, "%s/run", folder);
    int64_t count = 0;
    float *losses = given("unfreeze", ".losses", &count);
    run whole, rest;
    if (open_run(&whole, FULL, "start.", 0.8f) && open_run(&rest, FULL, "none.", 0.8f) && CHECK(count == 8)) {
        for (int i = 0; i < 5; i++) step(&whole, two_steps_a_stage(i), (double)losses[i]);
        CHECK_OK(ctx, peft_checkpoint_save(whole.session, whole.optimizer, inside, NULL));
        CHECK_OK(ctx, peft_checkpoint_load(rest.session, rest.optimizer, inside, NULL));
        CHECK(peft_adapter_top_layers(rest.adapter) == 2);
        for (int i = 5; i < 8; i++) {
            step(&whole, two_steps_a_stage(i), (double)losses[i]);
            step(&rest, two_steps_a_stage(i), (double)losses[i]);
        }
        for (uint32_t i = 0; i < whole.adapter->count; i++)
            CHECK(memcmp(whole.adapter->params[i].data, rest.adapter->params[i].data,
                         (size_t)whole.adapter->params[i].elements * sizeof(float)) == 0);
        for (uint32_t i = 0; i < whole.optimizer->moment_count; i++)
            CHECK(whole.optimizer->moments[i].steps == rest.optimizer->moments[i].steps);
    }
    close_run(&whole);
    close_run(&rest);
    free(losses);
    static const char *const files[] = {"checkpoint.json", "parameters.safetensors", "optimizer.safetensors"};
    for (size_t i = 0; i < PEFT_COUNT(files); i++) {
        char path[128];
        (void)snprintf(path, sizeof path, "%s/%s", inside, files[i]);
        CHECK(unlink(path) == 0);
    }
    CHECK(rmdir(inside) == 0 && rmdir(folder) == 0);
}

/* What rests has no gradient and takes no memory for one; gradients of the others are the same to the bit. */
static void check_rest(void) {
    run r;
    if (!open_run(&r, FULL, "start.", 1.0f)) return;
    const int64_t count = peft_adapter_parameter_count(r.adapter);
    float *all = malloc((size_t)count * sizeof *all), *some = malloc((size_t)count * sizeof *some);
    uint64_t least = 0;
    peft_session_options options;
    peft_session_options_init(&options);
    options.max_rows = ROWS;
    options.max_sequences = SEQUENCES;
    for (int32_t layers = -1; layers <= 3; layers++) {
        CHECK_OK(ctx, peft_adapter_set_top_layers(r.adapter, layers));
        CHECK_OK(ctx, peft_session_forward(r.session, &r.batch, NULL));
        CHECK_OK(ctx, peft_session_backward(r.session, 1.0f));
        CHECK_OK(ctx, peft_session_get_gradients(r.session, r.adapter, layers < 0 ? all : some, count));
        CHECK_OK(ctx, peft_session_zero_grad(r.session));
        for (int64_t i = 0, first = 0; layers >= 0 && i < (int64_t)r.adapter->count; i++) {
            const int64_t size = r.adapter->params[i].elements;
            const bool trained = peft__adapter_depth(r.adapter, (uint32_t)i) <= layers;
            bool same = true, zero = true;
            for (int64_t k = first; k < first + size; k++) {
                same = same && memcmp(&all[k], &some[k], sizeof(float)) == 0;
                zero = zero && some[k] == 0.0f;
            }
            if (!CHECK(trained ? same : zero))
                fprintf(stderr, "    %d layers: %s\n", (int)layers, r.adapter->params[i].name);
            first += size;
        }
        peft_memory_info memory = {.struct_size = sizeof memory};
        CHECK_OK(ctx, peft_session_memory(ctx, r.model, &r.adapter, 1, &options, &memory));
        if (layers > 0) CHECK(memory.gradients > least);
        least = memory.gradients;
    }
    free(all);
    free(some);
    close_run(&r);
}

/* Depth of every tensor whose name holds a text. */
static void check_depth(const peft_adapter *adapter, const char *part, int32_t want) {
    int found = 0;
    for (uint32_t i = 0; i < adapter->count; i++) {
        if (strstr(adapter->params[i].name, part) == NULL) continue;
        found++;
        if (!CHECK(peft__adapter_depth(adapter, i) == want))
            fprintf(stderr, "    %s: %d\n", adapter->params[i].name, (int)peft__adapter_depth(adapter, i));
    }
    CHECK(found > 0);
}

static void check_depths(void) {
    run r;
    if (open_run(&r, FULL, "start.", 0.5f)) {
        check_depth(r.adapter, "classifier", 0);
        check_depth(r.adapter, "pooler", 0);
        check_depth(r.adapter, "layer.1.", 1);
        check_depth(r.adapter, "layer.0.", 2);
        check_depth(r.adapter, "embeddings.", 3);
        for (uint32_t i = 0; i < r.adapter->count; i++)
            CHECK_NEAR(peft_optimizer_lr_scale(r.optimizer, i), pow(0.5, peft__adapter_depth(r.adapter, i)), 0.0);
        CHECK_OK(ctx, peft_optimizer_set_lr_scale(r.optimizer, 1, 0.0f));
        CHECK_OK(ctx, peft_optimizer_set_lr_scale(r.optimizer, 0, 3.0f));
        CHECK(peft_optimizer_lr_scale(r.optimizer, 0) == 3.0f);
        CHECK_STATUS(ctx, peft_optimizer_set_lr_scale(r.optimizer, 0, -1.0f), PEFT_E_ARG);
        CHECK_STATUS(ctx, peft_optimizer_set_lr_scale(r.optimizer, 0, NAN), PEFT_E_ARG);
        CHECK_STATUS(ctx, peft_optimizer_set_lr_scale(r.optimizer, 100000, 1.0f), PEFT_E_ARG);
        CHECK_STATUS(ctx, peft_adapter_set_top_layers(r.adapter, -2), PEFT_E_ARG);
        const float before = r.adapter->params[1].data[0], moved = r.adapter->params[0].data[0];
        double loss;
        CHECK_OK(ctx, peft_session_forward(r.session, &r.batch, &loss));
        CHECK_OK(ctx, peft_session_backward(r.session, 1.0f));
        CHECK_OK(ctx, peft_optimizer_step(r.optimizer, r.session, NULL));
        CHECK(r.adapter->params[1].data[0] == before && r.adapter->params[0].data[0] != moved);
    }
    close_run(&r);

    static const struct {
        const char *model, *config, *part;
        int32_t depth;
    } CASES[] = {
        {"models/gpt2", "{\"peft_type\": \"FULL\"}", "wpe", 3},
        {"models/gpt2", "{\"peft_type\": \"FULL\"}", "ln_f", 0},
        {"models/t5-tiny", "{\"peft_type\": \"FULL\"}", "decoder.final_layer_norm", 0},
        {"models/t5-tiny", "{\"peft_type\": \"LORA\", \"target_modules\": [\"q\"]}", "block.1.", 1},
        {"models/t5-tiny", "{\"peft_type\": \"LORA\", \"target_modules\": [\"q\"]}", "block.0.", 2},
        {"models/bert", "{\"peft_type\": \"BOTTLENECK\"}", "layer.0.", 2},
        {"models/llama-gqa", "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 3}", "prompt", 0},
        {"models/llama-gqa", "{\"peft_type\": \"LORA\", \"target_modules\": \"all-linear\"}", "layers.0.", 2},
    };
    for (size_t i = 0; i < PEFT_COUNT(CASES); i++) {
        peft_model *model = NULL;
        peft_adapter *adapter = NULL;
        CHECK_OK(ctx, peft_model_load(ctx, data_path(CASES[i].model), NULL, &model));
        if (model != NULL) CHECK_OK(ctx, peft_adapter_create(ctx, model, CASES[i].config, 1, &adapter));
        if (adapter != NULL) {
            check_depth(adapter, CASES[i].part, CASES[i].depth);
            const bool outside = CASES[i].depth == 0 || strstr(CASES[i].config, "FULL") != NULL;
            CHECK_STATUS(ctx, peft_adapter_set_top_layers(adapter, 0), outside ? PEFT_OK : PEFT_E_ARG);
        }
        peft_adapter_destroy(adapter);
        peft_model_destroy(model);
    }
}

static void check_plan(void) {
    peft_unfreezing plan;
    peft_unfreezing_init(&plan);
    CHECK(peft_unfreezing_layers(&plan, 7) == -1 && peft_unfreezing_layers(NULL, 7) == -1);
    plan.stage_steps = 10;
    CHECK(peft_unfreezing_layers(&plan, 9) == 0 && peft_unfreezing_layers(&plan, 10) == 1);
    plan.first_layers = 2;
    plan.stage_layers = INT32_MAX;
    CHECK(peft_unfreezing_layers(&plan, 9) == 2 && peft_unfreezing_layers(&plan, 10) == INT32_MAX);
    CHECK(peft_unfreezing_layers(&plan, UINT64_MAX) == INT32_MAX);
}

int main(void) {
    if (peft_context_create(NULL, &ctx) < 0) return 1;
    CHECK_OK(ctx, peft__safetensors_open(ctx, data_path("train/transfer.safetensors"), &file));
    if (file == NULL) return check_summary();
    check_torch(FULL, "decay", 0.5f, 5, everything);
    check_torch(FULL, "unfreeze", 0.8f, 8, two_steps_a_stage);
    check_torch(LORA, "lora", 0.5f, 5, probe_first);
    check_resume();
    check_rest();
    check_depths();
    check_plan();
    peft__tensors_unref(file);
    peft_context_destroy(ctx);
    return check_summary();
}
