/* text.c: UTF-8 and names. */
#include "base/base.h"

#define LONGEST_NAME 128

size_t peft__utf8_decode(const char *text, size_t length, uint32_t *out_code_point) {
    if (length == 0) return 0;
    const uint8_t *bytes = (const uint8_t *)text;
    const uint8_t first = bytes[0];
    if (first < 0x80) {
        *out_code_point = first;
        return 1;
    }
    const size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || size > length) return 0;
    uint32_t code_point = first & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((bytes[i] & 0xc0) != 0x80) return 0;
        code_point = code_point << 6 | (bytes[i] & 0x3fu);
    }
    /* Longer than needed, a surrogate, or beyond the last plane. */
    if ((size == 3 && code_point < 0x800) || (size == 4 && code_point < 0x10000) || code_point > 0x10ffff ||
        (code_point >= 0xd800 && code_point <= 0xdfff))
        return 0;
    *out_code_point = code_point;
    return size;
}

size_t peft__utf8_encode(uint32_t code_point, char out[4]) {
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    if (code_point > 0x10ffff || (code_point >= 0xd800 && code_point <= 0xdfff)) return 0;
    const size_t size = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    for (size_t i = size - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code_point & 0x3f));
        code_point >>= 6;
    }
    out[0] = (char)((0xf00u >> size & 0xffu) | code_point);
    return size;
}

bool peft__utf8_valid(const char *text, size_t length) {
    for (size_t at = 0; at < length;) {
        uint32_t code_point;
        const size_t size = peft__utf8_decode(text + at, length - at, &code_point);
        if (size == 0) return false;
        at += size;
    }
    return true;
}

/* Bytes that the character starting with `first` should have. */
static size_t promised_size(uint8_t first) {
    return first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc2 ? 2 : 1;
}

void peft__utf8_tidy(char *text) {
    const size_t length = strlen(text);
    for (size_t at = 0; at < length;) {
        uint32_t code_point = 0;
        const size_t size = peft__utf8_decode(text + at, length - at, &code_point);
        if (size == 0) {
            /* Cut by the end of the text, if all that is there are continuations. */
            size_t rest = at + 1;
            while (rest < length && ((uint8_t)text[rest] & 0xc0) == 0x80) rest++;
            if (rest == length && promised_size((uint8_t)text[at]) > length - at) {
                text[at] = '\0';
                return;
            }
            text[at++] = '?';
        } else {
            if (code_point < 0x20 || code_point == 0x7f)
                text[at] = code_point == '\n' || code_point == '\t' ? ' ' : '?';
            at += size;
        }
    }
}

/* ---- names ------------------------------------------------------------------------------------------------- */

static char fold(char letter) {
    if (letter >= 'A' && letter <= 'Z') return (char)(letter - 'A' + 'a');
    return letter == '-' ? '_' : letter;
}

/* Insertions, deletions and replacements between the names; case and '-' against '_' count nothing. */
static size_t edit_distance(const char *a, size_t a_length, const char *b, size_t b_length) {
    size_t row[LONGEST_NAME + 1];
    for (size_t j = 0; j <= b_length; j++) row[j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            const size_t replaced = diagonal + (fold(a[i - 1]) != fold(b[j - 1]) ? 1 : 0);
            diagonal = row[j];
            row[j] = peft__min_size(replaced, peft__min_size(row[j], row[j - 1]) + 1);
        }
    }
    return row[b_length];
}

const char *peft__closest(const char *name, const char *const *names, size_t count) {
    const size_t length = strlen(name);
    if (length > LONGEST_NAME) return NULL;
    const char *best = NULL;
    size_t best_distance = (length + 1) / 3 + 1; /* a third of the letters may be wrong */
    for (size_t i = 0; i < count; i++) {
        if (names[i] == NULL) continue;
        const size_t other = strlen(names[i]);
        if (other > LONGEST_NAME) continue;
        const size_t distance = edit_distance(name, length, names[i], other);
        if (distance < best_distance) {
            best = names[i];
            best_distance = distance;
        }
    }
    return best;
}

bool peft__module_suffix(const char *path, const char *suffix) {
    const size_t path_length = strlen(path), length = strlen(suffix);
    if (length > path_length || strcmp(path + (path_length - length), suffix) != 0) return false;
    return length == path_length || (length != 0 && path[path_length - length - 1] == '.');
}
