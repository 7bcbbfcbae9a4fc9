/* prompts_file.c: a prompt file as objects.
 *
 * Whatever a prompt says may also stand at the top of the file, for all prompts; an override of the command line wins
 * over both. A key that is not known is an error with the closest known one: a prompt with a typing mistake that is
 * ranked anyway is a number about something else. So is a question that has the answer in it.
 */
#include "data/prompts.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

enum { MOST_PROMPTS = 1024, MOST_LABELS = 4096, MOST_ANSWERS = 16384, MOST_SHOTS = 10000, MOST_SEEDS = 1000 };

static const char *const TOP_KEYS[] = {"model", "adapter", "data", "labels", "prompts"};
static const char *const DATA_KEYS[] = {"train",        "test",          "text_key",   "text_pair_key", "label_key",
                                        "max_examples", "test_fraction", "split_seed", "on_bad_row"};
static const char *const PROMPT_KEYS[] = {"name",        "template", "verbalizers",   "instruction",  "chat",
                                          "shots",       "seeds",    "shot_template", "separator",    "joiner",
                                          "shot_choice", "score",    "calibrate",     "content_free", "reasoning"};
static const char *const REASONING_KEYS[] = {"max_new_tokens", "pattern", "after", "stop"};
static const char *const SCORES[] = {"token", "sum", "character"}; /* PEFT_SCORE_* */

typedef struct reader {
    peft_prompts *p;
    peft_context *ctx;
    const peft__yaml_lines *lines;
    json_t *top;   /* a copy of the tree with the overrides in it */
    json_t *given; /* keys that an override set */
} reader;

/* A mapping of the file and its path, for error texts. */
typedef struct group {
    const json_t *object;
    const char *path; /* "" = the top */
} group;

/* ---- complaints ----------------------------------------------------------------------------------------------- */

static const char *join(char *out, size_t size, const char *path, const char *key) {
    (void)snprintf(out, size, "%s%s%s", path, path[0] != '\0' && key[0] != '\0' ? "." : "", key);
    return out;
}

/* "prompts.yaml:12: prompts[0].shots" */
static const char *place(const reader *r, const group *g, const char *key) {
    char path[512];
    (void)join(path, sizeof path, g->path, key);
    const uint32_t line = json_object_get(r->given, path) != NULL ? 0 : peft__yaml_line(r->lines, path);
    const char *text = line > 0 ? peft__arena_strfmt(&r->p->arena, "%s:%u: %s", r->p->name, line, path)
                                : peft__arena_strfmt(&r->p->arena, "%s: %s", r->p->name, path);
    return text != NULL ? text : r->p->name;
}

static peft_status complain(const reader *r, const group *g, const char *key, peft_status status, const char *format,
                            ...) PEFT_PRINTF(5, 6);
static peft_status complain(const reader *r, const group *g, const char *key, peft_status status, const char *format,
                            ...) {
    char text[600];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return peft__fail(r->ctx, status, "%s: %s", place(r, g, key), text);
}

static peft_status no_memory(const reader *r) {
    return peft__fail_nomem(r->ctx, 64, "a prompt file");
}

static bool is_one_of(const char *name, const char *const *names, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}

static peft_status check_keys(const reader *r, const group *g, const char *const *known, size_t count,
                              const char *const *more, size_t more_count) {
    const char *key, *all[64];
    json_t *value;
    size_t n = 0;
    for (size_t i = 0; i < count; i++) all[n++] = known[i];
    for (size_t i = 0; i < more_count; i++) all[n++] = more[i];
    json_object_foreach((json_t *)g->object, key, value) {
        if (is_one_of(key, all, n)) continue;
        const char *near = peft__closest(key, all, n);
        if (near != NULL) return complain(r, g, key, PEFT_E_FORMAT, "unknown key; did you mean \"%s\"?", near);
        char list[300] = "";
        for (size_t i = 0, used = 0; i < n && used + strlen(all[i]) + 3 < sizeof list; i++)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i > 0 ? ", " : "", all[i]);
        return complain(r, g, key, PEFT_E_FORMAT, "unknown key; the keys are %s", list);
    }
    return PEFT_OK;
}

/* ---- values ---------------------------------------------------------------------------------------------------- */

/* A prompt's key: its own, else that at the top. */
static const json_t *find(const reader *r, const group *g, const char *key, group *out_group) {
    *out_group = *g;
    const json_t *value = json_object_get(g->object, key);
    if (value == NULL && g->path[0] != '\0' && strncmp(g->path, "prompts[", 8) == 0 && strchr(g->path, '.') == NULL) {
        *out_group = (group){r->top, ""};
        value = json_object_get(r->top, key);
    }
    return json_is_null(value) ? NULL : value;
}

/* Numbers and truth values are taken as they are written. */
static peft_status text_of(const reader *r, const group *g, const char *key, const json_t *value, const char **out) {
    char number[32];
    const char *text = number;
    if (json_is_string(value)) {
        text = json_string_value(value);
        if (strlen(text) != json_string_length(value))
            return complain(r, g, key, PEFT_E_FORMAT, "holds a NUL character");
    } else if (json_is_integer(value)) {
        (void)snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
    } else if (json_is_real(value)) {
        peft__format_f64(number, sizeof number, json_real_value(value));
    } else if (json_is_boolean(value)) {
        text = json_is_true(value) ? "true" : "false";
    } else {
        return complain(r, g, key, PEFT_E_FORMAT, "expected a text, found %s", peft__json_kind(value));
    }
    *out = peft__arena_strdup(&r->p->arena, text);
    return *out != NULL ? PEFT_OK : no_memory(r);
}

static peft_status get_text(const reader *r, const group *g, const char *key, const char *fallback, const char **out) {
    group at;
    const json_t *value = find(r, g, key, &at);
    *out = fallback;
    return value == NULL ? PEFT_OK : text_of(r, &at, key, value, out);
}

static peft_status get_int(const reader *r, const group *g, const char *key, int64_t min, int64_t max, int64_t fallback,
                           int64_t *out) {
    group at;
    const json_t *value = find(r, g, key, &at);
    *out = fallback;
    if (value == NULL) return PEFT_OK;
    if (!json_is_integer(value))
        return complain(r, &at, key, PEFT_E_FORMAT, "expected a whole number, found %s", peft__json_kind(value));
    *out = json_integer_value(value);
    if (*out < min || *out > max)
        return complain(r, &at, key, PEFT_E_ARG, "%lld is not from %lld to %lld", (long long)*out, (long long)min,
                        (long long)max);
    return PEFT_OK;
}

/* The number of the choice that is written. */
static peft_status get_choice(const reader *r, const group *g, const char *key, const char *const *choices,
                              size_t count, int32_t *out) {
    const char *text;
    PEFT_TRY(get_text(r, g, key, choices[0], &text));
    for (size_t i = 0; i < count; i++) {
        *out = (int32_t)i;
        if (strcmp(text, choices[i]) == 0) return PEFT_OK;
    }
    char list[200] = "";
    for (size_t i = 0, used = 0; i < count; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i > 0 ? ", " : "", choices[i]);
    group at;
    (void)find(r, g, key, &at);
    return complain(r, &at, key, PEFT_E_FORMAT, "is one of %s; found \"%.60s\"", list, text);
}

/* A text or a list of texts. */
static peft_status get_texts(const reader *r, const group *g, const char *key, const char ***out, uint32_t *out_count) {
    group at;
    const json_t *value = find(r, g, key, &at);
    const size_t count = value == NULL ? 0 : json_is_array(value) ? json_array_size(value) : 1;
    *out_count = 0;
    *out = NULL;
    if (count == 0) return PEFT_OK;
    if (count > MOST_LABELS) return complain(r, &at, key, PEFT_E_LIMIT, "at most %d texts", MOST_LABELS);
    *out = peft__arena_alloc(&r->p->arena, count * sizeof **out);
    if (*out == NULL) return no_memory(r);
    for (size_t i = 0; i < count; i++)
        PEFT_TRY(text_of(r, &at, key, json_is_array(value) ? json_array_get(value, i) : value, &(*out)[i]));
    *out_count = (uint32_t)count;
    return PEFT_OK;
}

static peft_status get_template(const reader *r, const group *g, const char *key, peft__template **out) {
    const char *text;
    PEFT_TRY(get_text(r, g, key, NULL, &text));
    if (text == NULL) return PEFT_OK;
    group at;
    (void)find(r, g, key, &at);
    return peft__template_create(r->ctx, place(r, &at, key), text, strlen(text), out);
}

/* ---- overrides ------------------------------------------------------------------------------------------------- */

static peft_status put_override(reader *r, const char *text) {
    const char *equals = strchr(text, '=');
    if (equals == NULL || equals == text)
        return peft__fail(r->ctx, PEFT_E_ARG, "an override is key=value, found \"%.100s\"", text);
    char key[128];
    if ((size_t)(equals - text) >= sizeof key)
        return peft__fail(r->ctx, PEFT_E_ARG, "%.60s...: the key is too long", text);
    memcpy(key, text, (size_t)(equals - text));
    key[equals - text] = '\0';
    json_t *value = NULL;
    static const char *const TEXTS[] = {"template", "shot_template", "instruction", "separator", "joiner"};
    if (is_one_of(key, TEXTS, PEFT_COUNT(TEXTS))) { /* braces are names here */
        value = json_string(equals + 1);
    } else if (equals[1] == '[' || equals[1] == '{') {
        const char *document = peft__arena_strfmt(&r->p->arena, "value: %s", equals + 1);
        json_t *tree = NULL;
        if (document == NULL) return no_memory(r);
        PEFT_TRY(peft__yaml_load_memory(r->ctx, key, document, strlen(document), 0, &tree, NULL));
        value = json_incref(json_object_get(tree, "value"));
        json_decref(tree);
    } else {
        value = peft__yaml_scalar(equals + 1, strlen(equals + 1));
    }
    if (value == NULL) return peft__fail(r->ctx, PEFT_E_FORMAT, "%.200s: the value cannot be read", text);
    if (json_object_set_new(r->given, key, json_true()) != 0) {
        json_decref(value);
        return no_memory(r);
    }
    const char *dot = strchr(key, '.');
    json_t *to = r->top;
    if (dot != NULL) {
        key[dot - key] = '\0';
        to = json_object_get(r->top, key);
        if (to == NULL) (void)json_object_set_new(r->top, key, to = json_object());
        if (!json_is_object(to)) {
            json_decref(value);
            return peft__fail(r->ctx, PEFT_E_FORMAT, "%.200s: \"%s\" has no keys below it", text, key);
        }
    } else { /* stands for all prompts */
        size_t i;
        json_t *prompt;
        json_array_foreach(json_object_get(r->top, "prompts"), i, prompt) {
            if (json_is_object(prompt)) (void)json_object_del(prompt, key);
        }
    }
    return json_object_set_new(to, dot != NULL ? dot + 1 : key, value) == 0 ? PEFT_OK : no_memory(r);
}

/* ---- classes and answers ---------------------------------------------------------------------------------------- */

static peft_status read_labels(const reader *r, const group *top, const json_t *prompts) {
    PEFT_TRY(get_texts(r, top, "labels", &r->p->labels, &r->p->label_count));
    if (r->p->label_count == 0) { /* those of the first verbalizers */
        const json_t *words = json_object_get(r->top, "verbalizers");
        if (words == NULL) words = json_object_get(json_array_get(prompts, 0), "verbalizers");
        const size_t count = json_object_size(words);
        const char *key;
        json_t *value;
        if (count > MOST_LABELS)
            return complain(r, top, "verbalizers", PEFT_E_LIMIT, "at most %d classes", MOST_LABELS);
        r->p->labels = peft__arena_alloc(&r->p->arena, (count + 1) * sizeof *r->p->labels);
        if (r->p->labels == NULL) return no_memory(r);
        json_object_foreach((json_t *)words, key, value) {
            const char *name = peft__arena_strdup(&r->p->arena, key);
            if (name == NULL) return no_memory(r);
            r->p->labels[r->p->label_count++] = name;
        }
    }
    if (r->p->label_count < 2)
        return complain(r, top, "labels", PEFT_E_FORMAT,
                        "at least two classes are needed, as \"labels\" or as the keys of \"verbalizers\"");
    for (uint32_t i = 0; i < r->p->label_count; i++)
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(r->p->labels[i], r->p->labels[j]) == 0)
                return complain(r, top, "labels", PEFT_E_FORMAT, "\"%.60s\" is there twice", r->p->labels[i]);
    return PEFT_OK;
}

static peft_status put_answer(const reader *r, const group *at, peft__prompt_text *p, const char *text,
                              uint32_t label) {
    if (text[0] == '\0' || strspn(text, " \t\n") == strlen(text))
        return complain(r, at, "verbalizers", PEFT_E_FORMAT, "an answer of class \"%.60s\" is empty",
                        r->p->labels[label]);
    for (uint32_t i = 0; i < p->answer_count; i++)
        if (strcmp(p->answers[i].text, text) == 0)
            return complain(r, at, "verbalizers", PEFT_E_FORMAT, "\"%.60s\" stands for \"%.60s\" and for \"%.60s\"",
                            text, r->p->labels[p->answers[i].label], r->p->labels[label]);
    p->answers[p->answer_count++] = (peft__answer){text, label};
    return PEFT_OK;
}

static peft_status read_answers(const reader *r, const group *g, peft__prompt_text *p) {
    group at;
    const json_t *words = find(r, g, "verbalizers", &at);
    if (words != NULL && !json_is_object(words))
        return complain(r, &at, "verbalizers", PEFT_E_FORMAT, "expected a mapping of classes to words, found %s",
                        peft__json_kind(words));
    const char *key;
    json_t *value;
    size_t most = r->p->label_count;
    json_object_foreach((json_t *)words, key, value) {
        if (!is_one_of(key, r->p->labels, r->p->label_count)) {
            const char *near = peft__closest(key, r->p->labels, r->p->label_count);
            return complain(r, &at, "verbalizers", PEFT_E_FORMAT, "\"%.60s\" is no class%s%.60s%s", key,
                            near != NULL ? "; did you mean \"" : "", near != NULL ? near : "",
                            near != NULL ? "\"?" : "");
        }
        most += json_array_size(value);
    }
    if (most > MOST_ANSWERS) return complain(r, &at, "verbalizers", PEFT_E_LIMIT, "at most %d answers", MOST_ANSWERS);
    p->answers = peft__arena_alloc(&r->p->arena, most * sizeof *p->answers);
    if (p->answers == NULL) return no_memory(r);
    for (uint32_t c = 0; c < r->p->label_count; c++) {
        value = words == NULL ? NULL : json_object_get(words, r->p->labels[c]);
        if (words != NULL && (value == NULL || (json_is_array(value) && json_array_size(value) == 0)))
            return complain(r, &at, "verbalizers", PEFT_E_FORMAT, "class \"%.60s\" has no answer", r->p->labels[c]);
        const group below = {words, at.path[0] != '\0' ? at.path : "verbalizers"};
        for (size_t i = 0; i < (json_is_array(value) ? json_array_size(value) : 1); i++) {
            const char *text = r->p->labels[c]; /* without verbalizers a class is called by its name */
            const json_t *one = json_is_array(value) ? json_array_get(value, i) : value;
            if (one != NULL) PEFT_TRY(text_of(r, &below, r->p->labels[c], one, &text));
            PEFT_TRY(put_answer(r, &at, p, text, c));
        }
    }
    peft__buffer list;
    peft__buffer_init(&list, r->ctx->mem);
    for (uint32_t i = 0; i < p->answer_count; i++)
        if (i == 0 || p->answers[i].label != p->answers[i - 1].label)
            (void)peft__buffer_printf(&list, "%s%s", i > 0 ? ", " : "",
                                      p->answers[i].text + strspn(p->answers[i].text, " \t\n"));
    p->choices = list.failed ? NULL : peft__arena_strdup(&r->p->arena, list.data);
    peft__buffer_free(&list);
    return p->choices != NULL ? PEFT_OK : no_memory(r);
}

/* ---- one prompt ------------------------------------------------------------------------------------------------- */

static peft_status read_seeds(const reader *r, const group *g, peft__prompt_text *p) {
    group at;
    const json_t *value = find(r, g, "seeds", &at);
    const size_t count = value == NULL || p->shots == 0 ? 1 : json_is_array(value) ? json_array_size(value) : 1;
    if (count == 0 || count > MOST_SEEDS)
        return complain(r, &at, "seeds", PEFT_E_ARG, "1 to %d seeds, found %zu", MOST_SEEDS, count);
    p->seeds = peft__arena_alloc(&r->p->arena, count * sizeof *p->seeds);
    if (p->seeds == NULL) return no_memory(r);
    for (size_t i = 0; i < count && value != NULL; i++) {
        const json_t *one = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_integer(one) || json_integer_value(one) < 0)
            return complain(r, &at, "seeds", PEFT_E_FORMAT, "seeds are whole numbers from 0 on");
        p->seeds[i] = (uint64_t)json_integer_value(one);
    }
    p->seed_count = (uint32_t)count;
    return PEFT_OK;
}

static peft_status read_reasoning(const reader *r, const group *g, peft__prompt_text *p) {
    group at;
    const json_t *value = find(r, g, "reasoning", &at);
    if (value == NULL || json_is_false(value)) return PEFT_OK;
    p->kind = PEFT_PROMPT_REASONING;
    char path[512];
    const group own = {json_is_object(value) ? value : NULL, join(path, sizeof path, at.path, "reasoning")};
    if (!json_is_object(value) && !json_is_true(value))
        return complain(r, &at, "reasoning", PEFT_E_FORMAT, "expected true or a mapping, found %s",
                        peft__json_kind(value));
    if (own.object != NULL) PEFT_TRY(check_keys(r, &own, REASONING_KEYS, PEFT_COUNT(REASONING_KEYS), NULL, 0));
    int64_t tokens;
    const char *pattern;
    PEFT_TRY(get_int(r, &own, "max_new_tokens", 1, 1 << 20, 128, &tokens));
    p->max_new_tokens = (uint32_t)tokens;
    PEFT_TRY(get_texts(r, &own, "stop", &p->stop, &p->stop_count));
    PEFT_TRY(get_text(r, &own, "pattern", NULL, &pattern));
    PEFT_TRY(get_text(r, &own, "after", pattern == NULL ? "answer:" : NULL, &p->after));
    if (pattern == NULL) return PEFT_OK;
    if (p->after != NULL)
        return complain(r, &own, "pattern", PEFT_E_FORMAT,
                        "an answer is found by \"pattern\" or by \"after\", not both");
    const peft_status status = peft__regex_compile(r->ctx, r->p->regex_memory, pattern, strlen(pattern), &p->pattern);
    return status < 0 ? peft__fail_in(r->ctx, status, "%s", place(r, &own, "pattern")) : status;
}

/* The question may not hold what is asked for. */
static peft_status check_question(const reader *r, const group *g, const peft__prompt_text *p) {
    static const char *const usual[] = {"label", "labels", "answer"};
    const char *const own[] = {r->p->label_key};
    for (size_t i = 0; i < PEFT_COUNT(usual) + 1; i++) {
        const char *name = i < PEFT_COUNT(usual) ? usual[i] : own[0];
        if (name != NULL && peft__template_uses(p->question, name) > 0)
            return complain(r, g, "template", PEFT_E_FORMAT,
                            "has {%s}, which would give the answer away; solved examples are made by \"shot_template\"",
                            name);
    }
    const uint32_t masks = peft__template_uses(p->question, "mask");
    if (masks > 1) return complain(r, g, "template", PEFT_E_FORMAT, "has {mask} %u times, expected once", masks);
    if (masks == 1 && p->kind == PEFT_PROMPT_REASONING)
        return complain(r, g, "template", PEFT_E_FORMAT, "has {mask}, which does not go with \"reasoning\"");
    if (masks == 1 && p->chat)
        return complain(r, g, "template", PEFT_E_FORMAT, "has {mask}, which does not go with \"chat\"");
    return PEFT_OK;
}

static peft_status read_chat(const reader *r, const group *g, peft__prompt_text *p) {
    group at;
    const json_t *value = find(r, g, "chat", &at);
    p->chat = value != NULL && !json_is_false(value);
    return p->chat && !json_is_true(value) ? text_of(r, &at, "chat", value, &p->chat_template) : PEFT_OK;
}

static peft_status read_prompt(const reader *r, const group *g, uint32_t index, peft__prompt_text *p) {
    if (!json_is_object(g->object))
        return complain(r, g, "", PEFT_E_FORMAT, "a prompt is a mapping, found %s", peft__json_kind(g->object));
    PEFT_TRY(check_keys(r, g, PROMPT_KEYS, PEFT_COUNT(PROMPT_KEYS), NULL, 0));
    PEFT_TRY(get_text(r, g, "name", NULL, &p->name));
    if (p->name == NULL) p->name = peft__arena_strfmt(&r->p->arena, "prompt %u", index + 1);
    if (p->name == NULL) return no_memory(r);
    p->where = peft__arena_strfmt(&r->p->arena, "%s: prompt \"%s\"", r->p->name, p->name);
    if (p->where == NULL) return no_memory(r);
    int64_t shots;
    int32_t choice;
    static const char *const CHOICES[] = {"balanced", "random"}, *const CALIBRATIONS[] = {"none", "contextual"};
    PEFT_TRY(read_chat(r, g, p));
    PEFT_TRY(get_template(r, g, "template", &p->question));
    if (p->question == NULL) return complain(r, g, "template", PEFT_E_FORMAT, "is missing");
    PEFT_TRY(get_template(r, g, "shot_template", &p->shot));
    PEFT_TRY(get_template(r, g, "instruction", &p->instruction));
    PEFT_TRY(get_text(r, g, "separator", "\n\n", &p->separator));
    PEFT_TRY(get_text(r, g, "joiner", " ", &p->joiner));
    PEFT_TRY(read_answers(r, g, p));
    PEFT_TRY(get_int(r, g, "shots", 0, MOST_SHOTS, 0, &shots));
    p->shots = (uint32_t)shots;
    PEFT_TRY(read_seeds(r, g, p));
    PEFT_TRY(get_choice(r, g, "shot_choice", CHOICES, PEFT_COUNT(CHOICES), &choice));
    p->balanced = choice == 0;
    PEFT_TRY(get_choice(r, g, "score", SCORES, PEFT_COUNT(SCORES), &p->score));
    PEFT_TRY(get_choice(r, g, "calibrate", CALIBRATIONS, PEFT_COUNT(CALIBRATIONS), &choice));
    p->calibrated = choice == 1;
    PEFT_TRY(get_texts(r, g, "content_free", &p->content_free, &p->content_free_count));
    if (p->content_free_count == 0) { /* Zhao et al. 2021 */
        static const char *const usual[] = {"N/A", "", "[MASK]"};
        p->content_free = peft__arena_alloc(&r->p->arena, sizeof usual);
        if (p->content_free == NULL) return no_memory(r);
        memcpy(p->content_free, usual, sizeof usual);
        p->content_free_count = PEFT_COUNT(usual);
    }
    PEFT_TRY(read_reasoning(r, g, p));
    PEFT_TRY(check_question(r, g, p));
    if (peft__template_uses(p->question, "mask") == 1) p->kind = PEFT_PROMPT_CLOZE;
    if (p->kind == PEFT_PROMPT_REASONING && p->calibrated)
        return complain(r, g, "calibrate", PEFT_E_FORMAT, "what a model writes has no scores to calibrate");
    return PEFT_OK;
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

static peft_status read_data(const reader *r) {
    peft_prompts *p = r->p;
    const group data = {json_object_get(r->top, "data"), "data"}, top = {r->top, ""};
    if (!json_is_object(data.object))
        return complain(r, &top, "data", PEFT_E_FORMAT, "expected a mapping with \"test\"");
    PEFT_TRY(check_keys(r, &data, DATA_KEYS, PEFT_COUNT(DATA_KEYS), NULL, 0));
    static const char *const BAD[] = {"error", "skip"};
    int32_t bad;
    int64_t seed;
    PEFT_TRY(get_text(r, &data, "train", NULL, &p->train.path));
    PEFT_TRY(get_text(r, &data, "test", NULL, &p->test.path));
    PEFT_TRY(get_text(r, &data, "text_key", NULL, &p->text_key));
    PEFT_TRY(get_text(r, &data, "text_pair_key", NULL, &p->text_pair_key));
    PEFT_TRY(get_text(r, &data, "label_key", NULL, &p->label_key));
    PEFT_TRY(get_int(r, &data, "max_examples", 0, INT64_MAX, 0, &p->max_examples));
    PEFT_TRY(get_int(r, &data, "split_seed", 0, INT64_MAX, 0, &seed));
    PEFT_TRY(get_choice(r, &data, "on_bad_row", BAD, PEFT_COUNT(BAD), &bad));
    p->split_seed = (uint64_t)seed;
    p->skip_bad_rows = bad == 1;
    const json_t *fraction = json_object_get(data.object, "test_fraction");
    if (fraction != NULL &&
        (!json_is_number(fraction) || !(json_number_value(fraction) > 0.0) || !(json_number_value(fraction) < 1.0)))
        return complain(r, &data, "test_fraction", PEFT_E_ARG, "is a number above 0 and below 1");
    p->test_fraction = json_number_value(fraction);
    if (p->test.path == NULL && p->test_fraction > 0.0) {
        if (p->train.path == NULL)
            return complain(r, &data, "test_fraction", PEFT_E_FORMAT, "is a part of \"train\", which is missing");
        p->test.path = p->train.path;
    } else if (p->test.path == NULL) {
        return complain(r, &data, "test", PEFT_E_FORMAT, "is missing: the file of labelled rows to classify");
    } else if (p->test_fraction > 0.0) {
        return complain(r, &data, "test_fraction", PEFT_E_FORMAT, "is for files without \"test\"");
    }
    return PEFT_OK;
}

static peft_status read_all(reader *r) {
    peft_prompts *p = r->p;
    const group top = {r->top, ""};
    const json_t *list = json_object_get(r->top, "prompts");
    PEFT_TRY(check_keys(r, &top, TOP_KEYS, PEFT_COUNT(TOP_KEYS), PROMPT_KEYS + 1, PEFT_COUNT(PROMPT_KEYS) - 1));
    if (!json_is_array(list) || json_array_size(list) == 0 || json_array_size(list) > MOST_PROMPTS)
        return complain(r, &top, "prompts", PEFT_E_FORMAT, "expected a list of 1 to %d prompts", MOST_PROMPTS);
    PEFT_TRY(get_text(r, &top, "model", NULL, &p->model));
    PEFT_TRY(get_text(r, &top, "adapter", NULL, &p->adapter));
    PEFT_TRY(read_data(r));
    PEFT_TRY(read_labels(r, &top, list));
    p->prompts = peft__alloc_zero(r->ctx->mem, json_array_size(list) * sizeof *p->prompts);
    if (p->prompts == NULL) return no_memory(r);
    for (uint32_t i = 0; i < json_array_size(list); i++) {
        char path[32];
        (void)snprintf(path, sizeof path, "prompts[%u]", i);
        const group g = {json_array_get(list, i), path};
        p->prompt_count = i + 1; /* what a failure leaves is freed with the rest */
        PEFT_TRY(read_prompt(r, &g, i, &p->prompts[i]));
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(p->prompts[i].name, p->prompts[j].name) == 0)
                return complain(r, &g, "name", PEFT_E_FORMAT, "\"%.60s\" is there twice", p->prompts[i].name);
        if (p->prompts[i].shots > 0 && p->train.path == NULL)
            return complain(r, &g, "shots", PEFT_E_FORMAT, "shots come from data.train, which is missing");
        if (p->prompts[i].shots > 0 && p->test_fraction == 0.0 && strcmp(p->train.path, p->test.path) == 0)
            return complain(r, &g, "shots", PEFT_E_FORMAT,
                            "data.train and data.test are the same file: shots would be among the questions; "
                            "use data.test_fraction");
    }
    return PEFT_OK;
}

peft_status peft__prompts_read(peft_prompts *prompts, const peft__json *tree, const peft__yaml_lines *lines,
                               const char *const *overrides, uint32_t count) {
    reader r = {.p = prompts, .ctx = prompts->ctx, .lines = lines};
    if (!json_is_object(tree)) return peft__fail(r.ctx, PEFT_E_FORMAT, "%s: expected a mapping", prompts->name);
    r.top = json_deep_copy(tree);
    r.given = json_object();
    peft_status status = r.top == NULL || r.given == NULL ? no_memory(&r) : PEFT_OK;
    for (uint32_t i = 0; i < count && status >= 0; i++)
        status = overrides[i] == NULL ? peft__fail(r.ctx, PEFT_E_ARG, "override %u is NULL", i)
                                      : put_override(&r, overrides[i]);
    if (status >= 0) status = read_all(&r);
    json_decref(r.top);
    json_decref(r.given);
    return status;
}

void peft__prompt_free(peft_prompts *prompts, peft__prompt_text *prompt) {
    (void)prompts;
    peft__template_destroy(prompt->question);
    peft__template_destroy(prompt->shot);
    peft__template_destroy(prompt->instruction);
    peft__regex_free(&prompt->pattern);
}
