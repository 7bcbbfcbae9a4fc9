/* arch_llama.c: Llama and its closest relatives as variants of the decoder. */
#include "model/arch_table.h"
#include "model/decoder_row.h"

static const peft__decoder_variant llama = {.class_prefix = "Llama",
                                            .gguf_arch = "llama",
                                            .flags = PEFT__DECODER_BIAS_KEYS | PEFT__DECODER_GGUF_INTERLEAVED,
                                            .rope_theta = 10000,
                                            .max_positions = 2048,
                                            .hidden_act = "silu"};
PEFT__DECODER_ROW(llama, "llama", "llama");

/* GGUF files of Mistral say llama. */
static const peft__decoder_variant mistral = {.class_prefix = "Mistral",
                                              .gguf_arch = "llama",
                                              .flags = PEFT__DECODER_WINDOW | PEFT__DECODER_GGUF_INTERLEAVED,
                                              .rope_theta = 10000,
                                              .max_positions = 131072,
                                              .num_key_value_heads = 8,
                                              .sliding_window = 4096,
                                              .hidden_act = "silu"};
PEFT__DECODER_ROW(mistral, "mistral", NULL);

static const peft__decoder_variant qwen2 = {.class_prefix = "Qwen2",
                                            .gguf_arch = "qwen2",
                                            .flags = PEFT__DECODER_QKV_BIAS | PEFT__DECODER_WINDOW_LAYERS,
                                            .rope_theta = 10000,
                                            .max_positions = 32768,
                                            .num_key_value_heads = 32,
                                            .sliding_window = 4096,
                                            .hidden_act = "silu"};
PEFT__DECODER_ROW(qwen2, "qwen2", "qwen2");

static const peft__decoder_variant qwen3 = {.class_prefix = "Qwen3",
                                            .gguf_arch = "qwen3",
                                            .flags = PEFT__DECODER_BIAS_KEYS | PEFT__DECODER_QK_NORM |
                                                     PEFT__DECODER_WINDOW_LAYERS,
                                            .rope_theta = 10000,
                                            .max_positions = 32768,
                                            .head_dim = 128,
                                            .num_key_value_heads = 32,
                                            .sliding_window = 4096,
                                            .hidden_act = "silu"};
PEFT__DECODER_ROW(qwen3, "qwen3", "qwen3");

static const peft__decoder_variant smollm3 = {.class_prefix = "SmolLM3",
                                              .gguf_arch = "smollm3",
                                              .flags = PEFT__DECODER_BIAS_KEYS | PEFT__DECODER_WINDOW_LAYERS |
                                                       PEFT__DECODER_SOME_NO_ROPE | PEFT__DECODER_GGUF_INTERLEAVED,
                                              .rope_theta = 2000000,
                                              .max_positions = 32768,
                                              .num_key_value_heads = 4,
                                              .hidden_act = "silu",
                                              .tie_word_embeddings = true};
PEFT__DECODER_ROW(smollm3, "smollm3", "smollm3");
