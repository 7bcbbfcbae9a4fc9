/* arch_vit.c: ViT and DeiT: images as rows of patches.
 *
 * A batch brings every image as a sequence of patch rows, each the C*P*P numbers of one patch in the order of the
 * convolution's weight (peft_image_patches), so that the patch embedding is one dense product. Class tokens and learned
 * positions join in image_rows.c. Methods meet the rows after that, as Visual Prompt Tuning has it: prompts stand
 * behind the class tokens and have no positions.
 *
 * Most of what the last layer computes is never read: a classifier looks at one row. Keys and values need all rows; the
 * query, the output projection and the feed-forward part are done for rows that are read later. The same holds in every
 * layer for rows that a method replaces before the next one (peft__build_layer_rows).
 *
 * Modules are called as in transformers 5; files have the older names.
 */
#include "format/json.h"
#include "model/arch_table.h"
#include "model/build.h"

#include <math.h>
#include <stdio.h>

enum { NAME_BYTES = 128, MOST_LAYERS = 4096, MOST_HEADS = 65536, MOST_WIDTH = 1 << 24, MOST_SIDE = 1 << 14 };

static const char *const where = "config.json";

typedef struct vit_config {
    const char *prefix; /* "vit" or "deit" */
    peft__image_config image;
    peft__activation activation, pooler_activation;
    bool mean;    /* the head reads the mean of the patches in place of the class token */
    bool teacher; /* two heads, one a class token */
} vit_config;

/* ---- configuration ----------------------------------------------------------------------------------------- */

/* A number, or a list of two. */
static peft_status read_pair(peft_context *ctx, const json_t *config, const char *key, int64_t fallback, int64_t out[2]) {
    const json_t *value = json_object_get(config, key);
    if (!json_is_array(value)) {
        PEFT_TRY(peft__json_get_int(ctx, config, where, key, 1, MOST_SIDE, fallback, &out[0]));
        out[1] = out[0];
        return PEFT_OK;
    }
    for (size_t i = 0; i < 2; i++) {
        const json_t *item = json_array_get(value, i);
        if (json_array_size(value) != 2 || !json_is_integer(item) || json_integer_value(item) < 1 ||
            json_integer_value(item) > MOST_SIDE)
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: %s: expected a number or two from 1 to %d", where, key, MOST_SIDE);
        out[i] = json_integer_value(item);
    }
    return PEFT_OK;
}

static peft_status read_activation(peft_context *ctx, const json_t *config, const char *key, const char *fallback,
                                   peft__activation *out) {
    const char *name = NULL;
    PEFT_TRY(peft__json_get_string(ctx, config, where, key, fallback, &name));
    if (peft__activation_parse(name, out)) return PEFT_OK;
    return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: %s \"%.40s\" is not built", where, key, name);
}

static peft_status read_dims(peft_context *ctx, const json_t *config, vit_config *c, peft__dims *d) {
    int64_t image[2], patch[2], channels = 0;
    double eps = 1e-12;
    PEFT_TRY(peft__json_get_int(ctx, config, where, "hidden_size", 1, MOST_WIDTH, 768, &d->hidden_size));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "intermediate_size", 1, MOST_WIDTH, 3072, &d->intermediate_size));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "num_hidden_layers", 1, MOST_LAYERS, 12, &d->num_hidden_layers));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "num_attention_heads", 1, MOST_HEADS, 12, &d->num_attention_heads));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "head_dim", 1, MOST_HEADS, 0, &d->head_dim));
    PEFT_TRY(peft__json_get_double(ctx, config, where, "layer_norm_eps", 0, 1, eps, &eps));
    PEFT_TRY(peft__json_get_int(ctx, config, where, "num_channels", 1, 4096, 3, &channels));
    PEFT_TRY(peft__json_get_bool(ctx, config, where, "use_mean_pooling", false, &c->mean));
    PEFT_TRY(read_pair(ctx, config, "image_size", 224, image));
    PEFT_TRY(read_pair(ctx, config, "patch_size", 16, patch));
    if (d->head_dim == 0 && d->hidden_size % d->num_attention_heads != 0)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: hidden_size %lld is not a multiple of num_attention_heads %lld", where,
                          (long long)d->hidden_size, (long long)d->num_attention_heads);
    if (d->head_dim == 0) d->head_dim = d->hidden_size / d->num_attention_heads;
    d->num_key_value_heads = d->num_attention_heads;
    d->norm_eps = (float)eps;
    d->pad_token_id = -1;
    d->feature_size = channels * patch[0] * patch[1];
    c->image.grid_height = image[0] / patch[0];
    c->image.grid_width = image[1] / patch[1];
    if (d->feature_size > MOST_WIDTH)
        return peft__fail(ctx, PEFT_E_LIMIT, "%s: a patch of %lld x %lld with %lld channels is too large", where,
                          (long long)patch[0], (long long)patch[1], (long long)channels);
    if (c->image.grid_height < 1 || c->image.grid_width < 1 || d->head_dim * d->num_attention_heads > MOST_WIDTH)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: an image of %lld x %lld has no patch of %lld x %lld", where,
                          (long long)image[0], (long long)image[1], (long long)patch[0], (long long)patch[1]);
    return PEFT_OK;
}

static peft_status declare_layer(peft_context *ctx, peft_model *model, const vit_config *c, int32_t layer, bool qkv_bias) {
    const peft__dims *d = peft__model_dims(model);
    const int64_t inner = d->num_attention_heads * d->head_dim;
    const peft__module_spec norm = {
        .kind = PEFT_MODULE_NORM, .layer = layer, .in = d->hidden_size, .out = d->hidden_size, .flags = PEFT__MODULE_BIAS};
    peft__module_spec linear = {.kind = PEFT_MODULE_LINEAR, .layer = layer, .in = d->hidden_size, .out = inner};
    linear.flags = qkv_bias ? PEFT__MODULE_BIAS : 0u;
    const char *p = c->prefix;
    PEFT_TRY(peft__model_declare(ctx, model, &norm, "%s.layers.%d.layernorm_before", p, (int)layer));
    PEFT_TRY(peft__model_declare(ctx, model, &linear, "%s.layers.%d.attention.q_proj", p, (int)layer));
    PEFT_TRY(peft__model_declare(ctx, model, &linear, "%s.layers.%d.attention.k_proj", p, (int)layer));
    PEFT_TRY(peft__model_declare(ctx, model, &linear, "%s.layers.%d.attention.v_proj", p, (int)layer));
    linear.flags = PEFT__MODULE_BIAS | PEFT__MODULE_ENDS_ATTENTION;
    linear.in = inner;
    linear.out = d->hidden_size;
    PEFT_TRY(peft__model_declare(ctx, model, &linear, "%s.layers.%d.attention.o_proj", p, (int)layer));
    PEFT_TRY(peft__model_declare(ctx, model, &norm, "%s.layers.%d.layernorm_after", p, (int)layer));
    linear.flags = PEFT__MODULE_BIAS;
    linear.in = d->hidden_size;
    linear.out = d->intermediate_size;
    PEFT_TRY(peft__model_declare(ctx, model, &linear, "%s.layers.%d.mlp.fc1", p, (int)layer));
    linear.flags = PEFT__MODULE_BIAS | PEFT__MODULE_ENDS_FFN;
    linear.in = d->intermediate_size;
    linear.out = d->hidden_size;
    return peft__model_declare(ctx, model, &linear, "%s.layers.%d.mlp.fc2", p, (int)layer);
}

static peft_status declare_heads(peft_context *ctx, peft_model *model, const vit_config *c) {
    const peft__dims *d = peft__model_dims(model);
    peft__module_spec head = {.kind = PEFT_MODULE_LINEAR,
                              .layer = -1,
                              .in = d->hidden_size,
                              .out = d->num_labels,
                              .flags = PEFT__MODULE_HEAD | PEFT__MODULE_BIAS | PEFT__MODULE_MAY_BE_NEW};
    if (peft__model_task(model) == PEFT_TASK_IMAGE_CLS && c->teacher) {
        PEFT_TRY(peft__model_declare(ctx, model, &head, "cls_classifier"));
        return peft__model_declare(ctx, model, &head, "distillation_classifier");
    }
    if (peft__model_task(model) == PEFT_TASK_IMAGE_CLS) return peft__model_declare(ctx, model, &head, "classifier");
    head.flags = PEFT__MODULE_OPTIONAL | PEFT__MODULE_BIAS;
    PEFT_TRY(peft__json_get_int(ctx, peft__model_config_json(model), where, "pooler_output_size", 1, MOST_WIDTH,
                                d->hidden_size, &head.out));
    return peft__model_declare(ctx, model, &head, "%s.pooler.dense", c->prefix);
}

static peft_status configure(peft_context *ctx, peft_model *model, const char *prefix, int64_t tokens) {
    const json_t *config = peft__model_config_json(model);
    vit_config *c = peft__arena_alloc(peft__model_arena(model), sizeof *c);
    if (c == NULL) return peft__fail_nomem(ctx, sizeof *c, "a model");
    peft__dims *d = peft__model_edit_dims(model);
    bool qkv_bias = true;
    c->prefix = prefix;
    c->image.tokens = tokens;
    PEFT_TRY(read_dims(ctx, config, c, d));
    PEFT_TRY(read_activation(ctx, config, "hidden_act", "gelu", &c->activation));
    PEFT_TRY(read_activation(ctx, config, "pooler_act", "tanh", &c->pooler_activation));
    PEFT_TRY(peft__json_get_bool(ctx, config, where, "qkv_bias", true, &qkv_bias));
    /* A model distilled with a teacher has two heads, unless it gets a new one. */
    const char *class_name = json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    c->teacher = class_name != NULL && strstr(class_name, "WithTeacher") != NULL;
    peft__model_set_arch_config(model, c);

    const peft__module_spec token = {.kind = PEFT_MODULE_TABLE, .layer = -1, .in = 1, .out = d->hidden_size};
    peft__module_spec positions = token, projection = token;
    positions.in = c->image.grid_height * c->image.grid_width + tokens;
    projection.kind = PEFT_MODULE_LINEAR;
    projection.in = d->feature_size;
    projection.flags = PEFT__MODULE_BIAS;
    PEFT_TRY(peft__model_declare(ctx, model, &token, "%s.embeddings.cls_token", prefix));
    if (tokens > 1) PEFT_TRY(peft__model_declare(ctx, model, &token, "%s.embeddings.distillation_token", prefix));
    PEFT_TRY(peft__model_declare(ctx, model, &positions, "%s.embeddings.position_embeddings", prefix));
    PEFT_TRY(peft__model_declare(ctx, model, &projection, "%s.embeddings.patch_embeddings.projection", prefix));
    for (int64_t layer = 0; layer < d->num_hidden_layers; layer++)
        PEFT_TRY(declare_layer(ctx, model, c, (int32_t)layer, qkv_bias));
    const peft__module_spec norm = {
        .kind = PEFT_MODULE_NORM, .layer = -1, .in = d->hidden_size, .out = d->hidden_size, .flags = PEFT__MODULE_BIAS};
    PEFT_TRY(peft__model_declare(ctx, model, &norm, "%s.layernorm", prefix));
    return declare_heads(ctx, model, c);
}

static peft_status configure_vit(peft_context *ctx, peft_model *model) { return configure(ctx, model, "vit", 1); }
static peft_status configure_deit(peft_context *ctx, peft_model *model) { return configure(ctx, model, "deit", 2); }

/* The name before transformers 5, which files still have. */
static char *older_name(const peft_model *model, peft__arena *arena, const char *tensor) {
    static const char *const parts[][2] = {{"attention.q_proj.", "attention.attention.query."},
                                           {"attention.k_proj.", "attention.attention.key."},
                                           {"attention.v_proj.", "attention.attention.value."},
                                           {"attention.o_proj.", "attention.output.dense."},
                                           {"mlp.fc1.", "intermediate.dense."},
                                           {"mlp.fc2.", "output.dense."},
                                           {"layernorm_", "layernorm_"}}; /* only the layer is called otherwise */
    const vit_config *c = peft__model_arch_config(model);
    const char *layers = strstr(tensor, "layers.");
    if (layers == NULL || (layers != tensor && layers[-1] != '.')) return NULL;
    const char *number = layers + strlen("layers."), *part = number + strspn(number, "0123456789");
    for (size_t i = 0; part > number && *part == '.' && i < PEFT_COUNT(parts); i++) {
        const size_t length = strlen(parts[i][0]);
        if (strncmp(part + 1, parts[i][0], length) != 0) continue;
        return peft__arena_strfmt(arena, "%s.encoder.layer.%.*s.%s%s", c->prefix, (int)(part - number), number,
                                  parts[i][1], part + 1 + length);
    }
    return NULL;
}

/* ---- the body ---------------------------------------------------------------------------------------------- */

typedef struct layer_state {
    peft__build *b;
    const vit_config *c;
    const peft__dims *d;
    int32_t layer;
} layer_state;

static const char *layer_name(char buffer[NAME_BYTES], const layer_state *s, const char *name) {
    (void)snprintf(buffer, NAME_BYTES, "%s.layers.%d.%s", s->c->prefix, (int)s->layer, name);
    return buffer;
}

static const char *body_name(char buffer[NAME_BYTES], const vit_config *c, const char *name) {
    (void)snprintf(buffer, NAME_BYTES, "%s.%s", c->prefix, name);
    return buffer;
}

/* The rows of the layer's output that are read later, on their way around the layer. */
static peft__value *rows_read_later(const layer_state *s, peft__value *x) {
    if (s->layer + 1 == s->d->num_hidden_layers && !s->c->mean && !s->c->teacher) return peft__build_readout_rows(s->b, x);
    return peft__build_layer_rows(s->b, PEFT__STACK_MAIN, s->layer, s->c->image.tokens, x);
}

static peft__value *attention(const layer_state *s, peft__value *x) {
    peft__build *b = s->b;
    const peft__dims *d = s->d;
    char names[5][NAME_BYTES];
    const char *const qkv[3] = {layer_name(names[0], s, "attention.q_proj"), layer_name(names[1], s, "attention.k_proj"),
                                layer_name(names[2], s, "attention.v_proj")};
    peft__value *residual = rows_read_later(s, x), *out[3] = {NULL, NULL, NULL};
    peft__value *h = peft__build_norm(b, layer_name(names[3], s, "layernorm_before"), PEFT__LAYER_NORM, x, d->norm_eps, 0);
    if (residual == NULL || h == NULL) return NULL;
    if (residual->rows == x->rows) {
        peft__build_linear_group(b, qkv, 3, h, out);
    } else {
        peft__build_linear_group(b, qkv + 1, 2, h, out + 1);
        out[0] = peft__build_linear(b, qkv[0], peft__op_select_rows(b->graph, residual->rows, h, NULL), NULL);
    }
    const peft__attention_config config = {.heads = d->num_attention_heads,
                                           .kv_heads = d->num_attention_heads,
                                           .head_dim = d->head_dim,
                                           .scale = 1.0f / sqrtf((float)d->head_dim)};
    peft__value *y = peft__build_attention(b, PEFT__STACK_MAIN, s->layer, out[0], out[1], out[2], NULL, &config);
    return peft__build_sublayer_end(b, PEFT__STACK_MAIN, s->layer, PEFT__SUBLAYER_ATTENTION,
                                    layer_name(names[4], s, "attention.o_proj"), y, residual);
}

static peft__value *feed_forward(const layer_state *s, peft__value *x) {
    peft__build *b = s->b;
    char names[3][NAME_BYTES];
    peft__value *h = peft__build_norm(b, layer_name(names[0], s, "layernorm_after"), PEFT__LAYER_NORM, x, s->d->norm_eps, 0);
    h = peft__build_linear(b, layer_name(names[1], s, "mlp.fc1"), h, NULL);
    h = peft__op_activation(b->graph, s->c->activation, h);
    return peft__build_sublayer_end(b, PEFT__STACK_MAIN, s->layer, PEFT__SUBLAYER_FFN, layer_name(names[2], s, "mlp.fc2"), h,
                                    x);
}

static peft__value *embeddings(peft__build *b, const vit_config *c, const peft__dims *d) {
    char name[NAME_BYTES];
    peft__weight tokens[2] = {{{0}, NULL}};
    peft__value *x = peft__op_features(b->graph, peft__build_rows(b, PEFT__STACK_MAIN), d->feature_size);
    x = peft__build_linear(b, body_name(name, c, "embeddings.patch_embeddings.projection"), x, NULL);
    tokens[0] = peft__build_weight(b, body_name(name, c, "embeddings.cls_token"));
    if (c->image.tokens > 1) tokens[1] = peft__build_weight(b, body_name(name, c, "embeddings.distillation_token"));
    const peft__weight positions = peft__build_weight(b, body_name(name, c, "embeddings.position_embeddings"));
    return peft__op_image_rows(b->graph, x, tokens, positions, &c->image);
}

static peft__value *build(peft__build *b) {
    layer_state s = {.b = b, .c = peft__model_arch_config(b->model), .d = peft__model_dims(b->model)};
    char name[NAME_BYTES];
    peft__value *x = embeddings(b, s.c, s.d);
    x = peft__build_input(b, PEFT__STACK_MAIN, s.c->image.tokens, x);
    peft__build_hidden(b, 0, x);
    for (int64_t layer = 0; layer < s.d->num_hidden_layers && x != NULL; layer++) {
        s.layer = (int32_t)layer;
        x = peft__build_layer_input(b, PEFT__STACK_MAIN, s.layer, s.c->image.tokens, x);
        if (x != NULL) x = feed_forward(&s, attention(&s, x));
        peft__build_hidden(b, layer + 1, x); /* as in transformers: the last one is not normed */
    }
    return peft__build_norm(b, body_name(name, s.c, "layernorm"), PEFT__LAYER_NORM, x, s.d->norm_eps, 0);
}

/* ---- heads ------------------------------------------------------------------------------------------------- */

/* The rows of patches alone: the last of each image, as many as the batch has. */
static void measure_patches(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows,
                            int64_t *out_sequences) {
    (void)rows;
    *out_rows = capacity->rows;
    *out_sequences = capacity->sequences;
}

static peft_status bind_patches(peft__rows *rows, peft_context *ctx, const peft_batch *batch) {
    const peft__rows *parent = rows->parent;
    memcpy(rows->offsets, batch->offsets, (size_t)(batch->sequences + 1) * sizeof *rows->offsets);
    for (int64_t s = 0; s < batch->sequences; s++) {
        const int32_t count = batch->offsets[s + 1] - batch->offsets[s], first = parent->offsets[s + 1] - count;
        if (first < parent->offsets[s])
            return peft__fail(ctx, PEFT_E_INTERNAL, "image %lld has lost patches on its way", (long long)s);
        for (int32_t i = 0; i < count; i++) {
            const int32_t to = batch->offsets[s] + i;
            rows->source[to] = first + i;
            rows->positions[to] = parent->positions[first + i];
            rows->ids[to] = -1;
            rows->types[to] = 0;
            rows->labels[to] = PEFT_IGNORE_LABEL;
        }
    }
    rows->count = batch->rows;
    rows->sequences = batch->sequences;
    return PEFT_OK;
}

static peft__value *mean_of_patches(peft__build *b, peft__value *x) {
    peft__rows *patches =
        peft__rows_new(b->graph, "patches of images", x->rows, NULL, measure_patches, bind_patches, true);
    x = peft__op_select_rows(b->graph, patches, x, NULL);
    return x == NULL ? NULL : peft__op_mean_rows(b->graph, peft__rows_pick(b->graph, x->rows, 0), x);
}

static peft__value *pick(peft__build *b, peft__value *x, int64_t row) {
    return peft__op_select_rows(b->graph, peft__rows_pick(b->graph, x->rows, row), x, NULL);
}

/* Logits of the two heads, averaged as transformers does; the loss is of the average. */
static void build_taught(peft__build *b, peft__value *x) {
    peft__value *a = peft__build_linear(b, "cls_classifier", pick(b, x, 0), NULL);
    peft__value *d = peft__build_linear(b, "distillation_classifier", pick(b, x, 1), NULL);
    if (a == NULL || d == NULL) return;
    d = peft__op_mean_rows(b->graph, a->rows, d); /* of one row each: brings it into the other's space */
    b->logits = peft__op_scale(b->graph, peft__op_add(b->graph, a, d), 0.5f);
    peft__value_output(b->graph, b->logits);
    const peft__cross_entropy_config config = {
        .by_sequence = true, .label_smoothing = b->label_smoothing, .class_weights = b->class_weights};
    if (b->purpose == PEFT__BUILD_LOSS) b->loss = peft__op_cross_entropy(b->graph, b->logits, &config);
}

static void build_image_classes(peft__build *b, peft__value *x, const void *options) {
    const vit_config *c = options;
    if (c->teacher)
        build_taught(b, x);
    else
        peft__build_classes(b, "classifier", c->mean ? mean_of_patches(b, x) : x, true);
}

/* The last hidden states; one row an image is asked for: what the pooler makes of the class token, where there is one. */
static void build_image_features(peft__build *b, peft__value *x, const void *options) {
    const vit_config *c = options;
    char name[NAME_BYTES];
    body_name(name, c, "pooler.dense");
    if (b->purpose == PEFT__BUILD_LAST && peft__model_find(b->model, name) != NULL)
        x = peft__op_activation(b->graph, c->pooler_activation, peft__build_linear(b, name, x, NULL));
    peft__build_features(b, x);
}

static const peft__head heads[] = {
    {PEFT_TASK_IMAGE_CLS, PEFT__READ_FIRST, PEFT__READ_FIRST, PEFT__READ_FIRST, build_image_classes},
    {PEFT_TASK_FEATURE_EXTRACTION, PEFT__READ_ALL, PEFT__READ_ALL, PEFT__READ_FIRST, build_image_features},
    {0, PEFT__READ_ALL, PEFT__READ_ALL, PEFT__READ_ALL, NULL},
};

static void build_head(peft__build *b, peft__value *hidden) {
    const vit_config *c = peft__model_arch_config(b->model);
    const bool classes = peft__model_task(b->model) == PEFT_TASK_IMAGE_CLS;
    if (classes && (c->mean || c->teacher)) b->rows_picked = true; /* these read more than one row */
    peft__build_head(b, hidden, c);
}

const peft__arch peft__arch_vit = {.model_type = "vit",
                                   .base_prefix = "vit.",
                                   .default_task = PEFT_TASK_IMAGE_CLS,
                                   .configure = configure_vit,
                                   .alias = older_name,
                                   .build = build,
                                   .build_head = build_head,
                                   .heads = heads};

const peft__arch peft__arch_deit = {.model_type = "deit",
                                    .base_prefix = "deit.",
                                    .default_task = PEFT_TASK_IMAGE_CLS,
                                    .configure = configure_deit,
                                    .alias = older_name,
                                    .build = build,
                                    .build_head = build_head,
                                    .heads = heads};
