/* adapter.h: an adapter in memory, and the tools that methods are made of.
 *
 * Every tensor of an adapter is declared once, with its name in memory, its key in the file, how it starts and, when it
 * takes the place of a tensor of the base (modules_to_save, biases, full fine-tuning), which one. All of peft/adapter.h
 * follows from these declarations. Values lie in one block, each tensor aligned to 64 bytes. Trained tensors keep the
 * order of declaration, which is the order of flat parameter and gradient arrays.
 */
#ifndef PEFT_METHOD_ADAPTER_H
#define PEFT_METHOD_ADAPTER_H

#include "method/method.h"

/* How a tensor starts. Random numbers depend on the seed and the tensor's name only. */
typedef enum {
    PEFT__INIT_ZERO = 0,
    PEFT__INIT_CONSTANT, /* every element = init_value */
    PEFT__INIT_UNIFORM,  /* in [-init_value, init_value) */
    PEFT__INIT_NORMAL,   /* deviation init_value */
    PEFT__INIT_BASE,  /* the base tensor it stands for; where that is new: PEFT__INIT_NORMAL, biases zero, norms one */
    PEFT__INIT_METHOD /* method->initialise */
} peft__init;

typedef struct peft__declaration {
    const char *name; /* in memory: as HF PEFT names it without the adapter's name */
    const char *key;  /* in adapter_model.safetensors; NULL = not in the file (folded away, or state that only
                         checkpoints hold) */
    const char *base; /* the base tensor it stands for, "model.norm.weight"; NULL = none */
    uint32_t flags;   /* PEFT__PARAM_* */
    uint32_t ndim;
    int64_t shape[4];
    peft__init init;
    float init_value;
    float lr_scale; /* 0 counts as 1 */
} peft__declaration;

typedef struct peft__slot {
    const char *key, *base;
    peft__init init;
    float init_value;
    bool read; /* the file had it */
} peft__slot;

struct peft_adapter {
    peft_context *ctx;
    atomic_int references; /* holders: the host, sessions, optimizers; 1 after create and load */
    peft_model *model;
    const peft__method *method;
    void *state;       /* the method's own, usually in arena */
    peft__arena arena; /* names and records; freed with the adapter */
    json_t *config;    /* complete */
    peft__param *params;
    peft__slot *slots; /* beside params */
    uint32_t count, capacity;
    bool loading;      /* configure() runs for a folder, not for a new adapter */
    bool per_sequence; /* works when only some sequences of a batch use it (batch.adapter_ids); set by configure() */
    bool singular;     /* graphs hold more of it than its params (a table of its own): it is not exchanged in one */
    bool fixed;        /* declarations are closed: params no longer moves */
    float *block;
    int64_t trained;              /* scalars that are trained */
    peft__table by_name, by_base; /* -> index */
    float scale;
    int32_t top_layers; /* peft_adapter_set_top_layers(); -1 = all and everything */
    uint64_t base_hash; /* of the model it was made for */
    uint64_t layout;    /* counts changes after which a graph built before is stale (scale, resting tensors) */
    char *config_text, *report;
    peft__buffer notes; /* becomes the report */
    uint32_t modules;   /* how many modules the method adapts, for the report */
};

/* ---- declarations (adapter.c) ---- */

/* Returns PEFT_E_LIMIT, PEFT_E_NOMEM, or PEFT_E_MISMATCH for a name declared twice. `out_index` may be NULL. Everything
 * is copied. */
peft_status peft__adapter_declare(peft_adapter *adapter, const peft__declaration *declaration, uint32_t *out_index);
/* Another base tensor that the same param stands for (a tied head in full fine-tuning). */
peft_status peft__adapter_alias(peft_adapter *adapter, const char *base, uint32_t index);
/* Declares the copy of a base tensor "module.weight" or "module.bias": shape, start and no-decay flag follow from the
 * model. */
peft_status peft__adapter_declare_base(peft_adapter *adapter, const peft__module *module, bool bias, const char *name,
                                       const char *key, uint32_t *out_index);
/* Formatted text in adapter->arena; NULL with the error set. */
char *peft__adapter_text(peft_adapter *adapter, const char *format, ...) PEFT_PRINTF(2, 3);
peft_status peft__adapter_note(peft_adapter *adapter, const char *format, ...) PEFT_PRINTF(2, 3);

/* The `trained` hook of every method: the param that stands for a base tensor. NULL for an adapter with scale 0, unless
 * the base itself has no such tensor. */
peft__param *peft__adapter_trained(void *adapter, const char *tensor);
/* Of methods whose tensors all stand for base tensors: no layer is touched and merging has nothing else to change. */
extern const peft__hooks peft__adapter_hooks_base_only;
uint32_t peft__adapter_changes_nothing(const peft_adapter *adapter, const peft__module *module);
/* Name of a module's tensor, in the arena. */
const char *peft__adapter_tensor_name(peft_adapter *adapter, const peft__module *module, bool bias);

/* ---- depth.c ---- */

/* 0: behind the layers or of no module, 1: top layer, ..., layers + 1: before the layers. */
int32_t peft__adapter_depth(const peft_adapter *adapter, uint32_t index);

/* Which of the session's adapters this is: rows of a batch with adapter_ids use their own only. -1: of none. */
static inline int32_t peft__adapter_slot(const peft_adapter *adapter, const peft__build *b) {
    for (uint32_t i = 0; i < b->adapter_count; i++)
        if (b->adapters[i].self == adapter) return (int32_t)i;
    return -1;
}
/* No param stands for a tensor of the base: what is left to say is said by hooks, for some sequences or all. */
bool peft__adapter_spares_base(const peft_adapter *adapter);

/* ---- what the session needs ---- */

/* alike.c: a graph built with one computes the other once the params are exchanged. */
bool peft__adapter_alike(const peft_adapter *a, const peft_adapter *b);

/* Sessions and optimizers hold their adapters, so that a host may destroy things in any order (context.h). */
peft_adapter *peft__adapter_ref(peft_adapter *adapter);
void peft__adapter_unref(peft_adapter *adapter); /* NULL is allowed; peft_adapter_destroy() is this */

static inline peft__hooked peft__adapter_hooked(peft_adapter *adapter) {
    const peft__hooked hooked = {adapter->method->hooks, adapter};
    return hooked;
}
static inline const peft_model *peft__adapter_model(const peft_adapter *adapter) {
    return adapter->model;
}

/* ---- pattern.c: Python's regular expressions as far as PCRE2 has them, with limits on work ---- */

typedef struct peft__pattern peft__pattern;
/* `prefix` is put before the pattern ("" or "(.*\\.)?"); the whole text must match. PEFT_E_FORMAT names `where` and the
 * position. */
peft_status peft__pattern_compile(peft_context *ctx, const char *where, const char *prefix, const char *pattern,
                                  peft__pattern **out_regex);
void peft__pattern_free(peft__pattern *regex);
/* PEFT_E_LIMIT when matching takes too much work. */
peft_status peft__pattern_match(peft_context *ctx, const peft__pattern *regex, const char *text, bool *out_match);

/* ---- targets.c: which modules a method adapts ---- */

#define PEFT__KIND(kind) (1u << (kind))

typedef struct peft__targets {
    const peft__module **modules; /* in the arena, in model order */
    uint32_t count;
} peft__targets;

/* By the keys target_modules, exclude_modules, layers_to_transform, layers_pattern of adapter->config, spared by
 * modules_to_save. `defaults` serves target_modules null. A match of a kind not in `kinds` is PEFT_E_UNSUPPORTED, no
 * match at all PEFT_E_MISMATCH with the closest names. Rewrites target_modules where HF PEFT does (null, "all-linear").
 */
peft_status peft__targets_find(peft_adapter *adapter, uint32_t kinds, const peft__default_targets *defaults,
                               peft__targets *out_targets);
/* Does one of the names in config[key] (a list, or a regular expression) match the module? As target_modules and
 * exclude_modules do. */
peft_status peft__targets_match(peft_adapter *adapter, const char *key, const char *module, bool *out_match);
/* Value of the first pattern in config[key] (rank_pattern, alpha_pattern) that matches, else fallback. */
peft_status peft__targets_pattern(peft_adapter *adapter, const char *key, const char *module, double fallback,
                                  double *out_value);
bool peft__targets_hold(const peft__targets *targets, const peft__module *module);

/* ---- modules_to_save.c ---- */

/* Completes config["modules_to_save"] (heads that the task brings, no duplicates) and declares the trained copies.
 * Called by configure() of every method that has the key, before peft__targets_find. */
peft_status peft__modules_to_save(peft_adapter *adapter);

/* ---- names.c: what a layer was called by other versions of transformers ---- */

/* Key of an adapter file reduced to what all versions share; in `arena`, NULL when out of memory. */
char *peft__canonical_key(const peft_model *model, peft__arena *arena, const char *key);
/* Older name of a module, or NULL when it always had this one. */
char *peft__older_name(const peft_model *model, peft__arena *arena, const char *module);

/* ---- adapter_io.c ---- */

/* What files say of the base an adapter was trained on, in the metadata of safetensors and GGUF files alike. */
#define PEFT__BASE_HASH "libpeft.base_hash"
#define PEFT__BASE_SHAPES "libpeft.base_shapes"
void peft__adapter_base_texts(const peft_adapter *adapter, char hash[24], char shapes[24]);
/* With what a file says (NULL: nothing): a base of other shapes is PEFT_E_MISMATCH even if every tensor of the adapter happens to fit,
 * one of other weights (or of other types, which is for the host to know) a warning in the log. */
peft_status peft__adapter_check_base(const peft_adapter *adapter, const char *where, const char *hash, const char *shapes);

typedef struct peft__export {
    peft_adapter *adapter;
    peft__arena *arena;
    peft__tensor_out *tensors;
    size_t count, capacity;
} peft__export;

/* `data` is borrowed until the file is written. */
peft_status peft__export_add(peft__export *file, const char *key, uint32_t ndim, const int64_t *shape,
                             const float *data);
/* In place of what was added for the adapter's param `index`. */
peft_status peft__export_replace(peft__export *file, uint32_t index, uint32_t ndim, const int64_t *shape,
                                 const float *data);
/* A tensor of the base, widened to float (embedding tables beside their LoRA). */
peft_status peft__export_add_base(peft__export *file, const char *key, const char *base_tensor);

#endif
