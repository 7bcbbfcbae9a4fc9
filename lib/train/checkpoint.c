/* checkpoint.c: stopping and going on as if nothing had happened.
 *
 * A checkpoint is a folder:
 *   checkpoint.json         what it is, counters, the adapters' configurations, the base's hash
 *   parameters.safetensors  every tensor of every adapter, as in memory: "0.<name>" is of the first adapter
 *   optimizer.safetensors   the optimizer's averages: "<name>/<part>"
 *   host.json               the host's own text, byte for byte
 * Random numbers are functions of counters, so the counters are all there is to save of them. The folder is written
 * under another name and takes the place of the old one in one system call. Loading checks everything before it changes
 * anything.
 */
#include "train/train.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/safetensors.h"

#define FORMAT "libpeft checkpoint"
enum { VERSION = 1 };

static const char *const file_names[] = {"checkpoint.json", "parameters.safetensors", "optimizer.safetensors",
                                         "host.json"};
enum { FILE_MAIN, FILE_PARAMETERS, FILE_OPTIMIZER, FILE_HOST, FILE_COUNT };

static char *path_of(peft_context *ctx, const char *folder, int file) {
    return peft__path_join(ctx->mem, folder, file_names[file]);
}

/* ---- folders ------------------------------------------------------------------------------------------------ */

static peft_status fail_errno(peft_context *ctx, const char *path, const char *what) {
    char text[128];
    return peft__fail(ctx, PEFT_E_IO, "%s: %s: %s", path, what, peft__errno_text(errno, text, sizeof text));
}

/* Removes our files and the folder if nothing else is in it. Takes no memory: it must work when there is none. */
static void remove_folder(const char *folder) {
    const int saved = errno;
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        for (int file = 0; file < FILE_COUNT; file++) (void)unlinkat(fd, file_names[file], 0);
        (void)close(fd);
        (void)rmdir(folder);
    }
    errno = saved;
}

/* An existing folder is replaced as a whole: it may hold a checkpoint or nothing. */
static peft_status check_replaceable(peft_context *ctx, const char *folder) {
    if (!peft__path_exists(folder)) return PEFT_OK;
    if (!peft__path_is_dir(folder)) return peft__fail(ctx, PEFT_E_IO, "%s is not a folder", folder);
    peft__arena arena;
    peft__arena_init(&arena, ctx->mem);
    char **names = NULL;
    size_t count = 0;
    peft_status status = peft__list_dir(ctx, folder, &arena, &names, &count);
    for (size_t i = 0; status >= 0 && i < count; i++) {
        bool known = false;
        for (int file = 0; file < FILE_COUNT; file++) known = known || strcmp(names[i], file_names[file]) == 0;
        if (!known)
            status =
                peft__fail(ctx, PEFT_E_IO, "%s holds %s, which is no part of a checkpoint: it will not be replaced",
                           folder, names[i]);
    }
    peft__arena_free(&arena);
    return status;
}

static void flush_parent(const char *folder) {
    char parent[4096];
    const size_t length = strlen(folder);
    if (length >= sizeof parent) return;
    memcpy(parent, folder, length + 1);
    char *slash = strrchr(parent, '/');
    if (slash == NULL)
        (void)snprintf(parent, sizeof parent, ".");
    else
        slash[slash == parent ? 1 : 0] = '\0';
    const int saved = errno;
    const int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        (void)close(fd);
    }
    errno = saved;
}

/* Puts `fresh` in the place of `folder` and removes what was there. */
static peft_status exchange(peft_context *ctx, const char *fresh, const char *folder) {
    if (rename(fresh, folder) == 0) { /* nothing there, or an empty folder */
        flush_parent(folder);
        return PEFT_OK;
    }
#ifdef RENAME_EXCHANGE
    if (renameat2(AT_FDCWD, fresh, AT_FDCWD, folder, RENAME_EXCHANGE) == 0) {
        flush_parent(folder);
        remove_folder(fresh);
        return PEFT_OK;
    }
#endif
    /* A file system that cannot exchange: for a moment the old one stands beside under another name. */
    char *aside = peft__strfmt(ctx->mem, "%s.old", fresh);
    if (aside == NULL) return peft__fail_nomem(ctx, strlen(fresh), "a path");
    peft_status status = PEFT_OK;
    if (rename(folder, aside) != 0) {
        status = fail_errno(ctx, folder, "the old checkpoint could not be moved");
    } else if (rename(fresh, folder) != 0) {
        status = fail_errno(ctx, folder, "the new checkpoint could not be put in place");
        (void)rename(aside, folder);
    } else {
        flush_parent(folder);
        remove_folder(aside);
    }
    peft__free(ctx->mem, aside);
    return status;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

static peft_status write_parameters(peft_session *session, const char *path) {
    peft_context *ctx = session->ctx;
    peft__arena arena;
    peft__arena_init(&arena, ctx->mem);
    peft__tensor_out *out = peft__arena_alloc(&arena, (size_t)(session->params + 1) * sizeof *out);
    peft_status status =
        out == NULL ? peft__fail_nomem(ctx, (size_t)session->params * sizeof *out, "a checkpoint") : PEFT_OK;
    size_t count = 0;
    for (uint32_t a = 0; status >= 0 && a < session->count; a++) {
        const peft_adapter *adapter = session->adapters[a];
        for (uint32_t i = 0; status >= 0 && i < adapter->count; i++) {
            const peft__param *param = &adapter->params[i];
            peft__tensor_out *tensor = &out[count++];
            tensor->name = peft__arena_strfmt(&arena, "%u.%s", a, param->name);
            tensor->dtype = PEFT_DTYPE_F32;
            tensor->ndim = param->ndim;
            memcpy(tensor->shape, param->shape, param->ndim * sizeof *param->shape);
            tensor->data = param->data;
            if (tensor->name == NULL) status = peft__fail_nomem(ctx, strlen(param->name), "a checkpoint");
        }
    }
    if (status >= 0) status = peft__safetensors_write(ctx, path, out, count, NULL, 0);
    peft__arena_free(&arena);
    return status;
}

/* Name of part `which` (0: m, 1: v) of a tensor's optimizer state; NULL: no memory. */
static char *part_name(peft__arena *arena, const peft_optimizer *opt, const peft__moment *moment, int which) {
    return peft__arena_strfmt(arena, "%s/%s", opt->adapter->params[moment->index].name,
                              peft__optimizer_part(opt, moment, which));
}

static peft_status write_optimizer(peft_context *ctx, const peft_optimizer *opt, const char *path) {
    peft__arena arena;
    peft__arena_init(&arena, ctx->mem);
    peft__tensor_out *out = peft__arena_alloc(&arena, ((size_t)opt->moment_count * 2 + 1) * sizeof *out);
    peft_status status = out == NULL ? peft__fail_nomem(ctx, opt->moment_count * sizeof *out, "a checkpoint") : PEFT_OK;
    size_t count = 0;
    for (uint32_t i = 0; status >= 0 && i < opt->moment_count; i++) {
        const peft__moment *moment = &opt->moments[i];
        for (int which = 0; status >= 0 && which < 2; which++) {
            if (peft__optimizer_part(opt, moment, which) == NULL) continue;
            peft__tensor_out *tensor = &out[count++];
            tensor->name = part_name(&arena, opt, moment, which);
            tensor->dtype = PEFT_DTYPE_F32;
            tensor->ndim = 1;
            tensor->shape[0] = which == 0 ? moment->m_count : moment->v_count;
            tensor->data = which == 0 ? moment->m : moment->v;
            if (tensor->name == NULL) status = peft__fail_nomem(ctx, 64, "a checkpoint");
        }
    }
    if (status >= 0) status = peft__safetensors_write(ctx, path, out, count, NULL, 0);
    peft__arena_free(&arena);
    return status;
}

static peft_status write_main(const peft_session *session, const peft_optimizer *opt, const char *path) {
    peft_context *ctx = session->ctx;
    peft_model_info info = {.struct_size = (uint32_t)sizeof info};
    PEFT_TRY(peft_model_get_info(session->model, &info));
    char hash[24];
    (void)snprintf(hash, sizeof hash, "%016" PRIx64, info.hash);
    json_t *main = json_pack("{s:s, s:i, s:s, s:I, s:[], s:[]}", "format", FORMAT, "version", VERSION, "base", hash,
                             "forward_passes", (json_int_t)session->passes, "adapters", "top_layers");
    bool good = main != NULL;
    for (uint32_t a = 0; good && a < session->count; a++)
        good = json_array_append_new(json_object_get(main, "adapters"),
                                     json_string(peft_adapter_config(session->adapters[a]))) == 0;
    for (uint32_t a = 0; good && a < session->count; a++)
        good = json_array_append_new(json_object_get(main, "top_layers"),
                                     json_integer(session->adapters[a]->top_layers)) == 0;
    if (good && opt != NULL) {
        json_t *object = json_pack("{s:i, s:I, s:f, s:i, s:{}}", "kind", opt->options.kind, "steps",
                                   (json_int_t)opt->steps, "lr", (double)opt->lr, "adapter",
                                   peft__session_find(session, opt->adapter), "tensor_steps");
        good = json_object_set_new(main, "optimizer", object) == 0;
        for (uint32_t i = 0; good && i < opt->moment_count; i++)
            if (opt->moments[i].steps != opt->steps)
                good = json_object_set_new(json_object_get(object, "tensor_steps"),
                                           opt->adapter->params[opt->moments[i].index].name,
                                           json_integer((json_int_t)opt->moments[i].steps)) == 0;
    }
    const peft_status status =
        good ? peft__json_write_file(ctx, path, main, true) : peft__fail_nomem(ctx, 0, "a checkpoint");
    json_decref(main);
    return status;
}

static peft_status write_all(peft_session *session, const peft_optimizer *opt, const char *folder,
                             const char *state_json) {
    peft_context *ctx = session->ctx;
    peft_status status = peft__make_dirs(ctx, folder);
    for (int file = FILE_COUNT - 1; status >= 0 && file >= 0; file--) {
        char *path = path_of(ctx, folder, file);
        if (path == NULL)
            status = peft__fail_nomem(ctx, strlen(folder), "a path");
        else if (file == FILE_HOST)
            status = state_json == NULL ? PEFT_OK : peft__write_file(ctx, path, state_json, strlen(state_json));
        else if (file == FILE_OPTIMIZER)
            status = opt == NULL ? PEFT_OK : write_optimizer(ctx, opt, path);
        else if (file == FILE_PARAMETERS)
            status = write_parameters(session, path);
        else
            status = write_main(session, opt, path);
        peft__free(ctx->mem, path);
    }
    return status;
}

static peft_status check_arguments(const peft_session *session, const peft_optimizer *opt, const char *folder) {
    if (folder == NULL || folder[0] == '\0')
        return peft__fail(session->ctx, PEFT_E_ARG, "the checkpoint's folder is missing");
    if (opt != NULL && peft__session_find(session, opt->adapter) < 0)
        return peft__fail(session->ctx, PEFT_E_ARG, "the optimizer's adapter is not one of the session's");
    return PEFT_OK;
}

peft_status peft_checkpoint_save(peft_session *session, peft_optimizer *optimizer, const char *folder,
                                 const char *state_json) {
    if (session == NULL) return PEFT_E_ARG;
    peft_context *ctx = session->ctx;
    PEFT_TRY(check_arguments(session, optimizer, folder));
    PEFT_TRY(peft__session_need(session, session->phase == PEFT__IDLE, "peft_checkpoint_save()",
                                "comes between steps, because accumulated gradients are not saved"));
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/') length--;
    char *to = peft__strndup(ctx->mem, folder, length);
    char *fresh =
        to == NULL ? NULL : peft__strfmt(ctx->mem, "%s.tmp.%ld-%" PRIx64, to, (long)getpid(), peft__clock_us());
    peft_status status = fresh == NULL ? peft__fail_nomem(ctx, length, "a path") : check_replaceable(ctx, to);
    if (status >= 0) {
        status = write_all(session, optimizer, fresh, state_json);
        if (status >= 0) status = exchange(ctx, fresh, to);
        if (status < 0) remove_folder(fresh);
    }
    peft__free(ctx->mem, fresh);
    peft__free(ctx->mem, to);
    return status;
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

/* One tensor to be restored; the list is complete before the first is. */
typedef struct copy {
    float *to;
    const uint8_t *from;
    size_t bytes;
} copy;

typedef struct reading {
    peft_session *session;
    peft_optimizer *optimizer;
    peft__json *main;
    peft__tensors *parameters, *moments;
    peft__arena arena;
    copy *copies;
    size_t count;
    int64_t passes, steps;
    double lr;
    int32_t *top_layers;    /* by adapter */
    uint64_t *tensor_steps; /* by moment */
} reading;

/* Which layers were trained (gradual unfreezing); checkpoints of earlier versions do not say: all. */
static peft_status read_top_layers(reading *r, const char *path) {
    peft_session *session = r->session;
    const peft__json *list = peft__json_value(r->main, "top_layers");
    r->top_layers = peft__arena_alloc(&r->arena, (session->count + 1) * sizeof *r->top_layers);
    if (r->top_layers == NULL) return peft__fail_nomem(session->ctx, session->count, "a checkpoint");
    for (uint32_t a = 0; a < session->count; a++) {
        const json_t *value = json_array_get(list, a);
        const json_int_t layers = list == NULL ? -1 : json_is_integer(value) ? json_integer_value(value) : -2;
        if (layers < -1 || layers > INT32_MAX)
            return peft__fail(session->ctx, PEFT_E_FORMAT, "%s: top_layers has no number for adapter %u", path, a);
        r->top_layers[a] = (int32_t)layers;
    }
    return PEFT_OK;
}

/* Steps of each tensor, where they are not the optimizer's: it rested. */
static peft_status read_tensor_steps(reading *r, const char *path, const peft__json *optimizer) {
    const peft_optimizer *opt = r->optimizer;
    const peft__json *given = peft__json_value(optimizer, "tensor_steps");
    r->tensor_steps = peft__arena_alloc(&r->arena, (opt->moment_count + 1) * sizeof *r->tensor_steps);
    if (r->tensor_steps == NULL) return peft__fail_nomem(opt->ctx, opt->moment_count, "a checkpoint");
    for (uint32_t i = 0; i < opt->moment_count; i++) {
        int64_t steps = r->steps;
        if (given != NULL)
            PEFT_TRY(peft__json_get_int(opt->ctx, given, path, opt->adapter->params[opt->moments[i].index].name, 0,
                                        r->steps, r->steps, &steps));
        r->tensor_steps[i] = (uint64_t)steps;
    }
    return PEFT_OK;
}

static peft_status read_main(reading *r, const char *path) {
    peft_session *session = r->session;
    peft_context *ctx = session->ctx;
    PEFT_TRY(peft__json_load_file(ctx, path, 0, &r->main));
    const char *format, *base;
    int64_t version, kind;
    PEFT_TRY(peft__json_need_string(ctx, r->main, path, "format", &format));
    PEFT_TRY(peft__json_need_int(ctx, r->main, path, "version", 1, INT64_MAX, &version));
    if (strcmp(format, FORMAT) != 0 || version > VERSION)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: expected \"%s\" up to version %d, found \"%s\" version %lld", path,
                          FORMAT, VERSION, format, (long long)version);
    PEFT_TRY(peft__json_need_string(ctx, r->main, path, "base", &base));
    PEFT_TRY(peft__json_need_int(ctx, r->main, path, "forward_passes", 0, INT64_MAX, &r->passes));
    peft_model_info info = {.struct_size = (uint32_t)sizeof info};
    PEFT_TRY(peft_model_get_info(session->model, &info));
    char hash[24];
    (void)snprintf(hash, sizeof hash, "%016" PRIx64, info.hash);
    if (strcmp(hash, base) != 0)
        return peft__fail(ctx, PEFT_E_MISMATCH, "%s was made with another base model (hash %s, this one has %s)", path,
                          base, hash);
    const peft__json *adapters;
    PEFT_TRY(peft__json_need_array(ctx, r->main, path, "adapters", &adapters));
    if (json_array_size(adapters) != session->count)
        return peft__fail(ctx, PEFT_E_MISMATCH, "%s has %zu adapters, the session has %u", path,
                          json_array_size(adapters), session->count);
    for (uint32_t a = 0; a < session->count; a++) {
        const char *config = json_string_value(json_array_get(adapters, a));
        if (config == NULL || strcmp(config, peft_adapter_config(session->adapters[a])) != 0)
            return peft__fail(ctx, PEFT_E_MISMATCH, "%s: adapter %u has another configuration than the session's", path,
                              a);
    }
    PEFT_TRY(read_top_layers(r, path));
    if (r->optimizer == NULL) return PEFT_OK;
    const peft__json *optimizer;
    int64_t adapter;
    PEFT_TRY(peft__json_need_object(ctx, r->main, path, "optimizer", &optimizer));
    PEFT_TRY(peft__json_need_int(ctx, optimizer, path, "kind", 0, INT32_MAX, &kind));
    PEFT_TRY(peft__json_need_int(ctx, optimizer, path, "adapter", 0, INT32_MAX, &adapter));
    PEFT_TRY(peft__json_need_int(ctx, optimizer, path, "steps", 0, INT64_MAX, &r->steps));
    PEFT_TRY(peft__json_need_double(ctx, optimizer, path, "lr", 0.0, 1e30, &r->lr));
    PEFT_TRY(read_tensor_steps(r, path, optimizer));
    if (kind != r->optimizer->options.kind)
        return peft__fail(ctx, PEFT_E_MISMATCH, "%s: the optimizer is of kind %lld, this one of kind %d", path,
                          (long long)kind, r->optimizer->options.kind);
    if (adapter != peft__session_find(session, r->optimizer->adapter))
        return peft__fail(ctx, PEFT_E_MISMATCH, "%s: the optimizer belongs to adapter %lld", path, (long long)adapter);
    return PEFT_OK;
}

static peft_status need_floats(peft_context *ctx, const peft__tensors *tensors, const char *name, uint32_t ndim,
                               const int64_t *shape, const peft__tensor **out) {
    if (name == NULL) return peft__fail_nomem(ctx, 64, "a tensor's name");
    PEFT_TRY(peft__tensors_need(ctx, tensors, name, out));
    if ((*out)->dtype != PEFT_DTYPE_F32)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: %s is F32 in a checkpoint, found %s", peft__tensors_name(tensors),
                          name, peft_dtype_name((*out)->dtype));
    return peft__tensor_check_shape(ctx, *out, ndim, shape);
}

static peft_status find_parameters(reading *r) {
    const peft_session *session = r->session;
    for (uint32_t a = 0; a < session->count; a++) {
        for (uint32_t i = 0; i < session->adapters[a]->count; i++) {
            const peft__param *param = &session->adapters[a]->params[i];
            const peft__tensor *tensor;
            const char *name = peft__arena_strfmt(&r->arena, "%u.%s", a, param->name);
            PEFT_TRY(need_floats(session->ctx, r->parameters, name, param->ndim, param->shape, &tensor));
            r->copies[r->count++] = (copy){param->data, tensor->data, (size_t)param->elements * sizeof(float)};
        }
    }
    return PEFT_OK;
}

static peft_status find_moments(reading *r) {
    const peft_optimizer *opt = r->optimizer;
    for (uint32_t i = 0; opt != NULL && i < opt->moment_count; i++) {
        const peft__moment *moment = &opt->moments[i];
        for (int which = 0; which < 2; which++) {
            if (peft__optimizer_part(opt, moment, which) == NULL) continue;
            const int64_t count = which == 0 ? moment->m_count : moment->v_count;
            const peft__tensor *tensor;
            PEFT_TRY(need_floats(opt->ctx, r->moments, part_name(&r->arena, opt, moment, which), 1, &count, &tensor));
            r->copies[r->count++] =
                (copy){which == 0 ? moment->m : moment->v, tensor->data, (size_t)count * sizeof(float)};
        }
    }
    return PEFT_OK;
}

static peft_status find_tensors(reading *r) {
    const size_t most =
        (size_t)r->session->params + (r->optimizer == NULL ? 0 : 2 * (size_t)r->optimizer->moment_count);
    r->copies = peft__arena_alloc(&r->arena, (most + 1) * sizeof *r->copies);
    if (r->copies == NULL) return peft__fail_nomem(r->session->ctx, most * sizeof *r->copies, "a checkpoint");
    PEFT_TRY(find_parameters(r));
    return find_moments(r);
}

static peft_status read_host(peft_context *ctx, const char *path, char **out_text) {
    if (!peft__path_exists(path)) return PEFT_OK;
    peft__source *source;
    PEFT_TRY(peft__source_open_path(ctx, path, &source));
    *out_text = peft__strndup(ctx->mem, (const char *)source->data, source->size);
    const peft_status status = *out_text == NULL ? peft__fail_nomem(ctx, source->size, "the host's text") : PEFT_OK;
    peft__source_unref(source);
    return status;
}

static peft_status read_files(reading *r, const char *folder, bool want_text, char **out_text) {
    peft_context *ctx = r->session->ctx;
    char *paths[FILE_COUNT];
    peft_status status = PEFT_OK;
    for (int file = 0; file < FILE_COUNT; file++) {
        paths[file] = path_of(ctx, folder, file);
        if (paths[file] == NULL) status = peft__fail_nomem(ctx, strlen(folder), "a path");
    }
    if (status >= 0) status = read_main(r, paths[FILE_MAIN]);
    if (status >= 0) status = peft__safetensors_open(ctx, paths[FILE_PARAMETERS], &r->parameters);
    if (status >= 0 && r->optimizer != NULL) status = peft__safetensors_open(ctx, paths[FILE_OPTIMIZER], &r->moments);
    if (status >= 0) status = find_tensors(r);
    if (status >= 0 && want_text) status = read_host(ctx, paths[FILE_HOST], out_text);
    for (int file = 0; file < FILE_COUNT; file++) peft__free(ctx->mem, paths[file]);
    return status;
}

peft_status peft_checkpoint_load(peft_session *session, peft_optimizer *optimizer, const char *folder,
                                 char **out_state_json) {
    if (session == NULL) return PEFT_E_ARG;
    peft_context *ctx = session->ctx;
    PEFT_TRY(check_arguments(session, optimizer, folder));
    PEFT_TRY(peft__session_need(session, session->phase != PEFT__RUNNING, "peft_checkpoint_load()",
                                "does not come inside a pass"));
    reading r = {.session = session, .optimizer = optimizer};
    peft__arena_init(&r.arena, ctx->mem);
    char *text = NULL;
    peft_status status = read_files(&r, folder, out_state_json != NULL, &text);
    /* Cannot fail after the first: what an adapter once trained leaves something of it to train. */
    for (uint32_t a = 0; status >= 0 && a < session->count; a++)
        status = peft_adapter_set_top_layers(session->adapters[a], r.top_layers[a]);
    if (status >= 0) {
        for (size_t i = 0; i < r.count; i++) memcpy(r.copies[i].to, r.copies[i].from, r.copies[i].bytes);
        session->passes = (uint64_t)r.passes;
        if (optimizer != NULL) {
            optimizer->steps = (uint64_t)r.steps;
            optimizer->lr = (float)r.lr;
            for (uint32_t i = 0; i < optimizer->moment_count; i++) optimizer->moments[i].steps = r.tensor_steps[i];
        }
        peft__session_forget_pass(session);
        peft__session_drop(session, UINT32_MAX);
        if (out_state_json != NULL) *out_state_json = text;
    } else {
        peft__free(ctx->mem, text);
    }
    json_decref(r.main);
    peft__tensors_unref(r.parameters);
    peft__tensors_unref(r.moments);
    peft__arena_free(&r.arena);
    return status;
}

void peft_text_free(peft_context *context, char *text) {
    if (context != NULL) peft__free(context->mem, text);
}
