/* JSON: limits before parsing, getters, and text equal to that of Python's json module. */
#include "format/json.h"
#include "format_test.h"

static peft_status parse(peft_context *ctx, const char *text, size_t size, json_t **out) {
    uint8_t *copy = test_exact(text, size);
    const peft_status status = peft__json_load_memory(ctx, "t.json", copy, size, 0, out);
    free(copy);
    return status;
}

static void test_errors(peft_context *ctx) {
    static const struct {
        const char *text, *part;
    } BAD[] = {
        {"", "t.json:1"},
        {"{", "t.json:1"},
        {"{\"a\": 1,\n \"b\" 2}", "t.json:2:"},
        {"{\"a\": 1, \"a\": 2}", "duplicate"},
        {"{\"a\": 1} x", "t.json:1"},
        {"[1] [2]", "t.json:1"},
        {"{\"a\": \"\xff\"}", "t.json:1"},
        {"{\"a\": 1e999}", "t.json:1"},
        {"[\"abc", "t.json:1"},
        {"[\"abc\\", "t.json:1"},
        {"[NaN]", "t.json:1"},
        {"[01]", "t.json:1"},
        {"3", "t.json:1"},
        {"{\"\\u0000\": 1}", "t.json:1"},
        {"[123456789012345678901234567890", "t.json:1"},
    };
    for (size_t i = 0; i < PEFT_COUNT(BAD); i++) {
        json_t *json = NULL;
        CHECK_ERROR(ctx, parse(ctx, BAD[i].text, strlen(BAD[i].text), &json), PEFT_E_FORMAT, BAD[i].part);
        CHECK(json == NULL);
    }
    char deep[400];
    json_t *json = NULL;
    memset(deep, '[', 65);
    memset(deep + 65, ']', 65);
    CHECK_ERROR(ctx, parse(ctx, deep, 130, &json), PEFT_E_FORMAT, "64 levels");
    CHECK_OK(ctx, parse(ctx, deep + 1, 128, &json));
    json_decref(json);
    json = NULL;
    memset(deep, '[', sizeof deep);
    deep[0] = '"'; /* brackets inside a string are no nesting */
    deep[sizeof deep - 1] = '"';
    CHECK_STATUS(ctx, parse(ctx, deep, sizeof deep, &json), PEFT_E_FORMAT);
    CHECK(strstr(peft_context_error(ctx), "levels") == NULL);
    CHECK_ERROR(ctx, peft__json_load_memory(ctx, "t.json", "[1, 2]", 6, 5, &json), PEFT_E_FORMAT, "at most 5");
    CHECK_STATUS(ctx, peft__json_load_file(ctx, "/nonexistent/x.json", 0, &json), PEFT_E_IO);
}

static void test_getters(peft_context *ctx) {
    const char *text =
        "\xef\xbb\xbf{\"i\": 7, \"r\": 3.0, \"x\": 2.5, \"s\": \"hi\", \"n\": null, \"t\": true, \"a\": [1], "
        "\"o\": {}, \"wide\": 1000000000000000019884624838656, \"neg\": -99999999999999999999, "
        "\"max\": 9223372036854775807, \"frac\": 0.1234567890123456789012, \"nul\": \"a\\u0000b\"}";
    json_t *o = NULL;
    if (!CHECK(parse(ctx, text, strlen(text), &o) == PEFT_OK)) return;
    int64_t i = 0;
    double d = 0;
    bool b = false;
    const char *s = NULL;
    const peft__json *v = NULL;
    CHECK_OK(ctx, peft__json_get_int(ctx, o, "c", "i", 0, 10, 1, &i));
    CHECK(i == 7);
    CHECK_OK(ctx, peft__json_need_int(ctx, o, "c", "r", 0, 10, &i));
    CHECK(i == 3);
    CHECK_OK(ctx, peft__json_need_int(ctx, o, "c", "max", 0, INT64_MAX, &i));
    CHECK(i == INT64_MAX);
    CHECK_OK(ctx, peft__json_get_int(ctx, o, "c", "n", 0, 10, 5, &i));
    CHECK(i == 5);
    CHECK_ERROR(ctx, peft__json_need_int(ctx, o, "c", "n", 0, 10, &i), PEFT_E_FORMAT, "c: n is missing");
    CHECK_ERROR(ctx, peft__json_need_int(ctx, o, "c", "i", 0, 6, &i), PEFT_E_FORMAT,
                "c: i: expected an integer from 0 to 6, found 7");
    CHECK_ERROR(ctx, peft__json_need_int(ctx, o, "c", "x", 0, 6, &i), PEFT_E_FORMAT, "found 2.5");
    CHECK_ERROR(ctx, peft__json_need_int(ctx, o, "c", "wide", 0, INT64_MAX, &i), PEFT_E_FORMAT, "found 1e+30");
    CHECK_ERROR(ctx, peft__json_need_int(ctx, o, "c", "s", 0, 6, &i), PEFT_E_FORMAT, "found \"hi\"");
    CHECK_OK(ctx, peft__json_need_double(ctx, o, "c", "wide", 0, 1e40, &d));
    CHECK(d > 9.9e29 && d < 1.1e30);
    CHECK_OK(ctx, peft__json_need_double(ctx, o, "c", "neg", -1e40, 0, &d));
    CHECK(d == -1e20);
    CHECK_OK(ctx, peft__json_need_double(ctx, o, "c", "frac", 0, 1, &d));
    CHECK(d == 0.1234567890123456789012);
    CHECK_OK(ctx, peft__json_get_double(ctx, o, "c", "i", 0, 10, 0, &d));
    CHECK(d == 7.0);
    CHECK_ERROR(ctx, peft__json_get_double(ctx, o, "c", "x", 0, 1, 0, &d), PEFT_E_FORMAT, "from 0 to 1, found 2.5");
    CHECK_OK(ctx, peft__json_get_bool(ctx, o, "c", "t", false, &b));
    CHECK(b);
    CHECK_STATUS(ctx, peft__json_get_bool(ctx, o, "c", "i", false, &b), PEFT_E_FORMAT);
    CHECK_OK(ctx, peft__json_need_string(ctx, o, "c", "s", &s));
    CHECK_STR(s, "hi");
    CHECK_OK(ctx, peft__json_get_string(ctx, o, "c", "absent", "dflt", &s));
    CHECK_STR(s, "dflt");
    CHECK_ERROR(ctx, peft__json_get_string(ctx, o, "c", "nul", NULL, &s), PEFT_E_FORMAT, "NUL");
    CHECK_OK(ctx, peft__json_need_array(ctx, o, "c", "a", &v));
    CHECK(json_array_size(v) == 1);
    CHECK_OK(ctx, peft__json_get_object(ctx, o, "c", "n", &v));
    CHECK(v == NULL);
    CHECK_ERROR(ctx, peft__json_need_object(ctx, o, "c", "a", &v), PEFT_E_FORMAT, "expected an object, found an array");
    json_decref(o);
}

/* Parsing what Python wrote and writing it again gives Python's bytes. */
static void test_same_text(peft_context *ctx, const char *name, uint32_t indent, bool sort) {
    size_t size = 0;
    uint8_t *want = test_read_data(name, &size);
    json_t *json = NULL;
    peft__buffer out;
    peft__buffer_init(&out, ctx->mem);
    CHECK_OK(ctx, peft__json_load_memory(ctx, name, want, size, 0, &json));
    CHECK_OK(ctx, peft__json_dump(ctx, json, indent, sort, &out));
    if (!CHECK(out.length == size && memcmp(out.data, want, size) == 0)) fprintf(stderr, "%s\n", out.data);
    peft__buffer_free(&out);
    json_decref(json);
    free(want);
}

static void test_write_file(peft_context *ctx) {
    char *path = test_scratch("w.json");
    json_t *json = json_pack("{s:i, s:[f]}", "b", 1, "a", 0.5);
    size_t size = 0;
    CHECK_OK(ctx, peft__json_write_file(ctx, path, json, true));
    uint8_t *got = test_read(path, &size);
    const char *want = "{\n  \"a\": [\n    0.5\n  ],\n  \"b\": 1\n}\n";
    CHECK(size == strlen(want) && memcmp(got, want, size) == 0);
    free(got);
    json_decref(json);
    remove(path);
    free(path);
}

int main(void) {
    peft_context *ctx = test_context();
    const uint64_t before = test_bytes(ctx);
    test_errors(ctx);
    test_getters(ctx);
    test_same_text(ctx, "python.json", 2, true);
    test_same_text(ctx, "python_line.json", 0, false);
    test_write_file(ctx);
    CHECK(test_bytes(ctx) == before);
    test_context_end(ctx);
    return check_summary();
}
