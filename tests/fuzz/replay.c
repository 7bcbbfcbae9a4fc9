/* replay.c: runs a fuzz target without a fuzzer, for CI.
 *
 *   fuzz_x_replay ROUNDS FILE-OR-FOLDER...
 *
 * Each seed is given as it is, cut at many lengths, and ROUNDS times with a few bytes changed, repeated, removed or copied from
 * elsewhere; everything follows from the seed's bytes, so a crash can be repeated. With libFuzzer the same targets are
 * linked without this file (meson setup -Dfuzzers=true, clang).
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t state;

static uint64_t draw(uint64_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return below == 0 ? 0 : state % below;
}

static long inputs;

/* The target gets a block of exactly `size` bytes, so that sanitizers see one byte too many. */
static void give(const uint8_t *data, size_t size) {
    uint8_t *exact = malloc(size > 0 ? size : 1);
    if (exact == NULL) exit(1);
    memcpy(exact, data, size);
    (void)LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    inputs++;
}

static void change(uint8_t *data, size_t *size, size_t room) {
    static const uint8_t interesting[] = {0x00, 0x01, 0x7f, 0x80, 0xff, '"', '{', '}', '[', ']', '\\', '\n', ',', ':', '-', '9'};
    if (*size == 0) return;
    const size_t at = draw(*size), length = 1 + draw(8);
    switch (draw(6)) {
    case 0: data[at] ^= (uint8_t)(1u << draw(8)); break;
    case 1: data[at] = interesting[draw(sizeof interesting)]; break;
    case 2: /* a number of 4 or 8 bytes becomes huge or tiny */
        for (size_t i = at; i < *size && i < at + (length > 4 ? 8 : 4); i++) data[i] = draw(2) ? 0xff : (uint8_t)draw(256);
        break;
    case 3: /* remove */
        if (*size > at + length) {
            memmove(data + at, data + at + length, *size - at - length);
            *size -= length;
        }
        break;
    case 4: /* repeat */
        if (*size + length <= room && at + length <= *size) {
            memmove(data + at + length, data + at, *size - at);
            *size += length;
        }
        break;
    default: { /* copy from elsewhere */
        const size_t from = draw(*size), most = *size - (from > at ? from : at);
        memmove(data + at, data + from, length * 4 < most ? length * 4 : most);
        break;
    }
    }
}

static void seed_file(const char *path, long rounds) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fprintf(stderr, "%s cannot be read\n", path);
        exit(1);
    }
    enum { MOST = 4 << 20 };
    uint8_t *seed = malloc(MOST), *work = malloc(MOST + 4096);
    if (seed == NULL || work == NULL) exit(1);
    const size_t size = fread(seed, 1, MOST, file);
    fclose(file);
    state = 0x9e3779b97f4a7c15u ^ size;
    for (size_t i = 0; i < size && i < 4096; i++) state = (state ^ seed[i]) * 0x100000001b3u;
    if (state == 0) state = 1;
    give(seed, size);
    const size_t cuts = size < 64 ? size : 64;
    for (size_t i = 0; i < cuts; i++) give(seed, size < 64 ? i : draw(i % 2 ? size : (size < 4096 ? size : 4096)));
    for (long round = 0; round < rounds; round++) {
        size_t length = size;
        memcpy(work, seed, size);
        for (uint64_t changes = 1 + draw(6); changes > 0; changes--) change(work, &length, MOST + 4096);
        give(work, length);
    }
    free(seed);
    free(work);
}

int main(int argc, char **argv) {
    const long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
    for (int i = 2; i < argc; i++) {
        struct stat info;
        if (stat(argv[i], &info) != 0) {
            fprintf(stderr, "%s does not exist\n", argv[i]);
            return 1;
        }
        if (!S_ISDIR(info.st_mode)) {
            seed_file(argv[i], rounds);
            continue;
        }
        struct dirent **names;
        const int count = scandir(argv[i], &names, NULL, alphasort);
        for (int k = 0; k < count; k++) {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", argv[i], names[k]->d_name);
            if (names[k]->d_name[0] != '.') seed_file(path, rounds);
            free(names[k]);
        }
        free(names);
    }
    give((const uint8_t *)"", 0);
    printf("%ld inputs\n", inputs);
    return inputs > 1 ? 0 : 1;
}
