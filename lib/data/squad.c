/* squad.c: SQuAD's own layout, articles of paragraphs of questions in one JSON object, as rows.
 *
 * The whole file is one value, so it is parsed at once; rows share its texts. {"data": [rows]}, as Hugging Face's
 * example writes it, is read too.
 */
#include "data/data.h"

bool peft__squad_detect(const peft__content *content) {
    const uint8_t *data = content->data;
    size_t at = content->size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    while (at < content->size && (data[at] == ' ' || data[at] == '\n' || data[at] == '\r' || data[at] == '\t')) at++;
    if (at >= content->size || data[at] != '{') return false;
    /* A line of JSONL has its question near; SQuAD has its list of articles. */
    static const char KEY[] = "\"data\"";
    for (size_t i = at + 1; i + sizeof KEY <= content->size && i < at + 512; i++)
        if (memcmp(data + i, KEY, sizeof KEY - 1) == 0) return true;
    return false;
}

peft_status peft__squad_open(peft_context *ctx, const peft__content *content, peft__squad *out_squad) {
    peft__squad squad = {.ctx = ctx, .name = content->name};
    PEFT_TRY(peft__json_load_memory(ctx, content->name, content->data, content->size, 0, &squad.tree));
    if (!json_is_array(json_object_get(squad.tree, "data"))) {
        json_decref(squad.tree);
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: \"data\" is a list of articles", content->name);
    }
    *out_squad = squad;
    return PEFT_OK;
}

void peft__squad_close(peft__squad *squad) {
    json_decref(squad->tree);
    squad->tree = NULL;
}

static peft_status make_row(const peft__squad *squad, peft__json *question, peft__json *context, peft__json **out_row) {
    json_t *row = json_copy(question), *none = NULL;
    bool good = row != NULL && json_object_set(row, "context", context) == 0;
    if (good && json_object_get(row, "answers") == NULL && json_is_true(json_object_get(row, "is_impossible")))
        good = (none = json_array()) != NULL && json_object_set_new(row, "answers", none) == 0;
    if (!good) {
        json_decref(row);
        return peft__fail_nomem(squad->ctx, 256, "a question");
    }
    *out_row = row;
    return PEFT_OK;
}

peft_status peft__squad_next(peft__squad *squad, peft__json **out_row) {
    const peft__json *articles = json_object_get(squad->tree, "data");
    for (; squad->article < json_array_size(articles); squad->article++, squad->paragraph = squad->question = 0) {
        peft__json *article = json_array_get(articles, squad->article);
        const peft__json *paragraphs = json_object_get(article, "paragraphs");
        if (paragraphs == NULL) { /* a row of its own */
            squad->article++;
            squad->row++;
            *out_row = json_incref(article);
            return PEFT_OK;
        }
        for (; squad->paragraph < json_array_size(paragraphs); squad->paragraph++, squad->question = 0) {
            const peft__json *paragraph = json_array_get(paragraphs, squad->paragraph),
                             *questions = json_object_get(paragraph, "qas");
            peft__json *context = json_object_get(paragraph, "context");
            if (squad->question >= json_array_size(questions)) continue;
            peft__json *question = json_array_get(questions, squad->question++);
            squad->row++;
            if (json_is_object(question) && context != NULL) return make_row(squad, question, context, out_row);
            return peft__fail(squad->ctx, PEFT_E_FORMAT,
                              "%s: article %zu, paragraph %zu: no context, or a question that is no object",
                              squad->name, squad->article + 1, squad->paragraph + 1);
        }
    }
    return PEFT_END;
}
