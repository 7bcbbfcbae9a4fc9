/* gzip.h: files that may be compressed with gzip.
 *
 * A compressed file is taken into memory whole, never more than the caller's limit: sizes inside a .gz are claims.
 */
#ifndef PEFT_FORMAT_GZIP_H
#define PEFT_FORMAT_GZIP_H

#include "base/base.h"

bool peft__gzip_detect(const void *data, size_t size);
/* Appends the content of all members to `out`. PEFT_E_LIMIT when it is more than `limit` bytes. */
peft_status peft__gzip_inflate(peft_context *ctx, const char *name, const void *data, size_t size, size_t limit,
                               peft__buffer *out);

/* The bytes of a file, inflated when it is gzip (by its first bytes, not its name), else as mapped. */
typedef struct peft__content {
    const uint8_t *data;
    size_t size;
    const char *name;
    peft__source *source;  /* held */
    peft__buffer inflated; /* empty when the file was not compressed */
} peft__content;

/* `limit` bounds the inflated size, 0 = 4 GiB. */
peft_status peft__content_open(peft_context *ctx, const char *path, size_t limit, peft__content *out_content);
peft_status peft__content_open_source(peft_context *ctx, peft__source *source, size_t limit,
                                      peft__content *out_content);
void peft__content_close(peft__content *content);

#endif
