/* text_stream.h: token ids that arrive one by one, given out as text that is never cut inside a character. */
#ifndef PEFT_TRAIN_TEXT_STREAM_H
#define PEFT_TRAIN_TEXT_STREAM_H

#include "text/tokenizer.h"

typedef struct peft__text_stream {
    peft_context *ctx;
    const peft_tokenizer *tokenizer;
    const char *const *stop; /* texts that end the stream; empty ones are ignored */
    uint32_t stop_count;
    int32_t (*emit)(void *user, const char *text, uint32_t length); /* NULL: only the stop texts matter */
    void *user;
    int64_t context, read; /* ids before `read` are given out; decoding begins at `context` */
    peft__buffer before, all, held;
    bool ended; /* by a stop text or by the host */
} peft__text_stream;

/* `prompt_count` ids precede the text: they are context only. */
void peft__text_stream_init(peft__text_stream *stream, peft_context *ctx, const peft_tokenizer *tokenizer,
                            int64_t prompt_count);
void peft__text_stream_free(peft__text_stream *stream);
/* ids [count]: everything so far, prompt included. `last`: no more will come, what was held back is given out. */
peft_status peft__text_stream_put(peft__text_stream *stream, const int32_t *ids, int64_t count, bool last);
/* The same for text that is there already; put() decodes and calls this. */
peft_status peft__text_stream_text(peft__text_stream *stream, const char *text, size_t length, bool last);

#endif
