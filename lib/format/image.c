/* image.c: which format a picture has, and how large it may be. */
#include "format/image.h"

peft_status peft__image_new(peft_context *ctx, const char *name, int64_t width, int64_t height, peft__image *out) {
    if (width < 1 || height < 1)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: a picture of %lld x %lld pixels", name, (long long)width,
                          (long long)height);
    if (width > PEFT__IMAGE_SIDE || height > PEFT__IMAGE_SIDE || width * height > PEFT__IMAGE_PIXELS)
        return peft__fail(ctx, PEFT_E_LIMIT, "%s: a picture of %lld x %lld pixels; the limit is %lld pixels and %d a side",
                          name, (long long)width, (long long)height, (long long)PEFT__IMAGE_PIXELS, PEFT__IMAGE_SIDE);
    const size_t bytes = (size_t)(width * height) * 3;
    out->pixels = peft__alloc(ctx->mem, bytes);
    if (out->pixels == NULL) return peft__fail_nomem(ctx, bytes, "a picture");
    out->width = width;
    out->height = height;
    return PEFT_OK;
}

void peft__image_free(peft_context *ctx, peft__image *image) {
    peft__free(ctx->mem, image->pixels);
    image->pixels = NULL;
}

peft_status peft__image_decode(peft_context *ctx, const char *name, const void *data, size_t size, peft__image *out) {
    static const uint8_t png[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'}, jpeg[] = {0xff, 0xd8, 0xff};
    const uint8_t *bytes = data;
    memset(out, 0, sizeof *out);
    peft_status status = PEFT_OK;
    if (size > sizeof png && memcmp(bytes, png, sizeof png) == 0)
        status = peft__image_png(ctx, name, bytes, size, out);
    else if (size > sizeof jpeg && memcmp(bytes, jpeg, sizeof jpeg) == 0)
        status = peft__image_jpeg(ctx, name, bytes, size, out);
    else if (size > 2 && bytes[0] == 'P' && bytes[1] >= '2' && bytes[1] <= '6' && bytes[1] != '4')
        status = peft__image_pnm(ctx, name, bytes, size, out);
    else
        status = peft__fail(ctx, PEFT_E_FORMAT, "%s: expected a picture (PNG, JPEG, PPM or PGM), found something else",
                            name);
    if (status < 0) peft__image_free(ctx, out);
    return status;
}

peft_status peft__image_open(peft_context *ctx, const char *path, peft__image *out) {
    peft__source *source = NULL;
    memset(out, 0, sizeof *out);
    PEFT_TRY(peft__source_open_path(ctx, path, &source));
    const peft_status status = peft__image_decode(ctx, path, source->data, source->size, out);
    peft__source_unref(source);
    return status;
}
