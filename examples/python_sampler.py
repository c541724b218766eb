"""A sampler in Python: no word twice, except the short ones."""

from __future__ import annotations

import numpy as np

from llama_cffi import Llama, Vocab
from llama_cffi.samplers import Candidates, Dist, PythonSampler, Temperature, TopK


class NoWordTwice(PythonSampler):
    def __init__(self, vocab: Vocab) -> None:
        self.long = np.array([len(vocab.piece(token).strip()) > 3 for token in range(vocab.n_tokens)])
        self.used = np.zeros(vocab.n_tokens, dtype=bool)

    def apply(self, candidates: Candidates) -> None:
        candidates.logits[self.used[candidates.ids]] = -np.inf

    def accept(self, token: int) -> None:
        self.used[token] = self.long[token]

    def reset(self) -> None:
        self.used[:] = False


with Llama.demo() as llm:
    mine = NoWordTwice(llm.model.vocab)
    print(llm.generate("Once upon a time", max_tokens=60, samplers=(mine, TopK(40), Temperature(0.8), Dist(seed=3))))
