/* generate.c: continuing a text, token by token.
 *
 * The text is read into a cache (reading.c). Adapters that do not allow that have the whole text read again for each
 * token, which is slow and right. An encoder-decoder model reads the prompt with its encoder; what is continued then is
 * the one id that its decoder begins with (generate_seq2seq.c).
 */
#include "train/sampler.h"
#include "train/text_stream.h"
#include "train/train.h"

#include <math.h>

enum { MOST_END_TOKENS = 32 };

void peft_generate_options_init_sized(peft_generate_options *options, uint32_t size) {
    if (options == NULL || size < sizeof options->struct_size) return;
    const peft_generate_options defaults = {.struct_size = size,
                                            .max_new_tokens = 128,
                                            .top_p = 1.0f,
                                            .repetition_penalty = 1.0f,
                                            .num_beams = 1,
                                            .length_penalty = 1.0f};
    memset(options, 0, size);
    memcpy(options, &defaults, peft__min_size(size, sizeof defaults));
}

/* ---- one text being made ------------------------------------------------------------------------------------ */

typedef struct writing {
    peft_session *session;
    peft_generate_options options;
    int32_t *ids; /* prompt and what follows */
    int32_t *positions;
    int64_t prompt, count, most; /* ids of the prompt, so far, room */
    bool cached, seq2seq;
    bool begun; /* the cache has the beginning of the prompt already */
    float *logits; /* [vocab] of the last row */
    int64_t vocab;
    peft__candidate *candidates;
    uint8_t *seen;
    int32_t ends[MOST_END_TOKENS];
    uint32_t end_count;
} writing;

static bool is_seq2seq(const peft_session *session) {
    return peft__model_task(session->model) == PEFT_TASK_SEQ_2_SEQ_LM;
}

static void add_end(writing *w, json_int_t id) {
    if (id >= 0 && id < w->vocab && w->end_count < MOST_END_TOKENS) w->ends[w->end_count++] = (int32_t)id;
}

static void add_ends(writing *w, const json_t *value) {
    if (json_is_integer(value)) add_end(w, json_integer_value(value));
    for (size_t i = 0; i < json_array_size(value); i++)
        if (json_is_integer(json_array_get(value, i))) add_end(w, json_integer_value(json_array_get(value, i)));
}

/* generation_config.json beside the model, when it is there and in order. */
static void add_generation_config(writing *w, const char *folder) {
    peft_context *ctx = w->session->ctx;
    char *path = folder == NULL ? NULL : peft__path_join(ctx->mem, folder, "generation_config.json");
    peft__json *config = NULL;
    if (path != NULL && peft__path_exists(path)) {
        if (peft__json_load_file(ctx, path, (size_t)1 << 20, &config) < 0)
            peft__log(ctx, PEFT_LOG_WARNING, "%s is not used: %s", path, ctx->error);
        else
            add_ends(w, json_object_get(config, "eos_token_id"));
        json_decref(config);
    }
    peft__free(ctx->mem, path);
}

/* Ids after which a text is complete: what the model's configuration and its tokenizer say. */
static void find_ends(writing *w) {
    const peft_model *model = w->session->model;
    const json_t *config = peft__model_config_json(model);
    add_ends(w, json_object_get(config, "eos_token_id"));
    add_ends(w, json_object_get(json_object_get(config, "text_config"), "eos_token_id"));
    add_generation_config(w, peft__model_path(model));
    const peft_tokenizer *tokenizer = peft_model_tokenizer(model);
    if (tokenizer != NULL) add_end(w, peft__special_id(tokenizer, PEFT_SPECIAL_EOS));
}

static bool is_end(const writing *w, int32_t id) {
    for (uint32_t i = 0; i < w->end_count; i++)
        if (w->ends[i] == id) return true;
    return false;
}

/* ---- forward ------------------------------------------------------------------------------------------------ */

static peft_status run_rows(writing *w, peft__plan *plan, int64_t first, int64_t rows) {
    const int32_t offsets[2] = {0, (int32_t)rows};
    const peft_batch batch = {.struct_size = (uint32_t)sizeof batch,
                              .rows = rows,
                              .sequences = 1,
                              .offsets = offsets,
                              .input_ids = w->ids + first,
                              .position_ids = w->positions + first};
    PEFT_TRY(peft__graph_bind(plan->graph, &batch));
    PEFT_TRY(peft__session_run_forward(w->session, plan));
    memcpy(w->logits, plan->logits->data, (size_t)w->vocab * sizeof(float));
    return PEFT_OK;
}

/* Logits after the last id. */
static peft_status next_logits(writing *w) {
    peft_session *session = w->session;
    if (w->seq2seq) {
        const peft__value *logits = NULL;
        PEFT_TRY(peft__decoding_step(session, &w->ids[w->count - 1], &logits));
        memcpy(w->logits, logits->data, (size_t)w->vocab * sizeof(float));
        return PEFT_OK;
    }
    if (!w->cached) {
        const peft_batch size = {.rows = w->count, .sequences = 1};
        peft__capacity capacity = session->plans[PEFT__PLAN_LAST].capacity;
        if (!peft__plan_fits(session, &session->plans[PEFT__PLAN_LAST], &size)) {
            capacity.rows = peft__max_i64(
                capacity.rows, peft__min_i64(peft__ceil_div(w->count + 32, 32) * 32, peft__max_i64(w->most, 1)));
            capacity.sequences = peft__max_i64(capacity.sequences, 1);
            PEFT_TRY(peft__plan_make(session, PEFT__PLAN_LAST, &capacity));
        }
        return run_rows(w, &session->plans[PEFT__PLAN_LAST], 0, w->count);
    }
    const int64_t read = peft__reading_rows(session);
    const float *logits = NULL;
    PEFT_TRY(peft__reading_put(session, w->ids + read, w->count - read, &logits));
    memcpy(w->logits, logits, (size_t)w->vocab * sizeof(float));
    return PEFT_OK;
}

static peft_status choose(writing *w, int32_t *out_id) {
    const peft_generate_options *o = &w->options;
    if (o->repetition_penalty != 1.0f)
        peft__sampler_penalise(w->logits, w->vocab, w->ids, w->count, o->repetition_penalty, w->seen);
    const peft__sampling sampling = {o->temperature, o->top_p, o->repetition_penalty, o->top_k, o->seed};
    *out_id = peft__sampler_choose(&sampling, w->logits, w->vocab, (uint64_t)(w->count - w->prompt), w->candidates);
    if (*out_id >= 0) return PEFT_OK;
    return peft__fail(w->session->ctx, PEFT_E_NONFINITE, "no logit of token %lld is a number",
                      (long long)(w->count - w->prompt));
}

static peft_status write_tokens(writing *w, peft__text_stream *stream) {
    while (w->count < w->most) {
        int32_t id;
        PEFT_TRY(next_logits(w));
        PEFT_TRY(choose(w, &id));
        if (!w->options.ignore_eos && is_end(w, id)) break;
        w->ids[w->count++] = id;
        if (stream == NULL) continue;
        PEFT_TRY(peft__text_stream_put(stream, w->ids, w->count, w->count == w->most));
        if (stream->ended) return PEFT_OK;
    }
    return stream == NULL ? PEFT_OK : peft__text_stream_put(stream, w->ids, w->count, true);
}

/* ---- the call ----------------------------------------------------------------------------------------------- */

static peft_status check_options(peft_context *ctx, const peft_generate_options *o, const peft_tokenizer *tokenizer) {
    if (!(o->temperature >= 0.0f) || isinf(o->temperature))
        return peft__fail(ctx, PEFT_E_ARG, "temperature is 0 or more, found %g", (double)o->temperature);
    if (!(o->top_p > 0.0f && o->top_p <= 1.0f))
        return peft__fail(ctx, PEFT_E_ARG, "top_p is above 0 and up to 1, found %g", (double)o->top_p);
    if (!(o->repetition_penalty > 0.0f) || isinf(o->repetition_penalty))
        return peft__fail(ctx, PEFT_E_ARG, "repetition_penalty is above 0, found %g", (double)o->repetition_penalty);
    if (o->num_beams < 1 || o->num_beams > PEFT__MOST_BEAMS)
        return peft__fail(ctx, PEFT_E_ARG, "num_beams is 1 to %d, found %u", PEFT__MOST_BEAMS, o->num_beams);
    if (isnan(o->length_penalty) || isinf(o->length_penalty))
        return peft__fail(ctx, PEFT_E_ARG, "length_penalty is a finite number");
    if (o->num_beams > 1 && o->temperature > 0.0f)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "beam search does not draw: temperature is %g with %u beams",
                          (double)o->temperature, o->num_beams);
    if (o->num_beams > 1 && o->stop_count > 0)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "beam search has no stop texts");
    if (o->stop_count > 0 && o->stop == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "%u stop texts are announced and none given", o->stop_count);
    for (uint32_t i = 0; i < o->stop_count; i++)
        if (o->stop[i] == NULL) return peft__fail(ctx, PEFT_E_ARG, "stop text %u is NULL", i);
    if (tokenizer == NULL && (o->stop_count > 0 || o->on_text != NULL))
        return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                          "the model came without a tokenizer: text and stop texts are not possible");
    return PEFT_OK;
}

static peft_status check_prompt(const peft_session *session, const int32_t *ids, int64_t count, int64_t most) {
    peft_context *ctx = session->ctx;
    const peft__dims *dims = peft__model_dims(session->model);
    if (peft__model_task(session->model) != PEFT_TASK_CAUSAL_LM && !is_seq2seq(session))
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "generation needs a causal or an encoder-decoder language model");
    if (ids == NULL || count < 1) return peft__fail(ctx, PEFT_E_ARG, "a prompt has at least one token");
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= dims->vocab_size)
            return peft__fail(ctx, PEFT_E_ARG, "prompt_ids[%lld] is %d, expected 0 to %lld", (long long)i, ids[i],
                              (long long)(dims->vocab_size - 1));
    int64_t positions = 0;
    PEFT_TRY(peft__session_positions(session, &positions));
    if (count > INT32_MAX - most || (positions > 0 && count + most > positions))
        return peft__fail(ctx, PEFT_E_LIMIT,
                          "%lld tokens of prompt and %lld new ones are more than the model's %lld positions",
                          (long long)count, (long long)most, (long long)positions);
    return PEFT_OK;
}

/* Prompts belong to the encoder; what puts rows into the decoder would do so for every token. */
static peft_status check_decoder(const peft_session *session) {
    for (uint32_t a = 0; a < session->count; a++) {
        const peft__hooked *adapter = &session->hooked[a];
        const peft__hooks *hooks = adapter->hooks;
        if (hooks->readout != NULL || hooks->layer_input != NULL ||
            (hooks->inserted_length != NULL && hooks->inserted_length(adapter->self, PEFT__STACK_DECODER) > 0))
            return peft__fail(session->ctx, PEFT_E_UNSUPPORTED,
                              "adapter %u changes the decoder's rows: generation with it is not built", a);
    }
    return PEFT_OK;
}

static peft_status take_memory(writing *w, const int32_t *prompt) {
    peft__mem *mem = w->session->ctx->mem;
    w->ids = peft__alloc(mem, (size_t)w->most * sizeof *w->ids);
    w->positions = peft__alloc(mem, (size_t)w->most * sizeof *w->positions);
    w->logits = peft__alloc(mem, (size_t)w->vocab * sizeof *w->logits);
    w->candidates = peft__alloc(mem, (size_t)w->vocab * sizeof *w->candidates);
    w->seen = peft__alloc(mem, (size_t)(w->vocab + 7) / 8);
    if (w->ids == NULL || w->positions == NULL || w->logits == NULL || w->candidates == NULL || w->seen == NULL)
        return peft__fail_nomem(w->session->ctx, (size_t)w->vocab * sizeof *w->candidates, "generation");
    memcpy(w->ids, prompt, (size_t)w->prompt * sizeof *w->ids);
    for (int64_t i = 0; i < w->most; i++) w->positions[i] = (int32_t)i;
    return PEFT_OK;
}

static void free_memory(writing *w) {
    peft__mem *mem = w->session->ctx->mem;
    peft__free(mem, w->ids);
    peft__free(mem, w->positions);
    peft__free(mem, w->logits);
    peft__free(mem, w->candidates);
    peft__free(mem, w->seen);
}

/* Beam search: the text is there at once, at the end. */
static peft_status search_beams(writing *w, peft__text_stream *stream) {
    const peft__beams beams = {.beams = w->options.num_beams,
                               .most = w->most - w->prompt,
                               .length_penalty = w->options.length_penalty,
                               .repetition_penalty = w->options.repetition_penalty,
                               .ends = w->ends,
                               .end_count = w->options.ignore_eos ? 0 : w->end_count,
                               .start = w->ids[0]};
    int64_t count = 0;
    const peft_status status = peft__beam_search(w->session, &beams, w->ids + w->prompt, &count);
    w->count += count;
    return status < 0 || stream == NULL ? status : peft__text_stream_put(stream, w->ids, w->count, true);
}

static peft_status prepare(writing *w, const int32_t *prompt_ids, int64_t prompt_count) {
    if (!w->seq2seq) return w->cached && !w->begun ? peft__reading_begin(w->session, w->most, w->prompt) : PEFT_OK;
    return peft__decoding_begin(w->session, prompt_ids, prompt_count, w->most, w->options.num_beams);
}

peft_status peft__session_generate(peft_session *session, bool begun, const int32_t *prompt_ids, int64_t prompt_count,
                                   const peft_generate_options *options, int32_t *out_ids, int64_t capacity,
                                   int64_t *out_count) {
    writing w = {.session = session, .prompt = prompt_count, .count = prompt_count, .begun = begun};
    peft_generate_options_init(&w.options);
    PEFT_TRY(peft__options_copy(session->ctx, &w.options, sizeof w.options, options, sizeof w.options,
                                "peft_generate_options"));
    const peft_tokenizer *tokenizer = peft_model_tokenizer(session->model);
    PEFT_TRY(check_options(session->ctx, &w.options, tokenizer));
    PEFT_TRY(peft__session_need(session, session->phase != PEFT__RUNNING, "peft_session_generate()",
                                "does not come inside a pass"));
    if (capacity < 0)
        return peft__fail(session->ctx, PEFT_E_ARG, "the capacity is 0 or more, found %lld", (long long)capacity);
    const int64_t asked = w.options.max_new_tokens;
    const int64_t fresh = out_ids != NULL ? peft__min_i64(asked, capacity) : asked;
    PEFT_TRY(check_prompt(session, prompt_ids, prompt_count, fresh));
    w.vocab = peft__model_dims(session->model)->vocab_size;
    w.seq2seq = is_seq2seq(session);
    if (w.seq2seq) {
        PEFT_TRY(check_decoder(session));
        w.prompt = w.count = 1;
    } else if (w.options.num_beams > 1) {
        return peft__fail(session->ctx, PEFT_E_UNSUPPORTED, "beam search needs an encoder-decoder model");
    }
    const int32_t start = peft__model_dims(session->model)->decoder_start_token_id;
    w.most = w.prompt + fresh;
    w.cached = peft__reading_possible(session);
    find_ends(&w);
    peft__session_start(session);

    peft_status status = take_memory(&w, w.seq2seq ? &start : prompt_ids);
    if (status >= 0 && fresh > 0) status = prepare(&w, prompt_ids, prompt_count);
    if (status >= 0) {
        const bool text = w.options.stop_count > 0 || w.options.on_text != NULL;
        peft__text_stream stream;
        peft__text_stream_init(&stream, session->ctx, tokenizer, w.prompt);
        stream.stop = w.options.stop;
        stream.stop_count = w.options.stop_count;
        stream.emit = w.options.on_text;
        stream.user = w.options.user;
        status =
            w.options.num_beams > 1 ? search_beams(&w, text ? &stream : NULL) : write_tokens(&w, text ? &stream : NULL);
        peft__text_stream_free(&stream);
    }
    if (status >= 0 || status == PEFT_E_CANCELLED) {
        if (out_ids != NULL) memcpy(out_ids, w.ids + w.prompt, (size_t)(w.count - w.prompt) * sizeof *out_ids);
        if (out_count != NULL) *out_count = w.count - w.prompt;
    }
    free_memory(&w);
    return status;
}

peft_status peft_session_generate(peft_session *session, const int32_t *prompt_ids, int64_t prompt_count,
                                  const peft_generate_options *options, int32_t *out_ids, int64_t capacity,
                                  int64_t *out_count) {
    if (session == NULL) return PEFT_E_ARG;
    return peft__session_generate(session, false, prompt_ids, prompt_count, options, out_ids, capacity, out_count);
}
