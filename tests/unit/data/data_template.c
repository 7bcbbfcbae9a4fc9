/* Templates over the fields of a row: what is put in, braces, and what the errors say. */
#include "data/template.h"
#include "data_test.h"

static peft_context *ctx;

static peft__template *made_of(const char *text) {
    peft__template *made = NULL;
    CHECK_OK(ctx, peft__template_create(ctx, "p.yaml:3: template", text, strlen(text), &made));
    return made;
}

static void renders(const char *text, const char *row, const char *want) {
    peft__template *made = made_of(text);
    peft__json *json = json_loads(row, 0, NULL);
    peft__template_field fields[] = {{"text", "from {label}", 12, 0}, {"mask", "[MASK]", 6, 0}};
    peft__buffer out;
    peft__buffer_init(&out, ctx->mem);
    CHECK_OK(ctx, peft__template_render(made, "rows.csv", 7, json, fields, PEFT_COUNT(fields), &out));
    CHECK_STR(out.data != NULL ? out.data : "", want);
    peft__buffer_free(&out);
    json_decref(json);
    peft__template_destroy(made);
}

static void refuses(const char *text, const char *row, const char *want) {
    peft__template *made = made_of(text);
    peft__json *json = json_loads(row, 0, NULL);
    peft__buffer out;
    peft__buffer_init(&out, ctx->mem);
    CHECK_STATUS(ctx, peft__template_render(made, "rows.csv", 7, json, NULL, 0, &out), PEFT_E_FORMAT);
    CHECK_STR(peft_context_error(ctx), want);
    peft__buffer_free(&out);
    json_decref(json);
    peft__template_destroy(made);
}

static void malformed(const char *text, const char *want) {
    peft__template *made = NULL;
    CHECK_STATUS(ctx, peft__template_create(ctx, "p.yaml:3: template", text, strlen(text), &made), PEFT_E_FORMAT);
    CHECK(made == NULL);
    if (strstr(peft_context_error(ctx), want) == NULL) CHECK_STR(peft_context_error(ctx), want);
}

int main(void) {
    ctx = test_context();
    renders("", "{}", "");
    renders("no names", "{}", "no names");
    renders("{text}", "{\"text\": \"the row's\"}", "from {label}"); /* what is put in is not read again */
    renders("a {n} b { x } c {on}{gone}.", "{\"n\": -3, \"x\": 0.5, \"on\": true, \"gone\": null}",
            "a -3 b 0.5 c true.");
    renders("{{text}} {{{x}}} }}{{", "{\"x\": \"y\"}", "{text} {y} }{");
    renders("{caf\xc3\xa9} {mask}{mask}", "{\"caf\xc3\xa9\": \"\xe2\x82\xac\"}", "\xe2\x82\xac [MASK][MASK]");
    refuses("{txt}", "{\"text\": \"a\", \"label\": 1}",
            "rows.csv:7: p.yaml:3: template has {txt}, which is no field here; did you mean {text}?");
    refuses("{question}", "{\"text\": \"a\", \"label\": 1}",
            "rows.csv:7: p.yaml:3: template has {question}, which is no field here; the fields are text, label");
    refuses("{a}", "{\"a\": [1]}", "rows.csv:7: \"a\" is text for a template, found an array");
    malformed("one\n{two", "a { that no } closes at \"{two\" (line 2 of the text)");
    malformed("a } b", "a } that no { opens");
    malformed("a {} b", "a name is missing");
    malformed("a {x{y}} b", "a { that no } closes");

    peft__template *made = made_of("[CLS] {a} {mask} {a}");
    CHECK(peft__template_uses(made, "a") == 2 && peft__template_uses(made, "b") == 0);
    CHECK_STR(peft__template_name(made, 0), "a");
    CHECK_STR(peft__template_name(made, 1), "mask");
    CHECK(peft__template_name(made, 2) == NULL);
    peft__template_field fields[] = {{"a", "xyz", 3, 0}, {"mask", "_", 1, 0}, {"other", "", 0, 0}};
    peft__buffer out;
    peft__buffer_init(&out, ctx->mem);
    CHECK(peft__buffer_puts(&out, "before "));
    CHECK_OK(ctx, peft__template_render(made, NULL, 0, NULL, fields, PEFT_COUNT(fields), &out));
    CHECK_STR(out.data, "before [CLS] xyz _ xyz");
    CHECK(fields[0].at == 6 && fields[1].at == 10 && fields[2].at == SIZE_MAX);
    peft__buffer_free(&out);
    peft__template_destroy(made);
    peft_context_destroy(ctx);
    return check_summary();
}
