/* masked.c: text for masked language models.
 *
 * What is hidden is not stored but drawn when a batch is made, from seed, epoch and number of the example alone: every
 * epoch hides other tokens, and a run that is taken up again hides what it would have hidden. Tokens of the template
 * and other special tokens are never chosen. A short text of which chance would choose nothing has one token chosen, so
 * that no example is without a loss.
 *
 * Texts that are longer than max_length become several examples instead of losing their end.
 */
#include "data/data.h"

/* Template tokens before and behind a text: lengths in the present encoding. */
static void template_of(const peft__encoding *encoding, int64_t *out_before, int64_t *out_behind) {
    int64_t before = 0, behind = 0;
    while (before < encoding->count && encoding->special[before] != 0) before++;
    while (behind < encoding->count - before && encoding->special[encoding->count - 1 - behind] != 0) behind++;
    *out_before = before;
    *out_behind = behind;
}

static void put(peft__store *store, const int32_t *ids, const uint8_t *fixed, int64_t count,
                const peft_tokenizer *tokenizer) {
    for (int64_t i = 0; i < count; i++) {
        const bool spared = fixed[i] != 0 || peft__token_is_special(tokenizer, ids[i]);
        const int32_t label = spared ? PEFT_IGNORE_LABEL : ids[i];
        peft__store_put_tokens(store, &ids[i], &label, 1);
    }
}

static bool learns(const peft__encoder *encoder, int64_t first, int64_t count) {
    const peft__encoding *encoding = &encoder->encoding;
    for (int64_t i = first; i < first + count; i++)
        if (!peft__token_is_special(encoder->tokenizer, encoding->ids[i])) return true;
    return false;
}

peft_status peft__encode_masked(peft__encoder *encoder, const char *text, size_t length, uint64_t line,
                                peft__store *store) {
    peft__encoding *encoding = &encoder->encoding;
    PEFT_TRY(peft__encode(encoder->ctx, encoder->tokenizer, text, length,
                          PEFT_ENCODE_SPECIAL | PEFT_ENCODE_PARSE_SPECIAL, encoding));
    PEFT_TRY(peft__check_ids(encoder, encoding->ids, encoding->count));
    int64_t before, behind;
    template_of(encoding, &before, &behind);
    const int64_t inner = encoding->count - before - behind, room = encoder->max_length - before - behind;
    const int64_t stride = encoder->options->stride > 0 ? peft__min_i64(encoder->options->stride, room) : room;
    if (room < 1)
        return peft__fail(encoder->ctx, PEFT_E_ARG,
                          "max_length %lld has no room beside the %lld tokens that the tokenizer adds",
                          (long long)encoder->max_length, (long long)(before + behind));
    if (encoding->count > encoder->reading.longest_uncut) encoder->reading.longest_uncut = encoding->count;
    const int64_t most = encoder->options->max_examples;
    bool any = false;
    for (int64_t at = 0; at < inner && (most <= 0 || store->example_count < most); at += stride) {
        const int64_t size = peft__min_i64(room, inner - at), first = store->count;
        if (at > 0 && size <= room - stride) break; /* all of it was in the window before */
        if (!learns(encoder, before + at, size)) continue;
        PEFT_TRY(peft__store_reserve(encoder->ctx, store, before + size + behind, 1));
        put(store, encoding->ids, encoding->special, before, encoder->tokenizer);
        put(store, encoding->ids + before + at, encoding->special + before + at, size, encoder->tokenizer);
        put(store, encoding->ids + before + inner, encoding->special + before + inner, behind, encoder->tokenizer);
        peft__store_put_example(store, first, (int32_t)(before + size + behind), 0);
        any = true;
    }
    if (!any && (most <= 0 || store->example_count < most)) peft__skip_row(&encoder->reading, PEFT__SKIP_EMPTY, line);
    return PEFT_OK;
}

/* ---- batches --------------------------------------------------------------------------------------------------- */

static int32_t replaced(const peft__masking *masking, peft__rng *rng, int32_t id) {
    const uint64_t draw = peft__rng_below(rng, 10);
    if (draw < 8) return masking->mask_id;
    return draw == 8 ? (int32_t)peft__rng_below(rng, (uint64_t)masking->vocab) : id;
}

void peft__mask_example(const peft__masking *masking, uint64_t seed, uint64_t epoch, uint64_t example, int32_t *ids,
                        int32_t *labels, int64_t count) {
    const uint64_t stream[2] = {epoch, example};
    peft__rng rng = peft__rng_make(seed, peft__hash64(stream, sizeof stream, UINT64_C(0x6d61736b)));
    int64_t candidates = 0, chosen = 0;
    for (int64_t i = 0; i < count; i++) candidates += labels[i] != PEFT_IGNORE_LABEL;
    if (candidates == 0) return;
    const int64_t fallback = (int64_t)peft__rng_below(&rng, (uint64_t)candidates);
    int64_t left_over = -1, seen = 0;
    for (int64_t i = 0; i < count; i++) {
        if (labels[i] == PEFT_IGNORE_LABEL) continue;
        if (seen++ == fallback) left_over = i;
        if (peft__rng_uniform(&rng) >= masking->probability) {
            labels[i] = PEFT_IGNORE_LABEL;
            continue;
        }
        ids[i] = replaced(masking, &rng, ids[i]);
        chosen++;
    }
    if (chosen > 0) return;
    labels[left_over] = ids[left_over];
    ids[left_over] = replaced(masking, &rng, ids[left_over]);
}
