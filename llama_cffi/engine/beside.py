"""What a Llama opens beside its model and context, and the memory that this takes: a draft model or heads, a projector,
and a context that speaks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_cffi.core.backend import devices
from llama_cffi.core.context_options import ContextOptions
from llama_cffi.core.draft_layers import HeadKind
from llama_cffi.core.hidden_states import check_headed, check_layers, target_layers
from llama_cffi.core.layer_search import with_layers
from llama_cffi.core.memory_breakdown import MemoryBreakdown
from llama_cffi.core.model import Model, ModelOptions
from llama_cffi.core.opening import local
from llama_cffi.core.sketch import Sketch
from llama_cffi.engine.draft_model import DraftHeads, DraftModel, draft_context
from llama_cffi.engine.draft_source import NAMED_SOURCES, drafts_by_heads, heads_in
from llama_cffi.engine.open_media import projector_bytes, projector_speaks
from llama_cffi.engine.speaker import speech_context
from llama_cffi.errors import ContextError, UnsupportedError

_Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
_DraftModel = str | os.PathLike[str] | Model


class BesideModel:
    """Measures what the options of a Llama open beside the model of a file, as a fit asks for it.

    ``options`` are those of loading the model. Not for two threads at once.
    """

    def __init__(self, path: _Paths, given: Mapping[str, Any], options: ModelOptions | None = None) -> None:
        self._paths = path
        self._path = Path(path if isinstance(path, (str, os.PathLike)) else path[0])
        self._given = given
        self._options = options if options is not None else ModelOptions()
        draft = given.get("draft")
        source = draft.model if isinstance(draft, (DraftModel, DraftHeads)) else draft
        # A name of a source, such as "lookup", is not the path of a model.
        named = isinstance(source, str) and source in NAMED_SOURCES
        source = source if named else local(source)
        is_model = isinstance(source, (str, os.PathLike, Model)) and not named
        self._draft: _DraftModel | None = source if is_model else None
        self._sketches: dict[str, Sketch] = {}
        self._projector: Mapping[str, int] | None = None
        self._known: dict[int, Mapping[str, int]] = {}

    def bytes_on(self, context: ContextOptions) -> Mapping[str, int]:
        """Return the bytes on each device beside a context. Raises the errors of loading a model and a projector."""
        found = self._known.get(context.n_ctx)
        if found is None:
            if self._projector is None:
                use_gpu = self._options.n_gpu_layers != 0
                self._projector = projector_bytes(self._path, self._given, context, use_gpu=use_gpu)
            parts = self._projector, self._draft_bytes(context), self._speech_bytes(context)
            found = self._known[context.n_ctx] = _sum(*parts)
        return found

    def _speech_bytes(self, context: ContextOptions) -> Mapping[str, int]:
        """Those of the context that speaks."""
        if not projector_speaks(self._path, self._given):
            return {}
        sketch = self._sketch("target", self._paths, self._options)
        try:
            n_ctx = context.n_ctx_seq or sketch.cells(context)[1]
            use = sketch.measure(speech_context(context, n_ctx=n_ctx, n_ubatch=min(context.n_ubatch, context.n_batch)))
        except ContextError:
            return {}  # it cannot be opened, which then says why
        return {one.name: one.total - one.weights for one in use.devices}

    def _draft_bytes(self, context: ContextOptions) -> Mapping[str, int]:
        draft, given = self._draft, self._given.get("draft")
        kind: HeadKind | None = "mtp" if isinstance(given, DraftHeads) or drafts_by_heads(given) else None
        if draft is not None:
            kind = heads_in(draft.path if isinstance(draft, Model) else draft) or kind
        try:
            if kind is not None:
                use = self._heads_use(kind, draft, context)
            elif draft is not None:
                sketch = self._sketch_of_draft(draft)
                use = sketch.measure(draft_context(context, sketch.cells(context)[0]))
            else:
                return {}
        except (ContextError, UnsupportedError):
            return {}  # it cannot be opened, which then says why
        # The weights of a loaded model are not free memory already, and those of the model's own heads are its own.
        is_counted = draft is None or isinstance(draft, Model)
        return {one.name: one.total - (one.weights if is_counted else 0) for one in use.devices}

    def _heads_use(self, kind: HeadKind, draft: _DraftModel | None, context: ContextOptions) -> MemoryBreakdown:
        target = self._sketch("target", self._paths, self._options)
        heads = target if draft is None else self._sketch_of_draft(draft, load_mtp=True)
        if kind == "mtp":
            check_headed(target, heads)
        else:
            check_layers(target, target_layers(heads))
        return heads.measure_heads(kind, target, context)

    def _sketch_of_draft(self, draft: _DraftModel, **changes: Any) -> Sketch:
        if isinstance(draft, Model):
            return self._sketch("draft", draft.parts, draft.options)
        return self._sketch("draft", draft, replace(draft_options(self._given), **changes))

    def _sketch(self, name: str, path: _Paths, options: ModelOptions) -> Sketch:
        if name not in self._sketches:
            self._sketches[name] = Sketch(path, with_layers(options, "all"))
        return self._sketches[name]

    def close(self) -> None:
        """Free the sketches. Idempotent."""
        while self._sketches:
            self._sketches.popitem()[1].close()


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
