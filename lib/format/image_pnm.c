/* image_pnm.c: PPM and PGM, binary (P6, P5) and text (P3, P2): a header of numbers, then samples. */
#include "format/image.h"

typedef struct reader {
    const uint8_t *at, *end;
} reader;

static bool is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static void skip_blank(reader *r) {
    while (r->at < r->end && (is_space(*r->at) || *r->at == '#')) {
        if (*r->at == '#')
            while (r->at < r->end && *r->at != '\n') r->at++;
        else
            r->at++;
    }
}

/* -1: no number, or one above 65535 where `most` says so. */
static int64_t read_number(reader *r, int64_t most) {
    skip_blank(r);
    int64_t value = 0;
    const uint8_t *start = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9' && value <= most) value = value * 10 + (*r->at++ - '0');
    return r->at == start || value > most ? -1 : value;
}

static uint8_t scaled(int64_t value, int64_t most) {
    return (uint8_t)(most == 255 ? value : (value * 255 + most / 2) / most);
}

peft_status peft__image_pnm(peft_context *ctx, const char *name, const uint8_t *data, size_t size, peft__image *out) {
    reader r = {data + 2, data + size};
    const bool text = data[1] <= '3', colour = data[1] == '6' || data[1] == '3';
    const int64_t width = read_number(&r, INT32_MAX), height = read_number(&r, INT32_MAX), most = read_number(&r, 65535);
    if (width < 0 || height < 0 || most < 1 || r.at >= r.end || !is_space(*r.at))
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: expected width, height and largest sample after P%c", name, data[1]);
    r.at++;
    const int64_t channels = colour ? 3 : 1, bytes = most > 255 ? 2 : 1;
    /* Before memory is taken for pixels that are not there: a text sample has two bytes. */
    const int64_t left = r.end - r.at;
    if (width > 0 && height > 0 && (width > left || height > left || width * height > (left + 1) / (channels * (text ? 2 : bytes))))
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: %lld x %lld pixels do not fit in the %lld bytes that are left", name,
                          (long long)width, (long long)height, (long long)left);
    PEFT_TRY(peft__image_new(ctx, name, width, height, out));
    for (int64_t i = 0; i < width * height; i++) {
        for (int64_t c = 0; c < channels; c++) {
            int64_t value = 0;
            if (text) {
                value = read_number(&r, most);
            } else if (r.end - r.at >= bytes) {
                value = bytes == 2 ? r.at[0] << 8 | r.at[1] : r.at[0];
                r.at += bytes;
            } else {
                value = -1;
            }
            if (value < 0 || value > most)
                return peft__fail(ctx, PEFT_E_FORMAT, "%s: pixel %lld is missing or above %lld", name, (long long)i,
                                  (long long)most);
            out->pixels[3 * i + c] = scaled(value, most);
        }
        if (!colour) out->pixels[3 * i + 1] = out->pixels[3 * i + 2] = out->pixels[3 * i];
    }
    return PEFT_OK;
}
