/* Chat formats. The expected texts are what the models' own Jinja templates give. */
#include "text_test.h"

static const peft_chat_message talk[] = {{"user", " Hi there\n"}, {"assistant", " Hello! "}};
static const peft_chat_message with_system[] = {
    {"system", "Be brief. "}, {"user", "a"}, {"assistant", "b"}, {"user", "c"}, {"assistant", "d\n\n"}};

typedef struct format_case {
    const char *spec;
    const peft_chat_message *messages;
    size_t count;
    int32_t prompt;
    const char *text, *span; /* span: of the last assistant message */
} format_case;

#define SMOLLM_TEMPLATE                                                                                                \
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou " \
    "are a "                                                                                                           \
    "helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "         \
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"    \
    "{{ '<|im_start|>assistant\n' }}{% endif %}"

static const format_case cases[] = {
    {SMOLLM_TEMPLATE, talk, 1, 1,
     "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
     "Face<|im_end|>\n<|im_start|>user\n Hi "
     "there\n<|im_end|>\n<|im_start|>assistant\n",
     NULL},
    {"smollm2", with_system, 3, 0,
     "<|im_start|>system\nBe brief. <|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n",
     "b<|im_end|>"},
    {"chatml", talk, 2, 0, "<|im_start|>user\n Hi there\n<|im_end|>\n<|im_start|>assistant\n Hello! <|im_end|>\n",
     " Hello! <|im_end|>"},
    {"qwen2.5", talk, 1, 1,
     "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
     "assistant.<|im_end|>\n<|im_start|>user\n Hi "
     "there\n<|im_end|>\n<|im_start|>assistant\n",
     NULL},
    {"qwen3", talk, 2, 0,
     "<|im_start|>user\n Hi there\n<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n Hello! <|im_end|>\n",
     "<think>\n\n</think>\n\n Hello! <|im_end|>"},
    {"llama2", with_system, 5, 0,
     "<s>[INST] <<SYS>>\nBe brief. \n<</SYS>>\n\na [/INST] b </s><s>[INST] c [/INST] d </s>", " d </s>"},
    {"llama3", talk, 2, 1,
     "<s><|start_header_id|>user<|end_header_id|>\n\nHi "
     "there<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello!"
     "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
     "Hello!<|eot_id|>"},
    {"mistral", with_system, 5, 0, "<s>[INST] Be brief. \n\na [/INST] b</s>[INST] c [/INST] d\n\n</s>", " d\n\n</s>"},
    {"zephyr", with_system, 3, 1, "<|system|>\nBe brief. </s>\n<|user|>\na</s>\n<|assistant|>\nb</s>\n<|assistant|>\n",
     "b</s>"},
    {"gemma", with_system, 3, 1,
     "<s><start_of_turn>user\nBe brief. "
     "\n\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n<start_of_turn>model\n",
     "b<end_of_turn>"},
    {"phi3", talk, 2, 0, "<|user|>\n Hi there\n<|end|>\n<|assistant|>\n Hello! <|end|>\n</s>", " Hello! <|end|>"},
    {"phi4", talk, 2, 0,
     "<|im_start|>user<|im_sep|> Hi there\n<|im_end|><|im_start|>assistant<|im_sep|> Hello! <|im_end|>",
     " Hello! <|im_end|>"},
    {"alpaca", with_system, 3, 0, "Be brief. \n\n### Instruction:\na\n\n### Response:\nb</s>\n\n", "b</s>"},
    {"vicuna", with_system, 3, 1, "<s>Be brief.  USER: a ASSISTANT: b</s>ASSISTANT:", " b</s>"},
    {"{\"start\": \"{bos}\", \"user\": {\"prefix\": \"U:\", \"suffix\": \"\\n\"}, \"assistant\": {\"prefix\": \"A:\", "
     "\"suffix\": "
     "\"{eos}\\n\"}, \"trim\": true}",
     talk, 2, 1, "<s>U:Hi there\nA:Hello!</s>\nA:", "Hello!</s>"},
};

static void check_texts(peft_context *ctx, peft_tokenizer *t) {
    for (size_t i = 0; i < PEFT_COUNT(cases); i++) {
        const format_case *c = &cases[i];
        char text[1024];
        size_t length = 0, spans = 0;
        peft_chat_span span[8];
        CHECK_OK(ctx, peft_chat_render(t, c->spec, c->messages, c->count, c->prompt, text, sizeof text, &length, span,
                                       8, &spans));
        CHECK_STR(text, c->text);
        CHECK(length == strlen(text));
        if (c->span == NULL) {
            CHECK(spans == 0);
        } else if (CHECK(spans > 0)) {
            const peft_chat_span *last = &span[spans - 1];
            CHECK(last->message == c->count - 1 && last->end - last->begin == strlen(c->span) &&
                  memcmp(text + last->begin, c->span, strlen(c->span)) == 0);
        }
        /* a buffer that is too small: the need is told */
        size_t need = 0;
        CHECK_STATUS(
            ctx, peft_chat_render(t, c->spec, c->messages, c->count, c->prompt, text, length, &need, span, 8, &spans),
            PEFT_E_LIMIT);
        CHECK(need == length);
        CHECK_OK(ctx, peft_chat_render(t, c->spec, c->messages, c->count, c->prompt, NULL, 0, &need, NULL, 0, NULL));
    }
}

/* The prompt is a prefix of the whole, so that a model trained on the whole is asked as it was trained; and the span
 * begins where the prompt ends. */
static void check_prefix(peft_context *ctx, peft_tokenizer *t) {
    static const char *const names[] = {"chatml", "llama2", "llama3", "llama3.1", "mistral", "zephyr",  "gemma",
                                        "phi3",   "phi4",   "alpaca", "vicuna",   "qwen2",   "qwen2.5", "smollm2"};
    for (size_t i = 0; i < PEFT_COUNT(names); i++) {
        char whole[1024], prompt[1024];
        size_t a = 0, b = 0, spans = 0;
        peft_chat_span span[2];
        CHECK_OK(ctx, peft_chat_render(t, names[i], with_system, 3, 0, whole, sizeof whole, &a, span, 2, &spans));
        CHECK_OK(ctx, peft_chat_render(t, names[i], with_system, 2, 1, prompt, sizeof prompt, &b, NULL, 0, NULL));
        if (!CHECK(b < a && memcmp(whole, prompt, b) == 0 && spans == 1 && span[0].begin == b && span[0].end <= a))
            fprintf(stderr, "    %s\n", names[i]);
    }
}

static void check_errors(peft_context *ctx, peft_tokenizer *t) {
    static const peft_chat_message twice[] = {{"user", "a"}, {"user", "b"}}, odd[] = {{"tool", "a"}},
                                   none[] = {{"system", "a"}};
    static const peft_chat_message null_content[] = {{"user", NULL}};
    static const struct {
        const char *spec;
        peft_status want;
        const char *says;
    } bad[] = {{NULL, PEFT_E_UNSUPPORTED, "no chat template"},
               {"chatlm", PEFT_E_UNSUPPORTED, "did you mean chatml"},
               {"{{ something }}", PEFT_E_UNSUPPORTED, "name one of"},
               {"{% x %}<|im_start|>{{ reasoning_effort }}", PEFT_E_UNSUPPORTED, "thoughts"},
               {"{{ x }}[INST][SYSTEM_PROMPT]", PEFT_E_UNSUPPORTED, "[SYSTEM_PROMPT]"},
               {"{\"user\": {}}", PEFT_E_FORMAT, "assistant"},
               {"{\"user\": {}, \"asistant\": {}}", PEFT_E_ARG, "assistant"},
               {"{\"user\": ", PEFT_E_FORMAT, "chat format"}};
    size_t length = 0;
    for (size_t i = 0; i < PEFT_COUNT(bad); i++) {
        CHECK_STATUS(ctx, peft_chat_render(t, bad[i].spec, talk, 1, 0, NULL, 0, &length, NULL, 0, NULL), bad[i].want);
        if (!CHECK(strstr(peft_context_error(ctx), bad[i].says) != NULL))
            fprintf(stderr, "    %s\n", peft_context_error(ctx));
    }
    CHECK_STATUS(ctx, peft_chat_render(t, "gemma", twice, 2, 0, NULL, 0, &length, NULL, 0, NULL), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_chat_render(t, "chatml", odd, 1, 0, NULL, 0, &length, NULL, 0, NULL), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_chat_render(t, "llama2", none, 1, 0, NULL, 0, &length, NULL, 0, NULL), PEFT_E_ARG);
    CHECK_STATUS(ctx, peft_chat_render(t, "chatml", null_content, 1, 0, NULL, 0, &length, NULL, 0, NULL), PEFT_E_ARG);
    CHECK_OK(ctx, peft_chat_render(t, "chatml", NULL, 0, 1, NULL, 0, &length, NULL, 0, NULL));
}

int main(void) {
    peft_context *ctx = test_context();
    peft_tokenizer *t = open_fixture(ctx, "bpe-llama2");
    check_texts(ctx, t);
    check_prefix(ctx, t);
    check_errors(ctx, t);
    peft_tokenizer_close(t);
    peft_context_destroy(ctx);
    return check_summary();
}
