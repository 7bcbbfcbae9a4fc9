/* tokenizers: compares this library's tokenizers with ids that another implementation gave.
 *
 *   tokenizers DIR...
 *
 * Each DIR holds tokenizer.json (or another tokenizer that peft_tokenizer_open reads), ids.jsonl and sometimes
 * pairs.jsonl; a DIR without ids.jsonl stands for the folders in it. One line a case, "N passed, N failed" at the end.
 *   ids.jsonl:   {text, ids, with_special?, decoded?}    ids: nothing added, special tokens in the text recognised
 *   pairs.jsonl: {text, pair, ids, type_ids}
 * A file ids.jsonl beside no tokenizer takes it from the file named in the environment variable PEFT_TOKENIZER.
 */
#include <dirent.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "peft/tokenizer.h"

static int passed, failed;

static bool same_ids(const int32_t *got, int64_t count, const json_t *want) {
    if ((int64_t)json_array_size(want) != count) return false;
    for (int64_t i = 0; i < count; i++)
        if (json_integer_value(json_array_get(want, (size_t)i)) != got[i]) return false;
    return true;
}

static void print_ids(const char *what, const int32_t *ids, int64_t count) {
    fprintf(stderr, "    %s:", what);
    for (int64_t i = 0; i < count && i < 60; i++) fprintf(stderr, " %d", ids[i]);
    fprintf(stderr, "\n");
}

static bool check_ids(peft_context *ctx, const peft_tokenizer *tokenizer, const json_t *text, const json_t *want,
                      uint32_t flags, const char *name, int line) {
    if (want == NULL) return true;
    static int32_t ids[1 << 16];
    int64_t count = 0;
    const peft_status status = peft_tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text),
                                                     flags, ids, 1 << 16, &count);
    if (status == PEFT_OK && same_ids(ids, count, want)) return true;
    char *shown = json_dumps(text, JSON_ENCODE_ANY);
    fprintf(stderr, "  %s line %d: %s (flags %u)\n", name, line, shown, flags);
    free(shown);
    if (status != PEFT_OK) {
        fprintf(stderr, "    %s: %s\n", peft_status_name(status), peft_context_error(ctx));
        return false;
    }
    print_ids("got ", ids, count);
    for (size_t i = 0; i < json_array_size(want) && i < 1 << 16; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(want, i));
    print_ids("want", ids, (int64_t)json_array_size(want));
    return false;
}

static bool check_decoded(peft_context *ctx, const peft_tokenizer *tokenizer, const json_t *ids, const json_t *want,
                          const char *name, int line) {
    static int32_t list[1 << 16];
    static char text[1 << 18];
    const size_t count = json_array_size(ids);
    if (want == NULL || count > 1 << 16) return want == NULL;
    for (size_t i = 0; i < count; i++) list[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    size_t length = 0;
    const peft_status status = peft_tokenizer_decode(tokenizer, list, (int64_t)count, 0, text, sizeof text, &length);
    if (status == PEFT_OK && length == json_string_length(want) && memcmp(text, json_string_value(want), length) == 0)
        return true;
    fprintf(stderr, "  %s line %d: decoded \"%.200s\", want \"%.200s\" %s\n", name, line, status == PEFT_OK ? text : "",
            json_string_value(want), status == PEFT_OK ? "" : peft_context_error(ctx));
    return false;
}

static bool check_pair(peft_context *ctx, const peft_tokenizer *tokenizer, const json_t *row, const char *name,
                       int line) {
    static peft_token tokens[1 << 14];
    const json_t *text = json_object_get(row, "text"), *pair = json_object_get(row, "pair");
    const json_t *ids = json_object_get(row, "ids"), *types = json_object_get(row, "type_ids");
    int64_t count = 0;
    const peft_status status = peft_tokenizer_encode_pair(
        tokenizer, json_string_value(text), json_string_length(text), json_string_value(pair), json_string_length(pair),
        PEFT_ENCODE_SPECIAL | PEFT_ENCODE_PARSE_SPECIAL, 0, PEFT_TRUNCATE_NONE, tokens, 1 << 14, &count);
    bool ok = status == PEFT_OK && (size_t)count == json_array_size(ids);
    for (int64_t i = 0; ok && i < count; i++)
        ok = json_integer_value(json_array_get(ids, (size_t)i)) == tokens[i].id &&
             (types == NULL || json_integer_value(json_array_get(types, (size_t)i)) == tokens[i].type);
    if (!ok)
        fprintf(stderr, "  %s line %d: pair differs: %s\n", name, line,
                status == PEFT_OK ? "" : peft_context_error(ctx));
    return ok;
}

/* Returns failures; *rows counts lines. */
static int run_file(peft_context *ctx, const peft_tokenizer *tokenizer, const char *path, bool pairs, int *rows) {
    FILE *file = fopen(path, "rb");
    char *line = NULL;
    size_t room = 0;
    int number = 0, bad = 0;
    if (file == NULL) return 0;
    while (getline(&line, &room, file) > 0) {
        json_error_t error;
        json_t *row = json_loads(line, JSON_ALLOW_NUL, &error);
        number++;
        if (row == NULL) {
            fprintf(stderr, "  %s line %d: %s\n", path, number, error.text);
            bad++;
            continue;
        }
        bool ok;
        if (pairs) {
            ok = check_pair(ctx, tokenizer, row, path, number);
        } else {
            const json_t *text = json_object_get(row, "text"), *ids = json_object_get(row, "ids");
            ok = check_ids(ctx, tokenizer, text, ids, PEFT_ENCODE_PARSE_SPECIAL, path, number);
            ok = check_ids(ctx, tokenizer, text, json_object_get(row, "with_special"),
                           PEFT_ENCODE_PARSE_SPECIAL | PEFT_ENCODE_SPECIAL, path, number) &&
                 ok;
            ok = check_decoded(ctx, tokenizer, ids, json_object_get(row, "decoded"), path, number) && ok;
        }
        bad += !ok;
        json_decref(row);
    }
    free(line);
    fclose(file);
    *rows += number;
    return bad;
}

static bool exists(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file != NULL) fclose(file);
    return file != NULL;
}

static void run_case(peft_context *ctx, const char *folder) {
    char path[4096];
    peft_tokenizer *tokenizer = NULL;
    const char *other = getenv("PEFT_TOKENIZER");
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    const peft_status status = peft_tokenizer_open(ctx, exists(path) || other == NULL ? path : other, &tokenizer);
    if (status != PEFT_OK) {
        printf("%s: FAIL %s: %s\n", folder, peft_status_name(status), peft_context_error(ctx));
        failed++;
        return;
    }
    int rows = 0;
    snprintf(path, sizeof path, "%s/ids.jsonl", folder);
    int bad = run_file(ctx, tokenizer, path, false, &rows);
    snprintf(path, sizeof path, "%s/pairs.jsonl", folder);
    bad += run_file(ctx, tokenizer, path, true, &rows);
    peft_tokenizer_close(tokenizer);
    if (bad == 0 && rows > 0)
        passed++;
    else
        failed++;
    printf("%s: %s %d of %d lines\n", folder, bad == 0 && rows > 0 ? "ok" : "FAIL", rows - bad, rows);
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void run_folder(peft_context *ctx, const char *folder) {
    char path[4096];
    snprintf(path, sizeof path, "%s/ids.jsonl", folder);
    if (exists(path)) {
        run_case(ctx, folder);
        return;
    }
    struct dirent **entries;
    const int count = scandir(folder, &entries, NULL, by_name);
    int cases = 0;
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%s/ids.jsonl", folder, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.' && exists(path)) {
            snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
            run_case(ctx, path);
            cases++;
        }
        free(entries[i]);
    }
    if (count >= 0) free(entries);
    if (cases == 0) {
        printf("%s: FAIL no ids.jsonl\n", folder);
        failed++;
    }
}

int main(int argc, char **argv) {
    peft_context *ctx = NULL;
    if (argc < 2) {
        fprintf(stderr, "usage: tokenizers DIR...\n");
        return 2;
    }
    if (peft_context_create(NULL, &ctx) != PEFT_OK) {
        fprintf(stderr, "no context\n");
        return 1;
    }
    for (int i = 1; i < argc; i++) run_folder(ctx, argv[i]);
    peft_context_destroy(ctx);
    printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}
