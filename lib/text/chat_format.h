/* chat_format.h: a chat format as data. chat_preset.c fills it in, chat.c renders it. */
#ifndef PEFT_TEXT_CHAT_FORMAT_H
#define PEFT_TEXT_CHAT_FORMAT_H

#include "text/chat.h"

typedef enum peft__chat_role { PEFT__ROLE_SYSTEM, PEFT__ROLE_USER, PEFT__ROLE_ASSISTANT } peft__chat_role;

enum {
    PEFT__CHAT_TRIM = 1,           /* contents lose the spaces around them */
    PEFT__CHAT_SYSTEM_IN_USER = 2, /* the system message is put into the first user message, between its own affixes */
    PEFT__CHAT_ALTERNATE = 4,      /* user and assistant take turns, the user begins */
    PEFT__CHAT_EOS_AT_END = 8,     /* a text without generation prompt ends with the eos token */
    PEFT__CHAT_THINK = 16,         /* the last answer has an (empty) block of thoughts: Qwen3 */
    PEFT__CHAT_SYSTEM_ALWAYS = 32, /* the system block is written even without a message */
    PEFT__CHAT_SYSTEM_LAST = 64    /* with SYSTEM_IN_USER: into the last user message instead (Mistral v0.3) */
};

/* {bos} and {eos} stand for the tokenizer's tokens. `lead` comes between the generation prompt and the content: it is
 * part of what the model writes. The part of an assistant's suffix up to its last non-space is the end-of-turn mark. */
typedef struct peft__chat_affix {
    const char *prefix, *lead, *suffix;
} peft__chat_affix;

typedef struct peft__chat_format {
    const char *name;
    const char *start;
    peft__chat_affix roles[3];
    const char *default_system; /* NULL: none */
    uint32_t flags;
} peft__chat_format;

extern const peft__chat_format peft__chat_presets[];
extern const size_t peft__chat_preset_count;

/* The preset that a Jinja text is, with the differences found in it; texts that differ are made in `arena`.
 * False: not recognised, *out_why says what is in the way. False and *out_why NULL: no memory. */
bool peft__chat_recognise(const char *jinja, peft__arena *arena, peft__chat_format *out, const char **out_why);

#endif
