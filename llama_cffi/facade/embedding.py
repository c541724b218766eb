"""Texts as vectors, and what classifier heads say of them: embed, similarity, rerank, classify."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from llama_cffi.core.embeddings import PoolingType, check_pooling
from llama_cffi.errors import PromptError, TextTooLongError, TokenizeError, UnsupportedError
from llama_cffi.facade.base import Base
from llama_cffi.prompt.pairs import PairFormat

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.model import ProgressCallback
    from llama_cffi.core.vocab import Vocab
    from llama_cffi.engine.embedder import Embedder

Norm = Literal["l1", "l2"]
TextList = list[str] | tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What :meth:`Llama.embed` gives. numpy takes it for its :attr:`array`; it can be indexed and walked by text.

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
    """How the tokens of a text became one vector."""

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
    """A document and how well it fits a query."""

    index: int
    """Its place in the list that was given."""
    score: float
    """The first score of the model's classifier head, as llama-server reports it; only comparable within one model."""
    document: str


@dataclass(frozen=True)
class Label:
    """A class and the score that a text has for it."""

    index: int
    name: str
    """The model's name of the class, or ``LABEL_`` with its index where it has none."""
    score: float
    """The classifier head's number: a logit for most models, a probability where the model ends in a softmax."""


class Embedding(Base):
    """The embedding and classifying methods of a :class:`~llama_cffi.llama.Llama`."""

    def embed(
        self,
        texts: str | SequenceOf[str],
        *,
        normalize: bool | Norm = True,
        truncate: bool = False,
        pooling: PoolingType | None = None,
        prefix: str = "",
        progress: ProgressCallback | None = None,
    ) -> Embeddings:
        """Vectors of texts; a single text gives a single vector, a list an array of shape ``(n, dim)``.

        ``normalize`` makes the length of every vector 1 (True is ``"l2"``). ``pooling`` is ``"mean"``, ``"cls"``,
        ``"last"``, ``"none"`` for a vector of each token, or None for what the model was trained with (mean where its
        file does not say). ``prefix`` goes before every text: models trained with one for queries and one for
        documents want it here, because GGUF files do not tell it. Special tokens are the model's; what a text says
        of them stays text.

        A text may have as many tokens as are computed at once: ``n_batch`` for encoders (and no more than they were
        trained for), ``n_ubatch`` for decoders with mean or CLS pooling, the context for the others. A longer one
        raises :class:`TextTooLongError`, or loses its end with ``truncate``, but keeps its special tokens.
        Raises :class:`PromptError` for an empty list and an empty text, :class:`TokenizeError` for a text that is not
        Unicode, :class:`UnsupportedError` for a model that only ranks, ``ValueError`` for an unknown pooling.
        ``progress`` receives the part that is done, 0.0 to 1.0; what it raises ends the computation.

        The texts are computed together, by a context of their own that the first call makes: with the options of
        :attr:`context`, over the same weights, with the adapters of :meth:`set_adapters` and the control vector. An
        encoder on the CPU takes up to eight contexts, which share the threads. Any thread may call, also while others
        generate; Ctrl-C stops it.
        """
        norm = _norm(normalize)
        embedder = self._embedder(pooling)
        single = isinstance(texts, str)
        prompts = _texts(texts, "texts")
        tokens, truncated = self._tokenize(prompts, prefix, embedder.limit, truncate=truncate)
        array = self._vectors(embedder, tokens, progress)
        if norm is not None:
            _normalize(array, norm)
        if single and embedder.pooling != "none":
            array = array[0]
        return Embeddings(array, tuple(map(len, tokens)), truncated, embedder.pooling)

    @overload
    def similarity(
        self, a: str, b: str, *, truncate: bool = False, pooling: PoolingType | None = None, prefix: str = ""
    ) -> float: ...

    @overload
    def similarity(
        self, a: str, b: TextList, *, truncate: bool = False, pooling: PoolingType | None = None, prefix: str = ""
    ) -> NDArray[np.float32]: ...

    @overload
    def similarity(
        self,
        a: TextList,
        b: str | TextList,
        *,
        truncate: bool = False,
        pooling: PoolingType | None = None,
        prefix: str = "",
    ) -> NDArray[np.float32]: ...

    def similarity(
        self,
        a: str | TextList,
        b: str | TextList,
        *,
        truncate: bool = False,
        pooling: PoolingType | None = None,
        prefix: str = "",
    ) -> float | NDArray[np.float32]:
        """Cosine of the angle between the embeddings of two texts, -1 to 1.

        For lists an array: ``(len(a), len(b))`` for two of them, of one dimension for a list and a text.
        Raises as :meth:`embed`, and ``ValueError`` for ``pooling="none"``.
        """
        if self._embedder(pooling).pooling == "none":
            raise ValueError("similarity() compares whole texts: choose a pooling other than 'none'")
        first, second = _texts(a, "a"), _texts(b, "b")
        embedded = self.embed([*first, *second], truncate=truncate, pooling=pooling, prefix=prefix).array
        cosines: NDArray[np.float32] = embedded[: len(first)] @ embedded[len(first) :].T
        if isinstance(a, str):
            return float(cosines[0, 0]) if isinstance(b, str) else cosines.reshape(-1)
        return cosines.reshape(-1) if isinstance(b, str) else cosines

    def rerank(
        self,
        query: str,
        documents: SequenceOf[str],
        *,
        top_n: int | None = None,
        truncate: bool = False,
        progress: ProgressCallback | None = None,
    ) -> list[Ranked]:
        """The documents in the order of how well they fit the query, the best first; ``top_n`` of them.

        Query and document go into the model's own rerank template, or are joined as ``BOS query EOS SEP document EOS``
        by a model without one. A pair that is too long raises :class:`TextTooLongError`, or loses the end of its
        document with ``truncate``. ``progress`` is that of :meth:`embed`. Raises :class:`UnsupportedError` for a model
        without a classifier head, and as :meth:`embed`.
        """
        if top_n is not None and top_n < 1:
            raise ValueError(f"top_n must be at least 1, got {top_n}")
        embedder = self._ranker()
        if isinstance(documents, str):
            raise TypeError("documents must be a list of texts, not one text")
        found, asked = _texts(documents, "documents"), _texts(query, "query")[0]
        self.model.vocab.tokenize(asked)  # what is wrong with the query is not said of a document
        limit = embedder.limit
        tokens = []
        for i, document in enumerate(found):
            with _naming("document", i):
                tokens.append(self._pairs.encode(asked, document, limit if truncate else None))
            _check_length(tokens[i], "query and document", i, limit)
        scores = self._vectors(embedder, tokens, progress)[:, 0]
        order = np.argsort(-scores, kind="stable")[:top_n]
        return [Ranked(int(i), float(scores[i]), found[i]) for i in order]

    @overload
    def classify(self, texts: str, *, truncate: bool = False) -> list[Label]: ...

    @overload
    def classify(self, texts: TextList, *, truncate: bool = False) -> list[list[Label]]: ...

    def classify(self, texts: str | TextList, *, truncate: bool = False) -> list[Label] | list[list[Label]]:
        """All labels of the model with the score of a text, the highest first; a list of texts gives a list of these.

        Raises :class:`UnsupportedError` for a model without a classifier head, and as :meth:`embed`.
        """
        embedder = self._ranker()
        prompts = _texts(texts, "texts")
        tokens, _ = self._tokenize(prompts, "", embedder.limit, truncate=truncate)
        names = [self.model.cls_label(i) or f"LABEL_{i}" for i in range(self.model.n_cls_out)]
        scored = [
            [Label(int(i), names[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")]
            for scores in self._vectors(embedder, tokens)
        ]
        return scored[0] if isinstance(texts, str) else scored

    # -- inside

    def _vectors(
        self, embedder: Embedder, tokens: list[NDArray[np.int32]], progress: ProgressCallback | None = None
    ) -> NDArray[np.float32]:
        return embedder.run(tokens, conditioning=self._conditioning, progress=progress)

    def _embedder(self, pooling: PoolingType | None) -> Embedder:
        chosen = check_pooling(pooling) if pooling is not None else self.model.pooling or "mean"
        if chosen == "rank":
            if pooling is not None:
                raise ValueError('pooling="rank" gives scores, not embeddings: use rerank() or classify()')
            raise UnsupportedError("this model ranks and classifies; choose a pooling to embed with it nevertheless")
        return self._embedders.get(chosen)

    def _ranker(self) -> Embedder:
        return self._embedders.get("rank")

    @cached_property
    def _pairs(self) -> PairFormat:
        return PairFormat(self.model.vocab, self.model.chat_template("rerank"))

    def _tokenize(
        self, texts: list[str], prefix: str, limit: int, *, truncate: bool
    ) -> tuple[list[NDArray[np.int32]], tuple[bool, ...]]:
        vocab = self.model.vocab
        found: list[NDArray[np.int32]] = []
        truncated = []
        for i, text in enumerate(texts):
            with _naming("text", i):
                tokens = vocab.tokenize(prefix + text)
            if not len(tokens):
                raise PromptError(f"text {i} has no tokens, and this model puts none before a text")
            truncated.append(truncate and len(tokens) > limit)
            if truncated[-1]:
                tokens = _cut(tokens, limit, vocab)
            _check_length(tokens, "text", i, limit)
            found.append(tokens)
        return found, tuple(truncated)


@contextmanager
def _naming(what: str, index: int) -> Iterator[None]:
    """Say which text of a list it is that cannot be tokenised."""
    try:
        yield
    except TokenizeError as error:
        raise TokenizeError(f"{what} {index}: {error.message}", log=error.log) from None


def _texts(texts: str | SequenceOf[str], name: str) -> list[str]:
    found = [texts] if isinstance(texts, str) else texts
    if isinstance(found, bytes) or not isinstance(found, SequenceOf):
        raise TypeError(f"{name} must be a text or a list of texts, not {type(texts).__name__}")
    if not found:
        raise PromptError(f"{name} is an empty list")
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{i}] must be str, not {type(text).__name__}")
        if not text:
            raise PromptError(f"{name}[{i}] is an empty text" if found is texts else f"{name} is an empty text")
    return list(found)


def _check_length(tokens: NDArray[np.int32], what: str, i: int, limit: int) -> None:
    if len(tokens) > limit:
        raise TextTooLongError(
            f"{what} {i} has {len(tokens)} tokens; this model and context take {limit} at once",
            index=i,
            n_tokens=len(tokens),
            limit=limit,
        )


def _cut(tokens: NDArray[np.int32], limit: int, vocab: Vocab) -> NDArray[np.int32]:
    """The first tokens, and the special ones at the end."""
    special = 0
    while special < len(tokens) and vocab.is_control(int(tokens[-1 - special])):
        special += 1
    return np.concatenate([tokens[: max(0, limit - special)], tokens[len(tokens) - special :]])


def _norm(normalize: bool | Norm) -> Norm | None:
    if isinstance(normalize, bool):
        return "l2" if normalize else None
    if normalize not in ("l1", "l2"):
        raise ValueError(f"normalize must be True, False, 'l1' or 'l2', got {normalize!r}")
    return normalize


def _normalize(array: NDArray[np.float32], norm: Norm) -> None:
    """Divide every row by its length, in place; one of zeros stays."""
    lengths = np.linalg.norm(array, ord=1 if norm == "l1" else 2, axis=-1, keepdims=True)
    np.divide(array, lengths, out=array, where=lengths > 0)


__all__ = ["Embedding", "Embeddings", "Label", "Ranked"]
