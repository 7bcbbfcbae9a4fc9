// 04_cpp: a C++ program against the installed library: c++ main.cpp $(pkg-config --cflags --libs libpeft)
//
//   04_cpp MODEL PROMPT
//
// Handles become unique_ptr, statuses become exceptions, and a callback streams the text as it is generated.
#include <peft/peft.h>

#include <cstring>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

template <typename T> using handle = std::unique_ptr<T, void (*)(T *)>;

static void check(peft_context *context, peft_status status) {
    if (status < 0) throw std::runtime_error(peft_context_error(context));
}

static int32_t print(void *, const char *text, uint32_t length) {
    std::cout.write(text, length).flush();
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        std::cerr << "usage: " << argv[0] << " MODEL PROMPT\n";
        return 2;
    }
    try {
        peft_context *raw_context = nullptr;
        if (peft_context_create(nullptr, &raw_context) < 0) return 1;
        handle<peft_context> context(raw_context, peft_context_destroy);
        peft_model *raw_model = nullptr;
        check(context.get(), peft_model_load(context.get(), argv[1], nullptr, &raw_model));
        handle<peft_model> model(raw_model, peft_model_destroy);
        peft_session *raw_session = nullptr;
        peft_session_options options;
        peft_session_options_init(&options);
        options.inference = 1;
        check(context.get(), peft_session_create(context.get(), model.get(), nullptr, 0, &options, &raw_session));
        handle<peft_session> session(raw_session, peft_session_destroy);

        std::vector<int32_t> ids(256);
        int64_t count = 0;
        check(context.get(), peft_tokenizer_encode(peft_model_tokenizer(model.get()), argv[2], std::strlen(argv[2]), PEFT_ENCODE_SPECIAL,
                                                   ids.data(), static_cast<int64_t>(ids.size()), &count));
        peft_generate_options generate;
        peft_generate_options_init(&generate);
        generate.max_new_tokens = 24;
        generate.on_text = print;
        std::vector<int32_t> out(24);
        int64_t written = 0;
        check(context.get(), peft_session_generate(session.get(), ids.data(), count, &generate, out.data(), static_cast<int64_t>(out.size()), &written));
        std::cout << "\n" << written << " tokens\n";
    } catch (const std::exception &error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
    return 0;
}
