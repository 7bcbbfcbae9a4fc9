/* image.c: pixels as patch rows, in the order of the patch embedding's weight: channel, then row, then column. */
#include "peft/image.h"

#include "format/json.h"
#include "model/model.h"

static peft_status read_info(peft_context *ctx, const peft_model *model, peft_image_info *out) {
    static const char *const keys[] = {"image_size", "patch_size"};
    uint32_t *const sides[2][2] = {{&out->image_height, &out->image_width}, {&out->patch_height, &out->patch_width}};
    const int64_t defaults[2] = {224, 16};
    const json_t *config = peft__model_config_json(model);
    int64_t channels = 3;
    if (peft__model_dims(model)->feature_size == 0)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "a %s model reads no images", peft__model_arch(model)->model_type);
    PEFT_TRY(peft__json_get_int(ctx, config, "config.json", "num_channels", 1, 4096, channels, &channels));
    for (size_t i = 0; i < PEFT_COUNT(keys); i++) {
        const json_t *value = json_object_get(config, keys[i]);
        for (size_t k = 0; k < 2; k++) {
            const json_t *item = json_is_array(value) ? json_array_get(value, k) : value;
            *sides[i][k] = (uint32_t)(json_is_integer(item) ? json_integer_value(item) : defaults[i]);
        }
    }
    out->channels = (uint32_t)channels;
    if (channels * out->patch_height * out->patch_width == peft__model_dims(model)->feature_size) return PEFT_OK;
    return peft__fail(ctx, PEFT_E_UNSUPPORTED, "the rows of a %s model are no image patches",
                      peft__model_arch(model)->model_type);
}

peft_status peft_model_image_info(peft_context *ctx, const peft_model *model, peft_image_info *out_info) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (model == NULL || out_info == NULL) return peft__fail(ctx, PEFT_E_ARG, "model and out_info may not be NULL");
    if (out_info->struct_size < sizeof(uint32_t))
        return peft__fail(ctx, PEFT_E_ABI, "peft_image_info.struct_size is not set");
    peft_image_info info = {.struct_size = out_info->struct_size};
    PEFT_TRY(read_info(ctx, model, &info));
    memcpy(out_info, &info, peft__min_size(out_info->struct_size, sizeof info));
    return PEFT_OK;
}

int64_t peft_image_patch_count(const peft_image_info *info, int64_t height, int64_t width, int32_t out_grid[2]) {
    if (info == NULL || info->patch_height == 0 || info->patch_width == 0 || height < 0 || width < 0) return 0;
    const int64_t rows = height / info->patch_height, cols = width / info->patch_width;
    if (rows > INT32_MAX || cols > INT32_MAX || (cols > 0 && rows > INT32_MAX / cols)) return 0;
    if (out_grid != NULL) out_grid[0] = (int32_t)rows, out_grid[1] = (int32_t)cols;
    return rows * cols;
}

/* One patch at (y, x) of an image of `stride` columns and `plane` pixels a channel. */
static float *put_patch(const peft_image_info *info, const float *image, int64_t plane, int64_t stride, int64_t y,
                        int64_t x, float *to) {
    for (uint32_t c = 0; c < info->channels; c++) {
        const float *from = image + c * plane + y * stride + x;
        for (uint32_t row = 0; row < info->patch_height; row++, from += stride, to += info->patch_width)
            memcpy(to, from, info->patch_width * sizeof *to);
    }
    return to;
}

peft_status peft_image_patches(peft_context *ctx, const peft_image_info *info, const float *pixels, int64_t count,
                               int64_t height, int64_t width, float *out, int64_t room) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (info == NULL || pixels == NULL || out == NULL || count < 1)
        return peft__fail(ctx, PEFT_E_ARG, "peft_image_patches: an argument is missing");
    int32_t grid[2] = {0, 0};
    const int64_t patches = peft_image_patch_count(info, height, width, grid);
    if (patches < 1 || info->channels == 0)
        return peft__fail(ctx, PEFT_E_ARG, "an image of %lld x %lld pixels has no patch of %u x %u", (long long)height,
                          (long long)width, info->patch_height, info->patch_width);
    int64_t needed = 0;
    if (__builtin_mul_overflow(patches * info->channels, (int64_t)info->patch_height * info->patch_width, &needed) ||
        __builtin_mul_overflow(needed, count, &needed) || needed > room)
        return peft__fail(ctx, PEFT_E_LIMIT, "%lld images of %lld x %lld pixels need %lld floats, there is room for %lld",
                          (long long)count, (long long)height, (long long)width, (long long)needed, (long long)room);
    const int64_t plane = height * width;
    for (int64_t i = 0; i < count; i++)
        for (int32_t y = 0; y < grid[0]; y++)
            for (int32_t x = 0; x < grid[1]; x++)
                out = put_patch(info, pixels + i * plane * info->channels, plane, width, (int64_t)y * info->patch_height,
                                (int64_t)x * info->patch_width, out);
    return PEFT_OK;
}
