/* lora_gguf.c: LoRA adapters as llama.cpp reads them, out and in.
 *
 * A file holds pairs "<base tensor>.lora_a" [r, in] and ".lora_b" [out, r], and one alpha: the reader's scale is
 * alpha / r with the r of the pair. So rsLoRA becomes alpha sqrt(r), and what patterns make of a layer's scale goes
 * into its B. Where GGUF stores the rows of query and key interleaved, the rows of B are as well. GPT-2's pairs are
 * written as they are: GGUF holds its matrices as [out, in]. Of an embedding, A is turned to [vocabulary, r].
 *
 * What the format has no place for (DoRA, biases, copies of modules) is refused. After writing, the file is read back
 * and compared with the adapter.
 */
#include <math.h>

#include "format/gguf.h"
#include "method/adapter_make.h"
#include "method/lora.h"

static const char *const DOING = "a GGUF adapter";

/* Name of a module's weight in GGUF files, in `arena`; NULL result: it has none there. */
static char *file_name(const peft_model *model, peft__arena *arena, const peft__module *module) {
    const peft__arch *arch = peft__model_arch(model);
    char *tensor = peft__arena_strfmt(arena, "%s.weight", module->name);
    return arch->gguf_name != NULL && tensor != NULL ? arch->gguf_name(model, arena, tensor) : NULL;
}

/* Where row r of a module's weight lies in a GGUF file. */
static int64_t file_row(const peft_model *model, const peft__module *module, int64_t r) {
    const int64_t head = peft__model_dims(model)->head_dim;
    if ((module->flags & PEFT__MODULE_INTERLEAVED) == 0 || head < 2) return r;
    const int64_t at = r % head, half = head / 2;
    return r - at + 2 * (at % half) + at / half;
}

static peft_status need_arch(peft_context *ctx, const peft_model *model) {
    const peft__arch *arch = peft__model_arch(model);
    if (arch->gguf_arch != NULL && arch->gguf_name != NULL) return PEFT_OK;
    return peft__fail(ctx, PEFT_E_UNSUPPORTED, "%s: GGUF has no form for models of type %s that is built", DOING,
                      arch->model_type);
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

typedef struct writing {
    const peft_adapter *adapter;
    peft__arena arena;
    peft__tensor_out *tensors;
    size_t count;
    double alpha;
} writing;

/* The alpha of the file: that of the first layer, as the number it was given where it was one. */
static double first_alpha(const peft__lora *l) {
    const peft__lora_layer *layer = &l->layers[0];
    const double alpha = (double)layer->scale * (double)peft__lora_rank(layer), whole = nearbyint(alpha);
    const double found = fabs(alpha - whole) <= 1e-6 * fabs(alpha) ? whole : alpha;
    return found != 0.0 ? found : 1.0; /* 0 would mean a scale of 1 */
}

static peft_status add_pair(writing *w, const peft__lora_layer *layer) {
    const peft_model *model = w->adapter->model;
    peft_context *ctx = w->adapter->ctx;
    const peft__module *module = layer->module;
    const int64_t in = module->in, out = module->out, rank = peft__lora_rank(layer);
    const size_t a_floats = (size_t)(rank * in), b_floats = (size_t)(rank * out);
    char *name = file_name(model, &w->arena, module);
    if (w->arena.failed) return peft__fail_nomem(ctx, 256, DOING);
    if (name == NULL || module->tied_to != NULL)
        return peft__fail(
            ctx, PEFT_E_UNSUPPORTED,
            "%s cannot change %s, which has no matrix of its own in GGUF files; merge the adapter into the "
            "base instead (peft_model_merge, peft_model_save)",
            DOING, module->name);
    float *a = peft__arena_alloc(&w->arena, a_floats * sizeof *a),
          *b = peft__arena_alloc(&w->arena, b_floats * sizeof *b);
    float *a_out = peft__arena_alloc(&w->arena, a_floats * sizeof *a),
          *b_out = peft__arena_alloc(&w->arena, b_floats * sizeof *b);
    char *a_name = peft__arena_strfmt(&w->arena, "%s.lora_a", name),
         *b_name = peft__arena_strfmt(&w->arena, "%s.lora_b", name);
    if (a == NULL || b == NULL || a_out == NULL || b_out == NULL || a_name == NULL || b_name == NULL)
        return peft__fail_nomem(ctx, (a_floats + b_floats) * 2 * sizeof *a, DOING);
    peft__lora_factors(w->adapter, layer, a, b);
    double factor = (double)layer->scale * (double)rank / w->alpha;
    if (fabs(factor - 1.0) < 1e-6) factor = 1.0;
    const bool table = module->kind == PEFT_MODULE_EMBEDDING;
    for (int64_t j = 0; j < rank; j++)
        for (int64_t i = 0; i < in; i++) a_out[table ? i * rank + j : j * in + i] = a[j * in + i];
    for (int64_t o = 0; o < out; o++)
        for (int64_t j = 0; j < rank; j++)
            b_out[file_row(model, module, o) * rank + j] = (float)(factor * (double)b[o * rank + j]);
    w->tensors[w->count++] = (peft__tensor_out){.name = a_name,
                                                .dtype = PEFT_DTYPE_F32,
                                                .ndim = 2,
                                                .shape = {table ? in : rank, table ? rank : in},
                                                .data = a_out};
    w->tensors[w->count++] =
        (peft__tensor_out){.name = b_name, .dtype = PEFT_DTYPE_F32, .ndim = 2, .shape = {out, rank}, .data = b_out};
    return PEFT_OK;
}

static void put_metadata(const writing *w, peft__gguf_metadata *metadata) {
    const peft_adapter *adapter = w->adapter;
    const char *base = json_string_value(json_object_get(adapter->config, "base_model_name_or_path"));
    peft__gguf_put_string(metadata, "general.type", "adapter");
    peft__gguf_put_string(metadata, "general.architecture", peft__model_arch(adapter->model)->gguf_arch);
    peft__gguf_put_string(metadata, "general.name", base != NULL ? base : "adapter");
    peft__gguf_put_u32(metadata, "general.file_type", 0); /* F32 */
    peft__gguf_put_u32(metadata, "general.quantization_version", 2);
    if (base != NULL) {
        peft__gguf_put_u32(metadata, "general.base_model.count", 1);
        peft__gguf_put_string(metadata, "general.base_model.0.name", base);
    }
    peft__gguf_put_string(metadata, "adapter.type", "lora");
    peft__gguf_put_f32(metadata, "adapter.lora.alpha", (float)w->alpha);
    char hash[24], shapes[24];
    peft__adapter_base_texts(adapter, hash, shapes);
    peft__gguf_put_string(metadata, PEFT__BASE_HASH, hash);
    peft__gguf_put_string(metadata, PEFT__BASE_SHAPES, shapes);
}

static peft_status write_file(writing *w, const char *path) {
    const peft_adapter *adapter = w->adapter;
    const peft__lora *l = adapter->state;
    w->alpha = first_alpha(l);
    w->tensors = peft__arena_alloc(&w->arena, 2 * (size_t)l->count * sizeof *w->tensors);
    if (w->tensors == NULL) return peft__fail_nomem(adapter->ctx, 2 * l->count * sizeof *w->tensors, DOING);
    for (uint32_t i = 0; i < l->count; i++) PEFT_TRY(add_pair(w, &l->layers[i]));
    peft__gguf_metadata metadata;
    peft__gguf_metadata_init(&metadata, adapter->ctx->mem);
    put_metadata(w, &metadata);
    const peft_status status = peft__gguf_write(adapter->ctx, path, &metadata, w->tensors, w->count);
    peft__gguf_metadata_free(&metadata);
    return status;
}

/* s B of two layers, and A, must agree up to the rounding of a float. */
static bool same_layer(const peft_adapter *ours, const peft__lora_layer *layer, const peft_adapter *read,
                       const peft__lora_layer *other, float *scratch) {
    const int64_t in = layer->module->in, out = layer->module->out, rank = peft__lora_rank(layer);
    float *a = scratch, *b = a + rank * in;
    if (other->rank != rank || other->module->in != in || other->module->out != out) return false;
    peft__lora_factors(ours, layer, a, b);
    const float *a2 = read->params[other->a].data, *b2 = read->params[other->b].data;
    for (int64_t i = 0; i < rank * in; i++)
        if (a[i] != a2[i]) return false;
    for (int64_t i = 0; i < rank * out; i++) {
        const double x = (double)layer->scale * (double)b[i], y = (double)other->scale * (double)b2[i];
        if (fabs(x - y) > 1e-6 * fmax(fabs(x), fabs(y))) return false;
    }
    return true;
}

static peft_status compare(const peft_adapter *adapter, const peft_adapter *read, const char *path) {
    const peft__lora *l = adapter->state;
    for (uint32_t i = 0; i < l->count; i++) {
        const peft__lora_layer *layer = &l->layers[i], *other = peft__lora_layer_of(read, layer->module);
        const size_t bytes =
            (size_t)(peft__lora_rank(layer) * (layer->module->in + layer->module->out)) * sizeof(float);
        float *scratch = peft__alloc(adapter->ctx->mem, bytes);
        if (scratch == NULL) return peft__fail_nomem(adapter->ctx, bytes, DOING);
        const bool same = other != NULL && same_layer(adapter, layer, read, other, scratch);
        peft__free(adapter->ctx->mem, scratch);
        if (!same)
            return peft__fail(adapter->ctx, PEFT_E_INTERNAL, "%s: %s reads back with other values", path,
                              layer->module->name);
    }
    return PEFT_OK;
}

peft_status peft_adapter_export_gguf(const peft_adapter *adapter, const char *path) {
    if (adapter == NULL) return PEFT_E_ARG;
    peft_context *ctx = adapter->ctx;
    if (path == NULL) return peft__fail(ctx, PEFT_E_ARG, "peft_adapter_export_gguf: no path is given");
    PEFT_TRY(peft__lora_check_plain(adapter, DOING));
    PEFT_TRY(need_arch(ctx, adapter->model));
    writing w = {.adapter = adapter};
    peft__arena_init(&w.arena, ctx->mem);
    peft_status status = write_file(&w, path);
    peft__arena_free(&w.arena);
    peft_adapter *read = NULL;
    if (status >= 0) status = peft_adapter_import_gguf(ctx, adapter->model, path, &read);
    if (status >= 0) status = compare(adapter, read, path);
    peft_adapter_destroy(read);
    return status;
}

/* ---- reading --------------------------------------------------------------------------------------------------- */

typedef struct pair {
    const peft__tensor *a, *b;
    bool table;
} pair;

typedef struct reading {
    peft_context *ctx;
    peft_model *model;
    const char *path;
    peft__gguf *gguf;
    peft__arena arena;
    peft__lora_part *parts;
    pair *pairs;
    uint32_t count;
    double alpha;
    const char *base, *base_hash, *base_shapes;
} reading;

static peft_status read_metadata(reading *r) {
    const char *type = NULL, *kind = NULL, *arch = NULL;
    const char *own = peft__model_arch(r->model)->gguf_arch;
    PEFT_TRY(peft__gguf_need_string(r->gguf, "general.type", &type));
    if (strcmp(type, "adapter") != 0)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: general.type is \"%.40s\", expected \"adapter\"", r->path, type);
    PEFT_TRY(peft__gguf_need_string(r->gguf, "adapter.type", &kind));
    if (strcmp(kind, "lora") != 0)
        return peft__fail(r->ctx, PEFT_E_UNSUPPORTED, "%s: adapter.type \"%.40s\" is not built, only \"lora\"", r->path,
                          kind);
    PEFT_TRY(peft__gguf_need_string(r->gguf, "general.architecture", &arch));
    if (strcmp(arch, own) != 0)
        return peft__fail(r->ctx, PEFT_E_MISMATCH, "%s: the adapter is for architecture \"%.40s\", the model is \"%s\"",
                          r->path, arch, own);
    if (peft__gguf_has(r->gguf, "adapter.alora.invocation_tokens"))
        return peft__fail(
            r->ctx, PEFT_E_UNSUPPORTED,
            "%s: adapter.alora.invocation_tokens switches the adapter on at certain tokens, which is not built",
            r->path);
    PEFT_TRY(peft__gguf_get_string(r->gguf, "general.base_model.0.name", NULL, &r->base));
    PEFT_TRY(peft__gguf_get_string(r->gguf, PEFT__BASE_HASH, NULL, &r->base_hash));
    PEFT_TRY(peft__gguf_get_string(r->gguf, PEFT__BASE_SHAPES, NULL, &r->base_shapes));
    return peft__gguf_need_float(r->gguf, "adapter.lora.alpha", &r->alpha);
}

static peft_status check_pair(const reading *r, const peft__module *module, const pair *p, const char *name) {
    if (p->a == NULL || p->b == NULL)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: %.120s has lora_%s but no lora_%s", r->path, name,
                          p->a != NULL ? "a" : "b", p->a != NULL ? "b" : "a");
    PEFT_TRY(peft__tensor_check_float(r->ctx, p->a));
    PEFT_TRY(peft__tensor_check_float(r->ctx, p->b));
    const int64_t rank = p->b->ndim == 2 ? p->b->shape[1] : 0;
    if (rank < 1 || rank > 65536)
        return peft__fail(r->ctx, PEFT_E_FORMAT, "%s: %.120s.lora_b has a rank of %lld", r->path, name,
                          (long long)rank);
    PEFT_TRY(peft__tensor_check_shape(r->ctx, p->b, 2, (const int64_t[]){module->out, rank}));
    return peft__tensor_check_shape(
        r->ctx, p->a, 2, p->table ? (const int64_t[]){module->in, rank} : (const int64_t[]){rank, module->in});
}

/* Pairs for the model's modules, in the model's order; every tensor of the file must be in one. */
static peft_status find_pairs(reading *r) {
    const peft__tensors *tensors = peft__gguf_tensors(r->gguf);
    const uint32_t modules = peft__model_module_count(r->model);
    peft__table known;
    peft__table_init(&known, r->ctx->mem);
    peft_status status = PEFT_OK;
    for (uint32_t i = 0; status >= 0 && i < modules; i++) {
        const peft__module *module = peft__model_module_at(r->model, i);
        const char *name = module->tied_to == NULL ? file_name(r->model, &r->arena, module) : NULL;
        if (r->arena.failed) {
            status = peft__fail_nomem(r->ctx, 256, DOING);
            break;
        }
        if (name == NULL || (module->kind != PEFT_MODULE_LINEAR && module->kind != PEFT_MODULE_CONV1D &&
                             module->kind != PEFT_MODULE_EMBEDDING))
            continue;
        const char *a = peft__arena_strfmt(&r->arena, "%s.lora_a", name),
                   *b = peft__arena_strfmt(&r->arena, "%s.lora_b", name);
        if (a == NULL || b == NULL) {
            status = peft__fail_nomem(r->ctx, 256, DOING);
            break;
        }
        const pair p = {peft__tensors_find(tensors, a), peft__tensors_find(tensors, b),
                        module->kind == PEFT_MODULE_EMBEDDING};
        if (p.a == NULL && p.b == NULL) continue;
        status = check_pair(r, module, &p, name);
        if (status >= 0 && (!peft__table_put(&known, a, strlen(a), 1) || !peft__table_put(&known, b, strlen(b), 1)))
            status = peft__fail_nomem(r->ctx, 256, DOING);
        if (status < 0) break;
        const double alpha = r->alpha != 0.0 ? r->alpha : (double)p.b->shape[1];
        r->parts[r->count] = (peft__lora_part){module, p.b->shape[1], alpha};
        r->pairs[r->count++] = p;
    }
    for (size_t i = 0; status >= 0 && i < peft__tensors_count(tensors); i++) {
        const char *name = peft__tensors_at(tensors, i)->name;
        uint64_t found = 0;
        if (!peft__table_get(&known, name, strlen(name), &found))
            status = peft__fail(r->ctx, PEFT_E_MISMATCH, "%s: %.160s belongs to no matrix of the model", r->path, name);
    }
    peft__table_free(&known);
    return status;
}

static peft_status check_finite(const reading *r, const char *name, const float *values, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return peft__fail(r->ctx, PEFT_E_NONFINITE, "%s: %.160s: element %lld is not finite", r->path, name,
                              (long long)i);
    return PEFT_OK;
}

static peft_status read_pair(const reading *r, peft_adapter *adapter, uint32_t index, float *scratch) {
    const pair *p = &r->pairs[index];
    const peft__module *module = r->parts[index].module;
    const peft__lora_layer *layer = peft__lora_layer_of(adapter, module);
    const int64_t rank = layer->rank, in = module->in, out = module->out;
    float *a = adapter->params[layer->a].data, *b = adapter->params[layer->b].data;
    PEFT_TRY(peft__tensor_read_f32(r->ctx, p->a, scratch));
    PEFT_TRY(check_finite(r, p->a->name, scratch, rank * in));
    for (int64_t j = 0; j < rank; j++)
        for (int64_t i = 0; i < in; i++) a[j * in + i] = scratch[p->table ? i * rank + j : j * in + i];
    PEFT_TRY(peft__tensor_read_f32(r->ctx, p->b, scratch));
    PEFT_TRY(check_finite(r, p->b->name, scratch, rank * out));
    for (int64_t o = 0; o < out; o++)
        memcpy(b + o * rank, scratch + file_row(r->model, module, o) * rank, (size_t)rank * sizeof *b);
    return PEFT_OK;
}

static peft_status read_values(const reading *r, peft_adapter *adapter) {
    peft_status status = PEFT_OK;
    for (uint32_t i = 0; status >= 0 && i < r->count; i++) {
        const size_t bytes =
            (size_t)(r->parts[i].rank * peft__max_i64(r->parts[i].module->in, r->parts[i].module->out)) * sizeof(float);
        float *scratch = peft__alloc(r->ctx->mem, bytes);
        status = scratch != NULL ? read_pair(r, adapter, i, scratch) : peft__fail_nomem(r->ctx, bytes, DOING);
        peft__free(r->ctx->mem, scratch);
    }
    return status >= 0 ? peft__adapter_finish(adapter) : status;
}

static peft_status read_file(reading *r, peft_adapter **out_adapter) {
    const size_t modules = (size_t)peft__model_module_count(r->model) + 1;
    r->parts = peft__arena_alloc(&r->arena, modules * sizeof *r->parts);
    r->pairs = peft__arena_alloc(&r->arena, modules * sizeof *r->pairs);
    if (r->parts == NULL || r->pairs == NULL) return peft__fail_nomem(r->ctx, modules * sizeof *r->parts, DOING);
    PEFT_TRY(read_metadata(r));
    PEFT_TRY(find_pairs(r));
    peft_adapter *adapter = NULL;
    PEFT_TRY(peft__lora_make(r->ctx, r->model, r->path, r->parts, r->count, r->base, &adapter));
    peft_status status = peft__adapter_check_base(adapter, r->path, r->base_hash, r->base_shapes);
    if (status >= 0) status = read_values(r, adapter);
    if (status < 0)
        peft_adapter_destroy(adapter);
    else
        *out_adapter = adapter;
    return status;
}

peft_status peft_adapter_import_gguf(peft_context *ctx, peft_model *model, const char *path,
                                     peft_adapter **out_adapter) {
    if (ctx == NULL) return PEFT_E_ARG;
    if (model == NULL || path == NULL || out_adapter == NULL)
        return peft__fail(ctx, PEFT_E_ARG, "peft_adapter_import_gguf: an argument is NULL");
    PEFT_TRY(need_arch(ctx, model));
    reading r = {.ctx = ctx, .model = model, .path = path};
    PEFT_TRY(peft__gguf_open(ctx, path, &r.gguf));
    peft__arena_init(&r.arena, ctx->mem);
    const peft_status status = read_file(&r, out_adapter);
    peft__arena_free(&r.arena);
    peft__gguf_free(r.gguf);
    return status;
}
