/* chat.h: conversations to the text that a model was trained on.
 *
 * A chat format is one of the presets, or one that the user writes down as prefixes and suffixes. The Jinja text that
 * models carry is not run: it is recognised as one of the presets, and a template that is not recognised is an error
 * which says how to name one, because a silently wrong format is the most common reason why a model that trained well
 * talks rubbish.
 */
#ifndef PEFT_TEXT_CHAT_H
#define PEFT_TEXT_CHAT_H

#include "base/base.h"
#include "peft/tokenizer.h"

typedef struct peft__chat peft__chat;

/* Bytes [begin, end) of the rendered text that an assistant message covers: what it says and the end-of-turn mark
 * after it, which is trained so that the model learns to stop. */
typedef struct peft__chat_span {
    size_t begin, end;
    size_t message; /* index into the messages */
} peft__chat_span;

/* Text and spans; init once, use for many, free once. */
typedef struct peft__chat_text {
    peft__buffer text;
    peft__chat_span *spans;
    size_t span_count, span_capacity;
} peft__chat_text;

void peft__chat_text_init(peft__chat_text *text, peft__mem *mem);
void peft__chat_text_free(peft__chat_text *text);

/* `spec` is NULL or "" (the template that came with the tokenizer), the name of a preset (chatml, llama2, llama3,
 * mistral, zephyr, gemma, phi3, alpaca, vicuna, qwen2, qwen2.5, qwen3, smollm2), a Jinja text (it holds "{%" or "{{")
 * or an own format as JSON:
 *   {"system": {"prefix": "..", "suffix": ".."}, "user": {..}, "assistant": {..}, "start": "..", "default_system":
 * ".."} Strings may use {bos} and {eos}. The tokenizer gives the texts of its bos and eos tokens. */
peft_status peft__chat_create(peft_context *ctx, const peft_tokenizer *tokenizer, const char *spec,
                              peft__chat **out_chat);
void peft__chat_destroy(peft__chat *chat);           /* NULL is allowed */
const char *peft__chat_name(const peft__chat *chat); /* of the preset; "custom" */

/* Roles are system, user, assistant. `add_generation_prompt`: ends with what comes before an assistant's words.
 * The text includes the bos token where the template writes one: encode it with PEFT_ENCODE_PARSE_SPECIAL and
 * without PEFT_ENCODE_SPECIAL. Errors: PEFT_E_ARG for a role or an order that the format does not have. */
peft_status peft__chat_render(peft_context *ctx, const peft__chat *chat, const peft_chat_message *messages,
                              size_t count, bool add_generation_prompt, peft__chat_text *out);

#endif
