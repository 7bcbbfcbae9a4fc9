/* load.h: what the readers of the several file layouts share. */
#ifndef PEFT_TEXT_LOAD_H
#define PEFT_TEXT_LOAD_H

#include <math.h>
#include <stdio.h>

#include "format/json.h"
#include "text/pipeline.h"

/* Each adds one stage at the end of its chain; the new one is cleared. */
peft_status peft__put_normalizer(peft_context *ctx, peft_tokenizer *tokenizer, peft__normalizer **out);
peft_status peft__put_bert_normalizer(peft_context *ctx, peft_tokenizer *tokenizer, bool clean, bool chinese,
                                      bool strip, bool lower);
peft_status peft__put_splitter(peft_context *ctx, peft_tokenizer *tokenizer, peft__splitter_kind kind,
                               peft__splitter **out);
peft_status peft__put_decoder(peft_context *ctx, peft_tokenizer *tokenizer, peft__decoder_kind kind,
                              peft__decoder **out);
/* id of a token, -1: the first text, -2: the second */
peft_status peft__put_template(peft_context *ctx, peft_tokenizer *tokenizer, peft__template *template, int32_t id,
                               int32_t type);
peft_status peft__put_bert_template(peft_context *ctx, peft_tokenizer *tokenizer, int32_t cls, int32_t sep);

/* An added token as tokenizer.json and added_tokens_decoder write it; id -1: it is in the object. */
peft_status peft__read_added(peft_context *ctx, peft_tokenizer *tokenizer, const peft__json *json, int64_t id,
                             const char *where);
/* Everything of a tokenizer.json except sealing. */
peft_status peft__tokenizer_read_json(peft_context *ctx, peft_tokenizer *tokenizer, const void *data, size_t size,
                                      const char *name);

#endif
