/* image.h: pictures from files: PNG, JPEG, PPM and PGM, as 8-bit RGB.
 *
 * What comes out is what PIL's Image.open(...).convert("RGB") gives: palettes and grey are spread over three channels,
 * transparency is dropped without blending, 16 bits keep the upper 8. Files come from strangers: their size is looked
 * at before a pixel is decoded, truncated and damaged ones are errors, and nothing of libpng or libjpeg reaches the
 * process (their error exits come back as a status, their messages as its text).
 */
#ifndef PEFT_FORMAT_IMAGE_H
#define PEFT_FORMAT_IMAGE_H

#include "base/base.h"

enum { PEFT__IMAGE_SIDE = 32768 };
#define PEFT__IMAGE_PIXELS ((int64_t)1 << 26) /* what PIL warns of as a decompression bomb is a third more */

typedef struct peft__image {
    int64_t width, height;
    uint8_t *pixels; /* [height, width, 3]; released with peft__image_free */
} peft__image;

/* By the first bytes, not the name. PEFT_E_FORMAT (damaged, or no picture), PEFT_E_LIMIT (too many pixels),
 * PEFT_E_UNSUPPORTED (built without the library for this format), PEFT_E_NOMEM. */
peft_status peft__image_decode(peft_context *ctx, const char *name, const void *data, size_t size, peft__image *out);
peft_status peft__image_open(peft_context *ctx, const char *path, peft__image *out);
void peft__image_free(peft_context *ctx, peft__image *image);

/* For decoders: checks the size and takes the pixels. */
peft_status peft__image_new(peft_context *ctx, const char *name, int64_t width, int64_t height, peft__image *out);

/* One format each; `data` begins as it should. */
peft_status peft__image_png(peft_context *ctx, const char *name, const uint8_t *data, size_t size, peft__image *out);
peft_status peft__image_jpeg(peft_context *ctx, const char *name, const uint8_t *data, size_t size, peft__image *out);
peft_status peft__image_pnm(peft_context *ctx, const char *name, const uint8_t *data, size_t size, peft__image *out);

#endif
