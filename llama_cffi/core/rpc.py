"""Devices of other machines: ggml's RPC backend, as a client and as a server."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from llama_cffi._native import ffi, guard, lib, log
from llama_cffi._native.handle import Handle
from llama_cffi._util.arguments import check_text
from llama_cffi._util.shown import shown
from llama_cffi._util.worker import ThreadPool
from llama_cffi.core.strings import to_text
from llama_cffi.errors import NativeError, RpcError, UnsupportedError

T = TypeVar("T")

CONNECT_SECONDS = 5.0
"""How long a connection to a server may take."""
ANSWER_SECONDS = 20.0
"""How long a server may take to say what devices it has. It serves one client at a time, the others wait."""

_OTHER_VERSION = re.compile(r"version mismatch: (\d+(?:\.\d+)*)")

_REGISTRY = "RPC"
"""The registry of all devices of servers."""

_added: dict[str, Any] = {}
"""The servers whose devices this process has, and the first device of each."""

_users: weakref.WeakSet[Handle] = weakref.WeakSet()
"""Models that may have weights on servers: while one of them is open, the connection is."""


def check_endpoint(name: str, value: Any) -> str:
    """Return the address of a server, ``"host:port"``; TypeError and ``ValueError`` for anything else."""
    host, colon, port = check_text(name, value).rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 2**16:
        raise ValueError(f'{name} must be servers as "host:port", got {shown(value)}')
    return f"{host}:{int(port)}"


def add_servers(endpoints: Sequence[str]) -> None:
    """Make the devices of servers devices of this process, where they stay.

    Raises :class:`RpcError` for a server that is away, does not answer or is of another version, and
    :class:`UnsupportedError` for a library without the RPC backend. Wraps ``ggml_backend_rpc_add_server``.
    """
    for endpoint in endpoints:
        if endpoint in _added:
            device_memory(_added[endpoint])
            continue
        add = _function("ggml_backend_rpc_add_server", "ggml_backend_reg_t (*)(const char *)")
        _check_reachable(endpoint)
        # What waits for a server in C waits without a limit, and hears no signal.
        registry = ffi.cast("ggml_backend_reg_t", _in_time(endpoint, partial(_add, add, endpoint)))
        lib.ggml_backend_register(registry)
        _added[endpoint] = lib.ggml_backend_reg_dev_get(registry, 0)


def is_remote(device: Any) -> bool:
    """Return whether a ``ggml_backend_dev_t`` is one of a server."""
    return to_text(lib.ggml_backend_reg_name(lib.ggml_backend_dev_backend_reg(device))).startswith(_REGISTRY)


def may_compute_remotely(names: Sequence[str] | None) -> bool:
    """Return whether a model with these devices, None for all, may compute on a server."""
    found = map(lib.ggml_backend_dev_get, range(lib.ggml_backend_dev_count()))
    remote = {to_text(lib.ggml_backend_dev_name(device)) for device in found if is_remote(device)}
    return bool(remote if names is None else remote.intersection(names))


def note_user(model: Handle) -> None:
    """Remember a model with which a connection may be open for as long as it is."""
    _users.add(model)


def device_memory(device: Any) -> tuple[int, int]:
    """Return the bytes of a device of a server that are free, and all of them.

    Raises :class:`RpcError` for a server that is away, or does not answer. Wraps ``ggml_backend_dev_memory``.
    """
    endpoint = to_text(lib.ggml_backend_dev_description(device))
    free, total = ffi.new("size_t *"), ffi.new("size_t *")
    ask = partial(_ask, endpoint, device, free, total)
    if any(not model.closed for model in list(_users)):
        ask()  # over the connection that there is, in turn with what it computes
    else:
        _in_time(endpoint, ask)
    return free[0], total[0]


def _ask(endpoint: str, device: Any, free: Any, total: Any) -> None:
    mark = log.mark()
    try:
        guard.call_int("ggml_backend_dev_memory", device, free, total)
    except NativeError as error:
        lines = log.lines_since(mark)
        raise RpcError(f"the RPC server {endpoint} cannot be used: {_reason(error, lines)}", log=lines) from error


def _in_time(endpoint: str, call: Callable[[], T]) -> T:
    """Return what a call returns that connects with a server, and raises :class:`RpcError` if that takes too long."""
    from concurrent.futures import TimeoutError as FutureTimeout

    pool = ThreadPool(1)
    try:
        return pool.submit(call).result(ANSWER_SECONDS)
    except FutureTimeout:
        raise RpcError(
            f"the RPC server {endpoint} has not answered in {ANSWER_SECONDS:g} seconds: it may serve another client"
        ) from None
    finally:
        pool.shutdown()


def _add(add: Any, endpoint: str) -> int:
    mark = log.mark()
    try:
        address = guard.call_found("ggml_backend_rpc_add_server", add, endpoint.encode())
    except NativeError as error:
        lines = log.lines_since(mark)
        raise RpcError(f"the RPC server {endpoint} cannot be used: {_reason(error, lines)}", log=lines) from error
    if not address:
        raise RpcError(f"the RPC server {endpoint} has no devices", log=log.lines_since(mark))
    return address


def _reason(error: NativeError, lines: Sequence[str]) -> str:
    """Why the greeting failed; llama.cpp's assertion says only that it did."""
    version = next((found[1] for line in lines if (found := _OTHER_VERSION.search(line))), None)
    if version is not None:
        return f"it has version {version} of the RPC protocol, which this libllama does not understand"
    if "Failed to connect" in error.message:
        return "it cannot be reached"
    if "malformed response" in error.message:
        return "it does not answer as one of this version does, or is not an RPC server"
    return error.message


def _check_reachable(endpoint: str) -> None:
    import socket

    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise RpcError(f"the RPC server {endpoint} cannot be reached: {error.strerror or error}") from error


def serve(endpoint: str, devices: Sequence[str] = (), *, n_threads: int, cache_dir: str | None = None) -> None:
    """Compute on devices for other machines, one client after the other, until the process is ended.

    ``devices`` are names; without any, all GPUs, or the CPU where there is none. ``cache_dir`` keeps weights that
    clients have sent. It returns when the address cannot be served, and hears no signal handlers of Python. Raises
    ``ValueError`` for a device that does not exist. Wraps ``ggml_backend_rpc_start_server``.
    """
    # Both functions have come with the same release, and the older form of this one takes other arguments.
    _function("ggml_backend_rpc_add_server", "ggml_backend_reg_t (*)(const char *)")
    start = _function(
        "ggml_backend_rpc_start_server", "void (*)(const char *, const char *, size_t, size_t, ggml_backend_dev_t *)"
    )
    chosen = [_device(name) for name in devices] or _usual_devices()
    start(
        endpoint.encode(),
        ffi.NULL if cache_dir is None else cache_dir.encode(),
        n_threads,
        len(chosen),
        ffi.new("ggml_backend_dev_t[]", chosen),
    )


def _function(name: str, kind: str) -> Any:
    registry = lib.ggml_backend_reg_by_name(b"RPC")
    address = ffi.NULL if registry == ffi.NULL else lib.ggml_backend_reg_get_proc_address(registry, name.encode())
    if address == ffi.NULL:
        raise UnsupportedError(f"this libllama has no {name}: it was built without GGML_RPC, or is too old")
    return ffi.cast(kind, address)


def _device(name: str) -> Any:
    device = lib.ggml_backend_dev_by_name(name.encode())
    if device == ffi.NULL:
        raise ValueError(f"there is no device named {shown(name)}")
    return device


def _usual_devices() -> list[Any]:
    found = [lib.ggml_backend_dev_get(i) for i in range(lib.ggml_backend_dev_count())]
    host = (lib.GGML_BACKEND_DEVICE_TYPE_CPU, lib.GGML_BACKEND_DEVICE_TYPE_ACCEL)
    gpus = [device for device in found if lib.ggml_backend_dev_type(device) not in host]
    return gpus or [lib.ggml_backend_dev_by_type(lib.GGML_BACKEND_DEVICE_TYPE_CPU)]


__all__ = [
    "add_servers",
    "check_endpoint",
    "device_memory",
    "is_remote",
    "may_compute_remotely",
    "note_user",
    "serve",
]
