/* torch_random.h: PyTorch's uniform numbers on a CPU, to the bit.
 *
 * VeRA files may leave out the shared projections and say only the seed that torch.Generator made them from; without
 * the same numbers such a file means nothing. Nothing else in the library draws from this generator.
 */
#ifndef PEFT_METHOD_TORCH_RANDOM_H
#define PEFT_METHOD_TORCH_RANDOM_H

#include "base/base.h"

enum { PEFT__TORCH_STATE = 624 };

typedef struct peft__torch_random {
    uint32_t state[PEFT__TORCH_STATE];
    uint32_t at;
} peft__torch_random;

/* torch.Generator("cpu").manual_seed(seed) */
void peft__torch_seed(peft__torch_random *random, uint64_t seed);
/* tensor.uniform_(from, to, generator=...) on contiguous floats. */
void peft__torch_uniform(peft__torch_random *random, float from, float to, float *out, int64_t count);

#endif
