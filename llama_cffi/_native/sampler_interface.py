"""The ``llama_sampler_i`` of samplers written in Python.

It has no ``clone`` and no ``free``: what makes the ``llama_sampler`` keeps its Python side alive, and llama.cpp may
free it when no Python can run.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

from llama_cffi._native import atomic, helpers
from llama_cffi._native.atomic import Cell
from llama_cffi._native.bound import binding, ffi, lib
from llama_cffi._util.once import once


class Callbacks(Protocol):
    """What llama.cpp calls. An exception must not cross C: whatever comes out goes to :meth:`failed`."""

    def on_accept(self, token: int) -> None:
        """A token was chosen."""

    def on_apply(self, array: Any) -> None:
        """Change the candidates of a ``llama_token_data_array *``."""

    def on_reset(self) -> None:
        """Return to the initial state."""

    def failed(self, error: BaseException) -> None:
        """Keep an exception for the caller of llama.cpp."""


def new_handle(callbacks: Callbacks) -> Any:
    """Return the ``ctx`` of a sampler; it must live as long as the sampler is used."""
    return ffi.new_handle(callbacks)


def new_sampler(handle: Any, cell: Cell) -> None:
    """Make a ``llama_sampler *`` and keep it in the cell, in one step. Wraps ``llama_sampler_init``."""
    atomic.keep(cell, lib.llama_sampler_init, _interface(), handle)


@once
def _c_name() -> Any:
    return ffi.new("char[]", b"python")


def _name(smpl: Any) -> Any:
    return _c_name()


# What Python calls in between is no part of the guarded call around it: a C++ exception must not cross Python's frames.
_unguard, _reguard = helpers.lib.lch_unguard, helpers.lib.lch_reguard


def _on_accept(smpl: Any, token: int) -> None:
    depth = _unguard()
    try:
        ffi.from_handle(smpl.ctx).on_accept(token)
    finally:
        _reguard(depth)


def _on_apply(smpl: Any, cur_p: Any) -> None:
    depth = _unguard()
    try:
        ffi.from_handle(smpl.ctx).on_apply(cur_p)
    finally:
        _reguard(depth)


def _on_reset(smpl: Any) -> None:
    depth = _unguard()
    try:
        ffi.from_handle(smpl.ctx).on_reset()
    finally:
        _reguard(depth)


def _store(kind: Any, error: BaseException, trace: TracebackType) -> None:
    smpl = trace.tb_frame.f_locals.get("smpl")
    if smpl is not None:
        callbacks: Callbacks = ffi.from_handle(smpl.ctx)
        callbacks.failed(error.with_traceback(trace))


@once
def _interface() -> Any:
    functions = {"name": _name, "accept": _on_accept, "apply": _on_apply, "reset": _on_reset}
    interface = ffi.new("struct llama_sampler_i *")
    for name, function in functions.items():
        if binding.mode == "abi":
            signature = ffi.typeof(getattr(interface, name))
            callback = ffi.callback(signature, function, onerror=_store)
            _KEPT.append(callback)
        else:
            ffi.def_extern(f"llama_cffi_sampler_{name}", onerror=_store)(function)
            callback = getattr(lib, f"llama_cffi_sampler_{name}")
        setattr(interface, name, callback)
    return interface


_KEPT: list[Any] = []
"""Callbacks of ABI mode: they live as long as something refers to them."""

__all__ = ["Callbacks", "new_handle", "new_sampler"]
