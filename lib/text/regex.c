/* regex.c: Oniguruma patterns on PCRE2.
 *
 * PCRE2's interpreter is used, not its compiler to machine code: hosts that forbid writable code memory must work,
 * and the limits on steps and memory hold in the interpreter only.
 */
#include "text/regex.h"

enum { STEP_LIMIT = 50 * 1000 * 1000, HEAP_LIMIT_KIB = 256 * 1024, DEPTH_LIMIT = 1000 * 1000, PATTERN_LIMIT = 65536 };

static void *regex_malloc(size_t size, void *mem) {
    return peft__alloc(mem, size);
}
static void regex_free(void *memory, void *mem) {
    peft__free(mem, memory);
}

pcre2_general_context *peft__regex_memory(peft__mem *mem) {
    return pcre2_general_context_create(regex_malloc, regex_free, mem);
}

/* White_Space exactly: PCRE2's \s has one character more. Written for use inside [ ]. */
#define SPACES "\\t-\\r \\x85\\xA0\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
/* What Oniguruma's \w holds. */
#define WORDS                                                                                                          \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\xB2\\xB3\\xB9\\xBC-\\xBE\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-"   \
    "\\x{1F169}\\x{1F170}-\\x{1F189}"

static peft_status translate(peft_context *ctx, const char *pattern, size_t length, peft__buffer *out) {
    bool in_class = false;
    size_t class_start = 0; /* first character after [ or [^ */
    for (size_t i = 0; i < length; i++) {
        const char c = pattern[i];
        if (c == '\\' && i + 1 < length) {
            const char next = pattern[++i];
            if (next == 's') {
                peft__buffer_puts(out, in_class ? SPACES : "[" SPACES "]");
            } else if (next == 'w') {
                peft__buffer_puts(out, in_class ? WORDS : "[" WORDS "]");
            } else if (next == 'S' && !in_class) {
                peft__buffer_puts(out, "[^" SPACES "]");
            } else if (next == 'W' && !in_class) {
                peft__buffer_puts(out, "[^" WORDS "]");
            } else if (next == 'h' || next == 'H') {
                peft__buffer_puts(out, next == 'H' ? (in_class ? "" : "[^0-9A-Fa-f]")
                                       : in_class  ? "0-9A-Fa-f"
                                                   : "[0-9A-Fa-f]");
                if (next == 'H' && in_class)
                    return peft__fail(ctx, PEFT_E_UNSUPPORTED, "pattern \"%.*s\": \\H inside brackets is not supported",
                                      (int)peft__min_size(length, 200), pattern);
            } else {
                peft__buffer_put(out, pattern + i - 1, 2);
            }
            continue;
        }
        if (in_class) {
            if (c == ']' && i > class_start) {
                in_class = false;
            } else if (c == '[' && i + 1 < length && pattern[i + 1] == ':') { /* [:alpha:] is the same in both */
                size_t end = i + 2;
                while (end + 1 < length && !(pattern[end] == ':' && pattern[end + 1] == ']')) end++;
                if (end + 1 < length) {
                    peft__buffer_put(out, pattern + i, end + 2 - i);
                    i = end + 1;
                    continue;
                }
            } else if (c == '[' || (c == '&' && i + 1 < length && pattern[i + 1] == '&')) {
                return peft__fail(ctx, PEFT_E_UNSUPPORTED, "pattern \"%.*s\": sets inside sets are not supported",
                                  (int)peft__min_size(length, 200), pattern);
            }
        } else if (c == '[') {
            in_class = true;
            class_start = i + 1 + (i + 1 < length && pattern[i + 1] == '^');
        }
        peft__buffer_put(out, &c, 1);
    }
    return out->failed ? peft__fail_nomem(ctx, length, "a pattern") : PEFT_OK;
}

peft_status peft__regex_compile(peft_context *ctx, pcre2_general_context *memory, const char *pattern, size_t length,
                                peft__regex *out) {
    if (length > PATTERN_LIMIT)
        return peft__fail(ctx, PEFT_E_LIMIT, "a pattern of %zu bytes is longer than %d", length, PATTERN_LIMIT);
    peft__buffer text;
    peft__buffer_init(&text, ctx->mem);
    peft_status status = translate(ctx, pattern, length, &text);
    if (status == PEFT_OK) {
        pcre2_compile_context *how = pcre2_compile_context_create(memory);
        if (how != NULL) {
            pcre2_set_newline(how, PCRE2_NEWLINE_LF);
            pcre2_set_parens_nest_limit(how, 64);
            int error = 0;
            PCRE2_SIZE where = 0;
            out->code =
                pcre2_compile((PCRE2_SPTR)(text.data != NULL ? text.data : ""), text.length,
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &where, how);
            pcre2_compile_context_free(how);
            if (out->code == NULL) {
                char why[160] = "";
                pcre2_get_error_message(error, (PCRE2_UCHAR *)why, sizeof why);
                status = error == PCRE2_ERROR_HEAP_FAILED || error == PCRE2_ERROR_NOMEMORY
                             ? peft__fail_nomem(ctx, length, "a pattern")
                             : peft__fail(ctx, PEFT_E_UNSUPPORTED, "pattern \"%.*s\": %s",
                                          (int)peft__min_size(length, 200), pattern, why);
            }
        } else {
            status = peft__fail_nomem(ctx, length, "a pattern");
        }
    }
    peft__buffer_free(&text);
    return status;
}

void peft__regex_free(peft__regex *regex) {
    pcre2_code_free(regex->code);
    regex->code = NULL;
}

void peft__matcher_free(peft__matcher *matcher) {
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->limits);
    pcre2_general_context_free(matcher->memory);
    *matcher = (peft__matcher){0};
}

static bool matcher_prepare(peft_context *ctx, peft__matcher *matcher) {
    if (matcher->data != NULL) return true;
    if (matcher->memory == NULL) matcher->memory = peft__regex_memory(ctx->mem);
    if (matcher->memory == NULL) return false;
    if (matcher->limits == NULL) matcher->limits = pcre2_match_context_create(matcher->memory);
    if (matcher->limits == NULL) return false;
    pcre2_set_match_limit(matcher->limits, STEP_LIMIT);
    pcre2_set_depth_limit(matcher->limits, DEPTH_LIMIT);
    pcre2_set_heap_limit(matcher->limits, HEAP_LIMIT_KIB);
    matcher->data = pcre2_match_data_create(1, matcher->memory);
    return matcher->data != NULL;
}

peft_status peft__regex_next(peft_context *ctx, const peft__regex *regex, peft__matcher *matcher, const char *text,
                             size_t length, size_t start, bool *out_found, size_t *out_from, size_t *out_to) {
    if (!matcher_prepare(ctx, matcher)) return peft__fail_nomem(ctx, sizeof(peft__matcher), "matching patterns");
    const int found =
        pcre2_match(regex->code, (PCRE2_SPTR)text, length, start, PCRE2_NO_UTF_CHECK, matcher->data, matcher->limits);
    *out_found = found >= 0;
    if (found == PCRE2_ERROR_NOMATCH) return PEFT_OK;
    if (found == PCRE2_ERROR_NOMEMORY) return peft__fail_nomem(ctx, length, "matching a pattern");
    if (found < 0)
        return peft__fail(ctx, PEFT_E_LIMIT, "a pattern of the tokenizer takes too many steps on this text (byte %zu)",
                          start);
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(matcher->data);
    *out_from = at[0];
    *out_to = at[1];
    /* \K and lookbehind tricks of a hostile pattern may give ends before starts */
    if (*out_to < *out_from || *out_from < start) *out_found = false;
    return PEFT_OK;
}
