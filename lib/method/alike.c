/* alike.c: may one adapter take another's place in a graph that is built already?
 *
 * A graph holds an adapter's params and the numbers that its method made of the configuration. Where all of these are
 * the same, exchanging the params' places in memory is exchanging the adapter: that is what swaps characters' voices
 * between two frames. Methods say of themselves that their graphs hold nothing else (PEFT__METHOD_EXCHANGEABLE).
 */
#include "method/adapter.h"

/* Keys that say only which tensors there are, or how they began. */
static bool is_settled(const char *key) {
    static const char *const KEYS[] = {"target_modules",       "exclude_modules",        "layers_to_transform",
                                       "layers_pattern",       "modules_to_save",        "init_lora_weights",
                                       "init_ia3_weights",     "prompt_tuning_init",     "prompt_tuning_init_text",
                                       "tokenizer_name_or_path", "tokenizer_kwargs",     "feedforward_modules",
                                       "task_type"};
    for (size_t i = 0; i < PEFT_COUNT(KEYS); i++)
        if (strcmp(KEYS[i], key) == 0) return true;
    return false;
}

static bool same_numbers(const peft_adapter *a, const peft_adapter *b) {
    for (const peft__config_key *key = a->method->keys; key->name != NULL; key++) {
        if (key->use == PEFT__KEY_INERT || is_settled(key->name)) continue;
        const json_t *x = json_object_get(a->config, key->name), *y = json_object_get(b->config, key->name);
        if (x != y && !json_equal(x, y)) return false;
    }
    return true;
}

static bool same_param(const peft__param *a, const peft__param *b) {
    return a->ndim == b->ndim && a->flags == b->flags && memcmp(a->shape, b->shape, a->ndim * sizeof *a->shape) == 0 &&
           strcmp(a->name, b->name) == 0;
}

bool peft__adapter_alike(const peft_adapter *a, const peft_adapter *b) {
    if (a == b) return true;
    if (a->method != b->method || (a->method->flags & PEFT__METHOD_EXCHANGEABLE) == 0 || a->model != b->model ||
        a->singular || b->singular || a->scale != b->scale || a->count != b->count || a->per_sequence != b->per_sequence)
        return false;
    for (uint32_t i = 0; i < a->count; i++)
        if (!same_param(&a->params[i], &b->params[i]) ||
            (a->slots[i].base == NULL) != (b->slots[i].base == NULL))
            return false;
    return same_numbers(a, b);
}
