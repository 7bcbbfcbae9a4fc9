/* Rows: JSONL, JSON arrays, CSV, text, gzip, and going back to a kept position. */
#include <zlib.h>

#include "format/text_rows.h"
#include "format_test.h"

/* All rows as JSON text, one after another, or "!" and the error. */
static void expect(peft_context *ctx, const char *name, const char *text, size_t size,
                   const peft__rows_options *options, const char *want, int line) {
    uint8_t *copy = test_exact(text, size);
    peft__rows *rows = NULL;
    peft__buffer got;
    peft__buffer_init(&got, ctx->mem);
    peft_status status = peft__rows_open_memory(ctx, name, copy, size, options, &rows);
    while (status == PEFT_OK) {
        json_t *row = NULL;
        status = peft__rows_next(rows, &row);
        if (status == PEFT_OK) CHECK_OK(ctx, peft__json_dump(ctx, row, 0, false, &got));
        json_decref(row);
    }
    if (status < 0) peft__buffer_printf(&got, "!%s", peft_context_error(ctx));
    const char *found = got.data != NULL ? got.data : "";
    const bool same =
        strncmp(found, want, strlen(want)) == 0 && (strchr(want, '!') != NULL || strlen(found) == strlen(want));
    if (!CHECK(same)) fprintf(stderr, "    line %d: %s\n    want %s\n    got  %s\n", line, text, want, found);
    /* After an error or the end the reader stays where it was. */
    if (rows != NULL) {
        json_t *row = NULL;
        CHECK(peft__rows_next(rows, &row) == status && row == NULL);
    }
    peft__rows_free(rows);
    peft__buffer_free(&got);
    free(copy);
}
#define EXPECT(name, text, want) expect(ctx, name, text, strlen(text), NULL, want, __LINE__)

static void test_jsonl(peft_context *ctx) {
    EXPECT("a.jsonl", "", "");
    EXPECT("a.jsonl", "{\"a\":1}\n{\"a\":2}", "{\"a\": 1}{\"a\": 2}");
    EXPECT("a.jsonl", "\xef\xbb\xbf{\"a\":1}\r\n\r\n  \n{\"a\":\"\xc3\xa9\"}\r\n\n", "{\"a\": 1}{\"a\": \"\\u00e9\"}");
    EXPECT("a.jsonl", "{\"a\":1}\n\n{\"a\":}\n", "{\"a\": 1}!a.jsonl:3:");
    EXPECT("a.jsonl", "{\"a\":1}\n[1]\n", "{\"a\": 1}!a.jsonl:2: expected an object, found an array");
    EXPECT("a.jsonl", "{\"a\":1}\n7\n", "{\"a\": 1}!a.jsonl:2:");
    EXPECT("a.jsonl", "{\"a\":1} {\"a\":1}\n", "!a.jsonl:1:");
    EXPECT("a.ndjson", "{\"a\":\"\xff\"}\n", "!a.ndjson:1:");
    EXPECT("a.JSONL.gz", "{\"a\":1}", "{\"a\": 1}");
}

static void test_json(peft_context *ctx) {
    EXPECT("a.json", "", "");
    EXPECT("a.json", " [ ] \n", "");
    EXPECT("a.json", "[{\"a\":1},\n {\"a\":[1,{\"b\":\"]}\\\"\"}]}\n]\n",
           "{\"a\": 1}{\"a\": [1, {\"b\": \"]}\\\"\"}]}");
    EXPECT("a.json", "{\"a\":1}\n{\"a\":2}\n", "{\"a\": 1}{\"a\": 2}");
    EXPECT("a.json", "[{\"a\":1}", "!a.json:1: the file ends inside the array");
    EXPECT("a.json", "[", "!a.json:1: the file ends inside the array");
    EXPECT("a.json", "[{\"a\":1},\n{\"a\":", "{\"a\": 1}!a.json:2: the file ends inside this row");
    EXPECT("a.json", "[{\"a\":1}{\"a\":1}]", "{\"a\": 1}!a.json:1: expected a comma");
    EXPECT("a.json", "[{\"a\":1},]", "{\"a\": 1}!a.json:1: expected an object");
    EXPECT("a.json", "[,{\"a\":1}]", "!a.json:1: expected an object");
    EXPECT("a.json", "[{\"a\":1}] x", "{\"a\": 1}!a.json:1: text behind");
    EXPECT("a.json", "[1]", "!a.json:1:");
    EXPECT("a.json", "[[1]]", "!a.json:1: expected an object, found an array");
    EXPECT("a.json", "[}]", "!a.json:1:");
    EXPECT("a.json", "\"x\"", "!a.json:1: expected an array");
}

static void test_csv(peft_context *ctx) {
    EXPECT("a.csv", "", "");
    EXPECT("a.csv", "a,b\n", "");
    EXPECT("a.csv", "a,b\r\n1,2\r\n\r\n3,\r\n", "{\"a\": \"1\", \"b\": \"2\"}{\"a\": \"3\", \"b\": \"\"}");
    EXPECT("a.csv", "\xef\xbb\xbf\"a\",b\n\"x, \"\"y\"\"\nz\",2", "{\"a\": \"x, \\\"y\\\"\\nz\", \"b\": \"2\"}");
    EXPECT("a.csv", "a\n\"\"\n", "{\"a\": \"\"}");
    EXPECT("a.csv", "a,b\n1,2\n1,2,3\n", "{\"a\": \"1\", \"b\": \"2\"}!a.csv:3: row 2 has 3 fields, expected 2");
    EXPECT("a.csv", "a,b\n\"1\n\n,2\n", "!a.csv:2: a quote is opened here and never closed");
    EXPECT("a.csv", "a,b\n\"x\ny\",1\n2\n", "{\"a\": \"x\\ny\", \"b\": \"1\"}!a.csv:4: row 2 has 1 fields");
    EXPECT("a.csv", "a,b\n\"1\"2,3\n", "!a.csv:2: text behind the closing quote");
    EXPECT("a.csv", "a,b\n5\" disk,3\n", "{\"a\": \"5\\\" disk\", \"b\": \"3\"}");
    EXPECT("a.csv", "a,a\n1,2\n", "!a.csv:1: two columns are called a");
    EXPECT("a.csv", "a,\n1,2\n", "!a.csv:1: column 2 has no name");
    EXPECT("a.csv", "a,b\n\xff,2\n", "!a.csv:2: not valid UTF-8");
    EXPECT("a.csv", "a\nx\ry\n", "{\"a\": \"x\\ry\"}");
    EXPECT("a.tsv", "a\tb\n1,5\t2\n", "{\"a\": \"1,5\", \"b\": \"2\"}");
    const peft__rows_options strict = {.format = PEFT__ROWS_CSV, .strict = true, .delimiter = ';'};
    const peft__rows_options bare = {.format = PEFT__ROWS_CSV, .no_header = true};
    const peft__rows_options odd = {.format = PEFT__ROWS_CSV, .delimiter = '"'};
    expect(ctx, "x", "a;b\n5\";3\n", 8, &strict, "!x:2: a quote inside a field", __LINE__);
    expect(ctx, "x", "1,2\n3,4\n", 8, &bare,
           "{\"column1\": \"1\", \"column2\": \"2\"}{\"column1\": \"3\", \"column2\": \"4\"}", __LINE__);
    expect(ctx, "x", "1", 1, &odd, "!x: the delimiter", __LINE__);
}

static void test_text(peft_context *ctx) {
    EXPECT("a.txt", "one\r\n\n \ntwo", "{\"text\": \"one\"}{\"text\": \"two\"}");
    EXPECT("a.txt", "one\n\xff\n", "{\"text\": \"one\"}!a.txt:2: not valid UTF-8");
    const peft__rows_options whole = {.format = PEFT__ROWS_TEXT_WHOLE};
    expect(ctx, "a", "x\ny\n", 4, &whole, "{\"text\": \"x\\ny\\n\"}", __LINE__);
    expect(ctx, "a", "x\ny\xff\n", 5, &whole, "!a:2: not valid UTF-8", __LINE__);
    expect(ctx, "a", "", 0, &whole, "", __LINE__);
    const peft__rows_options small = {.format = PEFT__ROWS_TEXT, .row_limit = 3};
    expect(ctx, "a", "abc\nabcd\n", 9, &small, "{\"text\": \"abc\"}!a:2: a row of 4 bytes", __LINE__);
}

static void test_marks(peft_context *ctx, const char *name, const char *text) {
    peft__rows *rows = NULL;
    json_t *row = NULL;
    CHECK_OK(ctx, peft__rows_open_memory(ctx, name, text, strlen(text), NULL, &rows));
    peft__rows_mark marks[3];
    for (int i = 0; i < 3; i++) {
        marks[i] = peft__rows_tell(rows);
        CHECK_OK(ctx, peft__rows_next(rows, &row));
        json_decref(row);
    }
    for (int i = 2; i >= 0; i--) {
        char want[16];
        const char *got = NULL;
        peft__rows_seek(rows, &marks[i]);
        CHECK_OK(ctx, peft__rows_next(rows, &row));
        snprintf(want, sizeof want, "%d", i);
        CHECK_OK(ctx, peft__json_need_string(ctx, row, name, "a", &got));
        CHECK_STR(got, want);
        CHECK(peft__rows_line(rows) == (uint64_t)i + 2);
        json_decref(row);
    }
    peft__rows_seek(rows, NULL);
    CHECK(peft__rows_tell(rows).row == 0);
    peft__rows_free(rows);
}

static void put_gzip(const char *path, const char *mode, const char *text, size_t size) {
    gzFile file = gzopen(path, mode);
    if (file == NULL || gzwrite(file, text, (unsigned)size) != (int)size) exit(1);
    gzclose(file);
}

static void test_gzip(peft_context *ctx) {
    char *path = test_scratch("t.jsonl.gz");
    peft__rows *rows = NULL;
    json_t *row = NULL;
    put_gzip(path, "wb", "{\"a\":1}\n", 8);
    put_gzip(path, "ab", "{\"a\":2}\n", 8); /* a second member */
    CHECK_OK(ctx, peft__rows_open(ctx, path, NULL, &rows));
    for (int i = 1; i <= 2; i++) {
        int64_t value = 0;
        CHECK_OK(ctx, peft__rows_next(rows, &row));
        CHECK_OK(ctx, peft__json_need_int(ctx, row, path, "a", 0, 9, &value));
        CHECK(value == i);
        json_decref(row);
    }
    CHECK(peft__rows_next(rows, &row) == PEFT_END);
    peft__rows_free(rows);
    size_t size = 0;
    uint8_t *data = test_read(path, &size);
    const uint64_t before = test_bytes(ctx);
    size_t complete = 0;
    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *copy = test_exact(data, cut);
        peft__buffer out;
        peft__buffer_init(&out, ctx->mem);
        if (peft__gzip_inflate(ctx, "t", copy, cut, 1000, &out) == PEFT_OK) complete++;
        peft__buffer_free(&out);
        free(copy);
    }
    CHECK(complete == 1); /* the end of the first member */
    for (size_t at = 0; at < size * 8; at++) {
        uint8_t *copy = test_exact(data, size);
        copy[at / 8] = (uint8_t)(copy[at / 8] ^ 1u << at % 8);
        peft__buffer out;
        peft__buffer_init(&out, ctx->mem);
        (void)peft__gzip_inflate(ctx, "t", copy, size, 1000, &out);
        CHECK(out.length <= 1000);
        peft__buffer_free(&out);
        free(copy);
    }
    CHECK(test_bytes(ctx) == before);
    free(data);
    /* 16 MiB of zeros in 16 KiB. */
    char *zeros = calloc(1, 1 << 24);
    put_gzip(path, "wb", zeros, 1 << 24);
    free(zeros);
    const peft__rows_options options = {.limit = 1 << 20};
    CHECK_ERROR(ctx, peft__rows_open(ctx, path, &options, &rows), PEFT_E_LIMIT, "more than 1048576 bytes");
    peft__content content;
    CHECK_OK(ctx, peft__content_open(ctx, path, 1 << 24, &content));
    CHECK(content.size == 1 << 24 && content.data[content.size - 1] == 0);
    peft__content_close(&content);
    CHECK_STATUS(ctx, peft__content_open(ctx, path, (1 << 24) - 1, &content), PEFT_E_LIMIT);
    remove(path);
    free(path);
}

int main(void) {
    peft_context *ctx = test_context();
    const uint64_t before = test_bytes(ctx);
    test_jsonl(ctx);
    test_json(ctx);
    test_csv(ctx);
    test_text(ctx);
    test_marks(ctx, "m.csv", "a,b\n0,x\n1,y\n2,z\n");
    test_marks(ctx, "m.jsonl", "\n{\"a\":\"0\"}\n{\"a\":\"1\"}\n{\"a\":\"2\"}\n");
    test_marks(ctx, "m.json", "[\n{\"a\":\"0\"},\n{\"a\":\"1\"},\n{\"a\":\"2\"}\n]\n");
    test_gzip(ctx);
    CHECK(test_bytes(ctx) == before);
    test_context_end(ctx);
    return check_summary();
}
