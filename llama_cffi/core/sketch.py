"""A model without the memory for its weights, to ask llama.cpp what a context with it would take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from llama_cffi._native import binding, extras, ffi, guard, lib, log
from llama_cffi._native.atomic import Cell
from llama_cffi.core.backend import Device, devices
from llama_cffi.core.context_options import ContextOptions, native_params
from llama_cffi.core.draft_layers import HeadKind, check_alone, head_options, set_heads
from llama_cffi.core.memory_breakdown import MemoryBreakdown, output_row_bytes, read_breakdown
from llama_cffi.core.model_base import ModelBase
from llama_cffi.core.model_options import ModelOptions
from llama_cffi.core.options import set_field
from llama_cffi.core.strings import to_text
from llama_cffi.errors import ContextError, NativeError


class Sketch(ModelBase):
    """A file loaded with ``no_alloc``: llama.cpp chooses the buffers of the weights and allocates none of them.

    Raises the errors of loading a model, and :class:`UnsupportedError` for a library without ``no_alloc``.
    """

    def __init__(self, path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], options: ModelOptions) -> None:
        super().__init__(path, replace(options, load_mode="none", require_gpu=False, check_tensors=False))

    def _adjust(self, params: Any) -> None:
        set_field(params, "no_alloc", True, option="an estimate of the memory", lacking=False)

    def measure(self, options: ContextOptions) -> MemoryBreakdown:
        """Return what the model and a context would take.

        Raises :class:`ContextError` when llama.cpp refuses the context. Wraps ``llama_init_from_model``.
        """
        check_alone(self)
        with self._opened(options) as (ptr, output_rows):
            return read_breakdown(ptr, output_rows)

    def measure_heads(self, kind: HeadKind, target: Sketch, options: ContextOptions) -> MemoryBreakdown:
        """Return what the model and the context of its draft heads would take, beside a context of their target.

        The target may be this model. llama.cpp must compute such heads. Raises as :meth:`measure`.
        """
        check_alone(target)
        with target._opened(options) as (other, _):
            sizes = {"n_ctx": int(lib.llama_n_ctx(other)), "n_ubatch": int(lib.llama_n_ubatch(other))}
            heads = head_options(options, n_seq_max=int(lib.llama_n_seq_max(other)), **sizes)
            with self._opened(heads, partial(set_heads, kind=kind, target=other)) as (ptr, output_rows):
                return read_breakdown(ptr, output_rows)

    def cells(self, options: ContextOptions) -> tuple[int, int]:
        """Return how many cells a context has, and how many of them one sequence: llama.cpp rounds both up.

        Raises as :meth:`measure`.
        """
        with self._opened(options) as (ptr, _):
            n_ctx = int(lib.llama_n_ctx(ptr))
            if binding.has("llama_n_ctx_seq"):
                return n_ctx, int(lib.llama_n_ctx_seq(ptr))
            return n_ctx, n_ctx if options.kv_unified else n_ctx // options.n_seq_max

    @contextmanager
    def _opened(self, options: ContextOptions, amend: Callable[[Any], None] | None = None) -> Iterator[tuple[Any, int]]:
        """A context without memory, and the bytes of its output rows; ``amend`` changes its parameters."""
        if self.options.vocab_only:
            raise ContextError(f"{self.path} was loaded with vocab_only: it has no weights to compute with")
        params = native_params(options)
        params.n_threads = params.n_threads_batch = 1
        if amend is not None:
            amend(params)
        cell: Cell = []
        with self.gate:
            mark = log.mark()
            try:
                ptr = guard.init_from_model(self.ptr, params, cell)
                log.pump()
                if ptr == ffi.NULL:
                    raise ContextError("cannot create a context", log=log.lines_since(mark))
                yield ptr, output_row_bytes(mark)
            except NativeError as error:
                raise ContextError(f"cannot create a context: {error.message}", log=error.log) from error
            finally:
                guard.free("llama_free", cell)

    def gpus(self) -> list[Device]:
        """Return the devices that llama.cpp would divide the layers among, in its order."""
        present = {device.name: device for device in devices()}
        own = extras.model_devices(self.ptr)
        if own is not None:
            names = [to_text(lib.ggml_backend_dev_name(device)) for device in own]
            return [present[name] for name in names if name in present]
        return offload_devices(self.options, list(present.values()))


def offload_devices(options: ModelOptions, present: Sequence[Device]) -> list[Device]:
    """Return the devices that layers may go to with these options."""
    if options.devices is not None:
        return [
            device for name in options.devices for device in present if device.name == name and device.type != "cpu"
        ]
    # An integrated GPU is used only where there is no other.
    return [one for one in present if one.type == "gpu"] or [one for one in present if one.type == "igpu"]


__all__ = ["Sketch", "offload_devices"]
