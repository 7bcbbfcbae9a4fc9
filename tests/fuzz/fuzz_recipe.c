/* Recipes: any text. What opens can be explained, and fills every struct. */
#include "fuzz_format.h"
#include "peft/recipe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    peft_context *ctx = fuzz_begin();
    peft_recipe *recipe = NULL;
    const char *const overrides[] = {"train.seed=3"};
    const uint32_t flags = size % 2 == 0 ? PEFT_RECIPE_LENIENT : PEFT_RECIPE_STRICT;
    if (peft_recipe_open_memory(ctx, data, size, "fuzz", overrides, 1, flags, &recipe) >= 0) {
        peft_dataset_options dataset;
        peft_optimizer_options optimizer;
        peft_schedule schedule;
        peft_session_options session;
        peft_dataset_options_init(&dataset);
        peft_optimizer_options_init(&optimizer);
        peft_schedule_init(&schedule);
        peft_session_options_init(&session);
        if (peft_recipe_dataset_options(recipe, PEFT_PART_TRAIN, &dataset) < 0 ||
            peft_recipe_optimizer_options(recipe, &optimizer) < 0 ||
            peft_recipe_schedule(recipe, peft_recipe_total_steps(recipe, 100), &schedule) < 0 ||
            peft_recipe_session_options(recipe, &session) < 0)
            abort();
        if (peft_recipe_adapter_config(recipe) == NULL || strlen(peft_recipe_explain(recipe)) == 0 || dataset.seed != 3)
            abort();
        (void)peft_schedule_lr(&schedule, 7);
        /* Entries were checked when the recipe was opened. */
        for (uint32_t i = 0; i < peft_recipe_compare_count(recipe); i++) {
            peft_compare_entry entry = {.struct_size = sizeof entry};
            peft_recipe *made = NULL;
            if (peft_recipe_compare_entry(recipe, i, &entry) < 0 || entry.name == NULL ||
                peft_recipe_compare_open(recipe, i, overrides, 1, &made) < 0)
                abort();
            peft_recipe_destroy(made);
        }
    }
    peft_recipe_destroy(recipe);
    fuzz_end(ctx);
    return 0;
}
