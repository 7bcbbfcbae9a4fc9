/* prompts.c: the public functions of peft/prompts.h. */
#include "data/prompts.h"
#include "train/train.h"

#include <math.h>

/* ---- opening ------------------------------------------------------------------------------------------------------
 */

static peft_status open_tree(peft_context *ctx, const char *name, const json_t *tree, const peft__yaml_lines *lines,
                             const char *const *overrides, uint32_t count, peft_prompts **out) {
    if (count > 0 && overrides == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "%u overrides are announced and none given", count);
    peft_prompts *p = peft__alloc_zero(ctx->mem, sizeof *p);
    if (p == NULL) return peft__fail_nomem(ctx, sizeof *p, "prompts");
    p->ctx = peft__context_ref(ctx);
    peft__arena_init(&p->arena, ctx->mem);
    p->name = peft__arena_strdup(&p->arena, name);
    p->regex_memory = peft__regex_memory(ctx->mem);
    peft_status status = p->name == NULL || p->regex_memory == NULL ? peft__fail_nomem(ctx, 64, "prompts") : PEFT_OK;
    if (status >= 0) status = peft__prompts_read(p, tree, lines, overrides, count);
    if (status < 0) {
        peft_prompts_destroy(p);
        return status;
    }
    *out = p;
    return PEFT_OK;
}

peft_status peft_prompts_open(peft_context *context, const char *path, const char *const *overrides, uint32_t count,
                              peft_prompts **out_prompts) {
    if (context == NULL || path == NULL || out_prompts == NULL)
        return peft__fail(context, PEFT_E_ARG, "peft_prompts_open() takes a context, a path and out_prompts");
    json_t *tree = NULL;
    peft__yaml_lines *lines = NULL;
    PEFT_TRY(peft__yaml_load_file(context, path, 0, &tree, &lines));
    const peft_status status = open_tree(context, path, tree, lines, overrides, count, out_prompts);
    json_decref(tree);
    peft__yaml_lines_free(lines);
    return status;
}

peft_status peft_prompts_open_memory(peft_context *context, const void *data, uint64_t size, const char *name,
                                     const char *const *overrides, uint32_t count, peft_prompts **out_prompts) {
    if (context == NULL || data == NULL || out_prompts == NULL)
        return peft__fail(context, PEFT_E_ARG, "peft_prompts_open_memory() takes a context, data and out_prompts");
    if (name == NULL) name = "memory";
    json_t *tree = NULL;
    peft__yaml_lines *lines = NULL;
    PEFT_TRY(peft__yaml_load_memory(context, name, data, size, 0, &tree, &lines));
    const peft_status status = open_tree(context, name, tree, lines, overrides, count, out_prompts);
    json_decref(tree);
    peft__yaml_lines_free(lines);
    return status;
}

void peft_prompts_destroy(peft_prompts *p) {
    if (p == NULL) return;
    peft_context *ctx = p->ctx;
    for (uint32_t i = 0; i < p->prompt_count; i++) peft__prompt_free(p, &p->prompts[i]);
    peft__free(ctx->mem, p->prompts);
    peft__prompt_rows_free(p);
    pcre2_general_context_free(p->regex_memory);
    peft__arena_free(&p->arena);
    peft__free(ctx->mem, p);
    peft__context_unref(ctx);
}

/* ---- asking -------------------------------------------------------------------------------------------------------
 */

peft_status peft_prompts_get_text(const peft_prompts *p, const char *key, const char **out_text) {
    if (p == NULL || key == NULL || out_text == NULL) return PEFT_E_ARG;
    if (strcmp(key, "model") == 0)
        *out_text = p->model;
    else if (strcmp(key, "adapter") == 0)
        *out_text = p->adapter;
    else if (strcmp(key, "data.train") == 0)
        *out_text = p->train.path;
    else if (strcmp(key, "data.test") == 0)
        *out_text = p->test.path;
    else
        return peft__fail(p->ctx, PEFT_E_ARG, "\"%.60s\" is not model, adapter, data.train or data.test", key);
    return PEFT_OK;
}

uint32_t peft_prompts_class_count(const peft_prompts *p) {
    return p == NULL ? 0 : p->label_count;
}

const char *peft_prompts_class_name(const peft_prompts *p, uint32_t index) {
    return p == NULL || index >= p->label_count ? NULL : p->labels[index];
}

uint32_t peft_prompts_count(const peft_prompts *p) {
    return p == NULL ? 0 : p->prompt_count;
}

static peft_status find_prompt(const peft_prompts *p, uint32_t index, uint32_t seed, const peft__prompt_text **out) {
    if (index >= p->prompt_count) return peft__fail(p->ctx, PEFT_E_ARG, "prompt %u of %u", index, p->prompt_count);
    *out = &p->prompts[index];
    if (seed >= (*out)->seed_count)
        return peft__fail(p->ctx, PEFT_E_ARG, "%s has %u seeds, number %u is asked for", (*out)->where,
                          (*out)->seed_count, seed);
    return PEFT_OK;
}

peft_status peft_prompts_get_info(const peft_prompts *p, uint32_t index, peft_prompt_info *out_info) {
    if (p == NULL || out_info == NULL || out_info->struct_size < sizeof out_info->struct_size) return PEFT_E_ARG;
    const peft__prompt_text *prompt = NULL;
    PEFT_TRY(find_prompt(p, index, 0, &prompt));
    const peft_prompt_info info = {.struct_size = out_info->struct_size,
                                   .kind = prompt->kind,
                                   .name = prompt->name,
                                   .shots = prompt->shots,
                                   .seed_count = prompt->seed_count,
                                   .score = prompt->score,
                                   .calibrated = prompt->calibrated};
    memcpy(out_info, &info, peft__min_size(out_info->struct_size, sizeof info));
    return PEFT_OK;
}

static peft_status need_tokenizer(peft_context *ctx, const peft_model *model, const peft_tokenizer **out) {
    *out = peft_model_tokenizer(model);
    return *out != NULL ? PEFT_OK : peft__fail(ctx, PEFT_E_UNSUPPORTED, "the model came without a tokenizer");
}

peft_status peft_prompts_render(peft_prompts *p, const peft_model *model, uint32_t index, uint32_t seed_index,
                                int64_t row, char **out_text) {
    if (p == NULL || model == NULL || out_text == NULL) return PEFT_E_ARG;
    const peft__prompt_text *prompt = NULL;
    const peft_tokenizer *tokenizer;
    PEFT_TRY(find_prompt(p, index, seed_index, &prompt));
    PEFT_TRY(need_tokenizer(p->ctx, model, &tokenizer));
    PEFT_TRY(peft__prompt_rows_need(p, prompt));
    if (row < 0 || row >= p->test.count)
        return peft__fail(p->ctx, PEFT_E_ARG, "row %lld of %lld", (long long)row, (long long)p->test.count);
    peft__prompt_writer writer;
    PEFT_TRY(peft__prompt_writer_begin(&writer, p, prompt, tokenizer, prompt->seeds[seed_index]));
    const peft_status status = peft__prompt_write(&writer, &p->test.rows[row], NULL);
    char *text = status < 0 ? NULL : peft__strdup(p->ctx->mem, writer.text.data != NULL ? writer.text.data : "");
    peft__prompt_writer_end(&writer);
    if (status < 0) return status;
    if (text == NULL) return peft__fail_nomem(p->ctx, 64, "a prompt's text");
    *out_text = text;
    return PEFT_OK;
}

/* ---- running ------------------------------------------------------------------------------------------------------
 */

void peft_prompt_run_options_init_sized(peft_prompt_run_options *options, uint32_t size) {
    if (options == NULL || size < sizeof options->struct_size) return;
    const peft_prompt_run_options defaults = {.struct_size = size, .level = 0.95, .samples = 1000};
    memset(options, 0, size);
    memcpy(options, &defaults, peft__min_size(size, sizeof defaults));
}

static peft_status check_task(const peft_session *session, const peft__prompt_text *prompt) {
    const int32_t task = peft__model_task(session->model);
    if (task == PEFT_TASK_MASKED_LM && prompt->kind != PEFT_PROMPT_CLOZE)
        return peft__fail(session->ctx, PEFT_E_UNSUPPORTED,
                          "%s: a masked language model fills {mask}, which the template does not have", prompt->where);
    if (task != PEFT_TASK_MASKED_LM && prompt->kind == PEFT_PROMPT_CLOZE)
        return peft__fail(session->ctx, PEFT_E_UNSUPPORTED, "%s has {mask}, which needs a masked language model",
                          prompt->where);
    if (task != PEFT_TASK_MASKED_LM && task != PEFT_TASK_CAUSAL_LM && task != PEFT_TASK_SEQ_2_SEQ_LM)
        return peft__fail(session->ctx, PEFT_E_UNSUPPORTED, "prompts are ranked on language models");
    return PEFT_OK;
}

static void run_free(peft__prompt_run *run) {
    peft__mem *mem = run->ctx->mem;
    peft__prompt_writer_end(&run->writer);
    peft__encoding_free(&run->whole);
    peft__encoding_free(&run->answer);
    peft__free(mem, run->ids);
    peft__free(mem, run->tail);
    peft__free(mem, run->offsets);
    peft__free(mem, run->nll);
    peft__free(mem, run->scores);
    peft__free(mem, run->word_ids);
}

static peft_status run_begin(peft__prompt_run *run, peft_prompts *p, peft_session *session,
                             const peft__prompt_text *prompt, uint64_t seed, bool no_cache) {
    peft_context *ctx = p->ctx;
    const peft_tokenizer *tokenizer;
    *run = (peft__prompt_run){.ctx = ctx, .session = session, .prompt = prompt, .classes = p->label_count};
    run->vocab = peft__model_dims(session->model)->vocab_size;
    run->cached =
        !no_cache && peft__model_task(session->model) == PEFT_TASK_CAUSAL_LM && peft__reading_possible(session);
    peft__encoding_init(&run->whole, ctx->mem);
    peft__encoding_init(&run->answer, ctx->mem);
    const size_t answers = prompt->answer_count;
    run->offsets = peft__alloc(ctx->mem, (answers + 1) * sizeof *run->offsets);
    run->nll = peft__alloc_zero(ctx->mem, answers * (sizeof *run->nll + sizeof(int64_t)));
    run->scores = peft__alloc_zero(ctx->mem, 2 * run->classes * sizeof *run->scores);
    run->word_ids = peft__alloc(ctx->mem, answers * sizeof *run->word_ids);
    if (run->offsets == NULL || run->nll == NULL || run->scores == NULL || run->word_ids == NULL)
        return peft__fail_nomem(ctx, answers * 32, "scores of answers");
    run->free = run->scores + run->classes;
    for (size_t a = 0; a < answers; a++) run->word_ids[a] = -1;
    PEFT_TRY(peft__session_positions(session, &run->positions));
    PEFT_TRY(need_tokenizer(ctx, session->model, &tokenizer));
    return peft__prompt_writer_begin(&run->writer, p, prompt, tokenizer, seed);
}

static peft_status score_row(peft__prompt_run *run, const peft__prompt_row *row, const char *content_free) {
    PEFT_TRY(peft__prompt_write(&run->writer, row, content_free));
    switch (peft__model_task(run->session->model)) {
    case PEFT_TASK_CAUSAL_LM:
        return peft__prompt_score_causal(run);
    case PEFT_TASK_SEQ_2_SEQ_LM:
        return peft__prompt_score_seq2seq(run);
    default:
        return peft__prompt_score_cloze(run);
    }
}

/* log q: the mean over content-free inputs of softmax(scores). */
static peft_status calibrate(peft__prompt_run *run, const peft__prompt_row *row) {
    const peft__prompt_text *prompt = run->prompt;
    if (!prompt->calibrated) return PEFT_OK;
    const uint64_t started = peft__clock_us();
    double *mean = peft__alloc_zero(run->ctx->mem, run->classes * sizeof *mean);
    if (mean == NULL) return peft__fail_nomem(run->ctx, run->classes * sizeof *mean, "calibration");
    peft_status status = PEFT_OK;
    for (uint32_t i = 0; i < prompt->content_free_count && status >= 0; i++) {
        status = score_row(run, row, prompt->content_free[i]);
        if (status < 0) break;
        double top = -INFINITY, sum = 0.0;
        for (uint32_t c = 0; c < run->classes; c++) top = fmax(top, run->scores[c]);
        for (uint32_t c = 0; c < run->classes; c++) sum += exp(run->scores[c] - top);
        for (uint32_t c = 0; c < run->classes; c++)
            mean[c] += exp(run->scores[c] - top) / sum / (double)prompt->content_free_count;
    }
    for (uint32_t c = 0; c < run->classes; c++) run->free[c] = log(mean[c]);
    peft__free(run->ctx->mem, mean);
    run->rows_run = run->context = 0.0;
    run->common_us = peft__clock_us() - started;
    return status;
}

static int32_t best_of(const double *scores, uint32_t count) {
    uint32_t best = 0;
    for (uint32_t c = 1; c < count; c++)
        if (scores[c] > scores[best]) best = c;
    return (int32_t)best;
}

typedef struct arrays {
    int32_t *labels, *predictions;
    double *scores;
    uint64_t *lines;
    const char **texts;
} arrays;

static peft_status make_result(peft_prompts *p, bool written, arrays *a, peft_prompt_result **out) {
    peft_context *ctx = p->ctx;
    peft_prompt_result *result = peft__alloc_zero(ctx->mem, sizeof *result);
    if (result == NULL) return peft__fail_nomem(ctx, sizeof *result, "a result");
    result->ctx = peft__context_ref(ctx);
    peft__arena_init(&result->arena, ctx->mem);
    const size_t count = (size_t)p->test.count;
    a->labels = peft__arena_alloc(&result->arena, count * sizeof *a->labels);
    a->predictions = peft__arena_alloc(&result->arena, count * sizeof *a->predictions);
    a->lines = peft__arena_alloc(&result->arena, count * sizeof *a->lines);
    a->scores = written ? NULL : peft__arena_alloc(&result->arena, count * p->label_count * sizeof *a->scores);
    a->texts = written ? peft__arena_alloc(&result->arena, count * sizeof *a->texts) : NULL;
    if (a->labels == NULL || a->predictions == NULL || a->lines == NULL || (a->scores == NULL && a->texts == NULL)) {
        peft_prompt_result_destroy(result);
        return peft__fail_nomem(ctx, count * 32, "a result");
    }
    result->scores = (peft_prompt_scores){.classes = p->label_count,
                                          .count = p->test.count,
                                          .skipped = p->test.skipped,
                                          .labels = a->labels,
                                          .predictions = a->predictions,
                                          .scores = a->scores,
                                          .lines = a->lines,
                                          .texts = a->texts};
    *out = result;
    return PEFT_OK;
}

static peft_status run_row(peft__prompt_run *run, const peft__prompt_row *row, int64_t i, arrays *a,
                           peft_prompt_result *result) {
    a->labels[i] = row->label;
    a->lines[i] = row->line;
    if (a->texts == NULL) {
        PEFT_TRY(score_row(run, row, NULL));
        for (uint32_t c = 0; c < run->classes; c++)
            if (isnan(run->scores[c]))
                return peft__fail(run->ctx, PEFT_E_NONFINITE, "the score of an answer is not a number");
        memcpy(a->scores + i * run->classes, run->scores, run->classes * sizeof *run->scores);
        a->predictions[i] = best_of(run->scores, run->classes);
        return PEFT_OK;
    }
    peft__buffer text;
    peft__buffer_init(&text, run->ctx->mem);
    peft_status status = peft__prompt_write(&run->writer, row, NULL);
    if (status >= 0) status = peft__prompt_score_written(run, &text, &a->predictions[i]);
    if (status >= 0) {
        a->texts[i] = peft__arena_strndup(&result->arena, text.data != NULL ? text.data : "", text.length);
        if (a->texts[i] == NULL) status = peft__fail_nomem(run->ctx, text.length, "what was written");
    }
    peft__buffer_free(&text);
    return status;
}

static peft_status run_rows(peft__prompt_run *run, const peft_prompt_run_options *options, arrays *a,
                            peft_prompt_result *result) {
    const peft__prompt_rows *rows = &run->writer.prompts->test;
    PEFT_TRY(calibrate(run, &rows->rows[0]));
    const uint64_t calibrated_us = run->common_us, started = peft__clock_us();
    for (int64_t i = 0; i < rows->count; i++) {
        const peft_status status = run_row(run, &rows->rows[i], i, a, result);
        if (status < 0 && status != PEFT_E_NOMEM && status != PEFT_E_CANCELLED &&
            strncmp(run->ctx->error, rows->path, strlen(rows->path)) != 0)
            return peft__fail_in(run->ctx, status, "%s:%llu", rows->path, (unsigned long long)rows->rows[i].line);
        if (status < 0) return status;
        if (options->on_row != NULL && options->on_row(options->user, i + 1, rows->count) != 0)
            return peft__fail(run->ctx, PEFT_E_CANCELLED, "the run was ended after %lld of %lld rows", (long long)i + 1,
                              (long long)rows->count);
    }
    const double all_us = (double)(peft__clock_us() - started), n = (double)rows->count;
    peft_prompt_scores *s = &result->scores;
    s->ms_per_example = (all_us - (double)(run->common_us - calibrated_us)) / 1000.0 / n;
    s->ms_common = (double)run->common_us / 1000.0;
    s->common_tokens = run->common;
    s->tokens_per_example = run->rows_run / n;
    s->context_per_example = run->context / n;
    return PEFT_OK;
}

peft_status peft_prompts_run(peft_prompts *p, peft_session *session, uint32_t index, uint32_t seed_index,
                             const peft_prompt_run_options *options, peft_prompt_result **out_result) {
    if (p == NULL || session == NULL || out_result == NULL) return PEFT_E_ARG;
    peft_prompt_run_options own;
    peft_prompt_run_options_init(&own);
    PEFT_TRY(peft__options_copy(p->ctx, &own, sizeof own, options, sizeof own, "peft_prompt_run_options"));
    if (!(own.level > 0.0 && own.level < 1.0))
        return peft__fail(p->ctx, PEFT_E_ARG, "the level of intervals is above 0 and below 1, found %g", own.level);
    if (session->ctx != p->ctx)
        return peft__fail(p->ctx, PEFT_E_ARG, "prompts and session were made with different contexts");
    const peft__prompt_text *prompt = NULL;
    PEFT_TRY(find_prompt(p, index, seed_index, &prompt));
    PEFT_TRY(peft__session_need(session, session->phase != PEFT__RUNNING, "peft_prompts_run()",
                                "does not come inside a pass"));
    PEFT_TRY(check_task(session, prompt));
    PEFT_TRY(peft__prompt_rows_need(p, prompt));
    peft__session_start(session);
    peft__prompt_run run;
    arrays a = {0};
    peft_prompt_result *result = NULL;
    peft_status status = run_begin(&run, p, session, prompt, prompt->seeds[seed_index], own.no_cache != 0);
    if (status >= 0) status = make_result(p, prompt->kind == PEFT_PROMPT_REASONING, &a, &result);
    if (status >= 0) status = run_rows(&run, &own, &a, result);
    if (status >= 0) status = peft__prompt_result_measure(result, own.level, own.samples);
    run_free(&run);
    if (status < 0) {
        peft_prompt_result_destroy(result);
        return status;
    }
    result->scores.seed = prompt->seeds[seed_index];
    *out_result = result;
    return PEFT_OK;
}
