"""llama.cpp's C++ functions for hidden states, which draft heads take as input; llama.h has no functions for them.

Every libllama with draft heads exports these functions for llama.cpp's own tools. The exported name of a C++ function
contains the types of its parameters, so a function that is found under one of the names below has the parameters that
are declared with it. Where names are made in another way (on Windows), none is found.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llama_cffi._native import bound, exports
from llama_cffi.errors import UnsupportedError

_FUNCTIONS = {
    "llama_set_embeddings_nextn": ("P13llama_contextbb", "void (*)(struct llama_context *, bool, bool)"),
    "llama_get_embeddings_nextn": ("P13llama_context", "float *(*)(struct llama_context *)"),
    "llama_get_embeddings_nextn_ith": ("P13llama_contexti", "float *(*)(struct llama_context *, int32_t)"),
    "llama_set_nextn_layer_offset": ("P13llama_contexti", "void (*)(struct llama_context *, int32_t)"),
    "llama_set_embeddings_layer_inp": ("P13llama_contextjb", "void (*)(struct llama_context *, uint32_t, bool)"),
    "llama_get_embeddings_layer_inp": ("P13llama_contextj", "float *(*)(struct llama_context *, uint32_t)"),
    "llama_model_target_layer_ids": ("PK11llama_model", "const int32_t *(*)(const struct llama_model *)"),
    "llama_model_target_layer_ids_n": ("PK11llama_model", "uint32_t (*)(const struct llama_model *)"),
}

_OF_HEADS = ("llama_set_embeddings_nextn", "llama_get_embeddings_nextn", "llama_get_embeddings_nextn_ith")
_OF_LAYERS = (
    "llama_set_embeddings_layer_inp",
    "llama_get_embeddings_layer_inp",
    "llama_model_target_layer_ids",
    "llama_model_target_layer_ids_n",
)


def lacking(*, layers: bool = False) -> str | None:
    """Return a function that draft heads need and the library lacks, or None; ``layers`` are for EAGLE-3."""
    names = (*_OF_HEADS, *_OF_LAYERS) if layers else _OF_HEADS
    return next((name for name in names if _find(name) is None), None)


@cache
def function(name: str) -> Any:
    """Return one of the functions above; :class:`UnsupportedError` where the library lacks it."""
    found = _find(name)
    if found is None:
        raise UnsupportedError(f"this libllama does not export {name}, which drafts from hidden states need")
    return bound.ffi.cast(_FUNCTIONS[name][1], found)


def _find(name: str) -> int | None:
    return exports.address(f"_Z{len(name)}{name}{_FUNCTIONS[name][0]}")


__all__ = ["function", "lacking"]
