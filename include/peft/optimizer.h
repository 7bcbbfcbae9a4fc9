/** \file peft/optimizer.h
 *  Optimizers and learning-rate schedules. The host owns the learning rate: it sets it before a step, schedules are pure functions.
 */
#ifndef PEFT_OPTIMIZER_H
#define PEFT_OPTIMIZER_H

#include "peft/adapter.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct peft_optimizer peft_optimizer;
typedef struct peft_session peft_session;

enum { PEFT_OPTIMIZER_ADAMW = 0, PEFT_OPTIMIZER_SGD = 1, PEFT_OPTIMIZER_ADAFACTOR = 2, PEFT_OPTIMIZER_LION = 3 };

typedef struct peft_optimizer_options {
    uint32_t struct_size;
    int32_t kind;            /**< PEFT_OPTIMIZER_*; default AdamW */
    float lr;                /**< default 2e-4 */
    float beta1, beta2;      /**< averages of the gradient and of its square; default -1 = the kind's own: AdamW 0.9, 0.999; Lion 0.9, 0.99;
                                  SGD: beta1 is the momentum, 0; Adafactor: beta1 0 = no first moment */
    float eps;               /**< default 1e-8, outside the root as in torch */
    float weight_decay;      /**< decoupled as in torch.optim.AdamW; SGD: added to the gradient as in torch.optim.SGD; default 0 */
    float max_grad_norm;     /**< clip by global norm; 0 = off; default 1.0 */
    uint32_t decay_all;      /**< 1: decay biases and norms too (torch's single group); default 0 */
    float adafactor_clip_threshold; /**< default 1.0 */
    float adafactor_decay_rate;     /**< default -0.8 */
    uint32_t adafactor_scale_parameter; /**< default 0 */
    uint32_t nesterov;       /**< SGD; default 0 */
    float loraplus_lr_ratio; /**< learning rate of LoRA's B = lr * this; default 1 */
    float dampening;         /**< SGD; default 0 */
    float layer_lr_decay;    /**< each layer below the head learns at the rate of the one above times this: what lies behind the layers at lr, the
                                  top layer at lr * this, ..., embeddings at lr * this^(layers + 1); above 0 to 1, default 1. Howard and
                                  Ruder 2018, section 3.2 (there 1 / 2.6) */
    uint32_t reserved[3];
} peft_optimizer_options;

PEFT_API void peft_optimizer_options_init_sized(peft_optimizer_options *options, uint32_t size);
#define peft_optimizer_options_init(options) peft_optimizer_options_init_sized((options), (uint32_t)sizeof *(options))

/** State for the trained tensors of one adapter. `options` may be NULL. */
PEFT_API PEFT_NODISCARD peft_status peft_optimizer_create(peft_context *context, peft_adapter *adapter, const peft_optimizer_options *options,
                                                          peft_optimizer **out_optimizer);
PEFT_API void peft_optimizer_destroy(peft_optimizer *optimizer);
PEFT_API void peft_optimizer_set_lr(peft_optimizer *optimizer, float lr);
PEFT_API float peft_optimizer_lr(const peft_optimizer *optimizer);
/** Learning rate of one tensor = lr * scale. `tensor` counts as in peft_adapter_tensor(). Takes the place of what loraplus_lr_ratio,
 *  layer_lr_decay and the method gave it; 0 leaves the tensor as it is but goes on averaging its gradients. Like options it is no part of
 *  checkpoints. PEFT_E_ARG for a negative or infinite scale, a tensor that is not there or is not trained. */
PEFT_API PEFT_NODISCARD peft_status peft_optimizer_set_lr_scale(peft_optimizer *optimizer, uint32_t tensor, float scale);
/** 0 for a tensor that is not trained. */
PEFT_API float peft_optimizer_lr_scale(const peft_optimizer *optimizer, uint32_t tensor);
/** Steps taken so far. */
PEFT_API uint64_t peft_optimizer_steps(const peft_optimizer *optimizer);

typedef struct peft_step_stats {
    uint32_t struct_size;
    uint32_t skipped;      /**< 1: a gradient was not finite, nothing was changed */
    double grad_norm;      /**< global L2 norm of the mean gradient before clipping */
    double clip_factor;    /**< what gradients were multiplied with */
    double loss;           /**< mean loss of what was accumulated */
    double tokens;         /**< counted targets of what was accumulated */
} peft_step_stats;

/** One update of every tensor that has a gradient (peft_adapter_set_top_layers) with the gradients that the session accumulated for this optimizer's adapter, divided by the number of counted targets; then the
 *  accumulation starts anew. Either the whole update is made or none of it. `out_stats` may be NULL.
 *  Errors: PEFT_E_STATE (no complete backward pass), PEFT_E_NONFINITE (a gradient is not finite: nothing was changed, the accumulation is dropped). */
PEFT_API PEFT_NODISCARD peft_status peft_optimizer_step(peft_optimizer *optimizer, peft_session *session, peft_step_stats *out_stats);

enum {
    PEFT_SCHEDULE_CONSTANT = 0,
    PEFT_SCHEDULE_LINEAR = 1,
    PEFT_SCHEDULE_COSINE = 2,
    PEFT_SCHEDULE_POLYNOMIAL = 3,   /**< power 1 by default, end 1e-7, as transformers */
    PEFT_SCHEDULE_INVERSE_SQRT = 4,
    PEFT_SCHEDULE_COSINE_RESTARTS = 5,
    PEFT_SCHEDULE_COSINE_MIN_LR = 6 /**< cosine down to min_lr_rate * peak_lr instead of 0 */
};

typedef struct peft_schedule {
    uint32_t struct_size;
    int32_t kind;
    uint64_t warmup_steps, total_steps;
    double peak_lr;
    double power;       /**< polynomial; default 1 */
    double end_lr;      /**< polynomial; default 1e-7 */
    double num_cycles;  /**< cosine: default 0.5; restarts: default 1 */
    uint64_t timescale; /**< inverse square root: 0 = warmup_steps, or 10000 without warm-up */
    double min_lr_rate; /**< COSINE_MIN_LR: 0 to 1; default 0 */
} peft_schedule;

PEFT_API void peft_schedule_init_sized(peft_schedule *schedule, uint32_t size);
#define peft_schedule_init(schedule) peft_schedule_init_sized((schedule), (uint32_t)sizeof *(schedule))

/** Learning rate of step `step` (0 is the first); the formulas of transformers.get_scheduler. Threads: safe. */
PEFT_API double peft_schedule_lr(const peft_schedule *schedule, uint64_t step);

/** Gradual unfreezing as a function of the step. */
typedef struct peft_unfreezing {
    uint32_t struct_size;
    int32_t first_layers;  /**< top layers trained in the first stage; default 0: the head alone */
    int32_t stage_layers;  /**< more in each later stage; default 1. More than the model has: the second stage trains everything */
    uint32_t reserved;
    uint64_t stage_steps;  /**< optimizer steps of a stage; default 0 = everything from the start */
} peft_unfreezing;

PEFT_API void peft_unfreezing_init_sized(peft_unfreezing *unfreezing, uint32_t size);
#define peft_unfreezing_init(unfreezing) peft_unfreezing_init_sized((unfreezing), (uint32_t)sizeof *(unfreezing))

/** What peft_adapter_set_top_layers() takes before step `step` (0 is the first); -1 = everything. Threads: safe. */
PEFT_API int32_t peft_unfreezing_layers(const peft_unfreezing *unfreezing, uint64_t step);

#ifdef __cplusplus
}
#endif
#endif
