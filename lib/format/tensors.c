/* tensors.c: the collection. Records are kept by pointer in an arena so that they stay where they are while the
 * list grows; the table maps names to indices. */
#include "format/tensors.h"

typedef struct pair {
    const char *key, *value;
} pair;

struct peft__tensors {
    peft_context *ctx;
    peft__arena arena;
    const char *name;
    peft__tensor **list;
    size_t count, capacity;
    peft__table names;
    peft__source **sources;
    size_t source_count, source_capacity;
    pair *metadata;
    size_t metadata_count, metadata_capacity;
    atomic_int references;
};

/* Room for one more element; false when out of memory. */
static bool grow(peft__mem *mem, void **list, size_t count, size_t *capacity, size_t element) {
    if (count < *capacity) return true;
    const size_t wanted = *capacity == 0 ? 16 : *capacity * 2;
    size_t bytes = 0;
    if (!peft__mul_size(wanted, element, &bytes)) return false;
    void *larger = peft__realloc(mem, *list, bytes);
    if (larger == NULL) return false;
    *list = larger;
    *capacity = wanted;
    return true;
}

peft_status peft__tensors_create(peft_context *ctx, const char *name, peft__tensors **out_tensors) {
    peft__tensors *t = peft__alloc_zero(ctx->mem, sizeof *t);
    if (t == NULL) return peft__fail_nomem(ctx, sizeof *t, "a collection of tensors");
    t->ctx = peft__context_ref(ctx);
    atomic_init(&t->references, 1);
    peft__arena_init(&t->arena, ctx->mem);
    peft__table_init(&t->names, ctx->mem);
    t->name = peft__arena_strdup(&t->arena, name);
    if (t->name == NULL) {
        peft__tensors_unref(t);
        return peft__fail_nomem(ctx, strlen(name) + 1, "the name of a file");
    }
    *out_tensors = t;
    return PEFT_OK;
}

peft__tensors *peft__tensors_ref(peft__tensors *tensors) {
    atomic_fetch_add_explicit(&tensors->references, 1, memory_order_relaxed);
    return tensors;
}

void peft__tensors_unref(peft__tensors *t) {
    if (t == NULL || atomic_fetch_sub_explicit(&t->references, 1, memory_order_acq_rel) != 1) return;
    peft_context *ctx = t->ctx;
    for (size_t i = 0; i < t->source_count; i++) peft__source_unref(t->sources[i]);
    peft__free(ctx->mem, t->sources);
    peft__free(ctx->mem, t->list);
    peft__free(ctx->mem, t->metadata);
    peft__table_free(&t->names);
    peft__arena_free(&t->arena);
    peft__free(ctx->mem, t);
    peft__context_unref(ctx);
}

peft_status peft__tensors_add_source(peft__tensors *t, peft__source *source, const char **out_file) {
    if (!grow(t->ctx->mem, (void **)&t->sources, t->source_count, &t->source_capacity, sizeof(peft__source *)))
        return peft__fail_nomem(t->ctx, sizeof(peft__source *), "the list of files");
    const char *file = source->name != NULL ? source->name : "memory";
    t->sources[t->source_count++] = peft__source_ref(source);
    *out_file = file;
    return PEFT_OK;
}

peft_status peft__tensors_add(peft__tensors *t, const peft__tensor *tensor) {
    const size_t length = strlen(tensor->name);
    const char *file = tensor->file != NULL ? tensor->file : t->name;
    uint64_t other = 0;
    if (peft__table_get(&t->names, tensor->name, length, &other))
        return peft__fail(t->ctx, PEFT_E_FORMAT, "%s: tensor %s is there twice (also in %s)", file, tensor->name,
                          t->list[other]->file);
    peft__tensor *copy = peft__arena_alloc(&t->arena, sizeof *copy);
    char *name = peft__arena_strndup(&t->arena, tensor->name, length);
    const char *type_name = NULL; /* what the file calls it: only kept where dtype does not say it */
    if (tensor->dtype == PEFT_DTYPE_OTHER)
        type_name = peft__arena_strdup(&t->arena, tensor->type_name != NULL ? tensor->type_name : "?");
    else
        type_name = peft_dtype_name(tensor->dtype);
    if (copy == NULL || name == NULL || type_name == NULL ||
        !grow(t->ctx->mem, (void **)&t->list, t->count, &t->capacity, sizeof(peft__tensor *)) ||
        !peft__table_put(&t->names, name, length, t->count))
        return peft__fail_nomem(t->ctx, sizeof *copy + length, "the list of tensors");
    *copy = *tensor;
    copy->name = name;
    copy->file = file;
    copy->type_name = type_name;
    t->list[t->count++] = copy;
    return PEFT_OK;
}

peft_status peft__tensors_add_metadata(peft__tensors *t, const char *key, const char *value) {
    if (peft__tensors_metadata(t, key) != NULL) return PEFT_OK;
    if (!grow(t->ctx->mem, (void **)&t->metadata, t->metadata_count, &t->metadata_capacity, sizeof *t->metadata))
        return peft__fail_nomem(t->ctx, sizeof *t->metadata, "the metadata of a file");
    const pair copy = {peft__arena_strdup(&t->arena, key), peft__arena_strdup(&t->arena, value)};
    if (copy.key == NULL || copy.value == NULL)
        return peft__fail_nomem(t->ctx, strlen(value), "the metadata of a file");
    t->metadata[t->metadata_count++] = copy;
    return PEFT_OK;
}

const char *peft__tensors_metadata(const peft__tensors *t, const char *key) {
    for (size_t i = 0; i < t->metadata_count; i++)
        if (strcmp(t->metadata[i].key, key) == 0) return t->metadata[i].value;
    return NULL;
}

size_t peft__tensors_count(const peft__tensors *t) {
    return t->count;
}
const char *peft__tensors_name(const peft__tensors *t) {
    return t->name;
}

const peft__tensor *peft__tensors_at(const peft__tensors *t, size_t index) {
    return index < t->count ? t->list[index] : NULL;
}

const peft__tensor *peft__tensors_find(const peft__tensors *t, const char *name) {
    uint64_t index = 0;
    return peft__table_get(&t->names, name, strlen(name), &index) ? t->list[index] : NULL;
}

peft_status peft__tensors_need(peft_context *ctx, const peft__tensors *t, const char *name,
                               const peft__tensor **out_tensor) {
    const peft__tensor *found = peft__tensors_find(t, name);
    if (found != NULL) {
        *out_tensor = found;
        return PEFT_OK;
    }
    const char *near = NULL;
    const char **names = peft__alloc(ctx->mem, t->count * sizeof *names);
    if (names != NULL) {
        for (size_t i = 0; i < t->count; i++) names[i] = t->list[i]->name;
        near = peft__closest(name, names, t->count);
        peft__free(ctx->mem, names);
    }
    if (near != NULL)
        return peft__fail(ctx, PEFT_E_MISMATCH, "%s: there is no tensor %s (the closest name is %s)", t->name, name,
                          near);
    return peft__fail(ctx, PEFT_E_MISMATCH, "%s: there is no tensor %s among its %zu tensors", t->name, name, t->count);
}

void peft__tensors_drop(const peft__tensors *t, const peft__tensor *tensor) {
    for (size_t i = 0; i < t->source_count; i++) {
        const uint8_t *base = t->sources[i]->data;
        const size_t size = t->sources[i]->size;
        if (base == NULL || tensor->data < base || (size_t)(tensor->data - base) > size) continue;
        const size_t offset = (size_t)(tensor->data - base);
        if (tensor->bytes > size - offset) continue;
        peft__source_drop(t->sources[i], offset, tensor->bytes);
        return;
    }
}
