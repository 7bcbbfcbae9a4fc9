/** \file peft/version.h
 *  Version numbers, readable by the preprocessor, by the build and at run time.
 */
#ifndef PEFT_VERSION_H
#define PEFT_VERSION_H

#define PEFT_VERSION_MAJOR 0
#define PEFT_VERSION_MINOR 1
#define PEFT_VERSION_PATCH 0
#define PEFT_VERSION_STRING "0.1.0"

/** Number of the binary interface. It is the library's soname (libpeft.so.0) and is checked by
 *  peft_context_create(), so that a program built against another interface gets PEFT_E_ABI
 *  instead of undefined behaviour. */
#define PEFT_ABI_VERSION 0

#endif
