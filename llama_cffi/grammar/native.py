"""llama.cpp's own grammar sampler as a constraint."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from llama_cffi._util.process_bound import ProcessBound
from llama_cffi.core.sampler import Grammar, Greedy, SamplerChain
from llama_cffi.errors import GrammarError, SchemaError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.vocab import Vocab


class NativeConstraint(ProcessBound):
    """A GBNF grammar in llama.cpp. Raises :class:`SchemaError` with the parser's words when it does not parse."""

    _instead_of_pickling = "send the text of the grammar, and compile it in each process"

    def __init__(self, vocab: Vocab, text: str, root: str = "root") -> None:
        self._text, self._root = text, root
        try:
            self._pristine = grammar_chain(vocab, text, root)
        except GrammarError as error:
            raise SchemaError(error.message, log=error.log) from error

    def start(self) -> NativeMatcher:
        """Return a matcher for the beginning of a text."""
        return NativeMatcher(self._pristine.clone())

    def recipe(self) -> tuple[Callable[..., NativeConstraint], tuple[Vocab, str, str]]:
        """Return what makes the same constraint over the same vocabulary in another process."""
        return NativeConstraint, (self._pristine.vocab, self._text, self._root)


class NativeMatcher:
    """One text under a :class:`NativeConstraint`. Testing a token is cheap, a mask takes milliseconds."""

    __slots__ = ("_chain", "_eog", "_one", "_row", "_words")

    #: The grammar says that nothing can follow only through an end-of-generation token: to find out earlier would take
    #: a mask for every token.
    ended = False

    def __init__(self, chain: SamplerChain) -> None:
        self._chain = chain
        self._eog = np.array(chain.vocab.eog_tokens, dtype=np.int32)
        self._one = np.zeros(1, dtype=np.int32)
        self._row: NDArray[np.float32] | None = None
        n_words = (chain.vocab.n_tokens + 31) // 32
        self._words: NDArray[np.uint32] = np.zeros(n_words, dtype="<u4")

    def accept(self, token: int) -> bool:
        """Advance by a token that was chosen; False when it is not allowed here, and then nothing has changed."""
        self._one[0] = token
        if not self._allowed(self._one).any():
            return False
        if token not in self._eog:
            self._chain.accept(token)
        return True

    def mask(self) -> NDArray[np.uint32]:
        """Return the tokens allowed here: bit ``t % 32`` of word ``t // 32``; written again by the next call.

        Raises :class:`GrammarError` when nothing is allowed.
        """
        if self._row is None:
            self._row = np.zeros(self._chain.vocab.n_tokens, dtype=np.float32)
        ids, logits, _ = self._chain.apply(self._row)
        bits = np.zeros(self._words.size * 32, dtype=np.uint8)
        bits[ids[np.isfinite(logits)]] = 1
        self._words[:] = np.packbits(bits, bitorder="little").view("<u4")
        if not self._words.any():
            raise GrammarError("the grammar allows no token at this place")
        return self._words

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return bool(self._allowed(self._eog).any())

    def close(self) -> None:
        """Free the chain. Idempotent."""
        self._chain.close()

    def _allowed(self, tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
        _, logits, _ = self._chain.apply(np.zeros(tokens.size, dtype=np.float32), ids=tokens)
        return np.isfinite(logits)


def grammar_chain(vocab: Vocab, text: str, root: str) -> SamplerChain:
    """Return what :class:`NativeMatcher` asks. Raises :class:`GrammarError` with the parser's words."""
    # Greedy only makes the chain complete; what it selects is not used.
    return SamplerChain((Grammar(text, root), Greedy()), vocab)


__all__ = ["NativeConstraint", "NativeMatcher", "grammar_chain"]
