/* lora.h: what LoRA's files share: its layers, and its change of a layer as two factors. */
#ifndef PEFT_METHOD_LORA_H
#define PEFT_METHOD_LORA_H

#include "method/layers.h"

#define PEFT__LORA_NONE UINT32_MAX

typedef struct peft__lora_layer {
    const peft__module *module;
    uint32_t a, b, bias, magnitude; /* params; PEFT__LORA_NONE = none */
    uint32_t a0, b0;                /* PiSSA: the factors at the start, which are taken from the base */
    int64_t rank;
    float scale;        /* s */
    const char *path;   /* "base_model.model.<module>" */
    peft__param *table; /* embedding whose file holds another base table than the model: that table, frozen */
} peft__lora_layer;

typedef enum {
    PEFT__LORA_TRUE,
    PEFT__LORA_GAUSSIAN,
    PEFT__LORA_FALSE,
    PEFT__LORA_ORTHOGONAL,
    PEFT__LORA_PISSA
} peft__lora_init;

typedef struct peft__lora {
    peft__lora_layer *layers;
    uint32_t count;
    uint32_t *by_module; /* module index -> layer + 1 */
    float dropout;
    bool dora, rslora, save_tables, freeze_a, lora_bias;
    double plus_ratio;
    peft__lora_init init;
    int64_t pissa_rounds; /* -1: exact */
} peft__lora;

extern const peft__method peft__method_lora;

static inline bool peft__is_lora(const peft_adapter *adapter) {
    return adapter->method == &peft__method_lora;
}

const peft__lora_layer *peft__lora_layer_of(const peft_adapter *adapter, const peft__module *module);

/* ---- lora_init.c ---- */
peft_status peft__lora_initialise(peft_adapter *adapter, uint64_t seed);

/* ---- lora_merge.c ---- */
/* W of a module as peft__layers_merge has it; the caller frees it. */
peft_status peft__lora_read_weight(const peft_adapter *adapter, const peft__module *module, float **out_weight);
void peft__lora_add_delta(const peft_adapter *adapter, const peft__lora_layer *layer, float factor, float *weight);
float peft__lora_row_length(const peft__module *module, const float *weight, int64_t o);
uint32_t peft__lora_changes(const peft_adapter *adapter, const peft__module *module);
peft_status peft__lora_merge(const peft_adapter *adapter, const peft__module *module, float *weight, float *bias);
/* The change of a layer is s B A; with PiSSA's start taken off it is s [B, -B0] [A; A0], of twice the rank. */
int64_t peft__lora_rank(const peft__lora_layer *layer);
void peft__lora_factors(const peft_adapter *adapter, const peft__lora_layer *layer, float *a, float *b);

/* ---- lora_files.c ---- */
void peft__lora_find_tables(peft_adapter *adapter, peft__lora *l);
peft_status peft__lora_import(peft_adapter *adapter, const peft__tensor *tensor, const char *key);
peft_status peft__lora_export(const peft_adapter *adapter, peft__export *file);
peft_status peft__lora_export_config(const peft_adapter *adapter, json_t *config);
void peft__lora_destroy(peft_adapter *adapter);

/* ---- lora_make.c ---- */
typedef struct peft__lora_part {
    const peft__module *module; /* of the model that the adapter is made for */
    int64_t rank;
    double alpha; /* s = alpha / rank */
} peft__lora_part;

/* A plain LoRA adapter with these layers and zeros in its factors; completed by peft__adapter_finish(). `where` is for
 * error texts; base_name may be NULL. */
peft_status peft__lora_make(peft_context *ctx, peft_model *model, const char *where, const peft__lora_part *parts,
                            uint32_t count, const char *base_name, peft_adapter **out_adapter);
/* Says why an adapter is more than factors of matrices: another method, DoRA, biases, copies of modules. `doing` names
 * what is asked for ("combining", "a GGUF adapter"). */
peft_status peft__lora_check_plain(const peft_adapter *adapter, const char *doing);

#endif
