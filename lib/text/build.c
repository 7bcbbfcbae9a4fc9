/* build.c: a tokenizer while it is put together, whatever file it comes from, and its end. */
#include "text/pipeline.h"

peft_status peft__tokenizer_nomem(peft_context *ctx) {
    return peft__fail_nomem(ctx, 0, "a tokenizer");
}

peft_status peft__tokenizer_new(peft_context *ctx, peft_tokenizer **out) {
    peft_tokenizer *t = peft__alloc_zero(ctx->mem, sizeof *t);
    if (t == NULL) return peft__fail_nomem(ctx, sizeof *t, "a tokenizer");
    t->mem = ctx->mem;
    atomic_init(&t->references, 1);
    peft__arena_init(&t->arena, ctx->mem);
    peft__table_init(&t->vocab, ctx->mem);
    peft__table_init(&t->added_by_text, ctx->mem);
    peft__trie_init(&t->added_plain, ctx->mem);
    peft__trie_init(&t->added_normalized, ctx->mem);
    peft__trie_init(&t->model.words, ctx->mem);
    peft__trie_init(&t->model.rests, ctx->mem);
    t->model.merges.mem = ctx->mem;
    t->model.unk_id = -1;
    for (int i = 0; i < PEFT__SPECIAL_KINDS; i++) t->special[i] = -1;
    t->ctx = peft__context_ref(ctx);
    t->memory = peft__regex_memory(ctx->mem);
    if (t->memory == NULL) {
        peft__tokenizer_unref(t);
        return peft__tokenizer_nomem(ctx);
    }
    *out = t;
    return PEFT_OK;
}

peft_tokenizer *peft__tokenizer_ref(peft_tokenizer *tokenizer) {
    atomic_fetch_add_explicit(&tokenizer->references, 1, memory_order_relaxed);
    return tokenizer;
}

void peft__tokenizer_unref(peft_tokenizer *t) {
    if (t == NULL || atomic_fetch_sub_explicit(&t->references, 1, memory_order_acq_rel) != 1) return;
    for (size_t i = 0; i < t->normalizer_count; i++) peft__regex_free(&t->normalizers[i].pattern.regex);
    for (size_t i = 0; i < t->splitter_count; i++) peft__regex_free(&t->splitters[i].pattern.regex);
    for (size_t i = 0; i < t->decoder_count; i++) peft__regex_free(&t->decoders[i].pattern.regex);
    peft__table_free(&t->vocab);
    peft__table_free(&t->added_by_text);
    peft__trie_free(&t->added_plain);
    peft__trie_free(&t->added_normalized);
    peft__trie_free(&t->model.words);
    peft__trie_free(&t->model.rests);
    peft__free(t->mem, t->model.merges.slots);
    peft__free(t->mem, t->tokens);
    peft__free(t->mem, t->added);
    peft__arena_free(&t->arena);
    pcre2_general_context_free(t->memory);
    peft_context *ctx = t->ctx;
    peft__free(t->mem, t);
    peft__context_unref(ctx);
}

void *peft__tokenizer_array(peft_tokenizer *tokenizer, size_t count, size_t size) {
    size_t bytes;
    return peft__mul_size(count, size, &bytes) ? peft__arena_alloc(&tokenizer->arena, bytes + 1) : NULL;
}

/* Sets tokens[id]; the text is in the arena. */
static peft_status set_token(peft_context *ctx, peft_tokenizer *t, int64_t id, const char *text, size_t length,
                             bool special) {
    if (id < 0 || id >= PEFT__TOKEN_LIMIT)
        return peft__fail(ctx, PEFT_E_FORMAT, "token \"%.*s\" has id %lld; ids go from 0 to %d",
                          (int)peft__min_size(length, 80), text, (long long)id, PEFT__TOKEN_LIMIT - 1);
    if ((size_t)id >= t->size) {
        peft__token_text *tokens = peft__grow(t->mem, t->tokens, &t->token_capacity, (size_t)id + 1, sizeof *tokens);
        if (tokens == NULL) return peft__tokenizer_nomem(ctx);
        memset(tokens + t->size, 0, ((size_t)id + 1 - t->size) * sizeof *tokens);
        t->tokens = tokens;
        t->size = (size_t)id + 1;
    }
    t->tokens[id] = (peft__token_text){text, text, (uint32_t)length, (uint32_t)length, special};
    return PEFT_OK;
}

peft_status peft__add_vocab(peft_context *ctx, peft_tokenizer *t, const char *text, size_t length, int64_t id,
                            bool replace) {
    if (length > UINT32_MAX / 4) return peft__fail(ctx, PEFT_E_FORMAT, "a token of %zu bytes is too long", length);
    const char *copy = peft__arena_strndup(&t->arena, text, length);
    if (copy == NULL) return peft__tokenizer_nomem(ctx);
    PEFT_TRY(set_token(ctx, t, id, copy, length, false));
    uint64_t old;
    if (!replace && peft__table_get(&t->vocab, copy, length, &old)) return PEFT_OK;
    return peft__table_put(&t->vocab, copy, length, (uint64_t)id) ? PEFT_OK : peft__tokenizer_nomem(ctx);
}

peft_status peft__add_added(peft_context *ctx, peft_tokenizer *t, const peft__added *added) {
    if (added->length == 0 || added->length > PEFT__TRIE_STRING_LIMIT)
        return added->length == 0
                   ? PEFT_OK
                   : peft__fail(ctx, PEFT_E_FORMAT, "an added token of %zu bytes is too long", added->length);
    uint64_t index;
    peft__added made = *added;
    made.content = peft__arena_strndup(&t->arena, added->content, added->length);
    if (made.content == NULL) return peft__tokenizer_nomem(ctx);
    PEFT_TRY(set_token(ctx, t, made.id, made.content, made.length, made.special));
    if (peft__table_get(&t->added_by_text, made.content, made.length, &index)) {
        t->added[index] = made;
        return PEFT_OK;
    }
    peft__added *list = peft__grow(t->mem, t->added, &t->added_capacity, t->added_count + 1, sizeof *list);
    if (list == NULL || !peft__table_put(&t->added_by_text, made.content, made.length, t->added_count)) {
        if (list != NULL) t->added = list;
        return peft__tokenizer_nomem(ctx);
    }
    t->added = list;
    t->added[t->added_count++] = made;
    return PEFT_OK;
}

int32_t peft__vocab_id(const peft_tokenizer *t, const char *text, size_t length) {
    uint64_t id;
    return peft__table_get(&t->vocab, text, length, &id) ? (int32_t)id : -1;
}

peft_status peft__add_merge(peft_context *ctx, peft_tokenizer *t, const char *left, size_t left_length,
                            const char *right, size_t right_length, uint32_t rank) {
    peft__model_data *model = &t->model;
    const int32_t a = peft__vocab_id(t, left, left_length), b = peft__vocab_id(t, right, right_length);
    size_t skip = model->has_prefix ? model->prefix_length : 0;
    if (skip > right_length || (skip > 0 && memcmp(right, model->prefix, skip) != 0)) skip = 0;
    char small[256];
    const size_t length = left_length + right_length - skip;
    char *joined = length <= sizeof small ? small : peft__alloc(t->mem, length);
    if (joined == NULL) return peft__tokenizer_nomem(ctx);
    memcpy(joined, left, left_length);
    memcpy(joined + left_length, right + skip, right_length - skip);
    const int32_t id = peft__vocab_id(t, joined, length);
    if (joined != small) peft__free(t->mem, joined);
    if (a < 0 || b < 0 || id < 0)
        return peft__fail(ctx, PEFT_E_FORMAT, "merge %u, \"%.*s\" + \"%.*s\": %s not in the vocabulary", rank,
                          (int)peft__min_size(left_length, 80), left, (int)peft__min_size(right_length, 80), right,
                          a < 0   ? "the left part is"
                          : b < 0 ? "the right part is"
                                  : "the result is");
    if (!peft__pairs_put(&model->merges, (uint64_t)(uint32_t)a << 32 | (uint32_t)b,
                         (uint64_t)rank << 32 | (uint32_t)id))
        return peft__tokenizer_nomem(ctx);
    return PEFT_OK;
}

peft_status peft__add_merge_text(peft_context *ctx, peft_tokenizer *t, const char *text, size_t length, uint32_t rank) {
    const char *space = length > 1 ? memchr(text + 1, ' ', length - 1) : NULL;
    if (space == NULL || space + 1 == text + length)
        return peft__fail(ctx, PEFT_E_FORMAT, "merge %u: expected two parts with a space between, found \"%.*s\"", rank,
                          (int)peft__min_size(length, 80), text);
    const size_t left = (size_t)(space - text);
    return peft__add_merge(ctx, t, text, left, space + 1, length - left - 1, rank);
}

peft_status peft__set_regex(peft_context *ctx, peft_tokenizer *t, peft__pattern *pattern, const char *text,
                            size_t length) {
    pattern->is_regex = true;
    return peft__regex_compile(ctx, t->memory, text, length, &pattern->regex);
}

peft_status peft__set_literal(peft_context *ctx, peft_tokenizer *t, peft__pattern *pattern, const char *text,
                              size_t length) {
    pattern->literal = peft__arena_strndup(&t->arena, text, length);
    pattern->literal_length = length;
    return pattern->literal != NULL ? PEFT_OK : peft__tokenizer_nomem(ctx);
}

/* The normalised form of an added token is what is looked for in normalised text. */
static peft_status normalized_content(peft_context *ctx, peft_tokenizer *t, const peft__added *added, peft__trie *trie,
                                      int32_t index) {
    peft__encoder encoder = {.ctx = ctx, .tokenizer = t};
    peft__pieces_init(&encoder.now, ctx->mem);
    peft__pieces_init(&encoder.next, ctx->mem);
    peft__buffer_init(&encoder.bytes, ctx->mem);
    encoder.chars.mem = ctx->mem;
    peft__pieces_put(&encoder.now, added->content, added->length, 0, 0);
    peft__pieces_close(&encoder.now, -1);
    peft_status status = encoder.now.failed ? peft__tokenizer_nomem(ctx) : PEFT_OK;
    for (size_t i = 0; i < t->normalizer_count && status == PEFT_OK; i++)
        status = peft__normalize(&encoder, &t->normalizers[i]);
    if (status == PEFT_OK && encoder.now.length > PEFT__TRIE_STRING_LIMIT)
        status = peft__fail(ctx, PEFT_E_FORMAT, "an added token of %zu bytes is too long", encoder.now.length);
    if (status == PEFT_OK && encoder.now.length > 0) {
        peft__token_text *token = &t->tokens[added->id];
        const char *shown = peft__arena_strndup(&t->arena, encoder.now.data, encoder.now.length);
        if (shown != NULL && peft__trie_put(trie, encoder.now.data, encoder.now.length, index)) {
            token->shown = shown;
            token->shown_length = (uint32_t)encoder.now.length;
        } else {
            status = peft__tokenizer_nomem(ctx);
        }
    }
    peft__pieces_free(&encoder.now);
    peft__pieces_free(&encoder.next);
    peft__matcher_free(&encoder.matcher);
    peft__chars_free(&encoder.chars);
    peft__buffer_free(&encoder.bytes);
    return status;
}

static peft_status seal_model(peft_context *ctx, peft_tokenizer *t) {
    peft__model_data *model = &t->model;
    if (model->unk != NULL) model->unk_id = peft__vocab_id(t, model->unk, strlen(model->unk));
    for (int byte = 0; byte < 256; byte++) {
        char text[8] = "<0x00>";
        text[3] = "0123456789ABCDEF"[byte >> 4];
        text[4] = "0123456789ABCDEF"[byte & 15];
        model->byte_ids[byte] = model->byte_fallback ? peft__vocab_id(t, text, 6) : -1;
    }
    for (uint32_t c = 0; c < 512; c++) {
        char text[4];
        model->low_ids[c] = peft__vocab_id(t, text, peft__utf8_encode(c, text));
    }
    if (model->kind != PEFT__MODEL_WORDPIECE && model->kind != PEFT__MODEL_UNIGRAM) return PEFT_OK;
    const bool wordpiece = model->kind == PEFT__MODEL_WORDPIECE;
    for (size_t id = 0; id < t->size; id++) {
        const peft__token_text *token = &t->tokens[id];
        if (token->text == NULL || token->length == 0) continue;
        /* texts that stand twice keep the id of the table; added tokens are not the model's */
        if (peft__vocab_id(t, token->text, token->length) != (int32_t)id) continue;
        if (token->length > PEFT__TRIE_STRING_LIMIT)
            return peft__fail(ctx, PEFT_E_FORMAT, "token %zu of %u bytes is too long", id, token->length);
        bool ok = peft__trie_put(&model->words, token->text, token->length, (int32_t)id);
        if (wordpiece && token->length > model->prefix_length &&
            memcmp(token->text, model->prefix, model->prefix_length) == 0)
            ok = ok && peft__trie_put(&model->rests, token->text + model->prefix_length,
                                      token->length - model->prefix_length, (int32_t)id);
        if (!ok) return peft__tokenizer_nomem(ctx);
    }
    return PEFT_OK;
}

peft_status peft__tokenizer_seal(peft_context *ctx, peft_tokenizer *t) {
    if (t->size == 0) return peft__fail(ctx, PEFT_E_FORMAT, "the vocabulary is empty");
    PEFT_TRY(seal_model(ctx, t));
    for (size_t i = 0; i < t->added_count; i++) {
        const peft__added *added = &t->added[i];
        if (added->normalized) {
            PEFT_TRY(normalized_content(ctx, t, added, &t->added_normalized, (int32_t)i));
        } else if (!peft__trie_put(&t->added_plain, added->content, added->length, (int32_t)i)) {
            return peft__tokenizer_nomem(ctx);
        }
    }
    if (t->single.count == 0) {
        static const peft__template_item single[] = {{-1, 0}}, pair[] = {{-1, 0}, {-2, 1}};
        t->single.items = peft__tokenizer_array(t, 1, sizeof *single);
        t->pair.items = peft__tokenizer_array(t, 2, sizeof *pair);
        if (t->single.items == NULL || t->pair.items == NULL) return peft__tokenizer_nomem(ctx);
        memcpy(t->single.items, single, sizeof single);
        memcpy(t->pair.items, pair, sizeof pair);
        t->single.count = 1;
        t->pair.count = 2;
    }
    for (int side = 0; side < 2; side++) {
        const peft__template *template = side == 0 ? &t->single : &t->pair;
        for (size_t i = 0; i < template->count; i++)
            if (template->items[i].id >= 0 &&
                ((size_t) template->items[i].id >= t->size || t->tokens[template->items[i].id].text == NULL))
                return peft__fail(ctx, PEFT_E_FORMAT, "the template adds token id %d, which does not exist",
                                  template->items[i].id);
    }
    return PEFT_OK;
}

void peft__guess_special(peft_tokenizer *t) {
    static const char *const names[PEFT__SPECIAL_KINDS][5] = {
        [PEFT_SPECIAL_BOS] = {"<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", NULL},
        [PEFT_SPECIAL_EOS] = {"</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>", NULL},
        [PEFT_SPECIAL_UNK] = {"<unk>", "[UNK]", NULL},
        [PEFT_SPECIAL_PAD] = {"<pad>", "[PAD]", NULL},
        [PEFT_SPECIAL_CLS] = {"[CLS]", NULL},
        [PEFT_SPECIAL_SEP] = {"[SEP]", NULL},
        [PEFT_SPECIAL_MASK] = {"<mask>", "[MASK]", NULL}};
    if (t->model.unk_id >= 0 && t->special[PEFT_SPECIAL_UNK] < 0) t->special[PEFT_SPECIAL_UNK] = t->model.unk_id;
    for (int kind = 0; kind < PEFT__SPECIAL_KINDS; kind++)
        for (int i = 0; t->special[kind] < 0 && names[kind][i] != NULL; i++) {
            uint64_t index;
            if (peft__table_get(&t->added_by_text, names[kind][i], strlen(names[kind][i]), &index))
                t->special[kind] = t->added[index].id;
        }
}

/* ---- what a tokenizer knows --------------------------------------------------------------------------------- */

int32_t peft__tokenizer_size(const peft_tokenizer *t) {
    return (int32_t)t->size;
}

int32_t peft__token_to_id(const peft_tokenizer *t, const char *token, size_t length) {
    uint64_t index;
    if (peft__table_get(&t->added_by_text, token, length, &index)) return t->added[index].id;
    return peft__vocab_id(t, token, length);
}

const char *peft__id_to_token(const peft_tokenizer *t, int32_t id, size_t *out_length) {
    if (id < 0 || (size_t)id >= t->size || t->tokens[id].text == NULL) return NULL;
    if (out_length != NULL) *out_length = t->tokens[id].length;
    return t->tokens[id].text;
}

bool peft__token_is_special(const peft_tokenizer *t, int32_t id) {
    return id >= 0 && (size_t)id < t->size && t->tokens[id].special;
}

int32_t peft__special_id(const peft_tokenizer *t, int32_t which) {
    return which >= 0 && which < PEFT__SPECIAL_KINDS ? t->special[which] : -1;
}

bool peft__tokenizer_adds_bos(const peft_tokenizer *t) {
    return t->special[PEFT_SPECIAL_BOS] >= 0 && t->single.items[0].id == t->special[PEFT_SPECIAL_BOS];
}

bool peft__tokenizer_adds_eos(const peft_tokenizer *t) {
    return t->special[PEFT_SPECIAL_EOS] >= 0 && t->single.items[t->single.count - 1].id == t->special[PEFT_SPECIAL_EOS];
}

const char *peft__tokenizer_chat_template(const peft_tokenizer *t) {
    return t->chat_template;
}
