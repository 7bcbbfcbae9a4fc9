/* buffer.c: a growing byte string. A failure is remembered, so that a writer of many pieces checks once at the end. */
#include "base/base.h"

#include <stdio.h>

/* Makes room for `extra` bytes and the NUL. */
static bool reserve(peft__buffer *buffer, size_t extra) {
    size_t need;
    if (!peft__add_size(buffer->length, extra, &need) || !peft__add_size(need, 1, &need)) {
        buffer->failed = true;
        return false;
    }
    if (need <= buffer->capacity) return true;
    size_t capacity = peft__max_size(buffer->capacity, 64);
    while (capacity < need) {
        if (!peft__add_size(capacity, capacity / 2, &capacity)) capacity = need;
    }
    char *data = peft__realloc(buffer->mem, buffer->data, capacity);
    if (data == NULL) {
        buffer->failed = true;
        return false;
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

void peft__buffer_init(peft__buffer *buffer, peft__mem *mem) {
    *buffer = (peft__buffer){.mem = mem};
}

void peft__buffer_free(peft__buffer *buffer) {
    peft__free(buffer->mem, buffer->data);
    peft__buffer_init(buffer, buffer->mem);
}

void peft__buffer_clear(peft__buffer *buffer) {
    buffer->length = 0;
    buffer->failed = false;
    if (buffer->data != NULL) buffer->data[0] = '\0';
}

bool peft__buffer_put(peft__buffer *buffer, const void *data, size_t length) {
    if (!reserve(buffer, length)) return false;
    if (length != 0) memcpy(buffer->data + buffer->length, data, length);
    buffer->length += length;
    buffer->data[buffer->length] = '\0';
    return true;
}

bool peft__buffer_puts(peft__buffer *buffer, const char *text) {
    return peft__buffer_put(buffer, text, strlen(text));
}

bool peft__buffer_printf(peft__buffer *buffer, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    const int length = vsnprintf(NULL, 0, format, arguments);
    bool done = false;
    if (length < 0) {
        buffer->failed = true;
    } else if (reserve(buffer, (size_t)length)) {
        (void)vsnprintf(buffer->data + buffer->length, (size_t)length + 1, format, again);
        buffer->length += (size_t)length;
        done = true;
    }
    va_end(again);
    va_end(arguments);
    return done;
}
