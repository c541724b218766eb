"""The key/value cells (or recurrent state) of a Context, by sequence and position."""

from __future__ import annotations

from typing import Any

from llama_cffi._native import guard, lib
from llama_cffi._util.arguments import check_flag
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi._util.scalars import check_int, is_int
from llama_cffi._util.shown import shown
from llama_cffi.core.context_access import ContextAccess
from llama_cffi.core.context_limits import ContextLimits
from llama_cffi.errors import UnsupportedError

_MAX_POS = 2**31 - 1


class Memory(ProcessBound):
    """A view of the memory of a :class:`~llama_cffi.core.context.Context`, whose native object it keeps alive.

    Ranges are half open; ``None`` for ``p0`` means 0 and for ``p1`` the end. Every method raises
    :class:`BusyError` while another thread is inside the context, and ``ValueError`` for a sequence id outside
    ``0 <= seq_id < n_seq_max`` or a negative position.
    """

    _instead_of_pickling = "take a SavedState, and restore it in the other process"
    _instead_of_copying = "use seq_cp() within a Context, and a SavedState to copy to another"

    __slots__ = ("_access", "_kv_unified", "_ptr", "_shift_ends_process")

    def __init__(self, access: ContextAccess, limits: ContextLimits) -> None:
        self._access = access
        self._kv_unified = limits.kv_unified
        self._shift_ends_process = limits.shift_ends_process
        self._ptr = lib.llama_get_memory(access.ptr)

    @property
    def ptr(self) -> Any:
        """The ``llama_memory_t``; :class:`ClosedError` when the context is closed."""
        self._access.handle.ptr  # noqa: B018 - raises when the context is closed
        return self._ptr

    def clear(self, *, data: bool = True) -> None:
        """Remove all sequences; ``data`` also zeroes the buffers. Wraps ``llama_memory_clear``."""
        self._call("llama_memory_clear", check_flag("data", data))

    def seq_rm(self, seq_id: int | None, p0: int | None = None, p1: int | None = None) -> bool:
        """Remove positions of a sequence (of all with None).

        Returns False when the memory cannot remove a part of a sequence, as recurrent ones cannot; removing a
        whole sequence always works. Wraps ``llama_memory_seq_rm``.
        """
        target = -1 if seq_id is None else self._access.check_seq_id(seq_id)
        return bool(self._call("llama_memory_seq_rm", target, *_range(p0, p1)) & 0xFF)

    def seq_cp(self, src: int, dst: int, p0: int | None = None, p1: int | None = None) -> None:
        """Let ``dst`` share positions of ``src``. Wraps ``llama_memory_seq_cp``.

        With ``kv_unified=False`` only whole sequences can be copied; a part raises :class:`UnsupportedError`.
        """
        start, end = _range(p0, p1)
        if (start or end >= 0) and not self._kv_unified and src != dst:
            raise UnsupportedError("copying a part of a sequence needs a Context with kv_unified=True")
        self._call("llama_memory_seq_cp", self._access.check_seq_id(src), self._access.check_seq_id(dst), start, end)

    def seq_keep(self, seq_id: int) -> None:
        """Remove every other sequence. Wraps ``llama_memory_seq_keep``."""
        self._call("llama_memory_seq_keep", self._access.check_seq_id(seq_id))

    def seq_add(self, seq_id: int, p0: int | None, p1: int | None, delta: int) -> None:
        """Shift the positions of a range by ``delta``. Wraps ``llama_memory_seq_add``.

        Raises :class:`UnsupportedError` when :attr:`can_shift` is False.
        """
        self._needs_shift()
        delta = check_int("delta", delta, -_MAX_POS, _MAX_POS)
        self._call("llama_memory_seq_add", self._access.check_seq_id(seq_id), *_range(p0, p1), delta)

    def seq_div(self, seq_id: int, p0: int | None, p1: int | None, divisor: int) -> None:
        """Divide the positions of a range by ``divisor`` (integers). Wraps ``llama_memory_seq_div``.

        Raises :class:`UnsupportedError` when :attr:`can_shift` is False.
        """
        self._needs_shift()
        if not is_int(divisor, 1, _MAX_POS):
            raise ValueError(f"divisor must be at least 1, got {shown(divisor)}")
        self._call("llama_memory_seq_div", self._access.check_seq_id(seq_id), *_range(p0, p1), divisor)

    def seq_pos_min(self, seq_id: int) -> int | None:
        """Smallest position held for a sequence, None when it is empty. Wraps ``llama_memory_seq_pos_min``."""
        return _position(self._call("llama_memory_seq_pos_min", self._access.check_seq_id(seq_id)))

    def seq_pos_max(self, seq_id: int) -> int | None:
        """Largest position held for a sequence, None when it is empty. Wraps ``llama_memory_seq_pos_max``."""
        return _position(self._call("llama_memory_seq_pos_max", self._access.check_seq_id(seq_id)))

    @property
    def can_shift(self) -> bool:
        """Whether positions can be shifted. Wraps ``llama_memory_can_shift``.

        It is also False where this libllama would end the process: with a quantized ``type_k`` and heads whose size is
        not a multiple of 64.
        """
        return not self._shift_ends_process and bool(self._call("llama_memory_can_shift") & 0xFF)

    def _call(self, name: str, *args: Any) -> int:
        with self._access.lock():
            return guard.call_int(name, self.ptr, *args)

    def _needs_shift(self) -> None:
        if self._shift_ends_process:
            raise UnsupportedError(
                "this libllama cannot shift quantized keys of this model, whose heads are not multiples of 64: open it "
                'with type_k="f16"'
            )
        if not self.can_shift:
            raise UnsupportedError("the memory of this model cannot shift positions")


def _range(p0: int | None, p1: int | None) -> tuple[int, int]:
    for value in (p0, p1):
        if value is not None and not is_int(value, 0, _MAX_POS):
            raise ValueError(f"positions must be 0 to {_MAX_POS}, got {shown(value)}")
    return (p0 or 0), (-1 if p1 is None else p1)


def _position(value: int) -> int | None:
    return value if value >= 0 else None
