/** \file peft/status.h
 *  What a call returns. Zero is success, positive values are outcomes that are not errors, negative
 *  values are errors. Values are frozen: a program must treat an unknown positive value as success
 *  and an unknown negative value as an error.
 */
#ifndef PEFT_STATUS_H
#define PEFT_STATUS_H

#include <stdint.h>

#ifndef PEFT_API
#if defined(_WIN32)
#define PEFT_API
#else
#define PEFT_API __attribute__((visibility("default")))
#endif
#endif

#if defined(__GNUC__)
#define PEFT_NODISCARD __attribute__((warn_unused_result))
#define PEFT_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define PEFT_NODISCARD
#define PEFT_PRINTF(format_index, first)
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t peft_status;

/** The one table of status values: X(name, value, text). */
#define PEFT_STATUS_TABLE(X)                                                                       \
    X(PEFT_OK, 0, "success")                                                                       \
    X(PEFT_AGAIN, 1, "the time budget is used up; call again to go on")                            \
    X(PEFT_END, 2, "there is nothing more to read")                                                \
    X(PEFT_E_ARG, -1, "an argument is not valid")                                                  \
    X(PEFT_E_STATE, -2, "the call does not fit the object's present state")                        \
    X(PEFT_E_NOMEM, -3, "the allocator returned no memory")                                        \
    X(PEFT_E_LIMIT, -4, "a limit set by the caller would be exceeded")                             \
    X(PEFT_E_IO, -5, "reading or writing failed")                                                  \
    X(PEFT_E_FORMAT, -6, "the data are malformed")                                                 \
    X(PEFT_E_UNSUPPORTED, -7, "this is valid but not supported")                                   \
    X(PEFT_E_MISMATCH, -8, "shapes, names or models do not fit together")                          \
    X(PEFT_E_NONFINITE, -9, "a value is not finite")                                               \
    X(PEFT_E_CANCELLED, -10, "the call was cancelled")                                             \
    X(PEFT_E_CALLBACK, -11, "a callback of the host reported failure")                             \
    X(PEFT_E_ABI, -12, "the program was built against another binary interface")                   \
    X(PEFT_E_INTERNAL, -13, "an internal invariant does not hold (a bug in libpeft)")

#define PEFT_STATUS_ENUM(name, value, text) name = value,
enum { PEFT_STATUS_TABLE(PEFT_STATUS_ENUM) };
#undef PEFT_STATUS_ENUM

/** Name of a status, for example "PEFT_E_IO"; "PEFT_?" for an unknown value.
 *  Threads: safe. Ownership: a constant. */
PEFT_API const char *peft_status_name(peft_status status);

/** One sentence saying what a status means. Threads: safe. Ownership: a constant. */
PEFT_API const char *peft_status_text(peft_status status);

#ifdef __cplusplus
}
#endif
#endif
