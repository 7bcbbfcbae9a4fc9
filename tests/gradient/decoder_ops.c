/* decoder_ops.c: what encoder-decoder models need: relative position biases, losses over tokens and over answers, and
 * attention to keys that an encoder left in a cache. */
#include "gradient.h"

static const int64_t lengths[] = {3, 1, 4, 0}, answer_lengths[] = {4, 1, 5, 3, 2, 5, 0};

/* ---- relative positions ---------------------------------------------------------------------------------------- */

typedef struct bias_case {
    int64_t buckets, heads, max_distance;
    bool bidirectional;
    const float *frozen;
} bias_case;

static int64_t bucket_of(const bias_case *b, int64_t distance) {
    int64_t buckets = b->buckets, first = 0, n = distance < 0 ? -distance : 0;
    if (b->bidirectional) {
        buckets /= 2;
        if (distance > 0) first = buckets;
        n = distance < 0 ? -distance : distance;
    }
    const double exact = (double)(buckets / 2);
    if ((double)n < exact) return first + n;
    const double wide =
        exact + floor(log((double)n / exact) / log((double)b->max_distance / exact) * ((double)buckets - exact) + 1e-6);
    return first + (int64_t)fmin(wide, (double)(buckets - 1));
}

static void bias_reference(gc *c, void *user) {
    const bias_case *b = user;
    const int64_t cols = 2 * b->max_distance + 1;
    for (int64_t h = 0; h < b->heads; h++)
        for (int64_t t = 0; t < cols; t++) {
            const int64_t at = bucket_of(b, t - b->max_distance) * b->heads + h;
            c->out[0].want[h * cols + t] = b->frozen != NULL ? (double)b->frozen[at] : c->in[0].exact[at];
        }
}

static void check_bias(const gc_style *style, bias_case b, bool frozen) {
    gc c;
    gc_begin(&c, frozen ? "relative bias, frozen" : "relative bias", style, lengths, NULL);
    float *table = gc_alloc(&c, (size_t)(b.buckets * b.heads) * sizeof *table);
    for (int64_t i = 0; i < b.buckets * b.heads; i++) table[i] = gc_random(&c);
    peft__weight weight = {.matrix = peft__matrix_f32(table, b.buckets, b.heads)};
    if (frozen)
        b.frozen = table;
    else
        weight.value = gc_leaf_new(&c, b.buckets, b.heads, 1.0f);
    gc_output_new(&c, peft__op_relative_bias(c.graph, weight, b.max_distance, b.bidirectional));
    gc_end(&c, bias_reference, &b);
}

/* As transformers computes them, for the usual table and distance. */
static void check_buckets(void) {
    static const struct {
        int64_t distance, both, causal;
    } known[] = {{0, 0, 0},      {-1, 1, 1},     {1, 17, 0},      {-7, 7, 7},    {-8, 8, 8},    {-15, 9, 15},
                 {-16, 10, 16},  {-31, 11, 21},  {-32, 12, 21},   {-64, 14, 26}, {-63, 13, 26}, {-90, 14, 29},
                 {-127, 15, 31}, {-128, 15, 31}, {-5000, 15, 31}, {16, 26, 0},   {64, 30, 0},   {200, 31, 0}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        CHECK(peft__relative_bucket(known[i].distance, 32, 128, true) == known[i].both);
        CHECK(peft__relative_bucket(known[i].distance, 32, 128, false) == known[i].causal);
    }
}

/* ---- losses ---------------------------------------------------------------------------------------------------- */

typedef struct loss_case {
    int64_t classes;
    const int32_t *labels, *right;
    const int32_t *source;
} loss_case;

static double nll_of(const loss_case *l, const double *logits, int64_t row) {
    const double *z = logits + row * l->classes;
    double top = z[0], sum = 0.0;
    for (int64_t k = 0; k < l->classes; k++) top = fmax(top, z[k]);
    for (int64_t k = 0; k < l->classes; k++) sum += exp(z[k] - top);
    return top + log(sum) - z[l->labels[row]];
}

static void nll_reference(gc *c, void *user) {
    const loss_case *l = user;
    for (int64_t r = 0; r < c->batch.rows; r++)
        c->out[0].want[r] = l->labels[r] == -100 ? 0.0 : nll_of(l, c->in[0].exact, r);
}

static void check_nll(const gc_style *style) {
    gc c;
    gc_begin(&c, "loss of tokens", style, lengths, NULL);
    int32_t *labels = gc_alloc(&c, (size_t)c.batch.rows * sizeof *labels);
    for (int64_t r = 0; r < c.batch.rows; r++) labels[r] = r % 3 == 1 ? -100 : (int32_t)(r * 7 % 13);
    c.batch.labels = labels;
    loss_case l = {.classes = 13, .labels = labels};
    gc_output_new(&c, peft__op_token_nll(c.graph, gc_input_new(&c, GC_STREAM, l.classes, 3.0f)));
    gc_end(&c, nll_reference, &l);
}

static void choice_reference(gc *c, void *user) {
    const loss_case *l = user;
    const int32_t *offsets = c->decoder_offsets;
    double right_sum = 0.0, unlikely = 0.0, choice = 0.0, right_tokens = 0.0, wrong_tokens = 0.0, places = 0.0;
    double scores[8] = {0}, examples = 0.0, longest = 0.0;
    int32_t right_of[8];
    for (int64_t e = 0; e < c->batch.sequences; e++) {
        int32_t left = l->right[e];
        right_of[e] = -1;
        for (int32_t s = 0; left >= 0 && s < c->batch.decoder_sequences; s++)
            if (l->source[s] == e && left-- == 0) right_of[e] = s;
        examples += right_of[e] >= 0;
    }
    for (int64_t s = 0; s < c->batch.decoder_sequences; s++) longest = fmax(longest, offsets[s + 1] - offsets[s]);
    for (int32_t s = 0; s < c->batch.decoder_sequences; s++) {
        const int32_t right = right_of[l->source[s]];
        double sum = 0.0, tokens = 0.0;
        for (int64_t r = offsets[s]; r < offsets[s + 1]; r++) {
            if (l->labels[r] == -100) continue;
            const double nll = nll_of(l, c->in[0].exact, r);
            sum += nll;
            tokens += 1.0;
            if (right >= 0 && right != s) {
                unlikely -= log(1.0 - exp(-nll) + 0.01);
                places -= 1.0;
            }
        }
        scores[s] = -sum / tokens;
        if (right < 0) continue;
        places += longest;
        if (right == s)
            right_sum += sum, right_tokens += tokens;
        else
            wrong_tokens += tokens;
    }
    for (int64_t e = 0; e < c->batch.sequences; e++) {
        if (right_of[e] < 0) continue;
        double all = 0.0;
        for (int64_t s = 0; s < c->batch.decoder_sequences; s++)
            if (l->source[s] == e) all += exp(scores[s]);
        choice += log(all) - scores[right_of[e]];
    }
    unlikely -= places * log(1.01);
    c->out[0].want[0] = choice + examples * (right_sum / right_tokens + unlikely / wrong_tokens);
    c->out[0].want[1] = examples;
}

static void check_choice(const gc_style *style, const int32_t *right, const char *name) {
    static const int32_t source[] = {1, 0, 1, 0, 2, 1};
    gc c;
    gc_begin(&c, name, style, lengths, answer_lengths);
    int32_t *labels = gc_alloc(&c, (size_t)c.batch.decoder_rows * sizeof *labels);
    for (int64_t r = 0; r < c.batch.decoder_rows; r++) labels[r] = r % 5 == 2 ? -100 : (int32_t)(r * 5 % 9);
    c.batch.decoder_labels = labels;
    c.batch.decoder_source = source;
    c.batch.sequence_labels = right;
    loss_case l = {.classes = 9, .labels = labels, .right = right, .source = source};
    peft__value *logits = gc_input_new(&c, GC_DECODER, l.classes, 2.0f);
    peft__rows *rows = peft__rows_labelled(c.graph, c.decoder);
    gc_loss(&c, peft__op_choice_loss(c.graph,
                                     peft__op_token_nll(c.graph, peft__op_select_rows(c.graph, rows, logits, NULL))));
    gc_end(&c, choice_reference, &l);
}

/* ---- attention to a cache -------------------------------------------------------------------------------------- */

static void check_stored(const gc_style *style) {
    enum { HEADS = 2, DIM = 6, ROOM = 80, KEYS = 71 };
    static const int32_t source[] = {0, 1, 0, 1, 1, 0};
    int64_t used[2] = {KEYS, 3};
    gc c;
    gc_begin(&c, "cross attention to a cache", style, lengths, answer_lengths);
    c.batch.decoder_source = source;
    float *keys = gc_alloc(&c, 2 * ROOM * HEADS * DIM * sizeof *keys);
    float *values = gc_alloc(&c, 2 * ROOM * HEADS * DIM * sizeof *values);
    for (int64_t i = 0; i < 2 * ROOM * HEADS * DIM; i++) keys[i] = gc_random(&c), values[i] = gc_random(&c);
    const peft__kv_cache cache = {keys, values, ROOM, used};
    const peft__attention_config config = {
        .heads = HEADS, .kv_heads = HEADS, .head_dim = DIM, .scale = 1.0f, .cross = true, .cache = &cache};
    peft__value *q = gc_input_new(&c, GC_DECODER, HEADS * DIM, 1.0f);
    peft__value *out = peft__op_attention(c.graph, q, NULL, NULL, NULL, NULL, NULL, &config);
    peft__value_output(c.graph, out);
    const peft__run_options options = {.deadline_us = UINT64_MAX};
    peft__cursor cursor = {0};
    CHECK(peft__graph_plan(c.graph, false) == PEFT_OK && peft__graph_allocate(c.graph) == PEFT_OK);
    CHECK(peft__graph_bind(c.graph, &c.batch) == PEFT_OK);
    CHECK(peft__graph_run(c.graph, &cursor, peft__graph_plan_info(c.graph)->steps, &options) == PEFT_OK);
    double worst = 0.0;
    for (int64_t s = 0; s < c.batch.decoder_sequences; s++)
        for (int64_t r = c.decoder_offsets[s]; r < c.decoder_offsets[s + 1]; r++)
            for (int64_t h = 0; h < HEADS; h++) {
                double want[DIM] = {0}, sum = 0.0;
                for (int64_t j = 0; j < used[source[s]]; j++) {
                    const int64_t at = ((source[s] * ROOM + j) * HEADS + h) * DIM;
                    double score = 0.0;
                    for (int64_t d = 0; d < DIM; d++)
                        score += c.in[0].exact[(r * HEADS + h) * DIM + d] * (double)keys[at + d];
                    for (int64_t d = 0; d < DIM; d++) want[d] += exp(score) * (double)values[at + d];
                    sum += exp(score);
                }
                for (int64_t d = 0; d < DIM; d++)
                    worst = fmax(worst, fabs((double)out->data[r * out->ld + h * DIM + d] - want[d] / sum));
            }
    CHECK(worst < 2e-6);
    gc_discard(&c);
}

int main(void) {
    static const int32_t right[] = {1, 2, 0}, two_count[] = {0, 1, -100};
    gc_style style;
    check_buckets();
    for (uint32_t s = 0; gc_next_style(&s, &style);) {
        check_bias(&style, (bias_case){.buckets = 16, .heads = 3, .max_distance = 24, .bidirectional = true}, false);
        check_bias(&style, (bias_case){.buckets = 8, .heads = 5, .max_distance = 11}, false);
        check_bias(&style, (bias_case){.buckets = 8, .heads = 5, .max_distance = 11}, true);
        check_nll(&style);
        check_choice(&style, right, "answers");
        check_choice(&style, two_count, "answers, an example without");
        check_stored(&style);
    }
    return gc_summary();
}
