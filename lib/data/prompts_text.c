/* prompts_text.c: what the model reads: instruction, shots, question.
 *
 * Everything before the question is made once. A chat model gets the instruction as the system message and shots as
 * turns; others get one text with separators. Where an answer comes right behind the text a blank stands between,
 * unless one of the two brings its own: that is how the words stand in what models were trained on.
 */
#include "data/prompts.h"

enum { FIELDS = 5 };

static peft_status no_memory(const peft__prompt_writer *w) {
    return peft__fail_nomem(w->prompts->ctx, 256, "a prompt");
}

static bool is_blank(char c) {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

void peft__prompt_put_answer(const peft__prompt_writer *w, const char *answer, peft__buffer *out) {
    if (w->chat != NULL || out->length == 0 || is_blank(out->data[out->length - 1]))
        answer += strspn(answer, " \t\r\n");
    else if (!is_blank(answer[0]))
        (void)peft__buffer_puts(out, w->prompt->joiner);
    (void)peft__buffer_puts(out, answer);
}

/* ---- fields ----------------------------------------------------------------------------------------------------- */

/* The row's text under the name that is usual, where the file says which field it is. */
static size_t put_alias(peft__template_field *fields, size_t count, const char *name, const char *key,
                        const peft__json *row) {
    const peft__json *value = key == NULL || json_object_get(row, name) != NULL ? NULL : json_object_get(row, key);
    if (!json_is_string(value)) return count;
    fields[count] = (peft__template_field){name, json_string_value(value), json_string_length(value), 0};
    return count + 1;
}

static size_t put_fields(const peft__prompt_writer *w, const peft__json *row, const char *answer, const char *mask,
                         peft__template_field *fields) {
    size_t n = 0;
    if (mask != NULL) fields[n++] = (peft__template_field){"mask", mask, strlen(mask), 0};
    fields[n++] = (peft__template_field){"choices", w->prompt->choices, strlen(w->prompt->choices), 0};
    if (answer != NULL) fields[n++] = (peft__template_field){"answer", answer, strlen(answer), 0};
    n = put_alias(fields, n, "text", w->prompts->text_key, row);
    return put_alias(fields, n, "text_pair", w->prompts->text_pair_key, row);
}

/* A row of the same fields without content. */
static json_t *emptied(const json_t *row, const char *content) {
    json_t *copy = json_object();
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)row, key, value) {
        if (json_object_set_new(copy, key, json_string(content)) != 0) {
            json_decref(copy);
            return NULL;
        }
    }
    return copy;
}

static const char *first_answer(const peft__prompt_text *prompt, int32_t label) {
    for (uint32_t i = 0; i < prompt->answer_count; i++)
        if (prompt->answers[i].label == (uint32_t)label) return prompt->answers[i].text;
    return "";
}

/* ---- before the question --------------------------------------------------------------------------------------- */

static const char *keep(peft__prompt_writer *w, const peft__buffer *text) {
    return text->failed ? NULL : peft__arena_strndup(&w->arena, text->data != NULL ? text->data : "", text->length);
}

/* A solved example as one text. */
static peft_status put_shot(peft__prompt_writer *w, const peft__prompt_row *row, peft__buffer *out) {
    const peft__prompt_text *prompt = w->prompt;
    const char *file = w->prompts->train.path, *answer = first_answer(prompt, row->label);
    const char *bare = answer + strspn(answer, " \t\n");
    const bool cloze = prompt->kind == PEFT_PROMPT_CLOZE;
    const peft__template *template = prompt->shot != NULL ? prompt->shot : prompt->question;
    peft__template_field fields[FIELDS];
    const size_t count = put_fields(w, row->row, bare, cloze ? bare : NULL, fields);
    PEFT_TRY(peft__template_render(template, file, row->line, row->row, fields, count, out));
    if (prompt->shot != NULL || cloze) return PEFT_OK;
    peft__prompt_put_answer(w, answer, out);
    return PEFT_OK;
}

/* A solved example as two turns. */
static peft_status put_turns(peft__prompt_writer *w, const peft__prompt_row *row) {
    const peft__prompt_text *prompt = w->prompt;
    const char *file = w->prompts->train.path, *answer = first_answer(prompt, row->label);
    answer += strspn(answer, " \t\n");
    peft__template_field fields[FIELDS];
    const size_t count = put_fields(w, row->row, answer, NULL, fields);
    peft__buffer_clear(&w->question);
    PEFT_TRY(peft__template_render(prompt->question, file, row->line, row->row, fields, count, &w->question));
    const char *asked = keep(w, &w->question), *said = answer;
    if (prompt->shot != NULL) {
        peft__buffer_clear(&w->question);
        PEFT_TRY(peft__template_render(prompt->shot, file, row->line, row->row, fields, count, &w->question));
        said = keep(w, &w->question);
    }
    if (asked == NULL || said == NULL) return no_memory(w);
    w->messages[w->message_count++] = (peft_chat_message){.role = "user", .content = asked};
    w->messages[w->message_count++] = (peft_chat_message){.role = "assistant", .content = said};
    return PEFT_OK;
}

static peft_status put_instruction(peft__prompt_writer *w, peft__buffer *out) {
    const peft__prompt_text *prompt = w->prompt;
    if (prompt->instruction == NULL) return PEFT_OK;
    peft__template_field field = {"choices", prompt->choices, strlen(prompt->choices), 0};
    PEFT_TRY(peft__template_render(prompt->instruction, NULL, 0, NULL, &field, 1, out));
    if (!prompt->chat) {
        (void)peft__buffer_puts(out, prompt->separator);
        return PEFT_OK;
    }
    const char *system = keep(w, out);
    if (system == NULL) return no_memory(w);
    w->messages[w->message_count++] = (peft_chat_message){.role = "system", .content = system};
    return PEFT_OK;
}

static peft_status put_shots(peft__prompt_writer *w, uint64_t seed) {
    const peft__prompt_text *prompt = w->prompt;
    int64_t *chosen = peft__arena_alloc(&w->arena, (size_t)(prompt->shots + 1) * sizeof *chosen);
    if (chosen == NULL) return no_memory(w);
    PEFT_TRY(peft__prompt_choose(w->prompts, prompt, seed, chosen));
    for (uint32_t i = 0; i < prompt->shots; i++) {
        const peft__prompt_row *row = &w->prompts->train.rows[chosen[i]];
        if (prompt->chat) {
            PEFT_TRY(put_turns(w, row));
            continue;
        }
        PEFT_TRY(put_shot(w, row, &w->text));
        (void)peft__buffer_puts(&w->text, prompt->separator);
    }
    return PEFT_OK;
}

static peft_status begin(peft__prompt_writer *w, uint64_t seed) {
    peft_context *ctx = w->prompts->ctx;
    const peft__prompt_text *prompt = w->prompt;
    if (prompt->kind == PEFT_PROMPT_CLOZE) {
        const int32_t mask = peft__special_id(w->tokenizer, PEFT_SPECIAL_MASK);
        w->mask = mask < 0 ? NULL : peft__id_to_token(w->tokenizer, mask, NULL);
        if (w->mask == NULL)
            return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s has {mask}, and the model's tokenizer has no mask token",
                              prompt->where);
    }
    if (prompt->chat) {
        const peft_status status = peft__chat_create(ctx, w->tokenizer, prompt->chat_template, &w->chat);
        if (status < 0) return peft__fail_in(ctx, status, "%s: chat", prompt->where);
        w->messages = peft__arena_alloc(&w->arena, (2 * (size_t)prompt->shots + 2) * sizeof *w->messages);
        if (w->messages == NULL) return no_memory(w);
    }
    PEFT_TRY(put_instruction(w, &w->text));
    if (prompt->chat) peft__buffer_clear(&w->text);
    PEFT_TRY(put_shots(w, seed));
    w->before = keep(w, &w->text);
    w->before_length = w->text.length;
    return w->before != NULL ? PEFT_OK : no_memory(w);
}

peft_status peft__prompt_writer_begin(peft__prompt_writer *w, peft_prompts *prompts, const peft__prompt_text *prompt,
                                      const peft_tokenizer *tokenizer, uint64_t seed) {
    *w = (peft__prompt_writer){.prompts = prompts, .prompt = prompt, .tokenizer = tokenizer};
    peft__arena_init(&w->arena, prompts->ctx->mem);
    peft__chat_text_init(&w->rendered, prompts->ctx->mem);
    peft__buffer_init(&w->question, prompts->ctx->mem);
    peft__buffer_init(&w->text, prompts->ctx->mem);
    const peft_status status = begin(w, seed);
    if (status < 0) peft__prompt_writer_end(w);
    return status;
}

void peft__prompt_writer_end(peft__prompt_writer *w) {
    if (w->prompts == NULL) return;
    peft__chat_destroy(w->chat);
    peft__chat_text_free(&w->rendered);
    peft__buffer_free(&w->question);
    peft__buffer_free(&w->text);
    peft__arena_free(&w->arena);
    *w = (peft__prompt_writer){0};
}

/* ---- the question ---------------------------------------------------------------------------------------------- */

/* The conversation with `content` as its last message, into `out`. */
static peft_status render_chat(peft__prompt_writer *w, const char *content, peft__buffer *out) {
    peft_context *ctx = w->prompts->ctx;
    w->messages[w->message_count] = (peft_chat_message){.role = "user", .content = content};
    const peft_status status = peft__chat_render(ctx, w->chat, w->messages, w->message_count + 1, true, &w->rendered);
    if (status < 0) return peft__fail_in(ctx, status, "%s", w->prompt->where);
    if (w->rendered.text.failed) return no_memory(w);
    peft__buffer_clear(out);
    (void)peft__buffer_put(out, w->rendered.text.data, w->rendered.text.length);
    return PEFT_OK;
}

static peft_status write_chat(peft__prompt_writer *w) {
    if (w->before_length == 0) { /* the first question: what comes before it is what an empty one has, too */
        PEFT_TRY(render_chat(w, "", &w->text));
        const char *empty = keep(w, &w->text);
        if (empty == NULL) return no_memory(w);
        w->before = empty;
        w->before_length = w->text.length;
    }
    PEFT_TRY(render_chat(w, w->question.data != NULL ? w->question.data : "", &w->text));
    size_t same = 0;
    while (same < w->before_length && same < w->text.length && w->text.data[same] == w->before[same]) same++;
    w->common = same;
    return PEFT_OK;
}

peft_status peft__prompt_write(peft__prompt_writer *w, const peft__prompt_row *row, const char *content_free) {
    json_t *emptied_row = content_free != NULL ? emptied(row->row, content_free) : NULL;
    if (content_free != NULL && emptied_row == NULL) return no_memory(w);
    const json_t *shown = content_free != NULL ? emptied_row : row->row;
    peft__template_field fields[FIELDS];
    const size_t count = put_fields(w, shown, NULL, w->mask, fields);
    peft__buffer_clear(&w->question);
    peft_status status = peft__template_render(w->prompt->question, w->prompts->test.path, row->line, shown, fields,
                                               count, &w->question);
    json_decref(emptied_row);
    if (status < 0) return status;
    if (w->chat != NULL) return write_chat(w);
    peft__buffer_clear(&w->text);
    (void)peft__buffer_put(&w->text, w->before, w->before_length);
    (void)peft__buffer_put(&w->text, w->question.data, w->question.length);
    w->common = w->before_length;
    w->mask_at = w->mask != NULL ? w->before_length + fields[0].at : SIZE_MAX;
    return w->text.failed || w->question.failed ? no_memory(w) : PEFT_OK;
}

uint32_t peft__prompt_flags(const peft__prompt_writer *w) {
    return w->chat != NULL ? PEFT_ENCODE_PARSE_SPECIAL : PEFT_ENCODE_PARSE_SPECIAL | PEFT_ENCODE_SPECIAL;
}
