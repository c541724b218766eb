"""A GBNF grammar that llama.cpp's own sampler enforces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llama_cffi.core.sampler import Grammar, Greedy, SamplerChain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.vocab import Vocab


class GrammarMatcher:
    """The state of one text under a :class:`~llama_cffi.core.sampler.Grammar`; see :class:`Matcher`."""

    __slots__ = ("_chain", "_eog", "_n_words", "_zeros")

    #: The grammar says only through an end-of-generation token that nothing can follow.
    ended = False

    def __init__(self, vocab: Vocab, grammar: Grammar) -> None:
        # Greedy only makes the chain complete; what it selects is not used.
        self._chain = SamplerChain((grammar, Greedy()), vocab)
        self._zeros = np.zeros(vocab.n_tokens, dtype=np.float32)
        self._n_words = (vocab.n_tokens + 31) // 32
        self._eog = vocab.eot if vocab.eos is None else vocab.eos

    def accept(self, token: int) -> bool:
        if not self._allows(token):
            return False
        self._chain.accept(token)
        return True

    def _allows(self, token: int) -> bool:
        _, verdict, _ = self._chain.apply(_ZERO, ids=np.array([token], dtype=np.int32))
        return bool(verdict[0] == 0)

    def mask(self) -> NDArray[np.uint32]:
        ids, verdict, _ = self._chain.apply(self._zeros)
        allowed = np.zeros(32 * self._n_words, dtype=np.uint8)
        allowed[ids[verdict == 0]] = 1
        return np.packbits(allowed, bitorder="little").view(np.uint32)

    @property
    def complete(self) -> bool:
        return self._eog is not None and self._allows(self._eog)

    def close(self) -> None:
        self._chain.close()


_ZERO = np.zeros(1, dtype=np.float32)


__all__ = ["GrammarMatcher"]
