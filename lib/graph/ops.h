/* ops.h: the operations, as functions that append a node and return its output.
 *
 * Shapes: N is the count of the row space. Optional inputs may be NULL. All return NULL after a failure (graph.h).
 * Each operation is one file in graph/op/ with its forward beside its backward; kernels are in lib/kernel.
 */
#ifndef PEFT_GRAPH_OPS_H
#define PEFT_GRAPH_OPS_H

#include "graph/graph.h"
#include "kernel/matrix.h"

/* A weight matrix [out, in]: stored and frozen (matrix.data set), or a float value [out, in] of the graph that is trained or
 * computed (`value` set; `matrix` then only says rows, cols and transposed: with transposed the value is [in, out]). */
typedef struct peft__weight {
    peft__matrix matrix;
    peft__value *value;
} peft__weight;

/* A vector [n] (bias, norm weight): stored and frozen in any float type, or a value [1, n]; neither set: absent. */
typedef struct peft__vector {
    const peft__tensor *tensor;
    peft__value *value;
} peft__vector;

/* -- linear.c ------------------------------------------------------------------------------------------------
 * y_i = x W_i^T + b_i (+ residual, only for count == 1); x [N, in], y_i [N, out_i]. One node for all matrices that read the
 * same x, so that x is packed once. count <= 4. */
void peft__op_linear_group(peft__graph *g, peft__value *x, const peft__weight *weights, const peft__vector *biases, uint32_t count,
                           peft__value *residual, peft__value **out);
peft__value *peft__op_linear(peft__graph *g, peft__value *x, peft__weight weight, peft__vector bias, peft__value *residual);

/* -- embedding.c: rows of a table [V, d] by token id, position or type; [N, d]. Rows with a negative index are zero. The
 * gradient of row `padding_index` of a trained table is dropped (-1: none). Values are multiplied by `scale`. */
typedef enum { PEFT__LOOKUP_IDS, PEFT__LOOKUP_POSITIONS, PEFT__LOOKUP_TYPES } peft__lookup;
peft__value *peft__op_embedding(peft__graph *g, peft__rows *rows, peft__weight table, peft__lookup by, float scale, int32_t padding_index);

/* -- columns.c: columns of a value [r, V] by token id, position or type, times `scale`; [N, r]. Columns with a negative index are zero; the
 * gradient of column `padding_index` is dropped (-1: none). */
peft__value *peft__op_columns(peft__graph *g, peft__rows *rows, peft__value *matrix, peft__lookup by, float scale, int32_t padding_index);

/* -- features.c: the batch's float rows as a value [N, cols]. */
peft__value *peft__op_features(peft__graph *g, peft__rows *rows, int64_t cols);

/* -- image_rows.c: patch rows x [N, d] of images, in their places: up to two class tokens [1, d] put before each image, and row i of the learned
 * positions [tokens + grid_height * grid_width, d] added. Images with another grid than the trained one (batch.image_grids, else
 * a square) read the positions interpolated as torch's bicubic does. The result is on a row space of its own. */
typedef struct peft__image_config {
    int64_t tokens, grid_height, grid_width;
} peft__image_config;
peft__value *peft__op_image_rows(peft__graph *g, peft__value *x, const peft__weight *tokens, peft__weight positions,
                                 const peft__image_config *config);

/* -- norm.c: RMSNorm or LayerNorm over columns. `weight_offset` is added to the weight (Gemma: 1). cols may be a multiple of the
 * weight's length: then each group of that many columns is normalised by itself (Qwen3's per-head q_norm). */
typedef enum { PEFT__RMS_NORM, PEFT__LAYER_NORM } peft__norm_kind;
peft__value *peft__op_norm(peft__graph *g, peft__norm_kind kind, peft__value *x, peft__vector weight, peft__vector bias, float eps, float weight_offset);

/* -- activation.c */
typedef enum { PEFT__ACT_RELU, PEFT__ACT_GELU /* erf */, PEFT__ACT_GELU_TANH, PEFT__ACT_SILU, PEFT__ACT_TANH, PEFT__ACT_QUICK_GELU, PEFT__ACT_IDENTITY, PEFT__ACT_SIGMOID } peft__activation;
bool peft__activation_parse(const char *hf_name, peft__activation *out); /* "silu", "gelu", "gelu_new", "gelu_pytorch_tanh", ... */
peft__value *peft__op_activation(peft__graph *g, peft__activation kind, peft__value *x);
peft__value *peft__op_gated(peft__graph *g, peft__activation kind, peft__value *gate, peft__value *up); /* act(gate) * up */

/* -- elementwise.c. add: [N,d] + [N,d]; scale: by a constant; add_vector / mul_vector: a value [1, cols] broadcast over rows;
 * soft_cap: c * tanh(x / c). */
peft__value *peft__op_add(peft__graph *g, peft__value *a, peft__value *b);
peft__value *peft__op_scale(peft__graph *g, peft__value *x, float factor);
peft__value *peft__op_add_vector(peft__graph *g, peft__value *x, peft__value *vector);
peft__value *peft__op_mul_vector(peft__graph *g, peft__value *x, peft__value *vector);
/* Only rows of sequences whose adapter_ids entry is this slot (-1: all rows); the others pass through. */
peft__value *peft__op_mul_vector_of(peft__graph *g, peft__value *x, peft__value *vector, int32_t slot);
peft__value *peft__op_soft_cap(peft__graph *g, peft__value *x, float cap);
/* Inverted dropout; the mask is a pure function of (run seed, stream, element). The input itself when p == 0. */
peft__value *peft__op_dropout(peft__graph *g, peft__value *x, float p, uint64_t stream);

/* -- rows.c: out[i] = x[source[i]] for source >= 0, table[~source[i]] otherwise; rows is a space derived from x->rows with
 * `source`. table [P, d] may be NULL when nothing is inserted. x may be NULL when the parent space is fed by the table only. */
peft__value *peft__op_select_rows(peft__graph *g, peft__rows *rows, peft__value *x, peft__value *table);
/* Mean over the rows of each sequence: [B, d] on `rows`, a space with one row per sequence of x->rows (peft__rows_pick). */
peft__value *peft__op_mean_rows(peft__graph *g, peft__rows *rows, peft__value *x);

/* -- rope.c: rotary embedding. angles: [N, 2 * half] cos then sin of position * inv_freq, times attention_factor, one node for a whole
 * model. rope: rotates the first 2*half columns of each head of x, halves split as HF does: (x1 c - x2 s, x2 c + x1 s). */
typedef struct peft__rope_config {
    int64_t half;            /* rotated dimensions / 2 */
    const float *inv_freq;   /* [half], lives as long as the graph */
    float attention_factor;  /* 1 unless yarn or longrope */
    /* dynamic NTK: when the longest position reaches max_positions, theta grows with it; dynamic_factor 0 = off */
    float theta, dynamic_factor;
    int64_t max_positions;
    const float *long_inv_freq; /* longrope: used when the longest position reaches original_max; NULL otherwise */
    int64_t original_max;
} peft__rope_config;
peft__value *peft__op_rope_angles(peft__graph *g, peft__rows *rows, const peft__rope_config *config);
peft__value *peft__op_rope(peft__graph *g, peft__value *x, peft__value *angles, int64_t heads, int64_t head_dim);

/* -- attention.c: softmax(scale q k^T + mask) v for each sequence and head. q [Nq, heads*head_dim], k and v [Nk, kv_heads*head_dim]
 * where Nq and Nk are the same space, or k's space is the encoder's (cross attention: `cross`, decoder_source says which sequence).
 * heads is a multiple of kv_heads; heads h .. h + heads/kv_heads - 1 share a key head. Out [Nq, heads*head_dim]. */
typedef struct peft__kv_cache {  /* generation: keys and values of earlier rows; owned by the session, one per layer */
    float *keys, *values;        /* [sequences][max_rows][kv_heads*head_dim] */
    int64_t max_rows;
    int64_t *used;               /* [sequences] rows filled before this batch; shared by all layers */
} peft__kv_cache;
typedef struct peft__attention_config {
    int64_t heads, kv_heads, head_dim;
    float scale;
    float soft_cap;     /* 0 = none: scores become soft_cap * tanh(score / soft_cap) */
    bool causal;
    bool cross;
    int64_t window;     /* 0 = none: key j is seen from query i iff i - window < j <= i (causal) */
    int64_t bidirectional_window; /* 0 = none: |i - j| <= this */
    const peft__kv_cache *cache;  /* NULL in training. Cross attention with a cache: k and v are NULL and the cache has all of them */
    bool branches;                /* every sequence goes on from what the cache has of its one sequence; nothing is appended. Forward only */
} peft__attention_config;
/* prefix_k/v: [P, kv_heads*head_dim] values put before every sequence's own, at positions -P .. -1 (may be NULL; not rotated; a causal
 * mask never hides them, a window does, as in transformers).
 * bias: [heads, buckets-expanded] relative position bias value [heads, 2*span-1] added to the scaled score at key - query + span - 1
 * (T5; may be NULL). */
peft__value *peft__op_attention(peft__graph *g, peft__value *q, peft__value *k, peft__value *v, peft__value *prefix_k, peft__value *prefix_v,
                                peft__value *bias, const peft__attention_config *config);

/* -- low_rank.c: y + scale * (x A^T) B^T. x [N, in], A [r, in], B [out, r], y [N, out]. `slot`: only rows of sequences whose
 * adapter_ids entry is this slot (-1: all rows). With dropout, pass the dropped x. */
peft__value *peft__op_low_rank(peft__graph *g, peft__value *x, peft__value *y, peft__value *a, peft__value *b, float scale, int32_t slot);

/* -- lstm.c: the recurrence of an LSTM layer over the rows of a fixed space (one sequence): pre [T, 4H] = x W_ih^T + biases with gates in
 * torch's order i, f, g, o; weight = W_hh [4H, H]; h [T, H], or [T, 2H] with the direction from the last row to the first behind it
 * (both NULL: none). */
peft__value *peft__op_lstm(peft__graph *g, peft__value *pre, peft__value *weight, peft__value *reverse_pre, peft__value *reverse_weight);

/* -- column_norm.c (DoRA): norms [1, out]: n_j = || W_j + scale * B_j A ||_2 over the input axis, a constant in the backward pass.
 * rescale: out = b + (m / n) (y - b), with y = x W^T + b + delta; m [1, out] trained; b absent or a bias. */
peft__value *peft__op_weight_norms(peft__graph *g, peft__weight weight, peft__value *a, peft__value *b, float scale);
peft__value *peft__op_rescale(peft__graph *g, peft__value *y, peft__value *magnitude, peft__value *norms, peft__vector bias);

/* -- computed weights: matrices made of a few parameters, for peft__op_linear. What is dropped in training (nothing: all zero): */
typedef struct peft__weight_drop {
    float rows, whole; /* probability of each row of the matrix, and of all of it */
    bool rescale;      /* the rows left grow by rows / kept rows */
    uint64_t stream;
} peft__weight_drop;
/* hadamard.c (LoHa): scale * (a1 b1) o (a2 b2); a [out, r], b [r, in]; gives [out, in]. */
peft__value *peft__op_hadamard(peft__graph *g, peft__value *a1, peft__value *b1, peft__value *a2, peft__value *b2, float scale,
                               const peft__weight_drop *drop);
/* kronecker.c (LoKr): scale * w1 (x) w2; w1 [a, c], w2 [b, d]; gives [a b, c d]. */
peft__value *peft__op_kronecker(peft__graph *g, peft__value *w1, peft__value *w2, float scale, const peft__weight_drop *drop);

/* -- rotation.c (OFT). cayley: rows of `upper` [n, b (b - 1) / 2] are upper triangles of skew-symmetric Q; gives n matrices R as [n b, b]:
 * exact (I - Q)(I + Q)^-1, else I + 2 Q + 2 Q^2 + ... + Q^powers (powers 0: I, 1: I + 2 Q). radius > 0: Q is drawn back to that Frobenius
 * norm first. rotate: each block of columns of x times its R (or the one R there is); `dropout` of the blocks left alone in training. */
peft__value *peft__op_cayley(peft__graph *g, peft__value *upper, int64_t block, bool exact, int64_t powers, float radius);
peft__value *peft__op_rotate(peft__graph *g, peft__value *x, peft__value *matrices, float dropout, uint64_t stream);

/* -- losses. Each returns a stat value [1, 2] = (sum of the loss over counted rows, count) and gives its input the gradient of
 * `sum`. The session divides by the count of everything accumulated. */
/* head_loss.c: fused output layer and cross entropy at rows whose label (rows->labels) is not -100; x [M, d] on a space that carries
 * labels; never forms [M, V] as a whole. soft_cap 0 = none; logit_scale multiplies before the cap. label_smoothing as torch. */
typedef struct peft__head_config {
    float logit_scale, soft_cap, label_smoothing;
} peft__head_config;
peft__value *peft__op_head_loss(peft__graph *g, peft__value *x, peft__weight head, peft__vector bias, const peft__head_config *config);
/* The same a row at a time and no end of the graph: [M, 1], 0 at rows without a label. */
peft__value *peft__op_head_nll(peft__graph *g, peft__value *x, peft__weight head, peft__vector bias, const peft__head_config *config);
/* token_nll.c: the same on logits [M, V] that exist. */
peft__value *peft__op_token_nll(peft__graph *g, peft__value *logits);
/* choice_loss.c: the three losses of T-Few on nll [M, 1] of the labelled rows of several answers an example: a decoder sequence is an answer
 * to the main sequence that decoder_source names, or a main sequence to a question (choice_offsets), and sequence_labels say which of an example's
 * answers is right. Count = examples. */
peft__value *peft__op_choice_loss(peft__graph *g, peft__value *nll);
/* cross_entropy.c: on logits [M, C] that exist; targets: rows->labels of the logits' space, or the batch's sequence_labels when the space has one row
 * per sequence (by_sequence). class_weights [C] may be NULL (then count is the sum of weights). */
typedef struct peft__cross_entropy_config {
    bool by_sequence;
    float label_smoothing;
    const float *class_weights;
} peft__cross_entropy_config;
peft__value *peft__op_cross_entropy(peft__graph *g, peft__value *logits, const peft__cross_entropy_config *config);
/* span_loss.c: where an answer starts and ends: logits [N, 2], one softmax over the rows of each sequence for each column, against the batch's
 * start_positions and end_positions; half of the two losses' sum a sequence. */
peft__value *peft__op_span_loss(peft__graph *g, peft__value *logits);

/* group_loss.c: which answer to each question is right: scores [sequences, 1], one softmax over the answers of each question (choice_offsets), against
 * sequence_labels. */
peft__value *peft__op_group_loss(peft__graph *g, peft__value *scores, float label_smoothing);

/* contrast_loss.c: embeddings [sequences, H] of texts that belong together, in groups (choice_offsets): in-batch negatives, or cosines against
 * sequence_targets. */
peft__value *peft__op_contrast_loss(peft__graph *g, peft__value *embeddings, float scale);
/* regression.c: mean squared error, or binary cross entropy with logits, against the batch's sequence_targets [B, C]; count = B*C. */
typedef enum { PEFT__LOSS_MSE, PEFT__LOSS_BCE } peft__target_loss;
peft__value *peft__op_target_loss(peft__graph *g, peft__value *outputs, peft__target_loss kind);

/* -- relative_bias.c (T5): table [buckets, heads] -> [heads, 2 max_distance + 1], as attention takes it; farther keys have the bias of
 * max_distance. */
peft__value *peft__op_relative_bias(peft__graph *g, peft__weight table, int64_t max_distance, bool bidirectional);
int64_t peft__relative_bucket(int64_t distance, int64_t buckets, int64_t max_distance, bool bidirectional);

#endif
