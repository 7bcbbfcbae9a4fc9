/* Hard prompts: scores against transformers, with and without the cache, with adapters; shots; reading answers; errors.
 */
#include "data/prompts.h"
#include "data_test.h"
#include "train/train.h"

static peft_context *ctx;
static json_t *expected;

static peft_prompts *opened(const char *yaml, const char *extra) {
    char test[1100], train[1100];
    snprintf(test, sizeof test, "data.test=%s", test_path("prompts/test.csv"));
    snprintf(train, sizeof train, "data.train=%s", test_path("prompts/train.csv"));
    const char *overrides[] = {test, train, extra};
    peft_prompts *prompts = NULL;
    CHECK_OK(ctx,
             peft_prompts_open_memory(ctx, yaml, strlen(yaml), "p.yaml", overrides, extra != NULL ? 3 : 2, &prompts));
    if (prompts == NULL) exit(check_summary() + 1);
    return prompts;
}

static peft_model *loaded(const char *name) {
    char path[64];
    snprintf(path, sizeof path, "models/%s", name);
    peft_model_options options;
    peft_model_options_init(&options);
    if (strstr(name, "bert") != NULL) options.task = PEFT_TASK_MASKED_LM;
    peft_model *model = NULL;
    CHECK_OK(ctx, peft_model_load(ctx, test_path(path), &options, &model));
    if (model == NULL) exit(check_summary() + 1);
    return model;
}

static peft_prompt_scores ran(peft_prompts *prompts, peft_session *session, uint32_t index, uint32_t seed,
                              bool no_cache, peft_prompt_result **out_result) {
    peft_prompt_run_options options;
    peft_prompt_run_options_init(&options);
    options.no_cache = no_cache;
    options.samples = 20;
    *out_result = NULL;
    CHECK_OK(ctx, peft_prompts_run(prompts, session, index, seed, &options, out_result));
    peft_prompt_scores scores = {.struct_size = (uint32_t)sizeof scores};
    if (*out_result != NULL) CHECK_OK(ctx, peft_prompt_result_get(*out_result, &scores));
    return scores;
}

/* Of equal scores the first: predictions follow from scores. */
static void check_predictions(const peft_prompt_scores *s) {
    int64_t right = 0;
    for (int64_t i = 0; i < s->count; i++) {
        int32_t best = 0;
        for (uint32_t c = 1; c < s->classes; c++)
            if (s->scores[i * s->classes + c] > s->scores[i * s->classes + (uint32_t)best]) best = (int32_t)c;
        CHECK(s->predictions[i] == best);
        right += best == s->labels[i];
    }
    CHECK_NEAR(s->accuracy, (double)right / (double)s->count, 1e-12);
    CHECK(s->accuracy_low <= s->accuracy && s->accuracy <= s->accuracy_high);
}

static void against_transformers(const char *name, const char *yaml) {
    peft_model *model = loaded(name);
    peft_session *session = NULL;
    peft_prompts *prompts = opened(yaml, NULL);
    CHECK_OK(ctx, peft_session_create(ctx, model, NULL, 0, NULL, &session));
    for (uint32_t p = 0; p < peft_prompts_count(prompts); p++) {
        peft_prompt_info info = {.struct_size = (uint32_t)sizeof info};
        CHECK_OK(ctx, peft_prompts_get_info(prompts, p, &info));
        const json_t *want = json_object_get(json_object_get(expected, name), info.name);
        peft_prompt_result *result = NULL;
        const peft_prompt_scores s = ran(prompts, session, p, 0, false, &result);
        CHECK(want != NULL && s.count == (int64_t)json_array_size(want) && s.classes == 3);
        double worst = 0.0; /* relative: a sum over tokens is as large as they are many */
        for (int64_t i = 0; i < s.count; i++)
            for (size_t c = 0; c < 3; c++) {
                const double score = json_number_value(json_array_get(json_array_get(want, (size_t)i), c));
                worst = fmax(worst, fabs(s.scores[3 * i + (int64_t)c] - score) / fmax(1.0, fabs(score)));
            }
        if (worst > 1e-5) fprintf(stderr, "%s, prompt %s\n", name, info.name);
        CHECK_NEAR(worst, 0.0, 1e-5);
        check_predictions(&s);
        peft_prompt_result_destroy(result);
    }
    peft_session_destroy(session);
    peft_prompts_destroy(prompts);
    peft_model_destroy(model);
}

/* The cache changes nothing: instruction and shots in it, several answers of several tokens, adapters of each kind. */
static const char CACHED[] = "data: {}\n"
                             "labels: [account, billing, shipping]\n"
                             "template: \"{text}:\"\n"
                             "separator: \" \"\n"
                             "verbalizers: {account: login, billing: [a bill, b], shipping: c}\n"
                             "prompts:\n"
                             "  - {name: instructed, instruction: \"One of\", score: sum}\n"
                             "  - {name: shots, shots: 1, seeds: [0, 5], template: \"{text}\", calibrate: contextual}\n"
                             "  - {name: long, score: character}\n";

static void cache_and_none(const char *name, const char *config) {
    peft_model *model = loaded(name);
    peft_adapter *adapter = NULL;
    peft_session *session = NULL;
    if (config != NULL) CHECK_OK(ctx, peft_adapter_create(ctx, model, config, 1, &adapter));
    CHECK_OK(ctx, peft_session_create(ctx, model, &adapter, adapter != NULL, NULL, &session));
    if (session == NULL) exit(check_summary() + 1);
    peft_prompts *prompts = opened(CACHED, "data.max_examples=5");
    for (uint32_t p = 0; p < 3; p++)
        for (uint32_t seed = 0; seed < (p == 1 ? 2u : 1u); seed++) {
            peft_prompt_result *with = NULL, *without = NULL;
            const peft_prompt_scores a = ran(prompts, session, p, seed, false, &with);
            const peft_prompt_scores b = ran(prompts, session, p, seed, true, &without);
            CHECK(a.count == 5 && b.count == 5 && b.common_tokens == 0);
            double worst = 0.0;
            for (int64_t i = 0; i < 15 && a.scores != NULL && b.scores != NULL; i++)
                worst = fmax(worst, fabs(a.scores[i] - b.scores[i]) / fmax(1.0, fabs(b.scores[i])));
            if (worst > 1e-5) fprintf(stderr, "%s, prompt %u, %s\n", name, p, config != NULL ? config : "bare");
            CHECK_NEAR(worst, 0.0, 1e-5);
            if (peft__reading_possible(session)) {
                CHECK(p == 2 || a.common_tokens > 2); /* read once */
                CHECK(a.tokens_per_example < b.tokens_per_example / 2.0);
                CHECK(a.context_per_example == b.context_per_example);
            }
            peft_prompt_result_destroy(with);
            peft_prompt_result_destroy(without);
        }
    peft_prompts_destroy(prompts);
    peft_session_destroy(session);
    peft_adapter_destroy(adapter);
    peft_model_destroy(model);
}

static void shots(void) {
    peft_prompts *prompts = opened(CACHED, "shots=6");
    peft__prompt_text *prompt = &prompts->prompts[0];
    CHECK_OK(ctx, peft__prompt_rows_need(prompts, prompt));
    int64_t six[6], three[3], other[6];
    CHECK_OK(ctx, peft__prompt_choose(prompts, prompt, 7, six));
    CHECK_OK(ctx, peft__prompt_choose(prompts, prompt, 8, other));
    prompt->shots = 3;
    CHECK_OK(ctx, peft__prompt_choose(prompts, prompt, 7, three));
    CHECK(memcmp(six, three, sizeof three) == 0); /* fewer shots are the first of more */
    CHECK(memcmp(six, other, sizeof six) != 0);
    int32_t seen = 0, used = 0;
    for (int i = 0; i < 3; i++) seen |= 1 << prompts->train.rows[three[i]].label;
    for (int i = 0; i < 6; i++) used |= 1 << six[i];
    CHECK(seen == 7 && used == 63); /* every class once; no row twice */
    prompt->balanced = false;
    prompt->shots = 6;
    CHECK_OK(ctx, peft__prompt_choose(prompts, prompt, 7, six));
    used = 0;
    for (int i = 0; i < 6; i++) used |= 1 << six[i];
    CHECK(used == 63);
    prompt->shots = 7;
    CHECK_STATUS(ctx, peft__prompt_rows_need(prompts, prompt), PEFT_E_ARG);
    CHECK(strstr(peft_context_error(ctx), "7 shots are asked for") != NULL);
    peft_prompts_destroy(prompts);
}

static void texts(void) {
    static const char yaml[] = "data: {}\nlabels: [account, billing, shipping]\ninstruction: \"Choose: {choices}\"\n"
                               "prompts:\n"
                               "  - {name: plain, template: \"Q: {text}\\nA:\", shots: 1, separator: \"\\n--\\n\"}\n"
                               "  - {name: own, template: \"{text}\", shots: 1, shot_template: \"{text} ({answer})\"}\n"
                               "  - {name: chat, template: \"Q: {text}\", chat: chatml, shots: 1}\n";
    peft_model *model = loaded("qwen2");
    peft_prompts *prompts = opened(yaml, NULL);
    char *text = NULL;
    const peft__prompt_row *shot;
    int64_t chosen = 0;
    CHECK_OK(ctx, peft__prompt_rows_need(prompts, &prompts->prompts[0]));
    CHECK_OK(ctx, peft__prompt_choose(prompts, &prompts->prompts[0], 0, &chosen));
    shot = &prompts->train.rows[chosen];
    const char *asked = json_string_value(json_object_get(shot->row, "text")), *said = prompts->labels[shot->label];
    char want[512];
    CHECK_OK(ctx, peft_prompts_render(prompts, model, 0, 0, 3, &text));
    snprintf(want, sizeof want,
             "Choose: account, billing, shipping\n--\nQ: %s\nA: %s\n--\nQ: where is my parcel, !\nA:", asked, said);
    CHECK_STR(text, want);
    peft_text_free(ctx, text);
    CHECK_OK(ctx, peft_prompts_render(prompts, model, 1, 0, 3, &text));
    snprintf(want, sizeof want, "Choose: account, billing, shipping\n\n%s (%s)\n\nwhere is my parcel, !", asked, said);
    CHECK_STR(text, want);
    peft_text_free(ctx, text);
    CHECK_OK(ctx, peft_prompts_render(prompts, model, 2, 0, 3, &text));
    snprintf(want, sizeof want,
             "<|im_start|>system\nChoose: account, billing, shipping<|im_end|>\n<|im_start|>user\nQ: %s<|im_end|>\n"
             "<|im_start|>assistant\n%s<|im_end|>\n<|im_start|>user\nQ: where is my parcel, !<|im_end|>\n"
             "<|im_start|>assistant\n",
             asked, said);
    CHECK_STR(text, want);
    peft_text_free(ctx, text);
    CHECK_STATUS(ctx, peft_prompts_render(prompts, model, 0, 0, 7, &text), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_prompts_render(prompts, model, 3, 0, 0, &text), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_prompts_render(prompts, model, 0, 1, 0, &text), PEFT_E_ARG);
    peft_prompts_destroy(prompts);
    peft_model_destroy(model);
}

static int32_t meant(const peft_prompts *p, const char *text) {
    return peft__prompt_class_of(p, &p->prompts[0], text, strlen(text));
}

static void reasoning(void) {
    static const char yaml[] =
        "data: {max_examples: 2}\nlabels: [account, billing, shipping]\ntemplate: \"{text}\"\n"
        "instruction: \"So\"\n"
        "prompts:\n  - {name: after, verbalizers: {account: [A, login], billing: B, shipping: \"not B\"}, reasoning: "
        "{max_new_tokens: 4, after: \"\"}}\n"
        "  - {name: pattern, reasoning: {max_new_tokens: 4, pattern: \"(?i)answer (\\\\w+)\"}}\n";
    peft_prompts *prompts = opened(yaml, NULL);
    CHECK(meant(prompts, " B.") == 1 && meant(prompts, "**not b**, I think") == 2 && meant(prompts, "Login") == 0);
    CHECK(meant(prompts, "shipping") == 2 && meant(prompts, "it is billing") == 1 && meant(prompts, "Bee") == -1);
    CHECK(meant(prompts, "") == -1 && meant(prompts, "x\nA") == -1 && meant(prompts, "\n a") == 0);
    peft_model *model = loaded("llama-gqa");
    peft_session *session = NULL;
    CHECK_OK(ctx, peft_session_create(ctx, model, NULL, 0, NULL, &session));
    for (uint32_t p = 0; p < 2; p++) {
        peft_prompt_result *with = NULL, *without = NULL;
        const peft_prompt_scores a = ran(prompts, session, p, 0, false, &with);
        const peft_prompt_scores b = ran(prompts, session, p, 0, true, &without);
        CHECK(a.count == 2 && a.scores == NULL && a.texts != NULL && a.unread <= 2 && a.common_tokens > 0);
        for (int64_t i = 0; i < 2 && a.texts != NULL && b.texts != NULL; i++) CHECK_STR(a.texts[i], b.texts[i]);
        peft_prompt_result_destroy(with);
        peft_prompt_result_destroy(without);
    }
    peft_session_destroy(session);
    peft_model_destroy(model);
    peft_prompts_destroy(prompts);
}

static void refused(const char *yaml, const char *extra, peft_status status, const char *want) {
    peft_prompts *prompts = NULL;
    CHECK_STATUS(ctx, peft_prompts_open_memory(ctx, yaml, strlen(yaml), "p.yaml", &extra, extra != NULL, &prompts),
                 status);
    if (strstr(peft_context_error(ctx), want) == NULL) CHECK_STR(peft_context_error(ctx), want);
    CHECK(prompts == NULL);
}

static void files(void) {
#define TOP "data: {test: t.csv}\nlabels: [a, b]\n"
    refused("data: {test: t.csv}\nlabels: [a, b]\nprompts:\n  - name: x\n    tempate: \"{text}\"\n", NULL,
            PEFT_E_FORMAT, "p.yaml:5: prompts[0].tempate: unknown key; did you mean \"template\"?");
    refused(TOP "promts: []\n", NULL, PEFT_E_FORMAT, "did you mean \"prompts\"?");
    refused("data: {tets: t.csv}\nprompts: []\n", NULL, PEFT_E_FORMAT, "");
    refused(TOP "prompts: []\n", NULL, PEFT_E_FORMAT, "expected a list of 1 to");
    refused(TOP "prompts: [{name: x}]\n", NULL, PEFT_E_FORMAT, "prompts[0].template: is missing");
    refused(TOP "prompts: [{template: \"{text} {label}\"}]\n", NULL, PEFT_E_FORMAT, "would give the answer away");
    refused("data: {test: t.csv, label_key: topic}\nlabels: [a, b]\nprompts: [{template: \"{topic}\"}]\n", NULL,
            PEFT_E_FORMAT, "has {topic}, which would give the answer away");
    refused(TOP "prompts: [{template: \"{mask} {mask}\"}]\n", NULL, PEFT_E_FORMAT, "{mask} 2 times");
    refused(TOP "prompts: [{template: \"{text\"}]\n", NULL, PEFT_E_FORMAT, "a { that no } closes");
    refused(TOP "prompts: [{template: x, shots: 2}]\n", NULL, PEFT_E_FORMAT, "data.train, which is missing");
    refused(TOP "prompts: [{template: x, shots: 2}]\n", "data.train=t.csv", PEFT_E_FORMAT, "are the same file");
    refused(TOP "prompts: [{template: x, shots: -1}]\n", NULL, PEFT_E_ARG, "-1 is not from 0");
    refused(TOP "prompts: [{template: x, score: mean}]\n", NULL, PEFT_E_FORMAT, "is one of token, sum, character");
    refused(TOP "prompts: [{template: x, verbalizers: {a: u, c: v}}]\n", NULL, PEFT_E_FORMAT, "\"c\" is no class");
    refused(TOP "prompts: [{template: x, verbalizers: {a: u}}]\n", NULL, PEFT_E_FORMAT, "class \"b\" has no answer");
    refused(TOP "prompts: [{template: x, verbalizers: {a: u, b: u}}]\n", NULL, PEFT_E_FORMAT,
            "\"u\" stands for \"a\" and");
    refused(TOP "prompts: [{template: x, reasoning: {pattern: \"(\"}}]\n", NULL, PEFT_E_UNSUPPORTED,
            "reasoning.pattern");
    refused(TOP "prompts: [{name: x, template: x}, {name: x, template: y}]\n", NULL, PEFT_E_FORMAT, "is there twice");
    refused("data: {test: t.csv}\nprompts: [{template: x}]\n", NULL, PEFT_E_FORMAT, "at least two classes");
    refused("data: {}\nlabels: [a, b]\nprompts: [{template: x}]\n", NULL, PEFT_E_FORMAT, "data.test: is missing");
    refused(TOP "prompts: [{template: x}]\n", "shots", PEFT_E_ARG, "an override is key=value");
}

static void runs_refused(void) {
    static const char unknown[] = "data: {}\nlabels: [account, billing, shipping]\nprompts: [{template: \"{txt}\"}]\n";
    static const char cloze[] =
        "data: {}\nlabels: [account, billing, shipping]\nprompts: [{template: \"{text} {mask}\"}]\n";
    static const char classes[] = "data: {}\nlabels: [account, billing]\nprompts: [{template: \"{text}\"}]\n";
    static const char many[] =
        "data: {}\nlabels: [account, billing, shipping]\nprompts: [{template: \"{text}\", shots: 6}]\n";
    const struct {
        const char *model, *yaml;
        peft_status status;
        const char *want;
    } cases[] = {{"llama-gqa", unknown, PEFT_E_FORMAT, "test.csv:2: p.yaml:3: prompts[0].template has {txt}"},
                 {"llama-gqa", cloze, PEFT_E_UNSUPPORTED, "needs a masked language model"},
                 {"bert", unknown, PEFT_E_UNSUPPORTED, "fills {mask}"},
                 {"bert", cloze, PEFT_E_ARG, "{mask} takes a word of one token"},
                 {"llama-gqa", classes, PEFT_E_FORMAT, "test.csv:5: \"label\" is \"shipping\", which is no class"},
                 {"llama-gqa", many, PEFT_E_LIMIT, "the model has 64 positions"}};
    for (size_t i = 0; i < PEFT_COUNT(cases); i++) {
        peft_model *model = loaded(cases[i].model);
        peft_session *session = NULL;
        peft_prompt_result *result = NULL;
        peft_prompts *prompts = opened(cases[i].yaml, NULL);
        CHECK_OK(ctx, peft_session_create(ctx, model, NULL, 0, NULL, &session));
        CHECK_STATUS(ctx, peft_prompts_run(prompts, session, 0, 0, NULL, &result), cases[i].status);
        if (strstr(peft_context_error(ctx), cases[i].want) == NULL) CHECK_STR(peft_context_error(ctx), cases[i].want);
        CHECK(result == NULL);
        peft_session_destroy(session);
        peft_prompts_destroy(prompts);
        peft_model_destroy(model);
    }
}

/* (p + z2 / 2n +- z sqrt(p q / n + z2 / 4n2)) / (1 + z2 / n), worked out by hand. */
static void wilson(void) {
    peft_interval i = {.struct_size = (uint32_t)sizeof i};
    CHECK_OK(ctx, peft_metric_wilson(ctx, 7, 10, 0.95, &i));
    CHECK_NEAR(i.value, 0.7, 1e-15);
    CHECK_NEAR(i.low, 0.3967781, 1e-7);
    CHECK_NEAR(i.high, 0.8922087, 1e-7);
    CHECK_OK(ctx, peft_metric_wilson(ctx, 0, 20, 0.9, &i));
    CHECK_NEAR(i.low, 0.0, 0.0);
    CHECK_NEAR(i.high, 0.1191578, 1e-7);
    CHECK_STATUS(ctx, peft_metric_wilson(ctx, 3, 2, 0.95, &i), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_metric_wilson(ctx, 1, 2, 1.0, &i), PEFT_E_ARG);
}

int main(void) {
    static const char causal[] =
        "data: {}\nlabels: [account, billing, shipping]\ntemplate: \"{text}:\"\nprompts:\n"
        "  - {name: words, verbalizers: {account: account, billing: [bills, an invoice], shipping: parcel}}\n"
        "  - {name: sum, score: sum}\n"
        "  - {name: blank, template: \"{text}? \", score: character}\n"
        "  - {name: calibrated, template: \"{text} is\", instruction: Say., calibrate: contextual}\n";
    static const char seq2seq[] = "data: {}\nlabels: [account, billing, shipping]\nprompts:\n"
                                  "  - {name: words, template: \"{text}:\", verbalizers: {account: account, billing: "
                                  "[bills, an invoice], shipping: parcel}}\n";
    static const char cloze[] =
        "data: {}\nlabels: [account, billing, shipping]\nverbalizers: {account: a, billing: [b, c], shipping: d}\n"
        "prompts:\n  - {name: middle, template: \"{text} is {mask} .\"}\n  - {name: start, template: \"{mask}: "
        "{text}\"}\n";
    ctx = test_context();
    CHECK_OK(ctx, peft__json_load_file(ctx, test_path("prompts/expected.json"), 0, &expected));
    against_transformers("llama-gqa", causal);
    against_transformers("gpt2", causal);
    against_transformers("qwen2", causal);
    against_transformers("t5-v10", seq2seq);
    against_transformers("t5-v11", seq2seq);
    against_transformers("bert", cloze);
    against_transformers("roberta", cloze);
    against_transformers("distilbert", cloze);
    cache_and_none("llama-gqa", NULL);
    cache_and_none("gpt2", NULL);
    cache_and_none("llama-gqa", "{\"peft_type\": \"LORA\", \"r\": 4, \"target_modules\": [\"q_proj\", \"v_proj\"], "
                                "\"init_lora_weights\": false}");
    cache_and_none("llama-gqa", "{\"peft_type\": \"PROMPT_TUNING\", \"num_virtual_tokens\": 5}");
    cache_and_none("llama-gqa", "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 5}");
    shots();
    texts();
    reasoning();
    files();
    runs_refused();
    wilson();
    json_decref(expected);
    peft_context_destroy(ctx);
    return check_summary();
}
