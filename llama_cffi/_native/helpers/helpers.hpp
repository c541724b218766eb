// Private to the helper extension: the C declarations, and what its C++ files share.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <stdexcept>

#if defined(__GLIBCXX__)
#  include <cxxabi.h>
#endif

// No llama.cpp function that the guard calls returns this, neither as an integer nor as a pointer.
#define LCH_FAILED INT64_MIN

extern "C" {
#include "helpers.h"
}

namespace lch {

// Remembers where the log stood, so that a failing call can say what llama.cpp logged during it.
void log_call_begins();

// This thread's number in the log; and to log under the number of a thread that this one works for.
uint64_t log_thread();
void log_as(uint64_t thread);

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

// Whether this thread is inside a guarded call, where an exception reaches the guard.
bool is_guarded();

// Keeps why this thread's guarded call failed.
void remember(const char * message);

// What a call returns, or LCH_FAILED when it threw.
template <class Call>
int64_t guarded(Call call) {
    try {
        Guarded guard;
        return call();
    } catch (const std::exception & error) {
        remember(error.what());
#if defined(__GLIBCXX__)
    } catch (const abi::__forced_unwind &) {
        // A thread that ends inside a Python callback, because the interpreter has ended: glibc aborts if that stops.
        throw;
#endif
    } catch (...) {
        remember("an exception of unknown type");
    }
    return LCH_FAILED;
}

// Has the turn while it lives, unless `entry` says otherwise. Without a turn there is nothing to wait for.
class Turn {
public:
    Turn(lch_turn * turn, lch_abort * abort) : entry(turn ? lch_turn_take(turn, abort) : LCH_TURN_TAKEN), turn_(turn) {}
    ~Turn() {
        if (turn_ && entry == LCH_TURN_TAKEN) {
            lch_turn_give(turn_);
        }
    }
    Turn(const Turn &) = delete;
    Turn & operator=(const Turn &) = delete;
    const int entry;
private:
    lch_turn * turn_;
};

// Nanoseconds since some moment, by a clock that is as fine as there is one.
inline int64_t clock_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class Function>
Function * as(void * fn) {
    return reinterpret_cast<Function *>(fn);
}

// A struct that llama.h passes by value. The real parameter structs are smaller; passing more is harmless
// because it is the last argument: SysV x86-64 copies it to the stack, where the callee reads its own part,
// and AArch64 and Win64 pass the address of a copy.
struct ParamStruct {
    alignas(16) unsigned char bytes[512];
};

struct BatchStruct {
    alignas(16) unsigned char bytes[128];
};

template <class Blob>
Blob blob_of(const void * source, size_t size) {
    Blob blob;
    if (size > sizeof blob.bytes) {
        throw std::invalid_argument("the struct is larger than the guard can pass by value");
    }
    std::memcpy(blob.bytes, source, size);
    std::memset(blob.bytes + size, 0, sizeof blob.bytes - size);
    return blob;
}

}  // namespace lch
