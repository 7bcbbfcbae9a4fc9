/* image_resize.c: pictures of another size, as PIL makes them.
 *
 * PIL weighs all source pixels under a filter that grows with the reduction, along rows and then along columns (or the
 * other way round), in fixed point, with bytes in between. Models were trained on such pictures, and a different resize
 * costs accuracy that nobody finds again; so the arithmetic here is the same to the last bit.
 */
#include "data/image_data.h"

#include <math.h>

enum { PRECISION = 32 - 8 - 2 };

typedef struct filter {
    double (*weight)(double x);
    double support;
} filter;

static double box(double x) {
    return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
}

static double triangle(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double sinc(double x) {
    if (x == 0.0) return 1.0;
    x *= 3.14159265358979323846;
    return sin(x) / x;
}

static double hamming(double x) {
    x = fabs(x);
    if (x == 0.0) return 1.0;
    if (x >= 1.0) return 0.0;
    return sinc(x) * (0.54 + 0.46 * cos(3.14159265358979323846 * x));
}

static double bicubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0;
}

static double lanczos(double x) {
    return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
}

static const filter filters[] = {[PEFT__RESAMPLE_LANCZOS] = {lanczos, 3.0},
                                 [PEFT__RESAMPLE_BILINEAR] = {triangle, 1.0},
                                 [PEFT__RESAMPLE_BICUBIC] = {bicubic, 2.0},
                                 [PEFT__RESAMPLE_BOX] = {box, 0.5},
                                 [PEFT__RESAMPLE_HAMMING] = {hamming, 1.0}};

/* For each place along an axis: which source pixels, and their weights in fixed point. */
typedef struct axis {
    int64_t taps;     /* room for weights of one place */
    int64_t *bounds;  /* [places][2] first, count */
    int32_t *weights; /* [places][taps] */
} axis;

static void free_axis(peft_context *ctx, axis *a) {
    peft__free(ctx->mem, a->bounds);
    peft__free(ctx->mem, a->weights);
}

/* Weights of [from, from + length) of the source axis on `places` pixels. */
static peft_status make_axis(peft_context *ctx, const filter *f, int64_t size, double from, double length,
                             int64_t places, axis *a) {
    const double scale = length / (double)places, stretch = fmax(scale, 1.0), support = f->support * stretch;
    a->taps = (int64_t)ceil(support) * 2 + 1;
    const size_t bytes = (size_t)(places * a->taps) * sizeof *a->weights;
    a->bounds = peft__alloc(ctx->mem, (size_t)places * 2 * sizeof *a->bounds);
    a->weights = peft__alloc_zero(ctx->mem, bytes);
    double *exact = peft__alloc(ctx->mem, (size_t)a->taps * sizeof *exact);
    if (a->bounds == NULL || a->weights == NULL || exact == NULL) {
        peft__free(ctx->mem, exact);
        return peft__fail_nomem(ctx, bytes, "the filter of a picture");
    }
    for (int64_t i = 0; i < places; i++) {
        const double centre = from + ((double)i + 0.5) * scale;
        int64_t first = (int64_t)(centre - support + 0.5), end = (int64_t)(centre + support + 0.5);
        first = peft__max_i64(first, 0);
        end = peft__min_i64(end, size);
        double sum = 0.0;
        for (int64_t k = first; k < end; k++) {
            exact[k - first] = f->weight(((double)k - centre + 0.5) * (1.0 / stretch));
            sum += exact[k - first];
        }
        for (int64_t k = 0; k < end - first; k++) {
            const double w = sum != 0.0 ? exact[k] / sum : exact[k];
            a->weights[i * a->taps + k] = (int32_t)(w * (double)(1 << PRECISION) + (w < 0.0 ? -0.5 : 0.5));
        }
        a->bounds[2 * i] = first;
        a->bounds[2 * i + 1] = end - first;
    }
    peft__free(ctx->mem, exact);
    return PEFT_OK;
}

static uint8_t clipped(int64_t sum) {
    const int64_t value = sum >> PRECISION;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* Rows [first, first + rows) of the source, each to `width` pixels. */
static void along_rows(const peft__image *from, int64_t first, int64_t rows, const axis *a, int64_t width,
                       uint8_t *to) {
    for (int64_t y = 0; y < rows; y++) {
        const uint8_t *line = from->pixels + (first + y) * from->width * 3;
        for (int64_t x = 0; x < width; x++, to += 3) {
            const uint8_t *pixel = line + a->bounds[2 * x] * 3;
            int64_t sum[3] = {1 << (PRECISION - 1), 1 << (PRECISION - 1), 1 << (PRECISION - 1)};
            for (int64_t k = 0; k < a->bounds[2 * x + 1]; k++, pixel += 3)
                for (int c = 0; c < 3; c++) sum[c] += (int64_t)pixel[c] * a->weights[x * a->taps + k];
            for (int c = 0; c < 3; c++) to[c] = clipped(sum[c]);
        }
    }
}

/* `from` holds rows of the source from `first` on. */
static void along_columns(const uint8_t *from, int64_t first, const axis *a, int64_t width, int64_t height,
                          uint8_t *to) {
    for (int64_t y = 0; y < height; y++) {
        for (int64_t i = 0; i < width * 3; i++) {
            const uint8_t *pixel = from + (a->bounds[2 * y] - first) * width * 3 + i;
            int64_t sum = 1 << (PRECISION - 1);
            for (int64_t k = 0; k < a->bounds[2 * y + 1]; k++, pixel += width * 3)
                sum += (int64_t)*pixel * a->weights[y * a->taps + k];
            *to++ = clipped(sum);
        }
    }
}

/* PIL adds up the step, and its rounding decides where a place falls between two pixels. */
static void nearest(const peft__image *from, const double part[4], int64_t width, int64_t height, uint8_t *to) {
    const double step_x = part[2] / (double)width, step_y = part[3] / (double)height;
    double at_y = part[1] + step_y * 0.5;
    for (int64_t y = 0; y < height; y++, at_y += step_y) {
        const int64_t row = peft__min_i64((int64_t)at_y, from->height - 1);
        double at_x = part[0] + step_x * 0.5;
        for (int64_t x = 0; x < width; x++, to += 3, at_x += step_x) {
            const int64_t col = peft__min_i64((int64_t)at_x, from->width - 1);
            memcpy(to, from->pixels + (row * from->width + col) * 3, 3);
        }
    }
}

/* Which way first? PIL takes columns first where the picture loses much more height than width. */
static bool columns_first(const double part[4], int64_t width, int64_t height) {
    return (double)height < part[3] && part[3] - (double)height > 2.0 * (part[2] - (double)width);
}

static peft_status filtered(peft_context *ctx, const peft__image *from, const filter *f, const double part[4],
                            int64_t width, int64_t height, uint8_t *to) {
    const bool rows_stay = width == from->width && part[0] == 0.0 && part[2] == (double)from->width;
    const bool columns_stay = height == from->height && part[1] == 0.0 && part[3] == (double)from->height;
    if (rows_stay && columns_stay) {
        memcpy(to, from->pixels, (size_t)(width * height) * 3);
        return PEFT_OK;
    }
    axis x = {0}, y = {0};
    uint8_t *between = NULL;
    peft_status status = make_axis(ctx, f, from->width, part[0], part[2], width, &x);
    if (status >= 0) status = make_axis(ctx, f, from->height, part[1], part[3], height, &y);
    if (status >= 0) {
        const int64_t first = y.bounds[0], rows = y.bounds[2 * (height - 1)] + y.bounds[2 * height - 1] - first;
        if (columns_stay) {
            along_rows(from, 0, height, &x, width, to);
        } else if (rows_stay) {
            along_columns(from->pixels, 0, &y, width, height, to);
        } else {
            const bool turned = columns_first(part, width, height);
            const size_t bytes = (size_t)(turned ? height * from->width : rows * width) * 3;
            between = peft__alloc(ctx->mem, bytes);
            if (between == NULL) {
                status = peft__fail_nomem(ctx, bytes, "a picture");
            } else if (turned) {
                const peft__image low = {from->width, height, between};
                along_columns(from->pixels, 0, &y, from->width, height, between);
                along_rows(&low, 0, height, &x, width, to);
            } else {
                along_rows(from, first, rows, &x, width, between);
                along_columns(between, first, &y, width, height, to);
            }
        }
    }
    peft__free(ctx->mem, between);
    free_axis(ctx, &x);
    free_axis(ctx, &y);
    return status;
}

peft_status peft__image_resize(peft_context *ctx, const peft__image *from, peft__resample resample,
                               const double part[4], int64_t width, int64_t height, peft__image *out) {
    const double all[4] = {0.0, 0.0, (double)from->width, (double)from->height};
    PEFT_TRY(peft__image_new(ctx, "resized picture", width, height, out));
    if (part == NULL) part = all;
    peft_status status = PEFT_OK;
    if (resample == PEFT__RESAMPLE_NEAREST)
        nearest(from, part, width, height, out->pixels);
    else
        status = filtered(ctx, from, &filters[resample], part, width, height, out->pixels);
    if (status < 0) peft__image_free(ctx, out);
    return status;
}
