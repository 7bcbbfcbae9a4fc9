/* history.c: the log of a run, one JSON object a line, and the curve drawn from it. The log is the memory of the curve:
 * a run that goes on reads back what was logged up to its checkpoint. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void add(point **points, size_t *count, size_t *capacity, double step, double loss) {
    if (*count == *capacity) {
        const size_t more = *capacity * 2 + 64;
        point *grown = realloc(*points, more * sizeof *grown);
        if (grown == NULL) return; /* a point less on the curve */
        *points = grown;
        *capacity = more;
    }
    (*points)[(*count)++] = (point){step, loss};
}

void history_add(history *h, bool validation, double step, double loss) {
    if (!isfinite(loss)) return;
    if (validation)
        add(&h->validation, &h->validation_count, &h->validation_capacity, step, loss);
    else
        add(&h->train, &h->train_count, &h->train_capacity, step, loss);
}

bool history_open(history *h, const char *path, double keep_steps) {
    *h = (history){.log = NULL};
    char *old = keep_steps >= 0.0 ? read_file(path, NULL) : NULL;
    h->log = fopen(path, "wb");
    if (h->log == NULL) {
        fprintf(stderr, "peft: %s cannot be written\n", path);
        free(old);
        return false;
    }
    for (char *line = old; line != NULL && *line != '\0';) {
        char *end = strchr(line, '\n');
        if (end == NULL) break; /* cut by a crash */
        *end = '\0';
        double step = 0.0, loss;
        (void)json_find_number(line, "step", &step);
        if (step <= keep_steps) {
            fprintf(h->log, "%s\n", line);
            if (json_find_number(line, "validation_loss", &loss))
                history_add(h, true, step, loss);
            else if (json_find_number(line, "loss", &loss))
                history_add(h, false, step, loss);
        }
        line = end + 1;
    }
    free(old);
    fflush(h->log);
    return true;
}

void history_log(history *h, const char *line) {
    if (h->log == NULL) return;
    fprintf(h->log, "%s\n", line);
    fflush(h->log);
}

void history_close(history *h) {
    if (h->log != NULL) fclose(h->log);
    free(h->train);
    free(h->validation);
    *h = (history){.log = NULL};
}

/* ---- the curve ---------------------------------------------------------------------------------------------- */

enum { WIDTH = 800, HEIGHT = 420, LEFT = 64, RIGHT = 24, TOP = 48, BOTTOM = 48 };

typedef struct frame {
    double step_end, low, high;
} frame;

static double x_of(const frame *f, double step) {
    return LEFT + (WIDTH - LEFT - RIGHT) * (f->step_end > 0.0 ? step / f->step_end : 0.0);
}
static double y_of(const frame *f, double loss) {
    return TOP + (HEIGHT - TOP - BOTTOM) * (f->high - loss) / (f->high - f->low);
}

static void widen(frame *f, const point *points, size_t count) {
    for (size_t i = 0; i < count; i++) {
        f->step_end = fmax(f->step_end, points[i].step);
        f->low = fmin(f->low, points[i].loss);
        f->high = fmax(f->high, points[i].loss);
    }
}

/* 1, 2 or 5 times a power of ten, so that there are about five of them. */
static double tick_size(double range) {
    const double raw = range / 5.0, power = pow(10.0, floor(log10(raw)));
    const double digit = raw / power;
    return power * (digit < 1.5 ? 1.0 : digit < 3.5 ? 2.0 : digit < 7.5 ? 5.0 : 10.0);
}

static void draw_axes(FILE *out, const frame *f) {
    const double dy = tick_size(f->high - f->low), dx = tick_size(f->step_end > 0.0 ? f->step_end : 1.0);
    for (double v = ceil(f->low / dy) * dy; v <= f->high + 1e-9; v += dy)
        fprintf(out,
                "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" "
                "text-anchor=\"end\">%.4g</text>\n",
                LEFT, WIDTH - RIGHT, y_of(f, v), y_of(f, v), LEFT - 8, y_of(f, v) + 4.0, v);
    for (double v = 0.0; v <= f->step_end + 1e-9; v += dx)
        fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.6g</text>\n", x_of(f, v), HEIGHT - BOTTOM + 20,
                v);
    fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">step</text>\n", (LEFT + WIDTH - RIGHT) / 2,
            HEIGHT - 10);
}

static void draw_line(FILE *out, const frame *f, const point *points, size_t count, const char *style,
                      double smoothing) {
    fprintf(out, "<polyline fill=\"none\" %s points=\"", style);
    double mean = 0.0, weight = 0.0;
    for (size_t i = 0; i < count; i++) {
        mean = smoothing * mean + (1.0 - smoothing) * points[i].loss;
        weight = smoothing * weight + (1.0 - smoothing);
        fprintf(out, "%.1f,%.1f ", x_of(f, points[i].step), y_of(f, mean / weight));
    }
    fputs("\"/>\n", out);
}

static void draw_title(FILE *out, const char *title) {
    fprintf(out, "<text x=\"%d\" y=\"28\" font-size=\"16\">", LEFT);
    for (const char *at = title; *at != '\0'; at++) {
        if (*at == '<' || *at == '&')
            fputs(*at == '<' ? "&lt;" : "&amp;", out);
        else if ((unsigned char)*at >= 0x20)
            fputc(*at, out);
    }
    fputs("</text>\n", out);
}

bool history_plot(const history *h, const char *path, const char *title) {
    if (h->train_count + h->validation_count == 0) return true;
    frame f = {.step_end = 1.0, .low = HUGE_VAL, .high = -HUGE_VAL};
    widen(&f, h->train, h->train_count);
    widen(&f, h->validation, h->validation_count);
    const double margin = fmax((f.high - f.low) * 0.05, 1e-3);
    f.low -= margin;
    f.high += margin;
    FILE *out = fopen(path, "wb");
    if (out == NULL) {
        fprintf(stderr, "peft: %s cannot be written\n", path);
        return false;
    }
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
            "font-size=\"12\" fill=\"#333\">\n",
            WIDTH, HEIGHT);
    fprintf(out, "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", WIDTH, HEIGHT);
    draw_title(out, title);
    draw_axes(out, &f);
    draw_line(out, &f, h->train, h->train_count, "stroke=\"#9dc3e6\" stroke-width=\"1\"", 0.0);
    draw_line(out, &f, h->train, h->train_count, "stroke=\"#1f6fb5\" stroke-width=\"2\"", 0.9);
    draw_line(out, &f, h->validation, h->validation_count, "stroke=\"#d9730d\" stroke-width=\"2\"", 0.0);
    for (size_t i = 0; i < h->validation_count; i++)
        fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"#d9730d\"/>\n", x_of(&f, h->validation[i].step),
                y_of(&f, h->validation[i].loss));
    fprintf(
        out,
        "<text x=\"%d\" y=\"28\" text-anchor=\"end\"><tspan fill=\"#1f6fb5\">training loss</tspan>%s</text>\n</svg>\n",
        WIDTH - RIGHT, h->validation_count > 0 ? " <tspan fill=\"#d9730d\">validation loss</tspan>" : "");
    return fclose(out) == 0;
}
