/* image_batch.c: the pictures of a batch, decoded by the worker pool.
 *
 * A picture is a tile: what comes out depends on the picture and its seed alone, so any number of threads gives the
 * same bits. Error texts live in the context, which workers cannot share; each lane has a context of its own that is
 * nothing but memory and such a text. The texts are thrown away: the first picture that failed is read again by the
 * caller, so that what is reported is the lowest place in the batch and not the fastest worker.
 */
#include "data/image_data.h"

#include "base/base.h"

/* What a worker writes to. */
typedef struct peft__image_lane {
    peft_context ctx;
    float *planes; /* [channels, height, width] of one picture */
} image_lane;

typedef struct reading {
    peft__image_batch *batch;
    const peft__images *images;
    const peft_image_augment *augment;
} reading;

static peft_status read_one(const reading *r, peft_context *ctx, const peft__image_task *task, float *planes) {
    peft_image_augment augment;
    if (r->augment != NULL) {
        augment = *r->augment;
        augment.seed = task->seed;
    }
    return peft__images_read(ctx, r->images, task->picture, r->augment != NULL ? &augment : NULL, planes, task->out);
}

static void read_tile(void *argument, uint32_t tile, uint32_t lane) {
    const reading *r = argument;
    image_lane *own = &r->batch->lanes[lane];
    peft__image_task *task = &r->batch->tasks[tile];
    task->status = read_one(r, &own->ctx, task, own->planes);
}

static void free_lanes(peft_context *ctx, peft__image_batch *batch) {
    for (uint32_t i = 0; i < batch->lane_count; i++) peft__free(ctx->mem, batch->lanes[i].planes);
    peft__free(ctx->mem, batch->lanes);
    batch->lanes = NULL;
    batch->lane_count = 0;
}

/* One for each thread that the context has by now. */
static peft_status make_lanes(peft_context *ctx, peft__image_batch *batch, int64_t floats) {
    const uint32_t count = peft__pool_lanes(ctx->pool);
    if (count == batch->lane_count) return PEFT_OK;
    free_lanes(ctx, batch);
    image_lane *lanes = peft__alloc_zero(ctx->mem, count * sizeof *lanes);
    if (lanes == NULL) return peft__fail_nomem(ctx, count * sizeof *lanes, "readers of pictures");
    batch->lanes = lanes;
    for (uint32_t i = 0; i < count; i++) {
        lanes[i].ctx.mem = ctx->mem;
        lanes[i].ctx.cpu = ctx->cpu;
        atomic_init(&lanes[i].ctx.references, 1); /* never the last: it is no context that could be destroyed */
        lanes[i].planes = peft__alloc(ctx->mem, (size_t)floats * sizeof *lanes[i].planes);
        batch->lane_count = i + 1;
        if (lanes[i].planes != NULL) continue;
        free_lanes(ctx, batch);
        return peft__fail_nomem(ctx, (size_t)floats * sizeof *lanes[i].planes, "a picture");
    }
    return PEFT_OK;
}

peft_status peft__image_batch_reserve(peft_context *ctx, peft__image_batch *batch, int64_t count) {
    if (count <= batch->capacity) return PEFT_OK;
    const size_t bytes = (size_t)count * sizeof *batch->tasks;
    peft__image_task *tasks = peft__realloc(ctx->mem, batch->tasks, bytes);
    if (tasks == NULL) return peft__fail_nomem(ctx, bytes, "a batch");
    batch->tasks = tasks;
    batch->capacity = count;
    return PEFT_OK;
}

void peft__image_batch_free(peft_context *ctx, peft__image_batch *batch) {
    free_lanes(ctx, batch);
    peft__free(ctx->mem, batch->tasks);
    *batch = (peft__image_batch){0};
}

peft_status peft__image_batch_read(peft_context *ctx, peft__image_batch *batch, const peft__images *images,
                                   const peft_image_augment *augment, int64_t count) {
    PEFT_TRY(make_lanes(ctx, batch, peft__images_plane_floats(images)));
    reading r = {batch, images, augment};
    peft__pool_run(ctx->pool, (uint32_t)count, read_tile, &r);
    for (int64_t i = 0; i < count; i++)
        if (batch->tasks[i].status < 0) PEFT_TRY(read_one(&r, ctx, &batch->tasks[i], batch->lanes[0].planes));
    return PEFT_OK;
}
