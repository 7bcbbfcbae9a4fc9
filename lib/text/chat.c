/* chat.c: rendering of conversations. */
#include "text/chat_format.h"

#include <stdio.h>

#include "format/json.h"
#include "text/tokenizer.h"

struct peft__chat {
    peft__mem *mem;
    peft__arena arena;
    peft__chat_format format; /* with {bos} and {eos} put in */
    const char *eos;
};

static const char role_names[3][12] = {"system", "user", "assistant"};

/* ---- creation ------------------------------------------------------------------------------------------------ */

/* Puts the texts of the tokens in place of {bos} and {eos}; NULL: no memory. */
static const char *expand(peft__chat *chat, const char *text, const char *bos, const char *eos) {
    if (text == NULL) return NULL;
    peft__buffer out;
    peft__buffer_init(&out, chat->mem);
    for (const char *at = text; *at != '\0';) {
        const bool is_bos = strncmp(at, "{bos}", 5) == 0, is_eos = strncmp(at, "{eos}", 5) == 0;
        if (is_bos || is_eos) {
            peft__buffer_puts(&out, is_bos ? bos : eos);
            at += 5;
        } else {
            peft__buffer_put(&out, at++, 1);
        }
    }
    const char *copy =
        out.failed ? NULL : peft__arena_strndup(&chat->arena, out.length > 0 ? out.data : "", out.length);
    peft__buffer_free(&out);
    return copy;
}

static const char *token_text(const peft_tokenizer *tokenizer, int32_t which) {
    const char *text = peft__id_to_token(tokenizer, peft__special_id(tokenizer, which), NULL);
    return text != NULL ? text : "";
}

static peft_status expand_all(peft_context *ctx, peft__chat *chat, const peft_tokenizer *tokenizer) {
    const char *bos = token_text(tokenizer, PEFT_SPECIAL_BOS), *eos = token_text(tokenizer, PEFT_SPECIAL_EOS);
    peft__chat_format *format = &chat->format;
    bool ok = (format->start = expand(chat, format->start, bos, eos)) != NULL;
    for (int role = 0; role < 3; role++) {
        peft__chat_affix *affix = &format->roles[role];
        ok = ok && (affix->prefix = expand(chat, affix->prefix, bos, eos)) != NULL;
        ok = ok && (affix->lead = expand(chat, affix->lead, bos, eos)) != NULL;
        ok = ok && (affix->suffix = expand(chat, affix->suffix, bos, eos)) != NULL;
    }
    if (format->default_system != NULL)
        ok = ok && (format->default_system = peft__arena_strdup(&chat->arena, format->default_system)) != NULL;
    ok = ok && (chat->eos = peft__arena_strdup(&chat->arena, eos)) != NULL;
    return ok ? PEFT_OK : peft__fail_nomem(ctx, 0, "a chat format");
}

static peft_status read_role(peft_context *ctx, peft__chat *chat, const peft__json *json, peft__chat_role role) {
    const peft__json *object;
    const char *where = "chat format";
    peft__chat_affix *affix = &chat->format.roles[role];
    if (role == PEFT__ROLE_SYSTEM)
        PEFT_TRY(peft__json_get_object(ctx, json, where, role_names[role], &object));
    else
        PEFT_TRY(peft__json_need_object(ctx, json, where, role_names[role], &object));
    *affix = (peft__chat_affix){"", "", ""};
    if (object == NULL) return PEFT_OK;
    PEFT_TRY(peft__json_get_string(ctx, object, where, "prefix", "", &affix->prefix));
    PEFT_TRY(peft__json_get_string(ctx, object, where, "suffix", "", &affix->suffix));
    affix->prefix = peft__arena_strdup(&chat->arena, affix->prefix);
    affix->suffix = peft__arena_strdup(&chat->arena, affix->suffix);
    return affix->prefix != NULL && affix->suffix != NULL ? PEFT_OK : peft__fail_nomem(ctx, 0, "a chat format");
}

static peft_status read_custom(peft_context *ctx, peft__chat *chat, const peft__json *json) {
    static const char *const keys[] = {"system", "user", "assistant", "start", "default_system", "trim"};
    const char *key, *text;
    json_t *value;
    bool trim;
    json_object_foreach((json_t *)(uintptr_t)json, key, value) {
        bool known = false;
        for (size_t i = 0; i < PEFT_COUNT(keys); i++) known = known || strcmp(key, keys[i]) == 0;
        if (known) continue;
        const char *near = peft__closest(key, keys, PEFT_COUNT(keys));
        return peft__fail(ctx, PEFT_E_ARG, "chat format: unknown key \"%s\"%s%s", key, near ? "; did you mean " : "",
                          near ? near : "");
    }
    chat->format = (peft__chat_format){.name = "custom"};
    for (int role = 0; role < 3; role++) PEFT_TRY(read_role(ctx, chat, json, (peft__chat_role)role));
    PEFT_TRY(peft__json_get_string(ctx, json, "chat format", "start", "", &text));
    if ((chat->format.start = peft__arena_strdup(&chat->arena, text)) == NULL)
        return peft__fail_nomem(ctx, 0, "a chat format");
    PEFT_TRY(peft__json_get_string(ctx, json, "chat format", "default_system", NULL, &text));
    if (text != NULL && (chat->format.default_system = peft__arena_strdup(&chat->arena, text)) == NULL)
        return peft__fail_nomem(ctx, 0, "a chat format");
    PEFT_TRY(peft__json_get_bool(ctx, json, "chat format", "trim", false, &trim));
    if (trim) chat->format.flags |= PEFT__CHAT_TRIM;
    return PEFT_OK;
}

#define HOW                                                                                                            \
    "name one of chatml, llama2, llama3, llama3.1, mistral, zephyr, gemma, phi3, phi4, alpaca, vicuna, qwen2, "        \
    "qwen2.5, "                                                                                                        \
    "qwen3, smollm2, or give prefixes and suffixes as JSON"

static peft_status choose(peft_context *ctx, peft__chat *chat, const peft_tokenizer *tokenizer, const char *spec) {
    if (spec == NULL || spec[0] == '\0') {
        spec = peft__tokenizer_chat_template(tokenizer);
        if (spec == NULL) return peft__fail(ctx, PEFT_E_UNSUPPORTED, "the model's files have no chat template; " HOW);
        /* what the model's files say is a template, whatever it looks like */
    } else if (strstr(spec, "{%") == NULL && strstr(spec, "{{") == NULL) {
        if (spec[strspn(spec, " \t\r\n")] == '{') {
            peft__json *json;
            PEFT_TRY(peft__json_load_memory(ctx, "chat format", spec, strlen(spec), 1 << 20, &json));
            const peft_status status = read_custom(ctx, chat, json);
            json_decref(json);
            return status;
        }
        const char *names[32];
        for (size_t i = 0; i < peft__chat_preset_count; i++) {
            names[i] = peft__chat_presets[i].name;
            if (strcmp(names[i], spec) == 0) {
                chat->format = peft__chat_presets[i];
                return PEFT_OK;
            }
        }
        const char *near = peft__closest(spec, names, peft__chat_preset_count);
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "there is no chat format \"%.60s\"%s%s; " HOW, spec,
                          near ? ", did you mean " : "", near ? near : "");
    }
    const char *why;
    if (peft__chat_recognise(spec, &chat->arena, &chat->format, &why)) return PEFT_OK;
    if (why == NULL) return peft__fail_nomem(ctx, 0, "a chat format");
    return peft__fail(ctx, PEFT_E_UNSUPPORTED, "the chat template is not one that is known: %s; " HOW, why);
}

peft_status peft__chat_create(peft_context *ctx, const peft_tokenizer *tokenizer, const char *spec,
                              peft__chat **out_chat) {
    peft__chat *chat = peft__alloc_zero(ctx->mem, sizeof *chat);
    if (chat == NULL) return peft__fail_nomem(ctx, sizeof *chat, "a chat format");
    chat->mem = peft__mem_ref(ctx->mem);
    peft__arena_init(&chat->arena, ctx->mem);
    peft_status status = choose(ctx, chat, tokenizer, spec);
    if (status == PEFT_OK) status = expand_all(ctx, chat, tokenizer);
    if (status != PEFT_OK) {
        peft__chat_destroy(chat);
        return status;
    }
    *out_chat = chat;
    return PEFT_OK;
}

void peft__chat_destroy(peft__chat *chat) {
    if (chat == NULL) return;
    peft__mem *mem = chat->mem;
    peft__arena_free(&chat->arena);
    peft__free(mem, chat);
    peft__mem_unref(mem);
}

const char *peft__chat_name(const peft__chat *chat) {
    return chat->format.name;
}

/* ---- rendering -------------------------------------------------------------------------------------------------- */

void peft__chat_text_init(peft__chat_text *text, peft__mem *mem) {
    *text = (peft__chat_text){.span_count = 0};
    peft__buffer_init(&text->text, mem);
}

void peft__chat_text_free(peft__chat_text *text) {
    peft__free(text->text.mem, text->spans);
    peft__buffer_free(&text->text);
    text->spans = NULL;
    text->span_count = text->span_capacity = 0;
}

static bool is_space(char c) {
    return c == ' ' || (c >= 9 && c <= 13);
}

static void put_trimmed(peft__buffer *out, const char *text, size_t length, bool trim) {
    while (trim && length > 0 && is_space(text[0])) {
        text++;
        length--;
    }
    while (trim && length > 0 && is_space(text[length - 1])) length--;
    peft__buffer_put(out, text, length);
}

static peft_status check_messages(peft_context *ctx, const peft__chat *chat, const peft_chat_message *messages,
                                  size_t count, int *roles) {
    size_t turn = 0;
    for (size_t i = 0; i < count; i++) {
        const char *role = messages[i].role;
        if (role == NULL || messages[i].content == NULL)
            return peft__fail(ctx, PEFT_E_ARG, "message %zu: role or content is NULL", i);
        roles[i] = -1;
        for (int k = 0; k < 3; k++)
            if (strcmp(role, role_names[k]) == 0) roles[i] = k;
        if (roles[i] < 0)
            return peft__fail(ctx, PEFT_E_ARG, "message %zu: role \"%.40s\" is not system, user or assistant", i, role);
        if (roles[i] == PEFT__ROLE_SYSTEM) {
            if (i > 0 && (chat->format.flags & (PEFT__CHAT_SYSTEM_IN_USER | PEFT__CHAT_SYSTEM_ALWAYS)))
                return peft__fail(ctx, PEFT_E_ARG,
                                  "message %zu: the format %s has a system message in the first place only", i,
                                  chat->format.name);
            continue;
        }
        if ((chat->format.flags & PEFT__CHAT_ALTERNATE) &&
            roles[i] != (turn % 2 == 0 ? PEFT__ROLE_USER : PEFT__ROLE_ASSISTANT))
            return peft__fail(
                ctx, PEFT_E_ARG,
                "message %zu has role %s: in the format %s user and assistant take turns, the user begins", i, role,
                chat->format.name);
        turn++;
    }
    if ((chat->format.flags & PEFT__CHAT_SYSTEM_IN_USER) && count > 0 && roles[0] == PEFT__ROLE_SYSTEM && turn == 0)
        return peft__fail(ctx, PEFT_E_ARG,
                          "the format %s puts the system message into a user message, and there is none",
                          chat->format.name);
    return PEFT_OK;
}

static bool put_span(peft__chat_text *out, size_t begin, size_t end, size_t message) {
    if (out->span_count == out->span_capacity) {
        const size_t capacity = out->span_capacity * 2 + 8;
        peft__chat_span *spans = peft__realloc(out->text.mem, out->spans, capacity * sizeof *spans);
        if (spans == NULL) return false;
        out->spans = spans;
        out->span_capacity = capacity;
    }
    out->spans[out->span_count++] = (peft__chat_span){begin, end, message};
    return true;
}

/* Qwen3: thoughts of earlier turns are dropped; the last answer always has a block of them, maybe an empty one. */
static void put_with_thoughts(peft__buffer *out, const char *content, bool after_query, bool last) {
    const char *thoughts = "", *words = content, *close = NULL;
    size_t thoughts_length = 0;
    for (const char *at = content; (at = strstr(at, "</think>")) != NULL; at += 8) close = at;
    if (close != NULL) {
        const char *first = strstr(content, "</think>"), *open = NULL;
        for (const char *at = content; (at = strstr(at, "<think>")) != NULL && at < first; at += 7) open = at;
        thoughts = open != NULL ? open + 7 : content;
        thoughts_length = (size_t)(first - thoughts);
        while (thoughts_length > 0 && thoughts[thoughts_length - 1] == '\n') thoughts_length--;
        while (thoughts_length > 0 && thoughts[0] == '\n') {
            thoughts++;
            thoughts_length--;
        }
        words = close + 8;
        while (*words == '\n') words++;
    }
    if (after_query && (last || thoughts_length > 0)) {
        peft__buffer_puts(out, "<think>\n");
        peft__buffer_put(out, thoughts, thoughts_length);
        peft__buffer_puts(out, "\n</think>\n\n");
        while (*words == '\n') words++;
    }
    peft__buffer_puts(out, words);
}

static void put_user(const peft__chat *chat, const char *system, const char *content, peft__buffer *out,
                     peft__buffer *scratch) {
    const peft__chat_format *format = &chat->format;
    const bool trim = (format->flags & PEFT__CHAT_TRIM) != 0;
    peft__buffer_puts(out, format->roles[PEFT__ROLE_USER].prefix);
    if (system == NULL) {
        put_trimmed(out, content, strlen(content), trim);
    } else {
        peft__buffer_clear(scratch);
        peft__buffer_puts(scratch, format->roles[PEFT__ROLE_SYSTEM].prefix);
        peft__buffer_puts(scratch, system);
        peft__buffer_puts(scratch, format->roles[PEFT__ROLE_SYSTEM].suffix);
        peft__buffer_puts(scratch, content);
        put_trimmed(out, scratch->data, scratch->length, trim);
        if (scratch->failed) out->failed = true;
    }
    peft__buffer_puts(out, format->roles[PEFT__ROLE_USER].suffix);
}

static void put_system(const peft__chat *chat, const char *content, peft__buffer *out) {
    const peft__chat_affix *affix = &chat->format.roles[PEFT__ROLE_SYSTEM];
    peft__buffer_puts(out, affix->prefix);
    put_trimmed(out, content, strlen(content), (chat->format.flags & PEFT__CHAT_TRIM) != 0);
    peft__buffer_puts(out, affix->suffix);
}

static bool render(const peft__chat *chat, const peft_chat_message *messages, const int *roles, size_t count,
                   bool add_generation_prompt, peft__chat_text *out, peft__buffer *scratch) {
    const peft__chat_format *format = &chat->format;
    const peft__chat_affix *assistant = &format->roles[PEFT__ROLE_ASSISTANT];
    const bool inside = (format->flags & PEFT__CHAT_SYSTEM_IN_USER) != 0;
    const bool starts_with_system = count > 0 && roles[0] == PEFT__ROLE_SYSTEM;
    const char *system = starts_with_system ? messages[0].content : format->default_system;
    peft__buffer *text = &out->text;
    size_t first_user = count, last_user = count;
    for (size_t i = count; i-- > 0;)
        if (roles[i] == PEFT__ROLE_USER) {
            if (last_user == count) last_user = i;
            first_user = i;
        }
    const size_t query = last_user == count && count > 0 ? count - 1 : last_user;
    peft__buffer_puts(text, format->start);
    if (!inside && !starts_with_system && (system != NULL || (format->flags & PEFT__CHAT_SYSTEM_ALWAYS)))
        put_system(chat, system != NULL ? system : "", text);
    for (size_t i = 0; i < count; i++) {
        const char *content = messages[i].content;
        if (roles[i] == PEFT__ROLE_SYSTEM) {
            if (!inside) put_system(chat, content, text);
        } else if (roles[i] == PEFT__ROLE_USER) {
            /* v0.3 of Mistral looks at the last message, so that an answer after it leaves no system prompt at all */
            const bool here = (format->flags & PEFT__CHAT_SYSTEM_LAST) ? i + 1 == count : i == first_user;
            put_user(chat, inside && here ? system : NULL, content, text, scratch);
        } else {
            peft__buffer_puts(text, assistant->prefix);
            const size_t begin = text->length;
            peft__buffer_puts(text, assistant->lead);
            if (format->flags & PEFT__CHAT_THINK)
                put_with_thoughts(text, content, i > query, i + 1 == count);
            else
                put_trimmed(text, content, strlen(content), (format->flags & PEFT__CHAT_TRIM) != 0);
            size_t mark = strlen(assistant->suffix);
            while (mark > 0 && is_space(assistant->suffix[mark - 1])) mark--;
            if (mark == 0) mark = strlen(assistant->suffix);
            if (!put_span(out, begin, text->length + mark, i)) return false;
            peft__buffer_puts(text, assistant->suffix);
        }
    }
    if (add_generation_prompt)
        peft__buffer_puts(text, assistant->prefix);
    else if (format->flags & PEFT__CHAT_EOS_AT_END)
        peft__buffer_puts(text, chat->eos);
    return peft__buffer_put(text, "", 0) && !text->failed;
}

peft_status peft__chat_render(peft_context *ctx, const peft__chat *chat, const peft_chat_message *messages,
                              size_t count, bool add_generation_prompt, peft__chat_text *out) {
    size_t bytes;
    if (!peft__mul_size(count + 1, sizeof(int), &bytes)) return peft__fail(ctx, PEFT_E_ARG, "%zu messages", count);
    int *roles = peft__alloc(ctx->mem, bytes);
    if (roles == NULL) return peft__fail_nomem(ctx, bytes, "a conversation");
    peft__buffer scratch;
    peft__buffer_init(&scratch, ctx->mem);
    peft__buffer_clear(&out->text);
    out->span_count = 0;
    peft_status status = check_messages(ctx, chat, messages, count, roles);
    if (status == PEFT_OK && !render(chat, messages, roles, count, add_generation_prompt, out, &scratch))
        status = peft__fail_nomem(ctx, out->text.length, "a conversation");
    peft__buffer_free(&scratch);
    peft__free(ctx->mem, roles);
    return status;
}
