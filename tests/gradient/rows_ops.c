/* rows_ops.c: operations that work row by row: lookups, norms, activations, sums, dropout, moving rows. */
#include "gradient.h"

#include "base/half.h"

static const int64_t lengths[] = {5, 1, 17, 2, 0};

/* ---- references ------------------------------------------------------------------------------------------------ */

static double activate(peft__activation kind, double x) {
    switch (kind) {
    case PEFT__ACT_RELU:
        return x > 0.0 ? x : 0.0;
    case PEFT__ACT_GELU:
        return 0.5 * x * erfc(-x / sqrt(2.0));
    case PEFT__ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case PEFT__ACT_SILU:
        return x / (1.0 + exp(-x));
    case PEFT__ACT_TANH:
        return tanh(x);
    case PEFT__ACT_QUICK_GELU:
        return x / (1.0 + exp(-1.702 * x));
    case PEFT__ACT_SIGMOID:
        return 1.0 / (1.0 + exp(-x));
    case PEFT__ACT_IDENTITY:
        break;
    }
    return x;
}

static int64_t size_of(const gc *c, uint32_t i) {
    return c->out[i].value->rows->count * c->out[i].value->cols;
}

static void activation_reference(gc *c, void *user) {
    for (int64_t i = 0; i < size_of(c, 0); i++)
        c->out[0].want[i] = activate(*(peft__activation *)user, c->in[0].exact[i]);
}

static void gated_reference(gc *c, void *user) {
    for (int64_t i = 0; i < size_of(c, 0); i++)
        c->out[0].want[i] = activate(*(peft__activation *)user, c->in[0].exact[i]) * c->in[1].exact[i];
}

typedef struct norm_case {
    peft__norm_kind kind;
    int64_t cols, width;
    bool has_weight, has_bias, frozen;
    float offset;
    const float *weight, *bias; /* when frozen */
} norm_case;

static void norm_reference(gc *c, void *user) {
    const norm_case *n = user;
    for (int64_t r = 0; r < c->batch.rows * (n->cols / n->width); r++) {
        const double *x = c->in[0].exact + r * n->width;
        double mean = 0.0, square = 0.0;
        if (n->kind == PEFT__LAYER_NORM)
            for (int64_t i = 0; i < n->width; i++) mean += x[i] / (double)n->width;
        for (int64_t i = 0; i < n->width; i++) square += (x[i] - mean) * (x[i] - mean) / (double)n->width;
        const double scale = 1.0 / sqrt(square + (double)1e-3f);
        for (int64_t i = 0; i < n->width; i++) {
            double w = 1.0, b = 0.0;
            if (n->has_weight) w = (double)n->offset + (n->frozen ? (double)n->weight[i] : c->in[1].exact[i]);
            if (n->has_bias) b = n->frozen ? (double)n->bias[i] : c->in[n->has_weight ? 2 : 1].exact[i];
            c->out[0].want[r * n->width + i] = (x[i] - mean) * scale * w + b;
        }
    }
}

static void check_norm(const gc_style *style, norm_case n) {
    gc c;
    char name[96];
    snprintf(name, sizeof name, "%s of %d in %d, weight %d, bias %d, frozen %d",
             n.kind == PEFT__RMS_NORM ? "RMSNorm" : "LayerNorm", (int)n.width, (int)n.cols, n.has_weight, n.has_bias,
             n.frozen);
    gc_begin(&c, name, style, lengths, NULL);
    peft__value *x = gc_input_new(&c, GC_STREAM, n.cols, 2.0f);
    peft__vector weight = {0}, bias = {0};
    peft__tensor stored[2];
    uint16_t *bytes = gc_alloc(&c, (size_t)n.width * 2 * sizeof *bytes);
    float *floats = gc_alloc(&c, (size_t)n.width * 2 * sizeof *floats);
    for (int64_t i = 0; i < 2 * n.width; i++) {
        bytes[i] = peft__f32_to_bf16(gc_random(&c));
        floats[i] = peft__bf16_to_f32(bytes[i]);
    }
    for (int i = 0; i < 2; i++)
        stored[i] = (peft__tensor){.name = "vector",
                                   .dtype = PEFT_DTYPE_BF16,
                                   .ndim = 1,
                                   .shape = {n.width},
                                   .data = (const uint8_t *)(bytes + i * n.width),
                                   .bytes = (size_t)n.width * sizeof *bytes};
    n.weight = floats;
    n.bias = floats + n.width;
    if (n.has_weight && n.frozen) weight.tensor = &stored[0];
    if (n.has_bias && n.frozen) bias.tensor = &stored[1];
    if (n.has_weight && !n.frozen) weight.value = gc_leaf_new(&c, 1, n.width, 1.0f);
    if (n.has_bias && !n.frozen) bias.value = gc_leaf_new(&c, 1, n.width, 1.0f);
    gc_output_new(&c, peft__op_norm(c.graph, n.kind, x, weight, bias, 1e-3f, n.offset));
    gc_end(&c, norm_reference, &n);
}

typedef struct embedding_case {
    peft__lookup by;
    int64_t table_rows, cols;
    const int32_t *index;
    const float *frozen;
} embedding_case;

static void embedding_reference(gc *c, void *user) {
    const embedding_case *e = user;
    for (int64_t r = 0; r < c->batch.rows; r++)
        for (int64_t k = 0; k < e->cols; k++) {
            const int64_t at = e->index[r] * e->cols + k;
            c->out[0].want[r * e->cols + k] =
                e->index[r] < 0 ? 0.0 : 1.5 * (e->frozen != NULL ? (double)e->frozen[at] : c->in[0].exact[at]);
        }
    if (e->frozen == NULL) return;
    for (int64_t i = 0; i < size_of(c, 0); i++) c->out[0].want[i] += c->in[0].exact[i];
}

static void check_embedding(const gc_style *style, peft__lookup by, bool frozen) {
    gc c;
    gc_begin(&c, frozen ? "embedding, stored" : "embedding, trained", style, lengths, NULL);
    int32_t *index = gc_alloc(&c, (size_t)c.batch.rows * sizeof *index);
    for (int64_t r = 0; r < c.batch.rows; r++) index[r] = (int32_t)(r * 5 % 8) - (by == PEFT__LOOKUP_IDS && r == 3);
    if (by == PEFT__LOOKUP_IDS)
        index[4] = -1, c.batch.input_ids = index;
    else if (by == PEFT__LOOKUP_POSITIONS)
        c.batch.position_ids = index;
    else
        c.batch.token_type_ids = index;
    const int64_t cols = frozen ? 96 : 70;
    embedding_case e = {by, 9, cols, index, NULL};
    peft__weight table = {.matrix = {.rows = 9, .cols = cols}};
    if (!frozen) {
        table.value = gc_leaf_new(&c, 9, cols, 1.0f);
        gc_output_new(&c, peft__op_embedding(c.graph, c.stream, table, by, 1.5f, -1));
    } else {
        float *floats = gc_alloc(&c, 9 * 96 * sizeof *floats);
        uint8_t *blocks = gc_alloc(&c, 9 * 96 * 2);
        size_t stride = 0;
        for (int i = 0; i < 9 * 96; i++) floats[i] = gc_random(&c);
        CHECK(peft__dtype_row_bytes(PEFT_DTYPE_Q8_0, cols, &stride));
        CHECK(peft__quantize(c.ctx, PEFT_DTYPE_Q8_0, floats, 9 * 96, blocks) == PEFT_OK);
        peft__dequantize(PEFT_DTYPE_Q8_0, blocks, 9 * 96, floats);
        table.matrix.data = blocks;
        table.matrix.dtype = PEFT_DTYPE_Q8_0;
        table.matrix.stride = stride;
        e.frozen = floats;
        peft__value *x = gc_input_new(&c, GC_STREAM, cols, 1.0f);
        gc_output_new(&c, peft__op_add(c.graph, peft__op_embedding(c.graph, c.stream, table, by, 1.5f, -1), x));
    }
    gc_end(&c, embedding_reference, &e);
}

static void columns_reference(gc *c, void *user) {
    (void)user;
    for (int64_t r = 0; r < c->batch.rows; r++)
        for (int64_t k = 0; k < 3; k++) {
            const int32_t id = c->batch.input_ids[r];
            c->out[0].want[r * 3 + k] = id < 0 ? 0.0 : 1.5 * c->in[0].exact[k * 9 + id];
        }
}

static void check_columns(const gc_style *style) {
    gc c;
    gc_begin(&c, "columns", style, lengths, NULL);
    int32_t *ids = gc_alloc(&c, (size_t)c.batch.rows * sizeof *ids);
    for (int64_t r = 0; r < c.batch.rows; r++) ids[r] = r == 4 ? -1 : (int32_t)(r * 5 % 9);
    c.batch.input_ids = ids;
    peft__value *matrix = gc_leaf_new(&c, 3, 9, 1.0f);
    gc_output_new(&c, peft__op_columns(c.graph, c.stream, matrix, PEFT__LOOKUP_IDS, 1.5f, -1));
    gc_end(&c, columns_reference, NULL);
}

/* Row `padding` of a trained table gets no gradient: the reference holds it constant through its frozen copy. */
static void padding_reference(gc *c, void *user) {
    const double *fixed = user;
    for (int64_t r = 0; r < c->batch.rows; r++) {
        const int32_t id = c->batch.input_ids[r];
        for (int64_t k = 0; k < 6; k++) c->out[0].want[r * 6 + k] = id == 2 ? fixed[k] : c->in[0].exact[id * 6 + k];
    }
}

static void check_padding(const gc_style *style) {
    gc c;
    gc_begin(&c, "embedding with padding", style, lengths, NULL);
    int32_t *ids = gc_alloc(&c, (size_t)c.batch.rows * sizeof *ids);
    for (int64_t r = 0; r < c.batch.rows; r++) ids[r] = (int32_t)(r % 4);
    c.batch.input_ids = ids;
    const peft__weight table = {.matrix = {.rows = 4, .cols = 6}, .value = gc_leaf_new(&c, 4, 6, 1.0f)};
    double fixed[6];
    memcpy(fixed, c.in[0].exact + 2 * 6, sizeof fixed);
    gc_output_new(&c, peft__op_embedding(c.graph, c.stream, table, PEFT__LOOKUP_IDS, 1.0f, 2));
    gc_end(&c, padding_reference, fixed);
}

typedef struct simple_case {
    int kind;
    uint32_t threshold;
} simple_case;

static void simple_reference(gc *c, void *user) {
    const simple_case *s = user;
    const int64_t cols = c->out[0].value->cols;
    for (int64_t i = 0; i < size_of(c, 0); i++) {
        const double x = c->in[0].exact[i];
        double *y = &c->out[0].want[i];
        switch (s->kind) {
        case 0:
            *y = x + c->in[1].exact[i];
            break;
        case 1:
            *y = x * (double)1.7f;
            break;
        case 2:
            *y = x + c->in[1].exact[i % cols];
            break;
        case 3:
            *y = x * c->in[1].exact[i % cols];
            break;
        case 4:
            *y = 3.0 * tanh(x / 3.0);
            break;
        case 6:
            *y = x + x;
            break;
        default: {
            uint32_t words[4];
            peft__philox(c->seed, 1234567890123u, (uint64_t)i / 4, words);
            *y = !c->training ? x : words[i % 4] >= s->threshold ? x / 0.7 : 0.0;
            break;
        }
        }
    }
}

static void check_simple(const gc_style *style, int kind, int64_t cols, bool training) {
    static const char *const names[] = {"add",      "scale",   "add vector",   "multiply by vector",
                                        "soft cap", "dropout", "add to itself"};
    gc c;
    gc_begin(&c, names[kind], style, lengths, NULL);
    c.training = training;
    simple_case s = {kind, (uint32_t)((double)0.3f * 4294967296.0)};
    peft__value *x = gc_input_new(&c, GC_STREAM, cols, 2.0f), *y = NULL;
    switch (kind) {
    case 0:
        y = peft__op_add(c.graph, x, gc_input_new(&c, GC_STREAM, cols, 1.0f));
        break;
    case 1:
        y = peft__op_scale(c.graph, x, 1.7f);
        break;
    case 2:
        y = peft__op_add_vector(c.graph, x, gc_leaf_new(&c, 1, cols, 1.0f));
        break;
    case 3:
        y = peft__op_mul_vector(c.graph, x, gc_leaf_new(&c, 1, cols, 1.0f));
        break;
    case 4:
        y = peft__op_soft_cap(c.graph, x, 3.0f);
        break;
    case 6:
        y = peft__op_add(c.graph, x, x);
        break;
    default:
        y = peft__op_dropout(c.graph, x, 0.3f, 1234567890123u);
        break;
    }
    gc_output_new(&c, y);
    gc_end(&c, simple_reference, &s);
}

/* A chain of cheap operations: what the planner computes again must be what the first pass had. */
static void chain_reference(gc *c, void *user) {
    (void)user;
    for (int64_t r = 0; r < c->batch.rows; r++) {
        const double *x = c->in[0].exact + r * 10;
        double square = 0.0;
        for (int64_t i = 0; i < 10; i++) square += x[i] * x[i] / 10.0;
        for (int64_t i = 0; i < 10; i++) {
            const double z = x[i] / sqrt(square + (double)1e-3f) * c->in[1].exact[i];
            c->out[0].want[r * 10 + i] =
                activate(PEFT__ACT_GELU, activate(PEFT__ACT_SILU, z) * z) * c->in[2].exact[i] + x[i];
        }
    }
}

static void check_chain(const gc_style *style) {
    gc c;
    gc_begin(&c, "chain", style, lengths, NULL);
    peft__value *x = gc_input_new(&c, GC_STREAM, 10, 1.0f);
    const peft__vector weight = {.value = gc_leaf_new(&c, 1, 10, 1.0f)};
    peft__value *z = peft__op_norm(c.graph, PEFT__RMS_NORM, x, weight, (peft__vector){0}, 1e-3f, 0.0f);
    peft__value *y = peft__op_activation(c.graph, PEFT__ACT_GELU, peft__op_gated(c.graph, PEFT__ACT_SILU, z, z));
    gc_output_new(&c, peft__op_add(c.graph, peft__op_mul_vector(c.graph, y, gc_leaf_new(&c, 1, 10, 1.0f)), x));
    gc_end(&c, chain_reference, NULL);
}

static void select_reference(gc *c, void *user) {
    const bool table = *(bool *)user;
    for (int64_t r = 0; r < c->out[0].value->rows->count; r++) {
        const int32_t source = c->out[0].value->rows->source[r];
        for (int64_t k = 0; k < 70; k++)
            c->out[0].want[r * 70 + k] = source >= 0 ? c->in[0].exact[source * 70 + k]
                                         : table     ? c->in[1].exact[~source * 70 + k]
                                                     : 0.0;
    }
}

static void check_select(const gc_style *style, int kind) {
    static const char *const names[] = {"rows inserted", "rows replaced", "first rows", "last rows", "labelled rows"};
    gc c;
    const int64_t longer[] = {5, 3, 17, 4, 0};
    gc_begin(&c, names[kind], style, longer, NULL);
    int32_t *labels = gc_alloc(&c, (size_t)c.batch.rows * sizeof *labels);
    for (int64_t r = 0; r < c.batch.rows; r++) labels[r] = r % 3 == 0 ? 1 : -100;
    c.batch.labels = labels;
    bool table = kind < 2;
    peft__value *x = gc_input_new(&c, GC_STREAM, 70, 1.0f), *rows = table ? gc_input_new(&c, 2, 70, 1.0f) : NULL;
    peft__rows *space = kind == 0   ? peft__rows_insert(c.graph, c.stream, 1, 2)
                        : kind == 1 ? peft__rows_replace(c.graph, c.stream, 1, 2)
                        : kind == 2 ? peft__rows_pick(c.graph, c.stream, 0)
                        : kind == 3 ? peft__rows_pick(c.graph, c.stream, -1)
                                    : peft__rows_labelled(c.graph, c.stream);
    gc_output_new(&c, peft__op_select_rows(c.graph, space, x, rows));
    gc_end(&c, select_reference, &table);
}

static void mean_reference(gc *c, void *user) {
    (void)user;
    for (int64_t s = 0; s < c->batch.sequences; s++)
        for (int64_t k = 0; k < 70; k++) {
            double sum = 0.0;
            for (int32_t r = c->offsets[s]; r < c->offsets[s + 1]; r++) sum += c->in[0].exact[r * 70 + k];
            c->out[0].want[s * 70 + k] = sum / (double)(c->offsets[s + 1] - c->offsets[s]);
        }
}

static void check_mean(const gc_style *style) {
    gc c;
    gc_begin(&c, "mean over sequences", style, lengths, NULL);
    peft__value *x = gc_input_new(&c, GC_STREAM, 70, 1.0f);
    gc_output_new(&c, peft__op_mean_rows(c.graph, peft__rows_pick(c.graph, c.stream, 0), x));
    gc_end(&c, mean_reference, NULL);
}

static void features_reference(gc *c, void *user) {
    (void)user;
    for (int64_t i = 0; i < size_of(c, 0); i++) c->out[0].want[i] = (double)c->batch.features[i] + c->in[0].exact[i];
}

static void check_features(const gc_style *style) {
    gc c;
    gc_begin(&c, "features", style, lengths, NULL);
    float *features = gc_alloc(&c, (size_t)(c.batch.rows * 11) * sizeof *features);
    for (int64_t i = 0; i < c.batch.rows * 11; i++) features[i] = gc_random(&c);
    c.batch.features = features;
    c.batch.feature_cols = 11;
    peft__value *x = gc_input_new(&c, GC_STREAM, 11, 1.0f);
    gc_output_new(&c, peft__op_add(c.graph, peft__op_features(c.graph, c.stream, 11), x));
    gc_end(&c, features_reference, NULL);
}

int main(void) {
    gc_style style;
    for (uint32_t s = 0; gc_next_style(&s, &style);) {
        for (int kind = PEFT__ACT_RELU; kind <= PEFT__ACT_SIGMOID; kind++) {
            peft__activation activation = (peft__activation)kind;
            gc c;
            if (activation != PEFT__ACT_IDENTITY) {
                gc_begin(&c, "activation", &style, lengths, NULL);
                gc_output_new(&c, peft__op_activation(c.graph, activation, gc_input_new(&c, GC_STREAM, 37, 6.0f)));
                gc_end(&c, activation_reference, &activation);
            }
            gc_begin(&c, "gated", &style, lengths, NULL);
            peft__value *gate = gc_input_new(&c, GC_STREAM, 37, 6.0f);
            if (kind == PEFT__ACT_TANH) gc_freeze_last(&c);
            gc_output_new(&c, peft__op_gated(c.graph, activation, gate, gc_input_new(&c, GC_STREAM, 37, 1.0f)));
            gc_end(&c, gated_reference, &activation);
        }
        for (int kind = 0; kind < 2; kind++) {
            const peft__norm_kind norm = kind == 0 ? PEFT__RMS_NORM : PEFT__LAYER_NORM;
            check_norm(&style,
                       (norm_case){.kind = norm, .cols = 70, .width = 70, .has_weight = true, .has_bias = true});
            check_norm(
                &style,
                (norm_case){
                    .kind = norm, .cols = 70, .width = 70, .has_weight = true, .has_bias = true, .frozen = true});
            check_norm(&style, (norm_case){.kind = norm, .cols = 64, .width = 16, .has_weight = true, .offset = 1.0f});
            check_norm(
                &style,
                (norm_case){.kind = norm, .cols = 33, .width = 11, .has_weight = true, .frozen = true, .offset = 1.0f});
            check_norm(&style, (norm_case){.kind = norm, .cols = 257, .width = 257});
            check_norm(&style, (norm_case){.kind = norm, .cols = 5, .width = 5, .has_bias = true, .has_weight = true});
        }
        for (int by = PEFT__LOOKUP_IDS; by <= PEFT__LOOKUP_TYPES; by++)
            for (int frozen = 0; frozen < 2; frozen++) check_embedding(&style, (peft__lookup)by, frozen == 1);
        check_padding(&style);
        check_columns(&style);
        for (int kind = 0; kind < 7; kind++)
            for (int64_t cols = 7; cols < 90; cols += 60) check_simple(&style, kind, cols, true);
        check_simple(&style, 5, 19, false);
        for (int kind = 0; kind < 5; kind++) check_select(&style, kind);
        check_mean(&style);
        check_features(&style);
        check_chain(&style);
    }
    return gc_summary();
}
