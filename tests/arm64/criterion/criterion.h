/* SPDX-License-Identifier: Apache-2.0
 *
 * criterion.h - as much of criterion as tests/unit/kernels/ uses, so that these tests run where the library
 * itself would have to be built for another processor.  Each Test() runs in turn, in this process.
 */
#ifndef LACUNA_TESTS_ARM64_CRITERION_H
#define LACUNA_TESTS_ARM64_CRITERION_H

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test {
    const char *suite, *name;
    void (*run)(void);
    struct test *next;
};
extern struct test *first_test;

#define Test(suite_, name_, ...)                                                                   \
    static void suite_##_##name_(void);                                                            \
    __attribute__((constructor)) static void add_##suite_##_##name_(void)                          \
    {                                                                                              \
        static struct test test = { #suite_, #name_, suite_##_##name_, NULL };                     \
        test.next = first_test;                                                                    \
        first_test = &test;                                                                        \
    }                                                                                              \
    static void suite_##_##name_(void)

__attribute__((noreturn, format(printf, 4, 5))) static inline void
fail_check(const char *file, int line, const char *what, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "%s:%d: %s does not hold: ", file, line, what);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

#define CHECK(condition, what, ...)                                                                \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_check(__FILE__, __LINE__, what, " " __VA_ARGS__);                                 \
    } while (0)
#define cr_assert(c, ...) CHECK(c, #c, __VA_ARGS__)
#define cr_assert_eq(a, b, ...) CHECK((a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...) CHECK((a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...) CHECK((a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_assert_not_null(a, ...) CHECK((a) != NULL, #a, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) CHECK(strcmp(a, b) == 0, #a " is " #b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...) CHECK(memcmp(a, b, n) == 0, #a " is " #b, __VA_ARGS__)
#define cr_assert_float_eq(a, b, e, ...)                                                           \
    CHECK(fabs((double)(a) - (double)(b)) <= (double)(e), #a " is near " #b, __VA_ARGS__)
#define cr_skip_test(...)                                                                          \
    do {                                                                                           \
        fprintf(stderr, "skipped: " __VA_ARGS__);                                                  \
        fputc('\n', stderr);                                                                       \
        return;                                                                                    \
    } while (0)

#endif
