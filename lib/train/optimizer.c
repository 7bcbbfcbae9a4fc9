/* optimizer.c: the step: norm, check, clip, update.
 *
 * Gradients arrive as sums with the number of targets they stand for; the division, the clipping factor and the check
 * for numbers that are not finite are all settled before a parameter is touched, and nothing after that can fail: so an
 * update is made whole or not at all. Work is cut into tiles of fixed size, and the partial sums of the norm are added
 * in the order of tiles: threads do not change a bit.
 *
 * Every tensor counts its own steps, as in torch: one that rested has averages that begin at its first gradient, and
 * their correction must begin there too.
 */
#include "train/train.h"

#include <math.h>

#include "kernel/kernels.h"

enum { TILE = 16384 };

/* ---- creation ---------------------------------------------------------------------------------------------- */

void peft_optimizer_options_init_sized(peft_optimizer_options *options, uint32_t size) {
    if (options == NULL || size < sizeof options->struct_size) return;
    const peft_optimizer_options defaults = {.struct_size = size,
                                             .kind = PEFT_OPTIMIZER_ADAMW,
                                             .lr = 2e-4f,
                                             .beta1 = -1.0f,
                                             .beta2 = -1.0f,
                                             .eps = 1e-8f,
                                             .max_grad_norm = 1.0f,
                                             .adafactor_clip_threshold = 1.0f,
                                             .adafactor_decay_rate = -0.8f,
                                             .loraplus_lr_ratio = 1.0f,
                                             .layer_lr_decay = 1.0f};
    memset(options, 0, size);
    memcpy(options, &defaults, peft__min_size(size, sizeof defaults));
}

static peft_status check_number(peft_context *ctx, const char *name, float value, float low, float high) {
    if (value >= low && value <= high) return PEFT_OK;
    return peft__fail(ctx, PEFT_E_ARG, "peft_optimizer_options.%s is %g to %g, found %g", name, (double)low,
                      (double)high, (double)value);
}

static peft_status settle_options(peft_context *ctx, peft_optimizer_options *o) {
    if (o->kind < PEFT_OPTIMIZER_ADAMW || o->kind > PEFT_OPTIMIZER_LION)
        return peft__fail(ctx, PEFT_E_ARG, "peft_optimizer_options.kind %d is not known", o->kind);
    static const float first[] = {0.9f, 0.0f, 0.0f, 0.9f}, second[] = {0.999f, 0.0f, 0.0f, 0.99f};
    if (o->beta1 == -1.0f) o->beta1 = first[o->kind];
    if (o->beta2 == -1.0f) o->beta2 = second[o->kind];
    PEFT_TRY(check_number(ctx, "lr", o->lr, 0.0f, 1e10f));
    PEFT_TRY(check_number(ctx, "beta1", o->beta1, 0.0f, 0.9999999f));
    PEFT_TRY(check_number(ctx, "beta2", o->beta2, 0.0f, 0.9999999f));
    PEFT_TRY(check_number(ctx, "eps", o->eps, 0.0f, 1e10f));
    PEFT_TRY(check_number(ctx, "weight_decay", o->weight_decay, 0.0f, 1e10f));
    PEFT_TRY(check_number(ctx, "max_grad_norm", o->max_grad_norm, 0.0f, 1e30f));
    PEFT_TRY(check_number(ctx, "adafactor_clip_threshold", o->adafactor_clip_threshold, 1e-10f, 1e10f));
    PEFT_TRY(check_number(ctx, "adafactor_decay_rate", o->adafactor_decay_rate, -10.0f, 0.0f));
    PEFT_TRY(check_number(ctx, "loraplus_lr_ratio", o->loraplus_lr_ratio, 0.0f, 1e10f));
    PEFT_TRY(check_number(ctx, "dampening", o->dampening, 0.0f, 1.0f));
    PEFT_TRY(check_number(ctx, "layer_lr_decay", o->layer_lr_decay, 1e-6f, 1.0f));
    if (o->kind == PEFT_OPTIMIZER_SGD && o->nesterov && (o->beta1 == 0.0f || o->dampening != 0.0f))
        return peft__fail(ctx, PEFT_E_ARG, "nesterov needs a momentum (beta1) and no dampening");
    return PEFT_OK;
}

/* Sizes of a tensor's state. */
static void measure(const peft_optimizer_options *o, const peft__param *param, peft__moment *moment) {
    moment->m_count = moment->v_count = 0;
    moment->factored = false;
    switch (o->kind) {
    case PEFT_OPTIMIZER_ADAMW:
        moment->m_count = moment->v_count = param->elements;
        break;
    case PEFT_OPTIMIZER_SGD:
        moment->m_count = o->beta1 > 0.0f ? param->elements : 0;
        break;
    case PEFT_OPTIMIZER_LION:
        moment->m_count = param->elements;
        break;
    default: /* Adafactor */
        moment->m_count = o->beta1 > 0.0f ? param->elements : 0;
        moment->factored = param->ndim >= 2;
        moment->v_count = param->elements;
        if (moment->factored) {
            const int64_t cols = param->shape[param->ndim - 1], rows = param->shape[param->ndim - 2];
            moment->v_count = param->elements / (rows * cols) * (rows + cols);
        }
    }
}

static int64_t padded(int64_t count) {
    return (count + 15) / 16 * 16;
}

static peft_status take_memory(peft_optimizer *opt) {
    peft__mem *mem = opt->ctx->mem;
    const peft_adapter *adapter = opt->adapter;
    opt->moments = peft__alloc_zero(mem, (size_t)(adapter->count + 1) * sizeof *opt->moments);
    if (opt->moments == NULL)
        return peft__fail_nomem(opt->ctx, adapter->count * sizeof *opt->moments, "optimizer state");
    int64_t tiles = 0;
    for (uint32_t i = 0; i < adapter->count; i++) {
        const peft__param *param = &adapter->params[i];
        if (param->flags & PEFT__PARAM_FROZEN) continue;
        peft__moment *moment = &opt->moments[opt->moment_count++];
        moment->index = i;
        moment->lr_scale = param->lr_scale;
        if (strstr(param->name, ".lora_B.") != NULL || strstr(param->name, ".lora_embedding_B") != NULL)
            moment->lr_scale *= opt->options.loraplus_lr_ratio;
        if (opt->options.layer_lr_decay != 1.0f)
            moment->lr_scale *=
                (float)pow((double)opt->options.layer_lr_decay, (double)peft__adapter_depth(adapter, i));
        moment->decays = opt->options.decay_all || !(param->flags & PEFT__PARAM_NO_DECAY);
        measure(&opt->options, param, moment);
        opt->block_count += padded(moment->m_count) + padded(moment->v_count);
        tiles += peft__ceil_div(param->elements, TILE);
    }
    if (opt->moment_count == 0) return peft__fail(opt->ctx, PEFT_E_ARG, "the adapter has nothing to train");
    if (tiles > INT32_MAX) return peft__fail(opt->ctx, PEFT_E_LIMIT, "the adapter is too large for one optimizer");

    const size_t bytes = (size_t)opt->block_count * sizeof(float);
    opt->block = peft__alloc_zero(mem, bytes);
    if (opt->block == NULL) return peft__fail_nomem(opt->ctx, bytes, "optimizer state");
    if (opt->options.kind == PEFT_OPTIMIZER_ADAFACTOR) {
        opt->scratch = peft__alloc(mem, bytes);
        if (opt->scratch == NULL) return peft__fail_nomem(opt->ctx, bytes, "optimizer state");
    }
    opt->tiles = peft__alloc(mem, (size_t)tiles * sizeof *opt->tiles);
    opt->partial = peft__alloc(mem, (size_t)tiles * sizeof *opt->partial);
    if (opt->tiles == NULL || opt->partial == NULL)
        return peft__fail_nomem(opt->ctx, (size_t)tiles * sizeof *opt->tiles, "optimizer tiles");

    float *at = opt->block;
    for (uint32_t i = 0; i < opt->moment_count; i++) {
        peft__moment *moment = &opt->moments[i];
        if (moment->m_count > 0) moment->m = at;
        at += padded(moment->m_count);
        if (moment->v_count > 0) moment->v = at;
        at += padded(moment->v_count);
        const int64_t count = adapter->params[moment->index].elements;
        for (int64_t first = 0; first < count; first += TILE)
            opt->tiles[opt->tile_count++] = (peft__update_tile){i, first, peft__min_i64(TILE, count - first)};
    }
    return PEFT_OK;
}

peft_status peft_optimizer_create(peft_context *context, peft_adapter *adapter, const peft_optimizer_options *options,
                                  peft_optimizer **out_optimizer) {
    if (context == NULL || adapter == NULL || out_optimizer == NULL)
        return peft__fail(context, PEFT_E_ARG, "peft_optimizer_create() takes a context, an adapter and out_optimizer");
    peft_optimizer_options chosen;
    peft_optimizer_options_init(&chosen);
    PEFT_TRY(peft__options_copy(context, &chosen, sizeof chosen, options, sizeof chosen, "peft_optimizer_options"));
    PEFT_TRY(settle_options(context, &chosen));
    peft_optimizer *opt = peft__alloc_zero(context->mem, sizeof *opt);
    if (opt == NULL) return peft__fail_nomem(context, sizeof *opt, "an optimizer");
    opt->ctx = peft__context_ref(context);
    opt->adapter = peft__adapter_ref(adapter);
    opt->options = chosen;
    opt->lr = chosen.lr;
    const peft_status status = take_memory(opt);
    if (status < 0) {
        peft_optimizer_destroy(opt);
        return status;
    }
    *out_optimizer = opt;
    return PEFT_OK;
}

void peft_optimizer_destroy(peft_optimizer *opt) {
    if (opt == NULL) return;
    peft_context *ctx = opt->ctx;
    peft__free(ctx->mem, opt->moments);
    peft__free(ctx->mem, opt->block);
    peft__free(ctx->mem, opt->scratch);
    peft__free(ctx->mem, opt->tiles);
    peft__free(ctx->mem, opt->partial);
    peft__adapter_unref(opt->adapter);
    peft__free(ctx->mem, opt);
    peft__context_unref(ctx);
}

void peft_optimizer_set_lr(peft_optimizer *optimizer, float lr) {
    if (optimizer != NULL) optimizer->lr = lr;
}
float peft_optimizer_lr(const peft_optimizer *optimizer) {
    return optimizer != NULL ? optimizer->lr : 0.0f;
}
uint64_t peft_optimizer_steps(const peft_optimizer *optimizer) {
    return optimizer != NULL ? optimizer->steps : 0;
}

static peft__moment *find_moment(const peft_optimizer *optimizer, uint32_t tensor) {
    for (uint32_t i = 0; i < optimizer->moment_count; i++)
        if (optimizer->moments[i].index == tensor) return &optimizer->moments[i];
    return NULL;
}

peft_status peft_optimizer_set_lr_scale(peft_optimizer *optimizer, uint32_t tensor, float scale) {
    if (optimizer == NULL) return PEFT_E_ARG;
    peft__moment *moment = find_moment(optimizer, tensor);
    if (moment == NULL)
        return peft__fail(optimizer->ctx, PEFT_E_ARG, "tensor %u of the adapter's %u is not trained", tensor,
                          optimizer->adapter->count);
    if (!(scale >= 0.0f) || isinf(scale))
        return peft__fail(optimizer->ctx, PEFT_E_ARG,
                          "a tensor's lr_scale is a finite number that is not negative, found %g", (double)scale);
    moment->lr_scale = scale;
    return PEFT_OK;
}

float peft_optimizer_lr_scale(const peft_optimizer *optimizer, uint32_t tensor) {
    const peft__moment *moment = optimizer != NULL ? find_moment(optimizer, tensor) : NULL;
    return moment != NULL ? moment->lr_scale : 0.0f;
}

const char *peft__optimizer_part(const peft_optimizer *opt, const peft__moment *moment, int which) {
    if (which == 0)
        return moment->m == NULL ? NULL : opt->options.kind == PEFT_OPTIMIZER_SGD ? "momentum_buffer" : "exp_avg";
    return moment->v == NULL ? NULL : moment->factored ? "exp_avg_sq_row_col" : "exp_avg_sq";
}

/* ---- the step ------------------------------------------------------------------------------------------------ */

typedef struct step_work {
    const peft_optimizer *opt;
    float *const *grads; /* by index of the adapter's params */
    const peft__kernels *kernels;
    double grad_scale;
} step_work;

static void norm_tile(void *argument, uint32_t index, uint32_t lane) {
    (void)lane;
    const step_work *work = argument;
    const peft__update_tile *tile = &work->opt->tiles[index];
    const float *grad = work->grads[work->opt->moments[tile->moment].index];
    work->opt->partial[index] =
        grad == NULL ? 0.0 : work->kernels->dot(tile->count, grad + tile->first, grad + tile->first);
}

/* The same in double precision throughout: for gradients whose squares leave the range of float. */
static void exact_norm_tile(void *argument, uint32_t index, uint32_t lane) {
    (void)lane;
    const step_work *work = argument;
    const peft__update_tile *tile = &work->opt->tiles[index];
    const float *grad = work->grads[work->opt->moments[tile->moment].index];
    double sum = 0.0;
    for (int64_t i = tile->first; grad != NULL && i < tile->first + tile->count; i++)
        sum += (double)grad[i] * (double)grad[i];
    work->opt->partial[index] = sum;
}

static double sum_of_squares(step_work *work) {
    const peft_optimizer *opt = work->opt;
    double total = 0.0;
    peft__pool_run(opt->ctx->pool, opt->tile_count, norm_tile, work);
    for (uint32_t i = 0; i < opt->tile_count; i++) total += opt->partial[i];
    if (isfinite(total)) return total;
    total = 0.0;
    peft__pool_run(opt->ctx->pool, opt->tile_count, exact_norm_tile, work);
    for (uint32_t i = 0; i < opt->tile_count; i++) total += opt->partial[i];
    return total;
}

static const char *first_not_finite(const peft_optimizer *opt) {
    for (uint32_t i = 0; i < opt->tile_count; i++)
        if (!isfinite(opt->partial[i])) return opt->adapter->params[opt->moments[opt->tiles[i].moment].index].name;
    return "?";
}

static void update_tile(void *argument, uint32_t index, uint32_t lane) {
    (void)lane;
    const step_work *work = argument;
    const peft_optimizer *opt = work->opt;
    const peft_optimizer_options *o = &opt->options;
    const peft__update_tile *tile = &opt->tiles[index];
    const peft__moment *moment = &opt->moments[tile->moment];
    const peft__param *param = &opt->adapter->params[moment->index];
    const float *grad = work->grads[moment->index];
    if (grad == NULL) return;
    const double step = (double)(moment->steps + 1);
    peft__update update = {.lr = opt->lr * moment->lr_scale,
                           .weight_decay = moment->decays ? o->weight_decay : 0.0f,
                           .beta1 = o->beta1,
                           .beta2 = o->beta2,
                           .eps = o->eps,
                           .grad_scale = (float)work->grad_scale};
    switch (o->kind) {
    case PEFT_OPTIMIZER_ADAMW:
        update.rule = PEFT__UPDATE_ADAMW;
        update.correction1 = (float)(1.0 - pow((double)o->beta1, step));
        update.correction2 = (float)(1.0 - pow((double)o->beta2, step));
        break;
    case PEFT_OPTIMIZER_SGD:
        update.rule = PEFT__UPDATE_SGD;
        update.beta2 = o->dampening;
        update.nesterov = o->nesterov != 0;
        update.first = moment->steps == 0;
        break;
    default:
        update.rule = PEFT__UPDATE_LION;
        break;
    }
    work->kernels->update(&update, tile->count, param->data + tile->first, grad + tile->first,
                          moment->m != NULL ? moment->m + tile->first : NULL,
                          moment->v != NULL ? moment->v + tile->first : NULL);
}

static void adafactor_tile(void *argument, uint32_t index, uint32_t lane) {
    (void)lane;
    const step_work *work = argument;
    const peft_optimizer *opt = work->opt;
    const peft_optimizer_options *o = &opt->options;
    const peft__moment *moment = &opt->moments[index];
    if (work->grads[moment->index] == NULL) return;
    const peft__adafactor rule = {.lr = (double)opt->lr * (double)moment->lr_scale,
                                  .weight_decay = (double)o->weight_decay,
                                  .beta1 = (double)o->beta1,
                                  .decay_rate = (double)o->adafactor_decay_rate,
                                  .clip_threshold = (double)o->adafactor_clip_threshold,
                                  .grad_scale = work->grad_scale,
                                  .scale_parameter = o->adafactor_scale_parameter != 0,
                                  .step = moment->steps + 1};
    peft__adafactor_update(&rule, &opt->adapter->params[moment->index], moment, work->grads[moment->index],
                           opt->scratch + (moment->v - opt->block));
}

/* The method's turn after the parameters changed; it sees gradients as they were used. */
static peft_status after_step(peft_optimizer *opt, float **grads, double grad_scale, const peft__kernels *kernels) {
    peft_adapter *adapter = opt->adapter;
    if (adapter->method->after_step == NULL) return PEFT_OK;
    for (uint32_t i = 0; i < adapter->count; i++)
        if (grads[i] != NULL) kernels->scale(adapter->params[i].elements, (float)grad_scale, grads[i], grads[i], false);
    const peft__step step = {.index = (int64_t)opt->steps, .grads = grads};
    return adapter->method->after_step(adapter, &step);
}

static void write_stats(peft_step_stats *out, const peft_step_stats *stats) {
    if (out == NULL) return;
    const size_t size = peft__min_size(out->struct_size, sizeof *stats);
    const uint32_t given = out->struct_size;
    if (size < sizeof given) return;
    memcpy(out, stats, size);
    out->struct_size = given;
}

peft_status peft_optimizer_step(peft_optimizer *optimizer, peft_session *session, peft_step_stats *out_stats) {
    if (optimizer == NULL || session == NULL)
        return peft__fail(optimizer != NULL ? optimizer->ctx : NULL, PEFT_E_ARG,
                          "peft_optimizer_step() takes an optimizer and a session");
    peft_context *ctx = optimizer->ctx;
    const int32_t which = peft__session_find(session, optimizer->adapter);
    if (which < 0)
        return peft__fail(ctx, PEFT_E_ARG, "the optimizer's adapter is not one of the session's %u adapters",
                          session->count);
    const peft__accumulation sums = session->accumulated[which];
    float **grads = peft__session_grads(session, (uint32_t)which);
    if (session->phase == PEFT__RUNNING || !sums.pending || grads == NULL)
        return peft__fail(ctx, PEFT_E_STATE, "peft_optimizer_step() comes after a complete backward pass");
    if (!(optimizer->lr >= 0.0f) || isinf(optimizer->lr))
        return peft__fail(ctx, PEFT_E_ARG, "the learning rate is a finite number that is not negative, found %g",
                          (double)optimizer->lr);

    step_work work = {optimizer, grads, peft__kernels_for(ctx->cpu), 0.0};
    peft_step_stats stats = {.clip_factor = 1.0, .loss = sums.loss / sums.count, .tokens = sums.count};
    const double squares = sum_of_squares(&work);
    stats.grad_norm = sqrt(squares) / fabs(sums.divisor);
    if (!isfinite(stats.grad_norm)) {
        stats.skipped = 1;
        stats.clip_factor = 0.0;
        const peft_status status =
            peft__fail(ctx, PEFT_E_NONFINITE, "a gradient of %s is not finite (loss %g): the step was skipped",
                       first_not_finite(optimizer), stats.loss);
        peft__session_drop(session, (uint32_t)which);
        write_stats(out_stats, &stats);
        return status;
    }
    const double largest = (double)optimizer->options.max_grad_norm;
    if (largest > 0.0) stats.clip_factor = fmin(1.0, largest / (stats.grad_norm + 1e-6));
    work.grad_scale = stats.clip_factor / sums.divisor;
    if (optimizer->adapter->method->before_step != NULL) optimizer->adapter->method->before_step(optimizer->adapter);

    if (optimizer->options.kind == PEFT_OPTIMIZER_ADAFACTOR)
        peft__pool_run(ctx->pool, optimizer->moment_count, adafactor_tile, &work);
    else
        peft__pool_run(ctx->pool, optimizer->tile_count, update_tile, &work);
    for (uint32_t i = 0; i < optimizer->moment_count; i++)
        optimizer->moments[i].steps += grads[optimizer->moments[i].index] != NULL;
    const peft_status status = after_step(optimizer, grads, work.grad_scale, work.kernels);
    optimizer->steps++;
    peft__session_drop(session, (uint32_t)which);
    write_stats(out_stats, &stats);
    return status;
}
