"""The program that has libmtmd lay out a projector, so that a damaged one ends only this process: run by
media_sketch.py alone.

It imports nothing of llama_cffi but its neighbor probe_child. The request is one JSON object on standard input; the
answer is one in the file that the request names.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

_WORD = ctypes.c_uint64


class _Map(ctypes.Structure):
    """A ``std::map`` of libstdc++: the comparison, then color, parent (the root), leftmost, rightmost and the number
    of nodes."""

    _fields_ = (("words", _WORD * 6),)


def lay_out(request: dict[str, Any], library: Any, call: Any) -> dict[str, Any]:
    """Call ``mtmd_get_memory_usage``; return bytes by the names of devices, where the map can be read."""
    defaults = ctypes.cast(library.mtmd_context_params_default, ctypes.c_void_p).value or 0
    buffer = ctypes.create_string_buffer(1 << 12)
    call(ctypes.addressof(buffer), defaults)
    for place, data in request["fields"]:
        part = bytes.fromhex(data)
        ctypes.memmove(ctypes.addressof(buffer) + place, part, len(part))

    class Params(ctypes.Structure):
        _fields_ = (("words", _WORD * (request["size"] // 8)),)

    params = Params.from_buffer_copy(buffer.raw[: request["size"]])
    function = ctypes.cast(getattr(library, request["function"]), ctypes.c_void_p).value or 0
    found = ctypes.CFUNCTYPE(_Map, ctypes.c_char_p, Params)(function)(os.fsencode(request["file"]), params)
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
            devices[library.ggml_backend_dev_name(node[4]).decode("utf-8", "replace")] = node[5]
    return {"devices": devices}


def main() -> None:
    """Answer the request on standard input, and leave without running anything of the library's at exit."""
    # -I leaves the folder of the program out.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import probe_child  # type: ignore[import-not-found]

    request = probe_child.read_request()
    library = probe_child.open_all(request["paths"])
    for folder in request["plugins"]:
        library.ggml_backend_load_all_from_path(os.fsencode(folder))
    probe_child.leave(request, lay_out(request, library, probe_child.hidden_return()))


if __name__ == "__main__":
    main()
