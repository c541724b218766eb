"""What a Llama opens beside its model, and the memory that this takes: a draft model and a projector."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_cffi.core.backend import devices
from llama_cffi.core.context_options import ContextOptions
from llama_cffi.core.memory_breakdown import MemoryBreakdown
from llama_cffi.core.model import Model, ModelOptions
from llama_cffi.core.opening import local
from llama_cffi.core.sketch import Sketch
from llama_cffi.engine.draft_model import DraftHeads, DraftModel, draft_context
from llama_cffi.engine.draft_source import NAMED_SOURCES, drafts_from_states
from llama_cffi.engine.open_media import projector_bytes
from llama_cffi.errors import ContextError

_Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class BesideModel:
    """Measures what the options of a Llama open beside the model of a file, as a fit asks for it.

    Not for two threads at once.
    """

    def __init__(self, path: _Paths, given: Mapping[str, Any]) -> None:
        self._path = Path(path if isinstance(path, (str, os.PathLike)) else path[0])
        self._given = given
        draft = given.get("draft")
        source = draft.model if isinstance(draft, (DraftModel, DraftHeads)) else draft
        # A name of a source, such as "lookup", is not the path of a model.
        named = isinstance(source, str) and source in NAMED_SOURCES
        source = source if named else local(source)
        is_model = isinstance(source, (str, os.PathLike, Model)) and not named
        self._draft: str | os.PathLike[str] | Model | None = source if is_model else None
        self._sketch: Sketch | None = None
        self._projector: Mapping[str, int] | None = None
        self._known: dict[int, Mapping[str, int]] = {}

    def bytes_on(self, context: ContextOptions) -> Mapping[str, int]:
        """Return the bytes on each device beside a context. Raises the errors of loading a model and a projector."""
        found = self._known.get(context.n_ctx)
        if found is None:
            if self._projector is None:
                self._projector = projector_bytes(self._path, self._given, context)
            found = self._known[context.n_ctx] = _sum(self._projector, self._draft_bytes(context))
        return found

    def _draft_bytes(self, context: ContextOptions) -> Mapping[str, int]:
        draft = self._draft
        if draft is None:
            return {}
        if drafts_from_states(draft.path if isinstance(draft, Model) else draft):
            return {}  # it is small, and no context of its own can be planned
        if self._sketch is None:
            path: _Paths = draft.parts if isinstance(draft, Model) else draft
            options = draft.options if isinstance(draft, Model) else draft_options(self._given)
            if options.fits_layers:
                options = replace(options, n_gpu_layers="all")
            self._sketch = Sketch(path, options)
        try:
            use = self._sketch.measure(draft_context(context, context.n_ctx))
        except ContextError:
            return {}  # it cannot be opened, which then says why
        # The weights of a loaded model are not free memory already.
        return {one.name: one.total - (one.weights if isinstance(draft, Model) else 0) for one in use.devices}

    def close(self) -> None:
        """Free the sketch of the draft model. Idempotent."""
        sketch, self._sketch = self._sketch, None
        if sketch is not None:
            sketch.close()


def draft_options(given: Mapping[str, Any], used: MemoryBreakdown | None = None) -> ModelOptions:
    """Return how the draft model of a Llama is loaded: on the devices of its model, whose limits hold for both.

    ``used`` is what the model and its context take of them.
    """
    of_model: ModelOptions = given.get("model_options") or ModelOptions()
    limits = given.get("max_device_memory", of_model.max_device_memory)
    if limits is not None and used is not None:
        named = limits if isinstance(limits, Mapping) else dict.fromkeys((one.name for one in devices()), limits)
        limits = {name: max(0, limit - _total(used, name)) for name, limit in named.items()}
    return ModelOptions(
        n_gpu_layers=0 if of_model.n_gpu_layers == 0 else given.get("n_gpu_layers"),
        devices=of_model.devices,
        device_margin=of_model.device_margin,
        max_device_memory=limits,
    )


def _total(used: MemoryBreakdown, name: str) -> int:
    part = used.on(name)
    return part.total if part is not None else 0


def _sum(*parts: Mapping[str, int]) -> Mapping[str, int]:
    names = {name for part in parts for name in part}
    return {name: sum(part.get(name, 0) for part in parts) for name in names}


__all__ = ["BesideModel", "draft_options"]
