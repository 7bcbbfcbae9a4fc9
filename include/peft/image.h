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

#ifdef __cplusplus
}
#endif
#endif
