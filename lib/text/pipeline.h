/* pipeline.h: the stages between a text and its token ids.
 *
 *   text -> added tokens cut out -> normalizers -> added tokens cut out -> splitters -> model -> template
 *
 * The state between two stages is one run of bytes, the range of the original text that each byte came from, and the
 * pieces into which the bytes are cut. A stage that rewrites text writes a new run; a stage that only cuts writes new
 * pieces. So offsets need no thought anywhere else, and a stage is a few lines.
 */
#ifndef PEFT_TEXT_PIPELINE_H
#define PEFT_TEXT_PIPELINE_H

#include "base/base.h"
#include "text/regex.h"
#include "text/tokenizer.h"
#include "text/trie.h"
#include "text/unicode.h"

/* ---- pieces.c ------------------------------------------------------------------------------------------ */

typedef struct peft__piece {
    uint32_t from, to; /* bytes of the run */
    int32_t token;     /* an added token, or -1: text for the next stage */
} peft__piece;

/* Bytes [from, to) of the run are covered by pieces in order; bytes between pieces are dropped. Running out of
 * memory sets `failed` and is looked at after each stage. */
typedef struct peft__pieces {
    peft__mem *mem;
    char *data;
    uint32_t *begin, *end; /* by byte: where it came from */
    size_t length, capacity;
    peft__piece *pieces;
    size_t count, piece_capacity;
    size_t open; /* first byte of the piece that is being written */
    bool failed;
} peft__pieces;

void peft__pieces_init(peft__pieces *pieces, peft__mem *mem);
void peft__pieces_free(peft__pieces *pieces);
void peft__pieces_clear(peft__pieces *pieces);
/* Appends bytes that all came from [begin, end). */
void peft__pieces_put(peft__pieces *pieces, const char *data, size_t length, uint32_t begin, uint32_t end);
/* Appends bytes [from, to) of another run with their origins. */
void peft__pieces_copy(peft__pieces *pieces, const peft__pieces *other, size_t from, size_t to);
/* Ends the piece being written; an empty one leaves nothing. */
void peft__pieces_close(peft__pieces *pieces, int32_t token);
/* Adds a piece over bytes that are already there; empty ones are left out. */
void peft__pieces_add(peft__pieces *pieces, size_t from, size_t to, int32_t token);

/* ---- what one call of encode holds ----------------------------------------------------------------------- */

typedef struct peft__symbol {
    int32_t id; /* -1: merged away */
    uint32_t from, to;
    int32_t before, after; /* neighbours, -1 at the ends */
} peft__symbol;

typedef struct peft__merge {
    uint32_t rank, at;
    int32_t id;
} peft__merge;

typedef struct peft__step { /* best way to reach a byte position */
    double score;
    uint32_t from;
    int32_t id; /* -1: not reached, -2: unknown character */
} peft__step;

typedef struct peft__word_entry {
    uint8_t length, count; /* length 0: empty */
    char word[30];
    uint8_t ends[8];
    int32_t ids[8];
} peft__word_entry;

enum { PEFT__WORD_CACHE = 4096 };

typedef struct peft__encoder {
    peft_context *ctx;
    const peft_tokenizer *tokenizer;
    peft__pieces now, next;
    peft__matcher matcher;
    peft__chars chars;
    peft__buffer bytes;
    peft__symbol *symbols;
    size_t symbol_capacity;
    peft__merge *heap;
    size_t heap_count, heap_capacity;
    peft__step *steps;
    size_t step_capacity;
    peft__word_entry *words; /* texts long enough to repeat themselves have a cache of words, else NULL */
    peft__encoding *out;
} peft__encoder;

/* `memory` with room for count > 0 elements of `size`, maybe at another place; NULL: no memory, nothing changed. */
void *peft__grow(peft__mem *mem, void *memory, size_t *capacity, size_t count, size_t size);
/* Adds a token over bytes [from, to) of encoder->now. */
peft_status peft__emit(peft__encoder *encoder, int32_t id, size_t from, size_t to);
/* End of a stage: encoder->next becomes now, text and pieces; or only its pieces, over the same text. */
peft_status peft__pieces_check(peft__encoder *encoder);
peft_status peft__pieces_adopt(peft__encoder *encoder);

/* ---- patterns: literal text or expression ------------------------------------------------------------------ */

typedef struct peft__pattern {
    bool is_regex;
    peft__regex regex;
    const char *literal;
    size_t literal_length;
} peft__pattern;

peft_status peft__pattern_next(peft__encoder *encoder, const peft__pattern *pattern, const char *text, size_t length,
                               size_t start, bool *out_found, size_t *out_from, size_t *out_to);

/* ---- normalize.c --------------------------------------------------------------------------------------------- */

typedef enum peft__normalizer_kind {
    PEFT__NORM_CLEAN,            /* BERT: no control characters, every space a plain one */
    PEFT__NORM_CHINESE,          /* BERT: spaces around ideographs */
    PEFT__NORM_STRIP_NONSPACING, /* BERT: no Mn */
    PEFT__NORM_LOWERCASE,
    PEFT__NORM_FORM, /* NFC .. NFKD */
    PEFT__NORM_STRIP_ACCENTS,
    PEFT__NORM_NMT,
    PEFT__NORM_STRIP,
    PEFT__NORM_REPLACE,
    PEFT__NORM_PREPEND,
    PEFT__NORM_PRECOMPILED,
    PEFT__NORM_BYTE_LEVEL
} peft__normalizer_kind;

typedef struct peft__normalizer {
    peft__normalizer_kind kind;
    peft__form form;
    bool left, right;      /* strip */
    peft__pattern pattern; /* replace */
    const char *content;   /* replace, prepend */
    size_t content_length;
    const uint8_t *charsmap; /* precompiled */
    size_t charsmap_size;
} peft__normalizer;

peft_status peft__normalize(peft__encoder *encoder, const peft__normalizer *normalizer);
/* The blob of a Precompiled normalizer: are its sizes those of a map? */
bool peft__charsmap_valid(const uint8_t *map, size_t size);

/* ---- split.c --------------------------------------------------------------------------------------------------- */

typedef enum peft__splitter_kind {
    PEFT__SPLIT_BYTE_LEVEL,
    PEFT__SPLIT_PATTERN,
    PEFT__SPLIT_DIGITS,
    PEFT__SPLIT_METASPACE,
    PEFT__SPLIT_BERT,
    PEFT__SPLIT_WHITESPACE,      /* runs of \w and runs of other non-spaces */
    PEFT__SPLIT_WHITESPACE_ONLY, /* at spaces */
    PEFT__SPLIT_PUNCTUATION,
    PEFT__SPLIT_FIXED
} peft__splitter_kind;

typedef enum peft__behavior {
    PEFT__REMOVED,
    PEFT__ISOLATED,
    PEFT__MERGED_WITH_PREVIOUS,
    PEFT__MERGED_WITH_NEXT,
    PEFT__CONTIGUOUS
} peft__behavior;

typedef struct peft__splitter {
    peft__splitter_kind kind;
    peft__behavior behavior;
    peft__pattern pattern; /* also GPT-2's, where byte_level uses it */
    bool invert;
    bool add_prefix_space;   /* byte_level */
    bool use_pattern;        /* byte_level */
    bool split;              /* metaspace */
    int prepend;             /* metaspace: 0 never, 1 first, 2 always */
    const char *replacement; /* metaspace */
    size_t replacement_length;
    bool individual; /* digits */
    size_t fixed;    /* characters */
} peft__splitter;

peft_status peft__split(peft__encoder *encoder, const peft__splitter *splitter);
extern const char peft__gpt2_pattern[];

/* ---- bytelevel.c: bytes spelt as printable characters ------------------------------------------------------------ */

uint32_t peft__byte_to_char(uint8_t byte);
int peft__char_to_byte(uint32_t c); /* -1: not one of them */

/* ---- added.c ------------------------------------------------------------------------------------------------ */

typedef struct peft__added {
    const char *content;
    size_t length;
    int32_t id;
    bool special, normalized, lstrip, rstrip, single_word;
} peft__added;

/* Cuts out the tokens of `trie` (values index tokenizer->added). */
peft_status peft__cut_added(peft__encoder *encoder, const peft__trie *trie, bool parse_special);

/* ---- models ------------------------------------------------------------------------------------------------- */

typedef enum peft__model_kind {
    PEFT__MODEL_BPE,
    PEFT__MODEL_WORDPIECE,
    PEFT__MODEL_UNIGRAM,
    PEFT__MODEL_WORDLEVEL
} peft__model_kind;

typedef struct peft__model_data {
    peft__model_kind kind;
    const char *unk; /* text of the unknown token; NULL: none */
    int32_t unk_id;  /* -1: none */
    /* bpe */
    peft__pairs merges; /* left << 32 | right -> rank << 32 | id */
    bool fuse_unk, ignore_merges, has_prefix, has_suffix;
    bool byte_fallback;    /* and unigram */
    int32_t byte_ids[256]; /* of <0xHH>, -1 */
    int32_t low_ids[512];  /* of single characters below U+0200, -1: the common case without hashing */
    /* bpe, wordpiece: also continuing_subword_prefix and end_of_word_suffix */
    const char *prefix, *suffix;
    size_t prefix_length, suffix_length;
    /* wordpiece */
    size_t max_chars;
    peft__trie words, rests; /* word starts; continuations without their prefix; unigram uses words */
    /* unigram */
    double *scores;
    double min_score;
} peft__model_data;

peft_status peft__bpe(peft__encoder *encoder, size_t from, size_t to);
peft_status peft__wordpiece(peft__encoder *encoder, size_t from, size_t to);
peft_status peft__unigram(peft__encoder *encoder, size_t from, size_t to);
peft_status peft__wordlevel(peft__encoder *encoder, size_t from, size_t to);

/* ---- template ----------------------------------------------------------------------------------------------- */

typedef struct peft__template_item {
    int32_t id; /* of a token, or -1: the first text, -2: the second */
    int32_t type;
} peft__template_item;

typedef struct peft__template {
    peft__template_item *items;
    size_t count;
} peft__template;

/* ---- decode.c ----------------------------------------------------------------------------------------------- */

typedef enum peft__decoder_kind {
    PEFT__DECODE_BYTE_LEVEL,
    PEFT__DECODE_WORDPIECE,
    PEFT__DECODE_METASPACE,
    PEFT__DECODE_BYTE_FALLBACK,
    PEFT__DECODE_FUSE,
    PEFT__DECODE_STRIP,
    PEFT__DECODE_REPLACE,
    PEFT__DECODE_BPE,
    PEFT__DECODE_CTC
} peft__decoder_kind;

typedef struct peft__decoder {
    peft__decoder_kind kind;
    peft__pattern pattern; /* replace */
    const char *text;      /* prefix, replacement, suffix, content, pad token */
    size_t text_length;
    const char *delimiter; /* ctc */
    size_t delimiter_length;
    bool cleanup, prepends;
    size_t start, stop; /* strip */
} peft__decoder;

/* ---- the tokenizer ------------------------------------------------------------------------------------------ */

typedef struct peft__token_text {
    const char *text;  /* NULL: hole */
    const char *shown; /* what decoding starts from: of added tokens the normalised form, as the reference has it */
    uint32_t length, shown_length;
    bool special;
} peft__token_text;

enum { PEFT__TOKEN_LIMIT = 1 << 22, PEFT__SPECIAL_KINDS = 7 };

struct peft_tokenizer {
    peft_context *ctx; /* referenced */
    peft__mem *mem;
    atomic_int references;
    peft__arena arena; /* all texts and small arrays */
    pcre2_general_context *memory;

    peft__table vocab; /* of the model */
    peft__table added_by_text;
    peft__token_text *tokens; /* by id */
    size_t size, token_capacity;
    peft__added *added;
    size_t added_count, added_capacity;
    peft__trie added_plain, added_normalized;

    peft__normalizer *normalizers;
    size_t normalizer_count;
    peft__splitter *splitters;
    size_t splitter_count;
    peft__model_data model;
    peft__template single, pair;
    bool trim_offsets;
    peft__decoder *decoders;
    size_t decoder_count;
    bool has_decoder;

    int32_t special[PEFT__SPECIAL_KINDS];
    const char *chat_template;
};

/* ---- build.c: what both readers use ------------------------------------------------------------------------- */

peft_status peft__tokenizer_new(peft_context *ctx, peft_tokenizer **out);
peft_status peft__tokenizer_nomem(peft_context *ctx);
/* Copies the text. A second token with the same text keeps the first id unless `replace`. */
peft_status peft__add_vocab(peft_context *ctx, peft_tokenizer *tokenizer, const char *text, size_t length, int64_t id,
                            bool replace);
peft_status peft__add_added(peft_context *ctx, peft_tokenizer *tokenizer, const peft__added *added);
peft_status peft__add_merge(peft_context *ctx, peft_tokenizer *tokenizer, const char *left, size_t left_length,
                            const char *right, size_t right_length, uint32_t rank);
/* "a b" cut at its first space after the first byte. */
peft_status peft__add_merge_text(peft_context *ctx, peft_tokenizer *tokenizer, const char *text, size_t length,
                                 uint32_t rank);
/* Arrays in the arena, cleared. */
void *peft__tokenizer_array(peft_tokenizer *tokenizer, size_t count, size_t size);
peft_status peft__set_regex(peft_context *ctx, peft_tokenizer *tokenizer, peft__pattern *pattern, const char *text,
                            size_t length);
peft_status peft__set_literal(peft_context *ctx, peft_tokenizer *tokenizer, peft__pattern *pattern, const char *text,
                              size_t length);
/* After vocabulary and merges: lookup tables, tries, added tokens. Nothing may be changed afterwards. */
peft_status peft__tokenizer_seal(peft_context *ctx, peft_tokenizer *tokenizer);
int32_t peft__vocab_id(const peft_tokenizer *tokenizer, const char *text, size_t length); /* of the model; -1 */
/* Where the file names no special tokens: those among the added tokens that have a customary name. */
void peft__guess_special(peft_tokenizer *tokenizer);

#endif
