/* rope.c: rotary position embedding.
 *
 * The angles of a batch are computed once for all layers; turning back is turning by the negative angle, so the
 * backward pass reads nothing but them and the forward pass may work in place. Frequencies that depend on the longest
 * position (dynamic NTK, longrope) are settled per batch, as the reference models do it.
 */
#include "graph/op/tiles.h"

#include <inttypes.h>
#include <math.h>

typedef struct angles {
    peft__rope_config config;
} angles;

typedef struct rope {
    int64_t heads, head_dim, half;
} rope;

/* ---- angles --------------------------------------------------------------------------------------------------- */

static uint32_t angle_tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)phase;
    return pass == PEFT__FORWARD ? peft__row_tiles(node->out[0]->rows->count, node->out[0]->cols) : 0;
}

static size_t angle_lane(const peft__node *node, peft__pass pass) {
    const angles *a = node->attr;
    return pass == PEFT__FORWARD ? (size_t)a->config.half * sizeof(float) : 0;
}

/* The frequencies for a batch whose longest sequence ends at position `last`; `own` has room for [half]. */
static const float *frequencies(const peft__rope_config *c, int64_t last, float *own) {
    if (c->long_inv_freq != NULL && last >= c->original_max) return c->long_inv_freq;
    const double length = (double)last + 1.0, longest = (double)c->max_positions, dim = 2.0 * (double)c->half;
    if (c->dynamic_factor == 0.0f || length <= longest || c->half < 2) return c->inv_freq;
    const double factor = (double)c->dynamic_factor;
    const double theta = (double)c->theta * pow(factor * length / longest - (factor - 1.0), dim / (dim - 2.0));
    for (int64_t i = 0; i < c->half; i++) own[i] = (float)(1.0 / pow(theta, 2.0 * (double)i / dim));
    return own;
}

static void angle_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)pass;
    (void)phase;
    const peft__rope_config *c = &((const angles *)node->attr)->config;
    const peft__value *out = node->out[0];
    const int32_t *positions = out->rows->positions;
    int64_t last = 0;
    for (int64_t r = 0; r < out->rows->count; r++) last = peft__max_i64(last, positions[r]);
    const float *inv_freq = frequencies(c, last, run->lane);
    const peft__range rows = peft__tile_rows(tile, out->rows->count, out->cols);
    for (int64_t r = rows.first; r < rows.end; r++) {
        float *to = peft__row(out, r);
        for (int64_t i = 0; i < c->half; i++) {
            /* The product in float, as the models were trained; its sine exactly. */
            const float angle = (float)positions[r] * inv_freq[i];
            to[i] = (float)cos((double)angle) * c->attention_factor;
            to[c->half + i] = (float)sin((double)angle) * c->attention_factor;
        }
    }
}

static const peft__op angles_op = {
    .name = "rope_angles", .in_place = -1, .tiles = angle_tiles, .tile = angle_tile, .lane_bytes = angle_lane};

peft__value *peft__op_rope_angles(peft__graph *g, peft__rows *rows, const peft__rope_config *config) {
    if (rows == NULL || peft__graph_failed(g)) return NULL;
    if (config->half <= 0 || config->inv_freq == NULL)
        return peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_ARG, "rope_angles: no frequencies"));
    const angles attr = {*config};
    peft__value *out = peft__value_new(g, rows, 2 * config->half, "rope angles");
    if (out == NULL) return NULL;
    out->flags |= PEFT__VALUE_STAT;
    return peft__node_add(g, &angles_op, NULL, 0, &out, 1, &attr, sizeof attr) != NULL ? out : NULL;
}

/* ---- rotation ----------------------------------------------------------------------------------------------- */

static void rope_reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    (void)node;
    *in_mask = 2u; /* angles */
    *out_mask = 0;
}

static uint32_t rope_tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    (void)pass;
    (void)phase;
    return peft__row_tiles(node->out[0]->rows->count, node->out[0]->cols);
}

static void rope_tile(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    (void)phase;
    const rope *a = node->attr;
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    const peft__value *x = node->in[0], *angle = node->in[1], *out = node->out[0];
    const peft__range rows = peft__tile_rows(tile, out->rows->count, out->cols);
    for (int64_t r = rows.first; r < rows.end; r++) {
        if (pass == PEFT__FORWARD)
            kernels->rope(a->heads, a->head_dim, a->half, peft__row(angle, r), 1.0f, peft__row(x, r), peft__row(out, r),
                          false);
        else
            kernels->rope(a->heads, a->head_dim, a->half, peft__row(angle, r), -1.0f, peft__grad_row(out, r),
                          peft__grad_row(x, r), peft__accumulates(node, 0));
    }
}

static const peft__op rope_op = {
    .name = "rope", .in_place = 0, .reads = rope_reads, .tiles = rope_tiles, .tile = rope_tile};

peft__value *peft__op_rope(peft__graph *g, peft__value *x, peft__value *angle, int64_t heads, int64_t head_dim) {
    if (x == NULL || angle == NULL || peft__graph_failed(g)) return NULL;
    const rope attr = {heads, head_dim, angle->cols / 2};
    if (!peft__value_check(g, "rope", "input", x, NULL, heads * head_dim) ||
        !peft__value_check(g, "rope", "angles", angle, x->rows, -1))
        return NULL;
    if (2 * attr.half > head_dim)
        return peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_ARG,
                                              "rope: %" PRId64 " rotated dimensions in a head of %" PRId64,
                                              2 * attr.half, head_dim));
    return peft__add_row_node(g, &rope_op, (peft__value *[]){x, angle}, 2, x, &attr, sizeof attr);
}
