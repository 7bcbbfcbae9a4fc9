/* store.c: the tokens of a data set and where its examples begin. */
#include "data/data.h"

#include <math.h>

void peft__store_init(peft__store *store, peft__mem *mem) {
    *store = (peft__store){.mem = mem};
}

void peft__store_free(peft__store *store) {
    peft__free(store->mem, store->ids);
    peft__free(store->mem, store->labels);
    peft__free(store->mem, store->types);
    peft__free(store->mem, store->words);
    peft__free(store->mem, store->spans);
    peft__free(store->mem, store->prompts);
    peft__free(store->mem, store->masks);
    peft__free(store->mem, store->scores);
    peft__free(store->mem, store->begins);
    peft__free(store->mem, store->ends);
    peft__free(store->mem, store->passages);
    peft__free(store->mem, store->inputs);
    peft__free(store->mem, store->examples);
    peft__free(store->mem, store->classes);
    peft__free(store->mem, store->targets);
    peft__free(store->mem, store->parts);
    peft__free(store->mem, store->first_part);
    peft__store_init(store, store->mem);
}

/* Capacity that takes `need` elements, growing by half; false when the bytes cannot be counted. */
static bool grown(int64_t capacity, int64_t need, size_t element, int64_t *out_capacity, size_t *out_bytes) {
    const int64_t more = capacity + capacity / 2;
    *out_capacity = peft__max_i64(peft__max_i64(more, need), 64);
    return peft__mul_size((size_t)*out_capacity, element, out_bytes);
}

/* What belongs to whole examples. */
static peft_status reserve_wholes(peft_context *ctx, peft__store *store, int64_t capacity) {
    size_t bytes = 0;
    if (store->keeps_rows) {
        bytes = (size_t)capacity * sizeof *store->inputs;
        const char **inputs = peft__realloc(store->mem, store->inputs, bytes);
        if (inputs == NULL) return peft__fail_nomem(ctx, bytes, "the rows of a data set");
        store->inputs = inputs;
    }
    if (store->learns == PEFT__LEARNS_CLASS || store->learns == PEFT__LEARNS_CHOICE) {
        bytes = (size_t)capacity * sizeof *store->classes;
        int32_t *classes = peft__realloc(store->mem, store->classes, bytes);
        if (classes == NULL) return peft__fail_nomem(ctx, bytes, "the classes of a data set");
        store->classes = classes;
    }
    if (store->learns == PEFT__LEARNS_CHOICE) {
        bytes = (size_t)capacity * sizeof *store->first_part;
        int64_t *first = peft__realloc(store->mem, store->first_part, bytes);
        if (first == NULL) return peft__fail_nomem(ctx, bytes, "the answers of a data set");
        store->first_part = first;
    }
    if (store->layout != NULL) {
        bytes = (size_t)capacity * sizeof *store->masks;
        int32_t *masks = peft__realloc(store->mem, store->masks, bytes);
        if (masks == NULL) return peft__fail_nomem(ctx, bytes, "the masks of a data set");
        store->masks = masks;
    }
    if (store->embeds) {
        bytes = (size_t)capacity * sizeof *store->scores;
        float *scores = peft__realloc(store->mem, store->scores, bytes);
        if (scores == NULL) return peft__fail_nomem(ctx, bytes, "the scores of a data set");
        store->scores = scores;
    }
    if (store->learns == PEFT__LEARNS_SPAN) {
        bytes = (size_t)capacity * 2 * sizeof *store->spans;
        int32_t *spans = peft__realloc(store->mem, store->spans, bytes);
        if (spans == NULL) return peft__fail_nomem(ctx, bytes, "the answers of a data set");
        store->spans = spans;
        bytes = (size_t)capacity * sizeof *store->passages;
        const peft__passage **passages = peft__realloc(store->mem, store->passages, bytes);
        if (passages == NULL) return peft__fail_nomem(ctx, bytes, "the contexts of a data set");
        store->passages = passages;
    }
    if (store->learns == PEFT__LEARNS_TARGETS) {
        if (!peft__mul_size((size_t)capacity, (size_t)store->target_cols * sizeof *store->targets, &bytes))
            return peft__fail(ctx, PEFT_E_LIMIT, "a data set of %lld examples is too large", (long long)capacity);
        float *targets = peft__realloc(store->mem, store->targets, bytes);
        if (targets == NULL) return peft__fail_nomem(ctx, bytes, "the targets of a data set");
        store->targets = targets;
    }
    return PEFT_OK;
}

peft_status peft__store_reserve(peft_context *ctx, peft__store *store, int64_t tokens, int64_t examples) {
    int64_t capacity;
    size_t bytes;
    if (store->capacity - store->count < tokens) {
        if (!grown(store->capacity, store->count + tokens, sizeof *store->ids, &capacity, &bytes))
            return peft__fail(ctx, PEFT_E_LIMIT, "a data set of %lld tokens is too large",
                              (long long)(store->count + tokens));
        int32_t *ids = peft__realloc(store->mem, store->ids, bytes);
        if (ids == NULL) return peft__fail_nomem(ctx, bytes, "the tokens of a data set");
        store->ids = ids;
        int32_t *labels = peft__realloc(store->mem, store->labels, bytes);
        if (labels == NULL) return peft__fail_nomem(ctx, bytes, "the labels of a data set");
        store->labels = labels;
        if (store->typed) {
            int32_t *types = peft__realloc(store->mem, store->types, bytes);
            if (types == NULL) return peft__fail_nomem(ctx, bytes, "the token types of a data set");
            store->types = types;
        }
        if (store->learns == PEFT__LEARNS_SPAN) {
            uint32_t *begins = peft__realloc(store->mem, store->begins, bytes);
            if (begins != NULL) store->begins = begins;
            uint32_t *ends = peft__realloc(store->mem, store->ends, bytes);
            if (ends != NULL) store->ends = ends;
            if (begins == NULL || ends == NULL)
                return peft__fail_nomem(ctx, bytes, "the places of a data set's tokens");
        }
        if (store->layout != NULL) {
            int32_t *prompts = peft__realloc(store->mem, store->prompts, bytes);
            if (prompts == NULL) return peft__fail_nomem(ctx, bytes, "the prompts of a data set");
            store->prompts = prompts;
        }
        if (store->worded) {
            int32_t *words = peft__realloc(store->mem, store->words, bytes);
            if (words == NULL) return peft__fail_nomem(ctx, bytes, "the words of a data set");
            store->words = words;
        }
        store->capacity = capacity;
    }
    if (store->example_count + examples > INT32_MAX / 4)
        return peft__fail(ctx, PEFT_E_LIMIT, "a data set has at most %d examples", INT32_MAX / 4);
    if (store->example_capacity - store->example_count < examples) {
        if (!grown(store->example_capacity, store->example_count + examples, sizeof *store->examples, &capacity,
                   &bytes))
            return peft__fail(ctx, PEFT_E_LIMIT, "a data set of %lld examples is too large",
                              (long long)(store->example_count + examples));
        peft__example *list = peft__realloc(store->mem, store->examples, bytes);
        if (list == NULL) return peft__fail_nomem(ctx, bytes, "the examples of a data set");
        store->examples = list;
        PEFT_TRY(reserve_wholes(ctx, store, capacity));
        store->example_capacity = capacity;
    }
    return PEFT_OK;
}

peft_status peft__store_reserve_parts(peft_context *ctx, peft__store *store, int64_t parts) {
    int64_t capacity;
    size_t bytes;
    if (store->part_capacity - store->part_count >= parts) return PEFT_OK;
    if (!grown(store->part_capacity, store->part_count + parts, sizeof *store->parts, &capacity, &bytes))
        return peft__fail(ctx, PEFT_E_LIMIT, "a data set of %lld answers is too large",
                          (long long)(store->part_count + parts));
    int32_t *list = peft__realloc(store->mem, store->parts, bytes);
    if (list == NULL) return peft__fail_nomem(ctx, bytes, "the answers of a data set");
    store->parts = list;
    store->part_capacity = capacity;
    return PEFT_OK;
}

void peft__store_put_tokens(peft__store *store, const int32_t *ids, const int32_t *labels, int64_t count) {
    if (count <= 0) return;
    memcpy(store->ids + store->count, ids, (size_t)count * sizeof *ids);
    memcpy(store->labels + store->count, labels, (size_t)count * sizeof *labels);
    store->count += count;
}

void peft__store_put_example(peft__store *store, int64_t first, int32_t length, int32_t context) {
    const int64_t index = store->example_count++;
    store->examples[index] = (peft__example){.first = first, .length = length, .context = context, .row = store->row};
    if (store->inputs != NULL) store->inputs[index] = store->input;
    if (store->spans != NULL) {
        store->spans[2 * index] = store->spans[2 * index + 1] = PEFT_IGNORE_LABEL;
        store->passages[index] = store->passage;
    }
    if (store->classes != NULL) store->classes[index] = PEFT_IGNORE_LABEL;
    for (int64_t c = 0; store->targets != NULL && c < store->target_cols; c++)
        store->targets[index * store->target_cols + c] = NAN;
    if (length > store->longest) store->longest = length;
    if (store->shortest == 0 || length < store->shortest) store->shortest = length;
}

int64_t peft__store_learnt(const peft__store *store, const peft__example *example) {
    int64_t learnt = 0;
    const int64_t index = example - store->examples;
    if (store->learns == PEFT__LEARNS_CLASS) return store->classes[index] != PEFT_IGNORE_LABEL;
    if (store->embeds) return 1;
    if (store->learns == PEFT__LEARNS_CHOICE && store->pairs) return store->classes[index] != PEFT_IGNORE_LABEL;
    if (store->learns == PEFT__LEARNS_SPAN) return store->spans[2 * index] != PEFT_IGNORE_LABEL;
    if (store->learns == PEFT__LEARNS_TARGETS) return !isnan(store->targets[index * store->target_cols]);
    const int32_t shift = store->learns == PEFT__LEARNS_NEXT ? 1 : 0;
    for (int32_t i = example->context > shift ? example->context : shift; i < example->length; i++)
        if (store->labels[example->first + i] != PEFT_IGNORE_LABEL) learnt++;
    return learnt;
}
