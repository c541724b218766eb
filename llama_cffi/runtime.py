"""The native objects of a Llama: model, context, engine, and side contexts, opened and closed together."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cffi._util.fork import made_elsewhere
from llama_cffi.core.adapter import LoraAdapter
from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.context import Context, ContextOptions
from llama_cffi.core.memory_breakdown import can_measure
from llama_cffi.core.model import Model
from llama_cffi.core.opening import local, opened
from llama_cffi.core.shared_model import ModelShare
from llama_cffi.engine.beside import draft_options
from llama_cffi.engine.context_choice import DEFAULT_N_CTX, choose_context, fewer_cells
from llama_cffi.engine.draft_source import OpenDraft
from llama_cffi.engine.embedder import Embedders
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.engine_options import EngineOptions
from llama_cffi.engine.host_cache import usual_bytes
from llama_cffi.engine.open_media import OpenMedia, open_media
from llama_cffi.engine.request import Overflow
from llama_cffi.engine.runner import ContextRunner
from llama_cffi.engine.saved_states import States
from llama_cffi.engine.scoring import Scoring
from llama_cffi.engine.speaker import Speaker, speechless
from llama_cffi.errors import (
    ClosedError,
    ContextError,
    ModelFileError,
    UnsupportedError,
)
from llama_cffi.model_load import load_fitted, load_model
from llama_cffi.prepare.model_formats import ModelFormats
from llama_cffi.prepare.prepared import Defaults

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llama_cffi.core.media.projector import Projector
    from llama_cffi.core.prompt import Media
    from llama_cffi.engine.prompt_cache import PromptCache
    from llama_cffi.engine.slots import Slot

_ENGINE_FIELDS = (
    "driver",
    "host_bytes",
    "max_waiting",
    "max_waiting_seconds",
    "max_waiting_tokens",
    "max_step_seconds",
    "on_event",
    "reproducible",
)


class Runtime:
    """A model with the contexts that compute with it. Any thread may use it.

    ``conditioning`` is what requests compute under that do not name their own.
    """

    def __init__(
        self,
        model: Model,
        share: ModelShare | None,
        formats: ModelFormats,
        options: ContextOptions,
        overflow: Overflow,
        prompt_cache: PromptCache | None,
        engine_options: EngineOptions,
        conditioning: Conditioning = PLAIN,
        media: OpenMedia | None = None,
    ) -> None:
        self.model = model
        self.formats = formats
        self.overflow = overflow
        self.conditioning = conditioning
        self._share = share
        self._media = media
        self._prompt_cache = prompt_cache
        self.draft: OpenDraft | None = None
        self.model_sampling = True
        """Whether the author's sampling parameters are the defaults of calls."""
        self.context = Context(model, options)
        if media is not None:
            media.compute_beside(self.context)
        # An encoder alone generates nothing, but it embeds.
        self._engine: Engine | None = None
        if self.context.has_memory and model.has_decoder:
            encoder = media.encoder if media is not None else None
            self._engine = engine = Engine(ContextRunner(self.context, prompt_cache, encoder), engine_options)
            # The engine's thread keeps the engine alive, and it is not to outlive this object for nothing. Nothing else
            # is to be kept alive by that.
            weakref.finalize(self, _retire, weakref.ref(engine)).atexit = False
        self._engine_options = engine_options
        self._embedders = Embedders(self.context)
        self._scoring = Scoring(self.context)
        speaks = media is not None and media.projector.speech is not None
        self._speaker = Speaker(self.context, media.projector) if media is not None and speaks else None
        self._process = os.getpid()

    @classmethod
    def open(cls, model: Any, given: Mapping[str, Any]) -> Runtime:
        """Load a model, unless it is one, and make what belongs to it; ``given`` are the options of a Llama."""
        with opened(local(model)) as found:
            return cls._open(found, given)

    @classmethod
    def _open(cls, model: str | os.PathLike[str] | Model, given: Mapping[str, Any]) -> Runtime:
        overflow = given.get("overflow", "stop")
        chosen = {"host_bytes": usual_bytes()} | {name: given[name] for name in _ENGINE_FIELDS if name in given}
        engine_options = EngineOptions(**chosen)
        loaded, share, fitting = load_model(model, given)
        media: OpenMedia | None = None
        try:
            while True:
                options = fitting.context if fitting is not None else None
                options = options if options is not None else choose_context(loaded, given)
                if media is None:
                    media = open_media(loaded, given, options)
                projector = media.projector if media is not None else None
                rest = overflow, given.get("prompt_cache"), engine_options, PLAIN, media
                try:
                    runtime = cls(loaded, share, ModelFormats(loaded, projector), options, *rest)
                    break
                except ContextError as error:
                    fewer = fewer_cells(options, given) if fitting is None else None
                    if fewer is not None:
                        # The number of cells was a guess: one text at a time is what was asked for.
                        given = {**given, "n_cells": fewer.n_ctx}
                    elif fitting is None or not fitting.lessen(error):
                        raise
                if share is not None and fitting is not None:
                    if media is not None:
                        media.close()
                        media = None
                    share.close()
                    loaded, share = load_fitted(model, fitting, given)
            runtime.model_sampling = given.get("model_sampling", True)
            draft = given.get("draft")
            if draft is not None:
                # What the model has not taken of the limits is left for the draft model.
                used = runtime.context.memory_breakdown() if can_measure() else None
                runtime.draft = OpenDraft(draft, runtime.context, draft_options(given, used))
        except BaseException:
            for part in (media, share):
                if part is not None:
                    part.close()
            raise
        return runtime

    @property
    def projector(self) -> Projector | None:
        """The projector of the model, with which it takes images or sound."""
        return self._media.projector if self._media is not None else None

    def encode(self, media: Media) -> NDArray[np.float32]:
        """Return the embeddings of a medium, float32 of shape ``(n_cells, n_embd)``, once they are computed.

        Raises the errors of the projector, and :class:`ClosedError`.
        """
        if self._media is None:
            raise UnsupportedError("this model takes no media: it has no projector; give one with mmproj=")
        encoder = self._media.encoder
        encoding = encoder.request(media)
        while not encoding.done:
            encoder.rest([encoding], 0.1)
        return encoding.result()

    @property
    def defaults(self) -> Defaults:
        """The defaults of calls."""
        drafts = self.draft.source if self.draft is not None else None
        author = self.formats.author_sampling if self.model_sampling else {}
        return Defaults(self.overflow, self.conditioning, drafts, author)

    @property
    def generates(self) -> bool:
        """Whether there is an engine."""
        return self._engine is not None

    @property
    def engine(self) -> Engine:
        """The engine; :class:`UnsupportedError` for a model that generates no text, and :class:`ClosedError`."""
        self.check_open()
        if self._engine is None:
            raise UnsupportedError(f"{self.model.name} is an encoder: it generates no text, but embed() works")
        return self._engine

    @property
    def states(self) -> States:
        """The saved states of the engine; raises the errors of :attr:`engine`, and :class:`UnsupportedError` for an
        encoder-decoder model, whose memory is of no use without what its encoder has read.
        """
        if self.model.has_encoder and self.generates:
            raise UnsupportedError(f"{self.model.name} has an encoder, whose results llama.cpp does not save")
        return States(self.engine, self.context)

    def load_adapter(self, path: str | os.PathLike[str]) -> LoraAdapter:
        """Load an adapter for requests; raises its errors and those of :meth:`check_open`."""
        self.check_open()
        return LoraAdapter(self.model, path)

    @property
    def embedders(self) -> Embedders:
        """The embedders, which also rank; raises the errors of :meth:`check_open`."""
        self.check_open()
        return self._embedders

    @property
    def scoring(self) -> Scoring:
        """The scorer; raises the errors of :meth:`check_open`."""
        self.check_open()
        return self._scoring

    @property
    def speaker(self) -> Speaker:
        """What reads texts aloud; :class:`UnsupportedError` for a model that does not, and :class:`ClosedError`."""
        self.check_open()
        if self._speaker is None:
            projector = self.projector
            raise speechless(self.model.path.name, None if projector is None else projector.path.name)
        return self._speaker

    def condition(self, conditioning: Conditioning) -> None:
        """Compute under another conditioning, where requests do not name their own; running ones keep theirs."""
        self.conditioning = conditioning
        if self._engine is not None:
            self._engine.use(conditioning)

    def fork(self) -> Runtime:
        """Return a second runtime over the same weights, whose memory begins as a copy of this one's."""
        self.check_open()
        if self._engine is None:
            return self._twin(())
        with self._engine.at_rest() as slots:
            return self._twin(slots)

    def _twin(self, slots: Sequence[Slot]) -> Runtime:
        context = self.context
        # First of all: the model stays open when this runtime is closed meanwhile.
        share = self._share.share() if self._share is not None else None
        media = self._media.share() if self._media is not None else None
        try:
            n_threads, n_threads_batch = context.threads_asked
            options = replace(context.options, n_threads=n_threads, n_threads_batch=n_threads_batch)
            twin = Runtime(
                self.model,
                share,
                self.formats,
                options,
                self.overflow,
                self._prompt_cache,
                self._engine_options,
                self.conditioning,
                media,
            )
        except BaseException:
            for part in (media, share):
                if part is not None:
                    part.close()
            raise
        try:
            twin.model_sampling = self.model_sampling
            if self.draft is not None:
                twin.draft = self.draft.fork(twin.context)
            if twin._engine is not None and any(slot.held for slot in slots):
                twin.context.state.set_data(context.state.data())
                twin._engine.inherit(slots)
        except BaseException:
            twin.close()
            raise
        return twin

    # -- lifetime

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self.context.closed

    def check_open(self) -> None:
        """Raise :class:`ClosedError` when it is closed, and :class:`ContextError` in a forked child process."""
        if self.context.closed:
            raise ClosedError("this Llama is closed")
        if self._process != os.getpid():
            raise made_elsewhere("Llama")

    def close(self) -> None:
        """Free the contexts, and the models that were loaded for this runtime and its forks, with the last of them."""
        with self._engine.closing() if self._engine is not None else nullcontext():
            self.context.close()
        self._embedders.close()
        self._scoring.close()
        if self._speaker is not None:
            self._speaker.close()
        if self.draft is not None:
            self.draft.close()
        for part in (self._media, self._share):
            if part is not None:
                part.close()


def _retire(engine: weakref.ref[Engine]) -> None:
    found = engine()
    if found is not None:
        found.retire()


def demo_path() -> str:
    """Return the path of the model that ships with the package."""
    path = Path(__file__).parent / "models" / "demo.gguf"
    if not path.is_file():
        raise ModelFileError("this installation of llama_cffi lacks its demo model")
    return str(path)


__all__ = ["DEFAULT_N_CTX", "Runtime", "demo_path"]
