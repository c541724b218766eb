"""What llama.cpp tells in C++ alone: buffers of a context, tensors and devices of a model.

llama.h does not have these functions, but every libllama of the last years exports them. They are used where the name
of one of them says that the library was compiled with libstdc++ and its present strings (``B5cxx11``): then its
containers are those of the helpers. Elsewhere, every function here returns None.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llama_cffi._native import bound, exports, guard
from llama_cffi._native.helpers import ffi, lib

_BUFFERS = "_Z26llama_get_memory_breakdownPK13llama_context"
_TENSORS = "_Z29llama_internal_get_tensor_mapB5cxx11PK11llama_model"
_N_DEVICES = "_Z21llama_model_n_devicesPK11llama_model"
_DEVICE = "_Z22llama_model_get_devicePK11llama_modeli"

_FAILED = int(lib.LCH_FAILED)


def _function(name: str) -> Any:
    """The address of an exported function of libllama; None if it has none."""
    found = exports.address(name)
    return None if found is None else ffi.cast("void *", found)


def _usable(name: str) -> Any:
    """The address of a function that the helpers understand, or None."""
    return _function(name) if _function(_TENSORS) is not None else None


def exported(name: str) -> Any:
    """Return the address, as a number, of a function that libllama or a library that it was linked to exports, or
    None."""
    found = _function(name)
    return None if found is None else _word(found)


def has_buffers() -> bool:
    """Return whether :func:`buffers` knows the buffers of this library."""
    return _usable(_BUFFERS) is not None


def buffers(ctx: Any) -> list[tuple[Any, int, int, int]] | None:
    """Return the buffers of a context: type, and bytes of the model, of the context's memory, and for computing.

    Wraps ``llama_get_memory_breakdown``.
    """
    function = _usable(_BUFFERS)
    if function is None:
        return None
    words = _all(partial(lib.lch_buffers, function, _pointer(ctx)), "llama_get_memory_breakdown", 4)
    types = (bound.ffi.cast("ggml_backend_buffer_type_t", word) for word in words[::4])
    return list(zip(types, words[1::4], words[2::4], words[3::4], strict=True))


def tensors(model: Any) -> list[Any] | None:
    """Return the ``struct ggml_tensor *`` of all weights. Wraps ``llama_internal_get_tensor_map``."""
    function = _usable(_TENSORS)
    if function is None:
        return None
    words = _all(partial(lib.lch_tensors, function, _pointer(model)), "llama_internal_get_tensor_map", 1)
    return [bound.ffi.cast("struct ggml_tensor *", word) for word in words]


def model_devices(model: Any) -> list[Any] | None:
    """Return the devices that a model may use, in its order. Wraps ``llama_model_get_device``."""
    count, get = _function(_N_DEVICES), _function(_DEVICE)
    if count is None or get is None:
        return None
    # Two look-ups in a vector, which need no guard.
    n_devices = bound.ffi.cast("int32_t(*)(const struct llama_model *)", _word(count))(model)
    get = bound.ffi.cast("ggml_backend_dev_t(*)(const struct llama_model *, int)", _word(get))
    return [get(model, i) for i in range(n_devices)]


def _all(helper: Any, name: str, width: int) -> list[int]:
    """All words that a helper writes, ``width`` for each thing."""
    room = 64
    while True:
        out = ffi.new("uint64_t[]", room * width)
        n = helper(out, room)
        if n == _FAILED:
            guard.fail(name)
        if n <= room:
            return [int(word) for word in out[0 : n * width]]
        room = int(n)


def _pointer(pointer: Any) -> Any:
    """A pointer of llama.cpp's types as the helpers take it."""
    return ffi.cast("void *", int(bound.ffi.cast("uintptr_t", pointer)))


def _word(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


__all__ = ["buffers", "exported", "has_buffers", "model_devices", "tensors"]
