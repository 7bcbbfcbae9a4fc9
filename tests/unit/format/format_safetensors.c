/* safetensors: every rule of validation with its own hostile file, truncation at every byte, shards, and a writer
 * whose bytes equal those of the reference. */
#include "format/safetensors.h"

#include <sys/stat.h>

#include "format_test.h"

/* A file from header text and a count of data bytes. */
static uint8_t *make(const char *header, size_t data, size_t *out_size) {
    const uint64_t length = strlen(header);
    *out_size = 8 + (size_t)length + data;
    uint8_t *file = calloc(1, *out_size);
    if (file == NULL) exit(1);
    memcpy(file, &length, 8);
    memcpy(file + 8, header, (size_t)length);
    return file;
}

static void test_hostile(peft_context *ctx) {
    static const struct {
        const char *header;
        size_t data;
        peft_status status;
        const char *part;
    } FILES[] = {
        {"{}", 0, PEFT_OK, ""},
        {"  {}  ", 0, PEFT_OK, ""},
        {"{}", 4, PEFT_E_FORMAT, "the tensors end at byte 0 of 4"},
        {"[]", 0, PEFT_E_FORMAT, "not a JSON object"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, PEFT_OK, ""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, PEFT_OK, ""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, PEFT_OK, ""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 3, PEFT_E_FORMAT, "there are 3 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 5, PEFT_E_FORMAT, "end at byte 4 of 5"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, PEFT_E_FORMAT, "takes 8 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, PEFT_E_FORMAT, "a hole"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 8, PEFT_E_FORMAT, "end before"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
         4, PEFT_E_FORMAT, "an overlap"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[6,10]}}",
         10, PEFT_E_FORMAT, "a hole"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         8, PEFT_E_FORMAT, "duplicate"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, PEFT_E_FORMAT, "duplicate"},
        {"{\"__metadata__\":{\"a\":1}}", 0, PEFT_E_FORMAT, "a: expected a string, found 1"},
        {"{\"__metadata__\":[]}", 0, PEFT_E_FORMAT, "not an object"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, PEFT_E_FORMAT, "counts"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, PEFT_E_FORMAT, "counts"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,4]}}", 4, PEFT_E_FORMAT,
         "counts"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", 0, PEFT_E_FORMAT,
         "overflows"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4,0],\"data_offsets\":[0,0]}}", 0, PEFT_E_FORMAT,
         "overflows"},
        {"{\"a\":{\"dtype\":\"F64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]}}", 0, PEFT_E_FORMAT,
         "overflows"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, PEFT_E_FORMAT, "whole bytes"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]}}", 1, PEFT_OK, ""},
        {"{\"a\":{\"dtype\":\"X9\",\"shape\":[2],\"data_offsets\":[0,7]}}", 7, PEFT_OK, ""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, PEFT_E_FORMAT, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, PEFT_E_FORMAT, "shape"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, PEFT_E_FORMAT, "dtype"},
        {"{\"a\":{\"dtype\":\"F32\\u0000\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, PEFT_E_FORMAT, "dtype"},
        {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, PEFT_E_FORMAT, "dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, PEFT_E_FORMAT, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, PEFT_E_FORMAT, "data_offsets"},
        {"{\"a\":[]}", 0, PEFT_E_FORMAT, "not an object"},
        {"{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, PEFT_E_FORMAT, "NUL"},
        {"{\"a\xff\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, PEFT_E_FORMAT, "decode byte 0xff"},
        {"{\"a\":[[[[[[[[1]]]]]]]]}", 0, PEFT_E_FORMAT, "8 levels"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, PEFT_E_UNSUPPORTED,
         "9 dim"},
    };
    for (size_t i = 0; i < PEFT_COUNT(FILES); i++) {
        size_t size = 0;
        uint8_t *file = make(FILES[i].header, FILES[i].data, &size);
        peft__tensors *tensors = NULL;
        const peft_status status = peft__safetensors_open_memory(ctx, "t", file, size, &tensors);
        if (!CHECK(status == FILES[i].status) ||
            (status < 0 && !CHECK(strstr(peft_context_error(ctx), FILES[i].part) != NULL)))
            fprintf(stderr, "    %s\n    %s: %s\n", FILES[i].header, peft_status_name(status), peft_context_error(ctx));
        CHECK((tensors != NULL) == (status == PEFT_OK));
        peft__tensors_unref(tensors);
        free(file);
    }
    static const uint64_t LENGTHS[] = {1, 100000001, UINT64_MAX, UINT64_MAX - 7, INT64_MAX, 1ull << 32};
    for (size_t i = 0; i < PEFT_COUNT(LENGTHS); i++) {
        peft__tensors *tensors = NULL;
        CHECK_ERROR(ctx, peft__safetensors_open_memory(ctx, "t", &LENGTHS[i], 8, &tensors), PEFT_E_FORMAT,
                    "the header says");
    }
}

/* Every proper prefix is an error and reads nothing outside of it; so is every file with one byte more. */
static void test_truncation(peft_context *ctx) {
    size_t size = 0;
    uint8_t *file = test_read_data("mixed.safetensors", &size);
    const uint64_t before = test_bytes(ctx);
    int64_t opened = 0;
    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *copy = test_exact(file, cut);
        peft__tensors *tensors = NULL;
        if (peft__safetensors_open_memory(ctx, "t", copy, cut, &tensors) == PEFT_OK) opened++;
        free(copy);
    }
    CHECK(opened == 0);
    /* Any single damaged byte: a status, never a crash. */
    for (size_t at = 0; at < size; at++)
        for (int bit = 0; bit < 8; bit++) {
            uint8_t *copy = test_exact(file, size);
            copy[at] = (uint8_t)(copy[at] ^ 1u << bit);
            peft__tensors *tensors = NULL;
            if (peft__safetensors_open_memory(ctx, "t", copy, size, &tensors) == PEFT_OK) {
                for (size_t i = 0; i < peft__tensors_count(tensors); i++) {
                    float values[64];
                    const peft__tensor *tensor = peft__tensors_at(tensors, i);
                    if (peft__tensor_elements(tensor) <= 64) (void)peft__tensor_read_f32(ctx, tensor, values);
                }
                peft__tensors_unref(tensors);
            }
            free(copy);
        }
    CHECK(test_bytes(ctx) == before);
    uint8_t *longer = test_exact(file, size + 1);
    peft__tensors *tensors = NULL;
    CHECK_STATUS(ctx, peft__safetensors_open_memory(ctx, "t", longer, size + 1, &tensors), PEFT_E_FORMAT);
    peft__source *source = NULL;
    CHECK_OK(ctx, peft__source_open_memory(ctx, longer, size + 1, "t", &source));
    CHECK_OK(ctx, peft__safetensors_open_source(ctx, source, PEFT__SAFETENSORS_LENIENT_TRAILING, &tensors));
    peft__source_unref(source);
    peft__tensors_unref(tensors);
    free(longer);
    free(file);
}

static void test_reading(peft_context *ctx) {
    char *path = test_path("mixed.safetensors");
    peft__tensors *tensors = NULL;
    CHECK_OK(ctx, peft__safetensors_open(ctx, path, &tensors));
    if (tensors == NULL) exit(1);
    CHECK(peft__tensors_count(tensors) == 14);
    CHECK_STR(peft__tensors_metadata(tensors, "format"), "pt");
    CHECK(peft__tensors_metadata(tensors, "x") == NULL);
    CHECK_STR(peft__tensors_at(tensors, 0)->name, "ids");
    CHECK(peft__tensors_at(tensors, 14) == NULL);
    const peft__tensor *z = NULL;
    CHECK_OK(ctx, peft__tensors_need(ctx, tensors, "z.weight", &z));
    CHECK(z->ndim == 2 && z->shape[0] == 2 && z->shape[1] == 3 && z->dtype == PEFT_DTYPE_F32);
    float values[6];
    int64_t integers[6];
    CHECK_OK(ctx, peft__tensor_read_f32(ctx, z, values));
    CHECK(values[0] == 3.0f && values[1] == 10.0f && values[5] == 5.0f);
    static const char *const NUMBERS[] = {"half", "brain", "ids", "double", "word", "short", "byte", "signed"};
    for (size_t i = 0; i < PEFT_COUNT(NUMBERS); i++) {
        CHECK_OK(ctx, peft__tensor_read_f32(ctx, peft__tensors_find(tensors, NUMBERS[i]), values));
        CHECK(values[0] == 3.0f && values[1] == 10.0f);
    }
    CHECK_OK(ctx, peft__tensor_read_i64(ctx, peft__tensors_find(tensors, "ids"), integers));
    CHECK(integers[0] == 3 && integers[1] == 10);
    CHECK_ERROR(ctx, peft__tensor_read_i64(ctx, z, integers), PEFT_E_MISMATCH, "expected integers");
    CHECK_ERROR(ctx, peft__tensors_need(ctx, tensors, "z.weigth", &z), PEFT_E_MISMATCH, "closest name is z.weight");
    CHECK_ERROR(ctx, peft__tensor_check_shape(ctx, z, 2, (const int64_t[]){3, 2}), PEFT_E_MISMATCH,
                "expected shape [3, 2], found [2, 3]");
    peft__tensors_drop(tensors, z);
    CHECK_OK(ctx, peft__tensor_read_f32(ctx, z, values));
    peft__tensors_unref(tensors);
    free(path);
    path = test_path("float8.safetensors");
    tensors = NULL;
    CHECK_OK(ctx, peft__safetensors_open(ctx, path, &tensors));
    const peft__tensor *w = peft__tensors_find(tensors, "w");
    CHECK(w->dtype == PEFT_DTYPE_OTHER && w->bytes == 4);
    CHECK_ERROR(ctx, peft__tensor_read_f32(ctx, w, values), PEFT_E_UNSUPPORTED, "tensor w has type F8_E4M3");
    peft__tensors_unref(tensors);
    free(path);
}

static peft_status emit_bytes(void *user, const peft__tensor_out *tensor, peft__writer *writer) {
    const peft__tensor *from = user;
    (void)tensor;
    for (size_t i = 0; i < from->bytes; i++) PEFT_TRY(peft__writer_put(writer, from->data + i, 1));
    return PEFT_OK;
}

static peft_status emit_short(void *user, const peft__tensor_out *tensor, peft__writer *writer) {
    (void)user;
    (void)tensor;
    return peft__writer_put(writer, "x", 1);
}

/* Reading what the reference wrote and writing it again, in another order, gives the same bytes. */
static void test_writing(peft_context *ctx) {
    char *from = test_path("mixed.safetensors"), *to = test_scratch("w.safetensors");
    size_t want_size = 0, got_size = 0;
    uint8_t *want = test_read(from, &want_size);
    peft__tensors *tensors = NULL;
    CHECK_OK(ctx, peft__safetensors_open(ctx, from, &tensors));
    const size_t count = peft__tensors_count(tensors);
    peft__tensor_out *out = calloc(count + 1, sizeof *out);
    for (size_t i = 0; i < count; i++) {
        const peft__tensor *tensor = peft__tensors_at(tensors, i);
        peft__tensor_out *o = &out[count - 1 - i];
        *o = (peft__tensor_out){.name = tensor->name, .dtype = tensor->dtype, .ndim = tensor->ndim};
        memcpy(o->shape, tensor->shape, sizeof o->shape);
        if (i % 2 == 0) {
            o->data = tensor->data;
        } else {
            o->emit = emit_bytes;
            o->user = (void *)tensor;
        }
    }
    CHECK_OK(ctx, peft__safetensors_write(ctx, to, out, count, NULL, 0));
    uint8_t *got = test_read(to, &got_size);
    CHECK(got_size == want_size && memcmp(got, want, want_size) == 0);
    free(got);
    /* A failing write leaves the file that was there. */
    out[0].data = NULL;
    out[0].emit = emit_short;
    CHECK_ERROR(ctx, peft__safetensors_write(ctx, to, out, count, NULL, 0), PEFT_E_INTERNAL, "1 bytes were written");
    got = test_read(to, &got_size);
    CHECK(got_size == want_size && memcmp(got, want, want_size) == 0);
    free(got);
    out[count] = out[1];
    out[count].dtype = PEFT_DTYPE_U8;
    CHECK_ERROR(ctx, peft__safetensors_write(ctx, to, out, count + 1, NULL, 0), PEFT_E_ARG, "given twice");
    out[count].name = "quantised";
    out[count].dtype = PEFT_DTYPE_Q4_0;
    CHECK_STATUS(ctx, peft__safetensors_write(ctx, to, out, count + 1, NULL, 0), PEFT_E_UNSUPPORTED);
    CHECK_OK(ctx, peft__safetensors_write(ctx, to, NULL, 0, (const char *const[]){"b", "2", "a", "1"}, 2));
    peft__tensors *empty = NULL;
    CHECK_OK(ctx, peft__safetensors_open(ctx, to, &empty));
    CHECK_STR(peft__tensors_metadata(empty, "b"), "2");
    CHECK_STR(peft__tensors_metadata(empty, "format"), "pt");
    peft__tensors_unref(empty);
    peft__tensors_unref(tensors);
    remove(to);
    free(out);
    free(want);
    free(from);
    free(to);
}

static void put(const char *folder, const char *name, const void *data, size_t size) {
    char path[5000];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    test_write(path, data, size);
}

static void drop(const char *folder, const char *name) {
    char path[5000];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    remove(path);
}

static void put_text(const char *folder, const char *name, const char *text) {
    put(folder, name, text, strlen(text));
}

static void test_folder(peft_context *ctx) {
    char *folder = test_scratch("folder");
    peft__tensors *tensors = NULL;
    size_t a_size = 0, b_size = 0;
    uint8_t *a = make("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, &a_size);
    uint8_t *b = make("{\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, &b_size);
    const char *index = "model.safetensors.index.json";
    mkdir(folder, 0700);
    CHECK_ERROR(ctx, peft__tensors_open_folder(ctx, folder, &tensors), PEFT_E_IO, "no model.safetensors");
    put_text(folder, "pytorch_model.bin", "x");
    CHECK_ERROR(ctx, peft__tensors_open_folder(ctx, folder, &tensors), PEFT_E_UNSUPPORTED, "pytorch_model.bin");
    put(folder, "shard-b", b, b_size);
    put(folder, "x.safetensors", a, a_size);
    CHECK_OK(ctx, peft__tensors_open_folder(ctx, folder, &tensors));
    CHECK(peft__tensors_find(tensors, "a") != NULL);
    peft__tensors_unref(tensors);
    put(folder, "y.safetensors", a, a_size);
    CHECK_ERROR(ctx, peft__tensors_open_folder(ctx, folder, &tensors), PEFT_E_FORMAT, "2 safetensors files");
    put_text(folder, index,
             "{\"metadata\":{\"total_size\":1},\"weight_map\":{\"b\":\"shard-b\",\"a\":\"x.safetensors\"}}");
    CHECK_OK(ctx, peft__tensors_open_folder(ctx, folder, &tensors));
    CHECK(peft__tensors_count(tensors) == 2 && strcmp(peft__tensors_at(tensors, 0)->name, "b") == 0);
    peft__tensors_unref(tensors);
    static const struct {
        const char *map, *part;
    } BAD[] = {
        {"{\"weight_map\":{\"b\":\"x.safetensors\"}}", "tensor b should be in x.safetensors"},
        {"{\"weight_map\":{\"b\":\"shard-b\",\"a\":\"shard-b\"}}", "tensor a should be in shard-b"},
        {"{\"weight_map\":{\"b\":\"../shard-b\"}}", "in the same folder"},
        {"{\"weight_map\":{\"b\":\"/etc/passwd\"}}", "in the same folder"},
        {"{\"weight_map\":{\"b\":\"a\\\\b\"}}", "in the same folder"},
        {"{\"weight_map\":{\"b\":\"\"}}", "in the same folder"},
        {"{\"weight_map\":{\"b\":\"..\"}}", "in the same folder"},
        {"{\"weight_map\":{\"b\":\"shard-b\\u0000\"}}", "in the same folder"},
        {"{\"weight_map\":{\"b\":3}}", "in the same folder"},
        {"{\"weight_map\":[]}", "expected an object"},
        {"{}", "weight_map is missing"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"y.safetensors\"}}", "there twice"},
        {"{\"weight_map\":{\"b\":\"gone\"}}", "gone"},
    };
    for (size_t i = 0; i < PEFT_COUNT(BAD); i++) {
        put_text(folder, index, BAD[i].map);
        tensors = NULL;
        CHECK(peft__tensors_open_folder(ctx, folder, &tensors) < 0 && tensors == NULL);
        if (!CHECK(strstr(peft_context_error(ctx), BAD[i].part) != NULL))
            fprintf(stderr, "    %s: %s\n", BAD[i].map, peft_context_error(ctx));
    }
    put(folder, "model.safetensors", a, a_size);
    CHECK_OK(ctx, peft__tensors_open_folder(ctx, folder, &tensors));
    CHECK(peft__tensors_count(tensors) == 1);
    peft__tensors *second = peft__tensors_ref(tensors);
    peft__tensors_unref(tensors);
    CHECK(peft__tensors_find(second, "a")->data[0] == 0);
    peft__tensors_unref(second);
    static const char *const NAMES[] = {"pytorch_model.bin", "shard-b", "x.safetensors", "y.safetensors",
                                        "model.safetensors"};
    for (size_t i = 0; i < PEFT_COUNT(NAMES); i++) drop(folder, NAMES[i]);
    drop(folder, index);
    CHECK(rmdir(folder) == 0);
    free(folder);
    free(a);
    free(b);
}

int main(void) {
    peft_context *ctx = test_context();
    const uint64_t before = test_bytes(ctx);
    test_hostile(ctx);
    test_truncation(ctx);
    test_reading(ctx);
    test_writing(ctx);
    test_folder(ctx);
    CHECK(test_bytes(ctx) == before);
    test_context_end(ctx);
    return check_summary();
}
