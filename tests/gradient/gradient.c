/* gradient.c: see gradient.h. */
#include "gradient.h"

/* Elements of an input and directions through all of it that are differentiated; extra columns of wide values. */
enum { PICKED = 20, DIRECTIONS = 3, TAIL = 5 };

/* ---- test operations ---------------------------------------------------------------------------------------- */

typedef struct probe {
    const float *upstream;
} probe;

static uint32_t one_tile(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)node;
    (void)pass;
    (void)phase;
    return 1;
}

static void copy_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    (void)tile;
    (void)run;
    const peft__value *x = node->in[0], *out = node->out[0];
    for (int64_t r = 0; r < out->rows->count; r++) {
        for (int64_t c = 0; c < out->cols; c++) {
            const bool own = c >= (out->cols - x->cols) / 2 && c < (out->cols - x->cols) / 2 + x->cols;
            const int64_t from = c - (out->cols - x->cols) / 2;
            if (pass == PEFT__FORWARD)
                out->data[r * out->ld + c] = own ? x->data[r * x->ld + from] : 777.0f;
            else if (own)
                x->grad[r * x->ld + from] =
                    (peft__accumulates(node, 0) ? x->grad[r * x->ld + from] : 0.0f) + out->grad[r * out->ld + c];
        }
    }
}

static const peft__op copy_op = {.name = "input", .in_place = -1, .tiles = one_tile, .tile = copy_tile};

static void probe_reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    (void)node;
    *in_mask = 0;
    *out_mask = 0;
}

static void probe_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    (void)tile;
    (void)run;
    const peft__value *x = node->in[0];
    const float *upstream = ((const probe *)node->attr)->upstream;
    double sum = 0.0;
    for (int64_t r = 0; r < x->rows->count; r++) {
        for (int64_t c = 0; c < x->cols; c++) {
            sum += (double)x->data[r * x->ld + c] * (double)upstream[r * x->cols + c];
            if (pass == PEFT__FORWARD) continue;
            float *to = x->grad + r * x->ld + c;
            *to = (peft__accumulates(node, 0) ? *to : 0.0f) + upstream[r * x->cols + c];
        }
    }
    if (pass == PEFT__FORWARD) {
        node->out[0]->data[0] = (float)sum;
        node->out[0]->data[1] = 1.0f;
    }
}

static const peft__op probe_op = {
    .name = "probe", .is_loss = true, .in_place = -1, .reads = probe_reads, .tiles = one_tile, .tile = probe_tile};

static void add_probe(gc *c, peft__value *value, float **upstream) {
    const int64_t rows = value->rows->max_rows;
    *upstream = gc_alloc(c, (size_t)(rows * value->cols) * sizeof(float));
    for (int64_t i = 0; i < rows * value->cols; i++) (*upstream)[i] = gc_random(c);
    const probe attr = {*upstream};
    peft__value *out = peft__value_new(c->graph, peft__rows_fixed(c->graph, 1), 2, "probe");
    peft__node_add(c->graph, &probe_op, &value, 1, &out, 1, &attr, sizeof attr);
}

/* ---- building -------------------------------------------------------------------------------------------------- */

bool gc_next_style(uint32_t *index, gc_style *style) {
    static const gc_style styles[] = {
        {PEFT_CPU_GENERIC, 1, false, false}, {PEFT_CPU_GENERIC, 1, true, true},  {PEFT_CPU_AVX2, 1, false, true},
        {PEFT_CPU_AVX2, 2, true, false},     {PEFT_CPU_AVX512, 2, false, false}, {PEFT_CPU_AVX512, 1, true, true},
    };
    while (*index < PEFT_COUNT(styles)) {
        *style = styles[(*index)++];
        if (style->cpu <= peft__cpu_detect()) return true;
    }
    return false;
}

void *gc_alloc(gc *c, size_t size) {
    void *memory = calloc(1, size + 64);
    if (memory == NULL || c->memory_count >= PEFT_COUNT(c->memory)) {
        fprintf(stderr, "%s: no memory for a test\n", c->name);
        exit(1);
    }
    c->memory[c->memory_count++] = memory;
    return memory;
}

float gc_random(gc *c) {
    c->rng = c->rng * 1664525u + 1013904223u;
    return (float)(c->rng >> 8) * 0x1p-23f - 1.0f;
}

static int64_t fill_offsets(const int64_t *lengths, int32_t *offsets, int64_t *out_rows) {
    int64_t count = 0;
    offsets[0] = 0;
    for (; lengths[count] > 0; count++) offsets[count + 1] = offsets[count] + (int32_t)lengths[count];
    *out_rows = offsets[count];
    return count;
}

void gc_begin(gc *c, const char *name, const gc_style *style, const int64_t *lengths, const int64_t *decoder_lengths) {
    memset(c, 0, sizeof *c);
    snprintf(c->name, sizeof c->name, "%s (%s%s%s)", name,
             style->cpu == PEFT_CPU_AVX512 ? "avx512"
             : style->cpu == PEFT_CPU_AVX2 ? "avx2"
                                           : "generic",
             style->wide ? ", views" : "", style->accumulate ? ", adding" : "");
    c->style = *style;
    c->rng = 12345u;
    c->forward_tolerance = 3e-6;
    c->gradient_tolerance = 2e-5;
    c->training = true;
    c->seed = 99;
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = style->threads;
    options.cpu_features = style->cpu;
    if (peft_context_create(&options, &c->ctx) < 0) exit(1);
    peft_batch_init(&c->batch);
    c->batch.sequences = fill_offsets(lengths, c->offsets, &c->batch.rows);
    c->batch.offsets = c->offsets;
    int32_t *ids = gc_alloc(c, (size_t)c->batch.rows * sizeof *ids);
    c->batch.input_ids = ids;
    peft__capacity capacity = {
        .rows = c->batch.rows + 3, .sequences = c->batch.sequences + 1, .labels = c->batch.rows + 3};
    if (decoder_lengths != NULL) {
        c->batch.decoder_sequences = fill_offsets(decoder_lengths, c->decoder_offsets, &c->batch.decoder_rows);
        c->batch.decoder_offsets = c->decoder_offsets;
        c->batch.decoder_input_ids = gc_alloc(c, (size_t)c->batch.decoder_rows * sizeof *ids);
        capacity.decoder_rows = c->batch.decoder_rows + 2;
        capacity.labels += capacity.decoder_rows;
        capacity.decoder_sequences = c->batch.decoder_sequences + 1;
    }
    if (peft__graph_create(c->ctx, &capacity, &c->graph) < 0) exit(1);
    c->stream = peft__rows_stream(c->graph, false);
    if (decoder_lengths != NULL) c->decoder = peft__rows_decoder(c->graph);
}

static gc_input *new_input(gc *c, int64_t rows, int64_t cols, float scale) {
    gc_input *in = &c->in[c->in_count++];
    in->rows = rows;
    in->cols = cols;
    in->exact = gc_alloc(c, (size_t)(rows * cols) * sizeof(double));
    float *data = gc_alloc(c, (size_t)(rows * cols) * sizeof(float));
    for (int64_t i = 0; i < rows * cols; i++) {
        data[i] = scale * gc_random(c);
        in->exact[i] = (double)data[i];
    }
    in->param = (peft__param){
        .name = "input", .ndim = 2, .shape = {rows, cols}, .elements = rows * cols, .data = data, .lr_scale = 1.0f};
    return in;
}

peft__value *gc_leaf_new(gc *c, int64_t rows, int64_t cols, float scale) {
    gc_input *in = new_input(c, rows, cols, scale);
    in->value = peft__value_param(c->graph, &in->param);
    return in->value;
}

peft__value *gc_input_in(gc *c, peft__rows *space, int64_t count, int64_t cols, float scale) {
    gc_input *in = new_input(c, count, cols, scale);
    peft__value *leaf = peft__value_param(c->graph, &in->param);
    peft__value *copy = peft__value_new(c->graph, space, c->style.wide ? cols + 2 * TAIL : cols, "copy");
    peft__node_add(c->graph, &copy_op, &leaf, 1, &copy, 1, NULL, 0);
    in->value = c->style.wide ? peft__value_columns(c->graph, copy, TAIL, cols) : copy;
    return in->value;
}

peft__value *gc_input_new(gc *c, int64_t rows, int64_t cols, float scale) {
    if (rows == GC_STREAM) return gc_input_in(c, c->stream, c->batch.rows, cols, scale);
    if (rows == GC_DECODER) return gc_input_in(c, c->decoder, c->batch.decoder_rows, cols, scale);
    return gc_input_in(c, peft__rows_fixed(c->graph, rows), rows, cols, scale);
}

void gc_freeze_last(gc *c) {
    gc_input *in = &c->in[c->in_count - 1];
    in->frozen = true;
    in->param.flags |= PEFT__PARAM_FROZEN;
}

void gc_output_new(gc *c, peft__value *value) {
    gc_output *out = &c->out[c->out_count++];
    out->value = value;
    if (value == NULL) return;
    peft__value_output(c->graph, value);
    add_probe(c, value, &out->upstream);
}

void gc_loss(gc *c, peft__value *value) {
    c->out[c->out_count++].value = value;
    c->is_loss = true;
    if (value != NULL) peft__value_output(c->graph, value);
}

/* ---- checking ----------------------------------------------------------------------------------------------- */

/* The reference's loss at the present exact values. */
static double reference_loss(gc *c, gc_reference reference, void *user) {
    reference(c, user);
    double loss = 0.0;
    for (uint32_t i = 0; i < c->out_count; i++) {
        const gc_output *out = &c->out[i];
        if (c->is_loss) {
            loss += out->want[0];
            continue;
        }
        for (int64_t k = 0; k < out->value->rows->count * out->value->cols; k++)
            loss += out->want[k] * (double)out->upstream[k];
    }
    for (uint32_t i = 0; i < c->in_count; i++)
        for (int64_t k = 0; c->in[i].second != NULL && k < c->in[i].rows * c->in[i].cols; k++)
            loss += c->in[i].exact[k] * (double)c->in[i].second[k];
    return loss;
}

static void report(const gc *c, const char *what, uint32_t index, double error, double tolerance) {
    if (!CHECK(error <= tolerance))
        fprintf(stderr, "    %s: %s %u off by %.3g, allowed %.3g\n", c->name, what, index, error, tolerance);
}

static void check_forward(gc *c, gc_reference reference, void *user) {
    reference(c, user);
    for (uint32_t i = 0; i < c->out_count; i++) {
        const gc_output *out = &c->out[i];
        double worst = 0.0, top = 1e-3;
        for (int64_t r = 0; r < out->value->rows->count; r++) {
            for (int64_t k = 0; k < out->value->cols; k++) {
                const double want = out->want[r * out->value->cols + k];
                const double error = fabs((double)out->value->data[r * out->value->ld + k] - want);
                worst = error > worst || error != error ? error : worst;
                top = fmax(top, fabs(want));
            }
        }
        report(c, "output", i, worst / top, c->forward_tolerance);
    }
}

static const float *gradient_of(const gc *c, const gc_input *in) {
    for (uint32_t i = 0; i < peft__graph_param_count(c->graph); i++) {
        float *grad = NULL;
        if (peft__graph_param(c->graph, i, &grad) == &in->param) return grad;
    }
    return NULL;
}

static void check_gradient(gc *c, uint32_t index, gc_reference reference, void *user) {
    gc_input *in = &c->in[index];
    const float *grad = gradient_of(c, in);
    const int64_t count = in->rows * in->cols;
    if (in->frozen) {
        CHECK(grad == NULL);
        return;
    }
    if (!CHECK(grad != NULL)) {
        fprintf(stderr, "    %s: input %u has no gradient\n", c->name, index);
        return;
    }
    const double h = 1e-5;
    double worst = 0.0, top = 0.02;
    const int64_t step = count > PICKED ? count / PICKED + 1 : 1;
    for (int64_t k = 0; k < count; k++) top = fmax(top, fabs((double)grad[k]));
    for (int64_t k = 0; k < count; k += k + step >= count && k + 1 < count ? count - 1 - k : step) {
        const double before = in->exact[k];
        in->exact[k] = before + h;
        const double up = reference_loss(c, reference, user);
        in->exact[k] = before - h;
        const double down = reference_loss(c, reference, user);
        in->exact[k] = before;
        const double error = fabs((double)grad[k] - (up - down) / (2.0 * h));
        worst = error > worst || error != error ? error : worst;
    }
    report(c, "gradient of input", index, worst / top, c->gradient_tolerance);

    /* Random signs in front of all elements: what no single element showed. */
    double *before = gc_alloc(c, (size_t)count * sizeof *before), *signs = gc_alloc(c, (size_t)count * sizeof *signs);
    memcpy(before, in->exact, (size_t)count * sizeof *before);
    for (int i = 0; i < DIRECTIONS; i++) {
        double along = 0.0;
        for (int64_t k = 0; k < count; k++) {
            signs[k] = gc_random(c) < 0.0f ? -1.0 : 1.0;
            along += signs[k] * (double)grad[k];
            in->exact[k] = before[k] + h * signs[k];
        }
        const double up = reference_loss(c, reference, user);
        for (int64_t k = 0; k < count; k++) in->exact[k] = before[k] - h * signs[k];
        const double down = reference_loss(c, reference, user);
        memcpy(in->exact, before, (size_t)count * sizeof *before);
        report(c, "gradient along a direction of input", index,
               fabs(along - (up - down) / (2.0 * h)) / (top * sqrt((double)count)), c->gradient_tolerance);
    }
}

void gc_end(gc *c, gc_reference reference, void *user) {
    if (c->style.accumulate) {
        for (uint32_t i = 0; i < c->in_count; i++)
            if (!c->in[i].frozen && c->in[i].value != NULL) add_probe(c, c->in[i].value, &c->in[i].second);
    }
    const peft_status status = peft__graph_plan(c->graph, true);
    if (!CHECK(status == PEFT_OK)) {
        fprintf(stderr, "    %s: %s\n", c->name, peft_context_error(c->ctx));
    } else if (CHECK(peft__graph_allocate(c->graph) == PEFT_OK) &&
               CHECK(peft__graph_bind(c->graph, &c->batch) == PEFT_OK)) {
        peft__graph_zero_grad(c->graph);
        const peft__run_options options = {.seed = c->seed, .training = c->training, .deadline_us = UINT64_MAX};
        peft__cursor cursor = {0};
        CHECK(peft__graph_run(c->graph, &cursor, peft__graph_plan_info(c->graph)->steps, &options) == PEFT_OK);
        for (uint32_t i = 0; i < c->out_count; i++)
            c->out[i].want =
                gc_alloc(c, (size_t)(c->out[i].value->rows->count * c->out[i].value->cols) * sizeof(double));
        check_forward(c, reference, user);
        for (uint32_t i = 0; i < c->in_count; i++) check_gradient(c, i, reference, user);
    }
    gc_discard(c);
}

void gc_discard(gc *c) {
    peft__graph_destroy(c->graph);
    peft_context_destroy(c->ctx);
    for (uint32_t i = 0; i < c->memory_count; i++) free(c->memory[i]);
}

void gc_counts(int *passed, int *failed) {
    *passed = check_passed;
    *failed = check_failed;
}
