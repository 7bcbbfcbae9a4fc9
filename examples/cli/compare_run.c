/* compare_run.c: one entry of a comparison: an adapter made, trained and looked at from all sides.
 *
 * Everything but the model is made anew for each entry and each seed, in the same order, so that the figures of one do
 * not depend on who came before. Memory is the library's own count; a mapped model is in nobody's. Training takes all
 * its steps: stopping early by the data that is measured on would favour who is measured more often.
 */
#include "compare.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

double compare_tokens_of(const peft_batch *batch) {
    return (double)batch->rows + (double)batch->decoder_rows;
}

int32_t compare_architecture(const peft_model *model) {
    peft_model_info info = {.struct_size = sizeof info};
    const bool pair = peft_model_get_info(model, &info) >= 0 && info.task == PEFT_TASK_SEQ_2_SEQ_LM;
    return pair ? PEFT_COST_ENCODER_DECODER : PEFT_COST_SINGLE_STACK;
}

static double memory_peak(const cli *c) {
    uint64_t peak = 0;
    peft_context_memory(c->context, NULL, &peak, NULL);
    return (double)peak;
}

/* ---- bytes on disk ----------------------------------------------------------------------------------------- */

/* Bytes of the files of a folder; with `remove_all` they and the folder are removed. */
static double folder_bytes(const char *folder, bool remove_all) {
    double bytes = 0.0;
    DIR *listing = opendir(folder);
    for (struct dirent *entry; listing != NULL && (entry = readdir(listing)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        char *path = path_join(folder, entry->d_name);
        struct stat about;
        if (path != NULL && lstat(path, &about) == 0) {
            if (S_ISDIR(about.st_mode))
                bytes += folder_bytes(path, remove_all);
            else
                bytes += (double)about.st_size;
            if (remove_all && !S_ISDIR(about.st_mode)) (void)unlink(path);
        }
        free(path);
    }
    if (listing != NULL) closedir(listing);
    if (remove_all) (void)rmdir(folder);
    return bytes;
}

/* A name as a folder's: what a shell or a file system would stumble over becomes "-". */
static char *folder_of(const char *parent, const char *name, int64_t seed, int64_t seeds) {
    char *path = malloc(strlen(parent) + strlen(name) + 40);
    if (path == NULL) return NULL;
    char *at = path + sprintf(path, "%s/", parent);
    for (; *name != '\0'; name++) {
        const unsigned char b = (unsigned char)*name;
        const bool plain = (b >= '0' && b <= '9') || (b >= 'A' && b <= 'Z') || (b >= 'a' && b <= 'z') || b >= 0x80 ||
                           b == '.' || b == '_' || b == '=' || b == '+';
        *at++ = plain ? (char)b : '-';
    }
    *at = '\0';
    if (seeds > 1) sprintf(at, "-seed%lld", (long long)seed);
    return path;
}

/* A new folder for files that are only weighed; NULL when there is no place for one. */
static char *scratch_folder(void) {
    const char *parent = getenv("TMPDIR");
    char *path = path_join(parent != NULL && parent[0] != '\0' ? parent : "/tmp", "peft-compare-XXXXXX");
    if (path != NULL && mkdtemp(path) != NULL) return path;
    free(path);
    return NULL;
}

static bool measure_disk(const comparison *c, run *r, int64_t seed, contender *out) {
    char *folder = c->keep != NULL ? folder_of(c->keep, out->name, seed, c->seeds) : scratch_folder();
    if (folder == NULL) return true; /* no place to write is no reason to give up a result */
    const bool good = peft_adapter_save(r->adapter, folder) >= 0 || cli_fail(r->c, NULL);
    const double bytes = folder_bytes(folder, c->keep == NULL);
    if (good) out->bytes = bytes;
    free(folder);
    return good;
}

/* ---- training -------------------------------------------------------------------------------------------------- */

typedef struct training {
    double *seconds; /* [steps] */
    double *losses;  /* [steps] */
    int64_t steps;
    double tokens, total_seconds;
} training;

static bool one_step(run *r, double *out_tokens, peft_step_stats *out_stats) {
    const int64_t parts = run_int(r, "train.gradient_accumulation_steps"), batches = peft_dataset_batches(r->train);
    for (int64_t i = 0; i < parts; i++) {
        peft_batch batch;
        peft_batch_init(&batch);
        peft_status status = peft_dataset_next(r->train, &batch);
        if (status == PEFT_END) status = peft_dataset_next(r->train, &batch);
        if (status >= 0) status = peft_session_forward(r->session, &batch, NULL);
        if (status >= 0) status = peft_session_backward(r->session, 1.0f);
        if (status < 0) return cli_fail(r->c, NULL);
        *out_tokens += compare_tokens_of(&batch);
        uint64_t epoch, at;
        peft_dataset_position(r->train, &epoch, &at);
        if (at >= (uint64_t)batches) break; /* the last step of an epoch takes what is left */
    }
    return peft_optimizer_step(r->optimizer, r->session, out_stats) >= 0 || cli_fail(r->c, NULL);
}

static bool train(run *r, training *t) {
    const uint64_t total = peft_recipe_total_steps(r->recipe, peft_dataset_batches(r->train));
    peft_schedule schedule;
    peft_schedule_init(&schedule);
    peft_unfreezing unfreezing;
    peft_unfreezing_init(&unfreezing);
    if (peft_recipe_schedule(r->recipe, total, &schedule) < 0 ||
        peft_recipe_unfreezing(r->recipe, total, &unfreezing) < 0)
        return cli_fail(r->c, "the schedule");
    double *seconds = realloc(t->seconds, (size_t)(t->steps + (int64_t)total + 1) * sizeof *seconds);
    if (seconds != NULL) t->seconds = seconds;
    if (t->losses == NULL) t->losses = calloc((size_t)total + 1, sizeof *t->losses);
    if (seconds == NULL || t->losses == NULL) return cli_fail(r->c, "out of memory");
    progress p;
    progress_start(&p, r->c, total);
    t->tokens = t->total_seconds = 0.0;
    for (uint64_t step = 0; step < total && !interrupted(); step++) {
        peft_step_stats stats = {.struct_size = sizeof stats};
        double tokens = 0.0;
        const double start = now_seconds();
        peft_optimizer_set_lr(r->optimizer, (float)peft_schedule_lr(&schedule, step));
        if (peft_adapter_set_top_layers(r->adapter, peft_unfreezing_layers(&unfreezing, step)) < 0)
            return cli_fail(r->c, NULL);
        if (!one_step(r, &tokens, &stats)) return false;
        const double took = now_seconds() - start;
        t->seconds[t->steps++] = took;
        t->losses[step] = stats.loss;
        t->tokens += tokens;
        t->total_seconds += took;
        if (p.terminal)
            progress_step(&p, step + 1, stats.loss, NAN, took, tokens); /* a log needs no step of each entry */
    }
    cli_clear_line(r->c);
    return true;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values, int64_t count) {
    if (count == 0) return NAN;
    qsort(values, (size_t)count, sizeof *values, by_size);
    return 0.5 * (values[(count - 1) / 2] + values[count / 2]);
}

static void draw_curve(const training *t, int64_t steps, contender *out) {
    const int64_t points = steps < CURVE_POINTS ? steps : CURVE_POINTS;
    out->curve = points > 0 ? calloc((size_t)points, sizeof *out->curve) : NULL;
    for (int64_t i = 0; out->curve != NULL && i < points; i++) {
        const int64_t first = i * steps / points, end = (i + 1) * steps / points;
        double sum = 0.0;
        for (int64_t s = first; s < end; s++) sum += t->losses[s];
        out->curve[i] = (point){(double)end, sum / (double)(end - first)};
        out->curve_count = (size_t)i + 1;
    }
}

/* Means over the seeds that were run so far. A method that cannot do the base's own task (WARP reads the model out in
 * its own way) has no figure. */
static bool measure_forgetting(comparison *c, run *r, contender *out) {
    double before, after;
    if (run_text(r, "eval.forgetting") == NULL || out->kind != PEFT_COMPARE_TRAIN) return true;
    if (!isfinite(c->base_loss) && !run_forgetting(r, NULL, &c->base_loss)) return false;
    before = c->base_loss;
    if (!run_forgetting(r, r->adapter, &after)) {
        cli_note(r->c, "note: %s: no forgetting is measured: %s\n", out->name,
                 r->c->failure != NULL ? r->c->failure : "it cannot do the base's own task");
        free(r->c->failure);
        r->c->failure = NULL;
        return true;
    }
    const double done = (double)out->seeds;
    out->forgetting_before = before;
    out->forgetting_after = done > 0.0 ? (out->forgetting_after * done + after) / (done + 1.0) : after;
    return true;
}

/* ---- one seed ------------------------------------------------------------------------------------------------ */

/* Trains where there is something to train, then measures. */
static bool run_seed(comparison *c, run *r, int64_t seed, contender *out, training *t, quality *q) {
    cli *program = r->c;
    const bool trains = out->kind == PEFT_COMPARE_TRAIN;
    const uint32_t parts = RUN_DATA | RUN_VALIDATION | (trains ? RUN_ADAPTER | RUN_OPTIMIZER : 0u);
    peft_context_reset_peak(program->context);
    if (!run_open_parts(r, parts)) return false;
    if (trains) {
        out->trained = peft_adapter_parameter_count(r->adapter);
        if (!run_open_session(r, r->adapter, &r->session)) return false;
        interrupt_watch(r->session);
        const int64_t before = t->steps;
        const bool trained = train(r, t);
        interrupt_ignore();
        if (!trained) return false;
        if (interrupted()) return true;
        out->memory = fmax(isnan(out->memory) ? 0.0 : out->memory, memory_peak(program));
        out->steps = t->steps - before;
        out->train_flops_counted = peft_session_flops(r->session);
        if (out->curve == NULL) draw_curve(t, out->steps, out);
        peft_session_destroy(r->session);
        peft_optimizer_destroy(r->optimizer);
        r->session = NULL;
        r->optimizer = NULL;
        if (!measure_disk(c, r, seed, out)) return false;
    }
    r->session_options.inference = 1;
    peft_context_reset_peak(program->context);
    if (!run_open_session(r, r->adapter, &r->session)) return false;
    interrupt_watch(r->session);
    const bool scored = compare_score(c, r, r->session, q);
    interrupt_ignore();
    out->inference_memory = memory_peak(program);
    return scored && (interrupted() || measure_forgetting(c, r, out));
}

/* Adds one seed's result to the means. */
static void add_quality(contender *out, const quality *q, int64_t done) {
    if (done == 0) {
        out->q = *q;
        out->seed_low = out->seed_high = q->value;
        return;
    }
    const double share = 1.0 / (double)(done + 1);
    out->q.value += share * (q->value - out->q.value);
    out->q.low += share * (q->low - out->q.low);
    out->q.high += share * (q->high - out->q.high);
    out->q.milliseconds += share * (q->milliseconds - out->q.milliseconds);
    out->seed_low = fmin(out->seed_low, q->value);
    out->seed_high = fmax(out->seed_high, q->value);
}

static void add_costs(const peft_model *model, const training *t, contender *out) {
    peft_model_info info = {.struct_size = sizeof info};
    if (peft_model_get_info(model, &info) < 0) return;
    const int32_t architecture = compare_architecture(model);
    const double n = (double)info.parameters;
    out->infer_flops = out->infer_flops_uncached = peft_cost_inference(architecture, n, out->q.tokens);
    out->infer_flops_counted = out->q.flops;
    if (out->kind != PEFT_COMPARE_TRAIN) out->train_flops_counted = 0.0;
    out->train_tokens = t->tokens;
    out->train_flops = peft_cost_training(architecture, n, t->tokens);
    out->train_flops_frozen =
        peft_cost_training_frozen(architecture, n, (double)(out->trained > 0 ? out->trained : 0), t->tokens);
    out->share = n > 0.0 && out->trained >= 0 ? (double)out->trained / n : NAN;
}

/* Would both load the same model with the same head? */
static bool same_model(const run *a, const run *b) {
    static const char *const TEXTS[] = {"model", "model.task", "model.problem_type", "data.train", "data.label_key"};
    for (size_t i = 0; i < sizeof TEXTS / sizeof TEXTS[0]; i++) {
        const char *x = run_text(a, TEXTS[i]), *y = run_text(b, TEXTS[i]);
        if ((x == NULL) != (y == NULL) || (x != NULL && strcmp(x, y) != 0)) return false;
    }
    return run_int(a, "model.num_labels") == run_int(b, "model.num_labels");
}

static bool open_recipe(comparison *c, uint32_t index, const char *override, run *r) {
    if (peft_recipe_compare_open(c->r->recipe, index, &override, override != NULL ? 1 : 0, &r->recipe) >= 0)
        return true;
    free(r->c->failure);
    r->c->failure = text_copy(peft_context_error(c->r->reader));
    return false;
}

/* The recipe of an entry and its seed number `turn`, and the model: the common one where the entry wants no other. */
static bool open_entry(comparison *c, uint32_t index, int64_t turn, run *r) {
    *r = (run){.c = c->r->c, .reader = c->r->reader};
    if (!open_recipe(c, index, NULL, r)) return false;
    if (turn > 0) {
        char text[64];
        snprintf(text, sizeof text, "train.seed=%lld", (long long)(run_int(r, "train.seed") + turn));
        peft_recipe_destroy(r->recipe);
        r->recipe = NULL;
        if (!open_recipe(c, index, text, r)) return false;
    }
    if (c->r->model != NULL && same_model(r, c->r)) {
        r->model = c->r->model;
        r->borrowed_model = true;
    }
    return true;
}

static bool run_seeds(comparison *c, uint32_t index, const peft_compare_entry *entry, contender *out, training *t) {
    double seconds = 0.0;
    const bool prompts = entry->kind == PEFT_COMPARE_HARD_PROMPT || entry->kind == PEFT_COMPARE_ICL;
    /* Without training nothing depends on the seed; the seeds of shots are the prompt file's. */
    const int64_t seeds = entry->kind == PEFT_COMPARE_TRAIN ? c->seeds : 1;
    for (int64_t i = 0; i < seeds; i++) {
        run r;
        quality q = {.value = NAN};
        bool good = open_entry(c, index, i, &r);
        const int64_t seed = good ? run_int(&r, "train.seed") : 0;
        if (good && prompts)
            good = compare_prompts(c, &r, index, entry, out);
        else if (good)
            good = run_seed(c, &r, seed, out, t, &q);
        if (good && !interrupted() && !prompts) {
            add_quality(out, &q, i);
            add_costs(r.model, t, out);
            seconds += t->total_seconds;
            out->seeds = i + 1;
        }
        run_close_parts(&r);
        peft_recipe_destroy(r.recipe);
        if (!good) return false;
        if (interrupted()) return true;
    }
    if (entry->kind == PEFT_COMPARE_TRAIN) {
        out->seconds = seconds / (double)seeds;
        out->step_seconds = median(t->seconds, t->steps);
    }
    return true;
}

bool compare_entry(comparison *c, uint32_t index, contender *out) {
    peft_compare_entry entry = {.struct_size = sizeof entry};
    if (peft_recipe_compare_entry(c->r->recipe, index, &entry) < 0) return false;
    *out = (contender){.kind = entry.kind,
                       .name = entry.name,
                       .q = {.value = NAN, .low = NAN, .high = NAN, .milliseconds = NAN, .tokens = NAN},
                       .seed_low = NAN,
                       .seed_high = NAN,
                       .trained = entry.kind == PEFT_COMPARE_TRAIN ? -1 : 0,
                       .share = NAN,
                       .bytes = entry.kind == PEFT_COMPARE_TRAIN ? NAN : 0.0,
                       .memory = NAN,
                       .inference_memory = NAN,
                       .step_seconds = NAN,
                       .seconds = entry.kind == PEFT_COMPARE_TRAIN ? NAN : 0.0,
                       .train_tokens = NAN,
                       .train_flops = NAN,
                       .train_flops_frozen = NAN,
                       .train_flops_counted = NAN,
                       .infer_flops = NAN,
                       .infer_flops_uncached = NAN,
                       .infer_flops_counted = NAN,
                       .forgetting_before = NAN,
                       .forgetting_after = NAN};
    training t = {.seconds = NULL};
    cli *program = c->r->c;
    program->keep_failures = true;
    const bool good = run_seeds(c, index, &entry, out, &t);
    program->keep_failures = false;
    free(t.seconds);
    free(t.losses);
    if (interrupted()) return false;
    if (!good) {
        out->reason = program->failure != NULL ? program->failure : text_copy("failed");
        program->failure = NULL;
    }
    return true;
}
