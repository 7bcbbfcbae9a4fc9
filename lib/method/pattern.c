/* pattern.c: regular expressions of target_modules and patterns.
 *
 * HF PEFT uses Python's `re`. PCRE2 understands the same syntax as far as anybody uses it for module names. Patterns
 * come from files of strangers, so work is limited: an expression that explodes is an error, not a hang.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "method/adapter.h"

enum { MATCH_LIMIT = 200000, DEPTH_LIMIT = 2000, HEAP_LIMIT_KB = 8192, PATTERN_LIMIT = 65536 };

struct peft__pattern {
    peft__mem *mem;
    pcre2_general_context *general;
    pcre2_match_context *limits;
    pcre2_code *code;
    pcre2_match_data *match;
    const char *where;
};

static void *regex_alloc(size_t size, void *mem) {
    return peft__alloc(mem, size);
}
static void regex_release(void *memory, void *mem) {
    peft__free(mem, memory);
}

void peft__pattern_free(peft__pattern *regex) {
    if (regex == NULL) return;
    pcre2_match_data_free(regex->match);
    pcre2_code_free(regex->code);
    pcre2_match_context_free(regex->limits);
    pcre2_general_context_free(regex->general);
    peft__free(regex->mem, regex);
}

static peft_status compile(peft_context *ctx, const char *where, const char *text, peft__pattern *regex) {
    regex->general = pcre2_general_context_create(regex_alloc, regex_release, ctx->mem);
    if (regex->general == NULL) return peft__fail_nomem(ctx, 256, "a regular expression");
    regex->limits = pcre2_match_context_create(regex->general);
    pcre2_compile_context *settings = pcre2_compile_context_create(regex->general);
    if (regex->limits == NULL || settings == NULL) {
        pcre2_compile_context_free(settings);
        return peft__fail_nomem(ctx, 256, "a regular expression");
    }
    pcre2_set_match_limit(regex->limits, MATCH_LIMIT);
    pcre2_set_depth_limit(regex->limits, DEPTH_LIMIT);
    pcre2_set_heap_limit(regex->limits, HEAP_LIMIT_KB);
    pcre2_set_parens_nest_limit(settings, 50);
    int code = 0;
    PCRE2_SIZE offset = 0;
    const uint32_t flags = PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_NEVER_BACKSLASH_C;
    regex->code = pcre2_compile((PCRE2_SPTR)text, strlen(text), flags, &code, &offset, settings);
    pcre2_compile_context_free(settings);
    if (regex->code == NULL && code == PCRE2_ERROR_HEAP_FAILED)
        return peft__fail_nomem(ctx, strlen(text), "a regular expression");
    if (regex->code == NULL) {
        char reason[128] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: \"%.200s\" is no regular expression: %s at character %zu", where,
                          text, reason, (size_t)offset);
    }
    regex->match = pcre2_match_data_create(1, regex->general);
    return regex->match != NULL ? PEFT_OK : peft__fail_nomem(ctx, 256, "a regular expression");
}

peft_status peft__pattern_compile(peft_context *ctx, const char *where, const char *prefix, const char *pattern,
                                  peft__pattern **out_regex) {
    if (strlen(pattern) > PATTERN_LIMIT)
        return peft__fail(ctx, PEFT_E_LIMIT, "%s: a regular expression of %zu bytes, at most %d are accepted", where,
                          strlen(pattern), PATTERN_LIMIT);
    peft__pattern *regex = peft__alloc_zero(ctx->mem, sizeof *regex);
    if (regex == NULL) return peft__fail_nomem(ctx, sizeof *regex, "a regular expression");
    regex->mem = ctx->mem;
    regex->where = where;
    char *text = prefix[0] == 0 ? peft__strdup(ctx->mem, pattern) : peft__strfmt(ctx->mem, "%s(%s)", prefix, pattern);
    peft_status status = PEFT_OK;
    if (text == NULL)
        status = peft__fail_nomem(ctx, strlen(pattern), "a regular expression");
    else
        status = compile(ctx, where, text, regex);
    peft__free(ctx->mem, text);
    if (status < 0) {
        peft__pattern_free(regex);
        return status;
    }
    *out_regex = regex;
    return PEFT_OK;
}

peft_status peft__pattern_match(peft_context *ctx, const peft__pattern *regex, const char *text, bool *out_match) {
    const int result = pcre2_match(regex->code, (PCRE2_SPTR)text, strlen(text), 0, 0, regex->match, regex->limits);
    if (result >= 0 || result == PCRE2_ERROR_NOMATCH) {
        *out_match = result >= 0;
        return PEFT_OK;
    }
    if (result == PCRE2_ERROR_NOMEMORY) return peft__fail_nomem(ctx, 0, "matching a regular expression");
    return peft__fail(ctx, PEFT_E_LIMIT, "%s: matching the regular expression against \"%.100s\" takes too much work",
                      regex->where, text);
}
