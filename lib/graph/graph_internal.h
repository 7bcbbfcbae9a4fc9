/* graph_internal.h: the fields behind graph.h, shared by build (graph.c), spaces (rows.c), plan (plan.c, layout.c) and
 * execution (run.c). */
#ifndef PEFT_GRAPH_GRAPH_INTERNAL_H
#define PEFT_GRAPH_GRAPH_INTERNAL_H

#include "graph/graph.h"

enum { PEFT__ALIGNMENT = 64 };

/* One place in the arena with one lifetime. Values that may share memory share a storage. */
typedef struct peft__storage {
    size_t bytes;
    size_t offset;        /* in the arena, after layout */
    uint32_t first, last; /* steps, both inclusive */
    bool used;            /* first and last are set */
} peft__storage;

typedef enum {
    PEFT__STEP_FORWARD,
    PEFT__STEP_RECOMPUTE, /* forward once more, into the storage that the backward part reads */
    PEFT__STEP_BACKWARD,
    PEFT__STEP_ZERO_GRAD, /* value->grad = 0: several column views will add to it */
    PEFT__STEP_COPY_GRAD, /* value->grad = other: leaves a storage that others still read */
    PEFT__STEP_ADD_GRAD   /* value->grad += other->grad */
} peft__step_kind;

typedef struct peft__step {
    peft__step_kind kind;
    peft__node *node;      /* FORWARD, RECOMPUTE, BACKWARD */
    peft__value *value;    /* the others: whose gradient is written */
    peft__value *other;    /* ADD_GRAD: source */
    peft__storage *from;   /* COPY_GRAD: source storage */
    peft__storage *to;     /* COPY_GRAD, ZERO_GRAD: the value's storage from here on */
    bool overwrite;        /* ADD_GRAD: the first contribution: = instead of += */
    peft__storage *temp;   /* shared scratch, or NULL */
} peft__step;

/* Planner's view of a value; parallel to graph->values. */
typedef struct peft__value_plan {
    peft__storage *data;       /* forward part */
    peft__storage *again;      /* where RECOMPUTE puts it; NULL when kept */
    peft__storage *grad;
    bool live;                 /* somebody reads it */
    bool reached;              /* has a gradient in this plan */
    bool written;              /* its gradient has been written by a step emitted so far */
    bool read_backward;        /* a backward step reads its data */
    bool kept;                 /* its forward data stays for the backward part */
    bool recomputed;           /* a RECOMPUTE step has been emitted */
    bool has_views;
    uint32_t last_read;        /* 1 + the last node that reads it, 0 = none */
    uint32_t last_reads;       /* how many of that node's inputs do */
} peft__value_plan;

typedef struct peft__graph_param_slot {
    peft__param *param;
    peft__value *value;
    size_t grad_offset; /* floats into the gradient block */
} peft__graph_param_slot;

struct peft__graph {
    peft_context *ctx;
    peft__arena arena;
    peft__capacity capacity;
    peft_status status; /* first failure */

    peft__rows **rows;
    size_t row_count, row_capacity;
    peft__value **values;
    size_t value_count, value_capacity;
    peft__node **nodes;
    size_t node_count, node_capacity;
    peft__graph_param_slot *params;
    size_t param_count, param_capacity;
    peft__table param_index; /* address of a param -> place in params; while building */
    peft__value **seeds;
    size_t seed_count, seed_capacity;

    /* plan */
    bool planned, backward;
    peft__value_plan *plans; /* [value_count] */
    peft__storage **storages;
    size_t storage_count, storage_capacity;
    peft__step *steps;
    size_t step_count, step_capacity;
    size_t lane_bytes;
    peft__plan_info info;

    /* memory */
    uint8_t *memory;     /* arena of activations */
    uint8_t *lane_memory;
    uint32_t lanes;      /* lane_memory has room for so many */
    float *gradients;
    int32_t *index;
    const peft_batch *batch;
};

/* The value that owns the storage a view looks into. */
static inline peft__value *peft__root(peft__value *value) { return value->base != NULL ? value->base : value; }

/* Grows a pointer array by one; records PEFT_E_NOMEM on the graph and returns false. */
bool peft__graph_grow(peft__graph *graph, void **array, size_t *capacity, size_t count, size_t item);

void peft__assign_grads(peft__graph *graph); /* plan.c: value->grad_storage as it is before the first backward step */
peft_status peft__layout(peft__graph *graph); /* layout.c: offsets of all storages; fills info.arena and info.lower_bound */

#endif
