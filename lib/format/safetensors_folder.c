/* safetensors_folder.c: which files of a model folder hold its tensors.
 *
 * Shard names come from the index and are plain file names: anything that could leave the folder is refused. */
#include <stdlib.h>

#include "format/json.h"
#include "format/safetensors.h"

#define INDEX_NAME "model.safetensors.index.json"

static bool is_plain_name(const json_t *value) {
    const char *name = json_string_value(value);
    if (name == NULL || name[0] == '\0' || strlen(name) != json_string_length(value)) return false;
    return strchr(name, '/') == NULL && strchr(name, '\\') == NULL && strcmp(name, ".") != 0 &&
           strstr(name, "..") == NULL;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The folder part of a path, in `mem`. */
static char *folder_of(peft__mem *mem, const char *path) {
    const char *slash = strrchr(path, '/');
    if (slash == NULL) return peft__strdup(mem, ".");
    return peft__strndup(mem, path, slash == path ? 1 : (size_t)(slash - path));
}

/* Sorted shard names, each once; they point into the JSON tree. */
static peft_status shard_names(peft_context *ctx, const char *index, const json_t *map, const char **names,
                               size_t *out_count) {
    size_t count = 0;
    const char *tensor;
    json_t *shard;
    json_object_foreach((json_t *)map, tensor, shard) {
        if (!is_plain_name(shard))
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: weight_map: %s: expected the name of a file in the same folder",
                              index, tensor);
        names[count++] = json_string_value(shard);
    }
    if (count > 0) qsort(names, count, sizeof *names, compare_names);
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || strcmp(names[i], names[kept - 1]) != 0) names[kept++] = names[i];
    *out_count = kept;
    return PEFT_OK;
}

static peft_status read_shard(peft__tensors *tensors, peft_context *ctx, const char *folder, const char *name) {
    char *path = peft__path_join(ctx->mem, folder, name);
    if (path == NULL) return peft__fail_nomem(ctx, strlen(name), "a path");
    peft__source *source = NULL;
    peft_status status = peft__source_open_path(ctx, path, &source);
    if (status == PEFT_OK) status = peft__safetensors_read(tensors, source, 0);
    peft__source_unref(source);
    peft__free(ctx->mem, path);
    return status;
}

/* Does `path` end in "/name"? */
static bool is_file(const char *path, const char *name) {
    const size_t path_length = strlen(path), length = strlen(name);
    return path_length > length && path[path_length - length - 1] == '/' &&
           strcmp(path + path_length - length, name) == 0;
}

static peft_status read_shards(peft__tensors *tensors, peft_context *ctx, const char *index, const json_t *map) {
    const size_t entries = json_object_size(map);
    size_t count = 0;
    const char **names = peft__alloc(ctx->mem, entries * sizeof *names);
    char *folder = folder_of(ctx->mem, index);
    peft_status status = PEFT_OK;
    if (names == NULL || folder == NULL) status = peft__fail_nomem(ctx, entries * sizeof *names, "the names of shards");
    if (status == PEFT_OK) status = shard_names(ctx, index, map, names, &count);
    for (size_t i = 0; i < count && status == PEFT_OK; i++) {
        status = read_shard(tensors, ctx, folder, names[i]);
        if (status != PEFT_OK) peft__fail_in(ctx, status, "%s", index);
    }
    peft__free(ctx->mem, names);
    peft__free(ctx->mem, folder);
    PEFT_TRY(status);
    const char *name;
    json_t *shard;
    json_object_foreach((json_t *)map, name, shard) {
        const peft__tensor *tensor = peft__tensors_find(tensors, name);
        if (tensor == NULL || !is_file(tensor->file, json_string_value(shard)))
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: tensor %s should be in %s and is not", index, name,
                              json_string_value(shard));
    }
    return PEFT_OK;
}

peft_status peft__safetensors_open_index(peft_context *ctx, const char *index_path, peft__tensors **out_tensors) {
    json_t *json = NULL;
    const peft__json *map = NULL;
    peft__tensors *tensors = NULL;
    PEFT_TRY(peft__json_load_file(ctx, index_path, 0, &json));
    peft_status status = peft__json_need_object(ctx, json, index_path, "weight_map", &map);
    if (status == PEFT_OK) status = peft__tensors_create(ctx, index_path, &tensors);
    if (status == PEFT_OK) status = read_shards(tensors, ctx, index_path, map);
    json_decref(json);
    if (status != PEFT_OK) {
        peft__tensors_unref(tensors);
        return status;
    }
    *out_tensors = tensors;
    return PEFT_OK;
}

static bool has_suffix(const char *name, const char *suffix) {
    const size_t length = strlen(name), tail = strlen(suffix);
    return length > tail && strcmp(name + length - tail, suffix) == 0;
}

/* Neither of the two fixed names is there: the only safetensors file, or the best explanation. */
static peft_status open_only_file(peft_context *ctx, const char *folder, peft__tensors **out_tensors) {
    peft__arena arena;
    peft__arena_init(&arena, ctx->mem);
    char **names = NULL;
    size_t count = 0, found = 0, pickles = 0, gguf = 0;
    const char *only = NULL, *pickle = NULL;
    peft_status status = peft__list_dir(ctx, folder, &arena, &names, &count);
    for (size_t i = 0; i < count && status == PEFT_OK; i++) {
        if (has_suffix(names[i], ".safetensors")) {
            found++;
            only = names[i];
        }
        if (has_suffix(names[i], ".bin") && strncmp(names[i], "pytorch_model", 13) == 0 && pickles++ == 0)
            pickle = names[i];
        if (has_suffix(names[i], ".gguf")) gguf++;
    }
    if (status != PEFT_OK) {
        /* the text is there already */
    } else if (found == 1) {
        char *path = peft__path_join(ctx->mem, folder, only);
        status = path != NULL ? peft__safetensors_open(ctx, path, out_tensors)
                              : peft__fail_nomem(ctx, strlen(only), "a path");
        peft__free(ctx->mem, path);
    } else if (found > 1) {
        status = peft__fail(ctx, PEFT_E_FORMAT,
                            "%s: %zu safetensors files, but neither model.safetensors nor " INDEX_NAME " to say which",
                            folder, found);
    } else if (pickles > 0) {
        status =
            peft__fail(ctx, PEFT_E_UNSUPPORTED,
                       "%s: the weights are only there as %s, a pickle, which can run code and is not read; in Python, "
                       "AutoModel.from_pretrained(folder).save_pretrained(folder) writes model.safetensors",
                       folder, pickle);
    } else {
        status = peft__fail(ctx, PEFT_E_IO, "%s: no model.safetensors, " INDEX_NAME " or other safetensors file%s",
                            folder, gguf > 0 ? "; give the path of the .gguf file itself" : "");
    }
    peft__arena_free(&arena);
    return status;
}

peft_status peft__tensors_open_folder(peft_context *ctx, const char *folder, peft__tensors **out_tensors) {
    char *single = peft__path_join(ctx->mem, folder, "model.safetensors");
    char *index = peft__path_join(ctx->mem, folder, INDEX_NAME);
    peft_status status = PEFT_OK;
    if (single == NULL || index == NULL)
        status = peft__fail_nomem(ctx, strlen(folder), "a path");
    else if (peft__path_exists(single))
        status = peft__safetensors_open(ctx, single, out_tensors);
    else if (peft__path_exists(index))
        status = peft__safetensors_open_index(ctx, index, out_tensors);
    else
        status = open_only_file(ctx, folder, out_tensors);
    peft__free(ctx->mem, single);
    peft__free(ctx->mem, index);
    return status;
}
