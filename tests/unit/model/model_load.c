/* Loading: names, ties, reports, and files that lie. */
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "model/build.h"
#include "model/model_internal.h"
#include "format/safetensors.h"
#include "peft/peft.h"

static peft_context *ctx;
static char data_folder[512], scratch_folder[512];

static const char *data_path(const char *name) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/models/%s", data_folder, name);
    return path;
}

static bool says(const char *word) {
    const bool found = strstr(peft_context_error(ctx), word) != NULL;
    if (!found) fprintf(stderr, "    \"%s\" does not say %s\n", peft_context_error(ctx), word);
    return found;
}

static bool reports(const peft_model *model, const char *text) {
    const bool found = strstr(peft_model_load_report(model), text) != NULL;
    if (!found) fprintf(stderr, "    the report does not say %s:\n%.400s\n", text, peft_model_load_report(model));
    return found;
}

/* ---- variants of the carried model, written anew --------------------------------------------------------- */

/* Changes a tensor on its way into the new file: false leaves it out. `out` is a copy that may be changed. */
typedef bool (*edit_fn)(peft__tensor_out *out, char name[256], float *values);

typedef struct variant {
    edit_fn edit;
    const char *extra;  /* name of one more tensor [2, 2] */
    const char *config; /* JSON object that is merged over config.json */
} variant;

static void write_variant(const variant *v) {
    char path[1024];
    json_t *config = NULL, *changes = json_loads(v->config != NULL ? v->config : "{}", 0, NULL);
    CHECK_OK(ctx, peft__json_load_file(ctx, data_path("llama-gqa/config.json"), 0, &config));
    json_object_update(config, changes);
    snprintf(path, sizeof path, "%s/config.json", scratch_folder);
    CHECK_OK(ctx, peft__json_write_file(ctx, path, config, true));
    json_decref(config);
    json_decref(changes);

    peft__tensors *tensors = NULL;
    CHECK_OK(ctx, peft__tensors_open_folder(ctx, data_path("llama-gqa"), &tensors));
    const size_t count = peft__tensors_count(tensors);
    peft__tensor_out *outs = calloc(count + 1, sizeof *outs);
    float **values = calloc(count + 1, sizeof *values);
    char(*names)[256] = calloc(count + 1, sizeof *names);
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        const peft__tensor *tensor = peft__tensors_at(tensors, i);
        values[kept] = malloc(tensor->bytes);
        memcpy(values[kept], tensor->data, tensor->bytes);
        snprintf(names[kept], sizeof *names, "%s", tensor->name);
        peft__tensor_out *out = &outs[kept];
        *out = (peft__tensor_out){.dtype = tensor->dtype, .ndim = tensor->ndim};
        memcpy(out->shape, tensor->shape, sizeof out->shape);
        if (v->edit != NULL && !v->edit(out, names[kept], values[kept])) {
            free(values[kept]);
            continue;
        }
        out->name = names[kept];
        out->data = values[kept];
        kept++;
    }
    static const float four[4] = {1, 2, 3, 4};
    if (v->extra != NULL) outs[kept++] = (peft__tensor_out){.name = v->extra, .ndim = 2, .shape = {2, 2}, .data = four};
    snprintf(path, sizeof path, "%s/model.safetensors", scratch_folder);
    CHECK_OK(ctx, peft__safetensors_write(ctx, path, outs, kept, NULL, 0));
    for (size_t i = 0; i < count; i++) free(values[i]);
    free(outs), free(values), free(names);
    peft__tensors_unref(tensors);
}

static peft_status load_variant(const variant *v, const peft_model_options *options, peft_model **out) {
    write_variant(v);
    return peft_model_load(ctx, scratch_folder, options, out);
}

static peft_model *must_load(const variant *v, const peft_model_options *options) {
    peft_model *model = NULL;
    CHECK_OK(ctx, load_variant(v, options, &model));
    return model;
}

static void must_refuse(const variant *v, const peft_model_options *options, peft_status want, const char *word) {
    peft_model *model = NULL;
    if (!CHECK(load_variant(v, options, &model) == want && model == NULL))
        fprintf(stderr, "    config %s: %s\n", v->config != NULL ? v->config : "", peft_context_error(ctx));
    CHECK(says(word));
    peft_model_destroy(model);
}

/* ---- what is there ------------------------------------------------------------------------------------------ */

static void check_plain(void) {
    static const char *const names[] = {
        "model.embed_tokens",
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.k_proj",
        "model.layers.0.self_attn.v_proj",
        "model.layers.0.self_attn.o_proj",
        "model.layers.0.mlp.gate_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.0.mlp.down_proj",
        "model.layers.0.input_layernorm",
        "model.layers.0.post_attention_layernorm",
        "model.layers.1.self_attn.q_proj",
    };
    peft_model *model = NULL;
    CHECK_OK(ctx, peft_model_load(ctx, data_path("llama-gqa"), NULL, &model));
    CHECK(peft_model_module_count(model) == 21);
    peft_module_info module = {.struct_size = sizeof module};
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++) {
        CHECK_OK(ctx, peft_model_module(model, i, &module));
        CHECK_STR(module.name, names[i]);
    }
    CHECK(module.kind == PEFT_MODULE_LINEAR && module.layer == 1 && module.in_features == 64 &&
          module.out_features == 64);
    CHECK_OK(ctx, peft_model_module(model, 20, &module));
    CHECK_STR(module.name, "lm_head");
    CHECK(peft_model_module(model, 21, &module) == PEFT_E_ARG);
    peft_model_info info = {.struct_size = sizeof info};
    CHECK_OK(ctx, peft_model_get_info(model, &info));
    CHECK(info.parameters == 80192 && info.hidden_size == 64 && info.head_dim == 16 && info.num_key_value_heads == 2);
    CHECK(info.task == PEFT_TASK_CAUSAL_LM && info.vocab_size == 288 && info.bytes == 4 * info.parameters);
    CHECK(reports(model, "20 matched, 0 missing, 0 unexpected, 0 renamed, 1 tied"));
    CHECK(strstr(peft_model_config(model), "\"model_type\": \"llama\"") != NULL);
    CHECK(peft__model_tensor(model, "lm_head.weight") == peft__model_tensor(model, "model.embed_tokens.weight"));
    CHECK(peft__model_tensor(model, "model.norm.bias") == NULL && peft__model_tensor(model, "nothing.weight") == NULL);
    peft_model_destroy(model);
}

static bool drop_prefix(peft__tensor_out *out, char name[256], float *values) {
    (void)out, (void)values;
    memmove(name, name + 6, strlen(name + 6) + 1); /* "model." */
    return true;
}

static void check_names(void) {
    peft_model *model =
        must_load(&(variant){.edit = drop_prefix, .extra = "layers.0.self_attn.rotary_emb.inv_freq"}, NULL);
    CHECK(reports(model, "20 matched, 0 missing, 0 unexpected, 20 renamed, 1 tied, 0 new, 1 ignored"));
    CHECK(reports(model, "matched model.norm.weight F32 [64] (stored as norm.weight)"));
    peft_model_destroy(model);

    peft_model_options options;
    peft_model_options_init(&options);
    options.task = PEFT_TASK_FEATURE_EXTRACTION;
    model = must_load(&(variant){0}, &options);
    CHECK(peft__model_find(model, "layers.1.mlp.up_proj") != NULL);
    CHECK(peft__model_find(model, "model.layers.1.mlp.up_proj") == peft__model_find(model, "layers.1.mlp.up_proj"));
    CHECK(peft__model_find(model, "lm_head") == NULL);
    peft_model_destroy(model);

    model = must_load(&(variant){.extra = "vision.weight"}, NULL);
    CHECK(reports(model, "unexpected vision.weight [2, 2]"));
    peft_model_destroy(model);
    options.task = PEFT_TASK_AUTO;
    options.allow_unexpected = 0;
    must_refuse(&(variant){.extra = "vision.weight"}, &options, PEFT_E_MISMATCH, "vision.weight");
}

/* ---- ties ------------------------------------------------------------------------------------------------ */

/* There is no spare tensor of the head's shape: the embedding becomes the head, and the embedding is what is missing.
 */
static bool embedding_is_head(peft__tensor_out *out, char name[256], float *values) {
    (void)out, (void)values;
    if (strcmp(name, "model.embed_tokens.weight") == 0) strcpy(name, "lm_head.weight");
    return true;
}

static void check_ties(void) {
    must_refuse(&(variant){.config = "{\"tie_word_embeddings\": false}"}, NULL, PEFT_E_MISMATCH, "lm_head.weight");
    must_refuse(&(variant){.edit = embedding_is_head}, NULL, PEFT_E_MISMATCH, "model.embed_tokens.weight");
    /* Written without the key when tied was the default: the head that is missing is the embedding. */
    peft_model *model = must_load(&(variant){.config = "{\"tie_word_embeddings\": null}"}, NULL);
    CHECK(reports(model, "tied lm_head.weight to model.embed_tokens.weight"));
    CHECK(strstr(peft_model_config(model), "\"tie_word_embeddings\": true") != NULL);
    peft_model_destroy(model);
}

/* ---- heads that are not in the file ---------------------------------------------------------------------- */

static void check_new_head(void) {
    peft_model_options options;
    peft_model_options_init(&options);
    options.task = PEFT_TASK_SEQ_CLS;
    options.num_labels = 3;
    peft_model *model = must_load(&(variant){0}, &options);
    CHECK(reports(model, "new score [3, 64]"));
    peft_module_info module = {.struct_size = sizeof module};
    CHECK_OK(ctx, peft_model_module(model, peft_model_module_count(model) - 1, &module));
    CHECK(module.is_new == 1 && module.out_features == 3);
    uint32_t ndim = 0;
    int64_t shape[4] = {0};
    CHECK(peft__model_tensor_shape(model, "score.weight", &ndim, shape) && ndim == 2 && shape[0] == 3 &&
          shape[1] == 64);

    const peft__capacity capacity = {.rows = 8, .sequences = 2, .labels = 8};
    peft__build b = {.model = model, .purpose = PEFT__BUILD_LOGITS};
    CHECK_OK(ctx, peft__graph_create(ctx, &capacity, &b.graph));
    CHECK_STATUS(ctx, peft__build_model(&b), PEFT_E_STATE);
    CHECK(says("score"));
    peft__graph_destroy(b.graph);
    peft_model_destroy(model);

    options.task = PEFT_TASK_MASKED_LM;
    must_refuse(&(variant){0}, &options, PEFT_E_UNSUPPORTED, "CAUSAL_LM");
    options.task = 99;
    must_refuse(&(variant){0}, &options, PEFT_E_ARG, "task");
}

/* ---- files that do not fit ------------------------------------------------------------------------------- */

static bool leave_out(peft__tensor_out *out, char name[256], float *values) {
    (void)out, (void)values;
    return strstr(name, "layers.1.self_attn") == NULL;
}

static bool misspell(peft__tensor_out *out, char name[256], float *values) {
    (void)out, (void)values;
    if (strcmp(name, "model.layers.0.mlp.up_proj.weight") == 0) strcpy(name, "model.layers.0.mlp.upproj.weight");
    return true;
}

static bool misshape(peft__tensor_out *out, char name[256], float *values) {
    (void)values;
    if (strcmp(name, "model.layers.0.mlp.up_proj.weight") == 0) out->shape[0] = 64, out->shape[1] = 96;
    return true;
}

static bool not_a_number(peft__tensor_out *out, char name[256], float *values) {
    (void)out;
    if (strcmp(name, "model.layers.1.input_layernorm.weight") == 0) values[7] = NAN;
    return true;
}

static void check_misfits(void) {
    must_refuse(&(variant){.edit = leave_out}, NULL, PEFT_E_MISMATCH, "4 of the 20 tensors");
    must_refuse(&(variant){.edit = misspell}, NULL, PEFT_E_MISMATCH,
                "closest in the file: model.layers.0.mlp.upproj.weight");
    must_refuse(&(variant){.edit = misshape}, NULL, PEFT_E_MISMATCH, "[96, 64]");
    peft_model_options options;
    peft_model_options_init(&options);
    options.validate = 1;
    must_refuse(&(variant){.edit = not_a_number}, &options, PEFT_E_NONFINITE, "element 7");
    peft_model_destroy(must_load(&(variant){0}, &options));
}

static void check_config_lies(void) {
    static const struct {
        const char *config;
        peft_status want;
        const char *word;
    } lies[] = {
        {"{\"model_type\": \"nothing\"}", PEFT_E_UNSUPPORTED, "nothing"},
        {"{\"model_type\": null}", PEFT_E_FORMAT, "model_type"},
        {"{\"hidden_size\": 0}", PEFT_E_FORMAT, "hidden_size"},
        {"{\"hidden_size\": -64}", PEFT_E_FORMAT, "hidden_size"},
        {"{\"hidden_size\": 1e30}", PEFT_E_FORMAT, "hidden_size"},
        {"{\"hidden_size\": \"64\"}", PEFT_E_FORMAT, "hidden_size"},
        {"{\"num_attention_heads\": 0}", PEFT_E_FORMAT, "num_attention_heads"},
        {"{\"num_attention_heads\": 3}", PEFT_E_FORMAT, "num_key_value_heads"},
        {"{\"num_key_value_heads\": 0}", PEFT_E_FORMAT, "num_key_value_heads"},
        {"{\"num_key_value_heads\": 3}", PEFT_E_FORMAT, "num_key_value_heads"},
        {"{\"head_dim\": null, \"hidden_size\": 66}", PEFT_E_FORMAT, "not a multiple"},
        {"{\"head_dim\": 15}", PEFT_E_UNSUPPORTED, "even"},
        {"{\"head_dim\": 0}", PEFT_E_FORMAT, "head_dim"},
        {"{\"num_hidden_layers\": 0}", PEFT_E_FORMAT, "num_hidden_layers"},
        {"{\"num_hidden_layers\": 4097}", PEFT_E_FORMAT, "num_hidden_layers"},
        {"{\"num_hidden_layers\": 4096}", PEFT_E_MISMATCH, "missing"},
        {"{\"num_hidden_layers\": 1000000000000}", PEFT_E_FORMAT, "num_hidden_layers"},
        {"{\"vocab_size\": 0}", PEFT_E_FORMAT, "vocab_size"},
        {"{\"vocab_size\": 289}", PEFT_E_MISMATCH, "embed_tokens"},
        {"{\"intermediate_size\": 95}", PEFT_E_MISMATCH, "gate_proj"},
        {"{\"rms_norm_eps\": -1}", PEFT_E_FORMAT, "rms_norm_eps"},
        {"{\"hidden_act\": \"mish\"}", PEFT_E_UNSUPPORTED, "mish"},
        {"{\"max_position_embeddings\": 0}", PEFT_E_FORMAT, "max_position_embeddings"},
        {"{\"rope_parameters\": 3}", PEFT_E_FORMAT, "rope_parameters"},
        {"{\"quantization_config\": {\"quant_method\": \"awq\"}}", PEFT_E_UNSUPPORTED, "awq"},
        {"{\"architectures\": \"Llama\"}", PEFT_E_FORMAT, "architectures"},
        {"{\"attention_bias\": true}", PEFT_E_MISMATCH, "q_proj.bias"},
        {"{\"model_type\": \"qwen2\", \"layer_types\": [\"full_attention\"]}", PEFT_E_FORMAT, "layer_types"},
        {"{\"model_type\": \"qwen2\", \"layer_types\": [\"sliding_attention\", 1]}", PEFT_E_FORMAT, "sliding_window"},
        {"{\"model_type\": \"qwen2\", \"layer_types\": [\"full_attention\", \"linear\"]}", PEFT_E_UNSUPPORTED,
         "linear"},
        {"{\"model_type\": \"smollm3\", \"no_rope_layers\": [1]}", PEFT_E_FORMAT, "no_rope_layers"},
        {"{\"model_type\": \"smollm3\", \"no_rope_layer_interval\": 0}", PEFT_E_FORMAT, "no_rope_layer_interval"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++)
        must_refuse(&(variant){.config = lies[i].config}, NULL, lies[i].want, lies[i].word);
    /* null is absent, old keys are read */
    peft_model *model =
        must_load(&(variant){.config = "{\"rope_parameters\": null, \"rope_theta\": 5, \"head_dim\": null, "
                                       "\"rope_scaling\": null, \"pad_token_id\": null, \"architectures\": null}"},
                  NULL);
    CHECK(peft__model_dims(model)->pad_token_id == -1 && peft__model_task(model) == PEFT_TASK_CAUSAL_LM);
    peft_model_destroy(model);
    peft_model_destroy(must_load(&(variant){.config = "{\"model_type\": \"smollm3\"}"}, NULL));
}

/* ---- GGUF ------------------------------------------------------------------------------------------------ */

static int64_t read_bytes(void *user, uint64_t offset, void *buffer, uint64_t size) {
    memcpy(buffer, (const char *)user + offset, size);
    return (int64_t)size;
}

static void check_gguf_order(const peft_model *quantised) {
    peft_model *model = NULL;
    CHECK_OK(ctx, peft_model_load(ctx, data_path("llama-gqa"), NULL, &model));
    static const char *const names[] = {"model.layers.1.self_attn.q_proj.weight",
                                        "model.layers.0.self_attn.k_proj.weight", "model.layers.0.mlp.down_proj.weight",
                                        "model.norm.weight", "lm_head.weight"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        uint32_t ndim = 0;
        int64_t shape[4] = {0};
        CHECK(peft__model_tensor_shape(model, names[i], &ndim, shape));
        const size_t count = (size_t)(shape[0] * (ndim > 1 ? shape[1] : 1));
        float *want = malloc(count * sizeof *want), *got = malloc(count * sizeof *got);
        CHECK_OK(ctx, peft__model_read_tensor(ctx, model, names[i], want));
        CHECK_OK(ctx, peft__model_read_tensor(ctx, quantised, names[i], got));
        double error = 0, size = 0;
        for (size_t j = 0; j < count; j++) error += fabs((double)(got[j] - want[j])), size += fabs((double)want[j]);
        CHECK(error < 0.1 * size); /* four bits; rows in another order would be 1.4 */
        free(want), free(got);
    }
    peft_model_destroy(model);
}

static void check_gguf(void) {
    const char *path = data_path("llama-gqa.Q4_1.gguf");
    FILE *file = fopen(path, "rb");
    if (!CHECK(file != NULL)) return;
    fseek(file, 0, SEEK_END);
    const size_t size = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = malloc(size);
    CHECK(fread(bytes, 1, size, file) == size);
    fclose(file);

    peft_model *mapped = NULL, *memory = NULL, *read = NULL;
    const peft_reader reader = {.read = read_bytes, .size = size, .user = bytes};
    CHECK_OK(ctx, peft_model_load(ctx, path, NULL, &mapped));
    CHECK_OK(ctx, peft_model_load_memory(ctx, bytes, size, NULL, &memory));
    CHECK_OK(ctx, peft_model_load_reader(ctx, &reader, NULL, &read));
    peft_model_info a = {.struct_size = sizeof a}, b = {.struct_size = sizeof b};
    CHECK_OK(ctx, peft_model_get_info(mapped, &a));
    CHECK_OK(ctx, peft_model_get_info(memory, &b));
    CHECK(a.hash == b.hash && a.parameters == 80192);
    CHECK_OK(ctx, peft_model_get_info(read, &b));
    CHECK(a.hash == b.hash);
    CHECK_STR(a.name, "llama-gqa");
    check_gguf_order(mapped);
    peft_model_destroy(mapped), peft_model_destroy(memory), peft_model_destroy(read);

    peft_model *model = NULL;
    for (size_t cut = 0; cut < size; cut += size / 97) CHECK(peft_model_load_memory(ctx, bytes, cut, NULL, &model) < 0);
    uint8_t *copy = malloc(size);
    peft__rng rng = peft__rng_make(1, 2);
    for (int round = 0; round < 2000; round++) { /* whatever the header says, the answer is a status */
        memcpy(copy, bytes, size);
        for (int i = 0; i < 3; i++)
            copy[peft__rng_below(&rng, round % 2 != 0 ? 1200 : size)] = (uint8_t)peft__rng_u32(&rng);
        model = NULL;
        if (peft_model_load_memory(ctx, copy, size, NULL, &model) >= 0) peft_model_destroy(model);
    }
    free(copy), free(bytes);
    CHECK_STATUS(ctx, peft_model_load(ctx, data_path("llama-gqa/model.safetensors"), NULL, &model), PEFT_E_FORMAT);
    CHECK_STATUS(ctx, peft_model_load(ctx, data_path("nowhere"), NULL, &model), PEFT_E_IO);
}

/* ---- a changed copy -------------------------------------------------------------------------------------- */

static void check_clone(void) {
    peft_model *model = NULL, *clone = NULL;
    CHECK_OK(ctx, peft_model_load(ctx, data_path("llama-gqa.Q4_1.gguf"), NULL, &model));
    CHECK_OK(ctx, peft__model_clone(ctx, model, &clone));
    static float values[64 * 64], head[288 * 64], back[288 * 64];
    for (int i = 0; i < 64 * 64; i++) values[i] = (float)i;
    for (int i = 0; i < 288 * 64; i++) head[i] = (float)i;
    const char *q = "model.layers.0.self_attn.q_proj.weight";
    CHECK_OK(ctx, peft__model_replace(ctx, clone, q, values));
    CHECK_OK(ctx, peft__model_replace(ctx, clone, "lm_head.weight", head));
    CHECK_STATUS(ctx, peft__model_replace(ctx, clone, "model.norm.bias", head), PEFT_E_MISMATCH);
    peft__model_finish(clone);
    peft_model_info a = {.struct_size = sizeof a}, b = {.struct_size = sizeof b};
    CHECK_OK(ctx, peft_model_get_info(model, &a));
    CHECK_OK(ctx, peft_model_get_info(clone, &b));
    CHECK(a.hash != b.hash && b.parameters == a.parameters + 288 * 64);
    peft_model_destroy(model); /* the clone lives on its own */
    CHECK_OK(ctx, peft__model_read_tensor(ctx, clone, q, back));
    CHECK(memcmp(back, values, sizeof values) == 0);
    CHECK_OK(ctx, peft__model_read_tensor(ctx, clone, "lm_head.weight", back));
    CHECK(memcmp(back, head, sizeof head) == 0);
    CHECK_OK(ctx, peft__model_read_tensor(ctx, clone, "model.embed_tokens.weight", back));
    CHECK(memcmp(back, head, sizeof head) != 0);
    CHECK(strstr(peft_model_config(clone), "\"tie_word_embeddings\": false") != NULL);
    peft_model_destroy(clone);
}

/* ---- memory and order of destruction --------------------------------------------------------------------- */

typedef struct counter {
    long left; /* allocations until one fails; -1 = never */
    long held;
} counter;

static void *counted_alloc(void *user, size_t size, size_t align) {
    counter *c = user;
    if (c->left == 0) return NULL;
    if (c->left > 0) c->left--;
    c->held++;
    return aligned_alloc(align, (size + align - 1) / align * align);
}

static void counted_free(void *user, void *memory, size_t size) {
    (void)size;
    ((counter *)user)->held--;
    free(memory);
}

static void check_no_memory(const char *name, const char *matched, const char *module) {
    counter c = {.left = -1};
    const peft_allocator allocator = {counted_alloc, counted_free, &c};
    peft_context_options options;
    peft_context_options_init(&options);
    options.allocator = &allocator;
    options.threads = 1;
    peft_context *own = NULL;
    CHECK(peft_context_create(&options, &own) == PEFT_OK);
    const long before = c.held;
    long failures = 0;
    for (long at = 0; at < 100000; at++, failures++) {
        peft_model *model = NULL;
        c.left = at;
        const peft_status status = peft_model_load(own, data_path(name), NULL, &model);
        c.left = -1;
        peft_model_destroy(model);
        if (status == PEFT_OK) break;
        if (!CHECK(status == PEFT_E_NOMEM && model == NULL))
            fprintf(stderr, "    allocation %ld: %s\n", at, peft_context_error(own));
        if (!CHECK(c.held == before)) fprintf(stderr, "    allocation %ld: %ld blocks left\n", at, c.held - before);
        if (status != PEFT_E_NOMEM) break;
    }
    CHECK(failures > 30);
    peft_model *model = NULL;
    CHECK_OK(own, peft_model_load(own, data_path(name), NULL, &model));
    peft_context_destroy(own); /* the model lives longer than the context */
    CHECK(strstr(peft_model_load_report(model), matched) != NULL);
    CHECK(peft__model_find(model, module) != NULL);
    peft_model_destroy(model);
    CHECK(c.held == 0);
}

int main(void) {
    const char *data = getenv("PEFT_TEST_DATA");
    if (data == NULL) return 77;
    snprintf(data_folder, sizeof data_folder, "%s", data);
    snprintf(scratch_folder, sizeof scratch_folder, "/tmp/peft-model-load-XXXXXX");
    if (peft_context_create(NULL, &ctx) < 0 || mkdtemp(scratch_folder) == NULL) return 1;
    check_plain();
    check_names();
    check_ties();
    check_new_head();
    check_misfits();
    check_config_lies();
    check_gguf();
    check_clone();
    check_no_memory("llama-gqa", "20 matched", "model.norm");
    check_no_memory("llama-gqa.Q4_1.gguf", "20 matched", "model.norm");
    check_no_memory("encoders/albert", "41 matched", "qa_outputs");
    check_no_memory("encoders/gpt2.gguf", "28 matched", "transformer.ln_f");
    char path[600];
    snprintf(path, sizeof path, "%s/config.json", scratch_folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", scratch_folder);
    unlink(path);
    rmdir(scratch_folder);
    peft_context_destroy(ctx);
    return check_summary();
}
