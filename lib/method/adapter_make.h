/* adapter_make.h: the steps of making an adapter, shared by creating and loading. */
#ifndef PEFT_METHOD_ADAPTER_MAKE_H
#define PEFT_METHOD_ADAPTER_MAKE_H

#include "method/adapter.h"

/* Configured, its tensors declared and laid out, without values. `where` is for error texts. */
peft_status peft__adapter_make(peft_context *ctx, peft_model *model, const char *where, json_t *given, bool loading,
                               peft_adapter **out_adapter);
/* Starting values for every tensor that no file gave. */
peft_status peft__adapter_initialise(peft_adapter *adapter, uint64_t seed);
/* Report and text of the configuration. */
peft_status peft__adapter_finish(peft_adapter *adapter);

#endif
