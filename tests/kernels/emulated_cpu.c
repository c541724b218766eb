/* Loaded before the bochscpu package: chooses the CPU that it emulates, which its Python interface does not. The function
   that makes the description of its only CPU makes that of another one, by the name in EMULATED_CPU.

   The other two are functions of a newer C library that the package needs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void *_Z23create_corei3_cnl_cpuidP8BX_CPU_C(void *cpu) {
    const char *name = getenv("EMULATED_CPU");
    void *(*create)(void *) = name ? (void *(*)(void *))dlsym(RTLD_DEFAULT, name) : NULL;
    if (create == NULL) {
        fprintf(stderr, "EMULATED_CPU names no function of bochscpu\n");
        exit(1);
    }
    return create(cpu);
}

unsigned long long __isoc23_strtoull(const char *text, char **end, int base) {
    return strtoull(text, end, base);
}

int __isoc23_sscanf(const char *text, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int count = vsscanf(text, format, arguments);
    va_end(arguments);
    return count;
}
