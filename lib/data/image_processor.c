/* image_processor.c: preprocessor_config.json as transformers' image processors for ViT and DeiT read it.
 *
 * Order and arithmetic are theirs: resize in bytes, centre crop (small pictures stand in black), then
 * (pixel * rescale_factor - mean) / std in float. For training, a random piece of the picture takes the place of
 * resizing and cropping, as torchvision draws it.
 */
#include "data/image_data.h"

#include <math.h>

#include "format/json.h"
#include "model/model.h"

static const char *const where = "preprocessor_config.json";

enum { MOST_SIDE = 8192, TRIES = 10 };

/* ---- configuration ----------------------------------------------------------------------------------------- */

/* {"height", "width"}, {"shortest_edge"} or a number; a bare number is a square. */
static peft_status read_size(peft_context *ctx, const json_t *config, const char *key, int64_t *height, int64_t *width,
                             int64_t *shortest) {
    const json_t *value = peft__json_value(config, key);
    *shortest = 0;
    if (value == NULL) return PEFT_OK;
    if (!json_is_object(value)) {
        PEFT_TRY(peft__json_need_int(ctx, config, where, key, 1, MOST_SIDE, height));
        *width = *height;
        return PEFT_OK;
    }
    if (json_object_get(value, "shortest_edge") != NULL && json_object_get(value, "longest_edge") == NULL)
        return peft__json_need_int(ctx, value, where, "shortest_edge", 1, MOST_SIDE, shortest);
    if (json_object_get(value, "height") == NULL || json_object_get(value, "width") == NULL)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: %s: expected height and width, or shortest_edge alone", where,
                          key);
    PEFT_TRY(peft__json_need_int(ctx, value, where, "height", 1, MOST_SIDE, height));
    return peft__json_need_int(ctx, value, where, "width", 1, MOST_SIDE, width);
}

static peft_status read_triple(peft_context *ctx, const json_t *config, const char *key, bool positive, double out[3]) {
    const json_t *value = peft__json_value(config, key);
    for (size_t i = 0; value != NULL && i < 3; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, json_array_size(value) == 1 ? 0 : i) : value;
        if (!json_is_number(item) || !isfinite(json_number_value(item)) ||
            (positive && !(json_number_value(item) > 1e-12)))
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: %s: expected three %snumbers", where, key,
                              positive ? "positive " : "");
        out[i] = json_number_value(item);
    }
    return PEFT_OK;
}

static peft_status read_config(peft_context *ctx, const json_t *config, peft_image_processor *p) {
    int64_t resample = p->resample, ignored = 0;
    PEFT_TRY(peft__json_get_bool(ctx, config, where, "do_resize", p->resize, &p->resize));
    PEFT_TRY(peft__json_get_bool(ctx, config, where, "do_center_crop", p->crop, &p->crop));
    PEFT_TRY(peft__json_get_bool(ctx, config, where, "do_rescale", p->rescale, &p->rescale));
    PEFT_TRY(peft__json_get_bool(ctx, config, where, "do_normalize", p->normalise, &p->normalise));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "resample", 0, PEFT__RESAMPLE_HAMMING, resample, &resample));
    PEFT_TRY(peft__json_get_double(ctx, config, where, "rescale_factor", 1e-9, 1e9, p->factor, &p->factor));
    PEFT_TRY(read_size(ctx, config, "size", &p->height, &p->width, &p->shortest));
    PEFT_TRY(read_size(ctx, config, "crop_size", &p->crop_height, &p->crop_width, &ignored));
    PEFT_TRY(read_triple(ctx, config, "image_mean", false, p->mean));
    PEFT_TRY(read_triple(ctx, config, "image_std", true, p->deviation));
    p->resample = (peft__resample)resample;
    return PEFT_OK;
}

static peft_status load_config(peft_context *ctx, const peft_model *model, const char *text, json_t **out) {
    *out = NULL;
    if (text != NULL) return peft__json_load_memory(ctx, where, text, strlen(text), (size_t)1 << 20, out);
    const char *folder = peft__model_path(model);
    if (folder == NULL || !peft__path_is_dir(folder)) return PEFT_OK;
    char *path = peft__path_join(ctx->mem, folder, where);
    if (path == NULL) return peft__fail_nomem(ctx, strlen(folder), "a path");
    const peft_status status =
        peft__path_exists(path) ? peft__json_load_file(ctx, path, (size_t)1 << 20, out) : PEFT_OK;
    peft__free(ctx->mem, path);
    return status;
}

static peft_status fill(peft_context *ctx, const peft_model *model, const char *text, peft_image_processor *p) {
    peft_image_info info = {.struct_size = sizeof info};
    PEFT_TRY(peft_model_image_info(ctx, model, &info));
    if (info.channels != 1 && info.channels != 3)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "pictures have 1 or 3 channels, the model reads %u", info.channels);
    *p = (peft_image_processor){.ctx = p->ctx,
                                .channels = info.channels,
                                .resize = true,
                                .rescale = true,
                                .normalise = true,
                                .height = info.image_height,
                                .width = info.image_width,
                                .crop_height = info.image_height,
                                .crop_width = info.image_width,
                                .resample = PEFT__RESAMPLE_BILINEAR,
                                .factor = 1.0 / 255.0,
                                .mean = {0.5, 0.5, 0.5},
                                .deviation = {0.5, 0.5, 0.5}};
    json_t *config = NULL;
    PEFT_TRY(load_config(ctx, model, text, &config));
    peft_status status = PEFT_OK;
    if (config != NULL && !json_is_object(config))
        status = peft__fail(ctx, PEFT_E_FORMAT, "%s: expected an object, found %s", where, peft__json_kind(config));
    else if (config != NULL)
        status = read_config(ctx, config, p);
    json_decref(config);
    if (status >= 0 && p->height < 1) p->height = 1;
    const bool fixed = p->crop || (p->resize && p->shortest == 0);
    p->out_height = !fixed ? 0 : p->crop ? p->crop_height : p->height;
    p->out_width = !fixed ? 0 : p->crop ? p->crop_width : p->width;
    return status;
}

peft_status peft_image_processor_create(peft_context *ctx, const peft_model *model, const char *config,
                                        peft_image_processor **out_processor) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (model == NULL || out_processor == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "model and out_processor may not be NULL");
    peft_image_processor *p = peft__alloc_zero(ctx->mem, sizeof *p);
    if (p == NULL) return peft__fail_nomem(ctx, sizeof *p, "an image processor");
    p->ctx = peft__context_ref(ctx);
    const peft_status status = fill(ctx, model, config, p);
    if (status < 0) {
        peft_image_processor_destroy(p);
        return status;
    }
    *out_processor = p;
    return PEFT_OK;
}

void peft_image_processor_destroy(peft_image_processor *processor) {
    if (processor == NULL) return;
    peft_context *ctx = processor->ctx;
    peft__free(ctx->mem, processor);
    peft__context_unref(ctx);
}

/* ---- chance ------------------------------------------------------------------------------------------------ */

void peft_image_augment_init_sized(peft_image_augment *augment, uint32_t size) {
    if (augment == NULL || size < sizeof augment->struct_size) return;
    const peft_image_augment defaults = {
        .struct_size = size, .min_scale = 0.08f, .max_scale = 1.0f, .min_ratio = 3.0f / 4.0f, .max_ratio = 4.0f / 3.0f};
    memset(augment, 0, size);
    memcpy(augment, &defaults, peft__min_size(size, sizeof defaults));
}

static double between(peft__rng *rng, double low, double high) {
    return low + (high - low) * (double)peft__rng_uniform(rng);
}

static peft_status check_augment(peft_context *ctx, const peft_image_augment *a) {
    const bool good = a->flip >= 0.0f && a->flip <= 1.0f && a->min_scale > 0.0f && a->min_scale <= a->max_scale &&
                      a->max_scale <= 1.0f && a->min_ratio > 1e-3f && a->min_ratio <= a->max_ratio &&
                      a->max_ratio < 1e3f;
    return good ? PEFT_OK
                : peft__fail(ctx, PEFT_E_ARG, "peft_image_augment: scales in (0, 1], ratios above 0, flip from 0 to 1");
}

/* A piece of a random area and shape; after ten that do not fit, the largest in the middle that does. */
static void draw_piece(peft__rng *rng, const peft_image_augment *a, const peft__image *image, double part[4]) {
    const double width = (double)image->width, height = (double)image->height;
    for (int i = 0; i < TRIES; i++) {
        const double area = width * height * between(rng, (double)a->min_scale, (double)a->max_scale);
        const double ratio = exp(between(rng, log((double)a->min_ratio), log((double)a->max_ratio)));
        const int64_t w = llround(sqrt(area * ratio)), h = llround(sqrt(area / ratio));
        if (w < 1 || h < 1 || w > image->width || h > image->height) continue;
        part[0] = (double)peft__rng_below(rng, (uint64_t)(image->width - w + 1));
        part[1] = (double)peft__rng_below(rng, (uint64_t)(image->height - h + 1));
        part[2] = (double)w;
        part[3] = (double)h;
        return;
    }
    const double ratio = width / height;
    part[2] = ratio > (double)a->max_ratio ? (double)llround(height * (double)a->max_ratio) : width;
    part[3] = ratio < (double)a->min_ratio ? (double)llround(width / (double)a->min_ratio) : height;
    part[2] = fmin(part[2], width);
    part[3] = fmin(part[3], height);
    part[0] = floor((width - part[2]) / 2.0);
    part[1] = floor((height - part[3]) / 2.0);
}

/* ---- a picture --------------------------------------------------------------------------------------------- */

/* The size that resizing gives. */
static void target_size(const peft_image_processor *p, const peft__image *image, int64_t *width, int64_t *height) {
    *width = p->resize ? p->width : image->width;
    *height = p->resize ? p->height : image->height;
    if (!p->resize || p->shortest == 0) return;
    const bool upright = image->width <= image->height;
    const int64_t small = upright ? image->width : image->height, large = upright ? image->height : image->width;
    const int64_t other = (int64_t)((double)(p->shortest * large) / (double)small);
    *width = upright ? p->shortest : other;
    *height = upright ? other : p->shortest;
}

/* Pixel (y, x) of the result, where the picture lies `top` and `left` of the crop; black beyond it. */
static void put_floats(const peft_image_processor *p, const peft__image *image, int64_t top, int64_t left,
                       int64_t height, int64_t width, bool flip, float *out) {
    for (int64_t y = 0; y < height; y++) {
        for (int64_t x = 0; x < width; x++) {
            const int64_t row = y + top, col = (flip ? width - 1 - x : x) + left;
            const bool inside = row >= 0 && row < image->height && col >= 0 && col < image->width;
            const uint8_t *pixel = inside ? image->pixels + (row * image->width + col) * 3 : NULL;
            for (uint32_t c = 0; c < p->channels; c++) {
                double value = pixel == NULL ? 0.0 : (double)pixel[c];
                if (p->channels == 1 && pixel != NULL) /* luma, as PIL rounds it */
                    value = (double)((pixel[0] * 19595 + pixel[1] * 38470 + pixel[2] * 7471 + 0x8000) >> 16);
                if (p->rescale) value *= p->factor;
                if (p->normalise) value = (value - p->mean[c]) / p->deviation[c];
                out[((int64_t)c * height + y) * width + x] = (float)value;
            }
        }
    }
}

/* Where a centre crop begins; transformers pads pictures that are smaller by the larger half first. */
static int64_t crop_start(int64_t size, int64_t crop) {
    if (crop <= size) return (size - crop) / 2;
    return -((crop - size + 1) / 2);
}

peft_status peft__image_prepare(peft_context *ctx, const peft_image_processor *p, const peft__image *image,
                                const peft_image_augment *augment, float *out, int64_t room, int64_t *out_height,
                                int64_t *out_width) {
    peft__rng rng = peft__rng_make(augment != NULL ? augment->seed : 0, 0);
    const bool piece = augment != NULL && augment->random_resized_crop != 0;
    int64_t width = 0, height = 0;
    double part[4];
    if (augment != NULL) PEFT_TRY(check_augment(ctx, augment));
    target_size(p, image, &width, &height);
    if (piece) draw_piece(&rng, augment, image, part);
    if (piece && p->crop) width = p->crop_width, height = p->crop_height;
    const bool crop = p->crop && !piece, resize = p->resize || piece;
    const int64_t rows = crop ? p->crop_height : height, cols = crop ? p->crop_width : width;
    if (out_height != NULL) *out_height = rows;
    if (out_width != NULL) *out_width = cols;
    if (rows > MOST_SIDE || cols > MOST_SIDE || rows < 1 || cols < 1 || room < rows * cols * p->channels)
        return peft__fail(ctx, PEFT_E_LIMIT, "a picture of %lld x %lld with %u channels does not fit in %lld floats",
                          (long long)rows, (long long)cols, p->channels, (long long)room);
    peft__image resized = {0};
    if (resize) PEFT_TRY(peft__image_resize(ctx, image, p->resample, piece ? part : NULL, width, height, &resized));
    const peft__image *from = resize ? &resized : image;
    const bool flip = augment != NULL && peft__rng_uniform(&rng) < augment->flip;
    put_floats(p, from, crop ? crop_start(height, rows) : 0, crop ? crop_start(width, cols) : 0, rows, cols, flip, out);
    peft__image_free(ctx, &resized);
    return PEFT_OK;
}

static peft_status take_augment(peft_context *ctx, const peft_image_augment *augment, peft_image_augment *own) {
    peft_image_augment_init(own);
    return augment == NULL ? PEFT_OK
                           : peft__options_copy(ctx, own, sizeof *own, augment, sizeof *own, "peft_image_augment");
}

peft_status peft_image_process(const peft_image_processor *processor, const char *name, const void *data, uint64_t size,
                               const peft_image_augment *augment, float *out, int64_t room, int64_t *out_height,
                               int64_t *out_width) {
    if (processor == NULL) return PEFT_E_ARG;
    peft_context *ctx = processor->ctx;
    if (data == NULL || (out == NULL && room > 0) || size > SIZE_MAX)
        return peft__fail(ctx, PEFT_E_ARG, "peft_image_process: an argument is missing");
    peft_image_augment own;
    peft__image image;
    PEFT_TRY(take_augment(ctx, augment, &own));
    PEFT_TRY(peft__image_decode(ctx, name != NULL ? name : "picture", data, (size_t)size, &image));
    const peft_status status =
        peft__image_prepare(ctx, processor, &image, augment != NULL ? &own : NULL, out, room, out_height, out_width);
    peft__image_free(ctx, &image);
    return status;
}

peft_status peft_image_process_pixels(const peft_image_processor *processor, const uint8_t *pixels, int64_t height,
                                      int64_t width, int32_t channels, const peft_image_augment *augment, float *out,
                                      int64_t room, int64_t *out_height, int64_t *out_width) {
    if (processor == NULL) return PEFT_E_ARG;
    peft_context *ctx = processor->ctx;
    if (pixels == NULL || (out == NULL && room > 0) || (channels != 1 && channels != 3))
        return peft__fail(ctx, PEFT_E_ARG,
                          "peft_image_process_pixels: pixels of 1 or 3 channels and room for them are needed");
    peft_image_augment own;
    peft__image image = {0};
    PEFT_TRY(take_augment(ctx, augment, &own));
    PEFT_TRY(peft__image_new(ctx, "pixels", width, height, &image));
    for (int64_t i = 0; i < width * height; i++)
        for (int c = 0; c < 3; c++) image.pixels[3 * i + c] = pixels[i * channels + (channels == 3 ? c : 0)];
    const peft_status status =
        peft__image_prepare(ctx, processor, &image, augment != NULL ? &own : NULL, out, room, out_height, out_width);
    peft__image_free(ctx, &image);
    return status;
}
