// Private to the helper extension: the C declarations, and what its C++ files share.
#pragma once

#include <cstddef>
#include <cstdint>

// No llama.cpp function that the guard calls returns this, neither as an integer nor as a pointer.
#define LCH_FAILED INT64_MIN

extern "C" {
#include "helpers.h"
}

namespace lch {

// Remembers where the log stood, so that a failing call can say what llama.cpp logged during it.
void log_call_begins();

// Writes the last log lines of all threads to standard error; takes no lock that a dying thread could hold.
void log_dump_tail(int lines);

// While it lives, a failed assertion on this thread is thrown as a C++ exception.
class Guarded {
public:
    Guarded();
    ~Guarded();
    Guarded(const Guarded &) = delete;
    Guarded & operator=(const Guarded &) = delete;
};

// While it lives, this thread runs foreign code inside a guarded call: an assertion must not unwind through it.
class Unguarded {
public:
    Unguarded();
    ~Unguarded();
    Unguarded(const Unguarded &) = delete;
    Unguarded & operator=(const Unguarded &) = delete;
private:
    int depth_;
};

}  // namespace lch
