/* image_png.c: PNG through libpng.
 *
 * libpng reports errors by a jump: everything that must survive it is in `state`, and the one function with setjmp has
 * no other locals. Warnings are ignored, as PIL does; whatever libpng goes on after is a picture.
 */
#include "format/image.h"
#include "peft_config.h"

#if PEFT_HAVE_PNG

#include <png.h>
#include <setjmp.h>

typedef struct state {
    peft_context *ctx;
    const char *name;
    const uint8_t *at, *end;
    peft__image *out;
    png_bytep *rows;
    peft_status status;
    bool starved; /* libpng asked for memory that there was not */
    char message[160];
    jmp_buf back;
} state;

static void on_error(png_structp png, png_const_charp message) {
    state *s = png_get_error_ptr(png);
    if (message != NULL && s->message[0] == '\0') {
        const size_t length = peft__min_size(strlen(message), sizeof s->message - 1);
        memcpy(s->message, message, length);
        s->message[length] = '\0';
        peft__utf8_tidy(s->message);
    }
    longjmp(s->back, 1);
}

static void on_warning(png_structp png, png_const_charp message) {
    (void)png;
    (void)message;
}

static void read_bytes(png_structp png, png_bytep to, png_size_t count) {
    state *s = png_get_io_ptr(png);
    if ((size_t)(s->end - s->at) < count) png_error(png, "the file ends too early");
    memcpy(to, s->at, count);
    s->at += count;
}

static png_voidp take(png_structp png, png_alloc_size_t size) {
    state *s = png_get_mem_ptr(png);
    void *memory = peft__alloc(s->ctx->mem, size);
    s->starved = s->starved || memory == NULL;
    return memory;
}

static void give_back(png_structp png, png_voidp memory) {
    const state *s = png_get_mem_ptr(png);
    peft__free(s->ctx->mem, memory);
}

/* Everything becomes RGB of 8 bits. */
static void ask_for_rgb(png_structp png, png_infop info) {
    png_set_expand(png);
    png_set_strip_16(png);
    png_set_strip_alpha(png);
    png_set_gray_to_rgb(png);
    (void)png_set_interlace_handling(png);
    png_read_update_info(png, info);
}

static void decode(state *s, png_structp png, png_infop info) {
    if (setjmp(s->back) != 0) {
        if (s->status >= 0) s->status = PEFT_E_FORMAT;
        return;
    }
    png_set_read_fn(png, s, read_bytes);
    png_set_user_limits(png, PEFT__IMAGE_SIDE, PEFT__IMAGE_SIDE);
    png_set_chunk_cache_max(png, 64);
    png_set_chunk_malloc_max(png, 8u << 20);
    png_read_info(png, info);
    const png_uint_32 width = png_get_image_width(png, info), height = png_get_image_height(png, info);
    s->status = peft__image_new(s->ctx, s->name, width, height, s->out);
    if (s->status < 0) return;
    ask_for_rgb(png, info);
    if (png_get_rowbytes(png, info) != (size_t)width * 3) png_error(png, "its pixels do not become RGB");
    s->rows = peft__alloc(s->ctx->mem, height * sizeof *s->rows);
    if (s->rows == NULL) {
        s->status = peft__fail_nomem(s->ctx, height * sizeof *s->rows, "the rows of a picture");
        return;
    }
    for (png_uint_32 y = 0; y < height; y++) s->rows[y] = s->out->pixels + (size_t)y * width * 3;
    png_read_image(png, s->rows);
    png_read_end(png, NULL);
}

peft_status peft__image_png(peft_context *ctx, const char *name, const uint8_t *data, size_t size, peft__image *out) {
    state s = {.ctx = ctx, .name = name, .at = data, .end = data + size, .out = out};
    png_structp png = NULL;
    png_infop info = NULL;
    if (setjmp(s.back) == 0) /* libpng may fail before it has begun */
        png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &s, on_error, on_warning, &s, take, give_back);
    if (png == NULL) return peft__fail_nomem(ctx, 1024, "a picture");
    info = png_create_info_struct(png);
    if (info == NULL)
        s.status = peft__fail_nomem(ctx, 1024, "a picture");
    else
        decode(&s, png, info);
    if (s.status == PEFT_E_FORMAT && s.starved)
        s.status = peft__fail_nomem(ctx, 1024, "a picture");
    else if (s.status == PEFT_E_FORMAT)
        (void)peft__fail(ctx, PEFT_E_FORMAT, "%s: damaged PNG: %s", name, s.message[0] != '\0' ? s.message : "unknown");
    png_destroy_read_struct(&png, &info, NULL);
    peft__free(ctx->mem, s.rows);
    return s.status;
}

#else

peft_status peft__image_png(peft_context *ctx, const char *name, const uint8_t *data, size_t size, peft__image *out) {
    (void)data;
    (void)size;
    (void)out;
    return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: this build of libpeft has no libpng and reads no PNG files", name);
}

#endif
