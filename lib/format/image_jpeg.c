/* image_jpeg.c: JPEG through libjpeg(-turbo).
 *
 * As with libpng, errors are jumps; the messages it would print are put into the status text. Two things it is lenient
 * about are errors here: a file that ends before its picture does (it would paint the rest grey), and progressive files
 * whose scans never end (each scan walks all coefficients again: a small file can keep a machine busy for hours).
 */
#include "format/image.h"
#include "peft_config.h"

#if PEFT_HAVE_JPEG

#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>

enum { MOST_SCANS = 256 };

typedef struct state {
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    peft_context *ctx;
    const char *name;
    peft__image *out;
    uint8_t *line; /* of four channels */
    peft_status status;
    char message[JMSG_LENGTH_MAX];
    jmp_buf back;
} state;

static void leave(state *s, const char *message) {
    if (s->message[0] == '\0') (void)snprintf(s->message, sizeof s->message, "%s", message);
    longjmp(s->back, 1);
}

static void on_error(j_common_ptr jpeg) {
    char text[JMSG_LENGTH_MAX] = "";
    jpeg->err->format_message(jpeg, text);
    leave((state *)(void *)jpeg->err, text);
}

static void on_message(j_common_ptr jpeg) { (void)jpeg; }
static void on_warning(j_common_ptr jpeg, int level) {
    if (level < 0) jpeg->err->num_warnings++;
}

static void source_begin(j_decompress_ptr jpeg) { (void)jpeg; }

static boolean source_more(j_decompress_ptr jpeg) {
    leave((state *)(void *)jpeg->err, "the file ends too early");
    return FALSE;
}

static void source_skip(j_decompress_ptr jpeg, long count) {
    struct jpeg_source_mgr *source = jpeg->src;
    if (count <= 0) return;
    if ((size_t)count > source->bytes_in_buffer) (void)source_more(jpeg);
    source->next_input_byte += count;
    source->bytes_in_buffer -= (size_t)count;
}

static void watch_scans(j_common_ptr jpeg) {
    if (jpeg->is_decompressor && ((j_decompress_ptr)jpeg)->input_scan_number > MOST_SCANS)
        leave((state *)(void *)jpeg->err, "it has too many scans");
}

/* A printer's picture on RGB, as PIL converts it; Adobe's files hold the numbers upside down. */
static void cmyk_to_rgb(const uint8_t *from, int64_t width, bool inverted, uint8_t *to) {
    for (int64_t x = 0; x < width; x++, from += 4, to += 3) {
        const int keep = inverted ? from[3] : 255 - from[3];
        for (int c = 0; c < 3; c++) {
            const int ink = inverted ? 255 - from[c] : from[c], product = ink * keep + 128;
            to[c] = (uint8_t)(keep - (((product >> 8) + product) >> 8));
        }
    }
}

static void decode(state *s, struct jpeg_decompress_struct *jpeg) {
    if (setjmp(s->back) != 0) {
        if (s->status >= 0) s->status = PEFT_E_FORMAT;
        return;
    }
    (void)jpeg_read_header(jpeg, TRUE);
    s->status = peft__image_new(s->ctx, s->name, jpeg->image_width, jpeg->image_height, s->out);
    if (s->status < 0) return;
    const bool four = jpeg->num_components == 4;
    jpeg->out_color_space = four ? JCS_CMYK : JCS_RGB;
    jpeg->dct_method = JDCT_ISLOW;
    if (four) {
        s->line = peft__alloc(s->ctx->mem, (size_t)jpeg->image_width * 4);
        if (s->line == NULL) {
            s->status = peft__fail_nomem(s->ctx, (size_t)jpeg->image_width * 4, "a picture");
            return;
        }
    }
    (void)jpeg_start_decompress(jpeg);
    while (jpeg->output_scanline < jpeg->output_height) {
        uint8_t *row = s->out->pixels + (size_t)jpeg->output_scanline * jpeg->image_width * 3;
        JSAMPROW line = four ? s->line : row;
        if (jpeg_read_scanlines(jpeg, &line, 1) != 1) leave(s, "a row is missing");
        if (four) cmyk_to_rgb(s->line, jpeg->image_width, jpeg->saw_Adobe_marker != FALSE, row);
    }
    (void)jpeg_finish_decompress(jpeg);
}

peft_status peft__image_jpeg(peft_context *ctx, const char *name, const uint8_t *data, size_t size, peft__image *out) {
    struct jpeg_decompress_struct jpeg;
    state s;
    memset(&jpeg, 0, sizeof jpeg);
    memset(&s, 0, sizeof s);
    s.ctx = ctx;
    s.name = name;
    s.out = out;
    jpeg.err = jpeg_std_error(&s.errors);
    s.errors.error_exit = on_error;
    s.errors.output_message = on_message;
    s.errors.emit_message = on_warning;
    if (setjmp(s.back) != 0) return peft__fail_nomem(ctx, 1024, "a picture");
    jpeg_create_decompress(&jpeg);
    s.source = (struct jpeg_source_mgr){.next_input_byte = data,
                                        .bytes_in_buffer = size,
                                        .init_source = source_begin,
                                        .fill_input_buffer = source_more,
                                        .skip_input_data = source_skip,
                                        .resync_to_restart = jpeg_resync_to_restart,
                                        .term_source = source_begin};
    s.progress.progress_monitor = watch_scans;
    jpeg.src = &s.source;
    jpeg.progress = &s.progress;
    jpeg.mem->max_memory_to_use = 512L << 20; /* of coefficients, where all are kept */
    decode(&s, &jpeg);
    jpeg_destroy_decompress(&jpeg);
    peft__free(ctx->mem, s.line);
    if (s.status != PEFT_E_FORMAT) return s.status;
    peft__utf8_tidy(s.message);
    return peft__fail(ctx, PEFT_E_FORMAT, "%s: damaged JPEG: %s", name, s.message);
}

#else

peft_status peft__image_jpeg(peft_context *ctx, const char *name, const uint8_t *data, size_t size, peft__image *out) {
    (void)data;
    (void)size;
    (void)out;
    return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: this build of libpeft has no libjpeg and reads no JPEG files", name);
}

#endif
