/* arch_phi3.c: Phi-3: query, key and value in one matrix, gate and up in another. */
#include "model/arch_table.h"
#include "model/decoder_row.h"

static const peft__decoder_variant phi3 = {.class_prefix = "Phi3",
                                           .gguf_arch = "phi3",
                                           .flags = PEFT__DECODER_WINDOW | PEFT__DECODER_FUSED,
                                           .rope_theta = 10000,
                                           .max_positions = 4096,
                                           .hidden_act = "silu"};
PEFT__DECODER_ROW(phi3, "phi3", "phi3");
