"""Changes to the weights while the model runs: LoRA adapters for each request, a control vector for all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from llama_cffi.core.adapter import LoraAdapter
from llama_cffi.facade.base import Base

if TYPE_CHECKING:
    from llama_cffi.core.control_vector import ControlVector


class Adapters(Base):
    """The methods of a :class:`~llama_cffi.llama.Llama` that change what it computes with."""

    def load_adapter(self, path: str | os.PathLike[str]) -> LoraAdapter:
        """Load a LoRA adapter from a GGUF file; it changes nothing until a request or :meth:`set_adapters` names it.

        Raises as :class:`LoraAdapter`. The adapter is closed with the model, or by its own ``close()``.
        """
        self._check_open()
        return LoraAdapter(self.model, path)

    @property
    def adapters(self) -> dict[LoraAdapter, float]:
        """The adapters of requests that do not name their own, and their scales."""
        return dict(self._conditioning.adapters)

    def set_adapters(self, adapters: Mapping[LoraAdapter, float]) -> None:
        """Set the adapters of later requests that do not name their own, and of embeddings; ``{}`` is none.

        Requests with different adapters are computed in turns, and none reuses what another set has computed. Running
        ones keep theirs. Raises :class:`AdapterError` for an adapter of another model and ``ValueError`` for a scale
        that is no finite number.
        """
        self._check_open()
        self._conditioning = self._conditioning.with_adapters(adapters, self.model)
        if self._generates:
            self._engine.use(self._conditioning)

    def set_control_vector(self, vector: ControlVector | None, *, layers: range | None = None) -> None:
        """Add a control vector to what the layers put out, for later requests and embeddings; None takes it away.

        ``layers`` are the layers to add it to, all from 1 on by default. Running requests go on without it, and none
        reuses what was computed under another one. Raises as :meth:`Context.set_control_vector`.
        """
        self._open_engine()
        if vector is not None:
            vector.check(self.model, layers)
        self._conditioning = replace(
            self._conditioning, control_vector=vector, control_layers=None if vector is None else layers
        )
        self._engine.use(self._conditioning)
