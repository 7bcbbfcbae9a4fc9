/* compare_prompts.c: entries without training: the best written prompt of a file, and solved examples in front of each
 * question.
 *
 * The best prompt is chosen on the file's training rows and measured on its test rows: chosen on the test rows it would
 * be the best of several guesses at them. A file without training rows leaves no choice but the test rows; the row says
 * so. Solved examples are drawn by each of the file's seeds, and the figures are means over them.
 */
#include "compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int32_t stop_when_asked(void *user, int64_t done, int64_t total) {
    (void)user;
    (void)done;
    (void)total;
    return interrupted() ? 1 : 0;
}

static bool run_one(comparison *c, run *r, peft_prompts *prompts, uint32_t prompt, uint32_t seed,
                    peft_prompt_result **out_result, peft_prompt_scores *out_scores) {
    peft_prompt_run_options options;
    peft_prompt_run_options_init(&options);
    options.level = c->level;
    options.samples = 0;
    options.on_row = stop_when_asked;
    *out_scores = (peft_prompt_scores){.struct_size = sizeof *out_scores};
    const peft_status status = peft_prompts_run(prompts, r->session, prompt, seed, &options, out_result);
    if (status < 0) return cli_fail(r->c, NULL);
    return peft_prompt_result_get(*out_result, out_scores) >= 0 || cli_fail(r->c, NULL);
}

/* The prompt with the highest accuracy over `prompts`' test rows. One that cannot be run (a chat prompt for a model
 * without a template) is passed over, as long as another can. */
static bool find_best(comparison *c, run *r, peft_prompts *prompts, uint32_t *out_best) {
    double best = -1.0;
    for (uint32_t i = 0; i < peft_prompts_count(prompts) && !interrupted(); i++) {
        peft_prompt_result *result = NULL;
        peft_prompt_scores scores;
        if (run_one(c, r, prompts, i, 0, &result, &scores) && scores.accuracy > best) {
            best = scores.accuracy;
            *out_best = i;
        }
        peft_prompt_result_destroy(result);
    }
    return best >= 0.0; /* else the last reason is kept */
}

/* The prompt of that name; false, with a complaint, when there is none. */
static bool find_named(run *r, peft_prompts *prompts, const char *name, uint32_t *out_prompt) {
    for (uint32_t i = 0; i < peft_prompts_count(prompts); i++) {
        peft_prompt_info info = {.struct_size = sizeof info};
        if (peft_prompts_get_info(prompts, i, &info) < 0) return cli_fail(r->c, NULL);
        if (strcmp(info.name, name) != 0) continue;
        *out_prompt = i;
        return true;
    }
    free(r->c->failure);
    r->c->failure = text_copy("the prompts file has no prompt of that name");
    return false;
}

/* The best by the file's training rows, if these are not the test rows too; else by the test rows. */
static bool find_best_of_file(comparison *c, run *r, const char *path, peft_prompts *prompts, uint32_t *out_prompt,
                              bool *out_on_train) {
    const char *train = NULL, *test = NULL;
    if (peft_prompts_get_text(prompts, "data.train", &train) < 0 ||
        peft_prompts_get_text(prompts, "data.test", &test) < 0)
        return cli_fail(r->c, NULL);
    *out_on_train = train != NULL && test != NULL && strcmp(train, test) != 0;
    if (!*out_on_train) return find_best(c, r, prompts, out_prompt);
    char *word = malloc(strlen(train) + 16);
    peft_prompts *on_train = NULL;
    if (word == NULL) return cli_fail(r->c, "out of memory");
    sprintf(word, "data.test=%s", train);
    const char *overrides[] = {"shots=0", word};
    bool good = peft_prompts_open(r->c->context, path, overrides, 2, &on_train) >= 0 || cli_fail(r->c, NULL);
    good = good && find_best(c, r, on_train, out_prompt);
    peft_prompts_destroy(on_train);
    free(word);
    return good;
}

static bool choose(comparison *c, run *r, const peft_compare_entry *entry, peft_prompts *prompts, uint32_t *out_prompt,
                   contender *out) {
    bool on_train = false;
    const bool search =
        entry->prompt == NULL && entry->kind == PEFT_COMPARE_HARD_PROMPT && peft_prompts_count(prompts) > 1;
    *out_prompt = 0;
    if (entry->prompt != NULL && !find_named(r, prompts, entry->prompt, out_prompt)) return false;
    if (search && !find_best_of_file(c, r, entry->prompts, prompts, out_prompt, &on_train)) return false;
    peft_prompt_info info = {.struct_size = sizeof info};
    if (peft_prompts_get_info(prompts, *out_prompt, &info) < 0) return cli_fail(r->c, NULL);
    snprintf(out->detail, sizeof out->detail, "prompt \"%.60s\"%s", info.name,
             !search    ? ""
             : on_train ? ", the best on the training rows"
                        : ", the best on the test rows themselves");
    return true;
}

/* Means over the choices of shots. */
static bool measure(comparison *c, run *r, peft_prompts *prompts, uint32_t prompt, contender *out) {
    peft_prompt_info info = {.struct_size = sizeof info};
    peft_model_info model = {.struct_size = sizeof model};
    if (peft_prompts_get_info(prompts, prompt, &info) < 0 || peft_model_get_info(r->model, &model) < 0)
        return cli_fail(r->c, NULL);
    const int32_t architecture = compare_architecture(r->model);
    const double n = (double)model.parameters;
    double common = 0.0;
    quality q = {.more_is_better = true};
    snprintf(q.measure, sizeof q.measure, "accuracy");
    for (uint32_t seed = 0; seed < info.seed_count && !interrupted(); seed++) {
        peft_prompt_result *result = NULL;
        peft_prompt_scores scores;
        const double before = peft_session_flops(r->session);
        const bool good = run_one(c, r, prompts, prompt, seed, &result, &scores);
        if (good && scores.count > 0) {
            const double flops = (peft_session_flops(r->session) - before) / (double)scores.count;
            const double share = 1.0 / (double)(seed + 1);
            q.examples = scores.count;
            q.value += share * (scores.accuracy - q.value);
            q.low += share * (scores.accuracy_low - q.low);
            q.high += share * (scores.accuracy_high - q.high);
            q.milliseconds += share * (scores.ms_per_example - q.milliseconds);
            q.tokens += share * (scores.tokens_per_example - q.tokens);
            q.flops += share * (flops - q.flops);
            common += share * ((double)scores.common_tokens - common);
            out->seed_low = seed == 0 ? scores.accuracy : fmin(out->seed_low, scores.accuracy);
            out->seed_high = seed == 0 ? scores.accuracy : fmax(out->seed_high, scores.accuracy);
        }
        peft_prompt_result_destroy(result);
        if (!good) return false;
    }
    out->q = q;
    out->seeds = info.seed_count;
    out->bytes = 4.0 * common;
    out->train_tokens = out->train_flops = out->train_flops_frozen = 0.0;
    out->infer_flops_counted = q.flops;
    out->train_flops_counted = 0.0;
    out->infer_flops = peft_cost_inference(architecture, n, q.tokens);
    out->infer_flops_uncached = peft_cost_inference(architecture, n, q.tokens + common);
    out->share = 0.0;
    return true;
}

bool compare_prompts(comparison *c, run *r, uint32_t index, const peft_compare_entry *entry, contender *out) {
    (void)index;
    char shots[64];
    snprintf(shots, sizeof shots, "shots=%lld", entry->kind == PEFT_COMPARE_ICL ? (long long)entry->shots : 0);
    const char *overrides[] = {shots};
    const uint32_t count = entry->kind == PEFT_COMPARE_HARD_PROMPT || entry->shots > 0 ? 1 : 0;
    peft_prompts *prompts = NULL;
    if (!run_open_parts(r, 0)) return false;
    peft_context_reset_peak(r->c->context);
    r->session_options.inference = 1;
    uint32_t prompt = 0;
    bool good =
        (peft_prompts_open(r->c->context, entry->prompts, overrides, count, &prompts) >= 0) || cli_fail(r->c, NULL);
    good = good && run_open_session(r, NULL, &r->session);
    if (good) interrupt_watch(r->session);
    good = good && choose(c, r, entry, prompts, &prompt, out) && !interrupted() && measure(c, r, prompts, prompt, out);
    interrupt_ignore();
    uint64_t peak = 0;
    peft_context_memory(r->c->context, NULL, &peak, NULL);
    out->inference_memory = (double)peak;
    peft_prompts_destroy(prompts);
    return good;
}
