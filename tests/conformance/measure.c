/* measure.c: errors and the lines that report them. */
#include "measure.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void append(outcome *out, const char *format, va_list arguments) {
    const int length = vsnprintf(out->text + out->length, sizeof out->text - out->length, format, arguments);
    if (length > 0) out->length = peft__min_size(sizeof out->text - 1, out->length + (size_t)length);
}

static void put(outcome *out, const char *format, ...) PEFT_PRINTF(2, 3);
static void put(outcome *out, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    append(out, format, arguments);
    va_end(arguments);
}

void outcome_add(outcome *out, const char *what, double error, double tolerance) {
    const bool good = error <= tolerance; /* false for NaN */
    put(out, " %s %.1e%s", what, error, good ? "" : "!");
    if (good) return;
    put(out, "(>%.1e)", tolerance);
    out->failures++;
}

void outcome_fail(outcome *out, const char *format, ...) {
    put(out, " FAILED: ");
    va_list arguments;
    va_start(arguments, format);
    append(out, format, arguments);
    va_end(arguments);
    out->failures++;
}

void outcome_skip(outcome *out, const char *format, ...) {
    out->skipped = true;
    out->length = 0;
    put(out, " ");
    va_list arguments;
    va_start(arguments, format);
    append(out, format, arguments);
    va_end(arguments);
}

void outcome_print(const outcome *out, tally *counts) {
    const char *word = out->failures > 0 ? "FAIL" : out->skipped ? "skip" : "ok  ";
    if (out->failures > 0) counts->failed++;
    else if (out->skipped) counts->skipped++;
    else counts->passed++;
    printf("%s %-28s%s\n", word, out->name, out->text);
    fflush(stdout);
}

float *read_floats(peft_context *ctx, const peft__tensors *tensors, const char *name, int64_t *out_count) {
    const peft__tensor *tensor = peft__tensors_find(tensors, name);
    if (tensor == NULL) return NULL;
    const int64_t count = peft__tensor_elements(tensor);
    float *values = malloc((size_t)(count > 0 ? count : 1) * sizeof *values);
    if (values == NULL || peft__tensor_read_f32(ctx, tensor, values) < 0) {
        free(values);
        return NULL;
    }
    *out_count = count;
    return values;
}

int64_t *read_ints(peft_context *ctx, const peft__tensors *tensors, const char *name, int64_t *out_count) {
    const peft__tensor *tensor = peft__tensors_find(tensors, name);
    if (tensor == NULL) return NULL;
    const int64_t count = peft__tensor_elements(tensor);
    int64_t *values = malloc((size_t)(count > 0 ? count : 1) * sizeof *values);
    if (values == NULL || peft__tensor_read_i64(ctx, tensor, values) < 0) {
        free(values);
        return NULL;
    }
    *out_count = count;
    return values;
}

double largest(const float *values, int64_t count) {
    double most = 0.0;
    for (int64_t i = 0; i < count; i++) most = fmax(most, fabs((double)values[i]));
    return most;
}

double difference(const float *a, const float *b, int64_t count) {
    double most = 0.0;
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(a[i])) return INFINITY;
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
    }
    return most;
}

const char *join(char *buffer, size_t size, const char *folder, const char *name) {
    (void)snprintf(buffer, size, "%s/%s", folder, name);
    return buffer;
}
