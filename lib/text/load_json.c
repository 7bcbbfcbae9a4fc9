/* load_json.c: tokenizer.json to a tokenizer.
 *
 * Unknown keys are ignored, as the reference does; unknown types of stages are errors, because leaving a stage out
 * would give other ids without a word. Sequences are flattened: a chain of stages is all there is.
 */
#include "text/load.h"

#define WHERE_MODEL "tokenizer.json: model"

static peft_status unsupported(peft_context *ctx, const char *what, const char *type) {
    return peft__fail(ctx, PEFT_E_UNSUPPORTED, "tokenizer.json: %s of type \"%s\" is not supported", what, type);
}

/* Calls `read` for every member of (nested) Sequences, with room for one more element made before. */
typedef peft_status (*stage_fn)(peft_context *ctx, peft_tokenizer *t, const peft__json *json, const char *type);

static peft_status walk(peft_context *ctx, peft_tokenizer *t, const peft__json *json, const char *what,
                        const char *members, stage_fn read) {
    const char *type;
    if (json == NULL) return PEFT_OK;
    if (!json_is_object(json))
        return peft__fail(ctx, PEFT_E_FORMAT, "tokenizer.json: %s: expected an object, found %s", what,
                          peft__json_kind(json));
    char where[64];
    snprintf(where, sizeof where, "tokenizer.json: %s", what);
    PEFT_TRY(peft__json_need_string(ctx, json, where, "type", &type));
    if (strcmp(type, "Sequence") != 0) return read(ctx, t, json, type);
    const peft__json *list;
    PEFT_TRY(peft__json_need_array(ctx, json, where, members, &list));
    for (size_t i = 0; i < json_array_size(list); i++)
        PEFT_TRY(walk(ctx, t, json_array_get(list, i), what, members, read)); /* depth: limited by the parser */
    return PEFT_OK;
}

/* One more element at the end of an array in the arena; doubles it when it is full. NULL: no memory. */
static void *append(peft_tokenizer *t, void *array, size_t count, size_t size) {
    if (count > 0 && (count & (count - 1)) != 0) return array;
    void *grown = peft__tokenizer_array(t, count == 0 ? 1 : count * 2, size);
    if (grown != NULL && count > 0) memcpy(grown, array, count * size);
    return grown;
}

static peft_status text_of(peft_context *ctx, peft_tokenizer *t, const peft__json *json, const char *where,
                           const char *key, const char *fallback, const char **out, size_t *out_length) {
    const char *text;
    if (fallback == NULL)
        PEFT_TRY(peft__json_need_string(ctx, json, where, key, &text));
    else
        PEFT_TRY(peft__json_get_string(ctx, json, where, key, fallback, &text));
    *out = peft__arena_strdup(&t->arena, text);
    *out_length = strlen(text);
    return *out != NULL ? PEFT_OK : peft__tokenizer_nomem(ctx);
}

/* {"String": "..."} or {"Regex": "..."} */
static peft_status read_pattern(peft_context *ctx, peft_tokenizer *t, const peft__json *json, const char *where,
                                peft__pattern *out) {
    const peft__json *pattern, *text;
    PEFT_TRY(peft__json_need_object(ctx, json, where, "pattern", &pattern));
    if ((text = json_object_get(pattern, "String")) != NULL && json_is_string(text))
        return peft__set_literal(ctx, t, out, json_string_value(text), json_string_length(text));
    if ((text = json_object_get(pattern, "Regex")) != NULL && json_is_string(text))
        return peft__set_regex(ctx, t, out, json_string_value(text), json_string_length(text));
    return peft__fail(ctx, PEFT_E_FORMAT, "%s: pattern: expected {\"String\": ..} or {\"Regex\": ..}", where);
}

/* ---- normalizers -------------------------------------------------------------------------------------------- */

peft_status peft__put_normalizer(peft_context *ctx, peft_tokenizer *t, peft__normalizer **out) {
    peft__normalizer *list = append(t, t->normalizers, t->normalizer_count, sizeof *list);
    if (list == NULL) return peft__tokenizer_nomem(ctx);
    t->normalizers = list;
    *out = &list[t->normalizer_count++];
    return PEFT_OK;
}

static peft_status put_simple(peft_context *ctx, peft_tokenizer *t, peft__normalizer_kind kind, peft__form form) {
    peft__normalizer *made = NULL;
    PEFT_TRY(peft__put_normalizer(ctx, t, &made));
    made->kind = kind;
    made->form = form;
    return PEFT_OK;
}

peft_status peft__put_bert_normalizer(peft_context *ctx, peft_tokenizer *t, bool clean, bool chinese, bool strip,
                                      bool lower) {
    if (clean) PEFT_TRY(put_simple(ctx, t, PEFT__NORM_CLEAN, PEFT__NFC));
    if (chinese) PEFT_TRY(put_simple(ctx, t, PEFT__NORM_CHINESE, PEFT__NFC));
    if (strip) PEFT_TRY(put_simple(ctx, t, PEFT__NORM_FORM, PEFT__NFD));
    if (strip) PEFT_TRY(put_simple(ctx, t, PEFT__NORM_STRIP_NONSPACING, PEFT__NFC));
    return lower ? put_simple(ctx, t, PEFT__NORM_LOWERCASE, PEFT__NFC) : PEFT_OK;
}

static int base64_digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static peft_status read_charsmap(peft_context *ctx, peft_tokenizer *t, const peft__json *json, peft__normalizer *out) {
    const char *text;
    PEFT_TRY(peft__json_need_string(ctx, json, "tokenizer.json: Precompiled", "precompiled_charsmap", &text));
    size_t length = strlen(text), size = 0;
    while (length > 0 && text[length - 1] == '=') length--;
    uint8_t *map = peft__tokenizer_array(t, length, 1);
    if (map == NULL) return peft__tokenizer_nomem(ctx);
    uint32_t bits = 0;
    for (size_t i = 0; i < length; i++) {
        const int digit = base64_digit(text[i]);
        if (digit < 0)
            return peft__fail(ctx, PEFT_E_FORMAT, "tokenizer.json: precompiled_charsmap: character %zu is not base64",
                              i);
        bits = bits << 6 | (uint32_t)digit;
        if (i % 4 != 0) map[size++] = (uint8_t)(bits >> (6 - 2 * (i % 4)));
    }
    if (!peft__charsmap_valid(map, size))
        return peft__fail(ctx, PEFT_E_FORMAT, "tokenizer.json: precompiled_charsmap: %zu bytes that are not a map",
                          size);
    out->charsmap = map;
    out->charsmap_size = size;
    return PEFT_OK;
}

static peft_status read_normalizer(peft_context *ctx, peft_tokenizer *t, const peft__json *json, const char *type) {
    const char *where = "tokenizer.json: normalizer";
    static const struct {
        const char *type;
        peft__normalizer_kind kind;
        peft__form form;
    } kinds[] = {{"NFC", PEFT__NORM_FORM, PEFT__NFC},
                 {"NFD", PEFT__NORM_FORM, PEFT__NFD},
                 {"NFKC", PEFT__NORM_FORM, PEFT__NFKC},
                 {"NFKD", PEFT__NORM_FORM, PEFT__NFKD},
                 {"Lowercase", PEFT__NORM_LOWERCASE, PEFT__NFC},
                 {"StripAccents", PEFT__NORM_STRIP_ACCENTS, PEFT__NFC},
                 {"Nmt", PEFT__NORM_NMT, PEFT__NFC},
                 {"ByteLevel", PEFT__NORM_BYTE_LEVEL, PEFT__NFC},
                 {"Strip", PEFT__NORM_STRIP, PEFT__NFC},
                 {"Replace", PEFT__NORM_REPLACE, PEFT__NFC},
                 {"Prepend", PEFT__NORM_PREPEND, PEFT__NFC},
                 {"Precompiled", PEFT__NORM_PRECOMPILED, PEFT__NFC}};
    if (strcmp(type, "BertNormalizer") == 0) {
        bool clean, chinese, strip, lower;
        PEFT_TRY(peft__json_get_bool(ctx, json, where, "clean_text", true, &clean));
        PEFT_TRY(peft__json_get_bool(ctx, json, where, "handle_chinese_chars", true, &chinese));
        PEFT_TRY(peft__json_get_bool(ctx, json, where, "lowercase", true, &lower));
        PEFT_TRY(peft__json_get_bool(ctx, json, where, "strip_accents", lower, &strip));
        return peft__put_bert_normalizer(ctx, t, clean, chinese, strip, lower);
    }
    size_t kind = 0;
    while (kind < PEFT_COUNT(kinds) && strcmp(type, kinds[kind].type) != 0) kind++;
    if (kind == PEFT_COUNT(kinds)) return unsupported(ctx, "a normalizer", type);
    peft__normalizer *made = NULL;
    PEFT_TRY(peft__put_normalizer(ctx, t, &made));
    made->kind = kinds[kind].kind;
    made->form = kinds[kind].form;
    switch (made->kind) {
    case PEFT__NORM_STRIP:
        PEFT_TRY(peft__json_get_bool(ctx, json, where, "strip_left", true, &made->left));
        return peft__json_get_bool(ctx, json, where, "strip_right", true, &made->right);
    case PEFT__NORM_REPLACE:
        PEFT_TRY(read_pattern(ctx, t, json, where, &made->pattern));
        return text_of(ctx, t, json, where, "content", NULL, &made->content, &made->content_length);
    case PEFT__NORM_PREPEND:
        return text_of(ctx, t, json, where, "prepend", NULL, &made->content, &made->content_length);
    case PEFT__NORM_PRECOMPILED:
        return read_charsmap(ctx, t, json, made);
    default:
        return PEFT_OK;
    }
}

/* ---- pre-tokenizers --------------------------------------------------------------------------------------------- */

peft_status peft__put_splitter(peft_context *ctx, peft_tokenizer *t, peft__splitter_kind kind, peft__splitter **out) {
    peft__splitter *list = append(t, t->splitters, t->splitter_count, sizeof *list);
    if (list == NULL) return peft__tokenizer_nomem(ctx);
    t->splitters = list;
    *out = &list[t->splitter_count++];
    (*out)->kind = kind;
    return PEFT_OK;
}

static peft_status read_behavior(peft_context *ctx, const peft__json *json, const char *where, const char *fallback,
                                 peft__behavior *out) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name;
    if (fallback == NULL)
        PEFT_TRY(peft__json_need_string(ctx, json, where, "behavior", &name));
    else
        PEFT_TRY(peft__json_get_string(ctx, json, where, "behavior", fallback, &name));
    for (size_t i = 0; i < PEFT_COUNT(names); i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (peft__behavior)i;
            return PEFT_OK;
        }
    return peft__fail(ctx, PEFT_E_FORMAT, "%s: unknown behavior \"%s\"", where, name);
}

/* prepend_scheme always, first or never; older files have add_prefix_space. */
static peft_status read_metaspace(peft_context *ctx, peft_tokenizer *t, const peft__json *json, const char *where,
                                  const char **out_text, size_t *out_length, int *out_prepend) {
    const char *scheme;
    bool prefix;
    PEFT_TRY(text_of(ctx, t, json, where, "replacement", "\xE2\x96\x81", out_text, out_length));
    PEFT_TRY(peft__json_get_bool(ctx, json, where, "add_prefix_space", true, &prefix));
    PEFT_TRY(peft__json_get_string(ctx, json, where, "prepend_scheme", prefix ? "always" : "never", &scheme));
    if (*out_length == 0) return peft__fail(ctx, PEFT_E_FORMAT, "%s: replacement: expected a character", where);
    *out_prepend = strcmp(scheme, "always") == 0 ? 2 : strcmp(scheme, "first") == 0 ? 1 : 0;
    if (*out_prepend == 0 && strcmp(scheme, "never") != 0)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: prepend_scheme: expected always, first or never, found \"%s\"",
                          where, scheme);
    return PEFT_OK;
}

static peft_status read_splitter(peft_context *ctx, peft_tokenizer *t, const peft__json *json, const char *type) {
    const char *where = "tokenizer.json: pre_tokenizer";
    static const struct {
        const char *type;
        peft__splitter_kind kind;
    } kinds[] = {{"ByteLevel", PEFT__SPLIT_BYTE_LEVEL},
                 {"Split", PEFT__SPLIT_PATTERN},
                 {"Digits", PEFT__SPLIT_DIGITS},
                 {"Metaspace", PEFT__SPLIT_METASPACE},
                 {"BertPreTokenizer", PEFT__SPLIT_BERT},
                 {"Whitespace", PEFT__SPLIT_WHITESPACE},
                 {"WhitespaceSplit", PEFT__SPLIT_WHITESPACE_ONLY},
                 {"Punctuation", PEFT__SPLIT_PUNCTUATION},
                 {"CharDelimiterSplit", PEFT__SPLIT_PATTERN},
                 {"FixedLength", PEFT__SPLIT_FIXED}};
    size_t kind = 0;
    while (kind < PEFT_COUNT(kinds) && strcmp(type, kinds[kind].type) != 0) kind++;
    if (kind == PEFT_COUNT(kinds)) return unsupported(ctx, "a pre_tokenizer", type);
    peft__splitter *made = NULL;
    PEFT_TRY(peft__put_splitter(ctx, t, kinds[kind].kind, &made));
    switch (made->kind) {
    case PEFT__SPLIT_BYTE_LEVEL:
        PEFT_TRY(peft__json_get_bool(ctx, json, where, "add_prefix_space", true, &made->add_prefix_space));
        PEFT_TRY(peft__json_get_bool(ctx, json, where, "use_regex", true, &made->use_pattern));
        return made->use_pattern
                   ? peft__set_regex(ctx, t, &made->pattern, peft__gpt2_pattern, strlen(peft__gpt2_pattern))
                   : PEFT_OK;
    case PEFT__SPLIT_PATTERN:
        if (strcmp(type, "CharDelimiterSplit") == 0) {
            const char *delimiter;
            PEFT_TRY(peft__json_need_string(ctx, json, where, "delimiter", &delimiter));
            made->behavior = PEFT__REMOVED;
            return peft__set_literal(ctx, t, &made->pattern, delimiter, strlen(delimiter));
        }
        PEFT_TRY(read_pattern(ctx, t, json, where, &made->pattern));
        PEFT_TRY(peft__json_get_bool(ctx, json, where, "invert", false, &made->invert));
        return read_behavior(ctx, json, where, NULL, &made->behavior);
    case PEFT__SPLIT_DIGITS:
        return peft__json_get_bool(ctx, json, where, "individual_digits", false, &made->individual);
    case PEFT__SPLIT_PUNCTUATION:
        return read_behavior(ctx, json, where, "Isolated", &made->behavior);
    case PEFT__SPLIT_METASPACE:
        PEFT_TRY(read_metaspace(ctx, t, json, where, &made->replacement, &made->replacement_length, &made->prepend));
        PEFT_TRY(peft__json_get_bool(ctx, json, where, "split", true, &made->split));
        return peft__set_literal(ctx, t, &made->pattern, made->replacement, made->replacement_length);
    case PEFT__SPLIT_FIXED: {
        int64_t length;
        PEFT_TRY(peft__json_get_int(ctx, json, where, "length", 1, INT32_MAX, 5, &length));
        made->fixed = (size_t)length;
        return PEFT_OK;
    }
    default:
        return PEFT_OK;
    }
}

/* ---- post-processors ---------------------------------------------------------------------------------------- */

peft_status peft__put_template(peft_context *ctx, peft_tokenizer *t, peft__template *template, int32_t id,
                               int32_t type) {
    peft__template_item *items = append(t, template->items, template->count, sizeof *items);
    if (items == NULL) return peft__tokenizer_nomem(ctx);
    template->items = items;
    items[template->count++] = (peft__template_item){id, type};
    return PEFT_OK;
}

static peft_status read_template(peft_context *ctx, peft_tokenizer *t, const peft__json *json, const char *key,
                                 peft__template *out) {
    const char *where = "tokenizer.json: TemplateProcessing";
    const peft__json *list, *specials;
    PEFT_TRY(peft__json_need_array(ctx, json, where, key, &list));
    PEFT_TRY(peft__json_get_object(ctx, json, where, "special_tokens", &specials));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const peft__json *item = json_array_get(list, i), *part;
        const char *id;
        int64_t type;
        if ((part = json_object_get(item, "Sequence")) != NULL) {
            PEFT_TRY(peft__json_need_string(ctx, part, where, "id", &id));
            PEFT_TRY(peft__json_get_int(ctx, part, where, "type_id", 0, INT32_MAX, 0, &type));
            const bool first = strcmp(id, "A") == 0;
            if (!first && strcmp(id, "B") != 0)
                return peft__fail(ctx, PEFT_E_FORMAT, "%s: %s: expected sequence A or B, found \"%s\"", where, key, id);
            PEFT_TRY(peft__put_template(ctx, t, out, first ? -1 : -2, (int32_t)type));
            continue;
        }
        if ((part = json_object_get(item, "SpecialToken")) == NULL)
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: %s: expected Sequence or SpecialToken", where, key);
        PEFT_TRY(peft__json_need_string(ctx, part, where, "id", &id));
        PEFT_TRY(peft__json_get_int(ctx, part, where, "type_id", 0, INT32_MAX, 0, &type));
        const peft__json *special = specials != NULL ? json_object_get(specials, id) : NULL, *ids;
        if (special == NULL) return peft__fail(ctx, PEFT_E_FORMAT, "%s: special_tokens has no \"%s\"", where, id);
        PEFT_TRY(peft__json_need_array(ctx, special, where, "ids", &ids));
        for (size_t k = 0; k < json_array_size(ids); k++) {
            const json_t *value = json_array_get(ids, k);
            const json_int_t number = json_integer_value(value);
            if (!json_is_integer(value) || number < 0 || number >= PEFT__TOKEN_LIMIT)
                return peft__fail(ctx, PEFT_E_FORMAT, "%s: \"%s\": ids: expected token ids", where, id);
            PEFT_TRY(peft__put_template(ctx, t, out, (int32_t)number, (int32_t)type));
        }
    }
    bool has_first = false;
    for (size_t i = 0; i < out->count; i++) has_first = has_first || out->items[i].id == -1;
    if (!has_first && strcmp(key, "single") == 0)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: %s: the text itself (A) is not in it", where, key);
    return PEFT_OK;
}

/* ["[SEP]", 102] */
static peft_status read_pair(peft_context *ctx, const peft__json *json, const char *key, int32_t *out) {
    const peft__json *pair;
    PEFT_TRY(peft__json_need_array(ctx, json, "tokenizer.json: post_processor", key, &pair));
    const json_t *id = json_array_get(pair, 1);
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= PEFT__TOKEN_LIMIT)
        return peft__fail(ctx, PEFT_E_FORMAT, "tokenizer.json: post_processor: %s: expected [token, id]", key);
    *out = (int32_t)json_integer_value(id);
    return PEFT_OK;
}

static peft_status put_items(peft_context *ctx, peft_tokenizer *t, peft__template *out,
                             const peft__template_item *items, size_t count) {
    for (size_t i = 0; i < count; i++) PEFT_TRY(peft__put_template(ctx, t, out, items[i].id, items[i].type));
    return PEFT_OK;
}

peft_status peft__put_bert_template(peft_context *ctx, peft_tokenizer *t, int32_t cls, int32_t sep) {
    const peft__template_item single[] = {{cls, 0}, {-1, 0}, {sep, 0}};
    const peft__template_item pair[] = {{cls, 0}, {-1, 0}, {sep, 0}, {-2, 1}, {sep, 1}};
    PEFT_TRY(put_items(ctx, t, &t->single, single, PEFT_COUNT(single)));
    return put_items(ctx, t, &t->pair, pair, PEFT_COUNT(pair));
}

static peft_status read_processor(peft_context *ctx, peft_tokenizer *t, const peft__json *json, const char *type) {
    const char *where = "tokenizer.json: post_processor";
    bool trim;
    if (strcmp(type, "ByteLevel") == 0) {
        PEFT_TRY(peft__json_get_bool(ctx, json, where, "trim_offsets", true, &trim));
        t->trim_offsets = t->trim_offsets || trim;
        return PEFT_OK;
    }
    if (t->single.count > 0) return unsupported(ctx, "a second template", type);
    if (strcmp(type, "TemplateProcessing") == 0) {
        PEFT_TRY(read_template(ctx, t, json, "single", &t->single));
        return read_template(ctx, t, json, "pair", &t->pair);
    }
    int32_t cls, sep;
    if (strcmp(type, "BertProcessing") != 0 && strcmp(type, "RobertaProcessing") != 0)
        return unsupported(ctx, "a post_processor", type);
    PEFT_TRY(read_pair(ctx, json, "cls", &cls));
    PEFT_TRY(read_pair(ctx, json, "sep", &sep));
    t->special[PEFT_SPECIAL_CLS] = cls;
    t->special[PEFT_SPECIAL_SEP] = sep;
    if (strcmp(type, "BertProcessing") == 0) return peft__put_bert_template(ctx, t, cls, sep);
    PEFT_TRY(peft__json_get_bool(ctx, json, where, "trim_offsets", true, &trim));
    t->trim_offsets = t->trim_offsets || trim;
    const peft__template_item single[] = {{cls, 0}, {-1, 0}, {sep, 0}};
    const peft__template_item pair[] = {{cls, 0}, {-1, 0}, {sep, 0}, {sep, 0}, {-2, 0}, {sep, 0}};
    PEFT_TRY(put_items(ctx, t, &t->single, single, PEFT_COUNT(single)));
    return put_items(ctx, t, &t->pair, pair, PEFT_COUNT(pair));
}

/* ---- decoders ----------------------------------------------------------------------------------------------- */

peft_status peft__put_decoder(peft_context *ctx, peft_tokenizer *t, peft__decoder_kind kind, peft__decoder **out) {
    peft__decoder *list = append(t, t->decoders, t->decoder_count, sizeof *list);
    if (list == NULL) return peft__tokenizer_nomem(ctx);
    t->decoders = list;
    t->has_decoder = true;
    *out = &list[t->decoder_count++];
    (*out)->kind = kind;
    return PEFT_OK;
}

static peft_status read_decoder(peft_context *ctx, peft_tokenizer *t, const peft__json *json, const char *type) {
    const char *where = "tokenizer.json: decoder";
    static const char *const names[] = {"ByteLevel", "WordPiece", "Metaspace",  "ByteFallback", "Fuse",
                                        "Strip",     "Replace",   "BPEDecoder", "CTC"};
    size_t kind = 0;
    while (kind < PEFT_COUNT(names) && strcmp(type, names[kind]) != 0) kind++;
    if (kind == PEFT_COUNT(names)) return unsupported(ctx, "a decoder", type);
    peft__decoder *made = NULL;
    PEFT_TRY(peft__put_decoder(ctx, t, (peft__decoder_kind)kind, &made));
    int64_t number;
    switch (made->kind) {
    case PEFT__DECODE_WORDPIECE:
        PEFT_TRY(text_of(ctx, t, json, where, "prefix", "##", &made->text, &made->text_length));
        return peft__json_get_bool(ctx, json, where, "cleanup", true, &made->cleanup);
    case PEFT__DECODE_METASPACE: {
        int prepend;
        PEFT_TRY(read_metaspace(ctx, t, json, where, &made->text, &made->text_length, &prepend));
        made->prepends = prepend != 0;
        return PEFT_OK;
    }
    case PEFT__DECODE_STRIP:
        PEFT_TRY(text_of(ctx, t, json, where, "content", NULL, &made->text, &made->text_length));
        PEFT_TRY(peft__json_get_int(ctx, json, where, "start", 0, INT32_MAX, 0, &number));
        made->start = (size_t)number;
        PEFT_TRY(peft__json_get_int(ctx, json, where, "stop", 0, INT32_MAX, 0, &number));
        made->stop = (size_t)number;
        return PEFT_OK;
    case PEFT__DECODE_REPLACE:
        PEFT_TRY(read_pattern(ctx, t, json, where, &made->pattern));
        return text_of(ctx, t, json, where, "content", NULL, &made->text, &made->text_length);
    case PEFT__DECODE_BPE:
        return text_of(ctx, t, json, where, "suffix", "</w>", &made->text, &made->text_length);
    case PEFT__DECODE_CTC:
        PEFT_TRY(text_of(ctx, t, json, where, "pad_token", "<pad>", &made->text, &made->text_length));
        PEFT_TRY(text_of(ctx, t, json, where, "word_delimiter_token", "|", &made->delimiter, &made->delimiter_length));
        return peft__json_get_bool(ctx, json, where, "cleanup", true, &made->cleanup);
    default:
        return PEFT_OK;
    }
}

/* ---- model -------------------------------------------------------------------------------------------------- */

static peft_status read_vocab_object(peft_context *ctx, peft_tokenizer *t, const peft__json *vocab) {
    const char *token;
    json_t *id;
    json_object_foreach((json_t *)(uintptr_t)vocab, token, id) {
        if (!json_is_integer(id))
            return peft__fail(ctx, PEFT_E_FORMAT, WHERE_MODEL ": vocab: \"%.80s\": expected an id, found %s", token,
                              peft__json_kind(id));
        PEFT_TRY(peft__add_vocab(ctx, t, token, strlen(token), json_integer_value(id), true));
    }
    return PEFT_OK;
}

/* The ids of `merges`: "a b" or ["a", "b"]. */
static peft_status read_merges(peft_context *ctx, peft_tokenizer *t, const peft__json *merges) {
    const size_t count = json_array_size(merges);
    if (count > UINT32_MAX) return peft__fail(ctx, PEFT_E_FORMAT, WHERE_MODEL ": %zu merges are too many", count);
    if (!peft__pairs_reserve(&t->model.merges, count)) return peft__tokenizer_nomem(ctx);
    uint32_t rank = 0;
    for (size_t i = 0; i < count; i++) {
        const json_t *merge = json_array_get(merges, i);
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        peft_status status;
        if (json_is_string(merge)) {
            const char *text = json_string_value(merge);
            if (strncmp(text, "#version", 8) == 0) continue;
            status = peft__add_merge_text(ctx, t, text, json_string_length(merge), rank);
        } else if (json_array_size(merge) == 2 && json_is_string(left) && json_is_string(right)) {
            status = peft__add_merge(ctx, t, json_string_value(left), json_string_length(left),
                                     json_string_value(right), json_string_length(right), rank);
        } else {
            return peft__fail(ctx, PEFT_E_FORMAT, WHERE_MODEL ": merge %zu: expected \"a b\" or [\"a\", \"b\"]", i);
        }
        if (status != PEFT_OK) return peft__fail_in(ctx, status, WHERE_MODEL);
        rank++;
    }
    return PEFT_OK;
}

/* null or "" is none */
static peft_status read_affix(peft_context *ctx, peft_tokenizer *t, const peft__json *json, const char *key,
                              const char **out, size_t *out_length, bool *out_has) {
    const char *text;
    PEFT_TRY(peft__json_get_string(ctx, json, WHERE_MODEL, key, "", &text));
    *out_length = strlen(text);
    *out_has = *out_length > 0;
    *out = peft__arena_strdup(&t->arena, text);
    return *out != NULL ? PEFT_OK : peft__tokenizer_nomem(ctx);
}

static peft_status read_bpe(peft_context *ctx, peft_tokenizer *t, const peft__json *json) {
    peft__model_data *model = &t->model;
    const peft__json *vocab, *merges;
    double dropout;
    PEFT_TRY(peft__json_need_object(ctx, json, WHERE_MODEL, "vocab", &vocab));
    PEFT_TRY(peft__json_need_array(ctx, json, WHERE_MODEL, "merges", &merges));
    PEFT_TRY(peft__json_get_bool(ctx, json, WHERE_MODEL, "fuse_unk", false, &model->fuse_unk));
    PEFT_TRY(peft__json_get_bool(ctx, json, WHERE_MODEL, "byte_fallback", false, &model->byte_fallback));
    PEFT_TRY(peft__json_get_bool(ctx, json, WHERE_MODEL, "ignore_merges", false, &model->ignore_merges));
    PEFT_TRY(peft__json_get_double(ctx, json, WHERE_MODEL, "dropout", 0.0, 1.0, 0.0, &dropout));
    if (dropout > 0)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                          WHERE_MODEL ": dropout %g: random merges are not supported; set it to null", dropout);
    PEFT_TRY(read_affix(ctx, t, json, "continuing_subword_prefix", &model->prefix, &model->prefix_length,
                        &model->has_prefix));
    PEFT_TRY(read_affix(ctx, t, json, "end_of_word_suffix", &model->suffix, &model->suffix_length, &model->has_suffix));
    PEFT_TRY(read_vocab_object(ctx, t, vocab));
    return read_merges(ctx, t, merges);
}

static peft_status read_unigram(peft_context *ctx, peft_tokenizer *t, const peft__json *json) {
    peft__model_data *model = &t->model;
    const peft__json *vocab;
    int64_t unk;
    PEFT_TRY(peft__json_need_array(ctx, json, WHERE_MODEL, "vocab", &vocab));
    PEFT_TRY(peft__json_get_bool(ctx, json, WHERE_MODEL, "byte_fallback", false, &model->byte_fallback));
    const size_t count = json_array_size(vocab);
    PEFT_TRY(peft__json_get_int(ctx, json, WHERE_MODEL, "unk_id", 0, (int64_t)count - 1, -1, &unk));
    model->unk_id = (int32_t)unk;
    model->scores = peft__tokenizer_array(t, count, sizeof *model->scores);
    if (model->scores == NULL) return peft__tokenizer_nomem(ctx);
    model->min_score = HUGE_VAL;
    for (size_t i = 0; i < count; i++) {
        const json_t *piece = json_array_get(vocab, i), *text = json_array_get(piece, 0),
                     *score = json_array_get(piece, 1);
        if (!json_is_string(text) || !json_is_number(score))
            return peft__fail(ctx, PEFT_E_FORMAT, WHERE_MODEL ": vocab: item %zu: expected [piece, score]", i);
        model->scores[i] = json_number_value(score);
        if (model->scores[i] < model->min_score) model->min_score = model->scores[i];
        PEFT_TRY(peft__add_vocab(ctx, t, json_string_value(text), json_string_length(text), (int64_t)i, true));
    }
    return PEFT_OK;
}

static peft_status read_model(peft_context *ctx, peft_tokenizer *t, const peft__json *json) {
    peft__model_data *model = &t->model;
    const char *type, *unk;
    bool unused;
    const peft__json *vocab;
    PEFT_TRY(peft__json_get_string(ctx, json, WHERE_MODEL, "type", "", &type));
    if (type[0] == '\0') /* written before models had types */
        type = json_object_get(json, "merges") != NULL         ? "BPE"
               : json_is_array(json_object_get(json, "vocab")) ? "Unigram"
               : json_object_get(json, "continuing_subword_prefix") != NULL ||
                       json_object_get(json, "max_input_chars_per_word") != NULL
                   ? "WordPiece"
                   : "WordLevel";
    PEFT_TRY(peft__json_get_string(ctx, json, WHERE_MODEL, "unk_token", NULL, &unk));
    if (unk != NULL && (model->unk = peft__arena_strdup(&t->arena, unk)) == NULL) return peft__tokenizer_nomem(ctx);
    if (strcmp(type, "BPE") == 0) {
        model->kind = PEFT__MODEL_BPE;
        return read_bpe(ctx, t, json);
    }
    if (strcmp(type, "Unigram") == 0) {
        model->kind = PEFT__MODEL_UNIGRAM;
        model->unk = NULL;
        return read_unigram(ctx, t, json);
    }
    if (strcmp(type, "WordPiece") == 0) {
        int64_t most;
        model->kind = PEFT__MODEL_WORDPIECE;
        if (json_object_get(json, "continuing_subword_prefix") == NULL) {
            model->prefix = "##";
            model->prefix_length = 2;
        } else {
            PEFT_TRY(
                read_affix(ctx, t, json, "continuing_subword_prefix", &model->prefix, &model->prefix_length, &unused));
        }
        PEFT_TRY(peft__json_get_int(ctx, json, WHERE_MODEL, "max_input_chars_per_word", 0, INT32_MAX, 100, &most));
        model->max_chars = (size_t)most;
    } else if (strcmp(type, "WordLevel") == 0) {
        model->kind = PEFT__MODEL_WORDLEVEL;
    } else {
        return unsupported(ctx, "a model", type);
    }
    PEFT_TRY(peft__json_need_object(ctx, json, WHERE_MODEL, "vocab", &vocab));
    return read_vocab_object(ctx, t, vocab);
}

/* ---- added tokens and the whole ----------------------------------------------------------------------------- */

peft_status peft__read_added(peft_context *ctx, peft_tokenizer *t, const peft__json *json, int64_t id,
                             const char *where) {
    peft__added added = {.id = -1};
    PEFT_TRY(peft__json_need_string(ctx, json, where, "content", &added.content));
    added.length = strlen(added.content);
    if (id < 0) PEFT_TRY(peft__json_need_int(ctx, json, where, "id", 0, PEFT__TOKEN_LIMIT - 1, &id));
    added.id = (int32_t)id;
    PEFT_TRY(peft__json_get_bool(ctx, json, where, "special", false, &added.special));
    PEFT_TRY(peft__json_get_bool(ctx, json, where, "normalized", !added.special, &added.normalized));
    PEFT_TRY(peft__json_get_bool(ctx, json, where, "lstrip", false, &added.lstrip));
    PEFT_TRY(peft__json_get_bool(ctx, json, where, "rstrip", false, &added.rstrip));
    PEFT_TRY(peft__json_get_bool(ctx, json, where, "single_word", false, &added.single_word));
    const int32_t known = peft__vocab_id(t, added.content, added.length);
    if (known >= 0 && known != added.id)
        peft__log(ctx, PEFT_LOG_WARNING, "%s: \"%s\" has id %d here and %d in the vocabulary; the first is used", where,
                  added.content, added.id, known);
    return peft__add_added(ctx, t, &added);
}

static peft_status read_document(peft_context *ctx, peft_tokenizer *t, const peft__json *json) {
    const char *where = "tokenizer.json", *version;
    const peft__json *model, *added;
    if (!json_is_object(json))
        return peft__fail(ctx, PEFT_E_FORMAT, "expected an object, found %s", peft__json_kind(json));
    PEFT_TRY(peft__json_get_string(ctx, json, where, "version", "1.0", &version));
    if (strcmp(version, "1.0") != 0)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: version: expected 1.0, found \"%s\"", where, version);
    PEFT_TRY(peft__json_need_object(ctx, json, where, "model", &model));
    PEFT_TRY(read_model(ctx, t, model));
    PEFT_TRY(walk(ctx, t, peft__json_value(json, "normalizer"), "normalizer", "normalizers", read_normalizer));
    PEFT_TRY(walk(ctx, t, peft__json_value(json, "pre_tokenizer"), "pre_tokenizer", "pretokenizers", read_splitter));
    PEFT_TRY(walk(ctx, t, peft__json_value(json, "post_processor"), "post_processor", "processors", read_processor));
    PEFT_TRY(walk(ctx, t, peft__json_value(json, "decoder"), "decoder", "decoders", read_decoder));
    t->has_decoder = peft__json_value(json, "decoder") != NULL;
    PEFT_TRY(peft__json_get_array(ctx, json, where, "added_tokens", &added));
    for (size_t i = 0; i < json_array_size(added); i++)
        PEFT_TRY(peft__read_added(ctx, t, json_array_get(added, i), -1, "tokenizer.json: added_tokens"));
    return PEFT_OK;
}

peft_status peft__tokenizer_read_json(peft_context *ctx, peft_tokenizer *t, const void *data, size_t size,
                                      const char *name) {
    peft__json *json;
    PEFT_TRY(peft__json_load_memory(ctx, name, data, size, 0, &json));
    const peft_status status = read_document(ctx, t, json);
    json_decref(json);
    return status;
}

peft_status peft__tokenizer_from_json(peft_context *ctx, const void *data, size_t size, const char *name,
                                      peft_tokenizer **out_tokenizer) {
    peft_tokenizer *t;
    PEFT_TRY(peft__tokenizer_new(ctx, &t));
    peft_status status = peft__tokenizer_read_json(ctx, t, data, size, name);
    if (status == PEFT_OK) status = peft__tokenizer_seal(ctx, t);
    if (status != PEFT_OK) {
        peft__tokenizer_unref(t);
        return status;
    }
    peft__guess_special(t);
    *out_tokenizer = t;
    return PEFT_OK;
}
