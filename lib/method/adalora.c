/* adalora.c: AdaLoRA (Zhang et al. 2023): ranks that move to where they matter.
 *
 * A linear layer gets y + s B (E o (A drop(x))), A [init_r, in], E [init_r, 1], B [out, init_r],
 * s = lora_alpha / (init_r + 1e-5), whatever ranks are left. E starts at zero. The loss holds orth_reg_weight times the
 * mean of |A A^T - I| and |B^T B - I| over all A and B, so that E plays the part of singular values.
 *
 * After each step every number p has the sensitivity |p g|, smoothed (beta1), and an uncertainty, smoothed (beta2);
 * their product is its score, and the score of a rank is that of its E plus the means over its row of A and its column
 * of B. After tinit steps the budget falls from all ranks to target_r a layer along a cube, until tfinal steps before
 * total_step; every deltaT steps the E of the ranks with the lowest scores is set to zero. From then on the pattern is
 * fixed. Scores and pattern are tensors that are not in the folder, so that checkpoints hold them. The folder holds the
 * ranks that are left and rank_pattern; an adapter loaded from such a folder keeps these ranks.
 */
#include <math.h>

#include "method/layers.h"

static const char *const WHERE = "adapter_config.json";

static const peft__default_targets TARGETS[] = {
    {"t5", {"q", "k", "v", "o", "wi", "wo"}},
    {"mt5", {"q", "k", "v", "o", "wi_0", "wi_1", "wo"}},
    {"bart", {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}},
    {"gpt2", {"c_attn"}},
    {"bloom", {"query_key_value"}},
    {"opt", {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}},
    {"gptj", {"q_proj", "v_proj"}},
    {"gpt_neox", {"query_key_value"}},
    {"gpt_neo", {"q_proj", "v_proj"}},
    {"llama", {"q_proj", "v_proj"}},
    {"llama4", {"q_proj", "v_proj"}},
    {"bert", {"query", "value"}},
    {"roberta", {"query", "key", "value", "dense"}},
    {"deberta-v2", {"query_proj", "key_proj", "value_proj", "dense"}},
    {"gpt_bigcode", {"c_attn"}},
    {"deberta", {"in_proj"}},
    {"gemma", {"q_proj", "v_proj"}},
    {"gemma2", {"q_proj", "v_proj"}},
    {"gemma3_text", {"q_proj", "v_proj"}},
    {"qwen2", {"q_proj", "v_proj"}},
    {"qwen3", {"q_proj", "v_proj"}},
    {"nemotron_h", {"q_proj", "k_proj", "v_proj", "o_proj"}},
    {NULL, {NULL}},
};

enum { PART_A, PART_B, PART_E, PARTS };
static const char *const LEAVES[PARTS] = {"lora_A", "lora_B", "lora_E"};

typedef struct adalora_layer {
    const peft__module *module;
    int64_t rank; /* 0: the folder held none of its ranks; there are no params then */
    uint32_t params[PARTS], sensitivity[PARTS], uncertainty[PARTS], mask;
} adalora_layer;

static void change_row(const peft_adapter *adapter, const void *record, int64_t o, float *row);

typedef struct adalora {
    peft__layered layered;
    adalora_layer *layers; /* layered.layers */
    uint32_t count;
    int64_t init_r, target_r, tinit, tfinal, total_step, delta_t;
    double beta1, beta2, orth_reg_weight;
    float scale, dropout;
    bool init, pruned;      /* pruned: made by a rank_pattern */
    double *gram;           /* [most ranks of a layer]^2 */
    float *scores, *sorted; /* [all ranks] */
} adalora;

/* ---- configuration ------------------------------------------------------------------------------------------ */

static peft_status check_schedule(peft_adapter *adapter, const adalora *l) {
    if (l->total_step <= 0)
        return peft__fail(adapter->ctx, PEFT_E_ARG,
                          "%s: total_step is not given; AdaLoRA needs the number of steps that training will take",
                          WHERE);
    if (l->tinit >= l->total_step - l->tfinal)
        return peft__fail(
            adapter->ctx, PEFT_E_ARG,
            "%s: tinit %lld and tfinal %lld leave none of the %lld steps (total_step) to lower the ranks in", WHERE,
            (long long)l->tinit, (long long)l->tfinal, (long long)l->total_step);
    return PEFT_OK;
}

static peft_status read_config(peft_adapter *adapter, adalora *l) {
    peft_context *ctx = adapter->ctx;
    const json_t *config = adapter->config;
    double alpha = 0.0, dropout = 0.0;
    PEFT_TRY(peft__json_get_int(ctx, config, WHERE, "init_r", 1, 65536, 12, &l->init_r));
    PEFT_TRY(peft__json_get_int(ctx, config, WHERE, "target_r", 0, 65536, 8, &l->target_r));
    PEFT_TRY(peft__json_get_int(ctx, config, WHERE, "tinit", 0, INT64_MAX / 4, 0, &l->tinit));
    PEFT_TRY(peft__json_get_int(ctx, config, WHERE, "tfinal", 0, INT64_MAX / 4, 0, &l->tfinal));
    PEFT_TRY(peft__json_get_int(ctx, config, WHERE, "deltaT", 1, INT64_MAX / 4, 1, &l->delta_t));
    PEFT_TRY(peft__json_get_int(ctx, config, WHERE, "total_step", 0, INT64_MAX / 4, 0, &l->total_step));
    PEFT_TRY(peft__json_get_double(ctx, config, WHERE, "beta1", 0.0, 1.0, 0.85, &l->beta1));
    PEFT_TRY(peft__json_get_double(ctx, config, WHERE, "beta2", 0.0, 1.0, 0.85, &l->beta2));
    PEFT_TRY(peft__json_get_double(ctx, config, WHERE, "orth_reg_weight", 0.0, 1e6, 0.5, &l->orth_reg_weight));
    PEFT_TRY(peft__json_get_double(ctx, config, WHERE, "lora_alpha", -1e9, 1e9, 8.0, &alpha));
    PEFT_TRY(peft__json_get_double(ctx, config, WHERE, "lora_dropout", 0.0, 0.999, 0.0, &dropout));
    PEFT_TRY(peft__json_get_bool(ctx, config, WHERE, "init_lora_weights", true, &l->init));
    l->scale = (float)((alpha > 0.0 ? alpha : (double)l->init_r) / ((double)l->init_r + 1e-5));
    l->dropout = (float)dropout;
    return check_schedule(adapter, l);
}

/* Ranks that rank_pattern leaves a layer; init_r without one. Its keys end in "<module>.lora_E". */
static peft_status pattern_rank(peft_adapter *adapter, const adalora *l, const peft__module *module,
                                int64_t *out_rank) {
    const json_t *pattern = peft__json_value(adapter->config, "rank_pattern");
    *out_rank = l->init_r;
    if (pattern == NULL) return PEFT_OK;
    char *key = peft__adapter_text(adapter, "%s.lora_E", module->name);
    if (key == NULL) return PEFT_E_NOMEM;
    const json_t *kept = json_object_get(pattern, key);
    if (kept == NULL) {
        key = peft__adapter_text(adapter, "base_model.model.%s.lora_E", module->name);
        kept = key != NULL ? json_object_get(pattern, key) : NULL;
    }
    if (kept == NULL) return PEFT_OK;
    if (!json_is_array(kept) || json_array_size(kept) != (size_t)l->init_r)
        return peft__fail(adapter->ctx, PEFT_E_FORMAT, "%s: rank_pattern of %s: expected a list of %lld truth values",
                          WHERE, module->name, (long long)l->init_r);
    *out_rank = 0;
    for (size_t i = 0; i < json_array_size(kept); i++) {
        const json_t *one = json_array_get(kept, i);
        if (!json_is_boolean(one))
            return peft__fail(adapter->ctx, PEFT_E_FORMAT, "%s: rank_pattern of %s: expected true or false, found %s",
                              WHERE, module->name, peft__json_kind(one));
        *out_rank += json_is_true(one);
    }
    return PEFT_OK;
}

static void part_shape(const adalora_layer *layer, int part, int64_t *shape) {
    shape[0] = part == PART_B ? layer->module->out : layer->rank;
    shape[1] = part == PART_A ? layer->module->in : part == PART_B ? layer->rank : 1;
}

/* A frozen tensor that only checkpoints hold. */
static peft_status declare_state(peft_adapter *adapter, const adalora_layer *layer, const char *leaf, const char *what,
                                 const int64_t *shape, float value, uint32_t *out) {
    const peft__declaration d = {
        .name = peft__adapter_text(adapter, "base_model.model.%s.%s.%s", layer->module->name, leaf, what),
        .flags = PEFT__PARAM_FROZEN,
        .ndim = 2,
        .shape = {shape[0], shape[1]},
        .init = PEFT__INIT_CONSTANT,
        .init_value = value};
    return d.name == NULL ? PEFT_E_NOMEM : peft__adapter_declare(adapter, &d, out);
}

static peft_status declare(peft_adapter *adapter, const adalora *l, const peft__module *module, adalora_layer *layer) {
    layer->module = module;
    PEFT_TRY(pattern_rank(adapter, l, module, &layer->rank));
    for (int part = 0; layer->rank > 0 && part < PARTS; part++) {
        peft__declaration d = {.ndim = 2, .init = PEFT__INIT_NORMAL, .init_value = l->init ? 0.02f : 1.0f};
        if (part == PART_E && l->init) d.init = PEFT__INIT_ZERO;
        part_shape(layer, part, d.shape);
        PEFT_TRY(peft__layers_declare(adapter, module, LEAVES[part], d, &layer->params[part]));
    }
    /* Ranks from a pattern stay as they are and need no scores. */
    for (int part = 0; layer->rank > 0 && !l->pruned && part < PARTS; part++) {
        int64_t shape[2];
        part_shape(layer, part, shape);
        PEFT_TRY(declare_state(adapter, layer, LEAVES[part], "sensitivity", shape, 0.0f, &layer->sensitivity[part]));
        PEFT_TRY(declare_state(adapter, layer, LEAVES[part], "uncertainty", shape, 0.0f, &layer->uncertainty[part]));
        if (part == PART_E) PEFT_TRY(declare_state(adapter, layer, LEAVES[part], "mask", shape, 1.0f, &layer->mask));
    }
    return PEFT_OK;
}

static peft_status take_scratch(peft_adapter *adapter, adalora *l) {
    size_t most = 0, all = 0;
    for (uint32_t i = 0; i < l->count; i++) {
        most = peft__max_size(most, (size_t)l->layers[i].rank);
        all += (size_t)l->layers[i].rank;
    }
    l->gram = peft__arena_alloc(&adapter->arena, (most * most + 1) * sizeof *l->gram);
    l->scores = peft__arena_alloc(&adapter->arena, (all + 1) * sizeof *l->scores);
    l->sorted = peft__arena_alloc(&adapter->arena, (all + 1) * sizeof *l->sorted);
    if (l->gram != NULL && l->scores != NULL && l->sorted != NULL) return PEFT_OK;
    return peft__fail_nomem(adapter->ctx, (most * most + 2 * all) * sizeof *l->gram, "an adapter");
}

static peft_status configure(peft_adapter *adapter) {
    adalora *l = peft__arena_alloc(&adapter->arena, sizeof *l);
    if (l == NULL) return peft__fail_nomem(adapter->ctx, sizeof *l, "an adapter");
    adapter->state = l;
    PEFT_TRY(read_config(adapter, l));
    l->pruned = peft__json_value(adapter->config, "rank_pattern") != NULL;
    if (l->pruned && !json_is_object(peft__json_value(adapter->config, "rank_pattern")))
        return peft__fail(adapter->ctx, PEFT_E_FORMAT, "%s: rank_pattern: expected an object", WHERE);
    peft__targets targets = {NULL, 0};
    PEFT_TRY(peft__modules_to_save(adapter));
    PEFT_TRY(peft__targets_find(adapter, PEFT__KIND(PEFT_MODULE_LINEAR) | PEFT__KIND(PEFT_MODULE_CONV1D), TARGETS,
                                &targets));
    PEFT_TRY(peft__layers_fix_fan(adapter, &targets));
    PEFT_TRY(peft__layers_make(adapter, &targets, &l->layered, sizeof *l->layers));
    l->layers = l->layered.layers;
    l->layered.row = change_row;
    for (uint32_t i = 0; i < targets.count; i++) {
        PEFT_TRY(declare(adapter, l, targets.modules[i], &l->layers[i]));
        l->count++;
    }
    PEFT_TRY(take_scratch(adapter, l));
    PEFT_TRY(peft__layers_biases(adapter, l->layered.by_module, "lora_only"));
    for (uint32_t i = 0; i < l->count; i++) /* without ranks there is nothing to add */
        if (l->layers[i].rank == 0) l->layered.by_module[l->layers[i].module->index] = 0;
    adapter->per_sequence = peft__adapter_spares_base(adapter);
    return PEFT_OK;
}

/* ---- the graph --------------------------------------------------------------------------------------------------- */

static peft__value *after_linear(void *self, peft__build *b, const peft__module *module, peft__value *x,
                                 peft__value *y) {
    peft_adapter *adapter = self;
    const adalora *l = adapter->state;
    const adalora_layer *layer = peft__layers_of(adapter, module);
    if (layer == NULL || adapter->scale == 0.0f) return y;
    peft__graph *g = b->graph;
    const uint64_t stream = peft__hash64(module->name, strlen(module->name), 1);
    peft__value *xd = peft__op_dropout(g, x, b->purpose == PEFT__BUILD_LOSS ? l->dropout : 0.0f, stream);
    peft__value *a = peft__value_param(g, &adapter->params[layer->params[PART_A]]);
    peft__value *e = peft__value_param_vector(g, &adapter->params[layer->params[PART_E]]);
    /* E scales the columns of B, which are as many numbers as a row of tokens has; scaling U would take one a token. */
    peft__value *up = peft__op_mul_vector(g, peft__value_param(g, &adapter->params[layer->params[PART_B]]), e);
    return up != NULL ? peft__op_low_rank(g, xd, y, a, up, adapter->scale * l->scale, peft__adapter_slot(adapter, b))
                      : NULL;
}

/* ---- orthogonality ------------------------------------------------------------------------------------------ */

/* |P P^T - I| for the `rank` rows of P, element i of row r at data[r * row + i * step]; its gradient times factor is
 * added to grad, laid out alike. `gram` has room for rank^2. */
static double deviation(const float *data, int64_t rank, int64_t length, int64_t row, int64_t step, double factor,
                        float *grad, double *gram) {
    double squares = 0.0;
    for (int64_t i = 0; i < rank; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = i == j ? -1.0 : 0.0;
            for (int64_t k = 0; k < length; k++)
                sum += (double)data[i * row + k * step] * (double)data[j * row + k * step];
            gram[i * rank + j] = gram[j * rank + i] = sum;
            squares += (i == j ? 1.0 : 2.0) * sum * sum;
        }
    const double norm = sqrt(squares);
    if (grad == NULL || norm == 0.0) return norm;
    for (int64_t i = 0; i < rank; i++)
        for (int64_t k = 0; k < length; k++) {
            double sum = 0.0;
            for (int64_t j = 0; j < rank; j++) sum += gram[i * rank + j] * (double)data[j * row + k * step];
            grad[i * row + k * step] += (float)(factor * 2.0 * sum / norm);
        }
    return norm;
}

static double penalty(const peft_adapter *adapter, float *const *grads, double factor) {
    const adalora *l = adapter->state;
    int64_t parts = 0, most = 0;
    for (uint32_t i = 0; i < l->count; i++) {
        parts += l->layers[i].rank > 0 ? 2 : 0;
        most = peft__max_i64(most, l->layers[i].rank);
    }
    if (parts == 0 || l->orth_reg_weight == 0.0) return 0.0;
    double *gram = l->gram, sum = 0.0;
    const double each = l->orth_reg_weight / (double)parts;
    for (uint32_t i = 0; i < l->count; i++) {
        const adalora_layer *layer = &l->layers[i];
        const int64_t r = layer->rank;
        if (r == 0) continue;
        const uint32_t a = layer->params[PART_A], b = layer->params[PART_B];
        sum += deviation(adapter->params[a].data, r, layer->module->in, layer->module->in, 1, factor * each,
                         grads != NULL ? grads[a] : NULL, gram);
        sum += deviation(adapter->params[b].data, r, layer->module->out, 1, r, factor * each,
                         grads != NULL ? grads[b] : NULL, gram);
    }
    return each * sum;
}

/* ---- ranks -------------------------------------------------------------------------------------------------- */

static void update_scores(peft_adapter *adapter, const adalora *l, float *const *grads) {
    const float b1 = (float)l->beta1, b2 = (float)l->beta2, c1 = (float)(1.0 - l->beta1), c2 = (float)(1.0 - l->beta2);
    for (uint32_t i = 0; i < l->count; i++)
        for (int part = 0; l->layers[i].rank > 0 && part < PARTS; part++) {
            const adalora_layer *layer = &l->layers[i];
            const peft__param *param = &adapter->params[layer->params[part]];
            const float *grad = grads[layer->params[part]];
            float *mean = adapter->params[layer->sensitivity[part]].data;
            float *spread = adapter->params[layer->uncertainty[part]].data;
            for (int64_t k = 0; k < param->elements; k++) {
                const float now = grad != NULL ? fabsf(param->data[k] * grad[k]) : 0.0f;
                mean[k] = b1 * mean[k] + c1 * now;
                spread[k] = b2 * spread[k] + c2 * fabsf(now - mean[k]);
            }
        }
}

static void clear_scores(peft_adapter *adapter, const adalora *l) {
    for (uint32_t i = 0; i < l->count; i++)
        for (int part = 0; l->layers[i].rank > 0 && part < PARTS; part++) {
            const peft__param *mean = &adapter->params[l->layers[i].sensitivity[part]];
            const peft__param *spread = &adapter->params[l->layers[i].uncertainty[part]];
            memset(mean->data, 0, (size_t)mean->elements * sizeof(float));
            memset(spread->data, 0, (size_t)spread->elements * sizeof(float));
        }
}

static float score_of(const peft_adapter *adapter, const adalora_layer *layer, int part, int64_t rank) {
    const float *mean = adapter->params[layer->sensitivity[part]].data;
    const float *spread = adapter->params[layer->uncertainty[part]].data;
    const int64_t count = part == PART_A ? layer->module->in : part == PART_B ? layer->module->out : 1;
    const int64_t first = part == PART_A ? rank * count : rank, step = part == PART_B ? layer->rank : 1;
    double sum = 0.0;
    for (int64_t k = 0; k < count; k++) sum += (double)(mean[first + k * step] * spread[first + k * step]);
    return (float)(sum / (double)count);
}

/* The k-th smallest (from 0) of n numbers, which are rearranged. */
static float select_nth(float *values, int64_t n, int64_t k) {
    int64_t low = 0, high = n - 1;
    while (low < high) {
        const float pivot = values[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (values[i] < pivot) i++;
            while (values[j] > pivot) j--;
            if (i > j) break;
            const float kept = values[i];
            values[i++] = values[j];
            values[j--] = kept;
        }
        if (k <= j)
            high = j;
        else if (k >= i)
            low = i;
        else
            break;
    }
    return values[k];
}

static void apply_mask(peft_adapter *adapter, const adalora_layer *layer) {
    const float *mask = adapter->params[layer->mask].data;
    float *e = adapter->params[layer->params[PART_E]].data;
    for (int64_t r = 0; r < layer->rank; r++)
        if (mask[r] == 0.0f) e[r] = 0.0f;
}

/* Leaves `budget` ranks: the E of those whose score is at most the (all - budget)th lowest becomes zero. */
static void mask_to_budget(peft_adapter *adapter, adalora *l, int64_t budget) {
    int64_t all = 0;
    for (uint32_t i = 0; i < l->count; i++)
        for (int64_t r = 0; r < l->layers[i].rank; r++) {
            float score = 0.0f;
            for (int part = 0; part < PARTS; part++) score += score_of(adapter, &l->layers[i], part, r);
            l->scores[all] = l->sorted[all] = score;
            all++;
        }
    const int64_t gone = peft__min_i64(all, all - budget);
    const float threshold = gone > 0 ? select_nth(l->sorted, all, gone - 1) : -1.0f; /* scores are not negative */
    for (uint32_t i = 0, at = 0; i < l->count; i++) {
        if (l->layers[i].rank == 0) continue;
        float *mask = adapter->params[l->layers[i].mask].data;
        for (int64_t r = 0; r < l->layers[i].rank; r++, at++) mask[r] = l->scores[at] <= threshold ? 0.0f : 1.0f;
        apply_mask(adapter, &l->layers[i]);
    }
}

static int64_t budget_at(const adalora *l, int64_t step) {
    const double all = (double)(l->init_r * l->count), target = (double)(l->target_r * l->count);
    const double left = 1.0 - (double)(step - l->tinit) / (double)(l->total_step - l->tfinal - l->tinit);
    return (int64_t)((all - target) * left * left * left + target);
}

static peft_status after_step(peft_adapter *adapter, const peft__step *done) {
    adalora *l = adapter->state;
    const int64_t step = done->index + 1, last = l->total_step - l->tfinal;
    if (l->pruned) return PEFT_OK;
    if (step > last) {
        for (uint32_t i = 0; i < l->count; i++) apply_mask(adapter, &l->layers[i]);
        return PEFT_OK;
    }
    if (step < last) update_scores(adapter, l, done->grads);
    if (step == last || (step > l->tinit && step % l->delta_t == 0)) mask_to_budget(adapter, l, budget_at(l, step));
    if (step == last) clear_scores(adapter, l);
    return PEFT_OK;
}

/* ---- files -------------------------------------------------------------------------------------------------- */

static int64_t kept_ranks(const peft_adapter *adapter, const adalora_layer *layer) {
    const adalora *l = adapter->state;
    if (l->pruned || layer->rank == 0) return layer->rank;
    int64_t kept = 0;
    for (int64_t r = 0; r < layer->rank; r++) kept += adapter->params[layer->mask].data[r] != 0.0f;
    return kept;
}

static bool is_masked(const peft_adapter *adapter) {
    const adalora *l = adapter->state;
    for (uint32_t i = 0; i < l->count; i++)
        if (kept_ranks(adapter, &l->layers[i]) < l->layers[i].rank) return true;
    return false;
}

/* A layer without ranks is three empty tensors in the folder. */
static peft_status import(peft_adapter *adapter, const peft__tensor *tensor, const char *key) {
    const adalora *l = adapter->state;
    for (uint32_t i = 0; i < l->count; i++) {
        const adalora_layer *layer = &l->layers[i];
        for (int part = 0; layer->rank == 0 && part < PARTS; part++) {
            const char *name = peft__adapter_text(adapter, "base_model.model.%s.%s", layer->module->name, LEAVES[part]);
            if (name == NULL) return PEFT_E_NOMEM;
            if (strcmp(name, key) != 0) continue;
            int64_t shape[2];
            part_shape(layer, part, shape);
            return peft__tensor_check_shape(adapter->ctx, tensor, 2, shape);
        }
    }
    return PEFT_END;
}

/* Rows (of B columns) whose mask is not zero. */
static void compact(const peft_adapter *adapter, const adalora_layer *layer, int part, int64_t kept, float *out) {
    const float *mask = adapter->params[layer->mask].data, *data = adapter->params[layer->params[part]].data;
    int64_t shape[2], to = 0;
    part_shape(layer, part, shape);
    for (int64_t r = 0; r < layer->rank; r++) {
        if (mask[r] == 0.0f) continue;
        if (part == PART_B)
            for (int64_t o = 0; o < shape[0]; o++) out[o * kept + to] = data[o * shape[1] + r];
        else
            memcpy(out + to * shape[1], data + r * shape[1], (size_t)shape[1] * sizeof *out);
        to++;
    }
}

static peft_status export_part(const peft_adapter *adapter, const adalora_layer *layer, int part, peft__export *file) {
    static const float nothing = 0.0f;
    const int64_t kept = kept_ranks(adapter, layer);
    int64_t shape[2];
    part_shape(layer, part, shape);
    shape[part == PART_B ? 1 : 0] = kept;
    if (layer->rank == 0) {
        char *key = peft__arena_strfmt(file->arena, "base_model.model.%s.%s", layer->module->name, LEAVES[part]);
        return key != NULL ? peft__export_add(file, key, 2, shape, &nothing)
                           : peft__fail_nomem(adapter->ctx, 256, "an adapter's file");
    }
    if (kept == layer->rank) return PEFT_OK;
    const size_t bytes = (size_t)(shape[0] * shape[1] + 1) * sizeof(float);
    float *values = peft__arena_alloc(file->arena, bytes);
    if (values == NULL) return peft__fail_nomem(adapter->ctx, bytes, "an adapter's file");
    compact(adapter, layer, part, kept, values);
    return peft__export_replace(file, layer->params[part], 2, shape, values);
}

static peft_status export(const peft_adapter *adapter, peft__export *file) {
    const adalora *l = adapter->state;
    for (uint32_t i = 0; i < l->count; i++)
        for (int part = 0; part < PARTS; part++) PEFT_TRY(export_part(adapter, &l->layers[i], part, file));
    return PEFT_OK;
}

static peft_status export_config(const peft_adapter *adapter, json_t *config) {
    const adalora *l = adapter->state;
    if (l->pruned || !is_masked(adapter)) return PEFT_OK;
    json_t *pattern = json_object();
    bool good = pattern != NULL;
    for (uint32_t i = 0; good && i < l->count; i++) {
        const adalora_layer *layer = &l->layers[i];
        json_t *list = json_array();
        for (int64_t r = 0; list != NULL && r < layer->rank; r++)
            good = good && json_array_append_new(list, json_boolean(adapter->params[layer->mask].data[r] != 0.0f)) == 0;
        char *key = peft__strfmt(adapter->ctx->mem, "%s.lora_E", layer->module->name);
        good = good && key != NULL && json_object_set(pattern, key, list) == 0;
        peft__free(adapter->ctx->mem, key);
        json_decref(list);
    }
    if (good) good = json_object_set(config, "rank_pattern", pattern) == 0;
    json_decref(pattern);
    return good ? PEFT_OK : peft__fail_nomem(adapter->ctx, 256, "an adapter's configuration");
}

/* ---- merging ------------------------------------------------------------------------------------------------ */

static void change_row(const peft_adapter *adapter, const void *record, int64_t o, float *row) {
    const adalora_layer *layer = record;
    const adalora *l = adapter->state;
    const int64_t in = layer->module->in, r = layer->rank;
    const peft__param *params = adapter->params;
    const float *a = params[layer->params[PART_A]].data, *b = params[layer->params[PART_B]].data + o * r;
    memset(row, 0, (size_t)in * sizeof *row);
    for (int64_t j = 0; j < r; j++) {
        const float f = l->scale * b[j] * params[layer->params[PART_E]].data[j];
        for (int64_t i = 0; i < in; i++) row[i] += f * a[j * in + i];
    }
}

static const peft__hooks HOOKS = {.trained = peft__adapter_trained,
                                  .touches = peft__layers_touches,
                                  .after_linear = after_linear,
                                  .linear_is_additive = peft__layers_additive};

/* The dataclass inherits from LoRA's, and so the file has keys that mean nothing here. */
static const peft__config_key KEYS[] = {
    {"alora_invocation_tokens", "null", PEFT__KEY_REFUSED},
    {"alpha_pattern", "{}", PEFT__KEY_INERT},
    {"arrow_config", "null", PEFT__KEY_REFUSED},
    {"beta1", "0.85", PEFT__KEY_USED},
    {"beta2", "0.85", PEFT__KEY_USED},
    {"bias", "\"none\"", PEFT__KEY_USED},
    {"corda_config", "null", PEFT__KEY_REFUSED},
    {"deltaT", "1", PEFT__KEY_USED},
    {"ensure_weight_tying", "false", PEFT__KEY_REFUSED},
    {"eva_config", "null", PEFT__KEY_INERT},
    {"exclude_modules", "null", PEFT__KEY_USED},
    {"fan_in_fan_out", "false", PEFT__KEY_USED},
    {"init_lora_weights", "true", PEFT__KEY_USED},
    {"init_r", "12", PEFT__KEY_USED},
    {"kasa_config", "null", PEFT__KEY_REFUSED},
    {"layer_replication", "null", PEFT__KEY_REFUSED},
    {"layers_pattern", "null", PEFT__KEY_USED},
    {"layers_to_transform", "null", PEFT__KEY_USED},
    {"loftq_config", "{}", PEFT__KEY_REFUSED},
    {"lora_alpha", "8", PEFT__KEY_USED},
    {"lora_bias", "false", PEFT__KEY_REFUSED},
    {"lora_dropout", "0.0", PEFT__KEY_USED},
    {"lora_ga_config", "null", PEFT__KEY_REFUSED},
    {"megatron_config", "null", PEFT__KEY_REFUSED},
    {"megatron_core", "\"megatron.core\"", PEFT__KEY_INERT},
    {"modules_to_save", "null", PEFT__KEY_USED},
    {"monteclora_config", "null", PEFT__KEY_REFUSED},
    {"orth_reg_weight", "0.5", PEFT__KEY_USED},
    {"qalora_group_size", "16", PEFT__KEY_INERT},
    {"r", "8", PEFT__KEY_INERT}, /* init_r counts */
    {"rank_pattern", "null", PEFT__KEY_USED},
    {"target_modules", "null", PEFT__KEY_USED},
    {"target_parameters", "null", PEFT__KEY_REFUSED},
    {"target_r", "8", PEFT__KEY_USED},
    {"tfinal", "0", PEFT__KEY_USED},
    {"tinit", "0", PEFT__KEY_USED},
    {"total_step", "null", PEFT__KEY_USED},
    {"trainable_token_indices", "null", PEFT__KEY_REFUSED},
    {"use_bdlora", "null", PEFT__KEY_REFUSED},
    {"use_dora", "false", PEFT__KEY_REFUSED},
    {"use_qalora", "false", PEFT__KEY_REFUSED},
    {"use_rslora", "false", PEFT__KEY_INERT}, /* the scale is lora_alpha / init_r either way */
    {"velora_config", "null", PEFT__KEY_REFUSED},
    {NULL, NULL, PEFT__KEY_USED},
};

const peft__method peft__method_adalora = {
    .peft_type = "ADALORA",
    .flags = PEFT__METHOD_SCALABLE,
    .keys = KEYS,
    .hooks = &HOOKS,
    .configure = configure,
    .import = import,
    .export = export,
    .export_config = export_config,
    .changes = peft__layers_changes,
    .merge = peft__layers_merge,
    .penalty = penalty,
    .after_step = after_step,
};
