"""The chain that runs samplers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._native import atomic, ffi, guard, lib, sampler_interface
from llama_cffi._native.atomic import Cell
from llama_cffi._native.gate import ExclusiveGate
from llama_cffi._native.handle import Handle
from llama_cffi._util.scalars import as_int
from llama_cffi._util.shown import shown
from llama_cffi.core.native_object import NativeObject
from llama_cffi.core.sampler.adaptive_draws import AdaptiveDraws
from llama_cffi.core.sampler.base import Sampler
from llama_cffi.core.sampler.grammar import Grammar, LazyGrammar
from llama_cffi.core.sampler.python import Link, PythonSampler, Workspace
from llama_cffi.core.sampler.selecting import AdaptiveP
from llama_cffi.core.sampler.shaping import LogitBias
from llama_cffi.errors import GrammarError, NativeError, SamplerError, TokenError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.context import Context
    from llama_cffi.core.vocab import Vocab


class SamplerChain(NativeObject):
    """Samplers run in order over one row of logits. Wraps ``llama_sampler_chain_*``.

    Raises :class:`SamplerError` for an empty chain and for one that does not end in a selecting sampler, and what
    the samplers raise for their parameters. One thread at a time: a second one inside any method gets
    :class:`BusyError`. The chain belongs to the vocabulary's model and is closed with it.
    """

    _instead_of_pickling = "send its samplers, and create a chain of them in each process"
    _instead_of_copying = "use clone()"

    def __init__(self, samplers: Iterable[Sampler], vocab: Vocab) -> None:
        if not isinstance(samplers, Iterable):
            raise TypeError(f"samplers must be Sampler objects, got {shown(samplers)}")
        if not hasattr(vocab, "check_tokens"):  # not isinstance: its module is above this one
            raise TypeError(f"vocab must be a Vocab, got {shown(vocab)}")
        steps = tuple(samplers)
        for step in steps:
            if not isinstance(step, Sampler):
                raise SamplerError(f"a chain must consist of Sampler objects, got {shown(step)}")
        if not steps or not steps[-1].selects:
            raise SamplerError(
                "a chain must end in a sampler that selects a token (Greedy or Dist, for example), "
                f"not in {steps[-1] if steps else 'nothing'}"
            )
        self._make(steps, vocab, lambda i, cell: steps[i].create(vocab, cell))

    def _make(self, steps: tuple[Sampler, ...], vocab: Vocab, create: Callable[[int, Cell], None]) -> None:
        """Fill the object; ``create`` makes the native side of the step at an index, in a cell, unless it is Python."""
        self.samplers = steps
        self.vocab = vocab
        self._gate = ExclusiveGate("SamplerChain")
        self._workspace = Workspace()
        self._adaptive = {i: AdaptiveDraws() for i, step in enumerate(steps) if isinstance(step, AdaptiveP)}
        # Step by step, what Python raises and what is forbidden is known before anything is accepted, and draws are
        # counted.
        self._in_steps = any(
            isinstance(step, (PythonSampler, AdaptiveP)) or (isinstance(step, LogitBias) and step.forbids)
            for step in steps
        )
        # The Python side of steps: the native side knows the address of a handle, which must live as long.
        self._links: list[Link] = []
        self._link_handles: list[Any] = []
        with vocab.gate, self._gate:
            self._handle = handle = Handle(
                "SamplerChain", partial(guard.free, "llama_sampler_free"), (vocab.handle,), self._gate
            )
            cell: Cell = []
            try:
                atomic.keep(handle.cell, lib.llama_sampler_chain_init, lib.llama_sampler_chain_default_params())
                chain = handle.cell[0]
                for i, step in enumerate(steps):
                    if isinstance(step, PythonSampler):
                        self._create_python(step, cell)
                    else:
                        create(i, cell)
                    guard.sampler_chain_add(chain, cell)
                handle.open(chain)
            except BaseException:
                guard.free("llama_sampler_free", cell)
                handle.release()
                for link in self._links:
                    link.release()
                raise
        for link in self._links:
            link.belongs_to(self._handle)

    def _create_python(self, sampler: PythonSampler, cell: Cell) -> None:
        link = Link(sampler, self._workspace)
        self._links.append(link)
        self._link_handles.append(sampler_interface.new_handle(link))
        sampler_interface.new_sampler(self._link_handles[-1], cell)

    def __len__(self) -> int:
        return len(self.samplers)

    def __repr__(self) -> str:
        return f"SamplerChain({list(self.samplers)!r})"

    def sample(self, context: Context, i: int = -1) -> int:
        """Select a token from row ``i`` of the last decode **and accept it**. Wraps ``llama_sampler_sample``.

        Do not call :meth:`accept` for it: grammar and penalties would advance twice. Raises :class:`BatchError`
        for a row without logits, :class:`GrammarError` when the grammar allows no token, :class:`SamplerError` for
        NaN among the logits or nothing above -inf, also behind a :class:`LogitBias`, and what a :class:`PythonSampler`
        raises: then nothing is accepted.
        """
        if not hasattr(context, "outputs"):
            raise TypeError(f"context must be a Context, got {shown(context)}")
        with context.lock(), self._gate:
            row = context.outputs.logits_row(i)
            logits = np.frombuffer(ffi.buffer(row, 4 * context.n_vocab), dtype=np.float32)
            _check_logits(logits)
            if self._in_steps:
                token = self._select(logits)
                self._accept(token)
                return token
            try:
                return guard.sampler_sample(self._handle.ptr, context.handle.ptr, i)
            except NativeError as error:
                raise self._error("the chain could not select a token", error) from error

    def select(self, logits: NDArray[np.float32]) -> int:
        """Select a token from a row of logits, float32 of shape ``(n_vocab,)``, without accepting it.

        Raises :class:`SamplerError` for NaN, and where the row or the chain forbids every token.
        """
        row = _as_row(logits)
        _check_logits(row)
        with self._gate:
            return self._select(row)

    def _select(self, logits: NDArray[np.float32]) -> int:
        left, selected = self._apply(logits)
        # A sampler written in Python may select what it likes.
        if left["logit"][selected] == -np.inf and not isinstance(self.samplers[-1], PythonSampler):
            raise SamplerError(
                f"every token is forbidden: each of the {len(left)} that the samplers left has a logit of -inf"
            )
        return int(left["id"][selected])

    def apply(
        self, logits: NDArray[np.float32], *, ids: NDArray[np.int32] | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], int]:
        """Run the chain over logits without accepting.

        Takes float32 of shape ``(n,)``, of the tokens ``ids`` or of the first n, and returns the remaining
        candidates in the chain's order: ids, logits, and the index of the selected one. Raises
        :class:`SamplerError` for NaN or nothing above -inf, and what a :class:`PythonSampler` raises.
        Wraps ``llama_sampler_apply``.
        """
        row = _as_row(logits)
        if row.ndim != 1 or not row.size or row.size > self.vocab.n_tokens:
            raise SamplerError(f"logits must have shape (n,) with 1 to {self.vocab.n_tokens} values, not {row.shape}")
        _check_logits(row)
        tokens = None if ids is None else self.vocab.check_tokens(ids)
        with self._gate:
            left, selected = self._apply(row, tokens)
            return left["id"].copy(), left["logit"].copy(), selected

    def _apply(self, logits: NDArray[np.float32], ids: NDArray[np.int32] | None = None) -> tuple[NDArray[Any], int]:
        """The candidates left, as a view, and the index of the selected one."""
        array = self._workspace.fill(logits, ids)
        try:
            if self._adaptive:
                for i in range(len(self.samplers)):
                    native, draws = lib.llama_sampler_chain_get(self.ptr, i), self._adaptive.get(i)
                    if draws is None:
                        guard.sampler_apply(native, array)
                    else:
                        draws.apply(native, array, self._workspace)
            else:
                guard.sampler_apply(self.ptr, array)
        except NativeError as error:
            self._workspace.reraise()
            raise self._error("the chain failed", error) from error
        self._workspace.reraise()
        if not 0 <= array.selected < array.size:
            raise SamplerError(f"the chain selected none of the {array.size} candidates that it left")
        return self._workspace.left(), int(array.selected)

    def accept(self, token: int) -> None:
        """Accept a token that was chosen without the chain. Wraps ``llama_sampler_accept``.

        Raises :class:`TokenError` outside the vocabulary and :class:`GrammarError` when the grammar forbids it;
        the chain must be :meth:`reset` then. What a :class:`PythonSampler` raises comes after all other samplers have
        accepted.
        """
        self._check_token(token)
        with self._gate:
            self._accept(token)

    def accept_prompt(self, tokens: Sequence[int] | NDArray[np.int32]) -> None:
        """Accept a prompt's tokens in the samplers that use them: penalties, DRY and samplers written in Python.

        They are not passed to a grammar, which begins with the generated text. Raises :class:`TokenError` outside the
        vocabulary, and what a :class:`PythonSampler` raises.
        """
        prompt = self.vocab.check_tokens(tokens).tolist()
        with self._gate:
            for i, step in enumerate(self.samplers):
                if step.history:
                    native = lib.llama_sampler_chain_get(self.ptr, i)
                    for token in prompt[-step.history :]:
                        guard.sampler_accept(native, token)
            self._workspace.reraise()

    def _check_token(self, token: int) -> None:
        if (number := as_int(token)) is None:
            raise TokenError(f"a token must be an int, got {shown(token)}")
        if not 0 <= number < self.vocab.n_tokens:
            raise TokenError(f"token {token} is outside the vocabulary of {self.vocab.n_tokens} tokens")

    def _accept(self, token: int) -> None:
        try:
            guard.sampler_accept(self.ptr, token)
        except NativeError as error:
            self._workspace.reraise()
            raise self._error(f"the chain cannot accept token {token}", error) from error
        for draws in self._adaptive.values():
            draws.accepted()
        self._workspace.reraise()

    def reset(self) -> None:
        """Return every sampler to its first state. Wraps ``llama_sampler_reset``."""
        with self._gate:
            guard.sampler_reset(self.ptr)
            for draws in self._adaptive.values():
                draws.reset()
            self._workspace.reraise()

    def clone(self) -> SamplerChain:
        """Return a chain with the same samplers in the same state. Wraps ``llama_sampler_clone``.

        Raises :class:`SamplerError` for a :class:`PythonSampler` without ``clone()``. With :class:`AdaptiveP` the copy
        repeats all draws of the original, which llama.cpp's own clone does not do: about two microseconds for each
        token.
        """
        twin = object.__new__(SamplerChain)
        adaptive: dict[int, AdaptiveDraws] = {}
        with self._gate:
            ptr = self.ptr

            def create(i: int, cell: Cell) -> None:
                native = lib.llama_sampler_chain_get(ptr, i)
                if i in self._adaptive:
                    adaptive[i] = self._adaptive[i].clone(native, cell)
                else:
                    guard.sampler_clone(native, cell)

            steps = tuple(_clone_python(step) if isinstance(step, PythonSampler) else step for step in self.samplers)
            twin._make(steps, self.vocab, create)
        twin._adaptive = adaptive
        return twin

    def _error(self, message: str, error: NativeError) -> SamplerError:
        lazy_or_not = (Grammar, LazyGrammar)
        kind = GrammarError if any(isinstance(step, lazy_or_not) for step in self.samplers) else SamplerError
        return kind(f"{message}: {error.message}", log=error.log)


def _clone_python(sampler: PythonSampler) -> PythonSampler:
    twin = sampler.clone()
    if not isinstance(twin, PythonSampler):
        raise SamplerError(f"{type(sampler).__name__}.clone() must return a PythonSampler, not {twin!r}")
    return twin


def _as_row(logits: Any) -> NDArray[np.float32]:
    try:
        row: NDArray[np.float32] = np.asarray(logits, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise SamplerError(f"logits must be an array of float32: {error}") from None
    if not row.size:
        raise SamplerError(f"logits must have shape (n,), not {row.shape}")
    return row


def _check_logits(logits: NDArray[np.float32]) -> None:
    top = logits.max()
    if np.isnan(top):
        raise SamplerError(f"the logits hold NaN, first at index {int(np.isnan(logits).argmax())}")
    if top == -np.inf:
        raise SamplerError("every logit is -inf: there is no token to choose")


__all__ = ["SamplerChain"]
