/* gguf_config.h: what every architecture needs to turn a GGUF file's metadata into the config.json of Hugging Face. */
#ifndef PEFT_MODEL_GGUF_CONFIG_H
#define PEFT_MODEL_GGUF_CONFIG_H

#include "format/gguf.h"
#include "model/model.h"

enum { PEFT__GGUF_KEY_BYTES = 160 };

typedef struct peft__gguf_reader {
    peft_context *ctx;
    const peft__gguf *gguf;
    json_t *config;
    const char *arch; /* prefix of the file's keys */
} peft__gguf_reader;

/* "<arch>.<key>" */
const char *peft__gguf_key(const peft__gguf_reader *r, const char *key, char buffer[PEFT__GGUF_KEY_BYTES]);
/* Takes over the reference to `value`; NULL is being out of memory. */
peft_status peft__gguf_put(const peft__gguf_reader *r, json_t *object, const char *key, json_t *value);
/* `fallback` < 0: the key must be there. Written to the config under `name`. */
peft_status peft__gguf_copy_int(const peft__gguf_reader *r, const char *key, const char *name, int64_t fallback);
peft_status peft__gguf_copy_float(const peft__gguf_reader *r, const char *key, const char *name, double fallback);
/* A float32 as the shortest decimal that reads back as the same float: 1e-05, not 9.999999747378752e-06. */
double peft__gguf_tidy(double value);
peft_status peft__gguf_copy_token_ids(const peft__gguf_reader *r);
/* vocab_size and tie_word_embeddings, from the tensors. */
peft_status peft__gguf_copy_vocabulary(const peft__gguf_reader *r);
/* "architectures": ["<prefix><suffix>"] */
peft_status peft__gguf_put_class(const peft__gguf_reader *r, const char *prefix, const char *suffix);

/* The rest of a Hugging Face name after "<layers>N.", and N; NULL for other names. */
const char *peft__gguf_split_layer(const char *name, const char *layers, long long *out_layer);

/* Beginnings of names in Hugging Face and in GGUF. */
typedef struct peft__gguf_rename {
    const char *name, *stored;
} peft__gguf_rename;
/* `name` with its beginning exchanged, after a text in front; NULL when no row fits. */
char *peft__gguf_renamed(peft__arena *arena, const char *front, const peft__gguf_rename *rows, size_t count,
                         const char *name);

#endif
