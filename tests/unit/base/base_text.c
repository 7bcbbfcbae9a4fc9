/* UTF-8, closest names, module suffixes. */
#include "base/base.h"
#include "check.h"

static void test_utf8(void) {
    int wrong = 0;
    for (uint32_t code_point = 0; code_point < 0x110400; code_point++) {
        char text[4];
        uint32_t back = 0;
        const size_t size = peft__utf8_encode(code_point, text);
        const bool valid = code_point <= 0x10ffff && !(code_point >= 0xd800 && code_point <= 0xdfff);
        if (!valid) {
            wrong += size != 0;
            continue;
        }
        wrong += peft__utf8_decode(text, size, &back) != size || back != code_point;
        for (size_t part = 1; part < size; part++) wrong += peft__utf8_decode(text, part, &back) != 0;
    }
    CHECK(wrong == 0);
    static const char *const bad[] = {
        "\x80",         "\xc0\x80",         "\xc1\xbf",         "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf",
        "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff",         "\xc3(",
        "a\xe2\x82"};
    for (size_t i = 0; i < PEFT_COUNT(bad); i++) CHECK(!peft__utf8_valid(bad[i], strlen(bad[i])));
    CHECK(peft__utf8_valid("", 0) && peft__utf8_valid("a\0\xc3\xa4", 4));

    char text[64] = "a\xff\tb\x1f\xe2\x82";
    peft__utf8_tidy(text);
    CHECK_STR(text, "a? b?");
    strcpy(text, "\xe2\x82\xac");
    peft__utf8_tidy(text);
    CHECK_STR(text, "\xe2\x82\xac");
    strcpy(text, "\x80\x80");
    peft__utf8_tidy(text);
    CHECK_STR(text, "??");
    strcpy(text, "\xf0\x90z");
    peft__utf8_tidy(text);
    CHECK_STR(text, "??z");
}

static void test_names(void) {
    static const char *const names[] = {"learning_rate", "lora_alpha", "lora_dropout", "target_modules", "r"};
    const size_t count = PEFT_COUNT(names);
    CHECK_STR(peft__closest("learning-rate", names, count), "learning_rate");
    CHECK_STR(peft__closest("LearningRate", names, count), "learning_rate");
    CHECK_STR(peft__closest("lora_aplha", names, count), "lora_alpha");
    CHECK_STR(peft__closest("target_module", names, count), "target_modules");
    CHECK(peft__closest("epochs", names, count) == NULL && peft__closest("x", names, count) == NULL);
    CHECK(peft__closest("", names, count) == NULL && peft__closest("r", names, 0) == NULL);
    CHECK_STR(peft__closest("R", names, count), "r");
    char longer[300];
    memset(longer, 'r', sizeof longer - 1);
    longer[299] = '\0';
    CHECK(peft__closest(longer, names, count) == NULL);

    CHECK(peft__module_suffix("model.layers.0.self_attn.q_proj", "q_proj"));
    CHECK(peft__module_suffix("model.layers.0.self_attn.q_proj", "self_attn.q_proj"));
    CHECK(peft__module_suffix("q_proj", "q_proj"));
    CHECK(!peft__module_suffix("model.seq_proj", "q_proj") && !peft__module_suffix("q_proj", "model.q_proj"));
    CHECK(!peft__module_suffix("model.q_proj.lora", "q_proj") && !peft__module_suffix("model.", ""));
}

int main(void) {
    test_utf8();
    test_names();
    return check_summary();
}
