"""Changes to the weights while the model runs: LoRA adapters for each request, a control vector for all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from llama_cffi.core.adapter import LoraAdapter, adapter_set
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
        return dict(self._adapters)

    def set_adapters(self, adapters: Mapping[LoraAdapter, float]) -> None:
        """Set the adapters of later requests that do not name their own, and of embeddings; ``{}`` is none.

        Requests with different adapters are computed in turns, and none reuses what another set has computed. Running
        ones keep theirs. Raises :class:`AdapterError` for an adapter of another model and ``ValueError`` for a scale
        that is no finite number.
        """
        self._check_open()
        self._adapters = adapter_set(adapters, self.model)
        if self._generates:
            self._engine.use_adapters(self._adapters)

    def set_control_vector(self, vector: ControlVector | None, *, layers: range | None = None) -> None:
        """Add a control vector to what the layers put out, for every request and embedding from now on; None takes it
        away.

        ``layers`` are the layers to add it to, all from 1 on by default. Prompts in memory are computed again.
        Raises :class:`BusyError` while requests are running, and as :meth:`Context.set_control_vector`.
        """
        with self._open_engine().at_rest() as slots:
            self.context.set_control_vector(vector, layers=layers)
            self._control = (vector, layers)
            for slot in slots:
                slot.fill(())
            self.context.memory.clear(data=False)
