/* compare_table.c: a comparison as text: two tables that fit eighty columns, a CSV file for other programs, a line of
 * JSON an entry. */
#include "compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *compare_value(const contender *row, double value, char *buffer, size_t size) {
    if (!isfinite(value))
        snprintf(buffer, size, "-");
    else if (strcmp(row->q.measure, "loss") == 0 || fabs(value) > 1.0)
        snprintf(buffer, size, "%.4f", value);
    else
        snprintf(buffer, size, "%.3f", value);
    return buffer;
}

const char *compare_flops(double flops, char *buffer, size_t size) {
    if (!isfinite(flops))
        snprintf(buffer, size, "-");
    else
        snprintf(buffer, size, flops > 0.0 ? "%.2e" : "%.0f", flops);
    return buffer;
}

static const char *bytes_text(double bytes, char *buffer, size_t size) {
    if (!isfinite(bytes)) return "-";
    return format_bytes((uint64_t)bytes, buffer, size);
}

static const char *number_text(const char *format, double value, char *buffer, size_t size) {
    if (!isfinite(value)) return "-";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(buffer, size, format, value);
#pragma GCC diagnostic pop
    return buffer;
}

/* Columns that a terminal gives a text: bytes that begin a character. */
static int width_of(const char *text) {
    int width = 0;
    for (; *text != '\0'; text++) width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static void put_name(const contender *row, int width, FILE *out) {
    fprintf(out, "%s%*s", row->name, width - width_of(row->name) + 2, "");
}

static void print_results(const comparison *c, int width, FILE *out) {
    char a[40], b[40], d[40], e[40], f[40];
    fprintf(out, "\n%*s  %-11s %8s  %-18s %13s %8s %9s\n", -width, "", "measure", "value", "interval", "trained",
            "share", "on disk");
    for (size_t i = 0; i < c->done; i++) {
        const contender *row = &c->rows[i];
        put_name(row, width, out);
        if (row->reason != NULL) {
            fprintf(out, "no result: %s\n", row->reason);
            continue;
        }
        char interval[96] = "";
        if (isfinite(row->q.low) && isfinite(row->q.high))
            snprintf(interval, sizeof interval, "[%s, %s]", compare_value(row, row->q.low, a, sizeof a),
                     compare_value(row, row->q.high, b, sizeof b));
        fprintf(out, "%-11s %8s  %-18s %13s %8s %9s\n", row->q.measure, compare_value(row, row->q.value, a, sizeof a),
                interval, format_count(row->trained, d, sizeof d),
                number_text("%.3g %%", 100.0 * row->share, e, sizeof e), bytes_text(row->bytes, f, sizeof f));
    }
}

static void print_costs(const comparison *c, int width, FILE *out) {
    char a[40], b[40], d[40], e[40];
    fprintf(out, "\n%*s  %12s %12s %12s %12s\n", -width, "", "memory", "s/step", "training s", "ms/example");
    for (size_t i = 0; i < c->done; i++) {
        const contender *row = &c->rows[i];
        if (row->reason != NULL) continue;
        put_name(row, width, out);
        const double memory = row->kind == PEFT_COMPARE_TRAIN ? row->memory : row->inference_memory;
        fprintf(out, "%12s %12s %12s %12s\n", bytes_text(memory, a, sizeof a),
                number_text("%.4f", row->step_seconds, b, sizeof b), number_text("%.2f", row->seconds, d, sizeof d),
                number_text("%.3f", row->q.milliseconds, e, sizeof e));
    }
}

static void print_operations(const comparison *c, int width, FILE *out) {
    char a[40], b[40], d[40], e[40];
    fprintf(out, "\n%*s  %12s %12s %12s %12s\n", -width, "FLOPs", "training", "counted", "an example", "counted");
    for (size_t i = 0; i < c->done; i++) {
        const contender *row = &c->rows[i];
        if (row->reason != NULL) continue;
        put_name(row, width, out);
        fprintf(out, "%12s %12s %12s %12s\n", compare_flops(row->train_flops, a, sizeof a),
                compare_flops(row->train_flops_counted, b, sizeof b), compare_flops(row->infer_flops, d, sizeof d),
                compare_flops(row->infer_flops_counted, e, sizeof e));
    }
}

static void print_forgetting(const comparison *c, int width, FILE *out) {
    char a[40], b[40], d[40];
    bool any = false;
    for (size_t i = 0; i < c->done; i++) any = any || isfinite(c->rows[i].forgetting_after);
    if (!any) return;
    fprintf(out, "\n%*s  %12s %12s %12s\n", -width, "own task", "base", "adapted", "lost");
    for (size_t i = 0; i < c->done; i++) {
        const contender *row = &c->rows[i];
        if (row->reason != NULL || row->kind != PEFT_COMPARE_TRAIN) continue;
        put_name(row, width, out);
        fprintf(out, "%12s %12s %12s\n", number_text("%.4f", row->forgetting_before, a, sizeof a),
                number_text("%.4f", row->forgetting_after, b, sizeof b),
                number_text("%+.4f", row->forgetting_after - row->forgetting_before, d, sizeof d));
    }
    fprintf(out, "Loss of what the base was trained for, on eval.forgetting. Without its adapter it is the base's "
                 "again.\n");
}

void compare_print(const comparison *c, FILE *out) {
    int width = 6;
    for (size_t i = 0; i < c->done; i++)
        if (width_of(c->rows[i].name) > width) width = width_of(c->rows[i].name);
    print_results(c, width, out);
    print_costs(c, width, out);
    print_operations(c, width, out);
    print_forgetting(c, width, out);
    fprintf(out, "\nInterval: %g %% of bootstrap samples of the held-out examples", 100.0 * c->level);
    if (c->seeds > 1) fprintf(out, "; values are means over %lld seeds", (long long)c->seeds);
    fprintf(out, ". FLOPs: the model of Liu et al. 2022,\nand the matrix products that were done, counted.\n");
    for (size_t i = 0; i < c->done; i++) {
        const contender *row = &c->rows[i];
        if (row->reason == NULL && row->detail[0] != '\0') fprintf(out, "%s: %s\n", row->name, row->detail);
    }
}

/* ---- CSV ---------------------------------------------------------------------------------------------------- */

static void csv_text(const char *text, FILE *out) {
    fputc('"', out);
    for (; *text != '\0'; text++) {
        if (*text == '"') fputc('"', out);
        fputc(*text == '\n' ? ' ' : *text, out);
    }
    fputc('"', out);
}

/* An empty field where a number is not known. */
static void csv_number(double value, FILE *out) {
    fputc(',', out);
    if (isfinite(value)) fprintf(out, "%.10g", value);
}

static const char *kind_name(int32_t kind) {
    static const char *const NAMES[] = {"train", "base", "hard_prompt", "icl"};
    return kind >= 0 && kind < 4 ? NAMES[kind] : "?";
}

char *compare_csv(const comparison *c) {
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    if (out == NULL) return NULL;
    fputs("name,kind,measure,value,low,high,seeds,seed_low,seed_high,examples,trained_parameters,share,bytes_on_disk,"
          "peak_memory,inference_memory,steps,seconds_per_step,training_seconds,training_tokens,training_flops,"
          "training_flops_frozen,training_flops_counted,inference_flops,inference_flops_uncached,"
          "inference_flops_counted,ms_per_example,tokens_per_example,own_task_loss_before,own_task_loss_after,reason\n",
          out);
    for (size_t i = 0; i < c->done; i++) {
        const contender *r = &c->rows[i];
        csv_text(r->name, out);
        fprintf(out, ",%s,%s", kind_name(r->kind), r->q.measure);
        const double numbers[] = {r->q.value,
                                  r->q.low,
                                  r->q.high,
                                  (double)r->seeds,
                                  r->seed_low,
                                  r->seed_high,
                                  (double)r->q.examples,
                                  r->trained >= 0 ? (double)r->trained : NAN,
                                  r->share,
                                  r->bytes,
                                  r->memory,
                                  r->inference_memory,
                                  (double)r->steps,
                                  r->step_seconds,
                                  r->seconds,
                                  r->train_tokens,
                                  r->train_flops,
                                  r->train_flops_frozen,
                                  r->train_flops_counted,
                                  r->infer_flops,
                                  r->infer_flops_uncached,
                                  r->infer_flops_counted,
                                  r->q.milliseconds,
                                  r->q.tokens,
                                  r->forgetting_before,
                                  r->forgetting_after};
        for (size_t k = 0; k < sizeof numbers / sizeof numbers[0]; k++) csv_number(numbers[k], out);
        fputc(',', out);
        if (r->reason != NULL) csv_text(r->reason, out);
        fputc('\n', out);
    }
    if (fclose(out) == 0) return text;
    free(text);
    return NULL;
}

/* ---- JSON --------------------------------------------------------------------------------------------------- */

void compare_json(const comparison *c, const contender *row) {
    json_line j = {.text = NULL};
    json_begin(&j);
    json_text(&j, "event", "entry");
    json_text(&j, "name", row->name);
    json_text(&j, "kind", kind_name(row->kind));
    json_text(&j, "reason", row->reason);
    json_text(&j, "measure", row->reason == NULL ? row->q.measure : NULL);
    json_number(&j, "value", row->q.value);
    json_number(&j, "low", row->q.low);
    json_number(&j, "high", row->q.high);
    json_number(&j, "level", c->level);
    json_count(&j, "seeds", row->seeds);
    json_number(&j, "seed_low", row->seed_low);
    json_number(&j, "seed_high", row->seed_high);
    json_count(&j, "examples", row->q.examples);
    json_number(&j, "trained_parameters", row->trained >= 0 ? (double)row->trained : NAN);
    json_number(&j, "share", row->share);
    json_number(&j, "bytes_on_disk", row->bytes);
    json_number(&j, "peak_memory", row->memory);
    json_number(&j, "inference_memory", row->inference_memory);
    json_count(&j, "steps", row->steps);
    json_number(&j, "seconds_per_step", row->step_seconds);
    json_number(&j, "training_seconds", row->seconds);
    json_number(&j, "training_tokens", row->train_tokens);
    json_number(&j, "training_flops", row->train_flops);
    json_number(&j, "training_flops_frozen", row->train_flops_frozen);
    json_number(&j, "training_flops_counted", row->train_flops_counted);
    json_number(&j, "inference_flops", row->infer_flops);
    json_number(&j, "inference_flops_uncached", row->infer_flops_uncached);
    json_number(&j, "inference_flops_counted", row->infer_flops_counted);
    json_number(&j, "ms_per_example", row->q.milliseconds);
    json_number(&j, "tokens_per_example", row->q.tokens);
    json_number(&j, "own_task_loss_before", row->forgetting_before);
    json_number(&j, "own_task_loss_after", row->forgetting_after);
    json_text(&j, "detail", row->detail[0] != '\0' ? row->detail : NULL);
    puts(json_end(&j));
    fflush(stdout);
    json_free(&j);
}
