/* The entries of a comparison: what they are, the recipes that they become, and mistakes in them. */
#include "data_test.h"
#include "peft/recipe.h"

static const char COMMON[] = "model: base.gguf\n"
                             "adapter: {r: 4, lora_alpha: 12}\n"
                             "learning_rate: 1e-3\n"
                             "data: {train: a.csv, label_names: [no, yes]}\n"
                             "compare:\n"
                             "  seeds: 3\n"
                             "  entries:\n"
                             "    - base\n"
                             "    - {r: 16}\n"
                             "    - {name: scaled, method: ia3, lr: 1e-2, train: {max_steps: 7}}\n"
                             "    - {name: prompt, adapter: {method: prompt_tuning, num_virtual_tokens: 8}}\n"
                             "    - {hard_prompt: p.yaml, prompt: plain}\n"
                             "    - {icl: p.yaml, shots: 8, model: other.gguf}\n"
                             "    - full\n";

static peft_status open_text(peft_context *ctx, const char *text, const char *override, peft_recipe **out) {
    return peft_recipe_open_memory(ctx, text, strlen(text), "r.yaml", &override, override != NULL ? 1 : 0,
                                   PEFT_RECIPE_STRICT, out);
}

static peft_compare_entry entry_of(peft_context *ctx, const peft_recipe *recipe, uint32_t index) {
    peft_compare_entry entry = {.struct_size = sizeof entry};
    CHECK_OK(ctx, peft_recipe_compare_entry(recipe, index, &entry));
    return entry;
}

static bool config_has(const peft_recipe *recipe, const char *part) {
    return strstr(peft_recipe_adapter_config(recipe), part) != NULL;
}

static double number(const peft_recipe *recipe, const char *key) {
    double value = -1.0;
    CHECK(peft_recipe_get_number(recipe, key, &value) == PEFT_OK);
    return value;
}

static void entries(peft_context *ctx) {
    peft_recipe *recipe = NULL;
    CHECK_OK(ctx, open_text(ctx, COMMON, "train.batch_size=5", &recipe));
    if (recipe == NULL) return;
    CHECK(peft_recipe_compare_count(recipe) == 7);
    CHECK_NEAR(number(recipe, "compare.seeds"), 3.0, 0.0);
    static const struct {
        int32_t kind;
        const char *name;
    } WANT[] = {{PEFT_COMPARE_BASE, "base"},
                {PEFT_COMPARE_TRAIN, "lora"},
                {PEFT_COMPARE_TRAIN, "scaled"},
                {PEFT_COMPARE_TRAIN, "prompt"},
                {PEFT_COMPARE_HARD_PROMPT, "hard prompt"},
                {PEFT_COMPARE_ICL, "icl, 8 shots"},
                {PEFT_COMPARE_TRAIN, "full"}};
    for (uint32_t i = 0; i < 7; i++) {
        const peft_compare_entry entry = entry_of(ctx, recipe, i);
        CHECK(entry.kind == WANT[i].kind);
        CHECK_STR(entry.name, WANT[i].name);
    }
    CHECK_STR(entry_of(ctx, recipe, 4).prompts, "p.yaml");
    CHECK_STR(entry_of(ctx, recipe, 4).prompt, "plain");
    CHECK(entry_of(ctx, recipe, 5).shots == 8 && entry_of(ctx, recipe, 5).prompt == NULL);
    peft_compare_entry none = {.struct_size = sizeof none};
    CHECK_STATUS(ctx, peft_recipe_compare_entry(recipe, 7, &none), PEFT_E_ARG);

    peft_recipe *made[7] = {NULL};
    const char *seed = "train.seed=77";
    for (uint32_t i = 0; i < 7; i++) CHECK_OK(ctx, peft_recipe_compare_open(recipe, i, &seed, 1, &made[i]));
    peft_recipe *nothing = NULL;
    CHECK_STATUS(ctx, peft_recipe_compare_open(recipe, 7, NULL, 0, &nothing), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_recipe_compare_open(recipe, 0, NULL, 1, &nothing), PEFT_E_ARG);
    peft_recipe_destroy(recipe); /* they stand by themselves */
    for (uint32_t i = 0; i < 7 && made[i] != NULL; i++) {
        CHECK_NEAR(number(made[i], "train.seed"), 77.0, 0.0);
        CHECK_NEAR(number(made[i], "train.batch_size"), 5.0, 0.0);
        CHECK(peft_recipe_compare_count(made[i]) == 0);
        CHECK_STR(peft_recipe_data_path(made[i], PEFT_PART_TRAIN), "a.csv");
        peft_dataset_options data;
        peft_dataset_options_init(&data);
        CHECK_OK(ctx, peft_recipe_dataset_options(made[i], PEFT_PART_TRAIN, &data));
        CHECK(data.label_name_count == 2);
    }
    /* The recipe's own method with another rank; a method of an entry's own begins anew. */
    CHECK(config_has(made[1], "\"r\": 16") && config_has(made[1], "\"lora_alpha\": 12"));
    CHECK(config_has(made[2], "\"peft_type\": \"IA3\"") && !config_has(made[2], "\"r\""));
    CHECK_NEAR(number(made[2], "train.lr"), 1e-2, 1e-12);
    CHECK_NEAR(number(made[2], "train.max_steps"), 7.0, 0.0);
    CHECK_NEAR(number(made[3], "train.lr"), 1e-3, 1e-12);
    CHECK(config_has(made[3], "\"num_virtual_tokens\": 8") && !config_has(made[3], "lora_alpha"));
    CHECK(config_has(made[6], "\"peft_type\": \"FULL\""));
    const char *model = NULL;
    CHECK_OK(ctx, peft_recipe_get_text(made[5], "model", &model));
    CHECK_STR(model, "other.gguf");
    for (uint32_t i = 0; i < 7; i++) peft_recipe_destroy(made[i]);
}

static void mistakes(peft_context *ctx) {
    static const struct {
        const char *text, *said;
        peft_status status;
    } CASES[] = {
        {"model: x\ncompare:\n  - lora\n  - {method: ia3, lrr: 3}\n", "r.yaml:4: unknown key \"lrr\"", PEFT_E_FORMAT},
        {"compare:\n  seeds: 2\n  entries:\n    - lora\n    - {name: x, lr: fast}\n", "r.yaml:5: lr: expected a number",
         PEFT_E_FORMAT},
        {"compare: [lora, lora]\n", "there is an entry \"lora\" already", PEFT_E_FORMAT},
        {"compare: []\n", "the list is empty", PEFT_E_FORMAT},
        {"compare: 3\n", "expected a list", PEFT_E_FORMAT},
        {"compare: [3]\n", "the name of a method or a mapping", PEFT_E_FORMAT},
        {"compare: [{icl: p.yaml, method: lora}]\n", "one of method, hard_prompt and icl", PEFT_E_FORMAT},
        {"compare: [{icl: p.yaml, shots: 0}]\n", "whole number from 1", PEFT_E_FORMAT},
        {"compare: [{method: lora, shots: 2}]\n", "shots belong", PEFT_E_FORMAT},
        {"compare: [{method: lora, prompt: x}]\n", "prompt belongs", PEFT_E_FORMAT},
        {"compare: [{icl: [1]}]\n", "icl: expected text", PEFT_E_FORMAT},
        {"compare: {level: 2, entries: [lora]}\n", "0.5 to 0.9999", PEFT_E_ARG},
        {"compare: {entry: [lora]}\n", "did you mean", PEFT_E_FORMAT},
        {"compare: [{name: a, compare: [lora]}]\n", "compare: an entry has no comparison of its own", PEFT_E_FORMAT},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        peft_recipe *recipe = NULL;
        const peft_status status = open_text(ctx, CASES[i].text, NULL, &recipe);
        if (!CHECK(status == CASES[i].status) || !CHECK(strstr(peft_context_error(ctx), CASES[i].said) != NULL))
            fprintf(stderr, "    %s: %s\n", CASES[i].text, peft_context_error(ctx));
        peft_recipe_destroy(recipe);
    }
    CHECK(peft_recipe_compare_count(NULL) == 0);
}

int main(void) {
    peft_context *ctx = test_context();
    entries(ctx);
    mistakes(ctx);
    peft_context_destroy(ctx);
    return check_summary();
}
