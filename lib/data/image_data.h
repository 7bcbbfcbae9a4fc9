/* image_data.h: from pictures to what a vision model reads.
 *
 *   image_resize.c     another size, as PIL
 *   image_processor.c  preprocessor_config.json: resize, crop, scale, normalise; changes by chance for training
 *   image_list.c       which pictures a data set has, and their classes
 *   image_batch.c      the pictures of a batch, by all workers
 */
#ifndef PEFT_DATA_IMAGE_DATA_H
#define PEFT_DATA_IMAGE_DATA_H

#include "format/image.h"
#include "peft/dataset.h"
#include "peft/image.h"

/* PIL's numbers. */
typedef enum {
    PEFT__RESAMPLE_NEAREST = 0,
    PEFT__RESAMPLE_LANCZOS = 1,
    PEFT__RESAMPLE_BILINEAR = 2,
    PEFT__RESAMPLE_BICUBIC = 3,
    PEFT__RESAMPLE_BOX = 4,
    PEFT__RESAMPLE_HAMMING = 5
} peft__resample;

/* `part`: x, y, width and height of the piece of `from` that fills the result; NULL = all of it. */
peft_status peft__image_resize(peft_context *ctx, const peft__image *from, peft__resample resample,
                               const double part[4], int64_t width, int64_t height, peft__image *out);

/* ---- image_processor.c ---- */

struct peft_image_processor {
    peft_context *ctx;
    uint32_t channels;
    bool resize, crop, rescale, normalise;
    int64_t height, width, shortest; /* of resizing; shortest > 0: that side, the other in proportion */
    int64_t crop_height, crop_width;
    peft__resample resample;
    double factor;
    double mean[3], deviation[3];
    int64_t out_height, out_width; /* of what comes out; with `shortest` and no crop: 0 */
};

/* Takes a picture that is decoded already. `out` has room for channels * out_height * out_width floats. `ctx` is for
 * memory and error texts: a worker has its own. */
peft_status peft__image_prepare(peft_context *ctx, const peft_image_processor *processor, const peft__image *image,
                                const peft_image_augment *augment, float *out, int64_t room, int64_t *out_height,
                                int64_t *out_width);

/* ---- image_list.c ---- */

typedef struct peft__images peft__images;
/* The pictures at `path`; none is decoded yet. Without a model there are only their classes. */
peft_status peft__images_open(peft_context *ctx, const peft_model *model, const char *path,
                              const peft_dataset_options *options, peft__images **out_images);
void peft__images_free(peft__images *images); /* NULL is allowed */
int64_t peft__images_count(const peft__images *images);
const char *peft__images_label(const peft__images *images, int64_t index); /* NULL: has none */
/* Patches of every picture, floats of each, and how they lie. */
int64_t peft__images_patches(const peft__images *images, int64_t *out_cols, int32_t out_grid[2]);
/* Floats of one picture between decoding and cutting. */
int64_t peft__images_plane_floats(const peft__images *images);
/* Patch rows of one picture; `planes` is scratch of that many floats. */
peft_status peft__images_read(peft_context *ctx, const peft__images *images, int64_t index,
                              const peft_image_augment *augment, float *planes, float *out);

/* ---- image_batch.c ---- */

/* What is done with a picture of a batch. */
typedef struct peft__image_task {
    int64_t picture;
    uint64_t seed; /* of its changes by chance */
    float *out;    /* its patch rows */
    peft_status status;
} peft__image_task;

typedef struct peft__image_batch {
    peft__image_task *tasks; /* [capacity], filled by the caller */
    struct peft__image_lane *lanes;
    int64_t capacity;
    uint32_t lane_count;
} peft__image_batch;

/* Room for `count` tasks. */
peft_status peft__image_batch_reserve(peft_context *ctx, peft__image_batch *batch, int64_t count);
void peft__image_batch_free(peft_context *ctx, peft__image_batch *batch);
/* Reads tasks[0 .. count) on the workers of `ctx`. `augment` (NULL: unchanged) without its seed. What fails is the
 * first picture that cannot be read, whichever worker met it. */
peft_status peft__image_batch_read(peft_context *ctx, peft__image_batch *batch, const peft__images *images,
                                   const peft_image_augment *augment, int64_t count);

#endif
