/* forgetting.c: what training cost the base of what it could before: the loss of its own task (the next word, or hidden
 * words) on a text that eval.forgetting names, with the adapter on and without.
 *
 * A model that was loaded for another task (a classifier) is loaded once more for its own, and the trained tensors are
 * given to an adapter of the same configuration there. Everything is made for the measurement and goes with it, so that
 * it is in nobody's count of memory. What is hidden of a text depends on its place alone: both passes hide the same.
 */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct bench {
    peft_model *model; /* NULL: the run's own */
    peft_adapter *adapter;
    peft_dataset *data;
    peft_session *session;
} bench;

static void clear(bench *b) {
    peft_session_destroy(b->session);
    peft_dataset_destroy(b->data);
    peft_adapter_destroy(b->adapter);
    peft_model_destroy(b->model);
}

/* What a model of a type was pretrained on. */
static int32_t own_task(const char *model_type) {
    static const char *const MASKED[] = {"bert", "roberta", "distilbert", "electra", "albert"};
    static const char *const PAIRS[] = {"t5", "mt5"};
    for (size_t i = 0; i < sizeof MASKED / sizeof MASKED[0]; i++)
        if (strcmp(model_type, MASKED[i]) == 0) return PEFT_TASK_MASKED_LM;
    for (size_t i = 0; i < sizeof PAIRS / sizeof PAIRS[0]; i++)
        if (strcmp(model_type, PAIRS[i]) == 0) return PEFT_TASK_SEQ_2_SEQ_LM;
    return PEFT_TASK_CAUSAL_LM;
}

static bool open_model(const run *r, bench *b) {
    peft_model_info info = {.struct_size = sizeof info};
    if (peft_model_get_info(r->model, &info) < 0) return cli_fail(r->c, NULL);
    const int32_t task = own_task(info.model_type);
    if (info.task == task) return true;
    peft_model_options options;
    peft_model_options_init(&options);
    options.task = task;
    options.allow_unexpected = 1; /* the other task's output layer */
    return peft_model_load(r->c->context, run_text(r, "model"), &options, &b->model) >= 0 ||
           cli_fail(r->c, "eval.forgetting");
}

/* Tensors that both adapters have: all but the other task's output layer. */
static bool copy_tensors(const run *r, peft_adapter *from, peft_adapter *to) {
    for (uint32_t i = 0; i < peft_adapter_tensor_count(from); i++) {
        peft_tensor_info source = {.struct_size = sizeof source};
        if (peft_adapter_tensor(from, i, &source) < 0) return cli_fail(r->c, NULL);
        for (uint32_t k = 0; k < peft_adapter_tensor_count(to); k++) {
            peft_tensor_info place = {.struct_size = sizeof place};
            if (peft_adapter_tensor(to, k, &place) < 0) return cli_fail(r->c, NULL);
            if (strcmp(place.name, source.name) != 0 || place.bytes != source.bytes) continue;
            if (peft_adapter_set_tensor(to, source.name, source.data, (int64_t)(source.bytes / sizeof(float))) < 0)
                return cli_fail(r->c, NULL);
            break;
        }
    }
    return true;
}

static bool open_all(run *r, peft_adapter *adapter, bench *b) {
    peft_context *context = r->c->context;
    if (!open_model(r, b)) return false;
    peft_model *model = b->model != NULL ? b->model : r->model;
    if (adapter != NULL && b->model != NULL) {
        if (peft_adapter_create(context, model, peft_recipe_adapter_config(r->recipe),
                                (uint64_t)run_int(r, "train.seed"), &b->adapter) < 0)
            return cli_fail(r->c, "eval.forgetting");
        if (!copy_tensors(r, adapter, b->adapter)) return false;
        adapter = b->adapter;
    }
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    options.batch_size = run_int(r, "train.batch_size");
    options.max_length = run_int(r, "data.max_length");
    options.shuffle = 0;
    if (peft_dataset_open(context, model, run_text(r, "eval.forgetting"), &options, &b->data) < 0)
        return cli_fail(r->c, "eval.forgetting");
    peft_session_options session;
    peft_session_options_init(&session);
    session.inference = 1;
    return peft_session_create(context, model, &adapter, adapter != NULL ? 1 : 0, &session, &b->session) >= 0 ||
           cli_fail(r->c, "eval.forgetting");
}

bool run_forgetting(run *r, peft_adapter *adapter, double *out_loss) {
    bench b = {.model = NULL};
    *out_loss = NAN;
    bool good = open_all(r, adapter, &b);
    if (good) {
        interrupt_watch(b.session);
        good = run_evaluate(r, b.session, b.data, run_int(r, "eval.max_batches"), out_loss, NULL);
        interrupt_ignore();
    }
    clear(&b);
    return good;
}
