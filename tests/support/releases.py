"""In which order native objects are freed, by names that a test gives them. For a child process: it patches handles."""

from __future__ import annotations

from typing import Any

from llama_cffi._native import ffi, handle


class Releases:
    """The names of what was freed, in ``freed``. With ``all_named`` an object without a name is an error."""

    def __init__(self, *, all_named: bool) -> None:
        self.freed: list[str] = []
        self._names: dict[int, str] = {}
        self._all_named = all_named
        self._release: Any = handle._release
        handle._release = self._note

    def name(self, pointer: Any, name: str) -> None:
        """Name the object that a handle's ``ptr`` points to."""
        self._names[_key(pointer)] = name

    def clear(self) -> None:
        """Forget names and what was freed."""
        self.freed.clear()
        self._names.clear()

    def _note(self, owner: Any) -> None:
        if owner.cell:
            key = _key(owner.cell[0])
            if self._all_named or key in self._names:
                self.freed.append(self._names[key])
        self._release(owner)


def _key(pointer: Any) -> int:
    # Without the C helpers a turn is an object of Python.
    is_native = isinstance(pointer, (int, ffi.CData))
    return int(ffi.cast("intptr_t", pointer)) if is_native else id(pointer)


__all__ = ["Releases"]
