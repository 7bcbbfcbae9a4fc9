/* names.c: what a layer was called by other versions of transformers.
 *
 * Adapter files carry the Python module tree of the transformers release that wrote them. Releases moved layers about:
 * vision models lost "encoder" and doubled "attention" components, wrappers put "model", "language_model" or
 * "transformer" in front or took them away. Keys are therefore compared first as they are, and then reduced to what all
 * versions share.
 */
#include "method/adapter.h"

typedef struct renamed {
    const char *model_type;    /* NULL = every model */
    const char *older, *newer; /* runs of whole components */
} renamed;

/* Longer runs first: the first that fits is used at each place. */
static const renamed RENAMED[] = {
    {"vit", "encoder.layer.", "layers."},
    {"vit", "attention.attention.query", "attention.q_proj"},
    {"vit", "attention.attention.key", "attention.k_proj"},
    {"vit", "attention.attention.value", "attention.v_proj"},
    {"vit", "attention.output.dense", "attention.o_proj"},
    {"vit", "intermediate.dense", "mlp.fc1"},
    {"vit", "output.dense", "mlp.fc2"},
};

static const char *const WRAPPERS[] = {"base_model.", "model.",   "language_model.", "transformer.",
                                       "bert.",       "roberta.", "distilbert.",     "electra.",
                                       "albert.",     "vit.",     "deit.",           "gpt2."};

static bool applies(const renamed *rule, const peft_model *model) {
    if (rule->model_type == NULL) return true;
    const json_t *type = json_object_get(peft__model_config_json(model), "model_type");
    const char *text = json_string_value(type);
    if (text == NULL) return false;
    return strcmp(text, rule->model_type) == 0 || (strcmp(rule->model_type, "vit") == 0 && strcmp(text, "deit") == 0);
}

/* Replaces whole components; `to_older` says which way. NULL when nothing applies or there is no memory. */
static char *rename_parts(const peft_model *model, peft__arena *arena, const char *text, bool to_older) {
    const size_t room = 3 * strlen(text) + 64;
    char *out = NULL;
    size_t used = 0;
    bool changed = false;
    for (const char *at = text; *at != 0;) {
        const renamed *hit = NULL;
        for (size_t i = 0; hit == NULL && (at == text || at[-1] == '.') && i < PEFT_COUNT(RENAMED); i++) {
            const char *from = to_older ? RENAMED[i].newer : RENAMED[i].older;
            const size_t length = strlen(from);
            const bool ends = from[length - 1] == '.' || at[length] == '.' || at[length] == 0;
            if (strncmp(at, from, length) == 0 && ends && applies(&RENAMED[i], model)) hit = &RENAMED[i];
        }
        if (out == NULL && (out = peft__arena_alloc(arena, room)) == NULL) return NULL;
        if (hit == NULL) {
            if (used + 2 > room) return NULL;
            out[used++] = *at++;
            continue;
        }
        const char *from = to_older ? hit->newer : hit->older, *to = to_older ? hit->older : hit->newer;
        const size_t length = strlen(to);
        if (used + length + 1 > room) return NULL;
        memcpy(out + used, to, length);
        used += length;
        at += strlen(from);
        changed = true;
    }
    return changed ? out : NULL;
}

static bool model_is_renamed(const peft_model *model) {
    for (size_t i = 0; i < PEFT_COUNT(RENAMED); i++)
        if (applies(&RENAMED[i], model)) return true;
    return false;
}

char *peft__older_name(const peft_model *model, peft__arena *arena, const char *module) {
    return model_is_renamed(model) ? rename_parts(model, arena, module, true) : NULL;
}

/* Takes out every ".word" that is a whole component. */
static void drop_component(char *text, const char *word) {
    const size_t length = strlen(word);
    for (char *at = text; (at = strstr(at, word)) != NULL;) {
        const bool whole = at > text && at[-1] == '.' && (at[length] == '.' || at[length] == 0);
        if (whole)
            memmove(at - 1, at + length, strlen(at + length) + 1);
        else
            at++;
    }
}

char *peft__canonical_key(const peft_model *model, peft__arena *arena, const char *key) {
    const char *start = key;
    for (bool again = true; again;) {
        again = false;
        for (size_t i = 0; i < PEFT_COUNT(WRAPPERS); i++) {
            const size_t length = strlen(WRAPPERS[i]);
            if (strncmp(start, WRAPPERS[i], length) != 0) continue;
            start += length;
            again = true;
        }
    }
    char *text = model_is_renamed(model) ? rename_parts(model, arena, start, false) : NULL;
    if (text == NULL) text = peft__arena_strdup(arena, start);
    if (text == NULL) return NULL;
    drop_component(text, "default");
    drop_component(text, "modules_to_save");
    char *tail = strstr(text, ".lora_magnitude_vector.weight");
    if (tail != NULL) tail[strlen(".lora_magnitude_vector")] = 0;
    return text;
}
