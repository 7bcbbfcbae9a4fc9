/* normalize.c: the normalizers of tokenizer.json.
 *
 * Most of them look at one character at a time; those share one loop. Where several characters become several others
 * (normal forms, replacements, charsmaps) every new byte comes from the whole range that was replaced.
 */
#include "text/pipeline.h"

/* What one character becomes; returns how many of out[3] are used. */
static size_t map_char(peft__normalizer_kind kind, uint32_t c, uint32_t out[3]) {
    out[0] = c;
    switch (kind) {
    case PEFT__NORM_CLEAN:
        if (peft__is_space(c)) {
            if (c != '\t' && c != '\n' && c != '\r' && peft__is_other(c)) return 0; /* VT, FF, NEL */
            out[0] = ' ';
            return 1;
        }
        return c == 0 || c == 0xFFFD || peft__is_other(c) ? 0 : 1;
    case PEFT__NORM_CHINESE:
        if (!peft__is_chinese(c)) return 1;
        out[0] = out[2] = ' ';
        out[1] = c;
        return 3;
    case PEFT__NORM_STRIP_NONSPACING:
        return peft__is_nonspacing(c) ? 0 : 1;
    case PEFT__NORM_STRIP_ACCENTS:
        return peft__is_mark(c) ? 0 : 1;
    case PEFT__NORM_LOWERCASE:
        return peft__lower(c, out);
    case PEFT__NORM_NMT:
        if ((c >= 1 && c <= 8) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F)
            return 0;
        if (c == 9 || c == 10 || c == 12 || c == 13 || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 ||
            c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD)
            out[0] = ' ';
        return 1;
    default:
        return 1;
    }
}

static void map_chars(peft__encoder *encoder, peft__normalizer_kind kind, size_t from, size_t to) {
    const peft__pieces *now = &encoder->now;
    peft__pieces *next = &encoder->next;
    for (size_t at = from; at < to;) {
        size_t bytes;
        const uint32_t c = peft__char_at(now->data + at, to - at, &bytes);
        uint32_t out[3];
        const size_t count = map_char(kind, c, out);
        if (count == 1 && out[0] == c) {
            peft__pieces_copy(next, now, at, at + bytes);
        } else {
            for (size_t i = 0; i < count; i++) {
                char utf8[4];
                peft__pieces_put(next, utf8, peft__utf8_encode(out[i], utf8), now->begin[at], now->end[at + bytes - 1]);
            }
        }
        at += bytes;
    }
}

static void byte_chars(peft__encoder *encoder, size_t from, size_t to) {
    const peft__pieces *now = &encoder->now;
    for (size_t at = from; at < to; at++) {
        char utf8[4];
        const size_t n = peft__utf8_encode(peft__byte_to_char((uint8_t)now->data[at]), utf8);
        peft__pieces_put(&encoder->next, utf8, n, now->begin[at], now->end[at]);
    }
}

static peft_status normal_form(peft__encoder *encoder, peft__form form, size_t from, size_t to) {
    const peft__pieces *now = &encoder->now;
    for (size_t at = from; at < to;) {
        size_t end = at, bytes;
        const uint32_t first = peft__char_at(now->data + at, to - at, &bytes);
        end += bytes;
        while (end < to && !peft__starts_segment(peft__char_at(now->data + end, to - end, &bytes))) end += bytes;
        if (end == at + 1 && first < 0x80) {
            peft__pieces_copy(&encoder->next, now, at, end);
            at = end;
            continue;
        }
        if (!peft__normal_form(now->data + at, end - at, form, &encoder->chars))
            return peft__fail_nomem(encoder->ctx, end - at, "a normal form");
        peft__buffer_clear(&encoder->bytes);
        for (size_t i = 0; i < encoder->chars.count; i++) {
            char utf8[4];
            peft__buffer_put(&encoder->bytes, utf8, peft__utf8_encode((uint32_t)encoder->chars.data[i], utf8));
        }
        if (encoder->bytes.failed) return peft__fail_nomem(encoder->ctx, end - at, "a normal form");
        const size_t length = encoder->bytes.length;
        if (length == end - at && memcmp(encoder->bytes.data, now->data + at, length) == 0)
            peft__pieces_copy(&encoder->next, now, at, end); /* what did not change keeps the origin of every byte */
        else
            peft__pieces_put(&encoder->next, encoder->bytes.data, length, now->begin[at], now->end[end - 1]);
        at = end;
    }
    return PEFT_OK;
}

static void strip(peft__encoder *encoder, const peft__normalizer *normalizer, size_t from, size_t to) {
    const char *data = encoder->now.data;
    size_t bytes;
    if (normalizer->left)
        while (from < to && peft__is_space(peft__char_at(data + from, to - from, &bytes))) from += bytes;
    if (normalizer->right)
        while (from < to && peft__is_space(peft__char_before(data + from, to - from, &bytes))) to -= bytes;
    peft__pieces_copy(&encoder->next, &encoder->now, from, to);
}

static peft_status replace(peft__encoder *encoder, const peft__normalizer *normalizer, size_t from, size_t to) {
    const peft__pieces *now = &encoder->now;
    const char *text = now->data + from;
    const size_t length = to - from;
    size_t done = 0, start = 0;
    while (start <= length) {
        bool found;
        size_t a, b;
        PEFT_TRY(peft__pattern_next(encoder, &normalizer->pattern, text, length, start, &found, &a, &b));
        if (!found) break;
        peft__pieces_copy(&encoder->next, now, from + done, from + a);
        if (a < length || b > a) {
            const size_t last = b > a ? b - 1 : a;
            peft__pieces_put(&encoder->next, normalizer->content, normalizer->content_length, now->begin[from + a],
                             now->end[from + last]);
        } else if (length > 0) { /* an empty match at the very end */
            peft__pieces_put(&encoder->next, normalizer->content, normalizer->content_length, now->end[to - 1],
                             now->end[to - 1]);
        }
        done = b;
        start = b;
        if (b == a) {
            if (a >= length) break;
            size_t bytes;
            peft__char_at(text + a, length - a, &bytes);
            start = a + bytes;
        }
    }
    peft__pieces_copy(&encoder->next, now, from + done, to);
    return PEFT_OK;
}

/* ---- precompiled charsmap: a double-array trie and the replacements it points to -------------------------- */

static uint32_t load_u32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

bool peft__charsmap_valid(const uint8_t *map, size_t size) {
    if (size < 8) return false;
    const size_t trie = load_u32(map);
    /* replacements end in NUL, so that each of them does */
    return trie >= 4 && trie % 4 == 0 && trie <= size - 4 && (size == 4 + trie || map[size - 1] == 0);
}

static uint32_t unit_offset(uint32_t unit) {
    return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

/* The replacement of the shortest entry that key starts with: that is how the reference library reads the map.
 * NULL when there is none. */
static const char *charsmap_find(const peft__normalizer *normalizer, const char *key, size_t length) {
    const uint8_t *units = normalizer->charsmap + 4;
    const size_t count = load_u32(normalizer->charsmap) / 4;
    const char *texts = (const char *)units + count * 4;
    const size_t texts_size = normalizer->charsmap_size - 4 - count * 4;
    size_t node = unit_offset(load_u32(units));
    for (size_t i = 0; i < length; i++) {
        const uint8_t c = (uint8_t)key[i];
        node ^= c;
        if (c == 0 || node >= count) return NULL;
        const uint32_t unit = load_u32(units + node * 4);
        if ((unit & (1u << 31 | 0xFF)) != c) return NULL;
        node ^= unit_offset(unit);
        if (node >= count) return NULL;
        if (unit & (1u << 8)) {
            const uint32_t value = load_u32(units + node * 4) & 0x7FFFFFFF;
            return value < texts_size ? texts + value : NULL;
        }
    }
    return NULL;
}

/* What a map deletes at the start of a piece counts as part of what follows, so that the piece still begins where it
 * began (a Metaspace with prepend_scheme "first" asks for that). */
static void precompiled(peft__encoder *encoder, const peft__normalizer *normalizer, size_t from, size_t to) {
    const peft__pieces *now = &encoder->now;
    const size_t start = encoder->next.length;
    for (size_t at = from; at < to;) {
        size_t bytes;
        uint32_t c = peft__char_at(now->data + at, to - at, &bytes);
        size_t end = at + bytes;
        int32_t state = 0;
        while (end < to) {
            const uint32_t after = peft__char_at(now->data + end, to - end, &bytes);
            if (peft__grapheme_break(c, after, &state)) break;
            end += bytes;
            c = after;
        }
        const char *text = end - at < 6 ? charsmap_find(normalizer, now->data + at, end - at) : NULL;
        if (text != NULL) {
            peft__pieces_put(&encoder->next, text, strlen(text), now->begin[at], now->end[end - 1]);
            at = end;
        }
        while (at < end) {
            peft__char_at(now->data + at, end - at, &bytes);
            text = charsmap_find(normalizer, now->data + at, bytes);
            if (text != NULL)
                peft__pieces_put(&encoder->next, text, strlen(text), now->begin[at], now->end[at + bytes - 1]);
            else
                peft__pieces_copy(&encoder->next, now, at, at + bytes);
            at += bytes;
        }
    }
    if (encoder->next.length > start && !encoder->next.failed) {
        size_t bytes;
        peft__char_at(encoder->next.data + start, encoder->next.length - start, &bytes);
        for (size_t i = 0; i < bytes; i++) encoder->next.begin[start + i] = now->begin[from];
    }
}

peft_status peft__normalize(peft__encoder *encoder, const peft__normalizer *normalizer) {
    const peft__pieces *now = &encoder->now;
    peft__pieces *next = &encoder->next;
    peft__pieces_clear(next);
    for (size_t i = 0; i < now->count; i++) {
        const peft__piece piece = now->pieces[i];
        if (piece.token >= 0) {
            peft__pieces_copy(next, now, piece.from, piece.to);
            peft__pieces_close(next, piece.token);
            continue;
        }
        switch (normalizer->kind) {
        case PEFT__NORM_FORM:
            PEFT_TRY(normal_form(encoder, normalizer->form, piece.from, piece.to));
            break;
        case PEFT__NORM_STRIP:
            strip(encoder, normalizer, piece.from, piece.to);
            break;
        case PEFT__NORM_REPLACE:
            PEFT_TRY(replace(encoder, normalizer, piece.from, piece.to));
            break;
        case PEFT__NORM_PRECOMPILED:
            precompiled(encoder, normalizer, piece.from, piece.to);
            break;
        case PEFT__NORM_BYTE_LEVEL:
            byte_chars(encoder, piece.from, piece.to);
            break;
        case PEFT__NORM_PREPEND: {
            size_t bytes;
            peft__char_at(now->data + piece.from, piece.to - piece.from, &bytes);
            peft__pieces_put(next, normalizer->content, normalizer->content_length, now->begin[piece.from],
                             now->end[piece.from + bytes - 1]);
            peft__pieces_copy(next, now, piece.from, piece.to);
            break;
        }
        default:
            map_chars(encoder, normalizer->kind, piece.from, piece.to);
        }
        peft__pieces_close(next, -1);
    }
    return peft__pieces_check(encoder);
}
