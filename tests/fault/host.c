/* host.c: what the library does to the process it lives in: steady steps take no memory, the base's bytes stay, and
 * locale, errno, rounding and the standard streams are left alone. */
#include <errno.h>
#include <fcntl.h>
#include <fenv.h>
#include <locale.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "world.h"

static void steady_steps(void) {
    world w;
    if (!world_open(&w, NULL)) return;
    double loss = 0.0;
    world_step(&w, NULL);
    CHECK_OK(w.ctx, peft_session_eval(w.session, &w.batch, &loss, NULL));
    uint64_t before = 0, after = 0;
    peft_context_memory(w.ctx, NULL, NULL, &before);
    peft__mem_freeze(w.ctx->mem, true);
    for (uint32_t i = 0; i < 3; i++) {
        world_batch(&w, i);
        w.batch.sequences = WORLD_SEQUENCES - (int64_t)i; /* shorter ones fit as well */
        w.batch.rows = w.offsets[w.batch.sequences];
        world_step(&w, NULL);
        CHECK_OK(w.ctx, peft_session_forward(w.session, &w.batch, &loss));
        CHECK_OK(w.ctx, peft_session_backward(w.session, 0.5f));
        world_step(&w, NULL);
        CHECK_OK(w.ctx, peft_session_eval(w.session, &w.batch, &loss, NULL));
        CHECK_OK(w.ctx, peft_session_zero_grad(w.session));
    }
    peft__mem_freeze(w.ctx->mem, false);
    peft_context_memory(w.ctx, NULL, NULL, &after);
    CHECK(before == after);
    world_close(&w);
}

/* With max_rows given all memory is taken at creation: not even the first step takes any. */
static void first_step(void) {
    world w;
    if (!world_open(&w, NULL)) return;
    peft_session_destroy(w.session);
    peft_session_options options;
    peft_session_options_init(&options);
    options.max_rows = WORLD_ROWS;
    options.max_sequences = WORLD_SEQUENCES;
    peft_memory_info info = {.struct_size = sizeof info};
    uint64_t held = 0, after = 0;
    CHECK_OK(w.ctx, peft_session_memory(w.ctx, w.model, &w.adapter, 1, &options, &info));
    peft_context_memory(w.ctx, &held, NULL, NULL);
    CHECK_OK(w.ctx, peft_session_create(w.ctx, w.model, &w.adapter, 1, &options, &w.session));
    peft_context_memory(w.ctx, &after, NULL, NULL);
    CHECK(info.activations >= info.activations_lower_bound && info.activations_lower_bound > 0);
    CHECK(after - held >= info.activations + info.gradients);
    CHECK(info.optimizer == 8 * (uint64_t)peft_adapter_parameter_count(w.adapter));
    printf("activations %llu bytes, %.3f of the lower bound\n", (unsigned long long)info.activations,
           (double)info.activations / (double)info.activations_lower_bound);
    peft__mem_freeze(w.ctx->mem, true);
    world_step(&w, NULL);
    peft__mem_freeze(w.ctx->mem, false);
    w.batch.rows = WORLD_ROWS + 1; /* more than planned */
    w.offsets[WORLD_SEQUENCES] = WORLD_ROWS;
    CHECK_STATUS(w.ctx, peft_session_forward(w.session, &w.batch, NULL), PEFT_E_ARG);
    world_close(&w);
}

static void *read_whole(const char *path, size_t *out_size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) return NULL;
    fseek(file, 0, SEEK_END);
    *out_size = (size_t)ftell(file);
    rewind(file);
    void *data = malloc(*out_size);
    const size_t got = fread(data, 1, *out_size, file);
    fclose(file);
    CHECK(got == *out_size);
    return data;
}

/* The base in the host's memory: any byte that changed would show. */
static void frozen_bytes(void) {
    char path[4096];
    size_t size = 0;
    snprintf(path, sizeof path, "%s.Q4_1.gguf", world_model_path());
    void *data = read_whole(path, &size), *copy = malloc(size > 0 ? size : 1);
    if (!CHECK(data != NULL && copy != NULL)) return;
    memcpy(copy, data, size);
    world w = {0};
    world_batch(&w, 1);
    CHECK(peft_context_create(NULL, &w.ctx) == PEFT_OK);
    CHECK_OK(w.ctx, peft_model_load_memory(w.ctx, data, size, NULL, &w.model));
    CHECK_OK(w.ctx, peft_adapter_create(w.ctx, w.model, world_config(), 7, &w.adapter));
    CHECK_OK(w.ctx, peft_optimizer_create(w.ctx, w.adapter, NULL, &w.optimizer));
    CHECK_OK(w.ctx, peft_session_create(w.ctx, w.model, &w.adapter, 1, NULL, &w.session));
    const double first = world_step(&w, NULL);
    for (int i = 0; i < 5; i++) world_step(&w, NULL);
    const double last = world_step(&w, NULL);
    CHECK(last < first);
    CHECK(memcmp(data, copy, size) == 0);
    world_close(&w);
    free(data);
    free(copy);
}

static void environment(void) {
    const char *german = setlocale(LC_ALL, "de_DE.UTF-8");
    if (german == NULL) german = setlocale(LC_ALL, "de_DE.utf8");
    printf("locale: %s\n", german != NULL ? german : "de_DE is not installed, the C locale stays");
    char name[128];
    snprintf(name, sizeof name, "%s", setlocale(LC_ALL, NULL));
    fflush(stdout);
    fflush(stderr);

    char file[] = "/tmp/peft-output-XXXXXX";
    const int sink = mkstemp(file), out = dup(1), err = dup(2);
    dup2(sink, 1);
    dup2(sink, 2);
#if defined(__x86_64__)
    const unsigned csr = _mm_getcsr() & ~0x3fu; /* without the sticky flags */
#endif
    const int rounding = fegetround();
    bool same_errno = true;
    double first, last = 0.0;
    world w;
    errno = 0;
    const bool open = world_open(&w, NULL);
    first = open ? world_step(&w, NULL) : 0.0;
    for (int i = 0; open && i < 5; i++) {
        errno = 1234;
        last = world_step(&w, NULL);
        same_errno = same_errno && errno == 1234;
    }
    /* Errors are told, not printed. */
    errno = 1234;
    peft_model *none = NULL;
    if (open) (void)!peft_model_load(w.ctx, "/nowhere/at/all", NULL, &none);
    if (open) (void)!peft_session_forward(w.session, NULL, NULL);
    same_errno = same_errno && errno == 1234;
    world_close(&w);

    fflush(stdout);
    fflush(stderr);
    struct stat info;
    const bool silent = fstat(sink, &info) == 0 && info.st_size == 0;
    dup2(out, 1);
    dup2(err, 2);
    close(out);
    close(err);
    close(sink);
    unlink(file);
    CHECK(open && last < first);
    CHECK(silent);
    CHECK(same_errno);
    CHECK(fegetround() == rounding);
#if defined(__x86_64__)
    CHECK((_mm_getcsr() & ~0x3fu) == csr);
#endif
    CHECK_STR(setlocale(LC_ALL, NULL), name);
    setlocale(LC_ALL, "C");
}

int main(void) {
    steady_steps();
    first_step();
    frozen_bytes();
    environment();
    return check_summary();
}
