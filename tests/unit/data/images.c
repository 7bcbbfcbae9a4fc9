/* Pictures: every file and filter as PIL, preprocessing as transformers (tests/data/images/make.py); files that are cut off or lie. */
#include <unistd.h>

#include "check.h"
#include "data/image_data.h"
#include "format/json.h"
#include "format/safetensors.h"
#include "meter.h"
#include "peft/peft.h"
#include "peft_config.h"

enum { PATH = 600 };

static peft_context *ctx;
static const char *root;
static peft__tensors *expected;

static char *at(char path[PATH], const char *name) {
    (void)snprintf(path, PATH, "%s/images/%s", root, name);
    return path;
}

static uint8_t *slurp(const char *name, size_t *size) {
    char path[PATH];
    FILE *file = fopen(at(path, name), "rb");
    uint8_t *data = malloc(1 << 17);
    *size = file != NULL ? fread(data, 1, 1 << 17, file) : 0;
    CHECK(*size > 0);
    if (file != NULL) fclose(file);
    return data;
}

static int worst_byte(const peft__image *image, const peft__tensor *want) {
    if (!CHECK(image->height == want->shape[0] && image->width == want->shape[1])) return 256;
    int worst = 0;
    for (int64_t i = 0; i < image->height * image->width * 3; i++) {
        const int difference = abs((int)image->pixels[i] - (int)want->data[i]);
        worst = difference > worst ? difference : worst;
    }
    return worst;
}

static bool is_built(const char *name) {
    if (strstr(name, ".png") != NULL) return PEFT_HAVE_PNG;
    return strstr(name, ".jpg") == NULL || PEFT_HAVE_JPEG;
}

static void test_files(void) {
    for (size_t i = 0; i < peft__tensors_count(expected); i++) {
        const peft__tensor *want = peft__tensors_at(expected, i);
        if (strncmp(want->name, "resize.", 7) == 0 || strncmp(want->name, "process.", 8) == 0) continue;
        size_t size;
        uint8_t *data = slurp(want->name, &size);
        peft__image image;
        if (!is_built(want->name)) {
            CHECK_STATUS(ctx, peft__image_decode(ctx, want->name, data, size, &image), PEFT_E_UNSUPPORTED);
            free(data);
            continue;
        }
        CHECK_OK(ctx, peft__image_decode(ctx, want->name, data, size, &image));
        const int worst = worst_byte(&image, want);
        if (!CHECK(worst <= (strstr(want->name, ".jpg") != NULL ? 1 : 0))) fprintf(stderr, "    %s: %d\n", want->name, worst);
        peft__image_free(ctx, &image);
        /* Cut anywhere: an error, or (behind the last pixel) the same picture; never more. */
        for (size_t cut = 0; cut < size; cut++) {
            uint8_t *copy = malloc(cut + 1);
            memcpy(copy, data, cut);
            const peft_status status = peft__image_decode(ctx, "cut", copy, cut, &image);
            CHECK(status == PEFT_E_FORMAT || (status == PEFT_OK && cut + 16 > size));
            if (status == PEFT_OK) peft__image_free(ctx, &image);
            free(copy);
        }
        free(data);
    }
}

static void test_resize(void) {
    char path[PATH], name[64];
    peft__image photo;
    CHECK_OK(ctx, peft__image_open(ctx, at(path, "photo.ppm"), &photo));
    static const int64_t sizes[][2] = {{30, 21}, {12, 12}, {47, 9}, {30, 40}, {64, 21}, {1, 1}};
    for (int filter = 0; filter < 6; filter++) {
        for (size_t i = 0; i < PEFT_COUNT(sizes); i++) {
            (void)snprintf(name, sizeof name, "resize.%d.%dx%d", filter, (int)sizes[i][0], (int)sizes[i][1]);
            const peft__tensor *want = peft__tensors_find(expected, name);
            peft__image out;
            if (!CHECK(want != NULL)) continue;
            CHECK_OK(ctx, peft__image_resize(ctx, &photo, (peft__resample)filter, NULL, sizes[i][0], sizes[i][1], &out));
            const int worst = worst_byte(&out, want);
            if (!CHECK(worst == 0)) fprintf(stderr, "    %s: %d\n", name, worst);
            peft__image_free(ctx, &out);
        }
    }
    peft__image_free(ctx, &photo);
}

/* What a configuration makes of a picture, whole and by chance. */
static void test_processor(const peft_image_processor *processor, const char *picture, const char *expected_name) {
    static float out[4096 * 4], again[4096 * 4];
    size_t size;
    uint8_t *data = slurp(picture, &size);
    int64_t height = 0, width = 0;
    CHECK_STATUS(ctx, peft_image_process(processor, "p", data, size, NULL, out, 5, &height, &width), PEFT_E_LIMIT);
    CHECK_OK(ctx, peft_image_process(processor, "p", data, size, NULL, out, PEFT_COUNT(out), &height, &width));
    const peft__tensor *want = peft__tensors_find(expected, expected_name);
    CHECK(want != NULL && want->shape[1] == height && want->shape[2] == width);
    double worst = 0;
    float *values = malloc((size_t)peft__tensor_elements(want) * sizeof *values);
    CHECK_OK(ctx, peft__tensor_read_f32(ctx, want, values));
    for (int64_t i = 0; i < 3 * height * width; i++) worst = fmax(worst, fabs((double)out[i] - (double)values[i]));
    if (!CHECK(worst <= 2e-5)) fprintf(stderr, "    %s: %g\n", expected_name, worst);
    free(values);

    peft_image_augment augment;
    peft_image_augment_init(&augment);
    augment.flip = 1.0f; /* certain: exchanges left and right of what came before */
    CHECK_OK(ctx, peft_image_process(processor, "p", data, size, &augment, again, PEFT_COUNT(again), &height, &width));
    CHECK(again[0] == out[width - 1] && again[width - 1] == out[0]);
    augment.random_resized_crop = 1;
    augment.seed = 5;
    augment.flip = 0.5f;
    CHECK_OK(ctx, peft_image_process(processor, "p", data, size, &augment, again, PEFT_COUNT(again), &height, &width));
    CHECK_OK(ctx, peft_image_process(processor, "p", data, size, &augment, out, PEFT_COUNT(out), &height, &width));
    CHECK(memcmp(out, again, (size_t)(3 * height * width) * sizeof *out) == 0);
    augment.seed = 6;
    CHECK_OK(ctx, peft_image_process(processor, "p", data, size, &augment, out, PEFT_COUNT(out), &height, &width));
    CHECK(memcmp(out, again, (size_t)(3 * height * width) * sizeof *out) != 0);
    augment.max_scale = 1.5f;
    CHECK_STATUS(ctx, peft_image_process(processor, "p", data, size, &augment, out, PEFT_COUNT(out), &height, &width), PEFT_E_ARG);
    free(data);
}

static void test_processors(const peft_model *model) {
    char path[PATH], name[64];
    json_t *cases = json_load_file(at(path, "processors.json"), 0, NULL), *config;
    const char *key;
    json_object_foreach(cases, key, config) {
        char *text = json_dumps(config, 0);
        peft_image_processor *processor = NULL;
        CHECK_OK(ctx, peft_image_processor_create(ctx, model, text, &processor));
        free(text);
        (void)snprintf(name, sizeof name, "process.%s", key);
        test_processor(processor, "photo.ppm", name);
        (void)snprintf(name, sizeof name, "process.%s.tall", key);
        test_processor(processor, "tall.ppm", name);
        peft_image_processor_destroy(processor);
    }
    json_decref(cases);
    static const char *const bad[] = {"[]", "{\"size\": 0}", "{\"size\": {\"height\": 3}}", "{\"image_std\": [1, 0, 1]}", "{\"resample\": 9}", "{\"do_resize\": 7}", "{"};
    for (size_t i = 0; i < PEFT_COUNT(bad); i++) {
        peft_image_processor *processor = NULL;
        CHECK(peft_image_processor_create(ctx, model, bad[i], &processor) < 0 && processor == NULL);
    }
}

static void test_sizes(void) {
    static const char *const large[] = {"P6 40000 40000 255\n", "P6 30000 30000 255\n", "P5 0 4 255\n", "P6 4 4 0\n", "P6 4 4 70000\n",
                                        "P6 99999999999999 1 255\n", "P2 2 2 9\n1 2 3 99", "P3 1 1 255\n", "GIF89a", ""};
    for (size_t i = 0; i < PEFT_COUNT(large); i++) {
        peft__image image;
        const peft_status status = peft__image_decode(ctx, "large", large[i], strlen(large[i]), &image);
        CHECK(status == PEFT_E_FORMAT || status == PEFT_E_LIMIT);
    }
    /* A PNG that says it is 30000 x 30000. */
    static const uint8_t png[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n', 0, 0, 0, 13, 'I', 'H', 'D', 'R', 0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30, 8, 2, 0, 0, 0,
                                  0x9e, 0x2d, 0x6e, 0x5e, 0, 0, 0, 0};
    peft__image image;
    const peft_status status = peft__image_decode(ctx, "large.png", png, sizeof png, &image);
    CHECK(status == PEFT_E_LIMIT || status == PEFT_E_FORMAT || !PEFT_HAVE_PNG);
}

/* ---- data sets --------------------------------------------------------------------------------------------- */

static char folder[64];

static char *inside(char path[PATH], const char *name) {
    (void)snprintf(path, PATH, "%s/%s", folder, name);
    return path;
}

static void write_file(const char *name, const void *data, size_t size) {
    char path[PATH];
    FILE *file = fopen(inside(path, name), "wb");
    CHECK(file != NULL && fwrite(data, 1, size, file) == size);
    if (file != NULL) fclose(file);
}

static void copy_picture(const char *from, const char *to) {
    size_t size;
    uint8_t *data = slurp(from, &size);
    write_file(to, data, size);
    free(data);
}

static peft_dataset *open_set(const peft_model *model, const char *name, peft_dataset_options *options, int64_t size) {
    char path[PATH];
    peft_dataset *set = NULL;
    CHECK_OK(ctx, peft_dataset_open(ctx, model, inside(path, name), options, &set));
    if (set != NULL) CHECK(peft_dataset_size(set) == size);
    return set;
}

/* Labels of one epoch in order, as digits; the number of batches that were checked against the first sum of floats. */
static void epoch(peft_dataset *set, char *labels, double *sum) {
    peft_batch batch;
    size_t at = 0;
    *sum = 0;
    peft_status status;
    while ((status = peft_dataset_next(set, &batch)) == PEFT_OK) {
        CHECK(batch.features != NULL && batch.feature_cols == 48 && batch.rows == 9 * batch.sequences && batch.image_grids[0] == 3);
        for (int64_t i = 0; i < batch.sequences; i++) labels[at++] = (char)('0' + batch.sequence_labels[i]);
        for (int64_t i = 0; i < batch.rows * batch.feature_cols; i++) *sum += (double)batch.features[i];
    }
    CHECK_STATUS(ctx, status, PEFT_END);
    labels[at] = 0;
}

/* Any number of workers gives the same bits and, where several pictures are damaged, the same first error. */
static void test_workers(const peft_model *model, const peft_dataset_options *plain) {
    char path[PATH];
    float *first = NULL;
    peft_dataset_options options = *plain;
    options.image_crop = 1;
    options.image_flip = 0.5f;
    options.batch_size = 4;
    for (uint32_t threads = 1; threads <= 4; threads++) {
        CHECK_OK(ctx, peft_context_set_threads(ctx, threads));
        peft_dataset *set = open_set(model, "set", &options, 4);
        peft_batch batch;
        CHECK_OK(ctx, peft_dataset_next(set, &batch));
        const size_t bytes = (size_t)(batch.rows * batch.feature_cols) * sizeof *first;
        if (first == NULL) {
            first = malloc(bytes);
            memcpy(first, batch.features, bytes);
        }
        CHECK(memcmp(first, batch.features, bytes) == 0);
        CHECK_OK(ctx, peft_context_set_threads(ctx, 5 - threads)); /* also between two batches */
        CHECK_OK(ctx, peft_dataset_seek(set, 0, 0));
        CHECK_OK(ctx, peft_dataset_next(set, &batch));
        CHECK(memcmp(first, batch.features, bytes) == 0);
        write_file("set/dog/2.ppm", "P6 damaged", 10);
        write_file("set/eel/7.pgm", "no picture", 10);
        for (int i = 0; i < 8; i++) {
            CHECK_OK(ctx, peft_dataset_seek(set, 0, 0));
            CHECK_STATUS(ctx, peft_dataset_next(set, &batch), PEFT_E_FORMAT);
            CHECK(strstr(peft_context_error(ctx), "dog/2.ppm") != NULL);
        }
        CHECK(remove(inside(path, "set/eel/7.pgm")) == 0); /* gone since the folder was read */
        copy_picture("text.ppm", "set/dog/2.ppm");
        CHECK_STATUS(ctx, peft_dataset_next(set, &batch), PEFT_E_IO);
        CHECK(strstr(peft_context_error(ctx), "eel/7.pgm") != NULL);
        copy_picture("grey.pgm", "set/eel/7.pgm");
        peft_dataset_destroy(set);
    }
    CHECK_OK(ctx, peft_context_set_threads(ctx, 0));
    free(first);
}

static void test_folder(const peft_model *model) {
    char path[PATH], labels[16], again[16];
    double sum, other;
    static const char *const folders[] = {"set", "set/cat", "set/dog", "set/eel", "set/.hidden"};
    for (size_t i = 0; i < PEFT_COUNT(folders); i++) CHECK_OK(ctx, peft__make_dirs(ctx, inside(path, folders[i])));
    copy_picture("photo.ppm", "set/cat/1.ppm");
    copy_picture("grey.pgm", "set/dog/1.pgm");
    copy_picture("text.ppm", "set/dog/2.ppm");
    copy_picture("grey.pgm", "set/eel/7.pgm");
    write_file("set/dog/readme.txt", "x", 1);
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    options.shuffle = 0;
    options.packing = 1;
    options.batch_size = 3;
    peft_dataset *set = open_set(model, "set", &options, 4);
    CHECK(peft_dataset_label_count(set) == 3 && peft_dataset_label_examples(set, 1) == 2);
    CHECK_STR(peft_dataset_label_name(set, 2), "eel");
    epoch(set, labels, &sum);
    CHECK_STR(labels, "0112");
    peft_dataset *classes = NULL; /* without a model, to load one with as many outputs */
    options.format = PEFT_DATA_IMAGES;
    CHECK_OK(ctx, peft_dataset_open_labels(ctx, inside(path, "set"), &options, &classes));
    CHECK(peft_dataset_label_count(classes) == 3 && peft_dataset_size(classes) == 0 && peft_dataset_labels_named(classes));
    peft_dataset_destroy(classes);
    epoch(set, labels, &other);
    CHECK(sum == other);
    CHECK_STATUS(ctx, peft_dataset_preview(set, 0, NULL, 0, &(uint64_t){0}), PEFT_E_UNSUPPORTED);
    peft_dataset_destroy(set);
    options.image_crop = 1;
    options.image_flip = 0.5f;
    set = open_set(model, "set", &options, 4);
    epoch(set, labels, &sum);
    epoch(set, again, &other);
    CHECK_STR(again, labels);
    CHECK(sum != other); /* other pieces in another epoch */
    CHECK_OK(ctx, peft_dataset_seek(set, 0, 0));
    epoch(set, again, &other);
    CHECK(sum == other);
    peft_dataset_destroy(set);

    static const char table[] = "file,label\nset/cat/1.ppm,dog\nset/eel/7.pgm,cat\nset/dog/1.pgm,eel\n";
    write_file("list.csv", table, sizeof table - 1);
    options.image_crop = 0;
    options.image_flip = 0;
    set = open_set(model, "list.csv", &options, 3);
    epoch(set, labels, &sum);
    CHECK_STR(labels, "102");
    peft_dataset_destroy(set);
    static const char *const bad[] = {"file,label\n../x.ppm,dog\n", "file,label\n/x.ppm,dog\n", "a,b\n1,2\n", "file,label\n"};
    for (size_t i = 0; i < PEFT_COUNT(bad); i++) {
        set = NULL;
        write_file("list.csv", bad[i], strlen(bad[i]));
        CHECK(peft_dataset_open(ctx, model, inside(path, "list.csv"), &options, &set) < 0 && set == NULL);
    }
    test_workers(model, &options);
    write_file("set/cat/1.ppm", "P6 damaged", 10);
    set = open_set(model, "set", &options, 4);
    peft_batch batch;
    CHECK_STATUS(ctx, peft_dataset_next(set, &batch), PEFT_E_FORMAT);
    CHECK(strstr(peft_context_error(ctx), "cat/1.ppm") != NULL);
    copy_picture("photo.ppm", "set/cat/1.ppm"); /* a batch that failed is asked for again, with what is there now */
    CHECK_OK(ctx, peft_dataset_next(set, &batch));
    CHECK(batch.sequences == 3);
    peft_dataset_destroy(set);
}

/* Every allocation fails in turn, those of libpng too: a status, no leak, and the next try works. */
static void test_memory(const peft_model *model) {
    char path[PATH];
    meter m = {.left = -1};
    const peft_allocator allocator = {meter_alloc, meter_free, &m};
    peft_context_options options;
    peft_context_options_init(&options);
    options.threads = 1;
    options.allocator = &allocator;
    peft_context *own = NULL;
    CHECK_OK(ctx, peft__make_dirs(ctx, inside(path, "few/a")));
    copy_picture(PEFT_HAVE_PNG ? "palette.png" : "grey.pgm", "few/a/1.png");
    copy_picture(PEFT_HAVE_JPEG ? "cmyk.jpg" : "grey.pgm", "few/a/2.jpg");
    if (!CHECK(peft_context_create(&options, &own) == PEFT_OK)) return;
    peft_dataset_options rows;
    peft_dataset_options_init(&rows);
    rows.batch_size = 2;
    const long before = m.live;
    peft_status status = PEFT_E_NOMEM;
    long n = 0;
    for (; status < 0 && n < 2000; n++) {
        peft_dataset *set = NULL;
        peft_batch batch;
        m.left = n;
        status = peft_dataset_open(own, model, inside(path, "few"), &rows, &set);
        if (status >= 0) status = peft_dataset_next(set, &batch);
        peft_dataset_destroy(set);
        m.left = -1;
        if (CHECK(status >= 0 || status == PEFT_E_NOMEM) && CHECK(m.live == before)) continue;
        fprintf(stderr, "    allocation %ld: %s: %s\n", n, peft_status_name(status), peft_context_error(own));
        break;
    }
    CHECK(status >= 0 && n > 10);
    peft_context_destroy(own);
    CHECK(m.live == 0);
}

static void test_binaries(const peft_model *model) {
    char path[PATH], labels[16];
    double sum;
    uint8_t images[16 + 3 * 20] = {0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 5, 0, 0, 0, 4}, tags[8 + 3] = {0, 0, 8, 1, 0, 0, 0, 3, 2, 0, 1};
    for (size_t i = 16; i < sizeof images; i++) images[i] = (uint8_t)(3 * i);
    peft_dataset_options options;
    peft_dataset_options_init(&options);
    options.shuffle = 0;
    write_file("train-images-idx3-ubyte", images, sizeof images);
    peft_dataset *set = NULL;
    CHECK_STATUS(ctx, peft_dataset_open(ctx, model, inside(path, "train-images-idx3-ubyte"), &options, &set), PEFT_E_ARG);
    write_file("train-labels-idx1-ubyte", tags, sizeof tags);
    set = open_set(model, "train-images-idx3-ubyte", &options, 3);
    epoch(set, labels, &sum);
    CHECK_STR(labels, "201");
    peft_dataset_destroy(set);
    options.part = PEFT_PART_VALIDATION;
    options.validation_fraction = 1.0 / 3.0;
    set = open_set(model, "train-images-idx3-ubyte", &options, 1);
    peft_dataset_destroy(set);
    options.part = PEFT_PART_ALL;
    tags[8] = 9; /* the model has three classes */
    write_file("train-labels-idx1-ubyte", tags, sizeof tags);
    CHECK(peft_dataset_open(ctx, model, inside(path, "train-images-idx3-ubyte"), &options, &set) < 0);
    uint8_t *cifar = calloc(2, 3073);
    cifar[0] = 1;
    cifar[3073] = 2;
    write_file("batch.bin", cifar, 2 * 3073);
    free(cifar);
    set = open_set(model, "batch.bin", &options, 2);
    epoch(set, labels, &sum);
    CHECK_STR(labels, "12");
    CHECK_NEAR(sum, -2.0 * 9 * 48, 1e-3); /* black is -1 */
    peft_dataset_destroy(set);
}

static void test_datasets(const peft_model *model) {
    const char *place = getenv("TMPDIR");
    (void)snprintf(folder, sizeof folder, "%s/peft_images_XXXXXX", place != NULL && strlen(place) < 32 ? place : "/tmp");
    if (!CHECK(mkdtemp(folder) != NULL)) return;
    test_folder(model);
    test_binaries(model);
    test_memory(model);
    static const char *const files[] = {"set/cat/1.ppm", "set/dog/1.pgm", "set/dog/2.ppm", "set/dog/readme.txt", "set/eel/7.pgm", "set/cat", "set/dog", "set/eel", "set/.hidden", "set",
                                        "list.csv", "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "batch.bin", "few/a/1.png", "few/a/2.jpg", "few/a", "few", "."};
    for (size_t i = 0; i + 1 < PEFT_COUNT(files); i++) {
        char path[PATH];
        CHECK(remove(inside(path, files[i])) == 0);
    }
    CHECK(rmdir(folder) == 0);
}

int main(void) {
    char path[PATH];
    root = getenv("PEFT_TEST_DATA");
    if (root == NULL) return 77;
    if (peft_context_create(NULL, &ctx) < 0) return 1;
    peft_model *model = NULL;
    CHECK_OK(ctx, peft__safetensors_open(ctx, at(path, "expected.safetensors"), &expected));
    (void)snprintf(path, sizeof path, "%s/models/vision/vit", root);
    CHECK_OK(ctx, peft_model_load(ctx, path, NULL, &model));
    if (expected == NULL || model == NULL) return 1;
    test_files();
    test_resize();
    test_processors(model);
    test_sizes();
    test_datasets(model);
    peft__tensors_unref(expected);
    peft_model_destroy(model);
    peft_context_destroy(ctx);
    return check_summary();
}
