/* layout.c: where each storage lies in the arena.
 *
 * Storages with lifetimes that overlap must not overlap in memory. Greedy: largest first, each at the lowest offset that is
 * free during its whole life. On transformer graphs this comes within a few percent of the lower bound (most bytes alive at
 * one step), which is reported beside it; two orders are tried and the smaller arena is taken.
 */
#include <stdlib.h>

#include "graph/graph_internal.h"

/* A storage that has its place; the list is kept sorted by offset. */
typedef struct placed {
    size_t offset, end;
    uint32_t first, last;
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

/* The lowest offset with room for `bytes` during [first, last]; *out_at: where in the list that is. */
static size_t find_place(const placed *list, size_t count, const peft__storage *storage, size_t *out_at) {
    size_t offset = 0, k = 0;
    for (; k < count && list[k].offset < offset + storage->bytes; k++)
        if (list[k].last >= storage->first && storage->last >= list[k].first)
            offset = peft__max_size(offset, list[k].end);
    while (k > 0 && list[k - 1].offset > offset) k--;
    *out_at = k;
    return offset;
}

/* Places order[0..count-1]; returns the arena's size. `list` has room for count, offsets[i] is that of order[i]. */
static size_t place_all(peft__storage *const *order, size_t count, placed *list, size_t *offsets) {
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        const peft__storage *storage = order[i];
        size_t at = 0;
        const size_t offset = find_place(list, i, storage, &at);
        memmove(list + at + 1, list + at, (i - at) * sizeof *list);
        list[at] = (placed){offset, offset + storage->bytes, storage->first, storage->last};
        offsets[i] = offset;
        size = peft__max_size(size, offset + storage->bytes);
    }
    return size;
}

static void take_offsets(peft__storage *const *order, size_t count, const size_t *offsets) {
    for (size_t i = 0; i < count; i++) order[i]->offset = offsets[i];
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
    const size_t bytes = (graph->storage_count + 1) * (sizeof(peft__storage *) + sizeof(placed) + sizeof(size_t));
    uint8_t *work = peft__alloc(mem, bytes);
    if (work == NULL) return peft__fail_nomem(graph->ctx, bytes, "the memory plan");
    placed *list = (placed *)(void *)work;
    size_t *offsets = (size_t *)(void *)(list + graph->storage_count + 1);
    peft__storage **order = (peft__storage **)(void *)(offsets + graph->storage_count + 1);
    size_t count = 0;
    for (size_t i = 0; i < graph->storage_count; i++)
        if (graph->storages[i]->used) order[count++] = graph->storages[i];
    const peft_status status = lower_bound(graph, order, count, &graph->info.lower_bound);
    qsort(order, count, sizeof *order, by_size);
    size_t size = place_all(order, count, list, offsets);
    take_offsets(order, count, offsets);
    if (size > graph->info.lower_bound) {
        qsort(order, count, sizeof *order, by_length);
        const size_t longest_first = place_all(order, count, list, offsets);
        if (longest_first < size) {
            size = longest_first;
            take_offsets(order, count, offsets);
        }
    }
    graph->info.arena = size;
    peft__free(mem, work);
    return status;
}
