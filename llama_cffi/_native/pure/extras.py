"""What llama.cpp tells in C++ alone; see ``helpers/extras.cpp``. The layouts are those of libstdc++ with 64-bit words,
which :mod:`llama_cffi._native.extras` makes sure of.
"""

from __future__ import annotations

import ctypes
from typing import Any

from llama_cffi._native.pure.process import ffi

_WORD = ctypes.c_uint64


class _Map(ctypes.Structure):
    """A ``std::map``: the comparison, then color, parent (the root), leftmost, rightmost and the number of nodes."""

    _fields_ = (("words", _WORD * 6),)


_ENTRY = 40
"""Bytes of a ``std::pair<std::string, ggml_tensor *>``; the pointer is at 32."""


def _address(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


def lch_buffers(fn: Any, ctx: Any, out: Any, room: int) -> int:
    return _write(ctypes.CFUNCTYPE(_Map, ctypes.c_void_p)(_address(fn))(_address(ctx)), 4, out, room)


def _write(found: _Map, width: int, out: Any, room: int) -> int:
    """Write the entries of a map, ``width`` words for each, and free the map."""
    free = ctypes.CDLL(None).free
    free.argtypes, free.restype = (ctypes.c_void_p,), None
    nodes, waiting = [], [found.words[2]]
    while waiting:
        if place := waiting.pop():
            # Color, parent, left, right; then the key and what it stands for.
            node = (_WORD * (4 + width)).from_address(place)
            nodes.append((place, tuple(node[4 : 4 + width])))
            waiting += (node[2], node[3])
    nodes.sort(key=lambda node: node[1])
    for i, (place, values) in enumerate(nodes):
        if i < room:
            out[width * i : width * (i + 1)] = values
        free(place)
    return len(nodes)


def lch_tensors(fn: Any, model: Any, out: Any, room: int) -> int:
    place = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(_address(fn))(_address(model))
    begin, end = (_WORD * 2).from_address(place)
    entries = range(begin, end, _ENTRY)
    for i, entry in enumerate(entries[:room]):
        out[i] = _WORD.from_address(entry + 32).value
    return len(entries)
