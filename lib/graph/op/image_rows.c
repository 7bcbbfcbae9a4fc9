/* image_rows.c: from patch rows to the rows that a vision transformer reads: class tokens in front, positions added.
 *
 * Learned positions belong to the grid of patches the model was trained on. An image with another grid reads them
 * interpolated, bicubic as torch does it (a = -0.75, half-pixel centres, edges repeated); each image of a batch may
 * have a grid of its own. Interpolating is linear and cheap (16 table rows a patch), so it is done per row and nothing
 * of it is kept: the backward pass adds to the same 16 rows.
 *
 * Tokens, positions and patches meet in one operation because apart each would pass over the whole batch once more.
 */
#include "graph/op/tiles.h"

#include <math.h>

enum { IN_X, IN_POSITIONS, IN_TOKENS, MOST_TOKENS = 2, IN_COUNT = IN_TOKENS + MOST_TOKENS, TAPS = 4 };

typedef struct grid {
    int32_t height, width;
} grid;

typedef struct image_rows {
    peft__image_config config;
    peft__weight tokens[MOST_TOKENS], positions;
    grid *grids; /* [sequences], filled when a batch is bound */
} image_rows;

/* ---- the row space ----------------------------------------------------------------------------------------- */

static void measure_images(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows,
                           int64_t *out_sequences) {
    (void)capacity;
    const image_rows *a = rows->attr;
    *out_rows = rows->parent->max_rows + a->config.tokens * rows->parent->max_sequences;
    *out_sequences = rows->parent->max_sequences;
}

/* The grid of sequence s: what the batch says, else the model's own, else a square. */
static peft_status find_grid(peft_context *ctx, const image_rows *a, const peft_batch *batch, int64_t s, int64_t patches,
                             grid *out) {
    const int64_t height = a->config.grid_height, width = a->config.grid_width;
    if (batch->image_grids != NULL) {
        const int32_t *said = batch->image_grids + 2 * s;
        if (said[0] < 1 || said[1] < 1 || (int64_t)said[0] * said[1] != patches)
            return peft__fail(ctx, PEFT_E_ARG, "image_grids says that image %lld has %d x %d patches, it has %lld",
                              (long long)s, (int)said[0], (int)said[1], (long long)patches);
        *out = (grid){said[0], said[1]};
        return PEFT_OK;
    }
    if (patches == height * width) {
        *out = (grid){(int32_t)height, (int32_t)width};
        return PEFT_OK;
    }
    const int32_t side = (int32_t)lround(sqrt((double)patches));
    *out = (grid){side, side};
    if ((int64_t)side * side == patches) return PEFT_OK;
    return peft__fail(ctx, PEFT_E_ARG,
                      "image %lld has %lld patches, which is neither the model's %lld x %lld nor a square: image_grids "
                      "must say how they lie",
                      (long long)s, (long long)patches, (long long)height, (long long)width);
}

static peft_status bind_images(peft__rows *rows, peft_context *ctx, const peft_batch *batch) {
    const image_rows *a = rows->attr;
    const peft__rows *parent = rows->parent;
    int64_t to = 0;
    rows->offsets[0] = 0;
    for (int64_t s = 0; s < parent->sequences; s++) {
        const int32_t first = parent->offsets[s], end = parent->offsets[s + 1];
        PEFT_TRY(find_grid(ctx, a, batch, s, end - first, &a->grids[s]));
        for (int32_t i = 0; i < end - first + (int32_t)a->config.tokens; i++, to++) {
            const int32_t patch = i - (int32_t)a->config.tokens;
            rows->source[to] = patch < 0 ? ~i : first + patch;
            rows->positions[to] = i;
            rows->ids[to] = -1;
            rows->types[to] = 0;
            rows->labels[to] = PEFT_IGNORE_LABEL;
        }
        rows->offsets[s + 1] = (int32_t)to;
    }
    rows->count = to;
    rows->sequences = parent->sequences;
    return PEFT_OK;
}

/* ---- interpolation ----------------------------------------------------------------------------------------- */

/* Which table rows (counted in the trained grid) and how much of each. */
typedef struct taps {
    int32_t row[TAPS * TAPS];
    float weight[TAPS * TAPS];
    int count;
} taps;

/* Four neighbours along one axis of `from` places, for place `at` of `to`. */
static void axis_taps(int64_t from, int64_t to, int64_t at, int32_t index[TAPS], float weight[TAPS]) {
    const float a = -0.75f;
    const float where = (float)from / (float)to * ((float)at + 0.5f) - 0.5f, below = floorf(where), t = where - below;
    for (int i = 0; i < TAPS; i++) {
        const float x = fabsf(t - (float)(i - 1));
        weight[i] = x <= 1.0f ? ((a + 2.0f) * x - (a + 3.0f)) * x * x + 1.0f
                              : ((a * x - 5.0f * a) * x + 8.0f * a) * x - 4.0f * a;
        const int64_t place = (int64_t)below + i - 1;
        index[i] = (int32_t)(place < 0 ? 0 : place >= from ? from - 1 : place);
    }
}

static void patch_taps(const image_rows *a, grid own, int64_t patch, taps *out) {
    if (own.height == a->config.grid_height && own.width == a->config.grid_width) {
        out->count = 1;
        out->row[0] = (int32_t)patch;
        out->weight[0] = 1.0f;
        return;
    }
    int32_t y[TAPS], x[TAPS];
    float wy[TAPS], wx[TAPS];
    axis_taps(a->config.grid_height, own.height, patch / own.width, y, wy);
    axis_taps(a->config.grid_width, own.width, patch % own.width, x, wx);
    out->count = 0;
    for (int i = 0; i < TAPS; i++) {
        for (int j = 0; j < TAPS; j++, out->count++) {
            out->row[out->count] = y[i] * (int32_t)a->config.grid_width + x[j];
            out->weight[out->count] = wy[i] * wx[j];
        }
    }
}

/* Rows of the position table, and how much of each, for row r of sequence s. */
static void row_taps(const image_rows *a, const peft__rows *rows, int64_t s, int64_t r, taps *out) {
    const int64_t i = r - rows->offsets[s];
    if (i < a->config.tokens) {
        out->count = 1;
        out->row[0] = (int32_t)i;
        out->weight[0] = 1.0f;
        return;
    }
    patch_taps(a, a->grids[s], i - a->config.tokens, out);
    for (int k = 0; k < out->count; k++) out->row[k] += (int32_t)a->config.tokens;
}

static int64_t sequence_of(const peft__rows *rows, int64_t row) {
    int64_t s = 0;
    while (s + 1 < rows->sequences && rows->offsets[s + 1] <= row) s++;
    return s;
}

/* ---- the operation ----------------------------------------------------------------------------------------- */

static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)phase;
    const peft__value *out = node->out[0];
    if (pass == PEFT__FORWARD) return peft__row_tiles(out->rows->count, out->cols);
    uint32_t wanted = 0;
    for (uint32_t i = 0; i < node->in_count; i++) wanted += peft__wants_grad(node->in[i]);
    return wanted * peft__column_tiles(out->cols);
}

static size_t lane_bytes(const peft__node *node, peft__pass pass) {
    return pass == PEFT__FORWARD ? (size_t)node->out[0]->cols * sizeof(float) : 0;
}

static void forward(const peft__node *node, uint32_t tile, const peft__run *run) {
    const image_rows *a = node->attr;
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__value *x = node->in[IN_X], *out = node->out[0];
    const peft__matrix table = peft__weight_matrix(&a->positions);
    const peft__range rows = peft__tile_rows(tile, out->rows->count, out->cols);
    int64_t s = sequence_of(out->rows, rows.first);
    taps t;
    for (int64_t r = rows.first; r < rows.end; r++) {
        while (out->rows->offsets[s + 1] <= r) s++;
        const int32_t source = out->rows->source[r];
        float *to = peft__row(out, r);
        if (source >= 0) {
            memcpy(to, peft__row(x, source), (size_t)out->cols * sizeof *to);
        } else {
            const peft__matrix token = peft__weight_matrix(&a->tokens[~source]);
            peft__widen(run->cpu, token.dtype, peft__matrix_row(&token, 0), 0, out->cols, to);
        }
        row_taps(a, out->rows, s, r, &t);
        for (int k = 0; k < t.count; k++) {
            peft__widen(run->cpu, table.dtype, peft__matrix_row(&table, t.row[k]), 0, out->cols, run->lane);
            kernels->scale(out->cols, t.weight[k], run->lane, to, true);
        }
    }
}

static void backward_positions(const image_rows *a, const peft__kernels *kernels, const peft__value *out,
                               const peft__value *table, peft__range columns) {
    const int64_t count = columns.end - columns.first;
    taps t;
    for (int64_t s = 0; s < out->rows->sequences; s++) {
        for (int64_t r = out->rows->offsets[s]; r < out->rows->offsets[s + 1]; r++) {
            row_taps(a, out->rows, s, r, &t);
            for (int k = 0; k < t.count; k++)
                kernels->scale(count, t.weight[k], peft__grad_row(out, r) + columns.first,
                               peft__grad_row(table, t.row[k]) + columns.first, true);
        }
    }
}

/* Tiles over columns, the inputs that want a gradient one after another. */
static void backward(const peft__node *node, uint32_t tile, const peft__run *run) {
    const image_rows *a = node->attr;
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__value *out = node->out[0];
    uint32_t input = 0;
    for (;; input++) {
        if (!peft__wants_grad(node->in[input])) continue;
        if (tile < peft__column_tiles(out->cols)) break;
        tile -= peft__column_tiles(out->cols);
    }
    const peft__value *to = node->in[input];
    const peft__range columns = peft__tile_columns(tile, out->cols);
    const int64_t count = columns.end - columns.first;
    if (!peft__accumulates(node, input))
        for (int64_t r = 0; r < to->rows->count; r++)
            memset(peft__grad_row(to, r) + columns.first, 0, (size_t)count * sizeof(float));
    if (input == IN_POSITIONS) {
        backward_positions(a, kernels, out, to, columns);
        return;
    }
    for (int64_t r = 0; r < out->rows->count; r++) {
        const int32_t source = out->rows->source[r];
        if (input == IN_X ? source < 0 : source != ~(int32_t)(input - IN_TOKENS)) continue;
        kernels->accumulate(count, peft__grad_row(out, r) + columns.first,
                            peft__grad_row(to, input == IN_X ? source : 0) + columns.first);
    }
}

static void tile_run(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    if (pass == PEFT__FORWARD)
        forward(node, tile, run);
    else
        backward(node, tile, run);
}

static const peft__op image_rows_op = {
    .name = "image_rows", .in_place = -1, .tiles = tiles, .tile = tile_run, .lane_bytes = lane_bytes};

static bool is_good(peft__graph *g, const peft__value *x, const peft__weight *tokens, const peft__weight *positions,
                    const peft__image_config *c) {
    int64_t places = 0;
    if (c->tokens < 0 || c->tokens > MOST_TOKENS || c->grid_height < 1 || c->grid_width < 1 ||
        c->grid_height > INT32_MAX || __builtin_mul_overflow(c->grid_height, c->grid_width, &places) ||
        places > INT32_MAX - MOST_TOKENS) {
        peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_ARG, "image_rows: %lld tokens, %lld x %lld patches",
                                       (long long)c->tokens, (long long)c->grid_height, (long long)c->grid_width));
        return false;
    }
    for (int64_t i = 0; i < c->tokens; i++)
        if (!peft__weight_check(g, "image_rows", &tokens[i], 1, x->cols)) return false;
    return peft__weight_check(g, "image_rows", positions, places + c->tokens, x->cols);
}

peft__value *peft__op_image_rows(peft__graph *g, peft__value *x, const peft__weight *tokens, peft__weight positions,
                                 const peft__image_config *config) {
    if (x == NULL || peft__graph_failed(g) || !is_good(g, x, tokens, &positions, config)) return NULL;
    const size_t grids = (size_t)(x->rows->max_sequences + 1) * sizeof(grid);
    image_rows *attr = peft__arena_alloc(peft__graph_arena(g), sizeof *attr);
    if (attr == NULL) return peft__graph_fail(g, peft__fail_nomem(peft__graph_context(g), sizeof *attr, "a row space"));
    attr->config = *config;
    attr->positions = positions;
    attr->grids = peft__arena_alloc(peft__graph_arena(g), grids);
    if (attr->grids == NULL) return peft__graph_fail(g, peft__fail_nomem(peft__graph_context(g), grids, "a row space"));
    peft__value *in[IN_COUNT] = {x, positions.value};
    for (int64_t i = 0; i < config->tokens; i++) {
        attr->tokens[i] = tokens[i];
        in[IN_TOKENS + i] = tokens[i].value;
    }
    peft__rows *rows = peft__rows_new(g, "rows of images", x->rows, attr, measure_images, bind_images, true);
    peft__value *out = rows != NULL ? peft__value_new(g, rows, x->cols, "image_rows") : NULL;
    if (out == NULL) return NULL;
    return peft__node_add(g, &image_rows_op, in, IN_COUNT, &out, 1, attr, sizeof *attr) != NULL ? out : NULL;
}
