/** \file peft/cost.h
 *  What a method costs in floating-point operations, by the model of Liu et al. 2022 ("Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper
 *  than In-Context Learning", section 4.2; after Kaplan et al. 2020): a decoder with N parameters takes 2N FLOPs to read a token and 6N to learn from
 *  it; in an encoder-decoder model a token passes one half of the parameters, so these are N and 3N. It leaves out attention over the context and
 *  counts embeddings as if they were products: good for comparing systems, not for predicting seconds. peft_session_flops() counts what a session does.
 *
 *  Pure functions of numbers: no context, no errors, any thread. Counts that are negative or NaN count as 0. Units: FLOPs (a multiply-add is two), tokens,
 *  bytes.
 */
#ifndef PEFT_COST_H
#define PEFT_COST_H

#include "peft/context.h"

#ifdef __cplusplus
extern "C" {
#endif

/** How many of a model's parameters a token passes. */
enum {
    PEFT_COST_SINGLE_STACK = 0,   /**< all: decoders, and encoders such as BERT and ViT */
    PEFT_COST_ENCODER_DECODER = 1 /**< one half, in the encoder or in the decoder: T5 */
};

/** FLOPs of reading `tokens` with a model of `parameters`: 2N a token, N for encoder-decoder models. */
PEFT_API double peft_cost_inference(int32_t architecture, double parameters, double tokens);

/** FLOPs of training on `tokens` (those of an example, times examples of a batch, times steps): 6N a token, 3N for encoder-decoder models. So Liu
 *  et al. count every method, also those that train few parameters. */
PEFT_API double peft_cost_training(int32_t architecture, double parameters, double tokens);

/** The same without work that a frozen base does not need: forward and the gradients of activations for all `parameters`, gradients of weights only
 *  for the `trained` ones. 4N + 2 * trained a token, half of that for encoder-decoder models; with trained = N it is peft_cost_training(). An upper
 *  bound: the backward pass need not go below the first trained layer. */
PEFT_API double peft_cost_training_frozen(int32_t architecture, double parameters, double trained, double tokens);

/** FLOPs of one example by in-context learning: `shots` examples of `shot_tokens` each are read before the `query_tokens`. With `cached` not 0 the keys and
 *  values of the shots are kept from one example to the next, and only the query is read. */
PEFT_API double peft_cost_icl(int32_t architecture, double parameters, double shots, double shot_tokens, double query_tokens, int32_t cached);

/** Bytes on disk that a task takes: the trained values of an adapter at `bytes_each` (4: float32), or the token ids of the shots at 4 bytes each. */
PEFT_API double peft_cost_adapter_bytes(double trained, double bytes_each);
PEFT_API double peft_cost_icl_bytes(double shots, double shot_tokens);

#ifdef __cplusplus
}
#endif
#endif
