/* load_gguf.c: the tokenizer inside a GGUF file.
 *
 * GGUF keeps the vocabulary and the name of an algorithm; the stages around it are known by that name only. So each
 * name is translated into the stages of the tokenizer.json that the model was made with, and everything after that is
 * shared. Where llama.cpp itself differs from that (it never applies NFC, for example) the original is followed: those
 * are the ids that the model was trained on.
 */
#include "format/gguf.h"
#include "text/load.h"

#define SPACE_MARK "\xE2\x96\x81"
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define TAIL "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define LEAD "[^\\r\\n\\p{L}\\p{N}]?"

enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_USER = 4, TOKEN_UNUSED = 5, TOKEN_BYTE = 6 };
enum { SPM_TOKEN_LIMIT = 512 }; /* every cut of a token is looked up, so their length must stay small */

static const char pattern_llama3[] = CONTRACTIONS "|" LEAD "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" TAIL;
static const char pattern_qwen2[] = CONTRACTIONS "|" LEAD "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" TAIL;
static const char pattern_qwen35[] =
    CONTRACTIONS "|" LEAD "[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" TAIL;
static const char pattern_tekken[] =
    LEAD UPPER "*" LOWER "+|" LEAD UPPER "+" LOWER "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" TAIL;
static const char pattern_gpt4o[] = LEAD UPPER "*" LOWER "+" CONTRACTIONS "?|" LEAD UPPER "+" LOWER "*" CONTRACTIONS
                                               "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" TAIL;

enum { FLAG_NFC = 1, FLAG_DIGITS = 2, FLAG_IGNORE_MERGES = 4, FLAG_ADD_BOS = 8, FLAG_ADD_SEP = 16 };

/* tokenizer.ggml.pre: pattern NULL is GPT-2's. Names of models that share a row share a tokenizer's stages. */
static const struct {
    const char *name;
    const char *pattern;
    uint32_t flags;
} pre_types[] = {
    {"gpt-2", NULL, 0},
    {"gpt2", NULL, 0},
    {"phi-2", NULL, 0},
    {"mpt", NULL, 0},
    {"olmo", NULL, 0},
    {"jais", NULL, 0},
    {"gigachat", NULL, 0},
    {"roberta-bpe", NULL, FLAG_ADD_BOS | FLAG_ADD_SEP},
    {"jina-es", NULL, FLAG_ADD_BOS | FLAG_ADD_SEP},
    {"jina-de", NULL, FLAG_ADD_BOS | FLAG_ADD_SEP},
    {"jina-v1-en", NULL, FLAG_ADD_BOS | FLAG_ADD_SEP},
    {"jina-v2-es", NULL, FLAG_ADD_BOS | FLAG_ADD_SEP},
    {"jina-v2-de", NULL, FLAG_ADD_BOS | FLAG_ADD_SEP},
    {"jina-v2-code", NULL, FLAG_ADD_BOS | FLAG_ADD_SEP},
    {"smollm", NULL, FLAG_DIGITS},
    {"starcoder", NULL, FLAG_DIGITS},
    {"refact", NULL, FLAG_DIGITS},
    {"command-r", NULL, FLAG_DIGITS},
    {"codeshell", NULL, FLAG_DIGITS},
    {"exaone", NULL, FLAG_DIGITS},
    {"minerva-7b", NULL, FLAG_DIGITS},
    {"llama-bpe", pattern_llama3, FLAG_IGNORE_MERGES | FLAG_ADD_BOS},
    {"llama3", pattern_llama3, FLAG_IGNORE_MERGES | FLAG_ADD_BOS},
    {"llama-v3", pattern_llama3, FLAG_IGNORE_MERGES | FLAG_ADD_BOS},
    {"falcon3", pattern_llama3, FLAG_IGNORE_MERGES | FLAG_ADD_BOS},
    {"pixtral", pattern_llama3, FLAG_IGNORE_MERGES | FLAG_ADD_BOS},
    {"lfm2", pattern_llama3, FLAG_IGNORE_MERGES | FLAG_ADD_BOS},
    {"dbrx", pattern_llama3, 0},
    {"smaug-bpe", pattern_llama3, 0},
    {"qwen2", pattern_qwen2, FLAG_NFC},
    {"deepseek-r1-qwen", pattern_qwen2, FLAG_NFC},
    {"megrez", pattern_qwen2, FLAG_NFC},
    {"stablelm2", pattern_qwen2, FLAG_NFC},
    {"qwen35", pattern_qwen35, FLAG_NFC},
    {"tekken", pattern_tekken, FLAG_IGNORE_MERGES | FLAG_ADD_BOS},
    {"gpt-4o", pattern_gpt4o, 0},
};

typedef struct reader {
    peft_context *ctx;
    peft__gguf *gguf;
    peft_tokenizer *t;
    const peft__text *tokens;
    size_t count;
    const int32_t *types; /* NULL: all normal */
    const float *scores;  /* NULL: none */
} reader;

/* ---- shared parts ------------------------------------------------------------------------------------------- */

static peft_status read_arrays(reader *r) {
    size_t types, scores;
    PEFT_TRY(peft__gguf_get_strings(r->gguf, "tokenizer.ggml.tokens", &r->tokens, &r->count));
    PEFT_TRY(peft__gguf_get_i32s(r->gguf, "tokenizer.ggml.token_type", &r->types, &types));
    PEFT_TRY(peft__gguf_get_f32s(r->gguf, "tokenizer.ggml.scores", &r->scores, &scores));
    if (r->tokens == NULL || r->count == 0)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "tokenizer.ggml.tokens: the file has no tokens");
    if (r->count > PEFT__TOKEN_LIMIT)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "tokenizer.ggml.tokens: %zu are more than %d", r->count,
                          PEFT__TOKEN_LIMIT);
    if ((r->types != NULL && types != r->count) || (r->scores != NULL && scores != r->count))
        return peft__fail(r->ctx, PEFT_E_FORMAT, "tokenizer.ggml: %zu tokens, but %zu token_type and %zu scores",
                          r->count, types, scores);
    return PEFT_OK;
}

static int32_t type_of(const reader *r, size_t id) {
    return r->types == NULL ? TOKEN_NORMAL : r->types[id];
}

static peft_status add_tokens(reader *r) {
    for (size_t id = 0; id < r->count; id++) {
        const peft__text *token = &r->tokens[id];
        if (!peft__utf8_valid(token->data, token->length))
            return peft__fail(r->ctx, PEFT_E_FORMAT, "tokenizer.ggml.tokens: token %zu is not valid UTF-8", id);
        PEFT_TRY(peft__add_vocab(r->ctx, r->t, token->data, token->length, (int64_t)id, false));
    }
    return PEFT_OK;
}

/* Control and user-defined tokens are found in the text before anything else. */
static peft_status add_specials(reader *r) {
    for (size_t id = 0; id < r->count; id++) {
        const int32_t type = type_of(r, id);
        if (type != TOKEN_CONTROL && type != TOKEN_USER && type != TOKEN_UNKNOWN) continue;
        const peft__added added = {.content = r->tokens[id].data,
                                   .length = r->tokens[id].length,
                                   .id = (int32_t)id,
                                   .special = type != TOKEN_USER};
        PEFT_TRY(peft__add_added(r->ctx, r->t, &added));
    }
    return PEFT_OK;
}

/* An id of the file, or the default where that is a token; an id out of range is an error only when written. */
static peft_status special(reader *r, int32_t which, const char *key, const char *other_key, int64_t fallback) {
    int64_t id;
    if (fallback >= (int64_t)r->count) fallback = -1;
    if (!peft__gguf_has(r->gguf, key) && other_key != NULL) key = other_key;
    PEFT_TRY(peft__gguf_get_int(r->gguf, key, -1, UINT32_MAX, fallback, &id));
    if (id == UINT32_MAX) id = -1; /* some writers say "none" so */
    if (id >= (int64_t)r->count)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: id %lld, but there are %zu tokens", key, (long long)id, r->count);
    r->t->special[which] = (int32_t)id;
    return PEFT_OK;
}

static peft_status specials(reader *r, int64_t bos, int64_t eos, int64_t unk, int64_t sep, int64_t pad, int64_t mask) {
    PEFT_TRY(special(r, PEFT_SPECIAL_BOS, "tokenizer.ggml.bos_token_id", NULL, bos));
    PEFT_TRY(special(r, PEFT_SPECIAL_EOS, "tokenizer.ggml.eos_token_id", NULL, eos));
    PEFT_TRY(special(r, PEFT_SPECIAL_UNK, "tokenizer.ggml.unknown_token_id", NULL, unk));
    PEFT_TRY(
        special(r, PEFT_SPECIAL_SEP, "tokenizer.ggml.seperator_token_id", "tokenizer.ggml.separator_token_id", sep));
    PEFT_TRY(special(r, PEFT_SPECIAL_PAD, "tokenizer.ggml.padding_token_id", NULL, pad));
    PEFT_TRY(special(r, PEFT_SPECIAL_MASK, "tokenizer.ggml.mask_token_id", NULL, mask));
    return special(r, PEFT_SPECIAL_CLS, "tokenizer.ggml.cls_token_id", NULL, -1);
}

/* [bos] text [eos or sep], where each is asked for and exists; a pair repeats it. */
static peft_status put_templates(reader *r, bool bos, bool eos, bool sep) {
    peft_tokenizer *t = r->t;
    PEFT_TRY(peft__gguf_get_bool(r->gguf, "tokenizer.ggml.add_bos_token", bos, &bos));
    PEFT_TRY(peft__gguf_get_bool(r->gguf, "tokenizer.ggml.add_eos_token", eos, &eos));
    PEFT_TRY(peft__gguf_get_bool(r->gguf, "tokenizer.ggml.add_sep_token", sep, &sep));
    const int32_t first = bos ? t->special[PEFT_SPECIAL_BOS] : -1;
    const int32_t last = eos ? t->special[PEFT_SPECIAL_EOS] : sep ? t->special[PEFT_SPECIAL_SEP] : -1;
    for (int side = 0; side < 3; side++) { /* the single text, then both of the pair */
        peft__template *template = side == 0 ? &t->single : &t->pair;
        const int32_t type = side == 2;
        if (first >= 0) PEFT_TRY(peft__put_template(r->ctx, t, template, first, type));
        PEFT_TRY(peft__put_template(r->ctx, t, template, side == 2 ? -2 : -1, type));
        if (last >= 0) PEFT_TRY(peft__put_template(r->ctx, t, template, last, type));
    }
    return PEFT_OK;
}

static peft_status put_pattern(reader *r, const char *pattern) {
    peft__splitter *split;
    PEFT_TRY(peft__put_splitter(r->ctx, r->t, PEFT__SPLIT_PATTERN, &split));
    split->behavior = PEFT__ISOLATED;
    return peft__set_regex(r->ctx, r->t, &split->pattern, pattern, strlen(pattern));
}

static peft_status put_byte_level(reader *r, bool use_pattern) {
    peft__splitter *split;
    PEFT_TRY(peft__put_splitter(r->ctx, r->t, PEFT__SPLIT_BYTE_LEVEL, &split));
    PEFT_TRY(peft__gguf_get_bool(r->gguf, "tokenizer.ggml.add_space_prefix", false, &split->add_prefix_space));
    split->use_pattern = use_pattern;
    return use_pattern ? peft__set_regex(r->ctx, r->t, &split->pattern, peft__gpt2_pattern, strlen(peft__gpt2_pattern))
                       : PEFT_OK;
}

static peft_status put_normalizer(reader *r, peft__normalizer_kind kind, peft__form form, const char *from,
                                  const char *content) {
    peft__normalizer *made;
    PEFT_TRY(peft__put_normalizer(r->ctx, r->t, &made));
    made->kind = kind;
    made->form = form;
    made->left = made->right = true;
    if (content != NULL) {
        made->content = content;
        made->content_length = strlen(content);
    }
    return from != NULL ? peft__set_literal(r->ctx, r->t, &made->pattern, from, strlen(from)) : PEFT_OK;
}

/* ---- gpt2: byte-level BPE ------------------------------------------------------------------------------------- */

/* What llama.cpp does for files that do not say how words are cut. */
static peft_status put_default_splits(reader *r) {
    PEFT_TRY(put_pattern(r, "[\\p{P}\\$\\+<=>\\^~\\|]+"));
    PEFT_TRY(put_pattern(r, peft__gpt2_pattern));
    PEFT_TRY(put_pattern(r, "\\p{N}+"));
    PEFT_TRY(put_pattern(r, "[0-9][0-9][0-9]"));
    return put_byte_level(r, false);
}

static peft_status put_deepseek3_splits(reader *r) {
    PEFT_TRY(put_pattern(r, "\\p{N}{1,3}"));
    PEFT_TRY(put_pattern(r, "[\xE4\xB8\x80-\xE9\xBE\xA5\xE3\x81\x80-\xE3\x82\x9F\xE3\x82\xA0-\xE3\x83\xBF]+"));
    PEFT_TRY(put_pattern(
        r, "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
           " ?[\\p{P}\\p{S}]+[\\r\\n]*|" TAIL));
    return put_byte_level(r, false);
}

static peft_status read_gpt2(reader *r) {
    const peft__text *merges;
    const char *pre;
    size_t merge_count, row = 0;
    peft__decoder *decoder;
    PEFT_TRY(peft__gguf_get_string(r->gguf, "tokenizer.ggml.pre", NULL, &pre));
    while (pre != NULL && row < PEFT_COUNT(pre_types) && strcmp(pre_types[row].name, pre) != 0) row++;
    uint32_t flags = 0;
    if (pre == NULL || strcmp(pre, "default") == 0) {
        peft__log(r->ctx, PEFT_LOG_WARNING,
                  "tokenizer.ggml.pre is missing: words are cut in a general way, and token ids may differ from those "
                  "that the model was trained on");
        PEFT_TRY(put_default_splits(r));
    } else if (strcmp(pre, "deepseek-v3") == 0) {
        PEFT_TRY(put_deepseek3_splits(r));
        flags = FLAG_ADD_BOS;
    } else if (row == PEFT_COUNT(pre_types)) {
        return peft__fail(r->ctx, PEFT_E_UNSUPPORTED,
                          "tokenizer.ggml.pre: \"%s\" is not known; use the model's tokenizer.json instead", pre);
    } else {
        flags = pre_types[row].flags;
        if (flags & FLAG_NFC) PEFT_TRY(put_normalizer(r, PEFT__NORM_FORM, PEFT__NFC, NULL, NULL));
        if (flags & FLAG_DIGITS) {
            peft__splitter *split;
            PEFT_TRY(peft__put_splitter(r->ctx, r->t, PEFT__SPLIT_DIGITS, &split));
            split->individual = true;
        }
        if (pre_types[row].pattern != NULL) PEFT_TRY(put_pattern(r, pre_types[row].pattern));
        PEFT_TRY(put_byte_level(r, pre_types[row].pattern == NULL));
    }
    r->t->model.kind = PEFT__MODEL_BPE;
    r->t->model.ignore_merges = (flags & FLAG_IGNORE_MERGES) != 0;
    PEFT_TRY(add_tokens(r));
    PEFT_TRY(peft__gguf_get_strings(r->gguf, "tokenizer.ggml.merges", &merges, &merge_count));
    if (merges == NULL) return peft__fail(r->ctx, PEFT_E_FORMAT, "tokenizer.ggml.merges: the file has no merges");
    if (merge_count > UINT32_MAX || !peft__pairs_reserve(&r->t->model.merges, merge_count))
        return peft__tokenizer_nomem(r->ctx);
    for (size_t i = 0; i < merge_count; i++) {
        const peft_status status = peft__add_merge_text(r->ctx, r->t, merges[i].data, merges[i].length, (uint32_t)i);
        if (status != PEFT_OK) return peft__fail_in(r->ctx, status, "tokenizer.ggml.merges");
    }
    PEFT_TRY(peft__put_decoder(r->ctx, r->t, PEFT__DECODE_BYTE_LEVEL, &decoder));
    PEFT_TRY(specials(r, -1, -1, -1, -1, -1, -1));
    return put_templates(r, (flags & FLAG_ADD_BOS) != 0, false, (flags & FLAG_ADD_SEP) != 0);
}

/* ---- llama: SentencePiece BPE by scores ------------------------------------------------------------------------- */

static float score_at(const reader *r, uint32_t id) {
    return r->scores[id];
}

/* Ids by falling score (merge sort: stable, no worst case, no globals). */
static bool sort_by_score(const reader *r, uint32_t *ids) {
    uint32_t *spare = peft__alloc(r->ctx->mem, r->count * sizeof *spare), *from = ids, *to = spare;
    if (spare == NULL) return false;
    for (size_t width = 1; width < r->count; width *= 2) {
        for (size_t start = 0; start < r->count; start += 2 * width) {
            const size_t middle = peft__min_size(start + width, r->count);
            const size_t end = peft__min_size(start + 2 * width, r->count);
            size_t a = start, b = middle;
            for (size_t at = start; at < end; at++)
                to[at] =
                    a < middle && (b >= end || score_at(r, from[a]) >= score_at(r, from[b])) ? from[a++] : from[b++];
        }
        uint32_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != ids) memcpy(ids, from, r->count * sizeof *ids);
    peft__free(r->ctx->mem, spare);
    return true;
}

/* Two neighbours are merged when together they are a token, best score first. That is BPE with every cut of every
 * token as a merge, ranked by the token's score; equal scores share a rank, so that the leftmost goes first. */
static peft_status merges_from_scores(reader *r) {
    uint32_t *ids = peft__alloc(r->ctx->mem, r->count * sizeof *ids);
    if (ids == NULL) return peft__tokenizer_nomem(r->ctx);
    peft_status status = PEFT_OK;
    for (size_t i = 0; i < r->count; i++) ids[i] = (uint32_t)i;
    if (!sort_by_score(r, ids)) status = peft__tokenizer_nomem(r->ctx);
    uint32_t rank = 0;
    for (size_t i = 0; i < r->count && status == PEFT_OK; i++) {
        const uint32_t id = ids[i];
        const peft__text *token = &r->tokens[id];
        const int32_t type = type_of(r, id);
        if (i > 0 && score_at(r, ids[i - 1]) != score_at(r, id)) rank++;
        if (type == TOKEN_UNKNOWN || type == TOKEN_CONTROL || type == TOKEN_BYTE) continue;
        if (peft__vocab_id(r->t, token->data, token->length) != (int32_t)id) continue;
        if (token->length > SPM_TOKEN_LIMIT) {
            status = peft__fail(r->ctx, PEFT_E_FORMAT, "tokenizer.ggml.tokens: token %u of %zu bytes is too long", id,
                                token->length);
            break;
        }
        for (size_t cut = 1; cut < token->length && status == PEFT_OK; cut++) {
            if (((unsigned char)token->data[cut] & 0xC0) == 0x80) continue;
            const int32_t left = peft__vocab_id(r->t, token->data, cut);
            const int32_t right = left < 0 ? -1 : peft__vocab_id(r->t, token->data + cut, token->length - cut);
            if (right >= 0 && !peft__pairs_put(&r->t->model.merges, (uint64_t)(uint32_t)left << 32 | (uint32_t)right,
                                               (uint64_t)rank << 32 | id))
                status = peft__tokenizer_nomem(r->ctx);
        }
    }
    peft__free(r->ctx->mem, ids);
    return status;
}

static peft_status read_llama(reader *r) {
    bool prefix;
    peft__decoder *decoder;
    if (r->scores == NULL)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "tokenizer.ggml.scores: the file has none, and \"llama\" needs them");
    for (size_t i = 0; i < r->count; i++)
        if (!isfinite(r->scores[i]))
            return peft__fail(r->ctx, PEFT_E_FORMAT, "tokenizer.ggml.scores: number %zu is not finite", i);
    PEFT_TRY(peft__gguf_get_bool(r->gguf, "tokenizer.ggml.add_space_prefix", true, &prefix));
    if (prefix) PEFT_TRY(put_normalizer(r, PEFT__NORM_PREPEND, PEFT__NFC, NULL, SPACE_MARK));
    PEFT_TRY(put_normalizer(r, PEFT__NORM_REPLACE, PEFT__NFC, " ", SPACE_MARK));
    PEFT_TRY(add_tokens(r));
    r->t->model.kind = PEFT__MODEL_BPE;
    r->t->model.byte_fallback = r->t->model.fuse_unk = true;
    PEFT_TRY(merges_from_scores(r));
    PEFT_TRY(specials(r, 1, 2, 0, -1, -1, -1));
    const int32_t unk = r->t->special[PEFT_SPECIAL_UNK];
    if (unk >= 0 &&
        (r->t->model.unk = peft__arena_strndup(&r->t->arena, r->tokens[unk].data, r->tokens[unk].length)) == NULL)
        return peft__tokenizer_nomem(r->ctx);
    PEFT_TRY(peft__put_decoder(r->ctx, r->t, PEFT__DECODE_REPLACE, &decoder));
    decoder->text = " ";
    decoder->text_length = 1;
    PEFT_TRY(peft__set_literal(r->ctx, r->t, &decoder->pattern, SPACE_MARK, strlen(SPACE_MARK)));
    PEFT_TRY(peft__put_decoder(r->ctx, r->t, PEFT__DECODE_BYTE_FALLBACK, &decoder));
    PEFT_TRY(peft__put_decoder(r->ctx, r->t, PEFT__DECODE_FUSE, &decoder));
    if (prefix) {
        PEFT_TRY(peft__put_decoder(r->ctx, r->t, PEFT__DECODE_STRIP, &decoder));
        decoder->text = " ";
        decoder->text_length = 1;
        decoder->start = 1;
    }
    return put_templates(r, true, false, false);
}

/* ---- bert: WordPiece ---------------------------------------------------------------------------------------- */

/* The file marks the start of a word; tokenizer.json marks what continues one. "[SEP]" and its like have no mark. */
static peft_status add_wordpiece(reader *r, size_t id) {
    const peft__text *token = &r->tokens[id];
    const size_t mark = strlen(SPACE_MARK);
    const bool special_form = token->length > 1 && token->data[0] == '[' && token->data[token->length - 1] == ']';
    if (!peft__utf8_valid(token->data, token->length))
        return peft__fail(r->ctx, PEFT_E_FORMAT, "tokenizer.ggml.tokens: token %zu is not valid UTF-8", id);
    if (token->length >= mark && memcmp(token->data, SPACE_MARK, mark) == 0)
        return peft__add_vocab(r->ctx, r->t, token->data + mark, token->length - mark, (int64_t)id, false);
    if (special_form || type_of(r, id) == TOKEN_CONTROL || type_of(r, id) == TOKEN_UNKNOWN)
        return peft__add_vocab(r->ctx, r->t, token->data, token->length, (int64_t)id, false);
    peft__buffer text;
    peft__buffer_init(&text, r->ctx->mem);
    peft_status status = peft__buffer_puts(&text, "##") && peft__buffer_put(&text, token->data, token->length)
                             ? peft__add_vocab(r->ctx, r->t, text.data, text.length, (int64_t)id, false)
                             : peft__tokenizer_nomem(r->ctx);
    peft__buffer_free(&text);
    return status;
}

static peft_status read_bert(reader *r) {
    peft__splitter *split;
    peft__decoder *decoder;
    peft_tokenizer *t = r->t;
    for (size_t id = 0; id < r->count; id++) PEFT_TRY(add_wordpiece(r, id));
    t->model.kind = PEFT__MODEL_WORDPIECE;
    t->model.prefix = "##";
    t->model.prefix_length = 2;
    t->model.max_chars = 100;
    PEFT_TRY(peft__put_bert_normalizer(r->ctx, t, true, true, true, true));
    PEFT_TRY(peft__put_splitter(r->ctx, t, PEFT__SPLIT_BERT, &split));
    PEFT_TRY(peft__put_decoder(r->ctx, t, PEFT__DECODE_WORDPIECE, &decoder));
    decoder->text = "##";
    decoder->text_length = 2;
    decoder->cleanup = true;
    PEFT_TRY(specials(r, 101, -1, 100, 102, 0, 103));
    if (t->special[PEFT_SPECIAL_CLS] < 0) t->special[PEFT_SPECIAL_CLS] = t->special[PEFT_SPECIAL_BOS];
    const int32_t unk = t->special[PEFT_SPECIAL_UNK], cls = t->special[PEFT_SPECIAL_CLS],
                  sep = t->special[PEFT_SPECIAL_SEP];
    if (unk < 0 || cls < 0 || sep < 0)
        return peft__fail(r->ctx, PEFT_E_FORMAT,
                          "tokenizer.ggml: \"bert\" needs an unknown, a cls and a separator token");
    if ((t->model.unk = peft__arena_strndup(&t->arena, r->tokens[unk].data, r->tokens[unk].length)) == NULL)
        return peft__tokenizer_nomem(r->ctx);
    return peft__put_bert_template(r->ctx, t, cls, sep);
}

/* ---- t5: Unigram -------------------------------------------------------------------------------------------- */

static peft_status put_charsmap(reader *r) {
    const int32_t *bytes;
    size_t count;
    PEFT_TRY(peft__gguf_get_i32s(r->gguf, "tokenizer.ggml.precompiled_charsmap", &bytes, &count));
    if (bytes == NULL || count == 0) return PEFT_OK;
    uint8_t *map = peft__tokenizer_array(r->t, count, 1);
    if (map == NULL) return peft__tokenizer_nomem(r->ctx);
    for (size_t i = 0; i < count; i++) map[i] = (uint8_t)bytes[i];
    if (!peft__charsmap_valid(map, count))
        return peft__fail(r->ctx, PEFT_E_FORMAT, "tokenizer.ggml.precompiled_charsmap: %zu bytes that are not a map",
                          count);
    PEFT_TRY(put_normalizer(r, PEFT__NORM_PRECOMPILED, PEFT__NFC, NULL, NULL));
    peft__normalizer *made = &r->t->normalizers[r->t->normalizer_count - 1];
    made->charsmap = map;
    made->charsmap_size = count;
    return PEFT_OK;
}

static peft_status read_t5(reader *r) {
    peft_tokenizer *t = r->t;
    bool prefix, extra;
    peft__splitter *split;
    peft__decoder *decoder;
    if (r->scores == NULL)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "tokenizer.ggml.scores: the file has none, and \"t5\" needs them");
    PEFT_TRY(peft__gguf_get_bool(r->gguf, "tokenizer.ggml.add_space_prefix", true, &prefix));
    PEFT_TRY(peft__gguf_get_bool(r->gguf, "tokenizer.ggml.remove_extra_whitespaces", false, &extra));
    PEFT_TRY(put_charsmap(r));
    if (extra) { /* what is left at the start becomes the mark that would be put there anyway */
        PEFT_TRY(put_normalizer(r, PEFT__NORM_STRIP, PEFT__NFC, NULL, NULL));
        t->normalizers[t->normalizer_count - 1].left = false;
        PEFT_TRY(put_normalizer(r, PEFT__NORM_REPLACE, PEFT__NFC, NULL, SPACE_MARK));
        PEFT_TRY(peft__set_regex(r->ctx, t, &t->normalizers[t->normalizer_count - 1].pattern, " {2,}", 5));
    }
    PEFT_TRY(peft__put_splitter(r->ctx, t, PEFT__SPLIT_METASPACE, &split));
    split->replacement = SPACE_MARK;
    split->replacement_length = strlen(SPACE_MARK);
    split->prepend = prefix ? 2 : 0;
    split->split = true;
    PEFT_TRY(peft__set_literal(r->ctx, t, &split->pattern, SPACE_MARK, strlen(SPACE_MARK)));
    PEFT_TRY(add_tokens(r));
    PEFT_TRY(specials(r, -1, 1, 2, -1, 0, -1));
    t->model.kind = PEFT__MODEL_UNIGRAM;
    t->model.unk_id = t->special[PEFT_SPECIAL_UNK];
    t->model.min_score = HUGE_VAL;
    t->model.scores = peft__tokenizer_array(t, r->count, sizeof *t->model.scores);
    if (t->model.scores == NULL) return peft__tokenizer_nomem(r->ctx);
    for (size_t i = 0; i < r->count; i++) {
        if (!isfinite(r->scores[i]))
            return peft__fail(r->ctx, PEFT_E_FORMAT, "tokenizer.ggml.scores: number %zu is not finite", i);
        t->model.scores[i] = r->scores[i];
        if (t->model.scores[i] < t->model.min_score) t->model.min_score = t->model.scores[i];
    }
    PEFT_TRY(peft__put_decoder(r->ctx, t, PEFT__DECODE_METASPACE, &decoder));
    decoder->text = SPACE_MARK;
    decoder->text_length = strlen(SPACE_MARK);
    decoder->prepends = prefix;
    return put_templates(r, false, true, false);
}

/* ---- the whole ---------------------------------------------------------------------------------------------- */

static peft_status read_all(reader *r) {
    const char *model, *chat;
    PEFT_TRY(peft__gguf_need_string(r->gguf, "tokenizer.ggml.model", &model));
    static const struct {
        const char *name;
        peft_status (*read)(reader *r);
    } models[] = {{"gpt2", read_gpt2}, {"llama", read_llama}, {"bert", read_bert}, {"t5", read_t5}};
    size_t i = 0;
    while (i < PEFT_COUNT(models) && strcmp(models[i].name, model) != 0) i++;
    if (i == PEFT_COUNT(models))
        return peft__fail(r->ctx, PEFT_E_UNSUPPORTED,
                          "tokenizer.ggml.model: \"%s\" is not supported (gpt2, llama, bert and t5 are)", model);
    PEFT_TRY(read_arrays(r));
    PEFT_TRY(models[i].read(r));
    PEFT_TRY(add_specials(r));
    PEFT_TRY(peft__gguf_get_string(r->gguf, "tokenizer.chat_template", NULL, &chat));
    if (chat != NULL && (r->t->chat_template = peft__arena_strdup(&r->t->arena, chat)) == NULL)
        return peft__tokenizer_nomem(r->ctx);
    return peft__tokenizer_seal(r->ctx, r->t);
}

peft_status peft__tokenizer_from_gguf(peft_context *ctx, peft__gguf *gguf, peft_tokenizer **out_tokenizer) {
    reader r = {.ctx = ctx, .gguf = gguf};
    PEFT_TRY(peft__tokenizer_new(ctx, &r.t));
    const peft_status status = read_all(&r);
    if (status != PEFT_OK) {
        peft__tokenizer_unref(r.t);
        return status;
    }
    *out_tokenizer = r.t;
    return PEFT_OK;
}
