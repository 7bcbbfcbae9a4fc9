/* split.c: the pre-tokenizers of tokenizer.json: where words end.
 *
 * Each of them says which ranges of a piece "match"; what happens to matches and to what lies between them is one
 * `behavior` for all. Cutting by characters and cutting by patterns only differ in how the ranges are found.
 */
#include "text/pipeline.h"

const char peft__gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* Joins ranges, alternating between matches and gaps as they come, to pieces. */
typedef struct cutter {
    peft__pieces *out;
    peft__behavior behavior;
    size_t from, to; /* range that may still grow; empty when from == to */
    bool pending, last_match, pending_match;
} cutter;

static void flush(cutter *cut) {
    if (cut->pending) peft__pieces_add(cut->out, cut->from, cut->to, -1);
    cut->pending = false;
}

static void hold(cutter *cut, size_t from, size_t to, bool match) {
    flush(cut);
    cut->from = from;
    cut->to = to;
    cut->pending = true;
    cut->pending_match = match;
}

/* Ranges come in order and touch each other; empty ones (empty matches) cut but leave nothing. */
static void range(cutter *cut, size_t from, size_t to, bool match) {
    switch (cut->behavior) {
    case PEFT__REMOVED:
        if (!match) peft__pieces_add(cut->out, from, to, -1);
        break;
    case PEFT__ISOLATED:
        peft__pieces_add(cut->out, from, to, -1);
        break;
    case PEFT__CONTIGUOUS:
        if (cut->pending && match == cut->last_match)
            cut->to = to;
        else
            hold(cut, from, to, match);
        break;
    case PEFT__MERGED_WITH_PREVIOUS: /* a match joins what stands before it, unless that ends in a match */
        if (match && !cut->last_match && cut->pending)
            cut->to = to;
        else
            hold(cut, from, to, match);
        break;
    case PEFT__MERGED_WITH_NEXT: /* a match waits for the text after it; a second match starts anew */
        if (cut->pending && cut->pending_match && !match) {
            cut->to = to;
            cut->pending_match = false;
        } else {
            hold(cut, from, to, match);
        }
        break;
    }
    cut->last_match = match;
}

static peft_status by_pattern(peft__encoder *encoder, const peft__pattern *pattern, peft__behavior behavior,
                              bool invert, const peft__piece *piece) {
    const char *text = encoder->now.data + piece->from;
    const size_t length = piece->to - piece->from, base = piece->from;
    cutter cut = {.out = &encoder->next, .behavior = behavior};
    size_t done = 0, start = 0, last = SIZE_MAX; /* last: end of the match before */
    while (start < length) {
        bool found;
        size_t a, b;
        PEFT_TRY(peft__pattern_next(encoder, pattern, text, length, start, &found, &a, &b));
        if (!found) break;
        start = b;
        if (a == b) { /* an empty match cuts nothing off; go one character on */
            if (a >= length) break;
            size_t bytes;
            peft__char_at(text + a, length - a, &bytes);
            start = a + bytes;
            if (a == last) continue; /* none right after a match */
        }
        last = b;
        if (a > done) range(&cut, base + done, base + a, invert);
        range(&cut, base + a, base + b, !invert);
        done = b;
    }
    if (done < length) range(&cut, base + done, base + length, invert);
    flush(&cut);
    return PEFT_OK;
}

typedef int (*class_fn)(uint32_t c); /* a number a class; 0 is not a match */

/* Every character of class != 0 is a match of its own. */
static void by_class(peft__encoder *encoder, class_fn is_match, peft__behavior behavior, const peft__piece *piece) {
    const char *data = encoder->now.data;
    cutter cut = {.out = &encoder->next, .behavior = behavior};
    size_t done = piece->from;
    for (size_t at = piece->from; at < piece->to;) {
        size_t bytes;
        const uint32_t c = peft__char_at(data + at, piece->to - at, &bytes);
        if (is_match(c)) {
            if (at > done) range(&cut, done, at, false);
            range(&cut, at, at + bytes, true);
            done = at + bytes;
        }
        at += bytes;
    }
    if (done < piece->to) range(&cut, done, piece->to, false);
    flush(&cut);
}

static int class_numeric(uint32_t c) {
    return peft__is_numeric(c);
}
static int class_space(uint32_t c) {
    return peft__is_space(c);
}
static int class_punctuation(uint32_t c) {
    return peft__is_ascii_punctuation(c) || peft__is_punctuation(c);
}
static int class_word(uint32_t c) {
    return peft__is_word(c) ? 1 : peft__is_space(c) ? 0 : 2;
}

/* BERT: spaces go, punctuation stands alone. One pass gives what its two give. */
static void split_bert(peft__encoder *encoder, const peft__piece *piece) {
    const char *data = encoder->now.data;
    size_t start = piece->from;
    for (size_t at = piece->from; at < piece->to;) {
        size_t bytes;
        const uint32_t c = peft__char_at(data + at, piece->to - at, &bytes);
        const bool space = peft__is_space(c);
        if (space || class_punctuation(c)) {
            peft__pieces_add(&encoder->next, start, at, -1);
            if (!space) peft__pieces_add(&encoder->next, at, at + bytes, -1);
            start = at + bytes;
        }
        at += bytes;
    }
    peft__pieces_add(&encoder->next, start, piece->to, -1);
}

/* Runs of one class; class 0 goes. */
static void split_runs(peft__encoder *encoder, class_fn class_of, const peft__piece *piece) {
    const char *data = encoder->now.data;
    size_t start = piece->from;
    int last = 0;
    for (size_t at = piece->from; at < piece->to;) {
        size_t bytes;
        const int class = class_of(peft__char_at(data + at, piece->to - at, &bytes));
        if (class != last) {
            if (last != 0) peft__pieces_add(&encoder->next, start, at, -1);
            start = at;
            last = class;
        }
        at += bytes;
    }
    if (last != 0) peft__pieces_add(&encoder->next, start, piece->to, -1);
}

static void split_fixed(peft__encoder *encoder, size_t length, const peft__piece *piece) {
    size_t start = piece->from, count = 0;
    for (size_t at = piece->from; at < piece->to;) {
        size_t bytes;
        peft__char_at(encoder->now.data + at, piece->to - at, &bytes);
        at += bytes;
        if (++count == length) {
            peft__pieces_add(&encoder->next, start, at, -1);
            start = at;
            count = 0;
        }
    }
    peft__pieces_add(&encoder->next, start, piece->to, -1);
}

/* Puts `text` before a piece, as if it came from the piece's first character. */
static void prepend(peft__encoder *encoder, const char *text, size_t length, const peft__piece *piece) {
    const peft__pieces *now = &encoder->now;
    size_t bytes;
    peft__char_at(now->data + piece->from, piece->to - piece->from, &bytes);
    peft__pieces_put(&encoder->next, text, length, now->begin[piece->from], now->end[piece->from + bytes - 1]);
}

/* Spaces become the replacement, and one is put in front where the scheme says so. */
static void metaspace(peft__encoder *encoder, const peft__splitter *splitter, const peft__piece *piece) {
    const peft__pieces *now = &encoder->now;
    const char *mark = splitter->replacement;
    const size_t mark_length = splitter->replacement_length, length = piece->to - piece->from;
    const char *text = now->data + piece->from;
    const bool starts = text[0] == ' ' || (length >= mark_length && memcmp(text, mark, mark_length) == 0);
    if (!starts && (splitter->prepend == 2 || (splitter->prepend == 1 && now->begin[piece->from] == 0)))
        prepend(encoder, mark, mark_length, piece);
    size_t done = piece->from;
    for (size_t at = piece->from; at < piece->to; at++)
        if (now->data[at] == ' ') {
            peft__pieces_copy(&encoder->next, now, done, at);
            peft__pieces_put(&encoder->next, mark, mark_length, now->begin[at], now->end[at]);
            done = at + 1;
        }
    peft__pieces_copy(&encoder->next, now, done, piece->to);
}

static void byte_level(peft__encoder *encoder, const peft__piece *piece) {
    const peft__pieces *now = &encoder->now;
    for (size_t at = piece->from; at < piece->to; at++) {
        char utf8[4];
        const size_t n = peft__utf8_encode(peft__byte_to_char((uint8_t)now->data[at]), utf8);
        peft__pieces_put(&encoder->next, utf8, n, now->begin[at], now->end[at]);
    }
}

typedef enum pass { PASS_PREFIX, PASS_CUT, PASS_REWRITE } pass;

/* One pass over all pieces. PASS_CUT leaves the bytes as they are and only makes new pieces. */
static peft_status run(peft__encoder *encoder, const peft__splitter *splitter, pass what) {
    const peft__pieces *now = &encoder->now;
    peft__pieces *next = &encoder->next;
    peft__pieces_clear(next);
    for (size_t i = 0; i < now->count; i++) {
        const peft__piece piece = now->pieces[i];
        if (what == PASS_CUT) {
            if (piece.token >= 0) {
                peft__pieces_add(next, piece.from, piece.to, piece.token);
                continue;
            }
            switch (splitter->kind) {
            case PEFT__SPLIT_BYTE_LEVEL:
                PEFT_TRY(by_pattern(encoder, &splitter->pattern, PEFT__ISOLATED, false, &piece));
                break;
            case PEFT__SPLIT_PATTERN:
                PEFT_TRY(by_pattern(encoder, &splitter->pattern, splitter->behavior, splitter->invert, &piece));
                break;
            case PEFT__SPLIT_METASPACE:
                PEFT_TRY(by_pattern(encoder, &splitter->pattern, PEFT__MERGED_WITH_NEXT, false, &piece));
                break;
            case PEFT__SPLIT_DIGITS:
                by_class(encoder, class_numeric, splitter->individual ? PEFT__ISOLATED : PEFT__CONTIGUOUS, &piece);
                break;
            case PEFT__SPLIT_WHITESPACE_ONLY:
                by_class(encoder, class_space, PEFT__REMOVED, &piece);
                break;
            case PEFT__SPLIT_PUNCTUATION:
                by_class(encoder, class_punctuation, splitter->behavior, &piece);
                break;
            case PEFT__SPLIT_BERT:
                split_bert(encoder, &piece);
                break;
            case PEFT__SPLIT_WHITESPACE:
                split_runs(encoder, class_word, &piece);
                break;
            case PEFT__SPLIT_FIXED:
                split_fixed(encoder, splitter->fixed, &piece);
                break;
            }
            continue;
        }
        if (piece.token >= 0) {
            peft__pieces_copy(next, now, piece.from, piece.to);
        } else if (what == PASS_PREFIX) {
            if (now->data[piece.from] != ' ') prepend(encoder, " ", 1, &piece);
            peft__pieces_copy(next, now, piece.from, piece.to);
        } else if (splitter->kind == PEFT__SPLIT_METASPACE) {
            metaspace(encoder, splitter, &piece);
        } else {
            byte_level(encoder, &piece);
        }
        peft__pieces_close(next, piece.token);
    }
    return what == PASS_CUT ? peft__pieces_adopt(encoder) : peft__pieces_check(encoder);
}

peft_status peft__split(peft__encoder *encoder, const peft__splitter *splitter) {
    switch (splitter->kind) {
    case PEFT__SPLIT_BYTE_LEVEL:
        if (splitter->add_prefix_space) PEFT_TRY(run(encoder, splitter, PASS_PREFIX));
        if (splitter->use_pattern) PEFT_TRY(run(encoder, splitter, PASS_CUT));
        return run(encoder, splitter, PASS_REWRITE);
    case PEFT__SPLIT_METASPACE:
        PEFT_TRY(run(encoder, splitter, PASS_REWRITE));
        return splitter->split ? run(encoder, splitter, PASS_CUT) : PEFT_OK;
    default:
        return run(encoder, splitter, PASS_CUT);
    }
}
