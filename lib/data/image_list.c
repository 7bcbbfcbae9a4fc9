/* image_list.c: which pictures a data set has, and the class of each.
 *
 *   a folder       every sub-folder is a class, every picture in it an example
 *   a table        .csv, .tsv, .jsonl or .json with a path (relative to the table) and a label
 *   IDX            MNIST's format, also .gz; labels lie beside it ("images" and "idx3" in the name become "labels",
 * "idx1") CIFAR          .bin of CIFAR-10 or CIFAR-100 (fine labels)
 *
 * Files are opened when their batch comes; IDX and CIFAR stay mapped, or in memory where they were compressed.
 */
#include "data/data.h"
#include "data/image_data.h"

#include <stdio.h>

#include "format/gzip.h"
#include "format/idx.h"

enum { MOST_IMAGES = 1 << 26 };

typedef enum { FILES, IDX, CIFAR } kind;

struct peft__images {
    peft_context *ctx;
    peft__arena arena;
    peft_image_processor *processor;
    peft_image_info info;
    kind kind;
    peft__content pixels, tags; /* IDX and CIFAR */
    peft__idx idx, idx_labels;
    peft__cifar cifar;
    const char **paths;  /* FILES: [count] */
    const char **labels; /* [count] names of classes, NULL = none */
    int64_t count, capacity;
    int32_t grid[2];
};

static bool ends_with(const char *text, const char *tail) {
    const size_t length = strlen(text), size = strlen(tail);
    return length >= size && strcmp(text + length - size, tail) == 0;
}

static peft_status put(peft__images *images, const char *path, const char *label) {
    peft_context *ctx = images->ctx;
    if (images->count >= MOST_IMAGES)
        return peft__fail(ctx, PEFT_E_LIMIT, "a data set has at most %d pictures", MOST_IMAGES);
    if (images->count == images->capacity) {
        const int64_t wanted = images->capacity == 0 ? 256 : 2 * images->capacity;
        const size_t bytes = (size_t)wanted * sizeof *images->paths;
        const char **paths = peft__realloc(ctx->mem, images->paths, bytes);
        if (paths != NULL) images->paths = paths;
        const char **labels = paths == NULL ? NULL : peft__realloc(ctx->mem, images->labels, bytes);
        if (labels == NULL) return peft__fail_nomem(ctx, bytes, "the list of pictures");
        images->labels = labels;
        images->capacity = wanted;
    }
    images->paths[images->count] = path;
    images->labels[images->count++] = label;
    return PEFT_OK;
}

/* ---- folders ----------------------------------------------------------------------------------------------- */

static bool is_picture(const char *name) {
    static const char *const endings[] = {".png", ".PNG", ".jpg", ".JPG", ".jpeg", ".JPEG", ".ppm", ".pgm", ".pnm"};
    for (size_t i = 0; i < PEFT_COUNT(endings); i++)
        if (ends_with(name, endings[i])) return true;
    return false;
}

static char *join(peft__images *images, const char *folder, const char *name) {
    return peft__arena_strfmt(&images->arena, "%s/%s", folder, name);
}

static peft_status list_class(peft__images *images, const char *folder, const char *label) {
    char **names = NULL;
    size_t count = 0;
    PEFT_TRY(peft__list_dir(images->ctx, folder, &images->arena, &names, &count));
    for (size_t i = 0; i < count; i++) {
        if (!is_picture(names[i])) continue;
        const char *path = join(images, folder, names[i]);
        if (path == NULL) return peft__fail_nomem(images->ctx, strlen(folder), "a path");
        PEFT_TRY(put(images, path, label));
    }
    return PEFT_OK;
}

static peft_status list_folder(peft__images *images, const char *path, bool unlabelled) {
    char **names = NULL;
    size_t count = 0;
    PEFT_TRY(peft__list_dir(images->ctx, path, &images->arena, &names, &count));
    if (unlabelled) PEFT_TRY(list_class(images, path, NULL));
    for (size_t i = 0; i < count; i++) {
        const char *folder = join(images, path, names[i]);
        if (folder == NULL) return peft__fail_nomem(images->ctx, strlen(path), "a path");
        if (names[i][0] != '.' && peft__path_is_dir(folder)) PEFT_TRY(list_class(images, folder, names[i]));
    }
    if (images->count > 0) return PEFT_OK;
    return peft__fail(images->ctx, PEFT_E_ARG,
                      "%s: expected a folder for each class, with pictures (png, jpg, ppm) in it", path);
}

/* ---- tables ------------------------------------------------------------------------------------------------ */

static const char *first_field(const json_t *row, const char *const *names, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (json_is_string(json_object_get(row, names[i]))) return names[i];
    return NULL;
}

/* A label as text: a string, or an integer. */
static peft_status take_label(peft__images *images, const json_t *value, const char **out) {
    *out = NULL;
    if (json_is_string(value))
        *out = peft__arena_strdup(&images->arena, json_string_value(value));
    else if (json_is_integer(value))
        *out = peft__arena_strfmt(&images->arena, "%lld", (long long)json_integer_value(value));
    else
        return peft__fail(images->ctx, PEFT_E_FORMAT, "expected a label, a text or an integer, found %s",
                          peft__json_kind(value));
    return *out != NULL ? PEFT_OK : peft__fail_nomem(images->ctx, 64, "the label of a picture");
}

static peft_status take_row(peft__images *images, const char *folder, const json_t *row,
                            const peft_dataset_options *o) {
    static const char *const paths[] = {"image", "file", "file_name", "path", "filename"}, *const labels[] = {"label",
                                                                                                              "class",
                                                                                                              "labels"};
    const char *key = o->text_key != NULL ? o->text_key : first_field(row, paths, PEFT_COUNT(paths));
    const char *name = key != NULL ? json_string_value(json_object_get(row, key)) : NULL, *label = NULL;
    if (name == NULL)
        return peft__fail(images->ctx, PEFT_E_FORMAT, "expected the path of a picture in \"%s\"",
                          key != NULL ? key : "image");
    if (name[0] == '/' || strstr(name, "..") != NULL)
        return peft__fail(images->ctx, PEFT_E_FORMAT, "\"%.120s\": pictures lie below the folder of the table", name);
    if (o->unlabelled == 0) {
        const char *field = o->label_key;
        for (size_t i = 0; field == NULL && i < PEFT_COUNT(labels); i++)
            if (json_object_get(row, labels[i]) != NULL) field = labels[i];
        PEFT_TRY(take_label(images, field != NULL ? json_object_get(row, field) : NULL, &label));
    }
    const char *path = join(images, folder, name);
    return path == NULL ? peft__fail_nomem(images->ctx, strlen(name), "a path") : put(images, path, label);
}

static peft_status list_table(peft__images *images, const char *path, const peft_dataset_options *o) {
    peft_context *ctx = images->ctx;
    const char *slash = strrchr(path, '/');
    const char *folder = slash == NULL ? "." : peft__arena_strfmt(&images->arena, "%.*s", (int)(slash - path), path);
    if (folder == NULL) return peft__fail_nomem(ctx, strlen(path), "a path");
    peft__content content;
    peft__rows *rows = NULL;
    PEFT_TRY(peft__content_open(ctx, path, 0, &content));
    peft_status status = peft__rows_open_memory(ctx, path, content.data, content.size, NULL, &rows);
    while (status == PEFT_OK) {
        json_t *row = NULL;
        status = peft__rows_next(rows, &row);
        if (status != PEFT_OK) break;
        status = take_row(images, folder, row, o);
        if (status < 0) status = peft__fail_in(ctx, status, "%s:%llu", path, (unsigned long long)peft__rows_line(rows));
        json_decref(row);
    }
    peft__rows_free(rows);
    peft__content_close(&content);
    if (status < 0) return status;
    return images->count > 0 ? PEFT_OK : peft__fail(ctx, PEFT_E_ARG, "%s: no picture is listed", path);
}

/* ---- IDX and CIFAR ----------------------------------------------------------------------------------------- */

static peft_status put_number(peft__images *images, int64_t label) {
    const char *text = peft__arena_strfmt(&images->arena, "%lld", (long long)label);
    return text == NULL ? peft__fail_nomem(images->ctx, 32, "the label of a picture") : put(images, NULL, text);
}

/* The labels' file beside "train-images-idx3-ubyte.gz". */
static char *labels_beside(peft__images *images, const char *path) {
    char *name = peft__arena_strdup(&images->arena, path);
    const char *slash = name != NULL ? strrchr(name, '/') : NULL;
    char *base = name == NULL ? NULL : slash != NULL ? name + (slash - name) + 1 : name;
    char *word = base != NULL ? strstr(base, "images") : NULL;
    if (word == NULL) return NULL;
    memcpy(word, "labels", 6);
    char *digit = strstr(base, "idx3");
    if (digit != NULL) digit[3] = '1';
    return name;
}

static peft_status list_idx(peft__images *images, const char *path, bool unlabelled) {
    peft_context *ctx = images->ctx;
    images->kind = IDX;
    PEFT_TRY(peft__idx_parse(ctx, path, images->pixels.data, images->pixels.size, &images->idx));
    const peft__idx *idx = &images->idx;
    if (idx->type != 0x08 || idx->ndim != 3)
        return peft__fail(ctx, PEFT_E_FORMAT, "%s: expected bytes in three dimensions (pictures, rows, columns)", path);
    const char *beside = unlabelled ? NULL : labels_beside(images, path);
    if (!unlabelled && (beside == NULL || !peft__path_exists(beside)))
        return peft__fail(ctx, PEFT_E_ARG, "%s: the labels are expected beside it%s%s", path,
                          beside != NULL ? ", in " : "",
                          beside != NULL ? beside : "; its name has no \"images\" to become \"labels\"");
    if (beside != NULL) {
        PEFT_TRY(peft__content_open(ctx, beside, 0, &images->tags));
        PEFT_TRY(peft__idx_parse(ctx, beside, images->tags.data, images->tags.size, &images->idx_labels));
        if (images->idx_labels.ndim != 1 || images->idx_labels.count != idx->shape[0])
            return peft__fail(ctx, PEFT_E_MISMATCH, "%s has %lld labels for %lld pictures", beside,
                              (long long)images->idx_labels.count, (long long)idx->shape[0]);
    }
    for (int64_t i = 0; i < idx->shape[0]; i++) {
        if (beside == NULL)
            PEFT_TRY(put(images, NULL, NULL));
        else
            PEFT_TRY(put_number(images, (int64_t)peft__idx_value(&images->idx_labels, i)));
    }
    return PEFT_OK;
}

static peft_status list_cifar(peft__images *images, const char *path) {
    images->kind = CIFAR;
    const uint32_t label_bytes = images->pixels.size % (PEFT__CIFAR_PIXELS + 1) == 0 ? 1 : 2;
    PEFT_TRY(
        peft__cifar_parse(images->ctx, path, images->pixels.data, images->pixels.size, label_bytes, &images->cifar));
    for (int64_t i = 0; i < images->cifar.count; i++)
        PEFT_TRY(put_number(images, peft__cifar_label(&images->cifar, i, label_bytes - 1)));
    return PEFT_OK;
}

static peft_status list_all(peft__images *images, const char *path, const peft_dataset_options *o) {
    static const char *const tables[] = {".csv", ".tsv", ".jsonl", ".json", ".csv.gz", ".tsv.gz", ".jsonl.gz"};
    if (peft__path_is_dir(path)) return list_folder(images, path, o->unlabelled != 0);
    for (size_t i = 0; i < PEFT_COUNT(tables); i++)
        if (ends_with(path, tables[i])) return list_table(images, path, o);
    PEFT_TRY(peft__content_open(images->ctx, path, 0, &images->pixels));
    const peft__content *c = &images->pixels;
    if (c->size > 4 && c->data[0] == 0 && c->data[1] == 0 && c->data[2] == 0x08)
        return list_idx(images, path, o->unlabelled != 0);
    if (ends_with(path, ".bin") || ends_with(path, ".bin.gz")) return list_cifar(images, path);
    return peft__fail(images->ctx, PEFT_E_FORMAT,
                      "%s: expected a folder of pictures, a table (csv, jsonl), an IDX file or CIFAR's .bin", path);
}

/* ---- opening, reading -------------------------------------------------------------------------------------- */

/* What the model makes of a picture, and how large that is. */
static peft_status set_up(peft__images *images, const peft_model *model) {
    peft_context *ctx = images->ctx;
    images->info.struct_size = (uint32_t)sizeof images->info;
    PEFT_TRY(peft_model_image_info(ctx, model, &images->info));
    PEFT_TRY(peft_image_processor_create(ctx, model, NULL, &images->processor));
    const peft_image_processor *p = images->processor;
    if (p->out_height == 0)
        return peft__fail(
            ctx, PEFT_E_UNSUPPORTED,
            "preprocessor_config.json leaves pictures of different sizes: a data set needs one (do_center_crop)");
    if (peft_image_patch_count(&images->info, p->out_height, p->out_width, images->grid) < 1)
        return peft__fail(ctx, PEFT_E_MISMATCH, "pictures of %lld x %lld pixels have no patch of %u x %u",
                          (long long)p->out_height, (long long)p->out_width, images->info.patch_height,
                          images->info.patch_width);
    return PEFT_OK;
}

peft_status peft__images_open(peft_context *ctx, const peft_model *model, const char *path,
                              const peft_dataset_options *o, peft__images **out_images) {
    peft__images *images = peft__alloc_zero(ctx->mem, sizeof *images);
    if (images == NULL) return peft__fail_nomem(ctx, sizeof *images, "a data set");
    images->ctx = ctx; /* the data set holds it */
    peft__arena_init(&images->arena, ctx->mem);
    peft_status status = model != NULL ? set_up(images, model) : PEFT_OK;
    if (status >= 0) status = list_all(images, path, o);
    if (status < 0) {
        peft__images_free(images);
        return status;
    }
    *out_images = images;
    return PEFT_OK;
}

void peft__images_free(peft__images *images) {
    if (images == NULL) return;
    peft__mem *mem = images->ctx->mem;
    if (images->pixels.source != NULL) peft__content_close(&images->pixels);
    if (images->tags.source != NULL) peft__content_close(&images->tags);
    peft_image_processor_destroy(images->processor);
    peft__free(mem, images->paths);
    peft__free(mem, images->labels);
    peft__arena_free(&images->arena);
    peft__free(mem, images);
}

int64_t peft__images_count(const peft__images *images) {
    return images->count;
}
const char *peft__images_label(const peft__images *images, int64_t index) {
    return images->labels[index];
}

int64_t peft__images_patches(const peft__images *images, int64_t *out_cols, int32_t out_grid[2]) {
    if (out_cols != NULL)
        *out_cols = (int64_t)images->info.channels * images->info.patch_height * images->info.patch_width;
    if (out_grid != NULL) memcpy(out_grid, images->grid, sizeof images->grid);
    return (int64_t)images->grid[0] * images->grid[1];
}

/* The picture as RGB. */
static peft_status decode(peft_context *ctx, const peft__images *images, int64_t index, peft__image *out) {
    if (images->kind == FILES) return peft__image_open(ctx, images->paths[index], out);
    const bool idx = images->kind == IDX;
    const int64_t height = idx ? images->idx.shape[1] : PEFT__CIFAR_SIDE,
                  width = idx ? images->idx.shape[2] : PEFT__CIFAR_SIDE;
    memset(out, 0, sizeof *out);
    PEFT_TRY(peft__image_new(ctx, images->pixels.name, width, height, out));
    const int64_t plane = height * width;
    const uint8_t *from = idx ? images->idx.data + index * plane : peft__cifar_pixels(&images->cifar, index);
    for (int64_t i = 0; i < plane; i++)
        for (int c = 0; c < 3; c++) out->pixels[3 * i + c] = from[(idx ? 0 : c * plane) + i];
    return PEFT_OK;
}

int64_t peft__images_plane_floats(const peft__images *images) {
    const peft_image_processor *p = images->processor;
    return p->out_height * p->out_width * p->channels;
}

peft_status peft__images_read(peft_context *ctx, const peft__images *images, int64_t index,
                              const peft_image_augment *augment, float *planes, float *out) {
    const peft_image_processor *p = images->processor;
    const int64_t room = peft__images_plane_floats(images);
    peft__image image;
    PEFT_TRY(decode(ctx, images, index, &image));
    const peft_status status = peft__image_prepare(ctx, p, &image, augment, planes, room, NULL, NULL);
    peft__image_free(ctx, &image);
    PEFT_TRY(status);
    return peft_image_patches(ctx, &images->info, planes, 1, p->out_height, p->out_width, out, room);
}
