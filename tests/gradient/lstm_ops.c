/* lstm_ops.c: the recurrence of an LSTM, in one and in two directions. */
#include "gradient.h"

typedef struct lstm_case {
    int64_t steps, hidden, directions;
} lstm_case;

static const int64_t lengths[] = {3, 0};

static double sigmoid(double x) {
    return 1.0 / (1.0 + exp(-x));
}

static void reference(gc *c, void *user) {
    const lstm_case *l = user;
    const int64_t H = l->hidden;
    double *state = calloc((size_t)(3 * H), sizeof *state); /* h of the step before, c, h */
    for (int64_t d = 0; d < l->directions; d++) {
        const double *pre = c->in[2 * d].exact, *weight = c->in[2 * d + 1].exact;
        double *before = state, *cell = state + H, *now = state + 2 * H;
        memset(state, 0, (size_t)(3 * H) * sizeof *state);
        for (int64_t step = 0; step < l->steps; step++) {
            const int64_t row = d == 0 ? step : l->steps - 1 - step;
            for (int64_t j = 0; j < H; j++) {
                double z[4];
                for (int64_t g = 0; g < 4; g++) {
                    z[g] = pre[row * 4 * H + g * H + j];
                    for (int64_t k = 0; k < H; k++) z[g] += weight[(g * H + j) * H + k] * before[k];
                }
                cell[j] = sigmoid(z[1]) * cell[j] + sigmoid(z[0]) * tanh(z[2]);
                now[j] = sigmoid(z[3]) * tanh(cell[j]);
                c->out[0].want[row * l->directions * H + d * H + j] = now[j];
            }
            memcpy(before, now, (size_t)H * sizeof *before);
        }
    }
    free(state);
}

static void check(const gc_style *style, lstm_case l, bool frozen) {
    gc c;
    char name[96];
    snprintf(name, sizeof name, "lstm of %d steps, %d units, %d directions, frozen %d", (int)l.steps, (int)l.hidden,
             (int)l.directions, frozen);
    gc_begin(&c, name, style, lengths, NULL);
    peft__value *in[4] = {NULL, NULL, NULL, NULL};
    for (int64_t d = 0; d < l.directions; d++) {
        in[2 * d] = gc_input_new(&c, l.steps, 4 * l.hidden, 2.0f);
        if (frozen && d == 1) gc_freeze_last(&c);
        in[2 * d + 1] = gc_leaf_new(&c, 4 * l.hidden, l.hidden, 1.0f);
        if (frozen && d == 0) gc_freeze_last(&c);
    }
    gc_output_new(&c, peft__op_lstm(c.graph, in[0], in[1], in[2], in[3]));
    gc_end(&c, reference, &l);
}

int main(void) {
    gc_style style;
    for (uint32_t s = 0; gc_next_style(&s, &style);) {
        check(&style, (lstm_case){1, 5, 2}, false);
        check(&style, (lstm_case){7, 5, 1}, false);
        check(&style, (lstm_case){6, 12, 2}, false);
        check(&style, (lstm_case){6, 12, 2}, true);
        check(&style, (lstm_case){3, 70, 2}, false);
    }
    return gc_summary();
}
