"""Conditioning: the LoRA adapters and the control vector of a computation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llama_cffi.core.adapter import AdapterSet, LoraAdapter, adapter_set
from llama_cffi.core.control_vector import ControlVector

if TYPE_CHECKING:
    from llama_cffi.core.context import Context
    from llama_cffi.core.model import Model


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Adapters and a control vector; false when there are neither.

    Memory that was computed under one conditioning is of no use under another: two are equal when they compute the
    same.
    """

    adapters: AdapterSet = ()
    """LoRA adapters with their scales, as :func:`~llama_cffi.core.adapter.adapter_set` gives them."""
    control_vector: ControlVector | None = None
    control_layers: range | None = None
    """The layers that the control vector is added to; None is all from 1 on."""

    def __bool__(self) -> bool:
        return bool(self.adapters) or self.control_vector is not None

    def with_adapters(self, adapters: Mapping[LoraAdapter, float] | None, model: Model) -> Conditioning:
        """Return the same with other adapters, None for these; raises the errors of :func:`adapter_set`."""
        return self if adapters is None else replace(self, adapters=adapter_set(adapters, model))

    def with_control_vector(self, vector: ControlVector | None, layers: range | None, model: Model) -> Conditioning:
        """Return the same with another control vector, None for none; raises as :meth:`ControlVector.check`."""
        if vector is None:
            return replace(self, control_vector=None, control_layers=None)
        if not isinstance(vector, ControlVector):
            raise TypeError(f"vector must be a ControlVector or None, not {type(vector).__name__}")
        vector.check(model, layers)
        return replace(self, control_vector=vector, control_layers=layers)

    def names(self) -> tuple[str, ...]:
        """Return a line for each change, which names it by its content: what a saved state is labeled with."""
        found = [f"lora {adapter.fingerprint} at {scale!r}" for adapter, scale in self.adapters]
        if self.control_vector is not None:
            layers = self.control_layers if self.control_layers is not None else "all layers"
            found.append(f"control vector {self.control_vector.fingerprint} in {layers}")
        return tuple(sorted(found))


PLAIN = Conditioning()
"""The model as it is."""


class Conditioner:
    """Sets the conditioning of one Context, which nothing else may change."""

    __slots__ = ("_context", "current")

    def __init__(self, context: Context) -> None:
        self._context = context
        self.current = PLAIN
        """What the context computes with."""

    def use(self, conditioning: Conditioning) -> None:
        """Compute with ``conditioning`` from now on.

        Raises the errors of :meth:`Context.set_adapters` and :meth:`Context.set_control_vector`.
        """
        current = self.current
        if conditioning is current or conditioning == current:
            return
        vector, layers = conditioning.control_vector, conditioning.control_layers
        if vector is not current.control_vector or layers != current.control_layers:
            self._context.set_control_vector(vector, layers=layers)
            self.current = replace(current, control_vector=vector, control_layers=layers)
        if conditioning.adapters != current.adapters:
            self._context.set_adapters(dict(conditioning.adapters))
        self.current = conditioning

    def detach_adapters(self) -> None:
        """Let go of the adapters, so that they may be closed; harmless when the context is closed."""
        if self.current.adapters and not self._context.closed:
            self.use(replace(self.current, adapters=()))


__all__ = ["PLAIN", "Conditioner", "Conditioning"]
