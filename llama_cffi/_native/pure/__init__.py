"""The helpers in Python and numpy: each module does what the C++ file of its name does, under the same names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_cffi._native import bound
from llama_cffi._native.pure import abort, deep, door, encoding, extras, gguf, guard, log, select, step, turn
from llama_cffi._native.pure.process import ffi

if TYPE_CHECKING:
    from llama_cffi._native.handle import Handle

_MODULES = (guard, deep, log, abort, door, gguf, extras, select, turn, encoding, step)


class _Lib:
    """The names of all modules in one place, as the extension has them."""


lib: Any = _Lib()
for _module in _MODULES:
    for _name, _value in vars(_module).items():
        if _name.lower().startswith("lch_"):
            setattr(lib, _name, _value)


def take_interrupt() -> BaseException | None:
    """See :mod:`llama_cffi._native.helpers`, as for everything below. Handlers run after a computation, not in it."""
    return None


def new(struct: str) -> Any:
    return getattr(lib, struct)()


def address(name: str) -> Any:
    return getattr(lib, name)


def pointer(struct: abort.lch_abort | encoding.lch_encoding) -> Any:
    return struct.stop


def turns(found: Sequence[turn.lch_turn]) -> Any:
    return found


def pool(handle: Handle) -> Any:
    return handle


def is_inside(mine: door.lch_door) -> bool:
    return door.is_inside(mine)


keep = guard.keep


def leave(mine: door.lch_door) -> Any:
    # Returns None: what __exit__ returns must not be true, or it swallows the exception.
    return mine.owner.clear


def function(name: str) -> Any:
    # Not the pointer where both will do: structs with fields unknown to cffi go only to the function itself.
    home = bound.home(name)
    pointer, direct = home.function(name), getattr(home.lib, name)
    return direct if bound.ffi.typeof(direct) is bound.ffi.typeof(pointer) else pointer


__all__ = [
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
