/* plan.c: from nodes to a list of steps with lifetimes.
 *
 * Four passes over the nodes:
 *   1. mark: which values need a gradient (something trained lies above them), which nodes anybody reads, which gradients a
 *      loss reaches. A node takes part in the backward pass when a gradient arrives at one of its outputs and one of its
 *      inputs needs one: everything below the lowest trained tensor drops out by itself.
 *   2. keep: every node says what its backward reads. Outputs of cheap nodes (norms, activations) are not kept but computed
 *      again just before they are read, when all they are computed from is at hand anyway.
 *   3. emit: forward steps, then backward steps in reverse order. The first writer of a gradient overwrites, later ones add, so
 *      gradients are never cleared. The gradient of a sum is the gradient of its terms: no copy is made unless one of the
 *      sharers is about to change it while another still has to read it.
 *   4. live: for each storage the first and last step that touches it; layout.c turns that into offsets.
 */
#include "graph/graph_internal.h"

/* ---- small helpers ------------------------------------------------------------------------------------------ */

static peft__value_plan *plan_of(peft__graph *graph, const peft__value *value) {
    return &graph->plans[value->base != NULL ? value->base->index : value->index];
}

static size_t value_bytes(const peft__value *value) {
    const size_t bytes = (size_t)value->rows->max_rows * (size_t)value->ld * sizeof(float);
    return (bytes + PEFT__ALIGNMENT - 1) / PEFT__ALIGNMENT * PEFT__ALIGNMENT;
}

static peft__storage *new_storage(peft__graph *graph, size_t bytes) {
    if (!peft__graph_grow(graph, (void **)&graph->storages, &graph->storage_capacity, graph->storage_count, sizeof *graph->storages)) return NULL;
    peft__storage *storage = peft__arena_alloc(&graph->arena, sizeof *storage);
    if (storage == NULL) return peft__graph_fail(graph, peft__fail_nomem(graph->ctx, sizeof *storage, "the memory plan"));
    storage->bytes = peft__max_size(bytes, PEFT__ALIGNMENT);
    graph->storages[graph->storage_count++] = storage;
    return storage;
}

static void touch(peft__storage *storage, size_t step) {
    if (storage == NULL) return;
    if (!storage->used) {
        storage->first = storage->last = (uint32_t)step;
        storage->used = true;
        return;
    }
    if (step < storage->first) storage->first = (uint32_t)step;
    if (step > storage->last) storage->last = (uint32_t)step;
}

static peft__step *new_step(peft__graph *graph, peft__step_kind kind) {
    if (!peft__graph_grow(graph, (void **)&graph->steps, &graph->step_capacity, graph->step_count, sizeof *graph->steps)) return NULL;
    peft__step *step = &graph->steps[graph->step_count++];
    memset(step, 0, sizeof *step);
    step->kind = kind;
    return step;
}

static bool is_leaf(const peft__value *root) { return root->producer == NULL; }

/* ---- 1. mark -------------------------------------------------------------------------------------------------- */

static void mark_needs(peft__graph *graph) {
    for (size_t i = 0; i < graph->value_count; i++) {
        peft__value *value = graph->values[i];
        value->grad = NULL;
        value->needs_grad = graph->backward && value->param != NULL && (value->param->flags & (PEFT__PARAM_FROZEN | PEFT__PARAM_RESTING)) == 0;
        if (value->base != NULL) graph->plans[value->base->index].has_views = true;
    }
    for (size_t i = 0; i < graph->node_count; i++) {
        peft__node *node = graph->nodes[i];
        bool any = false;
        for (uint32_t k = 0; k < node->in_count; k++) {
            peft__value *in = node->in[k];
            if (in == NULL) continue;
            if (in->base != NULL) in->needs_grad = in->base->needs_grad && (in->flags & PEFT__VALUE_STAT) == 0;
            any = any || in->needs_grad;
        }
        for (uint32_t k = 0; k < node->out_count; k++) node->out[k]->needs_grad = any && (node->out[k]->flags & PEFT__VALUE_STAT) == 0;
    }
    for (size_t i = 0; i < graph->seed_count; i++) {
        peft__value *root = peft__root(graph->seeds[i]);
        graph->seeds[i]->needs_grad = root->needs_grad;
    }
}

static void mark_live(peft__graph *graph) {
    for (size_t i = 0; i < graph->value_count; i++)
        if (graph->values[i]->flags & PEFT__VALUE_OUTPUT) plan_of(graph, graph->values[i])->live = true;
    for (size_t i = graph->node_count; i-- > 0;) {
        peft__node *node = graph->nodes[i];
        bool live = false;
        for (uint32_t k = 0; k < node->out_count; k++) live = live || plan_of(graph, node->out[k])->live;
        if (!live) continue;
        for (uint32_t k = 0; k < node->out_count; k++) plan_of(graph, node->out[k])->live = true;
        for (uint32_t k = 0; k < node->in_count; k++)
            if (node->in[k] != NULL) plan_of(graph, node->in[k])->live = true;
    }
}

static bool node_live(peft__graph *graph, const peft__node *node) { return plan_of(graph, node->out[0])->live; }

/* Does the node have work in the backward pass? Valid for nodes in reverse order once mark_reached went past them. */
static bool node_active(peft__graph *graph, const peft__node *node) {
    if (!graph->backward || !node_live(graph, node)) return false;
    bool wanted = false, arrives = node->op->is_loss;
    for (uint32_t k = 0; k < node->in_count; k++) wanted = wanted || (node->in[k] != NULL && node->in[k]->needs_grad);
    for (uint32_t k = 0; k < node->out_count; k++) arrives = arrives || plan_of(graph, node->out[k])->reached;
    return wanted && arrives;
}

static void mark_reached(peft__graph *graph) {
    for (size_t i = 0; i < graph->seed_count; i++)
        if (graph->seeds[i]->needs_grad) plan_of(graph, graph->seeds[i])->reached = true;
    for (size_t i = graph->node_count; i-- > 0;) {
        peft__node *node = graph->nodes[i];
        if (!node_active(graph, node)) continue;
        for (uint32_t k = 0; k < node->in_count; k++)
            if (node->in[k] != NULL && node->in[k]->needs_grad) plan_of(graph, node->in[k])->reached = true;
    }
}

/* ---- 2. keep ----------------------------------------------------------------------------------------------------- */

static void backward_reads(const peft__node *node, uint32_t *in_mask, uint32_t *out_mask) {
    *in_mask = *out_mask = 0;
    if (node->op->reads != NULL) node->op->reads(node, in_mask, out_mask);
}

/* Can the value be computed again in the backward part from leaves, kept values and other such values? */
static bool can_recompute(peft__graph *graph, const peft__value *root, int depth) {
    if (depth > 8 || is_leaf(root) || !root->producer->op->cheap || (root->flags & (PEFT__VALUE_STAT | PEFT__VALUE_OUTPUT)) != 0) return false;
    const peft__node *node = root->producer;
    for (uint32_t k = 0; k < node->in_count; k++) {
        if (node->in[k] == NULL) continue;
        peft__value *in = peft__root(node->in[k]);
        if (is_leaf(in) || plan_of(graph, in)->kept) continue;
        if (!can_recompute(graph, in, depth + 1)) return false;
    }
    return true;
}

static void mark_kept(peft__graph *graph) {
    for (size_t i = 0; i < graph->node_count; i++) {
        peft__node *node = graph->nodes[i];
        if (!node_active(graph, node)) continue;
        uint32_t in_mask, out_mask;
        backward_reads(node, &in_mask, &out_mask);
        for (uint32_t k = 0; k < node->in_count; k++)
            if ((in_mask >> k & 1u) != 0 && node->in[k] != NULL) plan_of(graph, node->in[k])->read_backward = true;
        for (uint32_t k = 0; k < node->out_count; k++)
            if ((out_mask >> k & 1u) != 0) plan_of(graph, node->out[k])->read_backward = true;
    }
    /* What cannot be had again is kept; then, in forward order, what would need something that is not kept. */
    for (size_t i = 0; i < graph->value_count; i++) {
        peft__value *value = graph->values[i];
        if (value->base != NULL) continue;
        peft__value_plan *plan = &graph->plans[i];
        if ((value->flags & (PEFT__VALUE_STAT | PEFT__VALUE_OUTPUT)) != 0) plan->kept = plan->read_backward || (value->flags & PEFT__VALUE_STAT) != 0;
        else if (plan->read_backward && !is_leaf(value) && !value->producer->op->cheap) plan->kept = true;
    }
    for (size_t i = 0; i < graph->value_count; i++) {
        peft__value *value = graph->values[i];
        peft__value_plan *plan = &graph->plans[i];
        if (value->base == NULL && plan->read_backward && !plan->kept && !is_leaf(value) && !can_recompute(graph, value, 0)) plan->kept = true;
    }
}

/* ---- 3. emit -------------------------------------------------------------------------------------------------------- */

static peft__storage *add_temp(peft__graph *graph, const peft__node *node, peft__pass pass) {
    const size_t lane = node->op->lane_bytes != NULL ? node->op->lane_bytes(node, pass) : 0;
    graph->lane_bytes = peft__max_size(graph->lane_bytes, lane);
    const size_t bytes = node->op->temp_bytes != NULL ? node->op->temp_bytes(node, pass) : 0;
    return bytes == 0 ? NULL : new_storage(graph, (bytes + PEFT__ALIGNMENT - 1) / PEFT__ALIGNMENT * PEFT__ALIGNMENT);
}

/* Is `value` read by a forward node after `index`, or by anything later? */
static bool needed_after(peft__graph *graph, const peft__value *root, size_t index) {
    const peft__value_plan *plan = plan_of(graph, root);
    if (plan->kept || (root->flags & PEFT__VALUE_OUTPUT) != 0) return true;
    return plan->last_read > index + 1 || (plan->last_read == index + 1 && plan->last_reads > 1);
}

static void find_last_reads(peft__graph *graph) {
    for (size_t i = 0; i < graph->node_count; i++) {
        const peft__node *node = graph->nodes[i];
        for (uint32_t k = 0; k < node->in_count; k++) {
            if (node->in[k] == NULL) continue;
            peft__value_plan *plan = plan_of(graph, node->in[k]);
            plan->last_reads = plan->last_read == i + 1 ? plan->last_reads + 1 : 1;
            plan->last_read = (uint32_t)i + 1;
        }
    }
}

static bool same_shape(const peft__value *a, const peft__value *b) { return a->rows == b->rows && a->cols == b->cols && a->ld == b->ld; }

static bool emit_forward(peft__graph *graph) {
    find_last_reads(graph);
    for (size_t i = 0; i < graph->node_count; i++) {
        peft__node *node = graph->nodes[i];
        if (!node_live(graph, node)) continue;
        peft__step *step = new_step(graph, PEFT__STEP_FORWARD);
        if (step == NULL) return false;
        step->node = node;
        for (uint32_t k = 0; k < node->out_count; k++) {
            peft__value *out = node->out[k];
            peft__value_plan *plan = plan_of(graph, out);
            const int reuse = k == 0 ? node->op->in_place : -1;
            peft__value *in = reuse >= 0 ? node->in[reuse] : NULL;
            if (in != NULL && in->base == NULL && !is_leaf(in) && same_shape(in, out) && (in->flags & PEFT__VALUE_STAT) == 0 &&
                !needed_after(graph, in, i)) {
                plan->data = plan_of(graph, in)->data;
            } else {
                plan->data = new_storage(graph, value_bytes(out));
            }
            if (plan->data == NULL) return false;
        }
        peft__storage *temp = add_temp(graph, node, PEFT__FORWARD);
        graph->steps[graph->step_count - 1].temp = temp;
    }
    return true;
}

static bool emit_recompute(peft__graph *graph, peft__value *root) {
    peft__value_plan *plan = plan_of(graph, root);
    if (is_leaf(root) || plan->kept || plan->recomputed) return true;
    peft__node *node = root->producer;
    for (uint32_t k = 0; k < node->in_count; k++)
        if (node->in[k] != NULL && !emit_recompute(graph, peft__root(node->in[k]))) return false;
    peft__step *step = new_step(graph, PEFT__STEP_RECOMPUTE);
    if (step == NULL) return false;
    step->node = node;
    const size_t index = graph->step_count - 1;
    graph->steps[index].temp = add_temp(graph, node, PEFT__FORWARD);
    for (uint32_t k = 0; k < node->out_count; k++) {
        peft__value_plan *out = plan_of(graph, node->out[k]);
        if (out->kept) continue; /* statistics: written again with the same bits */
        out->again = new_storage(graph, value_bytes(node->out[k]));
        if (out->again == NULL) return false;
        out->recomputed = true;
    }
    graph->info.recomputed++;
    return true;
}

static bool emit_reads(peft__graph *graph, const peft__node *node) {
    uint32_t in_mask, out_mask;
    backward_reads(node, &in_mask, &out_mask);
    for (uint32_t k = 0; k < node->in_count; k++)
        if ((in_mask >> k & 1u) != 0 && node->in[k] != NULL && !emit_recompute(graph, peft__root(node->in[k]))) return false;
    for (uint32_t k = 0; k < node->out_count; k++)
        if ((out_mask >> k & 1u) != 0 && !emit_recompute(graph, node->out[k])) return false;
    return true;
}

/* Does anybody but `root` still have to read the gradient in this storage, at the backward step of node `current` or after it? */
static bool shared_and_pending(peft__graph *graph, const peft__value *root, const peft__node *current) {
    const peft__storage *storage = plan_of(graph, root)->grad;
    for (size_t i = 0; i < graph->value_count; i++) {
        const peft__value *other = graph->values[i];
        if (other == root || other->base != NULL || graph->plans[i].grad != storage || other->param != NULL) continue;
        /* Producers with a smaller index are emitted later; `current` reads the gradients of its own outputs. */
        if (other->producer != NULL && other->producer->index <= current->index && node_active(graph, other->producer)) return true;
    }
    return false;
}

/* Makes the gradient of in[k] ready to be written by `node`: storage, the accumulate bit, and clearing where views are concerned. */
static bool prepare_grad(peft__graph *graph, peft__node *node, uint32_t k) {
    peft__value *root = peft__root(node->in[k]);
    peft__value_plan *plan = plan_of(graph, root);
    if (root->param != NULL) { /* persistent, summed over micro-batches */
        node->accumulate |= 1u << k;
        return true;
    }
    if (plan->written) {
        node->accumulate |= 1u << k;
        if (shared_and_pending(graph, root, node)) {
            peft__storage *own = new_storage(graph, value_bytes(root));
            peft__step *step = own == NULL ? NULL : new_step(graph, PEFT__STEP_COPY_GRAD);
            if (step == NULL) return false;
            step->value = root;
            step->from = plan->grad;
            step->to = own;
            plan->grad = own;
        }
        return true;
    }
    plan->grad = new_storage(graph, value_bytes(root));
    if (plan->grad == NULL) return false;
    plan->written = true;
    if (node->in[k]->base != NULL || plan->has_views) {
        /* Parts of it are written through views, by this node or another: all parts add to zero. */
        peft__step *step = new_step(graph, PEFT__STEP_ZERO_GRAD);
        if (step == NULL) return false;
        step->value = root;
        step->to = plan->grad;
        node->accumulate |= 1u << k;
    }
    return true;
}

static bool emit_alias(peft__graph *graph, peft__node *node, uint32_t k) {
    peft__value *in = node->in[k], *out = node->out[0];
    peft__value_plan *plan = plan_of(graph, in), *out_plan = plan_of(graph, out);
    if (in->base == NULL && in->param == NULL && !plan->written && !plan->has_views && same_shape(in, out)) {
        plan->grad = out_plan->grad;
        plan->written = true;
        return true;
    }
    if (!prepare_grad(graph, node, k)) return false;
    peft__step *step = new_step(graph, PEFT__STEP_ADD_GRAD);
    if (step == NULL) return false;
    step->node = node;
    step->value = in;
    step->other = out;
    step->overwrite = (node->accumulate >> k & 1u) == 0;
    return true;
}

static bool emit_backward(peft__graph *graph) {
    for (size_t i = 0; i < graph->seed_count; i++) {
        peft__value_plan *plan = plan_of(graph, graph->seeds[i]);
        if (!plan->reached) continue;
        plan->grad = new_storage(graph, value_bytes(peft__root(graph->seeds[i])));
        if (plan->grad == NULL) return false;
        plan->written = true;
    }
    for (size_t i = graph->node_count; i-- > 0;) {
        peft__node *node = graph->nodes[i];
        node->accumulate = 0;
        if (!node_active(graph, node)) continue;
        bool arrives = node->op->is_loss;
        for (uint32_t k = 0; k < node->out_count; k++) arrives = arrives || plan_of(graph, node->out[k])->written;
        if (!arrives) continue;
        bool own_work = false;
        for (uint32_t k = 0; k < node->in_count; k++) {
            peft__value *in = node->in[k];
            if (in == NULL || !in->needs_grad) continue;
            if ((node->op->alias_grad >> k & 1u) != 0) {
                if (!emit_alias(graph, node, k)) return false;
            } else {
                own_work = true;
            }
        }
        if (!own_work) continue;
        if (!emit_reads(graph, node)) return false;
        for (uint32_t k = 0; k < node->in_count; k++) {
            peft__value *in = node->in[k];
            if (in == NULL || !in->needs_grad || (node->op->alias_grad >> k & 1u) != 0) continue;
            if (!prepare_grad(graph, node, k)) return false;
        }
        peft__storage *temp = add_temp(graph, node, PEFT__BACKWARD);
        peft__step *step = new_step(graph, PEFT__STEP_BACKWARD);
        if (step == NULL) return false;
        step->node = node;
        step->temp = temp;
    }
    return true;
}

/* ---- 4. live ----------------------------------------------------------------------------------------------------------- */

/* Grad storages can change on the way (COPY_GRAD), so lifetimes are found by walking the steps with the storage of the moment. */
static void live_grads(peft__graph *graph) {
    for (size_t i = 0; i < graph->value_count; i++) graph->values[i]->grad_storage = NULL;
    for (size_t i = 0; i < graph->seed_count; i++) {
        peft__value_plan *plan = plan_of(graph, graph->seeds[i]);
        if (plan->reached) touch(plan->grad, graph->info.forward_steps == 0 ? 0 : graph->info.forward_steps - 1);
    }
}

static void live_node(peft__graph *graph, const peft__step *step, size_t index) {
    const peft__node *node = step->node;
    touch(step->temp, index);
    if (step->kind != PEFT__STEP_BACKWARD) {
        const bool again = step->kind == PEFT__STEP_RECOMPUTE;
        for (uint32_t k = 0; k < node->in_count; k++) {
            if (node->in[k] == NULL) continue;
            peft__value_plan *plan = plan_of(graph, node->in[k]);
            touch(again && plan->again != NULL ? plan->again : plan->data, index);
        }
        for (uint32_t k = 0; k < node->out_count; k++) {
            peft__value_plan *plan = plan_of(graph, node->out[k]);
            touch(again && plan->again != NULL ? plan->again : plan->data, index);
        }
        return;
    }
    uint32_t in_mask, out_mask;
    backward_reads(node, &in_mask, &out_mask);
    for (uint32_t k = 0; k < node->in_count; k++) {
        if ((in_mask >> k & 1u) == 0 || node->in[k] == NULL) continue;
        peft__value_plan *plan = plan_of(graph, node->in[k]);
        touch(plan->again != NULL ? plan->again : plan->data, index);
    }
    for (uint32_t k = 0; k < node->out_count; k++) {
        if ((out_mask >> k & 1u) == 0) continue;
        peft__value_plan *plan = plan_of(graph, node->out[k]);
        touch(plan->again != NULL ? plan->again : plan->data, index);
    }
}

/* The gradient storages a step reads and writes, replaying the moves of COPY_GRAD on value->grad_storage. */
static void live_step_grads(peft__step *step, size_t index) {
    switch (step->kind) {
    case PEFT__STEP_ZERO_GRAD:
        step->value->grad_storage = step->to;
        touch(step->to, index);
        break;
    case PEFT__STEP_COPY_GRAD:
        touch(step->from, index);
        touch(step->to, index);
        step->value->grad_storage = step->to;
        break;
    case PEFT__STEP_ADD_GRAD:
    case PEFT__STEP_BACKWARD: {
        const peft__node *node = step->node;
        for (uint32_t k = 0; k < node->out_count; k++) touch(node->out[k]->grad_storage, index);
        for (uint32_t k = 0; k < node->in_count; k++) {
            peft__value *in = node->in[k];
            if (in == NULL || !in->needs_grad || peft__root(in)->param != NULL) continue;
            if (peft__root(in)->grad_storage != NULL) touch(peft__root(in)->grad_storage, index);
        }
        break;
    }
    default: break;
    }
}

/* Back to the storage that each gradient has before the first backward step: COPY_GRAD steps remember where a value came from. */
void peft__assign_grads(peft__graph *graph) {
    for (size_t i = 0; i < graph->value_count; i++)
        if (graph->values[i]->base == NULL) graph->values[i]->grad_storage = graph->plans[i].grad;
    for (size_t i = graph->step_count; i-- > 0;)
        if (graph->steps[i].kind == PEFT__STEP_COPY_GRAD) graph->steps[i].value->grad_storage = graph->steps[i].from;
}

static void find_lifetimes(peft__graph *graph) {
    live_grads(graph);
    peft__assign_grads(graph);
    for (size_t i = 0; i < graph->step_count; i++) {
        if (graph->steps[i].node != NULL && graph->steps[i].kind != PEFT__STEP_ADD_GRAD) live_node(graph, &graph->steps[i], i);
        live_step_grads(&graph->steps[i], i);
    }
    peft__assign_grads(graph);
    for (size_t i = 0; i < graph->value_count; i++) {
        const peft__value *value = graph->values[i];
        if ((value->flags & PEFT__VALUE_OUTPUT) != 0 && graph->step_count > 0) touch(plan_of(graph, value)->data, graph->step_count - 1);
    }
}

/* ---- sizes of what is not in the arena ------------------------------------------------------------------------------------ */

static int64_t index_ints(const peft__rows *rows) {
    if (rows->fixed) return 0;
    return rows->max_sequences + 1 + rows->max_rows * 5;
}

static void measure_rest(peft__graph *graph) {
    size_t floats = 0;
    for (size_t i = 0; i < graph->param_count; i++) {
        graph->params[i].grad_offset = floats;
        if (graph->params[i].value->needs_grad) floats += (size_t)(graph->params[i].param->elements + 15) / 16 * 16;
    }
    graph->info.gradients = floats * sizeof(float);
    size_t ints = 0;
    for (size_t i = 0; i < graph->row_count; i++) ints += (size_t)index_ints(graph->rows[i]);
    graph->info.index = ints * sizeof(int32_t);
}

peft_status peft__graph_plan(peft__graph *graph, bool backward) {
    if (graph->status < 0) return graph->status;
    if (graph->planned) return peft__fail(graph->ctx, PEFT_E_INTERNAL, "the graph is already planned");
    graph->planned = true;
    graph->backward = backward;
    graph->plans = peft__alloc_zero(graph->ctx->mem, (graph->value_count + 1) * sizeof *graph->plans);
    if (graph->plans == NULL) return peft__fail_nomem(graph->ctx, graph->value_count * sizeof *graph->plans, "the memory plan");
    mark_needs(graph);
    mark_live(graph);
    if (backward) mark_reached(graph);
    mark_kept(graph);
    if (!emit_forward(graph)) return graph->status;
    graph->info.forward_steps = (uint32_t)graph->step_count;
    if (backward && !emit_backward(graph)) return graph->status;
    graph->info.steps = (uint32_t)graph->step_count;
    graph->info.values = (uint32_t)graph->value_count;
    find_lifetimes(graph);
    measure_rest(graph);
    return peft__layout(graph);
}

const peft__plan_info *peft__graph_plan_info(const peft__graph *graph) { return &graph->info; }

/* ---- memory ------------------------------------------------------------------------------------------------------------------ */

static void place_index(peft__graph *graph) {
    int32_t *next = graph->index;
    for (size_t i = 0; i < graph->row_count; i++) {
        peft__rows *rows = graph->rows[i];
        if (index_ints(rows) == 0) continue;
        rows->offsets = next, next += rows->max_sequences + 1;
        rows->positions = next, next += rows->max_rows;
        rows->ids = next, next += rows->max_rows;
        rows->types = next, next += rows->max_rows;
        rows->labels = next, next += rows->max_rows;
        rows->source = next, next += rows->max_rows;
    }
}

peft_status peft__graph_allocate(peft__graph *graph) {
    if (graph->status < 0) return graph->status;
    peft__mem *mem = graph->ctx->mem;
    const uint32_t lanes = peft__pool_lanes(graph->ctx->pool);
    if (graph->info.arena > 0 && (graph->memory = peft__alloc(mem, graph->info.arena)) == NULL)
        return peft__fail_nomem(graph->ctx, graph->info.arena, "activations");
    if (graph->lane_bytes > 0 && (graph->lane_memory = peft__alloc(mem, graph->lane_bytes * lanes)) == NULL)
        return peft__fail_nomem(graph->ctx, graph->lane_bytes * lanes, "the workers' scratch");
    graph->lanes = lanes;
    if (graph->info.gradients > 0 && (graph->gradients = peft__alloc_zero(mem, graph->info.gradients)) == NULL)
        return peft__fail_nomem(graph->ctx, graph->info.gradients, "gradients");
    if (graph->info.index > 0 && (graph->index = peft__alloc_zero(mem, graph->info.index)) == NULL)
        return peft__fail_nomem(graph->ctx, graph->info.index, "row indices");
    place_index(graph);
    for (size_t i = 0; i < graph->param_count; i++)
        if (graph->params[i].value->needs_grad) graph->params[i].value->grad = graph->gradients + graph->params[i].grad_offset;
    for (size_t i = 0; i < graph->seed_count; i++) { /* the host writes it between the two parts */
        const peft__value_plan *plan = plan_of(graph, graph->seeds[i]);
        if (plan->reached) graph->seeds[i]->grad = (float *)(void *)(graph->memory + plan->grad->offset) + graph->seeds[i]->column;
    }
    return PEFT_OK;
}

void peft__graph_zero_grad(peft__graph *graph) {
    if (graph->gradients != NULL) memset(graph->gradients, 0, graph->info.gradients);
}
