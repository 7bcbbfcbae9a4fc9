/* combine.h: what the files that make one LoRA adapter out of several share. */
#ifndef PEFT_METHOD_COMBINE_H
#define PEFT_METHOD_COMBINE_H

#include "method/lora.h"

/* Which entries of the tensors that are added up take part, and with what sign. */
typedef enum {
    PEFT__KEEP_ALL,
    PEFT__KEEP_LARGEST, /* the share `density` of largest magnitude */
    PEFT__KEEP_RANDOM   /* each with probability `density`, divided by it */
} peft__keep;

/* On what the rule works. */
typedef enum {
    PEFT__COMBINE_CAT,      /* factors one above the other: the sum itself */
    PEFT__COMBINE_CUT,      /* that, cut back to a rank by its singular values */
    PEFT__COMBINE_FACTORS,  /* A and B apart, each weighted with the root */
    PEFT__COMBINE_CHANGES   /* the changes s B A, whose sum is cut to a rank */
} peft__combine_on;

typedef struct peft__combine_rule {
    const char *name;
    peft__combine_on on;
    peft__keep keep;
    bool elect; /* only entries of the elected sign are kept, and their mean taken (TIES) */
} peft__combine_rule;

typedef struct peft__combining {
    peft_context *ctx;
    peft_model *model;
    peft_adapter *const *adapters;
    const float *weights;
    uint32_t count;
    const peft__combine_rule *rule;
    peft_combine_options options;
} peft__combining;

/* The layer of adapter `i` for a module of the model, or NULL. */
const peft__lora_layer *peft__combine_layer(const peft__combining *c, uint32_t i, const peft__module *module);
/* Weight, the adapter's own factor and its scale: what the product B A counts. */
double peft__combine_factor(const peft__combining *c, uint32_t i, const peft__lora_layer *layer);
/* Sum of the ranks that the adapters have at a module. */
int64_t peft__combine_ranks(const peft__combining *c, const peft__module *module);

/* combine_stack.c: PEFT__COMBINE_CAT and _CUT. out_a [rank, in], out_b [out, rank], both zero. */
peft_status peft__combine_stacked(const peft__combining *c, const peft__module *module, int64_t rank, float *out_a,
                                  float *out_b);
/* combine_tasks.c: PEFT__COMBINE_FACTORS and _CHANGES. */
peft_status peft__combine_tasks(const peft__combining *c, const peft__module *module, int64_t rank, float *out_a,
                                float *out_b);

#endif
