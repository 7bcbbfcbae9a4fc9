/* Every allocation of opening and running a prompt file fails in turn: a status, no leak, and the next try works. */
#include "data_test.h"
#include "meter.h"
#include "peft/prompts.h"

static const char CAUSAL[] =
    "data: {max_examples: 1}\nlabels: [account, billing, shipping]\nprompts:\n"
    "  - {name: a, template: \"{text}:\", instruction: \"So\", shots: 1, calibrate: contextual,\n"
    "     verbalizers: {account: [a login, x], billing: b, shipping: c}}\n"
    "  - {name: b, template: \"{text}:\", reasoning: {max_new_tokens: 2, pattern: \"a(b)\"}}\n"
    "  - {name: c, template: \"{text}:\", chat: chatml}\n";
static const char CLOZE[] =
    "data: {max_examples: 1}\nlabels: [account, billing, shipping]\n"
    "verbalizers: {account: a, billing: b, shipping: d}\nprompts: [{template: \"{mask} {text}\"}]\n";
static const char SEQ2SEQ[] =
    "data: {max_examples: 1}\nlabels: [account, billing, shipping]\nprompts: [{template: \"{text}\"}]\n";

static peft_status use(peft_context *ctx, peft_session *session, const char *yaml) {
    char test[1100], train[1100];
    snprintf(test, sizeof test, "data.test=%s", test_path("prompts/test.csv"));
    snprintf(train, sizeof train, "data.train=%s", test_path("prompts/train.csv"));
    const char *overrides[] = {test, train};
    peft_prompts *prompts = NULL;
    peft_prompt_run_options options;
    peft_prompt_run_options_init(&options);
    options.samples = 2;
    peft_status status = peft_prompts_open_memory(ctx, yaml, strlen(yaml), "p.yaml", overrides, 2, &prompts);
    for (uint32_t i = 0; status >= 0 && i < peft_prompts_count(prompts); i++) {
        peft_prompt_result *result = NULL;
        status = peft_prompts_run(prompts, session, i, 0, &options, &result);
        CHECK((status >= 0) == (result != NULL));
        peft_prompt_result_destroy(result);
    }
    peft_prompts_destroy(prompts);
    return status;
}

static void fail_in_turn(const char *name, int32_t task, const char *yaml) {
    meter m = {.left = -1};
    const peft_allocator allocator = {.alloc = meter_alloc, .free = meter_free, .user = &m};
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = 1;
    options.allocator = &allocator;
    peft_context *ctx = NULL;
    peft_model *model = NULL;
    peft_session *session = NULL;
    peft_model_options how;
    peft_model_options_init(&how);
    how.task = task;
    CHECK(peft_context_create(&options, &ctx) == PEFT_OK);
    CHECK_OK(ctx, peft_model_load(ctx, test_path(name), &how, &model));
    CHECK_OK(ctx, peft_session_create(ctx, model, NULL, 0, NULL, &session));
    if (session == NULL) exit(check_summary() + 1);
    long tries = 0;
    peft_status status = PEFT_E_NOMEM;
    for (; status == PEFT_E_NOMEM && tries < 20000; tries++) {
        m.left = tries;
        status = use(ctx, session, yaml);
    }
    m.left = -1;
    if (status < 0) fprintf(stderr, "%s: %s\n", name, peft_context_error(ctx));
    CHECK(status >= 0 && tries > 20);
    CHECK_OK(ctx, use(ctx, session, yaml));
    peft_session_destroy(session);
    peft_model_destroy(model);
    peft_context_destroy(ctx);
    CHECK(m.live == 0);
}

int main(void) {
    fail_in_turn("models/llama-gqa", PEFT_TASK_AUTO, CAUSAL);
    fail_in_turn("models/bert", PEFT_TASK_MASKED_LM, CLOZE);
    fail_in_turn("models/t5-v11", PEFT_TASK_AUTO, SEQ2SEQ);
    return check_summary();
}
