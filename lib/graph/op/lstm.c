/* lstm.c: the recurrence of an LSTM layer, in one direction or in both at once.
 *
 * What the input gives, pre = x W_ih^T + b_ih + b_hh [T, 4 H], is computed by linear layers before; here is what cannot
 * be a matrix product over all rows: for each time step (i, f, g, o) = act(pre_t + W_hh h_{t-1}),  c_t = f c_{t-1} + i
 * g,  h_t = o tanh(c_t) with gates in torch's order and act = sigmoid, for g tanh. The rows are one sequence of a fixed
 * space; the second direction walks them from the last to the first and writes the columns [H, 2 H) of y.
 *
 * Forward    one phase a time step; its tiles are blocks of 64 units, each with all four gates of its units.
 * Backward   one phase a time step, backwards, which leaves the gradients of the gates in the scratch; then one phase
 * that adds them to pre's gradient and sums W_hh's, by rows, over all steps in order.
 */
#include "graph/op/tiles.h"

enum {
    DIRECTIONS = 2,
    IN_PRE = 0,
    IN_WEIGHT = 1,
    IN_EACH = 2 /* per direction */,
    OUT_Y = 0,
    OUT_GATES,
    OUT_CELLS,
    OUT_COUNT,
    UNITS = 64,
    GATES = 4
};

typedef struct lstm {
    int64_t hidden, directions;
} lstm;

static const lstm *attr_of(const peft__node *node) {
    return node->attr;
}
static int64_t steps_of(const peft__node *node) {
    return node->out[OUT_Y]->rows->count;
}
static int64_t blocks_of(const peft__node *node) {
    return peft__ceil_div(attr_of(node)->hidden, UNITS);
}

static peft__value *input(const peft__node *node, int64_t direction, int part) {
    return node->in[direction * IN_EACH + part];
}

/* Row that a direction reads at a step. */
static int64_t row_at(const peft__node *node, int64_t direction, int64_t step) {
    return direction == 0 ? step : steps_of(node) - 1 - step;
}

static void reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    *in_mask = attr_of(node)->directions == 2 ? 1u << IN_WEIGHT | 1u << (IN_EACH + IN_WEIGHT) : 1u << IN_WEIGHT;
    *out_mask = 1u << OUT_Y | 1u << OUT_GATES | 1u << OUT_CELLS;
}

/* ---- scratch of the backward pass ---------------------------------------------------------------------------- */

typedef struct scratch {
    float *gates; /* [T][directions][4 H]: gradients before the activations */
    float *cells; /* [directions][H]: what the later step hands back through its cell */
} scratch;

static scratch scratch_of(const peft__node *node, float *temp) {
    const lstm *a = attr_of(node);
    return (scratch){temp, temp + steps_of(node) * a->directions * GATES * a->hidden};
}

static size_t temp_bytes(const peft__node *node, peft__pass pass) {
    const lstm *a = attr_of(node);
    if (pass == PEFT__FORWARD) return 0;
    return (size_t)((node->out[OUT_Y]->rows->max_rows * GATES + 1) * a->directions * a->hidden) * sizeof(float);
}

static float *gate_grads(const peft__node *node, const scratch *s, int64_t row, int64_t direction) {
    const lstm *a = attr_of(node);
    return s->gates + (row * a->directions + direction) * GATES * a->hidden;
}

/* ---- tiles ------------------------------------------------------------------------------------------------------- */

static uint32_t phases(const peft__node *node, peft__pass pass) {
    return (uint32_t)(steps_of(node) + (pass == PEFT__BACKWARD ? 1 : 0));
}

static int64_t weight_blocks(const peft__node *node) {
    return peft__ceil_div(GATES * attr_of(node)->hidden, UNITS);
}

static uint32_t tiles(const peft__node *node, peft__pass pass, uint32_t phase) {
    const lstm *a = attr_of(node);
    const bool last = pass == PEFT__BACKWARD && (int64_t)phase == steps_of(node);
    return (uint32_t)(a->directions * (last ? steps_of(node) + weight_blocks(node) : blocks_of(node)));
}

typedef struct place {
    int64_t direction, first, count; /* units of a direction */
    int64_t row, before, after;      /* rows of this step, the one before and the one after in time; -1 = none */
} place;

static place place_of(const peft__node *node, int64_t step, uint32_t tile) {
    const int64_t direction = tile / blocks_of(node), first = tile % blocks_of(node) * UNITS;
    place p = {direction, first, peft__min_i64(UNITS, attr_of(node)->hidden - first), row_at(node, direction, step),
               -1,        -1};
    if (step > 0) p.before = row_at(node, direction, step - 1);
    if (step + 1 < steps_of(node)) p.after = row_at(node, direction, step + 1);
    return p;
}

static void forward_tile(const peft__node *node, const place *p, const peft__kernels *kernels) {
    const int64_t H = attr_of(node)->hidden;
    const peft__value *pre = input(node, p->direction, IN_PRE), *weight = input(node, p->direction, IN_WEIGHT),
                      *y = node->out[OUT_Y];
    float *gates = peft__row(node->out[OUT_GATES], p->row) + p->direction * GATES * H + p->first;
    float *cell = peft__row(node->out[OUT_CELLS], p->row) + p->direction * H + p->first,
          *to = peft__row(y, p->row) + p->direction * H + p->first;
    for (int64_t g = 0; g < GATES; g++) {
        const float *from = peft__row(pre, p->row) + g * H + p->first;
        for (int64_t j = 0; j < p->count; j++) {
            double sum = (double)from[j];
            if (p->before >= 0)
                sum += kernels->dot(H, peft__row(weight, g * H + p->first + j),
                                    peft__row(y, p->before) + p->direction * H);
            gates[g * H + j] = (float)sum;
        }
        kernels->activate(g == 2 ? PEFT__FN_TANH : PEFT__FN_SIGMOID, p->count, gates + g * H, gates + g * H);
    }
    const float *i = gates, *f = gates + H, *g = gates + 2 * H, *o = gates + 3 * H;
    const float *old = p->before >= 0 ? peft__row(node->out[OUT_CELLS], p->before) + p->direction * H + p->first : NULL;
    for (int64_t j = 0; j < p->count; j++) cell[j] = i[j] * g[j] + (old != NULL ? f[j] * old[j] : 0.0f);
    kernels->activate(PEFT__FN_TANH, p->count, cell, to);
    kernels->mul(p->count, o, to, to, false);
}

static void backward_tile(const peft__node *node, const place *p, const scratch *s, const peft__kernels *kernels) {
    const int64_t H = attr_of(node)->hidden;
    const peft__value *weight = input(node, p->direction, IN_WEIGHT);
    float dh[UNITS], tanh_cell[UNITS];
    memcpy(dh, peft__grad_row(node->out[OUT_Y], p->row) + p->direction * H + p->first, (size_t)p->count * sizeof *dh);
    if (p->after >= 0) {
        const float *later = gate_grads(node, s, p->after, p->direction);
        for (int64_t k = 0; k < GATES * H; k++)
            kernels->scale(p->count, later[k], peft__row(weight, k) + p->first, dh, true);
    }
    const float *i = peft__row(node->out[OUT_GATES], p->row) + p->direction * GATES * H + p->first;
    const float *f = i + H, *g = i + 2 * H, *o = i + 3 * H;
    const float *old = p->before >= 0 ? peft__row(node->out[OUT_CELLS], p->before) + p->direction * H + p->first : NULL;
    float *carry = s->cells + p->direction * H + p->first, *to = gate_grads(node, s, p->row, p->direction) + p->first;
    kernels->activate(PEFT__FN_TANH, p->count, peft__row(node->out[OUT_CELLS], p->row) + p->direction * H + p->first,
                      tanh_cell);
    for (int64_t j = 0; j < p->count; j++) {
        const float dc = dh[j] * o[j] * (1.0f - tanh_cell[j] * tanh_cell[j]) + (p->after >= 0 ? carry[j] : 0.0f);
        to[j] = dc * g[j] * i[j] * (1.0f - i[j]);
        to[H + j] = old != NULL ? dc * old[j] * f[j] * (1.0f - f[j]) : 0.0f;
        to[2 * H + j] = dc * i[j] * (1.0f - g[j] * g[j]);
        to[3 * H + j] = dh[j] * tanh_cell[j] * o[j] * (1.0f - o[j]);
        carry[j] = dc * f[j];
    }
}

/* The last phase: one row of pre's gradient, or a block of rows of W_hh's. */
static void sum_tile(const peft__node *node, uint32_t tile, const scratch *s, const peft__kernels *kernels) {
    const int64_t H = attr_of(node)->hidden, each = steps_of(node) + weight_blocks(node), direction = tile / each,
                  index = tile % each;
    if (index < steps_of(node)) {
        const peft__value *pre = input(node, direction, IN_PRE);
        if (pre->needs_grad)
            kernels->scale(GATES * H, 1.0f, gate_grads(node, s, index, direction), peft__grad_row(pre, index),
                           peft__accumulates(node, (uint32_t)(direction * IN_EACH + IN_PRE)));
        return;
    }
    const peft__value *weight = input(node, direction, IN_WEIGHT), *y = node->out[OUT_Y];
    if (!weight->needs_grad) return;
    const bool keep = peft__accumulates(node, (uint32_t)(direction * IN_EACH + IN_WEIGHT));
    const int64_t first = (index - steps_of(node)) * UNITS, end = peft__min_i64(first + UNITS, GATES * H);
    for (int64_t k = first; k < end; k++) {
        float *to = peft__grad_row(weight, k);
        if (!keep) memset(to, 0, (size_t)H * sizeof *to);
        for (int64_t step = 1; step < steps_of(node); step++)
            kernels->scale(H, gate_grads(node, s, row_at(node, direction, step), direction)[k],
                           peft__row(y, row_at(node, direction, step - 1)) + direction * H, to, true);
    }
}

static void tile_run(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run) {
    const peft__kernels *kernels = peft__kernels_for(run->cpu);
    if (pass == PEFT__FORWARD) {
        const place p = place_of(node, phase, tile);
        forward_tile(node, &p, kernels);
        return;
    }
    const scratch s = scratch_of(node, run->temp);
    if ((int64_t)phase == steps_of(node)) {
        sum_tile(node, tile, &s, kernels);
        return;
    }
    const place p = place_of(node, steps_of(node) - 1 - (int64_t)phase, tile);
    backward_tile(node, &p, &s, kernels);
}

static const peft__op lstm_op = {.name = "lstm",
                                 .in_place = -1,
                                 .reads = reads,
                                 .phases = phases,
                                 .tiles = tiles,
                                 .tile = tile_run,
                                 .temp_bytes = temp_bytes};

peft__value *peft__op_lstm(peft__graph *g, peft__value *pre, peft__value *weight, peft__value *reverse_pre,
                           peft__value *reverse_weight) {
    const lstm attr = {weight != NULL ? weight->cols : 0, reverse_pre != NULL ? 2 : 1};
    if (pre == NULL || weight == NULL || (reverse_pre == NULL) != (reverse_weight == NULL) || peft__graph_failed(g))
        return NULL;
    peft__value *in[DIRECTIONS * IN_EACH] = {pre, weight, reverse_pre, reverse_weight};
    if (!pre->rows->fixed)
        return peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_ARG,
                                              "lstm: row space \"%s\" is not a fixed one", pre->rows->name));
    for (int64_t d = 0; d < attr.directions; d++) {
        const peft__value *w = in[d * IN_EACH + IN_WEIGHT];
        if (!peft__value_check(g, "lstm", "input", in[d * IN_EACH + IN_PRE], pre->rows, GATES * attr.hidden) ||
            !peft__value_check(g, "lstm", "weight", w, NULL, attr.hidden))
            return NULL;
        if (w->rows->max_rows != GATES * attr.hidden)
            return peft__graph_fail(g, peft__fail(peft__graph_context(g), PEFT_E_ARG,
                                                  "lstm: the weight has %lld rows, expected %lld",
                                                  (long long)w->rows->max_rows, (long long)(GATES * attr.hidden)));
    }
    peft__value *out[OUT_COUNT] = {
        peft__value_new(g, pre->rows, attr.directions * attr.hidden, "lstm"),
        peft__value_new(g, pre->rows, attr.directions * GATES * attr.hidden, "gates of an lstm"),
        peft__value_new(g, pre->rows, attr.directions * attr.hidden, "cells of an lstm")};
    for (int i = 0; i < OUT_COUNT; i++)
        if (out[i] == NULL) return NULL;
    out[OUT_GATES]->flags |= PEFT__VALUE_STAT;
    out[OUT_CELLS]->flags |= PEFT__VALUE_STAT;
    const uint32_t count = (uint32_t)(attr.directions * IN_EACH);
    return peft__node_add(g, &lstm_op, in, count, out, OUT_COUNT, &attr, sizeof attr) != NULL ? out[OUT_Y] : NULL;
}
