"""A query and a document as the token sequence that a reranking model was trained on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from llama_cffi.core.vocab import Vocab

_PLACES = re.compile(r"\{(query|document)\}")


class PairFormat:
    """The format of a model's pairs: its rerank template, or ``BOS query EOS SEP document EOS`` without one.

    Of these special tokens the ones that the model adds to a text. ``template`` has ``{query}`` and ``{document}``;
    what it says of control tokens is meant, what query and document say stays text.
    """

    def __init__(self, vocab: Vocab, template: str | None) -> None:
        self._vocab = vocab
        self._runs: list[str] | None = None
        if template is not None:
            self._controls = vocab.control_tokens
            names = "|".join(map(re.escape, sorted(self._controls, key=len, reverse=True)))
            # Odd runs are control tokens. llama.cpp cuts a text there too, so that the cut changes nothing.
            self._runs = re.split(f"({names})", template) if names else [template]

    def encode(self, query: str, document: str, limit: int | None = None) -> NDArray[np.int32]:
        """Token ids of a pair, int32 of shape ``(n,)``; with ``limit``, the document's end is cut off to fit.

        Longer than the limit is what even without its document does not fit.
        """
        encode = self._by_template if self._runs is not None else self._by_special_tokens
        tokens = encode(query, document)
        return tokens if limit is None or len(tokens) <= limit else self._cut(encode, query, document, limit)

    def _cut(
        self, encode: Callable[[str, str], NDArray[np.int32]], query: str, document: str, limit: int
    ) -> NDArray[np.int32]:
        vocab = self._vocab
        inside = vocab.tokenize(document, add_special=False)
        keep = max(0, limit - (len(encode(query, document)) - len(inside)))
        while True:
            # As text, because a cut may merge otherwise with what the template puts behind it.
            kept = vocab.detokenize(inside[:keep]).decode("utf-8", "ignore")
            tokens = encode(query, kept)
            if len(tokens) <= limit or not keep:
                return tokens
            keep -= 1

    def _by_template(self, query: str, document: str) -> NDArray[np.int32]:
        vocab = self._vocab
        texts = {"query": query, "document": document}
        found: list[NDArray[np.int32]] = []
        for i, run in enumerate(self._runs or ()):
            if i % 2:
                found.append(np.array([self._controls[run]], dtype=np.int32))
            elif run:
                filled = _PLACES.sub(lambda place: texts[place[1]], run)
                found.append(vocab.tokenize(filled, add_special=False))
        return np.concatenate(found) if found else np.empty(0, dtype=np.int32)

    def _by_special_tokens(self, query: str, document: str) -> NDArray[np.int32]:
        vocab = self._vocab
        end = vocab.eos if vocab.eos is not None else vocab.sep
        ends = [end] if vocab.add_eos else []
        parts: list[Iterable[int | None]] = [
            [vocab.bos] if vocab.add_bos else [],
            vocab.tokenize(query, add_special=False),
            [*ends, vocab.sep] if vocab.add_sep else ends,
            vocab.tokenize(document, add_special=False),
            ends,
        ]
        return np.concatenate([np.array([t for t in part if t is not None], dtype=np.int32) for part in parts])


__all__ = ["PairFormat"]
