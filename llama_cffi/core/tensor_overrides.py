"""Tensors that are placed by name, whatever their layer: ``llama_model_params.tensor_buft_overrides``."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llama_cffi._native import ffi, lib
from llama_cffi._util.shown import shown
from llama_cffi.core.strings import to_text

EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
"""What llama.cpp's own tools take for the weights of experts."""
_HOST = "CPU"


def override_list(given: Mapping[str, str], *, cpu_moe: bool, n_cpu_moe: int) -> list[tuple[str, str]]:
    """Return expressions and names of devices in the order in which llama.cpp tries them: the caller's come first."""
    layers = [(rf"blk\.{i}{EXPERTS}", _HOST) for i in range(n_cpu_moe)]
    return [*given.items(), *([(EXPERTS, _HOST)] if cpu_moe else layers)]


def set_tensor_overrides(params: Any, overrides: Sequence[tuple[str, str]], keep: list[Any]) -> None:
    """Write the overrides into a ``llama_model_params``; what its pointers point at is added to ``keep``.

    Raises ``ValueError`` for too many, for an expression that is none, and for a device that is not there.
    """
    limit = lib.llama_max_tensor_buft_overrides() - 1  # the last one is the end of the list
    if len(overrides) > limit:
        raise ValueError(f"tensor_overrides, cpu_moe and n_cpu_moe make {len(overrides)} overrides; at most {limit}")
    found = _buffer_types()
    array = ffi.new("struct llama_model_tensor_buft_override[]", len(overrides) + 1)
    for slot, (pattern, device) in zip(array, overrides, strict=False):
        _compiled(pattern)
        if device not in found:
            names = ", ".join(map(repr, found))
            raise ValueError(f"tensor_overrides[{shown(pattern)}] must be one of {names}, got {shown(device)}")
        text = ffi.new("char[]", pattern.encode())
        keep.append(text)
        slot.pattern, slot.buft = text, found[device]
    keep.append(array)
    params.tensor_buft_overrides = array


def check_matches(overrides: Mapping[str, str], tensors: Iterable[str]) -> None:
    """Raise ``ValueError`` for an expression that no name of a tensor matches."""
    names = list(tensors)
    for pattern in overrides:
        expression = _compiled(pattern)
        if not any(expression.search(name) for name in names):
            some = ", ".join(names[:3])
            raise ValueError(f"tensor_overrides: no tensor matches {shown(pattern)}; names are {some} ...")


def _compiled(pattern: str) -> re.Pattern[str]:
    if not pattern or "\0" in pattern:
        raise ValueError(f"tensor_overrides: {shown(pattern)} is not a regular expression")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what C++ takes for something else
            return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"tensor_overrides: {shown(pattern)} is not a regular expression: {error}") from None


def _buffer_types() -> dict[str, Any]:
    """The memory of each device, by the name of the device and by llama.cpp's name of the memory."""
    found: dict[str, Any] = {}
    for i in range(lib.ggml_backend_dev_count()):
        device = lib.ggml_backend_dev_get(i)
        kind = lib.ggml_backend_dev_buffer_type(device)
        if kind != ffi.NULL:
            found[to_text(lib.ggml_backend_dev_name(device))] = kind
            found.setdefault(to_text(lib.ggml_backend_buft_name(kind)), kind)
    return found


__all__ = ["EXPERTS", "check_matches", "override_list", "set_tensor_overrides"]
