/* conformance.c: `conformance DIR...` runs every case below each DIR against the numbers of PyTorch, transformers and PEFT.
 *
 * A folder with case.json is a case (case.c); a file NAME.expected.safetensors holds the logits of the models
 * NAME.TYPE.gguf beside it; schedules.json and optimizers.json hold learning rates and trajectories (trajectories.c). One line a case with its worst errors, each as its tolerance is defined; what is not built is
 * skipped with the reason. Exit status 1 when a case failed.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "format/safetensors.h"
#include "measure.h"

enum { PATH = 4096, DEPTH = 8 };

static bool ends_with(const char *text, const char *end) {
    const size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

/* Logits of one GGUF file at all rows of the one sequence. */
static void run_gguf_type(peft_context *ctx, const char *folder, const char *model_name, const peft__tensors *expected, const char *tensor,
                          tally *counts) {
    char path[PATH];
    outcome out = {0};
    (void)snprintf(out.name, sizeof out.name, "%s.%s.gguf", model_name, tensor + strlen("logits."));
    peft_model *model = NULL;
    peft_session *session = NULL;
    int64_t id_count = 0, count = 0, rows = 0, cols = 0;
    int64_t *ids = read_ints(ctx, expected, "input_ids", &id_count);
    float *want = read_floats(ctx, expected, tensor, &count), *got = malloc((size_t)(count + 1) * sizeof *got);
    int32_t *narrow = malloc((size_t)(id_count + 1) * sizeof *narrow);
    for (int64_t i = 0; narrow != NULL && i < id_count; i++) narrow[i] = (int32_t)ids[i];
    const int32_t offsets[2] = {0, (int32_t)id_count};
    peft_batch batch;
    peft_batch_init(&batch);
    batch.rows = id_count;
    batch.sequences = 1;
    batch.offsets = offsets;
    batch.input_ids = narrow;
    peft_status status = peft_model_load(ctx, join(path, sizeof path, folder, out.name), NULL, &model);
    if (status >= 0) status = peft_session_create(ctx, model, NULL, 0, NULL, &session);
    if (status >= 0) status = peft_session_logits(session, &batch, PEFT_LOGITS_ALL, got, count, &rows, &cols);
    if (status == PEFT_E_UNSUPPORTED) outcome_skip(&out, "%s", peft_context_error(ctx));
    else if (status < 0) outcome_fail(&out, "%s", peft_context_error(ctx));
    else if (rows * cols != count) outcome_fail(&out, "%lld x %lld logits, expected %lld", (long long)rows, (long long)cols, (long long)count);
    else outcome_add(&out, "logits", difference(got, want, count), 1e-3);
    outcome_print(&out, counts);
    peft_session_destroy(session);
    peft_model_destroy(model);
    free(ids);
    free(want);
    free(got);
    free(narrow);
}

void run_gguf(peft_context *ctx, const char *folder, const char *file, tally *counts) {
    char path[PATH], name[256];
    peft__tensors *expected = NULL;
    (void)snprintf(name, sizeof name, "%s", file);
    name[strlen(name) - strlen(".expected.safetensors")] = '\0';
    if (peft__safetensors_open(ctx, join(path, sizeof path, folder, file), &expected) < 0) {
        outcome out = {0};
        (void)snprintf(out.name, sizeof out.name, "%s", name);
        outcome_fail(&out, "%s", peft_context_error(ctx));
        outcome_print(&out, counts);
        return;
    }
    for (size_t i = 0; i < peft__tensors_count(expected); i++) {
        const char *tensor = peft__tensors_at(expected, i)->name;
        if (strncmp(tensor, "logits.", 7) == 0) run_gguf_type(ctx, folder, name, expected, tensor, counts);
    }
    peft__tensors_unref(expected);
}

static void walk(peft_context *ctx, const char *folder, const char *scratch, int depth, tally *counts) {
    char path[PATH];
    if (peft__path_exists(join(path, sizeof path, folder, "case.json"))) {
        run_case(ctx, folder, scratch, counts);
        return;
    }
    peft__arena arena;
    peft__arena_init(&arena, ctx->mem);
    char **names = NULL;
    size_t count = 0;
    if (peft__list_dir(ctx, folder, &arena, &names, &count) < 0) {
        fprintf(stderr, "%s\n", peft_context_error(ctx));
        counts->failed++;
    }
    for (size_t i = 0; i < count; i++) {
        join(path, sizeof path, folder, names[i]);
        if (strcmp(names[i], "schedules.json") == 0) run_schedules(path, counts);
        else if (strcmp(names[i], "optimizers.json") == 0) run_optimizers(ctx, folder, counts);
        else if (ends_with(names[i], ".expected.safetensors")) run_gguf(ctx, folder, names[i], counts);
        else if (depth < DEPTH && peft__path_is_dir(path)) walk(ctx, path, scratch, depth + 1, counts);
    }
    peft__arena_free(&arena);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: conformance DIR...\n");
        return 2;
    }
    const char *temporary = getenv("TMPDIR");
    char scratch[PATH];
    (void)snprintf(scratch, sizeof scratch, "%s/peft-conformance-XXXXXX", temporary != NULL ? temporary : "/tmp");
    if (mkdtemp(scratch) == NULL) {
        perror(scratch);
        return 2;
    }
    peft_context *ctx = NULL;
    if (peft_context_create(NULL, &ctx) < 0) return 2;
    tally counts = {0};
    for (int i = 1; i < argc; i++) {
        char folder[PATH];
        (void)snprintf(folder, sizeof folder, "%s", argv[i]);
        for (size_t length = strlen(folder); length > 1 && folder[length - 1] == '/'; length--) folder[length - 1] = '\0';
        walk(ctx, folder, scratch, 0, &counts);
    }
    peft_context_destroy(ctx);
    char path[PATH], file[PATH];
    static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors"};
    join(path, sizeof path, scratch, "adapter");
    for (size_t i = 0; i < PEFT_COUNT(files); i++) (void)unlink(join(file, sizeof file, path, files[i]));
    (void)rmdir(path);
    complete_remove(join(path, sizeof path, scratch, "model"));
    (void)rmdir(scratch);
    printf("%d passed, %d failed, %d skipped\n", counts.passed, counts.failed, counts.skipped);
    return counts.failed > 0 ? 1 : 0;
}
