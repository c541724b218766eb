"""RPC servers on this machine, as GPUs with a memory of any size.

``python -m tests.support.rpc ENDPOINT FILE`` is the server: llama.cpp's own, on the CPU, whose allocations are counted
in a file and refused above a limit that stands there, too. Nothing but llama.cpp's own structs is changed for that, in
the process of the server.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_FIELDS = struct.Struct("<QQQ")
"""The limit, what is used, and what the server claims to have beyond the limit."""
_PATIENCE = 60.0


class RpcServer:
    """A server with ``memory`` bytes; the limit may be changed while it runs, by :attr:`limit`."""

    def __init__(self, folder: Path, memory: int) -> None:
        self.endpoint = f"127.0.0.1:{_free_port()}"
        file = folder / f"rpc-{self.endpoint.rpartition(':')[2]}"
        file.write_bytes(_FIELDS.pack(memory, 0, 0))
        self._file = file.open("r+b")
        self._shared = mmap.mmap(self._file.fileno(), _FIELDS.size)
        self._log = file.with_suffix(".log").open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.rpc", self.endpoint, str(file)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)} | {"LLAMA_CFFI_LIB": str(ROOT / "build/libllama/lib")},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._wait()

    def _wait(self) -> None:
        host, _, port = self.endpoint.rpartition(":")
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
            except OSError:
                time.sleep(0.05)
                continue
            return
        raise RuntimeError(f"the RPC server did not start: {self.log()}")

    def log(self) -> str:
        """What the server has written."""
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")

    @property
    def used(self) -> int:
        """Bytes that are allocated."""
        return int(_FIELDS.unpack(self._shared[:])[1])

    @property
    def limit(self) -> int:
        """Bytes that may be allocated."""
        return int(_FIELDS.unpack(self._shared[:])[0])

    @limit.setter
    def limit(self, value: int) -> None:
        self._shared[:8] = struct.pack("<Q", value)

    @property
    def claimed(self) -> int:
        """Bytes that the server says are free, and does not have."""
        return int(_FIELDS.unpack(self._shared[:])[2])

    @claimed.setter
    def claimed(self, value: int) -> None:
        self._shared[16:] = struct.pack("<Q", value)

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.wait()
        self._shared.close()
        self._file.close()
        self._log.close()


def add_device(endpoint: str) -> str:
    """Make the server's device one of this process; return its name. It stays for the life of the process."""
    from llama_cffi._native import ffi, lib

    add = _rpc_function("ggml_backend_rpc_add_server", "ggml_backend_reg_t(*)(const char *)")
    registry = add(endpoint.encode())
    assert registry != ffi.NULL, f"no server at {endpoint}"
    lib.ggml_backend_register(registry)
    device = lib.ggml_backend_reg_dev_get(registry, 0)
    return str(ffi.string(lib.ggml_backend_dev_name(device)).decode())


def _rpc_function(name: str, signature: str) -> Any:
    from llama_cffi._native import ffi, lib

    registry = lib.ggml_backend_reg_by_name(b"RPC")
    assert registry != ffi.NULL, "this libllama was built without RPC"
    address = lib.ggml_backend_reg_get_proc_address(registry, name.encode())
    assert address != ffi.NULL, f"there is no {name}"
    return ffi.cast(signature, address)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# -- the server

_WORD = ctypes.c_size_t
_GET_MEMORY, _ALLOC_BUFFER, _FREE_BUFFER = 2, 1, 0
"""Places in ggml_backend_device_i, ggml_backend_buffer_type_i and ggml_backend_buffer_i."""
_kept: list[Any] = []


def _replace(struct_address: int, place: int, prototype: Any, make: Any) -> Any:
    """Put a function in the place of another one; ``make`` gets that."""
    slot = _WORD.from_address(struct_address + place * ctypes.sizeof(_WORD))
    function = prototype(make(prototype(slot.value)))
    _kept.append(function)
    slot.value = ctypes.cast(function, ctypes.c_void_p).value or 0


def _serve(endpoint: str, file: str) -> None:
    from llama_cffi._native import ffi, lib

    with open(file, "r+b") as opened:
        shared = mmap.mmap(opened.fileno(), _FIELDS.size)
    sizes: dict[int, int] = {}

    def left() -> int:
        limit, used, _ = _FIELDS.unpack(shared[:])
        return max(0, int(limit) - int(used))

    def use(size: int) -> None:
        shared[8:16] = struct.pack("<Q", _FIELDS.unpack(shared[:])[1] + size)

    freeing = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    originals: dict[int, Any] = {}

    def free_buffer(buffer: int) -> None:
        use(-sizes.pop(buffer, 0))
        originals.pop(buffer)(buffer)

    free_counted = freeing(free_buffer)

    def allocation(original: Any) -> Any:
        def alloc_buffer(kind: int, size: int) -> int:
            if size > left():
                print(f"refused {size} bytes of {left()}", flush=True)
                return 0
            buffer = int(original(kind, size) or 0)
            if buffer:
                use(size)
                sizes[buffer] = size
                slot = _WORD.from_address(buffer + _FREE_BUFFER)
                originals[buffer] = freeing(slot.value)
                slot.value = ctypes.cast(free_counted, ctypes.c_void_p).value or 0
            return buffer

        return alloc_buffer

    def memory(_: Any) -> Any:
        def get_memory(device: int, free: Any, total: Any) -> None:
            limit, _, claimed = _FIELDS.unpack(shared[:])
            free[0], total[0] = left() + claimed, limit + claimed

        return get_memory

    device = lib.ggml_backend_dev_by_type(lib.GGML_BACKEND_DEVICE_TYPE_CPU)
    kind = int(ffi.cast("intptr_t", lib.ggml_backend_dev_buffer_type(device)))
    words = ctypes.POINTER(_WORD)
    _replace(
        int(ffi.cast("intptr_t", device)),
        _GET_MEMORY,
        ctypes.CFUNCTYPE(None, ctypes.c_void_p, words, words),
        memory,
    )
    _replace(kind, _ALLOC_BUFFER, ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t), allocation)
    start = _rpc_function(
        "ggml_backend_rpc_start_server",
        "void(*)(const char *, const char *, size_t, size_t, ggml_backend_dev_t *)",
    )
    start(endpoint.encode(), ffi.NULL, 1, 1, ffi.new("ggml_backend_dev_t[]", [device]))


if __name__ == "__main__":
    _serve(*sys.argv[1:])
