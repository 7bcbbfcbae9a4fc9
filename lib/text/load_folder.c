/* load_folder.c: a tokenizer as Hugging Face saves it: one file or several.
 *
 * tokenizer.json says how text is cut; tokenizer_config.json, special_tokens_map.json and chat_template.jinja say what
 * the special tokens are for. Older folders have no tokenizer.json but the parts it is made of: vocab.json and
 * merges.txt (GPT-2 and its relatives) or vocab.txt (BERT); what is missing is known from tokenizer_class.
 */
#include "text/load.h"

#include <stdio.h>

static const struct {
    const char *key;
    int32_t which;
} special_keys[] = {{"bos_token", PEFT_SPECIAL_BOS},  {"eos_token", PEFT_SPECIAL_EOS}, {"unk_token", PEFT_SPECIAL_UNK},
                    {"pad_token", PEFT_SPECIAL_PAD},  {"cls_token", PEFT_SPECIAL_CLS}, {"sep_token", PEFT_SPECIAL_SEP},
                    {"mask_token", PEFT_SPECIAL_MASK}};

typedef struct folder {
    peft_context *ctx;
    peft_tokenizer *t;
    const char *path;
    peft__json *config, *special_map; /* NULL: no such file */
} folder;

static char *join(const folder *f, const char *name) {
    return peft__path_join(f->ctx->mem, f->path, name);
}

static bool has(const folder *f, const char *name) {
    char path[4096]; /* the longest the system takes; asking needs no memory and so cannot be answered wrongly for lack
                        of it */
    const int length = snprintf(path, sizeof path, "%s/%s", f->path, name);
    return length > 0 && (size_t)length < sizeof path && peft__path_exists(path);
}

static peft_status open_part(const folder *f, const char *name, peft__source **out) {
    char *path = join(f, name);
    if (path == NULL) return peft__tokenizer_nomem(f->ctx);
    const peft_status status = peft__source_open_path(f->ctx, path, out);
    peft__free(f->ctx->mem, path);
    return status;
}

/* NULL where there is no such file. */
static peft_status load_json(const folder *f, const char *name, peft__json **out) {
    *out = NULL;
    if (!has(f, name)) return PEFT_OK;
    char *path = join(f, name);
    if (path == NULL) return peft__tokenizer_nomem(f->ctx);
    peft_status status = peft__json_load_file(f->ctx, path, 0, out);
    if (status == PEFT_OK && !json_is_object(*out)) {
        status = peft__fail(f->ctx, PEFT_E_FORMAT, "%s: expected an object, found %s", path, peft__json_kind(*out));
        json_decref(*out);
        *out = NULL;
    }
    peft__free(f->ctx->mem, path);
    return status;
}

/* "<s>" or {"content": "<s>", ...}; NULL otherwise. */
static const char *special_text(const peft__json *object, const char *key) {
    const json_t *value = object == NULL ? NULL : json_object_get(object, key);
    if (json_is_object(value)) value = json_object_get(value, "content");
    return json_is_string(value) ? json_string_value(value) : NULL;
}

static const char *find_special(const folder *f, const char *key) {
    const char *text = special_text(f->config, key);
    return text != NULL ? text : special_text(f->special_map, key);
}

/* ---- folders without tokenizer.json ----------------------------------------------------------------------------- */

/* Lines of a text file; the last may lack its end. */
static bool next_line(const char **at, const char *end, const char **line, size_t *length) {
    if (*at >= end) return false;
    const char *stop = memchr(*at, '\n', (size_t)(end - *at));
    *line = *at;
    *length = (size_t)((stop != NULL ? stop : end) - *at);
    if (*length > 0 && (*line)[*length - 1] == '\r') --*length;
    *at = stop != NULL ? stop + 1 : end;
    return true;
}

static bool class_has(const folder *f, const char *word) {
    const json_t *value = f->config != NULL ? json_object_get(f->config, "tokenizer_class") : NULL;
    return json_is_string(value) && strstr(json_string_value(value), word) != NULL;
}

static peft_status read_merges_txt(folder *f) {
    peft__source *source;
    PEFT_TRY(open_part(f, "merges.txt", &source));
    const char *at = (const char *)source->data, *end = at + source->size, *line;
    size_t length;
    uint32_t rank = 0;
    peft_status status = PEFT_OK;
    while (status == PEFT_OK && next_line(&at, end, &line, &length)) {
        if (length == 0 || (length >= 8 && memcmp(line, "#version", 8) == 0)) continue;
        status = peft__utf8_valid(line, length)
                     ? peft__add_merge_text(f->ctx, f->t, line, length, rank++)
                     : peft__fail(f->ctx, PEFT_E_FORMAT, "line %u is not valid UTF-8", rank + 1);
        if (status != PEFT_OK) peft__fail_in(f->ctx, status, "merges.txt");
    }
    peft__source_unref(source);
    return status;
}

static peft_status read_vocab_json(folder *f) {
    peft__json *vocab;
    const char *token;
    json_t *id;
    PEFT_TRY(load_json(f, "vocab.json", &vocab));
    peft_status status = PEFT_OK;
    json_object_foreach(vocab, token, id) {
        status = json_is_integer(id)
                     ? peft__add_vocab(f->ctx, f->t, token, strlen(token), json_integer_value(id), true)
                     : peft__fail(f->ctx, PEFT_E_FORMAT, "vocab.json: \"%.80s\": expected an id, found %s", token,
                                  peft__json_kind(id));
        if (status != PEFT_OK) break;
    }
    json_decref(vocab);
    return status;
}

static peft_status read_gpt2_parts(folder *f) {
    peft_tokenizer *t = f->t;
    peft__splitter *split;
    peft__decoder *decoder;
    const bool qwen = class_has(f, "Qwen2"), roberta = class_has(f, "Roberta");
    bool prefix = false;
    PEFT_TRY(read_vocab_json(f));
    t->model.kind = PEFT__MODEL_BPE;
    PEFT_TRY(read_merges_txt(f));
    if (f->config != NULL)
        PEFT_TRY(peft__json_get_bool(f->ctx, f->config, "tokenizer_config.json", "add_prefix_space", false, &prefix));
    if (qwen) {
        static const char pattern[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                                      " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
        peft__normalizer *nfc;
        PEFT_TRY(peft__put_normalizer(f->ctx, t, &nfc));
        nfc->kind = PEFT__NORM_FORM;
        nfc->form = PEFT__NFC;
        PEFT_TRY(peft__put_splitter(f->ctx, t, PEFT__SPLIT_PATTERN, &split));
        split->behavior = PEFT__ISOLATED;
        PEFT_TRY(peft__set_regex(f->ctx, t, &split->pattern, pattern, strlen(pattern)));
    }
    PEFT_TRY(peft__put_splitter(f->ctx, t, PEFT__SPLIT_BYTE_LEVEL, &split));
    split->add_prefix_space = prefix;
    split->use_pattern = !qwen;
    if (!qwen) PEFT_TRY(peft__set_regex(f->ctx, t, &split->pattern, peft__gpt2_pattern, strlen(peft__gpt2_pattern)));
    PEFT_TRY(peft__put_decoder(f->ctx, t, PEFT__DECODE_BYTE_LEVEL, &decoder));
    if (!roberta) return PEFT_OK;
    const int32_t cls = peft__vocab_id(t, "<s>", 3), sep = peft__vocab_id(t, "</s>", 4);
    if (cls < 0 || sep < 0) return peft__fail(f->ctx, PEFT_E_FORMAT, "vocab.json: <s> or </s> is missing");
    const peft__template_item pair[] = {{cls, 0}, {-1, 0}, {sep, 0}, {sep, 0}, {-2, 0}, {sep, 0}};
    for (size_t i = 0; i < 3; i++) PEFT_TRY(peft__put_template(f->ctx, t, &t->single, pair[i].id, pair[i].type));
    for (size_t i = 0; i < 6; i++) PEFT_TRY(peft__put_template(f->ctx, t, &t->pair, pair[i].id, pair[i].type));
    return PEFT_OK;
}

static peft_status read_vocab_txt(folder *f) {
    peft__source *source;
    PEFT_TRY(open_part(f, "vocab.txt", &source));
    const char *at = (const char *)source->data, *end = at + source->size, *line;
    size_t length;
    int64_t id = 0;
    peft_status status = PEFT_OK;
    while (status == PEFT_OK && next_line(&at, end, &line, &length)) {
        status = peft__utf8_valid(line, length)
                     ? peft__add_vocab(f->ctx, f->t, line, length, id++, true)
                     : peft__fail(f->ctx, PEFT_E_FORMAT, "vocab.txt: line %lld is not valid UTF-8", (long long)id + 1);
    }
    peft__source_unref(source);
    return status;
}

static peft_status read_bert_parts(folder *f) {
    peft_tokenizer *t = f->t;
    const char *where = "tokenizer_config.json", *unk = find_special(f, "unk_token");
    bool lower = true, chinese = true, strip = true;
    peft__splitter *split;
    peft__decoder *decoder;
    PEFT_TRY(read_vocab_txt(f));
    if (f->config != NULL) {
        PEFT_TRY(peft__json_get_bool(f->ctx, f->config, where, "do_lower_case", true, &lower));
        PEFT_TRY(peft__json_get_bool(f->ctx, f->config, where, "tokenize_chinese_chars", true, &chinese));
        PEFT_TRY(peft__json_get_bool(f->ctx, f->config, where, "strip_accents", lower, &strip));
    }
    t->model.kind = PEFT__MODEL_WORDPIECE;
    t->model.prefix = "##";
    t->model.prefix_length = 2;
    t->model.max_chars = 100;
    if ((t->model.unk = peft__arena_strdup(&t->arena, unk != NULL ? unk : "[UNK]")) == NULL)
        return peft__tokenizer_nomem(f->ctx);
    PEFT_TRY(peft__put_bert_normalizer(f->ctx, t, true, chinese, strip, lower));
    PEFT_TRY(peft__put_splitter(f->ctx, t, PEFT__SPLIT_BERT, &split));
    PEFT_TRY(peft__put_decoder(f->ctx, t, PEFT__DECODE_WORDPIECE, &decoder));
    decoder->text = "##";
    decoder->text_length = 2;
    decoder->cleanup = true;
    static const char *const names[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    for (size_t i = 0; i < PEFT_COUNT(names); i++) {
        const peft__added added = {.content = names[i],
                                   .length = strlen(names[i]),
                                   .id = peft__vocab_id(t, names[i], strlen(names[i])),
                                   .special = true};
        if (added.id >= 0) PEFT_TRY(peft__add_added(f->ctx, t, &added));
    }
    const int32_t cls = peft__vocab_id(t, "[CLS]", 5), sep = peft__vocab_id(t, "[SEP]", 5);
    if (cls < 0 || sep < 0) return peft__fail(f->ctx, PEFT_E_FORMAT, "vocab.txt: [CLS] or [SEP] is missing");
    return peft__put_bert_template(f->ctx, t, cls, sep);
}

/* Special tokens that only the side files name: they must be found in the text as well. */
static peft_status add_named_specials(folder *f) {
    peft__json *more;
    const char *token;
    json_t *id;
    PEFT_TRY(load_json(f, "added_tokens.json", &more));
    peft_status status = PEFT_OK;
    json_object_foreach(more, token, id) {
        const json_int_t number = json_integer_value(id);
        const peft__added added = {.content = token, .length = strlen(token), .id = (int32_t)number, .special = true};
        status = json_is_integer(id) && number >= 0 && number < PEFT__TOKEN_LIMIT
                     ? peft__add_added(f->ctx, f->t, &added)
                     : peft__fail(f->ctx, PEFT_E_FORMAT, "added_tokens.json: \"%.80s\": expected an id", token);
        if (status != PEFT_OK) break;
    }
    json_decref(more);
    PEFT_TRY(status);
    for (size_t i = 0; i < PEFT_COUNT(special_keys); i++) {
        const char *text = find_special(f, special_keys[i].key);
        if (text == NULL) continue;
        const peft__added added = {.content = text,
                                   .length = strlen(text),
                                   .id = peft__token_to_id(f->t, text, strlen(text)),
                                   .special = true};
        if (added.id >= 0) PEFT_TRY(peft__add_added(f->ctx, f->t, &added));
    }
    return PEFT_OK;
}

/* ---- side files --------------------------------------------------------------------------------------------- */

/* Tokens of added_tokens_decoder that tokenizer.json does not have. */
static peft_status add_decoder_tokens(folder *f) {
    const peft__json *map;
    const char *key;
    json_t *token;
    if (f->config == NULL) return PEFT_OK;
    PEFT_TRY(peft__json_get_object(f->ctx, f->config, "tokenizer_config.json", "added_tokens_decoder", &map));
    if (map == NULL) return PEFT_OK;
    json_object_foreach((json_t *)(uintptr_t)map, key, token) {
        int64_t id;
        uint64_t known;
        const char *text = special_text(map, key);
        if (!peft__parse_i64(key, strlen(key), &id) || id < 0 || id >= PEFT__TOKEN_LIMIT)
            return peft__fail(f->ctx, PEFT_E_FORMAT,
                              "tokenizer_config.json: added_tokens_decoder: \"%.40s\" is not an id", key);
        if (text != NULL && peft__table_get(&f->t->added_by_text, text, strlen(text), &known)) continue;
        PEFT_TRY(peft__read_added(f->ctx, f->t, token, id, "tokenizer_config.json: added_tokens_decoder"));
    }
    return PEFT_OK;
}

static peft_status keep_template(folder *f, const char *text, size_t length) {
    f->t->chat_template = peft__arena_strndup(&f->t->arena, text, length);
    return f->t->chat_template != NULL ? PEFT_OK : peft__tokenizer_nomem(f->ctx);
}

/* A text, or a list of {name, template} of which "default" counts; a file of its own wins. */
static peft_status read_chat_template(folder *f) {
    const json_t *value = f->config != NULL ? json_object_get(f->config, "chat_template") : NULL;
    if (json_is_string(value)) PEFT_TRY(keep_template(f, json_string_value(value), json_string_length(value)));
    for (size_t i = 0; json_is_array(value) && i < json_array_size(value); i++) {
        const char *name = special_text(json_array_get(value, i), "name");
        const char *text = special_text(json_array_get(value, i), "template");
        if (name != NULL && text != NULL && strcmp(name, "default") == 0)
            PEFT_TRY(keep_template(f, text, strlen(text)));
    }
    if (!has(f, "chat_template.jinja")) return PEFT_OK;
    peft__source *source;
    PEFT_TRY(open_part(f, "chat_template.jinja", &source));
    const peft_status status = peft__utf8_valid((const char *)source->data, source->size)
                                   ? keep_template(f, (const char *)source->data, source->size)
                                   : peft__fail(f->ctx, PEFT_E_FORMAT, "chat_template.jinja is not valid UTF-8");
    peft__source_unref(source);
    return status;
}

static void read_special_ids(folder *f) {
    bool any = false;
    for (size_t i = 0; i < PEFT_COUNT(special_keys); i++) {
        const char *text = find_special(f, special_keys[i].key);
        if (text == NULL) continue;
        any = true;
        const int32_t id = peft__token_to_id(f->t, text, strlen(text));
        if (id >= 0) f->t->special[special_keys[i].which] = id;
    }
    if (!any) peft__guess_special(f->t);
}

static peft_status read_folder(folder *f) {
    peft__source *source;
    PEFT_TRY(load_json(f, "tokenizer_config.json", &f->config));
    PEFT_TRY(load_json(f, "special_tokens_map.json", &f->special_map));
    if (has(f, "tokenizer.json")) {
        PEFT_TRY(open_part(f, "tokenizer.json", &source));
        const peft_status status = peft__tokenizer_read_json(f->ctx, f->t, source->data, source->size, source->name);
        peft__source_unref(source);
        PEFT_TRY(status);
        PEFT_TRY(add_decoder_tokens(f));
    } else {
        if (has(f, "vocab.json") && has(f, "merges.txt"))
            PEFT_TRY(read_gpt2_parts(f));
        else if (has(f, "vocab.txt"))
            PEFT_TRY(read_bert_parts(f));
        else
            return peft__fail(f->ctx, PEFT_E_IO,
                              "expected tokenizer.json, vocab.json with merges.txt, or vocab.txt, found none of them%s",
                              has(f, "tokenizer.model") || has(f, "spiece.model")
                                  ? "; a SentencePiece model alone is not read: save the tokenizer with transformers"
                                  : "");
        PEFT_TRY(add_decoder_tokens(f));
        PEFT_TRY(add_named_specials(f));
    }
    PEFT_TRY(peft__tokenizer_seal(f->ctx, f->t));
    read_special_ids(f);
    return read_chat_template(f);
}

peft_status peft__tokenizer_from_folder(peft_context *ctx, const char *path, peft_tokenizer **out_tokenizer) {
    folder f = {.ctx = ctx, .path = path};
    PEFT_TRY(peft__tokenizer_new(ctx, &f.t));
    const peft_status status = read_folder(&f);
    json_decref(f.config);
    json_decref(f.special_map);
    if (status != PEFT_OK) {
        peft__tokenizer_unref(f.t);
        return peft__fail_in(ctx, status, "%s", path);
    }
    *out_tokenizer = f.t;
    return PEFT_OK;
}
