"""A context: memory, compute buffers and threads for one stream of decodes over a Model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from llama_cffi._native import binding, ffi, guard, lib, log, shutdown
from llama_cffi._native.abort import AbortFlag
from llama_cffi._native.atomic import Cell
from llama_cffi._native.gate import ExclusiveGate
from llama_cffi._native.handle import Handle
from llama_cffi._native.step import SHUT, STATUS, Step
from llama_cffi._util.ranges import FLT_MAX
from llama_cffi._util.scalars import INT_MAX, as_float, as_int
from llama_cffi.core.adapter import AdapterSet, Attached, LoraAdapter, adapter_set
from llama_cffi.core.batch import Batch
from llama_cffi.core.control_vector import ControlVector, apply_control_vector
from llama_cffi.core.embeddings import Attention, EmbeddingOutputs, PoolingType, set_embedding_params
from llama_cffi.core.memory import Memory
from llama_cffi.core.native_object import NativeObject
from llama_cffi.core.options import choice, constant
from llama_cffi.core.state import State
from llama_cffi.core.threads import free_pool, make_pool, thread_count
from llama_cffi.core.views import OutputView, copied
from llama_cffi.errors import (
    AbortedError,
    BatchError,
    ContextError,
    DecodeError,
    MemoryFullError,
    NativeError,
    TokenError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.model import Model
    from llama_cffi.core.selection import TokenSelector

Stepper = Callable[[int, int, int], int]

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
FlashAttention = Literal["auto", "disabled", "enabled"]

_CACHE_TYPES: dict[str, str] = {
    "f32": "GGML_TYPE_F32",
    "f16": "GGML_TYPE_F16",
    "bf16": "GGML_TYPE_BF16",
    "q8_0": "GGML_TYPE_Q8_0",
    "q4_0": "GGML_TYPE_Q4_0",
    "q4_1": "GGML_TYPE_Q4_1",
    "iq4_nl": "GGML_TYPE_IQ4_NL",
    "q5_0": "GGML_TYPE_Q5_0",
    "q5_1": "GGML_TYPE_Q5_1",
}
_FLASH: dict[str, str] = {
    "auto": "LLAMA_FLASH_ATTN_TYPE_AUTO",
    "disabled": "LLAMA_FLASH_ATTN_TYPE_DISABLED",
    "enabled": "LLAMA_FLASH_ATTN_TYPE_ENABLED",
}
_ROPE_SCALING: dict[str, str] = {
    "none": "LLAMA_ROPE_SCALING_TYPE_NONE",
    "linear": "LLAMA_ROPE_SCALING_TYPE_LINEAR",
    "yarn": "LLAMA_ROPE_SCALING_TYPE_YARN",
    "longrope": "LLAMA_ROPE_SCALING_TYPE_LONGROPE",
}


@dataclass(frozen=True, kw_only=True)
class ContextOptions:
    """How a context is made (``llama_context_params``); ``None`` leaves the model's or llama.cpp's value."""

    n_ctx: int = 4096
    """Cells of memory, in tokens, over all sequences; 0 takes the model's training length."""
    n_batch: int = 2048
    """Most tokens of one decode."""
    n_ubatch: int = 512
    """Most tokens computed at once; the unit in which an abort takes effect between layers."""
    n_seq_max: int = 1
    """Number of sequences: ids 0 to n_seq_max - 1."""
    n_threads: int | None = None
    """Threads for single tokens; None is :func:`~llama_cffi.core.threads.default_thread_count`."""
    n_threads_batch: int | None = None
    """Threads for prompts; None is the same as ``n_threads``."""
    type_k: CacheType = "f16"
    """Data type of the K cache."""
    type_v: CacheType = "f16"
    """Data type of the V cache; a quantised one needs flash attention."""
    flash_attn: FlashAttention = "auto"
    """Whether attention is computed in one fused kernel."""
    kv_unified: bool = True
    """One memory for all sequences, so that they can share prefixes; off: an equal part for each."""
    swa_full: bool = True
    """Keep all positions of sliding-window layers, so that prefixes can be cut and shared."""
    offload_kqv: bool = True
    """Keep the memory on the GPU with the layers."""
    op_offload: bool = True
    """Compute large host operations on the GPU."""
    rope_scaling: Literal["none", "linear", "yarn", "longrope"] | None = None
    """RoPE scaling; None is the model's."""
    rope_freq_base: float | None = None
    """RoPE base frequency; None is the model's."""
    rope_freq_scale: float | None = None
    """RoPE frequency scale; None is the model's."""
    embeddings: bool = False
    """Leave embeddings as well as logits; every token of a batch is an output row then."""
    pooling: PoolingType | None = None
    """How the embeddings of a sequence become one: "none" for one each token, "mean", "cls" (the first token's),
    "last", or "rank" (the scores of the classifier head). None is the model's."""
    attention: Attention | None = None
    """Whether a token sees only those before it; None is the model's."""
    no_perf: bool = True
    """Do not measure timings inside llama.cpp."""


@dataclass(frozen=True)
class ContextPerf:
    """Timings that llama.cpp measured (``llama_perf_context_data``), times in milliseconds."""

    load_ms: float
    prefill_ms: float
    decode_ms: float
    n_prefill: int
    n_decode: int
    n_reused: int


class Context(NativeObject, EmbeddingOutputs):
    """Decodes batches over a :class:`~llama_cffi.core.model.Model` and remembers their sequences.

    One thread at a time: a second one inside any method gets :class:`BusyError`; :meth:`abort` is the exception.
    With ``threads_of`` it computes with the threads of another context, which closes it: threads of two contexts that
    take turns would wait busily for each other. The caller holds the other one's :meth:`lock` around every decode.
    Raises :class:`ContextError` with llama.cpp's reasons when the context cannot be made.
    Wraps ``llama_init_from_model``.
    """

    _instead_of_pickling = "open the model and a Context in each process; SavedState carries what one remembers"
    _instead_of_copying = "make another Context(model, options); SavedState carries what one remembers"

    _resources: _Resources

    def __init__(
        self, model: Model, options: ContextOptions | None = None, *, threads_of: Context | None = None
    ) -> None:
        # Looked at by what a Model has, not by its class: this module comes before that of Model.
        if not hasattr(model, "vocab"):
            raise TypeError(f"model must be a Model, got {model!r}")
        if not isinstance(options, (ContextOptions, NoneType)):
            raise TypeError(f"options must be ContextOptions or None, got {options!r}")
        self.model = model
        self.options = options = options if options is not None else ContextOptions()
        if model.options.vocab_only:
            raise ContextError(f"{model.path} was loaded with vocab_only: it has no weights to compute with")
        self._abort = AbortFlag()
        params = self._native_params(options)
        n_threads, n_threads_batch = params.n_threads, params.n_threads_batch
        self._gate = gate = ExclusiveGate("Context", self._abort.set)
        resources = _Resources(gate, threads_of._resources if threads_of is not None else None)
        parents = (model.handle,) if threads_of is None else (model.handle, threads_of.handle)
        with model.gate, gate:
            # One owner for the context, its thread pools and its abort flag: they go together, in this order.
            self._handle = handle = Handle("Context", resources.free, parents, gate)
            mark = log.mark()
            try:
                ptr = guard.init_from_model(model.ptr, params, handle.cell)
                log.pump()
                if ptr == ffi.NULL:
                    raise ContextError("cannot make a context", log=log.lines_since(mark))
                resources.attach_pools(ptr, n_threads, n_threads_batch)
                self.n_ctx: int = lib.llama_n_ctx(ptr)
                self.n_ctx_seq: int = _n_ctx_seq(ptr, options)
                self.n_batch: int = lib.llama_n_batch(ptr)
                self.n_ubatch: int = lib.llama_n_ubatch(ptr)
                self.n_seq_max: int = lib.llama_n_seq_max(ptr)
                self._has_memory = lib.llama_get_memory(ptr) != ffi.NULL
                self._decodes = self._has_memory and model.has_decoder
                self._init_embeddings(ptr)
                handle.open(ptr)
            except BaseException as error:
                handle.release()
                if isinstance(error, NativeError):
                    raise ContextError(f"cannot make a context: {error.message}", log=error.log) from error
                raise
        self._resources = resources
        self._door = gate.native
        self._broken: str | None = None
        self._adapters: AdapterSet = ()
        self.has_control_vector = False
        """Whether :meth:`set_control_vector` has set one."""
        self._last_batch = (0, 0)
        self.n_vocab: int = model.vocab.n_tokens
        #: By sequence, whether what State.seq_data left on the device is partial, and the bytes that stand for it.
        self.on_device: dict[int, tuple[bool, bytes]] = {}
        self._single = Batch(1)
        self._single.single(0, 0, 0)
        self._step = Step(ptr, self._single.ptr, self._abort, gate, self.n_vocab)
        self.n_threads: int = n_threads
        self.n_threads_batch: int = n_threads_batch

    def _native_params(self, options: ContextOptions) -> Any:
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = _sizes(options)
        params.n_threads = thread_count("n_threads", options.n_threads, None)
        params.n_threads_batch = thread_count("n_threads_batch", options.n_threads_batch, params.n_threads)
        params.type_k = constant("type_k", options.type_k, _CACHE_TYPES)
        params.type_v = constant("type_v", options.type_v, _CACHE_TYPES)
        _set_flash_attn(params, options.flash_attn)
        if options.rope_scaling is not None:
            params.rope_scaling_type = constant("rope_scaling", options.rope_scaling, _ROPE_SCALING)
        for name in ("rope_freq_base", "rope_freq_scale"):
            frequency = getattr(options, name)
            if frequency is not None:
                number = as_float(frequency)
                if number is None or not 0 < number <= FLT_MAX:
                    raise ValueError(f"{name} must be positive, got {frequency!r}")
                setattr(params, name, number)
        params.kv_unified, params.swa_full = options.kv_unified, options.swa_full
        params.offload_kqv, params.op_offload = options.offload_kqv, options.op_offload
        set_embedding_params(params, options, self.model)
        params.no_perf = options.no_perf
        params.abort_callback = ffi.cast("ggml_abort_callback", self._abort.callback)
        params.abort_callback_data = self._abort.data
        return params

    # -- lifetime

    def close(self) -> None:
        """Stop a decode that runs on another thread, then free the context. Idempotent."""
        self._handle.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<Context: closed>"
        return f"<Context n_ctx={self.n_ctx} n_seq_max={self.n_seq_max} n_threads={self.n_threads}>"

    def lock(self) -> AbstractContextManager[None]:
        """``with context.lock():`` holds the context for several calls on this thread.

        Raises :class:`BusyError` when another thread has it.
        """
        return self._gate.inside()

    @contextmanager
    def using(self, *, rewrites: bool = False) -> Iterator[Any]:
        """Hold the context for native calls that could damage it; yields its pointer.

        Raises as :meth:`lock`, and :class:`ContextError` when an earlier failure left it unusable. With ``rewrites``
        the calls write its results too: views of them become stale.
        """
        with self.lock(), self._noting_damage():
            if self._door.shut:
                self._raise_shut()
            if rewrites:
                self._door.n_computed += 1
            yield self.ptr

    # -- computing

    def decode(self, batch: Batch, *, deadline: float | None = None) -> None:
        """Compute a batch and add it to the memory. Wraps ``llama_decode``.

        ``deadline`` is a :func:`time.monotonic` time after which the computation stops.
        Raises :class:`BatchError` for more than ``n_batch`` tokens (``n_ubatch`` where attention is not causal, and
        for embeddings pooled by mean or CLS, which need their tokens at once), unknown sequence ids and positions that
        do not follow the memory, :class:`TokenError` for ids outside the vocabulary, :class:`MemoryFullError` when
        there is no room (the memory is then as before), :class:`AbortedError` after :meth:`abort` or the deadline
        (whole micro-batches computed so far stay in memory), and :class:`DecodeError` for anything else.
        A signal handler that raises, as Ctrl-C does, stops the computation too; without the compiled helpers it runs,
        and a deadline is looked at, only when the computation is over.
        """
        if not self._decodes:
            raise UnsupportedError("this model has no decoder, or no memory for one; use encode()")
        self._compute(guard.decode, batch, deadline)

    def encode(self, batch: Batch, *, deadline: float | None = None) -> None:
        """Compute a batch without the memory, or with the encoder. Wraps ``llama_encode``; raises as decode.

        At most ``n_ubatch`` tokens, at positions that a model without memory was trained for: :class:`BatchError`.
        :class:`UnsupportedError` for a model that is only a decoder.
        """
        self._handle.ptr  # noqa: B018 - raises when closed
        if self._has_memory and not self.model.has_encoder:
            # llama.cpp would follow a null pointer.
            raise UnsupportedError("this model has no encoder; use decode()")
        n = batch.n_tokens
        if n > self.n_ubatch:
            raise BatchError(f"an encoder takes its {n} tokens at once; n_ubatch is {self.n_ubatch}")
        if n and not self._has_memory:
            # A learned position that is not there ends the process, on a thread that nothing guards.
            first, last, limit = batch.pos[:n].min(), batch.pos[:n].max(), self.model.n_ctx_train
            if first < 0 or last >= limit:
                bad = first if first < 0 else last
                raise BatchError(f"position {bad} is outside 0 to {limit - 1}, which this model was trained for")
        self._compute(guard.encode, batch, deadline)

    def stepper(self, selector: TokenSelector) -> Stepper:
        """A function of (token, pos, seq_id): it decodes one token of one sequence and returns the one to follow it.

        The same as :meth:`decode` of that one row and :meth:`TokenSelector.select`, in one native call; the row's
        logits stay readable. For the generation loop: after a decode the weights have pushed Python out of the caches,
        and every frame costs microseconds. It does not raise: a negative result is for :meth:`step_failed`. The caller
        keeps the context and the selector.
        """
        if not self._decodes:
            raise UnsupportedError("this model has no decoder, or no memory for one; use encode()")
        return self._step.bind(selector.native)

    def step_failed(self, result: int) -> NoReturn:
        """Raise what a negative result of a :meth:`stepper` means."""
        if result == SHUT:
            self._raise_shut()
        if result == STATUS:
            self._fail(self._step.status, self._single)
        with self._noting_damage():
            self._step.fail(result)

    def _compute(self, function: Any, batch: Batch, deadline: float | None) -> None:
        n = batch.n_tokens
        if not 0 < n <= self.n_together:
            if 0 < n <= self.n_batch:
                raise BatchError(f"attention or pooling needs the {n} tokens at once; n_ubatch is {self.n_ubatch}")
            raise BatchError(f"a batch must hold 1 to n_batch={self.n_batch} tokens, not {n}")
        batch.check()
        door, flag = self._door, self._abort
        with self.lock(), self._noting_damage():
            if door.shut:
                self._raise_shut()
            door.n_computed += 1
            self._last_batch = (door.n_computed, 0)
            flag.deadline = deadline
            flag.arm()
            door.computing = 1
            try:
                code = function(self.ptr, batch.ptr)
            finally:
                door.computing = 0
            if code != 0:
                self._fail(code, batch)
            self._last_batch = (door.n_computed, n)

    def _raise_shut(self) -> NoReturn:
        self._handle.ptr  # noqa: B018 - raises when closed
        raise ContextError(f"this Context is unusable since an earlier failure: {self._broken}")

    @contextmanager
    def _noting_damage(self) -> Iterator[None]:
        try:
            yield
        except NativeError as error:
            if error.message.partition(": ")[2].startswith("ggml"):
                # The assertion left ggml's scheduler in the middle of something; llama.cpp's own checks come before.
                self._broken = error.message
                self._door.shut = 1
            raise

    def _fail(self, code: int, batch: Batch) -> NoReturn:
        flag = self._abort
        exception = flag.take_exception()
        if exception is not None:
            raise exception
        if shutdown.begun():
            shutdown.refuse()
        lines = log.lines_since(log.call_mark())
        log.pump()
        if code == 1:
            raise MemoryFullError(
                f"no room for {batch.n_tokens} tokens in a memory of {self.n_ctx}", code=code, log=lines
            )
        if code == 2:
            expired = flag.expired
            flag.clear()
            raise AbortedError("the deadline has passed" if expired else "the decode was aborted")
        if code == -1:
            n = batch.n_tokens
            tokens, ids = batch.token[:n], batch.seq_id[:n]
            if tokens.min() < 0 or tokens.max() >= self.n_vocab:
                self.model.vocab.check_tokens(tokens)
                raise TokenError("a token is outside the vocabulary", log=lines)
            used = ids[np.arange(ids.shape[1]) < batch.n_seq_id[:n, None]]
            if used.size and (used.min() < 0 or used.max() >= self.n_seq_max):
                bad = int(used.min() if used.min() < 0 else used.max())
                raise BatchError(f"seq_id {bad} is outside 0 to {self.n_seq_max - 1} (n_seq_max={self.n_seq_max})")
            raise BatchError("llama.cpp refuses the batch", log=lines)
        raise DecodeError(f"llama.cpp failed with code {code}", code=code, log=lines)

    def abort(self) -> None:
        """Stop the decode that is running now, or the next one when none runs. Any thread may call it."""
        self._abort.set()

    def withdraw_abort(self) -> None:
        """Forget an :meth:`abort` that has stopped nothing, so that it does not stop the next decode."""
        self._abort.clear()

    def synchronize(self) -> None:
        """Wait for the device. Wraps ``llama_synchronize``."""
        with self.lock():
            lib.llama_synchronize(self.ptr)

    # -- changes to the weights

    @property
    def adapters(self) -> dict[LoraAdapter, float]:
        """The adapters that the context computes with, and their scales."""
        return dict(self._adapters)

    def set_adapters(self, adapters: Mapping[LoraAdapter, float]) -> None:
        """Compute with these adapters at these scales from now on, and with no others; ``{}`` is without.

        What is in memory stays as it was computed. A scale of 0 is the same as leaving the adapter out; a negative one
        takes it away from the weights. Raises :class:`AdapterError` for an adapter of another model and ``ValueError``
        for a scale that is no finite number. Wraps ``llama_set_adapters_lora``.
        """
        chosen = adapter_set(adapters, self.model)
        with self.lock():
            self._resources.adapters.replace(self.ptr, chosen)
            self._adapters = chosen

    def set_control_vector(self, vector: ControlVector | None, *, layers: range | None = None) -> None:
        """Add a control vector to what the layers put out from now on; None takes it away.

        ``layers`` are the layers to add it to, all from 1 on by default. What is in memory stays as it was computed.
        Raises :class:`AdapterError` for a vector of another width or with more layers than the model, and
        ``ValueError`` for layers that the model has not. Wraps ``llama_set_adapter_cvec``.
        """
        with self.lock():
            apply_control_vector(self.ptr, self.model, vector, layers)
            self.has_control_vector = vector is not None

    # -- results

    def logits(self, i: int = -1) -> NDArray[np.float32]:
        """A copy of the logits of batch row ``i``, float32 of shape ``(n_vocab,)``; negative counts from the end.

        Raises :class:`BatchError` for a row whose output was not asked for. Wraps ``llama_get_logits_ith``.
        """
        with self.lock():
            return copied(self._logits_row(i), self.n_vocab)

    def logits_view(self, i: int = -1) -> OutputView:
        """The same row without a copy; see :class:`OutputView`."""
        with self.lock():
            return OutputView(self, self._logits_row(i), self.n_vocab, self._door.n_computed)

    def _logits_row(self, i: int) -> Any:
        row = lib.llama_get_logits_ith(self._handle.ptr, i)
        if row == ffi.NULL:
            raise BatchError(f"row {i} has no logits: its output was not asked for in the last decode",
                             log=log.lines_since(log.call_mark()))  # fmt: skip
        return row

    @property
    def has_memory(self) -> bool:
        """Whether the context remembers what it decoded; one of an encoder alone has nothing to remember."""
        return self._has_memory

    @property
    def memory(self) -> Memory:
        """The context's memory. Raises :class:`UnsupportedError` for a model that keeps none."""
        self._handle.ptr  # noqa: B018 - raises when closed
        if not self._has_memory:
            raise UnsupportedError("this model keeps no memory")
        # Made anew: a view kept here would be a cycle, and a dropped context would wait for the collector.
        return Memory(self)

    @property
    def state(self) -> State:
        """What the memory holds, to be saved and restored. Raises :class:`UnsupportedError` as :attr:`memory`."""
        self.memory  # noqa: B018 - raises when closed, or when there is none
        return State(self)

    def set_threads(self, n_threads: int, n_threads_batch: int | None = None) -> None:
        """Change the number of threads for single tokens and for prompts. Wraps ``llama_set_n_threads``."""
        n_threads = thread_count("n_threads", n_threads, None)
        n_threads_batch = thread_count("n_threads_batch", n_threads_batch, n_threads)
        with self.lock():
            self._resources.attach_pools(self.ptr, n_threads, n_threads_batch)
            lib.llama_set_n_threads(self.ptr, n_threads, n_threads_batch)
            self.n_threads, self.n_threads_batch = n_threads, n_threads_batch

    @property
    def perf(self) -> ContextPerf:
        """Timings since the last reset; all zero with ``no_perf``. Wraps ``llama_perf_context``."""
        data = lib.llama_perf_context(self.ptr)
        return ContextPerf(data.t_load_ms, data.t_p_eval_ms, data.t_eval_ms, data.n_p_eval, data.n_eval, data.n_reused)

    def perf_reset(self) -> None:
        """Start the timings again. Wraps ``llama_perf_context_reset``."""
        lib.llama_perf_context_reset(self.ptr)


class _Resources:
    """What is freed with a ``llama_context``. Never refers to the Context: see Handle."""

    __slots__ = ("_borrows", "_gate", "_pools", "adapters")

    def __init__(self, gate: ExclusiveGate, lender: _Resources | None = None) -> None:
        self._gate = gate
        self.adapters = Attached()
        self._borrows = lender is not None
        self._pools: dict[int, Cell] = {} if lender is None else lender._pools

    def attach_pools(self, ptr: Any, n_threads: int, n_threads_batch: int) -> None:
        """Compute with one pool when both counts agree, otherwise with one for single tokens and one for prompts."""
        for count in (n_threads, n_threads_batch):
            make_pool(count, self._pools.setdefault(count, []))
        # Pools no longer used stay (asleep) until the context goes: the CPU backend pauses the one it had before.
        lib.llama_attach_threadpool(ptr, self._pools[n_threads][0], self._pools[n_threads_batch][0])

    def free(self, cell: Cell) -> None:
        self._gate.native.shut = 1
        guard.free("llama_free", cell)
        self.adapters.release()
        if not self._borrows:
            for pool in self._pools.values():
                free_pool(pool)


def _sizes(options: ContextOptions) -> tuple[int, int, int, int]:
    sizes = []
    for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max"):
        value = getattr(options, name)
        size = as_int(value)
        if size is None or not (0 if name == "n_ctx" else 1) <= size <= INT_MAX:
            raise ValueError(f"{name} must be a positive int, got {value!r}")
        sizes.append(size)
    n_ctx, n_batch, n_ubatch, n_seq_max = sizes
    limit = lib.llama_max_parallel_sequences()
    if n_seq_max > limit:
        raise ValueError(f"n_seq_max must be at most {limit}, got {n_seq_max}")
    if n_batch < n_seq_max:
        raise ValueError(
            f"n_batch must be at least n_seq_max={n_seq_max}, because each sequence needs a place in a batch, "
            f"got {n_batch}"
        )
    return n_ctx, n_batch, n_ubatch, n_seq_max


def _set_flash_attn(params: Any, value: FlashAttention) -> None:
    if binding.has("llama_context_params.flash_attn_type"):
        params.flash_attn_type = constant("flash_attn", value, _FLASH)
    elif choice("flash_attn", value, _FLASH) != _FLASH["auto"]:
        # The oldest releases know on and off, and choose nothing themselves.
        params.flash_attn = value == "enabled"


def _n_ctx_seq(ptr: Any, options: ContextOptions) -> int:
    if binding.has("llama_n_ctx_seq"):
        return int(lib.llama_n_ctx_seq(ptr))
    n_ctx: int = lib.llama_n_ctx(ptr)
    return n_ctx if options.kv_unified else n_ctx // lib.llama_n_seq_max(ptr)
