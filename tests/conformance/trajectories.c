/* trajectories.c: schedules.json (learning rates) and optimizers.json with its tensors (ten steps of each optimizer).
 *
 * An optimizer takes its gradients from a session's plan, so an adapter whose tensors are those of the file and a plan that
 * holds as many arrays stand in for a model.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "format/safetensors.h"
#include "measure.h"
#include "train/train.h"

enum { PATH = 4096, MOST_TENSORS = 64 };

static const double TOLERANCE = 1e-5; /* of max |b| */

static double number_of(const json_t *object, const char *key, double fallback) {
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : fallback;
}

/* ---- schedules ------------------------------------------------------------------------------------------------------ */

static int32_t schedule_kind(const char *name) {
    static const struct {
        const char *name;
        int32_t kind;
    } kinds[] = {{"constant", PEFT_SCHEDULE_CONSTANT},         {"constant_with_warmup", PEFT_SCHEDULE_CONSTANT},
                 {"linear", PEFT_SCHEDULE_LINEAR},             {"cosine", PEFT_SCHEDULE_COSINE},
                 {"polynomial", PEFT_SCHEDULE_POLYNOMIAL},     {"inverse_sqrt", PEFT_SCHEDULE_INVERSE_SQRT},
                 {"cosine_with_restarts", PEFT_SCHEDULE_COSINE_RESTARTS}, {"cosine_with_min_lr", PEFT_SCHEDULE_COSINE_MIN_LR}};
    for (size_t i = 0; i < PEFT_COUNT(kinds); i++)
        if (strcmp(kinds[i].name, name) == 0) return kinds[i].kind;
    return -1;
}

static void run_schedule(const json_t *file, const char *name, const json_t *one, tally *counts) {
    const json_t *options = json_object_get(one, "options"), *lr = json_object_get(one, "lr");
    outcome out = {0};
    (void)snprintf(out.name, sizeof out.name, "schedule-%s", name);
    peft_schedule s;
    peft_schedule_init(&s);
    s.kind = schedule_kind(name);
    s.peak_lr = number_of(file, "base_lr", 0.0);
    s.total_steps = (uint64_t)number_of(file, "total_steps", 0.0);
    s.warmup_steps = strcmp(name, "constant") == 0 ? 0 : (uint64_t)number_of(file, "warmup_steps", 0.0);
    s.power = number_of(options, "power", s.power);
    s.end_lr = number_of(options, "lr_end", s.end_lr);
    s.num_cycles = number_of(options, "num_cycles", s.num_cycles);
    s.timescale = (uint64_t)number_of(options, "timescale", 0.0);
    s.min_lr_rate = number_of(options, "min_lr_rate", number_of(options, "min_lr", 0.0) / s.peak_lr);
    double worst = 0.0;
    for (size_t i = 0; i < json_array_size(lr); i++)
        worst = fmax(worst, fabs(peft_schedule_lr(&s, i) - json_number_value(json_array_get(lr, i))));
    if (s.kind < 0) outcome_skip(&out, "schedule %s is not built", name);
    else outcome_add(&out, "lr", worst / s.peak_lr, 1e-12);
    outcome_print(&out, counts);
}

void run_schedules(const char *path, tally *counts) {
    json_t *file = json_load_file(path, 0, NULL);
    const char *name;
    json_t *one;
    json_object_foreach(json_object_get(file, "schedules"), name, one) run_schedule(file, name, one, counts);
    json_decref(file);
}

/* ---- optimizers ----------------------------------------------------------------------------------------------------- */

typedef struct bench {
    uint32_t count;
    int64_t steps;
    peft__param params[MOST_TENSORS];
    float *all_grads[MOST_TENSORS], *grads[MOST_TENSORS], *want[MOST_TENSORS];
    peft__method method;
    peft_adapter adapter, *list[1];
    peft__accumulation sums;
    peft_session session;
} bench;

static float *read_named(peft_context *ctx, const peft__tensors *file, const char *front, const char *name, int64_t *out_count) {
    char key[512];
    (void)snprintf(key, sizeof key, "%s.%s", front, name);
    return read_floats(ctx, file, key, out_count);
}

/* Tensors init.<name>, grads.<name> [steps, ..] and <run>.<name> [steps, ..]. */
static bool fill(peft_context *ctx, const peft__tensors *file, const char *run, bench *b) {
    for (size_t i = 0; i < peft__tensors_count(file) && b->count < MOST_TENSORS; i++) {
        const peft__tensor *tensor = peft__tensors_at(file, i);
        if (strncmp(tensor->name, "init.", 5) != 0 || tensor->ndim > 4) continue;
        const uint32_t at = b->count++;
        peft__param *param = &b->params[at];
        int64_t grads = 0, want = 0;
        *param = (peft__param){.name = tensor->name + 5, .ndim = tensor->ndim, .lr_scale = 1.0f};
        for (uint32_t d = 0; d < tensor->ndim; d++) param->shape[d] = tensor->shape[d];
        param->data = read_floats(ctx, file, tensor->name, &param->elements);
        b->all_grads[at] = read_named(ctx, file, "grads", param->name, &grads);
        b->want[at] = read_named(ctx, file, run, param->name, &want);
        b->grads[at] = malloc((size_t)(param->elements + 1) * sizeof(float));
        if (param->data == NULL || b->all_grads[at] == NULL || b->want[at] == NULL || b->grads[at] == NULL || param->elements == 0 ||
            grads != want)
            return false;
        b->steps = grads / param->elements;
        b->adapter.trained += param->elements;
    }
    b->adapter.ctx = ctx;
    atomic_init(&b->adapter.references, 2); /* never released: it is no real one */
    b->adapter.method = &b->method;
    b->adapter.params = b->params;
    b->adapter.count = b->count;
    b->list[0] = &b->adapter;
    b->session.ctx = ctx;
    b->session.adapters = b->list;
    b->session.count = 1;
    b->session.accumulated = &b->sums;
    b->session.plans[PEFT__PLAN_TRAIN].graph = (peft__graph *)b; /* only asked whether it is there */
    b->session.plans[PEFT__PLAN_TRAIN].grads = b->grads;
    return b->count > 0;
}

static void empty(bench *b) {
    for (uint32_t i = 0; i < b->count; i++) {
        free(b->params[i].data);
        free(b->all_grads[i]);
        free(b->grads[i]);
        free(b->want[i]);
    }
    free(b);
}

/* False with the reason in `out` when the library has no such optimizer. */
static bool read_options(const json_t *one, const char *name, peft_optimizer_options *o, outcome *out) {
    const char *kind = json_string_value(json_object_get(one, "class"));
    const json_t *options = json_object_get(one, "options"), *betas = json_object_get(options, "betas");
    peft_optimizer_options_init(o);
    o->max_grad_norm = 0.0f;
    o->decay_all = 1;
    o->lr = (float)number_of(options, "lr", 0.0);
    o->weight_decay = (float)number_of(options, "weight_decay", 0.0);
    o->eps = (float)number_of(options, "eps", 1e-8);
    if (kind != NULL && strcmp(kind, "torch.optim.AdamW") == 0) o->kind = PEFT_OPTIMIZER_ADAMW;
    else if (kind != NULL && strcmp(kind, "torch.optim.SGD") == 0) o->kind = PEFT_OPTIMIZER_SGD;
    else if (kind != NULL && strncmp(kind, "lion", 4) == 0) o->kind = PEFT_OPTIMIZER_LION;
    else if (kind != NULL && strcmp(kind, "transformers.Adafactor") == 0 && !json_is_true(json_object_get(options, "relative_step")))
        o->kind = PEFT_OPTIMIZER_ADAFACTOR;
    else {
        outcome_skip(out, "%s (%s) is not built", name, kind != NULL ? kind : "no class");
        return false;
    }
    if (json_array_size(betas) == 2) {
        o->beta1 = (float)json_number_value(json_array_get(betas, 0));
        o->beta2 = (float)json_number_value(json_array_get(betas, 1));
    }
    if (o->kind == PEFT_OPTIMIZER_SGD) o->beta1 = (float)number_of(options, "momentum", 0.0);
    if (o->kind == PEFT_OPTIMIZER_ADAFACTOR) o->beta1 = (float)number_of(options, "beta1", 0.0);
    o->dampening = (float)number_of(options, "dampening", 0.0);
    o->nesterov = json_is_true(json_object_get(options, "nesterov"));
    o->adafactor_scale_parameter = json_is_true(json_object_get(options, "scale_parameter"));
    o->adafactor_clip_threshold = (float)number_of(options, "clip_threshold", 1.0);
    o->adafactor_decay_rate = (float)number_of(options, "decay_rate", -0.8);
    return true;
}

static void follow(peft_context *ctx, bench *b, peft_optimizer *optimizer, outcome *out) {
    double worst = 0.0;
    for (int64_t step = 0; step < b->steps; step++) {
        for (uint32_t i = 0; i < b->count; i++)
            memcpy(b->grads[i], b->all_grads[i] + step * b->params[i].elements, (size_t)b->params[i].elements * sizeof(float));
        b->sums = (peft__accumulation){.loss = 1.0, .count = 1.0, .divisor = 1.0, .pending = true};
        b->session.phase = PEFT__BACKWARD_DONE;
        if (peft_optimizer_step(optimizer, &b->session, NULL) < 0) {
            outcome_fail(out, "step %lld: %s", (long long)step, peft_context_error(ctx));
            return;
        }
        for (uint32_t i = 0; i < b->count; i++) {
            const float *want = b->want[i] + step * b->params[i].elements;
            worst = fmax(worst, difference(b->params[i].data, want, b->params[i].elements) / largest(want, b->params[i].elements));
        }
    }
    outcome_add(out, "steps", worst, TOLERANCE);
}

static void run_optimizer(peft_context *ctx, const peft__tensors *file, const char *name, const json_t *one, tally *counts) {
    outcome out = {0};
    (void)snprintf(out.name, sizeof out.name, "optimizer-%s", name);
    peft_optimizer_options options;
    peft_optimizer *optimizer = NULL;
    bench *b = calloc(1, sizeof *b);
    if (b != NULL && read_options(one, name, &options, &out)) {
        if (!fill(ctx, file, name, b)) outcome_fail(&out, "tensors are missing");
        else if (peft_optimizer_create(ctx, &b->adapter, &options, &optimizer) < 0) outcome_fail(&out, "%s", peft_context_error(ctx));
        else follow(ctx, b, optimizer, &out);
    }
    outcome_print(&out, counts);
    peft_optimizer_destroy(optimizer);
    if (b != NULL) empty(b);
}

void run_optimizers(peft_context *ctx, const char *folder, tally *counts) {
    char path[PATH];
    json_t *file = json_load_file(join(path, sizeof path, folder, "optimizers.json"), 0, NULL);
    peft__tensors *tensors = NULL;
    const char *name;
    json_t *one;
    if (file != NULL && peft__safetensors_open(ctx, join(path, sizeof path, folder, "optimizers.safetensors"), &tensors) >= 0)
        json_object_foreach(file, name, one) run_optimizer(ctx, tensors, name, one, counts);
    peft__tensors_unref(tensors);
    json_decref(file);
}
