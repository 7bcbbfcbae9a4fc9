/* chat_preset.c: the chat formats that are known by name, and recognising them in a Jinja text.
 *
 * Recognising looks for the marks that only one family uses, then for the points in which members of the family differ
 * (a default system prompt, a space before [INST], a bos token). Whatever changes the text in a way that is not known
 * here (tools are ignored: messages have none) must lead to "not recognised", never to a guess.
 */
#include "text/chat_format.h"

#define CHATML_ROLES                                                                                                   \
    {                                                                                                                  \
        {"<|im_start|>system\n", "", "<|im_end|>\n"}, {"<|im_start|>user\n", "", "<|im_end|>\n"}, {                    \
            "<|im_start|>assistant\n", "", "<|im_end|>\n"                                                              \
        }                                                                                                              \
    }
#define LLAMA3_HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"

const peft__chat_format peft__chat_presets[] = {
    {.name = "chatml", .start = "", .roles = CHATML_ROLES},
    {.name = "smollm2",
     .start = "",
     .roles = CHATML_ROLES,
     .default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
    {.name = "qwen2", .start = "", .roles = CHATML_ROLES, .default_system = "You are a helpful assistant."},
    {.name = "qwen2.5",
     .start = "",
     .roles = CHATML_ROLES,
     .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    {.name = "qwen3", .start = "", .roles = CHATML_ROLES, .flags = PEFT__CHAT_THINK},
    {.name = "phi4",
     .start = "",
     .roles = {{"<|im_start|>system<|im_sep|>", "", "<|im_end|>"},
               {"<|im_start|>user<|im_sep|>", "", "<|im_end|>"},
               {"<|im_start|>assistant<|im_sep|>", "", "<|im_end|>"}}},
    {.name = "llama2",
     .start = "",
     .roles = {{"<<SYS>>\n", "", "\n<</SYS>>\n\n"}, {"{bos}[INST] ", "", " [/INST]"}, {"", " ", " {eos}"}},
     .flags = PEFT__CHAT_TRIM | PEFT__CHAT_SYSTEM_IN_USER | PEFT__CHAT_ALTERNATE},
    {.name = "llama3",
     .start = "{bos}",
     .roles = {{LLAMA3_HEADER("system"), "", "<|eot_id|>"},
               {LLAMA3_HEADER("user"), "", "<|eot_id|>"},
               {LLAMA3_HEADER("assistant"), "", "<|eot_id|>"}},
     .flags = PEFT__CHAT_TRIM},
    {.name = "llama3.1",
     .start = "{bos}",
     .roles = {{LLAMA3_HEADER("system") "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n", "",
                "<|eot_id|>"},
               {LLAMA3_HEADER("user"), "", "<|eot_id|>"},
               {LLAMA3_HEADER("assistant"), "", "<|eot_id|>"}},
     .flags = PEFT__CHAT_TRIM | PEFT__CHAT_SYSTEM_ALWAYS},
    {.name = "mistral",
     .start = "{bos}",
     .roles = {{"", "", "\n\n"}, {"[INST] ", "", " [/INST]"}, {"", " ", "{eos}"}},
     .flags = PEFT__CHAT_SYSTEM_IN_USER | PEFT__CHAT_ALTERNATE},
    {.name = "zephyr",
     .start = "",
     .roles = {{"<|system|>\n", "", "{eos}\n"}, {"<|user|>\n", "", "{eos}\n"}, {"<|assistant|>\n", "", "{eos}\n"}}},
    {.name = "gemma",
     .start = "{bos}",
     .roles = {{"", "", "\n\n"},
               {"<start_of_turn>user\n", "", "<end_of_turn>\n"},
               {"<start_of_turn>model\n", "", "<end_of_turn>\n"}},
     .flags = PEFT__CHAT_TRIM | PEFT__CHAT_SYSTEM_IN_USER | PEFT__CHAT_ALTERNATE},
    {.name = "phi3",
     .start = "",
     .roles = {{"<|system|>\n", "", "<|end|>\n"},
               {"<|user|>\n", "", "<|end|>\n"},
               {"<|assistant|>\n", "", "<|end|>\n"}},
     .flags = PEFT__CHAT_EOS_AT_END},
    {.name = "alpaca",
     .start = "",
     .roles = {{"", "", "\n\n"}, {"### Instruction:\n", "", "\n\n"}, {"### Response:\n", "", "{eos}\n\n"}},
     .default_system = "Below is an instruction that describes a task. Write a response that appropriately completes "
                       "the request."},
    {.name = "vicuna",
     .start = "{bos}",
     .roles = {{"", "", " "}, {"USER: ", "", " "}, {"ASSISTANT:", " ", "{eos}"}},
     .default_system = "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
                       "helpful, detailed, and polite answers to the user's questions."},
};
const size_t peft__chat_preset_count = PEFT_COUNT(peft__chat_presets);

static const peft__chat_format *preset(const char *name) {
    for (size_t i = 0; i < peft__chat_preset_count; i++)
        if (strcmp(peft__chat_presets[i].name, name) == 0) return &peft__chat_presets[i];
    return &peft__chat_presets[0];
}

static bool has(const char *text, const char *part) {
    return strstr(text, part) != NULL;
}

/* A literal in quotes of either kind. */
static bool has_quoted(const char *text, const char *part) {
    char quoted[64];
    const size_t n = strlen(part);
    if (n + 3 > sizeof quoted) return false;
    for (int i = 0; i < 2; i++) {
        quoted[0] = i == 0 ? '\'' : '"';
        memcpy(quoted + 1, part, n);
        quoted[n + 1] = quoted[0];
        quoted[n + 2] = '\0';
        if (has(text, quoted)) return true;
    }
    return false;
}

/* `expression` right before or after message content, in the spellings in use. */
static bool around_content(const char *text, const char *before) {
    static const char *const contents[] = {"message['content']", "message[\"content\"]", "message.content", "content"};
    char whole[64];
    for (size_t i = 0; i < PEFT_COUNT(contents); i++) {
        const size_t a = strlen(before), b = strlen(contents[i]);
        if (a + b + 1 > sizeof whole) continue;
        memcpy(whole, before, a);
        memcpy(whole + a, contents[i], b + 1);
        if (has(text, whole)) return true;
    }
    return false;
}

static bool trims(const char *text) {
    return has(text, "| trim") || has(text, "|trim") || has(text, ".strip()");
}

/* A line end in a Jinja string: itself or its escape. Returns what comes after it, or NULL. */
static const char *after_line_end(const char *at) {
    if (*at == '\n') return at + 1;
    return at[0] == '\\' && at[1] == 'n' ? at + 2 : NULL;
}

/* The words of a literal '<|im_start|>system\n ... <|im_end|>'; *out NULL when there is none. False: no memory, or a
 * literal with escapes (*out_odd). */
static bool default_system(const char *text, peft__arena *arena, const char **out, bool *out_odd) {
    static const char mark[] = "<|im_start|>system";
    *out = NULL;
    *out_odd = false;
    for (const char *at = text; (at = strstr(at, mark)) != NULL;) {
        at += strlen(mark);
        const char *words = after_line_end(at);
        const char *end = words != NULL ? strstr(words, "<|im_end|>") : NULL;
        if (end == NULL) continue;
        bool literal = end > words;
        for (const char *c = words; c < end; c++) {
            if (*c == '\'' || *c == '"' || *c == '{' || *c == '}') literal = false;
            if (*c == '\\') *out_odd = true;
        }
        if (!literal) {
            *out_odd = false;
            continue;
        }
        if (*out_odd) return false;
        *out = peft__arena_strndup(arena, words, (size_t)(end - words));
        return *out != NULL;
    }
    return true;
}

static bool chatml(const char *text, peft__arena *arena, peft__chat_format *out, const char **out_why) {
    bool odd;
    if (has(text, "<|im_sep|>")) {
        *out = *preset("phi4");
        return true;
    }
    *out = *preset("chatml");
    if (has(text, "<think>") || has(text, "enable_thinking") || has(text, "reasoning")) {
        if (!has(text, "last_query_index") || !has(text, "reasoning_content") || !has(text, "loop.last")) {
            *out_why = "it writes thoughts in a way that is not known";
            return false;
        }
        *out = *preset("qwen3");
    } else if (trims(text)) {
        out->flags |= PEFT__CHAT_TRIM;
    }
    if (has(text, "strftime_now") || has(text, "Today")) {
        *out_why = "it writes the date";
        return false;
    }
    if (!default_system(text, arena, &out->default_system, &odd)) {
        *out_why = odd ? "its default system prompt has escapes" : NULL;
        return false;
    }
    if (has(text, "bos_token")) out->start = "{bos}";
    for (size_t i = 0; out->default_system != NULL && i < peft__chat_preset_count; i++)
        if (peft__chat_presets[i].default_system != NULL && peft__chat_presets[i].flags == out->flags &&
            strcmp(peft__chat_presets[i].start, out->start) == 0 &&
            strcmp(peft__chat_presets[i].default_system, out->default_system) == 0)
            out->name = peft__chat_presets[i].name;
    return true;
}

static bool mistral(const char *text, peft__chat_format *out, const char **out_why) {
    *out = *preset("mistral");
    if (has(text, "[SYSTEM_PROMPT]")) {
        *out_why = "it has [SYSTEM_PROMPT]";
        return false;
    }
    const bool spaced = has_quoted(text, " [INST] ") || has(text, "' [INST] ") || has(text, "\" [INST] ");
    const bool plain = has(text, "'[INST] ") || has(text, "\"[INST] ");
    const bool bare = has_quoted(text, "[INST]");
    if (spaced + plain + bare != 1) {
        *out_why = "it writes [INST] in a way that is not known";
        return false;
    }
    out->roles[PEFT__ROLE_USER].prefix = spaced ? " [INST] " : plain ? "[INST] " : "[INST]";
    out->roles[PEFT__ROLE_USER].suffix =
        has_quoted(text, " [/INST]") || has(text, "' [/INST]") || has(text, "\" [/INST]") ? " [/INST]" : "[/INST]";
    out->roles[PEFT__ROLE_ASSISTANT].lead =
        around_content(text, "' ' + ") || around_content(text, "\" \" + ") ? " " : "";
    out->roles[PEFT__ROLE_ASSISTANT].suffix =
        has(text, "eos_token + ' '") || has(text, "eos_token + \" \"") ? "{eos} " : "{eos}";
    if (trims(text)) out->flags |= PEFT__CHAT_TRIM;
    if (has(text, "loop.last and system_message")) out->flags |= PEFT__CHAT_SYSTEM_LAST;
    if (!has(text, "bos_token")) out->start = "";
    return true;
}

bool peft__chat_recognise(const char *text, peft__arena *arena, peft__chat_format *out, const char **out_why) {
    *out_why = "it has none of the marks of a known format";
    if (has(text, "<|im_start|>")) return chatml(text, arena, out, out_why);
    if (has(text, "<|start_header_id|>")) {
        *out = *preset(has(text, "Cutting Knowledge Date") ? "llama3.1" : "llama3");
        if (!trims(text)) out->flags &= ~(uint32_t)PEFT__CHAT_TRIM;
        if (!has(text, "bos_token") && !has(text, "<|begin_of_text|>")) out->start = "";
        return true;
    }
    if (has(text, "<start_of_turn>")) {
        *out = *preset("gemma");
        if (!has(text, "bos_token") && !has(text, "<bos>")) out->start = "";
        return true;
    }
    if (has(text, "<|user|>") && has(text, "<|assistant|>")) {
        if (has(text, "<|end|>")) {
            *out = *preset("phi3");
            if (has(text, "bos_token")) out->start = "{bos}";
            if (!has(text, "eos_token")) out->flags &= ~(uint32_t)PEFT__CHAT_EOS_AT_END;
            return true;
        }
        *out = *preset("zephyr");
        *out_why = "it ends turns in a way that is not known";
        return has(text, "eos_token");
    }
    if (has(text, "[INST]")) {
        if (!has(text, "<<SYS>>")) return mistral(text, out, out_why);
        *out = *preset("llama2");
        *out_why = "it has a default system prompt of its own";
        return !has(text, "DEFAULT_SYSTEM_MESSAGE") && !has(text, "You are a helpful, respectful");
    }
    if (has(text, "### Instruction:") && has(text, "### Response:")) {
        *out = *preset("alpaca");
        *out_why = "it has an end-of-turn token of its own";
        return !has(text, "<|EOT|>");
    }
    if (has(text, "USER: ") && has(text, "ASSISTANT:")) {
        *out = *preset("vicuna");
        return true;
    }
    return false;
}
