/* consumer.c: a program of somebody else's, in C99, against the installed library. */
#include <peft/peft.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    peft_context *context;
    peft_model *model;
    if (peft_context_create(NULL, &context) != PEFT_OK) return 1;
    if (peft_version_number() != PEFT_VERSION_MAJOR * 1000000u + PEFT_VERSION_MINOR * 1000u + PEFT_VERSION_PATCH) return 1;
    if (peft_model_load(context, "/nowhere", NULL, &model) != PEFT_E_IO) return 1;
    if (strstr(peft_context_error(context), "/nowhere") == NULL) return 1;
    printf("C: libpeft %s, %s\n", peft_version_string(), peft_context_error(context));
    peft_context_destroy(context);
    return 0;
}
