/* rope.c: the inverse frequencies and the attention factor of every rope_type that transformers has for language
 * models.
 *
 * The tables are computed in float, step by step as transformers does: at position 8000 an inverse frequency that
 * differs in its last bits turns a head by 10^-3, and the reference is what models were trained with.
 */
#include "model/rope.h"

#include <math.h>

#define PI 3.14159265358979323846

typedef struct rope_text {
    const json_t *parameters; /* may be NULL: all defaults */
    const char *where;
    const char *type;
    double theta;
    double original_max; /* of the unscaled model */
    int64_t max_positions;
    int64_t dim; /* rotated columns of a head */
} rope_text;

static peft_status number(peft_context *ctx, const rope_text *text, const char *key, double min, double fallback,
                          double *out) {
    return peft__json_get_double(ctx, text->parameters, text->where, key, min, 1e12, fallback, out);
}

/* `factor` must be there (yarn: or follow from the two lengths). */
static peft_status read_factor(peft_context *ctx, const rope_text *text, double *out) {
    return peft__json_need_double(ctx, text->parameters, text->where, "factor", 1e-6, 1e9, out);
}

static peft_status new_table(peft_context *ctx, peft__arena *arena, int64_t count, float **out) {
    float *table = peft__arena_alloc(arena, (size_t)count * sizeof *table);
    if (table == NULL) return peft__fail_nomem(ctx, (size_t)count * sizeof *table, "the rotary frequencies");
    *out = table;
    return PEFT_OK;
}

static float power_of(const rope_text *text, int64_t i) {
    const float exponent = (float)(2 * i) / (float)text->dim;
    return powf((float)text->theta, exponent);
}

static peft_status scale_linear(peft_context *ctx, const rope_text *text, float *inv_freq) {
    double factor = 1;
    PEFT_TRY(read_factor(ctx, text, &factor));
    for (int64_t i = 0; i < text->dim / 2; i++) inv_freq[i] /= (float)factor;
    return PEFT_OK;
}

static peft_status scale_llama3(peft_context *ctx, const rope_text *text, float *inv_freq) {
    double factor = 1, low = 1, high = 4;
    PEFT_TRY(read_factor(ctx, text, &factor));
    PEFT_TRY(peft__json_need_double(ctx, text->parameters, text->where, "low_freq_factor", 1e-6, 1e9, &low));
    PEFT_TRY(peft__json_need_double(ctx, text->parameters, text->where, "high_freq_factor", 1e-6, 1e9, &high));
    if (high <= low)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: high_freq_factor %g is not above low_freq_factor %g", text->where,
                          high, low);
    const double low_length = text->original_max / low, high_length = text->original_max / high;
    for (int64_t i = 0; i < text->dim / 2; i++) {
        const float inv = inv_freq[i], wave = (float)(2 * PI) / inv;
        if (wave < (float)high_length) continue;
        if (wave > (float)low_length) {
            inv_freq[i] = inv / (float)factor;
            continue;
        }
        const float smooth = ((float)text->original_max / wave - (float)low) / (float)(high - low);
        inv_freq[i] = (1 - smooth) * inv / (float)factor + smooth * inv;
    }
    return PEFT_OK;
}

/* Column at which a frequency turns `turns` times within the original length. */
static double yarn_column(const rope_text *text, double turns) {
    return (double)text->dim * log(text->original_max / (turns * 2 * PI)) / (2 * log(text->theta));
}

static double yarn_scale(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static peft_status scale_yarn(peft_context *ctx, const rope_text *text, float *inv_freq, double *attention_factor) {
    double factor = 0, fast = 32, slow = 1, mscale = 0, mscale_all = 0, attention = 0;
    bool truncate = true;
    PEFT_TRY(number(ctx, text, "factor", 1e-6, (double)text->max_positions / text->original_max, &factor));
    PEFT_TRY(number(ctx, text, "beta_fast", 0, 32, &fast));
    PEFT_TRY(number(ctx, text, "beta_slow", 0, 1, &slow));
    PEFT_TRY(number(ctx, text, "mscale", 0, 0, &mscale));
    PEFT_TRY(number(ctx, text, "mscale_all_dim", 0, 0, &mscale_all));
    PEFT_TRY(number(ctx, text, "attention_factor", 1e-6, 0, &attention));
    PEFT_TRY(peft__json_get_bool(ctx, text->parameters, text->where, "truncate", true, &truncate));
    if (fast == 0) fast = 32;
    if (slow == 0) slow = 1;
    if (text->theta <= 1)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: rope_theta %g is not above 1", text->where, text->theta);
    if (attention == 0) {
        attention = mscale != 0 && mscale_all != 0 ? yarn_scale(factor, mscale) / yarn_scale(factor, mscale_all)
                                                   : yarn_scale(factor, 1);
    }
    double low = yarn_column(text, fast), high = yarn_column(text, slow);
    if (truncate) low = floor(low), high = ceil(high);
    low = fmax(low, 0);
    high = fmin(high, (double)text->dim - 1);
    if (low == high) high += 0.001;
    for (int64_t i = 0; i < text->dim / 2; i++) {
        const float ramp = fminf(fmaxf(((float)i - (float)low) / (float)(high - low), 0), 1), keep = 1 - ramp;
        const float power = power_of(text, i);
        inv_freq[i] = 1.0f / ((float)factor * power) * (1 - keep) + 1.0f / power * keep;
    }
    *attention_factor = attention;
    return PEFT_OK;
}

static peft_status read_factors(peft_context *ctx, const rope_text *text, const char *key, float *out_inv_freq) {
    const peft__json *list = NULL;
    PEFT_TRY(peft__json_need_array(ctx, text->parameters, text->where, key, &list));
    if (json_array_size(list) != (size_t)(text->dim / 2))
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: %s: expected %lld numbers, found %zu", text->where, key,
                          (long long)(text->dim / 2), json_array_size(list));
    for (int64_t i = 0; i < text->dim / 2; i++) {
        const json_t *item = json_array_get(list, (size_t)i);
        const double value = json_is_number(item) ? json_number_value(item) : 0;
        if (!(value > 1e-9 && value < 1e9))
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: %s[%lld]: expected a number above 0", text->where, key,
                              (long long)i);
        out_inv_freq[i] = 1.0f / ((float)value * power_of(text, i));
    }
    return PEFT_OK;
}

static peft_status scale_longrope(peft_context *ctx, const rope_text *text, peft__arena *arena, float *inv_freq,
                                  peft__rope_config *out, double *attention_factor) {
    double factor = 0, attention = 0;
    PEFT_TRY(number(ctx, text, "factor", 1e-6, (double)text->max_positions / text->original_max, &factor));
    PEFT_TRY(number(ctx, text, "attention_factor", 1e-6, 0, &attention));
    float *longer = NULL;
    PEFT_TRY(new_table(ctx, arena, text->dim / 2, &longer));
    PEFT_TRY(read_factors(ctx, text, "short_factor", inv_freq));
    PEFT_TRY(read_factors(ctx, text, "long_factor", longer));
    if (attention == 0) {
        if (factor > 1 && text->original_max <= 1)
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: original_max_position_embeddings %g is not above 1", text->where,
                              text->original_max);
        attention = factor <= 1 ? 1 : sqrt(1 + log(factor) / log(text->original_max));
    }
    out->long_inv_freq = longer;
    out->original_max = (int64_t)text->original_max;
    *attention_factor = attention;
    return PEFT_OK;
}

static peft_status scale_dynamic(peft_context *ctx, const rope_text *text, peft__rope_config *out) {
    double factor = 1;
    PEFT_TRY(read_factor(ctx, text, &factor));
    if (text->dim <= 2)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: rope_type dynamic needs more than 2 rotated columns", text->where);
    out->dynamic_factor = (float)factor;
    return PEFT_OK;
}

/* The object that holds the parameters, and its name. Layer types may have their own; only equal ones are built. */
static peft_status find_parameters(peft_context *ctx, const json_t *config, rope_text *text) {
    const peft__json *object = NULL;
    text->where = "config.json: rope_parameters";
    PEFT_TRY(peft__json_get_object(ctx, config, "config.json", "rope_parameters", &object));
    if (object == NULL) {
        text->where = "config.json: rope_scaling";
        PEFT_TRY(peft__json_get_object(ctx, config, "config.json", "rope_scaling", &object));
    }
    const json_t *full = object != NULL ? peft__json_value(object, "full_attention") : NULL;
    const json_t *sliding = object != NULL ? peft__json_value(object, "sliding_attention") : NULL;
    if (full != NULL || sliding != NULL) {
        if (full != NULL && sliding != NULL && !json_equal(full, sliding))
            return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: rotary embeddings that differ between layers are not built",
                              text->where);
        object = full != NULL ? full : sliding;
        if (!json_is_object(object))
            return peft__fail(ctx, PEFT_E_FORMAT, "%s: expected objects for the layer types", text->where);
    }
    text->parameters = object;
    return PEFT_OK;
}

static peft_status read_common(peft_context *ctx, const json_t *config, const peft__rope_defaults *defaults,
                               rope_text *text) {
    const json_t *p = text->parameters;
    double share = defaults->partial_factor, original = 0;
    text->theta = defaults->theta;
    text->type = "default";
    text->max_positions = defaults->max_positions;
    PEFT_TRY(peft__json_get_double(ctx, config, "config.json", "rope_theta", 1e-3, 1e15, text->theta, &text->theta));
    PEFT_TRY(peft__json_get_double(ctx, config, "config.json", "partial_rotary_factor", 0.001, 1, share, &share));
    PEFT_TRY(
        peft__json_get_double(ctx, config, "config.json", "original_max_position_embeddings", 1, 1e9, 0, &original));
    if (p != NULL) {
        PEFT_TRY(peft__json_get_string(ctx, p, text->where, "type", text->type, &text->type));
        PEFT_TRY(peft__json_get_string(ctx, p, text->where, "rope_type", text->type, &text->type));
        PEFT_TRY(peft__json_get_double(ctx, p, text->where, "rope_theta", 1e-3, 1e15, text->theta, &text->theta));
        PEFT_TRY(peft__json_get_double(ctx, p, text->where, "partial_rotary_factor", 0.001, 1, share, &share));
        if (original == 0)
            PEFT_TRY(
                peft__json_get_double(ctx, p, text->where, "original_max_position_embeddings", 1, 1e9, 0, &original));
    }
    text->original_max = original != 0 ? original : (double)defaults->max_positions;
    text->dim = (int64_t)((double)defaults->head_dim * share);
    if (text->dim < 2 || text->dim % 2 != 0)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "config.json: %lld rotated columns a head: an even number is needed",
                          (long long)text->dim);
    return PEFT_OK;
}

peft_status peft__rope_read(peft_context *ctx, const json_t *config, const peft__rope_defaults *defaults,
                            peft__arena *arena, peft__rope_config *out) {
    rope_text text = {0};
    PEFT_TRY(find_parameters(ctx, config, &text));
    PEFT_TRY(read_common(ctx, config, defaults, &text));
    peft__rope_config rope = {
        .half = text.dim / 2, .attention_factor = 1, .theta = (float)text.theta, .max_positions = text.max_positions};
    float *inv_freq = NULL;
    PEFT_TRY(new_table(ctx, arena, rope.half, &inv_freq));
    for (int64_t i = 0; i < rope.half; i++) inv_freq[i] = 1.0f / power_of(&text, i);
    double attention = 1;
    if (strcmp(text.type, "linear") == 0)
        PEFT_TRY(scale_linear(ctx, &text, inv_freq));
    else if (strcmp(text.type, "dynamic") == 0)
        PEFT_TRY(scale_dynamic(ctx, &text, &rope));
    else if (strcmp(text.type, "llama3") == 0)
        PEFT_TRY(scale_llama3(ctx, &text, inv_freq));
    else if (strcmp(text.type, "yarn") == 0)
        PEFT_TRY(scale_yarn(ctx, &text, inv_freq, &attention));
    else if (strcmp(text.type, "longrope") == 0)
        PEFT_TRY(scale_longrope(ctx, &text, arena, inv_freq, &rope, &attention));
    else if (strcmp(text.type, "default") != 0)
        return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: rope_type \"%s\" is not built", text.where, text.type);
    rope.attention_factor = (float)attention;
    rope.inv_freq = inv_freq;
    *out = rope;
    return PEFT_OK;
}
