/* arch_bert.c: BERT and its relatives as variants of the encoder. */
#include "model/arch_table.h"
#include "model/encoder.h"

#define BERT_KEYS                                                                                                      \
    .hidden_key = "hidden_size", .inner_key = "intermediate_size", .layers_key = "num_hidden_layers",                  \
    .heads_key = "num_attention_heads", .act_key = "hidden_act"

#define BERT_PARTS                                                                                                     \
    .layer = "encoder.layer.%d.",                                                                                      \
    .parts = {"attention.self.query",       "attention.self.key", "attention.self.value", "attention.output.dense",    \
              "attention.output.LayerNorm", "intermediate.dense", "output.dense",         "output.LayerNorm"}

/* configure() of a variant and its row; GGUF files are read as BERT only. */
#define ROW(id, type, file_arch, from_file, file_name)                                                                 \
    static peft_status configure_##id(peft_context *ctx, peft_model *model) {                                          \
        return peft__encoder_configure(ctx, model, &id);                                                               \
    }                                                                                                                  \
    ROW_AS(id, id, type, file_arch, from_file, file_name)
#define ROW_AS(name, id, type, file_arch, from_file, file_name)                                                        \
    const peft__arch peft__arch_##name = {.model_type = type,                                                          \
                                          .gguf_arch = file_arch,                                                      \
                                          .base_prefix = PREFIX_##id,                                                  \
                                          .default_task = PEFT_TASK_FEATURE_EXTRACTION,                                \
                                          .config_from_gguf = from_file,                                               \
                                          .configure = configure_##id,                                                 \
                                          .gguf_name = file_name,                                                      \
                                          .build = peft__encoder_build,                                                \
                                          .build_head = peft__encoder_build_head,                                      \
                                          .heads = peft__encoder_heads,                                                \
                                          .lm_transform = peft__encoder_lm_transform}

#define PREFIX_bert "bert."
static const peft__encoder_variant bert = {
    .model_type = "bert",
    .prefix = PREFIX_bert,
    .flags = PEFT__ENCODER_POOLER,
    BERT_KEYS,
    .hidden = 768,
    .inner = 3072,
    .layers = 12,
    .heads = 12,
    .vocab = 30522,
    .positions = 512,
    .types = 2,
    .pad = 0,
    .act = "gelu",
    .norm_eps = 1e-12,
    BERT_PARTS,
    .first = "bert.pooler.dense",
    .first_activation = PEFT__ACT_TANH,
    .choice = "bert.pooler.dense",
    .choice_activation = PEFT__ACT_TANH,
    .classes = "classifier",
    .lm_dense = "cls.predictions.transform.dense",
    .lm_norm = "cls.predictions.transform.LayerNorm",
    .lm_head = "cls.predictions.decoder",
    .lm_bias = "cls.predictions.bias",
};
ROW(bert, "bert", "bert", peft__encoder_config_from_gguf, peft__encoder_gguf_name);

#define PREFIX_roberta "roberta."
static const peft__encoder_variant roberta = {
    .model_type = "roberta",
    .prefix = PREFIX_roberta,
    .flags = PEFT__ENCODER_PAD_POSITIONS,
    BERT_KEYS,
    .hidden = 768,
    .inner = 3072,
    .layers = 12,
    .heads = 12,
    .vocab = 50265,
    .positions = 512,
    .types = 2,
    .pad = 1,
    .act = "gelu",
    .norm_eps = 1e-12,
    BERT_PARTS,
    .first = "classifier.dense",
    .first_activation = PEFT__ACT_TANH,
    .choice = "roberta.pooler.dense",
    .choice_activation = PEFT__ACT_TANH,
    .classes = "classifier.out_proj",
    .lm_dense = "lm_head.dense",
    .lm_norm = "lm_head.layer_norm",
    .lm_head = "lm_head.decoder",
    .lm_bias = "lm_head.bias",
    .lm_act = "gelu",
};
ROW(roberta, "roberta", NULL, NULL, NULL);
/* The same model with other vocabularies. */
ROW_AS(xlm_roberta, roberta, "xlm-roberta", NULL, NULL, NULL);
ROW_AS(camembert, roberta, "camembert", NULL, NULL, NULL);

#define PREFIX_distilbert "distilbert."
static const peft__encoder_variant distilbert = {
    .model_type = "distilbert",
    .prefix = PREFIX_distilbert,
    .flags = PEFT__ENCODER_NO_TYPES,
    .hidden_key = "dim",
    .inner_key = "hidden_dim",
    .layers_key = "n_layers",
    .heads_key = "n_heads",
    .act_key = "activation",
    .hidden = 768,
    .inner = 3072,
    .layers = 6,
    .heads = 12,
    .vocab = 30522,
    .positions = 512,
    .pad = 0,
    .act = "gelu",
    .norm_eps = 1e-12,
    .layer = "transformer.layer.%d.",
    .parts = {"attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm", "ffn.lin1",
              "ffn.lin2", "output_layer_norm"},
    .first = "pre_classifier",
    .first_activation = PEFT__ACT_RELU,
    .choice = "pre_classifier",
    .choice_activation = PEFT__ACT_RELU,
    .classes = "classifier",
    .lm_dense = "vocab_transform",
    .lm_norm = "vocab_layer_norm",
    .lm_head = "vocab_projector",
};
ROW(distilbert, "distilbert", NULL, NULL, NULL);

#define PREFIX_electra "electra."
static const peft__encoder_variant electra = {
    .model_type = "electra",
    .prefix = PREFIX_electra,
    .flags = PEFT__ENCODER_EMBEDDING_SIZE,
    BERT_KEYS,
    .hidden = 256,
    .inner = 1024,
    .layers = 12,
    .heads = 4,
    .vocab = 30522,
    .positions = 512,
    .types = 2,
    .pad = 0,
    .act = "gelu",
    .norm_eps = 1e-12,
    .projection = "embeddings_project",
    BERT_PARTS,
    .first = "classifier.dense",
    .first_activation = PEFT__ACT_GELU,
    .choice = "sequence_summary.summary",
    .choice_activation = PEFT__ACT_GELU,
    .classes = "classifier.out_proj",
    .lm_dense = "generator_predictions.dense",
    .lm_norm = "generator_predictions.LayerNorm",
    .lm_head = "generator_lm_head",
    .lm_act = "gelu",
};
ROW(electra, "electra", NULL, NULL, NULL);

#define PREFIX_albert "albert."
static const peft__encoder_variant albert = {
    .model_type = "albert",
    .prefix = PREFIX_albert,
    .flags =
        PEFT__ENCODER_EMBEDDING_SIZE | PEFT__ENCODER_ALWAYS_PROJECTED | PEFT__ENCODER_SHARED | PEFT__ENCODER_POOLER,
    BERT_KEYS,
    .hidden = 4096,
    .inner = 16384,
    .layers = 12,
    .heads = 64,
    .vocab = 30000,
    .positions = 512,
    .types = 2,
    .pad = 0,
    .act = "gelu_new",
    .norm_eps = 1e-12,
    .projection = "encoder.embedding_hidden_mapping_in",
    .layer = "encoder.albert_layer_groups.%d.albert_layers.0.",
    .parts = {"attention.query", "attention.key", "attention.value", "attention.dense", "attention.LayerNorm", "ffn",
              "ffn_output", "full_layer_layer_norm"},
    .first = "albert.pooler",
    .first_activation = PEFT__ACT_TANH,
    .choice = "albert.pooler",
    .choice_activation = PEFT__ACT_TANH,
    .classes = "classifier",
    .lm_dense = "predictions.dense",
    .lm_norm = "predictions.LayerNorm",
    .lm_head = "predictions.decoder",
    .lm_bias = "predictions.bias",
};
ROW(albert, "albert", NULL, NULL, NULL);
