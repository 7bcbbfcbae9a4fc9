/* tokenizer.h: text to token ids and back, for every other part of the library.
 *
 * A tokenizer is read once, from the files of Hugging Face or from the metadata of a GGUF file, and is then
 * immutable: it may be shared by any number of contexts and threads. Each call therefore takes the context whose
 * memory it uses and whose error text it sets; caches and scratch live in the call.
 *
 * Ids are what `tokenizers` gives for the same tokenizer.json. Truncation and padding written in the file are not
 * applied: the caller says what it wants.
 */
#ifndef PEFT_TEXT_TOKENIZER_H
#define PEFT_TEXT_TOKENIZER_H

#include "base/base.h"
#include "peft/tokenizer.h"

struct peft__gguf;
struct peft__chat;

/* ---- where it comes from ---------------------------------------------------------------------------- */

/* A folder as Hugging Face saves it: tokenizer.json (else vocab.json + merges.txt, else vocab.txt), and beside it,
 * where present, tokenizer_config.json, special_tokens_map.json and chat_template.jinja. */
peft_status peft__tokenizer_from_folder(peft_context *ctx, const char *folder, peft_tokenizer **out_tokenizer);
/* The text of a tokenizer.json alone. `name` is for error texts. */
peft_status peft__tokenizer_from_json(peft_context *ctx, const void *data, size_t size, const char *name,
                                      peft_tokenizer **out_tokenizer);
peft_status peft__tokenizer_from_gguf(peft_context *ctx, struct peft__gguf *gguf, peft_tokenizer **out_tokenizer);
peft_tokenizer *peft__tokenizer_ref(peft_tokenizer *tokenizer);
void peft__tokenizer_unref(peft_tokenizer *tokenizer); /* NULL is allowed */

/* ---- what it knows ---------------------------------------------------------------------------------- */

/* Ids run from 0 to this minus 1 (there may be holes). A model's embedding may have more rows. */
int32_t peft__tokenizer_size(const peft_tokenizer *tokenizer);
/* -1 when there is no such token. */
int32_t peft__token_to_id(const peft_tokenizer *tokenizer, const char *token, size_t length);
/* The token as the vocabulary spells it (byte-level tokens stay mapped), NUL-terminated; NULL for a hole or an id
 * out of range. `out_length` may be NULL. Owned by the tokenizer. */
const char *peft__id_to_token(const peft_tokenizer *tokenizer, int32_t id, size_t *out_length);
/* Added with "special": true (GGUF: control): left out by peft__decode(skip_special). */
bool peft__token_is_special(const peft_tokenizer *tokenizer, int32_t id);
/* `which` is PEFT_SPECIAL_*; -1 when the tokenizer has none. */
int32_t peft__special_id(const peft_tokenizer *tokenizer, int32_t which);
/* Does PEFT_ENCODE_SPECIAL put the bos token first / the eos token last? Tells when a template that writes
 * the bos token itself would double it. */
bool peft__tokenizer_adds_bos(const peft_tokenizer *tokenizer);
bool peft__tokenizer_adds_eos(const peft_tokenizer *tokenizer);
/* Number of tokens that PEFT_ENCODE_SPECIAL adds to one text or to a pair. */
int64_t peft__tokenizer_added(const peft_tokenizer *tokenizer, bool pair);
/* The Jinja text found beside the tokenizer, or NULL. */
const char *peft__tokenizer_chat_template(const peft_tokenizer *tokenizer);

/* ---- encoding ---------------------------------------------------------------------------------------- */

/* One row a token. Arrays are owned by the encoding; init once, use for many calls, free once. */
typedef struct peft__encoding {
    peft__mem *mem;
    int32_t *ids;
    int32_t *types;  /* token type ids (BERT's segments); 0 where the template says nothing */
    uint32_t *begin; /* the token covers bytes [begin, end) of its text; 0, 0 for tokens of the template */
    uint32_t *end;
    uint8_t *special; /* 1: put there by the template, not by the text */
    uint8_t *source;  /* 0 first text, 1 second text; of template tokens: 0 */
    int64_t count, capacity;
} peft__encoding;

void peft__encoding_init(peft__encoding *encoding, peft__mem *mem);
void peft__encoding_free(peft__encoding *encoding);

/* flags: PEFT_ENCODE_* of the public header. `text` is UTF-8 (PEFT_E_FORMAT with the offset otherwise), at most
 * 1 GiB. On failure the encoding's content is not defined. */
peft_status peft__encode(peft_context *ctx, const peft_tokenizer *tokenizer, const char *text, size_t length,
                         uint32_t flags, peft__encoding *out);

/* `second` NULL: one text. `max_length` counts the tokens of the template too; 0 = no limit. `truncation` is
 * PEFT_TRUNCATE_*; with PEFT_TRUNCATE_NONE a longer result is PEFT_E_LIMIT. The second text goes where the template
 * has B; without a template the two follow each other with types 0 and 1. */
peft_status peft__encode_pair(peft_context *ctx, const peft_tokenizer *tokenizer, const char *first,
                              size_t first_length, const char *second, size_t second_length, uint32_t flags,
                              int64_t max_length, int32_t truncation, peft__encoding *out);

/* Puts the text of `ids` into `out` (cleared first). Bytes that form no character become U+FFFD. An id that the
 * tokenizer does not have is PEFT_E_ARG. */
peft_status peft__decode(peft_context *ctx, const peft_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                         bool skip_special, peft__buffer *out);

#endif
