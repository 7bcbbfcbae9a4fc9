/* Encoder-decoder models under disturbance: every allocation of reading, training and writing is made to fail once, and
 * threads and slices of time change no bit. */
#include <stdbool.h>

#include "check.h"
#include "peft/peft.h"

enum { NEW = 8, STEPS = 3 };

static const int32_t offsets[] = {0, 4, 9}, input_ids[] = {14, 4, 39, 35, 7, 29, 20, 18, 32};
static const int32_t decoder_offsets[] = {0, 2, 5, 6, 8, 11}, decoder_ids[] = {0, 5, 0, 9, 3, 0, 0, 4, 0, 8, 8};
static const int32_t decoder_labels[] = {5, 39, 9, -100, 39, 39, 4, 39, 8, 8, 39};
static const int32_t source[] = {0, 1, 0, 1, 0}, right[] = {2, 0};

typedef struct meter {
    long count, fail_at, held;
} meter;

static void *meter_alloc(void *user, size_t size, size_t align) {
    meter *m = user;
    if (m->count++ == m->fail_at) return NULL;
    void *memory = NULL;
    if (posix_memalign(&memory, align < sizeof(void *) ? sizeof(void *) : align, size > 0 ? size : 1) != 0) return NULL;
    m->held++;
    return memory;
}

static void meter_free(void *user, void *memory, size_t size) {
    (void)size;
    if (memory != NULL) ((meter *)user)->held--;
    free(memory);
}

/* What a run ends with. */
typedef struct result {
    float parameters[4096];
    int32_t ids[NEW];
    int64_t parameter_count, id_count, scored;
    double nll[5];
} result;

typedef struct setting {
    uint32_t threads;
    uint64_t budget_us;
    meter *meter;
} setting;

/* Once more after the planned failure. */
static bool again(peft_context *ctx, peft_status first, peft_status (*call)(void *), void *user, const meter *m) {
    peft_status status = first;
    if (status == PEFT_E_NOMEM && m != NULL) status = call(user);
    if (!CHECK(status == PEFT_OK))
        fprintf(stderr, "    allocation %ld: %s\n", m != NULL ? m->fail_at : -1,
                ctx != NULL ? peft_context_error(ctx) : "");
    return status == PEFT_OK;
}

typedef struct world {
    const setting *set;
    peft_allocator allocator;
    peft_context *ctx;
    peft_model *model;
    peft_adapter *adapter;
    peft_optimizer *optimizer;
    peft_session *session;
    peft_batch batch;
    result *out;
} world;

static peft_status open_context(void *user) {
    world *w = user;
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = w->set->threads;
    w->allocator = (peft_allocator){meter_alloc, meter_free, w->set->meter};
    if (w->set->meter != NULL) options.allocator = &w->allocator;
    return peft_context_create(&options, &w->ctx);
}

static peft_status load_model(void *user) {
    world *w = user;
    char path[4096];
    snprintf(path, sizeof path, "%s/models/t5-tiny", getenv("PEFT_TEST_DATA"));
    return peft_model_load(w->ctx, path, NULL, &w->model);
}

static peft_status make_adapter(void *user) {
    world *w = user;
    return peft_adapter_create(w->ctx, w->model, "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_dropout\": 0.1}", 5,
                               &w->adapter);
}

static peft_status make_optimizer(void *user) {
    world *w = user;
    peft_optimizer_options options;
    peft_optimizer_options_init(&options);
    options.kind = PEFT_OPTIMIZER_ADAFACTOR;
    options.lr = 0.02f;
    return peft_optimizer_create(w->ctx, w->adapter, &options, &w->optimizer);
}

static peft_status make_session(void *user) {
    world *w = user;
    peft_session_options options;
    peft_session_options_init(&options);
    options.loss = PEFT_LOSS_TFEW;
    return peft_session_create(w->ctx, w->model, &w->adapter, 1, &options, &w->session);
}

static peft_status forward_backward(void *user) {
    world *w = user;
    const peft_status status = peft_session_begin(w->session, &w->batch, PEFT_PASS_BOTH, 1.0f);
    if (status < 0) return status;
    peft_status more = PEFT_AGAIN;
    while (more == PEFT_AGAIN) more = peft_session_advance(w->session, w->set->budget_us, NULL);
    return more;
}

static peft_status step(void *user) {
    world *w = user;
    return peft_optimizer_step(w->optimizer, w->session, NULL);
}

static peft_status score(void *user) {
    world *w = user;
    return peft_session_score(w->session, &w->batch, w->out->nll, NULL, 5, &w->out->scored);
}

static peft_status generate(void *user) {
    world *w = user;
    peft_generate_options options;
    peft_generate_options_init(&options);
    options.max_new_tokens = NEW;
    options.num_beams = 3;
    return peft_session_generate(w->session, input_ids, 9, &options, w->out->ids, NEW, &w->out->id_count);
}

static peft_status write_one(void *user) {
    world *w = user;
    int32_t ids[NEW];
    return peft_session_generate(w->session, input_ids, 4, NULL, ids, 4, NULL);
}

static bool run(const setting *set, result *out) {
    world w = {.set = set, .out = out};
    bool done = true;
    memset(out, 0, sizeof *out);
    peft_batch_init(&w.batch);
    w.batch.rows = 9;
    w.batch.sequences = 2;
    w.batch.offsets = offsets;
    w.batch.input_ids = input_ids;
    w.batch.sequence_labels = right;
    w.batch.decoder_rows = 11;
    w.batch.decoder_sequences = 5;
    w.batch.decoder_offsets = decoder_offsets;
    w.batch.decoder_input_ids = decoder_ids;
    w.batch.decoder_labels = decoder_labels;
    w.batch.decoder_source = source;
    peft_status (*const calls[])(void *) = {
        open_context,     load_model, make_adapter,     make_optimizer, make_session, forward_backward, step,
        forward_backward, step,       forward_backward, step,           score,        generate,         write_one};
    for (size_t i = 0; done && i < sizeof calls / sizeof calls[0]; i++)
        done = again(w.ctx, calls[i](&w), calls[i], &w, set->meter);
    if (done) {
        out->parameter_count = peft_adapter_parameter_count(w.adapter);
        CHECK(out->parameter_count <= 4096 &&
              peft_adapter_get_parameters(w.adapter, out->parameters, out->parameter_count) == PEFT_OK);
    }
    peft_session_destroy(w.session);
    peft_optimizer_destroy(w.optimizer);
    peft_adapter_destroy(w.adapter);
    peft_model_destroy(w.model);
    peft_context_destroy(w.ctx);
    if (set->meter != NULL) CHECK(set->meter->held == 0);
    return done;
}

int main(void) {
    static result want, got;
    meter counting = {.fail_at = -1};
    const setting plain = {1, UINT64_MAX, NULL}, counted = {1, UINT64_MAX, &counting}, threads = {4, UINT64_MAX, NULL},
                  slices = {2, 1, NULL};
    CHECK(run(&plain, &want) && want.scored == 5 && want.parameter_count > 0);
    CHECK(run(&threads, &got) && memcmp(&got, &want, sizeof want) == 0);
    CHECK(run(&slices, &got) && memcmp(&got, &want, sizeof want) == 0);
    CHECK(run(&counted, &got) && memcmp(&got, &want, sizeof want) == 0);
    for (long at = 0; at < counting.count; at++) {
        meter failing = {.fail_at = at};
        const setting one = {1, UINT64_MAX, &failing};
        if (run(&one, &got)) CHECK(memcmp(&got, &want, sizeof want) == 0);
    }
    return check_summary();
}
