/* prompts_answers.c: how likely a model finds each answer.
 *
 * Prompt and answer are tokenised as one text, because a tokenizer may join the end of one with the beginning of the
 * other. The tokens that the prompt shares with all of these texts are the context; what follows is scored, from the
 * same place for every answer. The context is read into the session's cache, where the tokens that all rows have in
 * common (instruction and shots) stay; the answers branch off it in one pass, and those of a single token need none.
 */
#include "data/prompts.h"
#include "train/train.h"

#include <math.h>

/* ---- room ------------------------------------------------------------------------------------------------------- */

peft_status peft__prompt_room(peft__prompt_run *run, int64_t count, bool tail) {
    int64_t *capacity = tail ? &run->tail_capacity : &run->capacity;
    int32_t **ids = tail ? &run->tail : &run->ids;
    if (count <= *capacity) return PEFT_OK;
    const int64_t most = count + count / 2 + 64;
    int32_t *more = peft__realloc(run->ctx->mem, *ids, (size_t)most * sizeof *more);
    if (more == NULL) return peft__fail_nomem(run->ctx, (size_t)most * sizeof *more, "a prompt's tokens");
    *ids = more;
    *capacity = most;
    return PEFT_OK;
}

/* ---- classes ---------------------------------------------------------------------------------------------------- */

/* Characters of an answer: code points, without blanks before it. */
static int64_t characters_of(const char *text) {
    int64_t count = 0;
    for (text += strspn(text, " \t\r\n"); *text != '\0'; text++) count += ((unsigned char)*text & 0xC0) != 0x80;
    return peft__max_i64(count, 1);
}

static double score_of(const peft__prompt_text *prompt, const char *text, double nll, int64_t tokens) {
    switch (prompt->score) {
    case PEFT_SCORE_SUM:
        return -nll;
    case PEFT_SCORE_CHARACTER:
        return -nll / (double)characters_of(text);
    default:
        return -nll / (double)peft__max_i64(tokens, 1);
    }
}

/* log of the mean of exp(s) over a class's answers, as a running pair (top, sum of exp(s - top)). */
void peft__prompt_class_scores(peft__prompt_run *run, const double *nll, const int64_t *tokens) {
    const peft__prompt_text *prompt = run->prompt;
    for (uint32_t a = 0; a < prompt->answer_count;) {
        const uint32_t label = prompt->answers[a].label, first = a;
        double top = -INFINITY, sum = 0.0;
        for (; a < prompt->answer_count && prompt->answers[a].label == label; a++) {
            const double s = score_of(prompt, prompt->answers[a].text, nll[a], tokens[a]);
            if (s > top) {
                sum = sum * exp(top - s) + 1.0;
                top = s;
            } else {
                sum += exp(s - top);
            }
        }
        run->scores[label] = top + log(sum / (double)(a - first)) - run->free[label];
    }
}

/* ---- causal models ---------------------------------------------------------------------------------------------- */

static int64_t same_tokens(const int32_t *a, int64_t a_count, const int32_t *b, int64_t b_count) {
    int64_t same = 0;
    while (same < a_count && same < b_count && a[same] == b[same]) same++;
    return same;
}

/* Tokens of a text; where the tokenizer ends texts with a token of its own, without that. */
static peft_status encode_text(peft__prompt_run *run, const char *text, size_t length, peft__encoding *out) {
    PEFT_TRY(peft__encode(run->ctx, run->writer.tokenizer, text, length, peft__prompt_flags(&run->writer), out));
    while (out->count > 0 && out->special[out->count - 1] && out->end[out->count - 1] == 0 &&
           run->writer.chat == NULL && peft__tokenizer_adds_eos(run->writer.tokenizer) && out->count > 1)
        out->count--;
    return PEFT_OK;
}

/* A text without tokens still needs something to follow. */
static peft_status begin_text(peft__prompt_run *run, int64_t *context) {
    int32_t id = peft__special_id(run->writer.tokenizer, PEFT_SPECIAL_BOS);
    if (id < 0) id = peft__special_id(run->writer.tokenizer, PEFT_SPECIAL_EOS);
    if (id < 0)
        return peft__fail(run->ctx, PEFT_E_ARG,
                          "%s has no token before its answers, and the tokenizer has none to "
                          "begin a text with",
                          run->prompt->where);
    const char *token = peft__id_to_token(run->writer.tokenizer, id, NULL);
    PEFT_TRY(
        peft__encode(run->ctx, run->writer.tokenizer, token, strlen(token), PEFT_ENCODE_PARSE_SPECIAL, &run->whole));
    *context = run->whole.count;
    return PEFT_OK;
}

/* Tokens of all answers behind the context: run->tail and offsets; *out_context: tokens of the prompt that are context.
 */
static peft_status encode_answers(peft__prompt_run *run, int64_t *out_context) {
    peft__prompt_writer *w = &run->writer;
    const peft__prompt_text *prompt = run->prompt;
    const size_t length = w->text.length;
    const uint32_t count = prompt->answer_count;
    int64_t context = run->whole.count, used = 0;
    /* Whole texts first, one behind the other; then what is context goes. */
    run->offsets[0] = 0;
    for (uint32_t a = 0; a < count; a++) {
        peft__prompt_put_answer(w, prompt->answers[a].text, &w->text);
        peft_status status = w->text.failed ? peft__fail_nomem(run->ctx, length, "a prompt")
                                            : encode_text(run, w->text.data, w->text.length, &run->answer);
        w->text.length = length;
        if (w->text.data != NULL) w->text.data[length] = '\0';
        PEFT_TRY(status);
        context =
            peft__min_i64(context, same_tokens(run->whole.ids, run->whole.count, run->answer.ids, run->answer.count));
        PEFT_TRY(peft__prompt_room(run, used + run->answer.count, true));
        memcpy(run->tail + used, run->answer.ids, (size_t)run->answer.count * sizeof *run->tail);
        used += run->answer.count;
        run->offsets[a + 1] = (int32_t)used;
    }
    used = 0;
    for (uint32_t a = 0; a < count; a++) {
        const int64_t from = (a == 0 ? 0 : run->offsets[a]) + context, to = run->offsets[a + 1];
        if (from >= to)
            return peft__fail(run->ctx, PEFT_E_ARG, "%s: the answer \"%.60s\" adds no token to the text", prompt->where,
                              prompt->answers[a].text);
        if (run->positions > 0 && peft__max_i64(context, 1) + to - from > run->positions)
            return peft__fail(run->ctx, PEFT_E_LIMIT,
                              "%s takes %lld tokens with the answer \"%.60s\", the model has %lld positions: use fewer "
                              "shots or shorter texts",
                              prompt->where, (long long)(context + to - from), prompt->answers[a].text,
                              (long long)run->positions);
        memmove(run->tail + used, run->tail + from, (size_t)(to - from) * sizeof *run->tail);
        run->offsets[a] = (int32_t)used;
        used += to - from;
    }
    run->offsets[count] = (int32_t)used;
    *out_context = context;
    return context > 0 ? PEFT_OK : begin_text(run, out_context);
}

int64_t peft__prompt_common(const peft__prompt_run *run, int64_t count) {
    int64_t common = 0;
    while (common + 1 < count && run->whole.end[common] <= run->writer.common) common++;
    return common;
}

static peft_status score_cached(peft__prompt_run *run, int64_t context, double *nll) {
    peft_session *session = run->session;
    const int64_t wanted = context + 1, common = peft__prompt_common(run, context);
    const float *logits = NULL;
    int64_t kept = peft__reading_rows(session);
    kept = peft__min_i64(peft__min_i64(kept, run->count), common);
    kept = same_tokens(run->ids, kept, run->whole.ids, context);
    if (run->count == 0 || wanted > peft__reading_room(session)) {
        PEFT_TRY(peft__reading_begin(session, wanted + wanted / 4 + 64, context));
        kept = 0;
    }
    peft__reading_keep(session, kept);
    PEFT_TRY(peft__prompt_room(run, context, false));
    memcpy(run->ids, run->whole.ids, (size_t)context * sizeof *run->ids);
    run->count = 0;      /* nothing is sure until the text is read */
    if (common > kept) { /* once, apart from the rows' own work */
        const uint64_t started = peft__clock_us();
        PEFT_TRY(peft__reading_put(session, run->ids + kept, common - kept, NULL));
        run->common_us += peft__clock_us() - started;
        run->common = common;
        kept = common;
    }
    PEFT_TRY(peft__reading_put(session, run->ids + kept, context - kept, &logits));
    run->count = context;
    run->rows_run += (double)(context - kept);
    for (uint32_t a = 0; a < run->prompt->answer_count; a++)
        run->rows_run += (double)(run->offsets[a + 1] - run->offsets[a] - 1);
    return peft__reading_follow(session, logits, run->tail, run->offsets, run->prompt->answer_count, nll);
}

/* Everything anew for every answer: adapters that allow no cache, and checking the other way. */
static peft_status score_whole(peft__prompt_run *run, int64_t context, double *nll) {
    const uint32_t count = run->prompt->answer_count;
    peft__mem *mem = run->ctx->mem;
    int64_t longest = 0;
    for (uint32_t a = 0; a < count; a++)
        longest = peft__max_i64(longest, context + run->offsets[a + 1] - run->offsets[a]);
    int32_t *ids = peft__alloc(mem, (size_t)(2 * longest) * sizeof *ids);
    if (ids == NULL) return peft__fail_nomem(run->ctx, (size_t)(2 * longest) * sizeof *ids, "a prompt's tokens");
    peft_status status = PEFT_OK;
    for (uint32_t a = 0; a < count && status >= 0; a++) {
        const int32_t own = run->offsets[a + 1] - run->offsets[a], offsets[2] = {0, (int32_t)context + own};
        int32_t *labels = ids + longest;
        memcpy(ids, run->whole.ids, (size_t)context * sizeof *ids);
        memcpy(ids + context, run->tail + run->offsets[a], (size_t)own * sizeof *ids);
        for (int64_t i = 0; i < offsets[1]; i++) labels[i] = i < context ? PEFT_IGNORE_LABEL : ids[i];
        peft_batch batch;
        peft_batch_init(&batch);
        batch.rows = offsets[1];
        batch.sequences = 1;
        batch.offsets = offsets;
        batch.input_ids = ids;
        batch.labels = labels;
        run->rows_run += (double)offsets[1];
        status = peft_session_score(run->session, &batch, &nll[a], NULL, 1, NULL);
    }
    peft__free(mem, ids);
    return status;
}

peft_status peft__prompt_score_causal(peft__prompt_run *run) {
    const peft__prompt_writer *w = &run->writer;
    int64_t context = 0;
    PEFT_TRY(encode_text(run, w->text.data != NULL ? w->text.data : "", w->text.length, &run->whole));
    PEFT_TRY(encode_answers(run, &context));
    for (int64_t i = 0; i < run->offsets[run->prompt->answer_count]; i++)
        if (run->tail[i] >= run->vocab)
            return peft__fail(run->ctx, PEFT_E_MISMATCH, "token %d is outside the model's vocabulary of %lld",
                              run->tail[i], (long long)run->vocab);
    for (int64_t i = 0; i < context; i++)
        if (run->whole.ids[i] >= run->vocab)
            return peft__fail(run->ctx, PEFT_E_MISMATCH, "token %d is outside the model's vocabulary of %lld",
                              run->whole.ids[i], (long long)run->vocab);
    run->context += (double)context;
    PEFT_TRY(run->cached ? score_cached(run, context, run->nll) : score_whole(run, context, run->nll));
    int64_t *tokens = (int64_t *)(run->nll + run->prompt->answer_count); /* room for both is taken together */
    for (uint32_t a = 0; a < run->prompt->answer_count; a++) tokens[a] = run->offsets[a + 1] - run->offsets[a];
    peft__prompt_class_scores(run, run->nll, tokens);
    return PEFT_OK;
}

/* ---- encoder-decoder models ------------------------------------------------------------------------------------- */

/* One encoder sequence, one decoder sequence an answer. */
peft_status peft__prompt_score_seq2seq(peft__prompt_run *run) {
    const peft__prompt_writer *w = &run->writer;
    const peft__prompt_text *prompt = run->prompt;
    const uint32_t count = prompt->answer_count;
    const uint32_t flags = peft__prompt_flags(w);
    const int32_t start = peft__model_dims(run->session->model)->decoder_start_token_id;
    PEFT_TRY(peft__encode(run->ctx, w->tokenizer, w->text.data != NULL ? w->text.data : "", w->text.length, flags,
                          &run->whole));
    int64_t used = 0;
    for (uint32_t a = 0; a < count; a++) {
        const char *text = prompt->answers[a].text + strspn(prompt->answers[a].text, " \t\r\n");
        PEFT_TRY(peft__encode(run->ctx, w->tokenizer, text, strlen(text), flags, &run->answer));
        if (run->answer.count == 0)
            return peft__fail(run->ctx, PEFT_E_ARG, "%s: the answer \"%.60s\" has no token", prompt->where, text);
        PEFT_TRY(peft__prompt_room(run, 2 * (used + run->answer.count) + count + 1, true));
        memcpy(run->tail + used, run->answer.ids, (size_t)run->answer.count * sizeof *run->tail);
        run->offsets[a] = (int32_t)used;
        used += run->answer.count;
    }
    run->offsets[count] = (int32_t)used;
    int32_t *inputs = run->tail + used, *source = inputs + used;
    for (uint32_t a = 0; a < count; a++) {
        source[a] = 0;
        for (int32_t i = run->offsets[a]; i < run->offsets[a + 1]; i++)
            inputs[i] = i == run->offsets[a] ? start : run->tail[i - 1];
    }
    const int32_t offsets[2] = {0, (int32_t)run->whole.count};
    peft_batch batch;
    peft_batch_init(&batch);
    batch.rows = run->whole.count;
    batch.sequences = 1;
    batch.offsets = offsets;
    batch.input_ids = run->whole.ids;
    batch.decoder_rows = used;
    batch.decoder_sequences = count;
    batch.decoder_offsets = run->offsets;
    batch.decoder_input_ids = inputs;
    batch.decoder_labels = run->tail;
    batch.decoder_source = source;
    int64_t *tokens = (int64_t *)(run->nll + count);
    run->context += (double)run->whole.count;
    run->rows_run += (double)(run->whole.count + used);
    PEFT_TRY(peft_session_score(run->session, &batch, run->nll, tokens, count, NULL));
    peft__prompt_class_scores(run, run->nll, tokens);
    return PEFT_OK;
}
