/* gguf_file.h: what an open GGUF file is, shared by its reader and its getters. */
#ifndef PEFT_FORMAT_GGUF_FILE_H
#define PEFT_FORMAT_GGUF_FILE_H

#include "format/gguf.h"

typedef enum gguf_type {
    GGUF_U8 = 0,
    GGUF_I8 = 1,
    GGUF_U16 = 2,
    GGUF_I16 = 3,
    GGUF_U32 = 4,
    GGUF_I32 = 5,
    GGUF_F32 = 6,
    GGUF_BOOL = 7,
    GGUF_STRING = 8,
    GGUF_ARRAY = 9,
    GGUF_U64 = 10,
    GGUF_I64 = 11,
    GGUF_F64 = 12,
    GGUF_TYPES = 13
} gguf_type;

/* One key. The value was walked through when the file was opened: `count` elements lie at `data` for certain. */
typedef struct gguf_value {
    const char *key;      /* in the arena */
    const uint8_t *start; /* of the stored pair, its key's length first */
    const uint8_t *data;  /* first element; of a string its 8 bytes of length */
    size_t stored;        /* bytes of the stored pair */
    uint32_t type;        /* of the element where it is an array */
    bool is_array;
    size_t count;     /* 1 where it is no array */
    const char *text; /* scalar strings: NUL-terminated copy */
    void *made;       /* array handed out before */
} gguf_value;

struct peft__gguf {
    peft_context *ctx;
    peft__arena arena;
    peft__tensors *tensors;
    const char *file;
    gguf_value *values;
    size_t value_count;
    peft__table keys;
};

/* Bytes of one element; 0 for strings, arrays and unknown types. */
size_t peft__gguf_type_size(uint32_t type);
const char *peft__gguf_type_name(uint32_t type);
/* The value or NULL. */
const gguf_value *peft__gguf_find(const peft__gguf *gguf, const char *key);

#endif
