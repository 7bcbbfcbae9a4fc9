/* gguf_config.c: reading GGUF metadata into a config.json, for every architecture. */
#include "model/gguf_config.h"

#include <stdio.h>

peft_status peft__gguf_put(const peft__gguf_reader *r, json_t *object, const char *key, json_t *value) {
    if (value == NULL || json_object_set_new(object, key, value) != 0)
        return peft__fail_nomem(r->ctx, 64, "the model's configuration");
    return PEFT_OK;
}

const char *peft__gguf_key(const peft__gguf_reader *r, const char *key, char buffer[PEFT__GGUF_KEY_BYTES]) {
    (void)snprintf(buffer, PEFT__GGUF_KEY_BYTES, "%s.%s", r->arch, key);
    return buffer;
}

peft_status peft__gguf_copy_int(const peft__gguf_reader *r, const char *key, const char *name, int64_t fallback) {
    char full[PEFT__GGUF_KEY_BYTES];
    int64_t value = 0;
    peft__gguf_key(r, key, full);
    if (fallback < 0 && !peft__gguf_has(r->gguf, full))
        PEFT_TRY(peft__gguf_need_int(r->gguf, full, 0, INT32_MAX, &value)); /* says what is missing */
    PEFT_TRY(peft__gguf_get_uniform_int(r->gguf, full, 0, INT32_MAX, fallback < 0 ? 0 : fallback, &value));
    return peft__gguf_put(r, r->config, name, json_integer(value));
}

peft_status peft__gguf_copy_float(const peft__gguf_reader *r, const char *key, const char *name, double fallback) {
    char full[PEFT__GGUF_KEY_BYTES];
    double value = 0;
    PEFT_TRY(peft__gguf_get_float(r->gguf, peft__gguf_key(r, key, full), fallback, &value));
    return peft__gguf_put(r, r->config, name, json_real(value));
}

double peft__gguf_tidy(double value) {
    for (int digits = 1; digits < 10; digits++) {
        char text[40];
        (void)snprintf(text, sizeof text, "%.*e", digits, value);
        for (char *c = text; *c != '\0'; c++)
            if (*c == ',') *c = '.'; /* a host's locale */
        double back = 0;
        if (peft__parse_f64(text, strlen(text), &back) && (float)back == (float)value) return back;
    }
    return value;
}

peft_status peft__gguf_copy_token_ids(const peft__gguf_reader *r) {
    static const char *const keys[][2] = {{"tokenizer.ggml.bos_token_id", "bos_token_id"},
                                          {"tokenizer.ggml.eos_token_id", "eos_token_id"},
                                          {"tokenizer.ggml.padding_token_id", "pad_token_id"}};
    for (size_t i = 0; i < PEFT_COUNT(keys); i++) {
        int64_t id = -1;
        PEFT_TRY(peft__gguf_get_int(r->gguf, keys[i][0], -1, UINT32_MAX, -1, &id));
        if (id >= 0 && id <= INT32_MAX) PEFT_TRY(peft__gguf_put(r, r->config, keys[i][1], json_integer(id)));
    }
    return PEFT_OK;
}

peft_status peft__gguf_copy_vocabulary(const peft__gguf_reader *r) {
    const peft__tensors *tensors = peft__gguf_tensors(r->gguf);
    const peft__tensor *words = NULL;
    PEFT_TRY(peft__tensors_need(r->ctx, tensors, "token_embd.weight", &words));
    if (words->ndim != 2)
        return peft__fail(r->ctx, PEFT_E_MISMATCH, "%s: token_embd.weight: expected 2 dimensions, found %u",
                          words->file, words->ndim);
    PEFT_TRY(peft__gguf_put(r, r->config, "vocab_size", json_integer(words->shape[0])));
    return peft__gguf_put(r, r->config, "tie_word_embeddings",
                          json_boolean(peft__tensors_find(tensors, "output.weight") == NULL));
}

peft_status peft__gguf_put_class(const peft__gguf_reader *r, const char *prefix, const char *suffix) {
    char name[96];
    (void)snprintf(name, sizeof name, "%s%s", prefix, suffix);
    json_t *classes = json_array();
    if (classes == NULL || json_array_append_new(classes, json_string(name)) != 0) {
        json_decref(classes);
        return peft__fail_nomem(r->ctx, 64, "the model's configuration");
    }
    return peft__gguf_put(r, r->config, "architectures", classes);
}

/* ---- names ----------------------------------------------------------------------------------------------- */

const char *peft__gguf_split_layer(const char *name, const char *layers, long long *out_layer) {
    const size_t length = strlen(layers);
    if (strncmp(name, layers, length) != 0) return NULL;
    const char *digits = name + length, *dot = strchr(digits, '.');
    int64_t layer = 0;
    if (dot == NULL || !peft__parse_i64(digits, (size_t)(dot - digits), &layer)) return NULL;
    *out_layer = layer;
    return dot + 1;
}

char *peft__gguf_renamed(peft__arena *arena, const char *front, const peft__gguf_rename *rows, size_t count,
                         const char *name) {
    for (size_t i = 0; i < count; i++) {
        const size_t length = strlen(rows[i].name);
        if (strncmp(name, rows[i].name, length) == 0)
            return peft__arena_strfmt(arena, "%s%s%s", front, rows[i].stored, name + length);
    }
    return NULL;
}
