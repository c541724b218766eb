"""The adapters and the control vector of a context."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from llama_cffi.core.adapter import AdapterSet, LoraAdapter, adapter_set
from llama_cffi.core.context_reports import ContextReports
from llama_cffi.core.context_resources import ContextResources
from llama_cffi.core.control_vector import ControlVector, apply_control_vector
from llama_cffi.core.graph_reuse import after_control_vector, notices_changes, unseen_change
from llama_cffi.core.model import Model


class ContextConditioning(ContextReports):
    """The part of a context that changes the weights that it computes with."""

    model: Model
    _causal_attn: bool
    _door: Any
    _resources: ContextResources

    has_control_vector: bool
    """Whether :meth:`set_control_vector` has set one."""

    def _start_plain(self) -> None:
        """Note that nothing is changed, right before the native context is created."""
        self._notices_changes = notices_changes()
        self._adapters: AdapterSet = ()
        self._control_vector: tuple[ControlVector | None, range | None] = None, None
        self.has_control_vector = False

    def lock(self) -> AbstractContextManager[None]:
        """``with context.lock():`` holds the context for several calls on this thread.

        Raises :class:`BusyError` when another thread has it.
        """
        return self._gate.inside()

    @property
    def adapters(self) -> dict[LoraAdapter, float]:
        """The adapters of the context, with their scales."""
        return dict(self._adapters)

    def set_adapters(self, adapters: Mapping[LoraAdapter, float]) -> None:
        """Set the adapters of the context and their scales, instead of earlier ones; ``{}`` removes all.

        What is in memory stays as it was computed. A scale of 0 omits the adapter; a negative scale subtracts it from
        the weights. Raises :class:`AdapterError` for an adapter of another model, ``ValueError`` for a scale that is
        not finite, :class:`UnsupportedError` where an old library would not see it (``llama_set_adapters_lora``).
        """
        chosen = adapter_set(adapters, self.model)
        with self.lock():
            self._check_change(chosen != self._adapters)
            self._resources.adapters.replace(self.ptr, chosen)
            self._adapters = chosen

    def set_control_vector(self, vector: ControlVector | None, *, layers: range | None = None) -> None:
        """Add a control vector to the output of the layers from now on; None removes it.

        ``layers`` are the layers to add it to, all from 1 on by default. What is in memory stays as it was computed.
        Raises :class:`AdapterError` for a vector of another width or with more layers than the model, ``ValueError``
        for layers that it does not have, and :class:`UnsupportedError` as above. Wraps ``llama_set_adapter_cvec``.
        """
        with self.lock():
            self._check_change(vector is not None or self.has_control_vector)
            apply_control_vector(self.ptr, self.model, vector, layers)
            after_control_vector(self.ptr, self._causal_attn)
            self._control_vector = vector, layers
            self.has_control_vector = vector is not None

    def _check_change(self, changes: bool) -> None:
        if changes and self._door.n_computed and not self._notices_changes:
            raise unseen_change()


__all__ = ["ContextConditioning"]
