/* report.c: what a data set holds, in words: what was read, skipped and cut, what looks wrong, and one example token by token. */
#include "data/data.h"

#include <stdio.h>

/* ---- report --------------------------------------------------------------------------------------------------- */

static void put_skipped(peft__buffer *out, const peft__reading *reading) {
    static const char *const WHY[PEFT__SKIP_COUNT] = {"", "are empty", "have nothing to learn (no assistant message or completion)",
                                                      "have nothing left to learn after being cut to max_length", "are malformed"};
    for (int32_t i = 1; i < PEFT__SKIP_COUNT; i++) {
        if (reading->skipped[i] == 0) continue;
        (void)peft__buffer_printf(out, "skipped: %llu rows %s (first: line %llu%s%s)\n", (unsigned long long)reading->skipped[i], WHY[i],
                                  (unsigned long long)reading->skipped_line[i], i == PEFT__SKIP_BAD ? ": " : "",
                                  i == PEFT__SKIP_BAD ? reading->bad_reason : "");
    }
}

/* A line of the report that also goes to the log. */
static void warn(peft_dataset *dataset, const char *text) {
    (void)peft__buffer_printf(&dataset->report, "warning: %s\n", text);
    peft__log(dataset->ctx, PEFT_LOG_WARNING, "%s", text);
}

static void put_warnings(peft_dataset *dataset, const char *name, const peft__reading *reading) {
    char text[512];
    if (reading->double_bos > 0) {
        (void)snprintf(text, sizeof text,
                       "%s: %llu examples begin with two begin-of-sequence tokens (first: line %llu): the text has one that the tokenizer adds "
                       "anyway",
                       name, (unsigned long long)reading->double_bos, (unsigned long long)reading->double_bos_line);
        warn(dataset, text);
    }
    if (reading->no_eos && dataset->options.eos != PEFT_EOS_NEVER) {
        (void)snprintf(text, sizeof text, "%s: the tokenizer has no end-of-sequence token: the model will not learn to stop", name);
        warn(dataset, text);
    } else if (reading->wanting_end > 0 && reading->with_end < reading->wanting_end) {
        (void)snprintf(text, sizeof text, "%s: %llu of %llu examples have no end-of-sequence token in what is learnt: the model will not learn to stop",
                       name, (unsigned long long)(reading->wanting_end - reading->with_end), (unsigned long long)reading->wanting_end);
        warn(dataset, text);
    }
}

peft_status peft__dataset_write_report(peft_dataset *dataset, const char *name, const peft__reading *reading, int32_t format,
                                       bool chat_by_default) {
    peft__buffer *out = &dataset->report;
    const peft__store *store = &dataset->store;
    int64_t learnt = 0, tokens = 0;
    for (int64_t i = 0; i < store->example_count; i++) {
        learnt += peft__store_learnt(store, &store->examples[i]);
        tokens += store->examples[i].length;
    }
    peft__buffer_clear(out);
    (void)peft__buffer_printf(out, "%s: %s%s%s, %llu %s, %lld examples, %lld tokens of which %lld are learnt, longest %d\n", name,
                              peft__data_format_name(format), dataset->chat_name != NULL ? " with chat template " : "",
                              dataset->chat_name != NULL ? dataset->chat_name : "", (unsigned long long)reading->rows,
                              format == PEFT_DATA_TEXT ? "windows" : "rows", (long long)store->example_count, (long long)tokens,
                              (long long)learnt, store->longest);
    if (chat_by_default) (void)peft__buffer_puts(out, "note: the model has no chat template, so the Alpaca prompt is used\n");
    if (reading->cut > 0)
        (void)peft__buffer_printf(out, "cut: %llu examples were longer than max_length %lld (longest %lld); %lld tokens are left out\n",
                                  (unsigned long long)reading->cut, (long long)dataset->max_length, (long long)reading->longest_uncut,
                                  (long long)reading->cut_tokens);
    put_skipped(out, reading);
    put_warnings(dataset, name, reading);
    if (out->failed) return peft__fail_nomem(dataset->ctx, out->capacity, "the report of a data set");
    if (store->example_count > 0) return PEFT_OK;
    return peft__fail(dataset->ctx, PEFT_E_ARG, "%s: no example is left: %s", name, out->data);
}

/* ---- preview ---------------------------------------------------------------------------------------------------- */

static void put_escaped(peft__buffer *out, const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        const unsigned char letter = (unsigned char)text[i];
        switch (letter) {
        case '\n': (void)peft__buffer_puts(out, "\\n"); break;
        case '\r': (void)peft__buffer_puts(out, "\\r"); break;
        case '\t': (void)peft__buffer_puts(out, "\\t"); break;
        case '\\': (void)peft__buffer_puts(out, "\\\\"); break;
        default:
            if (letter < 0x20 || letter == 0x7f)
                (void)peft__buffer_printf(out, "\\x%02x", letter);
            else
                (void)peft__buffer_put(out, &text[i], 1);
        }
    }
}

/* Text of one token: decoded, or as the vocabulary spells it where it is no whole character or a decoder would drop its blank. */
static peft_status put_token(peft_context *ctx, const peft_dataset *dataset, int32_t id, peft__buffer *scratch, peft__buffer *out) {
    if (dataset->tokenizer == NULL) return PEFT_OK;
    size_t length = 0;
    const char *spelt = peft__id_to_token(dataset->tokenizer, id, &length);
    if (spelt == NULL) {
        (void)peft__buffer_puts(out, "?");
        return PEFT_OK;
    }
    const bool metaspace = length >= 3 && memcmp(spelt, "\xe2\x96\x81", 3) == 0;
    PEFT_TRY(peft__decode(ctx, dataset->tokenizer, &id, 1, false, scratch));
    const bool whole = scratch->data != NULL && strstr(scratch->data, "\xef\xbf\xbd") == NULL && scratch->length > 0;
    if (!metaspace && whole)
        put_escaped(out, scratch->data, scratch->length);
    else
        put_escaped(out, spelt, length);
    return PEFT_OK;
}

peft_status peft__dataset_write_preview(peft_context *ctx, const peft_dataset *dataset, int64_t index, peft__buffer *out) {
    const peft__store *store = &dataset->store;
    if (index < 0 || index >= store->example_count)
        return peft__fail(ctx, PEFT_E_ARG, "examples are 0 to %lld, found %lld", (long long)store->example_count - 1, (long long)index);
    const peft__example *example = &store->examples[index];
    peft__buffer scratch;
    peft__buffer_init(&scratch, ctx->mem);
    (void)peft__buffer_printf(out, "example %lld: %d tokens, %lld learnt\n", (long long)index, example->length,
                              (long long)peft__store_learnt(store, example));
    peft_status status = PEFT_OK;
    for (int32_t i = 0; i < example->length && status >= 0; i++) {
        const int32_t id = store->ids[example->first + i];
        const int32_t label = i < example->context ? PEFT_IGNORE_LABEL : store->labels[example->first + i];
        const bool learnt = i > 0 && label != PEFT_IGNORE_LABEL;
        (void)peft__buffer_printf(out, "%5d %7d %c ", i, id, learnt ? '+' : '.');
        status = put_token(ctx, dataset, id, &scratch, out);
        if (learnt && label != id) (void)peft__buffer_printf(out, " (label %d)", label);
        (void)peft__buffer_puts(out, "\n");
    }
    peft__buffer_free(&scratch);
    if (status >= 0 && out->failed) return peft__fail_nomem(ctx, out->capacity, "a preview");
    return status;
}
