/* emit.h: one tensor into a file, held to the size it was declared with. */
#ifndef PEFT_FORMAT_EMIT_H
#define PEFT_FORMAT_EMIT_H

#include "format/tensor.h"

/* Copies `data` or calls `emit`; PEFT_E_INTERNAL when emit put more or fewer bytes than the shape has. */
peft_status peft__emit_tensor(peft_context *ctx, const peft__tensor_out *tensor, peft__writer *writer);

#endif
