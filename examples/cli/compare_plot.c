/* compare_plot.c: the drawings of a comparison's page, as SVG inside it.
 *
 * A drawing is 360 units wide and fills a column of the page, which is one column on a telephone: text there is as
 * large as it is written here. Colours are classes of the page's style, so that they follow light and dark.
 */
#include "compare.h"

#include <math.h>
#include <string.h>

enum { WIDTH = 360, SIDE = 12, LEFT = 44, RIGHT = 14, ROW = 40, COLOURS = 8 };

void compare_escape(const char *text, FILE *out) {
    for (; *text != '\0'; text++) {
        if (*text == '<' || *text == '>' || *text == '&' || *text == '"')
            fprintf(out, "&#%d;", *text);
        else if ((unsigned char)*text >= 0x20)
            fputc(*text, out);
        else
            fputc(' ', out);
    }
}

static void begin(const char *title, int height, FILE *out) {
    fputs("<figure><figcaption>", out);
    compare_escape(title, out);
    fprintf(out, "</figcaption>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH, height);
    compare_escape(title, out);
    fputs("\">\n", out);
}

static void end(FILE *out) {
    fputs("</svg></figure>\n", out);
}

/* Number in front of a name, as in the table. */
static void label(size_t index, const char *name, double x, double y, FILE *out) {
    fprintf(out, "<text x=\"%.1f\" y=\"%.1f\"><tspan class=\"dim\">%zu</tspan> ", x, y, index + 1);
    compare_escape(name, out);
    fputs("</text>\n", out);
}

/* 1, 2 or 5 times a power of ten, so that there are about four of them. */
static double tick_of(double range) {
    const double raw = range / 4.0, power = pow(10.0, floor(log10(raw))), digit = raw / power;
    return power * (digit < 1.5 ? 1.0 : digit < 3.5 ? 2.0 : digit < 7.5 ? 5.0 : 10.0);
}

typedef struct axis {
    double low, high;
} axis;

static void widen(axis *a, double value) {
    if (!isfinite(value)) return;
    a->low = fmin(a->low, value);
    a->high = fmax(a->high, value);
}

/* False when there is nothing to show. */
static bool round_off(axis *a) {
    if (!(a->low <= a->high)) return false;
    const double margin = fmax((a->high - a->low) * 0.06, fabs(a->high) * 1e-3 + 1e-12);
    a->low -= margin;
    a->high += margin;
    return true;
}

static axis quality_axis(const comparison *c) {
    axis a = {HUGE_VAL, -HUGE_VAL};
    for (size_t i = 0; i < c->done; i++) {
        if (c->rows[i].reason != NULL) continue;
        widen(&a, c->rows[i].q.value);
        widen(&a, c->rows[i].q.low);
        widen(&a, c->rows[i].q.high);
    }
    return a;
}

/* Entries may be of several measures (a loss and an accuracy have no common axis): the first one's. */
static const char *common_measure(const comparison *c) {
    for (size_t i = 0; i < c->done; i++)
        if (c->rows[i].reason == NULL) return c->rows[i].q.measure;
    return NULL;
}

static bool is_shown(const comparison *c, const contender *row) {
    const char *measure = common_measure(c);
    return row->reason == NULL && measure != NULL && strcmp(measure, row->q.measure) == 0 && isfinite(row->q.value);
}

/* ---- values with their intervals ------------------------------------------------------------------------------ */

void compare_plot_intervals(const comparison *c, FILE *out) {
    axis a = quality_axis(c);
    size_t shown = 0, at = 0;
    for (size_t i = 0; i < c->done; i++) shown += is_shown(c, &c->rows[i]);
    if (shown == 0 || !round_off(&a)) return;
    const int height = (int)shown * ROW + 28;
    const double scale = (WIDTH - 2 * SIDE) / (a.high - a.low);
    const bool more = c->rows[0].q.more_is_better;
    char title[96], text[40];
    snprintf(title, sizeof title, "%s with its %g %% interval (%s is better)", common_measure(c), 100.0 * c->level,
             more ? "more" : "less");
    begin(title, height, out);
    const double step = tick_of(a.high - a.low);
    for (double v = ceil(a.low / step) * step; v <= a.high; v += step) {
        const double x = SIDE + (v - a.low) * scale;
        fprintf(out,
                "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"0\" y2=\"%d\"/><text class=\"dim\" x=\"%.1f\" "
                "y=\"%d\" text-anchor=\"middle\">%.4g</text>\n",
                x, x, height - 22, x, height - 6, fabs(v) < step * 1e-9 ? 0.0 : v);
    }
    for (size_t i = 0; i < c->done; i++) {
        const contender *row = &c->rows[i];
        if (!is_shown(c, row)) continue;
        const double top = (double)(at++ * ROW), x = SIDE + (row->q.value - a.low) * scale;
        label(i, row->name, SIDE, top + 14.0, out);
        fprintf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", WIDTH - SIDE, top + 14.0,
                compare_value(row, row->q.value, text, sizeof text));
        if (isfinite(row->q.low) && isfinite(row->q.high))
            fprintf(out, "<line class=\"c%zu thick\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n", i % COLOURS,
                    SIDE + (row->q.low - a.low) * scale, SIDE + (row->q.high - a.low) * scale, top + 26.0, top + 26.0);
        fprintf(out, "<circle class=\"f%zu\" cx=\"%.1f\" cy=\"%.1f\" r=\"5\"/>\n", i % COLOURS, x, top + 26.0);
    }
    end(out);
}

/* ---- bars ------------------------------------------------------------------------------------------------------ */

void compare_plot_bars(const comparison *c, const char *title, double (*value_of)(const contender *row),
                       const char *(*format)(double value, char *buffer, size_t size), FILE *out) {
    size_t shown = 0, at = 0;
    double most = 0.0;
    for (size_t i = 0; i < c->done; i++) {
        const double value = c->rows[i].reason == NULL ? value_of(&c->rows[i]) : NAN;
        shown += isfinite(value);
        if (isfinite(value)) most = fmax(most, value);
    }
    if (shown == 0 || !(most > 0.0)) return;
    begin(title, (int)shown * ROW + 4, out);
    for (size_t i = 0; i < c->done; i++) {
        const contender *row = &c->rows[i];
        const double value = row->reason == NULL ? value_of(row) : NAN;
        if (!isfinite(value)) continue;
        const double top = (double)(at++ * ROW);
        char text[40];
        label(i, row->name, SIDE, top + 14.0, out);
        fprintf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", WIDTH - SIDE, top + 14.0,
                format(value, text, sizeof text));
        fprintf(out, "<rect class=\"track\" x=\"%d\" y=\"%.1f\" width=\"%d\" height=\"10\" rx=\"3\"/>", SIDE,
                top + 21.0, WIDTH - 2 * SIDE);
        fprintf(out, "<rect class=\"f%zu\" x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"10\" rx=\"3\"/>\n", i % COLOURS,
                SIDE, top + 21.0, fmax(1.0, (WIDTH - 2 * SIDE) * value / most));
    }
    end(out);
}

/* ---- value against cost ---------------------------------------------------------------------------------------- */

enum { PLOT_TOP = 10, PLOT_BOTTOM = 230, ZERO = LEFT + 14, FIRST = LEFT + 40 };

static void draw_frame(const axis *y, FILE *out) {
    const double step = tick_of(y->high - y->low), scale = (PLOT_BOTTOM - PLOT_TOP) / (y->high - y->low);
    for (double v = ceil(y->low / step) * step; v <= y->high; v += step) {
        const double at = PLOT_BOTTOM - (v - y->low) * scale;
        fprintf(out,
                "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/><text class=\"dim\" x=\"%d\" "
                "y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n",
                LEFT, WIDTH - RIGHT, at, at, LEFT - 5, at + 4.0, fabs(v) < step * 1e-9 ? 0.0 : v);
    }
}

void compare_plot_scatter(const comparison *c, const char *title, double (*value_of)(const contender *row),
                          const char *(*format)(double value, char *buffer, size_t size), FILE *out) {
    axis y = quality_axis(c), x = {HUGE_VAL, -HUGE_VAL};
    size_t positive = 0, zero = 0;
    for (size_t i = 0; i < c->done; i++) {
        if (!is_shown(c, &c->rows[i])) continue;
        const double value = value_of(&c->rows[i]);
        if (isfinite(value) && value > 0.0) widen(&x, log10(value));
        positive += isfinite(value) && value > 0.0;
        zero += isfinite(value) && !(value > 0.0);
    }
    if (positive < 2 || !round_off(&y)) return;
    const double middle = 0.5 * (x.low + x.high), half = fmax(0.5 * (x.high - x.low) * 1.08, 0.15);
    x = (axis){middle - half, middle + half};
    const int from = zero > 0 ? FIRST : LEFT;
    const double sx = (WIDTH - RIGHT - from) / (x.high - x.low), sy = (PLOT_BOTTOM - PLOT_TOP) / (y.high - y.low);
    char text[40];
    begin(title, PLOT_BOTTOM + 24, out);
    draw_frame(&y, out);
    if (zero > 0)
        fprintf(out, "<text class=\"dim\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">0</text>\n", ZERO, PLOT_BOTTOM + 18);
    for (int power = (int)floor(x.low); (double)power <= x.high; power++)
        for (int digit = 1; digit < 10; digit += digit == 1 ? 1 : digit == 2 ? 3 : 5) {
            const double value = digit * pow(10.0, power), at = from + (log10(value) - x.low) * sx;
            if (log10(value) < x.low || log10(value) > x.high || (digit > 1 && x.high - x.low > 1.7)) continue;
            fprintf(out,
                    "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/><text class=\"dim\" "
                    "x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
                    at, at, PLOT_TOP, PLOT_BOTTOM, at, PLOT_BOTTOM + 18, format(value, text, sizeof text));
        }
    for (size_t i = 0; i < c->done; i++) {
        const contender *row = &c->rows[i];
        const double value = value_of(row);
        if (!is_shown(c, row) || !isfinite(value)) continue;
        const double px = value > 0.0 ? from + (log10(value) - x.low) * sx : ZERO,
                     py = PLOT_BOTTOM - (row->q.value - y.low) * sy;
        if (isfinite(row->q.low) && isfinite(row->q.high))
            fprintf(out, "<line class=\"c%zu thin\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", i % COLOURS, px,
                    px, PLOT_BOTTOM - (row->q.low - y.low) * sy, PLOT_BOTTOM - (row->q.high - y.low) * sy);
        fprintf(out, "<circle class=\"f%zu\" cx=\"%.1f\" cy=\"%.1f\" r=\"9\"><title>", i % COLOURS, px, py);
        compare_escape(row->name, out);
        fprintf(out, "</title></circle><text class=\"on\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%zu</text>\n",
                px, py + 4.0, i + 1);
    }
    end(out);
}

/* ---- training loss --------------------------------------------------------------------------------------------- */

void compare_plot_curves(const comparison *c, FILE *out) {
    axis y = {HUGE_VAL, -HUGE_VAL};
    double steps = 0.0;
    for (size_t i = 0; i < c->done; i++)
        for (size_t k = 0; k < c->rows[i].curve_count && c->rows[i].reason == NULL; k++) {
            widen(&y, c->rows[i].curve[k].loss);
            steps = fmax(steps, c->rows[i].curve[k].step);
        }
    if (!(steps > 1.0) || !round_off(&y)) return;
    const double sx = (WIDTH - RIGHT - LEFT) / steps, sy = (PLOT_BOTTOM - PLOT_TOP) / (y.high - y.low);
    begin("loss while training", PLOT_BOTTOM + 24, out);
    draw_frame(&y, out);
    const double tick = tick_of(steps);
    for (double v = 0.0; v <= steps; v += tick)
        fprintf(out, "<text class=\"dim\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.6g</text>\n", LEFT + v * sx,
                PLOT_BOTTOM + 18, v);
    for (size_t i = 0; i < c->done; i++) {
        const contender *row = &c->rows[i];
        if (row->curve_count == 0 || row->reason != NULL) continue;
        fprintf(out, "<polyline class=\"c%zu line\" points=\"", i % COLOURS);
        for (size_t k = 0; k < row->curve_count; k++)
            if (isfinite(row->curve[k].loss))
                fprintf(out, "%.1f,%.1f ", LEFT + row->curve[k].step * sx,
                        PLOT_BOTTOM - (row->curve[k].loss - y.low) * sy);
        fputs("\"><title>", out);
        compare_escape(row->name, out);
        fputs("</title></polyline>\n", out);
    }
    fputs("</svg><p class=\"key\">", out);
    for (size_t i = 0; i < c->done; i++) {
        if (c->rows[i].curve_count == 0 || c->rows[i].reason != NULL) continue;
        fprintf(out, "<span><i class=\"b%zu\"></i>%zu ", i % COLOURS, i + 1);
        compare_escape(c->rows[i].name, out);
        fputs("</span> ", out);
    }
    fputs("</p></figure>\n", out);
}
