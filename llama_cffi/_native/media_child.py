"""The program that has libmtmd lay out a projector, so that a damaged one ends only this process: run by
media_sketch.py alone.

It imports nothing of llama_cffi but its neighbor probe_child. The request is one JSON object on standard input; the
answer is one in the file that the request names.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

_WORD = ctypes.c_uint64
_ZEROS = 1 << 20
"""Numbers of a hidden state, at most; codes and features of frames are fewer."""
_FRAMES = (1, 8)
"""How many frames are made to sound: the first one, and several that go on from its state."""
_WEIGHTS = 1
"""GGML_BACKEND_BUFFER_USAGE_WEIGHTS."""
_PAUSE = 16
"""Nodes of a graph that are computed together."""


class _Map(ctypes.Structure):
    """A ``std::map`` of libstdc++: the comparison, then color, parent (the root), leftmost, rightmost and the number
    of nodes."""

    _fields_ = (("words", _WORD * 6),)


def _struct(size: int) -> Any:
    """A C struct of this size, whose fields are found by their places."""

    class Struct(ctypes.Structure):
        _fields_ = (("words", _WORD * (size // 8)),)

    return Struct


def _put(struct: Any, place: tuple[int, int], value: int) -> None:
    ctypes.memmove(ctypes.addressof(struct) + place[0], value.to_bytes(place[1], sys.byteorder), place[1])


def _get(struct: Any, place: tuple[int, int]) -> int:
    return int.from_bytes(ctypes.string_at(ctypes.addressof(struct) + place[0], place[1]), sys.byteorder)


def read_params(request: dict[str, Any], library: Any, call: Any) -> Any:
    """Return the ``mtmd_context_params`` of a request: the defaults, with some fields changed."""
    defaults = ctypes.cast(library.mtmd_context_params_default, ctypes.c_void_p).value or 0
    buffer = ctypes.create_string_buffer(1 << 12)
    call(ctypes.addressof(buffer), defaults)
    for place, data in request["fields"]:
        part = bytes.fromhex(data)
        ctypes.memmove(ctypes.addressof(buffer) + place, part, len(part))
    return _struct(request["size"]).from_buffer_copy(buffer.raw[: request["size"]])


def find_device(device: dict[str, Any], library: Any, give_up: Callable[[], None]) -> int:
    """Return the address of a device, 0 where this process does not have it; call ``give_up`` when its server does not
    answer in the seconds that the request allows."""
    by_name, of_registry = library.ggml_backend_dev_by_name, library.ggml_backend_reg_dev_get
    registry, address = library.ggml_backend_reg_by_name, library.ggml_backend_reg_get_proc_address
    for function in (by_name, of_registry, registry, address):
        function.restype = ctypes.c_void_p
    by_name.argtypes, registry.argtypes = [ctypes.c_char_p], [ctypes.c_char_p]
    of_registry.argtypes, address.argtypes = [ctypes.c_void_p, ctypes.c_size_t], [ctypes.c_void_p, ctypes.c_char_p]
    if device["server"] is None:
        return by_name(device["name"].encode()) or 0
    remote = registry(b"RPC")
    add = address(remote, b"ggml_backend_rpc_add_server") if remote else None
    if not add:
        return 0
    # A server that serves another client, which may be the host of this process, lets this one wait.
    patience = threading.Timer(device["seconds"], give_up)
    patience.daemon = True
    patience.start()
    server = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(add)(device["server"].encode())
    patience.cancel()
    return of_registry(server, device["index"]) if server else 0


def lay_out(request: dict[str, Any], library: Any, params: Any, names: dict[int, str]) -> dict[str, Any]:
    """Call ``mtmd_get_memory_usage``; return bytes by the names of devices, where the map can be read.

    ``names`` are those that the host knows devices by, where they are others here.
    """
    function = ctypes.cast(getattr(library, request["function"]), ctypes.c_void_p).value or 0
    found = ctypes.CFUNCTYPE(_Map, ctypes.c_char_p, type(params))(function)(os.fsencode(request["file"]), params)
    if not request["reads_map"]:
        return {"devices": None}
    library.ggml_backend_dev_name.restype = ctypes.c_char_p
    library.ggml_backend_dev_name.argtypes = [ctypes.c_void_p]
    devices, waiting = {}, [found.words[2]]
    while waiting:
        if place := waiting.pop():
            # Color, parent, left, right; then the device and its bytes.
            node = (_WORD * 6).from_address(place)
            waiting += (node[2], node[3])
            name = names.get(node[4]) or library.ggml_backend_dev_name(node[4]).decode("utf-8", "replace")
            devices[name] = node[5]
    return {"devices": devices}


def speak(request: dict[str, Any], library: Any, params: Any) -> int:
    """Load a generator of speech and generate a few frames of silence, as far as a time allows; return the bytes of the
    buffers to compute with.

    libmtmd builds its graphs only when it computes them.
    """
    speech = request["speech"]
    stop = time.monotonic() + speech["seconds"]
    nodes = itertools.count()
    buffers: set[int] = set()

    def watched(tensor: int, asks: bool, _data: object) -> bool:
        # Asked before a node whether to pause behind it, and there whether to go on.
        if not asks:
            return bool(time.monotonic() < stop)
        buffers.add(_WORD.from_address(tensor + speech["buffer"]).value)
        return next(nodes) % _PAUSE == 0

    watch = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)(watched)
    # Its graphs are the same on a GPU, which it would fill.
    _put(params, speech["use_gpu"], 0)
    _put(params, speech["watch"], ctypes.cast(watch, ctypes.c_void_p).value or 0)
    given, made = speech["input"], speech["output"]
    Given, Made = _struct(given["size"]), _struct(made["size"])
    load, free = library.mtmd_init_from_file, library.mtmd_free
    load.restype, load.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_void_p, type(params)]
    free.restype, free.argtypes = None, [ctypes.c_void_p]
    defaults, process = library.mtmd_gen_inp_default, library.mtmd_gen_audio_process
    defaults.restype, defaults.argtypes = Given, [ctypes.c_void_p]
    process.restype, process.argtypes = ctypes.c_int32, [ctypes.c_void_p] * 3
    ctx = load(os.fsencode(request["file"]), None, params)
    if not ctx:
        return 0
    buffer_size, usage = library.ggml_backend_buffer_get_size, library.ggml_backend_buffer_get_usage
    buffer_size.restype, buffer_size.argtypes, usage.argtypes = ctypes.c_size_t, [ctypes.c_void_p], [ctypes.c_void_p]
    n_bytes = 0
    zeros = (ctypes.c_float * _ZEROS)()
    places, results = given["places"], made["places"]

    def call(kind: int, **fields: int) -> Any:
        nonlocal n_bytes
        inputs, output = defaults(ctx), Made()
        for name, value in {"type": kind, "seed": 0, **fields}.items():
            _put(inputs, places[name], value)
        buffers.clear()
        process(ctx, ctypes.addressof(inputs), ctypes.addressof(output))
        n_bytes = max(n_bytes, sum(buffer_size(one) for one in buffers if one and usage(one) != _WEIGHTS))
        return output

    output = call(speech["code"], embd=ctypes.addressof(zeros))
    numbers = {name: _get(output, results[name]) for name in ("n_codes", "n_feats")}
    name = "codes" if numbers["n_codes"] else "feats"
    n, state = numbers[f"n_{name}"], b""
    for n_frames in _FRAMES if 0 < n <= _ZEROS // max(_FRAMES) else ():
        kept = ctypes.create_string_buffer(state, len(state))
        fields = {name: ctypes.addressof(zeros), f"n_{name}": n * n_frames}
        if state:
            fields |= {"state_data": ctypes.addressof(kept), "state_size": len(state)}
        output = call(speech["sound"], **fields)
        state = ctypes.string_at(_get(output, results["state_data"]), _get(output, results["state_size"]))
    # What was written beside its place is found when the memory is given back.
    free(ctx)
    return n_bytes


def main() -> None:
    """Answer the request on standard input, and leave without running anything of the library's at exit."""
    # -I leaves the folder of the program out.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import probe_child  # type: ignore[import-not-found]

    request = probe_child.read_request()
    library = probe_child.open_all(request["paths"])
    for folder in request["plugins"]:
        library.ggml_backend_load_all_from_path(os.fsencode(folder))
    params = read_params(request, library, probe_child.hidden_return())
    names = {}
    if device := request["device"]:
        unknown = {"devices": None}
        found = find_device(device, library, lambda: probe_child.leave(request, unknown))
        if not found:
            probe_child.leave(request, unknown)
        _put(params, device["place"], found)
        names[found] = device["name"]
    answer = lay_out(request, library, params, names)
    answer["speech"] = speak(request, library, params) if request["speech"] else 0
    probe_child.leave(request, answer)


if __name__ == "__main__":
    main()
