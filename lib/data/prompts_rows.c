/* prompts_rows.c: labelled rows, and which of them a seed chooses as shots.
 *
 * Shots of one seed are the beginning of one order of the training rows, so that 4 shots are the first of 8 and a
 * learning curve adds examples instead of exchanging them. "balanced" takes classes in turn.
 */
#include "data/data.h"
#include "data/prompts.h"

static const char *const USUAL[] = {"label", "labels", "class", "category", "intent"};

static peft_status put_row(peft_prompts *p, peft__prompt_rows *rows, json_t *row, uint64_t line, int32_t label) {
    if (rows->count == rows->capacity) {
        const int64_t capacity = rows->capacity == 0 ? 256 : 2 * rows->capacity;
        peft__prompt_row *more = peft__realloc(p->ctx->mem, rows->rows, (size_t)capacity * sizeof *more);
        if (more == NULL) return peft__fail_nomem(p->ctx, (size_t)capacity * sizeof *more, "labelled rows");
        rows->rows = more;
        rows->capacity = capacity;
    }
    rows->rows[rows->count++] = (peft__prompt_row){.row = json_incref(row), .line = line, .label = label};
    return PEFT_OK;
}

static peft_status find_label_key(peft_prompts *p, const json_t *row) {
    for (size_t i = 0; i < PEFT_COUNT(USUAL) && p->label_key == NULL; i++)
        if (json_object_get(row, USUAL[i]) != NULL) p->label_key = USUAL[i];
    if (p->label_key != NULL) return PEFT_OK;
    return peft__fail(p->ctx, PEFT_E_FORMAT,
                      "the first row has no field that is known to hold the label: name it with data.label_key");
}

static int32_t find_name(const peft_prompts *p, const char *name) {
    for (uint32_t i = 0; i < p->label_count; i++)
        if (strcmp(p->labels[i], name) == 0) return (int32_t)i;
    return -1;
}

/* A class by its name; numbers too, and where no class has that name by its place. */
static peft_status label_of(peft_prompts *p, const json_t *row, int32_t *out) {
    const json_t *value = json_object_get(row, p->label_key);
    char text[32] = "";
    int64_t number = -1;
    if (json_is_string(value)) {
        if ((*out = find_name(p, json_string_value(value))) >= 0) return PEFT_OK;
        if (!peft__parse_i64(json_string_value(value), json_string_length(value), &number)) number = -1;
    } else if (json_is_integer(value)) {
        number = json_integer_value(value);
        peft__format_f64(text, sizeof text, (double)number);
        if ((*out = find_name(p, text)) >= 0) return PEFT_OK;
    } else {
        return peft__fail(p->ctx, PEFT_E_FORMAT, "\"%.60s\" is a class, by its name or number, found %s", p->label_key,
                          value == NULL ? "nothing" : peft__json_kind(value));
    }
    if (number >= 0 && number < p->label_count) {
        *out = (int32_t)number;
        return PEFT_OK;
    }
    char shown[64];
    const char *name = json_is_string(value) ? json_string_value(value) : text;
    const size_t length = peft__min_size(strlen(name), sizeof shown - 1);
    memcpy(shown, name, length);
    shown[length] = '\0';
    peft__utf8_tidy(shown);
    const char *near = peft__closest(shown, p->labels, p->label_count);
    return peft__fail(p->ctx, PEFT_E_FORMAT, "\"%.60s\" is \"%s\", which is no class%s%.60s%s", p->label_key, shown,
                      near != NULL ? "; did you mean \"" : "; the first is \"", near != NULL ? near : p->labels[0],
                      near != NULL ? "\"?" : "\"");
}

static peft_status read_one(peft_prompts *p, peft__prompt_rows *rows, json_t *row, uint64_t line) {
    int32_t label = 0;
    PEFT_TRY(find_label_key(p, row));
    const peft_status status = label_of(p, row, &label);
    if (status == PEFT_E_FORMAT && p->skip_bad_rows) {
        rows->skipped++;
        return PEFT_OK;
    }
    return status < 0 ? status : put_row(p, rows, row, line, label);
}

static peft_status read_rows(peft_prompts *p, peft__prompt_rows *rows, int32_t part, int64_t most) {
    if (rows->read) return PEFT_OK;
    peft__rows *file = NULL;
    PEFT_TRY(peft__rows_open(p->ctx, rows->path, NULL, &file));
    peft_dataset_options split;
    peft_dataset_options_init(&split);
    split.validation_fraction = p->test_fraction;
    split.seed = p->split_seed;
    split.part = p->test_fraction > 0.0 ? part : PEFT_PART_ALL;
    peft_status status = PEFT_OK;
    for (uint64_t number = 0; status >= 0 && (most == 0 || rows->count < most); number++) {
        json_t *row = NULL;
        status = peft__rows_next(file, &row);
        if (status != PEFT_OK) break;
        if (peft__in_part(&split, number)) {
            status = read_one(p, rows, row, peft__rows_line(file));
            if (status < 0 && status != PEFT_E_NOMEM && status != PEFT_E_LIMIT)
                status =
                    peft__fail_in(p->ctx, status, "%s:%llu", rows->path, (unsigned long long)peft__rows_line(file));
        }
        json_decref(row);
    }
    peft__rows_free(file);
    if (status >= 0 && rows->count == 0)
        status = peft__fail(p->ctx, PEFT_E_ARG, "%s: no labelled row is left", rows->path);
    rows->read = status >= 0;
    return status < 0 ? status : PEFT_OK;
}

static void free_rows(peft_prompts *p, peft__prompt_rows *rows) {
    for (int64_t i = 0; i < rows->count; i++) json_decref(rows->rows[i].row);
    peft__free(p->ctx->mem, rows->rows);
    *rows = (peft__prompt_rows){.path = rows->path};
}

peft_status peft__prompt_rows_need(peft_prompts *p, const peft__prompt_text *prompt) {
    peft_status status = read_rows(p, &p->test, PEFT_PART_VALIDATION, p->max_examples);
    if (status < 0) free_rows(p, &p->test);
    if (status < 0 || prompt->shots == 0) return status;
    status = read_rows(p, &p->train, PEFT_PART_TRAIN, 0);
    if (status < 0) free_rows(p, &p->train);
    if (status >= 0 && prompt->shots > p->train.count)
        return peft__fail(p->ctx, PEFT_E_ARG, "%s: %u shots are asked for, %s has %lld labelled rows", prompt->where,
                          prompt->shots, p->train.path, (long long)p->train.count);
    return status;
}

void peft__prompt_rows_free(peft_prompts *p) {
    free_rows(p, &p->train);
    free_rows(p, &p->test);
}

/* ---- shots ----------------------------------------------------------------------------------------------------- */

/* order becomes a permutation of 0 .. count - 1 that depends on the seed alone. */
static void shuffle(uint64_t seed, int64_t count, int64_t *order) {
    peft__rng rng = peft__rng_make(seed, UINT64_C(0x73686f7473));
    for (int64_t i = 0; i < count; i++) order[i] = i;
    for (int64_t i = 0; i + 1 < count; i++) {
        const int64_t j = i + (int64_t)peft__rng_below(&rng, (uint64_t)(count - i)), at = order[i];
        order[i] = order[j];
        order[j] = at;
    }
}

/* The next unused row of the order that has the class; -1: none. */
static int64_t next_of(const peft__prompt_rows *rows, int64_t *order, int64_t from, int32_t label) {
    for (int64_t i = from; i < rows->count; i++)
        if (order[i] >= 0 && rows->rows[order[i]].label == label) {
            const int64_t found = order[i];
            order[i] = -1;
            return found;
        }
    return -1;
}

peft_status peft__prompt_choose(peft_prompts *p, const peft__prompt_text *prompt, uint64_t seed, int64_t *out) {
    const peft__prompt_rows *rows = &p->train;
    if (prompt->shots == 0) return PEFT_OK;
    const size_t bytes = (size_t)(rows->count + p->label_count) * sizeof(int64_t);
    int64_t *order = peft__alloc(p->ctx->mem, bytes);
    if (order == NULL) return peft__fail_nomem(p->ctx, bytes, "choosing shots");
    int64_t *classes = order + rows->count;
    shuffle(seed, rows->count, order);
    if (prompt->balanced) {
        /* Classes in turn, in an order of the seed too: the last shot's class has the most weight with many models. */
        uint32_t taken = 0;
        for (uint64_t turn = 0; taken < prompt->shots; turn++) {
            shuffle(peft__hash64(&turn, sizeof turn, seed), p->label_count, classes);
            for (uint32_t c = 0; c < p->label_count && taken < prompt->shots; c++) {
                const int64_t row = next_of(rows, order, 0, (int32_t)classes[c]);
                if (row >= 0) out[taken++] = row;
            }
        }
    } else {
        memcpy(out, order, prompt->shots * sizeof *out);
    }
    peft__free(p->ctx->mem, order);
    return PEFT_OK;
}
