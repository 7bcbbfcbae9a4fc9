/* config.c: adapter_config.json, read and written by tables of keys.
 *
 * HF PEFT writes every field of its dataclass, drops keys it does not know with a warning and takes defaults for
 * missing ones. We do the same, with one difference: a key that changes what is computed, and that we do not build, is
 * refused by name instead of being dropped, because an adapter that silently computes something else is the worst
 * outcome.
 */
#include "method/adapter.h"

static const peft__config_key COMMON[] = {
    {"peft_type", "null", PEFT__KEY_USED},
    {"task_type", "null", PEFT__KEY_USED},
    {"base_model_name_or_path", "null", PEFT__KEY_INERT},
    /* from here on: not for methods that HF PEFT does not have */
    {"auto_mapping", "null", PEFT__KEY_INERT},
    {"inference_mode", "true", PEFT__KEY_INERT},
    {"peft_version", "\"0.21.2\"", PEFT__KEY_INERT},
    {"revision", "null", PEFT__KEY_INERT},
};
enum { NATIVE_COMMON = 3 };

static size_t common_count(const peft__method *method) {
    return (method->flags & PEFT__METHOD_NATIVE) != 0 ? NATIVE_COMMON : PEFT_COUNT(COMMON);
}

static const peft__config_key *find_key(const peft__method *method, const char *name) {
    for (size_t i = 0; i < PEFT_COUNT(COMMON); i++)
        if (strcmp(COMMON[i].name, name) == 0) return i < common_count(method) ? &COMMON[i] : NULL;
    for (const peft__config_key *key = method->keys; key->name != NULL; key++)
        if (strcmp(key->name, name) == 0) return key;
    return NULL;
}

static bool is_common(const char *name) {
    for (size_t i = 0; i < PEFT_COUNT(COMMON); i++)
        if (strcmp(COMMON[i].name, name) == 0) return true;
    return false;
}

static void log_unknown(peft_context *ctx, const peft__method *method, const char *where, const char *name) {
    const char *names[128];
    size_t count = 0;
    for (size_t i = 0; i < common_count(method); i++) names[count++] = COMMON[i].name;
    for (const peft__config_key *key = method->keys; key->name != NULL && count < PEFT_COUNT(names); key++)
        names[count++] = key->name;
    const char *closest = peft__closest(name, names, count);
    peft__log(ctx, PEFT_LOG_WARNING, "%s: key \"%.80s\" is not known for %s and is ignored%s%s%s", where, name,
              method->peft_type, closest != NULL ? " (did you mean \"" : "", closest != NULL ? closest : "",
              closest != NULL ? "\"?)" : "");
}

static peft_status fill_default(peft_context *ctx, json_t *config, const peft__config_key *key) {
    if (json_object_get(config, key->name) != NULL || key->use == PEFT__KEY_FOREIGN) return PEFT_OK;
    json_t *value = json_loads(key->fallback, JSON_DECODE_ANY, NULL);
    if (value == NULL || json_object_set_new(config, key->name, value) != 0)
        return peft__fail_nomem(ctx, 64, "an adapter's configuration");
    return PEFT_OK;
}

static peft_status take_key(peft_context *ctx, const char *where, const peft__method *method, const char *name,
                            const json_t *value, json_t *config) {
    const peft__config_key *key = find_key(method, name);
    if (key == NULL) {
        if (!is_common(name)) log_unknown(ctx, method, where, name);
        return PEFT_OK;
    }
    if ((key->use == PEFT__KEY_REFUSED || key->use == PEFT__KEY_FOREIGN) && !json_is_null(value) &&
        !json_is_false(value)) {
        json_t *fallback = json_loads(key->fallback, JSON_DECODE_ANY, NULL);
        const bool same = fallback != NULL && json_equal(fallback, value);
        json_decref(fallback);
        if (!same)
            return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                              "%s: %s changes what %s computes and is not built (only %s is accepted)", where, name,
                              method->peft_type, key->fallback);
    }
    if (key->use == PEFT__KEY_FOREIGN) return PEFT_OK;
    json_t *copy = json_deep_copy(value);
    if (copy == NULL || json_object_set_new(config, name, copy) != 0)
        return peft__fail_nomem(ctx, 64, "an adapter's configuration");
    return PEFT_OK;
}

static peft_status complete(peft_context *ctx, const char *where, json_t *given, const peft__method *method,
                            json_t *config) {
    const char *name;
    json_t *value;
    json_object_foreach(given, name, value) PEFT_TRY(take_key(ctx, where, method, name, value, config));
    for (size_t i = 0; i < common_count(method); i++) PEFT_TRY(fill_default(ctx, config, &COMMON[i]));
    for (const peft__config_key *key = method->keys; key->name != NULL; key++) PEFT_TRY(fill_default(ctx, config, key));
    return PEFT_OK;
}

peft_status peft__config_read(peft_context *ctx, const char *where, json_t *given, const peft__method **out_method,
                              json_t **out_config) {
    const char *type = NULL;
    PEFT_TRY(peft__json_need_string(ctx, given, where, "peft_type", &type));
    const peft__method *method = peft__method_find(ctx, type);
    if (method == NULL) return peft__fail_in(ctx, PEFT_E_UNSUPPORTED, "%s", where);
    json_t *config = json_object();
    if (config == NULL) return peft__fail_nomem(ctx, 64, "an adapter's configuration");
    const peft_status status = complete(ctx, where, given, method, config);
    if (status < 0) {
        json_decref(config);
        return status;
    }
    *out_method = method;
    *out_config = config;
    return PEFT_OK;
}

static peft_status write_copy(peft_context *ctx, const peft_adapter *adapter, json_t *copy, peft__buffer *out) {
    const peft__method *method = adapter->method;
    for (const peft__config_key *key = method->keys; key->name != NULL; key++)
        if (key->use == PEFT__KEY_RUNTIME) json_object_del(copy, key->name);
    if ((method->flags & PEFT__METHOD_NATIVE) == 0 && json_object_set_new(copy, "inference_mode", json_true()) != 0)
        return peft__fail_nomem(ctx, 64, "an adapter's configuration");
    if (method->export_config != NULL) PEFT_TRY(method->export_config(adapter, copy));
    PEFT_TRY(peft__json_dump(ctx, copy, 2, true, out));
    if (out->failed) return peft__fail_nomem(ctx, out->capacity, "an adapter's configuration");
    return PEFT_OK;
}

peft_status peft__config_write(peft_context *ctx, const peft_adapter *adapter, peft__buffer *out) {
    json_t *copy = json_deep_copy(adapter->config);
    if (copy == NULL) return peft__fail_nomem(ctx, 64, "an adapter's configuration");
    const peft_status status = write_copy(ctx, adapter, copy, out);
    json_decref(copy);
    return status;
}

peft_status peft__config_set_names(peft_context *ctx, json_t *config, const char *key, const char *const *names,
                                   size_t count) {
    json_t *list = json_array();
    bool good = list != NULL;
    for (size_t i = 0; good && i < count; i++) good = json_array_append_new(list, json_string(names[i])) == 0;
    if (good) good = json_object_set(config, key, list) == 0;
    json_decref(list);
    return good ? PEFT_OK : peft__fail_nomem(ctx, count * 16, "an adapter's configuration");
}
