/** \file peft/tokenizer.h
 *  Text to token ids and back. A tokenizer can be used alone, without any model.
 *
 *  It is read from a tokenizer.json, from a folder of Hugging Face or from a GGUF file, and gives the ids that the
 *  `tokenizers` package gives for the same file. It is immutable once open.
 *
 *  Texts are UTF-8 with a length in bytes and need no NUL. Results are written into buffers of the caller: give the
 *  capacity, and get the count in `*out_count`; when the capacity is too small the status is PEFT_E_LIMIT, nothing is
 *  written to the buffer and `*out_count` is what is needed. A NULL buffer of capacity 0 asks for the count.
 */
#ifndef PEFT_TOKENIZER_H
#define PEFT_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "peft/context.h"
#include "peft/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct peft_tokenizer peft_tokenizer;

/** Tokens with a meaning, for peft_tokenizer_special(). */
enum {
    PEFT_SPECIAL_BOS = 0,
    PEFT_SPECIAL_EOS = 1,
    PEFT_SPECIAL_UNK = 2,
    PEFT_SPECIAL_PAD = 3,
    PEFT_SPECIAL_CLS = 4,
    PEFT_SPECIAL_SEP = 5,
    PEFT_SPECIAL_MASK = 6
};

/** Flags of encoding; combine with |. */
enum {
    PEFT_ENCODE_PLAIN = 0,
    PEFT_ENCODE_SPECIAL = 1,      /**< add what the tokenizer's template adds ([CLS], <s>, </s>, ...) */
    PEFT_ENCODE_PARSE_SPECIAL = 2 /**< "<|im_end|>" in the text is the special token; without it, it is plain text */
};

/** What to cut when a result is longer than `max_length`. */
enum {
    PEFT_TRUNCATE_NONE = 0, /**< nothing: PEFT_E_LIMIT */
    PEFT_TRUNCATE_LONGEST_FIRST = 1,
    PEFT_TRUNCATE_ONLY_FIRST = 2,
    PEFT_TRUNCATE_ONLY_SECOND = 3
};

/** One message of a conversation. `role` is "system", "user" or "assistant"; both are NUL-terminated UTF-8. */
typedef struct peft_chat_message {
    const char *role;
    const char *content;
} peft_chat_message;

/** One token of an encoding. `begin` and `end` are bytes of the text it came from. */
typedef struct peft_token {
    int32_t id;
    int32_t type;     /**< token type id */
    uint32_t begin;   /**< first byte in its text; 0 for a token of the template */
    uint32_t end;     /**< byte after the last; 0 for a token of the template */
    uint32_t special; /**< 1: added by the template, 0: from the text */
    uint32_t source;  /**< 0: first text, 1: second text */
} peft_token;

/** Bytes [begin, end) of a rendered conversation that an assistant message covers, its end-of-turn mark included. */
typedef struct peft_chat_span {
    uint64_t begin;
    uint64_t end;
    uint64_t message; /**< index into the messages */
} peft_chat_span;

/** Opens a tokenizer.json, a folder of Hugging Face (tokenizer.json, or vocab.json + merges.txt, or vocab.txt) or a
 *  GGUF file. `*out_tokenizer` is set on success only; release it with peft_tokenizer_close().
 *  Errors: PEFT_E_IO, PEFT_E_FORMAT, PEFT_E_UNSUPPORTED (a kind of tokenizer that is not known), PEFT_E_NOMEM. */
PEFT_API PEFT_NODISCARD peft_status peft_tokenizer_open(peft_context *context, const char *path,
                                                        peft_tokenizer **out_tokenizer);

/** The same from the text of a tokenizer.json in memory, which is not needed afterwards. */
PEFT_API PEFT_NODISCARD peft_status peft_tokenizer_open_memory(peft_context *context, const void *data, size_t size,
                                                               peft_tokenizer **out_tokenizer);

/** Releases the caller's hold. NULL is allowed. */
PEFT_API void peft_tokenizer_close(peft_tokenizer *tokenizer);

/** Ids run from 0 to this minus 1; there may be holes, and a model may have more rows than this. */
PEFT_API int32_t peft_tokenizer_size(const peft_tokenizer *tokenizer);

/** The id of a special token (PEFT_SPECIAL_*), or -1 if the tokenizer has none. */
PEFT_API int32_t peft_tokenizer_special(const peft_tokenizer *tokenizer, int32_t which);

/** The id of a token as the vocabulary spells it, or -1. */
PEFT_API int32_t peft_tokenizer_token_to_id(const peft_tokenizer *tokenizer, const char *token, size_t length);

/** The token as the vocabulary spells it, NUL-terminated, owned by the tokenizer; NULL if there is no such id.
 *  `out_length` may be NULL. */
PEFT_API const char *peft_tokenizer_id_to_token(const peft_tokenizer *tokenizer, int32_t id, size_t *out_length);

/** Token ids of a text. Errors: PEFT_E_FORMAT when the text is not UTF-8 (with the offset), PEFT_E_LIMIT when
 *  `capacity` is too small, PEFT_E_NOMEM. */
PEFT_API PEFT_NODISCARD peft_status peft_tokenizer_encode(const peft_tokenizer *tokenizer, const char *text,
                                                          size_t length, uint32_t flags, int32_t *ids, int64_t capacity,
                                                          int64_t *out_count);

/** All that is known of each token, of one text or of a pair (`second` NULL: one). `max_length` counts the tokens
 *  of the template too, 0 = no limit; `truncation` is PEFT_TRUNCATE_*. */
PEFT_API PEFT_NODISCARD peft_status peft_tokenizer_encode_pair(const peft_tokenizer *tokenizer, const char *first,
                                                               size_t first_length, const char *second,
                                                               size_t second_length, uint32_t flags, int64_t max_length,
                                                               int32_t truncation, peft_token *tokens, int64_t capacity,
                                                               int64_t *out_count);

/** Text of token ids. `out_length` does not count the NUL, which is written and needs one more byte of `capacity`.
 *  Bytes that form no character become U+FFFD. `skip_special` nonzero leaves out special tokens.
 *  Errors: PEFT_E_ARG for an id that the tokenizer does not have, PEFT_E_LIMIT when `capacity` is too small. */
PEFT_API PEFT_NODISCARD peft_status peft_tokenizer_decode(const peft_tokenizer *tokenizer, const int32_t *ids,
                                                          int64_t count, int32_t skip_special, char *text,
                                                          size_t capacity, size_t *out_length);

/** The Jinja text of the chat template that came with the tokenizer, or NULL. Owned by the tokenizer. */
PEFT_API const char *peft_tokenizer_chat_template(const peft_tokenizer *tokenizer);

/** Text of a conversation in a model's format. `format` is NULL for the tokenizer's own template, the name of a
 *  preset (chatml, llama2, llama3, mistral, zephyr, gemma, phi3, alpaca, vicuna, qwen2, qwen2.5, qwen3, smollm2), a
 * Jinja text that is recognised as one of them, or an own format as JSON: {"user": {"prefix": "..", "suffix": ".."},
 * ...}. `add_generation_prompt` nonzero ends the text with what comes before an assistant's words. `spans` (may be NULL
 *  with span_capacity 0) gets the assistant messages; `*out_span_count` (may be NULL) their number.
 *  Encode the result with PEFT_ENCODE_PARSE_SPECIAL and without PEFT_ENCODE_SPECIAL.
 *  Errors: PEFT_E_UNSUPPORTED when the template is not recognised (the text says how to name one), PEFT_E_ARG for a
 *  role or an order that the format does not have, PEFT_E_LIMIT when a buffer is too small. */
PEFT_API PEFT_NODISCARD peft_status peft_chat_render(const peft_tokenizer *tokenizer, const char *format,
                                                     const peft_chat_message *messages, size_t count,
                                                     int32_t add_generation_prompt, char *text, size_t capacity,
                                                     size_t *out_length, peft_chat_span *spans, size_t span_capacity,
                                                     size_t *out_span_count);

#ifdef __cplusplus
}
#endif
#endif
