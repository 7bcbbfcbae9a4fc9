/* attention_ops.c: attention in all its forms, rotary embedding. */
#include "gradient.h"

typedef struct attention_case {
    const char *name;
    int64_t heads, kv_heads, head_dim;
    bool causal, cross;
    int64_t window, near, prefix, span;
    float soft_cap;
    const int64_t *lengths, *decoder_lengths;
    const int32_t *decoder_source;
} attention_case;

static const int64_t short_lengths[] = {5, 1, 17, 2, 0}, long_lengths[] = {70, 1, 131, 0}, single[] = {1, 0},
                     decoder_lengths[] = {3, 1, 66, 2, 0}, chunks[] = {580, 2, 0};
static const int32_t decoder_source[] = {2, 0, 2, 1};

static bool visible(const attention_case *a, int64_t query, int64_t key) {
    if (a->causal && key > query) return false;
    if (a->window > 0 && !(key > query - a->window)) return false;
    if (a->near > 0 && llabs(key - query) > a->near) return false;
    return true;
}

static void attention_reference(gc *c, void *user) {
    const attention_case *a = user;
    const double *q = c->in[0].exact, *k = c->in[1].exact, *v = c->in[2].exact;
    const double *pk = a->prefix > 0 ? c->in[3].exact : NULL, *pv = a->prefix > 0 ? c->in[4].exact : NULL;
    const double *bias = a->span > 0 ? c->in[a->prefix > 0 ? 5 : 3].exact : NULL;
    const int64_t width = a->heads * a->head_dim, kv = a->kv_heads * a->head_dim, dim = a->head_dim;
    const int32_t *q_offsets = a->cross ? c->decoder_offsets : c->offsets;
    const int64_t sequences = a->cross ? c->batch.decoder_sequences : c->batch.sequences;
    static double scores[2048];
    for (int64_t s = 0; s < sequences; s++) {
        const int64_t ks = a->cross && a->decoder_source != NULL ? a->decoder_source[s] : s;
        const int64_t k0 = c->offsets[ks], keys = c->offsets[ks + 1] - k0, queries = q_offsets[s + 1] - q_offsets[s];
        for (int64_t h = 0; h < a->heads; h++) {
            const int64_t at = h / (a->heads / a->kv_heads) * dim;
            for (int64_t i = 0; i < queries; i++) {
                const double *query = q + (q_offsets[s] + i) * width + h * dim;
                double top = -INFINITY, sum = 0.0;
                for (int64_t j = -a->prefix; j < keys; j++) {
                    const double *key = j < 0 ? pk + (j + a->prefix) * kv + at : k + (k0 + j) * kv + at;
                    double score = 0.0;
                    for (int64_t d = 0; d < dim; d++) score += query[d] * key[d];
                    score *= 0.3f;
                    if (a->soft_cap != 0.0f) score = (double)a->soft_cap * tanh(score / (double)a->soft_cap);
                    if (bias != NULL) {
                        int64_t b = j - i + a->span - 1;
                        b = b < 0 ? 0 : b > 2 * a->span - 2 ? 2 * a->span - 2 : b;
                        score += bias[h * (2 * a->span - 1) + b];
                    }
                    if (!visible(a, i, j)) score = -INFINITY;
                    scores[j + a->prefix] = score;
                    top = fmax(top, score);
                }
                double *out = c->out[0].want + (q_offsets[s] + i) * width + h * dim;
                for (int64_t d = 0; d < dim; d++) out[d] = 0.0;
                if (top == -INFINITY) continue;
                for (int64_t j = 0; j < keys + a->prefix; j++) sum += scores[j] = exp(scores[j] - top);
                for (int64_t j = -a->prefix; j < keys; j++) {
                    const double *value = j < 0 ? pv + (j + a->prefix) * kv + at : v + (k0 + j) * kv + at;
                    for (int64_t d = 0; d < dim; d++) out[d] += scores[j + a->prefix] / sum * value[d];
                }
            }
        }
    }
}

static void check_attention(const attention_case *a, const gc_style *style, bool frozen_keys) {
    gc c;
    gc_begin(&c, a->name, style, a->lengths, a->decoder_lengths);
    c.batch.decoder_source = a->decoder_source;
    peft__value *q = gc_input_new(&c, a->cross ? GC_DECODER : GC_STREAM, a->heads * a->head_dim, 1.5f);
    peft__value *k = gc_input_new(&c, GC_STREAM, a->kv_heads * a->head_dim, 1.5f);
    if (frozen_keys) gc_freeze_last(&c);
    peft__value *v = gc_input_new(&c, GC_STREAM, a->kv_heads * a->head_dim, 1.0f);
    peft__value *pk = NULL, *pv = NULL, *bias = NULL;
    if (a->prefix > 0) {
        pk = gc_input_new(&c, a->prefix, a->kv_heads * a->head_dim, 1.0f);
        pv = gc_input_new(&c, a->prefix, a->kv_heads * a->head_dim, 1.0f);
    }
    if (a->span > 0) bias = gc_input_new(&c, a->heads, 2 * a->span - 1, 1.0f);
    const peft__attention_config config = {.heads = a->heads,
                                           .kv_heads = a->kv_heads,
                                           .head_dim = a->head_dim,
                                           .scale = 0.3f,
                                           .soft_cap = a->soft_cap,
                                           .causal = a->causal,
                                           .cross = a->cross,
                                           .window = a->window,
                                           .bidirectional_window = a->near};
    gc_output_new(&c, peft__op_attention(c.graph, q, k, v, pk, pv, bias, &config));
    gc_end(&c, attention_reference, (void *)a);
}

typedef struct rope_case {
    int64_t heads, head_dim, half;
    const float *inv_freq;
    float factor;
} rope_case;

static void rope_reference(gc *c, void *user) {
    const rope_case *a = user;
    for (int64_t r = 0; r < c->batch.rows; r++) {
        for (int64_t h = 0; h < a->heads; h++) {
            const double *x = c->in[0].exact + (r * a->heads + h) * a->head_dim;
            double *y = c->out[0].want + (r * a->heads + h) * a->head_dim;
            memcpy(y, x, (size_t)a->head_dim * sizeof *y);
            for (int64_t i = 0; i < a->half; i++) {
                const double angle = (double)((float)c->batch.position_ids[r] * a->inv_freq[i]);
                const double cosine = cos(angle) * (double)a->factor, sine = sin(angle) * (double)a->factor;
                y[i] = x[i] * cosine - x[a->half + i] * sine;
                y[a->half + i] = x[a->half + i] * cosine + x[i] * sine;
            }
        }
    }
}

static void check_rope(const gc_style *style, int64_t heads, int64_t head_dim, int64_t half, int kind) {
    gc c;
    char name[64];
    snprintf(name, sizeof name, "rope %d heads %d of %d, kind %d", (int)heads, (int)half, (int)head_dim, kind);
    gc_begin(&c, name, style, short_lengths, NULL);
    int32_t *positions = gc_alloc(&c, (size_t)c.batch.rows * sizeof *positions);
    for (int64_t r = 0; r < c.batch.rows; r++) positions[r] = (int32_t)(r * 7 % 41);
    c.batch.position_ids = positions;
    float *inv_freq = gc_alloc(&c, (size_t)half * sizeof *inv_freq),
          *other = gc_alloc(&c, (size_t)half * sizeof *other);
    for (int64_t i = 0; i < half; i++) {
        inv_freq[i] = powf(10000.0f, -(float)i / (float)half);
        other[i] = 0.5f * inv_freq[i];
    }
    peft__rope_config config = {
        .half = half, .inv_freq = inv_freq, .attention_factor = kind == 1 ? 1.3f : 1.0f, .theta = 10000.0f};
    rope_case user = {heads, head_dim, half, inv_freq, config.attention_factor};
    int64_t longest = 0;
    for (int64_t r = 0; r < c.batch.rows; r++) longest = positions[r] > longest ? positions[r] : longest;
    if (kind == 2) { /* dynamic NTK, past the limit */
        config.dynamic_factor = 2.0f;
        config.max_positions = 16;
        const double dim = 2.0 * (double)half,
                     theta = 10000.0 * pow(2.0 * (double)(longest + 1) / 16.0 - 1.0, dim / (dim - 2.0));
        for (int64_t i = 0; i < half; i++) other[i] = (float)pow(theta, -2.0 * (double)i / dim);
        user.inv_freq = other;
    } else if (kind == 3 || kind == 4) { /* longrope, past and before its limit */
        config.long_inv_freq = other;
        config.original_max = kind == 3 ? longest : longest + 1;
        if (kind == 3) user.inv_freq = other;
    }
    peft__value *x = gc_input_new(&c, GC_STREAM, heads * head_dim, 1.0f);
    gc_output_new(&c, peft__op_rope(c.graph, x, peft__op_rope_angles(c.graph, c.stream, &config), heads, head_dim));
    gc_end(&c, rope_reference, &user);
}

/* Generation: the cache holds earlier keys and values, the batch brings the next ones. Forward only. */
static void check_cache(const gc_style *style, int64_t prefix) {
    enum { HEADS = 4, KV = 2, DIM = 12, ROOM = 150, SEQUENCES = 3 };
    const int64_t next[] = {1, 5, 70, 0};
    int64_t used[SEQUENCES] = {90, 0, 7};
    gc c;
    gc_begin(&c, prefix > 0 ? "cache and prefix" : "cache", style, next, NULL);
    float *keys = gc_alloc(&c, SEQUENCES * ROOM * KV * DIM * sizeof *keys);
    float *values = gc_alloc(&c, SEQUENCES * ROOM * KV * DIM * sizeof *values);
    for (int64_t i = 0; i < SEQUENCES * ROOM * KV * DIM; i++) {
        keys[i] = gc_random(&c);
        values[i] = gc_random(&c);
    }
    const peft__kv_cache cache = {keys, values, ROOM, used};
    const peft__attention_config config = {
        .heads = HEADS, .kv_heads = KV, .head_dim = DIM, .scale = 0.3f, .causal = true, .cache = &cache};
    peft__value *q = gc_input_new(&c, GC_STREAM, HEADS * DIM, 1.5f), *k = gc_input_new(&c, GC_STREAM, KV * DIM, 1.5f);
    peft__value *v = gc_input_new(&c, GC_STREAM, KV * DIM, 1.0f), *pk = NULL, *pv = NULL;
    if (prefix > 0) {
        pk = gc_input_new(&c, prefix, KV * DIM, 1.0f);
        pv = gc_input_new(&c, prefix, KV * DIM, 1.0f);
    }
    peft__value *out = peft__op_attention(c.graph, q, k, v, pk, pv, NULL, &config);
    peft__value_output(c.graph, out);
    CHECK(peft__graph_plan(c.graph, false) == PEFT_OK && peft__graph_allocate(c.graph) == PEFT_OK);
    CHECK(peft__graph_bind(c.graph, &c.batch) == PEFT_OK);
    const peft__run_options options = {.deadline_us = UINT64_MAX};
    peft__cursor cursor = {0};
    CHECK(peft__graph_run(c.graph, &cursor, peft__graph_plan_info(c.graph)->steps, &options) == PEFT_OK);

    double worst = 0.0;
    for (int64_t s = 0; s < SEQUENCES; s++) {
        for (int64_t i = 0; i < next[s]; i++) {
            const int64_t row = c.offsets[s] + i, seen = used[s] + i + 1;
            for (int64_t j = 0; j < KV * DIM; j++) { /* what was appended */
                const int64_t at = (s * ROOM + used[s] + i) * KV * DIM + j;
                CHECK((double)keys[at] == c.in[1].exact[row * KV * DIM + j] &&
                      (double)values[at] == c.in[2].exact[row * KV * DIM + j]);
            }
            for (int64_t h = 0; h < HEADS; h++) {
                double want[DIM] = {0}, sum = 0.0;
                for (int64_t j = -prefix; j < seen; j++) {
                    double score = 0.0, key[DIM], value[DIM];
                    for (int64_t d = 0; d < DIM; d++) {
                        const int64_t at = h / 2 * DIM + d;
                        key[d] = j < 0 ? c.in[3].exact[(j + prefix) * KV * DIM + at]
                                       : (double)keys[(s * ROOM + j) * KV * DIM + at];
                        value[d] = j < 0 ? c.in[4].exact[(j + prefix) * KV * DIM + at]
                                         : (double)values[(s * ROOM + j) * KV * DIM + at];
                        score += c.in[0].exact[row * HEADS * DIM + h * DIM + d] * key[d];
                    }
                    const double p = exp(score * 0.3f);
                    sum += p;
                    for (int64_t d = 0; d < DIM; d++) want[d] += p * value[d];
                }
                for (int64_t d = 0; d < DIM; d++)
                    worst = fmax(worst, fabs(want[d] / sum - (double)out->data[row * out->ld + h * DIM + d]));
            }
        }
    }
    CHECK(worst < 3e-6);
    gc_discard(&c);
}

int main(void) {
    const attention_case cases[] = {
        {.name = "causal", .heads = 2, .kv_heads = 2, .head_dim = 8, .causal = true, .lengths = short_lengths},
        {.name = "one row", .heads = 2, .kv_heads = 1, .head_dim = 8, .causal = true, .lengths = single},
        {.name = "causal, shared keys, odd size",
         .heads = 6,
         .kv_heads = 2,
         .head_dim = 5,
         .causal = true,
         .lengths = short_lengths},
        {.name = "causal, several blocks",
         .heads = 3,
         .kv_heads = 1,
         .head_dim = 16,
         .causal = true,
         .lengths = long_lengths},
        {.name = "bidirectional", .heads = 2, .kv_heads = 2, .head_dim = 20, .lengths = long_lengths},
        {.name = "wide heads", .heads = 2, .kv_heads = 1, .head_dim = 80, .causal = true, .lengths = short_lengths},
        {.name = "wider heads", .heads = 1, .kv_heads = 1, .head_dim = 133, .lengths = short_lengths},
        {.name = "sliding window",
         .heads = 2,
         .kv_heads = 1,
         .head_dim = 8,
         .causal = true,
         .window = 9,
         .lengths = long_lengths},
        {.name = "window of both sides", .heads = 2, .kv_heads = 2, .head_dim = 8, .near = 6, .lengths = long_lengths},
        {.name = "prefix",
         .heads = 4,
         .kv_heads = 2,
         .head_dim = 8,
         .causal = true,
         .prefix = 7,
         .lengths = short_lengths},
        {.name = "window over chunks",
         .heads = 1,
         .kv_heads = 1,
         .head_dim = 4,
         .causal = true,
         .window = 40,
         .lengths = chunks},
        {.name = "prefix and window",
         .heads = 2,
         .kv_heads = 2,
         .head_dim = 8,
         .causal = true,
         .window = 3,
         .prefix = 70,
         .lengths = long_lengths},
        {.name = "soft cap",
         .heads = 2,
         .kv_heads = 1,
         .head_dim = 8,
         .causal = true,
         .soft_cap = 2.0f,
         .lengths = long_lengths},
        {.name = "bias", .heads = 2, .kv_heads = 2, .head_dim = 8, .span = 131, .lengths = long_lengths},
        {.name = "bias with ends",
         .heads = 2,
         .kv_heads = 2,
         .head_dim = 8,
         .span = 10,
         .causal = true,
         .lengths = long_lengths},
        {.name = "bias and prefix",
         .heads = 2,
         .kv_heads = 1,
         .head_dim = 8,
         .span = 30,
         .prefix = 4,
         .causal = true,
         .lengths = short_lengths},
        {.name = "cross",
         .heads = 2,
         .kv_heads = 2,
         .head_dim = 8,
         .cross = true,
         .lengths = long_lengths,
         .decoder_lengths = decoder_lengths,
         .decoder_source = decoder_source},
        {.name = "cross, shared keys",
         .heads = 4,
         .kv_heads = 2,
         .head_dim = 4,
         .cross = true,
         .lengths = short_lengths,
         .decoder_lengths = decoder_lengths},
    };
    /* Two chunks of keys in the backward pass: slow in double, so in the best instruction set alone. */
    const attention_case long_cases[] = {
        {.name = "causal, two chunks", .heads = 2, .kv_heads = 1, .head_dim = 4, .causal = true, .lengths = chunks},
        {.name = "window, two chunks",
         .heads = 1,
         .kv_heads = 1,
         .head_dim = 4,
         .causal = true,
         .window = 40,
         .lengths = chunks},
    };
    gc_style style;
    for (uint32_t s = 0; gc_next_style(&s, &style);) {
        for (size_t i = 0; i < PEFT_COUNT(cases); i++) check_attention(&cases[i], &style, i % 4 == 3 && style.wide);
        for (int kind = 0; kind < 5; kind++) check_rope(&style, 3, 20, 7, kind);
        check_rope(&style, 2, 32, 16, 0);
        check_cache(&style, 0);
        check_cache(&style, 9);
    }
    for (size_t i = 0; i < PEFT_COUNT(long_cases); i++) check_attention(&long_cases[i], &style, false);
    return gc_summary();
}
