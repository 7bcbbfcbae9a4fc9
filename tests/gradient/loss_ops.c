/* loss_ops.c: cross entropy on given logits, losses against numbers, and the place of an answer. */
#include "gradient.h"

static const int64_t lengths[] = {5, 1, 17, 2, 0};

typedef struct entropy_case {
    int64_t classes;
    bool by_sequence, weighted, ignored;
    float smoothing;
    const float *weights;
} entropy_case;

static void entropy_reference(gc *c, void *user) {
    const entropy_case *e = user;
    const int64_t rows = e->by_sequence ? c->batch.sequences : c->batch.rows, classes = e->classes;
    const int32_t *labels = e->by_sequence ? c->batch.sequence_labels : c->batch.labels;
    double loss = 0.0, count = 0.0;
    for (int64_t r = 0; r < rows; r++) {
        if (labels[r] == -100) continue;
        const double *z = c->in[0].exact + r * classes;
        double top = z[0], sum = 0.0, smooth = 0.0;
        for (int64_t k = 0; k < classes; k++) top = fmax(top, z[k]);
        for (int64_t k = 0; k < classes; k++) sum += exp(z[k] - top);
        const double lse = top + log(sum);
        for (int64_t k = 0; k < classes; k++) smooth += (e->weighted ? (double)e->weights[k] : 1.0) * (lse - z[k]);
        const double w = e->weighted ? (double)e->weights[labels[r]] : 1.0, s = (double)e->smoothing;
        loss += (1.0 - s) * w * (lse - z[labels[r]]) + s / (double)classes * smooth;
        count += w;
    }
    c->out[0].want[0] = loss;
    c->out[0].want[1] = count;
}

static void check_entropy(const gc_style *style, entropy_case e) {
    gc c;
    char name[96];
    snprintf(name, sizeof name, "cross entropy over %d, by sequence %d, weighted %d, smoothing %g", (int)e.classes,
             e.by_sequence, e.weighted, (double)e.smoothing);
    gc_begin(&c, name, style, lengths, NULL);
    int32_t *labels = gc_alloc(&c, (size_t)c.batch.rows * sizeof *labels);
    float *weights = gc_alloc(&c, (size_t)e.classes * sizeof *weights);
    for (int64_t r = 0; r < c.batch.rows; r++)
        labels[r] = e.ignored || r % 3 == 1 ? -100 : (int32_t)(r * 7 % e.classes);
    for (int64_t k = 0; k < e.classes; k++) weights[k] = 1.5f + gc_random(&c);
    e.weights = weights;
    if (e.by_sequence)
        c.batch.sequence_labels = labels;
    else
        c.batch.labels = labels;
    peft__rows *rows = e.by_sequence ? peft__rows_pick(c.graph, c.stream, 0) : c.stream;
    peft__value *logits = gc_input_in(&c, rows, e.by_sequence ? c.batch.sequences : c.batch.rows, e.classes, 8.0f);
    const peft__cross_entropy_config config = {e.by_sequence, e.smoothing, e.weighted ? weights : NULL};
    gc_loss(&c, peft__op_cross_entropy(c.graph, logits, &config));
    gc_end(&c, entropy_reference, &e);
}

static void target_reference(gc *c, void *user) {
    const peft__target_loss kind = *(peft__target_loss *)user;
    const int64_t count = c->batch.sequences * 3;
    double loss = 0.0;
    for (int64_t i = 0; i < count; i++) {
        const double x = c->in[0].exact[i], t = (double)c->batch.sequence_targets[i];
        loss += kind == PEFT__LOSS_MSE ? (x - t) * (x - t)
                                       : -t * log(1.0 / (1.0 + exp(-x))) - (1.0 - t) * log(1.0 / (1.0 + exp(x)));
    }
    c->out[0].want[0] = loss;
    c->out[0].want[1] = (double)count;
}

static void check_target(const gc_style *style, peft__target_loss kind) {
    gc c;
    gc_begin(&c, kind == PEFT__LOSS_MSE ? "squared error" : "binary cross entropy", style, lengths, NULL);
    float *targets = gc_alloc(&c, (size_t)(c.batch.sequences * 3) * sizeof *targets);
    for (int64_t i = 0; i < c.batch.sequences * 3; i++)
        targets[i] = kind == PEFT__LOSS_MSE ? gc_random(&c) : (float)(i % 2);
    c.batch.sequence_targets = targets;
    c.batch.target_cols = 3;
    peft__value *x = gc_input_in(&c, peft__rows_pick(c.graph, c.stream, 0), c.batch.sequences, 3, 5.0f);
    gc_loss(&c, peft__op_target_loss(c.graph, x, kind));
    gc_end(&c, target_reference, &kind);
}

static void span_reference(gc *c, void *user) {
    (void)user;
    double loss = 0.0, count = 0.0;
    for (int64_t s = 0; s < c->batch.sequences; s++) {
        const int64_t first = c->batch.offsets[s], end = c->batch.offsets[s + 1];
        for (int column = 0; column < 2; column++) {
            const int32_t at = column == 0 ? c->batch.start_positions[s] : c->batch.end_positions[s];
            if (at < 0 || at >= end - first) continue;
            double sum = 0.0;
            for (int64_t r = first; r < end; r++) sum += exp(c->in[0].exact[2 * r + column]);
            loss += 0.5 * (log(sum) - c->in[0].exact[2 * (first + at) + column]);
            count += 0.5;
        }
    }
    c->out[0].want[0] = loss;
    c->out[0].want[1] = count;
}

static void check_span(const gc_style *style, bool some_missing) {
    gc c;
    gc_begin(&c, some_missing ? "answers, some missing" : "answers", style, lengths, NULL);
    int32_t *starts = gc_alloc(&c, (size_t)c.batch.sequences * sizeof *starts);
    int32_t *ends = gc_alloc(&c, (size_t)c.batch.sequences * sizeof *ends);
    for (int64_t s = 0; s < c.batch.sequences; s++) {
        const int32_t length = c.batch.offsets[s + 1] - c.batch.offsets[s];
        starts[s] = some_missing && s == 1 ? -100 : length / 3;
        ends[s] = some_missing && s == 2 ? length + 4 : length - 1;
    }
    c.batch.start_positions = starts;
    c.batch.end_positions = ends;
    gc_loss(&c, peft__op_span_loss(c.graph, gc_input_new(&c, GC_STREAM, 2, 4.0f)));
    gc_end(&c, span_reference, NULL);
}

static void group_reference(gc *c, void *user) {
    const double e = (double)*(const float *)user;
    double loss = 0.0, count = 0.0;
    for (int64_t q = 0; q < c->batch.questions; q++) {
        const int32_t first = c->batch.choice_offsets[q], end = c->batch.choice_offsets[q + 1],
                      right = c->batch.sequence_labels[q];
        if (right < 0) continue;
        double sum = 0.0, all = 0.0;
        for (int32_t s = first; s < end; s++) sum += exp(c->in[0].exact[s]);
        for (int32_t s = first; s < end; s++) all += log(sum) - c->in[0].exact[s];
        loss += (1.0 - e) * (log(sum) - c->in[0].exact[first + right]) + e / (double)(end - first) * all;
        count += 1.0;
    }
    c->out[0].want[0] = loss;
    c->out[0].want[1] = count;
}

static void check_group(const gc_style *style, float smoothing, bool some_missing) {
    gc c;
    gc_begin(&c, "answers to choose among", style, lengths, NULL);
    const int64_t sequences = c.batch.sequences;
    int32_t *first = gc_alloc(&c, 3 * sizeof *first), *right = gc_alloc(&c, 2 * sizeof *right);
    first[0] = 0;
    first[1] = 1;
    first[2] = (int32_t)sequences;
    right[0] = some_missing ? -100 : 0;
    right[1] = (int32_t)sequences - 2;
    c.batch.questions = 2;
    c.batch.choice_offsets = first;
    c.batch.sequence_labels = right;
    peft__value *x = gc_input_in(&c, peft__rows_pick(c.graph, c.stream, 0), sequences, 1, 5.0f);
    gc_loss(&c, peft__op_group_loss(c.graph, x, smoothing));
    gc_end(&c, group_reference, &smoothing);
}

enum { WIDTH = 6 };

static double cosine_of(const double *u, const double *v) {
    double uv = 0.0, uu = 0.0, vv = 0.0;
    for (int c = 0; c < WIDTH; c++) {
        uv += u[c] * v[c];
        uu += u[c] * u[c];
        vv += v[c] * v[c];
    }
    return uv / sqrt(uu * vv);
}

static void contrast_reference(gc *c, void *user) {
    const double scale = (double)*(const float *)user;
    const double *x = c->in[0].exact;
    const int32_t *first = c->batch.choice_offsets;
    double loss = 0.0, count = 0.0;
    for (int64_t g = 0; g < c->batch.questions; g++) {
        const double *anchor = x + (int64_t)first[g] * WIDTH, right = cosine_of(anchor, anchor + WIDTH);
        if (c->batch.sequence_targets != NULL) {
            const double target = (double)c->batch.sequence_targets[first[g]];
            if (isnan(target)) continue;
            loss += (right - target) * (right - target);
        } else {
            double sum = 0.0;
            for (int64_t k = 0; k < c->batch.questions; k++)
                for (int32_t s = first[k] + 1; s < first[k + 1]; s++) sum += exp(scale * cosine_of(anchor, x + (int64_t)s * WIDTH));
            loss += log(sum) - scale * right;
        }
        count += 1.0;
    }
    c->out[0].want[0] = loss;
    c->out[0].want[1] = count;
}

static void check_contrast(const gc_style *style, float scale, bool scored) {
    gc c;
    gc_begin(&c, scored ? "scored pairs" : "texts that belong together", style, lengths, NULL);
    const int64_t sequences = c.batch.sequences;
    int32_t *first = gc_alloc(&c, 3 * sizeof *first);
    first[0] = 0;
    first[1] = 2;
    first[2] = (int32_t)sequences;
    c.batch.questions = 2;
    c.batch.choice_offsets = first;
    if (scored) {
        float *targets = gc_alloc(&c, (size_t)sequences * sizeof *targets);
        for (int64_t s = 0; s < sequences; s++) targets[s] = s == 0 ? 0.3f : s == 2 ? -0.5f : NAN;
        c.batch.sequence_targets = targets;
        c.batch.target_cols = 1;
    }
    peft__value *x = gc_input_in(&c, peft__rows_pick(c.graph, c.stream, 0), sequences, WIDTH, 2.0f);
    gc_loss(&c, peft__op_contrast_loss(c.graph, x, scale));
    gc_end(&c, contrast_reference, &scale);
}

int main(void) {
    gc_style style;
    for (uint32_t s = 0; gc_next_style(&s, &style);) {
        for (int i = 0; i < 8; i++)
            check_entropy(&style, (entropy_case){.classes = i < 4 ? 5 : 133,
                                                 .by_sequence = i & 1,
                                                 .weighted = i & 2,
                                                 .smoothing = i % 3 == 0 ? 0.0f : 0.1f});
        check_entropy(&style, (entropy_case){.classes = 5, .ignored = true});
        check_target(&style, PEFT__LOSS_MSE);
        check_target(&style, PEFT__LOSS_BCE);
        check_span(&style, false);
        check_span(&style, true);
        check_group(&style, 0.0f, false);
        check_group(&style, 0.1f, true);
        check_contrast(&style, 5.0f, false);
        check_contrast(&style, 20.0f, true);
    }
    return gc_summary();
}
