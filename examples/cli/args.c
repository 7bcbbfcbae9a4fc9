/* args.c: options and words of one command. Every option is looked for by name and struck out when it is found; what is
 * left over at the end is a mistake. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

int args_usage(const args *a, const char *complaint) {
    if (complaint != NULL) fprintf(stderr, "peft: %s\n\n", complaint);
    fputs(a->help, stderr);
    return EXIT_USAGE;
}

bool args_flag(args *a, const char *name) {
    for (int i = 0; i < a->count; i++)
        if (a->values[i] != NULL && strcmp(a->values[i], name) == 0) {
            a->values[i] = NULL;
            return true;
        }
    return false;
}

const char *args_text(args *a, const char *name) {
    const size_t length = strlen(name);
    for (int i = 0; i < a->count; i++) {
        char *value = a->values[i];
        if (value == NULL || strncmp(value, name, length) != 0) continue;
        if (value[length] == '=') {
            a->values[i] = NULL;
            return value + length + 1;
        }
        if (value[length] != '\0') continue;
        a->values[i] = NULL;
        if (i + 1 < a->count && a->values[i + 1] != NULL) {
            value = a->values[i + 1];
            a->values[i + 1] = NULL;
            return value;
        }
        fprintf(stderr, "peft: %s needs a value\n", name);
        a->failed = true;
        return NULL;
    }
    return NULL;
}

bool args_number(args *a, const char *name, double *in_out) {
    const char *text = args_text(a, name);
    if (text == NULL) return !a->failed;
    char *end = NULL;
    const double value = strtod(text, &end);
    if (end == text || *end != '\0') {
        fprintf(stderr, "peft: %s needs a number, found \"%s\"\n", name, text);
        a->failed = true;
        return false;
    }
    *in_out = value;
    return true;
}

const char *args_next(args *a) {
    for (int i = 0; i < a->count; i++) {
        char *value = a->values[i];
        if (value == NULL || (value[0] == '-' && value[1] != '\0')) continue;
        a->values[i] = NULL;
        return value;
    }
    return NULL;
}

bool args_done(args *a) {
    for (int i = 0; i < a->count; i++) {
        if (a->values[i] == NULL) continue;
        fprintf(stderr, "peft: \"%s\" is not expected here\n", a->values[i]);
        a->failed = true;
    }
    if (a->failed) fprintf(stderr, "\n%s", a->help);
    return !a->failed;
}
