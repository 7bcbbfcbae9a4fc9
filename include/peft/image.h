/** \file peft/image.h
 *  Images for vision models: what stands between pixels and a batch.
 *
 *  A vision model reads an image as a sequence of patches, each a row of channels * patch_height * patch_width floats.
 *  peft_image_patches() makes these rows from planes of pixels; they go into peft_batch.features, with the offsets of the
 *  images and, where images do not have the size the model was trained on, their grids in peft_batch.image_grids.
 */
#ifndef PEFT_IMAGE_H
#define PEFT_IMAGE_H

#include "peft/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/** How a vision model cuts images: its own size in pixels, and its patches. */
typedef struct peft_image_info {
    uint32_t struct_size;
    uint32_t channels;                  /**< 3: red, green, blue */
    uint32_t image_height, image_width; /**< what the model was trained on; others are read with interpolated positions */
    uint32_t patch_height, patch_width;
} peft_image_info;

/** PEFT_E_UNSUPPORTED when the model reads no images. `out_info->struct_size` must be set. */
PEFT_API PEFT_NODISCARD peft_status peft_model_image_info(peft_context *context, const peft_model *model, peft_image_info *out_info);

/** Rows that an image of this size becomes, and how they lie; what does not fill a patch at the right and at the bottom is left out.
 *  `out_grid` (rows and columns of patches, as in peft_batch.image_grids) may be NULL. 0: the image is smaller than a patch. */
PEFT_API int64_t peft_image_patch_count(const peft_image_info *info, int64_t height, int64_t width, int32_t out_grid[2]);

/** Patch rows of `count` images of one size. `pixels`: [count, channels, height, width] floats, prepared as the model expects (scaled and
 *  normalised). `out`: [count * patches, channels * patch_height * patch_width]; `room` is what fits there, in floats.
 *  PEFT_E_LIMIT when it is too little, PEFT_E_ARG when there is no patch. */
PEFT_API PEFT_NODISCARD peft_status peft_image_patches(peft_context *context, const peft_image_info *info, const float *pixels, int64_t count,
                                                       int64_t height, int64_t width, float *out, int64_t room);

/** What preprocessor_config.json says is done to a picture before a model reads it. */
typedef struct peft_image_processor peft_image_processor;

/** From the preprocessor_config.json beside the model, or from `config`, the text of one (may be NULL). Without either: resized to the model's
 *  size (bilinear), scaled by 1/255, normalised with mean and deviation 0.5. */
PEFT_API PEFT_NODISCARD peft_status peft_image_processor_create(peft_context *context, const peft_model *model, const char *config,
                                                                peft_image_processor **out_processor);
PEFT_API void peft_image_processor_destroy(peft_image_processor *processor);

/** Changes by chance, for training; a pure function of `seed`. */
typedef struct peft_image_augment {
    uint32_t struct_size;
    uint32_t random_resized_crop; /**< 1: in place of resizing and centre crop, a random piece of the picture fills it; default 0 */
    uint64_t seed;                /**< of this picture in this epoch */
    float min_scale, max_scale;   /**< share of the picture's area that the piece has; defaults 0.08 and 1 */
    float min_ratio, max_ratio;   /**< width over height of the piece; defaults 3/4 and 4/3 */
    float flip;                   /**< chance that left and right are exchanged; default 0 */
    uint32_t reserved;
} peft_image_augment;

PEFT_API void peft_image_augment_init_sized(peft_image_augment *augment, uint32_t size);
#define peft_image_augment_init(augment) peft_image_augment_init_sized((augment), (uint32_t)sizeof *(augment))

/** Decodes a file in memory (PNG, JPEG, PPM, PGM; by its first bytes) and prepares it: `out` gets [channels, height, width] floats, `room` is what
 *  fits there. `augment` may be NULL, and so may the sizes. PEFT_E_FORMAT (damaged, or no picture), PEFT_E_UNSUPPORTED (built without libpng or libjpeg),
 *  PEFT_E_LIMIT (too many pixels, or too little room: the sizes are written then). `name` is for error texts. */
PEFT_API PEFT_NODISCARD peft_status peft_image_process(const peft_image_processor *processor, const char *name, const void *data, uint64_t size,
                                                       const peft_image_augment *augment, float *out, int64_t room, int64_t *out_height,
                                                       int64_t *out_width);
/** The same from pixels: [height, width, channels] bytes, channels 1 or 3. */
PEFT_API PEFT_NODISCARD peft_status peft_image_process_pixels(const peft_image_processor *processor, const uint8_t *pixels, int64_t height,
                                                              int64_t width, int32_t channels, const peft_image_augment *augment, float *out,
                                                              int64_t room, int64_t *out_height, int64_t *out_width);

#ifdef __cplusplus
}
#endif
#endif
