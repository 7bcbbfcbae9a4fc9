/* computed.h: what operations that compute a whole weight matrix from a few parameters have in common.
 *
 * The two dropouts of the LyCORIS methods act on the computed matrix: each of its rows is left out with one
 * probability, all of it with another. Both are folded into one factor a row, which is a pure function of the pass's
 * seed, so that recomputing the matrix for the backward pass gives the same one.
 */
#ifndef PEFT_GRAPH_OP_COMPUTED_H
#define PEFT_GRAPH_OP_COMPUTED_H

#include "graph/ops.h"

/* factors[o] = scale, or 0 where the row is left out; with drop->rescale the others grow by rows / kept rows. */
void peft__row_factors(const peft__weight_drop *drop, float scale, int64_t rows, const peft__run *run, float *factors);

#endif
