"""A Runtime whose model, context and engine are in another process."""

from __future__ import annotations

import os
import pickle
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

from llama_cffi._util.shown import shown
from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.media.projector import Projector
from llama_cffi.core.model import Model, ModelOptions
from llama_cffi.core.opening import local
from llama_cffi.core.prompt import Prompt
from llama_cffi.core.source import open_source
from llama_cffi.engine.draft_model import DraftHeads, DraftModel
from llama_cffi.engine.speaker import speechless
from llama_cffi.errors import UnsupportedError
from llama_cffi.isolation.engine import RemoteEngine
from llama_cffi.isolation.media import RemoteProjector
from llama_cffi.isolation.objects import IsolatedAdapter, IsolatedContext, IsolatedModel, LlamasDraft
from llama_cffi.isolation.speech import RemoteSpeaker
from llama_cffi.isolation.supervisor import Supervisor
from llama_cffi.model_load import check_model_path, naming_the_hub
from llama_cffi.prepare.model_formats import ModelFormats
from llama_cffi.prepare.prepared import Defaults

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llama_cffi.core.embeddings import PoolingType
    from llama_cffi.core.state import BytesLike

_Path = str | os.PathLike[str]
_Report = Callable[[float], object]


class IsolatedRuntime:
    """Has what callers use of a :class:`Runtime`. Any thread may use it.

    The vocabulary and the templates are in this process, too: texts are prepared and read here, and requests go to the
    other process, whose engine returns tokens and texts.
    """

    def __init__(self, model: Any, given: Mapping[str, Any], *, replay: bool) -> None:
        if isinstance(model, Model):
            raise UnsupportedError("isolate=True: a Model is in this process: give its path")
        model = local(model)
        source = open_source(model)
        target = model if source is None else source
        check_model_path(target)
        options = dict(given)
        self.overflow = options.get("overflow", "stop")
        self._model_sampling = bool(options.get("model_sampling", True))
        self.conditioning = PLAIN
        self.draft = None
        _check(options)
        options.pop("driver", None)
        progress, on_event = options.pop("progress", None), options.pop("on_event", None)
        chosen: ModelOptions = options.get("model_options") or ModelOptions()
        try:
            with naming_the_hub(target):
                vocabulary = Model(target, ModelOptions(vocab_only=True, devices=[], kv_overrides=chosen.kv_overrides))
        finally:
            if source is not None:
                source.close()  # the vocabulary has a part of its own
        passed: Any = os.path.abspath(target) if source is None else source.passed()
        descriptors = () if source is None else source.descriptors
        self._supervisor = supervisor = Supervisor(
            passed, options, replay=replay, on_event=on_event, descriptors=descriptors
        )
        self._vocabulary = vocabulary
        try:
            supervisor.open(progress)
        except BaseException:
            vocabulary.close()
            raise
        weakref.finalize(self, supervisor.close).atexit = False
        self._model = IsolatedModel(supervisor, vocabulary)
        self.model = cast("Model", self._model)
        self.context = IsolatedContext(supervisor)
        projector = supervisor.facts["projector"]
        self.projector = None if projector is None else RemoteProjector(supervisor, projector)
        self.formats = ModelFormats(self.model, cast("Projector | None", self.projector))
        self._engine = RemoteEngine(supervisor)
        self._draft = LlamasDraft() if supervisor.facts["drafts"] else None

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise UnsupportedError(f"isolate=True: what needs the {name} of a Runtime cannot be done from another process")

    def encode(self, media: object) -> NoReturn:
        """Raise :class:`UnsupportedError`: what was encoded stays in the other process."""
        _refuse_embeddings_of_media()

    @property
    def defaults(self) -> Defaults:
        """As :attr:`Runtime.defaults`."""
        author = self.formats.author_sampling if self._model_sampling else {}
        return Defaults(self.overflow, self.conditioning, self._draft, author)

    @property
    def generates(self) -> bool:
        """As :attr:`Runtime.generates`."""
        return bool(self._supervisor.facts["generates"])

    @property
    def engine(self) -> RemoteEngine:
        """As :attr:`Runtime.engine`."""
        self.check_open()
        if not self.generates:
            self._supervisor.call(("runtime",), ("engine",))  # raises why
        return self._engine

    @property
    def states(self) -> RemoteStates:
        """As :attr:`Runtime.states`."""
        self.check_open()
        return RemoteStates(self._supervisor)

    @property
    def embedders(self) -> RemoteEmbedders:
        """As :attr:`Runtime.embedders`."""
        self.check_open()
        return RemoteEmbedders(self._supervisor)

    @property
    def scoring(self) -> RemoteScoring:
        """As :attr:`Runtime.scoring`."""
        self.check_open()
        return RemoteScoring(self._supervisor)

    @property
    def speaker(self) -> RemoteSpeaker:
        """As :attr:`Runtime.speaker`."""
        self.check_open()
        projector = self.projector
        if projector is None or projector.speech is None:
            raise speechless(self._model.path.name, None if projector is None else projector.path.name)
        return RemoteSpeaker(self._supervisor, projector)

    @property
    def pid(self) -> int | None:
        """The process id of the other process; None while there is none."""
        return self._supervisor.pid

    def load_adapter(self, path: _Path) -> IsolatedAdapter:
        """As :meth:`Runtime.load_adapter`."""
        self.check_open()
        return IsolatedAdapter(self._supervisor, self._model, path)

    def condition(self, conditioning: Conditioning) -> None:
        """As :meth:`Runtime.condition`: every request names its own."""
        self.conditioning = conditioning

    def fork(self) -> NoReturn:
        """Raises :class:`UnsupportedError`."""
        self.check_open()
        raise UnsupportedError("isolate=True: a fork would need the weights in this process: open another Llama")

    @property
    def closed(self) -> bool:
        """As :attr:`Runtime.closed`."""
        return self._supervisor.closed

    def check_open(self) -> None:
        """As :meth:`Runtime.check_open`."""
        self._supervisor.check_open()

    def close(self) -> None:
        """End the other process; everything that runs ends with :class:`ClosedError`."""
        self._supervisor.close()
        self._supervisor.wait()
        self._vocabulary.close()


class RemoteStates:
    """As :class:`States`; files are read and written by the other process."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._supervisor.call(("runtime",), ("states",), (name, arguments, {}))

    def write(self, path: _Path, conditioning: Conditioning) -> None:
        """As :meth:`States.write`."""
        self._call("write", os.path.abspath(path), conditioning)

    def read(self, path: _Path, conditioning: Conditioning) -> int:
        """As :meth:`States.read`."""
        return int(self._call("read", os.path.abspath(path), conditioning))

    def to_bytes(self, conditioning: Conditioning) -> bytes:
        """As :meth:`States.to_bytes`."""
        return bytes(self._call("to_bytes", conditioning))

    def from_bytes(self, data: BytesLike, conditioning: Conditioning) -> int:
        """As :meth:`States.from_bytes`."""
        return int(self._call("from_bytes", pickle.PickleBuffer(cast("Any", data)), conditioning))

    def write_prompt(self, prompt: Prompt, path: _Path, conditioning: Conditioning) -> None:
        """As :meth:`States.write_prompt`."""
        self._call("write_prompt", prompt, os.path.abspath(path), conditioning)

    def read_prompt(self, path: _Path, conditioning: Conditioning, slot: int | None = None) -> Prompt:
        """As :meth:`States.read_prompt`."""
        return cast("Prompt", self._call("read_prompt", os.path.abspath(path), conditioning, slot))

    def write_slot(self, slot: int, path: _Path) -> int:
        """As :meth:`States.write_slot`."""
        return int(self._call("write_slot", slot, os.path.abspath(path)))

    def clear_slot(self, slot: int) -> int:
        """As :meth:`States.clear_slot`."""
        return int(self._call("clear_slot", slot))


class RemoteEmbedders:
    """As :class:`Embedders`."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def get(self, pooling: PoolingType) -> RemoteEmbedder:
        """As :meth:`Embedders.get`."""
        return RemoteEmbedder(self._supervisor, pooling)


class RemoteEmbedder:
    """As :class:`Embedder`."""

    def __init__(self, supervisor: Supervisor, pooling: PoolingType) -> None:
        self._call = partial(supervisor.call, ("runtime",), ("embedders",), ("get", (pooling,), {}))
        self.pooling = pooling
        self.limit = int(self._call(("limit",)))

    def run(
        self,
        texts: Sequence[NDArray[np.int32] | Prompt],
        *,
        conditioning: Conditioning = PLAIN,
        progress: _Report | None = None,
        encode: object = None,
    ) -> NDArray[np.float32]:
        """As :meth:`Embedder.run`, for texts; :class:`UnsupportedError` for images and sound."""
        if any(isinstance(one, Prompt) for one in texts):
            _refuse_embeddings_of_media()
        step = ("run", (texts,), {"conditioning": conditioning})
        return cast("NDArray[np.float32]", self._call(step, progress=progress))


class RemoteScoring:
    """As :class:`Scoring`."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def _call(self, name: str, *arguments: Any, progress: _Report | None) -> Any:
        return self._supervisor.call(("runtime",), ("scoring",), (name, arguments, {}), progress=progress)

    def chunks(
        self,
        chunks: Iterable[Any],
        n_chunks: int,
        size: int,
        conditioning: Conditioning,
        progress: _Report | None = None,
    ) -> Any:
        """As :meth:`Scoring.chunks`."""
        return self._call("chunks", list(chunks), n_chunks, size, conditioning, progress=progress)

    def continuations(self, texts: Sequence[Any], conditioning: Conditioning, progress: _Report | None = None) -> Any:
        """As :meth:`Scoring.continuations`."""
        return self._call("continuations", list(texts), conditioning, progress=progress)


def _check(options: Mapping[str, Any]) -> None:
    """Raise :class:`UnsupportedError` for options whose values cannot leave this process."""
    if isinstance(options.get("mmproj"), Projector):
        raise UnsupportedError("isolate=True: a Projector is in this process: give its path")
    draft = options.get("draft")
    if isinstance(draft, Model) or (isinstance(draft, (DraftModel, DraftHeads)) and isinstance(draft.model, Model)):
        raise UnsupportedError("isolate=True: a draft Model is in this process: give its path")
    for name, value in options.items():
        if name in ("progress", "on_event"):
            continue
        try:
            pickle.dumps(value)
        except Exception as error:
            raise UnsupportedError(f"isolate=True: {name}={shown(value)} cannot leave this process: {error}") from error


def _refuse_embeddings_of_media() -> NoReturn:
    """Raise :class:`UnsupportedError`."""
    raise UnsupportedError("isolate=True: images and sound are not embedded in another process; open the model here")


__all__ = ["IsolatedRuntime"]
