"""The helpers of this process: the compiled extension, or the same functions in Python without a compiler.

Both offer what ``helpers/helpers.h`` declares under the same names, with equal results. The twin is slower, and C++
alone can turn llama.cpp's failed assertions into exceptions and look at signals and deadlines during a computation.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

from llama_cffi.errors import LibraryError

Kind = Literal["compiled", "python"]

ENV_VAR = "LLAMA_CFFI_HELPERS"


def _choose() -> Kind:
    wanted = os.environ.get(ENV_VAR, "")
    if wanted not in ("", "none"):
        raise LibraryError(f"{ENV_VAR} must be none (to run without the compiled helpers) or unset, not {wanted!r}")
    there = importlib.util.find_spec("llama_cffi._native._helpers") is not None
    return "compiled" if there and not wanted else "python"


KIND: Kind = _choose()

_chosen: Any = importlib.import_module(f"llama_cffi._native.{'compiled' if KIND == 'compiled' else 'pure'}")

ffi: Any = _chosen.ffi
"""Makes the plain C data that the helpers take."""

lib: Any = _chosen.lib
"""The functions and constants of ``helpers.h``."""

new: Callable[[str], Any] = _chosen.new
"""A struct of ``helpers.h``, filled with zeros."""

address: Callable[[str], Any] = _chosen.address
"""A helper as a C function pointer, for llama.cpp to call."""

pointer: Callable[[Any], Any] = _chosen.pointer
"""What llama.cpp passes back to a helper as its user data, for a struct of :func:`new`."""

function: Callable[[str], Any] = _chosen.function
"""A llama.h function as the helpers take it."""

is_inside: Callable[[Any], bool] = _chosen.is_inside
"""Whether this thread is inside a ``lch_door``."""

keep: Callable[..., None] = _chosen.keep
"""Call a helper that returns what llama.cpp made, and keep it in a cell; see :func:`.atomic.keep`."""

leave: Callable[[Any], Callable[[], object]] = _chosen.leave
"""``lch_door_leave`` for one door, as a function without Python code: no signal handler runs before it."""

turns: Callable[[Sequence[Any]], Any] = _chosen.turns
"""An array of ``lch_turn *``."""

pool: Callable[[Any], Any] = _chosen.pool
"""The :class:`Handle` of a thread pool as ``lch_turn_add`` takes it."""

take_interrupt: Callable[[], BaseException | None] = _chosen.take_interrupt
"""What a signal handler raised in the middle of a computation, once."""

__all__ = [
    "ENV_VAR",
    "KIND",
    "Kind",
    "address",
    "ffi",
    "function",
    "is_inside",
    "keep",
    "leave",
    "lib",
    "new",
    "pointer",
    "pool",
    "take_interrupt",
    "turns",
]
