/* complete.c: models whose case brings frozen tensors of its own (frozen_extra.safetensors).
 *
 * A head or pooler that the model's files lack and that the case does not train was made at random by the reference. The
 * library has no place for such tensors but a model's files, so a folder is written that holds both.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/safetensors.h"
#include "measure.h"

enum { PATH = 4096, NAME = 512 };

void plain_name(const char *name, char *out, size_t size) {
    static const char wrapper[] = "base_model.model.", saved[] = ".modules_to_save.";
    if (strncmp(name, wrapper, sizeof wrapper - 1) == 0) name += sizeof wrapper - 1;
    const char *middle = strstr(name, saved);
    if (middle == NULL) (void)snprintf(out, size, "%s", name);
    else (void)snprintf(out, size, "%.*s.%s", (int)(middle - name), name, middle + sizeof saved - 1);
}

typedef struct list {
    peft__tensor_out *tensors;
    size_t count;
} list;

static bool holds(const list *l, const char *name) {
    for (size_t i = 0; i < l->count; i++)
        if (strcmp(l->tensors[i].name, name) == 0) return true;
    return false;
}

static void add(peft_context *ctx, list *l, const peft__tensors *from, const peft__tensor *tensor, const char *name) {
    int64_t count = 0;
    float *values = read_floats(ctx, from, tensor->name, &count);
    char *copy = malloc(strlen(name) + 1);
    if (values == NULL || copy == NULL || tensor->ndim > PEFT_MAX_DIMS) {
        free(values);
        free(copy);
        return; /* not numbers: masks and the like */
    }
    memcpy(copy, name, strlen(name) + 1);
    peft__tensor_out *to = &l->tensors[l->count++];
    *to = (peft__tensor_out){.name = copy, .dtype = PEFT_DTYPE_F32, .ndim = tensor->ndim, .data = values};
    memcpy(to->shape, tensor->shape, sizeof to->shape);
}

/* Is a tensor of the same module among the frozen ones? */
static bool is_beside(const peft__tensors *frozen, const char *name) {
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot != NULL && i < peft__tensors_count(frozen); i++) {
        char other[NAME];
        plain_name(peft__tensors_at(frozen, i)->name, other, sizeof other);
        if (strncmp(other, name, (size_t)(dot - name) + 1) == 0) return true;
    }
    return false;
}

static bool copy_file(const char *from, const char *to) {
    char bytes[4096];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    bool done = in != NULL && out != NULL;
    for (size_t n; done && (n = fread(bytes, 1, sizeof bytes, in)) > 0;) done = fwrite(bytes, 1, n, out) == n;
    if (in != NULL) fclose(in);
    if (out != NULL) done = fclose(out) == 0 && done;
    return done;
}

static void collect(peft_context *ctx, list *l, const peft__tensors *from, const peft__tensors *beside) {
    for (size_t i = 0; from != NULL && i < peft__tensors_count(from); i++) {
        const peft__tensor *tensor = peft__tensors_at(from, i);
        char name[NAME];
        plain_name(tensor->name, name, sizeof name);
        if (!holds(l, name) && (beside == NULL || is_beside(beside, name))) add(ctx, l, from, tensor, name);
    }
}

bool complete_model(peft_context *ctx, const char *from, const peft__tensors *frozen, const peft__tensors *trained, const char *to,
                    outcome *out) {
    char a[PATH], b[PATH];
    peft__tensors *base = NULL;
    if (peft__tensors_open_folder(ctx, from, &base) < 0) {
        outcome_fail(out, "the model's files: %s", peft_context_error(ctx));
        return false;
    }
    const size_t most = peft__tensors_count(base) + peft__tensors_count(frozen) + (trained != NULL ? peft__tensors_count(trained) : 0);
    list l = {.tensors = calloc(most + 1, sizeof *l.tensors)};
    if (l.tensors != NULL) {
        collect(ctx, &l, frozen, NULL);
        collect(ctx, &l, base, NULL);
        collect(ctx, &l, trained, frozen);
    }
    (void)mkdir(to, 0700);
    const bool done = l.tensors != NULL && copy_file(join(a, sizeof a, from, "config.json"), join(b, sizeof b, to, "config.json")) &&
                      peft__safetensors_write(ctx, join(a, sizeof a, to, "model.safetensors"), l.tensors, l.count, NULL, 0) >= 0;
    if (!done) outcome_fail(out, "%s cannot be written", to);
    for (size_t i = 0; i < l.count; i++) {
        free((void *)(uintptr_t)l.tensors[i].name);
        free((void *)(uintptr_t)l.tensors[i].data);
    }
    free(l.tensors);
    peft__tensors_unref(base);
    return done;
}

void complete_remove(const char *to) {
    char path[PATH];
    (void)unlink(join(path, sizeof path, to, "config.json"));
    (void)unlink(join(path, sizeof path, to, "model.safetensors"));
    (void)rmdir(to);
}
