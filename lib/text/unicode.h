/* unicode.h: what tokenizers need to know about characters, on utf8proc's tables.
 *
 * Text inside the pipeline is always valid UTF-8: it is checked once where it enters, and pieces are cut at character
 * boundaries only. peft__char_at may therefore trust what it reads.
 */
#ifndef PEFT_TEXT_UNICODE_H
#define PEFT_TEXT_UNICODE_H

#include "base/base.h"

/* The character at text[0], length > 0; *out_bytes is what it takes. */
uint32_t peft__char_at(const char *text, size_t length, size_t *out_bytes);
/* The last character of text, length > 0. */
uint32_t peft__char_before(const char *text, size_t length, size_t *out_bytes);
size_t peft__char_count(const char *text, size_t length);

bool peft__is_space(uint32_t c);       /* White_Space */
bool peft__is_word(uint32_t c);        /* \w: letters, marks, decimal digits, connector punctuation, joiners */
bool peft__is_numeric(uint32_t c);     /* Nd, Nl, No */
bool peft__is_punctuation(uint32_t c); /* P* */
bool peft__is_ascii_punctuation(uint32_t c);
bool peft__is_other(uint32_t c);      /* C* : control, format, unassigned, private */
bool peft__is_mark(uint32_t c);       /* Mn, Mc, Me */
bool peft__is_nonspacing(uint32_t c); /* Mn */
bool peft__is_chinese(uint32_t c);    /* the blocks that BERT calls Chinese */

/* Lower case as one or two characters; returns how many. */
size_t peft__lower(uint32_t c, uint32_t out[2]);

/* Does a grapheme cluster end between two characters? *state is 0 at the start of a text. */
bool peft__grapheme_break(uint32_t before, uint32_t after, int32_t *state);

/* Whether text may be cut before `c` without changing its normal forms: nothing that c decomposes into can join or
 * change places with what stands before it. */
bool peft__starts_segment(uint32_t c);

typedef enum peft__form { PEFT__NFC, PEFT__NFD, PEFT__NFKC, PEFT__NFKD } peft__form;

/* A growing row of code points. */
typedef struct peft__chars {
    peft__mem *mem;
    int32_t *data;
    size_t count, capacity;
} peft__chars;

void peft__chars_free(peft__chars *chars);
/* Normal form of one segment; takes time linear in its length, however many marks it stacks. False: no memory. */
bool peft__normal_form(const char *text, size_t length, peft__form form, peft__chars *out);

/* Appends text in which each maximal malformed part is one U+FFFD. */
bool peft__put_lossy(peft__buffer *out, const char *text, size_t length);

#endif
