// consumer.cpp: the same from C++11.
#include <peft/peft.h>

#include <cstdio>
#include <memory>

int main() {
    peft_context *raw = nullptr;
    if (peft_context_create(nullptr, &raw) != PEFT_OK) return 1;
    std::unique_ptr<peft_context, void (*)(peft_context *)> context(raw, peft_context_destroy);
    peft_optimizer_options options;
    peft_optimizer_options_init(&options);
    if (options.struct_size != sizeof options) return 1;
    std::printf("C++: libpeft %s, default learning rate %g\n", peft_version_string(), static_cast<double>(options.lr));
    return 0;
}
