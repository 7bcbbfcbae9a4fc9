/* prompts_write.c: answers out of what a model writes.
 *
 * The text is written greedily; the answer is what a pattern finds (its first group, if it has one; the last match
 * counts) or what follows the last occurrence of a text. It means the class whose answer it is, or begins with, or the
 * first whose answer stands in its first line as a word of its own; letter case and punctuation around do not count.
 */
#include "data/prompts.h"
#include "train/train.h"

#include <stdio.h>

/* ---- meaning ---------------------------------------------------------------------------------------------------- */

static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* Letters, digits and everything beyond ASCII. */
static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || ((unsigned char)c & 0x80) != 0;
}

static void trim(const char **text, size_t *length) {
    while (*length > 0 && !is_word((*text)[0])) {
        (*text)++;
        (*length)--;
    }
    while (*length > 0 && !is_word((*text)[*length - 1])) (*length)--;
}

/* Does `word` stand at `at` as a whole word? */
static bool stands(const char *text, size_t length, size_t at, const char *word, size_t word_length) {
    if (word_length == 0 || at + word_length > length) return false;
    for (size_t i = 0; i < word_length; i++)
        if (lower(text[at + i]) != lower(word[i])) return false;
    return (at == 0 || !is_word(text[at - 1])) &&
           (at + word_length == length || !is_word(text[at + word_length]) || !is_word(word[word_length - 1]));
}

typedef struct meaning {
    int32_t label;
    size_t at, length; /* the earliest, of equals the longest */
} meaning;

static void try_word(meaning *best, const char *text, size_t length, const char *word, int32_t label) {
    size_t word_length = strlen(word);
    trim(&word, &word_length);
    for (size_t at = 0; at < length; at++) {
        if (!stands(text, length, at, word, word_length)) continue;
        if (best->label < 0 || at < best->at || (at == best->at && word_length > best->length))
            *best = (meaning){label, at, word_length};
        return;
    }
}

int32_t peft__prompt_class_of(const peft_prompts *prompts, const peft__prompt_text *prompt, const char *text,
                              size_t length) {
    meaning best = {.label = -1};
    while (length > 0 && !is_word(text[0])) {
        text++;
        length--;
    }
    for (size_t i = 0; i < length; i++)
        if (text[i] == '\n') length = i;
    for (uint32_t a = 0; a < prompt->answer_count; a++)
        try_word(&best, text, length, prompt->answers[a].text, (int32_t)prompt->answers[a].label);
    for (uint32_t c = 0; c < prompts->label_count; c++) try_word(&best, text, length, prompts->labels[c], (int32_t)c);
    return best.label;
}

/* ---- where the answer is ---------------------------------------------------------------------------------------- */

/* The last match of the pattern: its first group, or all of it. */
static peft_status match(peft__prompt_run *run, const char *text, size_t length, const char **out, size_t *out_length) {
    peft_context *ctx = run->ctx;
    pcre2_general_context *memory = run->writer.prompts->regex_memory;
    pcre2_match_data *data = pcre2_match_data_create(2, memory);
    pcre2_match_context *limits = pcre2_match_context_create(memory);
    peft_status status = data == NULL || limits == NULL ? peft__fail_nomem(ctx, length, "matching a pattern") : PEFT_OK;
    if (limits != NULL) pcre2_set_match_limit(limits, 1000000);
    if (limits != NULL) pcre2_set_heap_limit(limits, 16384);
    *out = NULL;
    for (size_t start = 0; status >= 0 && start <= length;) {
        const int found = pcre2_match(run->prompt->pattern.code, (PCRE2_SPTR)text, length, start, 0, data, limits);
        if (found == PCRE2_ERROR_NOMATCH) break;
        if (found < 0) {
            status = peft__fail(ctx, found == PCRE2_ERROR_NOMEMORY ? PEFT_E_NOMEM : PEFT_E_LIMIT,
                                "%s: reasoning.pattern takes too many steps on what was written", run->prompt->where);
            break;
        }
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(data);
        const bool group = found != 1 && at[2] != PCRE2_UNSET && at[3] >= at[2];
        const size_t from = group ? at[2] : at[0], to = group ? at[3] : at[1];
        if (to >= from) {
            *out = text + from;
            *out_length = to - from;
        }
        start = at[1] > start ? at[1] : start + 1;
        while (start < length && ((unsigned char)text[start] & 0xC0) == 0x80) start++;
    }
    pcre2_match_data_free(data);
    pcre2_match_context_free(limits);
    return status;
}

/* What follows the last occurrence, letter case not counting. */
static void find_after(const char *text, size_t length, const char *after, const char **out, size_t *out_length) {
    const size_t own = strlen(after);
    *out = NULL;
    for (size_t at = 0; at + own <= length; at++) {
        size_t same = 0;
        while (same < own && lower(text[at + same]) == lower(after[same])) same++;
        if (same < own) continue;
        *out = text + at + own;
        *out_length = length - at - own;
    }
}

static peft_status understand(peft__prompt_run *run, const char *text, size_t length, int32_t *out_class) {
    const char *found = NULL;
    size_t found_length = 0;
    *out_class = -1;
    if (run->prompt->pattern.code != NULL)
        PEFT_TRY(match(run, text, length, &found, &found_length));
    else if (run->prompt->after[0] != '\0')
        find_after(text, length, run->prompt->after, &found, &found_length);
    else
        found = text, found_length = length;
    if (found != NULL) *out_class = peft__prompt_class_of(run->writer.prompts, run->prompt, found, found_length);
    return PEFT_OK;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

/* Brings what all rows have in common into the cache. */
static peft_status read_common(peft__prompt_run *run, int64_t rows) {
    const int64_t common = peft__prompt_common(run, run->whole.count);
    int64_t kept = 0;
    while (kept < run->count && kept < common && run->ids[kept] == run->whole.ids[kept]) kept++;
    if (run->count == 0 || rows > peft__reading_room(run->session)) {
        PEFT_TRY(peft__reading_begin(run->session, rows + rows / 4, run->whole.count));
        kept = 0;
    }
    peft__reading_keep(run->session, kept);
    PEFT_TRY(peft__prompt_room(run, run->whole.count, false));
    memcpy(run->ids, run->whole.ids, (size_t)common * sizeof *run->ids);
    run->count = 0;
    if (common > kept) {
        const uint64_t started = peft__clock_us();
        PEFT_TRY(peft__reading_put(run->session, run->ids + kept, common - kept, NULL));
        run->common_us += peft__clock_us() - started;
        run->common = common;
    }
    run->count = common;
    return PEFT_OK;
}

peft_status peft__prompt_score_written(peft__prompt_run *run, peft__buffer *out_text, int32_t *out_class) {
    const peft__prompt_writer *w = &run->writer;
    const peft__prompt_text *prompt = run->prompt;
    const bool seq2seq = peft__model_task(run->session->model) == PEFT_TASK_SEQ_2_SEQ_LM;
    PEFT_TRY(peft__encode(run->ctx, w->tokenizer, w->text.data != NULL ? w->text.data : "", w->text.length,
                          peft__prompt_flags(w), &run->whole));
    if (!seq2seq)
        while (run->whole.count > 1 && w->chat == NULL && peft__tokenizer_adds_eos(w->tokenizer) &&
               run->whole.special[run->whole.count - 1])
            run->whole.count--;
    if (run->whole.count == 0)
        return peft__fail(run->ctx, PEFT_E_ARG, "%s: a text without a token cannot be continued", prompt->where);
    peft_generate_options options;
    peft_generate_options_init(&options);
    options.max_new_tokens = prompt->max_new_tokens;
    options.stop = prompt->stop;
    options.stop_count = prompt->stop_count;
    PEFT_TRY(peft__prompt_room(run, prompt->max_new_tokens, true));
    const int64_t rows = run->whole.count + prompt->max_new_tokens;
    const bool cached = run->cached && !seq2seq && (run->positions == 0 || rows <= run->positions);
    if (cached) PEFT_TRY(read_common(run, rows));
    int64_t count = 0;
    PEFT_TRY(peft__session_generate(run->session, cached, run->whole.ids, run->whole.count, &options, run->tail,
                                    prompt->max_new_tokens, &count));
    run->context += (double)run->whole.count;
    run->rows_run += (double)(run->whole.count - (cached ? run->count : 0) + count);
    PEFT_TRY(peft__decode(run->ctx, w->tokenizer, run->tail, count, true, out_text));
    /* A stop text may have come with the last token. */
    for (uint32_t i = 0; i < prompt->stop_count; i++) {
        char *stop = out_text->data == NULL ? NULL : strstr(out_text->data, prompt->stop[i]);
        if (stop == NULL) continue;
        out_text->length = (size_t)(stop - out_text->data);
        *stop = '\0';
    }
    return understand(run, out_text->data != NULL ? out_text->data : "", out_text->length, out_class);
}
