/* regex.h: the regular expressions of tokenizer.json, on PCRE2.
 *
 * The files are written for Oniguruma. peft__regex_compile rewrites the few constructs whose meaning differs (\s, \w
 * and line anchors) and refuses the ones that PCRE2 would read silently in another way.
 */
#ifndef PEFT_TEXT_REGEX_H
#define PEFT_TEXT_REGEX_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/base.h"

typedef struct peft__regex {
    pcre2_code *code;
} peft__regex;

/* Memory for patterns and matches from our allocator; `mem` must outlive it. NULL when there is none. */
pcre2_general_context *peft__regex_memory(peft__mem *mem);

peft_status peft__regex_compile(peft_context *ctx, pcre2_general_context *memory, const char *pattern, size_t length,
                                peft__regex *out);
void peft__regex_free(peft__regex *regex);

/* What one thread needs to match; made on first use, for any number of patterns. */
typedef struct peft__matcher {
    pcre2_general_context *memory;
    pcre2_match_context *limits;
    pcre2_match_data *data;
} peft__matcher;

void peft__matcher_free(peft__matcher *matcher);

/* The next match in text at or after `start` (a character boundary; the text is valid UTF-8). *out_found false: none.
 * A pattern that needs more steps than any real tokenizer does is PEFT_E_LIMIT. */
peft_status peft__regex_next(peft_context *ctx, const peft__regex *regex, peft__matcher *matcher, const char *text,
                             size_t length, size_t start, bool *out_found, size_t *out_from, size_t *out_to);

#endif
