"""A context: memory, compute buffers and threads for one stream of decodes over a Model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import NoneType
from typing import Any, NoReturn

from llama_cffi._native import ffi, guard, lib, log
from llama_cffi._native.abort import AbortFlag
from llama_cffi._native.gate import ExclusiveGate
from llama_cffi._native.handle import Handle
from llama_cffi._native.step import SHUT, STATUS, Step
from llama_cffi._native.turn import STOPPED
from llama_cffi._util.shown import shown
from llama_cffi.core.adapter import AdapterSet, LoraAdapter, adapter_set
from llama_cffi.core.batch import Batch
from llama_cffi.core.context_access import ContextAccess
from llama_cffi.core.context_failures import ContextFailures
from llama_cffi.core.context_limits import check_classifier, keep_windows_whole, read_causal_attn, read_limits
from llama_cffi.core.context_options import ContextOptions, native_params
from llama_cffi.core.context_resources import ContextResources
from llama_cffi.core.context_threads import ContextThreads, place
from llama_cffi.core.control_vector import ControlVector, apply_control_vector
from llama_cffi.core.draft_layers import check_alone
from llama_cffi.core.embedding_batch import EmbeddingBatch
from llama_cffi.core.embeddings import POOLING_TYPES, PoolingType
from llama_cffi.core.graph_reuse import after_control_vector, notices_changes, reuse_where_safe, unseen_change
from llama_cffi.core.memory import Memory
from llama_cffi.core.memory_breakdown import output_row_bytes
from llama_cffi.core.model import Model
from llama_cffi.core.outputs import Outputs
from llama_cffi.core.selection import TokenSelector
from llama_cffi.core.state import State
from llama_cffi.core.watch import Stepper, Watch, watched
from llama_cffi.errors import BatchError, ContextError, NativeError, UnsupportedError


class Context(ContextFailures):
    """A context that decodes batches with a :class:`~llama_cffi.core.model.Model` and keeps their sequences in memory.

    One thread at a time may use it: in a second one every method except :meth:`abort` raises :class:`BusyError`.
    Contexts with threads for more than half of the CPUs compute in turns, with the same threads; one with
    ``own_threads`` does not. With ``threads_of`` it computes with the threads of another context, which closes it; the
    caller holds the other one's :meth:`lock` around every decode. Raises :class:`ContextError` with llama.cpp's reason
    when the context cannot be created. Wraps ``llama_init_from_model``.
    """

    _instead_of_pickling = "open the model and a Context in each process; SavedState carries what one remembers"
    _instead_of_copying = "create another Context(model, options); a SavedState has the memory of one"

    _decode_width = _encode_width = 0  # numbers beside each token of a batch

    watch: Watch | None = None
    """Called with each batch after its decode, by the thread that holds the context."""

    def __init__(
        self,
        model: Model,
        options: ContextOptions | None = None,
        *,
        threads_of: Context | None = None,
        own_threads: bool = False,
    ) -> None:
        if not isinstance(model, Model):
            raise TypeError(f"model must be a Model, got {shown(model)}")
        for name, value, kind in (("options", options, ContextOptions), ("threads_of", threads_of, Context)):
            if not isinstance(value, (kind, NoneType)):
                raise TypeError(f"{name} must be {kind.__name__} or None, got {shown(value)}")
        self.model, self.options = model, (options := options or ContextOptions())
        if model.options.vocab_only:
            raise ContextError(f"{model.path} was loaded with vocab_only: it has no weights to compute with")
        if options.embeddings and (options.pooling or model.pooling) == "rank":
            check_classifier(model)
        self._abort = AbortFlag()
        params = native_params(options)
        self._amend(params)
        keep_windows_whole(params, model)
        params.abort_callback = ffi.cast("ggml_abort_callback", self._abort.callback)
        params.abort_callback_data = self._abort.data
        lender = threads_of._threads if threads_of is not None else None
        self._threads = threads = ContextThreads(model, options, lender, own=own_threads)
        self.n_threads, self.n_threads_batch = params.n_threads, params.n_threads_batch = threads.n
        self._gate = gate = ExclusiveGate("Context", self._abort.set)
        self._resources: ContextResources = ContextResources(gate, threads)
        parents = (model.handle,) if threads_of is None else (model.handle, threads_of.handle)
        self._notices_changes = notices_changes()
        with model.gate, gate, reuse_where_safe(model.options.devices):
            # One owner for the context, its thread pools and its abort flag: they go together, in this order.
            self._handle = handle = Handle("Context", self._resources.free, parents, gate)
            mark = log.mark()
            try:
                ptr = guard.init_from_model(model.ptr, params, handle.cell)
                log.pump()
                if ptr == ffi.NULL:
                    raise ContextError("cannot create a context", log=log.lines_since(mark))
                self._output_rows = output_row_bytes(mark)
                threads.attach(ptr)
                self._limits = limits = read_limits(ptr, options, mark)
                self._decodes = limits.has_memory and model.has_decoder
                self._causal_attn = read_causal_attn(ptr, model, options)
                pooling = POOLING_TYPES[max(0, lib.llama_pooling_type(ptr))]
                self.n_together: int = limits.tokens_at_once(pooling, options.embeddings, causal_attn=self._causal_attn)
                """Most tokens of one decode: ``n_batch``, or ``n_ubatch`` where they are needed at once."""
                handle.open(ptr)
            except BaseException as error:
                handle.release()
                if isinstance(error, NativeError):
                    raise ContextError(f"cannot create a context: {error.message}", log=error.log) from error
                raise
            self._make_views(pooling)
        self._door = gate.native
        self._adapters: AdapterSet = ()
        self._control_vector = None, None
        self.has_control_vector = False
        """Whether :meth:`set_control_vector` has set one."""
        self.has_memory = limits.has_memory
        """Whether the context keeps decoded tokens in memory; the context of an encoder has no memory."""
        self.n_ctx: int = limits.n_ctx
        self._n_positions = model.n_ctx_train if model.has_learned_positions or not limits.has_memory else 0
        most = self._n_positions if limits.has_memory else 0
        self.n_ctx_seq: int = min(limits.n_ctx_seq, most or limits.n_ctx_seq)
        self.n_batch: int = limits.n_batch
        self.n_ubatch: int = limits.n_ubatch
        self.n_seq_max: int = limits.n_seq_max
        self.n_rs_seq: int = limits.n_rs_seq
        """Tokens of the last decode that :meth:`Memory.seq_rm` can remove where layers are recurrent."""
        self.n_vocab: int = model.vocab.n_tokens
        self._single = Batch(1)
        self._single.single(0, 0, 0)
        self._step = Step(ptr, self._single.ptr, self._abort, gate, self.n_vocab, threads.turn)

    def _amend(self, params: Any) -> None:
        """Change nothing in the ``llama_context_params`` of the options."""
        check_alone(self.model)

    def _make_views(self, pooling: PoolingType) -> None:
        # None of them refers to this object, which is therefore freed as soon as it is dropped.
        model = self.model
        self._access = access = ContextAccess(self._handle, self._gate, self._limits.n_seq_max, self._abort)
        self.outputs = Outputs(
            access,
            n_vocab=model.vocab.n_tokens,
            n_embd=model.n_embd_out,
            n_embd_seq=model.n_cls_out if pooling == "rank" else model.n_embd_out,
            pooling=pooling,
            embeddings_enabled=self.options.embeddings,
        )
        """Logits and embeddings of the last decode or encode."""
        if self._limits.has_memory:
            self._memory = Memory(access, self._limits)
            self._state = State(access, model, self._memory)

    # -- lifetime

    def close(self) -> None:
        """Stop a decode that runs on another thread, then free the context. May be called repeatedly."""
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

    @property
    def access(self) -> ContextAccess:
        """What native code that decodes with this context goes through."""
        return self._access

    # -- computing

    def decode(self, batch: Batch | EmbeddingBatch, *, deadline: float | None = None) -> None:
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
        self._compute(guard.decode, batch, deadline, self._decode_width)

    def encode(self, batch: Batch, *, deadline: float | None = None) -> None:
        """Compute a batch without the memory, or with the encoder. Wraps ``llama_encode``; raises as decode.

        At most ``n_ubatch`` tokens, at positions that a model without memory was trained for: :class:`BatchError`.
        :class:`UnsupportedError` for a model that is only a decoder.
        """
        self._handle.ptr  # noqa: B018 - raises when closed
        if self.has_memory and not self.model.has_encoder:
            # llama.cpp would follow a null pointer.
            raise UnsupportedError("this model has no encoder; use decode()")
        if isinstance(batch, Batch) and batch.n_tokens > self.n_ubatch:
            raise BatchError(f"an encoder takes its {batch.n_tokens} tokens at once; n_ubatch is {self.n_ubatch}")
        self._compute(guard.encode, batch, deadline, self._encode_width)

    def stepper(self, selector: TokenSelector) -> Stepper:
        """Return a function of (token, pos, seq_id): it decodes one token of one sequence and returns the one to follow
        it.

        The same as :meth:`decode` of that one row and :meth:`TokenSelector.select`, in one native call; the row's
        logits stay readable. For the generation loop: after a decode the weights have pushed Python out of the caches,
        and every frame costs microseconds. It does not raise: a negative result is for :meth:`step_failed`. The caller
        keeps the context and the selector.
        """
        if not self._decodes:
            raise UnsupportedError("this model has no decoder, or no memory for one; use encode()")
        step = place(self._step.bind(selector.native), self._threads.placed(batch=False))
        return step if self.watch is None else watched(step, self.lock, self.watch, self._single)

    def step_failed(self, result: int) -> NoReturn:
        """Raise what a negative result of a :meth:`stepper` means."""
        if result == SHUT:
            self._access.raise_unusable()
        if result in (STATUS, STOPPED):
            self._fail(self._step.status if result == STATUS else STOPPED, self._single)
        try:
            self._step.fail(result)
        except NativeError as error:
            self._fail_native(error)

    def _compute(self, function: Any, batch: Batch | EmbeddingBatch, deadline: float | None, width: int) -> None:
        if not isinstance(batch, (Batch, EmbeddingBatch)):
            raise TypeError(f"batch must be a Batch, got {shown(batch)}")
        n = batch.n_tokens
        if not 0 < n <= self.n_together:
            if 0 < n <= self.n_batch:
                raise BatchError(f"attention or pooling needs the {n} tokens at once; n_ubatch is {self.n_ubatch}")
            raise BatchError(f"a batch must hold 1 to n_batch={self.n_batch} tokens, not {n}")
        batch.check(width) if isinstance(batch, Batch) else batch.check_model(self.model)
        if self._n_positions:
            batch.check_positions(self._n_positions)
        door, flag, outputs, threads = self._door, self._abort, self.outputs, self._threads
        with self.lock():
            if door.shut:
                self._access.raise_unusable()
            door.n_computed += 1
            outputs.last_batch = (door.n_computed, 0)
            flag.deadline = deadline
            flag.arm()
            door.computing = 1
            try:
                code = place(function, threads.placed(batch=n > 1))(self._handle.ptr, batch.ptr, threads.turn, flag)
            except NativeError as error:
                self._fail_native(error)
            finally:
                door.computing = 0
            if code != 0:
                self._fail(code, batch)
            outputs.last_batch = (door.n_computed, n)
            if self.watch is not None:
                self.watch(batch)

    def abort(self) -> None:
        """Stop the running decode, or the next one when none runs. Any thread may call it."""
        self._abort.set()

    def withdraw_abort(self) -> None:
        """Withdraw an :meth:`abort` that has not stopped a decode, so that it does not stop the next one."""
        self._abort.clear()

    def synchronize(self) -> None:
        """Wait for the device. Wraps ``llama_synchronize``."""
        with self.lock():
            lib.llama_synchronize(self.ptr)

    # -- changes to the weights

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

    # -- embeddings

    @property
    def pooling(self) -> PoolingType:
        """The pooling of embeddings of a sequence; "none" keeps one for each token. Wraps ``llama_pooling_type``."""
        return self.outputs.pooling

    @property
    def n_embd_seq(self) -> int:
        """Numbers in a pooled embedding: scores with rank pooling, else the output width of the model."""
        return self.outputs.n_embd_seq

    @property
    def embeddings_enabled(self) -> bool:
        """Whether the next decode or encode computes embeddings."""
        return self.outputs.embeddings_enabled

    def set_embeddings(self, value: bool) -> None:
        """Turn the embeddings of later decodes and encodes on or off. Wraps ``llama_set_embeddings``.

        Every token of a batch is an output row then. Raises :class:`ContextError` when mean or CLS pooling meets
        several sequences with ``kv_unified=False``, and for ``n_seq_max`` above ``n_ubatch``;
        :class:`UnsupportedError` for rank pooling without a head.
        """
        if value and self.pooling == "rank":
            check_classifier(self.model)
        with self.lock():
            limit = self._limits.tokens_at_once(self.pooling, value, causal_attn=self._causal_attn)
            lib.llama_set_embeddings(self.ptr, value)
            self.outputs.embeddings_enabled, self.n_together = value, limit

    @property
    def causal_attn(self) -> bool:
        """Whether a token attends only to the tokens before it."""
        return self._causal_attn

    def set_causal_attn(self, value: bool) -> None:
        """Let tokens attend only to those before them, or to all of their sequence. Wraps ``llama_set_causal_attn``.

        Without causal attention a batch must fit ``n_ubatch``. Raises :class:`ContextError` as :meth:`set_embeddings`.
        """
        with self.lock():
            limit = self._limits.tokens_at_once(self.pooling, self.embeddings_enabled, causal_attn=value)
            lib.llama_set_causal_attn(self.ptr, value)
            self._causal_attn, self.n_together = value, limit

    # -- views

    @property
    def memory(self) -> Memory:
        """The context's memory. Raises :class:`UnsupportedError` for a model without memory."""
        self._handle.ptr  # noqa: B018 - raises when closed
        if not self.has_memory:
            raise UnsupportedError("this model has no memory")
        return self._memory

    @property
    def state(self) -> State:
        """The content of the memory, to be saved and restored. Raises the errors of :attr:`memory`."""
        self.memory  # noqa: B018 - raises when closed, or when there is none
        return self._state

    # -- threads

    def set_threads(self, n_threads: int, n_threads_batch: int | None = None) -> None:
        """Change the number of threads for single tokens and for prompts. Wraps ``llama_set_n_threads``."""
        with self.lock():
            self._threads.set(self.ptr, n_threads, n_threads_batch)
            self.n_threads, self.n_threads_batch = self._threads.n

    def lower_threads(self, limit: int | None, why: str | None = None) -> None:
        """Compute with at most ``limit`` threads for a while, because of ``why``; None ends that."""
        with self.lock():
            self._threads.lower(self.ptr, limit, None if limit is None else why)


__all__ = ["Context", "ContextOptions", "Stepper"]
