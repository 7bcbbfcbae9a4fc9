/* Padded rectangles to rows: sides, holes, positions, decoders, refusals. */
#include <stdbool.h>

#include "check.h"
#include "peft/batch.h"

static peft_context *ctx;
static int32_t offsets[3], ids[16], positions[16], types[16], labels[16], source[16], classes[2], d_offsets[3],
    d_ids[8], d_labels[8];
static peft_batch_buffers buffers;

static bool same(const int32_t *got, const int32_t *want, size_t count) {
    return memcmp(got, want, count * sizeof *got) == 0;
}
#define SAME(got, ...)                                                                                                 \
    CHECK(same((got), (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)))

int main(void) {
    CHECK(peft_context_create(NULL, &ctx) == PEFT_OK);
    buffers = (peft_batch_buffers){.struct_size = sizeof buffers,
                                   .rows = 16,
                                   .offsets = offsets,
                                   .input_ids = ids,
                                   .position_ids = positions,
                                   .token_type_ids = types,
                                   .labels = labels,
                                   .source = source,
                                   .sequence_labels = classes,
                                   .decoder_rows = 8,
                                   .decoder_offsets = d_offsets,
                                   .decoder_input_ids = d_ids,
                                   .decoder_labels = d_labels};
    const int64_t wide[8] = {1, 1, 7, 8, 5, 6, 1, 1}, mask[8] = {0, 0, 1, 1, 1, 1, 0, 0},
                  marks[8] = {-100, -100, -100, 8, 5, 6, -100, -100};
    int64_t kinds[8] = {0, 0, 0, 1, 0, 1, 0, 0}, two[2] = {3, -100};
    peft_padded p;
    peft_batch b = {0};
    peft_padded_init(&p);
    p.batch = 2;
    p.length = 4;
    p.input_ids = wide;
    p.attention_mask = mask;
    p.labels = marks;
    p.token_type_ids = kinds;
    p.sequence_labels = two;
    p.pad_token_id = 1;
    CHECK_OK(ctx, peft_batch_from_padded(ctx, &p, &buffers, &b));
    CHECK(b.rows == 4 && b.sequences == 2 && b.struct_size == sizeof b && b.decoder_rows == 0);
    SAME(b.offsets, 0, 2, 4);
    SAME(b.input_ids, 7, 8, 5, 6);
    SAME(b.position_ids, 2, 3, 0, 1);
    SAME(b.labels, -100, 8, 5, 6);
    SAME(b.token_type_ids, 0, 1, 0, 1);
    SAME(b.sequence_labels, 3, -100);
    SAME(source, 2, 3, 4, 5);
    p.position_rule = PEFT_POSITIONS_ROW;
    CHECK_OK(ctx, peft_batch_from_padded(ctx, &p, &buffers, &b));
    SAME(b.position_ids, 0, 1, 0, 1);
    p.position_rule = PEFT_POSITIONS_ROBERTA;
    CHECK_OK(ctx, peft_batch_from_padded(ctx, &p, &buffers, &b));
    SAME(b.position_ids, 2, 3, 2, 3);

    /* 32-bit ids, no mask, a decoder. */
    const int32_t narrow[4] = {4, 3, 2, 1}, targets[6] = {9, 8, -100, 7, -100, -100};
    peft_padded_init(&p);
    p.id_bytes = 4;
    p.batch = 2;
    p.length = 2;
    p.input_ids = narrow;
    p.decoder_length = 3;
    p.decoder_labels = targets;
    CHECK_OK(ctx, peft_batch_from_padded(ctx, &p, &buffers, &b));
    CHECK(b.rows == 4 && b.labels == NULL && b.decoder_rows == 6 && b.decoder_sequences == 2);
    SAME(b.decoder_offsets, 0, 3, 6);
    SAME(b.decoder_input_ids, 0, 9, 8, 0, 7, 0);
    SAME(b.decoder_labels, 9, 8, -100, 7, -100, -100);

    /* Refused, with the batch as it was. */
    const peft_batch before = b;
    peft_padded_init(&p);
    p.batch = 2;
    p.length = 4;
    p.input_ids = wide;
    int64_t hidden[8] = {0, 0, 0, 0, 1, 1, 1, 1};
    p.attention_mask = hidden;
    CHECK_STATUS(ctx, peft_batch_from_padded(ctx, &p, &buffers, &b), PEFT_E_ARG);
    p.attention_mask = mask;
    int64_t everywhere[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    p.labels = everywhere;
    CHECK_STATUS(ctx, peft_batch_from_padded(ctx, &p, &buffers, &b), PEFT_E_ARG);
    CHECK(strstr(peft_context_error(ctx), "padding") != NULL);
    p.labels = NULL;
    int64_t huge[8] = {1, 1, INT64_C(1) << 40, 8, 5, 6, 1, 1};
    p.input_ids = huge;
    CHECK_STATUS(ctx, peft_batch_from_padded(ctx, &p, &buffers, &b), PEFT_E_ARG);
    p.input_ids = wide;
    buffers.rows = 3;
    CHECK_STATUS(ctx, peft_batch_from_padded(ctx, &p, &buffers, &b), PEFT_E_LIMIT);
    buffers.rows = 16;
    p.id_bytes = 2;
    CHECK_STATUS(ctx, peft_batch_from_padded(ctx, &p, &buffers, &b), PEFT_E_ARG);
    p.id_bytes = 8;
    p.length = INT64_C(1) << 40;
    CHECK_STATUS(ctx, peft_batch_from_padded(ctx, &p, &buffers, &b), PEFT_E_ARG);
    CHECK(memcmp(&before, &b, sizeof b) == 0);
    peft_context_destroy(ctx);
    return check_summary();
}
