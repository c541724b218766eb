"""The program that opens a library that is not trusted yet, so that the host process need not: run by probe.py alone.

It imports nothing of llama_cffi. The request is one JSON object on standard input; the answer is one in the file that
the request names, because the library may write anything to the standard streams.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import platform
import signal
import sys
from collections.abc import Callable
from typing import Any

_ARM64 = ("arm64", "aarch64")
# mov x8, x0; br x1: arm64 passes the address for a large result in x8, which no function of ctypes can set.
_ARM64_STUB = bytes.fromhex("e80300aa 20001fd6")
_MAP_JIT = 0x0800
_ROOM = 1 << 16
"""Bytes around a result: a struct that is much larger than expected must not overwrite this program."""


def hidden_return() -> Callable[[int, int], None]:
    """Return a function of (buffer, function) that calls a C function whose large result goes to the buffer."""
    if platform.machine().lower() not in _ARM64:
        # x86-64, System V and Windows alike: the address is a first argument that C does not show.
        return lambda buffer, function: ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(function)(buffer)
    stub = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(executable(_ARM64_STUB))
    return lambda buffer, function: stub(buffer, function)


def executable(code: bytes) -> int:
    """Return the address of machine code in memory that may be executed."""
    libc: Any = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    size = mmap.PAGESIZE
    darwin = sys.platform == "darwin"
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANON | (_MAP_JIT if darwin else 0)
    rights = mmap.PROT_READ | mmap.PROT_WRITE | (mmap.PROT_EXEC if darwin else 0)
    address = libc.mmap(None, size, rights, flags, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError("no memory for a few bytes of machine code")
    if darwin:
        libc.pthread_jit_write_protect_np(0)
    ctypes.memmove(address, code, len(code))
    if darwin:
        libc.pthread_jit_write_protect_np(1)
        libc.sys_icache_invalidate(ctypes.c_void_p(address), ctypes.c_size_t(size))
    else:
        # The kernel makes the instruction cache follow when the page becomes executable.
        rights = mmap.PROT_READ | mmap.PROT_EXEC
        if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_int(rights)):
            raise OSError("this system allows no machine code at run time")
    return int(address)


def results(function: int, call: Callable[[int, int], None], patterns: list[int], size: int) -> list[str]:
    """Return what a function leaves in a buffer that was filled with each of the patterns, in hex."""
    found = []
    for pattern in patterns:
        buffer = ctypes.create_string_buffer(bytes([pattern]) * _ROOM, _ROOM)
        call(ctypes.addressof(buffer), function)
        found.append(buffer.raw[:size].hex())
    return found


def open_all(paths: list[str]) -> Any:
    """Map libraries in their order; returns the last one."""
    flags = os.RTLD_NOW | os.RTLD_LOCAL if hasattr(os, "RTLD_NOW") else 0
    return [ctypes.CDLL(path, mode=flags) for path in paths][-1]


def look(request: dict[str, Any]) -> dict[str, Any]:
    """Open the library and answer what was asked about it."""
    try:
        library = open_all(request["paths"])
    except OSError as error:
        return {"error": str(error)}
    symbols = [name for name in request["symbols"] if hasattr(library, name)]
    call = hidden_return()
    found = {}
    for name in request["functions"]:
        if hasattr(library, name):
            address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
            found[name] = results(address, call, request["patterns"], request["size"])
    version = None
    if hasattr(library, "llama_version"):
        library.llama_version.restype = ctypes.c_char_p
        version = (library.llama_version() or b"").decode("utf-8", "replace")[:100]
    return {"version": version, "results": found, "symbols": symbols}


def read_request() -> Any:
    """Return the request on standard input; from now on, a crash leaves no core, and nothing runs for ever."""
    request = json.load(sys.stdin)
    # ggml would start a debugger to say where it failed.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    if sys.platform != "win32":
        import resource

        # A crash is expected, and its core is of no use.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # Should the host be gone: nothing else would end a library that hangs.
        signal.alarm(int(request["seconds"]) + 2)
    return request


def leave(request: Any, answer: Any) -> None:
    """Write the answer, and leave without running anything of the library's at exit."""
    # Opened only now, and whole at once: a library that ends the process leaves no answer.
    with open(request["answer"] + ".part", "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os.replace(request["answer"] + ".part", request["answer"])
    os._exit(0)


def main() -> None:
    """Answer the request on standard input."""
    request = read_request()
    leave(request, look(request))


if __name__ == "__main__":
    main()
