/* record.c: one row of a data file as text, with the bytes of it that are learnt.
 *
 * The forms are those that people's files have: {"text"}, {"prompt", "completion"}, Alpaca, ShareGPT and messages. All
 * that are conversations become messages first and are rendered by the model's own chat template, because a template
 * other than the one a model is later used with is the usual reason why it "trained well and talks rubbish".
 */
#include "data/data.h"

enum { MOST_MESSAGES = 65536 };

const char *peft__data_format_name(int32_t format) {
    static const char *const NAMES[] = {"auto",       "text",        "text_rows", "prompt_completion",
                                        "alpaca",     "sharegpt",    "messages",  "classification",
                                        "regression", "multi_label", "token_cls", "masked_lm",
                                        "images",     "choices", "question_ans",
                                        "pairs"};
    return format >= 0 && format < (int32_t)PEFT_COUNT(NAMES) ? NAMES[format] : "?";
}

void peft__records_init(peft__records *records, peft_context *ctx, const peft_tokenizer *tokenizer,
                        const peft_dataset_options *options) {
    *records = (peft__records){.ctx = ctx, .tokenizer = tokenizer, .options = options, .format = options->format};
    peft__chat_text_init(&records->rendered, ctx->mem);
    peft__buffer_init(&records->buffer, ctx->mem);
    peft__arena_init(&records->arena, ctx->mem);
}

void peft__records_free(peft__records *records) {
    peft__chat_destroy(records->chat);
    peft__chat_text_free(&records->rendered);
    peft__buffer_free(&records->buffer);
    peft__arena_free(&records->arena);
    peft__free(records->ctx->mem, records->spans);
    peft__free(records->ctx->mem, records->messages);
    peft__free(records->ctx->mem, records->learnt);
    peft__free(records->ctx->mem, records->targets);
    peft__free(records->ctx->mem, records->tags);
    peft__choices_free(records);
    peft__free(records->ctx->mem, records->word_of);
    peft__free(records->ctx->mem, records->answers);
}

static const char *key_or(const char *key, const char *usual) {
    return key != NULL && key[0] != '\0' ? key : usual;
}

/* ---- which form ------------------------------------------------------------------------------------------- */

/* messages or ShareGPT, by the keys of the first message. */
static int32_t list_format(const peft__json *list) {
    const peft__json *first = json_array_get(list, 0);
    return json_object_get(first, "from") != NULL ? PEFT_DATA_SHAREGPT : PEFT_DATA_MESSAGES;
}

static int32_t format_of(const peft__records *records, const peft__json *row) {
    const peft_dataset_options *options = records->options;
    if (options->text_key != NULL) {
        const peft__json *value = json_object_get(row, options->text_key);
        return json_is_array(value) ? list_format(value) : PEFT_DATA_TEXT_ROWS;
    }
    if (options->prompt_key != NULL || options->completion_key != NULL) return PEFT_DATA_PROMPT_COMPLETION;
    const peft__json *list = json_object_get(row, "messages");
    if (json_is_array(list)) return list_format(list);
    list = json_object_get(row, "conversations");
    if (list == NULL) list = json_object_get(row, "conversation");
    if (json_is_array(list))
        return json_object_get(json_array_get(list, 0), "role") != NULL ? PEFT_DATA_MESSAGES : PEFT_DATA_SHAREGPT;
    if (json_object_get(row, "instruction") != NULL && json_object_get(row, "output") != NULL) return PEFT_DATA_ALPACA;
    if (json_object_get(row, "prompt") != NULL && json_object_get(row, "completion") != NULL)
        return PEFT_DATA_PROMPT_COMPLETION;
    if (json_object_get(row, "text") != NULL) return PEFT_DATA_TEXT_ROWS;
    return PEFT_DATA_AUTO;
}

peft_status peft__records_detect(peft__records *records, const peft__json *row) {
    const int32_t format = format_of(records, row);
    if (format != PEFT_DATA_AUTO) {
        records->format = format;
        return PEFT_OK;
    }
    char keys[200];
    size_t used = 0;
    const char *key;
    json_t *value;
    keys[0] = '\0';
    json_object_foreach((json_t *)row, key, value) {
        const size_t length = strlen(key);
        if (used + length + 3 > sizeof keys) break;
        if (used > 0) {
            memcpy(keys + used, ", ", 2);
            used += 2;
        }
        memcpy(keys + used, key, length + 1);
        used += length;
    }
    return peft__fail(
        records->ctx, PEFT_E_FORMAT,
        "the keys of the first row (%s) are not those of a known form: text; prompt and completion; instruction and "
        "output; "
        "conversations; messages. Name the form, or the keys with text_key or prompt_key and completion_key",
        keys);
}

/* ---- fields ------------------------------------------------------------------------------------------------- */

/* Text of a field, or NULL where it is absent or null and not needed. */
peft_status peft__records_field(peft__records *records, const peft__json *row, const char *key, bool needed,
                                const char **out_text) {
    const peft__json *value = json_object_get(row, key);
    *out_text = NULL;
    if (value == NULL || json_is_null(value)) {
        if (!needed) return PEFT_OK;
        return peft__fail(records->ctx, PEFT_E_FORMAT, "\"%.60s\" is missing, which rows of the form %s have", key,
                          peft__data_format_name(records->format));
    }
    if (!json_is_string(value))
        return peft__fail(records->ctx, PEFT_E_FORMAT, "\"%.60s\" is text, found %s", key, peft__json_kind(value));
    if (strlen(json_string_value(value)) != json_string_length(value))
        return peft__fail(records->ctx, PEFT_E_FORMAT, "\"%.60s\" holds a NUL character", key);
    *out_text = json_string_value(value);
    return PEFT_OK;
}

peft_status peft__records_put_span(peft__records *records, size_t begin, size_t end) {
    if (begin >= end) return PEFT_OK;
    if (records->span_count == records->span_capacity) {
        const size_t capacity = records->span_capacity == 0 ? 16 : 2 * records->span_capacity;
        peft__span *spans = peft__realloc(records->ctx->mem, records->spans, capacity * sizeof *spans);
        if (spans == NULL) return peft__fail_nomem(records->ctx, capacity * sizeof *spans, "a data set's row");
        records->spans = spans;
        records->span_capacity = capacity;
    }
    records->spans[records->span_count++] = (peft__span){begin, end};
    return PEFT_OK;
}

/* ---- conversations -------------------------------------------------------------------------------------------- */

static peft_status put_message(peft__records *records, const char *role, const char *content, bool learnt) {
    peft__mem *mem = records->ctx->mem;
    if (records->message_count >= MOST_MESSAGES)
        return peft__fail(records->ctx, PEFT_E_FORMAT, "a conversation has at most %d messages", MOST_MESSAGES);
    if (records->message_count == records->message_capacity) {
        const size_t capacity = records->message_capacity == 0 ? 16 : 2 * records->message_capacity;
        peft_chat_message *messages = peft__realloc(mem, records->messages, capacity * sizeof *messages);
        if (messages != NULL) records->messages = messages;
        bool *flags = peft__realloc(mem, records->learnt, capacity * sizeof *flags);
        if (flags != NULL) records->learnt = flags;
        if (messages == NULL || flags == NULL)
            return peft__fail_nomem(records->ctx, capacity * sizeof *messages, "a conversation");
        records->message_capacity = capacity;
    }
    records->messages[records->message_count] = (peft_chat_message){.role = role, .content = content};
    records->learnt[records->message_count++] = learnt;
    return PEFT_OK;
}

/* Other tools' names of the three roles; NULL for roles that no template here has. */
static const char *known_role(const char *role) {
    static const char *const NAMES[][2] = {{"system", "system"},   {"developer", "system"},    {"user", "user"},
                                           {"human", "user"},      {"assistant", "assistant"}, {"gpt", "assistant"},
                                           {"model", "assistant"}, {"chatgpt", "assistant"}};
    for (size_t i = 0; i < PEFT_COUNT(NAMES); i++)
        if (strcmp(role, NAMES[i][0]) == 0) return NAMES[i][1];
    return NULL;
}

/* A message's text: a string, or a list of parts of which only text is known. */
static peft_status content_of(peft__records *records, const peft__json *message, const char *key, size_t number,
                              const char **out_text) {
    const peft__json *value = json_object_get(message, key);
    if (!json_is_array(value)) {
        const peft_status status = peft__records_field(records, message, key, true, out_text);
        return status < 0 && status != PEFT_E_NOMEM ? peft__fail_in(records->ctx, status, "message %zu", number)
                                                    : status;
    }
    peft__buffer_clear(&records->buffer);
    (void)peft__buffer_puts(&records->buffer, "");
    for (size_t i = 0; i < json_array_size(value); i++) {
        const peft__json *part = json_array_get(value, i);
        const peft__json *type = json_object_get(part, "type");
        if (json_is_string(type) && strcmp(json_string_value(type), "text") != 0)
            return peft__fail(records->ctx, PEFT_E_FORMAT, "message %zu: a part of type \"%.40s\"; only text is known",
                              number, json_string_value(type));
        const char *text;
        if (json_is_string(part)) {
            text = json_string_value(part);
        } else {
            PEFT_TRY(peft__records_field(records, part, "text", true, &text));
        }
        (void)peft__buffer_puts(&records->buffer, text);
    }
    if (records->buffer.failed) return peft__fail_nomem(records->ctx, records->buffer.capacity, "a message");
    *out_text = peft__arena_strndup(&records->arena, records->buffer.data, records->buffer.length);
    if (*out_text == NULL) return peft__fail_nomem(records->ctx, records->buffer.length, "a message");
    return PEFT_OK;
}

/* "train": false and "weight": 0 keep an assistant message from being learnt. */
static bool message_is_learnt(const peft__json *message) {
    const peft__json *train = json_object_get(message, "train"), *weight = json_object_get(message, "weight");
    if (json_is_false(train)) return false;
    return !json_is_number(weight) || json_number_value(weight) > 0.0;
}

static peft_status put_messages(peft__records *records, const peft__json *list, bool learnt) {
    if (!json_is_array(list) || json_array_size(list) == 0)
        return peft__fail(records->ctx, PEFT_E_FORMAT, "a conversation is a list of messages, found %s",
                          json_is_array(list) ? "an empty one" : peft__json_kind(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const peft__json *message = json_array_get(list, i);
        if (!json_is_object(message))
            return peft__fail(records->ctx, PEFT_E_FORMAT, "message %zu is an object, found %s", i + 1,
                              peft__json_kind(message));
        const bool sharegpt = json_object_get(message, "from") != NULL;
        const char *role, *content;
        PEFT_TRY(peft__records_field(records, message, sharegpt ? "from" : "role", true, &role));
        const char *known = known_role(role);
        if (known == NULL)
            return peft__fail(records->ctx, PEFT_E_FORMAT,
                              "message %zu has the role \"%.40s\"; system, user and assistant are known", i + 1, role);
        PEFT_TRY(content_of(records, message, sharegpt ? "value" : "content", i + 1, &content));
        PEFT_TRY(put_message(records, known, content,
                             learnt && strcmp(known, "assistant") == 0 && message_is_learnt(message)));
    }
    return PEFT_OK;
}

static peft_status need_chat(peft__records *records) {
    if (records->chat != NULL) return PEFT_OK;
    const char *spec = records->options->chat_template;
    const char *own = peft__tokenizer_chat_template(records->tokenizer);
    if (records->format == PEFT_DATA_ALPACA && (spec == NULL || spec[0] == '\0') && (own == NULL || own[0] == '\0')) {
        spec = "alpaca";
        records->chat_by_default = true;
    }
    const peft_status status = peft__chat_create(records->ctx, records->tokenizer, spec, &records->chat);
    /* Whatever is wrong with the template is wrong for every row. */
    if (status == PEFT_E_FORMAT || status == PEFT_E_ARG)
        return peft__fail_in(records->ctx, PEFT_E_UNSUPPORTED, "chat template");
    return status;
}

static peft_status render(peft__records *records) {
    PEFT_TRY(need_chat(records));
    PEFT_TRY(peft__chat_render(records->ctx, records->chat, records->messages, records->message_count, false,
                               &records->rendered));
    if (records->rendered.text.failed)
        return peft__fail_nomem(records->ctx, records->rendered.text.capacity, "a conversation");
    records->text = records->rendered.text.data != NULL ? records->rendered.text.data : "";
    records->length = records->rendered.text.length;
    records->conversation = true;
    if (records->options->train_on_prompt != 0) return peft__records_put_span(records, 0, records->length);
    for (size_t i = 0; i < records->rendered.span_count; i++) {
        const peft__chat_span *span = &records->rendered.spans[i];
        if (span->message < records->message_count && records->learnt[span->message])
            PEFT_TRY(peft__records_put_span(records, span->begin, peft__min_size(span->end, records->length)));
    }
    return PEFT_OK;
}

/* ---- forms ----------------------------------------------------------------------------------------------------- */

static peft_status read_alpaca(peft__records *records, const peft__json *row) {
    const char *system, *instruction, *input, *output;
    PEFT_TRY(peft__records_field(records, row, "system", false, &system));
    PEFT_TRY(
        peft__records_field(records, row, key_or(records->options->prompt_key, "instruction"), true, &instruction));
    PEFT_TRY(peft__records_field(records, row, "input", false, &input));
    PEFT_TRY(peft__records_field(records, row, key_or(records->options->completion_key, "output"), true, &output));
    if (system != NULL && system[0] != '\0') PEFT_TRY(put_message(records, "system", system, false));
    const peft__json *history = json_object_get(row, "history");
    for (size_t i = 0; i < json_array_size(history); i++) {
        const peft__json *pair = json_array_get(history, i), *asked = json_array_get(pair, 0),
                         *said = json_array_get(pair, 1);
        if (!json_is_string(asked) || !json_is_string(said))
            return peft__fail(records->ctx, PEFT_E_FORMAT, "\"history\" is a list of [question, answer] pairs");
        PEFT_TRY(put_message(records, "user", json_string_value(asked), false));
        PEFT_TRY(put_message(records, "assistant", json_string_value(said), true));
    }
    const char *question = instruction;
    if (input != NULL && input[0] != '\0') {
        question = peft__arena_strfmt(&records->arena, "%s\n%s", instruction, input);
        if (question == NULL) return peft__fail_nomem(records->ctx, strlen(instruction) + strlen(input), "a row");
    }
    PEFT_TRY(put_message(records, "user", question, false));
    PEFT_TRY(put_message(records, "assistant", output, true));
    return render(records);
}

static peft_status read_prompt_completion(peft__records *records, const peft__json *row) {
    const char *prompt_key = key_or(records->options->prompt_key, "prompt");
    const char *completion_key = key_or(records->options->completion_key, "completion");
    const peft__json *prompt_value = json_object_get(row, prompt_key),
                     *completion_value = json_object_get(row, completion_key);
    if (json_is_array(prompt_value) && json_is_array(completion_value)) {
        PEFT_TRY(put_messages(records, prompt_value, false));
        PEFT_TRY(put_messages(records, completion_value, true));
        return render(records);
    }
    const char *prompt, *completion;
    PEFT_TRY(peft__records_field(records, row, prompt_key, true, &prompt));
    PEFT_TRY(peft__records_field(records, row, completion_key, true, &completion));
    peft__buffer_clear(&records->buffer);
    (void)peft__buffer_puts(&records->buffer, prompt);
    (void)peft__buffer_puts(&records->buffer, completion);
    if (records->buffer.failed) return peft__fail_nomem(records->ctx, records->buffer.capacity, "a row");
    records->text = records->buffer.data;
    records->length = records->buffer.length;
    records->add_special = true;
    return peft__records_put_span(records, records->options->train_on_prompt != 0 ? 0 : strlen(prompt),
                                  records->length);
}

static peft_status read_text(peft__records *records, const peft__json *row) {
    const char *text;
    PEFT_TRY(peft__records_field(records, row, key_or(records->options->text_key, "text"), true, &text));
    records->text = text;
    records->length = strlen(text);
    records->add_special = true;
    return peft__records_put_span(records, 0, records->length);
}

static const peft__json *conversation_of(const peft__records *records, const peft__json *row) {
    if (records->options->text_key != NULL) return json_object_get(row, records->options->text_key);
    static const char *const KEYS[] = {"messages", "conversations", "conversation"};
    for (size_t i = 0; i < PEFT_COUNT(KEYS); i++)
        if (json_object_get(row, KEYS[i]) != NULL) return json_object_get(row, KEYS[i]);
    return NULL;
}

static peft_status read_conversation(peft__records *records, const peft__json *row) {
    const char *system;
    PEFT_TRY(peft__records_field(records, row, "system", false, &system));
    if (system != NULL && system[0] != '\0') PEFT_TRY(put_message(records, "system", system, false));
    const peft__json *list = conversation_of(records, row);
    if (list == NULL)
        return peft__fail(
            records->ctx, PEFT_E_FORMAT, "\"%.60s\" is missing, which rows of the form %s have",
            key_or(records->options->text_key, records->format == PEFT_DATA_SHAREGPT ? "conversations" : "messages"),
            peft__data_format_name(records->format));
    PEFT_TRY(put_messages(records, list, true));
    return render(records);
}

peft_status peft__records_read(peft__records *records, const peft__json *row) {
    peft__arena_free(&records->arena);
    records->text = "";
    records->length = records->span_count = records->message_count = 0;
    records->add_special = records->conversation = false;
    if (!json_is_object(row))
        return peft__fail(records->ctx, PEFT_E_FORMAT, "a row is an object, found %s", peft__json_kind(row));
    if (records->format == PEFT_DATA_AUTO) PEFT_TRY(peft__records_detect(records, row));
    switch (records->format) {
    case PEFT_DATA_TEXT_ROWS:
    case PEFT_DATA_MASKED_LM:
        return read_text(records, row);
    case PEFT_DATA_CLASSIFICATION:
    case PEFT_DATA_REGRESSION:
    case PEFT_DATA_MULTI_LABEL:
    case PEFT_DATA_TOKEN_CLS:
        return peft__labelled_read(records, row);
    case PEFT_DATA_CHOICES:
        return peft__choices_read(records, row);
    case PEFT_DATA_QUESTION_ANS:
        return peft__spans_read(records, row);
    case PEFT_DATA_PAIRS:
        return peft__pairs_read(records, row);
    case PEFT_DATA_PROMPT_COMPLETION:
        return read_prompt_completion(records, row);
    case PEFT_DATA_ALPACA:
        return read_alpaca(records, row);
    default:
        return read_conversation(records, row);
    }
}
