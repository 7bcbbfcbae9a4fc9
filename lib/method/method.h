/* method.h: what an adaptation method is, to everybody else.
 *
 * A method is one file that fills in one `peft__method` and one row in method.c. It says which configuration keys it
 * knows, declares its tensors, and takes part in building the graph through peft__hooks (model/build.h). Everything
 * that methods have in common is done for them, from those declarations: defaults and refusals of keys, matching of
 * module names, initial values, modules_to_save, reading and writing of adapter folders, parameter access, merging of
 * tensors that stand for base tensors. So a method's own code is its formula.
 *
 * `self` of every hook is the peft_adapter (adapter.h); a method keeps its own records in adapter->state.
 */
#ifndef PEFT_METHOD_METHOD_H
#define PEFT_METHOD_METHOD_H

#include "format/json.h"
#include "format/tensors.h"
#include "model/build.h"
#include "peft/adapter.h"

/* ---- configuration keys ------------------------------------------------------------------------------------ */

typedef enum {
    PEFT__KEY_USED = 0, /* the method reads it */
    PEFT__KEY_INERT,    /* accepted and written back; says nothing about the computation */
    PEFT__KEY_REFUSED, /* means something that is not built: any value but the default is PEFT_E_UNSUPPORTED, by name */
    PEFT__KEY_FOREIGN, /* as REFUSED, but no key of today's files: never written */
    PEFT__KEY_RUNTIME  /* libpeft's own beside HF's keys: read, but not written to a file that HF PEFT reads */
} peft__key_use;

typedef struct peft__config_key {
    const char *name;
    const char *fallback; /* default as JSON text; what the file holds when nobody said otherwise */
    peft__key_use use;
} peft__config_key;

/* Default target_modules by model_type; ends with a row of NULL. `names` ends with NULL. */
typedef struct peft__default_targets {
    const char *model_type;
    const char *names[8];
} peft__default_targets;

/* ---- the method ---------------------------------------------------------------------------------------------- */

enum {
    PEFT__METHOD_SCALABLE = 1u, /* honours adapter->scale */
    PEFT__METHOD_NATIVE = 2u,   /* HF PEFT has no such type: keys and files are those of docs/methods.md */
    PEFT__METHOD_PROMPT = 4u,   /* does not wrap the base: saved modules are "base_model.<path>" on disk */
    PEFT__METHOD_FULL_NAMES = 8u, /* tensors that stand for base tensors keep the model file's names, in memory and on disk */
    PEFT__METHOD_EXCHANGEABLE = 16u /* graphs hold of an adapter its params and numbers of its configuration, nothing else */
};

/* Which tensors of a module merging changes. */
enum { PEFT__CHANGES_WEIGHT = 1u, PEFT__CHANGES_BIAS = 2u };

/* What after_step is told. */
typedef struct peft__step {
    int64_t index;       /* optimizer steps done before this one */
    int64_t total;       /* planned steps, 0 = not known */
    float *const *grads; /* gradient of each param as the optimizer used it, in params order; NULL entries: had none */
} peft__step;

struct peft__export;

typedef struct peft__method {
    const char *peft_type; /* as adapter_config.json spells it */
    uint32_t flags;
    const peft__config_key *keys; /* beside the common ones of config.c; ends with a name of NULL */
    const peft__hooks *hooks;

    /* Reads adapter->config (complete: every known key is there), finds its modules, declares its tensors (adapter.h),
     * and may rewrite config entries to what is saved ("all-linear" as a list). adapter->loading: a file will be read
     * into the tensors. adapter->state is the method's; on failure destroy() is called for what is there. */
    peft_status (*configure)(peft_adapter *adapter);
    /* Values of tensors declared with PEFT__INIT_METHOD, after all others have theirs. Also called after loading for
     * those whose values the file does not hold. NULL: none. */
    peft_status (*initialise)(peft_adapter *adapter, uint64_t seed);
    /* A tensor of the file that no declaration asked for: PEFT_OK = taken, PEFT_END = not known (an error follows), or
     * an error. `key` has the spelling of today's HF PEFT. NULL: none. */
    peft_status (*import)(peft_adapter *adapter, const peft__tensor *tensor, const char *key);
    /* After every tensor is read and before use (derived state). NULL: nothing. */
    peft_status (*loaded)(peft_adapter *adapter);
    /* Adds tensors to the file that are no declared ones (folded prompts, frozen tables): peft__export_add. NULL: none.
     */
    peft_status (*export)(const peft_adapter *adapter, struct peft__export *file);
    /* Last changes to the copy of the configuration that is written. NULL: none. */
    peft_status (*export_config)(const peft_adapter *adapter, json_t *config);

    /* PEFT__CHANGES_* of a module; NULL = cannot be merged. Tensors declared with a `base` are handled without this. */
    uint32_t (*changes)(const peft_adapter *adapter, const peft__module *module);
    /* Applies the adapter, times adapter->scale, to float copies: weight as peft__model_read_tensor gives it (linear
     * [out, in], Conv1D [in, out], embedding [in, out]), bias [out]. Either is NULL when changes() did not ask for it.
     */
    peft_status (*merge)(const peft_adapter *adapter, const peft__module *module, float *weight, float *bias);

    /* A penalty on the parameters alone: returns its value and adds factor * its gradient to grads[i] of param i
     * (grads, or an entry, may be NULL). The session adds it to every training loss. NULL: none. */
    double (*penalty)(const peft_adapter *adapter, float *const *grads, double factor);
    /* Before the optimizer changes the parameters: makes them what the pass computed with. NULL: they are. */
    void (*before_step)(peft_adapter *adapter);
    /* After the optimizer has changed the parameters, before gradients are dropped. NULL: nothing. */
    peft_status (*after_step)(peft_adapter *adapter, const peft__step *step);

    void (*destroy)(
        peft_adapter *adapter); /* frees what hangs on adapter->state and is not in adapter->arena; may be NULL */
} peft__method;

/* Row for a peft_type (ctx->extra_methods first), or NULL with the error text set: it lists the types. */
const peft__method *peft__method_find(peft_context *ctx, const char *peft_type);

/* ---- config.c: the keys ---- */

/* Parses, picks the method, drops unknown keys with a word in the log, refuses what is not built, fills in defaults. */
peft_status peft__config_read(peft_context *ctx, const char *where, json_t *given, const peft__method **out_method,
                              json_t **out_config);
/* Text as save_pretrained writes it (sorted, indented, inference_mode true, runtime keys left out). */
peft_status peft__config_write(peft_context *ctx, const peft_adapter *adapter, peft__buffer *out);
/* Sets a list of strings. */
peft_status peft__config_set_names(peft_context *ctx, json_t *config, const char *key, const char *const *names,
                                   size_t count);

#endif
