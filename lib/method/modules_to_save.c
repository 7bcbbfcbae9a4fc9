/* modules_to_save.c: trained copies of whole modules, saved beside the adapter.
 *
 * HF PEFT matches by plain suffix, without a dot in front: "classifier" also takes "pre_classifier". A container counts
 * as its parts: "classifier" is "classifier.dense" and "classifier.out_proj" in RoBERTa. Task heads are added by the
 * task, and so is every module that the files of the base do not have, since its weights would otherwise be lost on
 * saving.
 */
#include "method/adapter.h"

static const char *const WHERE = "adapter_config.json";
static const char *const HEADS[] = {"classifier", "score", "qa_outputs"};

static bool is_listed(const json_t *list, const char *name) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *item = json_string_value(json_array_get(list, i));
        if (item != NULL && strcmp(item, name) == 0) return true;
    }
    return false;
}

static peft_status append(peft_context *ctx, json_t *list, const char *name) {
    if (is_listed(list, name)) return PEFT_OK;
    return json_array_append_new(list, json_string(name)) == 0 ? PEFT_OK : peft__fail_nomem(ctx, 64, "modules_to_save");
}

static bool ends_with(const char *text, size_t length, const char *suffix) {
    const size_t size = strlen(suffix);
    return size <= length && strncmp(text + (length - size), suffix, size) == 0;
}

/* Length of the shortest leading path of `module` that an entry takes, 0 = none. */
static size_t owner_length(const json_t *list, const char *module) {
    const size_t length = strlen(module);
    for (size_t end = 1; end <= length; end++) {
        if (end < length && module[end] != '.') continue;
        for (size_t i = 0; i < json_array_size(list); i++)
            if (ends_with(module, end, json_string_value(json_array_get(list, i)))) return end;
    }
    return 0;
}

static peft_status copy_list(peft_adapter *adapter, json_t *list) {
    peft_context *ctx = adapter->ctx;
    const json_t *given = peft__json_value(adapter->config, "modules_to_save");
    if (given != NULL && !json_is_array(given))
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: modules_to_save: expected a list of module names, found %s", WHERE,
                          peft__json_kind(given));
    for (size_t i = 0; i < json_array_size(given); i++) {
        const json_t *item = json_array_get(given, i);
        if (!json_is_string(item) || json_string_length(item) == 0 ||
            json_string_length(item) != strlen(json_string_value(item)))
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: modules_to_save[%zu]: expected a module name, found %s", WHERE,
                              i, peft__json_kind(item));
        PEFT_TRY(append(ctx, list, json_string_value(item)));
    }
    return PEFT_OK;
}

static peft_status add_heads(peft_adapter *adapter, json_t *list) {
    peft_context *ctx = adapter->ctx;
    const json_t *type = json_object_get(adapter->config, "task_type");
    const char *task = json_is_string(type) ? json_string_value(type) : "";
    if (strcmp(task, "SEQ_CLS") == 0 || strcmp(task, "TOKEN_CLS") == 0) {
        PEFT_TRY(append(ctx, list, "classifier"));
        PEFT_TRY(append(ctx, list, "score"));
    } else if (strcmp(task, "QUESTION_ANS") == 0) {
        PEFT_TRY(append(ctx, list, "qa_outputs"));
    } else if (peft__model_task(adapter->model) == PEFT_TASK_IMAGE_CLS &&
               (adapter->method->flags & PEFT__METHOD_NATIVE) != 0) { /* HF PEFT has no such task */
        PEFT_TRY(append(ctx, list, "classifier"));
    }
    for (uint32_t i = 0; !adapter->loading && i < peft__model_module_count(adapter->model); i++) {
        const peft__module *module = peft__model_module_at(adapter->model, i);
        if (!module->is_new || owner_length(list, module->name) > 0) continue;
        PEFT_TRY(append(ctx, list, module->name));
        peft__log(ctx, PEFT_LOG_INFO, "%s is new: it is trained and saved with the adapter", module->name);
    }
    return PEFT_OK;
}

static peft_status check_used(peft_adapter *adapter, const json_t *list) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        bool used = false;
        for (size_t h = 0; h < PEFT_COUNT(HEADS); h++) used = used || strcmp(HEADS[h], name) == 0;
        const char *closest = NULL;
        size_t names = 0;
        const char *parts[256];
        for (uint32_t k = 0; !used && k < peft__model_module_count(adapter->model); k++) {
            const char *module = peft__model_module_at(adapter->model, k)->name;
            json_t *one = json_pack("[s]", name);
            used = one == NULL || owner_length(one, module) > 0;
            json_decref(one);
            const char *dot = strrchr(module, '.');
            if (names < PEFT_COUNT(parts)) parts[names++] = dot != NULL ? dot + 1 : module;
        }
        if (used) continue;
        if (adapter->loading) { /* HF PEFT's lists may name what only other models have */
            peft__log(adapter->ctx, PEFT_LOG_WARNING, "%s: modules_to_save: \"%.100s\" matches no module", WHERE, name);
            continue;
        }
        closest = peft__closest(name, parts, names);
        return peft__fail(adapter->ctx, PEFT_E_MISMATCH, "%s: modules_to_save: \"%.100s\" matches no module%s%s", WHERE,
                          name, closest != NULL ? "; closest: " : "", closest != NULL ? closest : "");
    }
    return PEFT_OK;
}

static peft_status declare_part(peft_adapter *adapter, const peft__module *module, size_t owner, bool bias) {
    const char *prefix = (adapter->method->flags & PEFT__METHOD_PROMPT) != 0 ? "base_model." : "base_model.model.";
    const char *tensor = peft__adapter_tensor_name(adapter, module, bias);
    if (tensor == NULL) return peft__fail_nomem(adapter->ctx, strlen(module->name), "modules_to_save");
    if ((adapter->method->flags & PEFT__METHOD_FULL_NAMES) != 0) {
        const char *older = peft__older_name(adapter->model, &adapter->arena, tensor);
        const char *shown = older != NULL ? older : tensor;
        return peft__adapter_declare_base(adapter, module, bias, shown, shown, NULL);
    }
    const char *name =
        peft__adapter_text(adapter, "%s%.*s.modules_to_save%s", prefix, (int)owner, tensor, tensor + owner);
    const char *key = peft__adapter_text(adapter, "%s%s", prefix, tensor);
    if (name == NULL || key == NULL) return PEFT_E_NOMEM;
    return peft__adapter_declare_base(adapter, module, bias, name, key, NULL);
}

static peft_status declare_all(peft_adapter *adapter, const json_t *list) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < peft__model_module_count(adapter->model); i++) {
        const peft__module *module = peft__model_module_at(adapter->model, i);
        const size_t owner = owner_length(list, module->name);
        if (owner == 0) continue;
        PEFT_TRY(declare_part(adapter, module, owner, false));
        if (module->has_bias) PEFT_TRY(declare_part(adapter, module, owner, true));
        count++;
    }
    return count > 0 ? peft__adapter_note(adapter, "%u modules trained as whole copies (modules_to_save)\n", count)
                     : PEFT_OK;
}

peft_status peft__modules_to_save(peft_adapter *adapter) {
    peft_context *ctx = adapter->ctx;
    json_t *list = json_array();
    if (list == NULL) return peft__fail_nomem(ctx, 64, "modules_to_save");
    peft_status status = copy_list(adapter, list);
    if (status >= 0) status = add_heads(adapter, list);
    if (status >= 0) status = check_used(adapter, list);
    if (status >= 0 && json_array_size(list) > 0) {
        if (json_object_set(adapter->config, "modules_to_save", list) != 0)
            status = peft__fail_nomem(ctx, 64, "modules_to_save");
        if (status >= 0) status = declare_all(adapter, list);
    }
    json_decref(list);
    return status;
}
