/* status.c: names and sentences of the status values, both made from the one table in peft/status.h. */
#include "base/base.h"

const char *peft_status_name(peft_status status) {
    switch (status) {
#define STATUS_NAME(name, value, text)                                                                                 \
    case name:                                                                                                         \
        return #name;
        PEFT_STATUS_TABLE(STATUS_NAME)
#undef STATUS_NAME
    default:
        return "PEFT_?";
    }
}

const char *peft_status_text(peft_status status) {
    switch (status) {
#define STATUS_TEXT(name, value, text)                                                                                 \
    case name:                                                                                                         \
        return text;
        PEFT_STATUS_TABLE(STATUS_TEXT)
#undef STATUS_TEXT
    default:
        return status < 0 ? "an error that this version does not know" : "an outcome that this version does not know";
    }
}
