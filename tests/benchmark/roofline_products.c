/* roofline_products.c: the rate of our dense and low-rank products, shape by shape, through the graph's executor.
 *
 * Shapes are tokens x outputs x inputs. fwd: y = x W^T; dx = dy W; dw = dy^T x (of a trained W, floats). Rates are medians
 * of 15 runs and more, or those of the fastest run when processor time is measured.
 */
#include "roofline.h"

#include <math.h>

#include "graph/ops.h"

static peft_context *ctx;
static const roofline *settings;
static peft__rng rng;

static void *memory(size_t bytes) {
    void *p = peft__alloc(ctx->mem, bytes);
    if (p == NULL) exit(1);
    return p;
}

static float *numbers(int64_t count) {
    float *x = memory((size_t)count * sizeof(float));
    for (int64_t i = 0; i < count; i++) x[i] = peft__rng_uniform(&rng) - 0.5f;
    return x;
}

static void check(peft_status status) {
    if (status < 0) {
        fprintf(stderr, "%s\n", peft_context_error(ctx));
        exit(1);
    }
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct rates {
    double forward, backward; /* seconds */
} rates;

static rates measure(peft__graph *graph, const peft_batch *batch) {
    enum { MOST = 200 };
    double forward[MOST], backward[MOST];
    check(peft__graph_plan(graph, true));
    check(peft__graph_allocate(graph));
    const int32_t offsets[] = {0, 1}, ids[] = {0};
    peft_batch one;
    peft_batch_init(&one);
    one.rows = one.sequences = 1;
    one.offsets = offsets;
    one.input_ids = ids;
    check(peft__graph_bind(graph, batch != NULL ? batch : &one));
    peft__graph_zero_grad(graph);
    const peft__run_options options = {.training = true, .deadline_us = UINT64_MAX};
    const peft__plan_info *info = peft__graph_plan_info(graph);
    int count = 0;
    for (uint64_t start = peft__clock_us(); count < MOST && (count < 15 || peft__clock_us() - start < 400000) &&
                                            (count < 3 || peft__clock_us() - start < 4000000);
         count++) {
        peft__cursor cursor = {0};
        const double t0 = roofline_now_us(settings);
        check(peft__graph_run(graph, &cursor, info->forward_steps, &options));
        const double t1 = roofline_now_us(settings);
        check(peft__graph_run(graph, &cursor, info->steps, &options));
        forward[count] = t1 - t0;
        backward[count] = roofline_now_us(settings) - t1;
    }
    qsort(forward, (size_t)count, sizeof *forward, ascending);
    qsort(backward, (size_t)count, sizeof *backward, ascending);
    const int which = settings->processor_time ? 0 : count / 2;
    return (rates){forward[which] * 1e-6, backward[which] * 1e-6};
}

static peft__value *leaf(peft__graph *graph, int64_t rows, int64_t cols, bool trained, float *data) {
    static peft__param params[512];
    static int used;
    peft__param *p = &params[used++ % 512];
    *p = (peft__param){.name = "leaf",
                       .ndim = 2,
                       .flags = trained ? 0 : PEFT__PARAM_FROZEN,
                       .shape = {rows, cols},
                       .elements = rows * cols,
                       .data = data,
                       .lr_scale = 1.0f};
    return peft__value_param(graph, p);
}

static peft__graph *start(void) {
    const peft__capacity capacity = {.rows = 1, .sequences = 1, .labels = 1};
    peft__graph *graph = NULL;
    check(peft__graph_create(ctx, &capacity, &graph));
    return graph;
}

static void differentiate(peft__graph *graph, peft__value *y) {
    peft__value_output(graph, y);
    peft__graph_seed_grad(graph, y);
}

static void product(int64_t n, int64_t out, int64_t in, double top) {
    static const peft_dtype types[] = {PEFT_DTYPE_F32, PEFT_DTYPE_BF16, PEFT_DTYPE_Q4_1, PEFT_DTYPE_Q8_0};
    float *x = numbers(n * in), *w = numbers(out * in);
    const double flops = 2e-9 * (double)n * (double)out * (double)in;
    printf("%6d %6d %6d", (int)n, (int)out, (int)in);
    for (size_t t = 0; t < PEFT_COUNT(types); t++) {
        size_t stride = 0;
        if (!peft__dtype_row_bytes(types[t], in, &stride)) continue;
        uint8_t *data = memory(stride * (size_t)out);
        for (int64_t r = 0; r < out; r++)
            check(peft__quantize(ctx, types[t], w + r * in, in, data + (size_t)r * stride));
        peft__graph *graph = start();
        const peft__weight weight = {{data, types[t], 0, out, in, stride, false}, NULL};
        peft__value *y = peft__op_linear(graph, leaf(graph, n, in, true, x), weight, (peft__vector){NULL, NULL}, NULL);
        differentiate(graph, y);
        const rates r = measure(graph, NULL);
        printf("  %s %4.0f %3.0f%% %4.0f %3.0f%%", peft_dtype_name(types[t]), flops / r.forward,
               100.0 * flops / r.forward / top, flops / r.backward, 100.0 * flops / r.backward / top);
        peft__graph_destroy(graph);
        peft__free(ctx->mem, data);
    }
    peft__graph *graph = start();
    const peft__weight weight = {{NULL, PEFT_DTYPE_F32, 0, out, in, 0, false}, leaf(graph, out, in, true, w)};
    differentiate(graph,
                  peft__op_linear(graph, leaf(graph, n, in, false, x), weight, (peft__vector){NULL, NULL}, NULL));
    const rates r = measure(graph, NULL);
    printf("  dw %4.0f %3.0f%%\n", flops / r.backward, 100.0 * flops / r.backward / top);
    fflush(stdout);
    peft__graph_destroy(graph);
    peft__free(ctx->mem, x);
    peft__free(ctx->mem, w);
}

static void adapter(int64_t n, int64_t out, int64_t in, int64_t rank, double top) {
    float *x = numbers(n * in), *y = numbers(n * out), *a = numbers(rank * in), *b = numbers(out * rank);
    peft__graph *graph = start();
    peft__value *sum = peft__op_low_rank(graph, leaf(graph, n, in, true, x),
                                         peft__op_scale(graph, leaf(graph, n, out, false, y), 1.0f),
                                         leaf(graph, rank, in, true, a), leaf(graph, out, rank, true, b), 2.0f, -1);
    differentiate(graph, sum);
    const rates r = measure(graph, NULL);
    const double flops = 2e-9 * (double)(n * rank) * (double)(in + out);
    printf("%6d %6d %6d rank %3d  forward %5.1f (%2.0f%%)  backward %5.1f (%2.0f%%)\n", (int)n, (int)out, (int)in,
           (int)rank, flops / r.forward, 100.0 * flops / r.forward / top, 2.0 * flops / r.backward,
           200.0 * flops / r.backward / top);
    peft__graph_destroy(graph);
    peft__free(ctx->mem, x), peft__free(ctx->mem, y), peft__free(ctx->mem, a), peft__free(ctx->mem, b);
}

/* Frozen output layer with loss and the gradient for its input: two products. */
static void head(int64_t n, int64_t vocabulary, int64_t d, peft_dtype dtype, double top) {
    float *x = numbers(n * d), *w = numbers(vocabulary * d);
    size_t stride = 0;
    if (!peft__dtype_row_bytes(dtype, d, &stride)) return;
    uint8_t *data = memory(stride * (size_t)vocabulary);
    for (int64_t r = 0; r < vocabulary; r++) check(peft__quantize(ctx, dtype, w + r * d, d, data + (size_t)r * stride));
    int32_t *ids = memory((size_t)n * 4), *labels = memory((size_t)n * 4);
    for (int64_t i = 0; i < n; i++) ids[i] = labels[i] = (int32_t)i;
    const int32_t offsets[] = {0, (int32_t)n};
    peft_batch batch;
    peft_batch_init(&batch);
    batch.rows = n;
    batch.sequences = 1;
    batch.offsets = offsets;
    batch.input_ids = ids;
    batch.labels = labels;
    const peft__capacity capacity = {.rows = n, .sequences = 1, .labels = n};
    peft__graph *graph = NULL;
    check(peft__graph_create(ctx, &capacity, &graph));
    const peft__weight table = {{.rows = n, .cols = d}, leaf(graph, n, d, true, x)};
    peft__value *rows = peft__op_embedding(graph, peft__rows_stream(graph, false), table, PEFT__LOOKUP_IDS, 1.0f, -1);
    const peft__head_config config = {1.0f, 0.0f, 0.0f};
    const peft__weight weight = {{data, dtype, 0, vocabulary, d, stride, false}, NULL};
    peft__op_head_loss(graph, rows, weight, (peft__vector){NULL, NULL}, &config);
    const rates r = measure(graph, &batch);
    const double flops = 4e-9 * (double)n * (double)vocabulary * (double)d;
    printf("%6d %6d %6d head and loss, %s: %.3f s, %.0f GF/s (%.0f%%)\n", (int)n, (int)vocabulary, (int)d,
           peft_dtype_name(dtype), r.forward, flops / r.forward, 100.0 * flops / r.forward / top);
    peft__graph_destroy(graph);
    peft__free(ctx->mem, x), peft__free(ctx->mem, w), peft__free(ctx->mem, data), peft__free(ctx->mem, ids),
        peft__free(ctx->mem, labels);
}

void roofline_products(const roofline *r) {
    ctx = r->ctx;
    settings = r;
    rng = peft__rng_make(1, 1);
    const double top = r->peak;
    printf("tokens    out     in  type  fwd  %%   dx   %%\n");
    static const int64_t shapes[][3] = {{1, 576, 576},   {4, 576, 576},    {16, 576, 576},   {32, 576, 576},
                                        {64, 576, 576},  {128, 576, 576},  {128, 1536, 576}, {512, 192, 576},
                                        {512, 576, 576}, {512, 1536, 576}, {512, 576, 1536}, {512, 2048, 2048},
                                        {2048, 576, 576}};
    for (size_t i = 0; i < PEFT_COUNT(shapes); i++) product(shapes[i][0], shapes[i][1], shapes[i][2], top);
    static const int64_t ranks[] = {1, 4, 8, 16, 64};
    for (size_t i = 0; i < PEFT_COUNT(ranks); i++) adapter(512, 576, 576, ranks[i], top);
    head(512, 49152, 576, PEFT_DTYPE_F32, top);
    head(512, 49152, 576, PEFT_DTYPE_Q8_0, top);
}
