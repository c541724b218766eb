"""The llguidance engine over a vocabulary of llama.cpp."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, ClassVar, NoReturn

import llguidance
import numpy as np

from llama_cffi._util.process_bound import ProcessBound
from llama_cffi._util.worker import with_stack
from llama_cffi.core.vocab import TokenAttr, Vocab, VocabType
from llama_cffi.errors import ClosedError, GrammarError, SchemaError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_BYTES = 4_000_000
"""Of the text of a grammar."""
MAX_PARTS = 100_000
"""Rules and alternatives together: the time to build a grammar grows with their square, and nothing interrupts it."""
_STACK, _STACK_PER_BYTE = 1 << 20, 256
"""Bytes of stack for building a grammar, which recurses by what leads to what; a rule that leads on takes 20 bytes."""

_CACHE_SIZE = 64
"""Compiled grammars kept for each vocabulary; one takes some 100 kB to some MB."""


@cache
def _limits() -> llguidance.LLParserLimits:
    """Bounds on what one text may cost: building a grammar takes a second or two at most, a mask some tens of ms.

    A row holds an item for each property that may come next, several times over; the default gives up at 500
    properties.
    """
    return llguidance.LLParserLimits(max_items_in_row=20_000, step_max_items=200_000, verbose_errors=False)


class _Source:
    """What LLTokenizer asks of a tokenizer."""

    def __init__(self, vocab: Vocab, pieces: list[bytes], special: list[int], eog: tuple[int, ...]) -> None:
        self.tokens = pieces
        self.special_token_ids = special
        self.bos_token_id = vocab.bos
        self.eos_token_id = eog[0]
        # The tokenizer lives as long as its vocabulary is used, and must not keep the model alive itself.
        self._vocab = weakref.ref(vocab)
        self._newline = vocab.tokenize("\n", add_special=False).tolist()
        self._ids: dict[bytes, int] = {}
        self._longest = 0
        self._failures = threading.local()

    def __call__(self, text: bytes | str) -> list[int]:
        # The engine does not survive an exception here: it is kept, and raised when the engine has returned.
        try:
            return self._tokens(text)
        except BaseException as error:
            self._failures.error = error
            return []

    def reraise(self) -> None:
        """Raise what a call of this thread should have raised."""
        error = getattr(self._failures, "error", None)
        if error is not None:
            self._failures.error = None
            raise error

    @property
    def vocab(self) -> Vocab:
        """The vocabulary; :class:`ClosedError` when it was freed."""
        vocab = self._vocab()
        if vocab is None:
            raise ClosedError("the vocabulary was freed")
        return vocab

    def _tokens(self, text: bytes | str) -> list[int]:
        vocab = self.vocab
        data = text if isinstance(text, bytes) else text.encode()
        tokens: list[int] = vocab.tokenize(data, add_special=False).tolist()
        if b"".join(self.tokens[token] for token in tokens) == data:
            return tokens
        # Some vocabularies put a blank before a text; behind a line break they do not.
        tokens = vocab.tokenize(b"\n" + data, add_special=False).tolist()[len(self._newline) :]
        if b"".join(self.tokens[token] for token in tokens) == data:
            return tokens
        # SentencePiece takes U+2581 for a blank: such a text is put together from the tokens that spell it.
        return self._spelled(data)

    def _spelled(self, data: bytes) -> list[int]:
        """Tokens of exactly these bytes, the longest first; as far as there are any."""
        if not self._ids:
            special = set(self.special_token_ids)
            self._ids = {piece: token for token, piece in enumerate(self.tokens) if piece and token not in special}
            self._longest = max(map(len, self._ids))
        tokens: list[int] = []
        place = 0
        while place < len(data):
            for length in range(min(self._longest, len(data) - place), 0, -1):
                token = self._ids.get(data[place : place + length])
                if token is not None:
                    tokens.append(token)
                    place += length
                    break
            else:
                break
        return tokens


class GuidanceTokenizer:
    """A vocabulary as the engine sees it: made once for each vocabulary by :meth:`of`, and holding its grammars.

    Control tokens are never part of a text; every token that ends a generation ends one here. Raises
    :class:`SchemaError` for a model without a tokenizer, and for one that has no token to end with.
    """

    _made: ClassVar[weakref.WeakKeyDictionary[Vocab, GuidanceTokenizer]] = weakref.WeakKeyDictionary()

    def __init__(self, vocab: Vocab) -> None:
        if vocab.type is VocabType.NONE:
            raise SchemaError("this model has no tokenizer, which a constraint needs")
        eog = vocab.eog_tokens
        if not eog:
            raise SchemaError("this model has no token that ends a generation, which a constraint needs")
        special = np.flatnonzero(vocab.attrs() & int(TokenAttr.CONTROL | TokenAttr.UNKNOWN)).tolist()
        self.n_tokens = vocab.n_tokens
        self.eog = frozenset(eog)
        self.source = source = _Source(vocab, vocab.pieces(), special, eog)
        #: Keeps the interpreter from ending inside of the engine, which does not survive it.
        self.gate = vocab.gate
        with self.gate, _engine("the engine cannot use this vocabulary", source):
            self.native = llguidance.LLTokenizer(
                llguidance.TokenizerWrapper(source), n_vocab=vocab.n_tokens, eos_token=list(eog)
            )
        self._grammars: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()

    @classmethod
    def of(cls, vocab: Vocab) -> GuidanceTokenizer:
        """Return the tokenizer of a vocabulary; takes about 0.4 s for 128,000 tokens the first time."""
        found = cls._made.get(vocab)
        if found is None:
            found = cls._made[vocab] = cls(vocab)
        return found

    def compile(self, grammar: str) -> llguidance.LLMatcher:
        """Return the matcher of a grammar at its beginning, to be copied; :class:`SchemaError` with the engine's
        words."""
        found = self._grammars.get(grammar)
        if found is None:
            _check_size(grammar)
            try:
                found = with_stack(_STACK + _STACK_PER_BYTE * len(grammar), partial(self._build, grammar))
            except MemoryError as error:
                raise SchemaError(f"the grammar is too large: {error}") from None
            if found.is_error():
                raise SchemaError(f"the grammar engine refuses the schema: {_first_lines(found.get_error())}")
            self._grammars[grammar] = found
            while len(self._grammars) > _CACHE_SIZE:
                self._grammars.popitem(last=False)
        self._grammars.move_to_end(grammar)
        return found

    def _build(self, grammar: str) -> llguidance.LLMatcher:
        # Not before the thread that builds: inside the gate, it could not go in a second time when the model is closed.
        with self.gate, _engine("the grammar engine refuses the schema", self.source):
            return llguidance.LLMatcher(self.native, grammar, log_level=0, limits=_limits())

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text, as the vocabulary cuts it; :class:`ClosedError` when that is closed."""
        with self.gate, _engine("the engine cannot read the text", self.source):
            return list(self.native.tokenize_bytes(text.encode()))

    def forget(self, grammar: str) -> None:
        """Compile a grammar anew when it is asked for next: what failed never serves again."""
        self._grammars.pop(grammar, None)


class GuidanceConstraint(ProcessBound):
    """A grammar of llguidance, compiled for a vocabulary: Lark text, or the JSON text of a list of grammars.

    With ``now=False`` it is compiled when the first matcher is made: a grammar that becomes part of another one need
    not be compiled for itself. Raises :class:`SchemaError` when it does not compile, or is too large.
    """

    _instead_of_pickling = "send the text of the grammar, and compile it in each process"

    def __init__(self, vocab: Vocab, grammar: str, *, now: bool = True) -> None:
        if "\0" in grammar:
            raise SchemaError("the grammar holds a NUL character")
        try:
            grammar.encode()
        except UnicodeEncodeError as error:
            raise SchemaError(f"the grammar holds a lone surrogate at index {error.start}") from None
        self.grammar = grammar
        self._tokenizer = GuidanceTokenizer.of(vocab)
        self._pristine: llguidance.LLMatcher | None = self._tokenizer.compile(grammar) if now else None

    def start(self) -> GuidanceMatcher:
        """Return a matcher for the beginning of a text."""
        if self._pristine is None:
            self._pristine = self._tokenizer.compile(self.grammar)
        with _engine("the grammar engine refuses the schema", self._tokenizer.source):
            return GuidanceMatcher(self._pristine.deep_copy(), self._tokenizer, self._forget)

    def _forget(self) -> None:
        self._pristine = None
        self._tokenizer.forget(self.grammar)

    def recipe(self) -> tuple[Callable[..., GuidanceConstraint], tuple[Vocab, str]]:
        """Return what makes the same constraint over the same vocabulary in another process."""
        return GuidanceConstraint, (self._tokenizer.source.vocab, self.grammar)

    def __repr__(self) -> str:
        return f"GuidanceConstraint({self.grammar[:60]!r})"


class GuidanceMatcher:
    """One text under a :class:`GuidanceConstraint`."""

    __slots__ = ("_address", "_eog", "_failed", "_gate", "_mask", "_native", "_size", "_try")

    def __init__(
        self, native: llguidance.LLMatcher, tokenizer: GuidanceTokenizer, failed: Callable[[], None] | None = None
    ) -> None:
        self._native: llguidance.LLMatcher | None = native
        self._failed = failed
        self._try = native.try_consume_tokens
        self._eog = tokenizer.eog
        self._gate = tokenizer.gate
        self._mask: NDArray[np.uint32] = np.zeros((tokenizer.n_tokens + 31) // 32, dtype=np.uint32)
        self._address = self._mask.ctypes.data
        self._size = self._mask.nbytes

    def accept(self, token: int) -> bool:
        """Advance by a token that was chosen; False when it is not allowed here, and then nothing has changed.

        Raises :class:`GrammarError` when the constraint has become too complex to go on.
        """
        if token in self._eog:
            # The engine would take an end as the last token, and then nothing more; for us it is no part of the text.
            return self.complete
        try:
            if self._try([token]):
                return True
        except BaseException as error:
            self._panicked(error)
        self._check(self._open())
        return False

    def mask(self) -> NDArray[np.uint32]:
        """Return the tokens allowed here: bit ``t % 32`` of word ``t // 32``; written again by the next call.

        Raises :class:`GrammarError` when nothing is allowed, and when the constraint is too complex to go on.
        """
        native = self._open()
        try:
            with self._gate:
                native.unsafe_compute_mask_ptr(self._address, self._size)
        except BaseException as error:
            self._panicked(error)
        self._check(native)
        if not self._mask.any():
            raise GrammarError("the constraint allows no token at this place")
        return self._mask

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        native = self._open()
        try:
            return native.is_accepting()
        except BaseException as error:
            self._panicked(error)

    @property
    def ended(self) -> bool:
        """Whether the text is complete and nothing can follow."""
        native = self._open()
        try:
            return native.is_stopped() and native.is_accepting()
        except BaseException as error:
            self._panicked(error)

    def close(self) -> None:
        """Give back what is held. Idempotent."""
        self._native = None
        self._try = _closed

    def _check(self, native: llguidance.LLMatcher) -> None:
        if native.is_error():
            self._spoil()
            raise GrammarError(f"the constraint cannot go on: {_first_lines(native.get_error())}")

    def _panicked(self, error: BaseException) -> NoReturn:
        if not _is_panic(error):
            raise error
        self._spoil()
        self.close()
        raise GrammarError(f"the constraint cannot go on: {_first_lines(str(error))}") from None

    def _spoil(self) -> None:
        if self._failed is not None:
            self._failed()

    def _open(self) -> llguidance.LLMatcher:
        if self._native is None:
            raise ClosedError("the matcher is closed")
        return self._native


def _check_size(grammar: str) -> None:
    if len(grammar) > MAX_BYTES:
        raise SchemaError(f"the grammar has {len(grammar)} bytes; at most {MAX_BYTES} are taken")
    parts = grammar.count("|") + grammar.count("\n") + grammar.count("\\n")  # also as JSON has it
    if parts > MAX_PARTS:
        raise SchemaError(f"the grammar has {parts} rules and alternatives; at most {MAX_PARTS} are taken")


def _is_panic(error: BaseException) -> bool:
    """Whether it is what Rust code raises that gives up, which is no Exception and cannot be imported."""
    return type(error).__name__ == "PanicException"


@contextmanager
def _engine(what: str, source: _Source) -> Iterator[None]:
    """Turn a panic of the engine into :class:`SchemaError`, and raise what the vocabulary has raised meanwhile."""
    try:
        yield
        source.reraise()
    except BaseException as error:
        if not _is_panic(error):
            raise
        raise SchemaError(f"{what}: {_first_lines(str(error))}") from None


def _closed(tokens: object) -> int:
    raise ClosedError("the matcher is closed")


def _first_lines(text: str) -> str:
    lines = [line.strip() for line in text.partition("<backtrace>")[0].splitlines() if line.strip()]
    return "; ".join(lines[:3])[:400]


__all__ = ["GuidanceConstraint", "GuidanceMatcher", "GuidanceTokenizer"]
