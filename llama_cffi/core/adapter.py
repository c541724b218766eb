"""LoRA adapters: small changes to a model's weights that a context adds while it computes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cffi._native import binding, ffi, guard, lib, log
from llama_cffi._native.handle import Handle
from llama_cffi._util.arguments import check_mapping, check_path
from llama_cffi._util.ranges import FLT_MAX
from llama_cffi._util.scalars import as_float
from llama_cffi._util.shown import shown
from llama_cffi.core.fingerprint import file_pieces
from llama_cffi.core.gguf import GGUFFile, MetadataValue
from llama_cffi.core.native_object import NativeObject
from llama_cffi.errors import AdapterError, ModelFileError, NativeError

if TYPE_CHECKING:
    from llama_cffi.core.model import Model

_NUMBERS = ("i8", "i16", "i32", "i64", "f64")
"""Types that no matrix product takes."""


class LoraAdapter(NativeObject):
    """A LoRA loaded from a GGUF file for one :class:`~llama_cffi.core.model.Model`.

    Any number of contexts of that model may compute with it, each with its own scale; see :meth:`Context.set_adapters`.
    It is closed with its model.

    Raises :class:`ModelNotFoundError` and :class:`ModelFileError` for a path that is not a GGUF file, and
    :class:`AdapterError` for a file that is not a LoRA, or one for another model. Wraps ``llama_adapter_lora_init``.
    """

    _instead_of_pickling = "send its path, and load it in each process"
    _instead_of_copying = "any number of contexts of its model may use one"

    def __init__(self, model: Model, path: str | os.PathLike[str]) -> None:
        # Not isinstance: a Model has adapters, and its module is above this one.
        if not hasattr(model, "architecture"):
            raise TypeError(f"model must be a Model, got {shown(model)}")
        self.model = model
        self.path = Path(check_path("path", path))
        file = GGUFFile(self.path)
        _check(file, model)
        self.metadata: dict[str, MetadataValue] = file.metadata
        """The metadata of the file; see :attr:`GGUFFile.metadata`."""
        with model.gate:
            mark = log.mark()
            self._handle = handle = Handle(
                "LoraAdapter", partial(guard.free, "llama_adapter_lora_free"), (model.handle,)
            )
            try:
                ptr = guard.call_ptr("llama_adapter_lora_init", model.ptr, os.fsencode(self.path), cell=handle.cell)
                if ptr == ffi.NULL:
                    raise AdapterError(f"{self.path} does not fit {model.path}", log=log.lines_since(mark))
                handle.open(ptr)
            except BaseException as error:
                handle.release()
                if isinstance(error, NativeError):
                    raise AdapterError(f"cannot load {self.path}: {error.message}", log=error.log) from error
                raise
            finally:
                log.pump()

    @cached_property
    def alpha(self) -> float | None:
        """The file's factor of ``B @ A``, before the division by the rank; None if the file has none."""
        value = self.metadata.get("adapter.lora.alpha")
        return float(value) if isinstance(value, float) and value else None

    @cached_property
    def invocation_tokens(self) -> tuple[int, ...]:
        """The tokens after which an activated LoRA (aLoRA) must be applied; empty for any other."""
        value = self.metadata.get("adapter.alora.invocation_tokens")
        return tuple(int(token) for token in value) if isinstance(value, list) else ()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of some parts of the file, read at the first access; equal for copies."""
        return file_pieces(self.path)

    def is_for(self, model: Model) -> bool:
        """Return whether contexts of a model may compute with it; :class:`ClosedError` when it is closed."""
        fits = self.model is model or (isinstance(model, NativeObject) and self.model.handle is model.handle)
        self.ptr  # noqa: B018 - raises when closed
        return fits

    # -- lifetime

    def close(self) -> None:
        """Free the adapter. Idempotent; :class:`InUseError` while a context computes with it."""
        self._handle.close()

    def __repr__(self) -> str:
        return f"<LoraAdapter {self.path.name!r}{': closed' if self.closed else ''}>"


AdapterSet = tuple[tuple[LoraAdapter, float], ...]
"""Adapters with their scales, none of them 0, in an order of their own: what computes the same is equal."""


def adapter_set(adapters: Mapping[LoraAdapter, float], model: Model) -> AdapterSet:
    """Return the adapters of a mapping to their scales, for a model.

    Raises TypeError for what is not an adapter, ValueError for a scale that is not a finite number,
    :class:`AdapterError` for an adapter of another model and :class:`ClosedError` for one that is closed.
    """
    check_mapping("adapters", adapters)
    chosen = []
    for adapter, scale in adapters.items():
        if not isinstance(adapter, LoraAdapter):
            raise TypeError(f"adapters must map LoraAdapter objects to scales, got {shown(adapter)}")
        number = as_float(scale)
        if number is None or not abs(number) <= FLT_MAX:
            raise ValueError(
                f"adapters: the scale of {adapter!r} must be a finite number of 32 bits, got {shown(scale)}"
            )
        if not adapter.is_for(model):
            raise AdapterError(f"{adapter!r} was loaded for another Model than {model!r}")
        if number:
            chosen.append((adapter, number))
    return tuple(sorted(chosen, key=lambda pair: id(pair[0])))


class Attached:
    """The adapters inside one ``llama_context``, which keeps raw pointers to them.

    Part of what is freed with the context: it holds handles, which therefore outlive the context, and no wrappers.
    """

    __slots__ = ("_handles",)

    def __init__(self) -> None:
        self._handles: tuple[Handle, ...] = ()

    def replace(self, ctx: Any, adapters: AdapterSet) -> None:
        """Compute with these and no others. Wraps ``llama_set_adapters_lora``."""
        handles = tuple(adapter.handle for adapter, _ in adapters)
        try:
            # First of all: what is attached, no other thread can close.
            for handle in handles:
                handle.attach(self, "a Context computes with it, until set_adapters() says otherwise")
            self._set(ctx, [handle.ptr for handle in handles], [scale for _, scale in adapters])
        except BaseException:
            self._detach(handles, but=self._handles)
            raise
        before, self._handles = self._handles, handles
        self._detach(before, but=handles)

    def _set(self, ctx: Any, pointers: list[Any], scales: list[float]) -> None:
        if binding.has("llama_set_adapters_lora"):
            array = ffi.new("struct llama_adapter_lora *[]", pointers)
            guard.call_int("llama_set_adapters_lora", ctx, array, len(pointers), ffi.new("float[]", scales))
            return
        # Older releases take them one by one.
        lib.llama_clear_adapter_lora(ctx)
        for pointer, scale in zip(pointers, scales, strict=True):
            lib.llama_set_adapter_lora(ctx, pointer, scale)

    def _detach(self, handles: tuple[Handle, ...], *, but: tuple[Handle, ...] = ()) -> None:
        for handle in handles:
            if handle not in but:
                handle.detach(self)

    def release(self) -> None:
        """Let go of all of them: the context is gone."""
        self._detach(self._handles)
        self._handles = ()


def _check(file: GGUFFile, model: Model) -> None:
    """Refuse what llama.cpp would refuse without a reason, or not survive."""
    about = file.metadata
    if about.get("general.type") != "adapter" or about.get("adapter.type") != "lora":
        kind = about.get("adapter.type") or about.get("general.type") or file.architecture
        raise AdapterError(f"{file.path} is not a LoRA adapter: its type is {kind!r}")
    if file.architecture != model.architecture:
        raise AdapterError(
            f"{file.path} is a LoRA for {file.architecture!r} models, and this one is {model.architecture!r}"
        )
    alpha = about.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise AdapterError(f"{file.path}: adapter.lora.alpha must be a finite number, not {alpha!r}")
    tensors = {tensor.name: tensor for tensor in file.tensors}
    for name, a in tensors.items():
        b = tensors.get(f"{name.removesuffix('.lora_a')}.lora_b")
        if not name.endswith(".lora_a") or b is None:
            continue  # llama.cpp says what it thinks of it
        if a.type in _NUMBERS or b.type in _NUMBERS:
            raise AdapterError(f"{file.path}: {name} holds numbers of type {a.type} and {b.type}")
        stacked = "_exps." in name
        if max(len(a.shape), len(b.shape)) > (3 if stacked else 2) or a.shape[2:] != b.shape[2:]:
            raise AdapterError(f"{file.path}: {name} and its partner have the shapes {a.shape} and {b.shape}")
        if name.startswith("token_embd.") and a.shape[0] != b.shape[0]:
            raise AdapterError(f"{file.path}: {name} has rank {a.shape[0]}, its partner {b.shape[0]}")
        if name.startswith("token_embd.") and _ties_embeddings(model):
            raise AdapterError(
                f"{file.path} changes the token embeddings, which are this model's output matrix too: llama.cpp cannot "
                "compute that"
            )


def _ties_embeddings(model: Model) -> bool:
    """Whether the model's file has no output matrix; False when it cannot be seen there."""
    try:
        file = GGUFFile(model.path)
    except ModelFileError:
        return False
    return "split.count" not in file.metadata and all(tensor.name != "output.weight" for tensor in file.tensors)


__all__ = ["AdapterSet", "Attached", "LoraAdapter", "adapter_set"]
