/* rope.h: rotary position embeddings as config.json describes them. */
#ifndef PEFT_MODEL_ROPE_H
#define PEFT_MODEL_ROPE_H

#include "format/json.h"
#include "graph/ops.h"

typedef struct peft__rope_defaults {
    int64_t head_dim;
    int64_t max_positions;
    double theta;
    double partial_factor; /* share of a head's columns that is rotated */
} peft__rope_defaults;

/* Reads rope_parameters (transformers 5) or rope_scaling and rope_theta (transformers 4); tables go into `arena`. */
peft_status peft__rope_read(peft_context *ctx, const json_t *config, const peft__rope_defaults *defaults,
                            peft__arena *arena, peft__rope_config *out);

#endif
