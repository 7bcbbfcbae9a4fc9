/* relative_bias.c: the relative position biases of T5: from a table [buckets, heads] to what attention adds to a score,
 * [heads, 2 span - 1], one column for each distance key - query from -(span - 1) to span - 1.
 *
 * Distances share buckets: each small one has its own, larger ones fall into ever wider ones, and from max_distance on
 * all are in the last. Attention takes the ends of its bias for distances beyond it, so span = max_distance + 1 serves
 * sequences of any length, and one small value serves all layers of a stack.
 */
#include "graph/op/tiles.h"

#include <math.h>

enum { IN_TABLE = 0 };

typedef struct relative_bias {
    peft__weight table;
    int64_t heads, span;
    int32_t *buckets; /* [2 span - 1] */
} relative_bias;

/* Computed in float, as the reference does: at some distances the quotient of logarithms is a whole number. */
int64_t peft__relative_bucket(int64_t distance, int64_t buckets, int64_t max_distance, bool bidirectional) {
    int64_t first = 0, n = distance < 0 ? -distance : 0;
    if (bidirectional) {
        buckets /= 2;
        first = distance > 0 ? buckets : 0;
        n = distance < 0 ? -distance : distance;
    }
    const int64_t exact = buckets / 2;
    if (n < exact) return first + n;
    const float ratio = logf((float)n / (float)exact) / (float)log((double)max_distance / (double)exact);
    const int64_t wide = exact + (int64_t)(ratio * (float)(buckets - exact));
    return first + peft__min_i64(wide, buckets - 1);
}

static void forward(const peft__node *node, const peft__run *run) {
    const relative_bias *a = node->attr;
    const peft__matrix table = peft__weight_matrix(&a->table);
    float *row = run->lane;
    for (int64_t t = 0; t < 2 * a->span - 1; t++) {
        if (t == 0 || a->buckets[t] != a->buckets[t - 1])
            peft__widen(run->cpu, table.dtype, peft__matrix_row(&table, a->buckets[t]), 0, a->heads, row);
        for (int64_t h = 0; h < a->heads; h++) peft__row(node->out[0], h)[t] = row[h];
    }
}

static void backward(const peft__node *node) {
    const relative_bias *a = node->attr;
    const peft__value *table = node->in[IN_TABLE];
    if (!peft__accumulates(node, IN_TABLE))
        for (int64_t r = 0; r < table->rows->count; r++)
            memset(peft__grad_row(table, r), 0, (size_t)a->heads * sizeof(float));
    for (int64_t h = 0; h < a->heads; h++) {
        const float *from = peft__grad_row(node->out[0], h);
        for (int64_t t = 0; t < 2 * a->span - 1; t++) peft__grad_row(table, a->buckets[t])[h] += from[t];
    }
}

static void tile_run(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    (void)tile;
    if (pass == PEFT__FORWARD)
        forward(node, run);
    else
        backward(node);
}

static size_t lane_bytes(const peft__node *node, peft__pass pass) {
    return pass == PEFT__FORWARD ? (size_t)((const relative_bias *)node->attr)->heads * sizeof(float) : 0;
}

static const peft__op relative_bias_op = {
    .name = "relative bias", .in_place = -1, .tiles = peft__one_tile, .tile = tile_run, .lane_bytes = lane_bytes};

peft__value *peft__op_relative_bias(peft__graph *g, peft__weight table, int64_t max_distance, bool bidirectional) {
    if (peft__graph_failed(g)) return NULL;
    const int64_t buckets = table.matrix.rows, heads = table.matrix.cols, exact = buckets / (bidirectional ? 4 : 2);
    if (exact < 1 || max_distance <= exact || max_distance > INT32_MAX / 4)
        return peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_ARG,
                                              "relative bias: %lld buckets do not reach to a distance of %lld",
                                              (long long)buckets, (long long)max_distance));
    if (!peft__weight_check(g, "relative bias", &table, buckets, heads)) return NULL;
    relative_bias attr = {.table = table, .heads = heads, .span = max_distance + 1};
    const size_t bytes = (size_t)(2 * attr.span - 1) * sizeof *attr.buckets;
    attr.buckets = peft__arena_alloc(peft__graph_arena(g), bytes);
    if (attr.buckets == NULL)
        return peft__graph_fail(g, peft__fail_nomem(peft__graph_context(g), bytes, "relative positions"));
    for (int64_t t = 0; t < 2 * attr.span - 1; t++)
        attr.buckets[t] = (int32_t)peft__relative_bucket(t - attr.span + 1, buckets, max_distance, bidirectional);
    peft__value *in[1] = {table.value};
    peft__value *out = peft__value_new(g, peft__rows_fixed(g, heads), 2 * attr.span - 1, "relative bias");
    if (out == NULL) return NULL;
    return peft__node_add(g, &relative_bias_op, in, 1, &out, 1, &attr, sizeof attr) != NULL ? out : NULL;
}
