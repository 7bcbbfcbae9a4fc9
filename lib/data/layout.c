/* layout.c: texts laid out for WARP: rows of a trained prompt before, between and behind a text, and [MASK].
 *
 * The layout is the list that WARP's configuration has as "template": "cls", "sep" and "mask" are the tokenizer's
 * tokens, "s1" and "s2" the row's texts, other words stand for themselves, a number is a row of the prompt and
 * [number, "word"] one that starts as that word. A prompt's row has the mask token as its id, which nothing looks at:
 * the row takes the place of its embedding. What is too long loses the end of its texts, the longer one first.
 */
#include "data/data.h"

typedef enum { TOKENS, TEXT, MASK, PROMPT } kind;

typedef struct item {
    kind what;
    int32_t number;       /* TEXT: 0 or 1; PROMPT: the row */
    int64_t first, count; /* TOKENS: in the layout's ids */
} item;

struct peft__layout {
    item *items;
    size_t count;
    int32_t *ids;
    int64_t id_count, fixed; /* tokens that are no text */
    int32_t mask;
    bool two; /* names the second text */
};

static peft_status put_token(peft_context *ctx, peft__layout *layout, int32_t id, const char *name, item *out) {
    if (id < 0)
        return peft__fail(ctx, PEFT_E_MISMATCH, "the template has \"%s\", which the tokenizer has no token for", name);
    *out = (item){.what = TOKENS, .first = layout->id_count, .count = 1};
    layout->ids[layout->id_count++] = id;
    return PEFT_OK;
}

/* A word as it is. */
static peft_status put_word(peft_context *ctx, const peft_tokenizer *tokenizer, peft__layout *layout, int64_t room,
                            const char *word, item *out) {
    peft__encoding encoding;
    peft__encoding_init(&encoding, ctx->mem);
    peft_status status = peft__encode(ctx, tokenizer, word, strlen(word), PEFT_ENCODE_PARSE_SPECIAL, &encoding);
    if (status >= 0 && encoding.count > room - layout->id_count)
        status = peft__fail(ctx, PEFT_E_LIMIT, "the words of the template have too many tokens");
    if (status >= 0) {
        *out = (item){.what = TOKENS, .first = layout->id_count, .count = encoding.count};
        memcpy(layout->ids + layout->id_count, encoding.ids, (size_t)encoding.count * sizeof *layout->ids);
        layout->id_count += encoding.count;
    }
    peft__encoding_free(&encoding);
    return status;
}

static peft_status read_item(peft_context *ctx, const peft_tokenizer *tokenizer, peft__layout *layout, int64_t room,
                             const peft__json *value, item *out) {
    const peft__json *number = json_is_array(value) ? json_array_get(value, 0) : value;
    const char *word = json_string_value(value);
    if (json_is_integer(number) && json_integer_value(number) >= 0 && json_integer_value(number) < INT32_MAX) {
        *out = (item){.what = PROMPT, .number = (int32_t)json_integer_value(number)};
        return PEFT_OK;
    }
    if (word == NULL || strlen(word) != json_string_length(value))
        return peft__fail(ctx, PEFT_E_FORMAT, "a template has words, numbers from 0 and [number, \"word\"], found %s",
                          peft__json_kind(value));
    if (strcmp(word, "s1") == 0 || strcmp(word, "s2") == 0) {
        *out = (item){.what = TEXT, .number = word[1] == '2'};
        return PEFT_OK;
    }
    if (strcmp(word, "mask") == 0) {
        *out = (item){.what = MASK};
        return PEFT_OK;
    }
    if (strcmp(word, "cls") == 0 || strcmp(word, "sep") == 0) {
        const bool begins = word[0] == 'c';
        int32_t id = peft__special_id(tokenizer, begins ? PEFT_SPECIAL_CLS : PEFT_SPECIAL_SEP);
        if (id < 0) id = peft__special_id(tokenizer, begins ? PEFT_SPECIAL_BOS : PEFT_SPECIAL_EOS);
        return put_token(ctx, layout, id, word, out);
    }
    return put_word(ctx, tokenizer, layout, room, word, out);
}

peft_status peft__layout_make(peft_context *ctx, const peft_tokenizer *tokenizer, const char *text, peft__arena *arena,
                              const peft__layout **out_layout) {
    peft__json *list = NULL;
    PEFT_TRY(peft__json_load_memory(ctx, "the template", text, strlen(text), 0, &list));
    const size_t count = json_array_size(list);
    const int64_t room =
        (int64_t)count + (int64_t)strlen(text) + 16; /* a token has a byte at least, or is one of ours */
    peft__layout *layout = peft__arena_alloc(arena, sizeof *layout);
    item *items = peft__arena_alloc(arena, (count + 1) * sizeof *items);
    int32_t *ids = peft__arena_alloc(arena, (size_t)room * sizeof *ids);
    peft_status status = PEFT_OK;
    if (layout == NULL || items == NULL || ids == NULL)
        status = peft__fail_nomem(ctx, (size_t)room * sizeof *ids, "a template");
    else if (count == 0)
        status = peft__fail(ctx, PEFT_E_FORMAT, "a template is a list, found %s", peft__json_kind(list));
    if (status >= 0) {
        *layout = (peft__layout){
            .items = items, .ids = ids, .count = count, .mask = peft__special_id(tokenizer, PEFT_SPECIAL_MASK)};
        if (layout->mask < 0) status = peft__fail(ctx, PEFT_E_MISMATCH, "WARP needs a tokenizer with a mask token");
    }
    int masks = 0, texts = 0;
    for (size_t i = 0; i < count && status >= 0; i++) {
        status = read_item(ctx, tokenizer, layout, room, json_array_get(list, i), &items[i]);
        if (status < 0) {
            status = peft__fail_in(ctx, status, "template[%zu]", i);
            break;
        }
        masks += items[i].what == MASK;
        texts += items[i].what == TEXT;
        layout->two = layout->two || (items[i].what == TEXT && items[i].number == 1);
        layout->fixed += items[i].what == TOKENS ? items[i].count : items[i].what != TEXT;
    }
    if (status >= 0 && (masks != 1 || texts == 0))
        status =
            peft__fail(ctx, PEFT_E_FORMAT, "a template has \"mask\" once and \"s1\", found %d and %d", masks, texts);
    json_decref(list);
    if (status >= 0) *out_layout = layout;
    return status;
}

/* ---- one row ---------------------------------------------------------------------------------------------------- */

static void put(peft__store *store, int32_t id, int32_t row) {
    store->ids[store->count] = id;
    store->labels[store->count] = PEFT_IGNORE_LABEL;
    if (store->typed) store->types[store->count] = 0;
    store->prompts[store->count++] = row;
}

static void put_items(const peft__layout *layout, const peft__encoding sides[2], const int64_t kept[2],
                      peft__store *store, int32_t *out_mask) {
    const int64_t begin = store->count;
    for (size_t i = 0; i < layout->count; i++) {
        const item *one = &layout->items[i];
        if (one->what == MASK) *out_mask = (int32_t)(store->count - begin);
        if (one->what == MASK || one->what == PROMPT) put(store, layout->mask, one->what == PROMPT ? one->number : -1);
        for (int64_t t = 0; one->what == TOKENS && t < one->count; t++) put(store, layout->ids[one->first + t], -1);
        for (int64_t t = 0; one->what == TEXT && t < kept[one->number]; t++) put(store, sides[one->number].ids[t], -1);
    }
}

static peft_status lay_out(peft__encoder *encoder, const peft__layout *layout, const peft__records *r, uint64_t line,
                           peft__encoding sides[2], peft__store *store) {
    peft_context *ctx = encoder->ctx;
    PEFT_TRY(peft__encode(ctx, encoder->tokenizer, r->text, r->length, PEFT_ENCODE_PARSE_SPECIAL, &sides[0]));
    if (layout->two && r->second == NULL)
        return peft__fail(ctx, PEFT_E_FORMAT, "the template has \"s2\", and the row has one text");
    if (layout->two)
        PEFT_TRY(
            peft__encode(ctx, encoder->tokenizer, r->second, r->second_length, PEFT_ENCODE_PARSE_SPECIAL, &sides[1]));
    PEFT_TRY(peft__check_ids(encoder, sides[0].ids, sides[0].count));
    PEFT_TRY(peft__check_ids(encoder, sides[1].ids, sides[1].count));
    int64_t kept[2] = {sides[0].count, sides[1].count}, whole = layout->fixed;
    for (size_t i = 0; i < layout->count; i++)
        if (layout->items[i].what == TEXT) whole += kept[layout->items[i].number];
    int64_t length = whole;
    while (length > encoder->max_length && (kept[0] > 0 || kept[1] > 0)) {
        const int longer = kept[1] > kept[0] ? 1 : 0;
        kept[longer]--;
        for (size_t i = 0; i < layout->count; i++)
            length -= layout->items[i].what == TEXT && layout->items[i].number == longer;
    }
    if (length > encoder->max_length)
        return peft__fail(ctx, PEFT_E_ARG, "the template takes %lld tokens beside the texts, max_length is %lld",
                          (long long)layout->fixed, (long long)encoder->max_length);
    if (sides[0].count + sides[1].count == 0) {
        peft__skip_row(&encoder->reading, PEFT__SKIP_EMPTY, line);
        return PEFT_OK;
    }
    encoder->reading.longest_uncut = peft__max_i64(encoder->reading.longest_uncut, whole);
    encoder->reading.cut += length < whole;
    encoder->reading.cut_tokens += whole - length;
    PEFT_TRY(peft__store_reserve(ctx, store, length, 1));
    const int64_t first = store->count, index = store->example_count;
    put_items(layout, sides, kept, store, &store->masks[index]);
    peft__store_put_example(store, first, (int32_t)length, 0);
    store->classes[index] = r->label;
    if (r->label != PEFT_IGNORE_LABEL) r->labels->examples[r->label]++;
    return PEFT_OK;
}

peft_status peft__encode_layout(peft__encoder *encoder, const peft__records *r, uint64_t line, peft__store *store) {
    peft__encoding sides[2];
    peft__encoding_init(&sides[0], encoder->ctx->mem);
    peft__encoding_init(&sides[1], encoder->ctx->mem);
    const peft_status status = lay_out(encoder, store->layout, r, line, sides, store);
    peft__encoding_free(&sides[0]);
    peft__encoding_free(&sides[1]);
    return status;
}
