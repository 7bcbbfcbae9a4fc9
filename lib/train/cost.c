/* cost.c: the FLOP model of Liu et al. 2022.
 *
 * A product of a weight with a token's row is one multiply-add a parameter, and backward is two more such products:
 * one for the gradient of the row, one for that of the weight. That is the whole model. Numbers are doubles, because a
 * training run of a large model passes 2^63.
 */
#include "peft/cost.h"

/* FLOPs of one pass of one token through the parameters that it meets. */
static double pass(int32_t architecture, double parameters) {
    return architecture == PEFT_COST_ENCODER_DECODER ? parameters : 2.0 * parameters;
}

/* Also of NaN. */
static double count(double value) {
    return value > 0.0 ? value : 0.0;
}

double peft_cost_inference(int32_t architecture, double parameters, double tokens) {
    return pass(architecture, count(parameters)) * count(tokens);
}

double peft_cost_training(int32_t architecture, double parameters, double tokens) {
    return 3.0 * peft_cost_inference(architecture, parameters, tokens);
}

double peft_cost_training_frozen(int32_t architecture, double parameters, double trained, double tokens) {
    return (2.0 * pass(architecture, count(parameters)) + pass(architecture, count(trained))) * count(tokens);
}

double peft_cost_icl(int32_t architecture, double parameters, double shots, double shot_tokens, double query_tokens,
                     int32_t cached) {
    const double context = cached != 0 ? 0.0 : count(shots) * count(shot_tokens);
    return peft_cost_inference(architecture, parameters, context + count(query_tokens));
}

double peft_cost_adapter_bytes(double trained, double bytes_each) {
    return count(trained) * count(bytes_each);
}

double peft_cost_icl_bytes(double shots, double shot_tokens) {
    return 4.0 * count(shots) * count(shot_tokens);
}
