/* bytelevel.c: the alphabet of byte-level BPE: every byte as one printable character.
 *
 * Bytes that print stand for themselves as code points; the other 68 take, in order, U+0100, U+0101, ...
 */
#include "text/pipeline.h"

static bool prints(uint32_t b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
}

/* Bytes without a printed form are 0-32, 127-160 and 173. */
uint32_t peft__byte_to_char(uint8_t byte) {
    if (prints(byte)) return byte;
    if (byte <= 32) return 0x100u + byte;
    if (byte <= 160) return 0x100u + 33 + (byte - 127u);
    return 0x100 + 67;
}

int peft__char_to_byte(uint32_t c) {
    if (c < 0x100) return prints(c) ? (int)c : -1;
    if (c <= 0x120) return (int)c - 0x100;
    if (c <= 0x142) return (int)c - 0x121 + 127;
    return c == 0x143 ? 173 : -1;
}
