"""The results of embedding, reranking and classification."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.embeddings import PoolingType


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The result of :meth:`Llama.embed`. numpy uses its :attr:`array`; indexing and iteration are by text.

    For a list of texts the array is of shape ``(n, dim)``, for a single text ``(dim,)``. With ``pooling="none"`` it has
    a row for each token, those of a text after those of the text before; ``embeddings[i]`` is then the block of one
    text, of shape ``(n_tokens[i], dim)``.
    """

    array: NDArray[np.float32]
    """float32; see above for its shape."""
    n_tokens: tuple[int, ...]
    """Tokens that were computed for each text, special ones included."""
    truncated: tuple[bool, ...]
    """Whether the end of each text was cut off."""
    pooling: PoolingType
    """The pooling of the tokens of a text."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = self.array if dtype is None else self.array.astype(dtype, copy=False)
        return array.copy() if copy else array

    def __len__(self) -> int:
        return len(self.n_tokens)

    def __getitem__(self, i: int) -> NDArray[np.float32]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"text {i} of {len(self)}")
        if self.pooling == "none":
            start = sum(self.n_tokens[: i % len(self)])
            return self.array[start : start + self.n_tokens[i]]
        row: NDArray[np.float32] = self.array.reshape(len(self), -1)[i]
        return row

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True)
class Ranked:
    """A document with the score of its relevance to a query."""

    index: int
    """Its index in the list of documents."""
    score: float
    """The first score of the model's classifier head, as llama-server reports it; only comparable within one model."""
    document: str
    n_tokens: int = 0
    """Tokens that were computed for it, those of the query and special ones included."""


@dataclass(frozen=True)
class Label:
    """A class and the score that a text has for it."""

    index: int
    name: str
    """The model's name of the class, or ``LABEL_`` and its index if it has no name."""
    score: float
    """The output of the classifier head: a logit for most models, a probability if the model ends in a softmax."""


def normalize(array: NDArray[np.float32], norm: Literal["l1", "l2"]) -> None:
    """Divide every row by its length, in place; one of zeros stays."""
    lengths = np.linalg.norm(array, ord=1 if norm == "l1" else 2, axis=-1, keepdims=True)
    np.divide(array, lengths, out=array, where=lengths > 0)


def ranked(
    scores: NDArray[np.float32], documents: Sequence[str], n_tokens: Sequence[int], top_n: int | None
) -> list[Ranked]:
    """Return documents, for each of which this many tokens were computed, in the order of their scores, best first."""
    order = np.argsort(-scores, kind="stable")[:top_n]
    return [Ranked(int(i), float(scores[i]), documents[i], n_tokens[i]) for i in order]


def labeled(scores: NDArray[np.float32], names: list[str]) -> list[Label]:
    """Return the labels of one text with their scores, the highest first."""
    return [Label(int(i), names[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")]


__all__ = ["Embeddings", "Label", "Ranked", "labeled", "normalize", "ranked"]
