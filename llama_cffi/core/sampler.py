"""Samplers as values, and the chain that runs them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from llama_cffi._native import ffi, guard, lib, log, stderr
from llama_cffi._native.gate import ExclusiveGate
from llama_cffi._native.handle import Handle
from llama_cffi.core.options import call_named
from llama_cffi.core.seed import check_seed
from llama_cffi.errors import GrammarError, NativeError, SamplerError, TokenError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.context import Context
    from llama_cffi.core.vocab import Vocab


class Sampler(ABC):
    """One step of a :class:`SamplerChain`: a frozen value; the chain makes the native object."""

    selects: ClassVar[bool] = False
    """Whether the step selects a token; a chain must end in one that does."""

    @abstractmethod
    def create(self, vocab: Vocab) -> Any:
        """A new ``llama_sampler *``, owned by the caller."""


@dataclass(frozen=True)
class Greedy(Sampler):
    """Select the token with the largest logit. Wraps ``llama_sampler_init_greedy``."""

    selects: ClassVar[bool] = True

    def create(self, vocab: Vocab) -> Any:
        return lib.llama_sampler_init_greedy()


@dataclass(frozen=True)
class Dist(Sampler):
    """Draw a token from the distribution. Wraps ``llama_sampler_init_dist``."""

    seed: int

    selects: ClassVar[bool] = True

    def create(self, vocab: Vocab) -> Any:
        return lib.llama_sampler_init_dist(check_seed(self.seed))


@dataclass(frozen=True)
class TopK(Sampler):
    """Keep the k largest logits; k <= 0 keeps all. Wraps ``llama_sampler_init_top_k``."""

    k: int

    def create(self, vocab: Vocab) -> Any:
        return lib.llama_sampler_init_top_k(max(-1, min(self.k, 2**31 - 1)))


@dataclass(frozen=True)
class TopP(Sampler):
    """Keep the smallest set of tokens whose probability reaches p. Wraps ``llama_sampler_init_top_p``."""

    p: float
    min_keep: int = 1

    def create(self, vocab: Vocab) -> Any:
        return lib.llama_sampler_init_top_p(_probability("top_p", self.p), _min_keep(self.min_keep))


@dataclass(frozen=True)
class MinP(Sampler):
    """Keep tokens at least p times as likely as the likeliest. Wraps ``llama_sampler_init_min_p``."""

    p: float
    min_keep: int = 1

    def create(self, vocab: Vocab) -> Any:
        return lib.llama_sampler_init_min_p(_probability("min_p", self.p), _min_keep(self.min_keep))


@dataclass(frozen=True)
class Temperature(Sampler):
    """Divide the logits by t; t <= 0 keeps only the largest. Wraps ``llama_sampler_init_temp``."""

    t: float

    def create(self, vocab: Vocab) -> Any:
        return lib.llama_sampler_init_temp(_finite("temperature", self.t))


@dataclass(frozen=True)
class Penalties(Sampler):
    """Make recently accepted tokens less likely. Wraps ``llama_sampler_init_penalties``."""

    last_n: int = 64
    """How many accepted tokens count; 0 disables."""
    repeat: float = 1.0
    """Divides positive and multiplies negative logits; 1.0 disables."""
    freq: float = 0.0
    """Subtracted once for each occurrence."""
    present: float = 0.0
    """Subtracted once for any occurrence."""

    def create(self, vocab: Vocab) -> Any:
        if not 0 <= self.last_n < 2**31:
            raise SamplerError(f"penalty_last_n must not be negative, got {self.last_n}")
        if not (_finite("penalty_repeat", self.repeat) > 0):
            raise SamplerError(f"penalty_repeat must be above 0, got {self.repeat}")
        freq, present = _finite("penalty_freq", self.freq), _finite("penalty_present", self.present)
        return call_named(
            "llama_sampler_init_penalties",
            n_vocab=vocab.n_tokens,
            penalty_last_n=self.last_n,
            penalty_repeat=self.repeat,
            penalty_freq=freq,
            penalty_present=present,
        )


@dataclass(frozen=True)
class LogitBias(Sampler):
    """Add to the logits of some tokens; ``-inf`` forbids one. Wraps ``llama_sampler_init_logit_bias``."""

    bias: Mapping[int, float] = field(default_factory=dict)

    def create(self, vocab: Vocab) -> Any:
        entries = ffi.new("llama_logit_bias[]", len(self.bias))
        for entry, (token, bias) in zip(entries, self.bias.items(), strict=True):
            if not 0 <= token < vocab.n_tokens:
                raise TokenError(f"logit_bias: token {token} is outside the vocabulary of {vocab.n_tokens} tokens")
            if math.isnan(bias) or bias == math.inf:
                raise SamplerError(f"logit_bias[{token}] must be a number or -inf, got {bias}")
            entry.token, entry.bias = token, bias
        return lib.llama_sampler_init_logit_bias(vocab.n_tokens, len(self.bias), entries)


@dataclass(frozen=True)
class Grammar(Sampler):
    """Allow only what a GBNF grammar derives. Wraps ``llama_sampler_init_grammar``.

    Raises :class:`GrammarError` with the parser's words when the text does not parse.
    """

    text: str
    root: str = "root"

    def create(self, vocab: Vocab) -> Any:
        for name, value in (("grammar", self.text), ("root", self.root)):
            if "\0" in value:
                raise GrammarError(f"the {name} holds a NUL character")
            if not value.strip():
                raise GrammarError(f"the {name} is empty")
        text, root = _utf8(self.text), _utf8(self.root)
        mark = log.mark()
        try:
            # The parser prints the place of an error instead of logging it.
            with stderr.captured() as printed:
                ptr = guard.call_ptr("llama_sampler_init_grammar", vocab.ptr, text, root)
        except NativeError as error:
            raise GrammarError(f"the grammar cannot be used: {error.message}", log=error.log) from error
        if ptr == ffi.NULL:
            reasons = [line for line in printed.text.splitlines() if line.strip()]
            raise GrammarError("the grammar does not parse", log=(*reasons, *log.lines_since(mark)))
        printed.forward()
        return ptr


class SamplerChain:
    """Samplers run in order over one row of logits. Wraps ``llama_sampler_chain_*``.

    Raises :class:`SamplerError` for an empty chain and for one that does not end in a selecting sampler, and what
    the samplers raise for their parameters. One thread at a time: a second one inside any method gets
    :class:`BusyError`. The chain belongs to the vocabulary's model and is closed with it.
    """

    def __init__(self, samplers: Iterable[Sampler], vocab: Vocab) -> None:
        steps = tuple(samplers)
        if not steps or not steps[-1].selects:
            raise SamplerError(
                "a chain must end in a sampler that selects a token (Greedy or Dist), "
                f"not in {steps[-1] if steps else 'nothing'}"
            )
        self.samplers = steps
        self.vocab = vocab
        self._gate = ExclusiveGate("SamplerChain")
        with vocab.gate:
            chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
            try:
                for step in steps:
                    lib.llama_sampler_chain_add(chain, step.create(vocab))
                # Last: from here on a closing model frees the chain.
                self._handle = Handle("SamplerChain", chain, lib.llama_sampler_free, (vocab.handle,), self._gate)
            except BaseException:
                lib.llama_sampler_free(chain)
                raise

    @property
    def ptr(self) -> Any:
        """The ``llama_sampler *``; :class:`ClosedError` after close."""
        return self._handle.ptr

    @property
    def closed(self) -> bool:
        """Whether the chain is closed."""
        return self._handle.closed

    def close(self) -> None:
        """Free the chain. Idempotent."""
        self._handle.close()

    def __enter__(self) -> SamplerChain:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.samplers)

    def __repr__(self) -> str:
        return f"SamplerChain({list(self.samplers)!r})"

    def sample(self, context: Context, i: int = -1) -> int:
        """Select a token from row ``i`` of the last decode **and accept it**. Wraps ``llama_sampler_sample``.

        Do not call :meth:`accept` for it: grammar and penalties would advance twice. Raises :class:`BatchError`
        for a row without logits, :class:`GrammarError` when the grammar allows no token.
        """
        with context.lock(), self._gate:
            context._logits_row(i)
            try:
                return guard.sampler_sample(self.ptr, context.ptr, i)
            except NativeError as error:
                raise self._error("the chain could not select a token", error) from error

    def apply(
        self, logits: NDArray[np.float32], *, ids: NDArray[np.int32] | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], int]:
        """Run the chain over logits without accepting.

        Takes float32 of shape ``(n,)``, of the tokens ``ids`` or of the first n, and returns the remaining
        candidates in the chain's order: ids, logits, and the index of the selected one.
        Wraps ``llama_sampler_apply``.
        """
        row = np.asarray(logits, dtype=np.float32)
        if row.ndim != 1 or not row.size or row.size > self.vocab.n_tokens:
            raise SamplerError(f"logits must have shape (n,) with 1 to {self.vocab.n_tokens} values, not {row.shape}")
        candidates = np.zeros(row.size, dtype=_CANDIDATE)
        candidates["id"] = np.arange(row.size) if ids is None else self.vocab.check_tokens(ids)
        candidates["logit"] = row
        native = ffi.new("llama_token_data_array *")
        native.data = ffi.cast("llama_token_data *", ffi.from_buffer(candidates))
        native.size, native.selected = row.size, -1
        with self._gate:
            try:
                guard.sampler_apply(self.ptr, native)
            except NativeError as error:
                raise self._error("the chain failed", error) from error
            # The chain may have put its own array there.
            result = np.frombuffer(ffi.buffer(native.data, int(native.size) * _CANDIDATE.itemsize), dtype=_CANDIDATE)
            return result["id"].copy(), result["logit"].copy(), int(native.selected)

    def accept(self, token: int) -> None:
        """Tell the chain that a token was chosen elsewhere. Wraps ``llama_sampler_accept``.

        Raises :class:`TokenError` outside the vocabulary and :class:`GrammarError` when the grammar forbids it;
        the chain must be :meth:`reset` then.
        """
        if not 0 <= token < self.vocab.n_tokens:
            raise TokenError(f"token {token} is outside the vocabulary of {self.vocab.n_tokens} tokens")
        try:
            with self._gate:
                guard.sampler_accept(self.ptr, token)
        except NativeError as error:
            raise self._error(f"the chain cannot accept token {token}", error) from error

    def reset(self) -> None:
        """Return every sampler to its first state. Wraps ``llama_sampler_reset``."""
        with self._gate:
            guard.sampler_reset(self.ptr)

    def clone(self) -> SamplerChain:
        """A chain with the same samplers in the same state. Wraps ``llama_sampler_clone``."""
        twin = object.__new__(SamplerChain)
        twin.samplers, twin.vocab = self.samplers, self.vocab
        twin._gate = ExclusiveGate("SamplerChain")
        with self._gate:
            ptr = guard.sampler_clone(self.ptr)
            twin._handle = Handle("SamplerChain", ptr, lib.llama_sampler_free, (self.vocab.handle,), twin._gate)
        return twin

    def _error(self, message: str, error: NativeError) -> SamplerError:
        kind = GrammarError if any(isinstance(step, Grammar) for step in self.samplers) else SamplerError
        return kind(f"{message}: {error.message}", log=error.log)


_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise SamplerError(f"{name} must be a finite number, got {value}")
    return value


def _probability(name: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise SamplerError(f"{name} must be between 0 and 1, got {value}")
    return value


def _min_keep(value: int) -> int:
    if value < 0:
        raise SamplerError(f"min_keep must not be negative, got {value}")
    return value


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise GrammarError(f"the grammar holds a lone surrogate at index {error.start}") from None


__all__ = [
    "Dist",
    "Grammar",
    "Greedy",
    "LogitBias",
    "MinP",
    "Penalties",
    "Sampler",
    "SamplerChain",
    "Temperature",
    "TopK",
    "TopP",
]
