/* attention.c: softmax attention over ragged sequences; kernel/attention.h has the arithmetic of a tile.
 *
 * Forward    one tile per (block of 64 queries, head). With a cache, a first phase appends the batch's keys and values
 * to it, unless sequences branch off what it holds. Backward   one tile per (sequence of keys, head) and phase p = keys [512 p, 512 p + 512): it walks all queries
 * that see them and owns dq, dk and dv there, so that the sums over phases have one order and memory stays linear in
 * the length. Where heads share keys, or a prefix or bias is shared by all sequences, tiles write to slots of their own
 * and a last phase adds these up in order.
 *
 * Only one number per query and head is kept: log-sum-exp.
 */
#include "graph/op/tiles.h"

#include <inttypes.h>

enum { IN_Q, IN_K, IN_V, IN_PREFIX_K, IN_PREFIX_V, IN_BIAS, IN_COUNT, OUT_Y = 0, OUT_LSE, OUT_COUNT };

typedef struct attention {
    peft__attention_config config;
    peft__kv_cache cache; /* valid when config.cache is set */
    int64_t group;        /* heads that share a key head */
    int64_t span;         /* bias [heads, 2 span - 1] */
} attention;

static const attention *attr_of(const peft__node *node) {
    return node->attr;
}
static int64_t prefix_rows(const peft__node *node) {
    return node->in[IN_PREFIX_K] != NULL ? node->in[IN_PREFIX_K]->rows->count : 0;
}
static int64_t length_of(const peft__rows *rows, int64_t sequence) {
    return rows->offsets[sequence + 1] - rows->offsets[sequence];
}

/* Cross attention to keys and values that an earlier pass left in the cache. */
static bool is_stored(const peft__node *node) {
    return node->in[IN_K] == NULL;
}
static bool branches(const peft__node *node) {
    return attr_of(node)->config.cache != NULL && attr_of(node)->config.branches;
}
static bool appends(const peft__node *node) {
    return attr_of(node)->config.cache != NULL && !is_stored(node) && !branches(node);
}

/* Which sequence of keys a sequence of queries reads. */
static int64_t key_sequence(const peft__node *node, const peft_batch *batch, int64_t sequence) {
    int64_t from = sequence;
    if (attr_of(node)->config.cross && batch->decoder_source != NULL) from = batch->decoder_source[sequence];
    if (is_stored(node)) return from;
    return from >= 0 && from < node->in[IN_K]->rows->sequences ? from : -1; /* the session has checked it */
}

static void reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    (void)node;
    *in_mask = (1u << IN_COUNT) - 1u;
    *out_mask = 1u << OUT_Y | 1u << OUT_LSE;
}

/* ---- shared scratch of the backward pass: slots that the last phase adds up ------------------------------------ */

typedef struct slots {
    float *dk, *dv;   /* [key rows][heads * head_dim], when heads share keys */
    float *dpk, *dpv; /* [sequences][prefix rows][heads * head_dim] */
    float *dbias;     /* [sequences][heads][2 span - 1] */
    size_t bytes;
} slots;

/* The next `count` floats of the scratch; NULL while only the size is asked for. */
static float *take(float *base, size_t *at, size_t count) {
    float *place = base != NULL ? base + *at : NULL;
    *at += count;
    return place;
}

static slots slots_of(const peft__node *node, float *temp) {
    const attention *a = attr_of(node);
    const peft__rows *keys = node->in[IN_K]->rows;
    const size_t width = (size_t)(a->config.heads * a->config.head_dim), sequences = (size_t)keys->max_sequences;
    slots s = {0};
    size_t at = 0;
    if (a->group > 1) {
        const size_t own = (size_t)keys->max_rows * width;
        if (peft__wants_grad(node->in[IN_K])) s.dk = take(temp, &at, own);
        if (peft__wants_grad(node->in[IN_V])) s.dv = take(temp, &at, own);
    }
    if (node->in[IN_PREFIX_K] != NULL) {
        const size_t own = sequences * (size_t)node->in[IN_PREFIX_K]->rows->max_rows * width;
        if (peft__wants_grad(node->in[IN_PREFIX_K])) s.dpk = take(temp, &at, own);
        if (peft__wants_grad(node->in[IN_PREFIX_V])) s.dpv = take(temp, &at, own);
    }
    if (peft__wants_grad(node->in[IN_BIAS]))
        s.dbias = take(temp, &at, sequences * (size_t)(a->config.heads * (2 * a->span - 1)));
    s.bytes = at * sizeof(float);
    return s;
}

static size_t temp_bytes(const peft__node *node, peft__pass pass) {
    return pass == PEFT__BACKWARD ? slots_of(node, NULL).bytes : 0;
}

static size_t lane_bytes(const peft__node *node, peft__pass pass) {
    return peft__attention_scratch(attr_of(node)->config.head_dim, pass == PEFT__BACKWARD) * sizeof(float);
}

/* ---- tiles ------------------------------------------------------------------------------------------------------- */

static int64_t query_blocks(int64_t queries) {
    return peft__ceil_div(queries, PEFT__ATTENTION_QUERIES);
}

static int64_t chunk_count(const peft__node *node) {
    const peft__rows *keys = node->in[IN_K]->rows;
    int64_t longest = 1;
    for (int64_t s = 0; s < keys->sequences; s++) longest = peft__max_i64(longest, length_of(keys, s));
    return peft__ceil_div(longest, PEFT__ATTENTION_CHUNK);
}

/* Prefixes are taken in pieces as well, in phases before those of the own keys. */
static int64_t prefix_chunks(const peft__node *node) {
    return peft__ceil_div(prefix_rows(node), PEFT__ATTENTION_CHUNK);
}

static uint32_t phases(const peft__node *node, peft__pass pass) {
    if (pass == PEFT__FORWARD) return appends(node) ? 2 : 1;
    return (uint32_t)(prefix_chunks(node) + chunk_count(node) + 1);
}

/* The last phase: what is summed in it, by tiles over rows or heads. */
typedef struct sums {
    uint32_t keys, prefix, bias;
} sums;

static sums sums_of(const peft__node *node) {
    const attention *a = attr_of(node);
    const int64_t width = a->config.heads * a->config.head_dim;
    sums s = {0};
    if (a->group > 1 && (peft__wants_grad(node->in[IN_K]) || peft__wants_grad(node->in[IN_V])))
        s.keys = peft__row_tiles(node->in[IN_K]->rows->count, width);
    if (peft__wants_grad(node->in[IN_PREFIX_K]) || peft__wants_grad(node->in[IN_PREFIX_V]))
        s.prefix = (uint32_t)prefix_rows(node);
    if (peft__wants_grad(node->in[IN_BIAS])) s.bias = (uint32_t)a->config.heads;
    return s;
}

static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    const attention *a = attr_of(node);
    const peft__rows *queries = node->in[IN_Q]->rows;
    if (pass == PEFT__FORWARD) {
        if (appends(node) && phase == 0) return (uint32_t)node->in[IN_K]->rows->sequences;
        int64_t sum = 0;
        for (int64_t s = 0; s < queries->sequences; s++) sum += query_blocks(length_of(queries, s)) * a->config.heads;
        return (uint32_t)sum;
    }
    if (phase + 1 < phases(node, pass)) return (uint32_t)(node->in[IN_K]->rows->sequences * a->config.heads);
    const sums s = sums_of(node);
    return s.keys + s.prefix + s.bias;
}

/* ---- forward ------------------------------------------------------------------------------------------------ */

/* Rows of the cache that are filled once this batch has been appended. */
static int64_t cached_rows(const attention *a, const peft__rows *keys, int64_t sequence) {
    return peft__min_i64(a->cache.used[sequence] + length_of(keys, sequence), a->cache.max_rows);
}

static void append_tile(const peft__node *node, int64_t sequence) {
    const attention *a = attr_of(node);
    const peft__value *k = node->in[IN_K], *v = node->in[IN_V];
    const int64_t width = k->cols, used = a->cache.used[sequence], first = k->rows->offsets[sequence];
    const int64_t count = cached_rows(a, k->rows, sequence) - used;
    for (int64_t i = 0; i < count; i++) {
        const int64_t row = sequence * a->cache.max_rows + used + i;
        memcpy(a->cache.keys + row * width, peft__row(k, first + i), (size_t)width * sizeof(float));
        memcpy(a->cache.values + row * width, peft__row(v, first + i), (size_t)width * sizeof(float));
    }
}

/* What forward and backward tiles have in common. */
static peft__attention_tile start_tile(const peft__node *node, int64_t head, const peft__run *run) {
    const attention *a = attr_of(node);
    const peft__attention_config *c = &a->config;
    peft__attention_tile t = {.head_dim = c->head_dim,
                              .scale = c->scale,
                              .soft_cap = c->soft_cap,
                              .causal = c->causal,
                              .window = c->window,
                              .near = c->bidirectional_window,
                              .scratch = run->lane};
    t.ldq = node->in[IN_Q]->ld;
    t.ldo = node->out[OUT_Y]->ld;
    t.ldl = node->out[OUT_LSE]->ld;
    if (node->in[IN_BIAS] != NULL) {
        t.bias = peft__row(node->in[IN_BIAS], head);
        t.span = a->span;
    }
    return t;
}

/* Queries from row `row` on. */
static void set_queries(const peft__node *node, int64_t head, int64_t row, int64_t count, int64_t position,
                        peft__attention_tile *t) {
    const int64_t column = head * attr_of(node)->config.head_dim;
    t->queries = count;
    t->position = position;
    t->q = peft__row(node->in[IN_Q], row) + column;
    t->out = peft__row(node->out[OUT_Y], row) + column;
    t->lse = peft__row(node->out[OUT_LSE], row) + head;
}

static peft__attention_keys prefix_keys(const peft__node *node, int64_t head) {
    const attention *a = attr_of(node);
    const peft__value *k = node->in[IN_PREFIX_K], *v = node->in[IN_PREFIX_V];
    if (k == NULL) return (peft__attention_keys){0};
    const int64_t column = head / a->group * a->config.head_dim;
    return (peft__attention_keys){.k = k->data + column,
                                  .v = v->data + column,
                                  .ldk = k->ld,
                                  .ldv = v->ld,
                                  .count = k->rows->count,
                                  .position = -k->rows->count,
                                  .masked = true};
}

static peft__attention_keys own_keys(const peft__node *node, int64_t head, int64_t sequence) {
    const attention *a = attr_of(node);
    const peft__value *k = node->in[IN_K], *v = node->in[IN_V];
    const int64_t column = head / a->group * a->config.head_dim;
    peft__attention_keys keys = {.masked = true};
    if (a->config.cache != NULL && !branches(node)) {
        const int64_t width = a->config.kv_heads * a->config.head_dim, row = sequence * a->cache.max_rows;
        keys.k = a->cache.keys + row * width + column;
        keys.v = a->cache.values + row * width + column;
        keys.ldk = keys.ldv = width;
        keys.count = is_stored(node) ? a->cache.used[sequence] : cached_rows(a, k->rows, sequence);
    } else if (sequence >= 0) {
        const int64_t row = k->rows->offsets[sequence];
        keys.k = peft__row(k, row) + column;
        keys.v = peft__row(v, row) + column;
        keys.ldk = k->ld;
        keys.ldv = v->ld;
        keys.count = length_of(k->rows, sequence);
    }
    return keys;
}

/* What all sequences branch off. */
static peft__attention_keys shared_keys(const peft__node *node, int64_t head) {
    const attention *a = attr_of(node);
    if (!branches(node)) return (peft__attention_keys){0};
    const int64_t column = head / a->group * a->config.head_dim, width = a->config.kv_heads * a->config.head_dim;
    return (peft__attention_keys){.k = a->cache.keys + column,
                                  .v = a->cache.values + column,
                                  .ldk = width,
                                  .ldv = width,
                                  .count = a->cache.used[0],
                                  .masked = true};
}

/* ---- gaps ---------------------------------------------------------------------------------------------------- */

/* Where padding was taken out between a prompt and its text, as the row positions tell: rows from `row` on stand `width`
 * further from those before. Row 0: from the prefix. Only windows and biases ask how far apart rows are. */
typedef struct gap {
    int64_t row, width;
} gap;

static gap gap_of(const peft__node *node, int64_t sequence) {
    const attention *a = attr_of(node);
    const peft__rows *rows = node->in[IN_Q]->rows;
    const int32_t *positions = rows->positions + rows->offsets[sequence];
    const int64_t count = length_of(rows, sequence);
    gap found = {0, 0};
    if (a->config.cross || a->config.cache != NULL || count == 0) return found;
    if (a->config.window == 0 && a->config.bidirectional_window == 0 && node->in[IN_BIAS] == NULL) return found;
    const int64_t before = positions[0] - rows->first_position - prefix_rows(node);
    if (prefix_rows(node) > 0 && before > 0) found.width = before;
    for (int64_t r = 1; r < count; r++) {
        const int64_t width = (int64_t)positions[r] - positions[r - 1] - 1;
        if (width == 0) continue;
        if (width < 0 || found.width > 0) return (gap){0, 0}; /* positions that are not places in a padded row */
        found = (gap){r, width};
    }
    return found;
}

/* A run of a sequence's keys, the first of which is row `first`, as the rows before the gap and those behind it. */
static void cut_keys(const peft__attention_keys *keys, int64_t first, const gap *g, peft__attention_keys *out_before,
                     peft__attention_keys *out_behind) {
    const int64_t rows = peft__min_i64(keys->count, peft__max_i64(g->row - first, 0));
    *out_before = *out_behind = *keys;
    out_before->count = rows;
    out_behind->count -= rows;
    out_behind->position += rows + g->width;
    out_behind->k += rows * keys->ldk;
    out_behind->v += rows * keys->ldv;
    if (keys->dk != NULL) out_behind->dk += rows * keys->lddk;
    if (keys->dv != NULL) out_behind->dv += rows * keys->lddv;
}

static void forward_tile(const peft__node *node, uint32_t tile, const peft__run *run) {
    const attention *a = attr_of(node);
    const peft__rows *queries = node->in[IN_Q]->rows;
    int64_t index = tile, sequence = 0, blocks = 0;
    for (;; sequence++) {
        blocks = query_blocks(length_of(queries, sequence));
        if (index < blocks * a->config.heads) break;
        index -= blocks * a->config.heads;
    }
    /* Late queries see most keys: they go first, so that the last tiles to be handed out are short. */
    const int64_t head = index % a->config.heads, block = blocks - 1 - index / a->config.heads;
    const int64_t first = block * PEFT__ATTENTION_QUERIES;
    const int64_t count = peft__min_i64(PEFT__ATTENTION_QUERIES, length_of(queries, sequence) - first);
    const int64_t before = branches(node) ? a->cache.used[0] : appends(node) ? a->cache.used[sequence] : 0;

    peft__attention_tile t = start_tile(node, head, run);
    t.keys[0] = prefix_keys(node, head);
    t.keys[1] = shared_keys(node, head);
    t.keys[2] = own_keys(node, head, key_sequence(node, run->batch, sequence));
    t.keys[2].position = branches(node) ? before : 0;
    const gap g = gap_of(node, sequence);
    const peft__attention_keys own = t.keys[2];
    if (g.width > 0) cut_keys(&own, 0, &g, &t.keys[1], &t.keys[2]);
    const int64_t cut = g.width > 0 ? peft__min_i64(first + count, peft__max_i64(first, g.row)) : first;
    const int64_t ends[3] = {first, cut, first + count};
    for (int part = 0; part < 2; part++) {
        if (ends[part] == ends[part + 1]) continue;
        set_queries(node, head, queries->offsets[sequence] + ends[part], ends[part + 1] - ends[part],
                    before + ends[part] + (part == 1 ? g.width : 0), &t);
        peft__kernels_for(run->cpu)->attention_forward(&t);
    }
}

/* ---- backward ----------------------------------------------------------------------------------------------- */

/* The piece of the prefix of this phase, with the slots its gradient goes to. */
static peft__attention_keys prefix_piece(const peft__node *node, int64_t head, int64_t sequence, int64_t chunk,
                                         const slots *s) {
    const attention *a = attr_of(node);
    peft__attention_keys keys = prefix_keys(node, head);
    const int64_t width = a->config.heads * a->config.head_dim, first = chunk * PEFT__ATTENTION_CHUNK;
    const size_t at = (size_t)((sequence * keys.count + first) * width + head * a->config.head_dim);
    if (s->dpk != NULL) keys.dk = s->dpk + at;
    if (s->dpv != NULL) keys.dv = s->dpv + at;
    keys.lddk = keys.lddv = width;
    keys.k += first * keys.ldk;
    keys.v += first * keys.ldv;
    keys.position += first;
    keys.count = peft__min_i64(PEFT__ATTENTION_CHUNK, keys.count - first);
    return keys;
}

static void own_gradient(const peft__value *value, float *slot, int64_t row, int64_t head, const attention *a,
                         float **out, int64_t *out_ld) {
    if (!value->needs_grad) return;
    *out = slot != NULL ? slot + (row * a->config.heads + head) * a->config.head_dim
                        : peft__grad_row(value, row) + head * a->config.head_dim;
    *out_ld = slot != NULL ? a->config.heads * a->config.head_dim : value->ld;
}

static peft__attention_keys own_piece(const peft__node *node, int64_t head, int64_t sequence, int64_t chunk,
                                      const slots *s) {
    const attention *a = attr_of(node);
    peft__attention_keys keys = own_keys(node, head, sequence);
    const int64_t first = chunk * PEFT__ATTENTION_CHUNK, row = node->in[IN_K]->rows->offsets[sequence] + first;
    if (first >= keys.count) return (peft__attention_keys){0};
    keys.k += first * keys.ldk;
    keys.v += first * keys.ldv;
    keys.position += first;
    keys.count = peft__min_i64(PEFT__ATTENTION_CHUNK, keys.count - first);
    own_gradient(node->in[IN_K], s->dk, row, head, a, &keys.dk, &keys.lddk);
    own_gradient(node->in[IN_V], s->dv, row, head, a, &keys.dv, &keys.lddv);
    return keys;
}

static void clear_rows(float *x, int64_t rows, int64_t ld, int64_t cols) {
    for (int64_t r = 0; x != NULL && r < rows; r++) memset(x + r * ld, 0, (size_t)cols * sizeof(float));
}

static void backward_tile(const peft__node *node, uint32_t phase, uint32_t tile, const peft__run *run) {
    const attention *a = attr_of(node);
    const int64_t dim = a->config.head_dim, sequence = tile / a->config.heads, head = tile % a->config.heads,
                  before = prefix_chunks(node);
    const peft__rows *queries = node->in[IN_Q]->rows;
    const slots s = slots_of(node, run->temp);
    const peft__attention_keys keys = phase < before ? prefix_piece(node, head, sequence, phase, &s)
                                                     : own_piece(node, head, sequence, phase - before, &s);
    /* A learned prefix on frozen queries and keys: the own keys have nothing to pass on. */
    if (keys.dk == NULL && keys.dv == NULL && s.dbias == NULL && !node->in[IN_Q]->needs_grad) return;
    /* The kernel adds to dk and dv: what this tile alone writes starts at zero. */
    const bool own = phase >= before && a->group == 1;
    if (!own || !peft__accumulates(node, IN_K)) clear_rows(keys.dk, keys.count, keys.lddk, dim);
    if (!own || !peft__accumulates(node, IN_V)) clear_rows(keys.dv, keys.count, keys.lddv, dim);

    peft__attention_tile t = start_tile(node, head, run);
    const gap g = a->config.cross ? (gap){0, 0} : gap_of(node, sequence);
    t.keys[0] = keys;
    if (g.width > 0 && phase >= before)
        cut_keys(&keys, (phase - before) * PEFT__ATTENTION_CHUNK, &g, &t.keys[0], &t.keys[1]);
    t.lddo = node->out[OUT_Y]->ld;
    t.lddq = node->in[IN_Q]->ld;
    t.accumulate_dq = phase > 0 || peft__accumulates(node, IN_Q);
    if (s.dbias != NULL) {
        const int64_t width = 2 * a->span - 1;
        t.dbias = s.dbias + (sequence * a->config.heads + head) * width;
        if (phase == 0) memset(t.dbias, 0, (size_t)width * sizeof(float));
    }
    if (keys.count == 0 && t.accumulate_dq) return;
    for (int64_t q = 0; q < queries->sequences; q++) {
        if (!a->config.cross) q = sequence;
        if (key_sequence(node, run->batch, q) == sequence) {
            const int64_t ends[3] = {0, g.width > 0 ? g.row : 0, length_of(queries, q)};
            for (int part = 0; part < 2; part++) {
                const int64_t row = queries->offsets[q] + ends[part];
                if (ends[part] == ends[part + 1]) continue;
                set_queries(node, head, row, ends[part + 1] - ends[part], ends[part] + (part == 1 ? g.width : 0), &t);
                t.dout = peft__grad_row(node->out[OUT_Y], row) + head * dim;
                t.dq = node->in[IN_Q]->needs_grad ? peft__grad_row(node->in[IN_Q], row) + head * dim : NULL;
                peft__kernels_for(run->cpu)->attention_backward(&t);
            }
        }
        if (!a->config.cross) break;
    }
}

/* to[r] = sum over `parts` of slot rows, `step` floats apart. */
static void add_parts(const peft__kernels *kernels, int64_t parts, int64_t cols, const float *slot, int64_t step,
                      float *to, bool accumulate) {
    for (int64_t p = 0; p < parts; p++) kernels->scale(cols, 1.0f, slot + p * step, to, accumulate || p > 0);
}

static void sum_keys(const peft__node *node, const peft__kernels *kernels, uint32_t input, const float *slot,
                     int64_t row) {
    const attention *a = attr_of(node);
    const int64_t dim = a->config.head_dim;
    if (slot == NULL) return;
    for (int64_t g = 0; g < a->config.kv_heads; g++)
        add_parts(kernels, a->group, dim, slot + (row * a->config.heads + g * a->group) * dim, dim,
                  peft__grad_row(node->in[input], row) + g * dim, peft__accumulates(node, input));
}

static void sum_prefix(const peft__node *node, const peft__kernels *kernels, uint32_t input, const float *slot,
                       int64_t row) {
    const attention *a = attr_of(node);
    const int64_t dim = a->config.head_dim, width = a->config.heads * dim, rows = prefix_rows(node);
    if (slot == NULL) return;
    for (int64_t h = 0; h < a->config.heads; h++)
        add_parts(kernels, node->in[IN_K]->rows->sequences, dim, slot + row * width + h * dim, rows * width,
                  peft__grad_row(node->in[input], row) + h / a->group * dim,
                  peft__accumulates(node, input) || h % a->group > 0);
}

static void sum_tile(const peft__node *node, uint32_t tile, const peft__run *run) {
    const attention *a = attr_of(node);
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const slots s = slots_of(node, run->temp);
    const sums count = sums_of(node);
    if (tile < count.keys) {
        const peft__range rows =
            peft__tile_rows(tile, node->in[IN_K]->rows->count, a->config.heads * a->config.head_dim);
        for (int64_t r = rows.first; r < rows.end; r++) {
            sum_keys(node, kernels, IN_K, s.dk, r);
            sum_keys(node, kernels, IN_V, s.dv, r);
        }
        return;
    }
    tile -= count.keys;
    if (tile < count.prefix) {
        sum_prefix(node, kernels, IN_PREFIX_K, s.dpk, tile);
        sum_prefix(node, kernels, IN_PREFIX_V, s.dpv, tile);
        return;
    }
    const int64_t head = tile - count.prefix, width = 2 * a->span - 1;
    add_parts(kernels, node->in[IN_K]->rows->sequences, width, s.dbias + head * width, a->config.heads * width,
              peft__grad_row(node->in[IN_BIAS], head), peft__accumulates(node, IN_BIAS));
}

static void tile_run(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    if (pass == PEFT__BACKWARD) {
        if (phase + 1 == phases(node, pass))
            sum_tile(node, tile, run);
        else
            backward_tile(node, phase, tile, run);
    } else if (appends(node) && phase == 0) {
        append_tile(node, tile);
    } else {
        forward_tile(node, tile, run);
    }
}

/* ---- counting --------------------------------------------------------------------------------------------------- */

/* Keys that the query at `position` sees: `own` keys of its sequence of keys, and the prefix before them. */
static double visible(const peft__node *node, int64_t position, int64_t own) {
    const peft__attention_config *c = &attr_of(node)->config;
    const int64_t prefix = prefix_rows(node);
    int64_t keys = own;
    if (c->causal) keys = peft__min_i64(own, position + 1);
    if (c->window > 0) keys = peft__min_i64(keys, c->window);
    if (c->bidirectional_window > 0)
        keys = peft__min_i64(position, c->bidirectional_window) + 1 +
               peft__min_i64(peft__max_i64(0, own - 1 - position), c->bidirectional_window);
    const int64_t before =
        c->window > 0 ? peft__min_i64(prefix, peft__max_i64(0, c->window - position - 1)) : prefix;
    return (double)(keys + before);
}

/* Of pairs that see each other: q k and p v; then q k again, g v, and dq, dk, dv as far as they are wanted. */
static double products(const peft__node *node, peft__pass pass, const peft_batch *batch) {
    const attention *a = attr_of(node);
    const peft__rows *queries = node->in[IN_Q]->rows;
    double pairs = 0.0;
    for (int64_t s = 0; s < queries->sequences; s++) {
        const int64_t from = key_sequence(node, batch, s), count = length_of(queries, s);
        if (from < 0) continue;
        int64_t first = 0, own = is_stored(node) ? a->cache.used[from] : length_of(node->in[IN_K]->rows, from);
        if (appends(node)) first = a->cache.used[from];
        if (branches(node)) first = a->cache.used[0];
        own += first;
        for (int64_t i = 0; i < count; i++) pairs += visible(node, first + i, own);
    }
    double each = 2.0;
    if (pass == PEFT__BACKWARD)
        each = 2.0 + (peft__wants_grad(node->in[IN_Q]) ? 1.0 : 0.0) +
               (peft__wants_grad(node->in[IN_K]) || peft__wants_grad(node->in[IN_PREFIX_K]) ? 1.0 : 0.0) +
               (peft__wants_grad(node->in[IN_V]) || peft__wants_grad(node->in[IN_PREFIX_V]) ? 1.0 : 0.0);
    return each * pairs * (double)(a->config.heads * a->config.head_dim);
}

static const peft__op attention_op = {.name = "attention",
                                      .in_place = -1,
                                      .reads = reads,
                                      .phases = phases,
                                      .tiles = tiles,
                                      .tile = tile_run,
                                      .temp_bytes = temp_bytes,
                                      .lane_bytes = lane_bytes,
                                      .products = products};

/* ---- building ----------------------------------------------------------------------------------------------- */

static bool check(peft__graph *g, const peft__attention_config *c, const peft__value *q, const peft__value *k,
                  const peft__value *v, const peft__value *prefix_k, const peft__value *prefix_v,
                  const peft__value *bias) {
    peft_context *ctx = peft__graph_context(g);
    if (c->heads <= 0 || c->kv_heads <= 0 || c->head_dim <= 0 || c->heads % c->kv_heads != 0) {
        peft__graph_fail(g,
                         peft__fail(ctx, PEFT_E_ARG,
                                    "attention: %" PRId64 " heads cannot share %" PRId64 " key heads of size %" PRId64,
                                    c->heads, c->kv_heads, c->head_dim));
        return false;
    }
    const int64_t width = c->heads * c->head_dim, kv_width = c->kv_heads * c->head_dim;
    if (!peft__value_check(g, "attention", "query", q, NULL, width)) return false;
    if (k != NULL && (!peft__value_check(g, "attention", "key", k, c->cross ? NULL : q->rows, kv_width) ||
                      !peft__value_check(g, "attention", "value", v, k->rows, kv_width)))
        return false;
    if ((prefix_k == NULL) != (prefix_v == NULL)) {
        peft__graph_fail(g, peft__fail(ctx, PEFT_E_ARG, "attention: a prefix needs keys and values"));
        return false;
    }
    if (prefix_k != NULL && (!peft__value_check(g, "attention", "prefix key", prefix_k, NULL, kv_width) ||
                             !peft__value_check(g, "attention", "prefix value", prefix_v, prefix_k->rows, kv_width)))
        return false;
    if (bias != NULL && (bias->rows->max_rows != c->heads || bias->cols % 2 != 1)) {
        peft__graph_fail(g, peft__fail(ctx, PEFT_E_ARG,
                                       "attention: bias is [%" PRId64 ", %" PRId64 "], expected [%" PRId64 ", odd]",
                                       bias->rows->max_rows, bias->cols, c->heads));
        return false;
    }
    if (c->cross && (c->causal || c->window > 0 || c->bidirectional_window > 0 || (c->cache != NULL) != (k == NULL))) {
        peft__graph_fail(g, peft__fail(ctx, PEFT_E_ARG,
                                       "attention: cross attention has no causal mask or window, and keys of its own "
                                       "or in a cache"));
        return false;
    }
    return true;
}

peft__value *peft__op_attention(peft__graph *g, peft__value *q, peft__value *k, peft__value *v, peft__value *prefix_k,
                                peft__value *prefix_v, peft__value *bias, const peft__attention_config *config) {
    if (q == NULL || peft__graph_failed(g)) return NULL;
    if ((k == NULL || v == NULL) && !(config->cross && config->cache != NULL && k == v)) return NULL;
    if (!check(g, config, q, k, v, prefix_k, prefix_v, bias)) return NULL;
    attention attr = {
        .config = *config, .group = config->heads / config->kv_heads, .span = bias != NULL ? (bias->cols + 1) / 2 : 0};
    if (config->cache != NULL) attr.cache = *config->cache;
    peft__value *out[OUT_COUNT] = {peft__value_new(g, q->rows, q->cols, "attention"),
                                   peft__value_new(g, q->rows, config->heads, "log-sum-exp")};
    if (out[OUT_Y] == NULL || out[OUT_LSE] == NULL) return NULL;
    out[OUT_LSE]->flags |= PEFT__VALUE_STAT;
    peft__value *in[IN_COUNT] = {q, k, v, prefix_k, prefix_v, bias};
    return peft__node_add(g, &attention_op, in, IN_COUNT, out, OUT_COUNT, &attr, sizeof attr) != NULL ? out[OUT_Y]
                                                                                                      : NULL;
}
