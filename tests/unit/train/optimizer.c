/* Ten steps of each optimizer against torch and transformers, driven through a stand-in for a session: the step takes
 * its gradients from the session's plan, so an adapter with two tensors and a plan that holds two arrays are all it
 * needs. */
#include "check.h"
#include "format/safetensors.h"
#include "train/train.h"

enum { STEPS = 10 };

static peft_context *ctx;
static peft__tensors *file;

static void read_tensor(const char *name, float *out) {
    const peft__tensor *tensor = peft__tensors_find(file, name);
    if (!CHECK(tensor != NULL)) exit(check_summary());
    CHECK_OK(ctx, peft__tensor_read_f32(ctx, tensor, out));
}

typedef struct bench {
    float values[2][24], grads[2][24];
    peft__param params[2];
    peft__method method;
    peft_adapter adapter;
    peft_adapter *list[1];
    float *grad_list[2];
    peft__accumulation sums;
    peft_session session;
} bench;

static void bench_open(bench *b) {
    memset(b, 0, sizeof *b);
    b->params[0] = (peft__param){
        .name = "mat", .ndim = 2, .shape = {4, 6}, .elements = 24, .data = b->values[0], .lr_scale = 1.0f};
    b->params[1] = (peft__param){.name = "vec",
                                 .ndim = 1,
                                 .shape = {7},
                                 .elements = 7,
                                 .data = b->values[1],
                                 .lr_scale = 1.0f,
                                 .flags = PEFT__PARAM_NO_DECAY};
    b->adapter.ctx = ctx;
    atomic_init(&b->adapter.references, 2); /* never released: it is no real one */
    b->adapter.method = &b->method;
    b->adapter.params = b->params;
    b->adapter.count = 2;
    b->adapter.trained = 31;
    b->list[0] = &b->adapter;
    b->grad_list[0] = b->grads[0];
    b->grad_list[1] = b->grads[1];
    b->session.ctx = ctx;
    b->session.adapters = b->list;
    b->session.count = 1;
    b->session.accumulated = &b->sums;
    b->session.plans[PEFT__PLAN_TRAIN].graph = (peft__graph *)b; /* only asked whether it is there */
    b->session.plans[PEFT__PLAN_TRAIN].grads = b->grad_list;
    read_tensor("init.mat", b->values[0]);
    read_tensor("init.vec", b->values[1]);
}

static void give_grads(bench *b, const float *mat, const float *vec, int step, float times) {
    for (int i = 0; i < 24; i++) b->grads[0][i] = mat[step * 24 + i] * times;
    for (int i = 0; i < 7; i++) b->grads[1][i] = vec[step * 7 + i] * times;
    b->sums = (peft__accumulation){.loss = 1.0, .count = (double)times, .divisor = (double)times, .pending = true};
    b->session.phase = PEFT__BACKWARD_DONE;
}

static double error_of(const float *got, const float *want, int count) {
    double worst = 0.0, top = 0.0;
    for (int i = 0; i < count; i++) {
        worst = fmax(worst, fabs((double)got[i] - (double)want[i]));
        top = fmax(top, fabs((double)want[i]));
    }
    return worst / top;
}

static void check_run(const char *name, const peft_optimizer_options *options) {
    static float mat[STEPS * 24], vec[STEPS * 7], want_mat[STEPS * 24], want_vec[STEPS * 7];
    char key[128];
    bench b;
    bench_open(&b);
    read_tensor("grads.mat", mat);
    read_tensor("grads.vec", vec);
    snprintf(key, sizeof key, "%s.mat", name);
    read_tensor(key, want_mat);
    snprintf(key, sizeof key, "%s.vec", name);
    read_tensor(key, want_vec);
    peft_optimizer *opt = NULL;
    CHECK_OK(ctx, peft_optimizer_create(ctx, &b.adapter, options, &opt));
    if (opt == NULL) return;
    for (int step = 0; step < STEPS; step++) {
        give_grads(&b, mat, vec, step, step % 2 ? 8.0f : 1.0f);
        CHECK_OK(ctx, peft_optimizer_step(opt, &b.session, NULL));
        const double a = error_of(b.values[0], want_mat + step * 24, 24),
                     c = error_of(b.values[1], want_vec + step * 7, 7);
        if (!CHECK(a <= 1e-5 && c <= 1e-5)) fprintf(stderr, "    %s step %d: %g %g\n", name, step, a, c);
    }
    CHECK(peft_optimizer_steps(opt) == STEPS);
    peft_optimizer_destroy(opt);
}

static peft_optimizer_options base(int32_t kind, float lr) {
    peft_optimizer_options o;
    peft_optimizer_options_init(&o);
    o.kind = kind;
    o.lr = lr;
    o.max_grad_norm = 0.0f;
    o.decay_all = 1;
    return o;
}

static void check_runs(void) {
    peft_optimizer_options o = base(PEFT_OPTIMIZER_ADAMW, 0.01f);
    check_run("adamw", &o);
    o = base(PEFT_OPTIMIZER_ADAMW, 0.02f);
    o.beta1 = 0.85f, o.beta2 = 0.98f, o.eps = 1e-6f, o.weight_decay = 0.1f;
    check_run("adamw_wd", &o);
    o = base(PEFT_OPTIMIZER_SGD, 0.05f);
    check_run("sgd", &o);
    o = base(PEFT_OPTIMIZER_SGD, 0.03f);
    o.beta1 = 0.9f, o.weight_decay = 0.02f;
    check_run("sgd_momentum", &o);
    o = base(PEFT_OPTIMIZER_SGD, 0.03f);
    o.beta1 = 0.8f, o.nesterov = 1, o.weight_decay = 0.01f;
    check_run("sgd_nesterov", &o);
    o = base(PEFT_OPTIMIZER_ADAFACTOR, 0.003f);
    o.adafactor_scale_parameter = 1;
    check_run("adafactor_tfew", &o);
    o = base(PEFT_OPTIMIZER_ADAFACTOR, 0.01f);
    o.beta1 = 0.9f, o.weight_decay = 0.01f;
    check_run("adafactor_noscale_wd_beta1", &o);
    o = base(PEFT_OPTIMIZER_LION, 0.003f);
    o.weight_decay = 0.1f;
    check_run("lion", &o);
}

/* Clipping, spared groups, numbers that are not finite, and calls out of order. */
static void check_rules(void) {
    bench b;
    bench_open(&b);
    float before[2][24];
    static float mat[STEPS * 24], vec[STEPS * 7];
    read_tensor("grads.mat", mat);
    read_tensor("grads.vec", vec);
    peft_optimizer_options o = base(PEFT_OPTIMIZER_SGD, 1.0f);
    o.max_grad_norm = 0.5f;
    o.weight_decay = 0.25f;
    o.decay_all = 0;
    peft_optimizer *opt = NULL;
    CHECK_OK(ctx, peft_optimizer_create(ctx, &b.adapter, &o, &opt));
    if (opt == NULL) return;
    peft_step_stats stats = {.struct_size = sizeof stats};
    CHECK_STATUS(ctx, peft_optimizer_step(opt, &b.session, &stats), PEFT_E_STATE);

    double squares = 0.0;
    for (int i = 0; i < 24; i++) squares += (double)mat[i] * (double)mat[i];
    for (int i = 0; i < 7; i++) squares += (double)vec[i] * (double)vec[i];
    const double norm = sqrt(squares), clip = fmin(1.0, 0.5 / (norm + 1e-6));
    memcpy(before, b.values, sizeof before);
    give_grads(&b, mat, vec, 0, 4.0f);
    CHECK_OK(ctx, peft_optimizer_step(opt, &b.session, &stats));
    CHECK_NEAR(stats.grad_norm, norm, 1e-6);
    CHECK_NEAR(stats.clip_factor, clip, 1e-6);
    CHECK_NEAR(stats.tokens, 4.0, 0.0);
    CHECK_NEAR(b.values[0][3], (double)before[0][3] * 0.75 - clip * (double)mat[3], 1e-6); /* decayed */
    CHECK_NEAR(b.values[1][3], (double)before[1][3] - clip * (double)vec[3], 1e-6);        /* a bias is spared */
    CHECK(b.session.phase == PEFT__IDLE);

    memcpy(before, b.values, sizeof before);
    give_grads(&b, mat, vec, 1, 1.0f);
    b.grads[1][5] = NAN;
    CHECK_STATUS(ctx, peft_optimizer_step(opt, &b.session, &stats), PEFT_E_NONFINITE);
    CHECK(stats.skipped == 1 && strstr(peft_context_error(ctx), "vec") != NULL);
    CHECK(memcmp(before, b.values, sizeof before) == 0 && peft_optimizer_steps(opt) == 1);
    CHECK_STATUS(ctx, peft_optimizer_step(opt, &b.session, &stats), PEFT_E_STATE);

    /* Finite gradients whose squares are beyond float are no reason to skip. */
    give_grads(&b, mat, vec, 1, 1.0f);
    b.grads[0][0] = 1e30f;
    CHECK_OK(ctx, peft_optimizer_step(opt, &b.session, &stats));
    CHECK_NEAR(stats.grad_norm / 1e30, 1.0, 1e-6);
    peft_optimizer_destroy(opt);

    o.beta1 = 1.5f;
    CHECK_STATUS(ctx, peft_optimizer_create(ctx, &b.adapter, &o, &opt), PEFT_E_ARG);
    o.beta1 = -1.0f, o.kind = 9;
    CHECK_STATUS(ctx, peft_optimizer_create(ctx, &b.adapter, &o, &opt), PEFT_E_ARG);
    o.struct_size = 0;
    CHECK_STATUS(ctx, peft_optimizer_create(ctx, &b.adapter, &o, &opt), PEFT_E_ABI);
}

int main(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s/train/optimizers.safetensors", getenv("PEFT_TEST_DATA"));
    CHECK(peft_context_create(NULL, &ctx) == PEFT_OK);
    CHECK_OK(ctx, peft__safetensors_open(ctx, path, &file));
    if (file == NULL) return check_summary();
    check_runs();
    check_rules();
    peft__tensors_unref(file);
    peft_context_destroy(ctx);
    return check_summary();
}
