/* run.c: executing a plan: a program counter over (step, phase, tile).
 *
 * Blocking and sliced execution are the same code: without a deadline a whole phase goes to the pool at once, with one it
 * goes in slices of one tile a lane and the clock is read in between. Tiles of a phase are independent, so slices, lanes and
 * order do not change a bit of the result.
 *
 * A value's memory can move between steps (recomputed values, gradients that leave a shared storage); pointers in values
 * are therefore set when a step begins, on the calling thread.
 */
#include "graph/graph_internal.h"

typedef struct slice {
    peft__graph *graph;
    const peft__step *step;
    peft__run run; /* lane is filled in per tile */
    peft__pass pass;
    uint32_t phase, first;
} slice;

enum { ROWS_PER_TILE = 256 };

/* ---- pointers ------------------------------------------------------------------------------------------------- */

static float *at(const peft__graph *graph, const peft__storage *storage) {
    return (float *)(void *)(graph->memory + storage->offset);
}

static void point_data(peft__graph *graph, peft__value *value, bool again) {
    const peft__value_plan *plan = &graph->plans[value->index];
    value->data = at(graph, again && plan->again != NULL ? plan->again : plan->data);
}

static void point_grad(peft__graph *graph, peft__value *value) {
    peft__value *root = peft__root(value);
    if (root->param != NULL) {
        value->grad = root->grad == NULL ? NULL : root->grad + value->column;
        return;
    }
    const peft__value_plan *plan = &graph->plans[root->index];
    value->grad = plan->written && root->grad_storage != NULL ? at(graph, root->grad_storage) + value->column : NULL;
}

static void begin_step(peft__graph *graph, peft__step *step) {
    peft__node *node = step->node;
    switch (step->kind) {
    case PEFT__STEP_FORWARD:
    case PEFT__STEP_RECOMPUTE:
    case PEFT__STEP_BACKWARD:
        for (uint32_t k = 0; k < node->in_count; k++) {
            peft__value *in = node->in[k];
            if (in != NULL && in->base != NULL) in->data = in->base->data + in->column;
        }
        if (step->kind != PEFT__STEP_BACKWARD) {
            for (uint32_t k = 0; k < node->out_count; k++) point_data(graph, node->out[k], step->kind == PEFT__STEP_RECOMPUTE);
            break;
        }
        for (uint32_t k = 0; k < node->in_count; k++)
            if (node->in[k] != NULL) point_grad(graph, node->in[k]);
        for (uint32_t k = 0; k < node->out_count; k++) point_grad(graph, node->out[k]);
        break;
    case PEFT__STEP_ZERO_GRAD: point_grad(graph, step->value); break;
    case PEFT__STEP_COPY_GRAD:
        step->value->grad_storage = step->to;
        point_grad(graph, step->value);
        break;
    case PEFT__STEP_ADD_GRAD:
        point_grad(graph, step->value);
        point_grad(graph, step->other);
        break;
    }
}

/* ---- tiles ------------------------------------------------------------------------------------------------------ */

static void gradient_tile(const peft__graph *graph, const peft__step *step, uint32_t tile) {
    const peft__value *value = step->value;
    const int64_t first = (int64_t)tile * ROWS_PER_TILE, end = peft__min_i64(first + ROWS_PER_TILE, value->rows->count);
    for (int64_t r = first; r < end; r++) {
        float *to = value->grad + r * value->ld;
        if (step->kind == PEFT__STEP_ZERO_GRAD) {
            memset(to, 0, (size_t)value->cols * sizeof *to);
        } else if (step->kind == PEFT__STEP_COPY_GRAD) {
            memcpy(to, at(graph, step->from) + r * value->ld, (size_t)value->cols * sizeof *to);
        } else {
            const float *from = step->other->grad + r * step->other->ld;
            if (step->overwrite) memcpy(to, from, (size_t)value->cols * sizeof *to);
            else
                for (int64_t c = 0; c < value->cols; c++) to[c] += from[c];
        }
    }
}

static void run_tile(void *argument, uint32_t tile, uint32_t lane) {
    slice *work = argument;
    const peft__step *step = work->step;
    if (step->kind == PEFT__STEP_ZERO_GRAD || step->kind == PEFT__STEP_COPY_GRAD || step->kind == PEFT__STEP_ADD_GRAD) {
        gradient_tile(work->graph, step, work->first + tile);
        return;
    }
    peft__run run = work->run;
    run.lane = work->graph->lane_memory == NULL ? NULL : work->graph->lane_memory + work->graph->lane_bytes * lane;
    step->node->op->tile(step->node, work->pass, work->phase, work->first + tile, &run);
}

static uint32_t step_phases(const peft__step *step, peft__pass pass) {
    if (step->node == NULL || step->kind == PEFT__STEP_ADD_GRAD) return 1;
    return step->node->op->phases == NULL ? 1 : step->node->op->phases(step->node, pass);
}

static uint32_t step_tiles(const peft__step *step, peft__pass pass, uint32_t phase) {
    if (step->node == NULL || step->kind == PEFT__STEP_ADD_GRAD) return (uint32_t)peft__ceil_div(step->value->rows->count, ROWS_PER_TILE);
    return step->node->op->tiles(step->node, pass, phase);
}

static double step_products(const peft__graph *graph, const peft__step *step, peft__pass pass) {
    const bool runs_node = step->kind == PEFT__STEP_FORWARD || step->kind == PEFT__STEP_RECOMPUTE || step->kind == PEFT__STEP_BACKWARD;
    if (!runs_node || step->node->op->products == NULL) return 0.0;
    return step->node->op->products(step->node, pass, graph->batch);
}

/* The number of workers may have changed since the plan's memory was taken. */
static peft_status fit_lanes(peft__graph *graph) {
    const uint32_t lanes = peft__pool_lanes(graph->ctx->pool);
    if (lanes <= graph->lanes || graph->lane_bytes == 0) return PEFT_OK;
    uint8_t *memory = peft__alloc(graph->ctx->mem, graph->lane_bytes * lanes);
    if (memory == NULL) return peft__fail_nomem(graph->ctx, graph->lane_bytes * lanes, "the workers' scratch");
    peft__free(graph->ctx->mem, graph->lane_memory);
    graph->lane_memory = memory;
    graph->lanes = lanes;
    return PEFT_OK;
}

peft_status peft__graph_run(peft__graph *graph, peft__cursor *cursor, uint32_t until, const peft__run_options *options) {
    if (graph->batch == NULL) return peft__fail(graph->ctx, PEFT_E_INTERNAL, "no batch is bound");
    PEFT_TRY(fit_lanes(graph));
    const bool sliced = options->deadline_us != UINT64_MAX;
    slice work = {.graph = graph};
    work.run.graph = graph;
    work.run.batch = graph->batch;
    work.run.cpu = graph->ctx->cpu;
    work.run.training = options->training;
    work.run.seed = options->seed;
    bool any = false;
    while (cursor->step < until) {
        peft__step *step = &graph->steps[cursor->step];
        work.step = step;
        work.pass = step->kind == PEFT__STEP_BACKWARD ? PEFT__BACKWARD : PEFT__FORWARD;
        work.run.temp = step->temp == NULL ? NULL : (void *)at(graph, step->temp);
        if (cursor->phase == 0 && cursor->tile == 0) {
            if (cursor->step == graph->info.forward_steps) peft__assign_grads(graph);
            begin_step(graph, step);
        }
        const uint32_t phases = step_phases(step, work.pass);
        while (cursor->phase < phases) {
            const uint32_t tiles = step_tiles(step, work.pass, cursor->phase);
            while (cursor->tile < tiles) {
                if (options->cancel != NULL && atomic_load_explicit(options->cancel, memory_order_relaxed))
                    return peft__fail(graph->ctx, PEFT_E_CANCELLED, "cancelled at step %u of %u", cursor->step, graph->info.steps);
                const uint64_t start = sliced || options->max_slice_us != NULL ? peft__clock_us() : 0;
                if (sliced && any && start >= options->deadline_us) return PEFT_AGAIN;
                const uint32_t count = sliced && tiles - cursor->tile > graph->lanes ? graph->lanes : tiles - cursor->tile;
                work.phase = cursor->phase;
                work.first = cursor->tile;
                peft__pool_run(graph->ctx->pool, count, run_tile, &work);
                cursor->tile += count;
                any = true;
                if (options->max_slice_us != NULL) {
                    const uint64_t spent = peft__clock_us() - start;
                    if (spent > *options->max_slice_us) *options->max_slice_us = spent;
                }
            }
            cursor->phase++;
            cursor->tile = 0;
        }
        if (options->products != NULL) *options->products += step_products(graph, step, work.pass);
        cursor->step++;
        cursor->phase = 0;
    }
    return PEFT_OK;
}

/* ---- for the curious --------------------------------------------------------------------------------------------- */

bool peft__graph_describe(const peft__graph *graph, peft__buffer *out) {
    static const char *const kinds[] = {"forward", "again", "backward", "zero", "copy", "add"};
    for (size_t i = 0; i < graph->step_count; i++) {
        const peft__step *step = &graph->steps[i];
        const peft__node *node = step->node;
        peft__buffer_printf(out, "%5zu %-8s %-14s", i, kinds[step->kind], node != NULL ? node->op->name : "gradient");
        if (node != NULL) {
            for (uint32_t k = 0; k < node->in_count; k++)
                peft__buffer_printf(out, " %s", node->in[k] != NULL ? node->in[k]->name : "-");
            peft__buffer_puts(out, " ->");
            for (uint32_t k = 0; k < node->out_count; k++)
                peft__buffer_printf(out, " %s[%lld]", node->out[k]->name, (long long)node->out[k]->cols);
        } else {
            peft__buffer_printf(out, " %s", step->value->name);
        }
        peft__buffer_puts(out, "\n");
    }
    return !out->failed;
}
