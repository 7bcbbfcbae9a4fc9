/* session.c: sessions come and go, and what they are made of.
 *
 * A session takes references on everything it needs, so that a host may destroy things in any order. The passes are in
 * pass.c, the memory they run in is planned in plan.c.
 */
#include "train/train.h"

#include <math.h>

/* ---- checks that several calls share ------------------------------------------------------------------------ */

peft_status peft__session_need(const peft_session *session, bool allowed, const char *call, const char *expected) {
    static const char *const names[] = {"idle", "in the middle of a pass", "after a forward pass",
                                        "after a backward pass"};
    if (allowed) return PEFT_OK;
    return peft__fail(session->ctx, PEFT_E_STATE, "%s %s; the session is %s", call, expected, names[session->phase]);
}

int32_t peft__session_find(const peft_session *session, const peft_adapter *adapter) {
    for (uint32_t i = 0; i < session->count; i++)
        if (session->adapters[i] == adapter) return (int32_t)i;
    return -1;
}

peft_status peft__session_positions(const peft_session *session, int64_t *out_positions) {
    const int64_t all = peft__model_dims(session->model)->max_position_embeddings;
    int64_t taken = 0;
    for (uint32_t i = 0; i < session->count; i++) {
        const peft__hooked *adapter = &session->hooked[i];
        if (adapter->hooks->prefix_length != NULL)
            taken += adapter->hooks->prefix_length(adapter->self, PEFT__STACK_MAIN);
        if (adapter->hooks->inserted_length != NULL)
            taken += adapter->hooks->inserted_length(adapter->self, PEFT__STACK_MAIN);
    }
    if (all > 0 && taken >= all)
        return peft__fail(session->ctx, PEFT_E_LIMIT, "the adapters' prompts take %lld of the model's %lld positions",
                          (long long)taken, (long long)all);
    *out_positions = all > 0 ? all - taken : 0;
    return PEFT_OK;
}

peft__batch_limits peft__session_limits(const peft_session *session, bool need_labels) {
    const peft__dims *dims = peft__model_dims(session->model);
    peft__batch_limits limits = {.vocab = dims->vocab_size,
                                 .labels = dims->num_labels,
                                 .types = dims->type_vocab_size,
                                 .features = dims->feature_size,
                                 .positions = dims->max_position_embeddings,
                                 .first_position = dims->first_position,
                                 .adapters = session->count,
                                 .task = peft__model_task(session->model),
                                 .targets = peft__model_has_targets(session->model),
                                 .need_labels = need_labels,
                                 .choices = session->options.loss == PEFT_LOSS_TFEW};
    for (uint32_t i = 0; i < session->count; i++) {
        const peft__hooked *adapter = &session->hooked[i];
        const int64_t classes = adapter->hooks->classes != NULL ? adapter->hooks->classes(adapter->self) : 0;
        if (classes > 0) limits.labels = classes, limits.targets = false;
    }
    return limits;
}

peft_status peft__session_take_batch(peft_session *session, peft__batch_store *store, const peft_batch *batch,
                                     bool need_labels) {
    if (batch == NULL) return peft__fail(session->ctx, PEFT_E_ARG, "the batch is missing");
    peft_batch known = {0};
    PEFT_TRY(peft__options_copy(session->ctx, &known, sizeof known, batch, sizeof known, "peft_batch"));
    for (uint32_t i = 0; known.adapter_ids != NULL && i < session->count; i++)
        if (!session->adapters[i]->per_sequence)
            return peft__fail(session->ctx, PEFT_E_UNSUPPORTED,
                              "the batch has adapter_ids, but adapter %u (%s) changes every sequence and cannot be "
                              "used for some of them only",
                              i, session->adapters[i]->method->peft_type);
    peft__batch_limits limits = peft__session_limits(session, need_labels);
    PEFT_TRY(peft__session_positions(session, &limits.positions));
    PEFT_TRY(peft__batch_check(session->ctx, &known, &limits));
    return peft__batch_store_put(session->ctx, store, &known);
}

/* ---- creation -------------------------------------------------------------------------------------------------- */

void peft_session_options_init_sized(peft_session_options *options, uint32_t size) {
    if (options == NULL || size < sizeof options->struct_size) return;
    const peft_session_options defaults = {.struct_size = size, .similarity_scale = 20.0f};
    memset(options, 0, size);
    memcpy(options, &defaults, peft__min_size(size, sizeof defaults));
}

static peft_status check_options(peft_context *ctx, const peft_session_options *o) {
    const int64_t sizes[] = {o->max_rows, o->max_sequences, o->max_labels, o->max_decoder_rows,
                             o->max_decoder_sequences};
    for (size_t i = 0; i < PEFT_COUNT(sizes); i++)
        if (sizes[i] < 0 || sizes[i] > INT32_MAX)
            return peft__fail(ctx, PEFT_E_ARG, "the maxima of peft_session_options are 0 to 2^31-1, found %lld",
                              (long long)sizes[i]);
    if (o->loss < PEFT_LOSS_TASK || o->loss > PEFT_LOSS_TFEW)
        return peft__fail(ctx, PEFT_E_ARG, "peft_session_options.loss %d is not known", o->loss);
    if (!(o->label_smoothing >= 0.0f && o->label_smoothing < 1.0f))
        return peft__fail(ctx, PEFT_E_ARG, "label_smoothing is 0 or more and below 1, found %g",
                          (double)o->label_smoothing);
    if (!(o->similarity_scale > 0.0f && isfinite(o->similarity_scale)))
        return peft__fail(ctx, PEFT_E_ARG, "similarity_scale is above 0, found %g", (double)o->similarity_scale);
    if (o->loss == PEFT_LOSS_TFEW && o->label_smoothing != 0.0f)
        return peft__fail(ctx, PEFT_E_ARG, "the losses of T-Few have no label_smoothing, found %g",
                          (double)o->label_smoothing);
    return PEFT_OK;
}

/* Arrays for a set of adapters; references are taken when the set is installed. */
typedef struct adapter_set {
    peft_adapter **adapters;
    peft__hooked *hooked;
    peft__accumulation *accumulated;
    uint64_t params;
} adapter_set;

static void free_set(peft__mem *mem, adapter_set *set) {
    peft__free(mem, set->adapters);
    peft__free(mem, set->hooked);
    peft__free(mem, set->accumulated);
}

static peft_status make_set(peft_context *ctx, const peft_model *model, peft_adapter *const *adapters, uint32_t count,
                            adapter_set *out) {
    if (count > 0 && adapters == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "%u adapters are announced and none given", count);
    if (count > 256) return peft__fail(ctx, PEFT_E_LIMIT, "a session takes up to 256 adapters, found %u", count);
    adapter_set set = {0};
    for (uint32_t i = 0; i < count; i++) {
        if (adapters[i] == NULL) return peft__fail(ctx, PEFT_E_ARG, "adapter %u is NULL", i);
        if (peft__adapter_model(adapters[i]) != model)
            return peft__fail(ctx, PEFT_E_MISMATCH, "adapter %u belongs to another model than the session's", i);
        for (uint32_t k = 0; k < i; k++)
            if (adapters[k] == adapters[i])
                return peft__fail(ctx, PEFT_E_ARG, "adapter %u is the same as adapter %u", i, k);
        set.params += adapters[i]->count;
    }
    set.adapters = peft__alloc_zero(ctx->mem, count * sizeof *set.adapters);
    set.hooked = peft__alloc_zero(ctx->mem, count * sizeof *set.hooked);
    set.accumulated = peft__alloc_zero(ctx->mem, count * sizeof *set.accumulated);
    if (set.adapters == NULL || set.hooked == NULL || set.accumulated == NULL) {
        free_set(ctx->mem, &set);
        return peft__fail_nomem(ctx, count * sizeof *set.hooked, "a session");
    }
    for (uint32_t i = 0; i < count; i++) {
        set.adapters[i] = adapters[i];
        set.hooked[i] = peft__adapter_hooked(adapters[i]);
    }
    *out = set;
    return PEFT_OK;
}

static void install_set(peft_session *session, const adapter_set *set, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) (void)peft__adapter_ref(set->adapters[i]);
    for (uint32_t i = 0; i < session->count; i++) peft__adapter_unref(session->adapters[i]);
    adapter_set old = {session->adapters, session->hooked, session->accumulated, 0};
    free_set(session->ctx->mem, &old);
    session->adapters = set->adapters;
    session->hooked = set->hooked;
    session->accumulated = set->accumulated;
    session->params = set->params;
    session->count = count;
}

/* A session without plans. */
static peft_status make_session(peft_context *ctx, peft_model *model, peft_adapter *const *adapters, uint32_t count,
                                const peft_session_options *options, peft_session **out_session) {
    peft_session_options chosen;
    peft_session_options_init(&chosen);
    PEFT_TRY(peft__options_copy(ctx, &chosen, sizeof chosen, options, sizeof chosen, "peft_session_options"));
    PEFT_TRY(check_options(ctx, &chosen));
    if (chosen.loss == PEFT_LOSS_TFEW && peft__model_task(model) != PEFT_TASK_SEQ_2_SEQ_LM &&
        peft__model_task(model) != PEFT_TASK_CAUSAL_LM)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED,
                          "the losses of T-Few need an encoder-decoder or a causal language model");
    adapter_set set;
    PEFT_TRY(make_set(ctx, model, adapters, count, &set));
    peft_session *session = peft__alloc_zero(ctx->mem, sizeof *session);
    if (session == NULL) {
        free_set(ctx->mem, &set);
        return peft__fail_nomem(ctx, sizeof *session, "a session");
    }
    session->ctx = peft__context_ref(ctx);
    session->model = peft__model_ref(model);
    session->options = chosen;
    session->batch.mem = session->side.mem = ctx->mem;
    atomic_init(&session->cancel, false);
    install_set(session, &set, count);

    const int64_t labels = peft__model_dims(model)->num_labels;
    if (chosen.class_weights != NULL && labels > 0) {
        const size_t bytes = (size_t)labels * sizeof(float);
        session->class_weights = peft__alloc(ctx->mem, bytes);
        if (session->class_weights == NULL) {
            peft_session_destroy(session);
            return peft__fail_nomem(ctx, bytes, "class weights");
        }
        memcpy(session->class_weights, chosen.class_weights, bytes);
        for (int64_t i = 0; i < labels; i++) {
            if (session->class_weights[i] >= 0.0f && isfinite(session->class_weights[i])) continue;
            peft_session_destroy(session);
            return peft__fail(ctx, PEFT_E_ARG, "class_weights[%lld] is a finite number that is not negative",
                              (long long)i);
        }
    }
    session->options.class_weights = session->class_weights;
    *out_session = session;
    return PEFT_OK;
}

/* Capacity from the options alone. */
static peft_status capacity_of_options(const peft_session *session, peft__capacity *out) {
    const peft_session_options *o = &session->options;
    const peft__capacity none = {0};
    const peft_batch largest = {.rows = o->max_rows,
                                .sequences = o->max_sequences > 0 ? o->max_sequences : peft__min_i64(o->max_rows, 4),
                                .decoder_rows = o->max_decoder_rows,
                                .decoder_sequences = o->max_decoder_sequences > 0
                                                         ? o->max_decoder_sequences
                                                         : peft__min_i64(o->max_decoder_rows, 4)};
    return peft__plan_capacity(session, &largest, &none, out);
}

peft_status peft_session_create(peft_context *context, peft_model *model, peft_adapter *const *adapters, uint32_t count,
                                const peft_session_options *options, peft_session **out_session) {
    if (context == NULL || model == NULL || out_session == NULL)
        return peft__fail(context, PEFT_E_ARG, "peft_session_create() takes a context, a model and out_session");
    peft_session *session;
    PEFT_TRY(make_session(context, model, adapters, count, options, &session));
    if (session->options.max_rows > 0 && !session->options.inference) {
        peft__capacity capacity;
        peft_status status = capacity_of_options(session, &capacity);
        if (status >= 0) status = peft__plan_make(session, PEFT__PLAN_TRAIN, &capacity);
        if (status < 0) {
            peft_session_destroy(session);
            return status;
        }
    }
    *out_session = session;
    return PEFT_OK;
}

static void free_plans(peft_session *session) {
    session->plan = NULL;
    for (int kind = 0; kind < PEFT__PLAN_COUNT; kind++) peft__plan_free(session, &session->plans[kind]);
}

void peft_session_destroy(peft_session *session) {
    if (session == NULL) return;
    peft_context *ctx = session->ctx;
    free_plans(session);
    peft__generation_free(session);
    peft__decoding_free(session);
    peft__batch_store_free(&session->batch);
    peft__batch_store_free(&session->side);
    const adapter_set none = {0};
    install_set(session, &none, 0);
    peft__free(ctx->mem, session->class_weights);
    peft_model_destroy(session->model);
    peft__free(ctx->mem, session);
    peft__context_unref(ctx);
}

/* Do the plans serve the other adapters too? Most swaps are of this kind: adapters trained with one recipe. */
static bool all_alike(const peft_session *session, const adapter_set *set, uint32_t count) {
    if (count != session->count) return false;
    for (uint32_t i = 0; i < count; i++)
        if (!peft__adapter_alike(session->adapters[i], set->adapters[i])) return false;
    return true;
}

peft_status peft_session_set_adapters(peft_session *session, peft_adapter *const *adapters, uint32_t count) {
    if (session == NULL) return PEFT_E_ARG;
    PEFT_TRY(peft__session_need(session, session->phase == PEFT__IDLE, "peft_session_set_adapters()",
                                "comes between steps"));
    adapter_set set;
    PEFT_TRY(make_set(session->ctx, session->model, adapters, count, &set));
    session->plan = NULL; /* no pass is left that a backward part could follow */
    if (all_alike(session, &set, count))
        peft__plan_exchange(session, set.adapters);
    else
        free_plans(session);
    install_set(session, &set, count);
    return PEFT_OK;
}

double peft_session_flops(const peft_session *session) {
    return session != NULL ? 2.0 * session->products : 0.0;
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

peft_status peft_session_memory(peft_context *context, peft_model *model, peft_adapter *const *adapters, uint32_t count,
                                const peft_session_options *options, peft_memory_info *out_info) {
    if (context == NULL || model == NULL || out_info == NULL)
        return peft__fail(context, PEFT_E_ARG, "peft_session_memory() takes a context, a model and out_info");
    peft_memory_info info = {0};
    PEFT_TRY(peft__options_copy(context, &info, sizeof info, out_info, sizeof info.struct_size, "peft_memory_info"));
    peft_session *session;
    PEFT_TRY(make_session(context, model, adapters, count, options, &session));
    peft__capacity capacity;
    peft__plan plan = {0};
    peft_status status = PEFT_OK;
    if (session->options.max_rows == 0)
        status = peft__fail(context, PEFT_E_ARG, "peft_session_memory() needs peft_session_options.max_rows");
    const peft__plan_kind kind = session->options.inference ? PEFT__PLAN_EVAL : PEFT__PLAN_TRAIN;
    if (status >= 0) status = capacity_of_options(session, &capacity);
    if (status >= 0) status = peft__plan_build(session, kind, &capacity, &plan);
    peft_model_info model_info = {.struct_size = (uint32_t)sizeof model_info};
    if (status >= 0) status = peft_model_get_info(model, &model_info);
    if (status >= 0) {
        const peft__plan_info *planned = peft__graph_plan_info(plan.graph);
        const uint32_t size = info.struct_size;
        uint64_t trained = 0;
        for (uint32_t i = 0; i < session->count; i++) trained += (uint64_t)session->adapters[i]->trained;
        info = (peft_memory_info){.steps = planned->steps,
                                  .activations = planned->arena + planned->index,
                                  .activations_lower_bound = planned->lower_bound + planned->index,
                                  .gradients = planned->gradients,
                                  .optimizer = session->options.inference ? 0 : trained * 2 * sizeof(float),
                                  .weights = (uint64_t)model_info.bytes};
        info.total = info.activations + info.gradients + info.optimizer + info.weights;
        info.struct_size = out_info->struct_size;
        memcpy(out_info, &info, peft__min_size(size, info.struct_size));
    }
    peft__plan_free(session, &plan);
    peft_session_destroy(session);
    return status;
}
