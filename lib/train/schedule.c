/* schedule.c: learning rates as pure functions of the step.
 *
 * The host sets the rate before each step, so there is nothing to save and nothing that can drift from a checkpoint.
 * Factor times peak, in double precision and in the order of operations of transformers.get_scheduler, so that runs
 * can be compared number by number.
 */
#include <math.h>

#include "base/base.h"
#include "peft/optimizer.h"

#define PI 3.14159265358979323846

static double larger(double a, double b) {
    return a > b ? a : b;
}

/* Share of the steps after warm-up that is done; 0 at the first of them. */
static double progress(const peft_schedule *s, double step) {
    return (step - (double)s->warmup_steps) / larger(1.0, (double)s->total_steps - (double)s->warmup_steps);
}

static double linear(const peft_schedule *s, double step) {
    const double left = (double)s->total_steps - step;
    return larger(0.0, left / larger(1.0, (double)s->total_steps - (double)s->warmup_steps));
}

static double cosine(const peft_schedule *s, double step) {
    return larger(0.0, 0.5 * (1.0 + cos(PI * s->num_cycles * 2.0 * progress(s, step))));
}

static double cosine_min_lr(const peft_schedule *s, double step) {
    const double factor = 0.5 * (1.0 + cos(PI * s->num_cycles * 2.0 * progress(s, step)));
    return larger(0.0, factor * (1.0 - s->min_lr_rate) + s->min_lr_rate);
}

static double cosine_restarts(const peft_schedule *s, double step) {
    const double done = progress(s, step);
    if (done >= 1.0) return 0.0;
    return larger(0.0, 0.5 * (1.0 + cos(PI * fmod(s->num_cycles * done, 1.0))));
}

static double polynomial(const peft_schedule *s, double step) {
    if (s->peak_lr == 0.0) return 0.0;
    if (step > (double)s->total_steps) return s->end_lr / s->peak_lr;
    const double steps = (double)s->total_steps - (double)s->warmup_steps;
    const double remaining = steps > 0.0 ? 1.0 - (step - (double)s->warmup_steps) / steps : 0.0;
    return ((s->peak_lr - s->end_lr) * pow(remaining, s->power) + s->end_lr) / s->peak_lr;
}

static double inverse_sqrt(const peft_schedule *s, double step) {
    const double without = s->warmup_steps > 0 ? (double)s->warmup_steps : 10000.0;
    const double timescale = s->timescale > 0 ? (double)s->timescale : without;
    return 1.0 / sqrt((step + timescale - (double)s->warmup_steps) / timescale);
}

void peft_schedule_init_sized(peft_schedule *schedule, uint32_t size) {
    if (schedule == NULL || size < sizeof schedule->struct_size) return;
    const peft_schedule defaults = {.struct_size = size,
                                    .kind = PEFT_SCHEDULE_CONSTANT,
                                    .peak_lr = 2e-4,
                                    .power = 1.0,
                                    .end_lr = 1e-7,
                                    .num_cycles = 0.0};
    memset(schedule, 0, size);
    memcpy(schedule, &defaults, peft__min_size(size, sizeof defaults));
}

double peft_schedule_lr(const peft_schedule *schedule, uint64_t step) {
    peft_schedule s = {0};
    if (schedule == NULL || peft__options_copy(NULL, &s, sizeof s, schedule, sizeof s, "peft_schedule") < 0) return 0.0;
    if (s.num_cycles == 0.0) s.num_cycles = s.kind == PEFT_SCHEDULE_COSINE_RESTARTS ? 1.0 : 0.5;
    if (step < s.warmup_steps) return s.peak_lr * ((double)step / (double)s.warmup_steps);
    const double at = (double)step;
    switch (s.kind) {
    case PEFT_SCHEDULE_LINEAR:
        return s.peak_lr * linear(&s, at);
    case PEFT_SCHEDULE_COSINE:
        return s.peak_lr * cosine(&s, at);
    case PEFT_SCHEDULE_POLYNOMIAL:
        return s.peak_lr * polynomial(&s, at);
    case PEFT_SCHEDULE_INVERSE_SQRT:
        return s.peak_lr * inverse_sqrt(&s, at);
    case PEFT_SCHEDULE_COSINE_RESTARTS:
        return s.peak_lr * cosine_restarts(&s, at);
    case PEFT_SCHEDULE_COSINE_MIN_LR:
        return s.peak_lr * cosine_min_lr(&s, at);
    default:
        return s.peak_lr;
    }
}

/* ---- gradual unfreezing ----------------------------------------------------------------------------------------- */

void peft_unfreezing_init_sized(peft_unfreezing *unfreezing, uint32_t size) {
    if (unfreezing == NULL || size < sizeof unfreezing->struct_size) return;
    const peft_unfreezing defaults = {.struct_size = size, .stage_layers = 1};
    memset(unfreezing, 0, size);
    memcpy(unfreezing, &defaults, peft__min_size(size, sizeof defaults));
}

int32_t peft_unfreezing_layers(const peft_unfreezing *unfreezing, uint64_t step) {
    if (unfreezing == NULL || unfreezing->struct_size < sizeof *unfreezing || unfreezing->stage_steps == 0) return -1;
    const uint64_t stage = step / unfreezing->stage_steps;
    const int64_t first = peft__max_i64(0, unfreezing->first_layers),
                  more = peft__max_i64(0, unfreezing->stage_layers);
    if (stage > INT32_MAX) return more > 0 ? INT32_MAX : (int32_t)first;
    return (int32_t)peft__min_i64(INT32_MAX, first + more * (int64_t)stage);
}
