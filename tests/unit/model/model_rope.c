/* Inverse frequencies and attention factors against those of transformers (tests/data/models/rope.json). */
#include "check.h"
#include "model/model_internal.h"
#include "model/rope.h"

static peft_context *ctx;

/* What the operation uses for a batch that ends at position `last`. */
static double frequency(const peft__rope_config *rope, int64_t last, int64_t i) {
    if (rope->long_inv_freq != NULL && last >= rope->original_max) return (double)rope->long_inv_freq[i];
    if (rope->dynamic_factor == 0 || last < rope->max_positions) return (double)rope->inv_freq[i];
    const double dim = 2.0 * (double)rope->half, length = (double)last + 1, factor = (double)rope->dynamic_factor;
    const double theta =
        (double)rope->theta * pow(factor * length / (double)rope->max_positions - (factor - 1), dim / (dim - 2));
    return 1 / pow(theta, 2.0 * (double)i / dim);
}

static void check_list(const char *name, const peft__rope_config *rope, int64_t last, const json_t *want) {
    CHECK((size_t)rope->half == json_array_size(want));
    for (int64_t i = 0; i < rope->half && (size_t)i < json_array_size(want); i++) {
        const double expected = json_number_value(json_array_get(want, (size_t)i));
        const double got = frequency(rope, last, i);
        if (!CHECK(fabs(got - expected) <= 2e-7 * expected))
            fprintf(stderr, "    %s[%d]: got %.9g, want %.9g\n", name, (int)i, got, expected);
    }
}

static void check_reference(const json_t *item) {
    const char *name = json_string_value(json_object_get(item, "name"));
    const json_t *config = json_object_get(item, "config");
    const peft__rope_defaults defaults = {.head_dim = json_integer_value(json_object_get(item, "head_dim")),
                                          .max_positions = 4096,
                                          .theta = 10000,
                                          .partial_factor = 1};
    peft__arena arena;
    peft__arena_init(&arena, ctx->mem);
    peft__rope_config rope;
    memset(&rope, 0, sizeof rope);
    CHECK_OK(ctx, peft__rope_read(ctx, config, &defaults, &arena, &rope));
    CHECK_NEAR(rope.attention_factor, json_number_value(json_object_get(item, "attention_factor")), 1e-6);
    check_list(name, &rope, 15, json_object_get(item, "short"));
    check_list(name, &rope, 8191, json_object_get(item, "long"));
    peft__arena_free(&arena);
}

static void check_refused(const char *text, peft_status want, const char *word) {
    json_t *config = json_loads(text, 0, NULL);
    const peft__rope_defaults defaults = {.head_dim = 16, .max_positions = 64, .theta = 10000, .partial_factor = 1};
    peft__arena arena;
    peft__arena_init(&arena, ctx->mem);
    peft__rope_config rope;
    CHECK_STATUS(ctx, peft__rope_read(ctx, config, &defaults, &arena, &rope), want);
    if (!CHECK(strstr(peft_context_error(ctx), word) != NULL)) fprintf(stderr, "    %s\n", peft_context_error(ctx));
    peft__arena_free(&arena);
    json_decref(config);
}

int main(void) {
    const char *data = getenv("PEFT_TEST_DATA");
    if (data == NULL) return 77;
    if (peft_context_create(NULL, &ctx) < 0) return 1;
    char path[512];
    snprintf(path, sizeof path, "%s/models/rope.json", data);
    json_t *list = NULL;
    CHECK_OK(ctx, peft__json_load_file(ctx, path, 0, &list));
    for (size_t i = 0; i < json_array_size(list); i++) check_reference(json_array_get(list, i));
    json_decref(list);

    check_refused("{\"rope_scaling\":{\"type\":\"linear\"}}", PEFT_E_FORMAT, "factor");
    check_refused("{\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}", PEFT_E_FORMAT, "factor");
    check_refused("{\"rope_scaling\":{\"type\":\"mrope\"}}", PEFT_E_UNSUPPORTED, "mrope");
    check_refused("{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2,\"low_freq_factor\":4,\"high_freq_factor\":4}}",
                  PEFT_E_FORMAT, "high_freq_factor");
    check_refused("{\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1],\"long_factor\":[1]}}", PEFT_E_FORMAT,
                  "short_factor");
    check_refused("{\"rope_theta\":-1}", PEFT_E_FORMAT, "rope_theta");
    check_refused("{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"rope_theta\":1}}", PEFT_E_FORMAT, "rope_theta");
    check_refused("{\"partial_rotary_factor\":0.2}", PEFT_E_UNSUPPORTED, "even");
    check_refused(
        "{\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e4},\"sliding_attention\":{\"rope_theta\":2e4}}}",
        PEFT_E_UNSUPPORTED, "layers");
    check_refused("{\"rope_scaling\":[1]}", PEFT_E_FORMAT, "rope_scaling");
    peft_context_destroy(ctx);
    return check_summary();
}
