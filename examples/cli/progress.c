/* progress.c: how a run comes along. On a terminal one line that is drawn again; elsewhere (a log file, a service) some
 * twenty plain lines. */
#include "cli.h"

#include <math.h>

void progress_start(progress *p, cli *c, uint64_t total) {
    *p = (progress){.c = c, .terminal = on_terminal(stderr), .total = total, .start = now_seconds()};
}

void progress_step(progress *p, uint64_t step, double loss, double validation_loss, double step_seconds,
                   double tokens) {
    const double weight = p->seconds_per_step == 0.0 ? 1.0 : 0.1;
    p->seconds_per_step += weight * (step_seconds - p->seconds_per_step);
    if (step_seconds > 0.0)
        p->tokens_per_second +=
            (p->tokens_per_second == 0.0 ? 1.0 : 0.1) * (tokens / step_seconds - p->tokens_per_second);
    if (p->c->quiet || p->c->json) return;
    const double now = now_seconds();
    const bool last = step >= p->total;
    if (p->terminal ? now - p->last_drawn < 0.1 && !last : step * 20 / p->total == p->last_plain && !last && step != 1)
        return;
    p->last_drawn = now;
    p->last_plain = step * 20 / p->total;
    char validation[32] = "", memory[32], left[32];
    if (isfinite(validation_loss)) snprintf(validation, sizeof validation, "  validation %.4f", validation_loss);
    fprintf(stderr, "%sstep %llu/%llu  loss %.4f%s  %.0f tokens/s  %s  %s left%s", p->terminal ? "\r\033[K" : "",
            (unsigned long long)step, (unsigned long long)p->total, loss, validation, p->tokens_per_second,
            format_bytes(peak_memory(), memory, sizeof memory),
            format_time((double)(p->total - step) * p->seconds_per_step, left, sizeof left), p->terminal ? "" : "\n");
    fflush(stderr);
    p->c->line_open = p->terminal;
}
