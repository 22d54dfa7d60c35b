/* Whether the compiler is one for ARM, and of those (GCC 10, Clang 16) that have each instruction in functions whose
   attribute says so, whatever the rest of the file is compiled for. */
#pragma once

#if defined(__aarch64__) && defined(__clang__)
#if __clang_major__ >= 16
#define FUNCTIONS_HAVE_TARGETS
#endif
#elif defined(__aarch64__) && defined(__GNUC__) && __GNUC__ >= 10
#define FUNCTIONS_HAVE_TARGETS
#endif
