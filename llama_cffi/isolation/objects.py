"""What stands in this process for the native objects of the other one: their values, and nothing else."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cffi._util.process_bound import ProcessBound
from llama_cffi.core.adapter import LoraAdapter
from llama_cffi.core.gguf import GGUFFile
from llama_cffi.errors import ClosedError, UnsupportedError
from llama_cffi.isolation.codec import Named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama_cffi.core.memory_breakdown import MemoryBreakdown
    from llama_cffi.core.model import Model
    from llama_cffi.isolation.supervisor import Supervisor

_OF_A_LOAD = ("fitting", "options", "placement")
"""What may be otherwise in the process that follows a crash; nothing else of a model changes."""

_numbers = count(1)


class _Remote(ProcessBound):
    """Reads attributes that are values from an object of the other process, and refuses all others."""

    _instead_of_pickling = "open the model in each process"

    def __init__(self, supervisor: Supervisor, name: str, known: Mapping[str, Any]) -> None:
        own = vars(self)
        own["_supervisor"], own["_name"], own["_known"] = supervisor, name, dict(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        known = self._known
        if name in known:
            return known[name]
        return self._supervisor.call(("runtime",), (self._name,), (name,))

    def __setattr__(self, name: str, value: object) -> None:
        raise UnsupportedError(f"isolate=True: {self._name}.{name} cannot be set: it is in the process of the model")

    @property
    def closed(self) -> bool:
        """Whether the Llama was closed."""
        return self._supervisor.closed  # type: ignore[no-any-return]

    def close(self) -> None:
        """Raises :class:`UnsupportedError`: closing the Llama ends the process with everything in it."""
        raise UnsupportedError(f"isolate=True: the {self._name} is closed with its Llama")


class IsolatedContext(_Remote):
    """The numbers of a context in another process."""

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(supervisor, "context", supervisor.facts["context"])

    def memory_breakdown(self) -> MemoryBreakdown:
        """As :meth:`Context.memory_breakdown`."""
        found: MemoryBreakdown = self._supervisor.call(("runtime",), ("context",), ("memory_breakdown", (), {}))
        return found

    def __repr__(self) -> str:
        return f"<Context of another process: n_ctx={self.n_ctx}>"


class IsolatedModel(_Remote):
    """The vocabulary and the metadata of a model, and the values of its weights, which are in another process."""

    def __init__(self, supervisor: Supervisor, vocabulary: Model) -> None:
        super().__init__(supervisor, "model", {})
        own = vars(self)
        own["vocab"], own["metadata"], own["path"] = vocabulary.vocab, vocabulary.metadata, vocabulary.path
        own["name"], own["identities"] = vocabulary.name, vocabulary.identities
        own["architecture"], own["chat_template"] = vocabulary.architecture, vocabulary.chat_template
        own["gate"], own["_vocabulary"] = vocabulary.gate, vocabulary

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        if name not in _OF_A_LOAD:
            self._known[name] = value
        return value

    @property
    def target(self) -> Any:
        """As :attr:`Model.target`."""
        return self._vocabulary.target

    def cls_label(self, i: int) -> str | None:
        """As :meth:`Model.cls_label`."""
        found: str | None = self._supervisor.call(("runtime",), ("model",), ("cls_label", (i,), {}))
        return found

    def __repr__(self) -> str:
        return f"<Model {self.name!r} of another process>"


class IsolatedAdapter(LoraAdapter, Named):
    """A LoRA adapter that another process has loaded, and every process that follows it will load."""

    def __init__(self, supervisor: Supervisor, model: IsolatedModel, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))
        self.model = model  # type: ignore[assignment]
        self._supervisor = supervisor
        self._number = number = next(_numbers)
        self._closed = False
        self.wire_name = ("adapter", number)
        supervisor.call(("load_adapter", (number, str(self.path)), {}))
        self.metadata = GGUFFile(self.path).metadata
        supervisor.adapters[number] = self

    def is_for(self, model: Any) -> bool:
        if self.closed:
            raise ClosedError("this LoraAdapter is closed")
        return self.model is model

    @property
    def handle(self) -> Any:
        raise UnsupportedError("isolate=True: the adapter is in the process of the model")

    ptr = handle

    @property
    def closed(self) -> bool:
        return self._closed or self._supervisor.closed

    def close(self) -> None:
        if not self.closed:
            if self._supervisor.running:
                self._supervisor.call(("close_adapter", (self._number,), {}))
            self._closed = True
            self._supervisor.adapters.pop(self._number, None)


class LlamasDraft(Named):
    """The draft source that the other process has opened with its model."""

    wire_name = ("draft",)

    def start(self) -> Any:
        raise UnsupportedError("isolate=True: the draft source is in the process of the model")


__all__ = ["IsolatedAdapter", "IsolatedContext", "IsolatedModel", "LlamasDraft"]
