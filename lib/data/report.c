/* report.c: what a data set holds, in words: what was read, skipped and cut, what looks wrong, and one example token by
 * token. */
#include "data/data.h"

#include <stdio.h>

/* ---- report --------------------------------------------------------------------------------------------------- */

static void put_skipped(peft__buffer *out, const peft__reading *reading) {
    static const char *const WHY[PEFT__SKIP_COUNT] = {
        "", "are empty", "have nothing to learn (no assistant message or completion)",
        "have nothing left to learn after being cut to max_length", "are malformed"};
    for (int32_t i = 1; i < PEFT__SKIP_COUNT; i++) {
        if (reading->skipped[i] == 0) continue;
        (void)peft__buffer_printf(out, "skipped: %llu rows %s (first: line %llu%s%s)\n",
                                  (unsigned long long)reading->skipped[i], WHY[i],
                                  (unsigned long long)reading->skipped_line[i], i == PEFT__SKIP_BAD ? ": " : "",
                                  i == PEFT__SKIP_BAD ? reading->bad_reason : "");
    }
}

enum { MOST_CLASSES_SHOWN = 64 };

/* How many examples each class has: before training, because a class that is rare or missing explains what comes after.
 */
static void put_balance(peft__buffer *out, const peft__labels *labels, bool words, bool several) {
    int64_t total = 0, most = 0;
    uint32_t empty = 0, first = 0;
    for (uint32_t i = 0; i < labels->count; i++) {
        total += labels->examples[i];
        if (labels->examples[i] > most) first = i;
        most = peft__max_i64(most, labels->examples[i]);
        empty += labels->examples[i] == 0;
    }
    if (labels->count == 0 || total == 0) return;
    (void)peft__buffer_printf(out, "classes (%s):\n", words ? "words" : several ? "examples that have it" : "examples");
    for (uint32_t i = 0; i < labels->count && i < MOST_CLASSES_SHOWN; i++)
        (void)peft__buffer_printf(out, "  %5u %-24s %8lld %5.1f %%\n", i, labels->names[i],
                                  (long long)labels->examples[i], 100.0 * (double)labels->examples[i] / (double)total);
    if (labels->count > MOST_CLASSES_SHOWN)
        (void)peft__buffer_printf(out, "  ... and %u more\n", labels->count - MOST_CLASSES_SHOWN);
    if (empty > 0)
        (void)peft__buffer_printf(out, "note: %u of %u classes have no example here\n", empty, labels->count);
    if (!several)
        (void)peft__buffer_printf(out, "note: answering \"%s\" always would be right for %.1f %%\n",
                                  labels->names[first], 100.0 * (double)most / (double)total);
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
                       "%s: %llu examples begin with two begin-of-sequence tokens (first: line %llu): the text has one "
                       "that the tokenizer adds "
                       "anyway",
                       name, (unsigned long long)reading->double_bos, (unsigned long long)reading->double_bos_line);
        warn(dataset, text);
    }
    if (dataset->store.learns != PEFT__LEARNS_NEXT) return;
    if (reading->no_eos && dataset->options.eos != PEFT_EOS_NEVER) {
        (void)snprintf(text, sizeof text,
                       "%s: the tokenizer has no end-of-sequence token: the model will not learn to stop", name);
        warn(dataset, text);
    } else if (reading->wanting_end > 0 && reading->with_end < reading->wanting_end) {
        (void)snprintf(text, sizeof text,
                       "%s: %llu of %llu examples have no end-of-sequence token in what is learnt: the model will not "
                       "learn to stop",
                       name, (unsigned long long)(reading->wanting_end - reading->with_end),
                       (unsigned long long)reading->wanting_end);
        warn(dataset, text);
    }
}

peft_status peft__dataset_write_report(peft_dataset *dataset, const char *name, const peft__reading *reading,
                                       int32_t format, bool chat_by_default) {
    peft__buffer *out = &dataset->report;
    const peft__store *store = &dataset->store;
    int64_t learnt = 0, tokens = 0;
    for (int64_t i = 0; i < store->example_count; i++) {
        learnt += peft__store_learnt(store, &store->examples[i]);
        tokens += store->examples[i].length;
    }
    peft__buffer_clear(out);
    static const char *const LEARNT[][2] = {[PEFT__LEARNS_NEXT] = {"of which", "are learnt"},
                                            [PEFT__LEARNS_TOKENS] = {"with", "labels"},
                                            [PEFT__LEARNS_HIDDEN] = {"of which", "may be hidden"},
                                            [PEFT__LEARNS_CLASS] = {"with", "labels"},
                                            [PEFT__LEARNS_TARGETS] = {"with", "labels"},
                                            [PEFT__LEARNS_ANSWER] = {"of which", "are learnt"},
                                            [PEFT__LEARNS_SPAN] = {"with", "answers"},
                                            [PEFT__LEARNS_CHOICE] = {"of which", "are of answers"}};
    const bool windows = format == PEFT_DATA_TEXT || dataset->options.format == PEFT_DATA_MASKED_LM;
    (void)peft__buffer_printf(out, "%s: %s%s%s, %llu %s, %lld examples, %lld %s %s %lld %s, longest %d\n", name,
                              peft__data_format_name(format), dataset->chat_name != NULL ? " with chat template " : "",
                              dataset->chat_name != NULL ? dataset->chat_name : "", (unsigned long long)reading->rows,
                              windows ? "windows" : "rows", (long long)store->example_count, (long long)tokens,
                              dataset->images != NULL ? "patches" : "tokens",
                              LEARNT[store->learns][0], (long long)learnt, LEARNT[store->learns][1], store->longest);
    if (chat_by_default)
        (void)peft__buffer_puts(out, "note: the model has no chat template, so the Alpaca prompt is used\n");
    if (reading->cut > 0)
        (void)peft__buffer_printf(
            out, "cut: %llu examples were longer than max_length %lld (longest %lld); %lld tokens are left out\n",
            (unsigned long long)reading->cut, (long long)dataset->max_length, (long long)reading->longest_uncut,
            (long long)reading->cut_tokens);
    if (reading->unanswered > 0)
        (void)peft__buffer_printf(out, "note: %llu questions have no answer in their context\n",
                                  (unsigned long long)reading->unanswered);
    put_skipped(out, reading);
    put_balance(out, &dataset->labels, store->learns == PEFT__LEARNS_TOKENS, store->learns == PEFT__LEARNS_TARGETS);
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
        case '\n':
            (void)peft__buffer_puts(out, "\\n");
            break;
        case '\r':
            (void)peft__buffer_puts(out, "\\r");
            break;
        case '\t':
            (void)peft__buffer_puts(out, "\\t");
            break;
        case '\\':
            (void)peft__buffer_puts(out, "\\\\");
            break;
        default:
            if (letter < 0x20 || letter == 0x7f)
                (void)peft__buffer_printf(out, "\\x%02x", letter);
            else
                (void)peft__buffer_put(out, &text[i], 1);
        }
    }
}

/* Text of one token: decoded, or as the vocabulary spells it where it is no whole character or a decoder would drop its
 * blank. */
static peft_status put_token(peft_context *ctx, const peft_dataset *dataset, int32_t id, peft__buffer *scratch,
                             peft__buffer *out) {
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

peft_status peft__dataset_write_preview(peft_context *ctx, const peft_dataset *dataset, int64_t index,
                                        peft__buffer *out) {
    const peft__store *store = &dataset->store;
    if (index < 0 || index >= store->example_count)
        return peft__fail(ctx, PEFT_E_ARG, "examples are 0 to %lld, found %lld", (long long)store->example_count - 1,
                          (long long)index);
    const peft__example *example = &store->examples[index];
    peft__buffer scratch;
    peft__buffer_init(&scratch, ctx->mem);
    (void)peft__buffer_printf(out, "example %lld: %d tokens, %lld learnt\n", (long long)index, example->length,
                              (long long)peft__store_learnt(store, example));
    if (store->classes != NULL && store->classes[index] != PEFT_IGNORE_LABEL) {
        if (store->learns == PEFT__LEARNS_CHOICE)
            (void)peft__buffer_printf(out, "right answer: %d\n", store->classes[index]);
        else
            (void)peft__buffer_printf(out, "class: %s\n", dataset->labels.names[store->classes[index]]);
    }
    for (int64_t c = 0; store->targets != NULL && c < store->target_cols; c++)
        (void)peft__buffer_printf(out, "%s%g%s", c == 0 ? "targets: " : ", ",
                                  (double)store->targets[index * store->target_cols + c],
                                  c + 1 == store->target_cols ? "\n" : "");
    if (store->spans != NULL && store->spans[2 * index] != PEFT_IGNORE_LABEL)
        (void)peft__buffer_printf(out, "answer: tokens %d to %d\n", store->spans[2 * index],
                                  store->spans[2 * index + 1]);
    peft_status status = PEFT_OK;
    for (int32_t i = 0; i < example->length && status >= 0; i++) {
        const int32_t id = store->ids[example->first + i];
        const int32_t label = i < example->context ? PEFT_IGNORE_LABEL : store->labels[example->first + i];
        const bool learnt = (i > 0 || store->learns != PEFT__LEARNS_NEXT) && label != PEFT_IGNORE_LABEL;
        (void)peft__buffer_printf(out, "%5d %7d %c ", i, id, learnt ? '+' : '.');
        status = put_token(ctx, dataset, id, &scratch, out);
        if (learnt && store->learns == PEFT__LEARNS_TOKENS && label < (int32_t)dataset->labels.count)
            (void)peft__buffer_printf(out, " (%s)", dataset->labels.names[label]);
        else if (learnt && label != id)
            (void)peft__buffer_printf(out, " (label %d)", label);
        (void)peft__buffer_puts(out, "\n");
    }
    peft__buffer_free(&scratch);
    if (status >= 0 && out->failed) return peft__fail_nomem(ctx, out->capacity, "a preview");
    return status;
}
