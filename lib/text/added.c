/* added.c: cutting added tokens ("<|im_end|>") out of a text before anything else looks at it.
 *
 * The longest token at the leftmost place wins; tokens do not overlap. lstrip and rstrip take the spaces beside a token
 * into it, single_word refuses it inside a word.
 */
#include "text/pipeline.h"

static bool in_word(const char *text, size_t length, size_t from, size_t to) {
    size_t bytes;
    return (from > 0 && peft__is_word(peft__char_before(text, from, &bytes))) ||
           (to < length && peft__is_word(peft__char_at(text + to, length - to, &bytes)));
}

static void cut_piece(peft__encoder *encoder, const peft__trie *trie, const bool *starts, bool parse_special,
                      const peft__piece *piece) {
    const peft_tokenizer *tokenizer = encoder->tokenizer;
    const char *text = encoder->now.data + piece->from;
    const size_t length = piece->to - piece->from;
    size_t done = 0;
    for (size_t at = 0; at < length;) {
        int32_t index = -1;
        const size_t found =
            starts[(unsigned char)text[at]] ? peft__trie_longest(trie, text + at, length - at, &index) : 0;
        if (found == 0) {
            at++;
            continue;
        }
        const peft__added *added = &tokenizer->added[index];
        size_t from = at, to = at + found, bytes;
        at = to;
        if (added->special && !parse_special) continue;
        if (added->single_word && in_word(text, length, from, to)) continue;
        if (from < done) continue; /* spaces that the token before swallowed */
        if (added->lstrip)
            while (from > done && peft__is_space(peft__char_before(text + done, from - done, &bytes))) from -= bytes;
        if (added->rstrip)
            while (to < length && peft__is_space(peft__char_at(text + to, length - to, &bytes))) to += bytes;
        peft__pieces_add(&encoder->next, piece->from + done, piece->from + from, -1);
        peft__pieces_add(&encoder->next, piece->from + from, piece->from + to, added->id);
        done = to;
    }
    peft__pieces_add(&encoder->next, piece->from + done, piece->to, -1);
}

peft_status peft__cut_added(peft__encoder *encoder, const peft__trie *trie, bool parse_special) {
    if (trie->nodes == 0) return PEFT_OK;
    bool starts[256];
    for (int byte = 0; byte < 256; byte++) {
        uint32_t node = 0;
        starts[byte] = peft__trie_step(trie, &node, (unsigned char)byte);
    }
    peft__pieces *now = &encoder->now, *next = &encoder->next;
    peft__pieces_clear(next);
    for (size_t i = 0; i < now->count; i++) {
        const peft__piece piece = now->pieces[i];
        if (piece.token >= 0)
            peft__pieces_add(next, piece.from, piece.to, piece.token);
        else
            cut_piece(encoder, trie, starts, parse_special, &piece);
    }
    return peft__pieces_adopt(encoder);
}
