/* Files: folders, atomic replacement, full disks and other failures, of which the old file must not notice. */
#include "base/base.h"
#include "check.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/peft-file-XXXXXX";

static const char *in_folder(const char *name) {
    static char path[64][300];
    static int next;
    next = (next + 1) % 64;
    snprintf(path[next], sizeof path[next], "%s/%s", folder, name);
    return path[next];
}

static bool file_is(const char *path, const char *data, size_t size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) return false;
    char *content = malloc(size + 2);
    const bool same = fread(content, 1, size + 1, file) == size && memcmp(content, data, size) == 0;
    free(content);
    fclose(file);
    return same;
}

static size_t entries(peft_context *ctx) {
    peft__arena arena;
    peft__arena_init(&arena, ctx->mem);
    char **names;
    size_t count = 999;
    CHECK_OK(ctx, peft__list_dir(ctx, folder, &arena, &names, &count));
    peft__arena_free(&arena);
    return count;
}

static void test_paths(peft_context *ctx) {
    char *path = peft__path_join(ctx->mem, "a", "b");
    CHECK_STR(path, "a/b");
    peft__free(ctx->mem, path);
    path = peft__path_join(ctx->mem, "a/", "b");
    CHECK_STR(path, "a/b");
    peft__free(ctx->mem, path);
    path = peft__path_join(ctx->mem, "", "b");
    CHECK_STR(path, "b");
    peft__free(ctx->mem, path);

    errno = 0;
    CHECK_OK(ctx, peft__make_dirs(ctx, in_folder("x//y/z/")));
    CHECK(peft__path_is_dir(in_folder("x/y/z")) && peft__path_exists(in_folder("x")) && errno == 0);
    CHECK_OK(ctx, peft__make_dirs(ctx, in_folder("x/y/z")));
    CHECK_OK(ctx, peft__make_dirs(ctx, "/"));
    CHECK(!peft__path_exists(in_folder("nothing")) && !peft__path_is_dir(in_folder("nothing")));
    CHECK_OK(ctx, peft__write_file(ctx, in_folder("x/file"), "1", 1));
    CHECK(!peft__path_is_dir(in_folder("x/file")) && peft__path_exists(in_folder("x/file")));
    CHECK_STATUS(ctx, peft__make_dirs(ctx, in_folder("x/file/deeper")), PEFT_E_IO);
    CHECK(strstr(peft_context_error(ctx), "expected a folder, found a file") != NULL);
    CHECK_STATUS(ctx, peft__make_dirs(ctx, ""), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft__make_dirs(ctx, "/proc/nothing/here"), PEFT_E_IO);

    CHECK_OK(ctx, peft__write_file(ctx, in_folder("x/b"), "", 0));
    CHECK_OK(ctx, peft__write_file(ctx, in_folder("x/a"), NULL, 0));
    peft__arena arena;
    peft__arena_init(&arena, ctx->mem);
    char **names = NULL;
    size_t count = 0;
    CHECK_OK(ctx, peft__list_dir(ctx, in_folder("x"), &arena, &names, &count));
    CHECK(count == 4 && strcmp(names[0], "a") == 0 && strcmp(names[1], "b") == 0 && strcmp(names[2], "file") == 0 &&
          strcmp(names[3], "y") == 0);
    CHECK_OK(ctx, peft__list_dir(ctx, in_folder("x/y/z"), &arena, &names, &count));
    CHECK(count == 0);
    CHECK_STATUS(ctx, peft__list_dir(ctx, in_folder("nothing"), &arena, &names, &count), PEFT_E_IO);
    peft__mem_freeze(ctx->mem, true);
    peft__arena none;
    peft__arena_init(&none, ctx->mem);
    CHECK_STATUS(ctx, peft__list_dir(ctx, in_folder("x"), &none, &names, &count), PEFT_E_NOMEM);
    peft__mem_freeze(ctx->mem, false);
    peft__arena_free(&arena);
    unlink(in_folder("x/a"));
    unlink(in_folder("x/b"));
    unlink(in_folder("x/file"));
    rmdir(in_folder("x/y/z"));
    rmdir(in_folder("x/y"));
    rmdir(in_folder("x"));
}

static void test_writer(peft_context *ctx) {
    const char *path = in_folder("model.safetensors");
    CHECK_OK(ctx, peft__write_file(ctx, path, "old", 3));
    CHECK(file_is(path, "old", 3) && entries(ctx) == 1);
    chmod(path, 0640);

    /* Pieces of all sizes around the buffer's. */
    static const size_t sizes[] = {1, 7, 262143, 262144, 262145, 5, 1000000, 131072, 131072, 131072};
    size_t total = 0;
    for (size_t i = 0; i < PEFT_COUNT(sizes); i++) total += sizes[i];
    char *data = malloc(total);
    for (size_t i = 0; i < total; i++) data[i] = (char)(i * 31 % 241);
    peft__writer *writer = NULL, *other = NULL;
    CHECK_OK(ctx, peft__writer_open(ctx, path, &writer));
    size_t at = 0;
    for (size_t i = 0; i < PEFT_COUNT(sizes); i++) {
        CHECK(peft__writer_offset(writer) == at);
        CHECK_OK(ctx, peft__writer_put(writer, data + at, sizes[i]));
        at += sizes[i];
    }
    CHECK(file_is(path, "old", 3));
    /* Two at once have files of their own; the later commit stays. */
    CHECK_OK(ctx, peft__writer_open(ctx, path, &other));
    CHECK_OK(ctx, peft__writer_put(other, "other", 5));
    CHECK(entries(ctx) == 3);
    CHECK_OK(ctx, peft__writer_commit(other));
    CHECK(file_is(path, "other", 5));
    CHECK_OK(ctx, peft__writer_commit(writer));
    CHECK(file_is(path, data, total) && entries(ctx) == 1);
    struct stat info;
    CHECK(stat(path, &info) == 0 && (info.st_mode & 0777) == 0640);

    CHECK_OK(ctx, peft__writer_open(ctx, path, &writer));
    CHECK_OK(ctx, peft__writer_put(writer, "new", 3));
    peft__writer_abort(writer);
    peft__writer_abort(NULL);
    CHECK(file_is(path, data, total) && entries(ctx) == 1);
    free(data);

    writer = NULL;
    CHECK_STATUS(ctx, peft__writer_open(ctx, folder, &writer), PEFT_E_IO);
    CHECK_STATUS(ctx, peft__writer_open(ctx, "/dev/full", &writer), PEFT_E_IO);
    CHECK_STATUS(ctx, peft__writer_open(ctx, in_folder("no/such/file"), &writer), PEFT_E_IO);
    CHECK(strstr(peft_context_error(ctx), "no/such/file: cannot be written: No such file") != NULL);
    CHECK_STATUS(ctx, peft__writer_open(ctx, "", &writer), PEFT_E_ARG);
    CHECK(writer == NULL);

    /* Without a slash: in the present folder. */
    char before[4096];
    CHECK(getcwd(before, sizeof before) != NULL && chdir(folder) == 0);
    CHECK_OK(ctx, peft__write_file(ctx, "plain", "x", 1));
    CHECK(chdir(before) == 0 && file_is(in_folder("plain"), "x", 1));
    unlink(in_folder("plain"));

    /* The target turns into a folder before the commit: the rename fails. */
    const char *turned = in_folder("turned");
    CHECK_OK(ctx, peft__writer_open(ctx, turned, &writer));
    CHECK_OK(ctx, peft__writer_put(writer, "x", 1));
    CHECK(mkdir(turned, 0777) == 0);
    CHECK_STATUS(ctx, peft__writer_commit(writer), PEFT_E_IO);
    CHECK(strstr(peft_context_error(ctx), "turned: replacing the file failed") != NULL);
    rmdir(turned);
    CHECK(entries(ctx) == 1);
    unlink(path);
}

/* Every allocation refused in turn: a status, nothing left behind. */
typedef struct failing_heap {
    int64_t left;
} failing_heap;

static void *failing_alloc(void *user, size_t size, size_t align) {
    failing_heap *heap = user;
    if (heap->left == 0) return NULL;
    if (heap->left > 0) heap->left--;
    return aligned_alloc(align, (size + align - 1) / align * align);
}

static void plain_free(void *user, void *memory, size_t size) {
    (void)user;
    (void)size;
    free(memory);
}

static void test_memory_faults(void) {
    failing_heap heap = {.left = -1};
    const peft_allocator allocator = {.alloc = failing_alloc, .free = plain_free, .user = &heap};
    peft_context_options options;
    peft_context_options_init(&options);
    options.allocator = &allocator;
    peft_context *ctx = NULL;
    CHECK_OK(ctx, peft_context_create(&options, &ctx));
    const char *path = in_folder("kept");
    CHECK_OK(ctx, peft__write_file(ctx, path, "old", 3));
    uint64_t held = 0, now = 0;
    peft_context_memory(ctx, &held, NULL, NULL);
    int refused = 0;
    for (;; refused++) {
        heap.left = refused;
        const peft_status status = peft__write_file(ctx, path, "newer", 5);
        heap.left = -1;
        if (status == PEFT_OK) break;
        CHECK(status == PEFT_E_NOMEM && file_is(path, "old", 3) && entries(ctx) == 1);
        peft_context_memory(ctx, &now, NULL, NULL);
        CHECK(now == held);
    }
    CHECK(refused >= 4 && file_is(path, "newer", 5));
    unlink(path);

    for (int left = 0;; left++) {
        heap.left = left;
        peft_context *made = NULL;
        const peft_status status = peft_context_create(&options, &made);
        heap.left = -1;
        if (status == PEFT_OK) {
            peft_context_destroy(made);
            break;
        }
        CHECK(status == PEFT_E_NOMEM && made == NULL);
    }
    peft_context_destroy(ctx);
}

/* In a child, because limits stay: a file may have 100000 bytes, as if the disk were full then. */
static int with_full_disk(peft_context *ctx, const char *path) {
    signal(SIGXFSZ, SIG_IGN);
    const struct rlimit limit = {100000, 100000};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    static char data[300000];
    if (peft__write_file(ctx, path, data, sizeof data) != PEFT_E_IO) return 3;
    if (strstr(peft_context_error(ctx), "writing failed: File too large") == NULL) return 4;
    if (strstr(peft_context_error(ctx), path) == NULL) return 5;
    /* Small pieces: the error shows when the buffer is written, and stays. */
    peft__writer *writer;
    if (peft__writer_open(ctx, path, &writer) != PEFT_OK) return 6;
    peft_status status = PEFT_OK;
    for (int i = 0; i < 300 && status == PEFT_OK; i++) status = peft__writer_put(writer, data, 1000);
    if (status != PEFT_E_IO || peft__writer_put(writer, data, 1) != PEFT_E_IO) return 7;
    if (peft__writer_commit(writer) != PEFT_E_IO) return 8;
    /* Only at commit. */
    if (peft__writer_open(ctx, path, &writer) != PEFT_OK || peft__writer_put(writer, data, 200000) != PEFT_OK) return 9;
    if (peft__writer_commit(writer) != PEFT_E_IO) return 10;
    return file_is(path, "old", 3) && entries(ctx) == 1 ? 0 : 11;
}

static void test_faults(peft_context *ctx) {
    const char *path = in_folder("kept");
    CHECK_OK(ctx, peft__write_file(ctx, path, "old", 3));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) _exit(with_full_disk(ctx, path));
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    if (!CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0)) fprintf(stderr, "    step %d\n", WEXITSTATUS(status));

    /* Killed in the middle: the old file is whole. */
    child = fork();
    if (child == 0) {
        peft__writer *writer;
        static char data[300000];
        if (peft__writer_open(ctx, path, &writer) == PEFT_OK && peft__writer_put(writer, data, sizeof data) == PEFT_OK)
            kill(getpid(), SIGKILL);
        _exit(1);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    CHECK(file_is(path, "old", 3));
    peft__arena arena;
    peft__arena_init(&arena, ctx->mem);
    char **names = NULL;
    size_t count = 0;
    CHECK_OK(ctx, peft__list_dir(ctx, folder, &arena, &names, &count));
    CHECK(count == 2 && strncmp(names[1], "kept.tmp.", 9) == 0);
    for (size_t i = 0; i < count; i++) unlink(in_folder(names[i]));
    peft__arena_free(&arena);
}

int main(void) {
    if (mkdtemp(folder) == NULL) return 77;
    peft_context *ctx = NULL;
    CHECK_OK(ctx, peft_context_create(NULL, &ctx));
    uint64_t before = 0, after = 1;
    peft_context_memory(ctx, &before, NULL, NULL);
    test_paths(ctx);
    test_writer(ctx);
    test_faults(ctx);
    peft_context_memory(ctx, &after, NULL, NULL);
    CHECK(before == after);
    test_memory_faults();
    peft_context_destroy(ctx);
    CHECK(rmdir(folder) == 0);
    return check_summary();
}
