/* layout.c: where each storage lies in the arena.
 *
 * Storages with lifetimes that overlap must not overlap in memory. Greedy: largest first, each at the lowest offset that is
 * free during its whole life. On transformer graphs this comes within a few percent of the lower bound (most bytes alive at
 * one step), which is reported beside it; two orders are tried and the smaller arena is taken.
 */
#include <stdlib.h>

#include "graph/graph_internal.h"

typedef struct placed {
    size_t offset, end;
} placed;

static int by_size(const void *a, const void *b) {
    const peft__storage *x = *(peft__storage *const *)a, *y = *(peft__storage *const *)b;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    return x->last < y->last ? -1 : x->last > y->last;
}

static int by_length(const void *a, const void *b) {
    const peft__storage *x = *(peft__storage *const *)a, *y = *(peft__storage *const *)b;
    const uint32_t length_x = x->last - x->first, length_y = y->last - y->first;
    if (length_x != length_y) return length_x > length_y ? -1 : 1;
    return by_size(a, b);
}

static int by_offset(const void *a, const void *b) {
    const placed *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Places order[0..count-1]; returns the arena's size. `taken` has room for count. */
static size_t place_all(peft__storage **order, size_t count, placed *taken) {
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        peft__storage *storage = order[i];
        size_t found = 0;
        for (size_t k = 0; k < i; k++) {
            const peft__storage *other = order[k];
            if (other->last < storage->first || storage->last < other->first) continue;
            taken[found].offset = other->offset;
            taken[found].end = other->offset + other->bytes;
            found++;
        }
        qsort(taken, found, sizeof *taken, by_offset);
        size_t offset = 0;
        for (size_t k = 0; k < found; k++) {
            if (taken[k].offset >= offset + storage->bytes) break;
            offset = peft__max_size(offset, taken[k].end);
        }
        storage->offset = offset;
        size = peft__max_size(size, offset + storage->bytes);
    }
    return size;
}

/* Most bytes alive at one step: births and deaths summed over the steps. */
static peft_status lower_bound(peft__graph *graph, peft__storage *const *order, size_t count, size_t *out_bytes) {
    int64_t *change = peft__alloc_zero(graph->ctx->mem, (graph->step_count + 2) * sizeof *change);
    if (change == NULL) return peft__fail_nomem(graph->ctx, (graph->step_count + 2) * sizeof *change, "the memory plan");
    for (size_t i = 0; i < count; i++) {
        change[order[i]->first] += (int64_t)order[i]->bytes;
        change[order[i]->last + 1] -= (int64_t)order[i]->bytes;
    }
    int64_t alive = 0, most = 0;
    for (size_t i = 0; i <= graph->step_count; i++) {
        alive += change[i];
        most = peft__max_i64(most, alive);
    }
    peft__free(graph->ctx->mem, change);
    *out_bytes = (size_t)most;
    return PEFT_OK;
}

peft_status peft__layout(peft__graph *graph) {
    peft__mem *mem = graph->ctx->mem;
    const size_t bytes = (graph->storage_count + 1) * (sizeof(peft__storage *) + sizeof(placed));
    uint8_t *work = peft__alloc(mem, bytes);
    if (work == NULL) return peft__fail_nomem(graph->ctx, bytes, "the memory plan");
    placed *taken = (placed *)(void *)work;
    peft__storage **order = (peft__storage **)(void *)(taken + graph->storage_count + 1);
    size_t count = 0;
    for (size_t i = 0; i < graph->storage_count; i++)
        if (graph->storages[i]->used) order[count++] = graph->storages[i];
    qsort(order, count, sizeof *order, by_length);
    const size_t longest_first = place_all(order, count, taken);
    qsort(order, count, sizeof *order, by_size);
    size_t size = place_all(order, count, taken);
    if (longest_first < size) {
        qsort(order, count, sizeof *order, by_length);
        size = place_all(order, count, taken);
    }
    graph->info.arena = size;
    const peft_status status = lower_bound(graph, order, count, &graph->info.lower_bound);
    peft__free(mem, work);
    return status;
}
