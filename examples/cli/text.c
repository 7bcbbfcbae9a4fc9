/* text.c: from a prompt to ids and from ids to printed text. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

/* Encodes into memory of its own; NULL after a complaint. */
static int32_t *encode(cli *c, const peft_tokenizer *tokenizer, const char *text, uint32_t flags, int64_t *out_count) {
    const int64_t most = (int64_t)strlen(text) + 64; /* a token has at least one byte, a template few tokens */
    int32_t *ids = malloc((size_t)most * sizeof *ids);
    if (ids == NULL) {
        fprintf(stderr, "peft: out of memory\n");
        return NULL;
    }
    if (peft_tokenizer_encode(tokenizer, text, strlen(text), flags, ids, most, out_count) < 0) {
        cli_fail(c, NULL);
        free(ids);
        return NULL;
    }
    return ids;
}

typedef struct sink {
    FILE *out;
    char *text;
    size_t length, capacity;
} sink;

static int32_t on_text(void *user, const char *text, uint32_t length) {
    sink *s = user;
    if (s->out != NULL) {
        fwrite(text, 1, length, s->out);
        fflush(s->out);
    }
    if (s->length + length + 1 > s->capacity) {
        char *more = realloc(s->text, (s->length + length) * 2 + 256);
        if (more == NULL) return 1;
        s->text = more;
        s->capacity = (s->length + length) * 2 + 256;
    }
    memcpy(s->text + s->length, text, length);
    s->length += length;
    s->text[s->length] = '\0';
    return interrupted() ? 1 : 0;
}

bool write_text(cli *c, peft_session *session, const peft_tokenizer *tokenizer, const char *prompt, bool parse_special,
                const writer_options *options, FILE *out, char **out_text) {
    int64_t count = 0, made = 0;
    int32_t *ids =
        encode(c, tokenizer, prompt, parse_special ? PEFT_ENCODE_PARSE_SPECIAL : PEFT_ENCODE_SPECIAL, &count);
    int32_t *continuation = malloc(((size_t)options->generate.max_new_tokens + 1) * sizeof *continuation);
    sink s = {.out = out};
    peft_generate_options generate = options->generate;
    generate.on_text = on_text;
    generate.user = &s;
    bool good = ids != NULL && continuation != NULL;
    if (good) {
        const peft_status status = peft_session_generate(session, ids, count, &generate, continuation,
                                                         (int64_t)generate.max_new_tokens, &made);
        good = status >= 0 || (status == PEFT_E_CANCELLED && interrupted()) || cli_fail(c, NULL);
    }
    if (good && out_text != NULL) {
        *out_text = s.text != NULL ? s.text : calloc(1, 1);
        s.text = NULL;
    }
    free(s.text);
    free(ids);
    free(continuation);
    return good;
}

char *render_chat(cli *c, const peft_tokenizer *tokenizer, const char *format, const peft_chat_message *messages,
                  size_t count) {
    size_t length = 0;
    char *text = NULL;
    peft_status status = peft_chat_render(tokenizer, format, messages, count, 1, NULL, 0, &length, NULL, 0, NULL);
    if (status == PEFT_E_LIMIT || status >= 0) {
        text = malloc(length + 1);
        status = text != NULL
                     ? peft_chat_render(tokenizer, format, messages, count, 1, text, length + 1, &length, NULL, 0, NULL)
                     : PEFT_E_NOMEM;
    }
    if (status >= 0) return text;
    free(text);
    cli_fail(c, "chat template");
    return NULL;
}
