/* image_ops.c: class tokens and interpolated positions around patches. The reference interpolates in double precision, tap by tap from
 * the definition of the cubic convolution kernel. */
#include "gradient.h"

static const int64_t lengths[] = {6, 12, 9, 6, 0};
static const int32_t grids[] = {2, 3, 3, 4, 3, 3, 3, 2};

enum { HEIGHT = 2, WIDTH = 3 };

typedef struct image_case {
    int64_t tokens, cols;
} image_case;

static double cubic(double x) {
    const double a = -0.75;
    x = fabs(x);
    if (x <= 1.0) return (a + 2.0) * x * x * x - (a + 3.0) * x * x + 1.0;
    return x < 2.0 ? a * x * x * x - 5.0 * a * x * x + 8.0 * a * x - 4.0 * a : 0.0;
}

static int64_t inside(int64_t i, int64_t count) {
    return i < 0 ? 0 : i >= count ? count - 1 : i;
}

static double position(const double *table, const image_case *n, int32_t height, int32_t width, int64_t patch, int64_t col) {
    if (height == HEIGHT && width == WIDTH) return table[(n->tokens + patch) * n->cols + col];
    const double y = ((double)(patch / width) + 0.5) * HEIGHT / height - 0.5, x = ((double)(patch % width) + 0.5) * WIDTH / width - 0.5;
    double sum = 0.0;
    for (int64_t i = (int64_t)floor(y) - 1; i <= (int64_t)floor(y) + 2; i++)
        for (int64_t j = (int64_t)floor(x) - 1; j <= (int64_t)floor(x) + 2; j++)
            sum += cubic(y - (double)i) * cubic(x - (double)j) *
                   table[(n->tokens + inside(i, HEIGHT) * WIDTH + inside(j, WIDTH)) * n->cols + col];
    return sum;
}

static void reference(gc *c, void *user) {
    const image_case *n = user;
    const double *x = c->in[0].exact, *table = c->in[1].exact;
    int64_t row = 0;
    for (int64_t s = 0; s < c->batch.sequences; s++) {
        for (int64_t t = 0; t < n->tokens; t++, row++)
            for (int64_t j = 0; j < n->cols; j++) c->out[0].want[row * n->cols + j] = c->in[2 + t].exact[j] + table[t * n->cols + j];
        for (int32_t r = c->batch.offsets[s]; r < c->batch.offsets[s + 1]; r++, row++)
            for (int64_t j = 0; j < n->cols; j++)
                c->out[0].want[row * n->cols + j] = x[r * n->cols + j] + position(table, n, grids[2 * s], grids[2 * s + 1], r - c->batch.offsets[s], j);
    }
}

static void check(const gc_style *style, image_case n, uint32_t frozen) {
    gc c;
    char name[96];
    snprintf(name, sizeof name, "image rows, %d tokens, %d columns, frozen %u", (int)n.tokens, (int)n.cols, frozen);
    gc_begin(&c, name, style, lengths, NULL);
    c.batch.image_grids = grids;
    peft__value *x = gc_input_new(&c, GC_STREAM, n.cols, 1.0f);
    if ((frozen & 1) != 0) gc_freeze_last(&c);
    peft__weight weights[3];
    const int64_t rows[] = {n.tokens + HEIGHT * WIDTH, 1, 1};
    for (int64_t i = 0; i < 1 + n.tokens; i++) {
        weights[i] = (peft__weight){peft__matrix_f32(NULL, rows[i], n.cols), gc_leaf_new(&c, rows[i], n.cols, 1.0f)};
        if ((frozen & 2u << i) != 0) gc_freeze_last(&c);
    }
    const peft__image_config config = {.tokens = n.tokens, .grid_height = HEIGHT, .grid_width = WIDTH};
    gc_output_new(&c, peft__op_image_rows(c.graph, x, weights + 1, weights[0], &config));
    gc_end(&c, reference, &n);
}

int main(void) {
    gc_style style;
    for (uint32_t i = 0; gc_next_style(&i, &style);) {
        check(&style, (image_case){1, 5}, 0);
        check(&style, (image_case){2, 70}, 0);
        check(&style, (image_case){0, 3}, 0);
        check(&style, (image_case){1, 5}, 1);
        check(&style, (image_case){1, 5}, 2);
        check(&style, (image_case){2, 5}, 12);
    }
    return gc_summary();
}
