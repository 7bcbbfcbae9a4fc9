/* compare_html.c: a comparison as a page: one file that fetches nothing, light or dark as the reader has it, one column
 * on a telephone. */
#include "compare.h"

#include <math.h>
#include <stdlib.h>

/* Eight colours that can be told apart on light and on dark. */
static const char STYLE[] =
    ":root{color-scheme:light dark;--page:#fbfbfa;--card:#fff;--ink:#1f2328;--dim:#6a737d;--grid:#e4e6e9;"
    "--k0:#2f6fb2;--k1:#c8681b;--k2:#2f8f57;--k3:#b5383f;--k4:#7b55b0;--k5:#8a6d3b;--k6:#c2528b;--k7:#238b94}\n"
    "@media(prefers-color-scheme:dark){:root{--page:#14171a;--card:#1c2024;--ink:#e4e7ea;--dim:#98a1aa;--grid:#30363c;"
    "--k0:#6ba8e5;--k1:#e8954c;--k2:#63bd86;--k3:#e4777c;--k4:#ac8ade;--k5:#bd9d66;--k6:#e389b8;--k7:#5bbcc5}}\n"
    "*{box-sizing:border-box}body{margin:0 auto;padding:16px;max-width:1180px;background:var(--page);color:var(--ink);"
    "font:15px/1.45 system-ui,sans-serif}h1{font-size:1.35em;margin:.2em 0}p{margin:.4em 0}.dim{color:var(--dim)}\n"
    ".wide{overflow-x:auto;background:var(--card);border:1px solid var(--grid);border-radius:8px;margin:14px 0}"
    "table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}"
    "th,td{padding:6px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--grid)}"
    "tr:last-child td{border-bottom:0}th{font-weight:600;color:var(--dim);vertical-align:bottom}"
    "th:nth-child(2),td:nth-child(2),.why{text-align:left}.why{white-space:normal;color:var(--dim)}"
    "tr.best td{font-weight:600}\n"
    ".plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(320px,100%),1fr));gap:14px}"
    "figure{margin:0;padding:12px;background:var(--card);border:1px solid var(--grid);border-radius:8px}"
    "figcaption{font-weight:600;font-size:14px;margin-bottom:8px}svg{display:block;width:100%;height:auto}"
    "svg text{font-size:12px;fill:var(--ink)}svg .dim{fill:var(--dim)}svg .on{fill:var(--card);font-weight:700;"
    "font-size:11px}.grid{stroke:var(--grid)}.track{fill:var(--grid)}.thick{stroke-width:4;stroke-linecap:round;"
    "opacity:.45}.thin{stroke-width:1.5;opacity:.6}.line{fill:none;stroke-width:1.8}"
    ".key{font-size:12.5px;display:flex;flex-wrap:wrap;gap:4px 14px}.key i{display:inline-block;width:10px;height:10px;"
    "border-radius:5px;margin-right:5px}\n";

static double step_seconds(const contender *row) {
    return row->step_seconds;
}
static double most_memory(const contender *row) {
    return row->kind == PEFT_COMPARE_TRAIN ? row->memory : row->inference_memory;
}
static double milliseconds(const contender *row) {
    return row->q.milliseconds;
}
static double parameters(const contender *row) {
    return row->trained >= 0 ? (double)row->trained : NAN;
}
static double training(const contender *row) {
    return row->kind == PEFT_COMPARE_TRAIN ? row->train_flops_counted : 0.0;
}
static double inference(const contender *row) {
    return row->infer_flops_counted;
}

static const char *seconds_text(double value, char *buffer, size_t size) {
    snprintf(buffer, size, value >= 1.0 ? "%.2f s" : "%.4f s", value);
    return buffer;
}
static const char *milliseconds_text(double value, char *buffer, size_t size) {
    snprintf(buffer, size, "%.3g ms", value);
    return buffer;
}
static const char *bytes_text(double value, char *buffer, size_t size) {
    return isfinite(value) ? format_bytes((uint64_t)value, buffer, size) : "-";
}
static const char *count_text(double value, char *buffer, size_t size) {
    static const char *const UNITS[] = {"", " k", " M", " G"};
    size_t unit = 0;
    while (value >= 1000.0 && unit < 3) {
        value /= 1000.0;
        unit++;
    }
    snprintf(buffer, size, "%.3g%s", value, UNITS[unit]);
    return buffer;
}
static const char *power_text(double value, char *buffer, size_t size) {
    snprintf(buffer, size, "%.0e", value);
    return buffer;
}

/* ---- the table ------------------------------------------------------------------------------------------------- */

static void cell(const char *text, FILE *out) {
    fputs("<td>", out);
    compare_escape(text, out);
    fputs("</td>", out);
}

static void number_cell(const char *format, double value, FILE *out) {
    char text[48] = "–";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    if (isfinite(value)) snprintf(text, sizeof text, format, value);
#pragma GCC diagnostic pop
    cell(text, out);
}

/* The best value of the measure that the first row has; SIZE_MAX when there is none. */
static size_t best_of(const comparison *c) {
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < c->done; i++) {
        const contender *row = &c->rows[i];
        if (row->reason != NULL || !isfinite(row->q.value)) continue;
        if (best == SIZE_MAX ||
            (row->q.more_is_better == c->rows[best].q.more_is_better &&
             (row->q.more_is_better ? row->q.value > c->rows[best].q.value : row->q.value < c->rows[best].q.value)))
            best = i;
    }
    return best;
}

static void put_row(const comparison *c, size_t index, bool best, FILE *out) {
    const contender *row = &c->rows[index];
    char a[48], b[48], interval[112];
    fprintf(out, "<tr%s><td>%zu</td>", best ? " class=\"best\"" : "", index + 1);
    cell(row->name, out);
    if (row->reason != NULL) {
        fputs("<td class=\"why\" colspan=\"14\">no result: ", out);
        compare_escape(row->reason, out);
        fputs("</td></tr>\n", out);
        return;
    }
    cell(row->q.measure, out);
    cell(compare_value(row, row->q.value, a, sizeof a), out);
    snprintf(interval, sizeof interval, "–");
    if (isfinite(row->q.low) && isfinite(row->q.high))
        snprintf(interval, sizeof interval, "%s to %s", compare_value(row, row->q.low, a, sizeof a),
                 compare_value(row, row->q.high, b, sizeof b));
    cell(interval, out);
    cell(row->trained >= 0 ? format_count(row->trained, a, sizeof a) : "–", out);
    number_cell("%.3g %%", 100.0 * row->share, out);
    cell(bytes_text(row->bytes, a, sizeof a), out);
    cell(bytes_text(most_memory(row), a, sizeof a), out);
    number_cell("%.4f", row->step_seconds, out);
    number_cell("%.2f", row->seconds, out);
    number_cell("%.2e", row->kind == PEFT_COMPARE_TRAIN ? row->train_flops : 0.0, out);
    number_cell("%.2e", row->kind == PEFT_COMPARE_TRAIN ? row->train_flops_counted : 0.0, out);
    number_cell("%.2e", row->infer_flops, out);
    number_cell("%.2e", row->infer_flops_counted, out);
    number_cell("%.3f", row->q.milliseconds, out);
    fputs("</tr>\n", out);
}

static void put_table(const comparison *c, FILE *out) {
    fputs("<div class=\"wide\"><table>\n<tr><th></th><th>entry</th><th>measure</th><th>value</th><th>interval</th>"
          "<th>trained<br>parameters</th><th>share</th><th>on disk</th><th>memory</th><th>seconds<br>a step</th>"
          "<th>training<br>seconds</th><th>training<br>FLOPs</th><th>counted</th><th>FLOPs an<br>example</th>"
          "<th>counted</th><th>ms an<br>example</th></tr>\n",
          out);
    const size_t best = best_of(c);
    for (size_t i = 0; i < c->done; i++) put_row(c, i, i == best, out);
    fputs("</table></div>\n", out);
}

static void put_notes(const comparison *c, FILE *out) {
    fprintf(out,
            "<p class=\"dim\">Interval: %g %% of bootstrap samples of the held-out examples (written prompts: Wilson's "
            "score interval)%s. Memory: most bytes that the library held at once, a mapped model not counted; trained "
            "entries while training, others while answering. Seconds a step: the median. FLOPs: the model of Liu et "
            "al. 2022 (2 a parameter and token to read, 6 to learn; half of that for encoder-decoder models); counted: "
            "those of the matrix products that were done. "
            "Milliseconds: whole batches, divided by their examples.</p>\n",
            100.0 * c->level, c->seeds > 1 ? "; values of trained entries are means over seeds" : "");
    for (size_t i = 0; i < c->done; i++) {
        const contender *row = &c->rows[i];
        if (row->reason != NULL || (row->detail[0] == '\0' && row->seeds < 2)) continue;
        fputs("<p class=\"dim\">", out);
        compare_escape(row->name, out);
        fputs(": ", out);
        compare_escape(row->detail, out);
        if (row->seeds > 1) {
            char a[48], b[48];
            fprintf(out, "%s%lld seeds, from %s to %s", row->detail[0] != '\0' ? "; " : "", (long long)row->seeds,
                    compare_value(row, row->seed_low, a, sizeof a), compare_value(row, row->seed_high, b, sizeof b));
        }
        fputs("</p>\n", out);
    }
}

char *compare_html(const comparison *c) {
    char *text = NULL, took[32];
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    if (out == NULL) return NULL;
    fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Comparison of "
          "methods</title>\n"
          "<style>",
          out);
    fputs(STYLE, out);
    for (int k = 0; k < 8; k++)
        fprintf(out, ".c%d{stroke:var(--k%d)}.f%d{fill:var(--k%d)}.b%d{background:var(--k%d)}", k, k, k, k, k, k);
    fputs("</style></head><body>\n<h1>Comparison of methods</h1>\n<p>", out);
    compare_escape(c->title, out);
    fprintf(out, "</p>\n<p class=\"dim\">%zu of %zu entries, %s; libpeft %s</p>\n", c->done, c->count,
            format_time(c->seconds, took, sizeof took), peft_version_string());
    put_table(c, out);
    fputs("<div class=\"plots\">\n", out);
    compare_plot_intervals(c, out);
    compare_plot_scatter(c, "value against trained parameters", parameters, count_text, out);
    compare_plot_scatter(c, "value against counted FLOPs of training", training, power_text, out);
    compare_plot_scatter(c, "value against counted FLOPs of an example", inference, power_text, out);
    compare_plot_curves(c, out);
    compare_plot_bars(c, "seconds a step", step_seconds, seconds_text, out);
    compare_plot_bars(c, "memory at most", most_memory, bytes_text, out);
    compare_plot_bars(c, "milliseconds an example", milliseconds, milliseconds_text, out);
    fputs("</div>\n", out);
    put_notes(c, out);
    fputs("</body></html>\n", out);
    if (fclose(out) == 0) return text;
    free(text);
    return NULL;
}
