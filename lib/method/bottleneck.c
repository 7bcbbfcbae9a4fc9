/* bottleneck.c: bottleneck adapters (Houlsby et al. 2019, Pfeiffer et al. 2020, He et al. 2022): a small two-layer
 * network with a nonlinearity after sub-layers of a frozen model.
 *
 * With h the output of the sub-layer's last linear layer, x what entered it and a(z) = up(f(down(z))):
 *   double_seq_bn   after attention and feed-forward part: h + a(h), then residual and norm as ever
 *   seq_bn          after the feed-forward part: in post-norm models a reads z = LN(h + x) and LN(a(z) + h + x) goes on,
 *                   the same norm twice; in pre-norm models z = h + x
 *   par_bn          beside the feed-forward part: h + scaling a(x)
 *
 * HF PEFT has no such type; keys, defaults and tensor names are those of adapter-hub, so that its weights can be put in
 * and taken out key by key:
 *   kind                        one of the above; the others follow from it unless given
 *   mh_adapter, output_adapter, cross_adapter   after which sub-layers
 *   reduction_factor            bottleneck = width / reduction_factor; bottleneck_size says it outright
 *   non_linearity               by the names of Hugging Face's activations, or "swish"
 *   init_weights                "bert" (normal 0.02), "houlsby" (the same 0.01, cut at two deviations), "mam_adapter"
 *                               (Kaiming, zero up: starts as the identity)
 *   scaling, dropout            on a(z)
 *   leave_out                   layers without one
 *   adapter_name                the component of the tensors' names, "task"
 *   modules_to_save             beside the head, which is always trained
 */
#include "method/adapter.h"

#include <math.h>

static const char *const WHERE = "adapter_config.json";

enum { MOST_WIDTH = 1 << 24 };

typedef enum { AFTER_SUM, AFTER_OUTPUT, BESIDE } placement;

typedef struct site {
    uint32_t down; /* param; down.bias, up.weight and up.bias follow */
    bool used;
} site;

typedef struct bottleneck {
    placement placement;
    uint32_t flags; /* PEFT__MODULE_ENDS_*: which sub-layers */
    int64_t size;   /* 0: width / factor */
    double factor;
    peft__activation activation;
    bool truncated; /* the "houlsby" start */
    float scaling, dropout;
    const char *name;
    const json_t *leave_out;
    site *sites; /* [modules] */
} bottleneck;

typedef struct kind {
    const char *name;
    placement placement;
    bool attention;
    double factor, scaling;
    const char *non_linearity, *init;
} kind;

static const kind KINDS[] = {
    {"double_seq_bn", AFTER_OUTPUT, true, 16.0, 1.0, "swish", "bert"},
    {"seq_bn", AFTER_SUM, false, 16.0, 1.0, "relu", "bert"},
    {"par_bn", BESIDE, false, 2.0, 4.0, "relu", "mam_adapter"},
};

/* ---- configuration ----------------------------------------------------------------------------------------- */

static peft_status read_kind(peft_adapter *adapter, const kind **out) {
    const char *name = NULL;
    PEFT_TRY(peft__json_get_string(adapter->ctx, adapter->config, WHERE, "kind", "seq_bn", &name));
    for (size_t i = 0; i < PEFT_COUNT(KINDS); i++) {
        *out = &KINDS[i];
        if (strcmp(KINDS[i].name, name) == 0) return PEFT_OK;
    }
    return peft__fail(adapter->ctx, PEFT_E_UNSUPPORTED,
                      "%s: kind: expected double_seq_bn, seq_bn or par_bn, found \"%.40s\"", WHERE, name);
}

static peft_status read_places(peft_adapter *adapter, const kind *k, bottleneck *b) {
    peft_context *ctx = adapter->ctx;
    bool attention = false, output = false, cross = false;
    PEFT_TRY(peft__json_get_bool(ctx, adapter->config, WHERE, "mh_adapter", k->attention, &attention));
    PEFT_TRY(peft__json_get_bool(ctx, adapter->config, WHERE, "output_adapter", true, &output));
    PEFT_TRY(peft__json_get_bool(ctx, adapter->config, WHERE, "cross_adapter", false, &cross));
    b->flags = (attention ? PEFT__MODULE_ENDS_ATTENTION : 0u) | (output ? PEFT__MODULE_ENDS_FFN : 0u) |
               (cross ? PEFT__MODULE_ENDS_CROSS : 0u);
    PEFT_TRY(peft__json_get_array(ctx, adapter->config, WHERE, "leave_out", &b->leave_out));
    for (size_t i = 0; i < json_array_size(b->leave_out); i++)
        if (!json_is_integer(json_array_get(b->leave_out, i)))
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: leave_out[%zu]: expected the number of a layer, found %s", WHERE,
                              i, peft__json_kind(json_array_get(b->leave_out, i)));
    return PEFT_OK;
}

static peft_status read_config(peft_adapter *adapter, bottleneck *b, const char **out_init) {
    peft_context *ctx = adapter->ctx;
    const json_t *config = adapter->config;
    const kind *k = NULL;
    const char *function = NULL;
    double scaling = 1.0, dropout = 0.0;
    PEFT_TRY(read_kind(adapter, &k));
    PEFT_TRY(read_places(adapter, k, b));
    PEFT_TRY(peft__json_get_double(ctx, config, WHERE, "reduction_factor", 1e-3, 1e6, k->factor, &b->factor));
    PEFT_TRY(peft__json_get_int(ctx, config, WHERE, "bottleneck_size", 1, MOST_WIDTH, 0, &b->size));
    PEFT_TRY(peft__json_get_string(ctx, config, WHERE, "non_linearity", k->non_linearity, &function));
    PEFT_TRY(peft__json_get_string(ctx, config, WHERE, "init_weights", k->init, out_init));
    PEFT_TRY(peft__json_get_double(ctx, config, WHERE, "scaling", -1e6, 1e6, k->scaling, &scaling));
    PEFT_TRY(peft__json_get_double(ctx, config, WHERE, "dropout", 0.0, 0.999, 0.0, &dropout));
    PEFT_TRY(peft__json_get_string(ctx, config, WHERE, "adapter_name", "task", &b->name));
    b->placement = k->placement;
    b->scaling = (float)scaling;
    b->dropout = (float)dropout;
    b->truncated = strcmp(*out_init, "houlsby") == 0;
    if (!b->truncated && strcmp(*out_init, "bert") != 0 && strcmp(*out_init, "mam_adapter") != 0)
        return peft__fail(ctx, PEFT_E_ARG, "%s: init_weights: expected bert, houlsby or mam_adapter, found \"%.40s\"",
                          WHERE, *out_init);
    if (b->name[0] == '\0' || strchr(b->name, '.') != NULL || strchr(b->name, '/') != NULL)
        return peft__fail(ctx, PEFT_E_ARG, "%s: adapter_name: expected one component of a name, found \"%.40s\"", WHERE,
                          b->name);
    if (strcmp(function, "swish") == 0) function = "silu";
    if (peft__activation_parse(function, &b->activation)) return PEFT_OK;
    return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: non_linearity \"%.40s\" is not built", WHERE, function);
}

static bool is_left_out(const bottleneck *b, int32_t layer) {
    for (size_t i = 0; i < json_array_size(b->leave_out); i++)
        if (json_integer_value(json_array_get(b->leave_out, i)) == layer) return true;
    return false;
}

/* ---- names: where adapter-hub hangs its modules ------------------------------------------------------------ */

static size_t parent_length(const char *name, size_t length) {
    while (length > 0 && name[length - 1] != '.') length--;
    return length > 0 ? length - 1 : 0;
}

/* Length of the path up to the number of the layer ("model.layers.3"); 0 = there is none. */
static size_t layer_length(const char *name) {
    for (const char *at = strchr(name, '.'); at != NULL; at = strchr(at + 1, '.')) {
        const size_t digits = strspn(at + 1, "0123456789");
        if (digits > 0 && at[1 + digits] == '.') return (size_t)(at - name) + 1 + digits;
    }
    return 0;
}

/* BERT's output blocks and T5's sub-layers hold the adapters themselves; other layers have a module for them. */
static const char *place_name(peft_adapter *adapter, const peft__module *module) {
    static const char *const own_block[] = {".output.dense"}, *const sub_layer[] = {".SelfAttention.o", ".EncDecAttention.o", ".DenseReluDense.wo"};
    const char *name = module->name;
    const size_t length = strlen(name), parent = parent_length(name, length);
    for (size_t i = 0; i < PEFT_COUNT(own_block); i++) {
        const size_t tail = strlen(own_block[i]);
        if (length > tail && strcmp(name + length - tail, own_block[i]) == 0)
            return peft__adapter_text(adapter, "%.*s.adapters", (int)parent, name);
    }
    for (size_t i = 0; i < PEFT_COUNT(sub_layer); i++) {
        const size_t tail = strlen(sub_layer[i]);
        if (length > tail && strcmp(name + length - tail, sub_layer[i]) == 0)
            return peft__adapter_text(adapter, "%.*s.adapters", (int)(length - tail), name);
    }
    const char *older = peft__older_name(adapter->model, &adapter->arena, name); /* ViT, which it knows by these names */
    if (older != NULL && (module->flags & PEFT__MODULE_ENDS_FFN) != 0)
        return peft__adapter_text(adapter, "%.*s.output_adapters.adapters", (int)parent_length(older, strlen(older)), older);
    if (older != NULL) name = older;
    const size_t layer = layer_length(name);
    const char *which = (module->flags & PEFT__MODULE_ENDS_ATTENTION) != 0 ? "attention_adapters"
                        : (module->flags & PEFT__MODULE_ENDS_CROSS) != 0   ? "cross_attention_adapters"
                                                                           : "output_adapters";
    return peft__adapter_text(adapter, "%.*s.%s.adapters", (int)(layer > 0 ? layer : parent), name, which);
}

/* ---- tensors ----------------------------------------------------------------------------------------------- */

static peft_status declare_linear(peft_adapter *adapter, const char *place, const char *leaf, int64_t in, int64_t out,
                                  peft__init init, float value, uint32_t *out_index) {
    const bottleneck *b = adapter->state;
    peft__declaration d = {.ndim = 2, .shape = {out, in}, .init = init, .init_value = value};
    d.name = d.key = peft__adapter_text(adapter, "%s.%s.%s.weight", place, b->name, leaf);
    if (d.name == NULL) return PEFT_E_NOMEM;
    PEFT_TRY(peft__adapter_declare(adapter, &d, out_index));
    peft__declaration bias = {.flags = PEFT__PARAM_NO_DECAY, .ndim = 1, .shape = {out}};
    bias.name = bias.key = peft__adapter_text(adapter, "%s.%s.%s.bias", place, b->name, leaf);
    return bias.name == NULL ? PEFT_E_NOMEM : peft__adapter_declare(adapter, &bias, NULL);
}

static peft_status declare_site(peft_adapter *adapter, const peft__module *module, const char *init) {
    bottleneck *b = adapter->state;
    const char *place = place_name(adapter, module);
    if (place == NULL) return PEFT_E_NOMEM;
    const int64_t width = module->out, size = b->size > 0 ? b->size : (int64_t)((double)width / b->factor);
    if (size < 1)
        return peft__fail(adapter->ctx, PEFT_E_ARG, "%s: reduction_factor %g leaves nothing of a width of %lld", WHERE,
                          b->factor, (long long)width);
    const bool identity = strcmp(init, "mam_adapter") == 0;
    const peft__init drawn = b->truncated ? PEFT__INIT_METHOD : identity ? PEFT__INIT_UNIFORM : PEFT__INIT_NORMAL;
    const float range = identity ? 1.0f / sqrtf((float)width) : 0.02f;
    site *s = &b->sites[module->index];
    PEFT_TRY(declare_linear(adapter, place, "adapter_down.0", width, size, drawn, range, &s->down));
    PEFT_TRY(declare_linear(adapter, place, "adapter_up", size, width, identity ? PEFT__INIT_ZERO : drawn, range, NULL));
    s->used = true;
    adapter->modules++;
    return PEFT_OK;
}

static peft_status configure(peft_adapter *adapter) {
    peft_context *ctx = adapter->ctx;
    const uint32_t modules = peft__model_module_count(adapter->model);
    bottleneck *b = peft__arena_alloc(&adapter->arena, sizeof *b);
    site *sites = peft__arena_alloc(&adapter->arena, (modules + 1) * sizeof *sites);
    if (b == NULL || sites == NULL) return peft__fail_nomem(ctx, modules * sizeof *sites, "an adapter");
    adapter->state = b;
    b->sites = sites;
    const char *init = NULL;
    PEFT_TRY(read_config(adapter, b, &init));
    PEFT_TRY(peft__modules_to_save(adapter));
    for (uint32_t i = 0; i < modules; i++) {
        const peft__module *module = peft__model_module_at(adapter->model, i);
        if ((module->flags & b->flags) != 0 && !is_left_out(b, module->layer))
            PEFT_TRY(declare_site(adapter, module, init));
    }
    if (adapter->modules > 0) return PEFT_OK;
    return peft__fail(ctx, PEFT_E_MISMATCH, "%s: no layer is left that would get an adapter", WHERE);
}

/* Normal with deviation 0.01, nothing beyond two deviations. */
static peft_status initialise(peft_adapter *adapter, uint64_t seed) {
    for (uint32_t i = 0; i < adapter->count; i++) {
        const peft__slot *slot = &adapter->slots[i];
        peft__param *param = &adapter->params[i];
        if (slot->init != PEFT__INIT_METHOD || slot->read) continue;
        peft__rng rng = peft__rng_make(seed, peft__hash64(param->name, strlen(param->name), 0));
        for (int64_t k = 0; k < param->elements;) {
            const float drawn = peft__rng_normal(&rng);
            if (fabsf(drawn) <= 2.0f) param->data[k++] = 0.01f * drawn;
        }
    }
    return PEFT_OK;
}

/* ---- the graph --------------------------------------------------------------------------------------------- */

static const site *site_at(const peft_adapter *adapter, const peft__sublayer_end *end) {
    const bottleneck *b = adapter->state;
    const peft__module *module = peft__model_find(adapter->model, end->linear);
    if (module == NULL || adapter->scale == 0.0f || !b->sites[module->index].used) return NULL;
    return &b->sites[module->index];
}

static peft__value *linear(peft_adapter *adapter, peft__build *b, uint32_t index, peft__value *x, peft__value *residual) {
    peft__param *weight = &adapter->params[index], *bias = weight + 1;
    const peft__weight w = {peft__matrix_f32(NULL, weight->shape[0], weight->shape[1]),
                            peft__value_param(b->graph, weight)};
    const peft__vector c = {NULL, peft__value_param(b->graph, bias)};
    return x == NULL || w.value == NULL || c.value == NULL ? NULL : peft__op_linear(b->graph, x, w, c, residual);
}

/* to + scale a(x) */
static peft__value *add_adapter(peft_adapter *adapter, peft__build *b, const site *s, peft__value *x, peft__value *to) {
    const bottleneck *state = adapter->state;
    const float scale = adapter->scale * state->scaling;
    const bool plain = scale == 1.0f && (state->dropout == 0.0f || b->purpose != PEFT__BUILD_LOSS);
    peft__value *h = peft__op_activation(b->graph, state->activation, linear(adapter, b, s->down, x, NULL));
    h = linear(adapter, b, s->down + 2, h, plain ? to : NULL);
    if (plain || h == NULL) return h;
    if (scale != 1.0f) h = peft__op_scale(b->graph, h, scale);
    if (b->purpose == PEFT__BUILD_LOSS) h = peft__op_dropout(b->graph, h, state->dropout, peft__hash64("bn", 2, s->down));
    return peft__op_add(b->graph, h, to);
}

static peft__value *sublayer_output(void *self, peft__build *b, const peft__sublayer_end *end, peft__value *x,
                                    peft__value *residual) {
    peft_adapter *adapter = self;
    const bottleneck *state = adapter->state;
    const site *s = site_at(adapter, end);
    if (s == NULL || x == NULL || residual == NULL) return x;
    if (state->placement == AFTER_OUTPUT) return add_adapter(adapter, b, s, x, x);
    if (state->placement == BESIDE) return add_adapter(adapter, b, s, residual, x);
    if (end->norm != NULL) return x; /* before_post_norm() */
    return add_adapter(adapter, b, s, peft__op_add(b->graph, x, residual), x);
}

static peft__value *before_post_norm(void *self, peft__build *b, const peft__sublayer_end *end, peft__value *sum) {
    peft_adapter *adapter = self;
    const site *s = site_at(adapter, end);
    if (s == NULL || sum == NULL || ((const bottleneck *)adapter->state)->placement != AFTER_SUM) return sum;
    return add_adapter(adapter, b, s, peft__build_norm(b, end->norm, PEFT__LAYER_NORM, sum, end->eps, 0.0f), sum);
}

static bool touches(void *self, const peft__module *module) {
    (void)self;
    (void)module;
    return false;
}

static const peft__hooks HOOKS = {.trained = peft__adapter_trained,
                                  .touches = touches,
                                  .sublayer_output = sublayer_output,
                                  .before_post_norm = before_post_norm};

static const peft__config_key KEYS[] = {
    {"adapter_name", "\"task\"", PEFT__KEY_USED}, {"bottleneck_size", "null", PEFT__KEY_USED},
    {"cross_adapter", "false", PEFT__KEY_USED},   {"dropout", "0.0", PEFT__KEY_USED},
    {"init_weights", "null", PEFT__KEY_USED},     {"kind", "\"seq_bn\"", PEFT__KEY_USED},
    {"leave_out", "[]", PEFT__KEY_USED},          {"mh_adapter", "null", PEFT__KEY_USED},
    {"modules_to_save", "null", PEFT__KEY_USED},  {"non_linearity", "null", PEFT__KEY_USED},
    {"output_adapter", "null", PEFT__KEY_USED},   {"reduction_factor", "null", PEFT__KEY_USED},
    {"scaling", "null", PEFT__KEY_USED},          {NULL, NULL, PEFT__KEY_USED},
};

const peft__method peft__method_bottleneck = {
    .peft_type = "BOTTLENECK",
    .flags = PEFT__METHOD_NATIVE | PEFT__METHOD_FULL_NAMES | PEFT__METHOD_SCALABLE | PEFT__METHOD_EXCHANGEABLE,
    .keys = KEYS,
    .hooks = &HOOKS,
    .configure = configure,
    .initialise = initialise,
};
