/* train.h: the fields behind sessions and optimizers, shared by the files of this folder.
 *
 * A session holds plans: graphs built and laid out for a purpose. They are made when first needed and made anew when a
 * batch is larger than they can take or when an adapter changed what it computes. Accumulated gradients live in the
 * training plan's graph; how much they stand for (loss, counted targets) is kept per adapter, because each adapter has
 * an optimizer of its own.
 */
#ifndef PEFT_TRAIN_TRAIN_H
#define PEFT_TRAIN_TRAIN_H

#include "method/adapter.h"
#include "peft/optimizer.h"
#include "peft/session.h"

/* ---- batch_store.c: checked copies of batches ------------------------------------------------------------ */

typedef struct peft__batch_store {
    peft__mem *mem;
    uint8_t *block;
    size_t size;
    peft_batch batch; /* points into block */
} peft__batch_store;

/* What a batch may hold; 0 = not checked. */
typedef struct peft__batch_limits {
    int64_t vocab, labels, types, positions, adapters;
    int64_t first_position; /* position ids go up to positions + first_position - 1 */
    int64_t features; /* columns of float rows that the model needs */
    int32_t task;
    bool need_labels; /* the task's loss will be computed */
    bool targets;     /* from sequence_targets */
    bool choices;     /* sequence_labels count a question's answers (PEFT_LOSS_TFEW, rank classification) */
} peft__batch_limits;

/* Every index that an operation will use, so that no operation has to check: PEFT_E_ARG says where. */
peft_status peft__batch_check(peft_context *ctx, const peft_batch *batch, const peft__batch_limits *limits);
/* A batch of questions with answers to choose among (PEFT_LOSS_TFEW); `need_right`: which is right is known. */
peft_status peft__batch_check_choices(peft_context *ctx, const peft_batch *batch, bool need_right);
/* Copies the batch and all its arrays. Takes memory only when the batch is larger than any before. */
peft_status peft__batch_store_put(peft_context *ctx, peft__batch_store *store, const peft_batch *batch);
/* Memory for token batches up to this size, so that none is taken later. */
peft_status peft__batch_store_reserve(peft_context *ctx, peft__batch_store *store, const peft__capacity *capacity);
void peft__batch_store_free(peft__batch_store *store);

/* ---- plan.c ------------------------------------------------------------------------------------------------ */

typedef enum {
    PEFT__PLAN_TRAIN = 0, /* loss, forward and backward */
    PEFT__PLAN_EVAL,      /* loss, forward only: sessions that do not train, or batches larger than training's */
    PEFT__PLAN_LOGITS,    /* logits at all rows */
    PEFT__PLAN_LAST,      /* logits at the last row of each sequence */
    PEFT__PLAN_GENERATE,  /* the same with a cache of keys and values */
    PEFT__PLAN_SCORE,     /* -log p of every label */
    PEFT__PLAN_MARKED,    /* logits at the rows that have a label */
    PEFT__PLAN_FOLLOW,    /* -log p of what may follow the text in the cache */
    PEFT__PLAN_ENCODE,    /* encoder-decoder models: what the decoder reads of a text */
    PEFT__PLAN_DECODE,    /* and the decoder with a cache, one row a beam */
    PEFT__PLAN_COUNT
} peft__plan_kind;

typedef struct peft__plan {
    peft__graph *graph; /* NULL: not made yet */
    peft__capacity capacity;
    peft__value *loss, *logits, *decoder_logits, *nll;
    peft__value **cross; /* PEFT__PLAN_ENCODE: keys and values of each decoder layer's cross attention */
    uint64_t layout;  /* what the adapters were like, see session_layout() */
    float **grads;    /* one for each param of each adapter in turn; NULL where the graph has none */
    float *seed_grad; /* PEFT_LOSS_HOST: where the host writes the gradient of the logits */
} peft__plan;

/* Keys and values of the text that is being read or generated (reading.c). */
typedef struct peft__generation {
    float *block;
    peft__kv_cache *caches; /* [layers] */
    uint32_t layers;
    int64_t rows; /* room */
    int64_t used;
} peft__generation;

/* The same for encoder-decoder models: keys and values of the text that was read, and of what each beam has written. */
typedef struct peft__decoding {
    float *source_block, *block;
    peft__kv_cache *cross, *self; /* [layers], in one allocation that begins at cross */
    int64_t *used;                /* [beams]; behind it beams parents */
    float *scratch;               /* one layer's keys of all beams */
    int64_t layers, width;
    int64_t source_rows, source_used, rows, beams; /* room, filled, room, beams */
} peft__decoding;

/* What gradients of one adapter stand for. */
typedef struct peft__accumulation {
    double loss;    /* sum over counted targets, times nothing */
    double count;   /* counted targets */
    double divisor; /* gradients / divisor = mean gradient; differs from count after peft_session_set_gradients */
    bool pending;   /* a complete backward pass, no step yet */
    bool clean;     /* the gradient memory is all zero */
} peft__accumulation;

typedef enum { PEFT__IDLE, PEFT__RUNNING, PEFT__FORWARD_DONE, PEFT__BACKWARD_DONE } peft__phase;

struct peft_session {
    peft_context *ctx;
    peft_model *model;
    peft_session_options options;
    float *class_weights;
    peft_adapter **adapters;
    peft__hooked *hooked;
    peft__accumulation *accumulated; /* one per adapter */
    uint32_t count;
    uint64_t params; /* of all adapters together */

    peft__plan plans[PEFT__PLAN_COUNT];
    peft__generation generation;
    peft__decoding decoding;
    peft__batch_store batch; /* of the pass that runs or ran last: its backward part reads it */
    peft__batch_store side;  /* of calls that are no part of a step */

    peft__phase phase;
    atomic_bool cancel;
    uint64_t passes;     /* forward passes in training mode so far: dropout's counter */
    uint64_t first_pass; /* what it was before the first pass of the present accumulation */

    /* the pass that runs or ran last */
    peft__plan *plan;
    peft__cursor cursor;
    int32_t what; /* PEFT_PASS_* asked for */
    bool forward_done, backward_begun;
    float weight;
    uint64_t seed;
    double loss, targets; /* of the last forward: mean, count */
    uint64_t longest_us;
    double products; /* multiply-adds of matrix products of all passes so far */
};

/* Capacity that a batch asks for under the session's options: PEFT_E_LIMIT beyond a given maximum. */
peft_status peft__plan_capacity(const peft_session *session, const peft_batch *batch, const peft__capacity *present,
                                peft__capacity *out_capacity);
bool peft__plan_fits(const peft_session *session, const peft__plan *plan, const peft_batch *batch);
/* Makes or renews a plan so that it takes the capacity. On failure the session is as it was. */
peft_status peft__plan_make(peft_session *session, peft__plan_kind kind, const peft__capacity *capacity);
/* Makes sure of a plan for the batch. */
peft_status peft__plan_for_batch(peft_session *session, peft__plan_kind kind, const peft_batch *batch);
/* Builds and plans without taking the planned memory; *out_plan is released with peft__plan_free. */
peft_status peft__plan_build(peft_session *session, peft__plan_kind kind, const peft__capacity *capacity,
                             peft__plan *out_plan);
void peft__plan_free(peft_session *session, peft__plan *plan);
bool peft__session_trains(const peft_session *session);
/* Takes other adapters, each alike the one in its place, into every plan; what is stale already is dropped. */
void peft__plan_exchange(peft_session *session, peft_adapter *const *adapters);

/* ---- session.c ------------------------------------------------------------------------------------------------ */

/* PEFT_E_STATE with the present phase unless `allowed`. */
peft_status peft__session_need(const peft_session *session, bool allowed, const char *call, const char *expected);
peft__batch_limits peft__session_limits(const peft_session *session, bool need_labels);
/* Positions that are left for a text when the adapters' prompts have theirs; 0 = no limit. PEFT_E_LIMIT when none is
 * left. */
peft_status peft__session_positions(const peft_session *session, int64_t *out_positions);
/* Checks a batch and keeps a copy. */
peft_status peft__session_take_batch(peft_session *session, peft__batch_store *store, const peft_batch *batch,
                                     bool need_labels);
/* Index of an adapter in the session, or -1. */
int32_t peft__session_find(const peft_session *session, const peft_adapter *adapter);

/* ---- pass.c ---------------------------------------------------------------------------------------------------- */

/* Gradients of an adapter's params in the training plan, NULL entries for params without. NULL without a training plan.
 */
float **peft__session_grads(const peft_session *session, uint32_t adapter);
bool peft__session_pending(const peft_session *session); /* gradients of any adapter wait for a step */
/* Forgets what was accumulated for one adapter (UINT32_MAX: for all) and gives the session its phase. */
void peft__session_drop(peft_session *session, uint32_t adapter);
/* The last forward pass is no more: its memory is needed, or it failed. */
void peft__session_forget_pass(peft_session *session);
/* A whole forward pass of a plan that a batch is bound to, without dropout. */
peft_status peft__session_run_forward(peft_session *session, peft__plan *plan);
/* peft_session_eval() with the logits that the loss was made of (NULL where it has none): valid until the next call. */
peft_status peft__session_eval(peft_session *session, const peft_batch *batch, double *out_loss, double *out_count,
                               const peft__value **out_logits);
/* logits.c: peft_session_logits() without the copy; `capacity` -1 = not checked. */
peft_status peft__session_logits(peft_session *session, const peft_batch *batch, int32_t which, int64_t capacity,
                                 const peft__value **out_logits);
/* logits.c: logits at the rows that have a label, whatever it is; valid until the next call. */
peft_status peft__session_marked(peft_session *session, const peft_batch *batch, const peft__value **out_logits);
/* At the start of a call that computes: a wish to cancel that came while no step was under way is forgotten. */
void peft__session_start(peft_session *session);

/* ---- reading.c: a text in the cache of generation, and what may follow it ------------------------------------- */

void peft__generation_free(peft_session *session);
/* Do the active adapters allow a cache? If not, none of the functions below may be called. */
bool peft__reading_possible(const peft_session *session);
/* Empties the cache, with room for `rows` rows of text; `first`: about how many come at once at first. */
peft_status peft__reading_begin(peft_session *session, int64_t rows, int64_t first);
int64_t peft__reading_rows(const peft_session *session); /* of text that the cache has */
int64_t peft__reading_room(const peft_session *session); /* rows of text that it could have */
void peft__reading_keep(peft_session *session, int64_t rows); /* forgets what comes after the first `rows` rows */
/* Reads on; ids are those of the vocabulary and there is room for them. out_logits (may be NULL) gets the logits [vocab]
 * after the last one, valid until the next call; count > 0. */
peft_status peft__reading_put(peft_session *session, const int32_t *ids, int64_t count, const float **out_logits);
/* -log p of each of several continuations of what was read: ids [offsets[s], offsets[s + 1]), at least one each. All are
 * scored together and the cache stays as it is. `logits` are those that reading gave last. */
peft_status peft__reading_follow(peft_session *session, const float *logits, const int32_t *ids, const int32_t *offsets,
                                 int64_t sequences, double *out_nll);

/* ---- generate.c ------------------------------------------------------------------------------------------------ */

/* peft_session_generate(), where the cache may have been `begun`: it has room for all and holds a part of the prompt. */
peft_status peft__session_generate(peft_session *session, bool begun, const int32_t *prompt_ids, int64_t prompt_count,
                                   const peft_generate_options *options, int32_t *out_ids, int64_t capacity,
                                   int64_t *out_count);

/* ---- generate_seq2seq.c ---------------------------------------------------------------------------------------- */

enum { PEFT__MOST_BEAMS = 256 };

void peft__decoding_free(peft_session *session);
/* Reads a text with the encoder and makes room for `rows` decoder rows in each of `beams` beams, all empty. */
peft_status peft__decoding_begin(peft_session *session, const int32_t *ids, int64_t count, int64_t rows, int64_t beams);
/* One token a beam; the logits that follow are value->data, one row a beam. */
peft_status peft__decoding_step(peft_session *session, const int32_t *ids, const peft__value **out_logits);
/* Beam i goes on from what beam parents[i] had. */
void peft__decoding_reorder(peft_session *session, const int32_t *parents);

/* ---- beam_search.c ------------------------------------------------------------------------------------------------ */

typedef struct peft__beams {
    int64_t beams, most;     /* tokens to write at most */
    float length_penalty, repetition_penalty;
    const int32_t *ends;     /* ids that end a text */
    uint32_t end_count;
    int32_t start;
} peft__beams;
/* After peft__decoding_begin(): the best text, without the token that ends it, in out_ids [most]. */
peft_status peft__beam_search(peft_session *session, const peft__beams *options, int32_t *out_ids, int64_t *out_count);

/* ---- optimizer.c ------------------------------------------------------------------------------------------------ */

/* State of one trained tensor. What m and v are depends on the kind; Adafactor: v holds rows then columns when
 * `factored`. */
typedef struct peft__moment {
    uint32_t index; /* of the adapter's params */
    float lr_scale;
    uint64_t steps; /* that this tensor took part in */
    bool decays, factored;
    float *m, *v;
    int64_t m_count, v_count;
} peft__moment;

typedef struct peft__update_tile {
    uint32_t moment;
    int64_t first, count;
} peft__update_tile;

struct peft_optimizer {
    peft_context *ctx;
    peft_adapter *adapter;
    peft_optimizer_options options; /* beta1 and beta2 resolved */
    float lr;
    uint64_t steps;
    peft__moment *moments;
    uint32_t moment_count;
    float *block; /* all m and v */
    int64_t block_count;
    float *scratch; /* Adafactor: factors of rows and columns of the present tensor, per moment */
    peft__update_tile *tiles;
    uint32_t tile_count;
    double *partial; /* [tile_count] */
};

/* One whole update of a tensor by Adafactor (adafactor.c). `scratch` has v_count floats. */
typedef struct peft__adafactor {
    double lr, weight_decay, beta1, decay_rate, clip_threshold, grad_scale;
    bool scale_parameter;
    uint64_t step; /* from 1 */
} peft__adafactor;
void peft__adafactor_update(const peft__adafactor *rule, const peft__param *param, const peft__moment *moment,
                            const float *grad, float *scratch);

/* Name of a part of a tensor's state: which = 0 for m, 1 for v; NULL when the kind has no such part. */
const char *peft__optimizer_part(const peft_optimizer *optimizer, const peft__moment *moment, int which);

#endif
