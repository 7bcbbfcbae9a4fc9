/* order.c: which examples are in which batch of an epoch.
 *
 * A pure function of seed and epoch, so that a checkpoint holds two numbers instead of a permutation and any batch of
 * any epoch can be gone to directly.
 *
 * Packing puts whole examples together first-fit-decreasing: the longest first, each into the first batch that has
 * room. The batches are ragged, so what is put together stays apart: every example is a sequence of its own, with its
 * own positions, attention and labels. Batches are shuffled afterwards, because first-fit-decreasing leaves them sorted
 * by length.
 */
#include "data/data.h"

enum { STREAM_EXAMPLES = 1, STREAM_BATCHES = 2 };

void peft__order_init(peft__order *order, peft__mem *mem) {
    *order = (peft__order){.mem = mem};
}

void peft__order_free(peft__order *order) {
    peft__free(order->mem, order->order);
    peft__free(order->mem, order->first);
    peft__free(order->mem, order->scratch);
    peft__free(order->mem, order->keys);
    peft__free(order->mem, order->room);
    peft__order_init(order, order->mem);
}

static peft_status regrow(peft_context *ctx, peft__mem *mem, int32_t **array, int64_t count) {
    const size_t bytes = (size_t)count * sizeof **array;
    int32_t *grown = peft__realloc(mem, *array, bytes);
    if (grown == NULL) return peft__fail_nomem(ctx, bytes, "the order of a data set");
    *array = grown;
    return PEFT_OK;
}

peft_status peft__order_reserve(peft_context *ctx, peft__order *order, int64_t examples, bool packing) {
    if (packing && order->keys == NULL) {
        order->keys = peft__alloc(order->mem, PEFT__PACK_CHUNK * sizeof *order->keys);
        if (order->keys == NULL)
            return peft__fail_nomem(ctx, PEFT__PACK_CHUNK * sizeof *order->keys, "packing a data set");
    }
    if (packing && order->room == NULL) {
        order->room = peft__alloc(order->mem, 2 * PEFT__PACK_CHUNK * sizeof *order->room);
        if (order->room == NULL)
            return peft__fail_nomem(ctx, 2 * PEFT__PACK_CHUNK * sizeof *order->room, "packing a data set");
    }
    if (examples <= order->capacity) return PEFT_OK;
    const int64_t capacity = peft__max_i64(examples, order->capacity + order->capacity / 2);
    PEFT_TRY(regrow(ctx, order->mem, &order->order, capacity));
    PEFT_TRY(regrow(ctx, order->mem, &order->first, capacity + 1));
    if (packing) PEFT_TRY(regrow(ctx, order->mem, &order->scratch, 3 * capacity + 1));
    order->capacity = capacity;
    return PEFT_OK;
}

/* Fisher and Yates. */
static void shuffle(int32_t *items, int64_t count, uint64_t seed, uint64_t epoch, uint64_t what) {
    const uint64_t stream[2] = {epoch, what};
    peft__rng rng = peft__rng_make(seed, peft__hash64(stream, sizeof stream, UINT64_C(0x64617461)));
    for (int64_t i = count - 1; i > 0; i--) {
        const int64_t j = (int64_t)peft__rng_below(&rng, (uint64_t)i + 1);
        const int32_t item = items[i];
        items[i] = items[j];
        items[j] = item;
    }
}

static void sift_down(uint64_t *keys, size_t from, size_t count) {
    for (;;) {
        size_t child = 2 * from + 1;
        if (child >= count) return;
        if (child + 1 < count && keys[child + 1] > keys[child]) child++;
        if (keys[from] >= keys[child]) return;
        const uint64_t key = keys[from];
        keys[from] = keys[child];
        keys[child] = key;
        from = child;
    }
}

/* Heapsort: rising, in place. */
static void sort_keys(uint64_t *keys, size_t count) {
    for (size_t i = count / 2; i-- > 0;) sift_down(keys, i, count);
    for (size_t end = count; end > 1; end--) {
        const uint64_t key = keys[0];
        keys[0] = keys[end - 1];
        keys[end - 1] = key;
        sift_down(keys, 0, end - 1);
    }
}

/* The first bin with room for `length`; a leaf of the tree is a bin, a node the most room below it. */
static int32_t take_room(int64_t *room, int32_t leaves, int32_t length) {
    int32_t node = 1;
    while (node < leaves) node = room[2 * node] >= length ? 2 * node : 2 * node + 1;
    const int32_t bin = node - leaves;
    room[node] -= length;
    while ((node /= 2) >= 1) room[node] = room[2 * node] > room[2 * node + 1] ? room[2 * node] : room[2 * node + 1];
    return bin;
}

/* Bins for order[from .. from + count): writes the examples bin by bin to `packed`, and where bins begin to
 * starts[*bins ...]. */
static void pack_chunk(peft__order *order, const peft__store *store, int64_t from, int32_t count, int64_t capacity,
                       int32_t *packed, int32_t *starts, int64_t *bins) {
    int32_t leaves = 1;
    while (leaves < count) leaves *= 2;
    for (int32_t i = 0; i < 2 * leaves; i++) order->room[i] = capacity;
    for (int32_t i = 0; i < count; i++) {
        const int32_t length = store->examples[order->order[from + i]].length;
        order->keys[i] = (uint64_t)(INT32_MAX - length) << 32 | (uint64_t)i; /* longest first, ties as shuffled */
    }
    sort_keys(order->keys, (size_t)count);
    /* Bin of each key in its upper half, rank in the lower one: sorting again gathers the bins. */
    int32_t chunk_bins = 0;
    for (int32_t i = 0; i < count; i++) {
        const int32_t item = (int32_t)(order->keys[i] & UINT32_MAX);
        const int32_t bin = take_room(order->room, leaves, store->examples[order->order[from + item]].length);
        order->keys[i] = (uint64_t)bin << 32 | (uint64_t)item;
        if (bin >= chunk_bins) chunk_bins = bin + 1;
    }
    sort_keys(order->keys, (size_t)count);
    int32_t last = -1;
    for (int32_t i = 0; i < count; i++) {
        const int32_t bin = (int32_t)(order->keys[i] >> 32);
        if (bin != last) starts[*bins + bin] = (int32_t)(from + i);
        last = bin;
        packed[from + i] = order->order[from + (int64_t)(order->keys[i] & UINT32_MAX)];
    }
    *bins += chunk_bins;
}

static void pack(peft__order *order, const peft__store *store, const peft_dataset_options *options, int64_t max_length,
                 uint64_t epoch) {
    const int64_t count = store->example_count;
    int32_t *packed = order->scratch, *starts = packed + count, *turn = starts + count + 1;
    int64_t bins = 0;
    for (int64_t from = 0; from < count; from += PEFT__PACK_CHUNK)
        pack_chunk(order, store, from, (int32_t)peft__min_i64(PEFT__PACK_CHUNK, count - from),
                   options->batch_size * max_length, packed, starts, &bins);
    starts[bins] = (int32_t)count;
    for (int64_t b = 0; b < bins; b++) turn[b] = (int32_t)b;
    if (options->shuffle != 0) shuffle(turn, bins, options->seed, epoch, STREAM_BATCHES);
    int32_t at = 0;
    for (int64_t b = 0; b < bins; b++) {
        order->first[b] = at;
        for (int32_t i = starts[turn[b]]; i < starts[turn[b] + 1]; i++) order->order[at++] = packed[i];
    }
    order->first[bins] = at;
    order->batches = bins;
}

void peft__order_prepare(peft__order *order, const peft__store *store, const peft_dataset_options *options,
                         int64_t max_length, uint64_t epoch) {
    const int64_t count = store->example_count;
    for (int64_t i = 0; i < count; i++) order->order[i] = (int32_t)i;
    if (options->shuffle != 0) shuffle(order->order, count, options->seed, epoch, STREAM_EXAMPLES);
    if (options->packing != 0 && count > 0) {
        pack(order, store, options, max_length, epoch);
        return;
    }
    order->batches = options->drop_last != 0 ? count / options->batch_size : peft__ceil_div(count, options->batch_size);
    for (int64_t b = 0; b <= order->batches; b++)
        order->first[b] = (int32_t)peft__min_i64(b * options->batch_size, count);
}
