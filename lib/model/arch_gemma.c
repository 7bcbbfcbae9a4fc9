/* arch_gemma.c: Gemma and Gemma 2: norms of 1 + weight, scaled embeddings; Gemma 2 norms each sub-layer's output too,
 * caps attention scores and logits, and slides in every other layer. */
#include "model/arch_table.h"
#include "model/decoder_row.h"

static const peft__decoder_variant gemma = {.class_prefix = "Gemma",
                                            .gguf_arch = "gemma",
                                            .flags = PEFT__DECODER_NORM_OFFSET | PEFT__DECODER_EMBED_SCALE,
                                            .rope_theta = 10000,
                                            .max_positions = 8192,
                                            .head_dim = 256,
                                            .num_key_value_heads = 16,
                                            .hidden_act = "gelu_pytorch_tanh",
                                            .tie_word_embeddings = true};
PEFT__DECODER_ROW(gemma, "gemma", "gemma");

static const peft__decoder_variant gemma2 = {.class_prefix = "Gemma2",
                                             .gguf_arch = "gemma2",
                                             .flags = PEFT__DECODER_NORM_OFFSET | PEFT__DECODER_EMBED_SCALE |
                                                      PEFT__DECODER_POST_NORMS,
                                             .rope_theta = 10000,
                                             .max_positions = 8192,
                                             .head_dim = 256,
                                             .num_key_value_heads = 4,
                                             .sliding_window = 4096,
                                             .hidden_act = "gelu_pytorch_tanh",
                                             .tie_word_embeddings = true};
PEFT__DECODER_ROW(gemma2, "gemma2", "gemma2");
