/* gradient.h: does an operation compute what it says, and is its backward the derivative of its forward?
 *
 * A check builds a real graph: inputs are trained tensors (copied into the wanted row space by a test operation),
 * outputs are met by a probe, a loss sum(upstream * out) with random upstream numbers. The operation's float results
 * are compared with a plain reference in double precision that the test gives; its gradients with central differences
 * of that reference. So planning, recomputing and accumulating are under test as well.
 */
#ifndef PEFT_TESTS_GRADIENT_H
#define PEFT_TESTS_GRADIENT_H

#include "check.h"
#include "graph/ops.h"

enum { GC_INPUTS = 12, GC_OUTPUTS = 4, GC_STREAM = -1, GC_DECODER = -2 };

/* How the graph around the operation looks; every case runs in several. */
typedef struct gc_style {
    uint32_t cpu;
    uint32_t threads;
    bool wide;       /* inputs are column views of wider values */
    bool accumulate; /* inputs have another reader, so that gradients are added to what is there */
} gc_style;

typedef struct gc_input {
    peft__param param;
    peft__value *value;
    int64_t rows, cols; /* rows: as bound */
    double *exact;      /* what the reference reads: [rows][cols] */
    float *second;      /* upstream of the other reader, or NULL */
    bool frozen;
} gc_input;

typedef struct gc_output {
    peft__value *value;
    float *upstream;
    double *want;
} gc_output;

typedef struct gc gc;
/* Fills out[i].want from in[i].exact. For a loss operation: want = {sum, count}. */
typedef void (*gc_reference)(gc *c, void *user);

struct gc {
    char name[128];
    gc_style style;
    peft_context *ctx;
    peft__graph *graph;
    peft_batch batch;
    int32_t offsets[64], decoder_offsets[64];
    peft__rows *stream, *decoder;
    gc_input in[GC_INPUTS];
    gc_output out[GC_OUTPUTS];
    uint32_t in_count, out_count;
    bool is_loss;
    bool training;
    uint64_t seed;
    double forward_tolerance,
        gradient_tolerance; /* relative to the largest number of a tensor; defaults 3e-6 and 2e-5 */
    uint32_t rng;
    void *memory[128];
    uint32_t memory_count;
};

/* The styles to run a case in; false when there are no more. Instruction sets this machine does not have are left out.
 */
bool gc_next_style(uint32_t *index, gc_style *style);

/* A graph with a stream of sequences of these lengths (0 ends the list); decoder lengths may be NULL. */
void gc_begin(gc *c, const char *name, const gc_style *style, const int64_t *lengths, const int64_t *decoder_lengths);
void *gc_alloc(gc *c, size_t size); /* cleared; until gc_end */
float gc_random(gc *c);             /* -1 .. 1 */
/* A trained input with random elements in [-scale, scale]; rows GC_STREAM, GC_DECODER or a number. */
peft__value *gc_input_new(gc *c, int64_t rows, int64_t cols, float scale);
/* The leaf itself (a weight), never a copy or view. */
peft__value *gc_leaf_new(gc *c, int64_t rows, int64_t cols, float scale);
/* An input that is not trained: no gradient is asked for. Must be called right after the input was made. */
void gc_freeze_last(gc *c);
/* In place of gc_begin's stream: any row space. */
peft__value *gc_input_in(gc *c, peft__rows *rows, int64_t count, int64_t cols, float scale);
void gc_output_new(gc *c, peft__value *value);
void gc_loss(gc *c, peft__value *value);
/* Runs everything and checks; frees the graph. */
void gc_end(gc *c, gc_reference reference, void *user);
/* Frees the graph without a check. */
void gc_discard(gc *c);
/* Counts of the checks made in gradient.c (check.h counts per file). */
void gc_counts(int *passed, int *failed);

/* The exit status of the program. */
static inline int gc_summary(void) {
    int passed, failed;
    gc_counts(&passed, &failed);
    check_passed += passed;
    check_failed += failed;
    return check_summary();
}

#endif
