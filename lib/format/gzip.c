/* gzip.c: inflating whole files into memory with zlib.
 *
 * zlib's own allocations go through the context too. Output grows geometrically, so a small file never makes a large
 * allocation at once, and stops at the caller's limit. */
#include "format/gzip.h"

#include <zlib.h>

enum { FIRST_BYTES = 1 << 16, MAX_STEP = 1 << 28 };

static void *zlib_alloc(void *user, unsigned items, unsigned size) {
    size_t bytes = 0;
    return peft__mul_size(items, size, &bytes) ? peft__alloc(user, bytes) : NULL;
}

static void zlib_free(void *user, void *memory) {
    peft__free(user, memory);
}

bool peft__gzip_detect(const void *data, size_t size) {
    const uint8_t *bytes = data;
    return size >= 3 && bytes[0] == 0x1f && bytes[1] == 0x8b && bytes[2] == 8;
}

/* zlib writes into `chunk`, which is then appended to `out`. */
typedef struct inflater {
    peft_context *ctx;
    const char *name;
    z_stream stream;
    const uint8_t *data; /* not yet given to zlib */
    size_t size;
    size_t limit;
    uint8_t *chunk;
    peft__buffer *out;
} inflater;

static void feed(inflater *f) {
    if (f->stream.avail_in > 0 || f->size == 0) return;
    const size_t piece = peft__min_size(f->size, MAX_STEP);
    f->stream.next_in = (Bytef *)(uintptr_t)f->data;
    f->stream.avail_in = (uInt)piece;
    f->data += piece;
    f->size -= piece;
}

static peft_status damaged(const inflater *f, const char *what) {
    return peft__fail(f->ctx, PEFT_E_FORMAT, "%s: damaged gzip data: %s", f->name, what);
}

/* Inflates up to the end of a member. */
static peft_status inflate_member(inflater *f) {
    for (;;) {
        feed(f);
        f->stream.next_out = f->chunk;
        f->stream.avail_out = FIRST_BYTES;
        const int result = inflate(&f->stream, Z_NO_FLUSH);
        const size_t made = FIRST_BYTES - f->stream.avail_out;
        if (made > f->limit - f->out->length)
            return peft__fail(f->ctx, PEFT_E_LIMIT, "%s: inflates to more than %zu bytes", f->name, f->limit);
        if (made > 0 && !peft__buffer_put(f->out, f->chunk, made))
            return peft__fail_nomem(f->ctx, f->out->length + made, "an inflated file");
        if (result == Z_STREAM_END) return PEFT_OK;
        if (result == Z_MEM_ERROR) return peft__fail_nomem(f->ctx, FIRST_BYTES, "inflating a file");
        if (result != Z_OK && result != Z_BUF_ERROR)
            return damaged(f, f->stream.msg != NULL ? f->stream.msg : "not a valid stream");
        if (made == 0 && f->stream.avail_in == 0 && f->size == 0) return damaged(f, "it ends in the middle");
    }
}

static peft_status inflate_members(inflater *f) {
    for (;;) {
        PEFT_TRY(inflate_member(f));
        feed(f);
        /* Zero bytes behind the last member are padding (tape blocks); anything else must be a member. */
        while (f->stream.avail_in > 0 && *f->stream.next_in == 0) {
            f->stream.next_in++;
            f->stream.avail_in--;
            feed(f);
        }
        if (f->stream.avail_in == 0) return PEFT_OK;
        if (inflateReset(&f->stream) != Z_OK) return damaged(f, "a second member cannot be read");
    }
}

peft_status peft__gzip_inflate(peft_context *ctx, const char *name, const void *data, size_t size, size_t limit,
                               peft__buffer *out) {
    inflater f = {.ctx = ctx, .name = name, .data = data, .size = size, .out = out};
    if (!peft__gzip_detect(data, size)) return peft__fail(ctx, PEFT_E_FORMAT, "%s: not gzip data", name);
    const size_t start = out->length;
    if (!peft__add_size(start, limit, &f.limit)) f.limit = SIZE_MAX;
    f.chunk = peft__alloc(ctx->mem, FIRST_BYTES);
    if (f.chunk == NULL) return peft__fail_nomem(ctx, FIRST_BYTES, "inflating a file");
    f.stream.zalloc = zlib_alloc;
    f.stream.zfree = zlib_free;
    f.stream.opaque = ctx->mem;
    peft_status status = PEFT_OK;
    if (inflateInit2(&f.stream, 16 + MAX_WBITS) != Z_OK) {
        status = peft__fail_nomem(ctx, FIRST_BYTES, "inflating a file");
    } else {
        status = inflate_members(&f);
        (void)inflateEnd(&f.stream);
    }
    peft__free(ctx->mem, f.chunk);
    return status;
}

peft_status peft__content_open_source(peft_context *ctx, peft__source *source, size_t limit,
                                      peft__content *out_content) {
    if (limit == 0) limit = SIZE_MAX > 0xffffffffu ? (size_t)1 << 32 : SIZE_MAX;
    peft__content content = {
        .data = source->data, .size = source->size, .name = source->name != NULL ? source->name : "memory"};
    peft__buffer_init(&content.inflated, ctx->mem);
    if (peft__gzip_detect(source->data, source->size)) {
        const peft_status status =
            peft__gzip_inflate(ctx, content.name, source->data, source->size, limit, &content.inflated);
        if (status != PEFT_OK) {
            peft__buffer_free(&content.inflated);
            return status;
        }
        content.data = content.inflated.data != NULL ? (const uint8_t *)content.inflated.data : (const uint8_t *)"";
        content.size = content.inflated.length;
    }
    content.source = peft__source_ref(source);
    *out_content = content;
    return PEFT_OK;
}

peft_status peft__content_open(peft_context *ctx, const char *path, size_t limit, peft__content *out_content) {
    peft__source *source = NULL;
    PEFT_TRY(peft__source_open_path(ctx, path, &source));
    const peft_status status = peft__content_open_source(ctx, source, limit, out_content);
    peft__source_unref(source);
    return status;
}

void peft__content_close(peft__content *content) {
    if (content == NULL || content->source == NULL) return;
    peft__buffer_free(&content->inflated);
    peft__source_unref(content->source);
    *content = (peft__content){.data = NULL};
}
