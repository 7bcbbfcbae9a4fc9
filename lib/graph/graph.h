/* graph.h: what one training step computes, as data.
 *
 * A session builds one graph for its model, adapters and loss (lib/model's builders append nodes), then plans it and
 * runs it for every batch. Five ideas carry everything:
 *
 *   Row spaces.  A batch is N token rows and B+1 offsets. A value is [count of a row space, cols] floats; how many rows
 *                there are is known when a batch is bound, not when the graph is built. Derived spaces (rows with labels,
 *                rows with a soft prompt put in) say for each row which row of the parent it comes from.
 *   Nodes.       An operation with inputs and outputs. Forward and backward of an operation are in one file (graph/op/).
 *   Backward.    peft__graph_plan() marks what needs a gradient, stops below the lowest trained thing, and lists the
 *                steps: forward nodes, recomputed cheap nodes, backward nodes.
 *   Arena.       Lifetimes over that list give every buffer its place in one block; the bytes are known before any are
 *                taken. Nothing is allocated while running.
 *   Tiles.       A step is phases of independent tiles, cut by shapes only. Executing is a program counter over
 *                (step, phase, tile): slicing, cancelling and determinism come from that.
 *
 * Building never returns half a graph: after the first failure every call returns NULL, and peft__graph_plan() returns the
 * status. So builders need no checks in between.
 */
#ifndef PEFT_GRAPH_GRAPH_H
#define PEFT_GRAPH_GRAPH_H

#include "base/base.h"
#include "peft/batch.h"

typedef struct peft__graph peft__graph;
typedef struct peft__rows peft__rows;
typedef struct peft__value peft__value;
typedef struct peft__node peft__node;
typedef struct peft__op peft__op;

/* ---- trainable tensors -------------------------------------------------------------------------------- */

enum {
    PEFT__PARAM_NO_DECAY = 1u,  /* bias or norm: not decayed when the optimizer spares those */
    PEFT__PARAM_FROZEN = 2u,    /* belongs to the adapter and its file, but is not trained (LoRA-FA's A, VeRA's A and B) */
    PEFT__PARAM_RESTING = 4u,   /* is not trained for now (gradual unfreezing) */
};

/* Owned by an adapter. As a graph value it is [shape[0], product of the rest], or [1, n] for a vector. */
typedef struct peft__param {
    const char *name;    /* in memory, as HF PEFT names it without the adapter's name; see tests/conformance */
    uint32_t ndim;
    uint32_t flags;
    int64_t shape[4];
    int64_t elements;
    float *data;
    float lr_scale;      /* learning rate of this tensor = lr * lr_scale (LoRA+); 1 otherwise */
} peft__param;

/* ---- row spaces ----------------------------------------------------------------------------------------- */

/* What a graph is planned for; a batch beyond it needs a new plan. */
typedef struct peft__capacity {
    int64_t rows, sequences;                 /* main stream: token (or patch, or feature) rows */
    int64_t decoder_rows, decoder_sequences; /* second stream, 0 without one */
    int64_t labels;                          /* rows with labels, at most rows (or decoder_rows) */
} peft__capacity;

struct peft__rows {
    const char *name;
    peft__rows *parent;
    void *attr;       /* for the two functions below; lives as long as the graph */
    /* Most rows and sequences for a capacity. */
    void (*measure)(const peft__rows *rows, const peft__capacity *capacity, int64_t *out_rows, int64_t *out_sequences);
    /* Fills the bound fields from the batch and the (already bound) parent. */
    peft_status (*bind)(peft__rows *rows, peft_context *ctx, const peft_batch *batch);
    bool carries_source;   /* bind fills `source` */
    bool fixed;            /* of parameters: count is known from the start, no arrays */
    int32_t first_position; /* where positions begin in a sequence: 0, RoBERTa pad_token_id + 1; derived spaces inherit it */

    int64_t max_rows, max_sequences;

    /* Bound to the present batch. Arrays have room for max_rows; NULL in fixed spaces. */
    int64_t count;
    int64_t sequences;
    int32_t *offsets;   /* [sequences + 1] */
    int32_t *positions; /* [count] position ids as rotary and absolute embeddings use them */
    int32_t *ids;       /* [count] token ids, or -1 where a row is no token */
    int32_t *types;     /* [count] token types */
    int32_t *labels;    /* [count] what this row is to predict, -100 = nothing; already shifted for causal models */
    int32_t *source;    /* [count] row of the parent, or ~row of the inserted table; only with carries_source */
};

/* A space of always `count` rows, one sequence: parameters and what is computed from parameters alone. */
peft__rows *peft__rows_fixed(peft__graph *graph, int64_t count);
/* The batch's main stream. `shift_labels`: labels[t] becomes the batch's labels[t+1] inside a sequence (causal models). */
peft__rows *peft__rows_stream(peft__graph *graph, bool shift_labels);
/* The batch's second stream (decoder). Labels are taken as they are: position t predicts decoder_labels[t]. */
peft__rows *peft__rows_decoder(peft__graph *graph);
/* Is the space derived from the second stream? */
bool peft__rows_in_decoder(const peft__rows *rows);
/* Rows of parent whose label is not -100. */
peft__rows *peft__rows_labelled(peft__graph *graph, peft__rows *parent);
/* One row per sequence of parent: its first (which = 0) or last (-1) row, or counted from the first (which > 0). */
peft__rows *peft__rows_pick(peft__graph *graph, peft__rows *parent, int64_t which);
/* `count` inserted rows at the front of each sequence, after its first `skip` rows (1: after a class token). Labels of
 * inserted rows are -100; a causal label that the last inserted row would predict (the first token's) is put there when the
 * parent was made with shift_labels. Positions of inserted rows are first_position + skip.., those of later parent rows move up by
 * count. */
peft__rows *peft__rows_insert(peft__graph *graph, peft__rows *parent, int64_t skip, int64_t count);
/* Same rows as parent, `count` rows of each sequence from row `skip` on replaced by inserted ones (VPT deep). */
peft__rows *peft__rows_replace(peft__graph *graph, peft__rows *parent, int64_t skip, int64_t count);
/* Rows of parent without `count` rows of each sequence from row `skip` on: undoes peft__rows_insert. */
peft__rows *peft__rows_drop(peft__graph *graph, peft__rows *parent, int64_t skip, int64_t count);
/* A space of the caller's own kind. */
peft__rows *peft__rows_new(peft__graph *graph, const char *name, peft__rows *parent, void *attr,
                           void (*measure)(const peft__rows *, const peft__capacity *, int64_t *, int64_t *),
                           peft_status (*bind)(peft__rows *, peft_context *, const peft_batch *), bool carries_source);

/* ---- values ----------------------------------------------------------------------------------------------- */

enum {
    PEFT__VALUE_STAT = 1u,   /* no gradient ever; small; kept, not recomputed */
    PEFT__VALUE_OUTPUT = 2u, /* kept to the end of the program for the host */
    PEFT__VALUE_INPUT = 4u   /* written before the program runs */
};

struct peft__value {
    const char *name;
    peft__rows *rows;
    int64_t cols;
    int64_t ld;          /* floats from one row to the next */
    peft__value *base;   /* a column view of this value, or NULL */
    int64_t column;      /* first column of the view */
    peft__node *producer;
    peft__param *param;  /* leaf that is trained, or NULL */
    uint32_t flags;
    bool needs_grad;
    float *data;         /* [rows->count, cols], valid inside its lifetime */
    float *grad;         /* same layout; NULL when it has none */
    struct peft__storage *storage, *grad_storage; /* planner's own */
    uint32_t index;
};

peft__value *peft__value_new(peft__graph *graph, peft__rows *rows, int64_t cols, const char *name);
/* Columns [column, column + cols) of value: same rows, same storage, gradients go to the same place. */
peft__value *peft__value_columns(peft__graph *graph, peft__value *value, int64_t column, int64_t cols);
/* Leaf for a trainable tensor; the same value for the same param. */
peft__value *peft__value_param(peft__graph *graph, peft__param *param);
/* The same as a row [1, elements], or as `rows` rows, whatever its shape (a tensor is used in one of the three forms only). */
peft__value *peft__value_param_vector(peft__graph *graph, peft__param *param);
peft__value *peft__value_param_rows(peft__graph *graph, peft__param *param, int64_t rows);
/* Keeps the value to the end, so that the host may read it. */
void peft__value_output(peft__graph *graph, peft__value *value);

/* ---- operations -------------------------------------------------------------------------------------------- */

typedef enum { PEFT__FORWARD = 0, PEFT__BACKWARD = 1 } peft__pass;

/* What a tile may use besides its node. */
typedef struct peft__run {
    peft__graph *graph;
    const peft_batch *batch;
    uint32_t cpu;    /* PEFT_CPU_*: which kernels */
    bool training;   /* dropout is on */
    uint64_t seed;   /* of this forward pass, for dropout */
    void *temp;      /* shared scratch of this node in this pass: temp_bytes() */
    void *lane;      /* scratch of this tile alone: lane_bytes() */
} peft__run;

struct peft__op {
    const char *name;
    /* Forward may be run a second time before the backward pass instead of keeping its (non-stat) outputs. Only for work
     * that is linear in the size of its inputs and needs nothing that is not kept. */
    bool cheap;
    bool is_loss;          /* starts the backward pass: its inputs' gradients need no gradient of its outputs */
    int8_t in_place;       /* out[0] may take the storage of in[in_place] when that is read by nobody later; -1 = never */
    uint32_t alias_grad;   /* bit i: the gradient of in[i] is the gradient of out[0], unchanged */
    /* Bit i: backward reads the data of in[i] / out[i]. NULL: nothing. */
    void (*reads)(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask);
    /* Phases run one after another, the tiles of a phase in any order and at the same time. Depends on shapes only. NULL phases: 1. */
    uint32_t (*phases)(const peft__node *node, peft__pass pass);
    uint32_t (*tiles)(const peft__node *node, peft__pass pass, uint32_t phase);
    void (*tile)(const peft__node *node, peft__pass pass, uint32_t phase, uint32_t tile, const peft__run *run);
    /* Scratch in bytes at max_rows; NULL: none. */
    size_t (*temp_bytes)(const peft__node *node, peft__pass pass);
    size_t (*lane_bytes)(const peft__node *node, peft__pass pass);
    /* Multiply-adds of the matrix products of a pass over the bound rows; NULL: none worth counting. */
    double (*products)(const peft__node *node, peft__pass pass, const peft_batch *batch);
};

enum { PEFT__NODE_IN = 12, PEFT__NODE_OUT = 6 };

/* Backward of a node: for every input i with in[i]->needs_grad and bit i of neither alias_grad, add to in[i]->grad when bit i
 * of `accumulate` is set, else overwrite all of it. out[j]->grad is NULL when nothing flows back through that output. */
struct peft__node {
    const peft__op *op;
    void *attr;
    peft__value *in[PEFT__NODE_IN];
    peft__value *out[PEFT__NODE_OUT];
    uint32_t in_count, out_count;
    uint32_t accumulate;
    uint32_t index;
};

/* Appends a node; `attr` is `attr_size` cleared bytes copied from `attr` (may be NULL). in[] may hold NULL for absent optional
 * inputs. Outputs are made by the caller with peft__value_new before. Returns NULL after a failure. */
peft__node *peft__node_add(peft__graph *graph, const peft__op *op, peft__value *const *in, uint32_t in_count,
                           peft__value *const *out, uint32_t out_count, const void *attr, size_t attr_size);

static inline bool peft__accumulates(const peft__node *node, uint32_t input) { return (node->accumulate >> input) & 1u; }

/* ---- the graph ------------------------------------------------------------------------------------------------ */

peft_status peft__graph_create(peft_context *ctx, const peft__capacity *capacity, peft__graph **out_graph);
void peft__graph_destroy(peft__graph *graph);
peft_context *peft__graph_context(const peft__graph *graph);
peft__arena *peft__graph_arena(peft__graph *graph); /* for attr that must live as long as the graph */
/* Records a failure while building (error text already set); returns NULL for `return peft__graph_fail(...)`. */
void *peft__graph_fail(peft__graph *graph, peft_status status);
bool peft__graph_failed(const peft__graph *graph);
peft_status peft__graph_status(const peft__graph *graph); /* the first failure, or PEFT_OK */

/* What planning found, all in bytes except the counts. */
typedef struct peft__plan_info {
    size_t arena;       /* activations, gradients of activations, scratch */
    size_t lower_bound; /* most bytes alive at one step: no plan is smaller */
    size_t gradients;   /* of parameters */
    size_t index;       /* row-space arrays */
    uint32_t forward_steps, steps, recomputed, values;
} peft__plan_info;

/* Differentiates when `backward` is set (there must be a loss or a value with peft__graph_seed_grad) and lays out memory.
 * Takes no large memory yet. */
peft_status peft__graph_plan(peft__graph *graph, bool backward);
const peft__plan_info *peft__graph_plan_info(const peft__graph *graph);
/* Takes the memory that the plan says. */
peft_status peft__graph_allocate(peft__graph *graph);

/* Marks an output whose gradient the host writes before the backward part runs (a loss of the host's own). */
void peft__graph_seed_grad(peft__graph *graph, peft__value *value);

/* Binds a batch: all row spaces in order. PEFT_E_LIMIT when it is larger than the capacity (nothing is changed then). */
peft_status peft__graph_bind(peft__graph *graph, const peft_batch *batch);

/* The program counter. Steps [0, forward_steps) are the forward part. */
typedef struct peft__cursor {
    uint32_t step, phase, tile;
} peft__cursor;

typedef struct peft__run_options {
    uint64_t seed;
    bool training;
    uint64_t deadline_us;        /* on peft__clock_us(); UINT64_MAX = none: run to `until` */
    const atomic_bool *cancel;   /* checked between slices; NULL = never */
    uint64_t *max_slice_us;      /* longest piece of work between two looks at the clock; NULL = not wanted */
    double *products;            /* multiply-adds of finished steps are added here; NULL = not wanted */
} peft__run_options;

/* Runs from *cursor until step `until` or the deadline: PEFT_OK, PEFT_AGAIN (cursor says where it stands; at least one slice was
 * done) or PEFT_E_CANCELLED. */
peft_status peft__graph_run(peft__graph *graph, peft__cursor *cursor, uint32_t until, const peft__run_options *options);

void peft__graph_zero_grad(peft__graph *graph);
/* Params that the graph trains, in order of first use, and their gradients (unnormalised sums). */
uint32_t peft__graph_param_count(const peft__graph *graph);
peft__param *peft__graph_param(const peft__graph *graph, uint32_t index, float **out_grad);
/* Puts a param of the same shape and flags in the place of one: the graph reads and trains that from now on. */
void peft__graph_exchange_param(peft__graph *graph, uint32_t index, peft__param *param);
/* One line a step, for tests and curiosity. */
bool peft__graph_describe(const peft__graph *graph, peft__buffer *out);

#endif
