"""The class OpenModel: the lifetime of a model, its memory with states and slots, and what conditions its texts."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from llama_cffi import options as opt
from llama_cffi._util.closing import Closing
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi._util.scalars import is_int
from llama_cffi._util.shown import shown
from llama_cffi._util.signatures import takes_options
from llama_cffi.core.context import Context
from llama_cffi.core.model import Model
from llama_cffi.engine.sampling_params import SamplingParams
from llama_cffi.isolation import open_runtime
from llama_cffi.prepare.generation import as_prompt
from llama_cffi.reopening import portable, reference
from llama_cffi.runtime import demo_path
from llama_cffi.spec import any_prompt

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from llama_cffi.core.adapter import LoraAdapter
    from llama_cffi.core.context_threads import ThreadUse
    from llama_cffi.core.control_vector import ControlVector
    from llama_cffi.core.media.projector import Projector
    from llama_cffi.core.memory_breakdown import MemoryBreakdown
    from llama_cffi.core.model_paths import ModelGiven
    from llama_cffi.core.prompt import Prompt
    from llama_cffi.core.state import BytesLike
    from llama_cffi.engine.snapshot import SlotSnapshot


class OpenModel(Closing, ProcessBound):
    """A model with a context: opened and closed, its memory saved, loaded and forked, its adapters set.

    The base of :class:`~llama_cffi.Llama`, which adds the calls that compute.
    """

    _instead_of_copying = "use fork(), which gives a second one over the same weights"

    @takes_options(opt.LlamaOptions)
    def __init__(self, model: ModelGiven | Model, **options: Unpack[opt.LlamaOptions]) -> None:
        given = opt.check_options(opt.LlamaOptions, options)
        self._given, self._shares_model = portable(given), isinstance(model, Model)
        self._runtime = open_runtime(model, given)

    def __reduce__(self) -> tuple[Any, ...]:  # type: ignore[override]
        return reference(type(self), self._runtime, self._given, shared=self._shares_model)

    @classmethod
    @takes_options(opt.LlamaOptions)
    def demo(cls, **options: Unpack[opt.LlamaOptions]) -> Self:
        """Open the model that ships with the package, a tiny model that writes children's stories."""
        return cls(demo_path(), **options)

    @classmethod
    @takes_options(opt.HubOptions)
    def from_hub(cls, name: str, **options: Unpack[opt.HubOptions]) -> Self:
        """Download a model from the Hugging Face hub, unless the cache has it, and open it.

        ``name`` is ``owner/repo``, ``owner/repo:Q4_K_M`` or ``owner/repo/path/file.gguf``; ``mmproj="auto"`` downloads
        the projector of its repository too. Raises the subclasses of :class:`HubError`, :class:`UnsupportedError` if
        huggingface_hub is not installed, and the errors of the constructor.
        """
        from llama_cffi.hub import pull, pull_projector

        given = opt.check_options(opt.HubOptions, options)
        wanted: dict[str, Any] = {key: given.pop(key) for key in ("revision", "offline") if key in given}
        wanted["progress"] = given.pop("download_progress", None)
        if given.get("mmproj") == "auto":
            given["mmproj"] = pull_projector(name, **wanted)
        return cls(pull(name, **wanted), **given)

    # -- states; these methods need an idle model, and check a state completely before they replace anything

    def save_state(self, path: str | PathLike[str]) -> None:
        """Write all texts in memory to a file; an existing file is replaced atomically.

        After :meth:`load_state`, also in another process, the common beginning of a prompt and one of these texts is
        not computed again. Raises :class:`BusyError` while a request waits or runs, and :class:`StateWriteError`.
        """
        self._runtime.states.write(path, self._runtime.conditioning)

    def load_state(self, path: str | PathLike[str]) -> int:
        """Replace the memory with a file of :meth:`save_state`, and return the number of tokens in it.

        Raises :class:`BusyError`, :class:`StateFormatError` for a damaged file, and :class:`StateMismatchError` for a
        state of another model, llama.cpp, KV type or conditioning, or one that does not fit the context.
        """
        return self._runtime.states.read(path, self._runtime.conditioning)

    def state_bytes(self) -> bytes:
        """Return the bytes that :meth:`save_state` writes; raises :class:`BusyError` while a request waits or runs."""
        return self._runtime.states.to_bytes(self._runtime.conditioning)

    def load_state_bytes(self, data: BytesLike) -> int:
        """Replace the memory with the bytes of :meth:`state_bytes`; see :meth:`load_state`."""
        return self._runtime.states.from_bytes(data, self._runtime.conditioning)

    def load_prompt(self, path: str | PathLike[str]) -> Prompt:
        """Load a file of :meth:`Llama.save_prompt` into memory, keep the other texts, and return its prompt.

        When every slot is taken, it replaces the least recently used text, and more of them when there is no room.
        """
        return self._runtime.states.read_prompt(path, self._runtime.conditioning)

    # -- slots: each holds one text, and is saved and restored while others compute

    def slots(self) -> tuple[SlotSnapshot, ...]:
        """Return the current contents and request of each slot, without waiting for a decode."""
        return self._runtime.engine.slots()

    def save_slot(self, slot: int, path: str | PathLike[str]) -> int:
        """Write the contents of an idle slot to a file, and return the number of tokens.

        Raises :class:`BusyError` for a slot in use, :class:`PromptError` for an empty slot, ``ValueError`` for a slot
        that does not exist, and :class:`StateWriteError`.
        """
        self._check_slot(slot)
        return self._runtime.states.write_slot(slot, path)

    def load_slot(self, slot: int, path: str | PathLike[str]) -> Prompt:
        """Load a file of :meth:`save_slot`, or of :meth:`Llama.save_prompt`, into an idle slot, and return its prompt.

        When there is no room, other idle slots are emptied. Raises :class:`BusyError` for a slot in use, the errors of
        :meth:`load_state`, and :class:`MemoryFullError` without room. After an error the slot holds what it held, if
        that still fits without sharing cells with others.
        """
        self._check_slot(slot)
        return self._runtime.states.read_prompt(path, self._runtime.conditioning, slot)

    def clear_slot(self, slot: int) -> int:
        """Empty an idle slot, and return the number of tokens that it held; :class:`BusyError` for a slot in use."""
        self._check_slot(slot)
        return self._runtime.states.clear_slot(slot)

    def _check_slot(self, slot: int) -> None:
        if not is_int(slot, 0, self.context.n_seq_max - 1):
            raise ValueError(f"slot must be 0 to {self.context.n_seq_max - 1}, got {shown(slot)}")

    # -- conditioning

    def load_adapter(self, path: str | PathLike[str]) -> LoraAdapter:
        """Load a LoRA adapter from a GGUF file; it has no effect until a request or :meth:`set_adapters` uses it.

        Raises the errors of :class:`LoraAdapter`. The adapter is closed with the model, or by its own ``close()``.
        """
        return self._runtime.load_adapter(path)

    @property
    def adapters(self) -> dict[LoraAdapter, float]:
        """The adapters of requests that do not specify their own, with their scales."""
        return dict(self._runtime.conditioning.adapters)

    def set_adapters(self, adapters: Mapping[LoraAdapter, float]) -> None:
        """Set the adapters of embeddings and of later requests that do not specify their own; ``{}`` removes all.

        Requests with different adapters are computed in turns, and reuse only what the same adapters have computed.
        Running requests keep their adapters. Raises :class:`AdapterError` for an adapter of another model and
        ``ValueError`` for a scale that is not a finite number.
        """
        self._runtime.check_open()
        self._runtime.condition(self._runtime.conditioning.with_adapters(adapters, self.model))

    def set_control_vector(self, vector: ControlVector | None, *, layers: range | None = None) -> None:
        """Add a control vector to the output of the layers, for later requests and embeddings; None removes it.

        ``layers`` are the layers to add it to; by default all from 1 on. Running requests keep their control vector,
        and a request reuses only what the same control vector has computed. Raises the errors of
        :meth:`Context.set_control_vector`.
        """
        self._runtime.condition(self._runtime.conditioning.with_control_vector(vector, layers, self.model))

    # -- lifetime

    @property
    def model(self) -> Model:
        """The weights and the vocabulary. With ``isolate=True``, only their values can be read."""
        return self._runtime.model

    @property
    def projector(self) -> Projector | None:
        """What takes images and sound for the model; None if it was opened without ``mmproj``."""
        return self._runtime.projector

    @property
    def n_ctx(self) -> int:
        """The maximum number of tokens of one text, its prompt included. All texts share ``context.n_ctx`` cells."""
        return self.context.n_ctx_seq

    @property
    def default_sampling(self) -> SamplingParams:
        """The sampling parameters of a call that gives none: the author's where the model's file has some, else
        llama.cpp's."""
        return SamplingParams(**self._runtime.defaults.sampling)

    @property
    def memory(self) -> MemoryBreakdown:
        """The bytes of the weights, of the context's memory and for computing, on each device.

        Draft models and the contexts that embed or score are not counted. Raises :class:`UnsupportedError` when the
        library does not tell.
        """
        return self.context.memory_breakdown()

    @property
    def threads(self) -> ThreadUse:
        """The threads that compute now, with the reason for their number. They are fewer for a while when other work
        keeps CPUs busy; see ``docs/threads.md``."""
        return self.context.threads

    @property
    def context(self) -> Context:
        """The context that the engine generates with. Changing it directly changes the generated texts.

        With ``isolate=True``, only its values can be read.
        """
        return self._runtime.context

    def fork(self) -> Self:
        """Return a second ``Llama`` over the same weights, whose memory begins as a copy of this one's.

        It has a context with the same options, the adapters, the control vector and the prompt cache that are set now,
        and all texts in memory. Afterward the two are independent, and both may compute at the same time, on different
        threads. A draft model gets a second context too; a draft source that the caller wrote is shared. A model that
        this object loaded is closed with the last of them. ``__init__`` is not called; attributes that a subclass has
        set are shared.

        Raises :class:`BusyError` while a request waits or runs, :class:`ContextError` when there is no room for another
        context, and :class:`ClosedError`. Wraps ``llama_state_get_data`` and ``llama_state_set_data``.
        """
        twin = object.__new__(type(self))
        vars(twin).update(vars(self), _runtime=self._runtime.fork())
        return twin

    def make_prompt(self, prompt: Any) -> Prompt:
        """Return the tokens of a prompt and the cells of its images and sounds.

        Raises the errors of :meth:`Llama.generate` for prompts and media.
        """
        return as_prompt(any_prompt(prompt), self._runtime.formats)

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._runtime.closed

    def close(self) -> None:
        """Free the contexts, and the models that this object loaded unless a fork is open. May be called repeatedly."""
        self._runtime.close()

    def __repr__(self) -> str:
        name = f"{type(self).__name__} {self.model.name!r}"
        if self.closed:
            return f"<{name}: closed>"
        context = self.context
        return f"<{name} n_ctx={self.n_ctx} n_cells={context.n_ctx} n_seq_max={context.n_seq_max}>"


__all__ = ["OpenModel"]
