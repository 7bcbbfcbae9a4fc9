/* YAML: what is read, what is refused by name, and the lines that error texts need. */
#include "format/yaml.h"

#include "format_test.h"

static peft_status load(peft_context *ctx, const char *text, size_t size, json_t **json, peft__yaml_lines **lines) {
    uint8_t *copy = test_exact(text, size);
    const peft_status status = peft__yaml_load_memory(ctx, "r.yaml", copy, size, 0, json, lines);
    free(copy);
    return status;
}

static void same(peft_context *ctx, const char *yaml, const char *json, int line) {
    json_t *tree = NULL;
    peft__buffer text;
    peft__buffer_init(&text, ctx->mem);
    const peft_status status = load(ctx, yaml, strlen(yaml), &tree, NULL);
    if (status == PEFT_OK) CHECK_OK(ctx, peft__json_dump(ctx, tree, 0, false, &text));
    if (!CHECK(status == PEFT_OK && text.data != NULL && strcmp(text.data, json) == 0))
        fprintf(stderr, "    line %d: %s\n    got %s\n    (%s)\n", line, yaml, text.data != NULL ? text.data : "-",
                peft_context_error(ctx));
    peft__buffer_free(&text);
    json_decref(tree);
}
#define SAME(yaml, json) same(ctx, yaml, json, __LINE__)

static void test_values(peft_context *ctx) {
    SAME("", "{}");
    SAME("# only a comment\n", "{}");
    SAME("---\na: 1\n...\n", "{\"a\": 1}");
    SAME("a: 1\nb: -2\nc: +3\nd: 007\n", "{\"a\": 1, \"b\": -2, \"c\": 3, \"d\": 7}");
    SAME("a: 1e-4\nb: 1.5\nc: .5\nd: 1.\ne: -1.E+2\nf: 2e5",
         "{\"a\": 0.0001, \"b\": 1.5, \"c\": 0.5, \"d\": 1.0, \"e\": -100.0, \"f\": 200000.0}");
    SAME("a: true\nb: false\nc: yes\nd: no\ne: True\nf: on\n",
         "{\"a\": true, \"b\": false, \"c\": \"yes\", \"d\": \"no\", \"e\": \"True\", \"f\": \"on\"}");
    SAME("a: null\nb: ~\nc:\nd: ''\n", "{\"a\": null, \"b\": null, \"c\": null, \"d\": \"\"}");
    SAME("a: '1'\nb: \"true\"\nc: \"x\\ty\\u00e9\"\n", "{\"a\": \"1\", \"b\": \"true\", \"c\": \"x\\ty\\u00e9\"}");
    SAME("a: 0x10\nb: 1_000\nc: 2024-01-01\nd: 1:30\ne: .inf\nf: 1.2.3\ng: 1e\nh: e5\ni: '-'\nj: +\nk: .\n",
         "{\"a\": \"0x10\", \"b\": \"1_000\", \"c\": \"2024-01-01\", \"d\": \"1:30\", \"e\": \".inf\", \"f\": "
         "\"1.2.3\", "
         "\"g\": \"1e\", \"h\": \"e5\", \"i\": \"-\", \"j\": \"+\", \"k\": \".\"}");
    SAME("a: 99999999999999999999\nb: 1e999\n", "{\"a\": 1e+20, \"b\": \"1e999\"}");
    SAME("a: {x: 1, y: [q_proj, v_proj]}\nb:\n  - 1\n  - k: v\n    l: w\n  - [2, {}]\n",
         "{\"a\": {\"x\": 1, \"y\": [\"q_proj\", \"v_proj\"]}, \"b\": [1, {\"k\": \"v\", \"l\": \"w\"}, [2, {}]]}");
    SAME("a: |\n  one\n  two\nb: >-\n  three\n  four\nc: |-\n  x\n",
         "{\"a\": \"one\\ntwo\\n\", \"b\": \"three four\", \"c\": \"x\"}");
    SAME("{\"json\": [1, 2.0, null, \"s\"]}", "{\"json\": [1, 2.0, null, \"s\"]}");
    SAME("1: one\ntrue: two\n", "{\"1\": \"one\", \"true\": \"two\"}");
    SAME("- 1\n- 2\n", "[1, 2]");
    SAME("a: x # comment\nb: 'x # y'\n", "{\"a\": \"x\", \"b\": \"x # y\"}");
}

static void test_refused(peft_context *ctx) {
    static const struct {
        const char *text;
        peft_status status;
        const char *part;
    } BAD[] = {
        {"a: &x 1\n", PEFT_E_UNSUPPORTED, "r.yaml:1:4: anchors"},
        {"a: &x [1]\n", PEFT_E_UNSUPPORTED, "anchors"},
        {"a: 1\nb: *x\n", PEFT_E_UNSUPPORTED, "r.yaml:2:4: aliases"},
        {"a: !!str 1\n", PEFT_E_UNSUPPORTED, "tags"},
        {"a: !x {}\n", PEFT_E_UNSUPPORTED, "tags"},
        {"<<: {a: 1}\n", PEFT_E_UNSUPPORTED, "merge keys"},
        {"a: 1\n---\nb: 2\n", PEFT_E_UNSUPPORTED, "more than one document"},
        {"? [a]\n: 1\n", PEFT_E_UNSUPPORTED, "keys must be text"},
        {"a: 1\nb: 2\na: 3\n", PEFT_E_FORMAT, "r.yaml:3:1: the key a is there twice"},
        {"a: [1, 2\nb: 3\n", PEFT_E_FORMAT, "r.yaml:"},
        {"a: 1\n\tb: 2\n", PEFT_E_FORMAT, "r.yaml:2:"},
        {"a: \"x\n", PEFT_E_FORMAT, "r.yaml:"},
        {"a: \xff\n", PEFT_E_FORMAT, "r.yaml:"},
        {"'': 1\n", PEFT_E_FORMAT, "an empty key"},
        {"\"a\\0b\": 1\n", PEFT_E_FORMAT, "NUL"},
        {"a: b: c\n", PEFT_E_FORMAT, "r.yaml:1:"},
        {"%YAML 3.0\n---\na: 1\n", PEFT_E_FORMAT, "r.yaml:"},
    };
    for (size_t i = 0; i < PEFT_COUNT(BAD); i++) {
        json_t *json = NULL;
        peft__yaml_lines *lines = NULL;
        const peft_status status = load(ctx, BAD[i].text, strlen(BAD[i].text), &json, &lines);
        if (!CHECK(status == BAD[i].status && json == NULL && lines == NULL) ||
            !CHECK(strstr(peft_context_error(ctx), BAD[i].part) != NULL))
            fprintf(stderr, "    %s    %s: %s\n", BAD[i].text, peft_status_name(status), peft_context_error(ctx));
    }
    /* Deep and broad. */
    static const char PATTERNS[] = "[{-?&*!|>'\"%@`#:,]}";
    const size_t size = 200000;
    char *text = malloc(size);
    for (size_t i = 0; i + 1 < sizeof PATTERNS; i++) {
        json_t *json = NULL;
        memset(text, PATTERNS[i], size);
        if (load(ctx, text, size, &json, NULL) == PEFT_OK) json_decref(json);
    }
    for (size_t i = 0; i < size; i++) text[i] = i % 2 == 0 ? '-' : ' ';
    json_t *json = NULL;
    CHECK_ERROR(ctx, load(ctx, text, size, &json, NULL), PEFT_E_FORMAT, "32 levels");
    memset(text, '[', 1000);
    CHECK_ERROR(ctx, load(ctx, text, 1000, &json, NULL), PEFT_E_FORMAT, "32 levels");
    free(text);
    CHECK_ERROR(ctx, peft__yaml_load_memory(ctx, "r.yaml", "a: 1", 4, 3, &json, NULL), PEFT_E_FORMAT, "at most 3");
}

static void test_lines(peft_context *ctx) {
    const char *text = "model: x\ntrain:\n  steps: 3\n\n  optimizer:\n    lr: 1\ndata:\n  files:\n    - a\n    - name: "
                       "b\n      n: 1\n";
    json_t *json = NULL;
    peft__yaml_lines *lines = NULL;
    CHECK_OK(ctx, load(ctx, text, strlen(text), &json, &lines));
    CHECK(peft__yaml_line(lines, "model") == 1);
    CHECK(peft__yaml_line(lines, "train") == 2);
    CHECK(peft__yaml_line(lines, "train.steps") == 3);
    CHECK(peft__yaml_line(lines, "train.optimizer.lr") == 6);
    CHECK(peft__yaml_line(lines, "data.files[0]") == 9);
    CHECK(peft__yaml_line(lines, "data.files[1]") == 10);
    CHECK(peft__yaml_line(lines, "data.files[1].n") == 11);
    CHECK(peft__yaml_line(lines, "absent") == 0);
    CHECK(peft__yaml_line(NULL, "model") == 0);
    peft__yaml_lines_free(lines);
    json_decref(json);
}

int main(void) {
    peft_context *ctx = test_context();
    const uint64_t before = test_bytes(ctx);
    test_values(ctx);
    test_refused(ctx);
    test_lines(ctx);
    CHECK(test_bytes(ctx) == before);
    test_context_end(ctx);
    return check_summary();
}
